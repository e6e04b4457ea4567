//! Where rooms stood that have neither members nor history: whoever comes back to one finds its
//! numbering, and what it has missed is known, be it nothing.
//!
//! Owns: the position of each of the latest such rooms, as many as its bound allows.
//! Never: keeps a room that exists.

use std::collections::{HashMap, VecDeque};

use crate::base::{Position, RoomName};
use crate::room::history::History;

/// Rooms that have gone.
#[derive(Debug, Default)]
pub(super) struct Departed {
    rooms: HashMap<RoomName, (Left, u64)>,
    /// In the order in which they went; some of them have come back since.
    order: VecDeque<(RoomName, u64)>,
    last_number: u64,
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
    /// At most so many rooms.
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
        self.last_number += 1;
        self.rooms.insert(name.clone(), (left, self.last_number));
        self.order.push_back((name.clone(), self.last_number));
        // Rooms that come and go leave entries behind that mean nothing any more.
        while self.rooms.len() > self.rooms_max || self.order.len() > 2 * self.rooms_max {
            let Some((name, number)) = self.order.pop_front() else {
                break;
            };
            if self.rooms.get(&name).is_some_and(|(_, of)| *of == number) {
                self.rooms.remove(&name);
            }
        }
    }

    /// Where a room stood that has gone.
    pub(super) fn get(&self, name: &RoomName) -> Option<Left> {
        self.rooms.get(name).map(|(left, _)| *left)
    }

    /// A room comes back.
    pub(super) fn take(&mut self, name: &RoomName) -> Option<Left> {
        self.rooms.remove(name).map(|(left, _)| left)
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
        for number in 0..5 {
            departed.add(&room(number), left(number));
        }
        assert_eq!(departed.take(&room(1)), None, "too long ago");
        assert_eq!(departed.take(&room(3)), Some(left(3)));
        assert_eq!(departed.take(&room(3)), None, "it has come back");
        for round in 0..1000 {
            departed.add(&room(9), left(round));
            assert_eq!(departed.take(&room(9)), Some(left(round)));
            assert!(departed.order.len() <= 6, "{}", departed.order.len());
        }
        departed.add(&room(9), left(1));
        departed.add(&room(9), left(2));
        assert_eq!(departed.take(&room(9)), Some(left(2)));
        let mut none = Departed::new(0);
        none.add(&room(1), left(1));
        assert_eq!(none.take(&room(1)), None);
    }
}
