//! One connection of a trusted proxy, request by request: whose the log says it is, also where a
//! request is refused; and that no proxy hides another that says nothing that can be read.

mod harness;

use harness::{Daemon, Wire};

const PROXIES: [&str; 2] = ["--trusted-proxy", "127.0.0.0/29"];

fn get(daemon: &Daemon, headers: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: {}\r\n{headers}\r\n", daemon.addr())
}

/// The peer in the only line about an end that is no answer to a scrape.
fn refused_peer(daemon: &Daemon) -> String {
    let line = daemon.wait_log_line("a refusal", |line| {
        line.contains("reason=refused ") || line.contains("reason=handshake_timeout ")
    });
    let (_, rest) = line.split_once("peer=").expect("a peer");
    rest.split(' ').next().expect("a word").to_owned()
}

#[test]
fn what_is_refused_is_not_the_client_that_came_before() {
    let long = format!("GET / HTTP/1.1\r\nX: {}\r\n", "x".repeat(9000));
    for (refused, status) in [
        ("nonsense\r\n\r\n", 400),
        (&*long, 431),
        ("GET / HTTP/1.1\r\n", 408),
        ("GET / HTTP/1.1\r\n\r\n", 400),
    ] {
        let args = [&PROXIES[..], &["--handshake-timeout", "500ms"]].concat();
        let daemon = Daemon::start(&args);
        let mut wire = Wire::connect(daemon.addr());
        wire.send(get(&daemon, "X-Forwarded-For: 192.0.2.7\r\n"));
        assert_eq!(wire.response().status, 200);
        wire.send(refused);
        assert_eq!(wire.response().status, status, "{refused:.20}");
        wire.expect_end();
        // Nobody has said for whom that was.
        assert_eq!(refused_peer(&daemon), wire.local_addr().to_string());
    }
}

#[test]
fn a_request_without_a_host_is_its_clients() {
    let daemon = Daemon::start(&PROXIES);
    let mut wire = Wire::connect(daemon.addr());
    wire.send("GET / HTTP/1.1\r\nX-Forwarded-For: 192.0.2.7\r\n\r\n");
    assert_eq!(wire.response().status, 400);
    assert_eq!(refused_peer(&daemon), "192.0.2.7");
}

#[test]
fn each_proxy_that_cannot_be_read_is_told_of() {
    let daemon = Daemon::start(&PROXIES);
    for _ in 0..20 {
        for host in [1, 2, 3] {
            let mut wire = Wire::connect_from(daemon.addr(), [127, 0, 0, host].into(), None);
            wire.send(get(
                &daemon,
                "X-Forwarded-For: nobody\r\nConnection: close\r\n",
            ));
            assert_eq!(wire.response().status, 200);
        }
    }
    daemon.wait_metric("roomcast_malformed_forwards_total", |now| now == 60.0);
    let lines = daemon.log_lines();
    for host in [1, 2, 3] {
        let words = format!("the trusted proxy 127.0.0.{host} sends an X-Forwarded-For");
        let about = |line: &&String| line.contains("WARN") && line.contains(&words);
        assert_eq!(lines.iter().filter(about).count(), 1, "{words}");
    }
}
