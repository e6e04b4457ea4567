//! What a TLS client may send that none should: handshakes that are too large, cut into dust or
//! never end, renegotiation, garbage. Each ends alone and is counted, and memory stays bounded.

#[path = "clients/driven.rs"]
mod driven;
mod harness;

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::Arc;

use rustls::crypto::ring::default_provider;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use serde_json::json;

use driven::Driven;
use harness::{Certificate, Daemon, Wire, wait_until};

/// The largest handshake message that is read, in bytes.
const HANDSHAKE_MAX: usize = 0xffff;

/// A connection whose client is well-behaved, and stays so.
struct Neighbour(Driven);

impl Neighbour {
    fn of(daemon: &Daemon, certificate: &Certificate) -> Self {
        let url = format!("wss://localhost:{}/echo", daemon.addr().port());
        let client = Driven::python_tls(&url, &certificate.cert());
        client.expect("open");
        Self(client)
    }

    fn assert_served(&mut self, text: &str) {
        self.0.order(&json!({"do": "text", "data": text}));
        assert_eq!(self.0.expect("text")["data"], text);
    }
}

fn start(certificate: &Certificate, args: &[&str]) -> Daemon {
    let (cert, key) = (certificate.cert(), certificate.key());
    let tls = ["--tls-cert", &cert, "--tls-key", &key];
    Daemon::start(&[&tls, args].concat())
}

/// A ClientHello, without the header of its record.
fn client_hello() -> Vec<u8> {
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the defaults")
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let name = "localhost".try_into().expect("a name");
    let mut client = ClientConnection::new(Arc::new(config), name).expect("a session");
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).expect("a vector takes it");
    bytes.split_off(5)
}

/// The same with extensions that nobody knows before its own, each of `each` bytes with its head,
/// until the message has about `len` bytes.
fn client_hello_of(len: usize, each: usize) -> Vec<u8> {
    let hello = client_hello();
    // Head of the message, version, random; session id, ciphers, compression; each with its length.
    let mut at = 4 + 2 + 32;
    at += 1 + usize::from(hello[at]);
    at += 2 + usize::from(u16::from_be_bytes([hello[at], hello[at + 1]]));
    at += 1 + usize::from(hello[at]);
    let own = &hello[at + 2..];
    let mut extensions = Vec::new();
    let mut number = 0x5000_u16;
    while at + extensions.len() + own.len() + each < len {
        extensions.extend(number.to_be_bytes());
        extensions.extend(u16::try_from(each - 4).expect("short").to_be_bytes());
        extensions.resize(extensions.len() + each - 4, 0);
        number += 1;
    }
    extensions.extend(own);
    let count = u16::try_from(extensions.len()).expect("it fits");
    let body = [&hello[4..at], &count.to_be_bytes(), &extensions].concat();
    [&head(body.len())[..], &body].concat()
}

/// The head of a ClientHello of so many bytes.
fn head(len: usize) -> [u8; 4] {
    let [_, a, b, c] = u32::try_from(len).expect("small").to_be_bytes();
    [1, a, b, c]
}

/// `content` in records of that kind with at most `piece` bytes each.
fn records(kind: u8, content: &[u8], piece: usize) -> Vec<u8> {
    let record = |piece: &[u8]| {
        let len = u16::try_from(piece.len()).expect("short").to_be_bytes();
        [&[kind, 3, 1][..], &len, piece].concat()
    };
    content.chunks(piece).flat_map(record).collect()
}

const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;
const SERVER_HELLO: u8 = 2;

/// Sends something on a connection of its own, and returns the first 6 bytes that come back.
fn answer(daemon: &Daemon, bytes: &[u8]) -> Vec<u8> {
    let mut wire = Wire::connect(daemon.addr());
    // It may be refused before all of it is sent.
    let _ = wire.try_send(bytes);
    wire.take_some(6)
}

#[test]
fn what_is_unusual_but_right_is_answered() {
    let certificate = Certificate::new("ec");
    let daemon = start(&certificate, &[]);
    let mut neighbour = Neighbour::of(&daemon, &certificate);
    let hello = client_hello();
    for (name, bytes) in [
        ("as usual", records(HANDSHAKE, &hello, 16_384)),
        ("a byte in each record", records(HANDSHAKE, &hello, 1)),
        (
            "3500 extensions",
            records(HANDSHAKE, &client_hello_of(14_500, 4), 16_384),
        ),
        (
            "two large extensions",
            records(HANDSHAKE, &client_hello_of(16_000, 7000), 4096),
        ),
    ] {
        let answer = answer(&daemon, &bytes);
        assert!(answer.len() == 6, "{name}: {answer:?}");
        assert_eq!((answer[0], answer[5]), (HANDSHAKE, SERVER_HELLO), "{name}");
        neighbour.assert_served(name);
    }
    // They are the ones that hung up in the middle.
    daemon.wait_closes("tls", 4.0);
    assert_eq!(daemon.metric("roomcast_tls_handshakes_total"), 1.0);
}

#[test]
fn what_is_wrong_is_refused_and_counted() {
    let certificate = Certificate::new("ec");
    let daemon = start(&certificate, &[]);
    let mut neighbour = Neighbour::of(&daemon, &certificate);
    let huge = [&head(0x00ff_ffff)[..], &[0; 60_000]].concat();
    let over = [&head(HANDSHAKE_MAX + 1)[..], &[0; 65_536]].concat();
    let full = [&head(HANDSHAKE_MAX)[..], &[0; HANDSHAKE_MAX]].concat();
    let dust = records(HANDSHAKE, &client_hello_of(HANDSHAKE_MAX, 8000), 1);
    let garbage: Vec<u8> = (0..40_000_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let cases = [
        (
            "a message that says 16 MiB",
            records(HANDSHAKE, &huge, 16_384),
        ),
        (
            "a byte more than is read",
            records(HANDSHAKE, &over, 16_384),
        ),
        ("64 KiB of zeros", records(HANDSHAKE, &full, 16_384)),
        ("64 KiB, a byte in each record", dust),
        ("empty records", [HANDSHAKE, 3, 1, 0, 0].repeat(5000)),
        (
            "nothing but changes of cipher",
            records(CHANGE_CIPHER_SPEC, &[1; 5000], 1),
        ),
        (
            "nothing but warnings",
            records(ALERT, &[1, 0].repeat(5000), 2),
        ),
        (
            "data before a handshake",
            records(APPLICATION_DATA, &[0; 9000], 3000),
        ),
        (
            "a record of 64 KiB",
            [&[HANDSHAKE, 3, 1, 0xff, 0xff][..], &[0; 0xffff]].concat(),
        ),
        ("garbage", garbage),
        (
            "garbage in a record",
            [&[HANDSHAKE, 3, 1, 0, 200][..], &[0xa5; 200]].concat(),
        ),
        ("a ClientHello that is cut short and filled up", {
            let mut hello = client_hello();
            let middle = hello.len() / 2;
            hello[middle..].fill(0xff);
            records(HANDSHAKE, &hello, 16_384)
        }),
    ];
    for (count, (name, bytes)) in (1_u32..).zip(&cases) {
        let mut wire = Wire::connect(daemon.addr());
        let _ = wire.try_send(bytes);
        wire.expect_gone();
        daemon.wait_metric("roomcast_closes_total{reason=\"tls\"}", |now| {
            now >= f64::from(count)
        });
        assert_eq!(daemon.closes("tls"), f64::from(count), "{name}");
        neighbour.assert_served(name);
    }
    // Nobody else, and for no other reason.
    assert_eq!(daemon.metric("roomcast_tls_handshakes_total"), 1.0);
    for reason in ["reset", "gone", "internal"] {
        assert_eq!(daemon.closes(reason), 0.0, "{reason}");
    }
}

#[test]
fn renegotiation_is_refused_and_nobody_else_notices() {
    let certificate = Certificate::new("ec");
    let daemon = start(&certificate, &[]);
    let mut neighbour = Neighbour::of(&daemon, &certificate);
    let mut command = Command::new("openssl");
    command.args([
        "s_client",
        "-tls1_2",
        "-connect",
        &daemon.addr().to_string(),
    ]);
    command.args(["-CAfile", &certificate.cert(), "-verify_return_error"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command
        .stderr(Stdio::piped())
        .spawn()
        .expect("openssl: run tests/run");
    let mut stdin = child.stdin.take().expect("stdin is piped");
    // `R` at the start of a line asks it to.
    stdin.write_all(b"R\n").expect("it reads");
    let done = child.wait_with_output().expect("a child of ours");
    drop(stdin);
    let text = String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned();
    for part in ["Verify return code: 0", "RENEGOTIATING", "no renegotiation"] {
        assert!(text.contains(part), "no {part:?}: {text}");
    }
    // OpenSSL takes offence at that.
    daemon.wait_closes("tls", 1.0);
    assert_eq!(daemon.metric("roomcast_tls_handshakes_total"), 2.0);
    neighbour.assert_served("still here");
}

#[test]
fn handshakes_that_never_end_hold_little_and_end_in_time() {
    const ROUNDS: usize = 3;
    const CONNECTIONS: usize = 200;
    let certificate = Certificate::new("ec");
    let args = ["--handshake-timeout", "2s", "--max-connections", "300"];
    let daemon = start(&certificate, &args);
    let mut neighbour = Neighbour::of(&daemon, &certificate);
    // A message about which nothing can be said before its end, which does not come.
    let message = [&head(HANDSHAKE_MAX - 4)[..], &[0; 15_000]].concat();
    let almost = records(HANDSHAKE, &message, 16_384);
    let before = daemon.rss_bytes();
    let mut grown = Vec::new();
    for round in 0..ROUNDS {
        let mut wires: Vec<Wire> = (0..CONNECTIONS)
            .map(|_| Wire::connect(daemon.addr()))
            .collect();
        for wire in &mut wires {
            wire.send(&almost);
        }
        neighbour.assert_served("in the middle of it");
        let mut most = 0;
        let ended = CONNECTIONS * (round + 1);
        wait_until("the end of all of them", || {
            most = daemon.rss_bytes().max(most);
            daemon.closes("handshake_timeout") == ended as f64
        });
        grown.push(most.saturating_sub(before) as usize);
        for wire in &mut wires {
            wire.expect_gone();
        }
        neighbour.assert_served("after it");
    }
    // It is held while it comes, and by nobody for longer.
    assert!(
        grown[0] > CONNECTIONS * 12 * 1024,
        "they were read: {grown:?}"
    );
    for bytes in &grown {
        assert!(*bytes < CONNECTIONS * 64 * 1024, "{grown:?}");
    }
    assert!(grown[ROUNDS - 1] < grown[0] + (4 << 20), "{grown:?}");
}
