//! Pings, the pong timeout, and heartbeats that an application sees.

mod harness;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use harness::{Client, Daemon, Dial, Frame, Message, Trial, Witness, opcode};

const NO_PONG: &[&str] = &["no_pong"];

const PINGS: [&str; 4] = ["--ping-interval", "300ms", "--pong-timeout", "900ms"];

// --- Pings ----------------------------------------------------------------------------------------

#[test]
fn pings_come_in_the_interval_and_are_empty() {
    let daemon = Daemon::start(&["--ping-interval", "300ms"]);
    for target in ["/ws?room=a", "/echo", "/ws?user=alice&format=json"] {
        let mut client = Dial::new(daemon.addr(), target).silent().connect();
        if target.contains("json") {
            assert!(client.recv_json()["joined"].is_object());
        }
        assert_eq!(client.recv(), Message::Ping(Vec::new()), "{target}");
        let mut last = Instant::now();
        for _ in 0..3 {
            client.send(&Frame::new(opcode::PONG, ""));
            assert_eq!(client.recv(), Message::Ping(Vec::new()), "{target}");
            let gap = last.elapsed();
            assert!(gap > Duration::from_millis(100), "{target}: {gap:?}");
            assert!(gap < Duration::from_millis(1500), "{target}: {gap:?}");
            last = Instant::now();
        }
    }
}

#[test]
fn first_pings_are_spread_over_the_interval() {
    let daemon = Daemon::start(&["--ping-interval", "1s"]);
    let dial = Dial::new(daemon.addr(), "/ws?room=a").silent();
    let clients: Vec<_> = (0..20).map(|_| dial.connect()).collect();
    let start = Instant::now();
    let times: Vec<_> = std::thread::scope(|scope| {
        let first_ping = |mut client: Client| {
            assert_eq!(client.recv(), Message::Ping(Vec::new()));
            start.elapsed()
        };
        let waiting: Vec<_> = clients
            .into_iter()
            .map(|client| scope.spawn(move || first_ping(client)))
            .collect();
        let joined = waiting.into_iter().map(|thread| thread.join());
        joined.map(|time| time.expect("a ping")).collect()
    });
    let first = times.iter().min().expect("twenty times");
    let last = times.iter().max().expect("twenty times");
    assert!(*last - *first > Duration::from_millis(100), "{times:?}");
}

#[test]
fn pings_can_be_turned_off() {
    let daemon = Daemon::start(&["--ping-interval", "off"]);
    let mut client = Dial::new(daemon.addr(), "/echo").silent().connect();
    // With the default interval and its jitter this would say little, yet `off` must not mean zero.
    assert_eq!(client.recv_within(Duration::from_millis(300)), None);
    client.send_text("probe");
    assert_eq!(client.recv_text(), "probe");
}

// --- The pong timeout -----------------------------------------------------------------------------

#[test]
fn a_peer_that_falls_silent_is_closed_3012() {
    let daemon = Daemon::start(&PINGS);
    let trial = Trial::begin(&daemon, NO_PONG);
    let mut silent = Dial::new(daemon.addr(), "/ws?room=a").silent().connect();
    let start = Instant::now();
    let pings = silent.drain_to_close(3012, "no pong");
    let took = start.elapsed();
    assert!(took > Duration::from_millis(850), "after {took:?}");
    assert!(took < Duration::from_secs(4), "after {took:?}");
    assert!(!pings.is_empty(), "it was never asked");
    assert!(pings.iter().all(|ping| *ping == Message::Ping(Vec::new())));
    trial.assert_ended(silent.local_addr());
    let line = daemon.expect_closed(silent.local_addr());
    assert!(line.contains("code=3012"), "{line}");
    Witness::new(&daemon).assert_served();
}

#[test]
fn a_silent_peer_that_ignores_the_close_is_dropped() {
    let daemon = Daemon::start(&PINGS);
    let mut silent = Dial::new(daemon.addr(), "/ws?room=a").silent().connect();
    loop {
        match silent.recv() {
            Message::Ping(_) => {}
            Message::Close(Some(3012), _) => break,
            other => panic!("{other:?}"),
        }
    }
    // It says nothing and does not end its side, for the three seconds of grace.
    silent.wire.expect_fin();
    daemon.wait_closes("no_pong", 1.0);
    daemon.wait_metric("roomcast_connections", |now| now <= 1.0);
}

#[test]
fn peers_that_answer_pings_stay() {
    let daemon = Daemon::start(&PINGS);
    let mut member = Client::connect(&daemon, "/ws?room=a");
    // Twice the timeout, in which pings are answered and nothing else happens.
    assert_eq!(member.recv_within(Duration::from_millis(1800)), None);
    member.send_text("still here");
    assert_eq!(member.recv_text(), "still here");
    assert_eq!(daemon.closes("no_pong"), 0.0);
}

#[test]
fn any_byte_is_a_sign_of_life() {
    let daemon = Daemon::start(&PINGS);
    let signs: [(&str, Vec<u8>); 4] = [
        ("pongs", Frame::new(opcode::PONG, "x").bytes()),
        ("pings", Frame::ping("").bytes()),
        ("messages", Frame::text("x").bytes()),
        ("bytes", vec![0]),
    ];
    std::thread::scope(|scope| {
        for (name, bytes) in signs {
            let target = format!("/ws?room={name}&echo=0");
            let dial = Dial::new(daemon.addr(), &target).silent();
            scope.spawn(move || {
                let mut client = dial.connect();
                if name == "bytes" {
                    client.send_bytes(Frame::binary("").header(1000));
                }
                let end = Instant::now() + Duration::from_millis(2200);
                let mut next = Instant::now();
                while Instant::now() < end {
                    if next <= Instant::now() {
                        client.send_bytes(&bytes);
                        next += Duration::from_millis(100);
                    }
                    let message = client.recv_within(next.duration_since(Instant::now()));
                    if let Some(Message::Close(code, reason)) = message {
                        panic!("{name}: {code:?} {reason}");
                    }
                }
            });
        }
    });
    assert_eq!(daemon.closes("no_pong"), 0.0);
}

// --- Heartbeats -----------------------------------------------------------------------------------

#[test]
fn raw_members_get_the_heartbeat_text() {
    let beat = ["--heartbeat-interval", "150ms"];
    let cases = [
        (vec![], "heartbeat"),
        (vec!["--heartbeat-text", "♥ still there"], "♥ still there"),
    ];
    for (text, expected) in cases {
        let daemon = Daemon::start(&[&beat[..], &text].concat());
        let mut member = Client::connect(&daemon, "/ws?room=a");
        let mut watcher = Client::connect(&daemon, "/ws?user=alice");
        for _ in 0..3 {
            assert_eq!(member.recv_text(), expected);
            assert_eq!(watcher.recv_text(), expected);
        }
    }
}

#[test]
fn heartbeats_come_in_the_interval() {
    let daemon = Daemon::start(&["--heartbeat-interval", "200ms"]);
    let mut member = Client::connect(&daemon, "/ws?room=a");
    member.recv_text();
    let start = Instant::now();
    for _ in 0..5 {
        member.recv_text();
    }
    let took = start.elapsed();
    assert!(took > Duration::from_millis(800), "{took:?}");
    assert!(took < Duration::from_millis(2500), "{took:?}");
}

#[test]
fn heartbeats_stand_between_publications_and_are_none() {
    let daemon = Daemon::start(&["--heartbeat-interval", "100ms"]);
    let mut member = Client::connect(&daemon, "/ws?room=a");
    let mut json = Client::connect(&daemon, "/ws?room=a&format=json");
    daemon.wait_members(2);
    let mut beats = 0;
    for n in 0..300 {
        let text = n.to_string();
        member.send_text(&text);
        loop {
            match member.recv_text() {
                beat if beat == "heartbeat" => beats += 1,
                other => break assert_eq!(other, text),
            }
        }
        if n % 100 == 0 {
            assert_eq!(member.recv_text(), "heartbeat");
        }
    }
    let mut offset = 0;
    while offset < 300 {
        let envelope = json.recv_json();
        if let Some(next) = envelope["publication"]["offset"].as_u64() {
            offset += 1;
            assert_eq!(next, offset);
        }
    }
    assert!(beats < 300, "{beats} heartbeats");
}

#[test]
fn json_members_get_the_state_of_their_rooms() {
    for workers in ["0", "1", "3"] {
        let args = ["--workers", workers, "--heartbeat-interval", "150ms"];
        let daemon = Daemon::start(&args);
        let mut member = Client::connect(&daemon, "/ws?room=a&room=b&format=json");
        let other = Client::connect(&daemon, "/ws?room=b");
        daemon.wait_members(3);
        for _ in 0..3 {
            member.send_text("x");
        }
        let state = |envelope: &serde_json::Value, room: &str| {
            let room = &envelope["heartbeat"]["rooms"][room];
            (room["offset"].as_u64(), room["online"].as_u64())
        };
        // It may take an interval until everything has happened.
        let envelope = harness::wait_for("a heartbeat with the final state", || {
            let envelope = member.recv_json();
            let is_final = state(&envelope, "a") == (Some(3), Some(1))
                && state(&envelope, "b") == (Some(0), Some(2));
            is_final.then_some(envelope)
        });
        let rooms = envelope["heartbeat"]["rooms"].as_object().expect("rooms");
        assert_eq!(rooms.len(), 2, "{envelope}");
        let time = envelope["heartbeat"]["time"].as_u64().expect("a time");
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.expect("a clock after 1970").as_millis();
        let age = now.abs_diff(u128::from(time));
        assert!(age < 5000, "{age} ms off");
        drop(other);
    }
}

#[test]
fn there_are_no_heartbeats_unless_asked_for() {
    let daemon = Daemon::start(&[]);
    let mut member = Client::connect(&daemon, "/ws?room=a");
    assert_eq!(member.recv_within(Duration::from_millis(300)), None);
    member.send_text("probe");
    assert_eq!(member.recv_text(), "probe");
}
