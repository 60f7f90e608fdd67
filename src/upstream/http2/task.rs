//! A connection's task: moves bytes between the stream below and [`Protocol`].
//!
//! Requests are woken by what it reads, and it is woken by what they have to send, behind all others that have something to
//! do in the same turn. So what many have to say leaves in one TLS record, by one system call.

use super::super::watched::Progress;
use super::Shared;
use super::backlog::{Backlog, Reach};
use super::error::{Reason, StreamError};
use super::protocol::Protocol;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncBufRead, AsyncWrite, AsyncWriteExt};
use tokio::task::coop::has_budget_remaining;
use tokio::time::{Instant, Sleep, sleep, timeout};

/// What is read before others have their turn, in bytes.
const TURN_BYTES: usize = 128 * 1024;
/// A verdict that is so late has been made by somebody who was stopped: a process, a container, a machine that slept.
const LATE: Duration = Duration::from_millis(500);

/// Works a connection until nobody needs it any more, or it has ended.
pub(super) async fn drive<T>(stream: T, shared: Arc<Shared>, (interval, patience): (Duration, Duration))
where
    T: AsyncBufRead + AsyncWrite + Progress + Unpin,
{
    let mut ends = Ends::new(stream);
    let mut silence = Silence::new(interval, patience);
    poll_fn(|cx| ends.poll(cx, &shared, &mut silence)).await;
    if !ends.has_left {
        // Who takes nothing is not waited for.
        let _ = timeout(patience, ends.say_goodbye(&shared)).await;
    }
}

/// The stream below, and what it is about to be given.
struct Ends<T> {
    stream: T,
    sending: Vec<u8>,
    sent: usize,
    /// All that it has been given, and how much of that may have left, in bytes.
    given: u64,
    left: u64,
    /// What `given` was, and what the socket had taken, when the stream held nothing back.
    empty_at: (u64, u64),
    /// The stream takes nothing at the moment.
    is_stuck: bool,
    /// It takes nothing any more. What upstream said before is still to be read: a GOAWAY most likely, by which requests
    /// are known that nobody has processed. The end of that is near: a connection that takes nothing is closed, and if
    /// not, no PING is answered on it.
    is_deaf: bool,
    /// Upstream has closed it.
    has_left: bool,
}

/// What a turn has read.
struct Heard {
    anything: bool,
    /// There was no more.
    all: bool,
}

impl<T: AsyncBufRead + AsyncWrite + Progress + Unpin> Ends<T> {
    fn new(stream: T) -> Self {
        let empty_at = (0, stream.taken());
        Self {
            stream,
            sending: Vec::new(),
            sent: 0,
            given: 0,
            left: 0,
            empty_at,
            is_stuck: false,
            is_deaf: false,
            has_left: false,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>, shared: &Shared, silence: &mut Silence) -> Poll<()> {
        let Heard { anything, all } = self.poll_read(cx, shared);
        let mut protocol = shared.protocol();
        protocol.wait(cx);
        // What has not left never does, half a frame included: what it is of may be sent elsewhere now.
        self.has_left |= protocol.has_ended() && (self.sent < self.sending.len() || self.left < self.given);
        drop(protocol);
        self.is_stuck = self.poll_send(cx, shared).is_pending();
        // Upstream is judged behind that: what it has taken while this side had no turn is a sign of it.
        let has_sign = self.stream.take_progress() || anything;
        let mut protocol = shared.protocol();
        protocol.note_left(self.left);
        let (left, read) = (protocol.in_front_of_ping(), protocol.read_up_to());
        silence.backlog.note(Reach { left, read, room: self.stream.room() });
        // Who reads nothing must not keep a connection that nobody uses any more.
        let is_in_use = self.is_stuck || shared.taken.load(Ordering::Relaxed) > 0;
        if silence.poll_too_long(cx, has_sign, is_in_use, &mut protocol).is_ready() {
            protocol.end(&StreamError::Silent);
            self.has_left = true;
        }
        let has_turns_left = protocol.note_sent();
        let has_read_enough = all || (self.is_stuck && protocol.owes_too_much());
        if has_turns_left || !has_read_enough {
            cx.waker().wake_by_ref();
        }
        let allowed = if protocol.takes_requests() { protocol.allowed() } else { 0 };
        shared.allowed.store(allowed, Ordering::Relaxed);
        if protocol.is_done(shared.handles.load(Ordering::Acquire) > 0) { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Reads what there is.
    fn poll_read(&mut self, cx: &mut Context<'_>, shared: &Shared) -> Heard {
        let mut read = 0;
        loop {
            if read >= TURN_BYTES || (self.is_stuck && shared.protocol().owes_too_much()) {
                return Heard { anything: read > 0, all: false };
            }
            let (count, has_ended) = match Pin::new(&mut self.stream).poll_fill_buf(cx) {
                Poll::Pending => return Heard { anything: read > 0, all: true },
                Poll::Ready(Ok([])) => return self.note_end(shared, &StreamError::Closed),
                Poll::Ready(Err(error)) => return self.note_end(shared, &StreamError::broke(&error)),
                Poll::Ready(Ok(bytes)) => {
                    let mut protocol = shared.protocol();
                    protocol.receive(bytes);
                    (bytes.len(), protocol.has_ended())
                }
            };
            Pin::new(&mut self.stream).consume(count);
            read += count;
            if has_ended {
                // Behind a fault nothing counts, and TLS that read on might write; see `note_end`.
                return Heard { anything: true, all: true };
            }
        }
    }

    /// Who has ended answers nothing more: what has not been sent by then never is.
    fn note_end(&mut self, shared: &Shared, error: &StreamError) -> Heard {
        // TLS that has read what is wrong says so at once, and whatever stands in front of that goes out with it.
        self.see_what_left();
        let mut protocol = shared.protocol();
        protocol.note_left(self.left);
        protocol.end(error);
        drop(protocol);
        self.has_left = true;
        Heard { anything: true, all: true }
    }

    /// Sends all that there is.
    fn poll_send(&mut self, cx: &mut Context<'_>, shared: &Shared) -> Poll<()> {
        let sent = self.poll_write_all(cx, shared);
        if sent.is_ready() {
            self.empty_at = (self.given, self.stream.taken());
        }
        self.see_what_left();
        sent
    }

    /// What TLS makes of the bytes that it has been given is never less than they are, and of what a socket has failed to
    /// take some may have left.
    fn see_what_left(&mut self) {
        let (given, taken) = self.empty_at;
        self.left = if self.is_deaf { self.given } else { self.given.min(given + self.stream.taken() - taken) };
    }

    fn poll_write_all(&mut self, cx: &mut Context<'_>, shared: &Shared) -> Poll<()> {
        while !self.has_left {
            if self.sent == self.sending.len() {
                self.sent = 0;
                shared.protocol().take_output(&mut self.sending);
                if self.is_deaf {
                    self.sending.clear();
                }
                if self.sending.is_empty() {
                    break;
                }
            }
            match ready!(Pin::new(&mut self.stream).poll_write(cx, &self.sending[self.sent..])) {
                Ok(count @ 1..) => {
                    self.sent += count;
                    self.given += count as u64;
                }
                Ok(_) | Err(_) => self.fall_deaf(),
            }
        }
        if !(self.is_deaf || self.has_left) && ready!(Pin::new(&mut self.stream).poll_flush(cx)).is_err() {
            self.fall_deaf();
        }
        Poll::Ready(())
    }

    /// What is left of what was being sent counts as given.
    fn fall_deaf(&mut self) {
        self.given += (self.sending.len() - self.sent) as u64;
        self.is_deaf = true;
        self.sent = self.sending.len();
    }

    async fn say_goodbye(&mut self, shared: &Shared) {
        shared.protocol().leave(Reason::NO_ERROR);
        poll_fn(|cx| self.poll_send(cx, shared)).await;
        let _ = self.stream.shutdown().await;
    }
}

/// Finds out that upstream has gone without a word.
struct Silence {
    interval: Duration,
    patience: Duration,
    backlog: Backlog,
    /// When it showed a sign of itself.
    last_sign: Instant,
    /// When a PING was sent whose answer has not come.
    asked: Option<Instant>,
    timer: Pin<Box<Sleep>>,
    /// The timer will wake this task: there is no need to ask it again before it has.
    is_set: bool,
}

impl Silence {
    fn new(interval: Duration, patience: Duration) -> Self {
        let (timer, now) = (Box::pin(sleep(interval)), Instant::now());
        Self { interval, patience, backlog: Backlog::new(now), last_sign: now, asked: None, timer, is_set: false }
    }

    fn set(&mut self, when: Instant) {
        self.timer.as_mut().reset(when);
        self.is_set = false;
    }

    /// When upstream is asked, or its answer has to be there. A PING behind an upload waits for all of that to be taken, so
    /// its answer is due only as long after the last sign, and after a slow line would have taken what was under way.
    fn due(&self) -> Instant {
        match self.asked {
            None => self.last_sign + self.interval,
            Some(asked) => asked.max(self.backlog.clear()).max(self.last_sign) + self.patience,
        }
    }

    /// Ready when an answer to a PING has not come in time.
    fn poll_too_long(
        &mut self,
        cx: &mut Context<'_>,
        has_sign: bool,
        is_in_use: bool,
        protocol: &mut Protocol,
    ) -> Poll<()> {
        if has_sign || self.backlog.is_worth_a_clock() {
            let now = Instant::now();
            self.backlog.count(now);
            if has_sign {
                self.last_sign = now;
            }
        }
        if !protocol.is_pong_due() {
            self.asked = None;
        }
        // While it was idle nobody cared.
        if (is_in_use || self.asked.is_some()) && self.timer.deadline() > self.due() {
            self.set(self.due());
        }
        loop {
            if self.is_set && !self.timer.is_elapsed() {
                return Poll::Pending;
            }
            self.is_set = true;
            if self.timer.as_mut().poll(cx).is_pending() {
                // Who has used up his turn is not noted, and is polled again at once.
                self.is_set = has_budget_remaining();
                return Poll::Pending;
            }
            let (now, due) = (Instant::now(), self.due());
            match self.asked {
                // This side had no turn: what has come meanwhile may not be known yet, and what was asked may have waited.
                Some(_) if due + LATE < now => {
                    self.asked = Some(now);
                    self.set(self.due());
                }
                Some(_) if due <= now => return Poll::Ready(()),
                Some(_) => self.set(due),
                None if !is_in_use => {
                    protocol.rest();
                    self.set(now + self.interval);
                }
                None if due <= now => {
                    self.backlog.count(now);
                    protocol.ping();
                    self.asked = Some(now);
                    self.set(self.due());
                }
                None => self.set(due),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    #[tokio::test]
    async fn who_was_silent_while_idle_is_asked_as_soon_as_it_is_used() {
        let interval = Duration::from_secs(30);
        let mut silence = Silence::new(interval, Duration::from_secs(10));
        let mut protocol = Protocol::default();
        silence.last_sign -= 2 * interval;
        let asking = poll_fn(|cx| {
            assert!(silence.poll_too_long(cx, false, true, &mut protocol).is_pending());
            if protocol.is_pong_due() { Poll::Ready(()) } else { Poll::Pending }
        });
        assert!(timeout(Duration::from_secs(5), asking).await.is_ok());
    }

    #[tokio::test]
    async fn who_was_heard_is_not_asked() {
        let mut silence = Silence::new(Duration::ZERO, Duration::ZERO);
        let mut protocol = Protocol::default();
        silence.interval = Duration::from_secs(30);
        let cx = &mut Context::from_waker(Waker::noop());
        assert!(silence.poll_too_long(cx, true, true, &mut protocol).is_pending());
        assert!(!protocol.is_pong_due());
    }

    /// Whether it is over so soon.
    async fn ends_within(silence: &mut Silence, protocol: &mut Protocol, limit: Duration) -> bool {
        timeout(limit, poll_fn(|cx| silence.poll_too_long(cx, false, true, protocol))).await.is_ok()
    }

    #[tokio::test]
    async fn an_answer_behind_an_upload_has_the_time_that_the_upload_takes() {
        const UPLOAD: u64 = 64 * 1024;
        let millis = Duration::from_millis;
        let mut protocol = Protocol::default();
        // A line of 4 KiB a second needs 16 seconds for what has not been read.
        for (read, limit, is_over) in [(0, millis(800), false), (UPLOAD, millis(5000), true)] {
            let mut silence = Silence::new(Duration::ZERO, millis(100));
            silence.backlog.note(Reach { left: UPLOAD, read, room: u64::MAX });
            assert_eq!(ends_within(&mut silence, &mut protocol, limit).await, is_over);
            assert!(silence.asked.is_some());
        }
    }

    #[tokio::test]
    async fn the_ping_itself_is_not_in_the_way_of_its_answer() {
        let patience = Duration::from_millis(100);
        let mut silence = Silence::new(Duration::ZERO, patience);
        let mut protocol = Protocol::default();
        assert!(!ends_within(&mut silence, &mut protocol, Duration::ZERO).await);
        let clear = silence.backlog.clear();
        silence.backlog.note(Reach { left: 100, read: 0, room: u64::MAX });
        assert!(ends_within(&mut silence, &mut protocol, 50 * patience).await);
        assert_eq!(silence.backlog.clear(), clear);
    }

    #[tokio::test]
    async fn who_is_judged_late_has_its_time_once_more() {
        let patience = Duration::from_secs(2);
        let mut silence = Silence::new(Duration::ZERO, patience);
        let mut protocol = Protocol::default();
        let soon = Duration::from_millis(20);
        assert!(!ends_within(&mut silence, &mut protocol, soon).await);
        let past = Instant::now() - 2 * patience;
        (silence.last_sign, silence.asked, silence.backlog) = (past, Some(past), Backlog::new(past));
        assert!(!ends_within(&mut silence, &mut protocol, soon).await);
        assert!(ends_within(&mut silence, &mut protocol, 10 * patience).await, "it answers nothing now either");
    }
}
