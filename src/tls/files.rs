//! A certificate that its owner keeps in two files, and puts a new one there before the old one ends.

use super::Current;
use super::certificate::{Certificate, Unusable};
use crate::log::{Log, Severity};
use ring::digest::{self, Digest};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};

/// How often the files are looked at. They are read whole: mounted secrets are replaced in ways that no time stamp tells.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Less than this left is worth a warning, once a day.
const EXPIRY_WARNING: Duration = Duration::from_secs(7 * 86_400);
/// How often that is.
const WARN_EVERY: Duration = Duration::from_secs(86_400);
/// The longest chain has some ten kilobytes.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// `TLS_CERT_FILE` and `TLS_KEY_FILE`.
#[derive(Clone, Debug)]
pub struct Files {
    /// The chain, in PEM form, the server's own certificate first.
    pub chain: PathBuf,
    /// Its private key, in PEM form.
    pub key: PathBuf,
}

/// What the files held.
#[derive(Debug)]
pub struct Loaded {
    /// The certificate.
    pub certificate: Certificate,
    content: Digest,
}

/// Why the files cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{variable}: {message}")]
pub struct Problem {
    /// The variable that names the file at fault.
    pub variable: &'static str,
    /// What is wrong.
    pub message: String,
}

impl Files {
    /// Reads both files.
    ///
    /// # Errors
    /// What is wrong, with the variable that names the file.
    pub fn load(&self) -> Result<Loaded, Problem> {
        let (chain, key, content) = self.read()?;
        Ok(Loaded { certificate: judge(&chain, &key)?, content })
    }

    fn read(&self) -> Result<(Vec<u8>, Vec<u8>, Digest), Problem> {
        let read = |variable, path| {
            read_regular(path)
                .map_err(|why| Problem { variable, message: format!("names a file that cannot be read: {why}") })
        };
        let (chain, key) = (read("TLS_CERT_FILE", &self.chain)?, read("TLS_KEY_FILE", &self.key)?);
        let mut content = digest::Context::new(&digest::SHA256);
        content.update(&chain);
        content.update(&key);
        Ok((chain, key, content.finish()))
    }

    /// Takes new certificates from the files for ever. What cannot be used changes nothing, and is told.
    pub(super) async fn watch(self, loaded: Loaded, current: Arc<Current>, log: Log) {
        let Loaded { mut certificate, mut content } = loaded;
        let mut trouble = Trouble::default();
        let mut until_warning = Duration::ZERO;
        loop {
            if until_warning.is_zero() {
                warn_of_validity(&certificate, &log);
                until_warning = WARN_EVERY;
            }
            tokio::time::sleep(LOOK_EVERY).await;
            until_warning = until_warning.saturating_sub(LOOK_EVERY);
            let files = self.clone();
            // A file system may be slow, and requests are not to wait for it.
            let Ok(read) = tokio::task::spawn_blocking(move || files.read()).await else { continue };
            let problem = match read {
                Ok((_, _, now)) if now.as_ref() == content.as_ref() => None,
                Ok((chain, key, now)) => match judge(&chain, &key) {
                    Ok(new) => {
                        current.replace(&new);
                        let until = new.valid_until();
                        log.event(Severity::Info, &format!("new certificate in use, valid until {until}"));
                        (certificate, content, until_warning) = (new, now, Duration::ZERO);
                        None
                    }
                    Err(problem) => Some(problem),
                },
                Err(problem) => Some(problem),
            };
            if let Some(problem) = trouble.is_worth_telling(problem) {
                log.event(Severity::Error, &format!("{problem}; the certificate in use stays"));
            }
        }
    }
}

/// Opening what is no regular file may wait for somebody, or never come to an end.
fn read_regular(path: &Path) -> Result<Vec<u8>, String> {
    let unreadable = |error: io::Error| error.kind().to_string();
    let metadata = fs::metadata(path).map_err(unreadable)?;
    if !metadata.is_file() {
        return Err("not a regular file".to_owned());
    }
    if metadata.len() > MAX_FILE_BYTES {
        return Err("larger than 1 MiB".to_owned());
    }
    fs::read(path).map_err(unreadable)
}

fn judge(chain: &[u8], key: &[u8]) -> Result<Certificate, Problem> {
    Certificate::from_pem(chain, key).map_err(|unusable| Problem {
        variable: match unusable {
            Unusable::Chain => "TLS_CERT_FILE",
            Unusable::Key | Unusable::Mismatch => "TLS_KEY_FILE",
        },
        message: unusable.to_string(),
    })
}

/// Two files cannot be replaced at one moment: what is wrong at one look only is not told, and what stays wrong once.
#[derive(Default)]
struct Trouble {
    last: Option<Problem>,
    told: bool,
}

impl Trouble {
    fn is_worth_telling(&mut self, problem: Option<Problem>) -> Option<&Problem> {
        let lasts = problem.is_some() && problem == self.last;
        let tell = lasts && !self.told;
        self.told = lasts;
        self.last = problem;
        self.last.as_ref().filter(|_| tell)
    }
}

fn warn_of_validity(certificate: &Certificate, log: &Log) {
    if !certificate.is_valid_yet() {
        let from = certificate.valid_from();
        log.event(
            Severity::Error,
            &format!("TLS_CERT_FILE: the certificate is valid only from {from}, so clients refuse it"),
        );
        return;
    }
    match certificate.time_left() {
        None => log.event(Severity::Error, "TLS_CERT_FILE: the certificate has expired, so clients refuse it"),
        Some(left) if left < EXPIRY_WARNING => {
            let until = certificate.valid_until();
            log.event(Severity::Warning, &format!("TLS_CERT_FILE: the certificate is valid only until {until}"));
        }
        Some(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_is_told_once_and_only_if_it_lasts() {
        let problem = |message: &str| Some(Problem { variable: "TLS_KEY_FILE", message: message.to_owned() });
        let mut trouble = Trouble::default();
        let mut told = |problem| trouble.is_worth_telling(problem).is_some();
        assert!(!told(problem("a")), "it may be over in a moment");
        assert!(!told(None));
        assert!(!told(problem("a")));
        assert!(told(problem("a")));
        assert!(!told(problem("a")));
        assert!(!told(problem("b")));
        assert!(told(problem("b")));
    }
}
