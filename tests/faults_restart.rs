//! kill -9 in the middle of a load, and a new daemon in its place: everybody comes back, nobody takes
//! the new numbering for the old one, and what went down with the daemon is told to each who missed it.

mod harness;

use std::net::TcpListener;

use harness::{
    Account, Api, Crowd, DEADLINE, Daemon, Joined, Load, Signal, Start, publish_numbered,
};

const LOAD: &str = "--members 24 --publishers 4 --rooms 4 --rate 50 --cuts 8 --secs 8";

/// Kills the daemon twice under a load of each protocol; `start` makes the one in its place.
fn kill_under_load(start: impl Fn() -> Daemon) -> [Account; 2] {
    let mut daemon = start();
    let by_commands = format!("{LOAD} --protocol centrifugo");
    let loads = [LOAD, &by_commands].map(|load| Load::start(&[&daemon], load));
    for _ in 0..2 {
        // Half of them are enough: the others may be on their way back.
        daemon.wait_metric("roomcast_members", |members| members >= 28.0);
        daemon.signal(Signal::Kill);
        assert!(!daemon.wait_exit().success());
        daemon = start();
    }
    let accounts = loads.map(Load::finish);
    assert!(daemon.runs());
    for account in &accounts {
        // Everybody was sent away, and came back.
        assert!(account.count("resumes") >= 24, "{}", account.0);
    }
    accounts
}

#[test]
fn a_killed_daemon_started_again_on_its_port_gets_everybody_back() {
    for (workers, listen) in [("0", "127.0.0.55:0"), ("2", "127.0.0.56:0")] {
        // An address of its own keeps the port from being taken by another test meanwhile.
        let first = Daemon::start(&["--listen", listen]);
        let listen = first.addr().to_string();
        drop(first);
        kill_under_load(|| Daemon::start(&["--listen", &listen, "--workers", workers]));
    }
}

#[test]
fn behind_a_held_socket_nobody_is_even_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let accounts = kill_under_load(|| {
        let held = listener.try_clone().expect("a free descriptor");
        Start::default().pass(held).start()
    });
    for account in accounts {
        assert!(!account.0.contains("refused"), "{}", account.0);
    }
}

#[test]
fn a_position_from_before_the_kill_is_told_to_be_of_another_numbering() {
    const MEMBERS: usize = 300;
    let mut daemon = Daemon::start(&["--listen", "127.0.0.57:0"]);
    let listen = daemon.addr().to_string();
    let mut crowd = Crowd::join(daemon.addr(), "a", MEMBERS);
    publish_numbered(&mut Api::connect(&daemon), "a", 1..=20);
    // Some are behind; what was acknowledged to the publisher goes down with the daemon.
    crowd.read_some_to(0..MEMBERS / 2, 20, DEADLINE);
    let old = crowd.told().next().expect("a member").epoch.clone();
    crowd.cut(0..MEMBERS);
    daemon.signal(Signal::Kill);
    assert!(!daemon.wait_exit().success());
    let again = Daemon::start(&["--listen", &listen]);
    let mut api = Api::connect(&again);
    // As many as before: by their offsets alone they would pass for the old ones.
    publish_numbered(&mut api, "a", 1..=20);
    crowd.come_back(again.addr(), DEADLINE);
    for told in crowd.told() {
        let Joined {
            epoch,
            recovered,
            lost,
            ..
        } = told;
        assert_ne!(*epoch, old);
        assert!(!recovered, "{told:?}");
        assert_eq!(*lost, -1, "{told:?}");
    }
    publish_numbered(&mut api, "a", 21..=30);
    crowd.read_to(30, DEADLINE);
    assert!(crowd.firsts().all(|first| first == Some(1)));
}
