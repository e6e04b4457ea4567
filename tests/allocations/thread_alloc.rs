//! Counts the allocations of each thread by itself.
//!
//! The one place under `tests` with `unsafe` code: `GlobalAlloc` is an unsafe trait, and nothing
//! else on stable Rust sees every allocation. The library forbids unsafe code all the same.
#![allow(
    unsafe_code,
    reason = "an allocator cannot be written without, and this one only forwards"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};

/// The system's allocator with a counter for each thread in front.
pub(crate) struct ThreadAlloc;

// Neither needs memory of its own or has anything to drop, so an allocator may use them at any time.
thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
    static SHOWN: Cell<Option<&'static AtomicU64>> = const { Cell::new(None) };
}

/// Returns the result of `f`, and how often this thread allocated or reallocated meanwhile.
///
/// Panics if [`ThreadAlloc`] is not the global allocator, rather than report a wrong zero.
pub(crate) fn counted<R>(f: impl FnOnce() -> R) -> (R, u64) {
    let unarmed = COUNT.get();
    drop(black_box(Box::new(0_u8)));
    let before = COUNT.get();
    assert_ne!(unarmed, before, "the test lacks its #[global_allocator]");
    let result = f();
    (result, COUNT.get() - before)
}

/// From now on this thread counts for `counter`, too.
pub(crate) fn show_in(counter: &'static AtomicU64) {
    SHOWN.set(Some(counter));
}

fn count() {
    COUNT.set(COUNT.get() + 1);
    if let Some(counter) = SHOWN.get() {
        counter.fetch_add(1, Ordering::SeqCst);
    }
}

// SAFETY: every method hands its arguments unchanged to `System`, which keeps the contract of
// `GlobalAlloc`; the counting neither allocates nor panics.
unsafe impl GlobalAlloc for ThreadAlloc {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of this method, which is that of `System`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as in `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count();
        // SAFETY: as in `alloc`; `pointer` came from `System` because all methods forward to it.
        unsafe { System.realloc(pointer, layout, new_size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as in `realloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}
