//! The body of upstream's answer, whatever it came over.

use super::body::Sending;
use super::http1;
use super::pool::{Held, StreamLease};
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
    Http2(Http2Body),
    /// It has ended, and an HTTP/2 stream is free.
    Ended,
}

/// A body on a stream, which is taken until this is dropped. What has not been sent of the request by then is given up,
/// and upstream is told so by a reset.
pub(crate) struct Http2Body {
    incoming: Incoming,
    _sending: Sending,
    _lease: StreamLease,
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
    pub(super) fn over_http2(incoming: Incoming, sending: Sending, lease: StreamLease) -> Self {
        Self::Http2(Http2Body { incoming, _sending: sending, _lease: lease })
    }

    /// The next piece. Trailers are left out.
    pub(crate) fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyBroke>>> {
        match self {
            Self::Http1(held, body) => held.poll_piece(body, cx),
            Self::Http2(body) => loop {
                let incoming = &mut body.incoming;
                let end = match ready!(Pin::new(&mut *incoming).poll_frame(cx)) {
                    Some(Ok(frame)) => match frame.into_data() {
                        Ok(data) => return Poll::Ready(Some(Ok(data))),
                        Err(_trailers) => continue,
                    },
                    Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                    None if !incoming.is_end_stream() => Some(Err(BodyBroke::Reset)),
                    None => None,
                };
                *self = Self::Ended;
                return Poll::Ready(end);
            },
            Self::Ended => Poll::Ready(None),
        }
    }
}
