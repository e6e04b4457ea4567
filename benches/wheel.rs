//! What does a timer cost? Nanoseconds for each operation, and allocations in the steady state.
//!
//! `cargo bench --bench wheel` prints one line for each number of keys. Without `--bench`, as under
//! `cargo test --benches`, it only runs a small case to see that it works.
//!
//! Columns, in nanoseconds for one key
//! - `first set`: into a new wheel, growth of its table included.
//! - `re-set`: the key is here and moves to another bucket.
//! - `expire`: `poll_expired` on a table where all keys come due over one ping interval, called as
//!   the loop does, each tick with something to do.
//! - `ping cycle`: the steady state, expire and set again 54 s later; its allocations are counted
//!   and must be none.
//! - `idle turn`: for one turn, not one key: `poll_expired` with nothing due and `next_deadline`.
//!
//! Keys and deadlines are in random order, so that at a million keys the caches miss as they would
//! in the field. Excluded: reading the clock, drawing random numbers, and what the caller does with
//! a due key. The clock inside the wheel is virtual.
#![allow(
    clippy::print_stdout,
    reason = "the figures are the product of a bench"
)]

use std::env;
use std::hint::black_box;
use std::time::{Duration, Instant};

use roomcast::base::{self, Prng};
use roomcast::timer::Wheel;

use crate::counting_alloc::{CountingAlloc, Counts, counted};

mod counting_alloc;

#[global_allocator]
static ALLOCATOR: CountingAlloc = CountingAlloc;

fn main() {
    // Cargo says `--bench` for a bench and nothing for a test.
    let measuring = env::args().any(|argument| argument == "--bench");
    let (sizes, operations_min): (&[u32], u32) = if measuring {
        (&[1_000, 20_000, 1_000_000], 8_000_000)
    } else {
        (&[1_000], 2_000)
    };
    println!(
        "{:>9} {:>10} {:>8} {:>8} {:>11} {:>10}   allocations in the steady state",
        "keys", "first set", "re-set", "expire", "ping cycle", "idle turn"
    );
    for &keys in sizes {
        let figures = measure(keys, operations_min.div_ceil(keys));
        println!(
            "{keys:>9} {:>10.1} {:>8.1} {:>8.1} {:>11.1} {:>10.1}   {} ({} bytes)",
            figures.first_set,
            figures.re_set,
            figures.expire,
            figures.ping_cycle,
            figures.idle_turn,
            figures.steady.allocations,
            figures.steady.bytes,
        );
        assert_eq!(figures.steady.allocations, 0, "the steady state allocates");
    }
}

/// Nanoseconds for each operation.
struct Figures {
    first_set: f64,
    re_set: f64,
    expire: f64,
    ping_cycle: f64,
    idle_turn: f64,
    steady: Counts,
}

fn measure(keys: u32, rounds: u32) -> Figures {
    let start = base::Instant::ORIGIN;
    let mut prng = Prng::new(u64::from(keys));
    let plans: Vec<Vec<(u32, base::Instant)>> = (0..4)
        .map(|_| shuffled_plan(&mut prng, keys, start))
        .collect();
    let operations = f64::from(keys) * f64::from(rounds);

    let (mut setting, mut expiring) = (Duration::ZERO, Duration::ZERO);
    for round in 0..rounds {
        let plan = &plans[round as usize % plans.len()];
        let mut wheel = Wheel::new(start);
        setting += timed(|| set_all(&mut wheel, plan));
        expiring += timed(|| assert_eq!(expire_all(&mut wheel), keys));
    }

    let mut wheel = Wheel::new(start);
    set_all(&mut wheel, &plans[0]);
    let (resetting, mut steady) = counted(|| {
        timed(|| {
            for round in 1..=rounds {
                set_all(&mut wheel, &plans[round as usize % plans.len()]);
            }
        })
    });

    let (cycling, counts) = counted(|| timed(|| ping(&mut wheel, u64::from(keys * rounds))));
    steady.allocations += counts.allocations;
    steady.bytes += counts.bytes;

    Figures {
        first_set: nanos(setting) / operations,
        re_set: nanos(resetting) / operations,
        expire: nanos(expiring) / operations,
        ping_cycle: nanos(cycling) / operations,
        idle_turn: idle_turn(&mut wheel),
        steady,
    }
}

/// Every key once, in random order, each with a deadline within one ping interval.
fn shuffled_plan(prng: &mut Prng, keys: u32, start: base::Instant) -> Vec<(u32, base::Instant)> {
    let mut plan: Vec<(u32, base::Instant)> = (0..keys)
        .map(|key| (key, start + prng.between(Duration::ZERO, PING_INTERVAL)))
        .collect();
    for end in (1..plan.len()).rev() {
        plan.swap(end, prng.below(end as u64 + 1) as usize);
    }
    plan
}

fn set_all(wheel: &mut Wheel, plan: &[(u32, base::Instant)]) {
    for &(key, deadline) in plan {
        wheel.set(black_box(key), deadline);
    }
}

fn expire_all(wheel: &mut Wheel) -> u32 {
    let mut expired = 0;
    while let Some(now) = wheel.next_deadline() {
        while let Some(key) = wheel.poll_expired(now) {
            black_box(key);
            expired += 1;
        }
    }
    expired
}

fn ping(wheel: &mut Wheel, pings: u64) {
    let mut left = pings;
    while let Some(now) = wheel.next_deadline() {
        while let Some(key) = wheel.poll_expired(now) {
            wheel.set(black_box(key), now + PING_INTERVAL);
            left -= 1;
            if left == 0 {
                return;
            }
        }
    }
}

fn idle_turn(wheel: &mut Wheel) -> f64 {
    const TURNS: u32 = 1_000_000;
    let now = wheel.next_deadline().expect("nobody has left");
    while let Some(key) = wheel.poll_expired(now) {
        wheel.set(key, now + PING_INTERVAL);
    }
    let spent = timed(|| {
        for _ in 0..TURNS {
            black_box(wheel.poll_expired(black_box(now)));
            black_box(wheel.next_deadline());
        }
    });
    nanos(spent) / f64::from(TURNS)
}

fn timed(f: impl FnOnce()) -> Duration {
    let begun = Instant::now();
    f();
    begun.elapsed()
}

fn nanos(duration: Duration) -> f64 {
    duration.as_nanos() as f64
}

const PING_INTERVAL: Duration = Duration::from_secs(54);
