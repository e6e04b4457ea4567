//! The log line that a connection leaves at its end.
//!
//! Owns: the form of that line, and a count for each reason of the lines that were held back.
//! Never: holds back silently. What is over the limit is a line of level debug instead, and how many
//! there were is told at the level of the reason, so that neither a crowd of slow members nor a
//! hostile client can fill a disk or hide what else is there to read.

use std::time::Duration;

use crate::base::{CloseReason, Instant, Severity, shown_address};
use crate::hub::Farewell;

/// The ends of connections, as the log tells them.
#[derive(Debug, Default)]
pub(super) struct FarewellLog {
    by_reason: [Repeats; CloseReason::ALL.len()],
    /// When the next count is due.
    due: Option<Instant>,
}

impl FarewellLog {
    /// Tells the end of one connection; `failure` is why there was no TLS with its peer.
    pub(super) fn say(&mut self, now: Instant, farewell: &Farewell, failure: Option<&str>) {
        let Farewell {
            id,
            peer,
            reason,
            code,
            opened_at,
            traffic,
            ..
        } = farewell;
        let peer = shown_address(*peer);
        let mut level = level_of(*reason);
        // Lines of level debug are there for who wants all of them.
        if level < log::Level::Debug {
            // A window that is over is told before another begins, which would put it off.
            self.tell_if_due(now);
            let repeats = &mut self.by_reason[reason.index()];
            if !repeats.admit(now) {
                level = log::Level::Debug;
                self.due = [self.due, repeats.until].into_iter().flatten().min();
            }
        }
        let (error, failure) = failure.map_or(("", ""), |failure| (" error=", failure));
        log::log!(
            level,
            "closed id={id} peer={peer} reason={} code={code} age={:.3}s rx={}B/{} tx={}B/{} \
             skipped={}{error}{failure}",
            reason.label(),
            now.saturating_duration_since(*opened_at).as_secs_f64(),
            traffic.received_bytes,
            traffic.received_messages,
            traffic.sent_bytes,
            traffic.deliveries,
            traffic.skipped,
        );
    }

    /// Tells the counts that are due.
    pub(super) fn tell_if_due(&mut self, now: Instant) {
        if self.due.is_some_and(|due| due <= now) {
            self.tell(Some(now));
        }
    }

    /// Tells every count there is.
    pub(super) fn tell_held_back(&mut self) {
        self.tell(None);
    }

    /// When [`FarewellLog::tell_if_due`] has something to tell.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.due
    }

    fn tell(&mut self, now: Option<Instant>) {
        self.due = None;
        for reason in CloseReason::ALL {
            let repeats = &mut self.by_reason[reason.index()];
            if let Some(count) = repeats.take_held_back(now) {
                let label = reason.label();
                let secs = WINDOW.as_secs();
                log::log!(
                    level_of(reason),
                    "closed reason={label} ({count} more in the last {secs} s)"
                );
            } else if repeats.held_back > 0 {
                self.due = [self.due, repeats.until].into_iter().flatten().min();
            }
        }
    }
}

fn level_of(reason: CloseReason) -> log::Level {
    match reason.severity() {
        Severity::Ordinary => log::Level::Debug,
        Severity::Notable => log::Level::Info,
        Severity::Warning => log::Level::Warn,
    }
}

/// A line that may repeat.
#[derive(Clone, Copy, Debug, Default)]
struct Repeats {
    /// When the window ends that is being counted in.
    until: Option<Instant>,
    /// Lines let through in it.
    passed: u32,
    /// Lines held back and not told.
    held_back: u64,
}

impl Repeats {
    /// Whether one more line may go out now; if not, it is counted.
    fn admit(&mut self, now: Instant) -> bool {
        if self.until.is_none_or(|until| until <= now) {
            self.until = Some(now + WINDOW);
            self.passed = 0;
        }
        if self.passed < LINES_MAX {
            self.passed += 1;
            true
        } else {
            self.held_back += 1;
            false
        }
    }

    /// The lines held back, if there are any and the window is over by `now`, which it is without.
    fn take_held_back(&mut self, now: Option<Instant>) -> Option<u64> {
        let is_over = now.is_none_or(|now| self.until.is_none_or(|until| until <= now));
        if !is_over || self.held_back == 0 {
            return None;
        }
        Some(std::mem::take(&mut self.held_back))
    }
}

/// Lines of one kind that go out within [`WINDOW`].
const LINES_MAX: u32 = 10;

/// How long lines of one kind are counted together.
const WINDOW: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> Instant {
        Instant::ORIGIN + Duration::from_secs(secs)
    }

    fn farewell(reason: CloseReason) -> Farewell {
        Farewell {
            id: crate::base::ConnId::NONE,
            peer: ([127, 0, 0, 1], 1).into(),
            identity: None,
            reason,
            code: 0,
            was_open: false,
            opened_at: at(0),
            traffic: Default::default(),
        }
    }

    #[test]
    fn what_repeats_is_counted_and_told_when_its_window_is_over() {
        let mut repeats = Repeats::default();
        for number in 0..LINES_MAX {
            assert!(repeats.admit(at(0)), "{number}");
        }
        assert_eq!(
            repeats.take_held_back(Some(at(20))),
            None,
            "none was held back"
        );
        for _ in 0..5 {
            assert!(!repeats.admit(at(9)));
        }
        assert_eq!(repeats.take_held_back(Some(at(9))), None, "not over yet");
        assert_eq!(repeats.take_held_back(Some(at(10))), Some(5));
        assert_eq!(repeats.take_held_back(Some(at(10))), None, "told once");
        assert!(repeats.admit(at(10)), "another window");
    }

    #[test]
    fn what_was_held_back_is_not_forgotten_in_the_next_window() {
        let mut repeats = Repeats::default();
        let passed = (0..100).filter(|_| repeats.admit(at(0))).count();
        assert_eq!(passed, LINES_MAX as usize);
        assert!(repeats.admit(at(30)));
        assert_eq!(repeats.take_held_back(Some(at(31))), None);
        assert_eq!(repeats.take_held_back(None), Some(90), "at the very end");
    }

    #[test]
    fn the_next_count_that_is_due_is_known() {
        let mut log = FarewellLog::default();
        let say = |log: &mut FarewellLog, secs, reason, count| {
            for _ in 0..count {
                log.say(at(secs), &farewell(reason), None);
            }
        };
        // Those of level debug are not counted.
        say(&mut log, 0, CloseReason::Gone, 100);
        say(&mut log, 0, CloseReason::Slow, 10);
        assert_eq!(log.poll_timeout(), None);
        say(&mut log, 3, CloseReason::Refused, 11);
        assert_eq!(log.poll_timeout(), Some(at(13)));
        say(&mut log, 5, CloseReason::Slow, 1);
        assert_eq!(log.poll_timeout(), Some(at(10)));
        log.tell_if_due(at(9));
        assert_eq!(log.poll_timeout(), Some(at(10)));
        log.tell_if_due(at(10));
        assert_eq!(log.poll_timeout(), Some(at(13)));
        log.tell_held_back();
        assert_eq!(log.poll_timeout(), None);
    }

    #[test]
    fn a_flood_without_a_pause_is_told_at_the_end_of_each_window() {
        let mut log = FarewellLog::default();
        let mut told = 0;
        for secs in 0..40 {
            for _ in 0..100 {
                let before = log.by_reason[CloseReason::Slow.index()].held_back;
                log.say(at(secs), &farewell(CloseReason::Slow), None);
                let after = log.by_reason[CloseReason::Slow.index()].held_back;
                told += u64::from(after < before);
            }
            log.tell_if_due(at(secs));
        }
        assert_eq!(told, 3, "at 10, 20 and 30 s");
        let repeats = &log.by_reason[CloseReason::Slow.index()];
        assert_eq!(repeats.held_back, 1000 - u64::from(LINES_MAX));
        assert_eq!(log.poll_timeout(), Some(at(40)));
    }
}
