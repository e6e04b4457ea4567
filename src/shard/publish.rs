//! From a message to a broadcast: number, keep, encode once for each form in use, gather, release.

use super::RoomShard;
use crate::base::{ConnId, Now, RoomName, UserId};
use crate::exchange::{Effect, Origin};
use crate::wire::frame::{Frames, Payload};
use crate::wire::raw::Publication;

impl RoomShard {
    pub(super) fn publish(
        &mut self,
        now: Now,
        origin: ConnId,
        name: RoomName,
        user: Option<&UserId>,
        payload: &Payload,
    ) {
        let (publications_max, bytes_max) = (
            self.limits.merge_publications_max(),
            self.limits.merge_bytes_max(),
        );
        let now_s = self.retention.seconds(now);
        let bounds = self.bounds;
        let gzip_bytes_min = self.limits.gzip_bytes_min;
        let Some(room) = self.room_or_new(&name) else {
            let payload_bytes = payload.bytes().len() as u32;
            let origin = Origin {
                conn: origin,
                payload_bytes,
            };
            self.effects.push_back(Effect::PublishRefused { origin });
            return;
        };
        // A merge must fit a queue; what does not fit it any more goes ahead on its own.
        let is_full = room.batch.len() >= publications_max
            || room.batch.bytes_len() + payload.bytes().len() > bytes_max;
        let overflow = if is_full {
            room.batch.take(&name)
        } else {
            None
        };
        let starts_to_gather = !std::mem::replace(&mut room.is_gathering, true);
        room.last = room.last.next();
        let publication = Publication {
            offset: room.last,
            unix_ms: now.unix_ms,
            origin,
            user,
            kind: payload.kind(),
            payload: payload.bytes(),
        };
        let members = room.members;
        room.batch
            .push(&name, &publication, gzip_bytes_min, |form| {
                members[form.index()] > 0
            });
        room.history.push(&publication, now_s, &bounds);
        self.effects.extend(overflow.map(Effect::Broadcast));
        self.note_kept(&name);
        if starts_to_gather {
            self.gathering.push_back((now.instant, name));
        }
    }

    pub(super) fn echo(&mut self, conn: ConnId, payload: &Payload) {
        let frames = Frames::message(payload.kind(), payload.bytes());
        let payload_bytes = payload.bytes().len() as u32;
        self.effects.push_back(Effect::Reply {
            conn,
            frames,
            payload_bytes,
        });
    }
}
