//! What ends the loop without anybody having told it to.

use std::fmt;
use std::io;

/// Why the loop cannot go on.
#[derive(Debug)]
pub(crate) enum LoopError {
    /// The kernel does not give events.
    Poll(io::Error),
    /// A worker thread, one of the broker's, or one that hears operators has died.
    Thread,
}

impl fmt::Display for LoopError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Poll(_) => f.write_str("cannot wait for events"),
            Self::Thread => f.write_str("a thread that cannot be done without has died"),
        }
    }
}

impl std::error::Error for LoopError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Poll(source) => Some(source),
            Self::Thread => None,
        }
    }
}
