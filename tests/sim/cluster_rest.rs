//! Letting a cluster come to rest, its books, and its end.

use std::collections::BTreeMap;
use std::time::Duration;

use roomcast::base::Now;
use roomcast::cluster::NodeId;
use roomcast::shard::RoomShard;

use super::{Cluster, Figures, ROOMS};
use crate::client::{Client, Stage};
use crate::ledger::Books;

impl Cluster {
    /// Lets all be done that can be done, until `span` has passed and nothing moves.
    pub(super) fn rest(&mut self, span: Duration) {
        let until = self.elapsed + span;
        for _ in 0..20_000 {
            let now = self.now();
            let mut is_moving = false;
            for at in 0..self.nodes.len() {
                is_moving |= self.turn(at, now);
            }
            self.check();
            if is_moving {
                self.elapsed += Duration::from_millis(1);
            } else if self.elapsed >= until {
                return;
            } else {
                self.elapsed += Duration::from_millis(250);
            }
            self.expire();
        }
        panic!("the cluster does not come to rest");
    }

    pub(super) fn turn(&mut self, at: usize, now: Now) -> bool {
        let mut is_moving = false;
        let server = &mut self.nodes[at];
        for index in 0..server.node.clients.len() {
            is_moving |= server.node.read_by_server(now, index, usize::MAX);
            let before = server.node.clients[index].downstream.len();
            server.node.read_by_client(index, usize::MAX);
            is_moving |= before != server.node.clients[index].downstream.len();
        }
        let id = server.id;
        while self.broker.carry_out(id, now, &mut self.prng) {
            is_moving = true;
        }
        is_moving |= self.deliver(at, u64::MAX, true);
        is_moving |= self.deliver(at, u64::MAX, false);
        for worker in 0..self.nodes[at].events.len() {
            is_moving |= !self.nodes[at].events[worker].is_empty();
            is_moving |= !self.nodes[at].node.jobs[worker].is_empty();
            self.hear(at, worker, usize::MAX);
            self.work(at, worker, usize::MAX);
        }
        is_moving |= self.broker.is_asked(id);
        is_moving |= self.apply(at, usize::MAX);
        let node = &mut self.nodes[at].node;
        is_moving |= node.flush_one(now);
        node.flush_all(now);
        is_moving
    }

    pub(super) fn settle(&mut self) {
        for server in &mut self.nodes {
            for client in &mut server.node.clients {
                client.is_stalled = false;
            }
        }
        if self.prng.below(2) == 0 {
            // Who comes to a node that knows nothing yet, and cannot ask, is not left waiting.
            self.broker.go_away(true, &mut self.prng);
            self.kill(0);
            for _ in 0..3 {
                self.connect(self.nodes.len() - 1);
            }
        }
        // Whatever the broker does, everybody is answered in time. What has waited for a place among
        // the jobs waits once more.
        self.rest(5 * self.wait + Duration::from_secs(1));
        for server in &self.nodes {
            assert!(
                server.open_calls.is_empty(),
                "node {}: calls without an answer: {:?}",
                server.id.0,
                server.open_calls
            );
            for (index, client) in server.node.clients.iter().enumerate() {
                let is_asking = client.stage == Stage::Asking && client.is_sending();
                assert!(!is_asking, "node {} client {index} waits", server.id.0);
            }
        }
        self.broker.go_on();
        self.broker.lost_one_in = 0;
        let nodes: Vec<NodeId> = self.nodes.iter().map(|server| server.id).collect();
        for node in nodes {
            self.broker.cut(node, false, &mut self.prng);
            self.broker.reconnect(node, &mut self.prng);
        }
        self.rest(Duration::from_secs(45));
        assert!(self.broker.is_quiet(), "something is not delivered");
    }

    pub(super) fn balance(&mut self) {
        let mut books = Books::new(&self.broker, self.is_calm, &self.limits);
        for server in self.nodes.iter().chain(&self.dead) {
            for index in 0..server.node.clients.len() {
                books.add(server, index);
            }
        }
        books.balance();
        let figures = books.figures;
        for server in self.nodes.iter().chain(&self.dead) {
            let codes = server.node.clients.iter().filter_map(Client::close_code);
            codes.for_each(|code| self.tally.note(format!("code {code}")));
        }
        for (payload, place) in &self.acknowledged {
            let places = self
                .broker
                .log
                .places
                .get(payload)
                .map_or(&[][..], Vec::as_slice);
            assert!(places.contains(place));
            assert!(
                !self.is_calm || places.len() == 1,
                "acknowledged, and there twice: {places:?}"
            );
        }
        let now = self.now();
        for room in ROOMS {
            let members: usize = (self.nodes.iter())
                .flat_map(|server| &server.node.clients)
                .filter(|client| client.is_alive() && client.plan.rooms.iter().any(|of| of == room))
                .count();
            assert_eq!(self.broker.online(room, now), members as u64, "{room}");
        }
        let mut nodes_told = BTreeMap::new();
        for server in self.nodes.iter().chain(&self.dead) {
            for change in &server.node.told_changes {
                *nodes_told.entry(change).or_insert(0) += 1;
            }
        }
        let told_widely = nodes_told.values().filter(|nodes| **nodes > 1).count();
        self.figures = Figures {
            told_widely: told_widely as u64,
            resumed: self.figures.resumed,
            publications: self.broker.log.places.len() as u64,
            torn: self.broker.log.torn.len() as u64,
            ..figures
        };
    }

    /// Everybody leaves; nothing may stay behind.
    pub(super) fn end(&mut self) {
        for server in &mut self.nodes {
            for client in &mut server.node.clients {
                client.has_ended = true;
            }
        }
        self.rest(Duration::from_secs(60));
        for server in &self.nodes {
            assert_eq!(
                server.node.hub.connections_len(),
                0,
                "connections stay behind"
            );
            let rooms = server.node.shards.iter().map(RoomShard::rooms_len);
            assert_eq!(rooms.sum::<usize>(), 1, "more than the room of nodes stays");
            for shard in &server.node.shards {
                assert_eq!(shard.open_jobs(), 0, "jobs stay behind");
            }
        }
        let now = self.now();
        for room in ROOMS {
            assert_eq!(self.broker.online(room, now), 0, "{room}");
        }
    }
}
