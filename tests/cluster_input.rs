//! What a node makes of a Redis that is none, refuses, or holds what it should not.

mod harness;

use std::net::TcpListener;
use std::time::{Duration, Instant};

use harness::{
    Api, Client, Daemon, Dial, Passing, Redis, RedisRelay, json_member, next, node, run_to_exit,
    two_nodes, wait_for, wait_until,
};
use serde_json::{Value, json};

/// A password that must never be seen.
const PASSWORD: &str = "hunter2-hunter2";

/// Starts a node that must not come up; returns what it says.
fn refusal(args: &[&str]) -> String {
    let addrs = ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
    let started = Instant::now();
    let (status, log) = run_to_exit(&[&addrs[..], args].concat(), &[]);
    assert!(started.elapsed() < Duration::from_secs(8), "{log}");
    assert!(!status.success(), "{args:?}: {log}");
    assert!(!log.contains("panicked"), "{log}");
    assert!(!log.contains(PASSWORD), "{log}");
    log
}

/// Asserts that the node serves as if nothing had been.
fn assert_serves(daemon: &Daemon) {
    // Whoever may not join just now is asked to come again.
    let mut member = wait_for("a member", || {
        let dial = Dial::new(daemon.addr(), "/ws?format=json&room=witness");
        dial.try_connect().ok()
    });
    assert!(member.recv_json()["joined"].is_object());
    let mut api = Api::connect(daemon);
    wait_until("a publication", || {
        let answer = api.call("publish", &json!({ "channel": "witness", "data": "seen" }));
        answer["result"]["offset"].is_u64()
    });
    assert_eq!(next(&mut member).1, "seen");
    wait_until("a node that is ready", || {
        daemon.admin_get("/readyz").status == 200
    });
    let panics = |line: &String| line.contains("panicked") || line.contains(" ERROR ");
    let found = daemon.log_lines().into_iter().find(panics);
    assert_eq!(found, None);
}

fn publish(daemon: &Daemon, room: &str) -> Value {
    Api::connect(daemon).call("publish", &json!({ "channel": room, "data": "x" }))
}

// --- At the start ---------------------------------------------------------------------------------

#[test]
fn a_redis_that_cannot_be_used_is_named_at_the_start() {
    let with_password = Redis::with(&["--requirepass", "right"]);
    let (master, replica) = (Redis::start(), Redis::start());
    replica.follow(&master);
    let other_layout = Redis::start();
    other_layout.ask::<()>(&["SET", "roomcast:version", "999"]);
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let closed = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let closed_addr = closed.local_addr().expect("a bound socket has one");
    drop(closed);
    let web = Daemon::start(&[]);
    let locked = with_password.addr();
    for (url, parts) in [
        (format!("http://:{PASSWORD}@h"), &["must be redis://"][..]),
        (format!("redis://:{PASSWORD}@"), &["--redis"]),
        (format!("redis://:{PASSWORD}@127.0.0.1:99999"), &["--redis"]),
        ("redis://no-such-host.invalid".to_owned(), &["no-such-host"]),
        (
            format!("redis://:{PASSWORD}@{locked}"),
            &[&*locked.to_string(), "lets roomcast in"],
        ),
        (
            format!("redis://al:{PASSWORD}@{locked}"),
            &["al:***@", "lets roomcast in"],
        ),
        (format!("redis://{locked}"), &["NOAUTH"]),
        (format!("redis://:{PASSWORD}@{closed_addr}"), &["refused"]),
        (format!("redis://{}", web.addr()), &["a Redis that answers"]),
        (
            format!("redis://{}", silent.local_addr().expect("an address")),
            &["a Redis that answers"],
        ),
        (replica.url(), &["replica"]),
        (other_layout.url(), &["999", "--redis-prefix"]),
    ] {
        let log = refusal(&["--redis", &url]);
        for part in ["--redis"].iter().chain(parts) {
            assert!(log.contains(part), "{url}: no {part} in:\n{log}");
        }
    }
    for (prefix, name) in [("a b", "n"), ("", "n"), ("a{b}", "n"), ("a", "")] {
        let url = master.url();
        let args = [
            "--redis",
            &url,
            "--redis-prefix",
            prefix,
            "--node-name",
            name,
        ];
        let option = if name.is_empty() {
            "--node-name"
        } else {
            "--redis-prefix"
        };
        let log = refusal(&args);
        assert!(log.contains(option), "{log}");
    }
}

#[test]
fn a_redis_that_loads_is_waited_for_by_who_runs_and_named_to_who_starts() {
    let mut redis = Redis::start();
    let running = node(&redis.url(), "n1", &[]);
    assert_serves(&running);
    let ballast = "x".repeat(300);
    for number in 0..300 {
        redis.ask::<()>(&["SET", &format!("ballast:{number}"), &ballast]);
    }
    redis.ask::<()>(&["SAVE"]);
    // Five milliseconds a key, and every few keys a look at who is there.
    let args = "--key-load-delay 5000 --loading-process-events-interval-bytes 1024 \
                --rdbcompression no";
    redis.set_args(&args.split_whitespace().collect::<Vec<_>>());
    redis.restart_unready();
    wait_until("a Redis that loads", || {
        let answer = redis.try_ask::<String>(&["PING"]);
        answer.is_err_and(|error| error.code() == Some("LOADING"))
    });
    let log = refusal(&["--redis", &redis.url()]);
    assert!(log.contains("--redis") && log.contains("loading"), "{log}");
    assert_serves(&running);
}

// --- While it runs --------------------------------------------------------------------------------

#[test]
fn a_redis_that_refuses_to_write_degrades_and_recovers() {
    let redis = Redis::start();
    let node = node(&redis.url(), "n1", &["--redis-wait", "500ms"]);
    let mut member = json_member(&node, "room=r");
    for (set, reset) in [
        (["maxmemory", "1"], ["maxmemory", "0"]),
        (
            ["min-replicas-to-write", "1"],
            ["min-replicas-to-write", "0"],
        ),
    ] {
        redis.ask::<()>(&["CONFIG", "SET", set[0], set[1]]);
        let asked = Instant::now();
        assert_eq!(publish(&node, "r")["error"]["code"], 100, "{set:?}");
        assert!(
            asked.elapsed() < Duration::from_millis(1500),
            "{set:?}: {:?}",
            asked.elapsed()
        );
        let mut publisher = Client::connect(&node, "/ws?room=r&echo=0");
        publisher.send_text("never");
        publisher.expect_close(3004, None);
        redis.ask::<()>(&["CONFIG", "SET", reset[0], reset[1]]);
        assert_serves(&node);
    }
    assert_eq!(publish(&node, "r")["result"]["offset"], 1);
    assert_eq!(next(&mut member).0, 1, "nothing of what was refused");
}

#[test]
fn a_master_that_becomes_a_replica_is_left_alone_until_it_is_a_master_again() {
    let (redis, master) = (Redis::start(), Redis::start());
    let node = node(&redis.url(), "n1", &["--redis-wait", "500ms"]);
    assert_serves(&node);
    redis.follow(&master);
    assert_eq!(publish(&node, "r")["error"]["code"], 100);
    wait_until("a node that is not ready", || {
        node.admin_get("/readyz").status == 503
    });
    redis.promote();
    assert_serves(&node);
}

#[test]
fn scripts_that_are_forgotten_are_loaded_again() {
    let redis = Redis::start();
    let nodes = two_nodes(&redis.url(), &["--duplicate-login", "replace"]);
    let mut member = json_member(&nodes[1], "room=r");
    let mut publisher = Client::connect(&nodes[0], "/ws?room=r&echo=0");
    let mut count = 0;
    for _ in 0..10 {
        for part in 0..20 {
            if part == 10 {
                redis.ask::<()>(&["SCRIPT", "FLUSH"]);
            }
            count += 1;
            publisher.send_text(&count.to_string());
        }
        for number in count - 19..=count {
            assert_eq!(next(&mut member), (number, json!(number.to_string())));
        }
    }
    redis.ask::<()>(&["SCRIPT", "FLUSH"]);
    let mut login = Client::connect(&nodes[0], "/ws?user=al");
    login.send_ping("in");
    login.expect_pong("in");
    nodes.iter().for_each(assert_serves);
}

#[test]
fn a_key_of_another_type_spoils_its_room_only() {
    let redis = Redis::start();
    let node = node(&redis.url(), "n1", &["--redis-wait", "500ms"]);
    for key in ["roomcast:{bad}:m", "roomcast:{bad}:h"] {
        redis.ask::<()>(&["SET", key, "a string"]);
        assert_eq!(publish(&node, "bad")["error"]["code"], 100, "{key}");
        let mut api = Api::connect(&node);
        let history = json!({ "channel": "bad", "limit": 1 });
        let answer = api.call("history", &history);
        // Without its meta hash there is no such room to look at.
        if key.ends_with('m') {
            assert_eq!(answer["error"]["code"], 100, "{answer}");
        } else {
            assert_eq!(answer["result"]["publications"], json!([]), "{answer}");
        }
        let refused = Dial::new(node.addr(), "/ws?room=bad").try_connect();
        assert_eq!(
            refused.err().map(|response| response.status),
            Some(503),
            "{key}"
        );
        assert_serves(&node);
        node.wait_log("room \"bad\" cannot be used in Redis");
        redis.ask::<()>(&["DEL", key]);
        assert!(publish(&node, "bad")["result"]["offset"].is_u64(), "{key}");
        redis.ask::<()>(&["DEL", "roomcast:{bad}:m", "roomcast:{bad}:h"]);
    }
}

#[test]
fn another_prefix_on_the_same_redis_is_another_cluster() {
    let redis = Redis::start();
    let ours = node(&redis.url(), "n1", &[]);
    let theirs = node(&redis.url(), "n2", &["--redis-prefix", "other"]);
    let mut member = json_member(&theirs, "room=r&user=al");
    let mut apis = [Api::connect(&ours), Api::connect(&theirs)];
    assert_eq!(apis[0].publish("r", &json!("ours")), 1);
    assert_eq!(
        apis[0].result("publish_all", &json!({ "data": "ours" })),
        json!({})
    );
    assert_eq!(
        apis[0].result("disconnect", &json!({ "user": "al" })),
        json!({})
    );
    let history = json!({ "channel": "r", "limit": -1 });
    assert_eq!(
        apis[1].result("history", &history)["publications"],
        json!([])
    );
    assert_eq!(apis[1].publish("r", &json!("theirs")), 1);
    let own_room = member.recv_json();
    assert!(own_room["joined"].is_object(), "{own_room}");
    assert_eq!(next(&mut member), (1, json!("theirs")));
    for api in &mut apis {
        let nodes = &api.result("info", &json!({}))["nodes"];
        assert_eq!(nodes.as_array().map(Vec::len), Some(1), "{nodes}");
    }
}

/// As a newer version might: numbered, kept and told like any other, in an envelope of its own.
const NEWER: &str = "
    local o = redis.call('HINCRBY', KEYS[1], 'o', 1)
    local e = redis.call('HGET', KEYS[1], 'e')
    redis.call('HSET', KEYS[1], 'k', o)
    local t = redis.call('TIME')
    local ms = string.format('%.0f', t[1] * 1000 + math.floor(t[2] / 1000))
    redis.call('XADD', KEYS[2], o .. '-0', 't', ms, 'v', ARGV[1])
    redis.call('PUBLISH', KEYS[3], 'p ' .. e .. ' ' .. o .. ' ' .. ms .. '\\n' .. ARGV[1])
    return o";

#[test]
fn a_publication_of_a_newer_version_is_told_to_be_lost() {
    let redis = Redis::start();
    let node = node(&redis.url(), "n1", &[]);
    let mut member = json_member(&node, "room=r");
    let mut raw = Client::connect(&node, "/ws?room=r");
    node.wait_members(2);
    let mut api = Api::connect(&node);
    assert_eq!(api.publish("r", &json!("one")), 1);
    assert_eq!(raw.recv_text(), "one");
    let envelope = "\u{7f}0123456789abcdef and whatever a later version may put here";
    let keys = ["roomcast:{r}:m", "roomcast:{r}:h", "roomcast:{r}:f"];
    let number: u64 = redis.ask(&["EVAL", NEWER, "3", keys[0], keys[1], keys[2], envelope]);
    assert_eq!(number, 2);
    assert_eq!(api.publish("r", &json!("three")), 3);
    assert_eq!(next(&mut member), (1, json!("one")));
    assert_eq!(
        member.recv_json(),
        json!({ "skipped": { "room": "r", "count": 1 } })
    );
    assert_eq!(next(&mut member), (3, json!("three")));
    raw.expect_close(3010, "insufficient state");
    node.wait_log("a publication of another version");
    // A back end is given what can be read.
    let page = api.result("history", &json!({ "channel": "r", "limit": -1 }));
    let offsets: Vec<u64> = page["publications"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|one| one["offset"].as_u64().expect("an offset"))
        .collect();
    assert!(
        offsets.ends_with(&[3]) && !offsets.contains(&2),
        "{offsets:?}"
    );
    assert_serves(&node);
}

#[test]
fn whoever_comes_back_over_what_cannot_be_read_is_told_so() {
    let redis = Redis::start();
    let nodes = two_nodes(&redis.url(), &[]);
    let mut member = Client::connect(&nodes[0], "/ws?room=r&format=json");
    let joined = member.recv_json();
    let epoch = joined["joined"]["epoch"]
        .as_str()
        .expect("an epoch")
        .to_owned();
    let mut api = Api::connect(&nodes[0]);
    assert_eq!(api.publish("r", &json!("one")), 1);
    let envelope = "\u{7f}0123456789abcdef later";
    let keys = ["roomcast:{r}:m", "roomcast:{r}:h", "roomcast:{r}:f"];
    redis.ask::<u64>(&["EVAL", NEWER, "3", keys[0], keys[1], keys[2], envelope]);
    assert_eq!(api.publish("r", &json!("three")), 3);
    assert_eq!(next(&mut member).0, 1);
    // On the node that heard it, and on the one that reads it.
    for daemon in &nodes {
        let target = format!("/ws?room=r&format=json&since={epoch}.1");
        let mut late = Client::connect(daemon, &target);
        let mut told = late.recv_json()["joined"]["lost"]
            .as_i64()
            .expect("a number");
        let mut last = 1;
        while last < 3 {
            let envelope = late.recv_json();
            if let Some(count) = envelope["skipped"]["count"].as_i64() {
                told += count;
            } else {
                last = envelope["publication"]["offset"]
                    .as_i64()
                    .expect("an offset");
                assert_eq!(last, 3, "{envelope}");
            }
        }
        assert!(
            told == 1 || told == -1,
            "{told} told of 1 on {}",
            daemon.addr()
        );
    }
}

#[test]
fn rubbish_on_our_channels_is_counted_and_changes_nothing() {
    let redis = Redis::start();
    let node = node(&redis.url(), "n1", &[]);
    let mut member = json_member(&node, "room=r");
    let mut api = Api::connect(&node);
    assert_eq!(api.publish("r", &json!("one")), 1);
    let channels: Vec<String> = redis.ask(&["PUBSUB", "CHANNELS", "roomcast:*"]);
    assert!(channels.len() >= 3, "{channels:?}");
    let long = "p ".repeat(40_000);
    for channel in &channels {
        for rubbish in [
            "",
            "p",
            "p ",
            "p a b c",
            "p a 1 1",
            "p a 18446744073709551616 1\n",
            "b x",
            "g",
            "g x",
            "g 99999999999999999999999",
            "t",
            "t x",
            "w",
            "a",
            "a\u{1}",
            "?",
            "\n",
            "{}",
            &long,
        ] {
            redis.ask::<u32>(&["PUBLISH", channel, rubbish]);
        }
    }
    assert_eq!(next(&mut member), (1, json!("one")));
    assert_eq!(api.publish("r", &json!("two")), 2);
    assert_eq!(next(&mut member), (2, json!("two")));
    assert_serves(&node);
}

#[test]
fn a_sentinel_says_where_redis_is() {
    let redis = Redis::start();
    let file = redis.file("sentinel.conf");
    let line = format!("sentinel monitor main 127.0.0.1 {} 1\n", redis.port());
    std::fs::write(&file, line).expect("its own folder");
    let sentinel = Redis::sentinel(&file);
    let by_sentinel = node(
        &format!("redis+sentinel://{}/main", sentinel.addr()),
        "n1",
        &[],
    );
    let direct = node(&redis.url(), "n2", &[]);
    let mut member = json_member(&by_sentinel, "room=r");
    assert_eq!(publish(&direct, "r")["result"]["offset"], 1);
    assert_eq!(next(&mut member).0, 1);
    let log = refusal(&[
        "--redis",
        &format!("redis+sentinel://{}/other", sentinel.addr()),
    ]);
    assert!(log.contains("--redis") && log.contains("other"), "{log}");
    let log = refusal(&["--redis", &format!("redis://{}", sentinel.addr())]);
    assert!(log.contains("redis+sentinel://host:port/master"), "{log}");
}

/// What Redis has not heard is sent again, and what it has done is not done again.
#[test]
fn connections_that_end_in_the_middle_of_a_question_are_made_anew() {
    let redis = Redis::start();
    let relay = RedisRelay::to(&redis);
    let node = node(&relay.url(), "n1", &["--redis-wait", "10s"]);
    let mut member = json_member(&node, "room=r");
    let mut publisher = Client::connect(&node, "/ws?room=r&echo=0");
    // A room that has just begun cannot tell what it was not asked from what it has forgotten.
    let begun_ms: u64 = redis.ask(&["HGET", "roomcast:{r}:m", "c"]);
    wait_until("a room of some age", || {
        let (secs, micros): (u64, u64) = redis.ask(&["TIME"]);
        secs * 1000 + micros / 1000 > begun_ms + 300
    });
    let mut count = 0;
    for round in 0..5 {
        for part in 0..30 {
            if part == 5 + round * 5 {
                // What is on its way is kept back, and then cut off.
                relay.set(Passing::Later);
            }
            count += 1;
            publisher.send_text(&count.to_string());
        }
        publisher.send_ping("taken");
        publisher.expect_pong("taken");
        relay.cut();
        relay.set(Passing::All);
        for number in count - 29..=count {
            assert_eq!(next(&mut member), (number, json!(number.to_string())));
        }
    }
    assert_serves(&node);
}
