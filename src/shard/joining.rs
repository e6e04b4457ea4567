//! In a cluster: who joins a room that is followed, at once or when enough of it is known.

use std::collections::VecDeque;
use std::sync::Arc;

use super::RoomShard;
use super::following::Join;
use super::numbering::Pending;
use super::subscribe::Wants;
use crate::base::{CloseReason, ConnId, Epoch, Identity, Now, Offset, RoomName, Since};
use crate::exchange::Effect;

impl RoomShard {
    /// Makes a connection a member when its user has a place for it and the room is known.
    pub(super) fn join_when_known(
        &mut self,
        now: Now,
        (conn, identity): (ConnId, Option<Arc<Identity>>),
        name: RoomName,
        wants: Wants,
    ) {
        let Some(following) = &mut self.following else {
            return;
        };
        let (number, deadline) = following.open.add(now, Pending::Join(name.clone()));
        let join = Join {
            conn,
            identity,
            wants,
            login: None,
            number,
            is_read_for: false,
        };
        if self.must_claim(&name, &join) {
            self.claim(deadline, name, join);
        } else {
            self.join_followed(now, name, join);
        }
    }

    /// Makes a connection a member when the room is known.
    pub(super) fn join_followed(&mut self, now: Now, name: RoomName, mut join: Join) {
        if !self.follow(now, &name) {
            return self.refuse_join(&name, join, CloseReason::ChannelLimit);
        }
        let Some(room) = self.rooms.get_mut(&name) else {
            return;
        };
        let at = (room.epoch, room.last);
        let Some(followed) = &mut room.followed else {
            return;
        };
        let wants_more = followed.is_trimmed && join.wants.since != Since::Now;
        let wants_newer = is_ahead(join.wants.since, at);
        if followed.link.is_live() && !wants_more && !wants_newer {
            self.let_in(&name, join);
            return self.note_changed_at(now, &name);
        }
        join.is_read_for = followed.link.is_live();
        let must_read =
            (wants_more && followed.link.want_all()) || (wants_newer && followed.link.want_newer());
        followed.joins.push_back(join);
        self.totals.following().joins_waiting.add(1);
        if must_read {
            self.read_room(&name);
        }
    }

    /// Makes a member of somebody, in a room that is known.
    pub(super) fn let_in(&mut self, name: &RoomName, join: Join) {
        self.take_pending(join.number);
        if !self.holds(name, &join) {
            return self.refuse_join(name, join, CloseReason::ConnectionLimit);
        }
        if let Some(login) = join.login
            && let Some(followed) = self.followed_mut(name)
        {
            followed.logins.add(join.conn, login);
        }
        let who = (join.conn, join.identity);
        self.join(who, name.clone(), join.wants);
    }

    /// Somebody cannot be a member.
    pub(super) fn refuse_join(&mut self, name: &RoomName, join: Join, reason: CloseReason) {
        self.take_pending(join.number);
        if let Some(login) = join.login {
            self.release_login(name, login);
        }
        let (conn, room) = (join.conn, name.clone());
        self.effects
            .push_back(Effect::JoinRefused { conn, room, reason });
    }

    /// Makes members of those who have waited for the room to be known.
    pub(super) fn let_all_in(&mut self, now: Now, name: &RoomName) {
        if self.must_read_for_joins(name) {
            return self.read_room(name);
        }
        let at = self.rooms.get(name).map(|room| (room.epoch, room.last));
        let mut waiting = VecDeque::new();
        while let Some(join) = self
            .followed_mut(name)
            .and_then(|followed| followed.joins.pop_front())
        {
            if at.is_some_and(|at| is_behind(at, join.wants.since)) {
                waiting.push_back(join);
                continue;
            }
            self.totals.following().joins_waiting.take_one();
            self.let_in(name, join);
        }
        if let Some(followed) = self.followed_mut(name) {
            followed.joins = waiting;
        }
        self.note_changed_at(now, name);
        self.remove_if_idle(name);
    }

    /// Whether somebody who waits has seen more of a room than is known here, and the room was asked
    /// for before it came.
    pub(super) fn must_read_for_joins(&mut self, name: &RoomName) -> bool {
        let Some(room) = self.rooms.get_mut(name) else {
            return false;
        };
        let at = (room.epoch, room.last);
        let Some(followed) = &mut room.followed else {
            return false;
        };
        let mut joins = followed.joins.iter();
        let must_read = joins.any(|join| !join.is_read_for && is_ahead(join.wants.since, at))
            && followed.link.want_newer();
        if must_read {
            for join in &mut followed.joins {
                join.is_read_for = true;
            }
        }
        must_read
    }

    /// The time of a join is over.
    pub(super) fn give_up_join(&mut self, name: &RoomName, number: u64) {
        let Some(followed) = self.followed_mut(name) else {
            return;
        };
        // Mostly it is the first, as all wait equally long.
        let at = followed.joins.iter().position(|one| one.number == number);
        let Some(join) = at.and_then(|at| followed.joins.remove(at)) else {
            return;
        };
        let is_live = followed.link.is_live();
        self.totals.following().joins_waiting.take_one();
        if is_live {
            // What it says that it has seen nobody knows of.
            self.let_in(name, join);
            self.note_changed(name);
        } else {
            self.refuse_join(name, join, CloseReason::BrokerGone);
        }
        self.remove_if_idle(name);
    }
}

/// Whether somebody has seen more of a room's epoch than there is. Then publications are lost, and the
/// node that knows of them is about to say so: who joins had better wait for the next epoch.
fn is_behind((epoch, last): (Epoch, Offset), since: Since) -> bool {
    match since {
        Since::Position(position) => position.epoch == epoch && position.offset > last,
        Since::Offset(offset) => offset > last,
        Since::Now | Since::Time(_) | Since::Last(_) => false,
    }
}

/// Whether somebody has seen something of a room that is not known here: this node may be behind.
fn is_ahead(since: Since, (epoch, last): (Epoch, Offset)) -> bool {
    match since {
        Since::Position(position) => position.epoch != epoch || position.offset > last,
        Since::Offset(offset) => offset > last,
        Since::Now | Since::Time(_) | Since::Last(_) => false,
    }
}
