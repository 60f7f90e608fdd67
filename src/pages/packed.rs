//! Text as it lies in the program: compressed when the program was built. Nearly every browser takes it as it is; for all
//! others it is unpacked.

use miniz_oxide::inflate::core::inflate_flags::{TINFL_FLAG_HAS_MORE_INPUT, TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF};
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};

/// The largest stored block of a deflate stream, in bytes.
const STORED_BYTES: usize = 65_535;
/// No name, no time, from an unknown system.
const GZIP_HEAD: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 2, 255];
/// An empty stored block that is the last one.
const LAST_BLOCK: [u8; 5] = [1, 0, 0, 0xff, 0xff];

/// A text that was known when the program was built.
#[derive(Debug)]
pub(super) struct Packed {
    /// A piece of a deflate stream: ends on a byte, refers to nothing before it, is not the last.
    pub(super) deflated: &'static [u8],
    /// The text's length, in bytes.
    pub(super) length: usize,
    /// The text's checksum, as a gzip has it.
    pub(super) crc: u32,
}

/// A part of what is answered.
#[derive(Clone, Copy, Debug)]
pub(super) enum Part<'a> {
    Packed(&'static Packed),
    /// What only the running gateway knows.
    Text(&'a str),
}

impl Part<'_> {
    fn length(&self) -> usize {
        match self {
            Self::Packed(packed) => packed.length,
            Self::Text(text) => text.len(),
        }
    }
}

/// The parts in a row.
pub(super) fn plain<'a>(parts: impl Iterator<Item = Part<'a>> + Clone) -> Vec<u8> {
    let mut out = vec![0; parts.clone().map(|part| part.length()).sum()];
    let mut at = 0;
    let mut inflate = Box::new(DecompressorOxide::new());
    for part in parts {
        match part {
            Part::Packed(packed) => {
                inflate.init();
                let flags = TINFL_FLAG_HAS_MORE_INPUT | TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
                let (_, _, written) = decompress(&mut inflate, packed.deflated, &mut out, at, flags);
                debug_assert_eq!(written, packed.length);
            }
            Part::Text(text) => out[at..at + text.len()].copy_from_slice(text.as_bytes()),
        }
        at += part.length();
    }
    out
}

/// The parts in a row as a gzip file, in which texts of the running gateway stand as they are (RFC 1951, section 3.2.4).
pub(super) fn gzip<'a>(parts: impl Iterator<Item = Part<'a>> + Clone) -> Vec<u8> {
    let room = |part: Part<'_>| match part {
        Part::Packed(packed) => packed.deflated.len(),
        Part::Text(text) => text.len() + 5 * text.len().div_ceil(STORED_BYTES),
    };
    let mut out = Vec::with_capacity(parts.clone().map(room).sum::<usize>() + 32);
    out.extend_from_slice(&GZIP_HEAD);
    let mut crc = crc32fast::Hasher::new();
    let mut length = 0;
    for part in parts {
        match part {
            Part::Packed(packed) => {
                out.extend_from_slice(packed.deflated);
                crc.combine(&crc32fast::Hasher::new_with_initial_len(packed.crc, packed.length as u64));
            }
            Part::Text(text) => {
                text.as_bytes().chunks(STORED_BYTES).for_each(|chunk| store(chunk, &mut out));
                crc.update(text.as_bytes());
            }
        }
        length += part.length();
    }
    out.extend_from_slice(&LAST_BLOCK);
    out.extend_from_slice(&crc.finalize().to_le_bytes());
    // Modulo 2^32 (RFC 1952, section 2.3.1).
    out.extend_from_slice(&(length as u32).to_le_bytes());
    out
}

/// Appends a block that is not compressed.
fn store(chunk: &[u8], out: &mut Vec<u8>) {
    let length = chunk.len() as u16;
    out.push(0);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&(!length).to_le_bytes());
    out.extend_from_slice(chunk);
}
