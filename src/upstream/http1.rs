//! One HTTP/1.1 connection to upstream, worked by the task of the request that is on it.
//!
//! hyper's client has a task for each connection: every request, answer and piece of a body goes from task to task, and
//! its read buffer stays as long as the connection. Here nothing is handed over, and a connection that waits holds no
//! buffer. `httparse` does the parsing.

use super::head::{AnswerHead, WrittenFields};
use super::response::BodyBroke;
use super::watched::Watched;
use crate::http1::chunked::{Decoder, Progress};
use bytes::{Buf, Bytes, BytesMut};
use http::{StatusCode, Version};
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// Largest head of an answer, in bytes.
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// Most header fields of an answer. hyper allows as many.
const MAX_FIELDS: usize = 100;
/// Most interim answers before the final one.
pub const MAX_INTERIM: u32 = 64;
/// One read's share of the stack, in bytes.
const SCRATCH_BYTES: usize = 16 * 1024;
/// A read buffer that has grown beyond this is not kept between pieces, in bytes.
const KEPT_INPUT_BYTES: usize = 2 * 1024;
/// Pieces of a request that go out with one system call.
const MAX_SLICES: usize = 16;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// Not one byte of the request was taken.
    #[error("the connection had died: {0}")]
    Unsent(io::Error),
    /// The connection broke before the answer began.
    #[error("{0}")]
    Broke(io::Error),
    /// What came is no answer.
    #[error("the answer is not HTTP/1.1: {0}")]
    Malformed(&'static str),
}

/// How the bytes travel.
enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream<Watched<TcpStream>>>),
}

/// A connection.
pub(super) struct Connection {
    transport: Transport,
    /// Read and not yet used.
    input: BytesMut,
    /// The last read took all that there was.
    is_drained: bool,
    /// What of the request is still to be sent, while its answer is coming already.
    rest: Option<Rest>,
    /// Whether the next request can go out: the last answer has come to its end, and both sides keep the connection.
    is_idle: bool,
}

/// The end of a request.
struct Rest {
    pieces: Vec<Bytes>,
    sent: usize,
}

/// Where an answer's body ends.
#[derive(Debug)]
enum Framing {
    /// After so many more bytes.
    Counted(u64),
    Chunked(Decoder),
    /// With the connection.
    UntilClose,
    /// It has ended.
    Ended,
    /// Nowhere: its coding is broken.
    Malformed,
}

/// The body of an answer that is still coming.
#[derive(Debug)]
pub struct Body {
    framing: Framing,
    /// Whether the connection is good for another request when the body has ended.
    keeps_connection: bool,
}

impl Connection {
    pub(super) fn plain(stream: TcpStream) -> Self {
        Self::over(Transport::Plain(stream))
    }

    pub(super) fn tls(stream: TlsStream<Watched<TcpStream>>) -> Self {
        Self::over(Transport::Tls(Box::new(stream)))
    }

    fn over(transport: Transport) -> Self {
        Self { transport, input: BytesMut::new(), is_drained: false, rest: None, is_idle: true }
    }

    /// Whether the next request can go out.
    pub(super) fn is_idle(&self) -> bool {
        self.is_idle
    }

    /// Whether upstream has neither closed it nor said anything that nobody asked for.
    pub(super) fn is_alive(&mut self) -> bool {
        let mut scratch = [MaybeUninit::uninit(); 1];
        let mut read = ReadBuf::uninit(&mut scratch);
        self.transport.poll_read(&mut Context::from_waker(Waker::noop()), &mut read).is_pending()
    }

    /// Sends a request and waits for the head of its answer. An answer may begin before the request is sent, whose rest
    /// then goes out while the answer's body is waited for: upstream may need it to go on.
    ///
    /// # Errors
    /// When there is no answer to be had. Whatever happens, dropping the future spoils the connection.
    pub(super) async fn send<'a, I>(&mut self, head: &'a [u8], pieces: I) -> Result<(AnswerHead, Body), SendError>
    where
        I: Iterator<Item = &'a Bytes> + Clone,
    {
        self.is_idle = false;
        self.is_drained = false;
        let total = head.len() + pieces.clone().map(Bytes::len).sum::<usize>();
        let mut sent = 0;
        let mut failed = None;
        let mut interim_left = MAX_INTERIM;
        poll_fn(|cx| {
            while sent < total && failed.is_none() {
                let (slices, filled) = slices_from(sent, head, pieces.clone());
                match self.transport.poll_write(cx, &slices[..filled]) {
                    Poll::Ready(Ok(count @ 1..)) => sent += count,
                    Poll::Ready(Ok(_)) => failed = Some(io::ErrorKind::WriteZero.into()),
                    Poll::Ready(Err(error)) => failed = Some(error),
                    Poll::Pending => break,
                }
            }
            if failed.is_none()
                && let Poll::Ready(Err(error)) = self.transport.poll_flush(cx)
            {
                failed = Some(error);
            }
            if let Some(error) = failed.take_if(|_| sent == 0) {
                return Poll::Ready(Err(SendError::Unsent(error)));
            }
            loop {
                if let Some((answer, mut body)) = take_head(&mut self.input, &mut interim_left)? {
                    body.keeps_connection &= failed.is_none();
                    if sent < total && failed.is_none() {
                        self.rest = Some(Rest::new(sent, head, pieces.clone()));
                    }
                    self.is_idle = matches!(body.framing, Framing::Ended) && self.is_idle_after(&body);
                    return Poll::Ready(Ok((answer, body)));
                }
                match ready!(self.poll_read_more(cx)) {
                    Ok(1..) => {}
                    Ok(_) => {
                        let ended = || io::Error::new(io::ErrorKind::UnexpectedEof, "it ended before an answer began");
                        return Poll::Ready(Err(SendError::Broke(failed.take().unwrap_or_else(ended))));
                    }
                    Err(error) => return Poll::Ready(Err(SendError::Broke(error))),
                }
            }
        })
        .await
    }

    /// The next piece of a body: what has come, a chunk at most.
    pub(super) fn poll_piece(
        &mut self,
        body: &mut Body,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, BodyBroke>>> {
        self.send_rest(body, cx);
        let polled = self.poll_body(body, cx);
        // What has been passed on takes no memory while the next piece is waited for.
        if self.input.is_empty() && self.input.capacity() > KEPT_INPUT_BYTES {
            self.input = BytesMut::new();
        }
        if matches!(polled, Poll::Ready(None)) {
            self.is_idle = self.is_idle_after(body);
        }
        polled
    }

    /// Whether another piece of a body, or its end, may be there without a wait.
    pub(super) fn may_have_more(&self, body: &Body) -> bool {
        !self.is_drained || !self.input.is_empty() || matches!(body.framing, Framing::Ended | Framing::Malformed)
    }

    /// Whether the next request can go out when a body has ended.
    fn is_idle_after(&self, body: &Body) -> bool {
        body.keeps_connection && self.rest.is_none() && self.input.is_empty()
    }

    /// Sends as much of the request's rest as upstream takes now.
    fn send_rest(&mut self, body: &mut Body, cx: &mut Context<'_>) {
        let Some(rest) = &mut self.rest else { return };
        let done = loop {
            let (slices, filled) = slices_from(rest.sent, b"", rest.pieces.iter());
            if filled == 0 {
                break self.transport.poll_flush(cx);
            }
            match self.transport.poll_write(cx, &slices[..filled]) {
                Poll::Ready(Ok(count @ 1..)) => rest.sent += count,
                Poll::Ready(Ok(_)) => break Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Err(error)) => break Poll::Ready(Err(error)),
                Poll::Pending => return,
            }
        };
        if let Poll::Ready(sent) = done {
            self.rest = None;
            // What upstream does not want to hear any more does not keep it from saying what it has begun.
            body.keeps_connection &= sent.is_ok();
        }
    }

    fn poll_body(&mut self, body: &mut Body, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyBroke>>> {
        loop {
            match &mut body.framing {
                Framing::Ended => return Poll::Ready(None),
                Framing::Malformed => return Poll::Ready(Some(Err(BodyBroke::Malformed))),
                Framing::Counted(left) if !self.input.is_empty() => {
                    let here = usize::try_from(*left).map_or(self.input.len(), |left| left.min(self.input.len()));
                    *left -= here as u64;
                    if *left == 0 {
                        body.framing = Framing::Ended;
                    }
                    return Poll::Ready(Some(Ok(self.input.split_to(here).freeze())));
                }
                Framing::UntilClose if !self.input.is_empty() => {
                    return Poll::Ready(Some(Ok(self.input.split().freeze())));
                }
                Framing::Chunked(decoder) if !self.input.is_empty() => {
                    let mut piece = BytesMut::new();
                    match decoder.decode(&mut self.input, &mut piece, usize::MAX) {
                        Ok(Progress::Done) => body.framing = Framing::Ended,
                        Ok(Progress::NeedsMore | Progress::ChunkEnded) => {}
                        // What came of it in good order is passed on first.
                        Ok(Progress::OverLimit) | Err(_) => body.framing = Framing::Malformed,
                    }
                    if !piece.is_empty() {
                        return Poll::Ready(Some(Ok(piece.freeze())));
                    }
                    if !matches!(body.framing, Framing::Chunked(_)) {
                        continue;
                    }
                }
                _ => {}
            }
            match ready!(self.poll_read_more(cx)) {
                Ok(1..) => {}
                Ok(_) if matches!(body.framing, Framing::UntilClose) => body.framing = Framing::Ended,
                Ok(_) => return Poll::Ready(Some(Err(BodyBroke::Ended))),
                Err(error) => return Poll::Ready(Some(Err(BodyBroke::Connection(error)))),
            }
        }
    }

    fn poll_read_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut scratch = [const { MaybeUninit::<u8>::uninit() }; SCRATCH_BYTES];
        let mut read = ReadBuf::uninit(&mut scratch);
        ready!(self.transport.poll_read(cx, &mut read))?;
        let filled = read.filled().len();
        self.input.extend_from_slice(read.filled());
        // TLS may have more in its hands.
        self.is_drained = filled < SCRATCH_BYTES && matches!(self.transport, Transport::Plain(_));
        Poll::Ready(Ok(filled))
    }
}

impl Rest {
    /// What is left of a request of which so many bytes have been sent.
    fn new<'a>(sent: usize, head: &[u8], pieces: impl Iterator<Item = &'a Bytes>) -> Self {
        let of_head = Bytes::copy_from_slice(head.get(sent..).unwrap_or_default());
        let mut skip = sent.saturating_sub(head.len());
        let behind = pieces.filter_map(|piece| {
            let here = skip.min(piece.len());
            skip -= here;
            (here < piece.len()).then(|| piece.slice(here..))
        });
        Self { pieces: [of_head].into_iter().chain(behind).collect(), sent: 0 }
    }
}

impl Transport {
    fn poll_read(&mut self, cx: &mut Context<'_>, read: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, read),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, read),
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            // The kernel has it.
            Self::Plain(_) => Poll::Ready(Ok(())),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }
}

/// What of a request is still to be sent, and how many slices of that there are: the kernel takes the time to look at
/// empty ones too.
fn slices_from<'a>(
    mut skip: usize,
    head: &'a [u8],
    pieces: impl Iterator<Item = &'a Bytes>,
) -> ([IoSlice<'a>; MAX_SLICES], usize) {
    let mut slices = [IoSlice::new(b""); MAX_SLICES];
    let mut filled = 0;
    for part in [head].into_iter().chain(pieces.map(|piece| &**piece)) {
        if skip >= part.len() {
            skip -= part.len();
        } else if let Some(slice) = slices.get_mut(filled) {
            *slice = IoSlice::new(&part[skip..]);
            skip = 0;
            filled += 1;
        }
    }
    (slices, filled)
}

/// Takes the head of the final answer off the front, interim ones before it; `None` while it is not whole.
///
/// # Errors
/// When what is there can never become one, or more interim ones came than may.
pub fn take_head(input: &mut BytesMut, interim_left: &mut u32) -> Result<Option<(AnswerHead, Body)>, SendError> {
    loop {
        if input.is_empty() {
            return Ok(None);
        }
        let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        let mut response = httparse::Response::new(&mut []);
        let parsed = httparse::ParserConfig::default()
            .parse_response_with_uninit_headers(&mut response, input, &mut fields)
            .map_err(|_| SendError::Malformed("its head cannot be read"))?;
        let httparse::Status::Complete(length) = parsed else {
            return if input.len() > MAX_HEAD_BYTES {
                Err(SendError::Malformed("its head is too large"))
            } else {
                Ok(None)
            };
        };
        let code = response.code.unwrap_or_default();
        let status = StatusCode::from_u16(code).map_err(|_| SendError::Malformed("its status is none"))?;
        // All but this one are followed by the answer (RFC 9110, section 15.2).
        if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
            input.advance(length);
            *interim_left = interim_left.checked_sub(1).ok_or(SendError::Malformed("it does not get to the point"))?;
            continue;
        }
        let is_http11 = response.version == Some(1);
        let head = input.get(..length).unwrap_or_default();
        let fields = WrittenFields::of(head, response.headers)
            .ok_or(SendError::Malformed("a field of its head cannot be read"))?;
        input.advance(length);
        let body = Body::of(status, &fields, is_http11)?;
        let version = if is_http11 { Version::HTTP_11 } else { Version::HTTP_10 };
        return Ok(Some((AnswerHead::written(status, version, fields), body)));
    }
}

impl Body {
    /// Where the body of an answer to a POST ends (RFC 9112, section 6.3).
    fn of(status: StatusCode, fields: &WrittenFields, is_http11: bool) -> Result<Self, SendError> {
        let last_coding = fields.values("transfer-encoding").next_back();
        let last_coding = last_coding.map(|value| value.rsplit(|byte| *byte == b','));
        let last_coding = last_coding.and_then(|mut codings| codings.next()).map(<[u8]>::trim_ascii);
        let mut length = None;
        for value in fields.values("content-length") {
            let number = std::str::from_utf8(value).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
            let number: Option<u64> = number.and_then(|text| text.parse().ok());
            if number.is_none() || length.replace(number).is_some_and(|earlier| earlier != number) {
                return Err(SendError::Malformed("its length cannot be told"));
            }
        }
        let framing = match (last_coding, length.flatten()) {
            _ if matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) => Framing::Ended,
            (Some(coding), _) if coding.eq_ignore_ascii_case(b"chunked") => Framing::Chunked(Decoder::default()),
            (Some(_), _) | (None, None) => Framing::UntilClose,
            (None, Some(0)) => Framing::Ended,
            (None, Some(length)) => Framing::Counted(length),
        };
        let says = |word: &[u8]| {
            let values = fields.values("connection");
            values
                .flat_map(|value| value.split(|byte| *byte == b','))
                .any(|token| token.trim_ascii().eq_ignore_ascii_case(word))
        };
        let keeps = !says(b"close") && (is_http11 || says(b"keep-alive"));
        // Both lengths in one answer may be an attempt to smuggle another one in behind it.
        let is_ambiguous = last_coding.is_some() && length.is_some();
        let keeps_connection = keeps && !is_ambiguous && !matches!(framing, Framing::UntilClose);
        Ok(Self { framing, keeps_connection })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn head(text: &str) -> Result<Option<(AnswerHead, Body)>, SendError> {
        take_head(&mut BytesMut::from(text), &mut MAX_INTERIM.clone())
    }

    fn framing(fields: &str) -> (String, bool) {
        let (_, body) = head(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n")).unwrap().unwrap();
        let name = format!("{:?}", body.framing);
        (name.split(['(', ' ']).next().unwrap().to_owned(), body.keeps_connection)
    }

    #[test]
    fn ends_of_bodies() {
        assert_eq!(framing("content-length: 5\r\n"), ("Counted".into(), true));
        assert_eq!(framing("content-length: 5\r\ncontent-length: 5\r\n"), ("Counted".into(), true));
        assert_eq!(framing("content-length: 0\r\n"), ("Ended".into(), true));
        assert_eq!(framing("transfer-encoding: chunked\r\n"), ("Chunked".into(), true));
        assert_eq!(framing("transfer-encoding: gzip, Chunked\r\nconnection: x, Close\r\n"), ("Chunked".into(), false));
        assert_eq!(framing("transfer-encoding: chunked\r\ncontent-length: 5\r\n"), ("Chunked".into(), false));
        assert_eq!(framing("transfer-encoding: gzip\r\n"), ("UntilClose".into(), false));
        assert_eq!(framing(""), ("UntilClose".into(), false));
        for bad in [
            "content-length: 1\r\ncontent-length: 2\r\n",
            "content-length: +1\r\n",
            "content-length: x\r\n",
            "content-length:\r\n",
        ] {
            assert!(head(&format!("HTTP/1.1 200 OK\r\n{bad}\r\n")).is_err(), "{bad}");
        }
    }

    #[test]
    fn interim_answers_are_passed_over() {
        let (answer, _) =
            head("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nlink: x\r\n\r\nHTTP/1.0 404 No\r\n\r\n")
                .unwrap()
                .unwrap();
        assert_eq!((answer.status.as_u16(), answer.version), (404, Version::HTTP_10));
        assert!(head("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 20").unwrap().is_none());
        assert_eq!(head("HTTP/1.1 101 Switch\r\n\r\n").unwrap().unwrap().0.status, 101);
    }

    #[test]
    fn interim_answers_have_an_end() {
        let interim = "HTTP/1.1 103 Hints\r\n\r\n".repeat(MAX_INTERIM as usize);
        assert!(head(&format!("{interim}HTTP/1.1 200 OK\r\n\r\n")).unwrap().is_some());
        assert!(head(&format!("{interim}HTTP/1.1 103 Hints\r\n\r\n")).is_err());
    }

    #[test]
    fn fields_are_found_whatever_their_case_and_told_as_they_were_written() {
        let text = "HTTP/1.1 200 OK\r\nX-A:  1 \r\nx-b:\r\nx-a: \t2\r\nX-C: \u{e9}\r\ncontent-length: 0\r\n\r\n";
        let (answer, _) = head(text).unwrap().unwrap();
        assert_eq!((answer.value("x-a"), answer.text("x-a")), (Some(&b"1"[..]), Some("1")));
        assert_eq!((answer.value("x-b"), answer.has("x-b"), answer.has("x-d")), (Some(&b""[..]), true, false));
        assert_eq!((answer.value("x-c"), answer.text("x-c")), (Some("\u{e9}".as_bytes()), None));
        let mut told = Vec::new();
        answer.each(|name, value| told.push((name.to_vec(), value.to_vec())));
        let expected = [("X-A", "1"), ("x-b", ""), ("x-a", "2"), ("X-C", "\u{e9}"), ("content-length", "0")];
        assert_eq!(told, expected.map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())));
        let map = answer.to_map();
        assert_eq!((map.len(), map.get_all("x-a").iter().count()), (5, 2));
    }

    #[test]
    fn the_rest_of_a_request_is_what_was_not_sent() {
        let body = ["abc", "de", "f"].map(Bytes::from);
        for sent in 0..10 {
            let rest = Rest::new(sent, b"head", body.iter());
            assert_eq!(rest.pieces.concat(), b"headabcdef"[sent..], "{sent}");
        }
    }

    #[test]
    fn what_is_no_head_is_refused() {
        assert!(head("HTTP/2 200\r\n\r\n").is_err());
        assert!(head("220 ready\r\n").is_err());
        assert!(head(&format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(MAX_HEAD_BYTES))).is_err());
        assert!(head(&format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(MAX_FIELDS + 1))).is_err());
    }

    #[test]
    fn requests_go_out_in_order_from_anywhere() {
        let body: Vec<Bytes> = (0..40).map(|number| Bytes::from(format!("piece {number};"))).collect();
        let all = [b"head" as &[u8], &body.concat()].concat();
        let mut sent = Vec::new();
        while sent.len() < all.len() {
            let (slices, filled) = slices_from(sent.len(), b"head", body.iter());
            assert!(slices[..filled].iter().all(|slice| !slice.is_empty()));
            // As a socket that takes half of what it is given.
            let given: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.to_vec()).collect();
            sent.extend_from_slice(&given[..given.len().div_ceil(2)]);
        }
        assert_eq!(sent, all);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = take_head(&mut BytesMut::from(&bytes[..]), &mut MAX_INTERIM.clone());
        }

        #[test]
        fn heads_split_anywhere_parse_alike(cut in 0usize..64) {
            let text = "HTTP/1.1 200 OK\r\nContent-Length: 12\r\nX: y\r\n\r\n";
            let cut = cut.min(text.len() - 1);
            let mut input = BytesMut::from(&text[..cut]);
            prop_assert!(take_head(&mut input, &mut MAX_INTERIM.clone()).unwrap().is_none());
            input.extend_from_slice(&text.as_bytes()[cut..]);
            let (_, body) = take_head(&mut input, &mut MAX_INTERIM.clone()).unwrap().unwrap();
            prop_assert!(matches!(body.framing, Framing::Counted(12)));
        }
    }
}
