//! A set of numbers that mostly come in order, kept as its unbroken runs.
//!
//! Owns: the runs, sorted, apart from each other by at least one number.
//! Never: grows with how far apart two numbers are, so that a server which invents offsets cannot make
//! the ledger allocate; only the number of *holes* costs memory.

/// A set of numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ranges {
    /// First and last number of each run.
    runs: Vec<(u64, u64)>,
}

impl Ranges {
    /// Adds one number. Returns whether it was new.
    pub(super) fn insert(&mut self, number: u64) -> bool {
        if let Some(last) = self.runs.last_mut()
            && last.1.checked_add(1) == Some(number)
        {
            last.1 = number;
            return true;
        }
        if self.contains(number) {
            return false;
        }
        self.insert_all(number, number);
        true
    }

    /// Adds every number from `first` to `last`; nothing if `last` is smaller.
    pub(super) fn insert_all(&mut self, first: u64, last: u64) {
        if last < first {
            return;
        }
        let from = self
            .runs
            .partition_point(|run| run.1 < first.saturating_sub(1));
        let to = self
            .runs
            .partition_point(|run| run.0 <= last.saturating_add(1));
        let mut merged = (first, last);
        for run in &self.runs[from..to] {
            merged = (merged.0.min(run.0), merged.1.max(run.1));
        }
        self.runs.splice(from..to, [merged]);
    }

    /// Adds everything that is in `other`.
    pub(super) fn insert_ranges(&mut self, other: &Self) {
        for &(first, last) in &other.runs {
            self.insert_all(first, last);
        }
    }

    /// Takes one number out. Returns whether it was there.
    pub(super) fn remove(&mut self, number: u64) -> bool {
        let at = self.runs.partition_point(|run| run.1 < number);
        let Some(&(first, last)) = self.runs.get(at).filter(|run| run.0 <= number) else {
            return false;
        };
        let left = (first < number).then(|| (first, number - 1));
        let right = (number < last).then(|| (number + 1, last));
        self.runs.splice(at..=at, left.into_iter().chain(right));
        true
    }

    /// Whether `number` is in the set.
    pub(super) fn contains(&self, number: u64) -> bool {
        let at = self.runs.partition_point(|run| run.1 < number);
        self.runs.get(at).is_some_and(|run| run.0 <= number)
    }

    /// How many numbers there are.
    pub(super) fn len(&self) -> u64 {
        self.runs.iter().fold(0, |sum: u64, run| {
            sum.saturating_add((run.1 - run.0).saturating_add(1))
        })
    }

    /// The runs, in order.
    pub(super) fn runs(&self) -> &[(u64, u64)] {
        &self.runs
    }

    /// What is missing from `first` to `last`.
    pub(super) fn gaps(&self, first: u64, last: u64) -> Self {
        let mut runs = Vec::new();
        let mut next = Some(first);
        for &(from, to) in &self.runs {
            let Some(start) = next else { break };
            if from > last {
                break;
            }
            if from > start {
                runs.push((start, from - 1));
            }
            if to >= start {
                next = to.checked_add(1);
            }
        }
        if let Some(start) = next.filter(|&start| start <= last) {
            runs.push((start, last));
        }
        Self { runs }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(numbers: &[u64]) -> Ranges {
        let mut set = Ranges::default();
        for &number in numbers {
            set.insert(number);
        }
        set
    }

    #[test]
    fn agrees_with_a_plain_set() {
        let mut plain = std::collections::BTreeSet::new();
        let mut ranges = Ranges::default();
        let mut prng = crate::base::Prng::new(7);
        for _ in 0..5_000 {
            let number = prng.below(60);
            if prng.below(3) == 0 {
                assert_eq!(ranges.remove(number), plain.remove(&number));
            } else {
                assert_eq!(ranges.insert(number), plain.insert(number));
            }
            assert_eq!(ranges.len(), plain.len() as u64);
            assert!((0..60).all(|n| ranges.contains(n) == plain.contains(&n)));
            assert!(ranges.runs.windows(2).all(|w| w[0].1 + 1 < w[1].0));
            let (lo, hi) = (prng.below(60), prng.below(60));
            let gaps = ranges.gaps(lo, hi);
            assert!(
                (0..60).all(|n| {
                    gaps.contains(n) == ((lo..=hi).contains(&n) && !plain.contains(&n))
                })
            );
        }
    }

    #[test]
    fn in_order_costs_one_run() {
        let numbers: Vec<u64> = (1..1_000).collect();
        assert_eq!(set(&numbers).runs, [(1, 999)]);
    }

    #[test]
    fn reaches_the_ends_of_the_numbers() {
        let mut ranges = set(&[0, u64::MAX]);
        assert!(!ranges.insert(u64::MAX));
        assert_eq!(ranges.gaps(0, u64::MAX).runs, [(1, u64::MAX - 1)]);
        ranges.insert_all(0, u64::MAX);
        assert_eq!(ranges.runs, [(0, u64::MAX)]);
        assert_eq!(ranges.len(), u64::MAX);
        assert!(ranges.remove(u64::MAX) && ranges.remove(0));
        assert_eq!(
            ranges.gaps(0, u64::MAX).runs,
            [(0, 0), (u64::MAX, u64::MAX)]
        );
    }
}
