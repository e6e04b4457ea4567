//! The HTTP side of the API: the key, the body, the answer.

use http::header::AUTHORIZATION;
use http::{HeaderName, Request, StatusCode};

use super::call::{Call, Caller, Outcome};
use super::requests::{Manner, header_text};
use super::{Hub, mark_dirty};
use crate::auth;
use crate::base::{ConnId, Now};
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
        if let Some(response) = self.refusal_without_key(request) {
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
        let conn = &mut entry.conn;
        conn.start_body(now.instant, (method, plan), manner.end, &self.limits);
        if plan.needs_continue() && rest.is_empty() {
            conn.queue.push_whole(&Frames::whole(CONTINUE.into()));
            mark_dirty(conn, &mut self.dirty);
        }
        self.arm(id);
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
            Err(status) => self.refuse_body(now, id, status),
        }
    }

    /// Sends the answer to a call, if its caller is still there; a long one `is_counted` until it
    /// is written.
    pub(super) fn respond(&mut self, now: Now, id: ConnId, outcome: &Outcome, is_counted: bool) {
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
        let Some(body) = outcome.to_json() else {
            let text = "the body is not the JSON of a call\n";
            let response = Response::plain(StatusCode::BAD_REQUEST, text);
            return self.answer(now, id, &response, rest, manner);
        };
        let response = Response::new(StatusCode::OK, "application/json", &body);
        self.answer(now, id, &response, rest, manner);
        if is_counted && let Some(entry) = self.table.get_mut(id) {
            entry.conn.set_counted_bytes(now.instant, body.len());
            self.calls.count_answer(body.len());
            self.arm(id);
        }
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

    /// The answer to a request without the key, where one is needed.
    pub(super) fn refusal_without_key(&self, request: &Request<()>) -> Option<Response<'static>> {
        let text = "a valid API key is needed\n";
        (!self.has_key(request)).then(|| {
            Response::plain(StatusCode::UNAUTHORIZED, text).header("WWW-Authenticate", "apikey")
        })
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

const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
