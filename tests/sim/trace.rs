//! What a run did, in words. Kept for one thread at a time, and only while somebody listens, so that
//! the thousands of runs that go well build no text.

use std::cell::RefCell;

thread_local! {
    static LINES: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// Begins to keep what is said on this thread.
pub(crate) fn start() {
    LINES.set(Some(Vec::new()));
}

/// What was said since, and says nothing more.
pub(crate) fn take() -> Vec<String> {
    LINES.take().unwrap_or_default()
}

/// Says something, if anybody listens.
pub(crate) fn say(line: impl FnOnce() -> String) {
    LINES.with_borrow_mut(|lines| {
        if let Some(lines) = lines {
            lines.push(line());
        }
    });
}
