//! What all shards have counted together.

use std::ops::AddAssign;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::SharedHistogram;

/// Counts and sizes of all shards. Clones share them; they order nothing.
#[derive(Clone, Debug, Default)]
pub struct ShardTotals(Arc<Totals>);

#[derive(Debug, Default)]
struct Totals {
    history_bytes: AtomicUsize,
    keys_forgotten: AtomicU64,
    recoveries: [AtomicU64; RecoveryOutcome::ALL.len()],
    compressed_publications: AtomicU64,
    compressed_from_bytes: AtomicU64,
    compressed_to_bytes: AtomicU64,
    following: FollowingTotals,
}

/// What shards have counted of following rooms, in a cluster.
#[derive(Debug)]
pub struct FollowingTotals {
    /// Times that something was found missing of a room.
    pub holes: Tally,
    /// Times that a room was read.
    pub reads: Tally,
    /// Publications that were delivered from a read.
    pub caught_up: Tally,
    /// Publications that members were told to be lost.
    pub lost: Tally,
    /// Rooms whose numbering has begun anew under their members.
    pub restarts: Tally,
    /// Publications that were given up without a number.
    pub unnumbered: Tally,
    /// Words to other nodes that were dropped, as the broker was away or behind.
    pub unsaid: Tally,
    /// Joins that wait for their room to be known, now.
    pub joins_waiting: Tally,
    /// From taking a publication of this node to having it from the feed, in nanoseconds.
    pub own_deliveries: SharedHistogram,
}

/// A number that many threads change.
#[derive(Debug, Default)]
pub struct Tally(AtomicU64);

impl Tally {
    /// So many more.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// One less.
    pub fn take_one(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// The number.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Default for FollowingTotals {
    fn default() -> Self {
        Self {
            holes: Tally::default(),
            reads: Tally::default(),
            caught_up: Tally::default(),
            lost: Tally::default(),
            restarts: Tally::default(),
            unnumbered: Tally::default(),
            unsaid: Tally::default(),
            joins_waiting: Tally::default(),
            own_deliveries: SharedHistogram::of_times(),
        }
    }
}

/// What came of a member's wish to be given what it missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecoveryOutcome {
    /// Everything was there.
    Complete,
    /// So many publications are gone, and the member could be told how many.
    Lossy,
    /// What is gone cannot be known.
    Unknown,
    /// History was trimmed faster than the member caught up with it; it counted before as what it
    /// began as.
    Overtaken,
}

impl RecoveryOutcome {
    /// Every outcome, in the order of the metrics.
    pub const ALL: [Self; 4] = [Self::Complete, Self::Lossy, Self::Unknown, Self::Overtaken];

    /// The value of the `outcome` label in metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Lossy => "lossy",
            Self::Unknown => "unknown",
            Self::Overtaken => "overtaken",
        }
    }
}

/// What compressing has come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compressed {
    /// Publications compressed.
    pub publications: u64,
    /// Their bytes before.
    pub from_bytes: u64,
    /// Their bytes after.
    pub to_bytes: u64,
}

impl AddAssign for Compressed {
    fn add_assign(&mut self, other: Self) {
        self.publications += other.publications;
        self.from_bytes += other.from_bytes;
        self.to_bytes += other.to_bytes;
    }
}

impl ShardTotals {
    /// A shard's history has come from `before` to `now` bytes.
    pub fn change_history_bytes(&self, before: usize, now: usize) {
        if before != now {
            // Wraps for a loss, and back.
            self.0
                .history_bytes
                .fetch_add(now.wrapping_sub(before), Ordering::Relaxed);
        }
    }

    /// A shard has forgotten an idempotency key before its time.
    pub fn count_forgotten_key(&self) {
        self.0.keys_forgotten.fetch_add(1, Ordering::Relaxed);
    }

    /// A member wanted what it had missed.
    pub fn count_recovery(&self, outcome: RecoveryOutcome) {
        self.0.recoveries[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// A shard has compressed something, or nothing.
    pub fn count_compressed(&self, compressed: Compressed) {
        if compressed.publications == 0 {
            return;
        }
        let Totals {
            compressed_publications,
            compressed_from_bytes,
            compressed_to_bytes,
            ..
        } = &*self.0;
        compressed_publications.fetch_add(compressed.publications, Ordering::Relaxed);
        compressed_from_bytes.fetch_add(compressed.from_bytes, Ordering::Relaxed);
        compressed_to_bytes.fetch_add(compressed.to_bytes, Ordering::Relaxed);
    }

    /// What is counted of following rooms.
    #[must_use]
    pub fn following(&self) -> &FollowingTotals {
        &self.0.following
    }

    /// What history takes, bookkeeping included, in bytes.
    #[must_use]
    pub fn history_bytes(&self) -> usize {
        self.0.history_bytes.load(Ordering::Relaxed)
    }

    /// Idempotency keys forgotten before their time.
    #[must_use]
    pub fn keys_forgotten(&self) -> u64 {
        self.0.keys_forgotten.load(Ordering::Relaxed)
    }

    /// How often members wanted what they had missed, with this outcome.
    #[must_use]
    pub fn recoveries(&self, outcome: RecoveryOutcome) -> u64 {
        self.0.recoveries[outcome as usize].load(Ordering::Relaxed)
    }

    /// What compressing has come to, once for each wire form and once more for each catching up.
    #[must_use]
    pub fn compressed(&self) -> Compressed {
        Compressed {
            publications: self.0.compressed_publications.load(Ordering::Relaxed),
            from_bytes: self.0.compressed_from_bytes.load(Ordering::Relaxed),
            to_bytes: self.0.compressed_to_bytes.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_count_together() {
        let totals = ShardTotals::default();
        totals.clone().change_history_bytes(0, 100);
        totals.change_history_bytes(0, 50);
        totals.change_history_bytes(100, 10);
        totals.count_forgotten_key();
        assert_eq!((totals.history_bytes(), totals.keys_forgotten()), (60, 1));
        for (times, outcome) in RecoveryOutcome::ALL.into_iter().enumerate() {
            for _ in 0..times {
                totals.clone().count_recovery(outcome);
            }
            assert_eq!(totals.recoveries(outcome), times as u64, "{outcome:?}");
        }
        let following = totals.following();
        following.joins_waiting.add(2);
        totals.clone().following().joins_waiting.take_one();
        following.own_deliveries.observe(7);
        assert_eq!(following.joins_waiting.get(), 1);
        assert_eq!(following.own_deliveries.read().sum(), 7);
        let mut compressed = Compressed {
            publications: 1,
            from_bytes: 1000,
            to_bytes: 100,
        };
        totals.count_compressed(compressed);
        totals.count_compressed(compressed);
        compressed += compressed;
        assert_eq!(totals.compressed(), compressed);
    }
}
