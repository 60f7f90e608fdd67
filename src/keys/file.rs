//! The keys file on disk: read within bounds, and replaced as a whole or not at all.

use rustix::io::Errno;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// Tens of thousands of entries, in bytes.
const MAX_FILE_BYTES: u64 = 16 * 1024 * 1024;
/// A new file is its owner's alone.
const NEW_FILE_MODE: u32 = 0o600;
/// How long another editor is waited for.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two tries to get the lock.
const LOCK_RETRY: Duration = Duration::from_millis(20);

/// Why a file cannot be used. No text of these says what is in it.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Unreadable(io::ErrorKind),
    /// Nothing can be opened at the moment: this says nothing of the file.
    #[error("cannot be opened: too many files are open")]
    NoDescriptor,
    /// There is nothing in it.
    #[error("is empty")]
    Empty,
    /// It is larger than any list of keys.
    #[error("is larger than 16 MiB")]
    TooLarge,
    /// It is no text.
    #[error("is not valid UTF-8")]
    NotText,
    /// Only plain files can be replaced.
    #[error("is not a regular file")]
    NotRegular,
    /// A link whose target is not there.
    #[error("is a link that leads nowhere")]
    DanglingLink,
    /// Somebody else is at it.
    #[error("is being edited by another 'ai-proxy keys'")]
    Locked,
    /// It could not be replaced and is as it was.
    #[error("cannot be written and stays as it was: {0}")]
    Unwritable(io::Error),
}

/// The text of a file; its memory is cleared when it is dropped.
///
/// # Errors
/// When there is no text to be had.
pub fn read(path: &Path) -> Result<Zeroizing<String>, FileError> {
    let unreadable = |error: io::Error| FileError::Unreadable(error.kind());
    let file = File::open(path).map_err(|error| match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::MFILE | Errno::NFILE) => FileError::NoDescriptor,
        _ => unreadable(error),
    })?;
    let announced = file.metadata().map_err(unreadable)?.len().min(MAX_FILE_BYTES);
    // Room for all of it, so that no copy is left behind in memory by growing.
    let mut bytes = Zeroizing::new(Vec::with_capacity(announced as usize + 1));
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(FileError::TooLarge);
    }
    let text = String::from_utf8(std::mem::take(&mut *bytes)).map(Zeroizing::new).map_err(|error| {
        drop(Zeroizing::new(error.into_bytes()));
        FileError::NotText
    })?;
    if text.trim().is_empty() { Err(FileError::Empty) } else { Ok(text) }
}

/// The same of a regular file only: opening another kind may wait for somebody.
///
/// # Errors
/// As [`read`], and when it is of another kind.
pub(super) fn read_regular(path: &Path) -> Result<Zeroizing<String>, FileError> {
    match path.metadata() {
        Ok(metadata) if !metadata.is_file() => Err(FileError::NotRegular),
        _ => read(path),
    }
}

/// A file that nobody else edits as long as this lives.
#[derive(Debug)]
pub struct LockedFile {
    /// Where it really is, behind all links.
    target: PathBuf,
    /// The lock is on the folder: the file itself is another one after each edit.
    folder: File,
}

impl LockedFile {
    /// Locks a file, which need not exist yet.
    ///
    /// # Errors
    /// When it is not a file that can be replaced, or another editor does not come to its end.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        let target = match fs::canonicalize(path) {
            Ok(target) => target,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if path.symlink_metadata().is_ok() {
                    return Err(FileError::DanglingLink);
                }
                path.to_owned()
            }
            Err(error) => return Err(FileError::Unreadable(error.kind())),
        };
        if target.metadata().is_ok_and(|metadata| !metadata.is_file()) {
            return Err(FileError::NotRegular);
        }
        let folder = File::open(folder_of(&target)).map_err(|error| FileError::Unreadable(error.kind()))?;
        let deadline = Instant::now() + LOCK_TIMEOUT;
        loop {
            match folder.try_lock() {
                Ok(()) => return Ok(Self { target, folder }),
                Err(fs::TryLockError::WouldBlock) if Instant::now() < deadline => thread::sleep(LOCK_RETRY),
                Err(fs::TryLockError::WouldBlock) => return Err(FileError::Locked),
                Err(fs::TryLockError::Error(error)) => return Err(FileError::Unwritable(error)),
            }
        }
    }

    /// Its text; `None` where there is no file yet.
    ///
    /// # Errors
    /// When there is a file and no text to be had from it.
    pub fn read(&self) -> Result<Option<Zeroizing<String>>, FileError> {
        match read(&self.target) {
            Err(FileError::Unreadable(io::ErrorKind::NotFound)) => Ok(None),
            read => read.map(Some),
        }
    }

    /// Replaces the file by one with this text, of the same mode and owner. Whoever reads it sees the old text or
    /// the new one, also when the machine fails in between.
    ///
    /// # Errors
    /// When that cannot be done; the file is as it was then.
    pub fn replace(&self, text: &str) -> Result<(), FileError> {
        let name = self.target.file_name().unwrap_or_default().to_string_lossy();
        let temporary = self.target.with_file_name(format!(".{name}.new"));
        // Only an editor that was killed leaves one behind, and the lock says that none is at work.
        let _ = fs::remove_file(&temporary);
        let written = self.write(&temporary, text).and_then(|()| fs::rename(&temporary, &self.target));
        if let Err(error) = written {
            let _ = fs::remove_file(&temporary);
            return Err(FileError::Unwritable(error));
        }
        // The rename has happened; not every file system can be told to write it down at once.
        let _ = self.folder.sync_all();
        Ok(())
    }

    fn write(&self, temporary: &Path, text: &str) -> io::Result<()> {
        let old = match fs::metadata(&self.target) {
            Ok(old) => Some(old),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let mut file = OpenOptions::new().write(true).create_new(true).mode(NEW_FILE_MODE).open(temporary)?;
        if let Some(old) = old {
            let new = file.metadata()?;
            if (new.uid(), new.gid()) != (old.uid(), old.gid()) {
                chown(temporary, Some(old.uid()), Some(old.gid()))?;
            }
            file.set_permissions(Permissions::from_mode(old.mode() & 0o7777))?;
        }
        file.write_all(text.as_bytes())?;
        file.sync_all()
    }
}

/// The folder that a file is in.
fn folder_of(file: &Path) -> &Path {
    file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_list_is_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        assert!(matches!(read(&at("none")), Err(FileError::Unreadable(io::ErrorKind::NotFound))));
        for (content, error) in [(&b" \n"[..], "is empty"), (b"\xff", "is not valid UTF-8")] {
            fs::write(at("x"), content).unwrap();
            assert_eq!(read(&at("x")).unwrap_err().to_string(), error);
        }
        let large = File::create(at("large")).unwrap();
        large.set_len(MAX_FILE_BYTES + 1).unwrap();
        assert!(matches!(read(&at("large")), Err(FileError::TooLarge)));
        assert!(read(folder.path()).is_err());
    }

    #[test]
    fn a_link_stays_and_its_target_is_replaced_with_its_mode() {
        let folder = tempfile::tempdir().unwrap();
        let (target, link) = (folder.path().join("target"), folder.path().join("link"));
        fs::write(&target, "old").unwrap();
        fs::set_permissions(&target, Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink("target", &link).unwrap();
        let file = LockedFile::open(&link).unwrap();
        assert_eq!(&**file.read().unwrap().unwrap(), "old");
        file.replace("new").unwrap();
        assert!(link.symlink_metadata().unwrap().is_symlink());
        assert_eq!(fs::read_to_string(&target).unwrap(), "new");
        assert_eq!(target.metadata().unwrap().mode() & 0o777, 0o640);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "nothing is left behind");
        fs::remove_file(&target).unwrap();
        assert!(matches!(LockedFile::open(&link), Err(FileError::DanglingLink)));
        assert!(matches!(LockedFile::open(folder.path()), Err(FileError::NotRegular)));
    }

    #[test]
    fn a_new_file_is_its_owners_alone_and_one_editor_waits_for_another() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.json");
        let file = LockedFile::open(&path).unwrap();
        assert!(file.read().unwrap().is_none());
        let other = path.clone();
        let waiting = thread::spawn(move || LockedFile::open(&other).unwrap().read().unwrap().is_some());
        file.replace("[]").unwrap();
        drop(file);
        assert!(waiting.join().unwrap(), "the second editor sees what the first one wrote");
        assert_eq!(path.metadata().unwrap().mode() & 0o777, NEW_FILE_MODE);
    }
}
