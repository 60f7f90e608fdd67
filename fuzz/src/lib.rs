//! What is promised of every parser of foreign bytes, as functions of one input that panic where a promise is broken.
//!
//! Two things give them inputs: libFuzzer, as long as one likes (`make fuzz`), and `tests/fuzz.rs`, for seconds in each run
//! of the tests. Here is also what the functions share: input cut into pieces, and a plain reader of event streams.

pub mod answer_head;
pub mod chunked;
pub mod error_body;
pub mod frames;
pub mod head;
pub mod header_block;
pub mod keys_file;
pub mod model;
pub mod signatures;
pub mod tail;
pub mod tap;

/// Cuts the input into pieces of up to `longest` bytes. Where, the input itself decides, so that a file of a corpus is
/// nothing but the bytes that it is about.
#[must_use]
pub fn cut(input: &[u8], longest: usize) -> Vec<&[u8]> {
    let mut state = input
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    let (mut pieces, mut rest) = (Vec::new(), input);
    while !rest.is_empty() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let length = 1 + (state >> 33) as usize % longest.max(1);
        let (piece, after) = rest.split_at(length.min(rest.len()));
        pieces.push(piece);
        rest = after;
    }
    pieces
}

/// One way of cutting that is fine, one that is coarse.
#[must_use]
pub fn cuts(input: &[u8]) -> [Vec<&[u8]>; 2] {
    [cut(input, 3), cut(input, 100)]
}

/// The lines of an event stream and what is left behind the last line end.
#[must_use]
pub fn lines(stream: &[u8]) -> (Vec<&[u8]>, &[u8]) {
    let (mut lines, mut rest) = (Vec::new(), stream);
    while let Some(at) = rest.iter().position(|byte| matches!(byte, b'\r' | b'\n')) {
        lines.push(&rest[..at]);
        rest = if rest[at..].starts_with(b"\r\n") { &rest[at + 2..] } else { &rest[at + 1..] };
    }
    (lines, rest)
}

/// The data of each event, as they stand behind `data:`, several lines of one event joined by line feeds.
#[must_use]
pub fn events<'a>(lines: impl IntoIterator<Item = &'a [u8]>) -> Vec<Vec<u8>> {
    let (mut events, mut data) = (Vec::new(), None::<Vec<u8>>);
    for line in lines {
        if line.is_empty() {
            events.extend(data.take());
        } else if let Some(more) = line.strip_prefix(b"data:") {
            match &mut data {
                Some(data) => {
                    data.push(b'\n');
                    data.extend_from_slice(more);
                }
                None => data = Some(more.to_vec()),
            }
        }
    }
    events.extend(data);
    events
}
