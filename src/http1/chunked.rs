//! The chunked transfer coding (RFC 9112, section 7.1), decoded as it comes in.
//!
//! Strict: CR LF only, extensions and trailers bounded and thrown away.

use bytes::{Buf, BytesMut};

/// A chunk-size line with its extensions, and all trailers together, are at most this long, in bytes.
const MAX_LINE_BYTES: usize = 8 * 1024;

/// What the body is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a chunk of the body is malformed")]
pub struct Malformed;

/// Where in the coding the decoder stands.
#[derive(Debug, Default)]
pub struct Decoder {
    state: State,
    trailer_bytes: usize,
    extension_bytes: usize,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Size,
    Data(u64),
    DataEnd,
    Trailers,
    Done,
}

impl Decoder {
    /// Moves what can be decoded from `input` to `body`, up to the end of one chunk and the line end behind it. `body`
    /// never grows beyond `limit` bytes: the chunk that would do so stays.
    ///
    /// # Errors
    /// When the coding is broken.
    pub fn decode(&mut self, input: &mut BytesMut, body: &mut BytesMut, limit: usize) -> Result<Progress, Malformed> {
        loop {
            match self.state {
                State::Size => {
                    let Some(line) = take_line(input)? else { return Ok(Progress::NeedsMore) };
                    let (size, extension) = parse_size(&line)?;
                    self.extension_bytes = self.extension_bytes.saturating_add(extension.len());
                    self.state = if size == 0 { State::Trailers } else { State::Data(size) };
                }
                State::Data(left) => {
                    let wanted = usize::try_from(left).unwrap_or(usize::MAX);
                    if wanted > limit.saturating_sub(body.len()) {
                        return Ok(Progress::OverLimit);
                    }
                    if input.is_empty() {
                        return Ok(Progress::NeedsMore);
                    }
                    let piece = wanted.min(input.len());
                    body.extend_from_slice(&input[..piece]);
                    input.advance(piece);
                    let left = left - piece as u64;
                    if left == 0 {
                        self.state = State::DataEnd;
                        if input.starts_with(b"\r\n") {
                            input.advance(2);
                            self.state = State::Size;
                        }
                        return Ok(Progress::ChunkEnded);
                    }
                    self.state = State::Data(left);
                }
                State::DataEnd => match **input {
                    [b'\r', b'\n', ..] => {
                        input.advance(2);
                        self.state = State::Size;
                    }
                    [] | [b'\r'] => return Ok(Progress::NeedsMore),
                    _ => return Err(Malformed),
                },
                State::Trailers => {
                    let Some(line) = take_line(input)? else { return Ok(Progress::NeedsMore) };
                    self.trailer_bytes += line.len();
                    if self.trailer_bytes > MAX_LINE_BYTES {
                        return Err(Malformed);
                    }
                    if line.is_empty() {
                        self.state = State::Done;
                    } else if !is_field(&line) {
                        return Err(Malformed);
                    }
                }
                State::Done => return Ok(Progress::Done),
            }
        }
    }

    /// What has come of extensions so far, in bytes: sent and thrown away, so that no body grows by them.
    #[must_use]
    pub fn extension_bytes(&self) -> usize {
        self.extension_bytes
    }
}

/// How far the decoder got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// All input is used up.
    NeedsMore,
    /// A chunk has ended; there may be more.
    ChunkEnded,
    /// The next chunk would make the body too large.
    OverLimit,
    /// The body has ended; what is left of the input belongs to the next request.
    Done,
}

/// One line without its CR LF, if its end has come.
fn take_line(input: &mut BytesMut) -> Result<Option<BytesMut>, Malformed> {
    match input.iter().position(|byte| *byte == b'\n') {
        Some(at) if at > MAX_LINE_BYTES => Err(Malformed),
        Some(at) => {
            let mut line = input.split_to(at + 1);
            if at == 0 || line[at - 1] != b'\r' {
                return Err(Malformed);
            }
            line.truncate(at - 1);
            // As in a head: a CR alone is a line end to some and not to others, and a NUL ends a text for some.
            if line.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
                Err(Malformed)
            } else {
                Ok(Some(line))
            }
        }
        None if input.len() > MAX_LINE_BYTES => Err(Malformed),
        None => Ok(None),
    }
}

/// Whether a line is `name: value`.
fn is_field(line: &[u8]) -> bool {
    let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !name.is_empty() && name.len() < line.len() && name.iter().all(is_token)
}

/// The size of a chunk, and what else stands in its line.
fn parse_size(line: &[u8]) -> Result<(u64, &[u8]), Malformed> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (size, extension) = line.split_at(digits);
    // Sixteen hexadecimal digits are all that fit.
    if size.is_empty() || size.len() > 16 {
        return Err(Malformed);
    }
    if !matches!(extension.trim_ascii_start(), [] | [b';', ..]) {
        return Err(Malformed);
    }
    let text = std::str::from_utf8(size).map_err(|_| Malformed)?;
    let size = u64::from_str_radix(text, 16).map_err(|_| Malformed)?;
    Ok((size, extension))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode(text: &[u8], limit: usize) -> Result<(Progress, BytesMut, BytesMut), Malformed> {
        let (mut input, mut body) = (BytesMut::from(text), BytesMut::new());
        let mut decoder = Decoder::default();
        loop {
            let progress = decoder.decode(&mut input, &mut body, limit)?;
            if progress != Progress::ChunkEnded {
                return Ok((progress, body, input));
            }
        }
    }

    #[test]
    fn chunks_extensions_and_trailers() {
        let (progress, body, rest) = decode(b"3;a=b\r\nabc\r\n0A \r\n0123456789\r\n0\r\nX: y\r\n\r\nGET", 100).unwrap();
        assert_eq!((progress, &body[..], &rest[..]), (Progress::Done, &b"abc0123456789"[..], &b"GET"[..]));
    }

    #[test]
    fn chunks_come_one_by_one() {
        let (mut decoder, mut input) = (Decoder::default(), BytesMut::from("1\r\na\r\n2\r\nbc\r\n"));
        for (progress, chunk) in [(Progress::ChunkEnded, "a"), (Progress::ChunkEnded, "bc"), (Progress::NeedsMore, "")]
        {
            let mut body = BytesMut::new();
            assert_eq!(decoder.decode(&mut input, &mut body, 100), Ok(progress));
            assert_eq!(body, chunk);
            assert!(!input.starts_with(b"\r\n"), "a chunk's line end goes with it");
        }
    }

    #[test]
    fn limits_hold() {
        assert_eq!(decode(b"4\r\nabcd\r\n", 3).unwrap().0, Progress::OverLimit);
        assert_eq!(decode(b"ffffffffffffffff\r\n", 3).unwrap().0, Progress::OverLimit);
        assert!(decode(b"10000000000000000\r\n", 3).is_err());
        assert!(decode(&[b'1'; MAX_LINE_BYTES + 2], 3).is_err());
        let endless = format!("0\r\n{}", "X: y\r\n".repeat(3000));
        assert!(decode(endless.as_bytes(), 3).is_err());
        // As long as may be, and one longer.
        let line = |length: usize| format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(length - 2 - 1));
        assert_eq!(decode(line(MAX_LINE_BYTES).as_bytes(), 1).unwrap().0, Progress::Done);
        assert!(decode(line(MAX_LINE_BYTES + 1).as_bytes(), 1).is_err());
        let trailers = |length: usize| format!("0\r\nx:\r\ny:{}\r\n\r\n", "z".repeat(length - 4));
        assert_eq!(decode(trailers(MAX_LINE_BYTES).as_bytes(), 1).unwrap().0, Progress::Done);
        assert!(decode(trailers(MAX_LINE_BYTES + 1).as_bytes(), 1).is_err());
        assert_eq!(decode(&[b'1'; MAX_LINE_BYTES], 3).unwrap().0, Progress::NeedsMore);
    }

    #[test]
    fn what_others_might_read_differently_is_refused() {
        for bad in [
            "3\nabc\r\n",
            "3\r\nabcd\r\n",
            "\r\n",
            "-3\r\n",
            "0x3\r\n",
            "3 4\r\n",
            "3\r\nabc\n",
            "3;a\rb\r\nabc\r\n",
            "3;\0\r\nabc\r\n",
            "3;a=\x7f\r\nabc\r\n",
            "0\r\nx: \0\r\n\r\n",
            "0\r\nno field\r\n\r\n",
            "0\r\n: x\r\n\r\n",
        ] {
            assert!(decode(bad.as_bytes(), 100).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn bodies_split_anywhere_decode_alike(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..40), 0..6),
            cuts in proptest::collection::vec(1usize..9, 1..40),
        ) {
            let mut wire = Vec::new();
            for chunk in &chunks {
                wire.extend(format!("{:x}\r\n", chunk.len()).bytes());
                wire.extend(chunk);
                wire.extend(b"\r\n");
            }
            wire.extend(b"0\r\n\r\n");
            let (mut decoder, mut input, mut body) = (Decoder::default(), BytesMut::new(), BytesMut::new());
            let (mut rest, mut cut) = (&wire[..], cuts.iter().cycle());
            let mut progress = Progress::NeedsMore;
            while !rest.is_empty() {
                prop_assert_eq!(progress, Progress::NeedsMore);
                let (piece, after) = rest.split_at((*cut.next().unwrap()).min(rest.len()));
                input.extend_from_slice(piece);
                rest = after;
                progress = Progress::ChunkEnded;
                while progress == Progress::ChunkEnded {
                    progress = decoder.decode(&mut input, &mut body, usize::MAX).unwrap();
                }
            }
            prop_assert_eq!(progress, Progress::Done);
            prop_assert_eq!(&body[..], chunks.concat());
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes, 50);
        }
    }
}
