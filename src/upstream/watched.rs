//! A socket that can be seen to get on: whether the other side takes what is written. TLS above it has a buffer of its own,
//! which takes some when the socket takes nothing, and none when it does. So that it is seen soon, a slow line's socket has
//! little room.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::client::TlsStream;

/// Something that is written to, down to a socket.
pub(crate) trait Progress {
    /// Whether the socket has taken something after it had taken nothing, since this was asked last.
    fn take_progress(&mut self) -> bool;

    /// How many times 10 seconds it may be until that is seen of an upload that gets on, though slowly, since the socket
    /// took something, or nothing any more.
    fn unseen(&self) -> u32;
}

/// What a socket takes before it says that it is full.
pub(crate) trait Room {
    /// Lets it take no more when so many bytes have not left yet; it is asked again when half of them have. That is so on
    /// Linux. Elsewhere a slow upload may be given up since nobody can tell that it gets on, and all else is well.
    fn limit_unsent(&self, bytes: u32);
}

impl Room for TcpStream {
    fn limit_unsent(&self, bytes: u32) {
        #[cfg(target_os = "linux")]
        let _ = socket2::SockRef::from(self).set_tcp_notsent_lowat(bytes);
        #[cfg(not(target_os = "linux"))]
        let _ = bytes;
    }
}

/// What the slowest line whose uploads get on takes in 10 seconds: 4 KiB a second, and a fifth less for a while.
const SLOWEST: u32 = 32 * 1024;
/// The room of a line that may be slow. The kernel would take megabytes of an upload, and nobody could tell that it gets
/// on, nor send anything else meanwhile.
const NARROW: u32 = 128 * 1024;
/// The room of a fast line, where little room costs a fifth more for an upload, since it is full so often.
const WIDE: u32 = 512 * 1024;
/// A line is fast, of more than a megabyte a second, when half of its room is free so soon after it was full,
const FAST: Duration = Duration::from_millis(50);
/// and no more when that of its wide room is not.
const SLOW: Duration = Duration::from_millis(250);

/// What is known of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    MaybeSlow,
    Fast,
    /// It was fast: more may be under way than its room is now.
    NoLongerFast,
}

impl Line {
    fn room(self) -> u32 {
        if self == Self::Fast { WIDE } else { NARROW }
    }

    /// What has to leave until the socket takes something again.
    fn leaves_unseen(self) -> u32 {
        match self {
            Self::MaybeSlow => NARROW / 2,
            Self::Fast => WIDE / 2,
            Self::NoLongerFast => WIDE - NARROW / 2,
        }
    }

    /// What is known when there was room again after so long.
    fn after(self, wait: Duration) -> Self {
        match self {
            Self::Fast if wait < SLOW => Self::Fast,
            Self::Fast => Self::NoLongerFast,
            _ if wait < FAST => Self::Fast,
            _ => Self::MaybeSlow,
        }
    }
}

/// A socket, and what was seen of it.
pub(crate) struct Watched<S> {
    socket: S,
    full_since: Option<Instant>,
    has_got_on: bool,
    line: Line,
}

impl<S: Room> Watched<S> {
    /// Nothing has been seen yet.
    pub(crate) fn new(socket: S) -> Self {
        socket.limit_unsent(Line::MaybeSlow.room());
        Self { socket, full_since: None, has_got_on: false, line: Line::MaybeSlow }
    }

    fn note(&mut self, written: &Poll<io::Result<usize>>) {
        match written {
            Poll::Pending => {
                self.full_since.get_or_insert_with(Instant::now);
            }
            Poll::Ready(Ok(1..)) => {
                if let Some(since) = self.full_since.take() {
                    self.has_got_on = true;
                    self.note_wait(since.elapsed());
                }
            }
            Poll::Ready(_) => {}
        }
    }

    fn note_wait(&mut self, wait: Duration) {
        let line = self.line.after(wait);
        if line.room() != self.line.room() {
            self.socket.limit_unsent(line.room());
        }
        self.line = line;
    }
}

impl<S> Progress for Watched<S> {
    fn take_progress(&mut self) -> bool {
        std::mem::take(&mut self.has_got_on)
    }

    fn unseen(&self) -> u32 {
        self.line.leaves_unseen() / SLOWEST
    }
}

impl<S: Progress> Progress for TlsStream<S> {
    fn take_progress(&mut self) -> bool {
        self.get_mut().0.take_progress()
    }

    fn unseen(&self) -> u32 {
        self.get_ref().0.unseen()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, into)
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

    impl Room for DuplexStream {
        fn limit_unsent(&self, _: u32) {}
    }

    /// In memory there is nobody to be seen.
    impl Progress for DuplexStream {
        fn take_progress(&mut self) -> bool {
            false
        }

        fn unseen(&self) -> u32 {
            1
        }
    }

    impl<S: Progress + AsyncRead> Progress for BufReader<S> {
        fn take_progress(&mut self) -> bool {
            self.get_mut().take_progress()
        }

        fn unseen(&self) -> u32 {
            self.get_ref().unseen()
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

    /// A socket that has no bytes, and tells its room.
    #[derive(Default)]
    struct Told(RefCell<Vec<u32>>);

    impl Room for Told {
        fn limit_unsent(&self, bytes: u32) {
            self.0.borrow_mut().push(bytes);
        }
    }

    #[test]
    fn a_fast_line_has_more_room_until_it_is_slow() {
        let mut watched = Watched::new(Told::default());
        for (wait, line, unseen) in [
            (200, Line::MaybeSlow, 2),
            (20, Line::Fast, 8),
            (200, Line::Fast, 8),
            (250, Line::NoLongerFast, 14),
            (50, Line::MaybeSlow, 2),
            (20, Line::Fast, 8),
            (1000, Line::NoLongerFast, 14),
            (20, Line::Fast, 8),
        ] {
            watched.note_wait(Duration::from_millis(wait));
            assert_eq!((watched.line, watched.unseen()), (line, unseen), "{wait}");
        }
        // The kernel is told of changes only.
        assert_eq!(watched.socket.0.take(), [NARROW, WIDE, NARROW, WIDE, NARROW, WIDE]);
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn the_kernel_knows_the_room_and_a_wait_is_from_full_to_taken() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut watched = Watched::new(TcpStream::connect(listener.local_addr().unwrap()).await.unwrap());
        let room = |watched: &Watched<TcpStream>| socket2::SockRef::from(&watched.socket).tcp_notsent_lowat().unwrap();
        assert_eq!(room(&watched), NARROW);
        let (now, taken) = (Instant::now(), Poll::Ready(Ok(1)));
        watched.note(&taken);
        assert_eq!(room(&watched), NARROW, "it was not full");
        watched.full_since = Some(now + SLOW);
        watched.note(&taken);
        assert_eq!(room(&watched), WIDE);
        watched.full_since = Some(now - SLOW);
        watched.note(&Poll::Pending);
        watched.note(&taken);
        assert_eq!(room(&watched), NARROW);
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn no_more_leaves_unseen_than_is_said() {
        // What the receiver's buffers and the kernel's pieces add.
        const BLUR: u32 = 128 * 1024;
        const STEP: Duration = Duration::from_millis(20);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        socket2::SockRef::from(&listener).set_recv_buffer_size(16 * 1024).unwrap();
        let piece = [0; 64 * 1024];
        for line in [Line::MaybeSlow, Line::Fast, Line::NoLongerFast] {
            let mut watched = Watched::new(TcpStream::connect(listener.local_addr().unwrap()).await.unwrap());
            let (mut reader, _) = listener.accept().await.unwrap();
            if line != Line::MaybeSlow {
                watched.note_wait(Duration::ZERO);
            }
            while tokio::time::timeout(10 * STEP, watched.write(&piece)).await.is_ok() {}
            if line == Line::NoLongerFast {
                watched.note_wait(SLOW);
            }
            assert_eq!(watched.line, line);
            let (mut left, mut read) = (0, [0; 8 * 1024]);
            while tokio::time::timeout(STEP, watched.write(&piece[..1])).await.is_err() {
                reader.read_exact(&mut read).await.unwrap();
                left += read.len() as u32;
            }
            assert!(watched.take_progress());
            let said = line.leaves_unseen();
            assert!(left <= said + BLUR, "{line:?}: {left}, not {said}");
        }
    }
}
