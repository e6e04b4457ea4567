//! The last connections that ended, for whoever wants to know what closed lately.
//!
//! Bound: [`KEPT`]; the oldest goes first. Plain HTTP that was answered is not worth a place:
//! whoever looks would push out what there is to see.

use std::collections::VecDeque;

use crate::base::{CloseReason, Now};
use crate::hub::Farewell;

/// The last connections that ended.
#[derive(Debug, Default)]
pub(crate) struct LastEnds(VecDeque<(Now, Farewell)>);

impl LastEnds {
    /// One more has ended.
    pub(super) fn remember(&mut self, now: Now, farewell: Farewell) {
        if farewell.reason == CloseReason::Answered {
            return;
        }
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back((now, farewell));
    }

    /// Them, the last first, with when they ended.
    pub(crate) fn newest_first(&self) -> impl Iterator<Item = &(Now, Farewell)> {
        self.0.iter().rev()
    }
}

/// How many are remembered.
const KEPT: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{ConnId, Instant};
    use crate::conn::Traffic;

    #[test]
    fn the_last_hundred_are_kept_newest_first() {
        let mut ends = LastEnds::default();
        for number in 0..2 * KEPT as u32 + 50 {
            let farewell = Farewell {
                id: ConnId {
                    slot: number,
                    generation: 0,
                },
                peer: ([127, 0, 0, 1], 1).into(),
                identity: None,
                reason: if number.is_multiple_of(2) {
                    CloseReason::Gone
                } else {
                    CloseReason::Answered
                },
                code: 0,
                opened_at: Instant::ORIGIN,
                traffic: Traffic::default(),
            };
            let now = Now {
                instant: Instant::ORIGIN,
                unix_ms: 0,
            };
            ends.remember(now, farewell);
        }
        let slots: Vec<_> = ends.newest_first().map(|(_, one)| one.id.slot).collect();
        let expected: Vec<_> = (0..KEPT as u32).map(|place| 248 - 2 * place).collect();
        assert_eq!(slots, expected);
    }
}
