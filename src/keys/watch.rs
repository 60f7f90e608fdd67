//! The keys file while the gateway runs: read again every two seconds, taken up when it has changed.
//!
//! By reading, since that sees what a notification may not: a mounted secret is replaced behind a link, and some
//! volumes ask for it only when it is read. A thread of its own does it, so that a slow volume stops nobody.

use super::entry::KeyList;
use super::file;
use super::table::Keys;
use crate::log::{Log, Severity};
use crate::models::Models;
use aws_lc_rs::digest;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

/// Between two looks at the file.
const INTERVAL: Duration = Duration::from_secs(2);
/// Problems of a broken file that one log line tells.
const TOLD_PROBLEMS: usize = 5;

/// The file that the keys came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeysFile {
    path: PathBuf,
    in_use: ContentDigest,
}

type ContentDigest = [u8; digest::SHA256_OUTPUT_LEN];

impl KeysFile {
    /// A file with the content that is in use.
    #[must_use]
    pub fn new(path: PathBuf, content: &str) -> Self {
        Self { path, in_use: digest_of(content) }
    }
}

/// What a look at the file has shown.
#[derive(Debug, PartialEq, Eq)]
enum Look {
    Content(ContentDigest),
    Unreadable(String),
}

/// The file as it was when it was last looked at.
struct Watcher {
    file: KeysFile,
    last: Look,
    keys: Arc<Keys>,
    models: Arc<Models>,
    log: Log,
}

/// Follows the file until the process ends. A pipe is not followed: what it had to say it has said.
///
/// # Errors
/// When no thread can be started.
pub fn watch(file: KeysFile, keys: Arc<Keys>, models: Arc<Models>, log: Log) -> std::io::Result<()> {
    if file.path.metadata().is_ok_and(|metadata| !metadata.is_file()) {
        log.event(Severity::Info, "API_KEYS_FILE is not a regular file: the keys stay as they are until a restart");
        return Ok(());
    }
    let mut watcher = Watcher { last: Look::Content(file.in_use), file, keys, models, log };
    let look_on = move || {
        loop {
            thread::sleep(INTERVAL);
            watcher.look();
        }
    };
    thread::Builder::new().name("keys".into()).spawn(look_on).map(drop)
}

impl Watcher {
    fn look(&mut self) {
        let content = file::read_regular(&self.file.path);
        let look = match &content {
            Ok(content) => Look::Content(digest_of(content)),
            Err(error) => Look::Unreadable(error.to_string()),
        };
        if look == self.last {
            return;
        }
        match content {
            Ok(_) if look == Look::Content(self.file.in_use) => self.is_good("again what it was"),
            Ok(content) => match self.take_up(&content) {
                Ok(told) => {
                    self.file.in_use = digest_of(&content);
                    self.keys.reloads_ok.fetch_add(1, Ordering::Relaxed);
                    self.is_good(&told);
                }
                Err(problems) => self.is_broken(&problems),
            },
            Err(error) => self.is_broken(&[error.to_string()]),
        }
        self.last = look;
    }

    /// Uses a changed list, if nothing is wrong with it. A list whose keys are all disabled is one: somebody wants it.
    fn take_up(&self, content: &str) -> Result<String, Vec<String>> {
        let list = KeyList::parse(content)?;
        let unknown = list.unknown_models(|alias| self.models.resolve(alias).is_some());
        if !unknown.is_empty() {
            return Err(unknown);
        }
        self.keys.replace(&list, &self.models);
        let enabled = list.entries().iter().filter(|entry| entry.enabled).count();
        Ok(format!("in use: {} keys, {enabled} of them enabled", list.entries().len()))
    }

    fn is_good(&self, told: &str) {
        self.keys.file_is_broken.store(false, Ordering::Relaxed);
        self.log.event(Severity::Info, &format!("API_KEYS_FILE has changed and is {told}"));
    }

    fn is_broken(&self, problems: &[String]) {
        self.keys.file_is_broken.store(true, Ordering::Relaxed);
        self.keys.reloads_failed.fetch_add(1, Ordering::Relaxed);
        let mut told = problems.iter().take(TOLD_PROBLEMS).cloned().collect::<Vec<_>>().join("; ");
        if let Some(more) = problems.len().checked_sub(TOLD_PROBLEMS).filter(|more| *more > 0) {
            told.push_str(&format!("; and {more} more"));
        }
        let message = format!("API_KEYS_FILE has changed and is broken, the keys stay as they were: {told}");
        self.log.event(Severity::Error, &message);
    }
}

fn digest_of(content: &str) -> ContentDigest {
    let mut out = [0; digest::SHA256_OUTPUT_LEN];
    out.copy_from_slice(digest::digest(&digest::SHA256, content.as_bytes()).as_ref());
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::Reloads;
    use crate::models::ModelConfig;
    use std::collections::BTreeMap;
    use std::fs;

    #[test]
    fn each_change_is_told_and_counted_once() {
        const LIST: &str = r#"[{"id":"a","key":"sk_live_0123456789abcdef"}]"#;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.json");
        fs::write(&path, LIST).unwrap();
        let flash = ModelConfig { vertex_id: "google/a".into(), location: None };
        let models = Arc::new(Models::new(&BTreeMap::from([("flash".to_owned(), flash)]), "global"));
        let keys = Arc::new(Keys::new(&KeyList::parse(LIST).unwrap(), &models));
        let (log, lines) = Log::to_channel();
        let file = KeysFile::new(path.clone(), LIST);
        let last = Look::Content(file.in_use);
        let mut watcher = Watcher { file, last, keys: keys.clone(), models, log: log.clone() };
        let mut look = |content: Option<&str>| {
            match content {
                Some(content) => fs::write(&path, content).unwrap(),
                None => fs::remove_file(&path).unwrap(),
            }
            (0..5).for_each(|_| watcher.look());
            keys.reloads()
        };
        let state = |ok, failed, file_is_broken| Reloads { ok, failed, file_is_broken };
        assert_eq!(look(Some(LIST)), state(0, 0, false));
        assert_eq!(look(None), state(0, 1, true));
        assert_eq!(look(Some("[")), state(0, 2, true));
        assert_eq!(look(Some(LIST)), state(0, 2, false), "what is in use needs no reload");
        assert_eq!(look(Some(&LIST.replace("}]", ",\"rpm\":1}]"))), state(1, 2, false));
        assert_eq!(look(Some(LIST)), state(2, 2, false), "back to what was in use before");
        let many = format!("[{}]", ["1"; 9].join(","));
        assert_eq!(look(Some(&many)), state(2, 3, true));
        log.flush();
        let text = String::from_utf8(lines.try_iter().flatten().collect()).unwrap();
        assert_eq!(text.lines().count(), 6, "{text}");
        assert!(text.contains("and 4 more"), "{text}");
    }
}
