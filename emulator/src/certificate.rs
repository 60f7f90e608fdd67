//! A certificate of the emulator's own, made at start: what it is trusted by is a file, its key is in memory only.

use std::fmt;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair};
use rustls::crypto::ring;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::TlsAcceptor;

/// A certificate for `localhost` and the loopback addresses, and for all of Google's names that clients may insist on.
#[derive(Clone)]
pub struct Certificate(TlsAcceptor);

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Certificate").finish_non_exhaustive()
    }
}

impl Certificate {
    /// Makes a certificate and writes it to a file, in PEM form, for clients to trust.
    ///
    /// # Errors
    /// Why it could not be made or written.
    pub fn make(file: &Path) -> Result<Self, String> {
        let names = ["localhost", "127.0.0.1", "::1", "aiplatform.googleapis.com", "*.googleapis.com"];
        let failed = |error: rcgen::Error| format!("cannot make a certificate: {error}");
        let key = KeyPair::generate().map_err(failed)?;
        let names: Vec<String> = names.into_iter().map(str::to_owned).collect();
        let certificate = CertificateParams::new(names).and_then(|of| of.self_signed(&key)).map_err(failed)?;
        let private = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .and_then(|builder| {
                builder.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], private)
            })
            .map_err(|error| format!("cannot use the certificate: {error}"))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        fs::write(file, certificate.pem()).map_err(|error| format!("cannot write {}: {error}", file.display()))?;
        Ok(Self(TlsAcceptor::from(Arc::new(config))))
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        self.0.clone()
    }
}
