//! A whole node on one thread: the bytes of several clients, in any interleaving and with reads and
//! writes of any size, into a hub with two shards.
//!
//! After every step the invariants are asserted; what each client receives is read by a decoder of
//! its own; in the end every connection is gone, with one reason each.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::net::SocketAddr;
use std::time::Duration;

use roomcast::base::{CloseReason, ConnId, Glob, Instant, Limits, Now, Prng, RoomBudget, Secret};
use roomcast::exchange::{Effect, Job};
use roomcast::hub::{Gate, Hub, Inquiry, NodeFigures, Reading, SocketAction, Written};
use roomcast::shard::RoomShard;

use super::input::Input;
use client::Client;

mod client;

/// A byte gives the bounds; then each byte is a step, with what it needs behind it.
pub fn check(data: &[u8]) {
    let mut input = Input(data);
    let mut node = Node::new(input.byte());
    node.grant_room();
    while !input.is_empty() {
        node.step(&mut input);
        node.check();
    }
    node.end();
}

/// Requests that lead somewhere, so that the fuzzer need not find them first. Each begins a
/// connection; those behind `ADMIN_FROM` are for the admin listener.
const HEADS: [&str; 18] = [
    "GET /ws?room=a HTTP/1.1\r\nHost: x\r\nUPGRADE\r\n",
    "GET /ws?room=a&room=lossy&user=al&format=json&last=3 HTTP/1.1\r\nHost: x\r\nUPGRADE\r\n",
    "GET /ws?user=al&to=bo&echo=0&gzip=1 HTTP/1.1\r\nHost: x\r\nUPGRADE\r\n",
    "GET /ws?room=a&since=a@k3Xa9.2&format=json HTTP/1.1\r\nHost: x\r\nUPGRADE\r\n",
    "GET /ws?room=$a HTTP/1.1\r\nHost: x\r\nOrigin: http://x\r\nUPGRADE\r\n",
    "GET /echo HTTP/1.1\r\nHost: x\r\nUPGRADE\r\n",
    "GET /connection/websocket HTTP/1.1\r\nHost: x\r\nUPGRADE\r\n",
    "GET /connection/websocket HTTP/1.1\r\nHost: x\r\nUPGRADE\r\n",
    "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /nothing HTTP/1.1\r\nHost: x\r\n\r\n",
    "",
    "GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "POST /api/publish HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 33\r\n\r\n\
     {\"channel\":\"a\",\"data\":\"from api\"}  ",
    "POST /api/disconnect HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 13\r\n\r\n{\"user\":\"al\"}",
    "POST /api/batch HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n40\r\n\
     {\"commands\":[{\"info\":{}},{\"channels\":{}},{\"presence\":{\"channel\":\r\n7\r\n\"a\"}}]}\
     \r\n0\r\n\r\n",
    "POST /api/history HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 26\r\n\r\n\
     {\"channel\":\"a\",\"limit\":10}",
    "POST /api/broadcast HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 41\r\n\r\n\
     {\"channels\":[\"a\",\"lossy\"],\"data\":{\"b\":1}}",
];
const ADMIN_FROM: usize = 11;

const UPGRADE: &str = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// Text messages that mean something.
const TEXTS: [&str; 16] = [
    "hello",
    r#"{"id":1,"connect":{}}"#,
    r#"{"id":1,"connect":{"name":"js","subs":{"a":{"recover":true,"epoch":"x","offset":1}}}}"#,
    r#"{"id":2,"subscribe":{"channel":"a"}}"#,
    r#"{"id":2,"subscribe":{"channel":"lossy","recover":true,"epoch":"x","offset":0,"join_leave":true}}"#,
    r##"{"id":2,"subscribe":{"channel":"#al"}}"##,
    r#"{"id":3,"publish":{"channel":"a","data":{"text":"hi"}}}"#,
    r#"{"id":3,"publish":{"channel":"b","data":"not there"}}"#,
    r#"{"id":4,"presence":{"channel":"a"}}"#,
    r#"{"id":4,"presence_stats":{"channel":"a"}}"#,
    r#"{"id":5,"history":{"channel":"a","limit":10}}"#,
    r#"{"id":6,"unsubscribe":{"channel":"a"}}"#,
    r#"{"id":7,"rpc":{"method":"x"}}"#,
    "{}",
    "{\"id\":8,\"ping\":{}}\n{\"id\":9,\"refresh\":{\"token\":\"x\"}}\n",
    r#"{"id":10,"sub_refresh":{"channel":"a","token":"x"}}"#,
];

const MEMORY_BYTES_MAX: usize = 16 << 20;
const WORKERS: usize = 2;
const CLIENTS_MAX: usize = 24;

struct Node {
    limits: Limits,
    hub: Hub<usize>,
    shards: Vec<RoomShard>,
    jobs: Vec<VecDeque<Job>>,
    effects: VecDeque<Effect>,
    clients: Vec<Client>,
    elapsed: Duration,
    is_shut_down: bool,
}

impl Node {
    fn new(options: u8) -> Self {
        let is_tight = options & 1 != 0;
        let limits = Limits {
            connections_max: if is_tight { 3 } else { 100 },
            refusals_max: 2,
            inbound_messages_max: if is_tight { 2 } else { 50 },
            message_bytes_max: 600,
            outbound_publications_max: if is_tight { 2 } else { 100 },
            outbound_bytes_max: 4000,
            lossy_rooms: vec![Glob::new("lossy*")],
            jobs_max: if options & 2 != 0 { 1 } else { 50 },
            rooms_per_connection_max: 3,
            rooms_max: 6,
            heartbeat_interval: (options & 4 != 0).then_some(Duration::from_secs(7)),
            batch_interval: Duration::from_millis(if options & 8 != 0 { 40 } else { 0 }),
            history_publications_max: if options & 16 != 0 { 0 } else { 5 },
            history_bytes_max: 2000,
            history_ttl: Duration::from_secs(20),
            history_memory_bytes_max: 8000,
            message_rate: if is_tight { 5 } else { 0 },
            message_burst: 10,
            api_body_bytes_max: 1000,
            drain_timeout: Duration::from_secs(2),
            memory_bytes_max: Some(MEMORY_BYTES_MAX),
            ..Limits::default()
        };
        limits.check().expect("the bounds hold");
        let gate = Gate {
            token_secret: (options & 32 != 0).then(|| Secret::new(b"a secret of some length")),
            trusted_proxies: match options & 64 {
                0 => Vec::new(),
                _ => vec!["127.0.0.1".parse().expect("an address")],
            },
            ..Gate::default()
        };
        let start = Now {
            instant: Instant::ORIGIN,
            unix_ms: UNIX_MS,
        };
        let budget = RoomBudget::new(limits.rooms_max);
        let mut prng = Prng::new(options.into());
        let shards = (0..WORKERS)
            .map(|_| RoomShard::new(&limits, WORKERS, budget.clone(), start, prng.next_u64()))
            .collect();
        let mut hub = Hub::new(
            limits.clone(),
            gate,
            WORKERS,
            start.instant,
            prng.next_u64(),
        );
        hub.want_events();
        Self {
            limits,
            hub,
            shards,
            jobs: (0..WORKERS).map(|_| VecDeque::new()).collect(),
            effects: VecDeque::new(),
            clients: Vec::new(),
            elapsed: Duration::ZERO,
            is_shut_down: false,
        }
    }

    fn now(&self) -> Now {
        Now {
            instant: Instant::ORIGIN + self.elapsed,
            unix_ms: UNIX_MS + self.elapsed.as_millis() as u64,
        }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.byte() % 24 {
            0 | 1 => self.connect(input),
            2 | 3 => {
                let len = usize::from(input.byte());
                let bytes = input.take(len);
                if let Some(client) = self.pick(input) {
                    client.send(bytes);
                }
            }
            4..7 => {
                let head = input.byte();
                let len = usize::from(input.byte());
                let payload = input.take(len);
                if let Some(client) = self.pick(input) {
                    client.send_frame(head, payload);
                }
            }
            7 | 8 => {
                let text = input.one_of(&TEXTS);
                if let Some(client) = self.pick(input) {
                    client.send_frame(0x81, text.as_bytes());
                }
            }
            9..13 => {
                let len = match input.byte() {
                    255 => usize::MAX,
                    byte => usize::from(byte),
                };
                let index = usize::from(input.byte());
                if !self.clients.is_empty() {
                    self.read_from(index % self.clients.len(), len);
                }
            }
            13 | 14 => {
                let how = input.byte();
                self.work(usize::from(how) % WORKERS, 1 + usize::from(how / 32));
            }
            15 | 16 => {
                let count = usize::from(input.byte() % 16);
                self.apply(count);
            }
            17 | 18 => {
                let count = usize::from(input.byte() % 16);
                for _ in 0..count {
                    self.flush_one();
                }
                self.hand_over();
            }
            19 => {
                let index = usize::from(input.byte());
                if !self.clients.is_empty() {
                    self.client_reads(index % self.clients.len());
                }
            }
            20 => {
                let how = input.byte();
                if let Some(client) = self.pick(input) {
                    match how % 3 {
                        0 => client.has_ended = true,
                        1 => client.is_reset = true,
                        _ => client.room = usize::from(how),
                    }
                }
            }
            21 => {
                self.round();
            }
            22 => {
                let how = u64::from(input.byte());
                self.elapsed += Duration::from_millis(how * how);
                let now = self.now();
                self.hub.handle_timeout(now, 1 + how as usize);
            }
            _ => match input.byte() {
                0 if !self.is_shut_down => {
                    self.is_shut_down = true;
                    let now = self.now();
                    self.hub.handle_shutdown(now);
                }
                1 => {
                    let used = u64::from(input.byte()) * MEMORY_BYTES_MAX as u64 / 250;
                    let now = self.now();
                    self.hub.handle_memory(now, used);
                }
                _ => self.grant_room(),
            },
        }
    }

    fn check(&mut self) {
        while let Some((index, farewell)) = self.told(Hub::poll_closed) {
            let client = &mut self.clients[index];
            assert_eq!(client.id, farewell.id);
            assert!(!client.is_gone, "{}: reaped twice", client.id);
            client.is_gone = true;
        }
        while self.hub.poll_event().is_some() {}
        while self.hub.poll_malformed_proxy().is_some() {}
        self.answer_inquiries();
        self.hand_over();
        self.hub.check_invariants();
        for (shard, jobs) in self.shards.iter().zip(&self.jobs) {
            shard.check_invariants();
            let open = jobs.len() + shard.open_jobs();
            assert!(open <= self.limits.jobs_max, "too many jobs");
        }
    }

    fn answer_inquiries(&mut self) {
        let now = self.now();
        while let Some(inquiry) = self.hub.poll_inquiry() {
            match inquiry {
                Inquiry::Node(part) => {
                    let figures = NodeFigures {
                        uid: "1".into(),
                        name: "node".into(),
                        cpu_percent: 0.5,
                        rss_bytes: 1,
                    };
                    self.hub.handle_node(now, part, &figures);
                }
                Inquiry::Metrics(id) | Inquiry::Loop(id) => {
                    self.hub.handle_report(now, id, "text/plain", "a report\n");
                }
            }
        }
    }

    fn pick(&mut self, input: &mut Input<'_>) -> Option<&mut Client> {
        let index = usize::from(input.byte());
        let len = self.clients.len().max(1);
        self.clients.get_mut(index % len)
    }

    fn connect(&mut self, input: &mut Input<'_>) {
        let how = usize::from(input.byte());
        if self.clients.len() == CLIENTS_MAX {
            return;
        }
        let place = how % HEADS.len();
        let peer = SocketAddr::from(([127, 0, 0, 1 + (how / 64) as u8], 1000));
        let index = self.clients.len();
        let now = self.now();
        let is_admin = place >= ADMIN_FROM;
        if let Ok(id) = self.hub.handle_accept(now, is_admin, peer, index) {
            let head = HEADS[place].replace("UPGRADE\r\n", &format!("{UPGRADE}\r\n"));
            let mut client = Client::new(id);
            client.send(head.as_bytes());
            self.clients.push(client);
        }
    }

    /// Returns whether anything happened.
    fn read_from(&mut self, index: usize, len: usize) -> bool {
        let now = self.now();
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
            if client.has_ended && client.upstream.is_empty() {
                // The end of a stream is seen once.
                client.is_paused = true;
                self.hub.handle_eof(client.id, CloseReason::Gone);
                return true;
            }
            return false;
        }
        let bytes: Vec<u8> = client.upstream.drain(..len).collect();
        let reading = self.hub.handle_bytes(now, client.id, &bytes);
        client.is_paused = reading != Reading::Continue;
        self.hand_over();
        true
    }

    /// What the hub has for the shell, which asks only if it knows that there is something.
    fn told<T>(&mut self, poll: impl FnOnce(&mut Hub<usize>) -> Option<T>) -> Option<T> {
        let is_known = self.hub.has_backlog();
        let found = poll(&mut self.hub);
        assert!(is_known || found.is_none(), "nobody was told of it");
        found
    }

    fn hand_over(&mut self) {
        while let Some((worker, job)) = self.told(Hub::poll_job) {
            self.jobs[worker].push_back(job);
        }
        while let Some(id) = self.told(Hub::poll_resumed) {
            if let Some(index) = self.hub.socket_mut(id).copied() {
                self.clients[index].is_paused = false;
            }
        }
    }

    fn grant_room(&mut self) {
        let now = self.now();
        for worker in 0..WORKERS {
            let open = self.jobs[worker].len() + self.shards[worker].open_jobs();
            let room = self.limits.jobs_max.saturating_sub(open);
            self.hub.handle_room(now, worker, room);
        }
        self.hand_over();
    }

    fn work(&mut self, worker: usize, count: usize) -> bool {
        let now = self.now();
        let shard = &mut self.shards[worker];
        let mut is_moving = false;
        for _ in 0..count {
            let Some(job) = self.jobs[worker].pop_front() else {
                break;
            };
            shard.handle_job(now, job);
            is_moving = true;
        }
        shard.handle_timeout(now);
        while let Some(effect) = shard.poll_effect() {
            self.effects.push_back(effect);
            is_moving = true;
        }
        is_moving
    }

    fn apply(&mut self, count: usize) -> bool {
        let now = self.now();
        let mut is_moving = false;
        for _ in 0..count {
            if self.hub.wants_flush() {
                break;
            }
            let Some(effect) = self.effects.pop_front() else {
                break;
            };
            self.hub.handle_effect(now, effect);
            is_moving = true;
        }
        self.hand_over();
        is_moving
    }

    fn flush_one(&mut self) -> bool {
        let now = self.now();
        let is_known = self.hub.has_backlog();
        let Some((id, index, queue)) = self.hub.poll_flush() else {
            return false;
        };
        assert!(is_known, "{id}: something to write that nobody was told of");
        let index = *index;
        let client = &mut self.clients[index];
        let mut slices = [IoSlice::new(&[]); 8];
        let filled = queue.fill(&mut slices);
        let offered: Vec<u8> = slices[..filled]
            .iter()
            .flat_map(|slice| slice.iter().copied())
            .collect();
        assert!(!offered.is_empty(), "{id}: asked to write nothing");
        assert!(!client.is_shut, "{id}: a write after the end of the stream");
        let written = if client.is_reset {
            Written::Failed
        } else {
            let bytes = offered
                .len()
                .min(client.room - client.downstream.len().min(client.room));
            client.downstream.extend(&offered[..bytes]);
            queue.advance(bytes);
            client.is_refused = bytes < offered.len();
            Written::Bytes {
                bytes,
                is_blocked: client.is_refused,
            }
        };
        if self.hub.handle_written(now, id, written) == SocketAction::ShutDownWrite {
            self.clients[index].is_shut = true;
        }
        true
    }

    /// The client takes all that has come; returns whether there was any.
    fn client_reads(&mut self, index: usize) -> bool {
        let client = &mut self.clients[index];
        let has_some = client.read();
        if std::mem::take(&mut client.is_refused) {
            self.hub.handle_writable(client.id);
            return true;
        }
        has_some
    }

    /// Everybody does what there is to do.
    fn round(&mut self) -> bool {
        let mut is_moving = false;
        for index in 0..self.clients.len() {
            is_moving |= self.read_from(index, usize::MAX);
            is_moving |= self.client_reads(index);
        }
        for worker in 0..WORKERS {
            is_moving |= self.work(worker, usize::MAX);
        }
        is_moving |= self.apply(usize::MAX);
        self.grant_room();
        while self.flush_one() {
            is_moving = true;
        }
        self.hand_over();
        is_moving
    }

    /// Goes on until nothing moves. What is gathered for a moment has its moment.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            let is_moving = self.round();
            self.check();
            if is_moving {
                continue;
            }
            let soon = self.now().instant + Duration::from_secs(1);
            let deadlines = self.shards.iter().filter_map(RoomShard::poll_timeout);
            let Some(due) = deadlines.filter(|due| *due < soon).min() else {
                // Whatever a WebSocket waited for has come, so it is read again.
                let is_forgotten = |client: &Client| {
                    client.is_paused && client.is_open() && !client.upstream.is_empty()
                };
                let forgotten = self.clients.iter().find(|client| is_forgotten(client));
                return assert!(forgotten.is_none(), "a client that nobody reads again");
            };
            let tick = Duration::from_millis(1);
            self.elapsed = (self.elapsed + tick).max(due.to_duration());
        }
        panic!("the node does not come to rest");
    }

    /// All clients leave, or time makes them.
    fn end(&mut self) {
        for client in &mut self.clients {
            client.has_ended = true;
            client.room = client.room.max(100);
        }
        self.settle();
        for _ in 0..1000 {
            let is_ended = !self.is_shut_down || self.hub.is_drained();
            if self.hub.connections_len() == 0 && is_ended {
                break;
            }
            let due = self
                .hub
                .poll_timeout()
                .expect("whoever is there has a deadline");
            self.elapsed = self.elapsed.max(due.to_duration());
            let now = self.now();
            self.hub.handle_timeout(now, usize::MAX);
            self.settle();
        }
        // What is kept of rooms is forgotten in time.
        self.elapsed += self.limits.history_ttl + Duration::from_secs(2);
        self.settle();
        if self.is_shut_down {
            assert!(self.hub.is_drained(), "WebSockets stay behind");
            let now = self.now();
            self.hub.handle_end(now);
            self.check();
        }
        assert_eq!(self.hub.connections_len(), 0, "connections stay behind");
        assert_eq!(self.hub.calls_len(), 0, "calls stay behind");
        let counters = self.hub.counters();
        assert_eq!((counters.members, counters.rooms), (0, 0));
        let closes: u64 = counters.closes.iter().sum();
        assert_eq!(closes, counters.accepted, "every connection has one reason");
        assert!(
            self.shards.iter().all(|shard| shard.rooms_len() == 0),
            "rooms stay behind"
        );
        for client in &mut self.clients {
            client.read();
            client.finish();
        }
    }
}

const UNIX_MS: u64 = 1_763_683_200_000;
