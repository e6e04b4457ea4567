//! TLS on the public listener, with clients that others wrote: `openssl`, Python, Node and Chromium.

#[path = "browser/chromium.rs"]
mod chromium;
#[path = "clients/driven.rs"]
mod driven;
mod harness;

use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::json;

use chromium::Browser;
use driven::Driven;
use harness::{Certificate, Daemon, Signal, Wire, Witness, http, run_to_exit, wait_until};

const REQUEST: &str = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

fn start(certificate: &Certificate, args: &[&str]) -> Daemon {
    let (cert, key) = (certificate.cert(), certificate.key());
    let tls = ["--tls-cert", &cert, "--tls-key", &key];
    Daemon::start(&[&tls, args].concat())
}

/// What `openssl s_client` says when it has sent a request over TLS.
fn openssl(daemon: &Daemon, certificate: &Certificate, args: &[&str]) -> String {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &daemon.addr().to_string()]);
    command.args(["-servername", "localhost", "-CAfile", &certificate.cert()]);
    command
        .args(["-verify_return_error", "-ign_eof"])
        .args(args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    command.stderr(Stdio::piped());
    let mut child = command.spawn().expect("openssl: run tests/run");
    let mut stdin = child.stdin.take().expect("stdin is piped");
    // It may have failed before it has read any.
    let _ = stdin.write_all(REQUEST.as_bytes());
    let done = child.wait_with_output().expect("a child of ours");
    drop(stdin);
    String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned()
}

#[test]
fn both_versions_are_spoken_and_http_1_1_is_agreed_on() {
    for algorithm in ["ec", "rsa:2048"] {
        let certificate = Certificate::new(algorithm);
        let daemon = start(&certificate, &[]);
        for (flag, version) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
            let text = openssl(&daemon, &certificate, &[flag, "-alpn", "h2,http/1.1"]);
            for part in [
                version,
                "ALPN protocol: http/1.1",
                "HTTP/1.1 200 OK",
                "close\r\n\r\nok",
            ] {
                assert!(
                    text.contains(part),
                    "{algorithm} {version}: no {part:?}: {text}"
                );
            }
        }
        let text = openssl(&daemon, &certificate, &["-alpn", "h2"]);
        assert!(text.contains("no application protocol"), "{text}");
        daemon.wait_closes("tls", 1.0);
        assert_eq!(daemon.metric("roomcast_tls_handshakes_total"), 2.0);
        // What is not public speaks plain HTTP.
        assert_eq!(daemon.admin_get("/healthz").status, 200);
    }
}

#[test]
fn messages_of_every_size_go_both_ways() {
    for workers in ["0", "1"] {
        let certificate = Certificate::new("ec");
        let daemon = start(&certificate, &["--workers", workers]);
        let url = format!("wss://localhost:{}/ws?room=a", daemon.addr().port());
        let authority = certificate.cert();
        let mut clients = [
            Driven::python_tls(&url, &authority),
            Driven::node_tls(&url, &authority),
        ];
        for client in &clients {
            client.expect("open");
        }
        daemon.wait_members(2);
        // Around the size of a record, which is 16 KiB at most.
        for len in [0, 1, 16_383, 16_384, 16_385, 40_000, 65_536] {
            let data = "x".repeat(len);
            clients[len % 2].order(&json!({"do": "text", "data": data}));
            for client in &clients {
                let event = client.event();
                assert_eq!(event["data"].as_str().map(str::len), Some(len));
            }
        }
        let [first, second] = &mut clients;
        first.order(&json!({"do": "close", "code": 1000, "reason": "bye"}));
        assert_eq!(first.expect("close")["code"], 1000);
        second.order(&json!({"do": "ping", "b64": "aGk="}));
        second.expect("pong");
        daemon.wait_closes("normal", 1.0);
    }
}

#[test]
fn the_wall_works_in_a_browser() {
    let certificate = Certificate::new("ec");
    let daemon = start(&certificate, &[]);
    // The browser takes this key without a word of anybody else, and no other.
    let flag = "--ignore-certificate-errors-spki-list";
    let mut browser = Browser::start_with(&[&format!("{flag}={}", certificate.key_hash())]);
    let url = format!("https://localhost:{}/?room=r", daemon.addr().port());
    for (page, user) in [("a", "alice"), ("b", "bob")] {
        browser.goto(page, &url);
        assert_eq!(browser.read(page, "location.protocol"), "https:");
        browser.fill(page, "#user", user);
        browser.click(page, "#connect");
        browser.wait_state(page, "open", "connected to r");
    }
    assert_eq!(daemon.metric("roomcast_websockets"), 2.0);
    browser.say("a", "hello over TLS");
    browser.say("b", "and back");
    for page in ["a", "b"] {
        for text in ["hello over TLS", "and back"] {
            browser.wait(page, "#log .said", text);
        }
        assert_eq!(browser.texts(page, "said"), ["hello over TLS", "and back"]);
        browser.assert_no_complaints(page);
    }
}

#[test]
fn a_new_certificate_is_for_new_connections_and_a_broken_one_for_nobody() {
    let [used, old, new] = ["ec", "ec", "rsa:2048"].map(Certificate::new);
    fs::copy(used.cert(), old.cert()).expect("ours");
    let daemon = start(&used, &[]);
    let url = format!("wss://localhost:{}/echo", daemon.addr().port());
    let mut before = Driven::python_tls(&url, &old.cert());
    before.expect("open");
    // A certificate without its key, then with it.
    fs::copy(new.cert(), used.cert()).expect("ours");
    daemon.signal(Signal::Hup);
    daemon.wait_log("--tls-key is");
    let text = openssl(&daemon, &old, &[]);
    assert!(text.contains("HTTP/1.1 200"), "{text}");
    fs::copy(new.key(), used.key()).expect("ours");
    daemon.signal(Signal::Hup);
    wait_until("the new certificate", || {
        openssl(&daemon, &new, &[]).contains("HTTP/1.1 200")
    });
    before.order(&json!({"do": "text", "data": "still here"}));
    assert_eq!(before.expect("text")["data"], "still here");
}

#[test]
fn a_ticket_is_good_after_the_files_were_read_anew() {
    let certificate = Certificate::new("ec");
    for version in ["-tls1_2", "-tls1_3"] {
        let daemon = start(&certificate, &[]);
        let file = certificate.key() + version;
        let first = openssl(&daemon, &certificate, &[version, "-sess_out", &file]);
        assert!(first.contains("New, TLSv1"), "{first}");
        daemon.signal(Signal::Hup);
        daemon.wait_log("reloaded");
        let again = openssl(&daemon, &certificate, &[version, "-sess_in", &file]);
        assert!(again.contains("Reused, TLSv1"), "{again}");
    }
}

#[test]
fn who_speaks_no_tls_is_told_so() {
    let certificate = Certificate::new("ec");
    let (cert, key) = (certificate.cert(), certificate.key());
    let variables = [("ROOMCAST_TLS_CERT", &*cert), ("ROOMCAST_TLS_KEY", &*key)];
    let daemon = Daemon::start_env(&[], &variables);
    let response = http(daemon.addr(), REQUEST);
    assert_eq!(response.status, 400);
    assert!(response.text().contains("https"), "{response:?}");
    daemon.wait_closes("tls", 1.0);
    for garbage in [&b"\x16\x03\x01\xff\xff"[..], &[0; 100], &[0xff; 5000]] {
        let mut wire = Wire::connect(daemon.addr());
        wire.send(garbage);
        wire.expect_gone();
    }
    daemon.wait_closes("tls", 4.0);

    // And the other way round.
    let plain = Daemon::start(&[]);
    let text = openssl(&plain, &certificate, &[]);
    assert!(text.contains("wrong version number"), "{text}");
    Witness::new(&plain).assert_served();
}

#[test]
fn a_handshake_that_stops_in_the_middle_ends_in_time() {
    let certificate = Certificate::new("ec");
    let daemon = start(&certificate, &["--handshake-timeout", "1s"]);
    let mut silent = Wire::connect(daemon.addr());
    let mut halfway = Wire::connect(daemon.addr());
    // The header of a record that never comes.
    halfway.send(b"\x16\x03\x01\x02\x00\x01");
    for wire in [&mut silent, &mut halfway] {
        wire.expect_gone();
    }
    daemon.wait_closes("handshake_timeout", 2.0);
}

#[test]
fn one_file_needs_the_other() {
    let one = Certificate::new("ec");
    for (option, path, other) in [
        ("--tls-cert", one.cert(), "--tls-key"),
        ("--tls-key", one.key(), "--tls-cert"),
    ] {
        let (status, stderr) = run_to_exit(&[option, &path], &[]);
        assert_eq!(status.code(), Some(2), "{option}: {stderr}");
        assert!(stderr.contains(other), "{option}: {stderr}");
    }
}
