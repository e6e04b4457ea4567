//! Brain of the loop: connections, members, timers, send queues.
//!
//! Owns: every connection with whatever socket the shell attached to it, who is in which room, the
//! timer wheel, what waits to be written, handed over or reaped.
//! Never: touches a socket, a thread or a clock; encodes or keeps a publication (the shard does).
//!
//! Inputs come by `handle_*`, with the time as an argument; outputs are polled by `poll_*`. No
//! call reaches back into the shell, so nothing can be re-entered.
//!
//! Invariants
//! - Bytes for a socket go through its send queue and are taken out by [`Hub::poll_flush`] only.
//! - A slot is freed by [`Hub::poll_closed`] only; an id of an older generation has no effect.
//! - Every connection that has a deadline is in the wheel, not later than that deadline.
//! - Members are connections that are joining or open.
//! - A connection that was told to pause is told to resume when the cause has gone.
//!
//! `requests` says what HTTP gets, `api`, `calls` and `here` serve back ends, `replay` gives a member what
//! it missed, `dispatch` turns messages into jobs and takes effects, `echo` answers without,
//! `fanout` fills send queues,
//! `ending` is the way out of a connection, `drain` that of the daemon, `memory` what is given up when
//! that is short, `proxies` knows whom a proxy speaks for, `figures` and `reports` are for operators.

mod admission;
mod api;
mod call;
mod calls;
mod commands;
mod counters;
mod dispatch;
mod drain;
mod echo;
mod ending;
mod events;
mod fanout;
mod figures;
mod here;
mod invariants;
mod jobs;
mod latency;
mod memory;
mod nodes;
mod pages;
mod proxies;
mod renewing;
mod replay;
mod reports;
mod requests;
mod sessions;
mod shell;
mod strangers;
mod table;
mod users;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use self::admission::Admission;
use self::calls::Calls;
pub use self::calls::{Inquiry, NodeFigures, ProgramCall, ProgramReply};
pub use self::counters::{HubCounters, MemoryPressure};
use self::drain::Stage;
pub use self::events::Event;
use self::figures::Survey;
pub use self::figures::{Figures, LargeRoom};
use self::jobs::{Jobs, Waiter};
use self::latency::Latency;
use self::memory::Memory;
pub use self::memory::Relief;
use self::nodes::Nodes;
pub use self::shell::{Farewell, Reading, SocketAction, Written};
use self::table::Table;
use self::users::Users;
use crate::base::{
    AllowedOrigins, CloseReason, ConnId, Health, Instant, Limits, Network, Now, Prng, Secret,
};
use crate::conn::pressure::Level;
use crate::conn::send_queue::SendQueue;
use crate::conn::{AfterDrain, Connection, Entrance};
use crate::exchange::Job;
use crate::room::members::Members;
use crate::wire::centrifugo::push;
use crate::wire::frame::{Frames, Payload, PayloadKind};
use crate::wire::http::is_blank;

/// The brain of the loop. `S` is what the shell attaches to a connection: its socket.
#[derive(Debug)]
pub struct Hub<S> {
    limits: Limits,
    gate: Gate,
    table: Table<S>,
    members: Members,
    wheel: crate::timer::Wheel,
    admission: Admission,
    users: Users,
    jobs: Jobs,
    calls: Calls,
    /// WebSockets that are open.
    open_len: usize,
    /// What happened to connections, if anybody wants to know.
    events: Option<VecDeque<Event>>,
    /// Connections with something to write, each once.
    dirty: VecDeque<ConnId>,
    /// How many of them, from the front, must have had their turn before the next effect.
    flush_barrier: usize,
    /// Connections whose socket has refused bytes, each once; some of them may be gone.
    backlog: Vec<ConnId>,
    survey: Survey,
    /// Publications that are queued and not written.
    latency: Latency,
    memory: Memory,
    /// How what numbers publications is, in a cluster.
    health: Health,
    /// In a cluster.
    nodes: Option<Nodes>,
    /// Connections that may be read again.
    resumed: VecDeque<ConnId>,
    /// Connections that are over.
    closed: VecDeque<ConnId>,
    /// What the shell is to answer.
    inquiries: VecDeque<Inquiry>,
    /// Trusted proxies to tell of.
    malformed_proxies: Vec<IpAddr>,
    /// What is about to be echoed; empty between calls.
    echoes: Vec<Payload>,
    counters: HubCounters,
    prng: Prng,
    start: Instant,
    /// What raw connections get as a heartbeat.
    heartbeat: Arc<Frames>,
    /// What those get as a ping that speak by commands.
    ping: Arc<Frames>,
    stage: Stage,
}

/// Who may come in.
#[derive(Clone, Debug, Default)]
pub struct Gate {
    /// Pages that may connect.
    pub origins: AllowedOrigins,
    /// What tokens are signed with; without it nobody needs one.
    pub token_secret: Option<Secret>,
    /// What callers of the API must know; without it everybody who reaches it may call.
    pub api_key: Option<Secret>,
    /// Where those come from who are believed about whom they speak for.
    pub trusted_proxies: Vec<Network>,
}

impl<S> Hub<S> {
    /// A hub without connections, for `workers` workers.
    #[must_use]
    pub fn new(limits: Limits, gate: Gate, workers: usize, start: Instant, seed: u64) -> Self {
        let heartbeat = Frames::message(PayloadKind::Text, limits.heartbeat_text.as_bytes());
        let users = Users::new(limits.duplicate_login);
        let mut prng = Prng::new(seed);
        let first_generation = prng.next_u64() as u32;
        Self {
            limits,
            gate,
            table: Table::new(first_generation),
            members: Members::default(),
            wheel: crate::timer::Wheel::new(start),
            admission: Admission::default(),
            users,
            jobs: Jobs::new(workers),
            calls: Calls::default(),
            open_len: 0,
            events: None,
            dirty: VecDeque::new(),
            flush_barrier: 0,
            backlog: Vec::new(),
            survey: Survey::default(),
            latency: Latency::default(),
            memory: Memory::default(),
            health: Health::default(),
            nodes: None,
            resumed: VecDeque::new(),
            closed: VecDeque::new(),
            inquiries: VecDeque::new(),
            malformed_proxies: Vec::new(),
            echoes: Vec::new(),
            counters: HubCounters::default(),
            prng,
            start,
            heartbeat,
            ping: Frames::message(PayloadKind::Text, push::PING),
            stage: Stage::Serving,
        }
    }

    // Inputs.

    /// A listener has accepted a connection.
    ///
    /// # Errors
    /// Gives the socket back when it must be dropped unheard.
    pub fn handle_accept(
        &mut self,
        now: Now,
        is_admin: bool,
        peer: SocketAddr,
        socket: S,
    ) -> Result<ConnId, S> {
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        let counted = (!self.is_proxy(peer.ip())).then_some(peer.ip());
        let has_room = !self.is_short_of_memory();
        let admitted = (self.admission).admit(is_admin, has_room, counted, &self.limits);
        let Some(entrance) = admitted else {
            self.counters.dropped += 1;
            return Err(socket);
        };
        self.counters.accepted += 1;
        let limits = &self.limits;
        let id = self.table.insert(socket, |id| {
            let mut conn = Connection::new(id, entrance, peer, now.instant, limits);
            conn.set_counted(entrance == Entrance::Public && counted.is_some());
            conn
        });
        self.arm(id);
        Ok(id)
    }

    /// Bytes were read. Returns whether to go on reading.
    pub fn handle_bytes(&mut self, now: Now, id: ConnId, bytes: &[u8]) -> Reading {
        let Some(entry) = self.table.get_mut(id) else {
            return Reading::Over;
        };
        let conn = &mut entry.conn;
        conn.traffic.received_bytes += bytes.len() as u64;
        self.counters.received_bytes += bytes.len() as u64;
        if let Some(is_first) = conn.head_mut().map(|buffer| buffer.is_empty()) {
            if is_first && !is_blank(bytes) {
                conn.note_head_begun(now.instant, &self.limits);
                self.arm(id);
            }
            let Some(buffer) = self
                .table
                .get_mut(id)
                .and_then(|entry| entry.conn.head_mut())
            else {
                return Reading::Over;
            };
            buffer.extend_from_slice(bytes);
            // A head ends in a line feed, so nothing new can be learnt without one; the first
            // bytes are looked at in any case, to tell what is not HTTP at once.
            if is_first || bytes.contains(&b'\n') || buffer.len() >= self.limits.head_bytes_max {
                self.read_head(now, id);
            }
        } else if conn.is_in_body() {
            self.read_body(now, id, bytes);
        } else if let Some(open) = conn.open_mut() {
            open.heartbeat.seen(now.instant);
            open.inbound.feed(bytes, self.limits.message_bytes_max);
            self.read_messages(now, id, usize::MAX);
        }
        self.reading(id)
    }

    /// The peer has ended its stream, or the transport failed.
    pub fn handle_eof(&mut self, id: ConnId, cause: CloseReason) {
        let Some(entry) = self.table.get_mut(id) else {
            return;
        };
        let conn = &mut entry.conn;
        if cause == CloseReason::Gone {
            // Without a reader there is nobody to answer; what it has sent is on its way.
            if conn.note_eof() {
                return;
            }
        }
        self.end(id, cause);
    }

    /// The socket takes bytes again. Returns whether the hub has known that it did not.
    pub fn handle_writable(&mut self, id: ConnId) -> bool {
        if let Some(entry) = self.table.get_mut(id)
            && entry.conn.note_writable()
        {
            mark_dirty(&mut entry.conn, &mut self.dirty);
            return true;
        }
        false
    }

    /// A connection that [`Hub::poll_flush`] named was written to.
    pub fn handle_written(&mut self, now: Now, id: ConnId, written: Written) -> SocketAction {
        let Some(entry) = self.table.get_mut(id) else {
            return SocketAction::None;
        };
        let conn = &mut entry.conn;
        let Written::Bytes { bytes, is_blocked } = written else {
            self.end(id, CloseReason::Reset);
            return SocketAction::None;
        };
        self.counters.sent_bytes += bytes as u64;
        conn.note_written(now.instant, bytes, is_blocked);
        let waits_for_room = conn.is_catching_up() || conn.is_paused();
        let mut action = SocketAction::None;
        if is_blocked {
            self.arm(id);
            self.note_backlogged(id);
        } else if !conn.queue.is_empty() {
            mark_dirty(conn, &mut self.dirty);
            if conn.queue.level().is_half_of(Level::bound(&self.limits)) {
                // One write was not enough, and the socket takes more.
                self.raise_flush_barrier();
            }
        } else {
            action = self.handle_drained(now, id);
        }
        if waits_for_room {
            self.go_on_after_writing(now, id);
        }
        action
    }

    /// Time has passed: looks at up to `budget` connections that are due, and when ending closes
    /// those whose turn it is. Returns whether there were any. Those left over are due still, and
    /// [`Hub::poll_timeout`] says so.
    pub fn handle_timeout(&mut self, now: Now, budget: usize) -> bool {
        let mut is_any = self.go_on_ending(now);
        self.give_up_nodes(now);
        for _ in 0..budget {
            let Some(slot) = self.wheel.poll_expired(now.instant) else {
                break;
            };
            self.look_at(now, slot);
            is_any = true;
        }
        is_any
    }

    /// The queue of `worker` has room for `room` jobs. Returns whether anybody waited for it.
    pub fn handle_room(&mut self, now: Now, worker: usize, room: usize) -> bool {
        let mut is_any = self.jobs.grant(worker, room);
        is_any |= self.go_on_with_calls(now);
        // Who steps back into the line waits for the next turn.
        for _ in 0..self.jobs.waiting_len(worker) {
            let Some(waiter) = self.jobs.next_waiting(worker) else {
                break;
            };
            is_any = true;
            match waiter {
                Waiter::Conn(id) => self.proceed(now, id),
                Waiter::Call(key) => self.proceed_with_call(now, key),
            }
        }
        is_any
    }

    /// New secrets, for whoever comes from now on; `None` leaves the old one.
    pub fn handle_secrets(&mut self, token_secret: Option<Secret>, api_key: Option<Secret>) {
        let gate = &mut self.gate;
        gate.token_secret = token_secret.or_else(|| gate.token_secret.take());
        gate.api_key = api_key.or_else(|| gate.api_key.take());
    }

    // Outputs.

    /// The next job to hand to a worker; never more than the credits given.
    pub fn poll_job(&mut self) -> Option<(usize, Job)> {
        self.jobs.pop()
    }

    /// The next connection with something to write; answered by [`Hub::handle_written`].
    pub fn poll_flush(&mut self) -> Option<(ConnId, &mut S, &mut SendQueue)> {
        loop {
            let id = self.dirty.pop_front()?;
            self.flush_barrier = self.flush_barrier.saturating_sub(1);
            self.latency.note_flush();
            let is_due = self.table.get_mut(id).is_some_and(|entry| {
                entry.conn.set_dirty(false);
                entry.conn.may_flush()
            });
            if is_due {
                // Looked up again, since a borrow may not leave a loop that goes on.
                let entry = self.table.get_mut(id)?;
                return Some((id, &mut entry.socket, &mut entry.conn.queue));
            }
        }
    }

    /// Number of connections with something to write.
    #[must_use]
    pub fn flushes_len(&self) -> usize {
        self.dirty.len()
    }

    /// Whether effects must wait until more connections have been flushed: the queue of one whose
    /// socket has refused nothing is half full, and another effect could make it look slow when
    /// it is only we who have not written to it.
    #[must_use]
    pub fn wants_flush(&self) -> bool {
        self.flush_barrier > 0
    }

    /// The next connection that may be read again.
    pub fn poll_resumed(&mut self) -> Option<ConnId> {
        self.resumed.pop_front()
    }

    /// The next connection that is over: frees its slot.
    pub fn poll_closed(&mut self) -> Option<(S, Farewell)> {
        loop {
            let id = self.closed.pop_front()?;
            let Some(entry) = self.table.remove(id) else {
                continue;
            };
            let conn = entry.conn;
            self.admission.release(conn.entrance, conn.counted_as());
            let reason = conn.closed_reason().unwrap_or(CloseReason::Internal);
            self.counters.closes[reason.index()] += 1;
            let code = conn.close_code();
            if conn.was_open() || code > 0 {
                self.counters.count_close_code(code);
            }
            if let Some(events) = &mut self.events
                && conn.is_announced()
            {
                events.push_back(Event::Closed { conn: id, reason });
            }
            let farewell = Farewell {
                id,
                peer: conn.peer(),
                identity: conn.identity().cloned(),
                reason,
                code,
                was_open: conn.was_open(),
                opened_at: conn.opened_at,
                traffic: conn.traffic,
            };
            return Some((entry.socket, farewell));
        }
    }

    /// When [`Hub::handle_timeout`] must be called next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let deadlines = [
            self.wheel.next_deadline(),
            self.next_step_of_end(),
            (self.nodes.as_ref()).and_then(Nodes::poll_timeout),
        ];
        deadlines.into_iter().flatten().min()
    }

    /// Whether there is something to do without any further input: the shell must not sleep.
    #[must_use]
    pub fn has_backlog(&self) -> bool {
        !self.dirty.is_empty()
            || !self.resumed.is_empty()
            || !self.closed.is_empty()
            || !self.inquiries.is_empty()
            || self.calls.can_go_on(&self.limits)
            || self.jobs.has_ready()
            || self.jobs.can_go_on()
            || self.can_go_on_ending()
    }

    /// The socket of a connection.
    pub fn socket_mut(&mut self, id: ConnId) -> Option<&mut S> {
        self.table.get_mut(id).map(|entry| &mut entry.socket)
    }

    /// Number of connections of every kind.
    #[must_use]
    pub fn connections_len(&self) -> usize {
        self.table.len()
    }

    /// Number of rooms with members.
    #[must_use]
    pub fn rooms_len(&self) -> usize {
        self.members.rooms_len()
    }

    /// What was counted, and the sizes as they are now.
    #[must_use]
    pub fn counters(&self) -> HubCounters {
        HubCounters {
            connections: self.admission.len(),
            members: self.members.members_len(),
            rooms: self.members.rooms_len(),
            websockets: self.open_len,
            users: self.users.len(),
            is_draining: self.is_draining(),
            memory_limit: self.limits.memory_bytes_max.unwrap_or(0) as u64,
            memory_pressure: self.memory.pressure(),
            other_nodes: self.nodes.as_ref().map_or(0, Nodes::others),
            ..self.counters.clone()
        }
    }

    // Between the parts of the hub.

    fn reading(&mut self, id: ConnId) -> Reading {
        let Some(entry) = self.table.get_mut(id) else {
            return Reading::Over;
        };
        let conn = &mut entry.conn;
        if conn.closed_reason().is_some() {
            return Reading::Over;
        }
        if conn.is_reading(&self.limits) {
            return Reading::Continue;
        }
        if !conn.set_paused(true) {
            self.counters.reads_paused += u64::from(conn.open().is_some());
        }
        Reading::Paused
    }

    /// Tells the shell to read again, if it was told not to and the cause has gone.
    fn resume(&mut self, id: ConnId) {
        if let Some(entry) = self.table.get_mut(id) {
            let conn = &mut entry.conn;
            if conn.is_paused() && conn.is_reading(&self.limits) {
                conn.set_paused(false);
                self.resumed.push_back(id);
            }
        }
    }

    /// Puts the connection into the wheel for its next deadline.
    fn arm(&mut self, id: ConnId) {
        if let Some(entry) = self.table.get_mut(id)
            && let Some(deadline) = entry.conn.next_deadline(&self.limits)
        {
            self.wheel.set_earlier(id.slot, deadline);
        }
    }

    fn handle_drained(&mut self, now: Now, id: ConnId) -> SocketAction {
        let is_ending = self.is_ending();
        let Some(entry) = self.table.get_mut(id) else {
            return SocketAction::None;
        };
        let conn = &mut entry.conn;
        self.calls.forget_answer(conn.take_counted_bytes());
        match conn.after_drain(now.instant, &self.limits) {
            AfterDrain::Nothing => {
                let is_paused = conn.is_paused();
                if conn.set_owes_skips(false) {
                    self.tell_skips(id);
                }
                if is_paused {
                    self.read_messages(now, id, usize::MAX);
                    self.resume(id);
                }
            }
            AfterDrain::NextRequest if is_ending => {
                self.end(id, CloseReason::Shutdown);
            }
            AfterDrain::NextRequest => {
                self.unlocate(id);
                let Some(entry) = self.table.get_mut(id) else {
                    return SocketAction::None;
                };
                let conn = &mut entry.conn;
                conn.start_next_head(now.instant, &self.limits);
                self.arm(id);
                self.read_head(now, id);
                self.resume(id);
            }
            AfterDrain::ShutDownWrite => {
                self.arm(id);
                self.resume(id);
                return SocketAction::ShutDownWrite;
            }
            AfterDrain::Over => self.end(id, CloseReason::Gone),
        }
        SocketAction::None
    }

    /// Lets no effect through before all that are dirty now have been flushed.
    fn raise_flush_barrier(&mut self) {
        self.flush_barrier = self.dirty.len();
    }

    /// A queue has become shorter, and perhaps what waited for that can go on.
    #[cold]
    fn go_on_after_writing(&mut self, now: Now, id: ConnId) {
        let conn = self.table.get(id);
        if conn.is_some_and(|conn| conn.is_paused_for_nothing(&self.limits)) {
            self.go_on_reading(now, id);
        }
        self.catch_up(id);
    }
}

/// Puts a connection into the list of those to write to, unless it is there or cannot be.
fn mark_dirty(conn: &mut Connection, dirty: &mut VecDeque<ConnId>) {
    if conn.may_flush() && !conn.set_dirty(true) {
        dirty.push_back(conn.id);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::base::RoomName;
    use crate::wire::api::{ApiCall, ConnectionsOf};

    const UPGRADE: &[u8] = b"GET /connection/websocket HTTP/1.1\r\nHost: a\r\n\
        Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    const HEALTH: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n";

    fn at(secs: u64) -> Now {
        Now {
            instant: Instant::ORIGIN + Duration::from_secs(secs),
            unix_ms: secs * 1000,
        }
    }

    fn hub() -> Hub<()> {
        let mut hub = Hub::new(Limits::default(), Gate::default(), 1, Instant::ORIGIN, 1);
        hub.handle_room(at(0), 0, 1000);
        hub
    }

    fn accept(hub: &mut Hub<()>, is_admin: bool) -> ConnId {
        let peer = ([127, 0, 0, 1], 1).into();
        (hub.handle_accept(at(0), is_admin, peer, ())).expect("a place")
    }

    /// Writes all that is queued.
    fn flush(hub: &mut Hub<()>, now: Now) {
        while let Some((id, (), queue)) = hub.poll_flush() {
            let bytes = queue.level().bytes;
            queue.advance(bytes);
            let is_blocked = false;
            hub.handle_written(now, id, Written::Bytes { bytes, is_blocked });
        }
    }

    fn deadline(hub: &mut Hub<()>, id: ConnId) -> Option<Instant> {
        let entry = hub.table.get_mut(id).expect("it is there");
        entry.conn.next_deadline(&hub.limits)
    }

    #[test]
    fn a_client_is_read_again_when_its_queue_is_less_than_half_full() {
        let mut hub = hub();
        let id = accept(&mut hub, false);
        hub.handle_bytes(at(0), id, UPGRADE);
        flush(&mut hub, at(0));
        let half = hub.limits.outbound_publications_max / 2;
        let frames = Frames::message(PayloadKind::Text, b"x");
        let entry = hub.table.get_mut(id).expect("it is there");
        for _ in 0..half + 1 {
            entry.conn.queue.push(&frames, 1);
        }
        mark_dirty(&mut entry.conn, &mut hub.dirty);
        let command = br#"{"id":1,"connect":{}}"#;
        let frame = [
            &[0x81, 0x80 | command.len() as u8, 0, 0, 0, 0],
            &command[..],
        ]
        .concat();
        assert_eq!(hub.handle_bytes(at(0), id, &frame), Reading::Paused);
        // One publication in each write, and one that a room sends meanwhile: never empty.
        for is_read in [false, true] {
            let (_, (), queue) = hub.poll_flush().expect("something is queued");
            let bytes = frames.bytes().len();
            queue.advance(bytes);
            let is_blocked = true;
            hub.handle_written(at(0), id, Written::Bytes { bytes, is_blocked });
            assert_eq!(hub.poll_resumed(), is_read.then_some(id));
            hub.check_invariants();
            hub.handle_writable(id);
        }
        let entry = hub.table.get_mut(id).expect("it is there");
        assert!(!entry.conn.queue.is_empty() && !entry.conn.is_paused());
        assert_eq!(entry.conn.traffic.received_messages, 1);
    }

    #[test]
    fn an_empty_line_moves_no_deadline() {
        for is_admin in [false, true] {
            let mut hub = hub();
            let id = accept(&mut hub, is_admin);
            // An empty line behind the request is not the next one either.
            hub.handle_bytes(at(1), id, &[HEALTH, b"\r\n"].concat());
            flush(&mut hub, at(1));
            let kept = deadline(&mut hub, id);
            let secs = if is_admin { 120 } else { 10 };
            assert_eq!(kept, Some(at(1 + secs).instant));
            for (secs, bytes) in [(3, &b"\r\n"[..]), (5, b"\r"), (7, b"\n\r\n")] {
                hub.handle_bytes(at(secs), id, bytes);
                assert_eq!(deadline(&mut hub, id), kept, "{secs}");
            }
            hub.handle_bytes(at(9), id, b"\r\nG");
            assert_eq!(deadline(&mut hub, id), Some(at(19).instant));
        }
    }

    #[test]
    fn a_call_with_many_steps_gives_way_after_some_and_is_not_slept_over() {
        let mut hub = hub();
        let listing = ApiCall::Connections {
            of: ConnectionsOf::Channel(RoomName::new("r").expect("a good name")),
            limit: 1,
        };
        let commands = vec![Ok(listing); 200];
        let parallel = true;
        let call = ApiCall::Batch { commands, parallel };
        hub.handle_call(at(0), 1, ProgramCall::Api(call));
        let mut turns = 0;
        while hub.poll_answer().is_none() {
            assert!(hub.has_backlog(), "asleep after {turns} turns");
            turns += 1;
            assert!(hub.handle_room(at(0), 0, 1000), "{turns}");
        }
        // 64 steps when it came, and 64 in each turn.
        assert_eq!(turns, 3);
        assert!(!hub.has_backlog());
    }
}
