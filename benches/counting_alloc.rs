//! Counts heap allocations, to show that a path said not to allocate does not.
//!
//! A module of the benches that need it, not a bench of its own. The bench names the allocator:
//!
//! ```text
//! mod counting_alloc;
//! #[global_allocator]
//! static ALLOCATOR: counting_alloc::CountingAlloc = counting_alloc::CountingAlloc;
//! ```
//!
//! This is the one place with `unsafe` code. `GlobalAlloc` is an unsafe trait, and nothing else on
//! stable Rust sees every allocation. That is why the package denies `unsafe_code`, which can be
//! allowed here with a reason, and the library forbids it, which nothing inside it can undo.
#![allow(
    unsafe_code,
    reason = "an allocator cannot be written without, and this one only forwards"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// The system's allocator with counters in front.
pub(crate) struct CountingAlloc;

/// What was asked of the allocator during a call of [`counted`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Allocations and reallocations; giving memory back is not counted.
    pub(crate) allocations: u64,
    /// Sum of the sizes asked for; a reallocation counts with its whole new size.
    pub(crate) bytes: u64,
    /// Bytes asked for and not given back; negative if more was given back. The allocator's own
    /// overhead for each block comes on top.
    pub(crate) kept_bytes: i64,
    /// The same with what glibc's malloc adds to each block, see [`malloc_bytes`].
    pub(crate) kept_taken_bytes: i64,
    /// The same in blocks.
    pub(crate) kept_blocks: i64,
}

impl Counts {
    fn now() -> Self {
        Self {
            allocations: ALLOCATIONS.load(Ordering::Relaxed),
            bytes: BYTES.load(Ordering::Relaxed),
            kept_bytes: KEPT_BYTES.load(Ordering::Relaxed),
            kept_taken_bytes: KEPT_TAKEN_BYTES.load(Ordering::Relaxed),
            kept_blocks: KEPT_BLOCKS.load(Ordering::Relaxed),
        }
    }
}

/// Returns the result of `f` and what was allocated meanwhile, by any thread.
///
/// Panics if [`CountingAlloc`] is not the global allocator, rather than report a wrong zero.
pub(crate) fn counted<R>(f: impl FnOnce() -> R) -> (R, Counts) {
    let unarmed = Counts::now();
    drop(black_box(Box::new(0_u8)));
    let before = Counts::now();
    assert_ne!(unarmed, before, "the bench lacks its #[global_allocator]");
    let result = f();
    let after = Counts::now();
    let counts = Counts {
        allocations: after.allocations - before.allocations,
        bytes: after.bytes - before.bytes,
        kept_bytes: after.kept_bytes - before.kept_bytes,
        kept_taken_bytes: after.kept_taken_bytes - before.kept_taken_bytes,
        kept_blocks: after.kept_blocks - before.kept_blocks,
    };
    (result, counts)
}

/// What glibc's malloc takes for a block: a word before it, in steps of 16 bytes, at least 32; a
/// large one has pages of its own.
pub(crate) fn malloc_bytes(bytes: usize) -> usize {
    if bytes < MMAP_THRESHOLD {
        (bytes + 8).next_multiple_of(16).max(32)
    } else {
        (bytes + 16).next_multiple_of(4096)
    }
}

/// Where glibc begins to give a block pages of its own, until it has learnt better.
const MMAP_THRESHOLD: usize = 128 << 10;

// Relaxed, in both: the counters order nothing, and the caller waits for its own threads.

fn count(bytes: usize) {
    ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    BYTES.fetch_add(bytes as u64, Ordering::Relaxed);
}

/// A block of `old` bytes has become one of `new`; 0 is none.
fn keep(old: usize, new: usize) {
    let taken = |bytes: usize| {
        if bytes > 0 {
            malloc_bytes(bytes) as i64
        } else {
            0
        }
    };
    KEPT_BLOCKS.fetch_add(i64::from(new > 0) - i64::from(old > 0), Ordering::Relaxed);
    KEPT_BYTES.fetch_add(new as i64 - old as i64, Ordering::Relaxed);
    KEPT_TAKEN_BYTES.fetch_add(taken(new) - taken(old), Ordering::Relaxed);
}

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);
static KEPT_BLOCKS: AtomicI64 = AtomicI64::new(0);
static KEPT_BYTES: AtomicI64 = AtomicI64::new(0);
static KEPT_TAKEN_BYTES: AtomicI64 = AtomicI64::new(0);

// SAFETY: every method hands its arguments unchanged to `System`, which keeps the contract of
// `GlobalAlloc`; the counting neither allocates nor panics.
unsafe impl GlobalAlloc for CountingAlloc {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        keep(0, layout.size());
        // SAFETY: the caller keeps the contract of this method, which is that of `System`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        keep(0, layout.size());
        // SAFETY: as in `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count(new_size);
        keep(layout.size(), new_size);
        // SAFETY: as in `alloc`; `pointer` came from `System` because all methods forward to it.
        unsafe { System.realloc(pointer, layout, new_size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        keep(layout.size(), 0);
        // SAFETY: as in `realloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}
