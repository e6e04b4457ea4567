//! The Centrifugo protocol as it travels: what a client sees from its first frame to its last, which
//! commands share a frame, and what publications look like on either side.

mod harness;

use std::collections::BTreeMap;
use std::io::Read as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use harness::{
    Api, Client, Daemon, Message, SDK_PATH, Sdk, SecretFile, json_member, lines_of, publication,
    signed_token, wait_until,
};
use serde_json::{Value, json};

/// Every way of running the workers: on the loop, one, several.
const WORKERS: [&str; 3] = ["0", "1", "3"];

const SECRET: &str = "s3cret-of-the-tests-is-32-bytes!";

// --- From the first frame to the last -------------------------------------------------------------

/// The next line that is no ping; pings are answered and counted.
fn line(sdk: &mut Sdk, pings: &mut u32) -> String {
    loop {
        let line = sdk.fresh_text();
        if line != "{}" {
            return line;
        }
        *pings += 1;
        sdk.send_text("{}");
    }
}

#[test]
fn a_client_connects_publishes_drops_and_comes_back() {
    let file = SecretFile::new(SECRET);
    let daemon = Daemon::start(&[
        "--token-secret-file",
        file.path(),
        "--ping-interval",
        "1s",
        "--pong-timeout",
        "9s",
        "--duplicate-login",
        "replace",
    ]);
    let token = signed_token(SECRET, &json!({ "sub": "42", "info": { "name": "Al" } }));
    let version = env!("CARGO_PKG_VERSION");
    let mut api = Api::connect(&daemon);
    let result = api.result("publish", &json!({ "channel": "room:7", "data": 0 }));
    let epoch = result["epoch"].as_str().expect("an epoch").to_owned();
    let personal = api.result("history", &json!({ "channel": "#42" }));
    assert_eq!(personal["offset"], 0);

    let mut pings = 0;
    let mut sdk = Sdk::open(&daemon);
    sdk.send_text(&format!(
        "{}\n{}",
        json!({ "connect": { "token": token, "name": "js" }, "id": 1 }),
        json!({ "subscribe": { "channel": "room:7", "flag": 1 }, "id": 2 }),
    ));
    let connected = line(&mut sdk, &mut pings);
    let reply: Value = serde_json::from_str(&connected).expect("JSON");
    let client = reply["connect"]["client"].as_str().expect("an id");
    let personal_epoch = reply["connect"]["subs"]["#42"]["epoch"].as_str();
    let personal_epoch = personal_epoch.expect("an epoch");
    assert_eq!(
        connected,
        format!(
            "{{\"id\":1,\"connect\":{{\"client\":\"{client}\",\"version\":\"{version}\",\
             \"subs\":{{\"#42\":{{\"recoverable\":true,\"epoch\":\"{personal_epoch}\",\
             \"positioned\":true}}}},\"ping\":1,\"pong\":true}}}}"
        )
    );
    assert_eq!(
        line(&mut sdk, &mut pings),
        format!(
            "{{\"id\":2,\"subscribe\":{{\"recoverable\":true,\"epoch\":\"{epoch}\",\"offset\":1,\
             \"positioned\":true}}}}"
        )
    );
    api.publish("room:7", &json!({ "t": "hi" }));
    assert_eq!(
        line(&mut sdk, &mut pings),
        r#"{"push":{"channel":"room:7","pub":{"data":{"t":"hi"},"offset":2}}}"#
    );
    if pings == 0 {
        assert_eq!(sdk.fresh_text(), "{}");
        sdk.send_text("{}");
    }
    sdk.send_text(r#"{"publish":{"channel":"room:7","data":{"t":"yo"}},"id":3}"#);
    let mut both = [(); 2].map(|()| line(&mut sdk, &mut pings));
    both.sort();
    let own = format!(
        "{{\"push\":{{\"channel\":\"room:7\",\"pub\":{{\"data\":{{\"t\":\"yo\"}},\"offset\":3,\
         \"info\":{{\"user\":\"42\",\"client\":\"{client}\",\
         \"conn_info\":{{\"name\":\"Al\"}}}}}}}}}}"
    );
    assert_eq!(both, [r#"{"id":3,"publish":{}}"#.to_owned(), own]);
    sdk.wire.reset();

    for data in ["four", "five"] {
        api.publish("room:7", &json!(data));
    }
    let mut sdk = Sdk::open(&daemon);
    sdk.send_text(&format!(
        "{}\n{}",
        json!({ "connect": { "token": token, "name": "js" }, "id": 1 }),
        json!({ "subscribe": { "channel": "room:7", "flag": 1, "recover": true, "offset": 3,
                "epoch": epoch }, "id": 2 }),
    ));
    let reply: Value = serde_json::from_str(&line(&mut sdk, &mut pings)).expect("JSON");
    assert_ne!(reply["connect"]["client"], client, "an id is used once");
    assert_eq!(
        line(&mut sdk, &mut pings),
        format!(
            "{{\"id\":2,\"subscribe\":{{\"recoverable\":true,\"epoch\":\"{epoch}\",\"offset\":3,\
             \"positioned\":true,\"recovered\":true,\"was_recovering\":true,\"publications\":\
             [{{\"data\":\"four\",\"offset\":4}},{{\"data\":\"five\",\"offset\":5}}]}}}}"
        )
    );
    // The same user connects elsewhere.
    let mut other = Sdk::with_token(&daemon, &token);
    loop {
        match sdk.wire.recv() {
            Message::Text(ping) => assert_eq!(ping, "{}"),
            close => {
                let expected = Message::Close(Some(3504), "connection limit".into());
                assert_eq!(close, expected);
                break;
            }
        }
    }
    other.subscribe("room:7");
    daemon.wait_closes("connection_limit", 1.0);
}

#[test]
fn commands_of_the_first_frame_wait_for_connect() {
    for workers in WORKERS {
        let daemon = Daemon::start(&["--workers", workers]);
        let target = format!("{SDK_PATH}?user=al");
        let mut sdk = Sdk::of(Client::connect(&daemon, &target));
        let mut lines = vec![sdk.line("connect", &json!({}))];
        for n in 0..100 {
            lines.push(sdk.line("subscribe", &json!({ "channel": format!("r{n}") })));
        }
        lines.push(sdk.line("publish", &json!({ "channel": "r0", "data": "first" })));
        lines.push(sdk.line("presence_stats", &json!({ "channel": "r0" })));
        lines.push(sdk.line("unsubscribe", &json!({ "channel": "r99" })));
        sdk.send_text(&lines.join("\n"));
        let connected = sdk.next();
        assert_eq!(connected["id"], 1, "{connected}");
        // Whatever else may change places, a room's publications come behind its subscription.
        let mut is_answered = [false; 105];
        let mut own = None;
        while own.is_none() || is_answered[2..].contains(&false) {
            let line = sdk.next();
            let Some(id) = line["id"].as_u64() else {
                assert!(
                    is_answered[2],
                    "a publication before its subscription: {line}"
                );
                assert_eq!(own.replace(line["push"]["pub"]["data"].clone()), None);
                continue;
            };
            let id = id as usize;
            match id {
                2..=101 => assert_eq!(line["subscribe"]["recoverable"], true, "{line}"),
                102 => assert_eq!(line, json!({ "id": 102, "publish": {} })),
                103 => {
                    let stats = json!({ "num_clients": 1, "num_users": 1 });
                    assert_eq!(line, json!({ "id": 103, "presence_stats": stats }));
                }
                _ => assert_eq!(line, json!({ "id": 104, "unsubscribe": {} })),
            }
            assert!(!std::mem::replace(&mut is_answered[id], true), "{line}");
        }
        assert_eq!(own, Some(json!("first")));
        daemon.wait_members(100);
    }
}

#[test]
fn replies_share_frames_and_no_line_is_empty() {
    let daemon = Daemon::start(&[]);
    let mut sdk = Sdk::connected(&daemon);
    let commands: Vec<String> = (0..500)
        .map(|_| sdk.line("unsubscribe", &json!({ "channel": "nowhere" })))
        .collect();
    // A line feed at the end is the end of the last line.
    sdk.send_text(&format!("{}\n", commands.join("\n")));
    let (mut id, mut frames) = (1, 0);
    while id < 501 {
        let lines = lines_of(&sdk.wire.recv_text());
        frames += 1;
        assert!(lines.len() <= 64, "{} replies in a frame", lines.len());
        for line in lines {
            id += 1;
            assert_eq!(line, format!(r#"{{"id":{id},"unsubscribe":{{}}}}"#));
        }
    }
    assert!(frames < 20, "{frames} frames");
    // Binary frames hold commands as well, and so do frames in fragments.
    sdk.wire
        .send_binary(r#"{"id":7,"unsubscribe":{"channel":"x"}}"#);
    assert_eq!(sdk.next(), json!({ "id": 7, "unsubscribe": {} }));
    sdk.wire
        .send_frame(false, 0, 1, true, br#"{"id":8,"unsubsc"#);
    sdk.wire
        .send_frame(true, 0, 0, true, br#"ribe":{"channel":"x"}}"#);
    assert_eq!(sdk.next(), json!({ "id": 8, "unsubscribe": {} }));
}

#[test]
fn what_is_not_known_is_ignored_and_ids_are_those_of_the_client() {
    let daemon = Daemon::start(&[]);
    let mut sdk = Sdk::open(&daemon);
    sdk.send_text(
        r#"{"id":4294967295,"connect":{"name":"js","version":"1","headers":{"a":"b"},"flag":7,"profile":1,"data":[1]},"dict":{}}"#,
    );
    let reply = sdk.next();
    assert_eq!(reply["id"], 4_294_967_295_u32);
    assert_eq!(reply["connect"]["ping"], 54);
    assert_eq!(reply["connect"]["pong"], true);
    assert_eq!(reply["connect"].get("subs"), None, "{reply}");
    sdk.send_text(
        r#"{"subscribe":{"channel":"r","positioned":true,"recoverable":true,"flag":1,"delta":"fossil","data":{"x":1},"new":[]},"id":2}"#,
    );
    let reply = sdk.next();
    let epoch = &reply["subscribe"]["epoch"];
    let result = json!({ "recoverable": true, "positioned": true, "epoch": epoch });
    assert_eq!(reply, json!({ "id": 2, "subscribe": result }));
    // Of two methods in one line the first in the server's order is meant.
    sdk.send_text(r#"{"rpc":{},"unsubscribe":{"channel":"r"},"id":3}"#);
    assert_eq!(sdk.next(), json!({ "id": 3, "unsubscribe": {} }));
}

#[test]
fn without_history_there_is_no_position() {
    let daemon = Daemon::start(&["--history-size", "0"]);
    let mut sdk = Sdk::connected(&daemon);
    assert_eq!(sdk.subscribe("r"), json!({}));
    assert_eq!(sdk.resume("s", "abc", 7), json!({}));
    Api::connect(&daemon).result("publish", &json!({ "channel": "r", "data": 1 }));
    // Numbered it is all the same.
    sdk.expect_publication("r", &json!({ "data": 1, "offset": 1 }));
}

#[test]
fn who_leaves_a_room_hears_nothing_more_of_it() {
    let daemon = Daemon::start(&[]);
    let mut api = Api::connect(&daemon);
    let mut sdk = Sdk::member(&daemon, "r");
    api.publish("r", &json!(1));
    sdk.expect_publication("r", &json!({ "data": 1, "offset": 1 }));
    assert_eq!(
        sdk.ask("unsubscribe", &json!({ "channel": "r" })),
        json!({})
    );
    // Not being subscribed is no error, and neither is a name that no room can have.
    for channel in ["r", "", "\u{e9}", &"x".repeat(300)] {
        let result = sdk.ask("unsubscribe", &json!({ "channel": channel }));
        assert_eq!(result, json!({}), "{channel}");
    }
    daemon.wait_members(0);
    api.publish("r", &json!(2));
    assert_eq!(sdk.subscribe("r")["offset"], 2);
    api.publish("r", &json!(3));
    sdk.expect_publication("r", &json!({ "data": 3, "offset": 3 }));
}

#[test]
fn rooms_are_left_and_joined_again_in_one_frame() {
    for workers in WORKERS {
        let daemon = Daemon::start(&["--workers", workers]);
        let mut api = Api::connect(&daemon);
        api.publish("r", &json!(1));
        let mut sdk = Sdk::connected(&daemon);
        let request = json!({ "channel": "r", "recover": true });
        let mut lines = Vec::new();
        for _ in 0..100 {
            lines.push(sdk.line("subscribe", &request));
            lines.push(sdk.line("unsubscribe", &request));
        }
        lines.push(sdk.line("subscribe", &request));
        sdk.send_text(&lines.join("\n"));
        for id in (2..202).step_by(2) {
            let reply = sdk.next();
            assert_eq!(reply["id"], id, "{reply}");
            let list = json!([{ "data": 1, "offset": 1 }]);
            assert_eq!(reply["subscribe"]["publications"], list);
            assert_eq!(sdk.next(), json!({ "id": id + 1, "unsubscribe": {} }));
        }
        assert_eq!(sdk.next()["subscribe"]["recovered"], true);
        daemon.wait_members(1);
        api.publish("r", &json!(2));
        sdk.expect_publication("r", &json!({ "data": 2, "offset": 2 }));
        assert_eq!(daemon.metric("roomcast_rooms"), 1.0);
    }
}

// --- What is published ----------------------------------------------------------------------------

/// Members of one room in every form.
struct Everybody {
    raw: Client,
    raw_gzip: Client,
    json: Client,
    json_gzip: Client,
    sdk: Sdk,
    offset: u64,
}

/// A publication in every form.
struct Seen {
    raw: Message,
    json: Value,
    sdk: Value,
}

fn gunzip(message: Message) -> Vec<u8> {
    let Message::Binary(bytes) = message else {
        panic!("not binary: {message:?}");
    };
    let mut out = Vec::new();
    let mut decoder = flate2::read::GzDecoder::new(&bytes[..]);
    decoder.read_to_end(&mut out).expect("a whole gzip member");
    out
}

impl Everybody {
    /// Joins where `others` are members already, or are about to be.
    fn join(daemon: &Daemon, others: u32) -> Self {
        let everybody = Self {
            raw: Client::connect(daemon, "/ws?room=r"),
            raw_gzip: Client::connect(daemon, "/ws?room=r&gzip=1"),
            json: json_member(daemon, "room=r"),
            json_gzip: json_member(daemon, "room=r&gzip=1"),
            sdk: Sdk::member(daemon, "r"),
            offset: 0,
        };
        daemon.wait_members(5 + others);
        everybody
    }

    /// Takes the next publication from all of them.
    fn next(&mut self, is_packed: bool) -> Seen {
        self.offset += 1;
        let raw = self.raw.recv();
        let json = publication(&mut self.json);
        let (raw_gzip, json_gzip) = (self.raw_gzip.recv(), self.json_gzip.recv());
        if is_packed {
            let plain = match &raw {
                Message::Text(text) => text.clone().into_bytes(),
                Message::Binary(bytes) => bytes.clone(),
                other => panic!("{other:?}"),
            };
            assert_eq!(gunzip(raw_gzip), plain);
            let letter: Value = serde_json::from_slice(&gunzip(json_gzip)).expect("JSON");
            assert_eq!(letter["publication"], json);
        } else {
            assert_eq!(raw_gzip, raw);
            let Message::Text(letter) = json_gzip else {
                panic!("{json_gzip:?}");
            };
            let letter: Value = serde_json::from_str(&letter).expect("JSON");
            assert_eq!(letter["publication"], json);
        }
        let sdk = self.sdk.publication("r");
        assert_eq!(
            (&json["offset"], &sdk["offset"]),
            (&json!(self.offset), &json!(self.offset))
        );
        Seen { raw, json, sdk }
    }
}

#[test]
fn every_payload_reaches_every_form() {
    let daemon = Daemon::start(&["--gzip-min-size", "100"]);
    let mut api = Api::connect(&daemon);
    let mut raw = Client::connect(&daemon, "/ws?room=r&echo=0");
    let mut sdk = Sdk::connected(&daemon);
    let mut all = Everybody::join(&daemon, 1);
    // Raw text.
    for text in [
        "",
        "hi",
        "{\"not\":\"parsed\"}",
        "two\nlines \u{1f600} \\ \" \u{0}",
    ] {
        raw.send_text(text);
        let seen = all.next(false);
        assert_eq!(seen.raw, Message::text(text));
        assert_eq!(seen.json["data"], text);
        assert_eq!(seen.sdk["data"], text);
        assert_eq!(seen.sdk["info"]["user"], "", "{}", seen.sdk);
    }
    // Raw bytes.
    for bytes in [&b""[..], &[0, 0xff, 0xfe, b'\n']] {
        raw.send_binary(bytes);
        let seen = all.next(false);
        assert_eq!(seen.raw, Message::Binary(bytes.to_vec()));
        let b64 = STANDARD.encode(bytes);
        assert_eq!(seen.json["b64"], b64);
        assert_eq!(seen.sdk["data"], json!({ "b64": b64 }));
    }
    // A back end's: text is text, and every other value itself.
    for data in [
        json!("text"),
        json!({ "a": [1, null] }),
        json!(7),
        json!(null),
        json!(false),
    ] {
        api.publish("r", &data);
        let seen = all.next(false);
        let text = data
            .as_str()
            .map_or_else(|| data.to_string(), str::to_owned);
        assert_eq!(seen.raw, Message::Text(text));
        assert_eq!(seen.json["data"], data);
        assert_eq!(seen.sdk, json!({ "data": data, "offset": all.offset }));
    }
    // An SDK's: the same, and digits stay as they were written.
    for (written, text) in [
        (r#""text \u00e9 \n""#, "text \u{e9} \n"),
        (r#"{"b": 1, "a": "x y"}"#, r#"{"b":1,"a":"x y"}"#),
        ("[1, 2.50,1e3 ]", "[1,2.50,1e3]"),
        ("12345678901234567890123", "12345678901234567890123"),
        ("null", "null"),
        ("true", "true"),
        (r#""""#, ""),
    ] {
        sdk.send_text(&format!(
            r#"{{"id":9,"publish":{{"channel":"r","data":{written}}}}}"#
        ));
        assert_eq!(sdk.next(), json!({ "id": 9, "publish": {} }));
        let seen = all.next(false);
        assert_eq!(seen.raw, Message::text(text), "{written}");
        let value: Value = serde_json::from_str(written).expect("JSON");
        assert_eq!(seen.json["data"], value, "{written}");
        let info = json!({ "user": "", "client": sdk.client });
        let expected = json!({ "data": value, "offset": all.offset, "info": info });
        assert_eq!(seen.sdk, expected, "{written}");
    }
    // Large ones are compressed for those who want it, whoever publishes them.
    let large = "x".repeat(5000);
    raw.send_text(&large);
    assert_eq!(all.next(true).sdk["data"], large);
    raw.send_binary(vec![0xff; 5000]);
    assert_eq!(
        all.next(true).sdk["data"]["b64"],
        STANDARD.encode(vec![0xff; 5000])
    );
    api.publish("r", &json!([large]));
    assert_eq!(all.next(true).sdk["data"], json!([large]));
    sdk.ask(
        "publish",
        &json!({ "channel": "r", "data": { "large": large } }),
    );
    assert_eq!(all.next(true).sdk["data"], json!({ "large": large }));
}

#[test]
fn publishers_of_every_kind_have_one_order() {
    for workers in WORKERS {
        let daemon = Daemon::start(&["--workers", workers]);
        let mut raw = Client::connect(&daemon, "/ws?room=r&echo=0");
        let mut sdk = Sdk::connected(&daemon);
        let mut all = Everybody::join(&daemon, 1);
        let mut api = Api::connect(&daemon);
        const EACH: u64 = 200;
        std::thread::scope(|scope| {
            scope.spawn(|| (0..EACH).for_each(|n| raw.send_text(&format!("raw {n}"))));
            scope.spawn(|| {
                for n in 0..EACH {
                    api.publish("r", &json!(format!("api {n}")));
                }
            });
            scope.spawn(|| {
                let mut ids = Vec::new();
                for n in 0..EACH {
                    let data = format!("sdk {n}");
                    ids.push(sdk.send("publish", &json!({ "channel": "r", "data": data })));
                }
                for id in ids {
                    assert_eq!(sdk.next(), json!({ "id": id, "publish": {} }));
                }
            });
            let mut next: BTreeMap<String, u64> = BTreeMap::new();
            for _ in 0..3 * EACH {
                let seen = all.next(false);
                let Message::Text(text) = seen.raw else {
                    panic!("{:?}", seen.raw);
                };
                assert_eq!(
                    (&seen.json["data"], &seen.sdk["data"]),
                    (&json!(text), &json!(text))
                );
                let (who, n) = text.split_once(' ').expect("two words");
                let expected = next.entry(who.to_owned()).or_default();
                assert_eq!(n, expected.to_string(), "{text}");
                *expected += 1;
            }
            assert_eq!(next.values().copied().collect::<Vec<_>>(), [EACH; 3]);
        });
    }
}

// --- Other endpoints stay what they are -----------------------------------------------------------

#[test]
fn the_upgrade_is_that_of_every_endpoint() {
    let daemon = Daemon::start(&["--allowed-origin", "https://a.example"]);
    let status = |target: &str, origin: Option<&str>| {
        let mut dial = harness::Dial::new(daemon.addr(), target);
        if let Some(origin) = origin {
            dial = dial.header("Origin", origin);
        }
        dial.try_connect()
            .map_or_else(|refusal| refusal.status, |_| 101)
    };
    assert_eq!(status(SDK_PATH, None), 101);
    assert_eq!(status(SDK_PATH, Some("https://a.example")), 101);
    assert_eq!(status(SDK_PATH, Some("https://b.example")), 403);
    assert_eq!(status("/connection/websocket?user=", None), 400);
    assert_eq!(status("/connection/websocket?user=%00", None), 400);
    assert_eq!(status("/connection/websocket/", None), 404);
    assert_eq!(daemon.get(SDK_PATH).status, 426);
    daemon.wait_metric("roomcast_members", |now| now == 0.0);
    wait_until("both are gone", || {
        daemon.metric("roomcast_websockets") == 0.0
    });
}
