//! Options from flags and from the environment, each in a process of its own: the environment
//! belongs to the whole process, so no test may change it under another.

use std::env;
use std::process::Command;

use roomcast::ops::cli::Cli;
use roomcast::ops::config::Config;

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
        .envs(variables.iter().copied())
        .env(ARGUMENTS, arguments);
    let output = command.output().expect("a test can be started");
    let text = String::from_utf8(output.stderr).expect("the outcome is text");
    let start = text.find("outcome: ").expect("there is an outcome");
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
const OPTIONS: [(&str, [&str; 2], [&str; 2]); 20] = [
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
        "log-level",
        ["debug", "WARN"],
        ["log_level: Debug", "log_level: Warn"],
    ),
];

#[test]
fn every_option_is_read_from_flag_and_environment_and_the_flag_wins() {
    assert_eq!(Cli::variables().len(), OPTIONS.len());
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
fn mistyped_variables_are_named_in_a_warning() {
    check(&[], "", "} []");
    check(
        &[("ROOMCAST_LISTENER", "x"), ("ROOMCAST_WORKERS", "1")],
        "",
        r#"["environment variables that name no option are ignored: ROOMCAST_LISTENER"]"#,
    );
}
