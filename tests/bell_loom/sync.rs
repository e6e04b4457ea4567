//! What the model makes the bell and the mailbox of, in the place of `src/worker/sync.rs`.
//!
//! Atomics are loom's: a load may return any value that the memory model of C11 allows, and every
//! order of the threads is tried. Channel and waker are built of loom's locks. A process can be given
//! a [`Flaw`], so that a test can show that the model notices.

use std::collections::VecDeque;
use std::io;
use std::sync::LazyLock;

use loom::sync::{Condvar, Mutex, atomic};

pub(crate) use crossbeam_channel::{SendError, TryRecvError, TrySendError};
pub(crate) use loom::sync::Arc;
pub(crate) use loom::sync::atomic::Ordering;

/// What is wrong with the parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// A caller reads the state and then writes it, where it should swap.
    CallInTwoSteps,
    /// A loop that goes to sleep reads the state and then writes it, where it should compare and
    /// exchange.
    SleepInTwoSteps,
    /// A loop that is awake writes the state without reading it.
    AwakeUnread,
    /// A call does not release what was left before it.
    CallUnreleased,
    /// A look does not acquire what was left before the call.
    LookUnacquired,
    /// A sleeper is not woken.
    WakeDropped,
    /// A sender that finds the mailbox full waits without a call.
    WaitUncalled,
    /// The loop looks first, and takes note of calls then.
    LookFirst,
    /// The loop sleeps although it may not.
    SleepUnasked,
    /// An order wakes the loop before it lies in the queue.
    WakeFirst,
}

/// Names the one flaw of a process that is to have one.
pub(crate) const FLAW: &str = "BELL_FLAW";

/// Whether this is wrong with the parts.
pub(crate) fn has(flaw: Flaw) -> bool {
    static NAME: LazyLock<Option<String>> = LazyLock::new(|| std::env::var(FLAW).ok());
    NAME.as_ref()
        .is_some_and(|name| *name == format!("{flaw:?}"))
}

/// The bell's state, of which 2 is `CALLED` and 1 `AWAKE`.
#[derive(Debug)]
pub(crate) struct AtomicU8(atomic::AtomicU8);

const CALLED: u8 = 2;
const AWAKE: u8 = 1;

impl AtomicU8 {
    pub(crate) fn new(value: u8) -> Self {
        Self(atomic::AtomicU8::new(value))
    }

    pub(crate) fn load(&self, order: Ordering) -> u8 {
        self.0.load(if has(Flaw::LookUnacquired) {
            Ordering::Relaxed
        } else {
            order
        })
    }

    /// The bell does without; for whoever tries another one.
    #[allow(dead_code, reason = "a bell with a planted bug may need it")]
    pub(crate) fn store(&self, value: u8, order: Ordering) {
        self.0.store(value, order);
    }

    pub(crate) fn swap(&self, value: u8, order: Ordering) -> u8 {
        if value == CALLED && has(Flaw::CallInTwoSteps) {
            let old = self.0.load(Ordering::Acquire);
            self.0.store(value, Ordering::Release);
            return old;
        }
        if value == AWAKE && has(Flaw::AwakeUnread) {
            self.0.store(value, Ordering::Release);
            return value;
        }
        if value == CALLED && has(Flaw::CallUnreleased) {
            return self.0.swap(value, Ordering::Acquire);
        }
        if value == AWAKE && has(Flaw::LookUnacquired) {
            return self.0.swap(value, Ordering::Release);
        }
        self.0.swap(value, order)
    }

    pub(crate) fn compare_exchange(
        &self,
        current: u8,
        new: u8,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u8, u8> {
        if has(Flaw::SleepInTwoSteps) {
            let old = self.0.load(Ordering::Acquire);
            if old != current {
                return Err(old);
            }
            self.0.store(new, Ordering::Release);
            return Ok(old);
        }
        if has(Flaw::LookUnacquired) {
            let (success, failure) = (Ordering::Release, Ordering::Relaxed);
            return self.0.compare_exchange(current, new, success, failure);
        }
        self.0.compare_exchange(current, new, success, failure)
    }
}

/// Whether the loop cannot go on.
#[derive(Debug)]
pub(crate) struct AtomicBool(atomic::AtomicBool);

impl AtomicBool {
    pub(crate) fn new(value: bool) -> Self {
        Self(atomic::AtomicBool::new(value))
    }

    pub(crate) fn load(&self, order: Ordering) -> bool {
        self.0.load(order)
    }

    pub(crate) fn store(&self, value: bool, order: Ordering) {
        self.0.store(value, order);
    }
}

/// What a loop sleeps on: a wake-up stays until the loop has polled.
#[derive(Debug)]
pub(crate) struct Waker {
    is_woken: Mutex<bool>,
    waking: Condvar,
}

impl Waker {
    pub(crate) fn new() -> Self {
        Self {
            is_woken: Mutex::new(false),
            waking: Condvar::new(),
        }
    }

    pub(crate) fn wake(&self) -> io::Result<()> {
        if !has(Flaw::WakeDropped) {
            *self.is_woken.lock().expect("no panic") = true;
            self.waking.notify_one();
        }
        Ok(())
    }

    /// Takes a wake-up; waits for one first, if the loop sleeps.
    pub(crate) fn poll(&self, sleeps: bool) {
        let mut is_woken = self.is_woken.lock().expect("no panic");
        while sleeps && !*is_woken {
            is_woken = self.waking.wait(is_woken).expect("no panic");
        }
        *is_woken = false;
    }
}

/// A bounded channel, for as many senders as there are.
pub(crate) fn bounded<T>(len_max: usize) -> (Sender<T>, Receiver<T>) {
    let queue = Arc::new(Queue {
        items: Mutex::new(VecDeque::new()),
        taken: Condvar::new(),
        len_max,
    });
    (Sender(Arc::clone(&queue)), Receiver(queue))
}

#[derive(Debug)]
struct Queue<T> {
    items: Mutex<VecDeque<T>>,
    taken: Condvar,
    len_max: usize,
}

#[derive(Debug)]
pub(crate) struct Sender<T>(Arc<Queue<T>>);

#[derive(Debug)]
pub(crate) struct Receiver<T>(Arc<Queue<T>>);

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Sender<T> {
    pub(crate) fn try_send(&self, item: T) -> Result<(), TrySendError<T>> {
        if has(Flaw::WaitUncalled) {
            return self.send(item).map_err(TrySendError::from);
        }
        let mut items = self.0.items.lock().expect("no panic");
        if items.len() == self.0.len_max {
            return Err(TrySendError::Full(item));
        }
        items.push_back(item);
        Ok(())
    }

    pub(crate) fn send(&self, item: T) -> Result<(), SendError<T>> {
        let mut items = self.0.items.lock().expect("no panic");
        while items.len() == self.0.len_max {
            items = self.0.taken.wait(items).expect("no panic");
        }
        items.push_back(item);
        Ok(())
    }
}

impl<T> Receiver<T> {
    pub(crate) fn try_recv(&self) -> Result<T, TryRecvError> {
        let item = self.0.items.lock().expect("no panic").pop_front();
        let item = item.ok_or(TryRecvError::Empty)?;
        self.0.taken.notify_one();
        Ok(item)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.items.lock().expect("no panic").len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
