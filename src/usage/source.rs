//! Takes a log apart into its entries: one a line, or the elements of the JSON array that `gcloud` prints.

use std::io::{self, BufRead};

/// A longer entry is passed over, in bytes. The gateway's lines have about a thousand.
const MAX_ENTRY_BYTES: usize = 1024 * 1024;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The entries of one log.
#[derive(Debug)]
pub(super) struct Entries<R> {
    reader: R,
    form: Option<Form>,
    entry: Vec<u8>,
    /// Bytes read so far.
    read_bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Lines,
    Array,
}

impl<R: BufRead> Entries<R> {
    /// The entries of what `reader` gives.
    pub(super) fn new(reader: R) -> Self {
        Self { reader, form: None, entry: Vec::new(), read_bytes: 0 }
    }

    /// Bytes read so far.
    pub(super) fn read_bytes(&self) -> u64 {
        self.read_bytes
    }

    /// The next entry that is not blank; one that is too long is empty.
    ///
    /// # Errors
    /// When reading fails.
    pub(super) fn next(&mut self) -> io::Result<Option<&[u8]>> {
        let form = match self.form {
            Some(form) => form,
            None => {
                let form = self.find_form()?;
                self.form = Some(form);
                form
            }
        };
        let found = match form {
            Form::Lines => self.read_line()?,
            Form::Array => self.read_element()?,
        };
        Ok(found.then_some(&self.entry))
    }

    /// An array begins with a bracket on a line of its own, or with one and an object. Lines that begin so are common in
    /// other programs' logs.
    fn find_form(&mut self) -> io::Result<Form> {
        loop {
            let buffer = self.reader.fill_buf()?;
            // Some programs of Windows begin every text with one.
            let marked = if self.read_bytes == 0 { buffer.strip_prefix(BYTE_ORDER_MARK) } else { None };
            let start = marked.unwrap_or(buffer).trim_ascii_start();
            if start.is_empty() && !buffer.is_empty() {
                let blank = buffer.len();
                self.read_bytes += blank as u64;
                self.reader.consume(blank);
                continue;
            }
            let inside = start.strip_prefix(b"[").map(<[u8]>::trim_ascii_start);
            let is_array = inside.is_some_and(|inside| matches!(inside.first(), None | Some(b'{' | b']')));
            let mark = if marked.is_some() { BYTE_ORDER_MARK.len() } else { 0 };
            self.read_bytes += mark as u64;
            self.reader.consume(mark);
            return Ok(if is_array { Form::Array } else { Form::Lines });
        }
    }

    fn read_line(&mut self) -> io::Result<bool> {
        loop {
            self.entry.clear();
            let mut is_too_long = false;
            let mut ended = false;
            while !ended {
                let buffer = self.reader.fill_buf()?;
                if buffer.is_empty() {
                    break;
                }
                let end = memchr::memchr(b'\n', buffer);
                let taken = end.map_or(buffer.len(), |at| at + 1);
                let part = buffer.get(..end.unwrap_or(taken)).unwrap_or_default();
                is_too_long |= self.entry.len() + part.len() > MAX_ENTRY_BYTES;
                if !is_too_long {
                    self.entry.extend_from_slice(part);
                }
                ended = end.is_some();
                self.read_bytes += taken as u64;
                self.reader.consume(taken);
            }
            if is_too_long {
                self.entry.clear();
                return Ok(true);
            }
            if !self.entry.trim_ascii().is_empty() {
                return Ok(true);
            }
            if !ended {
                return Ok(false);
            }
        }
    }

    /// The next object within the array, braces in strings minded. One that does not end is the last.
    fn read_element(&mut self) -> io::Result<bool> {
        self.entry.clear();
        let (mut depth, mut is_string, mut is_escaped, mut is_too_long) = (0u64, false, false, false);
        loop {
            let buffer = self.reader.fill_buf()?;
            if buffer.is_empty() {
                return Ok(depth > 0);
            }
            let (mut start, mut end) = (if depth > 0 { Some(0) } else { None }, None);
            for (at, byte) in buffer.iter().enumerate() {
                match byte {
                    _ if is_escaped => is_escaped = false,
                    b'\\' if is_string => is_escaped = true,
                    b'"' if depth > 0 => is_string = !is_string,
                    _ if is_string => {}
                    b'{' => {
                        depth += 1;
                        start = start.or(Some(at));
                    }
                    b'}' if depth > 0 => {
                        depth -= 1;
                        if depth == 0 {
                            end = Some(at + 1);
                            break;
                        }
                    }
                    _ => {}
                }
            }
            let taken = end.unwrap_or(buffer.len());
            let part = start.and_then(|start| buffer.get(start..taken)).unwrap_or_default();
            is_too_long |= self.entry.len() + part.len() > MAX_ENTRY_BYTES;
            if is_too_long {
                self.entry.clear();
            } else {
                self.entry.extend_from_slice(part);
            }
            self.read_bytes += taken as u64;
            self.reader.consume(taken);
            if end.is_some() {
                return Ok(true);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::BufReader;

    fn entries(log: &[u8], buffer: usize) -> Vec<String> {
        let mut entries = Entries::new(BufReader::with_capacity(buffer, log));
        let mut found = Vec::new();
        while let Some(entry) = entries.next().unwrap() {
            found.push(String::from_utf8_lossy(entry).into_owned());
        }
        assert_eq!(entries.read_bytes(), log.len() as u64);
        found
    }

    #[test]
    fn lines_and_arrays_are_taken_apart() {
        for size in [2, 5, 1000] {
            assert_eq!(entries(b"{\"a\":1}\r\n\n  \nx y\n{", size), ["{\"a\":1}\r", "x y", "{"]);
            assert_eq!(
                entries(b"\n[\n  {\"a\": \"}\\\"{\"},\n  {\"b\": {}}\n]\n", size),
                ["{\"a\": \"}\\\"{\"}", "{\"b\": {}}"]
            );
            assert_eq!(entries(b"[{\"a\":1},{\"b\":", size), ["{\"a\":1}", "{\"b\":"]);
            assert!(
                entries(b"[]\n", size).is_empty() && entries(b"", size).is_empty() && entries(b" \n", size).is_empty()
            );
        }
        let marked = [BYTE_ORDER_MARK, b"[{},\n{}]"].concat();
        assert_eq!(entries(&marked, 1000), ["{}", "{}"]);
        let marked = [BYTE_ORDER_MARK, b"1\n", BYTE_ORDER_MARK, b"2\n"].concat();
        assert_eq!(entries(&marked, 1000), ["1", "\u{feff}2"]);
        assert_eq!(entries(b"[2026-01-01] started {\n{}\n", 1000), ["[2026-01-01] started {", "{}"]);
    }

    #[test]
    fn what_is_too_long_is_passed_over_and_not_held() {
        let long = "x".repeat(MAX_ENTRY_BYTES);
        assert_eq!(entries(format!("{long}yz\n1\n").as_bytes(), 8192), ["", "1"]);
        assert_eq!(entries(format!("[{{\"a\":\"{long}\"}},{{}}]").as_bytes(), 8192), ["", "{}"]);
    }

    proptest! {
        #[test]
        fn arrays_of_any_objects_in_buffers_of_any_size(
            objects in proptest::collection::vec(proptest::collection::hash_map(r#"[a"\\{}\[\]]{0,3}"#, r#"["\\{}\[\],:]{0,4}"#, 0..3), 0..5),
            size in 2usize..40,
            pretty: bool,
        ) {
            let text = if pretty { serde_json::to_string_pretty(&objects) } else { serde_json::to_string(&objects) }.unwrap();
            let found: Vec<std::collections::HashMap<String, String>> =
                entries(text.as_bytes(), size).iter().map(|entry| serde_json::from_str(entry).unwrap()).collect();
            prop_assert_eq!(found, objects);
        }
    }
}
