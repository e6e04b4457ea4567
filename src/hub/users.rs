//! Which connections are a user's, and whether there may be more than one.
//!
//! Owns: the connections of every user that is joining or open, under each rule of
//! `--duplicate-login`. Two logins at the same moment end in exactly one where only one may be:
//! the loop sees them one after the other.
//!
//! Joining, leaving and counting take the same time however many connections a user has.

use std::collections::HashSet;

use crate::base::{ConnId, DuplicateLogin, PartedMap, UserId};

/// The users with a connection.
#[derive(Debug)]
pub(super) struct Users {
    rule: DuplicateLogin,
    by_user: PartedMap<UserId, Connections>,
}

/// The connections of one user: mostly one, and then without a set.
#[derive(Debug)]
enum Connections {
    One(ConnId),
    Many(HashSet<ConnId>),
}

impl Users {
    pub(super) fn new(rule: DuplicateLogin) -> Self {
        Self {
            rule,
            by_user: PartedMap::default(),
        }
    }

    /// A connection of `user` asks to be let in; returns whether it is. Where a second one is
    /// refused, the first to ask holds the place.
    pub(super) fn ask(&mut self, user: &UserId, id: ConnId) -> bool {
        match self.by_user.get_mut(user) {
            None => {
                self.by_user.insert(user.clone(), Connections::One(id));
            }
            Some(_) if self.rule == DuplicateLogin::Refuse => return false,
            Some(connections) => match connections {
                Connections::Many(ids) => {
                    ids.insert(id);
                }
                Connections::One(first) => {
                    *connections = Connections::Many(HashSet::from([*first, id]));
                }
            },
        }
        true
    }

    /// A connection of `user` is open; returns those whose place it takes. Those among them that
    /// are still joining keep theirs until one of the two is open after the other.
    pub(super) fn open(&self, user: &UserId, id: ConnId) -> Vec<ConnId> {
        if self.rule != DuplicateLogin::Replace {
            return Vec::new();
        }
        self.of(user).filter(|other| *other != id).collect()
    }

    /// A connection of `user` is ending.
    pub(super) fn leave(&mut self, user: &UserId, id: ConnId) {
        let Some(connections) = self.by_user.get_mut(user) else {
            return;
        };
        let is_empty = match connections {
            Connections::One(only) => *only == id,
            Connections::Many(ids) => {
                ids.remove(&id);
                ids.is_empty()
            }
        };
        if is_empty {
            self.by_user.remove(user);
        }
    }

    /// The connections of a user, in no order.
    pub(super) fn of(&self, user: &UserId) -> impl Iterator<Item = ConnId> {
        let (one, many) = match self.by_user.get(user) {
            None => (None, None),
            Some(Connections::One(id)) => (Some(*id), None),
            Some(Connections::Many(ids)) => (None, Some(ids.iter().copied())),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }

    /// Number of users.
    pub(super) fn len(&self) -> usize {
        self.by_user.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ConnId = ConnId {
        slot: 1,
        generation: 0,
    };
    const B: ConnId = ConnId {
        slot: 2,
        generation: 0,
    };

    #[test]
    fn two_logins_end_in_one() {
        let user = UserId::new("al").expect("a good id");
        let mut users = Users::new(DuplicateLogin::Refuse);
        assert!(users.ask(&user, A));
        assert!(!users.ask(&user, B));
        users.leave(&user, B);
        assert!(!users.ask(&user, B), "only its holder gives a place up");
        users.leave(&user, A);
        assert!(users.ask(&user, B));

        let mut users = Users::new(DuplicateLogin::Replace);
        assert!(users.ask(&user, A));
        assert_eq!(users.open(&user, A), []);
        assert!(users.ask(&user, B));
        assert_eq!(users.open(&user, B), [A]);
        users.leave(&user, A);
        assert_eq!(users.open(&user, B), []);
        assert_eq!(users.len(), 1);
        users.leave(&user, B);
        assert_eq!(users.len(), 0);

        let mut users = Users::new(DuplicateLogin::Allow);
        assert!(users.ask(&user, A) && users.ask(&user, B));
        assert_eq!(users.open(&user, B), []);
        assert_eq!((users.of(&user).count(), users.len()), (2, 1));
        users.leave(&user, A);
        assert_eq!(users.of(&user).collect::<Vec<_>>(), [B]);
    }
}
