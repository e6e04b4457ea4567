//! A connection while it speaks plain HTTP: the head and the body of a request, the wait for its
//! answer.

use std::time::Instant;

use super::{Connection, Phase};
use crate::base::{CloseReason, Limits};
use crate::wire::body::{BodyPlan, BodyReader};

/// The body of an API call on its way in.
#[derive(Debug)]
pub struct Body {
    /// The last part of the path.
    method: Box<str>,
    reader: BodyReader,
    /// Received before there was a place for the call.
    rest: Vec<u8>,
    has_place: bool,
    /// Most bytes that it can have.
    bytes_max: usize,
    needs_continue: bool,
    end: Option<CloseReason>,
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
    pub fn start_answering(
        &mut self,
        now: Instant,
        rest: Vec<u8>,
        end: Option<CloseReason>,
        limits: &Limits,
    ) {
        self.phase = Phase::Answering {
            rest,
            deadline: now + limits.write_timeout,
            end,
        };
    }

    /// Moves back to the next head, with what was received of it.
    pub fn start_next_head(&mut self, now: Instant, limits: &Limits) {
        if let Phase::Answering { rest, .. } = &mut self.phase {
            let buffer = std::mem::take(rest);
            let deadline = now + limits.handshake_timeout;
            self.phase = Phase::Head {
                buffer,
                deadline,
                has_answered: true,
            };
        }
    }

    /// Whether the connection stays after the answer it is waiting for.
    #[must_use]
    pub fn is_kept_alive(&self) -> bool {
        matches!(self.phase, Phase::Answering { end: None, .. })
    }

    /// Moves on to reading the body of a call to `method`; `rest` was received behind the head, and
    /// `end` says how the connection ends after the answer, if it does.
    pub fn start_body(
        &mut self,
        now: Instant,
        (method, plan): (&str, BodyPlan),
        rest: Vec<u8>,
        end: Option<CloseReason>,
        limits: &Limits,
    ) {
        self.phase = Phase::Body(Box::new(Body {
            method: method.into(),
            reader: plan.reader(),
            rest,
            has_place: false,
            bytes_max: plan.bytes_max(),
            needs_continue: plan.needs_continue(),
            end,
            deadline: now + limits.handshake_timeout,
        }));
    }

    /// There is a place for the call, and time for its body from now on. Returns what was received
    /// of it, and whether the peer waits to be told that it may send it; `None` if no place is
    /// wanted.
    pub fn give_place(&mut self, now: Instant, limits: &Limits) -> Option<(Vec<u8>, bool)> {
        match &mut self.phase {
            Phase::Body(body) if !body.has_place => {
                body.has_place = true;
                body.deadline = now + limits.handshake_timeout;
                let rest = std::mem::take(&mut body.rest);
                let needs_continue = body.needs_continue && rest.is_empty();
                Some((rest, needs_continue))
            }
            _ => None,
        }
    }

    /// The reader of a body whose call has a place.
    pub fn body_reader_mut(&mut self) -> Option<&mut BodyReader> {
        match &mut self.phase {
            Phase::Body(body) if body.has_place => Some(&mut body.reader),
            _ => None,
        }
    }

    /// Whether a body is on its way in: whether its call has a place, and most bytes it can have.
    #[must_use]
    pub fn body(&self) -> Option<(bool, usize)> {
        match &self.phase {
            Phase::Body(body) => Some((body.has_place, body.bytes_max)),
            _ => None,
        }
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
