//! How many messages a connection may send: so many a second, and so many at once.
//!
//! A token bucket written as one instant (the generic cell rate algorithm): each message moves the
//! instant at which the bucket is full again by one interval, and may not move it further ahead
//! than the burst. Never: keeps a timer, or delays anything; it says yes or no.

use std::time::Duration;

use crate::base::{Instant, Limits};

/// The bucket of one connection.
#[derive(Clone, Copy, Debug)]
pub struct Quota {
    full_at: Instant,
}

impl Quota {
    /// A full bucket.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { full_at: now }
    }

    /// Takes one message out of the bucket; returns whether there was one left.
    pub fn take(&mut self, now: Instant, limits: &Limits) -> bool {
        if limits.message_rate == 0 {
            return true;
        }
        let interval = Duration::from_secs(1) / limits.message_rate;
        let burst = match limits.message_burst {
            0 => limits.message_rate.saturating_mul(2),
            burst => burst,
        };
        let full_at = self.full_at.max(now) + interval;
        let is_allowed = full_at <= now + interval.saturating_mul(burst);
        if is_allowed {
            self.full_at = full_at;
        }
        is_allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_burst_comes_at_once_and_the_rate_for_ever() {
        let limits = Limits {
            message_rate: 10,
            message_burst: 3,
            ..Limits::default()
        };
        let start = Instant::ORIGIN;
        let mut quota = Quota::new(start);
        let taken = (0..10).filter(|_| quota.take(start, &limits)).count();
        assert_eq!(taken, 3);
        let later = start + Duration::from_millis(99);
        assert!(!quota.take(later, &limits));
        for tenth in 1..100 {
            let now = start + Duration::from_millis(100) * tenth;
            assert!(quota.take(now, &limits), "{tenth}");
            assert!(!quota.take(now, &limits), "{tenth}");
        }
        let rested = start + Duration::from_secs(100);
        assert_eq!((0..10).filter(|_| quota.take(rested, &limits)).count(), 3);
    }

    #[test]
    fn without_a_rate_everything_passes_and_the_burst_defaults_to_two_seconds() {
        let start = Instant::ORIGIN;
        let mut quota = Quota::new(start);
        assert!((0..1000).all(|_| quota.take(start, &Limits::default())));
        let limits = Limits {
            message_rate: 5,
            ..Limits::default()
        };
        let mut quota = Quota::new(start);
        assert_eq!((0..100).filter(|_| quota.take(start, &limits)).count(), 10);
    }
}
