//! What the hub and its shell say to each other about a socket.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::base::{CloseReason, ConnId, Identity, Instant};
use crate::conn::Traffic;

/// Whether the shell may go on reading a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// It may.
    Continue,
    /// Not before [`Hub::poll_resumed`](super::Hub::poll_resumed) names it.
    Paused,
    /// There is nothing to read from any more.
    Over,
}

/// What came of writing to a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// So many bytes were taken, and `is_blocked` says whether more were refused.
    Bytes {
        /// Bytes taken.
        bytes: usize,
        /// Whether the socket is full now.
        is_blocked: bool,
    },
    /// The transport failed.
    Failed,
}

/// What the shell is to do with a socket after a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketAction {
    /// Nothing.
    None,
    /// End the outgoing direction.
    ShutDownWrite,
}

/// The last that is known of a connection.
#[derive(Clone, Debug)]
pub struct Farewell {
    /// Its id.
    pub id: ConnId,
    /// The address that it came from.
    pub peer: SocketAddr,
    /// Who it was, if that is known.
    pub identity: Option<Arc<Identity>>,
    /// Why it ended.
    pub reason: CloseReason,
    /// The code of the close frame with which it was ended; 0 for none but an answer to its own.
    pub code: u16,
    /// Whether it has been an open WebSocket.
    pub was_open: bool,
    /// When it was accepted.
    pub opened_at: Instant,
    /// What went through it.
    pub traffic: Traffic,
}
