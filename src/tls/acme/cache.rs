//! Account and certificate on disk, so that a restart orders nothing: authorities count what they issue.
//!
//! One file each, readable by the owner only. A name tells the authority and the domains that a file is for, so that
//! other settings never meet what does not fit them. What cannot be read is as good as missing.

use super::Settings;
use crate::tls::certificate::Certificate;
use instant_acme::AccountCredentials;
use ring::digest;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The folder with its two files.
pub(super) struct Cache {
    folder: PathBuf,
    account: PathBuf,
    certificate: PathBuf,
}

impl Cache {
    /// Makes the folder if it is missing.
    ///
    /// # Errors
    /// When it cannot be made or nothing can be written there.
    pub(super) fn open(settings: &Settings) -> io::Result<Self> {
        let folder = settings.cache.clone();
        DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        let mut domains = settings.domains.clone();
        domains.sort_unstable();
        let of_account = short_digest(&[&settings.directory_url]);
        let of_certificate = short_digest(&[&settings.directory_url, &domains.join(",")]);
        let cache = Self {
            account: folder.join(format!("account-{of_account}.json")),
            certificate: folder.join(format!("certificate-{of_certificate}.pem")),
            folder,
        };
        // Better found out now than when the authority has issued something.
        let probe = cache.folder.join(".write-test");
        write_private(&probe, b"")?;
        fs::remove_file(probe)?;
        Ok(cache)
    }

    /// Whether any user of this machine could plant a key there. A group may be meant to: Kubernetes mounts for one.
    pub(super) fn is_open_to_others(&self) -> bool {
        fs::metadata(&self.folder).is_ok_and(|folder| folder.permissions().mode() & 0o002 != 0)
    }

    /// The account at the authority.
    pub(super) fn account(&self) -> Option<AccountCredentials> {
        serde_json::from_slice(&fs::read(&self.account).ok()?).ok()
    }

    /// Keeps an account.
    pub(super) fn keep_account(&self, account: &AccountCredentials) -> io::Result<()> {
        self.replace(&self.account, &serde_json::to_vec(account)?)
    }

    /// Forgets the account.
    pub(super) fn forget_account(&self) {
        let _ = fs::remove_file(&self.account);
    }

    /// The certificate for the domains, unless it is no longer valid.
    pub(super) fn certificate(&self) -> Option<Certificate> {
        let pem = fs::read(&self.certificate).ok()?;
        Certificate::from_pem(&pem, &pem).ok().filter(|certificate| certificate.time_left().is_some())
    }

    /// Keeps a chain and its key, in one file, so that they never part.
    pub(super) fn keep_certificate(&self, chain: &str, key: &str) -> io::Result<()> {
        self.replace(&self.certificate, format!("{}\n{}", key.trim_end(), chain).as_bytes())
    }

    /// Replaces a file in one step: a crash leaves the old or the new one.
    fn replace(&self, file: &Path, content: &[u8]) -> io::Result<()> {
        let new = file.with_extension("new");
        write_private(&new, content)?;
        fs::rename(&new, file)?;
        // The name too has to be on the disk.
        fs::File::open(&self.folder)?.sync_all()
    }
}

fn write_private(file: &Path, content: &[u8]) -> io::Result<()> {
    let _ = fs::remove_file(file);
    let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
    out.write_all(content)?;
    out.sync_all()
}

fn short_digest(parts: &[&str]) -> String {
    let digest = digest::digest(&digest::SHA256, parts.join("\n").as_bytes());
    digest.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair};

    fn settings(folder: &Path, domain: &str) -> Settings {
        Settings {
            domains: vec![domain.to_owned()],
            email: None,
            cache: folder.join("acme"),
            directory_url: "https://authority.example/directory".to_owned(),
        }
    }

    #[test]
    fn a_certificate_comes_back_for_its_domains_only() {
        let folder = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let chain = CertificateParams::new(vec!["a.example".to_owned()]).unwrap().self_signed(&key).unwrap().pem();
        let cache = Cache::open(&settings(folder.path(), "a.example")).unwrap();
        assert!(cache.certificate().is_none());
        cache.keep_certificate(&chain, &key.serialize_pem()).unwrap();
        assert!(cache.certificate().is_some());
        assert!(Cache::open(&settings(folder.path(), "b.example")).unwrap().certificate().is_none());
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&cache.folder), mode(&cache.certificate)), (0o700, 0o600));
        assert!(!cache.is_open_to_others());
        for (mode, open) in [(0o777, true), (0o1777, true), (0o770, false)] {
            fs::set_permissions(&cache.folder, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(cache.is_open_to_others(), open, "{mode:o}");
        }
        fs::write(&cache.certificate, &chain).unwrap();
        assert!(cache.certificate().is_none(), "a chain without its key is none");
    }

    #[test]
    fn a_folder_that_cannot_be_used_is_told() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("acme"), "a file").unwrap();
        assert!(Cache::open(&settings(folder.path(), "a.example")).is_err());
    }
}
