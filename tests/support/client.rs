//! A raw HTTP/1.1 client: bytes out as given, answers with their pieces and with the way they ended.
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use serde_json::Value;

use super::{CHAT_PATH, DEADLINE, KEY, show};

/// How the body of an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// By its framing: counted out, last chunk, or an orderly close where the close is the end.
    Complete,
    /// The connection was closed before the body's regular end.
    Cut,
    /// The connection was reset.
    Reset,
}

/// An answer, or its head with an empty body.
#[derive(Debug, Clone)]
pub(crate) struct Response {
    pub(crate) status: u16,
    /// The head as it came, with its blank line.
    pub(crate) head: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// The body's pieces as they were framed on the wire.
    pub(crate) pieces: Vec<Vec<u8>>,
    pub(crate) end: End,
}

impl Response {
    /// The value of a header that stands at most once.
    #[track_caller]
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str());
        let value = values.next();
        assert_eq!(values.next(), None, "{name} stands more than once: {}", self.head);
        value
    }

    /// The names of the headers in lower case, sorted.
    pub(crate) fn header_names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.headers.iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
        names.sort();
        names
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        match serde_json::from_slice(&self.body) {
            Ok(value) => value,
            Err(error) => panic!("not JSON ({error}): {} {}", self.head, show(&self.body)),
        }
    }

    /// `error.code` of a JSON error.
    #[track_caller]
    pub(crate) fn code(&self) -> String {
        match self.json()["error"]["code"].as_str() {
            Some(code) => code.to_owned(),
            None => panic!("no error code: {} {}", self.head, show(&self.body)),
        }
    }

    /// Checks everything that the contract says of an error of the gateway's own.
    #[track_caller]
    pub(crate) fn assert_error(&self, status: u16, code: &str) {
        let what = format!("{}{}", self.head, show(&self.body));
        assert_eq!(self.status, status, "{what}");
        assert_eq!(self.header("content-type"), Some("application/json"), "{what}");
        assert_eq!(self.header("x-content-type-options"), Some("nosniff"), "{what}");
        assert!(self.header("x-request-id").is_some_and(|id| !id.is_empty()), "{what}");
        assert_eq!(self.end, End::Complete, "{what}");
        let body = self.json();
        let error = body["error"].as_object().unwrap_or_else(|| panic!("no error object: {what}"));
        assert_eq!(body.as_object().map(serde_json::Map::len), Some(1), "{what}");
        let mut fields: Vec<&str> = error.keys().map(String::as_str).collect();
        fields.sort_unstable();
        assert_eq!(fields, ["code", "message", "param", "type"], "{what}");
        assert_eq!(error["code"], code, "{what}");
        assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{what}");
        assert!(error["param"].is_string() || error["param"].is_null(), "{what}");
        let kind = match status {
            429 if code == "insufficient_quota" => "insufficient_quota",
            429 => "requests",
            401 => "authentication_error",
            400..=499 => "invalid_request_error",
            502 | 504 => "upstream_error",
            _ => "server_error",
        };
        assert_eq!(error["type"], kind, "{what}");
    }

    /// The `retry-after` of an answer that must have one.
    #[track_caller]
    pub(crate) fn retry_after(&self) -> u64 {
        let value = self.header("retry-after").unwrap_or_else(|| panic!("no retry-after: {}", self.head));
        value.parse().unwrap_or_else(|_| panic!("retry-after is not a number of seconds: {value}"))
    }
}

/// A request to be written on the wire.
#[derive(Clone)]
pub(crate) struct Request {
    line: String,
    headers: Vec<(String, String)>,
    body: Option<Vec<u8>>,
}

impl Request {
    pub(crate) fn new(method: &str, target: &str) -> Self {
        let headers = vec![("host".to_owned(), "gateway.test".to_owned())];
        Self { line: format!("{method} {target} HTTP/1.1\r\n"), headers, body: None }
    }

    pub(crate) fn get(target: &str) -> Self {
        Self::new("GET", target)
    }

    /// A chat request with a valid key.
    pub(crate) fn chat(body: impl AsRef<[u8]>) -> Self {
        Self::new("POST", CHAT_PATH).header("content-type", "application/json").key(KEY).body(body)
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// In the place of the `host` that requests have.
    pub(crate) fn host(mut self, host: &str) -> Self {
        self.headers[0].1 = host.to_owned();
        self
    }

    pub(crate) fn key(self, key: &str) -> Self {
        self.header("authorization", &format!("Bearer {key}"))
    }

    /// A body with its `content-length`.
    pub(crate) fn body(mut self, body: impl AsRef<[u8]>) -> Self {
        self.body = Some(body.as_ref().to_vec());
        self
    }

    /// The head alone; `content-length` is that of the body, if there is one.
    pub(crate) fn head_bytes(&self) -> Vec<u8> {
        let mut head = self.line.clone();
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if let Some(body) = &self.body {
            head.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        head.into_bytes()
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.head_bytes();
        bytes.extend_from_slice(self.body.as_deref().unwrap_or_default());
        bytes
    }
}

enum Framing {
    Counted(usize),
    Chunked { left: usize, first: bool },
    UntilClose,
    Ended(End),
}

enum Filled {
    Data,
    Eof,
    Reset,
}

/// One connection to the gateway.
pub(crate) struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
    framing: Framing,
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the gateway accepts connections");
        stream.set_nodelay(true).expect("nodelay can be set");
        stream.set_read_timeout(Some(DEADLINE)).expect("a read timeout can be set");
        stream.set_write_timeout(Some(DEADLINE)).expect("a write timeout can be set");
        Self { stream, buffer: Vec::new(), framing: Framing::Ended(End::Complete) }
    }

    /// A connection whose receive buffer is small, for readers that are slow on purpose.
    pub(crate) fn connect_narrow(address: SocketAddr) -> Self {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        socket.set_recv_buffer_size(8 * 1024).expect("the receive buffer can be set");
        socket.connect(&address.into()).expect("the gateway accepts connections");
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(DEADLINE)).expect("a read timeout can be set");
        Self { stream, buffer: Vec::new(), framing: Framing::Ended(End::Complete) }
    }

    #[track_caller]
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).expect("the gateway reads the request");
    }

    /// Sends as much as the gateway takes; an answer that comes early may end it.
    pub(crate) fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).is_ok()
    }

    #[track_caller]
    pub(crate) fn request(&mut self, request: &Request) -> Response {
        self.send(request.bytes());
        let mut response = self.head();
        if request.line.starts_with("HEAD ") {
            self.framing = Framing::Ended(End::Complete);
        }
        self.rest(&mut response);
        response
    }

    /// Closes the sending side; answers can still be read.
    pub(crate) fn close_sending_side(&self) {
        self.stream.shutdown(Shutdown::Write).expect("the sending side can be closed");
    }

    /// Resets the connection.
    pub(crate) fn reset(self) {
        socket2::SockRef::from(&self.stream).set_linger(Some(std::time::Duration::ZERO)).expect("linger can be set");
    }

    #[track_caller]
    fn fill(&mut self) -> Filled {
        let mut piece = [0; 16 * 1024];
        let read = loop {
            match self.stream.read(&mut piece) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        match read {
            Ok(0) => Filled::Eof,
            Ok(length) => {
                self.buffer.extend_from_slice(&piece[..length]);
                Filled::Data
            }
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => Filled::Reset,
            Err(error) => panic!("no byte within the deadline: {error}; unread: {}", show(&self.buffer)),
        }
    }

    /// Takes what stands before `mark`, and the mark.
    #[track_caller]
    fn take_through(&mut self, mark: &[u8]) -> Result<Vec<u8>, End> {
        loop {
            if let Some(at) = self.buffer.windows(mark.len()).position(|window| window == mark) {
                return Ok(self.buffer.drain(..at + mark.len()).collect());
            }
            match self.fill() {
                Filled::Data => {}
                Filled::Eof => return Err(End::Cut),
                Filled::Reset => return Err(End::Reset),
            }
        }
    }

    /// Reads a head, be it 1xx or final; its body is read by the calls that follow.
    #[track_caller]
    pub(crate) fn head(&mut self) -> Response {
        let head = match self.take_through(b"\r\n\r\n") {
            Ok(head) => String::from_utf8(head).expect("the head is text"),
            Err(end) => panic!("the connection ended ({end:?}) before an answer: {}", show(&self.buffer)),
        };
        let mut lines = head.trim_end_matches("\r\n").split("\r\n");
        let status_line = lines.next().unwrap_or_default();
        let status: u16 = status_line
            .strip_prefix("HTTP/1.1 ")
            .or_else(|| status_line.strip_prefix("HTTP/1.0 "))
            .and_then(|rest| rest.get(..3))
            .and_then(|status| status.parse().ok())
            .unwrap_or_else(|| panic!("no status line: {head}"));
        let headers: Vec<(String, String)> = lines
            .map(|line| {
                let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("no header: {line}"));
                (name.to_owned(), value.trim().to_owned())
            })
            .collect();
        let response =
            Response { status, head: head.clone(), headers, body: Vec::new(), pieces: Vec::new(), end: End::Cut };
        self.framing = if status < 200 || status == 204 || status == 304 {
            Framing::Ended(End::Complete)
        } else if let Some(coding) = response.header("transfer-encoding") {
            assert_eq!(coding, "chunked", "{head}");
            assert_eq!(response.header("content-length"), None, "both framings: {head}");
            Framing::Chunked { left: 0, first: true }
        } else if let Some(length) = response.header("content-length") {
            Framing::Counted(length.parse().unwrap_or_else(|_| panic!("bad content-length: {head}")))
        } else {
            Framing::UntilClose
        };
        response
    }

    /// The next piece of the body, or how it ended.
    #[track_caller]
    pub(crate) fn piece(&mut self) -> Result<Vec<u8>, End> {
        loop {
            let limit = match &mut self.framing {
                Framing::Ended(end) => return Err(*end),
                Framing::Counted(0) => {
                    self.framing = Framing::Ended(End::Complete);
                    continue;
                }
                Framing::Counted(left) => *left,
                Framing::UntilClose => usize::MAX,
                Framing::Chunked { left: 0, .. } => {
                    if let Err(end) = self.next_chunk() {
                        self.framing = Framing::Ended(end);
                    }
                    continue;
                }
                Framing::Chunked { left, .. } => *left,
            };
            if self.buffer.is_empty() {
                match (self.fill(), &self.framing) {
                    (Filled::Data, _) => {}
                    (Filled::Eof, Framing::UntilClose) => self.framing = Framing::Ended(End::Complete),
                    (Filled::Eof, _) => self.framing = Framing::Ended(End::Cut),
                    (Filled::Reset, _) => self.framing = Framing::Ended(End::Reset),
                }
                continue;
            }
            let length = limit.min(self.buffer.len());
            match &mut self.framing {
                Framing::Counted(left) | Framing::Chunked { left, .. } => *left -= length,
                Framing::UntilClose | Framing::Ended(_) => {}
            }
            return Ok(self.buffer.drain(..length).collect());
        }
    }

    fn next_chunk(&mut self) -> Result<(), End> {
        if let Framing::Chunked { first: false, .. } = self.framing {
            assert_eq!(show(self.take_through(b"\r\n")?), "\\r\\n", "the end of a chunk");
        }
        let line = self.take_through(b"\r\n")?;
        let size =
            std::str::from_utf8(&line[..line.len() - 2]).ok().and_then(|size| usize::from_str_radix(size, 16).ok());
        let size = size.unwrap_or_else(|| panic!("no chunk size: {}", show(&line)));
        if size == 0 {
            assert_eq!(show(self.take_through(b"\r\n")?), "\\r\\n", "no trailers");
            return Err(End::Complete);
        }
        self.framing = Framing::Chunked { left: size, first: false };
        Ok(())
    }

    /// Reads the body until `expected` has come, no more and no less.
    #[track_caller]
    pub(crate) fn expect_body(&mut self, expected: impl AsRef<[u8]>) {
        let expected = expected.as_ref();
        let mut got = Vec::new();
        while got.len() < expected.len() {
            match self.piece() {
                Ok(piece) => got.extend_from_slice(&piece),
                Err(end) => panic!("the body ended ({end:?}) after {}, expected {}", show(&got), show(expected)),
            }
        }
        super::assert_bytes(&got, expected, "the body so far");
    }

    /// Reads the rest of the body into `response`.
    #[track_caller]
    pub(crate) fn rest(&mut self, response: &mut Response) {
        response.end = loop {
            match self.piece() {
                Ok(piece) => {
                    response.body.extend_from_slice(&piece);
                    response.pieces.push(piece);
                }
                Err(end) => break end,
            }
        };
    }

    /// Reads a whole answer.
    #[track_caller]
    pub(crate) fn response(&mut self) -> Response {
        let mut response = self.head();
        self.rest(&mut response);
        response
    }

    /// Reads until the connection ends; nothing more may come.
    #[track_caller]
    pub(crate) fn assert_closed(&mut self) {
        assert_eq!(show(&self.buffer), "", "bytes after the answer");
        match self.fill() {
            Filled::Eof | Filled::Reset => {}
            Filled::Data => panic!("bytes instead of the end: {}", show(&self.buffer)),
        }
    }

    /// Everything up to the end of the connection, unparsed.
    #[track_caller]
    pub(crate) fn raw_to_end(&mut self) -> Vec<u8> {
        while let Filled::Data = self.fill() {}
        std::mem::take(&mut self.buffer)
    }
}
