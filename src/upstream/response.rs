//! The body of upstream's answer, whatever it came over.

use super::http1;
use super::pool::Held;
use bytes::Bytes;
use http_body::Body;
use hyper::body::Incoming;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// A body that is still coming. An HTTP/1.1 connection goes back to its pool with the last piece, or with the body.
pub(crate) enum ResponseBody {
    /// On a connection of its own for as long as it takes.
    Http1(Held, http1::Body),
    /// One stream among others.
    Http2(Incoming),
}

/// How a body broke.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyBroke {
    #[error(transparent)]
    Connection(#[from] io::Error),
    #[error(transparent)]
    Stream(#[from] hyper::Error),
    /// hyper takes a stream that was reset without an error for one that has ended.
    #[error("the stream was reset before its end")]
    Reset,
    #[error("the connection ended before the body did")]
    Ended,
    #[error("a chunk of the body is malformed")]
    Malformed,
}

impl ResponseBody {
    /// The next piece. Trailers are left out.
    pub(crate) fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyBroke>>> {
        match self {
            Self::Http1(held, body) => held.poll_piece(body, cx),
            Self::Http2(incoming) => loop {
                return match ready!(Pin::new(&mut *incoming).poll_frame(cx)) {
                    Some(Ok(frame)) => match frame.into_data() {
                        Ok(data) => Poll::Ready(Some(Ok(data))),
                        Err(_trailers) => continue,
                    },
                    Some(Err(error)) => Poll::Ready(Some(Err(error.into()))),
                    None if !incoming.is_end_stream() => Poll::Ready(Some(Err(BodyBroke::Reset))),
                    None => Poll::Ready(None),
                };
            },
        }
    }
}
