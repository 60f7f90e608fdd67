//! The head of an answer, out of a header block.

use super::super::head::{AnswerHead, WrittenFields};
use http::{StatusCode, Version};

/// Largest head of an answer, in bytes as RFC 9113, section 6.5.2, counts them.
pub(super) const MAX_HEAD_BYTES: usize = 16 * 1024;
/// What a field costs in that count beside its text.
const FIELD_OVERHEAD: usize = 32;

/// Fields as they come out of a block.
#[derive(Default)]
pub(super) struct Fields {
    status: Option<StatusCode>,
    written: WrittenFields,
    length: Option<u64>,
    bytes: usize,
    is_malformed: bool,
}

/// What a block says.
pub(super) enum Said {
    /// The answer is to follow.
    Interim,
    /// The head of the answer, and how long its body says it is.
    Answer(AnswerHead, Option<u64>),
    /// Fields without a status.
    Trailers,
    /// What is no head, by the standard or by its size.
    Malformed,
}

impl Fields {
    /// Takes the next field in.
    pub(super) fn take(&mut self, name: &[u8], value: &[u8]) {
        self.bytes += name.len() + value.len() + FIELD_OVERHEAD;
        if self.is_malformed || self.bytes > MAX_HEAD_BYTES {
            self.is_malformed = true;
        } else if let Some(pseudo) = name.strip_prefix(b":") {
            // Before all others, and only this one (section 8.3).
            let is_expected = pseudo == b"status" && self.status.is_none() && self.written.is_empty();
            self.status = StatusCode::from_bytes(value).ok().filter(|_| is_expected);
            self.is_malformed = self.status.is_none();
        } else if is_name(name) && is_value(value) && !is_of_connection(name, value) {
            if name == b"content-length" {
                self.take_length(value);
            }
            self.written.push(name, value);
        } else {
            self.is_malformed = true;
        }
    }

    fn take_length(&mut self, value: &[u8]) {
        let digits = std::str::from_utf8(value).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
        let length: Option<u64> = digits.and_then(|text| text.parse().ok());
        self.is_malformed |= length.is_none() || self.length.is_some_and(|earlier| Some(earlier) != length);
        self.length = length;
    }

    pub(super) fn end(self) -> Said {
        match self.status {
            _ if self.is_malformed => Said::Malformed,
            None => Said::Trailers,
            // HTTP/2 has no other protocols to switch to (section 8.6).
            Some(StatusCode::SWITCHING_PROTOCOLS) => Said::Malformed,
            Some(status) if status.is_informational() => Said::Interim,
            Some(status) => {
                // Who has no body may still say how long it would be.
                let has_none = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
                let length = self.length.filter(|_| !has_none);
                Said::Answer(AnswerHead::written(status, Version::HTTP_2, self.written), length)
            }
        }
    }
}

/// A name of HTTP/2: a token without capital letters (section 8.2.1).
fn is_name(name: &[u8]) -> bool {
    const IS_OF_NAME: [bool; 256] = {
        let mut known = [false; 256];
        let bytes = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz";
        let mut place = 0;
        while place < bytes.len() {
            known[bytes[place] as usize] = true;
            place += 1;
        }
        known
    };
    !name.is_empty() && name.iter().all(|byte| IS_OF_NAME[usize::from(*byte)])
}

/// Nothing that could end a line or a text. Without a way out in between, so that many bytes are looked at together.
fn is_value(value: &[u8]) -> bool {
    value.iter().fold(true, |is_good, byte| is_good & ((*byte >= b' ' && *byte != 0x7f) | (*byte == b'\t')))
}

/// Fields that are about a connection, which HTTP/2 has not (section 8.2.2).
fn is_of_connection(name: &[u8], value: &[u8]) -> bool {
    match name {
        b"connection" | b"keep-alive" | b"proxy-connection" | b"transfer-encoding" | b"upgrade" => true,
        b"te" => value != b"trailers",
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(fields: &[(&str, &str)]) -> Said {
        let mut block = Fields::default();
        fields.iter().for_each(|(name, value)| block.take(name.as_bytes(), value.as_bytes()));
        block.end()
    }

    #[test]
    fn heads() {
        let Said::Answer(head, length) = said(&[(":status", "200"), ("a", "1"), ("content-length", "7"), ("a", "")])
        else {
            panic!("a head")
        };
        assert_eq!((head.status.as_u16(), head.version, length), (200, Version::HTTP_2, Some(7)));
        let mut told = Vec::new();
        head.each(|name, value| told.push([name, b"=", value].concat()));
        assert_eq!(told, [&b"a=1"[..], b"content-length=7", b"a="]);
        assert!(matches!(said(&[(":status", "103"), ("link", "x")]), Said::Interim));
        assert!(matches!(said(&[("grpc-status", "0")]), Said::Trailers));
        assert!(matches!(said(&[(":status", "204"), ("content-length", "7")]), Said::Answer(_, None)));
        let same = [(":status", "200"), ("content-length", "7"), ("content-length", "7"), ("te", "trailers")];
        assert!(matches!(said(&same), Said::Answer(_, Some(7))));
    }

    #[test]
    fn what_is_no_head() {
        let large = "x".repeat(MAX_HEAD_BYTES);
        for bad in [
            [(":status", "200"), (":status", "200")],
            [("a", "1"), (":status", "200")],
            [(":status", "200"), (":path", "/")],
            [(":status", "20"), ("a", "")],
            [(":status", "+20"), ("a", "")],
            [(":status", "101"), ("a", "")],
            [(":status", "200"), ("A", "")],
            [(":status", "200"), ("", "")],
            [(":status", "200"), ("a b", "")],
            [(":status", "200"), ("a", "b\r\nc: d")],
            [(":status", "200"), ("a", "\0")],
            [(":status", "200"), ("transfer-encoding", "chunked")],
            [(":status", "200"), ("connection", "close")],
            [(":status", "200"), ("te", "gzip")],
            [(":status", "200"), ("content-length", "+1")],
            [(":status", "200"), ("content-length", "")],
            [(":status", "200"), ("content-length", "18446744073709551616")],
            [(":status", "200"), ("a", &large)],
            [("content-length", "1"), ("content-length", "2")],
        ] {
            assert!(matches!(said(&bad), Said::Malformed), "{bad:?}");
        }
    }
}
