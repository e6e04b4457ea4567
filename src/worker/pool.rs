//! The threads and their queues.

use std::io;
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};

use super::mailbox::{EffectSender, LoopGone};
use crate::clock;
use crate::exchange::Job;
use crate::shard::RoomShard;

/// Worker threads, each with a bounded queue.
#[derive(Debug)]
pub(crate) struct Pool {
    queues: Vec<Sender<Job>>,
    jobs_max: usize,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    /// Starts one thread for each shard.
    ///
    /// # Errors
    /// When the system cannot make a thread.
    pub(crate) fn start(
        shards: Vec<RoomShard>,
        jobs_max: usize,
        effects: &EffectSender,
    ) -> io::Result<Self> {
        let mut pool = Self {
            queues: Vec::new(),
            jobs_max,
            threads: Vec::new(),
        };
        for (number, shard) in shards.into_iter().enumerate() {
            let (sender, receiver) = bounded(jobs_max);
            let effects = effects.clone();
            let thread = thread::Builder::new()
                .name(format!("worker-{number}"))
                .spawn(move || {
                    let alarm = Alarm { effects: &effects };
                    work(shard, &receiver, &effects);
                    std::mem::forget(alarm);
                })?;
            pool.queues.push(sender);
            pool.threads.push(thread);
        }
        Ok(pool)
    }

    /// Number of workers.
    pub(crate) fn len(&self) -> usize {
        self.queues.len()
    }

    /// How many jobs a worker's queue has room for. It can only grow until the next hand-over,
    /// since there is one sender.
    pub(crate) fn free(&self, worker: usize) -> usize {
        self.jobs_max - self.queues[worker].len()
    }

    /// Hands a job over; never waits. There is room, as [`Pool::free`] said before.
    pub(crate) fn hand_over(&self, worker: usize, job: Job) {
        match self.queues[worker].try_send(job) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                debug_assert!(false, "handed over more than there was room for");
                log::error!("worker {worker} was handed more than its queue holds");
            }
            // The mailbox says that the worker has died, and the daemon ends for it.
            Err(TrySendError::Disconnected(_)) => {}
        }
    }

    /// Lets the workers finish what they have and waits for them.
    pub(crate) fn stop(self) {
        drop(self.queues);
        for thread in self.threads {
            // A panic was reported when it happened.
            let _ = thread.join();
        }
    }
}

/// Tells the loop when its thread unwinds.
struct Alarm<'a> {
    effects: &'a EffectSender,
}

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        self.effects.fail();
    }
}

fn work(mut shard: RoomShard, jobs: &Receiver<Job>, effects: &EffectSender) {
    loop {
        let first = match shard.poll_timeout() {
            None => match jobs.recv() {
                Ok(job) => Some(job),
                Err(_) => return,
            },
            Some(deadline) => {
                let now = clock::read().instant;
                match jobs.recv_timeout(deadline.saturating_duration_since(now)) {
                    Ok(job) => Some(job),
                    Err(RecvTimeoutError::Timeout) => None,
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        };
        let now = clock::read();
        if let Some(job) = first {
            shard.handle_job(now, job);
            // What has come meanwhile is merged with it and costs the loop one wake-up.
            for job in jobs.try_iter().take(JOBS_PER_RUN - 1) {
                shard.handle_job(now, job);
            }
        }
        shard.handle_timeout(now);
        while let Some(effect) = shard.poll_effect() {
            if let Err(LoopGone) = effects.send(effect) {
                return;
            }
        }
        // Also without effects: the loop may wait for room in the queue.
        effects.wake();
    }
}

/// Most jobs done before their effects are sent.
const JOBS_PER_RUN: usize = 256;
