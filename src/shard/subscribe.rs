//! Joining and leaving a room.

use super::RoomShard;
use crate::base::{ConnId, RoomName};
use crate::exchange::Effect;
use crate::wire::raw::{self, WireForm};

impl RoomShard {
    pub(super) fn subscribe(&mut self, conn: ConnId, name: RoomName, form: WireForm) {
        self.release(&name);
        let room = self.room_mut(&name);
        room.members[form.index()] += 1;
        let position = room.position();
        let frames = match form {
            WireForm::Raw => None,
            WireForm::Json => Some(raw::joined(&name, position, room.online())),
        };
        let offset = position.offset;
        self.effects.push_back(Effect::Joined {
            conn,
            room: name,
            form,
            offset,
            frames,
        });
    }

    pub(super) fn unsubscribe(&mut self, name: &RoomName, form: WireForm) {
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
        if room.is_idle() {
            self.rooms.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::super::RoomShard;
    use crate::base::{ConnId, Limits, Now, Offset, RoomName};
    use crate::exchange::{Broadcast, Effect, Job};
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
            user: None,
            payload: Payload::text(text.into()),
        }
    }

    fn subscribe(conn: ConnId, form: WireForm) -> Job {
        Job::Subscribe {
            conn,
            room: room(),
            form,
        }
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
        let start = Instant::now();
        let mut shard = RoomShard::new(&Limits::default(), 1);
        for job in [
            subscribe(A, WireForm::Raw),
            publish(A, "1"),
            publish(A, "2"),
            subscribe(B, WireForm::Json),
            publish(B, "3"),
            Job::Unsubscribe {
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
                Effect::Reply { .. } => panic!("nothing was echoed"),
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
        let start = Instant::now();
        let limits = Limits {
            batch_interval: Duration::from_millis(50),
            outbound_publications_max: 6,
            ..Limits::default()
        };
        let mut shard = RoomShard::new(&limits, 1);
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
        let start = Instant::now();
        let mut shard = RoomShard::new(&Limits::default(), 1);
        shard.handle_job(now(start, 0), publish(A, "x"));
        shard.handle_timeout(now(start, 0));
        let sent = broadcasts(&mut shard);
        assert_eq!(sent.len(), 1);
        assert!(sent[0].forms.iter().all(Option::is_none));
        assert_eq!(sent[0].origins[0].conn, A);
        assert!(shard.rooms.is_empty());
    }
}
