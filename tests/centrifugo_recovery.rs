//! Coming back by the Centrifugo protocol: what is recovered and what is not, answers that do not
//! hold all of it, and publications that come meanwhile.

mod harness;

use std::sync::atomic::{AtomicBool, Ordering};

use harness::{Api, Client, Daemon, Sdk, SecretFile, resume, signed_token};
use serde_json::{Value, json};

const SECRET: &str = "s3cret-of-the-tests-is-32-bytes!";

/// Publishes `from..=to` as their numbers; returns the epoch.
fn publish(api: &mut Api, room: &str, from: u64, to: u64) -> String {
    let mut epoch = Value::Null;
    for n in from..=to {
        let mut result = api.result("publish", &json!({ "channel": room, "data": n }));
        assert_eq!(result["offset"], n);
        epoch = result["epoch"].take();
    }
    epoch.as_str().expect("an epoch").to_owned()
}

/// As publications are told whose data are their numbers.
fn numbers(from: u64, to: u64) -> Value {
    (from..=to)
        .map(|n| json!({ "data": n, "offset": n }))
        .collect()
}

// --- The table ------------------------------------------------------------------------------------

#[test]
fn what_can_be_recovered_is_and_anything_else_is_not() {
    let daemon = Daemon::start(&["--history-size", "700"]);
    let mut api = Api::connect(&daemon);
    let epoch = publish(&mut api, "r", 1, 1000);
    let mut sdk = Sdk::connected(&daemon);
    let current = |offset: u64| json!({ "recoverable": true, "positioned": true, "epoch": epoch, "offset": offset });
    let recovered = |offset: u64| {
        let mut result = current(offset);
        result["was_recovering"] = json!(true);
        result["recovered"] = json!(true);
        if offset < 1000 {
            result["publications"] = numbers(offset + 1, 1000);
        }
        result
    };
    let failed = || {
        let mut result = current(1000);
        result["was_recovering"] = json!(true);
        result
    };
    let rows = [
        ("no recovery", json!({ "channel": "r" }), current(1000)),
        (
            "no recovery, a position",
            json!({ "channel": "r", "epoch": epoch, "offset": 5 }),
            current(1000),
        ),
        ("nothing missed", resume("r", &epoch, 1000), recovered(1000)),
        ("one missed", resume("r", &epoch, 999), recovered(999)),
        ("600 missed", resume("r", &epoch, 400), recovered(400)),
        ("all that is kept", resume("r", &epoch, 300), recovered(300)),
        ("one more", resume("r", &epoch, 299), failed()),
        ("from the beginning", resume("r", &epoch, 0), failed()),
        ("another epoch", resume("r", "other", 1000), failed()),
        ("an epoch that is none", resume("r", "_", 0), failed()),
        (
            "a long epoch",
            resume("r", &"x".repeat(500), 1000),
            failed(),
        ),
        ("the future", resume("r", &epoch, 1001), failed()),
        ("the far future", resume("r", &epoch, u64::MAX), failed()),
        ("no epoch", resume("r", "", 998), recovered(998)),
        ("no epoch, the future", resume("r", "", 1001), failed()),
        ("no epoch, too long ago", resume("r", "", 299), failed()),
        (
            "an epoch that is null",
            json!({ "channel": "r", "recover": true, "epoch": null, "offset": 999 }),
            recovered(999),
        ),
    ];
    for (what, request, expected) in rows {
        assert_eq!(sdk.ask("subscribe", &request), expected, "{what}");
        sdk.expect_nothing_before_answer();
        sdk.ask("unsubscribe", &json!({ "channel": "r" }));
    }
    // Whatever it was, what comes next is live.
    for (given, offset) in [(epoch.as_str(), 1000), ("other", 7)] {
        let mut member = Sdk::connected(&daemon);
        member.resume("r", given, offset);
        let next = api.publish("r", &json!("live"));
        member.expect_publication("r", &json!({ "data": "live", "offset": next }));
    }
}

#[test]
fn rooms_that_never_had_anything_recover_nothing() {
    let daemon = Daemon::start(&[]);
    let mut sdk = Sdk::connected(&daemon);
    let result = sdk.subscribe("r");
    let epoch = result["epoch"].as_str().expect("an epoch").to_owned();
    assert_eq!(result.get("offset"), None, "{result}");
    sdk.ask("unsubscribe", &json!({ "channel": "r" }));
    for (room, given, is_recovered) in [("s", "", true), ("s", "other", false)] {
        let mut fresh = Sdk::connected(&daemon);
        let result = fresh.resume(room, given, 0);
        assert_eq!(result["was_recovering"], true, "{result}");
        assert_eq!(result.get("recovered").is_some(), is_recovered, "{result}");
        assert_eq!(result.get("publications"), None, "{result}");
    }
    // A member keeps the room, and with it the epoch.
    let mut other = Sdk::member(&daemon, "t");
    let epoch_of = |sdk: &mut Sdk| sdk.subscribe("t")["epoch"].clone();
    let mut third = Sdk::connected(&daemon);
    let first = epoch_of(&mut third);
    let text = first.as_str().expect("an epoch").to_owned();
    third.ask("unsubscribe", &json!({ "channel": "t" }));
    let result = third.resume("t", &text, 0);
    assert_eq!(result["recovered"], true, "{result}");
    other.expect_nothing_before_answer();
    assert_ne!(epoch, "", "an epoch of a room that nobody is in");
}

#[test]
fn rooms_that_a_token_gives_are_recovered_in_the_answer_to_connect() {
    let file = SecretFile::new(SECRET);
    let daemon = Daemon::start(&["--token-secret-file", file.path(), "--history-size", "3"]);
    let mut api = Api::connect(&daemon);
    let epoch = publish(&mut api, "a", 1, 3);
    publish(&mut api, "b", 1, 9);
    let claims = json!({
        "sub": "al",
        "subs": { "a": { "data": { "x": 1 } }, "b": {}, "c": { "info": 7 } },
    });
    let mut sdk = Sdk::open(&daemon);
    let at = |offset: u64| json!({ "recover": true, "epoch": epoch, "offset": offset });
    let request = json!({
        "token": signed_token(SECRET, &claims),
        "subs": { "a": at(1), "b": at(1), "nobody": at(1) },
    });
    let result = sdk.connect(&request);
    let subs = result["subs"].as_object().expect("rooms");
    assert_eq!(subs.keys().collect::<Vec<_>>(), ["#al", "a", "b", "c"]);
    let epoch_of = |room: &str| subs[room]["epoch"].clone();
    assert_eq!(
        subs["a"],
        json!({ "recoverable": true, "positioned": true, "epoch": epoch, "offset": 1,
                "recovered": true, "was_recovering": true, "publications": numbers(2, 3),
                "data": { "x": 1 } })
    );
    // Where some is gone nothing is given.
    assert_eq!(
        subs["b"],
        json!({ "recoverable": true, "positioned": true, "epoch": epoch_of("b"), "offset": 9,
                "was_recovering": true })
    );
    let untouched =
        |room: &str| json!({ "recoverable": true, "positioned": true, "epoch": epoch_of(room) });
    assert_eq!(subs["c"], untouched("c"));
    assert_eq!(subs["#al"], untouched("#al"));
    for room in ["a", "b", "c", "#al"] {
        let offset = api.publish(room, &json!(room));
        sdk.expect_publication(room, &json!({ "data": room, "offset": offset }));
    }
    assert_eq!(sdk.error("subscribe", &json!({ "channel": "a" })), 105);
}

// --- More than fits an answer ---------------------------------------------------------------------

#[test]
fn what_does_not_fit_the_answer_follows_it() {
    let bounds = [
        "--max-message-size",
        "4KiB",
        "--outbound-queue-size",
        "16KiB",
    ];
    for workers in ["0", "1", "3"] {
        let daemon = Daemon::start(&[&bounds[..], &["--workers", workers]].concat());
        let mut api = Api::connect(&daemon);
        let block = "x".repeat(1000);
        let mut epoch = Value::Null;
        for n in 1..=200 {
            let data = json!([n, block]);
            let mut result = api.result("publish", &json!({ "channel": "r", "data": data }));
            epoch = result["epoch"].take();
        }
        let mut sdk = Sdk::connected(&daemon);
        let epoch = epoch.as_str().expect("an epoch");
        let id = sdk.send("subscribe", &resume("r", epoch, 20));
        // Published while it is catching up.
        for n in 201..=220 {
            assert_eq!(api.publish("r", &json!([n, block])), n);
        }
        let result = sdk.result("subscribe", id);
        assert_eq!(result["offset"], 20);
        assert_eq!(result["recovered"], true);
        let first = result["publications"].as_array().expect("publications");
        assert!(
            (1..=8).contains(&first.len()),
            "{} of 1000 bytes",
            first.len()
        );
        let mut next = 21;
        for publication in first {
            assert_eq!(
                *publication,
                json!({ "data": [next, block], "offset": next })
            );
            next += 1;
        }
        while next <= 220 {
            let expected = json!({ "data": [next, block], "offset": next });
            sdk.expect_publication("r", &expected);
            next += 1;
        }
        sdk.expect_nothing_before_answer();
        assert_eq!(daemon.closes("slow"), 0.0);
    }
}

#[test]
fn what_does_not_fit_the_answer_to_connect_follows_it() {
    let file = SecretFile::new(SECRET);
    let bounds = [
        "--max-message-size",
        "4KiB",
        "--outbound-queue-size",
        "16KiB",
    ];
    let secret = ["--token-secret-file", file.path()];
    let daemon = Daemon::start(&[&bounds[..], &secret].concat());
    let mut api = Api::connect(&daemon);
    let block = "x".repeat(1000);
    for n in 1..=60 {
        for room in ["a", "b", "c"] {
            assert_eq!(api.publish(room, &json!([n, block])), n);
        }
    }
    let mut sdk = Sdk::open(&daemon);
    let token = signed_token(SECRET, &json!({ "sub": "al", "channels": ["a", "b", "c"] }));
    let at = json!({ "recover": true, "offset": 10 });
    let subs = json!({ "a": at, "b": at, "c": at });
    let id = sdk.send("connect", &json!({ "token": token, "subs": subs }));
    for n in 61..=70 {
        for room in ["a", "b", "c"] {
            assert_eq!(api.publish(room, &json!([n, block])), n);
        }
    }
    let reply = sdk.fresh_text();
    assert!(reply.len() < 16 << 10, "{} bytes", reply.len());
    let reply: Value = serde_json::from_str(&reply).expect("JSON");
    assert_eq!(reply["id"], id);
    let mut seen = [10; 3];
    for (place, room) in ["a", "b", "c"].iter().enumerate() {
        let sub = &reply["connect"]["subs"][room];
        assert_eq!(
            (&sub["recovered"], &sub["offset"]),
            (&json!(true), &json!(10))
        );
        for publication in sub["publications"].as_array().into_iter().flatten() {
            seen[place] += 1;
            assert_eq!(number(publication), seen[place]);
        }
    }
    assert!(seen.iter().sum::<u64>() > 30, "{seen:?}");
    while seen != [70; 3] {
        let push = sdk.push();
        let room = push["channel"].as_str().expect("a room");
        let place = ["a", "b", "c"].iter().position(|one| *one == room);
        let seen = &mut seen[place.expect("one of three")];
        *seen += 1;
        assert_eq!(number(&push["pub"]), *seen);
    }
    sdk.expect_nothing_before_answer();
}

#[test]
fn who_leaves_while_it_catches_up_hears_nothing_more() {
    let bounds = [
        "--max-message-size",
        "4KiB",
        "--outbound-queue-size",
        "16KiB",
    ];
    let daemon = Daemon::start(&bounds);
    let mut api = Api::connect(&daemon);
    let block = "x".repeat(1000);
    for n in 1..=200 {
        assert_eq!(api.publish("r", &json!([n, block])), n);
    }
    for _ in 0..20 {
        let mut sdk = Sdk::connected(&daemon);
        let lines = [
            sdk.line("subscribe", &resume("r", "", 0)),
            sdk.line("unsubscribe", &json!({ "channel": "r" })),
            sdk.line("subscribe", &resume("r", "", 150)),
        ];
        sdk.send_text(&lines.join("\n"));
        let mut seen = 0;
        let mut read = |line: &Value| match line["push"]["pub"].is_object() {
            true => {
                seen += 1;
                assert_eq!(number(&line["push"]["pub"]), seen);
            }
            false => {
                for publication in line["subscribe"]["publications"].as_array().expect("some") {
                    seen += 1;
                    assert_eq!(number(publication), seen);
                }
            }
        };
        loop {
            let line = sdk.next();
            if line["id"] == 3 {
                assert_eq!(line, json!({ "id": 3, "unsubscribe": {} }));
                break;
            }
            read(&line);
        }
        // What follows belongs to the second subscription.
        let mut seen = 150;
        let result = sdk.next();
        assert_eq!(
            (&result["id"], &result["subscribe"]["offset"]),
            (&json!(4), &json!(150))
        );
        let answered = result["subscribe"]["publications"].as_array();
        for publication in answered.into_iter().flatten() {
            seen += 1;
            assert_eq!(number(publication), seen);
        }
        while seen < 200 {
            seen += 1;
            assert_eq!(number(&sdk.publication("r")), seen);
        }
        sdk.expect_nothing_before_answer();
    }
    daemon.wait_members(0);
}

/// The number of a publication that is told as `{"data":…,"offset":…}`.
fn number(publication: &Value) -> u64 {
    let offset = publication["offset"].as_u64().expect("an offset");
    assert_eq!(publication["data"][0], offset, "{publication}");
    offset
}

#[test]
fn who_comes_back_among_publishers_misses_nothing_and_gets_nothing_twice() {
    const CLIENTS: usize = 24;
    for args in [
        ["--workers", "1", "--outbound-queue-size", "256KiB"],
        ["--workers", "3", "--outbound-queue-size", "1MiB"],
        ["--workers", "0", "--outbound-queue-size", "1MiB"],
    ] {
        let daemon = Daemon::start(&[&args[..], &["--history-size", "100000"]].concat());
        let mut api = Api::connect(&daemon);
        let pad = "x".repeat(300);
        let mut result = api.result("publish", &json!({ "channel": "r", "data": [1, pad] }));
        let epoch = result["epoch"].take();
        let epoch = epoch.as_str().expect("an epoch");
        let is_over = AtomicBool::new(false);
        let (daemon, pad, is_over) = (&daemon, &pad, &is_over);
        std::thread::scope(|scope| {
            let publisher = scope.spawn(move || {
                let mut last = 1;
                while !is_over.load(Ordering::Relaxed) {
                    last += 1;
                    assert_eq!(api.publish("r", &json!([last, pad])), last);
                }
                last
            });
            let clients: Vec<_> = (0..CLIENTS)
                .map(|_| {
                    scope.spawn(move || {
                        let mut seen = 0;
                        // Away and back again, by another connection or by the same one.
                        let mut sdk = Sdk::connected(daemon);
                        for round in 0..8 {
                            let result = sdk.resume("r", epoch, seen);
                            assert_eq!(result["recovered"], true, "after {seen}: {result}");
                            assert_eq!(
                                result
                                    .get("offset")
                                    .map_or(0, |it| it.as_u64().expect("a number")),
                                seen
                            );
                            for publication in
                                result["publications"].as_array().into_iter().flatten()
                            {
                                seen += 1;
                                assert_eq!(number(publication), seen);
                            }
                            for _ in 0..20 {
                                seen += 1;
                                assert_eq!(number(&sdk.publication("r")), seen);
                            }
                            if round % 2 == 0 {
                                sdk = Sdk::connected(daemon);
                            } else {
                                // What was on its way still comes before the answer.
                                let id = sdk.send("unsubscribe", &json!({ "channel": "r" }));
                                loop {
                                    let line = sdk.next();
                                    if line["id"] == id {
                                        break;
                                    }
                                    seen += 1;
                                    assert_eq!(number(&line["push"]["pub"]), seen, "{line}");
                                }
                            }
                        }
                        seen
                    })
                })
                .collect();
            let joined = clients.into_iter().map(|client| client.join());
            let seen: Vec<u64> = joined.map(|seen| seen.expect("a client")).collect();
            is_over.store(true, Ordering::Relaxed);
            let last = publisher.join().expect("a publisher");
            assert!(
                seen.iter().all(|seen| (160..=last).contains(seen)),
                "{seen:?} of {last}"
            );
        });
        assert_eq!(
            daemon.closes("slow") + daemon.closes("insufficient_state"),
            0.0
        );
    }
}

#[test]
fn many_rooms_are_resumed_in_one_frame() {
    let bounds = [
        "--max-message-size",
        "64KiB",
        "--outbound-queue-size",
        "128KiB",
    ];
    let daemon = Daemon::start(&[&bounds[..], &["--workers", "3"]].concat());
    let mut api = Api::connect(&daemon);
    let block = "x".repeat(500);
    let mut lines = Vec::new();
    let mut sdk = Sdk::connected(&daemon);
    for room in 0..60 {
        let name = format!("r{room}");
        for n in 1..=50 {
            assert_eq!(api.publish(&name, &json!([n, block])), n);
        }
        lines.push(sdk.line("subscribe", &resume(&name, "", 0)));
    }
    // 1.5 MB in all: more than ten queues.
    sdk.send_text(&lines.join("\n"));
    let mut next = vec![1; 60];
    let mut is_subscribed = [false; 60];
    while next.iter().any(|next| *next <= 50) {
        let line = sdk.next();
        let (room, publications) = match line["id"].as_u64() {
            Some(id) => {
                let room = id as usize - 2;
                is_subscribed[room] = true;
                assert_eq!(line["subscribe"]["recovered"], true, "{line}");
                let list = line["subscribe"]["publications"].as_array().cloned();
                (room, list.unwrap_or_default())
            }
            None => {
                let name = line["push"]["channel"].as_str().expect("a room");
                let room: usize = name[1..].parse().expect("a number");
                assert!(
                    is_subscribed[room],
                    "a publication of {name} before its answer"
                );
                (room, vec![line["push"]["pub"].clone()])
            }
        };
        for publication in publications {
            assert_eq!(number(&publication), next[room], "r{room}");
            next[room] += 1;
        }
    }
    sdk.expect_nothing_before_answer();
    assert_eq!(daemon.closes("slow"), 0.0);
}

// --- Forgotten while catching up ------------------------------------------------------------------

#[test]
fn who_is_overtaken_by_history_is_told_to_come_again() {
    let bounds = [
        "--max-message-size",
        "16KiB",
        "--outbound-queue-size",
        "32KiB",
        "--history-size",
        "400",
        "--history-bytes",
        "64MiB",
        "--write-timeout",
        "30s",
    ];
    let daemon = Daemon::start(&bounds);
    let mut api = Api::connect(&daemon);
    let block = "x".repeat(12_000);
    let mut epoch = Value::Null;
    for n in 1..=400 {
        let data = json!([n, block]);
        epoch = api.result("publish", &json!({ "channel": "r", "data": data }))["epoch"].take();
    }
    let mut sdk = Sdk::narrow(&daemon);
    sdk.connect(&json!({}));
    // 4.8 MB, of which its kernel buffers take a part. Then what it was to get is trimmed.
    let id = sdk.send(
        "subscribe",
        &resume("r", epoch.as_str().expect("an epoch"), 0),
    );
    daemon.wait_metric("roomcast_replayed_total", |count| count > 0.0);
    let mut witness = Client::connect(&daemon, "/ws?room=w");
    for n in 401..=1200 {
        assert_eq!(api.publish("r", &json!([n, block])), n);
    }
    let result = sdk.result("subscribe", id);
    let mut seen = 0;
    for publication in result["publications"].as_array().expect("some") {
        seen += 1;
        assert_eq!(number(publication), seen);
    }
    let told = loop {
        let push = sdk.push();
        if push.get("pub").is_none() {
            break push;
        }
        seen += 1;
        assert_eq!(number(&push["pub"]), seen);
    };
    let why = json!({ "code": 2500, "reason": "insufficient state" });
    assert_eq!(told, json!({ "channel": "r", "unsubscribe": why }));
    assert!(seen < 800, "{seen}");
    sdk.expect_nothing_before_answer();
    // It subscribes again and is told that not all can be recovered.
    let result = sdk.resume("r", epoch.as_str().expect("an epoch"), seen);
    assert_eq!(
        (&result["offset"], result.get("recovered")),
        (&json!(1200), None)
    );
    witness.send_text("served");
    assert_eq!(witness.recv_text(), "served");
    daemon.wait_members(2);
}

/// What is recovered counts in the queue, so live publications have to wait until some of it is
/// written.
#[test]
fn who_recovers_as_much_as_its_queue_holds_is_not_slow() {
    for missed in [50, 100, 101] {
        let bounds = ["--outbound-queue", "100", "--outbound-queue-size", "64MiB"];
        let history = ["--history-bytes", "64MiB", "--write-timeout", "60s"];
        let large = ["--max-message-size", "1MiB"];
        let daemon = Daemon::start(&[&bounds[..], &history, &large].concat());
        let mut api = Api::connect(&daemon);
        // More than the kernel holds for a connection that is not read.
        let block = "x".repeat(if missed == 50 { 300_000 } else { 150_000 });
        for n in 1..=missed {
            assert_eq!(api.publish("r", &json!([n, block])), n);
        }
        let mut sdk = Sdk::narrow(&daemon);
        sdk.connect(&json!({}));
        let id = sdk.send("subscribe", &resume("r", "", 0));
        daemon.wait_metric("roomcast_replayed_total", |count| count > 0.0);
        for n in missed + 1..=missed + 150 {
            assert_eq!(api.publish("r", &json!([n])), n);
        }
        let result = sdk.result("subscribe", id);
        let mut seen = 0;
        for publication in result["publications"].as_array().expect("publications") {
            seen += 1;
            assert_eq!(number(publication), seen);
        }
        assert_eq!(seen, missed.min(100));
        while seen < missed + 150 {
            seen += 1;
            assert_eq!(number(&sdk.publication("r")), seen);
        }
        assert_eq!(daemon.closes("slow"), 0.0);
    }
}
