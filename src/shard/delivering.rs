//! In a cluster: publications in the order of their numbers, from the feed and from what is read.

use super::RoomShard;
use crate::base::{CloseReason, ConnId, Now, Offset, Position, RoomName};
use crate::cluster::link::{Base, Catch, Link, Verdict};
use crate::cluster::{Numbered, Shared, Snapshot};
use crate::exchange::{Effect, Origin};
use crate::room::history::History;
use crate::wire::raw::{self, Publication};

impl RoomShard {
    pub(super) fn handle_fed(
        &mut self,
        now: Now,
        name: RoomName,
        position: Position,
        unix_ms: u64,
        shared: Option<Shared>,
    ) {
        let Some(following) = &self.following else {
            return;
        };
        let ahead_max = following.ahead_max();
        let hear = |link: &mut Link| link.handle_fed(position, unix_ms, shared, ahead_max);
        let Some(verdict) = self.with_link(&name, hear) else {
            return;
        };
        match verdict {
            Verdict::Nothing => {}
            Verdict::Deliver(numbered) => {
                self.deliver(now, &name, &numbered);
                self.acknowledge_passed(&name);
            }
            Verdict::Read => {
                self.totals.following().holes.add(1);
                self.read_room(&name);
            }
        }
    }

    pub(super) fn handle_read(&mut self, now: Now, name: &RoomName, snapshot: Snapshot) {
        self.release(name);
        let (online, generation) = (snapshot.online, snapshot.generation);
        let is_watched = snapshot.is_watched;
        let Some(followed) = self.followed_mut(name) else {
            return;
        };
        let told = u64::from(followed.told);
        let catch = self.with_link(name, |link| link.handle_read(snapshot));
        let Some(catch) = catch.flatten() else {
            return;
        };
        self.note_online(name, online.saturating_sub(told));
        self.note_watched(name, is_watched);
        self.note_login(name, generation);
        let Catch {
            base,
            is_restart,
            first,
            complete_since_ms,
            publications,
            top,
            reads_again,
        } = catch;
        if is_restart {
            self.totals.following().restarts.add(1);
            self.restart(now, name, base);
        } else {
            if let Some(base) = base {
                self.rebuild(now, name, &base);
            }
            self.forget_before(name, first, complete_since_ms);
        }
        if name.is_control()
            && let Some(room) = self.rooms.get(name)
        {
            // Orders may be among what is forgotten.
            let forgotten = first.0.saturating_sub(room.last.next().0);
            self.totals.following().lost.add(forgotten);
        }
        let caught_up = publications.len() as u64;
        self.totals.following().caught_up.add(caught_up);
        for one in &publications {
            self.tell_lost_until(name, one.offset);
            self.deliver(now, name, one);
        }
        self.tell_lost_until(name, top.next());
        self.acknowledge_passed(name);
        if reads_again {
            self.read_room(name);
        } else {
            self.let_all_in(now, name);
        }
    }

    /// Whether an answer is one to a room that is not followed any more.
    pub(super) fn take_stale_read(&mut self, name: &RoomName) -> bool {
        let Some(following) = &mut self.following else {
            return false;
        };
        let Some(reads) = following.stale_reads.get_mut(name) else {
            return false;
        };
        *reads -= 1;
        if *reads == 0 {
            following.stale_reads.remove(name);
        }
        true
    }

    /// Takes over what is kept of a room.
    pub(super) fn rebuild(&mut self, now: Now, name: &RoomName, base: &Base) {
        let now_s = self.retention.seconds(now);
        let bounds = self.bounds;
        let mut history = History::new(base.first, base.complete_since_ms).begun_at(base.began);
        for one in &base.publications {
            let age_s = base.unix_ms.saturating_sub(one.unix_ms) / 1000;
            let kept_at_s = now_s.saturating_sub(u32::try_from(age_s).unwrap_or(u32::MAX));
            match &one.shared {
                Some(shared) => {
                    let publication = publication_of(one, shared);
                    history.push(&publication, kept_at_s, &bounds);
                }
                None => history.forget_before(one.offset.next(), one.unix_ms),
            }
        }
        let Some(room) = self.rooms.get_mut(name) else {
            return;
        };
        if let Some(followed) = &mut room.followed {
            followed.is_trimmed = false;
        }
        room.epoch = base.top.epoch;
        room.last = base.top.offset;
        room.history = history.in_place_of(&mut room.history);
        self.note_kept(name);
    }

    /// The numbering has begun anew: nothing that members have seen means anything in it.
    pub(super) fn restart(&mut self, now: Now, name: &RoomName, base: Option<Base>) {
        let Some(base) = base else {
            return;
        };
        let Some(room) = self.rooms.get_mut(name) else {
            return;
        };
        room.epoch = base.top.epoch;
        room.last = Offset(base.first.0.saturating_sub(1));
        room.history = History::new(base.first, base.complete_since_ms).begun_at(base.began);
        if let Some(followed) = &mut room.followed {
            followed.is_trimmed = false;
        }
        let overtaken = std::mem::take(&mut room.catching_up);
        let told = raw::joined(name, base.top, None, room.online());
        self.effects.push_back(Effect::Interrupted {
            room: name.clone(),
            last: base.top.offset,
            told,
        });
        let overtaken = overtaken
            .into_iter()
            .map(|conn| overtaken_by_loss(conn, name));
        self.effects.extend(overtaken);
        self.count(name);
        for one in &base.publications {
            self.deliver(now, name, one);
        }
        if let Some(room) = self.rooms.get_mut(name) {
            // The last ones may be such as are not kept.
            room.release(name, &mut self.effects);
            room.last = base.top.offset;
        }
    }

    /// Forgets what is forgotten elsewhere.
    pub(super) fn forget_before(&mut self, name: &RoomName, first: Offset, complete_since_ms: u64) {
        let Some(room) = self.rooms.get_mut(name) else {
            return;
        };
        if room.history.first() < first {
            room.history.forget_before(first, complete_since_ms);
            self.count(name);
        }
    }

    /// Tells members of the publications before `next` that are lost to them, if any.
    pub(super) fn tell_lost_until(&mut self, name: &RoomName, next: Offset) {
        let Some(room) = self.rooms.get_mut(name) else {
            return;
        };
        let lost = (next.0.saturating_sub(1)).saturating_sub(room.last.0);
        if lost == 0 {
            return;
        }
        if name.is_control() {
            // Most of it were questions, which are kept for nobody.
            room.last = Offset(next.0 - 1);
            return;
        }
        self.totals.following().lost.add(lost);
        room.release(name, &mut self.effects);
        room.last = Offset(next.0 - 1);
        let last = room.last;
        self.effects.push_back(Effect::Interrupted {
            room: name.clone(),
            last,
            told: raw::lost(name, lost),
        });
        // Where one of those who catch up is cannot be known here.
        let overtaken = std::mem::take(&mut room.catching_up);
        room.history.drop_passing();
        let overtaken = overtaken
            .into_iter()
            .map(|conn| overtaken_by_loss(conn, name));
        self.effects.extend(overtaken);
        self.count(name);
    }

    /// Delivers a publication to the members here, and keeps it for those who come.
    pub(super) fn deliver(&mut self, now: Now, name: &RoomName, one: &Numbered) {
        let Some(following) = &self.following else {
            return;
        };
        let node = following.node;
        let Some(room) = self.rooms.get_mut(name) else {
            return;
        };
        let position = Position {
            epoch: room.epoch,
            offset: one.offset,
        };
        let Some(shared) = &one.shared else {
            // A newer version has written it. Nobody here will see it, and who comes back is told.
            self.tell_lost_until(name, one.offset.next());
            self.forget_before(name, one.offset.next(), one.unix_ms);
            return;
        };
        let mut taken_at = None;
        let mut command = 0;
        let mut waiting = None;
        if shared.token.node == node
            && let Some(delivered) = self.note_delivered(shared.token.number)
        {
            taken_at = Some(delivered.taken_at);
            command = delivered.command;
            waiting = delivered.waiting;
        }
        if let Some(taken_at) = taken_at.filter(|_| !name.is_control()) {
            let since = now.instant.nanos_since(taken_at);
            self.totals.following().own_deliveries.observe(since);
        }
        if name.is_control() {
            self.hear(now, name, (one.offset, shared), waiting);
            return;
        }
        let is_own = shared.token.node == node;
        let from = Origin {
            conn: if is_own { shared.conn } else { ConnId::NONE },
            payload_bytes: shared.payload.bytes().len() as u32,
            command,
            // What was acknowledged when its time was over comes late.
            is_answered: is_own && shared.conn != ConnId::NONE && taken_at.is_none(),
        };
        let publication = publication_of(one, shared);
        let publication = (&publication, from);
        self.gather((now, taken_at), name.clone(), publication, shared.is_kept);
        if let Some(part) = waiting {
            self.answer_published(name, part, position);
        }
    }

    /// Acknowledges own publications that have been passed over.
    pub(super) fn acknowledge_passed(&mut self, name: &RoomName) {
        let Some(room) = self.rooms.get_mut(name) else {
            return;
        };
        let Some(followed) = &mut room.followed else {
            return;
        };
        if followed.numbered.is_empty() {
            return;
        }
        let numbered = std::mem::take(&mut followed.numbered);
        let (epoch, last) = (room.epoch, room.last);
        let mut waiting = Vec::new();
        for number in numbered {
            match self.position_of(number) {
                Some(at) if at.epoch == epoch && at.offset > last => waiting.push(number),
                Some(_) => self.acknowledge(number),
                None => {}
            }
        }
        if let Some(followed) = self.followed_mut(name) {
            followed.numbered = waiting;
        }
    }
}

/// Ends a member that is catching up and cannot be given what it missed any more, nor be told.
fn overtaken_by_loss(conn: ConnId, room: &RoomName) -> Effect {
    let reason = CloseReason::InsufficientState;
    let room = room.clone();
    Effect::Close { conn, room, reason }
}

/// A publication as the rest of the shard knows it. It says itself which connection it came
/// from, however late it is delivered.
pub(super) fn publication_of<'a>(one: &'a Numbered, shared: &'a Shared) -> Publication<'a> {
    Publication {
        offset: one.offset,
        unix_ms: one.unix_ms,
        origin: shared.conn,
        node: Some(shared.token.node),
        identity: shared.identity.as_ref(),
        kind: shared.payload.kind(),
        payload: shared.payload.bytes(),
    }
}
