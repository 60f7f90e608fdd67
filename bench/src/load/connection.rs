//! A client's connection: HTTP/1.1 as far as it is needed, and no copy of what is only looked at.

use bytes::{Buf, Bytes, BytesMut};
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub(super) const READ_BYTES: usize = 4 * 1024;

pub(super) struct Connection {
    stream: TcpStream,
    input: Input,
}

/// What has been read and not yet looked at.
#[derive(Default)]
pub(super) struct Input(pub(super) BytesMut);

/// How the body of an answer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    Counted(usize),
    Chunked,
}

impl Input {
    /// Takes the head of an answer off the front; `None` while it is not whole.
    pub(super) fn take_head(&mut self) -> Result<Option<Framing>, String> {
        let Some(end) = crate::head::length(&self.0) else { return Ok(None) };
        let mut fields = [httparse::EMPTY_HEADER; 64];
        let mut response = httparse::Response::new(&mut fields);
        let head = &self.0[..end];
        response.parse(head).map_err(|error| format!("a head that cannot be read: {error}"))?;
        if response.code != Some(200) {
            return Err(format!("not 200 but {}", String::from_utf8_lossy(&self.0)));
        }
        let mut framing = None;
        for field in response.headers.iter() {
            if field.name.eq_ignore_ascii_case("content-length") {
                framing =
                    std::str::from_utf8(field.value).ok().and_then(|text| text.parse().ok()).map(Framing::Counted);
            } else if field.name.eq_ignore_ascii_case("transfer-encoding") {
                framing = Some(Framing::Chunked);
            }
        }
        let framing = framing.ok_or("an answer without an end")?;
        self.0.advance(end);
        Ok(Some(framing))
    }

    /// Takes a whole counted answer off the front, if it is this one; false while it is not whole.
    pub(super) fn take_answer(&mut self, length: usize, expected: &[u8]) -> Result<bool, String> {
        if self.0.len() < length {
            return Ok(false);
        }
        if self.0.len() > length || self.0[..] != *expected {
            return Err("an answer with other bytes than upstream's".into());
        }
        self.0.clear();
        Ok(true)
    }
}

impl Connection {
    pub(super) async fn open(target: SocketAddr) -> Result<Self, String> {
        let stream = TcpStream::connect(target).await.map_err(|error| format!("cannot connect: {error}"))?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        Ok(Self { stream, input: Input::default() })
    }

    pub(super) fn into_parts(self) -> (TcpStream, Input) {
        (self.stream, self.input)
    }

    /// Sends a question.
    pub(super) async fn send(&mut self, request: &Bytes) -> Result<(), String> {
        self.stream.write_all(request).await.map_err(|error| format!("cannot send: {error}"))
    }

    async fn read(&mut self) -> Result<(), String> {
        self.input.0.reserve(READ_BYTES);
        match self.stream.read_buf(&mut self.input.0).await {
            Ok(0) => Err("the connection ended in mid-answer".into()),
            Ok(_) => Ok(()),
            Err(error) => Err(format!("cannot read: {error}")),
        }
    }

    pub(super) async fn read_head(&mut self) -> Result<Framing, String> {
        loop {
            if let Some(framing) = self.input.take_head()? {
                return Ok(framing);
            }
            self.read().await?;
        }
    }

    /// The status of the next answer, whatever it is. Nothing more is read of it.
    pub(super) async fn read_status(&mut self) -> Result<u16, String> {
        loop {
            if let Some(line) =
                self.input.0[..].split(|byte| *byte == b'\n').next().filter(|line| line.ends_with(b"\r"))
            {
                let line = String::from_utf8_lossy(line);
                let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
                return status.ok_or_else(|| format!("no status: {line}"));
            }
            self.read().await?;
        }
    }

    /// Asks and waits for the whole answer.
    pub(super) async fn ask(&mut self, request: &Bytes, expected: &[u8]) -> Result<(), String> {
        self.send(request).await?;
        self.read_answer(expected).await
    }

    /// Reads a whole answer, which has to be this one.
    pub(super) async fn read_answer(&mut self, expected: &[u8]) -> Result<(), String> {
        let Framing::Counted(length) = self.read_head().await? else { return Err("an answer in chunks".into()) };
        while !self.input.take_answer(length, expected)? {
            self.read().await?;
        }
        Ok(())
    }

    /// Reads more of a chunked body to `body`; false at its end.
    pub(super) async fn read_chunks(&mut self, chunks: &mut Chunks, body: &mut Vec<u8>) -> Result<bool, String> {
        loop {
            let before = body.len();
            let ended = chunks.decode(&mut self.input.0, body)?;
            if ended || body.len() > before {
                return Ok(!ended);
            }
            self.read().await?;
        }
    }
}

/// A chunked body's decoder.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    /// What of a chunk is still to come, with its CR LF; `None` before a size.
    left: Option<usize>,
    is_last: bool,
}

impl Chunks {
    /// Moves what is there to `body`; true at the end.
    fn decode(&mut self, input: &mut BytesMut, body: &mut Vec<u8>) -> Result<bool, String> {
        loop {
            match self.left {
                None => {
                    let Some(end) = memchr::memchr(b'\n', input) else { return Ok(false) };
                    let line = std::str::from_utf8(&input[..end]).unwrap_or_default().trim_ascii_end();
                    let size = usize::from_str_radix(line, 16).map_err(|_| format!("a chunk of size {line:?}"))?;
                    input.advance(end + 1);
                    self.is_last = size == 0;
                    self.left = Some(size + 2);
                }
                Some(left) => {
                    let here = left.saturating_sub(2).min(input.len());
                    body.extend_from_slice(&input[..here]);
                    input.advance(here);
                    let left = left - here;
                    self.left = Some(left);
                    if left > 2 || input.len() < 2 {
                        return Ok(false);
                    }
                    if input[..2] != *b"\r\n" {
                        return Err("a chunk without its end".into());
                    }
                    input.advance(2);
                    self.left = None;
                    if self.is_last {
                        return if input.is_empty() { Ok(true) } else { Err("bytes behind the end".into()) };
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(wire: &[u8], cut: usize) -> Result<(bool, Vec<u8>), String> {
        let (mut chunks, mut input, mut body, mut ended) = (Chunks::default(), BytesMut::new(), Vec::new(), false);
        for piece in wire.chunks(cut) {
            assert!(!ended);
            input.extend_from_slice(piece);
            ended = chunks.decode(&mut input, &mut body)?;
        }
        Ok((ended, body))
    }

    #[test]
    fn chunks_however_they_are_cut() {
        let wire = b"3\r\nabc\r\n0a\r\n0123456789\r\n0\r\n\r\n";
        for cut in 1..=wire.len() {
            assert_eq!(decode(wire, cut).unwrap(), (true, b"abc0123456789".to_vec()), "cut {cut}");
        }
        assert!(!decode(&wire[..wire.len() - 1], 100).unwrap().0);
        assert!(decode(b"3\r\nabcd\r\n", 100).is_err());
        assert!(decode(b"x\r\n", 100).is_err());
    }

    #[test]
    fn answers_are_compared_to_the_last_byte() {
        let mut input = Input(BytesMut::from("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab"));
        assert_eq!(input.take_head(), Ok(Some(Framing::Counted(3))));
        assert_eq!(input.take_answer(3, b"abc"), Ok(false));
        input.0.extend_from_slice(b"c");
        assert_eq!(input.take_answer(3, b"abc"), Ok(true));
        assert!(Input(BytesMut::from("abd")).take_answer(3, b"abc").is_err());
        assert!(Input(BytesMut::from("HTTP/1.1 502 Bad\r\n\r\n")).take_head().is_err());
    }
}
