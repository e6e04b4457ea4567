//! Thousands at once: who connects and resets, and who comes back with a position. Members that are there
//! are served meanwhile, and the books of each balance.

mod harness;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use harness::{
    Api, Crowd, DEADLINE, Daemon, Frame, Wire, pace, publish_numbered, upgrade_request, wait_until,
};

const MIB: u64 = 1 << 20;

/// Pause between two publications to those who are there.
const PACE: Duration = Duration::from_millis(10);

/// Members that are there all the time.
const WITNESSES: usize = 100;

/// Publishes to `room` until it is over; returns how many those were. Each is acknowledged.
fn publish_until(is_over: &AtomicBool, api: &mut Api, room: &str) -> u64 {
    let mut offset = 0;
    while !is_over.load(Ordering::Relaxed) {
        offset += 1;
        publish_numbered(api, room, offset..=offset);
        pace(PACE);
    }
    offset
}

/// Runs `storm` while `witnesses` are published to, and asserts that each got everything.
fn while_others_are_served(
    daemon: &Daemon,
    witnesses: &mut Crowd,
    room: &str,
    storm: impl FnOnce(),
) {
    let is_over = AtomicBool::new(false);
    let mut api = Api::connect(daemon);
    let published = thread::scope(|scope| {
        let publisher = scope.spawn(|| publish_until(&is_over, &mut api, room));
        let reader = scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                witnesses.read_for(Duration::from_millis(20));
            }
        });
        // Also where it panics, so that the others end.
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(storm));
        is_over.store(true, Ordering::Relaxed);
        reader.join().expect("books that balance");
        let published = publisher.join().expect("acknowledged publications");
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
        published
    });
    assert!(published > 10, "{published}");
    witnesses.read_to(published, 3 * DEADLINE);
    assert_eq!(witnesses.closes(), []);
}

// --- Connects and resets --------------------------------------------------------------------------

/// One connection from 127.0.0.`host`, that gets as far as `number` says and is reset.
fn connect_and_reset(daemon: &Daemon, host: u8, number: usize) {
    let source = IpAddr::V4(Ipv4Addr::new(127, 0, 0, host));
    let mut wire = Wire::connect_from(daemon.addr(), source, None);
    let request = upgrade_request(daemon.addr(), "/ws?room=storm", &[]);
    match number % 5 {
        0 => {}
        1 => wire.send(&request[..request.len() / 2]),
        2 => wire.send(&request),
        3 => {
            wire.send(&request);
            wire.recv_some();
        }
        _ => {
            wire.send(&request);
            wire.recv_some();
            let frame = Frame::text(&"x".repeat(5000)).bytes();
            wire.send(&frame[..frame.len() / 2]);
        }
    }
    wire.reset();
}

#[test]
fn twenty_thousand_connects_and_resets_leave_nothing_behind() {
    const SOURCES: u8 = 8;
    const CONNECTIONS: usize = 20_000;
    let daemon = Daemon::start(&["--log-level", "info", "--ping-interval", "off"]);
    let idle_files = daemon.open_files();
    let mut witnesses = Crowd::join(daemon.addr(), "witnesses", WITNESSES);
    let storm = |connections: usize| {
        thread::scope(|scope| {
            for host in 0..SOURCES {
                let (daemon, rounds) = (&daemon, connections / usize::from(SOURCES));
                scope.spawn(move || {
                    (0..rounds).for_each(|round| connect_and_reset(daemon, 100 + host, round));
                });
            }
        });
    };
    let settle = || {
        daemon.wait_metric("roomcast_members", |now| now == WITNESSES as f64);
        // The one more asks.
        let connections = (WITNESSES + 1) as f64;
        daemon.wait_metric("roomcast_connections", |now| now <= connections);
        daemon.wait_metric("roomcast_rooms", |now| now == 1.0);
        let files = idle_files + WITNESSES;
        wait_until("closed files", || daemon.open_files() <= files);
    };
    // The first pay for what the daemon keeps for reuse.
    storm(CONNECTIONS / 4);
    settle();
    let before = daemon.rss_bytes();
    while_others_are_served(&daemon, &mut witnesses, "witnesses", || storm(CONNECTIONS));
    settle();
    daemon.wait_rss_at_most(before + 4 * MIB);
}

// --- All come back at once ------------------------------------------------------------------------

/// How many come back, unless `ROOMCAST_STORM_MEMBERS` says otherwise. Where a process may not have as many
/// files and a third more, they are fewer.
fn members_of_the_storm() -> usize {
    const MEMBERS: usize = 15_000;
    if let Ok(members) = std::env::var("ROOMCAST_STORM_MEMBERS") {
        return members.parse().expect("a number");
    }
    let files = rlimit::increase_nofile_limit(u64::MAX).expect("limits can be read");
    let members = usize::try_from(files / 4 * 3).map_or(MEMBERS, |members| members.min(MEMBERS));
    if members < MEMBERS {
        eprintln!("{members} members instead of {MEMBERS}: a process may have {files} files");
    }
    members
}

#[test]
fn all_who_come_back_at_once_get_what_they_missed() {
    let members = members_of_the_storm();
    let patience =
        Duration::from_secs(20) + Duration::from_millis(6) * u32::try_from(members).expect("few");
    // Those who are not read for a while must not be given up for it.
    let daemon = Daemon::start(&["--log-level", "info", "--ping-interval", "off"]);
    let mut witnesses = Crowd::join(daemon.addr(), "witnesses", WITNESSES);
    let mut crowd = Crowd::join(daemon.addr(), "storm", members);
    let mut api = Api::connect(&daemon);
    // A quarter after the other goes away, each with another position.
    for quarter in 0..4 {
        let position = quarter as u64 * 10 + 10;
        publish_numbered(&mut api, "storm", position - 9..=position);
        let left = members * quarter / 4..members;
        crowd.read_some_to(left, position, patience);
        crowd.cut(members * quarter / 4..members * (quarter + 1) / 4);
    }
    publish_numbered(&mut api, "storm", 41..=60);
    daemon.wait_members(u32::try_from(WITNESSES).expect("few"));
    let before = daemon.rss_bytes();
    let mut took = Duration::ZERO;
    while_others_are_served(&daemon, &mut witnesses, "witnesses", || {
        let begun = Instant::now();
        thread::scope(|scope| {
            // Whoever is back already is live.
            scope.spawn(|| {
                for offset in 61..=70 {
                    publish_numbered(&mut api, "storm", offset..=offset);
                    pace(10 * PACE);
                }
            });
            crowd.come_back(daemon.addr(), patience);
        });
        crowd.read_to(70, patience);
        took = begun.elapsed();
    });
    assert_eq!(crowd.closes(), []);
    for (member, (told, first)) in crowd.told().zip(crowd.firsts()).enumerate() {
        assert!(told.recovered && told.lost == 0, "{member}: {told:?}");
        let position = (4 * member / members) as u64 * 10 + 10;
        assert_eq!(first, Some(position + 1), "{member}");
    }
    let peak = daemon.peak_rss_bytes();
    eprintln!(
        "{members} came back in {took:?}; peak {} MiB, {} MiB before",
        peak / MIB,
        before / MIB
    );
    assert!(peak <= before + 32 * MIB, "{peak} of {before}");
}
