//! What does a send queue cost? Nanoseconds and allocations of push, fill and advance.
//!
//! `cargo bench --bench send_queue` prints one line for each way a queue is used. Without
//! `--bench`, as under `cargo test --benches`, it only runs each once to see that it works.
//!
//! Each step is done to many queues in a row and timed over all of them, so that no clock is read
//! in between. Queues and frames stay in the nearest caches; what it costs to fetch them from
//! farther away is in the bench `fanout`. The frames hold 128 bytes each.
//!
//! Columns, for one queue
//! - `push`, `fill`, `advance`: nanoseconds, for all entries and all writes of the line.
//! - `allocations`: in the steady state, when the queue has been through the same before.
//!
//! Excluded: the write itself, every system call, and the hub's part of a push (bounds, the list
//! of connections to write to).
#![allow(
    clippy::print_stdout,
    reason = "the figures are the product of a bench"
)]

use std::hint::black_box;
use std::io::IoSlice;
use std::sync::Arc;

use roomcast::conn::send_queue::SendQueue;
use roomcast::wire::frame::{Frames, FramesBuilder, PayloadKind};
use roomcast::wire::websocket::Replies as _;

use crate::bench_support::{is_measuring, median, timed};
use crate::counting_alloc::{CountingAlloc, counted};

#[allow(dead_code, reason = "the benches share more than each of them needs")]
mod bench_support;
mod counting_alloc;

#[global_allocator]
static ALLOCATOR: CountingAlloc = CountingAlloc;

fn main() {
    let (rounds, repetitions) = if is_measuring() { (11, 500) } else { (1, 1) };
    println!(
        "{:<42} {:>7} {:>8} {:>8} {:>11} {:>8} {:>12}",
        "one queue", "writes", "push ns", "fill ns", "advance ns", "sum ns", "allocations"
    );
    for case in cases() {
        let figures = measure(&case, rounds, repetitions);
        let [push, fill, advance] = figures.nanos;
        println!(
            "{:<42} {:>7} {push:>8.1} {fill:>8.1} {advance:>11.1} {:>8.1} {:>12.2}",
            case.name,
            figures.writes,
            push + fill + advance,
            figures.allocations,
        );
    }
}

/// A way to use a queue.
struct Case {
    name: &'static str,
    /// What is pushed.
    entries: Vec<Arc<Frames>>,
    /// A control frame that comes once this much of it is written.
    control: Option<(Control, usize)>,
    /// What one write takes, in bytes.
    write_bytes: usize,
    allocates: bool,
}

#[derive(Clone, Copy)]
enum Control {
    Ping,
    Pong,
}

fn cases() -> Vec<Case> {
    let one = message();
    let merge = merged(32);
    let case = |name, entries| Case {
        name,
        entries,
        control: None,
        write_bytes: usize::MAX,
        allocates: false,
    };
    let entries = |count| vec![Arc::clone(&one); count];
    vec![
        case("1 entry", entries(1)),
        case(
            "1 entry, a merge of 32 publications",
            vec![Arc::clone(&merge)],
        ),
        case("16 entries", entries(16)),
        // One more than an empty queue keeps room for.
        case("17 entries", entries(17)),
        Case {
            write_bytes: 100,
            ..case("1 entry, 100 bytes a write", entries(1))
        },
        Case {
            write_bytes: 100,
            ..case("16 entries, 100 bytes a write", entries(16))
        },
        Case {
            write_bytes: 100,
            ..case("1 entry, a merge of 32, 100 bytes a write", vec![merge])
        },
        Case {
            control: Some((Control::Ping, 0)),
            ..case("a ping alone", entries(0))
        },
        Case {
            control: Some((Control::Pong, 0)),
            allocates: true,
            ..case("a pong of 125 bytes alone", entries(0))
        },
        Case {
            control: Some((Control::Ping, 100)),
            ..case("16 entries, a ping into the first", entries(16))
        },
    ]
}

struct Figures {
    writes: usize,
    nanos: [f64; 3],
    allocations: f64,
}

fn measure(case: &Case, rounds: usize, repetitions: usize) -> Figures {
    let mut queues: Vec<SendQueue> = (0..QUEUES).map(|_| SendQueue::default()).collect();
    let mut spent = [0.0; 3];
    let writes = cycle(case, &mut queues, &mut spent);
    let (_, counts) = counted(|| cycle(case, &mut queues, &mut spent));
    assert_eq!(
        counts.allocations > 0,
        case.allocates,
        "{}: {counts:?}",
        case.name
    );
    let nanos = median(rounds, || {
        let mut spent = [0.0; 3];
        for _ in 0..repetitions {
            cycle(case, &mut queues, &mut spent);
        }
        spent.map(|sum| sum / (repetitions * QUEUES) as f64)
    });
    Figures {
        writes,
        nanos,
        allocations: counts.allocations as f64 / QUEUES as f64,
    }
}

/// Takes all queues from empty to full to empty; adds up what push, fill and advance took.
/// Returns how many writes each needed.
fn cycle(case: &Case, queues: &mut [SendQueue], spent: &mut [f64; 3]) -> usize {
    let [push, fill, advance] = spent;
    *push += timed(|| {
        for queue in &mut *queues {
            for frames in &case.entries {
                black_box(&mut *queue).push(frames, frames.count() as u32);
            }
        }
    });
    let mut writes = 0;
    if let Some((control, written)) = case.control {
        if written > 0 {
            let filled = timed(|| assert_eq!(fill_all(queues, written), written));
            *fill += filled;
            *advance += timed(|| advance_all(queues, written));
            writes += 1;
        }
        *push += timed(|| {
            for queue in &mut *queues {
                match control {
                    Control::Ping => black_box(queue).push_ping(),
                    Control::Pong => black_box(queue).pong(&PONG),
                }
            }
        });
    }
    // All queues hold the same, so one tells for all when they are empty.
    while !queues[0].is_empty() {
        let mut bytes = 0;
        *fill += timed(|| bytes = fill_all(queues, case.write_bytes));
        *advance += timed(|| advance_all(queues, bytes));
        writes += 1;
    }
    writes
}

/// Asks each queue what to write; returns what a socket would take of it.
fn fill_all(queues: &[SendQueue], write_bytes: usize) -> usize {
    let mut taken = 0;
    for queue in queues {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let filled = black_box(queue).fill(&mut slices);
        let offered: usize = black_box(&slices[..filled])
            .iter()
            .map(|slice| slice.len())
            .sum();
        taken = offered.min(write_bytes);
    }
    taken
}

fn advance_all(queues: &mut [SendQueue], bytes: usize) {
    for queue in queues {
        black_box(queue).advance(black_box(bytes));
    }
}

fn message() -> Arc<Frames> {
    Frames::message(PayloadKind::Text, &PAYLOAD)
}

fn merged(count: usize) -> Arc<Frames> {
    let mut builder = FramesBuilder::default();
    for _ in 0..count {
        builder.push(PayloadKind::Text, &PAYLOAD);
    }
    builder.take()
}

const PAYLOAD: [u8; 128] = [b'x'; 128];

/// The longest pong there is.
const PONG: [u8; 127] = {
    let mut frame = [b'x'; 127];
    frame[0] = 0x8a;
    frame[1] = 125;
    frame
};

/// Few enough for the nearest caches.
const QUEUES: usize = 64;

/// Pieces offered to one write, as the loop does.
const SLICES: usize = 32;
