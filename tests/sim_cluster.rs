//! Seeded simulation of a cluster: two or three nodes, their clients and back ends, and a broker that
//! uses every freedom it has, on one thread with a virtual clock.
//!
//! What the environment can ask for is said in `sim/runner.rs`. A seed that has once failed becomes a
//! named test below.

#[path = "sim/broker.rs"]
mod broker;
#[path = "sim/client.rs"]
#[allow(dead_code, reason = "what the simulator of one node keeps in it, too")]
mod client;
#[path = "sim/cluster.rs"]
mod cluster;
#[path = "sim/commands.rs"]
#[allow(dead_code, reason = "no client of this simulator speaks by commands")]
mod commands;
#[path = "sim/http.rs"]
#[allow(dead_code, reason = "no client of this simulator asks for pages")]
mod http;
#[path = "sim/ledger.rs"]
mod ledger;
#[path = "sim/node.rs"]
#[allow(dead_code, reason = "what the simulator of one node needs, too")]
mod node;
#[path = "sim/plan.rs"]
#[allow(dead_code, reason = "what the simulator of one node needs, too")]
mod plan;
#[path = "sim/runner.rs"]
mod runner;
#[path = "sim/shrink.rs"]
mod shrink;
#[path = "sim/trace.rs"]
mod trace;

use std::sync::{Mutex, PoisonError};

use cluster::{Cluster, Figures};
use runner::Scenario;

#[test]
fn ledgers_of_a_cluster_balance_over_many_seeds() {
    let all = Mutex::new(Figures::default());
    let scenario = Scenario {
        name: "ledgers_of_a_cluster_balance_over_many_seeds",
        steps: 400,
        seeds: 1000,
        run: &|seed, steps| {
            let mut cluster = Cluster::new(seed);
            cluster.run(steps);
            *all.lock().unwrap_or_else(PoisonError::into_inner) += cluster.figures;
        },
    };
    scenario.check();
    let all = all.into_inner().unwrap_or_else(PoisonError::into_inner);
    eprintln!("{all:?}");
    let is_whole = std::env::var("ROOMCAST_SIM_SEED").is_err();
    assert!(
        !is_whole || all.told_widely > 0,
        "no join is told on two nodes"
    );
}
