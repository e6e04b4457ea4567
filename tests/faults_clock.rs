//! The system's clock is set, forward and back, under a daemon that runs: with libfaketime, whose file
//! says by how much, and which leaves the monotonic clock alone as the kernel does.

mod harness;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use harness::{
    Api, Client, Crowd, DEADLINE, Daemon, Dial, Load, SecretFile, Start, history, json_member,
    next, publication, publish_numbered, signed_token,
};
use serde_json::json;

const HOUR_S: i64 = 3600;
const DAY_S: i64 = 24 * HOUR_S;

/// By how much the clock of a daemon is wrong.
struct FakeClock {
    file: PathBuf,
}

impl FakeClock {
    /// It is right at first.
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("roomcast-clock-{}-{count}", std::process::id());
        let clock = Self {
            file: std::env::temp_dir().join(name),
        };
        clock.set(0);
        clock
    }

    fn set(&self, offset_s: i64) {
        let whole = self.file.with_extension("new");
        std::fs::write(&whole, format!("{offset_s:+}\n")).expect("a file can be written");
        std::fs::rename(&whole, &self.file).expect("it is ours");
    }

    fn start(&self, args: &[&str]) -> Daemon {
        let start = Start::default().args(args);
        let start = start.env("LD_PRELOAD", &library());
        let start = start.env(
            "FAKETIME_TIMESTAMP_FILE",
            self.file.to_str().expect("UTF-8"),
        );
        let start = start.env("FAKETIME_NO_CACHE", "1");
        let start = start.env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        start.start()
    }
}

impl Drop for FakeClock {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.file);
    }
}

/// Where the distribution has it: in the folder of the machine's architecture.
fn library() -> String {
    let name = "faketime/libfaketimeMT.so.1";
    let arch = format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    let found = [&*arch, "/usr/lib", "/usr/lib64"]
        .into_iter()
        .map(|folder| Path::new(folder).join(name))
        .find(|path| path.exists());
    let found = found.expect("libfaketime, which tests/run installs");
    found.to_string_lossy().into_owned()
}

fn unix_s() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    i64::try_from(since.expect("after 1970").as_secs()).expect("it fits")
}

#[test]
fn a_load_does_not_notice_that_the_clock_is_set() {
    const LOAD: &str = "--members 16 --publishers 4 --rooms 4 --rate 40 --cuts 8 --secs 5";
    const PING_INTERVAL: Duration = Duration::from_millis(400);
    let clock = FakeClock::new();
    let daemon = clock.start(&[
        "--ping-interval",
        "400ms",
        "--pong-timeout",
        "3s",
        "--write-timeout",
        "1s",
        "--history-ttl",
        "1m",
    ]);
    let begun = Instant::now();
    let mut crowd = Crowd::join(daemon.addr(), "a", 100);
    let by_commands = format!("{LOAD} --protocol centrifugo");
    let loads = [LOAD, &by_commands].map(|load| Load::start(&[&daemon], load));
    let mut api = Api::connect(&daemon);
    let offsets_s = [HOUR_S, -DAY_S, 30 * DAY_S, -HOUR_S, 0];
    for (step, offset_s) in (0_u64..).zip(offsets_s) {
        clock.set(offset_s);
        let before: Vec<u64> = crowd.pings().collect();
        publish_numbered(&mut api, "a", step * 10 + 1..=step * 10 + 10);
        // Everybody is pinged as before, whatever the time is.
        crowd.read_for(Duration::from_millis(500));
        crowd.read_pings(&before, 2, DEADLINE);
    }
    crowd.read_to(50, DEADLINE);
    // The first comes within an interval, and no more of them than intervals.
    let intervals = begun.elapsed().div_duration_f64(PING_INTERVAL);
    for pings in crowd.pings() {
        assert!(
            pings as f64 <= intervals + 1.0,
            "{pings} pings in {intervals} intervals"
        );
    }
    assert_eq!(crowd.closes(), []);
    for account in loads.map(Load::finish) {
        assert_eq!(account.count("lost and told"), 0, "{}", account.0);
        assert_eq!(account.count("closed by server"), 0, "{}", account.0);
    }
}

#[test]
fn spans_are_not_measured_by_a_clock_that_is_set() {
    let clock = FakeClock::new();
    let daemon = clock.start(&["--history-ttl", "1h"]);
    let mut api = Api::connect(&daemon);
    let mut member = json_member(&daemon, "room=a");
    let once = json!({ "channel": "a", "data": "x", "idempotency_key": "k" });
    let answer = api.result("publish", &once);
    let first = publication(&mut member);
    let offsets_s = [2 * HOUR_S, -DAY_S, 365 * DAY_S, 0];
    for (offset, offset_s) in (2_u64..).zip(offsets_s) {
        clock.set(offset_s);
        // The key is known for five minutes, and the history is kept for an hour.
        assert_eq!(api.result("publish", &once), answer, "{offset_s}");
        assert_eq!(api.publish("a", &json!("y")), offset);
        let kept = history(&mut api, &json!({ "channel": "a", "limit": -1 }));
        assert_eq!(kept, ((1..=offset).collect(), offset), "{offset_s}");
        // What is a time of day follows the clock.
        let publication = publication(&mut member);
        let unix_ms = publication["time"].as_i64().expect("a time");
        let off_s = unix_ms / 1000 - unix_s() - offset_s;
        assert!(off_s.abs() <= 5, "off by {off_s} s at {offset_s}");
    }
    // A position is exact whatever the clock was. A time is as good as the clock: what stands behind the
    // newest publication that is not of later.
    let epoch = answer["epoch"].as_str().expect("an epoch");
    let time = &first["time"];
    for (since, from) in [(format!("{epoch}.1"), 2), (time.to_string(), 4)] {
        let mut back = Client::connect(&daemon, &format!("/ws?room=a&format=json&since={since}"));
        let joined = &back.recv_json()["joined"];
        assert_eq!(joined["recovered"], true, "{since}: {joined}");
        for offset in from..=5 {
            assert_eq!(next(&mut back), (offset, json!("y")), "{since}");
        }
    }
}

#[test]
fn tokens_are_judged_by_the_clock_and_connections_by_what_was_left() {
    const SECRET: &str = "s3cret-of-the-tests-is-32-bytes!";
    let clock = FakeClock::new();
    let secret = SecretFile::new(SECRET);
    let daemon = clock.start(&["--token-secret-file", secret.path()]);
    let token = |exp: i64| signed_token(SECRET, &json!({ "sub": "alice", "exp": exp }));
    let dial = |token: &str| Dial::new(daemon.addr(), &format!("/ws?room=a&token={token}"));
    let long = token(unix_s() + HOUR_S / 2);
    let mut member = dial(&long).connect();
    let exp = unix_s() + 5;
    let mut brief = dial(&token(exp)).connect();
    clock.set(HOUR_S);
    let refusal = dial(&long).try_connect().err().expect("it has run out");
    assert_eq!(refusal.status, 401);
    clock.set(-DAY_S);
    let mut other = dial(&long).connect();
    // It lasts as long as it said by the clock that was right when it came: neither was it over an hour
    // later, nor does it go on for a day.
    brief.expect_close(3005, None);
    assert!(unix_s() >= exp, "{} s early", exp - unix_s());
    other.send_text("yesterday");
    assert_eq!(member.recv_text(), "yesterday");
    clock.set(0);
    daemon.wait_members(4);
    other.send_text("still here");
    assert_eq!(member.recv_text(), "still here");
    assert_eq!(daemon.closes("connection_expired"), 1.0);
}
