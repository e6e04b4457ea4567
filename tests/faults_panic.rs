//! A thread of the daemon that panics: the daemon ends at once, with an error that says so and a
//! status that is not 0. It is never half alive, and whoever comes back to the next one is told.
//!
//! The panic is a real one of an unchanged daemon, so that no way to make one is in the product: a
//! library that is loaded before libc (`faults/failing_clock.c`) has a clock fail in one thread, and the
//! standard library panics where it reads it.

mod harness;

use harness::{
    Client, Daemon, Frame, Load, Redis, RedisRelay, Signal, Start, Trap, json_member, next,
};

/// A clock that fails.
fn failing_clock() -> Trap {
    Trap::new("failing_clock.c")
}

/// A daemon whose thread of that name panics when it reads the clock after the trap was sprung.
fn start(trap: &Trap, thread: &str, args: &[&str]) -> Daemon {
    let start = trap.load(Start::default().args(args));
    start.env("FAILING_THREAD", thread).start()
}

/// Asserts that a daemon has ended as one whose `thread` has panicked, and says so.
fn assert_ended(daemon: &mut Daemon, thread: &str, error: &str) {
    let status = daemon.wait_exit();
    assert_eq!(status.code(), Some(1), "{thread}: {status}");
    let lines = daemon.log_lines();
    let has = |part: &str| lines.iter().any(|line| line.contains(part));
    assert!(has("ERROR panicked at "), "{thread}: {lines:#?}");
    assert!(has(&format!("roomcast: {error}")), "{thread}: {lines:#?}");
    assert!(!has("INFO  stopped"), "{thread}: {lines:#?}");
}

const DIED: &str = "a thread that cannot be done without has died";

/// Members whose rooms are of every one of up to three workers.
fn members_at_all_workers(daemon: &Daemon) -> Vec<Client> {
    let members = (0..8).map(|room| Client::connect(daemon, &format!("/ws?room=r{room}")));
    let members: Vec<Client> = members.collect();
    daemon.wait_metric("roomcast_members", |now| now >= 8.0);
    members
}

#[test]
fn a_thread_that_panics_ends_the_daemon_with_an_error() {
    for (thread, workers, error) in [
        ("worker-0", "2", DIED),
        ("worker-1", "2", DIED),
        ("worker-2", "3", DIED),
        ("loop", "2", "the loop has panicked"),
        ("loop", "0", "the loop has panicked"),
    ] {
        let trap = failing_clock();
        let mut daemon = start(&trap, thread, &["--workers", workers]);
        let mut members = members_at_all_workers(&daemon);
        trap.spring();
        for member in &mut members {
            // It may have ended already.
            let _ = member.wire.try_send(Frame::text("x").bytes());
        }
        assert_ended(&mut daemon, thread, error);
        for mut member in members {
            member.wire.expect_gone();
        }
    }
}

#[test]
fn a_thread_that_hears_operators_is_not_done_without() {
    for (thread, signal) in [
        ("signals", Signal::Usr1),
        ("chores", Signal::Usr1),
        ("chores", Signal::Hup),
    ] {
        let trap = failing_clock();
        let mut daemon = start(&trap, thread, &[]);
        let mut member = Client::connect(&daemon, "/ws?room=a");
        trap.spring();
        daemon.signal(signal);
        assert_ended(&mut daemon, thread, DIED);
        member.wire.expect_gone();
    }
}

#[test]
fn a_thread_of_the_broker_that_panics_ends_the_node() {
    let redis = Redis::start();
    for thread in ["redis-feed", "redis-exec"] {
        let trap = failing_clock();
        let url = redis.url();
        let mut daemon = start(&trap, thread, &["--redis", &url, "--node-name", thread]);
        let mut member = json_member(&daemon, "room=a");
        trap.spring();
        // It may have ended already.
        let _ = member.wire.try_send(Frame::text("x").bytes());
        assert_ended(&mut daemon, thread, DIED);
        member.wire.expect_gone();
    }
}

/// What the thread does is done again by the next one.
#[test]
fn an_attempt_to_reach_redis_that_panics_is_one_that_failed() {
    let redis = Redis::start();
    let relay = RedisRelay::to(&redis);
    let trap = failing_clock();
    let url = relay.url();
    let daemon = start(&trap, "redis-dial", &["--redis", &url, "--node-name", "n1"]);
    let mut member = json_member(&daemon, "room=a");
    trap.spring();
    relay.cut();
    daemon.wait_log("ERROR panicked at ");
    // No other thread of that name panics.
    trap.release();
    member.send_text("x");
    assert_eq!(next(&mut member), (1, "x".into()));
}

/// The members of a daemon that panicked, and of the next one in its place, have a ledger that balances.
#[test]
fn a_load_outlives_a_worker_that_panics() {
    const LOAD: &str = "--members 12 --publishers 3 --rooms 3 --rate 40 --cuts 6 --secs 8";
    let trap = failing_clock();
    let mut daemon = start(
        &trap,
        "worker-1",
        &["--workers", "2", "--listen", "127.0.0.54:0"],
    );
    let listen = daemon.addr().to_string();
    let loads = [LOAD.to_owned(), format!("{LOAD} --protocol centrifugo")];
    let loads = loads.map(|load| Load::start(&[&daemon], &load));
    // The rooms of the loads may all be of the other worker.
    let mut members = members_at_all_workers(&daemon);
    trap.spring();
    for member in &mut members {
        let _ = member.wire.try_send(Frame::text("x").bytes());
    }
    assert_ended(&mut daemon, "worker-1", DIED);
    let again = Start::default().args(&["--listen", &listen]).start();
    for load in loads {
        load.finish();
    }
    drop(again);
}
