//! Effects on their way from the workers to the loop.
//!
//! Owns: the bounded channel, and what the loop is doing, so that only one that sleeps is woken.
//! Never: blocks the loop. A worker blocks when the channel is full; the loop always drains it, so
//! there is no cycle of waits.
//!
//! Invariant: after a worker has sent and called, either the loop is going to look at the channel or
//! a wake-up is on its way. The loop takes note of a call *before* it looks, and does not fall
//! asleep over one; whoever calls a sleeper wakes it.
//!
//! ```text
//!          loop: try_sleep                   worker: call, with a wake-up
//! AWAKE ───────────────────► ASLEEP ──────────────────────────────────┐
//!   ▲ ▲ └────────────────────────────────────────────► CALLED ◄───────┘
//!   │ │                  worker: call                     │
//!   │ └── loop: note_awake, from ASLEEP too               │
//!   └──────────────── loop: begin_look ───────────────────┘
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use crate::exchange::Effect;

/// A worker's end.
#[derive(Clone, Debug)]
pub(crate) struct EffectSender {
    effects: Sender<Effect>,
    signal: Arc<Signal>,
}

/// The loop's end.
#[derive(Debug)]
pub(crate) struct Mailbox {
    effects: Receiver<Effect>,
    signal: Arc<Signal>,
}

#[derive(Debug)]
struct Signal {
    waker: Arc<mio::Waker>,
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

/// The loop has gone, and with it all reason to work.
#[derive(Debug)]
pub(crate) struct LoopGone;

/// A mailbox for `effects_max` effects.
pub(crate) fn mailbox(effects_max: usize, waker: Arc<mio::Waker>) -> (EffectSender, Mailbox) {
    let (sender, receiver) = bounded(effects_max);
    let signal = Arc::new(Signal {
        waker,
        state: AtomicU8::new(AWAKE),
        has_failed: AtomicBool::new(false),
    });
    (
        EffectSender {
            effects: sender,
            signal: Arc::clone(&signal),
        },
        Mailbox {
            effects: receiver,
            signal,
        },
    )
}

impl EffectSender {
    /// Sends an effect; waits while the mailbox is full.
    pub(crate) fn send(&self, effect: Effect) -> Result<(), LoopGone> {
        match self.effects.try_send(effect) {
            Ok(()) => Ok(()),
            Err(TrySendError::Disconnected(_)) => Err(LoopGone),
            Err(TrySendError::Full(effect)) => {
                self.call();
                self.effects.send(effect).map_err(|_| LoopGone)
            }
        }
    }

    /// Makes the loop look, and wakes it if it sleeps.
    pub(crate) fn call(&self) {
        if self.signal.state.swap(CALLED, Ordering::AcqRel) == ASLEEP
            && let Err(error) = self.signal.waker.wake()
        {
            // Without wake-ups the daemon would answer late and nobody would know why.
            log::error!("the loop cannot be woken: {error}");
            self.signal.has_failed.store(true, Ordering::Release);
        }
    }

    /// Tells the loop that a worker is dead.
    pub(crate) fn fail(&self) {
        self.signal.has_failed.store(true, Ordering::Release);
        self.call();
    }
}

impl Mailbox {
    /// Must be called before a round of [`Mailbox::poll`].
    pub(crate) fn begin_look(&self) {
        // Read first: mostly nobody has called, and a plain load leaves the cache line shared.
        if self.signal.state.load(Ordering::Acquire) == CALLED {
            self.signal.state.swap(AWAKE, Ordering::AcqRel);
        }
    }

    /// The loop wants to sleep. Returns whether it may, as nobody has called since its last look;
    /// from now on a call is a wake-up.
    pub(crate) fn try_sleep(&self) -> bool {
        let state = &self.signal.state;
        state
            .compare_exchange(AWAKE, ASLEEP, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// The loop does not sleep, or no longer, and is going to look.
    pub(crate) fn note_awake(&self) {
        self.signal.state.swap(AWAKE, Ordering::AcqRel);
    }

    /// The next effect.
    pub(crate) fn poll(&self) -> Option<Effect> {
        self.effects.try_recv().ok()
    }

    /// How many effects are waiting.
    pub(crate) fn len(&self) -> usize {
        self.effects.len()
    }

    /// Whether nothing is waiting.
    pub(crate) fn is_empty(&self) -> bool {
        self.effects.is_empty()
    }

    /// Whether a worker has died.
    pub(crate) fn has_failed(&self) -> bool {
        self.signal.has_failed.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::base::ConnId;

    #[test]
    fn only_a_sleeper_is_woken_and_nobody_sleeps_over_a_call() {
        let mut poll = mio::Poll::new().expect("a poll");
        let waker = mio::Waker::new(poll.registry(), mio::Token(7)).expect("a waker");
        let (effects, mailbox) = mailbox(8, Arc::new(waker));
        let mut events = mio::Events::with_capacity(8);
        let mut is_woken = || {
            let now = Some(Duration::ZERO);
            poll.poll(&mut events, now).expect("a poll");
            !events.is_empty()
        };
        effects.call();
        assert!(!is_woken(), "the loop is awake");
        assert!(!mailbox.try_sleep(), "it was called and has not looked");
        mailbox.begin_look();
        effects.call();
        assert!(
            !mailbox.try_sleep(),
            "it was called after it had begun to look"
        );
        mailbox.begin_look();
        assert!(mailbox.try_sleep());
        effects.call();
        assert!(is_woken(), "it sleeps");
        effects.call();
        assert!(!is_woken(), "a wake-up is on its way already");
        mailbox.note_awake();
        mailbox.begin_look();
        assert!(mailbox.try_sleep());
        effects.fail();
        assert!(is_woken() && mailbox.has_failed());
    }

    /// Senders and a loop that sleeps only in `poll`: every effect must arrive without a time-out.
    #[test]
    fn no_wake_up_is_lost() {
        const TOKEN: mio::Token = mio::Token(7);
        let mut poll = mio::Poll::new().expect("a poll");
        let waker = Arc::new(mio::Waker::new(poll.registry(), TOKEN).expect("a waker"));
        let (effects, mailbox) = mailbox(8, waker);
        let (threads, each) = (3, 2000);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                let effects = effects.clone();
                scope.spawn(move || {
                    for _ in 0..each {
                        let conn = ConnId::NONE;
                        let effect = Effect::JoinRefused { conn };
                        effects.send(effect).expect("the mailbox is there");
                        effects.call();
                    }
                });
            }
            let mut events = mio::Events::with_capacity(8);
            let mut received = 0;
            while received < threads * each {
                if mailbox.try_sleep() {
                    let deadline = Some(Duration::from_secs(20));
                    poll.poll(&mut events, deadline).expect("a poll");
                    assert!(
                        !events.is_empty(),
                        "a wake-up was lost after {received} effects"
                    );
                    mailbox.note_awake();
                }
                mailbox.begin_look();
                while mailbox.poll().is_some() {
                    received += 1;
                }
            }
        });
        assert!(mailbox.is_empty());
    }
}
