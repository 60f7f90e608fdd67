//! The code for text of RFC 7541, appendix B.
//!
//! It is a canonical one: codes of one length follow each other in the order of their symbols, and those of the next
//! length go on where they ended. So how many symbols each length has, and their order, says all.

use super::decoder::Malformed;

/// How many symbols have a code of so many bits.
const COUNTS: [(u32, u16); 21] = [
    (5, 10),
    (6, 26),
    (7, 32),
    (8, 6),
    (10, 5),
    (11, 3),
    (12, 2),
    (13, 6),
    (14, 2),
    (15, 3),
    (19, 3),
    (20, 8),
    (21, 13),
    (22, 26),
    (23, 29),
    (24, 12),
    (25, 4),
    (26, 15),
    (27, 19),
    (28, 29),
    (30, 3),
];
/// Codes up to here are found at once, in bits.
const SHORT_BITS: u32 = 8;

/// The symbols in the order of their codes. The last code, thirty ones, is no symbol.
#[rustfmt::skip]
const SYMBOLS: [u8; 256] = [
    48, 49, 50, 97, 99, 101, 105, 111, 115, 116, 32, 37, 45, 46, 47, 51, 52, 53, 54, 55, 56, 57, 61, 65, 95, 98, 100, 102,
    103, 104, 108, 109, 110, 112, 114, 117, 58, 66, 67, 68, 69, 70, 71, 72, 73, 74, 75, 76, 77, 78, 79, 80, 81, 82, 83, 84,
    85, 86, 87, 89, 106, 107, 113, 118, 119, 120, 121, 122, 38, 42, 44, 59, 88, 90, 33, 34, 40, 41, 63, 39, 43, 124, 35, 62,
    0, 36, 64, 91, 93, 126, 94, 125, 60, 96, 123, 92, 195, 208, 128, 130, 131, 162, 184, 194, 224, 226, 153, 161, 167, 172,
    176, 177, 179, 209, 216, 217, 227, 229, 230, 129, 132, 133, 134, 136, 146, 154, 156, 160, 163, 164, 169, 170, 173, 178,
    181, 185, 186, 187, 189, 190, 196, 198, 228, 232, 233, 1, 135, 137, 138, 139, 140, 141, 143, 147, 149, 150, 151, 152,
    155, 157, 158, 165, 166, 168, 174, 175, 180, 182, 183, 188, 191, 197, 231, 239, 9, 142, 144, 145, 148, 159, 171, 206,
    215, 225, 236, 237, 199, 207, 234, 235, 192, 193, 200, 201, 202, 205, 210, 213, 218, 219, 238, 240, 242, 243, 255, 203,
    204, 211, 212, 214, 221, 222, 223, 241, 244, 245, 246, 247, 248, 250, 251, 252, 253, 254, 2, 3, 4, 5, 6, 7, 8, 11, 12,
    14, 15, 16, 17, 18, 19, 20, 21, 23, 24, 25, 26, 27, 28, 29, 30, 31, 127, 220, 249, 10, 13, 22,
];

/// Symbol and bits by the first eight bits; no bits where the code is longer.
const SHORT: [(u8, u8); 1 << SHORT_BITS] = short();

const fn short() -> [(u8, u8); 1 << SHORT_BITS] {
    let mut found = [(0, 0); 1 << SHORT_BITS];
    let (mut at, mut symbol, mut group) = (0, 0, 0);
    while group < COUNTS.len() && COUNTS[group].0 <= SHORT_BITS {
        let (bits, mut left) = COUNTS[group];
        while left > 0 {
            let mut same = 1 << (SHORT_BITS - bits);
            while same > 0 {
                found[at] = (SYMBOLS[symbol], bits as u8);
                at += 1;
                same -= 1;
            }
            symbol += 1;
            left -= 1;
        }
        group += 1;
    }
    found
}

/// Appends what a text in code says.
///
/// # Errors
/// When it ends with anything but fewer than eight ones, or holds the code that is no symbol.
pub(super) fn decode(code: &[u8], into: &mut Vec<u8>) -> Result<(), Malformed> {
    let mut code = code.iter();
    // The next bits, from the highest down; zeros behind those that there are.
    let (mut bits, mut there) = (0u64, 0u32);
    loop {
        while there <= 56 {
            let Some(byte) = code.next() else { break };
            bits |= u64::from(*byte) << (56 - there);
            there += 8;
        }
        let (symbol, length) = match SHORT[(bits >> (64 - SHORT_BITS)) as usize] {
            (symbol, length @ 1..) => (symbol, u32::from(length)),
            _ => match long(bits) {
                Some(found) => found,
                None => break,
            },
        };
        if length > there {
            break;
        }
        into.push(symbol);
        bits <<= length;
        there -= length;
    }
    let padding = !0u64 << 1 << (63 - there.min(63));
    if there < 8 && bits == padding { Ok(()) } else { Err(Malformed) }
}

/// The symbol of a code of more than [`SHORT_BITS`], and its bits.
fn long(bits: u64) -> Option<(u8, u32)> {
    let (mut first, mut symbol, mut last) = (0u64, 0usize, 0u32);
    for (length, count) in COUNTS {
        first <<= length - last;
        let beyond = (bits >> (64 - length)).wrapping_sub(first);
        if length > SHORT_BITS && beyond < u64::from(count) {
            return Some((SYMBOLS[symbol + beyond as usize], length));
        }
        first += u64::from(count);
        symbol += usize::from(count);
        last = length;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Code and bits of a symbol, by the definition.
    fn code_of(wanted: u8) -> (u64, u32) {
        let (mut code, mut last) = (0u64, 0);
        let mut symbols = SYMBOLS.into_iter();
        for (length, count) in COUNTS {
            code <<= length - last;
            for _ in 0..count {
                if symbols.next() == Some(wanted) {
                    return (code, length);
                }
                code += 1;
            }
            last = length;
        }
        unreachable!("every byte has a code")
    }

    fn encode(text: &[u8]) -> Vec<u8> {
        let mut bits: Vec<bool> = Vec::new();
        for byte in text {
            let (code, length) = code_of(*byte);
            bits.extend((0..length).rev().map(|bit| code >> bit & 1 == 1));
        }
        bits.resize(bits.len().div_ceil(8) * 8, true);
        bits.chunks(8).map(|byte| byte.iter().fold(0, |sum, bit| sum << 1 | u8::from(*bit))).collect()
    }

    fn decoded(code: &[u8]) -> Result<Vec<u8>, Malformed> {
        let mut text = Vec::new();
        decode(code, &mut text).map(|()| text)
    }

    /// RFC 7541, appendix B and sections C.4 and C.6.
    #[test]
    fn codes_of_the_standard() {
        for (symbol, code, bits) in [
            (b'0', 0, 5),
            (b' ', 0x14, 6),
            (b':', 0x5c, 7),
            (b'&', 0xf8, 8),
            (b'!', 0x3f8, 10),
            (b'\'', 0x7fa, 11),
            (0, 0x1ff8, 13),
            (b'\\', 0x7fff0, 19),
            (127, 0xfff_fffc, 28),
            (255, 0x3ff_ffee, 26),
            (10, 0x3fff_fffc, 30),
            (22, 0x3fff_fffe, 30),
        ] {
            assert_eq!(code_of(symbol), (code, bits), "{symbol}");
        }
        assert_eq!(
            decoded(&[0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff]).unwrap(),
            b"www.example.com"
        );
        assert_eq!(decoded(&[0x64, 0x02]).unwrap(), b"302");
        assert_eq!(decoded(&[0x64, 0x0e, 0xff]).unwrap(), b"307");
    }

    #[test]
    fn ends_that_are_none() {
        assert_eq!(decoded(b"").unwrap(), b"");
        // A whole byte of padding, zeros as padding, the code that is no symbol.
        for bad in [&[0xff][..], &[0x07, 0xff], &[0x00], &[0x18], &[0xff; 4], &[0xff; 40]] {
            assert!(decoded(bad).is_err(), "{bad:?}");
        }
        assert_eq!(decoded(&[0x1f]).unwrap(), b"a", "three ones are padding");
    }

    proptest! {
        #[test]
        fn every_text_comes_back(text in proptest::collection::vec(any::<u8>(), 0..100)) {
            prop_assert_eq!(decoded(&encode(&text)).unwrap(), text);
        }

        #[test]
        fn what_is_no_text_is_told(code in proptest::collection::vec(any::<u8>(), 0..40)) {
            // Each text has one code.
            if let Ok(text) = decoded(&code) {
                prop_assert_eq!(encode(&text), code);
            }
        }
    }
}
