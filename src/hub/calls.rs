//! Calls of back ends: their places, their steps, their answers.
//!
//! A call of a caller here holds a place while it is carried out: a part of
//! [`Limits::api_calls_bytes_max`](crate::base::Limits) as large as what it brings. Its steps become
//! jobs against the workers' credits, like messages; a call that finds none stands in line with the
//! connections, a limited number of steps each time, so that neither a broadcast to a thousand rooms
//! nor a chatty member starves the other. What can have a long answer needs a part of
//! [`Limits::api_answers_bytes_max`](crate::base::Limits) first, and its answer keeps what it takes
//! of that until it is written.
//!
//! On a node alone a call needs nobody but the workers to come to its end. In a cluster it may wait
//! for the broker and for other nodes, each time no longer than they are waited for, and keeps its
//! place meanwhile. So nodes could wait for each other, each with all its places taken by calls that
//! wait for answers of the other. Therefore a question of another node needs none of what callers
//! here share, nor does one of a client: each is one of at most [`QUESTIONS_MAX`] of its kind, its long answer has a part of
//! [`QUESTIONS_ANSWERS_BYTES_MAX`], and it needs nobody but the workers. One that is over the bound
//! is refused at once, and its node goes without this part.
//!
//! `here` answers what needs no worker, `nodes` says what is asked of others and how long they are
//! waited for.

use std::collections::VecDeque;
use std::sync::Arc;

use slab::Slab;

use super::call::{
    ANSWER_BYTES_MAX, Call, Caller, Guest, Outcome, PLACE_BYTES_MIN, Recipients, Step,
};
use super::{Hub, mark_dirty};
use crate::base::{CloseReason, ConnId, Delivery, Instant, Limits, Now};
use crate::conn::Purpose;
use crate::conn::pressure::{Level, Verdict, judge};
use crate::exchange::{CallKey, CallPart, Job};
use crate::wire::api::answer::{ApiReply, ApiResult};
use crate::wire::api::{ApiCall, ApiCode, ApiError, ApiMethod, client_name};
use crate::wire::frame::{Frames, Payload};
use crate::wire::raw::WireForm;

/// The calls in progress.
#[derive(Debug, Default)]
pub(super) struct Calls {
    /// Those that have begun, and questions of other nodes.
    slots: Slab<Call>,
    /// The places of calls in progress.
    taken_bytes: usize,
    /// Calls that wait for a place.
    waiting: VecDeque<Call>,
    /// Questions among the slots, by kind of guest.
    questions_len: [usize; 2],
    /// Memory for long answers of calls.
    answers: Answers,
    /// That of questions, by kind of guest.
    question_answers: [Answers; 2],
    /// Answers for the program around the daemon.
    answered: VecDeque<(u64, ProgramReply)>,
}

/// Memory for long answers.
#[derive(Debug, Default)]
struct Answers {
    /// Reserved, and taken by those that are not written yet.
    bytes: usize,
    /// Those who wait to reserve.
    unreserved: VecDeque<CallKey>,
}

impl Answers {
    /// Whether there is room for one more, of `bytes_max`.
    fn may_reserve(&self, bytes_max: usize) -> bool {
        self.bytes == 0 || self.bytes + ANSWER_BYTES_MAX <= bytes_max
    }

    /// The next in line, if there is room for it.
    fn next(&mut self, bytes_max: usize) -> Option<CallKey> {
        let may_reserve = self.may_reserve(bytes_max);
        may_reserve.then(|| self.unreserved.pop_front()).flatten()
    }

    fn can_go_on(&self, bytes_max: usize) -> bool {
        !self.unreserved.is_empty() && self.may_reserve(bytes_max)
    }
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
    /// The end of one connection of this node; there may be none.
    Close {
        /// The connection.
        conn: ConnId,
        /// The close code.
        code: u16,
        /// The reason.
        reason: Box<str>,
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

    /// Whether one of those that wait could go on.
    pub(super) fn can_go_on(&self, limits: &Limits) -> bool {
        let has_place = |call| self.has_place(call, limits);
        self.waiting.front().is_some_and(has_place)
            || self.answers.can_go_on(limits.api_answers_bytes_max)
            || (self.question_answers.iter()).any(|one| one.can_go_on(QUESTIONS_ANSWERS_BYTES_MAX))
    }

    /// A caller has gone: its call is dropped if it has not begun.
    pub(super) fn forget_waiting(&mut self, id: ConnId) {
        self.waiting.retain(|call| call.caller != Caller::Conn(id));
    }

    /// A long answer is to be counted until it is written.
    pub(super) fn count_answer(&mut self, bytes: usize) {
        self.answers.bytes += bytes;
    }

    /// It is written, or nobody waits for it any more.
    pub(super) fn forget_answer(&mut self, bytes: usize) {
        self.answers.bytes -= bytes;
    }

    /// Asserts that nothing taken is lost; `answers_bytes` are those of long answers on their way.
    pub(super) fn check_invariants(&self, answers_bytes: usize) {
        let calls = || self.slots.iter().map(|(_, call)| call);
        let (mut taken, mut questions, mut reserved) = (0, [0; 2], [answers_bytes, 0, 0]);
        for call in calls() {
            let guest = call.caller.guest();
            match guest {
                Some(guest) => questions[guest as usize] += 1,
                None => taken += Self::weight(call.bytes),
            }
            if call.has_reserved {
                reserved[guest.map_or(0, |guest| 1 + guest as usize)] += ANSWER_BYTES_MAX;
            }
        }
        assert_eq!((self.taken_bytes, self.questions_len), (taken, questions));
        assert!(self.questions_len.iter().all(|len| *len <= QUESTIONS_MAX));
        let [nodes, clients] = &self.question_answers;
        let bytes = [self.answers.bytes, nodes.bytes, clients.bytes];
        assert_eq!(bytes, reserved);
    }

    /// Lets a call gather long answers, or puts it in the line for that; returns the step if it may
    /// be carried out.
    fn reserve(&mut self, key: CallKey, step: Step, limits: &Limits) -> Option<Step> {
        let call = self.slots.get_mut(key as usize)?;
        if !step.is_long() || call.has_reserved {
            return Some(step);
        }
        let (answers, bytes_max) = match call.caller.guest() {
            Some(guest) => (
                &mut self.question_answers[guest as usize],
                QUESTIONS_ANSWERS_BYTES_MAX,
            ),
            None => (&mut self.answers, limits.api_answers_bytes_max),
        };
        if !answers.may_reserve(bytes_max) {
            call.put_back(step);
            answers.unreserved.push_back(key);
            return None;
        }
        call.has_reserved = true;
        answers.bytes += ANSWER_BYTES_MAX;
        Some(step)
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
            ProgramCall::Close { conn, code, reason } => {
                let client = client_name(self.node(), conn);
                Call::close(caller, client, (code, reason), self.setting())
            }
            ProgramCall::Json { method, body } => Call::new(caller, method, body),
        };
        self.begin_call(now, call);
    }

    /// The next answer to the program.
    pub fn poll_answer(&mut self) -> Option<(u64, ProgramReply)> {
        self.calls.answered.pop_front()
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

    /// Begins to answer a guest; returns whether there was a place for its question.
    pub(super) fn begin_question(&mut self, now: Now, guest: Guest, mut call: Call) -> bool {
        debug_assert_eq!(call.caller.guest(), Some(guest));
        let questions_len = &mut self.calls.questions_len[guest as usize];
        if *questions_len >= QUESTIONS_MAX {
            return false;
        }
        *questions_len += 1;
        call.taken_at = now.instant;
        let key = self.calls.slots.insert(call) as CallKey;
        self.advance_call(now, key);
        true
    }

    /// Goes on with calls that waited, for as long as there is room for them.
    pub(super) fn go_on_with_calls(&mut self, now: Now) -> bool {
        let mut is_any = false;
        let bytes_max = self.limits.api_answers_bytes_max;
        while let Some(key) = (self.calls.answers.next(bytes_max)).or_else(|| {
            let mut guests = self.calls.question_answers.iter_mut();
            guests.find_map(|one| one.next(QUESTIONS_ANSWERS_BYTES_MAX))
        }) {
            is_any = true;
            self.take_steps(now, key, STEPS_PER_TURN_IN_LINE);
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
            let Some(step) = self.calls.reserve(key, step, &self.limits) else {
                return;
            };
            let worker = match &step {
                Step::Room { room, .. } => self.jobs.worker_of(room),
                Step::ListRooms { worker, .. } => *worker,
                Step::Decode { .. } | Step::Encode { .. } => self.jobs.worker_of_call(key),
                Step::Here { .. } => 0,
                Step::Announce { .. } | Step::AskNodes { .. } => self.worker_of_nodes(),
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
                Step::Announce {
                    part,
                    notice,
                    is_kept,
                } => Job::Announce {
                    part: Some(part),
                    notice,
                    is_kept,
                },
                Step::AskNodes { part, question } => match self.ask_nodes(now, part, &question) {
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
        let over = self.calls.get_mut(key).filter(|call| call.is_over());
        let Some(caller) = over.map(|call| call.caller) else {
            return;
        };
        let worker = self.worker_of_nodes();
        if caller.is_node() && !self.jobs.has_credit(worker) {
            // Its answer is a job, too, and may be long: it keeps its place meanwhile.
            if let Some(call) = self.calls.get_mut(key) {
                call.shorten();
            }
            self.jobs.wait_with_call(worker, key);
            return;
        }
        self.finish_call(now, key);
    }

    fn finish_call(&mut self, now: Now, key: CallKey) {
        let call = self.calls.slots.remove(key as usize);
        let guest = call.caller.guest();
        let has_reserved = call.has_reserved;
        let reserved = if has_reserved { ANSWER_BYTES_MAX } else { 0 };
        if let Some(guest) = guest {
            self.calls.questions_len[guest as usize] -= 1;
            self.calls.question_answers[guest as usize].bytes -= reserved;
        } else {
            self.calls.taken_bytes -= Calls::weight(call.bytes);
            self.calls.answers.bytes -= reserved;
        }
        let is_counted = guest.is_none();
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
            Caller::Client { conn, command } => {
                let method = call.outcomes().find_map(|(method, _)| method);
                let method = method.map_or("", ApiMethod::name);
                self.answer_client(now, (conn, command), method, call.into_outcome());
            }
            Caller::Conn(id) => self.respond(now, id, &call.into_outcome(), has_reserved),
            Caller::Node { node, number } => {
                let reply = match call.into_outcome() {
                    Outcome::Single(reply) => reply,
                    Outcome::Batch(_) | Outcome::Undecodable => Err(ApiCode::Internal),
                };
                self.tell_node(node, number, &reply);
            }
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

    /// A message that belongs to no room was encoded: gives it to those it is for.
    pub(super) fn encoded(
        &mut self,
        now: Now,
        part: CallPart,
        forms: &[Arc<Frames>; WireForm::COUNT],
    ) -> usize {
        let Some(call) = self.calls.get_mut(part.call) else {
            return 0;
        };
        let (recipients, taken_at) = (call.recipients(part), call.taken_at);
        let given = match recipients {
            None => 0,
            Some(Recipients::All) => self.give_all(now, taken_at, forms),
            Some(Recipients::One(id)) => self.give_each(now, taken_at, vec![id], forms),
        };
        let is_missed = given == 0 && matches!(recipients, Some(Recipients::One(_)));
        let reply = if is_missed {
            Err(ApiCode::UnknownChannel)
        } else {
            Ok(ApiResult::Done)
        };
        self.answer_part(now, part, reply);
        given
    }

    /// Gives a message to every connection; returns to how many.
    pub(super) fn give_all(
        &mut self,
        now: Now,
        taken_at: Instant,
        forms: &[Arc<Frames>; WireForm::COUNT],
    ) -> usize {
        let ids = self.table.iter().map(|conn| conn.id).collect();
        self.give_each(now, taken_at, ids, forms)
    }

    fn give_each(
        &mut self,
        now: Now,
        taken_at: Instant,
        ids: Vec<ConnId>,
        forms: &[Arc<Frames>; WireForm::COUNT],
    ) -> usize {
        let mut given = 0;
        for id in ids {
            given += usize::from(self.give(now, id, forms));
        }
        if given > 0 {
            self.latency.note_queued(taken_at, self.dirty.len());
        }
        given
    }

    /// Queues a message for one connection, in its form; returns whether it was queued. An open one
    /// that has no room for it is closed.
    fn give(&mut self, now: Now, id: ConnId, forms: &[Arc<Frames>; WireForm::COUNT]) -> bool {
        let bound = Level::bound(&self.limits);
        let Some(entry) = self.table.get_mut(id) else {
            return false;
        };
        let conn = &mut entry.conn;
        let Some(Purpose::Rooms { form, .. }) = conn.open().map(|open| &open.purpose) else {
            return false;
        };
        // Nothing comes before it is connected.
        if conn
            .session()
            .is_some_and(|session| !session.is_connected())
        {
            return false;
        }
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

/// Questions of other nodes that are being answered, and as many of clients. Each is a name or a pattern, and some hundred
/// bytes around it, until its answer is there.
pub(super) const QUESTIONS_MAX: usize = 4096;

/// Memory for the long answers to either, in bytes: two at a time.
const QUESTIONS_ANSWERS_BYTES_MAX: usize = 2 * ANSWER_BYTES_MAX;

/// How many jobs a call may hand over before the next in line has its turn.
const STEPS_PER_TURN_IN_LINE: usize = 64;
