//! A daemon that is stopped for 20 s, as by SIGSTOP or when its machine is suspended: nobody is closed for
//! what nobody could do meanwhile, and nothing is lost.

mod harness;

use std::thread;
use std::time::{Duration, Instant};

use harness::{
    Api, Client, Crowd, Daemon, Dial, Load, Message, Signal, Start, Wire, linger, narrow_listener,
    publish_numbered, upgrade_request,
};
use serde_json::json;

/// How long the daemon is stopped: longer than each of [`SHORT`].
const STOP: Duration = Duration::from_secs(20);

/// Timeouts that are over when the daemon goes on.
const SHORT: [&str; 8] = [
    "--ping-interval",
    "2s",
    "--pong-timeout",
    "10s",
    "--write-timeout",
    "3s",
    "--handshake-timeout",
    "3s",
];

/// How long what a busy machine does not do at once may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// More than the loop takes events, or writes to, at once.
const MEMBERS: usize = 1500;

/// The span of each of the tests, so that they may share it.
#[test]
fn nobody_notices_that_the_daemon_was_stopped_for_twenty_seconds() {
    thread::scope(|scope| {
        let parts: [fn(); 4] = [
            members_are_not_given_up,
            members_that_were_behind_catch_up,
            || a_load_is_served(&SHORT),
            || a_load_is_served(&["--workers", "0"]),
        ];
        for part in parts {
            scope.spawn(part);
        }
    });
}

/// Stops the daemon; it goes on when [`STOP`] is over. Returns the moment right before.
fn stop_for_long(daemon: &Daemon, meanwhile: impl FnOnce()) -> Instant {
    let end = Instant::now() + STOP;
    daemon.signal(Signal::Stop);
    meanwhile();
    linger(end.saturating_duration_since(Instant::now()));
    let going_on = Instant::now();
    daemon.signal(Signal::Continue);
    going_on
}

/// A member whose head has come in part when the daemon is stopped, and the rest of it meanwhile.
struct LateHead {
    wire: Wire,
    rest: String,
}

impl LateHead {
    fn begin(daemon: &Daemon) -> Self {
        let mut wire = Wire::connect(daemon.addr());
        let mut head = upgrade_request(daemon.addr(), "/ws?room=late", &[]);
        let rest = head.split_off(head.len() / 2);
        wire.send(head);
        Self { wire, rest }
    }

    fn finish(&mut self) {
        self.wire.send(&self.rest);
    }

    fn assert_let_in(self) {
        let mut client = Client::upgraded(self.wire).expect("its head lay in the kernel");
        client.send_text("x");
        assert_eq!(client.recv_text(), "x");
    }
}

fn members_are_not_given_up() {
    let daemon = Daemon::start(&SHORT);
    let mut crowd = Crowd::join(daemon.addr(), "a", MEMBERS);
    publish_numbered(&mut Api::connect(&daemon), "a", 1..=5);
    crowd.read_to(5, PATIENCE);
    // Each is pinged for the first time, and answers.
    crowd.read_pings(&[0; MEMBERS], 1, PATIENCE);
    let mut late = LateHead::begin(&daemon);
    let mut silent = Dial::new(daemon.addr(), "/ws?room=silent")
        .silent()
        .connect();
    let going_on = stop_for_long(&daemon, || {
        // The pongs to some of the last pings lie in the kernel, as does the rest of a head.
        crowd.read_for(Duration::from_secs(1));
        late.finish();
    });
    let before: Vec<u64> = crowd.pings().collect();
    late.assert_let_in();
    // Longer than those have to answer who are asked now.
    crowd.read_for(Duration::from_secs(9));
    crowd.read_pings(&before, 1, PATIENCE);
    assert_eq!(crowd.closes(), [], "of {MEMBERS}");
    // One at once, since it is due, and one an interval: nobody is asked again for each that was missed.
    let intervals = going_on.elapsed().as_secs() / 2;
    for (member, (before, after)) in before.into_iter().zip(crowd.pings()).enumerate() {
        let pings = after - before;
        assert!(pings <= intervals + 2, "{pings} pings to {member}");
    }
    publish_numbered(&mut Api::connect(&daemon), "a", 6..=10);
    crowd.read_to(10, PATIENCE);
    assert_eq!(crowd.closes(), [], "of {MEMBERS}");
    // Whoever does not answer when asked again is given up as ever.
    let pings = silent.drain_to_close(3012, "no pong");
    assert!(pings.contains(&Message::Ping(Vec::new())), "{pings:?}");
    daemon.wait_closes("no_pong", 1.0);
}

/// They had not read for a while when the daemon was stopped, and read what lay in the kernel.
fn members_that_were_behind_catch_up() {
    const PUBLICATIONS: u64 = 30;
    let daemon = Start::default()
        .args(&["--write-timeout", "15s", "--ping-interval", "off"])
        .pass(narrow_listener(4 << 10))
        .start();
    let mut crowd = Crowd::join_narrow(daemon.addr(), "a", MEMBERS, Some(4 << 10));
    let mut api = Api::connect(&daemon);
    let filler = "x".repeat(1000);
    for offset in 1..=PUBLICATIONS {
        let text = format!("{offset} {filler}");
        assert_eq!(api.publish("a", &json!(text)), offset);
    }
    daemon.wait_metric("roomcast_websockets_backlogged", |now| {
        now == MEMBERS as f64
    });
    stop_for_long(&daemon, || crowd.read_for(Duration::from_secs(1)));
    crowd.read_to(PUBLICATIONS, PATIENCE);
    assert_eq!(crowd.closes(), [], "of {MEMBERS}");
    assert_eq!(daemon.closes("write_timeout"), 0.0);
}

fn a_load_is_served(args: &[&str]) {
    const LOAD: &str = "--members 24 --publishers 3 --rooms 3 --rate 10 --cuts 4 --secs 29";
    let daemon = Daemon::start(args);
    let load = format!("{LOAD} --protocol centrifugo");
    let loads = [LOAD, &load].map(|load| Load::start(&[&daemon], load));
    let mut late = LateHead::begin(&daemon);
    stop_for_long(&daemon, || late.finish());
    late.assert_let_in();
    for account in loads.map(Load::finish) {
        assert_eq!(account.count("lost and told"), 0, "{}", account.0);
        assert_eq!(account.count("closed by server"), 0, "{}", account.0);
    }
}
