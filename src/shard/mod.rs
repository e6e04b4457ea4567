//! Brain of one worker: the rooms that hash to it.
//!
//! Owns: each room's numbering, history, presence, and the publications gathered for it; the
//! idempotency keys of the calls that published.
//! Never: touches a connection, a socket, a thread or a clock; jobs come in, effects go out.
//!
//! Invariants
//! - Offsets of a room rise by one for each publication, from 1, within its epoch.
//! - A room's gathered publications are released before its membership changes and before its
//!   history is replayed, so that what is replayed and what is broadcast neither overlap nor leave
//!   a gap.
//! - Every job that a connection or a call waits for is answered by exactly one effect; a
//!   publication is acknowledged behind the broadcast that it is in.
//! - A room exists while it has members, history, or a time to release what it gathers.
//! - The history of all rooms stays within the shard's share of the memory for it.
//!
//! `publish` numbers, `subscribe` joins and replays, `asks` answers back ends, `retention` forgets.

mod asks;
mod beats;
mod delivering;
mod departed;
mod following;
mod joining;
mod logins;
mod notices;
mod numbering;
mod open;
mod publish;
mod recent;
mod requests;
mod retention;
mod subscribe;
mod watching;

use std::collections::{HashSet, VecDeque};

use self::departed::{Departed, Left};
use self::following::{Followed, Following};
use self::recent::Recent;
use self::retention::Retention;
use self::subscribe::Wants;
use crate::base::{
    ConnId, Epoch, GONE_ROOMS_MAX, Instant, Limits, Now, Offset, PartedMap, Position, Prng,
    RoomBudget, RoomName, ShardTotals,
};
use crate::exchange::{CallPart, Effect, Job};
use crate::room::batch::Batch;
use crate::room::history::{Bounds, History};
use crate::room::presence::Presence;
use crate::wire::raw::WireForm;

/// The rooms of one worker.
#[derive(Debug)]
pub struct RoomShard {
    /// Boxed, so that the table can grow in no time.
    rooms: PartedMap<RoomName, Box<Room>>,
    effects: VecDeque<Effect>,
    /// Rooms with something gathered, in the order in which they began to gather.
    gathering: VecDeque<(Instant, RoomName)>,
    retention: Retention,
    recent: Recent,
    departed: Departed,
    budget: RoomBudget,
    totals: ShardTotals,
    /// What the totals were told of the history.
    told_bytes: usize,
    epochs: Prng,
    limits: Limits,
    bounds: Bounds,
    /// In a cluster: what others number.
    following: Option<Box<Following>>,
}

#[derive(Debug)]
struct Room {
    epoch: Epoch,
    last: Offset,
    history: History,
    /// Members by wire form, those that are catching up included.
    members: [u32; WireForm::COUNT],
    presence: Presence,
    /// Members that are not live yet.
    catching_up: HashSet<ConnId>,
    /// Members that want to be told who joins and who leaves.
    watchers: HashSet<ConnId>,
    batch: Batch,
    /// Calls whose publications are gathered.
    unanswered: Vec<(CallPart, Position)>,
    /// Whether the shard has it in `gathering`.
    is_gathering: bool,
    /// What the retention remembers of it.
    marks: retention::Marks,
    /// In a cluster: how its numbering is followed.
    followed: Option<Box<Followed>>,
}

impl RoomShard {
    /// A shard without rooms, one of `shards` that share the memory for history and the places for
    /// rooms. Different seeds give different epochs.
    #[must_use]
    pub fn new(limits: &Limits, shards: usize, budget: RoomBudget, start: Now, seed: u64) -> Self {
        Self {
            rooms: PartedMap::default(),
            effects: VecDeque::new(),
            gathering: VecDeque::new(),
            retention: Retention::new(limits.history_memory_bytes_max / shards, start),
            recent: Recent::new(limits.idempotency_keys_max / shards),
            departed: Departed::new(GONE_ROOMS_MAX / shards),
            budget,
            totals: ShardTotals::default(),
            told_bytes: 0,
            epochs: Prng::new(seed),
            limits: limits.clone(),
            bounds: Bounds::of(limits),
            following: None,
        }
    }

    /// The same shard, counting into `totals`.
    #[must_use]
    pub fn count_into(self, totals: ShardTotals) -> Self {
        Self { totals, ..self }
    }

    /// Does one job.
    pub fn handle_job(&mut self, now: Now, job: Job) {
        match job {
            Job::Subscribe {
                conn,
                room,
                form,
                since,
                identity,
                terms,
            } => {
                let wants = Wants { form, since, terms };
                self.subscribe(now, (conn, identity), room, wants);
            }
            Job::CatchUp {
                conn,
                room,
                form,
                echo,
                after,
                owed_after,
                joined_at,
            } => {
                self.catch_up((conn, echo), room, form, (after, owed_after, joined_at));
            }
            Job::Unsubscribe { conn, room, form } => self.unsubscribe(conn, &room, form),
            Job::Publish {
                origin,
                command,
                room,
                identity,
                payload,
                taken_at,
            } => {
                let (times, from) = ((now, taken_at), (origin, command));
                self.publish(times, from, room, identity.as_ref(), &payload);
            }
            Job::Decode { call, method, body } => self.decode(call, &method, &body),
            Job::Ask {
                part,
                room,
                ask,
                taken_at,
            } => self.ask((now, taken_at), part, room, *ask),
            Job::ListRooms { part, pattern } => self.list_rooms(part, &pattern),
            Job::Announce {
                part,
                notice,
                is_kept,
            } => self.announce(now, part, notice, is_kept),
            Job::Tell { node, bytes } => self.tell_node(node, bytes),
            Job::Encode { part, payload } => self.encode(now, part, &payload),
        }
    }

    /// Releases what has been gathered for its time and forgets what is too old; called after each
    /// run of jobs, and when [`RoomShard::poll_timeout`] says so.
    pub fn handle_timeout(&mut self, now: Now) {
        while let Some((since, _)) = self.gathering.front() {
            if *since + self.limits.batch_interval > now.instant {
                break;
            }
            if let Some((_, name)) = self.gathering.pop_front() {
                if let Some(room) = self.rooms.get_mut(&name) {
                    room.is_gathering = false;
                }
                self.release(&name);
                self.remove_if_idle(&name);
            }
        }
        self.forget_old(now);
        self.tend(now);
        let bytes = self.retention.used_bytes();
        self.totals.change_history_bytes(self.told_bytes, bytes);
        self.told_bytes = bytes;
    }

    /// The next effect, in order.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// Whether [`RoomShard::poll_effect`] has one to give.
    #[must_use]
    pub fn has_effects(&self) -> bool {
        !self.effects.is_empty()
    }

    /// When [`RoomShard::handle_timeout`] must be called next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let release = self
            .gathering
            .front()
            .map(|(since, _)| *since + self.limits.batch_interval);
        let tending = (self.following.as_ref()).and_then(|following| following.poll_timeout());
        [release, self.retention.next_expiry(), tending]
            .into_iter()
            .flatten()
            .min()
    }

    /// Number of rooms.
    #[must_use]
    pub fn rooms_len(&self) -> usize {
        self.rooms.len()
    }

    /// What the history of all rooms takes in memory, bookkeeping included, in bytes.
    #[must_use]
    pub fn history_bytes(&self) -> usize {
        self.retention.used_bytes()
    }

    /// Asserts the invariants; for tests and debug builds.
    pub fn check_invariants(&self) {
        let mut history_bytes = 0;
        for (name, room) in self.rooms.iter() {
            assert!(
                !room.is_idle(),
                "{name}: a room without members and history must be gone"
            );
            let entries = self.gathering.iter().filter(|(_, of)| of == name).count();
            assert_eq!(entries, usize::from(room.is_gathering), "{name}");
            assert!(
                room.batch.is_empty() || room.is_gathering,
                "{name}: nothing releases it"
            );
            assert!(room.batch.len() <= self.limits.merge_publications_max());
            assert!(room.history.len() <= self.limits.history_publications_max);
            assert!(
                room.history.passing_len() == 0 || !room.catching_up.is_empty(),
                "{name}: something is held for nobody"
            );
            assert_eq!(room.followed.is_some(), self.following.is_some(), "{name}");
            assert!(room.history.first() <= room.last.next(), "{name}");
            assert!(
                room.unanswered.is_empty() || !room.batch.is_empty(),
                "{name}: a call that nothing will answer"
            );
            assert!(
                room.catching_up.len() <= room.presence.clients_len(),
                "{name}"
            );
            let members: u32 = room.members.iter().sum();
            assert_eq!(members as usize, room.presence.clients_len(), "{name}");
            room.presence.check_invariants();
            history_bytes += room.marks.counted_bytes();
        }
        self.check_following();
        assert_eq!(history_bytes, self.retention.used_bytes());
        assert!(
            history_bytes <= self.retention.bytes_max(),
            "history over its memory"
        );
    }

    /// Sends what a room has gathered on its way.
    fn release(&mut self, name: &RoomName) {
        if let Some(room) = self.rooms.get_mut(name) {
            room.release(name, &mut self.effects);
        }
    }

    /// The room of that name, made if there is a place for it; and where effects go.
    fn room_or_new(&mut self, name: &RoomName) -> Option<(&mut Room, &mut VecDeque<Effect>)> {
        // Looked up twice rather than cloning the name each time.
        if !self.rooms.contains_key(name) {
            if !self.budget.take() {
                return None;
            }
            let epoch = Epoch::from_number(self.epochs.next_u64());
            let new = Left {
                position: Position {
                    epoch,
                    offset: Offset(0),
                },
                complete_since_ms: self.retention.complete_since_ms(),
            };
            let mut room = Box::new(Room::new(self.departed.take(name).unwrap_or(new)));
            room.followed = self.following.is_some().then(Box::default);
            self.rooms.insert(name.clone(), room);
        }
        let room = self.rooms.get_mut(name)?;
        Some((room, &mut self.effects))
    }

    fn remove_if_idle(&mut self, name: &RoomName) {
        if !self.rooms.get(name).is_some_and(|room| room.is_idle()) {
            return;
        }
        self.unfollow(name);
        if let Some(room) = self.rooms.remove(name) {
            // A later room of that name must not say that nothing has been forgotten.
            self.retention.note_removed(&room.history);
            if room.followed.is_none() {
                let left = Left {
                    position: room.position(),
                    complete_since_ms: room.history.complete_since_ms(),
                };
                self.departed.add(name, left);
            }
            self.budget.give_back();
        }
    }
}

impl Room {
    fn new(left: Left) -> Self {
        let Position { epoch, offset } = left.position;
        Self {
            epoch,
            last: offset,
            history: left.history(),
            members: [0; WireForm::COUNT],
            presence: Presence::default(),
            catching_up: HashSet::new(),
            watchers: HashSet::new(),
            batch: Batch::default(),
            unanswered: Vec::new(),
            is_gathering: false,
            marks: retention::Marks::default(),
            followed: None,
        }
    }

    /// Sends what is gathered on its way, and answers the calls that published it.
    fn release(&mut self, name: &RoomName, effects: &mut VecDeque<Effect>) {
        effects.extend(self.batch.take(name).map(Effect::Broadcast));
        let answers = self.unanswered.drain(..);
        effects.extend(answers.map(|(part, position)| publish::published(part, position)));
    }

    fn position(&self) -> Position {
        Position {
            epoch: self.epoch,
            offset: self.last,
        }
    }

    fn is_idle(&self) -> bool {
        self.batch.is_empty()
            && !self.is_gathering
            && self.members == [0; WireForm::COUNT]
            && match &self.followed {
                None => self.history.is_empty(),
                // Its history is elsewhere, too, and can be read again.
                Some(followed) => followed.is_idle(),
            }
    }

    /// Connections in it, those of other nodes included.
    fn online(&self) -> usize {
        let others = self
            .followed
            .as_ref()
            .map_or(0, |followed| followed.others());
        self.presence.clients_len() + others as usize
    }
}
