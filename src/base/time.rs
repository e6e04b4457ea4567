//! Time as a value: the shell reads the clocks once a turn and passes the readings down.

use std::fmt;
use std::num::NonZeroU64;
use std::ops::{Add, AddAssign, Sub};
use std::time::Duration;

/// One reading of both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Monotonic time; every deadline is counted in it.
    pub instant: Instant,
    /// Wall-clock time in milliseconds since 1970; only ever shown, never counted with.
    pub unix_ms: u64,
}

/// A moment of monotonic time.
///
/// Half the size of the standard library's, and an `Option` of it is no larger: a connection holds
/// half a dozen. It counts nanoseconds from an origin that the clock chooses, for 584 years, and
/// stops at the end of them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(NonZeroU64);

impl Instant {
    /// The origin.
    pub const ORIGIN: Self = Self(NonZeroU64::MIN);

    /// The moment that is so long after the origin.
    #[must_use]
    pub fn since_origin(span: Duration) -> Self {
        Self::ORIGIN + span
    }

    /// How long after the origin it is.
    #[must_use]
    pub fn to_duration(self) -> Duration {
        Duration::from_nanos(self.0.get() - NonZeroU64::MIN.get())
    }

    /// The time between `earlier` and this; nothing if `earlier` is later.
    #[must_use]
    pub fn saturating_duration_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.nanos_since(earlier))
    }

    /// The same in nanoseconds.
    #[must_use]
    pub fn nanos_since(self, earlier: Self) -> u64 {
        self.0.get().saturating_sub(earlier.0.get())
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        let nanos = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(nanos))
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, span: Duration) {
        *self = *self + span;
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;

    /// Not before the origin.
    fn sub(self, span: Duration) -> Self {
        let nanos = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        let left = self.0.get().saturating_sub(nanos);
        Self(NonZeroU64::new(left).unwrap_or(NonZeroU64::MIN))
    }
}

impl fmt::Debug for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.to_duration(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_counted_with_and_stop_at_their_ends() {
        let second = Duration::from_secs(1);
        let later = Instant::ORIGIN + second;
        assert!(later > Instant::ORIGIN);
        assert_eq!(later.saturating_duration_since(Instant::ORIGIN), second);
        assert_eq!(
            Instant::ORIGIN.saturating_duration_since(later),
            Duration::ZERO
        );
        assert_eq!(later - second, Instant::ORIGIN);
        assert_eq!(later - second * 2, Instant::ORIGIN);
        let end = Instant::ORIGIN + Duration::MAX;
        assert_eq!(end + second, end);
        assert_eq!(Instant::since_origin(second).to_duration(), second);
        assert_eq!(size_of::<Option<Instant>>(), 8);
    }
}
