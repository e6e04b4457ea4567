//! Requests that wait to be sent, in their order.
//!
//! Invariants
//! - What is taken out and put back comes before what was behind it.
//! - A request that cannot be sent yet holds up those of its room behind it, but for those that say
//!   what this node knows of the room: a publication may be waiting for just that.
//! - [`Waiting::has_room`] is false from [`WAITING_MAX`] requests on, reads aside. Of these there is
//!   at most one for each room: a later one takes the place of an earlier one.
//! - A place of a user that was never asked for is not given back: the release of a claim that was not
//!   sent does not wait, and the claim is not sent after it.

use std::collections::{HashMap, HashSet, VecDeque};
use std::mem;
use std::time::Duration;

use super::question::Pending;
use crate::base::{Instant, RoomName};
use crate::cluster::{Known, Request};

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
    /// Those that are worth nothing later.
    fleeting: usize,
    /// The rooms whose reads wait, and up to where each is known to who asked last.
    reads: HashMap<RoomName, Option<Known>>,
    /// Claims that were never sent, until they are released. A shard releases each that it was told
    /// has failed or has given up itself, so there are no more than it has such, and such that wait.
    unsent: HashSet<u64>,
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
            fleeting: 0,
            reads: HashMap::new(),
            unsent: HashSet::new(),
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

    /// Adds one behind all others. Returns it if it is a read of a room whose read waits: that one is
    /// done in its stead, from what is known now, and one of the two is to be given up.
    pub(super) fn push(&mut self, pending: Pending) -> Option<Pending> {
        match &pending.request {
            Request::Read { room, known } => {
                if let Some(latest) = self.reads.get_mut(room) {
                    *latest = *known;
                    return Some(pending);
                }
            }
            // It was not done, and is not going to be.
            Request::Release { login, .. } if self.unsent.remove(&login.number) => return None,
            _ => {}
        }
        self.note(&pending);
        self.queue.push_back(pending);
        None
    }

    pub(super) fn pop(&mut self) -> Option<Pending> {
        let mut pending = self.queue.pop_front()?;
        self.discount(&pending);
        if let Request::Read { room, known } = &mut pending.request
            && let Some(latest) = self.reads.remove(room)
        {
            *known = latest;
        }
        Some(pending)
    }

    fn discount(&mut self, pending: &Pending) {
        self.counted -= usize::from(pending.is_counted());
        self.fleeting -= usize::from(pending.is_fleeting());
    }

    /// One waits, again or for the first time.
    fn note(&mut self, pending: &Pending) {
        self.counted += usize::from(pending.is_counted());
        self.fleeting += usize::from(pending.is_fleeting());
        match &pending.request {
            Request::Read { room, known } => {
                let earlier = self.reads.insert(room.clone(), *known);
                debug_assert!(earlier.is_none(), "two reads of {room:?} wait");
            }
            Request::Claim { number, .. } if pending.doubt.is_none() => {
                self.unsent.insert(*number);
            }
            _ => {}
        }
    }

    /// Whether it is a claim that was never sent and is released.
    fn is_released(&self, pending: &Pending) -> bool {
        matches!(pending.request, Request::Claim { number, .. }
            if pending.doubt.is_none() && !self.unsent.contains(&number))
    }

    /// Puts requests back to the front, in their order.
    pub(super) fn put_back(&mut self, requests: VecDeque<Pending>) {
        for pending in requests.into_iter().rev() {
            self.note(&pending);
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
                self.discount(&pending);
                over.push(pending);
            } else {
                self.queue.push_back(pending);
            }
        }
        over
    }

    /// Takes out what is worth nothing later; returns how many there were.
    pub(super) fn drop_fleeting(&mut self) -> u64 {
        let dropped = mem::take(&mut self.fleeting);
        if dropped > 0 {
            self.queue.retain(|pending| !pending.is_fleeting());
            self.counted -= dropped;
        }
        dropped as u64
    }

    /// Takes out the reads of rooms that are left: of each, those among its first so many requests.
    /// What was asked for later is asked by who came back to it.
    pub(super) fn take_reads(&mut self, left: &HashMap<RoomName, usize>) -> Vec<Pending> {
        // All that does not count is a read.
        if left.is_empty() || self.counted == self.queue.len() {
            return Vec::new();
        }
        let mut reads = Vec::new();
        for (place, pending) in mem::take(&mut self.queue).into_iter().enumerate() {
            let is_left = !pending.is_counted()
                && pending
                    .room
                    .as_ref()
                    .and_then(|room| left.get(room))
                    .is_some_and(|before| place < *before);
            if is_left {
                if let Some(room) = &pending.room {
                    self.reads.remove(room);
                }
                reads.push(pending);
            } else {
                self.queue.push_back(pending);
            }
        }
        reads
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
            if pending.is_over(now) || self.is_released(&pending) {
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
            if let Request::Claim { number, .. } = pending.request {
                self.unsent.remove(&number);
            }
            write(&pending, out);
            batch.sent.push_back(pending);
        }
        self.put_back(left);
        batch
    }
}

/// Parts publications that a later one of their room has overtaken from all others, in order: they
/// must not come behind it. `numbered` says for a room how many of the requests were there before a
/// publication of it was numbered.
pub(super) fn part_overtaken(
    requests: VecDeque<Pending>,
    numbered: &HashMap<RoomName, usize>,
) -> (VecDeque<Pending>, VecDeque<Pending>) {
    if numbered.is_empty() {
        return (requests, VecDeque::new());
    }
    let (mut kept, mut overtaken) = (VecDeque::new(), VecDeque::new());
    for (place, pending) in requests.into_iter().enumerate() {
        let room = pending.room.as_ref().filter(|_| pending.is_append());
        let before = room.and_then(|room| numbered.get(room));
        if before.is_some_and(|before| place < *before) {
            overtaken.push_back(pending);
        } else {
            kept.push_back(pending);
        }
    }
    (kept, overtaken)
}

#[cfg(test)]
mod tests {
    use super::super::dial::Run;
    use super::*;
    use crate::base::{ConnId, Epoch, NodeId, Offset, Position, UserId};
    use crate::cluster::{Failure, Login, Shared, Token};
    use crate::wire::frame::Payload;

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

    fn read(name: &str) -> Pending {
        let (room, known) = (room(name), None);
        Pending::new(0, Request::Read { room, known }, at(0), Duration::ZERO)
    }

    fn append(name: &str, number: u64) -> Pending {
        let node = NodeId(1);
        let shared = Shared {
            token: Token { node, number },
            conn: ConnId::NONE,
            identity: None,
            payload: Payload::text("x".into()),
            is_kept: true,
        };
        let append = Request::Append {
            room: room(name),
            shared,
            key: None,
            deadline: at(1000),
        };
        Pending::new(0, append, at(0), Duration::ZERO)
    }

    #[test]
    fn reads_of_a_room_that_is_left_are_taken_out_and_nothing_else() {
        let mut waiting = Waiting::new(at(0));
        for pending in [read("a"), append("a", 1), read("b"), read("c")] {
            waiting.push(pending);
        }
        // One was left before its read was asked for.
        let left = HashMap::from([(room("a"), 4), (room("c"), 3), (room("d"), 4)]);
        let taken = waiting.take_reads(&left);
        assert_eq!(taken.len(), 1);
        assert!(taken.iter().all(|read| read.room == Some(room("a"))));
        assert_eq!(waiting.counted, 1);
        let names: Vec<_> = std::iter::from_fn(|| waiting.pop())
            .map(|pending| (pending.room, pending.request))
            .map(|(room, request)| (room, matches!(request, Request::Append { .. })))
            .collect();
        let [a, b, c] = ["a", "b", "c"].map(|name| Some(room(name)));
        assert_eq!(names, [(a, true), (b, false), (c, false)]);
        assert_eq!((waiting.counted, waiting.reads.len()), (0, 0));
        assert!(waiting.push(read("a")).is_none(), "none waits");
    }

    #[test]
    fn of_a_room_one_read_waits_and_knows_what_was_known_last() {
        let known = |offset| Known {
            position: Position {
                epoch: Epoch::from_number(1),
                offset: Offset(offset),
            },
            token: None,
        };
        let from = |offset| {
            let (room, known) = (room("a"), Some(known(offset)));
            Pending::new(0, Request::Read { room, known }, at(0), Duration::ZERO)
        };
        let mut waiting = Waiting::new(at(0));
        assert!(waiting.push(from(1)).is_none());
        assert!(waiting.push(read("b")).is_none());
        for offset in 2..100 {
            let needless = waiting.push(from(offset)).expect("one of two");
            assert!(needless.failed(Failure::Unavailable).is_some());
        }
        assert_eq!(waiting.len(), 2);
        let (_, _, mut sent) = taken(&mut waiting, at(0));
        let is_from = |pending: &Pending, offset| matches!(&pending.request, Request::Read { known: of, .. } if *of == Some(known(offset)));
        assert!(is_from(&sent[0], 99));
        // One that comes back, whether it was done or not, is the one that waits.
        sent[0].doubt = Some((at(0), run()));
        waiting.put_back(sent);
        assert!(waiting.push(from(100)).is_some());
        let (_, _, sent) = taken(&mut waiting, at(0));
        assert_eq!(sent.len(), 2);
        assert!(is_from(&sent[0], 100));
        assert!(waiting.push(from(101)).is_none(), "none waits");
    }

    fn run() -> Run {
        Run { id: "run".into() }
    }

    fn claim(number: u64) -> Pending {
        let claim = Request::Claim {
            number,
            user: UserId::new("al").expect("a good id"),
            is_exclusive: true,
            deadline: at(100),
        };
        Pending::new(0, claim, at(0), Duration::from_secs(1))
    }

    fn release(number: u64) -> Pending {
        let generation = 0;
        let release = Request::Release {
            user: UserId::new("al").expect("a good id"),
            login: Login { generation, number },
        };
        Pending::new(0, release, at(0), Duration::from_secs(1))
    }

    #[test]
    fn a_claim_that_was_not_sent_leaves_nothing_behind() {
        let mut waiting = Waiting::new(at(0));
        for number in 1..=4 {
            assert!(waiting.push(claim(number)).is_none());
        }
        // One is released while it waits, as at the end of a node: it is not sent.
        waiting.push(release(2));
        let (_, over, sent) = taken(&mut waiting, at(1));
        assert_eq!((over.len(), sent.len()), (1, 3));
        // One was not done and waits again, one may have been done.
        let mut sent = sent.into_iter();
        let (_, refused) = (sent.next(), sent.next().expect("three were sent"));
        let mut doubted = sent.next().expect("three were sent");
        doubted.doubt = Some((at(1), run()));
        waiting.put_back([refused, doubted].into());
        assert_eq!(waiting.sweep(at(101)).len(), 2);
        for number in 1..=4 {
            waiting.push(release(number));
        }
        let left = std::iter::from_fn(|| waiting.pop()).map(|pending| pending.request);
        let left = left.map(|request| match request {
            Request::Release { login, .. } => login.number,
            _ => 0,
        });
        // The first has its answer, and 2 was released before; 3 is known not to have been done.
        assert_eq!(left.collect::<Vec<_>>(), [1, 2, 4]);
        assert!(waiting.unsent.is_empty());
    }

    #[test]
    fn only_what_stood_before_the_number_of_its_room_is_overtaken() {
        let requests = || VecDeque::from([append("a", 1), append("b", 2), forget("a", 3, at(0))]);
        let check = |numbered: &[(&str, usize)], expected: [usize; 2]| {
            let numbered = numbered.iter().map(|(name, place)| (room(name), *place));
            let (kept, overtaken) = part_overtaken(requests(), &numbered.collect());
            assert_eq!([kept.len(), overtaken.len()], expected);
            overtaken
                .into_iter()
                .filter_map(|pending| pending.room)
                .collect::<Vec<_>>()
        };
        assert_eq!(check(&[], [3, 0]), []);
        assert_eq!(check(&[("a", 0), ("b", 1)], [3, 0]), []);
        assert_eq!(check(&[("a", 3), ("c", 3)], [2, 1]), [room("a")]);
        assert_eq!(check(&[("b", 2)], [2, 1]), [room("b")]);
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
    fn a_word_passes_what_waits_and_is_dropped_alone() {
        let say = || {
            let bytes = bytes::Bytes::from_static(b"x");
            let room = room("a");
            Pending::new(
                0,
                Request::Say { room, bytes },
                at(0),
                Duration::from_secs(1),
            )
        };
        let mut waiting = Waiting::new(at(0));
        let mut first = forget("a", 1, at(0));
        first.not_before = Some(at(10));
        for pending in [first, say(), forget("a", 2, at(0)), read("a")] {
            waiting.push(pending);
        }
        let (_, _, sent) = taken(&mut waiting, at(1));
        assert_eq!(sent.iter().filter(|one| one.is_fleeting()).count(), 1);
        waiting.put_back(sent);
        assert_eq!((waiting.len(), waiting.counted), (4, 3));
        assert_eq!(waiting.drop_fleeting(), 1);
        assert_eq!(waiting.drop_fleeting(), 0);
        assert_eq!((waiting.len(), waiting.counted), (3, 2));
        assert!(waiting.sweep(at(1000)).is_empty());
        waiting.push(say());
        assert_eq!(waiting.sweep(at(1001)).len(), 3, "with its time");
        assert_eq!(waiting.drop_fleeting(), 0);
    }

    #[test]
    fn reads_of_rooms_do_not_count_and_batches_have_bounds() {
        let mut waiting = Waiting::new(at(0));
        let user = UserId::new("al").expect("a good id");
        for number in 0..WAITING_MAX as u64 {
            assert!(waiting.has_room());
            waiting.push(read(&format!("r{number}")));
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
