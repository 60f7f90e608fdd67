//! One pass over a JSON object on a request's path, which judges all of it and shows the fields on top.
//!
//! RFC 8259 to the letter, as serde_json has it for what it passes over: a lone surrogate may stand, a control character
//! may not, and depth is no limit. It does in a third of the instructions what serde_json does, and says nothing of what
//! is wrong: whoever has to tell asks serde_json again. Whether bytes beyond ASCII are UTF-8 is for others to say.

use super::specials::Specials;
use super::string::{self, ESCAPE_COUNTS, LONG_STRING_BYTES, Reading};
use super::text;
use std::num::NonZero;
use std::ops::Range;

/// Shows the fields of an object in their order, name and value as they were written; `None` where `object` is none, or
/// not one alone. The fields before a mistake have been shown by then.
fn fields<'a>(object: &'a str, mut show: impl FnMut(&'a str, &'a str)) -> Option<()> {
    let mut scan = Scan::of_object();
    let at = |range: Range<usize>| object.get(range).unwrap_or_default();
    scan.read(object.as_bytes(), |name, value| show(at(name), at(value)))
}

/// Shows the elements of an array in their order, by where they stand; `None` as for an object.
pub fn elements(array: &[u8], mut show: impl FnMut(Range<usize>)) -> Option<()> {
    Scan::of_array().read(array, |_, element| show(element))
}

/// The values of a few fields of an object, as they were written, the last one where a field stands twice; `None` where
/// this is no object.
#[must_use]
pub fn values<'a, const N: usize>(object: &'a str, names: [&str; N]) -> Option<[Option<&'a str>; N]> {
    let mut values = [None; N];
    fields(object, |raw, value| {
        let at = names.iter().position(|name| is_name(raw.as_bytes(), name));
        if let Some(known) = at.and_then(|at| values.get_mut(at)) {
            *known = Some(value);
        }
    })?;
    Some(values)
}

/// Whether a field's name, as it was written, spells `name`, with or without escapes.
#[must_use]
pub fn is_name(raw: &[u8], name: &str) -> bool {
    let inside = raw.get(1..raw.len().saturating_sub(1)).unwrap_or_default();
    // An escape is longer than what it stands for, and six bytes at most for one of ASCII.
    if inside.len() == name.len() {
        inside == name.as_bytes()
    } else {
        inside.len() > name.len() && inside.len() <= 6 * name.len() && is_escaped_name(raw, name)
    }
}

fn is_escaped_name(raw: &[u8], name: &str) -> bool {
    // Nearly all names are told apart by their first byte, if that begins no escape.
    let first = raw.get(1);
    let may_be_it = first == Some(&b'\\') || first == name.as_bytes().first();
    let spelled = || std::str::from_utf8(raw).ok().and_then(text).is_some_and(|text| text == name);
    may_be_it && memchr::memchr(b'\\', raw).is_some() && spelled()
}

/// How far an object or an array has been read, which may come in parts.
#[derive(Debug)]
pub struct Scan {
    /// Everything before this place has been read.
    at: usize,
    /// A value has ended there; or else one begins.
    is_behind_value: bool,
    nesting: Nesting,
    kind: Kind,
    /// The name of the field on top that is being read.
    name: Range<usize>,
    /// Where the value on top begins that is being read; never at the text's begin.
    value: Option<NonZero<usize>>,
    open: OpenString,
}

/// A string whose end has not come.
#[derive(Clone, Copy, Debug, Default)]
struct OpenString {
    begin: usize,
    /// Up to here it is good.
    read: usize,
}

/// What is read as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Object,
    Array,
}

/// Which of the objects and arrays under way are objects: a bit for each, the innermost last. No allocation for less than
/// 65 of them.
#[derive(Debug, Default)]
struct Nesting {
    depth: usize,
    last: u64,
    before: Vec<u64>,
}

impl Nesting {
    #[inline(always)]
    fn push(&mut self, is_object: bool) {
        if self.depth != 0 && self.depth.is_multiple_of(64) {
            self.before.push(self.last);
        }
        self.last = self.last << 1 | u64::from(is_object);
        self.depth += 1;
    }

    #[inline(always)]
    fn pop(&mut self) {
        self.depth -= 1;
        self.last >>= 1;
        if self.depth != 0 && self.depth.is_multiple_of(64) {
            self.last = self.before.pop().unwrap_or_default();
        }
    }

    fn is_in_object(&self) -> bool {
        self.last & 1 == 1
    }
}

impl Scan {
    /// Of an object, of which nothing is known.
    #[must_use]
    pub fn of_object() -> Self {
        Self::new(Kind::Object)
    }

    fn of_array() -> Self {
        Self::new(Kind::Array)
    }

    fn new(kind: Kind) -> Self {
        Self {
            at: 0,
            is_behind_value: false,
            nesting: Nesting::default(),
            kind,
            name: 0..0,
            value: None,
            open: OpenString::default(),
        }
    }

    /// How much has been read for good, in bytes: what is told of more text will say nothing else of it.
    #[must_use]
    pub fn position(&self) -> usize {
        self.at.max(self.open.read)
    }

    /// Reads on in a text that begins with all that was read before, and shows what is complete on top: names and values
    /// by where they stand. `None` where it is no object as a whole, because something is wrong or still to come.
    pub fn read(&mut self, text: &[u8], mut show: impl FnMut(Range<usize>, Range<usize>)) -> Option<()> {
        let mut cursor = Cursor { text, specials: Specials::of(text), at: self.at, open: self.open };
        // A copy that nobody else sees stays in registers.
        let mut scan = std::mem::replace(self, Self::new(self.kind));
        let read = scan.read_by(&mut cursor, &mut show);
        scan.open = cursor.open;
        *self = scan;
        read
    }

    #[inline(always)]
    fn read_by(&mut self, cursor: &mut Cursor<'_>, show: &mut impl FnMut(Range<usize>, Range<usize>)) -> Option<()> {
        if self.at == 0 {
            cursor.skip_blanks();
            let first = if self.kind == Kind::Object { b'{' } else { b'[' };
            (cursor.peek() == Some(first)).then_some(())?;
        }
        loop {
            if !self.is_behind_value {
                match cursor.peek()? {
                    b'"' => cursor.string()?,
                    b'{' => {
                        cursor.at += 1;
                        cursor.skip_blanks();
                        if cursor.take(b'}').is_none() {
                            self.begin_field(cursor, self.nesting.depth == 0)?;
                            self.nesting.push(true);
                            continue;
                        }
                    }
                    b'[' => {
                        cursor.at += 1;
                        cursor.skip_blanks();
                        if cursor.take(b']').is_none() {
                            self.begin_value(cursor, self.nesting.depth == 0)?;
                            self.nesting.push(false);
                            continue;
                        }
                    }
                    _ => cursor.scalar()?,
                }
            }
            // Behind a value. What was shown, or closed, is noted: it must not be read twice.
            loop {
                if self.nesting.depth <= 1 {
                    self.end_value(cursor);
                    if let Some(value) = self.value.take() {
                        show(self.name.clone(), value.get()..cursor.at);
                    }
                }
                cursor.skip_blanks();
                if self.nesting.depth == 0 {
                    return (cursor.at == cursor.text.len()).then_some(());
                }
                let byte = cursor.peek()?;
                cursor.at += 1;
                match (byte, self.nesting.is_in_object()) {
                    (b'}', true) | (b']', false) => {
                        self.nesting.pop();
                        self.end_value(cursor);
                    }
                    (b',', is_in_object) => {
                        let comma = cursor.at - 1;
                        cursor.skip_blanks();
                        let is_on_top = self.nesting.depth == 1;
                        let begun = if is_in_object {
                            self.begin_field(cursor, is_on_top)
                        } else {
                            self.begin_value(cursor, is_on_top)
                        };
                        if begun.is_none() {
                            // The value before may be long, and so may the name that is not whole.
                            (self.at, self.is_behind_value) = (comma, true);
                            return None;
                        }
                        break;
                    }
                    _ => return None,
                }
            }
        }
    }

    #[inline(always)]
    fn end_value(&mut self, cursor: &Cursor<'_>) {
        self.at = cursor.at;
        self.is_behind_value = true;
    }

    /// Reads a field's name, up to where its value begins.
    #[inline(always)]
    fn begin_field(&mut self, cursor: &mut Cursor<'_>, is_on_top: bool) -> Option<()> {
        let begin = cursor.at;
        cursor.string()?;
        let name = begin..cursor.at;
        cursor.colon()?;
        self.begin_value(cursor, is_on_top)?;
        if is_on_top {
            self.name = name;
        }
        Some(())
    }

    /// A value begins here, and its first byte has come.
    #[inline(always)]
    fn begin_value(&mut self, cursor: &Cursor<'_>, is_on_top: bool) -> Option<()> {
        cursor.peek()?;
        if is_on_top {
            self.value = NonZero::new(cursor.at);
        }
        self.at = cursor.at;
        self.is_behind_value = false;
        Some(())
    }
}

/// A place in the text.
struct Cursor<'a> {
    text: &'a [u8],
    specials: Specials<'a>,
    at: usize,
    open: OpenString,
}

impl Cursor<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> Option<()> {
        (self.peek() == Some(byte)).then(|| self.at += 1)
    }

    fn skip_blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    /// A colon with the blanks around it.
    fn colon(&mut self) -> Option<()> {
        self.skip_blanks();
        self.take(b':')?;
        self.skip_blanks();
        Some(())
    }

    /// A value that is no string and has none in it.
    fn scalar(&mut self) -> Option<()> {
        match self.peek()? {
            b't' => self.word(b"true"),
            b'f' => self.word(b"false"),
            b'n' => self.word(b"null"),
            _ => self.number(),
        }
    }

    fn word(&mut self, word: &[u8]) -> Option<()> {
        self.text.get(self.at..)?.starts_with(word).then(|| self.at += word.len())
    }

    fn number(&mut self) -> Option<()> {
        let _ = self.take(b'-');
        match self.peek()? {
            b'0' => {
                self.at += 1;
                self.peek()?;
            }
            _ => self.digits()?,
        }
        if self.take(b'.').is_some() {
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Some(())
    }

    /// One digit or more, and something behind them: at the end of what has come, a number may go on.
    fn digits(&mut self) -> Option<()> {
        let begin = self.at;
        while self.peek()?.is_ascii_digit() {
            self.at += 1;
        }
        (self.at > begin).then_some(())
    }

    #[inline]
    fn string(&mut self) -> Option<()> {
        let begin = self.at;
        self.take(b'"')?;
        // Most end in the block that they begin in, without an escape.
        if let Some(at) = self.specials.next_in_block(self.at)
            && self.text.get(at) == Some(&b'"')
        {
            self.at = at + 1;
            return Some(());
        }
        self.rest_of_string(begin)
    }

    #[inline(never)]
    fn rest_of_string(&mut self, begin: usize) -> Option<()> {
        if self.open.begin == begin {
            self.at = self.open.read;
            return self.long_string(begin);
        }
        let mut long = self.at + LONG_STRING_BYTES;
        loop {
            self.at = self.specials.next_before(self.at, long)?;
            if self.at >= long {
                return self.long_string(begin);
            }
            match self.peek()? {
                b'"' => {
                    self.at += 1;
                    return Some(());
                }
                b'\\' => {
                    self.escape()?;
                    long = long.saturating_sub(ESCAPE_COUNTS);
                }
                _ => return None,
            }
        }
    }

    fn long_string(&mut self, begin: usize) -> Option<()> {
        match string::read(self.text, self.at) {
            Reading::Ended(end) => {
                self.at = end;
                Some(())
            }
            Reading::Open(read) => {
                self.open = OpenString { begin, read };
                None
            }
            Reading::Broken => None,
        }
    }

    fn escape(&mut self) -> Option<()> {
        match self.text.get(self.at + 1)? {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => self.at += 2,
            b'u' => {
                let digits = self.text.get(self.at + 2..)?.first_chunk::<4>()?;
                digits.iter().all(u8::is_ascii_hexdigit).then_some(())?;
                self.at += 6;
            }
            _ => return None,
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Fields;
    use super::*;
    use proptest::prelude::*;
    use serde_json::value::RawValue;

    /// Names and values by this scanner.
    fn scanned(text: &str) -> Option<Vec<(&str, &str)>> {
        let mut found = Vec::new();
        fields(text, |name, value| found.push((name, value)))?;
        Some(found)
    }

    /// The same by serde_json; a name that is no text is left as it is.
    fn parsed(text: &str) -> Option<Vec<(String, &str)>> {
        let found: Fields<'_> = serde_json::from_str(text).ok()?;
        Some(found.0.iter().map(|(name, value)| (name.clone().into_owned(), value.get())).collect())
    }

    fn agree(text: &str) {
        let spelled = |name: &str| super::super::text(name).map_or("\u{fffd}".to_owned(), |name| name.into_owned());
        let scanned = scanned(text).map(|all| all.into_iter().map(|(name, value)| (spelled(name), value)).collect());
        assert_eq!(scanned, parsed(text), "{text}");
    }

    #[test]
    fn what_stands_on_top_is_shown() {
        assert_eq!(
            scanned(" {\n\"a\" : [1, {\"b\":2}] ,\"b\":\"\\\"}\"\t}\r\n").unwrap(),
            [("\"a\"", "[1, {\"b\":2}]"), ("\"b\"", "\"\\\"}\"")]
        );
        assert_eq!(scanned("{}").unwrap(), []);
    }

    #[test]
    fn every_byte_everywhere_is_judged_as_serde_json_does() {
        let texts = [
            "{}",
            "{\"a\":1}",
            "{\"a\":[]}",
            "{\"a\":{}}",
            "{\"a\":\"\\u00e9\\\\x12345678\"}",
            "{\"a\":-0.1e+1}",
            "{\"a\":10,\"b\":[true,false,null,{\"c\":[0]}]}",
            "{\"a\\u0062\":\"\\ud800 12345678 \\n\",\"a\":0}",
            "[1]",
            "{\"a\":\"12345678901234567\"}",
        ];
        for text in texts {
            agree(text);
            for at in 0..=text.len() {
                agree(&text[..at]);
                for byte in 0..128_u8 {
                    let byte = char::from(byte);
                    agree(&format!("{}{byte}{}", &text[..at], &text[at..]));
                    agree(&format!("{}{byte}{}", &text[..at], text.get(at + 1..).unwrap_or_default()));
                }
            }
        }
    }

    #[test]
    fn depth_is_no_limit() {
        for depth in [63, 64, 65, 127, 128, 129, 1_000] {
            let text = |close: &str| format!("{{\"x\":{}{close}}}", "[{\"a\":".repeat(depth));
            agree(&text(&format!("1{}", "}]".repeat(depth))));
            agree(&text(&format!("1{}", "}]".repeat(depth - 1))));
            agree(&text(&format!("1{}]}}", "}]".repeat(depth - 1))));
        }
    }

    #[test]
    fn what_is_read_for_good_is_not_read_again_for_what_is_still_open() {
        let value = format!("{{\"a\":{{\"b\":\"{}\"", "x".repeat(1000));
        for behind in [",", " , ", ",\"y", &format!(",\"{}", "y".repeat(1000)), ",\"y\" "] {
            let mut scan = Scan::of_object();
            let text = format!("{value}{behind}");
            for end in [value.len() - 300, text.len(), text.len()] {
                assert!(scan.read(&text.as_bytes()[..end], |_, _| {}).is_none());
            }
            assert!(scan.at >= value.len(), "{behind}");
        }
    }

    #[test]
    fn names_are_known_with_and_without_escapes() {
        for (raw, is_it) in [
            ("\"ab\"", true),
            ("\"a\\u0062\"", true),
            ("\"abc\"", false),
            ("\"ab\\u0062\"", false),
            ("\"\\u0061b\"", true),
            ("\"a\\u0063\"", false),
            ("\"a\"", false),
            ("\"\\ud800\"", false),
            ("\"\"", false),
        ] {
            assert_eq!(is_name(raw.as_bytes(), "ab"), is_it, "{raw}");
        }
    }

    #[test]
    fn the_last_values_of_some_fields() {
        let of = |text: &'static str| values(text, ["a", "b"]);
        assert_eq!(of(r#" {"b":{"a":0},"\u0061":[2 ],"b":"3","\ud800":4} "#), Some([Some("[2 ]"), Some("\"3\"")]));
        assert_eq!(of("{}"), Some([None, None]));
        for bad in ["[]", "1", "", r#"{"a":1"#, r#"{"a":1}}"#, r#"{"a":1,"c":01}"#] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn texts_like_json_are_judged_as_serde_json_does(
            text in r#"\{?("(a|\\u0061|é|\\n|\\)*" ?:([\[{]{0,3}("[a-z\\\t]*"|-?[0-9.e+]{1,5}|true|null|nul)[\]}]{0,3}),?){0,4}\}?[ }]?"#
        ) {
            agree(&text);
        }

        #[test]
        fn values_are_those_among_all_fields(text in r#"\{("(a|b|c|\\u0061)":(1|"a"|\{"a":2\}|\[\]|nul?l),?){0,5}\}?"#) {
            let all: Option<Fields<'_>> = serde_json::from_str(&text).ok();
            let expected = all.map(|all| ["a", "b"].map(|name| all.get(name).map(RawValue::get)));
            prop_assert_eq!(values(&text, ["a", "b"]), expected);
        }
    }
}
