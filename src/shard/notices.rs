//! In a cluster: what nodes tell each other, in a room of their own.
//!
//! It is numbered, kept and read again like every room, so that a node that was cut off hears later
//! of what it has to carry out. A node that begins hears nothing of before.

use bytes::Bytes;

use super::RoomShard;
use super::numbering::Publisher;
use crate::base::{Instant, NodeId, Now, Offset, RoomName};
use crate::cluster::{Request, Shared};
use crate::exchange::{CallPart, Effect};
use crate::wire::api::ApiCall;
use crate::wire::api::answer::ApiResult;
use crate::wire::api::relay::{self, Notice};
use crate::wire::frame::Payload;

impl RoomShard {
    /// Follows the room of nodes for as long as the shard is there.
    pub(super) fn pin_control(&mut self, now: Now) {
        let name = RoomName::control();
        if !self.follow(now, &name) {
            return;
        }
        if let Some(followed) = self.followed_mut(&name) {
            followed.is_pinned = true;
        }
        self.note_changed_at(now, &name);
    }

    /// Tells all nodes.
    pub(super) fn announce(
        &mut self,
        now: Now,
        part: Option<CallPart>,
        notice: Payload,
        is_kept: bool,
    ) {
        let times = (now, Instant::ORIGIN);
        let publisher = Publisher::Node { part, is_kept };
        self.append(times, publisher, RoomName::control(), None, notice);
    }

    /// Another node has answered.
    pub(super) fn handle_told(&mut self, bytes: &[u8]) {
        if let Some((number, part)) = relay::decode_answer(bytes) {
            self.effects.push_back(Effect::Told { number, part });
        }
    }

    /// Answers a node.
    pub(super) fn tell_node(&mut self, node: NodeId, bytes: Vec<u8>) {
        if let Some(following) = &mut self.following {
            let bytes = Bytes::from(bytes);
            following.requests.push(Request::Tell { node, bytes });
        }
    }

    /// A node has told all. It is read here, and a message for all is encoded here, so that the hub
    /// has nothing to keep of it: what it has no time for waits like every other effect.
    pub(super) fn hear(
        &mut self,
        now: Now,
        name: &RoomName,
        (offset, shared): (Offset, &Shared),
        waiting: Option<CallPart>,
    ) {
        let from = shared.token.node;
        match Notice::decode(shared.payload.bytes()) {
            None => {}
            Some(Notice::Order(ApiCall::PublishAll { payload })) => {
                let forms = self.forms_of(now, &payload);
                self.effects.push_back(Effect::HeardMessage { forms });
            }
            Some(notice) => {
                let notice = Box::new(notice);
                self.effects.push_back(Effect::Heard { from, notice });
            }
        }
        if let Some(room) = self.rooms.get_mut(name) {
            room.last = offset;
        }
        let reply = Ok(ApiResult::Done);
        let answers = waiting.map(|part| Effect::Answered { part, reply });
        self.effects.extend(answers);
    }
}
