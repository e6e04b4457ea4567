//! Puts the parts together: builds them in order, runs the loop, stops in reverse order.
//!
//! Floor 4. Wires and does not choose: what a part does is decided in the part. [`Server`] is the
//! daemon inside a program, [`run`] the program that is nothing else.

mod chores;
mod crews;
mod debug;
mod handle;
mod membership;
mod metrics;

use std::collections::hash_map::RandomState;
use std::error::Error;
use std::fmt;
use std::hash::{BuildHasher, Hasher};
use std::hint::black_box;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::bounded;

use self::chores::{Alarm, Chore, Chores};
use self::crews::{Inline, Threads};
pub use self::handle::{CallError, Counters, Events, Handle, Receipt};
use self::membership::Membership;
use crate::base::{NodeId, RoomBudget, ShardTotals};
use crate::clock;
use crate::hub::{Gate, Hub, NodeFigures};
use crate::net::{
    Crew, EventLoop, EventSender, Listener, LoopError, MemoryWatch, Reports, Supervision, control,
};
use crate::ops::config::Config;
use crate::ops::process::{CpuMeter, OpenFiles, ProcessFigures, ResidentMemory, host_name};
use crate::ops::signal::{CaughtSignals, Request};
use crate::ops::systemd::{Notifier, PassedSockets, watchdog_interval};
use crate::ops::{file_limit, heap, log::LogSwitch};
use crate::shard::RoomShard;
use crate::worker::{Bell, Pool, mailbox};

/// A daemon that runs in threads of this program.
///
/// ```
/// use roomcast::{Config, Server};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// let config = Config::from_args(["--listen=127.0.0.1:0", "--admin-listen=off"])?;
/// let server = Server::start(config)?;
/// println!("ws://{}/ws?room=news", server.addresses()[0]);
///
/// let handle = server.handle();
/// let publisher = std::thread::spawn(move || handle.publish("news", "hello")?.wait());
/// let position = publisher.join().expect("the publisher does not panic")?;
/// assert_eq!(position.offset.0, 1);
///
/// server.handle().shutdown();
/// server.wait()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Server {
    handle: Handle,
    addresses: Vec<SocketAddr>,
    admin_address: Option<SocketAddr>,
    /// When the certificate expires, in seconds since 1970; whoever changes it stores it here.
    certificate_expiry: Arc<AtomicU64>,
    thread: JoinHandle<Result<(), LoopError>>,
}

/// Why a server has ended that nobody told to.
#[derive(Debug)]
pub struct ServerError(Failure);

#[derive(Debug)]
enum Failure {
    Loop(LoopError),
    Panicked,
}

impl Server {
    /// Starts a server. When this returns it listens.
    ///
    /// Raises the process's limit of open files to its hard maximum. What it has to say goes to the
    /// `log` crate; it installs no logger and no signal handler.
    ///
    /// # Errors
    /// When a limit contradicts another, an address cannot be listened on or a thread not be made.
    pub fn start(config: Config) -> Result<Self, Box<dyn Error + Send + Sync>> {
        Self::build(config, PassedSockets::default(), None, None)
    }

    /// Starts a server that tells what happens, through a queue of `capacity` events. It waits for
    /// nobody: what finds the queue full is counted, and the count is told in its place.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn start_with_events(
        config: Config,
        capacity: NonZeroUsize,
    ) -> Result<(Self, Events), Box<dyn Error + Send + Sync>> {
        let (queue, receiver) = bounded(capacity.get());
        let missed_last = Arc::new(AtomicU64::new(0));
        let events = Events::new(receiver, Arc::clone(&missed_last));
        let events_end = EventSender { queue, missed_last };
        let server = Self::build(config, PassedSockets::default(), None, Some(events_end))?;
        Ok((server, events))
    }

    /// A handle, for any thread.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Where the public listeners are, in the order of the configuration.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Where the admin listener is, if there is one.
    #[must_use]
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin_address
    }

    /// Waits until the server has ended. Dropping a server does not end it;
    /// [`Handle::shutdown`] does.
    ///
    /// # Errors
    /// When it has ended because it could not go on.
    pub fn wait(self) -> Result<(), ServerError> {
        match self.thread.join() {
            Ok(ended) => ended.map_err(|error| ServerError(Failure::Loop(error))),
            Err(_) => Err(ServerError(Failure::Panicked)),
        }
    }

    fn build(
        config: Config,
        passed: PassedSockets,
        supervision: Option<Supervision>,
        events: Option<EventSender>,
    ) -> Result<Self, Box<dyn Error + Send + Sync>> {
        let Config {
            listen,
            admin_listen,
            allowed_origins,
            workers,
            token_secret,
            api_key,
            tls,
            trusted_proxies,
            node_name,
            cluster,
            mut limits,
            ..
        } = config;
        limits.check()?;
        if let Some(warning) = file_limit::raise_and_fit(&mut limits) {
            log::warn!("{warning}");
        }
        let poll = mio::Poll::new()?;
        let waker = mio::Waker::new(poll.registry(), EventLoop::<Inline>::WAKER)?;
        let waker = Arc::new(waker);
        let wants_events = events.is_some();
        let (control, orders) = control(Arc::clone(&waker), events);
        let mut listeners = Vec::new();
        if passed.public.is_empty() {
            for address in listen {
                listeners.push(Listener::bind(address, false)?);
            }
        } else {
            for socket in passed.public {
                listeners.push(Listener::adopt(socket, false)?);
            }
        }
        let addresses = listeners.iter().map(Listener::address);
        let addresses = addresses.collect::<io::Result<Vec<_>>>()?;
        let admin = match (passed.admin, admin_listen) {
            (Some(socket), _) => Some(Listener::adopt(socket, true)?),
            (None, Some(address)) => Some(Listener::bind(address, true)?),
            (None, None) => None,
        };
        let admin_address = admin.as_ref().map(Listener::address).transpose()?;
        listeners.extend(admin);
        keep_freed_memory();
        let start = clock::read();
        let budget = RoomBudget::new(limits.rooms_max);
        let totals = ShardTotals::default();
        let gate = Gate {
            origins: allowed_origins,
            token_secret,
            api_key,
            trusted_proxies,
        };
        let seed = random();
        let mut hub = Hub::new(limits.clone(), gate, workers.max(1), start.instant, seed);
        if wants_events {
            hub.want_events();
        }
        let node_id = NodeId(random());
        let certificate_expiry = tls.as_ref().map_or(0, |tls| tls.expires_unix_s);
        let certificate_expiry = Arc::new(AtomicU64::new(certificate_expiry));
        let bell = Bell::new(waker);
        let shards_len = workers.max(1);
        let mut membership = Membership::join(&cluster, node_id, &limits, shards_len, &bell)?;
        let broker_source = membership.as_ref().map(Membership::source);
        let reports = Reports {
            metrics: {
                let sources = metrics::Sources {
                    rooms: budget.clone(),
                    shards: totals.clone(),
                    files: OpenFiles::new(),
                    certificate_expiry: tls.is_some().then(|| Arc::clone(&certificate_expiry)),
                    broker: broker_source,
                    start_unix_ms: start.unix_ms,
                };
                Box::new(move |hub, turning| metrics::render(&sources, hub, turning))
            },
            debug: Box::new(move |view| debug::render(view, start.instant)),
            node: node(node_id, node_name),
            memory: match limits.memory_bytes_max {
                Some(_) => {
                    let mut resident = ResidentMemory::open()?;
                    let give_back = || {
                        let begun = clock::read_instant();
                        heap::give_back();
                        clock::read_instant().saturating_duration_since(begun)
                    };
                    Some(MemoryWatch::new(move || resident.read(), give_back))
                }
                None => None,
            },
            supervision,
        };
        if let Some(membership) = &membership {
            hub.join_cluster(membership.node, cluster.wait);
        }
        let mut new_shard = |index: usize| {
            let shard = RoomShard::new(&limits, shards_len, budget.clone(), start, random());
            let shard = shard.count_into(totals.clone());
            let Some(membership) = &mut membership else {
                return (shard, None);
            };
            let place = (index, shards_len);
            let shard = shard.join_cluster(start, membership.node, place, cluster.wait);
            (shard, membership.seat(index))
        };
        let tls = tls.map(|certificate| certificate.config);
        let thread = thread::Builder::new().name("loop".into());
        let thread = if workers == 0 {
            let (shard, ends) = new_shard(0);
            let broker = membership.map(|membership| membership.broker);
            let crew = Inline::new(shard, limits.jobs_max, ends.map(|ends| (ends, bell)));
            let turning = EventLoop::new(poll, hub, crew, listeners, tls, orders, reports)?;
            thread.spawn(move || {
                let ended = turning.run().map(Inline::stop);
                drop(broker);
                ended
            })?
        } else {
            let (effects, mailbox) = mailbox(limits.effects_max, &bell);
            let shards = (0..workers).map(new_shard).collect();
            let broker = membership.map(|membership| membership.broker);
            let pool = Pool::start(shards, limits.jobs_max, &effects)?;
            // The pool's threads hold the only senders left, so that they end with the mailbox.
            drop(effects);
            let crew = Threads::new(pool, mailbox);
            let turning = EventLoop::new(poll, hub, crew, listeners, tls, orders, reports)?;
            thread.spawn(move || {
                let ended = turning.run().map(Threads::stop);
                drop(broker);
                ended
            })?
        };
        Ok(Self {
            handle: Handle::new(control, &limits),
            addresses,
            admin_address,
            certificate_expiry,
            thread,
        })
    }
}

/// Runs the daemon until it is told to stop. It serves on the sockets that were passed to it, and
/// listens by itself where there is none. `log` is the way to another log file, `signals` what
/// operators ask by.
///
/// # Errors
/// When it cannot start, or cannot go on.
pub fn run(
    config: Config,
    passed: PassedSockets,
    log: LogSwitch,
    signals: CaughtSignals,
) -> Result<(), Box<dyn Error>> {
    let files = config.files.clone();
    let certificate = config.tls.clone();
    let shutdown_time_max = config.limits.shutdown_time_max();
    let (public, admin) = (passed.public.len(), usize::from(passed.admin.is_some()));
    if public + admin > 0 {
        log::info!("sockets passed by the service manager: {public} public, {admin} admin");
    }
    let manager = Notifier::from_env();
    let supervision = manager
        .clone()
        .map(|manager| Supervision::new(watchdog_interval(), move |text: &str| manager.tell(text)));
    let server = Server::build(config, passed, supervision, None)
        .map_err(|error| -> Box<dyn Error> { error })?;
    // Before the first line says that somebody listens: whoever reads it may send a signal.
    let expiry = Arc::clone(&server.certificate_expiry);
    let chores = Chores::start(server.handle(), files, log, manager.clone(), expiry)?;
    let to_stop = (manager.clone(), shutdown_time_max);
    watch_signals(signals, server.handle(), chores, to_stop)?;
    if let Some(certificate) = certificate {
        chores::tell_expiry(&certificate);
    }
    for address in server.addresses() {
        log::info!("listening on {address} (public)");
    }
    if let Some(address) = server.admin_address() {
        log::info!("listening on {address} (admin)");
    }
    // A loop that counts has turned, with its listeners.
    if let Some(manager) = manager
        && server.handle().counters().is_ok()
    {
        manager.ready();
    }
    server.wait()?;
    log::info!("stopped");
    Ok(())
}

/// The first signal to stop ends the daemon in good order, the second at once.
fn watch_signals(
    signals: CaughtSignals,
    handle: Handle,
    chores: Chores,
    (manager, time_max): (Option<Notifier>, Duration),
) -> io::Result<()> {
    let was_told = AtomicBool::new(false);
    let alarm = Alarm(handle);
    signals.watch(move |request| match request {
        Request::Reload => chores.ask(Chore::Reload),
        Request::Status => chores.ask(Chore::Status),
        Request::Stop if was_told.swap(true, Ordering::Relaxed) => alarm.0.abort(),
        Request::Stop => {
            if let Some(manager) = &manager {
                manager.stopping(time_max);
            }
            alarm.0.shutdown();
        }
    })
}

/// Makes glibc's malloc keep freed memory for the next turn, where it would give it back to the
/// system and fetch it again by page faults: a turn takes and frees what its messages need, which
/// was a fifth of the cost of echoing 4 KiB. It adapts by itself: freeing a block that it had mapped
/// raises its threshold for mapping to that size, and for giving back to twice that.
fn keep_freed_memory() {
    drop(black_box(Vec::<u8>::with_capacity(FREED_BYTES_KEPT / 2)));
}

/// Freed memory at the end of a heap that is kept.
const FREED_BYTES_KEPT: usize = 1 << 20;

/// What looks up the figures of this node.
fn node(id: NodeId, name: Option<String>) -> Box<dyn FnMut() -> NodeFigures + Send> {
    let mut meter = CpuMeter::new(clock::read().instant, ProcessFigures::read().cpu);
    let uid = id.to_string();
    let name = name.unwrap_or_else(host_name);
    Box::new(move || {
        let process = ProcessFigures::read();
        NodeFigures {
            uid: uid.as_str().into(),
            name: name.as_str().into(),
            cpu_percent: meter.percent(clock::read().instant, process.cpu),
            rss_bytes: process.rss_bytes,
        }
    })
}

/// A number that differs from run to run: the standard library seeds its hash maps from the
/// system's entropy.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Failure::Loop(error) => error.fmt(f),
            Failure::Panicked => f.write_str("the loop has panicked"),
        }
    }
}

impl Error for ServerError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.0 {
            Failure::Loop(error) => error.source(),
            Failure::Panicked => None,
        }
    }
}

/// Asserts that both crews are one to the loop.
const _: fn() = || {
    fn is_crew<C: Crew>() {}
    is_crew::<Inline>();
    is_crew::<Threads>();
};
