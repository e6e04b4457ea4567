//! Joining, catching up and leaving.
//!
//! A member that has missed something is not live at once: it is given what it missed in parts that
//! fit its queue, and becomes live with the part that ends at the room's newest publication. That
//! part and every later broadcast travel one FIFO, so nothing is lost or repeated between them.

use std::collections::HashSet;
use std::sync::Arc;

use super::{Room, RoomShard};
use crate::base::{
    CloseReason, Compressed, ConnId, Identity, NodeId, Now, Offset, Position, RecoveryOutcome,
    RoomName, Since,
};
use crate::exchange::{Effect, Replay, Subscribed, Terms};
use crate::room::recovery::{Missing, Recovery, recover};
use crate::wire::centrifugo::reply::SubscribeResult;
use crate::wire::frame::FramesBuilder;
use crate::wire::raw::{self, WireForm, put_answered, put_publication};

impl RoomShard {
    /// Makes a connection a member: now, or when the room is known.
    pub(super) fn subscribe(
        &mut self,
        now: Now,
        who: (ConnId, Option<Arc<Identity>>),
        name: RoomName,
        wants: Wants,
    ) {
        if self.following.is_some() {
            self.join_when_known(now, who, name, wants);
        } else {
            self.join(who, name, wants);
        }
    }

    pub(super) fn join(
        &mut self,
        (conn, identity): (ConnId, Option<Arc<Identity>>),
        name: RoomName,
        wants: Wants,
    ) {
        let Wants { form, since, .. } = wants;
        self.release(&name);
        let keeps_any = self.limits.history_publications_max > 0;
        let queued_max = self.limits.outbound_publications_max;
        let Some((room, effects)) = self.room_or_new(&name) else {
            let reason = CloseReason::ChannelLimit;
            let room = name;
            let refused = Effect::JoinRefused { conn, room, reason };
            self.effects.push_back(refused);
            return;
        };
        room.members[form.index()] += 1;
        room.presence.join(conn, identity.clone());
        if wants.terms.watches {
            room.watchers.insert(conn);
        }
        let position = room.position();
        let mut recovery = recover(&room.history, position, since);
        let missing = recovery.missing;
        let result = (form == WireForm::Centrifugo)
            .then(|| Box::new(room.subscribed(&wants, &mut recovery, keeps_any)));
        let owed_after = match since {
            Since::Last(_) => position.offset,
            _ => recovery.after,
        };
        let lost = match recovery.missing {
            Missing::Nothing => Some(0),
            Missing::Known(count) => Some(count),
            Missing::Unknown => None,
        };
        let is_behind = recovery.after < position.offset || recovery.missing != Missing::Nothing;
        let is_heavy = (result.as_ref()).is_some_and(|result| result.is_heavy(queued_max));
        if is_behind || is_heavy || wants.terms.is_held {
            room.catching_up.insert(conn);
        }
        let may_be_watched = room.may_be_watched();
        let frames = form
            .is_json()
            .then(|| raw::joined(&name, position, lost, room.online()));
        effects.push_back(Effect::Joined {
            conn,
            room: name.clone(),
            form,
            offset: position.offset,
            after: recovery.after,
            owed_after,
            is_incomplete: recovery.missing != Missing::Nothing,
            frames,
            result,
        });
        self.tell_online(&name);
        if wants.terms.watches {
            self.note_watcher(&name);
        }
        if may_be_watched {
            self.tell_watchers(&name, true, conn, identity.as_deref());
        }
        // Who asks for the newest asks for nothing in particular.
        if matches!(
            since,
            Since::Position(_) | Since::Offset(_) | Since::Time(_)
        ) {
            self.totals.count_recovery(match missing {
                Missing::Nothing => RecoveryOutcome::Complete,
                Missing::Known(_) => RecoveryOutcome::Lossy,
                Missing::Unknown => RecoveryOutcome::Unknown,
            });
        }
    }

    pub(super) fn catch_up(
        &mut self,
        (conn, echo): (ConnId, bool),
        name: RoomName,
        form: WireForm,
        (after, owed_after, joined_at): (Offset, Offset, Offset),
    ) {
        self.release(&name);
        let (publications_max, bytes_max) = (
            self.limits
                .merge_publications_max()
                .min(PART_PUBLICATIONS_MAX),
            self.limits.merge_bytes_max(),
        );
        let gzip_bytes_min = self.limits.gzip_bytes_min;
        let node = self.node();
        let Some(room) = self.rooms.get_mut(&name) else {
            debug_assert!(false, "{name} is caught up with and does not exist");
            return;
        };
        let mut frames = FramesBuilder::default();
        let mut compressed = Compressed::default();
        let mut outcome = Replay::Live(room.last);
        let mut kept_after = Offset(room.history.first().0 - 1);
        if !self.bounds.keeps_any() {
            // All that came since it joined is held for it.
            kept_after = kept_after.min(joined_at);
        }
        let gone = room.history.passing_gone();
        if gone > after.max(joined_at) {
            kept_after = kept_after.max(gone);
        }
        let mut skipped = kept_after.0.saturating_sub(after.max(owed_after).0);
        if skipped > 0 {
            self.totals.count_recovery(RecoveryOutcome::Overtaken);
        }
        if skipped > 0 && !form.is_json() {
            // It is closed instead of being told.
            skipped = 0;
            outcome = Replay::Overtaken;
        } else {
            for publication in room.history.after_for(after.max(kept_after), joined_at) {
                let is_over = frames.bytes_len() + publication.payload.len() > bytes_max;
                if frames.len() == publications_max || (is_over && !frames.is_empty()) {
                    outcome = Replay::More(Offset(publication.offset.0 - 1));
                    break;
                }
                if echo || !publication.is_from(node, conn) {
                    compressed +=
                        put_publication(&mut frames, form, &name, &publication, gzip_bytes_min);
                }
            }
        }
        if matches!(outcome, Replay::Live(_)) {
            self.end_catch_up(conn, &name);
        }
        let frames = (!frames.is_empty()).then(|| frames.take());
        self.totals.count_compressed(compressed);
        self.effects.push_back(Effect::Replayed {
            conn,
            room: name.clone(),
            form,
            skipped,
            frames,
            outcome,
        });
        self.tell_online(&name);
    }

    pub(super) fn unsubscribe(&mut self, conn: ConnId, name: &RoomName, form: WireForm) {
        self.release(name);
        let Some(room) = self.rooms.get_mut(name) else {
            debug_assert!(false, "{name} was left without having been joined");
            return;
        };
        debug_assert!(
            room.members[form.index()] > 0,
            "{name} was left more often than joined"
        );
        room.members[form.index()] -= 1;
        let identity = room.presence.leave(conn);
        // No hash is made of what cannot be there.
        let is_any_behind = !room.catching_up.is_empty();
        if !room.watchers.is_empty() {
            room.watchers.remove(&conn);
        }
        if room.may_be_watched() {
            self.tell_watchers(name, false, conn, identity.as_deref());
        }
        if is_any_behind {
            self.end_catch_up(conn, name);
        }
        self.leave_login(name, conn);
        self.note_changed(name);
        self.remove_if_idle(name);
    }

    /// A member is live, or has left. Nothing is held for anybody behind the last of those.
    fn end_catch_up(&mut self, conn: ConnId, name: &RoomName) {
        let Some(room) = self.rooms.get_mut(name) else {
            return;
        };
        room.catching_up.remove(&conn);
        if room.catching_up.is_empty() {
            room.catching_up = HashSet::new();
            room.history.drop_passing();
            self.count(name);
        }
    }
}

impl RoomShard {
    /// This node, in a cluster.
    pub(super) fn node(&self) -> Option<NodeId> {
        self.following.as_ref().map(|following| following.node)
    }
}

impl Room {
    /// Whether there may be somebody to tell who joins and who leaves.
    fn may_be_watched(&self) -> bool {
        self.followed.is_some() || !self.watchers.is_empty()
    }

    /// What a subscription comes to that was asked for by a command: all that was missed or, where
    /// some of it cannot be given, nothing. What does not fit the answer is left to be caught up.
    fn subscribed(&self, wants: &Wants, recovery: &mut Recovery, keeps_any: bool) -> Subscribed {
        let position = self.position();
        let mut result = SubscribeResult {
            position: keeps_any.then_some(position),
            was_recovering: keeps_any && wants.since != Since::Now,
            ..SubscribeResult::default()
        };
        let mut publications = 0;
        let is_complete = std::mem::replace(&mut recovery.missing, Missing::Nothing);
        if result.was_recovering && is_complete == Missing::Nothing {
            result.is_recovered = true;
            let after = recovery.after;
            result.position = Some(Position {
                offset: after,
                ..position
            });
            recovery.after = position.offset;
            let mut given = after;
            for publication in self.history.after(after) {
                if wants.terms.answer_bytes_max == 0
                    || publications >= wants.terms.answer_publications_max
                    || result.publications.len() + publication.payload.len()
                        > wants.terms.answer_bytes_max
                {
                    recovery.after = given;
                    break;
                }
                if !result.publications.is_empty() {
                    result.publications.push(b',');
                }
                put_answered(&mut result.publications, &publication);
                given = publication.offset;
                publications += 1;
            }
        } else {
            recovery.after = position.offset;
        }
        Subscribed {
            result,
            publications,
        }
    }
}

/// How somebody wants to be a member.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wants {
    /// How it receives.
    pub(super) form: WireForm,
    /// From where.
    pub(super) since: Since,
    /// What goes with a command.
    pub(super) terms: Terms,
}

/// Most publications in one part of what a member missed. Live publications wait behind the parts
/// of all who catch up: with a thousand of them, 32 a part keep that to some 15 ms, where larger
/// parts would end the catching up hardly earlier.
const PART_PUBLICATIONS_MAX: usize = 32;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::RoomShard;
    use crate::base::{
        ConnId, Instant, Limits, Now, Offset, Position, RoomBudget, RoomName, Since,
    };
    use crate::exchange::{Broadcast, Effect, Job, Replay, Terms};
    use crate::wire::frame::Payload;
    use crate::wire::raw::WireForm;

    const A: ConnId = ConnId {
        slot: 1,
        generation: 0,
    };
    const B: ConnId = ConnId {
        slot: 2,
        generation: 0,
    };

    fn room() -> RoomName {
        RoomName::new("r").expect("a good name")
    }

    fn publish(origin: ConnId, text: &'static str) -> Job {
        Job::Publish {
            origin,
            room: room(),
            identity: None,
            payload: Payload::text(text.into()),
            taken_at: Instant::ORIGIN,
            command: 0,
        }
    }

    fn subscribe(conn: ConnId, form: WireForm) -> Job {
        let since = Since::Now;
        Job::Subscribe {
            conn,
            room: room(),
            form,
            since,
            identity: None,
            terms: Terms::default(),
        }
    }

    fn shard(limits: &Limits, start: Instant) -> RoomShard {
        RoomShard::new(limits, 1, RoomBudget::new(10), now(start, 0), 1)
    }

    fn now(start: Instant, ms: u64) -> Now {
        Now {
            instant: start + Duration::from_millis(ms),
            unix_ms: ms,
        }
    }

    fn broadcasts(shard: &mut RoomShard) -> Vec<Broadcast> {
        std::iter::from_fn(|| shard.poll_effect())
            .filter_map(|effect| match effect {
                Effect::Broadcast(broadcast) => Some(broadcast),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn a_merge_is_closed_before_membership_changes() {
        let start = Instant::ORIGIN;
        let mut shard = shard(&Limits::default(), start);
        for job in [
            subscribe(A, WireForm::Raw),
            publish(A, "1"),
            publish(A, "2"),
            subscribe(B, WireForm::Json),
            publish(B, "3"),
            Job::Unsubscribe {
                conn: A,
                room: room(),
                form: WireForm::Raw,
            },
            publish(B, "4"),
        ] {
            shard.handle_job(now(start, 0), job);
            shard.check_invariants();
        }
        shard.handle_timeout(now(start, 0));
        let mut order = Vec::new();
        while let Some(effect) = shard.poll_effect() {
            order.push(match effect {
                Effect::Joined { offset, frames, .. } => (offset.0, 0, frames.is_some()),
                Effect::Broadcast(sent) => (
                    sent.last.0,
                    sent.origins.len(),
                    sent.forms[WireForm::Json.index()].is_some(),
                ),
                other => panic!("{other:?}"),
            });
        }
        let expected = [
            (0, 0, false),
            (2, 2, false),
            (2, 0, true),
            (3, 1, true),
            (4, 1, true),
        ];
        assert_eq!(order, expected);
    }

    #[test]
    fn the_interval_gathers_and_the_bound_releases() {
        let start = Instant::ORIGIN;
        let limits = Limits {
            batch_interval: Duration::from_millis(50),
            outbound_publications_max: 6,
            history_publications_max: 0,
            ..Limits::default()
        };
        let mut shard = shard(&limits, start);
        shard.handle_job(now(start, 0), subscribe(A, WireForm::Raw));
        for number in 0..4 {
            shard.handle_job(now(start, number), publish(A, "x"));
            shard.handle_timeout(now(start, number));
        }
        let full = broadcasts(&mut shard);
        assert_eq!(
            (full.len(), full[0].last),
            (1, Offset(3)),
            "half a queue is a merge's bound"
        );
        assert_eq!(
            shard.poll_timeout(),
            Some(start + Duration::from_millis(50))
        );
        shard.handle_timeout(now(start, 49));
        assert!(broadcasts(&mut shard).is_empty());
        shard.handle_timeout(now(start, 50));
        let rest = broadcasts(&mut shard);
        assert_eq!((rest.len(), rest[0].last), (1, Offset(4)));
        assert_eq!(shard.poll_timeout(), None);
    }

    #[test]
    fn a_room_nobody_is_in_answers_its_publisher_and_goes() {
        let start = Instant::ORIGIN;
        let limits = Limits {
            history_publications_max: 0,
            ..Limits::default()
        };
        let mut shard = shard(&limits, start);
        shard.handle_job(now(start, 0), publish(A, "x"));
        shard.handle_timeout(now(start, 0));
        let sent = broadcasts(&mut shard);
        assert_eq!(sent.len(), 1);
        assert!(sent[0].forms.iter().all(Option::is_none));
        assert_eq!(sent[0].origins[0].conn, A);
        assert!(shard.rooms.is_empty());
    }

    #[test]
    fn a_member_catches_up_in_parts_and_then_is_live() {
        let start = Instant::ORIGIN;
        let limits = Limits {
            outbound_publications_max: 4,
            ..Limits::default()
        };
        let mut shard = shard(&limits, start);
        for _ in 0..5 {
            shard.handle_job(now(start, 0), publish(A, "x"));
        }
        let job = Job::Subscribe {
            conn: B,
            room: room(),
            form: WireForm::Raw,
            identity: None,
            since: Since::Last(9),
            terms: Terms::default(),
        };
        shard.handle_job(now(start, 1), job);
        let mut after = Offset(0);
        let mut parts = Vec::new();
        loop {
            let (form, echo) = (WireForm::Raw, true);
            let job = Job::CatchUp {
                conn: B,
                room: room(),
                form,
                echo,
                after,
                owed_after: Offset(0),
                joined_at: Offset(0),
            };
            shard.handle_job(now(start, 1), job);
            let last = std::iter::from_fn(|| shard.poll_effect()).last();
            let Some(Effect::Replayed {
                frames, outcome, ..
            }) = last
            else {
                panic!("a part is answered: {last:?}");
            };
            parts.push(frames.map_or(0, |frames| frames.count()));
            match outcome {
                Replay::More(next) => after = next,
                outcome => {
                    assert_eq!(outcome, Replay::Live(Offset(5)));
                    break;
                }
            }
            shard.check_invariants();
        }
        assert_eq!(parts, [2, 2, 1]);
    }

    #[test]
    fn a_room_that_has_gone_goes_on_where_it_stood() {
        let start = Instant::ORIGIN;
        let limits = Limits {
            history_ttl: Duration::from_secs(10),
            ..Limits::default()
        };
        let mut shard = shard(&limits, start);
        let mut join = |ms, since| {
            let time = now(start, ms);
            shard.handle_timeout(time);
            assert_eq!(shard.rooms_len(), 0);
            let form = WireForm::Json;
            let job = Job::Subscribe {
                conn: A,
                room: room(),
                form,
                since,
                identity: None,
                terms: Terms::default(),
            };
            shard.handle_job(time, job);
            let epoch = shard.rooms.get(&room()).expect("the room is there").epoch;
            let mut said = None;
            while let Some(effect) = shard.poll_effect() {
                if let Effect::Joined {
                    offset,
                    after,
                    is_incomplete,
                    ..
                } = effect
                {
                    said = Some((offset.0, after.0, is_incomplete));
                }
            }
            shard.handle_job(time, publish(A, "x"));
            let leave = Job::Unsubscribe {
                conn: A,
                room: room(),
                form,
            };
            shard.handle_job(time, leave);
            let at = move |offset| {
                let offset = Offset(offset);
                Since::Position(Position { epoch, offset })
            };
            (said.expect("a join is answered"), at)
        };
        let (said, at) = join(0, Since::Now);
        assert_eq!(said, (0, 0, false));
        // An hour later the publication has expired, and with it the room.
        let hour = 3_600_000;
        assert_eq!(join(hour, at(1)).0, (1, 1, false));
        assert_eq!(join(2 * hour, at(1)).0, (2, 2, true));
        assert_eq!(join(3 * hour, at(4)).0, (3, 3, true), "not there yet");
    }

    #[test]
    fn strangers_who_make_up_rooms_stay_within_memory_and_places() {
        let start = Instant::ORIGIN;
        let limits = Limits {
            history_memory_bytes_max: 100_000,
            history_ttl: Duration::from_secs(10),
            ..Limits::default()
        };
        let mut shard = RoomShard::new(&limits, 1, RoomBudget::new(300), now(start, 0), 1);
        let mut refused = 0;
        for number in 0..20_000u64 {
            let room = RoomName::new(&format!("made-up:{number}")).expect("a good name");
            let payload = Payload::text("x".repeat(200).as_str().into());
            let job = Job::Publish {
                origin: A,
                room,
                identity: None,
                payload,
                taken_at: start,
                command: 0,
            };
            shard.handle_job(now(start, number), job);
            shard.handle_timeout(now(start, number));
            while let Some(effect) = shard.poll_effect() {
                refused += usize::from(matches!(effect, Effect::PublishRefused { .. }));
            }
            if number % 500 == 0 {
                shard.check_invariants();
            }
            assert!(shard.rooms_len() <= 300 && shard.history_bytes() <= 100_000);
        }
        assert_eq!(
            refused, 0,
            "the idlest room goes before a new one is refused"
        );
        shard.handle_timeout(now(start, 40_000));
        assert_eq!((shard.rooms_len(), shard.history_bytes()), (0, 0));
    }
}
