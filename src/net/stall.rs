//! After a stop of the whole process, hear first what has come meanwhile; then look at the timers.
//!
//! A process that was stopped, or a machine that was suspended, finds deadlines passed that nobody
//! could keep: pongs, heads and room in a socket lie in the kernel. One turn takes a part of them only,
//! and what it takes may need a worker's answer. So timers wait until all is taken, though not for long:
//! those who never stop talking shall not keep others from being given up.

use std::time::Duration;

use crate::base::Instant;

/// Whether timers wait.
#[derive(Debug, Default)]
pub(super) struct Stall {
    /// Since when they do.
    held_since: Option<Instant>,
}

impl Stall {
    /// The loop read the clock at `before`, wanted to sleep for `timeout` at most, and has woken.
    pub(super) fn handle_wake(&mut self, before: Instant, timeout: Option<Duration>, now: Instant) {
        // Who sleeps for ever has no deadline that could have passed.
        let Some(timeout) = timeout else { return };
        if now > before + timeout + STALL {
            // A loop whose turns are that long by themselves looks at its timers now and then.
            self.held_since.get_or_insert(now);
        }
    }

    /// Whether timers wait in this turn, given whether there is more to be heard.
    pub(super) fn holds(&mut self, now: Instant, has_more: impl FnOnce() -> bool) -> bool {
        let Some(since) = self.held_since else {
            return false;
        };
        let is_over = now >= since + HOLD_MAX || now >= since + HOLD_MIN && !has_more();
        if is_over {
            self.held_since = None;
        }
        !is_over
    }

    /// When timers must be looked at, the next of which is due at `deadline`.
    pub(super) fn postpone(&self, deadline: Option<Instant>) -> Option<Instant> {
        let earliest = self.held_since.map(|since| since + HOLD_MIN);
        deadline.map(|deadline| earliest.map_or(deadline, |earliest| deadline.max(earliest)))
    }
}

/// A turn, or a sleep, that took so much longer than it should have is a stop.
const STALL: Duration = Duration::from_millis(500);

/// Shortest time that timers wait: time for answers of the workers, which were stopped as well.
const HOLD_MIN: Duration = Duration::from_secs(1);

/// Longest time that timers wait.
const HOLD_MAX: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn timers_wait_after_a_stop_until_all_is_heard_or_it_takes_too_long() {
        let start = Instant::ORIGIN;
        let woken = start + 501 * MS;
        for (now, has_more, is_held) in [
            (woken, false, true),
            (woken + 999 * MS, false, true),
            (woken + 1000 * MS, false, false),
            (woken + 1999 * MS, true, true),
            (woken + 2000 * MS, true, false),
        ] {
            let mut stall = Stall::default();
            stall.handle_wake(start, Some(Duration::ZERO), woken);
            // Another stop is no reason to wait for longer.
            stall.handle_wake(woken, Some(Duration::ZERO), woken + 1000 * MS);
            assert_eq!(stall.postpone(None), None);
            assert_eq!(stall.postpone(Some(start)), Some(woken + 1000 * MS));
            assert_eq!(
                stall.postpone(Some(woken + 1200 * MS)),
                Some(woken + 1200 * MS)
            );
            assert_eq!(stall.holds(now, || has_more), is_held, "{now:?} {has_more}");
            assert_eq!(stall.postpone(Some(start)) != Some(start), is_held);
        }
    }

    #[test]
    fn a_sleep_and_a_long_turn_are_no_stop() {
        let start = Instant::ORIGIN;
        let mut stall = Stall::default();
        stall.handle_wake(start, Some(10_000 * MS), start + 10_500 * MS);
        stall.handle_wake(start, None, start + 100_000 * MS);
        assert!(!stall.holds(start, || true));
        assert_eq!(stall.postpone(Some(start)), Some(start));
    }
}
