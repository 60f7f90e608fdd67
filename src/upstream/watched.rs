//! A socket that can be seen to get on: whether the other side takes what is written. TLS above it has a buffer of its own,
//! which takes some when the socket takes nothing, and none when it does. So that it is seen soon, a slow line's socket has
//! little room.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::coop::has_budget_remaining;
use tokio::time::Instant;
use tokio_rustls::client::TlsStream;

/// Something that is written to and read from, down to a socket.
pub(crate) trait Progress {
    /// Whether the other side has shown a sign of itself since this was asked last: the socket has given something, or has
    /// taken something after it had taken nothing.
    fn take_progress(&mut self) -> bool;

    /// How much the socket has taken in all, in bytes.
    fn taken(&self) -> u64;

    /// How much of that it may still hold, in bytes.
    fn room(&self) -> u64;
}

/// What a socket takes before it says that it is full.
pub(crate) trait Room {
    /// Lets it begin no further piece when so many bytes have not left yet, and take some again when half of them have.
    /// Whether it does: so it is on Linux.
    fn limit_unsent(&self, bytes: u32) -> bool;
}

impl Room for TcpStream {
    #[cfg(target_os = "linux")]
    fn limit_unsent(&self, bytes: u32) -> bool {
        socket2::SockRef::from(self).set_tcp_notsent_lowat(bytes).is_ok()
    }

    #[cfg(not(target_os = "linux"))]
    fn limit_unsent(&self, _: u32) -> bool {
        false
    }
}

/// The room of a line that may be slow. The kernel would take megabytes of an upload, and nobody could tell that it gets
/// on, nor send anything else meanwhile.
const NARROW: u32 = 128 * 1024;
/// The room of a fast line, where little room costs a fifth more for an upload, since it is full so often.
const WIDE: u32 = 512 * 1024;
/// A line is fast, of more than a megabyte a second, when half of its room is free so soon after it was full,
const FAST: Duration = Duration::from_millis(50);
/// and no more when that of its wide room is not.
const SLOW: Duration = Duration::from_millis(250);
/// What the kernel may take beyond the room, in bytes: a piece that it has begun it fills.
const PIECE: u32 = 64 * 1024;
/// A socket, and what was seen of it.
pub(crate) struct Watched<S> {
    socket: S,
    taken: u64,
    full_since: Option<Instant>,
    has_got_on: bool,
    is_limited: bool,
    is_fast: bool,
}

impl<S: Room> Watched<S> {
    /// Nothing has been seen yet.
    pub(crate) fn new(socket: S) -> Self {
        let is_limited = socket.limit_unsent(NARROW);
        Self { socket, taken: 0, full_since: None, has_got_on: false, is_limited, is_fast: false }
    }

    fn note(&mut self, written: &Poll<io::Result<usize>>) {
        match written {
            // Or else it is not the socket that is full, but the task that has used up its turn.
            Poll::Pending if has_budget_remaining() => {
                self.full_since.get_or_insert_with(Instant::now);
            }
            Poll::Ready(Ok(count @ 1..)) => {
                self.taken += *count as u64;
                if let Some(since) = self.full_since.take() {
                    self.has_got_on = true;
                    self.note_wait(since.elapsed());
                }
            }
            Poll::Ready(_) | Poll::Pending => {}
        }
    }

    fn note_wait(&mut self, wait: Duration) {
        let is_fast = wait < if self.is_fast { SLOW } else { FAST };
        if is_fast != self.is_fast {
            self.is_fast = is_fast;
            self.is_limited = self.socket.limit_unsent(if is_fast { WIDE } else { NARROW });
        }
    }
}

impl<S> Progress for Watched<S> {
    fn take_progress(&mut self) -> bool {
        std::mem::take(&mut self.has_got_on)
    }

    fn taken(&self) -> u64 {
        self.taken
    }

    fn room(&self) -> u64 {
        match (self.is_limited, self.is_fast) {
            (false, _) => u64::MAX,
            (true, false) => (NARROW + PIECE).into(),
            (true, true) => (WIDE + PIECE).into(),
        }
    }
}

impl<S: Progress> Progress for TlsStream<S> {
    fn take_progress(&mut self) -> bool {
        self.get_mut().0.take_progress()
    }

    fn taken(&self) -> u64 {
        self.get_ref().0.taken()
    }

    fn room(&self) -> u64 {
        self.get_ref().0.room()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let read = Pin::new(&mut self.socket).poll_read(cx, into);
        self.has_got_on |= into.filled().len() > before;
        read
    }
}

impl<S: AsyncWrite + Room + Unpin> AsyncWrite for Watched<S> {
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
    use std::cell::RefCell;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader, DuplexStream, duplex};

    /// It holds what it was made for.
    impl Room for DuplexStream {
        fn limit_unsent(&self, _: u32) -> bool {
            false
        }
    }

    impl<S: Progress + AsyncRead> Progress for BufReader<S> {
        fn take_progress(&mut self) -> bool {
            self.get_mut().take_progress()
        }

        fn taken(&self) -> u64 {
            self.get_ref().taken()
        }

        fn room(&self) -> u64 {
            self.get_ref().room()
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
        assert_eq!(watched.taken(), 9);
        // Whatever it is good for.
        other_end.write_all(b"1").await.unwrap();
        watched.read_exact(&mut [0]).await.unwrap();
        assert!(watched.take_progress() && !watched.take_progress());
    }

    /// A socket that has no bytes, and tells its room.
    #[derive(Default)]
    struct Told(RefCell<Vec<u32>>);

    impl Room for Told {
        fn limit_unsent(&self, bytes: u32) -> bool {
            self.0.borrow_mut().push(bytes);
            true
        }
    }

    #[test]
    fn a_fast_line_has_more_room_until_it_is_slow() {
        let mut watched = Watched::new(Told::default());
        for (wait, room) in [(200, NARROW), (20, WIDE), (200, WIDE), (250, NARROW), (50, NARROW), (20, WIDE)] {
            watched.note_wait(Duration::from_millis(wait));
            assert_eq!(watched.socket.0.borrow().last(), Some(&room), "{wait}");
        }
        // The kernel is told of changes only.
        assert_eq!(watched.socket.0.take(), [NARROW, WIDE, NARROW, WIDE]);
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn the_kernel_knows_the_room_and_takes_no_more_than_that_and_a_piece() {
        // What the receiver's buffer holds.
        const RECEIVED: u64 = 64 * 1024;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        socket2::SockRef::from(&listener).set_recv_buffer_size(16 * 1024).unwrap();
        let piece = vec![0; 256 * 1024];
        for is_fast in [false, true] {
            let mut watched = Watched::new(TcpStream::connect(listener.local_addr().unwrap()).await.unwrap());
            let _reader = listener.accept().await.unwrap();
            if is_fast {
                watched.note_wait(Duration::ZERO);
            }
            let room = if is_fast { WIDE } else { NARROW };
            assert_eq!(socket2::SockRef::from(&watched.socket).tcp_notsent_lowat().unwrap(), room);
            assert_eq!(watched.room(), u64::from(room + PIECE));
            while let Ok(count) = tokio::time::timeout(Duration::from_millis(200), watched.write(&piece)).await {
                assert!(count.unwrap() > 0);
            }
            let taken = watched.taken();
            assert!((room.into()..=watched.room() + RECEIVED).contains(&taken), "{taken} of {room}");
        }
    }

    #[test]
    fn a_wait_is_from_full_to_taken() {
        let mut watched = Watched::new(Told::default());
        let (now, taken) = (Instant::now(), Poll::Ready(Ok(1)));
        watched.note(&taken);
        assert!(!watched.is_fast, "it was not full");
        watched.full_since = Some(now + SLOW);
        watched.note(&taken);
        assert!(watched.is_fast);
        watched.full_since = Some(now - SLOW);
        watched.note(&Poll::Pending);
        watched.note(&Poll::Ready(Ok(1 << 20)));
        assert!(!watched.is_fast);
    }

    #[test]
    fn a_socket_that_has_no_limit_may_hold_everything() {
        let (this_end, _other_end) = duplex(8);
        assert_eq!(Watched::new(this_end).room(), u64::MAX);
    }
}
