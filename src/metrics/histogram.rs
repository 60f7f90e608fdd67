//! Counts by size, without locks.

use super::counters::{absorb, absorb_all};
use std::sync::atomic::{AtomicU64, Ordering};

/// How often values of each size came. `bounds` belong to the family: each is the largest value of its bucket.
#[derive(Debug)]
pub(super) struct Histogram {
    bounds: &'static [u64],
    /// One for each bound and one for what is larger; not added up.
    buckets: Box<[AtomicU64]>,
    sum: AtomicU64,
}

impl Histogram {
    pub(super) fn new(bounds: &'static [u64]) -> Self {
        Self { bounds, buckets: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(), sum: AtomicU64::new(0) }
    }

    pub(super) fn add(&self, value: u64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        if let Some(count) = self.buckets.get(bucket) {
            count.fetch_add(1, Ordering::Relaxed);
            self.sum.fetch_add(value, Ordering::Relaxed);
        }
    }

    /// Adds the values of another one with the same bounds.
    pub(super) fn absorb(&self, other: &Self) {
        absorb_all(&self.buckets, &other.buckets);
        absorb(&self.sum, &other.sum);
    }

    /// How many values each bound is not exceeded by, in the order of the bounds; then all, and their sum.
    pub(super) fn read(&self) -> (Vec<u64>, u64, u64) {
        let mut total = 0;
        let counts = self.buckets.iter().map(|count| {
            total += count.load(Ordering::Relaxed);
            total
        });
        let mut counts: Vec<u64> = counts.collect();
        counts.pop();
        (counts, total, self.sum.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        let histogram = Histogram::new(&[1, 4, 16]);
        [0, 1, 2, 4, 5, 17, 1000].into_iter().for_each(|value| histogram.add(value));
        assert_eq!(histogram.read(), (vec![2, 4, 5], 7, 1029));
        let sum = Histogram::new(&[1, 4, 16]);
        sum.add(3);
        sum.absorb(&histogram);
        assert_eq!(sum.read(), (vec![2, 5, 6], 8, 1032));
    }
}
