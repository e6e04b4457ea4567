//! One node without its shells: the hub, its shards, the queues between them, and its clients.
//!
//! Plays the shells' part for whoever drives it, who decides when, how much, and what time it is.

use std::collections::{BTreeSet, VecDeque};
use std::io::IoSlice;
use std::net::SocketAddr;

use roomcast::base::{CloseReason, Instant, Limits, Now, Prng};
use roomcast::exchange::{Effect, Job};
use roomcast::hub::{Gate, Hub, Reading, SocketAction, Written};
use roomcast::shard::RoomShard;

use super::client::{Client, Plan, Stage};

pub(super) struct Node {
    pub(super) limits: Limits,
    pub(super) hub: Hub<usize>,
    pub(super) shards: Vec<RoomShard>,
    pub(super) jobs: Vec<VecDeque<Job>>,
    pub(super) effects: VecDeque<Effect>,
    pub(super) clients: Vec<Client>,
    /// What those who watch were told of joins and leaves, by room.
    pub(super) told_changes: BTreeSet<(String, Vec<u8>)>,
    /// What the texts of its clients begin with.
    name: String,
    peers: u16,
}

impl Node {
    pub(super) fn new(
        name: String,
        limits: &Limits,
        start: Instant,
        shards: Vec<RoomShard>,
        hub_seed: u64,
    ) -> Self {
        let workers = shards.len();
        let hub = Hub::new(limits.clone(), Gate::default(), workers, start, hub_seed);
        Self {
            limits: limits.clone(),
            hub,
            shards,
            jobs: (0..workers).map(|_| VecDeque::new()).collect(),
            effects: VecDeque::new(),
            clients: Vec::new(),
            told_changes: BTreeSet::new(),
            name,
            peers: 0,
        }
    }

    /// What every text of a client begins with.
    pub(super) fn prefix_of(&self, index: usize) -> String {
        format!("{}{index}/", self.name)
    }

    pub(super) fn pick(&self, prng: &mut Prng) -> Option<usize> {
        if self.clients.is_empty() {
            return None;
        }
        Some(prng.below(self.clients.len() as u64) as usize)
    }

    pub(super) fn check_invariants(&self) {
        self.hub.check_invariants();
        for shard in &self.shards {
            shard.check_invariants();
        }
        for (worker, jobs) in self.jobs.iter().enumerate() {
            assert!(
                jobs.len() + self.shards[worker].open_jobs() <= self.limits.jobs_max,
                "worker {worker} has too many jobs"
            );
        }
    }

    // What clients do.

    /// A client comes; returns its index, if it is let in.
    pub(super) fn connect(&mut self, now: Now, plan: Plan, prng: &mut Prng) -> Option<usize> {
        self.peers += 1;
        let peer = SocketAddr::from(([127, 0, 0, 1], self.peers));
        let index = self.clients.len();
        let id = self.hub.handle_accept(now, false, peer, index).ok()?;
        self.clients.push(Client::new(id, peer, plan, prng));
        Some(index)
    }

    /// Some client says something, in frames of any shape.
    pub(super) fn speak(&mut self, prng: &mut Prng) {
        let Some(index) = self.pick(prng) else { return };
        let prefix = self.prefix_of(index);
        let client = &mut self.clients[index];
        if !client.is_sending() || client.stage == Stage::Refused {
            return;
        }
        for _ in 0..1 + prng.below(6) {
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
    }

    /// Some client leaves, in one way or another.
    pub(super) fn leave(&mut self, prng: &mut Prng) {
        let Some(index) = self.pick(prng) else { return };
        let client = &mut self.clients[index];
        match prng.below(3) {
            0 if client.is_sending() => {
                client.send_frame(0x88, &1000u16.to_be_bytes(), [9, 8, 7, 6]);
                client.has_sent_close = true;
            }
            1 => client.has_ended = true,
            2 => client.is_reset = true,
            _ => {}
        }
    }

    pub(super) fn toggle_stall(&mut self, prng: &mut Prng) {
        if let Some(index) = self.pick(prng) {
            self.clients[index].is_stalled ^= true;
        }
    }

    /// Some client reads a part of what is there.
    pub(super) fn listen(&mut self, prng: &mut Prng) {
        let Some(index) = self.pick(prng) else { return };
        if self.clients[index].is_stalled {
            return;
        }
        let len = 1 + prng.below(3000) as usize;
        self.read_by_client(index, len);
    }

    pub(super) fn read_by_client(&mut self, index: usize, len: usize) {
        let client = &mut self.clients[index];
        if client.is_reset {
            return;
        }
        if client.read(len) && client.awaits_room {
            client.awaits_room = false;
            self.hub.handle_writable(client.id);
        }
    }

    // What the shells do.

    pub(super) fn receive(&mut self, now: Now, prng: &mut Prng) {
        for _ in 0..3 {
            if let Some(index) = self.pick(prng) {
                let len = 1 + prng.below(2000) as usize;
                self.read_by_server(now, index, len);
            }
        }
    }

    /// Returns whether anything happened.
    pub(super) fn read_by_server(&mut self, now: Now, index: usize, len: usize) -> bool {
        let client = &mut self.clients[index];
        if client.is_gone || client.is_paused {
            return false;
        }
        if client.is_reset {
            self.hub.handle_eof(client.id, CloseReason::Reset);
            return true;
        }
        let len = len.min(client.upstream.len());
        if len == 0 {
            if client.has_ended && !client.is_paused {
                // The shell sees the end of a stream once.
                client.is_paused = true;
                self.hub.handle_eof(client.id, CloseReason::Gone);
                return true;
            }
            return false;
        }
        let bytes: Vec<u8> = client.upstream.drain(..len).collect();
        match self.hub.handle_bytes(now, client.id, &bytes) {
            Reading::Continue => {}
            Reading::Paused | Reading::Over => client.is_paused = true,
        }
        self.hand_over();
        true
    }

    pub(super) fn hand_over(&mut self) {
        while let Some((worker, job)) = self.hub.poll_job() {
            self.jobs[worker].push_back(job);
        }
    }

    pub(super) fn grant_room(&mut self, now: Now) {
        for worker in 0..self.jobs.len() {
            let open = self.jobs[worker].len() + self.shards[worker].open_jobs();
            let room = self.limits.jobs_max.saturating_sub(open);
            self.hub.handle_room(now, worker, room);
        }
        self.hand_over();
        self.resume();
    }

    pub(super) fn resume(&mut self) {
        while let Some(id) = self.hub.poll_resumed() {
            if let Some(index) = self.hub.socket_mut(id).copied() {
                self.clients[index].is_paused = false;
            }
        }
    }

    /// A worker does some of its jobs; `see` is shown each before. To the worker, some members are such
    /// as watch who joins and who leaves; the hub, which knows better, tells nobody.
    pub(super) fn work_by(
        &mut self,
        now: Now,
        worker: usize,
        count: usize,
        mut see: impl FnMut(&Job, &mut [Client]),
    ) {
        for _ in 0..count {
            let Some(mut job) = self.jobs[worker].pop_front() else {
                break;
            };
            if let Job::Subscribe { conn, terms, .. } = &mut job {
                terms.watches = conn.slot.is_multiple_of(3);
            }
            see(&job, &mut self.clients);
            self.shards[worker].handle_job(now, job);
        }
        self.shards[worker].handle_timeout(now);
        self.collect(worker);
    }

    /// Takes what a worker has to say.
    pub(super) fn collect(&mut self, worker: usize) {
        while let Some(effect) = self.shards[worker].poll_effect() {
            if let Effect::PresenceChanged { room, told } = &effect {
                let change = (room.to_string(), told.bytes().to_vec());
                let is_new = self.told_changes.insert(change);
                assert!(is_new, "{room}: one change is told twice: {told:?}");
            }
            self.effects.push_back(effect);
        }
    }

    /// Returns whether there was anything to apply.
    pub(super) fn apply(&mut self, now: Now, count: usize) -> bool {
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

    pub(super) fn flush(&mut self, now: Now, count: usize) {
        for _ in 0..count {
            if !self.flush_one(now) {
                break;
            }
        }
        self.hand_over();
        self.resume();
    }

    pub(super) fn flush_all(&mut self, now: Now) {
        self.flush(now, usize::MAX);
    }

    /// Writes to one socket, as much as its kernel buffer takes and sometimes less.
    pub(super) fn flush_one(&mut self, now: Now) -> bool {
        let Some((id, index, queue)) = self.hub.poll_flush() else {
            return false;
        };
        let client = &mut self.clients[*index];
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
        assert!(
            !client.server_has_ended,
            "{id}: a write after the end of the stream"
        );
        let written = if client.is_reset {
            Written::Failed
        } else {
            let room = client.downstream_max - client.downstream.len();
            let bytes = offered.min(room);
            let taken: Vec<u8> = slices[..filled]
                .iter()
                .flat_map(|slice| slice.iter().copied())
                .take(bytes)
                .collect();
            client.downstream.extend(taken);
            queue.advance(bytes);
            client.awaits_room |= bytes < offered;
            client.was_refused |= bytes < offered;
            Written::Bytes {
                bytes,
                is_blocked: bytes < offered,
            }
        };
        let client_index = *index;
        if self.hub.handle_written(now, id, written) == SocketAction::ShutDownWrite {
            self.clients[client_index].server_has_ended = true;
        }
        true
    }

    pub(super) fn reap(&mut self) {
        while let Some((index, farewell)) = self.hub.poll_closed() {
            let client = &mut self.clients[index];
            assert_eq!((client.id, client.peer), (farewell.id, farewell.peer));
            assert!(!client.is_gone, "{}: reaped twice", client.id);
            client.is_gone = true;
        }
        self.hand_over();
    }
}
