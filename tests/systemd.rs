//! The service manager's protocols: what the daemon tells it, and the sockets that it passes.
//!
//! The tests are the service manager: they hold the socket that `NOTIFY_SOCKET` names, and listening
//! sockets that daemons come and go behind.

mod harness;

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixDatagram, UnixListener};
use std::path::PathBuf;
use std::process::{Command, Stdio, id};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use harness::{
    Client, DEADLINE, Daemon, Signal, Start, Wire, Witness, linger, publication, upgrade_request,
    wait_until,
};

// --- What is told ---------------------------------------------------------------------------------

#[test]
fn the_manager_hears_when_the_daemon_serves_and_when_it_ends() {
    for manager in [Manager::at_path(), Manager::abstract_name()] {
        let mut daemon = manager.watched().start();
        manager.expect("READY=1");
        assert_eq!(daemon.get("/healthz").status, 200);
        assert_eq!(daemon.admin_get("/readyz").status, 200);
        daemon.signal(Signal::Term);
        // Time for the writes, the last answers and the end of the threads.
        manager.expect("STOPPING=1\nEXTEND_TIMEOUT_USEC=16000000");
        assert!(daemon.wait_exit().success());
        for text in manager.rest() {
            assert!(text.starts_with("STATUS="), "{text}");
        }
    }
}

#[test]
fn a_drain_that_is_longer_than_the_managers_patience_asks_for_more() {
    let manager = Manager::at_path();
    let args = ["--drain-timeout", "1h", "--write-timeout", "20s"];
    let mut daemon = manager.watched().args(&args).start();
    let _members = [(); 2].map(|()| Client::connect(&daemon, "/ws?room=a"));
    daemon.wait_members(2);
    daemon.signal(Signal::Term);
    manager.expect("STOPPING=1\nEXTEND_TIMEOUT_USEC=3626000000");
    // What is asked for then is done, and is no change of state any more.
    daemon.signal(Signal::Hup);
    daemon.wait_log("reloaded");
    let told = manager.rest();
    let is_status = |text: &String| text.starts_with("STATUS=");
    assert!(told.iter().all(is_status), "{told:?}");
    assert!(daemon.runs());
}

#[test]
fn a_daemon_that_cannot_listen_is_not_ready() {
    let manager = Manager::at_path();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = local(&taken).to_string();
    let start = manager.watched().args(&["--listen", &address]);
    let (status, log) = start.args(&["--admin-listen", "off"]).run_to_exit();
    assert_eq!(status.code(), Some(1), "{log}");
    assert_eq!(manager.rest(), Vec::<String>::new());
}

#[test]
fn the_status_follows_what_the_daemon_holds_but_not_every_step() {
    let manager = Manager::at_path();
    let daemon = manager.watched().start();
    manager.expect("STATUS=0 connections, 0 rooms");
    let before = Instant::now();
    let mut statuses = 0;
    let rooms = ["a", "a", "b"].map(|room| format!("/ws?room={room}"));
    let members = rooms.map(|target| Client::connect(&daemon, &target));
    for _ in 0..100 {
        assert_eq!(daemon.get("/healthz").status, 200);
    }
    loop {
        let (_, text) = manager.next();
        if text.starts_with("STATUS=") {
            statuses += 1;
        }
        if text == "STATUS=3 connections, 2 rooms" {
            break;
        }
    }
    drop(members);
    loop {
        let (_, text) = manager.next();
        if text.starts_with("STATUS=") {
            statuses += 1;
        }
        if text == "STATUS=0 connections, 0 rooms" {
            break;
        }
    }
    // Three seconds are to lie between them, and this side may be late for the first.
    let most = (before.elapsed().as_secs() + 1) / 3 + 1;
    assert!(statuses <= most, "{statuses} in {:?}", before.elapsed());
}

#[test]
fn a_status_waits_for_nothing_but_its_time() {
    // With no other reason to wake up, the loop must do so to tell what has changed.
    let manager = Manager::at_path();
    let start = manager.watched().args(&["--ping-interval", "off"]);
    let daemon = start.args(&["--workers", "0"]).start();
    manager.expect("STATUS=0 connections, 0 rooms");
    let _member = Client::connect(&daemon, "/ws?room=a");
    manager.expect("STATUS=1 connection, 1 room");
}

#[test]
fn a_loop_that_turns_answers_the_watchdog_and_one_that_is_stuck_does_not() {
    let patience = Duration::from_millis(600);
    let manager = Manager::at_path();
    let us = patience.as_micros().to_string();
    let daemon = manager.watched().env("WATCHDOG_USEC", &us).start();
    manager.expect("WATCHDOG=1");
    let start = Instant::now();
    for _ in 0..8 {
        manager.expect("WATCHDOG=1");
    }
    // Eight halves of the patience, with nothing else to wake the loop up. Twice as long is what the
    // manager would bear; half as long would be needless work.
    let taken = start.elapsed();
    assert!(taken > patience * 2 && taken < patience * 8, "{taken:?}");

    daemon.signal(Signal::Stop);
    wait_until("the stop of every thread", || {
        thread_states(&daemon).iter().all(|state| *state == 'T')
    });
    manager.rest();
    linger(patience * 2);
    assert_eq!(manager.rest(), Vec::<String>::new());
    daemon.signal(Signal::Continue);
    manager.expect("WATCHDOG=1");
}

#[test]
fn the_watchdog_has_no_thread_of_its_own() {
    let manager = Manager::at_path();
    let plain = Daemon::start(&["--workers", "1"]);
    let watched = manager.watched().env("WATCHDOG_USEC", "200000");
    let watched = watched.args(&["--workers", "1"]).start();
    manager.expect("WATCHDOG=1");
    // A thread gives itself its name, so for a moment it has another.
    wait_until("the same threads with a watchdog as without", || {
        thread_names(&watched) == thread_names(&plain)
    });
}

#[test]
fn the_watchdog_of_another_process_is_not_answered() {
    for (variable, value) in [("WATCHDOG_PID", "1"), ("WATCHDOG_USEC", "0")] {
        let manager = Manager::at_path();
        let watched = manager.watched().env("WATCHDOG_USEC", "20000");
        let daemon = watched.env(variable, value).start();
        manager.expect("READY=1");
        linger(Duration::from_millis(300));
        drop(daemon);
        let told = manager.rest();
        assert!(
            told.iter().all(|text| text.starts_with("STATUS=")),
            "{told:?}"
        );
    }
}

#[test]
fn without_a_manager_nothing_is_missing() {
    for name in ["/nowhere/at/all", "vsock:2:1", "@"] {
        let start = Start::default().env("NOTIFY_SOCKET", name);
        let mut daemon = start.env("WATCHDOG_USEC", "20000").start();
        Witness::new(&daemon).assert_served();
        daemon.signal(Signal::Term);
        assert!(daemon.wait_exit().success());
        let about = |line: &&String| line.contains("the service manager cannot be told");
        assert_eq!(daemon.log_lines().iter().filter(about).count(), 1, "{name}");
    }
}

// --- What is passed -------------------------------------------------------------------------------

#[test]
fn passed_sockets_take_the_place_of_the_options() {
    for names in [None, Some("public:admin"), Some("admin:public")] {
        let sockets = [listener(), listener()];
        let addresses = sockets.each_ref().map(local);
        let [first, second] = sockets;
        // Listening where the options say would fail.
        let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = local(&taken).to_string();
        let mut start = Start::default().pass(first).pass(second);
        start = start.args(&["--listen", &address]);
        if let Some(names) = names {
            start = start.env("LISTEN_FDNAMES", names);
        }
        let daemon = start.start();
        let is_reversed = names == Some("admin:public");
        let [public, admin] = if is_reversed { [1, 0] } else { [0, 1] };
        assert_eq!(daemon.addr(), addresses[public]);
        assert_eq!(daemon.admin(), addresses[admin]);
        daemon.wait_log("sockets passed by the service manager: 1 public, 1 admin");
        Witness::new(&daemon).assert_served();
        assert_eq!(daemon.admin_get("/readyz").status, 200);
        assert_eq!(daemon.get("/metrics").status, 404);
        for descriptor in [3, 4] {
            let flags = descriptor_flags(&daemon, descriptor);
            assert_eq!(flags & O_NONBLOCK, O_NONBLOCK, "{flags:o}");
            assert_eq!(flags & O_CLOEXEC, O_CLOEXEC, "{flags:o}");
        }
    }
}

#[test]
fn what_is_not_passed_is_listened_on() {
    for (name, count) in [
        ("public", "1 public, 0 admin"),
        ("admin", "0 public, 1 admin"),
    ] {
        let socket = listener();
        let address = local(&socket);
        let start = Start::default().pass(socket);
        let daemon = start.env("LISTEN_FDNAMES", name).start();
        daemon.wait_log(count);
        let (passed, other) = match name {
            "public" => (daemon.addr(), daemon.admin()),
            _ => (daemon.admin(), daemon.addr()),
        };
        assert_eq!(passed, address);
        assert_ne!(other, address);
        Witness::new(&daemon).assert_served();
    }
}

#[test]
fn a_socket_unit_that_gives_no_name_is_for_the_public() {
    let socket = listener();
    let address = local(&socket);
    let start = Start::default().pass(socket);
    let daemon = start.env("LISTEN_FDNAMES", "roomcast.socket").start();
    assert_eq!(daemon.addr(), address);
}

#[test]
fn several_public_sockets_are_served() {
    let sockets = [listener(), listener()];
    let addresses = sockets.each_ref().map(local);
    let [first, second] = sockets;
    let start = Start::default().pass(first).pass(second);
    let daemon = start.env("LISTEN_FDNAMES", "public:public").start();
    let mut members = addresses.map(|address| {
        let mut wire = Wire::connect(address);
        wire.send(upgrade_request(address, "/ws?room=a", &[]));
        Client::upgraded(wire).expect("is let in")
    });
    daemon.wait_members(2);
    members[0].send_text("hello");
    assert_eq!(members.map(|mut member| member.recv_text()), ["hello"; 2]);
}

#[test]
fn what_was_passed_to_another_process_is_left_alone() {
    // Descriptor 3 is not there, so taking it would be an error.
    for envs in [
        &[("LISTEN_PID", "1"), ("LISTEN_FDS", "1")][..],
        &[("LISTEN_FDS", "1")],
        &[("LISTEN_PID", "x"), ("LISTEN_FDS", "1")],
    ] {
        let daemon = Daemon::start_env(&[], envs);
        Witness::new(&daemon).assert_served();
    }
}

#[test]
fn what_cannot_be_served_is_refused_at_start() {
    let file = fs::File::open("Cargo.toml").expect("a file");
    let udp = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let kept = listener();
    let connected = TcpStream::connect(local(&kept)).expect("it listens");
    let path = unique("unix");
    let unix = UnixListener::bind(&path).expect("a free path");
    let passing = |name: &str| Start::default().env("LISTEN_FDNAMES", name);
    let with_fds = |count: &str| Start::default().pass(listener()).env("LISTEN_FDS", count);
    let open = TcpListener::bind("0.0.0.0:0").expect("a free port");
    for (start, expected) in [
        (
            passing("public").pass(file),
            "a listening TCP socket, but fd 3 is not",
        ),
        (
            passing("public").pass(udp),
            "a listening TCP socket, but fd 3 is not",
        ),
        (
            passing("public").pass(unix),
            "a listening TCP socket, but fd 3 is not",
        ),
        (passing("public").pass(connected), "but it does not listen"),
        (
            with_fds("3"),
            "LISTEN_FDNAMES is \"\": must name each of 3 sockets",
        ),
        (with_fds("2"), "number 2: must be a listening TCP socket"),
        (
            with_fds("18"),
            "LISTEN_FDS is \"18\": must be a number of sockets up to 17",
        ),
        (
            with_fds("x"),
            "LISTEN_FDS is \"x\": must be a number of sockets up to 17",
        ),
        (
            passing("public:http").pass(listener()).pass(listener()),
            "LISTEN_FDNAMES is \"public:http\": must name each socket public or admin",
        ),
        (
            passing("admin")
                .pass(listener())
                .args(&["--admin-listen", "off"]),
            "--admin-listen is off: must not be off where a socket is passed",
        ),
        (
            passing("admin").pass(open),
            "must have a loopback address unless --api-key-file is set",
        ),
    ] {
        // Should it start after all, then on a port that is free.
        let start = start.args(&["--listen", "127.0.0.1:0"]);
        let what = format!("{start:?}");
        let (status, log) = start.run_to_exit();
        assert_eq!(status.code(), Some(2), "{what}: {log}");
        assert!(log.contains(expected), "{expected:?} is not in {log:?}");
        assert!(!log.contains("panicked"), "{log}");
    }
    fs::remove_file(path).expect("our own file");
}

// --- Restarts behind a held socket ----------------------------------------------------------------

#[test]
fn a_restart_refuses_nobody() {
    let held = [listener(), listener()];
    let addresses = held.each_ref().map(local);
    let start = || {
        let [public, admin] = held
            .each_ref()
            .map(|socket| socket.try_clone().expect("a copy"));
        Start::default().pass(public).pass(admin).start()
    };
    let mut position = None;
    for _ in 0..3 {
        // Nobody serves, and yet somebody can come and ask.
        let mut early = Wire::connect(addresses[0]);
        let since = position.map_or_else(String::new, |position| format!("&since={position}"));
        let target = format!("/ws?room=a&format=json{since}");
        early.send(upgrade_request(addresses[0], &target, &[]));
        let mut back_end = Wire::connect(addresses[1]);
        back_end.send("GET /readyz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");

        let mut daemon = start();
        let mut early = Client::upgraded(early).expect("is let in");
        let joined = early.recv_json()["joined"].take();
        // History has gone with the daemon before, and that is said.
        let is_first = since.is_empty();
        assert_eq!(joined["recovered"], is_first, "{joined}");
        assert_eq!(joined["lost"], if is_first { 0 } else { -1 }, "{joined}");
        assert_eq!(back_end.response().status, 200);

        early.send_text("hello");
        assert_eq!(publication(&mut early)["offset"], 1);
        let epoch = joined["epoch"].as_str().expect("an epoch");
        position = Some(format!("{epoch}.1"));
        daemon.signal(Signal::Term);
        drop(early);
        assert!(daemon.wait_exit().success());
    }
}

#[test]
fn restarts_under_load_lose_nothing_silently() {
    let held = listener();
    let address = local(&held);
    let start = || {
        let socket = held.try_clone().expect("a copy");
        Start::default().pass(socket).start()
    };
    let mut daemon = start();
    let mut verify = Command::new(env!("CARGO_BIN_EXE_roomcast"));
    let url = format!("ws://{address}/ws");
    verify.args([
        "verify",
        "--members=40",
        "--publishers=4",
        "--rooms=2",
        "--secs=6",
    ]);
    let child = verify.args(["--rate=50", "--cuts=10", "--url", &url]);
    let child = child.stdout(Stdio::piped()).spawn().expect("our binary");
    for _ in 0..2 {
        daemon.wait_metric("roomcast_deliveries_total", |now| now > 2000.0);
        daemon.signal(Signal::Term);
        assert!(daemon.wait_exit().success());
        daemon = start();
    }
    let output = child.wait_with_output().expect("a child of ours");
    let account = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{account}");
    // Both restarts were noticed, and nobody was ever refused.
    for (part, is_told) in [
        ("lost silently     0\n", true),
        ("members away      0\n", true),
        ("closed by server: 3001 shutdown (", true),
        ("last refusal", false),
    ] {
        assert_eq!(account.contains(part), is_told, "{part}: {account}");
    }
}

// --- Helpers --------------------------------------------------------------------------------------

const O_NONBLOCK: u32 = 0o4000;
const O_CLOEXEC: u32 = 0o2_000_000;

/// The end of `NOTIFY_SOCKET` that listens.
struct Manager {
    name: String,
    path: Option<PathBuf>,
    told: Receiver<(Instant, String)>,
}

impl Manager {
    fn at_path() -> Self {
        let path = unique("notify");
        let socket = UnixDatagram::bind(&path).expect("a free path");
        let name = path.to_str().expect("UTF-8").to_owned();
        Self::new(socket, name, Some(path))
    }

    fn abstract_name() -> Self {
        let name = format!("{}/notify", unique("abstract").display());
        let address = UnixAddress::from_abstract_name(&name).expect("a name that fits");
        let socket = UnixDatagram::bind_addr(&address).expect("a free name");
        Self::new(socket, format!("@{name}"), None)
    }

    /// A thread takes what comes, as a manager does.
    fn new(socket: UnixDatagram, name: String, path: Option<PathBuf>) -> Self {
        let (sender, told) = channel();
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(len) = socket.recv(&mut bytes) {
                let text = String::from_utf8_lossy(&bytes[..len]).into_owned();
                if sender.send((Instant::now(), text)).is_err() {
                    break;
                }
            }
        });
        Self { name, path, told }
    }

    /// A daemon that this one watches.
    fn watched(&self) -> Start {
        Start::default().env("NOTIFY_SOCKET", &self.name)
    }

    /// What is told next, and when that was.
    fn next(&self) -> (Instant, String) {
        match self.told.recv_timeout(DEADLINE) {
            Ok(told) => told,
            Err(error) => panic!("nothing was told: {error}"),
        }
    }

    /// Waits until this is told; passes over other texts.
    fn expect(&self, text: &str) {
        let deadline = Instant::now() + DEADLINE;
        while self.next().1 != text {
            assert!(Instant::now() < deadline, "{text} was not told");
        }
    }

    /// Everything that was told and not looked at.
    fn rest(&self) -> Vec<String> {
        let mut rest = Vec::new();
        // What was sent before is with the thread at once.
        loop {
            match self.told.recv_timeout(Duration::from_millis(100)) {
                Ok((_, text)) => rest.push(text),
                Err(RecvTimeoutError::Timeout) => return rest,
                Err(error) => panic!("the socket is gone: {error}"),
            }
        }
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let _ = fs::remove_file(path);
        }
    }
}

fn unique(name: &str) -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("roomcast-{name}-{}-{count}", id()))
}

fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").expect("a free port")
}

fn local(listener: &TcpListener) -> SocketAddr {
    listener.local_addr().expect("it is bound")
}

/// The states of all threads, as letters.
fn thread_states(daemon: &Daemon) -> Vec<char> {
    let state = |stat: String| {
        stat.rsplit_once(") ")
            .and_then(|(_, rest)| rest.chars().next())
    };
    let states = threads(daemon, "stat").into_iter().map(state);
    states.map(|state| state.expect("a state")).collect()
}

fn thread_names(daemon: &Daemon) -> Vec<String> {
    let mut names = threads(daemon, "comm");
    names.sort();
    names
}

fn threads(daemon: &Daemon, file: &str) -> Vec<String> {
    let folder = fs::read_dir(format!("/proc/{}/task", daemon.pid())).expect("it runs");
    let paths = folder.map(|entry| entry.expect("a readable entry").path().join(file));
    paths
        .map(|path| fs::read_to_string(path).expect("it runs"))
        .collect()
}

/// The flags that a descriptor was opened with, and whether it is closed on exec.
fn descriptor_flags(daemon: &Daemon, descriptor: u32) -> u32 {
    let path = format!("/proc/{}/fdinfo/{descriptor}", daemon.pid());
    let text = fs::read_to_string(path).expect("an open descriptor");
    let flags = text.lines().find_map(|line| line.strip_prefix("flags:"));
    u32::from_str_radix(flags.expect("flags").trim(), 8).expect("octal")
}
