//! In a cluster: how many are in a room here, told now and then, and how many are elsewhere.

use std::time::Duration;

use super::RoomShard;
use crate::base::{Now, Position, RoomName};
use crate::cluster::Request;
use crate::exchange::Effect;

impl RoomShard {
    /// The number of members of a room has changed.
    pub(super) fn note_changed(&mut self, name: &RoomName) {
        let Some(following) = &mut self.following else {
            return;
        };
        let Some(followed) = (self.rooms.get_mut(name)).and_then(|room| room.followed.as_mut())
        else {
            return;
        };
        if !std::mem::replace(&mut followed.is_changed, true) {
            // The time is that of the last look at the clock, which is near enough.
            let at = following.last_look + CHANGE_INTERVAL;
            following.changed.push_back((at, name.clone()));
        }
    }

    pub(super) fn note_changed_at(&mut self, now: Now, name: &RoomName) {
        if let Some(following) = &mut self.following {
            following.last_look = now.instant;
        }
        self.note_changed(name);
    }

    /// Tells how many are in a room.
    pub(super) fn beat(&mut self, name: &RoomName) {
        let is_available =
            (self.following.as_ref()).is_some_and(|following| following.is_available);
        let Some(room) = self.rooms.get_mut(name) else {
            return;
        };
        if !is_available {
            // It would only wait, with the next behind it.
            return;
        }
        let members = room.presence.clients_len() as u32;
        let watches = !room.watchers.is_empty();
        let Some(followed) = &mut room.followed else {
            return;
        };
        // In the room of nodes, each node is one.
        let members = members + u32::from(followed.is_pinned);
        followed.told = members;
        let is_watch_news = followed.watch.tell(watches);
        let login = followed.logins.newest();
        let Some(following) = &mut self.following else {
            return;
        };
        following.requests.push(Request::Beat {
            room: name.clone(),
            members,
            watches,
            login,
        });
        let node = following.node;
        if is_watch_news {
            self.announce_watch(name, node);
        }
    }

    pub(super) fn handle_beaten(&mut self, name: &RoomName, top: Position, online: u64) {
        let Some(followed) = self.followed_mut(name) else {
            return;
        };
        let must_read = followed.link.handle_beaten(top);
        let told = u64::from(followed.told);
        self.note_online(name, online.saturating_sub(told));
        if must_read {
            self.totals.following().holes.add(1);
            self.read_room(name);
        }
    }

    /// Tells the hub again how many of other nodes are in a room, which it forgets when the last
    /// member leaves.
    pub(super) fn tell_online(&mut self, name: &RoomName) {
        let others = self
            .followed_mut(name)
            .map_or(0, |followed| followed.others);
        if others > 0 {
            let room = name.clone();
            self.effects.push_back(Effect::Online { room, others });
        }
    }

    /// So many of other nodes are in a room.
    pub(super) fn note_online(&mut self, name: &RoomName, others: u64) {
        let others = u32::try_from(others).unwrap_or(u32::MAX);
        let Some(followed) = self.followed_mut(name) else {
            return;
        };
        if std::mem::replace(&mut followed.others, others) != others {
            let room = name.clone();
            self.effects.push_back(Effect::Online { room, others });
        }
    }
}

/// How long a change of the number of members may wait before it is told.
const CHANGE_INTERVAL: Duration = Duration::from_secs(1);
