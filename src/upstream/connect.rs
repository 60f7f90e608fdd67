//! New connections to upstream: names resolved, addresses raced, TLS verified.

use super::http2::TAKEN_BYTES;
use super::watched::Watched;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpStream, lookup_host};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Names, TCP and TLS together may take this long.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The head start that one address has over the next (RFC 8305, section 5).
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(250);
/// A silent upstream is asked after this long whether it is still there.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(30);

/// Why there is no connection.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// The name does not resolve, or no address answers, or TLS failed.
    #[error("{0}")]
    Failed(Arc<str>),
    /// There was one, which ended before it could be used.
    #[error("the new connection was closed at once")]
    ClosedAtOnce,
    /// Not within [`CONNECT_TIMEOUT`].
    #[error("no connection within {} seconds", CONNECT_TIMEOUT.as_secs())]
    TimedOut,
}

impl From<io::Error> for ConnectError {
    fn from(error: io::Error) -> Self {
        Self::Failed(error.to_string().into())
    }
}

/// Nothing to verify upstream's certificate against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no certificate authority was found: name a file of certificates, or install the system's (ca-certificates)")]
pub struct NoCertificates;

/// A connection, ready for HTTP.
pub(crate) enum Stream {
    /// HTTP/1.1 without TLS.
    Plain(TcpStream),
    /// HTTP/1.1 over TLS.
    Tls1(TlsStream<Watched<TcpStream>>),
    /// HTTP/2 over TLS.
    Tls2(TlsStream<Watched<TcpStream>>),
}

/// How TLS is spoken to upstream: *ring*, the system's certificates, HTTP/2 preferred.
///
/// # Errors
/// When there is no certificate to verify against.
pub fn tls_config() -> Result<Arc<ClientConfig>, NoCertificates> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        return Err(NoCertificates);
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider speaks TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Opens one connection.
///
/// # Errors
/// When there is none within the time allowed.
pub(crate) async fn connect(host: &str, port: u16, tls: Option<&Arc<ClientConfig>>) -> Result<Stream, ConnectError> {
    let connecting = async {
        let tcp = race(lookup_host((host, port)).await?.collect()).await?;
        tcp.set_nodelay(true)?;
        let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE_AFTER);
        socket2::SockRef::from(&tcp).set_tcp_keepalive(&keepalive)?;
        let Some(config) = tls else { return Ok(Stream::Plain(tcp)) };
        let name =
            ServerName::try_from(host.to_owned()).map_err(|error| ConnectError::Failed(error.to_string().into()))?;
        let mut stream = TlsConnector::from(config.clone()).connect(name, Watched::new(tcp)).await?;
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        stream.get_mut().1.set_buffer_limit(Some(TAKEN_BYTES));
        Ok(if is_http2 { Stream::Tls2(stream) } else { Stream::Tls1(stream) })
    };
    timeout(CONNECT_TIMEOUT, connecting).await.unwrap_or(Err(ConnectError::TimedOut))
}

/// The first address that answers; each has a head start over the next, so that a dead one costs little.
async fn race(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let mut attempts = JoinSet::new();
    let mut waiting = interleaved(addresses).into_iter();
    let mut last_error = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    loop {
        let more = match waiting.next() {
            Some(address) => {
                attempts.spawn(TcpStream::connect(address));
                true
            }
            None => false,
        };
        tokio::select! {
            biased;
            done = attempts.join_next() => match done {
                Some(Ok(Ok(stream))) => return Ok(stream),
                Some(Ok(Err(error))) => last_error = error,
                Some(Err(_)) => {}
                None if !more => return Err(last_error),
                None => {}
            },
            () = sleep(NEXT_ADDRESS_AFTER), if more => {}
        }
    }
}

/// The families in turn, in the order of preference that the resolver gave.
fn interleaved(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|address| address.is_ipv6() == first_is_v6);
    let mut second = second.into_iter();
    let mut mixed: Vec<_> = first.into_iter().flat_map(|address| [Some(address), second.next()]).flatten().collect();
    mixed.extend(second);
    mixed
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn families_take_turns() {
        let given = ["[::1]:1", "[::2]:1", "1.1.1.1:1", "[::3]:1", "2.2.2.2:1", "3.3.3.3:1"];
        let mixed = interleaved(given.map(address).to_vec());
        assert_eq!(mixed, ["[::1]:1", "1.1.1.1:1", "[::2]:1", "2.2.2.2:1", "[::3]:1", "3.3.3.3:1"].map(address));
        assert_eq!(interleaved(vec![address("1.1.1.1:1"), address("[::1]:1")]).len(), 2);
    }

    #[tokio::test]
    async fn a_dead_address_does_not_stop_the_race() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let live = listener.local_addr().unwrap();
        let dead = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        assert_eq!(race(vec![dead, live]).await.unwrap().peer_addr().unwrap(), live);
        assert!(race(vec![dead]).await.is_err());
        assert!(race(Vec::new()).await.is_err());
    }
}
