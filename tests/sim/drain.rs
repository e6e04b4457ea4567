//! The end in good order, while everybody goes on talking.

use std::collections::BTreeMap;
use std::time::Duration;

use super::World;

impl World {
    /// Runs `steps` steps, and then ends the node: its clients talk on, leave and come while it closes
    /// one after the other. Balances the books of all, those included that were closed on the way:
    /// each was owed whatever was distributed before its close.
    pub(crate) fn run_and_drain(&mut self, steps: usize) {
        let now = self.now();
        self.node.grant_room(now);
        for _ in 0..steps {
            // All but the last, which may end the node.
            let choice = self.prng.below(99);
            self.step(choice);
            self.check();
        }
        self.settle();
        self.drain();
        self.balance();
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
        self.node.hub.handle_shutdown(now);
        self.assert_paced(begun, websockets, left_alone);
        self.note_drained(candidates);
        while !self.node.hub.is_drained() {
            let before = self.node.hub.counters().websockets;
            for _ in 0..self.prng.below(8) {
                match self.prng.below(10) {
                    0 => self.connect(),
                    1 => self.node.toggle_stall(&mut self.prng),
                    2 => self.call(),
                    3 => self.node.leave(&mut self.prng),
                    _ => self.node.speak(&mut self.prng),
                }
            }
            self.deliver();
            // Those who have left, were slow or were disconnected by a back end.
            left_alone += before - self.node.hub.counters().websockets;
            let candidates = self.candidates();
            self.elapsed += Duration::from_millis(self.prng.below(span.as_millis() as u64 / 5 + 2));
            let now = self.now();
            self.node.hub.handle_timeout(now, usize::MAX);
            self.node.hand_over();
            self.node.resume();
            self.check();
            self.assert_paced(begun, websockets, left_alone);
            self.note_drained(candidates);
        }
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
    fn candidates(&self) -> Vec<(usize, BTreeMap<String, usize>)> {
        let lens: BTreeMap<String, usize> = self
            .log
            .iter()
            .map(|(room, entries)| (room.clone(), entries.len()))
            .collect();
        let alive = self.node.clients.iter().enumerate();
        alive
            .filter(|(_, client)| client.is_alive())
            .map(|(index, _)| (index, lens.clone()))
            .collect()
    }

    /// Lets everything be written and read; those who find a close then were closed by the drain.
    fn note_drained(&mut self, candidates: Vec<(usize, BTreeMap<String, usize>)>) {
        self.settle();
        for (index, lens) in candidates {
            let client = &mut self.node.clients[index];
            if client.close_code() == Some(3001) && client.drained_at.is_none() {
                client.drained_at = Some(lens);
                client.has_ended = true;
            }
        }
        self.settle();
    }

    /// Lets all that was said be numbered and queued for everybody, and writes only what must be.
    fn deliver(&mut self) {
        for _ in 0..100_000 {
            let now = self.now();
            let mut is_moving = false;
            for index in 0..self.node.clients.len() {
                is_moving |= self.node.read_by_server(now, index, usize::MAX);
            }
            for worker in 0..self.node.shards.len() {
                is_moving |= !self.node.jobs[worker].is_empty();
                self.work_by(worker, usize::MAX);
            }
            is_moving |= self.node.apply(now, usize::MAX);
            if self.node.hub.wants_flush() {
                is_moving |= self.node.flush_one(now);
            }
            self.node.grant_room(now);
            self.check();
            let gathers = self.node.shards.iter().any(|shard| {
                let soon = self.now().instant + Duration::from_secs(1);
                shard.poll_timeout().is_some_and(|deadline| deadline < soon)
            });
            if !is_moving && !gathers {
                return;
            }
            self.elapsed += Duration::from_millis(u64::from(gathers && !is_moving) * 5);
        }
        panic!("what was said does not arrive");
    }
}
