//! The Huffman code of RFC 7541, appendix B. It is canonical: codes of one length follow each other in the order of what
//! they stand for, and shorter ones come first, so that the lengths say all.

use super::Malformed;

/// Codes, the end-of-string code included, which nobody may send.
const CODES: usize = 257;
const END_OF_STRING: u16 = 256;
const SHORTEST: usize = 5;
const LONGEST: usize = 30;

/// Bits of each byte's code.
#[rustfmt::skip]
const LENGTHS: [u8; CODES] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];

/// What follows from the lengths. Codes stand at the top of 32 bits.
struct Code {
    of_symbol: [u32; CODES],
    /// Symbols in the order of their codes.
    symbols: [u16; CODES],
    /// By length: the first code, the first that is too high, and the place of the first symbol.
    first: [u64; LONGEST + 1],
    limit: [u64; LONGEST + 1],
    place: [usize; LONGEST + 1],
}

static CODE: Code = code();

const fn code() -> Code {
    let mut code = Code {
        of_symbol: [0; CODES],
        symbols: [0; CODES],
        first: [0; LONGEST + 1],
        limit: [0; LONGEST + 1],
        place: [0; LONGEST + 1],
    };
    let (mut next, mut place, mut length) = (0_u64, 0, SHORTEST);
    while length <= LONGEST {
        code.first[length] = next;
        code.place[length] = place;
        let mut symbol = 0;
        while symbol < CODES {
            if LENGTHS[symbol] as usize == length {
                code.of_symbol[symbol] = next as u32;
                code.symbols[place] = symbol as u16;
                place += 1;
                next += 1 << (32 - length);
            }
            symbol += 1;
        }
        code.limit[length] = next;
        length += 1;
    }
    code
}

/// Appends what a string stands for.
///
/// # Errors
/// The end-of-string code, and what is left at the end that is no padding.
pub(super) fn decode(input: &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
    let mut input = input.iter();
    // At the top of `bits` so many of them.
    let (mut bits, mut count) = (0_u64, 0);
    loop {
        while count <= 56 {
            let Some(&byte) = input.next() else { break };
            bits |= u64::from(byte) << (56 - count);
            count += 8;
        }
        let padded = bits | u64::MAX.checked_shr(count).unwrap_or(0);
        let window = padded >> 32;
        // The last code is all ones, so that its limit is above every window.
        let length = (SHORTEST..LONGEST).find(|&length| window < CODE.limit[length]).unwrap_or(LONGEST);
        if length > count as usize {
            return if count < 8 && padded == u64::MAX { Ok(()) } else { Err(Malformed) };
        }
        let place = CODE.place[length] + ((window - CODE.first[length]) >> (32 - length)) as usize;
        let symbol = CODE.symbols[place];
        if symbol == END_OF_STRING {
            return Err(Malformed);
        }
        out.push(symbol as u8);
        bits <<= length;
        count -= length as u32;
    }
}

/// Bytes that a string takes.
pub(super) fn length(text: &[u8]) -> usize {
    text.iter().map(|&byte| usize::from(LENGTHS[usize::from(byte)])).sum::<usize>().div_ceil(8)
}

/// Appends a string, padded with ones.
pub(super) fn encode(text: &[u8], out: &mut Vec<u8>) {
    let (mut bits, mut count) = (0_u64, 0);
    for &byte in text {
        bits |= (u64::from(CODE.of_symbol[usize::from(byte)]) << 32) >> count;
        count += u32::from(LENGTHS[usize::from(byte)]);
        while count >= 8 {
            out.push((bits >> 56) as u8);
            bits <<= 8;
            count -= 8;
        }
    }
    if count > 0 {
        out.push((bits >> 56) as u8 | (0xff >> count));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_bytes_come_back() {
        for bytes in [&(0..=255).collect::<Vec<u8>>()[..], b"", b"a", b"www.example.com", &[249; 9]] {
            let (mut wire, mut back) = (Vec::new(), Vec::new());
            encode(bytes, &mut wire);
            assert_eq!(wire.len(), length(bytes));
            assert_eq!(decode(&wire, &mut back), Ok(()));
            assert_eq!(back, bytes);
        }
    }

    #[test]
    fn codes_of_the_appendix() {
        let code = |symbol: usize| (CODE.of_symbol[symbol] >> (32 - LENGTHS[symbol]), LENGTHS[symbol]);
        for (symbol, expected) in [
            (0, (0x1ff8, 13)),
            (b'0'.into(), (0x0, 5)),
            (b'&'.into(), (0xf8, 8)),
            (b'Z'.into(), (0xfd, 8)),
            (b'z'.into(), (0x7b, 7)),
            (b'\\'.into(), (0x7fff0, 19)),
            (249, (0xffffffe, 28)),
            (22, (0x3ffffffe, 30)),
            (256, (0x3fffffff, 30)),
        ] {
            assert_eq!(code(symbol), expected, "{symbol}");
        }
    }

    #[test]
    fn only_ones_and_few_of_them_are_padding() {
        let read = |wire: &[u8]| decode(wire, &mut Vec::new());
        assert_eq!(read(&[0x1f]), Ok(()), "`a` and three ones");
        assert_eq!(read(&[0x1e]), Err(Malformed), "a zero among them");
        assert_eq!(read(&[0x1f, 0xff]), Err(Malformed), "a whole byte of them");
        assert_eq!(read(&[0xff, 0xff, 0xff, 0xff]), Err(Malformed), "the end of the string");
    }
}
