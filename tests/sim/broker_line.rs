//! What lies between one node and the broker.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use roomcast::base::{Now, Prng, RoomName};
use roomcast::cluster::{Event, Failure, Request};

pub(crate) struct Line {
    pub(crate) shards: usize,
    pub(crate) waiting: VecDeque<Waiting>,
    pub(crate) answers: VecDeque<Answer>,
    pub(crate) wishes: VecDeque<(RoomName, bool)>,
    pub(crate) feed: VecDeque<Event>,
    /// What it wants to be told of, and what it is told of.
    pub(crate) wanted: BTreeSet<RoomName>,
    pub(crate) told: BTreeSet<RoomName>,
    /// The run in which it last heard that it follows a room.
    pub(crate) heard: BTreeMap<RoomName, u64>,
    pub(crate) has_feed: bool,
    pub(crate) is_cut: bool,
    pub(crate) is_available: bool,
}

#[derive(Clone)]
pub(crate) struct Waiting {
    pub(crate) request: Request,
    /// It was sent and its answer was lost.
    pub(crate) is_doubtful: bool,
    /// It was asked by one who follows the room in this run.
    pub(crate) run: u64,
}

pub(crate) struct Answer {
    pub(crate) shard: usize,
    pub(crate) event: Event,
    /// What is tried again if the answer is lost; `None` for what the node itself says.
    pub(crate) to: Option<Waiting>,
}

impl Line {
    pub(crate) fn say_available(&mut self, is_available: bool) {
        if std::mem::replace(&mut self.is_available, is_available) == is_available {
            return;
        }
        for shard in 0..self.shards {
            self.answers.push_back(Answer {
                shard,
                event: Event::Availability(is_available),
                to: None,
            });
        }
    }

    /// What must not be sent any more is answered.
    pub(crate) fn give_up(&mut self, now: Now) -> bool {
        let mut late = Vec::new();
        self.waiting.retain(|waiting| {
            let is_late = matches!(&waiting.request,
                Request::Append { deadline, .. } if *deadline < now.instant);
            if is_late {
                late.push(waiting.clone());
            }
            !is_late
        });
        for waiting in &late {
            let Request::Append { shared, .. } = &waiting.request else {
                continue;
            };
            let number = shared.token.number;
            let outcome = Err(match waiting.is_doubtful {
                true => Failure::Unknown,
                false => Failure::Unavailable,
            });
            self.answers.push_back(Answer {
                shard: (number >> 48) as usize,
                event: Event::Appended { number, outcome },
                to: None,
            });
        }
        !late.is_empty()
    }

    /// A wish that no earlier one of its room stands before.
    pub(crate) fn pick_wish(&self, prng: &mut Prng) -> Option<usize> {
        let mut seen = BTreeSet::new();
        let free: Vec<usize> = (self.wishes.iter().enumerate())
            .filter(|(_, (room, _))| seen.insert(room))
            .map(|(at, _)| at)
            .collect();
        if free.is_empty() {
            return None;
        }
        Some(free[prng.below(free.len() as u64) as usize])
    }
}
