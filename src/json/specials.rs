//! Where bytes stand that mean something but themselves in a string: quotes, backslashes, and control characters, which may
//! not stand there.
//!
//! They are marked for 64 bytes at a time, without a branch; to search anew behind each would cost more than all else in
//! texts that are rich in them, as code in JSON is.

use fearless_simd::{Level, Simd, dispatch, prelude::*, u8x16};

/// How many bytes are marked at a time.
const BLOCK: usize = 64;

/// The special bytes of a text.
#[derive(Debug)]
pub struct Specials<'a> {
    text: &'a [u8],
    /// Which block has been marked last.
    block: usize,
    /// Its marks: a bit for each byte, the first in the lowest.
    marks: u64,
}

impl<'a> Specials<'a> {
    /// Nothing is looked at yet.
    #[must_use]
    pub fn of(text: &'a [u8]) -> Self {
        Self { text, block: usize::MAX, marks: 0 }
    }

    /// Where the first one from `at` on stands, up to the end of the block that this is in.
    #[inline]
    pub fn next_in_block(&mut self, at: usize) -> Option<usize> {
        let block = at / BLOCK;
        if block != self.block {
            self.marks = marks(self.text, block)?;
            self.block = block;
        }
        let behind = self.marks >> (at % BLOCK);
        (behind != 0).then(|| at + behind.trailing_zeros() as usize)
    }

    /// Where the first one from `at` on stands.
    #[inline]
    pub fn next(&mut self, at: usize) -> Option<usize> {
        self.next_before(at, usize::MAX)
    }

    /// The same, but it is not searched for beyond `limit`: a place from there on may be any.
    #[inline]
    pub fn next_before(&mut self, mut at: usize, limit: usize) -> Option<usize> {
        loop {
            if let Some(found) = self.next_in_block(at) {
                return Some(found);
            }
            at = (at / BLOCK + 1) * BLOCK;
            if at >= limit || at >= self.text.len() {
                return (at < self.text.len()).then_some(at);
            }
        }
    }
}

/// The marks of a block; `None` behind the end.
fn marks(text: &[u8], block: usize) -> Option<u64> {
    let rest = text.get(block * BLOCK..).filter(|rest| !rest.is_empty())?;
    if let Some(whole) = rest.first_chunk() {
        return Some(marks_of(whole));
    }
    let mut padded = [b' '; BLOCK];
    padded.get_mut(..rest.len())?.copy_from_slice(rest);
    Some(marks_of(&padded))
}

/// By what every CPU of its kind has: a choice would take longer than one block does.
#[inline]
fn marks_of(block: &[u8; BLOCK]) -> u64 {
    dispatch!(Level::baseline(), simd => marks_by(simd, block))
}

/// Sixteen at a time: of the marks of all 64 at once the compiler makes single bits, to put them together again.
#[inline(always)]
fn marks_by<S: Simd>(simd: S, block: &[u8; BLOCK]) -> u64 {
    let (sixteens, _) = block.as_chunks();
    sixteens.iter().rev().fold(0, |marks, sixteen| {
        let bytes = u8x16::simd_from(simd, *sixteen);
        marks << 16 | (bytes.simd_eq(b'"') | bytes.simd_eq(b'\\') | bytes.simd_lt(b' ')).to_bitmask()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn is_special(byte: u8) -> bool {
        byte < 0x20 || byte == b'"' || byte == b'\\'
    }

    #[test]
    fn every_byte_is_judged_wherever_it_stands() {
        for around in [b' ', b'"', 0] {
            for place in 0..BLOCK {
                for byte in 0..=u8::MAX {
                    let mut block = [around; BLOCK];
                    block[place] = byte;
                    let expected = block.iter().rev().fold(0, |bits, byte| bits << 1 | u64::from(is_special(*byte)));
                    assert_eq!(marks_of(&block), expected, "{byte} at {place} in {around}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn the_next_one_is_the_first_of_them(
            bytes in proptest::collection::vec(prop_oneof![9 => b' '..b'~', 1 => any::<u8>(), 1 => Just(b'"')], 0..200),
            places in proptest::collection::vec(0..210_usize, 1..20),
        ) {
            let mut specials = Specials::of(&bytes);
            for from in places {
                let expected = (from..bytes.len()).find(|at| is_special(bytes[*at]));
                prop_assert_eq!(specials.next(from), expected, "{}", from);
                let limit = from + 70;
                let before = specials.next_before(from, limit);
                prop_assert!(before == expected || before.is_some_and(|at| at >= limit && at < bytes.len() && expected.is_none_or(|found| found >= at)));
            }
        }
    }
}
