//! The Autobahn fuzzing client against `/echo`, over TCP and TLS: not one failure.
//!
//! Which cases are not simply OK is listed here, and the list must be exact. The suite is Python 2.7
//! code; where there is no such interpreter this says so and passes.

mod harness;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use harness::{Certificate, Daemon};
use serde_json::Value;

/// The script's exit status where there is no Python 2.7.
const NO_PYTHON: i32 = 3;

/// The suite's largest message has 16 MiB. It may all be queued for an echo at once, and the suite
/// is slow to read it.
const ROOM_FOR_THE_SUITE: [&str; 8] = [
    "--max-message-size",
    "17MiB",
    "--outbound-queue-size",
    "64MiB",
    "--write-timeout",
    "60s",
    "--log-level",
    "info",
];

/// Text that is no UTF-8 is found when its frame is whole; the suite would have it found in the
/// middle of the frame. RFC 6455, section 8.1, asks for the failure and not for its moment.
const NON_STRICT: [&str; 2] = ["6.4.3", "6.4.4"];

/// What RFC 6455 leaves open: whether a large message is still answered when a close frame follows
/// at once, and close codes from 5000 on.
const INFORMATIONAL: [&str; 3] = ["7.1.6", "7.13.1", "7.13.2"];

/// Compression, which is not offered.
const UNIMPLEMENTED: [&str; 2] = ["12", "13"];

/// Most of section 9, which takes longer than all others: large messages in fragments and pieces,
/// and many small ones. What is left of it is 64 KiB to 16 MiB in one frame.
const LONG: [&str; 6] = ["9.3.*", "9.4.*", "9.5.*", "9.6.*", "9.7.*", "9.8.*"];

/// Runs all cases but those of these patterns.
fn check(name: &str, options: &[&str], left_out: &[&str]) {
    run(name, options, None, left_out);
}

fn run(name: &str, options: &[&str], certificate: Option<&Certificate>, left_out: &[&str]) {
    let daemon = Daemon::start(&[&ROOM_FOR_THE_SUITE[..], options].concat());
    let temporary = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let tools = temporary
        .parent()
        .expect("tmp is below target")
        .join("tools");
    let out = temporary.join("autobahn").join(name);
    let mut command = Command::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/conformance/autobahn.sh"
    ));
    command.env("AUTOBAHN_HOME", tools.join("autobahn"));
    command.args(["-q", "-t", "300", "-o"]).arg(&out);
    for pattern in left_out {
        command.args(["-x", pattern]);
    }
    match certificate {
        Some(certificate) => {
            command.args(["-c", &certificate.cert()]);
            command.arg(format!("wss://localhost:{}/echo", daemon.addr().port()));
        }
        None => {
            command.arg(format!("ws://{}/echo", daemon.addr()));
        }
    }
    let run = command.output().expect("a shell");
    let said = String::from_utf8_lossy(&run.stdout);
    let complained = String::from_utf8_lossy(&run.stderr);
    if run.status.code() == Some(NO_PYTHON) {
        tell("skipped: no Python 2.7, so the Autobahn suite did not run");
        return;
    }
    assert!(run.status.success(), "{}\n{said}{complained}", run.status);
    tell(&said);
    let report = fs::read_to_string(out.join("reports/index.json")).expect("the suite's report");
    let cases = assert_cases(&report);
    if certificate.is_some() {
        let handshakes = daemon.metric("roomcast_tls_handshakes_total");
        assert!(handshakes >= cases as f64, "{handshakes} of {cases}");
    }
    // The one that asks is left.
    daemon.wait_metric("roomcast_connections", |open| open == 1.0);
    assert_eq!(daemon.closes("internal"), 0.0);
}

/// Asserts how each case ended, and returns how many there were.
fn assert_cases(report: &str) -> usize {
    let report: BTreeMap<String, BTreeMap<String, Value>> =
        serde_json::from_str(report).expect("one agent with its cases");
    let cases = report.into_values().next().expect("one agent");
    for (case, result) in &cases {
        let section = case.split('.').next().expect("a section");
        let expected = match case.as_str() {
            case if NON_STRICT.contains(&case) => ["NON-STRICT", "OK"],
            case if INFORMATIONAL.contains(&case) => ["INFORMATIONAL", "INFORMATIONAL"],
            _ if UNIMPLEMENTED.contains(&section) => ["UNIMPLEMENTED", "OK"],
            _ => ["OK", "OK"],
        };
        let seen = ["behavior", "behaviorClose"].map(|key| result[key].as_str().expect("a word"));
        assert_eq!(seen, expected, "{case}: {result}");
    }
    for case in NON_STRICT.iter().chain(&INFORMATIONAL) {
        assert!(cases.contains_key(*case), "{case} did not run");
    }
    cases.len()
}

/// Prints past the capture of test output, so that a skip is seen.
fn tell(line: &str) {
    let _ = writeln!(std::io::stderr(), "{}", line.trim_end());
}

#[test]
fn autobahn_passes_with_workers() {
    check("workers", &[], &[]);
}

#[test]
fn autobahn_passes_without_workers() {
    check("inline", &["--workers", "0"], &["12.*", "13.*"]);
}

#[test]
fn autobahn_passes_with_several_workers() {
    let left_out = [&LONG[..], &["12.*", "13.*"]].concat();
    check("several", &["--workers", "3"], &left_out);
}

/// The suite verifies the certificate.
#[test]
fn autobahn_passes_over_tls() {
    let certificate = Certificate::new("ec");
    let (cert, key) = (certificate.cert(), certificate.key());
    let options = ["--tls-cert", &cert, "--tls-key", &key];
    run("tls", &options, Some(&certificate), &LONG);
}
