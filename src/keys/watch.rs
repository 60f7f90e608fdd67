//! The keys file while the gateway runs: looked at every two seconds, taken up when it has changed.
//!
//! A look is a `stat`, through all links, which sees a mounted secret that is swapped. The file is read when that shows
//! another file, and every ten seconds whatever it shows: some volumes fetch a secret when it is read, and tell nothing
//! before, and such a fetch costs something, so that it is not done at each look. A thread of its own does all this, so
//! that a slow volume stops nobody.

use super::entry::KeyList;
use super::file::{self, FileError};
use super::table::Keys;
use crate::log::{Log, Severity};
use crate::models::Models;
use ring::digest;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

/// Between two looks at the file.
const INTERVAL: Duration = Duration::from_secs(2);
/// So many looks at a file that seems to be the same are a look only; the next one reads it.
const LOOKS_WITHOUT_READING: u32 = 4;
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

/// What tells one version of a file from another without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        path.metadata().ok().map(|file| Self {
            device: file.dev(),
            inode: file.ino(),
            size: file.size(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        })
    }
}

/// What reading the file has shown.
#[derive(Debug, PartialEq, Eq)]
enum Read {
    Content(ContentDigest),
    Unreadable(String),
}

/// The file as it was when it was last looked at.
struct Watcher {
    file: KeysFile,
    stamp: Option<Stamp>,
    looks_without_reading: u32,
    last: Read,
    /// It was broken for the first time when it was last read. Somebody may be about to write it, or to replace it.
    in_doubt: bool,
    /// When it was last to be read, no file could be opened.
    is_out_of_descriptors: bool,
    keys: Arc<Keys>,
    models: Models,
    log: Log,
}

/// Follows the file until the process ends. A pipe is not followed: what it had to say it has said.
///
/// # Errors
/// When no thread can be started.
pub fn watch(file: KeysFile, keys: Arc<Keys>, models: Models, log: Log) -> std::io::Result<()> {
    if file.path.metadata().is_ok_and(|metadata| !metadata.is_file()) {
        log.event(Severity::Info, "API_KEYS_FILE is not a regular file: the keys stay as they are until a restart");
        return Ok(());
    }
    let mut watcher = Watcher::new(file, keys, models, log);
    let look_on = move || {
        loop {
            thread::sleep(INTERVAL);
            watcher.look();
        }
    };
    thread::Builder::new().name("keys".into()).spawn(look_on).map(drop)
}

impl Watcher {
    fn new(file: KeysFile, keys: Arc<Keys>, models: Models, log: Log) -> Self {
        let last = Read::Content(file.in_use);
        // The first look reads: the file may have changed since it was read at start.
        Self {
            file,
            stamp: None,
            looks_without_reading: 0,
            last,
            in_doubt: false,
            is_out_of_descriptors: false,
            keys,
            models,
            log,
        }
    }

    /// Looks at the file, and reads it where there may be something new; says whether it did.
    fn look(&mut self) -> bool {
        // Before it is read: what is written in between is seen at the next look.
        let stamp = Stamp::of(&self.file.path);
        let seems_the_same = stamp.is_some() && stamp == self.stamp && !self.in_doubt;
        if seems_the_same && self.looks_without_reading < LOOKS_WITHOUT_READING {
            self.looks_without_reading += 1;
            return false;
        }
        (self.stamp, self.looks_without_reading) = (stamp, 0);
        let content = file::read_regular(&self.file.path);
        let was_out_of_descriptors = self.is_out_of_descriptors;
        self.is_out_of_descriptors = matches!(content, Err(FileError::NoDescriptor));
        if self.is_out_of_descriptors {
            // It is not known to have changed. The next look reads it.
            self.stamp = None;
            if !was_out_of_descriptors {
                let message =
                    "API_KEYS_FILE could not be looked at, the keys stay as they were: too many files are open";
                self.log.event(Severity::Warning, message);
            }
            return true;
        }
        let read = match &content {
            Ok(content) => Read::Content(digest_of(content)),
            Err(error) => Read::Unreadable(error.to_string()),
        };
        if read == self.last && !self.in_doubt {
            return true;
        }
        let is_in_use = read == Read::Content(self.file.in_use);
        let used = match content {
            Ok(_) if is_in_use => Ok("again what it was".to_owned()),
            Ok(content) => self.take_up(&content),
            Err(error) => Err(vec![error.to_string()]),
        };
        // Half of a list, or none while it is replaced, is not worth a word; what stays so is.
        self.in_doubt = used.is_err() && read != self.last;
        match used {
            Ok(told) => {
                let was_broken = self.keys.file_is_broken.swap(false, Ordering::Relaxed);
                if was_broken || !is_in_use {
                    self.log.event(Severity::Info, &format!("API_KEYS_FILE has changed and is {told}"));
                }
            }
            Err(problems) if !self.in_doubt => self.tell_broken(&problems),
            Err(_) => {}
        }
        self.last = read;
        true
    }

    /// Uses a changed list, if nothing is wrong with it. A list whose keys are all disabled is one: somebody wants it.
    fn take_up(&mut self, content: &str) -> Result<String, Vec<String>> {
        let list = KeyList::parse(content)?;
        let unknown = list.unknown_models(|alias| self.models.resolve(alias).is_some());
        if !unknown.is_empty() {
            return Err(unknown);
        }
        self.keys.replace(&list, &self.models);
        self.file.in_use = digest_of(content);
        self.keys.reloads_ok.fetch_add(1, Ordering::Relaxed);
        let enabled = list.entries().iter().filter(|entry| entry.enabled).count();
        Ok(format!("in use: {} keys, {enabled} of them enabled", list.entries().len()))
    }

    fn tell_broken(&self, problems: &[String]) {
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

    const LIST: &str = r#"[{"id":"a","key":"sk_live_0123456789abcdef"}]"#;

    /// A watcher of a file with [`LIST`] in it, and what it logs.
    struct Bench {
        folder: tempfile::TempDir,
        watcher: Watcher,
        log: Log,
        lines: std::sync::mpsc::Receiver<Vec<u8>>,
    }

    impl Bench {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("keys.json");
            fs::write(&path, LIST).unwrap();
            let flash = ModelConfig { vertex_id: "google/a".into(), locations: None };
            let models = Models::new(&BTreeMap::from([("flash".to_owned(), flash)]), &["global".to_owned()]);
            let keys = Arc::new(Keys::new(&KeyList::parse(LIST).unwrap(), &models));
            let (log, lines) = Log::to_channel();
            let watcher = Watcher::new(KeysFile::new(path, LIST), keys, models, log.clone());
            Self { folder, watcher, log, lines }
        }

        /// Puts this into the file, or takes the file away.
        fn put(&self, content: Option<&str>) {
            let path = self.folder.path().join("keys.json");
            content.map_or_else(|| fs::remove_file(&path), |content| fs::write(&path, content)).unwrap();
        }

        fn state(&self) -> (u64, u64, bool) {
            let Reloads { ok, failed, file_is_broken } = self.watcher.keys.reloads();
            (ok, failed, file_is_broken)
        }

        fn told(self) -> String {
            self.log.flush();
            String::from_utf8(self.lines.try_iter().flatten().collect()).unwrap()
        }
    }

    #[test]
    fn each_change_is_told_and_counted_once() {
        let mut bench = Bench::new();
        let mut look = |content: Option<&str>| {
            bench.put(content);
            for _ in 0..12 {
                bench.watcher.look();
            }
            bench.state()
        };
        assert_eq!(look(Some(LIST)), (0, 0, false));
        assert_eq!(look(None), (0, 1, true));
        assert_eq!(look(Some("[")), (0, 2, true));
        assert_eq!(look(Some(LIST)), (0, 2, false), "what is in use needs no reload");
        assert_eq!(look(Some(&LIST.replace("}]", ",\"rpm\":1}]"))), (1, 2, false));
        assert_eq!(look(Some(LIST)), (2, 2, false), "back to what was in use before");
        let many = format!("[{}]", ["1"; 9].join(","));
        assert_eq!(look(Some(&many)), (2, 3, true));
        let text = bench.told();
        assert_eq!(text.lines().count(), 6, "{text}");
        assert!(text.contains("and 4 more"), "{text}");
    }

    #[test]
    fn a_file_that_is_being_written_is_not_broken() {
        let mut bench = Bench::new();
        let mut look = |content: Option<&str>| {
            bench.put(content);
            assert!(bench.watcher.look(), "a file in doubt is read");
            bench.state()
        };
        for half in ["", "[", &LIST[..20]] {
            assert_eq!(look(Some(half)), (0, 0, false), "{half}");
        }
        assert_eq!(look(None), (0, 0, false));
        assert_eq!(look(Some(LIST)), (0, 0, false));
        let other = LIST.replace("}]", ",\"rpm\":1}]");
        assert_eq!(look(Some("[")), (0, 0, false));
        assert_eq!(look(Some(&other)), (1, 0, false), "a good one is taken up at once");
        // What is broken for good is told at the next look.
        assert_eq!(look(Some("[")), (1, 0, false));
        assert_eq!(look(Some("[")), (1, 1, true));
        let text = bench.told();
        assert_eq!(text.lines().count(), 2, "{text}");
    }

    #[test]
    fn a_file_that_seems_the_same_is_seldom_read() {
        let mut bench = Bench::new();
        let looks: Vec<bool> = (0..11).map(|_| bench.watcher.look()).collect();
        let rest = [false; LOOKS_WITHOUT_READING as usize];
        assert_eq!(looks, [&[true][..], &rest, &[true], &rest, &[true]].concat());
        // A volume that tells nothing of a change.
        bench.put(Some(&LIST.replace("}]", ",\"rpm\":1}]")));
        bench.watcher.stamp = Stamp::of(&bench.watcher.file.path);
        for _ in 0..LOOKS_WITHOUT_READING {
            assert!(!bench.watcher.look());
            assert_eq!(bench.state(), (0, 0, false));
        }
        assert!(bench.watcher.look());
        assert_eq!(bench.state(), (1, 0, false));
        // One that tells it is read at once, whether it is written in place or replaced by one of the same size.
        for key in ["b", "c"] {
            let other = bench.folder.path().join("other");
            fs::write(&other, LIST.replace("\"a\"", &format!("\"{key}\""))).unwrap();
            fs::rename(&other, &bench.watcher.file.path).unwrap();
            assert!(bench.watcher.look());
        }
        assert_eq!(bench.state(), (3, 0, false));
    }
}
