//! Counts of observations by size.
//!
//! Owns: the bounds in use, and the numbers. Plain data: no clock, no lock, no allocation.
//!
//! Invariant: every observation is in exactly one bucket, the first whose bound is not less than
//! it; the last bucket has no bound.

use std::sync::atomic::{AtomicU64, Ordering};

/// Observations by size, in whatever unit its bounds have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram {
    /// Rising; all that are not needed are the last number there is, so that a bucket is found in
    /// as few steps as there are bits in their number.
    bounds: &'static [u64; BOUNDS_MAX],
    counts: [u64; BOUNDS_MAX + 1],
    sum: u64,
    max: u64,
}

impl Histogram {
    /// An empty one for times, in nanoseconds: 10 µs to 1 s.
    #[must_use]
    pub fn of_times() -> Self {
        Self::new(&TIMES_NS)
    }

    /// An empty one for numbers of things waiting: none to 10 000.
    #[must_use]
    pub fn of_lengths() -> Self {
        Self::new(&LENGTHS)
    }

    /// An empty one for sizes of what is waiting: nothing to 64 MiB.
    #[must_use]
    pub fn of_bytes() -> Self {
        Self::new(&BYTES)
    }

    fn new(bounds: &'static [u64; BOUNDS_MAX]) -> Self {
        Self {
            bounds,
            counts: [0; BOUNDS_MAX + 1],
            sum: 0,
            max: 0,
        }
    }

    /// Adds an observation.
    #[inline]
    pub fn observe(&mut self, value: u64) {
        self.observe_many(value, 1);
    }

    /// Adds `count` observations of the same size.
    #[inline]
    pub fn observe_many(&mut self, value: u64, count: u64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        self.counts[bucket] += count;
        self.sum = self.sum.wrapping_add(value.wrapping_mul(count));
        if count > 0 {
            self.max = self.max.max(value);
        }
    }

    /// Each bucket's bound, `None` for the last, with the observations in it, which are not those of
    /// the buckets before.
    pub fn buckets(&self) -> impl Iterator<Item = (Option<u64>, u64)> {
        let bounds = self.bounds.iter().copied();
        let bounds = bounds.take_while(|bound| *bound < u64::MAX);
        bounds.map(Some).chain([None]).zip(self.counts)
    }

    /// Number of observations.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// All observations added up; wraps where they are too many.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// The largest observation; 0 if there was none.
    #[must_use]
    pub fn max(&self) -> u64 {
        self.max
    }
}

/// Times that one thread observes and others read; nothing orders them among each other.
#[derive(Debug)]
pub struct SharedHistogram {
    counts: [AtomicU64; BOUNDS_MAX + 1],
    sum: AtomicU64,
    max: AtomicU64,
}

impl SharedHistogram {
    /// An empty one for times, in nanoseconds: 10 µs to 1 s.
    #[must_use]
    pub fn of_times() -> Self {
        Self {
            counts: std::array::from_fn(|_| AtomicU64::new(0)),
            sum: AtomicU64::new(0),
            max: AtomicU64::new(0),
        }
    }

    /// Adds an observation.
    pub fn observe(&self, value: u64) {
        let bucket = TIMES_NS.partition_point(|bound| *bound < value);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
        self.max.fetch_max(value, Ordering::Relaxed);
    }

    /// What was observed so far.
    #[must_use]
    pub fn read(&self) -> Histogram {
        Histogram {
            bounds: &TIMES_NS,
            counts: std::array::from_fn(|bucket| self.counts[bucket].load(Ordering::Relaxed)),
            sum: self.sum.load(Ordering::Relaxed),
            max: self.max.load(Ordering::Relaxed),
        }
    }
}

/// Most bounds.
const BOUNDS_MAX: usize = 16;

const TIMES_NS: [u64; BOUNDS_MAX] = [
    10_000,
    20_000,
    50_000,
    100_000,
    200_000,
    500_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    20_000_000,
    50_000_000,
    100_000_000,
    200_000_000,
    500_000_000,
    1_000_000_000,
];

const LENGTHS: [u64; BOUNDS_MAX] = padded([0, 1, 5, 10, 50, 100, 500, 1000, 5000, 10_000]);

const BYTES: [u64; BOUNDS_MAX] = padded([
    0,
    1 << 10,
    4 << 10,
    16 << 10,
    64 << 10,
    256 << 10,
    1 << 20,
    4 << 20,
    16 << 20,
    64 << 20,
]);

const fn padded<const N: usize>(bounds: [u64; N]) -> [u64; BOUNDS_MAX] {
    let mut padded = [u64::MAX; BOUNDS_MAX];
    let mut place = 0;
    while place < N {
        padded[place] = bounds[place];
        place += 1;
    }
    padded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_observation_is_in_the_first_bucket_that_holds_it() {
        for (value, expected) in [
            (0, Some(10_000)),
            (10_000, Some(10_000)),
            (10_001, Some(20_000)),
            (1_000_000_000, Some(1_000_000_000)),
            (1_000_000_001, None),
            (u64::MAX, None),
        ] {
            let mut times = Histogram::of_times();
            times.observe(value);
            let filled: Vec<_> = times.buckets().filter(|(_, count)| *count > 0).collect();
            assert_eq!(filled, [(expected, 1)], "{value}");
            assert_eq!((times.count(), times.sum(), times.max()), (1, value, value));
        }
    }

    #[test]
    fn a_shared_one_counts_the_same() {
        let (mut one, shared) = (Histogram::of_times(), SharedHistogram::of_times());
        for value in [0, 10_000, 10_001, 1_000_000_000, 2_000_000_000] {
            one.observe(value);
            shared.observe(value);
        }
        assert_eq!(shared.read(), one);
    }

    #[test]
    fn many_are_added_at_once_and_none_change_nothing() {
        let mut lengths = Histogram::of_lengths();
        lengths.observe_many(7, 3);
        lengths.observe_many(0, 2);
        lengths.observe_many(9_999_999, 0);
        assert_eq!((lengths.count(), lengths.sum(), lengths.max()), (5, 21, 7));
        assert_eq!(lengths.buckets().next(), Some((Some(0), 2)));
        assert_eq!(lengths.buckets().last(), Some((None, 0)));
        assert_eq!(Histogram::of_bytes().buckets().count(), 10 + 1);
        let mut bytes = Histogram::of_bytes();
        bytes.observe(u64::MAX - 1);
        assert_eq!(bytes.buckets().last(), Some((None, 1)));
    }

    #[test]
    fn bounds_rise() {
        for bounds in [TIMES_NS, LENGTHS, BYTES] {
            assert!(bounds.is_sorted());
        }
    }
}
