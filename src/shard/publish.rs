//! From a message to a broadcast: number, keep, encode once for each form in use, gather, release.

use std::sync::Arc;

use super::RoomShard;
use super::numbering::Publisher;
use crate::base::{CloseReason, Compressed, ConnId, Identity, Instant, Now, Position, RoomName};
use crate::exchange::{CallPart, Effect, Origin};
use crate::wire::api::answer::ApiResult;
use crate::wire::api::{ApiCode, Publish};
use crate::wire::frame::{Frames, Payload};
use crate::wire::raw::{self, Publication, WireForm};

impl RoomShard {
    /// Publishes what a member has sent: now, and taken from it at the second of `times`.
    pub(super) fn publish(
        &mut self,
        times: (Now, Instant),
        (conn, command): (ConnId, u32),
        name: RoomName,
        identity: Option<&Arc<Identity>>,
        payload: &Payload,
    ) {
        let payload_bytes = payload.bytes().len() as u32;
        let from = Origin {
            conn,
            payload_bytes,
            command,
            is_answered: false,
        };
        if self.following.is_some() {
            let publisher = Publisher::Conn(from);
            self.append(times, publisher, name, identity.cloned(), payload.clone());
            return;
        }
        if self
            .number(times, from, name, identity, payload, true)
            .is_none()
        {
            let reason = CloseReason::ChannelLimit;
            let origin = from;
            self.effects
                .push_back(Effect::PublishRefused { origin, reason });
        }
    }

    /// Publishes for a back end; answered when the publication is on its way to every member.
    pub(super) fn publish_for(
        &mut self,
        times: (Now, Instant),
        part: CallPart,
        name: RoomName,
        publish: Publish,
    ) {
        if self.following.is_some() {
            let publisher = Publisher::Call {
                part,
                is_kept: !publish.skip_history,
                key: publish.idempotency_key,
            };
            self.append(times, publisher, name, None, publish.payload);
            return;
        }
        let (now, _) = times;
        let key = publish.idempotency_key;
        let before = key
            .as_deref()
            .and_then(|key| self.recent.position(now, &name, key));
        let from = Origin {
            conn: ConnId::NONE,
            payload_bytes: publish.payload.bytes().len() as u32,
            command: 0,
            is_answered: false,
        };
        let position = match before {
            Some(position) => Some(position),
            None => self.number(
                times,
                from,
                name.clone(),
                None,
                &publish.payload,
                !publish.skip_history,
            ),
        };
        let Some(position) = position else {
            let reply = Err(ApiCode::LimitExceeded);
            self.effects.push_back(Effect::Answered { part, reply });
            return;
        };
        if let Some(key) = key
            && before.is_none()
            && self.recent.remember(now, name.clone(), key, position)
        {
            self.totals.count_forgotten_key();
        }
        self.answer_published(&name, part, position);
    }

    /// Tells a back end where its publication is, behind the broadcast that it is in: a repeated
    /// call may meet the first one's publication while it is still gathered.
    pub(super) fn answer_published(&mut self, name: &RoomName, part: CallPart, position: Position) {
        match self.rooms.get_mut(name) {
            Some(room) if !room.batch.is_empty() => room.unanswered.push((part, position)),
            _ => self.effects.push_back(published(part, position)),
        }
    }

    /// Numbers a publication and adds it to what its room gathers; `None` if the room would be one
    /// too many.
    fn number(
        &mut self,
        (now, taken_at): (Now, Instant),
        from: Origin,
        name: RoomName,
        identity: Option<&Arc<Identity>>,
        payload: &Payload,
        is_kept: bool,
    ) -> Option<Position> {
        let (room, _) = self.room_or_new(&name)?;
        let position = Position {
            epoch: room.epoch,
            offset: room.last.next(),
        };
        let publication = Publication {
            offset: position.offset,
            unix_ms: now.unix_ms,
            origin: from.conn,
            node: None,
            identity,
            kind: payload.kind(),
            payload: payload.bytes(),
        };
        self.gather((now, Some(taken_at)), name, (&publication, from), is_kept);
        Some(position)
    }

    /// Adds a room's next publication to what the room gathers, and to its history.
    pub(super) fn gather(
        &mut self,
        (now, taken_at): (Now, Option<Instant>),
        name: RoomName,
        (publication, from): (&Publication<'_>, Origin),
        is_kept: bool,
    ) {
        let (publications_max, bytes_max) = (
            self.limits.merge_publications_max(),
            self.limits.merge_bytes_max(),
        );
        let now_s = self.retention.seconds(now);
        let bounds = self.bounds;
        let gzip_bytes_min = self.limits.gzip_bytes_min;
        let Some(room) = self.rooms.get_mut(&name) else {
            return;
        };
        // A merge must fit a queue; what does not fit it any more goes ahead on its own.
        let is_full = room.batch.len() >= publications_max
            || room.batch.bytes_len() + publication.payload.len() > bytes_max;
        if is_full {
            room.release(&name, &mut self.effects);
        }
        let starts_to_gather = !std::mem::replace(&mut room.is_gathering, true);
        room.last = publication.offset;
        let members = room.members;
        if let Some(taken_at) = taken_at {
            room.batch.note_taken(taken_at);
        }
        let compressed = room
            .batch
            .push(&name, (publication, from), gzip_bytes_min, |form| {
                members[form.index()] > 0
            });
        if is_kept {
            room.history.push(publication, now_s, &bounds);
        }
        // What history does not keep, it holds for those who are to be live behind it.
        let is_passing = !is_kept || !bounds.keeps_any();
        if is_passing && !room.catching_up.is_empty() {
            room.history.push_passing(publication, &bounds);
        }
        self.totals.count_compressed(compressed);
        self.note_kept(&name);
        if starts_to_gather {
            self.gathering.push_back((now.instant, name));
        }
    }

    /// Encodes a message for a back end that belongs to no room.
    pub(super) fn encode(&mut self, now: Now, part: CallPart, payload: &Payload) {
        let forms = self.forms_of(now, payload);
        self.effects.push_back(Effect::Encoded { part, forms });
    }

    /// A message that belongs to no room, in every form.
    pub(super) fn forms_of(
        &self,
        now: Now,
        payload: &Payload,
    ) -> Box<[Arc<Frames>; WireForm::COUNT]> {
        let gzip_bytes_min = self.limits.gzip_bytes_min;
        let mut compressed = Compressed::default();
        let forms = WireForm::ALL.map(|form| {
            let (frames, more) = raw::announcement(form, now.unix_ms, payload, gzip_bytes_min);
            compressed += more;
            frames
        });
        self.totals.count_compressed(compressed);
        Box::new(forms)
    }
}

/// Tells a back end where its publication is.
pub(super) fn published(part: CallPart, position: Position) -> Effect {
    let reply = Ok(ApiResult::Published(position));
    Effect::Answered { part, reply }
}
