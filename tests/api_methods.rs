//! The methods of the HTTP API that do not publish: closing and taking out, who is where, batches.

mod harness;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use harness::{
    Api, Client, Daemon, Dial, Frame, SecretFile, error_of, signed_token, wait_for, wait_until,
};
use serde_json::{Value, json};

/// Every way of running the workers: on the loop, one, several.
const WORKERS: [&str; 3] = ["0", "1", "3"];

/// The least that is accepted: 32 bytes.
const SECRET: &str = "s3cret-of-the-tests-is-32-bytes!";

/// The rows of `connections`, by the peer's address.
fn connections(api: &mut Api, of: &Value) -> BTreeMap<String, Value> {
    let result = api.result("connections", of);
    let rows = result["connections"].as_array().expect("a list");
    let by_peer = |row: &Value| (row["peer"].as_str().expect("text").to_owned(), row.clone());
    rows.iter().map(by_peer).collect()
}

/// The client id of a connection that is in `room`.
fn client_id(api: &mut Api, room: &str, client: &Client) -> String {
    let rows = connections(api, &json!({ "channel": room }));
    let row = &rows[&client.local_addr().to_string()];
    row["id"].as_str().expect("text").to_owned()
}

/// Asserts that the connection serves as it did before.
fn assert_open(client: &mut Client) {
    client.send_ping("open?");
    client.expect_pong("open?");
}

fn presence(api: &mut Api, room: &str) -> BTreeMap<String, Value> {
    let result = api.result("presence", &json!({ "channel": room }));
    let clients = result["presence"].as_object().expect("an object");
    clients
        .iter()
        .map(|(id, info)| (id.clone(), info.clone()))
        .collect()
}

fn stats(api: &mut Api, room: &str) -> (u64, u64) {
    let result = api.result("presence_stats", &json!({ "channel": room }));
    let number = |name: &str| result[name].as_u64().expect("a number");
    (number("num_clients"), number("num_users"))
}

// --- Disconnect -----------------------------------------------------------------------------------

#[test]
fn a_user_is_disconnected_with_all_tabs_and_nobody_else_is() {
    for workers in WORKERS {
        let daemon = Daemon::start(&["--workers", workers]);
        let mut api = Api::connect(&daemon);
        let mut raw = Client::connect(&daemon, "/ws?room=a&user=al");
        let mut json = Client::connect(&daemon, "/ws?room=a&user=al&format=json");
        let mut others = ["/ws?room=a&user=bo", "/ws?room=a", "/ws?room=al"]
            .map(|target| Client::connect(&daemon, target));
        assert_eq!(
            api.result("disconnect", &json!({ "user": "nobody" })),
            json!({})
        );
        assert_eq!(
            api.result("disconnect", &json!({ "user": "al" })),
            json!({})
        );
        // What a member is told before its close: of its rooms, and last of the close.
        let peers = [raw.local_addr(), json.local_addr()];
        raw.expect_close(3503, "force disconnect");
        for _ in 0..2 {
            assert!(json.recv_json()["joined"].is_object());
        }
        let closing = json.recv_json();
        assert_eq!(closing["closing"]["code"], 3503, "{closing}");
        assert_eq!(
            closing["closing"]["reason"], "force disconnect",
            "{closing}"
        );
        json.expect_close(3503, "force disconnect");
        for peer in peers {
            let line = daemon.expect_closed(peer);
            assert!(
                line.contains(" reason=force_disconnect code=3503 "),
                "{line}"
            );
        }
        daemon.wait_closes("force_disconnect", 2.0);
        others.iter_mut().for_each(assert_open);
        assert_eq!(stats(&mut api, "a"), (2, 1));
        assert_eq!(
            api.result("disconnect", &json!({ "user": "al" })),
            json!({})
        );
    }
}

#[test]
fn a_back_end_chooses_code_and_reason() {
    let daemon = Daemon::start(&[]);
    let mut api = Api::connect(&daemon);
    let longest = "é".repeat(61) + "x";
    for (disconnect, code, reason) in [
        (
            json!({ "code": 4321, "reason": "own words" }),
            4321,
            "own words",
        ),
        (json!({ "code": 3000, "reason": "first" }), 3000, "first"),
        (json!({ "code": 4999, "reason": longest }), 4999, &*longest),
        (json!({ "code": 4000 }), 4000, "force disconnect"),
        (
            json!({ "code": 4000, "reason": "" }),
            4000,
            "force disconnect",
        ),
        (json!({ "reason": "\"quoted\" \n" }), 3503, "\"quoted\" \n"),
        (json!({ "code": 0, "reason": "" }), 3503, "force disconnect"),
        (json!({}), 3503, "force disconnect"),
        (json!(null), 3503, "force disconnect"),
    ] {
        let mut client = Client::connect(&daemon, "/ws?user=al&format=json");
        assert!(client.recv_json()["joined"].is_object());
        let peer = client.local_addr();
        let request = json!({ "user": "al", "disconnect": disconnect });
        assert_eq!(api.result("disconnect", &request), json!({}));
        let closing = client.recv_json();
        assert_eq!(closing["closing"]["code"], code, "{closing}");
        assert_eq!(closing["closing"]["reason"], reason, "{closing}");
        client.expect_close(code, reason);
        let line = daemon.expect_closed(peer);
        let expected = format!(" reason=force_disconnect code={code} ");
        assert!(line.contains(&expected), "{line}");
    }
    let mut client = Client::connect(&daemon, "/ws?user=al");
    for disconnect in [
        json!({ "code": 1000 }),
        json!({ "code": 2999 }),
        json!({ "code": 5000 }),
        json!({ "code": 65_536 }),
        json!({ "code": -1 }),
        json!({ "code": "3503" }),
        json!({ "reason": format!("{longest}x") }),
        json!({ "reason": 1 }),
        json!([3503, "x"]),
        json!(3503),
    ] {
        let request = json!({ "user": "al", "disconnect": disconnect });
        assert_eq!(api.error("disconnect", &request), 107, "{request}");
    }
    for request in [
        json!({}),
        json!({ "user": "" }),
        json!({ "client": "" }),
        json!({ "user": "a,b" }),
        json!({ "user": 1 }),
        json!({ "user": "al", "whitelist": "1.0" }),
        // Who means one session does not mean all.
        json!({ "user": "al", "session": "s" }),
    ] {
        assert_eq!(api.error("disconnect", &request), 107, "{request}");
    }
    let many: Vec<String> = (0..1001).map(|number| format!("{number}.0")).collect();
    assert_eq!(
        api.error("disconnect", &json!({ "user": "al", "whitelist": many })),
        106
    );
    assert_open(&mut client);
}

#[test]
fn one_client_is_meant_or_all_but_some() {
    let daemon = Daemon::start(&[]);
    let mut api = Api::connect(&daemon);
    let mut tabs = [0, 1, 2, 3].map(|_| Client::connect(&daemon, "/ws?room=a&user=al"));
    let ids: Vec<String> = tabs
        .iter()
        .map(|tab| client_id(&mut api, "a", tab))
        .collect();
    for nobody in ["999.0", "no id", "0.999", "00.0"] {
        assert_eq!(
            api.result("disconnect", &json!({ "client": nobody })),
            json!({})
        );
    }
    let of_another = json!({ "client": ids[0], "user": "bo" });
    assert_eq!(api.result("disconnect", &of_another), json!({}));
    tabs.iter_mut().for_each(assert_open);
    let whitelist = json!({ "user": "al", "whitelist": [ids[1], ids[3], "999.0", "?"] });
    assert_eq!(api.result("disconnect", &whitelist), json!({}));
    tabs[0].expect_close(3503, "force disconnect");
    tabs[2].expect_close(3503, "force disconnect");
    assert_open(&mut tabs[1]);
    assert_open(&mut tabs[3]);
    // As libraries write it that know `user` as required.
    api.result("disconnect", &json!({ "user": "", "client": ids[1] }));
    tabs[1].expect_close(3503, "force disconnect");
    api.result("disconnect", &json!({ "user": "al", "client": ids[3] }));
    tabs[3].expect_close(3503, "force disconnect");
    daemon.wait_members(0);
    // The id of a connection that has ended is nobody's, though its place is used again.
    let mut next = Client::connect(&daemon, "/ws?room=a&user=al");
    for id in &ids {
        api.result("disconnect", &json!({ "client": id }));
    }
    assert_open(&mut next);
}

#[test]
fn what_was_published_before_a_disconnect_comes_before_it() {
    for workers in WORKERS {
        let daemon = Daemon::start(&["--workers", workers]);
        let mut api = Api::connect(&daemon);
        let mut member = Client::connect(&daemon, "/ws?room=a&user=al");
        for number in 0..20 {
            api.publish("a", &json!(number));
        }
        api.result("disconnect", &json!({ "user": "al" }));
        for number in 0..20 {
            assert_eq!(member.recv_text(), number.to_string());
        }
        member.expect_close(3503, "force disconnect");
    }
}

#[test]
fn disconnected_members_come_back() {
    let daemon = Daemon::start(&["--duplicate-login", "refuse"]);
    let mut api = Api::connect(&daemon);
    for _ in 0..20 {
        let mut client = Client::connect(&daemon, "/ws?room=a&user=al");
        api.result("disconnect", &json!({ "user": "al" }));
        // Its place is free at once, though it has not answered the close.
        let mut again = Client::connect(&daemon, "/ws?room=a&user=al");
        client.expect_close(3503, "force disconnect");
        assert_open(&mut again);
        again.close();
        wait_until("nobody", || stats(&mut api, "a") == (0, 0));
    }
}

// --- Unsubscribe ----------------------------------------------------------------------------------

#[test]
fn whoever_is_taken_out_of_a_room_stays_connected_and_may_publish() {
    for workers in WORKERS {
        let daemon = Daemon::start(&["--workers", workers]);
        let mut api = Api::connect(&daemon);
        let mut tabs = [0, 1].map(|_| Client::connect(&daemon, "/ws?room=a&room=b&user=al"));
        let mut stays = Client::connect(&daemon, "/ws?room=a&user=bo");
        api.publish("a", &json!("before"));
        let request = json!({ "channel": "a", "user": "al" });
        assert_eq!(api.result("unsubscribe", &request), json!({}));
        api.publish("a", &json!("after"));
        api.publish("b", &json!("in b"));
        api.publish("#al", &json!("for al"));
        for tab in &mut tabs {
            assert_eq!(tab.recv_text(), "before");
            assert_eq!(tab.recv_text(), "in b");
            assert_eq!(tab.recv_text(), "for al");
        }
        assert_eq!(stays.recv_text(), "before");
        assert_eq!(stays.recv_text(), "after");
        assert_eq!(stats(&mut api, "a"), (1, 1));
        assert_eq!(stats(&mut api, "b"), (2, 1));
        tabs[0].send_text("from outside");
        assert_eq!(stays.recv_text(), "from outside");
        tabs.iter_mut().for_each(assert_open);
        // Again, of a room it is not in, of a user who is not there: nothing.
        api.result("unsubscribe", &request);
        api.result("unsubscribe", &json!({ "channel": "other", "user": "al" }));
        api.result("unsubscribe", &json!({ "channel": "a", "user": "nobody" }));
        let id = client_id(&mut api, "b", &tabs[1]);
        api.result(
            "unsubscribe",
            &json!({ "channel": "b", "client": id, "user": "bo" }),
        );
        assert_eq!(stats(&mut api, "b").0, 2);
        api.result("unsubscribe", &json!({ "channel": "b", "client": id }));
        assert_eq!(stats(&mut api, "b"), (1, 1));
        api.publish("b", &json!("to one"));
        assert_eq!(tabs[0].recv_text(), "to one");
        // Out of its last room, too.
        api.result("unsubscribe", &json!({ "channel": "#al", "client": id }));
        daemon.wait_members(4);
        api.result("publish_all", &json!({ "data": "all" }));
        assert_eq!(tabs[1].recv_text(), "all");
        for tab in tabs {
            tab.close();
        }
        daemon.wait_members(2);
        assert_eq!(stats(&mut api, "b"), (0, 0));
    }
    let daemon = Daemon::start(&[]);
    let mut api = Api::connect(&daemon);
    for request in [
        json!({ "user": "al" }),
        json!({ "channel": "a" }),
        json!({ "channel": "", "user": "al" }),
        json!({ "channel": "a", "user": "al", "session": "s" }),
    ] {
        assert_eq!(api.error("unsubscribe", &request), 107, "{request}");
    }
}

#[test]
fn a_member_is_taken_out_of_a_room_it_is_catching_up_with() {
    for workers in WORKERS {
        let daemon = Daemon::start(&["--workers", workers, "--history-size", "3000"]);
        let mut api = Api::connect(&daemon);
        let channels = vec!["a"; 1000];
        for _ in 0..2 {
            let request = json!({ "channels": channels, "data": "x".repeat(500) });
            api.result("broadcast", &request);
        }
        // Who does not read has a queue that is half full, and the rest waits in history.
        let mut slow = Dial::new(daemon.addr(), "/ws?room=a&room=b&user=al&last=2000")
            .receive_buffer(4096)
            .connect();
        let mut live = Client::connect(&daemon, "/ws?room=a");
        api.result("unsubscribe", &json!({ "channel": "a", "user": "al" }));
        api.publish("a", &json!("not for al"));
        assert_eq!(live.recv_text(), "not for al");
        wait_until("one is left", || stats(&mut api, "a") == (1, 0));
        api.publish("b", &json!("the end"));
        let mut replayed = 0;
        loop {
            match slow.recv_text().as_str() {
                "the end" => break,
                "not for al" => panic!("it was not taken out"),
                _ => replayed += 1,
            }
        }
        assert!(replayed <= 2000, "{replayed}");
        assert_open(&mut slow);
        slow.close();
        daemon.wait_members(1);
    }
}

// --- Presence -------------------------------------------------------------------------------------

#[test]
fn presence_follows_joins_and_leaves() {
    for workers in WORKERS {
        let file = SecretFile::new(SECRET);
        let daemon = Daemon::start(&["--workers", workers, "--token-secret-file", file.path()]);
        let mut api = Api::connect(&daemon);
        let connect = |claims: Value| {
            let token = signed_token(SECRET, &claims);
            Client::connect(&daemon, &format!("/ws?room=a&token={token}"))
        };
        assert_eq!(presence(&mut api, "a"), BTreeMap::new());
        assert_eq!(stats(&mut api, "a"), (0, 0));
        let info = json!({ "name": "Al \"1\"", "n": [1.5, null] });
        let tabs = [0, 1].map(|_| connect(json!({ "sub": "al", "info": info })));
        let other = connect(json!({ "sub": "bo" }));
        assert_eq!(stats(&mut api, "a"), (3, 2));
        let clients = presence(&mut api, "a");
        assert_eq!(clients.len(), 3);
        for (id, row) in &clients {
            assert_eq!(row["client"], **id);
            match row["user"].as_str() {
                Some("al") => assert_eq!(row["conn_info"], info),
                Some("bo") => assert!(row.get("conn_info").is_none(), "{row}"),
                _ => panic!("{row}"),
            }
        }
        for tab in &tabs {
            let id = client_id(&mut api, "a", tab);
            assert_eq!(clients[&id]["user"], "al");
        }
        let [first, second] = tabs;
        first.close();
        wait_until("one tab less", || stats(&mut api, "a") == (2, 2));
        second.reset();
        wait_until("no tab", || stats(&mut api, "a") == (1, 1));
        other.close();
        wait_until("nobody", || stats(&mut api, "a") == (0, 0));
        assert_eq!(presence(&mut api, "a"), BTreeMap::new());
        for method in ["presence", "presence_stats", "history", "history_remove"] {
            for channel in [
                json!(""),
                json!(null),
                json!(1),
                json!("caf\u{e9}"),
                json!("l".repeat(256)),
            ] {
                let request = json!({ "channel": channel });
                assert_eq!(api.error(method, &request), 107, "{method} {request}");
            }
        }
    }
}

#[test]
fn whoever_has_no_name_is_a_client_and_no_user() {
    let daemon = Daemon::start(&[]);
    let mut api = Api::connect(&daemon);
    let _nobodies = [0, 1].map(|_| Client::connect(&daemon, "/ws?room=a"));
    let _al = Client::connect(&daemon, "/ws?room=a&user=al");
    assert_eq!(stats(&mut api, "a"), (3, 1));
    let users: Vec<Value> = presence(&mut api, "a")
        .into_values()
        .map(|mut row| row["user"].take())
        .collect();
    assert_eq!(
        users.iter().filter(|user| **user == "").count(),
        2,
        "{users:?}"
    );
}

// --- Channels, connections, info ------------------------------------------------------------------

#[test]
fn channels_are_found_by_pattern_on_every_worker() {
    for workers in WORKERS {
        let daemon = Daemon::start(&["--workers", workers]);
        let mut api = Api::connect(&daemon);
        let channels = |api: &mut Api, request: Value| {
            let result = api.result("channels", &request);
            let channels = result["channels"].as_object().expect("an object");
            let count = |row: &Value| row["num_clients"].as_u64().expect("a number");
            let channels = channels
                .iter()
                .map(|(name, row)| (name.clone(), count(row)));
            channels.collect::<BTreeMap<String, u64>>()
        };
        assert_eq!(channels(&mut api, json!({})), BTreeMap::new());
        let rooms: Vec<String> = (0..30).map(|number| format!("live:{number}")).collect();
        let query = rooms.join("&room=");
        let mut clients = vec![Client::connect(&daemon, &format!("/ws?room={query}"))];
        clients.push(Client::connect(&daemon, "/ws?room=live:7&user=al"));
        // A room that only has history is not one to list.
        api.publish("history only", &json!(1));
        let all = channels(&mut api, json!({}));
        assert_eq!(all.len(), 31);
        assert_eq!((all["live:7"], all["live:8"], all["#al"]), (2, 1, 1));
        let names = |pattern: &str, api: &mut Api| {
            let found = channels(api, json!({ "pattern": pattern }));
            found.into_keys().collect::<Vec<_>>()
        };
        assert_eq!(names("*", &mut api).len(), 31);
        assert_eq!(names("", &mut api).len(), 31);
        assert_eq!(names("live:*", &mut api).len(), 30);
        assert_eq!(names("live:1*", &mut api).len(), 11);
        assert_eq!(names("*7", &mut api), ["live:17", "live:27", "live:7"]);
        assert_eq!(names("live:7", &mut api), ["live:7"]);
        assert_eq!(names("nothing", &mut api), [""; 0]);
        assert_eq!(names(&"*".repeat(255), &mut api).len(), 31);
        assert_eq!(
            api.error("channels", &json!({ "pattern": "*".repeat(256) })),
            107
        );
        assert_eq!(api.error("channels", &json!({ "pattern": 1 })), 107);
        // Centrifugo asks for no body here.
        api.send("channels", "");
        assert_eq!(
            api.answer()["result"]["channels"]
                .as_object()
                .map(|map| map.len()),
            Some(31)
        );
        for client in clients {
            client.close();
        }
        daemon.wait_members(0);
        assert_eq!(channels(&mut api, json!({})), BTreeMap::new());
    }
}

#[test]
fn connections_are_listed_by_room_and_by_user() {
    for workers in WORKERS {
        let daemon = Daemon::start(&["--workers", workers]);
        let mut api = Api::connect(&daemon);
        let mut tabs = [0, 1].map(|_| Client::connect(&daemon, "/ws?room=a&room=b&user=al"));
        let nobody = Client::connect(&daemon, "/ws?room=a");
        api.publish("a", &json!("one"));
        tabs.iter_mut()
            .for_each(|tab| assert_eq!(tab.recv_text(), "one"));
        let rows = connections(&mut api, &json!({ "channel": "a" }));
        assert_eq!(rows.len(), 3);
        let ids: BTreeSet<_> = rows.values().map(|row| row["id"].to_string()).collect();
        assert_eq!(ids.len(), 3);
        let row = &rows[&tabs[0].local_addr().to_string()];
        let names: BTreeSet<_> = row
            .as_object()
            .expect("an object")
            .keys()
            .cloned()
            .collect();
        let expected = [
            "age_ms",
            "id",
            "peer",
            "queued",
            "queued_bytes",
            "rooms",
            "sent",
            "skipped",
            "user",
        ];
        assert_eq!(names, expected.map(String::from).into());
        assert_eq!(row["user"], "al");
        let mut rooms: Vec<&str> = row["rooms"]
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(Value::as_str)
            .collect();
        rooms.sort_unstable();
        assert_eq!(rooms, ["#al", "a", "b"]);
        assert_eq!((&row["sent"], &row["skipped"]), (&json!(1), &json!(0)));
        assert!(
            row["age_ms"].as_u64().is_some_and(|age| age < 60_000),
            "{row}"
        );
        let row = &rows[&nobody.local_addr().to_string()];
        assert_eq!((&row["user"], &row["rooms"]), (&json!(""), &json!(["a"])));
        let rows = connections(&mut api, &json!({ "user": "al" }));
        let mut peers: Vec<String> = tabs
            .iter()
            .map(|tab| tab.local_addr().to_string())
            .collect();
        peers.sort_unstable();
        assert_eq!(rows.keys().cloned().collect::<Vec<_>>(), peers);
        for (request, len) in [
            (json!({ "channel": "a", "limit": 2 }), 2),
            (json!({ "channel": "a", "limit": 0 }), 3),
            (json!({ "channel": "a", "limit": -1 }), 3),
            (json!({ "user": "al", "limit": 1 }), 1),
            (json!({ "user": "nobody" }), 0),
            (json!({ "channel": "nowhere", "user": "" }), 0),
        ] {
            assert_eq!(connections(&mut api, &request).len(), len, "{request}");
        }
        for request in [
            json!({}),
            json!({ "channel": "a", "user": "al" }),
            json!({ "channel": "caf\u{e9}" }),
            json!({ "user": "a,b" }),
            json!({ "channel": "a", "limit": 1.5 }),
        ] {
            assert_eq!(api.error("connections", &request), 107, "{request}");
        }
    }
}

#[test]
fn a_queue_that_fills_is_seen() {
    let daemon = Daemon::start(&[
        "--outbound-queue",
        "100000",
        "--outbound-queue-size",
        "64MiB",
    ]);
    let mut api = Api::connect(&daemon);
    let slow = Dial::new(daemon.addr(), "/ws?room=a")
        .receive_buffer(4096)
        .connect();
    let data = "x".repeat(60_000);
    let row = wait_for("a queue", || {
        api.publish("a", &json!(data));
        let rows = connections(&mut api, &json!({ "channel": "a" }));
        let row = rows[&slow.local_addr().to_string()].clone();
        (row["queued"].as_u64() > Some(3)).then_some(row)
    });
    assert!(row["queued_bytes"].as_u64() > Some(3 * 60_000), "{row}");
}

#[test]
fn info_tells_of_the_node() {
    let daemon = Daemon::start(&["--workers", "3"]);
    let mut api = Api::connect(&daemon);
    let info = |api: &mut Api| {
        let mut result = api.result("info", &json!({}));
        assert_eq!(
            result["nodes"].as_array().map(Vec::len),
            Some(1),
            "{result}"
        );
        result["nodes"][0].take()
    };
    let before = info(&mut api);
    let counts = |node: &Value| {
        ["num_clients", "num_users", "num_channels", "num_subs"]
            .map(|name| node[name].as_u64().expect("a number"))
    };
    assert_eq!(counts(&before), [0, 0, 0, 0]);
    let _tabs = [0, 1].map(|_| Client::connect(&daemon, "/ws?room=a&room=b&user=al"));
    let _echo = Client::connect(&daemon, "/echo");
    let node = info(&mut api);
    assert_eq!(counts(&node), [3, 1, 3, 6]);
    assert_eq!(node["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(node["uid"], before["uid"]);
    assert!(
        node["name"].as_str().is_some_and(|name| !name.is_empty()),
        "{node}"
    );
    assert!(
        node["uptime"].as_u64().is_some_and(|secs| secs < 3600),
        "{node}"
    );
    assert!(node["process"]["rss"].as_u64() > Some(1 << 20), "{node}");
    assert!(
        node["process"]["cpu"]
            .as_f64()
            .is_some_and(|cpu| (0.0..=6400.0).contains(&cpu)),
        "{node}"
    );
    api.send("info", "");
    assert!(api.answer()["result"]["nodes"].is_array());
    let other = Daemon::start(&[]);
    assert_ne!(info(&mut Api::connect(&other))["uid"], node["uid"]);
}

// --- Batch ----------------------------------------------------------------------------------------

#[test]
fn a_batch_is_answered_in_order_with_errors_inside() {
    for workers in WORKERS {
        let daemon = Daemon::start(&["--workers", workers]);
        let mut api = Api::connect(&daemon);
        let mut member = Client::connect(&daemon, "/ws?room=a&user=al");
        for parallel in [false, true] {
            let commands = json!([
                { "publish": { "channel": "a", "data": "one" } },
                { "presence_stats": { "channel": "a" } },
                { "nothing": {} },
                { "publish": { "channel": "" } },
                {},
                null,
                { "publish": {}, "info": {} },
                { "batch": { "commands": [] } },
                { "history": { "channel": "a", "since": { "offset": 99 } } },
                { "broadcast": { "channels": ["b", ""], "data": 1 } },
                { "info": {} },
                { "channels": {} },
                { "publish_all": { "data": "two" } },
                { "connections": { "user": "al" } },
                { "history_remove": { "channel": "b" } },
            ]);
            let len = commands.as_array().map(Vec::len);
            let answer = api.call(
                "batch",
                &json!({ "commands": commands, "parallel": parallel }),
            );
            assert_eq!(
                answer.as_object().map(|answer| answer.len()),
                Some(1),
                "no result around it"
            );
            let replies = &answer["replies"];
            assert_eq!(replies.as_array().map(Vec::len), len);
            assert_eq!(
                replies[0]["publish"]["offset"],
                if parallel { 2 } else { 1 }
            );
            assert_eq!(
                replies[1]["presence_stats"],
                json!({ "num_clients": 1, "num_users": 1 })
            );
            for (place, code) in [
                (2, 104),
                (3, 107),
                (4, 104),
                (5, 107),
                (6, 107),
                (7, 104),
                (8, 112),
            ] {
                assert_eq!(error_of(&replies[place]), code, "{}", replies[place]);
            }
            let responses = &replies[9]["broadcast"]["responses"];
            let offset = if parallel { 2 } else { 1 };
            assert_eq!(responses[0]["result"]["offset"], offset, "{responses}");
            assert_eq!(error_of(&responses[1]), 107);
            assert!(replies[10]["info"]["nodes"].is_array());
            assert!(replies[11]["channels"]["channels"]["a"].is_object());
            assert_eq!(replies[12]["publish_all"], json!({}));
            assert_eq!(
                replies[13]["connections"]["connections"]
                    .as_array()
                    .map(Vec::len),
                Some(1)
            );
            assert_eq!(replies[14]["history_remove"], json!({}));
            let mut got = [member.recv_text(), member.recv_text()];
            got.sort_unstable();
            assert_eq!(got, ["one", "two"]);
            if parallel {
                // Either of the publish to "b" and the removal may have come first.
                api.result("history_remove", &json!({ "channel": "b" }));
            }
        }
    }
}

#[test]
fn a_batch_that_is_not_parallel_goes_step_by_step() {
    let daemon = Daemon::start(&["--workers", "3"]);
    let mut api = Api::connect(&daemon);
    let mut member = Client::connect(&daemon, "/ws?room=a&user=al");
    let publish = |room: &str, data: &str| json!({ "publish": { "channel": room, "data": data } });
    let commands = json!([
        publish("b", "1"),
        { "history": { "channel": "b", "limit": 9 } },
        publish("b", "2"),
        { "history_remove": { "channel": "b" } },
        { "history": { "channel": "b", "limit": 9 } },
        publish("a", "to a"),
        { "unsubscribe": { "channel": "a", "user": "al" } },
        { "presence_stats": { "channel": "a" } },
        publish("a", "to nobody"),
        { "publish_all": { "data": "to all" } },
        { "disconnect": { "user": "al" } },
    ]);
    let answer = api.call("batch", &json!({ "commands": commands }));
    let replies = &answer["replies"];
    let len = |reply: &Value| reply["history"]["publications"].as_array().map(Vec::len);
    assert_eq!((len(&replies[1]), len(&replies[4])), (Some(1), Some(0)));
    assert_eq!(replies[7]["presence_stats"]["num_clients"], 0);
    assert_eq!(member.recv_text(), "to a");
    assert_eq!(member.recv_text(), "to all");
    member.expect_close(3503, "force disconnect");
}

#[test]
fn a_batch_has_a_hundred_commands_at_most() {
    let daemon = Daemon::start(&["--workers", "3"]);
    let mut api = Api::connect(&daemon);
    let mut member = Client::connect(&daemon, "/ws?room=a");
    assert_eq!(
        api.call("batch", &json!({ "commands": [] })),
        json!({ "replies": [] })
    );
    for request in [
        json!({}),
        json!({ "commands": {} }),
        json!({ "commands": null }),
        json!([]),
    ] {
        assert_eq!(api.error("batch", &request), 107, "{request}");
    }
    let publish = json!({ "publish": { "channel": "a", "data": 1 } });
    assert_eq!(
        api.error("batch", &json!({ "commands": vec![&publish; 101] })),
        106
    );
    for parallel in [false, true] {
        let request = json!({ "commands": vec![&publish; 100], "parallel": parallel });
        let answer = api.call("batch", &request);
        let replies = answer["replies"].as_array().expect("a list");
        let offsets: Vec<_> = replies
            .iter()
            .map(|reply| reply["publish"]["offset"].as_u64())
            .collect();
        let first = if parallel { 101 } else { 1 };
        assert_eq!(offsets, (first..first + 100).map(Some).collect::<Vec<_>>());
        for _ in 0..100 {
            assert_eq!(member.recv_text(), "1");
        }
    }
    // Broadcasts in it, together far more than a worker's queue holds.
    let channels = vec!["b"; 1000];
    let broadcast = json!({ "broadcast": { "channels": channels, "data": 1 } });
    for parallel in [false, true] {
        let request = json!({ "commands": vec![&broadcast; 20], "parallel": parallel });
        let answer = api.call("batch", &request);
        let of = |reply: &Value| reply["broadcast"]["responses"].as_array().map(Vec::len);
        let replies = answer["replies"].as_array().expect("a list");
        assert!(replies.iter().all(|reply| of(reply) == Some(1000)));
    }
    let history = api.result("history", &json!({ "channel": "b" }));
    assert_eq!(history["offset"], 40_000);
    member.wire.expect_silence(Duration::from_millis(20));
}

#[test]
fn methods_that_do_not_exist_are_told_apart_from_paths() {
    let daemon = Daemon::start(&[]);
    let mut api = Api::connect(&daemon);
    for method in [
        "nothing",
        "Publish",
        "rpc",
        "survey",
        "node",
        "",
        "publish/",
        "publish%20",
        "a/b",
    ] {
        assert_eq!(api.error(method, &json!({})), 104, "{method:?}");
    }
    // Said before the body is looked at.
    api.send("nothing", "{");
    assert_eq!(error_of(&api.answer()), 104);
}

// --- All at once ----------------------------------------------------------------------------------

#[test]
fn calls_against_members_that_come_and_go_leave_nothing_behind() {
    for (workers, login) in [("0", "allow"), ("3", "allow"), ("3", "replace")] {
        let daemon = Daemon::start(&["--workers", workers, "--duplicate-login", login]);
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (daemon, is_over) = (&daemon, &is_over);
            let members = |seed: usize| {
                move || {
                    for number in seed..seed + 150 {
                        let query = [
                            "room=a&room=b&user=al",
                            "room=a&user=al&last=50",
                            "room=b&room=c",
                        ];
                        let form = ["", "&format=json", "&gzip=1"][number / 3 % 3];
                        let target = format!("/ws?{}{form}", query[number % 3]);
                        let dial = Dial::new(daemon.addr(), &target);
                        // It may be taken out, or closed, while it is about to be let in.
                        let Ok(mut member) = dial.try_connect() else {
                            continue;
                        };
                        match number % 4 {
                            0 => member.reset(),
                            1 => drop(member),
                            2 => _ = member.wire.try_send(Frame::text("hello").bytes()),
                            _ => _ = member.wire.try_send(Frame::close(1000, "bye").bytes()),
                        }
                    }
                }
            };
            let joiners: Vec<_> = (0..3).map(|seed| scope.spawn(members(seed))).collect();
            for calls in [
                [
                    ("disconnect", json!({ "user": "al" })),
                    (
                        "publish",
                        json!({ "channel": "a", "data": "x".repeat(300) }),
                    ),
                    ("unsubscribe", json!({ "channel": "b", "user": "al" })),
                    ("connections", json!({ "channel": "a" })),
                ],
                [
                    ("unsubscribe", json!({ "channel": "a", "user": "al" })),
                    ("publish_all", json!({ "data": { "all": true } })),
                    ("history_remove", json!({ "channel": "a" })),
                    ("presence", json!({ "channel": "b" })),
                ],
            ] {
                scope.spawn(move || {
                    let mut api = Api::connect(daemon);
                    while !is_over.load(Ordering::Relaxed) {
                        for (method, request) in &calls {
                            api.result(method, request);
                        }
                    }
                });
            }
            let ended: Vec<_> = joiners.into_iter().map(|joiner| joiner.join()).collect();
            is_over.store(true, Ordering::Relaxed);
            assert!(ended.iter().all(Result::is_ok));
        });
        daemon.wait_members(0);
        let mut api = Api::connect(&daemon);
        for room in ["a", "b", "c", "#al"] {
            wait_until("nobody", || stats(&mut api, room) == (0, 0));
        }
        assert_eq!(
            api.result("channels", &json!({})),
            json!({ "channels": {} })
        );
        let node = api.result("info", &json!({}));
        let node = &node["nodes"][0];
        for name in ["num_clients", "num_users", "num_channels", "num_subs"] {
            assert_eq!(node[name], 0, "{name}");
        }
    }
}
