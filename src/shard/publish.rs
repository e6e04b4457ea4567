//! From a message to a broadcast: number, encode once for each form in use, gather, release.

use super::RoomShard;
use crate::base::{ConnId, Now, RoomName, UserId};
use crate::exchange::Effect;
use crate::wire::frame::{Frames, Payload};
use crate::wire::raw::Publication;

impl RoomShard {
    pub(super) fn publish(
        &mut self,
        now: Now,
        origin: ConnId,
        name: RoomName,
        user: Option<UserId>,
        payload: Payload,
    ) {
        let (publications_max, bytes_max) = (self.merge_publications_max, self.merge_bytes_max);
        let room = self.room_mut(&name);
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
            user,
            payload,
        };
        let members = room.members;
        room.batch.push(&name, &publication, origin, |form| {
            members[form.index()] > 0
        });
        self.effects.extend(overflow.map(Effect::Broadcast));
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
