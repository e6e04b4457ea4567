//! The way from the broker's threads to the shards.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::{SendTimeoutError, Sender, TrySendError};

use crate::cluster::Event;

/// The way to one shard.
#[derive(Clone)]
pub struct EventSender {
    /// The shard's queue. It has a bound; whoever is behind it must not wait for the broker.
    pub queue: Sender<Event>,
    /// Makes the shard look at its queue.
    pub wake: Arc<dyn Fn() + Send + Sync>,
}

impl fmt::Debug for EventSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventSender").finish_non_exhaustive()
    }
}

/// The ways to all shards.
#[derive(Clone, Debug)]
pub(super) struct Outputs {
    pub(super) senders: Arc<[EventSender]>,
    /// Which shard hears what concerns the whole node.
    pub(super) lead: usize,
    pub(super) is_stopping: Arc<AtomicBool>,
}

impl Outputs {
    /// Sends an event; waits while the queue is full, unless the broker is stopping.
    pub(super) fn send(&self, shard: usize, event: Event) {
        let Some(sender) = self.senders.get(shard) else {
            debug_assert!(false, "a shard that there is not");
            return;
        };
        let mut waiting = match sender.queue.try_send(event) {
            Ok(()) => return (sender.wake)(),
            // A shard that has gone needs to know nothing.
            Err(TrySendError::Disconnected(_)) => return,
            Err(TrySendError::Full(event)) => event,
        };
        (sender.wake)();
        loop {
            match sender.queue.send_timeout(waiting, LOOK_INTERVAL) {
                Ok(()) => return (sender.wake)(),
                Err(SendTimeoutError::Disconnected(_)) => return,
                Err(SendTimeoutError::Timeout(event)) => {
                    if self.is_stopping() {
                        return;
                    }
                    waiting = event;
                }
            }
        }
    }

    /// Sends an event to every shard.
    pub(super) fn send_all(&self, event: &Event) {
        for shard in 0..self.senders.len() {
            self.send(shard, event.clone());
        }
    }

    /// Sends an event to the shard that hears what concerns the whole node.
    pub(super) fn send_lead(&self, event: Event) {
        self.send(self.lead, event);
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::Acquire)
    }
}

/// How soon a thread that waits for a shard notices that the broker is stopping.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
