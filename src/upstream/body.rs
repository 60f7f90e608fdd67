//! The request body on its way up: pieces that are sent one after the other, none of them copied.

use super::pool::{StreamGuard, StreamLease};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

/// The pieces, and how many of them have been sent.
pub(super) struct RequestBody {
    pieces: Arc<[Bytes]>,
    sent: usize,
    /// Whether anybody has begun to send it.
    begun: Arc<AtomicBool>,
    /// An HTTP/2 stream is taken until its request is sent too: upstream may answer before that.
    _stream: Option<Arc<StreamGuard>>,
}

impl RequestBody {
    pub(super) fn new(pieces: Vec<Bytes>) -> Self {
        Self {
            pieces: pieces.into_iter().filter(|piece| !piece.is_empty()).collect(),
            sent: 0,
            begun: Arc::default(),
            _stream: None,
        }
    }

    /// The body on its way over a certain stream, and what tells whether any of it was ever taken.
    pub(super) fn over(&self, lease: &StreamLease) -> (Self, Arc<AtomicBool>) {
        let begun = Arc::new(AtomicBool::new(false));
        (Self { pieces: self.pieces.clone(), sent: 0, begun: begun.clone(), _stream: Some(lease.stream()) }, begun)
    }

    /// All pieces.
    pub(super) fn pieces(&self) -> &[Bytes] {
        &self.pieces
    }

    /// What is still to be sent, in bytes.
    pub(super) fn len(&self) -> u64 {
        self.pieces.iter().skip(self.sent).map(|piece| piece.len() as u64).sum()
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.begun.store(true, Ordering::Relaxed);
        let next = self.pieces.get(self.sent).cloned();
        self.sent += usize::from(next.is_some());
        Poll::Ready(next.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.sent == self.pieces.len()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.len())
    }
}
