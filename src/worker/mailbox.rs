//! Effects on their way from the workers to the loop.
//!
//! Owns: the bounded channel and the flag that coalesces wake-ups.
//! Never: blocks the loop. A worker blocks when the channel is full; the loop always drains it, so
//! there is no cycle of waits.
//!
//! Invariant: after a worker has sent and asked for a wake-up, either the loop is going to look at
//! the channel or a wake-up is on its way. The loop clears the flag *before* it drains, so an
//! effect sent after the last look finds the flag clear and wakes it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

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
    is_awake: AtomicBool,
    has_failed: AtomicBool,
}

/// The loop has gone, and with it all reason to work.
#[derive(Debug)]
pub(crate) struct LoopGone;

/// A mailbox for `effects_max` effects.
pub(crate) fn mailbox(effects_max: usize, waker: Arc<mio::Waker>) -> (EffectSender, Mailbox) {
    let (sender, receiver) = bounded(effects_max);
    let signal = Arc::new(Signal {
        waker,
        is_awake: AtomicBool::new(false),
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
                self.wake();
                self.effects.send(effect).map_err(|_| LoopGone)
            }
        }
    }

    /// Makes the loop look, unless it is going to anyway.
    pub(crate) fn wake(&self) {
        if !self.signal.is_awake.swap(true, Ordering::AcqRel)
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
        self.signal.is_awake.store(false, Ordering::Release);
        self.wake();
    }
}

impl Mailbox {
    /// Must be called before a round of [`Mailbox::poll`].
    pub(crate) fn clear_flag(&self) {
        // Read first: the flag is mostly clear, and a plain load leaves the cache line shared.
        if self.signal.is_awake.load(Ordering::Acquire) {
            self.signal.is_awake.swap(false, Ordering::AcqRel);
        }
    }

    /// The next effect.
    pub(crate) fn poll(&self) -> Option<Effect> {
        self.effects.try_recv().ok()
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
                        effects.wake();
                    }
                });
            }
            let mut events = mio::Events::with_capacity(8);
            let mut received = 0;
            while received < threads * each {
                let deadline = Some(Duration::from_secs(20));
                poll.poll(&mut events, deadline).expect("a poll");
                assert!(
                    !events.is_empty(),
                    "a wake-up was lost after {received} effects"
                );
                mailbox.clear_flag();
                while mailbox.poll().is_some() {
                    received += 1;
                }
            }
        });
        assert!(mailbox.is_empty());
    }
}
