//! How a stream or its connection ended.

use std::fmt;
use std::io;
use std::sync::Arc;

/// Why a stream or a connection is ended, in the standard's numbers (RFC 9113, section 7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reason(pub(super) u32);

impl Reason {
    pub(super) const NO_ERROR: Self = Self(0);
    pub(super) const PROTOCOL_ERROR: Self = Self(1);
    pub(super) const FLOW_CONTROL_ERROR: Self = Self(3);
    pub(super) const FRAME_SIZE_ERROR: Self = Self(6);
    pub(super) const REFUSED_STREAM: Self = Self(7);
    pub(super) const CANCEL: Self = Self(8);
    pub(super) const COMPRESSION_ERROR: Self = Self(9);
    pub(super) const ENHANCE_YOUR_CALM: Self = Self(11);
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [&str; 14] = [
            "NO_ERROR",
            "PROTOCOL_ERROR",
            "INTERNAL_ERROR",
            "FLOW_CONTROL_ERROR",
            "SETTINGS_TIMEOUT",
            "STREAM_CLOSED",
            "FRAME_SIZE_ERROR",
            "REFUSED_STREAM",
            "CANCEL",
            "COMPRESSION_ERROR",
            "CONNECT_ERROR",
            "ENHANCE_YOUR_CALM",
            "INADEQUATE_SECURITY",
            "HTTP_1_1_REQUIRED",
        ];
        match NAMES.get(self.0 as usize) {
            Some(name) => f.write_str(name),
            None => write!(f, "error {}", self.0),
        }
    }
}

/// Who ended something.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// This one, for a fault of the other.
    Gateway,
    /// The other.
    Upstream,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gateway => "the gateway",
            Self::Upstream => "upstream",
        })
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub enum SendError {
    /// It never left: its connection had died or was going away.
    Unsent(StreamError),
    /// Its connection went away without processing it: its stream is beyond the last one that a GOAWAY names, or nothing
    /// of its body had left.
    LeftBehind(StreamError),
    /// Upstream refused this one stream without processing it.
    Refused(StreamError),
    /// It may have been processed.
    Broke(StreamError),
}

/// How a stream ended, or the connection it was on.
///
/// What upstream put into a GOAWAY is not told: that may be anything, what it was sent included.
#[derive(Clone)]
pub enum StreamError {
    /// The stream alone.
    Reset(Side, Reason),
    /// The connection, by a word.
    Ended(Side, Reason),
    /// The connection, without one.
    Broke(Arc<str>),
    /// Upstream is silent.
    Silent,
    /// Upstream has closed the connection.
    Closed,
    /// The connection takes no further request.
    Unusable,
}

impl StreamError {
    pub(super) fn broke(error: &io::Error) -> Self {
        Self::Broke(error.to_string().into())
    }
}

impl fmt::Display for StreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reset(by, reason) => write!(f, "the stream was ended by {by}: {reason}"),
            Self::Ended(by, reason) => write!(f, "the connection was ended by {by}: {reason}"),
            Self::Broke(error) => write!(f, "the connection broke: {error}"),
            Self::Silent => f.write_str("the connection broke: upstream answers no PING"),
            Self::Closed => f.write_str("the connection broke: upstream closed it"),
            Self::Unusable => f.write_str("the connection takes no further request"),
        }
    }
}

impl fmt::Debug for StreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for StreamError {}
