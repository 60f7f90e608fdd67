//! What carries a connection's bytes: TCP, or TLS over it.

use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// A client's byte stream.
pub(crate) trait Transport: AsyncRead + AsyncWrite + Send + Unpin {
    /// What is below all.
    fn tcp(&self) -> &TcpStream;

    /// Makes the end of the connection a reset, which tells the client that an answer is incomplete.
    fn reset_on_drop(&self) {
        let _ = SockRef::from(self.tcp()).set_linger(Some(Duration::ZERO));
    }
}

impl Transport for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl Transport for TlsStream<TcpStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }
}
