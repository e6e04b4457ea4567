//! The end in good order, while everybody goes on talking.

use std::collections::BTreeMap;
use std::time::Duration;

use super::World;
use crate::client::Client;
use crate::trace::say;

impl World {
    /// Does these steps, and then ends the node: its clients talk on, leave and come while it closes
    /// one after the other. Balances the books of all, those included that were closed on the way:
    /// each was owed whatever was distributed before its close.
    pub(crate) fn run_and_drain(&mut self, steps: &[u32]) {
        self.begin();
        for step in steps {
            // All but the last, which may end the node.
            self.take_step(*step, 99);
        }
        self.begin_step(u32::MAX - 1);
        self.settle();
        self.drain();
        self.balance();
        self.count_ends();
        self.end();
    }

    fn drain(&mut self) {
        let span = self.limits.drain_timeout;
        let begun = self.elapsed;
        let websockets = self.node.hub.counters().websockets;
        let mut left_alone = 0;
        self.is_shut_down = true;
        let candidates = self.candidates();
        let now = self.now();
        say(|| "the node begins to end".into());
        self.node.hub.handle_shutdown(now);
        self.assert_paced(begun, websockets, usize::MAX);
        left_alone += self.note_drained(candidates);
        self.assert_paced(begun, websockets, left_alone);
        while !self.node.hub.is_drained() {
            let before = self.node.hub.counters().websockets;
            for _ in 0..self.prng.below(8) {
                match self.prng.below(11) {
                    0 => self.come(),
                    1 => self.stall(),
                    2 => self.call(),
                    3 => self.leave(),
                    4 => self.control(),
                    _ => self.speak(),
                }
            }
            if self.memory.limit.is_some() && self.prng.below(6) == 0 {
                self.swing_memory();
            }
            self.deliver();
            // Those who have left, were slow or were disconnected by a back end.
            left_alone += before - self.node.hub.counters().websockets;
            left_alone += self.outsiders();
            let candidates = self.candidates();
            self.elapsed += Duration::from_millis(self.prng.below(span.as_millis() as u64 / 5 + 2));
            let now = self.now();
            self.node.expire(now, usize::MAX);
            self.check();
            self.assert_paced(begun, websockets, usize::MAX);
            left_alone += self.note_drained(candidates);
            self.assert_paced(begun, websockets, left_alone);
        }
    }

    /// How many are there who may be closed for another reason without a word.
    fn outsiders(&self) -> usize {
        let is_outsider = |client: &&Client| {
            client.is_accepted() && client.plan.is_websocket() && !client.is_alive()
        };
        self.node.clients.iter().filter(is_outsider).count()
    }

    /// Of those who are left, as many are open as there is time left, and no more than there were.
    fn assert_paced(&self, begun: Duration, websockets: usize, left_alone: usize) {
        let span = self.limits.drain_timeout.as_secs_f64();
        let left = self.node.hub.counters().websockets;
        let time_left = span - (self.elapsed - begun).as_secs_f64();
        if time_left <= 0.0 {
            assert_eq!(left, 0, "the time is over");
            return;
        }
        let share = websockets as f64 * time_left / span;
        assert!(
            left as f64 <= share + 1.0,
            "{left} left of {websockets}, {share} expected"
        );
        // Nobody is closed ahead of time either, unless others have left theirs.
        assert!(
            left_alone > 0 || left as f64 + 1.0 >= share - 1e-6,
            "{left} left of {websockets}, {share} expected"
        );
    }

    /// Every client that is alive now, with where the rooms' logs stand.
    fn candidates(&mut self) -> Vec<(usize, BTreeMap<String, usize>)> {
        self.closes_only_to_end = true;
        let lens = self.log.lens();
        let alive = self.node.clients.iter().enumerate();
        alive
            .filter(|(_, client)| client.is_alive())
            .map(|(index, _)| (index, lens.clone()))
            .collect()
    }

    /// Lets everything be written and read; those who find a close then were closed by the drain.
    /// Returns how many were closed for another reason.
    fn note_drained(&mut self, candidates: Vec<(usize, BTreeMap<String, usize>)>) -> usize {
        self.settle();
        let indices: Vec<usize> = candidates.iter().map(|(index, _)| *index).collect();
        for (index, lens) in candidates {
            let client = &mut self.node.clients[index];
            if client.close_code() == Some(3001) && client.drained_at.is_none() {
                client.drained_at = Some(lens);
                client.has_ended = true;
            }
        }
        self.settle();
        let is_gone = |index: &&usize| {
            let client = &self.node.clients[**index];
            client.drained_at.is_none() && !client.is_alive()
        };
        let others = indices.iter().filter(is_gone).count();
        self.closes_only_to_end = false;
        others
    }

    /// Lets all that was said be numbered and queued for everybody, and writes only what must be.
    pub(super) fn deliver(&mut self) {
        for _ in 0..100_000 {
            let now = self.now();
            let mut is_moving = false;
            for index in 0..self.node.clients.len() {
                is_moving |= self.node.read_by_server(now, index, usize::MAX);
            }
            for worker in 0..self.node.shards.len() {
                is_moving |= self.work_by(worker, usize::MAX);
            }
            is_moving |= self.node.apply(now, usize::MAX);
            if self.node.hub.wants_flush() {
                is_moving |= self.node.flush_one(now);
            }
            self.node.grant_room(now);
            self.check();
            let gathers = self.gathers();
            if !is_moving && !gathers {
                return;
            }
            self.elapsed += Duration::from_millis(u64::from(gathers && !is_moving) * 5);
        }
        panic!("what was said does not arrive");
    }
}
