//! Centrifugo's SDKs that lose their connection or their room: what they missed, once and in order,
//! or that it cannot be given; who may come back and who may not.

#[path = "clients/driven.rs"]
mod driven;
mod harness;
#[path = "browser/relay.rs"]
mod relay;
#[path = "clients/sdk.rs"]
mod sdk;

use serde_json::{Value, json};

use harness::{Api, Client, Daemon, Redis, Signal, node};
use relay::Relay;
use sdk::{LIBRARIES, Library, Sdk, back_end, numbers, target};

/// A client behind a network that can be cut, with a name.
fn behind(library: Library, relay: &Relay, user: &str) -> Sdk {
    let mut sdk = Sdk::new(library, relay.addr(), &target(user), &json!({}));
    sdk.connect();
    sdk
}

fn publish(api: &mut Api, channel: &str, from: u64, to: u64) {
    for number in from..=to {
        api.publish(channel, &json!(number));
    }
}

/// Asserts that everything was given that was missed.
fn assert_recovered(subscribed: &Value) {
    assert_eq!(
        (&subscribed["recovering"], &subscribed["recovered"]),
        (&json!(true), &json!(true)),
        "{subscribed}"
    );
}

/// Asserts that not everything could be given.
fn assert_unrecovered(subscribed: &Value) {
    assert_eq!(
        (&subscribed["recovering"], &subscribed["recovered"]),
        (&json!(true), &json!(false)),
        "{subscribed}"
    );
}

#[test]
fn five_hundred_missed_publications_come_once_and_in_order() {
    // More than Centrifugo gives in one answer.
    const MISSED: u64 = 500;
    let daemon = Daemon::start(&[]);
    for library in LIBRARIES {
        let relay = Relay::to(daemon.addr());
        let mut api = back_end(&daemon);
        let room = format!("{library:?}");
        let mut sdk = behind(library, &relay, "");
        sdk.subscribe(&room);
        publish(&mut api, &room, 1, 3);
        assert_eq!(sdk.data(&room, 3), numbers(1..=3));
        for round in 0..3 {
            let seen = 3 + round * (MISSED + 1);
            relay.cut();
            sdk.expect_cut(1);
            publish(&mut api, &room, seen + 1, seen + MISSED);
            relay.mend();
            sdk.expect_connected();
            let subscribed = sdk.expect_of("subscribed", &room);
            assert_recovered(&subscribed);
            assert_eq!(subscribed["position"]["offset"], seen);
            publish(&mut api, &room, seen + MISSED + 1, seen + MISSED + 1);
            let all = usize::try_from(MISSED + 1).expect("fits");
            let expected = numbers(seen + 1..=seen + MISSED + 1);
            assert_eq!(sdk.data(&room, all), expected);
        }
        // Nothing is missed without a publication, either.
        relay.cut();
        sdk.expect_cut(1);
        relay.mend();
        sdk.expect_connected();
        assert_recovered(&sdk.expect_of("subscribed", &room));
        sdk.expect_silence();
    }
}

#[test]
fn cuts_under_traffic_neither_lose_nor_repeat() {
    const ALL: u64 = 2000;
    // A client may be away for all of it.
    let daemon = Daemon::start(&["--history-size", "2000"]);
    let relay = Relay::to(daemon.addr());
    let mut sdks = LIBRARIES.map(|library| {
        let mut sdk = behind(library, &relay, "");
        sdk.subscribe("r");
        sdk
    });
    let mut api = back_end(&daemon);
    for round in 0..10 {
        publish(&mut api, "r", 1 + round * ALL / 10, 50 + round * ALL / 10);
        relay.cut();
        relay.mend();
        publish(&mut api, "r", 51 + round * ALL / 10, (round + 1) * ALL / 10);
    }
    for sdk in &mut sdks {
        let mut seen = Vec::new();
        while seen.len() < usize::try_from(ALL).expect("fits") {
            let event = sdk.event();
            match event["event"].as_str() {
                Some("publication") => seen.push(event["data"].clone()),
                Some("subscribed") => assert_recovered(&event),
                Some("connecting" | "connected" | "subscribing") => {}
                _ => panic!("{event}"),
            }
        }
        assert_eq!(seen, numbers(1..=ALL));
    }
}

#[test]
fn rooms_that_the_server_gives_are_recovered_too() {
    let daemon = Daemon::start(&[]);
    for library in LIBRARIES {
        let relay = Relay::to(daemon.addr());
        let mut api = back_end(&daemon);
        let user = format!("{library:?}");
        let personal = format!("#{user}");
        let mut sdk = behind(library, &relay, &user);
        sdk.expect_of("server subscribed", &personal);
        api.publish(&personal, &json!("before"));
        assert_eq!(
            sdk.expect_of("server publication", &personal)["data"],
            "before"
        );
        relay.cut();
        sdk.expect_cut(1);
        publish(&mut api, &personal, 1, 20);
        relay.mend();
        sdk.expect_connected();
        assert_recovered(&sdk.expect_of("server subscribed", &personal));
        for number in 1..=20 {
            let told = sdk.expect_of("server publication", &personal);
            assert_eq!(
                (&told["data"], &told["offset"]),
                (&json!(number), &json!(number + 1))
            );
        }
        api.publish(&personal, &json!("after"));
        assert_eq!(
            sdk.expect_of("server publication", &personal)["data"],
            "after"
        );
    }
}

#[test]
fn what_history_has_forgotten_is_told_and_nothing_of_it_given() {
    let daemon = Daemon::start(&["--history-size", "5"]);
    for library in LIBRARIES {
        let relay = Relay::to(daemon.addr());
        let mut api = back_end(&daemon);
        let room = format!("{library:?}");
        let mut sdk = behind(library, &relay, "");
        sdk.subscribe(&room);
        publish(&mut api, &room, 1, 1);
        assert_eq!(sdk.data(&room, 1), numbers([1]));
        // All that is kept is just enough, and one more is too many.
        for (from, to, is_kept) in [(2, 6, true), (7, 12, false)] {
            relay.cut();
            sdk.expect_cut(1);
            publish(&mut api, &room, from, to);
            relay.mend();
            sdk.expect_connected();
            let subscribed = sdk.expect_of("subscribed", &room);
            if is_kept {
                assert_recovered(&subscribed);
                assert_eq!(sdk.data(&room, 5), numbers(from..=to));
            } else {
                assert_unrecovered(&subscribed);
                assert_eq!(subscribed["position"]["offset"], to);
            }
        }
        // It goes on from where it is now.
        publish(&mut api, &room, 13, 13);
        assert_eq!(sdk.data(&room, 1), numbers([13]));
        relay.cut();
        sdk.expect_cut(1);
        publish(&mut api, &room, 14, 14);
        relay.mend();
        sdk.expect_connected();
        assert_recovered(&sdk.expect_of("subscribed", &room));
        assert_eq!(sdk.data(&room, 1), numbers([14]));
    }
}

#[test]
fn who_unsubscribes_and_comes_back_has_what_was_published_meanwhile() {
    let daemon = Daemon::start(&[]);
    let mut api = back_end(&daemon);
    for library in LIBRARIES {
        let room = format!("{library:?}");
        let mut sdk = Sdk::connected(library, &daemon, "");
        sdk.subscribe(&room);
        publish(&mut api, &room, 1, 1);
        assert_eq!(sdk.data(&room, 1), numbers([1]));
        sdk.unsubscribe(&room);
        publish(&mut api, &room, 2, 3);
        assert_recovered(&sdk.subscribe(&room));
        assert_eq!(sdk.data(&room, 2), numbers([2, 3]));
        // It is the same when the whole client goes and comes.
        sdk.disconnect();
        publish(&mut api, &room, 4, 6);
        sdk.connect();
        assert_recovered(&sdk.expect_of("subscribed", &room));
        publish(&mut api, &room, 7, 7);
        assert_eq!(sdk.data(&room, 4), numbers(4..=7));
    }
}

#[test]
fn a_room_that_was_left_without_history_is_recovered() {
    let daemon = Daemon::start(&[]);
    let mut api = back_end(&daemon);
    for library in LIBRARIES {
        let room = format!("{library:?}");
        let mut sdk = Sdk::connected(library, &daemon, "");
        let before = sdk.subscribe(&room);
        sdk.unsubscribe(&room);
        assert_eq!(sdk.ask("stats", &room), json!([0, 0]));
        publish(&mut api, &room, 1, 3);
        let after = sdk.subscribe(&room);
        assert_recovered(&after);
        assert_eq!(before["position"]["epoch"], after["position"]["epoch"]);
        assert_eq!(sdk.data(&room, 3), numbers(1..=3));
    }
}

#[test]
fn who_unsubscribes_while_recovering_is_given_the_rest_later() {
    let daemon = Daemon::start(&[]);
    let mut api = back_end(&daemon);
    for (on, seen) in [("subscribed", 0), ("publication", 1)] {
        let mut sdk = Sdk::connected(Library::Node, &daemon, "");
        publish(&mut api, on, 1, 1);
        sdk.subscribe(on);
        sdk.unsubscribe(on);
        publish(&mut api, on, 2, 4);
        let then = json!({"do": "unsubscribe", "channel": on});
        sdk.order("once", json!({"channel": on, "on": on, "then": then}));
        sdk.start_subscribing(on, json!({}));
        sdk.expect("subscribed");
        assert_eq!(sdk.data(on, seen), numbers(2..2 + seen as u64));
        sdk.expect_code("unsubscribed", 0);
        assert_recovered(&sdk.subscribe(on));
        assert_eq!(sdk.data(on, 3 - seen), numbers(2 + seen as u64..=4));
        sdk.expect_silence();
    }
}

#[test]
fn an_application_may_know_where_it_was() {
    let daemon = Daemon::start(&["--history-size", "5"]);
    let mut api = back_end(&daemon);
    publish(&mut api, "r", 1, 4);
    let epoch = api.result("history", &json!({"channel": "r"}))["epoch"].take();
    let node = || Sdk::connected(Library::Node, &daemon, "");
    // By an option: with the epoch, without it, and from the beginning.
    for (since, first) in [
        (json!({"offset": 2, "epoch": epoch}), 3),
        (json!({"offset": 3, "epoch": ""}), 4),
        (json!({"offset": 0, "epoch": ""}), 1),
    ] {
        let mut sdk = node();
        assert_recovered(&sdk.subscribe_with("r", json!({ "since": since })));
        let expected = numbers(first..=4);
        assert_eq!(sdk.data("r", expected.len()), expected);
        sdk.expect_silence();
    }
    let mut sdk = node();
    let since = json!({"offset": 2, "epoch": "other"});
    assert_unrecovered(&sdk.subscribe_with("r", json!({ "since": since })));
    sdk.expect_silence();

    // By its own state, which is only asked for when the daemon cannot help.
    for library in LIBRARIES {
        let room = format!("{library:?}");
        publish(&mut api, &room, 1, 3);
        let epoch = api.result("history", &json!({ "channel": room }))["epoch"].take();
        let relay = Relay::to(daemon.addr());
        let mut sdk = behind(library, &relay, "");
        sdk.start_subscribing(&room, json!({"asks": ["state"]}));
        sdk.fail("state", "not yet");
        sdk.give("state", json!({"offset": 1, "epoch": epoch}));
        assert_recovered(&sdk.expect_of("subscribed", &room));
        assert_eq!(sdk.data(&room, 2), numbers([2, 3]));
        for (to, is_kept) in [(6, true), (20, false)] {
            relay.cut();
            sdk.expect_cut(1);
            let from = if is_kept { 4 } else { 7 };
            publish(&mut api, &room, from, to);
            relay.mend();
            sdk.expect_connected();
            if is_kept {
                assert_recovered(&sdk.expect_of("subscribed", &room));
                assert_eq!(sdk.data(&room, 3), numbers(4..=6));
            } else {
                sdk.give("state", json!({"offset": 18, "epoch": epoch}));
                assert_recovered(&sdk.expect_of("subscribed", &room));
                assert_eq!(sdk.data(&room, 2), numbers([19, 20]));
            }
        }
    }
}

#[test]
fn who_is_sent_away_stays_away_unless_the_code_says_otherwise() {
    let daemon = Daemon::start(&[]);
    let mut api = back_end(&daemon);
    for library in LIBRARIES {
        for (close, code) in [
            (Value::Null, 3503),
            (json!({"code": 3999, "reason": "no more"}), 3999),
            (json!({"code": 4500, "reason": "no more"}), 4500),
        ] {
            let mut sdk = Sdk::connected(library, &daemon, "al");
            sdk.subscribe("r");
            api.result("disconnect", &json!({"user": "al", "disconnect": close}));
            let end = sdk.expect_end();
            assert_eq!(end["code"], code, "{end}");
            assert!(
                end["reason"]
                    .as_str()
                    .is_some_and(|reason| !reason.is_empty())
            );
            sdk.expect_rest();
            // Only who asks for it comes back.
            sdk.connect();
            sdk.expect("server subscribed");
            sdk.expect_of("subscribed", "r");
            sdk.disconnect();
        }
        for code in [3000, 3011, 4000, 4499] {
            let mut sdk = Sdk::connected(library, &daemon, "al");
            sdk.publish("r", "kept");
            sdk.subscribe("r");
            let close = json!({"code": code, "reason": "come again"});
            api.result("disconnect", &json!({"user": "al", "disconnect": close}));
            sdk.expect_cut(code);
            sdk.expect_connected();
            let mut told = [(); 2].map(|()| sdk.event());
            told.sort_by_key(|event| event["event"].to_string());
            assert_eq!(told[0]["event"], "server subscribed");
            assert_eq!(told[1]["event"], "subscribed");
            assert_recovered(&told[1]);
            sdk.disconnect();
        }
    }
}

#[test]
fn who_is_taken_out_of_a_room_stays_out_of_it() {
    let daemon = Daemon::start(&[]);
    let mut api = back_end(&daemon);
    for library in LIBRARIES {
        let mut sdk = Sdk::connected(library, &daemon, "al");
        sdk.publish("r", "kept");
        sdk.subscribe("r");
        sdk.subscribe("other");
        api.result("unsubscribe", &json!({"channel": "r", "user": "al"}));
        let unsubscribed = sdk.expect_code("unsubscribed", 2000);
        assert_eq!(unsubscribed["channel"], "r");
        api.publish("r", &json!("unheard"));
        api.publish("other", &json!("heard"));
        assert_eq!(sdk.data("other", 1), [json!("heard")]);
        sdk.expect_silence();
        assert_eq!(sdk.state(Some("r")), "unsubscribed");
        // When it asks again, it is let in again, and catches up.
        assert_recovered(&sdk.subscribe("r"));
        assert_eq!(sdk.data("r", 1), [json!("unheard")]);
        sdk.disconnect();
    }
}

#[test]
fn a_restarted_daemon_has_its_clients_again() {
    let mut daemon = Daemon::start(&[]);
    let mut sdks = LIBRARIES.map(|library| {
        let mut sdk = Sdk::connected(library, &daemon, "al");
        sdk.subscribe("r");
        sdk
    });
    let mut api = back_end(&daemon);
    publish(&mut api, "r", 1, 3);
    for sdk in &mut sdks {
        assert_eq!(sdk.data("r", 3), numbers(1..=3));
    }
    daemon.signal(Signal::Term);
    for sdk in &mut sdks {
        sdk.expect_cut(3001);
    }
    assert!(daemon.wait_exit().success());
    let addr = daemon.addr().to_string();
    let daemon = Daemon::start(&["--listen", &addr]);
    for sdk in &mut sdks {
        sdk.expect_connected();
        let mut told = [(); 2].map(|()| sdk.event());
        told.sort_by_key(|event| event["event"].to_string());
        assert_eq!(told[0]["event"], "server subscribed");
        assert_eq!(told[1]["event"], "subscribed");
        // History ended with the first daemon, of which the SDK cannot know otherwise.
        told.iter().for_each(assert_unrecovered);
    }
    let mut api = back_end(&daemon);
    publish(&mut api, "r", 1, 1);
    for sdk in &mut sdks {
        assert_eq!(sdk.data("r", 1), numbers([1]));
    }
}

#[test]
fn a_slow_reader_is_cut_and_recovers() {
    // Much more than sockets and a queue hold, and less than history.
    const ALL: u64 = 400;
    // With time for the reader to see how it ended.
    let daemon = Daemon::start(&["--history-bytes", "64MiB", "--write-timeout", "60s"]);
    let mut sdk = Sdk::connected(Library::Node, &daemon, "");
    sdk.subscribe("r");
    let mut api = back_end(&daemon);
    sdk.set_paused(true);
    let large = "l".repeat(60_000);
    for number in 1..=ALL {
        api.publish("r", &json!([number, large]));
    }
    sdk.set_paused(false);
    let (mut seen, mut cuts) = (0, Vec::new());
    while seen < ALL {
        let event = sdk.event();
        match event["event"].as_str() {
            Some("publication") => {
                seen += 1;
                assert_eq!(event["data"][0], seen);
            }
            Some("connecting") => cuts.push(event["code"].clone()),
            Some("subscribed") => assert_recovered(&event),
            Some("connected" | "subscribing") => {}
            _ => panic!("{}", event["event"]),
        }
    }
    assert_eq!(cuts, numbers([3008]));
    sdk.expect_silence();
}

#[test]
fn a_cluster_whose_redis_forgets_has_its_clients_subscribe_again() {
    let redis = Redis::start();
    let node = node(&redis.url(), "n1", &[]);
    let mut api = back_end(&node);
    let mut anonymous = LIBRARIES.map(|library| {
        let mut sdk = Sdk::connected(library, &node, "");
        sdk.subscribe("r");
        sdk
    });
    let mut named = Sdk::connected(Library::Node, &node, "al");
    publish(&mut api, "r", 1, 3);
    publish(&mut api, "#al", 1, 1);
    for sdk in &mut anonymous {
        assert_eq!(sdk.data("r", 3), numbers(1..=3));
    }
    assert_eq!(named.expect("server publication")["data"], 1);
    redis.ask::<()>(&["FLUSHALL"]);
    api.publish("r", &json!("after"));
    api.publish("#al", &json!("after"));
    for sdk in &mut anonymous {
        // Without a cut, and by itself.
        let subscribing = sdk.expect_of("subscribing", "r");
        assert_eq!(subscribing["code"], 2500, "{subscribing}");
        assert_unrecovered(&sdk.expect_of("subscribed", "r"));
        api.publish("r", &json!("live"));
        while sdk.data("r", 1) != [json!("live")] {}
    }
    // Who has not asked for the room cannot ask for it again, but connect anew.
    named.expect_cut(3010);
    named.expect_connected();
    assert_unrecovered(&named.expect_of("server subscribed", "#al"));
    api.publish("#al", &json!("live"));
    while named.expect("server publication")["data"] != "live" {}
}

#[test]
fn another_node_gives_what_was_missed_on_the_first() {
    let redis = Redis::start();
    let nodes = harness::two_nodes(&redis.url(), &[]);
    for library in LIBRARIES {
        let room = format!("{library:?}");
        let relay = Relay::to(nodes[0].addr());
        let mut sdk = behind(library, &relay, "");
        sdk.subscribe(&room);
        let mut api = back_end(&nodes[1]);
        publish(&mut api, &room, 1, 5);
        assert_eq!(sdk.data(&room, 5), numbers(1..=5));
        relay.cut();
        sdk.expect_cut(1);
        publish(&mut api, &room, 6, 60);
        relay.turn_to(nodes[1].addr());
        relay.mend();
        sdk.expect_connected();
        assert_recovered(&sdk.expect_of("subscribed", &room));
        assert_eq!(sdk.data(&room, 55), numbers(6..=60));
        let mut raw = Client::connect(&nodes[0], &format!("/ws?room={room}"));
        raw.send_text("from the first");
        assert_eq!(sdk.data(&room, 1), [json!("from the first")]);
    }
}
