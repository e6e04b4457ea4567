//! Who is large, who is slow: what an operator looks at.
//!
//! Owns: the list of connections whose socket has refused bytes. With those that wait for their turn
//! to be written to, they are all that can have something queued, so that nobody has to look at
//! every connection.
//!
//! Bound: at most [`BACKLOGGED_MAX`] and [`OTHERS_MAX`] connections are looked at. Of more, each so
//! many-th is, and counts for all of them; the next look is at others. Of the rooms each look is at
//! [`ROOMS_MAX`] more, and at those that were the largest.

use super::Hub;
use crate::base::{ConnId, Now, Offset, RoomName};
use crate::conn::Connection;
use crate::room::members::Members;
use crate::wire::api::answer::ConnectionRow;

/// The largest rooms and the deepest queues.
#[derive(Clone, Debug)]
pub struct Figures {
    /// The rooms with the most members, the largest first.
    pub rooms: Vec<LargeRoom>,
    /// The WebSockets with the most bytes queued, the deepest queue first.
    pub queues: Vec<ConnectionRow>,
}

/// A room with many members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LargeRoom {
    /// The room.
    pub name: RoomName,
    /// Its members.
    pub members: usize,
    /// Its last publication.
    pub offset: Offset,
}

/// Where the last look was, so that the next goes on from there.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// Looks at the queues so far.
    queue_looks: usize,
    rooms: RoomSurvey,
}

/// The largest rooms, as far as is known.
#[derive(Debug, Default)]
struct RoomSurvey {
    /// Those that were the largest at the last look.
    known: Vec<RoomName>,
    /// Where the next look begins.
    next_place: usize,
}

impl RoomSurvey {
    /// Looks at up to `rooms_max` rooms beside those that were the largest. A room that is one of
    /// the largest is found once all places have had their turn, and stays known.
    fn look(&mut self, members: &Members, rooms_max: usize) -> Vec<LargeRoom> {
        let mut largest = Largest::default();
        for room in self.known.iter().filter_map(|name| members.room(name)) {
            largest.offer(room.members().len(), room);
        }
        if self.next_place >= members.places_end() {
            self.next_place = 0;
        }
        for room in members.rooms_from(self.next_place, rooms_max) {
            // Nearly all are too small, which is cheaper to see than who they are.
            let size = room.members().len();
            if largest.has_place_for(size) && !self.known.contains(room.name()) {
                largest.offer(size, room);
            }
        }
        self.next_place += rooms_max;
        let found: Vec<_> = largest
            .into_items()
            .map(|room| LargeRoom {
                name: room.name().clone(),
                members: room.members().len(),
                offset: room.offset(),
            })
            .collect();
        self.known = found.iter().map(|room| room.name.clone()).collect();
        found
    }
}

impl<S> Hub<S> {
    /// Looks at the queues now: adds to the histograms of the counters, each WebSocket once.
    pub fn sample_queues(&mut self) {
        let mut publications = self.counters.queue_publications.clone();
        let mut bytes = self.counters.queue_bytes.clone();
        let mut backlogged = 0;
        self.look_at_queues(|conn, weight| {
            let level = conn.queue.level();
            publications.observe_many(level.publications as u64, weight);
            bytes.observe_many(level.bytes as u64, weight);
            backlogged += weight;
        });
        let idle = (self.open_len as u64).saturating_sub(backlogged);
        publications.observe_many(0, idle);
        bytes.observe_many(0, idle);
        self.counters.queue_publications = publications;
        self.counters.queue_bytes = bytes;
        self.counters.backlogged = backlogged;
    }

    /// The largest rooms and the deepest queues, now.
    pub fn figures(&mut self, now: Now) -> Figures {
        let mut queues = Largest::default();
        let mut backlogged = 0;
        self.look_at_queues(|conn, weight| {
            queues.offer(conn.queue.level().bytes, conn.id);
            backlogged += weight;
        });
        self.counters.backlogged = backlogged;
        let rooms = self.survey.rooms.look(&self.members, ROOMS_MAX);
        let queues = queues.into_items().filter_map(|id| self.table.get(id));
        Figures {
            rooms,
            queues: queues
                .map(|conn| self.connection_row(now, conn, ROOMS_SHOWN))
                .collect(),
        }
    }

    /// The socket of a connection has refused bytes.
    pub(super) fn note_backlogged(&mut self, id: ConnId) {
        let Some(entry) = self.table.get_mut(id) else {
            return;
        };
        if entry.conn.set_backlogged(true) {
            return;
        }
        if self.backlog.len() > 2 * self.table.len() + BACKLOG_SPARE {
            let table = &self.table;
            self.backlog.retain(|id| table.get(*id).is_some());
        }
        self.backlog.push(id);
    }

    /// Gives each WebSocket with something queued to `visit`, and for how many it stands.
    fn look_at_queues(&mut self, mut visit: impl FnMut(&Connection, u64)) {
        let mut look = |conn: &Connection, weight: usize| {
            if conn.open().is_some() && conn.queue.level().bytes > 0 {
                visit(conn, weight as u64);
            }
        };
        let table = &mut self.table;
        let looks = self.survey.queue_looks;
        self.survey.queue_looks = looks.wrapping_add(1);
        let part = Part::of(self.backlog.len(), BACKLOGGED_MAX, looks);
        let mut place = 0;
        self.backlog.retain(|id| {
            let is_next = part.has(place);
            place += 1;
            if !is_next {
                return true;
            }
            let Some(entry) = table.get_mut(*id) else {
                return false;
            };
            look(&entry.conn, part.stride);
            let is_waiting = entry.conn.has_unwritten();
            entry.conn.set_backlogged(is_waiting);
            is_waiting
        });
        // They wait for us, and not we for them: a part of them is enough.
        let part = Part::of(self.dirty.len(), OTHERS_MAX, looks);
        let others = self.dirty.iter().skip(part.first).step_by(part.stride);
        let others = others.filter_map(|id| table.get(*id));
        for conn in others.filter(|conn| !conn.is_backlogged()) {
            look(conn, part.stride);
        }
    }
}

/// The part of a long list that one look is at: places that are as far apart as they must be.
#[derive(Clone, Copy, Debug)]
struct Part {
    first: usize,
    stride: usize,
}

impl Part {
    /// Of `len` places at most `most`; the looks that follow are at others, until all were.
    fn of(len: usize, most: usize, looks: usize) -> Self {
        let stride = len.div_ceil(most).max(1);
        let first = looks % stride;
        Self { first, stride }
    }

    fn has(self, place: usize) -> bool {
        place % self.stride == self.first
    }
}

/// The largest of many items, without sorting the many.
struct Largest<T> {
    /// Largest first.
    items: Vec<(usize, T)>,
}

impl<T> Default for Largest<T> {
    fn default() -> Self {
        Self {
            items: Vec::with_capacity(SHOWN + 1),
        }
    }
}

impl<T> Largest<T> {
    fn has_place_for(&self, size: usize) -> bool {
        self.items.len() < SHOWN || self.items.last().is_some_and(|(least, _)| *least < size)
    }

    fn offer(&mut self, size: usize, item: T) {
        let place = self.items.partition_point(|(other, _)| *other >= size);
        if place < SHOWN {
            self.items.insert(place, (size, item));
            self.items.truncate(SHOWN);
        }
    }

    fn into_items(self) -> impl Iterator<Item = T> {
        self.items.into_iter().map(|(_, item)| item)
    }
}

/// Rooms and queues shown.
const SHOWN: usize = 20;

/// Rooms looked at beside those known to be large: a third of a millisecond.
const ROOMS_MAX: usize = 32 << 10;

/// Rooms shown of a connection.
const ROOMS_SHOWN: usize = 16;

/// Connections looked at whose socket has refused bytes. One costs a cache miss or two.
const BACKLOGGED_MAX: usize = 8 << 10;

/// Connections looked at that only wait for their turn to be written to.
const OTHERS_MAX: usize = 2 << 10;

/// How much longer than it need be the list of backlogged connections may grow.
const BACKLOG_SPARE: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_room_has_its_turn_and_the_largest_stay_known() {
        const ROOMS: u32 = 1000;
        const LOOK: usize = 64;
        let name = |number: u32| RoomName::new(&format!("r{number}")).expect("a good name");
        let mut members = Members::default();
        let mut slot = 0;
        let mut fill = |members: &mut Members, number: u32, count: u32| {
            for _ in 0..count {
                let form = (crate::wire::raw::WireForm::Raw, true);
                let delivery = || crate::base::Delivery::Reliable;
                members.join(&name(number), slot, form, Offset(0), delivery);
                slot += 1;
            }
        };
        for number in 0..ROOMS {
            // The largest are neither the first nor the last.
            fill(&mut members, number, 1 + number * 7 % ROOMS / 10);
        }
        let mut survey = RoomSurvey::default();
        let first = survey.look(&members, LOOK);
        assert_eq!(first.len(), SHOWN, "the first answer is one, too");
        let looks = members.places_end().div_ceil(LOOK);
        for _ in 1..looks {
            survey.look(&members, LOOK);
        }
        let found = survey.look(&members, LOOK);
        let sizes: Vec<_> = found.iter().map(|room| room.members).collect();
        let mut expected: Vec<_> = (0..ROOMS)
            .map(|n| 1 + (n * 7 % ROOMS / 10) as usize)
            .collect();
        expected.sort_unstable_by(|a, b| b.cmp(a));
        assert_eq!(sizes, expected[..SHOWN]);
        // One that grows is shown so at once, and one that has gone is not shown.
        let grown = found[7].name.clone();
        let number = grown.as_str()[1..].parse().expect("a number");
        fill(&mut members, number, 100);
        let gone = found[3].name.clone();
        for slot in 0..slot + 100 {
            members.leave(&gone, slot);
        }
        let found = survey.look(&members, LOOK);
        assert_eq!(found[0].name, grown);
        assert!(found.iter().all(|room| room.name != gone));
        let names: std::collections::HashSet<_> = found.iter().map(|room| &room.name).collect();
        assert_eq!(names.len(), SHOWN, "each once");
    }

    #[test]
    fn each_place_has_its_turn_when_there_are_too_many() {
        for len in [0, 1, 99, 100, 101, 200, 201, 1234] {
            let stride = Part::of(len, 100, 0).stride;
            let mut looked_at = vec![0; len];
            for looks in 1000..1000 + stride {
                let part = Part::of(len, 100, looks);
                let places = (0..len).filter(|place| part.has(*place));
                assert!(places.clone().count() <= 100);
                assert!(places.clone().eq((part.first..len).step_by(stride)));
                places.for_each(|place| looked_at[place] += 1);
            }
            assert_eq!(looked_at, vec![1; len], "{len}");
        }
    }

    #[test]
    fn the_largest_are_kept_in_order() {
        let mut largest = Largest::default();
        for number in 0..1000_usize {
            // In an order that is neither rising nor falling.
            largest.offer(number * 7 % 1000, number);
        }
        let sizes: Vec<_> = largest
            .into_items()
            .map(|number| number * 7 % 1000)
            .collect();
        let expected: Vec<_> = (0..SHOWN).map(|place| 999 - place).collect();
        assert_eq!(sizes, expected);
    }
}
