//! `/echo`: every message goes back to who sent it. It concerns nobody else and no room, so the loop
//! answers by itself, and what one read has brought leaves in one write.

use super::{Hub, mark_dirty};
use crate::base::{ConnId, Now};
use crate::conn::pressure::Level;
use crate::wire::frame::{FramesBuilder, frame_bytes};

impl<S> Hub<S> {
    /// Queues the answers to what an open WebSocket has sent, for as long as its send queue has
    /// room; goes on when that has drained.
    pub(super) fn echo_messages(&mut self, now: Now, id: ConnId) {
        let Some(entry) = self.table.get_mut(id) else {
            return;
        };
        let conn = &mut entry.conn;
        let mut level = Level::default();
        let mut input_end = None;
        while level.publications < MESSAGES_PER_CALL && conn.may_echo(level, &self.limits) {
            let Some((open, queue)) = conn.open_and_queue() else {
                break;
            };
            let payload = match open.take_message(queue, now.instant, &self.limits) {
                Ok(Some(payload)) => payload,
                Ok(None) => break,
                Err(end) => {
                    input_end = Some(end);
                    break;
                }
            };
            level.publications += 1;
            level.bytes += frame_bytes(payload.bytes().len());
            self.echoes.push(payload);
        }
        if !self.echoes.is_empty() {
            let count = self.echoes.len();
            let mut frames = FramesBuilder::with_room(count, level.bytes);
            for payload in self.echoes.drain(..) {
                frames.push(payload.kind(), payload.bytes());
            }
            conn.queue.push(&frames.take(), count as u32);
            conn.traffic.received_messages += count as u64;
            conn.traffic.deliveries += count as u64;
            self.counters.received_messages += count as u64;
            self.counters.deliveries += count as u64;
        }
        mark_dirty(conn, &mut self.dirty);
        if let Some(end) = input_end {
            self.finish_input(now, id, end);
        }
    }
}

/// Most messages of one connection that are answered before others have their turn. The rest follows
/// when these answers are written.
const MESSAGES_PER_CALL: usize = 256;
