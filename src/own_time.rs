//! What the gateway itself takes for a request: all the time but its waits. The clock is read where something is waited
//! for, and nowhere else.

use std::future::poll_fn;
use std::pin::pin;
use std::time::{Duration, Instant};

/// The gateway's own time for one request.
#[derive(Clone, Copy, Debug)]
pub struct OwnTime {
    /// The request's begin, moved by what was waited for.
    since: Instant,
}

impl OwnTime {
    /// Counted from here on.
    #[must_use]
    pub fn since(since: Instant) -> Self {
        Self { since }
    }

    /// How much there was until then.
    #[must_use]
    pub fn until(self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since)
    }

    /// The last moment that is certainly past: it lags behind the clock by the own time that there was so far.
    #[must_use]
    pub fn lagging_now(self) -> Instant {
        self.since
    }

    /// Leaves out a wait.
    pub fn leave_out(&mut self, wait: Duration) {
        self.since += wait;
    }

    /// Waits for `future` and leaves that out, if it has to be waited for: not what it does in between.
    pub async fn leaving_out<F: Future>(&mut self, future: F) -> F::Output {
        let mut future = pin!(future);
        let mut waits_since: Option<Instant> = None;
        poll_fn(|cx| {
            if let Some(begun) = waits_since.take() {
                self.leave_out(begun.elapsed());
            }
            let polled = future.as_mut().poll(cx);
            if polled.is_pending() {
                waits_since = Some(Instant::now());
            }
            polled
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_millis(20);

    #[test]
    fn waits_are_left_out() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let begun = Instant::now();
            let mut own = OwnTime::since(begun);
            assert_eq!(own.leaving_out(async { 1 }).await, 1);
            assert_eq!(own.lagging_now(), begun, "nothing was waited for");
            own.leaving_out(tokio::time::sleep(STEP)).await;
            let waited = own.lagging_now() - begun;
            assert!(waited >= STEP && waited <= begun.elapsed(), "{waited:?}");
            own.leave_out(STEP);
            assert_eq!(own.until(begun + waited + STEP * 4), STEP * 3);
            assert_eq!(own.until(begun), Duration::ZERO);
        });
    }

    #[test]
    fn what_is_done_between_waits_is_not_left_out() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let mut own = OwnTime::since(Instant::now());
            own.leaving_out(async {
                tokio::time::sleep(STEP).await;
                std::thread::sleep(STEP);
                tokio::time::sleep(STEP).await;
            })
            .await;
            assert!(own.until(Instant::now()) >= STEP);
        });
    }
}
