//! The cells that figures are counted in.
//!
//! Every operation is one or two relaxed atomic additions: a reader may see one figure a moment before another, which
//! no one who watches rates can notice. Nothing here knows names or text.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use super::{LONG, SHORT};
use crate::observe::label::Label;

/// A figure that only grows.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Counts one.
    pub fn increment(&self) {
        self.add(1);
    }

    /// Counts `amount`.
    pub fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    /// The figure now.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A figure that goes up and down again.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// One more.
    pub fn raise(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// One less; the caller raised it before.
    pub fn lower(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// The figure as somebody else has counted it.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The figure now.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One growing figure for each member of a closed set.
pub struct Counts<L: Label>(L::Counts);

impl<L: Label> Counts<L> {
    /// Counts one for `label`.
    pub fn count(&self, label: L) {
        self.0.as_ref()[label.index()].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts `amount` for `label`.
    pub fn add(&self, label: L, amount: u64) {
        self.0.as_ref()[label.index()].fetch_add(amount, Ordering::Relaxed);
    }

    /// The figure of `label` now.
    pub fn value(&self, label: L) -> u64 {
        self.0.as_ref()[label.index()].load(Ordering::Relaxed)
    }
}

impl<L: Label> Default for Counts<L> {
    fn default() -> Self {
        Self(L::Counts::default())
    }
}

impl<L: Label> fmt::Debug for Counts<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.as_ref()).finish()
    }
}

/// How durations are spread, over one of the two sets of buckets, [`SHORT`] or [`LONG`].
#[derive(Debug, Default)]
pub struct Histogram<const RANGE: usize> {
    /// Durations up to each bound and above the one before; the last holds what is above all bounds.
    buckets: [AtomicU64; BOUNDS + 1],
    /// In microseconds: in nanoseconds, 50,000 connections open at a time would overflow it within days.
    sum_us: AtomicU64,
}

impl<const RANGE: usize> Histogram<RANGE> {
    /// Upper bounds of the buckets.
    const BOUNDS_US: [u64; BOUNDS] = match RANGE {
        SHORT => SHORT_BOUNDS_US,
        LONG => LONG_BOUNDS_US,
        _ => panic!("there are two ranges"),
    };

    /// Counts one duration.
    pub fn observe(&self, duration: Duration) {
        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        // Rounded to the nearest: cutting off would make the mean of short durations too small.
        let us = nanoseconds.saturating_add(500) / 1_000;
        let bucket = Self::BOUNDS_US.partition_point(|bound_us| bound_us.saturating_mul(1_000) < nanoseconds);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    /// What was counted so far.
    pub fn snapshot(&self) -> Snapshot {
        let bounds = Self::BOUNDS_US.iter().map(|us| seconds(*us)).chain([f64::INFINITY]);
        let counts = self.buckets.iter().map(|count| count.load(Ordering::Relaxed));
        let buckets: Vec<_> = bounds.zip(counts).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        Snapshot { sum_seconds: seconds(self.sum_us.load(Ordering::Relaxed)), count, buckets }
    }
}

/// A histogram at one moment. The count is that of the buckets, so that the two always agree.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// The sum of all durations in seconds.
    pub sum_seconds: f64,
    /// How many durations were counted.
    pub count: u64,
    /// The upper bound of each bucket in seconds, and how many fell between it and the one before.
    pub buckets: Vec<(f64, u64)>,
}

fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

/// Bounds of each set.
const BOUNDS: usize = 16;

/// 50 µs (a commit on a fast disk) to 10 s (a handshake over a bad link).
const SHORT_BOUNDS_US: [u64; BOUNDS] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    10_000_000,
];

/// 10 ms (the shortest round trip that matters) to an hour.
const LONG_BOUNDS_US: [u64; BOUNDS] = [
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    30_000_000,
    60_000_000,
    300_000_000,
    900_000_000,
    1_800_000_000,
    3_600_000_000,
];

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Count, Counts, Gauge, Histogram, LONG, LONG_BOUNDS_US, SHORT, SHORT_BOUNDS_US};
    use crate::observe::label::ReplyClass;

    #[test]
    fn a_count_grows_and_a_gauge_returns() {
        let (count, gauge) = (Count::default(), Gauge::default());
        count.add(4);
        count.increment();
        gauge.raise();
        gauge.raise();
        gauge.lower();
        assert_eq!((count.value(), gauge.value()), (5, 1));
    }

    #[test]
    fn counts_of_different_labels_do_not_mix() {
        let counts = Counts::<ReplyClass>::default();
        counts.count(ReplyClass::Permanent);
        assert_eq!((counts.value(ReplyClass::Transient), counts.value(ReplyClass::Permanent)), (0, 1));
    }

    #[test]
    fn a_duration_falls_into_the_first_bucket_that_is_not_below_it() {
        let histogram = Histogram::<SHORT>::default();
        histogram.observe(Duration::from_micros(50));
        histogram.observe(Duration::from_nanos(50_001));
        histogram.observe(Duration::from_secs(11));
        let buckets = histogram.snapshot().buckets;
        assert_eq!((buckets[0], buckets[1], buckets[16]), ((0.000_05, 1), (0.000_1, 1), (f64::INFINITY, 1)));
    }

    #[test]
    fn sum_and_count_are_those_of_all_durations() {
        let histogram = Histogram::<LONG>::default();
        histogram.observe(Duration::from_millis(1_500));
        histogram.observe(Duration::from_secs(7_200));
        let snapshot = histogram.snapshot();
        assert_eq!((snapshot.count, snapshot.sum_seconds), (2, 7_201.5));
    }

    #[test]
    fn a_duration_beyond_all_measure_breaks_nothing() {
        let histogram = Histogram::<LONG>::default();
        histogram.observe(Duration::MAX);
        assert_eq!(histogram.snapshot().buckets[16].1, 1);
    }

    #[test]
    fn bounds_ascend() {
        assert!(SHORT_BOUNDS_US.is_sorted() && LONG_BOUNDS_US.is_sorted());
    }
}
