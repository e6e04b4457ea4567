//! Several nodes on one Redis, a load that keeps its books, and a clock for faults.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use roomcast::verify::{self, Options, Verdict};
use tungstenite::protocol::WebSocket;
use tungstenite::{Error as WsError, Message};

use super::{Daemon, breathe, pace, wait_for, wait_until};

/// A node of the cluster at this URL.
pub(crate) fn node(url: &str, name: &str, args: &[&str]) -> Daemon {
    let mut all = vec!["--redis", url, "--node-name", name];
    all.extend_from_slice(args);
    Daemon::start(&all)
}

/// Two of them.
pub(crate) fn two_nodes(url: &str, args: &[&str]) -> [Daemon; 2] {
    ["n1", "n2"].map(|name| node(url, name, args))
}

/// Waits until each node knows of all, as calls need it that ask all of them.
pub(crate) fn wait_for_each_other(nodes: &[Daemon]) {
    for daemon in nodes {
        wait_until("nodes that know each other", || {
            node_count(daemon) == nodes.len()
        });
    }
}

fn node_count(daemon: &Daemon) -> usize {
    let info = super::Api::connect(daemon).result("info", &serde_json::json!({}));
    info["nodes"].as_array().map_or(0, Vec::len)
}

/// `roomcast verify` in a thread, spread over nodes.
pub(crate) struct Load {
    thread: JoinHandle<Result<Verdict, verify::Error>>,
    text: Text,
}

/// What the run has written.
#[derive(Clone, Default)]
struct Text(Arc<Mutex<Vec<u8>>>);

impl Text {
    fn read(&self) -> String {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Write for Text {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut text = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Load {
    /// Begins, and waits until all have joined and something was published.
    pub(crate) fn start(nodes: &[&Daemon], args: &str) -> Self {
        let mut words = vec!["verify".to_owned()];
        for node in nodes {
            words.extend(["--url".to_owned(), format!("ws://{}/ws", node.addr())]);
        }
        words.extend(args.split_whitespace().map(str::to_owned));
        let options = <Options as clap::Parser>::try_parse_from(words).expect("good options");
        let text = Text::default();
        let mut out = text.clone();
        let thread = std::thread::spawn(move || verify::run_to(&options, &mut out));
        wait_for("a load that runs", || {
            assert!(!thread.is_finished(), "{}", text.read());
            let text = text.read();
            let mut lines = text.lines().filter(|line| !line.ends_with("(joining)"));
            let is_busy = |line: &str| {
                line.split_once("  delivered ")
                    .is_some_and(|(_, rest)| !rest.starts_with("0 "))
            };
            lines.any(is_busy).then_some(())
        });
        Self { thread, text }
    }

    /// Waits for the end; asserts that the contract was kept and that members had something to do.
    pub(crate) fn finish(self) -> Account {
        let outcome = self.thread.join().expect("no panic in verify");
        let account = Account(self.text.read());
        match outcome {
            Ok(Verdict::Kept) => {}
            other => panic!("{other:?}\n{}", account.0),
        }
        for row in ["repeated", "reordered", "contradicted", "lost silently"] {
            assert_eq!(account.count(row), 0, "{row}\n{}", account.0);
        }
        assert!(account.count("resumes") > 0, "{}", account.0);
        account
    }
}

/// The account of a load.
pub(crate) struct Account(pub(crate) String);

impl Account {
    /// A row of it.
    pub(crate) fn count(&self, name: &str) -> u64 {
        let row = self.0.lines().find(|line| line.starts_with(name));
        let row = row.unwrap_or_else(|| panic!("no row {name}\n{}", self.0));
        let count = row[name.len()..].trim().parse();
        count.unwrap_or_else(|_| panic!("{row}\n{}", self.0))
    }
}

/// A member and a publisher at each node, that come back whenever they are sent away: for the time
/// from a fault until a publication of each node reaches a member of each.
pub(crate) struct Probe {
    shared: Arc<ProbeShared>,
    threads: Vec<JoinHandle<()>>,
}

struct ProbeShared {
    nodes: Vec<SocketAddr>,
    started: Instant,
    is_over: AtomicBool,
    /// When the fault was, in nanoseconds since the start; 0 before.
    fault_ns: AtomicU64,
    /// By member and publisher: when the first publication of after the fault came; 0 before.
    reached_ns: Vec<AtomicU64>,
    /// Publications that came, by member and publisher.
    counts: Vec<AtomicU64>,
}

/// Longest time from a fault to full service.
const SERVICE_MAX: Duration = Duration::from_secs(15);

const PROBE_INTERVAL: Duration = Duration::from_millis(20);

impl Probe {
    /// Begins, and waits until everybody reaches everybody.
    pub(crate) fn start(nodes: &[&Daemon]) -> Self {
        let pairs = nodes.len() * nodes.len();
        let shared = Arc::new(ProbeShared {
            nodes: nodes.iter().map(|node| node.addr()).collect(),
            started: Instant::now(),
            is_over: AtomicBool::new(false),
            fault_ns: AtomicU64::new(0),
            reached_ns: (0..pairs).map(|_| AtomicU64::new(0)).collect(),
            counts: (0..pairs).map(|_| AtomicU64::new(0)).collect(),
        });
        let mut threads = Vec::new();
        for node in 0..nodes.len() {
            for serve in [ProbeShared::receive, ProbeShared::publish] {
                let shared = Arc::clone(&shared);
                threads.push(std::thread::spawn(move || {
                    while !shared.is_over.load(Ordering::Relaxed) {
                        if serve(&shared, node).is_err() {
                            pace(PROBE_INTERVAL);
                        }
                    }
                }));
            }
        }
        wait_until("a probe that reaches all", || {
            let counts = &shared.counts;
            counts.iter().all(|count| count.load(Ordering::Relaxed) > 0)
        });
        Self { shared, threads }
    }

    /// Now something fails.
    pub(crate) fn note_fault(&self) {
        for reached in &self.shared.reached_ns {
            reached.store(0, Ordering::Relaxed);
        }
        let now_ns = self.shared.now_ns();
        self.shared.fault_ns.store(now_ns, Ordering::Release);
    }

    /// Waits until publications of after the fault from each node have reached each, but those that
    /// are `gone`, says and returns how long that took.
    pub(crate) fn wait_full_service(&self, fault: &str, gone: &[usize]) -> Duration {
        let nodes = self.shared.nodes.len();
        let pairs = (0..nodes * nodes)
            .filter(|pair| !gone.contains(&(pair / nodes)) && !gone.contains(&(pair % nodes)));
        let pairs: Vec<usize> = pairs.collect();
        let fault_ns = self.shared.fault_ns.load(Ordering::Acquire);
        let deadline = Instant::now() + SERVICE_MAX;
        loop {
            let times = pairs
                .iter()
                .map(|pair| self.shared.reached_ns[*pair].load(Ordering::Relaxed));
            let times: Vec<u64> = times.collect();
            if times.iter().all(|time| *time > 0) {
                let last = times.into_iter().max().unwrap_or(fault_ns);
                let took = Duration::from_nanos(last.saturating_sub(fault_ns));
                eprintln!("{fault}: full service after {} ms", took.as_millis());
                return took;
            }
            assert!(Instant::now() < deadline, "{fault}: {times:?}");
            breathe();
        }
    }
}

impl ProbeShared {
    fn now_ns(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn connect(&self, node: usize, query: &str) -> Result<WebSocket<TcpStream>, ()> {
        let addr = self.nodes[node];
        let stream = TcpStream::connect_timeout(&addr, Duration::from_secs(1)).map_err(drop)?;
        let patience = Some(Duration::from_secs(3));
        stream.set_read_timeout(patience).map_err(drop)?;
        stream.set_nodelay(true).map_err(drop)?;
        let url = format!("ws://{addr}/ws?{query}");
        let (socket, _) = tungstenite::client(url, stream).map_err(drop)?;
        let patience = Some(Duration::from_millis(10));
        socket.get_ref().set_read_timeout(patience).map_err(drop)?;
        Ok(socket)
    }

    /// A member, until it is sent away.
    fn receive(&self, node: usize) -> Result<(), ()> {
        let mut socket = self.connect(node, "room=probe")?;
        while !self.is_over.load(Ordering::Relaxed) {
            let Some(message) = read(&mut socket)? else {
                continue;
            };
            let text = message.into_text().map_err(drop)?;
            let (from, sent_ns) = text.split_once(' ').ok_or(())?;
            let from: usize = from.parse().map_err(drop)?;
            let sent_ns: u64 = sent_ns.parse().map_err(drop)?;
            let pair = node * self.nodes.len() + from;
            self.counts[pair].fetch_add(1, Ordering::Relaxed);
            let fault_ns = self.fault_ns.load(Ordering::Acquire);
            if fault_ns > 0 && sent_ns > fault_ns {
                let now_ns = self.now_ns();
                let reached = &self.reached_ns[pair];
                let _ = reached.compare_exchange(0, now_ns, Ordering::Relaxed, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// A publisher, until it is sent away.
    fn publish(&self, node: usize) -> Result<(), ()> {
        let mut socket = self.connect(node, "room=probe&echo=0")?;
        let mut due = Instant::now();
        while !self.is_over.load(Ordering::Relaxed) {
            if due <= Instant::now() {
                due = Instant::now() + PROBE_INTERVAL;
                let text = format!("{node} {}", self.now_ns());
                socket.send(Message::text(text)).map_err(drop)?;
            }
            read(&mut socket)?;
        }
        Ok(())
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// A message; none if there is none now.
fn read(socket: &mut WebSocket<TcpStream>) -> Result<Option<Message>, ()> {
    match socket.read() {
        Ok(message @ Message::Text(_)) => Ok(Some(message)),
        Ok(Message::Close(_)) => Err(()),
        Ok(_) => Ok(None),
        Err(WsError::Io(error))
            if matches!(
                error.kind(),
                std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
            ) =>
        {
            Ok(None)
        }
        Err(_) => Err(()),
    }
}
