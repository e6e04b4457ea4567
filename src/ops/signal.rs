//! Signals, and what each asks for.
//!
//! Owns: the thread that waits for them.
//! Never: does what is asked for. Whoever is told must not wait long either, or a second request to
//! stop could not be heard.

use std::io;
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// To end (SIGTERM, SIGINT).
    Stop,
    /// To read secrets and open the log file anew (SIGHUP).
    Reload,
    /// To say how things stand (SIGUSR1).
    Status,
}

/// Signals that are caught: one that comes before anybody watches waits, each kind once.
#[derive(Debug)]
pub struct CaughtSignals(Signals);

impl CaughtSignals {
    /// Catches them from now on. Until then SIGHUP and SIGUSR1 would end the process, so this comes
    /// before anything else.
    ///
    /// # Errors
    /// When they cannot be caught.
    pub fn new() -> io::Result<Self> {
        Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1]).map(Self)
    }

    /// Calls `on_request` for every signal, on a thread of its own.
    ///
    /// # Errors
    /// When the thread cannot be made.
    pub fn watch(mut self, on_request: impl Fn(Request) + Send + 'static) -> io::Result<()> {
        let thread = thread::Builder::new().name("signals".into());
        thread.spawn(move || {
            for signal in self.0.forever() {
                log::info!("signal {signal} received");
                on_request(match signal {
                    SIGHUP => Request::Reload,
                    SIGUSR1 => Request::Status,
                    _ => Request::Stop,
                });
            }
        })?;
        Ok(())
    }
}
