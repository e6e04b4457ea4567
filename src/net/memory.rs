//! The memory of the process, as the loop watches it.
//!
//! Owns: when it is looked at, when what was freed is given back to the system, and what the log says.
//! Never: decides what to give up; the hub does.

use std::fmt;
use std::time::Duration;

use crate::base::{Instant, Now};
use crate::hub::{Hub, MemoryPressure, Relief};

/// Looks at the memory of the process.
pub(crate) struct MemoryWatch {
    /// Resident bytes of the process, if the system says how many there are.
    read: Box<dyn FnMut() -> Option<u64> + Send>,
    /// The last reading failed, and the log was told.
    is_blind: bool,
    /// Gives back to the system what is free in the process, and says how long that took.
    give_back: Box<dyn FnMut() -> Duration + Send>,
    next_look: Instant,
    /// Until then the last time that memory was given back is not a tenth of all.
    quiet_until: Instant,
    /// When memory is given back although nothing was closed.
    next_give_back: Instant,
    notices: Notices,
}

/// What the log was told, and is to be told.
#[derive(Debug, Default)]
struct Notices {
    is_refusing: bool,
    /// Connections closed that were not told of.
    untold: usize,
    next: Option<Instant>,
}

impl MemoryWatch {
    /// `read` says how many bytes of the process are resident, if it can; `give_back` gives the system
    /// what is free of them, which may take some milliseconds for each ten million, and says how long
    /// it took.
    pub(crate) fn new(
        read: impl FnMut() -> Option<u64> + Send + 'static,
        give_back: impl FnMut() -> Duration + Send + 'static,
    ) -> Self {
        Self {
            read: Box::new(read),
            is_blind: false,
            give_back: Box::new(give_back),
            next_look: Instant::ORIGIN,
            quiet_until: Instant::ORIGIN,
            next_give_back: Instant::ORIGIN,
            notices: Notices::default(),
        }
    }

    /// Tells the hub how much memory there is, if that is due. Returns whether that took time worth
    /// measuring.
    pub(super) fn look<S>(&mut self, now: Now, hub: &mut Hub<S>) -> bool {
        if now.instant < self.next_look {
            return false;
        }
        self.next_look = now.instant + INTERVAL;
        let Some(used) = (self.read)() else {
            if !std::mem::replace(&mut self.is_blind, true) {
                log::warn!("memory: the system does not say how much is resident");
            }
            return false;
        };
        self.is_blind = false;
        if now.instant < self.quiet_until && hub.may_wait(used) {
            return false;
        }
        let relief = hub.handle_memory(now, used);
        let is_over = relief.pressure != MemoryPressure::None;
        let has_freed = relief.closed + relief.cut > 0;
        if has_freed || (is_over && now.instant >= self.next_give_back) {
            self.next_give_back = now.instant + GIVE_BACK_INTERVAL;
            let cost = (self.give_back)();
            self.quiet_until = now.instant + cost * GIVE_BACK_PARTS;
        }
        for line in self.notices.lines(now.instant, relief) {
            log::warn!("memory: {used} bytes are resident: {line}");
        }
        is_over
    }

    /// When the loop must turn although nothing happens: when the log is to be told more.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.notices.next.filter(|_| self.notices.untold > 0)
    }
}

impl Notices {
    /// What the log is to be told now.
    fn lines(&mut self, now: Instant, relief: Relief) -> impl Iterator<Item = Line> {
        self.untold += relief.closed;
        let is_due = self.untold > 0 && self.next.is_none_or(|next| next <= now);
        let closed = is_due.then(|| {
            self.next = Some(now + NOTICE_INTERVAL);
            Line::Closed(std::mem::take(&mut self.untold))
        });
        let is_refusing = relief.pressure == MemoryPressure::Refusing;
        let was_refusing = std::mem::replace(&mut self.is_refusing, is_refusing);
        let change = (is_refusing != was_refusing).then_some(if is_refusing {
            Line::Refusing
        } else {
            Line::LetIn
        });
        [closed, change].into_iter().flatten()
    }
}

/// Why the log is told of the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    Closed(usize),
    Refusing,
    LetIn,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed(1) => f.write_str("the connection with the largest queue was closed"),
            Self::Closed(count) => {
                write!(
                    f,
                    "the {count} connections with the largest queues were closed"
                )
            }
            Self::Refusing => f.write_str("new connections are refused"),
            Self::LetIn => f.write_str("new connections are let in again"),
        }
    }
}

/// Least time between two looks, each of which is one system call of two microseconds. What the process
/// can come to take meanwhile is small against the part of its limit that is kept free.
const INTERVAL: Duration = Duration::from_millis(2);

/// How often memory is given back while there is too much of it and nothing to close.
const GIVE_BACK_INTERVAL: Duration = Duration::from_secs(1);

/// Giving back takes one part in so many of the loop's time, or less, unless it is urgent: the larger
/// the heap and the more it is in pieces, the longer it takes.
const GIVE_BACK_PARTS: u32 = 10;

/// Least time between two lines about connections closed.
const NOTICE_INTERVAL: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::ORIGIN + Duration::from_millis(ms)
    }

    #[test]
    fn closes_are_told_together_and_refusals_when_they_begin_and_end() {
        use MemoryPressure::{Closing, None, Refusing};
        let mut notices = Notices::default();
        for (ms, closed, pressure, expected) in [
            (0, 0, None, &[][..]),
            (2, 1, Closing, &[Line::Closed(1)]),
            (4, 20, Closing, &[]),
            (6, 3, Refusing, &[Line::Refusing]),
            (8, 0, Refusing, &[]),
            (1002, 0, Refusing, &[Line::Closed(23)]),
            (1004, 0, Closing, &[Line::LetIn]),
            (5000, 0, None, &[]),
            (5002, 2, Refusing, &[Line::Closed(2), Line::Refusing]),
            (5004, 0, None, &[Line::LetIn]),
        ] {
            let relief = Relief {
                closed,
                cut: 0,
                pressure,
            };
            let lines: Vec<_> = notices.lines(at(ms), relief).collect();
            assert_eq!(lines, expected, "at {ms}");
        }
    }

    fn hub() -> Hub<()> {
        let limits = crate::base::Limits {
            memory_bytes_max: Some(16 << 20),
            ..crate::base::Limits::default()
        };
        Hub::new(limits, crate::hub::Gate::default(), 1, Instant::ORIGIN, 1)
    }

    /// Gives the readings to the looks, one by one, and returns what was given back at each, in order,
    /// where that takes `cost`.
    fn look_at(readings: &[(u64, Option<u64>)], cost: Duration) -> Vec<u64> {
        let mut hub = hub();
        let (times, told) = crossbeam_channel::bounded(100);
        let (next, current) = crossbeam_channel::bounded(1);
        let (asks, asked) = crossbeam_channel::bounded(1);
        let read = move || current.try_recv().expect("read only when it is due");
        let give_back = move || {
            asks.send(()).expect("nobody asks twice");
            cost
        };
        let mut watch = MemoryWatch::new(read, give_back);
        for &(ms, reading) in readings {
            next.try_send(reading.map(|kib| kib << 10))
                .expect("the last was read");
            let now = Now {
                instant: at(ms),
                unix_ms: 0,
            };
            watch.look(now, &mut hub);
            if asked.try_recv().is_ok() {
                times.send(ms).expect("there is room");
            }
        }
        assert_eq!(
            watch.is_blind,
            readings.last().is_some_and(|last| last.1.is_none())
        );
        told.try_iter().collect()
    }

    /// 7/8 of 16 MiB are 14336 KiB, 15/16 are 15360.
    #[test]
    fn giving_back_takes_a_tenth_of_the_time_unless_it_is_urgent() {
        let cost = Duration::from_millis(200);
        let readings = [
            (10, Some(14_400)),
            (1011, Some(14_400)),
            (1500, Some(15_300)),
            (2005, Some(15_300)),
            (2010, Some(14_400)),
            (2050, Some(15_400)),
            (3011, Some(15_400)),
            (3100, Some(1000)),
            (3200, None),
        ];
        assert_eq!(look_at(&readings, cost), [10, 2010, 3011]);
    }

    #[test]
    fn what_is_well_again_is_seen_at_once() {
        let mut hub = hub();
        let (next, current) = crossbeam_channel::bounded(1);
        let read = move || current.try_recv().expect("read only when it is due");
        let mut watch = MemoryWatch::new(read, || Duration::from_secs(1));
        let mut look = |ms, kib: u64| {
            next.try_send(Some(kib << 10)).expect("the last was read");
            let now = Now {
                instant: at(ms),
                unix_ms: 0,
            };
            watch.look(now, &mut hub);
            hub.counters().memory_pressure
        };
        assert_eq!(look(10, 15_000), MemoryPressure::Refusing);
        assert_eq!(look(20, 14_400), MemoryPressure::Refusing);
        assert_eq!(look(30, 10_000), MemoryPressure::None);
    }

    #[test]
    fn memory_is_read_when_that_is_due_and_given_back_when_there_is_too_little() {
        let mut hub = hub();
        let (asks, asked) = crossbeam_channel::bounded(1);
        let (next, current) = crossbeam_channel::bounded(1);
        let read = move || Some(current.try_recv().expect("read only when it is due"));
        let give_back = move || {
            asks.try_send(()).expect("nobody asks twice");
            Duration::ZERO
        };
        let mut watch = MemoryWatch::new(read, give_back);
        for (ms, reading, is_given_back) in [
            (1, Some(1), false),
            (2, None, false),
            (3, Some(15), true),
            (4, None, false),
            (5, Some(15), false),
            (1002, Some(15), false),
            (1004, Some(15), true),
            (1009, Some(1), false),
        ] {
            if let Some(mib) = reading {
                next.try_send(mib << 20).expect("the last was read");
            }
            let now = Now {
                instant: at(ms),
                unix_ms: 0,
            };
            watch.look(now, &mut hub);
            assert!(next.is_empty(), "not read at {ms}");
            assert_eq!(asked.try_recv().is_ok(), is_given_back, "at {ms}");
        }
    }
}
