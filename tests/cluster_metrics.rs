//! What an operator sees of a cluster: every metric of it moves when what it counts happens, with a
//! real Redis that is cut off, stopped, ended and tampered with.

mod harness;

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use harness::{
    Api, Client, Daemon, Exposition, Redis, Wire, pace, upgrade_request, wait_for, wait_until,
};

/// Something that happens, and what it must move.
struct Step {
    moves: &'static [&'static str],
    /// The metrics before and after it.
    run: fn() -> (Exposition, Exposition),
}

/// Every metric of a cluster stands in one of them at least.
const STEPS: [Step; 8] = [
    Step {
        moves: &[
            "followed_rooms",
            "feed_publications_total",
            "feed_delivery_seconds",
            "reads_total",
            "publish_seconds",
            "round_trip_seconds",
            "requests_answered_total",
        ],
        run: members_publish,
    },
    Step {
        moves: &["nodes", "connections_lost_total"],
        run: the_feed_is_cut,
    },
    Step {
        moves: &["holes_total", "lost_total", "caught_up_total"],
        run: offsets_are_passed_over,
    },
    Step {
        moves: &["epochs_begun_total"],
        run: everything_is_forgotten,
    },
    Step {
        moves: &["feed_unreadable_total", "requests_refused_total"],
        run: strangers_write_below_our_keys,
    },
    Step {
        moves: &[
            "available",
            "feed_connected",
            "connect_failures_total",
            "publishes_refused_total",
            "requests_expired_total",
        ],
        run: redis_is_gone,
    },
    Step {
        moves: &["joins_waiting", "requests_waiting", "requests_fenced_total"],
        run: redis_comes_back,
    },
    Step {
        moves: &["requests_in_flight", "requests_retried_total"],
        run: redis_ends_before_it_has_answered,
    },
];

#[test]
fn every_metric_of_a_cluster_moves_when_what_it_counts_happens() {
    let runs = STEPS.map(|step| (step.moves, std::thread::spawn(step.run)));
    let mut listed = BTreeSet::new();
    let mut there = BTreeSet::new();
    for (moves, run) in runs {
        let (before, after) = run.join().expect("the step is done");
        let moved = after.moved_since(&before);
        for name in moves.iter().map(|name| format!("{PREFIX}{name}")) {
            assert!(moved.contains(&name), "{name} has not moved");
            listed.insert(name);
        }
        there.extend(of_cluster(&after));
    }
    assert_eq!(there, listed, "a metric that no step moves");
}

#[test]
fn the_documentation_lists_every_metric_of_a_cluster() {
    let text = std::fs::read_to_string("docs/OPERATIONS.md").expect("the document");
    let (_, chapter) = text.split_once("\n## Metrics\n").expect("a chapter");
    let (chapter, _) = chapter.split_once("\n## ").expect("another chapter");
    let redis = Redis::start();
    let daemon = node(&redis, &[]);
    let names = of_cluster(&daemon.exposition());
    assert!(names.len() > 20, "{names:?}");
    for name in names {
        let short = name.trim_start_matches("roomcast_");
        // With its kind behind it, as no other table has it.
        let rows = chapter.lines().filter(|row| {
            let mut cells = row.split('|').skip(1);
            let names = cells
                .next()
                .unwrap_or_default()
                .split('`')
                .skip(1)
                .step_by(2);
            let kind = cells.next().unwrap_or_default().trim().to_owned();
            ["counter", "gauge", "histogram"].contains(&&*kind)
                && names
                    .map(|name| name.split('{').next())
                    .any(|one| one == Some(short))
        });
        assert_eq!(rows.count(), 1, "{name}");
    }
    assert!(of_cluster(&Daemon::start(&[]).exposition()).is_empty());
}

const PREFIX: &str = "roomcast_cluster_";

fn of_cluster(exposition: &Exposition) -> BTreeSet<String> {
    let names = exposition.families.keys();
    names
        .filter(|name| name.starts_with(PREFIX))
        .cloned()
        .collect()
}

fn node(redis: &Redis, args: &[&str]) -> Daemon {
    let url = redis.url();
    let daemon = Daemon::start(&[&["--redis", &url], args].concat());
    daemon.wait_metric(&full("feed_connected"), |value| value == 1.0);
    daemon
}

fn full(name: &str) -> String {
    format!("{PREFIX}{name}")
}

fn wait_moved(daemon: &Daemon, before: &Exposition, name: &str) -> Exposition {
    wait_for(name, || {
        let after = daemon.exposition();
        after
            .moved_since(before)
            .contains(&full(name))
            .then_some(after)
    })
}

/// When nothing is asked of Redis.
fn when_idle(daemon: &Daemon) -> Exposition {
    wait_for("no request", || {
        let now = daemon.exposition();
        let names = ["requests_waiting", "requests_in_flight", "joins_waiting"];
        names
            .iter()
            .all(|name| now.value(&full(name)) == 0.0)
            .then_some(now)
    })
}

/// The samples of `from` for the metrics that are over when the rest has been counted.
fn keep(after: &mut Exposition, from: &Exposition, names: &[&str]) {
    for name in names {
        let family = from.families.get(&full(name)).expect("a metric").clone();
        after.families.insert(full(name), family);
    }
}

fn publish(channel: &str) -> Value {
    json!({"channel": channel, "data": "x"})
}

// --- What happens ---------------------------------------------------------------------------------

fn members_publish() -> (Exposition, Exposition) {
    let redis = Redis::start();
    let daemon = node(&redis, &[]);
    let before = daemon.exposition();
    let mut member = Client::connect(&daemon, "/ws?room=a");
    for _ in 0..5 {
        member.send_text("x");
        assert_eq!(member.recv_text(), "x");
    }
    let after = wait_for("the answers", || {
        let after = daemon.exposition();
        (after.value(&full("publish_seconds_count")) == 5.0).then_some(after)
    });
    for (name, expected) in [
        // That of the nodes is one of them.
        ("followed_rooms", 2.0),
        ("feed_publications_total", 5.0),
        ("feed_delivery_seconds_count", 5.0),
        ("nodes", 1.0),
        ("available", 1.0),
        ("holes_total", 0.0),
    ] {
        assert_eq!(after.value(&full(name)), expected, "{name}");
    }
    let seconds = after.value(&full("feed_delivery_seconds_sum"));
    assert!(seconds > 0.0 && seconds < 5.0, "{seconds}");
    (before, after)
}

fn the_feed_is_cut() -> (Exposition, Exposition) {
    let redis = Redis::start();
    let daemon = node(&redis, &[]);
    let before = daemon.exposition();
    let _other = node(&redis, &[]);
    // A feed that is back has its rooms read, and with them who is there.
    wait_until("two nodes", || {
        redis.ask::<u64>(&["CLIENT", "KILL", "TYPE", "pubsub"]);
        daemon.wait_metric(&full("feed_connected"), |value| value == 1.0);
        daemon.metric(&full("nodes")) == 2.0
    });
    let after = daemon.exposition();
    let series = full("connections_lost_total{connection=\"feed\"}");
    assert!(after.value(&series) > 0.0);
    let series = full("connections_lost_total{connection=\"requests\"}");
    assert_eq!(after.value(&series), 0.0);
    (before, after)
}

fn offsets_are_passed_over() -> (Exposition, Exposition) {
    let redis = Redis::start();
    let daemon = node(&redis, &[]);
    let mut member = Client::connect(&daemon, "/ws?room=a&format=json");
    assert!(member.recv_json()["joined"].is_object());
    let mut api = Api::connect(&daemon);
    api.result("publish", &publish("a"));
    let before = daemon.exposition();
    redis.ask::<u64>(&["HINCRBY", "roomcast:{a}:m", "o", "5"]);
    assert_eq!(api.result("publish", &publish("a"))["offset"], 7);
    assert_eq!(member.recv_json()["publication"]["offset"], 1);
    assert_eq!(member.recv_json()["skipped"]["count"], 5);
    assert_eq!(member.recv_json()["publication"]["offset"], 7);
    let after = daemon.exposition();
    for (name, expected) in [
        ("holes_total", 1.0),
        ("lost_total", 5.0),
        ("caught_up_total", 1.0),
    ] {
        assert_eq!(after.value(&full(name)), expected, "{name}");
    }
    (before, after)
}

fn everything_is_forgotten() -> (Exposition, Exposition) {
    let redis = Redis::start();
    let daemon = node(&redis, &[]);
    let mut member = Client::connect(&daemon, "/ws?room=a&format=json");
    let epoch = member.recv_json()["joined"]["epoch"].clone();
    let mut api = Api::connect(&daemon);
    api.result("publish", &publish("a"));
    assert_eq!(member.recv_json()["publication"]["offset"], 1);
    let before = daemon.exposition();
    redis.ask::<()>(&["FLUSHALL"]);
    api.result("publish", &publish("a"));
    let joined = &member.recv_json()["joined"];
    assert!(joined["epoch"] != epoch && joined["lost"] == -1, "{joined}");
    let after = wait_moved(&daemon, &before, "epochs_begun_total");
    (before, after)
}

fn strangers_write_below_our_keys() -> (Exposition, Exposition) {
    let redis = Redis::start();
    let daemon = node(&redis, &[]);
    let _member = Client::connect(&daemon, "/ws?room=a");
    let before = daemon.exposition();
    redis.ask::<u64>(&["PUBLISH", "roomcast:{a}:f", "nonsense"]);
    wait_moved(&daemon, &before, "feed_unreadable_total");
    redis.ask::<()>(&["SET", "roomcast:{b}:m", "a string"]);
    assert_eq!(Api::connect(&daemon).error("publish", &publish("b")), 100);
    (before, daemon.exposition())
}

fn redis_is_gone() -> (Exposition, Exposition) {
    let mut redis = Redis::start();
    let daemon = node(&redis, &["--redis-wait", "100ms"]);
    let before = daemon.exposition();
    redis.kill();
    for name in ["available", "feed_connected"] {
        daemon.wait_metric(&full(name), |value| value == 0.0);
    }
    assert_eq!(daemon.admin_get("/readyz").status, 503);
    assert_eq!(Api::connect(&daemon).error("publish", &publish("a")), 100);
    wait_moved(&daemon, &before, "connect_failures_total");
    let after = wait_moved(&daemon, &before, "requests_expired_total");
    (before, after)
}

/// What waits for Redis is done when it is back, and a room that it may have lost something of is
/// numbered only when all nodes have had the time to say so.
fn redis_comes_back() -> (Exposition, Exposition) {
    let mut redis = Redis::with_aof();
    let daemon = node(&redis, &["--redis-wait", "1m"]);
    let mut api = Api::connect(&daemon);
    api.result("publish", &publish("a"));
    let before = when_idle(&daemon);
    redis.kill();
    daemon.wait_metric(&full("available"), |value| value == 0.0);
    let mut joining = Wire::connect(daemon.addr());
    joining.send(upgrade_request(daemon.addr(), "/ws?room=b", &[]));
    api.send("publish", publish("a").to_string());
    let meanwhile = wait_for("what waits", || {
        let now = daemon.exposition();
        let waits = |name: &str| now.value(&full(name)) > 0.0;
        (waits("joins_waiting") && waits("requests_waiting")).then_some(now)
    });
    redis.restart();
    assert_eq!(api.answer()["result"]["offset"], 2);
    Client::upgraded(joining).expect("an upgrade").close();
    let mut after = wait_moved(&daemon, &before, "requests_fenced_total");
    assert_eq!(after.value(&full("joins_waiting")), 0.0);
    keep(
        &mut after,
        &meanwhile,
        &["joins_waiting", "requests_waiting"],
    );
    (before, after)
}

fn redis_ends_before_it_has_answered() -> (Exposition, Exposition) {
    let mut redis = Redis::start();
    let daemon = node(&redis, &["--redis-wait", "1m"]);
    let mut api = Api::connect(&daemon);
    let before = when_idle(&daemon);
    let meanwhile = wait_for("a request in flight", || {
        redis.pause();
        api.send("publish", publish("a").to_string());
        // If a sign of life was sent right before, it waits behind that.
        let found = (0..20).find_map(|_| {
            pace(Duration::from_millis(10));
            let now = daemon.exposition();
            (now.value(&full("requests_in_flight")) > 0.0).then_some(now)
        });
        if found.is_none() {
            redis.resume();
            api.answer();
        }
        found
    });
    redis.restart();
    // Nobody knows any more whether it was done.
    assert_eq!(harness::error_of(&api.answer()), 100);
    let mut after = wait_moved(&daemon, &before, "requests_retried_total");
    keep(&mut after, &meanwhile, &["requests_in_flight"]);
    (before, after)
}
