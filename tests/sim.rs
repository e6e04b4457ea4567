//! Seeded simulation of a whole node: hub, shards and clients on one thread with a virtual clock.
//!
//! `ROOMCAST_SIM_SEEDS=N` sets how many seeds are run, `ROOMCAST_SIM_SEED=S` runs one seed and
//! prints its steps. A seed that has once failed becomes a named test below.

#[path = "sim/backend.rs"]
mod backend;
#[path = "sim/client.rs"]
mod client;
#[path = "sim/node.rs"]
mod node;
#[path = "sim/world.rs"]
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use world::World;

/// Steps of one seed before the node ends, where it does amid them.
const STEPS_BEFORE_DRAIN: usize = 200;

/// Steps of one seed before everything is let come to rest.
const STEPS: usize = 600;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| {
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name} must be a number, not {value:?}"))
    })
}

#[test]
fn a_drain_closes_everybody_in_time_and_loses_nothing_over_many_seeds() {
    let run = |seed, is_traced| World::new(seed, is_traced).run_and_drain(STEPS_BEFORE_DRAIN);
    if let Some(seed) = number("ROOMCAST_SIM_SEED") {
        run(seed, true);
        return;
    }
    let seeds = number("ROOMCAST_SIM_SEEDS").unwrap_or(400) / 2;
    for seed in 0..seeds {
        let outcome = catch_unwind(AssertUnwindSafe(|| run(seed, false)));
        assert!(
            outcome.is_ok(),
            "seed {seed} failed: run again with ROOMCAST_SIM_SEED={seed}"
        );
    }
}

#[test]
fn ledgers_balance_over_many_seeds() {
    if let Some(seed) = number("ROOMCAST_SIM_SEED") {
        World::new(seed, true).run(STEPS);
        return;
    }
    let seeds = number("ROOMCAST_SIM_SEEDS").unwrap_or(400);
    for seed in 0..seeds {
        let run = catch_unwind(AssertUnwindSafe(|| World::new(seed, false).run(STEPS)));
        assert!(
            run.is_ok(),
            "seed {seed} failed: run again with ROOMCAST_SIM_SEED={seed}"
        );
    }
}
