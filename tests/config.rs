//! Options from flags and from the environment, each in a process of its own: the environment
//! belongs to the whole process, so no test may change it under another.

mod harness;

use std::env;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use roomcast::ops::cli::Cli;
use roomcast::ops::config::Config;

use harness::{Daemon, run_to_exit};

const ARGUMENTS: &str = "CONFIG_TEST_ARGUMENTS";

/// Reads a configuration and writes it to standard error; does nothing unless [`outcome`] asks.
#[test]
fn child() {
    let Ok(arguments) = env::var(ARGUMENTS) else {
        return;
    };
    let arguments = arguments.split_whitespace();
    match Cli::try_from_args(["roomcast"].into_iter().chain(arguments)) {
        Err(error) => eprintln!("outcome: {error}"),
        Ok(cli) => match Config::from_cli(cli) {
            Err(error) => eprintln!("outcome: {error}"),
            Ok((config, warnings)) => eprintln!("outcome: {config:?} {warnings:?}"),
        },
    }
}

/// Where the processes run: a folder with two files that may hold keys and secrets. Relative paths
/// keep spaces out of the arguments.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("config");
        fs::create_dir_all(&folder).expect("a folder for files");
        for name in ["one.key", "two.key"] {
            // Another run may be reading them, so they are replaced and never half written.
            let draft = folder.join(format!("{name}.{}", std::process::id()));
            fs::write(&draft, format!("{KEY}\n")).expect("a file can be written");
            fs::rename(&draft, folder.join(name)).expect("a file can be renamed");
        }
        folder
    })
}

/// Long enough for a key and for a secret.
const KEY: &str = "visible-in-no-output-of-any-kind";

/// What a process with these variables and arguments makes of them.
fn outcome(variables: &[(&str, &str)], arguments: &str) -> String {
    let mut command = Command::new(env::current_exe().expect("a test has a file"));
    command.args(["--exact", "child", "--nocapture"]);
    for (name, _) in env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"ROOMCAST_") {
            command.env_remove(name);
        }
    }
    command
        .current_dir(folder())
        .envs(variables.iter().copied())
        .env(ARGUMENTS, arguments);
    let output = command.output().expect("a test can be started");
    let text = String::from_utf8(output.stderr).expect("the outcome is text");
    let start = text.find("outcome: ").expect("there is an outcome");
    assert!(!text.contains(KEY), "{text}");
    text[start..].to_owned()
}

fn check(variables: &[(&str, &str)], arguments: &str, expected: &str) {
    let outcome = outcome(variables, arguments);
    assert!(
        outcome.contains(expected),
        "{variables:?} {arguments:?} must give {expected:?}, gave {outcome}"
    );
}

/// Flag, its value, a second value, and how each shows.
const OPTIONS: [(&str, [&str; 2], [&str; 2]); 39] = [
    (
        "listen",
        ["127.0.0.1:81", "127.0.0.1:82"],
        [" listen: [127.0.0.1:81]", " listen: [127.0.0.1:82]"],
    ),
    (
        "admin-listen",
        ["127.0.0.1:83", "off"],
        ["admin_listen: Some(127.0.0.1:83)", "admin_listen: None"],
    ),
    (
        "allowed-origin",
        ["https://a.test", "*"],
        [r#"host: "a.test""#, "AllowedOrigins([Any])"],
    ),
    (
        "trusted-proxy",
        ["10.0.0.0/8", "::1"],
        [
            "trusted_proxies: [10.0.0.0/8]",
            "trusted_proxies: [::1/128]",
        ],
    ),
    ("workers", ["3", "0"], ["workers: 3", "workers: 0"]),
    (
        "max-connections",
        ["5", "6"],
        ["connections_max: 5,", "connections_max: 6,"],
    ),
    (
        "max-connections-per-ip",
        ["7", "off"],
        ["connections_per_ip_max: 7,", "connections_per_ip_max: 0,"],
    ),
    (
        "max-message-size",
        ["1KiB", "2000"],
        ["message_bytes_max: 1024,", "message_bytes_max: 2000,"],
    ),
    (
        "max-rooms-per-connection",
        ["8", "9"],
        [
            "rooms_per_connection_max: 8,",
            "rooms_per_connection_max: 9,",
        ],
    ),
    (
        "handshake-timeout",
        ["1s", "2m"],
        ["handshake_timeout: 1s,", "handshake_timeout: 120s,"],
    ),
    (
        "inbound-queue",
        ["10", "11"],
        ["inbound_messages_max: 10,", "inbound_messages_max: 11,"],
    ),
    (
        "outbound-queue",
        ["12", "13"],
        [
            "outbound_publications_max: 12,",
            "outbound_publications_max: 13,",
        ],
    ),
    (
        "outbound-queue-size",
        ["2MiB", "1MB"],
        [
            "outbound_bytes_max: 2097152,",
            "outbound_bytes_max: 1000000,",
        ],
    ),
    (
        "lossy-room",
        ["live:*", "chat"],
        [r#"lossy_rooms: ["live:*"]"#, r#"lossy_rooms: ["chat"]"#],
    ),
    (
        "write-timeout",
        ["500ms", "3s"],
        ["write_timeout: 500ms,", "write_timeout: 3s,"],
    ),
    (
        "ping-interval",
        ["5s", "off"],
        ["ping_interval: Some(5s)", "ping_interval: None"],
    ),
    (
        "pong-timeout",
        ["61s", "1h"],
        ["pong_timeout: 61s", "pong_timeout: 3600s"],
    ),
    (
        "heartbeat-interval",
        ["25s", "0"],
        ["heartbeat_interval: Some(25s)", "heartbeat_interval: None"],
    ),
    (
        "heartbeat-text",
        ["tick", "tock"],
        [r#"heartbeat_text: "tick""#, r#"heartbeat_text: "tock""#],
    ),
    (
        "batch-interval",
        ["20ms", "0"],
        ["batch_interval: 20ms", "batch_interval: 0ns"],
    ),
    (
        "history-size",
        ["14", "off"],
        [
            "history_publications_max: 14,",
            "history_publications_max: 0,",
        ],
    ),
    (
        "history-bytes",
        ["15KiB", "16"],
        ["history_bytes_max: 15360,", "history_bytes_max: 16,"],
    ),
    (
        "history-ttl",
        ["17s", "1h"],
        ["history_ttl: 17s,", "history_ttl: 3600s,"],
    ),
    (
        "history-memory",
        ["1MiB", "1GiB"],
        [
            "history_memory_bytes_max: 1048576,",
            "history_memory_bytes_max: 1073741824,",
        ],
    ),
    (
        "memory-limit",
        ["512MiB", "off"],
        [
            "memory_bytes_max: Some(536870912),",
            "memory_bytes_max: None,",
        ],
    ),
    (
        "max-rooms",
        ["18", "19"],
        ["rooms_max: 18,", "rooms_max: 19,"],
    ),
    (
        "gzip-min-size",
        ["1KiB", "0"],
        ["gzip_bytes_min: 1024,", "gzip_bytes_min: 0,"],
    ),
    (
        "duplicate-login",
        ["replace", "refuse"],
        ["duplicate_login: Replace,", "duplicate_login: Refuse,"],
    ),
    (
        "message-rate",
        ["20", "off"],
        ["message_rate: 20,", "message_rate: 0,"],
    ),
    (
        "message-burst",
        ["21", "22"],
        ["message_burst: 21,", "message_burst: 22,"],
    ),
    (
        "token-secret-file",
        ["one.key", "two.key"],
        ["token_secret: Some(Secret)", "token_secret: Some(Secret)"],
    ),
    (
        "api-key-file",
        ["one.key", "two.key"],
        ["api_key: Some(Secret)", "api_key: Some(Secret)"],
    ),
    (
        "redis",
        ["redis://one:1", "rediss://al:secret@two"],
        ["url: Some(redis://one:1)", "url: Some(rediss://al:***@two)"],
    ),
    (
        "redis-prefix",
        ["one", "two.2"],
        ["prefix: \"one\"", "prefix: \"two.2\""],
    ),
    ("redis-wait", ["31s", "150ms"], ["wait: 31s", "wait: 150ms"]),
    (
        "node-name",
        ["left", "right"],
        ["node_name: Some(\"left\")", "node_name: Some(\"right\")"],
    ),
    (
        "drain-timeout",
        ["23s", "0"],
        ["drain_timeout: 23s,", "drain_timeout: 0ns,"],
    ),
    (
        "log-file",
        ["one.log", "two.log"],
        ["log: Some(\"one.log\")", "log: Some(\"two.log\")"],
    ),
    (
        "log-level",
        ["debug", "WARN"],
        ["log_level: Debug", "log_level: Warn"],
    ),
];

#[test]
fn every_option_is_read_from_flag_and_environment_and_the_flag_wins() {
    // --tls-cert and --tls-key must be given together: `tests/tls.rs` has them.
    assert_eq!(Cli::variables().len(), OPTIONS.len() + 2);
    for (option, [first, second], [first_shown, second_shown]) in OPTIONS {
        let variable = format!("ROOMCAST_{}", option.replace('-', "_").to_uppercase());
        let flag = format!("--{option} {second}");
        check(&[], &flag, second_shown);
        check(&[(&variable, first)], "", first_shown);
        check(&[(&variable, first)], &flag, second_shown);
    }
}

#[test]
fn empty_variables_count_as_unset() {
    let unset = outcome(&[], "");
    for (option, ..) in OPTIONS {
        let variable = format!("ROOMCAST_{}", option.replace('-', "_").to_uppercase());
        assert_eq!(outcome(&[(&variable, "")], ""), unset, "{variable}");
    }
}

#[test]
fn lists_in_the_environment_have_commas() {
    let listen = "127.0.0.1:81, [::1]:82";
    check(
        &[("ROOMCAST_LISTEN", listen)],
        "",
        "[127.0.0.1:81, [::1]:82]",
    );
    check(&[("ROOMCAST_LOSSY_ROOM", "a*,b*")], "", r#"["a*", "b*"]"#);
    check(
        &[("ROOMCAST_LOSSY_ROOM", "a*,b*")],
        "--lossy-room #a,b",
        r##"["#a,b"]"##,
    );
    check(
        &[("ROOMCAST_LISTEN", "127.0.0.1:81,")],
        "",
        r#"--listen is "": must be"#,
    );
    check(&[], "--listen 127.0.0.1:81,127.0.0.1:82", "--listen is");
}

#[test]
fn errors_in_the_environment_name_option_value_and_rule() {
    for part in ["--workers", "'-1'", "must be a whole number"] {
        check(&[("ROOMCAST_WORKERS", "-1")], "", part);
    }
    check(
        &[("ROOMCAST_WORKERS", "257")],
        "",
        "--workers is 257: must be at most 256",
    );
}

#[test]
fn a_flag_s_file_is_read_and_not_the_one_of_the_environment() {
    for option in ["token-secret-file", "api-key-file"] {
        let variable = format!("ROOMCAST_{}", option.replace('-', "_").to_uppercase());
        let missing = format!("--{option} is \"none.key\": must be a file that can be read");
        let flag = format!("--{option} none.key");
        check(&[(&variable, "one.key")], &flag, &missing);
        check(&[(&variable, "none.key")], "", &missing);
        let outcome = outcome(&[(&variable, "none.key")], &format!("--{option} one.key"));
        assert!(outcome.contains("Some(Secret)"), "{outcome}");
    }
}

#[test]
fn the_admin_listener_leaves_the_host_only_with_a_key() {
    let anywhere = "--admin-listen 0.0.0.0:83";
    check(
        &[],
        anywhere,
        r#"--admin-listen is "0.0.0.0:83": must be a loopback address unless --api-key-file is set"#,
    );
    check(
        &[("ROOMCAST_API_KEY_FILE", "one.key")],
        anywhere,
        "admin_listen: Some(0.0.0.0:83)",
    );
    // It is the key of the API that counts.
    check(
        &[("ROOMCAST_TOKEN_SECRET_FILE", "one.key")],
        anywhere,
        "must be a loopback address",
    );
}

#[test]
fn mistyped_variables_are_named_in_a_warning() {
    check(&[], "", "} []");
    check(
        &[("ROOMCAST_LISTENER", "x"), ("ROOMCAST_WORKERS", "1")],
        "",
        r#"["environment variables that name no option are ignored: ROOMCAST_LISTENER"]"#,
    );
}

#[test]
fn to_trust_everybody_is_named_in_a_warning() {
    check(
        &[("ROOMCAST_TRUSTED_PROXY", "10.0.0.0/8,0.0.0.0/0")],
        "",
        "everybody may say by X-Forwarded-For who he is",
    );
}

#[test]
fn mistyped_variables_are_named_by_the_daemon_and_by_check() {
    let variables = [("ROOMCAST_LISTENER", "hunter2"), ("ROOMCAST_PORT", "80")];
    let expected = "environment variables that name no option are ignored: \
                    ROOMCAST_LISTENER, ROOMCAST_PORT";
    let daemon = Daemon::start_env(&[], &variables);
    let line = daemon.wait_log("name no option");
    assert!(line.ends_with(&format!("WARN  {expected}")), "{line}");
    assert!(!daemon.log_lines().join("").contains("hunter2"));
    let (status, out, _) = run(&variables, "check");
    assert_eq!(status, Some(0), "{out}");
    assert!(out.starts_with(&format!("Warning: {expected}\n")), "{out}");
    assert!(!out.contains("hunter2"), "{out}");
}

#[test]
fn a_port_in_use_is_an_error_that_names_option_and_address() {
    let holder = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let held = holder.local_addr().expect("a bound socket has one");
    let (taken, everywhere) = (held.to_string(), format!("0.0.0.0:{}", held.port()));
    let free = "127.0.0.1:0";
    for (listen, admin, option, address) in [
        (&*taken, free, "--listen", &taken),
        (free, &*taken, "--admin-listen", &taken),
        (&*everywhere, free, "--listen", &everywhere),
        (&*taken, "off", "--listen", &taken),
    ] {
        let (status, error) = run_to_exit(&["--listen", listen, "--admin-listen", admin], &[]);
        assert_eq!(status.code(), Some(1), "{error}");
        let expected = format!(
            "roomcast: {option} {address}: cannot listen: Address already in use (os error 98)"
        );
        assert_eq!(error.lines().last(), Some(&*expected), "{error}");
        assert!(!error.contains("listening on"), "{error}");
    }
    // The second of two listeners, and both the same.
    let two = ["--listen", free, "--listen", &taken, "--admin-listen", free];
    let (status, error) = run_to_exit(&two, &[]);
    assert_eq!(status.code(), Some(1), "{error}");
    assert!(
        error.contains(&format!("--listen {taken}: cannot listen")),
        "{error}"
    );
    for listen in [&taken, &everywhere] {
        let (status, error) = run_to_exit(&["--listen", listen, "--admin-listen", &taken], &[]);
        assert_eq!(status.code(), Some(2), "{error}");
        let expected = format!(
            "roomcast: --admin-listen is \"{taken}\": must not name the same address and port as --listen"
        );
        assert_eq!(error, expected);
    }
}

#[test]
fn an_admin_listener_for_everybody_is_refused_with_status_2() {
    for (variables, args) in [
        (&[][..], &["--admin-listen", "0.0.0.0:0"][..]),
        (&[("ROOMCAST_ADMIN_LISTEN", "0.0.0.0:0")], &[]),
        (&[("ROOMCAST_ADMIN_LISTEN", "0.0.0.0:0")], &["check"]),
    ] {
        let (status, error) = run_to_exit(args, variables);
        assert_eq!(status.code(), Some(2), "{error}");
        let expected = "roomcast: --admin-listen is \"0.0.0.0:0\": must be a loopback address \
                        unless --api-key-file is set";
        assert_eq!(error, expected);
    }
}

/// Runs the program itself, without any variable of its own but `variables`. Gives its exit status
/// and what it wrote to standard output and standard error.
fn run(variables: &[(&str, &str)], arguments: &str) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_roomcast"));
    for (name, _) in env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"ROOMCAST_") {
            command.env_remove(name);
        }
    }
    command.envs(variables.iter().copied());
    let output = command
        .args(arguments.split_whitespace())
        .output()
        .expect("the program can be started");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[test]
fn check_shows_values_but_no_secret_and_its_status_says_whether_they_hold() {
    // Any file of 32 bytes or more can be a secret.
    let (status, out, _) = run(
        &[("ROOMCAST_HISTORY_MEMORY", "3GiB")],
        "check --token-secret-file Cargo.toml",
    );
    assert_eq!(status, Some(0), "{out}");
    for line in ["--history-memory            3GiB\n", "  3.0 GiB  "] {
        assert!(out.contains(line), "{line:?} is not in {out}");
    }
    assert!(out.contains("--token-secret-file         set\n"), "{out}");
    assert!(
        out.contains("--api-key-file              not set\n"),
        "{out}"
    );
    assert!(!out.contains("[package]"), "{out}");
    let key = folder().join("one.key");
    let key = key.to_str().expect("UTF-8");
    let (status, out, error) = run(&[("ROOMCAST_API_KEY_FILE", key)], "check");
    assert_eq!((status, &*error), (Some(0), ""), "{out}");
    for line in [
        "--token-secret-file         not set\n",
        "--api-key-file              set\n",
        "  rooms gone          28.5 MiB  65536 rooms x (255 B name",
        "  API bodies         256.0 MiB  256 connections x 1MiB",
        "  API calls           64.0 MiB  in progress",
        "  API answers         64.0 MiB  long ones",
        "  idempotency         58.2 MiB  100000 idempotency keys x (255 B",
    ] {
        assert!(out.contains(line), "{line:?} is not in {out}");
    }
    assert!(!out.contains(KEY), "{out}");
    // The file is not a key, but it is not said what it holds instead.
    let (status, out, error) = run(&[], "check --api-key-file Cargo.toml");
    assert_eq!((status, &*out), (Some(2), ""));
    assert!(
        error.starts_with("roomcast: --api-key-file is \"Cargo.toml\": must hold one line"),
        "{error}"
    );
    assert!(!error.contains("[package]"), "{error}");
    let (status, out, error) = run(&[], "check --memory-limit 64MiB");
    assert_eq!((status, &*error), (Some(0), ""), "{out}");
    for line in [
        "Warning: --history-memory is lowered from 268435456 to 25165824 bytes: --memory-limit leaves no more\n",
        "--memory-limit              64MiB\n",
        "--history-memory            24MiB\n",
        "From 56.0 MiB on, 7/8 of --memory-limit, the largest send queues are closed; the other parts \
         are not bounded by it.\n",
    ] {
        assert!(out.contains(line), "{line:?} is not in {out}");
    }
    for (arguments, expected) in [
        (
            "--memory-limit 15MiB",
            "roomcast: --memory-limit is 15728640: must be at least 16MiB",
        ),
        (
            "--memory-limit 16MiB --history-bytes 9MiB",
            "roomcast: --memory-limit is 16777216: must leave --history-bytes, which is 9437184, for history: it leaves 3145728",
        ),
    ] {
        let (status, out, error) = run(&[], &format!("check {arguments}"));
        assert_eq!((status, &*out), (Some(2), ""));
        assert!(error.starts_with(expected), "{error}");
    }
    let (status, out, error) = run(&[], "check --history-memory 1KiB");
    assert_eq!((status, &*out), (Some(2), ""));
    assert!(
        error.starts_with("roomcast: --history-memory is 1024: must"),
        "{error}"
    );
}

#[test]
fn token_prints_a_token_that_the_secret_verifies() {
    use roomcast::auth::token::verify;
    use roomcast::base::{RoomName, Secret};

    let (status, token, _) = run(
        // Wrong for serving, but nobody is served here.
        &[
            ("ROOMCAST_WORKERS", "x"),
            ("ROOMCAST_ROOMS", "live:*, $vip"),
            ("ROOMCAST_TOKEN_SECRET_FILE", "tests/config.rs"),
        ],
        "token --user alice --publish #a,b --ttl 8760h",
    );
    assert_eq!(status, Some(0));
    let secret = fs::read("tests/config.rs").expect("a readable file");
    let secret = Secret::new(secret.trim_ascii_end());
    let token = token.strip_suffix('\n').expect("one line");
    let claims = verify(&secret, token, 1_763_683_200).expect("a good token");
    assert_eq!(claims.user.as_str(), "alice");
    let user = Some(&claims.user);
    for (name, joins, publishes) in [
        ("live:7", true, false),
        ("$vip", true, false),
        ("chat", false, false),
        ("#a,b", false, true),
    ] {
        let room = RoomName::new(name).expect("a good name");
        assert_eq!(claims.grants.may_join(user, &room), joins, "{name}");
        assert_eq!(claims.grants.may_publish(user, &room), publishes, "{name}");
    }
    let (status, out, error) = run(&[], "token --user a,b --token-secret-file tests/config.rs");
    assert_eq!((status, &*out), (Some(2), ""));
    assert!(
        error.starts_with("roomcast: --user is \"a,b\": must"),
        "{error}"
    );
}
