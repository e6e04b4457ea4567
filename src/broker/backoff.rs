//! Pauses between attempts.

use std::time::Duration;

use crate::base::Prng;

/// Longer and longer pauses, none like another's.
#[derive(Debug)]
pub(super) struct Backoff {
    prng: Prng,
    failures: u32,
}

impl Backoff {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            prng: Prng::new(seed),
            failures: 0,
        }
    }

    /// The next pause.
    pub(super) fn next(&mut self) -> Duration {
        let most = (PAUSE_MIN * (1 << self.failures.min(10))).min(PAUSE_MAX);
        self.failures += 1;
        self.prng.between(most / 2, most)
    }

    /// There is a connection again.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }
}

const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_bound_and_begin_anew() {
        let mut backoff = Backoff::new(1);
        for most_ms in [50, 100, 200, 400, 800, 1600, 2000, 2000] {
            let pause = backoff.next();
            let most = Duration::from_millis(most_ms);
            assert!(most / 2 <= pause && pause <= most, "{pause:?} of {most:?}");
        }
        for _ in 0..100 {
            assert!(backoff.next() <= PAUSE_MAX);
        }
        backoff.reset();
        assert!(backoff.next() <= PAUSE_MIN);
    }
}
