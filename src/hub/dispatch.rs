//! From messages to jobs, and from effects back to connections.

use super::replay::Joined;
use super::{Event, Hub, mark_dirty};
use crate::base::{CloseReason, ConnId, Now};
use crate::conn::Purpose;
use crate::conn::pressure::Level;
use crate::exchange::{Effect, Job, Terms};
use crate::wire::websocket::InputEnd;

impl<S> Hub<S> {
    /// A worker has something to say. Returns how many connections it was for. Must not be called
    /// while [`Hub::wants_flush`].
    pub fn handle_effect(&mut self, now: Now, effect: Effect) -> usize {
        debug_assert!(
            !self.wants_flush(),
            "an effect ahead of the flush it must wait for"
        );
        match effect {
            Effect::Broadcast(broadcast) => 1 + self.broadcast(now, &broadcast),
            Effect::Joined {
                conn,
                room,
                form,
                offset,
                after,
                owed_after,
                is_incomplete,
                frames,
                result,
            } => {
                let joined = Joined {
                    room,
                    form,
                    offset,
                    after,
                    owed_after,
                    is_incomplete,
                    frames,
                    result,
                };
                self.joined(now, conn, joined);
                1
            }
            Effect::JoinRefused { conn, room, reason } => {
                if self.is_session(conn) {
                    self.refuse_subscription(now, conn, &room, reason);
                } else {
                    self.refuse_joining_plainly(now, conn, reason);
                }
                1
            }
            Effect::PresenceChanged { room, told } => 1 + self.tell_watchers(&room, &told),
            Effect::Replayed {
                conn,
                room,
                skipped,
                frames,
                outcome,
                ..
            } => {
                self.replayed(now, conn, &room, (skipped, frames), outcome);
                1
            }
            Effect::PublishRefused { origin, reason } => {
                self.refuse_publication(now, origin, reason);
                1
            }
            Effect::Published { origin } => {
                self.acknowledge(now, &[origin]);
                1
            }
            Effect::Interrupted { room, last, told } => 1 + self.interrupt(now, &room, last, &told),
            Effect::Online { room, others } if room.is_control() => {
                self.note_others(now, others);
                1
            }
            Effect::Online { room, others } => {
                self.members.set_others(&room, others);
                1
            }
            Effect::Close { conn, room, reason } => {
                match reason {
                    CloseReason::InsufficientState => self.lose_room(now, conn, &room),
                    _ => self.close(now, conn, reason),
                }
                1
            }
            Effect::Heard { from, notice } => {
                self.hear(now, from, *notice);
                1
            }
            Effect::HeardMessage { forms } => 1 + self.give_all(now, now.instant, &forms),
            Effect::Told { number, part } => {
                self.handle_told(now, number, part);
                1
            }
            Effect::Health { part, ailment } => {
                self.health.note(part, ailment);
                1
            }
            Effect::Decoded { call, outcome } => {
                self.decoded(now, call, outcome);
                1
            }
            Effect::Answered { part, reply } => {
                self.answer_part(now, part, reply);
                1
            }
            Effect::Encoded { part, forms } => 1 + self.encoded(now, part, &forms),
        }
    }

    /// A worker has room again for a connection that stood in line.
    pub(super) fn proceed(&mut self, now: Now, id: ConnId) {
        let Some(entry) = self.table.get_mut(id) else {
            return;
        };
        entry.conn.set_awaits_worker(false);
        if entry.conn.is_joining() {
            self.ask_for_rooms(id);
        } else {
            self.ask_for_subscriptions(id);
            self.catch_up(id);
            self.read_messages(now, id, MESSAGES_PER_TURN_IN_LINE);
            self.resume(id);
        }
    }

    /// Asks the workers for the rooms of a joining connection, for as long as their queues have
    /// room.
    pub(super) fn ask_for_rooms(&mut self, id: ConnId) {
        let Some(entry) = self.table.get_mut(id) else {
            return;
        };
        let conn = &mut entry.conn;
        while let Some((room, since, form)) = conn.next_room_to_join() {
            let worker = self.jobs.worker_of(&room);
            if !self.jobs.has_credit(worker) {
                conn.put_back_room_to_join(room, since);
                conn.set_awaits_worker(true);
                self.jobs.wait(worker, id);
                return;
            }
            let identity = conn.purpose().and_then(Purpose::identity).cloned();
            let job = Job::Subscribe {
                conn: id,
                room,
                form,
                since,
                identity,
                terms: Terms::default(),
            };
            self.jobs.push(worker, job);
        }
    }

    /// Turns up to `budget` messages of an open WebSocket into jobs, for as long as its bounds and
    /// its worker's queue have room.
    pub(super) fn read_messages(&mut self, now: Now, id: ConnId, budget: usize) {
        let Some(entry) = self.table.get_mut(id) else {
            return;
        };
        let conn = &mut entry.conn;
        if matches!(conn.purpose(), Some(Purpose::Echo)) {
            return self.echo_messages(now, id);
        }
        if conn.session().is_some() {
            return self.read_commands(now, id, budget);
        }
        let mut taken = 0;
        let mut input_end = None;
        while conn.may_take_message(&self.limits) {
            let Some((open, queue)) = conn.open_and_queue() else {
                break;
            };
            // Only a message needs its worker; a connection that can publish nothing has none.
            if let Some(worker) = open.purpose.worker()
                && !open.inbound.is_drained()
                && (taken == budget || !self.jobs.has_credit(worker))
            {
                conn.set_awaits_worker(true);
                self.jobs.wait(worker, id);
                break;
            }
            let payload = match open.take_message(queue, now.instant, &self.limits) {
                Ok(Some(payload)) => payload,
                Ok(None) => break,
                Err(end) => {
                    input_end = Some(end);
                    break;
                }
            };
            taken += 1;
            let payload_bytes = payload.bytes().len();
            match &open.purpose {
                Purpose::Rooms {
                    target: Some((room, worker)),
                    identity,
                    ..
                } => {
                    if let Some(events) = &mut self.events {
                        events.push_back(Event::Message {
                            conn: id,
                            room: room.clone(),
                            payload: payload.clone(),
                        });
                    }
                    let job = Job::Publish {
                        origin: id,
                        command: 0,
                        room: room.clone(),
                        identity: identity.clone(),
                        payload,
                        taken_at: now.instant,
                    };
                    self.jobs.push(*worker, job);
                }
                Purpose::Rooms { target: None, .. } | Purpose::Echo => {
                    input_end = Some(InputEnd::Failed(CloseReason::PermissionDenied));
                    break;
                }
            }
            conn.note_handed_over(payload_bytes);
            conn.traffic.received_messages += 1;
            self.counters.received_messages += 1;
        }
        mark_dirty(conn, &mut self.dirty);
        if let Some(end) = input_end {
            self.finish_input(now, id, end);
        }
    }

    /// A worker is done with so many messages of the connection, and so many bytes: their places
    /// are free.
    pub(super) fn answered(&mut self, now: Now, id: ConnId, answered: (usize, usize)) {
        let Some(entry) = self.table.get_mut(id) else {
            return;
        };
        let conn = &mut entry.conn;
        conn.note_answered(answered);
        if conn.is_paused() && conn.may_resume(&self.limits) {
            self.read_messages(now, id, usize::MAX);
            self.resume(id);
        }
    }

    /// Tells whoever wants to know that a connection is open, and whose.
    pub(super) fn announce_open(&mut self, id: ConnId) {
        if let (Some(events), Some(entry)) = (&mut self.events, self.table.get_mut(id)) {
            entry.conn.set_announced();
            events.push_back(Event::Opened {
                conn: id,
                peer: entry.conn.peer(),
                user: entry.conn.identity().map(|one| one.user.clone()),
            });
        }
    }

    /// Another connection of its user has taken the place of this one, if it is open.
    pub(super) fn close_replaced(&mut self, now: Now, id: ConnId) {
        let conn = self.table.get(id);
        let is_in = conn.is_some_and(|conn| match conn.session() {
            Some(session) => session.is_connected(),
            None => conn.open().is_some(),
        });
        if is_in {
            self.close(now, id, CloseReason::ConnectionLimit);
        }
    }

    /// The WebSocket begins: what is queued may go out, what came behind the head is read.
    pub(super) fn open_up(&mut self, now: Now, id: ConnId) {
        let Some(entry) = self.table.get_mut(id) else {
            return;
        };
        entry.conn.open_up();
        let doom = entry.conn.open().and_then(|open| open.doom);
        let identity = entry.conn.purpose().and_then(Purpose::identity);
        let replaced = identity.map_or_else(Vec::new, |one| self.users.open(&one.user, id));
        if entry.conn.session().is_none() {
            self.announce_open(id);
        }
        self.open_len += 1;
        self.counters.upgrades += 1;
        self.wheel.cancel(id.slot);
        self.arm(id);
        for before in replaced {
            self.close_replaced(now, before);
        }
        if let Some(reason) = doom {
            self.close(now, id, reason);
            return;
        }
        self.catch_up(id);
        self.read_messages(now, id, usize::MAX);
        if let Some(entry) = self.table.get_mut(id)
            && entry
                .conn
                .queue
                .level()
                .is_half_of(Level::bound(&self.limits))
        {
            // What was published while it was joining has waited for this moment.
            self.raise_flush_barrier();
        }
        self.resume(id);
    }
}

/// How many messages a connection that stood in line may have turned into jobs before the next in
/// line has its turn.
const MESSAGES_PER_TURN_IN_LINE: usize = 64;
