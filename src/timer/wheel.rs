//! Hashed timing wheel: for each key one deadline, all at constant cost.
//!
//! Owns: the deadline of each key, rounded up to a tick, and the lists that say which keys share a
//! bucket. Keys are dense small integers, such as the slots of a slab.
//! Never: reads a clock, calls back, knows what a key means, or allocates once it has seen its
//! greatest key.
//!
//! This is scheme 6 of G. Varghese and T. Lauck, "Hashed and Hierarchical Timing Wheels" (1987).
//! The deadline in ticks modulo the number of buckets names the bucket. A deadline beyond one
//! revolution stays in its bucket and is looked at once a revolution, so nothing is ever moved
//! between levels.
//!
//! Invariants
//! - A key is in at most one list, that of the bucket its tick names.
//! - No entry has a tick before `cursor`, and `cursor` never goes back.
//! - A tick is 16 ms and rounding is up: a key never expires early, and not more than a tick late.
//! - A bit of the bitmap is set exactly when its bucket has a key.
//! - `set` only gives ticks that `poll_expired` has not yet been asked about. A caller that re-sets
//!   every key it is given therefore still reaches the end of the turn.

use std::time::Duration;

use crate::base::Instant;

/// Deadlines of many keys, asked "who is due?" once a turn of the loop.
#[derive(Debug)]
pub struct Wheel {
    start: Instant,
    /// Indexed by key; the list links live in here, so an operation allocates nothing.
    entries: Vec<Entry>,
    /// First key of each bucket, or `NIL`.
    heads: Box<[u32; BUCKETS]>,
    occupied: Occupied,
    len: usize,
    /// First tick whose bucket has not been visited to its end.
    cursor: u64,
    /// How far the visit of the bucket of `cursor` has come.
    visit: Visit,
    /// First tick `poll_expired` has not been asked about; every entry before it is due.
    horizon: u64,
    /// End (excluded) of the ticks whose buckets are still to be visited to find all that is due.
    /// Before `horizon` only when time has jumped by more than a revolution.
    sweep_end: u64,
    #[cfg(test)]
    visits: u64,
}

impl Wheel {
    /// Returns an empty wheel whose ticks are counted from `start`; earlier instants count as
    /// `start`.
    #[must_use]
    pub fn new(start: Instant) -> Self {
        Self {
            start,
            entries: Vec::new(),
            heads: Box::new([NIL; BUCKETS]),
            occupied: Occupied::new(),
            len: 0,
            cursor: 0,
            visit: Visit::Ahead,
            horizon: 0,
            sweep_end: 0,
            #[cfg(test)]
            visits: 0,
        }
    }

    /// Inserts `key`, or moves it if it is already here.
    ///
    /// A deadline in the past is due at once, but not in a tick for which [`Self::poll_expired`]
    /// has already been called: within that tick it waits for the next one. Deadlines more than 584
    /// years after the start are never due.
    ///
    /// Memory is 16 bytes for every key up to the greatest one ever set. Panics if `key` is
    /// `u32::MAX`.
    #[inline]
    pub fn set(&mut self, key: u32, deadline: Instant) {
        let tick = self.tick_for(deadline);
        self.place(key, tick);
    }

    /// Does what [`Self::set`] does, unless `key` is here with a deadline that is not later.
    ///
    /// Deadlines that round up to the same tick count as equal.
    #[inline]
    pub fn set_earlier(&mut self, key: u32, deadline: Instant) {
        let tick = self.tick_for(deadline);
        // `ABSENT` is greater than any tick, so an absent key needs no case of its own.
        if tick < self.tick_of(key) {
            self.place(key, tick);
        }
    }

    /// Removes `key`; does nothing when it is not here.
    #[inline]
    pub fn cancel(&mut self, key: u32) {
        if self.contains(key) {
            self.remove(key);
        }
    }

    /// Removes one key that is due at `now` and returns it, or returns `None` when none is left.
    ///
    /// The caller may stop after any key and go on later, with the same `now` or a later one;
    /// nothing is lost. Between two calls every other method may be used. A key that is set again,
    /// even to a deadline in the past, is not returned before the next tick. A `now` that goes
    /// backwards is taken for the latest one seen.
    ///
    /// Keys come in the order of their ticks as long as calls are less than a revolution (65 s)
    /// apart; within a tick the order is unspecified. For one `now` a bucket is visited at most
    /// once, however far time has jumped, and empty buckets are not visited at all.
    #[inline]
    pub fn poll_expired(&mut self, now: Instant) -> Option<u32> {
        let horizon = self.nanos_since_start(now) / TICK_NANOS + 1;
        if horizon > self.horizon {
            self.extend_horizon(horizon);
        }
        if self.cursor == self.horizon {
            return None;
        }
        self.sweep()
    }

    /// Returns the instant at which [`Self::poll_expired`] should be called next, `None` when
    /// empty.
    ///
    /// It is never later than the tick of the earliest entry. It is earlier when the next occupied
    /// bucket holds only entries of later revolutions. Once `poll_expired` has returned `None` it
    /// lies after the `now` given there, so a loop that waits for it cannot spin; while keys are
    /// still due it does not lie after that `now`.
    #[inline]
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let tick = self.cursor + self.occupied.distance_from(bucket(self.cursor))?;
        Some(self.start + Duration::from_millis(tick * TICK_MS))
    }

    /// Returns how many keys are here.
    #[inline]
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Returns whether no key is here.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns whether `key` is here.
    #[inline]
    #[must_use]
    pub fn contains(&self, key: u32) -> bool {
        self.tick_of(key) != ABSENT
    }

    /// Panics unless lists, bitmap, counts and positions agree.
    ///
    /// For tests: walks every bucket and every entry, so it is not called from the other methods.
    pub fn check_invariants(&self) {
        let mut listed = 0;
        for (index, &head) in self.heads.iter().enumerate() {
            assert_eq!(self.occupied.has(index), head != NIL, "bit of {index}");
            let mut prev = NIL;
            let mut key = head;
            while key != NIL {
                let entry = &self.entries[key as usize];
                assert_ne!(entry.tick, ABSENT, "{key} is listed but absent");
                assert_eq!(bucket(entry.tick), index, "{key} is in another's list");
                assert_eq!(entry.prev, prev, "back link of {key}");
                assert!(entry.tick >= self.cursor, "{key} was passed over");
                listed += 1;
                // Also ends the walk when a list bites its own tail.
                assert!(listed <= self.len, "more keys listed than counted");
                (prev, key) = (key, entry.next);
            }
        }
        assert_eq!(listed, self.len, "keys listed and keys counted");
        let present = self.entries.iter().filter(|entry| entry.tick != ABSENT);
        assert_eq!(present.count(), self.len, "keys present and keys counted");
        self.occupied.check_invariants();

        assert!(self.cursor <= self.sweep_end || self.cursor == self.horizon);
        assert!(self.sweep_end <= self.horizon && self.cursor <= self.horizon);
        if let Visit::At(key) = self.visit {
            assert!(self.cursor < self.sweep_end, "a visit outside the sweep");
            if key != NIL {
                let tick = self.tick_of(key);
                assert_ne!(tick, ABSENT, "the visit stopped at an absent key");
                assert_eq!(bucket(tick), bucket(self.cursor), "the visit left its list");
            }
        }
    }

    /// Makes every tick before `horizon` due, and plans which buckets must be visited for that.
    fn extend_horizon(&mut self, horizon: u64) {
        let revolution_end = self.cursor + BUCKETS as u64;
        if horizon > revolution_end {
            // Keys that this visit has left behind as not due may be due by now. Without so large a
            // step they cannot be: they lie at least one revolution after `cursor`.
            self.visit = Visit::Ahead;
        }
        self.horizon = horizon;
        // One revolution from `cursor` on meets every bucket, and a visit takes all that is due.
        self.sweep_end = horizon.min(revolution_end);
    }

    /// Goes on from where the last call stopped, to the next due key or to the end of the sweep.
    fn sweep(&mut self) -> Option<u32> {
        loop {
            match self.visit {
                Visit::Ahead => {
                    let distance = self.occupied.distance_from(bucket(self.cursor));
                    let next = distance.map(|distance| self.cursor + distance);
                    let Some(tick) = next.filter(|&tick| tick < self.sweep_end) else {
                        self.cursor = self.horizon;
                        return None;
                    };
                    self.cursor = tick;
                    self.visit = Visit::At(self.heads[bucket(tick)]);
                    #[cfg(test)]
                    {
                        self.visits += 1;
                    }
                }
                Visit::At(NIL) => {
                    self.cursor += 1;
                    self.visit = Visit::Ahead;
                }
                Visit::At(key) => {
                    let entry = &self.entries[key as usize];
                    if entry.tick < self.horizon {
                        // Removing the key moves the visit on.
                        self.remove(key);
                        return Some(key);
                    }
                    self.visit = Visit::At(entry.next);
                }
            }
        }
    }

    #[inline]
    fn place(&mut self, key: u32, tick: u64) {
        let index = key as usize;
        if index >= self.entries.len() {
            self.grow_to(key);
        }
        let old = self.entries[index].tick;
        if old == ABSENT {
            self.len += 1;
        } else if bucket(old) == bucket(tick) {
            self.entries[index].tick = tick;
            return;
        } else {
            self.unlink(key);
        }
        self.link(key, tick);
    }

    #[inline]
    fn remove(&mut self, key: u32) {
        self.unlink(key);
        self.entries[key as usize].tick = ABSENT;
        self.len -= 1;
    }

    /// Puts an unlinked key at the head of its list: before the position of a visit in progress,
    /// which need not see it, since its tick is not due.
    #[inline]
    fn link(&mut self, key: u32, tick: u64) {
        let bucket = bucket(tick);
        let next = self.heads[bucket];
        self.heads[bucket] = key;
        if next == NIL {
            self.occupied.insert(bucket);
        } else {
            self.entries[next as usize].prev = key;
        }
        self.entries[key as usize] = Entry {
            tick,
            prev: NIL,
            next,
        };
    }

    /// Takes a linked key out of its list; its entry is left stale.
    #[inline]
    fn unlink(&mut self, key: u32) {
        let Entry { tick, prev, next } = self.entries[key as usize];
        if self.visit == Visit::At(key) {
            self.visit = Visit::At(next);
        }
        if next != NIL {
            self.entries[next as usize].prev = prev;
        }
        if prev != NIL {
            self.entries[prev as usize].next = next;
            return;
        }
        let bucket = bucket(tick);
        self.heads[bucket] = next;
        if next == NIL {
            self.occupied.remove(bucket);
        }
    }

    #[cold]
    fn grow_to(&mut self, key: u32) {
        assert_ne!(key, NIL, "the greatest u32 marks the end of a list");
        // `Vec` grows geometrically, so n new keys cost O(n) in all.
        self.entries.resize(key as usize + 1, Entry::EMPTY);
    }

    #[inline]
    fn tick_for(&self, deadline: Instant) -> u64 {
        let tick = self.nanos_since_start(deadline).div_ceil(TICK_NANOS);
        tick.max(self.horizon)
    }

    #[inline]
    fn tick_of(&self, key: u32) -> u64 {
        self.entries.get(key as usize).map_or(ABSENT, |e| e.tick)
    }

    #[inline]
    fn nanos_since_start(&self, instant: Instant) -> u64 {
        let nanos = instant.saturating_duration_since(self.start).as_nanos();
        u64::try_from(nanos).unwrap_or(u64::MAX)
    }
}

/// One key's place: 16 bytes.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// The tick at which the key is due, or `ABSENT`; the links mean nothing then.
    tick: u64,
    prev: u32,
    next: u32,
}

impl Entry {
    const EMPTY: Self = Self {
        tick: ABSENT,
        prev: NIL,
        next: NIL,
    };
}

/// Where `poll_expired` goes on inside the bucket of `cursor`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Visit {
    /// The bucket has not been begun.
    Ahead,
    /// This key is the next to be looked at; `NIL` when all have been.
    At(u32),
}

/// Which buckets have a key, as one bit each and one summary bit for each word of them.
#[derive(Debug)]
struct Occupied {
    summary: u64,
    words: [u64; WORDS],
}

impl Occupied {
    const fn new() -> Self {
        Self {
            summary: 0,
            words: [0; WORDS],
        }
    }

    #[inline]
    fn insert(&mut self, bucket: usize) {
        self.words[bucket / WORD_BITS] |= 1 << (bucket % WORD_BITS);
        self.summary |= 1 << (bucket / WORD_BITS);
    }

    #[inline]
    fn remove(&mut self, bucket: usize) {
        let word = &mut self.words[bucket / WORD_BITS];
        *word &= !(1 << (bucket % WORD_BITS));
        if *word == 0 {
            self.summary &= !(1 << (bucket / WORD_BITS));
        }
    }

    /// Returns how many buckets after `bucket` the next occupied one lies, going round the end; 0
    /// when `bucket` itself is occupied, `None` when no bucket is.
    #[inline]
    fn distance_from(&self, bucket: usize) -> Option<u64> {
        let (word, bit) = (bucket / WORD_BITS, bucket % WORD_BITS);
        let ahead = self.words[word] >> bit;
        if ahead != 0 {
            return Some(u64::from(ahead.trailing_zeros()));
        }
        if self.summary == 0 {
            return None;
        }
        // Seen from the next word, `word` itself comes last. Should it be the one found, its bits
        // are all before `bucket`, a whole revolution away less the difference.
        let following = (word + 1) % WORDS;
        let skipped = self.summary.rotate_right(following as u32).trailing_zeros();
        let found = (following + skipped as usize) % WORDS;
        let target = found * WORD_BITS + self.words[found].trailing_zeros() as usize;
        Some((target.wrapping_sub(bucket) % BUCKETS) as u64)
    }

    fn has(&self, bucket: usize) -> bool {
        self.words[bucket / WORD_BITS] >> (bucket % WORD_BITS) & 1 == 1
    }

    fn check_invariants(&self) {
        for (index, &word) in self.words.iter().enumerate() {
            assert_eq!(self.summary >> index & 1 == 1, word != 0, "word {index}");
        }
    }
}

#[inline]
const fn bucket(tick: u64) -> usize {
    (tick % BUCKETS as u64) as usize
}

/// Length of a tick: fine enough for pings and write deadlines, coarse enough to serve many at
/// once.
const TICK_MS: u64 = 16;
const TICK_NANOS: u64 = TICK_MS * 1_000_000;
/// One revolution is 65.536 s, longer than the usual ping interval, so that most entries are looked
/// at only when they are due.
const BUCKETS: usize = 4096;
const WORD_BITS: usize = 64;
/// As many words as the summary has bits, which is why two levels suffice.
const WORDS: usize = BUCKETS / WORD_BITS;
/// Ends a list; hence not a key.
const NIL: u32 = u32::MAX;
/// The tick of a key that is not here; ticks of 16 ms in 64 bits of nanoseconds cannot reach it.
const ABSENT: u64 = u64::MAX;

const _: () = assert!(BUCKETS.is_power_of_two() && WORDS == WORD_BITS);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Prng;

    const TICK: Duration = Duration::from_millis(TICK_MS);
    const NANO: Duration = Duration::from_nanos(1);
    const REVOLUTION: Duration = Duration::from_millis(TICK_MS * BUCKETS as u64);
    const DAY: Duration = Duration::from_secs(86_400);

    /// A wheel together with its start, so that tests can speak of time since then.
    struct Rig {
        wheel: Wheel,
        start: Instant,
    }

    impl Rig {
        fn new() -> Self {
            // Any instant does; std has no other way to make one.
            let start = Instant::ORIGIN;
            let wheel = Wheel::new(start);
            Self { wheel, start }
        }

        fn set(&mut self, key: u32, at: Duration) {
            self.wheel.set(key, self.start + at);
            self.wheel.check_invariants();
        }

        fn set_earlier(&mut self, key: u32, at: Duration) {
            self.wheel.set_earlier(key, self.start + at);
            self.wheel.check_invariants();
        }

        fn cancel(&mut self, key: u32) {
            self.wheel.cancel(key);
            self.wheel.check_invariants();
        }

        fn poll(&mut self, at: Duration) -> Option<u32> {
            let key = self.wheel.poll_expired(self.start + at);
            self.wheel.check_invariants();
            key
        }

        /// All keys due at `at`, sorted.
        fn expire(&mut self, at: Duration) -> Vec<u32> {
            let mut keys: Vec<u32> = std::iter::from_fn(|| self.poll(at)).collect();
            keys.sort_unstable();
            keys
        }

        fn next_deadline(&self) -> Option<Duration> {
            let next = self.wheel.next_deadline();
            next.map(|instant| instant.saturating_duration_since(self.start))
        }
    }

    #[test]
    fn an_empty_wheel_has_nothing_to_say() {
        let mut rig = Rig::new();
        assert_eq!(rig.wheel.len(), 0);
        assert!(rig.wheel.is_empty());
        assert_eq!(rig.next_deadline(), None);
        assert_eq!(rig.poll(DAY), None);
        rig.cancel(0);
        rig.cancel(NIL);
        assert!(!rig.wheel.contains(7));
    }

    #[test]
    fn deadlines_round_up_to_the_tick() {
        let check = |deadline: Duration, due: Duration| {
            let mut rig = Rig::new();
            rig.set(3, deadline);
            assert!(rig.next_deadline() <= Some(due), "{deadline:?}");
            if due > Duration::ZERO {
                assert_eq!(rig.poll(due - NANO), None, "{deadline:?} came early");
                assert_eq!(rig.next_deadline(), Some(due), "{deadline:?}");
            }
            assert_eq!(rig.poll(due), Some(3), "{deadline:?} came late");
            assert_eq!(rig.poll(due), None);
            assert!(rig.wheel.is_empty());
        };
        check(Duration::ZERO, Duration::ZERO);
        check(NANO, TICK);
        check(TICK - NANO, TICK);
        check(TICK, TICK);
        check(TICK + NANO, TICK * 2);
        check(REVOLUTION - NANO, REVOLUTION);
        check(REVOLUTION - TICK, REVOLUTION - TICK);
    }

    #[test]
    fn instants_before_the_start_count_as_the_start() {
        let start = Instant::ORIGIN + DAY;
        let mut wheel = Wheel::new(start);
        wheel.set(1, start - DAY);
        assert_eq!(wheel.next_deadline(), Some(start));
        assert_eq!(wheel.poll_expired(start - DAY), Some(1));
    }

    #[test]
    fn later_revolutions_stay_until_their_turn() {
        let mut rig = Rig::new();
        let deadlines = [0, 1, 2, 5].map(|n| TICK * 10 + REVOLUTION * n);
        for (key, at) in (0..).zip(deadlines) {
            rig.set(key, at);
        }
        for (key, at) in (0..).zip(deadlines) {
            assert_eq!(rig.expire(at - NANO), [0u32; 0], "key {key} came early");
            assert_eq!(rig.expire(at), [key]);
        }
        assert!(rig.wheel.is_empty());
    }

    #[test]
    fn next_deadline_wakes_once_a_revolution_for_a_far_entry() {
        let mut rig = Rig::new();
        let deadline = TICK * 10 + REVOLUTION * 3;
        rig.set(1, deadline);
        let mut wakes = 0;
        while rig.wheel.contains(1) {
            let wake = rig.next_deadline().expect("one entry is left");
            assert!(wake <= deadline);
            let expired = rig.poll(wake);
            assert_eq!(expired.is_some(), wake == deadline);
            wakes += 1;
        }
        assert_eq!(wakes, 4);
    }

    #[test]
    fn set_moves_and_set_earlier_only_moves_forward() {
        let mut rig = Rig::new();
        rig.set(1, TICK * 50);
        rig.set(1, TICK * 20);
        rig.set(1, TICK * 90);
        assert_eq!(rig.wheel.len(), 1);
        rig.set_earlier(1, TICK * 91);
        rig.set_earlier(1, TICK * 90);
        assert_eq!(rig.next_deadline(), Some(TICK * 90));
        rig.set_earlier(1, TICK * 30);
        rig.set_earlier(1, TICK * 40);
        assert_eq!(rig.next_deadline(), Some(TICK * 30));
        rig.set_earlier(2, TICK * 31);
        assert_eq!(rig.wheel.len(), 2);
        assert_eq!(rig.expire(TICK * 30), [1]);
        assert_eq!(rig.expire(TICK * 31), [2]);
    }

    #[test]
    fn a_move_within_the_bucket_changes_the_revolution() {
        let mut rig = Rig::new();
        rig.set(1, TICK * 5);
        rig.set(2, TICK * 5);
        rig.set(1, TICK * 5 + REVOLUTION);
        assert_eq!(rig.expire(TICK * 5), [2]);
        rig.set_earlier(1, TICK * 5 + REVOLUTION - TICK);
        assert_eq!(rig.expire(REVOLUTION + TICK * 4), [1]);
    }

    #[test]
    fn cancel_takes_from_every_place_of_a_list() {
        for gone in 0..4 {
            let mut rig = Rig::new();
            for key in 0..4 {
                rig.set(key, TICK * 8);
            }
            rig.cancel(gone);
            rig.cancel(gone);
            assert!(!rig.wheel.contains(gone));
            let left: Vec<u32> = (0..4).filter(|&key| key != gone).collect();
            assert_eq!(rig.expire(TICK * 8), left);
            assert_eq!(rig.next_deadline(), None);
        }
    }

    #[test]
    fn other_keys_may_be_cancelled_and_moved_in_the_middle_of_expiry() {
        let mut rig = Rig::new();
        for key in 0..6 {
            rig.set(key, TICK * 8);
        }
        let first = rig.poll(TICK * 8).expect("six are due");
        let rest: Vec<u32> = (0..6).filter(|&key| key != first).collect();
        // Whatever the order inside a bucket, one of these is the key the visit stands at.
        rig.cancel(rest[0]);
        rig.cancel(rest[4]);
        rig.set(rest[1], TICK * 9);
        rig.set(rest[3], TICK * 8 + REVOLUTION);
        assert_eq!(rig.expire(TICK * 8), [rest[2]]);
        assert_eq!(rig.expire(TICK * 9), [rest[1]]);
        assert_eq!(rig.expire(TICK * 8 + REVOLUTION), [rest[3]]);
    }

    #[test]
    fn the_whole_bucket_may_be_cancelled_in_the_middle_of_its_visit() {
        let mut rig = Rig::new();
        for key in 0..3 {
            rig.set(key, TICK * 8);
        }
        rig.set(3, TICK * 9);
        let first = rig.poll(TICK * 9).expect("four are due");
        for key in (0..3).filter(|&key| key != first) {
            rig.cancel(key);
        }
        assert_eq!(rig.expire(TICK * 9), [3]);
    }

    #[test]
    fn a_key_set_to_the_past_while_expiring_waits_for_the_next_tick() {
        let mut rig = Rig::new();
        rig.set(1, TICK);
        rig.set(2, TICK * 3);
        let now = TICK * 3 + TICK / 2;
        assert_eq!(rig.poll(now), Some(1));
        rig.set(1, Duration::ZERO);
        assert_eq!(rig.poll(now), Some(2));
        rig.set(2, now);
        assert_eq!(rig.poll(now), None, "the turn has an end");
        assert_eq!(rig.next_deadline(), Some(TICK * 4));
        assert_eq!(rig.poll(TICK * 4 - NANO), None, "it is still the same tick");
        assert_eq!(rig.expire(TICK * 4), [1, 2]);
    }

    #[test]
    fn a_past_deadline_set_before_the_expiry_of_a_later_tick_is_due_in_it() {
        let mut rig = Rig::new();
        assert_eq!(rig.poll(TICK * 10), None);
        rig.set(1, TICK * 2);
        assert_eq!(rig.expire(TICK * 10), [0u32; 0]);
        assert_eq!(rig.expire(TICK * 11), [1]);
        rig.set(1, TICK * 2);
        assert_eq!(rig.expire(TICK * 500), [1]);
    }

    #[test]
    fn expiry_may_stop_after_any_key_and_go_on_in_a_later_turn() {
        let mut rig = Rig::new();
        for key in 0..100 {
            rig.set(key, TICK * (key / 10));
        }
        let mut expired = Vec::new();
        let mut now = TICK * 4;
        while expired.len() < 100 {
            let ticks = now.as_nanos() / TICK.as_nanos();
            let due = 10 * (ticks as usize + 1).min(10);
            for _ in 0..7.min(due - expired.len()) {
                let key = rig.poll(now).expect("more are due");
                assert!(TICK * (key / 10) <= now);
                expired.push(key);
            }
            if expired.len() < due {
                let next = rig.next_deadline().expect("more are due");
                assert!(next <= now, "the loop must not wait while keys are due");
            }
            now += TICK / 2;
        }
        assert_eq!(rig.poll(now), None);
        let ticks: Vec<u32> = expired.iter().map(|key| key / 10).collect();
        assert!(ticks.is_sorted(), "keys come in the order of their ticks");
        expired.sort_unstable();
        assert_eq!(expired, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn a_stop_in_the_middle_of_a_bucket_survives_a_jump_of_a_revolution() {
        let mut rig = Rig::new();
        // All in one bucket, so that keys already passed over become due by the jump.
        for key in 0..8 {
            rig.set(key, TICK * 5 + REVOLUTION * (key % 2));
        }
        let first = rig.poll(TICK * 5).expect("four are due");
        let second = rig.poll(TICK * 5).expect("three are due");
        let rest: Vec<u32> = (0..8).filter(|k| ![first, second].contains(k)).collect();
        assert_eq!(rig.expire(TICK * 5 + REVOLUTION), rest);
    }

    #[test]
    fn a_jump_of_years_visits_each_occupied_bucket_once() {
        let mut rig = Rig::new();
        for key in 0..1_000 {
            rig.wheel
                .set(key, rig.start + TICK * key + REVOLUTION * (key % 3));
        }
        rig.wheel.set(5_000, rig.start + DAY * 40_000);
        let now = rig.start + DAY * 30_000;
        let due = std::iter::from_fn(|| rig.wheel.poll_expired(now)).count();
        assert_eq!(due, 1_000);
        assert!(rig.wheel.visits <= 1_001, "{} visits", rig.wheel.visits);
        let next = rig.wheel.next_deadline().expect("the far key is left");
        assert!(next > now, "the loop would spin");
        rig.wheel.check_invariants();

        let before = rig.wheel.visits;
        assert_eq!(rig.poll(DAY * 40_000 - TICK), None);
        assert_eq!(rig.wheel.visits, before + 1);
        assert_eq!(rig.poll(DAY * 40_000), Some(5_000));
    }

    #[test]
    fn a_jump_taken_in_small_budgets_still_costs_one_revolution() {
        let mut rig = Rig::new();
        for key in 0..4_096 {
            rig.wheel
                .set(key, rig.start + TICK * key + REVOLUTION * (key % 5));
        }
        let now = rig.start + DAY * 10;
        for polled in 0..4_096 {
            let key = rig.wheel.poll_expired(now).expect("all are due");
            // Goes into a bucket still ahead of the sweep, where it must be passed over.
            rig.wheel.set(key, rig.start);
            assert_eq!(rig.wheel.len(), 4_096, "after {polled}");
        }
        assert_eq!(rig.wheel.poll_expired(now), None);
        assert!(rig.wheel.visits <= 4_097, "{} visits", rig.wheel.visits);
        rig.wheel.check_invariants();
        assert_eq!(rig.expire(DAY * 10 + TICK).len(), 4_096);
    }

    #[test]
    fn time_going_backwards_is_ignored() {
        let mut rig = Rig::new();
        rig.set(1, TICK * 10);
        rig.set(2, TICK * 10);
        rig.set(3, TICK * 20);
        assert!(rig.poll(TICK * 10).is_some());
        assert!(rig.poll(TICK * 2).is_some(), "the other was due already");
        assert_eq!(rig.poll(TICK * 2), None);
        assert_eq!(rig.next_deadline(), Some(TICK * 20));
        assert_eq!(rig.expire(TICK * 20), [3]);
    }

    #[test]
    fn deadlines_past_the_end_of_time_are_kept_and_harmless() {
        let mut rig = Rig::new();
        rig.set(1, DAY * 365 * 1_000);
        rig.set(2, DAY * 365 * 500);
        assert_eq!(rig.expire(DAY * 365 * 500), [2]);
        assert_eq!(rig.expire(DAY * 365 * 2_000), [0u32; 0]);
        assert_eq!(rig.wheel.len(), 1);
        assert!(rig.next_deadline().is_some());
        rig.cancel(1);
        assert!(rig.wheel.is_empty());
    }

    #[test]
    fn big_keys_grow_the_table_and_leave_the_rest_absent() {
        let mut rig = Rig::new();
        rig.set(3_000_000, TICK);
        assert!(!rig.wheel.contains(2_999_999));
        assert!(!rig.wheel.contains(3_000_001));
        rig.set(0, TICK);
        assert_eq!(rig.wheel.len(), 2);
        assert_eq!(rig.expire(TICK), [0, 3_000_000]);
    }

    #[test]
    #[should_panic(expected = "marks the end of a list")]
    fn the_greatest_key_is_refused() {
        Rig::new().set(NIL, TICK);
    }

    #[test]
    fn the_next_occupied_bucket_is_found_from_everywhere() {
        let mut prng = Prng::new(7);
        for marks in [1, 2, 64, 1_000] {
            let mut occupied = Occupied::new();
            for _ in 0..marks {
                occupied.insert(prng.below(BUCKETS as u64) as usize);
            }
            occupied.check_invariants();
            for from in (0..BUCKETS).step_by(13) {
                let naive = (0..BUCKETS).find(|n| occupied.has((from + n) % BUCKETS));
                let found = occupied.distance_from(from);
                assert_eq!(found.map(|n| n as usize), naive, "from {from}");
            }
            for bucket in 0..BUCKETS {
                occupied.remove(bucket);
            }
            occupied.check_invariants();
            assert_eq!(occupied.distance_from(0), None);
        }
    }

    #[test]
    fn two_days_of_ten_thousand_pinging_connections() {
        const CONNECTIONS: u32 = 10_000;
        const PING_INTERVAL: Duration = Duration::from_secs(54);
        let mut rig = Rig::new();
        let mut prng = Prng::new(8);
        let mut deadlines = Vec::new();
        for key in 0..CONNECTIONS {
            let deadline = rig.start + prng.between(Duration::ZERO, PING_INTERVAL);
            rig.wheel.set(key, deadline);
            deadlines.push(deadline);
        }
        let end = rig.start + DAY * 2;
        let mut pings = 0_u64;
        loop {
            let now = rig.wheel.next_deadline().expect("nobody leaves");
            if now > end {
                break;
            }
            while let Some(key) = rig.wheel.poll_expired(now) {
                let deadline = &mut deadlines[key as usize];
                let late = now.saturating_duration_since(*deadline);
                assert!(now >= *deadline && late < TICK, "{key} late {late:?}");
                *deadline = now + PING_INTERVAL;
                rig.wheel.set(key, *deadline);
                pings += 1;
            }
        }
        rig.wheel.check_invariants();
        assert_eq!(rig.wheel.len(), CONNECTIONS as usize);
        let expected = u64::from(CONNECTIONS) * (2 * 86_400 / 54);
        assert!(
            pings.abs_diff(expected) <= u64::from(CONNECTIONS),
            "{pings}"
        );
    }
}
