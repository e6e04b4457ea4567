//! How calls of the API travel: who may make them, how bodies are framed, what is refused and
//! with which status, and that no caller harms another.

mod harness;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use harness::{
    Api, Client, Daemon, Frame, Response, SecretFile, Wire, error_of, http, linger, post_request,
    wait_until,
};
use serde_json::{Value, json};

/// The least that is accepted.
const KEY: &str = "key-of-the-tests-1";

const BODY: &str = r#"{"channel":"a","data":"hello"}"#;

/// How many calls are tried at once, and how many connections there can be for them.
const CALLS_MAX: usize = 64;
const CONNECTIONS_MAX: usize = 256;

/// What calls in progress may bring together.
const CALLS_BYTES_MAX: usize = 64 << 20;

fn wire(daemon: &Daemon) -> Wire {
    Wire::connect_from(daemon.admin(), IpAddr::from([127, 0, 0, 201]), None)
}

/// `POST /api/publish` with these header lines, each ended by `|`, and these bytes behind them.
fn publish(daemon: &Daemon, headers: &str, rest: impl AsRef<[u8]>) -> Vec<u8> {
    let host = daemon.admin();
    let headers = headers.replace('|', "\r\n");
    let head = format!("POST /api/publish HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n");
    [head.as_bytes(), rest.as_ref()].concat()
}

fn length(body: &str) -> String {
    format!("Content-Length: {}|", body.len())
}

/// One chunk for each of `parts`, and the end.
fn chunked(parts: &[&str]) -> String {
    let chunk = |part: &&str| format!("{:x}\r\n{part}\r\n", part.len());
    parts.iter().map(chunk).collect::<String>() + "0\r\n\r\n"
}

fn offset(response: &Response) -> u64 {
    assert_eq!(response.status, 200, "{response:?}");
    let answer: Value = serde_json::from_slice(&response.body).expect("JSON");
    let offset = answer["result"]["offset"].as_u64();
    offset.unwrap_or_else(|| panic!("{answer}"))
}

fn assert_kept_alive(response: &Response) {
    assert_eq!(response.header("connection"), Some("keep-alive"));
}

/// Asserts that the connection got an answer with `status` and nothing behind it.
fn expect_refused(mut wire: Wire, status: u16) -> Response {
    let response = wire.response();
    assert_eq!(response.status, status, "{response:?}");
    assert_eq!(response.header("connection"), Some("close"));
    assert!(!response.body.is_empty() && !response.text().starts_with('{'));
    wire.expect_eof();
    response
}

// --- Who may call ---------------------------------------------------------------------------------

#[test]
fn a_key_is_asked_for_where_there_is_one() {
    let file = SecretFile::new(KEY);
    let daemon = Daemon::start(&["--api-key-file", file.path()]);
    let mut good = wire(&daemon);
    for (place, key) in [
        format!("X-API-Key: {KEY}|"),
        format!("x-api-key:{KEY}|"),
        format!("Authorization: apikey {KEY}|"),
        format!("authorization: APIKEY   {KEY} |"),
        format!("X-API-Key: {KEY}|Authorization: Bearer else|"),
    ]
    .into_iter()
    .enumerate()
    {
        good.send(publish(&daemon, &(key + &length(BODY)), BODY));
        let response = good.response();
        assert_eq!(offset(&response), place as u64 + 1);
        assert_kept_alive(&response);
    }
    let mut peers = Vec::new();
    for key in [
        String::new(),
        "X-API-Key: |".into(),
        "X-API-Key: wrong|".into(),
        format!("X-API-Key: {KEY}x|"),
        format!("X-API-Key: {}|", &KEY[1..]),
        format!("X-API-Key: {}|", KEY.to_uppercase()),
        format!("X-API-Key: wrong|Authorization: apikey {KEY}|"),
        format!("Authorization: {KEY}|"),
        format!("Authorization: apikey{KEY}|"),
        format!("Authorization: Bearer {KEY}|"),
        "Authorization: apikey|".into(),
        "Authorization: apikey \u{fc}|".into(),
    ] {
        let mut bad = wire(&daemon);
        peers.push(bad.local_addr());
        bad.send(publish(&daemon, &(key.clone() + &length(BODY)), BODY));
        let response = expect_refused(bad, 401);
        assert_eq!(response.header("www-authenticate"), Some("apikey"), "{key}");
        assert!(!response.text().contains(KEY));
    }
    for peer in &peers {
        assert!(daemon.expect_closed(*peer).contains(" reason=refused "));
    }
    // The rest of the listener needs no key, and the log does not show it.
    assert_eq!(daemon.admin_get("/readyz").status, 200);
    let mut member = Client::connect(&daemon, "/ws?room=a&last=9");
    for _ in 0..5 {
        assert_eq!(member.recv_text(), "hello");
    }
    assert!(daemon.log_lines().iter().all(|line| !line.contains(KEY)));
}

#[test]
fn pages_of_others_may_not_call() {
    let daemon = Daemon::start(&[]);
    let port = daemon.admin().port();
    for origin in [
        "http://evil.example".to_owned(),
        "null".into(),
        format!("http://{}", daemon.addr()),
        format!("http://127.0.0.1:{port}.evil.example"),
        format!("http://localhost:{port}"),
        "http://".into(),
        "*".into(),
        String::new(),
    ] {
        let mut page = wire(&daemon);
        // What a page can send without asking first.
        let headers = format!("Origin: {origin}|Content-Type: text/plain|{}", length(BODY));
        page.send(publish(&daemon, &headers, BODY));
        let response = expect_refused(page, 403);
        assert_eq!(
            response.header("access-control-allow-origin"),
            None,
            "{origin}"
        );
    }
    // A page of its own origin may, and whoever is no browser.
    let headers = format!("Origin: http://{}|{}", daemon.admin(), length(BODY));
    let mut own = wire(&daemon);
    own.send(publish(&daemon, &headers, BODY));
    assert_eq!(offset(&own.response()), 1);
    let preflight = format!(
        "OPTIONS /api/publish HTTP/1.1\r\nHost: {}\r\nOrigin: http://evil.example\r\n\r\n",
        daemon.admin()
    );
    own.send(preflight);
    assert_eq!(own.response().status, 405);
}

#[test]
fn the_public_listener_knows_no_api() {
    let daemon = Daemon::start(&[]);
    let response = http(
        daemon.addr(),
        post_request(daemon.addr(), "publish", &[], BODY),
    );
    assert!(matches!(response.status, 404 | 405), "{response:?}");
    let mut member = Client::connect(&daemon, "/ws?room=a&last=9");
    Api::connect(&daemon).publish("a", &json!("the first"));
    assert_eq!(member.recv_text(), "the first");
}

// --- Methods, paths, versions ---------------------------------------------------------------------

#[test]
fn only_post_calls() {
    let daemon = Daemon::start(&[]);
    for (request_line, status, allow) in [
        ("GET /api/publish", 405, Some("POST")),
        ("HEAD /api/publish", 405, Some("POST")),
        ("PUT /api/publish", 405, Some("POST")),
        ("DELETE /api/info", 405, Some("POST")),
        ("OPTIONS /api/info", 405, Some("POST")),
        ("GET /api/nothing", 405, Some("POST")),
        ("GET /api/", 405, Some("POST")),
        ("POST /metrics", 405, Some("GET")),
        ("POST /healthz", 405, Some("GET, HEAD")),
        ("POST /api", 404, None),
        ("POST /apis/info", 404, None),
        ("POST /API/info", 404, None),
        ("POST //api/info", 404, None),
        ("POST /", 405, Some("GET, HEAD")),
    ] {
        let mut wire = wire(&daemon);
        wire.send(format!(
            "{request_line} HTTP/1.1\r\nHost: localhost\r\n\r\n"
        ));
        let response = if request_line.starts_with("HEAD") {
            let head = wire.response_to_head();
            assert!(head.header("content-length").is_some_and(|len| len != "0"));
            head
        } else {
            wire.response()
        };
        assert_eq!(
            (response.status, response.header("allow")),
            (status, allow),
            "{request_line}"
        );
        // No body came, so the connection is as good as before.
        assert_kept_alive(&response);
        wire.send(publish(&daemon, &length(BODY), BODY));
        offset(&wire.response());
    }
    let mut api = Api::connect(&daemon);
    assert_eq!(api.error("nothing", &json!({})), 104);
    // The query is nobody's business.
    api.wire
        .send(post_request(daemon.admin(), "info?x=/y", &[], "{}"));
    assert!(api.answer()["result"]["nodes"].is_array());
}

#[test]
fn old_clients_are_answered_and_closed() {
    let daemon = Daemon::start(&[]);
    for (line, headers, is_kept) in [
        ("HTTP/1.0", String::new(), false),
        ("HTTP/1.0", format!("Host: {}\r\n", daemon.admin()), false),
        ("HTTP/1.0", "Connection: keep-alive\r\n".into(), false),
        ("HTTP/1.0", "Expect: 100-continue\r\n".into(), false),
        (
            "HTTP/1.1",
            "Host: localhost\r\nConnection: close\r\n".into(),
            false,
        ),
        (
            "HTTP/1.1",
            "Host: localhost\r\nConnection: x, Close\r\n".into(),
            false,
        ),
        ("HTTP/1.1", "Host: localhost\r\n".into(), true),
    ] {
        let mut wire = wire(&daemon);
        let len = BODY.len();
        wire.send(format!(
            "POST /api/publish {line}\r\n{headers}Content-Length: {len}\r\n\r\n{BODY}"
        ));
        let response = wire.response();
        offset(&response);
        if is_kept {
            assert_kept_alive(&response);
        } else {
            assert_eq!(
                response.header("connection"),
                Some("close"),
                "{line} {headers}"
            );
            wire.expect_eof();
        }
    }
    // HTTP/1.1 without a host.
    let mut wire = wire(&daemon);
    wire.send("POST /api/info HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}");
    expect_refused(wire, 400);
}

// --- Bodies ---------------------------------------------------------------------------------------

#[test]
fn a_connection_serves_many_calls_one_after_the_other_and_pipelined() {
    for workers in ["0", "1", "3"] {
        let daemon = Daemon::start(&["--workers", workers]);
        let mut wire = wire(&daemon);
        for number in 1..=10 {
            wire.send(publish(&daemon, &length(BODY), BODY));
            let response = wire.response();
            assert_eq!(offset(&response), number);
            assert_kept_alive(&response);
        }
        // Ten at once, of different rooms and thus of different workers, and other requests between.
        let mut all = Vec::new();
        for number in 0..10 {
            let body = format!(r#"{{"channel":"r{number}","data":{number}}}"#);
            if number % 2 == 0 {
                all.extend(publish(&daemon, &length(&body), &body));
            } else {
                let (one, two) = body.split_at(number);
                all.extend(publish(
                    &daemon,
                    "Transfer-Encoding: chunked|",
                    chunked(&[one, two]),
                ));
            }
            let request = "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n";
            all.extend(request.as_bytes());
            let body = format!(r#"{{"channel":"r{number}","limit":1}}"#);
            all.extend(post_request(daemon.admin(), "history", &[], body));
        }
        wire.send(&all);
        for number in 0..10 {
            assert_eq!(offset(&wire.response()), 1);
            assert_eq!(wire.response().text(), "ok");
            let answer: Value = serde_json::from_slice(&wire.response().body).expect("JSON");
            assert_eq!(answer["result"]["publications"][0]["data"], number);
        }
        wire.expect_silence(Duration::from_millis(20));
        // The last of several may end the connection; what follows it is not looked at.
        let last = publish(
            &daemon,
            &format!("Connection: close|{}", length(BODY)),
            BODY,
        );
        wire.send([publish(&daemon, &length(BODY), BODY), last.clone(), last].concat());
        assert_eq!(offset(&wire.response()), 11);
        assert_eq!(offset(&wire.response()), 12);
        wire.expect_eof();
    }
}

#[test]
fn a_call_may_be_cut_at_every_byte() {
    let daemon = Daemon::start(&[]);
    let chunks = format!(
        "5;ext=\"a;b\"\r\n{}\r\n000{:X}\r\n{}\r\n00;last\r\nTrailer: x\r\nOther:\r\n\r\n",
        &BODY[..5],
        BODY.len() - 5,
        &BODY[5..]
    );
    let mut expected = 0;
    for request in [
        publish(&daemon, &length(BODY), BODY),
        publish(&daemon, "Transfer-Encoding: chunked|", &chunks),
    ] {
        for cut in 1..request.len() {
            let mut wire = wire(&daemon);
            wire.send(&request[..cut]);
            // The daemon has seen the first part when another connection has been served.
            assert_eq!(daemon.admin_get("/healthz").status, 200);
            wire.send(&request[cut..]);
            expected += 1;
            assert_eq!(offset(&wire.response()), expected, "cut at {cut}");
        }
        let mut wire = wire(&daemon);
        for byte in &request {
            wire.send([*byte]);
        }
        expected += 1;
        assert_eq!(offset(&wire.response()), expected, "byte by byte");
        wire.send(&request);
        expected += 1;
        assert_eq!(offset(&wire.response()), expected, "and once more");
    }
}

#[test]
fn a_length_that_can_be_read_in_two_ways_is_refused() {
    let daemon = Daemon::start(&[]);
    let len = BODY.len();
    let chunks = chunked(&[BODY]);
    for (headers, body, status) in [
        (
            format!("Content-Length: {len}|Transfer-Encoding: chunked|"),
            BODY,
            400,
        ),
        (
            format!("Transfer-Encoding: chunked|Content-Length: {len}|"),
            &*chunks,
            400,
        ),
        (
            format!("Content-Length: {len}|Content-Length: {len}|"),
            BODY,
            400,
        ),
        (
            format!("Content-Length: {len}|Content-Length: {}|", len + 1),
            BODY,
            400,
        ),
        (format!("Content-Length: {len}, {len}|"), BODY, 400),
        (format!("Content-Length: +{len}|"), BODY, 400),
        (format!("Content-Length: {len}x|"), BODY, 400),
        ("Content-Length: -1|".into(), BODY, 400),
        ("Content-Length: |".into(), BODY, 400),
        ("Content-Length: 99999999999999999999999|".into(), BODY, 400),
        ("Transfer-Encoding: |".into(), BODY, 400),
        ("Transfer-Encoding: chunked, chunked|".into(), &chunks, 400),
        ("Transfer-Encoding: gzip, chunked|".into(), &chunks, 501),
        ("Transfer-Encoding: identity|".into(), BODY, 501),
        ("Transfer-Encoding: \u{b}chunked|".into(), &chunks, 400),
        ("Transfer-Encoding : chunked|".into(), &chunks, 400),
        (format!("Content-Length: {len}|Expect: tea|"), BODY, 417),
    ] {
        let mut wire = wire(&daemon);
        wire.send(publish(&daemon, &headers, body));
        let response = wire.response();
        assert_eq!(response.status, status, "{headers}: {response:?}");
        assert_eq!(response.header("connection"), Some("close"), "{headers}");
        wire.expect_eof();
    }
    assert_eq!(Api::connect(&daemon).publish("a", &json!("the first")), 1);
}

#[test]
fn malformed_chunks_are_refused() {
    let daemon = Daemon::start(&[]);
    let long_line = format!("1;{}\r\n", "e".repeat(300));
    let long_trailer = format!("0\r\nA: {}\r\n\r\n", "t".repeat(5000));
    for (body, status) in [
        ("g\r\n", 400),
        ("-1\r\n", 400),
        ("+1\r\n{", 400),
        ("0x1\r\n{", 400),
        ("1 1\r\n{", 400),
        ("\r\n", 400),
        ("1\n{\r\n", 400),
        ("1\r\n{}", 400),
        ("1\r\n{\n0\r\n\r\n", 400),
        ("FFFFFFFFFFFFFFFF\r\n", 413),
        ("FFFFFFFFFFFFFFFFF\r\n", 400),
        ("10000000000000000\r\n", 400),
        ("7fffffffffffffff\r\n", 413),
        ("100001\r\n", 413),
        ("0\r\nno trailer\r\n\r\n", 400),
        ("0\r\n\n", 400),
        (&long_line, 400),
        (&long_trailer, 431),
    ] {
        let mut wire = wire(&daemon);
        wire.send(publish(&daemon, "Transfer-Encoding: chunked|", body));
        let response = expect_refused(wire, status);
        assert!(!response.text().is_empty(), "{body:?}");
    }
    // An overflow of the sum.
    let mut wire = wire(&daemon);
    let head = publish(&daemon, "Transfer-Encoding: chunked|", "1\r\n \r\n");
    wire.send([&head[..], b"ffffffffffffffff\r\n"].concat());
    expect_refused(wire, 413);
}

#[test]
fn a_body_has_a_mebibyte_at_most() {
    let daemon = Daemon::start(&[]);
    let max = 1 << 20;
    let spaces = " ".repeat(max - BODY.len());
    let full = format!("{BODY}{spaces}");
    let mut wire_full = wire(&daemon);
    wire_full.send(publish(&daemon, &length(&full), &full));
    assert_eq!(offset(&wire_full.response()), 1);
    let (one, two) = full.split_at(max / 2);
    wire_full.send(publish(
        &daemon,
        "Transfer-Encoding: chunked|",
        chunked(&[one, two]),
    ));
    assert_eq!(offset(&wire_full.response()), 2);
    // Refused before a byte of it has come.
    for headers in [
        "Content-Length: 1048577|",
        "Content-Length: 18446744073709551615|",
        "Content-Length: 1048577|Expect: 100-continue|",
    ] {
        let mut wire = wire(&daemon);
        wire.send(publish(&daemon, headers, ""));
        expect_refused(wire, 413);
    }
    // While it is chunked, as soon as it is over; what still comes does not matter.
    let mut over = wire(&daemon);
    let chunks = chunked(&[one, two, " "]);
    over.send(publish(&daemon, "Transfer-Encoding: chunked|", chunks));
    let response = over.response();
    assert_eq!(response.status, 413);
    over.expect_eof();
    // A client that writes all before it reads gets the answer, and no reset in its place.
    let mut writer = wire(&daemon);
    let body = "x".repeat(2 * max);
    writer.send(publish(
        &daemon,
        &format!("Content-Length: {}|", body.len()),
        &body,
    ));
    assert_eq!(writer.response().status, 413);
    writer.expect_end();
}

#[test]
fn whoever_waits_to_be_asked_for_the_body_is_asked() {
    for workers in ["0", "2"] {
        let daemon = Daemon::start(&["--workers", workers]);
        let mut wire = wire(&daemon);
        for number in 1..=3 {
            let headers = format!("Expect: 100-Continue|{}", length(BODY));
            wire.send(publish(&daemon, &headers, ""));
            let interim = wire.response();
            assert_eq!(
                (interim.status, interim.headers.len()),
                (100, 0),
                "{interim:?}"
            );
            wire.expect_silence(Duration::from_millis(10));
            wire.send(BODY);
            let response = wire.response();
            assert_eq!(offset(&response), 3 * number - 2);
            assert_kept_alive(&response);
            wire.send(publish(
                &daemon,
                "Expect: 100-continue|Transfer-Encoding: chunked|",
                "",
            ));
            assert_eq!(wire.response().status, 100);
            wire.send(chunked(&[BODY]));
            assert_eq!(offset(&wire.response()), 3 * number - 1);
            // The body came along, so there is nothing to ask for.
            wire.send(publish(&daemon, &headers, BODY));
            assert_eq!(offset(&wire.response()), 3 * number);
        }
        // Without a body nothing is asked for.
        wire.send(
            "POST /api/info HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n",
        );
        assert_eq!(wire.response().status, 200);
        // Whoever is asked and then sends nonsense.
        wire.send(publish(
            &daemon,
            "Expect: 100-continue|Transfer-Encoding: chunked|",
            "",
        ));
        assert_eq!(wire.response().status, 100);
        wire.send("nonsense\r\n");
        expect_refused(wire, 400);
    }
    let file = SecretFile::new(KEY);
    let daemon = Daemon::start(&["--api-key-file", file.path()]);
    let mut stranger = wire(&daemon);
    stranger.send(publish(
        &daemon,
        &format!("Expect: 100-continue|{}", length(BODY)),
        "",
    ));
    expect_refused(stranger, 401);
}

// --- Those who come late, leave early or are many -------------------------------------------------

#[test]
fn a_body_that_does_not_come_ends_in_408() {
    let daemon = Daemon::start(&["--handshake-timeout", "300ms"]);
    for sent in [
        publish(&daemon, &length(BODY), ""),
        publish(&daemon, &length(BODY), &BODY[..5]),
        publish(&daemon, "Transfer-Encoding: chunked|", "5\r\nabc"),
        publish(&daemon, "Transfer-Encoding: chunked|", "0\r\n"),
        publish(&daemon, "Content-Length: 9|", "")[..30].to_vec(),
    ] {
        let mut wire = wire(&daemon);
        wire.send(&sent);
        expect_refused(wire, 408);
    }
    // Bytes that trickle do not buy time.
    let mut slow = wire(&daemon);
    slow.send(publish(&daemon, "Content-Length: 1000|", "{"));
    while !slow.readable_within(Duration::from_millis(20)) {
        if slow.try_send(" ").is_err() {
            break;
        }
    }
    expect_refused(slow, 408);
    // Nor does a call before it, and one that is quick is served all the time.
    let mut wire = wire(&daemon);
    wire.send(publish(&daemon, &length(BODY), BODY));
    assert_eq!(offset(&wire.response()), 1);
    wire.send(publish(&daemon, &length(BODY), &BODY[..9]));
    expect_refused(wire, 408);
}

#[test]
fn whoever_ends_its_side_gets_its_answers() {
    for workers in ["0", "3"] {
        // The answer comes long after the end of the stream.
        let daemon = Daemon::start(&["--workers", workers, "--batch-interval", "100ms"]);
        let mut member = Client::connect(&daemon, "/ws?room=a");
        let mut offset_before = 0;
        for count in [1, 3] {
            let mut wire = wire(&daemon);
            let peer = wire.local_addr();
            let request = publish(&daemon, &length(BODY), BODY);
            wire.send(request.repeat(count));
            wire.half_close();
            for _ in 0..count {
                offset_before += 1;
                assert_eq!(offset(&wire.response()), offset_before);
                assert_eq!(member.recv_text(), "hello");
            }
            wire.expect_eof();
            assert!(daemon.expect_closed(peer).contains(" reason=answered "));
        }
        // With half a body there is nobody to answer.
        let mut half = wire(&daemon);
        half.send(publish(&daemon, &length(BODY), &BODY[..9]));
        half.half_close();
        half.expect_eof();
    }
}

#[test]
fn whoever_vanishes_in_a_call_harms_nobody() {
    for workers in ["0", "3"] {
        let daemon = Daemon::start(&["--workers", workers, "--batch-interval", "20ms"]);
        let mut member = Client::connect(&daemon, "/ws?room=a");
        let mut api = Api::connect(&daemon);
        let request = publish(&daemon, &length(BODY), BODY);
        for number in 0..2 * CALLS_MAX {
            let mut wire = wire(&daemon);
            match number % 4 {
                0 => wire.send(&request[..request.len() - 3]),
                1 => wire.send(&request[..request.len() - BODY.len()]),
                2 => wire.send(&request),
                _ => wire.send(request.repeat(2)),
            }
            if number % 2 == 0 {
                wire.reset();
            }
        }
        daemon.wait_metric("roomcast_connections", |now| now <= 3.0);
        let last = api.publish("a", &json!("still here"));
        // Whole calls were carried out although nobody waited, unless the reset came first.
        assert!(last > 2 * CALLS_MAX as u64 / 4 - 1, "{last}");
        for _ in 1..last {
            assert_eq!(member.recv_text(), "hello");
        }
        assert_eq!(member.recv_text(), "still here");
        // No place was lost.
        let mut wires: Vec<Wire> = (0..CALLS_MAX).map(|_| wire(&daemon)).collect();
        wires
            .iter_mut()
            .for_each(|wire| wire.send(&request[..request.len() - 1]));
        wires
            .iter_mut()
            .for_each(|wire| wire.send(&request[request.len() - 1..]));
        wires
            .iter_mut()
            .for_each(|wire| _ = offset(&wire.response()));
    }
}

#[test]
fn more_calls_than_places_are_all_answered() {
    for workers in ["0", "3"] {
        // A publication is acknowledged when its interval is over, so the calls are many at once.
        let args = ["--workers", workers, "--batch-interval", "20ms"];
        let daemon = Daemon::start(&args);
        let mut member = Client::connect(&daemon, "/ws?room=a");
        let body = format!("{BODY}{}", " ".repeat(800_000));
        let count = CALLS_BYTES_MAX / body.len() + 20;
        let request = publish(&daemon, &length(&body), &body);
        let mut wires: Vec<Wire> = (0..count).map(|_| wire(&daemon)).collect();
        wires.iter_mut().for_each(|wire| wire.send(&request));
        assert_eq!(daemon.admin_get("/healthz").status, 200);
        let mut offsets: Vec<u64> = wires
            .iter_mut()
            .map(|wire| offset(&wire.response()))
            .collect();
        offsets.sort_unstable();
        assert_eq!(offsets, (1..=count as u64).collect::<Vec<_>>());
        for _ in &offsets {
            assert_eq!(member.recv_text(), "hello");
        }
        // Small ones, and more than one on each connection.
        let request = publish(&daemon, &length(BODY), BODY);
        wires
            .iter_mut()
            .for_each(|wire| wire.send(request.repeat(3)));
        for _ in 0..3 {
            wires
                .iter_mut()
                .for_each(|wire| _ = offset(&wire.response()));
        }
    }
}

#[test]
fn no_page_reaches_the_api_by_a_name_that_anybody_can_own() {
    let file = SecretFile::new(KEY);
    for (args, name_is_enough) in [(vec![], false), (vec!["--api-key-file", file.path()], true)] {
        let daemon = Daemon::start(&args);
        let status = |host: &str, origin: &str| {
            let mut wire = wire(&daemon);
            wire.send(format!(
                "POST /api/info HTTP/1.1\r\nHost: {host}\r\nOrigin: http://{origin}\r\n\
                 X-API-Key: {KEY}\r\nContent-Length: 0\r\n\r\n"
            ));
            wire.response().status
        };
        let own = daemon.admin().to_string();
        assert_eq!(status(&own, &own), 200);
        assert_eq!(status("localhost:1", "localhost:1"), 200);
        assert_eq!(status(&own, "evil.example"), 403);
        // A name that was made to resolve to this address.
        let rebound = status("evil.example:1", "evil.example:1");
        assert_eq!(rebound, if name_is_enough { 200 } else { 403 });
    }
}

#[test]
fn bodies_that_do_not_come_hold_up_nobody() {
    let daemon = Daemon::start(&["--handshake-timeout", "2s"]);
    let request = publish(&daemon, "Transfer-Encoding: chunked|", chunked(&[BODY]));
    let announced = publish(&daemon, "Content-Length: 1048576|", "");
    let mut half: Vec<Wire> = (0..200).map(|_| wire(&daemon)).collect();
    for (number, wire) in half.iter_mut().enumerate() {
        wire.send(match number % 2 {
            0 => &request[..request.len() - 1],
            _ => &announced[..],
        });
    }
    wait_until("all have begun", || {
        daemon.metric("roomcast_connections") > 200.0
    });
    let mut api = Api::connect(&daemon);
    for number in 1..=100 {
        assert_eq!(api.publish("a", &json!(number)), number);
    }
    assert_eq!(
        daemon.closes("refused") + daemon.closes("handshake_timeout"),
        0.0,
        "served while they hung"
    );
    half.into_iter()
        .for_each(|wire| _ = expect_refused(wire, 408));
}

#[test]
fn a_kept_connection_waits_for_its_next_call_longer_than_for_a_first() {
    let daemon = Daemon::start(&["--handshake-timeout", "100ms"]);
    let mut api = Api::connect(&daemon);
    assert_eq!(api.publish("a", &json!(1)), 1);
    // Begun later, and over first.
    let mut half = wire(&daemon);
    half.send("POST /api/publish HTTP/1.1\r\n");
    expect_refused(half, 408);
    assert_eq!(api.publish("a", &json!(2)), 2);
    // Once begun, a call has no more time than any.
    api.wire.send("POST /api/publish HTTP/1.1\r\n");
    assert_eq!(api.wire.response().status, 408);
}

#[test]
fn a_long_answer_is_not_cut_while_its_reader_makes_progress() {
    let daemon = Daemon::start(&["--write-timeout", "300ms"]);
    let mut api = Api::connect(&daemon);
    let data = "\u{1}".repeat(50_000);
    for _ in 0..20 {
        api.publish("a", &json!(data));
    }
    // Read slowly, through a small window, for longer than the write timeout.
    let narrow = Some(16 << 10);
    let mut slow = Wire::connect_from(daemon.admin(), IpAddr::from([127, 0, 0, 202]), narrow);
    let body = r#"{"channel":"a","limit":-1}"#;
    let head = format!(
        "POST /api/history HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n\r\n{body}",
        daemon.admin(),
        body.len()
    );
    slow.send(head);
    let mut other = Api::connect(&daemon);
    let began = Instant::now();
    let mut received = 0;
    while received < 20 * 6 * 50_000 {
        received += slow.recv_some();
        if began.elapsed() < Duration::from_secs(1) {
            // Something that takes time, and shows that others are served meanwhile.
            for _ in 0..4 {
                other.publish("b", &json!(1));
            }
        }
    }
    assert_eq!(daemon.closes("write_timeout"), 0.0);
}

#[test]
fn the_listener_takes_so_many_connections_and_no_more() {
    let daemon = Daemon::start(&[]);
    let request = publish(&daemon, &length(BODY), BODY);
    let mut wires: Vec<Wire> = (0..CONNECTIONS_MAX).map(|_| wire(&daemon)).collect();
    for wire in &mut wires {
        wire.send(&request);
        offset(&wire.response());
    }
    let mut over = wire(&daemon);
    let _ = over.try_send(&request);
    over.expect_end();
    // The public listener does not notice.
    let mut client = Client::connect(&daemon, "/ws?room=b");
    client.send_text("here");
    assert_eq!(client.recv_text(), "here");
    drop(wires);
    wait_until("a place", || {
        let mut wire = wire(&daemon);
        wire.try_send(&request).is_ok() && {
            wire.readable_within(Duration::from_secs(5)) && wire.try_response().is_some()
        }
    });
}

#[test]
fn a_daemon_that_ends_answers_the_calls_it_has() {
    for workers in ["0", "3"] {
        let args = ["--workers", workers, "--batch-interval", "300ms"];
        let mut daemon = Daemon::start(&args);
        let mut idle = Api::connect(&daemon);
        idle.publish("b", &json!(1));
        let mut begun = wire(&daemon);
        begun.send(publish(&daemon, &length(BODY), &BODY[..9]));
        let mut api = Api::connect(&daemon);
        api.send("publish", BODY);
        // It is numbered at once, and answered when the interval is over.
        wait_until("the call is in progress", || {
            idle.result("history", &json!({ "channel": "a" }))["offset"] == 1
        });
        daemon.signal(harness::Signal::Term);
        assert_eq!(api.answer()["result"]["offset"], 1);
        api.wire.expect_end();
        idle.wire.expect_end();
        begun.expect_end();
        assert!(daemon.wait_exit().success());
    }
}

#[test]
fn a_slow_reader_of_a_large_answer_gets_it_whole() {
    let daemon = Daemon::start(&["--history-size", "1000"]);
    let mut api = Api::connect(&daemon);
    let data = "y".repeat(50_000);
    for _ in 0..20 {
        api.publish("a", &json!(data));
    }
    let mut slow = Wire::connect_from(daemon.admin(), IpAddr::from([127, 0, 0, 201]), Some(4096));
    let body = r#"{"channel":"a","limit":100}"#;
    slow.send(post_request(daemon.admin(), "history", &[], body).repeat(3));
    linger(Duration::from_millis(50));
    api.publish("b", &json!("others do not wait"));
    for _ in 0..3 {
        let answer: Value = serde_json::from_slice(&slow.response().body).expect("JSON");
        let publications = answer["result"]["publications"].as_array().map(Vec::len);
        assert_eq!(publications, Some(20));
    }
}

#[test]
fn frames_are_no_calls() {
    let daemon = Daemon::start(&[]);
    let mut wire = wire(&daemon);
    wire.send(Frame::text("hello").bytes());
    expect_refused(wire, 400);
    let mut api = Api::connect(&daemon);
    assert_eq!(error_of(&api.call("publish", &json!({}))), 107);
}
