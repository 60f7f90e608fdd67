//! Finds the value of one top-level field in a JSON object that comes in parts, and holds nothing but that value.
//!
//! It knows as much of JSON as tells a top-level field from a text or a nested object that looks like one. A text that
//! is not one whole object has no such field. What the value itself is worth is for a parser to say.

use crate::json::{self, ESCAPE_COUNTS, LONG_STRING_BYTES, Reading, Specials};

/// More of a value is not kept, in bytes. What is cut off is no JSON any more.
const MAX_VALUE_BYTES: usize = 16 * 1024;

/// What means something outside of strings: within a nested value too, or in a top-level one only. All else is passed
/// over in a loop of a few instructions.
const NESTED: u8 = 1;
const TOP_LEVEL: u8 = 2;
const STRUCTURE: [u8; 256] = {
    let mut table = [0; 256];
    table[b'"' as usize] = NESTED;
    table[b'{' as usize] = NESTED;
    table[b'[' as usize] = NESTED;
    table[b'}' as usize] = NESTED;
    table[b']' as usize] = NESTED;
    table[b',' as usize] = TOP_LEVEL;
    table
};

/// Looks for one field.
#[derive(Debug)]
pub(super) struct Finder {
    name: &'static [u8],
    state: State,
    /// Objects and arrays that are open within a top-level value.
    depth: u32,
    /// Behind a backslash within a string.
    is_escaped: bool,
    /// The value under way is the one that is looked for.
    is_wanted: bool,
    found: bool,
    value: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before the object.
    Start,
    BeforeKey,
    /// In a key, of which so many bytes are those of the name; `None` once one is not.
    Key(Option<usize>),
    BeforeColon,
    /// In a value, outside of strings.
    Value,
    /// In a string of a value.
    String,
    /// Behind the object.
    End,
    /// This is not one object, or not one that is understood.
    Broken,
}

impl Finder {
    /// Looks for `name`.
    pub(super) fn new(name: &'static [u8]) -> Self {
        Self {
            name,
            state: State::Start,
            depth: 0,
            is_escaped: false,
            is_wanted: false,
            found: false,
            value: Vec::new(),
        }
    }

    /// Reads the next part of the text.
    pub(super) fn push(&mut self, part: &[u8]) {
        let mut specials = Specials::of(part);
        let mut read = 0;
        while read < part.len() {
            read = match self.state {
                State::Broken => return,
                State::Value | State::String => self.read_value(part, read, &mut specials),
                State::Key(known) => self.read_key(known, part, read),
                _ => self.read_between(part, read),
            };
        }
    }

    /// Ends the text: the field's value, the last one where it stands twice. The next part begins another text.
    pub(super) fn finish(&mut self) -> Option<&mut Vec<u8>> {
        let found = self.found && self.state == State::End;
        (self.state, self.depth, self.is_escaped, self.is_wanted, self.found) = (State::Start, 0, false, false, false);
        found.then_some(&mut self.value)
    }

    /// Reads a value up to its end, and says how far that was.
    fn read_value(&mut self, part: &[u8], from: usize, specials: &mut Specials<'_>) -> usize {
        let mut read = from;
        if self.state == State::String {
            read = self.read_string(part, read, specials);
        }
        let end = loop {
            let kinds = if self.depth == 0 { TOP_LEVEL | NESTED } else { NESTED };
            let rest = part.get(read..).unwrap_or_default();
            let Some(plain) = rest.iter().position(|byte| STRUCTURE[usize::from(*byte)] & kinds != 0) else {
                read = part.len();
                break read;
            };
            let at = read + plain;
            read = at + 1;
            match (rest.get(plain), self.depth) {
                (Some(b'"'), _) => read = self.read_string(part, read, specials),
                (Some(b'{' | b'['), _) => match self.depth.checked_add(1) {
                    Some(depth) => self.depth = depth,
                    None => self.state = State::Broken,
                },
                (Some(b'}'), 0) => self.state = State::End,
                (Some(b','), 0) => self.state = State::BeforeKey,
                (Some(b']'), 0) => self.state = State::Broken,
                (Some(b'}' | b']'), _) => self.depth -= 1,
                _ => {}
            }
            if !matches!(self.state, State::Value | State::String) {
                // The byte that ended it is no part of it.
                break at;
            }
        };
        self.keep(part.get(from..end).unwrap_or_default());
        read
    }

    /// Reads a string of a value up to its end, and says how far that was: all of it where the end has not come.
    fn read_string(&mut self, part: &[u8], from: usize, specials: &mut Specials<'_>) -> usize {
        let mut read = from + usize::from(std::mem::take(&mut self.is_escaped) && from < part.len());
        let mut long = read + LONG_STRING_BYTES;
        while let Some(at) = specials.next_before(read, long) {
            if at >= long {
                // What it is worth is not asked here: only where it ends.
                match json::read_string(part, at) {
                    Reading::Ended(end) => {
                        self.state = State::Value;
                        return end;
                    }
                    Reading::Open(open) => read = open,
                    Reading::Broken => {}
                }
                long = usize::MAX;
                continue;
            }
            read = match part.get(at) {
                Some(b'"') => {
                    self.state = State::Value;
                    return at + 1;
                }
                Some(b'\\') => {
                    long = long.saturating_sub(ESCAPE_COUNTS);
                    at + 2
                }
                _ => at + 1,
            };
        }
        self.state = State::String;
        // A backslash was the last byte.
        self.is_escaped = read > part.len();
        part.len()
    }

    /// Reads a key up to its end, and says how far that was.
    fn read_key(&mut self, known: Option<usize>, part: &[u8], from: usize) -> usize {
        let rest = part.get(from..).unwrap_or_default();
        // Names are short.
        let end = rest.iter().position(|byte| matches!(byte, b'"' | b'\\')).unwrap_or(rest.len());
        let run = rest.get(..end).unwrap_or_default();
        let is_name = |known: &usize| self.name.get(*known..).is_some_and(|rest| rest.starts_with(run));
        let known = known.filter(is_name).map(|known| known + run.len());
        self.state = match rest.get(end) {
            None => State::Key(known),
            Some(b'"') => {
                self.is_wanted = known == Some(self.name.len());
                State::BeforeColon
            }
            // It could be any name, and nobody writes one so.
            Some(_) => State::Broken,
        };
        from + end + 1
    }

    /// Reads one byte that stands between keys and values.
    fn read_between(&mut self, part: &[u8], at: usize) -> usize {
        let Some(byte) = part.get(at) else { return at };
        self.state = match (self.state, byte) {
            (state, b' ' | b'\t' | b'\n' | b'\r') => state,
            (State::Start, b'{') => State::BeforeKey,
            (State::BeforeKey, b'"') => State::Key(Some(0)),
            (State::BeforeKey, b'}') => State::End,
            (State::BeforeColon, b':') => {
                if self.is_wanted {
                    self.found = true;
                    self.value.clear();
                }
                State::Value
            }
            _ => State::Broken,
        };
        at + 1
    }

    /// Keeps what was read of a value, if it is the one.
    fn keep(&mut self, read: &[u8]) {
        if self.is_wanted {
            let room = MAX_VALUE_BYTES.saturating_sub(self.value.len());
            self.value.extend_from_slice(read.get(..room).unwrap_or(read));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    fn find(parts: &[&[u8]]) -> Option<String> {
        let mut finder = Finder::new(b"usage");
        parts.iter().for_each(|part| finder.push(part));
        finder.finish().map(|value| String::from_utf8_lossy(value.trim_ascii()).into_owned())
    }

    #[test]
    fn only_the_top_level_field_counts() {
        for (text, value) in [
            (r#"{"usage":{"a":1}}"#, Some(r#"{"a":1}"#)),
            (" {\n \"usage\" :\t[1, \"}\\\"]\"] , \"b\":2 } \r\n", Some(r#"[1, "}\"]"]"#)),
            (r#"{"a":"\"usage\":{\"a\":1}","usage":null}"#, Some("null")),
            (r#"{"a":"\\","usage":5,"b":"usage"}"#, Some("5")),
            (r#"{"usage":1,"usage":2}"#, Some("2")),
            (r#"{"usage":{"usage":3}}"#, Some(r#"{"usage":3}"#)),
            (r#"{"a":{"usage":3},"b":[{"usage":3}]}"#, None),
            (r#"{"usage ":1,"usag":2,"Usage":3,"usages":4}"#, None),
            (r#"{"a":"usage"}"#, None),
            (r#"{"us\u0061ge":1,"usage":2}"#, None),
            (r#"{"usage":1"#, None),
            (r#"{"usage":1} x"#, None),
            (r#"{"usage":1}{"usage":2}"#, None),
            (r#"[{"usage":1}]"#, None),
            (r#"{"usage":1]"#, None),
            (r#""usage""#, None),
            ("[DONE]", None),
            ("{}", None),
            ("", None),
        ] {
            assert_eq!(find(&[text.as_bytes()]).as_deref(), value, "{text}");
            let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
            assert_eq!(find(&bytes).as_deref(), value, "{text} in single bytes");
        }
    }

    #[test]
    fn long_strings_end_where_short_ones_would_whatever_is_in_them() {
        for inside in ["a", "\\\\", "\\\"", "\\u00e9", "\\x", "\n", "\u{e9}"] {
            for count in [1, 31, 64, 65, 100, 200] {
                for place in [0, count / 2, count] {
                    let (before, behind) = ("a".repeat(place), inside.repeat(count - place));
                    let text = format!(r#"{{"a":"{before}{inside}{behind}","usage":5,"b":"{behind}{before}"}}"#);
                    for cut in 0..text.len() {
                        let (one, two) = text.as_bytes().split_at(cut);
                        assert_eq!(find(&[one, two]).as_deref(), Some("5"), "{text} cut at {cut}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_broken_text_does_not_spoil_the_next() {
        let mut finder = Finder::new(b"usage");
        for broken in [r#"{"usage":{"a":"\"#, r#"{"usage":[[[["#, r#"{"us"#, r#"}"#] {
            finder.push(broken.as_bytes());
            assert!(finder.finish().is_none(), "{broken}");
            finder.push(br#"{"usage":7}"#);
            assert_eq!(finder.finish().unwrap(), b"7", "after {broken}");
        }
    }

    #[test]
    fn nothing_but_a_bounded_value_is_held() {
        let mut finder = Finder::new(b"usage");
        finder.push(br#"{"a":"#);
        for _ in 0..100 {
            finder.push(&[b'['; 100_000]);
        }
        finder.push(&vec![b']'; 10_000_000]);
        assert_eq!(finder.value.capacity(), 0);
        finder.push(br#","usage":""#);
        finder.push(&vec![b'x'; 10_000_000]);
        finder.push(b"\"}");
        assert_eq!(finder.finish().unwrap().len(), MAX_VALUE_BYTES);
        assert!(finder.value.capacity() <= 2 * MAX_VALUE_BYTES);
    }

    /// Any JSON, rich in what could be mistaken.
    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<i32>().prop_map(Value::from),
            r#"("|\\|usage|:|\{|\}|,|\[|\]|é|a){0,6}"#.prop_map(Value::from),
            r#"("|\\|usage|\n|é|a){40,200}"#.prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::hash_map("(usage|usag|a|é)", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_parser_however_the_text_is_cut(value in json(), pretty: bool, cut in any::<proptest::sample::Index>()) {
            let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
            let expected = value.as_object().and_then(|object| object.get("usage"));
            let (one, two) = text.as_bytes().split_at(cut.index(text.len() + 1));
            let found = find(&[one, two]).map(|value| serde_json::from_str::<Value>(&value).unwrap());
            prop_assert_eq!(found.as_ref(), expected);
        }

        #[test]
        fn no_bytes_make_it_panic_and_cuts_change_nothing(
            bytes in proptest::collection::vec(prop_oneof![any::<u8>(), proptest::sample::select(&br#"{}[]",:\usage"#[..])], 0..80),
            cut in any::<proptest::sample::Index>(),
        ) {
            let (one, two) = bytes.split_at(cut.index(bytes.len() + 1));
            prop_assert_eq!(find(&[one, two]), find(&[&bytes]));
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            prop_assert_eq!(find(&single), find(&[&bytes]));
        }
    }
}
