//! Changes of a list as text: only the bytes that a change is about become others, so that the list stays as its owner
//! wrote it.

use super::entry::{Entry, KeyList, raw_entries};
use crate::json::Fields;
use serde_json::value::RawValue;
use std::ops::Range;
use zeroize::Zeroizing;

/// A list that can be changed. It is valid before and after each change.
pub struct Document {
    text: Zeroizing<String>,
    list: KeyList,
}

/// Why a list cannot be changed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// What the gateway would say of it.
    #[error("{}", .0.join("; "))]
    Invalid(Vec<String>),
    /// A list must not be empty.
    #[error("no key would be left, and with an empty list a gateway keeps the keys that it has: add another key first")]
    NothingLeft,
}

impl Document {
    /// Reads a list.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(text: Zeroizing<String>) -> Result<Self, EditError> {
        let list = KeyList::parse(&text).map_err(EditError::Invalid)?;
        Ok(Self { text, list })
    }

    /// A list of one entry.
    ///
    /// # Errors
    /// What is wrong with that.
    pub fn with_entry(entry: &str) -> Result<Self, EditError> {
        Self::parse(Zeroizing::new(format!("[\n  {entry}\n]\n")))
    }

    /// The text, to be written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The entries, in their order.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        self.list.entries()
    }

    /// Adds an entry at the end, placed as the last one is.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn push(&mut self, entry: &str) -> Result<(), EditError> {
        let spans = self.spans();
        let last = spans.last().cloned().unwrap_or_default();
        let before = self.text[..last.start].rfind([',', '[']).map_or(last.start, |at| at + 1);
        let gap = self.text[before..last.start].to_owned();
        self.splice(last.end..last.end, &format!(",{gap}{entry}"))
    }

    /// Sets a field of an entry to a JSON value.
    ///
    /// # Errors
    /// What would be wrong then.
    pub fn set(&mut self, index: usize, field: &str, value: &str) -> Result<(), EditError> {
        let span = self.spans()[index].clone();
        let fields = self.fields(&span);
        if let Some(old) = fields.iter().find(|(name, _)| name == field) {
            return self.splice(old.1.clone(), value);
        }
        let entry = &self.text[span.clone()];
        // Between the fields as between the brace and the first one, and behind the colon as there.
        let gap = &entry[1..entry.find('"').unwrap_or(1)];
        let first = fields.first().map_or(span.start..span.start, |(_, value)| value.clone());
        let blank = if self.text[..first.start].ends_with(' ') { " " } else { "" };
        let end = fields.iter().map(|(_, value)| value.end).max().unwrap_or(span.start + 1);
        let added = format!(",{gap}\"{field}\":{blank}{value}");
        self.splice(end..end, &added)
    }

    /// Puts digests in the place of the keys of some entries; says how many that were.
    ///
    /// # Errors
    /// None are known: each entry stays as valid as it was.
    pub fn hash(&mut self, meant: impl Fn(&Entry) -> bool) -> Result<usize, EditError> {
        let entries = self.entries().iter().zip(self.spans()).filter(|(entry, _)| !entry.is_hashed && meant(entry));
        let changes: Vec<_> = entries.filter_map(|(entry, span)| self.hashed(entry, &span)).collect();
        let count = changes.len();
        self.splice_all(&changes)?;
        Ok(count)
    }

    /// Where an entry's key stands with its name, and the digest to be put there.
    fn hashed(&self, entry: &Entry, span: &Range<usize>) -> Option<(Range<usize>, String)> {
        let fields = self.fields(span);
        let (_, value) = fields.iter().find(|(name, _)| name == "key")?;
        // From the name on, which may be spelled with escapes: behind the comma or the brace before it.
        let before = fields.iter().map(|(_, value)| value.end).filter(|end| *end <= value.start).max();
        let before = before.unwrap_or(span.start);
        let name = before + self.text[before..value.start].find('"').unwrap_or_default();
        let blank = if self.text[..value.start].ends_with(' ') { " " } else { "" };
        Some((name..value.end, format!("\"key_sha256\":{blank}\"{}\"", entry.digest.to_hex())))
    }

    /// Takes entries out.
    ///
    /// # Errors
    /// When none would be left.
    pub fn remove(&mut self, out: impl Fn(&Entry) -> bool) -> Result<(), EditError> {
        let Some(first_kept) = self.entries().iter().position(|entry| !out(entry)) else {
            return Err(EditError::NothingLeft);
        };
        let spans = self.spans();
        // Each with the comma next to it and what stands around that.
        let mut changes = vec![(spans[0].start..spans[first_kept].start, String::new())];
        let after = self.entries().iter().enumerate().skip(first_kept + 1).filter(|(_, entry)| out(entry));
        changes.extend(after.map(|(index, _)| (spans[index - 1].end..spans[index].end, String::new())));
        self.splice_all(&changes)
    }

    /// Where the entries stand.
    fn spans(&self) -> Vec<Range<usize>> {
        let raw = raw_entries(&self.text).expect("the text was parsed before");
        raw.iter().map(|raw| self.span_of(raw)).collect()
    }

    /// Where the values of an entry's fields stand.
    fn fields(&self, span: &Range<usize>) -> Vec<(String, Range<usize>)> {
        let fields: Fields<'_> = serde_json::from_str(&self.text[span.clone()]).expect("the text was parsed before");
        fields.0.iter().map(|(name, value)| (name.to_string(), self.span_of(value))).collect()
    }

    /// Where a raw value that borrows from the text stands in it.
    fn span_of(&self, raw: &RawValue) -> Range<usize> {
        let start = raw.get().as_ptr() as usize - self.text.as_ptr() as usize;
        start..start + raw.get().len()
    }

    fn splice(&mut self, span: Range<usize>, with: &str) -> Result<(), EditError> {
        self.splice_all(&[(span, with.to_owned())])
    }

    /// Puts texts in the place of spans, which follow one another.
    fn splice_all(&mut self, changes: &[(Range<usize>, String)]) -> Result<(), EditError> {
        let added: usize = changes.iter().map(|(_, with)| with.len()).sum();
        // Room for all of it, so that no copy is left behind in memory by growing.
        let mut text = Zeroizing::new(String::with_capacity(self.text.len() + added));
        let mut copied = 0;
        for (span, with) in changes {
            text.push_str(&self.text[copied..span.start]);
            text.push_str(with);
            copied = span.end;
        }
        text.push_str(&self.text[copied..]);
        *self = Self::parse(text)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::KeyDigest;
    use proptest::prelude::*;

    const KEY: &str = "sk_live_0123456789abcdef";

    fn document(text: &str) -> Document {
        Document::parse(Zeroizing::new(text.to_owned())).unwrap()
    }

    #[test]
    fn changes_keep_everything_else_as_it_was_written() {
        let pretty = format!(
            "[\n    {{\n        \"id\": \"a\",\n        \"key\": \"{KEY}\"\n    }},\n    {{\"key\":\"{KEY}2\" , \"id\":\"b\"}}\n]\n"
        );
        let mut changed = document(&pretty);
        changed.set(0, "enabled", "false").unwrap();
        let disabled = pretty.replace(&format!("{KEY}\"\n"), &format!("{KEY}\",\n        \"enabled\": false\n"));
        assert_eq!(changed.text(), disabled);
        changed.set(0, "enabled", "true").unwrap();
        assert_eq!(changed.text(), disabled.replace("false", "true"));
        changed.set(1, "rpm", "5").unwrap();
        assert!(changed.text().contains(r#", "id":"b","rpm":5}"#), "{}", changed.text());

        let mut hashed = document(&pretty);
        assert_eq!(hashed.hash(|entry| entry.id == "b"), Ok(1));
        let digest = KeyDigest::of(format!("{KEY}2").as_bytes()).to_hex();
        let expected = pretty.replace(&format!("\"key\":\"{KEY}2\""), &format!("\"key_sha256\":\"{digest}\""));
        assert_eq!(hashed.text(), expected);
        assert_eq!(hashed.hash(|entry| entry.id == "b"), Ok(0));
        assert_eq!(hashed.text(), expected, "there is nothing more to do");
        assert_eq!(hashed.hash(|_| true), Ok(1));
        assert!(!hashed.text().contains(KEY));

        let mut longer = document(&pretty);
        longer.push(&format!(r#"{{"id":"c","key":"{KEY}3"}}"#)).unwrap();
        assert_eq!(longer.text(), pretty.replace("}\n]", &format!("}},\n    {{\"id\":\"c\",\"key\":\"{KEY}3\"}}\n]")));
        longer.remove(|entry| entry.id == "c").unwrap();
        assert_eq!(longer.text(), pretty);
        longer.remove(|entry| entry.id == "a").unwrap();
        assert_eq!(longer.text(), format!("[\n    {{\"key\":\"{KEY}2\" , \"id\":\"b\"}}\n]\n"));
        assert_eq!(longer.remove(|_| true), Err(EditError::NothingLeft));
    }

    #[test]
    fn a_name_in_escapes_is_found() {
        let mut document = document(&format!(r#"[{{ "id" : "a" , "k\u0065y" : "{KEY}" }}]"#));
        assert_eq!(document.hash(|_| true), Ok(1));
        let digest = KeyDigest::of(KEY.as_bytes()).to_hex();
        assert_eq!(document.text(), format!(r#"[{{ "id" : "a" , "key_sha256": "{digest}" }}]"#));
    }

    #[test]
    fn a_change_to_something_invalid_is_none() {
        let text = format!(r#"[{{"id":"a","key":"{KEY}"}}]"#);
        let mut document = document(&text);
        assert!(matches!(document.set(0, "rpm", "0"), Err(EditError::Invalid(_))));
        assert!(document.push(&format!(r#"{{"id":"b","key":"{KEY}"}}"#)).is_err(), "the key stands twice then");
        assert_eq!(document.text(), text);
    }

    proptest! {
        #[test]
        fn any_sequence_of_changes_does_what_it_says(
            ids in proptest::collection::vec("[a-d]", 1..6),
            gaps in proptest::collection::vec(proptest::sample::select(&["", " ", "\n  ", "\t\r\n"][..]), 12),
            out in "[a-d]",
            at in 0usize..6,
        ) {
            let entries: Vec<String> = ids.iter().enumerate().map(|(index, id)| {
                let gap = gaps[index];
                format!("{gap}{{{gap}\"id\"{gap}:{gap}\"{id}\"{gap},{gap}\"key\":{gap}\"{KEY}{index}\"{gap}}}{}", gaps[index + 6])
            }).collect();
            let mut document = document(&format!("[{}]", entries.join(",")));
            let before = document.entries().to_vec();
            let index = at % ids.len();
            document.set(index, "rpm", "7").unwrap();
            document.hash(|entry| entry.id == ids[index]).unwrap();
            document.push(&format!(r#"{{"id":"new","key":"{KEY}-new"}}"#)).unwrap();
            document.remove(|entry| entry.id == out).unwrap();
            let mut expected: Vec<Entry> = before;
            expected[index].limits.rpm = Some(7);
            expected.iter_mut().filter(|entry| entry.id == ids[index]).for_each(|entry| entry.is_hashed = true);
            expected.retain(|entry| entry.id != out);
            let (last, kept) = document.entries().split_last().unwrap();
            prop_assert_eq!(&*last.id, "new");
            prop_assert_eq!(kept, &expected[..]);
        }
    }
}
