//! Brain of one worker: the rooms that hash to it.
//!
//! Owns: each room's numbering, its counts of members by wire form, and the publications gathered
//! for it.
//! Never: touches a connection, a socket, a thread or a clock; jobs come in, effects go out.
//!
//! Invariants
//! - Offsets of a room rise by one for each publication, from 1, within its epoch.
//! - A room's gathered publications are released before its membership changes.
//! - Every job that a connection waits for is answered by exactly one effect.
//! - A room exists while it has members or a time to release what it gathers.

mod publish;
mod subscribe;

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::base::{Epoch, Limits, Now, Offset, Position, Prng, RoomName};
use crate::exchange::{Effect, Job};
use crate::room::batch::Batch;
use crate::wire::raw::WireForm;

/// The rooms of one worker.
#[derive(Debug)]
pub struct RoomShard {
    rooms: HashMap<RoomName, Room>,
    effects: VecDeque<Effect>,
    /// Rooms with something gathered, in the order in which they began to gather.
    gathering: VecDeque<(Instant, RoomName)>,
    epochs: Prng,
    batch_interval: Duration,
    merge_publications_max: usize,
    merge_bytes_max: usize,
}

#[derive(Debug)]
struct Room {
    epoch: Epoch,
    last: Offset,
    /// Members by wire form.
    members: [u32; WireForm::COUNT],
    batch: Batch,
    /// Whether the shard has it in `gathering`.
    is_gathering: bool,
}

impl RoomShard {
    /// A shard without rooms. Different seeds give different epochs.
    #[must_use]
    pub fn new(limits: &Limits, seed: u64) -> Self {
        Self {
            rooms: HashMap::new(),
            effects: VecDeque::new(),
            gathering: VecDeque::new(),
            epochs: Prng::new(seed),
            batch_interval: limits.batch_interval,
            merge_publications_max: limits.merge_publications_max(),
            merge_bytes_max: limits.merge_bytes_max(),
        }
    }

    /// Does one job.
    pub fn handle_job(&mut self, now: Now, job: Job) {
        match job {
            Job::Subscribe { conn, room, form } => self.subscribe(conn, room, form),
            Job::Unsubscribe { room, form } => self.unsubscribe(&room, form),
            Job::Publish {
                origin,
                room,
                user,
                payload,
            } => {
                self.publish(now, origin, room, user, payload);
            }
            Job::Echo { conn, payload } => self.echo(conn, &payload),
        }
    }

    /// Releases what has been gathered for its time; called after each run of jobs, and when
    /// [`RoomShard::poll_timeout`] says so.
    pub fn handle_timeout(&mut self, now: Now) {
        while let Some((since, _)) = self.gathering.front() {
            if *since + self.batch_interval > now.instant {
                break;
            }
            if let Some((_, name)) = self.gathering.pop_front() {
                if let Some(room) = self.rooms.get_mut(&name) {
                    room.is_gathering = false;
                }
                self.release(&name);
            }
        }
    }

    /// The next effect, in order.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// When something gathered must be released.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.gathering
            .front()
            .map(|(since, _)| *since + self.batch_interval)
    }

    /// Number of rooms.
    #[must_use]
    pub fn rooms_len(&self) -> usize {
        self.rooms.len()
    }

    /// Asserts the invariants; for tests and debug builds.
    pub fn check_invariants(&self) {
        for (name, room) in &self.rooms {
            assert!(
                !room.is_idle(),
                "{name}: a room without members and batch must be gone"
            );
            let entries = self.gathering.iter().filter(|(_, of)| of == name).count();
            assert_eq!(entries, usize::from(room.is_gathering), "{name}");
            assert!(
                room.batch.is_empty() || room.is_gathering,
                "{name}: nothing releases it"
            );
            assert!(room.batch.len() <= self.merge_publications_max);
        }
    }

    /// Sends what a room has gathered on its way.
    fn release(&mut self, name: &RoomName) {
        let Some(room) = self.rooms.get_mut(name) else {
            return;
        };
        self.effects
            .extend(room.batch.take(name).map(Effect::Broadcast));
        if room.is_idle() {
            self.rooms.remove(name);
        }
    }

    fn room_mut(&mut self, name: &RoomName) -> &mut Room {
        // Looked up twice rather than cloning the name each time.
        if !self.rooms.contains_key(name) {
            let epoch = Epoch::from_number(self.epochs.next_u64());
            self.rooms.insert(name.clone(), Room::new(epoch));
        }
        self.rooms
            .get_mut(name)
            .expect("the room was put there above")
    }
}

impl Room {
    fn new(epoch: Epoch) -> Self {
        Self {
            epoch,
            last: Offset(0),
            members: [0; WireForm::COUNT],
            batch: Batch::default(),
            is_gathering: false,
        }
    }

    fn position(&self) -> Position {
        Position {
            epoch: self.epoch,
            offset: self.last,
        }
    }

    fn online(&self) -> usize {
        self.members.iter().map(|count| *count as usize).sum()
    }

    fn is_idle(&self) -> bool {
        self.batch.is_empty() && !self.is_gathering && self.members == [0; WireForm::COUNT]
    }
}
