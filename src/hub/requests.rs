//! HTTP: which request gets what, and how one becomes a WebSocket.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use http::header::{AUTHORIZATION, HOST, ORIGIN};
use http::{HeaderName, Method, Request, StatusCode};

use super::api::API_PATH;
use super::calls::Inquiry;
use super::pages::{DASHBOARD, Page, WALL};
use super::sessions::COMMANDS;
use super::{Hub, mark_dirty};
use crate::auth::{self, Grants};
use crate::base::{CloseReason, ConnId, Identity, Instant, Now, RoomName, Since};
use crate::conn::heartbeat::Heartbeat;
use crate::conn::quota::Quota;
use crate::conn::{Entrance, Open, Purpose};
use crate::wire::frame::Frames;
use crate::wire::http::{Head, Response, has_body, has_valid_host, keeps_alive, parse_head};
use crate::wire::raw::{QueryError, RoomRequest, parse_query, token_of};
use crate::wire::upgrade;
use crate::wire::websocket::Inbound;

/// What a path is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Endpoint {
    Wall,
    Dashboard,
    Health,
    Ready,
    Metrics,
    Loop,
    Api,
    Rooms,
    Commands,
    Echo,
}

impl Endpoint {
    fn at(entrance: Entrance, path: &str) -> Option<Self> {
        match (entrance, path) {
            (_, "/healthz") => Some(Self::Health),
            (Entrance::Admin, "/readyz") => Some(Self::Ready),
            (Entrance::Admin, "/metrics") => Some(Self::Metrics),
            (Entrance::Admin, "/debug/loop") => Some(Self::Loop),
            (Entrance::Admin, path) if path.starts_with(API_PATH) => Some(Self::Api),
            (Entrance::Admin, "/") => Some(Self::Dashboard),
            (Entrance::Admin, _) => None,
            (_, "/") => Some(Self::Wall),
            (_, "/ws") => Some(Self::Rooms),
            (_, "/connection/websocket") => Some(Self::Commands),
            (_, "/echo") => Some(Self::Echo),
            _ => None,
        }
    }

    /// Whether a HEAD request is answered as a GET would be, without the body.
    fn answers_head(self) -> bool {
        matches!(
            self,
            Self::Wall | Self::Dashboard | Self::Health | Self::Ready
        )
    }

    /// The methods it answers, as `Allow` lists them.
    fn allow(self) -> &'static str {
        match self {
            Self::Api => "POST",
            _ if self.answers_head() => "GET, HEAD",
            _ => "GET",
        }
    }
}

/// A request for a WebSocket that is not granted.
struct Refusal {
    status: StatusCode,
    text: &'static str,
    /// What a browser, which cannot see the status, is closed with.
    reason: CloseReason,
}

impl From<QueryError> for Refusal {
    fn from(error: QueryError) -> Self {
        let (text, reason) = match error {
            QueryError::Bad(text) => (text, CloseReason::BadRequest),
            QueryError::TooManyRooms => {
                let text = "too many rooms for one connection\n";
                (text, CloseReason::ChannelLimit)
            }
        };
        let status = StatusCode::BAD_REQUEST;
        Self {
            status,
            text,
            reason,
        }
    }
}

/// What a token proves about who asks for a WebSocket.
#[derive(Debug, Default)]
struct Credentials {
    identity: Option<Arc<Identity>>,
    grants: Grants,
    expires_at: Option<Instant>,
}

/// How the connection is to be used after an answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Manner {
    pub(super) is_head_request: bool,
    /// How the connection ends; `None` to keep it.
    pub(super) end: Option<CloseReason>,
}

impl Manner {
    pub(super) const REFUSE: Self = Self {
        is_head_request: false,
        end: Some(CloseReason::Refused),
    };
}

impl<S> Hub<S> {
    /// Looks for a whole head in what was received, and acts on it.
    pub(super) fn read_head(&mut self, now: Now, id: ConnId) {
        let Some(entry) = self.table.get_mut(id) else {
            return;
        };
        let Some(buffer) = entry.conn.head_mut() else {
            return;
        };
        // Empty lines before a request are to be ignored (RFC 9112, section 2.2).
        let blank = buffer
            .iter()
            .take_while(|byte| matches!(byte, b'\r' | b'\n'))
            .count();
        buffer.drain(..blank.min(buffer.len()));
        if buffer.is_empty() {
            return;
        }
        match parse_head(buffer, self.limits.head_bytes_max) {
            Head::Partial => {}
            Head::Complete { request, bytes } => {
                let rest = buffer.split_off(bytes);
                self.request(now, id, *request, rest);
            }
            Head::Malformed(status) => {
                let text = if status == StatusCode::BAD_REQUEST {
                    "this is not an HTTP/1.1 request\n"
                } else {
                    "the request head is too large\n"
                };
                self.answer(
                    now,
                    id,
                    &Response::plain(status, text),
                    Vec::new(),
                    Manner::REFUSE,
                );
            }
        }
    }

    fn request(&mut self, now: Now, id: ConnId, request: Request<()>, rest: Vec<u8>) {
        let Some(entry) = self.table.get_mut(id) else {
            return;
        };
        let entrance = entry.conn.entrance;
        let is_head_request = request.method() == Method::HEAD;
        let refusal = Manner {
            is_head_request,
            ..Manner::REFUSE
        };
        let is_short = self.is_short_of_memory() && entrance != Entrance::Admin;
        let has_room = self.locate(id, &request) && entrance != Entrance::Overload && !is_short;
        if !has_valid_host(&request) {
            let response = Response::plain(StatusCode::BAD_REQUEST, "one Host is needed\n");
            return self.answer(now, id, &response, rest, refusal);
        }
        let endpoint = Endpoint::at(entrance, request.uri().path());
        if !has_room && endpoint != Some(Endpoint::Health) {
            let (reason, text) = if is_short {
                (CloseReason::Memory.label(), "short of memory\n")
            } else {
                (CloseReason::Capacity.label(), "too many connections\n")
            };
            self.counters.count_refusal(reason);
            let response = Response::plain(StatusCode::SERVICE_UNAVAILABLE, text)
                .header("Retry-After", RETRY_AFTER_SECS);
            let manner = Manner {
                is_head_request,
                end: Some(CloseReason::Capacity),
            };
            return self.answer(now, id, &response, rest, manner);
        }
        // A body is nobody's business but the API's: the answer goes out and the connection ends.
        let has_body = has_body(&request);
        let is_call = endpoint == Some(Endpoint::Api) && request.method() == Method::POST;
        let is_kept = keeps_alive(&request) && (!has_body || is_call) && self.may_stay(entrance);
        let manner = Manner {
            is_head_request,
            end: match entrance {
                Entrance::Overload => Some(CloseReason::Capacity),
                _ => (!is_kept).then_some(CloseReason::Answered),
            },
        };
        let Some(endpoint) = endpoint else {
            let response = Response::plain(StatusCode::NOT_FOUND, "no such page\n");
            return self.answer(now, id, &response, rest, manner);
        };
        let is_allowed = match *request.method() {
            Method::GET => endpoint != Endpoint::Api,
            Method::HEAD => endpoint.answers_head(),
            Method::POST => endpoint == Endpoint::Api,
            _ => false,
        };
        if !is_allowed {
            let response = Response::plain(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n")
                .header("Allow", endpoint.allow());
            return self.answer(now, id, &response, rest, manner);
        }
        let is_probe = matches!(endpoint, Endpoint::Health | Endpoint::Ready);
        if entrance == Entrance::Admin
            && let Some(response) = self.refusal_of_strangers(&request, !is_probe)
        {
            return self.answer(now, id, &response, rest, refusal);
        }
        match endpoint {
            Endpoint::Wall => self.answer(now, id, &page_response(&WALL), rest, manner),
            Endpoint::Dashboard => self.answer(now, id, &page_response(&DASHBOARD), rest, manner),
            Endpoint::Health | Endpoint::Ready => {
                let is_ready = endpoint == Endpoint::Ready;
                let degraded = is_ready.then(|| self.degraded()).flatten();
                let response = if self.is_draining() {
                    Response::plain(StatusCode::SERVICE_UNAVAILABLE, "draining")
                } else if let Some(line) = &degraded {
                    Response::plain(StatusCode::SERVICE_UNAVAILABLE, line)
                } else {
                    Response::plain(StatusCode::OK, "ok")
                };
                self.answer(now, id, &response, rest, manner);
            }
            Endpoint::Metrics => self.inquire(id, Inquiry::Metrics(id), rest, manner),
            // What needs the key of the API needs it here, too: it names users and addresses.
            Endpoint::Loop => match self.refusal_without_key(&request) {
                None => self.inquire(id, Inquiry::Loop(id), rest, manner),
                Some(response) => self.answer(now, id, &response, rest, refusal),
            },
            Endpoint::Api => self.handle_call_head(now, id, &request, rest, manner),
            Endpoint::Rooms | Endpoint::Commands | Endpoint::Echo if has_body => {
                self.counters.count_refusal(BAD_UPGRADE);
                let response = Response::plain(StatusCode::BAD_REQUEST, "an upgrade has no body\n");
                self.answer(now, id, &response, rest, Manner::REFUSE);
            }
            Endpoint::Rooms | Endpoint::Commands | Endpoint::Echo => {
                self.upgrade(now, id, endpoint, request, rest);
            }
        }
    }

    fn upgrade(
        &mut self,
        now: Now,
        id: ConnId,
        endpoint: Endpoint,
        request: Request<()>,
        rest: Vec<u8>,
    ) {
        let origin = header_text(&request, &ORIGIN);
        let host = header_text(&request, &HOST).unwrap_or_default();
        let is_foreign = origin
            .as_ref()
            .is_some_and(|origin| !self.gate.origins.allows(origin, &host));
        let query = request.uri().query().unwrap_or_default();
        let authorization = header_text(&request, &AUTHORIZATION);
        let bearer = authorization.as_deref().and_then(|value| {
            let (scheme, token) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
        });
        let switching = match upgrade::accept(&request) {
            Ok(switching) => switching,
            Err(error) => {
                self.counters.count_refusal(BAD_UPGRADE);
                let response = Response::plain(error.status(), error.text())
                    .header("Upgrade", "websocket")
                    .header("Sec-WebSocket-Version", "13");
                return self.answer(now, id, &response, rest, Manner::REFUSE);
            }
        };
        if origin.is_some()
            && let Some(entry) = self.table.get_mut(id)
        {
            entry.conn.set_browser();
        }
        if is_foreign || self.is_draining() {
            let reason = if is_foreign { "origin" } else { "draining" };
            self.counters.count_refusal(reason);
            let response = if is_foreign {
                Response::plain(StatusCode::FORBIDDEN, "this origin is not allowed\n")
            } else {
                Response::plain(StatusCode::SERVICE_UNAVAILABLE, "draining\n")
                    .header("Retry-After", RETRY_AFTER_SECS)
            };
            return self.answer(now, id, &response, rest, Manner::REFUSE);
        }
        let mut session = None;
        if endpoint == Endpoint::Commands {
            match self.begin_session(now, query) {
                Ok(begun) => session = Some(begun),
                Err(error) => {
                    let (refusal, is_browser) = (error.into(), origin.is_some());
                    return self.refuse(now, id, &refusal, is_browser, (switching, rest));
                }
            }
        }
        let credentials = match endpoint {
            // It says who it is by its first command.
            Endpoint::Commands => Ok(Credentials::default()),
            _ => self.identify(now, query, bearer),
        };
        let granted = credentials.and_then(|credentials| {
            let granted = match endpoint {
                Endpoint::Echo => (Purpose::Echo, Vec::new()),
                Endpoint::Commands => (COMMANDS, Vec::new()),
                _ => self.grant(query, &credentials)?,
            };
            Ok((granted, credentials.expires_at))
        });
        match granted {
            Ok(((purpose, rooms), expires_at)) => {
                if let Some(identity) = purpose.identity()
                    && !self.users.ask(&identity.user, id)
                {
                    let refusal = Refusal {
                        status: StatusCode::CONFLICT,
                        text: "this user is connected already\n",
                        reason: CloseReason::ConnectionLimit,
                    };
                    return self.refuse(now, id, &refusal, origin.is_some(), (switching, rest));
                }
                let mut inbound = Inbound::default();
                if !rest.is_empty() {
                    inbound.feed(&rest, self.limits.message_bytes_max);
                }
                let heartbeat = Heartbeat::new(now.instant, &self.limits, &mut self.prng);
                let open = Open {
                    inbound,
                    purpose,
                    heartbeat,
                    catch_up: None,
                    doom: None,
                    quota: Quota::new(now.instant),
                    expires_at,
                    session,
                };
                self.join(now, id, open, rooms, switching);
            }
            Err(refusal) => self.refuse(now, id, &refusal, origin.is_some(), (switching, rest)),
        }
    }

    /// Refuses an upgrade: with its status, or in band where nobody could see one.
    fn refuse(
        &mut self,
        now: Now,
        id: ConnId,
        refusal: &Refusal,
        is_browser: bool,
        (switching, rest): (Vec<u8>, Vec<u8>),
    ) {
        self.counters.count_refusal(refusal.reason.label());
        if is_browser {
            self.refuse_in_band(now, id, refusal, switching);
            return;
        }
        let mut response = Response::plain(refusal.status, refusal.text);
        if refusal.status == StatusCode::UNAUTHORIZED {
            response = response.header("WWW-Authenticate", "Bearer");
        }
        self.answer(now, id, &response, rest, Manner::REFUSE);
    }

    /// Who asks, and what that user may do. Without a secret, everybody is who they say they are.
    fn identify(
        &self,
        now: Now,
        query: &str,
        bearer: Option<&str>,
    ) -> Result<Credentials, Refusal> {
        let Some(secret) = &self.gate.token_secret else {
            return Ok(Credentials::default());
        };
        let token = bearer.map(str::to_owned).or_else(|| token_of(query));
        let claims = token.and_then(|token| {
            // A signature over at most 4 KiB, some microseconds, once a connection.
            let unix_s = now.unix_ms / 1000;
            let claims = auth::token::verify(secret, &token, unix_s).ok();
            // A connection that would be over already is not begun.
            claims.filter(|claims| claims.expires_unix_s.is_none_or(|time| unix_s < time))
        });
        let claims = claims.ok_or(Refusal {
            status: StatusCode::UNAUTHORIZED,
            text: "a valid token is needed\n",
            reason: CloseReason::InvalidToken,
        })?;
        let left = claims.expires_unix_s.map(|expiry| {
            Duration::from_millis(expiry.saturating_mul(1000).saturating_sub(now.unix_ms))
        });
        let identity = Identity {
            user: claims.user,
            info: claims.info,
        };
        Ok(Credentials {
            identity: Some(Arc::new(identity)),
            grants: claims.grants,
            expires_at: left.map(|left| now.instant + left),
        })
    }

    /// What a query for rooms may have.
    fn grant(
        &self,
        query: &str,
        credentials: &Credentials,
    ) -> Result<(Purpose, Vec<(RoomName, Since)>), Refusal> {
        let known = credentials.identity.as_ref();
        let RoomRequest {
            rooms,
            user,
            target,
            form,
            echo,
            since,
        } = parse_query(
            query,
            self.limits.rooms_per_connection_max,
            known.map(|identity| identity.user.clone()),
        )?;
        let grants = &credentials.grants;
        let is_closed = |room: &RoomName| !grants.may_join(user.as_ref(), room);
        // What it may not publish to it can still be a member of; sending is refused when it comes.
        let target = target.filter(|room| grants.may_publish(user.as_ref(), room));
        if rooms.iter().any(is_closed) {
            return Err(Refusal {
                status: StatusCode::FORBIDDEN,
                text: "a room is not open to this user\n",
                reason: CloseReason::PermissionDenied,
            });
        }
        let target = target.map(|room| {
            let worker = self.jobs.worker_of(&room);
            (room, worker)
        });
        let identity = known.cloned().or_else(|| {
            let info = None;
            user.map(|user| Arc::new(Identity { user, info }))
        });
        let purpose = Purpose::Rooms {
            target,
            identity,
            form,
            echo,
        };
        Ok((purpose, rooms.into_iter().zip(since).collect()))
    }

    /// Queues the 101 and asks the workers for every room; the 101 leaves when all are joined, so
    /// that whoever sees it is a member already, and a refusal can still take its place.
    fn join(
        &mut self,
        now: Now,
        id: ConnId,
        open: Open,
        rooms: Vec<(RoomName, Since)>,
        switching: Vec<u8>,
    ) {
        let Some(entry) = self.table.get_mut(id) else {
            return;
        };
        let conn = &mut entry.conn;
        conn.queue.push_preamble(switching);
        let needs_rooms = !rooms.is_empty();
        conn.start_joining(now.instant, open, rooms);
        if needs_rooms {
            self.ask_for_rooms(id);
            self.arm(id);
        } else {
            self.open_up(now, id);
        }
    }

    /// Grants the upgrade only to close it: the one way to tell a browser why.
    fn refuse_in_band(&mut self, now: Now, id: ConnId, refusal: &Refusal, switching: Vec<u8>) {
        if let Some(entry) = self.table.get_mut(id) {
            entry.conn.queue.push_preamble(switching);
        }
        let code = refusal.reason.code().unwrap_or_default();
        self.close_preamble(now, id, refusal.reason, (code, refusal.reason.text()));
    }

    /// Sends the 101 that is queued, and a close frame behind it.
    fn close_preamble(
        &mut self,
        now: Now,
        id: ConnId,
        reason: CloseReason,
        (code, text): (u16, &str),
    ) {
        let Some(entry) = self.table.get_mut(id) else {
            return;
        };
        entry.conn.push_close(code, text);
        let deadline = now.instant + self.limits.close_linger;
        self.start_closing(id, reason, deadline, false);
    }

    /// Refuses a connection whose rooms were not all joined, in the words of the reason.
    pub(super) fn refuse_joining_plainly(&mut self, now: Now, id: ConnId, reason: CloseReason) {
        let code = reason.code().unwrap_or_default();
        self.refuse_joining(now, id, reason, (code, reason.text()));
    }

    /// Refuses a connection whose rooms were not all joined: the 101 is taken back, or followed by
    /// a close frame where nobody could see a status.
    pub(super) fn refuse_joining(
        &mut self,
        now: Now,
        id: ConnId,
        reason: CloseReason,
        words: (u16, &str),
    ) {
        let Some(entry) = self.table.get_mut(id) else {
            return;
        };
        if !entry.conn.is_joining() {
            return;
        }
        self.counters.count_refusal(reason.label());
        if entry.conn.is_browser() && reason.code().is_some() {
            entry.conn.queue.drop_backlog();
            self.close_preamble(now, id, reason, words);
            return;
        }
        entry.conn.queue.clear();
        self.leave_rooms(id);
        let response = match reason {
            CloseReason::ForceDisconnect => {
                Response::plain(StatusCode::FORBIDDEN, "disconnected by the back end\n")
            }
            CloseReason::ConnectionLimit => {
                Response::plain(StatusCode::CONFLICT, "this user is connected already\n")
            }
            _ => Response::plain(StatusCode::SERVICE_UNAVAILABLE, "not available just now\n")
                .header("Retry-After", RETRY_AFTER_SECS),
        };
        let manner = Manner {
            is_head_request: false,
            end: Some(reason),
        };
        self.answer(now, id, &response, Vec::new(), manner);
    }

    /// Answers a peer that has begun a request and not finished it in time.
    pub(super) fn answer_timeout(&mut self, now: Now, id: ConnId) {
        let response = Response::plain(StatusCode::REQUEST_TIMEOUT, "the request took too long\n");
        let manner = Manner {
            is_head_request: false,
            end: Some(CloseReason::HandshakeTimeout),
        };
        self.answer(now, id, &response, Vec::new(), manner);
    }

    pub(super) fn answer(
        &mut self,
        now: Now,
        id: ConnId,
        response: &Response<'_>,
        rest: Vec<u8>,
        manner: Manner,
    ) {
        let Some(entry) = self.table.get_mut(id) else {
            return;
        };
        let conn = &mut entry.conn;
        *self
            .counters
            .responses
            .entry(response.status().as_u16())
            .or_default() += 1;
        let bytes = response.encode(now.unix_ms, manner.end.is_none(), manner.is_head_request);
        conn.queue.push_whole(&Frames::whole(bytes));
        conn.start_answering(rest, manner.end);
        self.arm(id);
        if let Some(entry) = self.table.get_mut(id) {
            mark_dirty(&mut entry.conn, &mut self.dirty);
        }
    }
}

fn page_response(page: &Page) -> Response<'_> {
    Response::new(StatusCode::OK, "text/html; charset=utf-8", page.body())
        .header("Content-Security-Policy", page.policy())
        .header("Referrer-Policy", "no-referrer")
        .header("Cache-Control", "no-cache")
}

/// Why what is not a request for a WebSocket, where it should be one, is refused.
const BAD_UPGRADE: &str = "bad_upgrade";

/// How long a refused client should wait, in seconds.
pub(super) const RETRY_AFTER_SECS: &str = "5";

pub(super) fn header_text<'a>(request: &'a Request<()>, name: &HeaderName) -> Option<Cow<'a, str>> {
    let value = request.headers().get(name)?;
    Some(String::from_utf8_lossy(value.as_bytes()))
}
