//! A whole node on one thread: the hub, its shards, their queues, and many clients, driven from
//! one seed with a virtual clock.
//!
//! The world plays the shells' part with every freedom they have and then some: reads and writes
//! of any size, workers that sleep, effects that wait, clocks that jump. After every step the
//! invariants are asserted, and at the end every member's ledger is balanced against the log of
//! what the shards numbered.

use std::collections::BTreeMap;
use std::time::Duration;

use roomcast::base::{
    ConnId, Delivery, DuplicateLogin, Glob, Instant, Limits, Now, Prng, RoomBudget, RoomName,
};
use roomcast::exchange::Job;
use roomcast::shard::RoomShard;

use super::backend::Backend;
use super::client::{Client, Plan, Seen, Stage};
use super::node::Node;

#[path = "drain.rs"]
mod drain;

pub(super) struct World {
    seed: u64,
    prng: Prng,
    start: Instant,
    elapsed: Duration,
    limits: Limits,
    node: Node,
    /// What was published to each room, in the order in which it was numbered.
    log: BTreeMap<String, Vec<Entry>>,
    is_traced: bool,
    backend: Backend,
    is_shut_down: bool,
    /// WebSockets at the last look at a node that ends.
    websockets: usize,
}

/// A publication in the log.
#[derive(Clone, Debug)]
struct Entry {
    payload: Vec<u8>,
    origin: ConnId,
    /// Not to be kept: for those alone who have joined before it.
    is_passing: bool,
}

impl World {
    pub(super) fn new(seed: u64, is_traced: bool) -> Self {
        let mut prng = Prng::new(seed);
        let one_of =
            |prng: &mut Prng, values: &[usize]| values[prng.below(values.len() as u64) as usize];
        let limits = Limits {
            connections_max: one_of(&mut prng, &[5, 30, 1000]),
            refusals_max: 2,
            inbound_messages_max: one_of(&mut prng, &[1, 3, 50]),
            message_bytes_max: 3000,
            outbound_publications_max: one_of(&mut prng, &[1, 2, 10, 1000]),
            outbound_bytes_max: one_of(&mut prng, &[6000, 20_000]),
            lossy_rooms: vec![Glob::new("lossy*")],
            jobs_max: one_of(&mut prng, &[1, 4, 100]),
            api_calls_bytes_max: one_of(&mut prng, &[64, 256, 4096]) << 10,
            api_answers_bytes_max: one_of(&mut prng, &[1, 64]) << 20,
            batch_interval: Duration::from_millis(one_of(&mut prng, &[0, 0, 40]) as u64),
            heartbeat_interval: (prng.below(3) == 0).then_some(Duration::from_secs(7)),
            ping_interval: (prng.below(4) != 0).then_some(Duration::from_secs(54)),
            duplicate_login: match prng.below(4) {
                0 => DuplicateLogin::Replace,
                1 => DuplicateLogin::Refuse,
                _ => DuplicateLogin::Allow,
            },
            history_publications_max: one_of(&mut prng, &[0, 3, 20, 1000]),
            history_bytes_max: one_of(&mut prng, &[3000, 20_000]),
            history_ttl: Duration::from_secs(one_of(&mut prng, &[5, 3600]) as u64),
            history_memory_bytes_max: one_of(&mut prng, &[20_000, 10 << 20]),
            drain_timeout: Duration::from_secs(one_of(&mut prng, &[0, 2, 30]) as u64),
            ..Limits::default()
        };
        limits.check().expect("the simulator's limits hold");
        let workers = one_of(&mut prng, &[1, 2, 3]);
        let start = Instant::ORIGIN;
        let budget = RoomBudget::new(1000);
        let hub_seed = prng.next_u64();
        let shards = (0..workers)
            .map(|_| {
                let now = Now {
                    instant: start,
                    unix_ms: UNIX_MS,
                };
                RoomShard::new(&limits, workers, budget.clone(), now, prng.next_u64())
            })
            .collect();
        let node = Node::new(String::new(), &limits, start, shards, hub_seed);
        Self {
            seed,
            prng,
            start,
            elapsed: Duration::ZERO,
            limits,
            node,
            log: BTreeMap::new(),
            is_traced,
            backend: Backend::default(),
            is_shut_down: false,
            websockets: usize::MAX,
        }
    }

    /// Runs `steps` steps, then lets everything come to rest and balances the books.
    pub(super) fn run(&mut self, steps: usize) {
        let now = self.now();
        self.node.grant_room(now);
        for step in 0..steps {
            let choice = self.prng.below(100);
            if self.is_traced {
                eprintln!(
                    "seed {} step {step}: choice {choice} at {:?}",
                    self.seed, self.elapsed
                );
            }
            self.step(choice);
            self.check();
        }
        self.settle();
        self.balance();
        self.end();
    }

    fn now(&self) -> Now {
        Now {
            instant: self.start + self.elapsed,
            unix_ms: UNIX_MS + self.elapsed.as_millis() as u64,
        }
    }

    fn step(&mut self, choice: u64) {
        match choice {
            0..6 => self.connect(),
            6..21 => self.node.speak(&mut self.prng),
            21..24 => self.call(),
            24..27 => self.node.leave(&mut self.prng),
            27 => self.misbehave(),
            28..31 => self.node.toggle_stall(&mut self.prng),
            31..50 => {
                let now = self.now();
                self.node.receive(now, &mut self.prng);
            }
            50..60 => self.work(),
            60..74 => self.apply(),
            74..88 => self.flush(),
            88..97 => self.node.listen(&mut self.prng),
            97..99 => self.pass_time(),
            _ => {
                if self.prng.below(40) == 0 && !self.is_shut_down {
                    self.is_shut_down = true;
                    let now = self.now();
                    self.node.hub.handle_shutdown(now);
                }
            }
        }
    }

    fn check(&mut self) {
        self.node.reap();
        while let Some((number, reply)) = self.node.hub.poll_answer() {
            let keeps_history = self.limits.history_publications_max > 0;
            let log = &self.log;
            let place = |room: &RoomName, payload: &[u8]| {
                let entries = log.get(room.as_str())?;
                let at = entries.iter().position(|entry| entry.payload == payload)?;
                Some(at as u64)
            };
            self.backend
                .is_answered(number, &reply, keeps_history, place);
        }
        self.node.check_invariants();
        if self.node.hub.is_draining() {
            let websockets = self.node.hub.counters().websockets;
            assert!(
                websockets <= self.websockets,
                "a WebSocket was opened by a node that ends"
            );
            self.websockets = websockets;
        }
        let timer = self.node.hub.poll_timeout();
        assert!(
            timer.is_some()
                || self.node.hub.counters().websockets == 0
                || self.limits.ping_interval.is_none()
        );
    }

    // What clients do.

    fn connect(&mut self) {
        let room = |prng: &mut Prng| match prng.below(4) {
            0 => "lossy:1".to_owned(),
            number => format!("room:{number}"),
        };
        let mut rooms: Vec<String> = (0..1 + self.prng.below(3))
            .map(|_| room(&mut self.prng))
            .collect();
        rooms.sort();
        rooms.dedup();
        let user = (self.prng.below(3) == 0).then(|| format!("u{}", self.prng.below(3)));
        let mut plan = Plan {
            rooms,
            to: (self.prng.below(5) == 0).then(|| format!("u{}", self.prng.below(3))),
            user,
            json: self.prng.below(2) == 0,
            echo: self.prng.below(4) != 0,
            since: Vec::new(),
            last: (self.prng.below(4) == 0).then(|| self.prng.below(12) as usize),
            is_echo_endpoint: self.prng.below(8) == 0,
        };
        if self.prng.below(3) == 0
            && let Some(index) = self.pick()
        {
            plan = self.plan_to_resume(index).unwrap_or(plan);
        }
        let now = self.now();
        if let Some(index) = self.node.connect(now, plan, &mut self.prng) {
            self.node.clients[index].is_late = self.is_shut_down;
        }
    }

    /// What a json client does that comes back: the same rooms, after what it has seen of each.
    fn plan_to_resume(&self, index: usize) -> Option<Plan> {
        let client = &self.node.clients[index];
        if !client.plan.json || client.plan.is_echo_endpoint || client.is_alive() {
            return None;
        }
        let ledgers = self.ledgers(client);
        let since: Vec<(String, String, u64)> = client
            .plan
            .rooms
            .iter()
            .filter_map(|room| {
                let ledger = ledgers.get(room)?;
                let seen = ledger.next.max(ledger.first) - 1;
                Some((room.clone(), ledger.epoch.clone(), seen))
            })
            .collect();
        let plan = Plan {
            since,
            last: None,
            echo: true,
            ..client.plan.clone()
        };
        (!plan.since.is_empty()).then_some(plan)
    }

    fn pick(&mut self) -> Option<usize> {
        self.node.pick(&mut self.prng)
    }

    /// A back end calls.
    fn call(&mut self) {
        if self.node.hub.may_take_call() {
            let (number, call) = self.backend.call(&mut self.prng);
            let now = self.now();
            self.node.hub.handle_call(now, number, call);
            self.node.hand_over();
        }
    }

    fn misbehave(&mut self) {
        let Some(index) = self.pick() else { return };
        let client = &mut self.node.clients[index];
        if client.is_sending() && self.prng.below(3) == 0 {
            client.is_abusive = true;
            let bytes: &[u8] = match self.prng.below(4) {
                0 => b"\xff\xff\xff\xff\xff\xff",
                1 => b"\x81\x02hi",
                2 => b"\x82\xff\x00\x00\x00\x7f\xff\xff\xff\xff\0\0\0\0",
                _ => b"\x80\x81\0\0\0\0x",
            };
            client.upstream.extend(bytes);
        }
    }

    // What the shells do.

    fn work(&mut self) {
        let worker = self.prng.below(self.node.jobs.len() as u64) as usize;
        let count = 1 + self.prng.below(20) as usize;
        self.work_by(worker, count);
    }

    fn work_by(&mut self, worker: usize, count: usize) {
        let now = self.now();
        let elapsed = self.elapsed;
        let Self {
            node, log, backend, ..
        } = self;
        let entry = |payload, origin, is_passing| Entry {
            payload,
            origin,
            is_passing,
        };
        node.work_by(now, worker, count, |job, clients| match job {
            Job::Publish {
                origin,
                room,
                payload,
                ..
            } => {
                let entry = entry(payload.bytes().to_vec(), *origin, false);
                log.entry(room.to_string()).or_default().push(entry);
            }
            Job::Ask { room, ask, .. } => {
                if let Some((payload, is_passing)) = backend.is_worked_on(room, ask, elapsed) {
                    let entry = entry(payload, ConnId::NONE, is_passing);
                    log.entry(room.to_string()).or_default().push(entry);
                }
            }
            Job::Subscribe { conn, room, .. } => {
                let at = log.get(room.as_str()).map_or(0, Vec::len);
                if let Some(client) = clients.iter_mut().find(|client| client.id == *conn) {
                    client.joined_at.push((room.as_str().to_owned(), at));
                }
            }
            _ => {}
        });
    }

    fn apply(&mut self) {
        let count = 1 + self.prng.below(10) as usize;
        let now = self.now();
        self.node.apply(now, count);
        self.node.grant_room(now);
    }

    fn flush(&mut self) {
        let count = 1 + self.prng.below(8) as usize;
        let now = self.now();
        self.node.flush(now, count);
    }

    fn pass_time(&mut self) {
        let elapsed = match self.prng.below(10) {
            0 => Duration::from_secs(self.prng.below(100)),
            1..4 => Duration::from_secs(self.prng.below(4)),
            _ => Duration::from_millis(self.prng.below(60)),
        };
        self.elapsed += elapsed;
        let now = self.now();
        let budget = 1 + self.prng.below(50) as usize;
        self.node.hub.handle_timeout(now, budget);
        self.node.hand_over();
        self.node.resume();
        self.look();
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

    // The end.

    /// Lets everybody read and everything be done, without a new word from anyone.
    fn settle(&mut self) {
        for client in &mut self.node.clients {
            client.is_stalled = false;
        }
        for _ in 0..100_000 {
            let now = self.now();
            let mut is_moving = false;
            for index in 0..self.node.clients.len() {
                is_moving |= self.node.read_by_server(now, index, usize::MAX);
                let before = self.node.clients[index].downstream.len();
                self.node.read_by_client(index, usize::MAX);
                is_moving |= before != self.node.clients[index].downstream.len();
            }
            for worker in 0..self.node.shards.len() {
                is_moving |= !self.node.jobs[worker].is_empty();
                self.work_by(worker, usize::MAX);
            }
            is_moving |= self.node.apply(now, usize::MAX);
            self.node.grant_room(now);
            is_moving |= self.node.flush_one(now);
            self.node.flush_all(now);
            self.check();
            let gathers = |shard: &RoomShard| {
                let soon = now.instant + Duration::from_secs(1);
                shard.poll_timeout().is_some_and(|deadline| deadline < soon)
            };
            if !is_moving && !self.node.shards.iter().any(gathers) {
                return;
            }
            self.elapsed += Duration::from_millis(5);
        }
        panic!("the world does not come to rest");
    }

    /// Every member has what it is owed.
    fn balance(&self) {
        self.backend.balance();
        for (index, client) in self.node.clients.iter().enumerate() {
            self.balance_sent(index, client);
            if client.close_code() == Some(3008) {
                assert!(
                    client.was_refused,
                    "{}: kept up and was called slow",
                    client.id
                );
            }
            if client.stage != Stage::Open {
                continue;
            }
            assert!(!client.is_late, "{}: let in by a node that ends", client.id);
            if client.is_alive() || client.close_code().is_some() {
                assert!(!client.has_partial_input(), "{}: half a frame", client.id);
            }
            if client.plan.is_echo_endpoint {
                Self::balance_echo(client);
            } else if client.plan.json {
                self.balance_json(client);
            } else {
                self.balance_raw(client);
            }
        }
    }

    /// What a client sent was numbered in the order sent; all of it if the client is still there.
    fn balance_sent(&self, index: usize, client: &Client) {
        if client.plan.is_echo_endpoint {
            return;
        }
        let prefix = self.node.prefix_of(index);
        let numbered: Vec<&[u8]> = self
            .log
            .values()
            .flatten()
            .map(|entry| &*entry.payload)
            .filter(|payload| payload.starts_with(prefix.as_bytes()))
            .collect();
        let sent: Vec<&[u8]> = client.sent.iter().map(String::as_bytes).collect();
        assert!(
            sent.starts_with(&numbered),
            "{}: sent in another order",
            client.id
        );
        if client.is_alive() || client.close_code() == Some(1000) {
            assert_eq!(
                numbered.len(),
                sent.len(),
                "{}: a message was lost",
                client.id
            );
        }
    }

    fn balance_echo(client: &Client) {
        let echoed: Vec<&[u8]> = payloads(client).collect();
        let sent: Vec<&[u8]> = client.sent.iter().map(String::as_bytes).collect();
        assert!(
            sent.starts_with(&echoed),
            "{}: echoed in another order",
            client.id
        );
        assert_ne!(
            client.close_code(),
            Some(3008),
            "{}: an echo cannot be slow",
            client.id
        );
        if client.is_alive() || client.close_code() == Some(1000) {
            assert_eq!(echoed.len(), sent.len(), "{}: an echo is lost", client.id);
        }
    }

    /// A raw member of several rooms sees their logs interleaved. Payloads are unique, so each
    /// room's part can be told apart; in a reliable room it is a run of the log from where the
    /// member joined.
    fn balance_raw(&self, client: &Client) {
        let seen: Vec<&[u8]> = payloads(client)
            .filter(|payload| *payload != b"heartbeat")
            .collect();
        let mut accounted = 0;
        for (room, at) in &client.joined_at {
            // Of the newest that it wanted first, it gets those that are still kept.
            let earliest = self.place_of_last(room, *at, client.plan.last.unwrap_or(0));
            let all = self.owed(client, room, earliest, *at);
            let got: Vec<&[u8]> = seen
                .iter()
                .copied()
                .filter(|payload| all.contains(payload))
                .collect();
            accounted += got.len();
            let first = got
                .first()
                .and_then(|first| all.iter().position(|owed| owed == first));
            let at_join = self.owed(client, room, *at, *at).len();
            let skipped = first.unwrap_or(all.len()).min(all.len() - at_join);
            let is_lossy = self.limits.delivery(room) == Delivery::Lossy;
            Self::compare(client, room, &all[skipped..], &got, is_lossy);
        }
        assert_eq!(
            accounted,
            seen.len(),
            "{}: something it was not owed",
            client.id
        );
    }

    fn compare(client: &Client, room: &str, owed: &[&[u8]], got: &[&[u8]], may_skip: bool) {
        if may_skip {
            let mut rest = owed.iter();
            for payload in got {
                assert!(
                    rest.any(|owed| owed == payload),
                    "{} {room}: out of order",
                    client.id
                );
            }
            return;
        }
        assert!(
            owed.starts_with(got),
            "{} {room}: a gap or a repetition",
            client.id
        );
        if client.must_have_all() {
            assert_eq!(
                got.len(),
                owed.len(),
                "{} {room}: the last is missing",
                client.id
            );
        }
    }

    /// What a json client saw of each room, with the offsets checked one against the next.
    fn ledgers(&self, client: &Client) -> BTreeMap<String, JsonLedger> {
        let mut rooms: BTreeMap<String, JsonLedger> = BTreeMap::new();
        for payload in payloads(client) {
            let value: serde_json::Value =
                serde_json::from_slice(payload).expect("an envelope is JSON");
            let (kind, body) = value
                .as_object()
                .and_then(|map| map.iter().next())
                .expect("a kind");
            let room = || body["room"].as_str().expect("a room").to_owned();
            match kind.as_str() {
                "joined" => {
                    let ledger = JsonLedger::joined(client, &room(), body);
                    assert!(rooms.insert(room(), ledger).is_none(), "joined twice");
                }
                "publication" => {
                    let ledger = rooms.get_mut(&room()).expect("joined comes first");
                    let offset = body["offset"].as_u64().expect("an offset");
                    ledger.publication(client, offset, &body["data"], &body["b64"]);
                }
                "skipped" => {
                    let ledger = rooms.get_mut(&room()).expect("joined comes first");
                    ledger.skipped += body["count"].as_u64().expect("a count");
                }
                "heartbeat" | "closing" => {}
                other => panic!("an unknown envelope: {other}"),
            }
        }
        rooms
    }

    fn balance_json(&self, client: &Client) {
        let ledgers = self.ledgers(client);
        for (room, at) in &client.joined_at {
            let Some(ledger) = ledgers.get(room) else {
                assert!(
                    !client.must_have_all(),
                    "{} {room}: never joined",
                    client.id
                );
                continue;
            };
            let got: Vec<&[u8]> = ledger.texts.iter().map(|text| text.as_bytes()).collect();
            let is_lossy = self.limits.delivery(room) == Delivery::Lossy;
            // The publication with offset `o` of this epoch stands in the log at `o` places behind
            // where the epoch began, which the offset at the join tells.
            let epoch_at = *at as u64 - ledger.offset_at_join;
            let first = ledger.first.min(ledger.offset_at_join + 1);
            let begins = (epoch_at + first - 1) as usize;
            let owed = self.owed(client, room, begins, *at);
            // Gone without a word, as they were meant to be.
            let passed_over = self.log.get(room).map_or(0, |log| {
                let before_join = log[begins.min(*at)..*at].iter();
                before_join.filter(|entry| entry.is_passing).count() as u64
            });
            // Who catches up with a history that is trimmed meanwhile is told what it missed of it.
            let catches_up = !client.plan.since.is_empty() || client.plan.last.is_some();
            if is_lossy || (ledger.skipped > 0 && catches_up) {
                Self::compare(client, room, &owed, &got, true);
                // What was forgotten is counted with its own, which it does not get.
                if client.must_have_all() && (client.plan.echo || !catches_up) {
                    let total = got.len() as u64 + ledger.skipped;
                    let owed_len = owed.len() as u64;
                    assert!(
                        (owed_len..=owed_len + passed_over).contains(&total),
                        "{} {room}: received + skipped is {total}, not {owed_len}",
                        client.id
                    );
                }
                continue;
            }
            Self::compare(client, room, &owed, &got, false);
            assert_eq!(
                ledger.skipped, 0,
                "{} {room}: skipped in a reliable room",
                client.id
            );
            if client.plan.echo {
                assert!(
                    ledger.gaps <= passed_over,
                    "{} {room}: a gap in the offsets",
                    client.id
                );
            }
        }
    }

    /// What a member that joined when the log stood at `joined_at` is to receive from `at` on.
    fn owed(&self, client: &Client, room: &str, at: usize, joined_at: usize) -> Vec<&[u8]> {
        let log = self.log.get(room).map_or(&[][..], Vec::as_slice);
        let drained_at = client.drained_at.as_ref();
        let until = drained_at.map_or(log.len(), |at| at.get(room).copied().unwrap_or(0));
        log.iter()
            .enumerate()
            .take(until)
            .skip(at)
            .filter(|(place, entry)| !entry.is_passing || *place >= joined_at)
            .map(|(_, entry)| entry)
            .filter(|entry| client.plan.echo || entry.origin != client.id)
            .map(|entry| &*entry.payload)
            .collect()
    }

    /// Where the newest `count` begin of those that were to be kept before `at`.
    fn place_of_last(&self, room: &str, at: usize, count: usize) -> usize {
        let log = self.log.get(room).map_or(&[][..], Vec::as_slice);
        let lasting = (0..at).rev().filter(|place| !log[*place].is_passing);
        lasting.take(count).last().unwrap_or(at)
    }

    /// Everybody leaves; nothing may stay behind.
    fn end(&mut self) {
        for client in &mut self.node.clients {
            client.has_ended = true;
        }
        self.settle();
        // Those that wait for somebody's end are given up in time.
        for _ in 0..40 {
            self.elapsed += Duration::from_secs(5);
            let now = self.now();
            self.node.hub.handle_timeout(now, usize::MAX);
            self.settle();
        }
        if self.is_shut_down {
            let now = self.now();
            assert!(self.node.hub.is_drained(), "WebSockets stay behind");
            self.node.hub.handle_end(now);
            self.node.reap();
        }
        // What is kept of rooms is forgotten in time.
        self.elapsed += Duration::from_secs(3700);
        self.settle();
        assert_eq!(
            self.node.hub.connections_len(),
            0,
            "connections stay behind"
        );
        let counters = self.node.hub.counters();
        assert_eq!((counters.members, counters.rooms), (0, 0));
        let closes: u64 = counters.closes.iter().sum();
        assert_eq!(closes, counters.accepted, "every connection has one reason");
        for shard in &self.node.shards {
            assert_eq!(shard.rooms_len(), 0, "rooms stay behind");
        }
    }
}

/// What a json member saw of one room.
#[derive(Default)]
struct JsonLedger {
    epoch: String,
    offset_at_join: u64,
    /// The first publication that it is owed.
    first: u64,
    next: u64,
    gaps: u64,
    skipped: u64,
    texts: Vec<String>,
}

impl JsonLedger {
    /// Begins with the `joined` envelope, and checks what it says of a position that was given.
    fn joined(client: &Client, room: &str, body: &serde_json::Value) -> Self {
        let offset = body["offset"].as_u64().expect("an offset");
        let lost = body["lost"].as_i64().expect("a number");
        let epoch = body["epoch"].as_str().expect("an epoch");
        assert_eq!(
            body["recovered"] == true,
            lost == 0,
            "{}: {body}",
            client.id
        );
        let mut first = offset + 1;
        if let Some((_, since_epoch, since)) =
            client.plan.since.iter().find(|(of, _, _)| of == room)
        {
            if epoch != since_epoch {
                assert_eq!(lost, -1, "{}: another epoch: {body}", client.id);
                first = 0;
            } else {
                assert!(lost >= 0 && *since <= offset, "{}: {body}", client.id);
                first = since + 1 + lost as u64;
            }
        } else if client.plan.last.is_some() {
            assert_eq!(lost, 0, "{}: {body}", client.id);
            first = 0;
        }
        Self {
            epoch: epoch.to_owned(),
            offset_at_join: offset,
            first: if first == 0 { offset + 1 } else { first },
            // Where it begins is seen with the first publication, if it cannot be told before.
            next: first,
            ..Self::default()
        }
    }

    fn publication(
        &mut self,
        client: &Client,
        offset: u64,
        data: &serde_json::Value,
        b64: &serde_json::Value,
    ) {
        if self.next == 0 {
            // Its own publications, which it does not get, or skipped ones may stand where it
            // became live.
            let may_begin_later = !client.plan.echo || self.skipped > 0;
            let is_whole = offset <= self.offset_at_join + 1 || may_begin_later;
            assert!(is_whole, "{}: a gap at the join", client.id);
            let begins = offset.saturating_sub(self.skipped);
            self.first = begins.min(self.offset_at_join + 1);
            self.next = offset;
        }
        assert!(
            offset >= self.next,
            "{}: offset {offset} came back",
            client.id
        );
        self.gaps += offset - self.next;
        self.next = offset + 1;
        let text = match (data.as_str(), b64.as_str()) {
            (Some(text), None) => text.to_owned(),
            (None, Some(b64)) => {
                use base64::Engine as _;
                let bytes = base64::engine::general_purpose::STANDARD
                    .decode(b64)
                    .expect("binary is in base64");
                String::from_utf8(bytes).expect("the simulator sends text")
            }
            _ => panic!("data or b64"),
        };
        self.texts.push(text);
    }
}

fn payloads(client: &Client) -> impl Iterator<Item = &[u8]> {
    client.seen.iter().filter_map(|seen| match seen {
        Seen::Message { payload, .. } => Some(&payload[..]),
        _ => None,
    })
}

/// The wall clock when the world begins.
const UNIX_MS: u64 = 1_700_000_000_000;
