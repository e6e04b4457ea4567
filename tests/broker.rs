//! The broker against a real Redis: numbering, history, the feed, logins, and what happens when Redis
//! goes, stops, forgets, refuses, or is replaced.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use roomcast::base::{BrokerPart, ConnId, Epoch, Offset, Position, RoomName, UserId};
use roomcast::broker::{Broker, BrokerConfig, EventSender, HistoryBounds};
use roomcast::cluster::word::Word;
use roomcast::cluster::{
    Event, Failure, Known, Login, NodeId, Numbered, Request, Shared, Snapshot, Token,
};
use roomcast::{Config, Payload, Server};

use fake::{Answer, FakeRedis};
use harness::{DEADLINE, Passing, Redis, RedisRelay, linger, pace, wait_until};

#[path = "broker/fake.rs"]
mod fake;
mod harness;

const ROOM: &str = "live:7";

/// A node with one shard, which is the test.
struct Node {
    broker: Broker,
    id: NodeId,
    requests: Sender<Request>,
    events: Receiver<Event>,
    /// What came while something else was waited for.
    later: VecDeque<Event>,
    number: u64,
}

fn bounds() -> HistoryBounds {
    HistoryBounds {
        publications_max: 1000,
        bytes_max: 1 << 20,
        ttl: Duration::from_secs(3600),
    }
}

fn config(url: &str, id: u64) -> BrokerConfig {
    BrokerConfig::new(url, "test", NodeId(id), bounds())
}

fn room() -> RoomName {
    RoomName::new(ROOM).expect("a good name")
}

fn start(config: &BrokerConfig) -> Result<(Broker, Receiver<Event>), String> {
    let (queue, events) = bounded(100_000);
    let wake: Arc<dyn Fn() + Send + Sync> = Arc::new(|| {});
    let alarm = Arc::new(|| {});
    let broker = Broker::start(config, vec![EventSender { queue, wake }], alarm);
    broker
        .map(|broker| (broker, events))
        .map_err(|error| error.to_string())
}

impl Node {
    fn join(url: &str, id: u64) -> Self {
        Self::with(&config(url, id))
    }

    fn with(config: &BrokerConfig) -> Self {
        let (broker, events) = start(config).expect("a Redis that will do");
        Self {
            requests: broker.requests(0),
            broker,
            id: config.node,
            events,
            later: VecDeque::new(),
            number: 0,
        }
    }

    fn ask(&self, request: Request) {
        self.requests.try_send(request).expect("room for a request");
    }

    /// The first event that `pick` wants; others stay for later.
    fn expect_within<T>(
        &mut self,
        what: &str,
        span: Duration,
        mut pick: impl FnMut(&Event) -> Option<T>,
    ) -> T {
        let found = self.later.iter().position(|event| pick(event).is_some());
        if let Some(place) = found {
            let event = self.later.remove(place).expect("just found");
            return pick(&event).expect("the same answer");
        }
        let deadline = Instant::now() + span;
        loop {
            match self.events.recv_deadline(deadline) {
                Ok(event) => match pick(&event) {
                    Some(picked) => return picked,
                    None => self.later.push_back(event),
                },
                Err(_) => panic!("{what}: not within {span:?}; came: {:?}", self.later),
            }
        }
    }

    fn expect<T>(&mut self, what: &str, pick: impl FnMut(&Event) -> Option<T>) -> T {
        self.expect_within(what, DEADLINE, pick)
    }

    fn shared(&mut self, text: &str, is_kept: bool) -> Shared {
        self.number += 1;
        Shared {
            token: Token {
                node: self.id,
                number: self.number,
            },
            conn: ConnId::NONE,
            identity: None,
            payload: Payload::from(text),
            is_kept,
        }
    }

    fn send(&mut self, text: &str, is_kept: bool, key: Option<&str>) -> u64 {
        self.send_to(&room(), text, is_kept, key, DEADLINE)
    }

    fn send_to(
        &mut self,
        room: &RoomName,
        text: &str,
        is_kept: bool,
        key: Option<&str>,
        wait: Duration,
    ) -> u64 {
        let shared = self.shared(text, is_kept);
        let number = shared.token.number;
        self.ask(Request::Append {
            room: room.clone(),
            shared,
            key: key.map(Into::into),
            deadline: Broker::now() + wait,
        });
        number
    }

    fn appended(&mut self, number: u64) -> Result<Position, Failure> {
        self.expect(&format!("answer {number}"), |event| match event {
            Event::Appended {
                number: of,
                outcome,
            } if *of == number => Some(*outcome),
            _ => None,
        })
    }

    fn append(&mut self, text: &str) -> Position {
        let number = self.send(text, true, None);
        self.appended(number).expect("numbered")
    }

    fn try_append(&mut self, wait: Duration) -> Result<Position, Failure> {
        let number = self.send_to(&room(), "tried", true, None, wait);
        self.appended(number)
    }

    fn read(&mut self, known: Option<Known>) -> Snapshot {
        self.ask(Request::Read {
            room: room(),
            known,
        });
        self.expect("a read", |event| match event {
            Event::Read { snapshot, .. } => Some((**snapshot).clone()),
            _ => None,
        })
    }

    fn look(&mut self, room: &RoomName) -> Result<Option<Snapshot>, Failure> {
        self.number += 1;
        let number = self.number;
        self.ask(Request::Look {
            number,
            room: room.clone(),
        });
        self.expect("a look", |event| match event {
            Event::Looked {
                number: of,
                outcome,
            } if *of == number => Some(outcome.clone().map(|some| some.map(|snapshot| *snapshot))),
            _ => None,
        })
    }

    fn follow(&mut self) {
        self.ask(Request::Follow(room()));
        self.expect_followed(DEADLINE);
    }

    fn expect_followed(&mut self, span: Duration) {
        self.expect_within("Followed", span, |event| {
            matches!(event, Event::Followed(_)).then_some(())
        });
    }

    fn expect_available(&mut self, is_available: bool, span: Duration) {
        self.expect_within("Availability", span, |event| {
            (*event == Event::Availability(is_available)).then_some(())
        });
    }

    /// What is told of a part next.
    fn expect_health(&mut self, wanted: BrokerPart) -> Option<Box<str>> {
        self.expect("Health", |event| match event {
            Event::Health { part, ailment } if *part == wanted => Some(ailment.clone()),
            _ => None,
        })
    }

    fn expect_fed(&mut self) -> (Position, Option<Shared>) {
        self.expect("a publication", |event| match event {
            Event::Fed {
                position, shared, ..
            } => Some((*position, shared.clone())),
            _ => None,
        })
    }

    fn claim(&mut self, is_exclusive: bool) -> Result<(u64, Option<u64>), Failure> {
        self.number += 1;
        let number = self.number;
        self.ask(Request::Claim {
            number,
            user: user(),
            is_exclusive,
            deadline: Broker::now() + DEADLINE,
        });
        self.expect("a claim", |event| match event {
            Event::Claimed {
                number: of,
                outcome,
            } if *of == number => Some(outcome.map(|generation| (number, generation))),
            _ => None,
        })
    }

    fn beat(
        &mut self,
        room: &RoomName,
        members: u32,
        login: Option<Login>,
    ) -> (Position, u64, u64) {
        self.ask(Request::Beat {
            room: room.clone(),
            members,
            watches: false,
            login,
        });
        self.expect("a beat", |event| match event {
            Event::Beaten {
                top,
                online,
                generation,
                ..
            } => Some((*top, *online, *generation)),
            _ => None,
        })
    }

    /// Whether any event that came is one that `is_one` means.
    fn has_seen(&mut self, is_one: impl Fn(&Event) -> bool) -> bool {
        self.later.extend(self.events.try_iter());
        self.later.iter().any(is_one)
    }
}

fn user() -> UserId {
    UserId::new("al").expect("a good id")
}

fn known(position: Position, token: Option<Token>) -> Option<Known> {
    Some(Known { position, token })
}

fn texts(snapshot: &Snapshot) -> Vec<String> {
    let text = |numbered: &Numbered| {
        let shared = numbered.shared.as_ref().expect("readable");
        String::from_utf8_lossy(shared.payload.bytes()).into_owned()
    };
    snapshot.publications.iter().map(text).collect()
}

fn offsets(snapshot: &Snapshot) -> Vec<u64> {
    snapshot
        .publications
        .iter()
        .map(|numbered| numbered.offset.0)
        .collect()
}

/// Ends the connections of one kind.
fn kill_clients(redis: &Redis, kind: &str) {
    redis.ask::<()>(&["CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes"]);
}

#[test]
fn four_nodes_number_one_room_without_gap_or_repetition() {
    let redis = Redis::start();
    let url = redis.url();
    let mut witness = Node::join(&url, 100);
    witness.follow();
    let publishers: Vec<_> = (1..=4)
        .map(|id| {
            let url = url.clone();
            std::thread::spawn(move || {
                let mut node = Node::join(&url, id);
                let numbers: Vec<u64> = (0..500)
                    .map(|number| node.send(&format!("{id}:{number}"), true, None))
                    .collect();
                let mut positions: Vec<(Token, Position)> = Vec::new();
                for number in numbers {
                    let token = Token {
                        node: node.id,
                        number,
                    };
                    positions.push((token, node.appended(number).expect("numbered")));
                }
                let rises = positions
                    .windows(2)
                    .all(|pair| pair[0].1.offset < pair[1].1.offset);
                assert!(rises, "requests of one room are carried out in their order");
                positions
            })
        })
        .collect();
    let mut answered = BTreeMap::new();
    let mut epochs = std::collections::HashSet::new();
    for publisher in publishers {
        for (token, position) in publisher.join().expect("no panic") {
            epochs.insert(position.epoch);
            assert_eq!(
                answered.insert(position.offset.0, token),
                None,
                "an offset twice"
            );
        }
    }
    assert_eq!(epochs.len(), 1);
    assert!(answered.keys().copied().eq(1..=2000), "every offset once");
    for offset in 1..=2000 {
        let (position, shared) = witness.expect_fed();
        assert_eq!(position.offset.0, offset, "the feed is in order");
        assert_eq!(shared.expect("readable").token, answered[&offset]);
    }
}

#[test]
fn a_publication_is_kept_with_all_that_belongs_to_it() {
    let redis = Redis::start();
    let mut node = Node::join(&redis.url(), 7);
    node.follow();
    let mut sent = node.shared("", true);
    sent.payload = Payload::from(vec![0, 255, 10, 13]);
    sent.conn = ConnId {
        slot: 3,
        generation: 9,
    };
    sent.identity = Some(Arc::new(roomcast::base::Identity {
        user: user(),
        info: Some("{\"a\":1}".into()),
    }));
    node.ask(Request::Append {
        room: room(),
        shared: sent.clone(),
        key: None,
        deadline: Broker::now() + DEADLINE,
    });
    let position = node.appended(sent.token.number).expect("numbered");
    assert_eq!(node.expect_fed(), (position, Some(sent.clone())));
    let snapshot = node.read(None);
    assert_eq!(snapshot.top, position);
    assert_eq!(snapshot.first, Offset(1));
    assert_eq!(snapshot.publications[0].shared, Some(sent));
    assert!(snapshot.publications[0].unix_ms <= snapshot.unix_ms);
    // What is not to be kept is told and numbered all the same.
    let number = node.send("passing", false, None);
    let passing = node.appended(number).expect("numbered");
    assert_eq!(passing.offset, Offset(2));
    assert_eq!(node.expect_fed().0, passing);
    assert_eq!(offsets(&node.read(None)), [1]);
    assert_eq!(node.read(known(position, None)).publications, []);
}

#[test]
fn history_keeps_to_each_of_its_bounds() {
    let redis = Redis::start();
    let check = |id: u64, bounds: HistoryBounds, count: usize, expected: &[u64]| {
        let name = RoomName::new(&format!("room {id}")).expect("a good name");
        let mut node = Node::with(&BrokerConfig {
            bounds,
            ..config(&redis.url(), id)
        });
        let mut last = None;
        for _ in 0..count {
            let number = node.send_to(&name, &"x".repeat(70), true, None, DEADLINE);
            last = Some(node.appended(number).expect("numbered"));
        }
        let snapshot = node.look(&name).expect("a room").expect("a room");
        assert_eq!(Some(snapshot.top), last);
        assert_eq!(offsets(&snapshot), expected);
        let first = expected.first().map_or(count as u64 + 1, |first| *first);
        assert_eq!(snapshot.first.0, first);
        snapshot
    };
    check(
        1,
        HistoryBounds {
            publications_max: 5,
            ..bounds()
        },
        12,
        &[8, 9, 10, 11, 12],
    );
    // 100 bytes each, with the envelope.
    check(
        2,
        HistoryBounds {
            bytes_max: 399,
            ..bounds()
        },
        9,
        &[7, 8, 9],
    );
    check(
        3,
        HistoryBounds {
            bytes_max: 99,
            ..bounds()
        },
        2,
        &[],
    );
    let off = check(
        4,
        HistoryBounds {
            publications_max: 0,
            ..bounds()
        },
        3,
        &[],
    );
    assert!(off.complete_since_ms <= off.unix_ms);

    let short = HistoryBounds {
        ttl: Duration::from_millis(300),
        ..bounds()
    };
    let mut node = Node::with(&BrokerConfig {
        bounds: short,
        ..config(&redis.url(), 5)
    });
    let first = node.append("one");
    assert_eq!(offsets(&node.read(None)), [1]);
    wait_until("the first is forgotten", || {
        node.read(None).publications.is_empty()
    });
    let snapshot = node.read(None);
    assert_eq!((snapshot.top, snapshot.first), (first, Offset(2)));
    assert!(snapshot.complete_since_ms + 300 <= snapshot.unix_ms);
    node.append("two");
    assert_eq!(offsets(&node.read(None)), [2]);
}

#[test]
fn history_that_has_gone_by_itself_is_told_as_forgotten() {
    let redis = Redis::start();
    let mut node = Node::join(&redis.url(), 1);
    node.append("one");
    let second = node.append("two");
    let before = node.read(None);
    redis.ask::<()>(&["DEL", "test:{live:7}:h"]);
    let snapshot = node.read(known(second, None));
    assert_eq!(snapshot.top, second, "the numbering goes on");
    assert_eq!(snapshot.first, Offset(3));
    assert_eq!(snapshot.complete_since_ms, before.publications[1].unix_ms);
    node.append("three");
    assert_eq!(texts(&node.read(None)), ["three"]);
    // Its keys do not stay for ever.
    for key in ["test:{live:7}:h", "test:{live:7}:m"] {
        assert!(redis.ask::<i64>(&["PTTL", key]) > 3_600_000 - 1000, "{key}");
    }
}

#[test]
fn forgetting_keeps_the_numbering_and_has_the_room_read_again() {
    let redis = Redis::start();
    let mut node = Node::join(&redis.url(), 1);
    let mut other = Node::join(&redis.url(), 2);
    other.follow();
    node.append("one");
    let position = node.append("two");
    node.ask(Request::Forget {
        number: 77,
        room: room(),
    });
    node.expect("forgotten", |event| {
        (*event
            == Event::Forgotten {
                number: 77,
                outcome: Ok(()),
            })
        .then_some(())
    });
    other.expect("Broken", |event| {
        (*event == Event::Broken(room())).then_some(())
    });
    let snapshot = node.read(known(position, None));
    assert_eq!((snapshot.top, snapshot.first), (position, Offset(3)));
    assert_eq!(snapshot.publications, []);
    assert_eq!(node.append("three").offset, Offset(3));
}

#[test]
fn looking_makes_no_room() {
    let redis = Redis::start();
    let mut node = Node::join(&redis.url(), 1);
    assert_eq!(node.look(&room()), Ok(None));
    assert_eq!(
        redis.ask::<Vec<String>>(&["KEYS", "test:{*"]),
        Vec::<String>::new()
    );
    let begun = node.read(None);
    assert_eq!((begun.top.offset, begun.first), (Offset(0), Offset(1)));
    let looked = node.look(&room()).expect("done").expect("a room");
    assert_eq!(looked.top, begun.top, "everybody agrees on the epoch");
}

#[test]
fn a_key_is_published_once() {
    let redis = Redis::start();
    let mut node = Node::join(&redis.url(), 1);
    let mut other = Node::join(&redis.url(), 2);
    let send = |node: &mut Node, is_kept: bool, key: &str| {
        let number = node.send("keyed", is_kept, Some(key));
        node.appended(number).expect("numbered")
    };
    let first = send(&mut node, true, "k {1}");
    assert_eq!(send(&mut other, true, "k {1}"), first);
    assert_eq!(send(&mut node, false, "k {1}"), first);
    assert_eq!(send(&mut node, false, "k2").offset, Offset(2));
    assert_eq!(send(&mut other, false, "k2").offset, Offset(2));
    assert_eq!(offsets(&node.read(None)), [1]);
}

#[test]
fn a_publication_whose_answer_is_lost_is_recognised() {
    let redis = Redis::start();
    let relay = RedisRelay::to(&redis);
    let mut node = Node::join(&relay.url(), 1);
    let mut witness = Node::join(&redis.url(), 2);
    witness.follow();
    let before = node.append("before");
    // The room must be older than the doubt.
    linger(Duration::from_millis(100));
    // All in one write: they gather while Redis does not answer.
    redis.pause();
    // By then a sign of life has been sent, and its answer is waited for.
    linger(Duration::from_millis(700));
    relay.set_at("kept", Passing::Questions);
    let kept = node.send("kept", true, None);
    let keyed = node.send("keyed", false, Some("key"));
    let passing = node.send("passing", false, None);
    node.number += 1;
    let claim = node.number;
    node.ask(Request::Claim {
        number: claim,
        user: user(),
        is_exclusive: true,
        deadline: Broker::now() + DEADLINE,
    });
    redis.resume();
    for expected in 1..=4 {
        assert_eq!(
            witness.expect_fed().0.offset,
            Offset(expected),
            "it was done"
        );
    }
    relay.set(Passing::All);
    relay.cut();
    let position = |offset| Position {
        epoch: before.epoch,
        offset: Offset(offset),
    };
    assert_eq!(node.appended(kept), Ok(position(2)));
    assert_eq!(node.appended(keyed), Ok(position(3)));
    assert_eq!(node.appended(passing), Err(Failure::Unknown));
    let generation = node.expect("the claim", |event| match event {
        Event::Claimed { number, outcome } if *number == claim => Some(*outcome),
        _ => None,
    });
    assert!(matches!(generation, Ok(Some(_))), "{generation:?}");
    assert_eq!(node.append("after"), position(5));
    assert_eq!(texts(&node.read(None)), ["before", "kept", "after"]);
    assert_eq!(witness.expect_fed().0.offset, Offset(5));
    assert!(node.broker.figures().retries.get() >= 2);
}

#[test]
fn a_publication_that_never_arrived_is_sent_again() {
    let redis = Redis::start();
    let relay = RedisRelay::to(&redis);
    let mut node = Node::join(&relay.url(), 1);
    node.append("before");
    linger(Duration::from_millis(100));
    relay.set_at("kept", Passing::Nothing);
    let kept = node.send("kept", true, None);
    wait_until("it was sent", || relay.has_come());
    relay.set(Passing::All);
    relay.cut();
    assert_eq!(
        node.appended(kept).map(|position| position.offset),
        Ok(Offset(2))
    );
    assert_eq!(texts(&node.read(None)), ["before", "kept"]);
}

#[test]
fn what_was_held_up_on_a_lost_connection_is_never_carried_out() {
    let redis = Redis::start();
    let relay = RedisRelay::to(&redis);
    let mut node = Node::join(&relay.url(), 1);
    let mut witness = Node::join(&redis.url(), 2);
    witness.follow();
    node.append("before");
    linger(Duration::from_millis(100));
    // The relay has taken the request, and Redis will see it after its sender has given up on it.
    relay.set_at("late", Passing::Later);
    let late = node.send_to(&room(), "late", true, None, Duration::from_secs(20));
    node.expect_available(false, Duration::from_secs(6));
    relay.set(Passing::All);
    let answer = node.expect_within("an answer", Duration::from_secs(15), |event| match event {
        Event::Appended { number, outcome } if *number == late => Some(*outcome),
        _ => None,
    });
    let mut after = node.append("after").offset.0;
    let snapshot = node.read(None);
    after -= u64::from(answer.is_err());
    assert_eq!(after, 3, "{answer:?}");
    let copies = texts(&snapshot)
        .iter()
        .filter(|text| *text == "late")
        .count();
    assert_eq!(copies, 1, "once, whichever connection did it: {answer:?}");
}

#[test]
fn feed_and_reads_together_have_no_hole() {
    let redis = Redis::start();
    let url = redis.url();
    // Whoever publishes trims, so both keep all: however long the other is away, nothing is gone.
    let keeps_all = |node| BrokerConfig {
        bounds: HistoryBounds {
            publications_max: 10_000,
            bytes_max: 1 << 30,
            ..bounds()
        },
        ..config(&url, node)
    };
    let publisher = std::thread::spawn({
        let config = keeps_all(1);
        move || {
            let mut node = Node::with(&config);
            let mut top = None;
            for round in 0..60 {
                let numbers: Vec<u64> = (0..50)
                    .map(|_| node.send(&format!("{round}"), true, None))
                    .collect();
                for number in numbers {
                    top = Some(node.appended(number).expect("numbered"));
                }
                pace(Duration::from_millis(10));
            }
            top.expect("published")
        }
    });
    let node = Node::with(&keeps_all(2));
    node.ask(Request::Follow(room()));
    let mut seen: BTreeMap<u64, Token> = BTreeMap::new();
    let mut last_fed = 0;
    let (mut losses, mut is_followed) = (0, false);
    let mut next_kill = Instant::now() + Duration::from_millis(150);
    let mut note = |offset: Offset, token: Token| {
        let before = seen.insert(offset.0, token);
        assert!(
            before.is_none_or(|before| before == token),
            "two publications at one offset"
        );
        seen.len()
    };
    let mut count = 0;
    let deadline = Instant::now() + Duration::from_secs(30);
    while count < 3000 {
        assert!(
            Instant::now() < deadline,
            "a hole: {count} of 3000 after {losses} losses"
        );
        if losses < 5 && Instant::now() >= next_kill {
            kill_clients(&redis, "pubsub");
            next_kill = Instant::now() + Duration::from_millis(150);
        }
        let Ok(event) = node.events.recv_timeout(Duration::from_millis(20)) else {
            continue;
        };
        match event {
            Event::Followed(_) => {
                is_followed = true;
                last_fed = 0;
                node.ask(Request::Read {
                    room: room(),
                    known: None,
                });
            }
            Event::FeedLost => {
                is_followed = false;
                losses += 1;
            }
            Event::Fed {
                position, shared, ..
            } => {
                assert!(is_followed, "nothing is told while the feed is lost");
                let is_next = last_fed == 0 || position.offset.0 == last_fed + 1;
                assert!(
                    is_next,
                    "a hole within the feed after {last_fed}: {position:?}"
                );
                last_fed = position.offset.0;
                count = note(position.offset, shared.expect("readable").token);
            }
            Event::Read { snapshot, .. } => {
                for numbered in snapshot.publications {
                    count = note(numbered.offset, numbered.shared.expect("readable").token);
                }
            }
            _ => {}
        }
    }
    let top = publisher.join().expect("no panic");
    assert_eq!(top.offset, Offset(3000));
    assert!(losses >= 3, "only {losses} losses");
    assert!(seen.keys().copied().eq(1..=3000));
    assert!(node.broker.figures().feed_losses.get() >= 3);
}

#[test]
fn thousands_of_rooms_are_followed_left_and_followed_again() {
    let redis = Redis::start();
    let mut node = Node::join(&redis.url(), 1);
    let mut other = Node::join(&redis.url(), 2);
    let names: Vec<RoomName> = (0..2000)
        .map(|number| RoomName::new(&format!("r{number}")).expect("a name"))
        .collect();
    let await_all = |node: &mut Node, expected: usize| {
        let mut followed = std::collections::HashSet::new();
        while followed.len() < expected {
            let room = node.expect("Followed", |event| match event {
                Event::Followed(room) => Some(room.clone()),
                _ => None,
            });
            assert!(followed.insert(room), "told once");
        }
    };
    let before = Instant::now();
    for name in &names {
        node.ask(Request::Follow(name.clone()));
    }
    await_all(&mut node, 2000);
    eprintln!("2000 rooms followed in {:?}", before.elapsed());
    assert_eq!(
        redis
            .ask::<Vec<String>>(&["PUBSUB", "CHANNELS", "test:{*"])
            .len(),
        2000
    );
    // Leaving and coming at once: the last word counts, and is told when it is true.
    for name in &names {
        node.ask(Request::Unfollow(name.clone()));
        if name.as_str().ends_with('7') {
            node.ask(Request::Follow(name.clone()));
        }
    }
    await_all(&mut node, 200);
    wait_until("the others are left", || {
        redis
            .ask::<Vec<String>>(&["PUBSUB", "CHANNELS", "test:{*"])
            .len()
            == 200
    });
    for name in &names {
        other.send_to(name, "hello", true, None, DEADLINE);
    }
    for _ in 0..200 {
        let room = node.expect("a publication", |event| match event {
            Event::Fed { room, .. } => Some(room.clone()),
            _ => None,
        });
        assert!(room.as_str().ends_with('7'), "{room} is not followed");
    }
    kill_clients(&redis, "pubsub");
    node.expect("FeedLost", |event| {
        (*event == Event::FeedLost).then_some(())
    });
    await_all(&mut node, 200);
    assert_eq!(node.broker.figures().followed_rooms.get(), 200);
}

#[test]
fn a_restart_with_all_data_goes_on_in_its_epoch_when_it_is_settled() {
    let mut redis = Redis::with_aof();
    let mut node = Node::join(&redis.url(), 1);
    node.follow();
    let first = node.append("one");
    redis.kill();
    node.expect_available(false, DEADLINE);
    redis.restart();
    let restarted = Instant::now();
    node.expect_available(true, DEADLINE);
    let number = node.send("two", true, None);
    node.expect_followed(DEADLINE);
    let token = Token {
        node: node.id,
        number: 1,
    };
    let snapshot = node.read(known(first, Some(token)));
    assert_eq!(snapshot.top.epoch, first.epoch);
    let second = node.appended(number).expect("numbered");
    assert_eq!((second.epoch, second.offset), (first.epoch, Offset(2)));
    assert!(
        restarted.elapsed() >= Duration::from_millis(1200),
        "others had time to come back"
    );
    assert!(node.broker.figures().fenced.get() >= 1);
    // From now on nothing waits.
    let before = Instant::now();
    node.append("three");
    assert!(before.elapsed() < Duration::from_secs(1));
    // Nor for a room that is new.
    assert!(node.broker.figures().fenced.get() <= 3);
}

#[test]
fn a_room_that_nobody_vouches_for_after_a_restart_goes_on_in_another_epoch() {
    let mut redis = Redis::with_aof();
    let mut node = Node::join(&redis.url(), 1);
    let first = node.append("one");
    redis.kill();
    node.expect_available(false, DEADLINE);
    redis.restart();
    node.expect_available(true, DEADLINE);
    // Nobody has followed it, so nobody can say that this was the last.
    let second = node.append("two");
    assert_ne!(second.epoch, first.epoch);
    assert_eq!(second.offset, Offset(2), "what is kept keeps its place");
    node.follow();
    let snapshot = node.read(None);
    assert_eq!((snapshot.top, snapshot.publications.len()), (second, 2));
    assert_eq!(node.append("three").epoch, second.epoch);
}

#[test]
fn a_restart_without_data_begins_anew() {
    let mut redis = Redis::start();
    let mut node = Node::join(&redis.url(), 1);
    node.follow();
    node.append("one");
    let second = node.append("two");
    redis.restart_empty();
    node.expect("FeedLost", |event| {
        (*event == Event::FeedLost).then_some(())
    });
    node.expect_followed(DEADLINE);
    let snapshot = node.read(known(second, None));
    assert_ne!(snapshot.top.epoch, second.epoch);
    assert_eq!(
        (snapshot.top.offset, snapshot.first),
        (Offset(0), Offset(1))
    );
    assert!(snapshot.complete_since_ms <= snapshot.unix_ms);
    let before = Instant::now();
    let position = node.append("three");
    assert_eq!(
        (position.epoch, position.offset),
        (snapshot.top.epoch, Offset(1))
    );
    assert!(
        before.elapsed() < Duration::from_secs(1),
        "a room that is new need not wait"
    );
}

#[test]
fn flushing_begins_anew_and_all_who_follow_hear_of_it() {
    let redis = Redis::start();
    let mut node = Node::join(&redis.url(), 1);
    let mut other = Node::join(&redis.url(), 2);
    node.follow();
    other.follow();
    let first = node.append("one");
    redis.ask::<()>(&["FLUSHALL"]);
    let (top, _, _) = other.beat(&room(), 1, None);
    assert_ne!(top.epoch, first.epoch, "a beat shows it");
    redis.ask::<()>(&["FLUSHALL"]);
    let snapshot = other.read(known(first, None));
    assert_ne!(snapshot.top.epoch, first.epoch);
    node.expect("Broken", |event| {
        (*event == Event::Broken(room())).then_some(())
    });
    assert_eq!(
        node.read(known(first, None)).top,
        snapshot.top,
        "and all agree"
    );
    // The layout's mark was flushed as well, and no one minds.
    assert_eq!(node.append("two").epoch, snapshot.top.epoch);
}

#[test]
fn a_replica_that_lagged_never_gives_an_offset_twice() {
    for (extra, is_longer) in [(0, false), (9, true)] {
        let master = Redis::start();
        let replica = Redis::start();
        replica.follow(&master);
        let relay = RedisRelay::to(&master);
        let mut node = Node::join(&relay.url(), 1);
        node.follow();
        let mut given: HashMap<(Epoch, u64), String> = HashMap::new();
        let mut publish = |node: &mut Node, text: &str| {
            let position = node.append(text);
            let before = given.insert((position.epoch, position.offset.0), text.to_owned());
            assert_eq!(before, None, "{position:?} twice");
            position
        };
        for text in ["one", "two", "three"] {
            publish(&mut node, text);
        }
        wait_until("the replica has them", || {
            replica.ask::<u64>(&["XLEN", "test:{live:7}:h"]) == 3
        });
        replica.promote();
        let mut last = publish(&mut node, "lost 4");
        last = Position {
            offset: last.offset,
            ..publish(&mut node, "lost 5")
        };
        let last = Position {
            offset: Offset(5),
            ..last
        };
        let token = Token {
            node: node.id,
            number: node.number,
        };
        // Somebody who knows no better has numbered on the new master already.
        let mut stranger = Node::join(&replica.url(), 2);
        for number in 0..extra {
            let number = stranger.send(&format!("strange {number}"), true, None);
            stranger.appended(number).expect("numbered");
        }
        relay.turn_to(&replica);
        node.expect("FeedLost", |event| {
            (*event == Event::FeedLost).then_some(())
        });
        node.expect_followed(DEADLINE);
        let snapshot = node.read(known(last, Some(token)));
        assert_ne!(snapshot.top.epoch, last.epoch, "is longer: {is_longer}");
        // What was numbered after the loss, and nothing of before.
        let publications = &snapshot.publications;
        assert_eq!(publications.len(), extra);
        assert!(publications.iter().all(|one| one.offset > Offset(3)));
        for text in ["six", "seven"] {
            publish(&mut node, text);
        }
        assert_eq!(node.broker.figures().rooms_begun_anew.get(), 1);
    }
}

#[test]
fn a_publish_waits_until_those_who_know_more_have_spoken() {
    let master = Redis::start();
    let replica = Redis::start();
    replica.follow(&master);
    let relay = RedisRelay::to(&master);
    let mut node = Node::join(&relay.url(), 1);
    let mut other = Node::join(&relay.url(), 2);
    other.follow();
    node.append("one");
    wait_until("the replica has it", || {
        replica.ask::<u64>(&["XLEN", "test:{live:7}:h"]) == 1
    });
    replica.promote();
    let lost = node.append("lost");
    relay.turn_to(&replica);
    // This one knows nothing of the room and is first.
    node.expect_available(false, DEADLINE);
    let numbers = [1, 2, 3].map(|_| node.send("next", true, None));
    wait_until("they wait", || node.broker.figures().fenced.get() > 0);
    let late = node.send("last", true, None);
    other.expect_followed(DEADLINE);
    let token = Token {
        node: node.id,
        number: 2,
    };
    let snapshot = other.read(known(lost, Some(token)));
    assert_ne!(snapshot.top.epoch, lost.epoch);
    for (number, offset) in numbers.into_iter().chain([late]).zip(1..) {
        let position = Position {
            epoch: snapshot.top.epoch,
            offset: Offset(offset),
        };
        assert_eq!(node.appended(number), Ok(position), "in their order");
    }
}

#[test]
fn a_publish_waits_for_what_its_own_node_knows_even_if_it_is_the_last_to_come_back() {
    let master = Redis::start();
    let replica = Redis::start();
    replica.follow(&master);
    let relay = RedisRelay::to(&master);
    let mut node = Node::join(&relay.url(), 1);
    node.follow();
    node.append("one");
    wait_until("the replica has it", || {
        replica.ask::<u64>(&["XLEN", "test:{live:7}:h"]) == 1
    });
    replica.promote();
    let lost = node.append("lost");
    let token = Token {
        node: node.id,
        number: node.number,
    };
    // Others have been there for so long that all is settled.
    let mut other = Node::join(&replica.url(), 2);
    let elsewhere = RoomName::new("elsewhere").expect("a name");
    linger(Duration::from_millis(1600));
    let number = other.send_to(&elsewhere, "x", true, None, DEADLINE);
    other.appended(number).expect("numbered");

    relay.turn_to(&replica);
    node.expect_available(false, DEADLINE);
    let number = node.send("next", true, None);
    node.expect_followed(DEADLINE);
    let snapshot = node.read(known(lost, Some(token)));
    assert_ne!(snapshot.top.epoch, lost.epoch);
    let next = node.appended(number).expect("numbered");
    assert_eq!((next.epoch, next.offset), (snapshot.top.epoch, Offset(1)));
}

#[test]
fn one_of_two_logins_holds_the_user() {
    let redis = Redis::start();
    let url = redis.url();
    let outcomes: Vec<Option<u64>> = (1..=2)
        .map(|id| {
            let url = url.clone();
            std::thread::spawn(move || {
                let mut node = Node::join(&url, id);
                node.claim(true).expect("done").1
            })
        })
        .collect::<Vec<_>>()
        .into_iter()
        .map(|thread| thread.join().expect("no panic"))
        .collect();
    assert_eq!(outcomes.iter().flatten().count(), 1, "{outcomes:?}");
}

#[test]
fn a_login_is_replaced_released_and_outlives_no_lease() {
    let redis = Redis::start();
    let short = |id| BrokerConfig {
        lease: Duration::from_millis(400),
        ..config(&redis.url(), id)
    };
    let mut node = Node::with(&short(1));
    let mut other = Node::with(&short(2));
    let personal = RoomName::personal(&user());
    node.ask(Request::Follow(personal.clone()));
    node.expect_followed(DEADLINE);
    let (number, first) = node.claim(true).expect("done");
    let first = first.expect("free");
    let login = Login {
        generation: first,
        number,
    };
    node.expect("LoggedIn", |event| {
        (*event
            == Event::LoggedIn {
                room: personal.clone(),
                generation: first,
            })
        .then_some(())
    });
    assert_eq!(other.claim(true).expect("done").1, None);
    // Held on to, it outlives its lease many times over.
    for _ in 0..4 {
        linger(Duration::from_millis(200));
        assert_eq!(node.beat(&personal, 1, Some(login)).2, first);
    }
    assert_eq!(other.claim(true).expect("done").1, None, "still held");
    // Not held on to, it ends by itself.
    wait_until("the lease ends", || {
        other.claim(true).expect("done").1.is_some()
    });
    let (_, _, latest) = node.beat(&personal, 1, Some(login));
    assert!(latest > first, "the one who was away learns of it");
    // Replaced without asking.
    let (number, third) = node.claim(false).expect("done");
    let third = Login {
        generation: third.expect("replaces"),
        number,
    };
    assert!(third.generation > latest);
    // Released by somebody who has been replaced, nothing happens.
    node.ask(Request::Release {
        user: user(),
        login,
    });
    assert_eq!(other.claim(true).expect("done").1, None);
    node.ask(Request::Release {
        user: user(),
        login: third,
    });
    wait_until("it is released", || {
        other.claim(true).expect("done").1.is_some()
    });
}

#[test]
fn a_login_that_redis_has_lost_is_made_known_again() {
    let redis = Redis::start();
    let mut node = Node::join(&redis.url(), 1);
    let mut other = Node::join(&redis.url(), 2);
    let personal = RoomName::personal(&user());
    let (number, generation) = node.claim(false).expect("done");
    let login = Login {
        generation: generation.expect("free"),
        number,
    };
    redis.ask::<()>(&["FLUSHALL"]);
    assert_eq!(node.beat(&personal, 1, Some(login)).2, login.generation);
    assert_eq!(other.claim(true).expect("done").1, None);
    redis.ask::<()>(&["FLUSHALL"]);
    let (_, later) = other.claim(true).expect("done");
    assert!(later > Some(login.generation), "it rises over a loss");
    assert_eq!(Some(node.beat(&personal, 1, Some(login)).2), later);
}

#[test]
fn connections_are_counted_until_their_node_is_not_heard_of() {
    let redis = Redis::start();
    let short = |id| BrokerConfig {
        lease: Duration::from_millis(300),
        ..config(&redis.url(), id)
    };
    let mut node = Node::with(&short(1));
    let mut other = Node::with(&short(2));
    assert_eq!(node.beat(&room(), 3, None).1, 3);
    assert_eq!(other.beat(&room(), 4, None).1, 7);
    assert_eq!(node.read(None).online, 7);
    assert_eq!(other.beat(&room(), 0, None).1, 3);
    other.beat(&room(), 5, None);
    wait_until("the other is forgotten", || {
        node.beat(&room(), 3, None).1 == 3
    });
    wait_until("its share too", || {
        node.beat(&room(), 3, None);
        redis.ask::<u64>(&["HLEN", "test:{live:7}:n"]) == 1
    });
    // Nobody is in it, and nobody was: it need not be.
    let nowhere = RoomName::new("nowhere").expect("a name");
    node.ask(Request::Beat {
        room: nowhere.clone(),
        members: 0,
        watches: false,
        login: None,
    });
    assert_eq!(node.look(&nowhere), Ok(None));
    assert!(
        !node.has_seen(|event| matches!(event, Event::Beaten { room, .. } if *room == nowhere))
    );
}

/// Whether another node has members who watch, as a beat is answered.
fn beat_and_watch(node: &mut Node, watches: bool) -> bool {
    node.ask(Request::Beat {
        room: room(),
        members: 3,
        watches,
        login: None,
    });
    node.expect("a beat", |event| match event {
        Event::Beaten { is_watched, .. } => Some(*is_watched),
        _ => None,
    })
}

#[test]
fn whether_another_node_watches_is_known_to_beats_and_reads() {
    let redis = Redis::start();
    let short = |id| BrokerConfig {
        lease: Duration::from_millis(500),
        ..config(&redis.url(), id)
    };
    let (mut node, mut other) = (Node::with(&short(1)), Node::with(&short(2)));
    assert!(!node.read(None).is_watched);
    assert!(!beat_and_watch(&mut node, true));
    assert!(!beat_and_watch(&mut node, true), "it is no other");
    assert!(!node.read(None).is_watched);
    assert!(other.read(None).is_watched);
    assert!(beat_and_watch(&mut other, false));
    assert_eq!(
        other.read(None).online,
        6,
        "the mark is no part of the count"
    );
    // As a node reads it that knows of no mark.
    let share: String = redis.ask(&["HGET", "test:{live:7}:n", "1"]);
    assert!(share.starts_with("03 "), "{share}");
    assert!(!beat_and_watch(&mut node, false));
    assert!(!beat_and_watch(&mut other, true));
    assert!(beat_and_watch(&mut node, false));
    wait_until("the mark to end with the lease", || {
        !beat_and_watch(&mut node, false)
    });
    assert!(!node.read(None).is_watched);
}

fn say(node: &Node, word: &Word) {
    let (room, bytes) = (room(), word.encode());
    node.ask(Request::Say { room, bytes });
}

fn expect_said(node: &mut Node) -> Word {
    node.expect("Said", |event| match event {
        Event::Said { bytes, .. } => Some(Word::decode(bytes).expect("a word")),
        _ => None,
    })
}

#[test]
fn what_is_said_is_heard_once_by_all_who_follow_and_what_is_no_word_by_nobody() {
    let redis = Redis::start();
    let mut nodes = [1, 2, 3].map(|id| Node::join(&redis.url(), id));
    nodes[0].follow();
    nodes[1].follow();
    let words = [
        Word::Watched(NodeId(1)),
        Word::Changed(r#"{"push":{}}"#.into()),
        Word::Changed("{}".into()),
    ];
    for word in &words {
        say(&nodes[0], word);
    }
    for node in &mut nodes[..2] {
        for word in &words {
            assert_eq!(expect_said(node), *word);
        }
    }
    for message in [
        "s",
        "s ",
        "s watched 1",
        "s changed {}\n{}",
        "s later {}",
        "swatched",
    ] {
        redis.ask::<u64>(&["PUBLISH", "test:{live:7}:f", message]);
    }
    redis.ask::<u64>(&["PUBLISH", "test:{live:7}:f", "s changed {\"last\":1}"]);
    for node in &mut nodes[..2] {
        assert_eq!(expect_said(node), Word::Changed("{\"last\":1}".into()));
        assert!(!node.has_seen(|event| matches!(event, Event::Said { .. })));
        assert_eq!(node.broker.figures().unreadable.get(), 6);
    }
    let appended = nodes[2].append("x");
    assert_eq!(appended.offset, Offset(1));
    assert!(!nodes[2].has_seen(|event| matches!(event, Event::Said { .. })));
}

#[test]
fn what_is_said_while_redis_is_away_is_dropped() {
    let mut redis = Redis::start();
    let mut node = Node::join(&redis.url(), 1);
    node.follow();
    redis.kill();
    node.expect_available(false, DEADLINE);
    for number in 0..10 {
        say(&node, &Word::Watched(NodeId(number)));
    }
    let figures = node.broker.figures();
    wait_until("ten words dropped", || figures.expired.get() == 10);
    redis.restart_empty();
    node.expect_available(true, DEADLINE);
    node.expect_followed(DEADLINE);
    say(&node, &Word::Watched(NodeId(99)));
    assert_eq!(expect_said(&mut node), Word::Watched(NodeId(99)));
    wait_until("nothing that waits", || figures.waiting.get() == 0);
}

#[test]
fn nodes_answer_each_other() {
    let redis = Redis::start();
    let node = Node::join(&redis.url(), 1);
    let mut other = Node::join(&redis.url(), 62);
    wait_until("the feed is up", || other.broker.figures().is_feed_up());
    let bytes = bytes::Bytes::from_static(b"\0any\r\nthing");
    node.ask(Request::Tell {
        node: NodeId(62),
        bytes: bytes.clone(),
    });
    let told = other.expect("Told", |event| match event {
        Event::Told { bytes } => Some(bytes.clone()),
        _ => None,
    });
    assert_eq!(told, bytes);
}

#[test]
fn a_key_of_another_type_fails_its_room_alone() {
    let redis = Redis::start();
    let mut node = Node::join(&redis.url(), 1);
    node.append("fine");
    let bad = |name: &str| RoomName::new(name).expect("a name");
    redis.ask::<()>(&["SET", "test:{a}:m", "text"]);
    redis.ask::<()>(&["SET", "test:{b}:h", "text"]);
    redis.ask::<()>(&["HSET", "test:{c}:m", "v", "2", "e", "abc", "o", "7"]);
    redis.ask::<()>(&["HSET", "test:{e}:m", "v", "1", "e", "abc", "o", "many"]);
    for name in ["a", "b", "c", "e"] {
        let number = node.send_to(&bad(name), "x", true, None, DEADLINE);
        let failure = node.appended(number).expect_err(name);
        assert_eq!(failure, Failure::Unavailable, "{name}");
        node.ask(Request::Read {
            room: bad(name),
            known: None,
        });
        node.expect("ReadFailed", |event| {
            (*event == Event::ReadFailed(bad(name))).then_some(())
        });
        // Of `b` there is nothing yet but the key that is in the way.
        let is_there = name != "b";
        assert_eq!(node.look(&bad(name)).is_err(), is_there, "{name}");
    }
    assert_eq!(
        redis.ask::<Option<String>>(&["HGET", "test:{b}:m", "o"]),
        None,
        "nothing is half done"
    );
    assert_eq!(node.append("fine").offset, Offset(2));
    assert!(!node.has_seen(|event| matches!(event, Event::Availability(_) | Event::FeedLost)));
}

#[test]
fn what_cannot_be_read_is_told_as_such() {
    let redis = Redis::start();
    let mut node = Node::join(&redis.url(), 1);
    node.follow();
    let position = node.append("one");
    node.expect_fed();
    let epoch = position.epoch;
    let feed = "test:{live:7}:f";
    redis.ask::<()>(&[
        "PUBLISH",
        feed,
        &format!("p {epoch} 2 5\n\u{9}from the future"),
    ]);
    assert_eq!(
        node.expect_fed(),
        (
            Position {
                epoch,
                offset: Offset(2)
            },
            None
        )
    );
    redis.ask::<()>(&[
        "XADD",
        "test:{live:7}:h",
        "2-0",
        "t",
        "9999999999999",
        "v",
        "\u{9}",
    ]);
    redis.ask::<()>(&["HSET", "test:{live:7}:m", "o", "2"]);
    let snapshot = node.read(known(position, None));
    assert_eq!(snapshot.publications.len(), 1);
    assert_eq!(snapshot.publications[0].shared, None);
    for garbage in [
        "",
        "p",
        "p x",
        "p e 1 1",
        "p a-b 1 1\nx",
        "p e -1 1\nx",
        "g",
        "g x",
        "z",
    ] {
        redis.ask::<()>(&["PUBLISH", feed, garbage]);
        redis.ask::<()>(&[
            "PUBLISH",
            "test:node:1",
            if garbage.is_empty() { "" } else { "?" },
        ]);
    }
    wait_until("all was looked at", || {
        node.broker.figures().unreadable.get() == 19
    });
    assert_eq!(node.append("fine").epoch, epoch);
    assert!(!node.has_seen(|event| *event == Event::FeedLost));
}

#[test]
fn scripts_that_redis_has_lost_are_loaded_again() {
    let redis = Redis::start();
    let mut node = Node::join(&redis.url(), 1);
    node.append("one");
    for round in 0..5 {
        redis.ask::<()>(&["SCRIPT", "FLUSH"]);
        let numbers: Vec<u64> = (0..20).map(|_| node.send("more", true, None)).collect();
        for (place, number) in numbers.into_iter().enumerate() {
            let offset = node.appended(number).expect("numbered").offset;
            assert_eq!(offset.0, 2 + round * 20 + place as u64, "in order");
        }
    }
}

/// Scripts that are gone again before they can be asked, for a while or for good.
#[test]
fn a_publication_waits_for_scripts_until_its_deadline_and_no_less() {
    const LOSSES: u32 = 15;
    let (asked, questions) = bounded(10_000);
    let mut losses = 0;
    let redis = FakeRedis::start(move |_, words| {
        asked.send(()).expect("the test");
        if words.contains("never") || losses < LOSSES {
            losses += 1;
            return Answer::Error("NOSCRIPT No matching script");
        }
        Answer::List(vec!["ok".into(), "e".into(), "1".into()])
    });
    let mut node = Node::join(&redis.url(), 1);
    assert_eq!(node.append("one").offset, Offset(1));
    assert_eq!(questions.try_iter().count(), LOSSES as usize + 1);
    let wait = Duration::from_millis(400);
    let before = Instant::now();
    let number = node.send_to(&room(), "never", true, None, wait);
    assert_eq!(node.appended(number), Err(Failure::Unavailable));
    assert!(before.elapsed() >= wait, "it is tried until its deadline");
    // At most every 20 ms.
    let tries = questions.try_iter().count();
    assert!((2..=23).contains(&tries), "{tries}");
    assert_eq!(node.append("two").offset, Offset(1));
}

#[test]
fn a_refusal_that_lasts_is_told_with_its_reason_until_something_is_written() {
    let redis = Redis::start();
    let mut node = Node::join(&redis.url(), 1);
    node.append("one");
    redis.ask::<()>(&["CONFIG", "SET", "maxmemory", "1000"]);
    let before = Instant::now();
    let refused = node.try_append(Duration::from_millis(300));
    assert_eq!(refused, Err(Failure::Unavailable));
    assert!(!node.has_seen(|event| matches!(event, Event::Health { .. })));
    let number = node.send("two", true, None);
    let ailment = node.expect_health(BrokerPart::Requests).expect("ill");
    let expected = "Redis refuses to write: OOM ";
    assert!(ailment.starts_with(expected), "{ailment}");
    assert!(before.elapsed() >= Duration::from_secs(1));
    redis.ask::<()>(&["CONFIG", "SET", "maxmemory", "0"]);
    node.appended(number).expect("numbered");
    assert_eq!(node.expect_health(BrokerPart::Requests), None);
    assert!(!node.has_seen(|event| matches!(event, Event::Availability(_))));
}

#[test]
fn each_part_that_is_lost_is_told_to_one_shard() {
    let mut redis = Redis::start();
    redis.ask::<()>(&["ACL", "SETUSER", "al", "on", ">pw", "~*", "&*", "+@all"]);
    let mut node = Node::join(&format!("redis://al:pw@{}/", redis.addr()), 1);
    node.follow();
    // The feed alone.
    redis.ask::<()>(&["ACL", "SETUSER", "al", "-subscribe"]);
    kill_clients(&redis, "pubsub");
    let ailment = node.expect_health(BrokerPart::Feed);
    assert_eq!(ailment.as_deref(), Some("the feed from Redis is lost"));
    node.append("requests go on");
    redis.ask::<()>(&["ACL", "SETUSER", "al", "+subscribe"]);
    node.expect_followed(DEADLINE);
    assert_eq!(node.expect_health(BrokerPart::Feed), None);
    let told = |event: &Event| matches!(event, Event::Health { .. });
    assert!(!node.has_seen(told), "once is enough");
    // Both.
    redis.kill();
    assert!(node.expect_health(BrokerPart::Requests).is_some());
    assert!(node.expect_health(BrokerPart::Feed).is_some());
}

#[test]
fn what_concerns_the_node_is_told_to_one_shard_alone() {
    let redis = Redis::start();
    let config = BrokerConfig {
        lead: 1,
        ..config(&redis.url(), 1)
    };
    let (queues, events): (Vec<_>, Vec<_>) = (0..3).map(|_| bounded(100)).unzip();
    let wake: Arc<dyn Fn() + Send + Sync> = Arc::new(|| {});
    let senders = queues.into_iter().map(|queue| EventSender {
        queue,
        wake: Arc::clone(&wake),
    });
    let broker = Broker::start(&config, senders.collect(), Arc::new(|| {})).expect("a Redis");
    wait_until("the feed is up", || broker.figures().is_feed_up());
    let bytes = bytes::Bytes::from_static(b"told");
    let node = NodeId(1);
    let tell = Request::Tell {
        node,
        bytes: bytes.clone(),
    };
    broker.requests(0).try_send(tell).expect("room");
    let told = Event::Told { bytes };
    assert_eq!(events[1].recv_timeout(DEADLINE), Ok(told));
    for (shard, events) in events.iter().enumerate() {
        let room = RoomName::new(&format!("room {shard}")).expect("a good name");
        let follow = Request::Follow(room.clone());
        broker.requests(shard).try_send(follow).expect("room");
        assert_eq!(events.recv_timeout(DEADLINE), Ok(Event::Followed(room)));
    }
}

#[test]
fn what_is_to_be_read_of_a_room_that_is_left_does_not_wait_for_redis() {
    let mut redis = Redis::start();
    let mut node = Node::join(&redis.url(), 1);
    node.follow();
    redis.kill();
    node.expect_available(false, DEADLINE);
    let read = || Request::Read {
        room: room(),
        known: None,
    };
    let other = RoomName::new("other").expect("a good name");
    node.ask(read());
    let waits = node.send("waits", true, None);
    node.ask(Request::Read {
        room: other.clone(),
        known: None,
    });
    node.ask(Request::Unfollow(room()));
    let read_failed = |event: &Event| (*event == Event::ReadFailed(room())).then_some(());
    node.expect("ReadFailed", read_failed);
    // What is asked by who comes back is another matter, and so is what was asked of other rooms.
    node.ask(Request::Follow(room()));
    node.ask(read());
    wait_until("three that wait", || {
        node.broker.figures().waiting.get() == 3
    });
    redis.restart();
    node.expect_available(true, DEADLINE);
    let mut read = |wanted: &RoomName| {
        node.expect("a read", |event| match event {
            Event::Read { room, .. } => (room == wanted).then_some(()),
            _ => None,
        });
    };
    read(&other);
    read(&room());
    node.appended(waits).expect("numbered");
    let is_answer = |event: &Event| matches!(event, Event::Read { .. } | Event::ReadFailed(_));
    assert!(!node.has_seen(is_answer), "each is answered once");
}

/// Asks something of a real thread of the broker that makes it panic where it wakes a shard.
fn assert_alarm(thread: &'static str, request: Request) {
    let redis = Redis::start();
    let (queue, _events) = bounded(100);
    let wake = Arc::new(move || {
        let current = std::thread::current();
        assert_ne!(current.name(), Some(thread), "this is what is tested");
    });
    let (called, calls) = bounded(1);
    let alarm = Arc::new(move || {
        let current = std::thread::current();
        let name = current.name().unwrap_or_default().to_owned();
        called.try_send(name).expect("only one thread dies");
    });
    let senders = vec![EventSender { queue, wake }];
    let broker = Broker::start(&config(&redis.url(), 1), senders, alarm).expect("a Redis");
    broker.requests(0).try_send(request).expect("room");
    assert_eq!(calls.recv_timeout(DEADLINE).as_deref(), Ok(thread));
    let before = Instant::now();
    broker.stop();
    assert!(before.elapsed() < Duration::from_secs(5), "the rest ends");
    assert!(calls.try_recv().is_err(), "an end in good order is none");
}

#[test]
fn the_alarm_is_given_when_the_feed_panics() {
    assert_alarm("redis-feed", Request::Follow(room()));
}

#[test]
fn the_alarm_is_given_when_the_requests_panic() {
    let (room, known) = (room(), None);
    assert_alarm("redis-exec", Request::Read { room, known });
}

/// A log that panics in one thread, once, where a line names a certain Redis.
struct Mine;

/// The thread and the address of the Redis.
static MINES: Mutex<Vec<(&str, String)>> = Mutex::new(Vec::new());

impl log::Log for Mine {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let line = record.args().to_string();
        let current = std::thread::current();
        let mut mines = MINES.lock().unwrap_or_else(PoisonError::into_inner);
        let found = mines.iter().position(|(thread, addr)| {
            record.level() == log::Level::Warn
                && current.name() == Some(*thread)
                && line.contains(addr)
        });
        let mine = found.map(|place| mines.remove(place));
        drop(mines);
        assert!(mine.is_none(), "this is what is tested");
    }

    fn flush(&self) {}
}

#[test]
fn a_server_ends_with_an_error_when_a_thread_of_its_broker_dies() {
    log::set_logger(&Mine).expect("the only one");
    log::set_max_level(log::LevelFilter::Warn);
    for (workers, thread) in [
        ("0", "redis-feed"),
        ("0", "redis-exec"),
        ("2", "redis-feed"),
        ("2", "redis-exec"),
    ] {
        let redis = Redis::start();
        let config = Config::from_args([
            "--listen=127.0.0.1:0",
            "--admin-listen=off",
            &format!("--workers={workers}"),
            &format!("--redis={}", redis.url()),
        ]);
        let server = Server::start(config.expect("good options")).expect("a server");
        assert!(server.handle().counters().is_ok());
        let mine = (thread, redis.addr().to_string());
        let mut mines = MINES.lock().unwrap_or_else(PoisonError::into_inner);
        mines.push(mine);
        drop(mines);
        let (ended, end) = bounded(1);
        std::thread::spawn(move || ended.send(server.wait()));
        kill_clients(&redis, "pubsub");
        kill_clients(&redis, "normal");
        let end = end.recv_timeout(DEADLINE).expect("it ends");
        let error = end.expect_err("not in good order").to_string();
        assert!(error.contains("a thread"), "{workers} {thread}: {error}");
    }
}

/// What is refused for now stands before what was numbered behind it, and then the link breaks: it
/// must not be numbered later.
#[test]
fn publications_keep_their_order_when_the_link_breaks_among_their_answers() {
    // Whether the one behind it has its answer when the link breaks.
    for is_answered in [true, false] {
        let (arrived, arrivals) = bounded(1);
        let (release, released) = bounded::<()>(1);
        let mut seen: HashMap<&str, u32> = HashMap::new();
        let mut offset = 0;
        let redis = FakeRedis::start(move |script, words| {
            assert_eq!(script, "append");
            let texts = ["held up", "refused", "behind it", "broken", "last"];
            let text = texts.into_iter().find(|text| words.contains(text));
            let text = text.expect("a publication of this test");
            let count = seen.entry(text).or_default();
            *count += 1;
            let breaks = if is_answered { "broken" } else { "behind it" };
            match text {
                "held up" => {
                    arrived.send(()).expect("the test");
                    released.recv_timeout(DEADLINE).expect("the test");
                }
                "refused" => {
                    assert_eq!(*count, 1, "it comes behind what was behind it");
                    return Answer::Error("OOM it is full");
                }
                text if text == breaks && *count == 1 => return Answer::HangUp,
                _ => {}
            }
            offset += 1;
            Answer::List(vec!["ok".into(), "e".into(), offset.to_string()])
        });
        let mut node = Node::join(&redis.url(), 1);
        let held_up = node.send("held up", true, None);
        arrivals.recv_timeout(DEADLINE).expect("it arrives");
        // They are sent together, since the one before them has no answer yet.
        let numbers = ["refused", "behind it", "broken"].map(|text| node.send(text, true, None));
        release.send(()).expect("the fake");
        node.appended(held_up).expect("numbered");
        assert_eq!(node.appended(numbers[0]), Err(Failure::Unavailable));
        for (number, offset) in numbers[1..].iter().zip(2..) {
            let position = node.appended(*number).expect("numbered");
            assert_eq!(position.offset, Offset(offset), "{is_answered}");
        }
        assert_eq!(node.append("last").offset, Offset(4));
    }
}

/// While many rooms are subscribed to again, each of them is left and joined.
#[test]
fn rooms_that_come_and_go_cost_the_same_while_many_are_subscribed_again() {
    const ROOMS: u32 = 30_000;
    let redis = Redis::start();
    let mut node = Node::join(&redis.url(), 1);
    let room = |number: u32| RoomName::new(&format!("room {number}")).expect("a good name");
    let requests = node.requests.clone();
    let ask = |request| requests.send_timeout(request, DEADLINE).expect("room");
    let before = Instant::now();
    (0..ROOMS).for_each(|number| ask(Request::Follow(room(number))));
    (0..ROOMS).for_each(|_| node.expect_followed(DEADLINE));
    let first = before.elapsed();
    kill_clients(&redis, "pubsub");
    let before = Instant::now();
    for number in 0..ROOMS {
        ask(Request::Unfollow(room(number)));
        ask(Request::Follow(room(number)));
    }
    ask(Request::Follow(room(ROOMS)));
    let all_followed = format!("room {ROOMS}");
    // As much for each as when they were followed one by one, and not for each of them for each.
    let most = 5 * first + Duration::from_secs(5);
    node.expect_within("the last", most, |event| {
        let is_last = matches!(event, Event::Followed(room) if room.as_str() == all_followed);
        is_last.then_some(())
    });
    let spent = before.elapsed();
    eprintln!("{ROOMS} rooms followed in {first:?}, left and joined in {spent:?}");
    wait_until("every room, and the node's own channel", || {
        let channels: Vec<String> = redis.ask(&["PUBSUB", "CHANNELS"]);
        channels.len() == ROOMS as usize + 2
    });
}

#[test]
fn a_full_redis_refuses_until_there_is_room() {
    let redis = Redis::start();
    let mut node = Node::join(&redis.url(), 1);
    node.append("one");
    redis.ask::<()>(&["CONFIG", "SET", "maxmemory", "1000"]);
    let before = Instant::now();
    assert_eq!(
        node.try_append(Duration::from_millis(300)),
        Err(Failure::Unavailable)
    );
    assert!(
        before.elapsed() >= Duration::from_millis(300),
        "it is tried until its deadline"
    );
    assert_eq!(
        node.read(None).top.offset,
        Offset(1),
        "nothing is half done"
    );
    let number = node.send("two", true, None);
    wait_until("it waits", || node.broker.figures().waiting.get() > 0);
    redis.ask::<()>(&["CONFIG", "SET", "maxmemory", "0"]);
    assert_eq!(node.appended(number).expect("numbered").offset, Offset(2));
    assert!(!node.has_seen(|event| matches!(event, Event::Availability(_))));
}

#[test]
fn a_master_that_becomes_a_replica_is_left_alone_until_it_is_one_again() {
    let redis = Redis::start();
    let mut node = Node::join(&redis.url(), 1);
    node.append("one");
    redis.ask::<()>(&["REPLICAOF", "127.0.0.1", "1"]);
    assert_eq!(
        node.try_append(Duration::from_millis(500)),
        Err(Failure::Unavailable)
    );
    node.expect_available(false, DEADLINE);
    redis.promote();
    node.expect_available(true, DEADLINE);
    assert_eq!(node.append("two").offset, Offset(2));
}

#[test]
fn a_redis_that_loads_is_waited_for() {
    let mut redis = Redis::with(&[
        "--appendonly",
        "yes",
        "--loading-process-events-interval-bytes",
        "1024",
        "--key-load-delay",
        "0",
    ]);
    let mut node = Node::join(&redis.url(), 1);
    node.append("one");
    redis.ask::<()>(&[
        "EVAL",
        "for i=1,200 do redis.call('SET','x'..i,string.rep('x',2000)) end",
        "0",
    ]);
    redis.ask::<()>(&["BGREWRITEAOF"]);
    wait_until("it is written", || {
        let info: String = redis.ask(&["INFO", "persistence"]);
        info.contains("aof_rewrite_in_progress:0") && !info.contains("aof_last_rewrite_time_sec:-1")
    });
    redis.kill();
    let delayed = [
        "--appendonly",
        "yes",
        "--loading-process-events-interval-bytes",
        "1024",
    ];
    redis.set_args(&[&delayed[..], &["--key-load-delay", "10000"]].concat());
    redis.restart_unready();
    wait_until("it says that it is loading", || {
        redis
            .try_ask::<String>(&["GET", "x"])
            .is_err_and(|error| error.code() == Some("LOADING"))
    });
    let error = start(&config(&redis.url(), 2))
        .map(drop)
        .expect_err("it is loading");
    assert!(error.contains("loading its data"), "{error}");
    node.expect_available(true, DEADLINE);
    assert_eq!(node.append("two").offset, Offset(2));
}

#[test]
fn a_pause_of_three_seconds_loses_nothing() {
    let redis = Redis::start();
    let mut node = Node::join(&redis.url(), 1);
    node.follow();
    node.append("one");
    redis.pause();
    let number = node.send("two", true, None);
    let short = node.send_to(&room(), "short", true, None, Duration::from_millis(100));
    linger(Duration::from_secs(3));
    redis.resume();
    assert_eq!(node.appended(number).expect("numbered").offset, Offset(2));
    // It was sent before its deadline, or never.
    let _ = node.appended(short);
    assert!(!node.has_seen(|event| matches!(event, Event::Availability(_) | Event::FeedLost)));
}

#[test]
fn a_link_that_swallows_everything_is_noticed_within_five_seconds() {
    let redis = Redis::start();
    let relay = RedisRelay::to(&redis);
    let mut node = Node::join(&relay.url(), 1);
    node.follow();
    node.append("one");
    relay.set(Passing::Nothing);
    let swallowed = Instant::now();
    node.expect("FeedLost", |event| {
        (*event == Event::FeedLost).then_some(())
    });
    let feed = swallowed.elapsed();
    node.expect_available(false, DEADLINE);
    let exec = swallowed.elapsed();
    eprintln!("half-open noticed: feed {feed:?}, exec {exec:?}");
    assert!(feed < Duration::from_secs(5) + SLACK, "{feed:?}");
    assert!(exec < Duration::from_secs(5) + SLACK, "{exec:?}");
    let before = Instant::now();
    assert_eq!(
        node.try_append(Duration::from_millis(200)),
        Err(Failure::Unavailable)
    );
    assert!(
        before.elapsed() < Duration::from_secs(1),
        "who waits is answered in time"
    );
    relay.set(Passing::All);
    node.expect_followed(DEADLINE);
    node.expect_available(true, DEADLINE);
    assert_eq!(node.append("two").offset, Offset(2));
}

/// For a machine that has more to do than this.
const SLACK: Duration = Duration::from_millis(500);

#[test]
fn requests_wait_within_bounds_while_redis_is_away() {
    let mut redis = Redis::with_aof();
    let mut node = Node::with(&BrokerConfig {
        wait: Duration::from_millis(300),
        requests_max: 100,
        ..config(&redis.url(), 1)
    });
    let first = node.append("one");
    redis.kill();
    node.expect_available(false, DEADLINE);
    let number = node.send_to(&room(), "away", true, None, Duration::from_millis(100));
    assert_eq!(node.appended(number), Err(Failure::Unavailable));
    assert_eq!(node.look(&room()), Err(Failure::Unavailable));
    node.ask(Request::Forget {
        number: 9,
        room: room(),
    });
    node.expect("Forgotten", |event| {
        let outcome = Err(Failure::Unavailable);
        (*event == Event::Forgotten { number: 9, outcome }).then_some(())
    });
    // More than may wait: whoever comes then is not let in, and nobody is forgotten.
    let mut sent = Vec::new();
    let full = Instant::now() + DEADLINE;
    loop {
        let shared = node.shared("many", true);
        let number = shared.token.number;
        let deadline = Broker::now() + Duration::from_secs(3);
        let request = Request::Append {
            room: room(),
            shared,
            key: None,
            deadline,
        };
        match node.requests.try_send(request) {
            Ok(()) => sent.push(number),
            Err(_) if sent.len() >= 4096 => break,
            Err(_) => std::thread::yield_now(),
        }
        assert!(Instant::now() < full, "{} are let in", sent.len());
    }
    assert!(
        (4096..=4096 + 200).contains(&sent.len()),
        "{} wait",
        sent.len()
    );
    // A read waits for as long as it takes.
    std::thread::scope(|scope| {
        scope.spawn(|| {
            linger(Duration::from_millis(100));
        });
    });
    for number in sent {
        assert_eq!(node.appended(number), Err(Failure::Unavailable));
    }
    node.ask(Request::Read {
        room: room(),
        known: None,
    });
    redis.restart();
    let snapshot = node.expect("a read", |event| match event {
        Event::Read { snapshot, .. } => Some((**snapshot).clone()),
        _ => None,
    });
    // It was not followed, so nobody vouches for it.
    assert_eq!(snapshot.top.offset, first.offset);
    assert_eq!(snapshot.began, first.offset);
}

#[test]
fn a_broker_that_stops_sends_what_was_asked_for() {
    let redis = Redis::start();
    let mut node = Node::join(&redis.url(), 1);
    let mut other = Node::join(&redis.url(), 2);
    node.beat(&room(), 5, None);
    assert_eq!(other.beat(&room(), 1, None).1, 6);
    let Node {
        broker, requests, ..
    } = node;
    requests
        .try_send(Request::Beat {
            room: room(),
            members: 0,
            watches: false,
            login: None,
        })
        .expect("room for a request");
    let before = Instant::now();
    broker.stop();
    assert!(
        before.elapsed() < Duration::from_secs(2),
        "{:?}",
        before.elapsed()
    );
    assert_eq!(other.beat(&room(), 1, None).1, 1);
    assert!(requests.is_empty(), "it was taken");
    wait_until("its connections are closed", || {
        // The other's two, and the one that asks.
        redis.ask::<String>(&["CLIENT", "LIST"]).lines().count() == 3
    });
}

#[test]
fn what_is_wrong_with_the_address_is_said_without_its_password() {
    let redis = Redis::with(&["--requirepass", "right-one"]);
    let port = redis.port();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let closed_port = closed.local_addr().expect("bound").port();
    drop(closed);
    let refused = |url: &str, parts: &[&str]| {
        let error = start(&config(url, 1)).map(drop).expect_err(url);
        for part in parts.iter().chain(&["--redis is "]) {
            assert!(error.contains(part), "{url}: {error}");
        }
        assert!(
            !error.contains("hunter2") && !error.contains('\n'),
            "{error}"
        );
        let shown = format!("{:?}", config(url, 1));
        assert!(!shown.contains("hunter2"), "{shown}");
    };
    refused("nonsense:hunter2@x", &["must be redis://"]);
    refused(
        &format!("redis://:hunter2@127.0.0.1:{closed_port}"),
        &[":***@", "refused"],
    );
    refused(
        &format!("redis://:hunter2@127.0.0.1:{port}"),
        &[":***@", "lets roomcast in"],
    );
    refused(
        &format!("redis://al:hunter2@127.0.0.1:{port}"),
        &["al:***@", "lets roomcast in"],
    );
    refused(
        &format!("redis://127.0.0.1:{port}"),
        &["lets roomcast in", "NOAUTH"],
    );
    refused(
        "redis://:hunter2@nowhere.invalid",
        &["must be a Redis that answers"],
    );

    let right = format!("redis://:right-one@127.0.0.1:{port}");
    let mut node = Node::join(&right, 1);
    assert_eq!(node.append("one").offset, Offset(1));
    let bad = BrokerConfig {
        prefix: "a{b".into(),
        ..config(&right, 1)
    };
    let error = start(&bad).map(drop).expect_err("a brace");
    assert!(
        error.starts_with("--redis-prefix is \"a{b\": must be"),
        "{error}"
    );
}

#[test]
fn a_redis_that_will_not_do_is_refused_at_the_start() {
    let redis = Redis::start();
    let refused = |url: &str, part: &str| {
        let error = start(&config(url, 1)).map(drop).expect_err(part);
        assert!(error.contains(part), "{error}");
    };
    redis.ask::<()>(&["SET", "test:version", "2"]);
    refused(&redis.url(), "layout \"2\" at \"test:version\"");
    redis.ask::<()>(&["DEL", "test:version"]);
    redis.ask::<()>(&["REPLICAOF", "127.0.0.1", "1"]);
    refused(&redis.url(), "it is a replica");
    let cluster = Redis::with(&["--cluster-enabled", "yes"]);
    refused(&cluster.url(), "a Redis Cluster cannot be used");

    // Anything but Redis.
    for answer in [
        "HTTP/1.1 400 Bad Request\r\n\r\n",
        "+OK\r\n",
        "*-7\r\n",
        "$99999999999999\r\n",
        "$9223372036854775807\r\n",
        "*9223372036854775807\r\n",
        "*99999999999\r\n:1\r\n",
        "%9223372036854775807\r\n",
        "|-1\r\n",
        ":\r\n",
        "=-1\r\n",
        "",
    ] {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let addr = listener.local_addr().expect("bound");
        std::thread::spawn(move || {
            use std::io::{Read as _, Write as _};
            let (mut stream, _) = listener.accept().expect("a connection");
            let _ = stream.read(&mut [0; 1000]);
            let _ = stream.write_all(answer.as_bytes());
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let _ = stream.read(&mut [0; 1000]);
        });
        refused(&format!("redis://{addr}"), "must be a Redis that answers");
    }
}

#[test]
fn a_user_need_not_be_allowed_everything_but_what_tells_one_redis_from_the_next() {
    let redis = Redis::start();
    let user = |change: &str| {
        redis.ask::<()>(&[
            "ACL", "SETUSER", "al", "on", ">pw", "~test:*", "&test:*", change,
        ]);
    };
    user("+@all");
    user("-client");
    let url = format!("redis://al:pw@{}", redis.addr());
    let mut node = Node::join(&url, 1);
    let first = node.append("one");
    user("-@all");
    assert_eq!(node.try_append(DEADLINE), Err(Failure::Unavailable));
    user("+@all");
    assert_eq!(node.append("two").epoch, first.epoch);
    user("-info");
    let error = start(&config(&url, 2)).map(drop).expect_err("a rule");
    assert!(error.contains("must let its user ask INFO"), "{error}");
}

/// Who signs for a server is read from the environment, which is that of a whole process; so this
/// test runs itself again in a process of its own.
#[test]
fn redis_over_tls_must_show_a_certificate_that_is_trusted() {
    if let Ok(url) = std::env::var(TLS_URL) {
        let mut node = Node::join(&url, 1);
        node.follow();
        let position = node.append("one");
        assert_eq!(node.expect_fed().0, position);
        return;
    }
    let redis = Redis::with_tls();
    let url = format!("rediss://127.0.0.1:{}/", redis.second_port());
    let error = start(&config(&url, 1))
        .map(drop)
        .expect_err("nobody has signed it");
    assert!(error.contains("must be a Redis that answers"), "{error}");
    assert!(error.contains("ertificate"), "{error}");
    let name = "redis_over_tls_must_show_a_certificate_that_is_trusted";
    let run = std::process::Command::new(std::env::current_exe().expect("this program"))
        .args([name, "--exact", "--nocapture"])
        .env(TLS_URL, &url)
        .env("SSL_CERT_FILE", redis.file("cert.pem"))
        .output()
        .expect("this program runs");
    let said = String::from_utf8_lossy(&run.stdout) + String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success() && said.contains("1 passed"), "{said}");
}

const TLS_URL: &str = "ROOMCAST_TEST_REDIS_TLS_URL";

#[test]
fn a_sentinel_says_where_the_master_is() {
    let master = Redis::start();
    let file = master.file("sentinel.conf");
    let port = master.port();
    std::fs::write(&file, format!("sentinel monitor main 127.0.0.1 {port} 1\n")).expect("a file");
    let sentinel = Redis::sentinel(&file);
    let url = format!("redis+sentinel://{}/main", sentinel.addr());
    let mut node = Node::join(&url, 1);
    assert_eq!(node.append("one").offset, Offset(1));
    let unknown = format!("redis+sentinel://{}/other", sentinel.addr());
    let error = start(&config(&unknown, 2))
        .map(drop)
        .expect_err("no such master");
    assert!(error.contains("no sentinel knows the master"), "{error}");
    let error = start(&config(&sentinel.url(), 2))
        .map(drop)
        .expect_err("a sentinel");
    assert!(error.contains("is a Sentinel"), "{error}");
}

#[test]
fn publishing_is_pipelined() {
    let redis = Redis::start();
    let mut node = Node::join(&redis.url(), 1);
    node.append("warm");
    let text = "x".repeat(100);
    let count = 20_000;
    let cpu_before = redis.cpu_time();
    let before = Instant::now();
    let mut numbers = VecDeque::new();
    for _ in 0..count {
        if numbers.len() == 2000 {
            let number = numbers.pop_front().expect("not empty");
            node.appended(number).expect("numbered");
        }
        numbers.push_back(node.send(&text, true, None));
    }
    for number in numbers {
        node.appended(number).expect("numbered");
    }
    let spent = before.elapsed();
    let cpu = redis.cpu_time() - cpu_before;
    let figures = node.broker.figures();
    let times = figures.publish_times.read();
    eprintln!(
        "{:.0} appends/s on one connection; {:.1} us of CPU in Redis for each; mean {:.1} ms",
        f64::from(count) / spent.as_secs_f64(),
        cpu.as_secs_f64() * 1e6 / f64::from(count),
        times.sum() as f64 / times.count() as f64 / 1e6,
    );
    assert_eq!(times.count(), u64::try_from(count).expect("positive") + 1);
    let stats: String = redis.ask(&["INFO", "commandstats"]);
    eprintln!(
        "{}",
        stats
            .lines()
            .filter(|line| line.contains("eval"))
            .collect::<String>()
    );
    assert!(figures.answered.get() > 20_000 && figures.last_round_trip() > Duration::ZERO);
}
