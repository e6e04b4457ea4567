//! Which connection a user is logged in with, where there may be only one.
//!
//! Owns: one connection for each user with a live one; empty where `--duplicate-login` is `allow`.
//! Two logins at the same moment end in exactly one: the loop sees them one after the other.

use std::collections::HashMap;

use crate::base::{ConnId, DuplicateLogin, UserId};

/// The users with a connection.
#[derive(Debug)]
pub(super) struct Logins {
    rule: DuplicateLogin,
    by_user: HashMap<UserId, ConnId>,
}

impl Logins {
    pub(super) fn new(rule: DuplicateLogin) -> Self {
        Self {
            rule,
            by_user: HashMap::new(),
        }
    }

    /// A connection of `user` asks to be let in; returns whether it is. Where a second one is
    /// refused, the first to ask holds the place.
    pub(super) fn ask(&mut self, user: &UserId, id: ConnId) -> bool {
        if self.rule != DuplicateLogin::Refuse {
            return true;
        }
        *self.by_user.entry(user.clone()).or_insert(id) == id
    }

    /// A connection of `user` is open; returns the one whose place it takes.
    pub(super) fn open(&mut self, user: &UserId, id: ConnId) -> Option<ConnId> {
        if self.rule != DuplicateLogin::Replace {
            return None;
        }
        self.by_user
            .insert(user.clone(), id)
            .filter(|before| *before != id)
    }

    /// A connection of `user` is ending.
    pub(super) fn leave(&mut self, user: &UserId, id: ConnId) {
        if self.by_user.get(user) == Some(&id) {
            self.by_user.remove(user);
        }
    }

    /// Number of users that are remembered.
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
        let mut logins = Logins::new(DuplicateLogin::Refuse);
        assert!(logins.ask(&user, A) && logins.ask(&user, A));
        assert!(!logins.ask(&user, B));
        logins.leave(&user, B);
        assert!(!logins.ask(&user, B), "only its holder gives a place up");
        logins.leave(&user, A);
        assert!(logins.ask(&user, B));

        let mut logins = Logins::new(DuplicateLogin::Replace);
        assert!(logins.ask(&user, A) && logins.ask(&user, B));
        assert_eq!(logins.open(&user, A), None);
        assert_eq!(logins.open(&user, B), Some(A));
        logins.leave(&user, A);
        assert_eq!(logins.len(), 1);
        logins.leave(&user, B);
        assert_eq!(logins.len(), 0);

        let mut logins = Logins::new(DuplicateLogin::Allow);
        assert!(logins.ask(&user, A) && logins.ask(&user, B));
        assert_eq!(
            (logins.open(&user, A), logins.open(&user, B), logins.len()),
            (None, None, 0)
        );
    }
}
