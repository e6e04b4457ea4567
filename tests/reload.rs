//! What operators ask for by signals: from the first moment on, with files that would block, and
//! while the daemon ends.

mod harness;

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio, id};
use std::time::Instant;

use harness::{Client, DEADLINE, Daemon, SecretFile, Signal, breathe, run_to_exit};

/// A path that is free, and is again when this is dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("roomcast-reload-{}-{name}", id())))
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("UTF-8")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Makes a pipe that nobody writes to.
fn make_pipe(path: &str) {
    let made = Command::new("mkfifo").arg(path).status();
    assert!(made.is_ok_and(|made| made.success()), "mkfifo {path}");
}

#[test]
fn a_file_that_would_block_is_refused_at_the_start() {
    let pipe = Scratch::new("start");
    make_pipe(pipe.path());
    let certificate = harness::Certificate::new("ec");
    let (cert, key) = (certificate.cert(), certificate.key());
    let cases: [&[&str]; 4] = [
        &["--api-key-file", pipe.path()],
        &["--token-secret-file", pipe.path()],
        &["--tls-cert", pipe.path(), "--tls-key", &key],
        &["--tls-key", pipe.path(), "--tls-cert", &cert],
    ];
    for args in cases {
        let (status, text) = run_to_exit(args, &[]);
        assert_eq!(status.code(), Some(2), "{text}");
        for part in [args[0], pipe.path(), "must be a regular file"] {
            assert!(text.contains(part), "{text}");
        }
    }
}

#[test]
fn a_file_that_would_block_ends_no_reload() {
    let file = SecretFile::new("a-key-of-sixteen-bytes");
    let log = Scratch::new("log");
    let admin = ["--admin-listen", "127.0.0.2:0"];
    let files = ["--api-key-file", file.path(), "--log-file", log.path()];
    let daemon = Daemon::start(&[&admin[..], &files].concat());
    fs::remove_file(file.path()).expect("ours");
    make_pipe(file.path());
    let text = || fs::read_to_string(log.path()).unwrap_or_default();
    let told = |part: &str, count: usize| {
        harness::wait_until(part, || text().matches(part).count() == count);
    };
    daemon.signal(Signal::Hup);
    told("reloaded", 1);
    told("must be a regular file", 1);
    told("; the old one stays", 1);
    // Both go on being heard.
    daemon.signal(Signal::Usr1);
    told("status: serving", 1);
    fs::remove_file(file.path()).expect("ours");
    fs::write(file.path(), "another-key-of-sixteen-bytes").expect("ours");
    daemon.signal(Signal::Hup);
    told("reloaded", 2);
    assert_eq!(text().matches("; the old one stays").count(), 1);
}

/// A daemon that has just been started, and may not have come to its `main`.
struct Newborn(Child);

impl Newborn {
    fn start() -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_roomcast"));
        command.args(["--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0"]);
        command.args(["--drain-timeout=0"]);
        let quiet = command.stdin(Stdio::null()).stdout(Stdio::null());
        Self(quiet.stderr(Stdio::piped()).spawn().expect("the daemon"))
    }

    /// Whether SIGHUP is caught while there is one thread only, as long as it has not gone on.
    fn catches_first(&self) -> Option<bool> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id())).ok()?;
        let field = |name| status.lines().find_map(|line| line.strip_prefix(name));
        let caught = u64::from_str_radix(field("SigCgt:")?.trim(), 16).ok()?;
        // SIGHUP is 1, the lowest bit.
        let is_caught = caught & 1 == 1;
        let is_alone = field("Threads:")?.trim() == "1";
        match (is_caught, is_alone) {
            (true, alone) => Some(alone),
            (false, true) => None,
            (false, false) => Some(false),
        }
    }

    fn signal(&self, name: &str) {
        let pid = self.0.id().to_string();
        let sent = Command::new("kill").args([name, &pid]).status();
        assert!(sent.is_ok_and(|sent| sent.success()), "kill {name}");
    }
}

impl Drop for Newborn {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn signals_are_caught_before_anything_else_and_wait_until_they_are_heard() {
    let deadline = Instant::now() + DEADLINE;
    loop {
        assert!(Instant::now() < deadline, "never seen to be caught first");
        let mut daemon = Newborn::start();
        let caught_first = loop {
            if let Some(is_first) = daemon.catches_first() {
                break is_first;
            }
            assert!(Instant::now() < deadline, "never caught");
        };
        daemon.signal("-HUP");
        daemon.signal("-USR1");
        daemon.signal("-TERM");
        let ended = loop {
            if let Some(status) = daemon.0.try_wait().expect("ours") {
                break status;
            }
            assert!(Instant::now() < deadline, "it does not end");
            breathe();
        };
        assert!(ended.success(), "{ended}");
        let mut text = String::new();
        let stderr = daemon.0.stderr.as_mut().expect("piped");
        std::io::Read::read_to_string(stderr, &mut text).expect("UTF-8");
        for number in [1, 10, 15] {
            let words = format!("signal {number} received");
            assert!(text.contains(&words), "{text}");
        }
        // The look may have come too late.
        if caught_first {
            return;
        }
    }
}

#[test]
fn a_reload_while_the_daemon_ends_is_carried_out() {
    let file = SecretFile::new("a-key-of-sixteen-bytes");
    let daemon = Daemon::start(&["--drain-timeout", "1h", "--api-key-file", file.path()]);
    let _members = [(); 2].map(|()| Client::connect(&daemon, "/ws?room=a"));
    daemon.wait_members(2);
    daemon.signal(Signal::Term);
    daemon.wait_log("draining: 2");
    daemon.signal(Signal::Hup);
    daemon.wait_log("reloaded");
}
