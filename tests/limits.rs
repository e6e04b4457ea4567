//! The bounds an operator sets: that they hold, that they can be set by flag and by environment, and that
//! nonsense is refused at start.

mod harness;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use harness::{
    Client, Daemon, Dial, Frame, Message, Start, Trial, Wire, Witness, linger, run_to_exit,
    stdout_of, upgrade_request, wait_until,
};

const CAPACITY: &[&str] = &["capacity"];

// --- Connections ----------------------------------------------------------------------------------

#[test]
fn connections_over_the_limit_get_503_until_one_has_left() {
    let daemon = Daemon::start(&["--max-connections", "4"]);
    let mut witness = Witness::new(&daemon);
    let connections = daemon.metric("roomcast_connections");
    for round in 0..3 {
        let third = Client::connect(&daemon, "/ws?room=a");
        // One that has said nothing yet counts as well.
        let fourth = Wire::connect(daemon.addr());
        daemon.wait_metric("roomcast_connections", |now| now >= 4.0);
        for target in ["/ws?room=a", "/echo", "/"] {
            let trial = Trial::begin(&daemon, CAPACITY);
            let mut wire = Wire::connect(daemon.addr());
            // The daemon may answer without listening first.
            let _ = wire.try_send(upgrade_request(daemon.addr(), target, &[]));
            let answer = wire.response();
            assert_eq!(answer.status, 503, "{target} in round {round}");
            let retry = answer.header("retry-after").expect("503 must say when");
            assert!(retry.parse::<u32>().is_ok(), "{retry}");
            wire.expect_gone();
            trial.assert_ended(wire.local_addr());
        }
        // Full is not ill.
        assert_eq!(daemon.get("/healthz").status, 200);
        witness.assert_served();
        let left = fourth.local_addr();
        drop(fourth);
        daemon.expect_closed(left);
        let fourth = Client::connect(&daemon, "/ws?room=a");
        drop((third, fourth));
        daemon.wait_metric("roomcast_connections", |now| now <= connections);
    }
    witness.assert_served();
}

#[test]
fn one_address_gets_only_its_share() {
    let daemon = Daemon::start(&["--max-connections-per-ip", "2"]);
    let mut witness = Witness::new(&daemon);
    let local = Dial::new(daemon.addr(), "/ws?room=a");
    let refused = |dial: &Dial| match dial.try_connect() {
        Ok(_) => panic!("{dial:?} was accepted"),
        Err(answer) => {
            assert_eq!(answer.status, 503, "{answer:?}");
            assert!(answer.header("retry-after").is_some(), "{answer:?}");
        }
    };
    refused(&local);
    daemon.wait_closes("capacity", 1.0);
    let other = local.clone().source(2);
    let first = other.connect();
    let second = other.connect();
    refused(&other);
    daemon.wait_closes("capacity", 2.0);
    // A third address has room, and so has the second when one of its own has left.
    local.clone().source(3).connect().close();
    first.close();
    wait_until("a place for 127.0.0.2", || other.try_connect().is_ok());
    second.close();
    witness.assert_served();
}

#[test]
fn the_soft_limit_of_open_files_is_raised_to_the_hard_one() {
    let daemon = Start::default().open_files_max(256, 1024).start();
    assert_eq!(daemon.open_files_limits(), (1024, 1024));
}

#[test]
fn max_connections_is_lowered_to_the_file_limit_with_a_warning() {
    let daemon = Start::default().open_files_max(256, 256).start();
    let about = |line: &str| line.contains("WARN") && line.contains("max-connections");
    daemon.wait_log_line("warning about max-connections", about);
    let mut witness = Witness::new(&daemon);
    let dial = Dial::new(daemon.addr(), "/ws?room=a");
    let mut members = Vec::new();
    let mut refused = 0;
    for _ in 0..250 {
        match dial.try_connect() {
            Ok(member) => members.push(member),
            Err(answer) => {
                assert_eq!(answer.status, 503);
                refused += 1;
            }
        }
    }
    assert!(members.len() >= 100, "only {} members", members.len());
    assert!(refused >= 20, "only {refused} refused");
    // An operator still sees what is going on.
    assert_eq!(daemon.admin_get("/healthz").status, 200);
    witness.assert_served();
    drop(members);
    daemon.wait_members(2);
    dial.connect().close();
}

#[test]
fn no_warning_where_the_file_limit_suffices() {
    let daemon = Daemon::start(&["--max-connections", "100"]);
    Witness::new(&daemon);
    let warnings: Vec<_> = daemon
        .log_lines()
        .into_iter()
        .filter(|line| line.contains("WARN") || line.contains("ERROR"))
        .collect();
    assert!(warnings.is_empty(), "{warnings:#?}");
}

#[test]
fn running_out_of_files_pauses_accepting_and_recovers() {
    let daemon = Daemon::start(&[]);
    let idle = daemon.open_files();
    let mut witness = Witness::new(&daemon);
    // No request for metrics is open any more, only the two connections of the witness.
    wait_until("two more files", || daemon.open_files() == idle + 2);
    daemon.leave_open_files(3);
    // The kernel accepts them all, the daemon only three.
    let mut waiting: Vec<_> = (0..6)
        .map(|_| {
            let mut wire = Wire::connect(daemon.addr());
            wire.send(upgrade_request(daemon.addr(), "/echo", &[]));
            wire
        })
        .collect();
    let mut accepted = Vec::new();
    wait_until("three accepted connections", || {
        let ready = waiting
            .iter_mut()
            .position(|wire| wire.readable_within(Duration::from_millis(1)));
        accepted.extend(ready.map(|ready| waiting.remove(ready)));
        accepted.len() == 3
    });
    // Meanwhile the daemon serves the others, and neither spins nor fills its log.
    let (cpu_before, lines_before) = (daemon.cpu_time(), daemon.log_lines().len());
    for _ in 0..5 {
        linger(Duration::from_millis(100));
        witness.assert_served();
    }
    let cpu = daemon.cpu_time() - cpu_before;
    assert!(cpu < Duration::from_millis(200), "used {cpu:?} of 500 ms");
    let lines = daemon.log_lines().len() - lines_before;
    assert!(lines < 20, "{lines} log lines");
    for wire in &mut waiting {
        assert!(
            !wire.readable_within(Duration::from_millis(1)),
            "too many files"
        );
    }
    // Those who leave make room for those who wait.
    for wire in accepted {
        drop(wire);
        wait_until("a place", || {
            let ready = waiting
                .iter_mut()
                .position(|wire| wire.readable_within(Duration::from_millis(1)));
            let Some(ready) = ready else { return false };
            let mut client = Client::upgraded(waiting.remove(ready)).expect("an upgrade");
            client.send_text("my turn");
            assert_eq!(client.recv_text(), "my turn");
            true
        });
    }
    daemon.leave_open_files(100);
    Client::connect(&daemon, "/echo").close();
    assert!(daemon.metric("roomcast_accept_pauses_total") >= 1.0);
    witness.assert_served();
}

#[test]
fn accepting_resumes_when_files_become_available_elsewhere() {
    let daemon = Daemon::start(&[]);
    daemon.leave_open_files(0);
    let mut wire = Wire::connect(daemon.addr());
    wire.send(upgrade_request(daemon.addr(), "/echo", &[]));
    assert!(!wire.readable_within(Duration::from_millis(100)));
    // No connection ends, so nothing but a timer can notice.
    daemon.leave_open_files(100);
    let mut client = Client::upgraded(wire).expect("an upgrade");
    client.send_text("at last");
    assert_eq!(client.recv_text(), "at last");
}

// --- Queues ---------------------------------------------------------------------------------------

#[test]
fn a_full_inbound_queue_holds_back_and_loses_nothing() {
    const MESSAGES: usize = 1000;
    for workers in ["0", "1", "3"] {
        let args = [
            "--workers",
            workers,
            "--inbound-queue",
            "1",
            "--outbound-queue",
            "10000",
        ];
        let daemon = Daemon::start(&args);
        let mut witness = Witness::new(&daemon);
        let mut member = Client::connect(&daemon, "/ws?room=a");
        let mut publisher = Client::connect(&daemon, "/ws?room=a&echo=0");
        let mut echo = Client::connect(&daemon, "/echo");
        daemon.wait_members(4);
        let texts = |n: usize| Frame::text(&n.to_string()).bytes();
        let frames: Vec<u8> = (0..MESSAGES).flat_map(texts).collect();
        publisher.send_bytes(&frames);
        echo.send_bytes(&frames);
        witness.assert_served();
        for n in 0..MESSAGES {
            assert_eq!(member.recv_text(), n.to_string(), "{workers} workers");
            assert_eq!(echo.recv_text(), n.to_string(), "{workers} workers");
        }
        if workers != "0" {
            assert!(daemon.metric("roomcast_reads_paused_total") >= 1.0);
        }
        witness.assert_served();
    }
}

#[test]
fn a_paused_connection_still_answers_in_the_end() {
    let daemon = Daemon::start(&["--workers", "1", "--inbound-queue", "1"]);
    let mut client = Client::connect(&daemon, "/echo");
    let mut bytes = Frame::text("x").bytes().repeat(500);
    bytes.extend(Frame::ping("last").bytes());
    bytes.extend(Frame::close(1000, "done").bytes());
    client.send_bytes(bytes);
    let mut texts = 0;
    let mut ponged = false;
    loop {
        match client.recv() {
            Message::Text(text) => {
                assert_eq!(text, "x");
                texts += 1;
            }
            Message::Pong(payload) => {
                assert_eq!(payload, b"last");
                ponged = true;
            }
            Message::Close(code, _) => break assert_eq!(code, Some(1000)),
            other => panic!("{other:?}"),
        }
    }
    // A close overtakes answers that are still on their way; a room would have got the messages.
    assert!(texts <= 500);
    assert!(ponged, "the ping came before the close");
    daemon.wait_metric("roomcast_messages_received_total", |now| now == 500.0);
}

#[test]
fn flooding_publishers_are_held_back_without_memory() {
    let args = [
        "--workers",
        "1",
        "--inbound-queue",
        "10",
        "--history-size",
        "0",
    ];
    let daemon = Daemon::start(&args);
    let mut witness = Witness::new(&daemon);
    let before = daemon.rss_bytes();
    let addr = daemon.addr();
    std::thread::scope(|scope| {
        for room in 0..4 {
            scope.spawn(move || {
                // Alone in its room and without echo: only reading and working can be the limit.
                let dial = Dial::new(addr, &format!("/ws?room={room}&echo=0"));
                let mut publisher = dial.connect();
                let frames = Frame::binary([0; 1000]).bytes().repeat(2000);
                publisher.send_bytes(frames);
                publisher.close();
            });
        }
        for _ in 0..50 {
            witness.assert_served();
        }
    });
    daemon.wait_metric("roomcast_messages_received_total", |now| now >= 8050.0);
    daemon.wait_rss_at_most(before + 4 * 1024 * 1024);
}

#[test]
fn rooms_of_a_connection_are_limited() {
    let daemon = Daemon::start(&[]);
    let query = |rooms: u32| {
        let rooms: Vec<_> = (0..rooms).map(|room| format!("room={room}")).collect();
        format!("/ws?{}", rooms.join("&"))
    };
    Client::connect(&daemon, &query(128)).close();
    match Dial::new(daemon.addr(), &query(129)).try_connect() {
        Ok(_) => panic!("129 rooms were accepted"),
        Err(answer) => assert_eq!(answer.status, 400),
    }
}

// --- Listeners ------------------------------------------------------------------------------------

#[test]
fn several_listeners_share_their_rooms() {
    let daemon = Daemon::start(&["--listen", "127.0.0.1:0", "--listen", "127.0.0.2:0"]);
    let second = daemon.wait_log("listening on 127.0.0.2:");
    let (_, second) = second.split_once("listening on ").expect("just matched");
    let second = second.split(' ').next().and_then(|addr| addr.parse().ok());
    let second = second.expect("an address");
    let mut one = Client::connect(&daemon, "/ws?room=a");
    let mut two = Dial::new(second, "/ws?room=a&echo=0").connect();
    daemon.wait_members(2);
    two.send_text("from the second listener");
    assert_eq!(one.recv_text(), "from the second listener");
}

#[test]
fn the_admin_listener_can_be_off() {
    let daemon = Daemon::start(&["--admin-listen", "off"]);
    let mut client = Client::connect(&daemon, "/echo");
    client.send_text("served");
    assert_eq!(client.recv_text(), "served");
    let lines = daemon.log_lines();
    assert!(
        !lines.iter().any(|line| line.contains("(admin)")),
        "{lines:#?}"
    );
}

#[test]
fn the_admin_listener_leaves_the_host_only_with_a_key() {
    let anywhere = ["--admin-listen", "0.0.0.0:0"];
    let rule = "must be a loopback address unless --api-key-file is set";
    assert_refused(&anywhere, &[], &["--admin-listen"], "0.0.0.0:0");
    assert_refused(&anywhere, &[], &["--admin-listen"], rule);
    let file = KeyFile::new(API_KEY, 0o600);
    let daemon = Daemon::start(&[&anywhere[..], &["--api-key-file", file.path()]].concat());
    daemon.wait_log("listening on 0.0.0.0:");
    assert_eq!(daemon.admin_get("/healthz").status, 200);
}

#[test]
fn an_address_in_use_is_named() {
    let daemon = Daemon::start(&[]);
    let addr = daemon.addr().to_string();
    let admin = daemon.admin().to_string();
    for args in [
        ["--listen", &addr, "--admin-listen", "off"],
        ["--listen", "127.0.0.1:0", "--admin-listen", &admin],
    ] {
        let (status, stderr) = run_to_exit(&args, &[]);
        assert!(!status.success(), "{args:?}");
        let used = if args[1] == addr { &addr } else { &admin };
        assert!(stderr.contains(used.as_str()), "{stderr}");
    }
}

// --- Options --------------------------------------------------------------------------------------

/// Every option with its default as `--help` shows it, a value other than that, and a value that is
/// refused, if there is one. Those whose value is a file are [`FILE_OPTIONS`].
const OPTIONS: [(&str, &str, &str, Option<&str>); 35] = [
    ("listen", "0.0.0.0:7777", "127.0.0.1:0", Some("nowhere")),
    (
        "admin-listen",
        "127.0.0.1:7778",
        "127.0.0.1:0",
        Some("nowhere"),
    ),
    (
        "allowed-origin",
        "",
        "https://a.example",
        Some("not an origin"),
    ),
    ("trusted-proxy", "", "10.0.0.0/8", Some("10.0.0.0/33")),
    ("workers", "", "2", Some("many")),
    ("max-connections", "100000", "50", Some("lots")),
    ("max-connections-per-ip", "0", "50", Some("-1")),
    ("max-message-size", "64KiB", "32KiB", Some("12parsecs")),
    ("max-rooms-per-connection", "128", "16", Some("x")),
    ("handshake-timeout", "10s", "2500ms", Some("soon")),
    ("inbound-queue", "1000", "7", Some("0")),
    ("outbound-queue", "1000", "7", Some("0")),
    ("outbound-queue-size", "1MiB", "512KiB", Some("big")),
    ("lossy-room", "", "live:*", None),
    ("write-timeout", "10s", "1m", Some("later")),
    ("ping-interval", "54s", "20s", Some("tick")),
    ("pong-timeout", "60s", "1h", Some("tock")),
    ("heartbeat-interval", "off", "1m", Some("often")),
    ("heartbeat-text", "heartbeat", "tick", None),
    ("batch-interval", "0", "10ms", Some("1x")),
    ("history-size", "1000", "50", Some("much")),
    ("history-bytes", "1MiB", "100KiB", Some("much")),
    ("history-ttl", "1h", "10m", Some("ages")),
    ("history-memory", "256MiB", "64MiB", Some("all")),
    ("memory-limit", "off", "512MiB", Some("plenty")),
    ("max-rooms", "100000", "500", Some("0")),
    ("gzip-min-size", "256", "1KiB", Some("tiny")),
    ("duplicate-login", "allow", "refuse", Some("maybe")),
    ("message-rate", "0", "1000", Some("fast")),
    ("message-burst", "twice", "2000", Some("tiny")),
    ("redis-prefix", "roomcast", "other", Some("a:b")),
    ("redis-wait", "2s", "1s", Some("99ms")),
    ("node-name", "the host", "left", Some(LONG_NAME)),
    ("drain-timeout", "30s", "1s", Some("slowly")),
    ("log-level", "info", "trace", Some("shout")),
];

/// Those that name a file with a secret; without a default.
const FILE_OPTIONS: [&str; 2] = ["token-secret-file", "api-key-file"];

/// The same of those that must be given together, which `tests/tls.rs` tries.
const PAIR_OPTIONS: [&str; 2] = ["tls-cert", "tls-key"];

/// The one that names a file without a secret; `logs.rs` has its tests.
const LOG_FILE: &str = "log-file";

/// The one that needs a server; `cluster.rs` has its tests.
const REDIS: &str = "redis";

/// Longer than the name of a node may be.
const LONG_NAME: &str = "a-name-of-more-than-sixty-four-bytes-which-nobody-would-like-to-read";

/// Long enough for a key and for a secret.
const API_KEY: &str = "visible-in-no-output-of-any-kind";

/// A file with a key; removed on drop.
struct KeyFile(PathBuf);

impl KeyFile {
    fn new(content: impl AsRef<[u8]>, mode: u32) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("roomcast-limits-{}-{count}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::write(&path, content).expect("a file can be written");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("it is ours");
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("UTF-8")
    }
}

impl Drop for KeyFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn variable(option: &str) -> String {
    format!("ROOMCAST_{}", option.to_uppercase().replace('-', "_"))
}

#[test]
fn every_option_is_taken_as_a_flag() {
    for (option, _, value, _) in OPTIONS {
        let flag = format!("--{option}");
        let daemon = Daemon::start(&[&flag, value]);
        Client::connect(&daemon, "/echo").close();
    }
}

#[test]
fn every_option_is_taken_from_the_environment() {
    for (option, _, value, _) in OPTIONS {
        let daemon = Daemon::start_env(&[], &[(&variable(option), value)]);
        Client::connect(&daemon, "/echo").close();
    }
}

#[test]
fn nonsense_is_refused_with_the_name_of_the_option() {
    for (option, _, _, nonsense) in OPTIONS {
        let Some(nonsense) = nonsense else { continue };
        let flag = format!("--{option}={nonsense}");
        assert_refused(&[&flag], &[], &[option], nonsense);
        let variable = variable(option);
        assert_refused(
            &[],
            &[(&variable, nonsense)],
            &[option, &variable],
            nonsense,
        );
    }
}

#[test]
fn files_are_taken_as_a_flag_and_from_the_environment() {
    for end in ["", "\n", "\r\n"] {
        let file = KeyFile::new(format!("{API_KEY}{end}"), 0o600);
        for option in FILE_OPTIONS {
            let flag = format!("--{option}");
            let by_flag = Daemon::start(&[&flag, file.path()]);
            let by_variable = Daemon::start_env(&[], &[(&variable(option), file.path())]);
            for daemon in [by_flag, by_variable] {
                assert_eq!(daemon.get("/healthz").status, 200);
                assert_eq!(daemon.admin_get("/healthz").status, 200);
            }
        }
    }
}

#[test]
fn connections_need_no_api_key() {
    let file = KeyFile::new(API_KEY, 0o600);
    let daemon = Daemon::start(&["--api-key-file", file.path()]);
    Witness::new(&daemon).assert_served();
}

#[test]
fn bad_api_keys_are_refused_and_not_shown() {
    let long = "k".repeat(4097);
    for (content, rule) in [
        ("fifteen-bytes-k", "must hold a key of at least 16"),
        ("fifteen-bytes-k\n", "must hold a key of at least 16"),
        (&long, "and at most 4096 bytes"),
        ("", "must not be empty"),
        ("\n", "must not be empty"),
        ("two words of a secret key", "must hold one line"),
        ("first-line-of-the-key\nsecond-line\n", "must hold one line"),
        ("clé-secrète-de-plus-de-16", "must hold one line"),
    ] {
        let file = KeyFile::new(content, 0o600);
        let path = file.path();
        let (flag, variable) = ("--api-key-file", variable("api-key-file"));
        assert_refused(&[flag, path], &[], &[rule], path);
        assert_refused(&[], &[(&variable, path)], &[flag], path);
        for command in ["check", "serve"] {
            let args = [command, "--admin-listen", "off", flag, path];
            let args = &args[usize::from(command == "serve")..];
            let (status, stderr) = run_to_exit(args, &[]);
            assert_eq!(status.code(), Some(2), "{args:?}: {stderr}");
            for part in content.split_whitespace().filter(|part| part.len() > 5) {
                assert!(!stderr.contains(part), "{part} in {stderr}");
            }
        }
    }
    assert_refused(
        &["--api-key-file", "/nowhere/at/all"],
        &[],
        &["--api-key-file"],
        "/nowhere/at/all",
    );
}

#[test]
fn an_exposed_api_key_gives_a_warning_and_is_shown_nowhere() {
    for (mode, is_exposed) in [(0o600, false), (0o640, true), (0o604, true)] {
        let file = KeyFile::new(API_KEY, mode);
        let args = ["--api-key-file", file.path()];
        let daemon = Daemon::start(&[&args[..], &["--log-level", "trace"]].concat());
        Witness::new(&daemon).assert_served();
        let lines = daemon.log_lines();
        let about = |line: &&String| line.contains("WARN") && line.contains("--api-key-file");
        let warnings: Vec<_> = lines.iter().filter(about).collect();
        assert_eq!(warnings.len(), usize::from(is_exposed), "{lines:#?}");
        for line in warnings {
            assert!(line.contains("others may read"), "{line}");
            assert!(line.contains(file.path()), "{line}");
        }
        let checked = stdout_of(&[&["check"], &args[..]].concat());
        assert_eq!(checked.contains("others may read"), is_exposed, "{checked}");
        for text in [lines.join("\n"), daemon.metrics(), checked] {
            assert!(!text.contains("visible-in"), "{text}");
        }
    }
}

#[test]
fn values_out_of_range_are_refused() {
    let cases = [
        ("max-connections", "0"),
        ("max-message-size", "0"),
        ("max-rooms-per-connection", "0"),
        ("handshake-timeout", "0"),
        ("outbound-queue-size", "0"),
        ("write-timeout", "0"),
        ("workers", "-1"),
        ("inbound-queue", "99999999999999999999"),
        ("outbound-queue-size", "99999999999999999999GiB"),
        ("ping-interval", "-5s"),
        ("listen", "127.0.0.1:99999"),
        ("listen", ""),
    ];
    for (option, value) in cases {
        let flag = format!("--{option}={value}");
        assert_refused(&[&flag], &[], &[option], value);
    }
}

#[test]
fn contradictions_are_refused_with_the_options_named() {
    let cases: [(&[&str], [&str; 2]); 4] = [
        (
            &["--pong-timeout", "54s"],
            ["--pong-timeout", "--ping-interval"],
        ),
        (
            &["--ping-interval", "60s"],
            ["--pong-timeout", "--ping-interval"],
        ),
        (
            &["--ping-interval", "2m", "--pong-timeout", "90s"],
            ["--pong-timeout", "--ping-interval"],
        ),
        (
            &["--max-message-size", "2MiB"],
            ["--max-message-size", "--outbound-queue-size"],
        ),
    ];
    for (args, options) in cases {
        for option in options {
            assert_refused(args, &[], &[option], "");
        }
        // The same where it comes from the environment.
        if let [flag, value] = args {
            let variable = variable(flag.trim_start_matches("--"));
            assert_refused(&[], &[(&variable, value)], &options, "");
        }
    }
}

#[test]
fn unknown_options_are_refused() {
    let (status, stderr) = run_to_exit(&["--no-such-option", "1"], &[]);
    assert_eq!(status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("--no-such-option"), "{stderr}");
}

#[test]
fn a_flag_beats_the_environment() {
    let daemon = Daemon::start_env(
        &["--max-rooms-per-connection", "2"],
        &[("ROOMCAST_MAX_ROOMS_PER_CONNECTION", "1")],
    );
    Client::connect(&daemon, "/ws?room=a&room=b").close();
}

#[test]
fn the_environment_has_the_effect_of_the_flag() {
    let env = |name: &str, value: &str| Daemon::start_env(&[], &[(name, value)]);

    let daemon = env("ROOMCAST_MAX_MESSAGE_SIZE", "1KiB");
    let mut client = Client::connect(&daemon, "/echo");
    client.send_text(&"x".repeat(1025));
    client.expect_close(1009, None);

    let daemon = env("ROOMCAST_MAX_ROOMS_PER_CONNECTION", "1");
    let dial = Dial::new(daemon.addr(), "/ws?room=a&room=b");
    assert_eq!(
        dial.try_connect().err().map(|answer| answer.status),
        Some(400)
    );

    let daemon = env("ROOMCAST_MAX_CONNECTIONS_PER_IP", "1");
    let _first = Client::connect(&daemon, "/echo");
    let dial = Dial::new(daemon.addr(), "/echo");
    assert_eq!(
        dial.try_connect().err().map(|answer| answer.status),
        Some(503)
    );

    let daemon = env("ROOMCAST_HANDSHAKE_TIMEOUT", "100ms");
    Wire::connect(daemon.addr()).expect_eof();

    let daemon = env("ROOMCAST_ALLOWED_ORIGIN", "https://a.example");
    let dial = Dial::new(daemon.addr(), "/echo");
    dial.header("Origin", "https://a.example").connect().close();

    let daemon = env("ROOMCAST_PING_INTERVAL", "100ms");
    let mut client = Dial::new(daemon.addr(), "/echo").silent().connect();
    assert_eq!(client.recv(), Message::Ping(Vec::new()));

    let beat = [
        ("ROOMCAST_HEARTBEAT_INTERVAL", "100ms"),
        ("ROOMCAST_HEARTBEAT_TEXT", "tick"),
    ];
    let daemon = Daemon::start_env(&[], &beat);
    assert_eq!(Client::connect(&daemon, "/ws?room=a").recv_text(), "tick");
}

#[test]
fn help_states_every_option_with_default_and_variable() {
    let help = stdout_of(&["--help"]);
    let blocks = option_blocks(&help);
    for (option, default, ..) in OPTIONS {
        let block = blocks.get(option);
        let block = block.unwrap_or_else(|| panic!("--{option} is missing in:\n{help}"));
        let words: Vec<_> = block.split_whitespace().collect();
        assert!(words.len() >= 8, "--{option} is not explained: {block}");
        assert!(
            block.contains("efault"),
            "--{option} has no default: {block}"
        );
        assert!(
            block.contains(default),
            "--{option}, default {default}: {block}"
        );
        assert!(block.contains(&variable(option)), "--{option}: {block}");
    }
    let files = [&FILE_OPTIONS[..], &PAIR_OPTIONS, &[LOG_FILE]].concat();
    for option in &files {
        let block = &blocks[*option];
        assert!(block.contains("FILE"), "--{option}: {block}");
        assert!(block.contains(&variable(option)), "--{option}: {block}");
    }
    // Nothing else is on offer but what every program has.
    for option in blocks.keys() {
        let ours =
            OPTIONS.iter().any(|(name, ..)| name == option) || files.contains(&option.as_str());
        assert!(
            ours || ["help", "version", REDIS].contains(&option.as_str()),
            "--{option}"
        );
    }
}

#[test]
fn version_is_that_of_the_package() {
    let version = stdout_of(&["--version"]);
    assert!(version.contains(env!("CARGO_PKG_VERSION")), "{version}");
}

// --- Helpers --------------------------------------------------------------------------------------

/// Asserts that a start with `args` and `envs` is refused with status 2, and that stderr has one of
/// `names` and the value.
fn assert_refused(args: &[&str], envs: &[(&str, &str)], names: &[&str], value: &str) {
    let given = |option: &str| {
        let assigned = format!("{option}=");
        args.iter()
            .any(|arg| *arg == option || arg.starts_with(&assigned))
    };
    let in_env = |name: &str| envs.iter().any(|(given, _)| *given == name);
    let mut all = args.to_vec();
    // Should it start after all, then on a port that is free.
    if !given("--listen") && !in_env("ROOMCAST_LISTEN") {
        all.extend(["--listen", "127.0.0.1:0"]);
    }
    if !given("--admin-listen") && !in_env("ROOMCAST_ADMIN_LISTEN") {
        all.extend(["--admin-listen", "127.0.0.1:0"]);
    }
    let (status, stderr) = run_to_exit(&all, envs);
    assert_eq!(status.code(), Some(2), "{args:?} {envs:?}: {stderr}");
    let named = names.iter().any(|name| stderr.contains(name));
    assert!(named, "{names:?} not named for {args:?} {envs:?}: {stderr}");
    assert!(stderr.contains(value), "{value:?} not in: {stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
}

/// The text of every option in a help page, by its long name.
fn option_blocks(help: &str) -> BTreeMap<String, String> {
    let mut blocks = BTreeMap::new();
    let mut current = None;
    for line in help.lines() {
        let start = line.trim_start();
        let indent = line.len() - start.len();
        if indent <= 6 && start.starts_with('-') {
            let name = start.split_once("--").map_or("", |(_, name)| name);
            let end = name.find(|c: char| !c.is_ascii_lowercase() && c != '-');
            let name = &name[..end.unwrap_or(name.len())];
            current = Some(name.to_owned());
        } else if indent == 0 && !start.is_empty() {
            current = None;
        }
        if let Some(name) = &current {
            let block: &mut String = blocks.entry(name.clone()).or_default();
            block.push_str(line);
            block.push('\n');
        }
    }
    blocks
}
