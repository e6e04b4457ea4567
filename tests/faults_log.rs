//! The log has nowhere to go, in the middle of a load: lines are lost and counted, and nothing else.

mod harness;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use harness::{Daemon, Load, Signal, Start, Trap, Wire, wait_until};

/// Members that are cut come back, and each end is a line.
const LOAD: &str = "--members 16 --publishers 4 --rooms 4 --rate 40 --cuts 20 --secs 3";

const DROPPED: &str = "roomcast_log_lines_dropped_total";

/// Where a daemon without standard error is looked for.
const ADMIN: [&str; 2] = ["--admin-listen", "127.0.0.2:0"];

/// Has `fail` happen in the middle of a load of each protocol; then the daemon ends in good order.
fn under_load(mut daemon: Daemon, fail: impl FnOnce(&Daemon)) {
    let by_commands = format!("{LOAD} --protocol centrifugo");
    let loads = [LOAD, &by_commands].map(|load| Load::start(&[&daemon], load));
    fail(&daemon);
    for account in loads.map(Load::finish) {
        assert_eq!(account.count("lost and told"), 0, "{}", account.0);
        assert_eq!(account.count("closed by server"), 0, "{}", account.0);
    }
    daemon.signal(Signal::Term);
    assert!(daemon.wait_exit().success());
}

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("roomcast-full-{}-{count}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir(&folder).expect("a folder can be made");
        Self(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Makes connections that leave a line each.
fn make_lines(daemon: &Daemon, count: usize) {
    for _ in 0..count {
        Wire::connect(daemon.addr()).reset();
    }
}

/// A file of a log, as far as it is written.
struct LogFile(PathBuf);

impl LogFile {
    fn text(&self) -> String {
        fs::read_to_string(&self.0).unwrap_or_default()
    }

    fn bytes(&self) -> u64 {
        fs::metadata(&self.0).map_or(0, |file| file.len())
    }

    /// Whole lines about the ends of connections.
    fn closed(&self) -> usize {
        let text = self.text();
        text.lines().filter(|line| is_closed(line)).count()
    }

    /// How many lines each word of what was lost speaks of.
    fn told(&self) -> Vec<f64> {
        let text = self.text();
        let told = text.lines().filter_map(|line| {
            let (before, _) = line.split_once(" log lines dropped")?;
            before.rsplit(' ').next()?.parse().ok()
        });
        told.collect()
    }
}

/// Whether it is such a line to its end.
fn is_closed(line: &str) -> bool {
    line.contains(" closed id=") && line.contains(" skipped=")
}

/// Whether it has a time and a level, as every line has at its beginning.
fn is_begun(line: &str) -> bool {
    let mut words = line.split(' ');
    let (time, level) = (words.next(), words.next());
    time.is_some_and(|time| time.len() == 24 && time.ends_with('Z'))
        && level.is_some_and(|level| ["ERROR", "WARN", "INFO", "DEBUG"].contains(&level))
}

/// Connections that have ended, for any reason.
fn closes(daemon: &Daemon) -> f64 {
    let text = daemon.metrics();
    let rows = text
        .lines()
        .filter(|row| row.starts_with("roomcast_closes_total{"));
    let counts = rows.filter_map(|row| row.rsplit_once(' ')?.1.parse::<f64>().ok());
    counts.sum()
}

#[test]
fn a_disk_that_is_full_and_has_room_again() {
    const ROUNDS: usize = 2;
    let trap = Trap::new("full_disk.c");
    let log = LogFile(trap.path("log"));
    let path = log.0.to_str().expect("UTF-8");
    let start = Start::default().args(&["--log-file", path]).args(&ADMIN);
    let daemon = trap.load(start).env("FAILING_FILE", path).start();
    under_load(daemon, |daemon| {
        for round in 1..=ROUNDS {
            let before = daemon.metric(DROPPED);
            let closed = log.closed();
            wait_until("lines", || {
                make_lines(daemon, 1);
                log.closed() >= closed + 20
            });
            assert_eq!(daemon.metric(DROPPED), before);
            trap.spring();
            make_lines(daemon, 1);
            daemon.wait_metric(DROPPED, |dropped| dropped > before);
            let bytes = log.bytes();
            make_lines(daemon, 50);
            daemon.wait_metric(DROPPED, |dropped| dropped > before + 50.0);
            assert_eq!(log.bytes(), bytes, "there was no room");
            trap.release();
            wait_until("a word of what was lost", || {
                make_lines(daemon, 1);
                log.told().len() == round
            });
            assert_eq!(log.told().iter().sum::<f64>(), daemon.metric(DROPPED));
        }
        // Each end is in the file, or among what was lost.
        let (ended, lost) = (closes(daemon), daemon.metric(DROPPED));
        wait_until("every other line", || log.closed() as f64 >= ended - lost);
        let closed = log.closed() as f64;
        assert!(
            closed + 50.0 < closes(daemon),
            "lines that were lost are there"
        );
    });
    let text = log.text();
    assert!(text.ends_with("stopped\n"), "{text}");
    // Of each line that found too little room the beginning is there, on a line of its own. All others
    // are whole.
    let lines: Vec<&str> = text.lines().collect();
    let is_torn = |place: usize| {
        let next = lines.get(place + 1);
        next.is_some_and(|next| next.contains(" log lines dropped"))
    };
    for (place, line) in lines.iter().enumerate() {
        assert!(is_begun(line) || is_torn(place), "{line}");
        if line.contains(" closed id=") {
            assert_eq!(is_closed(line), !is_torn(place), "{line}");
        }
    }
    assert_eq!(
        (0..lines.len()).filter(|place| is_torn(*place)).count(),
        ROUNDS
    );
}

#[test]
fn a_full_disk_is_left_for_another_file() {
    let folder = Folder::new();
    let [path, first, second] = ["log", "first", "second"].map(|name| folder.0.join(name));
    let point_to = |target: &Path| {
        let link = folder.0.join("new");
        symlink(target, &link).expect("a folder of ours");
        fs::rename(&link, &path).expect("a folder of ours");
    };
    point_to(&first);
    let file = ["--log-file", path.to_str().expect("UTF-8")];
    let daemon = Start::default().args(&file).args(&ADMIN).start();
    let [first, second] = [first, second].map(LogFile);
    under_load(daemon, |daemon| {
        wait_until("lines", || first.closed() > 0);
        assert_eq!(daemon.metric(DROPPED), 0.0);
        // Every line of this file ends with "no space left on device".
        point_to(Path::new("/dev/full"));
        daemon.signal(Signal::Hup);
        make_lines(daemon, 50);
        daemon.wait_metric(DROPPED, |dropped| dropped >= 50.0);
        point_to(&second.0);
        daemon.signal(Signal::Hup);
        wait_until("a word of what was lost", || {
            make_lines(daemon, 1);
            !second.told().is_empty()
        });
        let dropped = daemon.metric(DROPPED);
        make_lines(daemon, 50);
        wait_until("lines", || second.closed() >= 50);
        assert_eq!(second.told(), [dropped]);
        assert_eq!(daemon.metric(DROPPED), dropped);
    });
    let text = second.text();
    assert!(text.ends_with("stopped\n"), "{text}");
}

#[test]
fn a_standard_error_that_is_closed() {
    let daemon = Start::default().args(&ADMIN).no_stderr().start();
    // What is written to it reaches nobody, a socket least of all.
    let stderr = fs::read_link(format!("/proc/{}/fd/2", daemon.pid()));
    assert_eq!(stderr.expect("something"), PathBuf::from("/dev/null"));
    under_load(daemon, |daemon| make_lines(daemon, 100));
}

#[test]
fn a_standard_error_whose_reader_has_gone() {
    let daemon = Daemon::start(&[]);
    under_load(daemon, |daemon| {
        daemon.hang_up_log();
        make_lines(daemon, 100);
        daemon.wait_metric(DROPPED, |dropped| dropped >= 50.0);
    });
}
