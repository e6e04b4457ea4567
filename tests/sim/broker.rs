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

/// How much it keeps of a room.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keeps {
    pub(super) publications_max: usize,
    pub(super) bytes_max: usize,
    pub(super) ttl: Duration,
}

pub(super) struct Broker {
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
    pub(super) lost_one_in: u64,
    pub(super) log: Log,
}

/// All that was ever numbered.
#[derive(Default)]
pub(super) struct Log {
    /// By room and epoch, by offset, every publication that ever had it: the last one counts.
    pub(super) epochs: BTreeMap<(String, String), Vec<Vec<Logged>>>,
    /// Where each payload is.
    pub(super) places: BTreeMap<Vec<u8>, Vec<Place>>,
    /// The largest offset that any node may have heard of.
    told: BTreeMap<(String, String), u64>,
    /// Epochs that went on after an older copy had come back, and nobody who was there knew better.
    pub(super) torn: BTreeSet<(String, String)>,
}

pub(super) struct Logged {
    pub(super) payload: Vec<u8>,
    pub(super) token: Token,
    pub(super) conn: ConnId,
    pub(super) is_kept: bool,
    pub(super) is_readable: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) room: String,
    pub(super) epoch: String,
    pub(super) offset: u64,
}

#[derive(Clone)]
struct Room {
    epoch: Epoch,
    top: u64,
    kept: VecDeque<Numbered>,
    first: u64,
    complete_since_ms: u64,
    tokens: BTreeMap<Token, Position>,
    keys: BTreeMap<Box<str>, (Position, u64)>,
    /// Connections of each node, whether some of them watch, and until when they count.
    counts: BTreeMap<NodeId, (u32, bool, u64)>,
    /// The run in which its numbering was last known to be whole.
    run: u64,
    /// Nodes that must have read it before anything is numbered.
    fence: BTreeSet<NodeId>,
}

/// What lies between one node and the broker.
struct Line {
    shards: usize,
    waiting: VecDeque<Waiting>,
    answers: VecDeque<Answer>,
    wishes: VecDeque<(RoomName, bool)>,
    feed: VecDeque<Event>,
    /// What it wants to be told of, and what it is told of.
    wanted: BTreeSet<RoomName>,
    told: BTreeSet<RoomName>,
    /// The run in which it last heard that it follows a room.
    heard: BTreeMap<RoomName, u64>,
    has_feed: bool,
    is_cut: bool,
    is_available: bool,
}

#[derive(Clone)]
struct Waiting {
    request: Request,
    /// It was sent and its answer was lost.
    is_doubtful: bool,
    /// It was asked by one who follows the room in this run.
    run: u64,
}

struct Answer {
    shard: usize,
    event: Event,
    /// What is tried again if the answer is lost; `None` for what the node itself says.
    to: Option<Waiting>,
}

/// How the broker comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Return {
    Whole,
    Empty,
    Older,
}

impl Broker {
    pub(super) fn new(keeps: Keeps, lost_one_in: u64, seed: u64) -> Self {
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

    pub(super) fn add_node(&mut self, node: NodeId, shards: usize) {
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
    pub(super) fn remove_node(&mut self, node: NodeId, now: Now, prng: &mut Prng) {
        for _ in 0..prng.below(10) {
            self.carry_out(node, now, prng);
        }
        self.lines.remove(&node);
        self.lift_fences();
    }

    /// A shard asks for something.
    pub(super) fn ask(&mut self, node: NodeId, request: Request) {
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
    pub(super) fn open_requests(&self, node: NodeId) -> usize {
        let line = &self.lines[&node];
        line.waiting.len() + line.answers.len() + line.wishes.len()
    }

    /// Whether nothing is on its way to or from any node.
    pub(super) fn is_quiet(&self) -> bool {
        self.lines.values().all(|line| {
            line.waiting.is_empty()
                && line.answers.is_empty()
                && line.wishes.is_empty()
                && line.feed.is_empty()
        })
    }

    /// Whether it can go on with something that a node has asked for.
    pub(super) fn is_asked(&self, node: NodeId) -> bool {
        let line = &self.lines[&node];
        let has_wishes = line.has_feed && !line.wishes.is_empty();
        let has_requests = line.is_available && !line.waiting.is_empty();
        !self.is_away && !line.is_cut && (has_wishes || has_requests)
    }

    // Troubles.

    /// It stops: nothing is carried out any more. With `is_heard`, connections break.
    pub(super) fn go_away(&mut self, is_heard: bool, prng: &mut Prng) {
        self.is_away = true;
        if is_heard {
            self.break_all(prng);
        }
    }

    /// It goes on, with what it had.
    pub(super) fn go_on(&mut self) {
        self.is_away = false;
    }

    /// It was killed and has started again.
    pub(super) fn restart(&mut self, how: Return, prng: &mut Prng) {
        self.break_all(prng);
        self.is_away = false;
        self.run += 1;
        match how {
            Return::Whole => {}
            Return::Empty => self.rooms.clear(),
            Return::Older => {
                if !self.copies.is_empty() {
                    let at = prng.below(self.copies.len() as u64) as usize;
                    self.rooms = self.copies[at].clone();
                }
            }
        }
        for (name, room) in &mut self.rooms {
            room.fence = (self.lines.iter())
                .filter(|(_, line)| !line.is_cut && line.wanted.contains(name))
                .map(|(node, _)| *node)
                .collect();
        }
    }

    /// Somebody empties it while all are connected.
    pub(super) fn flush(&mut self) {
        self.rooms.clear();
    }

    /// A replica has what is there now, and may be late with what follows.
    pub(super) fn copy(&mut self) {
        self.copies.push(self.rooms.clone());
        if self.copies.len() > 3 {
            self.copies.remove(0);
        }
    }

    fn break_all(&mut self, prng: &mut Prng) {
        let nodes: Vec<NodeId> = self.lines.keys().copied().collect();
        for node in nodes {
            self.lose_answers(node, prng);
            self.lose_feed(node, prng);
        }
    }

    /// A node can reach nothing, or can again.
    pub(super) fn cut(&mut self, node: NodeId, is_cut: bool, prng: &mut Prng) {
        if is_cut {
            self.lose_answers(node, prng);
            self.lose_feed(node, prng);
        }
        if let Some(line) = self.lines.get_mut(&node) {
            line.is_cut = is_cut;
        }
        self.lift_fences();
    }

    /// The connection for requests breaks: what was carried out and not answered is asked again.
    pub(super) fn lose_answers(&mut self, node: NodeId, prng: &mut Prng) {
        let line = self.lines.get_mut(&node).expect("a node that lives");
        let arrived = prng.below(line.answers.len() as u64 + 1) as usize;
        let lost = line.answers.split_off(arrived);
        let mut again = VecDeque::new();
        for answer in lost {
            match answer.to {
                Some(waiting) => again.push_back(Waiting {
                    is_doubtful: true,
                    ..waiting
                }),
                None => line.answers.push_back(answer),
            }
        }
        again.append(&mut line.waiting);
        line.waiting = again;
        line.say_available(false);
    }

    /// The connection that tells breaks: what is on it does not arrive.
    pub(super) fn lose_feed(&mut self, node: NodeId, prng: &mut Prng) {
        let line = self.lines.get_mut(&node).expect("a node that lives");
        if !line.has_feed {
            return;
        }
        let arrives = prng.below(line.feed.len() as u64 + 1) as usize;
        line.feed.truncate(arrives);
        line.feed.push_back(Event::FeedLost);
        line.told.clear();
        line.heard.clear();
        line.has_feed = false;
    }

    /// Connections that broke are there again.
    pub(super) fn reconnect(&mut self, node: NodeId, prng: &mut Prng) {
        let is_away = self.is_away;
        let line = self.lines.get_mut(&node).expect("a node that lives");
        if is_away || line.is_cut {
            return;
        }
        line.say_available(true);
        if line.has_feed {
            return;
        }
        line.has_feed = true;
        // Rooms that are wanted are followed again, in any order; of what was wished for before,
        // nothing is left to do.
        line.wishes.clear();
        let mut wanted: Vec<RoomName> = line.wanted.iter().cloned().collect();
        while !wanted.is_empty() {
            let at = prng.below(wanted.len() as u64) as usize;
            line.wishes.push_back((wanted.swap_remove(at), true));
        }
    }

    // Its work.

    /// Carries out one wish or request of a node, if it may. Returns whether there was one.
    pub(super) fn carry_out(&mut self, node: NodeId, now: Now, prng: &mut Prng) -> bool {
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
    pub(super) fn append_unreadable(
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
    fn lift_fences(&mut self) {
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
    pub(super) fn deliver_answer(&mut self, node: NodeId) -> Option<(usize, Event)> {
        let answer = self.lines.get_mut(&node)?.answers.pop_front()?;
        Some((answer.shard, answer.event))
    }

    /// The next that a node is told arrives; `None` for the shard stands for all of them.
    pub(super) fn deliver_feed(&mut self, node: NodeId) -> Option<(Option<usize>, Event)> {
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

    pub(super) fn top(&self, name: &str) -> Option<Position> {
        let name = RoomName::new(name).expect("a good name");
        self.rooms.get(&name).map(Room::position)
    }

    pub(super) fn online(&self, name: &str, now: Now) -> u64 {
        let name = RoomName::new(name).expect("a good name");
        self.rooms.get(&name).map_or(0, |room| room.online(now))
    }
}

impl Line {
    fn say_available(&mut self, is_available: bool) {
        if std::mem::replace(&mut self.is_available, is_available) == is_available {
            return;
        }
        for shard in 0..self.shards {
            self.answers.push_back(Answer {
                shard,
                event: Event::Availability(is_available),
                to: None,
            });
        }
    }

    /// What must not be sent any more is answered.
    fn give_up(&mut self, now: Now) -> bool {
        let mut late = Vec::new();
        self.waiting.retain(|waiting| {
            let is_late = matches!(&waiting.request,
                Request::Append { deadline, .. } if *deadline < now.instant);
            if is_late {
                late.push(waiting.clone());
            }
            !is_late
        });
        for waiting in &late {
            let Request::Append { shared, .. } = &waiting.request else {
                continue;
            };
            let number = shared.token.number;
            let outcome = Err(match waiting.is_doubtful {
                true => Failure::Unknown,
                false => Failure::Unavailable,
            });
            self.answers.push_back(Answer {
                shard: (number >> 48) as usize,
                event: Event::Appended { number, outcome },
                to: None,
            });
        }
        !late.is_empty()
    }

    /// A wish that no earlier one of its room stands before.
    fn pick_wish(&self, prng: &mut Prng) -> Option<usize> {
        let mut seen = BTreeSet::new();
        let free: Vec<usize> = (self.wishes.iter().enumerate())
            .filter(|(_, (room, _))| seen.insert(room))
            .map(|(at, _)| at)
            .collect();
        if free.is_empty() {
            return None;
        }
        Some(free[prng.below(free.len() as u64) as usize])
    }
}

impl Room {
    fn new(epoch: Epoch, run: u64, now: Now) -> Self {
        Self {
            epoch,
            top: 0,
            kept: VecDeque::new(),
            first: 1,
            complete_since_ms: now.unix_ms,
            tokens: BTreeMap::new(),
            keys: BTreeMap::new(),
            counts: BTreeMap::new(),
            run,
            fence: BTreeSet::new(),
        }
    }

    fn position(&self) -> Position {
        Position {
            epoch: self.epoch,
            offset: Offset(self.top),
        }
    }

    fn online(&self, now: Now) -> u64 {
        let counts = self.counts.values();
        counts
            .filter(|(_, _, until)| now.unix_ms < *until)
            .map(|(count, _, _)| u64::from(*count))
            .sum()
    }

    /// Whether another node has members who watch.
    fn is_watched(&self, node: NodeId, now: Now) -> bool {
        self.counts
            .iter()
            .any(|(other, (_, watches, until))| *other != node && *watches && now.unix_ms < *until)
    }

    /// Whether it is what it must be for one who knows it up to there.
    fn continues(&self, known: &Known, run: u64) -> bool {
        if known.position.epoch != self.epoch {
            // An epoch that was over, and has come back with an older copy, cannot go on.
            return self.run == run;
        }
        let at = known.position.offset.0;
        let other = |token: Token| {
            let position = self.tokens.get(&token);
            at > 0 && position != Some(&known.position)
        };
        at <= self.top && !known.token.is_some_and(other)
    }

    fn trim(&mut self, keeps: &Keeps, now: Now) {
        let ttl_ms = keeps.ttl.as_millis() as u64;
        let bytes = |one: &Numbered| {
            let shared = one.shared.as_ref();
            shared.map_or(0, |shared| shared.payload.bytes().len())
        };
        loop {
            let bytes_len: usize = self.kept.iter().map(bytes).sum();
            let is_over = self.kept.len() > keeps.publications_max || bytes_len > keeps.bytes_max;
            let Some(oldest) = self.kept.front() else {
                return;
            };
            if !is_over && oldest.unix_ms + ttl_ms > now.unix_ms {
                return;
            }
            self.first = oldest.offset.0 + 1;
            self.complete_since_ms = self.complete_since_ms.max(oldest.unix_ms);
            self.kept.pop_front();
        }
    }
}

impl Log {
    fn note(&mut self, name: &RoomName, position: Position, shared: &Shared, is_readable: bool) {
        let at = (name.to_string(), position.epoch.to_string());
        let offsets = self.epochs.entry(at.clone()).or_default();
        let index = position.offset.0 as usize - 1;
        assert!(index <= offsets.len(), "the broker leaves no hole");
        if index == offsets.len() {
            offsets.push(Vec::new());
        } else if self
            .told
            .get(&at)
            .is_some_and(|told| *told >= position.offset.0)
        {
            self.torn.insert(at.clone());
        }
        let payload = shared.payload.bytes().to_vec();
        let place = Place {
            room: at.0,
            epoch: at.1,
            offset: position.offset.0,
        };
        self.places.entry(payload.clone()).or_default().push(place);
        offsets[index].push(Logged {
            payload,
            token: shared.token,
            conn: shared.conn,
            is_kept: shared.is_kept,
            is_readable,
        });
    }

    fn note_told(&mut self, name: &RoomName, position: Position) {
        let at = (name.to_string(), position.epoch.to_string());
        let told = self.told.entry(at).or_default();
        *told = (*told).max(position.offset.0);
    }

    /// What had an offset; the last one counts.
    pub(super) fn at(&self, room: &str, epoch: &str, offset: u64) -> &[Logged] {
        let at = (room.to_owned(), epoch.to_owned());
        let index = offset.checked_sub(1).map(|index| index as usize);
        (self.epochs.get(&at).zip(index))
            .and_then(|(offsets, index)| offsets.get(index))
            .map_or(&[], Vec::as_slice)
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
