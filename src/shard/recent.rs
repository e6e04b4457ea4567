//! Recent publications by idempotency key, so that a back end that repeats a call because it has
//! not seen the answer does not publish twice.
//!
//! Owns: where the publication of each key is, for [`KEPT`].
//! Never: grows past its bound; then the oldest key is forgotten before its time.
//!
//! Invariant: every key in the table is in the queue exactly once, in the order of expiry.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::base::{Instant, Now, Position, RoomName};

/// How long a key is remembered.
const KEPT: Duration = Duration::from_secs(300);

/// Room and key. One allocation for the text of the key, shared by table and queue.
type Key = (RoomName, Arc<str>);

/// The keys of one shard.
#[derive(Debug)]
pub(super) struct Recent {
    positions: HashMap<Key, Position>,
    by_age: VecDeque<(Instant, Key)>,
    keys_max: usize,
}

impl Recent {
    pub(super) fn new(keys_max: usize) -> Self {
        Self {
            positions: HashMap::new(),
            by_age: VecDeque::new(),
            keys_max,
        }
    }

    /// Where the publication with this key is, if there was one lately.
    pub(super) fn position(&mut self, now: Now, room: &RoomName, key: &str) -> Option<Position> {
        self.forget_old(now);
        self.positions.get(&(room.clone(), key.into())).copied()
    }

    /// Remembers a key that is not known; returns whether another was forgotten for it before its
    /// time.
    pub(super) fn remember(
        &mut self,
        now: Now,
        room: RoomName,
        key: Box<str>,
        at: Position,
    ) -> bool {
        if self.keys_max == 0 {
            return true;
        }
        let is_full = self.by_age.len() >= self.keys_max;
        if is_full {
            self.forget_oldest();
        }
        let key: Key = (room, key.into());
        self.by_age.push_back((now.instant + KEPT, key.clone()));
        self.positions.insert(key, at);
        is_full
    }

    fn forget_old(&mut self, now: Now) {
        while self
            .by_age
            .front()
            .is_some_and(|(expiry, _)| *expiry <= now.instant)
        {
            self.forget_oldest();
        }
        if self.by_age.is_empty() && self.by_age.capacity() > CAPACITY_KEPT {
            self.by_age = VecDeque::new();
            self.positions = HashMap::new();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, key)) = self.by_age.pop_front() {
            self.positions.remove(&key);
        }
    }
}

/// Room for this many keys stays allocated.
const CAPACITY_KEPT: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Epoch, Offset};

    #[test]
    fn a_key_is_known_for_five_minutes_and_within_the_bound() {
        let start = Instant::ORIGIN;
        let now = |secs| Now {
            instant: start + Duration::from_secs(secs),
            unix_ms: 0,
        };
        let at = |offset| Position {
            epoch: Epoch::from_number(1),
            offset: Offset(offset),
        };
        let [a, b] = ["a", "b"].map(|name| RoomName::new(name).expect("a good name"));
        let mut recent = Recent::new(2);
        assert!(!recent.remember(now(0), a.clone(), "k".into(), at(1)));
        assert!(!recent.remember(now(1), b.clone(), "k".into(), at(2)));
        assert_eq!(recent.position(now(299), &a, "k"), Some(at(1)));
        assert_eq!(recent.position(now(299), &b, "k"), Some(at(2)));
        assert_eq!(recent.position(now(299), &a, "l"), None);
        assert_eq!(recent.position(now(300), &a, "k"), None);
        assert!(!recent.remember(now(300), a.clone(), "l".into(), at(3)));
        assert!(recent.remember(now(300), a.clone(), "m".into(), at(4)));
        assert_eq!(recent.position(now(300), &b, "k"), None, "over the bound");
        assert_eq!(recent.position(now(300), &a, "l"), Some(at(3)));
        assert_eq!(recent.position(now(600), &a, "m"), None);
        assert!(recent.positions.is_empty() && recent.by_age.is_empty());
    }
}
