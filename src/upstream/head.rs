//! The head of upstream's answer as it was written, of which a few fields are looked at and a few are passed on; a map of
//! them would cost more than all that is done with it.

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version};
use std::ops::Range;

/// Status and header fields.
#[derive(Debug)]
pub struct AnswerHead {
    /// The status.
    pub status: StatusCode,
    /// What was spoken.
    pub version: Version,
    fields: WrittenFields,
}

/// Fields as they stand in a head, of HTTP/1.1 or as they came out of a block of HTTP/2.
#[derive(Debug, Default)]
pub(super) struct WrittenFields {
    head: Vec<u8>,
    /// Names and values.
    places: Vec<(Place, Place)>,
}

/// What most heads have, so that they are taken in without a move.
const EXPECTED_BYTES: usize = 512;
const EXPECTED_FIELDS: usize = 16;

/// Where something stands in a head.
#[derive(Clone, Copy, Debug)]
struct Place {
    start: u32,
    end: u32,
}

impl Place {
    /// Where `part` stands in the head that it is a part of.
    fn of(part: &[u8], head: &[u8]) -> Option<Self> {
        if part.is_empty() {
            return Some(Self { start: 0, end: 0 });
        }
        let start = (part.as_ptr() as usize).checked_sub(head.as_ptr() as usize)?;
        Some(Self { start: u32::try_from(start).ok()?, end: u32::try_from(start + part.len()).ok()? })
    }

    fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

impl WrittenFields {
    /// The fields that were parsed in a head; `None` if one stands elsewhere.
    pub(super) fn of(head: &[u8], fields: &[httparse::Header<'_>]) -> Option<Self> {
        let place = |field: &httparse::Header<'_>| {
            Some((Place::of(field.name.as_bytes(), head)?, Place::of(field.value, head)?))
        };
        Some(Self { places: fields.iter().map(place).collect::<Option<_>>()?, head: head.to_vec() })
    }

    /// Appends a field. All of them together have fewer bytes than a place can tell.
    pub(super) fn push(&mut self, name: &[u8], value: &[u8]) {
        if self.places.is_empty() {
            self.head.reserve(EXPECTED_BYTES);
            self.places.reserve(EXPECTED_FIELDS);
        }
        let mut append = |part: &[u8]| {
            let start = self.head.len() as u32;
            self.head.extend_from_slice(part);
            Place { start, end: self.head.len() as u32 }
        };
        let field = (append(name), append(value));
        self.places.push(field);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    fn part(&self, place: Place) -> &[u8] {
        self.head.get(place.range()).unwrap_or_default()
    }

    fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.places.iter().map(|(name, value)| (self.part(*name), self.part(*value)))
    }

    fn is(&self, known: Place, name: &str) -> bool {
        // The length tells most fields apart before any byte is looked at.
        known.range().len() == name.len() && self.part(known).eq_ignore_ascii_case(name.as_bytes())
    }

    /// The first value of a field; `name` in lower case.
    fn value(&self, name: &str) -> Option<&[u8]> {
        self.places.iter().find(|(known, _)| self.is(*known, name)).map(|(_, value)| self.part(*value))
    }

    /// All values of a field; `name` in lower case.
    pub(super) fn values<'a>(&'a self, name: &'a str) -> impl DoubleEndedIterator<Item = &'a [u8]> {
        self.places.iter().filter(move |(known, _)| self.is(*known, name)).map(|(_, value)| self.part(*value))
    }
}

impl AnswerHead {
    pub(super) fn written(status: StatusCode, version: Version, fields: WrittenFields) -> Self {
        Self { status, version, fields }
    }

    /// The first value of a field; `name` in lower case.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&[u8]> {
        self.fields.value(name)
    }

    /// The same as text, if it is one.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        let is_text = |text: &&str| text.bytes().all(|byte| byte == b'\t' || !byte.is_ascii_control());
        self.value(name)
            .filter(|value| value.is_ascii())
            .and_then(|value| std::str::from_utf8(value).ok())
            .filter(is_text)
    }

    /// Whether a field stands there; `name` in lower case.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.value(name).is_some()
    }

    /// Shows all fields, name and value.
    pub fn each(&self, mut show: impl FnMut(&[u8], &[u8])) {
        self.fields.iter().for_each(|(name, value)| show(name, value));
    }

    /// All fields as a map.
    #[must_use]
    pub fn to_map(&self) -> HeaderMap {
        let mut map = HeaderMap::new();
        self.each(|name, value| {
            if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
                map.append(name, value);
            }
        });
        map
    }
}
