//! The server inside a program: its handle from many threads at once, its events, its end.

mod harness;

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use harness::{Client, DEADLINE, Dial, Message, Redis, wait_for, wait_until};
use roomcast::base::{CloseReason, ConnId, Position, RoomName, UserId};
use roomcast::wire::api::ApiCode;
use roomcast::{CallError, Config, Event, Events, Handle, Payload, Receipt, Server};
use serde_json::{Value, json};

/// Every way of running the workers: on the loop, one, several.
const WORKERS: [&str; 3] = ["--workers=0", "--workers=1", "--workers=3"];

fn config(args: &[&str]) -> Config {
    let defaults = [
        "--listen=127.0.0.1:0",
        "--admin-listen=off",
        "--drain-timeout=0",
    ];
    Config::from_args(defaults.iter().chain(args).copied()).expect("a good configuration")
}

/// A server that is ended on drop, so that a failing test leaves none behind.
struct Running {
    server: Option<Server>,
    handle: Handle,
}

impl Running {
    fn start(args: &[&str]) -> Self {
        Self::of(Server::start(config(args)).expect("a server"))
    }

    fn with_events(args: &[&str], capacity: usize) -> (Self, Events) {
        let capacity = NonZeroUsize::new(capacity).expect("not zero");
        let started = Server::start_with_events(config(args), capacity);
        let (server, events) = started.expect("a server");
        (Self::of(server), events)
    }

    fn of(server: Server) -> Self {
        Self {
            handle: server.handle(),
            server: Some(server),
        }
    }

    fn connect(&self, target: &str) -> Client {
        let server = self.server.as_ref().expect("it runs");
        Dial::new(server.addresses()[0], target).connect()
    }

    /// Ends it and waits until it has ended, which it must within the deadline. Its clients go first:
    /// those that do not answer their close would be waited for.
    fn end<T>(mut self, clients: T) {
        drop(clients);
        self.handle.shutdown();
        self.wait();
    }

    fn wait(&mut self) {
        let Some(server) = self.server.take() else {
            return;
        };
        let waiting = std::thread::spawn(move || server.wait());
        wait_until("the end of the server", || waiting.is_finished());
        let ended = waiting.join().expect("waiting does not panic");
        ended.expect("it was told to end");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.handle.shutdown();
    }
}

/// Does something however a scope is left.
struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// Waits for a receipt, within the deadline.
fn outcome<T: Send + 'static>(receipt: Receipt<T>) -> Result<T, CallError> {
    let waiting = std::thread::spawn(move || receipt.wait());
    wait_until("an answer", || waiting.is_finished());
    waiting.join().expect("waiting does not panic")
}

fn next(events: &Events) -> Event {
    let event = events.recv_timeout(DEADLINE);
    event.unwrap_or_else(|is_over| panic!("no event, and the end is {is_over}"))
}

/// Waits for the opening of the connection from `client`, which must be the next event.
fn opened(events: &Events, client: &Client) -> ConnId {
    match next(events) {
        Event::Opened { conn, peer, .. } => {
            assert_eq!(peer, client.local_addr());
            conn
        }
        other => panic!("{other:?}"),
    }
}

/// No connection has this id.
const NOBODY: ConnId = ConnId {
    slot: 7,
    generation: 77,
};

// --- Publishing -----------------------------------------------------------------------------------

#[test]
fn publications_of_many_threads_have_each_a_position() {
    const THREADS: u64 = 8;
    const EACH: u64 = 100;
    for workers in WORKERS {
        let server = Running::start(&[workers, "--outbound-queue=10000"]);
        let mut member = server.connect("/ws?room=a&format=json");
        assert!(member.recv_json()["joined"].is_object());
        let barrier = Barrier::new(THREADS as usize);
        let positions: Vec<(Position, String)> = std::thread::scope(|scope| {
            let publish = |thread: u64| {
                let (handle, barrier) = (server.handle.clone(), &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    let text = |number| format!("{thread} {number}");
                    let receipts: Vec<_> = (0..EACH)
                        .map(|number| {
                            wait_for("a place in the queue", || {
                                match handle.publish("a", text(number)) {
                                    Err(CallError::Busy) => None,
                                    receipt => Some(receipt.expect("a receipt")),
                                }
                            })
                        })
                        .collect();
                    let position = |(number, receipt): (u64, Receipt<Position>)| {
                        (receipt.wait().expect("a position"), text(number))
                    };
                    (0..EACH).zip(receipts).map(position).collect::<Vec<_>>()
                })
            };
            let threads: Vec<_> = (0..THREADS).map(publish).collect();
            threads
                .into_iter()
                .flat_map(|thread| thread.join().expect("no panic"))
                .collect()
        });
        let offsets: BTreeSet<u64> = positions.iter().map(|(at, _)| at.offset.0).collect();
        assert_eq!(offsets, (1..=THREADS * EACH).collect());
        assert!(
            positions
                .iter()
                .all(|(at, _)| at.epoch == positions[0].0.epoch)
        );
        let mut by_offset = positions.clone();
        by_offset.sort_unstable_by_key(|(at, _)| at.offset);
        for (at, text) in by_offset {
            let publication = &member.recv_json()["publication"];
            assert_eq!(publication["offset"], at.offset.0);
            assert_eq!(publication["data"], *text);
        }
        // Each thread's own are in its order.
        for thread in positions.chunks(EACH as usize) {
            assert!(
                thread
                    .windows(2)
                    .all(|two| two[0].0.offset < two[1].0.offset)
            );
        }
        server.end(member);
    }
}

#[test]
fn a_receipt_nobody_waits_for_changes_nothing() {
    let server = Running::start(&["--workers=3", "--outbound-queue=10000"]);
    let mut member = server.connect("/ws?room=a");
    for number in 0..500 {
        wait_for("a place in the queue", || {
            match server.handle.publish("a", number.to_string()) {
                Err(CallError::Busy) => None,
                receipt => receipt.map(drop).ok(),
            }
        });
    }
    for number in 0..500 {
        assert_eq!(member.recv_text(), number.to_string());
    }
    let last = server.handle.publish("a", "last").expect("a receipt");
    assert_eq!(outcome(last).map(|at| at.offset.0), Ok(501));
    server.end(member);
}

#[test]
fn payloads_of_every_kind_reach_rooms_and_users() {
    for workers in WORKERS {
        let server = Running::start(&[workers]);
        let mut raw = server.connect("/ws?user=al");
        let mut json = server.connect("/ws?user=al&format=json");
        assert!(json.recv_json()["joined"].is_object());
        let handle = &server.handle;
        let offset = |receipt: Result<Receipt<Position>, CallError>| {
            outcome(receipt.expect("a receipt"))
                .expect("a position")
                .offset
                .0
        };
        assert_eq!(offset(handle.send_to_user("al", "text")), 1);
        assert_eq!(offset(handle.publish("#al", vec![0, 255])), 2);
        assert_eq!(offset(handle.send_to_user("al", json!({ "n": 1 }))), 3);
        assert_eq!(offset(handle.send_to_user("bo", "nobody is there")), 1);
        assert_eq!(raw.recv_text(), "text");
        assert_eq!(raw.recv_binary(), [0, 255]);
        assert_eq!(raw.recv_text(), r#"{"n":1}"#);
        let mut member = |name: &str| json.recv_json()["publication"][name].take();
        assert_eq!(member("data"), "text");
        assert_eq!(member("b64"), "AP8=");
        assert_eq!(member("data"), json!({ "n": 1 }));
        server.end((raw, json));
    }
}

#[test]
fn what_cannot_be_published_is_said_at_once_or_by_the_receipt() {
    let server = Running::start(&["--max-message-size=100", "--max-rooms=1"]);
    let handle = &server.handle;
    for room in ["", "caf\u{e9}", &"l".repeat(256)] {
        assert!(
            matches!(handle.publish(room, "x"), Err(CallError::BadName(_))),
            "{room:?}"
        );
    }
    for user in ["", "a,b", "\n"] {
        assert!(
            matches!(handle.send_to_user(user, "x"), Err(CallError::BadName(_))),
            "{user:?}"
        );
        let close = handle.close_user(user, 4000, "x");
        assert!(matches!(close, Err(CallError::BadName(_))), "{user:?}");
    }
    let large = || "x".repeat(101);
    assert_eq!(
        handle.publish("a", large()).err(),
        Some(CallError::TooLarge)
    );
    assert_eq!(
        handle.send_to_user("al", large()).err(),
        Some(CallError::TooLarge)
    );
    assert_eq!(
        handle.send_to(NOBODY, large()).err(),
        Some(CallError::TooLarge)
    );
    let receipt = handle.publish("a", "x".repeat(100)).expect("a receipt");
    assert_eq!(outcome(receipt).map(|at| at.offset.0), Ok(1));
    let receipt = handle.publish("b", "x").expect("a receipt");
    assert_eq!(outcome(receipt), Err(CallError::TooManyRooms));
    let longest = "r".repeat(123);
    for (code, reason) in [
        (2999, "x"),
        (5000, "x"),
        (1000, "x"),
        (0, "x"),
        (4000, ""),
        (4000, &*format!("{longest}x")),
    ] {
        assert_eq!(
            handle.close(NOBODY, code, reason).err(),
            Some(CallError::BadClose)
        );
        assert_eq!(
            handle.close_user("al", code, reason).err(),
            Some(CallError::BadClose)
        );
    }
    outcome(handle.close(NOBODY, 4999, &longest).expect("a receipt")).expect("no error");
    server.end(());
}

// --- One connection -------------------------------------------------------------------------------

#[test]
fn one_connection_is_sent_to_and_closed() {
    for workers in WORKERS {
        let (server, events) = Running::with_events(&[workers], 1000);
        let handle = &server.handle;
        let send = |conn| outcome(handle.send_to(conn, "for you").expect("a receipt"));
        let mut raw = server.connect("/ws?room=a&user=al");
        let conn = opened(&events, &raw);
        let mut json = server.connect("/ws?room=a&user=al&format=json");
        let json_conn = opened(&events, &json);
        for _ in 0..2 {
            assert!(json.recv_json()["joined"].is_object());
        }
        let echo = server.connect("/echo");
        let echo_conn = opened(&events, &echo);
        assert_eq!(send(conn), Ok(()));
        assert_eq!(raw.recv_text(), "for you");
        assert_eq!(send(json_conn), Ok(()));
        let envelope = json.recv_json();
        let publication = envelope["publication"].as_object().expect("a publication");
        assert_eq!(publication.keys().collect::<Vec<_>>(), ["data", "time"]);
        assert_eq!(publication["data"], "for you");
        assert_eq!(send(echo_conn), Err(CallError::NotConnected));
        assert_eq!(send(NOBODY), Err(CallError::NotConnected));
        assert_eq!(send(ConnId::NONE), Err(CallError::NotConnected));
        // What was published and sent before the close comes before it.
        let _ = handle.publish("a", "1").expect("a receipt");
        for number in 2..=9 {
            let receipt = handle.send_to(conn, number.to_string());
            outcome(receipt.expect("a receipt")).expect("it is open");
        }
        let close =
            |conn, code, reason| outcome(handle.close(conn, code, reason).expect("a receipt"));
        assert_eq!(close(conn, 4001, "bye"), Ok(()));
        assert_eq!(close(conn, 4002, "again"), Ok(()));
        assert_eq!(send(conn), Err(CallError::NotConnected));
        let before = raw.drain_to_close(4001, "bye");
        let mut texts: Vec<_> = before
            .into_iter()
            .map(|message| match message {
                Message::Text(text) => text,
                other => panic!("{other:?}"),
            })
            .collect();
        texts.sort_unstable();
        assert_eq!(texts, ["1", "2", "3", "4", "5", "6", "7", "8", "9"]);
        let reason = CloseReason::ForceDisconnect;
        assert_eq!(next(&events), Event::Closed { conn, reason });
        assert_eq!(close(conn, 4001, "bye"), Ok(()));
        assert_eq!(close(NOBODY, 4001, "bye"), Ok(()));
        assert_eq!(json.recv_json()["publication"]["data"], "1");
        let receipt = handle
            .close_user("al", 3000, "all of al")
            .expect("a receipt");
        assert_eq!(outcome(receipt), Ok(()));
        assert_eq!(json.recv_json()["closing"]["code"], 3000);
        json.expect_close(3000, "all of al");
        assert_eq!(
            next(&events),
            Event::Closed {
                conn: json_conn,
                reason
            }
        );
        // The place is used again under another id.
        let again = server.connect("/ws?room=a");
        let again_conn = opened(&events, &again);
        assert!(again_conn != conn && again_conn != json_conn);
        assert_eq!(send(conn), Err(CallError::NotConnected));
        server.end((raw, json, echo, again));
    }
}

#[test]
fn one_connection_of_a_node_in_a_cluster_is_closed_with_redis_away_too() {
    for workers in WORKERS {
        let redis = Redis::start();
        let url = format!("--redis={}", redis.url());
        let (server, events) = Running::with_events(&[workers, &url], 1000);
        let mut members = [(); 3].map(|()| {
            let client = server.connect("/ws?room=a&user=al");
            let conn = opened(&events, &client);
            (client, conn)
        });
        let close = |conn, reason| {
            let receipt = server.handle.close(conn, 4001, reason);
            assert_eq!(outcome(receipt.expect("a receipt")), Ok(()));
        };
        close(members[0].1, "bye");
        members[0].0.drain_to_close(4001, "bye");
        close(NOBODY, "nobody");
        drop(redis);
        close(members[1].1, "cut off");
        members[1].0.drain_to_close(4001, "cut off");
        // Only who was meant.
        let last = server.handle.send_to(members[2].1, "you stay");
        assert_eq!(outcome(last.expect("a receipt")), Ok(()));
        assert_eq!(members[2].0.recv_text(), "you stay");
        server.end(members);
    }
}

// --- Events ---------------------------------------------------------------------------------------

#[test]
fn events_come_in_order() {
    for workers in WORKERS {
        let (server, events) = Running::with_events(&[workers], 10_000);
        let mut one = server.connect("/ws?room=a&user=al");
        let user = Some(UserId::new("al").expect("a good id"));
        let peer = one.local_addr();
        let Event::Opened { conn, .. } = next(&events) else {
            panic!("opening comes first");
        };
        let mut two = server.connect("/ws?to=al&user=bo");
        let two_conn = opened(&events, &two);
        for number in 0..50 {
            one.send_text(&number.to_string());
        }
        one.send_binary([0, 255]);
        for number in 0..50 {
            let payload = Payload::from(number.to_string());
            let room = RoomName::new("a").expect("a good name");
            assert_eq!(
                next(&events),
                Event::Message {
                    conn,
                    room,
                    payload
                }
            );
        }
        let room = RoomName::new("a").expect("a good name");
        let payload = Payload::from(vec![0, 255]);
        assert_eq!(
            next(&events),
            Event::Message {
                conn,
                room,
                payload
            }
        );
        two.send_text("hi");
        let room = RoomName::new("#al").expect("a good name");
        let payload = Payload::from("hi");
        assert_eq!(
            next(&events),
            Event::Message {
                conn: two_conn,
                room,
                payload
            }
        );
        // What the server publishes itself, and a refusal, are no events.
        let receipt = server.handle.publish("a", "mine").expect("a receipt");
        outcome(receipt).expect("a position");
        let address = server.server.as_ref().expect("it runs").addresses()[0];
        let refused = Dial::new(address, "/ws").try_connect();
        assert!(refused.is_err());
        one.close();
        let reason = CloseReason::Normal;
        assert_eq!(next(&events), Event::Closed { conn, reason });
        two.reset();
        match next(&events) {
            Event::Closed { conn, reason } => {
                assert_eq!(conn, two_conn);
                assert!(matches!(reason, CloseReason::Reset | CloseReason::Gone));
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(events.try_recv(), None);
        let three = server.connect("/ws?room=a&user=al");
        let opened = Event::Opened { conn, peer, user };
        match (next(&events), opened) {
            (Event::Opened { peer, user, .. }, Event::Opened { user: expected, .. }) => {
                assert_eq!((peer, user), (three.local_addr(), expected));
            }
            other => panic!("{other:?}"),
        }
        server.end(three);
    }
}

#[test]
fn the_end_closes_everything_and_is_the_last_event() {
    for workers in WORKERS {
        let (server, events) = Running::with_events(&[workers], 1000);
        let mut clients: Vec<Client> = (0..20).map(|_| server.connect("/ws?room=a")).collect();
        let mut open: BTreeSet<ConnId> = clients
            .iter()
            .map(|client| opened(&events, client))
            .collect();
        server.handle.shutdown();
        for client in &mut clients {
            client.expect_close(3001, "shutdown");
        }
        while let Some(event) = events.recv() {
            let Event::Closed { conn, reason } = event else {
                panic!("{event:?}");
            };
            assert_eq!(reason, CloseReason::Shutdown);
            assert!(open.remove(&conn), "{conn} was closed twice");
        }
        assert!(open.is_empty(), "{open:?} were not told");
        assert_eq!(events.try_recv(), None);
        assert_eq!(events.recv_timeout(Duration::ZERO), Err(true));
        server.end(clients);
    }
}

#[test]
fn whoever_does_not_end_in_time_is_told_as_well() {
    // A slow member has the time of a write for its close frame, and the end waits for it.
    let args = [
        "--outbound-queue=10",
        "--outbound-queue-size=1MiB",
        "--write-timeout=5s",
    ];
    let (server, events) = Running::with_events(&args, 1000);
    let address = server.server.as_ref().expect("it runs").addresses()[0];
    let stuck = Dial::new(address, "/ws?room=a")
        .receive_buffer(4096)
        .connect();
    let conn = opened(&events, &stuck);
    let large = "x".repeat(60_000);
    wait_until("it is slow", || {
        let receipt = server.handle.publish("a", large.clone());
        outcome(receipt.expect("a receipt")).expect("a position");
        outcome(server.handle.send_to(conn, "x").expect("a receipt"))
            == Err(CallError::NotConnected)
    });
    server.handle.shutdown();
    let reason = CloseReason::Slow;
    assert_eq!(events.recv(), Some(Event::Closed { conn, reason }));
    assert_eq!(events.recv(), None);
    server.end(stuck);
}

#[test]
fn events_without_room_are_counted_and_told_in_their_place() {
    for workers in WORKERS {
        let (server, events) = Running::with_events(&[workers], 3);
        let mut client = server.connect("/ws?room=a");
        let mut send = |text: &str| {
            client.send_text(text);
            assert_eq!(client.recv_text(), text);
            // A turn later its event has been passed on, or counted.
            server.handle.counters().expect("it runs");
        };
        for number in 1..=9 {
            send(&number.to_string());
        }
        let text_of = |event| match event {
            Event::Message { payload, .. } => {
                String::from_utf8(payload.bytes().to_vec()).expect("text")
            }
            other => panic!("{other:?}"),
        };
        assert!(matches!(next(&events), Event::Opened { .. }));
        assert_eq!(text_of(next(&events)), "1");
        assert_eq!(text_of(next(&events)), "2");
        send("after");
        assert_eq!(next(&events), Event::Missed { count: 7 });
        assert_eq!(text_of(next(&events)), "after");
        assert_eq!(events.try_recv(), None);
        for number in 1..=4 {
            send(&number.to_string());
        }
        for number in 1..=3 {
            assert_eq!(text_of(next(&events)), number.to_string());
        }
        // Nothing happens any more, and still it is told.
        assert_eq!(next(&events), Event::Missed { count: 1 });
        server.end(client);
    }
}

#[test]
fn events_missed_last_are_told_although_the_server_has_ended() {
    let (server, events) = Running::with_events(&[], 1);
    let mut client = server.connect("/ws?room=a");
    client.send_text("hello");
    assert_eq!(client.recv_text(), "hello");
    server.end(client);
    assert!(matches!(events.recv(), Some(Event::Opened { .. })));
    // The message and the close.
    assert_eq!(events.recv(), Some(Event::Missed { count: 2 }));
    assert_eq!(events.recv(), None);
}

#[test]
fn events_nobody_takes_hold_nobody_up() {
    let (server, events) = Running::with_events(&[], 1);
    let mut client = server.connect("/ws?room=a");
    for number in 0..200 {
        client.send_text(&number.to_string());
        assert_eq!(client.recv_text(), number.to_string());
    }
    drop(events);
    for number in 0..200 {
        client.send_text(&number.to_string());
        assert_eq!(client.recv_text(), number.to_string());
    }
    server.end(client);
}

// --- Counters and other calls ---------------------------------------------------------------------

#[test]
fn counters_follow_what_happens() {
    for workers in WORKERS {
        let server = Running::start(&[workers]);
        let counters = || server.handle.counters().expect("it runs");
        let before = counters();
        assert_eq!(
            (
                before.connections,
                before.websockets,
                before.members,
                before.rooms,
                before.users
            ),
            (0, 0, 0, 0, 0)
        );
        let mut one = server.connect("/ws?room=a&room=b&user=al");
        let two = server.connect("/ws?room=a&user=al");
        let now = counters();
        assert_eq!(
            (
                now.connections,
                now.websockets,
                now.members,
                now.rooms,
                now.users
            ),
            (2, 2, 5, 3, 1)
        );
        assert_eq!((now.upgrades, now.deliveries), (2, 0));
        one.send_text("hello");
        assert_eq!(one.recv_text(), "hello");
        let receipt = server.handle.publish("b", "hello").expect("a receipt");
        outcome(receipt).expect("a position");
        let now = counters();
        assert_eq!((now.received_messages, now.deliveries), (1, 3));
        assert_eq!(now.api_calls.get("publish"), Some(&1));
        one.close();
        two.reset();
        wait_until("nobody", || counters().connections == 0);
        let now = counters();
        assert_eq!(
            (now.websockets, now.members, now.rooms, now.users),
            (0, 0, 0, 0)
        );
        assert_eq!(now.closes.iter().sum::<u64>(), 2);
        server.end(());
    }
}

#[test]
fn any_call_of_the_api_can_be_made() {
    for workers in WORKERS {
        let server = Running::start(&[workers, "--max-message-size=100"]);
        let mut client = server.connect("/ws?room=a&user=al");
        let call = |method: &str, body: &Value| -> Value {
            let receipt = server.handle.call(method, body.to_string());
            let answer = outcome(receipt.expect("a receipt")).expect("an answer");
            serde_json::from_slice(&answer).expect("JSON")
        };
        let stats = call("presence_stats", &json!({ "channel": "a" }));
        assert_eq!(stats["result"], json!({ "num_clients": 1, "num_users": 1 }));
        assert_eq!(
            call("publish_all", &json!({ "data": "all" })),
            json!({ "result": {} })
        );
        assert_eq!(client.recv_text(), "all");
        assert_eq!(
            call("info", &json!({}))["result"]["nodes"][0]["num_clients"],
            1
        );
        let publish = json!({ "publish": { "channel": "a", "data": "in a batch" } });
        let replies = call(
            "batch",
            &json!({ "commands": [publish, { "nothing": {} }] }),
        );
        assert_eq!(replies["replies"][0]["publish"]["offset"], 1);
        assert_eq!(replies["replies"][1]["error"]["code"], 104);
        assert_eq!(client.recv_text(), "in a batch");
        let unsubscribe = json!({ "channel": "a", "user": "al" });
        assert_eq!(call("unsubscribe", &unsubscribe), json!({ "result": {} }));
        assert_eq!(server.handle.counters().expect("it runs").members, 1);
        // What is bounded for back ends is bounded here.
        for (method, body, code) in [
            ("nothing", json!({}), 104),
            (
                "publish",
                json!({ "channel": "a", "data": "x".repeat(101) }),
                106,
            ),
            (
                "broadcast",
                json!({ "channels": vec!["a"; 70_000], "data": 1 }),
                106,
            ),
            (
                "disconnect",
                json!({ "user": "al", "disconnect": { "code": 1006 } }),
                107,
            ),
            (
                "disconnect",
                json!({ "user": "al", "disconnect": { "reason": "r".repeat(124) } }),
                107,
            ),
            (
                "history",
                json!({ "channel": "a", "limit": 1, "since": { "offset": u64::MAX } }),
                112,
            ),
        ] {
            assert_eq!(call(method, &body)["error"]["code"], code, "{method}");
        }
        let undecodable = server.handle.call("publish", "{").expect("a receipt");
        assert_eq!(
            outcome(undecodable),
            Err(CallError::Refused(ApiCode::BadRequest))
        );
        let large = " ".repeat((1 << 20) + 1);
        assert_eq!(
            server.handle.call("info", large).err(),
            Some(CallError::TooLarge)
        );
        server.end(client);
    }
}

// --- The end --------------------------------------------------------------------------------------

/// Asserts that each call says that the server has ended, and does not wait for it.
fn assert_stopped(handle: &Handle) {
    let begun = Instant::now();
    let stopped = Some(CallError::Stopped);
    assert_eq!(handle.publish("a", "x").and_then(outcome).err(), stopped);
    assert_eq!(
        handle.send_to_user("al", "x").and_then(outcome).err(),
        stopped
    );
    assert_eq!(handle.send_to(NOBODY, "x").and_then(outcome).err(), stopped);
    assert_eq!(
        handle.close(NOBODY, 4000, "x").and_then(outcome).err(),
        stopped
    );
    assert_eq!(
        handle.close_user("al", 4000, "x").and_then(outcome).err(),
        stopped
    );
    assert_eq!(handle.call("info", "").and_then(outcome).err(), stopped);
    assert_eq!(handle.counters().err(), stopped);
    handle.shutdown();
    assert!(begun.elapsed() < DEADLINE);
}

#[test]
fn a_program_that_calls_without_end_starves_nobody() {
    for workers in WORKERS {
        let running = Running::start(&[workers]);
        let mut member = running.connect("/ws?room=a");
        let is_done = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while is_done.load(Ordering::Relaxed) == 0 {
                        // Answered by the loop itself, and at once.
                        let _ = running.handle.close_user("nobody", 4000, "bye");
                    }
                });
            }
            // Also when a message does not come: the scope waits for its threads.
            let done = OnDrop(|| is_done.store(1, Ordering::Relaxed));
            let began = Instant::now();
            for number in 0..100 {
                member.send_text(&number.to_string());
                assert_eq!(member.recv_text(), number.to_string());
            }
            drop(done);
            let took = began.elapsed();
            assert!(took < DEADLINE, "100 messages took {took:?}");
        });
        running.end(member);
    }
}

#[test]
fn whoever_cannot_take_a_message_is_not_said_to_have_it() {
    let args = ["--outbound-queue=1", "--write-timeout=60s"];
    let (running, events) = Running::with_events(&args, 100);
    let client = running.connect("/ws?user=al");
    let conn = opened(&events, &client);
    let send = || {
        outcome(
            running
                .handle
                .send_to(conn, vec![7; 60_000])
                .expect("taken"),
        )
    };
    // What the kernel takes is sent; then the queue is full.
    let refused = (0..10_000).find_map(|_| send().err());
    assert_eq!(refused, Some(CallError::NotConnected));
    assert_eq!(send(), Err(CallError::NotConnected));
    drop(client);
    match next(&events) {
        Event::Closed { reason, .. } => assert_eq!(reason, CloseReason::Slow),
        other => panic!("{other:?}"),
    }
    running.end(());
}

#[test]
fn what_was_asked_before_the_end_is_done_before_it() {
    for workers in WORKERS {
        let mut running = Running::start(&[workers, "--batch-interval=100ms"]);
        let mut member = running.connect("/ws?room=a");
        let receipts: Vec<_> = (1..=20)
            .map(|number| running.handle.publish("a", number.to_string()))
            .collect();
        running.handle.shutdown();
        assert_eq!(
            running.handle.publish("a", "too late").unwrap_err(),
            CallError::Stopped,
            "told to end, it takes nothing more"
        );
        for (receipt, number) in receipts.into_iter().zip(1..) {
            let position = outcome(receipt.expect("taken")).expect("published");
            assert_eq!(position.offset.0, number);
            assert_eq!(member.recv_text(), number.to_string());
        }
        member.drain_to_close(3001, "shutdown");
        drop(member);
        running.wait();
    }
}

#[test]
fn an_id_means_nobody_after_another_start() {
    let running = Running::start(&[]);
    let (other, events) = Running::with_events(&[], 10);
    let mut client = other.connect("/ws?room=a");
    let conn = opened(&events, &client);
    // The first connection of each has the same place in its table.
    let mut namesake = running.connect("/ws?room=a");
    let closing = running.handle.close(conn, 4000, "not you");
    outcome(closing.expect("taken")).expect("closing nobody is no error");
    outcome(running.handle.publish("a", "still here").expect("taken")).expect("published");
    assert_eq!(namesake.recv_text(), "still here");
    other.handle.publish("a", "me too").expect("taken");
    assert_eq!(client.recv_text(), "me too");
    running.end(namesake);
    other.end(client);
}

#[test]
fn calls_after_the_end_say_so() {
    for workers in WORKERS {
        let mut server = Running::start(&[workers]);
        let mut client = server.connect("/ws?room=a");
        for _ in 0..100 {
            server.handle.shutdown();
        }
        client.expect_close(3001, "shutdown");
        server.wait();
        assert_stopped(&server.handle);
        assert_stopped(&server.handle.clone());
        for _ in 0..100 {
            server.handle.shutdown();
        }
    }
}

#[test]
fn receipts_that_wait_at_the_end_say_so() {
    for workers in WORKERS {
        let mut server = Running::start(&[workers, "--batch-interval=10s"]);
        let handle = server.handle.clone();
        // None is answered for ten seconds, unless so many come that they are half a queue.
        let receipts: Vec<_> = (0..400)
            .map(|_| handle.publish("a", "x").expect("a receipt"))
            .collect();
        let dropped = handle.publish("a", "x").expect("a receipt");
        handle.counters().expect("it runs");
        handle.shutdown();
        drop(dropped);
        for receipt in receipts {
            assert_eq!(outcome(receipt), Err(CallError::Stopped));
        }
        server.wait();
        assert_stopped(&handle);
    }
}

#[test]
fn threads_that_call_until_the_end_all_come_to_it() {
    for workers in WORKERS {
        let (mut server, events) = Running::with_events(
            &[
                workers,
                "--outbound-queue=100000",
                "--outbound-queue-size=64MiB",
            ],
            100,
        );
        let clients: Vec<Client> = (0..4)
            .map(|_| server.connect("/ws?room=a&user=al"))
            .collect();
        let calls = AtomicUsize::new(0);
        let handle = server.handle.clone();
        std::thread::scope(|scope| {
            let calls = &calls;
            for thread in 0..8 {
                let handle = handle.clone();
                scope.spawn(move || {
                    loop {
                        let outcome = match thread % 8 {
                            0 | 1 => handle
                                .publish("a", "x")
                                .and_then(|receipt| receipt.wait().map(drop)),
                            2 => handle.publish("a", "x").map(drop),
                            3 => handle
                                .send_to_user("al", "x")
                                .and_then(|receipt| receipt.wait().map(drop)),
                            4 => handle.send_to(NOBODY, "x").and_then(Receipt::wait),
                            5 => handle.close(NOBODY, 4000, "x").and_then(Receipt::wait),
                            6 => handle.counters().map(drop),
                            _ => handle
                                .call("info", "")
                                .and_then(|receipt| receipt.wait().map(drop)),
                        };
                        calls.fetch_add(1, Ordering::Relaxed);
                        match outcome {
                            Ok(()) | Err(CallError::NotConnected | CallError::Busy) => {}
                            Err(CallError::Stopped) => return,
                            Err(other) => panic!("{other}"),
                        }
                    }
                });
            }
            wait_until("some calls", || calls.load(Ordering::Relaxed) > 500);
            for _ in 0..3 {
                handle.shutdown();
            }
            drop(clients);
            server.wait();
        });
        while events.recv().is_some() {}
        assert_stopped(&handle);
    }
}

#[test]
fn a_server_that_is_dropped_goes_on() {
    let server = Server::start(config(&[])).expect("a server");
    let address = server.addresses()[0];
    let handle = server.handle();
    drop(server);
    let mut client = Dial::new(address, "/ws?room=a").connect();
    let receipt = handle.publish("a", "still here").expect("a receipt");
    outcome(receipt).expect("a position");
    assert_eq!(client.recv_text(), "still here");
    handle.shutdown();
    client.expect_close(3001, "shutdown");
    wait_until("the end", || handle.counters().is_err());
    assert_stopped(&handle);
}

#[test]
fn two_servers_in_one_program_know_nothing_of_each_other() {
    let [one, two] = [0, 1].map(|_| Running::start(&[]));
    let mut clients = [&one, &two].map(|server| server.connect("/ws?room=a&format=json"));
    let epochs = clients
        .each_mut()
        .map(|client| client.recv_json()["joined"]["epoch"].take());
    assert_ne!(epochs[0], epochs[1]);
    for (server, text) in [(&one, "one"), (&two, "two")] {
        let receipt = server.handle.publish("a", text).expect("a receipt");
        assert_eq!(outcome(receipt).map(|at| at.offset.0), Ok(1));
    }
    for (client, text) in clients.iter_mut().zip(["one", "two"]) {
        let publication: Value = client.recv_json();
        assert_eq!(publication["publication"]["data"], text);
    }
    let [first, second] = clients;
    one.end(first);
    let receipt = two.handle.publish("a", "after").expect("a receipt");
    assert_eq!(outcome(receipt).map(|at| at.offset.0), Ok(2));
    two.end(second);
}
