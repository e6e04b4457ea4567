//! A broker on paper: it keeps what `roomcast::cluster` says that a broker promises, and uses every
//! freedom that this leaves.
//!
//! Each node has two streams from it, each in its own order: what is told of rooms, and answers.
//! Requests of one room are carried out in order, those of different rooms in any. It forgets what
//! is over its bounds, goes away, loses answers and announcements on their way, comes back with
//! everything, with nothing or with an older copy, and remembers for the test all that it has ever
//! numbered.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use roomcast::base::{ConnId, Epoch, Now, Offset, Position, Prng, RoomName};
use roomcast::cluster::{
    Event, Failure, Known, NodeId, Numbered, Request, Shared, Snapshot, Token,
};
use roomcast::exchange::worker_of;

use line::{Answer, Line, Waiting};
use log::Log;
use room::{Keeps, Room};

#[path = "broker_line.rs"]
mod line;
#[path = "broker_log.rs"]
pub(crate) mod log;
#[path = "broker_room.rs"]
pub(crate) mod room;
#[path = "broker_trouble.rs"]
mod trouble;

pub(crate) struct Broker {
    keeps: Keeps,
    rooms: BTreeMap<RoomName, Room>,
    /// What it may come back with.
    copies: Vec<BTreeMap<RoomName, Room>>,
    lines: BTreeMap<NodeId, Line>,
    /// Rises with every start.
    run: u64,
    is_away: bool,
    epochs: Prng,
    /// Out of so many announcements to a node, one is lost; none with 0.
    pub(crate) lost_one_in: u64,
    pub(crate) log: Log,
}

/// How the broker comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Return {
    Whole,
    Empty,
    Older,
}

impl Broker {
    pub(crate) fn new(keeps: Keeps, lost_one_in: u64, seed: u64) -> Self {
        Self {
            keeps,
            rooms: BTreeMap::new(),
            copies: Vec::new(),
            lines: BTreeMap::new(),
            run: 1,
            is_away: false,
            epochs: Prng::new(seed),
            lost_one_in,
            log: Log::default(),
        }
    }

    // Nodes.

    pub(crate) fn add_node(&mut self, node: NodeId, shards: usize) {
        let line = Line {
            shards,
            waiting: VecDeque::new(),
            answers: VecDeque::new(),
            wishes: VecDeque::new(),
            feed: VecDeque::new(),
            wanted: BTreeSet::new(),
            told: BTreeSet::new(),
            heard: BTreeMap::new(),
            has_feed: true,
            is_cut: false,
            is_available: true,
        };
        self.lines.insert(node, line);
    }

    /// A node has died. What it had sent may have arrived.
    pub(crate) fn remove_node(&mut self, node: NodeId, now: Now, prng: &mut Prng) {
        for _ in 0..prng.below(10) {
            self.carry_out(node, now, prng);
        }
        self.lines.remove(&node);
        self.lift_fences();
    }

    /// A shard asks for something.
    pub(crate) fn ask(&mut self, node: NodeId, request: Request) {
        let run = self.run;
        let line = self.lines.get_mut(&node).expect("a node that lives");
        match request {
            Request::Follow(room) => {
                line.wanted.insert(room.clone());
                line.wishes.push_back((room, true));
            }
            Request::Unfollow(room) => {
                line.wanted.remove(&room);
                line.wishes.push_back((room, false));
                self.lift_fences();
            }
            request => {
                let room = room_of(&request);
                let is_heard = line.heard.get(room) == Some(&run);
                line.waiting.push_back(Waiting {
                    request,
                    is_doubtful: false,
                    run: if is_heard { run } else { 0 },
                });
            }
        }
    }

    /// How many requests of a node are not answered.
    pub(crate) fn open_requests(&self, node: NodeId) -> usize {
        let line = &self.lines[&node];
        line.waiting.len() + line.answers.len() + line.wishes.len()
    }

    /// Whether nothing is on its way to or from any node.
    pub(crate) fn is_quiet(&self) -> bool {
        self.lines.values().all(|line| {
            line.waiting.is_empty()
                && line.answers.is_empty()
                && line.wishes.is_empty()
                && line.feed.is_empty()
        })
    }

    /// Whether it can go on with something that a node has asked for.
    pub(crate) fn is_asked(&self, node: NodeId) -> bool {
        let line = &self.lines[&node];
        let has_wishes = line.has_feed && !line.wishes.is_empty();
        let has_requests = line.is_available && !line.waiting.is_empty();
        !self.is_away && !line.is_cut && (has_wishes || has_requests)
    }

    // Its work.

    /// Carries out one wish or request of a node, if it may. Returns whether there was one.
    pub(crate) fn carry_out(&mut self, node: NodeId, now: Now, prng: &mut Prng) -> bool {
        let is_away = self.is_away;
        let Some(line) = self.lines.get_mut(&node) else {
            return false;
        };
        let expired = line.give_up(now);
        if is_away || line.is_cut {
            return expired;
        }
        if line.has_feed && (line.waiting.is_empty() || prng.below(2) == 0) {
            let at = line.pick_wish(prng);
            if let Some((room, is_follow)) = at.and_then(|at| line.wishes.remove(at)) {
                if is_follow {
                    line.told.insert(room.clone());
                    line.feed.push_back(Event::Followed(room));
                } else {
                    line.told.remove(&room);
                    line.heard.remove(&room);
                    self.lift_fences();
                }
                return true;
            }
        }
        if !line.is_available {
            return expired;
        }
        let Some(at) = self.pick_request(node, prng) else {
            return expired;
        };
        let line = self.lines.get_mut(&node).expect("looked at before");
        let waiting = line.waiting.remove(at).expect("picked");
        let shards = line.shards;
        if let Some((shard, event)) = self.answer_to(node, &waiting, shards, now, prng) {
            let line = self.lines.get_mut(&node).expect("looked at before");
            let to = Some(waiting);
            line.answers.push_back(Answer { shard, event, to });
        }
        true
    }

    /// A request that no earlier one of its room stands before.
    fn pick_request(&self, node: NodeId, prng: &mut Prng) -> Option<usize> {
        let line = &self.lines[&node];
        let mut seen = BTreeSet::new();
        let mut free = Vec::new();
        for (at, waiting) in line.waiting.iter().enumerate() {
            let room = room_of(&waiting.request);
            let is_append = matches!(waiting.request, Request::Append { .. });
            let is_fenced = self
                .rooms
                .get(room)
                .is_some_and(|kept| !kept.fence.is_empty());
            // Who waits for others to have read must not keep them from reading.
            if is_append && is_fenced {
                continue;
            }
            if seen.insert(room) {
                free.push(at);
            }
        }
        if free.is_empty() {
            return None;
        }
        Some(free[prng.below(free.len() as u64) as usize])
    }

    fn answer_to(
        &mut self,
        node: NodeId,
        waiting: &Waiting,
        shards: usize,
        now: Now,
        prng: &mut Prng,
    ) -> Option<(usize, Event)> {
        let by_number = |number: u64| (number >> 48) as usize;
        Some(match &waiting.request {
            Request::Read { room, known } => {
                let event = if prng.below(20) == 0 {
                    Event::ReadFailed(room.clone())
                } else {
                    let snapshot = self.read(node, room, *known, now);
                    if waiting.run == self.run
                        && let Some(kept) = self.rooms.get_mut(room)
                    {
                        kept.fence.remove(&node);
                    }
                    Event::Read {
                        room: room.clone(),
                        snapshot: Box::new(snapshot),
                    }
                };
                (worker_of(room, shards), event)
            }
            Request::Look { number, room } => {
                let outcome = match self.rooms.contains_key(room) {
                    true => Ok(Some(Box::new(self.read(node, room, None, now)))),
                    false => Ok(None),
                };
                let number = *number;
                (by_number(number), Event::Looked { number, outcome })
            }
            Request::Append {
                room, shared, key, ..
            } => {
                let number = shared.token.number;
                let is_lost = waiting.is_doubtful && !shared.is_kept;
                let outcome = if is_lost {
                    Err(Failure::Unknown)
                } else {
                    Ok(self.append(room, shared, key.as_deref(), now, prng))
                };
                let is_over = |position: &Position| {
                    self.rooms.get(room).map(|kept| kept.epoch) != Some(position.epoch)
                };
                let event = match outcome {
                    Ok(position) if is_over(&position) => Event::Repeated { number, position },
                    outcome => Event::Appended { number, outcome },
                };
                (by_number(number), event)
            }
            Request::Forget { number, room } => {
                if let Some(kept) = self.rooms.get_mut(room) {
                    kept.kept.clear();
                    kept.first = kept.top + 1;
                    kept.complete_since_ms = now.unix_ms;
                    self.tell(room, &Event::Broken(room.clone()), None);
                }
                let (number, outcome) = (*number, Ok(()));
                (by_number(number), Event::Forgotten { number, outcome })
            }
            Request::Say { room, bytes } => {
                // What may have arrived is not said again, and what is said may be lost.
                if !waiting.is_doubtful {
                    let (room, bytes) = (room.clone(), bytes.clone());
                    self.tell(&room.clone(), &Event::Said { room, bytes }, Some(prng));
                }
                return None;
            }
            Request::Beat {
                room,
                members,
                watches,
                ..
            } => {
                if *members == 0 {
                    if let Some(kept) = self.rooms.get_mut(room) {
                        kept.counts.remove(&node);
                    }
                    return None;
                }
                let kept = self.room_or_new(room, now);
                let until = now.unix_ms + COUNT_TTL.as_millis() as u64;
                kept.counts.insert(node, (*members, *watches, until));
                let (top, online) = (kept.position(), kept.online(now));
                let event = Event::Beaten {
                    room: room.clone(),
                    top,
                    online,
                    generation: 0,
                    is_watched: kept.is_watched(node, now),
                };
                (worker_of(room, shards), event)
            }
            other => panic!("not asked for in this simulator: {other:?}"),
        })
    }

    fn room_or_new(&mut self, name: &RoomName, now: Now) -> &mut Room {
        let (epochs, run) = (&mut self.epochs, self.run);
        self.rooms
            .entry(name.clone())
            .or_insert_with(|| Room::new(Epoch::from_number(epochs.next_u64()), run, now))
    }

    /// What nodes tell each other is kept whatever is kept of rooms.
    fn keeps_of(&self, name: &RoomName) -> Keeps {
        if !name.is_control() {
            return self.keeps;
        }
        Keeps {
            publications_max: 1000,
            bytes_max: 1 << 20,
            ttl: Duration::from_secs(3600),
        }
    }

    fn append(
        &mut self,
        name: &RoomName,
        shared: &Shared,
        key: Option<&str>,
        now: Now,
        prng: &mut Prng,
    ) -> Position {
        let (keeps, run) = (self.keeps_of(name), self.run);
        let room = self.room_or_new(name, now);
        if let Some(key) = key
            && let Some((position, at)) = room.keys.get(key)
            && now.unix_ms < at + KEY_TTL_MS
        {
            return *position;
        }
        if let Some(position) = room.tokens.get(&shared.token) {
            return *position;
        }
        room.run = run;
        room.top += 1;
        let position = room.position();
        room.tokens.insert(shared.token, position);
        if let Some(key) = key {
            room.keys.insert(key.into(), (position, now.unix_ms));
        }
        let is_readable = shared.token.node != NEWER;
        let one = Numbered {
            offset: position.offset,
            unix_ms: now.unix_ms,
            shared: is_readable.then(|| shared.clone()),
        };
        if shared.is_kept {
            room.kept.push_back(one.clone());
        }
        room.trim(&keeps, now);
        self.log.note(name, position, shared, is_readable);
        let event = Event::Fed {
            room: name.clone(),
            position,
            unix_ms: now.unix_ms,
            shared: one.shared,
        };
        self.tell(name, &event, Some(prng));
        self.log.note_told(name, position);
        position
    }

    /// Somebody of a newer version publishes, in a form that nobody here can read.
    pub(crate) fn append_unreadable(
        &mut self,
        name: &RoomName,
        text: &str,
        now: Now,
        prng: &mut Prng,
    ) {
        let is_fenced = self
            .rooms
            .get(name)
            .is_some_and(|room| !room.fence.is_empty());
        if is_fenced || self.is_away {
            return;
        }
        let shared = Shared {
            token: Token {
                node: NEWER,
                number: prng.next_u64(),
            },
            conn: ConnId::NONE,
            identity: None,
            payload: roomcast::wire::frame::Payload::text(text.into()),
            is_kept: true,
        };
        self.append(name, &shared, None, now, prng);
    }

    fn read(&mut self, node: NodeId, name: &RoomName, known: Option<Known>, now: Now) -> Snapshot {
        let (keeps, run) = (self.keeps_of(name), self.run);
        let epochs = &mut self.epochs;
        let room = self
            .rooms
            .entry(name.clone())
            .or_insert_with(|| Room::new(Epoch::from_number(epochs.next_u64()), run, now));
        if known.is_some_and(|known| !room.continues(&known, run)) {
            let counts = std::mem::take(&mut room.counts);
            let keys = std::mem::take(&mut room.keys);
            *room = Room::new(Epoch::from_number(epochs.next_u64()), run, now);
            room.counts = counts;
            room.keys = keys;
            self.tell(name, &Event::Broken(name.clone()), None);
        }
        let room = self.rooms.get_mut(name).expect("made above");
        room.trim(&keeps, now);
        let after = known
            .filter(|known| known.position.epoch == room.epoch)
            .map_or(0, |known| known.position.offset.0);
        let publications = (room.kept.iter())
            .filter(|one| one.offset.0 > after)
            .cloned()
            .collect();
        let (top, first) = (room.position(), Offset(room.first));
        let snapshot = Snapshot {
            top,
            first,
            complete_since_ms: room.complete_since_ms,
            began: Offset(0),
            unix_ms: now.unix_ms,
            publications,
            online: room.online(now),
            generation: 0,
            is_watched: room.is_watched(node, now),
        };
        self.log.note_told(name, top);
        snapshot
    }

    /// Tells all who follow a room. With a generator, an announcement may be lost.
    fn tell(&mut self, name: &RoomName, event: &Event, mut prng: Option<&mut Prng>) {
        for line in self.lines.values_mut() {
            let is_lost = self.lost_one_in > 0
                && (prng.as_mut()).is_some_and(|prng| prng.below(self.lost_one_in) == 0);
            if line.told.contains(name) && !is_lost {
                line.feed.push_back(event.clone());
            }
        }
    }

    /// Nobody waits for a node that is gone, is cut off, or follows no more.
    pub(crate) fn lift_fences(&mut self) {
        let lines = &self.lines;
        for (name, room) in &mut self.rooms {
            room.fence.retain(|node| {
                lines
                    .get(node)
                    .is_some_and(|line| !line.is_cut && line.wanted.contains(name))
            });
        }
    }

    // What arrives.

    /// The next answer for a node arrives.
    pub(crate) fn deliver_answer(&mut self, node: NodeId) -> Option<(usize, Event)> {
        let answer = self.lines.get_mut(&node)?.answers.pop_front()?;
        Some((answer.shard, answer.event))
    }

    /// The next that a node is told arrives; `None` for the shard stands for all of them.
    pub(crate) fn deliver_feed(&mut self, node: NodeId) -> Option<(Option<usize>, Event)> {
        let run = self.run;
        let line = self.lines.get_mut(&node)?;
        let event = line.feed.pop_front()?;
        let room = match &event {
            Event::Followed(room) => {
                if line.told.contains(room) {
                    line.heard.insert(room.clone(), run);
                }
                room
            }
            Event::Broken(room) | Event::Fed { room, .. } | Event::Said { room, .. } => room,
            _ => return Some((None, event)),
        };
        Some((Some(worker_of(room, line.shards)), event))
    }

    // What the test asks.

    pub(crate) fn top(&self, name: &str) -> Option<Position> {
        let name = RoomName::new(name).expect("a good name");
        self.rooms.get(&name).map(Room::position)
    }

    pub(crate) fn online(&self, name: &str, now: Now) -> u64 {
        let name = RoomName::new(name).expect("a good name");
        self.rooms.get(&name).map_or(0, |room| room.online(now))
    }
}

fn room_of(request: &Request) -> &RoomName {
    match request {
        Request::Follow(room)
        | Request::Unfollow(room)
        | Request::Read { room, .. }
        | Request::Look { room, .. }
        | Request::Append { room, .. }
        | Request::Forget { room, .. }
        | Request::Beat { room, .. }
        | Request::Say { room, .. } => room,
        other => panic!("not asked for in this simulator: {other:?}"),
    }
}

/// How long the connections of a node count after it has told of them.
const COUNT_TTL: Duration = Duration::from_secs(30);

/// How long an idempotency key is remembered.
const KEY_TTL_MS: u64 = 300_000;

/// A node of a newer version.
const NEWER: NodeId = NodeId(u64::MAX);
