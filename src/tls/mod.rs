//! TLS towards clients, where nothing in front of the gateway ends it: a certificate from files or by ACME, handshakes.
//!
//! TLS 1.2 and 1.3 by rustls, HTTP/1.1 by ALPN. `certificate` reads and judges certificates, `files` watches the
//! owner's, `acme` has them issued and renewed.

mod acme;
mod certificate;
mod files;

pub use acme::Settings as Acme;
pub use certificate::Certificate;
pub use files::{Files, Loaded, Problem};

use crate::log::Log;
use rustls::crypto::ring;
use rustls::server::{Acceptor, ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ServerConfig};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

/// How long a handshake may take, from the first byte to the last.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// The protocol that is spoken inside.
const ALPN_HTTP: &[u8] = b"http/1.1";

/// Where the gateway's own certificate comes from.
#[derive(Debug)]
pub enum Source {
    /// Two files of the owner, and what they held at start.
    Files(Files, Loaded),
    /// A certificate authority that speaks ACME.
    Acme(Acme),
}

/// The certificate in use, which may change while connections are made.
#[derive(Debug, Default)]
struct Current(RwLock<Option<Arc<CertifiedKey>>>);

impl Current {
    fn replace(&self, certificate: &Certificate) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(certificate.key());
    }
}

impl ResolvesServerCert for Current {
    /// The same for every name: an owner may call the gateway by names that are not in the certificate, and it is the
    /// client that judges.
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Shakes hands with clients.
pub struct Handshakes {
    config: Arc<ServerConfig>,
    /// Answers the authority's questions, with ACME.
    challenges: Option<Arc<acme::Challenges>>,
}

impl Handshakes {
    /// Prepares handshakes and starts what keeps the certificate up to date.
    ///
    /// # Errors
    /// When the system gives no random bytes, or the cache cannot be used: a sentence that names the variable.
    pub fn start(source: Source, upstream_tls: &Arc<ClientConfig>, log: Log) -> Result<Self, String> {
        let current = Arc::new(Current::default());
        let config = server_config(current.clone(), ALPN_HTTP)?;
        let challenges = match source {
            Source::Files(files, loaded) => {
                current.replace(&loaded.certificate);
                tokio::spawn(files.watch(loaded, current, log));
                None
            }
            Source::Acme(settings) => {
                let challenges = Arc::new(acme::Challenges::new()?);
                let issuer = acme::Issuer::new(settings, challenges.clone(), upstream_tls.clone(), log)?;
                tokio::spawn(issuer.keep_up_to_date(current));
                Some(challenges)
            }
        };
        Ok(Self { config, challenges })
    }

    /// Shakes hands on a connection. `None` when that fails, takes too long, or was only the authority's question.
    pub async fn shake(&self, stream: TcpStream) -> Option<TlsStream<TcpStream>> {
        timeout(HANDSHAKE_TIMEOUT, self.try_to_shake(stream)).await.ok()?
    }

    async fn try_to_shake(&self, stream: TcpStream) -> Option<TlsStream<TcpStream>> {
        let hello = LazyConfigAcceptor::new(Acceptor::default(), stream).await.ok()?;
        if let Some(challenges) = &self.challenges
            && acme::Challenges::are_asked_by(&hello.client_hello())
        {
            // The certificate is the answer; nothing is ever said inside.
            let _ = hello.into_stream(challenges.config()).await;
            return None;
        }
        hello.into_stream(self.config.clone()).await.ok()
    }
}

/// TLS 1.2 and 1.3 with rustls's own choice of suites. Sessions are resumed by tickets, which cost no memory; no early
/// data, since it could be sent again by anybody.
fn server_config(certificates: Arc<dyn ResolvesServerCert>, alpn: &[u8]) -> Result<Arc<ServerConfig>, String> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider speaks TLS 1.2 and 1.3")
        .with_no_client_auth()
        .with_cert_resolver(certificates);
    config.alpn_protocols = vec![alpn.to_vec()];
    config.ticketer = ring::Ticketer::new().map_err(|_| "the system gives no random bytes".to_owned())?;
    Ok(Arc::new(config))
}
