//! The request body on its way up: pieces that are sent one after the other, none of them copied.

use bytes::{Bytes, BytesMut};

/// Pieces of a body up to this size are joined for HTTP/2, in bytes: a frame costs more than the copy.
const JOINED_BYTES: usize = 16 * 1024;

/// A body in pieces, none of which is empty.
pub(super) struct RequestBody {
    pieces: Vec<Bytes>,
    length: usize,
}

impl RequestBody {
    pub(super) fn new(mut pieces: Vec<Bytes>) -> Self {
        pieces.retain(|piece| !piece.is_empty());
        let length = pieces.iter().map(Bytes::len).sum();
        Self { pieces, length }
    }

    /// All pieces.
    pub(super) fn pieces(&self) -> &[Bytes] {
        &self.pieces
    }

    /// In bytes.
    pub(super) fn len(&self) -> usize {
        self.length
    }

    pub(super) fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// What goes up over HTTP/2, the last first.
    pub(super) fn frames(&self) -> Vec<Bytes> {
        if self.length > JOINED_BYTES || self.pieces.len() < 2 {
            return self.pieces.iter().rev().cloned().collect();
        }
        let mut joined = BytesMut::with_capacity(self.length);
        self.pieces.iter().for_each(|piece| joined.extend_from_slice(piece));
        vec![joined.freeze()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_pieces_are_joined_and_large_ones_stay_what_they_are() {
        for (lengths, expected) in [
            (&[3, 0, 4][..], &[7][..]),
            (&[3], &[3]),
            (&[JOINED_BYTES - 1, 1], &[JOINED_BYTES]),
            (&[2, JOINED_BYTES], &[JOINED_BYTES, 2]),
            (&[], &[]),
        ] {
            let pieces: Vec<_> = (1..).zip(lengths).map(|(byte, length)| Bytes::from(vec![byte; *length])).collect();
            let body = RequestBody::new(pieces.clone());
            let frames = body.frames();
            assert_eq!(frames.iter().map(Bytes::len).collect::<Vec<_>>(), expected, "{lengths:?}");
            assert_eq!((body.len(), body.is_empty()), (expected.iter().sum(), expected.is_empty()));
            assert!(frames.into_iter().rev().flatten().eq(pieces.into_iter().flatten()), "{lengths:?}");
        }
    }
}
