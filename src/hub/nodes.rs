//! In a cluster: what the nodes carry out together.
//!
//! Calls that concern connections of any node are told to all of them in a room of their own, and
//! each does its part when it hears of it. Where the answer has parts of all, the others are asked,
//! and waited for as long as they may still answer; one that does not is left out.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use super::Hub;
use super::call::{Call, Caller, Outcome, Setting};
use crate::base::{Instant, NodeId, Now, RoomName};
use crate::exchange::{CallPart, Job};
use crate::wire::api::ApiCall;
use crate::wire::api::answer::ApiReply;
use crate::wire::api::relay::{self, Notice, Part};
use crate::wire::frame::Payload;

/// The other nodes.
#[derive(Debug)]
pub(super) struct Nodes {
    here: NodeId,
    wait: Duration,
    /// How many others there are.
    others: u32,
    asked: HashMap<u64, Asked>,
    last_number: u64,
    /// Questions in the order of their deadlines.
    deadlines: VecDeque<(Instant, u64)>,
}

/// A question that is not answered by all.
#[derive(Debug)]
struct Asked {
    part: CallPart,
    left: u32,
}

impl Nodes {
    pub(super) fn set_others(&mut self, others: u32) {
        self.others = others;
    }

    pub(super) fn others(&self) -> u32 {
        self.others
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.front().map(|(at, _)| *at)
    }
}

impl<S> Hub<S> {
    /// Makes it the hub of a node in a cluster. What is asked of others waits for `wait`.
    pub fn join_cluster(&mut self, here: NodeId, wait: Duration) {
        self.nodes = Some(Nodes {
            here,
            wait,
            others: 0,
            asked: HashMap::new(),
            last_number: 0,
            deadlines: VecDeque::new(),
        });
    }

    /// The name of this node, if it is one of a cluster.
    pub(super) fn node(&self) -> Option<NodeId> {
        self.nodes.as_ref().map(|nodes| nodes.here)
    }

    /// Where calls of back ends are carried out.
    pub(super) fn setting(&self) -> Setting {
        Setting {
            workers: self.jobs.workers_len(),
            in_cluster: self.nodes.is_some(),
        }
    }

    /// The job that tells all nodes of a call; `None` if there is nobody to tell.
    pub(super) fn announcement(&self, part: CallPart, call: &ApiCall) -> Option<Job> {
        let notice = Notice::encode(None, call)?;
        Some(Job::Announce {
            part: Some(part),
            notice: Payload::from(notice),
            is_kept: true,
        })
    }

    /// The job that asks the others for their part of an answer; `None` if there are none.
    pub(super) fn question(&mut self, now: Now, part: CallPart, call: &ApiCall) -> Option<Job> {
        let nodes = self.nodes.as_mut().filter(|nodes| nodes.others > 0)?;
        nodes.last_number += 1;
        let number = nodes.last_number;
        let notice = Notice::encode(Some(number), call)?;
        let asked = Asked {
            part,
            left: nodes.others,
        };
        nodes.asked.insert(number, asked);
        nodes
            .deadlines
            .push_back((now.instant + nodes.wait, number));
        Some(Job::Announce {
            part: None,
            notice: Payload::from(notice),
            is_kept: false,
        })
    }

    /// A node, or this one, has told all.
    pub(super) fn hear(&mut self, now: Now, from: NodeId, notice: &Payload) {
        let Some(Notice { ask, call }) = Notice::decode(notice.bytes()) else {
            return;
        };
        let caller = match ask {
            None => Caller::Nobody,
            // Its own part has an answer of its own.
            Some(_) if self.node() == Some(from) => return,
            Some(number) => Caller::Node { node: from, number },
        };
        let alone = Setting {
            in_cluster: false,
            ..self.setting()
        };
        self.begin_call(now, Call::decoded(caller, call, alone));
    }

    /// What this node has to say is said to the one that asked.
    pub(super) fn tell_node(&mut self, node: NodeId, number: u64, outcome: Outcome) {
        let reply: ApiReply = match outcome {
            Outcome::Single(reply) => reply,
            Outcome::Batch(_) | Outcome::Undecodable => return,
        };
        let bytes = relay::encode_answer(number, &reply);
        let worker = self.jobs.worker_of(&RoomName::control());
        self.jobs.push_leave(worker, Job::Tell { node, bytes });
    }

    /// Another node has answered.
    pub(super) fn handle_told(&mut self, now: Now, bytes: &[u8]) {
        let Some((number, answer)) = relay::decode_answer(bytes) else {
            return;
        };
        let Some(asked) = self
            .nodes
            .as_mut()
            .and_then(|nodes| nodes.asked.get_mut(&number))
        else {
            return;
        };
        asked.left = asked.left.saturating_sub(1);
        let (part, left) = (asked.part, asked.left);
        self.add_part(part, answer);
        if left == 0 {
            self.end_question(now, number);
        }
    }

    /// Gives up those who have not answered in time.
    pub(super) fn give_up_nodes(&mut self, now: Now) {
        while let Some(nodes) = &mut self.nodes
            && let Some((at, number)) = nodes.deadlines.front().copied()
            && at <= now.instant
        {
            nodes.deadlines.pop_front();
            self.end_question(now, number);
        }
    }

    /// Another node has answered its part of a command.
    fn add_part(&mut self, part: CallPart, answer: Part) {
        if let Some(call) = self.calls.get_mut(part.call) {
            call.handle_part(part, answer);
        }
    }

    /// No more parts of other nodes are waited for.
    fn end_parts(&mut self, now: Now, part: CallPart) {
        if let Some(call) = self.calls.get_mut(part.call) {
            call.end_parts();
        }
        self.advance_call(now, part.call);
    }

    fn end_question(&mut self, now: Now, number: u64) {
        let asked = (self.nodes.as_mut()).and_then(|nodes| nodes.asked.remove(&number));
        if let Some(asked) = asked {
            self.end_parts(now, asked.part);
        }
    }
}
