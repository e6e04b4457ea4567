//! Rooms that several nodes serve as one: order, forms of delivery, resuming on another node, who is
//! online.

mod harness;

use std::io::Read as _;
use std::time::{Duration, Instant};

use harness::{
    Api, Client, Daemon, Dial, Message, Passing, Redis, RedisRelay, Signal, json_member, next,
    node, publication, two_nodes, wait_until,
};
use serde_json::{Value, json};

/// The offset that a member stands at, and its epoch, as it would resume.
fn join(daemon: &Daemon, query: &str) -> (Client, Value) {
    let mut member = Client::connect(daemon, &format!("/ws?format=json&{query}"));
    let mut envelope = member.recv_json();
    let joined = envelope["joined"].take();
    assert!(joined.is_object(), "{envelope}");
    (member, joined)
}

fn position(joined: &Value, offset: u64) -> String {
    let epoch = joined["epoch"].as_str().expect("an epoch");
    format!("{epoch}.{offset}")
}

/// Every room has one order, whoever publishes where and whoever looks on how.
#[test]
fn one_order_is_seen_on_all_nodes_in_every_form() {
    const EACH: usize = 60;
    let redis = Redis::start();
    let workers = [("n1", "1"), ("n2", "0"), ("n3", "3")];
    let nodes = workers.map(|(name, workers)| node(&redis.url(), name, &["--workers", workers]));
    let mut raw = [0, 1, 2].map(|at| Client::connect(&nodes[at], "/ws?room=r"));
    let mut letters = [0, 1, 2].map(|at| json_member(&nodes[at], "room=r"));
    let mut publishers = [0, 1, 2].map(|at| json_member(&nodes[at], "room=r&echo=0"));
    // A raw member is not told when it is one.
    for daemon in &nodes {
        daemon.wait_members(3);
    }
    let mut apis = [0, 1, 2].map(|at| Api::connect(&nodes[at]));
    for number in 0..EACH {
        for (at, publisher) in publishers.iter_mut().enumerate() {
            publisher.send_text(&format!("ws {at} {number}"));
        }
        for (at, api) in apis.iter_mut().enumerate() {
            let body = json!({ "channel": "r", "data": format!("api {at} {number}") });
            api.send("publish", body.to_string());
        }
    }
    let count = 6 * EACH;
    let order: Vec<String> = (0..count).map(|_| raw[0].recv_text()).collect();
    for member in &mut raw[1..] {
        let seen: Vec<String> = (0..count).map(|_| member.recv_text()).collect();
        assert_eq!(seen, order);
    }
    for member in &mut letters {
        for (number, text) in order.iter().enumerate() {
            assert_eq!(next(member), (number as u64 + 1, json!(text)));
        }
    }
    for source in ["ws 0", "ws 1", "ws 2", "api 0", "api 1", "api 2"] {
        let of_it = order.iter().filter_map(|text| {
            let (from, number) = text.rsplit_once(' ').expect("a number");
            (from == source).then(|| number.parse::<usize>().expect("a number"))
        });
        assert!(of_it.eq(0..EACH), "{source} came in another order");
    }
    // Whoever does not want its own has all the others, and so has the one who asked by the API.
    for (at, publisher) in publishers.iter_mut().enumerate() {
        let own = format!("ws {at} ");
        for text in order.iter().filter(|text| !text.starts_with(&own)) {
            assert_eq!(next(publisher).1, json!(text));
        }
    }
    let mut offsets: Vec<u64> = Vec::new();
    for api in &mut apis {
        for _ in 0..EACH {
            let answer = api.answer();
            offsets.push(answer["result"]["offset"].as_u64().expect("an offset"));
        }
    }
    offsets.sort_unstable();
    offsets.dedup();
    assert_eq!(offsets.len(), 3 * EACH);
}

#[test]
fn what_is_published_keeps_kind_user_and_info_on_its_way_to_another_node() {
    let redis = Redis::start();
    let nodes = two_nodes(&redis.url(), &["--gzip-min-size", "100"]);
    let mut raw = Client::connect(&nodes[1], "/ws?room=r");
    let mut packed = Client::connect(&nodes[1], "/ws?room=r&gzip=1");
    let mut letters = json_member(&nodes[1], "room=r");
    nodes[1].wait_members(3);
    let mut publisher = Client::connect(&nodes[0], "/ws?room=r&user=al&echo=0");
    publisher.send_text("text ♥");
    assert_eq!(raw.recv_text(), "text ♥");
    assert_eq!(packed.recv_text(), "text ♥");
    let letter = publication(&mut letters);
    assert_eq!(
        (&letter["user"], &letter["data"]),
        (&json!("al"), &json!("text ♥"))
    );
    publisher.send_binary([0, 159, 146, 150]);
    assert_eq!(raw.recv_binary(), [0, 159, 146, 150]);
    assert_eq!(packed.recv_binary(), [0, 159, 146, 150]);
    assert_eq!(publication(&mut letters)["b64"], "AJ+Slg==");
    let mut api = Api::connect(&nodes[0]);
    api.publish("r", &json!({ "a": [1, null] }));
    assert_eq!(raw.recv_text(), r#"{"a":[1,null]}"#);
    assert_eq!(packed.recv_text(), r#"{"a":[1,null]}"#);
    let letter = publication(&mut letters);
    assert_eq!(
        (&letter["user"], &letter["data"]),
        (&json!(null), &json!({ "a": [1, null] }))
    );
    let long = "x".repeat(500);
    publisher.send_text(&long);
    assert_eq!(raw.recv_text(), long);
    let mut text = String::new();
    let bytes = packed.recv_binary();
    let mut decoder = flate2::read::GzDecoder::new(&bytes[..]);
    decoder
        .read_to_string(&mut text)
        .expect("a whole gzip member");
    assert_eq!(text, long);
}

#[test]
fn direct_messages_reach_all_nodes() {
    let redis = Redis::start();
    let nodes = two_nodes(&redis.url(), &[]);
    let mut here = Client::connect(&nodes[0], "/ws?user=bo");
    let mut there = Client::connect(&nodes[1], "/ws?user=bo");
    for daemon in &nodes {
        daemon.wait_members(1);
    }
    let mut al = Client::connect(&nodes[0], "/ws?user=al&to=bo");
    al.send_text("hi");
    assert_eq!(here.recv_text(), "hi");
    assert_eq!(there.recv_text(), "hi");
    Api::connect(&nodes[1]).publish("#bo", &json!("from a back end"));
    assert_eq!(here.recv_text(), "from a back end");
    assert_eq!(there.recv_text(), "from a back end");
}

#[test]
fn in_a_lossy_room_skips_add_up_on_every_node() {
    let redis = Redis::start();
    let args = ["--lossy-room", "live:*", "--outbound-queue", "50"];
    let nodes = two_nodes(&redis.url(), &args);
    let mut stalled = Dial::new(nodes[1].addr(), "/ws?room=live:1&format=json")
        .receive_buffer(4096)
        .connect();
    let mut healthy = Client::connect(&nodes[1], "/ws?room=live:1");
    nodes[1].wait_members(2);
    let mut publisher = Client::connect(&nodes[0], "/ws?room=live:1&echo=0");
    let block = "x".repeat(16 * 1024);
    let mut published = 0;
    while published < 600 {
        for _ in 0..20 {
            publisher.send_text(&block);
        }
        published += 20;
        for _ in 0..20 {
            assert_eq!(healthy.recv_text().len(), block.len());
        }
    }
    let (mut received, mut skipped, mut last) = (0, 0, 0);
    while received + skipped < published {
        let envelope = stalled.recv_json();
        if let Some(count) = envelope["skipped"]["count"].as_u64() {
            skipped += count;
            last += count;
        } else if let Some(offset) = envelope["publication"]["offset"].as_u64() {
            received += 1;
            last += 1;
            assert_eq!(offset, last);
        } else if received + skipped == 0 {
            assert!(envelope["joined"].is_object(), "{envelope}");
        }
        if received + skipped + 1 == published {
            // What is skipped at the end is told with the next.
            publisher.send_text("after all");
            published += 1;
        }
    }
    assert!(skipped > 0, "nothing was skipped");
    assert_eq!(last, published);
}

// --- Resuming -------------------------------------------------------------------------------------

#[test]
fn a_member_resumes_on_another_node_exactly() {
    let redis = Redis::start();
    let nodes = two_nodes(&redis.url(), &[]);
    let mut apis = [0, 1].map(|at| Api::connect(&nodes[at]));
    let (mut member, joined) = join(&nodes[0], "room=r");
    for number in 1..=10 {
        apis[number % 2].publish("r", &json!(number));
        assert_eq!(next(&mut member), (number as u64, json!(number)));
    }
    drop(member);
    for number in 11..=20 {
        apis[number % 2].publish("r", &json!(number));
    }
    for (query, first, recovered, lost) in [
        (format!("since={}", position(&joined, 10)), 11, true, 0),
        (format!("since={}", position(&joined, 20)), 21, true, 0),
        (format!("since={}", position(&joined, 0)), 1, true, 0),
        ("last=3".to_owned(), 18, true, 0),
        ("since=other.5".to_owned(), 1, false, -1),
    ] {
        // The first time the node does not know the room, then it does.
        for turn in ["first", "again"] {
            let (mut member, joined) = join(&nodes[1], &format!("room=r&{query}"));
            assert_eq!(joined["recovered"], recovered, "{turn} {query}: {joined}");
            assert_eq!(joined["lost"], lost, "{turn} {query}: {joined}");
            for number in first..=20 {
                assert_eq!(next(&mut member), (number, json!(number)), "{turn} {query}");
            }
            // Whether something is repeated is seen by what comes next.
            member.send_ping("end");
            member.expect_pong("end");
        }
    }
}

#[test]
fn a_member_that_comes_at_once_is_not_told_of_losses_by_a_node_that_lags() {
    let redis = Redis::start();
    let nodes = two_nodes(&redis.url(), &[]);
    let (_here, _there) = (
        json_member(&nodes[0], "room=r"),
        json_member(&nodes[1], "room=r"),
    );
    let mut publisher = Client::connect(&nodes[0], "/ws?room=r&echo=0");
    let (mut member, joined) = join(&nodes[0], "room=r");
    for round in 1..=100 {
        publisher.send_text("x");
        let (offset, _) = next(&mut member);
        assert_eq!(offset, round);
        // It has what the other node may not have heard of yet.
        let at = (round % 2) as usize;
        let query = format!("room=r&since={}", position(&joined, offset));
        let (again, joined) = join(&nodes[at], &query);
        assert_eq!(
            (&joined["recovered"], &joined["lost"]),
            (&json!(true), &json!(0))
        );
        assert_eq!(joined["offset"], offset, "{joined}");
        member = again;
    }
}

#[test]
fn what_history_has_forgotten_is_counted_on_every_node() {
    let redis = Redis::start();
    let nodes = two_nodes(&redis.url(), &["--history-size", "5"]);
    let mut api = Api::connect(&nodes[0]);
    let (_, joined) = join(&nodes[0], "room=r");
    for number in 1..=20 {
        api.publish("r", &json!(number));
    }
    for daemon in &nodes {
        let query = format!("room=r&since={}", position(&joined, 4));
        let (mut member, joined) = join(daemon, &query);
        assert_eq!(
            (&joined["recovered"], &joined["lost"]),
            (&json!(false), &json!(11))
        );
        for number in 16..=20 {
            assert_eq!(next(&mut member), (number, json!(number)));
        }
    }
}

#[test]
fn who_is_subscribed_to_nothing_else_gets_nothing_else() {
    let redis = Redis::start();
    let nodes = two_nodes(&redis.url(), &[]);
    let _a = json_member(&nodes[0], "room=a");
    let _b = json_member(&nodes[1], "room=b");
    let channels: Vec<String> = redis.ask(&["PUBSUB", "CHANNELS", "roomcast:{[a-z]}:f"]);
    assert_eq!(channels.len(), 2, "{channels:?}");
    let subscribers: Vec<(String, u32)> = channels
        .iter()
        .map(|channel| redis.ask::<Vec<(String, u32)>>(&["PUBSUB", "NUMSUB", channel])[0].clone())
        .collect();
    assert!(
        subscribers.iter().all(|(_, count)| *count == 1),
        "{subscribers:?}"
    );
    drop(_b);
    wait_until("a room that is not followed", || {
        let left: Vec<String> = redis.ask(&["PUBSUB", "CHANNELS", "roomcast:{[a-z]}:f"]);
        left.len() == 1
    });
}

// --- Who is online --------------------------------------------------------------------------------

fn online(member: &mut Client, room: &str, expected: u64) {
    let seen = |envelope: &Value| envelope["heartbeat"]["rooms"][room]["online"].as_u64();
    wait_until("a heartbeat with all who are online", || {
        match member.recv_within(Duration::from_secs(1)) {
            Some(Message::Text(text)) => {
                let envelope: Value = serde_json::from_str(&text).expect("JSON");
                seen(&envelope) == Some(expected)
            }
            _ => false,
        }
    });
}

#[test]
fn online_counts_are_those_of_the_cluster() {
    let redis = Redis::start();
    let nodes = two_nodes(&redis.url(), &["--heartbeat-interval", "100ms"]);
    let mut here = json_member(&nodes[0], "room=r");
    let mut there = json_member(&nodes[1], "room=r");
    let _third = json_member(&nodes[1], "room=r");
    let wait_told = |expected: [u32; 2]| {
        wait_until("nodes that have told how many they have", || {
            let shares: Vec<String> = redis.ask(&["HVALS", "roomcast:{r}:n"]);
            let counts = shares
                .iter()
                .filter_map(|share| share.split(' ').next()?.parse().ok());
            let mut counts: Vec<u32> = counts.collect();
            counts.sort_unstable();
            counts == expected
        });
    };
    wait_told([1, 2]);
    // A node hears how many others have when it tells how many it has itself.
    let _fourth = json_member(&nodes[0], "room=r");
    online(&mut here, "r", 4);
    wait_told([2, 2]);
    let _fifth = json_member(&nodes[1], "room=r");
    online(&mut there, "r", 5);
    let (_sixth, joined) = join(&nodes[1], "room=r");
    assert_eq!(joined["online"], 6);
}

#[test]
fn a_node_that_died_is_not_counted_for_longer_than_its_lease() {
    let redis = Redis::start();
    let nodes = two_nodes(&redis.url(), &["--heartbeat-interval", "100ms"]);
    let mut here = json_member(&nodes[0], "room=r");
    let _there = json_member(&nodes[1], "room=r");
    let shares = || redis.ask::<Vec<(String, String)>>(&["HGETALL", "roomcast:{r}:n"]);
    wait_until("both nodes to have told", || shares().len() == 2);
    let told = shares();
    nodes[1].signal(Signal::Kill);
    let now: (u64, u64) = redis.ask(&["TIME"]);
    // A share says until when it counts. Instead of waiting for that, the time is put back.
    for (name, share) in told {
        let (count, expiry) = share.split_once(' ').expect("a count and a time");
        assert_eq!(count, "1");
        let left_ms = expiry.parse::<u64>().expect("ms") - now.0 * 1000;
        assert!(left_ms <= 31_000, "{left_ms}");
        redis.ask::<u32>(&[
            "HSET",
            "roomcast:{r}:n",
            &name,
            &format!("{count} {}", now.0 * 1000),
        ]);
    }
    let (_second, _) = join(&nodes[0], "room=r");
    online(&mut here, "r", 2);
}

// --- What is late ---------------------------------------------------------------------------------

#[test]
fn who_wants_no_echo_gets_none_though_the_feed_was_silent_for_longer_than_the_wait() {
    let redis = Redis::start();
    let node = node(&redis.url(), "n1", &["--redis-wait", "300ms"]);
    let mut other = json_member(&node, "room=r");
    let mut publisher = json_member(&node, "room=r&echo=0");
    redis.ask::<()>(&["ACL", "SETUSER", "default", "-subscribe"]);
    redis.ask::<u32>(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    node.wait_metric("roomcast_cluster_feed_connected", |is_up| is_up == 0.0);
    publisher.send_text("mine");
    wait_until("its number", || {
        redis.ask::<u32>(&["XLEN", "roomcast:{r}:h"]) == 1
    });
    // It is answered when its time is over, and so is what was before it.
    let mut api = Api::connect(&node);
    assert_eq!(api.publish("r", &json!("from a back end")), 2);
    redis.ask::<()>(&["ACL", "SETUSER", "default", "+subscribe"]);
    assert_eq!(next(&mut other), (1, json!("mine")));
    assert_eq!(next(&mut other), (2, json!("from a back end")));
    assert_eq!(next(&mut publisher), (2, json!("from a back end")));
    // It was answered once, and goes on.
    publisher.send_text("mine again");
    assert_eq!(next(&mut other), (3, json!("mine again")));
    publisher.send_ping("end");
    publisher.expect_pong("end");
}

#[test]
fn an_idempotency_key_of_an_epoch_that_is_over_is_answered_at_once() {
    const WAIT: Duration = Duration::from_secs(10);
    let redis = Redis::start();
    let wait = format!("{}s", WAIT.as_secs());
    let node = node(&redis.url(), "n1", &["--redis-wait", &wait]);
    let (mut member, joined) = join(&node, "room=r");
    let mut api = Api::connect(&node);
    let call = json!({ "channel": "r", "data": "once", "idempotency_key": "k" });
    let first = api.result("publish", &call);
    assert_eq!(first["epoch"], joined["epoch"]);
    assert_eq!(next(&mut member), (1, json!("once")));
    redis.ask::<u32>(&["DEL", "roomcast:{r}:m", "roomcast:{r}:h"]);
    assert_eq!(api.publish("r", &json!("anew")), 1);
    let again = member.recv_json();
    assert_ne!(again["joined"]["epoch"], joined["epoch"], "{again}");
    assert_eq!(next(&mut member), (1, json!("anew")));
    let asked = Instant::now();
    assert_eq!(api.result("publish", &call), first);
    assert!(asked.elapsed() < WAIT / 2, "{:?}", asked.elapsed());
}

/// However little is kept of rooms.
#[test]
fn a_node_that_was_cut_off_hears_later_who_was_sent_away() {
    for (kept, ttl) in [
        (["--history-size", "0"], Duration::ZERO),
        (["--history-bytes", "1"], Duration::ZERO),
        (["--history-ttl", "1s"], Duration::from_millis(1100)),
    ] {
        let redis = Redis::start();
        let relay = RedisRelay::to(&redis);
        let here = node(&redis.url(), "n1", &kept);
        let there = node(&relay.url(), "n2", &kept);
        let mut member = Client::connect(&there, "/ws?room=r&user=al");
        relay.set(Passing::Nothing);
        let mut api = Api::connect(&here);
        assert_eq!(
            api.result("disconnect", &json!({ "user": "al" })),
            json!({})
        );
        // Neither is lost in what comes behind it, nor is that counted as lost to anybody.
        let message = json!({ "data": "x".repeat(60_000) });
        for _ in 0..20 {
            api.result("publish_all", &message);
        }
        let redis_ms = || {
            let now: (u64, u64) = redis.ask(&["TIME"]);
            u128::from(now.0 * 1000 + now.1 / 1000)
        };
        let told_ms = redis_ms();
        wait_until("what is too old to be over", || {
            redis_ms() >= told_ms + ttl.as_millis()
        });
        relay.cut();
        relay.set(Passing::All);
        member.expect_close(3503, "force disconnect");
        assert_eq!(there.metric("roomcast_cluster_lost_total"), 0.0);
    }
}
