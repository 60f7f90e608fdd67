//! Heads of answers, as Google's front ends write them: packed, and a field that the client has been told once is a
//! number of its table from then on.

use super::{TABLE_BYTES, huffman};

/// The index that the first entry of the dynamic table has.
const DYNAMIC: usize = 62;
/// `:status: 200`, `content-length`.
const OK: u8 = 0x80 | 8;
const CONTENT_LENGTH: usize = 28;

/// A field whose name is in the static table, at this index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Field {
    name: usize,
    value: &'static str,
}

impl Field {
    pub(crate) const JSON: Self = Self { name: 31, value: "application/json; charset=UTF-8" };
    pub(crate) const EVENTS: Self = Self { name: 31, value: "text/event-stream" };
    pub(crate) const SERVER: Self = Self { name: 54, value: "scaffolding on HTTPServer2" };
    pub(crate) const VARY: Self = Self { name: 59, value: "X-Origin" };
}

/// One connection's. All fields that there are fit a table of the usual size, and none is ever forgotten.
pub(crate) struct Encoder {
    told: Vec<Field>,
    /// The client has so small a table that it is told each time.
    is_small: bool,
    /// The next head says that the table is empty.
    is_emptied: bool,
}

impl Encoder {
    pub(crate) fn new() -> Self {
        Self { told: Vec::new(), is_small: false, is_emptied: false }
    }

    /// The client's table may take so much.
    pub(crate) fn limit(&mut self, bytes: usize) {
        if bytes < TABLE_BYTES && !self.is_small {
            (self.is_small, self.is_emptied) = (true, true);
            self.told.clear();
        }
    }

    /// Appends a head of status 200.
    pub(crate) fn head(&mut self, fields: &[Field], length: Option<usize>, block: &mut Vec<u8>) {
        if std::mem::take(&mut self.is_emptied) {
            number(0, 0x20, 5, block);
        }
        block.push(OK);
        for field in fields {
            if let Some(place) = self.told.iter().position(|told| told == field) {
                number(DYNAMIC + self.told.len() - 1 - place, 0x80, 7, block);
                continue;
            }
            if self.is_small {
                number(field.name, 0, 4, block);
            } else {
                number(field.name, 0x40, 6, block);
                self.told.push(*field);
            }
            string(field.value, block);
        }
        if let Some(length) = length {
            number(CONTENT_LENGTH, 0, 4, block);
            string(&length.to_string(), block);
        }
    }
}

/// Appends a number, the first byte of which has so many bits of it behind those of the kind.
fn number(mut number: usize, kind: u8, bits: u32, block: &mut Vec<u8>) {
    let most = (1 << bits) - 1;
    if number < most {
        block.push(kind | number as u8);
        return;
    }
    block.push(kind | most as u8);
    number -= most;
    while number >= 0x80 {
        block.push(number as u8 | 0x80);
        number >>= 7;
    }
    block.push(number as u8);
}

fn string(text: &str, block: &mut Vec<u8>) {
    number(huffman::length(text.as_bytes()), 0x80, 7, block);
    huffman::encode(text.as_bytes(), block);
}

#[cfg(test)]
mod tests {
    use super::super::Decoder;
    use super::*;

    #[test]
    fn heads_come_back_from_a_decoder() {
        let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new());
        let mut sizes = Vec::new();
        for (kind, length) in [(Field::JSON, Some(1024)), (Field::EVENTS, None), (Field::JSON, Some(7))] {
            for _ in 0..2 {
                let (mut block, mut lines) = (Vec::new(), Vec::new());
                encoder.head(&[Field::VARY, Field::SERVER, kind], length, &mut block);
                sizes.push(block.len());
                let field = |name: &[u8], value: &[u8]| {
                    lines.push(String::from_utf8([name, b": ", value].concat()).unwrap());
                };
                assert_eq!(decoder.decode(&block, field), Ok(()));
                let mut expected: Vec<_> =
                    [":status: 200", "vary: X-Origin", "server: scaffolding on HTTPServer2"].map(str::to_owned).into();
                expected.push(format!("content-type: {}", kind.value));
                expected.extend(length.map(|length| format!("content-length: {length}")));
                assert_eq!(lines, expected);
            }
        }
        assert_eq!(sizes[1..], [10, 17, 4, 8, 8], "what was told once is a byte");
    }

    #[test]
    fn a_small_table_is_not_used() {
        let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new());
        let mut head = |encoder: &mut Encoder| {
            let (mut block, mut count) = (Vec::new(), 0);
            encoder.head(&[Field::VARY, Field::JSON], None, &mut block);
            decoder.decode(&block, |_, _| count += 1).unwrap();
            assert_eq!(count, 3);
            block
        };
        head(&mut encoder);
        encoder.limit(100);
        assert_eq!(head(&mut encoder)[0], 0x20, "the table is emptied");
        assert_eq!(head(&mut encoder), head(&mut encoder));
        encoder.limit(8192);
        assert_eq!(head(&mut encoder)[0], OK);
    }

    #[test]
    fn numbers_of_appendix_c_1() {
        for (value, bits, expected) in [(10, 5, &[10][..]), (1337, 5, &[31, 154, 10]), (42, 8, &[42])] {
            let mut block = Vec::new();
            number(value, 0, bits, &mut block);
            assert_eq!(block, expected);
        }
    }
}
