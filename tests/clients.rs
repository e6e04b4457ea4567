//! Clients that others wrote, in one room: Python `websockets` and npm `ws`.
//!
//! What they send must reach both as it was sent, and what ends them must look to them as the
//! contract says. Nothing here knows a frame's bytes; the tests that do use the harness's client.

#[path = "clients/driven.rs"]
mod driven;
mod harness;

use std::time::{SystemTime, UNIX_EPOCH};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use driven::{Driven, brief};
use harness::{Daemon, Signal};

const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// How one of the libraries connects.
type Library = fn(&str) -> Driven;
const LIBRARIES: [Library; 2] = [Driven::python, Driven::node];

fn url(daemon: &Daemon, target: &str) -> String {
    format!("ws://{}{target}", daemon.addr())
}

/// Connects one client of each library, and waits until both are members of what `target` names.
fn both(daemon: &Daemon, target: &str) -> [Driven; 2] {
    let clients = LIBRARIES.map(|connect| opened(connect, daemon, target));
    daemon.wait_members(2);
    clients
}

fn opened(connect: Library, daemon: &Daemon, target: &str) -> Driven {
    let client = connect(&url(daemon, target));
    client.expect("open");
    client
}

fn b64(bytes: &[u8]) -> String {
    BASE64_STANDARD.encode(bytes)
}

fn text(data: &str) -> Value {
    json!({"do": "text", "data": data})
}

fn binary(bytes: &[u8]) -> Value {
    json!({"do": "binary", "b64": b64(bytes)})
}

/// The event that every member must see after `order`: the same type, the same content.
fn seen_after(order: &Value) -> Value {
    let mut event = order.clone();
    let fields = event.as_object_mut().expect("an order is an object");
    let kind = fields.remove("do").expect("an order says what to do");
    fields.insert("event".into(), kind);
    event
}

fn assert_event(client: &Driven, expected: &Value) {
    let event = client.event();
    // Not `assert_eq`: it would print messages of 64 KiB twice.
    assert!(
        event == *expected,
        "{} is not {}",
        brief(&event),
        brief(expected)
    );
}

#[test]
fn every_kind_of_message_reaches_both_as_it_was_sent() {
    let daemon = Daemon::start(&[]);
    let mut clients = both(&daemon, "/ws?room=mixed");
    let every_byte: Vec<u8> = (0..=255).collect();
    let long = |len: usize| -> Vec<u8> { every_byte.iter().copied().cycle().take(len).collect() };
    let mut orders = vec![
        text(""),
        text("plain"),
        text("naïve 弹幕 🎉 \u{feff}\u{10ffff} \"quoted\" \\ \u{0}\r\n"),
        binary(b""),
        binary(&every_byte),
    ];
    // Both sides of each length form of a frame, and the largest message the server takes.
    for len in [125, 126, 127, 65_535, MESSAGE_BYTES_MAX] {
        orders.push(text(&"t".repeat(len)));
        orders.push(binary(&long(len)));
    }
    for sender in 0..clients.len() {
        for order in &orders {
            clients[sender].order(order);
            let expected = seen_after(order);
            clients
                .iter()
                .for_each(|client| assert_event(client, &expected));
        }
    }
}

#[test]
fn fragments_arrive_as_one_message() {
    let daemon = Daemon::start(&[]);
    let mut clients = both(&daemon, "/ws?room=fragments");
    for sender in 0..clients.len() {
        clients[sender].order(&json!({"do": "fragments", "parts": ["one ", "", "弹幕", " end"]}));
        let whole = json!({"event": "text", "data": "one 弹幕 end"});
        clients
            .iter()
            .for_each(|client| assert_event(client, &whole));
    }
}

#[test]
fn all_members_see_one_order_that_keeps_each_senders() {
    const EACH: usize = 300;
    let daemon = Daemon::start(&[]);
    let [mut python, mut node] = both(&daemon, "/ws?room=order");
    for number in 0..EACH {
        python.order(&text(&format!("python {number}")));
        node.order(&text(&format!("node {number}")));
    }
    let received = |client: &Driven| -> Vec<String> {
        let events = (0..2 * EACH).map(|_| client.expect("text"));
        let texts = events.map(|event| event["data"].as_str().expect("a text").to_owned());
        texts.collect()
    };
    let seen_by_python = received(&python);
    assert_eq!(seen_by_python, received(&node));
    for sender in ["python", "node"] {
        let theirs = seen_by_python
            .iter()
            .filter(|text| text.starts_with(sender));
        let sent = (0..EACH).map(|number| format!("{sender} {number}"));
        assert!(theirs.cloned().eq(sent), "{sender}'s are out of order");
    }
}

#[test]
fn a_publication_reaches_every_member_of_its_room_and_nobody_else() {
    let daemon = Daemon::start(&[]);
    let connect = |target: &str| LIBRARIES.map(|connect| opened(connect, &daemon, target));
    let members: Vec<Driven> = (0..3).flat_map(|_| connect("/ws?room=here")).collect();
    let mut strangers = connect("/ws?room=there");
    let mut publishers = connect("/ws?room=here&echo=0");
    daemon.wait_members(10);
    for publisher in 0..publishers.len() {
        let order = text(&format!("from {publisher}"));
        publishers[publisher].order(&order);
        let other = &publishers[1 - publisher];
        let expected = seen_after(&order);
        let reached = members.iter().chain([other]);
        reached.for_each(|client| assert_event(client, &expected));
    }
    // The first thing that the strangers see comes from their own room.
    let order = text("only here");
    strangers[0].order(&order);
    for stranger in &strangers {
        assert_event(stranger, &seen_after(&order));
    }
}

/// The next envelope of a client with `format=json`.
fn envelope(client: &Driven) -> Value {
    let event = client.expect("text");
    let data = event["data"].as_str().expect("a text");
    serde_json::from_str(data).expect("an envelope")
}

/// The envelopes about joining `room` and the personal room of `user`, which come before all else.
/// Returns the room's.
fn joined(client: &Driven, room: &str, user: &str) -> Value {
    let told = [(); 2].map(|()| envelope(client)["joined"].take());
    let personal = format!("#{user}");
    let about = |name: &str| told.iter().find(|told| told["room"] == name).cloned();
    assert!(about(&personal).is_some(), "{told:?}");
    about(room).unwrap_or_else(|| panic!("{told:?}"))
}

#[test]
fn json_members_get_envelopes_and_raw_members_the_payload() {
    let daemon = Daemon::start(&[]);
    let enter = |connect: Library, user: &str| {
        let target = format!("/ws?room=r&format=json&user={user}");
        let client = opened(connect, &daemon, &target);
        let told = joined(&client, "r", user);
        assert_eq!(told["lost"], 0, "{told}");
        let epoch = told["epoch"].as_str().expect("an epoch").to_owned();
        (client, epoch, told["online"].as_u64().expect("a number"))
    };
    let (paula, epoch, online) = enter(Driven::python, "paula");
    assert_eq!(online, 1);
    let (nils, same_epoch, online) = enter(Driven::node, "nils");
    assert_eq!((same_epoch, online), (epoch, 2));
    let mut named = [paula, nils];
    // Each is a member of the room and of a personal room.
    daemon.wait_members(4);
    let mut raw = LIBRARIES.map(|connect| opened(connect, &daemon, "/ws?room=r"));
    daemon.wait_members(6);

    let since_ms = now_ms();
    let mut offset = 0;
    let orders = [
        text("hello \"弹幕\""),
        binary(&[0, 255, 7]),
        text(""),
        binary(b""),
    ];
    for (number, order) in orders.iter().enumerate() {
        // In turn the two named ones, then the two anonymous ones.
        let (sender, user) = match number {
            0 => (&mut named[0], Some("paula")),
            1 => (&mut named[1], Some("nils")),
            _ => (&mut raw[number - 2], None),
        };
        sender.order(order);
        offset += 1;
        for client in &named {
            let told = envelope(client)["publication"].take();
            assert_eq!(
                (&told["room"], &told["offset"]),
                (&json!("r"), &json!(offset)),
                "{told}"
            );
            assert_eq!(told.get("user").and_then(Value::as_str), user, "{told}");
            // Text comes in `data`, bytes in `b64`, and never both.
            assert_eq!(told.get("data"), order.get("data"), "{told}");
            assert_eq!(told.get("b64"), order.get("b64"), "{told}");
            let time_ms = told["time"].as_u64().expect("milliseconds");
            assert!((since_ms..=now_ms()).contains(&time_ms), "{told}");
        }
        let expected = seen_after(order);
        raw.iter()
            .for_each(|client| assert_event(client, &expected));
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(since.expect("after 1970").as_millis()).expect("fits")
}

#[test]
fn a_client_that_closes_sees_its_close_answered() {
    let daemon = Daemon::start(&[]);
    for connect in LIBRARIES {
        for (code, reason) in [(1000, "goodbye"), (4321, "own code")] {
            let mut client = opened(connect, &daemon, "/ws?room=r");
            client.order(&json!({"do": "close", "code": code, "reason": reason}));
            assert_eq!(client.expect("close")["code"], code);
        }
    }
    daemon.wait_closes("normal", 4.0);
    daemon.wait_members(0);
}

#[test]
fn what_the_server_closes_has_its_code_and_a_reason() {
    let daemon = Daemon::start(&[]);
    let too_large = text(&"t".repeat(MESSAGE_BYTES_MAX + 1));
    let cases = [
        ("/ws?room=r", &too_large, 1009),
        // Neither a room nor `to`: this one may only receive.
        ("/ws?user=silent", &text("anything"), 3507),
    ];
    for connect in LIBRARIES {
        for (target, order, code) in cases {
            let mut client = opened(connect, &daemon, target);
            client.order(order);
            let close = client.expect("close");
            assert_eq!(close["code"], code, "{target}: {close}");
            assert_ne!(close["reason"], "", "{target}: {close}");
        }
    }
    daemon.wait_closes("too_big", 2.0);
    daemon.wait_closes("permission_denied", 2.0);
}

#[test]
fn refusals_are_http_answers_to_clients_without_an_origin() {
    let daemon = Daemon::start(&[]);
    for (target, status) in [
        ("/ws", 400),
        ("/ws?room=", 400),
        ("/ws?room=r&user=a,b", 400),
        ("/ws?room=%23someone", 403),
        ("/nothing", 404),
    ] {
        for connect in LIBRARIES {
            let client = connect(&url(&daemon, target));
            assert_eq!(client.expect("refused")["status"], status, "{target}");
        }
    }
}

#[test]
fn sigterm_is_close_3001_to_both_and_a_clean_exit() {
    let mut daemon = Daemon::start(&[]);
    let clients = both(&daemon, "/ws?room=r");
    daemon.signal(Signal::Term);
    for client in &clients {
        let mut event = client.event();
        let reason = event["reason"].take();
        assert_eq!(
            event,
            json!({"event": "close", "code": 3001, "reason": null})
        );
        let retry_ms = reason
            .as_str()
            .and_then(|reason| reason.strip_prefix("shutdown retry_ms="));
        let retry_ms = retry_ms.and_then(|retry_ms| retry_ms.parse::<u64>().ok());
        assert!(retry_ms.is_some(), "{reason}");
    }
    assert!(daemon.wait_exit().success());
}

#[test]
fn the_server_answers_pings() {
    let daemon = Daemon::start(&[]);
    let mut clients = both(&daemon, "/ws?room=r");
    for client in &mut clients {
        for payload in ["", "a payload", &"p".repeat(125)] {
            let payload = b64(payload.as_bytes());
            client.order(&json!({"do": "ping", "b64": payload}));
            assert_event(client, &json!({"event": "pong", "b64": payload}));
        }
    }
}

#[test]
fn clients_answer_the_servers_pings_and_stay() {
    let daemon = Daemon::start(&["--ping-interval", "400ms", "--pong-timeout", "2500ms"]);
    let mut clients = both(&daemon, "/ws?room=r");
    // Several pong timeouts' worth of silence but for pings, which the npm client tells.
    for _ in 0..19 {
        assert_eq!(clients[1].ping()["b64"], "");
    }
    for sender in 0..clients.len() {
        let order = text("still here");
        clients[sender].order(&order);
        assert_event(&clients[0], &seen_after(&order));
    }
    assert_eq!(daemon.closes("no_pong"), 0.0);
}
