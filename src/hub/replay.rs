//! Giving a member what it missed, before it is live.
//!
//! A room that a connection has joined with something missed stands in the connection's list of
//! rooms to catch up with, and not yet among its members: broadcasts pass it by, and the shard has
//! them in its history. One part at a time is asked for, when the send queue is less than half
//! full, so that a resume longer than the queue is paced by the reader and never slow.

use std::sync::Arc;

use super::fanout::push_skipped;
use super::{Hub, mark_dirty};
use crate::base::{CloseReason, ConnId, Now, Offset, RoomName};
use crate::conn::pressure::Level;
use crate::conn::{Missed, Purpose};
use crate::exchange::{Job, Replay, Subscribed};
use crate::wire::frame::Frames;
use crate::wire::raw::WireForm;

/// What a shard says of a join.
pub(super) struct Joined {
    pub(super) room: RoomName,
    pub(super) form: WireForm,
    pub(super) offset: Offset,
    pub(super) after: Offset,
    pub(super) owed_after: Offset,
    pub(super) is_incomplete: bool,
    pub(super) frames: Option<Arc<Frames>>,
    pub(super) result: Option<Box<Subscribed>>,
}

impl<S> Hub<S> {
    /// A room was joined: the connection is a member, or has to catch up first.
    pub(super) fn joined(&mut self, now: Now, id: ConnId, joined: Joined) {
        if self.is_session(id) {
            return self.subscribed(now, id, joined);
        }
        let is_wanted = self
            .table
            .get_mut(id)
            .is_some_and(|entry| entry.conn.is_joining());
        if !is_wanted {
            // It died meanwhile; the shard must not count it for ever.
            self.leave(id, joined.room, joined.form);
            return;
        }
        if joined.after < joined.offset || joined.is_incomplete {
            if let Some(entry) = self.table.get_mut(id) {
                // A raw member cannot be told of a loss in band.
                let is_doomed = joined.is_incomplete && !joined.form.is_json();
                let missed = Missed {
                    room: joined.room,
                    after: joined.after,
                    owed_after: joined.owed_after,
                    joined_at: joined.offset,
                    is_asked: false,
                };
                entry.conn.add_missed(missed, is_doomed);
            }
        } else {
            self.add_member(id, &joined.room, joined.offset);
        }
        let Some(entry) = self.table.get_mut(id) else {
            return;
        };
        let conn = &mut entry.conn;
        if let Some(frames) = joined.frames {
            conn.queue.push_whole(&frames);
        }
        if conn.note_joined() {
            if self.is_draining() {
                self.close(now, id, CloseReason::Shutdown);
                return;
            }
            self.open_up(now, id);
        }
    }

    /// A part of what a member missed has come.
    pub(super) fn replayed(
        &mut self,
        now: Now,
        id: ConnId,
        room: &RoomName,
        (skipped, frames): (u64, Option<Arc<Frames>>),
        outcome: Replay,
    ) {
        let Some(entry) = self.table.get_mut(id) else {
            return;
        };
        let conn = &mut entry.conn;
        // A connection that is ending has left its rooms already.
        let Some(missed) = conn.next_missed_mut().filter(|missed| missed.room == *room) else {
            return;
        };
        missed.is_asked = false;
        if let Replay::More(after) = outcome {
            missed.after = after;
            // From its first publication on, every gap is told.
            missed.owed_after = after;
        }
        if skipped > 0 {
            if let Some(form) = conn.form() {
                push_skipped(&mut conn.queue, form, room, skipped);
            }
            conn.traffic.skipped += skipped;
            self.counters.skipped += skipped;
            mark_dirty(conn, &mut self.dirty);
        }
        if let Some(frames) = frames {
            let count = frames.count();
            conn.queue.push(&frames, count as u32);
            conn.traffic.deliveries += count as u64;
            self.counters.deliveries += count as u64;
            self.counters.replayed += count as u64;
            mark_dirty(conn, &mut self.dirty);
            if !conn.is_blocked() && conn.queue.level().is_half_of(Level::bound(&self.limits)) {
                self.raise_flush_barrier();
            }
        }
        match outcome {
            Replay::More(_) => {}
            Replay::Overtaken => self.lose_room(now, id, room),
            Replay::Live(offset) => {
                if let Some(entry) = self.table.get_mut(id) {
                    entry.conn.remove_next_missed();
                }
                self.add_member(id, room, offset);
            }
        }
        self.catch_up(id);
    }

    /// Asks for the next part of what a connection missed, if it has room for it.
    pub(super) fn catch_up(&mut self, id: ConnId) {
        let bound = Level::bound(&self.limits);
        let Some(entry) = self.table.get_mut(id) else {
            return;
        };
        let conn = &mut entry.conn;
        if conn.queue.level().is_half_of(bound) {
            return;
        }
        let (form, echo) = match conn.purpose() {
            Some(Purpose::Rooms { form, echo, .. }) => (*form, *echo),
            _ => return,
        };
        let Some(missed) = conn.next_missed_mut().filter(|missed| !missed.is_asked) else {
            return;
        };
        let worker = self.jobs.worker_of(&missed.room);
        if !self.jobs.has_credit(worker) {
            if !conn.set_awaits_worker(true) {
                self.jobs.wait(worker, id);
            }
            return;
        }
        missed.is_asked = true;
        let Missed {
            after,
            owed_after,
            joined_at,
            ..
        } = *missed;
        let room = missed.room.clone();
        self.jobs.push(
            worker,
            Job::CatchUp {
                conn: id,
                room,
                form,
                echo,
                after,
                owed_after,
                joined_at,
            },
        );
    }

    /// Makes a connection a member of a room that stands at `offset`.
    pub(super) fn add_member(&mut self, id: ConnId, room: &RoomName, offset: Offset) {
        let wants = self
            .table
            .get_mut(id)
            .and_then(|entry| match entry.conn.purpose() {
                Some(Purpose::Rooms { form, echo, .. }) => Some((*form, *echo)),
                _ => None,
            });
        if let Some(wants) = wants {
            let limits = &self.limits;
            let delivery = || limits.delivery(room.as_str());
            self.members.join(room, id.slot, wants, offset, delivery);
            let subscription = self.session_mut(id).and_then(|it| it.subscription(room));
            if subscription.is_some_and(|one| one.watches) {
                self.members.watch(room, id.slot);
            }
        }
    }
}
