//! A shard's ends of the channels to and from the broker.
//!
//! Neither side ever waits for the other in a circle: the broker may wait until a shard takes its
//! events, a shard never waits until the broker takes its questions.

use std::time::Duration;

use crossbeam_channel::{Receiver, Select, Sender, TrySendError};

use crate::base::{Instant, Now};
use crate::clock;
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

    /// The node ends: has the shard give back what it holds in the cluster, and passes on what matters
    /// to other nodes, for [`LEAVING_MAX`] at most. Nobody hears what the broker says meanwhile.
    pub(crate) fn leave(&mut self, shard: &mut RoomShard) {
        shard.leave_cluster();
        let deadline = clock::read_instant() + LEAVING_MAX;
        while let Some(request) = self.stuck.take().or_else(|| shard.poll_request()) {
            let is_for_this_node = matches!(
                request,
                Request::Follow(_)
                    | Request::Unfollow(_)
                    | Request::Read { .. }
                    | Request::Look { .. }
            );
            if is_for_this_node {
                continue;
            }
            match self.requests.try_send(request) {
                Ok(()) => {}
                Err(TrySendError::Full(request)) => {
                    self.stuck = Some(request);
                    if !self.wait_for_room(deadline) {
                        log::warn!(
                            "the broker takes no more: what is held there ends with its lease"
                        );
                        return;
                    }
                }
                Err(TrySendError::Disconnected(_)) => return,
            }
        }
    }

    /// Waits until the broker may have room for a question; returns whether there is time for it.
    fn wait_for_room(&self, deadline: Instant) -> bool {
        // The broker may wait for room for its events, and not for questions before it has it.
        while self.events.try_recv().is_ok() {}
        let left = deadline.saturating_duration_since(clock::read_instant());
        let mut select = Select::new();
        self.select(&mut select);
        select.ready_timeout(left).is_ok() && !left.is_zero()
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

/// Longest wait at the end for room for what is to be passed on. The broker takes tens of thousands of
/// requests in that time; one that takes none would have them expire.
const LEAVING_MAX: Duration = Duration::from_secs(1);

/// Most events taken before what follows from them is sent.
const EVENTS_PER_RUN: usize = 256;
