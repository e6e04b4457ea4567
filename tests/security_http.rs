//! What an attacker controls of a request, byte by byte: who is refused on the admin listener, what
//! every answer says to browsers, that nothing of a request comes back in an answer or gets into the
//! log, and that no two readers can disagree about where a request ends.

mod harness;

use std::collections::BTreeSet;
use std::io::{Read as _, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;

use harness::{
    Api, Client, DEADLINE, Daemon, Dial, Response, SecretFile, Start, Wire, http, post_request,
    signed_token, upgrade_request,
};

const KEY: &str = "a-key-of-sixteen-bytes";
const SECRET: &str = "s3cret-of-the-tests-is-32-bytes!";

fn get(addr: SocketAddr, path: &str, headers: &str) -> Response {
    let headers = headers.replace('|', "\r\n");
    http(addr, format!("GET {path} HTTP/1.1\r\n{headers}\r\n"))
}

// --- Pages of others on the admin listener --------------------------------------------------------

/// Whose page makes a request, as its headers have it.
#[derive(Clone, Copy, PartialEq)]
enum Whose {
    Ours,
    /// By a name that anybody can own.
    Anybodys,
    Strangers,
}

#[test]
fn a_strangers_page_is_refused_on_every_path_of_the_admin_listener() {
    let file = SecretFile::new(KEY);
    let open = Daemon::start(&[]);
    let keyed = Daemon::start(&["--api-key-file", file.path()]);
    let fetch = |site: &str, mode: &str, dest: &str| {
        format!(
            "Host: 127.0.0.1|Sec-Fetch-Site: {site}|Sec-Fetch-Mode: {mode}|Sec-Fetch-Dest: {dest}|"
        )
    };
    let from = |origin: &str| format!("Host: 127.0.0.1|Origin: {origin}|");
    for (headers, whose) in [
        ("Host: 127.0.0.1|".to_owned(), Whose::Ours),
        ("Host: localhost:7778|".into(), Whose::Ours),
        ("Host: [::1]:7778|".into(), Whose::Ours),
        (from("http://127.0.0.1"), Whose::Ours),
        (fetch("same-origin", "cors", "empty"), Whose::Ours),
        (fetch("none", "navigate", "document"), Whose::Ours),
        ("Host: evil.test|".into(), Whose::Anybodys),
        ("Host: 127.0.0.1.evil.test:7778|".into(), Whose::Anybodys),
        ("Host: localhost.evil.test|".into(), Whose::Anybodys),
        ("Host: localhost.|".into(), Whose::Anybodys),
        ("Host: |".into(), Whose::Anybodys),
        (
            "Host: evil.test|Origin: http://evil.test|".into(),
            Whose::Anybodys,
        ),
        (from("http://127.0.0.1:1"), Whose::Strangers),
        (from("http://evil.test"), Whose::Strangers),
        (from("null"), Whose::Strangers),
        (from(""), Whose::Strangers),
        (from("http://127.0.0.1|Origin: null"), Whose::Strangers),
        (fetch("same-site", "cors", "empty"), Whose::Strangers),
        (fetch("cross-site", "no-cors", "script"), Whose::Strangers),
        (fetch("cross-site", "navigate", "iframe"), Whose::Strangers),
    ] {
        for (daemon, has_key) in [(&open, false), (&keyed, true)] {
            let is_refused = match whose {
                Whose::Ours => false,
                // A key proves more than a name.
                Whose::Anybodys => !has_key,
                Whose::Strangers => true,
            };
            for path in ["/", "/metrics", "/debug/loop"] {
                let expected = match (is_refused, path) {
                    (true, _) => 403,
                    (false, "/debug/loop") if has_key => 401,
                    (false, _) => 200,
                };
                let status = get(daemon.admin(), path, &headers).status;
                assert_eq!(status, expected, "{path} {headers}");
            }
            // A probe may use any name, and says nothing of anybody.
            let expected = if whose == Whose::Strangers { 403 } else { 200 };
            for path in ["/healthz", "/readyz"] {
                let status = get(daemon.admin(), path, &headers).status;
                assert_eq!(status, expected, "{path} {headers}");
            }
            // What a form may send without asking first.
            let call = http(
                daemon.admin(),
                format!(
                    "POST /api/info HTTP/1.1\r\n{}X-API-Key: {KEY}\r\n\
                     Content-Type: text/plain\r\nContent-Length: 2\r\n\r\n{{}}",
                    headers.replace('|', "\r\n")
                ),
            );
            let expected = if is_refused { 403 } else { 200 };
            assert_eq!(call.status, expected, "a call, {headers}");
        }
    }
    // A link from elsewhere, into a window of its own.
    let link = fetch("cross-site", "navigate", "document");
    assert_eq!(get(open.admin(), "/", &link).status, 200);
    // No browser sends this: there need not be a host.
    assert_eq!(
        http(open.admin(), "GET /metrics HTTP/1.0\r\n\r\n").status,
        200
    );
}

// --- What answers say -----------------------------------------------------------------------------

/// Requests for every status that either listener knows without load, with `mark` in everything that
/// the peer chooses.
fn of_every_status(daemon: &Daemon, mark: &str) -> Vec<(SocketAddr, String, u16)> {
    let (public, admin) = (daemon.addr(), daemon.admin());
    let chosen = format!(
        "User-Agent: {mark}\r\nReferer: http://{mark}/\r\nCookie: a={mark}\r\n{mark}: {mark}\r\n"
    );
    let get = |addr, path: &str, more: &str| {
        let head = format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\n{chosen}{more}\r\n");
        (addr, head)
    };
    let upgrade =
        |target: &str, headers: &[(&str, &str)]| (public, upgrade_request(public, target, headers));
    let call = |method: &str, headers: &[(&str, &str)], body: &str| {
        let bytes = post_request(admin, method, headers, body);
        (admin, String::from_utf8(bytes).expect("text"))
    };
    let origin = format!("http://{mark}");
    let key = [("X-API-Key", KEY)];
    let with = |(addr, head): (SocketAddr, String), status| (addr, head, status);
    vec![
        with(get(public, &format!("/?{mark}"), ""), 200),
        with(get(public, "/healthz", ""), 200),
        with(get(public, &format!("/{mark}"), ""), 404),
        with(get(public, &format!("/ws?room={mark}"), ""), 426),
        with(get(public, "/", &"A: b\r\n".repeat(70)), 431),
        (
            public,
            format!("{mark} / HTTP/1.1\r\nHost: {mark}\r\n\r\n"),
            405,
        ),
        (public, format!("GET / HTTP/1.1\r\n{mark}\r\n\r\n"), 400),
        with(upgrade(&format!("/ws?room={mark}%0d%0aX:y"), &[]), 401),
        with(upgrade("/echo", &[("Origin", &origin)]), 403),
        with(upgrade("/echo", &[("Sec-WebSocket-Protocol", mark)]), 401),
        with(upgrade("/echo", &[("Transfer-Encoding", mark)]), 400),
        with(get(admin, &format!("/?{mark}"), ""), 200),
        with(get(admin, "/metrics", ""), 200),
        with(get(admin, "/readyz", ""), 200),
        with(get(admin, "/debug/loop", ""), 401),
        with(
            get(admin, "/debug/loop", &format!("X-API-Key: {KEY}\r\n")),
            200,
        ),
        with(get(admin, &format!("/{mark}"), ""), 404),
        with(call(mark, &[], "{}"), 401),
        with(call(mark, &key, "{}"), 200),
        with(call("info", &key, mark), 400),
        with(call(mark, &[key[0], ("Origin", &origin)], "{}"), 403),
        with(call(mark, &[key[0], ("Expect", mark)], "{}"), 417),
        with(call(mark, &[key[0], ("Content-Length", "2")], "{}"), 400),
    ]
}

/// How to start a daemon that asks for tokens and a key, and the files that hold their secrets.
fn guarded() -> (Start, [SecretFile; 2]) {
    let [secret, key] = [SecretFile::new(SECRET), SecretFile::new(KEY)];
    let start = Start::default()
        .args(&["--token-secret-file", secret.path()])
        .args(&["--api-key-file", key.path()]);
    (start, [secret, key])
}

#[test]
fn every_answer_tells_browsers_to_keep_it_from_other_pages() {
    let (start, _files) = guarded();
    let daemon = start.start();
    let mut statuses = BTreeSet::new();
    for (addr, request, status) in of_every_status(&daemon, "x") {
        let answer = http(addr, &request);
        assert_eq!(answer.status, status, "{request}\n{answer:?}");
        statuses.insert(status);
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("cross-origin-resource-policy", "same-origin"),
            ("x-frame-options", "DENY"),
        ] {
            assert_eq!(answer.header(name), Some(value), "{request}");
        }
        let is_page = answer.header("content-type") == Some("text/html; charset=utf-8");
        let policy = answer.header("content-security-policy").expect("a policy");
        assert!(policy.starts_with("default-src 'none'"), "{policy}");
        assert!(policy.contains("frame-ancestors 'none'"), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
        let caching = if is_page { "no-cache" } else { "no-store" };
        assert_eq!(answer.header("cache-control"), Some(caching), "{request}");
        let referrer = is_page.then_some("no-referrer");
        assert_eq!(answer.header("referrer-policy"), referrer, "{request}");
        // No page of another origin is let in, and nobody is told what runs here.
        let tells = |name: &str| name.starts_with("access-control-") || name == "server";
        assert!(
            !answer.headers.iter().any(|(name, _)| tells(name)),
            "{answer:?}"
        );
    }
    let all = [200, 400, 401, 403, 404, 405, 417, 426, 431];
    assert_eq!(statuses, BTreeSet::from(all));
}

/// What follows the head belongs to the next answer, as far as a proxy knows (RFC 9110, section 9.3.2).
#[test]
fn a_refusal_of_head_has_no_body() {
    let (start, _files) = guarded();
    let daemon = start.args(&["--max-connections=1"]).start();
    let admin = daemon.admin();
    let _member = TcpStream::connect(daemon.addr()).expect("a place");
    daemon.wait_metric("roomcast_connections", |open| open == 2.0);
    for (addr, path, headers, status) in [
        (
            admin,
            "/healthz",
            "Host: localhost\r\nOrigin: http://page.example\r\n",
            "403",
        ),
        (
            admin,
            "/healthz",
            "Host: localhost\r\nHost: localhost\r\n",
            "400",
        ),
        (admin, "/debug/loop", "Host: localhost\r\n", "405"),
        (
            admin,
            "/nothing",
            "Host: localhost\r\nConnection: close\r\n",
            "404",
        ),
        (daemon.addr(), "/", "Host: localhost\r\n", "503"),
    ] {
        let mut stream = TcpStream::connect(addr).expect("a daemon that listens");
        stream.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        let head = format!("HEAD {path} HTTP/1.1\r\n{headers}\r\nX");
        stream
            .write_all(head.as_bytes())
            .expect("a daemon that reads");
        stream
            .shutdown(Shutdown::Write)
            .expect("a stream that is open");
        let mut answer = String::new();
        stream
            .read_to_string(&mut answer)
            .expect("an answer and an end");
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
        assert!(answer.contains("\r\nContent-Length: "), "{answer}");
        let (_, body) = answer.split_once("\r\n\r\n").expect("a head");
        assert!(
            body.is_empty() || body.starts_with("HTTP/1.1 4"),
            "{answer}"
        );
    }
}

#[test]
fn nothing_of_a_request_comes_back_in_an_answer_or_gets_into_the_log() {
    let (start, _files) = guarded();
    // Louder than any option, the libraries included.
    let daemon = start
        .env("RUST_LOG", "trace")
        .args(&["--trusted-proxy", "127.0.0.1"])
        .start();
    let mark = "zxqMARKqxz";
    for (addr, request, _) in of_every_status(&daemon, mark) {
        let answer = http(addr, &request);
        let body = answer.text();
        assert!(!body.contains(mark), "{request}\n{body}");
        let headers = format!("{:?}", answer.headers);
        assert!(!headers.contains(mark), "{request}\n{headers}");
    }
    // What nobody may send, and what a member may: a name, a reason, contents, an address.
    let evil = format!("{mark}\u{1b}[2J\u{202e}");
    for request in [
        format!("GET /{evil} HTTP/1.1\r\nHost: {evil}\r\n\r\n"),
        format!(
            "GET /?a={mark} HTTP/1.1\r\nHost: a\r\nUser-Agent: {mark}\r\n{mark}\n<0>{mark}\r\n\r\n"
        ),
        format!("{mark}\r\n\r\n"),
    ] {
        assert_eq!(http(daemon.addr(), request).status, 400);
    }
    for forwarded in [
        mark,
        "192.0.2.1 zxqMARKqxz",
        "\u{a0}zxqMARKqxz",
        "[zxqMARKqxz]",
    ] {
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {forwarded}\r\n\r\n");
        assert_eq!(http(daemon.addr(), request).status, 200);
    }
    let token = signed_token(SECRET, &json!({ "sub": mark, "info": mark }));
    let target = format!("/ws?room={mark}%20reason%3Dnormal&token={token}");
    let mut member = Dial::new(daemon.addr(), &target)
        .header("User-Agent", mark)
        .connect();
    member.send_text(mark);
    assert_eq!(member.recv_text(), mark);
    let peer = member.local_addr();
    member.send_close(4000, &format!("{mark} reason=slow"));
    member.expect_close(4000, None);
    member.expect_eof();
    let closed = daemon.expect_closed(peer);
    assert!(closed.contains(" reason=normal code=0 "), "{closed}");
    let lines = daemon.log_lines();
    assert!(lines.len() > 20, "{lines:?}");
    for line in lines {
        assert!(!line.contains("MARK") && !line.contains('\u{1b}'), "{line}");
        let is_stamped = line
            .split_once("Z ")
            .is_some_and(|(time, _)| time.len() == 23);
        assert!(is_stamped, "{line}");
    }
    let metrics = daemon.metrics();
    assert!(!metrics.contains("MARK"), "{metrics}");
}

// --- Where a request ends -------------------------------------------------------------------------

#[test]
fn what_two_readers_may_read_in_two_ways_is_the_last_of_its_connection() {
    let daemon = Daemon::start(&[]);
    let smuggled = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let (len, chunk) = (smuggled.len(), format!("{:x}", smuggled.len()));
    let cases = [
        (
            "two lengths",
            format!("Content-Length: 0|Content-Length: {len}||"),
            None,
        ),
        (
            "a list of lengths",
            format!("Content-Length: 0, {len}||"),
            None,
        ),
        (
            "length and chunks",
            format!("Content-Length: {len}|Transfer-Encoding: chunked||0||"),
            None,
        ),
        (
            "another coding",
            "Transfer-Encoding: xchunked||0||".into(),
            None,
        ),
        (
            "chunks twice",
            "Transfer-Encoding: chunked|Transfer-Encoding: x||0||".into(),
            None,
        ),
        (
            "an extension with LF",
            format!("Transfer-Encoding: chunked||{chunk};\n{smuggled}|0||"),
            None,
        ),
        (
            "a length with a sign",
            format!("Content-Length: +{len}||"),
            None,
        ),
        (
            "a folded line",
            "A: b|\tTransfer-Encoding: chunked||".into(),
            Some(400),
        ),
        (
            "a space before the colon",
            format!("Content-Length : {len}||"),
            Some(400),
        ),
        (
            "LF in a value",
            format!("A: b\nContent-Length: {len}||"),
            Some(400),
        ),
        ("LF at the end", "A: b\n\n".into(), Some(400)),
        (
            "CR in a value",
            format!("A: b\rContent-Length: {len}||"),
            Some(400),
        ),
        ("NUL in a value", "A: b\0||".into(), Some(400)),
        ("two hosts", "Host: localhost||".into(), Some(400)),
    ];
    for (name, rest, malformed) in cases {
        let rest = rest.replace('|', "\r\n");
        for (addr, line, status) in [
            (daemon.addr(), "GET /healthz", 200),
            (daemon.admin(), "GET /healthz", 200),
            (daemon.admin(), "POST /api/info", 400),
        ] {
            let mut wire = Wire::connect(addr);
            wire.send(format!(
                "{line} HTTP/1.1\r\nHost: localhost\r\n{rest}{smuggled}"
            ));
            let answer = wire.response();
            let expected = malformed.unwrap_or_else(|| match answer.status {
                // What is no coding of ours is not known.
                501 if line.starts_with("POST") => 501,
                _ => status,
            });
            assert_eq!(answer.status, expected, "{name}: {line}");
            assert_eq!(answer.header("connection"), Some("close"), "{name}: {line}");
            wire.expect_end();
        }
    }
}

#[test]
fn nothing_follows_an_upgrade_that_is_refused() {
    let daemon = Daemon::start(&[]);
    let smuggled = format!("GET /healthz HTTP/1.1\r\nHost: {}\r\n\r\n", daemon.addr());
    let good = upgrade_request(daemon.addr(), "/ws?room=a", &[]);
    // A proxy that takes such an answer for an upgrade would pass on whatever comes next.
    for (refused, status) in [
        (good.replace("Version: 13", "Version: 1337"), 426),
        (
            good.replace("Sec-WebSocket-Key: ", "Sec-WebSocket-Key: x"),
            400,
        ),
        (good.replace("?room=a", "?room=$private"), 403),
        (
            good.replace("\r\n\r\n", "\r\nOrigin: http://evil.test\r\n\r\n"),
            403,
        ),
        (
            good.replace("\r\n\r\n", "\r\nContent-Length: 5\r\n\r\n"),
            400,
        ),
        (
            good.replace("/ws?", "/nothing?")
                .replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n"),
            404,
        ),
    ] {
        let mut wire = Wire::connect(daemon.addr());
        wire.send(format!("{refused}{smuggled}"));
        let answer = wire.response();
        assert_eq!(answer.status, status, "{refused}");
        assert_eq!(
            answer
                .header("connection")
                .map(|all| all.ends_with("close")),
            Some(true)
        );
        wire.expect_end();
    }
}

#[test]
fn the_target_may_name_a_host_and_nothing_hangs_on_it() {
    let daemon = Daemon::start(&[]);
    for (addr, target, status) in [
        (daemon.addr(), "http://evil.test/healthz", 200),
        (daemon.addr(), "http://evil.test/metrics", 404),
        (daemon.addr(), "http://evil.test:7778/api/info", 404),
        (daemon.addr(), "//evil.test/healthz", 404),
        (daemon.addr(), "/../healthz", 404),
        (daemon.addr(), "/%68ealthz", 404),
        (daemon.admin(), "http://127.0.0.1/metrics", 200),
        (daemon.admin(), "/api/../metrics", 405),
    ] {
        let status_found = get(addr, target, "Host: localhost|").status;
        assert_eq!(status_found, status, "{target}");
    }
    // The host is looked at where the header has it.
    let rebound = get(
        daemon.admin(),
        "http://127.0.0.1/metrics",
        "Host: evil.test|",
    );
    assert_eq!(rebound.status, 403);
    let old = "GET /healthz HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n";
    let mut wire = Wire::connect(daemon.addr());
    wire.send(old.repeat(2));
    assert_eq!(wire.response().header("connection"), Some("close"));
    wire.expect_end();
}

// --- What is not looked at ------------------------------------------------------------------------

#[test]
fn cookies_open_nothing() {
    let (start, _files) = guarded();
    let daemon = start.start();
    let token = signed_token(SECRET, &json!({ "sub": "al" }));
    let cookie = format!("token={token}; X-API-Key={KEY}; Authorization=Bearer {token}");
    let dial = Dial::new(daemon.addr(), "/ws?room=a").header("Cookie", &cookie);
    assert_eq!(
        dial.try_connect().map_err(|answer| answer.status).err(),
        Some(401)
    );
    let call = post_request(daemon.admin(), "info", &[("Cookie", &cookie)], "{}");
    let answer = http(daemon.admin(), call);
    assert_eq!(answer.status, 401);
    assert_eq!(answer.header("set-cookie"), None);
}

#[test]
fn what_comes_compressed_is_never_expanded() {
    let daemon = Daemon::start(&[]);
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    let call = format!(r#"{{"channel":"a","data":"{}"}}"#, " ".repeat(900_000));
    encoder.write_all(call.as_bytes()).expect("memory takes it");
    let bomb = encoder.finish().expect("memory takes it");
    assert!(bomb.len() < 2000, "{} bytes", bomb.len());
    let coded = [("Content-Encoding", "gzip")];
    let request = post_request(daemon.admin(), "publish", &coded, &bomb);
    assert_eq!(http(daemon.admin(), request).status, 400);
    // To members it is as many bytes as it was.
    let mut member = Client::connect(&daemon, "/ws?room=a");
    member.send_binary(&bomb);
    assert_eq!(member.recv_binary(), bomb);
    let info = Api::connect(&daemon).result("history", &json!({"channel": "a", "limit": 9}));
    assert_eq!(info["offset"], 1, "{info}");
}
