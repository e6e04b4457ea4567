//! A hub and the shard of its only worker, with sockets that can stall, counted phase by phase.
//!
//! Plays the loop: the phases and their order are those of `net::event_loop`.

use std::io::IoSlice;
use std::net::SocketAddr;
use std::time::Duration;

use roomcast::base::{ConnId, Instant, Limits, Now, RoomBudget};
use roomcast::hub::{Gate, Hub, Reading, SocketAction, Written};
use roomcast::shard::RoomShard;

use super::thread_alloc::counted;

/// What a turn allocated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Spent {
    /// On the loop's side, reading what members send and making jobs of it.
    pub(crate) receiving: u64,
    /// In the worker: numbering, keeping, encoding.
    pub(crate) working: u64,
    /// On the loop's side, pushing effects into send queues and writing these.
    pub(crate) delivering: u64,
    /// On the loop's side: timers, credits, whatever else a turn does.
    pub(crate) turning: u64,
}

impl Spent {
    fn add(&mut self, other: Self) {
        self.receiving += other.receiving;
        self.working += other.working;
        self.delivering += other.delivering;
        self.turning += other.turning;
    }
}

/// The end of a connection that the hub writes to.
#[derive(Debug, Default)]
pub(crate) struct Socket {
    is_stalled: bool,
    written_bytes: u64,
}

pub(crate) struct Node {
    hub: Hub<Socket>,
    shard: RoomShard,
    now: Now,
    jobs_max: usize,
    /// In the order in which they have joined.
    pub(crate) members: Vec<ConnId>,
}

impl Node {
    pub(crate) fn new(limits: Limits) -> Self {
        let now = Now {
            instant: Instant::ORIGIN,
            unix_ms: 1_767_225_600_000,
        };
        let budget = RoomBudget::new(limits.rooms_max);
        Self {
            shard: RoomShard::new(&limits, 1, budget, now, 1),
            now,
            jobs_max: limits.jobs_max,
            hub: Hub::new(limits, Gate::default(), 1, now.instant, 1),
            members: Vec::new(),
        }
    }

    /// `count` connections join with this query.
    pub(crate) fn join(&mut self, query: &str, count: usize) {
        let head = format!(
            "GET /ws?{query} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\
             Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Sec-WebSocket-Version: 13\r\n\r\n"
        );
        for _ in 0..count {
            let peer = SocketAddr::from(([127, 0, 0, 1], 40_000));
            let accepted = self
                .hub
                .handle_accept(self.now, false, peer, Socket::default());
            let id = accepted.expect("the limits allow that many");
            self.hub.handle_room(self.now, ONLY_WORKER, self.jobs_max);
            let reading = self.hub.handle_bytes(self.now, id, head.as_bytes());
            assert_eq!(reading, Reading::Paused, "a connection that joins waits");
            self.turn();
            self.members.push(id);
        }
        assert_eq!(
            self.hub.counters().members,
            self.members.len(),
            "all have joined"
        );
    }

    /// Member number `index` sends `input`, and a turn follows.
    pub(crate) fn publish(&mut self, index: usize, input: &[u8]) -> Spent {
        let id = self.members[index];
        let (reading, receiving) = counted(|| self.hub.handle_bytes(self.now, id, input));
        assert_eq!(reading, Reading::Continue);
        let mut spent = self.turn();
        spent.receiving += receiving;
        spent
    }

    /// A turn without input, and others until nothing is left to do.
    pub(crate) fn turn(&mut self) -> Spent {
        let mut spent = Spent::default();
        loop {
            let mut is_idle = true;
            while let (Some((_, job)), receiving) = counted(|| self.hub.poll_job()) {
                let ((), working) = counted(|| self.shard.handle_job(self.now, job));
                spent.add(Spent {
                    receiving,
                    working,
                    ..Spent::default()
                });
                is_idle = false;
            }
            spent.working += counted(|| self.shard.handle_timeout(self.now)).1;
            while !self.hub.wants_flush() {
                let (effect, working) = counted(|| self.shard.poll_effect());
                spent.working += working;
                let Some(effect) = effect else { break };
                spent.delivering += counted(|| self.hub.handle_effect(self.now, effect)).1;
                is_idle = false;
            }
            spent.turning += counted(|| {
                self.hub.handle_room(self.now, ONLY_WORKER, self.jobs_max);
                while self.hub.poll_resumed().is_some() {}
                self.hub.handle_timeout(self.now, TIMERS);
            })
            .1;
            spent.delivering += counted(|| self.flush()).1;
            spent.turning += counted(|| {
                self.hub.handle_flushed(self.now.instant);
                assert!(self.hub.poll_closed().is_none(), "nobody leaves");
            })
            .1;
            if is_idle && !self.hub.has_backlog() {
                return spent;
            }
        }
    }

    /// Lets time pass, in steps of a second. Every member says `word` each `SECS_OF_SILENCE`.
    pub(crate) fn wait(&mut self, secs: u64, word: &[u8]) -> Spent {
        let mut spent = Spent::default();
        for second in 1..=secs {
            self.now.instant += Duration::from_secs(1);
            self.now.unix_ms += 1000;
            if second % SECS_OF_SILENCE == 0 {
                for &id in &self.members {
                    let (reading, receiving) =
                        counted(|| self.hub.handle_bytes(self.now, id, word));
                    assert_eq!(reading, Reading::Continue);
                    spent.receiving += receiving;
                }
            }
            spent.add(self.turn());
        }
        spent
    }

    /// From now on the socket of member number `index` takes nothing.
    pub(crate) fn stall(&mut self, index: usize) {
        self.socket(index).is_stalled = true;
    }

    /// It takes everything again, and is written to.
    pub(crate) fn recover(&mut self, index: usize) -> Spent {
        self.socket(index).is_stalled = false;
        let id = self.members[index];
        let (is_known, turning) = counted(|| self.hub.handle_writable(id));
        assert!(is_known, "it has something to write");
        let mut spent = self.turn();
        spent.turning += turning;
        spent
    }

    pub(crate) fn deliveries(&self) -> u64 {
        self.hub.counters().deliveries
    }

    /// Bytes that were written to member number `index`.
    pub(crate) fn written_bytes(&mut self, index: usize) -> u64 {
        self.socket(index).written_bytes
    }

    fn socket(&mut self, index: usize) -> &mut Socket {
        let id = self.members[index];
        self.hub.socket_mut(id).expect("nobody leaves")
    }

    fn flush(&mut self) {
        while let Some((id, socket, queue)) = self.hub.poll_flush() {
            let offered = match queue.lone_piece() {
                Some(piece) => piece.len(),
                None => {
                    let mut slices = [IoSlice::new(&[]); SLICES];
                    let filled = queue.fill(&mut slices);
                    slices[..filled].iter().map(|slice| slice.len()).sum()
                }
            };
            let bytes = if socket.is_stalled { 0 } else { offered };
            queue.advance(bytes);
            socket.written_bytes += bytes as u64;
            let written = Written::Bytes {
                bytes,
                is_blocked: bytes < offered,
            };
            let action = self.hub.handle_written(self.now, id, written);
            assert_eq!(action, SocketAction::None, "nobody leaves");
        }
    }
}

/// Timers and pieces of a turn and a write, as `net::budget` has them.
const TIMERS: usize = 1024;
const SLICES: usize = 32;

/// Well within the pong timeout.
const SECS_OF_SILENCE: u64 = 10;

const ONLY_WORKER: usize = 0;
