//! The client's side of an HTTP/2 connection (RFC 9113), without its input and output: what upstream sends goes in, what
//! is to be sent comes out, and requests put themselves on it and fetch their answers.

mod frames;
mod requests;
#[cfg(test)]
mod tests;

use super::error::{Reason, Side, StreamError};
use super::frame::{self, MAX_PAYLOAD, kind, setting};
use super::reader::Reader;
use super::stream::Stream;
use super::{CONNECTION_WINDOW, MAX_HEAD_BYTES, STREAM_WINDOW};
use crate::hpack::{Decoder, Encoder};
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::task::{Context, Poll, Waker};

/// The window that both sides begin with, and the largest that there can be, in bytes (RFC 9113, section 6.9).
const INITIAL_WINDOW: u32 = 65_535;
const MAX_WINDOW: i64 = (1 << 31) - 1;
/// The last stream that a connection can have.
const MAX_STREAM: u32 = (1 << 31) - 1;
/// What may wait to be sent where it has bodies, in bytes: as much as the stream below takes at once. A byte more would be
/// a TLS record and a system call of its own.
const GATHERED_BYTES: usize = super::TAKEN_BYTES;
/// Of those that wait for room so many get on at once.
const TURNS: usize = 4;
/// With more than this to be sent a connection is given no further requests, in bytes.
const MAX_WAITING_BYTES: usize = 2 * GATHERED_BYTES;
/// What stays allocated where no body waits for its turn, in bytes.
const KEPT_BYTES: usize = 16 * 1024;
/// Upstream that takes nothing is not listened to once it is owed so many bytes of answers to its PINGs and the like.
const MAX_OWED_BYTES: usize = 64 * 1024;
/// What the one PING that may be on its way says.
const PING: [u8; 8] = *b"ai-proxy";

/// A connection.
pub struct Protocol {
    reader: Reader,
    decoder: Decoder,
    encoder: Encoder,
    /// A block of header fields that goes on in the next frame.
    block: Option<Block>,
    /// What upstream allows; nothing before it has said so.
    has_settings: bool,
    max_streams: usize,
    initial_window: i64,
    max_payload: usize,
    /// How much may be sent on all streams together, in bytes.
    send_window: i64,
    /// How much upstream may send on all streams together, and how much that came it has not been told of.
    receive_window: u32,
    untold: u32,
    streams: HashMap<u32, Stream, BuildHasherDefault<IdHasher>>,
    next_id: u32,
    /// Those that wait for room on the connection, in their order.
    blocked: VecDeque<u32>,
    /// Those that wait until upstream allows another stream.
    queue: Vec<Waker>,
    /// To be sent.
    output: Vec<u8>,
    /// What of it upstream has asked for by its frames, in bytes.
    owed: usize,
    /// All that has been taken out of `output`, how much of that may have left this process, and how much upstream has
    /// shown to have read, in bytes.
    taken: u64,
    left: u64,
    read_up_to: u64,
    /// The last stream that upstream will process, and why.
    farewell: Option<(u32, Reason)>,
    ended: Option<StreamError>,
    is_pong_due: bool,
    /// Where the last PING ends in all that is sent.
    ping_ends_at: u64,
    /// The connection's task.
    task: Option<Waker>,
}

struct Block {
    stream: u32,
    ends: bool,
    bytes: Vec<u8>,
}

/// Stream numbers are upstream's only as far as this side has given them out: no hash of them has to withstand anybody.
#[derive(Debug, Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        // The upper half depends on all bits of the number.
        self.0.rotate_left(32)
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u32((*byte).into()));
    }

    fn write_u32(&mut self, number: u32) {
        self.0 = (self.0 ^ u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// What is to be sent has bearers and prompts in it.
impl fmt::Debug for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { streams, output, farewell, ended, .. } = self;
        write!(f, "Protocol({} streams, {} bytes to send, {farewell:?}, {ended:?})", streams.len(), output.len())
    }
}

impl Default for Protocol {
    /// Has what a client says first in its output.
    fn default() -> Self {
        let mut output = frame::PREFACE.to_vec();
        let settings = [
            (setting::ENABLE_PUSH, 0),
            (setting::INITIAL_WINDOW_SIZE, STREAM_WINDOW),
            (setting::MAX_HEADER_LIST_SIZE, MAX_HEAD_BYTES as u32),
        ];
        let settings = settings.map(|(name, value)| [&name.to_be_bytes()[..], &value.to_be_bytes()].concat());
        frame::append(&mut output, kind::SETTINGS, 0, 0, &settings.concat());
        let more = CONNECTION_WINDOW - INITIAL_WINDOW;
        frame::append(&mut output, kind::WINDOW_UPDATE, 0, 0, &more.to_be_bytes());
        Self {
            reader: Reader::default(),
            decoder: Decoder::default(),
            encoder: Encoder::default(),
            block: None,
            has_settings: false,
            max_streams: usize::MAX,
            initial_window: INITIAL_WINDOW.into(),
            max_payload: MAX_PAYLOAD,
            send_window: INITIAL_WINDOW.into(),
            receive_window: CONNECTION_WINDOW,
            untold: 0,
            streams: HashMap::default(),
            next_id: 1,
            blocked: VecDeque::new(),
            queue: Vec::new(),
            output,
            owed: 0,
            taken: 0,
            left: 0,
            read_up_to: 0,
            farewell: None,
            ended: None,
            is_pong_due: false,
            ping_ends_at: 0,
            task: None,
        }
    }
}

impl Protocol {
    /// How many streams there may be: as many as upstream allows, and none before it has said so, or while it does not
    /// take what there is for it.
    pub(super) fn allowed(&self) -> usize {
        if self.has_settings && self.output.len() <= MAX_WAITING_BYTES { self.max_streams } else { 0 }
    }

    /// Waits until upstream allows a stream, and says how many it allows.
    ///
    /// # Errors
    /// When the connection ends before.
    pub(super) fn poll_settled(&mut self, cx: &Context<'_>) -> Poll<Result<usize, StreamError>> {
        match (&self.ended, self.allowed()) {
            (Some(error), _) => Poll::Ready(Err(error.clone())),
            (None, 0) => {
                self.wait_for_a_place(cx);
                Poll::Pending
            }
            (None, allowed) => Poll::Ready(Ok(allowed)),
        }
    }

    fn wait_for_a_place(&mut self, cx: &Context<'_>) {
        if !self.queue.iter().any(|waker| waker.will_wake(cx.waker())) {
            self.queue.push(cx.waker().clone());
        }
    }

    /// Whether requests can be put on it.
    #[must_use]
    pub fn takes_requests(&self) -> bool {
        self.ended.is_none() && self.farewell.is_none() && self.next_id <= MAX_STREAM
    }

    /// Whether all is said: no stream is open, and there will be none.
    pub(super) fn is_done(&self, is_needed: bool) -> bool {
        self.ended.is_some() || (self.streams.is_empty() && !(is_needed && self.takes_requests()))
    }

    /// Notes who is woken when there is something to be sent.
    pub(super) fn wait(&mut self, cx: &Context<'_>) {
        match &mut self.task {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
    }

    pub(super) fn wake_task(&self) {
        if let Some(task) = &self.task {
            task.wake_by_ref();
        }
    }

    /// Forgets what a rush has left behind.
    pub(super) fn rest(&mut self) {
        if self.streams.is_empty() {
            self.streams.shrink_to_fit();
            self.output.shrink_to_fit();
            self.blocked.shrink_to_fit();
        }
    }

    /// Takes in what upstream sent. What is wrong with it ends the connection.
    pub fn receive(&mut self, mut input: &[u8]) {
        while !input.is_empty() && self.ended.is_none() {
            if let Err(reason) = self.read(&mut input) {
                self.fail(reason);
            }
        }
    }

    /// Ends the connection for a fault of upstream's.
    fn fail(&mut self, reason: Reason) {
        // Requests of which nothing has left may be sent elsewhere now, and must not go out here too.
        self.output.clear();
        self.leave(reason);
        self.end(&StreamError::Ended(Side::Gateway, reason));
    }

    /// Tells upstream that the connection is of no more use.
    pub(super) fn leave(&mut self, reason: Reason) {
        if self.ended.is_none() {
            let last_processed = [0; 4];
            self.say(kind::GOAWAY, 0, 0, &[last_processed, reason.0.to_be_bytes()].concat());
        }
    }

    /// Notes that the connection has ended. Answers that have come whole can still be fetched.
    pub(super) fn end(&mut self, error: &StreamError) {
        if self.ended.is_none() {
            self.ended = Some(error.clone());
            for stream in self.streams.values_mut() {
                if !stream.has_ended {
                    stream.error.get_or_insert_with(|| error.clone());
                }
                stream.wake();
            }
            self.queue.drain(..).for_each(Waker::wake);
        }
        self.wake_task();
    }

    /// Whether upstream, which takes nothing, is owed so much that it is not listened to.
    pub(super) fn owes_too_much(&self) -> bool {
        self.owed > MAX_OWED_BYTES
    }

    /// Puts what is to be sent in the place of what was, whose memory is kept while bodies go on.
    pub fn take_output(&mut self, sent: &mut Vec<u8>) {
        self.taken += self.output.len() as u64;
        self.owed = 0;
        sent.clear();
        std::mem::swap(sent, &mut self.output);
        if self.blocked.is_empty() {
            for empty in [sent, &mut self.output] {
                if empty.is_empty() && empty.capacity() > KEPT_BYTES {
                    *empty = Vec::new();
                }
            }
        }
    }

    /// Whether the connection has ended.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.is_some()
    }

    /// Notes that so many bytes of all that was taken out may have left.
    pub(super) fn note_left(&mut self, left: u64) {
        // In the end nothing goes out but a last word, which is no part of any request.
        if self.ended.is_none() {
            self.left = left;
        }
    }

    /// How many bytes of all that was taken out upstream has shown to have read: it answers what stands behind them.
    pub(super) fn read_up_to(&self) -> u64 {
        self.read_up_to
    }

    /// How much of what has left may be in the way of a PING's answer: what stands behind it is not.
    pub(super) fn in_front_of_ping(&self) -> u64 {
        if self.is_pong_due { self.left.min(self.ping_ends_at) } else { self.left }
    }

    /// Where the next byte will stand in all that is sent.
    fn place(&self) -> u64 {
        self.taken + self.output.len() as u64
    }

    /// Lets the first of those who wait for room have their turn, and says whether there is some for the next ones, who
    /// are to have theirs whether the first ones come or not.
    pub(super) fn note_sent(&mut self) -> bool {
        for _ in 0..TURNS {
            if !self.has_room() {
                return false;
            }
            let Some(id) = self.blocked.pop_front() else { return false };
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.is_blocked = false;
                stream.wake();
            }
        }
        self.has_room() && !self.blocked.is_empty()
    }

    fn has_room(&self) -> bool {
        self.send_window > 0 && self.output.len() + frame::HEAD_BYTES < GATHERED_BYTES
    }

    /// Asks upstream whether it is there.
    pub(super) fn ping(&mut self) {
        self.is_pong_due = true;
        self.say(kind::PING, 0, 0, &PING);
        self.ping_ends_at = self.place();
        self.wake_task();
    }

    /// Whether it has not answered yet.
    pub(super) fn is_pong_due(&self) -> bool {
        self.is_pong_due
    }

    fn reset(&mut self, id: u32, reason: Reason) {
        self.say(kind::RST_STREAM, 0, id, &reason.0.to_be_bytes());
        self.wake_task();
    }

    /// Sends a frame that is not part of a request.
    fn say(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        frame::append(&mut self.output, kind, flags, stream, payload);
        self.owed += frame::HEAD_BYTES + payload.len();
    }

    /// Lets upstream send as much again as has been fetched of a stream, when that is worth a frame.
    fn open_window(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| stream.is_open()) else { return };
        if stream.untold >= STREAM_WINDOW / 2 {
            let more = std::mem::take(&mut stream.untold);
            stream.receive_window += more;
            self.say(kind::WINDOW_UPDATE, 0, id, &more.to_be_bytes());
            self.wake_task();
        }
    }
}
