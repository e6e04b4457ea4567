//! Requests that wait to be sent, in their order.
//!
//! Invariants
//! - What is taken out and put back comes before what was behind it.
//! - A request that cannot be sent yet holds up those of its room behind it, but for those that say
//!   what this node knows of the room: a publication may be waiting for just that.
//! - [`Waiting::has_room`] is false from [`WAITING_MAX`] requests on, reads aside, of which there is
//!   one for each room.

use std::collections::{HashSet, VecDeque};
use std::mem;
use std::time::Duration;

use super::question::Pending;
use crate::base::{Instant, RoomName};
use crate::cluster::Request;

/// Most requests that wait.
pub(super) const WAITING_MAX: usize = 4096;

/// Most requests in one write, and most among them whose answers can be long.
pub(super) const BATCH_MAX: usize = 512;
const BATCH_READS_MAX: usize = 32;

/// A write is full when it has so many bytes.
pub(super) const BATCH_BYTES: usize = 1 << 20;

/// How often requests that cannot be sent are looked through.
pub(super) const SWEEP_INTERVAL: Duration = Duration::from_millis(10);

/// The requests.
#[derive(Debug)]
pub(super) struct Waiting {
    queue: VecDeque<Pending>,
    /// Those that count.
    counted: usize,
    sweep_at: Instant,
}

/// Some of them.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// Those to be sent.
    pub(super) sent: VecDeque<Pending>,
    /// Those whose time is over.
    pub(super) over: Vec<Pending>,
}

impl Waiting {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            queue: VecDeque::new(),
            counted: 0,
            sweep_at: now,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn has_room(&self) -> bool {
        self.counted < WAITING_MAX
    }

    pub(super) fn push(&mut self, pending: Pending) {
        self.counted += usize::from(pending.is_counted());
        self.queue.push_back(pending);
    }

    pub(super) fn pop(&mut self) -> Option<Pending> {
        let pending = self.queue.pop_front()?;
        self.counted -= usize::from(pending.is_counted());
        Some(pending)
    }

    /// Puts requests back to the front, in their order.
    pub(super) fn put_back(&mut self, requests: VecDeque<Pending>) {
        for pending in requests.into_iter().rev() {
            self.counted += usize::from(pending.is_counted());
            self.queue.push_front(pending);
        }
    }

    /// Takes out those whose time is over, now and then.
    pub(super) fn sweep(&mut self, now: Instant) -> Vec<Pending> {
        if now < self.sweep_at || !self.queue.iter().any(|pending| pending.is_over(now)) {
            return Vec::new();
        }
        self.sweep_at = now + SWEEP_INTERVAL;
        let mut over = Vec::new();
        for pending in mem::take(&mut self.queue) {
            if pending.is_over(now) {
                self.counted -= usize::from(pending.is_counted());
                over.push(pending);
            } else {
                self.queue.push_back(pending);
            }
        }
        over
    }

    /// Takes out as many as belong into one write, and has each written behind `out`.
    pub(super) fn take_batch(
        &mut self,
        now: Instant,
        out: &mut Vec<u8>,
        mut write: impl FnMut(&Pending, &mut Vec<u8>),
    ) -> Batch {
        let mut batch = Batch::default();
        let mut held_up: HashSet<RoomName> = HashSet::new();
        let mut left = VecDeque::new();
        let mut reads = 0;
        while batch.sent.len() < BATCH_MAX && reads < BATCH_READS_MAX && out.len() < BATCH_BYTES {
            let Some(pending) = self.pop() else {
                break;
            };
            if pending.is_over(now) {
                batch.over.push(pending);
                continue;
            }
            let is_early = pending.not_before.is_some_and(|moment| moment > now);
            let is_behind = !held_up.is_empty()
                && !pending.may_overtake()
                && pending
                    .room
                    .as_ref()
                    .is_some_and(|room| held_up.contains(room));
            if is_early || is_behind {
                held_up.extend(pending.room.clone());
                left.push_back(pending);
                continue;
            }
            let is_long = matches!(pending.request, Request::Read { .. } | Request::Look { .. });
            reads += usize::from(is_long);
            write(&pending, out);
            batch.sent.push_back(pending);
        }
        self.put_back(left);
        batch
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::UserId;

    fn at(ms: u64) -> Instant {
        Instant::ORIGIN + Duration::from_millis(ms)
    }

    fn room(name: &str) -> RoomName {
        RoomName::new(name).expect("a good name")
    }

    fn forget(name: &str, number: u64, now: Instant) -> Pending {
        let room = room(name);
        Pending::new(
            0,
            Request::Forget { number, room },
            now,
            Duration::from_secs(1),
        )
    }

    fn number(pending: &Pending) -> u64 {
        match pending.request {
            Request::Forget { number, .. } => number,
            _ => 0,
        }
    }

    fn taken(waiting: &mut Waiting, now: Instant) -> (Vec<u64>, Vec<u64>, VecDeque<Pending>) {
        let mut written = Vec::new();
        let batch = waiting.take_batch(now, &mut Vec::new(), |pending, _| {
            written.push(number(pending));
        });
        let over = batch.over.iter().map(number).collect();
        (written, over, batch.sent)
    }

    #[test]
    fn one_that_waits_holds_up_its_room_and_no_other() {
        let mut waiting = Waiting::new(at(0));
        for (number, name) in [(1, "a"), (2, "b"), (3, "a"), (4, "c"), (5, "a")] {
            let mut pending = forget(name, number, at(0));
            pending.not_before = (number == 1).then(|| at(10));
            waiting.push(pending);
        }
        let (room, known) = (room("a"), None);
        let read = Request::Read { room, known };
        waiting.push(Pending::new(0, read, at(0), Duration::ZERO));
        assert_eq!(taken(&mut waiting, at(1)).0, [2, 4, 0], "a read passes");
        assert_eq!(waiting.len(), 3);
        let (written, _, sent) = taken(&mut waiting, at(10));
        assert_eq!(written, [1, 3, 5]);
        // Those that were sent and come back are first again, behind nobody.
        waiting.push(forget("a", 6, at(10)));
        waiting.put_back(sent);
        assert_eq!(taken(&mut waiting, at(11)).0, [1, 3, 5, 6]);
        assert!(waiting.is_empty());
    }

    #[test]
    fn what_is_over_is_found_in_a_batch_and_without_one() {
        let mut waiting = Waiting::new(at(0));
        waiting.push(forget("a", 1, at(0)));
        waiting.push(forget("a", 2, at(500)));
        assert!(waiting.sweep(at(1000)).is_empty(), "not after its deadline");
        let over: Vec<u64> = waiting.sweep(at(1001)).iter().map(number).collect();
        assert_eq!(over, [1]);
        let (written, over, _) = taken(&mut waiting, at(2000));
        assert_eq!((written, over), (vec![], vec![2]));
    }

    #[test]
    fn reads_of_rooms_do_not_count_and_batches_have_bounds() {
        let mut waiting = Waiting::new(at(0));
        let user = UserId::new("al").expect("a good id");
        for number in 0..WAITING_MAX as u64 {
            assert!(waiting.has_room());
            let read = Request::Read {
                room: room("a"),
                known: None,
            };
            waiting.push(Pending::new(0, read, at(0), Duration::ZERO));
            let (user, is_exclusive, deadline) = (user.clone(), false, at(9999));
            let claim = Request::Claim {
                number,
                user,
                is_exclusive,
                deadline,
            };
            waiting.push(Pending::new(0, claim, at(0), Duration::ZERO));
        }
        assert!(!waiting.has_room());
        let (written, _, sent) = taken(&mut waiting, at(1));
        assert_eq!(written.len(), 2 * BATCH_READS_MAX - 1, "the last is a read");
        assert!(waiting.has_room());
        waiting.put_back(sent);
        assert!(!waiting.has_room());
        let write = |_: &Pending, out: &mut Vec<u8>| out.extend([0; BATCH_BYTES / 8]);
        let batch = waiting.take_batch(at(1), &mut Vec::new(), write);
        assert_eq!(batch.sent.len(), 8, "so many bytes are enough");
    }
}
