//! What an operator sees: the text of the metrics is what Prometheus reads, every metric moves when
//! what it counts happens, and `/debug/loop` says who and why.

mod harness;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use harness::{
    Api, Certificate, Client, DAY_S, Daemon, Dial, Exposition, Frame, Sdk, SecretFile, Signal,
    Start, Wire, hoard, http, upgrade_request, wait_for, wait_until,
};

/// Something that happens, and what it must move.
struct Step {
    moves: &'static [&'static str],
    /// The metrics before and after it.
    run: fn() -> (Exposition, Exposition),
}

/// Every metric stands in one of them at least.
const STEPS: [Step; 22] = [
    Step {
        moves: &[
            "connections",
            "websockets",
            "users",
            "members",
            "rooms",
            "rooms_alive",
            "history_bytes",
            "queue_publications",
            "queue_bytes",
            "accepted_total",
            "upgrades_total",
            "http_responses_total",
            "closes_total",
            "messages_received_total",
            "received_bytes_total",
            "sent_bytes_total",
            "deliveries_total",
            "publish_to_socket_seconds",
            "loop_turns_total",
            "loop_turn_seconds",
            "loop_phase_seconds",
            "loop_wait_seconds_total",
            "process_resident_memory_bytes",
            "process_open_fds",
        ],
        run: members_publish,
    },
    Step {
        moves: &["process_cpu_seconds_total"],
        run: work_takes_time,
    },
    Step {
        moves: &["refusals_total", "close_codes_total"],
        run: requests_are_refused,
    },
    Step {
        moves: &["malformed_forwards_total"],
        run: a_proxy_speaks_nonsense,
    },
    Step {
        moves: &["websockets_backlogged"],
        run: a_member_stalls,
    },
    Step {
        moves: &["dropped_from_queues_total"],
        run: a_member_is_slow,
    },
    Step {
        moves: &["memory_pressure"],
        run: memory_is_short,
    },
    Step {
        moves: &["skipped_total"],
        run: a_lossy_member_is_slow,
    },
    Step {
        moves: &["reads_paused_total"],
        run: a_publisher_is_too_fast,
    },
    Step {
        moves: &["replayed_total", "recoveries_total"],
        run: a_member_comes_back,
    },
    Step {
        moves: &[
            "gzip_publications_total",
            "gzip_input_bytes_total",
            "gzip_output_bytes_total",
        ],
        run: a_publication_is_compressed,
    },
    Step {
        moves: &["api_calls_total", "api_errors_total", "api_outcomes_total"],
        run: back_ends_call,
    },
    Step {
        moves: &["commands_total", "command_errors_total"],
        run: clients_command,
    },
    Step {
        moves: &["idempotency_keys_forgotten_total"],
        run: keys_are_many,
    },
    Step {
        moves: &["dropped_total"],
        run: connections_are_many,
    },
    Step {
        moves: &["accept_pauses_total"],
        run: files_run_out,
    },
    Step {
        moves: &["worker_jobs"],
        run: a_worker_is_busy,
    },
    Step {
        moves: &["effects_waiting"],
        run: the_loop_is_busy,
    },
    Step {
        moves: &["log_lines_dropped_total"],
        run: nobody_reads_the_log,
    },
    Step {
        moves: &["tls_handshakes_total"],
        run: a_session_begins,
    },
    Step {
        moves: &["tls_certificate_expires_seconds"],
        run: a_certificate_is_renewed,
    },
    Step {
        moves: &["draining"],
        run: the_daemon_drains,
    },
];

/// Does not move while a daemon runs, and differs between two.
const FIXED: [&str; 3] = [
    "memory_limit_bytes",
    "process_max_fds",
    "process_start_time_seconds",
];

#[test]
fn every_metric_moves_when_what_it_counts_happens() {
    let mut listed: BTreeSet<String> = FIXED.iter().map(full).collect();
    for Step { moves, run } in STEPS {
        let (before, after) = run();
        let moved = after.moved_since(&before);
        for name in moves.iter().map(full) {
            assert!(moved.contains(&name), "{name} has not moved");
            listed.insert(name);
        }
    }
    let certificate = Certificate::new("ec");
    let tls = Start::default().args(&["--tls-cert", &certificate.cert()]);
    let tls = tls.args(&["--tls-key", &certificate.key()]);
    let few = tls.clone().open_files_max(256, 1024).start();
    let more = tls.args(&["--memory-limit", "1GiB"]);
    let more = more.open_files_max(256, 2048).start();
    let (few, more) = (few.exposition(), more.exposition());
    for name in FIXED.iter().map(full) {
        assert!(more.moved_since(&few).contains(&name), "{name}");
    }
    let there: BTreeSet<String> = more.families.keys().cloned().collect();
    assert_eq!(there, listed, "a metric that no step moves");
}

fn full(name: &&str) -> String {
    format!("roomcast_{name}")
}

// --- What happens ---------------------------------------------------------------------------------

fn members_publish() -> (Exposition, Exposition) {
    let daemon = Daemon::start(&[]);
    let before = daemon.exposition();
    let mut member = Client::connect(&daemon, "/ws?room=a&user=al");
    let mut publisher = Client::connect(&daemon, "/ws?room=a&echo=0");
    daemon.wait_members(3);
    let block = "x".repeat(60_000);
    for _ in 0..16 {
        publisher.send_text(&block);
        assert_eq!(member.recv_text().len(), block.len());
    }
    let after = daemon.exposition();
    for (series, expected) in [
        ("roomcast_websockets", 2.0),
        ("roomcast_users", 1.0),
        ("roomcast_members", 3.0),
        ("roomcast_rooms", 2.0),
        ("roomcast_messages_received_total", 16.0),
        ("roomcast_deliveries_total", 16.0),
        ("roomcast_publish_to_socket_seconds_count", 16.0),
        ("roomcast_queue_bytes_bucket{le=\"0\"}", 2.0),
    ] {
        // The two looked at by scrapes before this one are in the histogram, too.
        let value = after.value(series);
        let is_right = value == expected || (series.contains("queue") && value >= expected);
        assert!(is_right, "{series} is {value}");
    }
    let seconds = after.value("roomcast_publish_to_socket_seconds_sum");
    assert!(seconds > 0.0 && seconds < 16.0, "{seconds}");
    (before, after)
}

fn a_session_begins() -> (Exposition, Exposition) {
    let certificate = Certificate::new("ec");
    let (cert, key) = (certificate.cert(), certificate.key());
    let daemon = Daemon::start(&["--tls-cert", &cert, "--tls-key", &key]);
    let before = daemon.exposition();
    let done = Command::new("openssl")
        .args(["s_client", "-connect", &daemon.addr().to_string()])
        .stdin(Stdio::null())
        .output()
        .expect("openssl: run tests/run");
    assert!(done.status.success());
    daemon.wait_metric("roomcast_tls_handshakes_total", |count| count == 1.0);
    (before, daemon.exposition())
}

fn a_certificate_is_renewed() -> (Exposition, Exposition) {
    const NAME: &str = "roomcast_tls_certificate_expires_seconds";
    let [old, new] = [20, 40].map(|days| Certificate::valid(-DAY_S, days * DAY_S));
    let daemon = Daemon::start(&["--tls-cert", &old.cert(), "--tls-key", &old.key()]);
    let before = daemon.exposition();
    for (from, to) in [(new.cert(), old.cert()), (new.key(), old.key())] {
        fs::copy(from, to).expect("ours");
    }
    daemon.signal(Signal::Hup);
    daemon.wait_metric(NAME, |end| end != before.value(NAME));
    let after = daemon.exposition();
    let days = (after.value(NAME) - before.value(NAME)) / DAY_S as f64;
    assert!((days - 20.0).abs() < 0.01, "{days}");
    (before, after)
}

fn the_daemon_drains() -> (Exposition, Exposition) {
    let daemon = Daemon::start(&["--drain-timeout", "1h"]);
    let _members = [(); 2].map(|()| Client::connect(&daemon, "/ws?room=a"));
    daemon.wait_members(2);
    let before = daemon.exposition();
    daemon.signal(Signal::Term);
    daemon.wait_metric("roomcast_draining", |value| value == 1.0);
    (before, daemon.exposition())
}

fn work_takes_time() -> (Exposition, Exposition) {
    let daemon = Daemon::start(&[]);
    let before = daemon.exposition();
    let name = "roomcast_process_cpu_seconds_total";
    // Each look costs some of it, and the kernel counts in steps of 10 ms.
    let after = wait_for("CPU time", || {
        let after = daemon.exposition();
        (after.value(name) > before.value(name)).then_some(after)
    });
    (before, after)
}

fn requests_are_refused() -> (Exposition, Exposition) {
    let daemon = Daemon::start(&["--max-connections", "1", "--message-rate", "1"]);
    let before = daemon.exposition();
    for (target, headers, status) in [
        ("/ws", &[][..], 400),
        ("/ws?room=a", &[("Origin", "https://evil.test")][..], 403),
        ("/ws?room=$a", &[], 403),
    ] {
        let request = upgrade_request(daemon.addr(), target, headers);
        assert_eq!(http(daemon.addr(), request).status, status, "{target}");
        daemon.wait_metric("roomcast_connections", |now| now == 1.0);
    }
    let request = format!("GET /ws?room=a HTTP/1.1\r\nHost: {}\r\n\r\n", daemon.addr());
    assert_eq!(http(daemon.addr(), request).status, 426);
    daemon.wait_metric("roomcast_connections", |now| now == 1.0);
    let mut only = Client::connect(&daemon, "/echo");
    assert_eq!(daemon.get("/").status, 503);
    only.send_bytes(Frame::text("x").bytes().repeat(9));
    only.drain_to_close(3013, "too many requests");
    daemon.wait_closes("too_many_requests", 1.0);
    let after = daemon.exposition();
    for (reason, expected) in [
        ("bad_request", 1.0),
        ("origin", 1.0),
        ("permission_denied", 1.0),
        ("bad_upgrade", 1.0),
        ("capacity", 1.0),
    ] {
        let series = format!("roomcast_refusals_total{{reason=\"{reason}\"}}");
        assert_eq!(after.value(&series), expected, "{reason}");
    }
    assert_eq!(
        after.value("roomcast_close_codes_total{code=\"3013\"}"),
        1.0
    );
    (before, after)
}

fn a_proxy_speaks_nonsense() -> (Exposition, Exposition) {
    let daemon = Daemon::start(&["--trusted-proxy", "127.0.0.1"]);
    let before = daemon.exposition();
    let dial = Dial::new(daemon.addr(), "/echo").header("X-Forwarded-For", "nobody");
    dial.connect().close();
    (before, daemon.exposition())
}

fn a_member_stalls() -> (Exposition, Exposition) {
    let daemon = Daemon::start(&["--outbound-queue-size", "64MiB"]);
    let before = daemon.exposition();
    let stalled = stalled(&daemon, "/ws?room=a");
    let mut publisher = Client::connect(&daemon, "/ws?room=a&echo=0");
    daemon.wait_members(2);
    let block = "x".repeat(60_000);
    let name = "roomcast_websockets_backlogged";
    let after = wait_for("a queue that is not empty", || {
        publisher.send_text(&block);
        let after = daemon.exposition();
        (after.value(name) > 0.0).then_some(after)
    });
    assert_eq!(after.value(name), 1.0);
    assert!(after.value("roomcast_queue_bytes_sum") > before.value("roomcast_queue_bytes_sum"));
    drop(stalled);
    daemon.wait_metric(name, |now| now == 0.0);
    (before, after)
}

fn a_member_is_slow() -> (Exposition, Exposition) {
    let daemon = Daemon::start(&["--outbound-queue", "50"]);
    let before = daemon.exposition();
    let _stalled = stalled(&daemon, "/ws?room=a");
    let mut publisher = Client::connect(&daemon, "/ws?room=a&echo=0");
    daemon.wait_members(2);
    let block = "x".repeat(60_000);
    wait_until("a queue that is full", || {
        publisher.send_text(&block);
        // It is no member any more, and closed when it has taken so much or its time is over.
        daemon.metric("roomcast_members") == 1.0
    });
    let after = daemon.exposition();
    let dropped = after.value("roomcast_dropped_from_queues_total");
    // A megabyte of them at most was queued, and what is being written is not dropped.
    assert!((10.0..=50.0).contains(&dropped), "{dropped}");
    (before, after)
}

/// Memory that no close gives back, so that it stays short for as long as anybody looks.
fn memory_is_short() -> (Exposition, Exposition) {
    let daemon = Daemon::start(&["--memory-limit=32MiB", "--max-message-size=512KiB"]);
    let before = daemon.exposition();
    let _hoard = hoard(&daemon);
    let after = wait_for("memory that is short", || {
        let after = daemon.exposition();
        (after.value("roomcast_memory_pressure") > 0.0).then_some(after)
    });
    (before, after)
}

fn a_lossy_member_is_slow() -> (Exposition, Exposition) {
    let daemon = Daemon::start(&["--outbound-queue", "10", "--lossy-room", "*"]);
    let before = daemon.exposition();
    let _stalled = stalled(&daemon, "/ws?room=a");
    let mut publisher = Client::connect(&daemon, "/ws?room=a&echo=0");
    daemon.wait_members(2);
    let block = "x".repeat(60_000);
    wait_until("a skipped publication", || {
        publisher.send_text(&block);
        daemon.metric("roomcast_skipped_total") > 0.0
    });
    (before, daemon.exposition())
}

fn a_publisher_is_too_fast() -> (Exposition, Exposition) {
    let daemon = Daemon::start(&["--workers", "1", "--inbound-queue", "1"]);
    let before = daemon.exposition();
    let mut publisher = Client::connect(&daemon, "/ws?room=a&echo=0");
    publisher.send_bytes(Frame::text("x").bytes().repeat(500));
    daemon.wait_metric("roomcast_reads_paused_total", |times| times > 0.0);
    (before, daemon.exposition())
}

fn a_member_comes_back() -> (Exposition, Exposition) {
    let args = ["--history-size", "40", "--outbound-queue", "20"];
    let daemon = Daemon::start(&args);
    let before = daemon.exposition();
    let mut first = Client::connect(&daemon, "/ws?room=a&format=json");
    let joined = first.recv_json();
    let epoch = joined["joined"]["epoch"]
        .as_str()
        .expect("an epoch")
        .to_owned();
    for n in 0..50 {
        first.send_text("x");
        assert_eq!(first.recv_json()["publication"]["offset"], n + 1);
    }
    for (since, expected) in [
        (format!("{epoch}.20"), 30),
        (format!("{epoch}.5"), 40),
        ("other.1".to_owned(), 40),
    ] {
        let target = format!("/ws?room=a&format=json&since={since}");
        let mut member = Client::connect(&daemon, &target);
        let lost = &member.recv_json()["joined"]["lost"];
        assert_eq!(lost == &json!(0), expected == 30, "{since}");
        for _ in 0..expected {
            assert!(member.recv_json()["publication"].is_object());
        }
    }
    let after = daemon.exposition();
    for (outcome, expected) in [("complete", 1.0), ("lossy", 1.0), ("unknown", 1.0)] {
        let series = format!("roomcast_recoveries_total{{outcome=\"{outcome}\"}}");
        assert_eq!(after.value(&series), expected, "{outcome}");
    }
    assert_eq!(after.value("roomcast_replayed_total"), 110.0);
    (before, after)
}

fn a_publication_is_compressed() -> (Exposition, Exposition) {
    let daemon = Daemon::start(&[]);
    let before = daemon.exposition();
    let mut member = Client::connect(&daemon, "/ws?room=a&gzip=1");
    daemon.wait_members(1);
    member.send_text(&"x".repeat(1000));
    let bytes = member.recv_binary().len();
    let after = daemon.exposition();
    assert_eq!(after.value("roomcast_gzip_publications_total"), 1.0);
    assert_eq!(after.value("roomcast_gzip_input_bytes_total"), 1000.0);
    assert_eq!(
        after.value("roomcast_gzip_output_bytes_total"),
        bytes as f64
    );
    (before, after)
}

fn back_ends_call() -> (Exposition, Exposition) {
    let daemon = Daemon::start(&[]);
    let before = daemon.exposition();
    let mut api = Api::connect(&daemon);
    api.result("publish", &json!({"channel": "a", "data": 1}));
    for (method, body, code) in [("publish", json!({}), 107), ("nothing", json!({}), 104)] {
        assert_eq!(api.call(method, &body)["error"]["code"], code);
    }
    let after = daemon.exposition();
    for (labels, expected) in [
        ("method=\"publish\",code=\"0\"", 1.0),
        ("method=\"\",code=\"107\"", 1.0),
        ("method=\"\",code=\"104\"", 1.0),
    ] {
        let series = format!("roomcast_api_outcomes_total{{{labels}}}");
        assert_eq!(after.value(&series), expected, "{labels}");
    }
    (before, after)
}

fn clients_command() -> (Exposition, Exposition) {
    let args = ["--ping-interval", "100ms", "--max-rooms", "1"];
    let daemon = Daemon::start(&args);
    let before = daemon.exposition();
    let mut sdk = Sdk::connected(&daemon);
    sdk.subscribe("r");
    // Refused by the hub, by a worker that is to join a room, to publish, and to answer.
    let channel = |channel: &str| json!({ "channel": channel, "data": 1 });
    for (method, request, code) in [
        ("subscribe", channel("$p"), 103),
        ("subscribe", channel("s"), 106),
        ("publish", channel("s"), 106),
        ("rpc", json!({}), 108),
    ] {
        assert_eq!(sdk.error(method, &request), code);
    }
    let since = json!({ "channel": "r", "since": { "epoch": "other" } });
    assert_eq!(sdk.error("history", &since), 112);
    // Pings may have been kept while something else was waited for.
    while sdk.next() != json!({}) {}
    sdk.send_text("{}");
    let pongs = "roomcast_commands_total{method=\"pong\"}";
    daemon.wait_metric(pongs, |count| count == 1.0);
    let after = daemon.exposition();
    for (labels, expected) in [
        ("commands_total{method=\"connect\"}", 1.0),
        ("commands_total{method=\"subscribe\"}", 3.0),
        ("commands_total{method=\"publish\"}", 1.0),
        ("commands_total{method=\"rpc\"}", 1.0),
        ("commands_total{method=\"history\"}", 1.0),
        ("command_errors_total{code=\"103\"}", 1.0),
        ("command_errors_total{code=\"106\"}", 2.0),
        ("command_errors_total{code=\"108\"}", 1.0),
        ("command_errors_total{code=\"112\"}", 1.0),
    ] {
        let series = format!("roomcast_{labels}");
        assert_eq!(after.value(&series), expected, "{labels}");
    }
    (before, after)
}

fn keys_are_many() -> (Exposition, Exposition) {
    let daemon = Daemon::start(&["--workers", "1", "--history-size", "0"]);
    let before = daemon.exposition();
    let mut api = Api::connect(&daemon);
    let channels: Vec<String> = (0..1000).map(|n| n.to_string()).collect();
    for key in 0..101 {
        let key = key.to_string();
        let body = json!({"channels": channels, "data": 1, "idempotency_key": key});
        api.result("broadcast", &body);
    }
    (before, daemon.exposition())
}

fn connections_are_many() -> (Exposition, Exposition) {
    let daemon = Daemon::start(&["--max-connections", "1"]);
    let before = daemon.exposition();
    let _held: Vec<Wire> = (0..80).map(|_| Wire::connect(daemon.addr())).collect();
    daemon.wait_metric("roomcast_dropped_total", |dropped| dropped > 0.0);
    (before, daemon.exposition())
}

fn files_run_out() -> (Exposition, Exposition) {
    let daemon = Daemon::start(&[]);
    let idle = daemon.open_files();
    let before = daemon.exposition();
    wait_until("the end of the scrape", || daemon.open_files() == idle);
    daemon.leave_open_files(0);
    let mut wire = Wire::connect(daemon.addr());
    wire.send(upgrade_request(daemon.addr(), "/echo", &[]));
    assert!(!wire.readable_within(std::time::Duration::from_millis(50)));
    daemon.leave_open_files(100);
    Client::upgraded(wire).expect("an upgrade").close();
    (before, daemon.exposition())
}

/// Compressing keeps a worker busy for a while.
fn a_worker_is_busy() -> (Exposition, Exposition) {
    let daemon = Daemon::start(&["--workers", "1"]);
    let before = daemon.exposition();
    let _member = Client::connect(&daemon, "/ws?room=a&gzip=1");
    let mut publisher = Client::connect(&daemon, "/ws?room=a&echo=0");
    daemon.wait_members(2);
    let letter = |n: u32| char::from(b'a' + (n.wrapping_mul(2_654_435_761) >> 28) as u8);
    let frames = Frame::text(&(0..50_000).map(letter).collect::<String>()).bytes();
    let after = wait_for("jobs that wait", || {
        publisher.send_bytes(frames.repeat(8));
        let after = daemon.exposition();
        let jobs = after.value("roomcast_worker_jobs{worker=\"0\"}");
        (jobs > 0.0).then_some(after)
    });
    (before, after)
}

/// In queues of two no publications are merged, and one has to be written to all before the next is
/// looked at.
fn the_loop_is_busy() -> (Exposition, Exposition) {
    let args = [
        "--workers",
        "1",
        "--outbound-queue",
        "2",
        "--lossy-room",
        "*",
    ];
    let daemon = Daemon::start(&args);
    let before = daemon.exposition();
    let _members: Vec<_> = (0..100)
        .map(|_| Client::connect(&daemon, "/ws?room=a"))
        .collect();
    let mut publisher = Client::connect(&daemon, "/ws?room=a&echo=0");
    daemon.wait_members(101);
    let after = wait_for("effects that wait", || {
        publisher.send_bytes(Frame::text("x").bytes().repeat(300));
        let after = daemon.exposition();
        let waiting = after.value("roomcast_effects_waiting");
        (waiting > 0.0).then_some(after)
    });
    (before, after)
}

/// The pipe holds 64 KiB, and 4096 lines wait for it.
fn nobody_reads_the_log() -> (Exposition, Exposition) {
    let daemon = Start::default().leave_log().start();
    let before = daemon.exposition();
    let request = format!("GET / HTTP/1.0\r\nHost: {}\r\n\r\n", daemon.addr());
    wait_until("a dropped line", || {
        for _ in 0..200 {
            // Its end leaves a line.
            Wire::connect(daemon.addr()).send(&request);
        }
        daemon.metric("roomcast_log_lines_dropped_total") > 0.0
    });
    (before, daemon.exposition())
}

/// A member whose socket takes little and that reads nothing.
fn stalled(daemon: &Daemon, target: &str) -> Client {
    let dial = Dial::new(daemon.addr(), target);
    dial.receive_buffer(4096).silent().connect()
}

// --- Where the time goes --------------------------------------------------------------------------

/// How often each phase was observed.
fn phases(daemon: &Daemon) -> BTreeMap<String, f64> {
    let exposition = daemon.exposition();
    let samples = &exposition.families["roomcast_loop_phase_seconds"].samples;
    let count = |(series, count): (&String, &f64)| {
        let label = series.strip_prefix("roomcast_loop_phase_seconds_count{phase=\"")?;
        Some((label.strip_suffix("\"}")?.to_owned(), *count))
    };
    samples.iter().filter_map(count).collect()
}

#[test]
fn each_phase_is_observed_when_it_has_something_to_do() {
    let daemon = Daemon::start(&["--workers", "1", "--handshake-timeout", "500ms"]);
    let before = phases(&daemon);
    let labels: Vec<&str> = before.keys().map(String::as_str).collect();
    let all = [
        "accept", "effects", "expire", "flush", "jobs", "note", "reap", "receive", "report",
    ];
    assert_eq!(labels, all);
    // An order to the loop, one who says nothing and has to go, and a member that publishes.
    daemon.signal(Signal::Usr1);
    daemon.wait_log("status: serving");
    let mut silent = Wire::connect(daemon.addr());
    let mut member = Client::connect(&daemon, "/ws?room=a");
    member.send_text("x");
    assert_eq!(member.recv_text(), "x");
    silent.expect_end();
    let after = phases(&daemon);
    for label in all {
        assert!(after[label] > before[label], "{label} has not moved");
    }
}

#[test]
fn a_phase_is_not_observed_where_it_had_nothing_to_do() {
    let daemon = Daemon::start(&["--workers", "1", "--ping-interval", "off"]);
    let mut member = Client::connect(&daemon, "/echo");
    let before = phases(&daemon);
    const ROUNDS: usize = 50;
    for _ in 0..ROUNDS {
        member.send_text("x");
        assert_eq!(member.recv_text(), "x");
    }
    let after = phases(&daemon);
    let moved = |label: &str| after[label] - before[label];
    assert!(moved("receive") >= ROUNDS as f64 && moved("flush") >= ROUNDS as f64);
    // The end of the first scrape, and the second.
    for label in ["reap", "accept", "report"] {
        assert!(moved(label) <= 3.0, "{label}: {}", moved(label));
    }
    for label in ["jobs", "effects", "expire"] {
        assert_eq!(moved(label), 0.0, "{label}");
    }
}

#[test]
fn those_who_ask_all_at_once_share_their_answers_and_take_turns() {
    const ASKING: usize = 200;
    let daemon = Daemon::start(&[]);
    let mut wires: Vec<Wire> = (0..ASKING).map(|_| Wire::connect(daemon.admin())).collect();
    daemon.wait_metric("roomcast_connections", |now| now > ASKING as f64);
    let before = phases(&daemon)["report"];
    // All of them have asked when the loop looks.
    daemon.signal(Signal::Stop);
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {}\r\n\r\n", daemon.admin());
    for wire in &mut wires {
        wire.send(&request);
    }
    daemon.signal(Signal::Continue);
    let mut texts: BTreeMap<String, usize> = BTreeMap::new();
    for wire in &mut wires {
        let response = wire.response();
        assert_eq!(response.status, 200);
        *texts.entry(response.text()).or_default() += 1;
    }
    // Four in a turn have the same text, and the next turn has a new one.
    assert!(
        texts.values().all(|count| *count <= 4),
        "{:?}",
        texts.values()
    );
    assert!(texts.len() <= ASKING / 2, "{} texts", texts.len());
    let reports = phases(&daemon)["report"] - before;
    assert!(reports >= (ASKING / 4) as f64, "{reports} turns");
}

// --- The text -------------------------------------------------------------------------------------

#[test]
fn the_documentation_lists_every_metric() {
    let text = fs::read_to_string("docs/OPERATIONS.md").expect("the document");
    let (_, chapter) = text.split_once("\n## Metrics\n").expect("a chapter");
    let (chapter, _) = chapter.split_once("\n## ").expect("another chapter");
    let certificate = Certificate::new("ec");
    let (cert, key) = (certificate.cert(), certificate.key());
    let daemon = Daemon::start(&["--tls-cert", &cert, "--tls-key", &key]);
    for name in daemon.exposition().families.keys() {
        let short = name.strip_prefix("roomcast_").expect("our prefix");
        let is_listed = |row: &str| {
            let mut cells = row.split('|').skip(1);
            let (names, kind) = (cells.next(), cells.next());
            // The table of what to alert on names some again.
            let is_kind = |kind: &str| {
                let kinds = ["counter", "gauge", "histogram"];
                kinds.iter().any(|one| kind.trim().starts_with(one))
            };
            if !kind.is_some_and(is_kind) {
                return false;
            }
            let names = names.unwrap_or_default().split('`').skip(1).step_by(2);
            names
                .map(|name| name.split('{').next())
                .any(|name| name == Some(short))
        };
        let rows = chapter.lines().filter(|line| line.starts_with("| `"));
        assert_eq!(rows.filter(|row| is_listed(row)).count(), 1, "{name}");
    }
}

// --- /debug/loop ----------------------------------------------------------------------------------

fn debug(daemon: &Daemon) -> Value {
    let response = daemon.admin_get("/debug/loop");
    assert_eq!(response.status, 200, "{}", response.text());
    assert_eq!(response.header("content-type"), Some("application/json"));
    serde_json::from_slice(&response.body).expect("JSON")
}

/// The members of an object, in the order of the alphabet.
fn members(object: &Value) -> Vec<&str> {
    let object = object.as_object().expect("an object");
    object.keys().map(String::as_str).collect()
}

#[test]
fn the_loop_says_who_is_large_who_is_slow_and_what_closed() {
    let args = [
        "--outbound-queue",
        "100000",
        "--outbound-queue-size",
        "64MiB",
        "--workers",
        "1",
    ];
    let daemon = Daemon::start(&args);
    let mut gone = Client::connect(&daemon, "/ws?room=b&user=gone&format=json");
    gone.recv_json();
    gone.send_close(1000, "bye");
    let gone = gone.local_addr();
    daemon.expect_closed(gone);
    let stalled = stalled(&daemon, "/ws?room=a&user=al");
    let others = [(); 3].map(|()| Client::connect(&daemon, "/ws?room=a"));
    let mut publisher = Client::connect(&daemon, "/ws?room=a&to=nobody");
    daemon.wait_members(6);
    let mut to_all = Api::connect(&daemon);
    let block = "x".repeat(60_000);
    let view = wait_for("a queue", || {
        publisher.send_text("x");
        to_all.result("publish", &json!({"channel": "a", "data": block}));
        let view = debug(&daemon);
        let mut queues = view["queues"].as_array().expect("a list").iter();
        let peer = json!(stalled.local_addr().to_string());
        let slow = queues.find(|row| row["peer"] == peer);
        let is_deep = slow.is_some_and(|row| row["queued_bytes"].as_u64() >= Some(60_000));
        is_deep.then_some(view)
    });
    assert_eq!(
        members(&view),
        [
            "closes",
            "latency",
            "loop",
            "queues",
            "rooms",
            "time",
            "totals",
            "uptime_ms",
            "version"
        ]
    );
    let room = &view["rooms"][0];
    assert_eq!((&room["room"], &room["members"]), (&json!("a"), &json!(5)));
    assert!(room["offset"].as_u64() > Some(0));
    let slow = &view["queues"].as_array().expect("a list").iter();
    let slow = slow
        .clone()
        .find(|row| row["user"] == "al")
        .expect("it is slow");
    assert_eq!(
        members(slow),
        [
            "age_ms",
            "id",
            "peer",
            "queue_weight",
            "queued",
            "queued_bytes",
            "rooms",
            "sent",
            "skipped",
            "user"
        ]
    );
    assert_eq!(slow["rooms"], json!(["a", "#al"]));
    assert!(slow["queued_bytes"].as_u64() >= Some(60_000), "{slow}");
    assert!(
        slow["queue_weight"].as_u64() >= slow["queued_bytes"].as_u64(),
        "{slow}"
    );
    let close = &view["closes"][0];
    for (name, expected) in [
        ("peer", json!(gone.to_string())),
        ("user", json!("gone")),
        ("reason", json!("normal")),
    ] {
        assert_eq!(close[name], expected, "{close}");
    }
    let turn = &view["loop"]["turn"];
    let buckets = turn["buckets"].as_array().expect("a list");
    let counts = buckets
        .iter()
        .map(|bucket| bucket[1].as_u64().expect("a count"));
    assert_eq!(turn["count"].as_u64(), Some(counts.sum()), "{turn}");
    assert_eq!(buckets[0][0], 10);
    assert_eq!(buckets[buckets.len() - 1][0], Value::Null);
    assert!(view["loop"]["phases"]["flush"]["count"].as_u64() > Some(0));
    assert_eq!(view["loop"]["workers"].as_array().map(Vec::len), Some(1));
    assert!(view["latency"]["count"].as_u64() > Some(0));
    assert_eq!(view["totals"]["websockets"], 5);
    // Those who read are not listed, or only while their turn has not come.
    drop(others);
    // The API says the same of one connection.
    let rows = to_all.result("connections", &json!({"user": "al"}));
    assert_eq!(
        rows["connections"][0]["peer"],
        stalled.local_addr().to_string()
    );
    assert!(rows["connections"][0]["queued_bytes"].as_u64() >= Some(60_000));
}

#[test]
fn the_last_closes_are_kept_and_no_more() {
    let daemon = Daemon::start(&[]);
    for n in 0..103 {
        let client = Client::connect(&daemon, &format!("/ws?room=a&user=u{n}"));
        let peer = client.local_addr();
        client.close();
        daemon.expect_closed(peer);
        // Plain HTTP takes no place.
        assert_eq!(daemon.get("/healthz").status, 200);
    }
    let view = debug(&daemon);
    let users: Vec<String> = (3..103).rev().map(|n| format!("u{n}")).collect();
    let closes = view["closes"].as_array().expect("a list");
    let found: Vec<&str> = closes
        .iter()
        .map(|close| close["user"].as_str().expect("text"))
        .collect();
    assert_eq!(found, users);
}

#[test]
fn strangers_push_no_member_out_of_the_last_closes() {
    let daemon = Daemon::start(&[]);
    let member = Client::connect(&daemon, "/ws?room=a&user=al");
    let peer = member.local_addr();
    member.close();
    daemon.expect_closed(peer);
    for _ in 0..300 {
        drop(Wire::connect(daemon.addr()));
    }
    daemon.wait_closes("gone", 300.0);
    let view = debug(&daemon);
    let closes = view["closes"].as_array().expect("a list");
    assert_eq!(closes.len(), 21, "the member's, and the last of the others");
    let place = closes.iter().position(|close| close["user"] == "al");
    assert_eq!(place, Some(20), "the oldest comes last");
    assert!(closes[..20].iter().all(|close| close["reason"] == "gone"));
}

#[test]
fn the_loop_counts_who_is_behind_without_a_scrape() {
    let daemon = Daemon::start(&["--outbound-queue-size", "64MiB"]);
    let stalled = stalled(&daemon, "/ws?room=a");
    let mut publisher = Client::connect(&daemon, "/ws?room=a&echo=0");
    daemon.wait_members(2);
    let block = "x".repeat(60_000);
    let backlogged = || debug(&daemon)["totals"]["backlogged"].clone();
    wait_until("one that is behind", || {
        publisher.send_text(&block);
        backlogged() == json!(1)
    });
    drop(stalled);
    wait_until("nobody behind", || backlogged() == json!(0));
}

#[test]
fn only_the_code_with_which_the_daemon_ends_a_websocket_is_told() {
    let daemon = Daemon::start(&[]);
    for code in [1000, 1001, 4123] {
        let mut client = Client::connect(&daemon, "/ws?room=a");
        let peer = client.local_addr();
        client.send_close(code, "bye");
        client.expect_close(code, "bye");
        let line = daemon.expect_closed(peer);
        assert!(line.contains("reason=normal code=0 "), "{line}");
    }
    let mut client = Client::connect(&daemon, "/ws?room=a");
    let peer = client.local_addr();
    client.send_bytes(Frame::text("\u{fffd}").bytes().repeat(2));
    client.send_frame(true, 7, 1, true, b"");
    client.drain_to_close(1002, None);
    let line = daemon.expect_closed(peer);
    assert!(line.contains("reason=protocol code=1002 "), "{line}");
    for (code, expected) in [("none", 3.0), ("1002", 1.0), ("1000", 0.0), ("other", 0.0)] {
        let series = format!("roomcast_close_codes_total{{code=\"{code}\"}}");
        assert_eq!(daemon.metric(&series), expected, "{code}");
    }
}

#[test]
fn the_loop_shows_no_users_to_strangers() {
    let open = Daemon::start(&[]);
    let get = |daemon: &Daemon, host: &str, headers: &str| {
        let request = format!("GET /debug/loop HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n");
        http(daemon.admin(), request).status
    };
    for (host, headers, expected) in [
        ("127.0.0.1:7778", "", 200),
        ("localhost", "", 200),
        ("evil.test", "", 403),
        ("127.0.0.1", "Origin: https://evil.test\r\n", 403),
        ("127.0.0.1", "Origin: http://127.0.0.1\r\n", 200),
    ] {
        assert_eq!(get(&open, host, headers), expected, "{host} {headers}");
    }
    assert_eq!(
        open.get("/debug/loop").status,
        404,
        "not on the public listener"
    );
    let file = SecretFile::new("a-key-of-sixteen-bytes");
    let keyed = Daemon::start(&["--api-key-file", file.path()]);
    let key = "X-API-Key: a-key-of-sixteen-bytes\r\n";
    assert_eq!(get(&keyed, "127.0.0.1", ""), 401);
    assert_eq!(get(&keyed, "push.example", key), 200);
    let request = format!(
        "POST /debug/loop HTTP/1.1\r\nHost: {}\r\n\r\n",
        open.admin()
    );
    assert_eq!(http(open.admin(), request).status, 405);
}
