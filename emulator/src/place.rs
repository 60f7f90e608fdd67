//! Which field of a JSON text a place in it belongs to, since `serde_json` tells mistakes by line and column.

use std::fmt::Write as _;

/// The field that a place stands in or just behind: `when.calls.from`, `frames[1]`; empty for the whole text. The place is
/// told as `serde_json` does: lines from 1, columns by the bytes that were read of the line. `text` is valid JSON.
pub(super) fn field_at(text: &[u8], line: usize, column: usize) -> String {
    let before: usize = text.split_inclusive(|byte| *byte == b'\n').take(line.saturating_sub(1)).map(<[u8]>::len).sum();
    let mut walk = Walk { text, at: 0, place: before + column, steps: Vec::new() };
    // Not found is what stands behind everything.
    let _ = walk.value();
    let mut path = String::new();
    for step in walk.steps {
        let _ = match step {
            Step::Field(name) if path.is_empty() => write!(path, "{name}"),
            Step::Field(name) => write!(path, ".{name}"),
            Step::Item(index) => write!(path, "[{index}]"),
        };
    }
    path
}

enum Step {
    Field(String),
    Item(usize),
}

/// A walk from the text's begin to the place. Its steps return `None` when they are there, and leave the path behind.
struct Walk<'a> {
    text: &'a [u8],
    at: usize,
    place: usize,
    steps: Vec<Step>,
}

impl Walk<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn go_on_unless_there(&self) -> Option<()> {
        (self.at < self.place).then_some(())
    }

    fn skip_blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    /// No deeper than `serde_json` has been in this text.
    fn value(&mut self) -> Option<()> {
        self.skip_blanks();
        self.go_on_unless_there()?;
        match self.peek()? {
            b'{' => self.fields()?,
            b'[' => self.items()?,
            b'"' => _ = self.string(),
            _ => {
                // One byte in any case, so that a text that is no JSON has an end too.
                self.at += 1;
                while !matches!(self.peek(), None | Some(b',' | b']' | b'}' | b' ' | b'\n' | b'\r' | b'\t')) {
                    self.at += 1;
                }
            }
        }
        self.go_on_unless_there()
    }

    fn fields(&mut self) -> Option<()> {
        self.at += 1;
        loop {
            self.skip_blanks();
            match self.peek()? {
                b'}' => break,
                b'"' => {
                    let name = self.string();
                    self.steps.push(Step::Field(name));
                    self.go_on_unless_there()?;
                    self.skip_blanks();
                    // The colon.
                    self.at += 1;
                    self.value()?;
                    self.steps.pop();
                }
                // A comma.
                _ => self.at += 1,
            }
        }
        self.at += 1;
        Some(())
    }

    fn items(&mut self) -> Option<()> {
        self.at += 1;
        let mut index = 0;
        loop {
            self.skip_blanks();
            match self.peek()? {
                b']' => break,
                b',' => self.at += 1,
                _ => {
                    self.steps.push(Step::Item(index));
                    self.value()?;
                    self.steps.pop();
                    index += 1;
                }
            }
        }
        self.at += 1;
        Some(())
    }

    /// Passes over a string and tells what it says.
    fn string(&mut self) -> String {
        let begin = self.at;
        self.at += 1;
        while !matches!(self.peek(), None | Some(b'"')) {
            self.at += if self.peek() == Some(b'\\') { 2 } else { 1 };
        }
        self.at += 1;
        self.text.get(begin..self.at).and_then(|raw| serde_json::from_slice(raw).ok()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_innermost_field_is_told() {
        let text = "{\n \"a\": {\"b\": 1, \"c\": [2, {\"d\\u0065\": null}]}, \"f\": \"x\"}";
        let at = |what: &str| {
            let offset = text.find(what).unwrap() + what.len();
            let line = text[..offset].matches('\n').count() + 1;
            field_at(text.as_bytes(), line, offset - text[..offset].rfind('\n').map_or(0, |newline| newline + 1))
        };
        for (behind, field) in [
            ("\"a\"", "a"),
            ("\"a\": ", "a"),
            ("1", "a.b"),
            ("\"c\": ", "a.c"),
            ("[2", "a.c[0]"),
            ("[2, ", "a.c[1]"),
            ("null", "a.c[1].de"),
            ("null}", "a.c[1]"),
            ("null}]", "a.c"),
            ("null}]}", "a"),
            ("\"x\"", "f"),
            ("\"x\"}", ""),
        ] {
            assert_eq!(at(behind), field, "{behind}");
        }
    }

    #[test]
    fn what_is_no_json_has_an_end() {
        for text in ["[}", "{]", "[:", "{\"a\"", "[\"", "{\"a\":}", "[,"] {
            let _ = field_at(text.as_bytes(), 9, 99);
        }
    }

    proptest! {
        #[test]
        fn any_text_at_any_place_has_an_end(text: Vec<u8>, line in 0_usize..9, column in 0_usize..99) {
            let _ = field_at(&text, line, column);
        }

        #[test]
        fn in_texts_like_json_too(text in r#"[\[\]{}",:\\a0 \n]{0,60}"#, line in 0_usize..4, column in 0_usize..60) {
            let _ = field_at(text.as_bytes(), line, column);
        }
    }
}
