//! The rooms that a connection has joined and is not yet a live member of.
//!
//! Owns: how far it has come in each. What is asked for next is the hub's to decide.

use super::{Connection, Phase};
use crate::base::{CloseReason, Offset, RoomName};

/// The rooms that a connection has to catch up with.
#[derive(Debug, Default)]
pub struct CatchUp {
    /// The next one last.
    rooms: Vec<Missed>,
}

/// A room that a connection has to catch up with.
#[derive(Clone, Debug)]
pub struct Missed {
    /// The room.
    pub room: RoomName,
    /// The last publication that the connection was given.
    pub after: Offset,
    /// What it misses of the publications up to this one is not told.
    pub owed_after: Offset,
    /// The last publication before the connection joined.
    pub joined_at: Offset,
    /// Whether the next part was asked for.
    pub is_asked: bool,
}

impl Connection {
    /// A room was joined, and the connection has to catch up with it. If it `is_doomed` it will be
    /// closed instead as soon as it is open.
    pub fn add_missed(&mut self, missed: Missed, is_doomed: bool) {
        let open = match &mut self.phase {
            Phase::Joining(joining) => Some(&mut joining.open),
            Phase::Open(open) => Some(open),
            _ => None,
        };
        if let Some(open) = open {
            open.catch_up
                .get_or_insert_default()
                .rooms
                .insert(0, missed);
            self.flags.is_catching_up = true;
            if is_doomed {
                open.doom = Some(CloseReason::InsufficientState);
            }
        }
    }

    /// The next room to catch up with, while the connection is open.
    pub fn next_missed_mut(&mut self) -> Option<&mut Missed> {
        if !self.flags.is_catching_up || self.flags.is_waiting {
            return None;
        }
        self.open_mut()?.catch_up.as_mut()?.rooms.last_mut()
    }

    /// The connection has caught up with its next room.
    pub fn remove_next_missed(&mut self) {
        self.change_missed(|rooms| {
            rooms.pop();
        });
    }

    /// Takes the rooms that it has not caught up with.
    pub fn take_missed(&mut self) -> Vec<Missed> {
        let mut taken = Vec::new();
        self.change_missed(|rooms| taken = std::mem::take(rooms));
        taken
    }

    /// Takes the room of that name out of those to catch up with; returns whether it was there.
    pub fn remove_missed(&mut self, room: &RoomName) -> bool {
        let mut is_removed = false;
        self.change_missed(|rooms| {
            let before = rooms.len();
            rooms.retain(|missed| missed.room != *room);
            is_removed = rooms.len() < before;
        });
        is_removed
    }

    fn change_missed(&mut self, change: impl FnOnce(&mut Vec<Missed>)) {
        let open = match &mut self.phase {
            Phase::Open(open) => open,
            Phase::Joining(joining) => &mut joining.open,
            _ => return,
        };
        if let Some(catch_up) = &mut open.catch_up {
            change(&mut catch_up.rooms);
            if catch_up.rooms.is_empty() {
                open.catch_up = None;
                self.flags.is_catching_up = false;
            }
        }
    }

    /// Whether it has rooms to catch up with.
    #[must_use]
    pub fn is_catching_up(&self) -> bool {
        self.flags.is_catching_up
    }
}
