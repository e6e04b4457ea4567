//! The thread that asks Redis: many requests in one write, their answers in order.
//!
//! Owns: the connection for requests, and those that wait for it.
//! Never: waits for Redis while it could hear a shard, but for the answers of what it has sent; those
//! are lost, with the connection, after [`SILENCE_MAX`](super::dial::SILENCE_MAX).
//!
//! Invariants
//! - Requests of one room are sent in their order, and one that waits holds up those behind it.
//! - A publication is sent again only if Redis can tell that it was not done: nothing that was sent on
//!   an earlier connection is carried out any more (it is killed), and the room is asked for the
//!   token (see `append.lua`).
//! - What waits is bounded; see [`Waiting`]. A read waits only while its room is followed.

use std::collections::{HashMap, VecDeque};
use std::mem;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam_channel::{Receiver, Select};
use redis::Value;

use super::dial::{Dialer, Link, Scripts};
use super::figures::Figures;
use super::inputs::Inputs;
use super::outputs::Outputs;
use super::question::{Answer, Moment, Pending, Terms};
use super::redial::Redial;
use super::refusals::Refusals;
use super::repeats::{About, Warnings, shown_room};
use super::reply::{Trouble, shown, trouble};
use super::waiting::{BATCH_BYTES, Batch, SWEEP_INTERVAL, Waiting, part_overtaken};
use crate::base::{BrokerPart, Instant, RoomName};
use crate::clock;
use crate::cluster::{Event, Failure, Request};

/// What the thread begins with.
pub(super) struct ExecParts {
    pub(super) dialer: Dialer,
    pub(super) terms: Terms,
    pub(super) wait: Duration,
    pub(super) outputs: Outputs,
    pub(super) stop: Receiver<()>,
    pub(super) figures: Arc<Figures>,
    pub(super) seed: u64,
}

pub(super) struct Exec {
    parts: ExecParts,
    inputs: Inputs,
    link: Option<Link>,
    redial: Redial,
    waiting: Waiting,
    /// Whether the feed must be woken.
    must_wake: bool,
    must_load: bool,
    /// When scripts may be loaded again.
    load_at: Instant,
    /// How often they were loaded since something was answered.
    vain_loads: u32,
    refusals: Refusals,
    /// What the node was told is wrong.
    told: Option<Box<str>>,
    tick_at: Instant,
    node_channel: String,
    warnings: Warnings,
    is_stopping: bool,
    buffer: Vec<u8>,
}

/// How often the feed is sent a sign of life.
const TICK_INTERVAL: Duration = Duration::from_millis(500);

/// How long what Redis has refused for now waits.
const LATER: Duration = Duration::from_millis(100);

/// How long the last requests may take at the end.
const ENDING_MAX: Duration = Duration::from_secs(1);

/// Shortest time from loading scripts to loading them again.
const LOAD_INTERVAL: Duration = Duration::from_millis(20);

/// How often scripts are loaded in vain before that is worth a warning.
const VAIN_LOADS_MAX: u32 = 5;

impl Exec {
    pub(super) fn new(parts: ExecParts, inputs: Inputs, link: Link) -> Self {
        let now = clock::read_instant();
        let node_channel = parts.terms.keys.node(parts.terms.node);
        parts.figures.is_exec_up.store(true, Ordering::Relaxed);
        Self {
            inputs,
            link: Some(link),
            redial: Redial::new(parts.dialer.clone(), now, parts.seed),
            waiting: Waiting::new(now),
            must_wake: false,
            must_load: false,
            load_at: now,
            vain_loads: 0,
            refusals: Refusals::default(),
            told: None,
            tick_at: now,
            node_channel,
            warnings: Warnings::default(),
            is_stopping: false,
            buffer: Vec::new(),
            parts,
        }
    }

    pub(super) fn run(mut self) {
        while !self.is_stopping {
            self.take();
            let now = clock::read_instant();
            self.sweep(now);
            self.dial(now);
            if !self.round(now) {
                self.wait(now);
            }
        }
        // What was asked for before the end, as far as it goes.
        let end = clock::read_instant() + ENDING_MAX;
        // The feed ends when it looks for wishes next.
        self.inputs.end_wishes();
        self.must_wake = true;
        while self.link.is_some() && clock::read_instant() < end {
            self.take();
            if !self.round(clock::read_instant()) {
                break;
            }
        }
        while let Some(pending) = self.waiting.pop() {
            self.give_up(pending);
        }
        self.parts
            .figures
            .is_exec_up
            .store(false, Ordering::Relaxed);
    }

    /// Takes what shards have asked for, and gives the feed its part.
    fn take(&mut self) {
        let now = clock::read_instant();
        let left = self.inputs.take(now, self.parts.wait, &mut self.waiting);
        for read in left {
            self.give_up(read);
        }
        if self.link.is_none() {
            let dropped = self.waiting.drop_fleeting();
            self.parts.figures.expired.add(dropped);
        }
        self.must_wake |= self.inputs.hand_over();
    }

    /// Gives up what can wait no longer.
    fn sweep(&mut self, now: Instant) {
        self.parts.figures.waiting.set(self.waiting.len() as u64);
        let over = self.waiting.sweep(now);
        self.give_up_all(over);
    }

    fn give_up_all(&self, over: Vec<Pending>) {
        for pending in over {
            self.parts.figures.expired.add(1);
            self.give_up(pending);
        }
    }

    /// Tells the shard that a request was not done, or may have been.
    fn give_up(&self, pending: Pending) {
        let failure = match pending.doubt {
            None => Failure::Unavailable,
            Some(_) => Failure::Unknown,
        };
        if let Some(event) = pending.failed(failure) {
            self.parts.outputs.send(pending.shard, event);
        }
    }

    fn dial(&mut self, now: Instant) {
        if self.link.is_some() {
            return;
        }
        match self.redial.poll(now) {
            None => {}
            Some(Ok(link)) => self.take_up(link),
            Some(Err(error)) => {
                self.parts.figures.failed_dials.add(1);
                let what = format_args!("--redis is {}: {error}", self.redial.shown());
                self.warnings.say(now, About::Link, what);
            }
        }
    }

    fn take_up(&mut self, link: Link) {
        log::info!("connected to Redis again, run {}", link.run.id);
        self.link = Some(link);
        self.must_load = false;
        self.must_wake = true;
        self.tick_at = clock::read_instant();
        self.parts.figures.is_exec_up.store(true, Ordering::Relaxed);
        self.parts.outputs.send_all(&Event::Availability(true));
        self.tell_health();
    }

    /// The connection is not there any more, or not to be used.
    fn lose(&mut self, why: &str) {
        let Some(link) = self.link.take() else {
            return;
        };
        let now = clock::read_instant();
        self.redial.begin(now, link);
        let figures = &self.parts.figures;
        figures.exec_losses.add(1);
        figures.is_exec_up.store(false, Ordering::Relaxed);
        let what = format_args!("lost Redis at {}: {why}", self.redial.shown());
        self.warnings.say(now, About::Link, what);
        self.parts.outputs.send_all(&Event::Availability(false));
        self.tell_health();
    }

    /// Tells the node what is wrong with requests, if that has changed.
    fn tell_health(&mut self) {
        let ailment: Option<Box<str>> = if self.link.is_none() {
            Some("requests cannot be sent to Redis".into())
        } else {
            let reason = self.refusals.lasting();
            reason.map(|reason| format!("Redis refuses to write: {reason}").into())
        };
        if self.told != ailment {
            self.told = ailment.clone();
            let part = BrokerPart::Requests;
            self.parts
                .outputs
                .send_lead(Event::Health { part, ailment });
        }
    }

    /// Sends what can be sent, and reads the answers. Returns whether there was anything.
    fn round(&mut self, now: Instant) -> bool {
        if self.link.is_none() {
            return false;
        }
        if self.must_load {
            if now < self.load_at {
                return false;
            }
            if !self.load_scripts(now) {
                return true;
            }
        }
        let Some(link) = &self.link else {
            return true;
        };
        let run = link.run.clone();
        let is_settled = now >= link.settled_at;
        let has_ended_others = link.has_ended_others;
        let scripts = Arc::clone(&link.scripts);
        let settled_at = link.settled_at;

        let mut out = mem::take(&mut self.buffer);
        out.clear();
        let signs = self.write_signs(now, &run.id, &mut out);
        let moment = Moment {
            now,
            run: &run,
            is_settled,
            has_ended_others,
            scripts: &scripts,
        };
        let Batch { mut sent, over } = self.waiting.take_batch(now, &mut out, |pending, out| {
            if pending.doubt.is_some() {
                self.parts.figures.retries.add(1);
            }
            pending.write(&self.parts.terms, &moment, out);
        });
        self.give_up_all(over);
        let has_sent = !out.is_empty();
        if has_sent {
            self.parts.figures.in_flight.set(sent.len() as u64);
            let mut again = VecDeque::new();
            let outcome = self.exchange(&out, signs, &mut sent, &mut again, settled_at);
            self.parts.figures.in_flight.set(0);
            let spent = clock::read_instant().nanos_since(now);
            self.parts.figures.round_trip_ns.set(spent);
            if let Err(why) = outcome {
                for pending in &mut sent {
                    pending.doubt.get_or_insert_with(|| (now, run.clone()));
                }
                again.extend(sent);
                self.put_back(again);
                self.lose(&why);
            } else {
                self.put_back(again);
                self.tell_health();
            }
        }
        if out.capacity() <= 4 * BATCH_BYTES {
            self.buffer = out;
        }
        has_sent
    }

    fn load_scripts(&mut self, now: Instant) -> bool {
        self.load_at = now + LOAD_INTERVAL;
        self.vain_loads = self.vain_loads.saturating_add(1);
        let Some(link) = &mut self.link else {
            return false;
        };
        match Scripts::load(&mut link.connection) {
            Ok(scripts) => {
                link.scripts = Arc::new(scripts);
                self.must_load = false;
                true
            }
            Err(error) => {
                self.lose(&error.to_string());
                false
            }
        }
    }

    /// Writes signs of life to the feed and calls of it; returns how many answers they get.
    fn write_signs(&mut self, now: Instant, run: &str, out: &mut Vec<u8>) -> usize {
        let mut signs = 0;
        if now >= self.tick_at {
            self.tick_at = now + TICK_INTERVAL;
            let sign = format!("t {run}");
            redis::cmd("PUBLISH")
                .arg(&self.node_channel)
                .arg(sign)
                .write_packed_command(out);
            signs += 1;
        }
        if mem::take(&mut self.must_wake) {
            redis::cmd("PUBLISH")
                .arg(&self.node_channel)
                .arg("w")
                .write_packed_command(out);
            signs += 1;
        }
        signs
    }

    /// Puts requests back. One that nobody could recognise, or that is worth nothing later, is given
    /// up.
    fn put_back(&mut self, requests: VecDeque<Pending>) {
        let mut kept = VecDeque::new();
        for pending in requests {
            let is_lost = pending.doubt.is_some() && !pending.may_be_repeated();
            let is_late = !is_lost && pending.is_fleeting();
            self.parts.figures.expired.add(u64::from(is_late));
            if is_lost || is_late {
                self.give_up(pending);
            } else {
                kept.push_back(pending);
            }
        }
        self.waiting.put_back(kept);
    }

    /// Writes, and reads all answers. Leaves in `sent` what was not answered when it fails, and puts
    /// into `again` what is to be sent again.
    fn exchange(
        &mut self,
        out: &[u8],
        signs: usize,
        sent: &mut VecDeque<Pending>,
        again: &mut VecDeque<Pending>,
        settled_at: Instant,
    ) -> Result<(), String> {
        let mut numbered = HashMap::new();
        let outcome = self.converse(out, signs, sent, again, settled_at, &mut numbered);
        // What has no answer may have been numbered as well.
        for pending in sent.iter().filter(|pending| pending.is_append()) {
            numbered.extend(pending.room.clone().map(|room| (room, again.len())));
        }
        let (kept, overtaken) = part_overtaken(mem::take(again), &numbered);
        *again = kept;
        for pending in overtaken {
            self.give_up(pending);
        }
        outcome
    }

    /// The same, but for those in `again` that are overtaken by a later publication of their room:
    /// `numbered` says how many of `again` were there when one was numbered last, or may have been.
    fn converse(
        &mut self,
        out: &[u8],
        signs: usize,
        sent: &mut VecDeque<Pending>,
        again: &mut VecDeque<Pending>,
        settled_at: Instant,
        numbered: &mut HashMap<RoomName, usize>,
    ) -> Result<(), String> {
        let Some(link) = &mut self.link else {
            return Err("no connection".into());
        };
        let failed = |error: redis::RedisError| error.to_string();
        link.connection.send_packed_command(out).map_err(failed)?;
        for _ in 0..signs {
            if let Value::ServerError(error) = link.connection.recv_response().map_err(failed)? {
                match trouble(&error) {
                    Trouble::Reconnect => return Err(shown(&error)),
                    _ => self.warnings.say(
                        clock::read_instant(),
                        About::Refusal,
                        format_args!("Redis refuses PUBLISH: {}", shown(&error)),
                    ),
                }
            }
        }
        let mut ill = None;
        while !sent.is_empty() {
            let Some(link) = &mut self.link else {
                break;
            };
            let value = link.connection.recv_response().map_err(failed)?;
            let Some(pending) = sent.pop_front() else {
                break;
            };
            match value {
                Value::ServerError(error) => {
                    if trouble(&error) == Trouble::Reconnect {
                        ill = Some(shown(&error));
                    }
                    self.handle_error(pending, &error, again);
                }
                value => {
                    let earlier = again.len();
                    let can_overtake = pending.is_append() && earlier > 0;
                    let room = pending.room.clone().filter(|_| can_overtake);
                    self.handle_answer(pending, value, settled_at, again);
                    if again.len() == earlier {
                        numbered.extend(room.map(|room| (room, earlier)));
                    }
                }
            }
        }
        ill.map_or(Ok(()), Err)
    }

    fn handle_error(
        &mut self,
        mut pending: Pending,
        error: &redis::ServerError,
        again: &mut VecDeque<Pending>,
    ) {
        let now = clock::read_instant();
        let text = shown(error);
        let trouble = trouble(error);
        if trouble != Trouble::Room {
            self.refusals.note_refused(now, &pending.request, &text);
        }
        match trouble {
            Trouble::NoScript => {
                self.must_load = true;
                if self.vain_loads >= VAIN_LOADS_MAX {
                    let what = format_args!("Redis does not keep scripts: {text}");
                    self.warnings.say(now, About::Refusal, what);
                }
                again.push_back(pending);
                return;
            }
            Trouble::Later => {
                let what = format_args!("Redis refuses for now: {text}");
                self.warnings.say(now, About::Later, what);
                pending.not_before = Some(now + LATER);
                again.push_back(pending);
                return;
            }
            Trouble::Reconnect => {
                again.push_back(pending);
                return;
            }
            Trouble::Room => {
                let room = shown_room(pending.room.as_ref());
                let what = format_args!("{room} cannot be used in Redis: {text}");
                self.warnings.say(now, About::Room, what);
            }
            Trouble::Refused => {
                let what = format_args!("Redis refuses: {text}");
                self.warnings.say(now, About::Refusal, what);
            }
        }
        self.parts.figures.refused.add(1);
        self.give_up(pending);
    }

    /// Puts a request that was not done into `again`; any other may have been done.
    fn handle_answer(
        &mut self,
        mut pending: Pending,
        value: Value,
        settled_at: Instant,
        again: &mut VecDeque<Pending>,
    ) {
        let figures = &self.parts.figures;
        match pending.read(value) {
            Answer::Done(event) => {
                figures.answered.add(1);
                self.vain_loads = 0;
                let now = clock::read_instant();
                self.refusals.note_done(now, &pending.request);
                if pending.is_append() {
                    figures
                        .publish_times
                        .observe(now.nanos_since(pending.taken_at));
                }
                if let Some(event) = event {
                    self.note_anew(&pending, &event);
                    self.parts.outputs.send(pending.shard, event);
                }
            }
            Answer::Wait => {
                figures.fenced.add(1);
                pending.not_before = Some(settled_at);
                again.push_back(pending);
            }
            Answer::Unknown => {
                figures.answered.add(1);
                if let Some(event) = pending.failed(Failure::Unknown) {
                    self.parts.outputs.send(pending.shard, event);
                }
            }
            Answer::Nonsense => {
                figures.refused.add(1);
                let room = shown_room(pending.room.as_ref());
                let what = format_args!("Redis answers what cannot be read, for {room}");
                self.warnings
                    .say(clock::read_instant(), About::Content, what);
                if let Some(event) = pending.failed(Failure::Unknown) {
                    self.parts.outputs.send(pending.shard, event);
                }
            }
        }
    }

    /// Counts a room that is not in the epoch that it was known in.
    fn note_anew(&mut self, pending: &Pending, event: &Event) {
        if let (
            Request::Read {
                room,
                known: Some(known),
            },
            Event::Read { snapshot, .. },
        ) = (&pending.request, event)
            && snapshot.top.epoch != known.position.epoch
        {
            self.parts.figures.rooms_begun_anew.add(1);
            let room = shown_room(Some(room));
            let what = format_args!("{room} has begun anew: Redis has lost what was known of it");
            self.warnings.say(clock::read_instant(), About::Anew, what);
        }
    }

    /// Sleeps until there is something to do.
    fn wait(&mut self, now: Instant) {
        let mut select = Select::new();
        let stop = select.recv(&self.parts.stop);
        let mut until = now + TICK_INTERVAL;
        if self.link.is_some() {
            until = until.min(self.tick_at);
            if self.must_load {
                until = until.min(self.load_at);
            }
        } else if let Some(at) = self.redial.select(&mut select) {
            until = until.min(at);
        }
        if !self.waiting.is_empty() || self.inputs.has_wishes() {
            until = until.min(now + SWEEP_INTERVAL);
        }
        self.inputs.select(&self.waiting, &mut select);
        let left = until.saturating_duration_since(clock::read_instant());
        self.is_stopping = select.ready_timeout(left).is_ok_and(|index| index == stop);
    }
}
