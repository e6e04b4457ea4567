//! The Centrifugo protocol in a cluster: commands while Redis is away, subscriptions when it has lost
//! its data, and coming back on another node.

mod harness;

use std::time::{Duration, Instant};

use harness::{
    Api, Daemon, Redis, Sdk, SecretFile, node, signed_token, two_nodes, wait_for_each_other,
    wait_until,
};
use serde_json::{Value, json};

const SECRET: &str = "s3cret-of-the-tests-is-32-bytes!";

/// How long requests wait in these tests.
const WAIT: [&str; 2] = ["--redis-wait", "700ms"];

#[test]
fn clients_come_back_on_another_node() {
    let redis = Redis::start();
    let nodes = two_nodes(&redis.url(), &[]);
    wait_for_each_other(&nodes);
    let mut api = Api::connect(&nodes[0]);
    let mut here = Sdk::connected(&nodes[0]);
    let epoch = here.subscribe("r")["epoch"].clone();
    let epoch = epoch.as_str().expect("an epoch").to_owned();
    let mut there = Sdk::member(&nodes[1], "r");
    assert_ne!(here.client, there.client);
    let id = here.send("publish", &json!({ "channel": "r", "data": 1 }));
    let info = json!({ "user": "", "client": here.client });
    let publication = json!({ "data": 1, "offset": 1, "info": info });
    assert_eq!(here.result("publish", id), json!({}));
    here.expect_publication("r", &publication);
    there.expect_publication("r", &publication);
    here.wire.reset();
    for n in 2..=600 {
        assert_eq!(api.publish("r", &json!(n)), n);
    }
    let mut back = Sdk::connected(&nodes[1]);
    let mut result = back.resume("r", &epoch, 1);
    let list = result["publications"].take();
    assert_eq!(
        result,
        json!({ "recoverable": true, "positioned": true, "epoch": epoch, "offset": 1,
                "recovered": true, "was_recovering": true, "publications": null })
    );
    // What this node had not heard of yet follows.
    let mut missed = list.as_array().expect("publications").clone();
    while missed.len() < 599 {
        missed.push(back.publication("r"));
    }
    let expected: Vec<Value> = (2..=600)
        .map(|n| json!({ "data": n, "offset": n }))
        .collect();
    assert_eq!(missed, expected);
    // What another node's client has published is told with who it was.
    let result = back.ask("history", &json!({ "channel": "r", "limit": 1 }));
    assert_eq!(
        result,
        json!({ "publications": [publication], "epoch": epoch, "offset": 600 })
    );
    // Those of both nodes count, once the other has heard that the first is gone.
    let _third = Sdk::member(&nodes[0], "r");
    wait_until("three clients", || {
        let stats = back.ask("presence_stats", &json!({ "channel": "r" }));
        stats["num_clients"] == 3
    });
    api.publish("r", &json!("live"));
    back.expect_publication("r", &json!({ "data": "live", "offset": 601 }));
}

/// Asserts that this came to the temporary error within the wait.
fn assert_unavailable(sdk: &mut Sdk, method: &str, request: &Value) {
    let asked = Instant::now();
    assert_eq!(sdk.error(method, request), 100, "{method}");
    let took = asked.elapsed();
    assert!(took < Duration::from_secs(3), "{method}: {took:?}");
}

#[test]
fn while_redis_is_away_commands_come_to_a_temporary_error() {
    let mut redis = Redis::with_aof();
    let node = node(&redis.url(), "n1", &WAIT);
    let mut sdk = Sdk::connected(&node);
    sdk.subscribe("r");
    sdk.ask("publish", &json!({ "channel": "r", "data": "before" }));
    assert_eq!(sdk.publication("r")["data"], "before");
    redis.kill();
    wait_until("a node that knows", || {
        node.admin_get("/readyz").status == 503
    });
    let request = |room: &str| json!({ "channel": room, "data": "never", "limit": 1 });
    assert_unavailable(&mut sdk, "publish", &request("r"));
    assert_unavailable(&mut sdk, "publish", &request("unknown"));
    assert_unavailable(&mut sdk, "subscribe", &request("unknown"));
    assert_unavailable(&mut sdk, "history", &request("unknown"));
    // A subscription that has failed is none.
    assert_unavailable(&mut sdk, "subscribe", &request("unknown"));
    // Errors of several commands that wait together.
    let ids = [0; 20].map(|_| sdk.send("publish", &request("r")));
    for id in ids {
        assert_eq!(sdk.error_of(id), 100);
    }
    let errors = "roomcast_command_errors_total{code=\"100\"}";
    assert_eq!(node.metric(errors), 25.0);
    redis.restart();
    wait_until("a node that goes on", || {
        node.admin_get("/readyz").status == 200
    });
    // What was refused was not published.
    wait_until("a publication", || {
        let id = sdk.send("publish", &json!({ "channel": "r", "data": "after" }));
        sdk.reply(id).get("publish").is_some()
    });
    let publication = sdk.publication("r");
    let expected = (&json!("after"), &json!(2));
    assert_eq!((&publication["data"], &publication["offset"]), expected);
    sdk.subscribe("unknown");
    assert_eq!(node.closes("broker_gone"), 0.0);
}

#[test]
fn an_identified_client_cannot_connect_while_redis_is_away() {
    let mut redis = Redis::with_aof();
    let node = node(&redis.url(), "n1", &WAIT);
    redis.kill();
    wait_until("a node that knows", || {
        node.admin_get("/readyz").status == 503
    });
    // There is no room to join, so nothing to wait for.
    let mut stranger = Sdk::connected(&node);
    stranger.expect_nothing_before_answer();
    let target = format!("{}?user=al", harness::SDK_PATH);
    let mut named = Sdk::of(harness::Client::connect(&node, &target));
    named.send("connect", &json!({}));
    named.expect_close(3004, "internal server error");
    redis.restart();
    wait_until("a node that goes on", || {
        node.admin_get("/readyz").status == 200
    });
    let mut named = Sdk::user(&node, "al");
    named.expect_nothing_before_answer();
}

#[test]
fn members_are_told_when_redis_has_lost_the_room() {
    let redis = Redis::start();
    let file = SecretFile::new(SECRET);
    let open = node(&redis.url(), "n1", &[]);
    let closed = node(&redis.url(), "n2", &["--token-secret-file", file.path()]);
    let mut asked = Sdk::member(&open, "r");
    let mut quiet = Sdk::member(&open, "s");
    let token = signed_token(SECRET, &json!({ "sub": "al", "channels": ["r"] }));
    let mut given = Sdk::with_token(&closed, &token);
    let token = signed_token(SECRET, &json!({ "sub": "bo" }));
    let mut both = Sdk::with_token(&closed, &token);
    let epoch = both.subscribe("r")["epoch"].clone();
    let mut api = Api::connect(&open);
    assert_eq!(api.publish("r", &json!(1)), 1);
    for sdk in [&mut asked, &mut given, &mut both] {
        sdk.expect_publication("r", &json!({ "data": 1, "offset": 1 }));
    }
    redis.ask::<()>(&["FLUSHALL"]);
    assert_eq!(api.publish("r", &json!("first")), 1);
    let why = json!({ "code": 2500, "reason": "insufficient state" });
    let told = json!({ "channel": "r", "unsubscribe": why });
    assert_eq!(asked.push(), told);
    // Its personal room has lost its numbers, too, which may close it at any time after this.
    assert_eq!(both.push(), told);
    given.expect_close(3010, "insufficient state");
    // Whoever comes back with the old position gets none of the new ones for it.
    let result = asked.resume("r", epoch.as_str().expect("an epoch"), 1);
    assert_eq!(
        (&result["was_recovering"], result.get("recovered")),
        (&json!(true), None)
    );
    assert_eq!(result["offset"], 1);
    assert_ne!(result["epoch"], epoch);
    assert_eq!(api.publish("r", &json!("second")), 2);
    asked.expect_publication("r", &json!({ "data": "second", "offset": 2 }));
    // Of other rooms nobody has said anything.
    quiet.expect_nothing_before_answer();
}

#[test]
fn a_login_elsewhere_takes_the_place_of_the_first() {
    let redis = Redis::start();
    let nodes: [Daemon; 2] = two_nodes(&redis.url(), &["--duplicate-login", "replace"]);
    wait_for_each_other(&nodes);
    let mut first = Sdk::user(&nodes[0], "al");
    let mut second = Sdk::user(&nodes[1], "al");
    first.expect_close(3504, "connection limit");
    second.expect_nothing_before_answer();
    // Back ends reach it from every node, by its user or by its id.
    let mut api = Api::connect(&nodes[0]);
    api.publish("#al", &json!("letter"));
    second.expect_publication("#al", &json!({ "data": "letter", "offset": 1 }));
    second.subscribe("r");
    let request = json!({ "channel": "r", "user": "al", "client": second.client });
    api.result("unsubscribe", &request);
    let why = json!({ "code": 2000, "reason": "server unsubscribe" });
    assert_eq!(second.push(), json!({ "channel": "r", "unsubscribe": why }));
    api.result("disconnect", &json!({ "user": "al" }));
    second.expect_close(3503, "force disconnect");
}
