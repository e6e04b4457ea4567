//! One login a user over several nodes: replaced, refused, at the same moment, and after a node died.

mod harness;

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};

use harness::{
    Api, Client, DEADLINE, Daemon, Dial, Message, Passing, Redis, RedisRelay, Signal, node,
    two_nodes, wait_for_each_other, wait_until, wait_within,
};
use serde_json::json;

const TARGET: &str = "/ws?user=al&room=r";

/// What became of a login.
enum Login {
    Open(Box<Client>),
    Refused,
}

fn try_login(daemon: &Daemon) -> Login {
    match Dial::new(daemon.addr(), TARGET).try_connect() {
        Ok(client) => Login::Open(Box::new(client)),
        Err(response) => {
            assert_eq!(response.status, 409, "{response:?}");
            Login::Refused
        }
    }
}

fn login(daemon: &Daemon) -> Client {
    match try_login(daemon) {
        Login::Open(client) => *client,
        Login::Refused => panic!("refused"),
    }
}

/// Whether the connection serves: `None` if it was sent away for another login.
fn serves(client: &mut Client) -> bool {
    client.send_ping("open?");
    loop {
        match client.recv() {
            Message::Pong(_) => return true,
            Message::Close(code, _) => {
                assert_eq!(code, Some(3504));
                return false;
            }
            _ => {}
        }
    }
}

#[test]
fn a_login_on_another_node_takes_the_place() {
    let redis = Redis::start();
    let nodes = two_nodes(&redis.url(), &["--duplicate-login", "replace"]);
    let mut held = login(&nodes[0]);
    for round in 1..10 {
        let mut next = login(&nodes[round % 2]);
        held.expect_close(3504, None);
        next.send_text("mine");
        assert_eq!(next.recv_text(), "mine");
        held = next;
    }
    let closes = |daemon: &Daemon| daemon.closes("connection_limit");
    wait_until("nine closes", || {
        nodes.iter().map(closes).sum::<f64>() == 9.0
    });
}

#[test]
fn a_login_on_another_node_is_refused_until_the_first_has_left() {
    let redis = Redis::start();
    let nodes = two_nodes(&redis.url(), &["--duplicate-login", "refuse"]);
    for round in 0..5 {
        let (here, there) = (&nodes[round % 2], &nodes[(round + 1) % 2]);
        let mut first = login(here);
        assert!(matches!(try_login(there), Login::Refused));
        assert!(matches!(try_login(here), Login::Refused));
        let origin = format!("http://{}", there.addr());
        let dial = Dial::new(there.addr(), TARGET).header("Origin", &origin);
        dial.connect().expect_close(3504, None);
        assert!(serves(&mut first));
        first.close();
        wait_until("the place to be free", || match try_login(there) {
            Login::Open(client) => {
                client.close();
                true
            }
            Login::Refused => false,
        });
        wait_until("the place to be free again", || {
            redis
                .ask::<Option<String>>(&["HGET", "roomcast:{#al}:m", "hn"])
                .is_none()
        });
    }
}

/// Logs in on all nodes at one moment; returns who was let in.
fn at_once(nodes: &[Daemon]) -> Vec<Client> {
    let start = Barrier::new(nodes.len());
    std::thread::scope(|scope| {
        let logins = nodes.iter().map(|daemon| {
            let start = &start;
            scope.spawn(move || {
                start.wait();
                try_login(daemon)
            })
        });
        let logins: Vec<_> = logins.collect();
        let logins = logins
            .into_iter()
            .map(|login| login.join().expect("no panic"));
        logins
            .filter_map(|login| match login {
                Login::Open(client) => Some(*client),
                Login::Refused => None,
            })
            .collect()
    })
}

/// Waits until one is left of those who were let in, and ends it.
fn assert_one_stays(nodes: &[Daemon], clients: Vec<Client>, round: usize) {
    assert!(!clients.is_empty(), "nobody was let in, round {round}");
    let mut clients = clients;
    wait_until("one login", || {
        clients.retain_mut(serves);
        assert!(!clients.is_empty(), "nobody stays, round {round}");
        clients.len() == 1
    });
    // It is the one that the whole cluster knows.
    let known = || {
        let result = Api::connect(&nodes[0]).result("presence_stats", &json!({ "channel": "r" }));
        result["num_clients"].as_u64()
    };
    // A node whose feed is down is asked for as long as `--redis-wait`.
    let wait_known = |count| {
        let what = format!("{count} present, round {round}");
        wait_within(3 * DEADLINE, &what, || {
            (known() == Some(count)).then_some(())
        });
    };
    wait_known(1);
    assert!(serves(&mut clients[0]), "round {round}");
    for client in clients {
        client.close();
    }
    wait_known(0);
}

#[test]
fn two_logins_at_the_same_moment_end_in_one() {
    for mode in ["replace", "refuse"] {
        let redis = Redis::start();
        let nodes = two_nodes(&redis.url(), &["--duplicate-login", mode]);
        wait_for_each_other(&nodes);
        for round in 0..40 {
            let mut clients = at_once(&nodes);
            if mode == "refuse" {
                // The place of the last round may be about to be given back.
                while clients.is_empty() {
                    clients = at_once(&nodes);
                }
                assert_eq!(clients.len(), 1, "round {round}");
            }
            assert_one_stays(&nodes, clients, round);
        }
    }
}

/// The one that lost hears of it when its node's feed is back, or by the next look at the room.
#[test]
fn of_two_logins_one_stays_though_a_feed_was_down() {
    let redis = Redis::start();
    // Kills make the feed come back later and later, and logins wait for it.
    let args = ["--duplicate-login", "replace", "--redis-wait", "10s"];
    let nodes = two_nodes(&redis.url(), &args);
    wait_for_each_other(&nodes);
    for round in 0..10 {
        let mut clients = Vec::new();
        std::thread::scope(|scope| {
            let killer = scope.spawn(|| {
                for _ in 0..5 {
                    redis.ask::<u32>(&["CLIENT", "KILL", "TYPE", "pubsub"]);
                }
            });
            clients = at_once(&nodes);
            killer.join().expect("no panic");
        });
        assert_one_stays(&nodes, clients, round);
    }
}

/// Nothing is announced to it at all: what it reads when it is back tells it.
#[test]
fn a_node_that_was_cut_off_learns_of_a_later_login() {
    let redis = Redis::start();
    let relay = RedisRelay::to(&redis);
    let args = ["--duplicate-login", "replace"];
    let nodes = [
        node(&redis.url(), "n1", &args),
        node(&relay.url(), "n2", &args),
    ];
    let mut first = login(&nodes[1]);
    relay.set(Passing::Nothing);
    let mut second = login(&nodes[0]);
    assert!(serves(&mut first), "nothing can have told it");
    relay.cut();
    relay.set(Passing::All);
    first.expect_close(3504, None);
    assert!(serves(&mut second));
}

#[test]
fn logins_that_came_to_nothing_while_redis_is_away_leave_nothing_that_waits() {
    const CROWD: usize = 40;
    const EACH: usize = 5;
    for policy in ["replace", "refuse"] {
        let mut redis = Redis::start();
        let args = ["--redis-wait", "300ms", "--duplicate-login", policy];
        let node = node(&redis.url(), "n1", &args);
        redis.kill();
        node.wait_metric("roomcast_cluster_available", |is_up| is_up == 0.0);
        std::thread::scope(|scope| {
            for user in 0..CROWD {
                let node = &node;
                scope.spawn(move || {
                    for time in 0..EACH {
                        let target = format!("/ws?user=u{user}.{time}");
                        let refused = Dial::new(node.addr(), &target).try_connect();
                        assert_eq!(refused.map(drop).map_err(|one| one.status), Err(503));
                    }
                });
            }
        });
        // Places that nobody was asked for are not given back either, which would take 30 s.
        node.wait_metric("roomcast_cluster_requests_waiting", |waiting| {
            waiting <= 2.0
        });
        redis.restart();
        node.wait_metric("roomcast_cluster_available", |is_up| is_up == 1.0);
        wait_until("a login", || {
            Dial::new(node.addr(), TARGET).try_connect().is_ok()
        });
        // Each was asked for too late, or not at all.
        let held: Vec<String> = redis.ask(&["KEYS", "roomcast:{#u*}:m"]);
        assert_eq!(held, Vec::<String>::new());
    }
}

#[test]
fn a_node_that_dies_holds_its_users_no_longer_than_the_lease() {
    let redis = Redis::start();
    let nodes = two_nodes(&redis.url(), &["--duplicate-login", "refuse"]);
    let _first = login(&nodes[1]);
    nodes[1].signal(Signal::Kill);
    assert!(matches!(try_login(&nodes[0]), Login::Refused));
    // The place says until when it is held. Instead of waiting for that, it is put back.
    let place = "roomcast:{#al}:m";
    let held_until_ms: u64 = redis.ask(&["HGET", place, "hx"]);
    let now: (u64, u64) = redis.ask(&["TIME"]);
    let left_ms = held_until_ms.saturating_sub(now.0 * 1000);
    assert!((1..=31_000).contains(&left_ms), "{left_ms}");
    let soon_ms = now.0 * 1000 + 1500;
    redis.ask::<u32>(&["HSET", place, "hx", &soon_ms.to_string()]);
    wait_until("the place to be free", || match try_login(&nodes[0]) {
        Login::Open(mut client) => {
            assert!(serves(&mut client));
            true
        }
        Login::Refused => false,
    });
    let now: (u64, u64) = redis.ask(&["TIME"]);
    assert!(now.0 * 1000 + now.1 / 1000 >= soon_ms, "let in too early");
}

/// In good order, and by a second signal at once: then the worker is told of more leaves than it can
/// carry out while the loop is there to hear of publications.
#[test]
fn a_stop_under_load_leaves_no_claim_behind() {
    const USERS: usize = 80;
    let rooms: String = (0..120).map(|room| format!("&room=r{room}")).collect();
    let target = |user: usize| format!("/ws?user=u{user}{rooms}");
    let args = "--duplicate-login refuse --lossy-room * --write-timeout 1m --drain-timeout 1s \
                --workers 1";
    let args: Vec<&str> = args.split_whitespace().collect();
    for signals in [1, 2, 2] {
        let redis = Redis::start();
        let mut nodes = two_nodes(&redis.url(), &args);
        let members: Vec<Client> = (0..USERS)
            .map(|user| Client::connect(&nodes[0], &target(user)))
            .collect();
        let shares = || redis.ask::<Vec<String>>(&["HKEYS", "roomcast:{r0}:n"]);
        let publishers = [0, 1, 2].map(|_| Client::connect(&nodes[1], "/ws?room=r0&echo=0"));
        wait_until("both nodes to have told", || shares().len() == 2);
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for mut publisher in publishers {
                let is_over = &is_over;
                scope.spawn(move || {
                    while !is_over.load(Ordering::Relaxed) {
                        for _ in 0..20 {
                            publisher.send_text("x");
                        }
                        publisher.send_ping("taken");
                        while !matches!(publisher.recv(), Message::Pong(_)) {}
                    }
                    publisher.close();
                });
            }
            nodes[0].wait_metric("roomcast_cluster_feed_publications_total", |count| {
                count > 1000.0
            });
            for _ in 0..signals {
                nodes[0].signal(Signal::Term);
            }
            nodes[0].wait_exit();
            is_over.store(true, Ordering::Relaxed);
        });
        for user in 0..USERS {
            let place = format!("roomcast:{{#u{user}}}:m");
            let holder = redis.ask::<Option<String>>(&["HGET", &place, "hn"]);
            assert_eq!(holder, None, "u{user} after {signals} signals");
        }
        // The publishers' node at most.
        assert!(shares().len() <= 1, "the node is counted in the room");
        // Nobody is refused on the other node.
        for user in 0..USERS {
            Client::connect(&nodes[1], &format!("/ws?user=u{user}"));
        }
        drop(members);
    }
}
