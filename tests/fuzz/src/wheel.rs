//! The timer wheel against a sorted map from key to the tick at which it is due.

use std::collections::BTreeMap;
use std::time::Duration;

use roomcast::base::Instant;
use roomcast::timer::Wheel;

use super::input::Input;

const TICK: u64 = 16_000_000;
const REVOLUTION: u64 = TICK * 4096;
const DAY: u64 = 86_400 * 1_000_000_000;
const KEYS: u32 = 16;

/// Each byte is a step, with what it needs behind it.
pub fn check(data: &[u8]) {
    let mut input = Input(data);
    let mut pair = Pair::new();
    for number in 1_u64.. {
        if input.is_empty() {
            break;
        }
        pair.step(&mut input);
        pair.compare();
        // Walks all buckets, which takes longer than everything else.
        if number.is_multiple_of(8) {
            pair.wheel.check_invariants();
        }
    }
    // Every key comes out in the end, once.
    let last = pair.now + 1000 * DAY;
    let all = pair.due.len() + 1;
    assert!(pair.turn(last, all, None), "a key came twice");
    pair.wheel.check_invariants();
    assert!(pair.wheel.is_empty());
}

struct Pair {
    wheel: Wheel,
    /// When each key becomes due, and the deadline that was asked for.
    due: BTreeMap<u32, (u64, u64)>,
    /// The latest time that the wheel was shown.
    now: u64,
    /// The first tick that no turn has asked about.
    unasked: u64,
}

fn at(nanos: u64) -> Instant {
    Instant::ORIGIN + Duration::from_nanos(nanos)
}

impl Pair {
    fn new() -> Self {
        Self {
            wheel: Wheel::new(Instant::ORIGIN),
            due: BTreeMap::new(),
            now: 0,
            unasked: 0,
        }
    }

    /// A span close to where an off-by-one would show.
    fn span(input: &mut Input<'_>) -> u64 {
        let unit = input.one_of(&[1, TICK, TICK, TICK, REVOLUTION, REVOLUTION, DAY, DAY / 7]);
        let count = u64::from(input.byte() % 8);
        let around = input.one_of(&[0, 0, 0, 1, 2, TICK, 2 * TICK]);
        (unit * count + around).saturating_sub(input.one_of(&[0, 0, 1, TICK]))
    }

    fn deadline(&self, input: &mut Input<'_>) -> u64 {
        let span = Self::span(input);
        match input.byte() % 4 {
            0 => self.now.saturating_sub(span),
            _ => self.now + span,
        }
    }

    fn due_at(&self, deadline: u64) -> u64 {
        deadline.next_multiple_of(TICK).max(self.unasked)
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let how = input.byte();
        let key = u32::from(input.byte()) % KEYS;
        match how % 8 {
            0..3 => {
                let deadline = self.deadline(input);
                self.set(key, deadline);
            }
            3 => {
                let deadline = self.deadline(input);
                let due = self.due_at(deadline);
                self.wheel.set_earlier(key, at(deadline));
                if self.due.get(&key).is_none_or(|(old, _)| due < *old) {
                    self.due.insert(key, (due, deadline));
                }
            }
            4 => {
                self.wheel.cancel(key);
                self.due.remove(&key);
            }
            5 | 6 => {
                let to = self.now + Self::span(input);
                let again = (how & 0x80 != 0).then(|| Self::span(input));
                self.turn(to, 1 + key as usize, again);
            }
            _ => {
                let back = self.now.saturating_sub(Self::span(input));
                self.turn(back, 1, None);
            }
        }
    }

    fn set(&mut self, key: u32, deadline: u64) {
        self.wheel.set(key, at(deadline));
        self.due.insert(key, (self.due_at(deadline), deadline));
    }

    /// Takes up to `budget` keys, each set anew where `again` says to when. Returns whether the wheel
    /// said that there are no more.
    fn turn(&mut self, to: u64, budget: usize, again: Option<u64>) -> bool {
        for _ in 0..budget {
            let polled = self.wheel.poll_expired(at(to));
            self.now = self.now.max(to);
            self.unasked = (self.now / TICK + 1) * TICK;
            let Some(key) = polled else {
                assert!(
                    self.due.values().all(|(due, _)| *due > self.now),
                    "a key that is due was not returned"
                );
                let next = self.wheel.next_deadline();
                assert!(
                    next.is_none_or(|next| next > at(self.now)),
                    "a loop would spin"
                );
                return true;
            };
            let (due, deadline) = self.due.remove(&key).expect("a key that is in the map");
            assert!(due <= self.now && deadline <= self.now, "{key} came early");
            if let Some(span) = again {
                self.set(key, self.now.saturating_sub(span));
            }
        }
        false
    }

    fn compare(&self) {
        assert_eq!(self.wheel.len(), self.due.len());
        for key in 0..KEYS {
            assert_eq!(self.wheel.contains(key), self.due.contains_key(&key));
        }
        let earliest = self.due.values().map(|(due, _)| *due).min();
        let next = self.wheel.next_deadline();
        assert_eq!(next.is_some(), earliest.is_some());
        if let (Some(next), Some(earliest)) = (next, earliest) {
            assert!(next <= at(earliest), "a loop would oversleep");
        }
    }
}
