//! Which rooms are open to whom, and whether a key is the right one.
//!
//! Owns: what the reserved names mean together with the lists of a token.
//! Never: looks at a token; [`super::token`] turns one into [`Grants`].
//!
//! The rules
//! - `$…` is open to nobody without a pattern that itself starts with `$`. A `*` alone does not
//!   open it, so that nobody hands out private rooms by meaning "every room".
//! - `#a,b` can be joined by the users it names and by nobody else, whatever the lists say; so a
//!   user's own `#user` can always be joined. Others may publish to it like to any other room:
//!   that is how one user writes to another.
//! - Of all other rooms, the list decides; without a list all of them are open.
//! - Without a list for publishing, what may be joined may be published to.

use std::sync::Arc;

use subtle::ConstantTimeEq as _;

use crate::base::{Glob, RoomName, Secret, UserId};

/// What a connection may do. Cloning shares the lists.
///
/// The default, without lists, is what a connection has that needs no token, and what a token gives
/// that names no rooms.
#[derive(Clone, Debug, Default)]
pub struct Grants(Option<Arc<Lists>>);

#[derive(Debug)]
struct Lists {
    rooms: Option<Vec<Glob>>,
    publish: Option<Vec<Glob>>,
}

impl Grants {
    /// Grants from the lists of a token: `rooms` to join, where `None` is all that are not
    /// private, and `publish`, where `None` is the same as `rooms`. An empty list grants nothing.
    #[must_use]
    pub fn new(rooms: Option<Vec<Glob>>, publish: Option<Vec<Glob>>) -> Self {
        let is_open = rooms.is_none() && publish.is_none();
        Self((!is_open).then(|| Arc::new(Lists { rooms, publish })))
    }

    /// Whether `user` may become a member of `room`.
    #[must_use]
    pub fn may_join(&self, user: Option<&UserId>, room: &RoomName) -> bool {
        if room.named_users().is_some() {
            return names(room, user);
        }
        is_granted(self.rooms(), room)
    }

    /// Whether `user` may publish to `room`.
    #[must_use]
    pub fn may_publish(&self, user: Option<&UserId>, room: &RoomName) -> bool {
        match self.0.as_ref().and_then(|lists| lists.publish.as_deref()) {
            Some(publish) => is_granted(Some(publish), room),
            None => is_granted(self.rooms(), room) || names(room, user),
        }
    }

    fn rooms(&self) -> Option<&[Glob]> {
        self.0.as_ref()?.rooms.as_deref()
    }
}

/// Whether `given` is the key. Takes the same time for every guess of one length; how long the
/// key is can be learnt.
#[must_use]
pub fn is_key(key: &Secret, given: &[u8]) -> bool {
    key.expose().ct_eq(given).into()
}

/// Whether `room` is one of a kind that names its users, and `user` is one of them.
fn names(room: &RoomName, user: Option<&UserId>) -> bool {
    let Some((mut names, user)) = room.named_users().zip(user) else {
        return false;
    };
    names.any(|name| name == user.as_str())
}

/// Whether a list opens `room`; no list opens all that are not private.
fn is_granted(globs: Option<&[Glob]>, room: &RoomName) -> bool {
    let Some(globs) = globs else {
        return !room.is_private();
    };
    globs.iter().any(|glob| {
        let is_explicit = !room.is_private() || glob.as_str().starts_with('$');
        is_explicit && glob.matches(room.as_str())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(id: &str) -> UserId {
        UserId::new(id).expect("a good id")
    }

    fn room(name: &str) -> RoomName {
        RoomName::new(name).expect("a good name")
    }

    #[test]
    fn reserved_names_are_kept_without_a_token() {
        for (id, name, expected) in [
            (None, "live:7", true),
            (None, "#al", false),
            (Some("al"), "#al", true),
            (Some("bo"), "#al", false),
            (Some("bo"), "#al,bo", true),
            (Some("b"), "#al,bo", false),
            (Some("al"), "$private", false),
            (Some("al"), "#", false),
        ] {
            let id = id.map(user);
            assert_eq!(
                Grants::default().may_join(id.as_ref(), &room(name)),
                expected,
                "{id:?} {name}"
            );
        }
        let open = Grants::default();
        for (name, expected) in [("live:7", true), ("#al", true), ("$private", false)] {
            assert_eq!(open.may_publish(None, &room(name)), expected, "{name}");
        }
    }

    #[test]
    fn lists_and_reserved_names_together() {
        type List = Option<&'static [&'static str]>;
        // The user is "al". Lists to join and to publish; room; may join, may publish.
        let cases: [(List, List, &str, bool, bool); 31] = [
            (None, None, "live:7", true, true),
            (None, None, "$x", false, false),
            (None, None, "#al", true, true),
            (None, None, "#al,bo", true, true),
            (None, None, "#bo", false, true),
            (Some(&["live:*"]), None, "live:7", true, true),
            (Some(&["live:*"]), None, "chat", false, false),
            (Some(&["live:*"]), None, "$live:7", false, false),
            (Some(&["live:*"]), None, "#al", true, true),
            (Some(&["live:*"]), None, "#al,bo", true, true),
            (Some(&["live:*"]), None, "#bo", false, false),
            (Some(&["*"]), None, "chat", true, true),
            (Some(&["*"]), None, "$x", false, false),
            (Some(&["*"]), None, "#bo", false, true),
            (Some(&["*x"]), None, "$x", false, false),
            (Some(&["$x"]), None, "$x", true, true),
            (Some(&["$x"]), None, "$xy", false, false),
            (Some(&["$*"]), None, "$x", true, true),
            (Some(&["$*"]), None, "chat", false, false),
            (Some(&["#bo"]), None, "#bo", false, true),
            (Some(&[]), None, "chat", false, false),
            (Some(&[]), None, "#al", true, true),
            (None, Some(&["chat"]), "chat", true, true),
            (None, Some(&["chat"]), "live:7", true, false),
            (None, Some(&["chat"]), "#al", true, false),
            (None, Some(&["chat"]), "#bo", false, false),
            (None, Some(&["#*"]), "#bo", false, true),
            (None, Some(&[]), "chat", true, false),
            (Some(&["a"]), Some(&["b"]), "a", true, false),
            (Some(&["a"]), Some(&["b"]), "b", false, true),
            (Some(&["$x"]), Some(&["*"]), "$x", true, false),
        ];
        let globs = |list: List| list.map(|texts| texts.iter().map(|t| Glob::new(t)).collect());
        let al = user("al");
        for (rooms, publish, name, joins, publishes) in cases {
            let grants = Grants::new(globs(rooms), globs(publish));
            let (al, name) = (Some(&al), room(name));
            let found = (grants.may_join(al, &name), grants.may_publish(al, &name));
            assert_eq!(found, (joins, publishes), "{rooms:?} {publish:?} {name}");
        }
    }

    #[test]
    fn only_the_key_is_the_key() {
        let key = Secret::new(b"right");
        for (given, expected) in [
            ("right", true),
            ("righu", false),
            ("sight", false),
            ("righ", false),
            ("right\n", false),
            ("", false),
        ] {
            assert_eq!(is_key(&key, given.as_bytes()), expected, "{given:?}");
        }
    }
}
