//! A WebSocket that speaks by commands: who it has said it is, what it is subscribed to, what of its
//! commands is left, and its clockwork.
//!
//! Owns: the stage of its life, its subscriptions, the commands in hand, pings and their answers.
//! Never: carries out a command or asks a worker; the hub does.
//!
//! ```text
//! Strange ──► Connecting ──► Connected
//!    └──► Refused
//! ```
//!
//! Invariants
//! - At most one ping is unanswered.
//! - A room is subscribed to at most once; one that is awaited has been asked for, or stands in the
//!   line of those that are to be.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use super::Connection;
use crate::auth::Grants;
use crate::base::{Instant, Limits, Prng, RoomName, Since, UserId};
use crate::wire::centrifugo::command::{Command, CommandFrame, Malformed};
use crate::wire::centrifugo::reply::SubscribeResult;

/// What a WebSocket needs that speaks by commands.
#[derive(Debug)]
pub struct Session {
    stage: Stage,
    /// Who it is where no token is needed.
    pub said_user: Option<UserId>,
    /// What it may do.
    pub grants: Grants,
    subscriptions: HashMap<RoomName, Subscription>,
    /// Rooms that no worker has been asked for, the next one first.
    unasked: VecDeque<(RoomName, Since)>,
    /// The rest of the message in hand.
    frame: Option<CommandFrame>,
    /// A command that could not be carried out yet.
    put_back: Option<Command>,
    /// A question is with the workers.
    is_asking: bool,
    /// The next command waits until this room is joined.
    awaited: Option<RoomName>,
    pings: Pings,
    /// The earliest end of a subscription whose room is joined.
    next_expiry: Option<Instant>,
}

#[derive(Debug)]
enum Stage {
    /// It has not said who it is.
    Strange {
        deadline: Instant,
    },
    /// Rooms are joined that it did not ask for itself.
    Connecting(Box<Connecting>),
    Connected,
    /// It was told that it cannot connect.
    Refused {
        deadline: Instant,
    },
}

/// What the answer to `connect` waits for.
#[derive(Debug)]
pub struct Connecting {
    /// The command.
    pub id: u32,
    /// For how long the token is good, in seconds.
    pub ttl_s: Option<u32>,
    /// Rooms that are not joined.
    pub pending: usize,
    /// Most bytes of publications in each of the others.
    pub answer_bytes_max: usize,
    /// What those came to that are.
    pub results: Vec<(RoomName, SubscribeResult)>,
}

/// Who has asked for a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker {
    /// The client, by this command.
    Client(u32),
    /// Its token, when it connected.
    Token,
    /// A back end.
    BackEnd,
}

/// A room that is subscribed to, or about to be.
#[derive(Debug)]
pub struct Subscription {
    /// Who has asked for it.
    pub asker: Asker,
    /// Whether the room is joined.
    pub is_joined: bool,
    /// Whether it wants to be told who joins and who leaves.
    pub watches: bool,
    /// Whether it wants to be none if it cannot be given all that it missed.
    pub rejects_unrecovered: bool,
    /// Whether a back end has ended it before its room was joined.
    pub is_unwanted: bool,
    /// When its token runs out, and is given no more time.
    pub expires_at: Option<Instant>,
    /// For how long its token is good, in seconds.
    pub ttl_s: Option<u32>,
    /// What the client is told with it: JSON.
    pub data: Option<Box<str>>,
}

impl Subscription {
    /// One that is about to be.
    #[must_use]
    pub fn asked_by(asker: Asker) -> Self {
        Self {
            asker,
            is_joined: false,
            watches: false,
            rejects_unrecovered: false,
            is_unwanted: false,
            expires_at: None,
            ttl_s: None,
            data: None,
        }
    }

    /// Whether the client has not asked for it.
    #[must_use]
    pub fn is_server_side(&self) -> bool {
        !matches!(self.asker, Asker::Client(_))
    }
}

/// When pings are sent and their answers are due.
#[derive(Clone, Copy, Debug)]
struct Pings {
    next: Option<Instant>,
    /// When the answer to the last one is due; `None` when there was one.
    answer_due: Option<Instant>,
    is_suspected: bool,
}

/// What is due now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionDue {
    /// Nothing.
    Nothing,
    /// Send a ping.
    Ping,
    /// Read once more: its answer may lie in the kernel.
    Suspicion,
    /// Close: it has not answered a ping.
    NoPong,
    /// Close: it has not said who it is.
    Stale,
    /// Some subscription has run out.
    Expired,
}

impl Session {
    /// One that has until `deadline` to say who it is.
    #[must_use]
    pub fn new(deadline: Instant, said_user: Option<UserId>) -> Self {
        Self {
            stage: Stage::Strange { deadline },
            said_user,
            grants: Grants::default(),
            subscriptions: HashMap::new(),
            unasked: VecDeque::new(),
            frame: None,
            put_back: None,
            is_asking: false,
            awaited: None,
            pings: Pings {
                next: None,
                answer_due: None,
                is_suspected: false,
            },
            next_expiry: None,
        }
    }

    // Its life.

    /// Whether it has not said who it is.
    #[must_use]
    pub fn is_strange(&self) -> bool {
        matches!(self.stage, Stage::Strange { .. })
    }

    /// Whether it may use every command.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        matches!(self.stage, Stage::Connected)
    }

    /// It was told that it cannot connect. What else it has sent is not looked at.
    pub fn refuse(&mut self) {
        if let Stage::Strange { deadline } = self.stage {
            self.stage = Stage::Refused { deadline };
        }
        self.frame = None;
    }

    /// It has said who it is; so many rooms must be joined before it is told so.
    pub fn start_connecting(&mut self, connecting: Connecting) {
        self.stage = Stage::Connecting(Box::new(connecting));
    }

    /// What the answer waits for, while it does.
    pub fn connecting_mut(&mut self) -> Option<&mut Connecting> {
        match &mut self.stage {
            Stage::Connecting(connecting) => Some(connecting),
            _ => None,
        }
    }

    /// Every room is joined: it is connected, and its pings begin at a random time in the second half
    /// of their interval. Returns what the answer has waited for.
    pub fn connect(
        &mut self,
        now: Instant,
        limits: &Limits,
        prng: &mut Prng,
    ) -> Option<Box<Connecting>> {
        match std::mem::replace(&mut self.stage, Stage::Connected) {
            Stage::Connecting(connecting) => {
                self.pings.next = limits
                    .ping_interval
                    .map(|interval| now + prng.between(interval / 2, interval));
                Some(connecting)
            }
            other => {
                self.stage = other;
                None
            }
        }
    }

    // Commands.

    /// Whether the next command has to wait for something.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.is_asking
            || self.awaited.is_some()
            || !self.unasked.is_empty()
            || matches!(self.stage, Stage::Connecting(_))
    }

    /// Whether there are commands in hand.
    #[must_use]
    pub fn has_commands(&self) -> bool {
        self.put_back.is_some() || self.frame.is_some()
    }

    /// Takes the command that could not be carried out.
    pub fn take_put_back(&mut self) -> Option<Command> {
        self.put_back.take()
    }

    /// Takes the next command of the message in hand.
    pub fn next_command(&mut self) -> Option<Result<Command, Malformed>> {
        let next = self.frame.as_mut()?.next();
        if next.is_none() {
            self.frame = None;
        }
        next
    }

    /// A message has come; there is none in hand.
    pub fn set_frame(&mut self, frame: CommandFrame) {
        debug_assert!(!self.has_commands(), "commands are in hand");
        self.frame = Some(frame);
    }

    /// A command cannot be carried out yet.
    pub fn put_back(&mut self, command: Command) {
        self.put_back = Some(command);
    }

    /// Sets whether a question is with the workers.
    pub fn set_asking(&mut self, is_asking: bool) {
        self.is_asking = is_asking;
    }

    /// The next command waits until `room` is joined, or cannot be.
    pub fn await_room(&mut self, room: RoomName) {
        self.awaited = Some(room);
    }

    // Rooms.

    /// What is subscribed to.
    pub fn subscriptions(&self) -> impl Iterator<Item = (&RoomName, &Subscription)> {
        self.subscriptions.iter()
    }

    /// Number of rooms subscribed to, or about to be, apart from the personal room of `user`.
    #[must_use]
    pub fn asked_len(&self, user: Option<&UserId>) -> usize {
        let personal = user.map(RoomName::personal);
        let has_personal = personal.is_some_and(|room| self.subscriptions.contains_key(&room));
        self.subscriptions.len() - usize::from(has_personal)
    }

    /// The subscription to a room.
    #[must_use]
    pub fn subscription(&self, room: &RoomName) -> Option<&Subscription> {
        self.subscriptions.get(room)
    }

    /// Takes note of a subscription, whose room is to be joined.
    pub fn subscribe(&mut self, room: RoomName, since: Since, subscription: Subscription) {
        self.unasked.push_back((room.clone(), since));
        self.subscriptions.insert(room, subscription);
        self.note_expiries();
    }

    /// The next room that a worker is to be asked for.
    #[must_use]
    pub fn next_unasked(&self) -> Option<&RoomName> {
        self.unasked.front().map(|(room, _)| room)
    }

    /// Takes it: from where it is to be received, and with what.
    pub fn take_unasked(&mut self) -> Option<(RoomName, Since, &Subscription)> {
        loop {
            let (room, since) = self.unasked.pop_front()?;
            // Looked up twice, since a borrow may not leave a loop that goes on.
            if self.subscriptions.contains_key(&room) {
                let subscription = self.subscriptions.get(&room)?;
                return Some((room, since, subscription));
            }
        }
    }

    /// A room was joined; returns its subscription unless it was not awaited.
    pub fn note_joined(&mut self, room: &RoomName) -> Option<&Subscription> {
        self.awaited.take_if(|awaited| awaited == room);
        let subscription = self.subscriptions.get_mut(room)?;
        if std::mem::replace(&mut subscription.is_joined, true) {
            return None;
        }
        self.note_expiries();
        self.subscriptions.get(room)
    }

    /// A back end ends the subscription; returns whether that has to wait until its room is joined.
    pub fn renounce(&mut self, room: &RoomName) -> bool {
        let subscription = self.subscriptions.get_mut(room);
        subscription.is_some_and(|one| {
            one.is_unwanted = !one.is_joined;
            one.is_unwanted
        })
    }

    /// Takes a subscription away.
    pub fn unsubscribe(&mut self, room: &RoomName) -> Option<Subscription> {
        self.awaited.take_if(|awaited| awaited == room);
        let subscription = self.subscriptions.remove(room)?;
        self.note_expiries();
        Some(subscription)
    }

    /// A subscription has a new token.
    pub fn renew(&mut self, room: &RoomName, expires_at: Option<Instant>) {
        if let Some(subscription) = self.subscriptions.get_mut(room) {
            subscription.expires_at = expires_at;
            self.note_expiries();
        }
    }

    /// Some subscription that has run out.
    #[must_use]
    pub fn expired(&self, now: Instant) -> Option<(&RoomName, &Subscription)> {
        let mut joined = self.subscriptions.iter().filter(|(_, one)| one.is_joined);
        joined.find(|(_, one)| one.expires_at.is_some_and(|at| at <= now))
    }

    fn note_expiries(&mut self) {
        let joined = self.subscriptions.values().filter(|one| one.is_joined);
        self.next_expiry = joined.filter_map(|one| one.expires_at).min();
    }

    // Time.

    /// It has answered a ping; returns whether there was one to answer.
    pub fn note_pong(&mut self) -> bool {
        self.pings.is_suspected = false;
        self.pings.answer_due.take().is_some()
    }

    /// It may have answered, but was not read.
    pub fn excuse(&mut self, now: Instant, limits: &Limits) {
        if let Some(due) = &mut self.pings.answer_due {
            *due = (*due).max(now + answer_time(limits));
            self.pings.is_suspected = false;
        }
    }

    /// What is due; asked until it says `Nothing`. What it names is taken as done, but for what ends
    /// the connection and for subscriptions that have run out.
    pub fn poll(&mut self, now: Instant, limits: &Limits) -> SessionDue {
        if let Stage::Strange { deadline } | Stage::Refused { deadline } = self.stage {
            return if deadline <= now {
                SessionDue::Stale
            } else {
                SessionDue::Nothing
            };
        }
        if let Some(due) = self.pings.answer_due
            && due <= now
        {
            if self.pings.is_suspected {
                return SessionDue::NoPong;
            }
            self.pings.is_suspected = true;
            self.pings.answer_due = Some(now + SUSPICION);
            return SessionDue::Suspicion;
        }
        if let (Some(next), Some(interval)) = (self.pings.next, limits.ping_interval)
            && next <= now
            && self.pings.answer_due.is_none()
        {
            self.pings.next = Some(now + interval);
            self.pings.answer_due = Some(now + answer_time(limits));
            return SessionDue::Ping;
        }
        if self.expired(now).is_some() {
            return SessionDue::Expired;
        }
        SessionDue::Nothing
    }

    /// When to ask again; `None` if nothing will ever be due.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        if let Stage::Strange { deadline } | Stage::Refused { deadline } = self.stage {
            return Some(deadline);
        }
        // While an answer is due no ping is sent.
        let ping = self.pings.answer_due.or(self.pings.next);
        let expiry = self.next_expiry;
        [ping, expiry].into_iter().flatten().min()
    }
}

impl Connection {
    /// What it needs that speaks by commands, while it is open.
    pub fn session_mut(&mut self) -> Option<&mut Session> {
        self.open_mut()?.session.as_deref_mut()
    }

    /// The same, to look at.
    #[must_use]
    pub fn session(&self) -> Option<&Session> {
        self.open()?.session.as_deref()
    }
}

/// How long a ping may remain without an answer: what the pong timeout leaves of silence.
fn answer_time(limits: &Limits) -> Duration {
    let interval = limits.ping_interval.unwrap_or_default();
    limits.pong_timeout.saturating_sub(interval)
}

/// How long a suspicion takes to be confirmed: time for a turn that reads every socket.
const SUSPICION: Duration = Duration::from_millis(100);
