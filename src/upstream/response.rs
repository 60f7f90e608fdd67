//! The body of upstream's answer, whatever it came over.

use super::http2::StreamError;
use super::pool::{Held, StreamLease};
use super::{http1, http2};
use bytes::Bytes;
use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::timeout;

/// How long the end of a body is waited for whose every announced byte has come. To HTTP/2 that is another frame.
const LAST_WORD_TIMEOUT: Duration = Duration::from_secs(5);

/// A body that is still coming. An HTTP/1.1 connection goes back to its pool with the last piece, or with the body.
pub(crate) enum ResponseBody {
    /// On a connection of its own for as long as it takes.
    Http1(Held, http1::Body),
    /// One stream among others, which is taken until this is dropped. What has not been sent of the request by then is
    /// given up, and upstream is told so by a reset.
    Http2 { body: http2::Body, _lease: StreamLease },
    /// It has ended, or nobody here waits for its end any more.
    Ended,
}

/// How a body broke.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyBroke {
    #[error(transparent)]
    Connection(#[from] io::Error),
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error("the connection ended before the body did")]
    Ended,
    #[error("a chunk of the body is malformed")]
    Malformed,
}

impl ResponseBody {
    /// Whether another piece, or the end, may be there without a wait.
    pub(crate) fn may_have_more(&self) -> bool {
        match self {
            Self::Http1(held, body) => held.may_have_more(body),
            Self::Http2 { body, .. } => body.may_have_more(),
            Self::Ended => true,
        }
    }

    /// Has the end waited for elsewhere, of a body of which nothing more is needed: its stream would be reset else. It is
    /// where upstream has not even taken the request.
    pub(crate) fn leave_to_its_end(&mut self) {
        let mut left = std::mem::replace(self, Self::Ended);
        if matches!(&left, Self::Http2 { body, .. } if body.is_request_sent()) {
            tokio::spawn(timeout(LAST_WORD_TIMEOUT, async move {
                while let Some(Ok(_)) = poll_fn(|cx| left.poll_piece(cx)).await {}
            }));
        }
    }

    /// The next piece. Trailers are left out.
    pub(crate) fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyBroke>>> {
        match self {
            Self::Http1(held, body) => held.poll_piece(body, cx),
            Self::Http2 { body, .. } => {
                let piece = ready!(body.poll_piece(cx));
                if piece.is_none() {
                    *self = Self::Ended;
                }
                Poll::Ready(piece.map(|piece| piece.map_err(BodyBroke::from)))
            }
            Self::Ended => Poll::Ready(None),
        }
    }
}
