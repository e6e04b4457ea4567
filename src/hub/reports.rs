//! What the shell is asked for and what it answers: texts for operators.

use http::StatusCode;
use http::header::HOST;

use super::api::is_address;
use super::requests::{Manner, header_text};
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

    /// Why a request may not look at users and addresses; `None` if it may. What needs the key of
    /// the API needs it here, too.
    pub(super) fn refusal_to_look(&self, request: &http::Request<()>) -> Option<Response<'static>> {
        if !self.has_key(request) {
            let response = Response::plain(StatusCode::UNAUTHORIZED, "a valid API key is needed\n");
            return Some(response.header("WWW-Authenticate", "apikey"));
        }
        // A browser names no origin when it gets something from where the page came from, and
        // anybody's name can be made to resolve to this address.
        let host = header_text(request, &HOST).unwrap_or_default();
        if self.is_foreign(request) || (self.gate.api_key.is_none() && !is_address(&host)) {
            let text = "only by IP address or localhost, or with an API key\n";
            return Some(Response::plain(StatusCode::FORBIDDEN, text));
        }
        None
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
