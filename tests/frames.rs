//! What the protocol forbids, and what it merely makes unlikely: each on a connection of its own, beside
//! members who must not notice.

mod harness;

use std::time::{Duration, Instant};

use harness::{Client, Daemon, Dial, Frame, Message, Trial, Witness, opcode};

const PROTOCOL: &[&str] = &["protocol"];
const INVALID_PAYLOAD: &[&str] = &["invalid_payload"];
const TOO_BIG: &[&str] = &["too_big"];

/// The default limit of one message.
const MESSAGE_MAX: usize = 64 * 1024;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// Sends each input on connections of their own, one to a room and one to `/echo`, and expects a close
/// with `code`. The room's other members must see nothing of it and still be served.
fn check(inputs: impl IntoIterator<Item = (String, Vec<u8>)>, code: u16, label: Label) {
    let daemon = Daemon::start(&[]);
    let mut witness = Witness::in_room(&daemon, "abused");
    for (name, bytes) in inputs {
        for target in ["/ws?room=abused", "/echo"] {
            let trial = Trial::begin(&daemon, label);
            let mut client = Client::connect(&daemon, target);
            // The daemon need not take all of it.
            let _ = client.wire.try_send(&bytes);
            let context = format!("{name} to {target}");
            let message = client.recv();
            let Message::Close(got, reason) = &message else {
                panic!("{context}: {message:?}");
            };
            assert_eq!(*got, Some(code), "{context}: {reason}");
            assert!(!reason.is_empty(), "{context}: no reason");
            let _ = client.wire.try_send(Frame::close(code, "").bytes());
            client.wire.expect_end();
            trial.assert_ended(client.local_addr());
            witness.assert_served();
        }
    }
    daemon.wait_members(2);
}

type Label = &'static [&'static str];

fn named<const N: usize>(inputs: [(&str, Vec<u8>); N]) -> Vec<(String, Vec<u8>)> {
    let owned = |(name, bytes): (&str, Vec<u8>)| (name.to_owned(), bytes);
    inputs.into_iter().map(owned).collect()
}

// --- 1002 -----------------------------------------------------------------------------------------

#[test]
fn unmasked_frames_close_1002() {
    let inputs = named([
        ("text", Frame::text("hello").unmasked().bytes()),
        ("empty text", Frame::text("").unmasked().bytes()),
        ("binary", Frame::binary("hello").unmasked().bytes()),
        ("ping", Frame::ping("hello").unmasked().bytes()),
        ("close", Frame::close(1000, "bye").unmasked().bytes()),
    ]);
    check(inputs, 1002, PROTOCOL);
}

#[test]
fn reserved_bits_close_1002() {
    let inputs = (1..=7).flat_map(|rsv| {
        [opcode::TEXT, opcode::BINARY, opcode::PING, opcode::CLOSE].map(|opcode| {
            let frame = Frame::new(opcode, "").reserved(rsv);
            (format!("bits {rsv} of opcode {opcode}"), frame.bytes())
        })
    });
    check(inputs, 1002, PROTOCOL);
}

#[test]
fn reserved_opcodes_close_1002() {
    let inputs = [3, 4, 5, 6, 7, 11, 12, 13, 14, 15].map(|opcode| {
        let frame = Frame::new(opcode, "reserved");
        (format!("opcode {opcode}"), frame.bytes())
    });
    check(inputs, 1002, PROTOCOL);
}

#[test]
fn fragmented_control_frames_close_1002() {
    let inputs = [opcode::PING, opcode::PONG, opcode::CLOSE].map(|opcode| {
        let frame = Frame::new(opcode, "").unfinished();
        (format!("opcode {opcode}"), frame.bytes())
    });
    check(inputs, 1002, PROTOCOL);
}

#[test]
fn oversized_control_frames_close_1002() {
    let inputs = [opcode::PING, opcode::PONG, opcode::CLOSE].into_iter();
    let inputs = inputs.flat_map(|opcode| {
        [126, 1000, 65_535, 65_536].map(|bytes| {
            let mut payload = vec![b'x'; bytes];
            payload[..2].copy_from_slice(&1000_u16.to_be_bytes());
            let frame = Frame::new(opcode, payload);
            (format!("opcode {opcode} of {bytes} bytes"), frame.bytes())
        })
    });
    check(inputs, 1002, PROTOCOL);
}

#[test]
fn fragments_out_of_order_close_1002() {
    let start = Frame::text("start").unfinished().bytes();
    let inputs = named([
        (
            "a continuation without start",
            Frame::continuation("x").bytes(),
        ),
        (
            "an unfinished continuation without start",
            Frame::continuation("x").unfinished().bytes(),
        ),
        (
            "a text inside a text",
            [start.clone(), Frame::text("second").bytes()].concat(),
        ),
        (
            "a binary inside a text",
            [start.clone(), Frame::binary("second").bytes()].concat(),
        ),
        (
            "an unfinished text inside a text",
            [start, Frame::text("second").unfinished().bytes()].concat(),
        ),
    ]);
    check(inputs, 1002, PROTOCOL);
}

#[test]
fn a_continuation_after_the_last_fragment_closes_1002() {
    let daemon = Daemon::start(&[]);
    let mut witness = Witness::new(&daemon);
    let trial = Trial::begin(&daemon, PROTOCOL);
    let mut client = Client::connect(&daemon, "/echo");
    client.send(&Frame::text("whole ").unfinished());
    client.send(&Frame::continuation("message"));
    client.send(&Frame::continuation("one more"));
    assert_eq!(client.recv_text(), "whole message");
    client.expect_close(1002, None);
    trial.assert_ended(client.local_addr());
    witness.assert_served();
}

#[test]
fn bad_close_payloads_close_1002() {
    let codes = [
        0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535,
    ];
    let codes = codes.map(|code| (format!("code {code}"), Frame::close(code, "bad").bytes()));
    let half_code = Frame::new(opcode::CLOSE, [3]).bytes();
    let inputs = codes
        .into_iter()
        .chain([("half a code".to_owned(), half_code)]);
    check(inputs, 1002, PROTOCOL);
}

// --- 1007 -----------------------------------------------------------------------------------------

/// Bytes that are not UTF-8, wherever they are cut.
const NOT_UTF8: [(&str, &[u8]); 8] = [
    ("a stray byte", b"ok \xff"),
    ("a stray continuation", b"ok \x80"),
    ("an overlong slash", b"\xc0\xaf"),
    ("an overlong NUL", b"\xe0\x80\x80"),
    ("a surrogate", b"\xed\xa0\x80"),
    ("beyond Unicode", b"\xf4\x90\x80\x80"),
    ("a character cut short", b"ok \xe2\x82"),
    ("a character interrupted", b"\xe2\x82a"),
];

#[test]
fn text_that_is_not_utf8_closes_1007() {
    let whole = NOT_UTF8.map(|(name, bytes)| {
        let frame = Frame::new(opcode::TEXT, bytes);
        (format!("{name}, whole"), frame.bytes())
    });
    let split = NOT_UTF8.into_iter().flat_map(|(name, bytes)| {
        (0..=bytes.len()).map(move |at| {
            let (first, second) = bytes.split_at(at);
            let first = Frame::new(opcode::TEXT, first).unfinished().bytes();
            let second = Frame::continuation(second).bytes();
            (format!("{name}, split at {at}"), [first, second].concat())
        })
    });
    check(whole.into_iter().chain(split), 1007, INVALID_PAYLOAD);
}

#[test]
fn a_close_reason_that_is_not_utf8_closes_1007() {
    let inputs = NOT_UTF8.map(|(name, bytes)| {
        let frame = Frame::close(1000, bytes);
        (name.to_owned(), frame.bytes())
    });
    check(inputs, 1007, INVALID_PAYLOAD);
}

#[test]
fn text_may_be_cut_inside_a_character() {
    let daemon = Daemon::start(&[]);
    let mut client = Client::connect(&daemon, "/echo");
    let text = "κόσμε 弹幕 🎉";
    for at in 0..=text.len() {
        let (first, second) = text.as_bytes().split_at(at);
        client.send(&Frame::new(opcode::TEXT, first).unfinished());
        client.send(&Frame::continuation(second));
        assert_eq!(client.recv_text(), text, "split at {at}");
    }
}

#[test]
fn binary_need_not_be_utf8() {
    let daemon = Daemon::start(&[]);
    let mut client = Client::connect(&daemon, "/echo");
    for (name, bytes) in NOT_UTF8 {
        client.send_binary(bytes);
        assert_eq!(client.recv_binary(), bytes, "{name}");
    }
}

// --- 1009 -----------------------------------------------------------------------------------------

#[test]
fn messages_over_the_limit_close_1009() {
    let part = vec![b'x'; MESSAGE_MAX / 2];
    let fragments = [
        Frame::binary(&part).unfinished().bytes(),
        Frame::continuation(&part).unfinished().bytes(),
        Frame::continuation("x").bytes(),
    ];
    let small = Frame::continuation(vec![b'x'; 1000]).unfinished().bytes();
    let trickle = [Frame::text("").unfinished().bytes(), small.repeat(66)].concat();
    let inputs = named([
        (
            "text",
            Frame::new(opcode::TEXT, vec![b'x'; MESSAGE_MAX + 1]).bytes(),
        ),
        ("binary", Frame::binary(vec![b'x'; MESSAGE_MAX + 1]).bytes()),
        (
            "much too big",
            Frame::binary(vec![b'x'; 4 * MESSAGE_MAX]).bytes(),
        ),
        ("in three fragments", fragments.concat()),
        ("in many small fragments", trickle),
    ]);
    check(inputs, 1009, TOO_BIG);
}

#[test]
fn a_claim_over_the_limit_closes_1009_at_once() {
    let claims = [
        MESSAGE_MAX as u64 + 1,
        1 << 20,
        u64::from(u32::MAX),
        1 << 32,
        i64::MAX as u64,
        u64::MAX,
    ];
    let headers = claims.map(|claim| {
        let header = Frame::binary("").header(claim);
        (format!("a claim of {claim}"), header)
    });
    check(headers, 1009, TOO_BIG);
}

#[test]
fn a_claim_over_the_limit_in_sum_closes_1009_at_once() {
    let part = Frame::text(&"x".repeat(40_000)).unfinished().bytes();
    let rest = Frame::continuation("").header(40_000);
    check(
        named([("two halves", [part, rest].concat())]),
        1009,
        TOO_BIG,
    );
}

#[test]
fn a_length_with_the_highest_bit_set_fails_the_connection() {
    let daemon = Daemon::start(&[]);
    let mut witness = Witness::new(&daemon);
    let trial = Trial::begin(&daemon, &["protocol", "too_big"]);
    let mut client = Client::connect(&daemon, "/echo");
    client.send_bytes(Frame::binary("").header(u64::MAX));
    let message = client.recv();
    let Message::Close(Some(1002 | 1009), _) = message else {
        panic!("{message:?}");
    };
    client.wire.half_close();
    client.wire.expect_end();
    trial.assert_ended(client.local_addr());
    witness.assert_served();
}

#[test]
fn messages_of_exactly_the_limit_pass() {
    let daemon = Daemon::start(&["--max-message-size", "10KiB"]);
    let mut client = Client::connect(&daemon, "/echo");
    let payload = vec![b'x'; 10 * 1024];
    client.send_binary(&payload);
    assert_eq!(client.recv_binary(), payload);
    let (first, second) = payload.split_at(1);
    client.send(&Frame::binary(first).unfinished());
    client.send(&Frame::continuation(second).unfinished());
    client.send(&Frame::continuation(""));
    assert_eq!(client.recv_binary(), payload);
    client.send_binary(vec![b'x'; 10 * 1024 + 1]);
    client.expect_close(1009, None);
}

#[test]
fn memory_follows_what_came_and_not_what_was_claimed() {
    let daemon = Daemon::start(&["--max-message-size", "64KiB"]);
    let mut witness = Witness::new(&daemon);
    let connect = |daemon: &Daemon| -> Vec<Client> {
        let clients = (0..200).map(|_| Client::connect(daemon, "/echo"));
        clients.collect()
    };
    // The first round pays for whatever the daemon keeps per connection.
    drop(connect(&daemon));
    let mut clients = connect(&daemon);
    let before = daemon.rss_bytes();
    for client in &mut clients {
        client.send_bytes(Frame::binary("").header(60 * KIB));
    }
    // Control frames cannot be used to see that the headers have been read, so some payload is.
    for client in &mut clients {
        client.send_bytes([0; 100]);
    }
    for _ in 0..20 {
        witness.assert_served();
    }
    let grown = daemon.rss_bytes().saturating_sub(before);
    assert!(grown < 3 * MIB, "grown by {grown} bytes of 12 MB claimed");
    // Each is still a connection that works, once it has what it claimed.
    for client in &mut clients {
        let rest = Frame::binary(vec![0; 60 * 1024]).bytes();
        client.send_bytes(&rest[rest.len() - 60 * 1024 + 100..]);
        assert_eq!(client.recv_binary().len(), 60 * 1024);
    }
    witness.assert_served();
}

#[test]
fn memory_returns_after_large_messages() {
    let daemon = Daemon::start(&[]);
    let mut witness = Witness::new(&daemon);
    let mut clients: Vec<_> = (0..100)
        .map(|_| Client::connect(&daemon, "/echo"))
        .collect();
    let before = daemon.rss_bytes();
    let large = vec![b'x'; MESSAGE_MAX];
    for client in &mut clients {
        client.send_binary(&large);
    }
    for client in &mut clients {
        assert_eq!(client.recv_binary().len(), MESSAGE_MAX);
    }
    // A small message afterwards is the occasion to give back what the large one took.
    for client in &mut clients {
        client.send_text("small");
        assert_eq!(client.recv_text(), "small");
    }
    witness.assert_served();
    daemon.wait_rss_at_most(before + 3 * MIB);
}

// --- Allowed, though unusual ----------------------------------------------------------------------

#[test]
fn pings_come_back_as_pongs_with_their_payload() {
    let daemon = Daemon::start(&[]);
    for target in ["/echo", "/ws?room=a", "/ws?user=alice"] {
        let mut client = Client::connect(&daemon, target);
        for bytes in [0, 1, 124, 125] {
            let payload = vec![0xa5; bytes];
            client.send_ping(&payload);
            client.expect_pong(&payload);
        }
    }
}

#[test]
fn a_ping_between_fragments_is_answered_before_the_message_is_whole() {
    let daemon = Daemon::start(&[]);
    let mut client = Client::connect(&daemon, "/echo");
    client.send(&Frame::text("frag").unfinished());
    client.send_ping("between");
    client.expect_pong("between");
    client.send(&Frame::continuation("ment").unfinished());
    client.send_ping("again");
    client.expect_pong("again");
    client.send(&Frame::continuation("ed"));
    assert_eq!(client.recv_text(), "fragmented");
}

#[test]
fn pongs_nobody_asked_for_are_ignored() {
    let daemon = Daemon::start(&[]);
    let mut client = Client::connect(&daemon, "/echo");
    client.send(&Frame::new(opcode::PONG, "nobody asked"));
    client.send(&Frame::new(opcode::PONG, ""));
    client.send_text("probe");
    assert_eq!(client.recv_text(), "probe");
}

#[test]
fn fragments_arrive_as_one_message() {
    let daemon = Daemon::start(&[]);
    let mut member = Client::connect(&daemon, "/ws?room=a");
    let mut publisher = Client::connect(&daemon, "/ws?room=a&echo=0");
    daemon.wait_members(2);
    publisher.send(&Frame::text("").unfinished());
    for _ in 0..1000 {
        publisher.send(&Frame::continuation("x").unfinished());
    }
    publisher.send(&Frame::continuation(""));
    publisher.send(&Frame::binary([]).unfinished());
    publisher.send(&Frame::continuation([]));
    assert_eq!(member.recv_text(), "x".repeat(1000));
    assert_eq!(member.recv_binary(), b"");
}

#[test]
fn a_frame_may_come_one_byte_at_a_time() {
    let daemon = Daemon::start(&[]);
    let mut witness = Witness::new(&daemon);
    let mut client = Client::connect(&daemon, "/echo");
    let text = "y".repeat(200);
    for byte in Frame::text(&text).bytes() {
        client.send_bytes([byte]);
        witness.assert_served();
    }
    assert_eq!(client.recv_text(), text);
}

#[test]
fn many_frames_may_come_in_one_write() {
    let daemon = Daemon::start(&[]);
    let mut client = Client::connect(&daemon, "/echo");
    let frames: Vec<u8> = (0..500)
        .flat_map(|n: u32| Frame::text(&n.to_string()).bytes())
        .collect();
    client.send_bytes(frames);
    for n in 0..500 {
        assert_eq!(client.recv_text(), n.to_string());
    }
}

// --- Floods ---------------------------------------------------------------------------------------

#[test]
fn a_ping_flood_without_reading_costs_no_memory_and_nobody_else() {
    const PINGS: u32 = 100_000;
    let daemon = Daemon::start(&[]);
    let mut witness = Witness::in_room(&daemon, "flooded");
    let dial = Dial::new(daemon.addr(), "/ws?room=flooded&echo=0");
    let mut flooder = dial.receive_buffer(4096).connect();
    daemon.wait_members(3);
    let before = daemon.rss_bytes();
    let ping = |number| Frame::ping(flood_payload(number)).bytes();
    for block in 0..PINGS / 1000 {
        let pings: Vec<u8> = (block * 1000..(block + 1) * 1000).flat_map(ping).collect();
        flooder.send_bytes(pings);
        if block % 10 == 0 {
            witness.assert_served();
        }
    }
    witness.assert_served();
    let grown = daemon.rss_bytes().saturating_sub(before);
    assert!(grown < 4 * MIB, "grown by {grown} bytes");
    // Some pongs may be left out, but not the last, and what comes is in order and whole.
    let mut newest = None;
    while newest != Some(PINGS - 1) {
        match flooder.recv() {
            Message::Pong(payload) => {
                let number: [u8; 4] = payload[..4].try_into().expect("four bytes");
                let number = u32::from_be_bytes(number);
                assert_eq!(payload, flood_payload(number), "pong {number}");
                assert!(newest.is_none_or(|newest| newest < number), "order");
                newest = Some(number);
            }
            Message::Text(text) => assert!(text.starts_with("witness"), "{text}"),
            other => panic!("{other:?}"),
        }
    }
    flooder.send_ping("after the flood");
    loop {
        match flooder.recv() {
            Message::Text(text) => assert!(text.starts_with("witness"), "{text}"),
            other => break assert_eq!(other, Message::Pong(b"after the flood".to_vec())),
        }
    }
    witness.assert_served();
}

/// A ping payload of full size that starts with its number.
fn flood_payload(number: u32) -> Vec<u8> {
    let mut payload = vec![0; 125];
    payload[..4].copy_from_slice(&number.to_be_bytes());
    payload
}

#[test]
fn a_flood_of_frames_does_not_starve_others() {
    let daemon = Daemon::start(&["--workers", "1"]);
    let mut witness = Witness::new(&daemon);
    let addr = daemon.addr();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    std::thread::scope(|scope| {
        // Nobody listens in the room, so the flood can last for ever.
        scope.spawn(move || {
            let mut flooder = Dial::new(addr, "/ws?room=flood&echo=0").connect();
            let frames = Frame::text("flood").bytes().repeat(5000);
            while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                flooder.send_bytes(&frames);
            }
        });
        for _ in 0..200 {
            let start = Instant::now();
            witness.assert_served();
            let took = start.elapsed();
            assert!(took < Duration::from_secs(2), "served after {took:?}");
        }
        drop(stop);
    });
}
