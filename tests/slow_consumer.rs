//! Members that read too slowly or not at all: what happens to them, and that it happens to nobody else.
//!
//! The kernel takes some megabytes for a stalled member before the daemon's own queue begins to fill, so
//! the floods here are larger than that.

mod harness;

use std::time::{Duration, Instant};

use harness::{Client, Daemon, Dial, Message, Trial, Witness};
use serde_json::Value;

const SLOW: &[&str] = &["slow"];
const WRITE_TIMEOUT: &[&str] = &["write_timeout"];

/// Size of one publication of a flood.
const BLOCK: usize = 16 * 1024;

/// So many of them are 12 MiB: more than the kernel holds for one stalled connection.
const FLOOD: usize = 768;

const MIB: u64 = 1024 * 1024;

/// A queue that no flood here fills.
const WIDE: [&str; 4] = [
    "--outbound-queue",
    "100000",
    "--outbound-queue-size",
    "256MiB",
];

// --- The bound closes -----------------------------------------------------------------------------

#[test]
fn a_stalled_member_is_closed_3008_and_delays_nobody() {
    let daemon = Daemon::start(&["--outbound-queue", "50"]);
    let mut healthy = Client::connect(&daemon, "/ws?room=a");
    let mut publisher = Client::connect(&daemon, "/ws?room=a&echo=0");
    let trial = Trial::begin(&daemon, SLOW);
    let mut stalled = stalled(&daemon, "/ws?room=a");
    daemon.wait_members(3);
    publish_flood(&mut publisher, &mut healthy, 0..FLOOD);
    let received = stalled.drain_to_close(3008, "slow");
    // What it did get is the beginning, without a gap.
    for (n, message) in received.iter().enumerate() {
        assert_eq!(*message, Message::text(block(n)), "publication {n}");
    }
    assert!(received.len() < FLOOD, "{} were queued", received.len());
    trial.assert_ended(stalled.local_addr());
    let line = daemon.expect_closed(stalled.local_addr());
    assert!(line.contains("code=3008"), "{line}");
    assert!(line.contains("WARN"), "{line}");
    assert_eq!(daemon.metric("roomcast_members"), 2.0);
    publish_flood(&mut publisher, &mut healthy, 0..10);
}

#[test]
fn a_queue_is_bounded_in_bytes_too() {
    let bounds = [
        "--outbound-queue",
        "100000",
        "--outbound-queue-size",
        "256KiB",
    ];
    let daemon = Daemon::start(&bounds);
    let mut healthy = Client::connect(&daemon, "/ws?room=a");
    let mut publisher = Client::connect(&daemon, "/ws?room=a&echo=0");
    let mut stalled = stalled(&daemon, "/ws?room=a");
    daemon.wait_members(3);
    let before = daemon.rss_bytes();
    publish_flood(&mut publisher, &mut healthy, 0..FLOOD);
    let grown = daemon.rss_bytes().saturating_sub(before);
    assert!(grown < 4 * MIB, "grown by {grown} bytes");
    stalled.drain_to_close(3008, "slow");
    daemon.wait_closes("slow", 1.0);
}

#[test]
fn many_stalled_members_delay_nobody_and_leave_nothing_behind() {
    for workers in ["0", "1", "3"] {
        let daemon = Daemon::start(&["--workers", workers, "--outbound-queue", "30"]);
        let mut witness = Witness::new(&daemon);
        let mut healthy = Client::connect(&daemon, "/ws?room=a");
        let mut publisher = Client::connect(&daemon, "/ws?room=a&echo=0");
        daemon.wait_members(4);
        let before = (daemon.rss_bytes(), daemon.open_files());
        let stalled: Vec<_> = (0..10).map(|_| stalled(&daemon, "/ws?room=a")).collect();
        daemon.wait_members(14);
        for part in 0..8 {
            let numbers = part * FLOOD / 8..(part + 1) * FLOOD / 8;
            publish_flood(&mut publisher, &mut healthy, numbers);
            witness.assert_served();
        }
        // They are members no longer, whether or not they come to read why.
        daemon.wait_members(4);
        drop(stalled);
        daemon.wait_closes("slow", 10.0);
        daemon.wait_rss_at_most(before.0 + 4 * MIB);
        harness::wait_until("files are closed", || daemon.open_files() <= before.1 + 1);
        witness.assert_served();
    }
}

#[test]
fn a_member_that_reads_in_time_is_never_slow() {
    let daemon = Daemon::start(&["--outbound-queue", "50"]);
    let mut member = Client::connect(&daemon, "/ws?room=a");
    let mut publisher = Client::connect(&daemon, "/ws?room=a&echo=0");
    daemon.wait_members(2);
    // Forty at a time stay below the bound however they are merged.
    for round in 0..100 {
        for n in 0..40 {
            publisher.send_text(&format!("{round}.{n}"));
        }
        for n in 0..40 {
            assert_eq!(member.recv_text(), format!("{round}.{n}"));
        }
    }
    assert_eq!(daemon.closes("slow"), 0.0);
    assert_eq!(daemon.metric("roomcast_skipped_total"), 0.0);
}

#[test]
fn an_echo_client_that_never_reads_costs_bounded_memory() {
    let daemon = Daemon::start(&[]);
    let mut witness = Witness::new(&daemon);
    let before = daemon.rss_bytes();
    let mut client = Dial::new(daemon.addr(), "/echo")
        .receive_buffer(4096)
        .connect();
    let frames = harness::Frame::text(&block(0)).bytes().repeat(FLOOD * 2);
    // It is held back or closed as slow; the outcome of sending says nothing about which.
    let _ = client
        .wire
        .send_until_blocked(&frames, Duration::from_millis(300));
    witness.assert_served();
    let grown = daemon.rss_bytes().saturating_sub(before);
    assert!(grown < 8 * MIB, "grown by {grown} bytes");
    client.reset();
    daemon.wait_metric("roomcast_connections", |now| now <= 3.0);
    witness.assert_served();
}

// --- Lossy rooms skip -----------------------------------------------------------------------------

#[test]
fn in_a_lossy_room_a_stalled_member_is_told_exactly_what_it_missed() {
    let daemon = Daemon::start(&["--lossy-room", "live:*", "--outbound-queue", "50"]);
    let mut healthy = Client::connect(&daemon, "/ws?room=live:1");
    let mut publisher = Client::connect(&daemon, "/ws?room=live:1&echo=0");
    let mut stalled = stalled(&daemon, "/ws?room=live:1&format=json");
    daemon.wait_members(3);
    publish_flood(&mut publisher, &mut healthy, 0..FLOOD);

    let mut reader = JsonReader::default();
    let mut published = FLOOD as u64;
    catch_up(&mut reader, &mut stalled, &mut published, |text| {
        publisher.send_text(text);
        assert_eq!(healthy.recv_text(), text);
    });
    assert!(reader.skipped > 0, "nothing was skipped");
    assert_eq!(reader.received + reader.skipped, published);
    assert_eq!(reader.offset, published);
    daemon.wait_metric("roomcast_skipped_total", |now| now == reader.skipped as f64);
    assert_eq!(daemon.closes("slow"), 0.0);
    // It is a member like any other again.
    publisher.send_text("after all");
    assert_eq!(stalled.recv_json()["publication"]["data"], "after all");
    let peer = stalled.local_addr();
    stalled.close();
    let line = daemon.expect_closed(peer);
    assert!(
        line.contains(&format!("skipped={}", reader.skipped)),
        "{line}"
    );
}

#[test]
fn in_a_lossy_room_a_slow_member_is_told_of_every_gap_before_what_follows_it() {
    let bounds = ["--outbound-queue", "300", "--outbound-queue-size", "16MiB"];
    let daemon = Daemon::start(&[&bounds[..], &["--lossy-room", "live:*"]].concat());
    let mut healthy = Client::connect(&daemon, "/ws?room=live:1");
    let mut publisher = Client::connect(&daemon, "/ws?room=live:1&echo=0");
    let mut slow = stalled(&daemon, "/ws?room=live:1&format=json");
    daemon.wait_members(3);
    publish_flood(&mut publisher, &mut healthy, 0..FLOOD);
    // One is read for every two that are published. The kernel asks for more only now and then, so
    // that the queue is full and not full by turns, and never empty.
    let mut reader = JsonReader::default();
    let mut number = FLOOD;
    while reader.skips < 3 {
        assert!(number < 10 * FLOOD, "{} gaps were told", reader.skips);
        publish_flood(&mut publisher, &mut healthy, number..number + 2);
        number += 2;
        let message = slow.recv();
        reader.take(message);
    }
    let mut published = number as u64;
    catch_up(&mut reader, &mut slow, &mut published, |text| {
        publisher.send_text(text);
        assert_eq!(healthy.recv_text(), text);
    });
    assert_eq!(reader.received + reader.skipped, published);
    daemon.wait_metric("roomcast_skipped_total", |now| now == reader.skipped as f64);
}

#[test]
fn own_publications_left_out_by_echo_0_are_not_skipped() {
    let daemon = Daemon::start(&["--lossy-room", "live:*", "--outbound-queue", "50"]);
    let mut healthy = Client::connect(&daemon, "/ws?room=live:1");
    let mut publisher = Client::connect(&daemon, "/ws?room=live:1&echo=0");
    let mut stalled = stalled(&daemon, "/ws?room=live:1&echo=0&format=json");
    daemon.wait_members(3);
    publish_flood(&mut publisher, &mut healthy, 0..FLOOD);
    let skipped = daemon.wait_metric("roomcast_skipped_total", |now| now > 0.0);
    for n in 0..20 {
        stalled.send_text(&format!("own {n}"));
        assert_eq!(healthy.recv_text(), format!("own {n}"));
    }
    assert_eq!(daemon.metric("roomcast_skipped_total"), skipped);
}

#[test]
fn in_a_lossy_room_a_stalled_raw_member_gets_a_part_in_order() {
    let daemon = Daemon::start(&["--lossy-room", "live:*", "--outbound-queue", "50"]);
    let mut healthy = Client::connect(&daemon, "/ws?room=live:1");
    let mut publisher = Client::connect(&daemon, "/ws?room=live:1&echo=0");
    let mut stalled = stalled(&daemon, "/ws?room=live:1");
    daemon.wait_members(3);
    publish_flood(&mut publisher, &mut healthy, 0..FLOOD);
    let mut received = 0;
    let mut newest = None;
    while let Some(message) = stalled.recv_within(Duration::from_millis(200)) {
        let Message::Text(text) = message else {
            panic!("{message:?}");
        };
        let number = text
            .split(' ')
            .next()
            .and_then(|number| number.parse().ok());
        let number: usize = number.expect("a numbered block");
        assert_eq!(text, block(number));
        assert!(newest.is_none_or(|newest| newest < number), "order");
        newest = Some(number);
        received += 1;
    }
    assert!(received < FLOOD);
    let skipped = (FLOOD - received) as f64;
    daemon.wait_metric("roomcast_skipped_total", |now| now == skipped);
    publisher.send_text("after all");
    assert_eq!(stalled.recv_text(), "after all");
}

#[test]
fn other_rooms_are_not_lossy() {
    let daemon = Daemon::start(&["--lossy-room", "live:*", "--outbound-queue", "50"]);
    let mut healthy = Client::connect(&daemon, "/ws?room=chat:live:1");
    let mut publisher = Client::connect(&daemon, "/ws?room=chat:live:1&echo=0");
    let mut stalled = stalled(&daemon, "/ws?room=chat:live:1");
    daemon.wait_members(3);
    publish_flood(&mut publisher, &mut healthy, 0..FLOOD);
    stalled.drain_to_close(3008, "slow");
    assert_eq!(daemon.metric("roomcast_skipped_total"), 0.0);
}

// --- Deadlines ------------------------------------------------------------------------------------

#[test]
fn queued_bytes_without_progress_close_3009() {
    let daemon = Daemon::start(&[&WIDE[..], &["--write-timeout", "500ms"]].concat());
    let mut healthy = Client::connect(&daemon, "/ws?room=a");
    let mut publisher = Client::connect(&daemon, "/ws?room=a&echo=0");
    let mut witness = Witness::new(&daemon);
    let trial = Trial::begin(&daemon, WRITE_TIMEOUT);
    let start = Instant::now();
    let stalled = stalled(&daemon, "/ws?room=a");
    daemon.wait_members(5);
    publish_flood(&mut publisher, &mut healthy, 0..FLOOD);
    trial.assert_ended(stalled.local_addr());
    assert!(start.elapsed() >= Duration::from_millis(490));
    let line = daemon.expect_closed(stalled.local_addr());
    assert!(
        line.contains("code=3009") && line.contains("WARN"),
        "{line}"
    );
    witness.assert_served();
    publish_flood(&mut publisher, &mut healthy, 0..10);
}

#[test]
fn a_member_that_resumes_reading_may_still_learn_of_the_3009() {
    let daemon = Daemon::start(&[&WIDE[..], &["--write-timeout", "300ms"]].concat());
    let mut healthy = Client::connect(&daemon, "/ws?room=a");
    let mut publisher = Client::connect(&daemon, "/ws?room=a&echo=0");
    let mut stalled = stalled(&daemon, "/ws?room=a");
    daemon.wait_members(3);
    publish_flood(&mut publisher, &mut healthy, 0..FLOOD);
    // It is no member any more as soon as it is closing.
    daemon.wait_members(2);
    let received = stalled.drain_to_close(3009, "write error");
    for (n, message) in received.iter().enumerate() {
        assert_eq!(*message, Message::text(block(n)), "publication {n}");
    }
}

#[test]
fn a_member_that_keeps_reading_is_not_closed_however_long_its_backlog_lasts() {
    let daemon = Daemon::start(&[&WIDE[..], &["--write-timeout", "1s"]].concat());
    let mut healthy = Client::connect(&daemon, "/ws?room=a");
    let mut publisher = Client::connect(&daemon, "/ws?room=a&echo=0");
    let mut slow = stalled(&daemon, "/ws?room=a");
    daemon.wait_members(3);
    let publications = 2 * FLOOD;
    std::thread::scope(|scope| {
        let reading = scope.spawn(move || {
            let start = Instant::now();
            for n in 0..publications {
                assert_eq!(slow.recv_text(), block(n));
                // About 8 MB a second: the backlog outlasts the timeout, the socket never stands
                // still for long.
                if n % 16 == 0 {
                    harness::pace(Duration::from_millis(30));
                }
            }
            assert!(start.elapsed() > Duration::from_secs(2));
            slow
        });
        publish_flood(&mut publisher, &mut healthy, 0..publications);
        let mut slow = reading.join().expect("all of the backlog");
        publisher.send_text("caught up");
        assert_eq!(slow.recv_text(), "caught up");
    });
    assert_eq!(daemon.closes("write_timeout"), 0.0);
}

// --- Control frames -------------------------------------------------------------------------------

#[test]
fn a_pong_overtakes_the_backlog() {
    let daemon = Daemon::start(&WIDE);
    let mut healthy = Client::connect(&daemon, "/ws?room=a");
    let mut publisher = Client::connect(&daemon, "/ws?room=a&echo=0");
    let mut slow = stalled(&daemon, "/ws?room=a");
    daemon.wait_members(3);
    let publications = 2 * FLOOD;
    publish_flood(&mut publisher, &mut healthy, 0..publications);
    slow.send_ping("overtaking");
    // The ping is read before anything that another connection sends later.
    publish_flood(&mut publisher, &mut healthy, publications..publications + 1);
    let mut before_pong = 0;
    loop {
        match slow.recv() {
            Message::Text(text) => assert_eq!(text, block(before_pong)),
            Message::Pong(payload) => break assert_eq!(payload, b"overtaking"),
            other => panic!("{other:?}"),
        }
        before_pong += 1;
    }
    // What the kernel had already taken cannot be overtaken.
    assert!(before_pong < publications / 2, "{before_pong} came first");
    for n in before_pong..=publications {
        assert_eq!(
            slow.recv_text(),
            block(n),
            "nothing may be lost for the pong"
        );
    }
}

#[test]
fn a_close_is_answered_in_spite_of_a_backlog() {
    let daemon = Daemon::start(&WIDE);
    let mut healthy = Client::connect(&daemon, "/ws?room=a");
    let mut publisher = Client::connect(&daemon, "/ws?room=a&echo=0");
    let mut slow = stalled(&daemon, "/ws?room=a");
    daemon.wait_members(3);
    publish_flood(&mut publisher, &mut healthy, 0..FLOOD);
    slow.send_close(1000, "enough");
    daemon.wait_members(2);
    // What is still delivered is the beginning of what was queued.
    let mut received = 0;
    loop {
        match slow.recv() {
            Message::Text(text) => assert_eq!(text, block(received)),
            Message::Close(code, _) => break assert_eq!(code, Some(1000)),
            other => panic!("{other:?}"),
        }
        received += 1;
    }
    assert!(received <= FLOOD);
    slow.expect_eof();
}

// --- Helpers --------------------------------------------------------------------------------------

/// Connects a member that will not read, with little room in its receive buffer.
fn stalled(daemon: &Daemon, target: &str) -> Client {
    Dial::new(daemon.addr(), target)
        .receive_buffer(4096)
        .connect()
}

/// The publication with that number: its number and then filler.
fn block(number: usize) -> String {
    let mut text = format!("{number} ");
    text.push_str(&"x".repeat(BLOCK - text.len()));
    text
}

/// Publishes blocks one by one; the healthy member must get each before the next, without delay.
fn publish_flood(publisher: &mut Client, healthy: &mut Client, numbers: std::ops::Range<usize>) {
    for number in numbers {
        let text = block(number);
        let start = Instant::now();
        publisher.send_text(&text);
        assert_eq!(healthy.recv_text(), text, "publication {number}");
        let took = start.elapsed();
        assert!(took < Duration::from_secs(2), "{number} took {took:?}");
    }
}

/// Reads all that is queued for `member`, publishing something small until that arrives, which shows
/// that the queue has drained.
fn catch_up(
    reader: &mut JsonReader,
    member: &mut Client,
    published: &mut u64,
    mut publish: impl FnMut(&str),
) {
    while reader.newest != format!("tick {published}") {
        while let Some(message) = member.recv_within(Duration::from_millis(50)) {
            reader.take(message);
        }
        *published += 1;
        publish(&format!("tick {published}"));
        let message = member.recv();
        if reader.take(message) {
            let message = member.recv();
            reader.take(message);
        }
    }
}

/// Adds up what a json member gets, and checks that it is told of every gap before what follows it.
#[derive(Debug, Default)]
struct JsonReader {
    received: u64,
    skipped: u64,
    /// How often skips were told.
    skips: u64,
    /// Offset of the newest publication received.
    offset: u64,
    /// Skips told since then.
    untaken: u64,
    /// Data of the newest publication.
    newest: String,
}

impl JsonReader {
    /// Takes one message; true if it told of skips.
    fn take(&mut self, message: Message) -> bool {
        let Message::Text(text) = message else {
            panic!("{message:?}");
        };
        let envelope: Value = serde_json::from_str(&text).expect("JSON");
        if envelope["joined"].is_object() {
            assert_eq!(envelope["joined"]["offset"], 0);
            return false;
        }
        if let Some(count) = envelope["skipped"]["count"].as_u64() {
            assert_eq!(envelope["skipped"]["room"], "live:1");
            assert!(count > 0);
            self.skipped += count;
            self.skips += 1;
            self.untaken += count;
            return true;
        }
        let publication = &envelope["publication"];
        let offset = publication["offset"].as_u64().expect("an offset");
        assert_eq!(offset, self.offset + self.untaken + 1, "skips told before");
        self.offset = offset;
        self.untaken = 0;
        self.received += 1;
        let data = publication["data"].as_str().expect("text");
        data.clone_into(&mut self.newest);
        false
    }
}
