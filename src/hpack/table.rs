//! The fields that both sides know from the start (RFC 7541, appendix A).

/// Names and values, the first at index 1.
pub(super) static FIELDS: [(&str, &str); 61] = KNOWN;

const KNOWN: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

/// The name of a field, which is the same wherever it is used, and its place among those that are known.
#[derive(Clone, Copy, Debug)]
pub struct Name {
    text: &'static str,
    /// 0 if it is not among them.
    index: u8,
}

impl PartialEq for Name {
    /// The text of those that are known need not be looked at.
    fn eq(&self, other: &Self) -> bool {
        self.index == other.index && (self.index > 0 || self.text == other.text)
    }
}

impl Name {
    /// Looks it up, while the program is built.
    #[must_use]
    pub const fn of(text: &'static str) -> Self {
        let mut place = 0;
        while place < KNOWN.len() {
            if are_same(KNOWN[place].0, text) {
                return Self { text, index: place as u8 + 1 };
            }
            place += 1;
        }
        Self { text, index: 0 }
    }

    /// In lower case.
    #[must_use]
    pub fn text(self) -> &'static str {
        self.text
    }

    pub(super) fn index(self) -> usize {
        self.index.into()
    }
}

/// The index of a field of which value and name are known. Does not compile for others.
pub(super) const fn index_of(name: &str, value: &str) -> u8 {
    let mut place = 0;
    while !(are_same(KNOWN[place].0, name) && are_same(KNOWN[place].1, value)) {
        place += 1;
    }
    place as u8 + 1
}

const fn are_same(one: &str, other: &str) -> bool {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    if one.len() != other.len() {
        return false;
    }
    let mut place = 0;
    while place < one.len() {
        if one[place] != other[place] {
            return false;
        }
        place += 1;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_those_of_the_standard() {
        for (name, index) in [
            (":authority", 1),
            (":path", 4),
            ("accept", 19),
            ("authorization", 23),
            ("content-length", 28),
            ("user-agent", 58),
            ("www-authenticate", 61),
            ("x-goog-user-project", 0),
        ] {
            assert_eq!(Name::of(name).index(), index, "{name}");
        }
        assert_eq!((index_of(":method", "POST"), index_of(":scheme", "https"), index_of(":status", "500")), (3, 7, 14));
    }
}
