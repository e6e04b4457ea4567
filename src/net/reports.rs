//! What the loop asks of the rest of the program, and what it shows for it.

use super::event_loop::LoopCounters;
use super::last_ends::LastEnds;
use super::memory::MemoryWatch;
use super::supervision::Supervision;
use crate::base::{Instant, Now};
use crate::hub::{Figures, Hub, HubCounters, NodeFigures};

/// What the loop asks of the rest of the program.
pub(crate) struct Reports {
    /// Makes the text of the metrics.
    pub(crate) metrics: MetricsText,
    /// Makes the text that says why it is slow.
    pub(crate) debug: DebugText,
    /// Looks up the figures of the node.
    pub(crate) node: Box<dyn FnMut() -> NodeFigures + Send>,
    /// What it looks at the memory of the process with, if that has a bound.
    pub(crate) memory: Option<MemoryWatch>,
    /// Who watches this loop, if anybody does.
    pub(crate) supervision: Option<Supervision>,
}

impl Reports {
    /// Looks at the memory of the process, if that has a bound. Returns whether there is too little.
    pub(super) fn look_at_memory<S>(&mut self, now: Now, hub: &mut Hub<S>) -> bool {
        let memory = self.memory.as_mut();
        memory.is_some_and(|memory| memory.look(now, hub))
    }

    /// When the loop must turn for a report although nothing happens.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let supervision = self.supervision.as_ref();
        let memory = self.memory.as_ref();
        let supervision = supervision.and_then(Supervision::poll_timeout);
        let memory = memory.and_then(MemoryWatch::poll_timeout);
        supervision.into_iter().chain(memory).min()
    }
}

/// Makes the text of the metrics.
pub(crate) type MetricsText = Box<dyn Fn(&HubCounters, &LoopFigures<'_>) -> String + Send>;

/// Makes the text that says why it is slow.
pub(crate) type DebugText = Box<dyn Fn(&DebugView<'_>) -> String + Send>;

/// The loop and its workers.
pub(crate) struct LoopFigures<'a> {
    /// What the loop has counted.
    pub(crate) counters: &'a LoopCounters,
    /// Jobs of each worker, waiting or being done.
    pub(crate) jobs: Vec<usize>,
    /// Effects that wait for the loop.
    pub(crate) effects: usize,
}

/// Everything that can be seen of a running loop.
pub(crate) struct DebugView<'a> {
    pub(crate) now: Now,
    pub(crate) hub: &'a HubCounters,
    pub(crate) figures: &'a Figures,
    pub(crate) turning: &'a LoopFigures<'a>,
    pub(crate) last_ends: &'a LastEnds,
}
