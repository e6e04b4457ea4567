//! Seeded simulation of a cluster: two or three nodes, their clients and back ends, and a broker that
//! uses every freedom it has, on one thread with a virtual clock.
//!
//! `ROOMCAST_SIM_SEEDS=N` sets how many seeds are run, `ROOMCAST_SIM_SEED=S` runs one seed and
//! prints its steps. A seed that has once failed becomes a named test below.

#[path = "sim/broker.rs"]
mod broker;
#[path = "sim/client.rs"]
#[allow(dead_code, reason = "what the simulator of one node keeps in it, too")]
mod client;
#[path = "sim/cluster.rs"]
mod cluster;
#[path = "sim/ledger.rs"]
mod ledger;
#[path = "sim/node.rs"]
mod node;

use std::panic::{AssertUnwindSafe, catch_unwind};

use cluster::{Cluster, Figures};

/// Steps of one seed before everything is let come to rest.
const STEPS: usize = 400;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| {
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name} must be a number, not {value:?}"))
    })
}

fn run(seed: u64, is_traced: bool) -> Figures {
    let mut cluster = Cluster::new(seed, is_traced);
    cluster.run(STEPS);
    cluster.figures
}

#[test]
fn ledgers_of_a_cluster_balance_over_many_seeds() {
    if let Some(seed) = number("ROOMCAST_SIM_SEED") {
        eprintln!("{:?}", run(seed, true));
        return;
    }
    let seeds = number("ROOMCAST_SIM_SEEDS").unwrap_or(60);
    let mut all = Figures::default();
    for seed in 0..seeds {
        match catch_unwind(AssertUnwindSafe(|| run(seed, false))) {
            Ok(figures) => all += figures,
            Err(_) => panic!("seed {seed} failed: run again with ROOMCAST_SIM_SEED={seed}"),
        }
    }
    eprintln!("{seeds} seeds: {all:?}");
    assert!(all.told_widely > 0, "no join is told on two nodes");
}
