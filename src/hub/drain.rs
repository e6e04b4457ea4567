//! The end in good order: who is told to go, when, and when to come back.
//!
//! Owns: the stages of the end, the pace of the closes, how long each client is asked to stay away.
//! Never: drops what is queued before its time to be written is over. A close frame goes behind it;
//! `ending` does that.
//!
//! ```text
//! Serving ──handle_shutdown──► Draining ──handle_end──► Ending
//! ```
//!
//! While draining, members are served as ever and no other WebSocket is let in; health checks and
//! calls are answered. Once ending, nothing new is begun on any connection.
//!
//! Invariants
//! - Of `n` WebSockets, one is closed at the beginning and one after each `n`th of the time; those
//!   who leave by themselves make the steps of the others longer.
//! - A turn closes at most [`CLOSES_PER_TURN`] and looks at no more than [`SLOTS_PER_TURN`].

use std::time::Duration;

use super::Hub;
use crate::base::{CloseReason, ConnId, Instant, Now, Prng};
use crate::conn::Entrance;

/// How far the end is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stage {
    /// There is no end in sight.
    Serving,
    /// WebSockets are being closed, one after the other.
    Draining(Drain),
    /// Everything else is, in the order of the slots.
    Ending {
        /// The slot to look at next.
        next_slot: u32,
        /// How long clients are to stay away.
        absence: Absence,
    },
}

/// The pace of the closes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Drain {
    /// Until when calls that were made before are waited for.
    patience: Instant,
    /// When the next WebSocket is closed; `None` while calls are waited for.
    next_at: Option<Instant>,
    /// When all of them are.
    until: Instant,
    /// The slot to look at next.
    next_slot: u32,
    absence: Absence,
}

/// How long clients are asked to stay away, from and to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Absence {
    min: Duration,
    max: Duration,
}

impl Drain {
    fn new(now: Instant, span: Duration, websockets: usize) -> Self {
        Self {
            patience: now + CALLS_PATIENCE,
            next_at: None,
            until: now + span,
            next_slot: 0,
            absence: Absence::of(websockets, span),
        }
    }

    /// One was closed and `left` remain: sets when the next is.
    fn step(&mut self, left: usize) {
        if let Some(at) = self.next_at {
            let time = self.until.saturating_duration_since(at);
            let shares = u32::try_from(left).unwrap_or(u32::MAX).saturating_add(1);
            self.next_at = Some(at + time / shares);
        }
    }
}

impl Absence {
    /// For so many clients that are closed within `span`.
    fn of(websockets: usize, span: Duration) -> Self {
        // The closes are spread already; what they leave of the crowd is spread here.
        let crowd = Duration::from_secs(websockets as u64 / RETURNS_PER_SECOND);
        let spread = crowd.saturating_sub(span);
        Self {
            min: ABSENCE_MIN,
            max: ABSENCE_MIN + spread.clamp(ABSENCE_SPREAD_MIN, ABSENCE_SPREAD_MAX),
        }
    }
}

impl Stage {
    /// How long one client is to stay away, in milliseconds; `None` while there is no reason to.
    pub(super) fn retry_ms(&self, prng: &mut Prng) -> Option<u64> {
        let absence = match self {
            Self::Serving => return None,
            Self::Draining(drain) => drain.absence,
            Self::Ending { absence, .. } => *absence,
        };
        let time = prng.between(absence.min, absence.max);
        u64::try_from(time.as_millis()).ok()
    }
}

impl<S> Hub<S> {
    /// The daemon is ending: lets no more WebSockets in, and closes those there are within
    /// `--drain-timeout`, once the calls in progress are done or a second has passed. Telling it
    /// again changes nothing.
    pub fn handle_shutdown(&mut self, now: Now) {
        if let Stage::Serving = self.stage {
            let span = self.limits.drain_timeout;
            self.stage = Stage::Draining(Drain::new(now.instant, span, self.open_len));
            self.go_on_ending(now);
        }
    }

    /// Whether a shutdown has come so far that no WebSocket is open any more.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        match self.stage {
            Stage::Serving => false,
            Stage::Draining(drain) => drain.next_at.is_some() && self.open_len == 0,
            Stage::Ending { .. } => true,
        }
    }

    /// No connection is accepted any more: closes all there are, whatever they are for. What is
    /// being answered or written is not cut short.
    pub fn handle_end(&mut self, now: Now) {
        let absence = match self.stage {
            Stage::Ending { .. } => return,
            Stage::Draining(drain) => drain.absence,
            Stage::Serving => Absence::of(self.open_len, Duration::ZERO),
        };
        self.stage = Stage::Ending {
            next_slot: 0,
            absence,
        };
        self.go_on_ending(now);
    }

    /// The daemon waits no longer: ends every connection as it is. What is queued for one is counted
    /// as dropped.
    pub fn handle_abort(&mut self) {
        let ids: Vec<ConnId> = self.table.iter().map(|conn| conn.id).collect();
        for id in ids {
            self.drop_and_end(id, CloseReason::Shutdown);
        }
    }

    /// How long connections are waited for after [`Hub::handle_end`]: for as long as what is queued
    /// may take to be written, and the peers to answer.
    #[must_use]
    pub fn ending_time_max(&self) -> Duration {
        self.limits.ending_time_max()
    }

    /// Whether the end has begun.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        !matches!(self.stage, Stage::Serving)
    }

    /// Whether a connection that came in so may make another request after its answer. A back end
    /// goes on calling while members are there.
    pub(super) fn may_stay(&self, entrance: Entrance) -> bool {
        match self.stage {
            Stage::Serving => true,
            Stage::Draining(_) => entrance == Entrance::Admin,
            Stage::Ending { .. } => false,
        }
    }

    /// Whether nothing new is begun on any connection.
    pub(super) fn is_ending(&self) -> bool {
        matches!(self.stage, Stage::Ending { .. })
    }

    /// Closes those whose time has come, as many as a turn may. Returns whether it looked at any.
    pub(super) fn go_on_ending(&mut self, now: Now) -> bool {
        match self.stage {
            Stage::Serving => false,
            Stage::Draining(drain) => {
                let slot = drain.next_slot;
                let drain = self.go_on_draining(now, drain);
                self.stage = Stage::Draining(drain);
                drain.next_slot > slot
            }
            Stage::Ending { next_slot, absence } => {
                let end = self.table.slots_end();
                let stop = end.min(next_slot.saturating_add(CLOSES_PER_TURN));
                for slot in next_slot..stop {
                    if let Some(id) = self.table.id_at(slot) {
                        self.close(now, id, CloseReason::Shutdown);
                    }
                }
                self.stage = Stage::Ending {
                    next_slot: stop,
                    absence,
                };
                stop > next_slot
            }
        }
    }

    fn go_on_draining(&mut self, now: Now, mut drain: Drain) -> Drain {
        if drain.next_at.is_none() {
            if self.calls_len() > 0 && now.instant < drain.patience {
                return drain;
            }
            drain.next_at = Some(now.instant);
        }
        let mut slots = SLOTS_PER_TURN;
        for _ in 0..CLOSES_PER_TURN {
            let is_due = drain.next_at.is_some_and(|at| at <= now.instant);
            if !is_due || self.open_len == 0 {
                break;
            }
            let Some(id) = self.next_open(&mut drain.next_slot, &mut slots) else {
                break;
            };
            self.close(now, id, CloseReason::Shutdown);
            drain.step(self.open_len);
        }
        drain
    }

    /// The next open WebSocket from `slot` on, looking at up to `budget` slots. None opens behind
    /// the place that was reached, since none opens at all.
    fn next_open(&self, slot: &mut u32, budget: &mut usize) -> Option<ConnId> {
        while *budget > 0 && *slot < self.table.slots_end() {
            *budget -= 1;
            let id = self.table.id_at(*slot);
            *slot += 1;
            let is_open = |id: &ConnId| {
                let conn = self.table.get(*id);
                conn.is_some_and(|conn| conn.open().is_some())
            };
            if let Some(id) = id.filter(is_open) {
                return Some(id);
            }
        }
        None
    }

    /// When the end goes on; `None` if it waits for nothing but others.
    pub(super) fn next_step_of_end(&self) -> Option<Instant> {
        match self.stage {
            Stage::Draining(drain) if self.open_len > 0 || drain.next_at.is_none() => {
                drain.next_at.or(Some(drain.patience))
            }
            _ => None,
        }
    }

    /// Whether the end can go on at once.
    pub(super) fn can_go_on_ending(&self) -> bool {
        match self.stage {
            Stage::Serving => false,
            Stage::Draining(drain) => drain.next_at.is_none() && self.calls_len() == 0,
            Stage::Ending { next_slot, .. } => next_slot < self.table.slots_end(),
        }
    }
}

/// Connections that a turn closes: about a millisecond.
const CLOSES_PER_TURN: u32 = 1024;

/// Slots that a turn looks at, to find those connections.
const SLOTS_PER_TURN: usize = 16_384;

/// How long calls in progress are waited for before the first close.
const CALLS_PATIENCE: Duration = Duration::from_secs(1);

/// Clients that may come back in a second, about a quarter of what one node can let in.
const RETURNS_PER_SECOND: u64 = 5000;

/// Shortest time that clients are to stay away.
const ABSENCE_MIN: Duration = Duration::from_secs(1);

/// Smallest difference between those who come back first and last.
const ABSENCE_SPREAD_MIN: Duration = Duration::from_secs(4);

/// Largest such difference.
const ABSENCE_SPREAD_MAX: Duration = Duration::from_secs(59);

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::ORIGIN + Duration::from_millis(ms)
    }

    #[test]
    fn closes_are_spread_evenly_and_the_first_is_at_once() {
        for (websockets, span_ms, expected_ms) in [
            (1, 1000, &[0][..]),
            (2, 1000, &[0, 500]),
            (5, 1000, &[0, 200, 400, 600, 800]),
            (3, 0, &[0, 0, 0]),
        ] {
            let span = Duration::from_millis(span_ms);
            let mut drain = Drain::new(Instant::ORIGIN, span, websockets);
            drain.next_at = Some(Instant::ORIGIN);
            let mut found = Vec::new();
            for left in (0..websockets).rev() {
                found.push(drain.next_at);
                drain.step(left);
            }
            let expected: Vec<_> = expected_ms.iter().map(|&ms| Some(at(ms))).collect();
            assert_eq!(found, expected, "{websockets} within {span_ms} ms");
        }
    }

    #[test]
    fn who_leaves_alone_gives_its_time_to_the_others() {
        let mut drain = Drain::new(Instant::ORIGIN, Duration::from_secs(1), 10);
        drain.next_at = Some(Instant::ORIGIN);
        // Nine are left, of whom eight go by themselves: the last has the middle.
        drain.step(1);
        assert_eq!(drain.next_at, Some(at(500)));
        drain.step(0);
        assert_eq!(drain.next_at, Some(at(1000)));
        // Late already: nothing is to be waited for.
        drain.next_at = Some(at(2000));
        drain.step(100);
        assert_eq!(drain.next_at, Some(at(2000)));
    }

    #[test]
    fn a_million_take_their_time_to_the_nanosecond() {
        let span = Duration::from_secs(30);
        let mut drain = Drain::new(Instant::ORIGIN, span, 1_000_000);
        drain.next_at = Some(Instant::ORIGIN);
        for closed in 1..=1_000_000 {
            drain.step(1_000_000 - closed);
        }
        assert_eq!(drain.next_at, Some(Instant::ORIGIN + span));
    }

    #[test]
    fn clients_are_kept_away_longer_where_there_are_many() {
        let absence = |websockets, span| {
            let Absence { min, max } = Absence::of(websockets, Duration::from_secs(span));
            (min.as_secs(), max.as_secs())
        };
        for (websockets, span, expected) in [
            (0, 30, (1, 5)),
            (10_000, 30, (1, 5)),
            (10_000, 0, (1, 5)),
            (100_000, 0, (1, 21)),
            (100_000, 10, (1, 11)),
            (100_000, 30, (1, 5)),
            (10_000_000, 0, (1, 60)),
        ] {
            assert_eq!(
                absence(websockets, span),
                expected,
                "{websockets} in {span} s"
            );
        }
    }

    #[test]
    fn times_to_stay_away_differ_and_keep_their_bounds() {
        let mut prng = Prng::new(7);
        assert_eq!(Stage::Serving.retry_ms(&mut prng), None);
        let drain = Drain::new(Instant::ORIGIN, Duration::from_secs(30), 1000);
        let stage = Stage::Draining(drain);
        let times: std::collections::BTreeSet<u64> = (0..1000)
            .filter_map(|_| stage.retry_ms(&mut prng))
            .collect();
        assert!(times.len() > 800, "{} different ones", times.len());
        assert!(times.iter().all(|ms| (1000..=5000).contains(ms)));
    }
}
