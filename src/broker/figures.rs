//! What the broker counts, for the metrics.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::base::SharedHistogram;

/// Counts and gauges, written by the broker's threads and read by any; they order nothing.
#[derive(Debug)]
pub struct Figures {
    /// Publications that the feed has brought.
    pub feed_publications: Count,
    /// Messages of the feed that could not be read, and publications of a newer version.
    pub unreadable: Count,
    /// Times that the feed was lost.
    pub feed_losses: Count,
    /// Times that the connection for requests was lost.
    pub exec_losses: Count,
    /// Attempts to connect that failed.
    pub failed_dials: Count,
    /// Requests sent again.
    pub retries: Count,
    /// Publications that had to wait because Redis may have lost data.
    pub fenced: Count,
    /// Requests that Redis refused, for good.
    pub refused: Count,
    /// Requests that were given up because their time was over.
    pub expired: Count,
    /// Rooms that began anew because they were not what they had to be.
    pub rooms_begun_anew: Count,
    /// Requests that were answered.
    pub answered: Count,
    /// Requests that Redis has and has not answered.
    pub in_flight: Count,
    /// Requests that wait to be sent.
    pub waiting: Count,
    /// Rooms that are followed.
    pub followed_rooms: Count,
    /// How long publications took, from the request to the answer.
    pub publish_times: SharedHistogram,
    pub(super) round_trip_ns: Count,
    pub(super) is_exec_up: AtomicBool,
    pub(super) is_feed_up: AtomicBool,
}

/// A number that other threads may read.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// The number.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn set(&self, number: u64) {
        self.0.store(number, Ordering::Relaxed);
    }
}

impl Figures {
    pub(super) fn new() -> Self {
        Self {
            feed_publications: Count::default(),
            unreadable: Count::default(),
            feed_losses: Count::default(),
            exec_losses: Count::default(),
            failed_dials: Count::default(),
            retries: Count::default(),
            fenced: Count::default(),
            refused: Count::default(),
            expired: Count::default(),
            rooms_begun_anew: Count::default(),
            answered: Count::default(),
            in_flight: Count::default(),
            waiting: Count::default(),
            followed_rooms: Count::default(),
            publish_times: SharedHistogram::of_times(),
            round_trip_ns: Count::default(),
            is_exec_up: AtomicBool::new(false),
            is_feed_up: AtomicBool::new(false),
        }
    }

    /// How long the last requests took that were sent together, from writing the first to having the
    /// last answer.
    #[must_use]
    pub fn last_round_trip(&self) -> Duration {
        Duration::from_nanos(self.round_trip_ns.get())
    }

    /// Whether requests can be sent.
    #[must_use]
    pub fn is_exec_up(&self) -> bool {
        self.is_exec_up.load(Ordering::Relaxed)
    }

    /// Whether the feed is connected.
    #[must_use]
    pub fn is_feed_up(&self) -> bool {
        self.is_feed_up.load(Ordering::Relaxed)
    }
}
