//! HTTP and the upgrade to WebSocket on one port: what is served, what is refused, and with what.

mod harness;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use harness::{
    Client, Daemon, Dial, Frame, KEY, Message, Response, Trial, Wire, Witness, http,
    upgrade_request,
};

/// How a connection ends that got a refusal before the upgrade.
const REFUSED: &[&str] = &["refused"];

/// The same where the answer is one of plain HTTP, after which the connection may live on.
const ANSWERED: &[&str] = &["refused", "answered"];

const HANDSHAKE_TIMEOUT: &[&str] = &["handshake_timeout"];

/// The limit of a request head in bytes.
const HEAD_MAX: usize = 8 * 1024;

// --- Plain HTTP ---------------------------------------------------------------------------------

#[test]
fn the_page_is_html() {
    let daemon = Daemon::start(&[]);
    let page = daemon.get("/");
    assert_eq!(page.status, 200);
    let media = page.header("content-type").expect("a media type");
    assert!(media.starts_with("text/html"), "{media}");
    let text = page.text().to_ascii_lowercase();
    assert!(text.starts_with("<!doctype html"), "{text}");
}

#[test]
fn health_is_ok_on_both_listeners() {
    let daemon = Daemon::start(&[]);
    let answers = [
        daemon.get("/healthz"),
        daemon.admin_get("/healthz"),
        daemon.admin_get("/readyz"),
    ];
    for answer in answers {
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    assert_eq!(daemon.get("/healthz").text().trim(), "ok");
}

#[test]
fn the_public_listener_does_not_serve_metrics() {
    let daemon = Daemon::start(&[]);
    for path in ["/metrics", "/readyz", "/api/info"] {
        assert_eq!(daemon.get(path).status, 404, "{path}");
    }
}

#[test]
fn unknown_paths_get_404() {
    let daemon = Daemon::start(&[]);
    let mut witness = Witness::new(&daemon);
    let paths = ["/nope", "/ws/", "/wsx", "/WS", "/echo/1", "//ws", "/../ws"];
    for path in paths {
        let upgrade = upgrade_request(daemon.addr(), path, &[]);
        refuses(&daemon, &mut witness, path, upgrade, 404, ANSWERED);
        let plain = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
        refuses(&daemon, &mut witness, path, plain, 404, ANSWERED);
    }
}

#[test]
fn known_paths_refuse_other_methods_and_name_the_right_one() {
    let daemon = Daemon::start(&[]);
    let mut witness = Witness::new(&daemon);
    for path in ["/ws?room=a", "/echo", "/healthz", "/"] {
        for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
            let name = format!("{method} {path}");
            let upgrade = upgrade_request(daemon.addr(), path, &[]);
            let upgrade = upgrade.replacen("GET", method, 1);
            let answer = refuses(&daemon, &mut witness, &name, upgrade, 405, ANSWERED);
            let allow = answer
                .header("allow")
                .expect("405 must name what is allowed");
            let mut allowed = allow.split(',').map(str::trim);
            assert!(allowed.any(|method| method == "GET"), "{name}: {allow}");
            assert!(!allow.contains(method), "{name}: {allow}");
        }
    }
}

#[test]
fn websocket_paths_ask_plain_requests_to_upgrade() {
    let daemon = Daemon::start(&[]);
    let mut witness = Witness::new(&daemon);
    let requests = [
        ("no upgrade headers", ""),
        (
            "another protocol",
            "Connection: Upgrade\r\nUpgrade: h2c\r\n",
        ),
    ];
    for (name, headers) in requests {
        for path in ["/ws?room=a", "/echo"] {
            let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n");
            let answer = refuses(&daemon, &mut witness, name, request, 426, ANSWERED);
            let upgrade = answer.header("upgrade").expect("426 must name a protocol");
            assert!(
                upgrade.eq_ignore_ascii_case("websocket"),
                "{name}: {upgrade}"
            );
        }
    }
}

#[test]
fn a_connection_serves_many_plain_requests() {
    let daemon = Daemon::start(&[]);
    let mut wire = Wire::connect(daemon.addr());
    for (path, status) in [("/healthz", 200), ("/nope", 404), ("/", 200)] {
        for _ in 0..3 {
            wire.send(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"));
            assert_eq!(wire.response().status, status, "{path}");
        }
    }
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let daemon = Daemon::start(&[]);
    let mut wire = Wire::connect(daemon.addr());
    let paths = [
        ("/healthz", 200),
        ("/nope", 404),
        ("/", 200),
        ("/nope", 404),
    ];
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
    let requests: String = paths.iter().map(|(path, _)| get(path)).collect();
    wire.send(requests.repeat(10));
    for round in 0..10 {
        for (path, status) in paths {
            assert_eq!(wire.response().status, status, "{path} in round {round}");
        }
    }
}

#[test]
fn a_connection_can_upgrade_after_plain_requests() {
    let daemon = Daemon::start(&[]);
    let mut wire = Wire::connect(daemon.addr());
    wire.send("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(wire.response().status, 200);
    let mut both = "GET /nope HTTP/1.1\r\nHost: x\r\n\r\n".to_owned();
    both += &upgrade_request(daemon.addr(), "/echo", &[]);
    wire.send(both);
    assert_eq!(wire.response().status, 404);
    let mut client = Client::upgraded(wire).expect("an upgrade");
    client.send_text("after plain requests");
    assert_eq!(client.recv_text(), "after plain requests");
}

#[test]
fn a_connection_ends_when_the_request_asks_for_it() {
    let daemon = Daemon::start(&[]);
    let requests = [
        "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: foo, Close\r\n\r\n",
        "GET /healthz HTTP/1.0\r\n\r\n",
    ];
    for request in requests {
        let trial = Trial::begin(&daemon, &["answered"]);
        let mut wire = Wire::connect(daemon.addr());
        wire.send(request);
        assert_eq!(wire.response().status, 200, "{request}");
        wire.expect_eof();
        trial.assert_ended(wire.local_addr());
    }
}

#[test]
fn a_request_is_answered_though_its_sender_has_half_closed() {
    let daemon = Daemon::start(&[]);
    let mut wire = Wire::connect(daemon.addr());
    wire.send("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
    wire.half_close();
    assert_eq!(wire.response().status, 200);
    wire.expect_eof();
}

#[test]
fn a_body_is_never_taken_for_a_request() {
    let daemon = Daemon::start(&[]);
    let inner = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
    let length = inner.len();
    let requests = [
        (
            format!("POST /ws HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{inner}"),
            405,
        ),
        (
            format!("GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{inner}"),
            200,
        ),
        (
            format!(
                "GET /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n\
                 {length:x}\r\n{inner}\r\n0\r\n\r\n"
            ),
            200,
        ),
    ];
    for (request, status) in requests {
        let mut wire = Wire::connect(daemon.addr());
        wire.send(&request);
        assert_eq!(wire.response().status, status, "{request}");
        wire.expect_end();
    }
}

// --- What is not HTTP -----------------------------------------------------------------------------

#[test]
fn garbage_instead_of_http_gets_400() {
    let daemon = Daemon::start(&[]);
    let mut witness = Witness::new(&daemon);
    let tls_hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03garbage\r\n\r\n".to_vec();
    let cases: [(&str, Vec<u8>); 14] = [
        ("a TLS hello", tls_hello),
        ("zeros", vec![0; 64]),
        ("all ones", vec![0xff; 64]),
        ("one word", b"hello\r\n\r\n".to_vec()),
        ("no version", b"GET /healthz\r\n\r\n".to_vec()),
        (
            "no such version",
            b"GET / HTTP/9.9\r\nHost: x\r\n\r\n".to_vec(),
        ),
        ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec()),
        ("an answer", b"HTTP/1.1 200 OK\r\n\r\n".to_vec()),
        (
            "no colon",
            b"GET / HTTP/1.1\r\nHost: x\r\nnonsense\r\n\r\n".to_vec(),
        ),
        (
            "space before colon",
            b"GET / HTTP/1.1\r\nHost : x\r\n\r\n".to_vec(),
        ),
        (
            "empty header name",
            b"GET / HTTP/1.1\r\nHost: x\r\n: y\r\n\r\n".to_vec(),
        ),
        (
            "NUL in a value",
            b"GET / HTTP/1.1\r\nHost: x\0y\r\n\r\n".to_vec(),
        ),
        (
            "NUL in the path",
            b"GET /\0 HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        ),
        ("an SSH banner", b"SSH-2.0-OpenSSH_9.9\r\n\r\n".to_vec()),
    ];
    for (name, bytes) in cases {
        breaks(&daemon, &mut witness, name, &bytes, 400);
    }
}

#[test]
fn http_1_1_needs_exactly_one_host() {
    let daemon = Daemon::start(&[]);
    let mut witness = Witness::new(&daemon);
    let upgrade = upgrade_request(daemon.addr(), "/echo", &[]);
    let host = format!("Host: {}\r\n", daemon.addr());
    let cases = [
        ("missing", upgrade.replace(&host, "")),
        ("doubled", upgrade.replace(&host, &host.repeat(2))),
        (
            "two hosts",
            upgrade.replace(&host, "Host: a\r\nHost: b\r\n"),
        ),
    ];
    for (name, request) in cases {
        refuses(&daemon, &mut witness, name, request, 400, REFUSED);
    }
    for request in [
        "GET /healthz HTTP/1.1\r\n\r\n",
        "GET /healthz HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
    ] {
        refuses(&daemon, &mut witness, request, request, 400, REFUSED);
    }
}

#[test]
fn a_head_may_have_8_kib_and_no_more() {
    let daemon = Daemon::start(&[]);
    let mut witness = Witness::new(&daemon);
    let head_of = |bytes: usize| {
        let start = "GET /healthz HTTP/1.1\r\nHost: x\r\nFiller: ";
        let filler = "f".repeat(bytes - start.len() - 4);
        format!("{start}{filler}\r\n\r\n")
    };
    assert_eq!(head_of(HEAD_MAX).len(), HEAD_MAX);
    assert_eq!(http(daemon.addr(), head_of(HEAD_MAX)).status, 200);
    for bytes in [HEAD_MAX + 1, 2 * HEAD_MAX, 100 * 1024] {
        let name = format!("{bytes} bytes");
        breaks(&daemon, &mut witness, &name, head_of(bytes).as_bytes(), 431);
    }
    // A long line is no other matter than many, and an end need not be in sight.
    let many = format!(
        "GET /ws HTTP/1.1\r\nHost: x\r\n{}",
        "A: b\r\n".repeat(20_000)
    );
    breaks(&daemon, &mut witness, "many headers", many.as_bytes(), 431);
    let path = format!("GET /{} HTTP/1.1\r\n", "p".repeat(100 * 1024));
    breaks(&daemon, &mut witness, "a long path", path.as_bytes(), 431);
}

#[test]
fn an_endless_head_costs_no_memory() {
    let daemon = Daemon::start(&[]);
    let mut witness = Witness::new(&daemon);
    let before = daemon.rss_bytes();
    let filler = vec![b'f'; 1024 * 1024];
    for _ in 0..20 {
        let mut wire = Wire::connect(daemon.addr());
        wire.send("GET / HTTP/1.1\r\nHost: x\r\nFiller: ");
        // How much of it the daemon swallows before it hangs up is its own affair.
        let _ = wire.try_send(&filler);
        wire.expect_gone();
    }
    witness.assert_served();
    daemon.wait_rss_at_most(before + 2 * 1024 * 1024);
}

// --- Heads in pieces ------------------------------------------------------------------------------

#[test]
fn a_head_may_come_one_byte_at_a_time() {
    let daemon = Daemon::start(&[]);
    let mut wire = Wire::connect(daemon.addr());
    let mut bytes = upgrade_request(daemon.addr(), "/echo", &[]).into_bytes();
    bytes.extend(Frame::text("one byte at a time").bytes());
    for byte in bytes {
        wire.send([byte]);
        assert!(daemon_turned(&daemon));
    }
    let mut client = Client::upgraded(wire).expect("an upgrade");
    assert_eq!(client.recv_text(), "one byte at a time");
}

#[test]
fn a_head_may_be_split_at_any_byte() {
    let daemon = Daemon::start(&[]);
    let mut bytes = upgrade_request(daemon.addr(), "/echo", &[]).into_bytes();
    bytes.extend(Frame::text("split").bytes());
    for split in 1..bytes.len() {
        let (first, second) = bytes.split_at(split);
        let mut wire = Wire::connect(daemon.addr());
        wire.send(first);
        assert!(daemon_turned(&daemon));
        wire.send(second);
        let mut client = Client::upgraded(wire).unwrap_or_else(|r| panic!("{split}: {r:?}"));
        assert_eq!(client.recv_text(), "split", "split at {split}");
    }
}

#[test]
fn a_head_that_takes_too_long_gets_408() {
    let daemon = Daemon::start(&["--handshake-timeout", "300ms"]);
    let mut witness = Witness::new(&daemon);
    let head = upgrade_request(daemon.addr(), "/echo", &[]);
    let trial = Trial::begin(&daemon, HANDSHAKE_TIMEOUT);
    let start = Instant::now();
    let mut wire = Wire::connect(daemon.addr());
    for byte in head.into_bytes() {
        // Sent too late it meets a closed socket, which the answer then explains.
        let _ = wire.try_send([byte]);
        if wire.readable_within(Duration::from_millis(20)) {
            break;
        }
    }
    assert_eq!(wire.response().status, 408);
    assert!(start.elapsed() >= Duration::from_millis(290));
    wire.expect_gone();
    trial.assert_ended(wire.local_addr());
    witness.assert_served();
}

#[test]
fn a_head_that_stops_in_the_middle_gets_408() {
    let daemon = Daemon::start(&["--handshake-timeout", "200ms"]);
    let mut witness = Witness::new(&daemon);
    for part in [
        "G",
        "GET /healthz HTTP/1.1",
        "GET / HTTP/1.1\r\nHost: x\r\n",
    ] {
        let trial = Trial::begin(&daemon, HANDSHAKE_TIMEOUT);
        let mut wire = Wire::connect(daemon.addr());
        wire.send(part);
        assert_eq!(wire.response().status, 408, "{part:?}");
        wire.expect_eof();
        trial.assert_ended(wire.local_addr());
        witness.assert_served();
    }
}

#[test]
fn a_peer_that_says_nothing_is_dropped_without_a_word() {
    let daemon = Daemon::start(&["--handshake-timeout", "200ms"]);
    let mut witness = Witness::new(&daemon);
    let trial = Trial::begin(&daemon, HANDSHAKE_TIMEOUT);
    let mut wire = Wire::connect(daemon.addr());
    wire.expect_eof();
    trial.assert_ended(wire.local_addr());
    witness.assert_served();
}

#[test]
fn the_handshake_timeout_leaves_members_alone() {
    let daemon = Daemon::start(&["--handshake-timeout", "100ms"]);
    let mut witness = Witness::new(&daemon);
    let mut silent = Wire::connect(daemon.addr());
    silent.expect_eof();
    witness.assert_served();
    assert_eq!(daemon.closes("handshake_timeout"), 1.0);
}

// --- The upgrade ----------------------------------------------------------------------------------

#[test]
fn frames_may_follow_the_head_at_once() {
    let daemon = Daemon::start(&[]);
    let frames = [Frame::text("one").bytes(), Frame::binary("two").bytes()].concat();
    let last = Frame::text("three").bytes();
    for split in [0, 1, last.len() / 2, last.len()] {
        let (now, later) = last.split_at(split);
        let mut wire = Wire::connect(daemon.addr());
        let head = upgrade_request(daemon.addr(), "/echo", &[]);
        wire.send([head.as_bytes(), &frames, now].concat());
        let mut client = Client::upgraded(wire).expect("an upgrade");
        assert_eq!(client.recv_text(), "one");
        assert_eq!(client.recv_binary(), b"two");
        client.send_bytes(later);
        assert_eq!(client.recv_text(), "three");
    }
}

#[test]
fn the_pong_to_a_ping_that_follows_the_head_comes_behind_the_101() {
    for workers in ["0", "1"] {
        let daemon = Daemon::start(&["--workers", workers]);
        for target in ["/ws?room=a", "/echo"] {
            let mut wire = Wire::connect(daemon.addr());
            let head = upgrade_request(daemon.addr(), target, &[]);
            wire.send([head.as_bytes(), &Frame::ping("hi").bytes()].concat());
            let mut client = Client::upgraded(wire).expect("an upgrade");
            assert_eq!(client.recv(), Message::Pong(b"hi".to_vec()), "{target}");
        }
    }
}

#[test]
fn what_follows_the_head_at_once_is_published() {
    let daemon = Daemon::start(&[]);
    let mut member = Client::connect(&daemon, "/ws?room=a");
    daemon.wait_members(1);
    let mut wire = Wire::connect(daemon.addr());
    let mut bytes = upgrade_request(daemon.addr(), "/ws?room=a", &[]).into_bytes();
    for n in 0..20 {
        bytes.extend(Frame::text(&n.to_string()).bytes());
    }
    wire.send(bytes);
    let mut publisher = Client::upgraded(wire).expect("an upgrade");
    for n in 0..20 {
        assert_eq!(member.recv_text(), n.to_string());
        assert_eq!(publisher.recv_text(), n.to_string());
    }
}

#[test]
fn the_accept_key_follows_from_the_key() {
    let daemon = Daemon::start(&[]);
    let pairs = [
        ("AAAAAAAAAAAAAAAAAAAAAA==", "ICX+Yqv66kxgM0FcWaLWlFLwTAI="),
        ("AAECAwQFBgcICQoLDA0ODw==", "Bz3qJYTGdOe8gUSpLosEdiLKDrk="),
        ("/////////////////////w==", "XXpj4jYzLM2yUE0C7TIgMwTQh2g="),
    ];
    for (key, accept) in pairs {
        let request = upgrade_request(daemon.addr(), "/echo", &[]).replace(KEY, key);
        let answer = http(daemon.addr(), request);
        assert_eq!(answer.status, 101, "{key}: {answer:?}");
        assert_eq!(answer.header("sec-websocket-accept"), Some(accept), "{key}");
    }
}

#[test]
fn upgrades_are_understood_in_every_spelling() {
    let daemon = Daemon::start(&[]);
    let spellings = [
        ("Connection: Upgrade", "Connection: keep-alive, Upgrade"),
        ("Connection: Upgrade", "connection: keep-alive,upgrade"),
        (
            "Connection: Upgrade",
            "Connection: keep-alive\r\nConnection: Upgrade",
        ),
        ("Upgrade: websocket", "Upgrade: WebSocket"),
        ("Upgrade: websocket", "UPGRADE:websocket"),
        ("Sec-WebSocket-Key: ", "sec-websocket-key:"),
        ("Sec-WebSocket-Version: 13", "sec-WEBSOCKET-version:   13  "),
    ];
    for (usual, other) in spellings {
        let request = upgrade_request(daemon.addr(), "/echo", &[]).replace(usual, other);
        let mut wire = Wire::connect(daemon.addr());
        wire.send(request);
        let mut client = Client::upgraded(wire).unwrap_or_else(|r| panic!("{other}: {r:?}"));
        client.send_text(other);
        assert_eq!(client.recv_text(), other);
    }
}

#[test]
fn offers_of_protocols_and_extensions_are_not_taken_up() {
    let daemon = Daemon::start(&[]);
    let offers = [
        ("Sec-WebSocket-Protocol", "chat"),
        ("Sec-WebSocket-Protocol", "graphql-ws, mqtt, soap"),
        (
            "Sec-WebSocket-Extensions",
            "permessage-deflate; client_max_window_bits",
        ),
        ("Sec-WebSocket-Extensions", "x-unknown; a=\"b\""),
    ];
    for (name, value) in offers {
        // That the answer chooses nothing is checked for every client.
        let mut client = Dial::new(daemon.addr(), "/echo")
            .header(name, value)
            .connect();
        client.send_text(value);
        assert_eq!(client.recv_text(), value);
    }
}

#[test]
fn bad_websocket_headers_are_refused() {
    let daemon = Daemon::start(&[]);
    let mut witness = Witness::new(&daemon);
    let good = upgrade_request(daemon.addr(), "/echo", &[]);
    let key = format!("Sec-WebSocket-Key: {KEY}\r\n");
    let version = "Sec-WebSocket-Version: 13\r\n";
    let with_key = |value: &str| good.replace(KEY, value);
    let cases = [
        ("no key", good.replace(&key, "")),
        ("two keys", good.replace(&key, &key.repeat(2))),
        (
            "two different keys",
            good.replace(
                &key,
                &format!("{key}Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"),
            ),
        ),
        ("an empty key", with_key("")),
        ("a key of 15 bytes", with_key("AAAAAAAAAAAAAAAAAAAA")),
        ("a key of 17 bytes", with_key("AAAAAAAAAAAAAAAAAAAAAAA=")),
        (
            "a key without its padding",
            with_key("dGhlIHNhbXBsZSBub25jZQ"),
        ),
        (
            "a key that is not base64",
            with_key("!!!!!!!!!!!!!!!!!!!!!!=="),
        ),
        ("a very long key", with_key(&"A".repeat(4000))),
        ("no version", good.replace(version, "")),
        ("two versions", good.replace(version, &version.repeat(2))),
    ];
    for (name, request) in cases {
        refuses(&daemon, &mut witness, name, request, 400, REFUSED);
    }
}

#[test]
fn other_protocol_versions_are_told_the_right_one() {
    let daemon = Daemon::start(&[]);
    let mut witness = Witness::new(&daemon);
    for version in ["0", "7", "8", "12", "14", "255"] {
        let header = format!("Sec-WebSocket-Version: {version}\r\n");
        let request = upgrade_request(daemon.addr(), "/ws?room=a", &[])
            .replace("Sec-WebSocket-Version: 13\r\n", &header);
        let answer = refuses(&daemon, &mut witness, version, request, 426, REFUSED);
        assert_eq!(
            answer.header("sec-websocket-version"),
            Some("13"),
            "{version}"
        );
    }
}

#[test]
fn http_1_0_cannot_upgrade() {
    let daemon = Daemon::start(&[]);
    let request = upgrade_request(daemon.addr(), "/echo", &[]).replace("HTTP/1.1", "HTTP/1.0");
    let status = http(daemon.addr(), request).status;
    assert!([400, 426].contains(&status), "{status}");
}

// --- Origins --------------------------------------------------------------------------------------

#[test]
fn pages_of_the_same_origin_may_connect() {
    let daemon = Daemon::start(&[]);
    let origin = format!("http://{}", daemon.addr());
    let mut page = Dial::new(daemon.addr(), "/echo")
        .header("Origin", &origin)
        .connect();
    page.send_text("same origin");
    assert_eq!(page.recv_text(), "same origin");
    // No origin means no browser.
    Client::connect(&daemon, "/echo").close();
}

#[test]
fn pages_of_foreign_origins_are_refused() {
    let daemon = Daemon::start(&[]);
    let mut witness = Witness::new(&daemon);
    let port = daemon.addr().port();
    let origins = [
        "http://evil.example".to_owned(),
        "https://evil.example:443".to_owned(),
        "null".to_owned(),
        format!("http://127.0.0.1:{}", port ^ 1),
        format!("http://localhost:{port}"),
        format!("http://127.0.0.1:{port}.evil.example"),
        format!("http://evil.example/127.0.0.1:{port}"),
        "nonsense".to_owned(),
        String::new(),
    ];
    for origin in origins {
        for path in ["/ws?room=a", "/echo"] {
            let request = upgrade_request(daemon.addr(), path, &[("Origin", &origin)]);
            refuses(&daemon, &mut witness, &origin, request, 403, REFUSED);
        }
    }
}

#[test]
fn only_listed_origins_may_connect() {
    let listed = [
        "--allowed-origin",
        "https://app.example.com",
        "--allowed-origin",
        "https://*.example.org",
    ];
    let daemon = Daemon::start(&listed);
    let mut witness = Witness::new(&daemon);
    for origin in [
        "https://app.example.com",
        "https://a.example.org",
        "https://live.example.org",
    ] {
        Dial::new(daemon.addr(), "/echo")
            .header("Origin", origin)
            .connect()
            .close();
    }
    for origin in [
        "http://app.example.com",
        "https://app.example.com:8443",
        "https://app.example.com.evil.net",
        "https://other.example.com",
        "https://xapp.example.com",
        "http://a.example.org",
        "https://evil-example.org",
        "https://a.example.org.evil.net",
        "https://evil.net/.example.org",
    ] {
        let request = upgrade_request(daemon.addr(), "/echo", &[("Origin", origin)]);
        refuses(&daemon, &mut witness, origin, request, 403, REFUSED);
    }
}

#[test]
fn a_star_allows_every_origin() {
    let daemon = Daemon::start(&["--allowed-origin", "*"]);
    for origin in ["http://evil.example", "https://a.b.c:1", "null"] {
        Dial::new(daemon.addr(), "/echo")
            .header("Origin", origin)
            .connect()
            .close();
    }
}

// --- Queries --------------------------------------------------------------------------------------

/// A query, the status it is refused with, and what a browser gets in its place.
type BadQuery = (String, u16, u16, &'static str, &'static [&'static str]);

fn bad_queries() -> Vec<BadQuery> {
    let bad: [String; 19] = [
        String::new(),
        "room=".to_owned(),
        "room".to_owned(),
        "room=a&room=".to_owned(),
        format!("room={}", "r".repeat(256)),
        "room=%00".to_owned(),
        "room=a%0ab".to_owned(),
        "room=%1f".to_owned(),
        "room=%7f".to_owned(),
        "room=%80".to_owned(),
        "room=%c3%a9".to_owned(),
        "user=".to_owned(),
        format!("user={}", "u".repeat(255)),
        "user=a,b".to_owned(),
        "user=%c3%a9".to_owned(),
        "user=a%0ab&room=a".to_owned(),
        "room=a&format=xml".to_owned(),
        "room=a&format=".to_owned(),
        "to=bob".to_owned(),
    ];
    let forbidden = [
        "room=$private",
        "room=a&room=$private",
        "user=alice&room=$private",
        "room=%23bob",
        "user=alice&room=%23bob",
        "user=carol&room=%23alice,bob",
    ];
    let bad = bad.map(|query| (query, 400, 3501, "bad request", &["bad_request"][..]));
    let forbidden = forbidden.map(|query| {
        let reason = &["permission_denied"][..];
        (query.to_owned(), 403, 3507, "permission denied", reason)
    });
    let many = "room=1&room=2&room=3&room=4".to_owned();
    let many = (many, 400, 3505, "channel limit", &["channel_limit"][..]);
    bad.into_iter().chain(forbidden).chain([many]).collect()
}

#[test]
fn bad_queries_are_refused_before_the_upgrade() {
    let daemon = Daemon::start(&["--max-rooms-per-connection", "3"]);
    let mut witness = Witness::new(&daemon);
    for (query, status, ..) in bad_queries() {
        let request = upgrade_request(daemon.addr(), &format!("/ws?{query}"), &[]);
        refuses(&daemon, &mut witness, &query, request, status, REFUSED);
    }
}

#[test]
fn browsers_are_told_of_bad_queries_by_a_close_code() {
    let daemon = Daemon::start(&["--max-rooms-per-connection", "3"]);
    let mut witness = Witness::new(&daemon);
    let members = daemon.metric("roomcast_members");
    let origin = format!("http://{}", daemon.addr());
    for (query, _, code, reason, label) in bad_queries() {
        let trial = Trial::begin(&daemon, label);
        let dial = Dial::new(daemon.addr(), &format!("/ws?{query}")).header("Origin", &origin);
        let mut page = match dial.try_connect() {
            Ok(page) => page,
            Err(answer) => panic!("{query}: {answer:?}"),
        };
        page.expect_close(code, reason);
        trial.assert_ended(page.local_addr());
        witness.assert_served();
        assert_eq!(daemon.metric("roomcast_members"), members, "{query}");
    }
}

#[test]
fn queries_up_to_the_limits_are_accepted() {
    let daemon = Daemon::start(&["--max-rooms-per-connection", "3"]);
    let long_room = format!("room={}", "r".repeat(255));
    let long_user = format!("user={}", "u".repeat(254));
    let queries = [
        "room=a",
        "room=%20",
        "room=+",
        "room=~!@%23$%25^%26*()",
        &long_room,
        &long_user,
        "user=alice",
        "user=alice&room=%23alice",
        "user=bob&room=%23alice,bob",
        "user=alice&to=bob",
        "room=1&room=2&room=3",
        "room=a&format=raw",
        "room=a&format=json",
        "room=a&echo=0",
    ];
    for query in queries {
        let dial = Dial::new(daemon.addr(), &format!("/ws?{query}"));
        match dial.try_connect() {
            Ok(client) => client.close(),
            Err(answer) => panic!("{query}: {answer:?}"),
        }
    }
}

#[test]
fn a_refused_upgrade_is_counted_by_its_status() {
    let daemon = Daemon::start(&[]);
    let count = |status| daemon.metric(&responses(status));
    for (target, status) in [("/nope", 404), ("/ws", 400), ("/ws?room=$x", 403)] {
        let before = count(status);
        let answer = http(daemon.addr(), upgrade_request(daemon.addr(), target, &[]));
        assert_eq!(answer.status, status, "{target}");
        daemon.wait_metric(&responses(status), |now| now == before + 1.0);
    }
    let upgrades = daemon.metric("roomcast_upgrades_total");
    let echo = Client::connect(&daemon, "/echo");
    daemon.wait_metric("roomcast_upgrades_total", |now| now == upgrades + 1.0);
    assert!(daemon.metric("roomcast_accepted_total") >= 4.0);
    echo.close();
}

#[test]
fn a_member_hears_nothing_before_a_publication() {
    let daemon = Daemon::start(&[]);
    let mut member = Client::connect(&daemon, "/ws?room=a&user=alice");
    member.send_ping("first");
    assert_eq!(member.recv(), Message::Pong(b"first".to_vec()));
}

// --- Helpers --------------------------------------------------------------------------------------

/// Sends a whole request that must be refused with `status`, and checks the books.
fn refuses(
    daemon: &Daemon,
    witness: &mut Witness,
    name: &str,
    request: impl AsRef<[u8]>,
    status: u16,
    reasons: &'static [&'static str],
) -> Response {
    let trial = Trial::begin(daemon, reasons);
    let counted = daemon.metric(&responses(status));
    let mut wire = Wire::connect(daemon.addr());
    wire.send(request);
    let answer = wire.response();
    assert_eq!(answer.status, status, "{name}: {answer:?}");
    // The connection may be kept for another request, which will not come.
    wire.half_close();
    wire.expect_end();
    trial.assert_ended(wire.local_addr());
    let now = daemon.metric(&responses(status));
    assert_eq!(now, counted + 1.0, "{name}: count of {status}");
    witness.assert_served();
    answer
}

/// Sends what is no request, or too much of one. The daemon must answer `status` and hang up.
fn breaks(daemon: &Daemon, witness: &mut Witness, name: &str, bytes: &[u8], status: u16) {
    let trial = Trial::begin(daemon, REFUSED);
    let mut wire = Wire::connect(daemon.addr());
    // The daemon need not take all of it.
    let _ = wire.try_send(bytes);
    let answer = wire.response();
    assert_eq!(answer.status, status, "{name}: {answer:?}");
    wire.expect_gone();
    trial.assert_ended(wire.local_addr());
    witness.assert_served();
}

/// Asks something of the daemon, so that it has surely read what was sent to it before.
fn daemon_turned(daemon: &Daemon) -> bool {
    health(daemon.addr()).status == 200
}

fn health(addr: SocketAddr) -> Response {
    http(
        addr,
        "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    )
}

fn responses(status: u16) -> String {
    format!("roomcast_http_responses_total{{status=\"{status}\"}}")
}
