//! What a delivery allocates: nothing, on the loop's side, once everything has its size.
//!
//! First a hub and a shard on paper, each phase of a turn by itself; then the real loop with its
//! sockets, inside this process. A publication may cost allocations, for it is new memory; how many
//! may not depend on how many members receive it.

#[path = "allocations/node.rs"]
mod node;
#[path = "allocations/thread_alloc.rs"]
mod thread_alloc;

mod harness;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use roomcast::base::Limits;
use roomcast::{Config, Server};

use harness::{Client, Dial, Message, http, wait_until};
use node::{Node, Spent};
use thread_alloc::{ThreadAlloc, show_in};

#[global_allocator]
static ALLOCATOR: ThreadAlloc = ThreadAlloc;

/// Every wire form.
const FORMS: [&str; 4] = ["", "&format=json", "&gzip=1", "&format=json&gzip=1"];

fn limits() -> Limits {
    Limits {
        history_publications_max: 64,
        ..Limits::default()
    }
}

/// A node with a room that has `members` of each of these forms, in which much was said.
fn busy_node(forms: &[&str], members: usize, input: &[u8]) -> Node {
    let mut node = Node::new(limits());
    for form in forms {
        node.join(&format!("room=live:7{form}"), members);
    }
    for _ in 0..WARM_UP {
        node.publish(0, input);
    }
    node
}

/// A masked text frame of `len` bytes, `count` times.
fn frames(len: usize, count: usize) -> Vec<u8> {
    let mut frame = vec![0x81];
    match u8::try_from(len) {
        Ok(len @ 0..=125) => frame.push(0x80 | len),
        _ => {
            frame.push(0x80 | 126);
            frame.extend((len as u16).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(std::iter::repeat_n(b'x', len));
    frame.repeat(count)
}

/// What `ROUNDS` turns spend that take in `input` each.
fn rounds(node: &mut Node, input: &[u8]) -> Vec<Spent> {
    (0..ROUNDS).map(|_| node.publish(0, input)).collect()
}

#[test]
fn a_delivery_allocates_nothing_in_any_form() {
    for form in FORMS {
        for count in [1, 32] {
            for len in [128, 1000] {
                let input = frames(len, count);
                let [few, many] = [3, 100].map(|members| {
                    let mut node = busy_node(&[form], members, &input);
                    let before = node.deliveries();
                    let spent = rounds(&mut node, &input);
                    let deliveries = node.deliveries() - before;
                    assert_eq!(deliveries, (ROUNDS * count * members) as u64);
                    spent
                });
                let name = format!("{form:?}, {count} of {len} bytes");
                eprintln!("{name}: {:?}", many[0]);
                assert_eq!(few, many, "{name}: members cost allocations");
                for spent in &many {
                    assert_eq!((spent.delivering, spent.turning), (0, 0), "{name}");
                }
            }
        }
    }
}

#[test]
fn a_publication_costs_few_allocations() {
    let input = frames(128, 1);
    let mut node = busy_node(&FORMS, 10, &input);
    for spent in rounds(&mut node, &input) {
        assert!(spent.receiving <= RECEIVING_MAX, "{spent:?}");
        assert!(spent.working <= WORKING_MAX, "{spent:?}");
        assert_eq!((spent.delivering, spent.turning), (0, 0));
    }
}

#[test]
fn a_member_that_stalls_for_a_while_allocates_nothing() {
    let input = frames(128, 1);
    let mut node = busy_node(&FORMS, 10, &input);
    let mut stall = |len: usize| {
        node.stall(1);
        let before = node.written_bytes(1);
        let mut spent: Vec<Spent> = (0..len).map(|_| node.publish(0, &input)).collect();
        assert_eq!(node.written_bytes(1), before, "it is stalled");
        spent.push(node.recover(1));
        let written = node.written_bytes(1) - before;
        assert!(written > (len * 128) as u64, "it has everything");
        spent
    };
    let sum =
        |spent: &[Spent]| -> u64 { spent.iter().map(|one| one.delivering + one.turning).sum() };
    stall(ENTRIES_KEPT);
    for _ in 0..20 {
        assert_eq!(sum(&stall(ENTRIES_KEPT)), 0);
    }
    // A longer queue has to grow, by an eighth, and gives that back when it is empty.
    for len in [100, 900] {
        let grown = sum(&stall(len));
        assert!((1..=GROWTHS_MAX).contains(&grown), "{len}: {grown}");
    }
    stall(ENTRIES_KEPT);
    assert_eq!(sum(&stall(ENTRIES_KEPT)), 0, "as before");
}

#[test]
fn pings_allocate_nothing() {
    const PONG: [u8; 6] = [0x8a, 0x80, 1, 2, 3, 4];
    let input = frames(128, 1);
    let mut node = busy_node(&FORMS, 25, &input);
    node.wait(600, &PONG);
    let last = node.members.len() - 1;
    let before = node.written_bytes(last);
    let spent = node.wait(600, &PONG);
    let written = node.written_bytes(last) - before;
    assert!((20..=24).contains(&written), "{written} bytes of pings");
    assert_eq!(spent, Spent::default());
}

// --- The real loop --------------------------------------------------------------------------------

/// Allocations of the thread of the loop, once it has been spotted.
static LOOP: AtomicU64 = AtomicU64::new(0);
static IS_SPOTTED: AtomicBool = AtomicBool::new(false);

/// Code of this file on the loop's thread: the loop logs the end of a connection.
struct Spotter;

impl log::Log for Spotter {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        if !IS_SPOTTED.load(Ordering::SeqCst) && thread::current().name() == Some("loop") {
            show_in(&LOOP);
            IS_SPOTTED.store(true, Ordering::SeqCst);
        }
        false
    }

    fn log(&self, record: &log::Record<'_>) {
        self.enabled(record.metadata());
    }

    fn flush(&self) {}
}

/// What the loop allocates in `ROUNDS` rounds, each of one input that holds `count` publications for
/// so many members.
fn real_rounds(workers: &str, members: usize, input: &[u8], count: usize) -> u64 {
    IS_SPOTTED.store(false, Ordering::SeqCst);
    let args = [
        workers,
        "--listen=127.0.0.1:0",
        "--admin-listen=off",
        "--ping-interval=off",
        "--drain-timeout=0",
    ];
    let config = Config::from_args(args.into_iter().chain(["--history-size=64"]));
    let server = Server::start(config.expect("a good configuration")).expect("a server");
    let address = server.addresses()[0];
    assert_eq!(
        http(
            address,
            "GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        )
        .status,
        200
    );
    wait_until("the loop to be spotted", || {
        IS_SPOTTED.load(Ordering::SeqCst)
    });
    let mut clients: Vec<Client> = (0..members)
        .map(|index| Dial::new(address, ["/ws?room=a", "/ws?room=a&gzip=1"][index % 2]).connect())
        .collect();
    let mut round = || {
        let before = LOOP.load(Ordering::SeqCst);
        clients[0].send_bytes(input);
        for client in &mut clients {
            for _ in 0..count {
                assert!(matches!(client.recv(), Message::Text(_)));
            }
        }
        LOOP.load(Ordering::SeqCst) - before
    };
    for _ in 0..WARM_UP {
        round();
    }
    let spent = (0..ROUNDS).map(|_| round()).sum();
    server.handle().shutdown();
    server.wait().expect("it was told to end");
    spent
}

/// One test, since there is one counter.
#[test]
fn the_real_loop_allocates_nothing_for_a_delivery() {
    log::set_logger(&Spotter).expect("the only logger");
    log::set_max_level(log::LevelFilter::Debug);
    for workers in ["--workers=1", "--workers=0"] {
        for count in [1, 8] {
            let input = frames(128, count);
            let few = real_rounds(workers, 4, &input, count);
            let many = real_rounds(workers, 40, &input, count);
            eprintln!("{workers}, {count} in flight: {many} for {ROUNDS} rounds");
            assert!(few > 0, "the loop was counted");
            assert_eq!(
                few, many,
                "{workers}, {count} in flight: members cost allocations"
            );
        }
    }
}

/// How often everything is done before it is counted, and counted.
const WARM_UP: usize = 100;
const ROUNDS: usize = 20;

/// Allocations of one publication: to read it and make a job of it; to number it, keep it and encode
/// it in four forms.
const RECEIVING_MAX: u64 = 4;
const WORKING_MAX: u64 = 24;

/// What `conn::send_queue` keeps room for.
const ENTRIES_KEPT: usize = 32;

/// A queue of 900 has grown so often, and its memory was begun once.
const GROWTHS_MAX: u64 = 36;
