//! The connections, by slot, each with the socket the shell attached to it.
//!
//! Invariant: an id whose generation is not the slot's finds nothing, so that a late event or
//! answer for a dead connection cannot reach its successor.

use slab::Slab;

use crate::base::ConnId;
use crate::conn::Connection;

/// Connections with their sockets.
#[derive(Debug)]
pub(super) struct Table<S> {
    slots: Slab<Entry<S>>,
    /// Uses of each slot so far, from where the daemon began to count.
    generations: Vec<u32>,
    first_generation: u32,
}

/// One connection with its socket.
#[derive(Debug)]
pub(super) struct Entry<S> {
    pub(super) conn: Connection,
    pub(super) socket: S,
}

impl<S> Table<S> {
    /// An empty table. Generations count from `first_generation`: different for every start of a
    /// daemon, so that an id that somebody has kept does not mean another connection after it.
    pub(super) fn new(first_generation: u32) -> Self {
        Self {
            slots: Slab::new(),
            generations: Vec::new(),
            first_generation: first_generation % u32::MAX,
        }
    }

    /// Makes an entry under a new id.
    pub(super) fn insert(&mut self, socket: S, conn: impl FnOnce(ConnId) -> Connection) -> ConnId {
        let vacant = self.slots.vacant_entry();
        let slot = vacant.key();
        if self.generations.len() == slot {
            self.generations.push(self.first_generation);
        }
        let id = ConnId {
            slot: slot as u32,
            generation: self.generations[slot],
        };
        vacant.insert(Entry {
            conn: conn(id),
            socket,
        });
        id
    }

    /// Frees the slot of `id`.
    pub(super) fn remove(&mut self, id: ConnId) -> Option<Entry<S>> {
        self.get_mut(id)?;
        // `u32::MAX` is kept free for `ConnId::NONE`.
        let generation = &mut self.generations[id.slot as usize];
        *generation = generation.wrapping_add(1) % u32::MAX;
        self.slots.try_remove(id.slot as usize)
    }

    #[inline]
    pub(super) fn get_mut(&mut self, id: ConnId) -> Option<&mut Entry<S>> {
        self.slots
            .get_mut(id.slot as usize)
            .filter(|entry| entry.conn.id == id)
    }

    pub(super) fn get(&self, id: ConnId) -> Option<&Connection> {
        let entry = self.slots.get(id.slot as usize)?;
        (entry.conn.id == id).then_some(&entry.conn)
    }

    /// The id of the connection in a slot, if there is one.
    pub(super) fn id_at(&self, slot: u32) -> Option<ConnId> {
        self.slots.get(slot as usize).map(|entry| entry.conn.id)
    }

    /// One more than the highest slot that was ever in use.
    pub(super) fn slots_end(&self) -> u32 {
        self.generations.len() as u32
    }

    /// The connection in a slot that is known to be in use.
    #[inline]
    pub(super) fn at_mut(&mut self, slot: u32) -> Option<&mut Connection> {
        self.slots
            .get_mut(slot as usize)
            .map(|entry| &mut entry.conn)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Connection> {
        self.slots.iter().map(|(_, entry)| &entry.conn)
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conn::Open;

    /// What an idle member costs is mostly these two. Whoever makes them larger should know.
    #[test]
    fn a_connection_at_rest_is_small() {
        assert!(
            size_of::<Entry<u64>>() <= 232,
            "{}",
            size_of::<Entry<u64>>()
        );
        // With the allocator's word it fits a block of 128 bytes.
        assert!(size_of::<Open>() <= 120, "{}", size_of::<Open>());
    }
}
