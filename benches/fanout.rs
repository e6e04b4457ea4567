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

use std::hint::black_box;
use std::io::IoSlice;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use roomcast::base::{self, ConnId, Limits, Now, Prng, RoomBudget};
use roomcast::conn::send_queue::SendQueue;
use roomcast::exchange::Effect;
use roomcast::hub::{Gate, Hub, Reading, SocketAction, Written};
use roomcast::shard::RoomShard;

use crate::bench_support::{client_frame, clock_nanos, is_measuring, median, nanos};
use crate::counting_alloc::{CountingAlloc, Counts, counted};

mod bench_support;
mod counting_alloc;

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

    let before = world.deliveries();
    let (publishing, delivering) = counted_turn(&mut world, &input);
    let receivers = members - usize::from(!form.echo);
    assert_eq!(
        world.deliveries() - before,
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
        world.shard.poll_effect()
    });
    let ((), delivering) = counted(|| {
        world.push(effects);
        world.flush();
    });
    (publishing, delivering)
}

/// Bytes and blocks that one member more keeps.
fn memory(form: Form, members: usize) -> (f64, f64) {
    let mut world = World::new();
    world.join(form, FEW);
    let more = members - FEW;
    let ((), counts) = counted(|| world.join(form, more));
    assert_eq!(world.hub.counters().members, members);
    (
        counts.kept_bytes as f64 / more as f64,
        counts.kept_blocks as f64 / more as f64,
    )
}

/// One hub and one worker's shard, with this file in the place of the loop.
struct World {
    hub: Hub<FakeSocket>,
    shard: RoomShard,
    now: Now,
    prng: Prng,
    jobs_max: usize,
    publisher: Option<ConnId>,
}

impl World {
    fn new() -> Self {
        let limits = Limits::default();
        let now = Now {
            instant: base::Instant::ORIGIN,
            unix_ms: 1_767_225_600_000,
        };
        Self {
            shard: RoomShard::new(&limits, 1, RoomBudget::new(10), now, 1),
            now,
            prng: Prng::new(1),
            jobs_max: limits.jobs_max,
            publisher: None,
            hub: Hub::new(limits, Gate::default(), 1, now.instant, 1),
        }
    }

    /// Accepts `count` connections and lets them join in random order.
    fn join(&mut self, form: Form, count: usize) {
        let peer = SocketAddr::from(([127, 0, 0, 1], 40_000));
        let head = format!(
            "GET /ws?{} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\
             Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Sec-WebSocket-Version: 13\r\n\r\n",
            form.query
        );
        let mut ids: Vec<ConnId> = (0..count)
            .map(|_| {
                self.hub
                    .handle_accept(self.now, false, peer, FakeSocket::default())
                    .expect("the limits allow that many")
            })
            .collect();
        for end in (1..ids.len()).rev() {
            ids.swap(end, self.prng.below(end as u64 + 1) as usize);
        }
        for &id in &ids {
            self.hub.handle_room(self.now, ONLY_WORKER, self.jobs_max);
            let reading = self.hub.handle_bytes(self.now, id, head.as_bytes());
            assert_eq!(reading, Reading::Paused, "a connection that joins waits");
            self.hand_over();
            let effect = self.shard.poll_effect();
            self.push(effect);
            self.flush();
            assert_eq!(self.hub.poll_resumed(), Some(id), "it has joined");
        }
        self.publisher = ids.first().copied();
    }

    /// One turn of the loop; returns what publishing, pushing and flushing took.
    fn turn(&mut self, input: &[u8]) -> [Duration; 3] {
        let begun = Instant::now();
        self.publish(input);
        let effect = self.shard.poll_effect();
        let published = Instant::now();
        self.push(effect);
        let pushed = Instant::now();
        self.flush();
        let flushed = Instant::now();
        [published - begun, pushed - published, flushed - pushed]
    }

    fn publish(&mut self, input: &[u8]) {
        let publisher = self.publisher.expect("somebody has joined");
        self.hub.handle_room(self.now, ONLY_WORKER, self.jobs_max);
        let reading = self.hub.handle_bytes(self.now, publisher, black_box(input));
        assert_eq!(reading, Reading::Continue);
        self.hand_over();
    }

    fn hand_over(&mut self) {
        while let Some((_, job)) = self.hub.poll_job() {
            self.shard.handle_job(self.now, job);
        }
        self.shard.handle_timeout(self.now);
    }

    /// Pushes what came of a turn, which is one effect however many publications it merges.
    fn push(&mut self, effect: Option<Effect>) {
        let effect = effect.expect("every turn here has an effect");
        black_box(self.hub.handle_effect(self.now, effect));
        assert!(self.shard.poll_effect().is_none(), "a turn has one effect");
    }

    fn flush(&mut self) {
        while let Some((id, socket, queue)) = self.hub.poll_flush() {
            let written = socket.write(queue);
            let action = self.hub.handle_written(self.now, id, written);
            assert_eq!(action, SocketAction::None);
        }
    }

    fn deliveries(&self) -> u64 {
        self.hub.counters().deliveries
    }
}

/// A socket of the size of the daemon's that takes everything at once.
#[derive(Debug, Default)]
struct FakeSocket {
    taken_bytes: u64,
}

impl FakeSocket {
    fn write(&mut self, queue: &mut SendQueue) -> Written {
        // As the real socket does: one piece is written as it is.
        let bytes = match queue.lone_piece() {
            Some(piece) => black_box(piece).len(),
            None => {
                let mut slices = [IoSlice::new(&[]); SLICES];
                let filled = queue.fill(&mut slices);
                black_box(&slices[..filled])
                    .iter()
                    .map(|slice| slice.len())
                    .sum()
            }
        };
        queue.advance(bytes);
        self.taken_bytes += bytes as u64;
        Written::Bytes {
            bytes,
            is_blocked: false,
        }
    }
}

const PAYLOAD_BYTES: usize = 128;

/// Members in a room that is hardly a burden.
const FEW: usize = 10;

/// Pieces offered to one write, as the loop does.
const SLICES: usize = 32;

const ONLY_WORKER: usize = 0;
