//! A chunked body is decoded alike however it comes, and as a plain reader does that has all of it.
use super::cuts;
use bytes::BytesMut;

use ai_proxy::http1::chunked::{Decoder, Progress};

/// A body may be as large as this, in bytes.
const LIMIT: usize = 2000;

#[derive(Debug, PartialEq)]
enum Read {
    Whole(Vec<u8>, Vec<u8>),
    Unfinished,
    TooLarge,
    Malformed,
}

fn decode(pieces: &[&[u8]]) -> Read {
    let (mut decoder, mut input, mut body) = (Decoder::default(), BytesMut::new(), BytesMut::new());
    for (number, piece) in pieces.iter().enumerate() {
        input.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut input, &mut body, LIMIT) {
                Ok(Progress::ChunkEnded) => {}
                Ok(Progress::NeedsMore) => break,
                Ok(Progress::OverLimit) => return Read::TooLarge,
                Ok(Progress::Done) => {
                    input.extend_from_slice(&pieces[number + 1..].concat());
                    return Read::Whole(body.to_vec(), input.to_vec());
                }
                Err(_) => return Read::Malformed,
            }
            assert!(body.len() <= LIMIT);
        }
    }
    Read::Unfinished
}

/// Body and rest of what is whole and well-formed, by the grammar of RFC 9112.
fn reference(input: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let (mut body, mut rest) = (Vec::new(), input);
    loop {
        let line;
        (line, rest) = split_line(rest)?;
        let size = line.split(|byte| *byte == b';').next()?.trim_ascii_end();
        let size = usize::from_str_radix(std::str::from_utf8(size).ok()?, 16).ok()?;
        if size == 0 {
            break;
        }
        body.extend_from_slice(rest.get(..size)?);
        rest = rest.get(size..)?.strip_prefix(b"\r\n")?;
    }
    loop {
        let line;
        (line, rest) = split_line(rest)?;
        if line.is_empty() {
            return Some((body, rest));
        }
    }
}

fn split_line(input: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = input.iter().position(|byte| *byte == b'\n')?;
    Some((input[..at].strip_suffix(b"\r")?, &input[at + 1..]))
}

/// Panics where the promise is broken.
pub fn check(input: &[u8]) {
    let whole = decode(&[input]);
    for pieces in cuts(input) {
        assert_eq!(decode(&pieces), whole);
    }
    if let Read::Whole(body, rest) = whole {
        assert_eq!(reference(input), Some((body, &rest[..])));
    }
}
