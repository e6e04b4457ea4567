//! What the shards ask, on its way to those who do it: wishes to the feed, all else to the requests
//! that wait.
//!
//! Owns: the ends of the shards' queues, and wishes that the feed has no room for yet.
//! Never: waits.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Select, Sender, TryRecvError, TrySendError};

use super::feed::Wish;
use super::question::Pending;
use super::waiting::{BATCH_MAX, Waiting};
use crate::base::{Instant, RoomName};
use crate::cluster::Request;

pub(super) struct Inputs {
    /// `None` for a shard that has gone.
    shards: Vec<Option<Receiver<Request>>>,
    wishes: VecDeque<Wish>,
    /// `None` at the end.
    feed: Option<Sender<Wish>>,
    /// Whether the feed is going to look at its wishes.
    is_feed_called: Arc<AtomicBool>,
}

/// Most wishes that wait for the feed.
const WISHES_MAX: usize = 4096;

impl Inputs {
    pub(super) fn new(
        shards: &[Receiver<Request>],
        feed: Sender<Wish>,
        is_feed_called: Arc<AtomicBool>,
    ) -> Self {
        Self {
            shards: shards.iter().cloned().map(Some).collect(),
            wishes: VecDeque::new(),
            feed: Some(feed),
            is_feed_called,
        }
    }

    /// Takes requests as far as there is room for them. Returns the reads that are not to be done any
    /// more, as their rooms are left or others do for them.
    pub(super) fn take(
        &mut self,
        now: Instant,
        wait: Duration,
        waiting: &mut Waiting,
    ) -> Vec<Pending> {
        // For each room, how many requests were there before it was left.
        let mut left = HashMap::new();
        let mut needless = Vec::new();
        for shard in 0..self.shards.len() {
            self.take_of(shard, (now, wait), waiting, &mut left, &mut needless);
        }
        needless.extend(waiting.take_reads(&left));
        needless
    }

    fn take_of(
        &mut self,
        shard: usize,
        (now, wait): (Instant, Duration),
        waiting: &mut Waiting,
        left: &mut HashMap<RoomName, usize>,
        needless: &mut Vec<Pending>,
    ) {
        for _ in 0..BATCH_MAX {
            if !self.has_room(waiting) {
                return;
            }
            let Some(input) = &self.shards[shard] else {
                return;
            };
            match input.try_recv() {
                Ok(Request::Follow(room)) => self.wishes.push_back(Wish::Follow(shard, room)),
                Ok(Request::Unfollow(room)) => {
                    left.insert(room.clone(), waiting.len());
                    self.wishes.push_back(Wish::Unfollow(room));
                }
                Ok(request) => {
                    let pending = Pending::new(shard, request, now, wait);
                    if let Some(read) = waiting.push(pending) {
                        // The one that waits is now that of who came back.
                        read.room.as_ref().and_then(|room| left.remove(room));
                        needless.push(read);
                    }
                }
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => self.shards[shard] = None,
            }
        }
    }

    fn has_room(&self, waiting: &Waiting) -> bool {
        waiting.has_room() && self.wishes.len() < WISHES_MAX
    }

    /// Whether the feed has no room for a wish.
    pub(super) fn has_wishes(&self) -> bool {
        !self.wishes.is_empty()
    }

    /// Gives the feed its wishes; returns whether it must be called for them.
    pub(super) fn hand_over(&mut self) -> bool {
        let mut has_given = false;
        let Some(feed) = &self.feed else {
            // Nobody follows a room any more, and wishes take no places from what is to be sent.
            self.wishes.clear();
            return false;
        };
        while let Some(wish) = self.wishes.pop_front() {
            match feed.try_send(wish) {
                Ok(()) => has_given = true,
                Err(TrySendError::Full(wish)) => {
                    self.wishes.push_front(wish);
                    break;
                }
                // The feed has gone, at the end.
                Err(TrySendError::Disconnected(_)) => {}
            }
        }
        has_given && !self.is_feed_called.swap(true, Ordering::AcqRel)
    }

    /// Has no more wishes: the feed ends when it looks for them next.
    pub(super) fn end_wishes(&mut self) {
        self.feed = None;
    }

    /// Adds what there is to wait for.
    pub(super) fn select<'a>(&'a self, waiting: &Waiting, select: &mut Select<'a>) {
        if self.has_room(waiting) {
            for input in self.shards.iter().flatten() {
                select.recv(input);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::bounded;

    use super::*;

    const NOW: Instant = Instant::ORIGIN;

    fn room(number: usize) -> RoomName {
        RoomName::new(&format!("r{number}")).expect("a good name")
    }

    fn read(number: usize) -> Request {
        Request::Read {
            room: room(number),
            known: None,
        }
    }

    fn inputs() -> (Inputs, Sender<Request>, Receiver<Wish>) {
        let (requests, shard) = bounded(BATCH_MAX);
        let (feed, wishes) = bounded(BATCH_MAX);
        let inputs = Inputs::new(&[shard], feed, Arc::new(AtomicBool::new(false)));
        (inputs, requests, wishes)
    }

    fn take(inputs: &mut Inputs, waiting: &mut Waiting) -> Vec<RoomName> {
        let needless = inputs.take(NOW, Duration::from_secs(1), waiting);
        needless.into_iter().filter_map(|read| read.room).collect()
    }

    #[test]
    fn rooms_that_are_followed_again_and_again_have_one_read_each() {
        const ROOMS: usize = 100;
        let (mut inputs, requests, _wishes) = inputs();
        let mut waiting = Waiting::new(NOW);
        for round in 0..50 {
            for number in 0..ROOMS {
                requests.try_send(read(number)).expect("room");
            }
            let needless = take(&mut inputs, &mut waiting);
            let expected = (0..ROOMS).filter(|_| round > 0).map(room);
            assert_eq!(needless, expected.collect::<Vec<_>>());
            assert_eq!(waiting.len(), ROOMS);
        }
    }

    #[test]
    fn the_read_of_who_came_back_is_done_and_the_one_before_is_not() {
        let (mut inputs, requests, _wishes) = inputs();
        let mut waiting = Waiting::new(NOW);
        let (leave, come) = (Request::Unfollow(room(1)), Request::Follow(room(1)));
        for (asked, needless, left) in [
            (vec![read(1), leave.clone(), come.clone(), read(1)], 1, 1),
            (vec![leave.clone()], 1, 0),
            (vec![come.clone(), read(1), read(1)], 1, 1),
            (vec![leave.clone(), come, read(1), leave], 2, 0),
        ] {
            for request in asked {
                requests.try_send(request).expect("room");
            }
            let given_up = take(&mut inputs, &mut waiting);
            assert_eq!((given_up.len(), waiting.len()), (needless, left));
        }
    }
}
