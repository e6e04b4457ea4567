//! How connections and the daemon itself end: in order, without a word, or all at once.

mod harness;

use std::time::{Duration, Instant};

use harness::{
    Client, Daemon, Dial, Frame, Message, Signal, Start, Trial, Wire, Witness, opcode,
    upgrade_request,
};

const NORMAL: &[&str] = &["normal"];
const GONE: &[&str] = &["gone"];
const RESET: &[&str] = &["reset"];
const PROTOCOL: &[&str] = &["protocol"];

/// The daemon's patience with a peer that does not answer its close is three seconds.
const LINGER_MAX: Duration = Duration::from_secs(5);

// --- The peer closes ------------------------------------------------------------------------------

#[test]
fn a_close_is_answered_with_its_code() {
    let daemon = Daemon::start(&[]);
    let mut witness = Witness::new(&daemon);
    let codes = [
        1000, 1001, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999,
    ];
    let longest = "r".repeat(123);
    for code in codes {
        for (target, reason) in [
            ("/ws?room=a", ""),
            ("/echo", "a reason"),
            ("/echo", &longest),
        ] {
            let trial = Trial::begin(&daemon, NORMAL);
            let mut client = Client::connect(&daemon, target);
            client.send_close(code, reason);
            match client.recv() {
                Message::Close(answer, _) => assert_eq!(answer, Some(code)),
                other => panic!("{code}: {other:?}"),
            }
            client.expect_eof();
            trial.assert_ended(client.local_addr());
        }
    }
    witness.assert_served();
}

#[test]
fn a_peer_that_closes_with_1002_has_broken_no_rule_itself() {
    let daemon = Daemon::start(&[]);
    let trial = Trial::begin(&daemon, NORMAL);
    let mut client = Client::connect(&daemon, "/echo");
    client.send_close(1002, "your fault");
    match client.recv() {
        Message::Close(Some(1002), _) => {}
        other => panic!("{other:?}"),
    }
    client.expect_eof();
    trial.assert_ended(client.local_addr());
}

#[test]
fn a_close_without_a_code_is_answered() {
    let daemon = Daemon::start(&[]);
    let trial = Trial::begin(&daemon, NORMAL);
    let mut client = Client::connect(&daemon, "/echo");
    client.send(&Frame::new(opcode::CLOSE, ""));
    match client.recv() {
        Message::Close(None | Some(1000), _) => {}
        other => panic!("{other:?}"),
    }
    client.expect_eof();
    trial.assert_ended(client.local_addr());
}

#[test]
fn a_peer_that_has_closed_is_not_waited_for() {
    let daemon = Daemon::start(&[]);
    let trial = Trial::begin(&daemon, NORMAL);
    let mut client = Client::connect(&daemon, "/echo");
    let start = Instant::now();
    client.send_close(1000, "bye");
    match client.recv() {
        Message::Close(Some(1000), _) => {}
        other => panic!("{other:?}"),
    }
    // Our side of the stream stays open meanwhile.
    client.wire.expect_fin();
    trial.assert_ended(client.local_addr());
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn nothing_after_a_close_is_listened_to() {
    let daemon = Daemon::start(&[]);
    let mut witness = Witness::in_room(&daemon, "a");
    let after: [(&str, Vec<u8>); 5] = [
        ("text", Frame::text("too late").bytes()),
        ("a ping", Frame::ping("too late").bytes()),
        ("another close", Frame::close(1001, "").bytes()),
        ("a violation", Frame::text("too late").unmasked().bytes()),
        ("garbage", vec![0xff; 1000]),
    ];
    for (name, after) in after {
        let trial = Trial::begin(&daemon, NORMAL);
        let mut client = Client::connect(&daemon, "/ws?room=a&echo=0");
        client.send_bytes([Frame::close(1000, "bye").bytes(), after].concat());
        match client.recv() {
            Message::Close(Some(1000), _) => {}
            other => panic!("{name}: {other:?}"),
        }
        client.wire.expect_end();
        trial.assert_ended(client.local_addr());
        witness.assert_served();
    }
}

#[test]
fn a_member_that_has_closed_is_no_member() {
    let daemon = Daemon::start(&[]);
    let mut stays = Client::connect(&daemon, "/ws?room=a");
    let mut leaves = Client::connect(&daemon, "/ws?room=a");
    daemon.wait_members(2);
    leaves.send_close(1000, "bye");
    daemon.wait_members(1);
    stays.send_text("after the close");
    assert_eq!(stays.recv_text(), "after the close");
    match leaves.recv() {
        Message::Close(Some(1000), _) => {}
        other => panic!("{other:?}"),
    }
    leaves.expect_eof();
}

// --- The daemon closes ----------------------------------------------------------------------------

#[test]
fn a_peer_that_does_not_answer_a_close_is_dropped() {
    let daemon = Daemon::start(&[]);
    let mut witness = Witness::new(&daemon);
    let trial = Trial::begin(&daemon, PROTOCOL);
    let mut client = Client::connect(&daemon, "/echo");
    client.send(&Frame::text("x").unmasked());
    match client.recv() {
        Message::Close(Some(1002), _) => {}
        other => panic!("{other:?}"),
    }
    let start = Instant::now();
    client.wire.expect_fin();
    trial.assert_ended(client.local_addr());
    assert!(start.elapsed() < LINGER_MAX, "{:?}", start.elapsed());
    witness.assert_served();
}

#[test]
fn a_peer_that_answers_a_close_is_let_go_at_once() {
    let daemon = Daemon::start(&[]);
    let trial = Trial::begin(&daemon, PROTOCOL);
    let mut client = Client::connect(&daemon, "/echo");
    client.send(&Frame::text("x").unmasked());
    client.expect_close(1002, None);
    let start = Instant::now();
    trial.assert_ended(client.local_addr());
    assert!(
        start.elapsed() < Duration::from_secs(1),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn a_peer_that_goes_on_talking_after_the_close_is_dropped() {
    let daemon = Daemon::start(&[]);
    let mut witness = Witness::in_room(&daemon, "a");
    let trial = Trial::begin(&daemon, PROTOCOL);
    let mut client = Client::connect(&daemon, "/ws?room=a&echo=0");
    client.send(&Frame::text("x").unmasked());
    let start = Instant::now();
    let text = Frame::text("not listening").bytes();
    let mut close = None;
    // Until the daemon has gone, which the sending end notices.
    while client.wire.try_send(&text).is_ok() {
        assert!(start.elapsed() < LINGER_MAX, "{:?}", start.elapsed());
        if close.is_none() {
            close = client.recv_within(Duration::from_millis(10));
        } else {
            harness::pace(Duration::from_millis(10));
        }
    }
    assert!(
        matches!(close, Some(Message::Close(Some(1002), _))),
        "{close:?}"
    );
    trial.assert_ended(client.local_addr());
    witness.assert_served();
}

// --- Without a word -------------------------------------------------------------------------------

#[test]
fn a_reset_ends_a_connection_at_once() {
    let daemon = Daemon::start(&[]);
    let mut witness = Witness::in_room(&daemon, "a");
    let half = Frame::text("half a frame").bytes();
    let half = &half[..8];
    for (name, bytes) in [("idle", &b""[..]), ("amid a frame", half)] {
        for target in ["/ws?room=a", "/echo"] {
            let trial = Trial::begin(&daemon, RESET);
            let mut client = Client::connect(&daemon, target);
            client.send_bytes(bytes);
            let peer = client.local_addr();
            client.reset();
            trial.assert_ended(peer);
            daemon.wait_members(2);
            witness.assert_served();
            assert_eq!(daemon.closes("protocol"), 0.0, "{name}");
        }
    }
}

#[test]
fn an_end_without_a_close_frame_is_taken_for_one() {
    let daemon = Daemon::start(&[]);
    let mut witness = Witness::in_room(&daemon, "a");
    let start = Frame::text("unfinished").unfinished().bytes();
    for bytes in [&b""[..], &start[..3], &start] {
        let trial = Trial::begin(&daemon, GONE);
        let mut client = Client::connect(&daemon, "/ws?room=a");
        client.send_bytes(bytes);
        client.wire.half_close();
        client.wire.expect_end();
        trial.assert_ended(client.local_addr());
        daemon.wait_members(2);
        witness.assert_served();
    }
}

#[test]
fn an_end_before_the_upgrade_is_quiet() {
    let daemon = Daemon::start(&[]);
    let mut witness = Witness::new(&daemon);
    let head = upgrade_request(daemon.addr(), "/ws?room=a", &[]);
    for part in ["", "G", &head[..head.len() - 1]] {
        let trial = Trial::begin(&daemon, GONE);
        let mut wire = Wire::connect(daemon.addr());
        wire.send(part);
        wire.half_close();
        wire.expect_gone();
        trial.assert_ended(wire.local_addr());

        let trial = Trial::begin(&daemon, RESET);
        let mut wire = Wire::connect(daemon.addr());
        wire.send(part);
        let peer = wire.local_addr();
        // A reset may overtake what was sent, or even the accept, but not be forgotten.
        wire.reset();
        trial.assert_ended(peer);
        witness.assert_served();
    }
}

#[test]
fn half_closed_peers_do_not_keep_the_loop_busy() {
    let daemon = Daemon::start(&["--handshake-timeout", "10s"]);
    let wires: Vec<_> = (0..10).map(|_| Wire::connect(daemon.addr())).collect();
    let clients: Vec<_> = (0..10)
        .map(|_| Client::connect(&daemon, "/ws?room=a"))
        .collect();
    daemon.wait_members(10);
    for wire in wires
        .iter()
        .chain(clients.iter().map(|client| &client.wire))
    {
        wire.half_close();
    }
    daemon.wait_members(0);
    let before = daemon.cpu_time();
    harness::linger(Duration::from_millis(300));
    let used = daemon.cpu_time() - before;
    assert!(used < Duration::from_millis(100), "{used:?} of 300 ms");
}

#[test]
fn an_idle_daemon_uses_no_cpu() {
    let daemon = Daemon::start(&["--ping-interval", "1h", "--pong-timeout", "2h"]);
    let members: Vec<_> = (0..50)
        .map(|_| Client::connect(&daemon, "/ws?room=a"))
        .collect();
    daemon.wait_members(50);
    let before = daemon.cpu_time();
    harness::linger(Duration::from_millis(500));
    let used = daemon.cpu_time() - before;
    assert!(used < Duration::from_millis(50), "{used:?} of 500 ms");
    drop(members);
}

// --- Signals --------------------------------------------------------------------------------------

#[test]
fn a_signal_closes_every_member_3001_and_ends_the_daemon_in_success() {
    for workers in ["0", "1", "3"] {
        for signal in [Signal::Term, Signal::Int] {
            let mut daemon = Daemon::start(&["--workers", workers]);
            let targets = [
                "/ws?room=a",
                "/ws?room=b&user=alice",
                "/echo",
                "/ws?user=bob",
            ];
            let mut clients = targets.map(|target| Client::connect(&daemon, target));
            let mut json = Client::connect(&daemon, "/ws?room=a&format=json");
            assert!(json.recv_json()["joined"].is_object());
            daemon.wait_members(5);
            daemon.signal(signal);
            for client in &mut clients {
                client.expect_close(3001, "shutdown");
            }
            // Those who speak JSON may be told in words first.
            for message in json.drain_to_close(3001, "shutdown") {
                let Message::Text(text) = message else {
                    panic!("{message:?}");
                };
                assert!(text.starts_with("{\"closing\":"), "{text}");
            }
            let status = daemon.wait_exit();
            assert!(status.success(), "{signal:?}: {status}");
            for client in clients.iter().chain([&json]) {
                let line = daemon.expect_closed(client.local_addr());
                assert!(line.contains("reason=shutdown "), "{line}");
                assert!(line.contains("code=3001"), "{line}");
            }
        }
    }
}

#[test]
fn a_signal_ends_a_daemon_without_connections_at_once() {
    for signal in [Signal::Term, Signal::Int] {
        let mut daemon = Daemon::start(&[]);
        let start = Instant::now();
        daemon.signal(signal);
        assert!(daemon.wait_exit().success());
        assert!(
            start.elapsed() < Duration::from_secs(2),
            "{:?}",
            start.elapsed()
        );
    }
}

#[test]
fn after_a_signal_nobody_is_accepted() {
    let mut daemon = Daemon::start(&[]);
    // A member that does not answer keeps the daemon busy for a while.
    let mut member = Client::connect(&daemon, "/ws?room=a");
    daemon.signal(Signal::Term);
    match member.recv() {
        Message::Close(Some(3001), reason) => {
            assert!(reason.starts_with("shutdown retry_ms="), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    let late = std::net::TcpStream::connect(daemon.addr());
    if let Ok(late) = late {
        // The kernel may have taken it in before the listener was closed; served it is not.
        late.set_read_timeout(Some(harness::DEADLINE))
            .expect("a timeout");
        let read = std::io::Read::read(&mut &late, &mut [0; 16]);
        assert!(!matches!(read, Ok(1..)), "{read:?}");
    }
    assert!(daemon.runs(), "it must wait for the member's answer");
    member.send_close(3001, "");
    member.wire.expect_end();
    assert!(daemon.wait_exit().success());
}

#[test]
fn peers_that_do_not_answer_cannot_hold_up_the_end() {
    let wide = [
        "--outbound-queue",
        "100000",
        "--outbound-queue-size",
        "64MiB",
        // What is queued has so long to be taken.
        "--write-timeout",
        "3s",
    ];
    let mut daemon = Daemon::start(&wide);
    let mut publisher = Client::connect(&daemon, "/ws?room=a");
    let stalled = Dial::new(daemon.addr(), "/ws?room=a").receive_buffer(4096);
    let stalled = stalled.connect();
    daemon.wait_members(2);
    let text = "x".repeat(32 * 1024);
    for _ in 0..256 {
        publisher.send_text(&text);
        assert_eq!(publisher.recv_text(), text);
    }
    let mute: Vec<_> = (0..5)
        .map(|_| Client::connect(&daemon, "/ws?room=a"))
        .collect();
    let mut half_head = Wire::connect(daemon.addr());
    half_head.send("GET /ws?room=a HTTP/1.1\r\n");
    let nothing = Wire::connect(daemon.addr());
    let mut kept_alive = Wire::connect(daemon.addr());
    kept_alive.send("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(kept_alive.response().status, 200);
    daemon.wait_members(7);
    let start = Instant::now();
    daemon.signal(Signal::Term);
    assert!(daemon.wait_exit().success());
    assert!(start.elapsed() < LINGER_MAX, "{:?}", start.elapsed());
    drop((stalled, mute, half_head, nothing, kept_alive));
}

#[test]
fn a_daemon_can_be_started_again_at_once_on_the_same_port() {
    for signal in [Signal::Kill, Signal::Term, Signal::Int] {
        // An address of its own keeps the port from being taken by another test meanwhile.
        let mut daemon = Daemon::start(&["--listen", "127.0.0.53:0"]);
        let listen = daemon.addr().to_string();
        let mut members: Vec<_> = (0..20)
            .map(|_| Client::connect(&daemon, "/ws?room=a"))
            .collect();
        let mut half_head = Wire::connect(daemon.addr());
        half_head.send("GET /ws");
        daemon.wait_members(20);
        members[0].send_text("before");
        for member in &mut members {
            assert_eq!(member.recv_text(), "before");
        }
        daemon.signal(signal);
        daemon.wait_exit();
        let again = Start::default().args(&["--listen", &listen]).start();
        assert_eq!(again.addr().to_string(), listen);
        // The members of old come back while their old connections still linger.
        let mut back: Vec<_> = (0..20)
            .map(|_| Client::connect(&again, "/ws?room=a"))
            .collect();
        again.wait_members(20);
        back[0].send_text("after");
        for member in &mut back {
            assert_eq!(member.recv_text(), "after");
        }
        drop(members);
    }
}
