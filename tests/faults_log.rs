//! The log has nowhere to go, in the middle of a load: lines are lost and counted, and nothing else.

mod harness;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use harness::{Daemon, Load, Signal, Start, Wire, wait_until};

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

/// Makes connections that leave a line each.
fn make_lines(daemon: &Daemon, count: usize) {
    for _ in 0..count {
        Wire::connect(daemon.addr()).reset();
    }
}

#[test]
fn a_disk_that_is_full_and_has_room_again() {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("roomcast-full-{}-{count}", std::process::id());
    let folder = std::env::temp_dir().join(name);
    fs::create_dir(&folder).expect("a folder can be made");
    let [path, first, second] = ["log", "first", "second"].map(|name| folder.join(name));
    let point_to = |target: PathBuf| {
        let link = folder.join("new");
        symlink(target, &link).expect("a folder of ours");
        fs::rename(&link, &path).expect("a folder of ours");
    };
    let text_of = |path: &PathBuf| fs::read_to_string(path).unwrap_or_default();
    point_to(first.clone());
    let file = ["--log-file", path.to_str().expect("UTF-8")];
    let daemon = Start::default().args(&file).args(&ADMIN).start();
    under_load(daemon, |daemon| {
        wait_until("lines", || text_of(&first).contains("closed id="));
        assert_eq!(daemon.metric(DROPPED), 0.0);
        // Every line of this file ends with "no space left on device".
        point_to("/dev/full".into());
        daemon.signal(Signal::Hup);
        make_lines(daemon, 50);
        daemon.wait_metric(DROPPED, |dropped| dropped >= 50.0);
        point_to(second.clone());
        daemon.signal(Signal::Hup);
        wait_until("a word of what was lost", || {
            text_of(&second).contains("log lines dropped")
        });
        let dropped = daemon.metric(DROPPED);
        make_lines(daemon, 50);
        wait_until("lines", || {
            text_of(&second).matches("closed id=").count() >= 50
        });
        assert_eq!(daemon.metric(DROPPED), dropped);
    });
    assert!(
        text_of(&second).ends_with("stopped\n"),
        "{}",
        text_of(&second)
    );
    let _ = fs::remove_dir_all(&folder);
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
