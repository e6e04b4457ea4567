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
    /// more, as their rooms are left.
    pub(super) fn take(
        &mut self,
        now: Instant,
        wait: Duration,
        waiting: &mut Waiting,
    ) -> Vec<Pending> {
        // For each room, how many requests were there before it was left.
        let mut left = HashMap::new();
        for shard in 0..self.shards.len() {
            self.take_of(shard, now, wait, waiting, &mut left);
        }
        waiting.take_reads(&left)
    }

    fn take_of(
        &mut self,
        shard: usize,
        now: Instant,
        wait: Duration,
        waiting: &mut Waiting,
        left: &mut HashMap<RoomName, usize>,
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
                Ok(request) => waiting.push(Pending::new(shard, request, now, wait)),
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
