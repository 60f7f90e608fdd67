//! What must never be told, and where nobody may find it: the keys and bearers of all tests, in every output of every
//! gateway that any of them starts.
use std::fs;

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
