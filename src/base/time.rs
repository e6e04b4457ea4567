//! Time as a value: the shell reads the clocks once a turn and passes the readings down.

use std::time::Instant;

/// One reading of both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Monotonic time; every deadline is counted in it.
    pub instant: Instant,
    /// Wall-clock time in milliseconds since 1970; only ever shown, never counted with.
    pub unix_ms: u64,
}
