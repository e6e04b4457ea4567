//! Forgetting: publications that are too old, and the history of rooms that have been idle longest
//! when all of it together takes too much memory.
//!
//! Owns: the count of what history takes, and two queues of rooms to look at.
//!
//! Neither queue is touched when a room is used. Each room stands in each at most once; what it
//! says about a room may be out of date, and is put right when the room's turn comes.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use super::RoomShard;
use crate::base::{Instant, Now, RoomName};
use crate::room::history::History;

/// What is remembered of all rooms.
#[derive(Debug)]
pub(super) struct Retention {
    start: Instant,
    bytes_max: usize,
    used_bytes: usize,
    /// Counts publications, to tell which room was used last.
    uses: u64,
    /// Rooms with history by the time when their oldest publication becomes too old, by the shard's
    /// clock.
    by_age: BinaryHeap<Reverse<(u32, RoomName)>>,
    /// Rooms with history, about in the order in which they were last used.
    by_use: VecDeque<(u64, RoomName)>,
    /// A room that is not there has no publication after this time that was forgotten.
    complete_since_ms: u64,
}

/// What is remembered of one room.
#[derive(Debug, Default)]
pub(super) struct Marks {
    counted_bytes: usize,
    last_use: u64,
    /// What its entry in the queue by age says; any other entry of that name is void.
    age_entry: Option<u32>,
    /// The same of the queue by use.
    use_entry: Option<u64>,
}

impl Marks {
    /// What its history is counted with.
    pub(super) fn counted_bytes(&self) -> usize {
        self.counted_bytes
    }
}

impl Retention {
    pub(super) fn new(bytes_max: usize, start: Now) -> Self {
        Self {
            start: start.instant,
            bytes_max,
            used_bytes: 0,
            uses: 0,
            by_age: BinaryHeap::new(),
            by_use: VecDeque::new(),
            complete_since_ms: start.unix_ms,
        }
    }

    pub(super) fn used_bytes(&self) -> usize {
        self.used_bytes
    }

    pub(super) fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    pub(super) fn complete_since_ms(&self) -> u64 {
        self.complete_since_ms
    }

    /// The shard's clock: seconds, [`BEGIN_S`] when the shard began.
    pub(super) fn seconds(&self, now: Now) -> u32 {
        let elapsed = now.instant.saturating_duration_since(self.start);
        let elapsed_s = u32::try_from(elapsed.as_secs()).unwrap_or(u32::MAX);
        BEGIN_S.saturating_add(elapsed_s)
    }

    /// A room is gone, and with it what it knew of publications that are forgotten.
    pub(super) fn note_removed(&mut self, history: &History) {
        self.complete_since_ms = self.complete_since_ms.max(history.complete_since_ms());
    }

    pub(super) fn next_expiry(&self) -> Option<Instant> {
        let Reverse((expiry_s, _)) = self.by_age.peek()?;
        let since_start_s = expiry_s.saturating_sub(BEGIN_S);
        Some(self.start + Duration::from_secs(u64::from(since_start_s)))
    }
}

impl RoomShard {
    /// A room's history has grown: counts it, and makes room if all together take too much.
    pub(super) fn note_kept(&mut self, name: &RoomName) {
        let Some(room) = self.rooms.get_mut(name) else {
            return;
        };
        let retention = &mut self.retention;
        retention.uses += 1;
        room.marks.last_use = retention.uses;
        if !room.history.is_empty() {
            if room.marks.use_entry.is_none() {
                room.marks.use_entry = Some(retention.uses);
                retention.by_use.push_back((retention.uses, name.clone()));
            }
            if room.marks.age_entry.is_none()
                && let Some(expiry_s) = room.history.oldest_expiry_s(&self.bounds)
            {
                room.marks.age_entry = Some(expiry_s);
                retention.by_age.push(Reverse((expiry_s, name.clone())));
            }
        }
        self.count(name);
        while self.retention.used_bytes > self.retention.bytes_max {
            if !self.forget_idlest() {
                break;
            }
        }
        self.compact_queues();
    }

    /// Forgets publications that are too old.
    pub(super) fn forget_old(&mut self, now: Now) {
        let now_s = self.retention.seconds(now);
        while let Some(Reverse((expiry_s, _))) = self.retention.by_age.peek() {
            if *expiry_s > now_s {
                return;
            }
            let Some(Reverse((expiry_s, name))) = self.retention.by_age.pop() else {
                return;
            };
            let bounds = self.bounds;
            let Some(room) = self.rooms.get_mut(&name) else {
                continue;
            };
            if room.marks.age_entry != Some(expiry_s) {
                continue;
            }
            room.history.trim_age(now_s, &bounds);
            room.marks.age_entry = room.history.oldest_expiry_s(&bounds);
            if let Some(expiry_s) = room.marks.age_entry {
                self.retention
                    .by_age
                    .push(Reverse((expiry_s, name.clone())));
            }
            self.count(&name);
            self.remove_if_idle(&name);
        }
    }

    /// Forgets the history of the room that was used least lately; returns whether there was one.
    fn forget_idlest(&mut self) -> bool {
        while let Some((entry, name)) = self.retention.by_use.pop_front() {
            let Some(room) = self.rooms.get_mut(&name) else {
                continue;
            };
            if room.marks.use_entry != Some(entry) {
                continue;
            }
            room.marks.use_entry = None;
            if room.history.is_empty() {
                continue;
            }
            if room.marks.last_use > entry {
                // Used since it was put here: a second chance.
                room.marks.use_entry = Some(room.marks.last_use);
                let place = (room.marks.last_use, name);
                self.retention.by_use.push_back(place);
                continue;
            }
            self.forget(&name);
            return true;
        }
        false
    }

    /// Forgets the history of a room.
    pub(super) fn forget(&mut self, name: &RoomName) {
        if let Some(room) = self.rooms.get_mut(name) {
            room.history.clear();
            if let Some(followed) = &mut room.followed {
                followed.note_trimmed();
            }
            self.count(name);
            self.remove_if_idle(name);
        }
    }

    /// Drops the void entries of rooms that are gone once they are the most: strangers who make up
    /// names leave no more behind than the rooms there are.
    fn compact_queues(&mut self) {
        let entries_max = 2 * self.rooms.len() + 64;
        let rooms = &self.rooms;
        if self.retention.by_use.len() > entries_max {
            self.retention.by_use.retain(|(entry, name)| {
                rooms
                    .get(name)
                    .is_some_and(|room| room.marks.use_entry == Some(*entry))
            });
        }
        if self.retention.by_age.len() > entries_max {
            self.retention.by_age.retain(|Reverse((expiry_s, name))| {
                rooms
                    .get(name)
                    .is_some_and(|room| room.marks.age_entry == Some(*expiry_s))
            });
        }
    }

    /// Brings the count of a room's history up to date.
    pub(super) fn count(&mut self, name: &RoomName) {
        let Some(room) = self.rooms.get_mut(name) else {
            return;
        };
        let cost = if room.history.is_empty() {
            0
        } else {
            room.history.cost_bytes() + ROOM_BYTES + 2 * name.as_str().len()
        };
        let before = std::mem::replace(&mut room.marks.counted_bytes, cost);
        self.retention.used_bytes = self.retention.used_bytes - before + cost;
    }
}

/// Where the shard's clock begins. In a cluster a shard takes over publications that are older than
/// itself, so there must be seconds before it: 34 years of them, and 102 for it to run.
const BEGIN_S: u32 = 1 << 30;

/// What a room takes beside its history: its entry in the table, in the two queues, its name.
const ROOM_BYTES: usize = 512;
