//! What clients of the Centrifugo protocol do wrong: which of it ends the connection, with which
//! code, and which of it is answered with an error and goes on.

mod harness;

use harness::{
    Api, Client, Daemon, SDK_PATH, Sdk, SecretFile, Trial, Witness, resume, signed_token,
};
use serde_json::{Value, json};

const SECRET: &str = "s3cret-of-the-tests-is-32-bytes!";

// --- What ends the connection ---------------------------------------------------------------------

/// What is sent on a new WebSocket, a frame each, and with which code it is closed.
type Row = (&'static str, &'static [&'static str], u16);

const CONNECT: &str = r#"{"id":1,"connect":{}}"#;
const SUBSCRIBE: &str = r#"{"id":2,"subscribe":{"channel":"r"}}"#;

/// Closed by the first command or before.
const STRANGERS: [Row; 19] = [
    ("not JSON", &["hello"], 3501),
    ("an empty frame", &[""], 3501),
    ("a blank", &[" "], 3501),
    ("a line feed", &["\n"], 3501),
    ("an array", &["[1]"], 3501),
    (
        "an array of commands",
        &[r#"[{"id":1,"connect":{}}]"#],
        3501,
    ),
    ("a number", &["7"], 3501),
    ("half an object", &[r#"{"id":1,"connect":{}"#], 3501),
    (
        "two objects in a line",
        &[r#"{"id":1,"connect":{}}{}"#],
        3501,
    ),
    ("an id without a method", &[r#"{"id":1}"#], 3501),
    ("an id that is text", &[r#"{"id":"1","connect":{}}"#], 3501),
    ("an id below 0", &[r#"{"id":-1,"connect":{}}"#], 3501),
    (
        "an id over 32 bits",
        &[r#"{"id":4294967296,"connect":{}}"#],
        3501,
    ),
    (
        "a method that is no object",
        &[r#"{"id":1,"connect":[]}"#],
        3501,
    ),
    ("an early pong", &["{}"], 3501),
    (
        "a connect without an id is a pong",
        &[r#"{"connect":{}}"#],
        3501,
    ),
    ("subscribe before connect", &[SUBSCRIBE], 3501),
    ("send before connect", &[r#"{"send":{"data":1}}"#], 3501),
    (
        "a token that is a number",
        &[r#"{"id":1,"connect":{"token":1}}"#],
        3501,
    ),
];

/// Closed after `connect`.
const MEMBERS: [Row; 16] = [
    ("a second connect", &[CONNECT], 3501),
    ("a pong without a ping", &["{}"], 3501),
    (
        "a subscribe without an id is a pong",
        &[r#"{"subscribe":{"channel":"r"}}"#],
        3501,
    ),
    ("an empty frame", &[""], 3501),
    ("not JSON", &["\u{1f600}"], 3501),
    (
        "an empty line inside",
        &["{\"id\":2,\"unsubscribe\":{}}\n\n{\"id\":3,\"unsubscribe\":{}}"],
        3501,
    ),
    (
        "an empty line at the end",
        &["{\"id\":2,\"unsubscribe\":{}}\n\n"],
        3501,
    ),
    ("an unknown method", &[r#"{"id":2,"dance":{}}"#], 3501),
    ("send", &[r#"{"send":{"data":1}}"#], 3508),
    ("send with an id", &[r#"{"id":2,"send":{"data":1}}"#], 3508),
    (
        "an empty channel",
        &[r#"{"id":2,"subscribe":{"channel":""}}"#],
        3501,
    ),
    ("no channel", &[r#"{"id":2,"subscribe":{}}"#], 3501),
    (
        "an unknown delta",
        &[r#"{"id":2,"subscribe":{"channel":"r","delta":"xyz"}}"#],
        3501,
    ),
    (
        "an offset below 0",
        &[r#"{"id":2,"subscribe":{"channel":"r","recover":true,"offset":-1}}"#],
        3501,
    ),
    (
        "refresh where there are no tokens",
        &[r#"{"id":2,"refresh":{"token":"x"}}"#],
        3501,
    ),
    (
        "sub_refresh where there are no tokens",
        &[
            SUBSCRIBE,
            r#"{"id":3,"sub_refresh":{"channel":"r","token":"x"}}"#,
        ],
        3501,
    ),
];

/// Sends frames, and asserts that the connection ends with this code and for its reason only.
fn assert_closed(daemon: &Daemon, what: &str, mut sdk: Sdk, frames: &[&str], code: u16) {
    eprintln!("{what}");
    let (words, label): (_, &[&str]) = match code {
        3501 => ("bad request", &["bad_request"]),
        3508 => ("not available", &["not_available"]),
        other => panic!("{other} is not expected here"),
    };
    let trial = Trial::begin(daemon, label);
    for frame in frames {
        sdk.wire.send_text(frame);
    }
    let before = sdk.wire.drain_to_close(code, words);
    // Whatever was right before it is answered.
    assert!(before.len() <= frames.len(), "{what}: {before:?}");
    let peer = sdk.wire.local_addr();
    drop(sdk);
    trial.assert_ended(peer);
}

#[test]
fn what_breaks_the_protocol_ends_the_connection() {
    let daemon = Daemon::start(&["--handshake-timeout", "1m"]);
    let mut witness = Witness::new(&daemon);
    for (what, frames, code) in STRANGERS {
        assert_closed(&daemon, what, Sdk::open(&daemon), frames, code);
    }
    for (what, frames, code) in MEMBERS {
        assert_closed(&daemon, what, Sdk::connected(&daemon), frames, code);
    }
    witness.assert_served();
    daemon.wait_members(2);
    daemon.wait_metric("roomcast_websockets", |now| now == 2.0);
    for (reason, count) in [("bad_request", 33.0), ("not_available", 2.0)] {
        assert_eq!(daemon.closes(reason), count, "{reason}");
    }
}

#[test]
fn what_was_right_in_a_frame_is_carried_out_before_it_ends_the_connection() {
    let daemon = Daemon::start(&[]);
    let mut sdk = Sdk::connected(&daemon);
    sdk.send_text(
        "{\"id\":2,\"unsubscribe\":{}}\n{\"id\":3,\"rpc\":{}}\nnonsense\n{\"id\":4,\"rpc\":{}}",
    );
    assert_eq!(sdk.next(), json!({ "id": 2, "unsubscribe": {} }));
    assert_eq!(sdk.error_of(3), 108);
    sdk.expect_close(3501, "bad request");
}

#[test]
fn bytes_that_are_no_text_end_the_connection() {
    let daemon = Daemon::start(&[]);
    for bytes in [&[0xff, 0xfe, 0x00][..], &[0x80], b"\x00\x01\x02", b""] {
        let mut sdk = Sdk::connected(&daemon);
        sdk.wire.send_binary(bytes);
        sdk.expect_close(3501, "bad request");
    }
    // In a text frame that is RFC 6455's matter.
    let mut sdk = Sdk::connected(&daemon);
    sdk.wire.send_frame(true, 0, 1, true, &[0xff, 0xfe]);
    sdk.wire.expect_close(1007, None);
}

#[test]
fn each_ping_is_answered_once() {
    let args = ["--ping-interval", "200ms", "--pong-timeout", "9s"];
    let daemon = Daemon::start(&args);
    let mut sdk = Sdk::connected(&daemon);
    for _ in 0..3 {
        assert_eq!(sdk.next(), json!({}));
        sdk.send_text("{}");
    }
    assert_eq!(sdk.next(), json!({}));
    sdk.send_text("{}\n{}");
    sdk.expect_close(3501, "bad request");
}

#[test]
fn a_message_over_the_bound_ends_the_connection() {
    let daemon = Daemon::start(&["--max-message-size", "1KiB"]);
    let frame = |length: usize| {
        let empty = r#"{"id":7,"publish":{"channel":"r","data":""}}"#;
        format!(
            r#"{{"id":7,"publish":{{"channel":"r","data":"{}"}}}}"#,
            "x".repeat(length - empty.len())
        )
    };
    let mut sdk = Sdk::connected(&daemon);
    sdk.send_text(&frame(1024));
    assert_eq!(sdk.next(), json!({ "id": 7, "publish": {} }));
    sdk.send_text(&frame(1025));
    sdk.wire.expect_close(1009, None);
    let mut stranger = Sdk::open(&daemon);
    stranger.send_text(&frame(1025));
    stranger.wire.expect_close(1009, None);
    daemon.wait_closes("too_big", 2.0);
}

#[test]
fn who_does_not_connect_in_time_is_stale() {
    let daemon = Daemon::start(&["--handshake-timeout", "300ms"]);
    let mut silent = Sdk::open(&daemon);
    let mut late = Sdk::open(&daemon);
    // Half a command is none.
    late.wire.send_frame(false, 0, 1, true, br#"{"id":1,"#);
    let mut in_time = Sdk::connected(&daemon);
    silent.expect_close(3502, "stale");
    late.expect_close(3502, "stale");
    daemon.wait_closes("stale", 2.0);
    in_time.expect_nothing_before_answer();
}

#[test]
fn commands_count_by_the_rate_of_messages() {
    let rate = ["--message-rate", "1", "--message-burst", "5"];
    let daemon = Daemon::start(&rate);
    let mut sdk = Sdk::open(&daemon);
    let mut lines = vec![sdk.line("connect", &json!({}))];
    lines.extend((0..5).map(|_| sdk.line("unsubscribe", &json!({}))));
    sdk.send_text(&lines.join("\n"));
    assert!(sdk.next()["connect"].is_object());
    for id in 2..=5 {
        assert_eq!(sdk.next(), json!({ "id": id, "unsubscribe": {} }));
    }
    sdk.expect_close(3013, "too many requests");
}

// --- What is answered with an error ---------------------------------------------------------------

#[test]
fn subscriptions_that_cannot_be_made_are_refused_one_by_one() {
    let daemon = Daemon::start(&["--max-rooms-per-connection", "3"]);
    let mut sdk = Sdk::connected(&daemon);
    let subscribe = |channel: &str| json!({ "channel": channel });
    for (request, code) in [
        (subscribe("$private"), 103),
        (subscribe("#42,43"), 103),
        (json!({ "channel": "r", "type": 1 }), 103),
        (subscribe(&"x".repeat(256)), 107),
        (subscribe("caf\u{e9}"), 107),
        (subscribe("two\nlines"), 107),
        (json!({ "channel": "r", "tf": { "op": "eq" } }), 107),
    ] {
        assert_eq!(sdk.error("subscribe", &request), code, "{request}");
    }
    // None of them has left anything behind.
    let longest = "x".repeat(255);
    for room in ["r", "s", &longest] {
        assert_eq!(sdk.subscribe(room)["recoverable"], true);
        assert_eq!(sdk.error("subscribe", &subscribe(room)), 105);
    }
    assert_eq!(sdk.error("subscribe", &subscribe("t")), 106);
    assert_eq!(
        sdk.error("subscribe", &subscribe("r")),
        105,
        "105 goes before 106"
    );
    sdk.ask("unsubscribe", &subscribe("r"));
    sdk.subscribe("t");
    // While one is being made it is made already.
    let mut fresh = Sdk::connected(&daemon);
    let two = [0; 2].map(|_| fresh.line("subscribe", &subscribe("r")));
    fresh.send_text(&two.join("\n"));
    assert_eq!(fresh.error_of(3), 105);
    assert_eq!(fresh.result("subscribe", 2)["recoverable"], true);
    // The longest name is the name of a room like any other.
    Api::connect(&daemon).publish(&longest, &json!(1));
    sdk.expect_publication(&longest, &json!({ "data": 1, "offset": 1 }));
}

#[test]
fn the_personal_room_takes_no_place_of_those_that_are_asked_for() {
    let daemon = Daemon::start(&["--max-rooms-per-connection", "2"]);
    let mut sdk = Sdk::user(&daemon, "al");
    for room in ["a", "b"] {
        sdk.subscribe(room);
    }
    assert_eq!(sdk.error("subscribe", &json!({ "channel": "c" })), 106);
    daemon.wait_members(3);
}

#[test]
fn a_room_too_many_on_the_node_is_refused() {
    let daemon = Daemon::start(&["--max-rooms", "2"]);
    let mut sdk = Sdk::connected(&daemon);
    for room in ["a", "b"] {
        sdk.subscribe(room);
    }
    assert_eq!(sdk.error("subscribe", &json!({ "channel": "c" })), 106);
    let publish = json!({ "channel": "c", "data": 1 });
    assert_eq!(sdk.error("publish", &publish), 106);
    sdk.ask("unsubscribe", &json!({ "channel": "a" }));
    sdk.subscribe("c");
    sdk.ask("publish", &publish);
    sdk.expect_publication(
        "c",
        &json!({ "data": 1, "offset": 1,
        "info": { "user": "", "client": sdk.client.clone() } }),
    );
    // Who cannot even have the personal room cannot connect.
    let mut named = Sdk::of(Client::connect(&daemon, &format!("{SDK_PATH}?user=al")));
    named.send("connect", &json!({}));
    named.expect_close(3505, "channel limit");
}

#[test]
fn questions_and_publications_that_make_no_sense_are_refused() {
    let daemon = Daemon::start(&[]);
    let mut api = Api::connect(&daemon);
    let mut sdk = Sdk::connected(&daemon);
    for n in 1..=3 {
        api.publish("r", &json!(n));
    }
    let bad = [
        json!({}),
        json!({ "channel": "" }),
        json!({ "channel": "\u{e9}" }),
        json!({ "channel": "x".repeat(256) }),
    ];
    for method in ["presence", "presence_stats", "history", "publish"] {
        for request in &bad {
            let mut request = request.clone();
            request["data"] = json!(1);
            assert_eq!(sdk.error(method, &request), 107, "{method} {request}");
        }
        let private = json!({ "channel": "$p", "data": 1 });
        assert_eq!(sdk.error(method, &private), 103, "{method}");
    }
    let from_start =
        json!({ "channel": "r", "reverse": true, "limit": 1, "since": { "offset": 0 } });
    let other_epoch = json!({ "channel": "r", "since": { "offset": 1, "epoch": "other" } });
    for (method, request, code) in [
        ("publish", json!({ "channel": "r" }), 107),
        (
            "publish",
            json!({ "channel": "r", "data": 1, "type": 1, "key": "k" }),
            108,
        ),
        ("history", from_start, 107),
        ("history", other_epoch, 112),
        ("rpc", json!({ "method": "m", "data": {} }), 108),
        ("ping", json!({}), 108),
        ("sub_refresh", json!({ "channel": "r", "token": "x" }), 103),
    ] {
        assert_eq!(sdk.error(method, &request), code, "{method} {request}");
    }
    // `null` is data.
    sdk.ask("publish", &json!({ "channel": "r", "data": null }));
    let result = sdk.ask("history", &json!({ "channel": "r", "limit": -1 }));
    assert_eq!(
        result["offset"], 4,
        "nothing but that was published: {result}"
    );
    assert_eq!(result["publications"].as_array().map(Vec::len), Some(4));
}

#[test]
fn history_is_read_in_both_directions() {
    let daemon = Daemon::start(&["--history-size", "5"]);
    let mut api = Api::connect(&daemon);
    let mut sdk = Sdk::member(&daemon, "r");
    let empty = sdk.ask("history", &json!({ "channel": "none", "limit": 5 }));
    assert_eq!(
        (&empty["publications"], &empty["offset"]),
        (&json!([]), &json!(0))
    );
    for n in 1..=8 {
        api.publish("r", &json!({ "n": n }));
        sdk.publication("r");
    }
    let epoch = sdk.ask("history", &json!({ "channel": "r" }))["epoch"].take();
    for (request, offsets) in [
        (json!({}), vec![]),
        (json!({ "limit": 0, "since": { "offset": 6 } }), vec![]),
        (json!({ "limit": 2 }), vec![4, 5]),
        (json!({ "limit": -1 }), vec![4, 5, 6, 7, 8]),
        (json!({ "limit": 2, "reverse": true }), vec![8, 7]),
        (
            json!({ "limit": 9, "since": { "offset": 6, "epoch": epoch } }),
            vec![7, 8],
        ),
        (
            json!({ "limit": 9, "since": { "offset": 6, "epoch": epoch }, "reverse": true }),
            vec![5, 4],
        ),
        (json!({ "limit": 2, "since": { "offset": 1 } }), vec![4, 5]),
        (json!({ "limit": 2, "since": { "offset": 8 } }), vec![]),
    ] {
        let mut request = request;
        request["channel"] = json!("r");
        let result = sdk.ask("history", &request);
        let publications: Vec<Value> = (offsets.iter())
            .map(|n| json!({ "data": { "n": n }, "offset": n }))
            .collect();
        let expected = json!({ "publications": publications, "epoch": epoch, "offset": 8 });
        assert_eq!(result, expected, "{request}");
    }
}

#[test]
fn history_that_is_off_is_not_available() {
    let daemon = Daemon::start(&["--history-size", "0"]);
    let mut sdk = Sdk::member(&daemon, "r");
    assert_eq!(
        sdk.error("history", &json!({ "channel": "r", "limit": 1 })),
        108
    );
    // Everything else goes on.
    sdk.ask("publish", &json!({ "channel": "r", "data": 1 }));
    let stats = sdk.ask("presence_stats", &json!({ "channel": "r" }));
    assert_eq!(stats, json!({ "num_clients": 1, "num_users": 0 }));
}

#[test]
fn who_wants_all_or_nothing_gets_nothing_and_is_no_member() {
    let daemon = Daemon::start(&["--history-size", "2"]);
    let mut api = Api::connect(&daemon);
    let mut epoch = json!(null);
    for n in 1..=5 {
        epoch = api.result("publish", &json!({ "channel": "r", "data": n }))["epoch"].take();
    }
    let epoch = epoch.as_str().expect("an epoch");
    let mut sdk = Sdk::connected(&daemon);
    for (given, offset) in [(epoch, 1), ("other", 5), (epoch, 6)] {
        let mut request = resume("r", given, offset);
        request["flag"] = json!(3);
        assert_eq!(sdk.error("subscribe", &request), 112, "{given} {offset}");
        daemon.wait_members(0);
    }
    let errors = "roomcast_command_errors_total{code=\"112\"}";
    assert_eq!(daemon.metric(errors), 3.0);
    // Nothing of it stays: what can be recovered is, with the same flag.
    let mut request = resume("r", epoch, 3);
    request["flag"] = json!(3);
    let result = sdk.ask("subscribe", &request);
    assert_eq!(result["recovered"], true, "{result}");
    assert_eq!(result["publications"].as_array().map(Vec::len), Some(2));
    api.publish("r", &json!("live"));
    sdk.expect_publication("r", &json!({ "data": "live", "offset": 6 }));
}

// --- Who cannot come in ---------------------------------------------------------------------------

#[test]
fn who_was_refused_can_only_go() {
    let file = SecretFile::new(SECRET);
    let args = [
        "--token-secret-file",
        file.path(),
        "--handshake-timeout",
        "1s",
    ];
    let daemon = Daemon::start(&args);
    let over = signed_token(SECRET, &json!({ "sub": "al", "exp": 1 }));
    let connect = json!({ "id": 1, "connect": { "token": over } }).to_string();
    let expired = json!({ "id": 1, "error": { "code": 109, "message": "token expired" } });
    // The rest of the frame is not looked at.
    let mut sdk = Sdk::open(&daemon);
    sdk.send_text(&format!("{connect}\n{SUBSCRIBE}\nnonsense"));
    assert_eq!(sdk.next(), expired);
    let mut silent = Sdk::open(&daemon);
    silent.send_text(&connect);
    assert_eq!(silent.next(), expired);
    // Any other command ends it, be it a good connect.
    let good = signed_token(SECRET, &json!({ "sub": "al" }));
    for next in [
        SUBSCRIBE.to_owned(),
        "{}".to_owned(),
        json!({ "id": 2, "connect": { "token": good } }).to_string(),
    ] {
        let mut sdk = Sdk::open(&daemon);
        // Both in one segment: the answer to the first goes out before the close.
        let frames = [&connect, &next].map(|text| harness::Frame::text(text).bytes());
        sdk.wire.send_bytes(frames.concat());
        assert_eq!(sdk.next(), expired, "{next}");
        sdk.expect_close(3501, "bad request");
    }
    sdk.expect_close(3502, "stale");
    silent.expect_close(3502, "stale");
    daemon.wait_members(0);
    assert_eq!(daemon.metric("roomcast_users"), 0.0);
}
