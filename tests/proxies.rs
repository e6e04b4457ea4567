//! Behind a reverse proxy: whose a connection is, in the log, in the API and for the limit of one
//! address; and that nobody else can say so.

mod harness;

use serde_json::{Value, json};

use harness::{Api, Client, Daemon, Dial, Wire, http, upgrade_request, wait_until};

/// Everybody connects from 127.0.0.x; the proxies are those from 1 to 7.
const PROXIES: [&str; 2] = ["--trusted-proxy", "127.0.0.0/29"];

/// A host that no proxy is on.
const STRANGER: u8 = 99;

fn behind(daemon: &Daemon, target: &str, forwarded: &str) -> Dial {
    Dial::new(daemon.addr(), target).header("X-Forwarded-For", forwarded)
}

/// The peer in the log line of the one connection that has ended for `reason`.
fn logged_peer(daemon: &Daemon, reason: &str) -> String {
    let part = format!("reason={reason} ");
    let line = daemon.wait_log_line(&part, |line| line.contains(&part));
    let (_, rest) = line.split_once("peer=").expect("a peer");
    rest.split(' ').next().expect("a word").to_owned()
}

fn peers(daemon: &Daemon, room: &str) -> Vec<String> {
    let rows = Api::connect(daemon).result("connections", &json!({"channel": room}));
    let rows = rows["connections"].as_array().expect("a list");
    rows.iter()
        .map(|row| row["peer"].as_str().expect("text").to_owned())
        .collect()
}

#[test]
fn the_peer_is_the_client_that_a_trusted_proxy_names() {
    for (forwarded, expected) in [
        ("192.0.2.7", "192.0.2.7"),
        ("192.0.2.7:5555", "192.0.2.7:5555"),
        ("6.6.6.6, 192.0.2.7", "192.0.2.7"),
        ("6.6.6.6, 192.0.2.7, 127.0.0.3", "192.0.2.7"),
        ("::ffff:192.0.2.7, ::ffff:127.0.0.2", "192.0.2.7"),
        ("2001:db8::1", "2001:db8::1"),
        ("[2001:db8::1]:443", "[2001:db8::1]:443"),
        ("127.0.0.5, 127.0.0.4", "127.0.0.5"),
    ] {
        let daemon = Daemon::start(&PROXIES);
        let client = behind(&daemon, "/ws?room=a", forwarded).connect();
        daemon.wait_members(1);
        assert_eq!(peers(&daemon, "a"), [expected], "{forwarded}");
        client.close();
        assert_eq!(logged_peer(&daemon, "normal"), expected, "{forwarded}");
        let closes = &debug(&daemon)["closes"][0];
        assert_eq!(closes["peer"], expected, "{forwarded}");
    }
}

fn debug(daemon: &Daemon) -> Value {
    let response = daemon.admin_get("/debug/loop");
    serde_json::from_slice(&response.body).expect("JSON")
}

#[test]
fn several_lines_are_one_list() {
    let daemon = Daemon::start(&PROXIES);
    let dial = behind(&daemon, "/ws?room=a", "192.0.2.7, 192.0.2.8");
    let _client = dial.header("X-Forwarded-For", "127.0.0.2").connect();
    daemon.wait_members(1);
    assert_eq!(peers(&daemon, "a"), ["192.0.2.8"]);
}

#[test]
fn nobody_else_is_believed() {
    for args in [&PROXIES[..], &[]] {
        let daemon = Daemon::start(args);
        let dial = behind(&daemon, "/ws?room=a", "192.0.2.7");
        let client = dial.source(STRANGER).connect();
        daemon.wait_members(1);
        let own = client.local_addr().to_string();
        assert_eq!(peers(&daemon, "a"), [&*own]);
        client.close();
        assert_eq!(logged_peer(&daemon, "normal"), own);
    }
}

#[test]
fn a_proxy_that_names_nobody_is_its_own_client() {
    let daemon = Daemon::start(&PROXIES);
    let plain = Client::connect(&daemon, "/ws?room=a");
    daemon.wait_members(1);
    assert_eq!(peers(&daemon, "a"), [plain.local_addr().to_string()]);
    // What cannot be read is told once, and counted each time.
    for forwarded in ["unknown", "192.0.2.7, nonsense", "192.0.2.7 "] {
        let client = behind(&daemon, "/ws?room=b", forwarded).connect();
        daemon.wait_members(2);
        let expected = if forwarded.ends_with(' ') {
            "192.0.2.7".to_owned()
        } else {
            client.local_addr().to_string()
        };
        assert_eq!(peers(&daemon, "b"), [expected], "{forwarded}");
        client.close();
        daemon.wait_members(1);
    }
    assert_eq!(daemon.metric("roomcast_malformed_forwards_total"), 2.0);
    let lines = daemon.log_lines();
    let about = |line: &&String| line.contains("X-Forwarded-For");
    let lines: Vec<_> = lines.iter().filter(about).collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("WARN") && lines[0].contains("127.0.0.1"));
}

#[test]
fn each_client_behind_a_proxy_gets_its_own_share() {
    let args = [&PROXIES[..], &["--max-connections-per-ip", "2"]].concat();
    let daemon = Daemon::start(&args);
    let client = |host: u32| behind(&daemon, "/ws?room=a", &format!("192.0.2.{host}"));
    let refused = |dial: &Dial| {
        let answer = dial.try_connect().err().expect("one too many");
        assert_eq!(answer.status, 503, "{answer:?}");
        assert!(answer.header("retry-after").is_some(), "{answer:?}");
    };
    // Ten clients with two connections each, through one proxy, are all within theirs.
    let mut all: Vec<Vec<Client>> = (0..10)
        .map(|host| vec![client(host).connect(), client(host).connect()])
        .collect();
    for host in 0..10 {
        refused(&client(host));
        // By another proxy, too.
        refused(&client(host).source(3));
    }
    daemon.wait_closes("capacity", 20.0);
    // A place that is given up is free again, and nobody else's.
    all[3].pop().expect("a client").close();
    wait_until("a place for the third", || client(3).try_connect().is_ok());
    refused(&client(4));
    // Being full is not being ill.
    let health = format!(
        "GET /healthz HTTP/1.1\r\nHost: {}\r\nX-Forwarded-For: 192.0.2.4\r\n\r\n",
        daemon.addr()
    );
    assert_eq!(http(daemon.addr(), &health).status, 200);
    // Who says that it is another is a stranger, with a share of its own.
    let stranger = client(4).source(STRANGER);
    let held = [stranger.connect(), stranger.connect()];
    let answer = stranger.try_connect().err().expect("one too many");
    assert_eq!(answer.status, 503);
    drop((all, held));
    daemon.wait_members(0);
    client(4).connect().close();
}

#[test]
fn one_connection_of_a_proxy_serves_many_clients() {
    let args = [&PROXIES[..], &["--max-connections-per-ip", "1"]].concat();
    let daemon = Daemon::start(&args);
    let mut wire = Wire::connect(daemon.addr());
    let get = |forwarded: &str| {
        format!(
            "GET / HTTP/1.1\r\nHost: {}\r\nX-Forwarded-For: {forwarded}\r\n\r\n",
            daemon.addr()
        )
    };
    // A connection that is kept is nobody's between two requests.
    for host in [1, 2, 1, 3] {
        wire.send(get(&format!("192.0.2.{host}")));
        assert_eq!(wire.response().status, 200);
    }
    let held = behind(&daemon, "/ws?room=a", "192.0.2.3").connect();
    wire.send(get("192.0.2.1"));
    assert_eq!(wire.response().status, 200);
    // It is only refused for the one that has a connection elsewhere, and ends with that.
    wire.send(get("192.0.2.3"));
    assert_eq!(wire.response().status, 503);
    wire.expect_end();
    held.close();
    // A request that becomes a WebSocket counts until its end.
    let mut wire = Wire::connect(daemon.addr());
    wire.send(get("192.0.2.8"));
    assert_eq!(wire.response().status, 200);
    let forwarded = [("X-Forwarded-For", "192.0.2.9")];
    wire.send(upgrade_request(daemon.addr(), "/ws?room=a", &forwarded));
    let mut client = Client::upgraded(wire).expect("an upgrade");
    client.send_text("hi");
    assert_eq!(client.recv_text(), "hi");
    assert_eq!(peers(&daemon, "a"), ["192.0.2.9"]);
    let other = behind(&daemon, "/ws?room=a", "192.0.2.9").try_connect();
    assert_eq!(other.err().expect("one too many").status, 503);
    behind(&daemon, "/ws?room=a", "192.0.2.8").connect().close();
    client.close();
    wait_until("a place", || {
        behind(&daemon, "/ws?room=a", "192.0.2.9")
            .try_connect()
            .is_ok()
    });
}

#[test]
fn a_proxy_counts_among_all_connections_before_it_has_said_anything() {
    let args = [&PROXIES[..], &["--max-connections", "3"]].concat();
    let daemon = Daemon::start(&args);
    let held: Vec<Wire> = (0..3).map(|_| Wire::connect(daemon.addr())).collect();
    daemon.wait_metric("roomcast_accepted_total", |now| now >= 3.0);
    wait_until("no more room", || {
        let answer = behind(&daemon, "/ws?room=a", "192.0.2.7").try_connect();
        answer.err().is_some_and(|answer| answer.status == 503)
    });
    drop(held);
    wait_until("room again", || {
        behind(&daemon, "/ws?room=a", "192.0.2.7")
            .try_connect()
            .is_ok()
    });
}

#[test]
fn calls_behind_a_proxy_name_their_client_in_the_log() {
    let daemon = Daemon::start(&["--trusted-proxy", "127.0.0.200"]);
    let mut wire = Wire::connect_from(daemon.admin(), [127, 0, 0, 200].into(), None);
    wire.send(format!(
        "POST /api/info HTTP/1.1\r\nHost: {}\r\nX-Forwarded-For: 192.0.2.7\r\n\
         Connection: close\r\nContent-Length: 2\r\n\r\n{{}}",
        daemon.admin()
    ));
    assert_eq!(wire.response().status, 200);
    wire.expect_end();
    assert_eq!(logged_peer(&daemon, "answered"), "192.0.2.7");
}
