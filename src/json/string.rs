//! Where a long string ends, and whether all of it is good: 64 bytes at a time, by the widest vectors that the CPU has.
//!
//! Text in JSON is rich in escapes, and to stop at each would cost more than all else. So they are judged for a whole
//! block at a time, by sets of bits: one bit for each byte, the first in the lowest.

use fearless_simd::{Level, Simd, dispatch, prelude::*, u8x64};

/// What of a string has come so far without its end, in bytes, before it is worth to read it on in this way: names and
/// short values have ended by then, and several of them stand in a block of [`super::Specials`].
pub const LONG_STRING_BYTES: usize = 192;
/// An escape is a stop in that search, and costs as much as so many bytes.
pub const ESCAPE_COUNTS: usize = 64;
/// How many bytes are looked at at a time.
const BLOCK: usize = 64;
/// The places of even number in a block.
const EVEN: u64 = 0x5555_5555_5555_5555;

/// What is known of a string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// It ends, and goes on behind this place no more.
    Ended(usize),
    /// What is there is not all of it; all before this place is good, and no escape goes beyond it.
    Open(usize),
    /// A control character, or an escape that is none.
    Broken,
}

/// Reads a string on from `from`, which stands in it and in no escape, up to behind its closing quote.
#[must_use]
pub fn read(text: &[u8], from: usize) -> Reading {
    dispatch!(Level::new(), simd => read_by(simd, text, from))
}

#[inline(always)]
fn read_by<S: Simd>(simd: S, text: &[u8], from: usize) -> Reading {
    let (blocks, tail) = text.get(from..).unwrap_or_default().as_chunks::<BLOCK>();
    let mut escapes = Escapes::default();
    let mut at = from;
    for block in blocks {
        match escapes.next(simd, block) {
            Step::Inside => at += BLOCK,
            Step::Ends(place) => return Reading::Ended(at + place + 1),
            Step::Breaks => return Reading::Broken,
        }
    }
    let open = at - escapes.open_bytes();
    let mut padded = [b' '; BLOCK];
    if let Some(begin) = padded.get_mut(..tail.len()) {
        begin.copy_from_slice(tail);
    }
    match escapes.next(simd, &padded) {
        Step::Ends(place) => Reading::Ended(at + place + 1),
        // What breaks may be no more than the padding behind an escape.
        Step::Inside | Step::Breaks => Reading::Open(open),
    }
}

enum Step {
    /// The string goes on behind the block.
    Inside,
    /// Its closing quote stands at this place.
    Ends(usize),
    /// It is not well-formed.
    Breaks,
}

/// What escapes of one block mean for the next.
#[derive(Default)]
struct Escapes {
    /// The block's first byte is escaped: one bit or none.
    escaped: u64,
    /// The block's first bytes that must be hexadecimal digits.
    digits: u64,
}

impl Escapes {
    #[inline(always)]
    fn next<S: Simd>(&mut self, simd: S, block: &[u8; BLOCK]) -> Step {
        let bytes = u8x64::simd_from(simd, *block);
        let quotes = bytes.simd_eq(b'"');
        // What ends a string, in order or not.
        let ends = (quotes | bytes.simd_lt(b' ')).to_bitmask();
        let backslashes = bytes.simd_eq(b'\\').to_bitmask();
        if backslashes | self.escaped | self.digits == 0 {
            return Self::step(ends, quotes.to_bitmask());
        }

        // In a run of backslashes each second one is escaped by that before it, so an odd run escapes the byte behind
        // it. A sum carries from where a run begins to behind its end.
        let in_runs = backslashes & !self.escaped;
        let begins = in_runs & !(in_runs << 1);
        let (behind_even, _) = in_runs.overflowing_add(begins & EVEN);
        let (behind_odd, is_last_escaping) = in_runs.overflowing_add(begins & !EVEN);
        let escaped = (behind_even & !EVEN | behind_odd & EVEN) & !in_runs | self.escaped;
        self.escaped = u64::from(is_last_escaping);

        let ends = ends & !escaped;
        // All places before the first end.
        let inside = ends.wrapping_sub(1) & !ends;
        let escaped = escaped & inside;
        // Two letters that differ in one bit are one comparison: f and n, b and r, t and u.
        let may_be_escaped = quotes
            | bytes.simd_eq(b'\\')
            | bytes.simd_eq(b'/')
            | (bytes | 0b1000).simd_eq(b'n')
            | (bytes | 0b1_0000).simd_eq(b'r')
            | (bytes | 0b1).simd_eq(b'u');
        let mut wrong = escaped & !may_be_escaped.to_bitmask();
        let hexadecimal = escaped & bytes.simd_eq(b'u').to_bitmask();
        if hexadecimal | self.digits != 0 {
            let digits = (bytes - b'0').simd_lt(10) | ((bytes | 0x20) - b'a').simd_lt(6);
            // Four behind each, of which some stand in the next block.
            let behind = u128::from(hexadecimal);
            let wanted = behind << 1 | behind << 2 | behind << 3 | behind << 4;
            wrong |= (wanted as u64 | self.digits) & !digits.to_bitmask();
            self.digits = (wanted >> BLOCK) as u64;
        }
        if wrong != 0 { Step::Breaks } else { Self::step(ends, quotes.to_bitmask()) }
    }

    #[inline(always)]
    fn step(ends: u64, quotes: u64) -> Step {
        let first = ends & ends.wrapping_neg();
        match (first, first & quotes) {
            (0, _) => Step::Inside,
            (_, 0) => Step::Breaks,
            _ => Step::Ends(first.trailing_zeros() as usize),
        }
    }

    /// How many bytes before the next block belong to an escape that goes on there.
    fn open_bytes(&self) -> usize {
        match (self.escaped, self.digits) {
            (0, 0) => 0,
            (0, digits) => "\\uXXXX".len() - digits.count_ones() as usize,
            _ => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The same, a character at a time.
    fn slowly(text: &[u8], from: usize) -> Reading {
        let mut at = from;
        loop {
            let escape = at;
            match text.get(at) {
                None => return Reading::Open(escape),
                Some(b'"') => return Reading::Ended(at + 1),
                Some(0..b' ') => return Reading::Broken,
                Some(b'\\') => match text.get(at + 1) {
                    None => return Reading::Open(escape),
                    Some(b'u') => {
                        let digits = text.get(at + 2..).unwrap_or_default();
                        let digits = digits.get(..4).unwrap_or(digits);
                        match (digits.iter().all(u8::is_ascii_hexdigit), digits.len()) {
                            (false, _) => return Reading::Broken,
                            (true, 4) => at += 6,
                            (true, _) => return Reading::Open(escape),
                        }
                    }
                    Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => at += 2,
                    Some(_) => return Reading::Broken,
                },
                Some(_) => at += 1,
            }
        }
    }

    /// Each level of vectors that this CPU has.
    fn levels() -> Vec<Level> {
        let best = Level::new();
        let mut levels = vec![best, Level::baseline()];
        #[cfg(target_arch = "x86_64")]
        {
            levels.extend(best.as_avx2().map(Simd::level));
            levels.extend(best.as_sse4_2().map(Simd::level));
        }
        levels
    }

    fn agree(text: &[u8], from: usize) {
        let expected = slowly(text, from);
        for level in levels() {
            let reading = dispatch!(level, simd => read_by(simd, text, from));
            let agrees = match (reading, expected) {
                // Where it is open it may be so earlier, and what is not a whole block may be judged later.
                (Reading::Open(at), Reading::Open(end)) => at <= end && slowly(text, at) == expected,
                (Reading::Open(at), Reading::Broken) => at + BLOCK + 6 > text.len() && slowly(text, at) == expected,
                _ => reading == expected,
            };
            assert!(agrees, "{level:?} says {reading:?} and not {expected:?} of {:?}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn every_byte_is_judged_wherever_it_stands() {
        for around in ["x", "\\\\", "\\n", "\\u00e9", "\u{e9}"] {
            for before in ["", "\\", "\\\\", "\\u", "\\u0", "\\u00", "\\u00a"] {
                for place in 0..2 * BLOCK {
                    let begin = around.repeat(2 * BLOCK);
                    let begin = &begin.as_bytes()[..place.div_ceil(around.len()) * around.len()];
                    // Each that means something, those beside them, and those that differ from them in a bit.
                    for byte in *b"\0\x1f !\"#/0129:@AFG[\\]`abefgjmnorstuv\x7f\xc3" {
                        let text = [begin, before.as_bytes(), &[byte], "\\t23456789\"x".repeat(12).as_bytes()].concat();
                        agree(&text, 0);
                    }
                }
            }
        }
    }

    #[test]
    fn runs_of_backslashes_of_any_length_anywhere() {
        for before in (0..4).chain(BLOCK - 4..=BLOCK) {
            for run in (0..4).chain(BLOCK - 8..BLOCK + 8).chain(2 * BLOCK - 8..2 * BLOCK + 8) {
                for behind in ["\"", "n\"", "u12ab\"", "x\"", "u12g4\"", "\n\""] {
                    agree(
                        format!("{}{}{behind}{}", ".".repeat(before), "\\".repeat(run), "-".repeat(BLOCK)).as_bytes(),
                        0,
                    );
                }
            }
        }
    }

    #[test]
    fn a_string_that_is_open_is_read_on_from_its_place() {
        let whole = "\\\\\\u00e9 plain \\n \\\" text \\u12ab\\\\".repeat(9);
        let text = format!("{whole}\"");
        for cut in 0..whole.len() {
            let Reading::Open(at) = read(&text.as_bytes()[..cut], 0) else { panic!("{cut}") };
            assert!(at <= cut && cut < at + BLOCK + 6, "{at} of {cut}");
            assert_eq!(read(text.as_bytes(), at), Reading::Ended(text.len()));
        }
    }

    proptest! {
        #[test]
        fn strings_are_judged_as_character_by_character(
            text in proptest::collection::vec(prop_oneof![
                20 => "[ -!#-\\[\\]-~]{1,30}",
                10 => Just("\\\\".to_owned()),
                5 => Just("\\\"".to_owned()),
                5 => "\\\\[bfnrt/]",
                5 => "\\\\u[0-9a-fA-F]{4}",
                1 => "\\\\u[0-9a-g]{0,4}",
                1 => any::<char>().prop_map(String::from),
                1 => Just("\\".to_owned()),
                1 => Just("\"".to_owned()),
            ], 0..60),
            from in 0..3_usize,
        ) {
            agree(text.concat().as_bytes(), from.min(text.concat().len()));
        }

        #[test]
        fn any_bytes_are_judged(text in proptest::collection::vec(any::<u8>(), 0..300)) {
            agree(&text, 0);
        }
    }
}
