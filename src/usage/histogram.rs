//! Percentiles of any number of durations in a few kilobytes.

/// Each power of two is divided into so many buckets, as a power of two. A duration is told by the middle of its bucket,
/// so it is wrong by 1/128 at most: 0.8 %.
const BUCKET_BITS: u32 = 6;
const BUCKETS: u64 = 1 << BUCKET_BITS;
/// Longer durations count as this one: 19 hours, in microseconds.
const MAX_MICROSECONDS: u64 = (1 << 36) - 1;

/// How often durations of each length came.
#[derive(Clone, Debug, Default)]
pub(super) struct Histogram {
    /// Grows up to the longest duration.
    counts: Vec<u64>,
    total: u64,
}

impl Histogram {
    /// Counts a duration.
    pub(super) fn add(&mut self, microseconds: u64) {
        let bucket = bucket_of(microseconds.min(MAX_MICROSECONDS));
        if self.counts.len() <= bucket {
            self.counts.resize(bucket + 1, 0);
        }
        if let Some(count) = self.counts.get_mut(bucket) {
            *count += 1;
            self.total += 1;
        }
    }

    /// The duration, in microseconds, that so many percent did not exceed; `None` when there was none.
    pub(super) fn percentile(&self, percent: u64) -> Option<u64> {
        let rank = (self.total * percent).div_ceil(100).max(1);
        let mut seen = 0;
        let bucket = self.counts.iter().position(|count| {
            seen += count;
            seen >= rank
        });
        bucket.map(middle_of)
    }
}

fn bucket_of(value: u64) -> usize {
    // Below 64 each value has a bucket of its own.
    let shift = (u64::BITS - value.leading_zeros()).saturating_sub(BUCKET_BITS + 1);
    let bucket = u64::from(shift) * BUCKETS + (value >> shift);
    usize::try_from(bucket).unwrap_or(usize::MAX)
}

fn middle_of(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    let shift = (bucket / BUCKETS).saturating_sub(1);
    let low = (bucket - shift * BUCKETS) << shift;
    low + (1 << shift) / 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn percentiles_of_few() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.percentile(50), None);
        histogram.add(7);
        assert_eq!((histogram.percentile(50), histogram.percentile(99)), (Some(7), Some(7)));
        histogram.add(9);
        assert_eq!((histogram.percentile(50), histogram.percentile(51)), (Some(7), Some(9)));
        histogram.add(u64::MAX);
        assert!(histogram.percentile(99).unwrap() > MAX_MICROSECONDS / 100 * 99);
        assert!(histogram.counts.len() < 2100, "{}", histogram.counts.len());
    }

    proptest! {
        #[test]
        fn percentiles_are_wrong_by_less_than_one_percent(
            mut values in proptest::collection::vec(prop_oneof![0u64..200, 0..MAX_MICROSECONDS], 1..300),
            percent in 1u64..=100,
        ) {
            let mut histogram = Histogram::default();
            values.iter().for_each(|value| histogram.add(*value));
            values.sort_unstable();
            let rank = (values.len() * percent as usize).div_ceil(100);
            let exact = values[rank - 1] as f64;
            let told = histogram.percentile(percent).unwrap() as f64;
            prop_assert!((told - exact).abs() <= exact / 128.0, "{told} for {exact}");
        }
    }
}
