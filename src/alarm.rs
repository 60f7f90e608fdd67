//! A timer for a deadline that moves with every wait, which nearly always ends before it.
//!
//! To set and to cancel a timer costs more than what most waits are for. This one is set anew when it fires, or for a
//! deadline before that. It may wake its task for nothing, which happens seldom: once for each deadline that has passed
//! unheeded.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use tokio::time::{Instant, Sleep, sleep_until};

/// One timer.
#[derive(Debug, Default)]
pub struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    /// Ready when it is `due`, or later.
    pub fn poll_due(&mut self, due: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let timer = self.0.get_or_insert_with(|| Box::pin(sleep_until(due)));
        if timer.deadline() > due {
            timer.as_mut().reset(due);
        }
        loop {
            ready!(timer.as_mut().poll(cx));
            // It may have been set for an earlier deadline.
            if timer.deadline() == due || Instant::now() >= due {
                return Poll::Ready(());
            }
            timer.as_mut().reset(due);
        }
    }

    /// Waits for `future`; `None` when it has not ended when it is `due`.
    pub async fn unless_due<F: Future>(&mut self, due: Instant, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending => self.poll_due(due, cx).map(|()| None),
        })
        .await
    }

    /// Waits until it is `due`.
    pub async fn due(&mut self, due: Instant) {
        poll_fn(|cx| self.poll_due(due, cx)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const STEP: Duration = Duration::from_millis(30);

    fn block_on(future: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future);
    }

    #[test]
    fn it_is_due_when_the_last_deadline_is() {
        block_on(async {
            let mut alarm = Alarm::default();
            let began = Instant::now();
            for steps in [1, 4, 2, 3, 3] {
                let due = began + STEP * steps;
                // Looked at, and given up.
                poll_fn(|cx| {
                    assert_eq!(alarm.poll_due(due, cx).is_ready(), Instant::now() >= due, "{steps}");
                    Poll::Ready(())
                })
                .await;
            }
            alarm.due(began + STEP * 3).await;
            assert!(began.elapsed() >= STEP * 3 && began.elapsed() < STEP * 30);
            // One that has passed is due at once, and the next one is waited for.
            alarm.due(began).await;
            alarm.due(began + STEP * 4).await;
            assert!(began.elapsed() >= STEP * 4);
        });
    }

    #[test]
    fn what_has_ended_is_not_too_late_and_what_has_not_is() {
        block_on(async {
            let mut alarm = Alarm::default();
            let began = Instant::now();
            assert_eq!(alarm.unless_due(began, async { 1 }).await, Some(1), "it was there at once");
            let soon = tokio::time::sleep(STEP);
            assert_eq!(alarm.unless_due(began + STEP * 1000, soon).await, Some(()));
            assert_eq!(alarm.unless_due(began + STEP * 3, std::future::pending::<()>()).await, None);
            assert!(began.elapsed() >= STEP * 3 && began.elapsed() < STEP * 30);
        });
    }
}
