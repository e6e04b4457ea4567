//! Waking a loop that sleeps, and only then.
//!
//! Invariant: after somebody has left something for the loop and called, either the loop is going to
//! look or a wake-up is on its way. The loop takes note of a call *before* it looks, and does not fall
//! asleep over one; whoever calls a sleeper wakes it.
//!
//! ```text
//!          loop: try_sleep                       call, with a wake-up
//! AWAKE ───────────────────► ASLEEP ──────────────────────────────────┐
//!   ▲ ▲ └────────────────────────────────────────────► CALLED ◄───────┘
//!   │ │                      call                         │
//!   │ └── loop: note_awake, from ASLEEP too               │
//!   └──────────────── loop: begin_look ───────────────────┘
//! ```
//!
//! `tests/bell_loom.rs` takes this file and the mailbox's through the orders of events.

use super::sync::{Arc, AtomicBool, AtomicU8, Ordering, Waker};

/// What the loop and those who call it share. Clones are the same bell.
#[derive(Clone, Debug)]
pub(crate) struct Bell(Arc<Signal>);

#[derive(Debug)]
struct Signal {
    waker: Arc<Waker>,
    /// One of the three below.
    state: AtomicU8,
    has_failed: AtomicBool,
}

/// The loop sleeps, or is about to and has looked for the last time.
const ASLEEP: u8 = 0;
/// The loop will try to sleep, and learn of a call that came meanwhile.
const AWAKE: u8 = 1;
/// The loop will look before it sleeps.
const CALLED: u8 = 2;

impl Bell {
    /// The bell of a loop that `waker` wakes.
    pub(crate) fn new(waker: Arc<Waker>) -> Self {
        Self(Arc::new(Signal {
            waker,
            state: AtomicU8::new(AWAKE),
            has_failed: AtomicBool::new(false),
        }))
    }

    /// Makes the loop look, and wakes it if it sleeps.
    pub(crate) fn call(&self) {
        if self.0.state.swap(CALLED, Ordering::AcqRel) == ASLEEP
            && let Err(error) = self.0.waker.wake()
        {
            // Without wake-ups the daemon would answer late and nobody would know why.
            log::error!("the loop cannot be woken: {error}");
            self.0.has_failed.store(true, Ordering::Release);
        }
    }

    /// Tells the loop that it cannot go on: a thread that it needs has died.
    pub(crate) fn fail(&self) {
        self.0.has_failed.store(true, Ordering::Release);
        self.call();
    }

    /// Must be called by the loop before it looks.
    pub(crate) fn begin_look(&self) {
        // Read first: mostly nobody has called, and a plain load leaves the cache line shared.
        if self.0.state.load(Ordering::Acquire) == CALLED {
            self.0.state.swap(AWAKE, Ordering::AcqRel);
        }
    }

    /// The loop wants to sleep. Returns whether it may, as nobody has called since its last look;
    /// from now on a call is a wake-up.
    pub(crate) fn try_sleep(&self) -> bool {
        let state = &self.0.state;
        state
            .compare_exchange(AWAKE, ASLEEP, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// The loop does not sleep, or no longer, and is going to look.
    pub(crate) fn note_awake(&self) {
        self.0.state.swap(AWAKE, Ordering::AcqRel);
    }

    /// Whether the loop cannot go on.
    pub(crate) fn has_failed(&self) -> bool {
        self.0.has_failed.load(Ordering::Acquire)
    }
}
