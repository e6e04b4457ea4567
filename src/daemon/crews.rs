//! The two crews a loop can have: worker threads, or itself.

use crate::base::{Instant, Now};
use crate::exchange::{Effect, Job};
use crate::net::Crew;
use crate::shard::RoomShard;
use crate::worker::{Bell, BrokerEnds, Mailbox, Pool};

/// Worker threads behind channels.
#[derive(Debug)]
pub(super) struct Threads {
    pool: Pool,
    mailbox: Mailbox,
    /// A join was handed over this turn. A loop that has nothing else to do had better wait for its
    /// answer; not so for a publication, since while it waits others come that leave with it.
    has_join: bool,
}

impl Threads {
    pub(super) fn new(pool: Pool, mailbox: Mailbox) -> Self {
        Self {
            pool,
            mailbox,
            has_join: false,
        }
    }

    /// Ends the threads. The mailbox goes first, so that none waits for room in it.
    pub(super) fn stop(self) {
        drop(self.mailbox);
        self.pool.stop();
    }
}

impl Crew for Threads {
    fn len(&self) -> usize {
        self.pool.len()
    }

    fn free(&self, worker: usize) -> usize {
        self.pool.free(worker)
    }

    fn queued(&self, worker: usize) -> usize {
        self.pool.queued(worker)
    }

    fn effects_len(&self) -> usize {
        self.mailbox.len()
    }

    fn hand_over(&mut self, _now: Now, worker: usize, job: Job) {
        self.has_join |= matches!(job, Job::Subscribe { .. });
        self.pool.gather(worker, job);
    }

    fn end_of_jobs(&mut self, _now: Now) {
        self.pool.flush();
        // The effects are looked at next.
        self.mailbox.bell().begin_look();
    }

    fn poll_effect(&mut self) -> Option<Effect> {
        self.mailbox.poll()
    }

    fn try_sleep(&mut self) -> bool {
        if std::mem::take(&mut self.has_join) && self.pool.is_busy() {
            // A worker that shares the core answers now, and need not wake the loop for it.
            std::thread::yield_now();
        }
        self.mailbox.bell().try_sleep()
    }

    fn note_awake(&mut self) {
        self.mailbox.bell().note_awake();
    }

    fn has_effects(&self) -> bool {
        !self.mailbox.is_empty()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    fn has_failed(&self) -> bool {
        self.mailbox.bell().has_failed()
    }
}

/// The loop's own thread (`--workers 0`): a job is done when it is handed over.
#[derive(Debug)]
pub(super) struct Inline {
    shard: RoomShard,
    jobs_max: usize,
    broker: Option<(BrokerEnds, Bell)>,
}

impl Inline {
    /// In a cluster, the bell is rung when the broker has something to say.
    pub(super) fn new(
        shard: RoomShard,
        jobs_max: usize,
        broker: Option<(BrokerEnds, Bell)>,
    ) -> Self {
        Self {
            shard,
            jobs_max,
            broker,
        }
    }
}

impl Inline {
    /// Ends it.
    pub(super) fn stop(mut self) {
        if let Some((broker, _)) = &mut self.broker {
            broker.leave(&mut self.shard);
        }
    }
}

impl Crew for Inline {
    fn len(&self) -> usize {
        1
    }

    fn free(&self, _worker: usize) -> usize {
        // While effects wait, doing more jobs would only make more of them.
        if self.has_effects() {
            0
        } else {
            self.jobs_max.saturating_sub(self.shard.open_jobs())
        }
    }

    fn queued(&self, _worker: usize) -> usize {
        self.shard.open_jobs()
    }

    fn effects_len(&self) -> usize {
        usize::from(self.has_effects())
    }

    fn hand_over(&mut self, now: Now, _worker: usize, job: Job) {
        self.shard.handle_job(now, job);
    }

    fn end_of_jobs(&mut self, now: Now) {
        if let Some((broker, bell)) = &self.broker {
            bell.begin_look();
            broker.take_events(now, &mut self.shard);
        }
        self.shard.handle_timeout(now);
        if let Some((broker, _)) = &mut self.broker {
            broker.pass_requests(&mut self.shard);
        }
    }

    fn try_sleep(&mut self) -> bool {
        // The loop does not look at effects in a turn whose flush must come first.
        if self.has_effects() {
            return false;
        }
        match &self.broker {
            None => true,
            Some((broker, bell)) => !broker.has_events() && bell.try_sleep(),
        }
    }

    fn note_awake(&mut self) {
        if let Some((_, bell)) = &self.broker {
            bell.note_awake();
        }
    }

    fn poll_effect(&mut self) -> Option<Effect> {
        self.shard.poll_effect()
    }

    fn has_effects(&self) -> bool {
        self.shard.has_effects()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.shard.poll_timeout()
    }

    fn has_failed(&self) -> bool {
        matches!(&self.broker, Some((_, bell)) if bell.has_failed())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::base::{ConnId, Limits, RoomBudget, RoomName};
    use crate::wire::frame::Payload;

    const NOW: Now = Now {
        instant: Instant::ORIGIN,
        unix_ms: 0,
    };

    #[test]
    fn a_loop_without_workers_does_not_sleep_over_effects_it_has_not_looked_at() {
        let limits = Limits {
            batch_interval: Duration::ZERO,
            ..Limits::default()
        };
        let shard = RoomShard::new(&limits, 1, RoomBudget::new(10), NOW, 1);
        let mut crew = Inline::new(shard, 100, None);
        assert!(!crew.has_effects() && crew.try_sleep());
        assert_eq!((crew.free(0), crew.effects_len()), (100, 0));
        let job = Job::Publish {
            origin: ConnId::NONE,
            command: 0,
            room: RoomName::new("r").expect("a good name"),
            identity: None,
            payload: Payload::text("hello".into()),
            taken_at: NOW.instant,
        };
        crew.hand_over(NOW, 0, job);
        crew.end_of_jobs(NOW);
        // In a turn whose flush must come first nobody polls.
        assert!(crew.has_effects());
        assert!(!crew.try_sleep());
        assert_eq!((crew.free(0), crew.effects_len()), (0, 1));
        while crew.poll_effect().is_some() {}
        assert!(!crew.has_effects() && crew.try_sleep());
        assert_eq!((crew.free(0), crew.effects_len()), (100, 0));
    }
}
