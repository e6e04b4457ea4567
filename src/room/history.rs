//! The newest publications of one room.
//!
//! Owns: a ring of publications, bounded by count, payload bytes and age.
//! Never: numbers a publication or decides who gets it.
//!
//! Invariants
//! - Offsets rise. One that is passed over between `first` and the room's newest belongs to a
//!   publication that was not to be kept (`skip_history`).
//! - Such a publication is *passing*. It is here only while somebody is catching up who had joined
//!   before it, for those alone, in a ring of its own: it takes nothing away from what is kept.
//!   Where history is off, all are passing.
//! - Every passing publication behind `passing_gone` is here for as long as somebody is catching up.
//! - `bytes` is the sum of the payloads.
//! - Whatever was published after `complete_since`, and was to be kept, is here.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::base::{ConnId, Identity, Limits, NodeId, Offset};
use crate::wire::frame::PayloadKind;
use crate::wire::raw::Publication;

/// How much of a room is kept.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    publications_max: usize,
    bytes_max: usize,
    passing_publications_max: usize,
    passing_bytes_max: usize,
    ttl_s: u32,
}

impl Bounds {
    /// The bounds of a room's history among all bounds. What is passing is bounded as a send queue is:
    /// whoever is catching up would have it there if it were live.
    #[must_use]
    pub fn of(limits: &Limits) -> Self {
        Self {
            publications_max: limits.history_publications_max,
            bytes_max: limits.history_bytes_max,
            passing_publications_max: limits.outbound_publications_max,
            passing_bytes_max: limits.outbound_bytes_max,
            ttl_s: u32::try_from(limits.history_ttl.as_secs())
                .unwrap_or(u32::MAX)
                .max(1),
        }
    }

    /// Whether anything is kept at all.
    #[must_use]
    pub fn keeps_any(&self) -> bool {
        self.publications_max > 0
    }
}

/// The newest publications of one room.
#[derive(Debug)]
pub struct History {
    entries: VecDeque<Kept>,
    first: Offset,
    bytes: usize,
    passing: VecDeque<Kept>,
    passing_bytes: usize,
    /// The newest passing publication that was dropped.
    passing_gone: Offset,
    /// What the payloads take in memory.
    allocated_bytes: usize,
    complete_since_ms: u64,
    /// The newest publication when the epoch began.
    began: Offset,
    /// The nodes that publications have come from.
    nodes: Vec<NodeId>,
}

/// One publication: 56 bytes beside its payload.
#[derive(Debug)]
struct Kept {
    payload: Box<[u8]>,
    identity: Option<Arc<Identity>>,
    offset: Offset,
    unix_ms: u64,
    origin: ConnId,
    /// When it was kept, for the age: seconds of the shard's monotonic clock.
    kept_at_s: u32,
    kind: PayloadKind,
    /// The place of its node in the list of them, from 1; 0 for none.
    node: u8,
}

impl History {
    /// A history whose next publication is `next`; nothing published after `complete_since_ms` is
    /// missing.
    #[must_use]
    pub fn new(next: Offset, complete_since_ms: u64) -> Self {
        Self {
            entries: VecDeque::new(),
            first: next,
            bytes: 0,
            passing: VecDeque::new(),
            passing_bytes: 0,
            passing_gone: Offset(0),
            allocated_bytes: 0,
            complete_since_ms,
            began: Offset(0),
            nodes: Vec::new(),
        }
    }

    /// The same, in an epoch that began behind publication `began`: what is kept up to it was numbered
    /// in others.
    #[must_use]
    pub fn begun_at(self, began: Offset) -> Self {
        Self { began, ..self }
    }

    /// The newest publication when the epoch began.
    #[must_use]
    pub fn began(&self) -> Offset {
        self.began
    }

    /// The same in the place of another, whose passing publications it does not have.
    #[must_use]
    pub fn in_place_of(self, other: &mut Self) -> Self {
        other.drop_passing();
        Self {
            passing_gone: other.passing_gone,
            ..self
        }
    }

    /// Keeps the room's newest publication and forgets what is over the bounds.
    pub fn push(&mut self, publication: &Publication<'_>, now_s: u32, bounds: &Bounds) {
        debug_assert!(
            publication.offset >= self.first && self.is_newer(publication.offset),
            "offsets must rise"
        );
        if !bounds.keeps_any() {
            self.first = publication.offset.next();
            self.complete_since_ms = self.complete_since_ms.max(publication.unix_ms);
            return;
        }
        let kept = self.kept(publication, now_s);
        grow(&mut self.entries);
        self.entries.push_back(kept);
        self.bytes += publication.payload.len();
        while self.entries.len() > bounds.publications_max || self.bytes > bounds.bytes_max {
            self.drop_oldest();
        }
        self.trim_age(now_s, bounds);
    }

    /// Holds the room's newest publication, which is not kept, for those who are catching up.
    pub fn push_passing(&mut self, publication: &Publication<'_>, bounds: &Bounds) {
        debug_assert!(self.is_newer(publication.offset), "offsets must rise");
        let kept = self.kept(publication, 0);
        grow(&mut self.passing);
        self.passing.push_back(kept);
        self.passing_bytes += publication.payload.len();
        while self.passing.len() > bounds.passing_publications_max
            || self.passing_bytes > bounds.passing_bytes_max
        {
            self.drop_oldest_passing();
        }
    }

    fn is_newer(&self, offset: Offset) -> bool {
        let newest = [self.entries.back(), self.passing.back()];
        newest.iter().flatten().all(|kept| kept.offset < offset)
    }

    fn kept(&mut self, publication: &Publication<'_>, now_s: u32) -> Kept {
        self.allocated_bytes += allocation_bytes(publication.payload.len());
        Kept {
            payload: publication.payload.into(),
            identity: publication.identity.cloned(),
            offset: publication.offset,
            origin: publication.origin,
            unix_ms: publication.unix_ms,
            kept_at_s: now_s,
            kind: publication.kind,
            node: self.place_of(publication.node),
        }
    }

    /// Drops what is passing: nobody is catching up any more.
    pub fn drop_passing(&mut self) {
        while !self.passing.is_empty() {
            self.drop_oldest_passing();
        }
        self.passing = VecDeque::new();
    }

    /// Of what was passing up to this offset, some may be gone; all that came behind it is here.
    #[must_use]
    pub fn passing_gone(&self) -> Offset {
        self.passing_gone
    }

    /// Forgets what is too old.
    pub fn trim_age(&mut self, now_s: u32, bounds: &Bounds) {
        while self
            .oldest_expiry_s(bounds)
            .is_some_and(|expiry| expiry <= now_s)
        {
            self.drop_oldest();
        }
    }

    /// When the oldest publication becomes too old, in seconds of the shard's clock. Both times
    /// are rounded down, so a second more keeps it for its whole age.
    #[must_use]
    pub fn oldest_expiry_s(&self, bounds: &Bounds) -> Option<u32> {
        self.entries.front().map(|kept| {
            kept.kept_at_s
                .saturating_add(bounds.ttl_s)
                .saturating_add(1)
        })
    }

    /// Forgets what is before `first`, and that there was anything up to `complete_since_ms`.
    pub fn forget_before(&mut self, first: Offset, complete_since_ms: u64) {
        while self.entries.front().is_some_and(|kept| kept.offset < first) {
            self.drop_oldest();
        }
        self.first = self.first.max(first);
        self.complete_since_ms = self.complete_since_ms.max(complete_since_ms);
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        while !self.entries.is_empty() {
            self.drop_oldest();
        }
        self.entries = VecDeque::new();
        self.drop_passing();
    }

    /// Every publication from this offset on is kept, unless it was not to be.
    #[must_use]
    pub fn first(&self) -> Offset {
        self.first
    }

    /// Nothing published after this time, in milliseconds since 1970, has been forgotten.
    #[must_use]
    pub fn complete_since_ms(&self) -> u64 {
        self.complete_since_ms
    }

    /// The publications after `after`, oldest first.
    pub fn after(&self, after: Offset) -> impl DoubleEndedIterator<Item = Publication<'_>> {
        behind(&self.entries, after).map(|kept| self.publication_of(kept))
    }

    /// The same for a member that joined at `joined_at`: of those that are passing, it gets what was
    /// published since.
    pub fn after_for(
        &self,
        after: Offset,
        joined_at: Offset,
    ) -> impl Iterator<Item = Publication<'_>> {
        let mut kept = behind(&self.entries, after).peekable();
        let mut passing = behind(&self.passing, after.max(joined_at)).peekable();
        std::iter::from_fn(move || {
            let is_passing = match (kept.peek(), passing.peek()) {
                (Some(kept), Some(passing)) => passing.offset < kept.offset,
                (kept, _) => kept.is_none(),
            };
            let next = if is_passing {
                passing.next()
            } else {
                kept.next()
            };
            next.map(|kept| self.publication_of(kept))
        })
    }

    /// The publications before `before`, oldest first.
    pub fn before(&self, before: Offset) -> impl DoubleEndedIterator<Item = Publication<'_>> {
        let end = self.entries.partition_point(|kept| kept.offset < before);
        let entries = self.entries.range(..end);
        entries.map(|kept| self.publication_of(kept))
    }

    /// After which offset the newest `count` publications begin, in a room whose newest
    /// publication is `newest`.
    #[must_use]
    pub fn offset_before_last(&self, count: u64, newest: Offset) -> Offset {
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let first = self.entries.len().saturating_sub(count);
        let oldest = self.entries.get(first);
        oldest.map_or(newest, |kept| Offset(kept.offset.0 - 1))
    }

    /// Offset of the newest publication that is not after `unix_ms`, or of the one before the
    /// oldest kept, in a room whose newest publication is `newest`.
    #[must_use]
    pub fn offset_at(&self, unix_ms: u64, newest: Offset) -> Offset {
        // From the newest back: the wall clock may have been set, and what was published since is
        // what is asked for.
        let entries = self.entries.iter().rev();
        let oldest = entries.take_while(|kept| kept.unix_ms > unix_ms).last();
        oldest.map_or(newest, |kept| Offset(kept.offset.0 - 1))
    }

    /// What it takes in memory, bookkeeping included, in bytes.
    #[must_use]
    pub fn cost_bytes(&self) -> usize {
        let places = self.entries.capacity() + self.passing.capacity();
        self.allocated_bytes + places * size_of::<Kept>()
    }

    /// Whether nothing is kept or held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.passing.is_empty()
    }

    /// Number of publications kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Number of publications held that are not kept.
    #[must_use]
    pub fn passing_len(&self) -> usize {
        self.passing.len()
    }

    /// The place of a node in the list; 0 for none, and where there are more than have places.
    fn place_of(&mut self, node: Option<NodeId>) -> u8 {
        let Some(node) = node else {
            return 0;
        };
        if let Some(index) = self.nodes.iter().position(|known| *known == node) {
            return index as u8 + 1;
        }
        if self.nodes.len() == NODES_MAX {
            self.forget_nodes();
        }
        if self.nodes.len() == NODES_MAX {
            return 0;
        }
        self.nodes.push(node);
        self.nodes.len() as u8
    }

    /// Forgets the nodes that nothing that is kept has come from.
    fn forget_nodes(&mut self) {
        let mut places = [0; NODES_MAX + 1];
        let mut nodes = Vec::new();
        for kept in self.entries.iter_mut().chain(&mut self.passing) {
            let before = usize::from(kept.node);
            if before > 0 && places[before] == 0 {
                nodes.push(self.nodes[before - 1]);
                places[before] = nodes.len() as u8;
            }
            kept.node = places[before];
        }
        self.nodes = nodes;
    }

    fn publication_of<'a>(&'a self, kept: &'a Kept) -> Publication<'a> {
        let node = usize::from(kept.node).checked_sub(1);
        let node = node.and_then(|index| self.nodes.get(index).copied());
        kept.publication(node)
    }

    fn drop_oldest(&mut self) {
        if let Some(kept) = self.entries.pop_front() {
            self.bytes -= kept.payload.len();
            self.allocated_bytes -= allocation_bytes(kept.payload.len());
            self.first = kept.offset.next();
            self.complete_since_ms = self.complete_since_ms.max(kept.unix_ms);
        }
    }

    fn drop_oldest_passing(&mut self) {
        if let Some(kept) = self.passing.pop_front() {
            self.passing_bytes -= kept.payload.len();
            self.allocated_bytes -= allocation_bytes(kept.payload.len());
            self.passing_gone = kept.offset;
        }
    }
}

/// Makes room for one more: an eighth more, not twice as many, since a large history is mostly full.
fn grow(entries: &mut VecDeque<Kept>) {
    if entries.len() == entries.capacity() {
        entries.reserve_exact((entries.len() / 8).max(4));
    }
}

/// What is behind an offset, oldest first.
fn behind(entries: &VecDeque<Kept>, after: Offset) -> std::collections::vec_deque::Iter<'_, Kept> {
    entries.range(entries.partition_point(|kept| kept.offset <= after)..)
}

/// Most nodes that publications of a room can have come from: the place of one is a byte, from 1.
const NODES_MAX: usize = u8::MAX as usize;

impl Kept {
    /// `node` is the one that it came from.
    fn publication(&self, node: Option<NodeId>) -> Publication<'_> {
        Publication {
            offset: self.offset,
            unix_ms: self.unix_ms,
            origin: self.origin,
            node,
            identity: self.identity.as_ref(),
            kind: self.kind,
            payload: &self.payload,
        }
    }
}

/// What the allocator takes for a payload, its own word and rounding included (glibc's malloc: a
/// chunk has 8 bytes of head, 16 bytes of granularity and 32 bytes at least).
fn allocation_bytes(payload_bytes: usize) -> usize {
    if payload_bytes == 0 {
        return 0;
    }
    (payload_bytes + 8).next_multiple_of(16).max(32)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn publication(offset: u64, payload: &[u8], unix_ms: u64) -> Publication<'_> {
        let kind = PayloadKind::Text;
        Publication {
            offset: Offset(offset),
            unix_ms,
            origin: ConnId::NONE,
            node: None,
            identity: None,
            kind,
            payload,
        }
    }

    fn offsets(history: &History, after: u64) -> Vec<u64> {
        history
            .after(Offset(after))
            .map(|publication| publication.offset.0)
            .collect()
    }

    #[test]
    fn nodes_that_nothing_is_kept_of_make_room_for_others() {
        let limits = Limits {
            history_publications_max: 200,
            ..Limits::default()
        };
        let limits = Bounds::of(&limits);
        let mut history = History::new(Offset(1), 0);
        for offset in 1..=1000 {
            let publication = Publication {
                node: Some(NodeId(offset)),
                ..publication(offset, b"x", 0)
            };
            history.push(&publication, 0, &limits);
            for kept in history.after(Offset(0)) {
                assert_eq!(kept.node, Some(NodeId(kept.offset.0)));
            }
        }
        assert!(history.nodes.len() <= NODES_MAX);
    }

    #[test]
    fn whichever_bound_is_met_first_trims() {
        let limits = Limits {
            history_publications_max: 3,
            history_bytes_max: 10,
            history_ttl: Duration::from_secs(5),
            ..Limits::default()
        };
        let limits = Bounds::of(&limits);
        let mut history = History::new(Offset(1), 0);
        for offset in 1..=4 {
            history.push(&publication(offset, b"ab", offset * 10), 0, &limits);
        }
        assert_eq!(offsets(&history, 0), [2, 3, 4]);
        assert_eq!(history.complete_since_ms(), 10);
        history.push(&publication(5, b"12345678", 50), 1, &limits);
        assert_eq!(offsets(&history, 0), [4, 5]);
        assert_eq!(offsets(&history, 4), [5]);
        assert_eq!(offsets(&history, 5), [0; 0]);
        assert_eq!(offsets(&history, u64::MAX - 1), [0; 0]);
        history.trim_age(5, &limits);
        assert_eq!(history.len(), 2);
        history.trim_age(6, &limits);
        assert_eq!(offsets(&history, 0), [5]);
        history.push(&publication(6, &[0; 11], 60), 6, &limits);
        assert!(history.is_empty(), "larger than the whole history");
        assert_eq!(
            (history.first(), history.complete_since_ms()),
            (Offset(7), 60)
        );
    }

    #[test]
    fn times_are_found_from_the_newest_back() {
        let limits = Bounds::of(&Limits::default());
        let start = 1 << 40;
        let mut history = History::new(Offset(start), 5);
        for (index, unix_ms) in [10, 20, 20, 30].into_iter().enumerate() {
            let offset = start + index as u64;
            history.push(&publication(offset, b"x", unix_ms), 0, &limits);
        }
        for (unix_ms, after) in [(0, 0), (10, 1), (19, 1), (20, 3), (29, 3), (30, 4), (99, 4)] {
            assert_eq!(
                history.offset_at(unix_ms, Offset(start + 3)),
                Offset(start - 1 + after),
                "{unix_ms}"
            );
        }
    }

    #[test]
    fn what_is_not_to_be_kept_leaves_a_gap_and_nothing_else() {
        let limits = Bounds::of(&Limits::default());
        let mut history = History::new(Offset(1), 0);
        for offset in [2, 3, 7] {
            history.push(&publication(offset, b"x", offset * 10), 0, &limits);
        }
        assert_eq!(offsets(&history, 0), [2, 3, 7]);
        assert_eq!(offsets(&history, 3), [7]);
        assert_eq!(offsets(&history, 5), [7]);
        history.push_passing(&publication(8, b"x", 80), &limits);
        assert_eq!(offsets(&history, 3), [7], "it was not to be kept");
        let since = history.after_for(Offset(3), Offset(7));
        assert_eq!(since.last().map(|one| one.offset), Some(Offset(8)));
        let before: Vec<u64> = history.before(Offset(7)).map(|one| one.offset.0).collect();
        assert_eq!(before, [2, 3]);
        let newest = Offset(9);
        for (count, after) in [(0, 9), (1, 6), (2, 2), (3, 1), (4, 1), (u64::MAX, 1)] {
            assert_eq!(history.offset_before_last(count, newest), Offset(after));
        }
        for (unix_ms, after) in [(19, 1), (20, 2), (69, 6), (70, 9), (80, 9)] {
            assert_eq!(history.offset_at(unix_ms, newest), Offset(after));
        }
    }

    #[test]
    fn what_is_passing_takes_nothing_away_from_what_is_kept() {
        let limits = Limits {
            history_publications_max: 3,
            history_bytes_max: 9,
            outbound_publications_max: 4,
            outbound_bytes_max: 12,
            ..Limits::default()
        };
        let limits = Bounds::of(&limits);
        let mut history = History::new(Offset(1), 0);
        let all = |history: &History, joined_at| -> Vec<u64> {
            let found = history.after_for(Offset(0), Offset(joined_at));
            found.map(|one| one.offset.0).collect()
        };
        let ends = |history: &History| (history.first().0, history.passing_gone().0);
        for offset in 1..=3 {
            history.push(&publication(offset, b"abc", offset), 0, &limits);
        }
        for offset in 4..=7 {
            history.push_passing(&publication(offset, b"abc", offset), &limits);
        }
        assert_eq!(all(&history, 4), [1, 2, 3, 5, 6, 7]);
        assert_eq!(ends(&history), (1, 0));
        // One too many, and then too many bytes.
        history.push_passing(&publication(8, b"", 8), &limits);
        assert_eq!(all(&history, 0), [1, 2, 3, 5, 6, 7, 8]);
        history.push_passing(&publication(9, &[0; 12], 9), &limits);
        assert_eq!(
            (all(&history, 0), ends(&history)),
            (vec![1, 2, 3, 8, 9], (1, 7))
        );
        for offset in [10, 12, 13] {
            history.push(&publication(offset, b"abc", offset), 0, &limits);
        }
        assert_eq!(
            (all(&history, 0), ends(&history)),
            (vec![8, 9, 10, 12, 13], (4, 7))
        );
        let cost = history.cost_bytes();
        history.drop_passing();
        assert!(history.cost_bytes() < cost);
        assert_eq!(
            (all(&history, 0), ends(&history)),
            (vec![10, 12, 13], (4, 9))
        );
        history.push_passing(&publication(14, b"x", 14), &limits);
        let anew = History::new(Offset(20), 0).in_place_of(&mut history);
        assert_eq!(ends(&anew), (20, 14));
        assert_eq!(history.passing_len(), 0);
    }

    #[test]
    fn with_history_off_only_what_is_passing_is_here() {
        let limits = Bounds::of(&Limits {
            history_publications_max: 0,
            ..Limits::default()
        });
        let mut history = History::new(Offset(1), 0);
        for offset in 1..=2 {
            let publication = publication(offset, b"x", 10 * offset);
            history.push(&publication, 0, &limits);
            history.push_passing(&publication, &limits);
        }
        assert_eq!(
            (history.first(), history.complete_since_ms()),
            (Offset(3), 20)
        );
        let held: Vec<u64> = history
            .after_for(Offset(1), Offset(1))
            .map(|one| one.offset.0)
            .collect();
        assert_eq!(held, [2]);
        assert_eq!(
            history.offset_at(0, Offset(2)),
            Offset(2),
            "nothing is kept"
        );
        history.drop_passing();
        assert_eq!((history.is_empty(), history.cost_bytes()), (true, 0));
    }

    #[test]
    fn a_publication_costs_at_most_96_bytes_beside_its_payload() {
        let limits = Bounds::of(&Limits::default());
        for payload_bytes in [0, 1, 9, 24, 25, 100, 104, 105, 1000] {
            let mut history = History::new(Offset(1), 0);
            let payload = vec![0; payload_bytes];
            for offset in 1..=1000 {
                history.push(&publication(offset, &payload, 0), 0, &limits);
                if offset >= 40 {
                    let extra = history.cost_bytes() - offset as usize * payload_bytes;
                    assert!(
                        extra <= offset as usize * 96,
                        "{payload_bytes} {offset}: {extra}"
                    );
                }
            }
            history.clear();
            assert_eq!(history.cost_bytes(), 0);
        }
    }
}
