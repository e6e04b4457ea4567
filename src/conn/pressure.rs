//! What to do with a publication for a connection whose queue is filling up.
//!
//! A pure function of the queue's level, the room's class and whether the socket is known to be
//! full. It is asked at push time and never later: nothing is queued first and judged afterwards.

use crate::base::{Delivery, Limits};

/// How much is waiting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Level {
    /// Bytes not yet written.
    pub bytes: usize,
    /// Publications not yet written, a begun one included.
    pub publications: usize,
}

impl Level {
    /// What may be queued for one connection.
    #[must_use]
    pub fn bound(limits: &Limits) -> Self {
        Self {
            bytes: limits.outbound_bytes_max,
            publications: limits.outbound_publications_max,
        }
    }

    /// Whether this much or more than half of `bound` is waiting, in either measure.
    #[must_use]
    pub fn is_half_of(self, bound: Self) -> bool {
        self.publications * 2 >= bound.publications || self.bytes * 2 >= bound.bytes
    }
}

/// What to do with the publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Queue it.
    Keep,
    /// Skip it and count it.
    Skip,
    /// Close the connection: it is too slow for its room.
    Close,
}

/// Judges whether `more` may join `level` under `bound`.
///
/// A bound is only met by a peer that does not read: while the socket has not refused bytes since
/// the last write (`is_blocked` is false), one addition over the bound is kept, and the hub
/// flushes everybody before the next (see `Hub::wants_flush`). An empty queue takes anything, since limits
/// are checked so that one message always fits.
#[must_use]
pub fn judge(
    level: Level,
    more: Level,
    bound: Level,
    is_blocked: bool,
    delivery: Delivery,
) -> Verdict {
    let fits = level.publications + more.publications <= bound.publications
        && level.bytes + more.bytes <= bound.bytes;
    let is_within = level.publications <= bound.publications && level.bytes <= bound.bytes;
    if fits || level == Level::default() || (!is_blocked && is_within) {
        return Verdict::Keep;
    }
    match delivery {
        Delivery::Reliable => Verdict::Close,
        Delivery::Lossy => Verdict::Skip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUND: Level = Level {
        bytes: 100,
        publications: 10,
    };

    fn check(level: (usize, usize), more: (usize, usize), is_blocked: bool) -> [Verdict; 2] {
        let level = Level {
            bytes: level.0,
            publications: level.1,
        };
        let more = Level {
            bytes: more.0,
            publications: more.1,
        };
        [Delivery::Reliable, Delivery::Lossy]
            .map(|delivery| judge(level, more, BOUND, is_blocked, delivery))
    }

    #[test]
    fn both_sides_of_both_bounds() {
        let keep = [Verdict::Keep; 2];
        let full = [Verdict::Close, Verdict::Skip];
        assert_eq!(check((90, 9), (10, 1), true), keep);
        assert_eq!(check((91, 9), (10, 1), true), full);
        assert_eq!(check((50, 9), (10, 2), true), full);
        assert_eq!(
            check((0, 0), (1000, 50), true),
            keep,
            "an empty queue takes anything"
        );
        assert_eq!(
            check((91, 9), (10, 1), false),
            keep,
            "a socket that takes bytes is not slow"
        );
        assert_eq!(
            check((101, 9), (1, 1), false),
            full,
            "but only one addition over the bound"
        );
        assert_eq!(check((50, 11), (1, 1), false), full);
    }

    #[test]
    fn half_is_half() {
        let level = |bytes, publications| Level {
            bytes,
            publications,
        };
        assert!(!level(49, 4).is_half_of(BOUND));
        assert!(level(50, 0).is_half_of(BOUND));
        assert!(level(0, 5).is_half_of(BOUND));
    }
}
