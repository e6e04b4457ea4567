//! Puts the parts together: builds them in order, runs the loop, stops in reverse order.
//!
//! Floor 4. Wires and does not choose: what a part does is decided in the part.

mod crews;
mod metrics;

use std::collections::hash_map::RandomState;
use std::error::Error;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::sync::Arc;

use self::crews::{Inline, Threads};
use crate::base::RoomBudget;
use crate::clock;
use crate::hub::{Gate, Hub};
use crate::net::{Control, Crew, EventLoop, Listener, control};
use crate::ops::config::Config;
use crate::ops::{file_limit, signal};
use crate::shard::RoomShard;
use crate::worker::{Pool, mailbox};

/// Runs the daemon until it is told to stop.
///
/// # Errors
/// When it cannot start, or cannot go on.
pub fn run(config: Config) -> Result<(), Box<dyn Error>> {
    let Config {
        listen,
        admin_listen,
        allowed_origins,
        workers,
        token_secret,
        mut limits,
        ..
    } = config;
    if let Some(warning) = file_limit::raise_and_fit(&mut limits) {
        log::warn!("{warning}");
    }
    let poll = mio::Poll::new()?;
    let waker = Arc::new(mio::Waker::new(
        poll.registry(),
        EventLoop::<Inline>::WAKER,
    )?);
    let (handle, orders) = control(Arc::clone(&waker));
    // Before the first line says that somebody listens: whoever reads it may send a signal.
    watch_signals(handle)?;
    let mut listeners = Vec::new();
    for address in listen {
        listeners.push(open(address, false)?);
    }
    if let Some(address) = admin_listen {
        listeners.push(open(address, true)?);
    }
    let start = clock::read();
    let budget = RoomBudget::new(limits.rooms_max);
    let gate = Gate {
        origins: allowed_origins,
        token_secret,
    };
    let seed = random();
    let hub = Hub::new(limits.clone(), gate, workers.max(1), start.instant, seed);
    let metrics = Box::new(metrics::render);
    if workers == 0 {
        let shard = RoomShard::new(&limits, 1, budget, start, random());
        let crew = Inline::new(shard, limits.jobs_max);
        EventLoop::new(poll, hub, crew, listeners, orders, metrics)?.run()?;
    } else {
        let (effects, mailbox) = mailbox(limits.effects_max, waker);
        let shards = (0..workers)
            .map(|_| RoomShard::new(&limits, workers, budget.clone(), start, random()))
            .collect();
        let pool = Pool::start(shards, limits.jobs_max, &effects)?;
        // The pool's threads hold the only senders left, so that they end with the mailbox.
        drop(effects);
        let crew = Threads::new(pool, mailbox);
        EventLoop::new(poll, hub, crew, listeners, orders, metrics)?
            .run()?
            .stop();
    }
    log::info!("stopped");
    Ok(())
}

fn open(address: std::net::SocketAddr, is_admin: bool) -> Result<Listener, Box<dyn Error>> {
    let listener = Listener::bind(address, is_admin)?;
    let entrance = if is_admin { "admin" } else { "public" };
    log::info!("listening on {} ({entrance})", listener.address()?);
    Ok(listener)
}

fn watch_signals(control: Control) -> io::Result<()> {
    signal::watch(move || control.stop())
}

/// A number that differs from run to run: the standard library seeds its hash maps from the
/// system's entropy.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// Asserts that both crews are one to the loop.
const _: fn() = || {
    fn is_crew<C: Crew>() {}
    is_crew::<Inline>();
    is_crew::<Threads>();
};
