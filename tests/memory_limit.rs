//! `--memory-limit`: what is given up, in which order, and that the process stays within it.

mod harness;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;

use harness::{
    Api, Certificate, Client, DEADLINE, Daemon, Dial, Start, hoard, narrow_listener,
    upgrade_request, wait_until,
};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use serde_json::json;
use socket2::{Domain, Socket, Type};

/// Starts a daemon whose sockets take little, so that what is not read stays in it.
fn start(args: &[&str]) -> Daemon {
    let listener = narrow_listener(4 << 10);
    Start::default().args(args).pass(listener).start()
}

fn stalled(daemon: &Daemon, number: usize, query: &str) -> Client {
    // Not all from one address, which has 28 000 ports.
    Dial::new(daemon.addr(), &format!("/ws?{query}"))
        .source(2 + (number % 8) as u8)
        .receive_buffer(2 << 10)
        .connect()
}

/// Clients over TLS that believe who is signed by the root of `certificate`.
fn tls_clients(certificate: &Certificate) -> Arc<ClientConfig> {
    let root = CertificateDer::from_pem_file(certificate.root()).expect("a certificate");
    let mut roots = RootCertStore::empty();
    roots.add(root).expect("an authority");
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

/// A member over TLS that reads nothing but the answer to its request.
fn stalled_over_tls(daemon: &Daemon, config: &Arc<ClientConfig>, target: &str) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(2 << 10).expect("it is ours");
    let addr = daemon.addr();
    socket
        .connect_timeout(&addr.into(), DEADLINE)
        .expect("it listens");
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    let name = ServerName::try_from("localhost").expect("a name");
    let mut session = ClientConnection::new(Arc::clone(config), name).expect("a session");
    let mut tls = rustls::Stream::new(&mut session, &mut stream);
    let request = upgrade_request(addr, target, &[]);
    tls.write_all(request.as_bytes()).expect("it reads");
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        tls.read_exact(&mut byte).expect("an answer");
        answer.push(byte[0]);
    }
    assert!(answer.starts_with(b"HTTP/1.1 101 "), "{answer:?}");
    stream
}

/// Publishes to the busy room until `count` publications are numbered, one after the other, so that each
/// takes a place of its own in every queue; `member` must get each.
fn publish(api: &mut Api, member: &mut Client, count: usize, payload: &str) {
    for number in 0..count {
        let text = format!("{number} {payload}");
        api.result("publish", &json!({"channel": "busy", "data": text}));
        assert_eq!(member.recv_text(), text);
    }
}

/// It was the limit that closed connections, and no bound of their own.
fn assert_only_for_memory(daemon: &Daemon) {
    assert_eq!(daemon.closes("slow"), 0.0);
    assert_eq!(daemon.closes("write_timeout"), 0.0);
}

/// `STALLED` members of a busy room and one that reads, `count` publications, and a limit.
fn stay_within(limit_mib: u64, count: usize, payload: &str) {
    const STALLED: usize = 5000;
    let limit = limit_mib << 20;
    let mib = format!("--memory-limit={limit_mib}MiB");
    // No queue meets a bound of its own.
    let queues = ["--outbound-queue=2000", "--outbound-queue-size=64MiB"];
    let rest = [
        "--ping-interval=off",
        "--history-size=10",
        "--write-timeout=60s",
    ];
    let daemon = start(&[&[mib.as_str()], &queues[..], &rest].concat());
    let members: Vec<Client> = (0..STALLED)
        .map(|number| {
            let query = ["room=busy", "room=busy&format=json"][number % 2];
            stalled(&daemon, number, query)
        })
        .collect();
    let mut reader = Client::connect(&daemon, "/ws?room=busy");
    daemon.wait_members(STALLED as u32 + 1);
    let mut api = Api::connect(&daemon);
    assert_eq!(daemon.admin_get("/readyz").text(), "ok");
    assert_eq!(daemon.metric("roomcast_memory_limit_bytes"), limit as f64);

    publish(&mut api, &mut reader, count, payload);
    let peak = daemon.peak_rss_bytes();
    assert!(
        peak <= limit,
        "the process has taken {peak} of {limit} bytes"
    );
    daemon.wait_log(" connections with the largest queues were closed");
    assert_only_for_memory(&daemon);

    drop(members);
    wait_until("all is well again", || {
        daemon.metric("roomcast_memory_pressure") == 0.0
    });
    assert!(daemon.closes("memory") > 100.0);
    assert_eq!(daemon.admin_get("/readyz").text(), "ok");
    publish(&mut api, &mut reader, 10, "afterwards");
}

/// Without a limit, the places in the queues alone would take 120 MB.
#[test]
fn five_thousand_stalled_members_do_not_take_more_than_the_limit() {
    stay_within(64, 900, &"x".repeat(200));
}

/// What is queued is little, and its places are much.
#[test]
fn five_thousand_stalled_members_of_small_publications_do_not_take_more_than_the_limit() {
    stay_within(48, 900, "x");
}

/// All of them stand amid the same large frame when they are closed.
#[test]
fn five_thousand_stalled_members_of_large_publications_do_not_take_more_than_the_limit() {
    stay_within(48, 400, &"x".repeat(60_000));
}

#[test]
fn a_thousand_stalled_members_over_tls_do_not_take_more_than_the_limit() {
    const STALLED: usize = 1000;
    const LIMIT: u64 = 40 << 20;
    let certificate = Certificate::chained();
    let (cert, key) = (certificate.cert(), certificate.key());
    let tls = ["--tls-cert", &cert, "--tls-key", &key];
    let limit = ["--memory-limit", "40MiB", "--ping-interval", "off"];
    let patience = ["--write-timeout", "60s"];
    let daemon = start(&[&tls[..], &limit, &patience].concat());
    let config = tls_clients(&certificate);
    let members: Vec<TcpStream> = (0..STALLED)
        .map(|_| stalled_over_tls(&daemon, &config, "/ws?room=busy"))
        .collect();
    daemon.wait_members(STALLED as u32);
    let mut api = Api::connect(&daemon);
    assert_eq!(daemon.admin_get("/readyz").text(), "ok");

    // Of what does not fit the sockets a record is held as ciphertext, by each for itself; without a limit,
    // the places in the queues would take 24 MB more.
    for number in 0..900 {
        let filler = "x".repeat(if number == 0 { 60_000 } else { 200 });
        let text = format!("{number} {filler}");
        api.result("publish", &json!({"channel": "busy", "data": text}));
    }
    let peak = daemon.peak_rss_bytes();
    assert!(peak <= LIMIT, "the process has taken {peak} bytes");
    assert_only_for_memory(&daemon);

    drop(members);
    wait_until("all is well again", || {
        daemon.metric("roomcast_memory_pressure") == 0.0
    });
    assert!(daemon.closes("memory") > 0.0, "nobody was closed for it");
    assert_eq!(daemon.admin_get("/readyz").text(), "ok");
    stalled_over_tls(&daemon, &config, "/ws?room=busy");
}

#[test]
fn the_largest_queues_are_closed_first_and_are_told() {
    const MEMBERS: usize = 60;
    let daemon = start(&[
        "--memory-limit=32MiB",
        "--outbound-queue-size=8MiB",
        "--history-size=0",
        "--ping-interval=off",
        "--write-timeout=60s",
    ]);
    let small: Vec<Client> = (0..MEMBERS)
        .map(|number| stalled(&daemon, number, "room=small"))
        .collect();
    let mut large: Vec<Client> = (0..MEMBERS)
        .map(|number| stalled(&daemon, number, &format!("room=large:{number}")))
        .collect();
    daemon.wait_members(2 * MEMBERS as u32);
    let mut api = Api::connect(&daemon);
    for number in 0..100 {
        let text = format!("{number} {}", "s".repeat(1000));
        api.result("publish", &json!({"channel": "small", "data": text}));
    }
    // The higher its number, the more each room gets.
    let text = "l".repeat(60_000);
    let mut last = 0;
    for number in (0..MEMBERS).flat_map(|number| vec![number; number / 4]) {
        if daemon.metric("roomcast_members") < 2.0 * MEMBERS as f64 {
            break;
        }
        let channel = format!("large:{number}");
        api.result("publish", &json!({"channel": channel, "data": text}));
        last = number;
    }
    let mut members_of = |channel: &str| {
        let stats = api.result("presence_stats", &json!({"channel": channel}));
        stats["num_clients"].as_u64().expect("a number")
    };
    assert_eq!(members_of("small"), small.len() as u64);
    let is_open: Vec<bool> = (0..last)
        .map(|number| members_of(&format!("large:{number}")) == 1)
        .collect();
    let smallest_closed = is_open.iter().position(|is_open| !is_open);
    let smallest_closed = smallest_closed.expect("some were closed");
    let largest_open = is_open.iter().rposition(|is_open| *is_open);
    let largest_open = largest_open.expect("some are open");
    assert!(
        largest_open / 4 <= smallest_closed / 4,
        "{smallest_closed} of {last} is closed and {largest_open} is not"
    );
    // Whoever reads on comes to the close frame.
    let member = &mut large[smallest_closed];
    member.drain_to_close(3008, "slow");
    let line = daemon.expect_closed(member.local_addr());
    assert!(line.contains(" reason=memory code=3008 "), "{line}");
    assert_only_for_memory(&daemon);
}

#[test]
fn where_closing_does_not_help_new_connections_are_refused() {
    let daemon = Start::default()
        .args(&["--memory-limit", "40MiB", "--max-message-size", "512KiB"])
        .start();
    let mut member = Client::connect(&daemon, "/ws?room=calm");
    let hoard = hoard(&daemon);
    wait_until("the memory is short", || {
        daemon.metric("roomcast_memory_pressure") == 2.0
    });
    let refused = Dial::new(daemon.addr(), "/ws?room=calm").try_connect();
    let refused = refused.err().expect("a refusal");
    assert_eq!(
        (refused.status, refused.text().as_str()),
        (503, "short of memory\n")
    );
    assert!(refused.header("retry-after").is_some());
    let ready = daemon.admin_get("/readyz");
    assert_eq!(ready.status, 503);
    let text = ready.text();
    assert!(text.starts_with("degraded: memory: "), "{text}");
    assert!(
        text.ends_with(" of 41943040 bytes, new connections are refused"),
        "{text}"
    );
    assert!(daemon.metric("roomcast_refusals_total{reason=\"memory\"}") >= 1.0);
    // Who is there is served, and nobody was closed.
    member.send_text("still here");
    assert_eq!(member.recv_text(), "still here");
    assert_eq!(daemon.closes("memory"), 0.0);

    drop(hoard);
    wait_until("the memory is there again", || {
        daemon.metric("roomcast_memory_pressure") == 0.0
    });
    Client::connect(&daemon, "/ws?room=calm");
    assert_eq!(daemon.admin_get("/readyz").text(), "ok");
    daemon.wait_log("new connections are refused");
    daemon.wait_log("new connections are let in again");
}
