//! One connection: where it is in its life, and what only concerns itself.
//!
//! Owns: the phase, the input that is not yet understood, the send queue, the clockwork, the
//! traffic counts.
//! Never: names a room's members, another connection or a socket. The hub decides what its
//! messages mean; this module says when it may be read, when it must be looked at, how it ends.
//!
//! ```text
//! Head ──► Answering ──► Head (keep-alive)
//!   │        ▲ └───────► Closing ──► Closed
//!   ├──► Body ──► Calling ──► Answering
//!   └──► Joining ──► Open ──► Closing ──► Closed
//! ```
//!
//! Invariants
//! - `Closed` is final, and its reason is the one first given.
//! - A connection that is not reading is given no bytes.

mod catching_up;
pub mod heartbeat;
mod http;
mod peer;
pub mod pressure;
pub mod quota;
mod reading;
pub mod send_queue;
pub mod session;
mod writing;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

pub use self::catching_up::{CatchUp, Missed};
use self::heartbeat::Heartbeat;
use self::http::LongAnswer;
pub use self::http::{Body, HeadTimeout};
use self::peer::Peer;
use self::quota::Quota;
use self::send_queue::SendQueue;
use self::session::Session;
pub use self::writing::AfterDrain;
use crate::base::{CloseReason, ConnId, Identity, Instant, Limits, RoomName, Since};
use crate::wire::frame;
use crate::wire::raw::WireForm;
use crate::wire::websocket::Inbound;

/// Which listener a connection came in by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entrance {
    /// The public port.
    Public,
    /// The public port, over capacity: it is only told so.
    Overload,
    /// The admin port.
    Admin,
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    /// Its id.
    pub id: ConnId,
    /// How it came in.
    pub entrance: Entrance,
    peer: Peer,
    /// When it was accepted.
    pub opened_at: Instant,
    /// What waits for its socket.
    pub queue: SendQueue,
    /// What went in and out.
    pub traffic: Traffic,
    phase: Phase,
    in_flight: InFlight,
    /// Since when queued bytes have made no progress; `None` while the socket takes them.
    stalled_since: Option<Instant>,
    /// The code of the close frame that was queued; 0 if none was, or only an answer.
    close_code: u16,
    flags: Flags,
}

/// Where a connection is in its life.
#[derive(Debug)]
enum Phase {
    /// Waiting for the whole of a request head.
    Head {
        buffer: Vec<u8>,
        deadline: Instant,
        has_answered: bool,
    },
    /// Waiting for the body of an API call.
    Body(Box<Body>),
    /// The call is being carried out; what was received behind it waits.
    Calling {
        rest: Vec<u8>,
        end: Option<CloseReason>,
    },
    /// A plain response is on its way; what was received behind the request waits.
    Answering {
        rest: Vec<u8>,
        end: Option<CloseReason>,
        long: Option<Box<LongAnswer>>,
    },
    /// The upgrade is granted but not sent before all rooms are joined.
    Joining(Box<Joining>),
    /// A WebSocket.
    Open(Box<Open>),
    /// A close frame or a last response is on its way, or was sent and the peer's end is awaited.
    Closing {
        reason: CloseReason,
        /// Who it was.
        identity: Option<Arc<Identity>>,
        deadline: Instant,
        is_heard: bool,
        is_half_closed: bool,
    },
    /// Over; waits to be reaped.
    Closed(CloseReason, Option<Arc<Identity>>),
}

/// What a WebSocket needs that waits for its rooms.
#[derive(Debug)]
struct Joining {
    open: Box<Open>,
    /// Rooms that no worker has been asked for, the next one last.
    unasked: Vec<(RoomName, Since)>,
    /// Rooms not joined, the unasked included.
    pending: usize,
    deadline: Instant,
}

/// What a WebSocket needs.
#[derive(Debug)]
pub struct Open {
    /// Its input.
    pub inbound: Inbound,
    /// What its messages are for.
    pub purpose: Purpose,
    /// Its clockwork.
    pub heartbeat: Heartbeat,
    /// What it has to catch up with before it is a live member everywhere.
    pub catch_up: Option<Box<CatchUp>>,
    /// How it must be closed as soon as it is open.
    pub doom: Option<CloseReason>,
    /// How many messages it may send.
    pub quota: Quota,
    /// When its token runs out.
    pub expires_at: Option<Instant>,
    /// What it needs that speaks by commands.
    pub session: Option<Box<Session>>,
}

/// What the messages of a WebSocket are for.
#[derive(Clone, Debug)]
pub enum Purpose {
    /// They come back (`/echo`).
    Echo,
    /// They are published (`/ws`).
    Rooms {
        /// Where to, and the worker of that room; `None` for a connection that may only receive.
        target: Option<(RoomName, usize)>,
        /// On whose behalf.
        identity: Option<Arc<Identity>>,
        /// How it receives.
        form: WireForm,
        /// Whether its own publications come back to it.
        echo: bool,
    },
}

/// What went through a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes read.
    pub received_bytes: u64,
    /// Messages read.
    pub received_messages: u64,
    /// Bytes written.
    pub sent_bytes: u64,
    /// Publications and answers queued.
    pub deliveries: u64,
    /// Publications skipped.
    pub skipped: u64,
}

/// Messages handed to a worker and not yet answered.
#[derive(Clone, Copy, Debug, Default)]
struct InFlight {
    messages: usize,
    bytes: usize,
}

/// Independent facts, packed.
#[derive(Clone, Copy, Debug, Default)]
struct Flags {
    /// It has been an open WebSocket.
    was_open: bool,
    /// Its socket refused bytes and has not become writable since.
    is_blocked: bool,
    /// Its socket has taken all that was queued and not yet written it.
    is_held: bool,
    /// It has rooms to catch up with.
    is_catching_up: bool,
    /// It is a browser's, which cannot see the status of a refusal.
    is_browser: bool,
    /// It is in the hub's list of connections to write to.
    is_dirty: bool,
    /// The shell was told to stop reading.
    is_paused: bool,
    /// It waits for room in its worker's queue.
    awaits_worker: bool,
    /// It was written to once more although its socket was full.
    is_probed: bool,
    /// Skips of some room have not been told.
    owes_skips: bool,
    /// The peer has ended its direction of the stream.
    saw_eof: bool,
    /// It is in the hub's list of connections whose socket has refused bytes.
    is_backlogged: bool,
    /// It is counted among those of its peer's address.
    is_counted: bool,
    /// Its first answer, be it to the upgrade or to a command, waits for rooms; what is queued goes out
    /// behind it.
    is_waiting: bool,
    /// Whoever wants to know was told that it is open.
    is_announced: bool,
}

impl Purpose {
    /// Who is behind it, if known.
    #[must_use]
    pub fn identity(&self) -> Option<&Arc<Identity>> {
        match self {
            Self::Rooms { identity, .. } => identity.as_ref(),
            Self::Echo => None,
        }
    }

    /// The worker that its messages go to; `None` if they go to none.
    #[must_use]
    pub fn worker(&self) -> Option<usize> {
        match self {
            Self::Echo => None,
            Self::Rooms { target, .. } => target.as_ref().map(|(_, worker)| *worker),
        }
    }
}

/// How long a connection over capacity has for its request.
const OVERLOAD_TIMEOUT: Duration = Duration::from_secs(2);

impl Connection {
    /// A connection that was just accepted.
    #[must_use]
    pub fn new(
        id: ConnId,
        entrance: Entrance,
        peer: SocketAddr,
        now: Instant,
        limits: &Limits,
    ) -> Self {
        let mut time = limits.handshake_timeout;
        if entrance == Entrance::Overload {
            // Its place is wanted for telling the next one.
            time = time.min(OVERLOAD_TIMEOUT);
        }
        let deadline = now + time;
        Self {
            id,
            entrance,
            peer: peer.into(),
            opened_at: now,
            queue: SendQueue::default(),
            traffic: Traffic::default(),
            phase: Phase::Head {
                buffer: Vec::new(),
                deadline,
                has_answered: false,
            },
            in_flight: InFlight::default(),
            stalled_since: None,
            close_code: 0,
            flags: Flags::default(),
        }
    }

    // Phases and the ways between them.

    /// Moves on to joining `rooms`.
    pub fn start_joining(&mut self, now: Instant, open: Open, rooms: Vec<(RoomName, Since)>) {
        // The time for the handshake goes on.
        let deadline = match &self.phase {
            Phase::Head { deadline, .. } => *deadline,
            _ => now,
        };
        self.flags.is_waiting = true;
        let pending = rooms.len();
        let unasked = rooms.into_iter().rev().collect();
        self.phase = Phase::Joining(Box::new(Joining {
            open: Box::new(open),
            unasked,
            pending,
            deadline,
        }));
    }

    /// Takes the next room that a worker is to be asked for, and how and from where the member will
    /// receive.
    pub fn next_room_to_join(&mut self) -> Option<(RoomName, Since, WireForm)> {
        let Phase::Joining(joining) = &mut self.phase else {
            return None;
        };
        let Purpose::Rooms { form, .. } = joining.open.purpose else {
            return None;
        };
        joining
            .unasked
            .pop()
            .map(|(room, since)| (room, since, form))
    }

    /// Puts back a room that could not be asked for.
    pub fn put_back_room_to_join(&mut self, room: RoomName, since: Since) {
        if let Phase::Joining(joining) = &mut self.phase {
            joining.unasked.push((room, since));
        }
    }

    /// One room more was joined. Returns whether it was the last, so that the connection is open.
    pub fn note_joined(&mut self) -> bool {
        let Phase::Joining(joining) = &mut self.phase else {
            return false;
        };
        joining.pending -= 1;
        joining.pending == 0
    }

    /// Opens the WebSocket.
    pub fn open_up(&mut self) {
        let closed = Phase::Closed(CloseReason::Internal, None);
        self.phase = match std::mem::replace(&mut self.phase, closed) {
            Phase::Joining(joining) => {
                self.flags.is_waiting = false;
                self.flags.was_open = true;
                Phase::Open(joining.open)
            }
            other => other,
        };
    }

    /// Whether it has been an open WebSocket.
    #[must_use]
    pub fn was_open(&self) -> bool {
        self.flags.was_open
    }

    /// Moves on to closing. `is_heard` when the peer has closed too, so that nothing more is
    /// expected of it. Does nothing if the connection is closing or closed.
    pub fn start_closing(&mut self, reason: CloseReason, deadline: Instant, is_heard: bool) {
        self.flags.is_waiting = false;
        if !self.is_ending() {
            self.phase = Phase::Closing {
                reason,
                identity: self.identity().cloned(),
                deadline,
                is_heard,
                is_half_closed: false,
            };
        }
    }

    /// Ends the connection, for `reason` unless one was given before. Returns whether it was not
    /// over already.
    pub fn end(&mut self, reason: CloseReason) -> bool {
        let reason = match &self.phase {
            Phase::Closed(..) => return false,
            Phase::Closing { reason, .. } => *reason,
            Phase::Answering { end, .. }
                if !matches!(reason, CloseReason::Reset | CloseReason::WriteTimeout) =>
            {
                end.unwrap_or(CloseReason::Answered)
            }
            // A peer that is done with a kept-alive connection may simply leave.
            Phase::Head {
                buffer,
                has_answered: true,
                ..
            } if buffer.is_empty() && reason == CloseReason::Gone => CloseReason::Answered,
            _ => reason,
        };
        self.phase = Phase::Closed(reason, self.identity().cloned());
        self.flags.is_waiting = false;
        // Answers that are still being made find it like this.
        self.queue.end();
        self.flags.is_held = false;
        true
    }

    /// Queues a close frame of our own; nothing follows it.
    pub fn push_close(&mut self, code: u16, reason: &str) {
        self.close_code = code;
        self.queue.push_close(frame::close(code, reason));
    }

    /// Queues the answer to the peer's close frame, encoded already; nothing follows it. Its code is
    /// the peer's.
    pub fn push_close_answer(&mut self, frame: Vec<u8>) {
        self.queue.push_close(frame);
    }

    /// The code of the close frame that was queued; 0 if none was, or only an answer.
    #[must_use]
    pub fn close_code(&self) -> u16 {
        self.close_code
    }

    /// The WebSocket, while it is open.
    pub fn open_mut(&mut self) -> Option<&mut Open> {
        match &mut self.phase {
            Phase::Open(open) => Some(open),
            _ => None,
        }
    }

    /// The WebSocket and its send queue, while it is open.
    pub fn open_and_queue(&mut self) -> Option<(&mut Open, &mut SendQueue)> {
        match &mut self.phase {
            Phase::Open(open) => Some((open, &mut self.queue)),
            _ => None,
        }
    }

    /// The WebSocket, while it is open.
    #[must_use]
    pub fn open(&self) -> Option<&Open> {
        match &self.phase {
            Phase::Open(open) => Some(open),
            _ => None,
        }
    }

    /// It has said who it is, in a WebSocket that was open before.
    pub fn set_identity(&mut self, identity: Option<Arc<Identity>>) {
        if let Phase::Open(open) = &mut self.phase
            && let Purpose::Rooms {
                identity: known, ..
            } = &mut open.purpose
        {
            *known = identity;
        }
    }

    /// How it receives, if it is for rooms.
    #[must_use]
    pub fn form(&self) -> Option<WireForm> {
        match self.purpose() {
            Some(Purpose::Rooms { form, .. }) => Some(*form),
            _ => None,
        }
    }

    /// The address that it comes from: the client's where a proxy has named it, with port 0 if the
    /// proxy did not say.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        self.peer.address()
    }

    /// The address at the other end of its socket.
    #[must_use]
    pub fn socket_peer(&self) -> SocketAddr {
        self.peer.socket_address()
    }

    /// What is at the other end of its socket speaks for the client at `address`; `None` if for
    /// itself.
    pub fn set_client(&mut self, address: Option<SocketAddr>) {
        self.peer = Peer::speaking_for(self.socket_peer(), address);
    }

    /// Sets whether it is counted among those of its peer's address; returns what it was.
    pub fn set_counted(&mut self, is_counted: bool) -> bool {
        std::mem::replace(&mut self.flags.is_counted, is_counted)
    }

    /// The address among whose connections it is counted.
    #[must_use]
    pub fn counted_as(&self) -> Option<IpAddr> {
        self.flags.is_counted.then(|| self.peer().ip())
    }

    /// Remembers that its request came from a page.
    pub fn set_browser(&mut self) {
        self.flags.is_browser = true;
    }

    /// Whether its request came from a page.
    #[must_use]
    pub fn is_browser(&self) -> bool {
        self.flags.is_browser
    }

    /// What it is for, while it is joining or open.
    #[must_use]
    pub fn purpose(&self) -> Option<&Purpose> {
        match &self.phase {
            Phase::Open(open) => Some(&open.purpose),
            Phase::Joining(joining) => Some(&joining.open.purpose),
            _ => None,
        }
    }

    /// Who it is, or was while it was a WebSocket, if known.
    #[must_use]
    pub fn identity(&self) -> Option<&Arc<Identity>> {
        match &self.phase {
            Phase::Closing { identity, .. } | Phase::Closed(_, identity) => identity.as_ref(),
            _ => self.purpose().and_then(Purpose::identity),
        }
    }

    /// Whether it waits for rooms.
    #[must_use]
    pub fn is_joining(&self) -> bool {
        matches!(self.phase, Phase::Joining(_))
    }

    /// Whether it is closing or closed.
    #[must_use]
    pub fn is_ending(&self) -> bool {
        matches!(self.phase, Phase::Closing { .. } | Phase::Closed(..))
    }

    /// Whether it is closing and not over.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        matches!(self.phase, Phase::Closing { .. })
    }

    /// Why it is over, once it is.
    #[must_use]
    pub fn closed_reason(&self) -> Option<CloseReason> {
        match &self.phase {
            Phase::Closed(reason, _) => Some(*reason),
            _ => None,
        }
    }

    /// Whoever wants to know was told that it is open.
    pub fn set_announced(&mut self) {
        self.flags.is_announced = true;
    }

    /// Whether whoever wants to know was told that it is open.
    #[must_use]
    pub fn is_announced(&self) -> bool {
        self.flags.is_announced
    }

    // Time.

    /// When it must be looked at again; `None` if never.
    #[must_use]
    pub fn next_deadline(&self, limits: &Limits) -> Option<Instant> {
        match &self.phase {
            Phase::Head { deadline, .. } | Phase::Closing { deadline, .. } => Some(*deadline),
            Phase::Joining(joining) => Some(joining.deadline),
            Phase::Body(body) => Some(body.deadline),
            Phase::Answering { long, .. } => {
                let long = long.as_ref().map(|long| long.deadline);
                let deadlines = [self.write_deadline(limits), long];
                deadlines.into_iter().flatten().min()
            }
            Phase::Open(open) => {
                let write = self.write_deadline(limits);
                let clock = match &open.session {
                    Some(session) => session.next_deadline(),
                    None => open.heartbeat.next_deadline(limits),
                };
                [write, clock, open.expires_at].into_iter().flatten().min()
            }
            // A call that was begun is answered by others, and always.
            Phase::Calling { .. } | Phase::Closed(..) => None,
        }
    }

    /// Whether queued bytes have made no progress for the write timeout.
    #[must_use]
    pub fn is_write_overdue(&self, now: Instant, limits: &Limits) -> bool {
        self.write_deadline(limits).is_some_and(|due| now >= due)
    }

    fn write_deadline(&self, limits: &Limits) -> Option<Instant> {
        self.stalled_since.map(|since| since + limits.write_timeout)
    }

    /// Asserts the invariants; for tests and debug builds.
    pub fn check_invariants(&self) {
        self.queue.check_invariants();
        if self.closed_reason().is_some() {
            assert!(
                !self.has_unwritten(),
                "nothing is queued for a closed connection"
            );
        }
        if self.may_flush() {
            assert!(
                self.is_dirty(),
                "{}: bytes are queued and nobody will write them",
                self.id
            );
        }
    }
}
