//! Jobs on their way to the workers, and how much room each worker's queue has.
//!
//! The loop is the only sender, so a worker's queue can only have become emptier since the shell
//! looked: a credit taken here is a place kept there, and handing a job over cannot fail. A
//! message is taken from a connection, and a room asked for, only against a credit, so nothing is
//! ever parked. Leaves cannot wait in their connection, which is gone; they wait here, and there
//! are never more of them than memberships that have ended.

use std::collections::VecDeque;

use crate::base::{ConnId, RoomName};
use crate::exchange::{CallKey, Job, worker_of};

/// Jobs waiting to be handed over.
#[derive(Debug)]
pub(super) struct Jobs {
    /// Against a credit each.
    ready: VecDeque<(usize, Job)>,
    workers: Box<[Lane]>,
}

#[derive(Debug, Default)]
struct Lane {
    credits: usize,
    /// Jobs that are ready for this worker.
    ready: usize,
    /// Leaves without a credit, in order.
    leaves: VecDeque<Job>,
    /// Those whose next job has no credit.
    waiting: VecDeque<Waiter>,
}

/// Who stands in line for a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waiter {
    /// A connection, with a message or a room to join.
    Conn(ConnId),
    /// A call, with a step.
    Call(CallKey),
}

impl Jobs {
    pub(super) fn new(workers: usize) -> Self {
        Self {
            ready: VecDeque::new(),
            workers: (0..workers).map(|_| Lane::default()).collect(),
        }
    }

    /// Which worker a room belongs to.
    pub(super) fn worker_of(&self, room: &RoomName) -> usize {
        worker_of(room, self.workers.len())
    }

    /// Which worker decodes and encodes for a call.
    pub(super) fn worker_of_call(&self, key: CallKey) -> usize {
        key as usize % self.workers.len()
    }

    /// Number of workers.
    pub(super) fn workers_len(&self) -> usize {
        self.workers.len()
    }

    /// A worker's queue has room for `room` jobs. Returns whether a leave has waited for it.
    pub(super) fn grant(&mut self, worker: usize, room: usize) -> bool {
        let mut is_any = false;
        let lane = &mut self.workers[worker];
        // Places for the jobs that are ready were promised before.
        lane.credits = room.saturating_sub(lane.ready);
        while lane.credits > 0
            && let Some(job) = lane.leaves.pop_front()
        {
            is_any = true;
            lane.promise(&mut self.ready, worker, job);
        }
        if lane.leaves.is_empty() && lane.leaves.capacity() > LEAVES_KEPT {
            lane.leaves = VecDeque::new();
        }
        is_any
    }

    /// Whether a message may be taken for this worker.
    pub(super) fn has_credit(&self, worker: usize) -> bool {
        self.workers[worker].credits > 0
    }

    /// Adds a job against a credit.
    pub(super) fn push(&mut self, worker: usize, job: Job) {
        let lane = &mut self.workers[worker];
        debug_assert!(lane.credits > 0, "a job without a credit");
        lane.promise(&mut self.ready, worker, job);
    }

    /// Adds a leave, which waits if it must.
    pub(super) fn push_leave(&mut self, worker: usize, job: Job) {
        let lane = &mut self.workers[worker];
        if lane.credits > 0 && lane.leaves.is_empty() {
            lane.promise(&mut self.ready, worker, job);
        } else {
            lane.leaves.push_back(job);
        }
    }

    /// Puts a connection in the line for a worker's credits.
    pub(super) fn wait(&mut self, worker: usize, id: ConnId) {
        self.workers[worker].waiting.push_back(Waiter::Conn(id));
    }

    /// Puts a call in the line for a worker's credits.
    pub(super) fn wait_with_call(&mut self, worker: usize, key: CallKey) {
        self.workers[worker].waiting.push_back(Waiter::Call(key));
    }

    /// The first in line, if the worker has a credit.
    pub(super) fn next_waiting(&mut self, worker: usize) -> Option<Waiter> {
        let lane = &mut self.workers[worker];
        if lane.credits == 0 {
            return None;
        }
        lane.waiting.pop_front()
    }

    /// Number of those in line for a worker.
    pub(super) fn waiting_len(&self, worker: usize) -> usize {
        self.workers[worker].waiting.len()
    }

    /// Whether anybody in line could go on now.
    pub(super) fn can_go_on(&self) -> bool {
        let can_go_on = |lane: &Lane| !lane.waiting.is_empty() && lane.credits > 0;
        self.workers.iter().any(can_go_on)
    }

    /// The next job to hand over.
    pub(super) fn pop(&mut self) -> Option<(usize, Job)> {
        let (worker, job) = self.ready.pop_front()?;
        self.workers[worker].ready -= 1;
        Some((worker, job))
    }

    /// Whether anything can be handed over now.
    pub(super) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }
}

impl Lane {
    /// Turns a credit into a place for `job`.
    fn promise(&mut self, ready: &mut VecDeque<(usize, Job)>, worker: usize, job: Job) {
        self.credits = self.credits.saturating_sub(1);
        self.ready += 1;
        ready.push_back((worker, job));
    }
}

/// Room for this many leaves stays allocated.
const LEAVES_KEPT: usize = 1024;
