//! A real Redis as a child process, and a network to it that can fail.
//!
//! Owns: one `redis-server` and one folder per [`Redis`], both gone on drop; a listener per
//! [`RedisRelay`], whose threads end with their connections.
//! Never: uses a fixed port, or waits without a deadline.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::{DEADLINE, breathe};

/// A `redis-server` on a port of its own.
pub(crate) struct Redis {
    child: Child,
    port: u16,
    second_port: u16,
    folder: PathBuf,
    args: Vec<String>,
}

impl Redis {
    /// One that keeps nothing over a restart.
    pub(crate) fn start() -> Self {
        Self::with(&[])
    }

    /// One that has everything on disk before it answers.
    pub(crate) fn with_aof() -> Self {
        Self::with(&["--appendonly", "yes", "--appendfsync", "always"])
    }

    /// With TLS as well, at [`Redis::second_port`], and a certificate in its folder that is signed with
    /// its own key.
    pub(crate) fn with_tls() -> Self {
        let args = "--tls-port {port} --tls-cert-file cert.pem --tls-key-file key.pem \
                    --tls-ca-cert-file cert.pem --tls-auth-clients no";
        Self::prepared(
            &args.split_whitespace().collect::<Vec<_>>(),
            make_certificate,
        )
    }

    /// With more arguments.
    pub(crate) fn with(args: &[&str]) -> Self {
        Self::prepared(args, |_| {})
    }

    /// With more arguments, in a folder that is prepared. [`SECOND_PORT`] stands for another free port.
    fn prepared(args: &[&str], prepare: impl Fn(&Path)) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("roomcast-redis-{}-{count}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir(&folder).expect("a folder can be made");
        prepare(&folder);
        let deadline = Instant::now() + DEADLINE;
        loop {
            let probes = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
            let [port, second_port] = probes.map(|probe| {
                let addr = probe.local_addr();
                addr.expect("a bound socket has one").port()
            });
            let second = second_port.to_string();
            let args = args.iter().map(|arg| arg.replace(SECOND_PORT, &second));
            let args: Vec<String> = args.collect();
            let mut redis = Self {
                child: spawn(port, &folder, &args),
                port,
                second_port,
                folder: folder.clone(),
                args,
            };
            if redis.comes_up() {
                return redis;
            }
            // Somebody else was quicker to take the port.
            assert!(Instant::now() < deadline, "redis-server: run tests/run");
            std::mem::take(&mut redis.folder);
        }
    }

    /// A sentinel with this file, which it writes to.
    pub(crate) fn sentinel(file: &Path) -> Self {
        let file = file.to_str().expect("UTF-8");
        Self::with(&[SENTINEL, file])
    }

    /// For the next start.
    pub(crate) fn set_args(&mut self, args: &[&str]) {
        self.args = args.iter().map(|arg| (*arg).to_owned()).collect();
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// What [`SECOND_PORT`] stands for.
    pub(crate) fn second_port(&self) -> u16 {
        self.second_port
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}/", self.addr())
    }

    /// A file in its folder.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Asks it something as an operator would: words of a command.
    pub(crate) fn ask<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let answer = self.try_ask(words);
        answer.unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    /// The same, where an error is an answer.
    pub(crate) fn try_ask<T: redis::FromRedisValue>(
        &self,
        words: &[&str],
    ) -> redis::RedisResult<T> {
        let client = redis::Client::open(self.url())?;
        let mut connection = client.get_connection_with_timeout(DEADLINE)?;
        connection.set_read_timeout(Some(DEADLINE))?;
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command.query(&mut connection)
    }

    /// Lets it do nothing, its sockets open.
    pub(crate) fn pause(&self) {
        self.signal("-STOP");
    }

    /// Ends the pause.
    pub(crate) fn resume(&self) {
        self.signal("-CONT");
    }

    /// Ends it at once, as a power cut would.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again on its port, with what it has on disk.
    pub(crate) fn restart(&mut self) {
        self.restart_unready();
        assert!(self.comes_up(), "redis-server does not come up again");
    }

    /// The same, without waiting until it answers.
    pub(crate) fn restart_unready(&mut self) {
        self.kill();
        self.child = spawn(self.port, &self.folder, &self.args);
    }

    /// Starts it again on its port, with nothing.
    pub(crate) fn restart_empty(&mut self) {
        self.kill();
        for entry in fs::read_dir(&self.folder).expect("its folder").flatten() {
            let path = entry.path();
            let is_data = ["appendonlydir", "dump.rdb"]
                .iter()
                .any(|name| path.ends_with(name));
            if is_data && path.is_dir() {
                fs::remove_dir_all(&path).expect("its own folder");
            } else if is_data {
                fs::remove_file(&path).expect("its own file");
            }
        }
        self.restart();
    }

    /// Makes it a replica, and waits until it has everything.
    pub(crate) fn follow(&self, master: &Self) {
        let port = master.port.to_string();
        self.ask::<()>(&["REPLICAOF", "127.0.0.1", &port]);
        super::wait_until("a replica that is up to date", || {
            let info: String = self.ask(&["INFO", "replication"]);
            info.contains("master_link_status:up")
        });
    }

    /// Makes a replica a master with what it has.
    pub(crate) fn promote(&self) {
        self.ask::<()>(&["REPLICAOF", "NO", "ONE"]);
    }

    /// CPU time used so far, in steps of the kernel's clock tick of 10 ms.
    pub(crate) fn cpu_time(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()));
        let stat = stat.expect("a running process");
        let (_, fields) = stat.rsplit_once(')').expect("a command in brackets");
        // Counted after the command: state is field 0, utime 11, stime 12.
        let fields = fields.split_whitespace().skip(11).take(2);
        let ticks: u64 = fields
            .map(|field| field.parse::<u64>().expect("ticks"))
            .sum();
        Duration::from_millis(ticks * 10)
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill").args([name, &pid]).status();
        assert!(status.is_ok_and(|status| status.success()), "kill {name}");
    }

    /// Waits until it answers; returns whether it does.
    fn comes_up(&mut self) -> bool {
        let deadline = Instant::now() + DEADLINE;
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return false;
            }
            if is_answering(self.addr()) {
                // It might be another's that has taken the port, while this one is about to end.
                return matches!(self.child.try_wait(), Ok(None)) && self.is_itself();
            }
            breathe();
        }
        false
    }

    fn is_itself(&self) -> bool {
        let info = raw_answer(self.addr(), b"INFO server\r\n", b"process_id:");
        match info {
            Some(info) => info.contains(&format!("process_id:{}\r\n", self.child.id())),
            // It wants a password first.
            None => true,
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
        if !self.folder.as_os_str().is_empty() {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

/// Stands in arguments for a free port.
const SECOND_PORT: &str = "{port}";

const SENTINEL: &str = "--sentinel";

fn spawn(port: u16, folder: &Path, args: &[String]) -> Child {
    let mut command = Command::new("redis-server");
    let args = match args {
        [first, file] if first == SENTINEL => {
            command.args([file, SENTINEL]);
            &[]
        }
        _ => args,
    };
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--dir"]);
    command
        .arg(folder)
        .args(["--save", "", "--repl-diskless-sync-delay", "0"]);
    command.args(args);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.spawn().expect("redis-server: run tests/run")
}

/// Puts a certificate for 127.0.0.1 into `folder`. Unlike one for a web server's tests it must not be
/// that of an authority, as who trusts it takes it for the server's own.
fn make_certificate(folder: &Path) {
    let words = "req -x509 -nodes -days 2 -newkey rsa:2048 -subj /CN=localhost \
                 -addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE \
                 -keyout key.pem -out cert.pem";
    let done = Command::new("openssl")
        .args(words.split_whitespace())
        .current_dir(folder)
        .output();
    let done = done.expect("openssl: run tests/run");
    let complaint = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "openssl: {complaint}");
}

fn is_answering(addr: SocketAddr) -> bool {
    let answer = raw_answer(addr, b"PING\r\n", b"\r\n");
    answer.is_some_and(|answer| answer.starts_with("+PONG") || answer.starts_with("-NOAUTH"))
}

/// What is answered to `question`, up to the line that holds `end`.
fn raw_answer(addr: SocketAddr, question: &[u8], end: &[u8]) -> Option<String> {
    let mut stream = TcpStream::connect(addr).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
    stream.write_all(question).ok()?;
    let mut answer = Vec::new();
    let mut bytes = [0; 4096];
    loop {
        let count = stream.read(&mut bytes).ok()?;
        answer.extend_from_slice(&bytes[..count]);
        let found = answer.windows(end.len()).position(|window| window == end);
        let is_whole = found.is_some_and(|at| answer[at..].contains(&b'\n'));
        if is_whole || count == 0 {
            return is_whole.then(|| String::from_utf8_lossy(&answer).into_owned());
        }
    }
}

/// What a relay does with what it is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Passing {
    /// Passes it on.
    All,
    /// Swallows what comes from Redis.
    Questions,
    /// Swallows everything.
    Nothing,
    /// Keeps everything until it passes something on again.
    Later,
    /// Swallows what goes to Redis.
    Answers,
}

impl Passing {
    fn of(number: u8) -> Self {
        let all = [
            Self::All,
            Self::Questions,
            Self::Nothing,
            Self::Later,
            Self::Answers,
        ];
        all[usize::from(number)]
    }
}

/// A TCP relay whose far end can be changed, and that can fail.
pub(crate) struct RedisRelay {
    addr: SocketAddr,
    state: Arc<RelayState>,
}

struct RelayState {
    target: Mutex<SocketAddr>,
    passing: AtomicU8,
    /// What is to come first from the near end, and what is done from then on.
    awaited: Mutex<Option<(Vec<u8>, Passing)>>,
    ends: Mutex<Vec<TcpStream>>,
}

impl RedisRelay {
    pub(crate) fn to(redis: &Redis) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let addr = listener.local_addr().expect("a bound socket has one");
        let state = Arc::new(RelayState {
            target: Mutex::new(redis.addr()),
            passing: AtomicU8::new(Passing::All as u8),
            awaited: Mutex::new(None),
            ends: Mutex::new(Vec::new()),
        });
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let target = *shared.target.lock().unwrap_or_else(PoisonError::into_inner);
                let Ok(far) = TcpStream::connect(target) else {
                    continue;
                };
                pass(&near, &far, &shared, true);
                pass(&far, &near, &shared, false);
                let mut ends = shared.ends.lock().unwrap_or_else(PoisonError::into_inner);
                ends.extend([near, far]);
            }
        });
        Self { addr, state }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}/", self.addr)
    }

    pub(crate) fn set(&self, passing: Passing) {
        self.state.passing.store(passing as u8, Ordering::Release);
    }

    /// The same, but only when `marker` comes from the near end, and before it is passed on.
    pub(crate) fn set_at(&self, marker: &str, passing: Passing) {
        let mut awaited = self
            .state
            .awaited
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *awaited = Some((marker.into(), passing));
    }

    /// Whether what was awaited has come.
    pub(crate) fn has_come(&self) -> bool {
        let awaited = self
            .state
            .awaited
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        awaited.is_none()
    }

    /// Ends all connections.
    pub(crate) fn cut(&self) {
        let mut ends = self
            .state
            .ends
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for end in ends.drain(..) {
            let _ = end.shutdown(Shutdown::Both);
        }
    }

    /// Ends all connections; those that come go elsewhere.
    pub(crate) fn turn_to(&self, redis: &Redis) {
        *self
            .state
            .target
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = redis.addr();
        self.cut();
    }
}

impl RelayState {
    fn look_for_marker(&self, bytes: &[u8]) {
        let mut awaited = self.awaited.lock().unwrap_or_else(PoisonError::into_inner);
        let found = awaited.take_if(|(marker, _)| {
            let mut windows = bytes.windows(marker.len());
            windows.any(|window| window == marker.as_slice())
        });
        if let Some((_, passing)) = found {
            self.passing.store(passing as u8, Ordering::Release);
        }
    }
}

fn pass(from: &TcpStream, to: &TcpStream, state: &Arc<RelayState>, is_question: bool) {
    let mut from = from.try_clone().expect("a descriptor");
    let mut to = to.try_clone().expect("a descriptor");
    let state = Arc::clone(state);
    std::thread::spawn(move || {
        let mut bytes = vec![0; 1 << 16];
        while let Ok(count @ 1..) = from.read(&mut bytes) {
            if is_question {
                state.look_for_marker(&bytes[..count]);
            }
            let mut passing = Passing::of(state.passing.load(Ordering::Acquire));
            while passing == Passing::Later {
                breathe();
                passing = Passing::of(state.passing.load(Ordering::Acquire));
            }
            let passes = match passing {
                Passing::Nothing => false,
                Passing::Questions => is_question,
                Passing::Answers => !is_question,
                Passing::All | Passing::Later => true,
            };
            if passes && to.write_all(&bytes[..count]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
        let _ = from.shutdown(Shutdown::Both);
    });
}
