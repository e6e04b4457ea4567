//! When a connection is read: its bounds on what waits for a worker, and who has paused it.

use super::pressure::Level;
use super::send_queue::SendQueue;
use super::session::Session;
use super::{Connection, InFlight, Open, Phase, Purpose};
use crate::base::{CloseReason, Instant, Limits};
use crate::wire::frame::Payload;
use crate::wire::websocket::InputEnd;

impl Connection {
    /// Whether bytes are wanted now. `false` also while earlier ones wait to be understood.
    #[must_use]
    pub fn is_reading(&self, limits: &Limits) -> bool {
        match &self.phase {
            Phase::Head { .. } | Phase::Body(_) | Phase::Closing { .. } => true,
            Phase::Calling { .. }
            | Phase::Answering { .. }
            | Phase::Joining(_)
            | Phase::Closed(..) => false,
            Phase::Open(open) => {
                let session = open.session.as_deref();
                open.inbound.is_drained()
                    && !session.is_some_and(Session::has_commands)
                    && self.may_poll(open, limits)
            }
        }
    }

    /// Whether the next message may be taken from the input of this open WebSocket.
    #[must_use]
    pub fn may_take_message(&self, limits: &Limits) -> bool {
        self.open().is_some_and(|open| self.may_poll(open, limits))
    }

    fn may_poll(&self, open: &Open, limits: &Limits) -> bool {
        if self.flags.awaits_worker {
            return false;
        }
        let InFlight { messages, bytes } = self.in_flight;
        if messages >= limits.inbound_messages_max
            || (messages > 0 && bytes >= limits.inbound_bytes_max())
        {
            return false;
        }
        if let Some(session) = &open.session {
            // Who does not read is not read.
            let is_full = self.queue.level().is_half_of(Level::bound(limits));
            return !session.is_busy() && !is_full;
        }
        match open.purpose {
            Purpose::Rooms { .. } => true,
            Purpose::Echo => self.may_echo(Level::default(), limits),
        }
    }

    /// Whether one message more may be echoed when so much is about to be queued. Every answer
    /// needs a place in the send queue: who does not read is not read.
    #[must_use]
    pub fn may_echo(&self, about_to_be_queued: Level, limits: &Limits) -> bool {
        let queued = self.queue.level();
        let publications = queued.publications + about_to_be_queued.publications;
        let bytes = queued.bytes + about_to_be_queued.bytes;
        (publications == 0 && bytes == 0)
            || (publications < limits.outbound_publications_max
                && bytes < limits.outbound_bytes_max / 2)
    }

    /// A message was handed to a worker.
    pub fn note_handed_over(&mut self, payload_bytes: usize) {
        self.in_flight.messages += 1;
        self.in_flight.bytes += payload_bytes;
    }

    /// A worker has answered so many messages, of so many payload bytes.
    pub fn note_answered(&mut self, (messages, payload_bytes): (usize, usize)) {
        debug_assert!(
            self.in_flight.messages >= messages,
            "answered more than was asked"
        );
        self.in_flight.messages -= messages;
        self.in_flight.bytes -= payload_bytes;
    }

    /// Messages that no worker has answered yet.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.messages
    }

    /// Whether enough of what paused it has gone: half, so that it does not stutter.
    #[must_use]
    pub fn may_resume(&self, limits: &Limits) -> bool {
        self.in_flight.messages <= limits.inbound_messages_max / 2
            && self.in_flight.bytes <= limits.inbound_bytes_max() / 2
    }

    /// Whether it is a client by commands that was paused, and nothing holds it back any more. A
    /// queue that is a little less than half full is enough: in a busy room it may never be much
    /// emptier, and a short pause costs one read.
    #[must_use]
    pub fn is_paused_for_nothing(&self, limits: &Limits) -> bool {
        self.is_paused()
            && self.session().is_some()
            && self.may_resume(limits)
            && self.may_take_message(limits)
    }

    /// Sets whether the shell was told to stop reading; returns what it was.
    pub fn set_paused(&mut self, is_paused: bool) -> bool {
        std::mem::replace(&mut self.flags.is_paused, is_paused)
    }

    /// Whether the shell was told to stop reading.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.flags.is_paused
    }

    /// Sets whether it waits for room in its worker's queue; returns what it was.
    pub fn set_awaits_worker(&mut self, awaits: bool) -> bool {
        std::mem::replace(&mut self.flags.awaits_worker, awaits)
    }

    /// The peer has ended its stream. Returns whether the connection goes on until what it is owed
    /// is written: a client may send its last request or message, shut down its side and read.
    pub fn note_eof(&mut self) -> bool {
        self.flags.saw_eof = true;
        match &self.phase {
            Phase::Calling { .. } => true,
            Phase::Answering { .. } | Phase::Closing { .. } => self.has_unwritten(),
            Phase::Open(open) => matches!(open.purpose, Purpose::Echo) && self.has_unwritten(),
            _ => false,
        }
    }
}

impl Open {
    /// The next message, if one is there; pongs go to `queue`.
    ///
    /// # Errors
    /// The end of the input.
    pub fn take_message(
        &mut self,
        queue: &mut SendQueue,
        now: Instant,
        limits: &Limits,
    ) -> Result<Option<Payload>, InputEnd> {
        let message = self.inbound.poll(queue)?;
        if message.is_some() && !self.quota.take(now, limits) {
            return Err(InputEnd::Failed(CloseReason::TooManyRequests));
        }
        Ok(message)
    }
}
