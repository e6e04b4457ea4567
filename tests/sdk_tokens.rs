//! Centrifugo's SDKs with tokens: who is let in, tokens that run out and are replaced, rooms that a
//! token opens or gives, and applications that cannot get one.

#[path = "clients/driven.rs"]
mod driven;
mod harness;
#[path = "clients/sdk.rs"]
mod sdk;

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use harness::{Client, Daemon, SecretFile, signed_token, wait_until};
use sdk::{LIBRARIES, Library, PATH, Sdk, back_end};

const SECRET: &str = "s3cret-of-the-tests-is-32-bytes!";

/// A daemon that wants tokens, and the file with its secret.
fn start(args: &[&str]) -> (Daemon, SecretFile) {
    let file = SecretFile::new(SECRET);
    let daemon = Daemon::start(&[&["--token-secret-file", file.path()], args].concat());
    (daemon, file)
}

fn token(claims: Value) -> String {
    signed_token(SECRET, &claims)
}

/// The second since 1970 that is `ahead` of now, or up to one less.
fn in_s(ahead: i64) -> i64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = elapsed.expect("after 1970").as_secs();
    i64::try_from(now).expect("fits") + ahead
}

/// A client that asks its application for a token.
fn asking(library: Library, daemon: &Daemon) -> Sdk {
    Sdk::new(library, daemon.addr(), PATH, &json!({"asks": ["token"]}))
}

/// Waits until the SDK asks for a token, and gives it one with what `claims` are only then.
fn give_token(sdk: &mut Sdk, claims: impl FnOnce() -> Value) {
    sdk.expect_asks("token");
    let token = token(claims());
    sdk.order("give", json!({ "value": token }));
}

/// One that was let in with these claims, to which the personal room of `al` belongs.
fn let_in(library: Library, daemon: &Daemon, mut claims: Value) -> Sdk {
    claims["sub"] = "al".into();
    let_in_with(library, daemon, || claims)
}

/// One that was let in for some 2 seconds.
fn let_in_briefly(library: Library, daemon: &Daemon) -> Sdk {
    let_in_with(library, daemon, || json!({"sub": "al", "exp": in_s(3)}))
}

fn let_in_with(library: Library, daemon: &Daemon, claims: impl FnOnce() -> Value) -> Sdk {
    let mut sdk = asking(library, daemon);
    sdk.order("connect", json!({}));
    sdk.expect_cut(0);
    give_token(&mut sdk, claims);
    sdk.expect_connected();
    sdk
}

#[test]
fn a_token_lets_in_and_says_who_it_is() {
    let (daemon, _file) = start(&[]);
    for library in LIBRARIES {
        let claims = json!({"sub": "al", "info": {"name": "Al"}, "exp": in_s(3600)});
        let options = json!({"token": token(claims)});
        let mut sdk = Sdk::new(library, daemon.addr(), PATH, &options);
        let connected = sdk.connect();
        sdk.expect_of("server subscribed", "#al");
        sdk.subscribe("r");
        sdk.publish("r", "hello");
        let expected = json!({"user": "al", "client": connected["client"], "info": {"name": "Al"}});
        assert_eq!(sdk.expect_of("publication", "r")["from"], expected);
        let client = connected["client"].as_str().expect("an id");
        assert_eq!(sdk.ask("presence", "r")[client], expected);
        assert_eq!(sdk.ask("stats", "r"), json!([1, 1]));
        // What is kept says whose it is, too, but not by which connection.
        let history = sdk.call(
            "history",
            json!({"channel": "r", "limit": 1, "reverse": true}),
        );
        let from = history.expect("a history")["publications"][0]["from"].take();
        assert_eq!(
            (&from["user"], &from["info"]),
            (&json!("al"), &json!({"name": "Al"}))
        );
        sdk.disconnect();
        daemon.wait_members(0);
    }
}

#[test]
fn clients_that_are_not_let_in_do_not_come_back() {
    let (daemon, _file) = start(&[]);
    let other_secret = signed_token("another-secret-of-32-bytes-or-so", &json!({"sub": "al"}));
    let nobody = token(json!({"sub": ""}));
    let for_a_room = token(json!({"sub": "al", "channel": "r"}));
    let cases = [
        ("", 3501, "bad_request"),
        ("rubbish", 3500, "invalid_token"),
        (&other_secret, 3500, "invalid_token"),
        (&for_a_room, 3500, "invalid_token"),
        (&nobody, 3507, "permission_denied"),
    ];
    for library in LIBRARIES {
        for (token, code, _) in cases {
            let options = json!({ "token": token });
            let mut sdk = Sdk::new(library, daemon.addr(), PATH, &options);
            sdk.order("connect", json!({}));
            sdk.expect_cut(0);
            assert_eq!(sdk.expect_end()["code"], code, "{library:?} {token}");
            sdk.expect_rest();
        }
    }
    for (_, code, reason) in cases {
        let alike = cases.iter().filter(|case| case.1 == code).count();
        daemon.wait_closes(reason, (LIBRARIES.len() * alike) as f64);
    }
}

#[test]
fn an_application_without_a_token_is_asked_again_or_left_alone() {
    let (daemon, _file) = start(&[]);
    for library in LIBRARIES {
        let mut sdk = asking(library, &daemon);
        sdk.order("connect", json!({}));
        sdk.expect_cut(0);
        // Whatever the trouble is, it may be over the next time.
        for _ in 0..3 {
            sdk.fail("token", "the back end is busy");
        }
        sdk.give("token", token(json!({"sub": "al"})));
        sdk.expect_connected();
        sdk.expect_of("server subscribed", "#al");
        sdk.disconnect();

        let mut stranger = asking(library, &daemon);
        stranger.order("connect", json!({}));
        stranger.expect_cut(0);
        stranger.fail("token", "unauthorized");
        assert_eq!(stranger.expect_end()["code"], 1);
        stranger.expect_rest();
    }
    // So it is with other data that an application brings along.
    let (mut sdk, data) = (
        Sdk::new(
            Library::Node,
            daemon.addr(),
            PATH,
            &json!({"asks": ["token", "data"]}),
        ),
        json!({"language": "zh"}),
    );
    sdk.order("connect", json!({}));
    sdk.expect_cut(0);
    sdk.give("token", token(json!({"sub": "al"})));
    for _ in 0..3 {
        sdk.fail("data", "not yet");
    }
    sdk.give("data", data);
    sdk.expect_connected();
}

#[test]
fn a_token_that_runs_out_is_replaced_without_a_cut() {
    let (daemon, _file) = start(&[]);
    for library in LIBRARIES {
        let mut sdk = let_in_briefly(library, &daemon);
        sdk.expect_of("server subscribed", "#al");
        sdk.subscribe("r");
        // Twice, which shows that the answer to the first names a time, too.
        give_token(&mut sdk, || json!({"sub": "al", "exp": in_s(3)}));
        sdk.expect_asks("token");
        let later =
            token(json!({"sub": "al", "exp": in_s(3600), "rooms": ["r", "somewhere else"]}));
        sdk.order("give", json!({ "value": later }));
        // The new one's permissions count once it has arrived, which is behind this.
        wait_until("the new permissions", || {
            sdk.call("presence", json!({"channel": "other"})) == Err(103)
        });
        sdk.publish("r", "still here");
        assert_eq!(sdk.data("r", 1), [json!("still here")]);
        sdk.expect_silence();
        assert_eq!(sdk.state(None), "connected");
        sdk.disconnect();
    }
    assert_eq!(daemon.metric("roomcast_upgrades_total"), 2.0);
}

#[test]
fn a_replacement_that_is_not_good_ends_the_connection() {
    let (daemon, _file) = start(&[]);
    for library in LIBRARIES {
        for (replacement, code) in [
            (token(json!({"sub": "bo", "exp": in_s(3600)})), 3500),
            ("rubbish".to_owned(), 3500),
        ] {
            let mut sdk = let_in_briefly(library, &daemon);
            sdk.expect_of("server subscribed", "#al");
            sdk.give("token", replacement);
            assert_eq!(sdk.expect_end()["code"], code, "{library:?}");
        }
        // One that is too old or too new, or gives other rooms, needs another connection.
        for (replacement, code) in [
            (json!({"sub": "al", "exp": in_s(-5)}), 3005),
            (json!({"sub": "al", "nbf": in_s(3600)}), 3005),
            (
                json!({"sub": "al", "exp": in_s(3600), "channels": ["more"]}),
                3010,
            ),
        ] {
            let mut sdk = let_in_briefly(library, &daemon);
            sdk.expect_of("server subscribed", "#al");
            sdk.give("token", token(replacement.clone()));
            sdk.expect_cut(code);
            // What it has by then may be over, of which it learns by trying.
            let newest = token(json!({"sub": "al"}));
            sdk.expect_with_tokens("connected", &[("", &newest)]);
        }
    }
}

#[test]
fn a_token_that_is_over_at_connect_is_fetched_anew() {
    let (daemon, _file) = start(&[]);
    for library in LIBRARIES {
        for claims in [
            json!({"sub": "al", "exp": in_s(-60)}),
            json!({"sub": "al", "nbf": in_s(3600)}),
        ] {
            let options = json!({"asks": ["token"], "token": token(claims)});
            let mut sdk = Sdk::new(library, daemon.addr(), PATH, &options);
            sdk.start_subscribing("r", json!({}));
            sdk.order("connect", json!({}));
            sdk.expect_cut(0);
            sdk.give("token", token(json!({"sub": "al"})));
            sdk.expect_connected();
            assert_eq!(sdk.error()["code"], 109);
            sdk.expect_of("server subscribed", "#al");
            sdk.expect_of("subscribed", "r");
        }
    }
}

#[test]
fn a_subscription_token_opens_one_room_to_one_user() {
    let (daemon, _file) = start(&[]);
    for library in LIBRARIES {
        let mut sdk = let_in(library, &daemon, json!({"rooms": ["r"]}));
        sdk.expect_of("server subscribed", "#al");
        for (channel, data) in [
            ("$private", json!({"topic": "x"})),
            ("not in the list", Value::Null),
        ] {
            let mut claims = json!({"sub": "al", "channel": channel});
            if !data.is_null() {
                claims["data"] = data.clone();
            }
            let options = json!({"token": token(claims)});
            let subscribed = sdk.subscribe_with(channel, options);
            assert_eq!(subscribed.get("data").unwrap_or(&Value::Null), &data);
            let mut api = back_end(&daemon);
            api.publish(channel, &json!("for few"));
            assert_eq!(sdk.data(channel, 1), [json!("for few")]);
            // To be there is not to speak there.
            assert_eq!(sdk.refused(channel), 103);
            assert_eq!(sdk.ask("stats", channel), json!([1, 1]));
        }
        for (channel, token) in [
            ("$a", "rubbish".to_owned()),
            (
                "$b",
                signed_token(
                    "another-secret-of-32-bytes-or-so",
                    &json!({"sub": "al", "channel": "$b"}),
                ),
            ),
            ("$c", token(json!({"sub": "al"}))),
            ("$d", String::new()),
        ] {
            sdk.start_subscribing(channel, json!({"token": token}));
            sdk.expect_code("unsubscribed", 103);
        }
        // A good token in the wrong hands is no mistake of the network's.
        for claims in [
            json!({"sub": "al", "channel": "$other"}),
            json!({"sub": "bo", "channel": "$e"}),
        ] {
            let mut sdk = let_in(library, &daemon, json!({}));
            sdk.expect_of("server subscribed", "#al");
            sdk.start_subscribing("$e", json!({"token": token(claims)}));
            assert_eq!(sdk.expect_end()["code"], 3500);
        }
    }
}

#[test]
fn a_subscription_token_that_runs_out_is_replaced() {
    let (daemon, _file) = start(&[]);
    for library in LIBRARIES {
        let grant = |seconds| json!({"sub": "al", "channel": "$p", "exp": in_s(seconds)});
        let mut sdk = let_in(library, &daemon, json!({}));
        sdk.expect_of("server subscribed", "#al");
        sdk.start_subscribing("$p", json!({"asks": ["token"]}));
        sdk.fail("token", "the back end is busy");
        // Over already: the SDK asks for another.
        give_token(&mut sdk, || grant(-5));
        give_token(&mut sdk, || grant(3));
        sdk.expect_of("subscribed", "$p");
        assert_eq!(sdk.expect_asks("token")["channel"], "$p");
        let next = token(grant(3));
        sdk.order("give", json!({ "value": next }));
        give_token(&mut sdk, || grant(3600));
        // That answer has come when this has.
        back_end(&daemon).publish("$p", &json!("still open"));
        assert_eq!(sdk.data("$p", 1), [json!("still open")]);
        sdk.expect_silence();
        assert_eq!(sdk.state(Some("$p")), "subscribed");

        // An application that says no ends the subscription, and nothing else.
        sdk.start_subscribing("$q", json!({"asks": ["token"]}));
        sdk.fail("token", "unauthorized");
        sdk.expect_code("unsubscribed", 1);
        sdk.expect_silence();
    }
    // So it is with data that goes along with a subscription.
    let mut sdk = let_in(Library::Node, &daemon, json!({}));
    sdk.expect_of("server subscribed", "#al");
    sdk.start_subscribing("r", json!({"asks": ["data"]}));
    sdk.fail("data", "not yet");
    sdk.give("data", json!({"some": "data"}));
    sdk.expect_of("subscribed", "r");
}

#[test]
fn a_token_gives_rooms_that_nobody_has_to_ask_for() {
    let (daemon, _file) = start(&[]);
    for library in LIBRARIES {
        for claims in [
            json!({"channels": ["news", "$team"]}),
            json!({"subs": {"news": {"data": {"topic": 1}}, "$team": {}}}),
        ] {
            let has_data = claims.get("subs").is_some();
            let mut sdk = let_in(library, &daemon, claims);
            let mut told = [(); 3].map(|()| sdk.expect("server subscribed"));
            told.sort_by_key(|one| one["channel"].to_string());
            assert_eq!(
                told.each_ref().map(|one| &one["channel"]),
                ["#al", "$team", "news"]
            );
            for one in &told {
                assert_eq!(
                    (&one["recoverable"], &one["recovering"]),
                    (&json!(true), &json!(false))
                );
            }
            let data = told[2].get("data").unwrap_or(&Value::Null);
            assert_eq!(
                *data,
                if has_data {
                    json!({"topic": 1})
                } else {
                    Value::Null
                }
            );
            let mut api = back_end(&daemon);
            for channel in ["news", "$team", "#al"] {
                api.publish(channel, &json!({"to": channel}));
                let told = sdk.expect_of("server publication", channel);
                assert_eq!(told["data"], json!({"to": channel}));
            }
            // What the client has, it need not ask for.
            sdk.start_subscribing("news", json!({}));
            sdk.expect_code("unsubscribed", 105);
            // It is taken out of one like of those that it has asked for.
            api.result("unsubscribe", &json!({"channel": "news", "user": "al"}));
            sdk.expect_of("server unsubscribed", "news");
            api.publish("news", &json!("unheard"));
            sdk.expect_silence();
            sdk.disconnect();
            daemon.wait_members(0);
        }
    }
}

#[test]
fn the_lists_of_a_token_say_what_is_open() {
    let (daemon, _file) = start(&[]);
    for library in LIBRARIES {
        let claims = json!({"rooms": ["live:*", "$live:*"], "publish": ["live:1"]});
        let mut sdk = let_in(library, &daemon, claims);
        sdk.expect_of("server subscribed", "#al");
        for channel in ["live:1", "live:2", "$live:3", "#bo,al"] {
            sdk.subscribe(channel);
            assert_eq!(sdk.ask("stats", channel), json!([1, 1]));
        }
        for channel in ["chat", "#bo", "$other"] {
            sdk.start_subscribing(channel, json!({}));
            sdk.expect_code("unsubscribed", 103);
            for what in ["presence", "stats", "history"] {
                assert_eq!(sdk.call(what, json!({"channel": channel})), Err(103));
            }
        }
        sdk.publish("live:1", 1);
        assert_eq!(sdk.data("live:1", 1), [json!(1)]);
        for channel in ["live:2", "$live:3", "chat"] {
            assert_eq!(sdk.refused(channel), 103);
        }
        sdk.disconnect();
        daemon.wait_members(0);
    }
}

#[test]
fn a_back_end_can_have_a_client_fetch_its_tokens_anew() {
    let (daemon, _file) = start(&[]);
    let mut api = back_end(&daemon);
    for library in LIBRARIES {
        let mut sdk = let_in(library, &daemon, json!({"exp": in_s(3600)}));
        sdk.expect_of("server subscribed", "#al");
        sdk.start_subscribing("$p", json!({"asks": ["token"]}));
        let grant = token(json!({"sub": "al", "channel": "$p"}));
        sdk.give("token", grant.clone());
        sdk.expect_of("subscribed", "$p");
        let close = json!({"code": 3014, "reason": "state invalidated"});
        api.result("disconnect", &json!({"user": "al", "disconnect": close}));
        sdk.expect_cut(3014);
        // Both tokens, though neither is over.
        let newest = token(json!({"sub": "al"}));
        for asked in ["", "$p"] {
            let asks = sdk.expect_with_tokens("asks", &[]);
            let channel = asks.get("channel").and_then(Value::as_str);
            assert_eq!(channel.unwrap_or_default(), asked);
            let value = if asked.is_empty() { &newest } else { &grant };
            sdk.order("give", json!({ "value": value }));
        }
        let subscribed = sdk.expect_with_tokens("subscribed", &[]);
        // It gave up its position as well, with an epoch that no room ever has.
        assert_eq!(subscribed["recovered"], false, "{subscribed}");
        sdk.disconnect();
    }
}

#[test]
fn a_newer_login_replaces_the_older_for_good() {
    let (daemon, _file) = start(&["--duplicate-login", "replace"]);
    for library in LIBRARIES {
        let mut older = let_in(library, &daemon, json!({}));
        older.expect_of("server subscribed", "#al");
        let newer = token(json!({"sub": "al"}));
        let newer = Client::connect(&daemon, &format!("/ws?token={newer}"));
        assert_eq!(older.expect_end()["code"], 3504);
        older.expect_rest();
        newer.close();
    }
}
