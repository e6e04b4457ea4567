//! Where the time of the loop goes.
//!
//! Owns: a histogram for each phase and one for whole turns, and where the phase that is going on
//! began.
//!
//! The clock is read where a phase ends that had something to do. One that had nothing to do is not
//! observed, and what little time it took counts for the next; what follows the last of a turn counts
//! for the turn alone.

use crate::base::{Histogram, Instant};
use crate::clock;

/// What a turn is made of, but for its sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Note,
    Accept,
    Receive,
    Jobs,
    Effects,
    Expire,
    Flush,
    Report,
    Reap,
}

impl Phase {
    /// Every phase, in the order of a turn.
    pub(crate) const ALL: [Self; 9] = [
        Self::Note,
        Self::Accept,
        Self::Receive,
        Self::Jobs,
        Self::Effects,
        Self::Expire,
        Self::Flush,
        Self::Report,
        Self::Reap,
    ];

    /// The value of the `phase` label in metrics.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Accept => "accept",
            Self::Receive => "receive",
            Self::Jobs => "jobs",
            Self::Effects => "effects",
            Self::Expire => "expire",
            Self::Flush => "flush",
            Self::Report => "report",
            Self::Reap => "reap",
        }
    }
}

/// Times of turns and phases, in nanoseconds.
#[derive(Clone, Debug)]
pub(crate) struct Meter {
    phases: [Histogram; Phase::ALL.len()],
    turns: Histogram,
    waited_ns: u64,
    /// When this turn began.
    woken_at: Instant,
    /// When the phase that is going on began.
    since: Instant,
}

impl Meter {
    /// A loop begins that will sleep first.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            phases: [(); Phase::ALL.len()].map(|()| Histogram::of_times()),
            turns: Histogram::of_times(),
            waited_ns: 0,
            woken_at: now,
            since: now,
        }
    }

    /// A turn begins.
    pub(crate) fn wake(&mut self, now: Instant) {
        self.waited_ns += now.nanos_since(self.since);
        self.woken_at = now;
        self.since = now;
    }

    /// A phase has ended, which had something to do. Returns the time.
    pub(crate) fn end(&mut self, phase: Phase) -> Instant {
        let now = clock::read_instant();
        self.note(phase, now);
        now
    }

    /// A turn has ended.
    pub(crate) fn end_turn(&mut self) {
        let now = clock::read_instant();
        self.since = now;
        self.turns.observe(now.nanos_since(self.woken_at));
    }

    fn note(&mut self, phase: Phase, now: Instant) {
        self.phases[phase as usize].observe(now.nanos_since(self.since));
        self.since = now;
    }

    /// Each phase with its times.
    pub(crate) fn phases(&self) -> impl Iterator<Item = (Phase, &Histogram)> {
        Phase::ALL.into_iter().zip(&self.phases)
    }

    /// The times of whole turns, from waking to their end.
    pub(crate) fn turns(&self) -> &Histogram {
        &self.turns
    }

    /// Time between turns, asleep for nearly all of it.
    pub(crate) fn waited_ns(&self) -> u64 {
        self.waited_ns
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn time_goes_to_the_phase_that_ends() {
        let at = |us| Instant::ORIGIN + Duration::from_micros(us);
        let mut meter = Meter::new(at(0));
        meter.wake(at(100));
        meter.note(Phase::Note, at(101));
        meter.note(Phase::Flush, at(131));
        meter.wake(at(200));
        meter.note(Phase::Flush, at(205));
        let found: Vec<_> = meter
            .phases()
            .filter(|(_, times)| times.count() > 0)
            .map(|(phase, times)| (phase.label(), times.count(), times.sum()))
            .collect();
        assert_eq!(found, [("note", 1, 1000), ("flush", 2, 35_000)]);
        assert_eq!(meter.waited_ns(), 169_000);
        assert_eq!(meter.turns().count(), 0);
        meter.end_turn();
        assert_eq!(meter.turns().count(), 1);
        let observed = meter.phases().map(|(_, times)| times.count());
        assert_eq!(observed.sum::<u64>(), 3, "the rest of a turn is no phase");
        for (place, phase) in Phase::ALL.into_iter().enumerate() {
            assert_eq!(phase as usize, place, "{phase:?}");
        }
    }
}
