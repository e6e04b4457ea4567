//! Where rooms stood that have neither members nor history: whoever comes back to one finds its
//! numbering, and what it has missed is known, be it nothing.
//!
//! Owns: the position of each of the latest such rooms, as many as its bound allows.
//! Never: keeps a room that exists.
//!
//! Two tables take turns. When the newer is full, the older is emptied and takes its place, so what was
//! remembered longest is forgotten together, nothing says in which order rooms went, and no table
//! grows for what was taken out of it.

use std::collections::HashMap;
use std::mem;

use crate::base::{Position, RoomName};
use crate::room::history::History;

/// Rooms that have gone: the latest `rooms_max` of them, and at most twice as many.
#[derive(Debug, Default)]
pub(super) struct Departed {
    newer: HashMap<RoomName, Left>,
    older: HashMap<RoomName, Left>,
    rooms_max: usize,
}

/// What is remembered of a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Left {
    /// Where it stood.
    pub(super) position: Position,
    /// Nothing published after this time, in milliseconds since 1970, was forgotten.
    pub(super) complete_since_ms: u64,
}

impl Left {
    /// What is kept of it: nothing.
    pub(super) fn history(&self) -> History {
        History::new(self.position.offset.next(), self.complete_since_ms)
    }
}

impl Departed {
    /// Remembers the latest `rooms_max` rooms.
    pub(super) fn new(rooms_max: usize) -> Self {
        Self {
            rooms_max,
            ..Self::default()
        }
    }

    /// A room goes.
    pub(super) fn add(&mut self, name: &RoomName, left: Left) {
        if self.rooms_max == 0 {
            return;
        }
        if self.newer.len() >= self.rooms_max {
            mem::swap(&mut self.newer, &mut self.older);
            self.newer.clear();
        }
        self.older.remove(name);
        self.newer.insert(name.clone(), left);
    }

    /// Where a room stood that has gone.
    pub(super) fn get(&self, name: &RoomName) -> Option<Left> {
        let left = self.newer.get(name).or_else(|| self.older.get(name));
        left.copied()
    }

    /// A room comes back.
    pub(super) fn take(&mut self, name: &RoomName) -> Option<Left> {
        let left = self.newer.remove(name);
        left.or_else(|| self.older.remove(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Epoch, Offset};

    fn room(number: u64) -> RoomName {
        RoomName::new(&format!("r{number}")).expect("a good name")
    }

    fn left(offset: u64) -> Left {
        Left {
            position: Position {
                epoch: Epoch::from_number(1),
                offset: Offset(offset),
            },
            complete_since_ms: 0,
        }
    }

    #[test]
    fn the_latest_are_remembered_and_nothing_grows() {
        let mut departed = Departed::new(3);
        for number in 0..8 {
            departed.add(&room(number), left(number));
        }
        assert_eq!(departed.take(&room(2)), None, "too long ago");
        for number in 5..8 {
            assert_eq!(departed.get(&room(number)), Some(left(number)));
        }
        assert_eq!(departed.take(&room(5)), Some(left(5)));
        assert_eq!(departed.take(&room(5)), None, "it has come back");
        departed.add(&room(7), left(1));
        departed.add(&room(7), left(2));
        assert_eq!(departed.take(&room(7)), Some(left(2)));
        assert_eq!(departed.take(&room(7)), None);
        let mut none = Departed::new(0);
        none.add(&room(1), left(1));
        assert_eq!(none.take(&room(1)), None);
    }

    #[test]
    fn rooms_that_come_and_go_for_ever_take_no_more() {
        const ROOMS_MAX: usize = 1000;
        let mut departed = Departed::new(ROOMS_MAX);
        for number in 0..100 * ROOMS_MAX as u64 {
            departed.add(&room(number), left(number));
            if number % 3 == 0 {
                departed.take(&room(number - number / 7 % 500));
            }
            let [newer, older] = [&departed.newer, &departed.older].map(HashMap::len);
            assert!(
                newer <= ROOMS_MAX && older <= ROOMS_MAX,
                "{newer} and {older}"
            );
            let largest = departed.newer.capacity().max(departed.older.capacity());
            assert!(largest < 2 * ROOMS_MAX, "a table of {largest}");
        }
    }
}
