//! The way out: from a reason to a close frame, to silence, to the reaper.

use std::borrow::Cow;

use super::fanout::push_skips;
use super::{Hub, mark_dirty};
use crate::base::{CloseReason, ConnId, Instant, Now, RoomName};
use crate::conn::heartbeat::Due;
use crate::conn::{HeadTimeout, Purpose};
use crate::exchange::Job;
use crate::wire::raw::{self, WireForm};
use crate::wire::websocket::InputEnd;

impl<S> Hub<S> {
    /// Ends a connection from our side: tells the peer why, if there is a way to.
    pub(super) fn close(&mut self, now: Now, id: ConnId, reason: CloseReason) {
        let code = reason.code().unwrap_or_default();
        self.close_as(now, id, reason, (code, reason.text()));
    }

    /// The same in other words; `reason` is what is counted.
    pub(super) fn close_as(
        &mut self,
        now: Now,
        id: ConnId,
        reason: CloseReason,
        (code, text): (u16, &str),
    ) {
        let Some(entry) = self.table.get_mut(id) else {
            return;
        };
        let conn = &mut entry.conn;
        if conn.is_ending() {
            return;
        }
        // Who is sent away by a daemon that ends is told when to come back.
        let is_shutdown = reason == CloseReason::Shutdown;
        let retry_ms = if is_shutdown {
            self.stage.retry_ms(&mut self.prng)
        } else {
            None
        };
        let words = match retry_ms {
            Some(retry_ms) => format!("{text} retry_ms={retry_ms}").into(),
            None => Cow::Borrowed(text),
        };
        let (Some(_), Some(open)) = (reason.code(), conn.open()) else {
            if conn.is_joining() {
                self.refuse_joining(now, id, reason, (code, &words));
            } else if conn.is_in_head() || conn.is_in_body() {
                self.end(id, reason);
            }
            // What is answered goes out first.
            return;
        };
        let is_json = match &open.purpose {
            Purpose::Rooms { form, .. } => form.is_json(),
            Purpose::Echo => false,
        };
        let mut deadline = now.instant + self.limits.close_linger;
        if matches!(
            reason,
            CloseReason::Slow | CloseReason::Memory | CloseReason::WriteTimeout
        ) {
            // What it cannot take is not kept for it. It gets the time of a write to come to the
            // close frame behind what its kernel already holds.
            self.counters.dropped_from_queues += conn.queue.drop_backlog() as u64;
            if reason != CloseReason::WriteTimeout {
                deadline = deadline.max(now.instant + self.limits.write_timeout);
            }
        }
        if is_shutdown {
            // What it is owed goes out first, at the pace of its reader.
            if conn.set_owes_skips(false) {
                push_skips(&mut self.members, conn);
            }
            if conn.has_unwritten() {
                deadline = deadline.max(now.instant + self.limits.write_timeout);
            }
        }
        if conn.is_waiting() {
            // What has waited for its first answer.
            conn.queue.drop_backlog();
        }
        if is_json {
            conn.queue.push_whole(&raw::closing(code, text, retry_ms));
            conn.push_close(code, text);
        } else {
            conn.push_close(code, &words);
        }
        self.start_closing(id, reason, deadline, false);
    }

    /// Acts on the end of the input: when the outcome of every message before it is known.
    pub(super) fn finish_input(&mut self, now: Now, id: ConnId, end: InputEnd) {
        let Some(entry) = self.table.get_mut(id) else {
            return;
        };
        let conn = &mut entry.conn;
        match end {
            InputEnd::Failed(reason) => self.close(now, id, reason),
            InputEnd::Closed(echo) if conn.in_flight() > 0 => {
                // What has come before it may yet be refused, and its sender told so.
                if let Some(open) = conn.open_mut() {
                    open.inbound.put_back_end(InputEnd::Closed(echo));
                }
            }
            InputEnd::Closed(echo) => {
                if !matches!(conn.purpose(), Some(Purpose::Echo)) && conn.session().is_none() {
                    // Who leaves a room does not wait for what it had to say.
                    conn.queue.drop_backlog();
                }
                conn.push_close_answer(echo.into());
                let deadline = now.instant + self.limits.close_linger;
                self.start_closing(id, CloseReason::Normal, deadline, true);
            }
        }
    }

    /// The connection is over: nothing more is read or written.
    pub(super) fn end(&mut self, id: ConnId, reason: CloseReason) {
        let Some(entry) = self.table.get_mut(id) else {
            return;
        };
        if entry.conn.closed_reason().is_some() {
            return;
        }
        self.calls.forget_answer(entry.conn.take_counted_bytes());
        if entry.conn.is_calling() {
            self.calls.forget_waiting(id);
        }
        self.leave_rooms(id);
        if let Some(entry) = self.table.get_mut(id)
            && entry.conn.end(reason)
        {
            self.wheel.cancel(id.slot);
            self.closed.push_back(id);
        }
    }

    /// The same where what is queued was owed to the peer: it is counted as dropped.
    pub(super) fn drop_and_end(&mut self, id: ConnId, reason: CloseReason) {
        if let Some(entry) = self.table.get_mut(id) {
            let dropped = entry.conn.queue.level().publications;
            self.counters.dropped_from_queues += dropped as u64;
        }
        self.end(id, reason);
    }

    /// A connection's timer has fired: does what is due and sets the next.
    pub(super) fn look_at(&mut self, now: Now, slot: u32) {
        let Some(conn) = self.table.at_mut(slot) else {
            return;
        };
        let id = conn.id;
        if conn
            .next_deadline(&self.limits)
            .is_some_and(|deadline| deadline <= now.instant)
        {
            if conn.is_write_overdue(now.instant, &self.limits) && !conn.is_ending() {
                self.look_at_stalled(now, id);
            } else if conn.open().is_some() {
                self.look_at_open(now, id);
            } else if let Some(timeout) = conn.head_timeout() {
                match timeout {
                    HeadTimeout::Begun => self.answer_timeout(now, id),
                    HeadTimeout::Silent => self.end(id, CloseReason::HandshakeTimeout),
                    HeadTimeout::Done => self.end(id, CloseReason::Answered),
                }
            } else if conn.is_joining() {
                self.refuse_joining_plainly(now, id, CloseReason::HandshakeTimeout);
            } else if conn.is_in_body() {
                self.answer_timeout(now, id);
            } else {
                // A close frame that found no way out, or a peer that did not end.
                self.drop_and_end(id, CloseReason::WriteTimeout);
            }
        }
        self.arm(id);
    }

    /// What is queued for a connection has made no progress for too long.
    fn look_at_stalled(&mut self, now: Now, id: ConnId) {
        let Some(entry) = self.table.get_mut(id) else {
            return;
        };
        let conn = &mut entry.conn;
        if !conn.is_probed() {
            // The kernel says that a socket takes bytes again only when a good part of its buffer
            // is free. A peer that reads slowly is making progress all the same, so it is no word
            // of the kernel but a write that decides.
            conn.set_probed(true);
            conn.note_writable();
            mark_dirty(conn, &mut self.dirty);
        } else if conn.is_dirty() {
            // Its turn to be written to has not come: there are more of them than a turn writes to.
        } else if conn.open().is_some() {
            self.close(now, id, CloseReason::WriteTimeout);
        } else {
            self.end(id, CloseReason::WriteTimeout);
        }
    }

    fn look_at_open(&mut self, now: Now, id: ConnId) {
        let Some(entry) = self.table.get_mut(id) else {
            return;
        };
        let conn = &mut entry.conn;
        let expires_at = conn.open().and_then(|open| open.expires_at);
        if expires_at.is_some_and(|expiry| expiry <= now.instant) {
            self.close(now, id, CloseReason::ConnectionExpired);
            return;
        }
        if conn.session().is_some() {
            return self.look_at_session(now, id);
        }
        let is_reading = conn.is_reading(&self.limits);
        loop {
            let Some((open, queue)) = conn.open_and_queue() else {
                return;
            };
            if !is_reading {
                // It may have spoken; we are not listening.
                open.heartbeat.seen(now.instant);
            }
            match open.heartbeat.poll(now.instant, &self.limits) {
                Due::Nothing => break,
                Due::Ping => queue.push_ping(),
                Due::Beat => {
                    // Bytes that wait are sign of life enough for a peer that is behind.
                    let Purpose::Rooms { form, .. } = open.purpose else {
                        continue;
                    };
                    if !queue.is_empty() {
                        continue;
                    }
                    if form.is_json() {
                        let rooms = self
                            .members
                            .rooms_of(id.slot)
                            .map(|(room, _)| (room.name(), room.offset(), room.online()));
                        queue.push_whole(&raw::heartbeat(now.unix_ms, rooms));
                    } else {
                        queue.push_whole(&self.heartbeat);
                    }
                }
                // Its answer may lie in the kernel, where a stalled loop has left it: read once
                // more before giving it up.
                Due::Suspicion => self.resumed.push_back(id),
                Due::Silence => {
                    self.close(now, id, CloseReason::NoPong);
                    return;
                }
            }
        }
        mark_dirty(conn, &mut self.dirty);
    }

    /// Moves on to closing; the close frame is queued. `is_heard` when the peer has closed too.
    pub(super) fn start_closing(
        &mut self,
        id: ConnId,
        reason: CloseReason,
        deadline: Instant,
        is_heard: bool,
    ) {
        self.leave_rooms(id);
        if let Some(entry) = self.table.get_mut(id) {
            entry.conn.start_closing(reason, deadline, is_heard);
            mark_dirty(&mut entry.conn, &mut self.dirty);
        }
        self.arm(id);
        self.resume(id);
    }

    pub(super) fn leave_rooms(&mut self, id: ConnId) {
        while let Some((room, form)) = self.members.leave_one(id.slot) {
            self.leave(id, room, form);
        }
        let Some(entry) = self.table.get_mut(id) else {
            return;
        };
        self.open_len -= usize::from(entry.conn.open().is_some());
        let Some(Purpose::Rooms { form, identity, .. }) = entry.conn.purpose() else {
            return;
        };
        let form = *form;
        if let Some(identity) = identity {
            self.users.leave(&identity.user, id);
        }
        for missed in entry.conn.take_missed() {
            self.leave(id, missed.room, form);
        }
    }

    /// Tells a room's shard that it has a member less.
    pub(super) fn leave(&mut self, conn: ConnId, room: RoomName, form: WireForm) {
        let worker = self.jobs.worker_of(&room);
        self.jobs
            .push_leave(worker, Job::Unsubscribe { conn, room, form });
    }
}
