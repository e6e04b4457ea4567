//! Tokens in the Centrifugo protocol: who is let in and as whom, what a subscription token opens, how
//! both are renewed, and what ends when they are not.

mod harness;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use harness::{Api, Client, Daemon, Message, SDK_PATH, Sdk, SecretFile, signed_token};
use serde_json::{Value, json};

const SECRET: &str = "s3cret-of-the-tests-is-32-bytes!";

/// A daemon that wants tokens, and the file with its secret.
fn start(args: &[&str]) -> (Daemon, SecretFile) {
    let file = SecretFile::new(SECRET);
    let daemon = Daemon::start(&[&["--token-secret-file", file.path()], args].concat());
    (daemon, file)
}

fn token(claims: &Value) -> String {
    signed_token(SECRET, claims)
}

fn unix_s() -> u64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH);
    elapsed.expect("after 1970").as_secs()
}

fn login(daemon: &Daemon, claims: &Value) -> Sdk {
    Sdk::with_token(daemon, &token(claims))
}

/// Asserts that the next token is due in `about` so many seconds, or never.
fn assert_ttl(result: &Value, about: Option<u64>) {
    match about {
        None => {
            assert_eq!(result.get("expires"), None, "{result}");
            assert_eq!(result.get("ttl"), None, "{result}");
        }
        Some(about) => {
            assert_eq!(result["expires"], true, "{result}");
            let ttl = result["ttl"].as_u64().expect("seconds");
            // Some of it is over when the answer is made.
            assert!(
                (about.saturating_sub(9)..=about).contains(&ttl),
                "{result}, {about}"
            );
        }
    }
}

// --- Coming in ------------------------------------------------------------------------------------

#[test]
fn bad_tokens_end_the_connection() {
    let (daemon, _file) = start(&["--max-rooms-per-connection", "2"]);
    let valid = token(&json!({ "sub": "al" }));
    let cut = &valid[..valid.len() - 1];
    let stranger = signed_token(
        "another secret of at least 32 bytes",
        &json!({ "sub": "al" }),
    );
    let of_room = token(&json!({ "sub": "al", "channel": "r" }));
    let no_user = token(&json!({ "exp": unix_s() + 60 }));
    let no_time = token(&json!({ "sub": "al", "exp": "soon" }));
    let nobody = token(&json!({ "sub": "" }));
    let many = token(&json!({ "sub": "al", "channels": ["a", "b", "c"] }));
    let nobody_late = token(&json!({ "sub": "", "exp": 1, "channel": "r" }));
    let (invalid, bad, denied) = ("invalid token", "bad request", "permission denied");
    for (what, request, code, reason) in [
        ("no token", json!({}), 3501, bad),
        ("an empty one", json!({ "token": "" }), 3501, bad),
        ("null", json!({ "token": null }), 3501, bad),
        ("words", json!({ "token": "x" }), 3500, invalid),
        ("a byte less", json!({ "token": cut }), 3500, invalid),
        (
            "another secret",
            json!({ "token": stranger }),
            3500,
            invalid,
        ),
        (
            "for a subscription",
            json!({ "token": of_room }),
            3500,
            invalid,
        ),
        ("for no user", json!({ "token": no_user }), 3500, invalid),
        (
            "a time that is none",
            json!({ "token": no_time }),
            3500,
            invalid,
        ),
        ("an empty user", json!({ "token": nobody }), 3507, denied),
        ("all of it", json!({ "token": nobody_late }), 3500, invalid),
        (
            "too many rooms",
            json!({ "token": many }),
            3505,
            "channel limit",
        ),
    ] {
        eprintln!("{what}");
        // Who it says it is in the address means nothing.
        let target = format!("{SDK_PATH}?user=al&token={valid}");
        let mut sdk = Sdk::of(Client::connect(&daemon, &target));
        sdk.send("connect", &request);
        sdk.expect_close(code, reason);
    }
    daemon.wait_metric("roomcast_users", |now| now == 0.0);
    daemon.wait_members(0);
}

#[test]
fn tokens_out_of_their_time_are_answered() {
    let (daemon, _file) = start(&[]);
    let now = unix_s();
    for (claims, code) in [
        (json!({ "sub": "al", "exp": now - 1 }), 109),
        (json!({ "sub": "al", "exp": now }), 109),
        (json!({ "sub": "al", "nbf": now + 100 }), 109),
        (json!({ "sub": "al", "expire_at": now - 1 }), 110),
        (
            json!({ "sub": "al", "exp": now + 100, "expire_at": now - 1 }),
            110,
        ),
        (json!({ "sub": "al", "exp": now - 1, "expire_at": 0 }), 109),
        (json!({ "sub": "", "exp": now - 1 }), 109),
    ] {
        let mut sdk = Sdk::open(&daemon);
        let connect = json!({ "token": token(&claims) });
        assert_eq!(sdk.error("connect", &connect), code, "{claims}");
    }
    for (claims, ttl_s) in [
        (json!({ "sub": "al" }), None),
        (json!({ "sub": "al", "exp": now + 100 }), Some(100)),
        (
            json!({ "sub": "al", "exp": now + 100, "expire_at": now + 50 }),
            Some(50),
        ),
        (
            json!({ "sub": "al", "exp": now + 100, "expire_at": 0 }),
            None,
        ),
        (
            json!({ "sub": "al", "exp": u64::MAX }),
            Some(u64::from(u32::MAX)),
        ),
        (
            json!({ "sub": "al", "nbf": now - 1, "iat": now, "jti": "1", "aud": "x" }),
            None,
        ),
    ] {
        let mut sdk = Sdk::open(&daemon);
        let result = sdk.connect(&json!({ "token": token(&claims) }));
        assert_ttl(&result, ttl_s);
    }
}

#[test]
fn a_token_opens_what_it_lists() {
    let (daemon, _file) = start(&[]);
    let claims = json!({ "sub": "42", "rooms": ["a*", "$p*"], "publish": ["a1"] });
    let mut sdk = login(&daemon, &claims);
    for (room, may_join, may_publish) in [
        ("a1", true, true),
        ("a2", true, false),
        ("$p1", true, false),
        ("$q", false, false),
        ("b", false, false),
        ("#41,42", true, false),
        ("#41,43", false, false),
    ] {
        let request = json!({ "channel": room, "data": 1, "limit": 1 });
        let mut code = |method: &str| {
            let id = sdk.send(method, &request);
            loop {
                let reply = sdk.next();
                if reply["id"] == id {
                    break reply["error"]["code"].as_u64();
                }
                assert!(reply["push"].is_object(), "{reply}");
            }
        };
        let refusal = |may: bool| (!may).then_some(103);
        for method in ["subscribe", "presence", "presence_stats", "history"] {
            assert_eq!(code(method), refusal(may_join), "{method} {room}");
        }
        assert_eq!(code("publish"), refusal(may_publish), "publish {room}");
    }
}

// --- Subscription tokens --------------------------------------------------------------------------

#[test]
fn a_subscription_token_opens_one_room_to_one_user() {
    let (daemon, _file) = start(&[]);
    let now = unix_s();
    let claims = json!({ "sub": "al", "rooms": ["open"] });
    let mut sdk = login(&daemon, &claims);
    let request = |claims: &Value| json!({ "channel": "$r", "token": token(claims) });
    assert_eq!(sdk.error("subscribe", &json!({ "channel": "$r" })), 103);
    assert_eq!(
        sdk.error("subscribe", &json!({ "channel": "$r", "token": "" })),
        103
    );
    // What a token cannot open is refused, and the connection goes on.
    for (claims, code) in [
        (json!({ "sub": "al", "channel": "$r", "exp": now - 1 }), 109),
        (
            json!({ "sub": "al", "channel": "$r", "nbf": now + 100 }),
            109,
        ),
        (
            json!({ "sub": "al", "channel": "$r", "expire_at": now - 1 }),
            109,
        ),
        (json!({ "sub": "bo", "channel": "$r", "exp": now - 1 }), 109),
        (json!({ "sub": "al" }), 103),
        (json!({ "sub": "al", "channel": "" }), 103),
        (json!({ "channel": "$r" }), 103),
    ] {
        assert_eq!(sdk.error("subscribe", &request(&claims)), code, "{claims}");
    }
    let bad = json!({ "channel": "$r", "token": "x" });
    assert_eq!(sdk.error("subscribe", &bad), 103);
    let stranger = signed_token(
        "another secret of at least 32 bytes",
        &json!({ "sub": "al", "channel": "$r" }),
    );
    assert_eq!(
        sdk.error("subscribe", &json!({ "channel": "$r", "token": stranger })),
        103
    );
    // One that is good, for something else.
    for claims in [
        json!({ "sub": "al", "channel": "$s" }),
        json!({ "sub": "bo", "channel": "$r" }),
        json!({ "sub": "", "channel": "$r" }),
        json!({ "sub": "al", "channel": "$r", "client": "somebody else" }),
    ] {
        let mut sdk = login(&daemon, &json!({ "sub": "al" }));
        sdk.send("subscribe", &request(&claims));
        sdk.expect_close(3500, "invalid token");
    }
    // One that is right.
    let client = sdk.client.clone();
    for (more, data, ttl_s) in [
        (json!({}), None, None),
        (json!({ "client": client }), None, None),
        (json!({ "client": "", "info": { "i": 1 } }), None, None),
        (
            json!({ "data": { "a": "b\n c" } }),
            Some(json!({ "a": "b\n c" })),
            None,
        ),
        (json!({ "b64data": "WzEsMl0=" }), Some(json!([1, 2])), None),
        (json!({ "exp": now + 100 }), None, Some(100)),
        (
            json!({ "exp": now + 100, "expire_at": now + 50 }),
            None,
            Some(50),
        ),
        (json!({ "exp": now + 100, "expire_at": 0 }), None, None),
    ] {
        let mut claims = json!({ "sub": "al", "channel": "$r" });
        let all = claims.as_object_mut().expect("claims");
        all.extend(more.as_object().expect("claims").clone());
        let result = sdk.ask("subscribe", &request(&claims));
        assert_eq!(result["recoverable"], true, "{claims}");
        assert_eq!(result.get("data"), data.as_ref(), "{claims}");
        assert_ttl(&result, ttl_s);
        Api::connect(&daemon).publish("$r", &json!(1));
        assert_eq!(sdk.publication("$r")["data"], 1);
        sdk.ask("unsubscribe", &json!({ "channel": "$r" }));
    }
    // A room that is open anyway has no need of one, and heeds it all the same.
    sdk.subscribe("open");
    sdk.ask("unsubscribe", &json!({ "channel": "open" }));
    let over = token(&json!({ "sub": "al", "channel": "open", "exp": now - 1 }));
    let request = json!({ "channel": "open", "token": over });
    assert_eq!(sdk.error("subscribe", &request), 109);
}

#[test]
fn where_no_tokens_are_wanted_they_are_not_looked_at() {
    let daemon = Daemon::start(&[]);
    let mut sdk = Sdk::open(&daemon);
    let result = sdk.connect(&json!({ "token": "whatever" }));
    assert_eq!(result.get("subs"), None, "{result}");
    let result = sdk.ask("subscribe", &json!({ "channel": "r", "token": "whatever" }));
    assert_eq!(result["recoverable"], true);
    let private = json!({ "channel": "$r", "token": "whatever" });
    assert_eq!(sdk.error("subscribe", &private), 103);
}

// --- Renewing -------------------------------------------------------------------------------------

#[test]
fn a_connection_brings_its_next_token() {
    let (daemon, _file) = start(&[]);
    let now = unix_s();
    let first = json!({ "sub": "al", "exp": now + 60, "channels": ["a", "b", "#al"] });
    let mut sdk = login(&daemon, &first);
    for (claims, ttl_s) in [
        (
            json!({ "sub": "al", "exp": now + 600, "channels": ["b", "a"] }),
            Some(600),
        ),
        (
            json!({ "sub": "al", "exp": now + 90, "subs": { "a": {}, "b": {} } }),
            Some(90),
        ),
        (json!({ "sub": "al", "channels": ["a", "b", "#al"] }), None),
    ] {
        let result = sdk.ask("refresh", &json!({ "token": token(&claims) }));
        assert_ttl(&result, ttl_s);
        if ttl_s.is_none() {
            assert_eq!(result, json!({}));
        }
    }
    // What it may do is what the newest says.
    assert_eq!(sdk.subscribe("c")["recoverable"], true);
    let narrow = json!({ "sub": "al", "channels": ["a", "b"], "rooms": [] });
    sdk.ask("refresh", &json!({ "token": token(&narrow) }));
    assert_eq!(sdk.error("subscribe", &json!({ "channel": "d" })), 103);

    let expired = ("connection expired", 3005);
    let invalid = ("invalid token", 3500);
    let changed = ("insufficient state", 3010);
    for (next, (reason, code)) in [
        (json!(""), ("bad request", 3501)),
        (json!(null), ("bad request", 3501)),
        (json!("x"), invalid),
        (
            json!(token(
                &json!({ "sub": "al", "exp": now - 1, "channels": ["a"] })
            )),
            expired,
        ),
        (
            json!(token(
                &json!({ "sub": "al", "nbf": now + 99, "channels": ["a"] })
            )),
            expired,
        ),
        (
            json!(token(&json!({ "sub": "bo", "channels": ["a"] }))),
            invalid,
        ),
        (
            json!(token(&json!({ "sub": "", "channels": ["a"] }))),
            invalid,
        ),
        (
            json!(token(&json!({ "sub": "al", "channel": "a" }))),
            invalid,
        ),
        (json!(token(&json!({ "sub": "al" }))), changed),
        (
            json!(token(&json!({ "sub": "al", "channels": ["b"] }))),
            changed,
        ),
        (
            json!(token(&json!({ "sub": "al", "channels": ["a", "b"] }))),
            changed,
        ),
    ] {
        let mut sdk = login(&daemon, &json!({ "sub": "al", "channels": ["a"] }));
        sdk.send("refresh", &json!({ "token": next }));
        eprintln!("{next}");
        sdk.expect_close(code, reason);
    }
}

#[test]
fn a_subscription_brings_its_next_token() {
    let (daemon, _file) = start(&[]);
    let now = unix_s();
    let of = |claims: Value| {
        let mut claims = claims;
        for (name, value) in [("sub", "al"), ("channel", "$r")] {
            if claims.get(name).is_none() {
                claims[name] = json!(value);
            }
        }
        json!({ "channel": "$r", "token": token(&claims) })
    };
    let login = || {
        let mut sdk = login(&daemon, &json!({ "sub": "al", "channels": ["given"] }));
        let result = sdk.ask("subscribe", &of(json!({ "exp": now + 60 })));
        assert_ttl(&result, Some(60));
        sdk
    };
    let mut sdk = login();
    let result = sdk.ask("sub_refresh", &of(json!({ "exp": now + 600 })));
    assert_ttl(&result, Some(600));
    assert_eq!(sdk.ask("sub_refresh", &of(json!({}))), json!({}));
    for (request, code) in [
        (of(json!({ "exp": now - 1 })), 109),
        (of(json!({ "nbf": now + 99 })), 109),
        (of(json!({ "expire_at": now - 1 })), 109),
        (json!({ "channel": "$r", "token": "" }), 107),
        (json!({ "channel": "$r" }), 107),
        (json!({ "channel": "nowhere", "token": "x" }), 103),
        (json!({ "token": "x" }), 103),
    ] {
        assert_eq!(sdk.error("sub_refresh", &request), code, "{request}");
    }
    // An expired one has not taken the end away that there was.
    let result = sdk.ask("sub_refresh", &of(json!({ "exp": now + 60 })));
    assert_ttl(&result, Some(60));
    for (request, code, reason) in [
        (
            json!({ "channel": "$r", "token": "x" }),
            3500,
            "invalid token",
        ),
        (of(json!({ "channel": "$s" })), 3500, "invalid token"),
        (of(json!({ "sub": "bo" })), 3500, "invalid token"),
        (
            json!({ "channel": "given", "token": "x" }),
            3501,
            "bad request",
        ),
        (
            json!({ "channel": "#al", "token": "x" }),
            3501,
            "bad request",
        ),
    ] {
        let mut sdk = login();
        sdk.send("sub_refresh", &request);
        eprintln!("{request}");
        sdk.expect_close(code, reason);
    }
}

// --- The end of its time --------------------------------------------------------------------------

/// Clients have 25 seconds to bring another token, so this takes half a minute.
#[test]
fn who_brings_no_other_token_in_time_has_to_go() {
    const PATIENCE: Duration = Duration::from_secs(45);
    let (daemon, _file) = start(&["--ping-interval", "off"]);
    let (now, start) = (unix_s(), std::time::Instant::now());
    let mut silent = login(&daemon, &json!({ "sub": "al", "exp": now + 3 }));
    let mut renewed = login(&daemon, &json!({ "sub": "bo", "exp": now + 3 }));
    let mut member = login(&daemon, &json!({ "sub": "cy" }));
    let of = |room: &str, exp: u64| {
        let token = token(&json!({ "sub": "cy", "channel": room, "exp": exp }));
        json!({ "channel": room, "token": token })
    };
    for room in ["$left", "$kept"] {
        let result = member.ask("subscribe", &of(room, now + 3));
        assert_ttl(&result, Some(3));
    }
    member.ask("sub_refresh", &of("$kept", now + 600));
    let next = token(&json!({ "sub": "bo", "exp": now + 600 }));
    renewed.ask("refresh", &json!({ "token": next }));

    let told = member.next_within(PATIENCE).expect("a push");
    let why = json!({ "code": 2501, "reason": "subscription expired" });
    assert_eq!(
        told,
        json!({ "push": { "channel": "$left", "unsubscribe": why } })
    );
    let close = silent.wire.recv_within(PATIENCE).expect("a close");
    assert_eq!(
        close,
        Message::Close(Some(3005), "connection expired".into())
    );
    let took = start.elapsed();
    assert!(took > Duration::from_secs(26), "{took:?}");
    assert!(took < Duration::from_secs(38), "{took:?}");
    // The others go on.
    let mut api = Api::connect(&daemon);
    api.publish("$left", &json!(1));
    api.publish("$kept", &json!(2));
    member.expect_publication("$kept", &json!({ "data": 2, "offset": 1 }));
    renewed.expect_nothing_before_answer();
    drop(silent);
    daemon.wait_closes("connection_expired", 1.0);
}
