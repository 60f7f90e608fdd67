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

    /// When all that the socket has taken of uploads, if it has, is gone on the slowest line. What was written behind it
    /// cannot be answered before.
    fn clear(&self) -> Option<Instant>;
}

/// What a socket takes before it says that it is full.
pub(crate) trait Room {
    /// Lets it begin no further piece when so many bytes have not left yet, and take some again when half of them have.
    /// That is so on Linux. Elsewhere a slow upload may be given up since nobody can tell that it gets on, and all else is well.
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
/// What the slowest line whose uploads get on takes in a second, in bytes.
const SLOWEST: u32 = 4 * 1024;
/// What is written at once of an upload, in bytes; less is a small request, or what a connection needs itself.
const UPLOAD: usize = 16 * 1024;

/// A socket, and what was seen of it.
pub(crate) struct Watched<S> {
    socket: S,
    full_since: Option<Instant>,
    has_got_on: bool,
    is_fast: bool,
    clear: Option<Instant>,
}

impl<S: Room> Watched<S> {
    /// Nothing has been seen yet.
    pub(crate) fn new(socket: S) -> Self {
        socket.limit_unsent(NARROW);
        Self { socket, full_since: None, has_got_on: false, is_fast: false, clear: None }
    }

    fn note(&mut self, written: &Poll<io::Result<usize>>) {
        match written {
            Poll::Pending => {
                self.full_since.get_or_insert_with(Instant::now);
            }
            Poll::Ready(Ok(count @ 1..)) => {
                // Into the room that there was.
                if *count >= UPLOAD {
                    self.note_upload(*count, Instant::now());
                }
                if let Some(since) = self.full_since.take() {
                    self.has_got_on = true;
                    self.note_wait(since.elapsed());
                }
            }
            Poll::Ready(_) => {}
        }
    }

    fn note_wait(&mut self, wait: Duration) {
        let is_fast = wait < if self.is_fast { SLOW } else { FAST };
        if is_fast != self.is_fast {
            self.is_fast = is_fast;
            self.socket.limit_unsent(self.room());
        }
    }

    fn room(&self) -> u32 {
        if self.is_fast { WIDE } else { NARROW }
    }

    fn note_upload(&mut self, count: usize, now: Instant) {
        let time_for = |bytes: u64| Duration::from_millis(bytes * 1000 / u64::from(SLOWEST));
        let behind_the_last = self.clear.map_or(now, |clear| clear.max(now)) + time_for(count as u64);
        let with_all_it_holds = now + time_for((self.room() + PIECE).into());
        // A room that has become narrow may still hold what the wide one held.
        self.clear = self.clear.max(Some(behind_the_last.min(with_all_it_holds)));
    }
}

impl<S> Progress for Watched<S> {
    fn take_progress(&mut self) -> bool {
        std::mem::take(&mut self.has_got_on)
    }

    fn clear(&self) -> Option<Instant> {
        self.clear
    }
}

impl<S: Progress> Progress for TlsStream<S> {
    fn take_progress(&mut self) -> bool {
        self.get_mut().0.take_progress()
    }

    fn clear(&self) -> Option<Instant> {
        self.get_ref().0.clear()
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

        fn clear(&self) -> Option<Instant> {
            None
        }
    }

    impl<S: Progress + AsyncRead> Progress for BufReader<S> {
        fn take_progress(&mut self) -> bool {
            self.get_mut().take_progress()
        }

        fn clear(&self) -> Option<Instant> {
            self.get_ref().clear()
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
        for (wait, room) in [(200, NARROW), (20, WIDE), (200, WIDE), (250, NARROW), (50, NARROW), (20, WIDE)] {
            watched.note_wait(Duration::from_millis(wait));
            assert_eq!(watched.socket.0.borrow().last(), Some(&room), "{wait}");
        }
        // The kernel is told of changes only.
        assert_eq!(watched.socket.0.take(), [NARROW, WIDE, NARROW, WIDE]);
    }

    #[test]
    fn an_upload_is_clear_when_the_slowest_line_has_taken_all_that_the_socket_holds() {
        let mut watched = Watched::new(Told::default());
        let begun = Instant::now();
        let after = |seconds| begun + Duration::from_secs(seconds);
        watched.note(&Poll::Ready(Ok(UPLOAD - 1)));
        assert_eq!(watched.clear, None, "a small request");
        watched.note_upload(16 * 1024, begun);
        assert_eq!(watched.clear, Some(after(4)));
        // Behind what is there, or from now on where nothing is.
        watched.note_upload(16 * 1024, after(1));
        assert_eq!(watched.clear, Some(after(8)));
        watched.note_upload(16 * 1024, after(20));
        assert_eq!(watched.clear, Some(after(24)));
        // No more than fits.
        watched.note_upload(1 << 20, after(30));
        assert_eq!(watched.clear, Some(after(30 + 48)));
        watched.note_wait(Duration::ZERO);
        watched.note_upload(1 << 20, after(40));
        assert_eq!(watched.clear, Some(after(40 + 144)));
        watched.note_wait(SLOW);
        watched.note_upload(1 << 20, after(50));
        assert_eq!(watched.clear, Some(after(40 + 144)), "the wide room was full");
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn the_kernel_knows_the_room_and_takes_no_more_than_that_and_a_piece() {
        // What the receiver's buffer holds.
        const RECEIVED: usize = 64 * 1024;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        socket2::SockRef::from(&listener).set_recv_buffer_size(16 * 1024).unwrap();
        let piece = vec![0; 256 * 1024];
        for is_fast in [false, true] {
            let mut watched = Watched::new(TcpStream::connect(listener.local_addr().unwrap()).await.unwrap());
            let _reader = listener.accept().await.unwrap();
            if is_fast {
                watched.note_wait(Duration::ZERO);
            }
            let room = watched.room();
            assert_eq!(socket2::SockRef::from(&watched.socket).tcp_notsent_lowat().unwrap(), room);
            let mut taken = 0;
            while let Ok(count) = tokio::time::timeout(Duration::from_millis(200), watched.write(&piece)).await {
                taken += count.unwrap();
            }
            assert!(taken <= (room + PIECE) as usize + RECEIVED, "{taken} of {room}");
            assert!(watched.clear > Some(Instant::now() + Duration::from_secs((room / SLOWEST).into()) - SLOW * 20));
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
        assert!(watched.clear > Some(now + Duration::from_secs(140)), "the room was wide when it took that");
    }
}
