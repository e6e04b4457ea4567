//! How long publications take from being taken from their publisher to being written.
//!
//! Owns: when the publications were taken that are queued and not yet written everywhere, and how
//! many connections had their turn since.
//! Never: reads a clock. The shell says when it has written, once a turn; no delivery costs a
//! reading.
//!
//! What is queued for many members is written as the list of connections to write to is worked off.
//! It is written when all who stood in the list when it was queued have had their turn, were it
//! after some turns of the loop.

use std::collections::VecDeque;

use super::Hub;
use crate::base::{Histogram, Instant};

/// Publications on their way to sockets.
#[derive(Debug, Default)]
pub(super) struct Latency {
    /// In the order in which they were queued.
    queued: VecDeque<Queued>,
    /// Connections that have had their turn, ever; wraps.
    flushed: u64,
}

#[derive(Debug)]
struct Queued {
    taken_at: Instant,
    /// How many connections will have had their turn when it is written.
    written_at: u64,
}

impl Latency {
    /// A connection has its turn.
    #[inline]
    pub(super) fn note_flush(&mut self) {
        self.flushed = self.flushed.wrapping_add(1);
    }

    /// What was taken at `taken_at` is queued; the last to whom it goes is not behind the
    /// `dirty_len`-th in the list.
    pub(super) fn note_queued(&mut self, taken_at: Instant, dirty_len: usize) {
        // Under an overload a sample is enough.
        if self.queued.len() < QUEUED_MAX {
            let written_at = self.flushed.wrapping_add(dirty_len as u64);
            self.queued.push_back(Queued {
                taken_at,
                written_at,
            });
        }
    }

    /// The connections that have had their turn were written to by `now`.
    pub(super) fn settle(&mut self, now: Instant, latencies: &mut Histogram) {
        while let Some(first) = self.queued.front()
            && self.flushed.wrapping_sub(first.written_at) as i64 >= 0
        {
            latencies.observe(now.nanos_since(first.taken_at));
            self.queued.pop_front();
        }
    }
}

impl<S> Hub<S> {
    /// All that [`Hub::poll_flush`] has named so far was written to by `now`.
    pub fn handle_flushed(&mut self, now: Instant) {
        self.latency
            .settle(now, &mut self.counters.publish_to_socket);
    }
}

/// How many are remembered; while so many wait, others are not counted.
const QUEUED_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn it_is_over_when_the_last_in_the_list_has_had_its_turn() {
        let at = |ms| Instant::ORIGIN + Duration::from_millis(ms);
        let mut latency = Latency {
            flushed: u64::MAX,
            ..Latency::default()
        };
        let mut found = Histogram::of_times();
        latency.settle(at(0), &mut found);
        latency.note_queued(at(1), 2);
        latency.note_flush();
        latency.note_queued(at(2), 2);
        latency.settle(at(3), &mut found);
        assert_eq!(found.count(), 0);
        latency.note_flush();
        latency.settle(at(4), &mut found);
        assert_eq!((found.count(), found.sum()), (1, 3_000_000));
        latency.note_flush();
        latency.settle(at(12), &mut found);
        assert_eq!((found.count(), found.max()), (2, 10_000_000));
        for _ in 0..2 * QUEUED_MAX {
            latency.note_queued(at(12), 1);
        }
        latency.note_flush();
        latency.settle(at(12), &mut found);
        assert_eq!(found.count(), 2 + QUEUED_MAX as u64);
    }
}
