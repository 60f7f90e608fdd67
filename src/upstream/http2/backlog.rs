//! What has left for upstream and may not have been read yet. Whatever is written behind it, as a PING, cannot be answered
//! before the line has taken that.

use std::time::Duration;
use tokio::time::Instant;

/// What the slowest line whose uploads get on takes in a second, in bytes.
const SLOWEST: u64 = 4 * 1024;
/// With so many bytes more it is worth a look at the clock. What is less waits for one that somebody else needs, and counts
/// from then on.
const CLOCK_BYTES: u64 = 16 * 1024;

/// How far a connection has got, in bytes from its begin.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Reach {
    /// So much has left, and stands in front of a PING that is out.
    pub(super) left: u64,
    /// So much of that upstream has shown to have read.
    pub(super) read: u64,
    /// So much may stand in the socket, all of it together.
    pub(super) room: u64,
}

/// The bytes under way, and the time that they may need.
#[derive(Debug)]
pub(super) struct Backlog {
    reach: Reach,
    /// How far it had got when `clear` was counted.
    counted: Reach,
    /// When a line that is as slow as may be has taken what is counted.
    clear: Instant,
}

impl Backlog {
    /// Nothing has left.
    pub(super) fn new(now: Instant) -> Self {
        Self { reach: Reach::default(), counted: Reach::default(), clear: now }
    }

    /// Notes how far the connection has got.
    pub(super) fn note(&mut self, reach: Reach) {
        self.reach = reach;
    }

    /// Whether so much has left that is not counted that it is worth a look at the clock.
    pub(super) fn is_worth_a_clock(&self) -> bool {
        self.reach.left - self.counted.left >= CLOCK_BYTES
    }

    /// Counts what has left and what has been read.
    pub(super) fn count(&mut self, now: Instant) {
        let Reach { left, read, room } = self.reach;
        let new = left - self.counted.left;
        if new == 0 && read == self.counted.read {
            return;
        }
        self.counted = self.reach;
        let under_way = left.saturating_sub(read);
        if new > 0 {
            // Behind what is there, but no more than there can be.
            let behind_the_last = self.clear.max(now) + time_for(new);
            let with_all_there_is = now + time_for(under_way.min(room));
            // Room that has become less may still be taken.
            self.clear = self.clear.max(behind_the_last.min(with_all_there_is));
        }
        self.clear = self.clear.min(now + time_for(under_way));
    }

    /// When there is nothing in the way any more.
    pub(super) fn clear(&self) -> Instant {
        self.clear
    }
}

fn time_for(bytes: u64) -> Duration {
    Duration::from_millis(bytes.saturating_mul(1000) / SLOWEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1024;

    #[test]
    fn it_is_clear_when_the_slowest_line_has_taken_all_that_was_not_read() {
        let begun = Instant::now();
        let after = |seconds| begun + Duration::from_secs(seconds);
        let mut backlog = Backlog::new(begun);
        let room = 192 * KIB;
        for (now, left, read, room, clear, why) in [
            (0, 16, 0, room, 4, "from now on where nothing is under way"),
            (1, 32, 0, room, 8, "behind what is"),
            (20, 48, 0, room, 24, "and that is gone by then"),
            (21, 48, 0, room, 24, "nothing is new"),
            (30, 48 + 1024, 0, room, 30 + 48, "no more than fits"),
            (31, 48 + 1024, 40 + 1024, room, 31 + 2, "what was read is not in the way"),
            (32, 48 + 1024, 48 + 1024, room, 32, "nothing is"),
            (40, 72 + 1024, 48 + 1024, room, 40 + 6, "no more than is not read"),
            (50, 72 + 2048, 0, 3 * room, 50 + 144, "what fits into a wide room"),
            (60, 73 + 2048, 0, room, 50 + 144, "was there before it became narrow"),
            (70, 73 + 4096, 73 + 2048, u64::MAX, 70 + 512, "all, where there is no limit"),
            (80, 73 + 4096, 73 + 4096, u64::MAX, 80, "it has read faster than that"),
        ] {
            backlog.note(Reach { left: left * KIB, read: read * KIB, room });
            backlog.count(after(now));
            assert_eq!(backlog.clear(), after(clear), "{why}");
        }
        backlog.note(Reach { left: u64::MAX / 2, read: 0, room: u64::MAX });
        backlog.count(after(90));
        assert!(backlog.clear() > after(1_000_000), "no sum is too large");
    }

    #[test]
    fn the_clock_is_looked_at_for_uploads_only() {
        let mut backlog = Backlog::new(Instant::now());
        let mut left = 0;
        for (more, is_worth) in [(CLOCK_BYTES - 1, false), (1, true), (CLOCK_BYTES, true)] {
            left += more;
            backlog.note(Reach { left, ..Reach::default() });
            assert_eq!(backlog.is_worth_a_clock(), is_worth);
        }
        backlog.count(Instant::now());
        assert!(!backlog.is_worth_a_clock());
    }
}
