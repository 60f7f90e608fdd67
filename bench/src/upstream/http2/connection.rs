//! One connection, without its socket: bytes that came go in, and what is to be sent gathers in a buffer.

mod sending;

use super::frame::{
    Code, HEAD_BYTES, Head, PAYLOAD_BYTES, PREFACE, WINDOW, flag, kind, number, set_length, setting, write_number,
};
use super::hpack::{Decoder, Encoder, Field};
use super::request::Request;
use super::stream::Stream;
use crate::payload::QuestionCheck;
use crate::upstream::StreamShape;
use crate::upstream::server::{Shared, add};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::Waker;

/// Streams on one connection: what Google documents.
const MAX_STREAMS: u32 = 100;
/// Google's front ends take a request body as it comes.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;
/// The largest head of a request, packed, in bytes.
const MAX_BLOCK_BYTES: usize = 64 * 1024;

pub(super) struct Connection {
    shared: Rc<Shared>,
    /// What came of a frame that is not whole.
    input: Vec<u8>,
    has_preface: bool,
    /// What is to be sent.
    pub(super) output: Vec<u8>,
    /// Whoever sends it; taken by the first one who adds to it.
    pub(super) sender: Option<Waker>,
    /// Streams of events that have yet to begin.
    pub(super) to_pace: Vec<(u32, StreamShape)>,
    decoder: Decoder,
    encoder: Encoder,
    /// A head whose last frame has not come.
    block: Vec<u8>,
    in_block: Option<Block>,
    /// In the order of their numbers.
    streams: VecDeque<Stream>,
    last_stream: u32,
    /// What the client takes: on the connection, on a new stream, in one frame.
    window: i64,
    stream_window: i64,
    frame_bytes: usize,
    /// Bytes of bodies that the client was given no credit for yet.
    owed: u32,
    /// The client asks nothing more.
    is_leaving: bool,
}

/// Whose head it is, and whether nothing comes behind it.
#[derive(Clone, Copy)]
struct Block {
    stream: u32,
    ends: bool,
}

impl Connection {
    pub(super) fn new(shared: Rc<Shared>) -> Self {
        let mut output = Vec::new();
        let settings = [(setting::MAX_CONCURRENT_STREAMS, MAX_STREAMS), (setting::INITIAL_WINDOW_SIZE, STREAM_WINDOW)];
        Head { length: settings.len() * 6, kind: kind::SETTINGS, flags: 0, stream: 0 }.write(&mut output);
        for (name, value) in settings {
            output.extend_from_slice(&name.to_be_bytes());
            output.extend_from_slice(&value.to_be_bytes());
        }
        write_number(kind::WINDOW_UPDATE, 0, CONNECTION_WINDOW - WINDOW, &mut output);
        Self {
            shared,
            input: Vec::new(),
            has_preface: false,
            output,
            sender: None,
            to_pace: Vec::new(),
            decoder: Decoder::new(),
            encoder: Encoder::new(),
            block: Vec::new(),
            in_block: None,
            streams: VecDeque::new(),
            last_stream: 0,
            window: WINDOW.into(),
            stream_window: WINDOW.into(),
            frame_bytes: PAYLOAD_BYTES,
            owed: 0,
            is_leaving: false,
        }
    }

    /// Whether the client has said that it asks nothing more, and all is answered.
    pub(super) fn is_over(&self) -> bool {
        self.is_leaving && self.streams.is_empty() && self.output.is_empty()
    }

    /// Forgets all streams, so that those who pace their events end.
    pub(super) fn end(&mut self) {
        self.streams.clear();
    }

    /// Takes what came, however it was cut.
    ///
    /// # Errors
    /// What no client may send. The connection ends with it, and says so.
    pub(super) fn receive(&mut self, piece: &[u8]) -> Result<(), Code> {
        let taken = if self.input.is_empty() {
            self.take(piece).map(|taken| self.input.extend_from_slice(&piece[taken..]))
        } else {
            let mut input = std::mem::take(&mut self.input);
            input.extend_from_slice(piece);
            let taken = self.take(&input);
            input.drain(..*taken.as_ref().unwrap_or(&0));
            self.input = input;
            taken.map(|_| ())
        };
        if let Err(code) = taken {
            Head { length: 8, kind: kind::GOAWAY, flags: 0, stream: 0 }.write(&mut self.output);
            self.output.extend_from_slice(&self.last_stream.to_be_bytes());
            self.output.extend_from_slice(&(code as u32).to_be_bytes());
        }
        taken
    }

    /// Takes all whole frames off the front, and says how many bytes they were.
    fn take(&mut self, input: &[u8]) -> Result<usize, Code> {
        let mut at = 0;
        if !self.has_preface {
            if !input.starts_with(PREFACE) {
                return if PREFACE.starts_with(input) { Ok(0) } else { Err(Code::Protocol) };
            }
            (at, self.has_preface) = (PREFACE.len(), true);
        }
        while let Some(head) = Head::read(&input[at..]) {
            if head.length > PAYLOAD_BYTES {
                return Err(Code::FrameSize);
            }
            let payload = at + HEAD_BYTES..at + HEAD_BYTES + head.length;
            at = payload.end;
            let Some(payload) = input.get(payload) else { return Ok(at - HEAD_BYTES - head.length) };
            self.frame(head, payload)?;
        }
        Ok(at)
    }

    fn frame(&mut self, head: Head, payload: &[u8]) -> Result<(), Code> {
        let goes_on = |block: Block| head.kind == kind::CONTINUATION && head.stream == block.stream;
        if !self.in_block.is_none_or(goes_on) {
            return Err(Code::Protocol);
        }
        let is_of_stream = match head.kind {
            kind::DATA | kind::HEADERS | kind::PRIORITY | kind::RST_STREAM | kind::CONTINUATION => true,
            kind::SETTINGS | kind::PING | kind::GOAWAY => false,
            _ => head.stream > 0,
        };
        if is_of_stream != (head.stream > 0) {
            return Err(Code::Protocol);
        }
        match head.kind {
            kind::DATA => self.data(head, payload),
            kind::HEADERS => {
                let fragment = head.content(payload)?;
                self.in_block = Some(Block { stream: head.stream, ends: head.has(flag::END_STREAM) });
                self.block(head, fragment)
            }
            kind::CONTINUATION => self.block(head, payload),
            kind::PRIORITY if payload.len() != 5 => Err(Code::FrameSize),
            kind::RST_STREAM => {
                number(payload)?;
                if let Some(at) = self.find(head.stream)? {
                    self.streams.remove(at);
                }
                Ok(())
            }
            kind::SETTINGS => self.settings(head, payload),
            kind::PUSH_PROMISE => Err(Code::Protocol),
            kind::PING => {
                if payload.len() != 8 {
                    return Err(Code::FrameSize);
                }
                if !head.has(flag::ACK) {
                    Head { flags: flag::ACK, ..head }.write(&mut self.output);
                    self.output.extend_from_slice(payload);
                }
                Ok(())
            }
            kind::GOAWAY => {
                self.is_leaving = true;
                Ok(())
            }
            kind::WINDOW_UPDATE => self.window_update(head, payload),
            // PRIORITY, and what later specifications may bring.
            _ => Ok(()),
        }
    }

    /// The place of an open stream; `None` for one that is over.
    fn find(&self, id: u32) -> Result<Option<usize>, Code> {
        if id > self.last_stream {
            return Err(Code::Protocol);
        }
        Ok(self.streams.binary_search_by_key(&id, |stream| stream.id).ok())
    }

    fn data(&mut self, head: Head, payload: &[u8]) -> Result<(), Code> {
        // Padding counts, and so does what comes for a stream that is over. Half a window is given back at once, so that
        // no frame can be larger than what is left of it.
        let length = head.length as u32;
        self.owed += length;
        if self.owed >= CONNECTION_WINDOW / 2 {
            write_number(kind::WINDOW_UPDATE, 0, self.owed, &mut self.output);
            self.owed = 0;
        }
        let content = head.content(payload)?;
        let Some(at) = self.find(head.stream)? else { return Ok(()) };
        let stream = &mut self.streams[at];
        if stream.is_asked {
            return Err(Code::StreamClosed);
        }
        stream.push(content);
        add(&self.shared.counts.body_bytes, content.len() as u64);
        stream.owed += length;
        if head.has(flag::END_STREAM) {
            self.asked(at);
        } else if stream.owed >= STREAM_WINDOW / 2 {
            write_number(kind::WINDOW_UPDATE, head.stream, stream.owed, &mut self.output);
            stream.owed = 0;
        }
        Ok(())
    }

    /// Takes a piece of a head. Most are of one piece, and are read where they stand.
    fn block(&mut self, head: Head, fragment: &[u8]) -> Result<(), Code> {
        let Some(block) = self.in_block else { return Err(Code::Protocol) };
        if !head.has(flag::END_HEADERS) {
            self.block.extend_from_slice(fragment);
            return if self.block.len() > MAX_BLOCK_BYTES { Err(Code::Protocol) } else { Ok(()) };
        }
        self.in_block = None;
        let mut request = Request::default();
        if self.block.is_empty() {
            self.decoder.decode(fragment, |name, value| request.show(name, value))
        } else {
            self.block.extend_from_slice(fragment);
            self.decoder.decode(&self.block, |name, value| request.show(name, value))
        }
        .map_err(|_| Code::Compression)?;
        self.block.clear();
        self.begin(block, request)
    }

    /// Begins with a request whose head is whole.
    fn begin(&mut self, block: Block, request: Request) -> Result<(), Code> {
        // Nobody sends trailers here, so that what is on an old stream is wrong.
        if block.stream <= self.last_stream || block.stream.is_multiple_of(2) {
            return Err(Code::Protocol);
        }
        self.last_stream = block.stream;
        if self.streams.len() >= MAX_STREAMS as usize {
            // It may not have heard yet how many it may have.
            write_number(kind::RST_STREAM, block.stream, Code::RefusedStream as u32, &mut self.output);
            return Ok(());
        }
        let tail = self.shared.shape.borrow().tail.clone();
        let check = QuestionCheck::new(request.form, tail);
        self.streams.push_back(Stream::new(block.stream, request, check, self.stream_window));
        if block.ends {
            self.asked(self.streams.len() - 1);
        }
        Ok(())
    }

    /// Judges and answers a request that is whole.
    fn asked(&mut self, at: usize) {
        let stream = &mut self.streams[at];
        stream.is_asked = true;
        self.shared.judge(stream.is_right());
        let (id, shape) = (stream.id, self.shared.shape.borrow().stream);
        if let Some(shape) = shape {
            self.to_pace.push((id, shape));
            return;
        }
        let answer = self.shared.answer.clone();
        self.head(id, Field::JSON, Some(answer.len()));
        self.send_at(at, &answer, true);
    }

    /// Begins a stream of events.
    pub(super) fn begin_events(&mut self, id: u32) {
        if self.streams.binary_search_by_key(&id, |stream| stream.id).is_ok() {
            self.head(id, Field::EVENTS, None);
        }
    }

    fn head(&mut self, stream: u32, content: Field, length: Option<usize>) {
        let begin = self.output.len();
        Head { length: 0, kind: kind::HEADERS, flags: flag::END_HEADERS, stream }.write(&mut self.output);
        self.encoder.head(&[Field::VARY, Field::SERVER, content], length, &mut self.output);
        let length = self.output.len() - begin - HEAD_BYTES;
        set_length(&mut self.output[begin..], length);
    }
}

#[cfg(test)]
mod tests;
