//! Writes header blocks.

use super::table::{FIELDS, Name, index_of};
use super::{TABLE_BYTES, entry_bytes};
use http::HeaderValue;
use std::collections::VecDeque;

/// Writes the blocks of one connection, in their order.
#[derive(Debug)]
pub struct Encoder {
    /// What upstream remembers, the latest first.
    entries: VecDeque<Entry>,
    /// What that takes, and what it may take, in bytes.
    size: usize,
    limit: usize,
    /// The least that the limit has been since upstream was last told it.
    untold: Option<usize>,
}

/// A field that upstream remembers.
#[derive(Debug)]
struct Entry {
    name: Name,
    /// `None` once it is of no more use here.
    value: Option<HeaderValue>,
    /// What it takes of the table.
    bytes: usize,
}

impl Default for Encoder {
    fn default() -> Self {
        Self { entries: VecDeque::new(), size: 0, limit: TABLE_BYTES, untold: None }
    }
}

impl Encoder {
    /// Upstream remembers no more than so many bytes.
    pub fn limit(&mut self, bytes: usize) {
        let limit = bytes.min(TABLE_BYTES);
        if limit != self.limit {
            self.untold = Some(self.untold.unwrap_or(limit).min(limit));
            self.limit = limit;
            self.make_room(0);
        }
    }

    /// Begins a block.
    pub fn begin(&mut self, block: &mut Vec<u8>) {
        if let Some(least) = self.untold.take() {
            // The least tells it to forget as much as was forgotten here (RFC 7541, section 4.2).
            integer(block, 0x20, 5, least);
            if self.limit != least {
                integer(block, 0x20, 5, self.limit);
            }
        }
    }

    /// The fields that every request has: a POST over TLS.
    pub fn post_over_tls(&self, block: &mut Vec<u8>) {
        const POST: u8 = index_of(":method", "POST");
        const HTTPS: u8 = index_of(":scheme", "https");
        block.extend_from_slice(&[0x80 | POST, 0x80 | HTTPS]);
    }

    /// A field that will come again with the same value. That its length shows whether it did is no secret of a bearer,
    /// which nobody can guess piece by piece: a field is only found as a whole (RFC 7541, section 7.1).
    pub fn remembered(&mut self, block: &mut Vec<u8>, name: Name, value: &HeaderValue) {
        let is_it =
            |entry: &Entry| entry.name == name && entry.value.as_ref().is_some_and(|there| are_same(there, value));
        if let Some(place) = self.entries.iter().position(is_it) {
            integer(block, 0x80, 7, FIELDS.len() + 1 + place);
            return;
        }
        if value.is_sensitive() {
            // A secret that was replaced is kept no longer than until its successor goes out.
            self.entries.iter_mut().filter(|entry| entry.name == name).for_each(|entry| entry.value = None);
        }
        let bytes = entry_bytes(name.text().as_bytes(), value.as_bytes());
        if bytes > self.limit {
            self.once(block, name, value.as_bytes());
            return;
        }
        self.make_room(bytes);
        self.size += bytes;
        self.entries.push_front(Entry { name, value: Some(value.clone()), bytes });
        spelled_out(block, 0x40, 6, name, value.as_bytes());
    }

    /// A field that nobody need remember.
    pub fn once(&self, block: &mut Vec<u8>, name: Name, value: &[u8]) {
        spelled_out(block, 0, 4, name, value);
    }

    /// Forgets the oldest until so many bytes fit.
    fn make_room(&mut self, bytes: usize) {
        while self.size + bytes > self.limit {
            let Some(oldest) = self.entries.pop_back() else { return };
            self.size -= oldest.bytes;
        }
    }
}

/// Mostly it is the same piece of memory.
fn are_same(one: &HeaderValue, other: &HeaderValue) -> bool {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    one.len() == other.len() && (std::ptr::eq(one, other) || one == other)
}

fn spelled_out(block: &mut Vec<u8>, kind: u8, bits: u32, name: Name, value: &[u8]) {
    integer(block, kind, bits, name.index());
    if name.index() == 0 {
        integer(block, 0, 7, name.text().len());
        block.extend_from_slice(name.text().as_bytes());
    }
    integer(block, 0, 7, value.len());
    block.extend_from_slice(value);
}

/// A number behind the bits that say what it is (section 5.1).
fn integer(block: &mut Vec<u8>, kind: u8, bits: u32, number: usize) {
    let mask = (1 << bits) - 1;
    if number < mask {
        block.push(kind | number as u8);
        return;
    }
    block.push(kind | mask as u8);
    let mut rest = number - mask;
    while rest >= 0x80 {
        block.push(0x80 | rest as u8);
        rest >>= 7;
    }
    block.push(rest as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: Name = Name::of(":path");
    const PROJECT: Name = Name::of("x-goog-user-project");

    #[test]
    fn what_comes_again_takes_a_byte() {
        let mut encoder = Encoder::default();
        let (path, project) = (HeaderValue::from_static("/chat"), HeaderValue::from_static("p"));
        let mut block = Vec::new();
        encoder.begin(&mut block);
        encoder.post_over_tls(&mut block);
        encoder.remembered(&mut block, PATH, &path);
        encoder.remembered(&mut block, PROJECT, &project);
        assert_eq!(block, b"\x83\x87\x44\x05/chat\x40\x13x-goog-user-project\x01p");
        block.clear();
        encoder.remembered(&mut block, PATH, &HeaderValue::try_from(path.as_bytes().to_vec()).unwrap());
        encoder.remembered(&mut block, PROJECT, &project);
        assert_eq!(block, b"\xbf\xbe", "whatever memory it is in");
    }

    #[test]
    fn a_secret_that_was_replaced_is_kept_no_longer() {
        const AUTHORIZATION: Name = Name::of("authorization");
        let mut encoder = Encoder::default();
        let mut block = Vec::new();
        let [first, second] = ["one", "two"].map(|text| {
            let mut secret = HeaderValue::from_static(text);
            secret.set_sensitive(true);
            secret
        });
        encoder.remembered(&mut block, AUTHORIZATION, &first);
        encoder.remembered(&mut block, PATH, &HeaderValue::from_static("/"));
        encoder.remembered(&mut block, AUTHORIZATION, &second);
        assert!(encoder.entries.iter().all(|entry| entry.value.as_ref() != Some(&first)));
        block.clear();
        encoder.remembered(&mut block, PATH, &HeaderValue::from_static("/"));
        encoder.remembered(&mut block, AUTHORIZATION, &first);
        assert_eq!(block, b"\xbf\x57\x03one", "it has its place there, and is spelled out when it comes again");
    }

    #[test]
    fn upstream_is_told_of_the_least_it_allowed_and_of_what_it_allows() {
        let mut encoder = Encoder::default();
        let mut block = Vec::new();
        encoder.remembered(&mut block, PATH, &HeaderValue::from_static("/"));
        for limit in [100, 0, 70, 8000] {
            encoder.limit(limit);
        }
        assert_eq!((encoder.entries.len(), encoder.limit), (0, TABLE_BYTES));
        block.clear();
        encoder.begin(&mut block);
        encoder.begin(&mut block);
        assert_eq!(block, b"\x20\x3f\xe1\x1f", "once");
    }

    /// RFC 7541, appendix C.1.
    #[test]
    fn numbers_of_the_standard() {
        for (number, bits, expected) in [(10, 5, &[10][..]), (1337, 5, &[31, 154, 10]), (42, 8, &[42])] {
            let mut block = Vec::new();
            integer(&mut block, 0, bits, number);
            assert_eq!(block, expected);
        }
    }
}
