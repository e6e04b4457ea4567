//! A room as the broker has it: its numbering, what it keeps, who counts in it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use roomcast::base::{Epoch, Now, Offset, Position};
use roomcast::cluster::{Known, NodeId, Numbered, Token};

/// How much it keeps of a room.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keeps {
    pub(crate) publications_max: usize,
    pub(crate) bytes_max: usize,
    pub(crate) ttl: Duration,
}

#[derive(Clone)]
pub(crate) struct Room {
    pub(crate) epoch: Epoch,
    pub(crate) top: u64,
    pub(crate) kept: VecDeque<Numbered>,
    pub(crate) first: u64,
    pub(crate) complete_since_ms: u64,
    pub(crate) tokens: BTreeMap<Token, Position>,
    pub(crate) keys: BTreeMap<Box<str>, (Position, u64)>,
    /// Connections of each node, whether some of them watch, and until when they count.
    pub(crate) counts: BTreeMap<NodeId, (u32, bool, u64)>,
    /// The run in which its numbering was last known to be whole.
    pub(crate) run: u64,
    /// Nodes that must have read it before anything is numbered.
    pub(crate) fence: BTreeSet<NodeId>,
}

impl Room {
    pub(crate) fn new(epoch: Epoch, run: u64, now: Now) -> Self {
        Self {
            epoch,
            top: 0,
            kept: VecDeque::new(),
            first: 1,
            complete_since_ms: now.unix_ms,
            tokens: BTreeMap::new(),
            keys: BTreeMap::new(),
            counts: BTreeMap::new(),
            run,
            fence: BTreeSet::new(),
        }
    }

    pub(crate) fn position(&self) -> Position {
        Position {
            epoch: self.epoch,
            offset: Offset(self.top),
        }
    }

    pub(crate) fn online(&self, now: Now) -> u64 {
        let counts = self.counts.values();
        counts
            .filter(|(_, _, until)| now.unix_ms < *until)
            .map(|(count, _, _)| u64::from(*count))
            .sum()
    }

    /// Whether another node has members who watch.
    pub(crate) fn is_watched(&self, node: NodeId, now: Now) -> bool {
        self.counts
            .iter()
            .any(|(other, (_, watches, until))| *other != node && *watches && now.unix_ms < *until)
    }

    /// Whether it is what it must be for one who knows it up to there.
    pub(crate) fn continues(&self, known: &Known, run: u64) -> bool {
        if known.position.epoch != self.epoch {
            // An epoch that was over, and has come back with an older copy, cannot go on.
            return self.run == run;
        }
        let at = known.position.offset.0;
        let other = |token: Token| {
            let position = self.tokens.get(&token);
            at > 0 && position != Some(&known.position)
        };
        at <= self.top && !known.token.is_some_and(other)
    }

    pub(crate) fn trim(&mut self, keeps: &Keeps, now: Now) {
        let ttl_ms = keeps.ttl.as_millis() as u64;
        let bytes = |one: &Numbered| {
            let shared = one.shared.as_ref();
            shared.map_or(0, |shared| shared.payload.bytes().len())
        };
        loop {
            let bytes_len: usize = self.kept.iter().map(bytes).sum();
            let is_over = self.kept.len() > keeps.publications_max || bytes_len > keeps.bytes_max;
            let Some(oldest) = self.kept.front() else {
                return;
            };
            if !is_over && oldest.unix_ms + ttl_ms > now.unix_ms {
                return;
            }
            self.first = oldest.offset.0 + 1;
            self.complete_since_ms = self.complete_since_ms.max(oldest.unix_ms);
            self.kept.pop_front();
        }
    }
}
