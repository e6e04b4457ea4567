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

/// Calls `on_request` for every signal, on a thread of its own.
///
/// # Errors
/// When the signals cannot be caught or the thread not be made.
pub fn watch(on_request: impl Fn(Request) + Send + 'static) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1])?;
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            for signal in signals.forever() {
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
