//! From one broadcast to many send queues.
//!
//! The hot path of the daemon: what stands in the loop of `broadcast` is paid once a member.

use std::sync::Arc;

use super::{Hub, mark_dirty};
use crate::base::{CloseReason, ConnId, Delivery, Now, Offset, RoomName};
use crate::conn::Connection;
use crate::conn::pressure::{Level, Verdict, judge};
use crate::conn::send_queue::SendQueue;
use crate::exchange::Broadcast;
use crate::room::members::{Member, Members};
use crate::wire::frame::Frames;
use crate::wire::raw::{self, WireForm};

/// What became of publications that a member was offered.
enum Offer {
    /// None of them is for it.
    Nothing,
    /// So many were queued.
    Kept(usize),
    /// So many were skipped.
    Skipped(usize),
    /// Its queue is full, and its room does not skip.
    Slow,
}

impl<S> Hub<S> {
    /// Queues publications for every member of their room. Returns the number of members.
    pub(super) fn broadcast(&mut self, now: Now, broadcast: &Broadcast) -> usize {
        let bound = Level::bound(&self.limits);
        let mut slow = Vec::new();
        let mut members_len = 0;
        let mut is_any_half_full = false;
        let mut is_any_ready = false;
        if let Some(room) = self.members.room_mut(&broadcast.room) {
            // What begins anew was told with its newest offset, which may be one that nobody gets.
            room.advance_to(broadcast.last.max(room.offset()));
            let delivery = room.delivery();
            let (name, members) = room.name_and_members_mut();
            members_len = members.len();
            for member in members {
                let Some(conn) = self.table.at_mut(member.slot) else {
                    continue;
                };
                let Some(frames) = &broadcast.forms[member.form.index()] else {
                    debug_assert!(false, "{}: its wire form was not encoded", conn.id);
                    continue;
                };
                match offer(conn, member, name, frames, broadcast, (bound, delivery)) {
                    Offer::Nothing => {}
                    Offer::Slow => slow.push(conn.id),
                    Offer::Skipped(count) => self.counters.skipped += count as u64,
                    Offer::Kept(count) => {
                        self.counters.deliveries += count as u64;
                        mark_dirty(conn, &mut self.dirty);
                        if !conn.is_blocked() {
                            is_any_ready = true;
                            is_any_half_full |= conn.queue.level().is_half_of(bound);
                        }
                    }
                }
            }
        }
        if is_any_half_full {
            self.raise_flush_barrier();
        }
        if let (Some(taken_at), true) = (broadcast.taken_at, is_any_ready) {
            self.latency.note_queued(taken_at, self.dirty.len());
        }
        for id in slow {
            self.close(now, id, CloseReason::Slow);
        }
        self.acknowledge(now, &broadcast.origins);
        members_len
    }

    /// Tells the json members of a room that publications are lost to them, and closes the raw ones,
    /// who cannot be told. Returns the number of members.
    pub(super) fn interrupt(
        &mut self,
        now: Now,
        name: &RoomName,
        last: Offset,
        told: &Arc<Frames>,
    ) -> usize {
        let Some(room) = self.members.room_mut(name) else {
            return 0;
        };
        room.advance_to(last);
        let mut closed = Vec::new();
        let (_, members) = room.name_and_members_mut();
        let members_len = members.len();
        for member in members {
            let Some(conn) = self.table.at_mut(member.slot) else {
                continue;
            };
            if member.form.is_json() {
                // What it was not told yet comes before what comes now.
                if member.skipped > 0 {
                    let skipped = u64::from(std::mem::take(&mut member.skipped));
                    push_skipped(&mut conn.queue, member.form, name, skipped);
                }
                conn.queue.push_whole(told);
                mark_dirty(conn, &mut self.dirty);
            } else {
                closed.push(conn.id);
            }
        }
        for id in closed {
            self.lose_room(now, id, name);
        }
        members_len
    }

    /// Tells a member that has drained its queue what it missed.
    pub(super) fn tell_skips(&mut self, id: ConnId) {
        let Some(entry) = self.table.get_mut(id) else {
            return;
        };
        push_skips(&mut self.members, &mut entry.conn);
        mark_dirty(&mut entry.conn, &mut self.dirty);
    }
}

/// Queues what a member is to be told of skips, and forgets them.
pub(super) fn push_skips(members: &mut Members, conn: &mut Connection) {
    members.take_skips(conn.id.slot, |room, skipped, form| {
        push_skipped(&mut conn.queue, form, room, u64::from(skipped));
    });
}

/// Queues what a member is to be told of skips in a room. A raw member cannot be told in band; its
/// count stands in the log and the metrics.
pub(super) fn push_skipped(queue: &mut SendQueue, form: WireForm, room: &RoomName, count: u64) {
    if let Some(told) = raw::skipped(form, room, count) {
        queue.push_whole(&told);
    }
}

/// Queues publications for one member, if its queue has room.
#[inline]
fn offer(
    conn: &mut Connection,
    member: &mut Member,
    room: &RoomName,
    frames: &Arc<Frames>,
    broadcast: &Broadcast,
    (bound, delivery): (Level, Delivery),
) -> Offer {
    let mut count = broadcast.origins.len();
    let mut frames = frames;
    let foreign;
    // A publisher's own publications are mostly still unanswered when they are distributed.
    if !member.echo && (conn.in_flight() > 0 || broadcast.has_answered) {
        let is_foreign = |index: usize| broadcast.origins[index].conn != conn.id;
        let foreign_len = (0..count).filter(|index| is_foreign(*index)).count();
        if foreign_len == 0 {
            return Offer::Nothing;
        }
        if foreign_len < count {
            // Copied, since a part that shares the whole would keep the whole in memory while
            // only the part is counted.
            foreign = frames.select(is_foreign);
            frames = &foreign;
            count = foreign_len;
        }
    }
    let more = Level {
        bytes: frames.bytes().len(),
        publications: count,
    };
    match judge(conn.queue.level(), more, bound, conn.is_blocked(), delivery) {
        Verdict::Close => Offer::Slow,
        Verdict::Skip => {
            member.skipped = member.skipped.saturating_add(count as u32);
            conn.traffic.skipped += count as u64;
            conn.set_owes_skips(true);
            Offer::Skipped(count)
        }
        Verdict::Keep => {
            if member.skipped > 0 && member.form.tells_skips() {
                let skipped = u64::from(std::mem::take(&mut member.skipped));
                push_skipped(&mut conn.queue, member.form, room, skipped);
            }
            conn.queue.push(frames, count as u32);
            conn.traffic.deliveries += count as u64;
            Offer::Kept(count)
        }
    }
}
