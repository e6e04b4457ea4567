//! How many rooms there may be on this node, over all workers.
//!
//! The one number that the workers share: a bound that each of them kept for itself would refuse
//! rooms while others have places left.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Places for rooms; cloning shares them.
#[derive(Clone, Debug)]
pub struct RoomBudget {
    used: Arc<AtomicUsize>,
    max: usize,
}

impl RoomBudget {
    /// Places for `max` rooms.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self {
            used: Arc::default(),
            max,
        }
    }

    /// Takes a place, if there is one.
    #[must_use]
    pub fn take(&self) -> bool {
        let max = self.max;
        let one_more = |used| (used < max).then_some(used + 1);
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more)
            .is_ok()
    }

    /// Gives a place back.
    pub fn give_back(&self) {
        let before = self.used.fetch_sub(1, Ordering::Relaxed);
        debug_assert!(before > 0, "more places given back than taken");
    }

    /// Rooms there are now.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_taken_and_given_back() {
        let budget = RoomBudget::new(2);
        let shared = budget.clone();
        assert!(budget.take() && shared.take());
        assert!(!budget.take());
        shared.give_back();
        assert_eq!(budget.used(), 1);
        assert!(budget.take());
    }
}
