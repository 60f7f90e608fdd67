//! Heads of requests, field by field.

use super::table::Table;
use super::{Malformed, huffman};

/// No number on the wire needs more bytes behind its first one.
const MAX_NUMBER_BYTES: u32 = 4;

pub(crate) struct Decoder {
    table: Table,
    /// Where strings are unpacked.
    name: Vec<u8>,
    value: Vec<u8>,
}

impl Decoder {
    pub(crate) fn new() -> Self {
        Self { table: Table::new(), name: Vec::new(), value: Vec::new() }
    }

    /// Shows each field of a whole head.
    ///
    /// # Errors
    /// What is no HPACK. The table is of no use any more then.
    pub(crate) fn decode(&mut self, mut block: &[u8], mut show: impl FnMut(&[u8], &[u8])) -> Result<(), Malformed> {
        let mut has_begun = false;
        while let Some(&first) = block.first() {
            match first {
                // Indexed.
                0x80.. => {
                    let (name, value) = self.table.get(number(&mut block, 7)?).ok_or(Malformed)?;
                    show(name, value);
                }
                // A new size of the table, which comes before all fields.
                0x20..0x40 => {
                    if has_begun || !self.table.resize(number(&mut block, 5)?) {
                        return Err(Malformed);
                    }
                    continue;
                }
                // Literal: to be remembered; not to be; and never to be, by nobody.
                _ => {
                    let is_kept = first >= 0x40;
                    let name = match number(&mut block, if is_kept { 6 } else { 4 })? {
                        0 => string(&mut block, &mut self.name)?,
                        index => self.table.get(index).ok_or(Malformed)?.0,
                    };
                    let value = string(&mut block, &mut self.value)?;
                    show(name, value);
                    if is_kept {
                        // The name may be of an entry that goes for this one.
                        let name = name.to_vec();
                        self.table.insert(&name, value);
                    }
                }
            }
            has_begun = true;
        }
        Ok(())
    }
}

/// Takes a number off the front whose first byte has so many bits of it.
fn number(block: &mut &[u8], bits: u32) -> Result<usize, Malformed> {
    let mut next = || {
        let (&byte, rest) = block.split_first().ok_or(Malformed)?;
        *block = rest;
        Ok(usize::from(byte))
    };
    let most = (1 << bits) - 1;
    let mut number = next()? & most;
    if number < most {
        return Ok(number);
    }
    for place in 0..MAX_NUMBER_BYTES {
        let byte = next()?;
        number += (byte & 0x7f) << (7 * place);
        if byte < 0x80 {
            return Ok(number);
        }
    }
    Err(Malformed)
}

/// Takes a string off the front; it is unpacked where it is packed.
fn string<'a, 'b: 'a>(block: &mut &'b [u8], unpacked: &'a mut Vec<u8>) -> Result<&'a [u8], Malformed> {
    let is_packed = block.first().is_some_and(|first| first & 0x80 != 0);
    let length = number(block, 7)?;
    let (text, rest) = block.split_at_checked(length).ok_or(Malformed)?;
    *block = rest;
    if !is_packed {
        return Ok(text);
    }
    unpacked.clear();
    huffman::decode(text, unpacked)?;
    Ok(unpacked)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<_> = hex.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
        digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    }

    fn read(decoder: &mut Decoder, hex: &str) -> Result<String, Malformed> {
        let mut lines = String::new();
        decoder.decode(&bytes(hex), |name, value| {
            let text = [name, b": ", value, b"\n"].concat();
            lines.push_str(&String::from_utf8(text).unwrap());
        })?;
        Ok(lines)
    }

    /// One head after the other on one connection: the wire, the lines, and what the table then counts for.
    fn check(heads: &[(&str, &str, usize)]) {
        let mut decoder = Decoder::new();
        for (wire, lines, table) in heads {
            assert_eq!(read(&mut decoder, wire).as_deref(), Ok(*lines));
            assert_eq!(decoder.table.bytes(), *table, "{lines}");
        }
    }

    #[test]
    fn single_fields_of_appendix_c_2() {
        check(&[(
            "400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572",
            "custom-key: custom-header\n",
            55,
        )]);
        check(&[("040c 2f73 616d 706c 652f 7061 7468", ":path: /sample/path\n", 0)]);
        check(&[("1008 7061 7373 776f 7264 0673 6563 7265 74", "password: secret\n", 0)]);
        check(&[("82", ":method: GET\n", 0)]);
    }

    const FIRST: &str = ":method: GET\n:scheme: http\n:path: /\n:authority: www.example.com\n";
    const SECOND: &str =
        ":method: GET\n:scheme: http\n:path: /\n:authority: www.example.com\ncache-control: no-cache\n";
    const THIRD: &str = ":method: GET\n:scheme: https\n:path: /index.html\n:authority: www.example.com\n\
        custom-key: custom-value\n";

    #[test]
    fn requests_of_appendix_c_3() {
        check(&[
            ("8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d", FIRST, 57),
            ("8286 84be 5808 6e6f 2d63 6163 6865", SECOND, 110),
            ("8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65", THIRD, 164),
        ]);
    }

    #[test]
    fn packed_requests_of_appendix_c_4() {
        check(&[
            ("8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff", FIRST, 57),
            ("8286 84be 5886 a8eb 1064 9cbf", SECOND, 110),
            ("8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf", THIRD, 164),
        ]);
    }

    /// With a table so small that fields are forgotten.
    #[test]
    fn packed_answers_of_appendix_c_6() {
        let first = ":status: 302\ncache-control: private\ndate: Mon, 21 Oct 2013 20:13:21 GMT\n\
            location: https://www.example.com\n";
        check(&[
            (
                "3fe1 01 4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e \
                 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
                first,
                222,
            ),
            ("4883 640e ffc1 c0bf", &first.replace("302", "307"), 222),
            (
                "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 \
                 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
                ":status: 200\ncache-control: private\ndate: Mon, 21 Oct 2013 20:13:22 GMT\n\
                 location: https://www.example.com\ncontent-encoding: gzip\n\
                 set-cookie: foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1\n",
                215,
            ),
        ]);
    }

    #[test]
    fn what_is_no_head() {
        let mut field = bytes("400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572");
        while field.pop().is_some() && !field.is_empty() {
            assert_eq!(Decoder::new().decode(&field, |_, _| {}), Err(Malformed), "cut after {}", field.len());
        }
        for (wire, why) in [
            ("80", "index 0"),
            ("be", "an index behind the table"),
            ("7e 00", "so of a name"),
            ("8220", "a size behind a field"),
            ("3fe2 1f", "a size above the one offered"),
            ("ff80 8080 8000", "a number without an end"),
            ("0081 ff00", "a name with a wrong padding"),
        ] {
            assert_eq!(read(&mut Decoder::new(), wire), Err(Malformed), "{why}");
        }
        assert_eq!(
            read(&mut Decoder::new(), "3fe1 1f 82").as_deref(),
            Ok(":method: GET\n"),
            "the size that was offered"
        );
    }

    #[test]
    fn a_small_table_forgets() {
        const FIELD: &str = "400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572";
        let mut decoder = Decoder::new();
        // 60 bytes: one field, also where the next one has its name.
        assert_eq!(read(&mut decoder, &format!("3f1d {FIELD} 7e01 61")).unwrap().lines().last(), Some("custom-key: a"));
        assert_eq!(decoder.table.bytes(), 43);
        // 40 bytes: what does not fit empties it.
        assert_eq!(read(&mut decoder, &format!("3f09 {FIELD}")).as_deref(), Ok("custom-key: custom-header\n"));
        assert_eq!(decoder.table.bytes(), 0);
        assert_eq!(read(&mut decoder, "be"), Err(Malformed));
    }
}
