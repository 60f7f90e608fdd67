//! What must never be told, and where nobody may find it: the keys and bearers of all tests, and those that a process was
//! given itself, in every output of every gateway and command that any of them starts.
use std::fs;
use std::path::Path;

use super::{DISABLED_KEY, KEY, SECOND_KEY, UNKNOWN_KEY, show};

/// The secrets that gateways here are given, and what every bearer of the metadata server's begins with.
pub(crate) const SECRETS: [&str; 5] = [KEY, SECOND_KEY, DISABLED_KEY, UNKNOWN_KEY, "ya29."];

/// The forms in which a secret could leave: as it is, with the last part cut off, in base64, in hexadecimal.
fn forms(secret: &str) -> Vec<String> {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD_NO_PAD;
    let mut forms = vec![secret.to_owned()];
    if secret.len() >= 20 {
        // All keys of the tests differ in these; of shorter parts nobody could make a key.
        forms.push(secret[..18].to_owned());
        // Whole groups of three bytes, so that what stands behind it does not matter.
        forms.push(STANDARD_NO_PAD.encode(&secret[..secret.len() / 3 * 3]));
        forms.push(secret.bytes().map(|byte| format!("{byte:02x}")).collect());
    }
    forms
}

/// Fails if one of `secrets` stands in `text`, in whatever case.
#[track_caller]
pub(crate) fn assert_none_of(secrets: &[&str], text: impl AsRef<[u8]>, place: &str) {
    let text = String::from_utf8_lossy(text.as_ref()).to_lowercase();
    for secret in secrets {
        for form in forms(secret) {
            let line = text.lines().find(|line| line.contains(&form.to_lowercase()));
            assert!(line.is_none(), "{place}: {secret} is told: {}", show(line.unwrap_or_default()));
        }
    }
}

/// The same of the secrets that all tests share.
#[track_caller]
pub(crate) fn assert_kept(text: impl AsRef<[u8]>, place: &str) {
    assert_none_of(&SECRETS, text, place);
}

/// The keys in what one process is given: its environment, a file of keys that this names, its stdin.
#[derive(Debug, Default)]
pub(crate) struct Given(Vec<String>);

impl Given {
    pub(crate) fn of<'a>(environment: impl IntoIterator<Item = (&'a str, &'a str)>, input: &str) -> Self {
        let mut given = Self(keys_in(input).collect());
        for (name, value) in environment {
            given.0.extend(keys_in(value));
            // A pipe can be read once, and not by this.
            if name == "API_KEYS_FILE" && Path::new(value).is_file() {
                given.0.extend(keys_in(&fs::read_to_string(value).unwrap_or_default()));
            }
        }
        given
    }

    /// Fails if one of these, or a secret that all tests share, stands in `text`.
    #[track_caller]
    pub(crate) fn assert_kept(&self, text: impl AsRef<[u8]>, place: &str) {
        assert_kept(&text, place);
        assert_none_of(&self.0.iter().map(String::as_str).collect::<Vec<_>>(), text, place);
    }
}

/// The words of a text that look like issued keys.
fn keys_in(text: &str) -> impl Iterator<Item = String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '_' | '-'));
    words.filter(|word| word.starts_with("sk_live_") && word.len() >= 20).map(str::to_owned)
}

/// Everybody on a machine can read these of every process: its arguments and the names of its threads.
pub(crate) fn command_lines(pid: u32) -> Vec<u8> {
    let mut lines = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        lines.push(b'\n');
        lines.extend(fs::read(task.path().join("comm")).unwrap_or_default());
    }
    lines
}

/// Fails if a secret that all tests share stands on a command line.
#[track_caller]
pub(crate) fn assert_not_on_command_lines(pid: u32) {
    assert_kept(command_lines(pid), "the command line");
}
