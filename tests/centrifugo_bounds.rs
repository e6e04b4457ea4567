//! Bounds on clients of the Centrifugo protocol: pings, clients that do not read, frames of very many
//! commands, lossy rooms, slow members, and the end of the daemon.

mod harness;

use std::time::{Duration, Instant};

use harness::{
    Api, Client, Daemon, Dial, Frame, Message, SDK_PATH, Sdk, Signal, Witness, linger, wait_for,
};
use serde_json::{Value, json};

const MIB: u64 = 1024 * 1024;

// --- Pings ----------------------------------------------------------------------------------------

#[test]
fn the_first_ping_comes_in_the_second_half_of_the_interval() {
    const INTERVAL: Duration = Duration::from_millis(800);
    let daemon = Daemon::start(&["--ping-interval", "800ms", "--pong-timeout", "30s"]);
    let first_ping = || {
        let mut sdk = Sdk::open(&daemon);
        let start = Instant::now();
        let result = sdk.connect(&json!({}));
        assert_eq!(
            (&result["ping"], &result["pong"]),
            (&json!(1), &json!(true))
        );
        let connected = Instant::now();
        assert_eq!(sdk.fresh_text(), "{}");
        (start.elapsed(), connected.elapsed())
    };
    let times: Vec<(Duration, Duration)> = std::thread::scope(|scope| {
        let waiting: Vec<_> = (0..20).map(|_| scope.spawn(first_ping)).collect();
        let joined = waiting.into_iter().map(|thread| thread.join());
        joined.map(|time| time.expect("a ping")).collect()
    });
    for (since_start, since_answer) in &times {
        assert!(*since_start >= INTERVAL / 2, "{times:?}");
        // What the machine takes longer is not the daemon's doing.
        assert!(
            *since_answer < INTERVAL + Duration::from_millis(700),
            "{times:?}"
        );
    }
    let first = times.iter().min().expect("twenty times").0;
    let last = times.iter().max().expect("twenty times").0;
    assert!(last - first > Duration::from_millis(40), "{times:?}");
}

#[test]
fn whoever_answers_is_pinged_again_and_stays() {
    // Far more time to answer than between pings.
    let daemon = Daemon::start(&["--ping-interval", "200ms", "--pong-timeout", "30s"]);
    let mut sdk = Sdk::member(&daemon, "r");
    let start = Instant::now();
    for _ in 0..10 {
        assert_eq!(sdk.next(), json!({}));
        sdk.send_text("{}");
    }
    let took = start.elapsed();
    // Nine intervals, and what is left of the first.
    assert!(took > Duration::from_millis(1700), "{took:?}");
    assert!(took < Duration::from_secs(6), "{took:?}");
    // Commands are no answer, but others go on meanwhile.
    assert_eq!(sdk.next(), json!({}));
    sdk.ask("presence_stats", &json!({ "channel": "r" }));
    sdk.send_text("{}");
    assert_eq!(sdk.next(), json!({}));
}

#[test]
fn who_does_not_answer_a_ping_is_closed() {
    let daemon = Daemon::start(&["--ping-interval", "300ms", "--pong-timeout", "900ms"]);
    let mut silent = Sdk::connected(&daemon);
    let mut chatty = Sdk::connected(&daemon);
    let start = Instant::now();
    assert_eq!(silent.next(), json!({}));
    silent.expect_close(3012, "no pong");
    let took = start.elapsed();
    // Half an interval at least to the ping, and 600 ms to answer it.
    assert!(took > Duration::from_millis(700), "{took:?}");
    // Neither commands nor pings of RFC 6455 are an answer.
    let chat = wait_for("a close", || {
        let _ = chatty.wire.wire.try_send(Frame::ping("x").bytes());
        let _ = chatty
            .wire
            .wire
            .try_send(Frame::text(r#"{"id":9,"rpc":{}}"#).bytes());
        match chatty.wire.recv_within(Duration::from_millis(20)) {
            Some(close @ Message::Close(..)) => Some(close),
            _ => None,
        }
    });
    assert_eq!(chat, Message::Close(Some(3012), "no pong".into()));
    daemon.wait_closes("no_pong", 2.0);
}

#[test]
fn pings_that_are_off_are_not_announced_and_heartbeats_do_not_come() {
    let daemon = Daemon::start(&["--ping-interval", "off", "--heartbeat-interval", "50ms"]);
    let mut sdk = Sdk::open(&daemon);
    let result = sdk.connect(&json!({}));
    let expected = json!({ "client": sdk.client, "version": env!("CARGO_PKG_VERSION") });
    assert_eq!(result, expected);
    sdk.subscribe("r");
    let mut raw = Client::connect(&daemon, "/ws?room=r");
    for _ in 0..5 {
        assert_eq!(raw.recv_text(), "heartbeat");
    }
    assert_eq!(sdk.next_within(Duration::from_millis(300)), None);
    sdk.send_text("{}");
    sdk.expect_close(3501, "bad request");
}

// --- Who does not read is not read ----------------------------------------------------------------

/// The row about a connection in the answer to `connections`.
fn row(api: &mut Api, room: &str, client: &Client) -> Value {
    let result = api.result("connections", &json!({ "channel": room }));
    let peer = client.local_addr().to_string();
    let rows = result["connections"].as_array().expect("a list");
    let found = rows.iter().find(|row| row["peer"] == peer.as_str());
    found
        .unwrap_or_else(|| panic!("no {peer} in {result}"))
        .clone()
}

#[test]
fn who_sends_commands_and_reads_nothing_is_not_read_on() {
    const PATIENCE: Duration = Duration::from_millis(500);
    const COMMANDS: usize = 40;
    let bounds = [
        "--max-message-size",
        "64KiB",
        "--outbound-queue-size",
        "256KiB",
    ];
    let slowly = ["--write-timeout", "60s", "--ping-interval", "off"];
    // Long answers to long commands, and short ones to short ones: of either, more than the kernel
    // holds in both directions.
    for (method, room, pad) in [("history", "r", 1500), ("publish", "q", 0), ("rpc", "q", 0)] {
        eprintln!("{method}");
        let daemon = Daemon::start(&[&bounds[..], &slowly].concat());
        let mut witness = Witness::new(&daemon);
        let mut api = Api::connect(&daemon);
        for _ in 0..10 {
            api.publish("r", &json!("x".repeat(1000)));
        }
        let mut sdk = Sdk::narrow(&daemon);
        sdk.connect(&json!({}));
        sdk.subscribe("r");
        let before = daemon.rss_bytes();
        let request = json!({ "channel": room, "data": 1, "limit": 10 });
        let pad = "x".repeat(pad);
        let line = json!({ "id": 7, method: request, "pad": pad }).to_string();
        let lines = vec![line; COMMANDS].join("\n");
        let frame = Frame::text(&lines).bytes();
        let mut sent = 0;
        let is_stuck = loop {
            let wire = &mut sdk.wire.wire;
            let count = wire
                .send_until_blocked(&frame, PATIENCE)
                .expect("it is open");
            sent += count;
            if count < frame.len() {
                break true;
            }
            if sent as u64 > 64 * MIB {
                break false;
            }
        };
        assert!(is_stuck, "{method}: {sent} bytes were read");
        let row = row(&mut api, "r", &sdk.wire);
        let queued = row["queued_bytes"].as_u64().expect("a number");
        assert!(queued <= 256 * 1024, "{method}: {row}");
        let grown = daemon.rss_bytes().saturating_sub(before);
        assert!(grown < 8 * MIB, "{method}: grown by {grown} bytes");
        witness.assert_served();
        assert_eq!(daemon.closes("slow"), 0.0);
        // When it reads, everything is answered that was sent as a whole.
        let whole = sent / frame.len() * COMMANDS;
        let rest = frame[sent % frame.len()..].to_vec();
        let mut answered = 0;
        while answered < whole {
            for line in harness::lines_of(&sdk.wire.recv_text()) {
                assert!(line.starts_with(r#"{"id":7,"#), "{line}");
                answered += 1;
            }
        }
        sdk.wire.send_bytes(rest);
        while answered < whole + COMMANDS {
            answered += harness::lines_of(&sdk.wire.recv_text()).len();
        }
        witness.assert_served();
    }
}

#[test]
fn thousands_of_commands_in_a_frame_are_carried_out_in_order() {
    const COUNT: usize = 3000;
    let bounds = [
        "--max-message-size",
        "1MiB",
        "--outbound-queue-size",
        "4MiB",
    ];
    for (workers, inbound) in [("0", "10"), ("1", "10"), ("3", "1"), ("3", "1000")] {
        let args = [
            "--workers",
            workers,
            "--inbound-queue",
            inbound,
            "--outbound-queue",
            "5000",
        ];
        let daemon = Daemon::start(&[&bounds[..], &args].concat());
        let mut member = Sdk::member(&daemon, "r");
        let mut sdk = Sdk::connected(&daemon);
        let mut lines = Vec::new();
        for n in 0..COUNT {
            lines.push(sdk.line("publish", &json!({ "channel": "r", "data": n })));
        }
        sdk.send_text(&lines.join("\n"));
        for id in 2..COUNT + 2 {
            assert_eq!(sdk.next(), json!({ "id": id, "publish": {} }));
        }
        for n in 0..COUNT {
            let publication = member.publication("r");
            assert_eq!(
                (&publication["data"], &publication["offset"]),
                (&json!(n), &json!(n + 1))
            );
        }
        // Questions wait for each other, and see what came before them.
        let mut lines = Vec::new();
        for n in 0..500 {
            lines.push(sdk.line("publish", &json!({ "channel": "s", "data": n })));
            lines.push(sdk.line("history", &json!({ "channel": "s" })));
            lines.push(sdk.line("presence_stats", &json!({ "channel": "s" })));
        }
        let first = COUNT + 2;
        sdk.send_text(&lines.join("\n"));
        for n in 0..500 {
            let id = (first + 3 * n) as u32;
            assert_eq!(sdk.result("history", id + 1)["offset"], n + 1);
            assert_eq!(sdk.result("publish", id), json!({}));
            assert_eq!(sdk.result("presence_stats", id + 2)["num_clients"], 0);
        }
    }
}

// --- Slow members ---------------------------------------------------------------------------------

/// More than the kernel holds for a connection that is not read.
const FLOOD: u64 = 900;

/// Publishes `[n, …]` of 16 KB each, `n` from 1, and has a healthy member take them.
fn flood(daemon: &Daemon, room: &str) {
    let mut healthy = Sdk::member(daemon, room);
    let mut api = Api::connect(daemon);
    let block = "x".repeat(16 * 1024);
    for n in 1..=FLOOD {
        assert_eq!(api.publish(room, &json!([n, block])), n);
        assert_eq!(healthy.publication(room)["data"][0], n);
    }
}

#[test]
fn a_member_that_is_slow_is_closed_where_nothing_may_be_skipped() {
    let daemon = Daemon::start(&["--outbound-queue", "50"]);
    let mut slow = Sdk::narrow(&daemon);
    slow.connect(&json!({}));
    slow.subscribe("r");
    flood(&daemon, "r");
    let before = slow.wire.drain_to_close(3008, "slow");
    let mut last = 0;
    for message in &before {
        let Message::Text(text) = message else {
            panic!("{message:?}");
        };
        for line in harness::lines_of(text) {
            let line: Value = serde_json::from_str(&line).expect("JSON");
            last += 1;
            assert_eq!(line["push"]["pub"]["offset"], last);
        }
    }
    assert!((1..FLOOD).contains(&last), "{last}");
    daemon.wait_closes("slow", 1.0);
}

#[test]
fn a_member_that_is_slow_is_told_what_it_missed_where_some_may_be_skipped() {
    let args = [
        "--outbound-queue",
        "50",
        "--lossy-room",
        "l*",
        "--write-timeout",
        "60s",
    ];
    let daemon = Daemon::start(&args);
    let mut slow = Sdk::narrow(&daemon);
    slow.connect(&json!({}));
    slow.subscribe("lossy");
    flood(&daemon, "lossy");
    let (mut received, mut skipped, mut last) = (0, 0, 0);
    while received + skipped < FLOOD {
        let push = slow.push();
        if let Some(publication) = push.get("pub") {
            received += 1;
            let offset = publication["offset"].as_u64().expect("an offset");
            assert_eq!(publication["data"][0], offset);
            assert_eq!(offset, received + skipped, "after {last}");
            last = offset;
        } else {
            let told = &push["message"]["data"]["skipped"];
            let count = told["count"].as_u64().expect("a count");
            assert!(count > 0);
            skipped += count;
            let told = json!({ "room": "lossy", "count": count });
            assert_eq!(push, json!({ "message": { "data": { "skipped": told } } }));
        }
    }
    assert_eq!(received + skipped, FLOOD);
    assert!(skipped > 0);
    assert_eq!(daemon.metric("roomcast_skipped_total"), skipped as f64);
    Api::connect(&daemon).publish("lossy", &json!("live"));
    slow.expect_publication("lossy", &json!({ "data": "live", "offset": FLOOD + 1 }));
}

// --- The end --------------------------------------------------------------------------------------

#[test]
fn clients_are_sent_away_with_words_that_are_no_json() {
    for args in [["--drain-timeout", "0"], ["--drain-timeout", "1s"]] {
        let mut daemon = Daemon::start(&args);
        let mut clients: Vec<_> = (0..5).map(|_| Sdk::member(&daemon, "r")).collect();
        let mut stranger = Sdk::open(&daemon);
        Api::connect(&daemon).publish("r", &json!("last"));
        daemon.signal(Signal::Term);
        for sdk in &mut clients {
            sdk.expect_publication("r", &json!({ "data": "last", "offset": 1 }));
            let Message::Close(Some(3001), reason) = sdk.wire.recv() else {
                panic!("no close 3001");
            };
            assert!(reason.starts_with("shutdown"), "{reason}");
            assert!(serde_json::from_str::<Value>(&reason).is_err(), "{reason}");
            let _ = sdk.wire.wire.try_send(Frame::close(3001, "").bytes());
        }
        stranger.wire.expect_close(3001, None);
        assert!(daemon.wait_exit().success());
    }
}

#[test]
fn a_client_that_ends_in_the_middle_of_its_commands_leaves_nothing() {
    let daemon = Daemon::start(&["--workers", "3"]);
    let mut witness = Witness::new(&daemon);
    for round in 0..40 {
        let dial = Dial::new(daemon.addr(), &format!("{SDK_PATH}?user=u{round}"));
        let mut sdk = Sdk::of(dial.connect());
        let mut lines = vec![sdk.line("connect", &json!({}))];
        for n in 0..50 {
            let room = json!({ "channel": format!("r{n}"), "data": n, "recover": true });
            lines.push(sdk.line("subscribe", &room));
            lines.push(sdk.line("publish", &room));
            lines.push(sdk.line("presence", &room));
        }
        sdk.send_text(&lines.join("\n"));
        if round % 2 == 0 {
            let reply = sdk.next();
            assert!(reply["connect"].is_object(), "{reply}");
        }
        if round % 3 == 0 {
            sdk.wire.send_close(1000, "bye");
        }
        sdk.wire.reset();
    }
    daemon.wait_members(2);
    daemon.wait_metric("roomcast_users", |now| now == 0.0);
    daemon.wait_metric("roomcast_websockets", |now| now == 2.0);
    witness.assert_served();
    // Nothing is left to do.
    let before = daemon.cpu_time();
    linger(Duration::from_millis(300));
    assert!(daemon.cpu_time() - before < Duration::from_millis(150));
}
