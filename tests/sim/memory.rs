//! The memory of the node: what it is told of it, and what it must give up for it.
//!
//! Half of the worlds have a limit, far smaller than any process, since the queues are small, too.
//! What is in use is what the hub shows of its queues, and what is taken for other things, which
//! comes and goes. The shares of the limit at which things happen are those of docs/OPERATIONS.md.

use std::collections::BTreeMap;
use std::time::Duration;

use roomcast::base::CloseReason;
use roomcast::hub::{MemoryPressure, Relief};

use super::{World, one_of};
use crate::client::{Client, Stage};
use crate::plan::Endpoint;
use crate::runner::prng_of;
use crate::trace::say;

/// What is known of the memory.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// What may be taken, in bytes; `None` is no bound.
    pub(super) limit: Option<usize>,
    /// What is taken, the queues aside.
    other: usize,
    next_look: Duration,
    /// What the hub said last that it gives up.
    pressure: MemoryPressure,
    pub(super) seen: Shortage,
}

/// What has come of it that memory was short.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Shortage {
    /// Connections closed.
    pub(crate) closed: u64,
    /// Those of them that others with a queue outlived.
    pub(crate) chosen: u64,
    /// Connections cut off before they had come to their end.
    pub(crate) cut: u64,
    /// Requests refused.
    pub(crate) refused: u64,
    /// Members who came back and went on where they were.
    pub(crate) back: u64,
}

impl Shortage {
    pub(crate) fn add(&mut self, other: Self) {
        self.closed += other.closed;
        self.chosen += other.chosen;
        self.cut += other.cut;
        self.refused += other.refused;
        self.back += other.back;
    }

    /// Whether all of it has happened.
    pub(crate) fn is_every_way(&self) -> bool {
        [self.closed, self.chosen, self.cut, self.refused, self.back]
            .iter()
            .all(|count| *count > 0)
    }
}

impl Memory {
    /// The memory of a world, which may have a limit.
    pub(super) fn of(seed: u64) -> Self {
        // Of its own generator, so that a world without a limit is what it is without all this.
        let mut prng = prng_of(seed, u32::MAX - 2);
        let limit = one_of(&mut prng, &[16, 32, 64, 256]) << 10;
        Self {
            limit: (prng.below(2) == 0).then_some(limit),
            ..Self::default()
        }
    }
}

/// What is queued, with its places, in bytes, by the number of the client.
type Queues = BTreeMap<usize, usize>;

impl World {
    /// Something else takes more memory, or less; and it may be that queues grow before.
    pub(super) fn swing_memory(&mut self) {
        let Some(limit) = self.memory.limit else {
            return;
        };
        if self.prng.below(2) == 0 {
            self.swell_queues();
        }
        self.memory.other = match self.prng.below(3) {
            0 => 0,
            _ => limit / 32 * (24 + self.prng.below(12) as usize),
        };
        let other = self.memory.other;
        say(|| format!("{other} of {limit} bytes are taken, the queues aside"));
        if self.prng.below(2) == 0 {
            self.elapsed += INTERVAL;
        }
        self.look_at_memory();
    }

    /// Most clients stop reading, and a back end publishes much to some rooms.
    fn swell_queues(&mut self) {
        for client in &mut self.node.clients {
            client.is_stalled |= self.prng.below(3) > 0;
        }
        say(|| "most clients stop reading".into());
        for _ in 0..2 + self.prng.below(6) {
            if self.node.hub.may_take_call() {
                let call = self.backend.large(&mut self.prng);
                self.begin_call(call);
            }
            self.deliver();
            let now = self.now();
            self.node.flush_all(now);
        }
    }

    /// Nothing but the queues takes memory any more, and the node has seen that.
    pub(super) fn free_memory(&mut self) {
        self.memory.other = 0;
        self.memory.next_look = self.elapsed;
        self.look_at_memory();
    }

    /// Tells the hub what is in use, if that is due, and judges what it does.
    pub(super) fn look_at_memory(&mut self) {
        let Some(limit) = self.memory.limit else {
            return;
        };
        if self.elapsed < self.memory.next_look {
            return;
        }
        self.count_refusals();
        self.node.reap();
        let before = self.queues();
        if before.len() == SHOWN {
            // Of those that are not shown nothing would be known.
            return;
        }
        self.memory.next_look = self.elapsed + INTERVAL;
        let used = self.memory.other + before.values().sum::<usize>();
        let now = self.now();
        let leaving: Vec<usize> = (0..self.node.clients.len())
            .filter(|index| self.node.clients[*index].is_leaving_for_memory())
            .collect();
        let relief = self.node.hub.handle_memory(now, used as u64);
        self.node.reap();
        let after = self.queues();
        let is_closed = |index: &usize| !after.contains_key(index);
        let closed: Vec<usize> = before.keys().copied().filter(is_closed).collect();
        assert_eq!(closed.len(), relief.closed, "how many were closed for it");
        if relief.closed > 0 || relief.pressure != self.memory.pressure {
            let pressure = relief.pressure;
            say(|| format!("{used} of {limit} bytes: {closed:?} are closed, then {pressure:?}"));
        }
        self.judge_pressure((used, limit), relief);
        if used >= limit / 8 * 7 {
            self.judge_closed(&before, &closed, relief);
        }
        let are_cut = used >= limit / 16 * 15;
        for index in leaving {
            let client = &self.node.clients[index];
            // Who has everything takes no memory while its end is awaited, and who reads only waits.
            let is_cut = are_cut && client.awaits_room;
            assert_eq!(
                client.farewell.is_some(),
                is_cut,
                "client {index} leaves for want of memory, of which {used} of {limit} are in use"
            );
            self.memory.seen.cut += u64::from(is_cut);
        }
        if !after.is_empty() {
            self.memory.seen.chosen += closed.len() as u64;
        }
        for index in closed {
            self.node.clients[index].is_closed_for_memory = true;
            self.memory.seen.closed += 1;
        }
        self.memory.pressure = relief.pressure;
        self.node.is_short_of_memory = relief.pressure == MemoryPressure::Refusing;
        let counters = self.node.hub.counters();
        assert_eq!(counters.memory_limit, limit as u64);
        assert_eq!(counters.memory_pressure, relief.pressure, "what is shown");
    }

    /// What the hub shows of its queues.
    fn queues(&mut self) -> Queues {
        let now = self.now();
        let rows = self.node.hub.figures(now).queues;
        let clients = self.node.clients.iter().enumerate();
        let by_id: BTreeMap<String, usize> = clients
            .filter(|(_, client)| client.is_accepted())
            .map(|(index, client)| (client.id.to_string(), index))
            .collect();
        rows.iter()
            .map(|row| (by_id[&*row.client], row.queue_weight))
            .collect()
    }

    /// Something is given up if there is too much in use, and nothing if there is not.
    fn judge_pressure(&self, (used, limit): (usize, usize), relief: Relief) {
        let (before, pressure) = (self.memory.pressure, relief.pressure);
        let is_right = if used >= limit / 8 * 7 {
            pressure != MemoryPressure::None
        } else {
            let expected = match used < limit / 32 * 27 {
                true => MemoryPressure::None,
                false => before,
            };
            pressure == expected && relief.closed == 0
        };
        assert!(
            is_right,
            "{used} of {limit} bytes, {before:?} before: {relief:?}"
        );
    }

    /// Who was closed did not read, and had one of the largest queues. Newcomers are refused only where
    /// nobody is left to be closed.
    fn judge_closed(&self, before: &Queues, closed: &[usize], relief: Relief) {
        let pressure = relief.pressure;
        for index in closed {
            let bytes = before[index];
            let client = &self.node.clients[*index];
            assert!(
                bytes >= QUEUE_BYTES_MIN && client.awaits_room,
                "client {index} is closed for {bytes} bytes"
            );
        }
        let smallest = closed.iter().map(|index| before[index]).min();
        let is_refusing = pressure == MemoryPressure::Refusing;
        assert!(
            is_refusing || smallest.is_some() || relief.cut > 0,
            "{pressure:?}, and nobody is closed"
        );
        let is_enough_cut = relief.cut > 0 && closed.is_empty() && !is_refusing;
        for (index, bytes) in before {
            let is_stuck = self.node.clients[*index].awaits_room;
            let may_stay = closed.contains(index)
                || is_enough_cut
                || !is_stuck
                || *bytes < QUEUE_BYTES_MIN
                || (!is_refusing && Some(*bytes) <= smallest);
            assert!(
                may_stay,
                "client {index} stays with {bytes} bytes: {smallest:?} is closed, then {pressure:?}"
            );
        }
    }

    /// Requests are refused for want of memory only while there is none.
    pub(super) fn count_refusals(&mut self) {
        let refusals = self.refusals();
        assert!(
            refusals == self.memory.seen.refused || self.node.is_short_of_memory,
            "refused for want of memory, of which there is enough"
        );
        self.memory.seen.refused = refusals;
    }

    fn refusals(&self) -> u64 {
        let refusals = &self.node.hub.counters().refusals;
        refusals.get("memory").copied().unwrap_or(0)
    }

    /// Those who had to go come back, and go on where they were.
    pub(super) fn bring_back(&mut self) {
        assert_eq!(
            self.memory.pressure,
            MemoryPressure::None,
            "at rest, there is enough memory"
        );
        if self.is_shut_down {
            return;
        }
        let count = self.node.clients.len();
        for index in 0..count {
            let client = &self.node.clients[index];
            if client.is_closed_for_memory
                && client.close_code() == Some(3008)
                && let Some(plan) = self.plan_to_resume(index)
            {
                say(|| format!("client {index} comes back"));
                let again = self.node.come(plan, 1, &mut self.prng);
                self.accept(again);
                self.memory.seen.back += 1;
            }
        }
        if self.node.clients.len() > count {
            self.settle();
        }
    }

    /// It was closed, or refused, for want of memory if it had to be, and was told so.
    pub(super) fn judge_memory(&self, client: &Client) {
        let id = client.id;
        let (is_closed, code) = (client.is_closed_for_memory, client.close_code());
        if is_closed {
            let is_told = code == Some(3008);
            let may_miss_it = client.farewell.is_some() || client.is_reset;
            assert!(
                is_told || (code.is_none() && may_miss_it),
                "{id}: closed for want of memory, and told {code:?}"
            );
        }
        if let Some(reason) = client.farewell {
            assert_eq!(reason == CloseReason::Memory, is_closed, "{id}: {reason:?}");
        }
        let is_refused = client.refusal.ends_with(SHORT);
        match client.asked_while_short {
            Some(true) => {
                let is_timeout = client.refusal.starts_with(b"HTTP/1.1 408 ");
                let may_miss_it = client.is_reset || client.farewell.is_some();
                assert!(
                    client.stage != Stage::Open && (is_refused || is_timeout || may_miss_it),
                    "{id}: it asked when memory was short, and is {:?}",
                    client.stage
                );
            }
            _ => assert!(!is_refused, "{id}: refused for want of memory"),
        }
        let is_503 = client.refusal.starts_with(b"HTTP/1.1 503 ");
        assert!(!is_refused || is_503, "{id}: not the status for it");
    }

    /// What is counted is what has happened.
    pub(super) fn balance_memory(&self) {
        let clients = &self.node.clients;
        let told = clients
            .iter()
            .filter(|client| client.refusal.ends_with(SHORT) || client.exchanges.short > 0)
            .count() as u64;
        let may_be_told = |client: &&Client| {
            client.asked_while_short == Some(true) || client.plan.endpoint == Endpoint::Pages
        };
        let most = clients.iter().filter(may_be_told).count() as u64;
        let counted = self.refusals();
        assert!(
            (told..=most).contains(&counted),
            "{counted} refusals are counted, {told} of at most {most} were heard"
        );
        let is_gone = |client: &&Client| client.farewell == Some(CloseReason::Memory);
        let gone = clients.iter().filter(is_gone);
        let counted = self.node.hub.counters().closes[CloseReason::Memory.index()];
        assert_eq!(counted, gone.count() as u64, "how many closes are counted");
        assert!(counted <= self.memory.seen.closed);
    }
}

/// How long the shell does not look again.
const INTERVAL: Duration = Duration::from_millis(2);

/// How many queues the hub shows.
const SHOWN: usize = 20;

/// What a queue holds at least that is worth closing.
const QUEUE_BYTES_MIN: usize = 1 << 10;

/// How it is said that memory is short.
const SHORT: &[u8] = b"short of memory\n";
