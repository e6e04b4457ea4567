//! Which socket the kernel speaks of, and which may be read.
//!
//! Registrations never change: a socket is registered once, for both directions and edge-triggered.

use std::collections::VecDeque;

use mio::{Interest, Poll, Token};

use super::socket::Socket;
use crate::base::{CloseReason, ConnId};
use crate::hub::Hub;

/// Puts a socket that there may be something to read from into the list of those, unless it is there
/// or the hub wants nothing from it.
pub(super) fn list_readable(readable: &mut VecDeque<ConnId>, id: ConnId, socket: &mut Socket) {
    if socket.has_input && !socket.is_paused && !socket.is_listed {
        socket.is_listed = true;
        readable.push_back(id);
    }
}

/// Registers a socket for reading and writing, once and for all.
pub(super) fn register(poll: &Poll, hub: &mut Hub<Socket>, id: ConnId) {
    let Some(socket) = hub.socket_mut(id) else {
        return;
    };
    let token = Token(id.to_bits() as usize);
    let interest = Interest::READABLE | Interest::WRITABLE;
    if let Err(error) = poll
        .registry()
        .register(&mut socket.stream, token, interest)
    {
        // Its end, for an internal reason, is a warning, and those are limited.
        log::debug!("a connection cannot be polled: {error}");
        hub.handle_eof(id, CloseReason::Internal);
    }
}

/// The token of the waker, which is 0, or of a listener. Tokens that are no connection's: its slot is never `u32::MAX`.
pub(super) const fn token_bits(number: usize) -> usize {
    number << 32 | u32::MAX as usize
}

/// Which of these a token is; `None` for a connection.
pub(super) fn special_number(bits: usize) -> Option<usize> {
    (bits as u32 == u32::MAX).then_some(bits >> 32)
}
