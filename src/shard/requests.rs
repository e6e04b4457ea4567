//! In a cluster: what a shard asks of the broker, until the broker takes it.
//!
//! The broker takes nothing while it has too much in hand, so nothing may gather here that nobody
//! waits for any more.
//!
//! Owns: the requests that were not taken, in their order.
//!
//! Invariants
//! - A question is here only while somebody waits for its answer: there are no more of them than
//!   [`Open`] holds.
//! - Of a room there are at most one read, one beat, one follow and one unfollow. A read or a follow
//!   is here only while the room is followed, and a follow that was not taken goes with the room.
//! - A release is here only if its claim was taken, and once. While nothing is taken no place is
//!   granted, and all is taken in order: so there are no more of them than users who held a place, or
//!   had asked for one, at one moment. The same holds for unfollows, and the beats before them.
//! - Answers for other nodes are at most [`TELLS_MAX`]; they may be lost. So may words said in a room,
//!   which are only pushed while little waits (see `watching`).

use std::collections::{BTreeMap, HashMap, HashSet};

use super::open::Open;
use crate::base::RoomName;
use crate::cluster::Request;

/// The requests that were not taken.
#[derive(Debug, Default)]
pub(super) struct Requests {
    /// By place, which rises.
    queue: BTreeMap<u64, Request>,
    last_place: u64,
    /// Where the one of each subject is.
    places: HashMap<Subject, u64>,
    tells: usize,
}

/// What only one request at a time is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Subject {
    /// What waits under this number.
    Number(u64),
    Follow(RoomName),
    Unfollow(RoomName),
    Read(RoomName),
    Beat(RoomName),
}

/// Most answers for other nodes.
const TELLS_MAX: usize = 4096;

impl Subject {
    fn of(request: &Request) -> Option<Self> {
        Some(match request {
            Request::Append { shared, .. } => Self::Number(shared.token.number),
            Request::Look { number, .. }
            | Request::Forget { number, .. }
            | Request::Claim { number, .. } => Self::Number(*number),
            Request::Follow(room) => Self::Follow(room.clone()),
            Request::Unfollow(room) => Self::Unfollow(room.clone()),
            Request::Read { room, .. } => Self::Read(room.clone()),
            Request::Beat { room, .. } => Self::Beat(room.clone()),
            Request::Release { .. } | Request::Tell { .. } | Request::Say { .. } => return None,
        })
    }
}

impl Requests {
    /// Adds one behind all others. Returns whether an earlier one of its subject was taken out for it.
    pub(super) fn push(&mut self, request: Request) -> bool {
        if matches!(request, Request::Tell { .. }) {
            if self.tells == TELLS_MAX {
                return false;
            }
            self.tells += 1;
        }
        self.last_place += 1;
        let place = self.last_place;
        let earlier = Subject::of(&request).and_then(|subject| self.places.insert(subject, place));
        if let Some(earlier) = earlier {
            self.queue.remove(&earlier);
        }
        self.queue.insert(place, request);
        earlier.is_some()
    }

    /// The next, for the broker.
    pub(super) fn pop(&mut self) -> Option<Request> {
        let (_, request) = self.queue.pop_first()?;
        if let Some(subject) = Subject::of(&request) {
            self.places.remove(&subject);
        }
        self.tells -= usize::from(matches!(request, Request::Tell { .. }));
        Some(request)
    }

    /// Takes one out. Returns whether it was there: if not, the broker has it.
    pub(super) fn withdraw(&mut self, subject: &Subject) -> bool {
        let place = self.places.remove(subject);
        place.is_some_and(|place| self.queue.remove(&place).is_some())
    }

    /// Number of requests that were not taken.
    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn check_invariants(&self, open: &Open, is_followed: impl Fn(&RoomName) -> bool) {
        let mut released = HashSet::new();
        let (mut tells, mut says) = (0, 0);
        for (place, request) in &self.queue {
            if let Some(subject) = Subject::of(request) {
                let known = self.places.get(&subject);
                assert_eq!(known, Some(place), "two requests, one subject");
            }
            match request {
                Request::Release { login, .. } => {
                    let is_first = released.insert(login.number);
                    assert!(is_first, "claim {} is released twice", login.number);
                    let claim = Subject::Number(login.number);
                    let is_taken = !self.places.contains_key(&claim);
                    assert!(is_taken, "claim {} was never taken", login.number);
                }
                Request::Tell { .. } => tells += 1,
                Request::Say { .. } => says += 1,
                _ => {}
            }
        }
        assert_eq!(tells, self.tells, "answers for other nodes");
        assert!(tells <= TELLS_MAX, "too many answers for other nodes");
        let untaken = self.queue.len();
        assert_eq!(untaken, self.places.len() + released.len() + tells + says);
        for subject in self.places.keys() {
            match subject {
                Subject::Number(number) => {
                    assert!(open.get(*number).is_some(), "nobody waits for {number}");
                }
                Subject::Follow(room) | Subject::Read(room) => {
                    assert!(is_followed(room), "nobody follows {room:?}");
                }
                Subject::Unfollow(_) | Subject::Beat(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::NodeId;

    fn room(name: &str) -> RoomName {
        RoomName::new(name).expect("a good name")
    }

    fn beat(name: &str, members: u32) -> Request {
        Request::Beat {
            room: room(name),
            watches: false,
            members,
            login: None,
        }
    }

    fn taken(requests: &mut Requests) -> Vec<Request> {
        std::iter::from_fn(|| requests.pop()).collect()
    }

    #[test]
    fn of_each_subject_the_last_stays_in_its_order() {
        let mut requests = Requests::default();
        let follow = Request::Follow(room("a"));
        for (request, is_second) in [
            (beat("a", 1), false),
            (follow.clone(), false),
            (beat("b", 2), false),
            (beat("a", 3), true),
        ] {
            assert_eq!(requests.push(request), is_second);
        }
        assert_eq!(requests.len(), 3);
        let expected = [follow, beat("b", 2), beat("a", 3)];
        assert_eq!(taken(&mut requests), expected);
        assert!(!requests.push(beat("a", 4)), "the other was taken");
        assert!(requests.withdraw(&Subject::Beat(room("a"))));
        assert!(!requests.withdraw(&Subject::Beat(room("a"))));
        assert_eq!(taken(&mut requests), []);
    }

    #[test]
    fn answers_for_other_nodes_are_lost_when_they_are_too_many() {
        let mut requests = Requests::default();
        let tell = || Request::Tell {
            node: NodeId(2),
            bytes: b"x".as_slice().into(),
        };
        for _ in 0..TELLS_MAX + 10 {
            requests.push(tell());
        }
        assert_eq!(requests.len(), TELLS_MAX);
        assert_eq!(requests.pop(), Some(tell()));
        requests.push(tell());
        assert_eq!(taken(&mut requests).len(), TELLS_MAX);
    }
}
