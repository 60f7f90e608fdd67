//! A connection's task: moves bytes between the stream below and [`Protocol`].
//!
//! Requests are woken by what it reads, and it is woken by what they have to send, behind all others that have something to
//! do in the same turn. So what many have to say leaves in one TLS record, by one system call.

use super::super::watched::Progress;
use super::Shared;
use super::error::{Reason, StreamError};
use super::protocol::Protocol;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncBufRead, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, Sleep, sleep, timeout};

/// What is read before others have their turn, in bytes.
const TURN_BYTES: usize = 128 * 1024;

/// Works a connection until nobody needs it any more, or it has ended.
pub(super) async fn drive<T>(stream: T, shared: Arc<Shared>, (interval, patience): (Duration, Duration))
where
    T: AsyncBufRead + AsyncWrite + Progress + Unpin,
{
    let mut ends = Ends { stream, sending: Vec::new(), sent: 0, is_stuck: false, is_deaf: false, has_left: false };
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
    fn poll(&mut self, cx: &mut Context<'_>, shared: &Shared, silence: &mut Silence) -> Poll<()> {
        let Heard { anything, all } = self.poll_read(cx, shared);
        let mut protocol = shared.protocol();
        protocol.wait(cx);
        // Half a frame has no end any more: what it is of may be sent elsewhere now.
        self.has_left |= protocol.has_ended() && self.sent < self.sending.len();
        drop(protocol);
        self.is_stuck = self.poll_send(cx, shared).is_pending();
        // Upstream is judged behind that: what it has taken while this side had no turn is a sign of it.
        if self.stream.take_progress() {
            silence.note_life();
        }
        silence.clear = self.stream.clear();
        let mut protocol = shared.protocol();
        // Who reads nothing must not keep a connection that nobody uses any more.
        let is_in_use = self.is_stuck || shared.taken.load(Ordering::Relaxed) > 0;
        if silence.poll_too_long(cx, anything, is_in_use, &mut protocol).is_ready() {
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
            let count = match Pin::new(&mut self.stream).poll_fill_buf(cx) {
                Poll::Pending => return Heard { anything: read > 0, all: true },
                Poll::Ready(Ok([])) => return self.note_end(shared, &StreamError::Closed),
                Poll::Ready(Err(error)) => return self.note_end(shared, &StreamError::broke(&error)),
                Poll::Ready(Ok(bytes)) => {
                    shared.protocol().receive(bytes);
                    bytes.len()
                }
            };
            Pin::new(&mut self.stream).consume(count);
            read += count;
        }
    }

    /// Who has ended answers nothing more: what has not been sent by then never is.
    fn note_end(&mut self, shared: &Shared, error: &StreamError) -> Heard {
        shared.protocol().end(error);
        self.has_left = true;
        Heard { anything: true, all: true }
    }

    /// Sends all that there is.
    fn poll_send(&mut self, cx: &mut Context<'_>, shared: &Shared) -> Poll<()> {
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
                    shared.protocol().note_handed(count);
                }
                Ok(_) | Err(_) => self.fall_deaf(shared),
            }
        }
        if !(self.is_deaf || self.has_left) && ready!(Pin::new(&mut self.stream).poll_flush(cx)).is_err() {
            self.fall_deaf(shared);
        }
        Poll::Ready(())
    }

    /// Of what was being sent some may have left.
    fn fall_deaf(&mut self, shared: &Shared) {
        shared.protocol().note_handed(self.sending.len() - self.sent);
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
    /// When nothing of an upload is in the way any more.
    clear: Option<Instant>,
    last_heard: Instant,
    /// When a PING was sent whose answer has not come.
    asked: Option<Instant>,
    timer: Pin<Box<Sleep>>,
    /// The timer will wake this task: there is no need to ask it again before it has.
    is_set: bool,
}

impl Silence {
    fn new(interval: Duration, patience: Duration) -> Self {
        let (timer, now) = (Box::pin(sleep(interval)), Instant::now());
        Self { interval, patience, clear: None, last_heard: now, asked: None, timer, is_set: false }
    }

    /// Upstream has said something, or taken some of what had no room before.
    fn note_life(&mut self) {
        self.last_heard = Instant::now();
    }

    fn set(&mut self, when: Instant) {
        self.timer.as_mut().reset(when);
        self.is_set = false;
    }

    /// When upstream is asked, or its answer has to be there. A PING behind an upload waits for all of that to be taken, so
    /// its answer is due only as long after the last sign, and after a slow line would have taken what the socket holds.
    fn due(&self) -> Instant {
        match self.asked {
            None => self.last_heard + self.interval,
            Some(asked) => self.clear.map_or(asked, |clear| clear.max(asked)).max(self.last_heard) + self.patience,
        }
    }

    /// Ready when an answer to a PING has not come in time.
    fn poll_too_long(
        &mut self,
        cx: &mut Context<'_>,
        has_heard: bool,
        is_in_use: bool,
        protocol: &mut Protocol,
    ) -> Poll<()> {
        if has_heard {
            self.note_life();
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
            ready!(self.timer.as_mut().poll(cx));
            let (now, due) = (Instant::now(), self.due());
            match self.asked {
                Some(_) if due <= now => return Poll::Ready(()),
                Some(_) => self.set(due),
                None if !is_in_use => {
                    protocol.rest();
                    self.set(now + self.interval);
                }
                None if due <= now => {
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
        silence.last_heard -= 2 * interval;
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

    #[tokio::test]
    async fn an_answer_behind_an_upload_has_the_time_that_the_upload_takes() {
        let patience = Duration::from_secs(60);
        let mut silence = Silence::new(Duration::ZERO, patience);
        let mut protocol = Protocol::default();
        let mut ends_within = async |silence: &mut Silence, limit| {
            let ending = poll_fn(|cx| silence.poll_too_long(cx, false, true, &mut protocol));
            timeout(Duration::from_millis(limit), ending).await.is_ok()
        };
        silence.clear = Some(Instant::now() + 10 * patience);
        assert!(!ends_within(&mut silence, 20).await);
        // It was asked long ago, but what the socket held left a moment ago.
        silence.last_heard -= 20 * patience;
        silence.asked = silence.asked.map(|asked| asked - 20 * patience);
        silence.clear = Some(Instant::now() - patience / 2);
        assert!(!ends_within(&mut silence, 20).await);
        // It is long ago too.
        silence.clear = Some(Instant::now() - 2 * patience);
        assert!(ends_within(&mut silence, 5000).await);
    }
}
