//! One node without its shells: the hub, its shards, the queues between them, and its clients.
//!
//! Plays the shells' part for whoever drives it, who decides when, how much, and what time it is.

use std::collections::{BTreeSet, VecDeque};
use std::io::IoSlice;
use std::net::SocketAddr;

use roomcast::base::{CloseReason, ConnId, Instant, Limits, Now, Prng};
use roomcast::exchange::{Effect, Job, Replay};
use roomcast::hub::{Gate, Hub, Reading, SocketAction, Written};
use roomcast::shard::RoomShard;

use super::client::{Client, Stage};
use super::plan::{Endpoint, Plan};
use super::trace::say;

pub(crate) struct Node {
    pub(crate) limits: Limits,
    pub(crate) hub: Hub<usize>,
    pub(crate) shards: Vec<RoomShard>,
    pub(crate) jobs: Vec<VecDeque<Job>>,
    pub(crate) effects: VecDeque<Effect>,
    pub(crate) clients: Vec<Client>,
    /// There is no descriptor left for one who comes.
    pub(crate) has_no_descriptors: bool,
    /// Nobody is let in, since memory is short.
    pub(crate) is_short_of_memory: bool,
    /// What those who watch were told of joins and leaves, by room.
    pub(crate) told_changes: BTreeSet<(String, Vec<u8>)>,
    /// Who was taken out of which room since it was last asked.
    pub(crate) left: Vec<(ConnId, String)>,
    /// After so many writes, the bytes of one are lost: a fault for the test of the simulator itself.
    pub(crate) loses_write: Option<u64>,
    /// When all was written that there was.
    written_at: Instant,
    /// Whether there is no place for another room, where that can be.
    pub(crate) is_full: Option<Box<dyn Fn() -> bool>>,
    /// What the texts of its clients begin with.
    name: String,
    peers: u16,
    /// How many clients were dropped unheard.
    dropped: u64,
}

/// What the one who drives is shown of a worker's work.
pub(crate) enum Work<'a> {
    /// It is about to do this.
    Job(&'a Job),
    /// What it was shown last was refused.
    Refused,
}

impl Node {
    pub(crate) fn new(
        name: String,
        limits: &Limits,
        gate: Gate,
        start: Instant,
        shards: Vec<RoomShard>,
        hub_seed: u64,
    ) -> Self {
        let workers = shards.len();
        let hub = Hub::new(limits.clone(), gate, workers, start, hub_seed);
        Self {
            limits: limits.clone(),
            hub,
            shards,
            jobs: (0..workers).map(|_| VecDeque::new()).collect(),
            effects: VecDeque::new(),
            clients: Vec::new(),
            has_no_descriptors: false,
            is_short_of_memory: false,
            told_changes: BTreeSet::new(),
            left: Vec::new(),
            loses_write: None,
            written_at: start,
            is_full: None,
            name,
            peers: 0,
            dropped: 0,
        }
    }

    /// What every text of a client begins with.
    pub(crate) fn prefix_of(&self, index: usize) -> String {
        format!("{}{index}/", self.name)
    }

    pub(crate) fn pick(&self, prng: &mut Prng) -> Option<usize> {
        if self.clients.is_empty() {
            return None;
        }
        Some(prng.below(self.clients.len() as u64) as usize)
    }

    pub(crate) fn check_invariants(&self) {
        self.hub.check_invariants();
        for shard in &self.shards {
            shard.check_invariants();
        }
        for worker in 0..self.jobs.len() {
            assert!(
                self.open_jobs(worker) <= self.limits.jobs_max,
                "worker {worker} has too many jobs"
            );
        }
    }

    // Who comes.

    /// A client comes, and waits to be accepted.
    pub(crate) fn come(&mut self, plan: Plan, ip: u8, prng: &mut Prng) -> usize {
        self.peers += 1;
        let peer = SocketAddr::from(([127, 0, 0, ip], self.peers));
        let index = self.clients.len();
        say(|| {
            format!(
                "client {index} comes {} from {}",
                plan.to_words(),
                peer.ip()
            )
        });
        self.clients.push(Client::new(peer, plan, prng));
        index
    }

    /// A client comes and is accepted at once.
    pub(crate) fn connect(&mut self, now: Now, plan: Plan, prng: &mut Prng) {
        let index = self.come(plan, 1, prng);
        self.accept(now, index);
    }

    /// Accepts a client, if there is a descriptor for it. Returns whether it did.
    pub(crate) fn accept(&mut self, now: Now, index: usize) -> bool {
        if self.has_no_descriptors || self.clients[index].stage != Stage::Waiting {
            return false;
        }
        let expected = self.admission_of(index);
        let client = &mut self.clients[index];
        let is_admin = client.plan.endpoint == Endpoint::Api;
        let accepted = self.hub.handle_accept(now, is_admin, client.peer, index);
        assert_eq!(
            accepted.is_ok(),
            expected != Admission::Dropped,
            "client {index}: it should be {expected:?}"
        );
        say(|| format!("client {index} is {expected:?}"));
        client.admission = expected;
        match accepted {
            Ok(id) => {
                client.id = id;
                client.times.came = now.instant;
                client.times.heard = now.instant;
                client.stage = match client.plan.is_websocket() {
                    true => Stage::Asking,
                    false => Stage::Plain,
                };
            }
            Err(_) => {
                self.dropped += 1;
                client.stage = Stage::Refused;
                client.farewell = Some(CloseReason::Capacity);
            }
        }
        assert_eq!(self.hub.counters().dropped, self.dropped);
        true
    }

    /// How the next is to be let in, by those who are there.
    fn admission_of(&self, index: usize) -> Admission {
        let limits = &self.limits;
        let here = || self.clients.iter().filter(|client| client.is_accepted());
        let count = |kind: Admission| here().filter(|one| one.admission == kind).count();
        let client = &self.clients[index];
        if client.plan.endpoint == Endpoint::Api {
            return match count(Admission::Admin) < limits.admin_connections_max {
                true => Admission::Admin,
                false => Admission::Dropped,
            };
        }
        let publics = || here().filter(|one| one.admission == Admission::Public);
        let neighbours = publics().filter(|one| one.peer.ip() == client.peer.ip());
        let per_ip_max = limits.connections_per_ip_max;
        let is_over = self.is_short_of_memory
            || publics().count() >= limits.connections_max
            || (per_ip_max > 0 && neighbours.count() >= per_ip_max);
        match is_over {
            false => Admission::Public,
            true if count(Admission::Overload) < limits.refusals_max => Admission::Overload,
            true => Admission::Dropped,
        }
    }

    /// Notes who has found its end since this was last asked, and returns them.
    pub(crate) fn note_ends(&mut self, now: Now) -> Vec<usize> {
        let unwritten = now.instant.saturating_duration_since(self.written_at);
        let mut ended = Vec::new();
        for (index, client) in self.clients.iter_mut().enumerate() {
            if client.times.ended.is_none() && client.has_found_its_end() {
                client.times.ended = Some(now.instant);
                client.times.unwritten = unwritten;
                ended.push(index);
            }
        }
        ended
    }

    // What clients do.

    /// Some client of rooms says something, in frames of any shape.
    pub(crate) fn speak(&mut self, prng: &mut Prng) {
        if let Some(index) = self.pick(prng)
            && self.clients[index].is_sending()
            && self.clients[index].stage != Stage::Refused
        {
            self.speak_as(index, prng);
        }
    }

    pub(crate) fn speak_as(&mut self, index: usize, prng: &mut Prng) {
        let prefix = self.prefix_of(index);
        let client = &mut self.clients[index];
        let count = 1 + prng.below(6);
        for _ in 0..count {
            let key = (prng.next_u64() as u32).to_be_bytes();
            if prng.below(8) == 0 {
                client.send_frame(0x89, b"ping", key);
            }
            let length_max = if prng.below(10) == 0 { 2000 } else { 40 };
            let filler = "x".repeat(prng.below(length_max) as usize);
            let text = format!("{prefix}{}/{filler}", client.sent.len());
            let opcode = if prng.below(4) == 0 { 2 } else { 1 };
            if prng.below(6) == 0 {
                let (head, tail) = text.as_bytes().split_at(text.len() / 2);
                client.send_frame(opcode, head, key);
                client.send_frame(0x89, b"", key);
                client.send_frame(0x80, tail, key);
            } else {
                client.send_frame(0x80 | opcode, text.as_bytes(), key);
            }
            client.sent.push(text);
        }
        let all = client.sent.len();
        say(|| format!("client {index} sends {count} messages, {all} in all"));
    }

    /// Some client leaves, in one way or another; returns what it does.
    pub(crate) fn leave(&mut self, prng: &mut Prng) -> Option<&'static str> {
        let index = self.pick(prng)?;
        let client = &mut self.clients[index];
        let word = match prng.below(3) {
            0 if client.is_sending() && client.plan.is_websocket() => {
                client.send_frame(0x88, &1000u16.to_be_bytes(), [9, 8, 7, 6]);
                client.has_sent_close = true;
                "sends a close frame"
            }
            1 => {
                client.has_ended = true;
                "ends what it sends"
            }
            2 => {
                client.is_reset = true;
                "breaks its connection"
            }
            _ => return None,
        };
        say(|| format!("client {index} {word}"));
        Some(word)
    }

    /// Some client stops reading, or begins to read on; returns which.
    pub(crate) fn toggle_stall(&mut self, prng: &mut Prng) -> Option<&'static str> {
        let index = self.pick(prng)?;
        let is_stalled = &mut self.clients[index].is_stalled;
        *is_stalled ^= true;
        let word = if *is_stalled {
            "stops reading"
        } else {
            "begins to read"
        };
        say(|| format!("client {index} {word}"));
        Some(word)
    }

    /// Whether some worker takes no more jobs.
    pub(crate) fn has_full_worker(&self) -> bool {
        let mut workers = 0..self.jobs.len();
        workers.any(|worker| self.open_jobs(worker) >= self.limits.jobs_max)
    }

    /// How many jobs a worker has: those that wait, and those begun.
    fn open_jobs(&self, worker: usize) -> usize {
        self.jobs[worker].len() + self.shards[worker].open_jobs()
    }

    /// Some client reads a part of what is there.
    pub(crate) fn listen(&mut self, prng: &mut Prng) {
        let Some(index) = self.pick(prng) else { return };
        if self.clients[index].is_stalled {
            return;
        }
        let len = 1 + prng.below(3000) as usize;
        self.read_by_client(index, len);
    }

    pub(crate) fn read_by_client(&mut self, index: usize, len: usize) {
        let client = &mut self.clients[index];
        if client.is_reset {
            return;
        }
        let len = client.read(len);
        if len == 0 {
            return;
        }
        say(|| format!("client {index} reads {len} bytes"));
        if client.awaits_room {
            client.awaits_room = false;
            self.hub.handle_writable(client.id);
        }
    }

    // What the shells do.

    pub(crate) fn receive(&mut self, now: Now, prng: &mut Prng) {
        for _ in 0..3 {
            if let Some(index) = self.pick(prng) {
                let len = 1 + prng.below(2000) as usize;
                self.read_by_server(now, index, len);
            }
        }
    }

    /// Returns whether anything happened.
    pub(crate) fn read_by_server(&mut self, now: Now, index: usize, len: usize) -> bool {
        let client = &mut self.clients[index];
        if !client.is_accepted() || client.is_paused || client.is_heard_out {
            return false;
        }
        if client.is_reset {
            say(|| format!("the server finds client {index} reset"));
            client.is_heard_out = true;
            self.hub.handle_eof(client.id, CloseReason::Reset);
            return true;
        }
        let len = len.min(client.upstream.len());
        if len == 0 {
            if client.has_ended {
                // The shell sees the end of a stream once.
                say(|| format!("the server finds the end of what client {index} sends"));
                client.is_heard_out = true;
                self.hub.handle_eof(client.id, CloseReason::Gone);
                return true;
            }
            return false;
        }
        if (1..=len).contains(&client.unasked) {
            client.asked_while_short = Some(self.is_short_of_memory);
        }
        client.unasked = client.unasked.saturating_sub(len);
        let bytes = client.hear(now, len);
        let reading = self.hub.handle_bytes(now, client.id, &bytes);
        say(|| format!("the server reads {len} bytes of client {index}: {reading:?}"));
        match reading {
            Reading::Continue => {}
            Reading::Paused | Reading::Over => client.is_paused = true,
        }
        self.hand_over();
        true
    }

    pub(crate) fn hand_over(&mut self) {
        loop {
            let is_known = self.hub.has_backlog();
            let Some((worker, job)) = self.hub.poll_job() else {
                return;
            };
            assert!(is_known, "a job that nobody was told of");
            if let Job::Unsubscribe { conn, room, .. } = &job {
                self.left.push((*conn, room.to_string()));
            }
            self.jobs[worker].push_back(job);
        }
    }

    pub(crate) fn grant_room(&mut self, now: Now) {
        for worker in 0..self.jobs.len() {
            let room = self.limits.jobs_max.saturating_sub(self.open_jobs(worker));
            self.hub.handle_room(now, worker, room);
        }
        self.hand_over();
        self.resume();
    }

    pub(crate) fn resume(&mut self) {
        loop {
            let is_known = self.hub.has_backlog();
            let Some(id) = self.hub.poll_resumed() else {
                return;
            };
            assert!(is_known, "a connection to be read that nobody was told of");
            if let Some(index) = self.hub.socket_mut(id).copied() {
                self.clients[index].is_paused = false;
            }
        }
    }

    /// A worker does some of its jobs; `see` is shown each before, and whether it was refused. To the
    /// worker, some members are such as watch who joins and who leaves; the hub, which knows better,
    /// tells nobody. Returns how many it did.
    pub(crate) fn work_by(
        &mut self,
        now: Now,
        worker: usize,
        count: usize,
        mut see: impl FnMut(Work<'_>, &mut [Client]),
    ) -> usize {
        let mut done = 0;
        while done < count {
            let Some(mut job) = self.jobs[worker].pop_front() else {
                break;
            };
            if let Job::Subscribe { conn, terms, .. } = &mut job {
                terms.watches = conn.slot.is_multiple_of(3);
            }
            see(Work::Job(&job), &mut self.clients);
            self.shards[worker].handle_job(now, job);
            if self.collect(worker) {
                see(Work::Refused, &mut self.clients);
            }
            done += 1;
        }
        let is_due = |shard: &RoomShard| shard.poll_timeout().is_some_and(|at| at <= now.instant);
        if done > 0 || is_due(&self.shards[worker]) {
            self.shards[worker].handle_timeout(now);
            self.collect(worker);
        }
        if done > 0 {
            say(|| format!("worker {worker} does {done} jobs"));
        }
        done
    }

    /// Takes what a worker has to say; returns whether it has refused to publish something.
    pub(crate) fn collect(&mut self, worker: usize) -> bool {
        let mut has_refused = false;
        while let Some(effect) = self.shards[worker].poll_effect() {
            match &effect {
                Effect::PresenceChanged { room, told } => {
                    let change = (room.to_string(), told.bytes().to_vec());
                    let is_new = self.told_changes.insert(change);
                    let text = String::from_utf8_lossy(told.bytes());
                    // Who speaks by commands may come and go more than once.
                    let mut clients = self.clients.iter();
                    let may_repeat = |one: &Client| {
                        one.plan.endpoint == Endpoint::Commands
                            && text.contains(&format!("\"{}\"", one.id))
                    };
                    assert!(
                        is_new || clients.any(may_repeat),
                        "{room}: one change is told twice: {text}"
                    );
                }
                Effect::Joined {
                    conn,
                    room,
                    offset,
                    after,
                    is_incomplete,
                    ..
                } => {
                    if let Some(client) = self.clients.iter_mut().find(|one| one.id == *conn)
                        && let Some(join) = client.join_in_progress(room.as_str())
                    {
                        join.offset = Some(offset.0);
                        let is_live = after >= offset && !is_incomplete;
                        join.live_after = is_live.then_some(offset.0);
                    }
                }
                Effect::Replayed {
                    conn,
                    room,
                    outcome: Replay::Live(offset),
                    ..
                } => {
                    if let Some(client) = self.clients.iter_mut().find(|one| one.id == *conn) {
                        client.note_live(room.as_str(), offset.0);
                    }
                }
                Effect::JoinRefused { conn, room, reason } => {
                    let is_full = self.is_full.as_ref().is_some_and(|is_full| is_full());
                    if let Some(client) = self.clients.iter_mut().find(|one| one.id == *conn) {
                        client.forget_join(room.as_str());
                        client.had_no_place |= is_full && *reason == CloseReason::ChannelLimit;
                    }
                }
                Effect::PublishRefused { origin, reason } => {
                    has_refused = true;
                    let is_full = self.is_full.as_ref().is_some_and(|is_full| is_full());
                    let mut clients = self.clients.iter_mut();
                    if let Some(client) = clients.find(|one| one.id == origin.conn) {
                        client.had_no_place |= is_full && *reason == CloseReason::ChannelLimit;
                    }
                }
                Effect::Answered { reply: Err(_), .. } => has_refused = true,
                _ => {}
            }
            self.effects.push_back(effect);
        }
        has_refused
    }

    /// Returns whether there was anything to apply.
    pub(crate) fn apply(&mut self, now: Now, count: usize) -> bool {
        for applied in 0..count {
            if self.hub.wants_flush() {
                return applied > 0;
            }
            let Some(effect) = self.effects.pop_front() else {
                return applied > 0;
            };
            self.hub.handle_effect(now, effect);
        }
        true
    }

    pub(crate) fn flush(&mut self, now: Now, count: usize) {
        for _ in 0..count {
            if !self.flush_one(now) {
                break;
            }
        }
        self.hand_over();
        self.resume();
    }

    pub(crate) fn flush_all(&mut self, now: Now) {
        self.flush(now, usize::MAX);
    }

    /// Writes to one socket, as much as its kernel buffer takes and sometimes less.
    pub(crate) fn flush_one(&mut self, now: Now) -> bool {
        let is_known = self.hub.has_backlog();
        let Some((id, index, queue)) = self.hub.poll_flush() else {
            self.written_at = now.instant;
            self.clients.iter_mut().for_each(Client::note_written);
            return false;
        };
        assert!(is_known, "{id}: something to write that nobody was told of");
        let index = *index;
        let client = &mut self.clients[index];
        let mut slices = [IoSlice::new(&[]); 8];
        let filled = queue.fill(&mut slices);
        let offered: usize = slices[..filled].iter().map(|slice| slice.len()).sum();
        assert!(offered > 0, "{id}: asked to write nothing");
        if let Some(piece) = queue.lone_piece() {
            assert!(
                filled == 1 && *slices[0] == *piece,
                "{id}: two views of one queue differ"
            );
        }
        let written = if client.is_reset {
            say(|| format!("a write to client {index} fails"));
            Written::Failed
        } else {
            let room = client.downstream_max - client.downstream.len();
            let bytes = offered.min(room);
            let mut taken: Vec<u8> = slices[..filled]
                .iter()
                .flat_map(|slice| slice.iter().copied())
                .take(bytes)
                .collect();
            assert!(
                !client.server_has_ended,
                "{id}: a write after the end of the stream: {:?}",
                String::from_utf8_lossy(&taken)
            );
            if let Some(left) = &mut self.loses_write {
                if *left == 0 {
                    taken.clear();
                }
                *left = left.wrapping_sub(1);
            }
            say(|| format!("to client {index}: {:?}", String::from_utf8_lossy(&taken)));
            client.downstream.extend(taken);
            queue.advance(bytes);
            client.awaits_room |= bytes < offered;
            client.was_refused |= bytes < offered;
            say(|| format!("{bytes} of {offered} bytes are written to client {index}"));
            Written::Bytes {
                bytes,
                is_blocked: bytes < offered,
            }
        };
        if self.hub.handle_written(now, id, written) == SocketAction::ShutDownWrite {
            say(|| format!("the server ends what it sends to client {index}"));
            self.clients[index].server_has_ended = true;
        }
        true
    }

    pub(crate) fn reap(&mut self) {
        loop {
            let is_known = self.hub.has_backlog();
            let Some((index, farewell)) = self.hub.poll_closed() else {
                break;
            };
            assert!(
                is_known,
                "a connection to be closed that nobody was told of"
            );
            let client = &mut self.clients[index];
            assert_eq!((client.id, client.peer), (farewell.id, farewell.peer));
            let reason = farewell.reason;
            say(|| format!("client {index} is closed: {reason:?}"));
            assert!(client.farewell.is_none(), "{}: reaped twice", client.id);
            client.farewell = Some(reason);
        }
        self.hand_over();
    }

    /// Does what is due, if anything is: a shell that is told neither a time nor that there is
    /// something to do does not wake.
    pub(crate) fn expire(&mut self, now: Now, budget: usize) {
        let is_due = self.hub.poll_timeout().is_some_and(|at| at <= now.instant);
        if is_due || self.hub.has_backlog() {
            self.hub.handle_timeout(now, budget);
            self.hand_over();
            self.resume();
        }
    }
}

/// How a client was let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    Public,
    Admin,
    /// Only to be told that there is no room.
    Overload,
    Dropped,
}
