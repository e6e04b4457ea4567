//! Who is in which room, from both sides.
//!
//! Owns: each room's list of members and each connection's list of rooms.
//! Never: touches a queue or a connection; it only says who is to receive.
//!
//! Invariants
//! - The two lists are inverse relations, each entry knowing its place in the other, so that
//!   joining is O(1) and leaving is O(1) a room.
//! - A room exists exactly while it has members.

use std::collections::HashSet;

use slab::Slab;
use smallvec::SmallVec;

use crate::base::{Delivery, Offset, PartedMap, RoomName};
use crate::wire::raw::WireForm;

/// Rooms with their members, and connections with their rooms.
#[derive(Debug, Default)]
pub struct Members {
    rooms: Slab<Room>,
    by_name: PartedMap<RoomName, usize>,
    /// By slot of the connection.
    rooms_of: Vec<SmallVec<[Place; 1]>>,
    members_len: usize,
}

/// A room with members.
#[derive(Debug)]
pub struct Room {
    name: RoomName,
    members: Vec<Member>,
    offset: Offset,
    delivery: Delivery,
    /// Connections of other nodes that are in it.
    others: u32,
    /// Slots of members that want to be told who joins and who leaves.
    watchers: HashSet<u32>,
}

/// One membership, as the room sees it.
#[derive(Debug)]
pub struct Member {
    /// Slot of the connection.
    pub slot: u32,
    /// Publications skipped and not yet told.
    pub skipped: u32,
    /// Its place in the connection's list.
    back: u32,
    /// How it receives.
    pub form: WireForm,
    /// Whether it receives what it published itself.
    pub echo: bool,
}

/// One membership, as the connection sees it.
#[derive(Clone, Copy, Debug)]
struct Place {
    room: u32,
    index: u32,
}

impl Members {
    /// Makes `slot` a member of `name`, whose last publication is `offset`. Returns whether it was
    /// none before. `delivery` is asked when the room comes into being.
    pub fn join(
        &mut self,
        name: &RoomName,
        slot: u32,
        (form, echo): (WireForm, bool),
        offset: Offset,
        delivery: impl FnOnce() -> Delivery,
    ) -> bool {
        if self.contains(name, slot) {
            return false;
        }
        let key = match self.by_name.get(name) {
            Some(key) => *key,
            None => {
                let key = self.rooms.insert(Room {
                    name: name.clone(),
                    members: Vec::new(),
                    offset,
                    delivery: delivery(),
                    others: 0,
                    watchers: HashSet::new(),
                });
                self.by_name.insert(name.clone(), key);
                key
            }
        };
        if self.rooms_of.len() <= slot as usize {
            self.rooms_of.resize_with(slot as usize + 1, SmallVec::new);
        }
        let room = &mut self.rooms[key];
        room.offset = room.offset.max(offset);
        let places = &mut self.rooms_of[slot as usize];
        places.push(Place {
            room: key as u32,
            index: room.members.len() as u32,
        });
        let back = places.len() as u32 - 1;
        room.members.push(Member {
            slot,
            skipped: 0,
            back,
            form,
            echo,
        });
        self.members_len += 1;
        true
    }

    /// Takes `slot` out of one of its rooms and says which; `None` when it is in none.
    pub fn leave_one(&mut self, slot: u32) -> Option<(RoomName, WireForm)> {
        let last = self.rooms_of.get(slot as usize)?.len().checked_sub(1)?;
        Some(self.remove(slot, last))
    }

    /// Takes `slot` out of the room of that name, and says how it received there; `None` when it is
    /// not in it. Takes time in the number of rooms of the connection.
    pub fn leave(&mut self, name: &RoomName, slot: u32) -> Option<WireForm> {
        let place = self
            .rooms_of(slot)
            .position(|(room, _)| room.name == *name)?;
        let (_, form) = self.remove(slot, place);
        Some(form)
    }

    /// Takes `slot` out of the room at `place` in its list.
    fn remove(&mut self, slot: u32, place: usize) -> (RoomName, WireForm) {
        let places = &mut self.rooms_of[slot as usize];
        let Place { room: key, index } = places.swap_remove(place);
        if let Some(moved) = places.get(place) {
            let Place { room, index } = *moved;
            self.rooms[room as usize].members[index as usize].back = place as u32;
        }
        if self.rooms_of[slot as usize].is_empty() {
            self.rooms_of[slot as usize] = SmallVec::new();
        }
        let room = &mut self.rooms[key as usize];
        room.watchers.remove(&slot);
        let left = room.members.swap_remove(index as usize);
        if let Some(moved) = room.members.get(index as usize) {
            self.rooms_of[moved.slot as usize][moved.back as usize].index = index;
        }
        self.members_len -= 1;
        let name = room.name.clone();
        if room.members.is_empty() {
            self.rooms.remove(key as usize);
            self.by_name.remove(&name);
        }
        (name, left.form)
    }

    /// Tells a member of `name` from now on who joins and who leaves.
    pub fn watch(&mut self, name: &RoomName, slot: u32) {
        if !self.contains(name, slot) {
            return;
        }
        if let Some(room) = self.room_mut(name) {
            room.watchers.insert(slot);
        }
    }

    /// So many connections of other nodes are in a room.
    pub fn set_others(&mut self, name: &RoomName, others: u32) {
        if let Some(room) = self.room_mut(name) {
            room.others = others;
        }
    }

    /// The room of that name, if it has members.
    #[must_use]
    pub fn room(&self, name: &RoomName) -> Option<&Room> {
        self.by_name.get(name).map(|key| &self.rooms[*key])
    }

    /// The same, to change it.
    pub fn room_mut(&mut self, name: &RoomName) -> Option<&mut Room> {
        self.by_name.get(name).map(|key| &mut self.rooms[*key])
    }

    /// The rooms with members that are in `len` places from `place` on, in no order.
    pub fn rooms_from(&self, place: usize, len: usize) -> impl Iterator<Item = &Room> {
        let end = self.places_end().min(place.saturating_add(len));
        (place..end).filter_map(|place| self.rooms.get(place))
    }

    /// The place behind the last one of a room.
    #[must_use]
    pub fn places_end(&self) -> usize {
        self.rooms.capacity()
    }

    /// Whether `slot` is a member of `name`. Takes time in the number of rooms of the connection.
    #[must_use]
    pub fn contains(&self, name: &RoomName, slot: u32) -> bool {
        self.rooms_of(slot).any(|(room, _)| room.name == *name)
    }

    /// The rooms of a connection, with its membership in each.
    pub fn rooms_of(&self, slot: u32) -> impl Iterator<Item = (&Room, &Member)> {
        self.rooms_of
            .get(slot as usize)
            .into_iter()
            .flatten()
            .map(|place| {
                let room = &self.rooms[place.room as usize];
                (room, &room.members[place.index as usize])
            })
    }

    /// Takes what each room of the connection owes it in skips, and gives it to `tell`.
    pub fn take_skips(&mut self, slot: u32, mut tell: impl FnMut(&RoomName, u32, WireForm)) {
        for place in self.rooms_of.get(slot as usize).into_iter().flatten() {
            let room = &mut self.rooms[place.room as usize];
            let member = &mut room.members[place.index as usize];
            if member.skipped > 0 {
                tell(&room.name, std::mem::take(&mut member.skipped), member.form);
            }
        }
    }

    /// Number of rooms with members.
    #[must_use]
    pub fn rooms_len(&self) -> usize {
        self.rooms.len()
    }

    /// Number of memberships.
    #[must_use]
    pub fn members_len(&self) -> usize {
        self.members_len
    }

    /// Asserts the invariants; for tests and debug builds. Takes time in the number of members.
    pub fn check_invariants(&self) {
        assert_eq!(self.rooms.len(), self.by_name.len());
        let mut members_len = 0;
        for (key, room) in &self.rooms {
            assert_eq!(self.by_name.get(&room.name), Some(&key));
            assert!(
                !room.members.is_empty(),
                "a room without members must be gone"
            );
            for (index, member) in room.members.iter().enumerate() {
                let place = self.rooms_of[member.slot as usize][member.back as usize];
                assert_eq!((place.room as usize, place.index as usize), (key, index));
            }
            for slot in room.watchers() {
                assert!(self.contains(&room.name, slot), "who watches is a member");
            }
            members_len += room.members.len();
        }
        assert_eq!(members_len, self.members_len);
        assert_eq!(
            members_len,
            self.rooms_of.iter().map(SmallVec::len).sum::<usize>()
        );
    }
}

impl Room {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &RoomName {
        &self.name
    }

    /// Its members.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Its name and its members, for counting skips.
    pub fn name_and_members_mut(&mut self) -> (&RoomName, &mut [Member]) {
        (&self.name, &mut self.members)
    }

    /// Slots of the members that want to be told who joins and who leaves.
    pub fn watchers(&self) -> impl Iterator<Item = u32> {
        self.watchers.iter().copied()
    }

    /// Offset of the last publication that members were given.
    #[must_use]
    pub fn offset(&self) -> Offset {
        self.offset
    }

    /// Connections in it, those of other nodes included.
    #[must_use]
    pub fn online(&self) -> usize {
        self.members.len() + self.others as usize
    }

    /// Moves to `offset`.
    pub fn advance_to(&mut self, offset: Offset) {
        self.offset = offset;
    }

    /// What the room promises its members.
    #[must_use]
    pub fn delivery(&self) -> Delivery {
        self.delivery
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Prng;

    fn room(number: u64) -> RoomName {
        RoomName::new(&format!("r{number}")).expect("a good name")
    }

    #[test]
    fn both_sides_stay_in_step() {
        let mut prng = Prng::new(1);
        let mut members = Members::default();
        let mut model: Vec<(u64, u32)> = Vec::new();
        for _ in 0..5000 {
            let slot = prng.below(20) as u32;
            if prng.below(5) == 0 {
                while let Some((name, _)) = members.leave_one(slot) {
                    let before = model.len();
                    model.retain(|(number, of)| *of != slot || room(*number) != name);
                    assert_eq!(model.len(), before - 1);
                }
            } else {
                let number = prng.below(10);
                let is_new = !model.contains(&(number, slot));
                let form = (WireForm::Raw, true);
                let joined =
                    members.join(&room(number), slot, form, Offset(0), || Delivery::Reliable);
                assert_eq!(joined, is_new);
                if is_new {
                    model.push((number, slot));
                }
            }
            members.check_invariants();
            assert_eq!(members.members_len(), model.len());
        }
        let slots: Vec<u32> = model.iter().map(|(_, slot)| *slot).collect();
        for slot in slots {
            while members.leave_one(slot).is_some() {}
        }
        assert_eq!((members.rooms_len(), members.members_len()), (0, 0));
    }
}
