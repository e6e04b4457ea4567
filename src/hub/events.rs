//! What happens to connections, for a program around the daemon that wants to know.

use std::collections::VecDeque;
use std::net::SocketAddr;

use super::Hub;
use crate::base::{CloseReason, ConnId, RoomName, UserId};
use crate::wire::frame::Payload;

/// Something that happened to a connection.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A WebSocket was opened.
    Opened {
        /// Its id, until it is closed.
        conn: ConnId,
        /// The address at the other end.
        peer: SocketAddr,
        /// Who it is, if known.
        user: Option<UserId>,
    },
    /// It has sent something, which is on its way to a room.
    Message {
        /// The connection.
        conn: ConnId,
        /// The room.
        room: RoomName,
        /// What.
        payload: Payload,
    },
    /// It is over.
    Closed {
        /// The connection.
        conn: ConnId,
        /// Why.
        reason: CloseReason,
    },
    /// So many events happened here for which the queue had no room.
    Missed {
        /// How many.
        count: u64,
    },
}

impl<S> Hub<S> {
    /// From now on, remembers events for [`Hub::poll_event`], which is to be called once a turn
    /// until it gives none.
    pub fn want_events(&mut self) {
        self.events.get_or_insert_with(VecDeque::new);
    }

    /// The next event, in order.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.as_mut()?.pop_front()
    }
}
