//! Who is in a room.
//!
//! Owns: each client of the room with who is behind it, and how many clients each user has there,
//! so that joining, leaving and both counts take the same time however many there are.
//! Never: asks whether somebody is still there; who leaves is taken out.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::base::{ConnId, Identity, UserId};

/// The clients of one room.
#[derive(Debug, Default)]
pub struct Presence {
    identified: HashMap<ConnId, Arc<Identity>>,
    anonymous: HashSet<ConnId>,
    /// Clients of each user.
    users: HashMap<UserId, u32>,
}

impl Presence {
    /// A client has joined.
    pub fn join(&mut self, client: ConnId, identity: Option<Arc<Identity>>) {
        let is_new = match identity {
            Some(identity) => {
                *self.users.entry(identity.user.clone()).or_default() += 1;
                self.identified.insert(client, identity).is_none()
            }
            None => self.anonymous.insert(client),
        };
        debug_assert!(is_new, "{client} has joined twice");
    }

    /// A client has left; says who is behind it.
    pub fn leave(&mut self, client: ConnId) -> Option<Arc<Identity>> {
        let Some(identity) = self.identified.remove(&client) else {
            let was_there = self.anonymous.remove(&client);
            debug_assert!(was_there, "{client} has left without having joined");
            if self.anonymous.capacity() > CAPACITY_KEPT.max(8 * self.anonymous.len()) {
                self.anonymous.shrink_to_fit();
            }
            return None;
        };
        if self.identified.capacity() > CAPACITY_KEPT.max(8 * self.identified.len()) {
            self.identified.shrink_to_fit();
            self.users.shrink_to_fit();
        }
        if let Entry::Occupied(mut count) = self.users.entry(identity.user.clone()) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        Some(identity)
    }

    /// Number of clients.
    #[must_use]
    pub fn clients_len(&self) -> usize {
        self.identified.len() + self.anonymous.len()
    }

    /// Number of different users among them; clients without a user do not count.
    #[must_use]
    pub fn users_len(&self) -> usize {
        self.users.len()
    }

    /// Those users, in no order.
    pub fn users(&self) -> impl Iterator<Item = &UserId> {
        self.users.keys()
    }

    /// The clients, in no order.
    pub fn clients(&self) -> impl Iterator<Item = (ConnId, Option<&Identity>)> {
        let identified = self.identified.iter();
        identified
            .map(|(client, identity)| (*client, Some(&**identity)))
            .chain(self.anonymous.iter().map(|client| (*client, None)))
    }

    /// Asserts that the counts are right; for tests.
    pub fn check_invariants(&self) {
        let identified = self.identified.len();
        let counted: usize = self.users.values().map(|count| *count as usize).sum();
        assert_eq!(identified, counted);
        assert!(self.users.values().all(|count| *count > 0));
    }
}

/// Room for this many clients stays allocated in a room that has emptied.
const CAPACITY_KEPT: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_count_once_however_many_clients_they_have() {
        let mut presence = Presence::default();
        let client = |slot| ConnId {
            slot,
            generation: 0,
        };
        let identity = |user| {
            Some(Arc::new(Identity {
                user: UserId::new(user).expect("a good id"),
                info: None,
            }))
        };
        let counts = |presence: &Presence| {
            presence.check_invariants();
            (presence.clients_len(), presence.users_len())
        };
        presence.join(client(1), identity("al"));
        presence.join(client(2), identity("al"));
        presence.join(client(3), identity("bo"));
        presence.join(client(4), None);
        assert_eq!(counts(&presence), (4, 2));
        presence.leave(client(1));
        assert_eq!(counts(&presence), (3, 2));
        presence.leave(client(2));
        presence.leave(client(4));
        assert_eq!(counts(&presence), (1, 1));
        let (left, who) = presence.clients().next().expect("one is left");
        assert_eq!(left, client(3));
        assert_eq!(who.map(|who| who.user.as_str()), Some("bo"));
        presence.leave(client(3));
        assert_eq!(counts(&presence), (0, 0));
    }
}
