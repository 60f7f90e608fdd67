//! A timer that is exact to the microsecond; the runtime's own is exact to the millisecond.

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};
use tokio::net::unix::pipe::Receiver;

/// A timer of the kernel. It is read like a pipe: eight bytes when it has expired.
pub(super) struct Timer(Receiver);

impl Timer {
    pub(super) fn new() -> io::Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        Ok(Self(Receiver::from_owned_fd_unchecked(timer)?))
    }

    /// Waits until then.
    pub(super) async fn until(&self, then: Instant) -> io::Result<()> {
        let left = then.saturating_duration_since(Instant::now());
        if left.is_zero() {
            // Who is late lets the others work all the same.
            tokio::task::yield_now().await;
            return Ok(());
        }
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let value = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: i64::from(left.subsec_nanos()) };
        let once = Itimerspec { it_interval: zero, it_value: value };
        timerfd_settime(self.0.as_fd(), TimerfdTimerFlags::empty(), &once)?;
        let mut expiries = [0; 8];
        loop {
            self.0.readable().await?;
            match self.0.try_read(&mut expiries) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// The time between two events at so many in a second.
pub(super) fn period(rate: u32) -> Duration {
    Duration::from_secs(1) / rate
}
