//! The HTTP side of the API: who may call, the body, the answer.

use std::net::IpAddr;

use http::header::{AUTHORIZATION, HOST, ORIGIN};
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
        let refusal = if !self.has_key(request) {
            Some((StatusCode::UNAUTHORIZED, "a valid API key is needed\n"))
        } else if self.is_foreign(request) {
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

    /// Whether the request brings the key, where one is needed.
    pub(super) fn has_key(&self, request: &Request<()>) -> bool {
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

    /// Whether a page that is not of this server makes the request. Only browsers say where a
    /// request is from, and they always do for a POST.
    pub(super) fn is_foreign(&self, request: &Request<()>) -> bool {
        let Some(origin) = header_text(request, &ORIGIN) else {
            return false;
        };
        let host = header_text(request, &HOST).unwrap_or_default();
        let own = origin.split_once("://").map(|(_, authority)| authority);
        let is_same = own.is_some_and(|own| own.eq_ignore_ascii_case(&host));
        // Anybody's name can be made to resolve to this address. Without a key to prove more, only
        // a page that was itself loaded from an address, or from this very host, is ours.
        !is_same || (self.gate.api_key.is_none() && !is_address(&host))
    }
}

/// Whether the authority of a URL is an IP address or `localhost`, with or without a port.
pub(super) fn is_address(authority: &str) -> bool {
    let name = match authority.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => authority,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_anybody_can_own_are_told_from_addresses() {
        for (authority, expected) in [
            ("127.0.0.1:7778", true),
            ("127.0.0.1", true),
            ("[::1]:7778", true),
            ("[::1]", true),
            ("localhost:7778", true),
            ("LOCALHOST", true),
            ("evil.example:7778", false),
            ("127.0.0.1.evil.example", false),
            ("localhost.evil.example:80", false),
            ("", false),
        ] {
            assert_eq!(is_address(authority), expected, "{authority}");
        }
    }
}
