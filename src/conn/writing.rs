//! When a connection is written to, and what follows when everything was written.

use super::{Connection, Phase};
use crate::base::{Instant, Limits};

/// What follows when everything queued was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterDrain {
    /// Nothing.
    Nothing,
    /// The next pipelined request may be looked at.
    NextRequest,
    /// The stream is to be ended in the outgoing direction.
    ShutDownWrite,
    /// The connection is over.
    Over,
}

impl Connection {
    /// Whether the hub may ask for it to be written to: not before all rooms are joined that its
    /// first answer waits for, and not while its socket is full.
    #[must_use]
    pub fn may_flush(&self) -> bool {
        !self.is_blocked() && self.has_unwritten()
    }

    /// Whether something waits for its socket, be it in the queue or as ciphertext.
    #[must_use]
    pub fn has_unwritten(&self) -> bool {
        !self.queue.is_empty() || self.flags.is_held
    }

    /// Whether its socket is known to take nothing now.
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        // Without a look at the phase: this is asked several times a delivery.
        self.flags.is_blocked | self.flags.is_waiting
    }

    /// Whether what is queued waits for its first answer, be it to the upgrade or to a command.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.flags.is_waiting
    }

    /// Sets whether what is queued waits for its first answer.
    pub fn set_waiting(&mut self, is_waiting: bool) {
        self.flags.is_waiting = is_waiting;
    }

    /// Sets whether it is in the list of connections to write to; returns what it was.
    pub fn set_dirty(&mut self, is_dirty: bool) -> bool {
        std::mem::replace(&mut self.flags.is_dirty, is_dirty)
    }

    /// Whether it is in the list of connections to write to.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        self.flags.is_dirty
    }

    /// Sets whether it is in the list of connections whose socket has refused bytes; returns what it
    /// was.
    pub fn set_backlogged(&mut self, is_backlogged: bool) -> bool {
        std::mem::replace(&mut self.flags.is_backlogged, is_backlogged)
    }

    /// Whether it is in the list of connections whose socket has refused bytes.
    #[must_use]
    pub fn is_backlogged(&self) -> bool {
        self.flags.is_backlogged
    }

    /// Sets whether skips have not been told; returns what it was.
    pub fn set_owes_skips(&mut self, owes: bool) -> bool {
        std::mem::replace(&mut self.flags.owes_skips, owes)
    }

    /// `bytes` were written, and `is_blocked` says whether the socket then refused more. One that
    /// has taken all there was and is blocked holds the rest, as ciphertext.
    pub fn note_written(&mut self, now: Instant, bytes: usize, is_blocked: bool) {
        self.traffic.sent_bytes += bytes as u64;
        self.flags.is_blocked = is_blocked;
        self.flags.is_held = is_blocked && self.queue.is_empty();
        if bytes > 0 {
            self.flags.is_probed = false;
        }
        if !is_blocked {
            self.stalled_since = None;
        } else if bytes > 0 || self.stalled_since.is_none() {
            self.stalled_since = Some(now);
        }
    }

    /// The socket takes bytes again; returns whether it did not before. Readiness is no progress:
    /// the write timeout goes on being counted until bytes are written.
    pub fn note_writable(&mut self) -> bool {
        std::mem::take(&mut self.flags.is_blocked)
    }

    /// Whether it was written to once more although its socket was full.
    #[must_use]
    pub fn is_probed(&self) -> bool {
        self.flags.is_probed
    }

    /// Sets whether it was written to once more although its socket was full.
    pub fn set_probed(&mut self, is_probed: bool) {
        self.flags.is_probed = is_probed;
    }

    /// What follows now that everything queued was written.
    pub fn after_drain(&mut self, now: Instant, limits: &Limits) -> AfterDrain {
        match &mut self.phase {
            Phase::Answering { .. } | Phase::Closing { .. } | Phase::Open(_)
                if self.flags.saw_eof =>
            {
                AfterDrain::Over
            }
            Phase::Answering { end: None, .. } => AfterDrain::NextRequest,
            Phase::Answering {
                end: Some(reason), ..
            } => {
                let reason = *reason;
                let deadline = now + limits.close_linger;
                self.phase = Phase::Closing {
                    reason,
                    identity: None,
                    deadline,
                    is_heard: false,
                    is_half_closed: true,
                };
                AfterDrain::ShutDownWrite
            }
            Phase::Closing { is_heard: true, .. } => AfterDrain::Over,
            Phase::Closing {
                is_half_closed,
                deadline,
                ..
            } if !*is_half_closed => {
                *is_half_closed = true;
                *deadline = (*deadline).min(now + limits.close_linger);
                AfterDrain::ShutDownWrite
            }
            _ => AfterDrain::Nothing,
        }
    }
}
