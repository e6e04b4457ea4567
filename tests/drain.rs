//! The end in good order: members are closed one after the other, told when to come back, and served
//! until then.

mod harness;

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use harness::{
    Api, Client, Daemon, Dial, Frame, Message, Signal, Start, Wire, json_member, upgrade_request,
};
use serde_json::{Value, json};

/// The close of a raw member: how long it is asked to stay away.
fn raw_retry_ms(reason: &str) -> u64 {
    let retry_ms = reason.strip_prefix("shutdown retry_ms=");
    let retry_ms = retry_ms.and_then(|retry_ms| retry_ms.parse().ok());
    retry_ms.unwrap_or_else(|| panic!("{reason:?}"))
}

/// Reads to the close of a member, answers it, and returns the messages before it and how long the
/// member is asked to stay away.
fn until_closed(client: &mut Client) -> (Vec<String>, u64) {
    let mut texts = Vec::new();
    let reason = loop {
        match client.recv() {
            Message::Text(text) => texts.push(text),
            Message::Close(Some(3001), reason) => break reason,
            other => panic!("{other:?}"),
        }
    };
    let _ = client.wire.try_send(Frame::close(3001, "").bytes());
    client.wire.expect_end();
    let told = texts.last().filter(|text| text.starts_with("{\"closing\""));
    let Some(told) = told.cloned() else {
        return (texts, raw_retry_ms(&reason));
    };
    texts.pop();
    assert_eq!(reason, "shutdown");
    let closing: Value = serde_json::from_str(&told).expect("JSON");
    let closing = &closing["closing"];
    assert_eq!(
        (&closing["code"], &closing["reason"]),
        (&json!(3001), &json!("shutdown"))
    );
    (texts, closing["retry_ms"].as_u64().expect("milliseconds"))
}

#[test]
fn a_thousand_closes_are_spread_evenly_and_told_when_to_come_back() {
    const MEMBERS: usize = 1000;
    const THREADS: usize = 8;
    let span = Duration::from_secs(4);
    let mut daemon = Daemon::start(&["--drain-timeout", "4s"]);
    let targets = [
        "/ws?room=a",
        "/ws?room=a&format=json",
        "/ws?user=al",
        "/echo",
    ];
    let mut lots: Vec<Vec<Client>> = (0..THREADS).map(|_| Vec::new()).collect();
    for number in 0..MEMBERS {
        let target = targets[number / THREADS % targets.len()];
        let mut client = Client::connect(&daemon, target);
        if target.ends_with("json") {
            assert!(client.recv_json()["joined"].is_object());
        }
        lots[number % THREADS].push(client);
    }
    let closes = Mutex::new(Vec::new());
    let begun = Instant::now();
    daemon.signal(Signal::Term);
    std::thread::scope(|scope| {
        for clients in &mut lots {
            scope.spawn(|| {
                // Slots are given in order, and the closes go by slots.
                for client in clients {
                    let (texts, retry_ms) = until_closed(client);
                    assert_eq!(texts, Vec::<String>::new());
                    closes
                        .lock()
                        .expect("no panic")
                        .push((begun.elapsed(), retry_ms));
                }
            });
        }
    });
    assert!(daemon.wait_exit().success());
    let took = begun.elapsed();
    assert!(took < span + Duration::from_secs(3), "{took:?}");

    let mut closes = closes.into_inner().expect("no panic");
    closes.sort();
    assert_eq!(closes.len(), MEMBERS);
    for (number, (at, _)) in (0..).zip(&closes) {
        let expected = span * number / MEMBERS as u32;
        let off = at.abs_diff(expected);
        assert!(off < span / 8, "close {number} at {at:?}, not {expected:?}");
    }
    let times: BTreeSet<u64> = closes.iter().map(|(_, retry_ms)| *retry_ms).collect();
    assert!(times.len() > MEMBERS / 2, "{} different times", times.len());
    assert!(
        times.iter().all(|ms| (1000..=5000).contains(ms)),
        "{times:?}"
    );
    let spread = times.last().expect("some") - times.first().expect("some");
    assert!(spread > 3500, "{spread} ms between the first and the last");
    let lines = daemon.log_lines();
    let ends = lines.iter().filter(|line| line.contains("reason=shutdown"));
    assert_eq!(ends.count(), MEMBERS);
}

#[test]
fn members_are_served_until_their_turn_and_miss_nothing() {
    for workers in ["0", "2"] {
        let mut daemon = Daemon::start(&["--drain-timeout", "2s", "--workers", workers]);
        let mut members: Vec<Client> = (0..10)
            .map(|number| match number % 2 {
                0 => Client::connect(&daemon, "/ws?room=a"),
                _ => json_member(&daemon, "room=a"),
            })
            .collect();
        daemon.wait_members(10);
        let mut api = Api::connect(&daemon);
        daemon.signal(Signal::Term);
        daemon.wait_log("draining: 10 WebSockets");
        // Every publication is acknowledged when it is queued for those who are there.
        let begun = Instant::now();
        let mut acknowledged = Vec::new();
        while begun.elapsed() < Duration::from_millis(1700) {
            let offset = api.publish("a", &json!((acknowledged.len() + 1).to_string()));
            assert_eq!(offset, acknowledged.len() as u64 + 1);
            acknowledged.push(begun.elapsed());
            harness::pace(Duration::from_millis(5));
        }
        let mut counts = Vec::new();
        for member in &mut members {
            let (texts, _) = until_closed(member);
            for (text, number) in texts.iter().zip(1..) {
                let data = match serde_json::from_str::<Value>(text) {
                    Ok(Value::Object(envelope)) => envelope["publication"]["data"].clone(),
                    _ => json!(text),
                };
                assert_eq!(data, json!(number.to_string()), "a gap, or a repetition");
            }
            counts.push(texts.len());
        }
        assert!(
            counts.is_sorted(),
            "whoever is closed later has more: {counts:?}"
        );
        // Closes are 200 ms apart; each member has all that was there a little before its own.
        for (number, count) in counts.iter().enumerate() {
            let close = Duration::from_millis(200 * number as u64);
            let sure = close.saturating_sub(Duration::from_millis(100));
            let owed = acknowledged.iter().filter(|at| **at < sure).count();
            assert!(*count >= owed, "member {number}: {count} of {owed}");
        }
        assert!(counts[9] > counts[1], "{counts:?}");
        drop(api);
        assert!(daemon.wait_exit().success());
    }
}

#[test]
fn what_is_queued_leaves_before_the_close() {
    let mut daemon = Daemon::start(&["--drain-timeout", "100ms"]);
    let mut publisher = Client::connect(&daemon, "/ws?room=a");
    let slow = Dial::new(daemon.addr(), "/ws?room=a&format=json").receive_buffer(4096);
    let mut slow = slow.connect();
    daemon.wait_members(2);
    let text = "x".repeat(16 * 1024);
    for number in 0..60 {
        let text = format!("{number} {text}");
        publisher.send_text(&text);
        assert_eq!(publisher.recv_text(), text);
    }
    daemon.signal(Signal::Term);
    until_closed(&mut publisher);
    // Both have been told by now; the slow one has not begun to read.
    daemon.wait_log("stopping: ");
    assert!(slow.recv_json()["joined"].is_object());
    let (texts, _) = until_closed(&mut slow);
    assert_eq!(texts.len(), 60);
    for (text, number) in texts.iter().zip(0..) {
        let envelope: Value = serde_json::from_str(text).expect("JSON");
        let data = envelope["publication"]["data"].as_str().expect("text");
        assert!(data.starts_with(&format!("{number} x")), "not {number}");
    }
    assert!(daemon.wait_exit().success());
}

/// Publishes until so many bytes are queued for the one slow member; returns how many publications
/// it is owed.
fn fill_queue(daemon: &Daemon, publisher: &mut Client, text: &str, bytes: u64) -> usize {
    for published in 1..=1000 {
        publisher.send_text(text);
        assert_eq!(publisher.recv_text(), text);
        let view = daemon.admin_get("/debug/loop");
        let view: Value = serde_json::from_slice(&view.body).expect("JSON");
        let queued = view["queues"].as_array().expect("a list").iter();
        let queued = queued.filter_map(|row| row["queued_bytes"].as_u64());
        if queued.max().is_some_and(|queued| queued >= bytes) {
            return published;
        }
    }
    panic!("everything fits the sockets");
}

#[test]
fn a_slow_reader_gets_all_that_is_queued_and_its_close() {
    // Its sockets are small, so that it is the daemon that has to wait.
    let mut daemon = Start::default()
        .pass(harness::narrow_listener(64 << 10))
        .args(&["--drain-timeout", "100ms"])
        .start();
    let mut publisher = Client::connect(&daemon, "/ws?room=a");
    let slow = Dial::new(daemon.addr(), "/ws?room=a").receive_buffer(8 << 10);
    let mut slow = slow.connect();
    daemon.wait_members(2);
    let text = "x".repeat(16 << 10);
    let owed = fill_queue(&daemon, &mut publisher, &text, 512 << 10);
    daemon.signal(Signal::Term);
    until_closed(&mut publisher);
    // About 100 KB a second: longer than the linger after a close.
    let begun = Instant::now();
    let (mut texts, mut read) = (0, 0);
    let reason = loop {
        match slow.recv() {
            Message::Text(found) => {
                assert_eq!(found, text);
                texts += 1;
                read += found.len();
                let due = Duration::from_micros(read as u64 * 10);
                harness::pace(due.saturating_sub(begun.elapsed()));
            }
            Message::Close(Some(3001), reason) => break reason,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(texts, owed);
    assert!(begun.elapsed() > Duration::from_secs(5));
    let retry_ms = raw_retry_ms(&reason);
    assert!((1000..=5000).contains(&retry_ms), "{retry_ms}");
    let _ = slow.wire.try_send(Frame::close(3001, "").bytes());
    assert!(daemon.wait_exit().success());
    let lines = daemon.log_lines();
    assert!(
        !lines.iter().any(|line| line.contains("dropped")),
        "{lines:#?}"
    );
}

#[test]
fn what_nobody_reads_is_dropped_in_the_end_and_told() {
    let mut daemon = Start::default()
        .pass(harness::narrow_listener(64 << 10))
        .args(&["--write-timeout", "1s"])
        .start();
    let mut publisher = Client::connect(&daemon, "/ws?room=a");
    let stalled = Dial::new(daemon.addr(), "/ws?room=a").receive_buffer(8 << 10);
    let _stalled = stalled.silent().connect();
    daemon.wait_members(2);
    let text = "x".repeat(16 << 10);
    fill_queue(&daemon, &mut publisher, &text, 256 << 10);
    let begun = Instant::now();
    daemon.signal(Signal::Term);
    assert!(daemon.wait_exit().success());
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
    let line = daemon.wait_log("publications were dropped from queues");
    let words: Vec<&str> = line.split(' ').collect();
    let place = words.iter().position(|word| *word == "publications");
    let count = place.and_then(|place| words[place - 1].parse::<usize>().ok());
    assert!(count.is_some_and(|count| count >= 16), "{line}");
    assert!(line.contains("WARN"), "{line}");
}

#[test]
fn health_says_draining_and_nobody_else_is_let_in() {
    let mut daemon = Daemon::start(&["--drain-timeout", "6s"]);
    let health = |addr| format!("GET /healthz HTTP/1.1\r\nHost: {addr}\r\n\r\n");
    let addrs = [daemon.addr(), daemon.admin()];
    // These stay, and ask again later.
    let mut kept = addrs.map(Wire::connect);
    for (wire, addr) in kept.iter_mut().zip(addrs) {
        wire.send(health(addr));
        let response = wire.response();
        assert_eq!((response.status, response.text().as_str()), (200, "ok"));
    }
    // Nobody has gone by now, so the first has the lower slot, and its turn first.
    let mut first = Client::connect(&daemon, "/ws?room=a");
    let mut second = Client::connect(&daemon, "/ws?room=a");
    assert_eq!(daemon.metric("roomcast_draining"), 0.0);
    daemon.wait_members(2);
    daemon.signal(Signal::Term);
    until_closed(&mut first);

    for (wire, addr) in kept.iter_mut().zip(addrs) {
        wire.send(health(addr));
        let response = wire.response();
        assert_eq!(
            (response.status, response.text().as_str()),
            (503, "draining")
        );
        let mut wire = Wire::connect(addr);
        wire.send(health(addr));
        let response = wire.response();
        assert_eq!(
            (response.status, response.text().as_str()),
            (503, "draining")
        );
    }
    assert_eq!(daemon.admin_get("/readyz").status, 503);
    assert_eq!(daemon.metric("roomcast_draining"), 1.0);
    for origin in [
        &[][..],
        &[("Origin", &*format!("http://{}", daemon.addr()))],
    ] {
        for target in ["/ws?room=a", "/echo"] {
            let mut wire = Wire::connect(daemon.addr());
            wire.send(upgrade_request(daemon.addr(), target, origin));
            let response = wire.response();
            assert_eq!(response.status, 503, "{target}");
            assert_eq!(response.header("retry-after"), Some("5"), "{target}");
            wire.expect_end();
        }
    }
    // Back ends go on, on connections that stay.
    let mut api = Api::connect(&daemon);
    for number in 1..=3 {
        assert_eq!(api.publish("a", &json!("still here")), number);
    }
    for _ in 0..3 {
        assert_eq!(second.recv_text(), "still here");
    }
    second.send_text("me too");
    assert_eq!(second.recv_text(), "me too");
    until_closed(&mut second);
    assert!(daemon.wait_exit().success());
}

#[test]
fn a_drain_ends_when_the_last_member_has_gone_by_itself() {
    let mut daemon = Daemon::start(&["--drain-timeout", "1h"]);
    let mut members: Vec<Client> = (0..5)
        .map(|_| Client::connect(&daemon, "/ws?room=a"))
        .collect();
    daemon.wait_members(5);
    daemon.signal(Signal::Term);
    until_closed(&mut members[0]);
    for member in members.drain(1..) {
        assert!(daemon.runs());
        member.close();
    }
    let begun = Instant::now();
    assert!(daemon.wait_exit().success());
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
}

#[test]
fn a_second_signal_ends_a_drain_at_once() {
    for (first, second) in [(Signal::Term, Signal::Term), (Signal::Int, Signal::Term)] {
        let mut daemon = Daemon::start(&["--drain-timeout", "1h"]);
        let mut members: Vec<Client> = (0..20)
            .map(|_| Client::connect(&daemon, "/ws?room=a"))
            .collect();
        daemon.wait_members(20);
        daemon.signal(first);
        until_closed(&mut members[0]);
        assert!(daemon.runs(), "nineteen are left");
        let begun = Instant::now();
        daemon.signal(second);
        assert!(daemon.wait_exit().success());
        assert!(
            begun.elapsed() < Duration::from_secs(1),
            "{:?}",
            begun.elapsed()
        );
        for member in &mut members[1..] {
            member.wire.expect_gone();
        }
    }
}

#[test]
fn the_default_is_thirty_seconds() {
    let shown = harness::stdout_of(&["check"]);
    let line = shown.lines().find(|line| line.contains("--drain-timeout"));
    assert!(line.is_some_and(|line| line.ends_with(" 30s")), "{shown}");
}
