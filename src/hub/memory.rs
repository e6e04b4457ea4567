//! What the hub gives up when the process takes more memory than it may.
//!
//! Owns: how much the process took when that was last looked at, and whether new connections are let
//! in.
//! Never: looks; the shell knows how much the process takes, and gives back what was freed.
//!
//! A send queue is what a peer makes grow by not reading, so the largest are closed first, until what
//! they held is enough. Where nothing is left that is worth closing, new connections are refused.

use std::cmp::Reverse;

use super::{Hub, MemoryPressure};
use crate::base::{CloseReason, ConnId, Limits, Now};
use crate::conn::Connection;

/// What is known of the memory of the process.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// What it took at the last look, in bytes.
    used: u64,
    pressure: MemoryPressure,
}

/// What a look at the memory has led to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Relief {
    /// Connections closed.
    pub closed: usize,
    /// Connections cut off that had been closed before.
    pub cut: usize,
    /// What is given up now.
    pub pressure: MemoryPressure,
}

impl Memory {
    /// What is given up now.
    pub(super) fn pressure(&self) -> MemoryPressure {
        self.pressure
    }
}

impl<S> Hub<S> {
    /// The process takes `used` bytes of memory. Without a bound on it, nothing follows.
    ///
    /// Whoever is closed has the write timeout to come to its close frame, as everybody has, unless so
    /// little memory is left that nobody can be waited for.
    pub fn handle_memory(&mut self, now: Now, used: u64) -> Relief {
        let Some(marks) = Marks::of(&self.limits) else {
            return Relief::default();
        };
        self.memory.used = used;
        let (mut cut, mut closed) = (0, 0);
        if used >= marks.over {
            let mut wanted = used - marks.goal;
            if used >= marks.urgent {
                let freed;
                (cut, freed) = self.end_closing();
                wanted = wanted.saturating_sub(freed);
            }
            let freed;
            (closed, freed) = self.close_largest(now, wanted);
            self.memory.pressure = if freed < wanted {
                MemoryPressure::Refusing
            } else {
                MemoryPressure::Closing
            };
        } else if used < marks.well {
            self.memory.pressure = MemoryPressure::None;
        }
        Relief {
            closed,
            cut,
            pressure: self.memory.pressure,
        }
    }

    /// Whether so much is too much, and little enough to see first what comes of what was given up last.
    pub fn may_wait(&self, used: u64) -> bool {
        let marks = Marks::of(&self.limits);
        marks.is_some_and(|marks| (marks.over..marks.urgent).contains(&used))
    }

    /// Closes connections that do not read, the one with the largest queue first, until `wanted` bytes
    /// are free. Returns how many were closed, and the bytes.
    fn close_largest(&mut self, now: Now, wanted: u64) -> (usize, u64) {
        let table = &self.table;
        let mut queues: Vec<(usize, ConnId)> = self
            .backlog
            .iter()
            .filter_map(|id| table.get(*id))
            .filter(|conn| conn.open().is_some() && is_stuck(conn))
            .map(|conn| (conn.queue.weight(), conn.id))
            .filter(|(weight, _)| *weight >= QUEUE_BYTES_MIN)
            .collect();
        queues.sort_unstable_by_key(|(weight, _)| Reverse(*weight));
        let mut freed = 0;
        let mut closed = 0;
        for (_, id) in queues {
            if freed >= wanted {
                break;
            }
            let before = self.footprint(id);
            self.close(now, id, CloseReason::Memory);
            freed += before.saturating_sub(self.footprint(id));
            closed += 1;
        }
        (closed, freed)
    }

    /// Ends everybody who was closed, for whatever reason, and does not read on to the close frame.
    /// Returns how many these were, and what their queues held, in bytes.
    fn end_closing(&mut self) -> (usize, u64) {
        let table = &self.table;
        let stuck: Vec<ConnId> = self
            .backlog
            .iter()
            .filter_map(|id| table.get(*id))
            .filter(|conn| conn.is_closing() && conn.has_unwritten() && is_stuck(conn))
            .map(|conn| conn.id)
            .collect();
        let mut freed = 0;
        for &id in &stuck {
            freed += self.footprint(id);
            self.drop_and_end(id, CloseReason::Memory);
        }
        (stuck.len(), freed)
    }

    /// What the queue of a connection takes, in bytes.
    fn footprint(&self, id: ConnId) -> u64 {
        let conn = self.table.get(id);
        conn.map_or(0, |conn| conn.queue.footprint() as u64)
    }

    /// Whether new connections are refused, since memory is short.
    pub(super) fn is_short_of_memory(&self) -> bool {
        self.memory.pressure == MemoryPressure::Refusing
    }

    /// A line that names all that is wrong with the node; `None` if nothing is.
    pub(super) fn degraded(&self) -> Option<String> {
        self.health.degraded(self.memory_ailment().as_deref())
    }

    fn memory_ailment(&self) -> Option<String> {
        let limit = self.limits.memory_bytes_max?;
        let what = match self.memory.pressure {
            MemoryPressure::None => return None,
            MemoryPressure::Closing => "the largest send queues are closed",
            MemoryPressure::Refusing => "new connections are refused",
        };
        let used = self.memory.used;
        Some(format!("memory: {used} of {limit} bytes, {what}"))
    }
}

/// Whether its socket takes nothing. One that does, for all that is known, only waits for its turn.
fn is_stuck(conn: &Connection) -> bool {
    conn.is_blocked() || conn.is_probed()
}

/// What decides how much memory is too much, in bytes.
struct Marks {
    /// From here on the process ends what it can; between this and the limit is what it may take until
    /// the next look.
    over: u64,
    /// From here on nobody is waited for.
    urgent: u64,
    /// What closing is to come to.
    goal: u64,
    /// Below this, all is well again.
    well: u64,
}

impl Marks {
    fn of(limits: &Limits) -> Option<Self> {
        let limit = limits.memory_bytes_max? as u64;
        let over = limits.memory_mark()? as u64;
        Some(Self {
            over,
            urgent: limit - limit / 16,
            goal: over - limit / 16,
            well: over - limit / 32,
        })
    }
}

/// A queue of less weight than this is not worth closing, in bytes.
const QUEUE_BYTES_MIN: usize = 1 << 10;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Instant;
    use crate::hub::Gate;

    #[test]
    fn what_is_given_up_is_said() {
        use MemoryPressure::{Closing, None as Nothing, Refusing};
        let limits = Limits {
            memory_bytes_max: Some(16 << 20),
            ..Limits::default()
        };
        let mut hub: Hub<()> = Hub::new(limits, Gate::default(), 1, Instant::ORIGIN, 1);
        for (pressure, expected) in [
            (Nothing, None),
            (
                Closing,
                Some("15000000 of 16777216 bytes, the largest send queues are closed"),
            ),
            (
                Refusing,
                Some("15000000 of 16777216 bytes, new connections are refused"),
            ),
        ] {
            hub.memory = Memory {
                used: 15_000_000,
                pressure,
            };
            let expected = expected.map(|text| format!("degraded: memory: {text}"));
            assert_eq!(hub.degraded(), expected);
        }
    }
}
