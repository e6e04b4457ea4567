//! What the hub has counted since the start. Plain numbers; `ops` makes text of them.

use std::collections::BTreeMap;

use crate::base::CloseReason;

/// Counts since the start, and a few sizes as they are now.
#[derive(Clone, Debug)]
pub struct HubCounters {
    /// Connections now, of every kind.
    pub connections: usize,
    /// Memberships now.
    pub members: usize,
    /// Rooms with members now.
    pub rooms: usize,
    /// WebSockets now.
    pub websockets: usize,
    /// Users with a connection now.
    pub users: usize,
    /// Whether the end has begun.
    pub is_draining: bool,
    /// Connections let in.
    pub accepted: u64,
    /// Connections dropped unheard for want of room.
    pub dropped: u64,
    /// Upgrades granted.
    pub upgrades: u64,
    /// Plain responses by status.
    pub responses: BTreeMap<u16, u64>,
    /// Calls of the API by method; those of a batch one by one.
    pub api_calls: BTreeMap<&'static str, u64>,
    /// Calls of the API that came to an error, by its code.
    pub api_errors: BTreeMap<u16, u64>,
    /// Connections ended, by [`CloseReason::index`].
    pub closes: [u64; CloseReason::ALL.len()],
    /// Messages received.
    pub received_messages: u64,
    /// Bytes received.
    pub received_bytes: u64,
    /// Bytes written.
    pub sent_bytes: u64,
    /// Publications and answers queued for a connection.
    pub deliveries: u64,
    /// Publications skipped for a member of a lossy room.
    pub skipped: u64,
    /// Publications dropped from the queue of a connection that was closed for being slow.
    pub dropped_from_queues: u64,
    /// Times that reading of a connection was paused.
    pub reads_paused: u64,
    /// Publications given to members that had missed them.
    pub replayed: u64,
}

impl Default for HubCounters {
    fn default() -> Self {
        Self {
            connections: 0,
            members: 0,
            rooms: 0,
            websockets: 0,
            users: 0,
            is_draining: false,
            accepted: 0,
            dropped: 0,
            upgrades: 0,
            responses: BTreeMap::new(),
            api_calls: BTreeMap::new(),
            api_errors: BTreeMap::new(),
            closes: [0; CloseReason::ALL.len()],
            received_messages: 0,
            received_bytes: 0,
            sent_bytes: 0,
            deliveries: 0,
            skipped: 0,
            dropped_from_queues: 0,
            reads_paused: 0,
            replayed: 0,
        }
    }
}
