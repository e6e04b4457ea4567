//! The one place where clocks are read. Shells read them once a turn and pass the reading down.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::base::Now;

/// Reads both clocks.
pub(crate) fn read() -> Now {
    let since_1970 = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Now {
        instant: Instant::now(),
        unix_ms: u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX),
    }
}
