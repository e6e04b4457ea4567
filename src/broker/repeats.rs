//! Warnings that may repeat: the first of a kind goes out, and those that follow soon are counted and
//! told with the next.

use std::fmt;
use std::time::Duration;

use crate::base::{Instant, RoomName};

/// What a warning is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum About {
    /// A connection was lost, or cannot be made.
    Link,
    /// Redis refuses for now.
    Later,
    /// A room cannot be used.
    Room,
    /// Redis refuses for good.
    Refusal,
    /// What was read means nothing.
    Content,
    /// A room began anew.
    Anew,
}

/// The warnings of one thread.
#[derive(Debug, Default)]
pub(super) struct Warnings {
    kinds: [Kind; 6],
}

#[derive(Clone, Copy, Debug, Default)]
struct Kind {
    /// When the next may go out again.
    until: Option<Instant>,
    passed: u32,
    held_back: u64,
}

impl Warnings {
    /// Says it, or counts it.
    pub(super) fn say(&mut self, now: Instant, about: About, what: fmt::Arguments<'_>) {
        match self.kinds[about as usize].admit(now) {
            Some(0) => log::warn!("{what}"),
            Some(count) => log::warn!("{what} ({count} more of this kind before)"),
            None => log::debug!("{what}"),
        }
    }
}

/// A room as a warning names it.
pub(super) fn shown_room(room: Option<&RoomName>) -> String {
    match room {
        None => "no room".into(),
        // Its name is nothing to be read.
        Some(room) if *room == RoomName::control() => "the room of nodes".into(),
        Some(room) => format!("room {room:?}"),
    }
}

impl Kind {
    /// Whether one may go out, with how many were held back before it.
    fn admit(&mut self, now: Instant) -> Option<u64> {
        if self.until.is_none_or(|until| until <= now) {
            self.until = Some(now + WINDOW);
            self.passed = 0;
        }
        if self.passed == LINES_MAX {
            self.held_back += 1;
            return None;
        }
        self.passed += 1;
        Some(std::mem::take(&mut self.held_back))
    }
}

/// Lines of one kind that go out within [`WINDOW`].
const LINES_MAX: u32 = 5;

const WINDOW: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_room_is_named_in_words_that_can_be_read() {
        let room = RoomName::new("a b").expect("a good name");
        assert_eq!(shown_room(Some(&room)), "room \"a b\"");
        assert_eq!(shown_room(Some(&RoomName::control())), "the room of nodes");
        assert_eq!(shown_room(None), "no room");
    }

    #[test]
    fn what_repeats_is_counted_and_told_with_the_next() {
        let mut kind = Kind::default();
        let at = |secs| Instant::ORIGIN + Duration::from_secs(secs);
        for number in 0..LINES_MAX {
            assert_eq!(kind.admit(at(0)), Some(0), "{number}");
        }
        assert_eq!(kind.admit(at(1)), None);
        assert_eq!(kind.admit(at(9)), None);
        assert_eq!(kind.admit(at(10)), Some(2));
        assert_eq!(kind.admit(at(10)), Some(0));
    }
}
