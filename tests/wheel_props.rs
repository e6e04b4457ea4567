//! The timer wheel against a naive model: a sorted map from key to the instant it becomes due.
//!
//! Times are nanoseconds since the start of the wheel. They are drawn close to the places where an
//! off-by-one would show: ticks, revolutions, the present, and days away.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use roomcast::base::Instant;
use roomcast::timer::Wheel;

const TICK: u64 = 16_000_000;
const REVOLUTION: u64 = TICK * 4096;
const DAY: u64 = 86_400 * 1_000_000_000;
const KEYS: u32 = 24;

#[derive(Clone, Debug)]
enum Step {
    Set(u32, Offset),
    SetEarlier(u32, Offset),
    Cancel(u32),
    /// Moves the clock, then takes at most so many keys. For each key taken, says whether it is set
    /// again and to what, as a connection does that has to be pinged again.
    Turn {
        forward: u64,
        budget: usize,
        again: Option<Offset>,
    },
    /// Shows the wheel a clock that has gone back.
    TurnBack(u64),
}

/// A distance from the present.
#[derive(Clone, Copy, Debug)]
enum Offset {
    Past(u64),
    Future(u64),
}

#[derive(Default)]
struct Model {
    /// When each key becomes due. A `Turn` at this instant or later must return it.
    due: BTreeMap<u32, u64>,
    /// The latest instant the wheel has been shown.
    now: u64,
    /// The first tick, in nanoseconds, that no turn has asked about.
    unasked: u64,
}

impl Model {
    fn at(&self, offset: Offset) -> u64 {
        match offset {
            Offset::Past(nanos) => self.now.saturating_sub(nanos),
            Offset::Future(nanos) => self.now + nanos,
        }
    }

    fn due_for(&self, deadline: u64) -> u64 {
        deadline.next_multiple_of(TICK).max(self.unasked)
    }

    fn turn(&mut self, now: u64) {
        self.now = self.now.max(now);
        self.unasked = (self.now / TICK + 1) * TICK;
    }
}

struct Pair {
    start: Instant,
    wheel: Wheel,
    model: Model,
    /// The deadline asked for, to see that no key comes before it.
    deadlines: BTreeMap<u32, u64>,
}

impl Pair {
    fn new() -> Self {
        let start = Instant::ORIGIN;
        Self {
            start,
            wheel: Wheel::new(start),
            model: Model::default(),
            deadlines: BTreeMap::new(),
        }
    }

    fn instant(&self, nanos: u64) -> Instant {
        self.start + Duration::from_nanos(nanos)
    }

    fn set(&mut self, key: u32, offset: Offset) {
        let deadline = self.model.at(offset);
        self.wheel.set(key, self.instant(deadline));
        let due = self.model.due_for(deadline);
        self.model.due.insert(key, due);
        self.deadlines.insert(key, deadline);
    }

    fn set_earlier(&mut self, key: u32, offset: Offset) {
        let deadline = self.model.at(offset);
        self.wheel.set_earlier(key, self.instant(deadline));
        let due = self.model.due_for(deadline);
        if self.model.due.get(&key).is_none_or(|&old| due < old) {
            self.model.due.insert(key, due);
            self.deadlines.insert(key, deadline);
        }
    }

    fn cancel(&mut self, key: u32) {
        self.wheel.cancel(key);
        self.model.due.remove(&key);
    }

    /// Returns whether the wheel said that nothing is left.
    fn turn(
        &mut self,
        now: u64,
        budget: usize,
        again: Option<Offset>,
    ) -> Result<bool, TestCaseError> {
        for _ in 0..budget {
            let polled = self.wheel.poll_expired(self.instant(now));
            self.model.turn(now);
            self.wheel.check_invariants();
            let now = self.model.now;
            let Some(key) = polled else {
                let missed = self.model.due.iter().find(|&(_, &due)| due <= now);
                prop_assert_eq!(missed, None, "not returned at {}", now);
                let next = self.wheel.next_deadline();
                prop_assert!(next.is_none_or(|next| next > self.instant(now)));
                return Ok(true);
            };
            let due = self.model.due.remove(&key);
            prop_assert!(
                due.is_some_and(|due| due <= now),
                "{} is due at {:?}, not at {}",
                key,
                due,
                now
            );
            prop_assert!(self.deadlines[&key] <= now, "{} came early", key);
            if let Some(offset) = again {
                self.set(key, offset);
            }
        }
        Ok(false)
    }

    fn compare(&self) -> Result<(), TestCaseError> {
        self.wheel.check_invariants();
        prop_assert_eq!(self.wheel.len(), self.model.due.len());
        prop_assert_eq!(self.wheel.is_empty(), self.model.due.is_empty());
        for key in 0..KEYS {
            let expected = self.model.due.contains_key(&key);
            prop_assert_eq!(self.wheel.contains(key), expected, "key {}", key);
        }
        let earliest = self.model.due.values().min();
        let next = self.wheel.next_deadline();
        prop_assert_eq!(next.is_some(), earliest.is_some());
        if let (Some(next), Some(&earliest)) = (next, earliest) {
            prop_assert!(next <= self.instant(earliest), "the loop would oversleep");
        }
        Ok(())
    }
}

fn nanos() -> impl Strategy<Value = u64> {
    prop_oneof![
        3 => 0..4 * TICK,
        3 => (0_u64..6).prop_map(|ticks| ticks * TICK),
        2 => (0_u64..6, 0_u64..3)
            .prop_map(|(ticks, extra)| (ticks * TICK + extra).saturating_sub(1)),
        2 => 0..2 * REVOLUTION,
        2 => (1_u64..4, 0_u64..5)
            .prop_map(|(turns, ticks)| turns * REVOLUTION + ticks * TICK - 2 * TICK),
        1 => (1_u64..4, 0_u64..DAY).prop_map(|(days, extra)| days * DAY + extra),
    ]
}

fn offset() -> impl Strategy<Value = Offset> {
    prop_oneof![
        1 => nanos().prop_map(Offset::Past),
        5 => nanos().prop_map(Offset::Future),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..KEYS, offset()).prop_map(|(key, offset)| Step::Set(key, offset)),
        2 => (0..KEYS, offset()).prop_map(|(key, offset)| Step::SetEarlier(key, offset)),
        2 => (0..KEYS).prop_map(Step::Cancel),
        5 => (nanos(), 1_usize..40, proptest::option::of(offset()))
            .prop_map(|(forward, budget, again)| Step::Turn { forward, budget, again }),
        1 => nanos().prop_map(Step::TurnBack),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn the_wheel_does_what_the_map_does(steps in proptest::collection::vec(step(), 1..120)) {
        let mut pair = Pair::new();
        for step in steps {
            match step {
                Step::Set(key, offset) => pair.set(key, offset),
                Step::SetEarlier(key, offset) => pair.set_earlier(key, offset),
                Step::Cancel(key) => pair.cancel(key),
                Step::Turn { forward, budget, again } => {
                    pair.turn(pair.model.now + forward, budget, again)?;
                }
                Step::TurnBack(back) => {
                    pair.turn(pair.model.now.saturating_sub(back), 1, None)?;
                }
            }
            pair.compare()?;
        }
        // Whatever has happened, every key comes out in the end, each once.
        let last = pair.model.now + 10 * DAY;
        let all = pair.model.due.len() + 1;
        prop_assert!(pair.turn(last, all, None)?, "a key came twice");
        prop_assert!(pair.wheel.is_empty());
    }

    #[test]
    fn a_turn_that_sets_every_key_again_has_an_end(
        deadlines in proptest::collection::vec(nanos(), 1..40),
        forward in nanos(),
        again in offset(),
    ) {
        let mut pair = Pair::new();
        for (key, &nanos) in (0..).zip(&deadlines) {
            pair.set(key, Offset::Future(nanos));
        }
        prop_assert!(pair.turn(forward, deadlines.len() + 1, Some(again))?);
        prop_assert_eq!(pair.wheel.len(), deadlines.len());
    }

    #[test]
    fn a_loop_that_sleeps_until_the_next_deadline_is_at_most_a_tick_late(
        deadlines in proptest::collection::vec(0..5 * REVOLUTION, 1..40),
    ) {
        let mut pair = Pair::new();
        for (key, &nanos) in (0..).zip(&deadlines) {
            pair.set(key, Offset::Future(nanos));
        }
        while let Some(wake) = pair.wheel.next_deadline() {
            while let Some(key) = pair.wheel.poll_expired(wake) {
                let deadline = pair.instant(deadlines[key as usize]);
                let late = (wake >= deadline).then(|| wake.saturating_duration_since(deadline));
                let tick = Duration::from_nanos(TICK);
                prop_assert!(late.is_some_and(|late| late < tick), "{} is {:?} late", key, late);
            }
            pair.wheel.check_invariants();
        }
    }
}
