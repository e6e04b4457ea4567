//! What a member that was away is to receive: a pure function of history and position.

use super::history::History;
use crate::base::{Offset, Position, Since};

/// What cannot be given any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// Nothing.
    Nothing,
    /// So many publications.
    Known(u64),
    /// It cannot be known how many.
    Unknown,
}

/// What a member is to receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recovery {
    /// Every publication after this one.
    pub after: Offset,
    /// What is missing between where it wanted to begin and there.
    pub missing: Missing,
}

/// Finds out from where a member can be served in a room that stands at `current`.
#[must_use]
pub fn recover(history: &History, current: Position, since: Since) -> Recovery {
    let oldest = Offset(history.first().0 - 1);
    let newest = current.offset;
    let (after, missing) = match since {
        Since::Now => (newest, Missing::Nothing),
        Since::Last(count) => (history.offset_before_last(count, newest), Missing::Nothing),
        Since::Time(unix_ms) if unix_ms < history.complete_since_ms() => {
            (history.offset_at(unix_ms, newest), Missing::Unknown)
        }
        Since::Time(unix_ms) => (history.offset_at(unix_ms, newest), Missing::Nothing),
        Since::Offset(offset) => {
            let epoch = current.epoch;
            return recover(
                history,
                current,
                Since::Position(Position { epoch, offset }),
            );
        }
        // Another numbering, or a place in this one that does not exist yet: whatever the member
        // has seen, it was not this.
        Since::Position(position)
            if position.epoch != current.epoch || position.offset > newest =>
        {
            // Of what was numbered in another epoch it may have seen all.
            (oldest.max(history.began()), Missing::Unknown)
        }
        Since::Position(position) if position.offset >= oldest => {
            (position.offset, Missing::Nothing)
        }
        Since::Position(position) => (oldest, Missing::Known(oldest.0 - position.offset.0)),
    };
    Recovery { after, missing }
}

#[cfg(test)]
mod tests {
    use super::super::history::Bounds;
    use super::*;
    use crate::base::{ConnId, Epoch, Limits};
    use crate::wire::frame::PayloadKind;
    use crate::wire::raw::Publication;

    #[test]
    fn every_kind_of_position_is_answered() {
        // Offsets 11 to 14 of 14 are kept, published at 110 to 140; those before are forgotten.
        let mut history = History::new(Offset(11), 100);
        for offset in 11..=14 {
            let publication = Publication {
                offset: Offset(offset),
                unix_ms: offset * 10,
                origin: ConnId::NONE,
                node: None,
                identity: None,
                kind: PayloadKind::Text,
                payload: b"x",
            };
            history.push(&publication, 0, &Bounds::of(&Limits::default()));
        }
        let epoch = Epoch::from_number(7);
        let current = Position {
            epoch,
            offset: Offset(14),
        };
        let at = |offset| {
            Since::Position(Position {
                epoch,
                offset: Offset(offset),
            })
        };
        let other = Position {
            epoch: Epoch::from_number(8),
            offset: Offset(14),
        };
        for (since, after, missing) in [
            (Since::Now, 14, Missing::Nothing),
            (at(14), 14, Missing::Nothing),
            (at(12), 12, Missing::Nothing),
            (at(10), 10, Missing::Nothing),
            (at(9), 10, Missing::Known(1)),
            (at(0), 10, Missing::Known(10)),
            (at(15), 10, Missing::Unknown),
            (at(u64::MAX), 10, Missing::Unknown),
            (Since::Position(other), 10, Missing::Unknown),
            (Since::Offset(Offset(12)), 12, Missing::Nothing),
            (Since::Offset(Offset(9)), 10, Missing::Known(1)),
            (Since::Offset(Offset(15)), 10, Missing::Unknown),
            (Since::Last(0), 14, Missing::Nothing),
            (Since::Last(2), 12, Missing::Nothing),
            (Since::Last(u64::MAX), 10, Missing::Nothing),
            (Since::Time(125), 12, Missing::Nothing),
            (Since::Time(100), 10, Missing::Nothing),
            (Since::Time(99), 10, Missing::Unknown),
            (Since::Time(u64::MAX), 14, Missing::Nothing),
        ] {
            let expected = Recovery {
                after: Offset(after),
                missing,
            };
            assert_eq!(recover(&history, current, since), expected, "{since:?}");
        }
        let empty = History::new(Offset(1), 100);
        let current = Position {
            epoch,
            offset: Offset(0),
        };
        assert_eq!(recover(&empty, current, at(0)).missing, Missing::Nothing);
        assert_eq!(recover(&empty, current, Since::Last(5)).after, Offset(0));
    }
}
