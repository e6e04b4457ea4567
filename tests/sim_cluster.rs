//! Seeded simulation of a cluster: two or three nodes, their clients and back ends, and a broker that
//! uses every freedom it has, on one thread with a virtual clock.
//!
//! What the environment can ask for is said in `sim/runner.rs`, what becomes of a seed that fails in
//! `sim.rs`.

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
#[path = "sim/tally.rs"]
mod tally;
#[path = "sim/trace.rs"]
mod trace;

use std::sync::{Mutex, PoisonError};

use cluster::{Cluster, Figures};
use runner::Scenario;
use tally::Tally;

#[test]
fn ledgers_of_a_cluster_balance_over_many_seeds() {
    let all = Mutex::new((Figures::default(), Tally::new()));
    let scenario = Scenario {
        name: "ledgers_of_a_cluster_balance_over_many_seeds",
        steps: 400,
        seeds: 1000,
        run: &|seed, steps| {
            let mut cluster = Cluster::new(seed);
            cluster.run(steps);
            let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
            all.0 += cluster.figures;
            all.1 += cluster.tally;
        },
    };
    scenario.check();
    if !scenario.is_whole() {
        return;
    }
    let (figures, tally) = all.into_inner().unwrap_or_else(PoisonError::into_inner);
    eprintln!("{figures:?}\n{tally:?}");
    let never = figures.named().into_iter().find(|(_, count)| *count == 0);
    assert!(never.is_none(), "never happened: {never:?}");
    tally.assert_all(&REACHED);
}

/// What must have happened when all seeds are run.
const REACHED: [&str; 19] = [
    "code 1000",
    "code 3004",
    "code 3008",
    "code 3010",
    "a client breaks its connection",
    "a client ends what it sends",
    "a client stops reading",
    "trouble: a node dies",
    "trouble: a node is cut off",
    "trouble: a node reconnects",
    "trouble: answers are lost",
    "trouble: something cannot be read",
    "trouble: the broker comes back empty",
    "trouble: the broker forgets all",
    "trouble: the broker goes away",
    "trouble: the broker goes back",
    "trouble: the broker is back",
    "trouble: the broker restarts",
    "trouble: the feed is lost",
];
