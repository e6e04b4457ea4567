//! The HTTP side of the API: who may call, the body, the answer.

use http::header::{AUTHORIZATION, HOST, ORIGIN};
use http::{HeaderName, Request, StatusCode};

use super::call::{Call, Caller, Outcome};
use super::requests::{Manner, RETRY_AFTER_SECS, header_text};
use super::{Hub, mark_dirty};
use crate::auth;
use crate::base::{ConnId, Now};
use crate::wire::api::answer::{answer, batch_answer};
use crate::wire::body::{BodyPlan, CONTINUE};
use crate::wire::frame::Frames;
use crate::wire::http::Response;

/// Where the calls are: `/api/<method>`.
pub(super) const API_PATH: &str = "/api/";

impl<S> Hub<S> {
    /// A call of the API has begun: its head is there.
    pub(super) fn handle_call_head(
        &mut self,
        now: Now,
        id: ConnId,
        request: &Request<()>,
        rest: Vec<u8>,
        manner: Manner,
    ) {
        let refusal = if !self.has_key(request) {
            Some((StatusCode::UNAUTHORIZED, "a valid API key is needed\n"))
        } else if is_foreign(request) {
            // A page must not reach, through its reader's browser, what the reader can reach.
            Some((StatusCode::FORBIDDEN, "this origin is not allowed\n"))
        } else {
            None
        };
        if let Some((status, text)) = refusal {
            let mut response = Response::plain(status, text);
            if status == StatusCode::UNAUTHORIZED {
                response = response.header("WWW-Authenticate", "apikey");
            }
            return self.answer(now, id, &response, rest, Manner::REFUSE);
        }
        let plan = match BodyPlan::of(request, self.limits.api_body_bytes_max) {
            Ok(plan) => plan,
            Err(status) => return self.refuse_body(now, id, status),
        };
        let path = request.uri().path();
        let method = path.strip_prefix(API_PATH).unwrap_or_default();
        let Some(entry) = self.table.get_mut(id) else {
            return;
        };
        entry
            .conn
            .start_body(now.instant, (method, plan), rest, manner.end, &self.limits);
        self.arm(id);
        if self.calls.take_place(self.limits.api_calls_max) {
            self.give_place(now, id);
        } else {
            self.calls.wait(id);
        }
    }

    /// Lets in those whose calls wait, for as long as there are places.
    pub(super) fn admit_calls(&mut self, now: Now) {
        while self.calls.can_admit(self.limits.api_calls_max) {
            let Some(id) = self.calls.next_waiting() else {
                return;
            };
            // Its connection may have ended meanwhile.
            let entry = self.table.get_mut(id);
            if entry.is_some_and(|entry| entry.conn.body_has_place() == Some(false)) {
                self.calls.take_place(self.limits.api_calls_max);
                self.give_place(now, id);
                self.resume(id);
            }
        }
    }

    fn give_place(&mut self, now: Now, id: ConnId) {
        let Some(entry) = self.table.get_mut(id) else {
            return;
        };
        let Some((rest, needs_continue)) = entry.conn.give_place() else {
            return;
        };
        if needs_continue {
            entry.conn.queue.push_whole(&Frames::whole(CONTINUE.into()));
            mark_dirty(&mut entry.conn, &mut self.dirty);
        }
        self.read_body(now, id, &rest);
    }

    /// Bytes of a body were read.
    pub(super) fn read_body(&mut self, now: Now, id: ConnId, bytes: &[u8]) {
        let Some(entry) = self.table.get_mut(id) else {
            return;
        };
        let conn = &mut entry.conn;
        let Some(reader) = conn.body_reader_mut() else {
            return;
        };
        match reader.feed(bytes) {
            Ok((_, false)) => {}
            Ok((used, true)) => {
                if let Some((method, body)) = conn.start_calling(bytes[used..].to_vec()) {
                    self.begin_call(now, Call::new(Caller::Conn(id), method, body));
                }
            }
            Err(status) => {
                self.calls.give_place_back();
                self.refuse_body(now, id, status);
            }
        }
    }

    /// A body did not come, or no place for its call.
    pub(super) fn time_out_body(&mut self, now: Now, id: ConnId, has_place: bool) {
        if has_place {
            self.calls.give_place_back();
            self.answer_timeout(now, id);
        } else {
            let text = "too many calls are in progress\n";
            let response = Response::plain(StatusCode::SERVICE_UNAVAILABLE, text)
                .header("Retry-After", RETRY_AFTER_SECS);
            self.answer(now, id, &response, Vec::new(), Manner::REFUSE);
        }
    }

    /// Sends the answer to a call, if its caller is still there.
    pub(super) fn respond(&mut self, now: Now, id: ConnId, outcome: &Outcome) {
        let Some(entry) = self.table.get_mut(id) else {
            return;
        };
        let Some((rest, end)) = entry.conn.end_calling() else {
            return;
        };
        let manner = Manner {
            is_head_request: false,
            end,
        };
        let body = match outcome {
            Outcome::Single(reply) => answer(reply),
            Outcome::Batch(replies) => batch_answer(replies),
            Outcome::Undecodable => {
                let response = Response::plain(
                    StatusCode::BAD_REQUEST,
                    "the body is not the JSON of a call\n",
                );
                return self.answer(now, id, &response, rest, manner);
            }
        };
        let response = Response::new(StatusCode::OK, "application/json", &body);
        self.answer(now, id, &response, rest, manner);
    }

    fn refuse_body(&mut self, now: Now, id: ConnId, status: StatusCode) {
        let text = match status {
            StatusCode::PAYLOAD_TOO_LARGE => "the body is too large\n",
            StatusCode::NOT_IMPLEMENTED => "this transfer coding is not known here\n",
            StatusCode::EXPECTATION_FAILED => "this expectation cannot be met\n",
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => "the trailers are too large\n",
            _ => "the body is malformed, or its length is not clear\n",
        };
        let response = Response::plain(status, text);
        self.answer(now, id, &response, Vec::new(), Manner::REFUSE);
    }

    /// Whether the request brings the key, where one is needed.
    fn has_key(&self, request: &Request<()>) -> bool {
        let Some(key) = &self.gate.api_key else {
            return true;
        };
        let given = request
            .headers()
            .get(&X_API_KEY)
            .map(|value| value.as_bytes());
        let authorization = header_text(request, &AUTHORIZATION);
        let apikey = authorization.as_deref().and_then(|value| {
            let (scheme, key) = value.split_once(' ')?;
            scheme
                .eq_ignore_ascii_case("apikey")
                .then(|| key.trim().as_bytes())
        });
        given
            .or(apikey)
            .is_some_and(|given| auth::is_key(key, given))
    }
}

/// Whether a page of another origin makes the request. Only browsers say where a request is from,
/// and they always do for a POST.
fn is_foreign(request: &Request<()>) -> bool {
    let Some(origin) = header_text(request, &ORIGIN) else {
        return false;
    };
    let host = header_text(request, &HOST).unwrap_or_default();
    let own = origin.split_once("://").map(|(_, authority)| authority);
    own.is_none_or(|own| !own.eq_ignore_ascii_case(&host))
}

const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
