//! Who may do what. Pure rules: no network, no clock.

use crate::base::{RoomName, UserId};

/// Whether `user` may become a member of `room` without a grant.
///
/// `#a,b` is open to the users it names, `$…` to nobody, every other room to everybody.
#[must_use]
pub fn may_join(user: Option<&UserId>, room: &RoomName) -> bool {
    if room.is_private() {
        return false;
    }
    match room.named_users() {
        None => true,
        Some(mut names) => user.is_some_and(|user| names.any(|name| name == user.as_str())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_names_are_kept() {
        for (user, room, expected) in [
            (None, "live:7", true),
            (None, "#al", false),
            (Some("al"), "#al", true),
            (Some("bo"), "#al", false),
            (Some("bo"), "#al,bo", true),
            (Some("b"), "#al,bo", false),
            (Some("al"), "$private", false),
            (Some("al"), "#", false),
        ] {
            let user = user.map(|id| UserId::new(id).expect("a good id"));
            let room = RoomName::new(room).expect("a good name");
            assert_eq!(may_join(user.as_ref(), &room), expected, "{user:?} {room}");
        }
    }
}
