//! Signals that ask the daemon to end.

use std::io;
use std::thread;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Calls `on_stop` for every SIGTERM and SIGINT, on a thread of its own.
///
/// # Errors
/// When the signals cannot be caught or the thread not be made.
pub fn watch(on_stop: impl Fn() + Send + 'static) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            for signal in signals.forever() {
                log::info!("signal {signal} received");
                on_stop();
            }
        })?;
    Ok(())
}
