//! Who joins and who leaves, over all nodes of a cluster: told once to each who asked for it, to nobody
//! else, and not so much as said in Redis where nobody did.

mod harness;

use std::collections::{BTreeSet, VecDeque};

use crossbeam_channel::{Receiver, bounded};
use harness::{Api, Client, DEADLINE, Daemon, Message, Redis, Signal, two_nodes, wait_until};
use serde_json::{Value, json};

const ROOM: &str = "r";

/// A client of `/connection/websocket` in the room.
struct Sdk {
    wire: Client,
    lines: VecDeque<Value>,
    client: String,
}

impl Sdk {
    /// Connects as this user and subscribes; `watches` says whether it asks to hear of joins.
    fn join(daemon: &Daemon, user: &str, watches: bool) -> Self {
        let target = format!("/connection/websocket?user={user}");
        let mut sdk = Self {
            wire: Client::connect(daemon, &target),
            lines: VecDeque::new(),
            client: String::new(),
        };
        let subscribe = json!({ "channel": ROOM, "join_leave": watches, "flag": 1 });
        sdk.wire.send_text(&format!(
            "{}\n{}",
            json!({ "id": 1, "connect": {} }),
            json!({ "id": 2, "subscribe": subscribe }),
        ));
        let connected = sdk.next();
        let client = connected["connect"]["client"].as_str();
        sdk.client = client.expect("a client id").to_owned();
        let subscribed = sdk.next();
        assert!(subscribed["subscribe"].is_object(), "{subscribed}");
        sdk
    }

    /// The next line that is no ping.
    fn next(&mut self) -> Value {
        loop {
            match self.lines.pop_front() {
                Some(line) if line == json!({}) => self.wire.send_text("{}"),
                Some(line) => return line,
                None => {
                    let text = self.wire.recv_text();
                    let lines = text.trim().split('\n');
                    let lines = lines.map(|line| serde_json::from_str(line).expect("JSON"));
                    self.lines.extend(lines);
                }
            }
        }
    }

    /// The next line, which must be a push of this kind for the room; returns the `user` and the
    /// `client` in it.
    fn expect_change(&mut self, kind: &str) -> (String, String) {
        let line = self.next();
        let info = &line["push"][kind]["info"];
        let text = |name: &str| info[name].as_str().map(str::to_owned);
        let (Some(user), Some(client)) = (text("user"), text("client")) else {
            panic!("no {kind}: {line}");
        };
        let info = json!({ "info": { "user": user, "client": client } });
        assert_eq!(line, json!({ "push": { "channel": ROOM, kind: info } }));
        (user, client)
    }

    fn expect_publication(&mut self, data: &str) {
        let line = self.next();
        assert_eq!(line["push"]["pub"]["data"], data, "{line}");
    }
}

/// A member of some kind, and what it has received.
enum Member {
    Sdk(Sdk),
    Raw(Client),
    Json(Client),
}

const KINDS: [fn(&Daemon, &str) -> Member; 3] = [
    |daemon, user| Member::Sdk(Sdk::join(daemon, user, false)),
    |daemon, user| Member::Raw(Client::connect(daemon, &target(user, "raw"))),
    |daemon, user| Member::Json(join_json(daemon, user)),
];

fn target(user: &str, format: &str) -> String {
    format!("/ws?room={ROOM}&user={user}&format={format}")
}

fn join_json(daemon: &Daemon, user: &str) -> Client {
    let mut client = Client::connect(daemon, &target(user, "json"));
    // The room of the user, too.
    for _ in 0..2 {
        let joined = client.recv_json();
        assert!(joined["joined"].is_object(), "{joined}");
    }
    client
}

impl Member {
    /// The next thing that it is told is this publication.
    fn expect_publication(&mut self, data: &str) {
        match self {
            Self::Sdk(sdk) => sdk.expect_publication(data),
            Self::Raw(client) => assert_eq!(client.recv_text(), data),
            Self::Json(client) => {
                let message = client.recv_json();
                assert_eq!(message["publication"]["data"], data, "{message}");
            }
        }
    }

    fn leave(self) {
        match self {
            Self::Sdk(sdk) => sdk.wire.close(),
            Self::Raw(client) | Self::Json(client) => client.close(),
        }
    }
}

/// Hears what goes through Redis in the feed of the room.
struct Spy {
    /// The first letter of each message, and the first word behind it.
    heard: Receiver<(u8, String)>,
}

impl Spy {
    fn start(redis: &Redis) -> Self {
        let client = redis::Client::open(redis.url()).expect("an address");
        let mut connection = client.get_connection().expect("a Redis");
        let (sender, heard) = bounded(10_000);
        let (ready, is_ready) = bounded(1);
        // It ends with its Redis.
        std::thread::spawn(move || {
            let mut feed = connection.as_pubsub();
            let subscribed = feed.subscribe(format!("roomcast:{{{ROOM}}}:f"));
            ready.send(subscribed).expect("the test");
            while let Ok(message) = feed.get_message() {
                let payload = message.get_payload_bytes();
                let (letter, rest) = payload.split_first().expect("a letter");
                let rest = String::from_utf8_lossy(rest);
                let word = rest.split_whitespace().next().unwrap_or_default();
                if sender.send((*letter, word.to_owned())).is_err() {
                    return;
                }
            }
        });
        let subscribed = is_ready.recv_timeout(DEADLINE).expect("an answer");
        subscribed.expect("a subscription");
        Self { heard }
    }

    /// The words that were said before the next publication.
    fn words(&self) -> Vec<String> {
        let heard = || self.heard.recv_timeout(DEADLINE).expect("a message");
        std::iter::repeat_with(heard)
            .take_while(|(letter, _)| *letter != b'p')
            .filter(|(letter, _)| *letter == b's')
            .map(|(_, word)| word)
            .collect()
    }
}

/// What nodes have told Redis of the room: `COUNT EXPIRY`, with a zero before the count of one that has
/// members who want to know.
fn shares(redis: &Redis) -> Vec<String> {
    redis.ask(&["HVALS", &format!("roomcast:{{{ROOM}}}:n")])
}

fn publish(daemon: &Daemon, data: &str) {
    Api::connect(daemon).publish(ROOM, &json!(data));
}

/// The next join on a node that has the room is told. A publication there is answered when the node
/// has heard all that was said before.
fn expect_join_on(daemon: &Daemon, watcher: &mut Sdk) {
    publish(daemon, "heard");
    watcher.expect_publication("heard");
    let _other = Client::connect(daemon, &target("other", "raw"));
    assert_eq!(watcher.expect_change("join").0, "other");
}

#[test]
fn a_join_and_a_leave_are_told_once_on_every_node_to_those_who_asked() {
    let redis = Redis::start();
    let nodes = two_nodes(&redis.url(), &[]);
    let spy = Spy::start(&redis);
    let mut here = Sdk::join(&nodes[0], "here", true);
    let own = ("here".to_owned(), here.client.clone());
    assert_eq!(here.expect_change("join"), own);
    // What it hears from the feed was said behind its node's beat: whoever joins from here on finds it.
    let mut there = Sdk::join(&nodes[1], "there", true);
    let joined = there.expect_change("join");
    assert_eq!(joined, ("there".to_owned(), there.client.clone()));
    assert_eq!(here.expect_change("join"), joined);

    let mut members = Vec::new();
    let mut clients = BTreeSet::new();
    for (place, daemon) in nodes.iter().enumerate() {
        for (kind, join) in KINDS.iter().enumerate() {
            let user = format!("u{place}{kind}");
            let member = join(daemon, &user);
            let told = here.expect_change("join");
            assert_eq!(told.0, user);
            assert_eq!(there.expect_change("join"), told);
            assert!(clients.insert(told.1.clone()), "two are called {}", told.1);
            members.push((member, told));
        }
    }
    publish(&nodes[0], "all are there");
    for (member, _) in &mut members {
        member.expect_publication("all are there");
    }
    for watcher in [&mut here, &mut there] {
        watcher.expect_publication("all are there");
    }
    let words = spy.words();
    let count = |word: &str| words.iter().filter(|one| *one == word).count();
    assert_eq!(count("watched"), 2, "once a node: {words:?}");
    assert_eq!(count("changed"), 8, "{words:?}");

    for (member, told) in members {
        member.leave();
        for watcher in [&mut here, &mut there] {
            assert_eq!(watcher.expect_change("leave"), told);
        }
    }
    there.wire.close();
    assert_eq!(here.expect_change("leave"), joined);
    publish(&nodes[1], "all are gone");
    here.expect_publication("all are gone");
    assert_eq!(spy.words(), ["changed"; 7]);
    for daemon in &nodes {
        assert_eq!(daemon.metric("roomcast_cluster_feed_unreadable_total"), 0.0);
        assert_eq!(
            daemon.metric("roomcast_cluster_requests_expired_total"),
            0.0
        );
    }
}

#[test]
fn nothing_is_said_in_a_room_where_nobody_asks() {
    let redis = Redis::start();
    let nodes = two_nodes(&redis.url(), &[]);
    let spy = Spy::start(&redis);
    let come_and_go = |places: &[usize]| {
        for place in places {
            for join in KINDS {
                join(&nodes[*place], "somebody").leave();
            }
            nodes[*place].wait_metric("roomcast_websockets", |now| now <= 1.0);
            publish(&nodes[*place], "marker");
            assert_eq!(spy.words(), [""; 0], "of node {place}");
        }
    };
    come_and_go(&[0, 1]);
    // One who asks, and has gone again.
    let _stays = join_json(&nodes[1], "stays");
    let mut watcher = Sdk::join(&nodes[1], "watcher", true);
    watcher.expect_change("join");
    wait_until("the mark", || {
        shares(&redis).iter().any(|share| share.starts_with('0'))
    });
    watcher.wire.close();
    wait_until("a share without the mark", || {
        let shares = shares(&redis);
        shares.len() == 1 && !shares[0].starts_with('0')
    });
    publish(&nodes[1], "marker");
    assert_eq!(spy.words(), ["watched", "changed"]);
    come_and_go(&[0, 1]);
}

/// Nobody waits for a beat to hear that somebody asks.
#[test]
fn who_asks_first_is_known_at_once_where_the_room_is_long_there() {
    let redis = Redis::start();
    let nodes = two_nodes(&redis.url(), &[]);
    let _stays = join_json(&nodes[1], "stays");
    let mut watcher = Sdk::join(&nodes[0], "watcher", true);
    watcher.expect_change("join");
    expect_join_on(&nodes[1], &mut watcher);
}

#[test]
fn who_asks_is_known_again_when_redis_has_lost_it_and_the_feed_was_lost() {
    let redis = Redis::start();
    let nodes = two_nodes(&redis.url(), &[]);
    let mut watcher = Sdk::join(&nodes[0], "watcher", true);
    watcher.expect_change("join");
    let _stays = join_json(&nodes[1], "stays");
    assert_eq!(watcher.expect_change("join").0, "stays");
    redis.ask::<u64>(&["DEL", &format!("roomcast:{{{ROOM}}}:n")]);
    let killed: u32 = redis.ask(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    assert_eq!(killed, 2);
    wait_until("the mark", || {
        shares(&redis).iter().any(|share| share.starts_with('0'))
    });
    // When its own node delivers again, that has said so to the other.
    publish(&nodes[0], "back");
    watcher.expect_publication("back");
    expect_join_on(&nodes[1], &mut watcher);
}

#[test]
fn those_who_go_with_their_node_are_not_told_of() {
    let redis = Redis::start();
    let mut nodes = two_nodes(&redis.url(), &[]);
    let mut watcher = Sdk::join(&nodes[0], "watcher", true);
    watcher.expect_change("join");
    let member = Sdk::join(&nodes[1], "member", false);
    assert_eq!(watcher.expect_change("join").0, "member");
    nodes[1].signal(Signal::Kill);
    assert!(!nodes[1].wait_exit().success());
    drop(member);
    publish(&nodes[0], "later");
    watcher.expect_publication("later");
    // Of those who are still there, all is told.
    let mut other = Client::connect(&nodes[0], &target("other", "raw"));
    assert_eq!(watcher.expect_change("join").0, "other");
    other.send_close(1000, "");
    assert!(matches!(other.recv(), Message::Close(Some(1000), _)));
    assert_eq!(watcher.expect_change("leave").0, "other");
}

/// As those of a node that ends in order are.
#[test]
fn those_who_go_with_a_node_that_is_drained_are_told_of() {
    let redis = Redis::start();
    let mut nodes = two_nodes(&redis.url(), &["--drain-timeout", "1s"]);
    let mut watcher = Sdk::join(&nodes[0], "watcher", true);
    watcher.expect_change("join");
    let members: Vec<Client> = (0..5)
        .map(|number| {
            let client = Client::connect(&nodes[1], &target(&format!("m{number}"), "raw"));
            assert_eq!(watcher.expect_change("join").0, format!("m{number}"));
            client
        })
        .collect();
    nodes[1].signal(Signal::Term);
    assert!(nodes[1].wait_exit().success());
    let left: BTreeSet<String> = (0..members.len())
        .map(|_| watcher.expect_change("leave").0)
        .collect();
    assert_eq!(left.len(), members.len(), "{left:?}");
    publish(&nodes[0], "later");
    watcher.expect_publication("later");
}
