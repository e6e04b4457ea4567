//! Tokens: who is let in, as whom, where to, and until when.

mod harness;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use harness::{Client, Daemon, Dial, Trial, Witness, run_to_exit, stdout_of, wait_until};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

/// The least that is accepted: 32 bytes.
const SECRET: &str = "s3cret-of-the-tests-is-32-bytes!";

// --- Files and tokens -----------------------------------------------------------------------------

/// A file with a secret; removed on drop.
struct SecretFile(PathBuf);

impl SecretFile {
    fn new(secret: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("roomcast-tokens-{}-{count}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::write(&path, secret).expect("a file can be written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("it is ours");
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("UTF-8")
    }
}

impl Drop for SecretFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// A daemon that wants tokens, and the file with its secret.
fn start(args: &[&str]) -> (Daemon, SecretFile) {
    let file = SecretFile::new(SECRET);
    let daemon = Daemon::start(&[&["--token-secret-file", file.path()], args].concat());
    (daemon, file)
}

/// Signs by RFC 7515 with nothing of the daemon's own code.
fn signed(secret: &str, header: &str, payload: &str) -> String {
    let [header, payload] = [header, payload].map(|part| URL_SAFE_NO_PAD.encode(part));
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("any length");
    mac.update(format!("{header}.{payload}").as_bytes());
    let signature = URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes());
    format!("{header}.{payload}.{signature}")
}

fn token(claims: &Value) -> String {
    let header = r#"{"alg":"HS256","typ":"JWT"}"#;
    signed(SECRET, header, &claims.to_string())
}

fn unix_s() -> u64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH);
    elapsed.expect("after 1970").as_secs()
}

fn dial(daemon: &Daemon, query: &str, token: &str) -> Dial {
    Dial::new(daemon.addr(), &format!("/ws?{query}&token={token}"))
}

fn dial_as_browser(daemon: &Daemon, target: &str) -> Dial {
    let origin = format!("http://{}", daemon.addr());
    Dial::new(daemon.addr(), target).header("Origin", &origin)
}

/// Asserts that the request is refused with `status`, and a browser with `code`; returns the body.
fn expect_refused(daemon: &Daemon, target: &str, status: u16, code: u16) -> String {
    let refusal = Dial::new(daemon.addr(), target).try_connect();
    let Err(answer) = refusal else {
        panic!("{target} was accepted");
    };
    assert_eq!(answer.status, status, "{target}: {answer:?}");
    let reason = match code {
        3500 => "invalid token",
        3507 => "permission denied",
        other => panic!("{other}"),
    };
    dial_as_browser(daemon, target)
        .connect()
        .expect_close(code, reason);
    answer.text()
}

// --- Who is let in --------------------------------------------------------------------------------

#[test]
fn a_bad_token_is_refused_and_nobody_learns_why() {
    let (daemon, _file) = start(&[]);
    let good = token(&json!({ "sub": "al" }));
    let mut witness_member = dial(&daemon, "room=w", &good).connect();
    let (head, rest) = good.split_once('.').expect("three parts");
    let (payload, signature) = rest.split_once('.').expect("three parts");
    let claims = r#"{"sub":"al"}"#;
    let hs256 = r#"{"alg":"HS256","typ":"JWT"}"#;
    let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
    let other = URL_SAFE_NO_PAD.encode(r#"{"sub":"bo"}"#);
    let mut flipped = good.clone().into_bytes();
    let tenth = flipped.len() - 10;
    flipped[tenth] = if flipped[tenth] == b'A' { b'B' } else { b'A' };
    let flipped = String::from_utf8(flipped).expect("ASCII");
    let bad = [
        String::new(),
        "garbage".into(),
        "..".into(),
        "a.b.c".into(),
        "%00.%ff.%F0%9F".into(),
        "x".repeat(4000),
        format!("{none}.{payload}."),
        format!("{none}.{payload}.{signature}"),
        format!("{head}.{payload}"),
        format!("{head}.{payload}."),
        format!("{head}.{other}.{signature}"),
        format!("{good}."),
        format!("{good}%3D"),
        format!("{good}%0A"),
        flipped,
        signed(SECRET, r#"{"alg":"none"}"#, claims),
        signed(SECRET, r#"{"alg":"HS512"}"#, claims),
        signed(SECRET, r#"{"alg":"hs256"}"#, claims),
        signed(SECRET, r#"{"typ":"JWT"}"#, claims),
        signed(SECRET, r#"{"alg":"HS256","crit":["exp"]}"#, claims),
        signed("another-secret-that-has-32-bytes", hs256, claims),
        signed("", hs256, claims),
        signed(SECRET, hs256, "{}"),
        signed(SECRET, hs256, r#"{"sub":null}"#),
        signed(SECRET, hs256, r#"{"sub":7}"#),
        signed(SECRET, hs256, r#"{"sub":""}"#),
        signed(SECRET, hs256, r#"{"sub":"a,b"}"#),
        signed(SECRET, hs256, r#"{"sub":"al","sub":"bo"}"#),
        signed(SECRET, hs256, r#"["al"]"#),
        signed(SECRET, hs256, r#"{"sub":"al""#),
        signed(SECRET, hs256, ""),
        token(&json!({ "sub": "al", "exp": unix_s() - 1 })),
        token(&json!({ "sub": "al", "exp": 0 })),
        token(&json!({ "sub": "al", "exp": -1 })),
        token(&json!({ "sub": "al", "exp": null })),
        token(&json!({ "sub": "al", "exp": "never" })),
        token(&json!({ "sub": "al", "nbf": unix_s() + 3600 })),
        token(&json!({ "sub": "al", "expire_at": unix_s() - 1 })),
        token(&json!({ "sub": "al", "channel": "a" })),
        token(&json!({ "sub": "al", "rooms": null })),
        token(&json!({ "sub": "al", "rooms": "*" })),
        token(&json!({ "sub": "al", "rooms": [7] })),
        token(&json!({ "sub": "al", "publish": {} })),
        signed(
            SECRET,
            hs256,
            &format!(
                r#"{{"sub":"al","info":{}1{}}}"#,
                "[".repeat(900),
                "]".repeat(900)
            ),
        ),
    ];
    let body = expect_refused(&daemon, "/ws?room=a&user=al", 401, 3500);
    assert!(!body.is_empty());
    for bad in &bad {
        for target in [
            format!("/ws?room=a&token={bad}"),
            format!("/echo?token={bad}"),
        ] {
            let text = expect_refused(&daemon, &target, 401, 3500);
            assert_eq!(text, body, "{target}");
        }
    }
    for header in [
        "",
        "Bearer",
        "Bearer ",
        "Bearer x",
        "Basic YTpi",
        &format!("Bearer {good}x"),
    ] {
        let dial = Dial::new(daemon.addr(), "/ws?room=a").header("Authorization", header);
        match dial.try_connect() {
            Ok(_) => panic!("{header:?} was accepted"),
            Err(answer) => {
                assert_eq!(
                    (answer.status, answer.text()),
                    (401, body.clone()),
                    "{header:?}"
                );
            }
        }
    }
    witness_member.send_text("still here");
    assert_eq!(witness_member.recv_text(), "still here");
}

#[test]
fn without_a_secret_a_token_is_not_looked_at() {
    let daemon = Daemon::start(&[]);
    let mut client = Client::connect(&daemon, "/ws?room=a&token=garbage");
    client.send_text("open to all");
    assert_eq!(client.recv_text(), "open to all");
    Witness::new(&daemon).assert_served();
}

#[test]
fn a_token_comes_in_the_query_or_in_a_header() {
    let (daemon, _file) = start(&[]);
    let good = token(&json!({ "sub": "al", "exp": unix_s() + 3600, "unknown": [1, {"a": null}] }));
    let bearer = |scheme: &str| {
        let dial = Dial::new(daemon.addr(), "/ws?room=a");
        dial.header("Authorization", &format!("{scheme} {good}"))
    };
    let both = dial(&daemon, "room=a", &good).header("Authorization", &format!("Bearer {good}"));
    let other = dial(&daemon, "room=a", &good).header("Authorization", "Basic YTpi");
    let in_query = dial(&daemon, "room=a", &good);
    let echo = Dial::new(daemon.addr(), &format!("/echo?token={good}"));
    let browser = dial_as_browser(&daemon, &format!("/ws?room=a&token={good}"));
    for dial in [
        in_query,
        bearer("Bearer"),
        bearer("bearer"),
        both,
        other,
        echo,
        browser,
    ] {
        let mut client = dial.connect();
        client.send_text("in");
        assert_eq!(client.recv_text(), "in");
        client.close();
    }
}

#[test]
fn the_user_is_the_one_of_the_token() {
    for workers in ["0", "3"] {
        let (daemon, _file) = start(&["--workers", workers]);
        let al = token(&json!({ "sub": "al" }));
        let bo = token(&json!({ "sub": "bo" }));
        let mut al = dial(&daemon, "format=json&room=a&user=bo&echo=0", &al).connect();
        let rooms = [0; 2].map(|_| al.recv_json()["joined"]["room"].clone());
        assert!(rooms.contains(&json!("#al")), "{rooms:?}");
        let mut bo = dial(&daemon, "format=json&user=bo&to=al", &bo).connect();
        assert_eq!(bo.recv_json()["joined"]["room"], "#bo");
        bo.send_text("hello");
        let got = al.recv_json();
        assert_eq!(got["publication"]["room"], "#al");
        assert_eq!(got["publication"]["user"], "bo");
        assert_eq!(got["publication"]["data"], "hello");
        daemon.wait_members(3);
    }
}

#[test]
fn what_a_user_missed_is_given_to_that_user_only() {
    let (daemon, _file) = start(&[]);
    let [al, bo] = ["al", "bo"].map(|sub| token(&json!({ "sub": sub })));
    let mut sender = dial(&daemon, "to=al", &bo).connect();
    sender.send_text("while you were away");
    daemon.wait_metric("roomcast_messages_received_total", |now| now == 1.0);
    sender.close();
    let mut thief = dial(&daemon, "user=al&last=5&echo=1", &bo).connect();
    let mut owner = dial(&daemon, "last=5", &al).connect();
    assert_eq!(owner.recv_text(), "while you were away");
    let mut again = dial(&daemon, "to=bo", &al).connect();
    again.send_text("to bo");
    assert_eq!(thief.recv_text(), "to bo");
}

// --- Where to -------------------------------------------------------------------------------------

#[test]
fn rooms_are_joined_by_the_list_and_by_name() {
    let (daemon, _file) = start(&[]);
    let granted = |rooms: Value| token(&json!({ "sub": "al", "rooms": rooms }));
    let all = token(&json!({ "sub": "al" }));
    let live = granted(json!(["live:*", "chat"]));
    let star = granted(json!(["*"]));
    let private = granted(json!(["$vip", "$team:*"]));
    let nothing = granted(json!([]));
    for (token, room, is_open) in [
        (&all, "anything", true),
        (&all, "$vip", false),
        (&all, "%23al", true),
        (&all, "%23al,bo", true),
        (&all, "%23bo,al", true),
        (&all, "%23bo", false),
        (&all, "%23bo,alice", false),
        (&all, "%23", false),
        (&live, "live:7", true),
        (&live, "live:", true),
        (&live, "chat", true),
        (&live, "chat2", false),
        (&live, "Live:7", false),
        (&live, "$live:7", false),
        (&live, "%23al,bo", true),
        (&star, "anything", true),
        (&star, "$vip", false),
        (&star, "%23bo", false),
        (&private, "$vip", true),
        (&private, "$team:1", true),
        (&private, "$vips", false),
        (&private, "vip", false),
        (&nothing, "chat", false),
        (&nothing, "%23al", true),
    ] {
        let target = format!("/ws?room={room}&token={token}");
        if is_open {
            Client::connect(&daemon, &target).close();
        } else {
            expect_refused(&daemon, &target, 403, 3507);
        }
        // One room that is not open closes all of them.
        let target = format!("/ws?room=%23al&room={room}&token={token}");
        if !is_open {
            expect_refused(&daemon, &target, 403, 3507);
        }
    }
    daemon.wait_members(0);
}

/// Asserts that a connection may not publish: it is refused, or closed when it sends.
fn expect_no_publishing(daemon: &Daemon, query: &str, token: &str) {
    match dial(daemon, query, token).try_connect() {
        Err(answer) => assert_eq!(answer.status, 403, "{query}: {answer:?}"),
        Ok(mut client) => {
            client.send_text("not allowed");
            client.drain_to_close(3507, "permission denied");
        }
    }
}

#[test]
fn publishing_is_granted_by_its_own_list() {
    let (daemon, _file) = start(&[]);
    let reads = token(&json!({ "sub": "reader", "publish": [] }));
    let some = token(&json!({ "sub": "al", "rooms": ["*"], "publish": ["chat", "#bo"] }));
    let same = token(&json!({ "sub": "al", "rooms": ["chat"] }));
    let all = token(&json!({ "sub": "bo" }));
    let vip = token(&json!({ "sub": "al", "rooms": ["$vip"], "publish": ["*"] }));
    let mut bo = dial(&daemon, "room=chat&room=news&echo=0", &all).connect();
    for (query, token) in [
        ("room=chat", &reads),
        ("room=news", &some),
        ("room=news&to=cy", &some),
        ("to=al", &some),
        ("room=chat&to=bo", &same),
        ("room=%23al&to=cy", &same),
        ("room=$vip", &vip),
        ("room=chat", &vip),
    ] {
        expect_no_publishing(&daemon, query, token);
    }
    // Who may not publish still receives.
    let mut reader = dial(&daemon, "room=chat", &reads).connect();
    for (query, token, text) in [
        ("room=chat&echo=0", &some, "to chat"),
        ("room=chat&room=news&echo=0", &some, "to the first"),
        ("to=bo", &some, "to bo"),
        ("room=chat&echo=0", &same, "the same list"),
    ] {
        let mut client = dial(&daemon, query, token).connect();
        client.send_text(text);
        assert_eq!(bo.recv_text(), text);
        if !query.contains("to=bo") {
            assert_eq!(reader.recv_text(), text);
        }
        client.close();
    }
}

#[test]
fn a_room_of_two_is_theirs() {
    let (daemon, _file) = start(&[]);
    let [al, bo, cy] = ["al", "bo", "cy"].map(|sub| token(&json!({ "sub": sub })));
    let mut al = dial(&daemon, "room=%23al,bo&echo=0", &al).connect();
    let mut bo = dial(&daemon, "room=%23al,bo&echo=0", &bo).connect();
    al.send_text("just us");
    assert_eq!(bo.recv_text(), "just us");
    bo.send_text("yes");
    assert_eq!(al.recv_text(), "yes");
    expect_refused(&daemon, &format!("/ws?room=%23al,bo&token={cy}"), 403, 3507);
}

// --- Until when -----------------------------------------------------------------------------------

#[test]
fn a_connection_ends_with_its_token() {
    for workers in ["0", "2"] {
        let (daemon, _file) = start(&["--workers", workers]);
        let forever = token(&json!({ "sub": "al" }));
        let mut lasting = dial(&daemon, "room=a", &forever).connect();
        let trial = Trial::begin(&daemon, &["connection_expired"]);
        let expiry_s = unix_s() + 2;
        let short = token(&json!({ "sub": "al", "exp": expiry_s }));
        let mut client = dial(&daemon, "room=a&echo=0", &short).connect();
        client.send_text("in time");
        assert_eq!(lasting.recv_text(), "in time");
        let peer = client.local_addr();
        client.expect_close(3005, "connection expired");
        let late = SystemTime::now().duration_since(UNIX_EPOCH + Duration::from_secs(expiry_s));
        let late = late.expect("not before its time");
        assert!(late < Duration::from_secs(2), "{late:?}");
        trial.assert_ended(peer);
        expect_refused(&daemon, &format!("/ws?room=a&token={short}"), 401, 3500);
        lasting.send_text("still here");
        assert_eq!(lasting.recv_text(), "still here");
    }
}

#[test]
fn a_busy_connection_ends_with_its_token_too() {
    let (daemon, _file) = start(&[]);
    for path in ["/ws?room=a&", "/echo?"] {
        let short = token(&json!({ "sub": "al", "exp": unix_s() + 2 }));
        let mut client = Client::connect(&daemon, &format!("{path}token={short}"));
        let began = Instant::now();
        loop {
            client.send_text("tick");
            match client.recv() {
                harness::Message::Text(text) => assert_eq!(text, "tick"),
                harness::Message::Close(code, _) => break assert_eq!(code, Some(3005)),
                other => panic!("{other:?}"),
            }
            assert!(began.elapsed() < Duration::from_secs(5), "{path} goes on");
        }
    }
}

// --- Tokens of the daemon's own, and secrets ------------------------------------------------------

#[test]
fn tokens_that_roomcast_mints_are_good() {
    let (daemon, file) = start(&[]);
    let mint = |args: &[&str]| {
        let args = [&["token", "--token-secret-file", file.path()], args].concat();
        let text = stdout_of(&args);
        text.strip_suffix('\n').expect("one line").to_owned()
    };
    let token = mint(&[
        "--user",
        "al",
        "--rooms",
        "chat",
        "--rooms",
        "$vip",
        "--publish",
        "chat",
    ]);
    let parts: Vec<_> = token.split('.').collect();
    assert_eq!(parts.len(), 3, "{token}");
    let claims = URL_SAFE_NO_PAD.decode(parts[1]).expect("base64");
    let claims: Value = serde_json::from_slice(&claims).expect("JSON");
    assert_eq!(claims["sub"], "al");
    assert_eq!(claims["rooms"], json!(["chat", "$vip"]));
    assert_eq!(claims["publish"], json!(["chat"]));
    let left = claims["exp"].as_u64().expect("a time") - unix_s();
    assert!((3590..=3601).contains(&left), "{left} s");
    let header = URL_SAFE_NO_PAD.decode(parts[0]).expect("base64");
    let header = String::from_utf8(header).expect("UTF-8");
    assert_eq!(
        signed(
            SECRET,
            &header,
            &String::from_utf8_lossy(&URL_SAFE_NO_PAD.decode(parts[1]).expect("base64"))
        ),
        token
    );

    let mut client = dial(&daemon, "room=chat", &token).connect();
    client.send_text("minted");
    assert_eq!(client.recv_text(), "minted");
    dial(&daemon, "room=$vip", &token).connect().close();
    expect_no_publishing(&daemon, "room=$vip", &token);
    expect_refused(&daemon, &format!("/ws?room=other&token={token}"), 403, 3507);

    let short = mint(&["--user", "bo", "--ttl", "1s"]);
    let short = dial(&daemon, "room=a", &short).try_connect();
    short
        .expect("two seconds at most")
        .expect_close(3005, "connection expired");

    let foreign = SecretFile::new("another-secret-that-has-32-bytes");
    let args = [
        "token",
        "--token-secret-file",
        foreign.path(),
        "--user",
        "al",
    ];
    let foreign = stdout_of(&args);
    expect_refused(
        &daemon,
        &format!("/ws?room=a&token={}", foreign.trim()),
        401,
        3500,
    );
}

#[test]
fn short_secrets_are_refused_and_not_shown() {
    let short = "only-31-bytes-are-in-this-file!";
    assert_eq!(short.len(), 31);
    for secret in [short, "", "\n", &format!("{short}\n")] {
        let file = SecretFile::new(secret);
        let path = ["--token-secret-file", file.path()];
        for args in [
            &["--listen", "127.0.0.1:0", "--admin-listen", "off"][..],
            &["check"],
            &["token", "--user", "al"],
        ] {
            let (status, stderr) = run_to_exit(&[args, &path].concat(), &[]);
            assert_eq!(status.code(), Some(2), "{args:?}: {stderr}");
            assert!(stderr.contains("--token-secret-file"), "{stderr}");
            assert!(!stderr.contains("31-bytes-are"), "{stderr}");
        }
    }
    let (status, stderr) = run_to_exit(&["--token-secret-file", "/nowhere/at/all"], &[]);
    assert_eq!(status.code(), Some(2), "{stderr}");
    // As many bytes as are needed, with and without the end of a line.
    for end in ["", "\n", "\r\n"] {
        let file = SecretFile::new(&format!("{SECRET}{end}"));
        let daemon = Daemon::start(&["--token-secret-file", file.path()]);
        let good = token(&json!({ "sub": "al" }));
        dial(&daemon, "room=a", &good).connect().close();
    }
}

#[test]
fn secrets_and_tokens_are_shown_nowhere() {
    let (daemon, file) = start(&["--log-level", "trace"]);
    let good = token(&json!({ "sub": "al", "exp": unix_s() + 3600 }));
    let private = token(&json!({ "sub": "al", "rooms": [] }));
    let mut client = dial(&daemon, "room=a", &good).connect();
    client.send_text("hello");
    assert_eq!(client.recv_text(), "hello");
    client.close();
    let bearer = format!("Bearer {good}");
    let dial = Dial::new(daemon.addr(), "/ws?room=a");
    dial.header("Authorization", &bearer).connect().close();
    expect_refused(&daemon, &format!("/ws?room=a&token={private}"), 403, 3507);
    let wrong = signed("another-secret-that-has-32-bytes", "{}", "{}");
    expect_refused(&daemon, &format!("/ws?room=a&token={wrong}"), 401, 3500);
    wait_until("the last line", || daemon.closes("invalid_token") == 1.0);
    let checked = stdout_of(&["check", "--token-secret-file", file.path()]);
    assert!(checked.contains("token-secret-file"), "{checked}");
    let texts = [daemon.log_lines().join("\n"), daemon.metrics(), checked];
    for text in &texts {
        for secret in [SECRET, &good, &private, &wrong] {
            // A part of it would be too much, too.
            for part in secret.split('.').filter(|part| part.len() >= 16) {
                assert!(!text.contains(&part[part.len() - 16..]), "{part} in {text}");
            }
        }
    }
}

#[test]
fn an_expiry_of_any_size_is_one() {
    let (mut daemon, _file) = start(&[]);
    for expiry in [
        json!(unix_s() + 3600),
        json!(unix_s() as f64 + 3600.5),
        json!(1u64 << 53),
        json!(u64::MAX / 1000),
        json!(u64::MAX / 1000 + 1),
        json!(u64::MAX),
        json!(1e300),
    ] {
        let lasting = token(&json!({ "sub": "al", "exp": expiry }));
        let mut client = dial(&daemon, "room=a", &lasting).connect();
        client.send_text("in");
        assert_eq!(client.recv_text(), "in", "{expiry}");
        client.close();
        assert!(daemon.runs());
    }
}
