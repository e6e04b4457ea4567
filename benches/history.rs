//! What does history cost? Bytes of one publication kept, nanoseconds of keeping and replaying it.
//!
//! `cargo bench --bench history` prints three tables, and fails if a publication costs more than
//! its payload and 96 bytes. Without `--bench`, as under `cargo test --benches`, it only runs small
//! histories to see that it works.
//!
//! Everything goes through the surface of a shard: jobs in, effects out and dropped. A room has one
//! raw member, and who publishes is not named.
//!
//! Bytes beside the payload, for one publication of a full history that was written over twice
//! - `asked for`: of the allocator.
//! - `taken`: with what glibc's malloc adds to a block of that size, its head and rounding.
//! - `worst`: the most of `taken` while the history grew, from 40 publications on; room to grow is
//!   a part of it.
//! - `counted`: what the shard counts against its share of memory, the room itself included.
//!
//! Publishing is the job, its broadcast and the end of the turn; `per turn` publications arrive
//! together and leave as one merge. Replaying is a member that joins, is given 500 publications and
//! leaves. Both with 128 bytes.
//!
//! Excluded: every system call, the hub, the channels between threads.
#![allow(
    clippy::print_stdout,
    reason = "the figures are the product of a bench"
)]

use std::hint::black_box;

use roomcast::base::{self, ConnId, Limits, Now, RoomBudget, RoomName, Since};
use roomcast::exchange::{Effect, Job, Replay, Terms};
use roomcast::shard::RoomShard;
use roomcast::wire::frame::Payload;
use roomcast::wire::raw::WireForm;

use crate::bench_support::{is_measuring, median, timed};
use crate::counting_alloc::{CountingAlloc, counted, malloc_bytes};

#[allow(dead_code, reason = "the benches share more than each of them needs")]
mod bench_support;
mod counting_alloc;

#[global_allocator]
static ALLOCATOR: CountingAlloc = CountingAlloc;

fn main() {
    let plan = if is_measuring() {
        Plan::measuring()
    } else {
        Plan::smoke()
    };
    let worst = print_memory(&plan);
    println!();
    print_publishing(&plan);
    println!();
    print_replaying(&plan);
    assert!(
        worst <= BOUND_BYTES,
        "a publication costs {worst:.1} bytes beside its payload"
    );
}

/// How much is done to get a figure.
struct Plan {
    history_sizes: &'static [usize],
    rounds: usize,
    turns: usize,
    replays: usize,
}

impl Plan {
    fn measuring() -> Self {
        Self {
            history_sizes: &[1_000, 10_000],
            rounds: 11,
            turns: 20_000,
            replays: 100,
        }
    }

    fn smoke() -> Self {
        Self {
            history_sizes: &[100],
            rounds: 1,
            turns: 1,
            replays: 1,
        }
    }
}

/// Returns the most that a publication costs beside its payload.
fn print_memory(plan: &Plan) -> f64 {
    println!("one publication in memory, bytes beside its payload");
    println!(
        "{:>8} {:>8} {:>10} {:>8} {:>8} {:>8}",
        "history", "payload", "asked for", "taken", "worst", "counted"
    );
    let mut worst = 0.0_f64;
    for &history in plan.history_sizes {
        for payload_bytes in [1, 16, 100, 1000] {
            let figures = memory(history, payload_bytes);
            println!(
                "{history:>8} {payload_bytes:>8} {:>10.1} {:>8.1} {:>8.1} {:>8.1}",
                figures.asked, figures.taken, figures.worst, figures.counted,
            );
            worst = worst.max(figures.worst);
        }
    }
    worst
}

struct Memory {
    asked: f64,
    taken: f64,
    worst: f64,
    counted: f64,
}

/// What one room's history takes while it grows and is written over twice.
fn memory(history: usize, payload_bytes: usize) -> Memory {
    let mut world = World::new(history, payload_bytes);
    // A first room, so that what the shard has only once is there.
    world.join(&room(0), WireForm::Raw, Since::Now);
    world.turn(&room(0), 1);
    let counted_before = world.shard.history_bytes();
    let room = room(1);
    world.join(&room, WireForm::Raw, Since::Now);
    let malloc_adds = malloc_bytes(payload_bytes) - payload_bytes;
    let (mut bytes, mut blocks) = (0, 0);
    let (mut asked, mut taken, mut worst) = (0.0, 0.0, 0.0_f64);
    for published in 1..=3 * history {
        let ((), counts) = counted(|| world.turn(&room, 1));
        bytes += counts.kept_bytes;
        blocks += counts.kept_blocks;
        let kept = published.min(history) as f64;
        asked = bytes as f64 / kept - payload_bytes as f64;
        // All blocks but the ring are payloads.
        taken = asked + malloc_adds as f64 * blocks as f64 / kept;
        if published >= GROWN {
            worst = worst.max(taken);
        }
    }
    let counted = world.shard.history_bytes() - counted_before;
    Memory {
        asked,
        taken,
        worst,
        counted: counted as f64 / history as f64 - payload_bytes as f64,
    }
}

fn print_publishing(plan: &Plan) {
    println!("one publication published");
    println!(
        "{:>8} {:>8} {:>8} {:>12}",
        "history", "per turn", "ns", "allocations"
    );
    for per_turn in [1, 32] {
        for history in [0, 1_000] {
            let mut world = World::new(history, PAYLOAD_BYTES);
            let room = room(0);
            world.join(&room, WireForm::Raw, Since::Now);
            world.turn(&room, 2 * history + 1);
            let turns = plan.turns.div_ceil(per_turn);
            let publications = (turns * per_turn) as f64;
            let mut run = || (0..turns).for_each(|_| world.turn(&room, per_turn));
            let ((), counts) = counted(&mut run);
            let [nanos] = median(plan.rounds, || [timed(&mut run)]);
            println!(
                "{history:>8} {per_turn:>8} {:>8.1} {:>12.2}",
                nanos / publications,
                counts.allocations as f64 / publications,
            );
        }
    }
}

fn print_replaying(plan: &Plan) {
    println!("one publication replayed, of {MISSED}");
    println!("{:>8} {:>8} {:>12}", "form", "ns", "allocations");
    for form in [WireForm::Raw, WireForm::Json] {
        let mut world = World::new(1_000, PAYLOAD_BYTES);
        let room = room(0);
        world.turn(&room, 1_000);
        let publications = (plan.replays * MISSED) as f64;
        let mut run = || (0..plan.replays).for_each(|_| world.replay(&room, form));
        let ((), counts) = counted(&mut run);
        let [nanos] = median(plan.rounds, || [timed(&mut run)]);
        println!(
            "{:>8} {:>8.1} {:>12.2}",
            format!("{form:?}"),
            nanos / publications,
            counts.allocations as f64 / publications,
        );
    }
}

/// One worker's shard, with this file in the place of the loop.
struct World {
    shard: RoomShard,
    now: Now,
    payload: Payload,
}

impl World {
    fn new(history: usize, payload_bytes: usize) -> Self {
        let limits = Limits {
            history_publications_max: history,
            history_bytes_max: 1 << 30,
            history_memory_bytes_max: 1 << 30,
            ..Limits::default()
        };
        let now = Now {
            instant: base::Instant::ORIGIN,
            unix_ms: 1_767_225_600_000,
        };
        Self {
            shard: RoomShard::new(&limits, 1, RoomBudget::new(1_000), now, 1),
            now,
            payload: Payload::text("x".repeat(payload_bytes).as_str().into()),
        }
    }

    /// Publishes `count` times in one turn of the worker.
    fn turn(&mut self, room: &RoomName, count: usize) {
        for _ in 0..count {
            let job = Job::Publish {
                origin: ConnId::NONE,
                room: room.clone(),
                identity: None,
                payload: self.payload.clone(),
                taken_at: self.now.instant,
                command: 0,
            };
            self.shard.handle_job(self.now, black_box(job));
        }
        self.shard.handle_timeout(self.now);
        while let Some(effect) = self.shard.poll_effect() {
            drop(black_box(effect));
        }
    }

    /// A member joins; returns the shard's answer.
    fn join(&mut self, room: &RoomName, form: WireForm, since: Since) -> Effect {
        let job = Job::Subscribe {
            conn: MEMBER,
            room: room.clone(),
            form,
            since,
            identity: None,
            terms: Terms::default(),
        };
        self.shard.handle_job(self.now, job);
        self.shard.poll_effect().expect("a join is answered")
    }

    /// A member joins, is given what it missed, and leaves.
    fn replay(&mut self, room: &RoomName, form: WireForm) {
        let joined = self.join(room, form, Since::Last(MISSED as u64));
        let Effect::Joined {
            mut after,
            owed_after,
            ..
        } = joined
        else {
            panic!("a join is granted");
        };
        let mut given = 0;
        loop {
            let job = Job::CatchUp {
                conn: MEMBER,
                room: room.clone(),
                form,
                echo: true,
                after,
                owed_after,
                joined_at: after,
            };
            self.shard.handle_job(self.now, job);
            let part = black_box(self.shard.poll_effect());
            let Some(Effect::Replayed {
                frames, outcome, ..
            }) = part
            else {
                panic!("a part is answered");
            };
            given += frames.map_or(0, |frames| frames.count());
            match outcome {
                Replay::More(next) => after = next,
                Replay::Live(_) => break,
                Replay::Overtaken => panic!("nothing is published meanwhile"),
            }
        }
        assert_eq!(given, MISSED, "all that was missed is given");
        let room = room.clone();
        let conn = MEMBER;
        self.shard
            .handle_job(self.now, Job::Unsubscribe { conn, room, form });
    }
}

fn room(number: usize) -> RoomName {
    RoomName::new(&format!("live:{number}")).expect("a good name")
}

const MEMBER: ConnId = ConnId {
    slot: 1,
    generation: 0,
};

/// What one publication may cost beside its payload.
const BOUND_BYTES: f64 = 96.0;

/// Publications from which on the bound holds: fewer share the room to grow among too few.
const GROWN: usize = 40;

const PAYLOAD_BYTES: usize = 128;

/// Publications replayed to one member.
const MISSED: usize = 500;
