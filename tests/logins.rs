//! One live connection of a user, and publications compressed for those who ask.

mod harness;

use std::io::Read as _;

use harness::{Client, Daemon, Dial, Message, Wire, upgrade_request};

fn status(daemon: &Daemon, target: &str) -> u16 {
    let mut wire = Wire::connect(daemon.addr());
    wire.send(upgrade_request(daemon.addr(), target, &[]));
    wire.response().status
}

fn close_of(client: &mut Client) -> Option<u16> {
    match client.recv() {
        Message::Close(code, _) => code,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_second_login_lives_beside_the_first_by_default() {
    let daemon = Daemon::start(&[]);
    let mut first = Client::connect(&daemon, "/ws?user=al&room=r");
    let mut second = Client::connect(&daemon, "/ws?user=al&room=r");
    first.send_text("hello");
    assert_eq!(first.recv_text(), "hello");
    assert_eq!(second.recv_text(), "hello");
}

#[test]
fn a_second_login_takes_the_place_of_the_first() {
    for workers in ["0", "3"] {
        let args = ["--duplicate-login", "replace", "--workers", workers];
        let daemon = Daemon::start(&args);
        let mut other = Client::connect(&daemon, "/ws?user=bo");
        let mut first = Client::connect(&daemon, "/ws?user=al&room=r");
        let mut second = Client::connect(&daemon, "/ws?user=al&room=r");
        assert_eq!(close_of(&mut first), Some(3504));
        second.send_text("mine");
        assert_eq!(second.recv_text(), "mine");
        let mut third = Client::connect(&daemon, "/ws?user=al&to=bo");
        assert_eq!(close_of(&mut second), Some(3504));
        third.send_text("still here");
        assert_eq!(other.recv_text(), "still here");
        drop((first, second));
        let closes = "roomcast_closes_total{reason=\"connection_limit\"}";
        daemon.wait_metric(closes, |count| count == 2.0);
    }
}

#[test]
fn a_second_login_is_refused_until_the_first_has_left() {
    let daemon = Daemon::start(&["--duplicate-login", "refuse"]);
    let mut first = Client::connect(&daemon, "/ws?user=al&room=r");
    assert_eq!(status(&daemon, "/ws?user=al&room=r"), 409);
    let origin = format!("http://{}", daemon.addr());
    let mut page = Dial::new(daemon.addr(), "/ws?user=al&room=r")
        .header("Origin", &origin)
        .connect();
    assert_eq!(close_of(&mut page), Some(3504));
    assert_eq!(status(&daemon, "/ws?user=bo&room=r"), 101);
    first.send_text("mine");
    assert_eq!(first.recv_text(), "mine");
    first.close();
    harness::wait_until("the place to be free", || {
        status(&daemon, "/ws?user=al") == 101
    });
}

#[test]
fn only_who_asks_gets_gzip_and_only_of_what_is_large() {
    let daemon = Daemon::start(&["--gzip-min-size", "100"]);
    let mut plain = Client::connect(&daemon, "/ws?room=r");
    let mut packed = Client::connect(&daemon, "/ws?room=r&support_gzip=1");
    let mut letters = Client::connect(&daemon, "/ws?room=r&gzip=1&format=json");
    let joined: serde_json::Value = letters.recv_json();
    assert_eq!(joined["joined"]["online"], 3);
    let unpack = |bytes: Vec<u8>| {
        let mut text = String::new();
        let mut decoder = flate2::read::GzDecoder::new(&bytes[..]);
        decoder
            .read_to_string(&mut text)
            .expect("a whole gzip member");
        text
    };
    for length in [0, 99, 100, 5000] {
        let text = "x".repeat(length);
        plain.send_text(&text);
        assert_eq!(plain.recv_text(), text);
        if length < 100 {
            assert_eq!(packed.recv_text(), text);
            assert_eq!(letters.recv_json()["publication"]["data"], text);
        } else {
            assert_eq!(unpack(packed.recv_binary()), text);
            let letter = unpack(letters.recv_binary());
            let letter: serde_json::Value = serde_json::from_str(&letter).expect("JSON");
            assert_eq!(letter["publication"]["data"], text);
        }
    }
}
