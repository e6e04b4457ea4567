//! The poll loop. One turn is a fixed list of phases:
//!
//! | # | phase | does | bound |
//! |---|---|---|---|
//! | 1 | wait | sleeps until an event, a deadline, or not at all if there is a backlog | |
//! | 2 | clock | reads the clocks, once | |
//! | 3 | note | events become lists of what to accept, read and write; nothing else | `EVENTS` |
//! | 4 | accept | connections into the hub | `ACCEPTS` a listener |
//! | 5 | receive | one read a connection into one scratch buffer, into the hub | `READS`, `READ_BYTES`, `PHASE_READ_BYTES`, `HANDSHAKE_TIME` |
//! | 6 | jobs | the hub's jobs to the workers | the workers' queues |
//! | 7 | effects | what the workers say, into the hub | `PUSHES`; waits for a flush that is due |
//! | 8 | expire | timers | `TIMERS`; waits after a stop |
//! | 9 | flush | one write a connection that has something queued | `WRITES`, `SLICES` |
//! | 10 | report | answers what the hub asks: texts for operators, figures of the node | `INQUIRIES` |
//! | 11 | reap | frees what is over, one log line each | |
//!
//! Jobs come before effects so that with `--workers 0`, where handing a job over is doing it, what
//! was received in a turn leaves in the same turn.
//!
//! Never: decides anything about a connection; the hub does. Never blocks but in phase 1.
//!
//! Invariant: readiness is edge-triggered and registrations never change, so whatever the kernel
//! has announced is remembered until it has been read or written to the end.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use mio::{Events, Interest, Poll, Token};
use rustls::ServerConfig;

use super::budget;
use super::control::{Order, Orders};
use super::crew::Crew;
use super::error::LoopError;
use super::farewell::FarewellLog;
use super::inquiries;
use super::last_ends::LastEnds;
use super::listener::{Accepted, Listener};
use super::meter::{Meter, Phase};
use super::notices::ProxyNotices;
use super::readiness::{list_readable, register, special_number, token_bits};
use super::reports::{LoopFigures, Reports};
use super::socket::{ReadOutcome, Socket};
use super::stall::Stall;
use super::supervision::Sizes;
use super::tls::{self, Sessions};
use crate::base::{CloseReason, ConnId, Instant, Now};
use crate::clock;
use crate::hub::{Hub, Reading, SocketAction};

/// The loop with everything it owns.
pub(crate) struct EventLoop<C> {
    poll: Poll,
    hub: Hub<Socket>,
    crew: C,
    listeners: Vec<Listener>,
    /// What new connections of the public listeners speak TLS with.
    tls: Option<Arc<ServerConfig>>,
    sessions: Sessions,
    orders: Orders,
    reports: Reports,
    farewells: FarewellLog,
    notices: ProxyNotices,
    /// Sockets to read, each once.
    readable: VecDeque<ConnId>,
    scratch: Box<[u8]>,
    stall: Stall,
    counters: LoopCounters,
    last_ends: LastEnds,
    /// Publications dropped from queues before the daemon began to end, once it has.
    dropped_before: Option<u64>,
    /// Once the daemon is ending: when it does not wait any longer.
    ending: Option<Instant>,
}

/// What the loop itself has counted.
#[derive(Clone, Debug)]
pub(crate) struct LoopCounters {
    /// Turns.
    pub(crate) turns: u64,
    /// Times that accepting was paused for want of descriptors.
    pub(crate) accept_pauses: u64,
    /// TLS handshakes that came to their end.
    pub(crate) tls_handshakes: u64,
    /// Where its time went.
    pub(crate) meter: Meter,
}

impl<C: Crew> EventLoop<C> {
    /// The token of the waker that this loop expects to be registered.
    pub(crate) const WAKER: Token = Token(token_bits(0));

    /// A loop over `poll`.
    ///
    /// # Errors
    /// When the listeners cannot be registered.
    pub(crate) fn new(
        poll: Poll,
        hub: Hub<Socket>,
        crew: C,
        mut listeners: Vec<Listener>,
        tls: Option<Arc<ServerConfig>>,
        orders: Orders,
        reports: Reports,
    ) -> io::Result<Self> {
        for (number, listener) in listeners.iter_mut().enumerate() {
            let token = Token(token_bits(number + 1));
            poll.registry()
                .register(&mut listener.socket, token, Interest::READABLE)?;
        }
        Ok(Self {
            poll,
            hub,
            crew,
            listeners,
            tls,
            sessions: Sessions::default(),
            orders,
            reports,
            farewells: FarewellLog::default(),
            notices: ProxyNotices::default(),
            readable: VecDeque::new(),
            scratch: vec![0; budget::READ_BYTES].into(),
            stall: Stall::default(),
            counters: LoopCounters {
                turns: 0,
                accept_pauses: 0,
                tls_handshakes: 0,
                meter: Meter::new(clock::read_instant()),
            },
            last_ends: LastEnds::default(),
            dropped_before: None,
            ending: None,
        })
    }

    /// Turns until told to stop and done with it. Gives the crew back.
    ///
    /// # Errors
    /// When the loop cannot go on.
    pub(crate) fn run(mut self) -> Result<C, LoopError> {
        let mut events = Events::with_capacity(budget::EVENTS);
        let mut now = clock::read();
        self.grant_credits(now);
        loop {
            let timeout = self.wait(now.instant, &mut events)?;
            let before = std::mem::replace(&mut now, clock::read());
            self.stall.handle_wake(before.instant, timeout, now.instant);
            self.counters.turns += 1;
            self.counters.meter.wake(now.instant);
            self.note(&events);
            let is_told = self.obey(now);
            // A few events are noted in less time than it takes to say so.
            let has_many = events.iter().nth(budget::EVENTS_UNTIMED).is_some();
            self.lap(Phase::Note, is_told || has_many);
            let is_short = self.reports.look_at_memory(now, &mut self.hub);
            let has_guests = self.listeners.iter().any(|listener| listener.is_ready);
            self.accept(now);
            self.lap(Phase::Accept, has_guests || is_short);
            let has_input = !self.readable.is_empty();
            self.receive(now);
            self.lap(Phase::Receive, has_input);
            let has_jobs = self.hand_over(now);
            self.lap(Phase::Jobs, has_jobs);
            let has_effects = self.apply_effects(now);
            self.lap(Phase::Effects, has_effects);
            let is_due = self.expire(now, &events);
            self.lap(Phase::Expire, is_due);
            let has_output = self.hub.flushes_len() > 0;
            self.flush(now);
            self.lap(Phase::Flush, has_output);
            let is_asked = self.answer_inquiries(now);
            self.lap(Phase::Report, is_asked);
            let has_ends = self.reap(now);
            self.lap(Phase::Reap, has_ends);
            self.end_if_drained(now);
            self.orders.exchange_calls(now, &mut self.hub);
            self.orders.tell_events(&mut self.hub);
            self.report(now);
            self.counters.meter.end_turn();
            if self.crew.has_failed() || self.orders.has_failed() {
                return Err(LoopError::Thread);
            }
            if self.is_done(now) {
                // Those whose end was not waited for were reaped just now.
                self.orders.tell_events(&mut self.hub);
                self.farewells.tell_held_back();
                return Ok(self.crew);
            }
        }
    }

    /// A phase has ended. One that had nothing to do is not worth a reading of the clock.
    fn lap(&mut self, phase: Phase, had_work: bool) {
        if had_work {
            let now = self.counters.meter.end(phase);
            if phase == Phase::Flush {
                self.hub.handle_flushed(now);
            }
        }
    }

    // The phases.

    /// Returns how long the loop wanted to sleep; `None` is until an event.
    fn wait(&mut self, now: Instant, events: &mut Events) -> Result<Option<Duration>, LoopError> {
        let timeout = if self.has_backlog() || !self.crew.try_sleep() {
            Some(Duration::ZERO)
        } else {
            self.time_to_sleep(now)
        };
        let polled = self.poll.poll(events, timeout);
        self.crew.note_awake();
        match polled {
            Ok(()) => Ok(timeout),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                events.clear();
                Ok(timeout)
            }
            Err(error) => Err(LoopError::Poll(error)),
        }
    }

    fn note(&mut self, events: &Events) {
        for event in events {
            let bits = event.token().0;
            if let Some(number) = special_number(bits) {
                // The waker needs nothing: the mailbox and the orders are looked at in any case.
                if let Some(listener) = number
                    .checked_sub(1)
                    .and_then(|at| self.listeners.get_mut(at))
                {
                    listener.is_ready = true;
                }
                continue;
            }
            let id = ConnId::from_bits(bits as u64);
            let Some(socket) = self.hub.socket_mut(id) else {
                continue;
            };
            if event.is_read_closed() {
                socket.is_read_closed = true;
            }
            let is_readable = event.is_readable() || event.is_read_closed() || event.is_error();
            socket.has_input |= is_readable;
            list_readable(&mut self.readable, id, socket);
            if event.is_writable()
                && !self.hub.handle_writable(id)
                && let Some(session) = self.sessions.get_mut(id.slot)
                && let Some(socket) = self.hub.socket_mut(id)
            {
                // What a handshake has to say is in no queue, and may not have fitted the socket.
                session.handle_writable(&mut socket.stream);
            }
        }
    }

    /// Returns whether there was an order, or a call.
    fn obey(&mut self, now: Now) -> bool {
        let mut is_any = self.orders.has_backlog(&self.hub);
        while let Some(order) = self.orders.poll() {
            is_any = true;
            match order {
                Order::Count(reply) => {
                    // Whoever asked may have lost interest.
                    let _ = reply.try_send((self.hub.counters(), self.counters.clone()));
                }
                Order::Secrets {
                    token_secret,
                    api_key,
                } => self.hub.handle_secrets(token_secret, api_key),
                Order::Tls(config) => self.tls = Some(config),
                Order::Abort => {
                    log::info!("told twice to stop: ending at once");
                    self.begin_to_end(now);
                    self.ending = Some(now.instant);
                }
            }
        }
        self.orders.exchange_calls(now, &mut self.hub);
        if self.orders.wants_stop() && !self.hub.is_draining() {
            let left = self.hub.counters().websockets;
            log::info!("draining: {left} WebSockets to close");
            self.dropped_before = Some(self.hub.counters().dropped_from_queues);
            self.hub.handle_shutdown(now);
        }
        is_any
    }

    /// Once no WebSocket is left, nobody needs to be told any more that the daemon is draining.
    fn end_if_drained(&mut self, now: Now) {
        if self.ending.is_none() && self.hub.is_drained() {
            self.begin_to_end(now);
        }
    }

    fn begin_to_end(&mut self, now: Now) {
        if self.ending.is_some() {
            return;
        }
        let left = self.hub.connections_len();
        log::info!("stopping: {left} connections left");
        self.listeners.clear();
        self.ending = Some(now.instant + self.hub.ending_time_max());
        self.hub.handle_end(now);
    }

    fn accept(&mut self, now: Now) {
        for listener in &mut self.listeners {
            if listener
                .paused_until
                .is_some_and(|until| until > now.instant)
            {
                continue;
            }
            listener.paused_until = None;
            listener.tell_if_recovered(now.instant);
            for _ in 0..budget::ACCEPTS {
                if !listener.is_ready {
                    break;
                }
                match listener.accept() {
                    Accepted::Empty => listener.is_ready = false,
                    Accepted::Vanished => {}
                    Accepted::Exhausted(error) => {
                        self.counters.accept_pauses += 1;
                        listener.pause(now.instant, &error);
                        break;
                    }
                    Accepted::Connection(stream, peer) => {
                        listener.note_accepted();
                        let socket = Socket::new(stream);
                        match self.hub.handle_accept(now, listener.is_admin, peer, socket) {
                            Ok(id) => {
                                register(&self.poll, &mut self.hub, id);
                                if let (false, Some(config)) = (listener.is_admin, &self.tls) {
                                    tls::begin(config, &mut self.sessions, &mut self.hub, id);
                                }
                            }
                            Err(socket) => drop(socket),
                        }
                    }
                }
            }
        }
    }

    fn receive(&mut self, now: Now) {
        let mut bytes_left = budget::PHASE_READ_BYTES;
        let mut handshake_time = Duration::ZERO;
        for _ in 0..self.readable.len().min(budget::READS) {
            if bytes_left == 0 {
                break;
            }
            let Some(id) = self.readable.pop_front() else {
                break;
            };
            let Some(socket) = self.hub.socket_mut(id) else {
                continue;
            };
            socket.is_listed = false;
            if socket.is_paused {
                continue;
            }
            let mut session = self.sessions.get_mut(id.slot);
            let is_handshaking = session.as_ref().is_some_and(|one| one.is_handshaking());
            if is_handshaking && handshake_time >= budget::HANDSHAKE_TIME {
                list_readable(&mut self.readable, id, socket);
                continue;
            }
            // Two readings of the clock are nothing beside a signature.
            let begun_at = is_handshaking.then(clock::read_instant);
            let outcome = socket.read(session.as_deref_mut(), &mut self.scratch);
            if let Some(begun_at) = begun_at {
                handshake_time += clock::read_instant().saturating_duration_since(begun_at);
            }
            if is_handshaking && session.is_some_and(|session| !session.is_handshaking()) {
                self.counters.tls_handshakes += 1;
            }
            match outcome {
                ReadOutcome::Empty => socket.has_input = false,
                ReadOutcome::Again => {
                    if !is_handshaking {
                        bytes_left = bytes_left.saturating_sub(self.scratch.len());
                    }
                    list_readable(&mut self.readable, id, socket);
                }
                ReadOutcome::Refused => {
                    socket.has_input = false;
                    self.hub.handle_eof(id, CloseReason::Tls);
                }
                ReadOutcome::Eof => {
                    socket.has_input = false;
                    self.hub.handle_eof(id, CloseReason::Gone);
                }
                ReadOutcome::Failed => {
                    socket.has_input = false;
                    self.hub.handle_eof(id, CloseReason::Reset);
                }
                ReadOutcome::Bytes(len, has_more) => {
                    bytes_left = bytes_left.saturating_sub(len);
                    socket.has_input = has_more;
                    let reading = self.hub.handle_bytes(now, id, &self.scratch[..len]);
                    let Some(socket) = self.hub.socket_mut(id) else {
                        continue;
                    };
                    match reading {
                        Reading::Over => {}
                        Reading::Paused => socket.is_paused = true,
                        Reading::Continue => list_readable(&mut self.readable, id, socket),
                    }
                }
            }
        }
    }

    /// Returns whether there were jobs.
    fn hand_over(&mut self, now: Now) -> bool {
        let mut is_any = false;
        while let Some((worker, job)) = self.hub.poll_job() {
            self.crew.hand_over(now, worker, job);
            is_any = true;
        }
        self.crew.end_of_jobs(now);
        is_any
    }

    /// Returns whether there were effects, or somebody who waited for workers or to be read.
    fn apply_effects(&mut self, now: Now) -> bool {
        let mut is_any = false;
        let mut pushes = 0;
        while pushes < budget::PUSHES && !self.hub.wants_flush() {
            let Some(effect) = self.crew.poll_effect() else {
                break;
            };
            pushes += self.hub.handle_effect(now, effect);
            is_any = true;
        }
        is_any |= self.grant_credits(now);
        is_any |= self.resume_reading();
        is_any
    }

    /// Returns whether anything was due.
    fn expire(&mut self, now: Now, events: &Events) -> bool {
        let is_full = || events.iter().nth(budget::EVENTS - 1).is_some();
        let has_more = || !self.readable.is_empty() || is_full();
        if self.stall.holds(now.instant, has_more) {
            return false;
        }
        self.hub.handle_timeout(now, budget::TIMERS)
    }

    fn flush(&mut self, now: Now) {
        // One turn each: what is dirty again afterwards waits for the next.
        for _ in 0..self.hub.flushes_len().min(budget::WRITES) {
            let Some((id, socket, queue)) = self.hub.poll_flush() else {
                break;
            };
            let session = self.sessions.get_mut(id.slot);
            let written = socket.write(session, queue);
            let action = self.hub.handle_written(now, id, written);
            if action == SocketAction::ShutDownWrite
                && let Some(socket) = self.hub.socket_mut(id)
            {
                socket.shut_down_write(self.sessions.get_mut(id.slot));
            }
        }
        self.resume_reading();
    }

    /// Returns whether anything was asked.
    fn answer_inquiries(&mut self, now: Now) -> bool {
        if !self.hub.has_inquiries() {
            return false;
        }
        let turning = LoopFigures {
            counters: &self.counters,
            jobs: (0..self.crew.len())
                .map(|worker| self.crew.queued(worker))
                .collect(),
            effects: self.crew.effects_len(),
        };
        inquiries::answer(
            now,
            &mut self.hub,
            &mut self.reports,
            &turning,
            &self.last_ends,
        );
        true
    }

    /// Returns whether any connection was over.
    fn reap(&mut self, now: Now) -> bool {
        let mut is_any = false;
        while let Some((mut socket, farewell)) = self.hub.poll_closed() {
            let mut session = self.sessions.remove(farewell.id.slot);
            if let Some(session) = &mut session {
                session.close(&mut socket.stream);
            }
            // Closing the descriptor takes it out of the poll.
            drop(socket);
            let failure = session.as_ref().and_then(|session| session.failure());
            self.farewells.say(now.instant, &farewell, failure);
            self.last_ends.remember(now, farewell);
            is_any = true;
        }
        self.farewells.tell_if_due(now.instant);
        if is_any {
            for listener in &mut self.listeners {
                listener.paused_until = None;
            }
        }
        is_any
    }

    // Between the phases.

    /// Shows whoever watches that this turn is over.
    fn report(&mut self, now: Now) {
        while let Some(proxy) = self.hub.poll_malformed_proxy() {
            self.notices.say(now.instant, proxy);
        }
        if let Some(supervision) = &mut self.reports.supervision {
            let sizes = Sizes {
                connections: self.hub.connections_len(),
                rooms: self.hub.rooms_len(),
            };
            supervision.handle_turn(now.instant, sizes);
        }
    }

    /// Tells the hub how much room the workers' queues have. Returns whether anybody waited for it.
    fn grant_credits(&mut self, now: Now) -> bool {
        let mut is_any = false;
        for worker in 0..self.crew.len() {
            let room = self.crew.free(worker);
            is_any |= self.hub.handle_room(now, worker, room);
        }
        is_any
    }

    /// Returns whether there was any to be read again.
    fn resume_reading(&mut self) -> bool {
        let mut is_any = false;
        while let Some(id) = self.hub.poll_resumed() {
            is_any = true;
            let Some(socket) = self.hub.socket_mut(id) else {
                continue;
            };
            // One that is not paused is named to be read in any case: its event may not have come.
            let was_paused = std::mem::take(&mut socket.is_paused);
            socket.has_input |= !was_paused;
            list_readable(&mut self.readable, id, socket);
        }
        is_any
    }

    fn has_backlog(&self) -> bool {
        self.hub.has_backlog()
            || self.orders.has_backlog(&self.hub)
            || !self.readable.is_empty()
            || self.crew.has_effects()
            || self
                .listeners
                .iter()
                .any(|listener| listener.is_ready && listener.paused_until.is_none())
    }

    /// How long to sleep; `None` is until an event.
    fn time_to_sleep(&self, now: Instant) -> Option<Duration> {
        let paused = self
            .listeners
            .iter()
            .filter_map(Listener::poll_timeout)
            .min();
        [
            self.stall.postpone(self.hub.poll_timeout()),
            self.crew.poll_timeout(),
            paused,
            self.ending,
            self.farewells.poll_timeout(),
            self.orders.poll_timeout(now),
            self.reports.poll_timeout(),
        ]
        .into_iter()
        .flatten()
        .min()
        .map(|deadline| deadline.saturating_duration_since(now))
    }

    /// Whether the daemon is ending and has nothing left to wait for.
    fn is_done(&mut self, now: Now) -> bool {
        let Some(deadline) = self.ending else {
            return false;
        };
        let left = self.hub.connections_len();
        if left > 0 && now.instant >= deadline {
            log::warn!("{left} connections did not end in time");
            self.hub.handle_abort();
            self.reap(now);
        }
        if self.hub.connections_len() > 0 {
            return false;
        }
        let dropped = self.hub.counters().dropped_from_queues;
        let dropped = dropped - self.dropped_before.unwrap_or(dropped);
        if dropped > 0 {
            log::warn!("{dropped} publications were dropped from queues while the daemon ended");
        }
        true
    }
}
