//! The request body on its way up: pieces that are sent one after the other, none of them copied.
//!
//! Over HTTP/2 upstream may answer before it has taken the body, and never take it. Then the stream is reset when its
//! answer has ended. That takes two things. The task that waits to send more ends when [`Sending`] is dropped. And of a
//! body that may be larger than upstream's window the last byte goes alone: a frame with the end of the stream that waits
//! for the window would make the library take the stream for ended, and nothing could reset it any more; one byte is
//! handed over only when there is room for it. A small body is spared the second frame, which over TLS is a record and a
//! write more.

use super::pool::{StreamGuard, StreamLease};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::rt::Executor;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use tokio::sync::oneshot;

/// A body up to so many bytes fits into the window that a stream has to begin with, unless upstream makes that smaller
/// than a frame.
const SMALL_BYTES: u64 = 16 * 1024;

/// The pieces, and how many of them have been sent.
pub(super) struct RequestBody {
    pieces: Arc<[Bytes]>,
    sent: usize,
    is_small: bool,
    /// Whether of the next piece only the last byte is left.
    is_at_last_byte: bool,
    stream: Option<OnStream>,
}

/// What a body has to do with its HTTP/2 stream.
struct OnStream {
    /// Whether anybody has begun to send it.
    begun: Arc<AtomicBool>,
    /// Ends with the exchange; goes to the task that sends the body.
    exchange: Option<oneshot::Receiver<()>>,
    tasks: Tasks,
    /// A stream is taken until its request is sent too: upstream may answer before that.
    _guard: Arc<StreamGuard>,
}

/// A body that may still be on its way over HTTP/2. Once this is dropped no more of it is sent.
pub(super) struct Sending {
    begun: Arc<AtomicBool>,
    _exchange: oneshot::Sender<()>,
}

impl Sending {
    /// Whether any of it was ever taken.
    pub(super) fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Relaxed)
    }
}

/// A body, by its mark of having begun, and what ends with its exchange.
type Begun = (Arc<AtomicBool>, oneshot::Receiver<()>);

/// Starts the tasks of one HTTP/2 connection.
#[derive(Clone, Default)]
pub(super) struct Tasks {
    /// The body that was asked for its first piece just now, and its exchange. If not all of it can be sent at once, the
    /// next task is the one that sends the rest: the library asks and starts tasks in one turn of the connection's.
    begun_last: Arc<Mutex<Option<Begun>>>,
}

impl Tasks {
    fn begun_last(&self) -> MutexGuard<'_, Option<Begun>> {
        self.begun_last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Tasks {
    fn execute(&self, task: F) {
        let sends_body = self.begun_last().take();
        match sends_body {
            None => tokio::spawn(task),
            Some((_, exchange)) => tokio::spawn(async move {
                tokio::select! {
                    biased;
                    () = task => {}
                    _ = exchange => {}
                }
            }),
        };
    }
}

impl RequestBody {
    pub(super) fn new(pieces: Vec<Bytes>) -> Self {
        let pieces: Arc<[Bytes]> = pieces.into_iter().filter(|piece| !piece.is_empty()).collect();
        let is_small = pieces.iter().map(|piece| piece.len() as u64).sum::<u64>() <= SMALL_BYTES;
        Self { pieces, sent: 0, is_small, is_at_last_byte: false, stream: None }
    }

    /// The body on its way over a certain stream.
    pub(super) fn over(&self, lease: &StreamLease) -> (Self, Sending) {
        let begun = Arc::new(AtomicBool::new(false));
        let (ends_with_exchange, exchange) = oneshot::channel();
        let sending = Sending { begun: begun.clone(), _exchange: ends_with_exchange };
        let (tasks, guard) = (lease.tasks(), lease.stream());
        let stream = OnStream { begun, exchange: Some(exchange), tasks, _guard: guard };
        (Self { pieces: self.pieces.clone(), sent: 0, is_at_last_byte: false, stream: Some(stream), ..*self }, sending)
    }

    /// All pieces.
    pub(super) fn pieces(&self) -> &[Bytes] {
        &self.pieces
    }

    /// What is still to be sent, in bytes.
    pub(super) fn len(&self) -> u64 {
        if self.is_at_last_byte {
            return 1;
        }
        self.pieces.iter().skip(self.sent).map(|piece| piece.len() as u64).sum()
    }

    /// The next piece; of the last one, unless all is small, all but a byte, and then that.
    fn next_piece(&mut self) -> Option<Bytes> {
        let piece = self.pieces.get(self.sent)?;
        let all_but_one = piece.len() - 1;
        if !self.is_small && self.sent + 1 == self.pieces.len() && all_but_one > 0 && !self.is_at_last_byte {
            self.is_at_last_byte = true;
            return Some(piece.slice(..all_but_one));
        }
        self.sent += 1;
        Some(if std::mem::take(&mut self.is_at_last_byte) { piece.slice(all_but_one..) } else { piece.clone() })
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(stream) = &mut self.stream {
            stream.begun.store(true, Ordering::Relaxed);
            if let Some(exchange) = stream.exchange.take() {
                *stream.tasks.begun_last() = Some((stream.begun.clone(), exchange));
            }
        }
        Poll::Ready(self.next_piece().map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.sent == self.pieces.len()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.len())
    }
}

impl Drop for OnStream {
    fn drop(&mut self) {
        // All of it could be handed over at once: no task is going to send the rest.
        let _ = self.tasks.begun_last().take_if(|(begun, _)| Arc::ptr_eq(begun, &self.begun));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes a body to its end, and says how long each piece was.
    fn taken(pieces: &[usize]) -> Vec<usize> {
        let mut body = RequestBody::new(pieces.iter().map(|length| Bytes::from(vec![b'x'; *length])).collect());
        let mut taken = Vec::new();
        while !body.is_end_stream() {
            let left = body.len();
            let piece = body.next_piece().unwrap();
            assert_eq!(body.len(), left - piece.len() as u64, "{pieces:?}");
            taken.push(piece.len());
        }
        assert_eq!((body.len(), body.next_piece()), (0, None));
        taken
    }

    #[test]
    fn the_last_byte_goes_alone_where_there_may_not_be_room_for_all() {
        const SMALL: usize = SMALL_BYTES as usize;
        for (pieces, expected) in [
            (&[SMALL, 0, 1][..], &[SMALL, 1][..]),
            (&[SMALL + 1], &[SMALL, 1]),
            (&[SMALL, 2], &[SMALL, 1, 1]),
            (&[2, SMALL], &[2, SMALL - 1, 1]),
            (&[SMALL], &[SMALL]),
            (&[0, 3, 0, 4], &[3, 4]),
            (&[], &[]),
        ] {
            assert_eq!(taken(pieces), expected, "{pieces:?}");
        }
    }
}
