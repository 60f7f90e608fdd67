//! Comments on a silent event stream, so that boxes in the middle do not take its connection for dead.
//!
//! A thinking model may say nothing for minutes, and many a proxy cuts a line after one or two. A comment is a line that
//! every reader of event streams skips. It is sent between two events only, and only after silence.

use crate::alarm::Alarm;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::Instant;

/// The silence of one stream.
pub struct KeepAlive {
    after: Duration,
    silent_since: Instant,
    /// Something was sent since `silent_since`.
    broken: bool,
    alarm: Alarm,
}

impl KeepAlive {
    /// Silence begins now; it is due after so long.
    #[must_use]
    pub fn new(after: Duration) -> Self {
        Self { after, silent_since: Instant::now(), broken: false, alarm: Alarm::default() }
    }

    /// Notes that bytes are being sent: the silence is over.
    pub fn break_silence(&mut self) {
        self.broken = true;
    }

    /// Notes that all is sent and a wait begins. The clock is read here, once for all that was sent together.
    pub fn begin_wait(&mut self) {
        if std::mem::take(&mut self.broken) {
            self.silent_since = Instant::now();
        }
    }

    /// Ready when the silence has lasted long enough; it is then counted anew.
    pub fn poll_due(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        ready!(self.alarm.poll_due(self.silent_since + self.after, cx));
        self.silent_since = Instant::now();
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    const AFTER: Duration = Duration::from_millis(60);

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
    }

    #[test]
    fn silence_is_counted_from_the_last_byte() {
        runtime().block_on(async {
            let began = Instant::now();
            let mut keep_alive = KeepAlive::new(AFTER);
            tokio::time::sleep(AFTER / 2).await;
            keep_alive.break_silence();
            keep_alive.begin_wait();
            poll_fn(|cx| keep_alive.poll_due(cx)).await;
            assert!(began.elapsed() >= AFTER * 3 / 2, "{:?}", began.elapsed());
            poll_fn(|cx| keep_alive.poll_due(cx)).await;
            assert!(began.elapsed() >= AFTER * 5 / 2, "each is counted from the one before");
        });
    }

    #[test]
    fn a_wait_that_ends_without_a_byte_changes_nothing() {
        runtime().block_on(async {
            let mut keep_alive = KeepAlive::new(AFTER);
            let since = keep_alive.silent_since;
            keep_alive.begin_wait();
            assert_eq!(keep_alive.silent_since, since);
        });
    }
}
