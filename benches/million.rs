//! What does a million connections cost? Bytes, nanoseconds and the longest single step, at 1 000,
//! 10 000, 100 000 and 1 000 000 of them.
//!
//! `cargo bench --bench million` prints three tables in Markdown; it takes a minute and 2 GiB.
//! Without `--bench`, as under `cargo test --benches`, it only runs a few connections to see that
//! it works.
//!
//! A hub and a shard on one thread: connections are accepted, upgrade and join in random order, are
//! published to, are pinged for one interval or more and answer, and end. How they are spread
//! - `rooms of 1 000`: nobody says who they are. Neighbours in the connection table are in
//!   different rooms. They end by leaving, in another random order.
//! - `one room`: all of them in it. They end because the daemon does.
//! - `a user each`: as the first, but each has a user id of its own, and so a personal room.
//!
//! Memory of an idle member, in bytes
//! - `asked for`: of the allocator, room to grow included.
//! - `taken`: with what glibc's malloc adds to each block.
//! - `left`: what is kept for each when all have gone: tables, which grow and do not shrink.
//!
//! Time, in nanoseconds for each connection; the loop and its worker are two threads in the daemon
//! - `join`: from accept to the 101 written, in the loop and in the worker.
//! - `delivery`: push and flush of a publication of 128 bytes, one a turn. Every room has had its
//!   turn before the next round, so at a million no connection is in a cache.
//! - `ping`: the timer fires, the ping is queued and written, the timer is set.
//! - `pong`: its answer is read.
//! - `leave`: the end of the stream, in the loop and in the worker.
//!
//! Longest single steps, in milliseconds, and at which of them: what the loop, or the worker, does
//! without looking at anything else. A table that doubles shows at a power of two or 7/8 of one;
//! anything else may be the machine's noise.
//!
//! The bench fails if a connection takes more than its bound, if delivering allocates, or if
//! anything but the tables is left in the end; never for being slow. Counting costs each
//! allocation some nanoseconds, which `join` and `pong` contain. Excluded: see `fake_node`.
#![allow(
    clippy::print_stdout,
    reason = "the figures are the product of a bench"
)]

use std::fmt;
use std::fs;
use std::hint::black_box;
use std::time::{Duration, Instant};

use roomcast::base::{CloseReason, ConnId, Limits, Prng};
use roomcast::hub::{Reading, SocketAction};

use crate::bench_support::{client_frame, client_pong, clock_nanos, is_measuring, nanos, shuffle};
use crate::counting_alloc::{CountingAlloc, counted};
use crate::fake_node::{FakeNode, put_upgrade_head};

#[allow(dead_code, reason = "the benches share more than each of them needs")]
mod bench_support;
mod counting_alloc;
mod fake_node;

#[global_allocator]
static ALLOCATOR: CountingAlloc = CountingAlloc;

fn main() {
    let plan = if is_measuring() {
        Plan::measuring()
    } else {
        Plan::smoke()
    };
    let clock = clock_nanos();
    let mut runs = Vec::new();
    for spread in [Spread::Rooms, Spread::OneRoom, Spread::Users] {
        for &connections in plan.sizes {
            runs.push((spread, connections, run(spread, connections, &plan)));
        }
    }
    print_memory(&runs);
    print_times(&runs, clock);
    print_longest(&runs);
    if let Some(peak) = peak_resident() {
        println!("\nMost memory of the process at any time: {peak}.");
    }
}

/// How connections are spread over rooms.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Spread {
    Rooms,
    OneRoom,
    Users,
}

impl Spread {
    fn rooms(self, connections: usize) -> usize {
        match self {
            Self::Rooms | Self::Users => connections.div_ceil(ROOM_MEMBERS),
            Self::OneRoom => 1,
        }
    }

    /// What a connection may take of malloc, with tables that are nearly full, in bytes.
    fn taken_bytes_max(self) -> f64 {
        match self {
            Self::Rooms | Self::OneRoom => 512.0,
            Self::Users => 2048.0,
        }
    }

    /// What the tables may keep of a connection that is gone: with room to grow, up to half empty.
    fn left_bytes_max(self) -> f64 {
        match self {
            Self::Rooms | Self::OneRoom => 512.0,
            Self::Users => 1024.0,
        }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Rooms => "rooms of 1 000",
            Self::OneRoom => "one room",
            Self::Users => "a user each",
        })
    }
}

/// How much is done to get a figure.
struct Plan {
    sizes: &'static [usize],
    /// Deliveries and pings of a run are at least so many.
    operations_min: usize,
    /// Whether connections are so many that the bounds hold.
    is_bounded: bool,
}

impl Plan {
    fn measuring() -> Self {
        Self {
            sizes: &[1_000, 10_000, 100_000, 1_000_000],
            operations_min: 300_000,
            is_bounded: true,
        }
    }

    fn smoke() -> Self {
        Self {
            sizes: &[50],
            operations_min: 100,
            is_bounded: false,
        }
    }
}

/// What a run has shown.
struct Figures {
    /// Kept for each connection.
    asked: f64,
    taken: f64,
    blocks: f64,
    /// Asked of the allocator while a connection joins, is pinged, and answers.
    allocations: [f64; 3],
    left_bytes: f64,
    joining: Joining,
    publishing: Publishing,
    pinging: Pinging,
    ending: Ending,
}

#[derive(Default)]
struct Joining {
    accept: Steps,
    read: Steps,
    worker: Steps,
    open: Steps,
}

#[derive(Default)]
struct Publishing {
    push: Steps,
    flush: Steps,
    deliveries: u64,
}

#[derive(Default)]
struct Pinging {
    timers: Steps,
    flush: Steps,
    pongs: Steps,
    pings: usize,
    /// While the timers fire and the pings are written, and while the pongs are read.
    allocations: [u64; 2],
}

#[derive(Default)]
struct Ending {
    leave: Steps,
    worker: Steps,
    shutdown: Steps,
    /// What the end of the daemon asks of the allocator before anything is written.
    shutdown_bytes: i64,
}

/// What the same step has taken, done many times.
#[derive(Default)]
struct Steps {
    count: u64,
    total: Duration,
    longest: Duration,
    /// Which of them that was, from 1.
    longest_at: u64,
}

impl Steps {
    fn note(&mut self, spent: Duration) {
        self.count += 1;
        self.total += spent;
        if spent > self.longest {
            self.longest = spent;
            self.longest_at = self.count;
        }
    }

    /// Notes the time since `begun` and returns the time now.
    fn note_since(&mut self, begun: Instant) -> Instant {
        let now = Instant::now();
        self.note(now - begun);
        now
    }

    /// Nanoseconds in all, without the readings of the clock.
    fn nanos(&self, clock: f64) -> f64 {
        nanos(self.total) - clock * self.count as f64
    }
}

fn run(spread: Spread, connections: usize, plan: &Plan) -> Figures {
    let mut ids = Vec::with_capacity(connections);
    let mut prng = Prng::new(connections as u64);
    let ((node, figures), all) = counted(|| run_counted(spread, plan, &mut ids, &mut prng));
    let left_bytes = all.kept_bytes as f64 / connections as f64;
    if plan.is_bounded {
        let bound = spread.left_bytes_max();
        assert!(
            left_bytes <= bound,
            "{left_bytes:.0} bytes are left of each connection"
        );
    }
    // A room that was published to leaves its name in the queues of what is to be forgotten.
    let blocks_max = LEFT_BLOCKS_MAX + spread.rooms(connections) as i64;
    assert!(
        all.kept_blocks <= blocks_max,
        "{} blocks are left, more than {blocks_max}",
        all.kept_blocks
    );
    let ((), dropped) = counted(|| drop(node));
    assert_eq!(
        (
            all.kept_bytes + dropped.kept_bytes,
            all.kept_blocks + dropped.kept_blocks
        ),
        (0, 0),
        "a node that is gone gives all of its memory back"
    );
    Figures {
        left_bytes,
        ..figures
    }
}

fn run_counted(
    spread: Spread,
    plan: &Plan,
    ids: &mut Vec<ConnId>,
    prng: &mut Prng,
) -> (FakeNode, Figures) {
    let connections = ids.capacity();
    let rooms = spread.rooms(connections);
    let mut node = FakeNode::new(Limits {
        connections_max: connections,
        rooms_max: rooms + connections,
        drain_timeout: Duration::ZERO,
        ..Limits::default()
    });

    let (joining, joined) = counted(|| join(&mut node, spread, ids, prng));
    let counters = node.hub.counters();
    assert_eq!(counters.websockets, connections);
    let [asked, taken, blocks] = [
        joined.kept_bytes,
        joined.kept_taken_bytes,
        joined.kept_blocks,
    ]
    .map(|kept| kept as f64 / connections as f64);
    let is_full = connections.next_power_of_two() - connections < connections / 8;
    if plan.is_bounded && is_full {
        let bound = spread.taken_bytes_max();
        assert!(
            taken <= bound,
            "{spread}: {taken:.0} bytes for a connection"
        );
    }

    let publishers: Vec<ConnId> = ids[..rooms].to_vec();
    let rounds = plan.operations_min.div_ceil(connections);
    let publishing = publish(&mut node, &publishers, 1 + rounds);
    drop(publishers);
    let pinging = ping(&mut node, connections, rounds);
    shuffle(ids, prng);
    let ending = match spread {
        Spread::OneRoom => shut_down(&mut node, ids),
        Spread::Rooms | Spread::Users => leave(&mut node, ids),
    };
    check_nothing_is_left(&mut node);

    let allocations = [
        joined.allocations as f64 / connections as f64,
        pinging.allocations[0] as f64 / pinging.pings as f64,
        pinging.allocations[1] as f64 / pinging.pings as f64,
    ];
    let figures = Figures {
        asked,
        taken,
        blocks,
        allocations,
        left_bytes: 0.0,
        joining,
        publishing,
        pinging,
        ending,
    };
    (node, figures)
}

/// Accepts as many connections as `ids` has room for and lets them join in random order, in which
/// `ids` then names them: the first is in the first room, and so on in turn.
fn join(node: &mut FakeNode, spread: Spread, ids: &mut Vec<ConnId>, prng: &mut Prng) -> Joining {
    let mut joining = Joining::default();
    let connections = ids.capacity();
    for _ in 0..connections {
        let begun = Instant::now();
        let id = node.accept();
        joining.accept.note_since(begun);
        ids.push(id);
    }
    shuffle(ids, prng);
    let rooms = spread.rooms(connections);
    let mut head = String::new();
    for (number, &id) in ids.iter().enumerate() {
        let room = number % rooms;
        if spread == Spread::Users {
            put_upgrade_head(&mut head, format_args!("room=live:{room}&user=u{number}"));
        } else {
            put_upgrade_head(&mut head, format_args!("room=live:{room}"));
        }
        let begun = Instant::now();
        node.upgrade(id, &head);
        let read = joining.read.note_since(begun);
        node.hand_over();
        let mut at = joining.worker.note_since(read);
        while let Some(effect) = node.shard.poll_effect() {
            black_box(node.hub.handle_effect(node.now, effect));
        }
        node.flush(|_, action| assert_eq!(action, SocketAction::None));
        assert_eq!(node.hub.poll_resumed(), Some(id), "it has joined");
        at = joining.open.note_since(at);
        black_box(at);
    }
    joining
}

/// Publishes to every room `rounds` times, the first of which warms up.
fn publish(node: &mut FakeNode, publishers: &[ConnId], rounds: usize) -> Publishing {
    let input = client_frame(&[b'x'; PAYLOAD_BYTES]);
    let mut publishing = Publishing::default();
    let mut allocations = 0;
    for round in 0..rounds {
        if round == 1 {
            publishing = Publishing::default();
            allocations = 0;
        }
        let before = node.deliveries();
        for &publisher in publishers {
            node.publish(publisher, &input);
            node.hand_over();
            let effect = node.shard.poll_effect();
            let ((), counts) = counted(|| {
                let begun = Instant::now();
                node.push(effect);
                let pushed = publishing.push.note_since(begun);
                node.flush(|_, action| assert_eq!(action, SocketAction::None));
                publishing.flush.note_since(pushed);
            });
            allocations += counts.allocations;
        }
        publishing.deliveries += node.deliveries() - before;
    }
    assert_eq!(allocations, 0, "delivering to a member allocates");
    publishing
}

/// Turns the loop until each connection was pinged `rounds` times; all answer at once.
fn ping(node: &mut FakeNode, connections: usize, rounds: usize) -> Pinging {
    let pong = client_pong();
    let mut pinging = Pinging::default();
    let mut pinged: Vec<ConnId> = Vec::with_capacity(connections);
    let due = connections * rounds;
    while pinging.pings < due {
        let deadline = node.hub.poll_timeout().expect("somebody is to be pinged");
        let passed = deadline.saturating_duration_since(node.now.instant);
        node.now.instant += passed;
        node.now.unix_ms += passed.as_millis() as u64;
        let ((), firing) = counted(|| {
            let begun = Instant::now();
            node.hub.handle_timeout(node.now, TIMERS);
            let fired = pinging.timers.note_since(begun);
            node.flush(|id, _| pinged.push(id));
            pinging.flush.note_since(fired);
        });
        let ((), answering) = counted(|| {
            let begun = Instant::now();
            for &id in &pinged {
                let reading = node.hub.handle_bytes(node.now, id, black_box(&pong));
                assert_eq!(reading, Reading::Continue);
            }
            pinging.pongs.note_since(begun);
        });
        pinging.pings += pinged.len();
        pinging.allocations[0] += firing.allocations;
        pinging.allocations[1] += answering.allocations;
        pinged.clear();
    }
    assert_eq!(
        node.hub.counters().websockets,
        connections,
        "all have answered"
    );
    pinging
}

/// Everybody leaves, one after the other.
fn leave(node: &mut FakeNode, ids: &[ConnId]) -> Ending {
    let mut ending = Ending::default();
    for &id in ids {
        let begun = Instant::now();
        node.grant_credits();
        node.hub.handle_eof(id, CloseReason::Gone);
        let farewell = node.hub.poll_closed().expect("it is over");
        let left = ending.leave.note_since(begun);
        node.hand_over();
        ending.worker.note_since(left);
        assert_eq!(black_box(farewell).1.id, id);
    }
    ending
}

/// The daemon ends, and everybody goes once told so.
fn shut_down(node: &mut FakeNode, ids: &[ConnId]) -> Ending {
    let mut ending = Ending::default();
    let ((), counts) = counted(|| {
        let begun = Instant::now();
        // Without a time to spread them over, the closes come as fast as turns go.
        node.hub.handle_shutdown(node.now);
        let mut turn = ending.shutdown.note_since(begun);
        while !node.hub.is_drained() {
            node.hub.handle_timeout(node.now, 0);
            turn = ending.shutdown.note_since(turn);
        }
    });
    ending.shutdown_bytes = counts.kept_bytes;
    node.flush(|_, action| assert_eq!(action, SocketAction::ShutDownWrite));
    for &id in ids {
        node.hub.handle_eof(id, CloseReason::Gone);
        let farewell = node.hub.poll_closed().expect("it is over");
        assert_eq!(farewell.1.reason, CloseReason::Shutdown);
        node.grant_credits();
        node.hand_over();
    }
    ending
}

/// Asserts that no connection, member, room, user or timer is left, nor anything to do.
fn check_nothing_is_left(node: &mut FakeNode) {
    while node.hub.poll_resumed().is_some() {}
    assert!(!node.hub.has_backlog(), "there is something to do");
    assert_eq!(node.hub.connections_len(), 0);
    let counters = node.hub.counters();
    let left = [
        counters.websockets,
        counters.members,
        counters.rooms,
        counters.users,
    ];
    assert_eq!(left, [0; 4], "websockets, members, rooms, users");
    assert_eq!(
        node.hub.poll_timeout(),
        None,
        "a timer without a connection"
    );
    node.hub.check_invariants();
    node.shard.check_invariants();
    // History goes when its time is over, and the rooms with it.
    node.now.instant += 2 * Limits::default().history_ttl;
    node.shard.handle_timeout(node.now);
    assert_eq!((node.shard.rooms_len(), node.shard.history_bytes()), (0, 0));
}

fn print_memory(runs: &[(Spread, usize, Figures)]) {
    println!("| spread | connections | asked for | taken | blocks | left |");
    println!("|---|---|---|---|---|---|");
    for (spread, connections, figures) in runs {
        println!(
            "| {spread} | {connections} | {:.0} | {:.0} | {:.2} | {:.0} |",
            figures.asked, figures.taken, figures.blocks, figures.left_bytes
        );
    }
    println!();
}

fn print_times(runs: &[(Spread, usize, Figures)], clock: f64) {
    println!(
        "| spread | connections | join: loop | worker | delivery | ping | pong | leave: loop | worker \
         | allocations: join | ping | pong |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
    for (spread, connections, figures) in runs {
        let Figures {
            joining,
            publishing,
            pinging,
            ending,
            allocations,
            ..
        } = figures;
        let sum = |steps: &[&Steps]| steps.iter().map(|steps| steps.nanos(clock)).sum::<f64>();
        let per_connection = |steps: &[&Steps]| sum(steps) / *connections as f64;
        let leaving = |steps: &Steps| match steps.count {
            0 => "–".to_owned(),
            _ => format!("{:.0}", per_connection(&[steps])),
        };
        println!(
            "| {spread} | {connections} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {} | {} \
             | {:.1} | {:.1} | {:.1} |",
            per_connection(&[&joining.accept, &joining.read, &joining.open]),
            per_connection(&[&joining.worker]),
            sum(&[&publishing.push, &publishing.flush]) / publishing.deliveries as f64,
            sum(&[&pinging.timers, &pinging.flush]) / pinging.pings as f64,
            sum(&[&pinging.pongs]) / pinging.pings as f64,
            leaving(&ending.leave),
            leaving(&ending.worker),
            allocations[0],
            allocations[1],
            allocations[2],
        );
    }
    println!();
}

fn print_longest(runs: &[(Spread, usize, Figures)]) {
    println!(
        "| spread | connections | accept | read head | join: worker | open | push | timers \
         | leave: loop | worker | shutdown | its bytes each |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
    for (spread, connections, figures) in runs {
        let Figures {
            joining,
            publishing,
            pinging,
            ending,
            ..
        } = figures;
        print!("| {spread} | {connections} |");
        for steps in [
            &joining.accept,
            &joining.read,
            &joining.worker,
            &joining.open,
            &publishing.push,
            &pinging.timers,
            &ending.leave,
            &ending.worker,
            &ending.shutdown,
        ] {
            match steps.count {
                0 => print!(" – |"),
                1 => print!(" {:.2} |", steps.longest.as_secs_f64() * 1e3),
                _ => print!(
                    " {:.2} at {} |",
                    steps.longest.as_secs_f64() * 1e3,
                    steps.longest_at
                ),
            }
        }
        match ending.shutdown_bytes {
            0 => println!(" – |"),
            bytes => println!(" {:.0} |", bytes as f64 / *connections as f64),
        }
    }
}

/// The most that the process has had in memory, as Linux says it.
fn peak_resident() -> Option<String> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

const ROOM_MEMBERS: usize = 1_000;

const PAYLOAD_BYTES: usize = 128;

/// Timers looked at in a turn, as the loop does.
const TIMERS: usize = 1024;

/// Blocks that a node may have without connections, those of its rooms aside.
const LEFT_BLOCKS_MAX: i64 = 500;
