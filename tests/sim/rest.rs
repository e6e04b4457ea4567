//! Letting everything come to rest, and to its end.

use std::time::Duration;

use roomcast::base::{Instant, RoomName};
use roomcast::hub::ProgramCall;
use roomcast::shard::RoomShard;
use roomcast::wire::api::ApiCall;

use super::World;
use crate::client::Stage;
use crate::plan::Endpoint;
use crate::trace::say;

impl World {
    /// Lets everybody read and everything be done, without a new word from anyone.
    pub(super) fn settle(&mut self) {
        say(|| "everything is let come to rest".into());
        self.node.has_no_descriptors = false;
        for client in &mut self.node.clients {
            client.is_stalled = false;
        }
        self.asleep.fill(false);
        self.free_memory();
        self.accept_waiting(usize::MAX);
        for _ in 0..100_000 {
            let is_moving = self.turn();
            if !is_moving && !self.gathers() && !self.is_about_to() {
                assert!(
                    !self.node.hub.has_backlog(),
                    "there is something to do, and it is not said what"
                );
                return;
            }
            self.elapsed += Duration::from_millis(5);
        }
        panic!("the world does not come to rest");
    }

    /// One turn in which everybody does what is to be done.
    fn turn(&mut self) -> bool {
        let now = self.now();
        let mut is_moving = false;
        for index in 0..self.node.clients.len() {
            is_moving |= self.node.read_by_server(now, index, usize::MAX);
            if !self.node.clients[index].is_stalled {
                let before = self.node.clients[index].downstream.len();
                self.node.read_by_client(index, usize::MAX);
                is_moving |= before != self.node.clients[index].downstream.len();
            }
        }
        for worker in 0..self.node.shards.len() {
            is_moving |= self.work_by(worker, usize::MAX);
        }
        is_moving |= self.node.apply(now, usize::MAX);
        self.node.expire(now, usize::MAX);
        self.node.grant_room(now);
        is_moving |= self.node.flush_one(now);
        self.node.flush_all(now);
        self.look_at_memory();
        self.check();
        is_moving
    }

    /// Whether something is gathered that leaves soon.
    pub(super) fn gathers(&self) -> bool {
        let soon = self.now().instant + Duration::from_secs(1);
        let is_soon = |shard: &RoomShard| shard.poll_timeout().is_some_and(|at| at < soon);
        self.node.shards.iter().any(is_soon)
    }

    /// Whether the hub is about to do something.
    fn is_about_to(&self) -> bool {
        let soon = self.now().instant + Duration::from_millis(50);
        self.node.hub.poll_timeout().is_some_and(|at| at < soon)
    }

    /// Of every room, as many are counted as are in it.
    pub(super) fn count_members(&mut self) {
        // Nobody may leave between the answer and the look at who is there.
        for attempt in 0.. {
            let left = self.left;
            for room in ROOMS {
                let channel = RoomName::new(room).expect("a good name");
                self.begin_call(ProgramCall::Api(ApiCall::PresenceStats { channel }));
            }
            self.settle();
            if self.left == left {
                break;
            }
            assert!(attempt < 100, "somebody leaves all the time");
        }
        for room in ROOMS {
            let is_in = |index: &usize| self.is_member(*index, room);
            let all = 0..self.node.clients.len();
            let (alive, doubtful): (Vec<usize>, Vec<usize>) = all
                .filter(is_in)
                .partition(|index| self.node.clients[*index].is_alive());
            // Who has broken a rule by half a frame is still there.
            let counted = self.backend.clients[room];
            assert!(
                (alive.len()..=alive.len() + doubtful.len()).contains(&counted),
                "{room}: {counted} are counted; {alive:?} are there, and maybe {doubtful:?}"
            );
        }
    }

    /// Whether a client has joined a room and was not taken out of it again.
    fn is_member(&self, index: usize, room: &str) -> bool {
        let client = &self.node.clients[index];
        let mut joins = client.joins.iter();
        client.farewell.is_none() && joins.any(|join| join.room == room && join.left_at.is_none())
    }

    /// Everybody leaves, or falls silent; nothing may stay behind.
    pub(super) fn end(&mut self) {
        // A daemon that pings gives up who does not answer; who is nobody's peer any more, too.
        let is_silent = self.limits.ping_interval.is_some() && self.prng.below(2) == 0;
        say(|| {
            format!(
                "everybody {}",
                if is_silent { "falls silent" } else { "leaves" }
            )
        });
        for client in &mut self.node.clients {
            if is_silent {
                client.plan.is_mute = true;
                client.is_stalled = true;
            } else {
                client.has_ended = true;
            }
        }
        let is_plain = |stage: Stage| stage == Stage::Plain;
        for client in &mut self.node.clients {
            // A page that nobody asks for is waited for no longer than a head; a call is answered.
            if is_plain(client.stage) && client.plan.endpoint == Endpoint::Api {
                client.has_ended = true;
                client.is_stalled = false;
            }
        }
        self.run_out();
        if self.is_shut_down {
            let now = self.now();
            assert!(self.node.hub.is_drained(), "WebSockets stay behind");
            self.node.hub.handle_end(now);
            self.node.reap();
        }
        // What is kept of rooms is forgotten in time.
        self.elapsed += Duration::from_secs(3700);
        for _ in 0..20 {
            self.turn();
        }
        assert_eq!(
            self.node.hub.connections_len(),
            0,
            "connections stay behind"
        );
        let counters = self.node.hub.counters();
        assert_eq!((counters.members, counters.rooms), (0, 0));
        assert_eq!((counters.users, counters.websockets), (0, 0));
        let closes: u64 = counters.closes.iter().sum();
        assert_eq!(closes, counters.accepted, "every connection has one reason");
        self.balance_memory();
        self.judge_counters();
        for shard in &self.node.shards {
            assert_eq!(shard.rooms_len(), 0, "rooms stay behind");
            assert_eq!(shard.history_bytes(), 0, "history stays behind");
        }
        assert_eq!(self.budget.used(), 0, "places of rooms stay behind");
    }

    /// Goes from one deadline to the next until nobody is there any more: a timer that is not set is
    /// waited for in vain.
    fn run_out(&mut self) {
        for _ in 0..100_000 {
            if self.turn() {
                continue;
            }
            if self.node.hub.connections_len() == 0 {
                return;
            }
            let hub = self.node.hub.poll_timeout();
            let shards = self.node.shards.iter().map(RoomShard::poll_timeout);
            let next = shards.chain([hub]).flatten().min();
            let next = next.expect("a time at which those who are left are given up");
            let next = next.saturating_duration_since(Instant::ORIGIN);
            self.elapsed = next.max(self.elapsed + Duration::from_millis(1));
            assert!(
                self.elapsed < Duration::from_secs(400_000),
                "those who are left are never given up"
            );
        }
        panic!("the end does not come");
    }
}

/// The rooms of this world.
pub(super) const ROOMS: [&str; 7] = ["lossy:1", "room:1", "room:2", "room:3", "#u0", "#u1", "#u2"];
