//! What back ends do to clients of the Centrifugo protocol: the rooms that they put them into, and
//! for how long they let them stay.

mod harness;

use std::time::{SystemTime, UNIX_EPOCH};

use harness::{Api, Client, Daemon, Sdk};
use serde_json::{Value, json};

fn unix_s() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("after 1970").as_secs()
}

fn push(room: &str, kind: &str, body: Value) -> Value {
    json!({ "channel": room, kind: body })
}

fn publish(api: &mut Api, room: &str, data: u64) -> Value {
    api.result("publish", &json!({ "channel": room, "data": data }))
}

#[test]
fn a_client_is_put_into_a_room_with_what_it_is_told() {
    for workers in ["0", "2"] {
        let daemon = Daemon::start(&["--workers", workers]);
        let mut api = Api::connect(&daemon);
        let epoch = publish(&mut api, "r", 1)["epoch"].take();
        let mut al = Sdk::user(&daemon, "al");
        let mut second = Sdk::user(&daemon, "al");
        let mut raw = Client::connect(&daemon, "/ws?user=al");
        let call = json!({ "channel": "r", "user": "al", "data": { "big": 12_345_678_901_234_567_890_u64 } });
        assert_eq!(api.result("subscribe", &call), json!({}));
        let told = json!({
            "recoverable": true, "positioned": true, "epoch": epoch, "offset": 1,
            "data": { "big": 12_345_678_901_234_567_890_u64 },
        });
        for sdk in [&mut al, &mut second] {
            assert_eq!(sdk.push(), push("r", "subscribe", told.clone()));
        }
        // Once is enough, and who chose its rooms by a query stays as it is.
        assert_eq!(api.result("subscribe", &call), json!({}));
        publish(&mut api, "r", 2);
        for sdk in [&mut al, &mut second] {
            let publication = json!({ "data": 2, "offset": 2 });
            assert_eq!(sdk.push(), push("r", "pub", publication));
            assert_eq!(sdk.error("subscribe", &json!({ "channel": "r" })), 105);
        }
        publish(&mut api, "#al", 3);
        assert_eq!(raw.recv_text(), "3");
        // One client of the two is taken out of it again.
        let one = json!({ "channel": "r", "client": al.client });
        assert_eq!(api.result("unsubscribe", &one), json!({}));
        let direct = json!({ "data": 3, "offset": 1 });
        assert_eq!(al.push(), push("#al", "pub", direct));
        let why = json!({ "code": 2000, "reason": "server unsubscribe" });
        assert_eq!(al.push(), push("r", "unsubscribe", why));
        let stats = api.result("presence_stats", &json!({ "channel": "r" }));
        assert_eq!(stats["num_clients"], 1);
    }
}

#[test]
fn what_came_after_a_position_follows_the_subscription() {
    let daemon = Daemon::start(&["--history-size", "5"]);
    let mut api = Api::connect(&daemon);
    let epoch = publish(&mut api, "r", 1)["epoch"].take();
    for data in 2..=6 {
        publish(&mut api, "r", data);
    }
    for (since, first) in [
        (json!({ "offset": 4, "epoch": epoch }), 5),
        (json!({ "offset": 1 }), 2),
        (json!({ "offset": 6, "epoch": epoch }), 7),
        // What is not all there does not come at all.
        (json!({ "offset": 0, "epoch": epoch }), 7),
        (json!({ "offset": 4, "epoch": "other" }), 7),
    ] {
        let mut sdk = Sdk::connected(&daemon);
        let call = json!({ "channel": "r", "client": sdk.client, "recover_since": since });
        assert_eq!(api.result("subscribe", &call), json!({}));
        assert!(sdk.push()["subscribe"].is_object(), "{since}");
        for offset in first..=6 {
            let publication = json!({ "data": offset, "offset": offset });
            assert_eq!(sdk.push(), push("r", "pub", publication), "{since}");
        }
        assert_eq!(
            sdk.ask("presence_stats", &json!({ "channel": "r" }))["num_clients"],
            1
        );
        sdk.wire.close();
        daemon.wait_members(0);
    }
}

#[test]
fn a_back_end_says_when_connections_and_subscriptions_end() {
    let daemon = Daemon::start(&[]);
    let mut api = Api::connect(&daemon);
    let mut al = Sdk::user(&daemon, "al");
    let later = json!({ "user": "al", "expire_at": unix_s() + 1000 });
    assert_eq!(api.result("refresh", &later), json!({}));
    let told = al.push()["refresh"].take();
    assert_eq!(told["expires"], true);
    assert!(
        (900..=1000).contains(&told["ttl"].as_u64().expect("seconds")),
        "{told}"
    );
    assert_eq!(api.result("refresh", &json!({ "user": "al" })), json!({}));
    assert_eq!(al.push(), json!({ "refresh": {} }));
    // Over long ago, and the time to bring something better too.
    let over = json!({ "user": "al", "channel": "r", "expire_at": unix_s() - 30 });
    assert_eq!(api.result("subscribe", &over), json!({}));
    assert_eq!(al.push()["channel"], "r");
    al.expect_close(3006, "subscription expired");

    let mut bo = Sdk::user(&daemon, "bo");
    let mut raw = Client::connect(&daemon, "/ws?user=bo");
    assert_eq!(
        api.result("refresh", &json!({ "user": "bo", "expired": true })),
        json!({})
    );
    bo.expect_close(3005, "connection expired");
    raw.expect_close(3005, "connection expired");
    for (method, body) in [
        ("refresh", json!({})),
        ("refresh", json!({ "user": "al", "expire_at": -1 })),
        ("subscribe", json!({ "user": "al" })),
        ("subscribe", json!({ "channel": "r" })),
        (
            "subscribe",
            json!({ "channel": "r", "user": "al", "b64data": "bm90IEpTT04=" }),
        ),
    ] {
        assert_eq!(api.error(method, &body), 107, "{method} {body}");
    }
}
