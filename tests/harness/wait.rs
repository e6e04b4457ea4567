//! Waiting for conditions, always with a deadline, and the few ways to let time go by.

use std::time::{Duration, Instant};

/// How long anything in a test may take before the test fails.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

/// Calls `condition` until it yields a value, and returns that.
///
/// Panics after [`DEADLINE`], naming `what`.
pub(crate) fn wait_for<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    wait_within(DEADLINE, what, condition)
}

/// The same for what may take longer by the product's own times: panics after `span`.
pub(crate) fn wait_within<T>(
    span: Duration,
    what: &str,
    mut condition: impl FnMut() -> Option<T>,
) -> T {
    let deadline = Instant::now() + span;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "{what}: not so within {span:?}");
        breathe();
    }
}

/// Calls `condition` until it is true. Panics after [`DEADLINE`], naming `what`.
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    wait_for(what, || condition().then_some(()));
}

/// Lets `span` go by: for watching what must *not* happen meanwhile, such as use of CPU time, for how
/// long a fault lasts, and for a time of the product whose end nothing tells.
pub(crate) fn linger(span: Duration) {
    let end = Instant::now() + span;
    while let Some(left) = end.checked_duration_since(Instant::now()) {
        std::thread::park_timeout(left);
    }
}

/// Lets `interval` go by between two steps of a client or a load, whose speed is a part of what it is. What
/// the test asserts must hold however long it really takes.
pub(crate) fn pace(interval: Duration) {
    linger(interval);
}

/// Lets others run between two looks at a condition, in a loop that has a deadline of its own or ends
/// with what it serves.
pub(crate) fn breathe() {
    std::thread::park_timeout(Duration::from_millis(3));
}
