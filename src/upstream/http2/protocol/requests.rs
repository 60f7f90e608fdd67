//! What requests do on a connection.

use super::super::super::head::AnswerHead;
use super::super::error::{Reason, SendError, Side, StreamError};
use super::super::frame::{self, FrameHead, flag, kind};
use super::super::stream::Stream;
use super::{GATHERED_BYTES, MAX_STREAM, Protocol, STREAM_WINDOW, TURNS};
use crate::hpack::Encoder;
use bytes::Bytes;
use std::task::{Context, Poll, Waker};

/// A body of this size goes out with its head, whoever else is sending, in bytes.
const SMALL_BODY_BYTES: usize = 16 * 1024;
/// A frame of a larger one with its head is what a TLS record takes, in bytes.
const PART_BYTES: usize = 16 * 1024 - frame::HEAD_BYTES;
impl Protocol {
    /// Opens a stream with the head of a request, and says its number. Waits where upstream allows fewer streams than it
    /// did a moment ago.
    ///
    /// # Errors
    /// When it takes no requests.
    pub fn poll_open(
        &mut self,
        cx: &Context<'_>,
        head: impl FnOnce(&mut Encoder, &mut Vec<u8>),
        has_body: bool,
    ) -> Poll<Result<u32, StreamError>> {
        if let Some(error) = &self.ended {
            return Poll::Ready(Err(error.clone()));
        }
        if let Some((_, reason)) = self.farewell {
            return Poll::Ready(Err(StreamError::Ended(Side::Upstream, reason)));
        }
        if self.next_id > MAX_STREAM {
            return Poll::Ready(Err(StreamError::Unusable));
        }
        if self.streams.len() >= self.max_streams {
            self.wait_for_a_place(cx);
            return Poll::Pending;
        }
        let id = self.next_id;
        self.next_id += 2;
        let (begin, begins_at) = (self.output.len(), self.place());
        self.output.extend_from_slice(&[0; frame::HEAD_BYTES]);
        self.encoder.begin(&mut self.output);
        head(&mut self.encoder, &mut self.output);
        self.frame_block(begin, id, has_body);
        let mut stream = Stream::new(self.initial_window);
        stream.is_sent = !has_body;
        stream.begins_at = (!has_body).then_some(begins_at);
        stream.head_ends_at = self.place();
        stream.ends_at = stream.head_ends_at;
        self.streams.insert(id, stream);
        self.wake_task();
        Poll::Ready(Ok(id))
    }

    /// Makes frames of the block that stands in the output behind room for the first one's head.
    fn frame_block(&mut self, begin: usize, stream: u32, has_body: bool) {
        let end_stream = if has_body { 0 } else { flag::END_STREAM };
        let length = self.output.len() - begin - frame::HEAD_BYTES;
        if length <= self.max_payload {
            let head = FrameHead { length, kind: kind::HEADERS, flags: flag::END_HEADERS | end_stream, stream };
            self.output[begin..begin + frame::HEAD_BYTES].copy_from_slice(&head.to_bytes());
            return;
        }
        let block = self.output.split_off(begin + frame::HEAD_BYTES);
        self.output.truncate(begin);
        let mut parts = block.chunks(self.max_payload).peekable();
        let mut next = (kind::HEADERS, end_stream);
        while let Some(part) = parts.next() {
            let last = if parts.peek().is_none() { flag::END_HEADERS } else { 0 };
            frame::append(&mut self.output, next.0, next.1 | last, stream, part);
            next = (kind::CONTINUATION, 0);
        }
    }

    /// Sends as much of a request's body as there is room for; `pieces` stand in the reverse order of sending, none of
    /// them empty. Whoever asks for the stream's answer next is woken when there is more room.
    pub fn send(&mut self, id: u32, pieces: &mut Vec<Bytes>) {
        let left: usize = pieces.iter().map(Bytes::len).sum();
        let is_large = left > PART_BYTES;
        let mut turn = GATHERED_BYTES / if is_large { self.uploads() } else { 1 };
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let has_begun = stream.begins_at.is_some();
        let mut has_sent = false;
        while let Some(piece) = pieces.last_mut() {
            if stream.is_reset || stream.is_blocked || self.ended.is_some() {
                return;
            }
            if stream.send_window <= 0 {
                break;
            }
            let is_small = !has_begun && !has_sent && piece.len() <= SMALL_BODY_BYTES;
            let room = if is_small {
                piece.len()
            } else {
                let gathered = self.output.len() + frame::HEAD_BYTES;
                turn.min(GATHERED_BYTES.saturating_sub(gathered)).min(PART_BYTES)
            };
            let window = stream.send_window.min(self.send_window).max(0);
            let count = piece.len().min(room).min(self.max_payload).min(usize::try_from(window).unwrap_or(usize::MAX));
            if count == 0 {
                stream.is_blocked = true;
                self.blocked.push_back(id);
                break;
            }
            if is_large && !has_sent {
                // Or else it would grow by and by, and be copied each time.
                self.output.reserve(GATHERED_BYTES.min(left + left / 64).saturating_sub(self.output.len()));
            }
            let part = piece.split_to(count);
            if piece.is_empty() {
                pieces.pop();
            }
            let is_last = pieces.is_empty();
            stream.begins_at.get_or_insert(self.taken + self.output.len() as u64);
            stream.send_window -= count as i64;
            stream.is_sent = is_last;
            self.send_window -= count as i64;
            turn = turn.saturating_sub(frame::HEAD_BYTES + count);
            has_sent = true;
            let flags = if is_last { flag::END_STREAM } else { 0 };
            frame::append(&mut self.output, kind::DATA, flags, id, &part);
            stream.ends_at = self.taken + self.output.len() as u64;
        }
        if has_sent {
            self.wake_task();
        }
    }

    /// How many requests have something to send and may, up to as many as get on at once.
    fn uploads(&self) -> usize {
        let uploads = self.streams.values().filter(|it| !it.is_sent && !it.is_reset && it.send_window > 0);
        uploads.take(TURNS).count().max(1)
    }

    /// The head of an answer.
    ///
    /// # Errors
    /// When there is none to be had.
    pub fn poll_head(&mut self, id: u32, cx: &Context<'_>) -> Poll<Result<AnswerHead, SendError>> {
        let Some(stream) = self.streams.get_mut(&id) else {
            return Poll::Ready(Err(SendError::Broke(StreamError::Unusable)));
        };
        if let Some(head) = stream.head.take() {
            return Poll::Ready(Ok(head));
        }
        let Some(error) = stream.error.clone() else {
            stream.wait(cx);
            return Poll::Pending;
        };
        let (left, last) = (self.left, self.farewell.map(|(last, _)| last));
        let is_untouched = stream.begins_at.is_none_or(|begin| left <= begin);
        Poll::Ready(Err(match error {
            StreamError::Reset(Side::Upstream, Reason::REFUSED_STREAM) => SendError::Refused(error),
            StreamError::Reset(..) => SendError::Broke(error),
            _ if is_untouched || last.is_some_and(|last| id > last) => SendError::LeftBehind(error),
            _ => SendError::Broke(error),
        }))
    }

    /// The next piece of an answer's body, and whether there is no more at the moment.
    pub fn poll_data(&mut self, id: u32, cx: &Context<'_>) -> Poll<(Option<Result<Bytes, StreamError>>, bool)> {
        let Some(stream) = self.streams.get_mut(&id) else { return Poll::Ready((None, false)) };
        stream.untold += std::mem::take(&mut stream.fetched);
        if stream.untold >= STREAM_WINDOW / 2 {
            self.open_window(id);
        }
        let Some(stream) = self.streams.get_mut(&id) else { return Poll::Ready((None, false)) };
        if !stream.data.is_empty() {
            let data = std::mem::take(&mut stream.data).freeze();
            // It is never more than the window.
            stream.fetched = data.len() as u32;
            return Poll::Ready((Some(Ok(data)), stream.is_open()));
        }
        if let Some(error) = &stream.error {
            return Poll::Ready((Some(Err(error.clone())), false));
        }
        if stream.has_ended {
            return Poll::Ready((None, false));
        }
        stream.wait(cx);
        Poll::Pending
    }

    /// Forgets a stream. Upstream is told if it is not done with it, or has not taken all of the request.
    pub fn close(&mut self, id: u32) {
        let Some(stream) = self.streams.remove(&id) else { return };
        if stream.is_blocked {
            self.blocked.retain(|blocked| *blocked != id);
        }
        if self.ended.is_none() && !stream.is_reset && !(stream.has_ended && stream.is_sent) {
            self.reset(id, Reason::CANCEL);
        }
        if self.streams.len() < self.max_streams {
            self.queue.drain(..).for_each(Waker::wake);
        }
        if self.streams.is_empty() {
            // It may have been the last that the connection was needed for.
            self.wake_task();
        }
    }
}
