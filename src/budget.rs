//! The memory set aside for request bodies: counted, so that too many large ones are refused and the instance lives.

use bytes::{Bytes, BytesMut};
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Used when neither container nor machine tells its memory: Cloud Run's smallest instance, in bytes.
const FALLBACK_MEMORY_BYTES: u64 = 256 * 1024 * 1024;

/// How many bytes of request bodies may be held at one time.
#[derive(Debug)]
pub struct BodyBudget {
    limit: usize,
    used: AtomicUsize,
}

impl BodyBudget {
    /// A budget of so many bytes.
    #[must_use]
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, used: AtomicUsize::new(0) })
    }

    /// Half of the memory that the container, or else the machine, may use.
    #[must_use]
    pub fn of_machine() -> Arc<Self> {
        Self::new(usize::try_from(memory_limit() / 2).unwrap_or(usize::MAX))
    }

    /// Sets bytes aside, if there are enough left.
    #[must_use]
    pub fn reserve(self: &Arc<Self>, bytes: usize) -> Option<Reservation> {
        let mut reservation = Reservation { budget: self.clone(), bytes: 0 };
        reservation.grow_to(bytes).then_some(reservation)
    }

    /// Whether so many bytes are left at the moment. None are set aside.
    #[must_use]
    pub fn has_room_for(&self, bytes: usize) -> bool {
        bytes <= self.limit.saturating_sub(self.used())
    }

    /// Bytes that may be in use.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Bytes in use at the moment.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
}

/// A part of the budget, given back on drop.
#[derive(Debug)]
pub struct Reservation {
    budget: Arc<BodyBudget>,
    bytes: usize,
}

impl Reservation {
    /// Grows to at least so many bytes; `false` leaves it as it is.
    #[must_use]
    pub fn grow_to(&mut self, bytes: usize) -> bool {
        let Some(more) = bytes.checked_sub(self.bytes).filter(|more| *more > 0) else { return true };
        let granted = self.budget.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            used.checked_add(more).filter(|sum| *sum <= self.budget.limit)
        });
        if granted.is_ok() {
            self.bytes = bytes;
        }
        granted.is_ok()
    }

    /// Ties the reservation to the bytes it stands for: it ends when their last slice is dropped.
    #[must_use]
    pub fn hold(self, bytes: BytesMut) -> Bytes {
        if bytes.is_empty() { Bytes::new() } else { Bytes::from_owner(Held { bytes, _reservation: self }) }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

struct Held {
    bytes: BytesMut,
    _reservation: Reservation,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The least of what cgroups (versions 2 and 1) and the machine say, in bytes.
pub(crate) fn memory_limit() -> u64 {
    let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| total_of_meminfo(&text));
    [number("/sys/fs/cgroup/memory.max"), number("/sys/fs/cgroup/memory/memory.limit_in_bytes"), machine]
        .into_iter()
        .flatten()
        .min()
        .unwrap_or(FALLBACK_MEMORY_BYTES)
}

fn total_of_meminfo(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reservation_lives_as_long_as_the_last_slice() {
        let budget = BodyBudget::new(10);
        let body = budget.reserve(8).unwrap().hold(BytesMut::from("12345678"));
        assert!(budget.reserve(3).is_none() && !budget.has_room_for(3) && budget.has_room_for(2));
        let tail = body.slice(5..);
        drop(body);
        assert_eq!((budget.used(), &tail[..]), (8, &b"678"[..]));
        drop(tail);
        assert_eq!(budget.used(), 0);
        let mut growing = budget.reserve(3).unwrap();
        assert!(growing.grow_to(10) && growing.grow_to(2) && !growing.grow_to(11) && !growing.grow_to(usize::MAX));
        assert_eq!(budget.used(), 10);
    }

    #[test]
    fn meminfo() {
        assert_eq!(total_of_meminfo("MemTotal:       16384 kB\nMemFree: 1 kB\n"), Some(16384 * 1024));
        assert_eq!(total_of_meminfo("MemFree: 1 kB"), None);
        assert!(memory_limit() > 0);
    }
}
