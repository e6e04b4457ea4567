//! Publishing by the HTTP API: what reaches members in their form, once, in one order with what
//! members publish themselves.

mod harness;

use std::collections::BTreeMap;
use std::io::Read as _;
use std::sync::Barrier;
use std::time::Duration;

use flate2::read::GzDecoder;
use harness::{
    Api, Client, Daemon, Frame, Message, error_of, history, json_member, next, publication,
};
use serde_json::{Value, json};

/// Every way of running the workers: on the loop, one, several.
const WORKERS: [&str; 3] = ["0", "1", "3"];

fn gunzip(bytes: &[u8]) -> String {
    let mut text = String::new();
    let outcome = GzDecoder::new(bytes).read_to_string(&mut text);
    outcome.unwrap_or_else(|error| panic!("no gzip of text: {error}"));
    text
}

/// Asserts that nothing was sent to the member before what this publishes to its `room`.
fn assert_nothing_came(api: &mut Api, member: &mut Client, room: &str) {
    api.publish(room, &json!("nothing before this"));
    assert_eq!(publication(member)["data"], "nothing before this");
}

// --- What reaches members -------------------------------------------------------------------------

#[test]
fn every_kind_of_data_reaches_each_member_in_its_form() {
    for workers in WORKERS {
        let daemon = Daemon::start(&["--workers", workers]);
        let mut api = Api::connect(&daemon);
        let mut raw = Client::connect(&daemon, "/ws?room=a");
        let mut json = json_member(&daemon, "room=a");
        let mut gzip = Client::connect(&daemon, "/ws?room=a&gzip=1");
        let mut json_gzip = json_member(&daemon, "room=a&gzip=1");
        let long = "x".repeat(300);
        // What is given, what a raw member gets, what an envelope holds.
        let cases = [
            (r#""data":"""#, "", r#""data":"""#),
            (
                r#""data":"hi \"there\" \u00e9\n""#,
                "hi \"there\" é\n",
                r#""data":"hi \"there\" é\n""#,
            ),
            (
                r#""data": { "b" : 1, "a":[ 1.10, 1e999 ] } "#,
                r#"{"b":1,"a":[1.10,1e999]}"#,
                r#""data":{"b":1,"a":[1.10,1e999]}"#,
            ),
            (r#""data":null"#, "null", r#""data":null"#),
            (
                r#""data":12345678901234567890123"#,
                "12345678901234567890123",
                r#""data":12345678901234567890123"#,
            ),
            (
                r#""data":false,"tags":{"a":"b"}"#,
                "false",
                r#""data":false"#,
            ),
            (
                &format!(r#""data":"{long}""#),
                &long,
                &format!(r#""data":"{long}""#),
            ),
        ];
        let mut offset = 0;
        for (given, text, member) in &cases {
            offset += 1;
            api.send("publish", format!(r#"{{"channel":"a",{given}}}"#));
            let answer = api.answer();
            assert_eq!(answer["result"]["offset"], offset, "{given}: {answer}");
            let is_long = text.len() >= 256;
            assert_eq!(raw.recv_text(), **text);
            if is_long {
                assert_eq!(gunzip(&gzip.recv_binary()), **text);
            } else {
                assert_eq!(gzip.recv_text(), **text);
            }
            let envelope = json.recv_text();
            let head = format!(r#"{{"publication":{{"room":"a","offset":{offset},"time":1"#);
            assert!(envelope.starts_with(&head), "{envelope}");
            assert!(envelope.ends_with(&format!(",{member}}}}}")), "{envelope}");
            assert!(!envelope.contains("user"), "{envelope}");
            let packed = if is_long {
                gunzip(&json_gzip.recv_binary())
            } else {
                json_gzip.recv_text()
            };
            assert_eq!(packed, envelope);
        }
        api.result("publish", &json!({ "channel": "a", "b64data": "AP8=" }));
        assert_eq!(raw.recv_binary(), [0, 255]);
        assert_eq!(gzip.recv_binary(), [0, 255]);
        for member in [&mut json, &mut json_gzip] {
            let publication = publication(member);
            assert_eq!(publication["b64"], "AP8=", "{publication}");
            assert!(publication.get("data").is_none(), "{publication}");
        }
    }
}

#[test]
fn a_publisher_that_sends_all_members_it_knows_is_understood() {
    let daemon = Daemon::start(&[]);
    let mut api = Api::connect(&daemon);
    let mut member = Client::connect(&daemon, "/ws?room=a");
    for data in ["null", "\"\"", "{}", "\"ignored\""] {
        // In Centrifugo `b64data` wins over `data`, whatever that is.
        let body = format!(
            r#"{{"channel":"a","data":{data},"b64data":"AP8=","tags":null,"idempotency_key":"","skip_history":null}}"#
        );
        api.send("publish", body);
        let answer = api.answer();
        assert!(answer["result"]["offset"].is_u64(), "{data}: {answer}");
        assert_eq!(member.recv_binary(), [0, 255]);
    }
}

#[test]
fn a_user_is_reached_by_the_personal_room() {
    let daemon = Daemon::start(&[]);
    let mut api = Api::connect(&daemon);
    let mut tabs = [0, 1].map(|_| Client::connect(&daemon, "/ws?user=al"));
    let mut other = Client::connect(&daemon, "/ws?user=bo");
    api.publish("#al", &json!("for al"));
    api.publish("#bo", &json!("for bo"));
    for tab in &mut tabs {
        assert_eq!(tab.recv_text(), "for al");
    }
    assert_eq!(other.recv_text(), "for bo");
}

#[test]
fn a_payload_is_bounded_by_the_message_size() {
    let daemon = Daemon::start(&["--max-message-size", "1000"]);
    let mut api = Api::connect(&daemon);
    let mut member = Client::connect(&daemon, "/ws?room=a");
    for (data, is_allowed) in [
        (json!("x".repeat(1000)), true),
        (json!("x".repeat(1001)), false),
        (json!("é".repeat(500)), true),
        (json!("é".repeat(501)), false),
        (json!(["y".repeat(996)]), true),
        (json!(["y".repeat(997)]), false),
    ] {
        let request = json!({ "channel": "a", "data": data });
        if is_allowed {
            api.result("publish", &request);
            let text = data
                .as_str()
                .map_or_else(|| data.to_string(), ToOwned::to_owned);
            assert_eq!(member.recv_text(), text);
        } else {
            assert_eq!(api.error("publish", &request), 106);
            assert_eq!(api.error("publish_all", &json!({ "data": data })), 106);
        }
    }
    let history = history(&mut api, &json!({ "channel": "a", "limit": 10 }));
    assert_eq!(history.0, [1, 2, 3]);
}

#[test]
fn one_room_too_many_is_refused_and_uses_no_key_up() {
    let daemon = Daemon::start(&["--max-rooms", "1"]);
    let mut api = Api::connect(&daemon);
    let to = |room| json!({ "channel": room, "data": 1, "idempotency_key": "k" });
    assert_eq!(api.result("publish", &to("a"))["offset"], 1);
    assert_eq!(api.error("publish", &to("b")), 106);
    let channels = json!({ "channels": ["b", "a"], "data": 1 });
    let result = api.result("broadcast", &channels);
    assert_eq!(error_of(&result["responses"][0]), 106);
    assert_eq!(result["responses"][1]["result"]["offset"], 2);
    api.result("history_remove", &json!({ "channel": "a" }));
    assert_eq!(api.result("publish", &to("b"))["offset"], 1);
}

// --- Broadcast, and everybody at once -------------------------------------------------------------

#[test]
fn a_broadcast_serves_good_channels_beside_bad_ones() {
    for workers in WORKERS {
        let daemon = Daemon::start(&["--workers", workers]);
        let mut api = Api::connect(&daemon);
        let mut members = ["a", "b", "c"].map(|room| json_member(&daemon, &format!("room={room}")));
        let long = "l".repeat(256);
        let channels = json!(["a", "", "b", "\u{e9}", long, "a", "c"]);
        let request = json!({ "channels": channels, "data": { "n": 1 } });
        let result = api.result("broadcast", &request);
        let responses = result["responses"].as_array().expect("a list");
        let outcome = |response: &Value| match response["result"]["offset"].as_u64() {
            Some(offset) => {
                assert!(response["result"]["epoch"].is_string(), "{response}");
                offset
            }
            None => error_of(response),
        };
        let outcomes: Vec<u64> = responses.iter().map(outcome).collect();
        assert_eq!(outcomes, [1, 107, 1, 107, 107, 2, 1]);
        for (member, count) in members.iter_mut().zip([2, 1, 1]) {
            for offset in 1..=count {
                assert_eq!(next(member), (offset, json!({ "n": 1 })));
            }
        }
    }
}

#[test]
fn a_broadcast_has_a_thousand_channels_at_most() {
    let daemon = Daemon::start(&["--workers", "3"]);
    let mut api = Api::connect(&daemon);
    let mut last = json_member(&daemon, "room=r999");
    let channels: Vec<String> = (0..1000).map(|number| format!("r{number}")).collect();
    let mut request = json!({ "channels": channels, "data": "all" });
    let result = api.result("broadcast", &request);
    let responses = result["responses"].as_array().expect("a list");
    assert_eq!(responses.len(), 1000);
    assert!(
        responses
            .iter()
            .all(|response| response["result"]["offset"] == 1)
    );
    assert_eq!(next(&mut last), (1, json!("all")));
    request["channels"]
        .as_array_mut()
        .expect("a list")
        .push(json!("one"));
    assert_eq!(api.error("broadcast", &request), 106);
    for channels in [json!([]), json!(null), json!("a"), json!([1])] {
        let request = json!({ "channels": channels, "data": 1 });
        assert_eq!(api.error("broadcast", &request), 107, "{channels}");
    }
    assert_nothing_came(&mut api, &mut last, "r999");
}

#[test]
fn everybody_gets_it_once_however_many_rooms_they_are_in() {
    for workers in WORKERS {
        let daemon = Daemon::start(&["--workers", workers]);
        let mut api = Api::connect(&daemon);
        let mut raw = Client::connect(&daemon, "/ws?room=a&room=b&room=c&user=al");
        let mut roomless = Client::connect(&daemon, "/ws?user=al");
        let mut gzip = Client::connect(&daemon, "/ws?room=a&gzip=1");
        let mut json = Client::connect(&daemon, "/ws?format=json&room=a&room=b");
        for _ in 0..2 {
            assert!(json.recv_json()["joined"].is_object());
        }
        let mut echo = Client::connect(&daemon, "/echo");
        let long = "y".repeat(300);
        for data in [json!("text"), json!({ "n": [1] }), json!(long)] {
            assert_eq!(
                api.result("publish_all", &json!({ "data": data })),
                json!({})
            );
            let text = data
                .as_str()
                .map_or_else(|| data.to_string(), ToOwned::to_owned);
            assert_eq!(raw.recv_text(), text);
            assert_eq!(roomless.recv_text(), text);
            match gzip.recv() {
                Message::Text(got) => assert_eq!(got, text),
                Message::Binary(got) => assert!(gunzip(&got) == text && text.len() >= 256),
                other => panic!("{other:?}"),
            }
            let publication = publication(&mut json);
            let members: Vec<_> = publication.as_object().expect("an object").keys().collect();
            assert_eq!(members, ["data", "time"], "{publication}");
            assert!(publication["time"].as_u64() > Some(1_700_000_000_000));
            assert_eq!(publication["data"], data);
        }
        api.result("publish_all", &json!({ "b64data": "/wA=" }));
        for client in [&mut raw, &mut roomless, &mut gzip] {
            assert_eq!(client.recv_binary(), [255, 0]);
        }
        assert_eq!(publication(&mut json)["b64"], "/wA=");
        // Nothing of it is in a room, and nothing came twice.
        assert_eq!(api.publish("a", &json!("after")), 1);
        for client in [&mut raw, &mut gzip] {
            assert_eq!(client.recv_text(), "after");
        }
        assert_eq!(next(&mut json), (1, json!("after")));
        echo.send_text("mine");
        assert_eq!(echo.recv_text(), "mine", "an echo is told nothing else");
    }
}

#[test]
fn everybody_may_be_nobody() {
    let daemon = Daemon::start(&[]);
    let mut api = Api::connect(&daemon);
    assert_eq!(api.result("publish_all", &json!({ "data": 1 })), json!({}));
    assert_eq!(api.error("publish_all", &json!({})), 107);
}

// --- Once, although asked twice -------------------------------------------------------------------

#[test]
fn a_call_repeated_with_its_key_is_answered_like_the_first() {
    for workers in WORKERS {
        let daemon = Daemon::start(&["--workers", workers]);
        let mut api = Api::connect(&daemon);
        let mut members = ["a", "b"].map(|room| json_member(&daemon, &format!("room={room}")));
        let to = |room: &str, key: &str, data: u64| json!({ "channel": room, "idempotency_key": key, "data": data });
        let first = api.result("publish", &to("a", "k", 1));
        assert_eq!(first["offset"], 1);
        assert_eq!(
            api.result("publish", &to("a", "k", 2)),
            first,
            "though it says something else"
        );
        let elsewhere = api.result("publish", &to("b", "k", 3));
        assert_eq!(elsewhere["offset"], 1);
        assert_eq!(api.result("publish", &to("a", "K", 4))["offset"], 2);
        let request = json!({ "channels": ["a", "b", "c"], "idempotency_key": "k", "data": 5 });
        let result = api.result("broadcast", &request);
        assert_eq!(result["responses"][0]["result"], first);
        assert_eq!(result["responses"][1]["result"], elsewhere);
        assert_eq!(result["responses"][2]["result"]["offset"], 1);
        let twice = json!([{ "publish": to("a", "l", 6) }, { "publish": to("a", "l", 7) }, { "publish": to("a", "k", 8) }]);
        for parallel in [false, true] {
            let answer = api.call("batch", &json!({ "commands": twice, "parallel": parallel }));
            let replies: Vec<_> = (0..3).map(|at| &answer["replies"][at]["publish"]).collect();
            assert_eq!(replies[0]["offset"], 3, "{answer}");
            assert_eq!(replies[0], replies[1]);
            assert_eq!(*replies[2], first);
        }
        assert_eq!(next(&mut members[0]), (1, json!(1)));
        assert_eq!(next(&mut members[0]), (2, json!(4)));
        assert_eq!(next(&mut members[0]), (3, json!(6)));
        assert_eq!(next(&mut members[1]), (1, json!(3)));
        assert_nothing_came(&mut api, &mut members[0], "a");
        assert_nothing_came(&mut api, &mut members[1], "b");
        let long = "k".repeat(256);
        assert_eq!(api.error("publish", &to("a", &long, 9)), 107);
        assert_eq!(api.result("publish", &to("a", &long[1..], 9))["offset"], 5);
    }
}

#[test]
fn of_many_at_once_with_one_key_one_is_carried_out() {
    let daemon = Daemon::start(&["--workers", "3", "--batch-interval", "20ms"]);
    let mut member = json_member(&daemon, "room=a");
    let barrier = Barrier::new(8);
    let answers: Vec<Value> = std::thread::scope(|scope| {
        let call = |number: u64| {
            let (daemon, barrier) = (&daemon, &barrier);
            scope.spawn(move || {
                let mut api = Api::connect(daemon);
                barrier.wait();
                let request = json!({ "channel": "a", "idempotency_key": "k", "data": number });
                api.result("publish", &request)
            })
        };
        let calls: Vec<_> = (0..8).map(call).collect();
        calls
            .into_iter()
            .map(|call| call.join().expect("an answer"))
            .collect()
    });
    assert!(
        answers.iter().all(|answer| *answer == answers[0]),
        "{answers:?}"
    );
    assert_eq!(next(&mut member).0, 1);
    assert_nothing_came(&mut Api::connect(&daemon), &mut member, "a");
}

#[test]
fn what_skips_history_is_numbered_and_delivered_and_not_kept() {
    for workers in WORKERS {
        let daemon = Daemon::start(&["--workers", workers]);
        let mut api = Api::connect(&daemon);
        let mut member = json_member(&daemon, "room=a");
        let mut epoch = Value::Null;
        for number in 1..=6_u64 {
            let is_skipped = matches!(number, 1 | 3 | 4 | 6);
            let request = json!({ "channel": "a", "data": number, "skip_history": is_skipped });
            let result = api.result("publish", &request);
            assert_eq!(result["offset"], number);
            epoch = result["epoch"].clone();
            assert_eq!(next(&mut member), (number, json!(number)));
        }
        let all = history(&mut api, &json!({ "channel": "a", "limit": 10 }));
        assert_eq!(all, (vec![2, 5], 6));
        let backwards = json!({ "channel": "a", "limit": 10, "reverse": true });
        assert_eq!(history(&mut api, &backwards).0, [5, 2]);
        for (after, kept) in [
            (0, vec![2, 5]),
            (1, vec![2, 5]),
            (2, vec![5]),
            (3, vec![5]),
            (5, vec![]),
            (6, vec![]),
        ] {
            let since = json!({ "offset": after, "epoch": epoch });
            let request = json!({ "channel": "a", "limit": 10, "since": since });
            assert_eq!(
                history(&mut api, &request),
                (kept.clone(), 6),
                "after {after}"
            );
            let epoch = epoch.as_str().expect("a text");
            let target = format!("/ws?format=json&room=a&since={epoch}.{after}");
            let mut back = Client::connect(&daemon, &target);
            let joined = &back.recv_json()["joined"];
            assert_eq!(joined["recovered"], true, "after {after}: {joined}");
            assert_eq!((&joined["lost"], &joined["offset"]), (&json!(0), &json!(6)));
            for offset in kept {
                assert_eq!(next(&mut back), (offset, json!(offset)));
            }
            let mut raw =
                Client::connect(&daemon, &format!("/ws?room=a&since={epoch}.{after}&last=0"));
            raw.send_ping("still open");
            loop {
                match raw.recv() {
                    Message::Pong(_) => break,
                    Message::Text(_) => {}
                    other => panic!("{other:?}"),
                }
            }
        }
    }
}

// --- Order ----------------------------------------------------------------------------------------

/// What each publisher of the ledger publishes.
const EACH: u64 = 120;

#[test]
fn back_ends_and_members_share_one_order() {
    for (workers, interval) in [("0", "0"), ("1", "0"), ("3", "0"), ("3", "5ms")] {
        let args = [
            "--workers",
            workers,
            "--batch-interval",
            interval,
            "--history-size",
            "1000",
        ];
        let daemon = Daemon::start(&args);
        let mut members = [0, 1].map(|_| json_member(&daemon, "room=a"));
        let all = 7 * EACH;
        let positions: BTreeMap<u64, String> = std::thread::scope(|scope| {
            let daemon = &daemon;
            for name in 0..3 {
                scope.spawn(move || {
                    let mut publisher = Client::connect(daemon, "/ws?room=a&echo=0");
                    let text = |number| Frame::text(&format!("ws{name} {number}")).bytes();
                    publisher.send_bytes((0..EACH).flat_map(text).collect::<Vec<_>>());
                    publisher.close();
                });
            }
            let calling = |name: u64| {
                move || -> Vec<(u64, String)> {
                    let mut api = Api::connect(daemon);
                    let data = |number| format!("api{name} {number}");
                    if name > 0 {
                        // One after the other.
                        let publish =
                            |number| (api.publish("a", &json!(data(number))), data(number));
                        return (0..EACH).map(publish).collect();
                    }
                    // Without waiting for answers, and by twos.
                    for number in (0..2 * EACH).step_by(2) {
                        let command = |at| json!({ "publish": { "channel": "a", "data": data(number + at) } });
                        let commands = json!({ "commands": [command(0), command(1)] });
                        api.send("batch", commands.to_string());
                    }
                    let mut positions = Vec::new();
                    for number in (0..2 * EACH).step_by(2) {
                        let answer = api.answer();
                        for at in 0..2 {
                            let reply = &answer["replies"][at as usize]["publish"];
                            let offset = reply["offset"].as_u64().expect("an offset");
                            positions.push((offset, data(number + at)));
                        }
                    }
                    positions
                }
            };
            let callers: Vec<_> = (0..3).map(|name| scope.spawn(calling(name))).collect();
            let told = callers
                .into_iter()
                .flat_map(|caller| caller.join().expect("no panic"));
            told.collect()
        });
        assert_eq!(
            positions.len() as u64,
            4 * EACH,
            "each answer has a place of its own"
        );
        let seen = members.each_mut().map(|member| {
            let one = |offset| {
                let (got, data) = next(member);
                assert_eq!(got, offset, "no gap and nothing twice");
                data.as_str().expect("text").to_owned()
            };
            (1..=all).map(one).collect::<Vec<String>>()
        });
        assert!(seen[0] == seen[1], "members differ");
        for (offset, data) in &positions {
            assert_eq!(seen[0][*offset as usize - 1], *data);
        }
        let mut newest: BTreeMap<&str, i64> = BTreeMap::new();
        for data in &seen[0] {
            let (name, number) = data.split_once(' ').expect("two words");
            let number: i64 = number.parse().expect("a number");
            let before = newest.insert(name, number).unwrap_or(-1);
            assert_eq!(number, before + 1, "{name} keeps its order");
        }
        let mut api = Api::connect(&daemon);
        let result = api.result("history", &json!({ "channel": "a", "limit": -1 }));
        let publications = result["publications"].as_array().expect("a list");
        let kept: Vec<&str> = publications
            .iter()
            .filter_map(|one| one["data"].as_str())
            .collect();
        assert!(kept == seen[0], "history differs");
        assert_eq!(result["offset"], all);
    }
}

#[test]
fn an_answer_comes_behind_the_interval_that_gathers() {
    let daemon = Daemon::start(&["--batch-interval", "300ms"]);
    let mut api = Api::connect(&daemon);
    let mut member = json_member(&daemon, "room=a");
    for number in 1..=3 {
        api.send(
            "publish",
            json!({ "channel": "a", "data": number }).to_string(),
        );
    }
    // Nothing is acknowledged before it is on its way to the member.
    api.wire.expect_silence(Duration::from_millis(100));
    assert_eq!(next(&mut member).0, 1);
    assert_eq!(api.answer()["result"]["offset"], 1);
    for number in 2..=3 {
        assert_eq!(next(&mut member).0, number);
        assert_eq!(api.answer()["result"]["offset"], number);
    }
}
