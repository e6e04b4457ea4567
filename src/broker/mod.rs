//! Redis: the only code that knows the `redis` crate.
//!
//! Owns: two threads, each with a connection of its own. `exec` asks, with many requests in one write;
//! `feed` listens to the rooms that are followed. Both connect again by themselves.
//! Never: decides what follows from what it hears. It keeps the promises of [`crate::cluster`].
//!
//! What makes numbering safe stands in the scripts, one for each request. A room's keys have one hash
//! tag; see `room.lua` for what they hold.
//!
//! Redis may lose data: it is restarted, or a replica takes its place. Each start of a Redis is a *run*.
//! A room that was numbered under another run goes on in its epoch only when every node has had
//! [`BrokerConfig::settle`] to come back and read its rooms with what it knows of them; where that is not
//! what Redis has, the read begins another epoch.

mod backoff;
mod dial;
mod exec;
mod feed;
mod figures;
pub mod heard;
mod inputs;
mod keys;
mod outputs;
mod question;
mod redial;
mod refusals;
mod repeats;
mod reply;
mod target;
mod waiting;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

pub use figures::{Count, Figures};
pub use outputs::EventSender;

use crate::base::{Instant, redacted_url};
use crate::clock;
#[cfg(doc)]
use crate::cluster::Event;
use crate::cluster::{NodeId, Request};
use dial::{Dialer, random};
use exec::{Exec, ExecParts};
use feed::{Feed, FeedParts};
use inputs::Inputs;
use keys::Keys;
use outputs::Outputs;
use question::Terms;
use target::Target;

/// How to take part in a cluster.
#[derive(Clone)]
pub struct BrokerConfig {
    /// Where Redis is, with its password. Never shown.
    pub url: String,
    /// What all keys and channels begin with.
    pub prefix: String,
    /// This start of this node.
    pub node: NodeId,
    /// What is kept of a room.
    pub bounds: HistoryBounds,
    /// How long a request waits that has no deadline of its own.
    pub wait: Duration,
    /// How long a node counts that is not heard of, and a login of it holds its user.
    pub lease: Duration,
    /// How long nodes have to say what they know when Redis may have lost it.
    pub settle: Duration,
    /// Most requests of a shard that wait to be taken.
    pub requests_max: usize,
    /// The shard that hears what concerns the whole node: [`Event::Told`] and [`Event::Health`].
    pub lead: usize,
}

/// What is kept of a room; whichever bound is met first trims.
#[derive(Clone, Copy, Debug)]
pub struct HistoryBounds {
    /// Most publications; none turns history off.
    pub publications_max: u64,
    /// Most bytes, as they are kept in Redis.
    pub bytes_max: u64,
    /// For how long.
    pub ttl: Duration,
}

impl BrokerConfig {
    /// With what is usual for the rest.
    #[must_use]
    pub fn new(url: &str, prefix: &str, node: NodeId, bounds: HistoryBounds) -> Self {
        Self {
            url: url.to_owned(),
            prefix: prefix.to_owned(),
            node,
            bounds,
            wait: Duration::from_secs(2),
            lease: Duration::from_secs(30),
            settle: Duration::from_millis(1500),
            requests_max: 4096,
            lead: 0,
        }
    }
}

impl fmt::Debug for BrokerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BrokerConfig")
            .field("url", &redacted_url(&self.url))
            .field("prefix", &self.prefix)
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

/// Why the cluster cannot be joined.
#[derive(Debug)]
pub enum BrokerError {
    /// An option is not what it must be.
    Option {
        /// Its name.
        option: &'static str,
        /// Its value, without a password.
        value: String,
        /// What must hold.
        rule: String,
    },
    /// A thread cannot be started.
    Thread(io::Error),
}

impl fmt::Display for BrokerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Option {
                option,
                value,
                rule,
            } => write!(f, "{option} is {value}: {rule}"),
            Self::Thread(_) => f.write_str("a thread for Redis cannot be started"),
        }
    }
}

impl std::error::Error for BrokerError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Option { .. } => None,
            Self::Thread(error) => Some(error),
        }
    }
}

/// The way into the cluster. Ends when dropped.
#[derive(Debug)]
pub struct Broker {
    requests: Vec<Sender<Request>>,
    figures: Arc<Figures>,
    is_stopping: Arc<AtomicBool>,
    stop: Option<Sender<()>>,
    /// Of the feed and of exec: closed when the thread has ended.
    ends: Vec<Receiver<()>>,
}

impl Broker {
    /// Connects, and begins to serve a shard for each of `senders`. They may take the broker for
    /// available until they hear otherwise. If one of its threads dies, `alarm` is called in that
    /// thread: nothing will be numbered, or told, any more.
    ///
    /// # Errors
    /// When Redis cannot be reached or used now: a node that could not say what it has joined would
    /// only look as if it were well. A service manager tries again.
    pub fn start(
        config: &BrokerConfig,
        senders: Vec<EventSender>,
        alarm: Arc<dyn Fn() + Send + Sync>,
    ) -> Result<Self, BrokerError> {
        check_prefix(&config.prefix)?;
        let refused = |rule: String| BrokerError::Option {
            option: "--redis",
            value: redacted_url(&config.url),
            rule,
        };
        let dialer = Dialer {
            target: Target::parse(&config.url).map_err(refused)?,
            keys: Keys::new(&config.prefix),
            settle: config.settle,
        };
        let link = dialer
            .link(None, &[])
            .map_err(|error| refused(error.to_string()))?;
        let first = dialer.feed().map_err(|error| refused(error.to_string()))?;
        log::info!(
            "joined Redis at {}, run {}",
            dialer.target.shown(),
            link.run.id
        );

        let is_stopping = Arc::new(AtomicBool::new(false));
        let figures = Arc::new(Figures::new());
        let (requests, inputs): (_, Vec<_>) =
            senders.iter().map(|_| bounded(config.requests_max)).unzip();
        let outputs = Outputs {
            senders: senders.into(),
            lead: config.lead,
            is_stopping: Arc::clone(&is_stopping),
        };
        let (wishes, wished) = bounded(WISHES_MAX);
        let (stop, stopped) = bounded(1);
        let is_feed_called = Arc::new(AtomicBool::new(false));
        let feed = Feed::new(FeedParts {
            dialer: dialer.clone(),
            node: config.node,
            wishes: wished,
            is_called: Arc::clone(&is_feed_called),
            outputs: outputs.clone(),
            figures: Arc::clone(&figures),
            seed: random(),
        });
        let terms = Terms {
            keys: dialer.keys.clone(),
            node: config.node,
            bounds: config.bounds,
            lease: config.lease,
        };
        let parts = ExecParts {
            dialer,
            terms,
            wait: config.wait,
            outputs,
            stop: stopped,
            figures: Arc::clone(&figures),
            seed: random(),
        };
        let inputs = Inputs::new(&inputs, wishes, is_feed_called);
        let exec = Exec::new(parts, inputs, link);
        // If the second cannot be started, dropping what it was given ends the first.
        let ends = vec![
            spawn("redis-feed", Arc::clone(&alarm), move || feed.run(first))?,
            spawn("redis-exec", alarm, move || exec.run())?,
        ];
        Ok(Self {
            requests,
            figures,
            is_stopping,
            stop: Some(stop),
            ends,
        })
    }

    /// Where a shard puts its requests. It must not wait for room there.
    ///
    /// # Panics
    /// If there is no such shard.
    #[must_use]
    pub fn requests(&self, shard: usize) -> Sender<Request> {
        self.requests[shard].clone()
    }

    /// The time that deadlines are counted in.
    #[must_use]
    pub fn now() -> Instant {
        clock::read_instant()
    }

    /// What was counted.
    #[must_use]
    pub fn figures(&self) -> Arc<Figures> {
        Arc::clone(&self.figures)
    }

    /// Sends what was asked for before, for a second at most, and ends both threads. Requests that
    /// come later are not answered.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.requests.clear();
        if self.stop.take().is_none() {
            return;
        }
        // Nobody sends on these: each is closed when its thread has ended, or the thread is stuck in
        // the kernel and left alone. Until the last answers are with the shards they may be waited for.
        if let Some(exec) = self.ends.last() {
            let _ = exec.recv_timeout(ANSWERS_MAX);
        }
        self.is_stopping.store(true, Ordering::Release);
        for end in &self.ends {
            let _ = end.recv_timeout(ENDING_MAX);
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.end();
    }
}

/// Wishes on their way to the feed.
const WISHES_MAX: usize = 4096;

/// Longest wait for the last answers.
const ANSWERS_MAX: Duration = Duration::from_millis(1500);

/// Longest wait for one thread: it may be waiting for an answer.
const ENDING_MAX: Duration = Duration::from_secs(5);

fn spawn(
    name: &'static str,
    alarm: Arc<dyn Fn() + Send + Sync>,
    body: impl FnOnce() + Send + 'static,
) -> Result<Receiver<()>, BrokerError> {
    let (running, end) = bounded::<()>(1);
    let spawned = thread::Builder::new().name(name.into()).spawn(move || {
        let _alarm = Alarm { name, alarm };
        body();
        drop(running);
    });
    spawned.map(|_| end).map_err(BrokerError::Thread)
}

/// Calls for help when its thread unwinds.
struct Alarm {
    name: &'static str,
    alarm: Arc<dyn Fn() + Send + Sync>,
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if thread::panicking() {
            log::error!("the thread {} has panicked", self.name);
            (self.alarm)();
        }
    }
}

fn check_prefix(prefix: &str) -> Result<(), BrokerError> {
    let is_good = (1..=64).contains(&prefix.len())
        && prefix
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'{' && byte != b'}');
    if is_good {
        return Ok(());
    }
    Err(BrokerError::Option {
        option: "--redis-prefix",
        value: format!("{prefix:?}"),
        rule: "must be 1 to 64 printable ASCII characters without spaces and braces".into(),
    })
}
