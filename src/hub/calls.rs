//! Calls of back ends: their places, their steps, their answers.
//!
//! A call holds a place while it is carried out: a part of
//! [`Limits::api_calls_bytes_max`](crate::base::Limits) as large as what it brings. It needs nobody
//! but the workers to come to its end, so no caller can keep a place. Its steps become jobs against
//! the workers' credits, like messages; a call that finds none stands in line with the connections,
//! a limited number of steps each time, so that neither a broadcast to a thousand rooms nor a chatty
//! member starves the other. What can have a long answer needs a part of
//! [`Limits::api_answers_bytes_max`](crate::base::Limits) first, and its answer keeps what it takes
//! of that until it is written.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use slab::Slab;

use super::call::{ANSWER_BYTES_MAX, Call, Caller, Outcome, Recipients, Step};
use super::{Hub, bound, mark_dirty};
use crate::base::{CloseReason, ConnId, Delivery, Limits, Now, RoomName, shown_address};
use crate::conn::pressure::{Level, Verdict, judge};
use crate::conn::{Connection, Purpose};
use crate::exchange::{CallKey, CallPart, Job};
use crate::wire::api::answer::{ApiReply, ApiResult, ConnectionRow, NodeRow, Page};
use crate::wire::api::{
    ApiCall, ApiCode, ApiError, ApiMethod, ConnectionsOf, Target, client_here, client_name,
};
use crate::wire::frame::{Frames, Payload};
use crate::wire::raw::WireForm;

/// The calls in progress.
#[derive(Debug, Default)]
pub(super) struct Calls {
    slots: Slab<Call>,
    /// The places of calls in progress.
    taken_bytes: usize,
    /// Calls that wait for a place.
    waiting: VecDeque<Call>,
    /// Reserved for long answers, and taken by those that are not written yet.
    answers_bytes: usize,
    /// Calls that wait to reserve.
    unreserved: VecDeque<CallKey>,
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
    /// The text of the metrics, by [`Hub::handle_report`].
    Metrics(ConnId),
    /// Why it is slow, as JSON, by [`Hub::handle_report`].
    Loop(ConnId),
    /// The figures of the node, by [`Hub::handle_node`].
    Node(CallPart),
}

impl Calls {
    /// How large a place a call takes that brings `bytes`.
    fn weight(bytes: usize) -> usize {
        bytes.max(PLACE_BYTES_MIN)
    }

    fn has_place(&self, call: &Call, limits: &Limits) -> bool {
        self.taken_bytes == 0
            || self.taken_bytes + Self::weight(call.bytes) <= limits.api_calls_bytes_max
    }

    fn may_reserve(&self, limits: &Limits) -> bool {
        self.answers_bytes == 0
            || self.answers_bytes + ANSWER_BYTES_MAX <= limits.api_answers_bytes_max
    }

    /// Whether one of those that wait could go on.
    pub(super) fn can_go_on(&self, limits: &Limits) -> bool {
        let has_place = |call| self.has_place(call, limits);
        self.waiting.front().is_some_and(has_place)
            || (!self.unreserved.is_empty() && self.may_reserve(limits))
    }

    /// A caller has gone: its call is dropped if it has not begun.
    pub(super) fn forget_waiting(&mut self, id: ConnId) {
        self.waiting.retain(|call| call.caller != Caller::Conn(id));
    }

    /// A long answer is to be counted until it is written.
    pub(super) fn count_answer(&mut self, bytes: usize) {
        self.answers_bytes += bytes;
    }

    /// It is written, or nobody waits for it any more.
    pub(super) fn forget_answer(&mut self, bytes: usize) {
        self.answers_bytes -= bytes;
    }

    /// Asserts that nothing taken is lost; `written_bytes` are those of long answers on their way.
    pub(super) fn check_invariants(&self, answers_bytes: usize) {
        let calls = || self.slots.iter().map(|(_, call)| call);
        let taken: usize = calls().map(|call| Self::weight(call.bytes)).sum();
        assert_eq!(self.taken_bytes, taken);
        let reserved = calls().filter(|call| call.has_reserved).count() * ANSWER_BYTES_MAX;
        assert_eq!(self.answers_bytes, reserved + answers_bytes);
    }

    /// Lets a call gather long answers.
    fn reserve(&mut self, key: CallKey) {
        if let Some(call) = self.get_mut(key) {
            call.has_reserved = true;
            self.answers_bytes += ANSWER_BYTES_MAX;
        }
    }

    /// Puts a call in the line for that.
    fn wait_to_reserve(&mut self, key: CallKey, step: Step) {
        if let Some(call) = self.get_mut(key) {
            call.put_back(step);
            self.unreserved.push_back(key);
        }
    }

    pub(super) fn get_mut(&mut self, key: CallKey) -> Option<&mut Call> {
        self.slots.get_mut(key as usize)
    }
}

impl<S> Hub<S> {
    /// Whether there is a place for a call of the program.
    #[must_use]
    pub fn may_take_call(&self) -> bool {
        let waiting = self.calls.waiting.iter();
        let of_program = waiting.filter(|call| matches!(call.caller, Caller::Program { .. }));
        of_program.count() < PROGRAM_WAITING_MAX
    }

    /// Number of calls in progress or in line.
    #[must_use]
    pub fn calls_len(&self) -> usize {
        self.calls.slots.len() + self.calls.waiting.len()
    }

    /// The program asks for something; [`Hub::poll_answer`] gives the answer under the same number.
    /// Must not be called unless [`Hub::may_take_call`].
    pub fn handle_call(&mut self, now: Now, number: u64, call: ProgramCall) {
        let in_json = matches!(call, ProgramCall::Json { .. });
        let caller = Caller::Program { number, in_json };
        let call = match call {
            ProgramCall::Api(call) => Call::decoded(caller, call, self.setting()),
            ProgramCall::Send { conn, payload } => Call::send(caller, conn, payload),
            ProgramCall::Json { method, body } => Call::new(caller, method, body),
        };
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
            uptime_secs: now.instant.saturating_duration_since(self.start).as_secs(),
            cpu_percent: figures.cpu_percent,
            rss_bytes: figures.rss_bytes,
        };
        let mut page = Page::default();
        page.push_node(&row);
        self.answer_part(now, part, Ok(ApiResult::Info(page)));
    }

    /// Begins a call, or puts it in the line for a place.
    pub(super) fn begin_call(&mut self, now: Now, mut call: Call) {
        call.taken_at = now.instant;
        if !self.calls.waiting.is_empty() || !self.calls.has_place(&call, &self.limits) {
            self.calls.waiting.push_back(call);
            return;
        }
        self.calls.taken_bytes += Calls::weight(call.bytes);
        let key = self.calls.slots.insert(call) as CallKey;
        self.advance_call(now, key);
    }

    /// Goes on with calls that waited, for as long as there is room for them.
    pub(super) fn go_on_with_calls(&mut self, now: Now) -> bool {
        let mut is_any = false;
        while !self.calls.unreserved.is_empty() && self.calls.may_reserve(&self.limits) {
            if let Some(key) = self.calls.unreserved.pop_front() {
                is_any = true;
                self.take_steps(now, key, STEPS_PER_TURN_IN_LINE);
            }
        }
        while let Some(call) = self.calls.waiting.pop_front() {
            if !self.calls.has_place(&call, &self.limits) {
                self.calls.waiting.push_front(call);
                break;
            }
            is_any = true;
            self.calls.taken_bytes += Calls::weight(call.bytes);
            let key = self.calls.slots.insert(call) as CallKey;
            self.advance_call(now, key);
        }
        is_any
    }

    /// A body was decoded.
    pub(super) fn decoded(
        &mut self,
        now: Now,
        key: CallKey,
        outcome: Result<Box<ApiCall>, ApiError>,
    ) {
        let setting = self.setting();
        if let Some(call) = self.calls.get_mut(key) {
            call.handle_decoded(outcome, setting);
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

    pub(super) fn advance_call(&mut self, now: Now, key: CallKey) {
        let is_in_line = self
            .calls
            .get_mut(key)
            .is_some_and(|call| call.is_in_line());
        if !is_in_line {
            self.take_steps(now, key, STEPS_PER_TURN_IN_LINE);
        }
    }

    /// Carries out up to `budget` steps.
    fn take_steps(&mut self, now: Now, key: CallKey, mut budget: usize) {
        loop {
            let Some(call) = self.calls.get_mut(key) else {
                return;
            };
            let taken_at = call.taken_at;
            let Some(step) = call.next_step(key) else {
                break;
            };
            if step.is_long() && !call.has_reserved {
                if !self.calls.may_reserve(&self.limits) {
                    self.calls.wait_to_reserve(key, step);
                    return;
                }
                self.calls.reserve(key);
            }
            let worker = match &step {
                Step::Room { room, .. } => self.jobs.worker_of(room),
                Step::ListRooms { worker, .. } => *worker,
                Step::Decode { .. } | Step::Encode { .. } => self.jobs.worker_of_call(key),
                Step::Here { .. } => 0,
                Step::Announce { .. } | Step::AskNodes { .. } => {
                    self.jobs.worker_of(&RoomName::control())
                }
            };
            let job = match step {
                Step::Here { part, call } if budget > 0 => {
                    budget -= 1;
                    if let Some(reply) = self.answer_here(now, part, call)
                        && let Some(call) = self.calls.get_mut(key)
                    {
                        call.handle_answer(part, reply);
                    }
                    continue;
                }
                step if budget == 0 || !self.jobs.has_credit(worker) => {
                    if let Some(call) = self.calls.get_mut(key) {
                        call.put_back(step);
                    }
                    self.jobs.wait_with_call(worker, key);
                    return;
                }
                Step::Decode { method, body } => Job::Decode {
                    call: key,
                    method,
                    body,
                },
                Step::Room { part, room, ask } => Job::Ask {
                    part,
                    room,
                    ask,
                    taken_at,
                },
                Step::ListRooms { part, pattern, .. } => Job::ListRooms { part, pattern },
                Step::Encode { part, payload } => Job::Encode { part, payload },
                Step::Announce { part, call } => match self.announcement(part, &call) {
                    Some(job) => job,
                    None => continue,
                },
                Step::AskNodes { part, call } => match self.question(now, part, &call) {
                    Some(job) => job,
                    None => {
                        if let Some(call) = self.calls.get_mut(key) {
                            call.end_parts();
                        }
                        continue;
                    }
                },
                // Without a budget it was put back.
                Step::Here { .. } => continue,
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
        self.calls.taken_bytes -= Calls::weight(call.bytes);
        let has_reserved = call.has_reserved;
        if has_reserved {
            self.calls.answers_bytes -= ANSWER_BYTES_MAX;
        }
        let is_counted = matches!(call.caller, Caller::Conn(_) | Caller::Program { .. });
        for (method, code) in call.outcomes().filter(|_| is_counted) {
            if let Some(method) = method {
                *self.counters.api_calls.entry(method.name()).or_default() += 1;
            }
            if let Some(code) = code {
                *self.counters.api_errors.entry(code.number()).or_default() += 1;
            }
            if method.is_some() || code.is_some() {
                let outcome = (
                    method.map_or("", ApiMethod::name),
                    code.map_or(0, ApiCode::number),
                );
                *self.counters.api_outcomes.entry(outcome).or_default() += 1;
            }
        }
        match call.caller {
            Caller::Conn(id) => self.respond(now, id, &call.into_outcome(), has_reserved),
            Caller::Node { node, number } => self.tell_node(node, number, call.into_outcome()),
            Caller::Nobody => {}
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
                let node = self.node();
                let stay: HashSet<ConnId> = whitelist
                    .iter()
                    .filter_map(|one| client_here(node, one))
                    .collect();
                for id in self.targets(&target) {
                    if !stay.contains(&id) {
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
        client_here(self.node(), client)
            .filter(is_meant)
            .into_iter()
            .collect()
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

    fn connection_rows(&self, now: Now, of: &ConnectionsOf, limit: usize) -> Page {
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
        let mut page = Page::default();
        for conn in ids.into_iter().filter_map(|id| self.table.get(id)) {
            if page.is_full() {
                break;
            }
            page.push_connection(&self.connection_row(now, conn, usize::MAX));
        }
        page
    }

    /// What there is to say of a connection, with up to `rooms_max` of its rooms.
    pub(super) fn connection_row(
        &self,
        now: Now,
        conn: &Connection,
        rooms_max: usize,
    ) -> ConnectionRow {
        let level = conn.queue.level();
        let rooms = self.members.rooms_of(conn.id.slot).take(rooms_max);
        ConnectionRow {
            client: client_name(self.node(), conn.id).into(),
            peer: shown_address(conn.peer()).to_string().into(),
            user: conn.identity().map(|one| one.user.clone()),
            rooms: rooms.map(|(room, _)| room.name().clone()).collect(),
            age_ms: now.instant.nanos_since(conn.opened_at) / 1_000_000,
            queued: level.publications,
            queued_bytes: level.bytes,
            sent: conn.traffic.deliveries,
            skipped: conn.traffic.skipped,
        }
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
        if given > 0
            && let Some(call) = self.calls.get_mut(part.call)
        {
            self.latency.note_queued(call.taken_at, self.dirty.len());
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

    /// Queues a message for one connection, in its form; returns whether it was queued. An open one
    /// that has no room for it is closed.
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
            return false;
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

/// Calls of the program that wait for a place before no more are taken; its queue holds the rest.
const PROGRAM_WAITING_MAX: usize = 8;

/// The least place that a call takes, in bytes.
const PLACE_BYTES_MIN: usize = 64 << 10;

/// How many jobs a call may hand over before the next in line has its turn.
const STEPS_PER_TURN_IN_LINE: usize = 64;
