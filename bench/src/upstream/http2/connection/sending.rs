//! What goes out on streams, as far as the client's windows let it through, and what the client says of these.

use super::Connection;
use crate::upstream::http2::frame::{Code, Head, MAX_WINDOW, PAYLOAD_BYTES, flag, kind, number, setting};

impl Connection {
    /// Sends this on a stream, and what the windows do not let through later; false where the stream is over.
    pub(in super::super) fn send(&mut self, id: u32, data: &[u8], is_last: bool) -> bool {
        let Ok(at) = self.streams.binary_search_by_key(&id, |stream| stream.id) else { return false };
        self.send_at(at, data, is_last);
        if let Some(sender) = self.sender.take() {
            sender.wake();
        }
        true
    }

    /// The same at a stream's place; `data` is not empty.
    pub(super) fn send_at(&mut self, at: usize, data: &[u8], is_last: bool) {
        let stream = &mut self.streams[at];
        stream.is_last = is_last;
        if !stream.unsent.is_empty() {
            stream.unsent.extend_from_slice(data);
            return;
        }
        let sent = self.write(at, data);
        match self.streams.get_mut(at) {
            Some(stream) if sent < data.len() => stream.unsent.extend_from_slice(&data[sent..]),
            _ if is_last => drop(self.streams.remove(at)),
            _ => {}
        }
    }

    /// Appends as much of this as the windows let through, and says how many bytes that was.
    fn write(&mut self, at: usize, data: &[u8]) -> usize {
        let stream = &mut self.streams[at];
        let mut left = data;
        while !left.is_empty() {
            let window = usize::try_from(self.window.min(stream.window)).unwrap_or(0);
            let (piece, rest) = left.split_at(left.len().min(window).min(self.frame_bytes));
            if piece.is_empty() {
                break;
            }
            let flags = if stream.is_last && rest.is_empty() { flag::END_STREAM } else { 0 };
            Head { length: piece.len(), kind: kind::DATA, flags, stream: stream.id }.write(&mut self.output);
            self.output.extend_from_slice(piece);
            self.window -= piece.len() as i64;
            stream.window -= piece.len() as i64;
            left = rest;
        }
        data.len() - left.len()
    }

    /// Sends what waited for a window; whether the stream is over with it.
    fn resume(&mut self, at: usize) -> bool {
        let mut unsent = std::mem::take(&mut self.streams[at].unsent);
        if unsent.is_empty() {
            return false;
        }
        unsent.drain(..self.write(at, &unsent));
        let is_over = unsent.is_empty() && self.streams[at].is_last;
        if is_over {
            self.streams.remove(at);
        } else {
            self.streams[at].unsent = unsent;
        }
        is_over
    }

    fn resume_all(&mut self) {
        let mut at = 0;
        while at < self.streams.len() {
            at += usize::from(!self.resume(at));
        }
    }

    pub(super) fn window_update(&mut self, head: Head, payload: &[u8]) -> Result<(), Code> {
        let more = number(payload)?;
        if more == 0 {
            return Err(Code::Protocol);
        }
        if head.stream == 0 {
            let was_shut = self.window <= 0;
            grow(&mut self.window, more.into())?;
            if was_shut {
                self.resume_all();
            }
        } else if let Some(at) = self.find(head.stream)? {
            grow(&mut self.streams[at].window, more.into())?;
            self.resume(at);
        }
        Ok(())
    }

    pub(super) fn settings(&mut self, head: Head, payload: &[u8]) -> Result<(), Code> {
        if head.has(flag::ACK) {
            return if payload.is_empty() { Ok(()) } else { Err(Code::FrameSize) };
        }
        let (settings, []) = payload.as_chunks::<6>() else { return Err(Code::FrameSize) };
        for &[n0, n1, v0, v1, v2, v3] in settings {
            let value = u32::from_be_bytes([v0, v1, v2, v3]);
            match u16::from_be_bytes([n0, n1]) {
                setting::HEADER_TABLE_SIZE => self.encoder.limit(value as usize),
                setting::INITIAL_WINDOW_SIZE => {
                    let more = i64::from(value) - self.stream_window;
                    grow(&mut self.stream_window, more)?;
                    for stream in &mut self.streams {
                        grow(&mut stream.window, more)?;
                    }
                }
                setting::MAX_FRAME_SIZE => {
                    if !(PAYLOAD_BYTES..1 << 24).contains(&(value as usize)) {
                        return Err(Code::Protocol);
                    }
                    self.frame_bytes = value as usize;
                }
                _ => {}
            }
        }
        Head { length: 0, kind: kind::SETTINGS, flags: flag::ACK, stream: 0 }.write(&mut self.output);
        self.resume_all();
        Ok(())
    }
}

fn grow(window: &mut i64, more: i64) -> Result<(), Code> {
    *window += more;
    if *window > MAX_WINDOW { Err(Code::FlowControl) } else { Ok(()) }
}
