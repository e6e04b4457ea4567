//! From one connection for requests to the next.
//!
//! Owns: when it is tried again, and what is remembered of the connections that were lost. Each attempt
//! has a thread of its own, so that whoever waits for it keeps its deadlines meanwhile.

use std::thread;

use crossbeam_channel::{Receiver, Select, TryRecvError, bounded};

use super::backoff::Backoff;
use super::dial::{DialError, Dialer, Link, LostLink, Run};
use crate::base::Instant;

/// The attempts to connect.
pub(super) struct Redial {
    dialer: Dialer,
    dialing: Option<Receiver<Result<Link, DialError>>>,
    backoff: Backoff,
    at: Instant,
    /// The run of the last connection, if there was one.
    previous: Option<Run>,
    lost: Vec<LostLink>,
}

/// Most connections that are remembered to be ended; they pile up only where Redis lets nobody do that.
const LOST_MAX: usize = 64;

impl Redial {
    pub(super) fn new(dialer: Dialer, now: Instant, seed: u64) -> Self {
        Self {
            dialer,
            dialing: None,
            backoff: Backoff::new(seed),
            at: now,
            previous: None,
            lost: Vec::new(),
        }
    }

    /// The address, for all to see.
    pub(super) fn shown(&self) -> &str {
        self.dialer.target.shown()
    }

    /// The connection was lost: tries again after a pause.
    pub(super) fn begin(&mut self, now: Instant, link: Link) {
        let Link { run, client, .. } = link;
        self.previous = Some(run.clone());
        if self.lost.len() == LOST_MAX {
            self.lost.remove(0);
        }
        self.lost.push(LostLink { run, client });
        self.at = now + self.backoff.next();
    }

    /// Goes on trying; returns what came of an attempt.
    pub(super) fn poll(&mut self, now: Instant) -> Option<Result<Link, DialError>> {
        let Some(dialing) = &self.dialing else {
            if now >= self.at {
                self.attempt(now);
            }
            return None;
        };
        let outcome = match dialing.try_recv() {
            Ok(outcome) => outcome,
            Err(TryRecvError::Empty) => return None,
            Err(TryRecvError::Disconnected) => {
                Err(DialError::Unreachable("the attempt has failed".into()))
            }
        };
        self.dialing = None;
        match &outcome {
            Ok(link) => {
                self.backoff.reset();
                if link.has_ended_others {
                    self.lost.clear();
                }
            }
            Err(_) => self.at = now + self.backoff.next(),
        }
        Some(outcome)
    }

    fn attempt(&mut self, now: Instant) {
        let (done, is_done) = bounded(1);
        let dialer = self.dialer.clone();
        let (previous, lost) = (self.previous.clone(), self.lost.clone());
        let attempt = move || {
            // Nobody waits for it any more if the broker has stopped.
            let _ = done.send(dialer.link(previous.as_ref(), &lost));
        };
        let thread = thread::Builder::new().name("redis-dial".into());
        match thread.spawn(attempt) {
            Ok(_) => self.dialing = Some(is_done),
            Err(_) => self.at = now + self.backoff.next(),
        }
    }

    /// When [`Redial::poll`] has something to do, unless `select` says so.
    pub(super) fn select<'s>(&'s self, select: &mut Select<'s>) -> Option<Instant> {
        match &self.dialing {
            Some(dialing) => {
                select.recv(dialing);
                None
            }
            None => Some(self.at),
        }
    }
}
