//! The answers to an authority's question whether a name leads here: certificates of a special kind (RFC 8737).

use crate::tls::server_config;
use instant_acme::Error;
use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

/// The protocol by which the authority tells that it asks.
const ALPN_ACME: &[u8] = b"acme-tls/1";

/// The answers that are in place, and the handshakes that give them.
pub(in crate::tls) struct Challenges {
    answers: Arc<Answers>,
    config: Arc<ServerConfig>,
}

/// One certificate for each name.
#[derive(Debug, Default)]
struct Answers(RwLock<HashMap<String, Arc<CertifiedKey>>>);

impl ResolvesServerCert for Answers {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let answers = self.0.read().unwrap_or_else(PoisonError::into_inner);
        answers.get(&hello.server_name()?.to_ascii_lowercase()).cloned()
    }
}

impl Challenges {
    /// None yet.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub(in crate::tls) fn new() -> Result<Self, String> {
        let answers = Arc::new(Answers::default());
        Ok(Self { config: server_config(answers.clone(), ALPN_ACME)?, answers })
    }

    /// Whether a handshake is an authority's question.
    pub(in crate::tls) fn are_asked_by(hello: &ClientHello<'_>) -> bool {
        hello.alpn().is_some_and(|mut protocols| protocols.any(|protocol| protocol == ALPN_ACME))
    }

    /// The handshake that answers.
    pub(in crate::tls) fn config(&self) -> Arc<ServerConfig> {
        self.config.clone()
    }

    /// Puts the answer for a name in place. `digest` is that of the key authorization: 32 bytes.
    pub(super) fn put(&self, name: &str, digest: &[u8]) -> Result<(), Error> {
        let failed = |error: rcgen::Error| Error::Other(error.into());
        let mut params = CertificateParams::new(vec![name.to_owned()]).map_err(failed)?;
        params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = params.self_signed(&key).map_err(failed)?;
        let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(Error::Str)?;
        let key =
            ring::default_provider().key_provider.load_private_key(key).map_err(|error| Error::Other(error.into()))?;
        let answer = Arc::new(CertifiedKey::new(vec![certificate.der().clone()], key));
        self.answers.0.write().unwrap_or_else(PoisonError::into_inner).insert(name.to_ascii_lowercase(), answer);
        Ok(())
    }

    /// Takes all answers away.
    pub(super) fn clear(&self) {
        self.answers.0.write().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
