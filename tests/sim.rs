//! Seeded simulation of a whole node: hub, shards and clients on one thread with a virtual clock.
//!
//! What the environment can ask for is said in `sim/runner.rs`. A seed stands for a run only as long as
//! nobody changes the simulator, so that what a seed has once found is kept as the mistake itself, in
//! `mutations/list`, or as a test of the part that was wrong.

#[path = "sim/backend.rs"]
mod backend;
#[path = "sim/client.rs"]
mod client;
#[path = "sim/commands.rs"]
mod commands;
#[path = "sim/http.rs"]
mod http;
#[path = "sim/log.rs"]
mod log;
#[path = "sim/node.rs"]
#[allow(dead_code, reason = "what the simulator of a cluster needs, too")]
mod node;
#[path = "sim/plan.rs"]
mod plan;
#[path = "sim/runner.rs"]
mod runner;
#[path = "sim/shrink.rs"]
mod shrink;
#[path = "sim/tally.rs"]
mod tally;
#[path = "sim/trace.rs"]
mod trace;
#[path = "sim/world.rs"]
mod world;

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use runner::Scenario;
use tally::Tally;
use world::{Shortage, World};

/// Clients talk, come and go until everything is let come to rest.
const TALK: Scenario<'static> = Scenario {
    name: "ledgers_balance_over_many_seeds",
    steps: 400,
    seeds: 7000,
    run: &|seed, steps| {
        let mut world = World::new(seed);
        world.run(steps);
        note(&TALKED, &world);
    },
};

/// What must have happened when all seeds are run: what goes wrong, why clients are closed or refused,
/// what they break, and that they come back.
const REACHED: [&str; 49] = [
    "trouble: no descriptors",
    "trouble: a worker sleeps",
    "trouble: a worker is full",
    "trouble: the wall clock is set",
    "trouble: the machine was asleep",
    "trouble: the node ends",
    "a client stops reading",
    "a client ends what it sends",
    "a client breaks its connection",
    "abuse: reserved bits",
    "abuse: no mask",
    "abuse: far too large",
    "abuse: too large",
    "abuse: nothing to continue",
    "abuse: no UTF-8",
    "abuse: a long ping",
    "abuse: a ping in parts",
    "abuse: half a code",
    "abuse: a code nobody sends",
    "abuse: no kind of frame",
    "abuse: a message within another",
    "abuse: no JSON",
    "abuse: no command",
    "abuse: a second connect",
    "abuse: a pong unasked",
    "code 1000",
    "code 1002",
    "code 1007",
    "code 1009",
    "code 3001",
    "code 3005",
    "code 3008",
    "code 3009",
    "code 3010",
    "code 3012",
    "code 3013",
    "code 3500",
    "code 3501",
    "code 3502",
    "code 3503",
    "code 3504",
    "code 3505",
    "code 3507",
    "resume",
    "status 401",
    "status 403",
    "status 408",
    "status 409",
    "status 503",
];

/// The same where everybody is closed amid the talk.
const REACHED_BY_DRAIN: [&str; 10] = [
    "trouble: no descriptors",
    "trouble: a worker sleeps",
    "abuse: no mask",
    "code 1000",
    "code 3001",
    "code 3008",
    "code 3010",
    "code 3503",
    "resume",
    "status 503",
];

static TALKED: Mutex<Tally> = Mutex::new(Tally::new());
static DRAINED: Mutex<Tally> = Mutex::new(Tally::new());

fn note(all: &Mutex<Tally>, world: &World) {
    *all.lock().unwrap_or_else(PoisonError::into_inner) += world.tally.clone();
}

fn assert_reached(scenario: &Scenario<'_>, all: &Mutex<Tally>, names: &[&str]) {
    let all = all.lock().unwrap_or_else(PoisonError::into_inner);
    if scenario.is_whole() {
        eprintln!("{all:?}");
        all.assert_all(names);
    }
}

/// The node ends amid the talk.
const DRAIN: Scenario<'static> = Scenario {
    name: "a_drain_closes_everybody_in_time_and_loses_nothing_over_many_seeds",
    steps: 200,
    seeds: 3000,
    run: &|seed, steps| {
        let mut world = World::new(seed);
        world.run_and_drain(steps);
        note(&DRAINED, &world);
    },
};

#[test]
fn ledgers_balance_over_many_seeds() {
    TALK.check();
    assert_reached(&TALK, &TALKED, &REACHED);
}

#[test]
fn a_drain_closes_everybody_in_time_and_loses_nothing_over_many_seeds() {
    DRAIN.check();
    assert_reached(&DRAIN, &DRAINED, &REACHED_BY_DRAIN);
}

#[test]
fn memory_runs_short_in_every_way() {
    let mut sum = Shortage::default();
    let all = TALK.all();
    let is_found = (0..1000).any(|seed| {
        let mut world = World::new(seed);
        world.run(&all);
        sum.add(world.shortage());
        sum.is_every_way()
    });
    assert!(is_found, "{sum:?}");
}

#[test]
fn a_write_that_is_lost_is_found_and_told_in_few_steps() {
    let scenario = Scenario {
        steps: 150,
        run: &|seed, steps| World::new(seed).losing_write(10).run(steps),
        ..TALK
    };
    let all = scenario.all();
    let found = (0..100).find_map(|seed| Some((seed, scenario.fails(seed, &all)?)));
    let (seed, first) = found.expect("a lost write leaves a gap");
    let until = Instant::now() + Duration::from_secs(300);
    let few = scenario.shrink(seed, all, &first, until);
    assert!(few.len() < 75, "{} steps are left", few.len());
    let (failure, told) = scenario.trace(seed, &few);
    let failure = failure.expect("the same steps fail again");
    assert_eq!(failure.location, first.location);
    let is_write = |line: &String| line.contains("are written to client");
    assert!(told.iter().any(is_write), "{told:?}");
    let begun = told.iter().filter(|line| line.starts_with("step "));
    // One more for the rest.
    assert_eq!(begun.count(), few.len() + 1);
    // Without the fault, nothing is wrong.
    assert!(TALK.fails(seed, &few).is_none());
}
