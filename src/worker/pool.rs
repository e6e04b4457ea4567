//! The threads and their queues.
//!
//! The jobs of one turn go to a worker together, so that it is woken once for all of them.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use crossbeam_channel::{
    Receiver, RecvTimeoutError, Select, Sender, TryRecvError, TrySendError, bounded,
};

use super::broker_ends::BrokerEnds;
use super::mailbox::{EffectSender, LoopGone};
use crate::clock;
use crate::exchange::Job;
use crate::shard::RoomShard;

/// Worker threads, each with a bounded queue.
#[derive(Debug)]
pub(crate) struct Pool {
    queues: Vec<Queue>,
    jobs_max: usize,
    threads: Vec<JoinHandle<()>>,
}

/// What is on its way to one worker.
#[derive(Debug)]
struct Queue {
    /// Jobs that are not sent yet.
    gathered: Vec<Job>,
    batches: Sender<Vec<Job>>,
    /// Jobs sent and not done; those that wait for the broker are not.
    open: Arc<AtomicUsize>,
}

impl Pool {
    /// Starts one thread for each shard, with what connects it to the broker of a cluster.
    ///
    /// # Errors
    /// When the system cannot make a thread.
    pub(crate) fn start(
        shards: Vec<(RoomShard, Option<BrokerEnds>)>,
        jobs_max: usize,
        effects: &EffectSender,
    ) -> io::Result<Self> {
        let mut pool = Self {
            queues: Vec::new(),
            jobs_max,
            threads: Vec::new(),
        };
        for (number, (shard, broker)) in shards.into_iter().enumerate() {
            // No batch is empty, so there are never more of them than jobs.
            let (batches, receiver) = bounded(jobs_max);
            let open = Arc::new(AtomicUsize::new(0));
            let inbox = Inbox {
                batches: receiver,
                open: Arc::clone(&open),
                broker,
            };
            let effects = effects.clone();
            let thread = thread::Builder::new()
                .name(format!("worker-{number}"))
                .spawn(move || {
                    let alarm = Alarm { effects: &effects };
                    work(shard, inbox, &effects);
                    std::mem::forget(alarm);
                })?;
            pool.queues.push(Queue {
                gathered: Vec::new(),
                batches,
                open,
            });
            pool.threads.push(thread);
        }
        Ok(pool)
    }

    /// Number of workers.
    pub(crate) fn len(&self) -> usize {
        self.queues.len()
    }

    /// How many jobs a worker's queue has room for. Apart from what is gathered it can only grow,
    /// since there is one sender.
    pub(crate) fn free(&self, worker: usize) -> usize {
        let queue = &self.queues[worker];
        self.jobs_max - queue.open.load(Ordering::Acquire) - queue.gathered.len()
    }

    /// How many jobs a worker has been sent and not done.
    pub(crate) fn queued(&self, worker: usize) -> usize {
        self.queues[worker].open.load(Ordering::Relaxed)
    }

    /// Whether a worker has jobs to do.
    pub(crate) fn is_busy(&self) -> bool {
        let mut queues = self.queues.iter();
        queues.any(|queue| queue.open.load(Ordering::Relaxed) > 0)
    }

    /// Adds a job to what a worker is sent next. There is room, as [`Pool::free`] said before.
    pub(crate) fn gather(&mut self, worker: usize, job: Job) {
        debug_assert!(self.free(worker) > 0, "more than there is room for");
        self.queues[worker].gathered.push(job);
    }

    /// Sends what is gathered; never waits.
    pub(crate) fn flush(&mut self) {
        for (worker, queue) in self.queues.iter_mut().enumerate() {
            if queue.gathered.is_empty() {
                continue;
            }
            // As many will come again, probably.
            let next = Vec::with_capacity(queue.gathered.len());
            let batch = std::mem::replace(&mut queue.gathered, next);
            queue.open.fetch_add(batch.len(), Ordering::AcqRel);
            match queue.batches.try_send(batch) {
                Ok(()) => {}
                Err(TrySendError::Full(_)) => {
                    debug_assert!(false, "more batches than there is room for jobs");
                    log::error!("worker {worker} was sent more than its queue holds");
                }
                // The mailbox says that the worker has died, and the daemon ends for it.
                Err(TrySendError::Disconnected(_)) => {}
            }
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

/// A worker's end of its queue.
struct Inbox {
    batches: Receiver<Vec<Job>>,
    open: Arc<AtomicUsize>,
    broker: Option<BrokerEnds>,
}

impl Inbox {
    /// Waits for a batch, or until the shard has something to do. `None` when the loop has gone.
    fn wait_for(&self, shard: &RoomShard) -> Option<Vec<Job>> {
        if let Some(broker) = &self.broker {
            return self.wait_for_any(broker, shard);
        }
        let received = match shard.poll_timeout() {
            None => self.batches.recv().map_err(RecvTimeoutError::from),
            Some(deadline) => {
                let now = clock::read().instant;
                let timeout = deadline.saturating_duration_since(now);
                self.batches.recv_timeout(timeout)
            }
        };
        match received {
            Ok(batch) => Some(batch),
            Err(RecvTimeoutError::Timeout) => Some(Vec::new()),
            Err(RecvTimeoutError::Disconnected) => None,
        }
    }

    /// The same in a cluster, where the broker may have something to say, or room for a question.
    fn wait_for_any(&self, broker: &BrokerEnds, shard: &RoomShard) -> Option<Vec<Job>> {
        let mut select = Select::new();
        select.recv(&self.batches);
        broker.select(&mut select);
        match shard.poll_timeout() {
            None => {
                select.ready();
            }
            Some(deadline) => {
                let now = clock::read().instant;
                // Whether something is ready or it is time: both are looked at.
                let _ = select.ready_timeout(deadline.saturating_duration_since(now));
            }
        }
        match self.batches.try_recv() {
            Ok(batch) => Some(batch),
            Err(TryRecvError::Empty) => Some(Vec::new()),
            Err(TryRecvError::Disconnected) => None,
        }
    }
}

fn work(mut shard: RoomShard, mut inbox: Inbox, effects: &EffectSender) {
    let mut waiting = 0;
    let mut jobs = Vec::new().into_iter();
    let mut has_loop = true;
    loop {
        if jobs.len() == 0 {
            match inbox.wait_for(&shard) {
                Some(batch) => jobs = batch.into_iter(),
                None => break,
            }
        }
        let now = clock::read();
        let mut done = 0;
        while done < JOBS_PER_RUN {
            if jobs.len() == 0
                // What has come meanwhile is merged with it and costs the loop one wake-up.
                && let Ok(batch) = inbox.batches.try_recv()
            {
                jobs = batch.into_iter();
            }
            let Some(job) = jobs.next() else {
                break;
            };
            shard.handle_job(now, job);
            done += 1;
        }
        if let Some(broker) = &inbox.broker {
            broker.take_events(now, &mut shard);
        }
        shard.handle_timeout(now);
        if let Some(broker) = &mut inbox.broker {
            broker.pass_requests(&mut shard);
        }
        // What was taken and waits for the broker keeps its place.
        let waited = std::mem::replace(&mut waiting, shard.open_jobs());
        inbox
            .open
            .fetch_sub(waited + done - waiting, Ordering::AcqRel);
        while let Some(effect) = shard.poll_effect() {
            // What was handed over before the loop has gone is done all the same: other nodes may
            // have to hear of it.
            has_loop = has_loop && !matches!(effects.send(effect), Err(LoopGone));
        }
        // Also without effects: the loop may wait for room in the queue.
        effects.call();
    }
    if let Some(broker) = &mut inbox.broker {
        broker.leave(&mut shard);
    }
}

/// Most jobs done before their effects are sent.
const JOBS_PER_RUN: usize = 256;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::bell::Bell;
    use super::super::mailbox::{Mailbox, mailbox};
    use super::*;
    use crate::base::{
        ConnId, DuplicateLogin, Epoch, Identity, Limits, NodeId, Offset, Position, RoomBudget,
        RoomName, Since, UserId,
    };
    use crate::cluster::{Event, Request, Snapshot};
    use crate::exchange::Effect;
    use crate::wire::raw::WireForm;

    #[test]
    fn jobs_keep_their_order_and_their_places_come_back() {
        const JOBS: u32 = 1000;
        let limits = Limits::default();
        let poll = mio::Poll::new().expect("a poll");
        let waker = mio::Waker::new(poll.registry(), mio::Token(7)).expect("a waker");
        // So few that the worker has to wait for the loop within a batch.
        let (effects, mailbox) = mailbox(8, &Bell::new(Arc::new(waker)));
        let shard = RoomShard::new(&limits, 1, RoomBudget::new(10), clock::read(), 1);
        let mut pool = Pool::start(vec![(shard, None)], JOBS as usize, &effects).expect("a thread");
        let room = RoomName::new("a").expect("a name");
        let mut joined = 0;
        for part in [1, 300, 699] {
            for slot in joined..joined + part {
                let generation = 1;
                let join = Job::Subscribe {
                    conn: ConnId { slot, generation },
                    room: room.clone(),
                    form: WireForm::ALL[0],
                    since: Since::Now,
                    identity: None,
                    terms: crate::exchange::Terms::default(),
                };
                pool.gather(0, join);
            }
            assert!(
                pool.free(0) <= (JOBS - part) as usize,
                "what is gathered has its place"
            );
            pool.flush();
            assert!(pool.free(0) <= JOBS as usize);
            let before = joined;
            while joined < before + part {
                match mailbox.poll() {
                    Some(Effect::Joined { conn, .. }) => {
                        assert_eq!(conn.slot, joined);
                        joined += 1;
                    }
                    Some(other) => panic!("{other:?}"),
                    None => thread::yield_now(),
                }
            }
            let deadline = clock::read().instant + Duration::from_secs(20);
            while pool.free(0) < JOBS as usize || pool.is_busy() {
                assert!(clock::read().instant < deadline, "places were lost");
                thread::yield_now();
            }
        }
        drop(mailbox);
        pool.stop();
    }

    /// Plays the broker until so many have joined: every user may have its place, and no room is there yet.
    fn serve(
        requests: &Receiver<Request>,
        events: &Sender<Event>,
        mailbox: &Mailbox,
        joins: usize,
    ) {
        let tell = |event| events.send(event).expect("the shard hears");
        let deadline = clock::read().instant + Duration::from_secs(20);
        let mut joined = 0;
        while joined < joins {
            assert!(clock::read().instant < deadline, "{joined} have joined");
            match requests.try_recv() {
                Ok(Request::Claim { number, .. }) => tell(Event::Claimed {
                    number,
                    outcome: Ok(Some(1)),
                }),
                Ok(Request::Follow(room)) => tell(Event::Followed(room)),
                Ok(Request::Read { room, .. }) => {
                    let top = Position {
                        epoch: Epoch::from_number(1),
                        offset: Offset(0),
                    };
                    let snapshot = Box::new(Snapshot {
                        top,
                        first: Offset(1),
                        complete_since_ms: 0,
                        began: Offset(0),
                        unix_ms: 0,
                        publications: Vec::new(),
                        online: 0,
                        generation: 1,
                        is_watched: false,
                    });
                    tell(Event::Read { room, snapshot });
                }
                Ok(_) | Err(_) => {}
            }
            match mailbox.poll() {
                Some(Effect::Joined { .. }) => joined += 1,
                Some(_) => {}
                None => thread::yield_now(),
            }
        }
    }

    #[test]
    fn a_worker_that_ends_gives_back_what_it_holds_though_nobody_takes_its_effects() {
        const USERS: usize = 5;
        let limits = Limits {
            duplicate_login: DuplicateLogin::Refuse,
            ..Limits::default()
        };
        let poll = mio::Poll::new().expect("a poll");
        let waker = mio::Waker::new(poll.registry(), mio::Token(7)).expect("a waker");
        let (effects, mailbox) = mailbox(2, &Bell::new(Arc::new(waker)));
        let (event_sender, events) = bounded(16);
        // So few that not all that is given back at the end has a place.
        let (request_sender, requests) = bounded(1);
        let now = clock::read();
        let shard = RoomShard::new(&limits, 1, RoomBudget::new(10), now, 1).join_cluster(
            now,
            NodeId(1),
            (0, 1),
            Duration::from_secs(20),
        );
        let ends = BrokerEnds::new(events, request_sender);
        let mut pool = Pool::start(vec![(shard, Some(ends))], 1000, &effects).expect("a thread");
        for slot in 0..USERS as u32 {
            let user = UserId::new(&format!("u{slot}")).expect("a good id");
            let identity = Identity {
                user: user.clone(),
                info: None,
            };
            let join = Job::Subscribe {
                conn: ConnId {
                    slot,
                    generation: 1,
                },
                room: RoomName::personal(&user),
                form: WireForm::ALL[0],
                since: Since::Now,
                identity: Some(Arc::new(identity)),
                terms: crate::exchange::Terms::default(),
            };
            pool.gather(0, join);
        }
        pool.flush();
        serve(&requests, &event_sender, &mailbox, USERS);
        // More effects than anybody takes: the worker ends with one in its hand.
        for call in 0..10 {
            let (method, body) = ("info".into(), Vec::new());
            pool.gather(0, Job::Decode { call, method, body });
        }
        pool.flush();
        let deadline = clock::read().instant + Duration::from_secs(20);
        while mailbox.len() < 2 {
            assert!(clock::read().instant < deadline, "no effects");
            thread::yield_now();
        }
        drop(mailbox);
        thread::scope(|scope| {
            let broker = scope.spawn(|| {
                let mut released = 0;
                while let Ok(request) = requests.recv() {
                    released += usize::from(matches!(request, Request::Release { .. }));
                }
                released
            });
            pool.stop();
            assert_eq!(broker.join().expect("no panic"), USERS);
        });
    }
}
