//! What an HTTP/2 connection's bytes pass through: who closed it, what upstream said last, and that nobody is flooded.
//!
//! When upstream has sent a GOAWAY and no stream is open, the library closes the connection. A request that it is handed
//! at that very moment fails as if the connection had broken, although nobody has sent a byte of it. What tells the two
//! apart is that this side closed first: it does so only when no stream is open, and sends nothing afterwards.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is read in one turn, in bytes. A frame of 14 bytes takes hundreds until its request has looked at it, which it can
/// only when it has its own turn.
const TURN_BYTES: usize = 128 * 1024;

/// Whether this side has closed a connection that upstream had not.
#[derive(Clone, Debug, Default)]
pub(super) struct Departure(Arc<AtomicBool>);

impl Departure {
    /// Whether it has.
    pub(super) fn was_first(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// A byte stream that notes its departure, and hears upstream out.
pub(super) struct Observed<T> {
    stream: T,
    upstream_has_ended: bool,
    /// Nothing can be sent any more.
    is_deaf: bool,
    /// Read since others had their turn, in bytes.
    read_in_turn: usize,
    departure: Departure,
}

impl<T> Observed<T> {
    pub(super) fn new(stream: T, departure: Departure) -> Self {
        Self { stream, upstream_has_ended: false, is_deaf: false, read_in_turn: 0, departure }
    }

    /// Upstream does not listen any more, but what it said before is still to be read: a GOAWAY most likely, by which
    /// requests are known that nobody has processed. The library would end with the failed write; so it is told that
    /// the bytes have gone, and hears the end where it reads. That is near: a connection that takes nothing is closed,
    /// and if not, no PING is answered on it.
    fn sent(&mut self, polled: Poll<io::Result<usize>>, all: usize) -> Poll<io::Result<usize>> {
        match polled {
            Poll::Ready(Err(_)) => {
                (self.upstream_has_ended, self.is_deaf) = (true, true);
                Poll::Ready(Ok(all))
            }
            polled => polled,
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Observed<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.read_in_turn >= TURN_BYTES {
            self.read_in_turn = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = into.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, into);
        self.read_in_turn = if polled.is_ready() { self.read_in_turn + into.filled().len() - before } else { 0 };
        self.upstream_has_ended |= match &polled {
            Poll::Ready(Ok(())) => into.filled().len() == before && into.remaining() > 0,
            Poll::Ready(Err(_)) => true,
            Poll::Pending => false,
        };
        polled
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Observed<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.is_deaf {
            return Poll::Ready(Ok(bytes.len()));
        }
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.sent(polled, bytes.len())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let all = slices.iter().map(|slice| slice.len()).sum();
        if self.is_deaf {
            return Poll::Ready(Ok(all));
        }
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.sent(polled, all)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_deaf {
            return Poll::Ready(Ok(()));
        }
        let polled = Pin::new(&mut self.stream).poll_flush(cx);
        self.sent(polled.map_ok(|()| 0), 0).map_ok(|_| ())
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.upstream_has_ended {
            self.departure.0.store(true, Ordering::Release);
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// Does not listen, has last words, and then ends.
    struct Leaving(&'static [u8]);

    impl AsyncRead for Leaving {
        fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            into.put_slice(std::mem::take(&mut self.0));
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Leaving {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn last_words_are_heard_after_a_write_has_failed() {
        let departure = Departure::default();
        let mut stream = Observed::new(Leaving(b"goaway"), departure.clone());
        for _ in 0..2 {
            stream.write_all(b"a request").await.unwrap();
        }
        stream.flush().await.unwrap();
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"goaway");
        stream.shutdown().await.unwrap();
        assert!(!departure.was_first(), "upstream was");
    }

    #[tokio::test]
    async fn a_flood_leaves_others_their_turn() {
        let mut stream = Observed::new(tokio::io::repeat(1), Departure::default());
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut piece = [0; 16 * 1024];
        let mut poll = || Pin::new(&mut stream).poll_read(&mut cx, &mut ReadBuf::new(&mut piece)).is_ready();
        for _ in 0..3 {
            assert_eq!((0..TURN_BYTES / (16 * 1024)).filter(|_| poll()).count(), TURN_BYTES / (16 * 1024));
            assert!(!poll());
        }
    }

    #[tokio::test]
    async fn who_closes_first_is_noted() {
        let (this_end, other_end) = tokio::io::duplex(64);
        let departure = Departure::default();
        let mut stream = Observed::new(this_end, departure.clone());
        assert!(!departure.was_first());
        stream.shutdown().await.unwrap();
        assert!(departure.was_first());
        drop(other_end);
    }
}
