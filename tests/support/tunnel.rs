//! TLS for the raw client: a port whose connections go on to the gateway inside TLS.
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, HandshakeKind, ProtocolVersion, SupportedProtocolVersion};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::TlsConnector;

use super::{Authority, Client, Watched};

/// What a handshake came to.
#[derive(Clone, Debug)]
pub(crate) struct Handshake {
    pub(crate) version: Option<ProtocolVersion>,
    pub(crate) alpn: Option<Vec<u8>>,
    pub(crate) kind: Option<HandshakeKind>,
    pub(crate) certificate: Option<CertificateDer<'static>>,
}

/// The tunnel. When it is dropped its connections end.
pub(crate) struct Tunnel {
    address: SocketAddr,
    handshakes: Watched<Vec<Result<Handshake, String>>>,
    runtime: Option<Runtime>,
}

impl Tunnel {
    /// A tunnel that speaks any version and asks for HTTP/1.1 among others, as browsers do.
    pub(crate) fn to(gateway: SocketAddr, authority: &Authority) -> Self {
        Self::with(gateway, authority, rustls::ALL_VERSIONS, &["h2", "http/1.1"])
    }

    pub(crate) fn with(
        gateway: SocketAddr,
        authority: &Authority,
        versions: &[&'static SupportedProtocolVersion],
        alpn: &[&str],
    ) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .expect("the provider speaks them")
            .with_root_certificates(authority.roots())
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        let connector = TlsConnector::from(Arc::new(config));
        let runtime = Runtime::new().expect("a runtime");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let handshakes: Watched<Vec<Result<Handshake, String>>> = Watched::default();
        let seen = handshakes.clone();
        runtime.spawn(async move {
            while let Ok((mut inside, _)) = listener.accept().await {
                let (connector, seen) = (connector.clone(), seen.clone());
                tokio::spawn(async move {
                    let Ok(outside) = TcpStream::connect(gateway).await else { return };
                    let _ = (inside.set_nodelay(true), outside.set_nodelay(true));
                    let name = ServerName::try_from("localhost").expect("a name");
                    match connector.connect(name, outside).await {
                        Ok(mut outside) => {
                            let state = outside.get_ref().1;
                            let handshake = Handshake {
                                version: state.protocol_version(),
                                alpn: state.alpn_protocol().map(<[u8]>::to_vec),
                                kind: state.handshake_kind(),
                                certificate: state.peer_certificates().map(|chain| chain[0].clone().into_owned()),
                            };
                            seen.change(|seen| seen.push(Ok(handshake)));
                            let _ = tokio::io::copy_bidirectional(&mut inside, &mut outside).await;
                        }
                        Err(error) => seen.change(|seen| seen.push(Err(error.to_string()))),
                    }
                });
            }
        });
        Self { address, handshakes, runtime: Some(runtime) }
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(self.address)
    }

    /// What the `n`th handshake came to (from 0).
    #[track_caller]
    pub(crate) fn handshake(&self, n: usize) -> Result<Handshake, String> {
        self.handshakes.wait("a handshake", |seen| seen.get(n).cloned())
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
