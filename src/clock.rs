//! The one place where clocks are read. Shells read them once a turn and pass the reading down.

use std::sync::OnceLock;
use std::time::{self, SystemTime, UNIX_EPOCH};

use crate::base::{Instant, Now};

/// What moments are counted from: the first reading of this process.
static ORIGIN: OnceLock<time::Instant> = OnceLock::new();

/// Reads both clocks.
pub(crate) fn read() -> Now {
    let since_1970 = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let instant = time::Instant::now();
    let origin = ORIGIN.get_or_init(|| instant);
    Now {
        instant: Instant::since_origin(instant.saturating_duration_since(*origin)),
        unix_ms: u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX),
    }
}

/// Reads the monotonic clock alone, on the same count.
pub(crate) fn read_instant() -> Instant {
    let instant = time::Instant::now();
    let origin = ORIGIN.get_or_init(|| instant);
    Instant::since_origin(instant.saturating_duration_since(*origin))
}
