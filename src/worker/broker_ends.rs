//! A shard's ends of the channels to and from the broker.
//!
//! Neither side ever waits for the other in a circle: the broker may wait until a shard takes its
//! events, a shard never waits until the broker takes its questions.

use crossbeam_channel::{Receiver, Select, Sender, TrySendError};

use crate::base::Now;
use crate::cluster::{Event, Request};
use crate::shard::RoomShard;

/// What connects one shard with the broker.
#[derive(Debug)]
pub(crate) struct BrokerEnds {
    events: Receiver<Event>,
    requests: Sender<Request>,
    /// A question that the broker has no room for yet.
    stuck: Option<Request>,
}

impl BrokerEnds {
    /// The ends of one shard.
    pub(crate) fn new(events: Receiver<Event>, requests: Sender<Request>) -> Self {
        Self {
            events,
            requests,
            stuck: None,
        }
    }

    /// Gives the shard what the broker has said, up to a bound.
    pub(crate) fn take_events(&self, now: Now, shard: &mut RoomShard) {
        for _ in 0..EVENTS_PER_RUN {
            let Ok(event) = self.events.try_recv() else {
                return;
            };
            shard.handle_event(now, event);
        }
    }

    /// Passes the shard's questions on, as far as the broker has room for them.
    pub(crate) fn pass_requests(&mut self, shard: &mut RoomShard) {
        while let Some(request) = self.stuck.take().or_else(|| shard.poll_request()) {
            match self.requests.try_send(request) {
                Ok(()) => {}
                Err(TrySendError::Full(request)) => {
                    self.stuck = Some(request);
                    return;
                }
                // The broker ends with the daemon.
                Err(TrySendError::Disconnected(_)) => {}
            }
        }
    }

    /// Whether the broker has said something.
    pub(crate) fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// Adds what there is to wait for.
    pub(crate) fn select<'a>(&'a self, select: &mut Select<'a>) {
        select.recv(&self.events);
        if self.stuck.is_some() {
            select.send(&self.requests);
        }
    }
}

/// Most events taken before what follows from them is sent.
const EVENTS_PER_RUN: usize = 256;
