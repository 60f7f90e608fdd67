//! Reads header blocks.

use super::table::FIELDS;
use super::{TABLE_BYTES, entry_bytes, huffman};
use std::collections::VecDeque;

/// What one block may say, in bytes. A few bytes may stand for thousands, and each costs time.
const MAX_SAID_BYTES: usize = 256 * 1024;

/// A block that is none. What both sides remember is no longer the same: the connection is of no more use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a header block cannot be read")]
pub struct Malformed;

/// Reads the blocks of one connection, in their order.
#[derive(Debug)]
pub struct Decoder {
    /// What is remembered, the latest first.
    entries: VecDeque<Entry>,
    /// What that takes, and what it may take, in bytes.
    size: usize,
    limit: usize,
    /// Names and values that came in code, until they have been shown.
    name: Vec<u8>,
    value: Vec<u8>,
}

/// A name with the value behind it.
#[derive(Debug)]
struct Entry {
    text: Box<[u8]>,
    name: usize,
}

impl Entry {
    fn parts(&self) -> (&[u8], &[u8]) {
        self.text.split_at(self.name)
    }
}

impl Default for Decoder {
    fn default() -> Self {
        let (name, value) = (Vec::new(), Vec::new());
        Self { entries: VecDeque::new(), size: 0, limit: TABLE_BYTES, name, value }
    }
}

/// How a name is given.
enum NameAt {
    Index(usize),
    Here,
}

impl Decoder {
    /// Shows the fields of a whole block, name and value.
    ///
    /// # Errors
    /// When the block is none. Fields before the fault have been shown.
    pub fn decode(&mut self, block: &[u8], mut show: impl FnMut(&[u8], &[u8])) -> Result<(), Malformed> {
        let mut rest = block;
        let mut has_begun = false;
        let mut said = 0;
        let mut show = |name: &[u8], value: &[u8]| {
            said += entry_bytes(name, value);
            show(name, value);
            if said > MAX_SAID_BYTES { Err(Malformed) } else { Ok(()) }
        };
        while let Some(first) = rest.first().copied() {
            match first {
                0x80.. => {
                    let index = integer(&mut rest, 7)?;
                    let (name, value) = self.entry(index)?;
                    show(name, value)?;
                }
                0x40.. => {
                    let name = name_at(integer(&mut rest, 6)?);
                    self.literal(&mut rest, &name, true, &mut show)?;
                }
                0x20.. => {
                    // Only in front of all fields (RFC 7541, section 4.2).
                    let limit = integer(&mut rest, 5)?;
                    if has_begun || limit > TABLE_BYTES {
                        return Err(Malformed);
                    }
                    self.limit = limit;
                    self.make_room(0);
                    continue;
                }
                _ => {
                    let name = name_at(integer(&mut rest, 4)?);
                    self.literal(&mut rest, &name, false, &mut show)?;
                }
            }
            has_begun = true;
        }
        Ok(())
    }

    fn entry(&self, index: usize) -> Result<(&[u8], &[u8]), Malformed> {
        let place = index.checked_sub(1).ok_or(Malformed)?;
        match FIELDS.get(place) {
            Some((name, value)) => Ok((name.as_bytes(), value.as_bytes())),
            None => self.entries.get(place - FIELDS.len()).map(Entry::parts).ok_or(Malformed),
        }
    }

    /// A field that is spelled out, its name perhaps not.
    fn literal(
        &mut self,
        rest: &mut &[u8],
        name: &NameAt,
        is_remembered: bool,
        show: &mut impl FnMut(&[u8], &[u8]) -> Result<(), Malformed>,
    ) -> Result<(), Malformed> {
        let mut coded = (std::mem::take(&mut self.name), std::mem::take(&mut self.value));
        let name = match name {
            NameAt::Index(index) => self.entry(*index)?.0,
            NameAt::Here => string(rest, &mut coded.0)?,
        };
        let value = string(rest, &mut coded.1)?;
        show(name, value)?;
        if is_remembered {
            let entry = Entry { text: [name, value].concat().into(), name: name.len() };
            let bytes = entry_bytes(name, value);
            self.make_room(bytes);
            // One that is larger than the whole table empties it and is not remembered (section 4.4).
            if bytes <= self.limit {
                self.size += bytes;
                self.entries.push_front(entry);
            }
        }
        (self.name, self.value) = coded;
        Ok(())
    }

    /// Forgets the oldest until so many bytes fit.
    fn make_room(&mut self, bytes: usize) {
        while self.size + bytes > self.limit {
            let Some(oldest) = self.entries.pop_back() else { return };
            let (name, value) = oldest.parts();
            self.size -= entry_bytes(name, value);
        }
    }
}

fn name_at(index: usize) -> NameAt {
    if index == 0 { NameAt::Here } else { NameAt::Index(index) }
}

/// A number that begins with the low bits of the first byte (section 5.1).
fn integer(rest: &mut &[u8], bits: u32) -> Result<usize, Malformed> {
    /// More than any block has bytes, and no more than the sum of the largest steps below.
    const MOST: usize = 1 << 24;
    let mask = (1 << bits) - 1;
    let (first, mut behind) = rest.split_first().ok_or(Malformed)?;
    let mut number = usize::from(*first) & mask;
    if number == mask {
        let mut shift = 0;
        loop {
            let (byte, further) = behind.split_first().ok_or(Malformed)?;
            behind = further;
            number += usize::from(byte & 0x7f) << shift;
            if number > MOST || shift > 21 {
                return Err(Malformed);
            }
            if *byte < 0x80 {
                break;
            }
            shift += 7;
        }
    }
    *rest = behind;
    Ok(number)
}

/// A text, where it stands or in `decoded`.
fn string<'a, 'block: 'a>(rest: &mut &'block [u8], decoded: &'a mut Vec<u8>) -> Result<&'a [u8], Malformed> {
    let is_in_code = rest.first().is_some_and(|byte| *byte >= 0x80);
    let length = integer(rest, 7)?;
    let (text, behind) = rest.split_at_checked(length).ok_or(Malformed)?;
    *rest = behind;
    if !is_in_code {
        return Ok(text);
    }
    decoded.clear();
    huffman::decode(text, decoded)?;
    Ok(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(hexadecimal: &str) -> Vec<u8> {
        let digits: Vec<u8> = hexadecimal.bytes().filter(u8::is_ascii_hexdigit).collect();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        digits.chunks(2).map(byte).collect()
    }

    fn fields(decoder: &mut Decoder, block: &[u8]) -> Result<String, Malformed> {
        let mut text = String::new();
        let mut show = |name: &[u8], value: &[u8]| {
            text += &format!("{}: {}\n", String::from_utf8_lossy(name), String::from_utf8_lossy(value));
        };
        decoder.decode(block, &mut show)?;
        Ok(text)
    }

    /// RFC 7541, appendix C.6: answers in code, with a table of 256 bytes, which the third one overflows.
    #[test]
    fn answers_of_the_standard() {
        let mut decoder = Decoder::default();
        assert_eq!(fields(&mut decoder, &bytes("3f e1 01")).unwrap(), "", "256 bytes");
        let first =
            "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad
            1718 63c7 8f0b 97c8 e9ae 82ae 43d3";
        let common = "cache-control: private\n";
        let date = "date: Mon, 21 Oct 2013 20:13:21 GMT\n";
        let location = "location: https://www.example.com\n";
        assert_eq!(fields(&mut decoder, &bytes(first)).unwrap(), format!(":status: 302\n{common}{date}{location}"));
        assert_eq!(decoder.size, 222);
        assert_eq!(
            fields(&mut decoder, &bytes("4883 640e ffc1 c0bf")).unwrap(),
            format!(":status: 307\n{common}{date}{location}")
        );
        assert_eq!(decoder.size, 222);
        let third =
            "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2
            e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07";
        let third = fields(&mut decoder, &bytes(third)).unwrap();
        let rest = "content-encoding: gzip\nset-cookie: foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1\n";
        let date = "date: Mon, 21 Oct 2013 20:13:22 GMT\n";
        assert_eq!(third, format!(":status: 200\n{common}{date}{location}{rest}"));
        assert_eq!((decoder.size, decoder.entries.len()), (215, 3));
    }

    /// RFC 7541, appendix C.2: all ways to spell a field out.
    #[test]
    fn fields_of_the_standard() {
        let mut decoder = Decoder::default();
        for (block, field, size) in [
            ("400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572", "custom-key: custom-header\n", 55),
            ("040c 2f73 616d 706c 652f 7061 7468", ":path: /sample/path\n", 55),
            ("1008 7061 7373 776f 7264 0673 6563 7265 74", "password: secret\n", 55),
            ("82", ":method: GET\n", 55),
            ("be", "custom-key: custom-header\n", 55),
        ] {
            assert_eq!(fields(&mut decoder, &bytes(block)).unwrap(), field);
            assert_eq!(decoder.size, size);
        }
    }

    #[test]
    fn blocks_that_are_none() {
        for bad in [
            // Index 0, one that nobody has, and numbers without end or beyond all.
            "80",
            "be",
            "ff",
            "ff80",
            "ffffffffff7f",
            "7f80808080808001",
            "ff80808008",
            // Texts that are longer than the block, and one in no code.
            "00",
            "0005 61",
            "0001 61",
            "0001 6102 62",
            "0081 ff01 61",
            // A table that is larger than allowed, or changed behind a field.
            "3fe21f",
            "8220",
        ] {
            assert_eq!(fields(&mut Decoder::default(), &bytes(bad)), Err(Malformed), "{bad}");
        }
    }

    #[test]
    fn a_few_bytes_do_not_stand_for_millions() {
        let mut decoder = Decoder::default();
        let value = "v".repeat(4000);
        let remembered = [&[0x40, 1, b'n', 0x7f, 0xa1, 0x1e][..], value.as_bytes()].concat();
        decoder.decode(&remembered, |_, _| {}).unwrap();
        assert!(decoder.decode(&[0xbe; 60], |_, _| {}).is_ok());
        let mut shown = 0;
        assert_eq!(decoder.decode(&[0xbe; 16_000], |_, _| shown += 1), Err(Malformed));
        assert_eq!(shown, 1 + MAX_SAID_BYTES / 4033);
    }

    #[test]
    fn a_field_that_is_larger_than_the_table_empties_it() {
        let mut decoder = Decoder::default();
        decoder.decode(&bytes("4001 6101 62"), |_, _| {}).unwrap();
        assert_eq!((decoder.entries.len(), decoder.size), (1, 34));
        let value = "v".repeat(5000);
        let block = [&[0x40, 1, b'n', 0x7f, 0x89, 0x26][..], value.as_bytes()].concat();
        assert_eq!(fields(&mut decoder, &block).unwrap(), format!("n: {value}\n"));
        assert_eq!((decoder.entries.len(), decoder.size), (0, 0));
    }

    proptest! {
        #[test]
        fn no_blocks_make_it_panic_or_remember_too_much(
            blocks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 0..10),
        ) {
            let mut decoder = Decoder::default();
            for block in blocks {
                let _ = decoder.decode(&block, |_, _| {});
                let sum = decoder.entries.iter().map(|entry| entry_bytes(entry.parts().0, entry.parts().1)).sum::<usize>();
                prop_assert!(decoder.size == sum && sum <= TABLE_BYTES);
            }
        }
    }
}
