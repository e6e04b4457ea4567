//! What the hub has counted since the start. Plain numbers; `ops` makes text of them.

use std::collections::BTreeMap;

use crate::base::{CloseReason, Histogram};

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
    /// What the process may take, in bytes; 0 for no bound.
    pub memory_limit: u64,
    /// What is given up because it takes too much.
    pub memory_pressure: MemoryPressure,
    /// Other nodes of the cluster.
    pub other_nodes: u32,
    /// Connections let in.
    pub accepted: u64,
    /// Connections dropped unheard for want of room.
    pub dropped: u64,
    /// Upgrades granted.
    pub upgrades: u64,
    /// Requests for a WebSocket that were refused, by the reason.
    pub refusals: BTreeMap<&'static str, u64>,
    /// Requests whose `X-Forwarded-For`, from a trusted proxy, could not be read.
    pub malformed_forwards: u64,
    /// Plain responses by status.
    pub responses: BTreeMap<u16, u64>,
    /// Calls of the API by method; those of a batch one by one.
    pub api_calls: BTreeMap<&'static str, u64>,
    /// Calls of the API that came to an error, by its code.
    pub api_errors: BTreeMap<u16, u64>,
    /// Calls of the API by method and by the code of the error that they came to, 0 for none; what
    /// could not be read has no method.
    pub api_outcomes: BTreeMap<(&'static str, u16), u64>,
    /// Commands of clients that speak by them, by method.
    pub commands: BTreeMap<&'static str, u64>,
    /// Commands that came to an error, by its code.
    pub command_errors: BTreeMap<u16, u64>,
    /// Connections ended, by [`CloseReason::index`].
    pub closes: [u64; CloseReason::ALL.len()],
    /// WebSockets ended, by the code of the close frame with which they were ended: 0 where none was
    /// sent but to answer the client's, and [`HubCounters::OTHER_CODE`] for all that no reason has.
    pub close_codes: BTreeMap<u16, u64>,
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
    /// Publications dropped from the queue of a connection that was closed for being slow, or had not
    /// taken them when its time to end was over.
    pub dropped_from_queues: u64,
    /// Times that reading of a connection was paused.
    pub reads_paused: u64,
    /// Publications given to members that had missed them.
    pub replayed: u64,
    /// Time from taking a publication to having written it to every member whose socket takes bytes,
    /// in nanoseconds; those that leave together count once, as the first of them.
    pub publish_to_socket: Histogram,
    /// Publications queued for a WebSocket, each looked at once by each
    /// [`Hub::sample_queues`](super::Hub::sample_queues).
    pub queue_publications: Histogram,
    /// The same in bytes.
    pub queue_bytes: Histogram,
    /// WebSockets that then had something queued.
    pub backlogged: u64,
}

/// What is given up for want of memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MemoryPressure {
    /// Nothing.
    #[default]
    None,
    /// The largest send queues.
    Closing,
    /// Those, and new connections.
    Refusing,
}

impl HubCounters {
    /// Stands for every close code that no reason has: there is no end of those that back ends
    /// choose.
    pub const OTHER_CODE: u16 = u16::MAX;

    /// A request for a WebSocket was refused.
    pub(super) fn count_refusal(&mut self, reason: &'static str) {
        *self.refusals.entry(reason).or_default() += 1;
    }

    /// A client has sent a command.
    pub(super) fn count_command(&mut self, method: &'static str) {
        *self.commands.entry(method).or_default() += 1;
    }

    /// It came to an error.
    pub(super) fn count_command_error(&mut self, code: u16) {
        *self.command_errors.entry(code).or_default() += 1;
    }

    /// A WebSocket has ended that was sent this close code, and had sent none itself; 0 for none.
    pub(super) fn count_close_code(&mut self, code: u16) {
        let is_known = matches!(code, 0 | 1000 | 1001)
            || CloseReason::ALL.iter().any(|one| one.code() == Some(code));
        let code = if is_known { code } else { Self::OTHER_CODE };
        *self.close_codes.entry(code).or_default() += 1;
    }
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
            memory_limit: 0,
            memory_pressure: MemoryPressure::None,
            other_nodes: 0,
            accepted: 0,
            dropped: 0,
            upgrades: 0,
            refusals: BTreeMap::new(),
            malformed_forwards: 0,
            responses: BTreeMap::new(),
            api_calls: BTreeMap::new(),
            api_errors: BTreeMap::new(),
            api_outcomes: BTreeMap::new(),
            commands: BTreeMap::new(),
            command_errors: BTreeMap::new(),
            closes: [0; CloseReason::ALL.len()],
            close_codes: BTreeMap::new(),
            received_messages: 0,
            received_bytes: 0,
            sent_bytes: 0,
            deliveries: 0,
            skipped: 0,
            dropped_from_queues: 0,
            reads_paused: 0,
            replayed: 0,
            publish_to_socket: Histogram::of_times(),
            queue_publications: Histogram::of_lengths(),
            queue_bytes: Histogram::of_bytes(),
            backlogged: 0,
        }
    }
}
