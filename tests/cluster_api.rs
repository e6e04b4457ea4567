//! Calls of back ends to any node mean the whole cluster.

mod harness;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use harness::{
    Api, Client, Daemon, Redis, Signal, history, json_member, next, two_nodes, wait_for_each_other,
    wait_until,
};
use serde_json::{Value, json};

struct Cluster {
    /// Behind the nodes, so that it outlives them.
    nodes: [Daemon; 2],
    apis: [Api; 2],
    _redis: Redis,
}

impl Cluster {
    /// Nodes that know each other.
    fn acquainted() -> Self {
        let cluster = Self::start();
        wait_for_each_other(&cluster.nodes);
        cluster
    }

    fn start() -> Self {
        Self::start_with(&[])
    }

    fn start_with(args: &[&str]) -> Self {
        let redis = Redis::start();
        let nodes = two_nodes(&redis.url(), args);
        let apis = [Api::connect(&nodes[0]), Api::connect(&nodes[1])];
        Self {
            nodes,
            apis,
            _redis: redis,
        }
    }
}

/// The ids of the connections by the peer's address.
fn ids(api: &mut Api, of: &Value) -> BTreeMap<String, String> {
    let result = api.result("connections", of);
    let rows = result["connections"].as_array().expect("a list");
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    rows.iter()
        .map(|row| (text(&row["peer"]), text(&row["id"])))
        .collect()
}

fn id_of(api: &mut Api, client: &Client) -> String {
    let peer = client.local_addr().to_string();
    ids(api, &json!({ "channel": "r" }))[&peer].clone()
}

fn assert_open(client: &mut Client) {
    client.send_ping("open?");
    client.expect_pong("open?");
}

#[test]
fn publications_and_histories_are_the_same_on_any_node() {
    let mut cluster = Cluster::start();
    let [here, there] = &mut cluster.apis;
    let mut member = json_member(&cluster.nodes[1], "room=a");
    for number in 1..=10 {
        let api = if number % 2 == 0 {
            &mut *here
        } else {
            &mut *there
        };
        assert_eq!(api.publish("a", &json!(number)), number);
        assert_eq!(next(&mut member), (number, json!(number)));
    }
    // One node follows the room, the other does not.
    for api in [&mut *here, &mut *there] {
        let all = history(api, &json!({ "channel": "a", "limit": -1 }));
        assert_eq!(all, ((1..=10).collect(), 10));
        let some = json!({ "channel": "a", "limit": 3, "reverse": true });
        assert_eq!(history(api, &some), (vec![10, 9, 8], 10));
        assert_eq!(history(api, &json!({ "channel": "a" })), (vec![], 10));
    }
    let epoch = here.result("history", &json!({ "channel": "a" }))["epoch"].clone();
    assert_eq!(
        there.result("history", &json!({ "channel": "a" }))["epoch"],
        epoch
    );
    let since = json!({ "channel": "a", "limit": -1, "since": { "epoch": epoch, "offset": 7 } });
    assert_eq!(history(here, &since), (vec![8, 9, 10], 10));
    let wrong = json!({ "channel": "a", "limit": -1, "since": { "epoch": "other", "offset": 7 } });
    assert_eq!(
        (
            here.error("history", &wrong),
            there.error("history", &wrong)
        ),
        (112, 112)
    );

    let aside = json!({ "channel": "a", "data": "unkept", "skip_history": true });
    assert_eq!(here.result("publish", &aside)["offset"], 11);
    assert_eq!(next(&mut member), (11, json!("unkept")));
    for api in [&mut *here, &mut *there] {
        let all = history(api, &json!({ "channel": "a", "limit": -1 }));
        assert_eq!(all, ((1..=10).collect(), 11));
    }
    // Removed where the room is not followed.
    assert_eq!(
        here.result("history_remove", &json!({ "channel": "a" })),
        json!({})
    );
    wait_until("a history that is removed everywhere", || {
        [&mut *here, &mut *there]
            .into_iter()
            .all(|api| history(api, &json!({ "channel": "a", "limit": -1 })) == (vec![], 11))
    });
    assert_eq!(there.publish("a", &json!("after")), 12);
    assert_eq!(next(&mut member), (12, json!("after")));
}

#[test]
fn a_broadcast_and_a_batch_answer_in_the_order_of_the_request() {
    let mut cluster = Cluster::acquainted();
    let mut members = [0, 1].map(|at| json_member(&cluster.nodes[at], &format!("room=r{at}")));
    let [here, there] = &mut cluster.apis;
    let everywhere = json!({ "channels": ["r0", "r1", "r2"], "data": "all" });
    let result = here.result("broadcast", &everywhere);
    let offsets = result["responses"].as_array().expect("a list").iter();
    assert!(
        offsets
            .map(|one| &one["result"]["offset"])
            .all(|offset| offset == 1),
        "{result}"
    );
    for member in &mut members {
        assert_eq!(next(member), (1, json!("all")));
    }
    let commands = json!({ "commands": [
        { "publish": { "channel": "r0", "data": "one" } },
        { "presence_stats": { "channel": "r0" } },
        { "publish": { "channel": "r0", "data": "two" } },
        { "history": { "channel": "r0", "limit": 1, "reverse": true } },
        { "presence_stats": { "channel": "r1" } },
    ] });
    let result = there.call("batch", &commands);
    let replies = &result["replies"];
    assert_eq!(replies[0]["publish"]["offset"], 2, "{result}");
    assert_eq!(replies[1]["presence_stats"]["num_clients"], 1, "{result}");
    assert_eq!(replies[2]["publish"]["offset"], 3, "{result}");
    assert_eq!(
        replies[3]["history"]["publications"][0]["data"], "two",
        "{result}"
    );
    assert_eq!(replies[4]["presence_stats"]["num_clients"], 1, "{result}");
    assert_eq!(next(&mut members[0]), (2, json!("one")));
    assert_eq!(next(&mut members[0]), (3, json!("two")));
}

#[test]
fn an_idempotency_key_is_one_key_for_all_nodes() {
    let mut cluster = Cluster::start();
    let mut member = json_member(&cluster.nodes[0], "room=r");
    let [here, there] = &mut cluster.apis;
    let once = json!({ "channel": "r", "data": "once", "idempotency_key": "k" });
    let first = here.result("publish", &once);
    assert_eq!(first["offset"], 1);
    for _ in 0..2 {
        assert_eq!(there.result("publish", &once), first);
        assert_eq!(here.result("publish", &once), first);
    }
    let elsewhere = json!({ "channel": "s", "data": "once", "idempotency_key": "k" });
    assert_eq!(there.result("publish", &elsewhere)["offset"], 1);
    assert_eq!(there.publish("r", &json!("next")), 2);
    assert_eq!(next(&mut member), (1, json!("once")));
    assert_eq!(next(&mut member), (2, json!("next")));
}

#[test]
fn presence_channels_connections_and_info_are_those_of_the_cluster() {
    let mut cluster = Cluster::acquainted();
    let members = [(0, "al"), (0, "bo"), (1, "bo")].map(|(at, user)| {
        Client::connect(
            &cluster.nodes[at],
            &format!("/ws?room=r&room=own:{at}&user={user}"),
        )
    });
    cluster.nodes[0].wait_members(6);
    cluster.nodes[1].wait_members(3);
    let peers: BTreeSet<String> = members
        .iter()
        .map(|one| one.local_addr().to_string())
        .collect();
    for api in &mut cluster.apis {
        let stats = api.result("presence_stats", &json!({ "channel": "r" }));
        assert_eq!(stats["num_clients"], 3);
        // One who is on two nodes counts once.
        assert_eq!(stats["num_users"], 2, "{stats}");
        let presence = api.result("presence", &json!({ "channel": "r" }));
        let present = presence["presence"].as_object().expect("an object");
        let mut users: Vec<&str> = present
            .values()
            .filter_map(|one| one["user"].as_str())
            .collect();
        users.sort_unstable();
        assert_eq!(users, ["al", "bo", "bo"]);
        let rows = ids(api, &json!({ "channel": "r" }));
        assert_eq!(rows.keys().cloned().collect::<BTreeSet<_>>(), peers);
        // The same names in both, none used twice.
        let named: BTreeSet<&String> = rows.values().collect();
        assert_eq!(named, present.keys().collect());
        assert_eq!(named.len(), 3);
        assert_eq!(ids(api, &json!({ "user": "bo" })).len(), 2);
        for (limit, expected) in [(1, 1), (2, 2), (3, 3), (4, 3)] {
            let some = ids(api, &json!({ "channel": "r", "limit": limit }));
            assert_eq!(some.len(), expected);
        }
        assert_eq!(ids(api, &json!({ "user": "bo", "limit": 1 })).len(), 1);

        let channels = api.result("channels", &json!({}));
        let count = |name: &str| channels["channels"][name]["num_clients"].clone();
        let found = ["r", "own:0", "own:1", "#al", "#bo"].map(count);
        assert_eq!(
            found,
            [3, 2, 1, 1, 2].map(|count| json!(count)),
            "{channels}"
        );
        assert_eq!(
            channels["channels"].as_object().map(|all| all.len()),
            Some(5),
            "{channels}"
        );
        let some = api.result("channels", &json!({ "pattern": "own:*" }));
        assert_eq!(
            some["channels"].as_object().map(|all| all.len()),
            Some(2),
            "{some}"
        );

        let info = api.result("info", &json!({}));
        let nodes = info["nodes"].as_array().expect("a list");
        let mut told: Vec<(&str, u64)> = nodes
            .iter()
            .map(|one| {
                (
                    one["name"].as_str().expect("text"),
                    one["num_clients"].as_u64().expect("a number"),
                )
            })
            .collect();
        told.sort_unstable();
        assert_eq!(told, [("n1", 2), ("n2", 1)]);
        assert_ne!(nodes[0]["uid"], nodes[1]["uid"]);
    }
}

#[test]
fn users_who_are_too_many_to_be_named_are_counted_on_each_node() {
    let mut cluster = Cluster::acquainted();
    // No more than 32 KiB of ids are named by a node.
    let long = |number: usize| format!("{number:03}{}", "u".repeat(247));
    let join = |at: usize, user: &str| {
        Client::connect(&cluster.nodes[at], &format!("/ws?room=r&user={user}"))
    };
    let mut members: Vec<Client> = (0..140).map(|number| join(0, &long(number))).collect();
    members.push(join(1, &long(0)));
    members.push(join(1, "al"));
    members.push(join(0, "al"));
    cluster.nodes[0].wait_members(2 * 141);
    cluster.nodes[1].wait_members(2 * 2);
    for api in &mut cluster.apis {
        let stats = api.result("presence_stats", &json!({ "channel": "r" }));
        let expected = json!({ "num_clients": 143, "num_users": 143 });
        assert_eq!(stats, expected);
    }
    drop(members.drain(1..21));
    cluster.nodes[0].wait_members(2 * 121);
    for api in &mut cluster.apis {
        wait_until("users who are named again", || {
            let stats = api.result("presence_stats", &json!({ "channel": "r" }));
            let (clients, users) = (&stats["num_clients"], &stats["num_users"]);
            *clients == 123 && *users == 121
        });
    }
}

#[test]
fn nodes_whose_calls_wait_for_each_other_answer_each_other() {
    let mut cluster = Cluster::start_with(&["--redis-wait", "60s"]);
    let members = [0, 1].map(|at| json_member(&cluster.nodes[at], "room=r"));
    wait_for_each_other(&cluster.nodes);
    let began = Instant::now();
    // Many more than have memory for a long answer, on both nodes at once.
    let connect = |number: usize| Api::connect(&cluster.nodes[number % 2]);
    let mut callers: Vec<Api> = (0..80).map(connect).collect();
    for _ in 0..3 {
        for api in &mut callers {
            api.send("presence", r#"{"channel":"r"}"#);
        }
        for api in &mut callers {
            let answer = api.answer();
            let present = answer["result"]["presence"].as_object();
            assert_eq!(present.map(|all| all.len()), Some(2), "{answer}");
        }
    }
    // Had any waited for another, it would have been given up after so long only.
    assert!(began.elapsed() < Duration::from_secs(30));
    for api in &mut cluster.apis {
        let info = api.result("info", &json!({}));
        assert_eq!(info["nodes"].as_array().map(Vec::len), Some(2), "{info}");
    }
    drop(members);
}

#[test]
fn a_node_that_died_is_waited_for_some_seconds_only() {
    let mut cluster = Cluster::start_with(&["--redis-wait", "60s"]);
    let _members = [0, 1].map(|at| json_member(&cluster.nodes[at], "room=r"));
    wait_for_each_other(&cluster.nodes);
    let [here, _] = &mut cluster.apis;
    let began = Instant::now();
    cluster.nodes[1].signal(Signal::Kill);
    // The first waits until the other counts no more, the next for nobody.
    for _ in 0..20 {
        let presence = here.result("presence", &json!({ "channel": "r" }));
        let present = presence["presence"].as_object().expect("an object");
        assert_eq!(present.len(), 1, "{presence}");
    }
    let took = began.elapsed();
    eprintln!("20 calls after a node died: {} ms", took.as_millis());
    assert!(took < Duration::from_secs(20), "{took:?}");
    assert_eq!(cluster.nodes[0].metric("roomcast_cluster_nodes"), 1.0);
}

#[test]
fn a_user_is_disconnected_on_all_nodes_but_for_a_whitelist() {
    let mut cluster = Cluster::acquainted();
    let mut tabs = [0, 0, 1, 1].map(|at| Client::connect(&cluster.nodes[at], "/ws?room=r&user=al"));
    let mut other = Client::connect(&cluster.nodes[1], "/ws?room=r&user=bo");
    cluster.nodes[0].wait_members(4);
    cluster.nodes[1].wait_members(6);
    let [here, there] = &mut cluster.apis;
    let spared = [id_of(here, &tabs[1]), id_of(here, &tabs[3])];
    let request = json!({ "user": "al", "whitelist": spared });
    assert_eq!(here.result("disconnect", &request), json!({}));
    tabs[0].expect_close(3503, "force disconnect");
    tabs[2].expect_close(3503, "force disconnect");
    assert_open(&mut tabs[1]);
    assert_open(&mut tabs[3]);
    // One client, named on the node that it is not on.
    let request = json!({ "client": spared[0], "disconnect": { "code": 4321, "reason": "go" } });
    assert_eq!(there.result("disconnect", &request), json!({}));
    tabs[1].expect_close(4321, "go");
    // Its id is nobody else's on any node.
    assert_eq!(
        here.result("disconnect", &json!({ "client": spared[0] })),
        json!({})
    );
    assert_open(&mut tabs[3]);
    assert_eq!(
        there.result("disconnect", &json!({ "user": "al" })),
        json!({})
    );
    tabs[3].expect_close(3503, "force disconnect");
    assert_open(&mut other);
}

#[test]
fn a_user_or_client_is_taken_out_of_a_room_on_any_node() {
    let mut cluster = Cluster::acquainted();
    let mut tabs =
        [0, 1, 1].map(|at| Client::connect(&cluster.nodes[at], "/ws?room=r&room=s&user=al"));
    let mut other = json_member(&cluster.nodes[1], "room=r");
    cluster.nodes[0].wait_members(3);
    cluster.nodes[1].wait_members(7);
    let [here, there] = &mut cluster.apis;
    let one = id_of(there, &tabs[1]);
    let request = json!({ "channel": "r", "client": one });
    assert_eq!(here.result("unsubscribe", &request), json!({}));
    let clients = |api: &mut Api, room: &str| {
        api.result("presence_stats", &json!({ "channel": room }))["num_clients"].clone()
    };
    wait_until("one that has left", || clients(here, "r") == 3);
    let request = json!({ "channel": "r", "user": "al" });
    assert_eq!(there.result("unsubscribe", &request), json!({}));
    wait_until("all that have left", || clients(there, "r") == 1);
    assert_eq!(clients(here, "s"), 3);
    here.publish("r", &json!("for the other"));
    here.publish("s", &json!("for all"));
    assert_eq!(next(&mut other).1, "for the other");
    for tab in &mut tabs {
        assert_eq!(tab.recv_text(), "for all");
    }
}

#[test]
fn publish_all_reaches_every_connection_of_every_node_once() {
    let mut cluster = Cluster::start();
    let targets = ["/ws?room=a&room=b&user=al", "/ws?room=b", "/ws?user=bo"];
    let mut clients: Vec<Client> = Vec::new();
    for daemon in &cluster.nodes {
        clients.extend(targets.map(|target| Client::connect(daemon, target)));
        daemon.wait_members(5);
    }
    for (at, api) in cluster.apis.iter_mut().enumerate() {
        let text = format!("from {at}");
        assert_eq!(
            api.result("publish_all", &json!({ "data": text })),
            json!({})
        );
        for client in &mut clients {
            assert_eq!(client.recv_text(), text);
        }
    }
    cluster.apis[0].publish("b", &json!("end"));
    for (place, client) in clients.iter_mut().enumerate() {
        if place % 3 < 2 {
            assert_eq!(client.recv_text(), "end");
        } else {
            assert_open(client);
        }
    }
}
