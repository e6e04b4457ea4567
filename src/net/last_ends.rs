//! The last connections that ended, for whoever wants to know what closed lately.
//!
//! Bound: [`WEBSOCKETS_KEPT`] WebSockets and [`OTHERS_KEPT`] of those that never became one; of each
//! the oldest goes first. So strangers, who can end as many connections as they like, push no
//! member out. Plain HTTP that was answered is not worth a place: whoever looks would push out what
//! there is to see.

use std::cmp::Reverse;
use std::collections::VecDeque;

use crate::base::{CloseReason, Now};
use crate::hub::Farewell;

/// The last connections that ended.
#[derive(Debug, Default)]
pub(crate) struct LastEnds {
    websockets: VecDeque<(Now, Farewell)>,
    others: VecDeque<(Now, Farewell)>,
}

impl LastEnds {
    /// One more has ended.
    pub(super) fn remember(&mut self, now: Now, farewell: Farewell) {
        let (kept, most) = match farewell.reason {
            _ if farewell.was_open => (&mut self.websockets, WEBSOCKETS_KEPT),
            CloseReason::Answered => return,
            _ => (&mut self.others, OTHERS_KEPT),
        };
        if kept.len() == most {
            kept.pop_front();
        }
        kept.push_back((now, farewell));
    }

    /// Them, the last first, with when they ended.
    pub(crate) fn newest_first(&self) -> impl Iterator<Item = &(Now, Farewell)> {
        let newest_first = self.websockets.iter().chain(&self.others).rev();
        let mut ends: Vec<_> = newest_first.collect();
        // Each of the two is in order, which the sort leaves where times are the same.
        ends.sort_by_key(|(now, _)| Reverse(now.instant));
        ends.into_iter()
    }
}

/// How many WebSockets are remembered.
const WEBSOCKETS_KEPT: usize = 100;

/// How many connections that never became one.
const OTHERS_KEPT: usize = 20;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::base::{ConnId, Instant};
    use crate::conn::Traffic;

    fn end(ends: &mut LastEnds, number: u32, was_open: bool, reason: CloseReason) {
        let farewell = Farewell {
            id: ConnId {
                slot: number,
                generation: 0,
            },
            peer: ([127, 0, 0, 1], 1).into(),
            identity: None,
            reason,
            code: 0,
            was_open,
            opened_at: Instant::ORIGIN,
            traffic: Traffic::default(),
        };
        let now = Now {
            // Several end in the same turn.
            instant: Instant::ORIGIN + Duration::from_millis(u64::from(number / 4)),
            unix_ms: 0,
        };
        ends.remember(now, farewell);
    }

    #[test]
    fn the_last_of_both_kinds_are_kept_newest_first() {
        let mut ends = LastEnds::default();
        for number in 0..400 {
            match number % 4 {
                0 => end(&mut ends, number, false, CloseReason::Answered),
                1 => end(&mut ends, number, true, CloseReason::Gone),
                2 => end(&mut ends, number, false, CloseReason::Gone),
                _ => end(&mut ends, number, true, CloseReason::Slow),
            }
        }
        let slots: Vec<_> = ends.newest_first().map(|(_, one)| one.id.slot).collect();
        let is_kept = |number: &u32| match number % 4 {
            0 => false,
            2 => *number >= 400 - 4 * OTHERS_KEPT as u32,
            _ => *number >= 400 - 2 * WEBSOCKETS_KEPT as u32,
        };
        // Within a turn, those that never were one come first.
        let place = |number: &u32| (number / 4, u32::from(number % 4 == 2), *number);
        let mut expected: Vec<_> = (0..400).filter(is_kept).collect();
        expected.sort_by_key(|number| Reverse(place(number)));
        assert_eq!(slots, expected);
    }

    #[test]
    fn strangers_push_no_member_out() {
        let mut ends = LastEnds::default();
        end(&mut ends, 0, true, CloseReason::Slow);
        for number in 1..1000 {
            end(&mut ends, number, false, CloseReason::Gone);
        }
        let is_member = |(_, one): &&(Now, Farewell)| one.reason == CloseReason::Slow;
        assert_eq!(ends.newest_first().filter(is_member).count(), 1);
        assert_eq!(ends.newest_first().count(), 1 + OTHERS_KEPT);
    }
}
