//! What upstream's frames do to a connection and its streams.

use super::super::answer::{Fields, Said};
use super::super::error::{Reason, Side, StreamError};
use super::super::frame::{self, FrameHead, MAX_PAYLOAD, flag, kind, setting};
use super::super::reader::{Reader, take};
use super::{Block, CONNECTION_WINDOW, MAX_HEAD_BYTES, MAX_STREAM, MAX_WINDOW, PING, Protocol};
use bytes::Buf;
use std::task::Waker;

/// A block of header fields in its coded form, in bytes. It is seldom longer than the fields.
const MAX_BLOCK_BYTES: usize = 2 * MAX_HEAD_BYTES;

impl Protocol {
    /// Reads on, at least a byte, at most a frame.
    pub(super) fn read(&mut self, input: &mut &[u8]) -> Result<(), Reason> {
        match &mut self.reader {
            Reader::Head { bytes, there } => {
                if let Some(head) = Reader::head(bytes, there, input) {
                    self.reader = Reader::default();
                    self.begin_frame(head, input)?;
                }
            }
            Reader::Payload { head, there } => {
                let head = *head;
                there.extend_from_slice(take(input, head.length - there.len()));
                if there.len() == head.length {
                    let payload = std::mem::take(there);
                    self.reader = Reader::default();
                    self.handle(head, &payload)?;
                }
            }
            Reader::PadLength(head) => {
                let head = *head;
                let padding = usize::from(input.first().copied().unwrap_or_default());
                *input = &input[1..];
                let left = (head.length - 1).checked_sub(padding).ok_or(Reason::PROTOCOL_ERROR)?;
                self.pass_over_padding(head.stream, padding + 1);
                self.begin_body(head, left, padding);
            }
            Reader::Body { stream, left, .. } => {
                let stream = *stream;
                let part = take(input, *left);
                *left -= part.len();
                self.pass_on(stream, part);
                self.end_of_body();
            }
            Reader::Skipped(left) => {
                *left -= take(input, *left).len();
                if *left == 0 {
                    self.reader = Reader::default();
                }
            }
        }
        Ok(())
    }

    fn begin_frame(&mut self, head: FrameHead, input: &mut &[u8]) -> Result<(), Reason> {
        if head.length > MAX_PAYLOAD {
            return Err(Reason::FRAME_SIZE_ERROR);
        }
        let goes_on = head.kind == kind::CONTINUATION;
        let is_expected = match &self.block {
            Some(block) => goes_on && block.stream == head.stream,
            None => !goes_on,
        };
        let is_settings = head.kind == kind::SETTINGS && !head.has(flag::ACK);
        if !is_expected || !(self.has_settings || is_settings) {
            return Err(Reason::PROTOCOL_ERROR);
        }
        match head.kind {
            kind::DATA => self.begin_data(head),
            kind::HEADERS..=kind::CONTINUATION => match input.split_at_checked(head.length) {
                Some((payload, rest)) => {
                    *input = rest;
                    self.handle(head, payload)
                }
                None => {
                    self.reader = Reader::Payload { head, there: take(input, usize::MAX).to_vec() };
                    Ok(())
                }
            },
            _ => {
                if head.length > 0 {
                    self.reader = Reader::Skipped(head.length);
                }
                Ok(())
            }
        }
    }

    fn begin_data(&mut self, head: FrameHead) -> Result<(), Reason> {
        let FrameHead { length, stream: id, .. } = head;
        self.is_known(id)?;
        let bytes = length as u32;
        self.receive_window = self.receive_window.checked_sub(bytes).ok_or(Reason::FLOW_CONTROL_ERROR)?;
        // A reader that stops holds its stream's window; the connection's is open to all others.
        self.untold += bytes;
        if self.untold >= CONNECTION_WINDOW / 2 {
            let more = std::mem::take(&mut self.untold);
            self.receive_window += more;
            self.say(kind::WINDOW_UPDATE, 0, 0, &more.to_be_bytes());
        }
        if let Some(stream) = self.streams.get_mut(&id).filter(|stream| stream.is_open()) {
            let fault = match stream.receive_window.checked_sub(bytes) {
                _ if !stream.has_head => Some(Reason::PROTOCOL_ERROR),
                None => Some(Reason::FLOW_CONTROL_ERROR),
                Some(left) => {
                    stream.receive_window = left;
                    None
                }
            };
            if let Some(fault) = fault {
                self.fail_stream(id, fault);
            }
        }
        if head.has(flag::PADDED) {
            if length == 0 {
                return Err(Reason::FRAME_SIZE_ERROR);
            }
            self.reader = Reader::PadLength(head);
            return Ok(());
        }
        self.begin_body(head, length, 0);
        Ok(())
    }

    /// Begins the part of a frame that is a body's. One that would be longer than announced is no part of it.
    fn begin_body(&mut self, head: FrameHead, left: usize, padding: usize) {
        let FrameHead { stream: id, .. } = head;
        self.reader = Reader::Body { stream: id, left, padding, ends: head.has(flag::END_STREAM) };
        if let Some(stream) = self.streams.get_mut(&id).filter(|stream| stream.is_open())
            && let Some(announced) = &mut stream.length_left
        {
            match announced.checked_sub(left as u64) {
                Some(less) => *announced = less,
                None => self.fail_stream(id, Reason::PROTOCOL_ERROR),
            }
        }
        self.end_of_body();
    }

    /// What padding takes of a stream's window is given back at once.
    fn pass_over_padding(&mut self, id: u32, bytes: usize) {
        if let Some(stream) = self.streams.get_mut(&id).filter(|stream| stream.is_open()) {
            stream.untold += bytes as u32;
            self.open_window(id);
        }
    }

    /// Passes a part of a body on.
    fn pass_on(&mut self, id: u32, part: &[u8]) {
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| stream.is_open()) else { return };
        stream.data.extend_from_slice(part);
        stream.wake();
    }

    /// Ends a frame of a body when all of it has come.
    fn end_of_body(&mut self) {
        let Reader::Body { stream, left: 0, padding, ends } = self.reader else { return };
        self.reader = if padding > 0 { Reader::Skipped(padding) } else { Reader::default() };
        if ends {
            self.end_answer(stream);
        }
    }

    fn end_answer(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| stream.is_open()) else { return };
        if stream.length_left.is_some_and(|left| left > 0) {
            return self.fail_stream(id, Reason::PROTOCOL_ERROR);
        }
        stream.has_ended = true;
        stream.wake();
    }

    /// Ends a stream for a fault of upstream's that is its alone.
    fn fail_stream(&mut self, id: u32, reason: Reason) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        // What has come whole stays whole.
        if !stream.has_ended {
            stream.error.get_or_insert(StreamError::Reset(Side::Gateway, reason));
        }
        stream.is_reset = true;
        stream.wake();
        self.reset(id, reason);
    }

    /// Whether a stream was ever opened.
    fn is_known(&self, id: u32) -> Result<(), Reason> {
        if id % 2 == 1 && id < self.next_id { Ok(()) } else { Err(Reason::PROTOCOL_ERROR) }
    }

    /// A whole frame of any kind but DATA.
    fn handle(&mut self, head: FrameHead, payload: &[u8]) -> Result<(), Reason> {
        match head.kind {
            kind::HEADERS => self.handle_headers(head, payload),
            kind::CONTINUATION => self.handle_continuation(head, payload),
            kind::RST_STREAM => self.handle_reset(head, payload),
            kind::SETTINGS => self.handle_settings(head, payload),
            kind::PING => self.handle_ping(head, payload),
            kind::GOAWAY => self.handle_farewell(head, payload),
            kind::WINDOW_UPDATE => self.handle_window(head, payload),
            // Not allowed by this side.
            kind::PUSH_PROMISE => Err(Reason::PROTOCOL_ERROR),
            kind::PRIORITY if head.stream == 0 => Err(Reason::PROTOCOL_ERROR),
            kind::PRIORITY if payload.len() != 5 => Err(Reason::FRAME_SIZE_ERROR),
            // Nobody heeds it any more (section 5.3.2).
            _ => Ok(()),
        }
    }

    fn handle_headers(&mut self, head: FrameHead, mut payload: &[u8]) -> Result<(), Reason> {
        self.is_known(head.stream)?;
        if head.has(flag::PADDED) {
            let (padding, rest) = payload.split_first().ok_or(Reason::FRAME_SIZE_ERROR)?;
            let length = rest.len().checked_sub((*padding).into()).ok_or(Reason::PROTOCOL_ERROR)?;
            payload = &rest[..length];
        }
        if head.has(flag::PRIORITY) {
            (_, payload) = payload.split_at_checked(5).ok_or(Reason::FRAME_SIZE_ERROR)?;
        }
        let ends = head.has(flag::END_STREAM);
        if head.has(flag::END_HEADERS) {
            return self.handle_block(head.stream, ends, payload);
        }
        self.block = Some(Block { stream: head.stream, ends, bytes: payload.to_vec() });
        Ok(())
    }

    fn handle_continuation(&mut self, head: FrameHead, payload: &[u8]) -> Result<(), Reason> {
        let Some(mut block) = self.block.take() else { return Err(Reason::PROTOCOL_ERROR) };
        if block.bytes.len() + payload.len() > MAX_BLOCK_BYTES {
            return Err(Reason::ENHANCE_YOUR_CALM);
        }
        block.bytes.extend_from_slice(payload);
        if head.has(flag::END_HEADERS) {
            return self.handle_block(block.stream, block.ends, &block.bytes);
        }
        self.block = Some(block);
        Ok(())
    }

    fn handle_block(&mut self, id: u32, ends: bool, block: &[u8]) -> Result<(), Reason> {
        let mut fields = Fields::default();
        // Whoever it is for, what both sides remember has to stay the same.
        self.decoder.decode(block, |name, value| fields.take(name, value)).map_err(|_| Reason::COMPRESSION_ERROR)?;
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| stream.is_open()) else { return Ok(()) };
        match fields.end() {
            Said::Interim if !stream.has_head && !ends && stream.interim_left > 0 => stream.interim_left -= 1,
            Said::Answer(head, length) if !stream.has_head => {
                // Who refuses may have read the request's head only.
                let has_read_all = stream.is_sent && head.status.is_success() && stream.ends_at <= self.left;
                let read = if has_read_all { stream.ends_at } else { stream.head_ends_at };
                self.read_up_to = self.read_up_to.max(read);
                stream.has_head = true;
                stream.head = Some(head);
                stream.length_left = length;
                stream.wake();
                if ends {
                    self.end_answer(id);
                }
            }
            Said::Trailers if stream.has_head && ends => self.end_answer(id),
            _ => self.fail_stream(id, Reason::PROTOCOL_ERROR),
        }
        Ok(())
    }

    fn handle_reset(&mut self, head: FrameHead, payload: &[u8]) -> Result<(), Reason> {
        self.is_known(head.stream)?;
        let reason = Reason(frame::number(payload.try_into().map_err(|_| Reason::FRAME_SIZE_ERROR)?));
        if let Some(stream) = self.streams.get_mut(&head.stream) {
            // Behind a whole answer it only says that the rest of the request is not wanted (section 8.1).
            if stream.is_open() {
                stream.error = Some(StreamError::Reset(Side::Upstream, reason));
            }
            stream.is_reset = true;
            stream.wake();
        }
        Ok(())
    }

    fn handle_settings(&mut self, head: FrameHead, mut payload: &[u8]) -> Result<(), Reason> {
        if head.stream != 0 {
            return Err(Reason::PROTOCOL_ERROR);
        }
        if head.has(flag::ACK) {
            return if payload.is_empty() { Ok(()) } else { Err(Reason::FRAME_SIZE_ERROR) };
        }
        if !payload.len().is_multiple_of(6) {
            return Err(Reason::FRAME_SIZE_ERROR);
        }
        while payload.has_remaining() {
            let (name, value) = (payload.get_u16(), payload.get_u32());
            match name {
                setting::HEADER_TABLE_SIZE => self.encoder.limit(value as usize),
                setting::ENABLE_PUSH if value != 0 => return Err(Reason::PROTOCOL_ERROR),
                setting::MAX_CONCURRENT_STREAMS => self.max_streams = value as usize,
                setting::INITIAL_WINDOW_SIZE => self.resize_windows(value.into())?,
                setting::MAX_FRAME_SIZE => {
                    self.max_payload = value as usize;
                    if !(MAX_PAYLOAD..1 << 24).contains(&self.max_payload) {
                        return Err(Reason::PROTOCOL_ERROR);
                    }
                }
                _ => {}
            }
        }
        self.has_settings = true;
        self.queue.drain(..).for_each(Waker::wake);
        self.say(kind::SETTINGS, flag::ACK, 0, &[]);
        Ok(())
    }

    /// What may be sent on all streams, those that are open included, changes by as much (section 6.9.2).
    fn resize_windows(&mut self, initial: i64) -> Result<(), Reason> {
        if initial > MAX_WINDOW {
            return Err(Reason::FLOW_CONTROL_ERROR);
        }
        let more = initial - self.initial_window;
        self.initial_window = initial;
        for stream in self.streams.values_mut() {
            stream.send_window += more;
            if stream.send_window > MAX_WINDOW {
                return Err(Reason::FLOW_CONTROL_ERROR);
            }
            stream.wake();
        }
        Ok(())
    }

    fn handle_ping(&mut self, head: FrameHead, payload: &[u8]) -> Result<(), Reason> {
        if head.stream != 0 {
            return Err(Reason::PROTOCOL_ERROR);
        }
        if payload.len() != PING.len() {
            return Err(Reason::FRAME_SIZE_ERROR);
        }
        if !head.has(flag::ACK) {
            self.say(kind::PING, flag::ACK, 0, payload);
        } else if payload == PING && self.is_pong_due {
            self.is_pong_due = false;
            self.read_up_to = self.read_up_to.max(self.ping_ends_at);
        }
        Ok(())
    }

    fn handle_farewell(&mut self, head: FrameHead, payload: &[u8]) -> Result<(), Reason> {
        if head.stream != 0 {
            return Err(Reason::PROTOCOL_ERROR);
        }
        let (last, rest) = payload.split_first_chunk().ok_or(Reason::FRAME_SIZE_ERROR)?;
        let (reason, _) = rest.split_first_chunk().ok_or(Reason::FRAME_SIZE_ERROR)?;
        let (last, reason) = (frame::number(*last) & MAX_STREAM, Reason(frame::number(*reason)));
        // A later one may take more back, not promise more.
        let last = self.farewell.map_or(last, |(earlier, _)| earlier.min(last));
        self.farewell = Some((last, reason));
        for (id, stream) in &mut self.streams {
            if *id > last && stream.is_open() {
                stream.error = Some(StreamError::Ended(Side::Upstream, reason));
                stream.is_reset = true;
                stream.wake();
            }
        }
        self.queue.drain(..).for_each(Waker::wake);
        Ok(())
    }

    fn handle_window(&mut self, head: FrameHead, payload: &[u8]) -> Result<(), Reason> {
        let more = frame::number(payload.try_into().map_err(|_| Reason::FRAME_SIZE_ERROR)?) & MAX_STREAM;
        if head.stream == 0 {
            self.send_window += i64::from(more);
            return match self.send_window {
                _ if more == 0 => Err(Reason::PROTOCOL_ERROR),
                ..=MAX_WINDOW => Ok(()),
                _ => Err(Reason::FLOW_CONTROL_ERROR),
            };
        }
        self.is_known(head.stream)?;
        let Some(stream) = self.streams.get_mut(&head.stream).filter(|stream| !stream.is_reset) else {
            return Ok(());
        };
        stream.send_window += i64::from(more);
        if more == 0 {
            self.fail_stream(head.stream, Reason::PROTOCOL_ERROR);
        } else if stream.send_window > MAX_WINDOW {
            self.fail_stream(head.stream, Reason::FLOW_CONTROL_ERROR);
        } else if !stream.is_sent {
            stream.wake();
        }
        Ok(())
    }
}
