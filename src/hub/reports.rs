//! What the shell is asked for and what it answers: texts for operators.

use http::StatusCode;

use super::requests::Manner;
use super::{Hub, Inquiry, mark_dirty};
use crate::base::{ConnId, Now};
use crate::wire::frame::Frames;
use crate::wire::http::Response;

impl<S> Hub<S> {
    /// Asks the shell for a text.
    pub(super) fn inquire(&mut self, id: ConnId, inquiry: Inquiry, rest: Vec<u8>, manner: Manner) {
        let Some(entry) = self.table.get_mut(id) else {
            return;
        };
        entry.conn.start_answering(rest, manner.end);
        self.inquiries.push_back(inquiry);
        self.arm(id);
    }

    /// The next question to the shell.
    pub fn poll_inquiry(&mut self) -> Option<Inquiry> {
        self.inquiries.pop_front()
    }

    /// Whether there is one.
    #[must_use]
    pub fn has_inquiries(&self) -> bool {
        !self.inquiries.is_empty()
    }

    /// The text that an [`Inquiry`] asked for, for the connection that it named.
    pub fn handle_report(&mut self, now: Now, id: ConnId, content_type: &str, text: &str) {
        let Some(entry) = self.table.get_mut(id) else {
            return;
        };
        let is_kept = entry.conn.is_kept_alive();
        let response = Response::new(StatusCode::OK, content_type, text.as_bytes());
        entry
            .conn
            .queue
            .push_whole(&Frames::whole(response.encode(now.unix_ms, is_kept, false)));
        *self
            .counters
            .responses
            .entry(StatusCode::OK.as_u16())
            .or_default() += 1;
        mark_dirty(&mut entry.conn, &mut self.dirty);
    }
}
