//! The books of a cluster: what each member received, against all that the broker has numbered.

use std::collections::BTreeMap;

use roomcast::base::{CloseReason, Delivery, Limits, Position};

use super::broker::Broker;
use super::broker::log::{Log, Logged, Place};
use super::client::{Client, Stage};
use super::cluster::{Figures, Server, payloads};

/// One thing that a member was told of a room.
enum Word {
    Joined {
        epoch: String,
        offset: u64,
        /// `None` if it cannot be known.
        lost: Option<u64>,
    },
    Publication {
        offset: u64,
        payload: Vec<u8>,
    },
    Skipped(u64),
}

/// What one client saw, by room.
#[derive(Default)]
pub(crate) struct Session {
    rooms: BTreeMap<String, Vec<Word>>,
    /// The newest offset and the number of members, as last told.
    beats: BTreeMap<String, (u64, u64)>,
    /// Where a client without envelopes has come to, by room.
    places: BTreeMap<String, (String, u64)>,
}

impl Session {
    pub(crate) fn of(server: &Server, index: usize, log: &Log) -> Self {
        let client = &server.node.clients[index];
        let mut session = Self::default();
        for payload in payloads(client) {
            if client.plan.json {
                session.understand(payload);
            } else if let Some(place) = log.places.get(payload).and_then(|places| places.last()) {
                let at = (place.epoch.clone(), place.offset);
                session.places.insert(place.room.clone(), at);
            }
        }
        session
    }

    fn understand(&mut self, payload: &[u8]) {
        let value: serde_json::Value = serde_json::from_slice(payload).expect("an envelope");
        let map = value.as_object().expect("an object");
        let (kind, body) = map.iter().next().expect("a kind");
        let number = |name: &str| body[name].as_u64().expect("a number");
        let word = match kind.as_str() {
            "joined" => Word::Joined {
                epoch: body["epoch"].as_str().expect("an epoch").to_owned(),
                offset: number("offset"),
                lost: body["lost"].as_u64(),
            },
            "publication" => Word::Publication {
                offset: number("offset"),
                payload: data_of(body),
            },
            "skipped" => Word::Skipped(number("count")),
            "heartbeat" => {
                for (room, body) in body["rooms"].as_object().expect("rooms") {
                    let number = |name: &str| body[name].as_u64().expect("a number");
                    let beat = (number("offset"), number("online"));
                    self.beats.insert(room.clone(), beat);
                }
                return;
            }
            "closing" => return,
            other => panic!("an unknown envelope: {other}"),
        };
        let room = body["room"].as_str().expect("a room").to_owned();
        self.rooms.entry(room).or_default().push(word);
    }

    /// From where it would go on: room, epoch, offset.
    pub(crate) fn positions(self) -> Vec<(String, String, u64)> {
        let mut positions = Vec::new();
        for (room, words) in self.rooms {
            let mut at = None;
            for word in words {
                match (word, &mut at) {
                    (Word::Joined { epoch, offset, .. }, _) => at = Some((epoch, offset, false)),
                    (Word::Publication { offset, .. }, Some((_, last, has_seen))) => {
                        *last = offset;
                        *has_seen = true;
                    }
                    _ => {}
                }
            }
            positions.extend(at.map(|(epoch, offset, _)| (room, epoch, offset)));
        }
        let places = self.places.into_iter();
        positions.extend(places.map(|(room, (epoch, offset))| (room, epoch, offset)));
        positions
    }
}

fn data_of(body: &serde_json::Value) -> Vec<u8> {
    match (body["data"].as_str(), body["b64"].as_str()) {
        (Some(text), None) => text.as_bytes().to_vec(),
        (None, Some(b64)) => {
            use base64::Engine as _;
            let engine = base64::engine::general_purpose::STANDARD;
            engine.decode(b64).expect("binary is in base64")
        }
        _ => panic!("data or b64"),
    }
}

pub(crate) struct Books<'a> {
    broker: &'a Broker,
    is_calm: bool,
    limits: &'a Limits,
    /// By room, epoch and offset, what members saw.
    seen: BTreeMap<(String, String, u64), Vec<u8>>,
    pub(crate) figures: Figures,
    /// Members that are served, by room.
    members: BTreeMap<String, u64>,
    /// What members were told last: room, offset, members.
    beats: Vec<(String, u64, u64)>,
}

/// A run of one epoch, as a member saw it.
struct Run<'a> {
    log: &'a Log,
    who: String,
    client: &'a Client,
    node: u64,
    room: &'a str,
    epoch: String,
    joined_at: u64,
    /// The last that it has, or the one after which it begins, if that is known.
    cursor: Option<u64>,
    /// Missing, and must have been told; missing at all.
    missing: (u64, u64),
    told: u64,
    /// What it may have been told of as lost before the first that it got, where it is not known
    /// from where on it was to get any.
    before: u64,
}

impl Run<'_> {
    /// It has nothing between the last that it has and `offset`.
    fn miss_until(&mut self, offset: u64) {
        let begin = self
            .cursor
            .unwrap_or_else(|| self.joined_at.min(offset - 1));
        assert!(
            offset > begin,
            "{} {}: {}.{offset} after {begin}",
            self.who,
            self.room,
            self.epoch
        );
        for missing in begin + 1..offset {
            let logged = self.log.at(self.room, &self.epoch, missing);
            self.missing.1 += 1;
            if !logged.iter().any(|one| self.is_excused(one, missing)) {
                self.missing.0 += 1;
            }
        }
    }

    /// Its own, which it does not want, or one that was gone before it came, as it was meant to be.
    fn is_excused(&self, one: &Logged, offset: u64) -> bool {
        let is_own = one.conn == self.client.id && one.token.node.0 == self.node;
        (is_own && self.client.plan.mutes_own) || (!one.is_kept && offset <= self.joined_at)
    }

    /// Where in its epoch what was received stands, with nothing missing that must not be, and all of
    /// it up to `until`; `None` if it does not fit.
    fn place(
        &self,
        got: &[(&[u8], &[Place])],
        until: Option<Position>,
        is_lossy: bool,
    ) -> Option<(String, Vec<u64>)> {
        let mut offsets = Vec::new();
        self.fits(self.cursor, got, (until, is_lossy), &mut offsets)
            .then(|| (self.epoch.clone(), offsets))
    }

    /// Whether what was received fits behind `cursor`; appends where each stands.
    fn fits(
        &self,
        cursor: Option<u64>,
        got: &[(&[u8], &[Place])],
        (until, is_lossy): (Option<Position>, bool),
        offsets: &mut Vec<u64>,
    ) -> bool {
        let is_whole = |next: u64| {
            let begin = cursor.unwrap_or_else(|| self.joined_at.min(next - 1));
            is_lossy
                || (begin + 1..next).all(|missing| {
                    let logged = self.log.at(self.room, &self.epoch, missing);
                    logged.iter().any(|one| self.is_excused(one, missing))
                })
        };
        let Some(((_, places), rest)) = got.split_first() else {
            return until
                .is_none_or(|top| top.epoch.as_str() == self.epoch && is_whole(top.offset.0 + 1));
        };
        // What was tried again after data was lost may be in one epoch twice.
        let here = places.iter().filter(|place| place.epoch == self.epoch);
        let mut later: Vec<u64> = here.map(|place| place.offset).collect();
        later.retain(|offset| *offset > cursor.unwrap_or(0) && is_whole(*offset));
        later.sort_unstable();
        later.into_iter().any(|offset| {
            let before = offsets.len();
            offsets.push(offset);
            let is_fitting = self.fits(Some(offset), rest, (until, is_lossy), offsets);
            if !is_fitting {
                offsets.truncate(before);
            }
            is_fitting
        })
    }

    fn assert_told(&self) {
        assert!(
            self.missing.0 <= self.told,
            "{} {} in {}: {} missing before {:?}, {} told",
            self.who,
            self.room,
            self.epoch,
            self.missing.0,
            self.cursor,
            self.told
        );
    }
}

impl<'a> Books<'a> {
    pub(crate) fn new(broker: &'a Broker, is_calm: bool, limits: &'a Limits) -> Self {
        Self {
            broker,
            is_calm,
            limits,
            seen: BTreeMap::new(),
            figures: Figures::default(),
            members: BTreeMap::new(),
            beats: Vec::new(),
        }
    }

    /// One client.
    pub(crate) fn add(&mut self, server: &'a Server, index: usize) {
        let client = &server.node.clients[index];
        self.add_sent(server, index);
        Self::judge_end(server, index);
        match client.close_code() {
            None => {}
            Some(1000) => assert!(client.has_sent_close, "{}: 1000", server.name(index)),
            Some(3004) => self.figures.broker_gone += 1,
            Some(3008 | 3009) => assert!(client.was_refused, "kept up and was called slow"),
            Some(3010) => {
                self.figures.insufficient += 1;
                assert!(!self.is_calm, "{}: 3010 for nothing", server.name(index));
            }
            Some(code) => panic!("{}: closed with {code}", server.name(index)),
        }
        if client.stage != Stage::Open {
            return;
        }
        if server.serves(client) {
            assert!(!client.has_partial_input(), "half a frame");
        }
        let session = Session::of(server, index, &self.broker.log);
        if server.serves(client) {
            for room in &client.plan.rooms {
                *self.members.entry(room.clone()).or_default() += 1;
            }
            let beats = session.beats.iter();
            let beats = beats.map(|(room, (offset, online))| (room.clone(), *offset, *online));
            self.beats.extend(beats);
        }
        if client.plan.mutes_own {
            let own = server.node.prefix_of(index);
            let is_own = |payload: &[u8]| payload.starts_with(own.as_bytes());
            let words = session.rooms.values().flatten();
            let mut texts = words.filter_map(|word| match word {
                Word::Publication { payload, .. } => Some(&payload[..]),
                _ => None,
            });
            let raw = |payload: &[u8]| !client.plan.json && is_own(payload);
            let is_any_own = texts.any(is_own) || payloads(client).any(raw);
            assert!(!is_any_own, "{}: its own came back", server.name(index));
        }
        for room in &client.plan.rooms {
            if client.plan.json {
                self.add_json(server, index, room, session.rooms.get(room));
            } else {
                self.add_raw(server, index, room);
            }
        }
    }

    /// Who finds its end without a close frame has left, or could not be told; who is not let in is
    /// told to come back.
    fn judge_end(server: &Server, index: usize) {
        let client = &server.node.clients[index];
        let who = server.name(index);
        // Nobody reads what a node that is dead has left on the way.
        let is_cut = server.is_dead && !client.downstream.is_empty();
        let is_deaf = is_cut || client.is_deaf(server.node.limits.close_linger);
        let is_refused = client.stage == Stage::Refused;
        assert!(
            !is_refused || client.status == Some(503),
            "{who}: answered with {:?}",
            client.status
        );
        let is_due = match client.farewell {
            _ if client.close_code().is_some() => true,
            None => server.is_dead || !client.server_has_ended || is_refused,
            Some(CloseReason::Gone) => client.has_ended,
            Some(CloseReason::Reset) => client.is_reset,
            Some(CloseReason::Normal) => client.has_sent_close && is_deaf,
            Some(reason) => is_refused || (reason.code().is_some() && is_deaf),
        };
        assert!(is_due, "{who}: dropped for {:?}", client.farewell);
        let closes = &server.node.hub.counters().closes;
        assert_eq!(closes[CloseReason::Internal.index()], 0, "{who}");
    }

    /// What it sent was numbered in the order sent, and once; all of it, if it was not closed.
    fn add_sent(&self, server: &Server, index: usize) {
        let client = &server.node.clients[index];
        let log = &self.broker.log;
        let mut before = 0;
        for text in &client.sent {
            let places = log
                .places
                .get(text.as_bytes())
                .map_or(&[][..], Vec::as_slice);
            let who = server.name(index);
            if server.serves(client) {
                assert!(!places.is_empty(), "{who}: {text:.20} was lost");
            }
            if self.is_calm {
                assert!(places.len() <= 1, "{who}: {text:.20} is there twice");
                if let Some(place) = places.first() {
                    assert!(place.offset > before, "{who}: sent in another order");
                    before = place.offset;
                }
            }
            for place in places {
                let is_torn = log
                    .torn
                    .contains(&(place.room.clone(), place.epoch.clone()));
                let same = places.iter().filter(|other| other.epoch == place.epoch);
                let counted = same.filter(|place| {
                    let logged = log.at(&place.room, &place.epoch, place.offset);
                    (logged.last()).is_some_and(|last| last.payload == text.as_bytes())
                });
                assert!(is_torn || counted.count() <= 1, "{who}: twice in one epoch");
            }
        }
    }

    fn run(&self, server: &'a Server, index: usize, room: &'a str) -> Run<'a> {
        let client = &server.node.clients[index];
        Run {
            log: &self.broker.log,
            who: server.name(index),
            client,
            node: server.number(),
            room,
            epoch: String::new(),
            joined_at: 0,
            cursor: None,
            missing: (0, 0),
            told: 0,
            before: 0,
        }
    }

    fn add_json(
        &mut self,
        server: &'a Server,
        index: usize,
        room: &'a str,
        words: Option<&Vec<Word>>,
    ) {
        let mut run = self.run(server, index, room);
        let is_served = server.serves(run.client);
        for word in words.into_iter().flatten() {
            match word {
                Word::Joined {
                    epoch,
                    offset,
                    lost,
                } => self.add_joined(&mut run, epoch, *offset, *lost),
                Word::Publication { offset, payload } => {
                    assert!(!run.epoch.is_empty(), "{}: joined comes first", run.who);
                    run.miss_until(*offset);
                    run.assert_told();
                    run.cursor = Some(*offset);
                    self.note_seen(&run, *offset, payload);
                }
                Word::Skipped(count) => {
                    run.told += count;
                    self.figures.told_lost += count;
                    let is_lossy = self.limits.delivery(room) == Delivery::Lossy;
                    assert!(is_lossy || !self.is_calm, "{}: skipped {count}", run.who);
                }
            }
        }
        if !is_served {
            return;
        }
        let top = self.broker.top(room).expect("a room with members");
        assert_eq!(run.epoch, top.epoch.as_str(), "{} {room}", run.who);
        run.miss_until(top.offset.0 + 1);
        run.assert_told();
        assert!(
            run.told <= run.missing.1 + run.before,
            "{} {room}: {} told, {} missing",
            run.who,
            run.told,
            run.missing.1
        );
    }

    fn add_joined(&mut self, run: &mut Run<'_>, epoch: &str, offset: u64, lost: Option<u64>) {
        let who = format!("{} {}", run.who, run.room);
        let is_first = run.epoch.is_empty();
        run.missing = (0, 0);
        run.told = 0;
        run.joined_at = offset;
        let before = std::mem::replace(&mut run.epoch, epoch.to_owned());
        if !is_first {
            assert!(lost.is_none(), "{who}: what is lost cannot be known");
            assert!(before != epoch, "{who}: {epoch} began twice");
            assert!(!self.is_calm, "{who}: a new epoch for nothing");
            self.figures.restarts += 1;
            run.cursor = None;
            run.before = offset;
            return;
        }
        let plan = &run.client.plan;
        let since = plan.since.iter().find(|(of, _, _)| of == run.room);
        run.cursor = match (since, plan.last) {
            (Some((_, since_epoch, since)), _) => {
                let is_known = since_epoch == epoch && *since <= offset;
                assert_eq!(lost.is_some(), is_known, "{who}: since {since}");
                assert!(!self.is_calm || lost == Some(0), "{who}: not recovered");
                lost.map(|lost| since + lost)
            }
            (None, Some(_)) => None,
            (None, None) => Some(offset),
        };
        run.before = if run.cursor.is_none() { offset } else { 0 };
    }

    /// A raw member of several rooms sees them interleaved, and no offsets; it is in one epoch of
    /// each, as it would have been closed otherwise.
    fn add_raw(&mut self, server: &'a Server, index: usize, room: &'a str) {
        let client = &server.node.clients[index];
        let log = &self.broker.log;
        let who = server.name(index);
        let is_lossy = self.limits.delivery(room) == Delivery::Lossy;
        let mut got = Vec::new();
        for payload in payloads(client).filter(|payload| *payload != b"heartbeat") {
            let places = log.places.get(payload).map_or(&[][..], Vec::as_slice);
            assert!(!places.is_empty(), "{who}: nobody published that");
            if places[0].room == room {
                got.push((payload, places));
            }
        }
        let Some(join) = client.joins.iter().find(|join| join.room == room) else {
            assert!(
                got.is_empty() && !server.serves(client),
                "{who} {room}: never joined, and there, or got something"
            );
            return;
        };
        let joined_at = join.at as u64;
        let since = client.plan.since.iter().find(|(of, _, _)| of == room);
        let top = self.broker.top(room);
        let candidates: Vec<&str> = match (since, got.first()) {
            (Some((_, epoch, _)), _) => vec![epoch],
            (None, Some((_, places))) => places.iter().map(|place| &*place.epoch).collect(),
            (None, None) => top.iter().map(|top| top.epoch.as_str()).collect(),
        };
        let mut run = self.run(server, index, room);
        run.joined_at = joined_at;
        run.cursor = match (since, client.plan.last) {
            (Some((_, _, since)), _) => Some(*since),
            (None, Some(_)) => None,
            (None, None) => Some(joined_at),
        };
        let until = server
            .serves(client)
            .then(|| top.expect("a room with members"));
        // What was tried again after data was lost is in two epochs.
        let fitting = candidates.iter().find_map(|epoch| {
            run.epoch = (*epoch).to_owned();
            run.place(&got, until, is_lossy)
        });
        let Some((epoch, offsets)) = fitting else {
            assert!(
                got.is_empty() && until.is_none(),
                "{who} {room}: a gap or a repetition, from {:?} to {until:?}: {:?}",
                run.cursor,
                got.iter().map(|(_, places)| *places).collect::<Vec<_>>()
            );
            return;
        };
        run.epoch = epoch;
        for ((payload, _), offset) in got.into_iter().zip(offsets) {
            self.note_seen(&run, offset, payload);
        }
    }

    fn note_seen(&mut self, run: &Run<'_>, offset: u64, payload: &[u8]) {
        self.figures.received += 1;
        let logged = run.log.at(run.room, &run.epoch, offset);
        assert!(
            (logged.iter()).any(|logged| logged.payload == payload && logged.is_readable),
            "{} {}: not what {}.{offset} is",
            run.who,
            run.room,
            run.epoch
        );
        let at = (run.room.to_owned(), run.epoch.clone(), offset);
        let is_torn = run.log.torn.contains(&(at.0.clone(), at.1.clone()));
        let before = self.seen.entry(at).or_insert_with(|| payload.to_vec());
        if *before != payload {
            assert!(is_torn, "{} {}: {offset} is two things", run.who, run.room);
            self.figures.conflicts += 1;
        }
    }

    /// What cannot be seen from one client alone.
    pub(crate) fn balance(&self) {
        for (room, offset, online) in &self.beats {
            let top = self.broker.top(room).expect("a room with members");
            assert_eq!(
                (*offset, *online),
                (top.offset.0, self.members[room]),
                "{room}"
            );
        }
    }
}
