//! Redis is not there, or not what it was: who waits, who is refused, who is told.

mod harness;

use std::time::{Duration, Instant};

use harness::{
    Api, Client, Daemon, Dial, Message, Passing, Redis, RedisRelay, Sdk, error_of, json_member,
    next, node, two_nodes, wait_for, wait_until,
};
use serde_json::{Value, json};

/// How long requests wait in these tests, and what they may take longer.
const WAIT: [&str; 2] = ["--redis-wait", "700ms"];
const WAIT_TIME: Duration = Duration::from_millis(700);
const MARGIN: Duration = Duration::from_millis(500);

fn status(daemon: &Daemon, target: &str) -> u16 {
    match Dial::new(daemon.addr(), target).try_connect() {
        Ok(_) => 101,
        Err(response) => response.status,
    }
}

fn assert_health(daemon: &Daemon, is_ready: bool) {
    let line = if is_ready {
        "ok"
    } else {
        "degraded: requests cannot be sent to Redis; the feed from Redis is lost"
    };
    wait_ready(daemon, line);
    // It is alive all the same: to start it again would help nobody.
    for health in [daemon.admin_get("/healthz"), daemon.get("/healthz")] {
        assert_eq!((health.status, health.text().trim()), (200, "ok"));
    }
}

/// Waits until `/readyz` says so.
fn wait_ready(daemon: &Daemon, line: &str) {
    let code = if line == "ok" { 200 } else { 503 };
    wait_until(line, || {
        let ready = daemon.admin_get("/readyz");
        let text = ready.text();
        assert_eq!(ready.status == 200, text.trim() == "ok", "{text}");
        (ready.status, text.trim()) == (code, line)
    });
}

/// What a node does while it cannot ask Redis.
fn assert_degraded(daemon: &Daemon, member: &mut Client, publisher: &mut Client) {
    // Whoever is connected stays.
    member.send_ping("still");
    member.expect_pong("still");
    // A back end is told within the wait.
    let mut api = Api::connect(daemon);
    let within = |what: &str, asked: Instant| {
        let took = asked.elapsed();
        assert!(took < WAIT_TIME + MARGIN, "{what}: {took:?}");
    };
    for (method, body) in [
        ("publish", json!({ "channel": "r", "data": "never" })),
        ("history_remove", json!({ "channel": "r" })),
        ("history", json!({ "channel": "unknown", "limit": 1 })),
        ("disconnect", json!({ "user": "nobody" })),
    ] {
        let asked = Instant::now();
        assert_eq!(api.error(method, &body), 100, "{method}");
        within(method, asked);
    }
    // What waited is not published later, but the one who sent it is sent away.
    let asked = Instant::now();
    publisher.send_text("never");
    publisher.expect_close(3004, "internal server error");
    within("a publication", asked);
    // Nobody joins a room that is not known here.
    let asked = Instant::now();
    assert_eq!(status(daemon, "/ws?room=unknown"), 503);
    within("a join", asked);
    let asked = Instant::now();
    let origin = format!("http://{}", daemon.addr());
    let page = Dial::new(daemon.addr(), "/ws?room=unknown").header("Origin", &origin);
    page.connect().expect_close(3004, "internal server error");
    within("a join of a page", asked);
}

/// A close frame is answered when it is known what became of the publications before it.
#[test]
fn who_publishes_and_closes_while_redis_is_away_is_told_that_it_failed() {
    let mut redis = Redis::with_aof();
    let node = node(&redis.url(), "n1", &WAIT);
    let mut in_time = Client::connect(&node, "/ws?room=r&echo=0");
    in_time.send_text("kept");
    in_time.send_close(1000, "done");
    in_time.expect_close(1000, "done");
    let mut raw = Client::connect(&node, "/ws?room=r&echo=0");
    let mut sdk = Sdk::connected(&node);
    redis.kill();
    assert_health(&node, false);
    raw.send_text("lost");
    raw.send_close(1000, "done");
    let id = sdk.send("publish", &json!({ "channel": "r", "data": "lost" }));
    sdk.wire.send_close(1000, "done");
    raw.expect_close(3004, "internal server error");
    assert_eq!(sdk.error_of(id), 100);
    sdk.expect_close(1000, "done");
    redis.restart();
    assert_health(&node, true);
    let mut api = Api::connect(&node);
    let history = api.result("history", &json!({ "channel": "r", "limit": 9 }));
    assert_eq!(history["publications"][0]["data"], "kept");
    assert_eq!(history["offset"], 1);
}

#[test]
fn while_redis_is_away_connections_stay_and_publishers_are_told() {
    let mut redis = Redis::with_aof();
    let node = node(&redis.url(), "n1", &WAIT);
    let mut member = json_member(&node, "room=r");
    let mut publisher = Client::connect(&node, "/ws?room=r&echo=0");
    publisher.send_text("before");
    assert_eq!(next(&mut member).1, "before");
    assert_health(&node, true);
    redis.kill();
    assert_health(&node, false);
    assert_degraded(&node, &mut member, &mut publisher);
    redis.restart();
    assert_health(&node, true);
    let mut api = Api::connect(&node);
    wait_until("a publication", || {
        let answer = api.call("publish", &json!({ "channel": "r", "data": "after" }));
        answer["result"]["offset"] == 2
    });
    assert_eq!(next(&mut member), (2, json!("after")));
    wait_until("a join", || status(&node, "/ws?room=unknown") == 101);
}

#[test]
fn a_node_without_its_feed_is_degraded_and_says_when_it_is_back() {
    let redis = Redis::start();
    redis.ask::<()>(&["ACL", "SETUSER", "al", "on", ">pw", "~*", "&*", "+@all"]);
    let node = node(&format!("redis://al:pw@{}/", redis.addr()), "n1", &[]);
    let mut member = json_member(&node, "room=r");
    redis.ask::<()>(&["ACL", "SETUSER", "al", "-subscribe"]);
    redis.ask::<()>(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    wait_ready(&node, "degraded: the feed from Redis is lost");
    assert_eq!(node.metric("roomcast_cluster_available"), 1.0);
    assert_eq!(node.metric("roomcast_cluster_feed_connected"), 0.0);
    redis.ask::<()>(&["ACL", "SETUSER", "al", "+subscribe"]);
    let line = node.wait_log("the feed from Redis is back, run ");
    assert!(line.contains("INFO"), "{line}");
    wait_ready(&node, "ok");
    assert_eq!(node.metric("roomcast_cluster_feed_connected"), 1.0);
    assert_eq!(Api::connect(&node).publish("r", &json!("after")), 1);
    assert_eq!(next(&mut member), (1, json!("after")));
}

/// The feed hears of every room again each time it is back, and nothing that is asked then is sent.
#[test]
fn a_feed_that_comes_and_goes_while_requests_cannot_be_sent_lets_nothing_gather() {
    const ROOMS: usize = 20;
    let redis = Redis::start();
    redis.ask::<()>(&["ACL", "SETUSER", "al", "on", ">pw", "~*", "&*", "+@all"]);
    let node = node(&format!("redis://al:pw@{}/", redis.addr()), "n1", &WAIT);
    let mut members: Vec<Client> = (0..ROOMS)
        .map(|room| json_member(&node, &format!("room=r{room}")))
        .collect();
    redis.ask::<()>(&["ACL", "SETUSER", "al", "-script"]);
    redis.ask::<()>(&["CLIENT", "KILL", "TYPE", "normal"]);
    node.wait_metric("roomcast_cluster_available", |is_up| is_up == 0.0);
    // That of the nodes, too.
    let followed = (ROOMS + 1) as f64;
    for _ in 0..4 {
        let before = node.metric("roomcast_cluster_reads_total");
        redis.ask::<()>(&["CLIENT", "KILL", "TYPE", "pubsub"]);
        node.wait_metric("roomcast_cluster_reads_total", |reads| {
            reads >= before + followed
        });
    }
    node.wait_metric("roomcast_cluster_requests_waiting", |waiting| {
        waiting == followed
    });
    redis.ask::<()>(&["ACL", "SETUSER", "al", "+script"]);
    wait_ready(&node, "ok");
    let mut api = Api::connect(&node);
    for (room, member) in members.iter_mut().enumerate() {
        assert_eq!(api.publish(&format!("r{room}"), &json!("after")), 1);
        assert_eq!(next(member), (1, json!("after")));
    }
}

/// Nobody publishes: a node that is given nothing to do must see for itself when it is well again.
#[test]
fn a_node_is_degraded_for_as_long_as_redis_is_full() {
    let redis = Redis::start();
    let node = node(&redis.url(), "n1", &WAIT);
    wait_ready(&node, "ok");
    redis.ask::<()>(&["CONFIG", "SET", "maxmemory", "1000"]);
    let refused = "degraded: Redis refuses to write: OOM ";
    wait_until(refused, || {
        let ready = node.admin_get("/readyz");
        ready.status == 503 && ready.text().starts_with(refused)
    });
    assert_eq!(node.metric("roomcast_cluster_available"), 1.0);
    assert_eq!(node.get("/healthz").status, 200);
    redis.ask::<()>(&["CONFIG", "SET", "maxmemory", "0"]);
    wait_ready(&node, "ok");
    assert_eq!(Api::connect(&node).publish("r", &json!("after")), 1);
}

#[test]
fn the_room_of_nodes_is_named_in_the_log_as_what_it_is() {
    let redis = Redis::start();
    let node = node(&redis.url(), "n1", &[]);
    let shares = wait_for("a room of nodes", || {
        redis.ask::<Vec<String>>(&["KEYS", "roomcast:{*}:n"]).pop()
    });
    redis.ask::<()>(&["SET", &shares, "a string"]);
    node.wait_log("the room of nodes cannot be used in Redis: WRONGTYPE");
    let lines = node.log_lines();
    let is_odd = |line: &&String| line.contains("u{1}");
    assert_eq!(lines.iter().find(is_odd), None);
}

/// It answers nothing and refuses nothing, as behind a cable that is pulled.
#[test]
fn while_redis_is_silent_others_go_on_and_what_they_publish_comes_later() {
    let redis = Redis::start();
    let relay = RedisRelay::to(&redis);
    let here = node(&relay.url(), "n1", &WAIT);
    let there = node(&redis.url(), "n2", &[]);
    let mut letters = json_member(&here, "room=r");
    let mut raw = Client::connect(&here, "/ws?room=r");
    let mut publisher = Client::connect(&here, "/ws?room=r&echo=0");
    let mut other = json_member(&there, "room=r");
    here.wait_members(3);
    relay.set(Passing::Nothing);
    let mut api = Api::connect(&there);
    for number in 1..=20 {
        assert_eq!(api.publish("r", &json!(number)), number);
        assert_eq!(next(&mut other).0, number);
    }
    assert_degraded(&here, &mut letters, &mut publisher);
    assert_health(&here, false);
    assert_health(&there, true);
    relay.cut();
    relay.set(Passing::All);
    for number in 1..=20 {
        assert_eq!(next(&mut letters), (number, json!(number)));
        assert_eq!(raw.recv_text(), number.to_string());
    }
    assert_health(&here, true);
    assert_eq!(api.publish("r", &json!("after")), 21);
    assert_eq!(next(&mut letters), (21, json!("after")));
    assert_eq!(raw.recv_text(), "after");
}

/// What is not kept can be read by nobody later. The loss is told at its place.
#[test]
fn what_was_not_to_be_kept_is_told_to_be_lost_where_it_would_have_come() {
    let redis = Redis::start();
    let relay = RedisRelay::to(&redis);
    let here = node(&relay.url(), "n1", &[]);
    let there = node(&redis.url(), "n2", &[]);
    let mut letters = json_member(&here, "room=r");
    let mut raw = Client::connect(&here, "/ws?room=r");
    here.wait_members(2);
    relay.set(Passing::Nothing);
    let mut api = Api::connect(&there);
    for number in 1..=7 {
        let is_unkept = [3, 4, 7].contains(&number);
        let call = json!({ "channel": "r", "data": number, "skip_history": is_unkept });
        assert_eq!(api.result("publish", &call)["offset"], number);
    }
    relay.cut();
    relay.set(Passing::All);
    let mut seen = Vec::new();
    while seen.iter().sum::<u64>() < 7 {
        let envelope = letters.recv_json();
        match envelope["skipped"]["count"].as_u64() {
            Some(count) => seen.push(count),
            None => {
                let offset = envelope["publication"]["offset"].as_u64();
                let expected = seen.iter().sum::<u64>() + 1;
                assert_eq!(offset, Some(expected), "{envelope} after {seen:?}");
                seen.push(1);
            }
        }
    }
    assert_eq!(seen, [1, 1, 2, 1, 1, 1]);
    for number in 1..=2 {
        assert_eq!(raw.recv_text(), number.to_string());
    }
    raw.expect_close(3010, "insufficient state");
    assert_eq!(api.publish("r", &json!("after")), 8);
    assert_eq!(next(&mut letters), (8, json!("after")));
}

#[test]
fn what_waits_for_redis_is_carried_out_if_it_is_back_in_time() {
    let redis = Redis::start();
    let node = node(&redis.url(), "n1", &["--redis-wait", "5s"]);
    let mut member = json_member(&node, "room=r");
    let mut publisher = Client::connect(&node, "/ws?room=r&echo=0");
    node.wait_members(2);
    redis.pause();
    let mut api = Api::connect(&node);
    for number in 0..50 {
        publisher.send_text(&format!("ws {number}"));
        let body = json!({ "channel": "r", "data": format!("api {number}") });
        api.send("publish", body.to_string());
    }
    assert_eq!(
        member.recv_within(Duration::from_millis(300)),
        None,
        "before it has a number"
    );
    redis.resume();
    let mut seen: Vec<String> = Vec::new();
    for number in 1..=100 {
        let (offset, data) = next(&mut member);
        assert_eq!(offset, number);
        seen.push(data.as_str().expect("text").to_owned());
    }
    for source in ["ws", "api"] {
        let of_it: Vec<_> = seen
            .iter()
            .filter(|text| text.starts_with(source))
            .collect();
        let expected: Vec<String> = (0..50).map(|number| format!("{source} {number}")).collect();
        assert!(of_it.iter().copied().eq(&expected), "{of_it:?}");
    }
    for _ in 0..50 {
        assert!(api.answer()["result"]["offset"].is_u64());
    }
}

// --- What Redis has lost --------------------------------------------------------------------------

/// Members of both forms on both nodes, that have seen the same.
struct Members {
    letters: [Client; 2],
    raw: [Client; 2],
    epoch: String,
}

impl Members {
    fn join(nodes: &[Daemon; 2]) -> Self {
        let raw = [0, 1].map(|at| Client::connect(&nodes[at], "/ws?room=r"));
        let mut letters = [0, 1].map(|at| Client::connect(&nodes[at], "/ws?room=r&format=json"));
        let mut epoch = String::new();
        for member in &mut letters {
            let joined = member.recv_json();
            epoch = joined["joined"]["epoch"]
                .as_str()
                .expect("an epoch")
                .to_owned();
        }
        for daemon in nodes {
            daemon.wait_members(2);
        }
        let mut api = Api::connect(&nodes[0]);
        let mut members = Self {
            letters,
            raw,
            epoch,
        };
        for number in 1..=5 {
            assert_eq!(api.publish("r", &json!(number)), number);
            members
                .letters
                .iter_mut()
                .for_each(|one| assert_eq!(next(one).0, number));
            members
                .raw
                .iter_mut()
                .for_each(|one| assert_eq!(one.recv_text(), number.to_string()));
        }
        members
    }

    /// Asserts that all are told of another epoch, in which there were so many publications of others,
    /// and that it is the same for all.
    fn assert_told(mut self, nodes: &[Daemon; 2], others: u64) {
        let joined = self
            .letters
            .each_mut()
            .map(|one| one.recv_json()["joined"].take());
        for joined in &joined {
            assert_eq!(joined["room"], "r", "{joined}");
            assert_eq!(
                (&joined["recovered"], &joined["lost"]),
                (&json!(false), &json!(-1))
            );
            assert_ne!(joined["epoch"], json!(self.epoch));
            assert_eq!(joined["epoch"], joined_epoch(&nodes[0]));
        }
        assert_eq!(joined[0]["epoch"], joined[1]["epoch"]);
        for raw in &mut self.raw {
            raw.expect_close(3010, "insufficient state");
        }
        // Nobody sees an offset twice in one epoch.
        let offset = Api::connect(&nodes[1]).publish("r", &json!("new"));
        assert_eq!(offset, others + 1);
        let assert_gets_all = |member: &mut Client| {
            for number in 1..=others {
                assert_eq!(next(member), (number, json!("other")));
            }
            assert_eq!(next(member), (offset, json!("new")));
        };
        self.letters.iter_mut().for_each(assert_gets_all);
        // Whoever comes back with what was is told too.
        let query = format!("/ws?room=r&format=json&since={}.5", self.epoch);
        for daemon in nodes {
            let mut late = Client::connect(daemon, &query);
            let told = late.recv_json();
            assert_eq!(told["joined"]["lost"], -1, "{told}");
            assert_gets_all(&mut late);
        }
    }
}

fn joined_epoch(daemon: &Daemon) -> Value {
    Client::connect(daemon, "/ws?room=r&format=json").recv_json()["joined"]["epoch"].take()
}

#[test]
fn members_are_told_when_redis_comes_back_empty() {
    let mut redis = Redis::start();
    let nodes = two_nodes(&redis.url(), &[]);
    let members = Members::join(&nodes);
    redis.restart_empty();
    members.assert_told(&nodes, 0);
}

/// Nothing is connected anew, so only the next publication, read or beat can show it.
#[test]
fn members_are_told_when_redis_is_flushed() {
    let redis = Redis::start();
    let nodes = two_nodes(&redis.url(), &[]);
    let mut members = Members::join(&nodes);
    redis.ask::<()>(&["FLUSHALL"]);
    assert_eq!(Api::connect(&nodes[0]).publish("r", &json!("first")), 1);
    for member in &mut members.letters {
        let told = member.recv_json();
        assert_eq!(told["joined"]["lost"], -1, "{told}");
        assert_ne!(told["joined"]["epoch"], json!(members.epoch));
        assert_eq!(next(member), (1, json!("first")));
    }
    for raw in &mut members.raw {
        raw.expect_close(3010, "insufficient state");
    }
}

#[test]
fn members_are_told_when_a_stale_replica_takes_over() {
    let (master, replica) = (Redis::start(), Redis::start());
    replica.follow(&master);
    let relay = RedisRelay::to(&master);
    let nodes = two_nodes(&relay.url(), &[]);
    // It has the room, but nothing of what was published.
    drop(Members::empty_room(&nodes[0]));
    wait_until("a replica that has the room", || {
        replica.ask::<u32>(&["EXISTS", "roomcast:{r}:m"]) == 1
    });
    replica.promote();
    let members = Members::join(&nodes);
    relay.turn_to(&replica);
    members.assert_told(&nodes, 0);
}

/// It has as many publications as were told, but others.
#[test]
fn members_are_told_when_a_replica_with_another_content_takes_over() {
    let (master, replica) = (Redis::start(), Redis::start());
    replica.follow(&master);
    let relay = RedisRelay::to(&master);
    let nodes = two_nodes(&relay.url(), &[]);
    drop(Members::empty_room(&nodes[0]));
    wait_until("a replica that has the room", || {
        replica.ask::<u32>(&["EXISTS", "roomcast:{r}:m"]) == 1
    });
    replica.promote();
    {
        let aside = node(&replica.url(), "aside", &[]);
        let mut api = Api::connect(&aside);
        wait_until("a run that is settled", || {
            let answer = api.call("publish", &json!({ "channel": "r", "data": "other" }));
            answer["result"]["offset"] == 1
        });
        for number in 2..=5 {
            assert_eq!(api.publish("r", &json!("other")), number);
        }
    }
    let members = Members::join(&nodes);
    relay.turn_to(&replica);
    members.assert_told(&nodes, 5);
}

impl Members {
    fn empty_room(daemon: &Daemon) -> Client {
        json_member(daemon, "room=r")
    }
}

#[test]
fn nothing_is_told_when_redis_comes_back_with_everything() {
    let mut redis = Redis::with_aof();
    let nodes = two_nodes(&redis.url(), &[]);
    let mut members = Members::join(&nodes);
    redis.kill();
    redis.restart();
    let mut api = Api::connect(&nodes[1]);
    wait_until("a publication", || {
        let answer = api.call("publish", &json!({ "channel": "r", "data": "new" }));
        if answer["error"].is_object() {
            assert_eq!(error_of(&answer), 100);
            return false;
        }
        assert_eq!(answer["result"]["offset"], 6, "{answer}");
        true
    });
    for member in &mut members.letters {
        assert_eq!(next(member), (6, json!("new")));
    }
    for raw in &mut members.raw {
        assert_eq!(raw.recv(), Message::text("new"));
    }
    assert_eq!(joined_epoch(&nodes[0]), json!(members.epoch));
}
