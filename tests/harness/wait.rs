//! Waiting for conditions, always with a deadline.

use std::time::{Duration, Instant};

/// How long anything in a test may take before the test fails.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

/// Calls `condition` until it yields a value, and returns that.
///
/// Panics after [`DEADLINE`], naming `what`.
pub(crate) fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(
            Instant::now() < deadline,
            "{what}: not so within {DEADLINE:?}"
        );
        std::thread::park_timeout(Duration::from_millis(3));
    }
}

/// Calls `condition` until it is true. Panics after [`DEADLINE`], naming `what`.
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    wait_for(what, || condition().then_some(()));
}

/// Lets `span` go by. Only for watching what must *not* happen meanwhile, such as use of CPU time.
pub(crate) fn linger(span: Duration) {
    let end = Instant::now() + span;
    while let Some(left) = end.checked_duration_since(Instant::now()) {
        std::thread::park_timeout(left);
    }
}
