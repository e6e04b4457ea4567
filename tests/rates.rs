//! Message rates: the burst passes, the rate goes on for ever, and one more ends the connection.

mod harness;

use std::time::{Duration, Instant};

use harness::{Client, Daemon, Dial, Frame, Message, Trial, Witness, pace};

/// That many messages in one write.
fn burst(count: usize) -> Vec<u8> {
    let frames = (0..count).flat_map(|n| Frame::text(&n.to_string()).bytes());
    frames.collect()
}

/// Reads echoes until the close, which must be 3013, and returns how many there were.
fn echoes_until_closed(client: &mut Client) -> usize {
    client.drain_to_close(3013, "too many requests").len()
}

#[test]
fn a_burst_passes_and_one_more_closes() {
    for workers in ["0", "1", "3"] {
        let args = ["--message-rate", "1", "--message-burst", "5"];
        let daemon = Daemon::start(&[&["--workers", workers], &args[..]].concat());
        for path in ["/echo", "/ws?room=a"] {
            let trial = Trial::begin(&daemon, &["too_many_requests"]);
            let received = daemon.metric("roomcast_messages_received_total");
            let mut client = Client::connect(&daemon, path);
            client.send_bytes(burst(5));
            for n in 0..5 {
                assert_eq!(client.recv_text(), n.to_string(), "{path}");
            }
            // By now less than a second has gone by, or one more is allowed for each.
            client.send_bytes(burst(5));
            assert!(echoes_until_closed(&mut client) < 5, "{path}");
            trial.assert_ended(client.local_addr());
            daemon.wait_metric("roomcast_messages_received_total", |now| {
                (received + 5.0..received + 10.0).contains(&now)
            });
        }
    }
}

#[test]
fn a_flood_in_one_write_gets_no_more_than_the_burst_into_the_room() {
    let daemon = Daemon::start(&["--message-rate", "1", "--message-burst", "10"]);
    let mut member = Client::connect(&daemon, "/ws?room=a");
    daemon.wait_members(1);
    let mut flooder = Client::connect(&daemon, "/ws?room=a&echo=0");
    flooder.send_bytes(burst(1000));
    flooder.expect_close(3013, "too many requests");
    // What was within the burst is published, in order, and nothing after it.
    for n in 0..10 {
        assert_eq!(member.recv_text(), n.to_string());
    }
    member.send_text("probe");
    assert_eq!(member.recv_text(), "probe");
}

#[test]
fn the_burst_is_twice_the_rate_unless_it_is_given() {
    let daemon = Daemon::start(&["--message-rate", "3"]);
    let mut client = Client::connect(&daemon, "/echo");
    client.send_bytes(burst(6));
    for n in 0..6 {
        assert_eq!(client.recv_text(), n.to_string());
    }
    client.send_bytes(burst(6));
    assert!(echoes_until_closed(&mut client) < 6);
}

#[test]
fn a_steady_rate_below_the_limit_never_closes() {
    let daemon = Daemon::start(&["--message-rate", "50", "--message-burst", "2"]);
    let mut client = Client::connect(&daemon, "/echo");
    let start = Instant::now();
    // A tenth slower than the limit. The answer is awaited first, so that no two messages can be
    // closer to each other in the daemon than they are here.
    let interval = Duration::from_millis(22);
    for n in 0..100 {
        client.send_text(&n.to_string());
        assert_eq!(client.recv_text(), n.to_string());
        pace(interval);
    }
    assert!(start.elapsed() >= interval * 100);
    client.close();
    assert_eq!(daemon.closes("too_many_requests"), 0.0);
}

#[test]
fn a_burst_comes_back_with_rest() {
    let daemon = Daemon::start(&["--message-rate", "20", "--message-burst", "4"]);
    let mut client = Client::connect(&daemon, "/echo");
    for round in 0..4 {
        client.send_bytes(burst(4));
        for n in 0..4 {
            assert_eq!(client.recv_text(), n.to_string(), "round {round}");
        }
        // Four messages at twenty a second, and a little more.
        pace(Duration::from_millis(250));
    }
    client.close();
}

#[test]
fn every_connection_has_its_own_rate_and_receiving_is_free() {
    let daemon = Daemon::start(&["--message-rate", "1", "--message-burst", "3"]);
    let mut listener = Client::connect(&daemon, "/ws?room=a&echo=0");
    daemon.wait_members(1);
    for n in 0..20 {
        let mut publisher = Client::connect(&daemon, "/ws?room=a&echo=0");
        publisher.send_bytes(burst(3));
        for text in ["0", "1", "2"] {
            assert_eq!(listener.recv_text(), text, "publisher {n}");
        }
        publisher.close();
    }
    // Control frames are no messages, and a message in parts is one.
    for _ in 0..20 {
        listener.send_ping("ping");
        listener.expect_pong("ping");
    }
    listener.send(&Frame::text("in ").unfinished());
    for _ in 0..10 {
        listener.send(&Frame::continuation("many ").unfinished());
    }
    listener.send(&Frame::continuation("parts"));
    listener.send_ping("still here");
    listener.expect_pong("still here");
    assert_eq!(daemon.closes("too_many_requests"), 0.0);
}

#[test]
fn without_a_rate_nothing_is_counted() {
    for args in [&[][..], &["--message-rate", "0"]] {
        let daemon = Daemon::start(args);
        let mut client = Dial::new(daemon.addr(), "/echo").connect();
        client.send_bytes(burst(500));
        for n in 0..500 {
            assert_eq!(client.recv(), Message::text(n.to_string()));
        }
        client.close();
    }
}

#[test]
fn a_flooder_is_closed_and_others_are_served() {
    let daemon = Daemon::start(&["--message-rate", "100", "--message-burst", "200"]);
    let mut witness = Witness::new(&daemon);
    for _ in 0..20 {
        let mut flooder = Client::connect(&daemon, "/ws?room=flood&echo=0");
        let _ = flooder.wire.try_send(burst(5000));
        flooder.wire.expect_gone();
        witness.assert_served();
    }
    daemon.wait_closes("too_many_requests", 20.0);
}
