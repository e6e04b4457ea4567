//! The Autobahn fuzzing client against `/echo`: everything but compression, without one failure.
//!
//! The suite is Python 2.7 code; where there is no such interpreter this says so and passes.

mod harness;

use std::io::Write;
use std::path::Path;
use std::process::Command;

use harness::Daemon;

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

/// Runs sections 1 to 7, 9 and 10: 12 and 13 are about compression, which is not offered.
fn check(name: &str, options: &[&str]) {
    let daemon = Daemon::start(&[&ROOM_FOR_THE_SUITE[..], options].concat());
    let temporary = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let tools = temporary
        .parent()
        .expect("tmp is below target")
        .join("tools");
    let run = Command::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/conformance/autobahn.sh"
    ))
    .env("AUTOBAHN_HOME", tools.join("autobahn"))
    .args(["-q", "-t", "300", "-x", "12.*", "-x", "13.*", "-o"])
    .arg(temporary.join("autobahn").join(name))
    .arg(format!("ws://{}/echo", daemon.addr()))
    .output()
    .expect("a shell");
    let said = String::from_utf8_lossy(&run.stdout);
    let complained = String::from_utf8_lossy(&run.stderr);
    if run.status.code() == Some(NO_PYTHON) {
        tell("skipped: no Python 2.7, so the Autobahn suite did not run");
        return;
    }
    assert!(run.status.success(), "{}\n{said}{complained}", run.status);
    tell(&said);
    // The one that asks is left.
    daemon.wait_metric("roomcast_connections", |open| open == 1.0);
    assert_eq!(daemon.closes("internal"), 0.0);
}

/// Prints past the capture of test output, so that a skip is seen.
fn tell(line: &str) {
    let _ = writeln!(std::io::stderr(), "{}", line.trim_end());
}

#[test]
fn autobahn_passes_with_workers() {
    check("workers", &[]);
}

#[test]
fn autobahn_passes_without_workers() {
    check("inline", &["--workers", "0"]);
}
