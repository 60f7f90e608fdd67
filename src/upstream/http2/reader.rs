//! What upstream sends, cut into frames. Bodies are passed on as they come, also within a frame; of all else a payload is
//! waited for.

use super::frame::{FrameHead, HEAD_BYTES};

/// What is being read.
pub(super) enum Reader {
    /// The head of a frame, of which so many bytes have come.
    Head { bytes: [u8; HEAD_BYTES], there: usize },
    /// A payload that is looked at when it is whole.
    Payload { head: FrameHead, there: Vec<u8> },
    /// The length of a body's padding.
    PadLength(FrameHead),
    /// A body, of which so many bytes are to come, and then so many of padding.
    Body { stream: u32, left: usize, padding: usize, ends: bool },
    /// So many bytes that nobody needs.
    Skipped(usize),
}

impl Default for Reader {
    fn default() -> Self {
        Self::Head { bytes: [0; HEAD_BYTES], there: 0 }
    }
}

impl Reader {
    /// Takes more of a frame's head; `Some` when it is whole.
    pub(super) fn head(bytes: &mut [u8; HEAD_BYTES], there: &mut usize, input: &mut &[u8]) -> Option<FrameHead> {
        if *there == 0
            && let Some((whole, rest)) = input.split_first_chunk()
        {
            *input = rest;
            return Some(FrameHead::read(*whole));
        }
        let count = input.len().min(HEAD_BYTES - *there);
        let (taken, rest) = input.split_at(count);
        bytes[*there..*there + count].copy_from_slice(taken);
        *input = rest;
        *there += count;
        (*there == HEAD_BYTES).then(|| FrameHead::read(*bytes))
    }
}

/// Takes so many bytes at most off the front.
pub(super) fn take<'a>(input: &mut &'a [u8], most: usize) -> &'a [u8] {
    let (taken, rest) = input.split_at(most.min(input.len()));
    *input = rest;
    taken
}
