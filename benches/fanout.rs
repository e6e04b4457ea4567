//! What does one more member cost? Nanoseconds, allocations and bytes for one member of a room.
//!
//! `cargo bench --bench fanout` prints one line for each size of room. Without `--bench`, as under
//! `cargo test --benches`, it only runs a small room to see that it works.
//!
//! One member publishes, 128 bytes at a time. Its frames go the whole way that they go in the
//! daemon: read by the hub, made jobs, numbered and encoded by the shard, handed back as one
//! broadcast, pushed to every member and flushed until nothing waits. Members join in random
//! order, so that a room does not lie in memory in the order of its members.
//!
//! Columns
//! - `per turn`: publications that arrive in one read and leave as one merge.
//! - `push`: `handle_effect`, in nanoseconds for one member and one publication.
//! - `flush`: `poll_flush`, the write and `handle_written`, likewise.
//! - `publish`: nanoseconds for one publication, before any member is looked at: reading it, the
//!   job, numbering, encoding. It rises with the room only because a large one empties the caches.
//! - `allocations`: for one publication, and for one member while pushing and flushing, which must
//!   be none.
//!
//! The second table says what a member keeps in memory between publications: its place in every
//! table, and its own blocks. Tables that have just grown by doubling are half empty, so the sizes
//! of rooms matter.
//!
//! A write takes all it is offered and costs nothing. Excluded with it: every system call, the
//! kernel's copy of the bytes, the channels between threads. The readings of the clock between the
//! parts are taken off again.
#![allow(
    clippy::print_stdout,
    reason = "the figures are the product of a bench"
)]

use std::time::{Duration, Instant};

use roomcast::base::{ConnId, Limits, Prng};
use roomcast::hub::SocketAction;

use crate::bench_support::{client_frame, clock_nanos, is_measuring, median, nanos, shuffle};
use crate::counting_alloc::{CountingAlloc, Counts, counted};
use crate::fake_node::{FakeNode, put_upgrade_head};

#[allow(dead_code, reason = "the benches share more than each of them needs")]
mod bench_support;
mod counting_alloc;
mod fake_node;

#[global_allocator]
static ALLOCATOR: CountingAlloc = CountingAlloc;

fn main() {
    let (sizes, plan): (&[usize], Plan) = if is_measuring() {
        (&[10, 100, 1_000, 10_000], Plan::measuring())
    } else {
        (&[10], Plan::smoke())
    };
    println!(
        "{:<11} {:>8} {:>8} {:>7} {:>7} {:>7} {:>9}   allocations",
        "", "", "", "push", "flush", "sum", "publish"
    );
    println!(
        "{:<11} {:>8} {:>8} {:>7} {:>7} {:>7} {:>9}   {:>11} {:>7}",
        "form", "per turn", "members", "ns", "ns", "ns", "ns", "publication", "member"
    );
    for form in FORMS {
        for per_turn in [1, 32] {
            for &members in sizes {
                let figures = measure(form, members, per_turn, &plan);
                println!(
                    "{:<11} {per_turn:>8} {members:>8} {:>7.1} {:>7.1} {:>7.1} {:>9.0}   {:>11.2} {:>7.2}",
                    form.name,
                    figures.push,
                    figures.flush,
                    figures.push + figures.flush,
                    figures.publish,
                    figures.allocations_per_publication,
                    figures.allocations_per_member,
                );
            }
        }
    }
    println!();
    println!("user-space memory of one member, joined and idle, without the allocator's overhead");
    println!(
        "{:<11} {:>16} {:>8} {:>8}",
        "form", "members", "bytes", "blocks"
    );
    for form in FORMS {
        for members in plan.memory_sizes {
            let (bytes, blocks) = memory(form, *members);
            println!(
                "{:<11} {:>16} {bytes:>8.0} {blocks:>8.2}",
                form.name,
                format!("{FEW} to {members}")
            );
        }
    }
}

/// How the members of a room receive.
#[derive(Clone, Copy)]
struct Form {
    name: &'static str,
    query: &'static str,
    /// Whether the publisher receives what it publishes.
    echo: bool,
}

const FORMS: [Form; 3] = [
    Form {
        name: "raw",
        query: "room=live:42",
        echo: true,
    },
    Form {
        name: "raw echo=0",
        query: "room=live:42&echo=0",
        echo: false,
    },
    Form {
        name: "json",
        query: "room=live:42&format=json",
        echo: true,
    },
];

/// How much is done to get a figure.
struct Plan {
    rounds: usize,
    pushes_per_round: usize,
    memory_sizes: &'static [usize],
}

impl Plan {
    fn measuring() -> Self {
        Self {
            rounds: 9,
            pushes_per_round: 400_000,
            // The second is where tables that grow by doubling are just full.
            memory_sizes: &[10_000, 16_384],
        }
    }

    fn smoke() -> Self {
        Self {
            rounds: 1,
            pushes_per_round: 100,
            memory_sizes: &[20],
        }
    }
}

struct Figures {
    push: f64,
    flush: f64,
    publish: f64,
    allocations_per_publication: f64,
    allocations_per_member: f64,
}

fn measure(form: Form, members: usize, per_turn: usize, plan: &Plan) -> Figures {
    let mut world = World::new();
    world.join(form, members);
    let input = client_frame(&[b'x'; PAYLOAD_BYTES]).repeat(per_turn);
    world.turn(&input);

    let before = world.node.deliveries();
    let (publishing, delivering) = counted_turn(&mut world, &input);
    let receivers = members - usize::from(!form.echo);
    assert_eq!(
        world.node.deliveries() - before,
        (receivers * per_turn) as u64,
        "every member receives every publication"
    );
    assert_eq!(
        delivering.allocations, 0,
        "delivering to a member allocates"
    );

    let turns = plan.pushes_per_round.div_ceil(members);
    let clock = clock_nanos();
    let publications = (turns * per_turn) as f64;
    let [publish, push, flush] = median(plan.rounds, || {
        let mut spent = [Duration::ZERO; 3];
        for _ in 0..turns {
            for (sum, part) in spent.iter_mut().zip(world.turn(&input)) {
                *sum += part;
            }
        }
        spent.map(|sum| (nanos(sum) - clock * turns as f64) / publications)
    });
    Figures {
        push: push / members as f64,
        flush: flush / members as f64,
        publish,
        allocations_per_publication: publishing.allocations as f64 / per_turn as f64,
        allocations_per_member: delivering.allocations as f64 / members as f64,
    }
}

/// What publishing, and pushing with flushing, ask of the allocator.
fn counted_turn(world: &mut World, input: &[u8]) -> (Counts, Counts) {
    let (effects, publishing) = counted(|| {
        world.publish(input);
        world.node.shard.poll_effect()
    });
    let ((), delivering) = counted(|| {
        world.node.push(effects);
        flush(&mut world.node);
    });
    (publishing, delivering)
}

/// Bytes and blocks that one member more keeps.
fn memory(form: Form, members: usize) -> (f64, f64) {
    let mut world = World::new();
    world.join(form, FEW);
    let more = members - FEW;
    let ((), counts) = counted(|| world.join(form, more));
    assert_eq!(world.node.hub.counters().members, members);
    (
        counts.kept_bytes as f64 / more as f64,
        counts.kept_blocks as f64 / more as f64,
    )
}

/// A node, and who publishes.
struct World {
    node: FakeNode,
    prng: Prng,
    publisher: Option<ConnId>,
}

impl World {
    fn new() -> Self {
        Self {
            node: FakeNode::new(Limits::default()),
            prng: Prng::new(1),
            publisher: None,
        }
    }

    /// Accepts `count` connections and lets them join in random order.
    fn join(&mut self, form: Form, count: usize) {
        let node = &mut self.node;
        let mut head = String::new();
        put_upgrade_head(&mut head, format_args!("{}", form.query));
        let mut ids: Vec<ConnId> = (0..count).map(|_| node.accept()).collect();
        shuffle(&mut ids, &mut self.prng);
        for &id in &ids {
            node.upgrade(id, &head);
            node.hand_over();
            let effect = node.shard.poll_effect();
            node.push(effect);
            flush(node);
            assert_eq!(node.hub.poll_resumed(), Some(id), "it has joined");
        }
        self.publisher = ids.first().copied();
    }

    /// One turn of the loop; returns what publishing, pushing and flushing took.
    fn turn(&mut self, input: &[u8]) -> [Duration; 3] {
        let begun = Instant::now();
        self.publish(input);
        let effect = self.node.shard.poll_effect();
        let published = Instant::now();
        self.node.push(effect);
        let pushed = Instant::now();
        flush(&mut self.node);
        let flushed = Instant::now();
        [published - begun, pushed - published, flushed - pushed]
    }

    fn publish(&mut self, input: &[u8]) {
        let publisher = self.publisher.expect("somebody has joined");
        self.node.publish(publisher, input);
        self.node.hand_over();
    }
}

fn flush(node: &mut FakeNode) {
    node.flush(|_, action| assert_eq!(action, SocketAction::None));
}

const PAYLOAD_BYTES: usize = 128;

/// Members in a room that is hardly a burden.
const FEW: usize = 10;
