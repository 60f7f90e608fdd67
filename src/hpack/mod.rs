//! HPACK, the header compression of HTTP/2 (RFC 7541): what a client needs of it.
//!
//! An answer is read with all that the format has. A request is written with little: what is the same in all requests,
//! the bearer included, is remembered by both sides and takes a byte, the rest goes as it is. `h2` writes and hashes every
//! field of every request, a bearer of 1 KB too.

mod decoder;
mod encoder;
mod huffman;
mod table;

pub use decoder::{Decoder, Malformed};
pub use encoder::Encoder;
pub use table::Name;

/// The table of a connection's past fields, in bytes as RFC 7541, section 4.1, counts them: the size that both sides
/// begin with, and the largest here.
const TABLE_BYTES: usize = 4096;

/// What a field takes of a table.
fn entry_bytes(name: &[u8], value: &[u8]) -> usize {
    /// What the format assumes an entry to cost beside its text.
    const OVERHEAD: usize = 32;
    name.len() + value.len() + OVERHEAD
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    fn fields(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<(String, String)>, Malformed> {
        let mut fields = Vec::new();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        decoder.decode(block, |name, value| fields.push((text(name), text(value))))?;
        Ok(fields)
    }

    /// What is written is read as it was meant, whatever both remember by then and however much that may be.
    #[derive(Clone, Debug)]
    enum Step {
        Remembered(usize, u16),
        Once(usize, String),
        Limit(usize),
    }

    const NAMES: [Name; 4] =
        [Name::of("authorization"), Name::of(":path"), Name::of("x-goog-user-project"), Name::of("accept")];

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0..NAMES.len(), 0u16..1500).prop_map(|(name, length)| Step::Remembered(name, length)),
            3 => (0..NAMES.len(), "[ -~]{0,200}").prop_map(|(name, value)| Step::Once(name, value)),
            1 => (0usize..6000).prop_map(Step::Limit),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(blocks in proptest::collection::vec(proptest::collection::vec(step(), 0..12), 1..12)) {
            let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
            for steps in blocks {
                let mut block = Vec::new();
                let mut meant = Vec::new();
                // Upstream says how much it remembers between blocks, not within one.
                for step in &steps {
                    if let Step::Limit(bytes) = step {
                        encoder.limit(*bytes);
                    }
                }
                encoder.begin(&mut block);
                for step in steps {
                    match step {
                        Step::Remembered(name, length) => {
                            let value = "v".repeat(length.into());
                            encoder.remembered(&mut block, NAMES[name], &HeaderValue::try_from(&value).unwrap());
                            meant.push((NAMES[name].text().to_owned(), value));
                        }
                        Step::Once(name, value) => {
                            encoder.once(&mut block, NAMES[name], value.as_bytes());
                            meant.push((NAMES[name].text().to_owned(), value));
                        }
                        Step::Limit(_) => {}
                    }
                }
                prop_assert_eq!(fields(&mut decoder, &block).unwrap(), meant);
            }
        }
    }
}
