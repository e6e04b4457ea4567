//! The thread that hears what happens in the rooms that are followed.
//!
//! Owns: the connection for the feed, and which rooms are followed on behalf of which shard.
//! Never: reads on after a pause that was too long. The library would take the next answer for one
//! that came late and pass over it, so a connection that was silent is lost.
//!
//! A subscription is read as it comes: what Redis says of a room before its subscription is confirmed,
//! the latest one, is not told. Wishes are looked at whenever something was read; a message on the
//! node's own channel sees to that.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use crossbeam_channel::{Receiver, RecvTimeoutError, TryRecvError};
use redis::{Connection, Value};

use super::backoff::Backoff;
use super::dial::{Dialer, Run, SILENCE_MAX, push_parts};
use super::figures::Figures;
use super::outputs::Outputs;
use super::question::{SAID, shared_of};
use super::repeats::{About, Warnings};
use super::reply::{number, offset};
use crate::base::{BrokerPart, Epoch, Instant, Position, RoomName};
use crate::clock;
use crate::cluster::word::Word;
use crate::cluster::{Event, NodeId};
use crate::wire::node::EnvelopeError;

/// What a shard wants of the feed.
#[derive(Debug)]
pub(super) enum Wish {
    /// To hear of a room.
    Follow(usize, RoomName),
    /// No more of it.
    Unfollow(RoomName),
}

/// What the thread begins with.
pub(super) struct FeedParts {
    pub(super) dialer: Dialer,
    pub(super) node: NodeId,
    pub(super) wishes: Receiver<Wish>,
    pub(super) is_called: Arc<AtomicBool>,
    pub(super) outputs: Outputs,
    pub(super) figures: Arc<Figures>,
    pub(super) seed: u64,
}

pub(super) struct Feed {
    parts: FeedParts,
    own_channel: Vec<u8>,
    /// By channel.
    rooms: HashMap<Vec<u8>, Followed>,
    /// Subscriptions that are not confirmed, by channel.
    awaited: HashMap<Vec<u8>, Awaited>,
    /// When those are to be looked at that are not confirmed.
    look_at: Instant,
    /// Channels that are still to be subscribed to, and some that are not any more: of a room only if
    /// [`Followed::is_queued`].
    backlog: VecDeque<Vec<u8>>,
    /// It was lost, and is not back.
    is_lost: bool,
    warnings: Warnings,
    /// The other ends of the wishes have gone.
    is_over: bool,
}

/// A channel that is subscribed to again and again, and has not once been confirmed as often for so long,
/// is one whose subscription got lost.
const NEVER_CONFIRMED_MAX: Duration = Duration::from_secs(40);

/// Subscriptions to a channel that are not confirmed.
#[derive(Debug)]
struct Awaited {
    count: u32,
    /// When the first of them was asked for.
    first: Instant,
    /// The same, or when one of them was confirmed since.
    since: Instant,
}

#[derive(Debug)]
struct Followed {
    room: RoomName,
    shard: usize,
    /// Its channel is in the backlog.
    is_queued: bool,
}

/// Most channels in one command, and most wishes at once.
const CHANNELS_MAX: usize = 512;

/// How often it is looked whether subscriptions are confirmed.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

impl Feed {
    pub(super) fn new(parts: FeedParts) -> Self {
        let own_channel = parts.dialer.keys.node(parts.node).into_bytes();
        Self {
            parts,
            own_channel,
            rooms: HashMap::new(),
            awaited: HashMap::new(),
            look_at: clock::read_instant(),
            backlog: VecDeque::new(),
            is_lost: false,
            warnings: Warnings::default(),
            is_over: false,
        }
    }

    /// Goes on until the other ends of the wishes have gone.
    pub(super) fn run(mut self, first: (Connection, Run)) {
        let mut backoff = Backoff::new(self.parts.seed);
        let mut connected = Some(first);
        while !self.is_ending() {
            let attempt = match connected.take() {
                Some(first) => Ok(first),
                None => self.parts.dialer.feed(),
            };
            let why = match attempt {
                Ok((connection, run)) => {
                    let why = self.serve(connection, &run, &mut backoff);
                    self.parts
                        .figures
                        .is_feed_up
                        .store(false, Ordering::Relaxed);
                    if self.is_ending() {
                        break;
                    }
                    self.parts.figures.feed_losses.add(1);
                    self.parts.outputs.send_all(&Event::FeedLost);
                    self.tell_health(true);
                    format!("lost the feed: {why}")
                }
                Err(error) => {
                    self.parts.figures.failed_dials.add(1);
                    error.to_string()
                }
            };
            let shown = self.parts.dialer.target.shown().to_owned();
            let now = clock::read_instant();
            self.warnings
                .say(now, About::Link, format_args!("--redis is {shown}: {why}"));
            self.pause(now + backoff.next());
        }
    }

    /// Tells the node whether the feed is lost, if that has changed.
    fn tell_health(&mut self, is_lost: bool) {
        if std::mem::replace(&mut self.is_lost, is_lost) != is_lost {
            let part = BrokerPart::Feed;
            let ailment = is_lost.then(|| "the feed from Redis is lost".into());
            self.parts
                .outputs
                .send_lead(Event::Health { part, ailment });
        }
    }

    fn is_ending(&self) -> bool {
        self.is_over || self.parts.outputs.is_stopping()
    }

    /// Waits, and takes note of wishes meanwhile.
    fn pause(&mut self, until: Instant) {
        loop {
            let left = until.saturating_duration_since(clock::read_instant());
            match self.parts.wishes.recv_timeout(left) {
                Ok(Wish::Follow(shard, room)) => self.keep(shard, room),
                Ok(Wish::Unfollow(room)) => drop(self.forget(&room)),
                Err(RecvTimeoutError::Timeout) => return,
                Err(RecvTimeoutError::Disconnected) => {
                    self.is_over = true;
                    return;
                }
            }
        }
    }

    /// Keeps in mind that a room is followed. It keeps its place in the backlog.
    fn keep(&mut self, shard: usize, room: RoomName) {
        let followed = self.rooms.entry(self.channel(&room));
        let is_queued = false;
        followed
            .and_modify(|followed| followed.shard = shard)
            .or_insert(Followed {
                room,
                shard,
                is_queued,
            });
        self.count_rooms();
    }

    /// Does not follow a room any more; returns what was known of it.
    fn forget(&mut self, room: &RoomName) -> Option<Followed> {
        let channel = self.channel(room);
        let followed = self.rooms.remove(&channel);
        self.count_rooms();
        followed
    }

    fn count_rooms(&self) {
        let rooms = self.rooms.len() as u64;
        self.parts.figures.followed_rooms.set(rooms);
    }

    fn channel(&self, room: &RoomName) -> Vec<u8> {
        self.parts.dialer.keys.room(room).feed().into_bytes()
    }

    /// Follows all rooms and tells what comes; returns why that ended.
    fn serve(&mut self, mut connection: Connection, run: &Run, backoff: &mut Backoff) -> String {
        self.awaited.clear();
        self.backlog = self.rooms.keys().cloned().collect();
        for followed in self.rooms.values_mut() {
            followed.is_queued = true;
        }
        self.backlog.push_front(self.own_channel.clone());
        loop {
            let mut out = Vec::new();
            self.write_wishes(&mut out);
            self.write_backlog(&mut out);
            if self.is_ending() {
                return String::new();
            }
            if self.is_left_waiting() {
                return "it does not confirm what is asked for".into();
            }
            if !out.is_empty()
                && let Err(error) = connection.send_packed_command(&out)
            {
                return error.to_string();
            }
            match connection.recv_response() {
                Ok(value) => {
                    if let Err(why) = self.handle(value, run, backoff) {
                        return why;
                    }
                }
                Err(error) if error.is_timeout() => return "it was silent for too long".into(),
                Err(error) => return error.to_string(),
            }
        }
    }

    fn write_wishes(&mut self, out: &mut Vec<u8>) {
        // Whoever makes a wish from here on calls again. Swapped, not stored, so that the wishes of
        // those who have called before are seen below.
        self.parts.is_called.swap(false, Ordering::AcqRel);
        for _ in 0..CHANNELS_MAX {
            let wish = match self.parts.wishes.try_recv() {
                Ok(wish) => wish,
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => {
                    self.is_over = true;
                    return;
                }
            };
            match wish {
                Wish::Follow(shard, room) => {
                    let channel = self.channel(&room);
                    match self.rooms.get(&channel) {
                        // Its turn will come.
                        Some(followed) if followed.is_queued => {}
                        Some(_) if !self.awaited.contains_key(&channel) => {
                            let followed = Event::Followed(room.clone());
                            self.parts.outputs.send(shard, followed);
                        }
                        _ => {
                            redis::cmd("SUBSCRIBE")
                                .arg(&channel)
                                .write_packed_command(out);
                            self.await_confirmation(channel);
                        }
                    }
                    self.keep(shard, room);
                }
                Wish::Unfollow(room) => {
                    // One that is still to come does not come, whatever stands in the backlog.
                    let is_queued = self
                        .forget(&room)
                        .is_some_and(|followed| followed.is_queued);
                    if !is_queued {
                        redis::cmd("UNSUBSCRIBE")
                            .arg(self.channel(&room))
                            .write_packed_command(out);
                    }
                }
            }
        }
    }

    /// Subscribes to more of the backlog when most of what was asked for before is confirmed. Wishes
    /// that keep coming do not hold it up.
    fn write_backlog(&mut self, out: &mut Vec<u8>) {
        if self.backlog.is_empty() || self.awaited.len() > CHANNELS_MAX / 2 {
            return;
        }
        let mut command = redis::cmd("SUBSCRIBE");
        let mut count = 0;
        while count < CHANNELS_MAX
            && let Some(channel) = self.backlog.pop_front()
        {
            let followed = self.rooms.get_mut(&channel);
            let is_wanted = followed.is_some_and(|one| std::mem::take(&mut one.is_queued));
            if is_wanted || channel == self.own_channel {
                command.arg(&channel);
                self.await_confirmation(channel);
                count += 1;
            }
        }
        if count > 0 {
            command.write_packed_command(out);
        }
    }

    fn handle(&mut self, value: Value, run: &Run, backoff: &mut Backoff) -> Result<(), String> {
        if let Value::ServerError(error) = &value {
            return Err(super::reply::shown(error));
        }
        let Some((kind, channel, mut rest)) = push_parts(value) else {
            return Err("Redis sends what cannot be read".into());
        };
        match &*kind {
            b"message" => {
                let payload = Bytes::from(rest.bytes().unwrap_or_default());
                if channel == self.own_channel {
                    return self.handle_own(&payload, run, backoff);
                }
                self.handle_message(&channel, &payload);
            }
            b"subscribe" => {
                if channel == self.own_channel {
                    self.parts.figures.is_feed_up.store(true, Ordering::Relaxed);
                    if self.is_lost {
                        log::info!("the feed from Redis is back, run {}", run.id);
                    }
                    self.tell_health(false);
                }
                self.handle_confirmation(channel);
            }
            _ => {}
        }
        Ok(())
    }

    fn await_confirmation(&mut self, channel: Vec<u8>) {
        let since = clock::read_instant();
        let awaited = self.awaited.entry(channel);
        let none = Awaited {
            count: 0,
            first: since,
            since,
        };
        awaited.or_insert(none).count += 1;
    }

    /// Whether a subscription was not confirmed for too long, though other things are heard: what asked
    /// for it has got lost on its way.
    fn is_left_waiting(&mut self) -> bool {
        let now = clock::read_instant();
        if now < self.look_at {
            return false;
        }
        self.look_at = now + LOOK_INTERVAL;
        let mut awaited = self.awaited.values();
        awaited.any(|one| {
            let is_silent = one.since + SILENCE_MAX <= now;
            is_silent || one.first + NEVER_CONFIRMED_MAX <= now
        })
    }

    fn handle_confirmation(&mut self, channel: Vec<u8>) {
        match self.awaited.get_mut(&channel) {
            Some(awaited) if awaited.count > 1 => {
                awaited.count -= 1;
                awaited.since = clock::read_instant();
            }
            _ => {
                self.awaited.remove(&channel);
                if let Some(Followed { room, shard, .. }) = self.rooms.get(&channel) {
                    self.parts
                        .outputs
                        .send(*shard, Event::Followed(room.clone()));
                }
            }
        }
    }

    /// What the node sends itself, and other nodes send it.
    fn handle_own(
        &mut self,
        payload: &Bytes,
        run: &Run,
        backoff: &mut Backoff,
    ) -> Result<(), String> {
        match payload.split_first() {
            Some((b'a', _)) => {
                let bytes = payload.slice(1..);
                self.parts.outputs.send_lead(Event::Told { bytes });
            }
            Some((b't', rest)) => {
                let asked = rest.strip_prefix(b" ").unwrap_or_default();
                let is_other = asked.len() == run.id.len() && asked != run.id.as_bytes();
                if is_other {
                    return Err("requests go to another Redis".into());
                }
                backoff.reset();
            }
            // A call: wishes are looked at next.
            Some((b'w', _)) => {}
            _ => self.count_unreadable("a message to this node"),
        }
        Ok(())
    }

    fn handle_message(&mut self, channel: &[u8], payload: &Bytes) {
        if self.awaited.contains_key(channel) {
            return;
        }
        let Some(Followed { room, shard, .. }) = self.rooms.get(channel) else {
            return;
        };
        let (room, shard) = (room.clone(), *shard);
        let event = match payload.first() {
            Some(b'p') => fed(room, payload).map(|(event, what)| {
                self.parts.figures.feed_publications.add(1);
                if let Some(what) = what {
                    self.count_unreadable(what);
                }
                event
            }),
            _ => told(room, payload),
        };
        match event {
            Some(event) => self.parts.outputs.send(shard, event),
            None => self.count_unreadable("a message of a room"),
        }
    }

    fn count_unreadable(&mut self, what: &str) {
        self.parts.figures.unreadable.add(1);
        let now = clock::read_instant();
        self.warnings.say(
            now,
            About::Content,
            format_args!("the feed has brought {what} that cannot be read"),
        );
    }
}

/// Reads `p <epoch> <offset> <ms>`, a line feed and an envelope. Says, too, what of it cannot be read.
pub(super) fn fed(room: RoomName, payload: &Bytes) -> Option<(Event, Option<&'static str>)> {
    let end = payload.iter().position(|byte| *byte == b'\n')?;
    let mut words = std::str::from_utf8(&payload[..end])
        .ok()?
        .split(' ')
        .skip(1);
    let epoch = Epoch::new(words.next()?)?;
    let offset = offset(words.next()?.as_bytes())?;
    let unix_ms = words.next()?.parse().ok()?;
    let (shared, what) = match shared_of(&payload.slice(end + 1..)) {
        Ok(shared) => (Some(shared), None),
        Err(EnvelopeError::Version(_)) => (None, Some("a publication of another version")),
        Err(_) => (None, Some("a publication")),
    };
    let event = Event::Fed {
        room,
        position: Position { epoch, offset },
        unix_ms,
        shared,
    };
    Some((event, what))
}

/// Reads any other message of a room.
pub(super) fn told(room: RoomName, payload: &Bytes) -> Option<Event> {
    match payload.split_first()? {
        (b'g', rest) => rest
            .strip_prefix(b" ")
            .and_then(number)
            .map(|generation| Event::LoggedIn { room, generation }),
        (b'b', _) => Some(Event::Broken(room)),
        (b's', _) => said(room, payload),
        _ => None,
    }
}

/// Reads `s` and a word.
fn said(room: RoomName, payload: &Bytes) -> Option<Event> {
    let bytes = payload.slice_ref(payload.strip_prefix(SAID)?);
    Word::decode(&bytes)?;
    Some(Event::Said { room, bytes })
}
