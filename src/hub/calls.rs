//! Calls of back ends: their places, their steps, their answers.
//!
//! A call holds a place from the head of its request to its answer: a part of
//! [`Limits::api_calls_bytes_max`](crate::base::Limits) as large as its body may be. Its steps become jobs against the workers' credits, like messages; a call that finds
//! none stands in line with the connections, a limited number of steps each time, so that neither a
//! broadcast to a thousand rooms nor a chatty member starves the other.

use std::collections::VecDeque;
use std::sync::Arc;

use slab::Slab;

use super::call::{Call, Caller, Outcome, Recipients, Step};
use super::{Hub, bound, mark_dirty};
use crate::base::{CloseReason, ConnId, Delivery, Now, RoomName};
use crate::conn::Purpose;
use crate::conn::pressure::{Level, Verdict, judge};
use crate::exchange::{CallKey, CallPart, Job};
use crate::wire::api::answer::{ApiReply, ApiResult, ConnectionRow, NodeRow};
use crate::wire::api::{ApiCall, ApiCode, ApiError, ConnectionsOf, Target, conn_id};
use crate::wire::frame::{Frames, Payload};
use crate::wire::raw::WireForm;

/// The calls in progress.
#[derive(Debug, Default)]
pub(super) struct Calls {
    slots: Slab<Call>,
    /// The places of calls in progress and of those whose body is on its way in.
    taken_bytes: usize,
    /// Connections whose call waits for a place, and how large a one.
    waiting: VecDeque<(ConnId, usize)>,
    /// Answers for the program around the daemon.
    answered: VecDeque<(u64, ProgramReply)>,
}

/// What the program around the daemon can ask for.
#[derive(Clone, Debug)]
pub enum ProgramCall {
    /// What a back end could ask for.
    Api(ApiCall),
    /// The same as a back end would write it, with the answer as JSON.
    Json {
        /// The method.
        method: Box<str>,
        /// The body.
        body: Vec<u8>,
    },
    /// A message to one connection. The answer is [`ApiCode::UnknownChannel`] if it is not open.
    Send {
        /// The connection.
        conn: ConnId,
        /// What.
        payload: Payload,
    },
}

/// What it gets for it.
#[derive(Clone, Debug, PartialEq)]
pub enum ProgramReply {
    /// The answer.
    Typed(ApiReply),
    /// The answer as JSON; `None` if the call was not JSON.
    Json(Option<Vec<u8>>),
}

/// What the hub cannot know about its node.
#[derive(Clone, Debug, Default)]
pub struct NodeFigures {
    /// Different for every start of a daemon.
    pub uid: Box<str>,
    /// What the operator calls it.
    pub name: Box<str>,
    /// Share of one core used lately, in per cent.
    pub cpu_percent: f64,
    /// Memory of the process, in bytes.
    pub rss_bytes: u64,
}

/// What only the shell can answer.
#[derive(Clone, Copy, Debug)]
pub enum Inquiry {
    /// The text of the metrics, by [`Hub::handle_metrics`].
    Metrics(ConnId),
    /// The figures of the node, by [`Hub::handle_node`].
    Node(CallPart),
}

impl Calls {
    /// How large a place a call takes whose body has at most `bytes_max` bytes.
    pub(super) fn weight(bytes_max: usize) -> usize {
        bytes_max.max(PLACE_BYTES_MIN)
    }

    /// Takes a place, if there is one of that size.
    pub(super) fn take_place(&mut self, bytes_max: usize, taken_bytes_max: usize) -> bool {
        let weight = Self::weight(bytes_max);
        let is_free = self.taken_bytes + weight <= taken_bytes_max || self.taken_bytes == 0;
        self.taken_bytes += if is_free { weight } else { 0 };
        is_free
    }

    pub(super) fn give_place_back(&mut self, bytes_max: usize) {
        self.taken_bytes -= Self::weight(bytes_max);
    }

    /// Puts a connection in the line for a place.
    pub(super) fn wait(&mut self, id: ConnId, bytes_max: usize) {
        self.waiting.push_back((id, bytes_max));
    }

    /// Takes a connection out of the line.
    pub(super) fn forget_waiting(&mut self, id: ConnId) {
        self.waiting.retain(|(waiting, _)| *waiting != id);
    }

    /// Whether the first in line could have a place.
    pub(super) fn can_admit(&self, taken_bytes_max: usize) -> bool {
        self.waiting.front().is_some_and(|(_, bytes_max)| {
            self.taken_bytes == 0 || self.taken_bytes + Self::weight(*bytes_max) <= taken_bytes_max
        })
    }

    /// Gives the first in line a place, if there is one.
    pub(super) fn admit(&mut self, taken_bytes_max: usize) -> Option<ConnId> {
        if !self.can_admit(taken_bytes_max) {
            return None;
        }
        let (id, bytes_max) = self.waiting.pop_front()?;
        self.taken_bytes += Self::weight(bytes_max);
        Some(id)
    }

    /// Asserts that no place is lost; `bodies_bytes` are those of bodies on their way in.
    pub(super) fn check_invariants(&self, bodies_bytes: usize) {
        let in_progress = self
            .slots
            .iter()
            .map(|(_, call)| Self::weight(call.bytes_max));
        assert_eq!(self.taken_bytes, in_progress.sum::<usize>() + bodies_bytes);
    }

    fn get_mut(&mut self, key: CallKey) -> Option<&mut Call> {
        self.slots.get_mut(key as usize)
    }
}

impl<S> Hub<S> {
    /// Whether there is a place for a call of the program.
    #[must_use]
    pub fn may_take_call(&self) -> bool {
        self.calls.taken_bytes < self.limits.api_calls_bytes_max
    }

    /// The program asks for something; [`Hub::poll_answer`] gives the answer under the same number.
    /// Must not be called unless [`Hub::may_take_call`].
    pub fn handle_call(&mut self, now: Now, number: u64, call: ProgramCall) {
        let in_json = matches!(call, ProgramCall::Json { .. });
        let caller = Caller::Program { number, in_json };
        let call = match call {
            ProgramCall::Api(call) => Call::decoded(caller, call, self.jobs.workers_len()),
            ProgramCall::Send { conn, payload } => Call::send(caller, conn, payload),
            ProgramCall::Json { method, body } => {
                let bytes = body.len();
                Call::new(caller, method, body, bytes)
            }
        };
        // The last may go over the bound: how large it is was not known before it was taken.
        self.calls.taken_bytes += Calls::weight(call.bytes_max);
        self.begin_call(now, call);
    }

    /// The next answer to the program.
    pub fn poll_answer(&mut self) -> Option<(u64, ProgramReply)> {
        self.calls.answered.pop_front()
    }

    /// The figures of the node, for a part that [`Hub::poll_inquiry`] named.
    pub fn handle_node(&mut self, now: Now, part: CallPart, figures: &NodeFigures) {
        let row = NodeRow {
            uid: figures.uid.clone(),
            name: figures.name.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            clients: self.open_len,
            users: self.users.len(),
            channels: self.members.rooms_len(),
            subscriptions: self.members.members_len(),
            uptime_secs: now.instant.duration_since(self.start).as_secs(),
            cpu_percent: figures.cpu_percent,
            rss_bytes: figures.rss_bytes,
        };
        self.answer_part(now, part, Ok(ApiResult::Info(vec![row])));
    }

    /// Begins a call that has a place.
    pub(super) fn begin_call(&mut self, now: Now, call: Call) {
        let key = self.calls.slots.insert(call) as CallKey;
        self.advance_call(now, key);
    }

    /// A body was decoded.
    pub(super) fn decoded(
        &mut self,
        now: Now,
        key: CallKey,
        outcome: Result<Box<ApiCall>, ApiError>,
    ) {
        let workers = self.jobs.workers_len();
        if let Some(call) = self.calls.get_mut(key) {
            call.handle_decoded(outcome, workers);
        }
        self.advance_call(now, key);
    }

    /// A part of a call was answered.
    pub(super) fn answer_part(&mut self, now: Now, part: CallPart, reply: ApiReply) {
        if let Some(call) = self.calls.get_mut(part.call) {
            call.handle_answer(part, reply);
        }
        self.advance_call(now, part.call);
    }

    /// A worker has room for a call that stood in line.
    pub(super) fn proceed_with_call(&mut self, now: Now, key: CallKey) {
        self.take_steps(now, key, STEPS_PER_TURN_IN_LINE);
    }

    fn advance_call(&mut self, now: Now, key: CallKey) {
        let is_in_line = self
            .calls
            .get_mut(key)
            .is_some_and(|call| call.is_in_line());
        if !is_in_line {
            self.take_steps(now, key, STEPS_PER_TURN_IN_LINE);
        }
    }

    /// Carries out up to `budget` steps that need a worker, and any number of others.
    fn take_steps(&mut self, now: Now, key: CallKey, mut budget: usize) {
        loop {
            let Some(call) = self.calls.get_mut(key) else {
                return;
            };
            let Some(step) = call.next_step(key) else {
                break;
            };
            let worker = match &step {
                Step::Room { room, .. } => self.jobs.worker_of(room),
                Step::ListRooms { worker, .. } => *worker,
                Step::Decode { .. } | Step::Encode { .. } => self.jobs.worker_of_call(key),
                Step::Here { .. } => 0,
            };
            let job = match step {
                Step::Here { part, call } => {
                    if let Some(reply) = self.answer_here(now, part, call)
                        && let Some(call) = self.calls.get_mut(key)
                    {
                        call.handle_answer(part, reply);
                    }
                    continue;
                }
                step if budget == 0 || !self.jobs.has_credit(worker) => {
                    call.put_back(step);
                    self.jobs.wait_with_call(worker, key);
                    return;
                }
                Step::Decode { method, body } => Job::Decode {
                    call: key,
                    method,
                    body,
                },
                Step::Room { part, room, ask } => Job::Ask { part, room, ask },
                Step::ListRooms { part, pattern, .. } => Job::ListRooms { part, pattern },
                Step::Encode { part, payload } => Job::Encode { part, payload },
            };
            budget -= 1;
            self.jobs.push(worker, job);
        }
        let is_over = self.calls.get_mut(key).is_some_and(|call| call.is_over());
        if is_over {
            self.finish_call(now, key);
        }
    }

    fn finish_call(&mut self, now: Now, key: CallKey) {
        let call = self.calls.slots.remove(key as usize);
        self.calls.give_place_back(call.bytes_max);
        for (method, code) in call.outcomes() {
            if let Some(method) = method {
                *self.counters.api_calls.entry(method.name()).or_default() += 1;
            }
            if let Some(code) = code {
                *self.counters.api_errors.entry(code.number()).or_default() += 1;
            }
        }
        match call.caller {
            Caller::Conn(id) => self.respond(now, id, &call.into_outcome()),
            Caller::Program { number, in_json } => {
                let reply = match call.into_outcome() {
                    outcome if in_json => ProgramReply::Json(outcome.to_json()),
                    Outcome::Single(reply) => ProgramReply::Typed(reply),
                    Outcome::Batch(_) | Outcome::Undecodable => {
                        ProgramReply::Typed(Err(ApiCode::BadRequest))
                    }
                };
                self.calls.answered.push_back((number, reply));
            }
        }
    }

    /// Answers what needs no worker; `None` if the shell is to answer.
    fn answer_here(&mut self, now: Now, part: CallPart, call: ApiCall) -> Option<ApiReply> {
        Some(Ok(match call {
            ApiCall::Info => {
                self.inquiries.push_back(Inquiry::Node(part));
                return None;
            }
            ApiCall::Disconnect {
                target,
                whitelist,
                code,
                reason,
            } => {
                let stays = |id: &ConnId| whitelist.iter().any(|one| conn_id(one) == Some(*id));
                for id in self.targets(&target) {
                    if !stays(&id) {
                        self.close_as(now, id, CloseReason::ForceDisconnect, (code, &reason));
                    }
                }
                ApiResult::Done
            }
            ApiCall::Unsubscribe { channel, target } => {
                for id in self.targets(&target) {
                    self.unsubscribe(id, &channel);
                }
                ApiResult::Done
            }
            ApiCall::Connections { of, limit } => {
                ApiResult::Connections(self.connection_rows(now, &of, limit))
            }
            _ => return Some(Err(ApiCode::Internal)),
        }))
    }

    /// The connections that are meant, those that are WebSockets or about to be.
    fn targets(&self, target: &Target) -> Vec<ConnId> {
        let (user, client) = match target {
            Target::User(user) => return self.users.of(user).collect(),
            Target::Client(client) => (None, client),
            Target::ClientOf(user, client) => (Some(user), client),
        };
        let is_meant = |id: &ConnId| {
            let purpose = self.table.get(*id).and_then(|conn| conn.purpose());
            let identity = purpose.and_then(Purpose::identity);
            purpose.is_some() && (user.is_none() || identity.map(|one| &one.user) == user)
        };
        conn_id(client).filter(is_meant).into_iter().collect()
    }

    /// Takes a connection out of a room.
    fn unsubscribe(&mut self, id: ConnId, room: &RoomName) {
        if self.table.get(id).is_none() {
            return;
        }
        if let Some(form) = self.members.leave(room, id.slot) {
            self.leave(id, room.clone(), form);
            return;
        }
        let Some(conn) = self.table.at_mut(id.slot) else {
            return;
        };
        if let Some(Purpose::Rooms { form, .. }) = conn.purpose() {
            let form = *form;
            if conn.remove_missed(room) {
                self.leave(id, room.clone(), form);
                self.catch_up(id);
            }
        }
    }

    fn connection_rows(&self, now: Now, of: &ConnectionsOf, limit: usize) -> Vec<ConnectionRow> {
        let ids: Vec<ConnId> = match of {
            ConnectionsOf::User(user) => self.users.of(user).take(limit).collect(),
            ConnectionsOf::Channel(room) => {
                let members = self
                    .members
                    .room(room)
                    .map_or(&[][..], |room| room.members());
                members
                    .iter()
                    .take(limit)
                    .filter_map(|member| self.table.id_at(member.slot))
                    .collect()
            }
        };
        let rows = ids.into_iter().filter_map(|id| {
            let conn = self.table.get(id)?;
            let level = conn.queue.level();
            let identity = conn.purpose().and_then(Purpose::identity);
            let rooms = self.members.rooms_of(id.slot);
            let age = now.instant.saturating_duration_since(conn.opened_at);
            Some(ConnectionRow {
                client: id.to_string().into(),
                peer: conn.peer.to_string().into(),
                user: identity.map(|one| one.user.clone()),
                rooms: rooms.map(|(room, _)| room.name().clone()).collect(),
                age_ms: u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
                queued: level.publications,
                queued_bytes: level.bytes,
                sent: conn.traffic.deliveries,
                skipped: conn.traffic.skipped,
            })
        });
        rows.collect()
    }

    /// A message that belongs to no room was encoded: gives it to those it is for.
    pub(super) fn encoded(
        &mut self,
        now: Now,
        part: CallPart,
        forms: &[Arc<Frames>; WireForm::COUNT],
    ) -> usize {
        let recipients = self
            .calls
            .get_mut(part.call)
            .and_then(|call| call.recipients(part));
        let ids: Vec<ConnId> = match recipients {
            None => Vec::new(),
            Some(Recipients::All) => self.table.iter().map(|conn| conn.id).collect(),
            Some(Recipients::One(id)) => vec![id],
        };
        let mut given = 0;
        for id in ids {
            given += usize::from(self.give(now, id, forms));
        }
        let is_missed = given == 0 && matches!(recipients, Some(Recipients::One(_)));
        let reply = if is_missed {
            Err(ApiCode::UnknownChannel)
        } else {
            Ok(ApiResult::Done)
        };
        self.answer_part(now, part, reply);
        given
    }

    /// Queues a message for one connection, in its form; returns whether it is an open one.
    fn give(&mut self, now: Now, id: ConnId, forms: &[Arc<Frames>; WireForm::COUNT]) -> bool {
        let bound = bound(&self.limits);
        let Some(entry) = self.table.get_mut(id) else {
            return false;
        };
        let conn = &mut entry.conn;
        let Some(Purpose::Rooms { form, .. }) = conn.open().map(|open| &open.purpose) else {
            return false;
        };
        let frames = &forms[form.index()];
        let more = Level {
            bytes: frames.bytes().len(),
            publications: 1,
        };
        let level = conn.queue.level();
        if judge(level, more, bound, conn.is_blocked(), Delivery::Reliable) != Verdict::Keep {
            self.close(now, id, CloseReason::Slow);
            return true;
        }
        conn.queue.push(frames, 1);
        conn.traffic.deliveries += 1;
        self.counters.deliveries += 1;
        mark_dirty(conn, &mut self.dirty);
        if !conn.is_blocked() && conn.queue.level().is_half_of(bound) {
            self.raise_flush_barrier();
        }
        true
    }
}

/// The least place that a call takes, in bytes.
const PLACE_BYTES_MIN: usize = 64 << 10;

/// How many jobs a call may hand over before the next in line has its turn.
const STEPS_PER_TURN_IN_LINE: usize = 64;
