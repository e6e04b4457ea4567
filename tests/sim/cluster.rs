//! Several nodes and a broker on one thread: what clients and back ends do, what goes wrong, and the
//! books at the end.
//!
//! A *calm* seed loses connections, answers and announcements, and restarts the broker with all that
//! it had, but no data: there nobody may notice anything.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use roomcast::base::{Glob, Instant, Limits, Now, Prng, RoomBudget, RoomName};
use roomcast::cluster::{Event, NodeId};
use roomcast::exchange::Effect;
use roomcast::hub::{Gate, ProgramCall, ProgramReply};
use roomcast::shard::RoomShard;
use roomcast::wire::api::answer::ApiResult;
use roomcast::wire::api::{ApiCall, ApiCode, Publish};
use roomcast::wire::frame::Payload;

use super::broker::Broker;
use super::broker::log::Place;
use super::broker::room::Keeps;
use super::client::{Client, Join, Seen, Stage};
use super::ledger::Session;
use super::node::Node;
use super::plan::Plan;
use super::runner::prng_of;
use super::tally::Tally;
use super::trace::say;

#[path = "cluster_rest.rs"]
mod rest;
#[path = "cluster_trouble.rs"]
mod trouble;

pub(crate) struct Cluster {
    seed: u64,
    prng: Prng,
    start: Instant,
    elapsed: Duration,
    limits: Limits,
    wait: Duration,
    is_calm: bool,
    broker: Broker,
    nodes: Vec<Server>,
    /// Those that have died, with their clients.
    dead: Vec<Server>,
    started: u64,
    calls: u64,
    /// Where back ends were told that a publication is.
    acknowledged: Vec<(Vec<u8>, Place)>,
    keyed: BTreeMap<(String, String), Place>,
    last_keyed: Option<ApiCall>,
    pub(crate) figures: Figures,
    pub(crate) tally: Tally,
}

/// What has happened, to see that it has.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Figures {
    pub(crate) publications: u64,
    pub(crate) received: u64,
    pub(crate) told_lost: u64,
    pub(crate) restarts: u64,
    pub(crate) insufficient: u64,
    pub(crate) broker_gone: u64,
    pub(crate) resumed: u64,
    pub(crate) torn: u64,
    /// Offsets of torn epochs that members saw with two contents.
    pub(crate) conflicts: u64,
    /// Joins and leaves that were told on more than one node.
    pub(crate) told_widely: u64,
}

impl Figures {
    /// Each with its name.
    pub(crate) fn named(&self) -> [(&'static str, u64); 10] {
        [
            ("publications", self.publications),
            ("received", self.received),
            ("told lost", self.told_lost),
            ("restarts", self.restarts),
            ("insufficient", self.insufficient),
            ("broker gone", self.broker_gone),
            ("resumed", self.resumed),
            ("torn", self.torn),
            ("conflicts", self.conflicts),
            ("told widely", self.told_widely),
        ]
    }
}

impl std::ops::AddAssign for Figures {
    fn add_assign(&mut self, more: Self) {
        self.publications += more.publications;
        self.received += more.received;
        self.told_lost += more.told_lost;
        self.restarts += more.restarts;
        self.insufficient += more.insufficient;
        self.broker_gone += more.broker_gone;
        self.resumed += more.resumed;
        self.torn += more.torn;
        self.conflicts += more.conflicts;
        self.told_widely += more.told_widely;
    }
}

/// One node and what is on its way to it.
pub(crate) struct Server {
    id: NodeId,
    pub(crate) node: Node,
    events: Vec<VecDeque<Event>>,
    /// Calls that are not answered.
    open_calls: BTreeMap<u64, ApiCall>,
    pub(crate) is_dead: bool,
}

impl Cluster {
    pub(crate) fn new(seed: u64) -> Self {
        let mut prng = prng_of(seed, u32::MAX);
        let one_of =
            |prng: &mut Prng, values: &[usize]| values[prng.below(values.len() as u64) as usize];
        let is_calm = prng.below(3) == 0;
        let history_publications_max = match is_calm {
            true => 1000,
            false => one_of(&mut prng, &[0, 3, 20, 1000]),
        };
        let limits = Limits {
            inbound_messages_max: one_of(&mut prng, &[3, 50]),
            message_bytes_max: 3000,
            outbound_publications_max: one_of(&mut prng, &[2, 10, 1000]),
            outbound_bytes_max: one_of(&mut prng, &[6000, 200_000]),
            lossy_rooms: vec![Glob::new("lossy*")],
            jobs_max: one_of(&mut prng, &[20, 100]),
            batch_interval: Duration::from_millis(one_of(&mut prng, &[0, 0, 40]) as u64),
            ping_interval: None,
            // No join may last so long that it would be ended for that.
            handshake_timeout: Duration::from_secs(120),
            heartbeat_interval: (prng.below(3) == 0).then_some(Duration::from_secs(7)),
            history_publications_max,
            history_bytes_max: match is_calm {
                true => 10 << 20,
                false => one_of(&mut prng, &[3000, 20_000]),
            },
            history_ttl: match is_calm {
                true => Duration::from_secs(36_000),
                false => Duration::from_secs(one_of(&mut prng, &[5, 3600]) as u64),
            },
            history_memory_bytes_max: match is_calm {
                true => 100 << 20,
                false => one_of(&mut prng, &[20_000, 1 << 20]),
            },
            ..Limits::default()
        };
        limits.check().expect("the simulator's limits hold");
        let keeps = Keeps {
            publications_max: limits.history_publications_max,
            bytes_max: limits.history_bytes_max,
            ttl: limits.history_ttl,
        };
        let lost_one_in = [0, 0, 10][prng.below(3) as usize];
        let broker = Broker::new(keeps, lost_one_in, prng.next_u64());
        let nodes_len = 2 + prng.below(2);
        let mut cluster = Self {
            seed,
            prng,
            start: Instant::ORIGIN,
            elapsed: Duration::ZERO,
            limits,
            wait: Duration::from_secs(2),
            is_calm,
            broker,
            nodes: Vec::new(),
            dead: Vec::new(),
            started: 0,
            calls: 0,
            acknowledged: Vec::new(),
            keyed: BTreeMap::new(),
            last_keyed: None,
            figures: Figures::default(),
            tally: Tally::new(),
        };
        for _ in 0..nodes_len {
            cluster.start_node();
        }
        cluster
    }

    /// Does these steps, then brings everything back, lets it come to rest and balances the books.
    pub(crate) fn run(&mut self, steps: &[u32]) {
        for at in 0..self.nodes.len() {
            for _ in 0..3 {
                self.connect(at);
            }
        }
        for step in steps {
            self.begin_step(*step);
            let choice = self.prng.below(100);
            self.step(choice);
            self.check();
        }
        self.begin_step(u32::MAX - 1);
        self.settle();
        self.balance();
        self.end();
    }

    /// Draws all that a step needs from its own generator.
    fn begin_step(&mut self, step: u32) {
        self.prng = prng_of(self.seed, step);
        let elapsed = self.elapsed;
        say(|| format!("step {step} at {elapsed:?}"));
    }

    fn now(&self) -> Now {
        Now {
            instant: self.start + self.elapsed,
            unix_ms: UNIX_MS + self.elapsed.as_millis() as u64,
        }
    }

    fn start_node(&mut self) {
        self.started += 1;
        let id = NodeId(self.started);
        let shards_len = 1 + self.prng.below(2) as usize;
        let now = self.now();
        let budget = RoomBudget::new(1000);
        let shards =
            (0..shards_len)
                .map(|index| {
                    let seed = self.prng.next_u64();
                    RoomShard::new(&self.limits, shards_len, budget.clone(), now, seed)
                        .join_cluster(now, id, (index, shards_len), self.wait)
                })
                .collect();
        let name = format!("n{}:", id.0);
        let seed = self.prng.next_u64();
        let mut node = Node::new(
            name,
            &self.limits,
            Gate::default(),
            now.instant,
            shards,
            seed,
        );
        node.grant_room(now);
        self.broker.add_node(id, shards_len);
        self.nodes.push(Server {
            id,
            node,
            events: (0..shards_len).map(|_| VecDeque::new()).collect(),
            open_calls: BTreeMap::new(),
            is_dead: false,
        });
    }

    fn pick(&mut self) -> usize {
        self.prng.below(self.nodes.len() as u64) as usize
    }

    fn step(&mut self, choice: u64) {
        let at = self.pick();
        let (server, prng) = (&mut self.nodes[at], &mut self.prng);
        match choice {
            0..6 => self.connect(at),
            6..12 => {
                for _ in 0..3 {
                    server.node.speak(prng);
                }
            }
            12..16 => self.call(at),
            16..19 => self.tally.note_deed(server.node.leave(prng)),
            19..21 => self.tally.note_deed(server.node.toggle_stall(prng)),
            21..26 => self.take_part(at),
            26..88 => self.turn_partly(at),
            88..95 => self.pass_time(),
            _ => self.make_trouble(at),
        }
    }

    /// Somewhere between clients and broker, something goes on.
    fn take_part(&mut self, at: usize) {
        let now = self.now();
        let (server, prng) = (&mut self.nodes[at], &mut self.prng);
        match prng.below(8) {
            0 => server.node.receive(now, prng),
            1 => {
                let worker = prng.below(server.events.len() as u64) as usize;
                let count = 1 + prng.below(20) as usize;
                self.work(at, worker, count);
            }
            2 => self.listen(at),
            3 => {
                for _ in 0..1 + prng.below(20) {
                    self.broker
                        .carry_out(self.nodes[at].id, now, &mut self.prng);
                }
            }
            4 => {
                let count = 1 + prng.below(8);
                self.deliver(at, count, true);
            }
            5 => {
                let count = 1 + prng.below(8);
                self.deliver(at, count, false);
            }
            6 => {
                let count = 1 + prng.below(10) as usize;
                self.apply(at, count);
            }
            _ => {
                let count = 1 + prng.below(8) as usize;
                server.node.flush(now, count);
                for _ in 0..4 {
                    server.node.listen(prng);
                }
            }
        }
    }

    /// Several such things, on one node.
    fn turn_partly(&mut self, at: usize) {
        for _ in 0..1 + self.prng.below(24) {
            self.take_part(at);
        }
    }

    // What clients do.

    fn connect(&mut self, at: usize) {
        let prng = &mut self.prng;
        let room = |prng: &mut Prng| ROOMS[prng.below(ROOMS.len() as u64) as usize].to_owned();
        let mut rooms: Vec<String> = (0..1 + prng.below(2)).map(|_| room(prng)).collect();
        rooms.sort();
        rooms.dedup();
        let mut plan = Plan {
            rooms,
            json: prng.below(2) == 0,
            gzip: prng.below(3) == 0,
            mutes_own: prng.below(4) == 0,
            last: (prng.below(5) == 0).then(|| prng.below(12) as usize),
            ..Plan::default()
        };
        for _ in 0..self.prng.below(4) {
            if let Some(resume) = self.plan_to_resume() {
                plan = resume;
                self.figures.resumed += 1;
                break;
            }
        }
        let now = self.now();
        self.nodes[at].node.connect(now, plan, &mut self.prng);
    }

    /// What a client does that comes back, on whatever node, after what it has seen.
    fn plan_to_resume(&mut self) -> Option<Plan> {
        let servers: Vec<&Server> = self.nodes.iter().chain(&self.dead).collect();
        let server = servers[self.prng.below(servers.len() as u64) as usize];
        let index = server.node.pick(&mut self.prng)?;
        let client = &server.node.clients[index];
        if !server.is_dead && client.is_alive() || client.stage != Stage::Open {
            return None;
        }
        let since = Session::of(server, index, &self.broker.log).positions();
        if since.is_empty() {
            return None;
        }
        Some(Plan {
            since,
            last: None,
            ..client.plan.clone()
        })
    }

    /// A back end calls.
    fn call(&mut self, at: usize) {
        let prng = &mut self.prng;
        if !self.nodes[at].node.hub.may_take_call() {
            return;
        }
        self.calls += 1;
        let number = self.calls;
        let name = ROOMS[prng.below(ROOMS.len() as u64) as usize];
        let channel = RoomName::new(name).expect("a good name");
        let publish = Publish {
            payload: Payload::text(format!("<api/{number}>").into()),
            idempotency_key: None,
            skip_history: !self.is_calm && prng.below(4) == 0,
        };
        let call = match prng.below(12) {
            0 => ApiCall::History {
                channel,
                limit: 5,
                since: None,
                reverse: prng.below(2) == 0,
            },
            1 if !self.is_calm => ApiCall::HistoryRemove { channel },
            2 => ApiCall::PresenceStats { channel },
            3 | 4 if self.last_keyed.is_some() => self.last_keyed.clone().expect("looked at"),
            3..7 => {
                let publish = Publish {
                    idempotency_key: Some(format!("k{number}").into()),
                    ..publish
                };
                let call = ApiCall::Publish { channel, publish };
                self.last_keyed = Some(call.clone());
                call
            }
            _ => ApiCall::Publish { channel, publish },
        };
        let now = self.now();
        let server = &mut self.nodes[at];
        server.open_calls.insert(number, call.clone());
        server
            .node
            .hub
            .handle_call(now, number, ProgramCall::Api(call));
        server.node.hand_over();
    }

    fn is_answered(&mut self, at: usize, number: u64, reply: &ProgramReply) {
        let call = self.nodes[at].open_calls.remove(&number);
        let call = call.unwrap_or_else(|| panic!("call {number} was answered twice"));
        let ProgramReply::Typed(reply) = reply else {
            panic!("{call:?} was answered with {reply:?}");
        };
        match (&call, reply) {
            (ApiCall::Publish { channel, publish }, Ok(ApiResult::Published(position))) => {
                let place = Place {
                    room: channel.to_string(),
                    epoch: position.epoch.to_string(),
                    offset: position.offset.0,
                };
                let payload = publish.payload.bytes().to_vec();
                let logged = self.broker.log.at(&place.room, &place.epoch, place.offset);
                assert!(
                    logged.iter().any(|logged| logged.payload == payload),
                    "{call:?} is not at {place:?}"
                );
                if let Some(key) = &publish.idempotency_key
                    && self.is_calm
                {
                    let key = (place.room.clone(), key.to_string());
                    let before = self.keyed.entry(key).or_insert_with(|| place.clone());
                    assert_eq!(*before, place, "one key, two publications");
                }
                self.acknowledged.push((payload, place));
            }
            (ApiCall::History { .. } | ApiCall::HistoryRemove { .. }, reply) => match reply {
                Ok(ApiResult::History { publications, .. }) => assert!(publications.len() <= 5),
                Ok(ApiResult::Done) | Err(ApiCode::Internal) => {}
                Err(ApiCode::NotAvailable) => assert_eq!(self.limits.history_publications_max, 0),
                other => panic!("{call:?} was answered with {other:?}"),
            },
            (ApiCall::PresenceStats { .. }, Ok(ApiResult::PresenceStats { .. }))
            | (ApiCall::Publish { .. }, Err(ApiCode::Internal)) => {}
            (call, reply) => panic!("{call:?} was answered with {reply:?}"),
        }
    }

    // What the shells do.

    fn work(&mut self, at: usize, worker: usize, count: usize) {
        let now = self.now();
        self.nodes[at].node.work_by(now, worker, count, |_, _| {});
        self.ask_broker(at, worker);
    }

    /// A worker hears events of its inbox.
    fn listen(&mut self, at: usize) {
        let server = &self.nodes[at];
        let worker = self.prng.below(server.events.len() as u64) as usize;
        let count = 1 + self.prng.below(12) as usize;
        self.hear(at, worker, count);
    }

    fn hear(&mut self, at: usize, worker: usize, count: usize) {
        let now = self.now();
        let server = &mut self.nodes[at];
        for _ in 0..count {
            let Some(event) = server.events[worker].pop_front() else {
                break;
            };
            let id = server.id.0;
            say(|| format!("node {id} worker {worker} hears {event:?}"));
            server.node.shards[worker].handle_event(now, event);
            server.node.shards[worker].check_invariants();
        }
        server.node.shards[worker].handle_timeout(now);
        server.node.collect(worker);
        self.ask_broker(at, worker);
    }

    fn ask_broker(&mut self, at: usize, worker: usize) {
        let server = &mut self.nodes[at];
        while let Some(request) = server.node.shards[worker].poll_request() {
            let id = server.id.0;
            say(|| format!("node {id} worker {worker} asks {request:?}"));
            self.broker.ask(server.id, request);
        }
    }

    /// Returns whether anything arrived.
    fn deliver(&mut self, at: usize, count: u64, is_feed: bool) -> bool {
        let server = &mut self.nodes[at];
        for delivered in 0..count {
            let arrived = match is_feed {
                true => self.broker.deliver_feed(server.id),
                false => {
                    let answer = self.broker.deliver_answer(server.id);
                    answer.map(|(shard, event)| (Some(shard), event))
                }
            };
            match arrived {
                None => return delivered > 0,
                Some((Some(shard), event)) => server.events[shard].push_back(event),
                Some((None, event)) => {
                    for events in &mut server.events {
                        events.push_back(event.clone());
                    }
                }
            }
        }
        true
    }

    fn apply(&mut self, at: usize, count: usize) -> bool {
        let now = self.now();
        let server = &mut self.nodes[at];
        let mut is_moving = false;
        for _ in 0..count {
            if let Some(Effect::Joined {
                conn, room, offset, ..
            }) = server.node.effects.front()
            {
                let mut clients = server.node.clients.iter_mut();
                if let Some(client) = clients.find(|client| client.id == *conn) {
                    let join = Join::at(room.to_string(), offset.0 as usize);
                    client.joins.push(join);
                }
            }
            if !server.node.apply(now, 1) {
                break;
            }
            is_moving = true;
        }
        server.node.grant_room(now);
        is_moving
    }

    fn pass_time(&mut self) {
        self.elapsed += match self.prng.below(60) {
            0 => Duration::from_secs(self.prng.below(40)),
            1..4 => Duration::from_millis(self.prng.below(2500)),
            _ => Duration::from_millis(self.prng.below(30)),
        };
        // Nothing is away for long.
        if self.prng.below(4) == 0 {
            self.broker.go_on();
        }
        for at in 0..self.nodes.len() {
            let node = self.nodes[at].id;
            if self.prng.below(3) == 0 {
                self.broker.reconnect(node, &mut self.prng);
            }
            if self.prng.below(6) == 0 {
                self.broker.cut(node, false, &mut self.prng);
            }
        }
        self.expire();
    }

    fn expire(&mut self) {
        let now = self.now();
        for server in &mut self.nodes {
            server.node.expire(now, usize::MAX);
        }
    }

    // What must hold.

    fn check(&mut self) {
        for at in 0..self.nodes.len() {
            let now = self.now();
            self.nodes[at].node.reap();
            self.nodes[at].node.note_ends(now);
            while let Some((number, reply)) = self.nodes[at].node.hub.poll_answer() {
                self.is_answered(at, number, &reply);
            }
            let server = &self.nodes[at];
            server.node.check_invariants();
            // Of each room no more than a few requests wait beside those of jobs: what was read
            // before the feed was lost, beats, and comings and goings.
            let jobs: usize = server.node.shards.iter().map(RoomShard::open_jobs).sum();
            let open = self.broker.open_requests(server.id);
            assert!(
                open <= 2 * jobs + REQUESTS_MAX,
                "node {}: {open} requests wait, for {jobs} jobs",
                server.id.0
            );
        }
    }
}

impl Server {
    /// Whether a client is still served.
    pub(crate) fn serves(&self, client: &Client) -> bool {
        !self.is_dead && client.is_alive()
    }

    pub(crate) fn name(&self, index: usize) -> String {
        format!("node {} client {index}", self.id.0)
    }

    pub(crate) fn number(&self) -> u64 {
        self.id.0
    }
}

/// What a client was sent, pings and the like aside.
pub(crate) fn payloads(client: &Client) -> impl Iterator<Item = &[u8]> {
    client.seen.iter().filter_map(|seen| match seen {
        Seen::Message { payload, .. } => Some(&payload[..]),
        _ => None,
    })
}

/// The rooms of this world.
const ROOMS: [&str; 4] = ["lossy:1", "room:1", "room:2", "room:3"];

/// How many requests may wait at one node that nobody waits for.
const REQUESTS_MAX: usize = 200;

/// The wall clock when the world begins.
const UNIX_MS: u64 = 1_700_000_000_000;
