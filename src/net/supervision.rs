//! What the loop tells a service manager by itself: that it turns, and what it holds.
//!
//! Owns: when each of the two is due.
//! Never: reads a clock, waits, or sends; it gives a text to whoever does.
//!
//! Invariants
//! - Only a turn of the loop says that the loop turns, so a stuck one is silent.
//! - While the loop turns when [`Supervision::poll_timeout`] asks for it, no two such words are
//!   further apart than the interval and one turn.
//! - Sizes are told at most once in [`STATUS_INTERVAL`], and not later than that after they changed.

use std::fmt;
use std::time::Duration;

use crate::base::Instant;

/// The way to a service manager that watches this process.
pub(crate) struct Supervision {
    tell: Box<dyn Fn(&str) -> bool + Send>,
    /// Longest time between two signs of life; `None` if nobody waits for them.
    ping_interval: Option<Duration>,
    next_ping: Instant,
    /// What was told last; `None` before the first turn.
    told: Option<Sizes>,
    next_status: Instant,
    /// What the last turn held.
    sizes: Sizes,
}

/// What a loop holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sizes {
    /// Connections, on every listener.
    pub(crate) connections: usize,
    /// Rooms with members.
    pub(crate) rooms: usize,
}

impl Supervision {
    /// `tell` must not wait, and returns false where it would have had to: the text is told again
    /// then. The first turn tells everything at once.
    pub(crate) fn new(
        ping_interval: Option<Duration>,
        tell: impl Fn(&str) -> bool + Send + 'static,
    ) -> Self {
        Self {
            tell: Box::new(tell),
            ping_interval: ping_interval.map(|interval| interval.max(PING_INTERVAL_MIN)),
            next_ping: Instant::ORIGIN,
            told: None,
            next_status: Instant::ORIGIN,
            sizes: Sizes::default(),
        }
    }

    /// The loop has turned and holds this: tells what is due.
    pub(super) fn handle_turn(&mut self, now: Instant, sizes: Sizes) {
        self.sizes = sizes;
        if let Some(interval) = self.ping_interval
            && now >= self.next_ping
        {
            let is_told = (self.tell)("WATCHDOG=1");
            self.next_ping = now
                + if is_told {
                    interval
                } else {
                    interval.min(PING_RETRY)
                };
        }
        if self.told != Some(sizes) && now >= self.next_status {
            self.next_status = now + STATUS_INTERVAL;
            if (self.tell)(&format!("STATUS={sizes}")) {
                self.told = Some(sizes);
            }
        }
    }

    /// When the loop must turn although nothing happens.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let ping = self.ping_interval.map(|_| self.next_ping);
        let status = (self.told != Some(self.sizes)).then_some(self.next_status);
        [ping, status].into_iter().flatten().min()
    }
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = |count| if count == 1 { "" } else { "s" };
        let Self { connections, rooms } = *self;
        write!(
            f,
            "{connections} connection{}, {rooms} room{}",
            plural(connections),
            plural(rooms)
        )
    }
}

/// Least time between two texts about sizes.
const STATUS_INTERVAL: Duration = Duration::from_secs(3);

/// How soon a sign of life that was not taken is given again.
const PING_RETRY: Duration = Duration::from_millis(100);

/// An interval that is shorter would keep the loop from sleeping.
const PING_INTERVAL_MIN: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use crossbeam_channel::{Receiver, bounded};

    use super::*;

    fn supervision(ping_interval: Option<Duration>) -> (Supervision, Receiver<String>) {
        // More than one turn tells, so that it never waits.
        let (sender, told) = bounded(8);
        let tell = move |text: &str| sender.try_send(text.to_owned()).is_ok();
        (Supervision::new(ping_interval, tell), told)
    }

    #[test]
    fn what_finds_no_room_is_told_again() {
        let (sender, told) = bounded(1);
        let tell = move |text: &str| sender.try_send(text.to_owned()).is_ok();
        let mut supervision = Supervision::new(Some(Duration::from_secs(2)), tell);
        let ping = "WATCHDOG=1";
        for (now, expected, timeout) in [
            // There is room for the first of the two.
            (10, ping, 2010),
            (2010, ping, 3010),
            (3010, "STATUS=1 connection, 1 room", 4010),
        ] {
            supervision.handle_turn(at(now), sizes(1, 1));
            assert_eq!(supervision.poll_timeout(), Some(at(timeout)), "at {now}");
            assert_eq!(told.try_iter().collect::<Vec<_>>(), [expected], "at {now}");
        }
        supervision.handle_turn(at(4010), sizes(1, 1));
        // The queue is full: a sign of life is given again soon.
        supervision.handle_turn(at(6010), sizes(1, 1));
        assert_eq!(supervision.poll_timeout(), Some(at(6110)));
        assert_eq!(told.try_iter().count(), 1);
        supervision.handle_turn(at(6110), sizes(1, 1));
        assert_eq!(supervision.poll_timeout(), Some(at(8110)));
        assert_eq!(told.try_iter().collect::<Vec<_>>(), [ping]);
    }

    fn at(ms: u64) -> Instant {
        Instant::ORIGIN + Duration::from_millis(ms)
    }

    fn sizes(connections: usize, rooms: usize) -> Sizes {
        Sizes { connections, rooms }
    }

    #[test]
    fn each_turn_tells_what_is_due_and_asks_for_the_next() {
        let (mut supervision, told) = supervision(Some(Duration::from_millis(2000)));
        assert_eq!(supervision.poll_timeout(), Some(Instant::ORIGIN));
        let ping = "WATCHDOG=1";
        let none = "STATUS=0 connections, 0 rooms";
        let one = "STATUS=1 connection, 1 room";
        let many = "STATUS=3 connections, 2 rooms";
        for (now, held, expected, timeout) in [
            (10, sizes(0, 0), &[ping, none][..], 2010),
            (2009, sizes(0, 0), &[], 2010),
            (2010, sizes(0, 0), &[ping], 4010),
            // Nothing was told for long, so a change is told at once; the next has to wait.
            (3100, sizes(1, 1), &[one], 4010),
            (3200, sizes(2, 1), &[], 4010),
            (4010, sizes(2, 1), &[ping], 6010),
            (4020, sizes(3, 2), &[], 6010),
            (6010, sizes(3, 2), &[ping], 6100),
            (6099, sizes(3, 2), &[], 6100),
            (6100, sizes(3, 2), &[many], 8010),
            // What has gone back by itself needs no word.
            (6200, sizes(4, 2), &[], 8010),
            (6300, sizes(3, 2), &[], 8010),
            // A loop that was late is not late for ever.
            (30_000, sizes(3, 2), &[ping], 32_000),
        ] {
            supervision.handle_turn(at(now), held);
            assert_eq!(told.try_iter().collect::<Vec<_>>(), expected, "at {now}");
            assert_eq!(supervision.poll_timeout(), Some(at(timeout)), "at {now}");
        }
    }

    #[test]
    fn without_a_watchdog_an_idle_loop_may_sleep() {
        let (mut supervision, told) = supervision(None);
        supervision.handle_turn(at(1), sizes(0, 0));
        assert_eq!(told.try_iter().count(), 1);
        assert_eq!(supervision.poll_timeout(), None);
        supervision.handle_turn(at(2), sizes(1, 0));
        assert_eq!(told.try_iter().count(), 0);
        assert_eq!(supervision.poll_timeout(), Some(at(3001)));
    }

    #[test]
    fn an_interval_of_nothing_leaves_time_to_sleep() {
        let (mut supervision, _told) = supervision(Some(Duration::ZERO));
        supervision.handle_turn(at(7), sizes(0, 0));
        assert_eq!(supervision.poll_timeout(), Some(at(8)));
    }
}
