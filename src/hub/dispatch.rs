//! From messages to jobs, and from effects to frames in send queues.

use std::sync::Arc;

use super::table::Table;
use super::{Handled, Hub, mark_dirty};
use crate::base::{CloseReason, ConnId, Now, Offset, RoomName};
use crate::conn::pressure::{Level, Verdict, judge};
use crate::conn::{Connection, Purpose};
use crate::exchange::{Broadcast, Effect, Job};
use crate::wire::frame::Frames;
use crate::wire::raw::{self, WireForm};
use crate::wire::websocket::InputEnd;

impl<S> Hub<S> {
    /// A worker has something to say.
    pub fn handle_effect(&mut self, now: Now, effect: Effect) -> Handled {
        match effect {
            Effect::Broadcast(broadcast) => self.broadcast(now, &broadcast),
            Effect::Reply {
                conn,
                frames,
                payload_bytes,
            } => self.reply(now, conn, &frames, payload_bytes as usize),
            Effect::Joined {
                conn,
                room,
                form,
                offset,
                frames,
            } => {
                self.joined(now, conn, &room, form, offset, frames);
                Handled {
                    pushes: 1,
                    flush_first: false,
                }
            }
        }
    }

    /// Turns up to `budget` messages of an open WebSocket into jobs, for as long as its bounds and
    /// its worker's queue have room.
    pub(super) fn read_messages(&mut self, now: Now, id: ConnId, budget: usize) {
        let Some(entry) = self.table.get_mut(id) else {
            return;
        };
        let conn = &mut entry.conn;
        let mut taken = 0;
        while conn.may_take_message(&self.limits) {
            let Some((open, queue)) = conn.open_and_queue() else {
                break;
            };
            // Only a message needs its worker; pings, pongs and a close must come through to a
            // connection that can publish nothing.
            let worker = match &open.purpose {
                _ if open.inbound.is_drained() => None,
                Purpose::Echo => Some(self.jobs.worker_of_echo(id)),
                Purpose::Rooms { target, .. } => {
                    target.as_ref().map(|room| self.jobs.worker_of(room))
                }
            };
            if let Some(worker) = worker
                && (taken == budget || !self.jobs.has_credit(worker))
            {
                conn.set_awaits_worker(true);
                self.jobs.wait(worker, id);
                break;
            }
            let payload = match open.inbound.poll(queue) {
                Ok(Some(payload)) => payload,
                Ok(None) => break,
                Err(end) => {
                    open.input_end = Some(end);
                    break;
                }
            };
            taken += 1;
            let payload_bytes = payload.bytes().len();
            let job = match &open.purpose {
                Purpose::Echo => Job::Echo { conn: id, payload },
                Purpose::Rooms {
                    target: Some(room),
                    user,
                    ..
                } => Job::Publish {
                    origin: id,
                    room: room.clone(),
                    user: user.clone(),
                    payload,
                },
                Purpose::Rooms { target: None, .. } => {
                    open.input_end = Some(InputEnd::Failed(CloseReason::PermissionDenied));
                    break;
                }
            };
            if let Some(worker) = worker {
                self.jobs.push(worker, job);
                conn.note_handed_over(payload_bytes);
                self.counters.received_messages += 1;
            }
        }
        mark_dirty(conn, &mut self.dirty);
        self.finish_input(now, id);
    }

    /// A worker is done with a message of the connection: its place is free.
    fn answered(&mut self, now: Now, id: ConnId, payload_bytes: usize) {
        let Some(entry) = self.table.get_mut(id) else {
            return;
        };
        let conn = &mut entry.conn;
        conn.note_answered(payload_bytes);
        if conn.open().is_some_and(|open| open.input_end.is_some()) {
            self.finish_input(now, id);
        } else if conn.is_paused() && conn.may_resume(&self.limits) {
            self.read_messages(now, id, usize::MAX);
            self.resume(id);
        }
    }

    fn reply(
        &mut self,
        now: Now,
        id: ConnId,
        frames: &Arc<Frames>,
        payload_bytes: usize,
    ) -> Handled {
        let mut flush_first = false;
        if let Some(entry) = self.table.get_mut(id) {
            let conn = &mut entry.conn;
            // Its place in the queue was kept when the message was taken.
            conn.queue.push(frames, frames.range(0), 1);
            conn.traffic.deliveries += 1;
            self.counters.deliveries += 1;
            mark_dirty(conn, &mut self.dirty);
            flush_first = !conn.is_blocked() && conn.queue.level().is_half_of(bound(&self.limits));
        }
        self.answered(now, id, payload_bytes);
        Handled {
            pushes: 1,
            flush_first,
        }
    }

    fn joined(
        &mut self,
        now: Now,
        id: ConnId,
        room: &RoomName,
        form: WireForm,
        offset: Offset,
        frames: Option<Arc<Frames>>,
    ) {
        let wants = self
            .table
            .get_mut(id)
            .filter(|entry| entry.conn.is_joining())
            .and_then(|entry| match entry.conn.purpose() {
                Some(Purpose::Rooms { form, echo, .. }) => Some((*form, *echo)),
                _ => None,
            });
        let Some(wants) = wants else {
            // It died meanwhile; the shard must not count it for ever.
            self.jobs.push_assured(
                room,
                Job::Unsubscribe {
                    room: room.clone(),
                    form,
                },
            );
            return;
        };
        let limits = &self.limits;
        self.members.join(room, id.slot, wants, offset, || {
            limits.delivery(room.as_str())
        });
        let Some(entry) = self.table.get_mut(id) else {
            return;
        };
        let conn = &mut entry.conn;
        if let Some(frames) = frames {
            conn.queue.push_whole(&frames);
        }
        if conn.note_joined() {
            self.open_up(now, id);
        }
    }

    /// The WebSocket begins: what is queued may go out, what came behind the head is read.
    pub(super) fn open_up(&mut self, now: Now, id: ConnId) {
        let Some(entry) = self.table.get_mut(id) else {
            return;
        };
        entry.conn.open_up();
        self.counters.upgrades += 1;
        self.wheel.cancel(id.slot);
        self.arm(id);
        self.read_messages(now, id, usize::MAX);
        self.resume(id);
    }

    fn broadcast(&mut self, now: Now, broadcast: &Broadcast) -> Handled {
        let mut handled = Handled {
            pushes: 1,
            flush_first: false,
        };
        let bound = bound(&self.limits);
        let count = broadcast.origins.len();
        let mut slow = Vec::new();
        let mut has_deaf_members = false;
        if let Some(room) = self.members.room_mut(&broadcast.room) {
            room.advance_to(broadcast.last);
            let delivery = room.delivery();
            has_deaf_members = room.has_deaf_members();
            if has_deaf_members {
                mark_origins(&mut self.table, broadcast, true);
            }
            let (name, members) = room.name_and_members_mut();
            handled.pushes += members.len();
            for member in members {
                let Some(conn) = self.table.at_mut(member.slot) else {
                    continue;
                };
                let Some(frames) = &broadcast.forms[member.form.index()] else {
                    debug_assert!(false, "{}: its wire form was not encoded", conn.id);
                    continue;
                };
                let own = if !member.echo && conn.is_origin() {
                    own_of(conn, broadcast)
                } else {
                    0
                };
                let owed = count - own;
                if owed == 0 {
                    continue;
                }
                let more = Level {
                    bytes: frames.bytes().len(),
                    publications: owed,
                };
                match judge(conn.queue.level(), more, bound, conn.is_blocked(), delivery) {
                    Verdict::Close => slow.push(conn.id),
                    Verdict::Skip => {
                        member.skipped = member.skipped.saturating_add(owed as u32);
                        conn.traffic.skipped += owed as u64;
                        self.counters.skipped += owed as u64;
                        conn.set_owes_skips(true);
                    }
                    Verdict::Keep => {
                        if member.skipped > 0 && member.form == WireForm::Json {
                            let skipped = u64::from(std::mem::take(&mut member.skipped));
                            conn.queue.push_whole(&raw::skipped(name, skipped));
                        }
                        if own > 0 {
                            push_all_but_own(conn, frames, broadcast);
                        } else {
                            let end = frames.bytes().len() as u32;
                            conn.queue.push(frames, (0, end), count as u32);
                        }
                        conn.traffic.deliveries += owed as u64;
                        self.counters.deliveries += owed as u64;
                        mark_dirty(conn, &mut self.dirty);
                        handled.flush_first |=
                            !conn.is_blocked() && conn.queue.level().is_half_of(bound);
                    }
                }
            }
        }
        if has_deaf_members {
            mark_origins(&mut self.table, broadcast, false);
        }
        for id in slow {
            self.close(now, id, CloseReason::Slow);
        }
        for origin in &broadcast.origins {
            self.answered(now, origin.conn, origin.payload_bytes as usize);
        }
        handled
    }

    /// Tells a member that has drained its queue what it missed.
    pub(super) fn tell_skips(&mut self, id: ConnId) {
        let Some(entry) = self.table.get_mut(id) else {
            return;
        };
        let conn = &mut entry.conn;
        self.members.take_skips(id.slot, |room, skipped, form| {
            // A raw member cannot be told in band; its count stands in the log and the metrics.
            if form == WireForm::Json {
                conn.queue
                    .push_whole(&raw::skipped(room, u64::from(skipped)));
            }
        });
        mark_dirty(conn, &mut self.dirty);
    }
}

/// Marks the publishers of a merge, so that those of them who do not want their own are found
/// without a search for each member.
fn mark_origins<S>(table: &mut Table<S>, broadcast: &Broadcast, is_origin: bool) {
    for origin in &broadcast.origins {
        if let Some(entry) = table.get_mut(origin.conn) {
            entry.conn.set_origin(is_origin);
        }
    }
}

/// How many publications of a merge the connection published itself.
fn own_of(conn: &Connection, broadcast: &Broadcast) -> usize {
    let own = broadcast
        .origins
        .iter()
        .filter(|origin| origin.conn == conn.id);
    own.count()
}

/// Queues the publications of a merge that the connection did not publish itself.
fn push_all_but_own(conn: &mut Connection, frames: &Arc<Frames>, broadcast: &Broadcast) {
    for (index, origin) in broadcast.origins.iter().enumerate() {
        if origin.conn != conn.id {
            conn.queue.push(frames, frames.range(index), 1);
        }
    }
}

fn bound(limits: &crate::base::Limits) -> Level {
    Level {
        bytes: limits.outbound_bytes_max,
        publications: limits.outbound_publications_max,
    }
}
