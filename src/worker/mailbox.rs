//! Effects on their way from the workers to the loop.
//!
//! Owns: the bounded channel, and with it the bell that wakes the loop.
//! Never: blocks the loop. A worker blocks when the channel is full; the loop always drains it, so
//! there is no cycle of waits.

use super::bell::Bell;
use super::sync::{Receiver, Sender, TrySendError, bounded};
use crate::exchange::Effect;

/// A worker's end.
#[derive(Clone, Debug)]
pub(crate) struct EffectSender {
    effects: Sender<Effect>,
    bell: Bell,
}

/// The loop's end.
#[derive(Debug)]
pub(crate) struct Mailbox {
    effects: Receiver<Effect>,
    bell: Bell,
}

/// The loop has gone, and with it all reason to work.
#[derive(Debug)]
pub(crate) struct LoopGone;

/// A mailbox for `effects_max` effects.
pub(crate) fn mailbox(effects_max: usize, bell: &Bell) -> (EffectSender, Mailbox) {
    let (sender, receiver) = bounded(effects_max);
    (
        EffectSender {
            effects: sender,
            bell: bell.clone(),
        },
        Mailbox {
            effects: receiver,
            bell: bell.clone(),
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
        self.bell.call();
    }

    /// Tells the loop that a worker is dead.
    pub(crate) fn fail(&self) {
        self.bell.fail();
    }
}

impl Mailbox {
    /// The bell that is rung for it.
    pub(crate) fn bell(&self) -> &Bell {
        &self.bell
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
}
