//! Chat completions over HTTP/1.1: one read, one check, one write.

use super::server::{Pacer, Shared, add};
use crate::machine::monotonic_nanoseconds;
use crate::payload::{DONE, EVENT_BYTES, Form, QuestionCheck};
use bytes::{Buf, BytesMut};
use std::io::Write;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// What is read at once of a large body, in bytes.
const LARGE_READ_BYTES: usize = 256 * 1024;
const SMALL_READ_BYTES: usize = 8 * 1024;

/// Serves one connection to its end.
pub(super) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, shared: &Shared) {
    let _open = shared.open_connection();
    let mut input = BytesMut::new();
    let mut out = Vec::new();
    loop {
        let head = loop {
            if let Some(head) = Head::take(&mut input) {
                break head;
            }
            input.reserve(SMALL_READ_BYTES);
            if !matches!(stream.read_buf(&mut input).await, Ok(1..)) {
                return;
            }
        };
        if head.expects_continue && stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.is_err() {
            return;
        }
        let tail = shared.shape.borrow().tail.clone();
        let mut check = QuestionCheck::new(head.form, tail);
        let Some(is_whole) = read_body(&mut stream, &mut input, &head, &mut check, shared).await else { return };
        shared.judge(is_whole && head.is_right && check.is_right());
        let stream_shape = shared.shape.borrow().stream;
        out.clear();
        match stream_shape {
            None => {
                let _ = write!(
                    out,
                    "HTTP/1.1 200 OK\r\ncontent-type: application/json; charset=UTF-8\r\nvary: X-Origin\r\nserver: \
                     scaffolding on HTTPServer2\r\ncontent-length: {}\r\n\r\n",
                    shared.answer.len()
                );
                out.extend_from_slice(&shared.answer);
            }
            Some(shape) => {
                out.extend_from_slice(
                    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nvary: X-Origin\r\nserver: scaffolding on \
                      HTTPServer2\r\ntransfer-encoding: chunked\r\n\r\n",
                );
                let mut pacer = Pacer::new(shared, shape);
                while let Some(number) = pacer.next().await {
                    let _ = write!(out, "{EVENT_BYTES:x}\r\n");
                    shared.events.write(number, monotonic_nanoseconds(), &mut out);
                    out.extend_from_slice(b"\r\n");
                    if stream.write_all(&out).await.is_err() || stream.flush().await.is_err() {
                        return;
                    }
                    out.clear();
                }
                let _ = write!(out, "{:x}\r\n", DONE.len());
                out.extend_from_slice(DONE);
                out.extend_from_slice(b"\r\n0\r\n\r\n");
            }
        }
        if stream.write_all(&out).await.is_err() || stream.flush().await.is_err() {
            return;
        }
    }
}

/// Reads a body to its end and shows it to the check; `None` when the connection ends first.
async fn read_body<S: AsyncRead + Unpin>(
    stream: &mut S,
    input: &mut BytesMut,
    head: &Head,
    check: &mut QuestionCheck,
    shared: &Shared,
) -> Option<bool> {
    let Some(mut left) = head.length else { return Some(false) };
    add(&shared.counts.body_bytes, left as u64);
    let here = left.min(input.len());
    check.push(&input[..here]);
    input.advance(here);
    left -= here;
    if left > 0 {
        let mut buffer = vec![0; left.min(LARGE_READ_BYTES)];
        while left > 0 {
            let most = left.min(buffer.len());
            let count = stream.read(&mut buffer[..most]).await.ok().filter(|count| *count > 0)?;
            check.push(&buffer[..count]);
            left -= count;
        }
    }
    Some(true)
}

struct Head {
    /// `content-length`; every contestant has it from the client.
    length: Option<usize>,
    expects_continue: bool,
    form: Option<&'static Form>,
    is_right: bool,
}

impl Head {
    /// Takes a whole head off the front.
    fn take(input: &mut BytesMut) -> Option<Self> {
        let bytes = input.split_to(crate::head::length(input)?);
        let mut fields = [httparse::EMPTY_HEADER; 64];
        let mut request = httparse::Request::new(&mut fields);
        let is_http = matches!(request.parse(&bytes), Ok(httparse::Status::Complete(_)));
        let value = |name: &str| {
            request.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value)
        };
        let length = value("content-length").and_then(|value| std::str::from_utf8(value).ok()?.parse().ok());
        let form = Form::find(|form| request.path == Some(form.path));
        let is_authorized = form.is_some_and(|form| value("authorization") == Some(form.bearer.as_bytes()));
        Some(Self {
            length,
            expects_continue: value("expect").is_some(),
            form,
            is_right: is_http && request.method == Some("POST") && is_authorized,
        })
    }
}
