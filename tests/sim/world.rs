//! A whole node on one thread: the hub, its shards, their queues, and many clients, driven from
//! one seed with a virtual clock.
//!
//! The world plays the shells' part with every freedom they have and then some: reads and writes
//! of any size, workers that sleep, effects that wait, descriptors that run out, clocks that jump.
//! After every step the invariants are asserted, and at the end every member's books are balanced
//! against the log of what the shards numbered.
//!
//! `deeds` is what clients do, `rest` lets everything come to its end, `drain` ends the node amid the
//! talk, `memory` runs short and is there again, `books` balances.

use std::collections::BTreeSet;
use std::time::Duration;

use roomcast::base::{
    ConnId, DuplicateLogin, Glob, Instant, Limits, Now, Prng, RoomBudget, RoomName, Secret, UserId,
};
use roomcast::exchange::{Job, RoomAsk};
use roomcast::hub::{Gate, ProgramCall};
use roomcast::shard::RoomShard;
use roomcast::wire::api::{ApiCall, Refresh, Subscribe, Target};

use super::backend::Backend;
use super::client::{Client, Join};
use super::log::{Entry, Log};
use super::node::{Node, Work};
use super::plan::Endpoint;
use super::runner::prng_of;
use super::tally::Tally;
use super::trace::say;
use memory::Memory;

pub(crate) use memory::Shortage;

#[path = "books.rs"]
mod books;
#[path = "deeds.rs"]
mod deeds;
#[path = "drain.rs"]
mod drain;
#[path = "envelopes.rs"]
mod envelopes;
#[path = "judge.rs"]
mod judge;
#[path = "memory.rs"]
mod memory;
#[path = "rest.rs"]
mod rest;

pub(crate) struct World {
    seed: u64,
    prng: Prng,
    elapsed: Duration,
    /// How far the wall clock was set forward, or back.
    set_ms: i64,
    /// Whether it may be set.
    is_clock_set: bool,
    limits: Limits,
    memory: Memory,
    /// What tokens are signed with, where they are needed.
    secret: Option<Secret>,
    budget: RoomBudget,
    /// Whether there may be no place for a room.
    is_crowded: bool,
    node: Node,
    /// Workers that do nothing for a while.
    asleep: Vec<bool>,
    log: Log,
    backend: Backend,
    /// Users and clients that a back end has sent away, or given another time.
    kicked: BTreeSet<String>,
    /// How often somebody was taken out of a room.
    left: u64,
    renewed: BTreeSet<String>,
    /// Users and clients that a back end has taken out of rooms, and put into them, each time.
    put_out: Vec<(String, String)>,
    put_in: Vec<(String, String)>,
    /// What all were to be told, who was there to hear it, and whether the node was ending.
    announced: Vec<(String, BTreeSet<ConnId>, bool)>,
    /// What has happened.
    pub(crate) tally: Tally,
    is_shut_down: bool,
    /// By when a node that ends has closed everybody, and whether that is over.
    drained_by: Option<Duration>,
    is_drain_over: bool,
    /// Nobody leaves a room now but for the end of the daemon.
    closes_only_to_end: bool,
    /// WebSockets at the last look at a node that ends.
    websockets: usize,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let mut prng = prng_of(seed, u32::MAX);
        let mut limits = limits(&mut prng);
        limits.check().expect("the simulator's limits hold");
        let memory = Memory::of(seed);
        if memory.limit.is_some() {
            limits.memory_bytes_max = memory.limit;
            // Or nothing but its bound in publications would ever end a queue.
            limits.outbound_publications_max = limits.outbound_publications_max.max(10);
        }
        let workers = one_of(&mut prng, &[1, 2, 3]);
        let rooms_max = one_of(&mut prng, &[2, 4, 1000, 1000, 1000]);
        let budget = RoomBudget::new(rooms_max);
        let secret =
            (prng.below(4) == 0).then(|| Secret::new(b"a secret of 32 bytes, or about it"));
        let now = Now {
            instant: Instant::ORIGIN,
            unix_ms: UNIX_MS,
        };
        let shards = (0..workers)
            .map(|_| RoomShard::new(&limits, workers, budget.clone(), now, prng.next_u64()))
            .collect();
        let gate = Gate {
            token_secret: secret.clone(),
            ..Gate::default()
        };
        let hub_seed = prng.next_u64();
        let mut node = Node::new(String::new(), &limits, gate, now.instant, shards, hub_seed);
        let places = budget.clone();
        node.is_full = Some(Box::new(move || places.used() == rooms_max));
        Self {
            seed,
            elapsed: Duration::ZERO,
            set_ms: 0,
            is_clock_set: prng.below(4) == 0,
            limits,
            memory,
            secret,
            budget,
            is_crowded: rooms_max < 1000,
            node,
            asleep: vec![false; workers],
            log: Log::default(),
            backend: Backend::default(),
            kicked: BTreeSet::new(),
            left: 0,
            renewed: BTreeSet::new(),
            put_out: Vec::new(),
            put_in: Vec::new(),
            announced: Vec::new(),
            tally: Tally::new(),
            is_shut_down: false,
            drained_by: None,
            is_drain_over: false,
            closes_only_to_end: false,
            websockets: usize::MAX,
            prng,
        }
    }

    /// A world in which the bytes of one write do not arrive: a fault of the simulator itself.
    pub(crate) fn losing_write(mut self, number: u64) -> Self {
        self.node.loses_write = Some(number);
        self
    }

    /// What has come of it that memory was short.
    pub(crate) fn shortage(&self) -> Shortage {
        self.memory.seen
    }

    /// Does these steps, then lets everything come to rest and balances the books.
    pub(crate) fn run(&mut self, steps: &[u32]) {
        self.begin();
        for step in steps {
            self.take_step(*step, 100);
        }
        self.begin_step(u32::MAX - 1);
        self.settle();
        self.bring_back();
        self.count_members();
        self.balance();
        self.count_ends();
        self.end();
    }

    fn begin(&mut self) {
        let now = self.now();
        self.node.grant_room(now);
    }

    /// Draws all that a step needs from its own generator.
    fn begin_step(&mut self, step: u32) {
        self.prng = prng_of(self.seed, step);
        let elapsed = self.elapsed;
        say(|| format!("step {step} at {elapsed:?}"));
    }

    /// One step, of the first `choices` kinds out of 100.
    fn take_step(&mut self, step: u32, choices: u64) {
        self.begin_step(step);
        let choice = self.prng.below(choices);
        self.step(choice);
        self.check();
    }

    fn now(&self) -> Now {
        let unix_ms = UNIX_MS + self.elapsed.as_millis() as u64;
        Now {
            instant: Instant::ORIGIN + self.elapsed,
            unix_ms: unix_ms.saturating_add_signed(self.set_ms),
        }
    }

    fn step(&mut self, choice: u64) {
        match choice {
            0..7 => self.come(),
            7..21 => self.speak(),
            21..23 => self.call(),
            23 => self.control(),
            24..27 => self.leave(),
            27 => self.misbehave(),
            28..31 => self.stall(),
            31..50 => {
                let now = self.now();
                self.node.receive(now, &mut self.prng);
            }
            50..60 => self.work(),
            60..74 => self.apply(),
            74..87 => self.flush(),
            87..95 => self.node.listen(&mut self.prng),
            95 => self.accept_waiting(3),
            96..98 => self.pass_time(),
            98 => self.trouble_and_note(),
            _ => {
                if self.prng.below(40) == 0 && !self.is_shut_down {
                    say(|| "the node begins to end".into());
                    self.is_shut_down = true;
                    self.tally.note("trouble: the node ends");
                    let now = self.now();
                    self.node.hub.handle_shutdown(now);
                } else {
                    self.swing_memory();
                }
            }
        }
    }

    /// What must hold after every step.
    fn check(&mut self) {
        self.node.reap();
        self.note_ends();
        self.note_kept();
        self.hear_answers();
        for (conn, room) in std::mem::take(&mut self.node.left) {
            self.left += 1;
            let at = self.log.len(&room);
            if let Some(client) = self.node.clients.iter_mut().find(|one| one.id == conn) {
                client.note_left(&room, at, self.closes_only_to_end);
            }
        }
        self.node.check_invariants();
        if self.node.has_full_worker() {
            self.tally.note("trouble: a worker is full");
        }
        self.count_refusals();
        let rooms: usize = self.node.shards.iter().map(RoomShard::rooms_len).sum();
        assert_eq!(rooms, self.budget.used(), "places of rooms");
        if self.node.hub.is_draining() {
            let websockets = self.node.hub.counters().websockets;
            assert!(
                websockets <= self.websockets,
                "a WebSocket was opened by a node that ends"
            );
            self.websockets = websockets;
        }
        // Who waits for the answer to its first command waits for a worker, and for no time.
        let is_connecting = |client: &Client| {
            client.plan.endpoint == Endpoint::Commands && !client.commands.is_connected
        };
        assert!(
            self.node.hub.poll_timeout().is_some()
                || self.node.hub.counters().websockets == 0
                || self.limits.ping_interval.is_none()
                || self.node.clients.iter().any(is_connecting),
            "no WebSocket has a timer"
        );
    }

    fn hear_answers(&mut self) {
        let about = (self.limits.history_publications_max > 0, self.is_crowded);
        loop {
            let Some((number, reply)) = self.node.hub.poll_answer() else {
                return;
            };
            say(|| format!("call {number} is answered"));
            self.backend.is_answered(number, &reply, about, &self.log);
        }
    }

    // Back ends.

    /// A back end calls.
    fn call(&mut self) {
        if self.node.hub.may_take_call() {
            let call = self.backend.call(&mut self.prng);
            self.note_listeners(&call);
            self.begin_call(call);
        }
    }

    /// A back end says what becomes of a client or a user.
    fn control(&mut self) {
        let Some(index) = self.node.pick(&mut self.prng) else {
            return;
        };
        if !self.node.hub.may_take_call() {
            return;
        }
        let prng = &mut self.prng;
        let client = &self.node.clients[index];
        let (name, target) = match &client.plan.user {
            Some(user) if prng.below(2) == 0 => {
                let id = UserId::new(user).expect("a good id");
                (user.clone(), Target::User(id))
            }
            _ => {
                let id = client.id.to_string();
                (id.clone(), Target::Client(id.into()))
            }
        };
        let channel = RoomName::new(&format!("room:{}", 1 + prng.below(3))).expect("a good name");
        let now_s = (UNIX_MS + self.elapsed.as_millis() as u64) / 1000;
        let call = match prng.below(8) {
            0 => {
                self.kicked.insert(name);
                ApiCall::Disconnect {
                    target,
                    whitelist: Vec::new(),
                    code: 3503,
                    reason: "kicked".into(),
                }
            }
            1 => {
                self.renewed.insert(name);
                let refresh = match prng.below(3) {
                    0 => Refresh::Expired,
                    1 => Refresh::Until(Some(now_s + prng.below(100))),
                    _ => Refresh::Until(None),
                };
                ApiCall::Refresh { target, refresh }
            }
            2..5 => {
                self.put_out.push((name, channel.to_string()));
                ApiCall::Unsubscribe { channel, target }
            }
            _ => {
                self.put_in.push((name, channel.to_string()));
                ApiCall::Subscribe {
                    channel,
                    target,
                    subscribe: Box::new(Subscribe::default()),
                }
            }
        };
        self.begin_call(ProgramCall::Api(call));
    }

    fn begin_call(&mut self, call: ProgramCall) {
        let number = self.backend.begin(call.clone());
        say(|| format!("call {number}: {call:?}"));
        let now = self.now();
        self.node.hub.handle_call(now, number, call);
        self.node.hand_over();
    }

    // What the shells do.

    fn work(&mut self) {
        let worker = self.prng.below(self.node.jobs.len() as u64) as usize;
        let count = 1 + self.prng.below(20) as usize;
        // A worker waits where nobody takes what it has to say.
        if !self.asleep[worker] && self.node.effects.len() < self.limits.effects_max {
            self.work_by(worker, count);
        }
    }

    /// Returns whether a worker had anything to do.
    fn work_by(&mut self, worker: usize, count: usize) -> bool {
        let now = self.now();
        let elapsed = self.elapsed;
        let limits = &self.limits;
        let Self {
            node, log, backend, ..
        } = self;
        let stamped = |entry: Entry| Entry {
            at: elapsed,
            unix_ms: now.unix_ms,
            ..entry
        };
        let mut asked: Option<(RoomName, RoomAsk)> = None;
        let done = node.work_by(now, worker, count, |work, clients| match work {
            Work::Refused => {
                log.take_back();
                if let Some((room, ask)) = asked.take() {
                    backend.is_refused(&room, &ask);
                }
            }
            Work::Job(job) => {
                log.settle();
                asked = None;
                match job {
                    Job::Publish {
                        origin,
                        room,
                        payload,
                        ..
                    } => {
                        let entry = stamped(Entry::new(payload, *origin, false));
                        log.push(room.as_str(), entry);
                    }
                    Job::Ask { room, ask, .. } => {
                        if let Some(entry) = backend.is_worked_on(room, ask, elapsed) {
                            log.push(room.as_str(), stamped(entry));
                            asked = Some((room.clone(), (**ask).clone()));
                        } else if matches!(**ask, RoomAsk::HistoryRemove) {
                            log.forget(room.as_str());
                        }
                    }
                    Job::Subscribe { conn, room, .. } => {
                        let room = room.as_str();
                        if let Some(client) = clients.iter_mut().find(|one| one.id == *conn) {
                            let since_ms = client.plan.since_ms;
                            let mut join = Join::at(room.to_owned(), log.len(room));
                            join.kept_from = log.kept_from(room, limits, elapsed);
                            join.newer_from = since_ms.map(|time| log.newer_from(room, time));
                            client.joins.push(join);
                        }
                    }
                    _ => {}
                }
            }
        });
        done > 0
    }

    fn apply(&mut self) {
        let count = 1 + self.prng.below(10) as usize;
        let now = self.now();
        self.node.apply(now, count);
        self.node.grant_room(now);
        self.look_at_memory();
    }

    fn flush(&mut self) {
        let count = 1 + self.prng.below(8) as usize;
        let now = self.now();
        self.node.flush(now, count);
    }

    fn pass_time(&mut self) {
        let span = match self.prng.below(10) {
            0 => Duration::from_secs(self.prng.below(100)),
            1..4 => Duration::from_secs(self.prng.below(4)),
            _ => Duration::from_millis(self.prng.below(60)),
        };
        self.wait(span);
    }

    fn wait(&mut self, span: Duration) {
        self.elapsed += span;
        say(|| format!("the clock goes on by {span:?}"));
        self.look_at_memory();
        let now = self.now();
        let budget = 1 + self.prng.below(50) as usize;
        self.node.expire(now, budget);
        self.look();
    }

    /// What goes wrong on a node, its clients aside. Whatever else a machine may run short of is to be
    /// one more case here.
    fn trouble(&mut self) {
        match self.prng.below(8) {
            0..3 => {
                let has_none = &mut self.node.has_no_descriptors;
                *has_none ^= true;
                let word = if *has_none { "no" } else { "some" };
                say(|| format!("there are {word} descriptors left"));
            }
            3..6 => {
                let worker = self.prng.below(self.asleep.len() as u64) as usize;
                self.asleep[worker] ^= true;
                let word = if self.asleep[worker] {
                    "sleeps"
                } else {
                    "wakes"
                };
                say(|| format!("worker {worker} {word}"));
            }
            6 if self.is_clock_set => {
                let set_ms = self.prng.below(1_200_000) as i64 - 600_000;
                self.set_ms = set_ms;
                say(|| format!("the wall clock is set to be {set_ms} ms off"));
            }
            // The machine was asleep.
            7 if self.prng.below(4) == 0 => {
                let span = Duration::from_secs(100 + self.prng.below(100_000));
                self.wait(span);
            }
            _ => self.swing_memory(),
        }
    }

    /// An operator looks at the queues.
    fn look(&mut self) {
        self.node.hub.handle_flushed(self.now().instant);
        self.node.hub.sample_queues();
        let counters = self.node.hub.counters();
        assert!(counters.backlogged <= counters.websockets as u64);
        let shown = self.node.hub.figures(self.now()).queues.len();
        assert_eq!(shown as u64, counters.backlogged.min(20));
    }
}

fn limits(prng: &mut Prng) -> Limits {
    let message_rate = one_of(prng, &[0, 0, 0, 5]) as u32;
    Limits {
        connections_max: one_of(prng, &[5, 30, 1000]),
        connections_per_ip_max: one_of(prng, &[0, 0, 3]),
        admin_connections_max: 3,
        refusals_max: 2,
        inbound_messages_max: one_of(prng, &[1, 3, 50]),
        message_bytes_max: 3000,
        message_rate,
        message_burst: 4 * message_rate,
        outbound_publications_max: one_of(prng, &[1, 2, 10, 1000]),
        outbound_bytes_max: one_of(prng, &[6000, 20_000]),
        lossy_rooms: vec![Glob::new("lossy*")],
        jobs_max: one_of(prng, &[1, 4, 100]),
        effects_max: one_of(prng, &[3, 4096]),
        api_calls_bytes_max: one_of(prng, &[64, 256, 4096]) << 10,
        api_answers_bytes_max: one_of(prng, &[1, 64]) << 20,
        batch_interval: Duration::from_millis(one_of(prng, &[0, 0, 40]) as u64),
        heartbeat_interval: (prng.below(3) == 0).then_some(Duration::from_secs(7)),
        ping_interval: (prng.below(4) != 0).then_some(Duration::from_secs(54)),
        duplicate_login: match prng.below(4) {
            0 => DuplicateLogin::Replace,
            1 => DuplicateLogin::Refuse,
            _ => DuplicateLogin::Allow,
        },
        history_publications_max: one_of(prng, &[0, 3, 20, 1000]),
        history_bytes_max: one_of(prng, &[3000, 20_000]),
        history_ttl: Duration::from_secs(one_of(prng, &[5, 3600]) as u64),
        history_memory_bytes_max: one_of(prng, &[20_000, 10 << 20]),
        drain_timeout: Duration::from_secs(one_of(prng, &[0, 2, 30]) as u64),
        ..Limits::default()
    }
}

fn one_of(prng: &mut Prng, values: &[usize]) -> usize {
    values[prng.below(values.len() as u64) as usize]
}

/// The wall clock when the world begins.
const UNIX_MS: u64 = 1_700_000_000_000;
