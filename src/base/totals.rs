//! What all shards have counted together.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Counts and sizes of all shards. Clones share them; they order nothing.
#[derive(Clone, Debug, Default)]
pub struct ShardTotals(Arc<Totals>);

#[derive(Debug, Default)]
struct Totals {
    history_bytes: AtomicUsize,
    keys_forgotten: AtomicU64,
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
    }
}
