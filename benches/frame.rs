//! What does a message cost on its way in and out? Nanoseconds and allocations of frames.
//!
//! `cargo bench --bench frame` prints one line for each kind of message. Without `--bench`, as
//! under `cargo test --benches`, it only runs each once to see that it works.
//!
//! Outbound, a publication is encoded and released as a shard does it, once for each form in use
//! and whatever the number of members. Inbound, what one read returned is fed and all messages are
//! polled, as the hub does it; a connection at rest keeps no state, so the first frame of each read
//! pays for a new context. `ns` and `allocations` are for one message, `bytes` is what it becomes
//! on the wire or was there.
//!
//! Everything is in the nearest caches. Excluded: every system call, the copy into and out of the
//! kernel, jobs and effects.
#![allow(
    clippy::print_stdout,
    reason = "the figures are the product of a bench"
)]

use std::hint::black_box;
use std::sync::Arc;

use roomcast::base::{ConnId, Identity, Offset, RoomName, UserId};
use roomcast::exchange::Origin;
use roomcast::room::batch::Batch;
use roomcast::wire::frame::PayloadKind;
use roomcast::wire::raw::{Publication, WireForm};
use roomcast::wire::websocket::{Inbound, Replies};

use crate::bench_support::{client_frame, is_measuring, median, timed};
use crate::counting_alloc::{CountingAlloc, Counts, counted};

#[allow(dead_code, reason = "the benches share more than each of them needs")]
mod bench_support;
mod counting_alloc;

#[global_allocator]
static ALLOCATOR: CountingAlloc = CountingAlloc;

fn main() {
    let plan = if is_measuring() {
        Plan {
            rounds: 11,
            bytes_per_round: 20 << 20,
            messages_per_round_max: 50_000,
        }
    } else {
        Plan {
            rounds: 1,
            bytes_per_round: 1,
            messages_per_round_max: 1,
        }
    };
    println!(
        "{:<9} {:<34} {:>9} {:>10} {:>12} {:>16}",
        "", "one message", "bytes", "ns", "allocations", "allocated bytes"
    );
    for form in WireForm::ALL {
        for payload_bytes in [128, 64 << 10] {
            for merged in [1, 16] {
                let figures = encode(form, payload_bytes, merged, &plan);
                let name = format!("{form:?} {payload_bytes} B, {merged} a merge");
                print_line("outbound", &name, &figures);
            }
        }
    }
    for (payload_bytes, frames) in [(128, 1), (128, 16), (60 << 10, 1)] {
        let figures = decode(payload_bytes, frames, &plan);
        let name = format!("masked {payload_bytes} B, {frames} a read");
        print_line("inbound", &name, &figures);
    }
}

fn print_line(direction: &str, name: &str, figures: &Figures) {
    println!(
        "{direction:<9} {name:<34} {:>9} {:>10.1} {:>12.2} {:>16.0}",
        figures.wire_bytes, figures.nanos, figures.allocations, figures.allocated_bytes
    );
}

/// How much is done to get a figure.
struct Plan {
    rounds: usize,
    bytes_per_round: usize,
    messages_per_round_max: usize,
}

/// All for one message.
struct Figures {
    wire_bytes: usize,
    nanos: f64,
    allocations: f64,
    allocated_bytes: f64,
}

impl Plan {
    /// Does `work`, which handles `messages` of `wire_bytes` each, again and again.
    fn measure(&self, messages: usize, wire_bytes: usize, mut work: impl FnMut()) -> Figures {
        work();
        let ((), counts): (_, Counts) = counted(&mut work);
        let repetitions = (self.bytes_per_round / wire_bytes)
            .min(self.messages_per_round_max)
            .div_ceil(messages)
            .max(1);
        let [nanos] = median(self.rounds, || {
            let spent = timed(|| {
                for _ in 0..repetitions {
                    work();
                }
            });
            [spent / (repetitions * messages) as f64]
        });
        Figures {
            wire_bytes,
            nanos,
            allocations: counts.allocations as f64 / messages as f64,
            allocated_bytes: counts.bytes as f64 / messages as f64,
        }
    }
}

fn encode(form: WireForm, payload_bytes: usize, merged: usize, plan: &Plan) -> Figures {
    let room = RoomName::new("live:42").expect("a good name");
    let identity = Arc::new(Identity {
        user: UserId::new("alice").expect("a good id"),
        info: None,
    });
    let payload = "x".repeat(payload_bytes);
    let publication = Publication {
        offset: Offset(1_000_000),
        unix_ms: 1_767_225_600_000,
        origin: ConnId::NONE,
        node: None,
        identity: Some(&identity),
        kind: PayloadKind::Text,
        payload: payload.as_bytes(),
    };
    let origin = Origin {
        conn: ConnId::NONE,
        payload_bytes: payload_bytes as u32,
        command: 0,
        is_answered: false,
    };
    let mut batch = Batch::default();
    let mut release = || {
        for _ in 0..merged {
            let publication = (black_box(&publication), origin);
            batch.push(&room, publication, usize::MAX, |used| used == form);
        }
        batch.take(&room).expect("something was pushed")
    };
    let encoded = release();
    let frames = encoded.forms[form.index()].as_ref();
    let wire_bytes = frames.expect("the form is used").bytes().len() / merged;
    plan.measure(merged, wire_bytes, || drop(black_box(release())))
}

fn decode(payload_bytes: usize, frames: usize, plan: &Plan) -> Figures {
    let frame = client_frame(&vec![b'x'; payload_bytes]);
    let input = frame.repeat(frames);
    let mut inbound = Inbound::default();
    plan.measure(frames, frame.len(), || {
        inbound.feed(black_box(&input), MESSAGE_BYTES_MAX);
        let mut messages = 0;
        while let Some(payload) = inbound.poll(&mut NoReplies).expect("good frames") {
            drop(black_box(payload));
            messages += 1;
        }
        assert_eq!(messages, frames, "every message comes out");
    })
}

/// Nothing is pinged here.
struct NoReplies;

impl Replies for NoReplies {
    fn pong(&mut self, _frame: &[u8]) {
        unreachable!("a pong without a ping");
    }
}

const MESSAGE_BYTES_MAX: usize = 64 << 10;
