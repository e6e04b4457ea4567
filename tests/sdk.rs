//! Centrifugo's SDKs for JavaScript and Python in rooms: what an application sees of connecting,
//! subscribing, publishing and asking, together with clients on `/ws` and with back ends.
//!
//! Much of it is what the tests of the SDK for JavaScript expect of Centrifugo itself.

#[path = "clients/driven.rs"]
mod driven;
mod harness;
#[path = "clients/sdk.rs"]
mod sdk;

use serde_json::{Value, json};

use harness::{Client, Daemon, Signal, json_member, wait_until};
use sdk::{LIBRARIES, Library, PATH, Sdk, back_end, numbers, target};

#[test]
fn clients_connect_subscribe_publish_and_ask() {
    for library in LIBRARIES {
        let daemon = Daemon::start(&[]);
        let mut sdk = Sdk::new(library, daemon.addr(), PATH, &json!({}));
        let connected = sdk.connect();
        let client = connected["client"].as_str().expect("an id").to_owned();
        assert!(!client.is_empty() && connected["data"] == Value::Null);

        let subscribed = sdk.subscribe("test");
        let epoch = subscribed["position"]["epoch"].clone();
        assert!(epoch.as_str().is_some_and(|epoch| !epoch.is_empty()));
        let expected = json!({
            "event": "subscribed", "channel": "test",
            "recoverable": true, "positioned": true, "recovering": false, "recovered": false,
            "position": {"offset": 0, "epoch": epoch}, "data": null,
        });
        assert_eq!(with_null(subscribed, "data"), expected);

        sdk.publish("test", json!({"my": "data"}));
        let sender = json!({"user": "", "client": client, "info": null});
        let publication = sdk.expect("publication");
        assert_eq!(publication["channel"], "test");
        assert_eq!(publication["data"], json!({"my": "data"}));
        assert_eq!(publication["offset"], 1);
        assert_eq!(with_null(publication["from"].clone(), "info"), sender);

        let present = sdk.ask("presence", "test");
        let one = with_null(present[&client].clone(), "info");
        assert_eq!(
            (present.as_object().map(|all| all.len()), one),
            (Some(1), sender.clone())
        );
        // Nobody has said who it is, so no user is counted.
        assert_eq!(sdk.ask("stats", "test"), json!([1, 0]));
        let history = sdk.call("history", json!({"channel": "test", "limit": 10}));
        let history = history.expect("a history");
        assert_eq!((&history["offset"], &history["epoch"]), (&json!(1), &epoch));
        assert_eq!(history["publications"][0]["data"], json!({"my": "data"}));
        assert_eq!(history["publications"][0]["offset"], 1);
        // Who has published is known of users only, once it is history.
        let position = sdk.ask("history", "test");
        assert_eq!(position["publications"], json!([]));
        assert_eq!(position["offset"], 1);

        sdk.unsubscribe("test");
        assert_eq!(sdk.state(Some("test")), "unsubscribed");
        sdk.publish("test", "unheard");
        sdk.expect_silence();
        assert_eq!(sdk.ask("stats", "test"), json!([0, 0]));
        sdk.disconnect();
        daemon.wait_closes("normal", 1.0);
        sdk.expect_rest();
    }
}

/// An event in which `field` is there, since JavaScript leaves out what is not.
fn with_null(mut event: Value, field: &str) -> Value {
    event[field] = event[field].take();
    event
}

#[test]
fn every_value_reaches_sdks_raw_and_json_members_as_it_was_published() {
    let daemon = Daemon::start(&[]);
    let mut sdks = LIBRARIES.map(|library| Sdk::connected(library, &daemon, ""));
    for sdk in &mut sdks {
        sdk.subscribe("r");
    }
    let mut raw = Client::connect(&daemon, "/ws?room=r");
    let mut member = json_member(&daemon, "room=r");
    let values = [
        (json!("naïve 弹幕 🎉 \u{2028} \" \\ \r\n"), None),
        (json!(""), None),
        (json!(0.5), Some("0.5")),
        (json!([1, [], {"a": null}]), Some(r#"[1,[],{"a":null}]"#)),
        (json!(null), Some("null")),
        (json!(false), Some("false")),
    ];
    for publisher in 0..sdks.len() {
        for (value, compact) in &values {
            sdks[publisher].publish("r", value.clone());
            for sdk in &mut sdks {
                assert_eq!(sdk.data("r", 1), std::slice::from_ref(value));
            }
            let text = compact.map_or_else(|| value.as_str().unwrap_or_default(), |text| text);
            assert_eq!(raw.recv_text(), text);
            assert_eq!(member.recv_json()["publication"]["data"], *value);
        }
    }
    // What others publish.
    raw.send_text("{\"text\": \"of a raw client\"}");
    raw.send_binary([0, 255]);
    let mut api = back_end(&daemon);
    api.publish("r", &json!({"of": ["a back end"]}));
    let expected = [
        json!("{\"text\": \"of a raw client\"}"),
        json!({"b64": "AP8="}),
        json!({"of": ["a back end"]}),
    ];
    for sdk in &mut sdks {
        // Two connections publish here, and which comes first is nobody's promise.
        let mut seen = sdk.data("r", 3);
        seen.sort_by_key(|value| expected.iter().position(|one| one == value));
        assert_eq!(seen, expected);
    }
}

#[test]
fn sdks_a_raw_client_and_a_back_end_see_one_order() {
    const EACH: u64 = 100;
    let daemon = Daemon::start(&[]);
    let mut sdks = LIBRARIES.map(|library| Sdk::connected(library, &daemon, ""));
    for sdk in &mut sdks {
        sdk.subscribe("r");
    }
    let mut raw = Client::connect(&daemon, "/ws?room=r");
    let mut api = back_end(&daemon);
    daemon.wait_members(3);
    for number in 0..EACH {
        for (name, sdk) in ["node", "python"].into_iter().zip(&mut sdks) {
            let data = format!("{name} {number}");
            sdk.order("publish", json!({"channel": "r", "data": data}));
        }
        raw.send_text(&format!("raw {number}"));
        api.publish("r", &json!(format!("api {number}")));
    }
    for sdk in &mut sdks {
        for _ in 0..EACH {
            assert_eq!(sdk.answer(), Ok(Value::Null));
        }
    }
    let all = 4 * EACH;
    let seen: Vec<Value> = (0..all).map(|_| raw.recv_text().into()).collect();
    for sdk in &mut sdks {
        let told: Vec<Value> = (0..all)
            .map(|_| sdk.expect_of("publication", "r"))
            .collect();
        let offsets: Vec<Value> = told.iter().map(|one| one["offset"].clone()).collect();
        let data: Vec<Value> = told.iter().map(|one| one["data"].clone()).collect();
        assert_eq!((offsets, data), (numbers(1..=all), seen.clone()));
    }
    for sender in ["node", "python", "raw", "api"] {
        let theirs = seen.iter().filter_map(Value::as_str);
        let theirs = theirs.filter(|text| text.starts_with(sender));
        assert!(theirs.eq((0..EACH).map(|number| format!("{sender} {number}"))));
    }
}

#[test]
fn what_is_not_offered_is_an_error_that_sdks_understand() {
    let daemon = Daemon::start(&["--history-size", "0", "--max-rooms-per-connection", "3"]);
    for library in LIBRARIES {
        let mut sdk = Sdk::connected(library, &daemon, "");
        let rpc = sdk.call("rpc", json!({"method": "method", "data": {"my": "data"}}));
        assert_eq!(rpc, Err(108));
        let history = sdk.call("history", json!({"channel": "r", "limit": 1}));
        assert_eq!(history, Err(108));
        // Nothing to resume from.
        let subscribed = sdk.subscribe("r");
        assert_eq!(
            (&subscribed["recoverable"], &subscribed["positioned"]),
            (&json!(false), &json!(false))
        );
        for (channel, code) in [
            ("$private", 103),
            ("#somebody", 103),
            (&"l".repeat(256), 107),
            ("弹幕", 107),
        ] {
            sdk.start_subscribing(channel, json!({}));
            let unsubscribed = sdk.expect_code("unsubscribed", code);
            assert_eq!(unsubscribed["channel"], channel);
            assert_eq!(sdk.state(Some(channel)), "unsubscribed");
        }
        assert_eq!(sdk.refused("$private"), 103);
        assert_eq!(
            sdk.call("presence", json!({"channel": "$private"})),
            Err(103)
        );
        sdk.subscribe("r2");
        sdk.subscribe("r3");
        sdk.start_subscribing("r4", json!({}));
        sdk.expect_code("unsubscribed", 106);
        // All that leaves the connection as it was.
        sdk.publish("r", 1);
        assert_eq!(sdk.data("r", 1), numbers([1]));
        sdk.disconnect();
        daemon.wait_members(0);
    }
}

#[test]
fn features_that_are_not_offered_are_declined_in_the_sdks_terms() {
    let daemon = Daemon::start(&[]);
    let mut sdk = Sdk::connected(Library::Node, &daemon, "");
    // Publications come whole, for the answer does not say otherwise.
    sdk.subscribe_with("delta", json!({"delta": "fossil"}));
    for text in [
        "a text that is long enough",
        "a text that is long enough too",
    ] {
        sdk.publish("delta", text);
        assert_eq!(sdk.data("delta", 1), [json!(text)]);
    }
    let filter = json!({"tagsFilter": {"key": "k", "cmp": "eq", "val": "v"}});
    sdk.start_subscribing("filtered", filter);
    sdk.expect_code("unsubscribed", 107);
    // A message to the server has nobody who would read it.
    sdk.order("send", json!({"data": {}}));
    assert_eq!(sdk.answer(), Ok(Value::Null));
    assert_eq!(sdk.expect_end()["code"], 3508);
    sdk.expect_rest();
}

#[test]
fn a_call_before_connecting_waits_for_the_connection() {
    let daemon = Daemon::start(&[]);
    let mut sdk = Sdk::new(Library::Node, daemon.addr(), PATH, &json!({}));
    sdk.order("rpc", json!({"method": "method", "data": {}}));
    sdk.order("connect", json!({}));
    assert_eq!(sdk.answer(), Err(108));
}

#[test]
fn loops_without_a_pause_end_where_they_should() {
    let daemon = Daemon::start(&[]);
    for library in LIBRARIES {
        let repeated = |orders: &[Value]| -> Value {
            let all = (0..10).flat_map(|_| orders.iter().cloned());
            json!({"orders": all.collect::<Vec<Value>>()})
        };
        let mut sdk = Sdk::new(library, daemon.addr(), &target("al"), &json!({}));
        sdk.order(
            "all",
            repeated(&[json!({"do": "connect"}), json!({"do": "disconnect"})]),
        );
        let mut ends = 0;
        while ends < 10 {
            let event = sdk.event();
            ends += u32::from(event["event"] == "disconnected");
        }
        sdk.expect_rest();

        sdk.connect();
        sdk.expect_of("server subscribed", "#al");
        let channel = "test";
        // What nobody is in and nothing was published to is forgotten.
        sdk.publish(channel, "kept");
        sdk.subscribe(channel);
        sdk.unsubscribe(channel);
        let [on, off] =
            ["subscribe", "unsubscribe"].map(|what| json!({"do": what, "channel": channel}));
        sdk.order("all", repeated(&[on, off]));
        for _ in 0..10 {
            sdk.expect_of("subscribing", channel);
            if sdk.event()["event"] == "subscribed" {
                sdk.expect_of("unsubscribed", channel);
            }
        }
        let subscribed = sdk.subscribe(channel);
        assert_eq!(subscribed["recovered"], true, "{subscribed}");
        assert_eq!(sdk.ask("stats", channel), json!([1, 1]));
        assert_eq!(
            sdk.ask("presence", channel)
                .as_object()
                .map(|all| all.len()),
            Some(1)
        );
        sdk.unsubscribe(channel);
        assert_eq!(sdk.ask("stats", channel), json!([0, 0]));
        assert_eq!(sdk.ask("presence", channel), json!({}));
        sdk.disconnect();
        daemon.wait_members(0);
    }
}

#[test]
fn a_subscription_can_be_given_up_at_any_moment_of_connecting() {
    let daemon = Daemon::start(&[]);
    let [subscribe, unsubscribe] =
        ["subscribe", "unsubscribe"].map(|what| json!({"do": what, "channel": "test"}));
    // Before anything is sent.
    let mut sdk = Sdk::connected(Library::Node, &daemon, "");
    let [connect, disconnect] = ["connect", "disconnect"].map(|what| json!({ "do": what }));
    let orders = [subscribe.clone(), disconnect, connect, unsubscribe.clone()];
    sdk.order("all", json!({ "orders": orders }));
    sdk.expect("subscribing");
    sdk.expect_code("disconnected", 0);
    sdk.expect_code("connecting", 0);
    sdk.expect_code("unsubscribed", 0);
    sdk.expect("connected");
    sdk.subscribe("test");

    // Behind the frame with both commands, ahead of their answers.
    let mut sdk = Sdk::new(Library::Node, daemon.addr(), PATH, &json!({}));
    sdk.order("subscribe", json!({"channel": "test"}));
    sdk.expect("subscribing");
    let moment = "__centrifuge_debug:connect_frame_sent";
    sdk.order("once", json!({"on": moment, "then": unsubscribe}));
    sdk.order("connect", json!({}));
    sdk.expect_code("connecting", 0);
    sdk.expect_code("unsubscribed", 0);
    sdk.expect("connected");
    sdk.expect_silence();
    assert_eq!(sdk.state(Some("test")), "unsubscribed");
    sdk.subscribe("test");
    sdk.publish("test", 1);
    assert_eq!(sdk.data("test", 1), numbers([1]));
}

#[test]
fn going_offline_and_online_is_a_cut_and_a_return() {
    let daemon = Daemon::start(&[]);
    let mut sdk = Sdk::connected(Library::Node, &daemon, "");
    sdk.publish("test", "before");
    sdk.subscribe("test");
    sdk.order("offline", json!({}));
    daemon.wait_members(0);
    back_end(&daemon).publish("test", &json!("meanwhile"));
    sdk.order("online", json!({}));
    sdk.expect_cut(1);
    sdk.expect_connected();
    assert_eq!(sdk.expect("subscribed")["recovered"], true);
    assert_eq!(sdk.data("test", 1), [json!("meanwhile")]);

    // Who has left by itself does not come back with the network.
    sdk.disconnect();
    sdk.order("online", json!({}));
    sdk.expect_rest();

    // Offline before the socket has opened.
    let moment = "__centrifuge_debug:transport_initialized";
    sdk.order("once", json!({"on": moment, "then": {"do": "offline"}}));
    sdk.connect();
    assert_eq!(sdk.expect("subscribed")["recovered"], true);
    sdk.expect_silence();
}

#[test]
fn fifty_subscriptions_travel_in_the_first_frame() {
    const ROOMS: u32 = 50;
    let daemon = Daemon::start(&[]);
    for library in LIBRARIES {
        let before = daemon.metric("roomcast_messages_received_total");
        let mut sdk = Sdk::new(library, daemon.addr(), PATH, &json!({}));
        let names: Vec<String> = (0..ROOMS).map(|number| format!("room {number}")).collect();
        for name in &names {
            sdk.start_subscribing(name, json!({}));
        }
        sdk.connect();
        for name in &names {
            sdk.expect_of("subscribed", name);
        }
        daemon.wait_members(ROOMS);
        if library == Library::Node {
            // The other SDK sends each in a frame of its own.
            let frames = daemon.metric("roomcast_messages_received_total") - before;
            assert_eq!(frames, 1.0);
        }
        for name in &names {
            sdk.unsubscribe(name);
        }
        // Every one is answered, or the SDK would connect anew.
        sdk.expect_silence();
        daemon.wait_members(0);
    }
}

#[test]
fn who_comes_and_goes_is_told_to_those_who_ask() {
    let daemon = Daemon::start(&[]);
    let mut watchers = LIBRARIES.map(|library| {
        let mut sdk = Sdk::connected(library, &daemon, "");
        sdk.subscribe_with("r", json!({"joinLeave": true}));
        sdk
    });
    // The second to come was seen by the first, and each saw itself.
    let [node, python] = &mut watchers;
    assert_eq!(
        [(); 2].map(|()| node.expect("join")["user"].take()),
        ["", ""]
    );
    assert_eq!(python.expect("join")["user"], "");
    let mut ignorant = Sdk::connected(Library::Node, &daemon, "");
    ignorant.subscribe("r");
    for watcher in &mut watchers {
        watcher.expect("join");
    }
    let guest = Client::connect(&daemon, "/ws?room=r&user=al");
    for watcher in &mut watchers {
        assert_eq!(watcher.expect("join")["user"], "al");
    }
    guest.close();
    for watcher in &mut watchers {
        let leave = watcher.expect_of("leave", "r");
        assert_eq!(leave["user"], "al", "{leave}");
        assert!(leave["client"].as_str().is_some_and(|id| !id.is_empty()));
    }
    ignorant.expect_silence();
}

#[test]
fn messages_to_everybody_are_messages_without_a_room() {
    let daemon = Daemon::start(&[]);
    let mut sdks = LIBRARIES.map(|library| Sdk::connected(library, &daemon, ""));
    let mut api = back_end(&daemon);
    api.result("publish_all", &json!({"data": {"back": "in 5 minutes"}}));
    api.result("publish_all", &json!({"data": "text"}));
    let [node, python] = &mut sdks;
    assert_eq!(
        node.expect("message")["data"],
        json!({"back": "in 5 minutes"})
    );
    assert_eq!(node.expect("message")["data"], "text");
    // The other SDK has no place for them, and is not disturbed either.
    python.expect_silence();
    assert_eq!(python.state(None), "connected");
}

#[test]
fn what_a_lossy_room_skips_is_told() {
    // Much more than sockets and a queue hold.
    const ALL: u64 = 400;
    let daemon = Daemon::start(&["--lossy-room", "r*", "--write-timeout", "60s"]);
    let mut sdk = Sdk::connected(Library::Node, &daemon, "");
    sdk.subscribe("r");
    let mut api = back_end(&daemon);
    sdk.set_paused(true);
    let large = "l".repeat(60_000);
    for number in 1..=ALL {
        api.publish("r", &json!([number, large]));
    }
    sdk.set_paused(false);
    let (mut accounted, mut skipped) = (0, 0);
    while accounted < ALL {
        let event = sdk.event();
        match event["event"].as_str() {
            Some("publication") => {
                accounted += 1;
                assert_eq!(event["data"][0], accounted);
            }
            Some("message") => {
                let told = &event["data"]["skipped"];
                assert_eq!(told["room"], "r", "{event}");
                let count = told["count"].as_u64().expect("a number");
                skipped += count;
                accounted += count;
            }
            _ => panic!("{}", event["event"]),
        }
    }
    assert_eq!(accounted, ALL);
    assert!(skipped > 0, "nothing was skipped");
    assert_eq!(daemon.metric("roomcast_skipped_total"), skipped as f64);
}

#[test]
fn messages_to_a_user_reach_sdks_unasked() {
    let daemon = Daemon::start(&[]);
    let mut al = Sdk::connected(Library::Node, &daemon, "al");
    let mut bo = Sdk::connected(Library::Python, &daemon, "bo");
    al.publish("#bo", "from al");
    let told = bo.expect_of("server publication", "#bo");
    assert_eq!(
        (&told["data"], &told["from"]["user"]),
        (&json!("from al"), &json!("al"))
    );
    bo.publish("#al", json!({"from": "bo"}));
    assert_eq!(
        al.expect_of("server publication", "#al")["data"],
        json!({"from": "bo"})
    );
    let mut raw = Client::connect(&daemon, "/ws?user=cy&to=al");
    raw.send_text("from cy");
    assert_eq!(al.expect_of("server publication", "#al")["data"], "from cy");
    // An SDK may also ask for its own room, which it is in.
    al.start_subscribing("#al", json!({}));
    al.expect_code("unsubscribed", 105);
}

#[test]
fn pings_are_answered_and_their_absence_noticed() {
    let daemon = Daemon::start(&["--ping-interval", "300ms", "--pong-timeout", "5s"]);
    // What is told in whole seconds is 1 s here.
    let options = json!({"maxServerPingDelay": 1000});
    let mut sdks = LIBRARIES.map(|library| {
        let mut sdk = Sdk::new(library, daemon.addr(), PATH, &options);
        sdk.connect();
        sdk.subscribe("r");
        sdk
    });
    sdks[0].publish("r", 1);
    for sdk in &mut sdks {
        assert_eq!(sdk.data("r", 1), numbers([1]));
    }
    let received = "roomcast_messages_received_total";
    let before = daemon.metric(received);
    daemon.wait_metric(received, |now| now >= before + 12.0);
    for sdk in &mut sdks {
        sdk.expect_silence();
    }
    assert_eq!(daemon.closes("no_pong"), 0.0);
    daemon.signal(Signal::Stop);
    for sdk in &mut sdks {
        sdk.expect_cut(2);
    }
    daemon.signal(Signal::Continue);
    for sdk in &mut sdks {
        sdk.expect_connected();
        assert_eq!(sdk.expect_of("subscribed", "r")["recovered"], true);
    }
    wait_until("the old connections' ends", || {
        daemon.metric("roomcast_websockets") == 2.0
    });
}
