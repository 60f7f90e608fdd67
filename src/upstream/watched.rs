//! A socket that can be seen to get on: whether the other side takes what is written. TLS above it has a buffer of its own,
//! which takes some when the socket takes nothing, and none when it does.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::client::TlsStream;

/// Something that is written to, down to a socket.
pub(crate) trait Progress {
    /// Whether the socket has taken something after it had taken nothing, since this was asked last.
    fn take_progress(&mut self) -> bool;
}

/// A socket, and what was seen of it.
pub(crate) struct Watched<S> {
    socket: S,
    is_full: bool,
    has_got_on: bool,
}

impl<S> Watched<S> {
    /// Nothing has been seen yet.
    pub(crate) fn new(socket: S) -> Self {
        Self { socket, is_full: false, has_got_on: false }
    }

    fn note(&mut self, written: &Poll<io::Result<usize>>) {
        match written {
            Poll::Pending => self.is_full = true,
            Poll::Ready(Ok(1..)) => self.has_got_on |= std::mem::take(&mut self.is_full),
            Poll::Ready(_) => {}
        }
    }
}

impl<S> Progress for Watched<S> {
    fn take_progress(&mut self) -> bool {
        std::mem::take(&mut self.has_got_on)
    }
}

impl<S: Progress> Progress for TlsStream<S> {
    fn take_progress(&mut self) -> bool {
        self.get_mut().0.take_progress()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(cx, bytes);
        self.note(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(cx, slices);
        self.note(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader, DuplexStream, duplex};

    /// In memory there is nobody to be seen.
    impl Progress for DuplexStream {
        fn take_progress(&mut self) -> bool {
            false
        }
    }

    impl<S: Progress + AsyncRead> Progress for BufReader<S> {
        fn take_progress(&mut self) -> bool {
            self.get_mut().take_progress()
        }
    }

    #[tokio::test]
    async fn only_who_had_to_wait_and_got_on_is_seen_to() {
        let (this_end, mut other_end) = duplex(8);
        let mut watched = Watched::new(this_end);
        watched.write_all(b"1234").await.unwrap();
        assert!(!watched.take_progress(), "there was room");
        let waiting = tokio::spawn(async move {
            watched.write_all(b"56789").await.unwrap();
            watched
        });
        let mut read = [0; 4];
        tokio::task::yield_now().await;
        other_end.read_exact(&mut read).await.unwrap();
        let mut watched = waiting.await.unwrap();
        assert!(watched.take_progress() && !watched.take_progress());
    }
}
