//! Something dies under a cluster, and nothing is lost in silence.
//!
//! Each test has `roomcast verify` spread over all nodes while the fault happens: members that are cut
//! at random resume on the next node, and the ledger of each must balance. The time from the fault to
//! full service is printed: until a publication of each node has reached a member of each.

mod harness;

use std::time::{Duration, Instant};

use harness::{
    Daemon, Load, Passing, Probe, Redis, RedisRelay, Signal, linger, node, two_nodes, wait_until,
};

/// As much as two cores carry beside other tests, and enough to notice a loss.
const LOAD: &str = "--members 12 --publishers 3 --rooms 3 --rate 40 --cuts 6 --secs 4";

/// The same by the commands of an SDK: publishers wait for answers, members resume by `recover`.
const SDK_LOAD: &str = "--protocol centrifugo \
                        --members 12 --publishers 3 --rooms 3 --rate 40 --cuts 6 --secs 4";

/// Runs the load while `fail` does its worst to a cluster of two; returns what the load told.
fn under_load(
    url: &str,
    fault: &str,
    fail: impl FnOnce(&Probe),
) -> ([Daemon; 2], harness::Account) {
    under(LOAD, url, fault, fail)
}

fn under(
    load: &str,
    url: &str,
    fault: &str,
    fail: impl FnOnce(&Probe),
) -> ([Daemon; 2], harness::Account) {
    let nodes = two_nodes(url, &[]);
    let all: Vec<&Daemon> = nodes.iter().collect();
    let probe = Probe::start(&all);
    let load = Load::start(&all, load);
    fail(&probe);
    probe.wait_full_service(fault, &[]);
    let account = load.finish();
    drop(probe);
    for node in &nodes {
        wait_until("a node that is ready", || {
            node.admin_get("/readyz").status == 200
        });
    }
    (nodes, account)
}

/// Nobody was told of any loss, and no member was sent away.
fn assert_unnoticed(account: &harness::Account) {
    for row in ["lost and told", "closed by server"] {
        assert_eq!(account.count(row), 0, "{row}\n{}", account.0);
    }
}

#[test]
fn the_feed_is_killed() {
    let redis = Redis::start();
    let (nodes, account) = under_load(&redis.url(), "feed killed", |probe| {
        let killed: u32 = redis.ask(&["CLIENT", "KILL", "TYPE", "pubsub"]);
        probe.note_fault();
        assert_eq!(killed, 2);
        probe.wait_full_service("feed killed", &[]);
        // Once more, with the catching up of the first not long ago.
        let killed: u32 = redis.ask(&["CLIENT", "KILL", "TYPE", "pubsub"]);
        assert_eq!(killed, 2);
        probe.note_fault();
    });
    assert_unnoticed(&account);
    assert_eq!(account.count("unacknowledged"), 0, "{}", account.0);
    drop(nodes);
}

#[test]
fn all_connections_are_killed() {
    let redis = Redis::start();
    let (_nodes, account) = under_load(&redis.url(), "all connections killed", |probe| {
        for kind in ["pubsub", "normal"] {
            let killed: u32 = redis.ask(&["CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes"]);
            assert!(killed >= 2, "{kind}: {killed}");
        }
        probe.note_fault();
    });
    assert_unnoticed(&account);
}

#[test]
fn redis_stands_still() {
    let redis = Redis::start();
    let (nodes, account) = under_load(&redis.url(), "Redis stopped for 3 s", |probe| {
        redis.pause();
        probe.note_fault();
        linger(Duration::from_secs(3));
        redis.resume();
    });
    assert_unnoticed(&account);
    drop(nodes);
}

#[test]
fn redis_is_killed_and_comes_back_with_its_log() {
    let mut redis = Redis::with(&["--appendonly", "yes", "--appendfsync", "everysec"]);
    let (_nodes, account) = under_load(&redis.url(), "Redis killed, AOF", |probe| {
        redis.kill();
        probe.note_fault();
        redis.restart();
    });
    // What it had written when it died is in the kernel's hands: nothing is lost.
    assert_unnoticed(&account);
}

#[test]
fn redis_is_killed_and_comes_back_empty() {
    let mut redis = Redis::start();
    let (nodes, account) = under_load(&redis.url(), "Redis killed, empty", |probe| {
        redis.kill();
        probe.note_fault();
        redis.restart_empty();
    });
    assert_eq!(account.count("closed by server"), 0, "{}", account.0);
    drop(nodes);
}

#[test]
fn redis_is_flushed() {
    let redis = Redis::start();
    let (_nodes, account) = under_load(&redis.url(), "FLUSHALL", |probe| {
        redis.ask::<()>(&["FLUSHALL"]);
        probe.note_fault();
    });
    assert_eq!(account.count("closed by server"), 0, "{}", account.0);
}

// By the commands of an SDK.

#[test]
fn all_connections_are_killed_under_members_by_commands() {
    let redis = Redis::start();
    let fault = "all connections killed, by commands";
    let (_nodes, account) = under(SDK_LOAD, &redis.url(), fault, |probe| {
        for kind in ["pubsub", "normal"] {
            let killed: u32 = redis.ask(&["CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes"]);
            assert!(killed >= 2, "{kind}: {killed}");
        }
        probe.note_fault();
    });
    assert_unnoticed(&account);
    assert!(!account.0.contains("unsubscribed"), "{}", account.0);
}

#[test]
fn redis_is_killed_and_comes_back_with_its_log_under_members_by_commands() {
    let mut redis = Redis::with(&["--appendonly", "yes", "--appendfsync", "everysec"]);
    let fault = "Redis killed, AOF, by commands";
    let (_nodes, account) = under(SDK_LOAD, &redis.url(), fault, |probe| {
        redis.kill();
        probe.note_fault();
        redis.restart();
    });
    assert_unnoticed(&account);
}

#[test]
fn redis_is_flushed_under_members_by_commands() {
    let redis = Redis::start();
    let fault = "FLUSHALL, by commands";
    let (_nodes, account) = under(SDK_LOAD, &redis.url(), fault, |probe| {
        redis.ask::<()>(&["FLUSHALL"]);
        probe.note_fault();
    });
    // Whoever loses something subscribes again, on the connection that goes on.
    assert_eq!(account.count("closed by server"), 0, "{}", account.0);
    let told = "unsubscribed by server: 2500 insufficient state";
    assert!(account.0.contains(told), "{}", account.0);
}

#[test]
fn a_replica_takes_over_that_has_lagged() {
    let (master, replica) = (Redis::start(), Redis::start());
    replica.follow(&master);
    let relay = RedisRelay::to(&master);
    let (nodes, account) = under_load(&relay.url(), "failover to a stale replica", |probe| {
        // From here on it gets nothing, while publications go on.
        replica.promote();
        linger(Duration::from_millis(400));
        relay.turn_to(&replica);
        probe.note_fault();
    });
    assert_eq!(account.count("closed by server"), 0, "{}", account.0);
    drop(nodes);
}

/// For a while each node has a master of its own. What the one that is given up has numbered
/// meanwhile must not be taken for what the other has.
#[test]
fn nodes_come_to_a_replica_one_after_the_other() {
    let (master, replica) = (Redis::start(), Redis::start());
    replica.follow(&master);
    let relays = [RedisRelay::to(&master), RedisRelay::to(&master)];
    let nodes = [
        node(&relays[0].url(), "n1", &[]),
        node(&relays[1].url(), "n2", &[]),
    ];
    let all: Vec<&Daemon> = nodes.iter().collect();
    let probe = Probe::start(&all);
    let load = Load::start(&all, LOAD);
    replica.promote();
    relays[0].turn_to(&replica);
    probe.note_fault();
    linger(Duration::from_millis(700));
    relays[1].turn_to(&replica);
    probe.wait_full_service("failover, nodes 700 ms apart", &[]);
    let account = load.finish();
    assert_eq!(account.count("closed by server"), 0, "{}", account.0);
}

#[test]
fn a_node_is_killed() {
    let redis = Redis::start();
    let nodes = ["n1", "n2", "n3"].map(|name| node(&redis.url(), name, &[]));
    let all: Vec<&Daemon> = nodes.iter().collect();
    let probe = Probe::start(&all);
    let load = Load::start(&all, LOAD);
    nodes[1].signal(Signal::Kill);
    probe.note_fault();
    probe.wait_full_service("node killed", &[1]);
    let account = load.finish();
    assert_eq!(account.count("lost and told"), 0, "{}", account.0);
    assert!(account.count("closed by server") > 0, "{}", account.0);
}

#[test]
fn a_node_is_drained() {
    let redis = Redis::start();
    let mut nodes = ["n1", "n2"].map(|name| node(&redis.url(), name, &["--drain-timeout", "1s"]));
    let load = Load::start(&nodes.iter().collect::<Vec<_>>(), LOAD);
    nodes[1].signal(Signal::Term);
    assert!(nodes[1].wait_exit().success());
    let account = load.finish();
    assert_eq!(account.count("lost and told"), 0, "{}", account.0);
    assert!(account.0.contains("3001 shutdown"), "{}", account.0);
    // It leaves nothing behind that would count on.
    let rooms: Vec<String> = redis.ask(&["KEYS", "roomcast:{*}:n"]);
    for room in rooms {
        let shares: Vec<String> = redis.ask(&["HKEYS", &room]);
        assert!(shares.len() <= 1, "{room}: {shares:?}");
    }
}

#[test]
fn faults_follow_each_other() {
    let mut redis = Redis::start();
    let nodes = ["n1", "n2", "n3"].map(|name| node(&redis.url(), name, &[]));
    let all: Vec<&Daemon> = nodes.iter().collect();
    let probe = Probe::start(&all);
    let many = "--members 24 --publishers 6 --rooms 3 --rate 80 --cuts 30 --secs 6";
    let load = Load::start(&all, many);
    for fault in [
        "feeds killed",
        "flushed",
        "connections killed",
        "scripts forgotten",
        "stopped for 300 ms",
        "killed, empty",
        "feeds killed",
        "flushed",
    ] {
        match fault {
            "feeds killed" => drop(redis.ask::<u32>(&["CLIENT", "KILL", "TYPE", "pubsub"])),
            "connections killed" => {
                redis.ask::<u32>(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
            }
            "flushed" => redis.ask(&["FLUSHALL"]),
            "scripts forgotten" => redis.ask(&["SCRIPT", "FLUSH"]),
            "stopped for 300 ms" => redis.pause(),
            _ => redis.kill(),
        }
        probe.note_fault();
        match fault {
            "stopped for 300 ms" => {
                linger(Duration::from_millis(300));
                redis.resume();
            }
            "killed, empty" => redis.restart_empty(),
            _ => {}
        }
        probe.wait_full_service(fault, &[]);
    }
    load.finish();
}

/// Cuts one of two nodes off, by a network that swallows what `passing` does not let through.
fn a_node_is_cut_off(load: &str, fault: &str, passing: Passing) {
    let redis = Redis::start();
    let relay = RedisRelay::to(&redis);
    let nodes = [node(&redis.url(), "n1", &[]), node(&relay.url(), "n2", &[])];
    let all: Vec<&Daemon> = nodes.iter().collect();
    let probe = Probe::start(&all);
    let load = Load::start(&all, load);
    relay.set(passing);
    probe.note_fault();
    // It is noticed while it lasts.
    let noticed = Instant::now();
    wait_until("a node that notices", || {
        nodes[1].admin_get("/readyz").status == 503
    });
    let noticed = noticed.elapsed();
    eprintln!("{fault}: noticed after {} ms", noticed.as_millis());
    assert!(noticed < Duration::from_secs(5), "{noticed:?}");
    assert_eq!(nodes[0].admin_get("/readyz").status, 200);
    relay.set(Passing::All);
    probe.wait_full_service(fault, &[]);
    let account = load.finish();
    assert_unnoticed(&account);
}

#[test]
fn a_node_hears_nothing_of_redis() {
    a_node_is_cut_off(LOAD, "answers swallowed", Passing::Questions);
}

#[test]
fn redis_hears_nothing_of_a_node() {
    a_node_is_cut_off(LOAD, "questions swallowed", Passing::Answers);
}

/// Its members ask for rooms again and again, and some of that is swallowed, too.
#[test]
fn redis_hears_nothing_of_a_node_of_sdks() {
    a_node_is_cut_off(SDK_LOAD, "questions of SDKs swallowed", Passing::Answers);
}
