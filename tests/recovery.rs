//! Coming back: what was missed, once, in order, and then what is live; or how much is gone.

mod harness;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use harness::{
    Client, DEADLINE, Daemon, Dial, Frame, Message, Witness, linger, wait_for, wait_until,
};
use serde_json::Value;

/// Every way of running the workers: on the loop, one, several.
const WORKERS: [&str; 3] = ["0", "1", "3"];

/// How long the ledger runs.
const LEDGER: Duration = Duration::from_secs(3);

/// What a member in JSON is told when it joins.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Joined {
    epoch: String,
    offset: u64,
    recovered: bool,
    lost: i64,
}

fn dial(addr: SocketAddr, query: &str) -> Dial {
    Dial::new(addr, &format!("/ws?format=json&{query}"))
}

/// A member in JSON.
fn member(daemon: &Daemon, query: &str) -> Client {
    dial(daemon.addr(), query).connect()
}

fn joined_of(message: &Value) -> (String, Joined) {
    let joined = &message["joined"];
    let text = |name: &str| joined[name].as_str().map(ToOwned::to_owned);
    let (Some(room), Some(epoch)) = (text("room"), text("epoch")) else {
        panic!("no join: {message}");
    };
    let joined = Joined {
        epoch,
        offset: joined["offset"].as_u64().expect("an offset"),
        recovered: joined["recovered"].as_bool().expect("a truth"),
        lost: joined["lost"].as_i64().expect("a number"),
    };
    assert_eq!(joined.recovered, joined.lost == 0, "{message}");
    (room, joined)
}

/// The next envelope, which must be that of a join.
fn joined(client: &mut Client) -> Joined {
    joined_of(&client.recv_json()).1
}

fn publication_of(message: &Value) -> (String, u64, String) {
    let publication = &message["publication"];
    let text = |name: &str| publication[name].as_str().map(ToOwned::to_owned);
    match (text("room"), publication["offset"].as_u64(), text("data")) {
        (Some(room), Some(offset), Some(data)) => (room, offset, data),
        _ => panic!("no publication: {message}"),
    }
}

/// The next envelope, which must be that of a publication of text: its offset and text.
fn publication(client: &mut Client) -> (u64, String) {
    let (_, offset, data) = publication_of(&client.recv_json());
    (offset, data)
}

/// Asserts that the publications `from..=to` come next, each holding its own offset.
fn expect_run(client: &mut Client, from: u64, to: u64) {
    for offset in from..=to {
        assert_eq!(publication(client), (offset, offset.to_string()));
    }
}

/// Where a room is now. Joins it for that.
fn position(daemon: &Daemon, room: &str) -> Joined {
    let mut client = member(daemon, &format!("room={room}"));
    let joined = joined(&mut client);
    client.close();
    joined
}

/// Publishes `from..=to` to a room as texts that are their own offsets, and returns the epoch.
fn fill(daemon: &Daemon, room: &str, from: u64, to: u64) -> String {
    publish(daemon, &format!("room={room}&echo=0"), from, to);
    wait_for("the last publication in history", || {
        let now = position(daemon, room);
        (now.offset == to).then_some(now.epoch)
    })
}

/// Publishes `from..=to` from a connection of its own, which is closed in order afterwards.
fn publish(daemon: &Daemon, query: &str, from: u64, to: u64) {
    let received = daemon.metric("roomcast_messages_received_total");
    let mut publisher = Client::connect(daemon, &format!("/ws?{query}"));
    let frames = (from..=to).flat_map(|n| Frame::text(&n.to_string()).bytes());
    publisher.send_bytes(frames.collect::<Vec<_>>());
    let all = received + (to - from + 1) as f64;
    daemon.wait_metric("roomcast_messages_received_total", |now| now == all);
    publisher.close();
}

fn unix_ms() -> u64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(elapsed.expect("after 1970").as_millis()).expect("before the year 500 million")
}

/// Lets the clock go on by more than a millisecond, and returns a time between before and after.
fn tick() -> u64 {
    let start = unix_ms();
    wait_for("the next millisecond", || {
        let now = unix_ms();
        (now > start + 2).then_some(now - 1)
    })
}

// --- A position -----------------------------------------------------------------------------------

#[test]
fn what_was_missed_comes_first_and_then_what_is_live() {
    for workers in WORKERS {
        let daemon = Daemon::start(&["--workers", workers]);
        let mut away = member(&daemon, "room=a");
        let start = joined(&mut away);
        assert_eq!((start.offset, start.lost), (0, 0));
        fill(&daemon, "a", 1, 3);
        expect_run(&mut away, 1, 3);
        away.reset();
        let epoch = fill(&daemon, "a", 4, 10);
        assert_eq!(epoch, start.epoch);
        for since in [0, 3, 9, 10] {
            let mut back = member(&daemon, &format!("room=a&since={epoch}.{since}"));
            let expected = Joined {
                epoch: epoch.clone(),
                offset: 10,
                recovered: true,
                lost: 0,
            };
            assert_eq!(joined(&mut back), expected);
            expect_run(&mut back, since + 1, 10);
            back.close();
        }
        let mut back = member(&daemon, &format!("room=a&since={epoch}.7"));
        joined(&mut back);
        back.send_text("11");
        expect_run(&mut back, 8, 11);
    }
}

#[test]
fn what_was_missed_keeps_its_type_user_time_and_epoch() {
    let daemon = Daemon::start(&[]);
    let mut live = member(&daemon, "room=a");
    let start = joined(&mut live);
    let mut publisher = Client::connect(&daemon, "/ws?room=a&user=al&echo=0");
    publisher.send_text("text \"quoted\" é\u{1}");
    publisher.send_binary([0, 255, 1]);
    publisher.send_text("");
    let seen: Vec<_> = (0..3).map(|_| live.recv_json()).collect();
    assert_eq!(seen[0]["publication"]["user"], "al");
    assert_eq!(seen[1]["publication"]["b64"], "AP8B");
    let mut back = member(&daemon, &format!("room=a&since={}.0", start.epoch));
    assert_eq!(joined(&mut back).offset, 3);
    let again: Vec<_> = (0..3).map(|_| back.recv_json()).collect();
    assert_eq!(again, seen);
    let mut raw = Client::connect(&daemon, &format!("/ws?room=a&since={}.0", start.epoch));
    assert_eq!(raw.recv_text(), "text \"quoted\" é\u{1}");
    assert_eq!(raw.recv_binary(), [0, 255, 1]);
    assert_eq!(raw.recv_text(), "");
}

#[test]
fn every_room_is_resumed_from_its_own_position() {
    for workers in WORKERS {
        let daemon = Daemon::start(&["--workers", workers]);
        let rooms = ["a", "b@home", "c"];
        let epochs = rooms.map(|room| fill(&daemon, room, 1, 10));
        // The second name holds what separates a name from a position. The third room is not
        // resumed at all.
        let query = format!(
            "room=a&room=b@home&room=c&since=a@{}.4&since=b%40home@{}.9",
            epochs[0], epochs[1]
        );
        let mut back = member(&daemon, &query);
        let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut joins = 0;
        for _ in 0..3 + 6 + 1 {
            let message = back.recv_json();
            if message["joined"].is_object() {
                let (room, joined) = joined_of(&message);
                assert_eq!((joined.offset, joined.lost), (10, 0));
                assert!(!texts.contains_key(&room), "{room} joined after its own");
                joins += 1;
                continue;
            }
            let (room, offset, data) = publication_of(&message);
            assert_eq!(offset.to_string(), data);
            texts.entry(room).or_default().push(data);
        }
        assert_eq!(joins, 3);
        assert_eq!(texts["a"], ["5", "6", "7", "8", "9", "10"]);
        assert_eq!(texts["b@home"], ["10"]);
        assert_eq!(texts.len(), 2);
        for room in rooms {
            publish(&daemon, &format!("room={room}&echo=0"), 11, 11);
            let message = back.recv_json();
            assert_eq!(publication_of(&message), (room.into(), 11, "11".into()));
        }
    }
}

#[test]
fn another_numbering_and_the_future_are_told_and_the_oldest_follow() {
    let daemon = Daemon::start(&[]);
    let epoch = fill(&daemon, "a", 1, 5);
    let future = format!("{epoch}.6");
    let far = format!("{epoch}.{}", u64::MAX);
    for since in [
        "Nobody.3",
        "0.0",
        "Nobody.18446744073709551615",
        &future,
        &far,
    ] {
        let mut back = member(&daemon, &format!("room=a&since={since}"));
        let told = joined(&mut back);
        assert_eq!((told.offset, told.lost), (5, -1), "{since}");
        assert_eq!(told.epoch, epoch);
        expect_run(&mut back, 1, 5);
        back.close();
        // A raw member cannot be told.
        let mut raw = Client::connect(&daemon, &format!("/ws?room=a&since={since}"));
        raw.drain_to_close(3010, "insufficient state");
    }
    let mut back = member(&daemon, "room=a&since=Nobody.3");
    joined(&mut back);
    back.send_text("6");
    expect_run(&mut back, 1, 6);
}

// --- A time and a number --------------------------------------------------------------------------

#[test]
fn a_time_gives_what_is_newer() {
    let daemon = Daemon::start(&[]);
    let before = tick();
    fill(&daemon, "a", 1, 3);
    let between = tick();
    fill(&daemon, "a", 4, 6);
    let after = tick();
    for (since, from) in [(before, 1), (between, 4), (after, 7), (u64::MAX, 7)] {
        let mut back = member(&daemon, &format!("room=a&since={since}"));
        assert_eq!(joined(&mut back).lost, 0, "{since}");
        expect_run(&mut back, from, 6);
        back.close();
        let mut raw = Client::connect(&daemon, &format!("/ws?room=a&since={since}"));
        for offset in from..=6 {
            assert_eq!(raw.recv_text(), offset.to_string());
        }
        raw.close();
    }
    // Nobody knows what was before the daemon.
    for since in [0, before - 3_600_000] {
        let mut back = member(&daemon, &format!("room=a&since={since}"));
        assert_eq!(joined(&mut back).lost, -1, "{since}");
        expect_run(&mut back, 1, 6);
        back.close();
    }
    Client::connect(&daemon, "/ws?room=a&since=0").drain_to_close(3010, "insufficient state");
}

#[test]
fn the_newest_come_first_when_asked_for() {
    let daemon = Daemon::start(&[]);
    fill(&daemon, "a", 1, 20);
    for (last, from) in [(0, 21), (1, 20), (5, 16), (20, 1), (21, 1), (u64::MAX, 1)] {
        let mut back = member(&daemon, &format!("room=a&last={last}"));
        assert_eq!(joined(&mut back).lost, 0);
        expect_run(&mut back, from, 20);
        back.close();
        let mut raw = Client::connect(&daemon, &format!("/ws?room=a&last={last}"));
        for offset in from..=20 {
            assert_eq!(raw.recv_text(), offset.to_string());
        }
        raw.close();
    }
    let mut live = Client::connect(&daemon, "/ws?room=a&last=2");
    live.send_text("live");
    for text in ["19", "20", "live"] {
        assert_eq!(live.recv_text(), text);
    }
}

#[test]
fn a_user_who_was_away_gets_what_was_sent_to_them() {
    for workers in WORKERS {
        let daemon = Daemon::start(&["--workers", workers]);
        let before = tick();
        publish(&daemon, "user=other&to=u", 1, 5);
        let epoch = wait_for("the room of a user who was never here", || {
            let mut user = member(&daemon, "user=u");
            let now = joined(&mut user);
            user.close();
            (now.offset == 5).then_some(now.epoch)
        });
        let since = format!("since={epoch}.2");
        for (query, from) in [("last=10", 1), (&format!("since={before}"), 1), (&since, 3)] {
            let mut user = member(&daemon, &format!("user=u&{query}"));
            assert_eq!(joined(&mut user).lost, 0, "{query}");
            expect_run(&mut user, from, 5);
            user.close();
        }
        // Beside a room that is joined by name, the personal one is named in full.
        let mut user = member(&daemon, &format!("room=a&user=u&since=%23u@{epoch}.4"));
        let names = [0; 2].map(|_| joined_of(&user.recv_json()).0);
        assert!(names.contains(&"#u".to_owned()), "{names:?}");
        assert_eq!(publication(&mut user), (5, "5".to_owned()));
        let mut raw = Client::connect(&daemon, "/ws?user=u&last=2");
        assert_eq!([raw.recv_text(), raw.recv_text()], ["4", "5"]);
    }
}

// --- What is gone ---------------------------------------------------------------------------------

/// Asserts that a resume of room `a` from `since` misses `lost`, and gets `from..=to`.
fn expect_lost(daemon: &Daemon, since: &str, lost: i64, from: u64, to: u64) {
    let mut back = member(daemon, &format!("room=a&since={since}"));
    let told = joined(&mut back);
    assert_eq!((told.offset, told.lost), (to, lost), "{since}");
    expect_run(&mut back, from, to);
    back.close();
    let mut raw = Client::connect(daemon, &format!("/ws?room=a&since={since}"));
    if lost == 0 {
        for offset in from..=to {
            assert_eq!(raw.recv_text(), offset.to_string());
        }
        raw.close();
    } else {
        raw.drain_to_close(3010, "insufficient state");
    }
}

#[test]
fn what_is_over_the_size_of_the_history_is_lost_and_told() {
    let daemon = Daemon::start(&["--history-size", "5"]);
    let before = tick();
    let epoch = fill(&daemon, "a", 1, 10);
    let after = tick();
    for (since, lost, from) in [(0, 5, 6), (4, 1, 6), (5, 0, 6), (8, 0, 9), (10, 0, 11)] {
        expect_lost(&daemon, &format!("{epoch}.{since}"), lost, from, 10);
    }
    expect_lost(&daemon, &before.to_string(), -1, 6, 10);
    expect_lost(&daemon, &after.to_string(), 0, 11, 10);
    // A number of publications is not a place, so nothing is lost of it.
    let mut newest = member(&daemon, "room=a&last=8");
    assert_eq!(joined(&mut newest).lost, 0);
    expect_run(&mut newest, 6, 10);
    assert!(daemon.closes("insufficient_state") >= 2.0);
}

#[test]
fn what_is_over_the_bytes_of_the_history_is_lost_and_told() {
    let daemon = Daemon::start(&["--history-bytes", "4KiB"]);
    let mut live = member(&daemon, "room=a");
    let epoch = joined(&mut live).epoch;
    let text = "x".repeat(1000);
    for offset in 1..=10 {
        live.send_text(&text);
        assert_eq!(publication(&mut live).0, offset);
    }
    let mut back = member(&daemon, &format!("room=a&since={epoch}.3"));
    assert_eq!(joined(&mut back).lost, 3);
    for offset in 7..=10 {
        assert_eq!(publication(&mut back), (offset, text.clone()));
    }
    // One that is larger than the whole history leaves nothing.
    let large = "y".repeat(4097);
    live.send_text(&large);
    for client in [&mut live, &mut back] {
        assert_eq!(publication(client), (11, large.clone()));
    }
    let mut none = member(&daemon, &format!("room=a&since={epoch}.10"));
    assert_eq!(joined(&mut none).lost, 1);
    none.send_text("12");
    assert_eq!(publication(&mut none).0, 12);
}

#[test]
fn without_history_everything_missed_is_lost_and_told() {
    let daemon = Daemon::start(&["--history-size", "0"]);
    let mut live = member(&daemon, "room=a");
    let epoch = joined(&mut live).epoch;
    let before = tick();
    fill(&daemon, "a", 1, 5);
    expect_run(&mut live, 1, 5);
    expect_lost(&daemon, &format!("{epoch}.2"), 3, 6, 5);
    expect_lost(&daemon, &format!("{epoch}.5"), 0, 6, 5);
    expect_lost(&daemon, &before.to_string(), -1, 6, 5);
    let mut newest = member(&daemon, "room=a&last=3");
    assert_eq!(joined(&mut newest).lost, 0);
    newest.send_text("6");
    assert_eq!(publication(&mut newest), (6, "6".to_owned()));
    // The room goes with its members, and where it stood is remembered.
    newest.close();
    live.close();
    daemon.wait_metric("roomcast_rooms", |now| now == 0.0);
    expect_lost(&daemon, &format!("{epoch}.4"), 2, 7, 6);
    daemon.wait_metric("roomcast_rooms", |now| now == 0.0);
    expect_lost(&daemon, &format!("{epoch}.6"), 0, 7, 6);
}

#[test]
fn what_is_too_old_is_lost_and_told() {
    let daemon = Daemon::start(&["--history-ttl", "1s"]);
    let mut live = member(&daemon, "room=a");
    let epoch = joined(&mut live).epoch;
    let before = tick();
    fill(&daemon, "a", 1, 5);
    expect_run(&mut live, 1, 5);
    wait_until("nothing left of the room's history", || {
        let mut back = member(&daemon, &format!("room=a&since={epoch}.2"));
        let lost = joined(&mut back).lost;
        // What it was promised may be forgotten before it is sent, which would close it 3010.
        back.reset();
        lost == 3
    });
    expect_lost(&daemon, &before.to_string(), -1, 6, 5);
    live.close();
    // Now the room goes too, and where it stood is remembered.
    daemon.wait_metric("roomcast_rooms", |now| now == 0.0);
    expect_lost(&daemon, &format!("{epoch}.5"), 0, 6, 5);
    expect_lost(&daemon, &format!("{epoch}.1"), 4, 6, 5);
}

// --- Paced ----------------------------------------------------------------------------------------

#[test]
fn a_resume_longer_than_the_queue_is_complete_and_not_slow() {
    for workers in WORKERS {
        let daemon = Daemon::start(&["--workers", workers, "--outbound-queue", "10"]);
        let epoch = fill(&daemon, "a", 1, 500);
        let mut back = member(&daemon, &format!("room=a&since={epoch}.0"));
        let told = joined(&mut back);
        assert_eq!((told.offset, told.lost), (500, 0));
        expect_run(&mut back, 1, 500);
        back.send_text("501");
        expect_run(&mut back, 501, 501);
        let mut raw = Client::connect(&daemon, &format!("/ws?room=a&since={epoch}.0"));
        for offset in 1..=501 {
            assert_eq!(raw.recv_text(), offset.to_string());
        }
        assert_eq!(daemon.closes("slow"), 0.0);
    }
}

#[test]
fn a_member_that_does_not_read_its_resume_costs_a_queue_and_no_neighbour() {
    let args = ["--history-bytes", "16MiB", "--write-timeout", "1s"];
    let daemon = Daemon::start(&args);
    let mut witness = Witness::new(&daemon);
    let mut live = member(&daemon, "room=a");
    let epoch = joined(&mut live).epoch;
    let text = "z".repeat(50_000);
    for offset in 1..=200 {
        live.send_text(&text);
        assert_eq!(publication(&mut live).0, offset);
    }
    let before = daemon.rss_bytes();
    let lazy: Vec<_> = (0..10)
        .map(|_| {
            let dial = dial(daemon.addr(), &format!("room=a&since={epoch}.0"));
            dial.receive_buffer(4096).connect()
        })
        .collect();
    for _ in 0..50 {
        witness.assert_served();
    }
    let grown = daemon.rss_bytes().saturating_sub(before);
    assert!(grown < 32 << 20, "{grown} bytes for ten that do not read");
    daemon.wait_closes("write_timeout", 10.0);
    drop(lazy);
    witness.assert_served();
}

#[test]
fn a_hundred_resume_at_once() {
    for workers in ["0", "3"] {
        let daemon = Daemon::start(&["--workers", workers]);
        let epoch = fill(&daemon, "a", 1, 300);
        let addr = daemon.addr();
        let together = Barrier::new(100);
        let (epoch, together) = (&epoch, &together);
        let members: Vec<Client> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..100)
                .map(|member| {
                    scope.spawn(move || {
                        let since = member * 3;
                        let dial = dial(addr, &format!("room=a&since={epoch}.{since}"));
                        together.wait();
                        let mut back = dial.connect();
                        assert_eq!(joined(&mut back).lost, 0);
                        expect_run(&mut back, since + 1, 300);
                        back
                    })
                })
                .collect();
            let ended = threads.into_iter().map(|thread| thread.join());
            ended.map(|member| member.expect("no panic")).collect()
        });
        publish(&daemon, "room=a&echo=0", 301, 310);
        for mut member in members {
            expect_run(&mut member, 301, 310);
        }
    }
}

// --- The ledger -----------------------------------------------------------------------------------

/// What one resuming member has seen, over all its connections.
#[derive(Default)]
struct Ledger {
    last: u64,
    /// The newest number of each publisher.
    newest: BTreeMap<String, u64>,
    resumes: u64,
}

impl Ledger {
    /// Books the next publication: the next offset, and the next number of its publisher.
    fn book(&mut self, message: &Value) {
        let (_, offset, data) = publication_of(message);
        assert_eq!(offset, self.last + 1, "after {} resumes", self.resumes);
        self.last = offset;
        let (publisher, number) = data.split_once(':').expect("publisher and number");
        let newest = self.newest.entry(publisher.to_owned()).or_default();
        assert_eq!(number.parse(), Ok(*newest + 1), "{publisher}");
        *newest += 1;
    }
}

/// Resumes again and again until everything that was published has been seen. Says in `seen` how far
/// it is.
fn resume_until_all(
    addr: SocketAddr,
    seed: u64,
    epoch: &str,
    (total, seen): (&AtomicU64, &AtomicU64),
) -> Ledger {
    let mut ledger = Ledger::default();
    let deadline = Instant::now() + LEDGER + 3 * DEADLINE;
    let mut random = seed;
    while ledger.last < total.load(Ordering::Acquire) {
        assert!(Instant::now() < deadline, "stuck at {}", ledger.last);
        let mut client = dial(addr, &format!("user=u&since={epoch}.{}", ledger.last)).connect();
        ledger.resumes += 1;
        let told = joined(&mut client);
        assert_eq!((told.lost, told.epoch.as_str()), (0, epoch));
        // Some are cut in the middle of what they missed, some long after.
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let most = 1 + (random >> 33) % 3000;
        for _ in 0..most {
            if ledger.last >= total.load(Ordering::Acquire) {
                break;
            }
            // Everything may have come before it is known how much that is.
            let Some(message) = client.recv_within(Duration::from_millis(50)) else {
                break;
            };
            match message {
                Message::Text(text) if text.starts_with("{\"closing\"") => {}
                Message::Text(text) => {
                    ledger.book(&serde_json::from_str(&text).expect("JSON"));
                    seen.store(ledger.last, Ordering::Release);
                }
                // It has kept up with its resume and then fell behind: it comes back.
                Message::Close(Some(3008), _) => break,
                other => panic!("{other:?}"),
            }
        }
        if random & 1 == 0 {
            client.reset();
        }
    }
    ledger
}

#[test]
fn nothing_is_lost_repeated_or_reordered_while_publishers_run_at_full_speed() {
    for (workers, batch) in [("1", "0"), ("3", "5ms"), ("0", "0")] {
        let history = ["--history-size", "10000000", "--history-bytes", "200MiB"];
        let daemon = Daemon::start(
            &[
                &["--workers", workers, "--batch-interval", batch],
                &history[..],
            ]
            .concat(),
        );
        // The first publication keeps the room, and with it the numbering, alive.
        // Publishers are no members of the room, so they need not read and can go at full speed.
        let mut first = Client::connect(&daemon, "/ws?user=first&to=u");
        first.send_text("first:1");
        let epoch = wait_for("the first publication", || {
            let mut client = member(&daemon, "user=u");
            let now = joined(&mut client);
            client.close();
            (now.offset == 1).then_some(now.epoch)
        });
        let (addr, ends) = (daemon.addr(), AtomicBool::new(false));
        let total = AtomicU64::new(u64::MAX);
        let seen = [const { AtomicU64::new(0) }; 4];
        let sent_by = [const { AtomicU64::new(0) }; 3];
        let (epoch, total, ends, seen) = (epoch.as_str(), &total, &ends, &seen);
        let sent_by = &sent_by;
        std::thread::scope(|scope| {
            let publishers: Vec<_> = (0..3)
                .map(|publisher| {
                    scope.spawn(move || {
                        let target = format!("/ws?user={publisher}&to=u");
                        let mut client = Dial::new(addr, &target).connect();
                        let mut sent = 0;
                        while !ends.load(Ordering::Acquire) {
                            // As fast as it goes, but not out of reach: a member that resumes is
                            // to become live again and again.
                            let slowest = seen.iter().map(|seen| seen.load(Ordering::Acquire));
                            let all = sent_by.iter().map(|sent| sent.load(Ordering::Acquire));
                            if all.sum::<u64>() > slowest.min().unwrap_or_default() + 4000 {
                                std::thread::yield_now();
                                continue;
                            }
                            let numbers = sent + 1..=sent + 100;
                            let text = |n| Frame::text(&format!("{publisher}:{n}")).bytes();
                            client.send_bytes(numbers.flat_map(text).collect::<Vec<_>>());
                            sent += 100;
                            sent_by[publisher].store(sent, Ordering::Release);
                        }
                        client.close();
                        sent
                    })
                })
                .collect();
            let resumers: Vec<_> = (0..4)
                .map(|seed| {
                    scope.spawn(move || {
                        resume_until_all(addr, seed, epoch, (total, &seen[seed as usize]))
                    })
                })
                .collect();
            linger(LEDGER);
            ends.store(true, Ordering::Release);
            let sent = publishers.into_iter().map(|publisher| publisher.join());
            let sent: u64 = sent.map(|sent| sent.expect("no panic")).sum();
            total.store(sent + 1, Ordering::Release);
            for resumer in resumers {
                let ledger = resumer.join().expect("no panic");
                assert_eq!(ledger.last, sent + 1);
                assert!(ledger.resumes >= 3, "{} resumes", ledger.resumes);
            }
        });
    }
}

// --- Bad positions --------------------------------------------------------------------------------

#[test]
fn positions_that_mean_nothing_are_refused() {
    let daemon = Daemon::start(&[]);
    let mut witness = Witness::new(&daemon);
    for query in [
        "room=a&since=",
        "room=a&since=-1",
        "room=a&since=%2B1",
        "room=a&since=1e3",
        "room=a&since=soon",
        "room=a&since=18446744073709551616",
        "room=a&since=99999999999999999999999999999999999999",
        "room=a&since=E.",
        "room=a&since=.1",
        "room=a&since=.",
        "room=a&since=E.-1",
        "room=a&since=E.x",
        "room=a&since=E.1.2",
        "room=a&since=E.18446744073709551616",
        "room=a&since=E_.1",
        "room=a&since=Epochof17letters1.1",
        "room=a&since=%C3%A9.1",
        "room=a&since=%00.1",
        "room=a&since=a@",
        "room=a&since=@E.1",
        "room=a&since=a@E.-1",
        "room=a&since=b@E.1",
        "room=a&since=A@E.1",
        "room=a&since=%23u@E.1",
        "room=a&room=b&since=E.1",
        "room=a&room=b&since=E.1&user=u",
        "room=a&last=",
        "room=a&last=-1",
        "room=a&last=all",
        "room=a&last=1.5",
        "room=a&last=18446744073709551616",
    ] {
        let target = format!("/ws?{query}");
        let refused = Dial::new(daemon.addr(), &target).try_connect();
        match refused {
            Ok(_) => panic!("{query} was accepted"),
            Err(answer) => assert_eq!(answer.status, 400, "{query}: {answer:?}"),
        }
        let origin = format!("http://{}", daemon.addr());
        let dial = Dial::new(daemon.addr(), &target).header("Origin", &origin);
        dial.connect().expect_close(3501, "bad request");
    }
    witness.assert_served();
}

// --- Bounds over all rooms ------------------------------------------------------------------------

#[test]
fn one_room_too_many_is_refused() {
    for workers in WORKERS {
        let daemon = Daemon::start(&["--workers", workers, "--max-rooms", "3"]);
        let mut member = Client::connect(&daemon, "/ws?room=a&room=b&room=c");
        // Nothing is left of the rooms that a refused connection had already joined.
        for query in ["room=d", "room=a&room=d", "user=u", "room=a&user=u"] {
            match Dial::new(daemon.addr(), &format!("/ws?{query}")).try_connect() {
                Ok(_) => panic!("{query}: a fourth room"),
                Err(answer) => assert_eq!(answer.status, 503, "{query}: {answer:?}"),
            }
            let origin = format!("http://{}", daemon.addr());
            let dial = Dial::new(daemon.addr(), &format!("/ws?{query}"));
            let mut browser = dial.header("Origin", &origin).connect();
            browser.expect_close(3505, "channel limit");
        }
        daemon.wait_members(3);
        // Publishing to a user who has no room yet would make one more.
        let mut direct = Client::connect(&daemon, "/ws?room=a&to=u");
        direct.send_text("hello");
        direct.expect_close(3505, "channel limit");
        member.send_text("still here");
        assert_eq!(member.recv_text(), "still here");
        // A room with history keeps its place; the others give theirs back.
        member.close();
        daemon.wait_members(0);
        wait_until("two places", || {
            let dial = Dial::new(daemon.addr(), "/ws?room=d&room=e");
            dial.try_connect().is_ok_and(|client| {
                client.close();
                true
            })
        });
    }
}

#[test]
fn strangers_who_make_up_rooms_cost_no_more_than_the_memory_for_history() {
    let daemon = Daemon::start(&["--history-memory", "4MiB"]);
    let mut witness = Witness::new(&daemon);
    let before = tick();
    let epoch = fill(&daemon, "a", 1, 10);
    expect_lost(&daemon, &format!("{epoch}.0"), 0, 1, 10);
    let (rss, addr) = (daemon.rss_bytes(), daemon.addr());
    let strangers = |text: &str, rooms: u32| {
        std::thread::scope(|scope| {
            for stranger in 0..8 {
                scope.spawn(move || {
                    for room in 0..rooms {
                        let target = format!("/ws?room=made-up:{stranger}:{room}:{}", text.len());
                        let mut client = Dial::new(addr, &target).connect();
                        client.send_text(text);
                        assert_eq!(client.recv_text(), text);
                        client.reset();
                    }
                });
            }
        });
    };
    // 50 MB in few rooms, then very little in very many.
    strangers(&"x".repeat(50_000), 125);
    strangers("x", 1000);
    daemon.wait_members(2);
    daemon.wait_rss_at_most(rss + (16 << 20));
    witness.assert_served();
    // The room that was idle longest had to go, and that is told.
    expect_lost(&daemon, &format!("{epoch}.10"), 0, 11, 10);
    expect_lost(&daemon, &format!("{epoch}.0"), 10, 11, 10);
    expect_lost(&daemon, &before.to_string(), -1, 11, 10);
}

#[test]
fn a_room_that_went_without_history_is_not_said_to_be_complete() {
    let daemon = Daemon::start(&["--history-size", "0"]);
    let before = tick();
    publish(&daemon, "room=a&echo=0", 1, 5);
    daemon.wait_metric("roomcast_rooms", |now| now == 0.0);
    let mut back = member(&daemon, &format!("room=a&since={before}"));
    assert_eq!(joined(&mut back).lost, -1);
}

#[test]
fn a_room_that_went_with_its_age_is_not_said_to_be_complete() {
    let daemon = Daemon::start(&["--history-ttl", "1s"]);
    let before = tick();
    let epoch = fill(&daemon, "a", 1, 5);
    wait_until("the end of the room", || {
        let mut back = member(&daemon, &format!("room=a&since={epoch}.0"));
        joined(&mut back).lost == 5
    });
    let mut back = member(&daemon, &format!("room=a&since={before}"));
    assert_eq!(joined(&mut back).lost, -1);
}
