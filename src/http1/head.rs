//! The head of a request: request line and header fields, parsed by `httparse`, judged more strictly here.
//!
//! What two HTTP implementations could read differently is refused, not repaired: both lengths in one request, a
//! length given twice, bare line feeds, two hosts.

use crate::error::ApiError;
use bytes::{Bytes, BytesMut};
use fearless_simd::{Level, Simd, dispatch, prelude::*, u8x16};
use memchr::memmem;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::LazyLock;

/// Where a head ends, if all its lines end as they must.
static END: LazyLock<memmem::Finder<'static>> = LazyLock::new(|| memmem::Finder::new(b"\r\n\r\n"));
/// Largest head in bytes. Cloud Run's front end allows 64 KiB; nginx defaults to four buffers of 8 KiB.
const MAX_HEAD_BYTES: usize = 32 * 1024;
/// Bytes that are looked at side by side.
const LANES: usize = 16;
/// Most header fields. Apache and hyper allow 100.
const MAX_FIELDS: usize = 100;

/// The methods that some route knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// GET
    Get,
    /// HEAD
    Head,
    /// POST
    Post,
    /// OPTIONS
    Options,
    /// Anything else.
    Other,
}

impl Method {
    /// Its name; what no route knows has none, so that a client's text never gets into the log.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Options => "OPTIONS",
            Self::Other => "OTHER",
        }
    }
}

/// How the end of the request body is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyLength {
    /// `content-length`, or 0 where there is none.
    Counted(u64),
    /// `transfer-encoding: chunked`
    Chunked,
}

/// One request head. The fields are ranges into one shared buffer, so that nothing is copied.
#[derive(Debug)]
pub struct Head {
    bytes: Bytes,
    /// The method.
    pub method: Method,
    /// Whether the request is HTTP/1.1 and not HTTP/1.0.
    pub http11: bool,
    /// How long the body is.
    pub body: BodyLength,
    /// Whether the client lets the connection live on.
    pub keep_alive: bool,
    /// Whether the client waits for `100 Continue`.
    pub expects_continue: bool,
    /// Whether the client expects something that nobody can do for it.
    pub expectation_fails: bool,
    path: Span,
    fields: Vec<(Span, Span)>,
    /// A bit for each length that names of fields have, the longest folded in: most that do not stand here are known by
    /// that, without a look at the fields.
    name_lengths: u64,
}

/// Where something stands in a head: small, since a head is held as long as its answer streams.
#[derive(Clone, Copy, Debug, Default)]
struct Span {
    start: u16,
    length: u16,
}

// Every place in the largest head has a number.
const _: () = assert!(MAX_HEAD_BYTES <= u16::MAX as usize);

impl Span {
    /// Where `part` stands in the head that it is a part of.
    fn of(part: &[u8], head: &[u8]) -> Self {
        let start = part.as_ptr() as usize - head.as_ptr() as usize;
        // No head is larger than the numbers are.
        Self { start: start as u16, length: part.len() as u16 }
    }

    fn range(self) -> Range<usize> {
        let start = usize::from(self.start);
        start..start + usize::from(self.length)
    }
}

impl Head {
    /// Stands for a head that could not be read: what follows it cannot be told either.
    #[must_use]
    pub fn unreadable() -> Self {
        Self {
            bytes: Bytes::new(),
            method: Method::Other,
            http11: true,
            body: BodyLength::Counted(0),
            keep_alive: false,
            expects_continue: false,
            expectation_fails: false,
            path: Span::default(),
            fields: Vec::new(),
            name_lengths: 0,
        }
    }

    /// Takes one head off the front of what has been read. `None` means that its end has not come yet.
    ///
    /// # Errors
    /// When what is there can never become a valid head.
    pub fn take(input: &mut BytesMut) -> Result<Option<Self>, ApiError> {
        let Some(length) = end_of_head(input)? else {
            return if input.len() > MAX_HEAD_BYTES { Err(ApiError::HeadersTooLarge) } else { Ok(None) };
        };
        let bytes = input.split_to(length).freeze();
        Self::parse(bytes).map(Some)
    }

    /// Reads a head of at most [`MAX_HEAD_BYTES`].
    fn parse(bytes: Bytes) -> Result<Self, ApiError> {
        let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        let mut request = httparse::Request::new(&mut []);
        match request.parse_with_uninit_headers(&bytes, &mut fields) {
            Ok(httparse::Status::Complete(parsed)) if parsed == bytes.len() => {}
            Ok(_) => return Err(ApiError::BadRequest("the head is incomplete")),
            Err(httparse::Error::TooManyHeaders) => return Err(ApiError::HeadersTooLarge),
            Err(httparse::Error::Version) => return Err(ApiError::HttpVersion),
            Err(_) => return Err(ApiError::BadRequest("the request line or a header field is malformed")),
        }
        let (Some(method), Some(target), Some(version)) = (request.method, request.path, request.version) else {
            return Err(ApiError::BadRequest("the request line is incomplete"));
        };
        let method = match method {
            "GET" => Method::Get,
            "HEAD" => Method::Head,
            "POST" => Method::Post,
            "OPTIONS" => Method::Options,
            _ => Method::Other,
        };
        let path = Span::of(path_of(target).as_bytes(), &bytes);
        let spans = request
            .headers
            .iter()
            .map(|field| (Span::of(field.name.as_bytes(), &bytes), Span::of(field.value, &bytes)));
        let fields: Vec<_> = spans.collect();
        let mut head = Self {
            bytes: bytes.clone(),
            method,
            http11: version == 1,
            body: BodyLength::Counted(0),
            keep_alive: version == 1,
            expects_continue: false,
            expectation_fails: false,
            path,
            fields,
            name_lengths: 0,
        };
        head.read_framing()?;
        Ok(head)
    }

    /// Finds out where the body ends and whether the connection may live on.
    fn read_framing(&mut self) -> Result<(), ApiError> {
        let mut hosts = 0;
        let mut length = None;
        let mut chunked = false;
        let (mut close, mut keep_alive) = (false, false);
        let (mut expects_continue, mut expectation_fails) = (false, false);
        let mut name_lengths = 0;
        for (name, value) in self.fields() {
            name_lengths |= bit_of_length(name.len());
            // The length tells most fields apart before any byte is compared.
            match name.len() {
                4 if name.eq_ignore_ascii_case(b"host") => {
                    hosts += 1;
                    if !is_authority(value) {
                        return Err(ApiError::BadRequest("host is no host"));
                    }
                }
                6 if name.eq_ignore_ascii_case(b"expect") => {
                    if value.eq_ignore_ascii_case(b"100-continue") {
                        expects_continue = true;
                    } else {
                        expectation_fails = true;
                    }
                }
                10 if name.eq_ignore_ascii_case(b"connection") => {
                    for token in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                        close |= token.eq_ignore_ascii_case(b"close");
                        keep_alive |= token.eq_ignore_ascii_case(b"keep-alive");
                    }
                }
                14 if name.eq_ignore_ascii_case(b"content-length") => {
                    if length.is_some() {
                        return Err(ApiError::BadRequest("content-length is given twice"));
                    }
                    length = Some(parse_length(value).ok_or(ApiError::BadRequest("content-length is not a number"))?);
                }
                17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                    if chunked {
                        return Err(ApiError::BadRequest("transfer-encoding is given twice"));
                    }
                    if !value.eq_ignore_ascii_case(b"chunked") {
                        return Err(ApiError::TransferEncoding);
                    }
                    chunked = true;
                }
                _ => {}
            }
        }
        if hosts > 1 || (hosts == 0 && self.http11) {
            return Err(ApiError::BadRequest("exactly one host header is needed"));
        }
        self.body = match (length, chunked) {
            (Some(_), true) => {
                return Err(ApiError::BadRequest("content-length and transfer-encoding exclude each other"));
            }
            (None, true) if !self.http11 => {
                return Err(ApiError::BadRequest("HTTP/1.0 has no transfer-encoding"));
            }
            (None, true) => BodyLength::Chunked,
            (length, false) => BodyLength::Counted(length.unwrap_or(0)),
        };
        self.name_lengths = name_lengths;
        self.expectation_fails = expectation_fails;
        self.keep_alive = !close && (self.http11 || keep_alive);
        // HTTP/1.0 clients do not know interim answers (RFC 9110, section 10.1.1).
        self.expects_continue = expects_continue && self.http11 && self.body != BodyLength::Counted(0);
        Ok(())
    }

    /// The path of the target, without the query.
    #[must_use]
    pub fn path(&self) -> &[u8] {
        &self.bytes[self.path.range()]
    }

    /// The same, to be kept while the head is used.
    #[must_use]
    pub fn shared_path(&self) -> Bytes {
        self.bytes.slice(self.path.range())
    }

    /// All header fields.
    pub fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.fields.iter().map(|(name, value)| (&self.bytes[name.range()], &self.bytes[value.range()]))
    }

    /// Where all values of a header field stand.
    fn spans<'a>(&'a self, name: &'a str) -> impl Iterator<Item = Range<usize>> + 'a {
        let may_be_there = self.name_lengths & bit_of_length(name.len()) != 0;
        let fields = if may_be_there { &self.fields[..] } else { &[] };
        // The length tells most fields apart before any byte is looked at.
        let is_it = move |known: Span| {
            usize::from(known.length) == name.len() && self.bytes[known.range()].eq_ignore_ascii_case(name.as_bytes())
        };
        fields.iter().filter(move |(known, _)| is_it(*known)).map(|(_, value)| value.range())
    }

    /// All values of a header field; `name` in lower case.
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.spans(name).map(|span| &self.bytes[span])
    }

    /// The first value of a header field; `name` in lower case.
    #[must_use]
    pub fn value<'a>(&'a self, name: &'a str) -> Option<&'a [u8]> {
        self.values(name).next()
    }

    /// The first value of a header field as a shared slice; `name` in lower case.
    #[must_use]
    pub fn shared_value(&self, name: &str) -> Option<Bytes> {
        self.spans(name).next().map(|span| self.bytes.slice(span))
    }
}

/// The bit of a name's length.
fn bit_of_length(length: usize) -> u64 {
    1 << (length % 64)
}

/// How many bytes the head has, its last empty line included; `None` while its end has not come.
///
/// # Errors
/// When it is too large, or when a line of it ends in a bare line feed: that is refused at once and not waited for.
fn end_of_head(input: &[u8]) -> Result<Option<usize>, ApiError> {
    let regular = END.find(input).map(|at| at + 4);
    let within = regular.map_or(input, |end| &input[..end]);
    if has_bare_line_feed(within)
        && let Some(end) = irregular_end(within)
    {
        return Err(if end > MAX_HEAD_BYTES {
            ApiError::HeadersTooLarge
        } else {
            ApiError::BadRequest("lines must end in CR LF")
        });
    }
    if regular.is_some_and(|end| end > MAX_HEAD_BYTES) { Err(ApiError::HeadersTooLarge) } else { Ok(regular) }
}

/// The end of a head, whatever its lines end in.
fn irregular_end(input: &[u8]) -> Option<usize> {
    memchr::memchr_iter(b'\n', input).find_map(|at| match &input[at + 1..] {
        [b'\n', ..] => Some(at + 2),
        [b'\r', b'\n', ..] => Some(at + 3),
        _ => None,
    })
}

fn has_bare_line_feed(head: &[u8]) -> bool {
    head.first() == Some(&b'\n') || dispatch!(Level::baseline(), simd => has_bare_behind_first(simd, head))
}

/// Sixteen at a time beside those before them. What compilers make of a plain loop differs by what is around it, tenfold.
#[inline(always)]
fn has_bare_behind_first<S: Simd>(simd: S, head: &[u8]) -> bool {
    let Some(last) = head.len().checked_sub(LANES + 1) else {
        return head.windows(2).any(|pair| matches!(pair, [before, b'\n'] if *before != b'\r'));
    };
    let sixteen = |at: usize| u8x16::from_slice(simd, &head[at..at + LANES]);
    // Where there are not sixteen left, some are looked at twice.
    let places = (0..last).step_by(LANES).chain([last]);
    let bare =
        places.fold(0, |bare, at| bare | (sixteen(at + 1).simd_eq(b'\n') & !sixteen(at).simd_eq(b'\r')).to_bitmask());
    bare != 0
}

/// Whether a `host` field has what a host and its port can be written with (RFC 3986, section 3.2.2), by its characters.
/// Commas are left out: they are how two hosts are joined to one field.
fn is_authority(value: &[u8]) -> bool {
    let is_of_it = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~:[]%!$&'()*+;=".contains(byte);
    !value.is_empty() && value.iter().all(is_of_it)
}

fn parse_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// The path in a request target: `/path?query`, or `http://host/path?query` as sent to proxies.
fn path_of(target: &str) -> &str {
    // Nearly all begin with the path: no scheme is looked for then.
    let parts = if target.starts_with('/') { None } else { target.split_once("://") };
    let after_authority = match parts {
        Some((scheme, rest)) if !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric()) => {
            match rest.find(['/', '?', '#']) {
                Some(at) if rest[at..].starts_with('/') => &rest[at..],
                // No path means `/`, and there is one in front of the host: a part of the target it has to be.
                _ => &target[scheme.len() + 2..scheme.len() + 3],
            }
        }
        _ => target,
    };
    match memchr::memchr2(b'?', b'#', after_authority.as_bytes()) {
        Some(at) => &after_authority[..at],
        None => after_authority,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn take(text: &str) -> Result<Option<Head>, ApiError> {
        Head::take(&mut BytesMut::from(text))
    }

    fn head(text: &str) -> Head {
        take(text).unwrap().unwrap()
    }

    fn refusal(text: &str) -> &'static str {
        take(text).unwrap_err().status_and_code().1
    }

    #[test]
    fn a_head_is_taken_and_the_rest_stays() {
        let mut input =
            BytesMut::from("POST /v1/x?key=1 HTTP/1.1\r\nHost: a\r\nX-Api-Key:  k \r\nContent-Length: 3\r\n\r\nabcGET");
        let head = Head::take(&mut input).unwrap().unwrap();
        assert_eq!(head.method, Method::Post);
        assert_eq!(head.path(), b"/v1/x");
        assert_eq!(head.value("x-api-key"), Some(&b"k"[..]));
        assert_eq!(head.shared_value("host").unwrap(), "a");
        assert_eq!(head.body, BodyLength::Counted(3));
        assert!(head.keep_alive && head.http11 && !head.expects_continue);
        assert_eq!(input, "abcGET");
    }

    #[test]
    fn fields_are_found_by_names_of_any_length() {
        for length in [1, 2, 63, 64, 65, 128, 129] {
            let name = "x".repeat(length);
            let head = head(&format!("GET / HTTP/1.1\r\nHost: a\r\n{name}: 1\r\nb: 2\r\n{name}: 3\r\n\r\n"));
            let found: Vec<&[u8]> = head.values(&name).collect();
            assert_eq!(found, [b"1", b"3"], "{length}");
            assert_eq!(head.value("b"), Some(&b"2"[..]));
            for other in [1, 65, 64, 128, 5].map(|length| "y".repeat(length)) {
                assert_eq!(head.value(&other), None, "{other}");
            }
        }
    }

    #[test]
    fn an_unfinished_head_is_waited_for_up_to_the_limit() {
        assert!(take("GET / HTTP/1.1\r\nHost: a\r\n").unwrap().is_none());
        assert_eq!(refusal(&format!("GET / HTTP/1.1\r\nHost: {}", "a".repeat(MAX_HEAD_BYTES))), "headers_too_large");
        let many = "x: y\r\n".repeat(MAX_FIELDS);
        assert_eq!(refusal(&format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n")), "headers_too_large");
    }

    #[test]
    fn the_largest_head_is_none_too_large() {
        let of = |length: usize| {
            let frame = "GET / HTTP/1.1\r\nHost: a\r\nx: \r\n\r\n";
            frame.replace("x: ", &format!("x: {}", "y".repeat(length - frame.len())))
        };
        assert_eq!(head(&of(MAX_HEAD_BYTES)).fields().count(), 2);
        assert_eq!(refusal(&of(MAX_HEAD_BYTES + 1)), "headers_too_large");
        assert!(take(&of(MAX_HEAD_BYTES + 2)[..MAX_HEAD_BYTES]).unwrap().is_none());
        assert_eq!(refusal(&of(MAX_HEAD_BYTES + 2)[..MAX_HEAD_BYTES + 1]), "headers_too_large");
        assert_eq!(refusal(&of(MAX_HEAD_BYTES + 1).replace("a\r\n", " a\n")), "headers_too_large");
        assert_eq!(refusal(&of(MAX_HEAD_BYTES).replace("a\r\n", " a\n")), "bad_request");
        let most = "x: y\r\n".repeat(MAX_FIELDS - 1);
        assert_eq!(head(&format!("GET / HTTP/1.1\r\nHost: a\r\n{most}\r\n")).fields().count(), MAX_FIELDS);
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        let with = |fields: &str| refusal(&format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"));
        assert_eq!(with("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n"), "bad_request");
        assert_eq!(with("Transfer-Encoding: chunked\r\nContent-Length: 3\r\n"), "bad_request");
        assert_eq!(with("Content-Length: 3\r\nContent-Length: 3\r\n"), "bad_request");
        assert_eq!(with("Content-Length: 3, 3\r\n"), "bad_request");
        assert_eq!(with("Content-Length: +3\r\n"), "bad_request");
        assert_eq!(with("Content-Length: 99999999999999999999\r\n"), "bad_request");
        assert_eq!(with("Content-Length:\r\n"), "bad_request");
        assert_eq!(with("Transfer-Encoding: gzip, chunked\r\n"), "unsupported_transfer_encoding");
        assert_eq!(with("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"), "bad_request");
        assert_eq!(with("Host: b\r\n"), "bad_request");
        for host in ["", "a\"><script>", "a, b", "a,b", "a/b", "u@a", "a b", "\u{e4}"] {
            assert_eq!(refusal(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")), "bad_request", "{host}");
        }
        for host in ["a", "a_b.example.:8080", "[::1]:80", "127.0.0.1"] {
            assert!(take(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).unwrap().is_some(), "{host}");
        }
        assert_eq!(with("X: a\r\n folded\r\n"), "bad_request");
        assert_eq!(with("X : a\r\n"), "bad_request");
        assert_eq!(refusal("GET / HTTP/1.1\nHost: a\n\n"), "bad_request");
        assert_eq!(refusal("GET / HTTP/1.1\r\nHost: a\r\nX: b\n\r\n"), "bad_request");
        assert_eq!(refusal("GET / HTTP/1.1\r\n\r\n"), "bad_request");
        assert_eq!(refusal("GET / HTTP/2.0\r\nHost: a\r\n\r\n"), "http_version_not_supported");
        assert_eq!(refusal("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), "bad_request");
    }

    #[test]
    fn expectations_are_noted_and_judged_later() {
        let expects = |field: &str| {
            let head = head(&format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n{field}\r\n"));
            (head.expects_continue, head.expectation_fails)
        };
        assert_eq!(expects(""), (false, false));
        assert_eq!(expects("Expect: 100-Continue\r\n"), (true, false));
        assert_eq!(expects("Expect: tea\r\n"), (false, true));
        // Nobody waits for leave to send nothing, and HTTP/1.0 does not know how.
        let expect = "Host: a\r\nExpect: 100-continue\r\nContent-Length:";
        assert!(!head(&format!("POST / HTTP/1.1\r\n{expect} 0\r\n\r\n")).expects_continue);
        assert!(!head(&format!("POST / HTTP/1.0\r\n{expect} 1\r\n\r\n")).expects_continue);
    }

    #[test]
    fn methods_have_names_of_the_gateways_own() {
        let name = |method: &str| head(&format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n")).method.as_str();
        for method in ["GET", "HEAD", "POST", "OPTIONS"] {
            assert_eq!(name(method), method);
        }
        for method in ["get", "PUT", "sk_live_0123456789abcdef"] {
            assert_eq!(name(method), "OTHER");
        }
    }

    #[test]
    fn connections_live_on_as_the_version_says() {
        let alive =
            |version: &str, field: &str| head(&format!("GET / HTTP/{version}\r\nHost: a\r\n{field}\r\n")).keep_alive;
        assert!(alive("1.1", ""));
        assert!(!alive("1.1", "Connection: foo, Close\r\n"));
        assert!(!alive("1.0", ""));
        assert!(alive("1.0", "Connection: keep-alive\r\n"));
    }

    #[test]
    fn paths_of_targets() {
        assert_eq!(path_of("/a?b#c"), "/a");
        assert_eq!(path_of("http://h:1/a/b?c"), "/a/b");
        assert_eq!(path_of("http://h"), "/");
        assert_eq!(path_of("http://h?x/y"), "/");
        assert_eq!(path_of("http://h#/y"), "/");
        assert_eq!(head("GET http://h HTTP/1.1\r\nHost: h\r\n\r\n").path(), b"/");
        assert_eq!(path_of("*"), "*");
        assert_eq!(path_of("/x://y"), "/x://y");
    }

    #[test]
    fn a_bare_line_feed_is_found_wherever_it_stands() {
        for length in 1..70 {
            for place in 0..length {
                for before in [b'\r', b'x', b'\n'] {
                    let mut head = vec![b'x'; length];
                    head[place] = b'\n';
                    place.checked_sub(1).into_iter().for_each(|at| head[at] = before);
                    let is_bare = place == 0 || before != b'\r';
                    assert_eq!(has_bare_line_feed(&head), is_bare, "{before} before {place} of {length}");
                }
            }
            assert!(!has_bare_line_feed(&vec![b'\r'; length]));
        }
        assert!(!has_bare_line_feed(b""));
    }

    proptest! {
        #[test]
        fn a_head_ends_with_its_first_empty_line_whatever_the_lines_end_in(text in "(a|\r\n|\r\n|\r|\n){0,12}") {
            let end = irregular_end(text.as_bytes());
            let is_bare = end.is_some_and(|end| text[..end].replace("\r\n", "").contains('\n'));
            let found = end_of_head(text.as_bytes());
            prop_assert_eq!(found.is_err(), is_bare);
            prop_assert_eq!(found.unwrap_or(end), end);
        }

        #[test]
        fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Head::take(&mut BytesMut::from(&bytes[..]));
        }

        #[test]
        fn heads_split_anywhere_parse_alike(cut in 0usize..70) {
            let text = "POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\n\r\n";
            let mut input = BytesMut::from(&text.as_bytes()[..cut.min(text.len())]);
            if cut < text.len() {
                prop_assert!(Head::take(&mut input).unwrap().is_none());
            }
            input.extend_from_slice(&text.as_bytes()[cut.min(text.len())..]);
            prop_assert_eq!(Head::take(&mut input).unwrap().unwrap().body, BodyLength::Counted(12));
        }
    }
}
