//! What an HTTP/2 connection's bytes pass through: who closed it, what upstream said last, that what goes out together
//! leaves together, and that nobody is flooded.
//!
//! When upstream has sent a GOAWAY and no stream is open, the library closes the connection. A request that it is handed
//! at that very moment fails as if the connection had broken, although nobody has sent a byte of it. What tells the two
//! apart is that this side closed first: it does so only when no stream is open, and sends nothing afterwards.
//!
//! The library flushes after each frame with a body, which over TLS is a record and a system call for each request. So a
//! flush waits here until the connection's task has had its turn, and what all requests have to say is sent at once.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// What is read in one turn, in bytes. A frame of 14 bytes takes hundreds until its request has looked at it, which it can
/// only when it has its own turn.
const TURN_BYTES: usize = 128 * 1024;
/// What is gathered before it is sent, in bytes: four TLS records, as much as rustls takes at once.
const GATHERED_BYTES: usize = 64 * 1024;
/// What stays allocated for the next turn, in bytes, when less was enough for this one.
const KEPT_BYTES: usize = 16 * 1024;

/// Whether this side has closed a connection that upstream had not.
#[derive(Clone, Debug, Default)]
pub(super) struct Departure(Arc<AtomicBool>);

impl Departure {
    /// Whether it has.
    pub(super) fn was_first(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// A byte stream that notes its departure, hears upstream out, and sends when its task says so: the library has one
/// handle, the task another.
pub(super) struct Wire<T>(Arc<Mutex<Ends<T>>>);

impl<T> Clone for Wire<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

struct Ends<T> {
    stream: T,
    upstream_has_ended: bool,
    /// Nothing can be sent any more.
    is_deaf: bool,
    /// Read since others had their turn, in bytes.
    read_in_turn: usize,
    last_heard: Instant,
    /// To be sent, from `sent` on.
    gathered: Vec<u8>,
    sent: usize,
    /// Whether the library was told to wait until there is room.
    is_waited_for: bool,
    departure: Departure,
}

impl<T> Wire<T> {
    pub(super) fn new(stream: T, departure: Departure) -> Self {
        Self(Arc::new(Mutex::new(Ends {
            stream,
            upstream_has_ended: false,
            is_deaf: false,
            read_in_turn: 0,
            last_heard: Instant::now(),
            gathered: Vec::new(),
            sent: 0,
            is_waited_for: false,
            departure,
        })))
    }

    /// When upstream last said something.
    pub(super) fn last_heard(&self) -> Instant {
        self.ends().last_heard
    }

    fn ends(&self) -> MutexGuard<'_, Ends<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: AsyncWrite + Unpin> Wire<T> {
    /// Sends what has been gathered.
    pub(super) fn poll_send(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut ends = self.ends();
        ready!(ends.poll_send(cx));
        if std::mem::take(&mut ends.is_waited_for) {
            cx.waker().wake_by_ref();
        }
        Poll::Ready(())
    }
}

impl<T: AsyncWrite + Unpin> Ends<T> {
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        ready!(self.poll_hand_over(cx));
        if !self.is_deaf {
            let flushed = ready!(Pin::new(&mut self.stream).poll_flush(cx));
            self.note_failure(flushed.is_err());
        }
        Poll::Ready(())
    }

    /// Hands what has been gathered to the stream below, which may still have some of it when this is done.
    fn poll_hand_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.sent < self.gathered.len() && !self.is_deaf {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, &self.gathered[self.sent..])) {
                Ok(count @ 1..) => self.sent += count,
                Ok(_) | Err(_) => self.note_failure(true),
            }
        }
        if self.gathered.len() <= KEPT_BYTES {
            self.gathered.shrink_to(KEPT_BYTES);
        }
        self.gathered.clear();
        self.sent = 0;
        Poll::Ready(())
    }

    /// Upstream does not listen any more, but what it said before is still to be read: a GOAWAY most likely, by which
    /// requests are known that nobody has processed. The library would end with the failed write; so it is told that
    /// the bytes have gone, and hears the end where it reads. That is near: a connection that takes nothing is closed,
    /// and if not, no PING is answered on it.
    fn note_failure(&mut self, has_failed: bool) {
        self.upstream_has_ended |= has_failed;
        self.is_deaf |= has_failed;
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Wire<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut ends = self.ends();
        if ends.read_in_turn >= TURN_BYTES {
            ends.read_in_turn = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = into.filled().len();
        let polled = Pin::new(&mut ends.stream).poll_read(cx, into);
        match &polled {
            Poll::Ready(read) => {
                let count = into.filled().len() - before;
                ends.read_in_turn += count;
                ends.last_heard = Instant::now();
                // Who has ended answers nothing more: what has not been sent by then never is.
                ends.note_failure(read.is_err() || (count == 0 && into.remaining() > 0));
            }
            Poll::Pending => ends.read_in_turn = 0,
        }
        polled
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Wire<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut ends = self.ends();
        if ends.is_deaf {
            return Poll::Ready(Ok(bytes.len()));
        }
        if ends.gathered.len() >= GATHERED_BYTES && ends.poll_hand_over(cx).is_pending() {
            ends.is_waited_for = true;
            return Poll::Pending;
        }
        let count = bytes.len().min(GATHERED_BYTES - ends.gathered.len());
        ends.gathered.extend_from_slice(&bytes[..count]);
        Poll::Ready(Ok(count))
    }

    /// Nothing is sent before [`Wire::poll_send`].
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut ends = self.ends();
        if ends.upstream_has_ended {
            // Who does not read either is not waited for.
            let _ = Pin::new(&mut ends.stream).poll_shutdown(cx);
            return Poll::Ready(Ok(()));
        }
        ready!(ends.poll_send(cx));
        if !ends.upstream_has_ended {
            ends.departure.0.store(true, Ordering::Release);
        }
        Pin::new(&mut ends.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
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
        let mut stream = Wire::new(Leaving(b"goaway"), departure.clone());
        for _ in 0..2 {
            stream.write_all(b"a request").await.unwrap();
            poll_fn(|cx| stream.poll_send(cx)).await;
        }
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"goaway");
        stream.shutdown().await.unwrap();
        assert!(!departure.was_first(), "upstream was");
    }

    #[tokio::test]
    async fn a_flood_leaves_others_their_turn() {
        let mut stream = Wire::new(tokio::io::join(tokio::io::repeat(1), tokio::io::sink()), Departure::default());
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
        let mut stream = Wire::new(this_end, departure.clone());
        assert!(!departure.was_first());
        stream.shutdown().await.unwrap();
        assert!(departure.was_first());
        drop(other_end);
    }

    #[tokio::test]
    async fn what_is_flushed_leaves_at_the_end_of_the_turn_and_not_before() {
        let (this_end, mut other_end) = tokio::io::duplex(1000);
        let mut stream = Wire::new(this_end, Departure::default());
        for piece in [&b"one"[..], b"two", b"three"] {
            stream.write_all(piece).await.unwrap();
            stream.flush().await.unwrap();
        }
        let mut read = [0; 64];
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(Pin::new(&mut other_end).poll_read(&mut cx, &mut ReadBuf::new(&mut read)).is_pending());
        poll_fn(|cx| stream.poll_send(cx)).await;
        assert_eq!(other_end.read(&mut read).await.unwrap(), b"onetwothree".len(), "at once");
    }

    #[tokio::test]
    async fn more_than_is_gathered_does_not_wait_and_arrives_whole() {
        let (this_end, mut other_end) = tokio::io::duplex(1000);
        let stream = Wire::new(this_end, Departure::default());
        let sent: Vec<u8> = (0..300_000u32).map(|n| n as u8).collect();
        let expected = sent.clone();
        let (mut writing, flushing) = (stream.clone(), stream);
        let writer = tokio::spawn(async move {
            let mut left = &sent[..];
            poll_fn(|cx| {
                while !left.is_empty() {
                    match Pin::new(&mut writing).poll_write(cx, left) {
                        Poll::Ready(count) => left = &left[count.unwrap()..],
                        Poll::Pending => break,
                    }
                }
                // As the connection's task does it, whether the library is done or not.
                let sent = flushing.poll_send(cx);
                if left.is_empty() { sent } else { Poll::Pending }
            })
            .await;
        });
        let mut read = vec![0; expected.len()];
        other_end.read_exact(&mut read).await.unwrap();
        assert!(read == expected);
        writer.await.unwrap();
    }
}
