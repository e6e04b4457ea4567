//! All that was published on a node, by room, in the order in which it was numbered: what members
//! are measured against.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use roomcast::base::{ConnId, Limits};
use roomcast::wire::frame::{Payload, PayloadKind};

/// A publication.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) payload: Vec<u8>,
    pub(crate) is_text: bool,
    pub(crate) origin: ConnId,
    /// Not to be kept: for those alone who have joined before it.
    pub(crate) is_passing: bool,
    /// When it was numbered, by both clocks.
    pub(crate) at: Duration,
    pub(crate) unix_ms: u64,
}

impl Entry {
    pub(crate) fn new(payload: &Payload, origin: ConnId, is_passing: bool) -> Self {
        Self {
            payload: payload.bytes().to_vec(),
            is_text: payload.kind() != PayloadKind::Binary,
            origin,
            is_passing,
            at: Duration::ZERO,
            unix_ms: 0,
        }
    }
}

/// Where payloads are: in which room, and at which place there.
pub(crate) type Index<'a> = HashMap<&'a [u8], (&'a str, usize)>;

#[derive(Debug, Default)]
pub(crate) struct Log {
    rooms: BTreeMap<String, Vec<Entry>>,
    /// Up to where a back end has had a room's history forgotten.
    forgotten: BTreeMap<String, usize>,
    /// Where the newest of all went.
    newest: Option<String>,
}

impl Log {
    pub(crate) fn push(&mut self, room: &str, entry: Entry) {
        self.rooms.entry(room.to_owned()).or_default().push(entry);
        self.newest = Some(room.to_owned());
    }

    /// What was pushed last was refused, if it was pushed since `done`.
    pub(crate) fn take_back(&mut self) {
        if let Some(room) = self.newest.take()
            && let Some(entries) = self.rooms.get_mut(&room)
        {
            entries.pop();
        }
    }

    /// What was pushed last is there to stay.
    pub(crate) fn settle(&mut self) {
        self.newest = None;
    }

    pub(crate) fn forget(&mut self, room: &str) {
        self.forgotten.insert(room.to_owned(), self.len(room));
    }

    pub(crate) fn room(&self, room: &str) -> &[Entry] {
        self.rooms.get(room).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn len(&self, room: &str) -> usize {
        self.room(room).len()
    }

    /// How long the log of every room is.
    pub(crate) fn lens(&self) -> BTreeMap<String, usize> {
        let rooms = self.rooms.iter();
        rooms
            .map(|(room, entries)| (room.clone(), entries.len()))
            .collect()
    }

    /// Where a payload is in the log of a room.
    pub(crate) fn place(&self, room: &str, payload: &[u8]) -> Option<usize> {
        let entries = self.room(room);
        entries.iter().rposition(|entry| entry.payload == payload)
    }

    /// Where every payload is: no two are the same.
    pub(crate) fn index(&self) -> Index<'_> {
        let mut index = Index::new();
        for (room, entries) in &self.rooms {
            for (place, entry) in entries.iter().enumerate() {
                let before = index.insert(&entry.payload, (room, place));
                assert!(before.is_none(), "{room}: numbered twice: {entry:?}");
            }
        }
        index
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = (&str, &Entry)> {
        let rooms = self.rooms.iter();
        rooms.flat_map(|(room, entries)| entries.iter().map(move |entry| (&**room, entry)))
    }

    /// From where on all that was to be kept is kept for certain; `None` where nothing is certain.
    pub(crate) fn kept_from(&self, room: &str, limits: &Limits, now: Duration) -> Option<usize> {
        if limits.history_publications_max == 0 || limits.history_memory_bytes_max < AMPLE_BYTES {
            return None;
        }
        let forgotten = self.forgotten.get(room).copied().unwrap_or(0);
        let entries = self.room(room);
        let (mut count, mut bytes) = (0, 0);
        let kept = entries[forgotten.min(entries.len())..]
            .iter()
            .rev()
            .take_while(|entry| {
                if entry.is_passing {
                    return true;
                }
                count += 1;
                bytes += entry.payload.len();
                count <= limits.history_publications_max
                    && bytes <= limits.history_bytes_max
                    && now < entry.at + limits.history_ttl
            });
        Some(entries.len() - kept.count())
    }

    /// Whether what came from `place` on and was not to be kept is held for certain, for whoever is
    /// catching up since then.
    pub(crate) fn is_held_from(
        &self,
        room: &str,
        place: usize,
        limits: &Limits,
        now: Duration,
    ) -> bool {
        let keeps_any = limits.history_publications_max > 0;
        let rest = self.room(room).iter().skip(place);
        let passing: Vec<_> = rest
            .filter(|entry| entry.is_passing || !keeps_any)
            .collect();
        let bytes: usize = passing.iter().map(|entry| entry.payload.len()).sum();
        passing.is_empty()
            || (passing.len() <= limits.outbound_publications_max
                && bytes <= limits.outbound_bytes_max
                && passing
                    .iter()
                    .all(|entry| now < entry.at + limits.history_ttl)
                && self.forgotten.get(room).is_none_or(|until| *until <= place)
                && limits.history_memory_bytes_max >= AMPLE_BYTES)
    }

    /// From where on all are newer than a time in milliseconds since 1970.
    pub(crate) fn newer_from(&self, room: &str, unix_ms: u64) -> usize {
        let entries = self.room(room);
        let newer = entries.iter().rev();
        entries.len() - newer.take_while(|entry| entry.unix_ms > unix_ms).count()
    }

    /// Where the newest `count` begin of those that were to be kept before `at`.
    pub(crate) fn place_of_last(&self, room: &str, at: usize, count: usize) -> usize {
        let entries = self.room(room);
        let lasting = (0..at).rev().filter(|place| !entries[*place].is_passing);
        lasting.take(count).last().unwrap_or(at)
    }
}

/// Memory that the histories of one run never fill.
const AMPLE_BYTES: usize = 1 << 20;
