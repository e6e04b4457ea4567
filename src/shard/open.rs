//! In a cluster: what waits for the broker, and until when.
//!
//! Owns: a number for each question and each join, what it is, and its deadline.
//!
//! Invariants
//! - All wait equally long from when they come, so deadlines are in the order of numbers.
//! - Deadlines of what was answered do not gather: there are at most twice as many as there are that
//!   wait, and a few.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use super::numbering::Pending;
use crate::base::{Instant, Now};

/// What waits.
#[derive(Debug)]
pub(super) struct Open {
    wait: Duration,
    last_number: u64,
    pending: HashMap<u64, Pending>,
    deadlines: VecDeque<(Instant, u64)>,
}

impl Open {
    /// Nothing yet; the first number is the one after `last_number`.
    pub(super) fn new(last_number: u64, wait: Duration) -> Self {
        Self {
            wait,
            last_number,
            pending: HashMap::new(),
            deadlines: VecDeque::new(),
        }
    }

    /// Numbers something that waits from now on. Returns its deadline, too.
    pub(super) fn add(&mut self, now: Now, pending: Pending) -> (u64, Instant) {
        self.last_number += 1;
        let number = self.last_number;
        let deadline = now.instant + self.wait;
        self.pending.insert(number, pending);
        self.deadlines.push_back((deadline, number));
        (number, deadline)
    }

    pub(super) fn get(&self, number: u64) -> Option<&Pending> {
        self.pending.get(&number)
    }

    pub(super) fn get_mut(&mut self, number: u64) -> Option<&mut Pending> {
        self.pending.get_mut(&number)
    }

    /// It waits no longer.
    pub(super) fn take(&mut self, number: u64) -> Option<Pending> {
        let taken = self.pending.remove(&number)?;
        let pending = &self.pending;
        while let Some((_, number)) = self.deadlines.front()
            && !pending.contains_key(number)
        {
            self.deadlines.pop_front();
        }
        if self.deadlines.len() > deadlines_max(pending.len()) {
            self.deadlines
                .retain(|(_, number)| pending.contains_key(number));
        }
        Some(taken)
    }

    /// One whose time is over; it is still to be taken.
    pub(super) fn take_due(&mut self, now: Now) -> Option<u64> {
        let (deadline, number) = *self.deadlines.front()?;
        if deadline > now.instant {
            return None;
        }
        self.deadlines.pop_front();
        Some(number)
    }

    /// When the next is over.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.front().map(|(deadline, _)| *deadline)
    }

    pub(super) fn len(&self) -> usize {
        self.pending.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Pending> {
        self.pending.values()
    }

    pub(super) fn check_invariants(&self) {
        assert!(self.deadlines.iter().is_sorted(), "deadlines out of order");
        assert!(
            self.deadlines.len() <= deadlines_max(self.pending.len()),
            "deadlines of what was answered stay behind"
        );
        let waiting = self.deadlines.iter();
        let waiting = waiting.filter(|(_, number)| self.pending.contains_key(number));
        assert_eq!(waiting.count(), self.pending.len(), "no deadline");
    }
}

/// Most deadlines for so many that wait.
fn deadlines_max(pending: usize) -> usize {
    2 * pending + 64
}
