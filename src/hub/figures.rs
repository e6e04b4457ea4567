//! Who is large, who is slow: what an operator looks at.
//!
//! Owns: the list of connections whose socket has refused bytes. With those that wait for their turn
//! to be written to, they are all that can have something queued, so that nobody has to look at
//! every connection.
//!
//! Bound: at most [`BACKLOGGED_MAX`] and [`OTHERS_MAX`] connections are looked at. Of more, each so
//! many-th is, and counts for all of them.

use super::Hub;
use crate::base::{ConnId, Now, Offset, RoomName};
use crate::conn::Connection;
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
        self.look_at_queues(|conn, _| queues.offer(conn.queue.level().bytes, conn.id));
        let mut rooms = Largest::default();
        for room in self.members.rooms() {
            rooms.offer(room.members().len(), room);
        }
        let queues = queues.into_items().filter_map(|id| self.table.get(id));
        Figures {
            rooms: rooms
                .into_items()
                .map(|room| LargeRoom {
                    name: room.name().clone(),
                    members: room.members().len(),
                    offset: room.offset(),
                })
                .collect(),
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
        let stride = self.backlog.len().div_ceil(BACKLOGGED_MAX).max(1);
        let mut place = 0;
        self.backlog.retain(|id| {
            place += 1;
            if place % stride != 0 {
                return true;
            }
            let Some(entry) = table.get_mut(*id) else {
                return false;
            };
            look(&entry.conn, stride);
            let is_waiting = !entry.conn.queue.is_empty();
            entry.conn.set_backlogged(is_waiting);
            is_waiting
        });
        // They wait for us, and not we for them: a part of them is enough.
        let stride = self.dirty.len().div_ceil(OTHERS_MAX).max(1);
        let others = self.dirty.iter().step_by(stride);
        let others = others.filter_map(|id| table.get(*id));
        for conn in others.filter(|conn| !conn.is_backlogged()) {
            look(conn, stride);
        }
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
