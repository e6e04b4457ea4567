//! A connection while it speaks plain HTTP: the head and the body of a request, the wait for its
//! answer.

use std::time::Duration;

use super::{Connection, Entrance, Phase};
use crate::base::{CloseReason, Instant, Limits};
use crate::wire::body::{BodyPlan, BodyReader};
use crate::wire::http::is_blank;

/// The body of an API call on its way in.
#[derive(Debug)]
pub struct Body {
    /// The last part of the path.
    method: Box<str>,
    reader: BodyReader,
    end: Option<CloseReason>,
    pub(super) deadline: Instant,
}

/// A long answer on its way out.
#[derive(Debug)]
pub(super) struct LongAnswer {
    /// What of it is counted until it is written.
    bytes: usize,
    /// When it must be written.
    pub(super) deadline: Instant,
}

/// What a connection without a complete request was when its time was over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadTimeout {
    /// It has begun a request.
    Begun,
    /// It has said nothing.
    Silent,
    /// It has had an answer before and wants nothing more.
    Done,
}

impl Connection {
    /// The bytes of an unfinished head, to append to and to parse.
    pub fn head_mut(&mut self) -> Option<&mut Vec<u8>> {
        match &mut self.phase {
            Phase::Head { buffer, .. } => Some(buffer),
            _ => None,
        }
    }

    /// Moves on to answering: `rest` was received behind the request; `end` says how the
    /// connection ends after the answer, if it does.
    pub fn start_answering(&mut self, rest: Vec<u8>, end: Option<CloseReason>) {
        self.flags.is_waiting = false;
        self.phase = Phase::Answering {
            rest,
            end,
            long: None,
        };
    }

    /// So many bytes of the answer are counted until it is written. Since others wait for them,
    /// there is a time for it, however slowly the peer reads.
    pub fn set_counted_bytes(&mut self, now: Instant, bytes: usize) {
        if let Phase::Answering { long, .. } = &mut self.phase {
            let deadline = now + LONG_ANSWER_TIME;
            *long = Some(Box::new(LongAnswer { bytes, deadline }));
        }
    }

    /// How many bytes of its answer are counted until it is written.
    #[must_use]
    pub fn counted_bytes(&self) -> usize {
        match &self.phase {
            Phase::Answering {
                long: Some(long), ..
            } => long.bytes,
            _ => 0,
        }
    }

    /// Takes how many bytes of its answer are counted until it is written.
    pub fn take_counted_bytes(&mut self) -> usize {
        match &mut self.phase {
            Phase::Answering { long, .. } => long.take().map_or(0, |long| long.bytes),
            _ => 0,
        }
    }

    /// Moves back to the next head, with what was received of it.
    pub fn start_next_head(&mut self, now: Instant, limits: &Limits) {
        if let Phase::Answering { rest, .. } = &mut self.phase {
            let buffer = std::mem::take(rest);
            // A back end keeps connections for its next call.
            let time = if self.entrance == Entrance::Admin && is_blank(&buffer) {
                KEEP_ALIVE.max(limits.handshake_timeout)
            } else {
                limits.handshake_timeout
            };
            self.phase = Phase::Head {
                buffer,
                deadline: now + time,
                has_answered: true,
            };
        }
    }

    /// The first bytes of a head have come.
    pub fn note_head_begun(&mut self, now: Instant, limits: &Limits) {
        if let Phase::Head {
            deadline,
            has_answered: true,
            ..
        } = &mut self.phase
        {
            *deadline = now + limits.handshake_timeout;
        }
    }

    /// Whether the connection stays after the answer it is waiting for.
    #[must_use]
    pub fn is_kept_alive(&self) -> bool {
        matches!(self.phase, Phase::Answering { end: None, .. })
    }

    /// Moves on to reading the body of a call to `method`; `end` says how the connection ends after
    /// the answer, if it does.
    pub fn start_body(
        &mut self,
        now: Instant,
        (method, plan): (&str, BodyPlan),
        end: Option<CloseReason>,
        limits: &Limits,
    ) {
        self.phase = Phase::Body(Box::new(Body {
            method: method.into(),
            reader: plan.reader(),
            end,
            deadline: now + limits.handshake_timeout,
        }));
    }

    /// The reader of a body that is on its way in.
    pub fn body_reader_mut(&mut self) -> Option<&mut BodyReader> {
        match &mut self.phase {
            Phase::Body(body) => Some(&mut body.reader),
            _ => None,
        }
    }

    /// Whether a body is on its way in.
    #[must_use]
    pub fn is_in_body(&self) -> bool {
        matches!(self.phase, Phase::Body(_))
    }

    /// Whether it waits for the answer to a call.
    #[must_use]
    pub fn is_calling(&self) -> bool {
        matches!(self.phase, Phase::Calling { .. })
    }

    /// The body is whole: moves on to the call. Returns its method and the body.
    pub fn start_calling(&mut self, rest: Vec<u8>) -> Option<(Box<str>, Vec<u8>)> {
        let Phase::Body(body) = &mut self.phase else {
            return None;
        };
        let end = body.end;
        let calling = Phase::Calling { rest, end };
        match std::mem::replace(&mut self.phase, calling) {
            Phase::Body(body) => Some((body.method, body.reader.into_bytes())),
            _ => None,
        }
    }

    /// The call has its answer. Returns what was received behind the call, and how the connection
    /// ends after the answer, if it does; `None` if it does not wait for one.
    pub fn end_calling(&mut self) -> Option<(Vec<u8>, Option<CloseReason>)> {
        match &mut self.phase {
            Phase::Calling { rest, end } => Some((std::mem::take(rest), *end)),
            _ => None,
        }
    }

    /// Whether it waits for a request head.
    #[must_use]
    pub fn is_in_head(&self) -> bool {
        matches!(self.phase, Phase::Head { .. })
    }

    /// What a connection without a complete request is, now that its time is over.
    #[must_use]
    pub fn head_timeout(&self) -> Option<HeadTimeout> {
        match &self.phase {
            Phase::Head {
                buffer,
                has_answered,
                ..
            } => Some(match (buffer.is_empty(), has_answered) {
                (false, _) => HeadTimeout::Begun,
                (true, false) => HeadTimeout::Silent,
                (true, true) => HeadTimeout::Done,
            }),
            _ => None,
        }
    }
}

/// How long a long answer may take to be read: 280 KB a second for the longest.
const LONG_ANSWER_TIME: Duration = Duration::from_secs(60);

/// How long the admin listener keeps a connection that asks for nothing.
const KEEP_ALIVE: Duration = Duration::from_secs(120);
