//! A loop's dealings with the program around it: orders in, answers and events out.
//!
//! Owns: the bounded channels between any thread and the loop.
//! Never: makes the loop wait. A call that finds the queue full is refused at once, an event that
//! finds its queue full is counted, and the count takes its place there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded, select};
use rustls::ServerConfig;
use slab::Slab;

use super::event_loop::LoopCounters;
use super::socket::Socket;
use crate::base::{Instant, Now, Secret};
use crate::hub::{Event, Hub, HubCounters, ProgramCall, ProgramReply};

/// Asks things of a running loop, from any thread.
#[derive(Clone, Debug)]
pub(crate) struct Control {
    orders: Sender<Order>,
    calls: Sender<Item>,
    /// Set with the first request to end.
    is_stopping: Arc<AtomicBool>,
    has_failed: Arc<AtomicBool>,
    /// Disconnected when the loop has ended. What still lies in a queue then is answered by nobody.
    ended: Receiver<()>,
    waker: Arc<mio::Waker>,
}

/// What must not wait behind calls.
#[derive(Clone, Debug)]
pub(super) enum Order {
    /// End now.
    Abort,
    /// Say what was counted.
    Count(Sender<(HubCounters, LoopCounters)>),
    /// Let in with these secrets from now on; `None` leaves the old one.
    Secrets {
        token_secret: Option<Secret>,
        api_key: Option<Secret>,
    },
    /// Speak TLS with this to new connections.
    Tls(Arc<ServerConfig>),
}

/// What stands in line with the calls.
#[derive(Debug)]
enum Item {
    Call(Request),
    /// End in good order, when what was asked before is done.
    Stop,
}

/// A call with the way back.
#[derive(Debug)]
struct Request {
    call: ProgramCall,
    reply: Sender<ProgramReply>,
}

/// Why a call was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotTaken {
    /// The queue is full.
    Busy,
    /// The loop has ended.
    Stopped,
}

/// An answer on its way.
#[derive(Debug)]
pub(crate) struct Answer<T> {
    answer: Receiver<T>,
    ended: Receiver<()>,
}

/// The loop's end of a [`Control`].
#[derive(Debug)]
pub(crate) struct Orders {
    _alive: Sender<()>,
    orders: Receiver<Order>,
    calls: Receiver<Item>,
    /// Told to end.
    is_stopping: bool,
    /// Told that the daemon cannot go on.
    has_failed: Arc<AtomicBool>,
    /// Calls in progress.
    replies: Slab<Sender<ProgramReply>>,
    events: Option<EventSender>,
    /// Events for which there was no room.
    missed: u64,
}

/// The way to whoever takes events.
#[derive(Debug)]
pub(crate) struct EventSender {
    /// The queue.
    pub(crate) queue: Sender<Event>,
    /// Set when the loop ends: events for which there was no room until then.
    pub(crate) missed_last: Arc<AtomicU64>,
}

/// A control over a loop that polls where `waker` wakes; the loop puts what happens into `events`.
pub(crate) fn control(waker: Arc<mio::Waker>, events: Option<EventSender>) -> (Control, Orders) {
    let (orders, orders_end) = bounded(ORDERS_MAX);
    let (calls, calls_end) = bounded(CALLS_MAX);
    let (alive, ended) = bounded(0);
    let has_failed = Arc::new(AtomicBool::new(false));
    let control = Control {
        orders,
        calls,
        is_stopping: Arc::default(),
        has_failed: Arc::clone(&has_failed),
        ended,
        waker,
    };
    let orders = Orders {
        _alive: alive,
        orders: orders_end,
        calls: calls_end,
        is_stopping: false,
        has_failed,
        replies: Slab::new(),
        events,
        missed: 0,
    };
    (control, orders)
}

impl Control {
    /// Asks the loop to end in good order once it has done what it was asked before. Asking again
    /// changes nothing. Waits while the queue of calls is full.
    pub(crate) fn stop(&self) {
        if self.is_stopping.swap(true, Ordering::AcqRel) {
            return;
        }
        select! {
            send(self.calls, Item::Stop) -> sent => {
                if sent.is_ok() {
                    self.wake();
                }
            }
            recv(self.ended) -> _ => {}
        }
    }

    /// Asks the loop to end at once.
    pub(crate) fn abort(&self) {
        self.order(Order::Abort);
    }

    /// Tells the loop that it cannot go on: a thread that the daemon needs has died. Never waits.
    pub(crate) fn fail(&self) {
        self.has_failed.store(true, Ordering::Release);
        self.wake();
    }

    /// What was counted, when the loop comes to it; `None` once it has ended.
    pub(crate) fn counters(&self) -> Option<(HubCounters, LoopCounters)> {
        let (sender, receiver) = bounded(1);
        self.order(Order::Count(sender));
        Answer {
            answer: receiver,
            ended: self.ended.clone(),
        }
        .wait()
    }

    /// Lets in with these secrets from now on; `None` leaves the old one.
    pub(crate) fn set_secrets(&self, token_secret: Option<Secret>, api_key: Option<Secret>) {
        self.order(Order::Secrets {
            token_secret,
            api_key,
        });
    }

    /// Speaks TLS with this to new connections.
    pub(crate) fn set_tls(&self, config: Arc<ServerConfig>) {
        self.order(Order::Tls(config));
    }

    /// Hands a call over.
    pub(crate) fn call(&self, call: ProgramCall) -> Result<Answer<ProgramReply>, NotTaken> {
        if self.is_stopping.load(Ordering::Acquire) {
            return Err(NotTaken::Stopped);
        }
        let (reply, receiver) = bounded(1);
        self.calls
            .try_send(Item::Call(Request { call, reply }))
            .map_err(|error| match error {
                TrySendError::Full(_) => NotTaken::Busy,
                TrySendError::Disconnected(_) => NotTaken::Stopped,
            })?;
        self.wake();
        Ok(Answer {
            answer: receiver,
            ended: self.ended.clone(),
        })
    }

    fn order(&self, order: Order) {
        // A loop that has ended has obeyed, and nobody empties its queue.
        select! {
            send(self.orders, order) -> sent => {
                if sent.is_ok() {
                    self.wake();
                }
            }
            recv(self.ended) -> _ => {}
        }
    }

    fn wake(&self) {
        if let Err(error) = self.waker.wake() {
            log::error!("the loop cannot be woken: {error}");
        }
    }
}

impl<T> Answer<T> {
    /// Waits for the answer; `None` if the loop has ended without one.
    pub(crate) fn wait(&self) -> Option<T> {
        select! {
            recv(self.answer) -> answer => answer.ok(),
            // It may have been given in the last moment.
            recv(self.ended) -> _ => self.answer.try_recv().ok(),
        }
    }
}

impl Orders {
    /// The next order.
    pub(super) fn poll(&self) -> Option<Order> {
        self.orders.try_recv().ok()
    }

    /// Hands calls to the hub for as long as it has places, and its answers to those who wait.
    pub(super) fn exchange_calls(&mut self, now: Now, hub: &mut Hub<Socket>) {
        for _ in 0..CALLS_PER_TURN {
            if !hub.may_take_call() || self.is_stopping {
                break;
            }
            let Request { call, reply } = match self.calls.try_recv() {
                Ok(Item::Call(request)) => request,
                Ok(Item::Stop) => {
                    self.is_stopping = true;
                    break;
                }
                Err(_) => break,
            };
            let number = self.replies.insert(reply);
            hub.handle_call(now, number as u64, call);
        }
        while let Some((number, answer)) = hub.poll_answer() {
            if let Some(reply) = self.replies.try_remove(number as usize) {
                // Whoever asked may have lost interest.
                let _ = reply.try_send(answer);
            }
        }
    }

    /// Whether the hub could be given a call, or be told to end.
    pub(super) fn has_backlog(&self, hub: &Hub<Socket>) -> bool {
        if self.is_stopping {
            // The wish may have been found behind the calls at the end of a turn.
            return !hub.is_draining();
        }
        !self.calls.is_empty() && hub.may_take_call()
    }

    /// Whether the loop was told that it cannot go on.
    pub(super) fn has_failed(&self) -> bool {
        self.has_failed.load(Ordering::Acquire)
    }

    /// Whether the loop was told to end, behind all calls that were made before.
    pub(super) fn wants_stop(&self) -> bool {
        self.is_stopping
    }

    /// Passes on what has happened.
    pub(super) fn tell_events(&mut self, hub: &mut Hub<Socket>) {
        let Some(events) = &self.events else {
            return;
        };
        let count = self.missed;
        if count > 0 && events.queue.try_send(Event::Missed { count }).is_ok() {
            self.missed = 0;
        }
        while let Some(event) = hub.poll_event() {
            // Once one was missed, the count comes before any other.
            if self.missed > 0 || events.queue.try_send(event).is_err() {
                self.missed += 1;
            }
        }
    }

    /// When to look again whether there is room to tell what was missed.
    pub(super) fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        (self.missed > 0).then(|| now + MISSED_RETRY)
    }
}

impl Drop for Orders {
    fn drop(&mut self) {
        if let Some(events) = &self.events {
            // Seen by whoever sees that the queue is disconnected, which it is after this.
            events.missed_last.store(self.missed, Ordering::Release);
        }
    }
}

/// Orders that wait for the loop; whoever gives one more waits.
const ORDERS_MAX: usize = 16;

/// How often to try to tell what was missed, while nothing else happens.
const MISSED_RETRY: Duration = Duration::from_millis(50);

/// Calls taken in one turn of the loop, so that a program that calls without end starves nobody.
const CALLS_PER_TURN: usize = 256;

/// Calls that wait for a place.
const CALLS_MAX: usize = 1024;
