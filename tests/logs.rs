//! What the log says and where to, what SIGHUP and SIGUSR1 do, and that nobody ever waits for it.

mod harness;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use harness::{
    Client, Daemon, Dial, Frame, SecretFile, Signal, Start, Wire, Witness, linger, pace,
    post_request, signed_token, wait_for, wait_until,
};
use serde_json::json;

const SECRET: &str = "s3cret-of-the-tests-is-32-bytes!";
const OTHER_SECRET: &str = "another-s3cret-of-full-32-bytes!";
const DROPPED: &str = "roomcast_log_lines_dropped_total";

/// A folder that is gone when the test is over.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("roomcast-logs-{}-{count}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).expect("a folder can be made");
        Self(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A daemon whose log goes to `path`.
fn start_with_file(path: &Path, args: &[&str]) -> Daemon {
    let path = path.to_str().expect("UTF-8");
    let places = ["--log-file", path, "--admin-listen", "127.0.0.2:0"];
    Start::default().args(&places).args(args).start()
}

fn text_of(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn wait_text(path: &Path, part: &str) {
    wait_until(&format!("{part:?} in {path:?}"), || {
        text_of(path).contains(part)
    });
}

/// Makes `count` connections, each of which leaves a line of level debug.
fn make_lines(daemon: &Daemon, count: usize) {
    for _ in 0..count {
        Wire::connect(daemon.addr()).reset();
    }
}

/// A connection that breaks the protocol; returns the line about its end.
fn break_a_rule(daemon: &Daemon) -> String {
    let mut client = Client::connect(daemon, "/echo");
    client.send(&Frame::text("x").unmasked());
    client.expect_close(1002, None);
    daemon.expect_closed(client.local_addr())
}

// --- Nobody waits for the log ---------------------------------------------------------------------

#[test]
fn a_pipe_that_nobody_reads_costs_lines_and_not_time() {
    let mut daemon = Daemon::start(&[]);
    let mut witness = Witness::in_room(&daemon, "a");
    daemon.set_log_unread(true);
    // A pipe takes 64 KiB, some 600 lines, and 4096 wait.
    make_lines(&daemon, 6000);
    let dropped = daemon.wait_metric(DROPPED, |dropped| dropped > 100.0);
    let begun = Instant::now();
    for _ in 0..100 {
        witness.assert_served();
    }
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
    // Whoever reads again is told.
    daemon.set_log_unread(false);
    let told = daemon.wait_log("log lines dropped");
    let count = told
        .split(' ')
        .rev()
        .nth(3)
        .and_then(|count| count.parse::<f64>().ok());
    assert!(
        count.is_some_and(|count| count >= dropped),
        "{told}, not {dropped}"
    );
    drop(witness);

    // Nor does the end wait.
    daemon.set_log_unread(true);
    let before = daemon.metric(DROPPED);
    make_lines(&daemon, 6000);
    daemon.wait_metric(DROPPED, |dropped| dropped > before);
    for signal in [Signal::Hup, Signal::Usr1, Signal::Term] {
        daemon.signal(signal);
    }
    let begun = Instant::now();
    assert!(daemon.wait_exit().success());
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
    daemon.set_log_unread(false);
}

#[test]
fn a_full_disk_costs_lines_and_nothing_else() {
    let mut daemon = start_with_file(Path::new("/dev/full"), &[]);
    let mut witness = Witness::in_room(&daemon, "a");
    // Those of the start, at least.
    daemon.wait_metric(DROPPED, |dropped| dropped >= 3.0);
    make_lines(&daemon, 100);
    daemon.wait_metric(DROPPED, |dropped| dropped >= 100.0);
    witness.assert_served();
    daemon.signal(Signal::Hup);
    daemon.signal(Signal::Usr1);
    witness.assert_served();
    drop(witness);
    daemon.signal(Signal::Term);
    assert!(daemon.wait_exit().success());
}

// --- The file -------------------------------------------------------------------------------------

#[test]
fn a_log_that_was_renamed_goes_on_in_a_new_file() {
    let folder = Folder::new();
    let (path, old) = (folder.path("log"), folder.path("log.1"));
    fs::write(&path, "what was there\n").expect("a file can be written");
    let mut daemon = start_with_file(&path, &[]);
    let mut client = Client::connect(&daemon, "/ws?room=a");
    wait_text(&path, "listening on ");
    assert!(
        text_of(&path).starts_with("what was there\n"),
        "it is appended to"
    );
    for round in 0..3 {
        fs::rename(&path, &old).expect("a file can be renamed");
        make_lines(&daemon, 10);
        daemon.wait_closes("reset", f64::from(20 * round + 10));
        assert!(!path.exists(), "nobody has told it yet");
        daemon.signal(Signal::Hup);
        wait_text(&path, "INFO  reloaded\n");
        let before = text_of(&old);
        assert_eq!(before.matches("reason=reset").count(), 10, "{before}");
        assert!(before.ends_with("signal 1 received\n"), "{before}");
        make_lines(&daemon, 10);
        wait_until("ten lines", || {
            text_of(&path).matches("reason=reset").count() == 10
        });
        assert_eq!(text_of(&old), before);
        // The ten of the file that comes next.
        fs::write(&path, "").expect("it is ours");
        daemon.wait_closes("reset", f64::from(20 * (round + 1)));
    }
    client.send_text("as ever");
    assert_eq!(client.recv_text(), "as ever");
    drop(client);
    daemon.signal(Signal::Term);
    assert!(daemon.wait_exit().success());
    assert!(text_of(&path).ends_with(" INFO  stopped\n"));
    assert_eq!(
        daemon.log_lines(),
        Vec::<String>::new(),
        "nothing on standard error"
    );
}

#[test]
fn a_file_that_cannot_be_opened_again_leaves_the_old_one() {
    let folder = Folder::new();
    let (path, old) = (folder.path("log"), folder.path("log.1"));
    let daemon = start_with_file(&path, &[]);
    wait_text(&path, "listening on ");
    fs::rename(&path, &old).expect("a file can be renamed");
    fs::create_dir(&path).expect("a folder can be made");
    daemon.signal(Signal::Hup);
    wait_text(&old, "the log goes on in the old one\n");
    wait_text(&old, " ERROR --log-file is ");
    wait_text(&old, "INFO  reloaded\n");
}

#[test]
fn a_file_that_cannot_be_opened_is_refused_at_start() {
    let args = ["--log-file", "/nowhere/at/all", "--listen", "127.0.0.1:0"];
    let (status, stderr) = harness::run_to_exit(&args, &[]);
    assert_eq!(status.code(), Some(2), "{stderr}");
    let expected =
        "roomcast: --log-file is \"/nowhere/at/all\": must be a file that can be written";
    assert!(stderr.contains(expected), "{stderr}");
}

#[test]
fn what_ends_the_daemon_stands_in_its_file_too() {
    let folder = Folder::new();
    let path = folder.path("log");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let listen = taken.local_addr().expect("a bound listener").to_string();
    let file = path.to_str().expect("UTF-8");
    let args = [
        "--log-file",
        file,
        "--listen",
        &listen,
        "--admin-listen",
        "off",
    ];
    let (status, stderr) = harness::run_to_exit(&args, &[]);
    assert_eq!(status.code(), Some(1), "{stderr}");
    for text in [&stderr, &text_of(&path)] {
        assert!(
            text.contains(&format!("--listen {listen}: cannot listen: ")),
            "{text}"
        );
    }
}

// --- Its lines ------------------------------------------------------------------------------------

#[test]
fn lines_for_the_journal_begin_with_their_priority() {
    let mut daemon = Start::default()
        .args(&["--log-level", "debug"])
        .journal()
        .start();
    let line = break_a_rule(&daemon);
    assert!(line.starts_with("<6>INFO  closed id="), "{line}");
    make_lines(&daemon, 1);
    let line = daemon.wait_log("reason=reset");
    assert!(line.starts_with("<7>DEBUG closed id="), "{line}");
    daemon.signal(Signal::Term);
    assert!(daemon.wait_exit().success());
    for line in daemon.log_lines() {
        let (priority, rest) = line.split_at(3);
        assert!(["<3>", "<4>", "<6>", "<7>"].contains(&priority), "{line}");
        assert!(rest.starts_with(char::is_alphabetic), "no time: {line}");
    }
}

#[test]
fn a_stream_that_is_not_the_journal_gets_times() {
    // As a child of a service has it whose standard error goes elsewhere.
    for stream in ["1:1", "", "nonsense"] {
        let daemon = Daemon::start_env(&[], &[("JOURNAL_STREAM", stream)]);
        let line = daemon.wait_log("listening on ");
        assert!(
            line.starts_with("20") && line.contains("Z INFO  "),
            "{line}"
        );
    }
}

#[test]
fn lines_that_repeat_are_limited_for_each_reason_and_counted() {
    let daemon = Daemon::start(&["--log-level", "info"]);
    let refused = || {
        let dial = Dial::new(daemon.addr(), "/ws?room=a").header("Origin", "https://evil.test");
        assert_eq!(
            dial.try_connect().err().map(|refusal| refusal.status),
            Some(403)
        );
    };
    for _ in 0..60 {
        refused();
    }
    daemon.wait_closes("refused", 60.0);
    // Another reason has a count of its own.
    let line = break_a_rule(&daemon);
    assert!(
        line.contains("INFO  closed ") && line.contains("reason=protocol"),
        "{line}"
    );
    // Not before the time is over.
    linger(Duration::from_secs(3));
    let is_told = |line: &String| line.contains(" more in the last ");
    assert!(!daemon.log_lines().iter().any(is_told));
    let told = daemon.wait_log(" more in the last 10 s)");
    assert!(
        told.ends_with("INFO  closed reason=refused (50 more in the last 10 s)"),
        "{told}"
    );
    let lines = daemon.log_lines();
    let about = lines
        .iter()
        .filter(|line| line.contains("reason=refused code="));
    assert_eq!(about.count(), 10);
    // The next window.
    refused();
    let lines = || {
        let lines = daemon.log_lines();
        lines
            .iter()
            .filter(|line| line.contains("reason=refused code="))
            .count()
    };
    wait_until("one line more", || lines() == 11);
}

#[test]
fn with_level_debug_every_end_has_its_line() {
    let daemon = Daemon::start(&[]);
    let refused = || {
        let dial = Dial::new(daemon.addr(), "/ws?room=a").header("Origin", "https://evil.test");
        assert_eq!(
            dial.try_connect().err().map(|refusal| refusal.status),
            Some(403)
        );
    };
    for _ in 0..30 {
        refused();
    }
    let count = |level: &str| {
        let lines = daemon.log_lines();
        let about = |line: &&String| line.contains("reason=refused code=") && line.contains(level);
        lines.iter().filter(about).count()
    };
    wait_until("thirty lines", || count("") == 30);
    assert_eq!((count(" INFO "), count(" DEBUG ")), (10, 20));
}

#[test]
fn levels_are_chosen_by_option_and_by_filter() {
    for (level, filter, has_info, has_debug) in [
        ("debug", "", true, true),
        ("info", "", true, false),
        ("info", "debug", true, true),
        ("debug", "warn,roomcast::net=debug", false, true),
    ] {
        let folder = Folder::new();
        let path = folder.path("log");
        let file = path.to_str().expect("UTF-8");
        let args = [
            "--log-file",
            file,
            "--admin-listen",
            "127.0.0.2:0",
            "--log-level",
            level,
        ];
        let mut daemon = Start::default().args(&args).env("RUST_LOG", filter).start();
        make_lines(&daemon, 1);
        daemon.wait_closes("reset", 1.0);
        daemon.signal(Signal::Term);
        assert!(daemon.wait_exit().success());
        let text = text_of(&path);
        let found = (text.contains(" starts\n"), text.contains("reason=reset"));
        assert_eq!(found, (has_info, has_debug), "{level} {filter}: {text}");
    }
}

// --- Signals --------------------------------------------------------------------------------------

/// The status of an upgrade with this token.
fn status_of(daemon: &Daemon, token: &str) -> u16 {
    let dial = Dial::new(daemon.addr(), &format!("/ws?room=a&token={token}"));
    dial.try_connect()
        .map_or_else(|refusal| refusal.status, |_| 101)
}

/// Signals and waits until the daemon has reloaded `times` times in all.
fn reload(daemon: &Daemon, times: usize) {
    daemon.signal(Signal::Hup);
    wait_until("the files are read", || {
        let lines = daemon.log_lines();
        lines
            .iter()
            .filter(|line| line.ends_with(" INFO  reloaded"))
            .count()
            == times
    });
}

#[test]
fn a_new_token_secret_is_for_those_who_come_from_now_on() {
    let file = SecretFile::new(SECRET);
    let daemon = Daemon::start(&["--token-secret-file", file.path()]);
    let [old, new] =
        [SECRET, OTHER_SECRET].map(|secret| signed_token(secret, &json!({"sub": "al"})));
    let mut member = Client::connect(&daemon, &format!("/ws?room=a&token={old}"));
    assert_eq!(
        (status_of(&daemon, &old), status_of(&daemon, &new)),
        (101, 401)
    );

    fs::write(file.path(), OTHER_SECRET).expect("it is ours");
    assert_eq!(status_of(&daemon, &old), 101, "nobody has told it yet");
    reload(&daemon, 1);
    assert_eq!(
        (status_of(&daemon, &old), status_of(&daemon, &new)),
        (401, 101)
    );
    member.send_text("as ever");
    assert_eq!(member.recv_text(), "as ever");

    for (broken, rule) in [(Some("short"), "at least 32 bytes"), (None, "can be read")] {
        let times = if broken.is_some() { 2 } else { 3 };
        match broken {
            Some(broken) => fs::write(file.path(), broken).expect("it is ours"),
            None => fs::remove_file(file.path()).expect("it is ours"),
        }
        reload(&daemon, times);
        let line = daemon.wait_log_line(rule, |line| line.contains(rule));
        assert!(line.contains(" ERROR --token-secret-file is "), "{line}");
        assert!(line.ends_with("; the old one stays"), "{line}");
        assert_eq!(
            (status_of(&daemon, &old), status_of(&daemon, &new)),
            (401, 101)
        );
    }
    for line in daemon.log_lines() {
        assert!(!line.contains("s3cret") && !line.contains(&new), "{line}");
    }
}

#[test]
fn a_new_api_key_is_for_the_next_call() {
    let (old, new) = ("the-first-key-16", "the-second-key-16");
    let file = SecretFile::new(old);
    // The other file is broken by then; each is read by itself.
    let secret = SecretFile::new(SECRET);
    let files = [
        "--api-key-file",
        file.path(),
        "--token-secret-file",
        secret.path(),
    ];
    let daemon = Daemon::start(&files);
    let mut wire = Wire::connect(daemon.admin());
    let mut status_of = |key: &str| {
        wire.send(post_request(
            daemon.admin(),
            "info",
            &[("X-API-Key", key)],
            "{}",
        ));
        let response = wire.response();
        if response.header("connection") == Some("close") {
            wire = Wire::connect(daemon.admin());
        }
        response.status
    };
    assert_eq!((status_of(old), status_of(new)), (200, 401));
    fs::write(file.path(), new).expect("it is ours");
    fs::write(secret.path(), "").expect("it is ours");
    reload(&daemon, 1);
    assert_eq!((status_of(old), status_of(new)), (401, 200));
    let token = signed_token(SECRET, &json!({"sub": "al"}));
    let target = format!("/ws?room=a&token={token}");
    drop(Client::connect(&daemon, &target));
    fs::write(file.path(), "two words in it..").expect("it is ours");
    reload(&daemon, 2);
    assert_eq!((status_of(old), status_of(new)), (401, 200));
}

#[test]
fn a_reload_without_files_changes_nothing() {
    let daemon = Daemon::start(&[]);
    let mut witness = Witness::in_room(&daemon, "a");
    for times in 1..=3 {
        reload(&daemon, times);
        witness.assert_served();
    }
}

#[test]
fn usr1_says_in_one_line_how_things_stand() {
    let daemon = Daemon::start(&[]);
    let members: Vec<Client> = (0..3)
        .map(|_| Client::connect(&daemon, "/ws?room=a&user=al"))
        .collect();
    daemon.wait_members(6);
    daemon.signal(Signal::Usr1);
    let line = daemon.wait_log("status: ");
    for part in [
        "INFO  status: serving ",
        " websockets=3 ",
        " users=1 ",
        " members=6 ",
        " rooms=2 ",
    ] {
        assert!(line.contains(part), "{part:?}: {line}");
    }
    drop(members);
    let lines = || {
        let lines = daemon.log_lines();
        lines
            .iter()
            .filter(|line| line.contains("status: "))
            .count()
    };
    assert_eq!(lines(), 1);
    daemon.signal(Signal::Usr1);
    wait_for("another line", || (lines() == 2).then_some(()));
}

#[test]
fn a_daemon_at_its_limit_of_files_says_so_once() {
    let daemon = Daemon::start(&[]);
    let idle = daemon.open_files();
    daemon.leave_open_files(3);
    let mut held: Vec<Wire> = (0..10).map(|_| Wire::connect(daemon.addr())).collect();
    wait_until("no file left", || daemon.open_files() == idle + 3);
    // Each that goes lets in the next, and the one behind that finds no file again.
    for _ in 0..100 {
        drop(held.remove(0));
        held.push(Wire::connect(daemon.addr()));
        pace(Duration::from_millis(5));
    }
    let count = |part: &str| {
        let lines = daemon.log_lines();
        lines.iter().filter(|line| line.contains(part)).count()
    };
    assert_eq!(count("accepting pauses: "), 1);
    assert_eq!(count("accepting goes on"), 0);
    daemon.leave_open_files(100);
    drop(held);
    let _member = Wire::connect(daemon.addr());
    daemon.wait_log("accepting goes on");
    assert_eq!(
        (count("accepting pauses: "), count("accepting goes on")),
        (1, 1)
    );
    assert!(daemon.metric("roomcast_accept_pauses_total") > 5.0);
}
