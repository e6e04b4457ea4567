//! When one connection must be looked at again: pings, the pong timeout, heartbeats.
//!
//! Owns: the time of the last sign of life, or until when one must come, and of the next heartbeat.
//! Never: keeps a timer. The wheel holds one entry a connection, and activity never touches it:
//! when the entry fires, the deadlines are computed anew from what happened meanwhile.

use std::time::Duration;

use crate::base::{Instant, Limits, Prng};

/// The clockwork of one open connection.
#[derive(Clone, Copy, Debug)]
pub struct Heartbeat {
    silence: Silence,
    /// When the next ping is due. Every ping is answered within the pong timeout or ends the
    /// connection, so a fixed pace always leaves the difference of the two to answer.
    next_ping: Instant,
    /// When the next application-level heartbeat is due.
    next_beat: Option<Instant>,
}

/// What was done about the peer's silence. A loop that was stopped for long may not have asked when it
/// should have, and nobody is given up who was not asked.
#[derive(Clone, Copy, Debug)]
enum Silence {
    /// Nothing: it sent a byte at that time, and no ping was due since.
    Unasked(Instant),
    /// It was sent a ping, and must be heard until then.
    Asked(Instant),
    /// It is suspected to be gone, and may still be heard until then.
    Suspected(Instant),
}

/// What is due now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Nothing.
    Nothing,
    /// Send a ping.
    Ping,
    /// Send a heartbeat.
    Beat,
    /// Read once more: the peer was silent for too long, or was not listened to.
    Suspicion,
    /// Close: the peer was silent for too long, and nothing came since the suspicion.
    Silence,
}

impl Heartbeat {
    /// Starts the clockwork; the first ping and heartbeat come at a random time within their
    /// interval, so that connections opened together do not beat together.
    #[must_use]
    pub fn new(now: Instant, limits: &Limits, prng: &mut Prng) -> Self {
        let mut jittered = |interval: Duration| now + prng.between(interval / 10, interval);
        Self {
            silence: Silence::Unasked(now),
            next_ping: limits.ping_interval.map_or(now, &mut jittered),
            next_beat: limits.heartbeat_interval.map(jittered),
        }
    }

    /// The peer sent something, or could not because it was not read.
    pub fn seen(&mut self, now: Instant) {
        self.silence = Silence::Unasked(now);
    }

    /// What is due; asked until it says `Nothing`. What it names is taken as done.
    pub fn poll(&mut self, now: Instant, limits: &Limits) -> Due {
        if let Some(interval) = limits.ping_interval {
            match self.silence {
                Silence::Suspected(until) if now >= until => return Due::Silence,
                Silence::Suspected(_) => return Due::Nothing,
                Silence::Asked(due) if now >= due => {
                    self.silence = Silence::Suspected(now + SUSPICION);
                    return Due::Suspicion;
                }
                Silence::Asked(_) | Silence::Unasked(_) => {}
            }
            if now >= self.next_ping {
                self.next_ping = now + interval;
                if let Silence::Unasked(seen_at) = self.silence {
                    let answer_time = limits.pong_timeout.saturating_sub(interval);
                    let due = (seen_at + limits.pong_timeout).max(now + answer_time);
                    self.silence = Silence::Asked(due);
                }
                return Due::Ping;
            }
        }
        match (self.next_beat, limits.heartbeat_interval) {
            (Some(beat), Some(interval)) if now >= beat => {
                // After a stall of several intervals one beat is enough.
                self.next_beat = Some((beat + interval).max(now + interval / 2));
                Due::Beat
            }
            _ => Due::Nothing,
        }
    }

    /// When to ask again; `None` if nothing will ever be due.
    #[must_use]
    pub fn next_deadline(&self, limits: &Limits) -> Option<Instant> {
        let ping = limits.ping_interval.map(|_| match self.silence {
            Silence::Suspected(until) => until,
            Silence::Asked(due) => self.next_ping.min(due),
            Silence::Unasked(_) => self.next_ping,
        });
        [ping, self.next_beat].into_iter().flatten().min()
    }
}

/// How long a suspicion takes to be confirmed: time for a turn that reads every socket.
const SUSPICION: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    fn limits(ping: Option<u64>, beat: Option<u64>) -> Limits {
        Limits {
            ping_interval: ping.map(seconds),
            pong_timeout: seconds(60),
            heartbeat_interval: beat.map(seconds),
            ..Limits::default()
        }
    }

    #[test]
    fn a_silent_peer_is_pinged_once_and_then_given_up() {
        let limits = limits(Some(54), None);
        let start = Instant::ORIGIN;
        let mut heartbeat = Heartbeat::new(start, &limits, &mut Prng::new(1));
        let first = heartbeat
            .next_deadline(&limits)
            .expect("a ping is due some time");
        assert!(first > start && first <= start + seconds(54));
        assert_eq!(
            heartbeat.poll(first - Duration::from_millis(1), &limits),
            Due::Nothing
        );
        assert_eq!(heartbeat.poll(first, &limits), Due::Ping);
        assert_eq!(heartbeat.poll(first, &limits), Due::Nothing);
        let last = heartbeat.next_deadline(&limits).expect("silence is due");
        assert_eq!(last, (start + seconds(60)).min(first + seconds(54)));
        let end = start + seconds(60);
        assert_eq!(heartbeat.poll(end, &limits), Due::Suspicion);
        let confirmed = heartbeat.next_deadline(&limits).expect("a decision");
        assert_eq!(heartbeat.poll(end, &limits), Due::Nothing);
        let mut heard = heartbeat;
        heard.seen(confirmed);
        assert_ne!(heard.poll(confirmed, &limits), Due::Silence);
        assert_eq!(heartbeat.poll(confirmed, &limits), Due::Silence);
    }

    #[test]
    fn an_answering_peer_is_pinged_every_interval() {
        let limits = limits(Some(54), None);
        let start = Instant::ORIGIN;
        let mut heartbeat = Heartbeat::new(start, &limits, &mut Prng::new(2));
        let mut now = heartbeat.next_deadline(&limits).expect("a deadline");
        for _ in 0..1000 {
            assert_eq!(heartbeat.poll(now, &limits), Due::Ping);
            heartbeat.seen(now);
            let next = heartbeat.next_deadline(&limits).expect("a deadline");
            assert_eq!(next, now + seconds(54));
            now = next;
        }
    }

    #[test]
    fn nobody_is_given_up_who_was_not_asked() {
        let limits = limits(Some(54), None);
        let start = Instant::ORIGIN;
        let mut heartbeat = Heartbeat::new(start, &limits, &mut Prng::new(4));
        let first = heartbeat.next_deadline(&limits).expect("a ping is due");
        assert_eq!(heartbeat.poll(first, &limits), Due::Ping);
        heartbeat.seen(first);
        // The loop was stopped over the next ping and the pong timeout.
        let late = first + seconds(3600);
        assert_eq!(heartbeat.poll(late, &limits), Due::Ping);
        assert_eq!(heartbeat.poll(late, &limits), Due::Nothing);
        let due = heartbeat.next_deadline(&limits).expect("an answer is due");
        assert_eq!(due, late + seconds(6));
        let mut heard = heartbeat;
        heard.seen(due);
        assert_eq!(heard.poll(due, &limits), Due::Nothing);
        assert_eq!(heartbeat.poll(due, &limits), Due::Suspicion);
        let confirmed = heartbeat.next_deadline(&limits).expect("a decision");
        assert_eq!(heartbeat.poll(confirmed, &limits), Due::Silence);
    }

    #[test]
    fn beats_come_without_pings_and_do_not_pile_up() {
        let limits = limits(None, Some(10));
        let start = Instant::ORIGIN;
        let mut heartbeat = Heartbeat::new(start, &limits, &mut Prng::new(3));
        let stalled = start + seconds(1000);
        assert_eq!(heartbeat.poll(stalled, &limits), Due::Beat);
        assert_eq!(heartbeat.poll(stalled, &limits), Due::Nothing);
        assert!(heartbeat.next_deadline(&limits).expect("a deadline") > stalled);
        let none = Limits {
            heartbeat_interval: None,
            ..limits
        };
        let quiet = Heartbeat::new(start, &none, &mut Prng::new(3));
        assert_eq!(quiet.next_deadline(&none), None);
    }
}
