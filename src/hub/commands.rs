//! From commands to answers: what clients of `/connection/websocket` ask for.
//!
//! Commands are carried out in their order, one message in hand. What needs a worker is handed over
//! against a credit and answered when the worker has done it; publications and subscriptions do not
//! wait for each other, a question and what comes behind it do. Who does not read its answers is not
//! read (see [`Connection::may_take_message`](crate::conn::Connection::may_take_message)).

use std::sync::Arc;

use super::call::{Call, Caller, Guest, Outcome, Setting};
use super::renewing::{Expiry, is_for, subscription_claims};
use super::{Event, Hub, mark_dirty};
use crate::auth::token::TokenRefusal;
use crate::base::{
    CloseReason, ConnId, Epoch, Identity, Now, Offset, Position, RoomName, Since, UserId,
};
use crate::conn::session::{Asker, Session, Subscription};
use crate::exchange::{Job, Origin, Reader};
use crate::wire::api::answer::ApiResult;
use crate::wire::api::{ApiCall, ApiCode, HISTORY_LIMIT_MAX, HistorySince, client_name};
use crate::wire::centrifugo::command::{Command, CommandFrame, Request, Resume, SubscribeRequest};
use crate::wire::centrifugo::reply::{ErrorCode, put_answer, put_done, put_error};
use crate::wire::frame::{Frames, Payload, PayloadKind};
use crate::wire::websocket::InputEnd;

/// Answers that leave in one message, a line each.
#[derive(Debug, Default)]
pub(super) struct Replies {
    out: Vec<u8>,
    len: usize,
}

/// What came of a command.
pub(super) enum Step {
    /// It is answered, or will be.
    Done,
    /// It fails.
    Error(ErrorCode),
    /// It needs room in this worker's queue first.
    Wait(Command, usize),
    /// It needs a room to be joined first.
    WaitForRoom(Command, RoomName),
    /// The connection ends.
    Close(CloseReason),
}

impl Replies {
    /// Where the next answer is to be written.
    pub(super) fn next(&mut self) -> &mut Vec<u8> {
        if self.len > 0 {
            self.out.push(b'\n');
        }
        self.len += 1;
        &mut self.out
    }

    fn is_full(&self) -> bool {
        self.len >= REPLIES_MAX || self.out.len() >= REPLY_BYTES_MAX
    }

    /// The message, leaving nothing behind; `None` if there are no answers.
    fn take(&mut self) -> Option<Arc<Frames>> {
        if self.len == 0 {
            return None;
        }
        self.len = 0;
        let text = std::mem::take(&mut self.out);
        Some(Frames::message(PayloadKind::Text, &text))
    }
}

impl<S> Hub<S> {
    /// Carries out commands of an open WebSocket, for as long as its bounds and the workers' queues
    /// have room; hands up to `budget` over to workers.
    pub(super) fn read_commands(&mut self, now: Now, id: ConnId, mut budget: usize) {
        let mut replies = Replies::default();
        let end = loop {
            if replies.is_full() {
                self.send_replies(id, &mut replies);
            }
            let command = match self.next_command(now, id) {
                Ok(Some(command)) => command,
                Ok(None) => break None,
                Err(end) => break Some(end),
            };
            let command_id = command.id;
            let name = command.request.name();
            match self.carry_out(now, id, command, &mut budget, &mut replies) {
                Step::Done => self.counters.count_command(name),
                Step::Error(code) => {
                    self.counters.count_command(name);
                    self.counters.count_command_error(code.number());
                    put_error(replies.next(), command_id, code);
                }
                Step::Wait(command, worker) => {
                    let Some(entry) = self.table.get_mut(id) else {
                        return;
                    };
                    if let Some(session) = entry.conn.session_mut() {
                        session.put_back(command);
                    }
                    if !entry.conn.set_awaits_worker(true) {
                        self.jobs.wait(worker, id);
                    }
                    break None;
                }
                Step::WaitForRoom(command, room) => {
                    let entry = self.table.get_mut(id);
                    if let Some(session) = entry.and_then(|entry| entry.conn.session_mut()) {
                        session.put_back(command);
                        session.await_room(room);
                    }
                    break None;
                }
                Step::Close(reason) => {
                    self.counters.count_command(name);
                    break Some(InputEnd::Failed(reason));
                }
            }
        };
        self.send_replies(id, &mut replies);
        if let Some(end) = end {
            self.finish_input(now, id, end);
        }
    }

    /// Takes the next command, if the connection may have one carried out.
    fn next_command(&mut self, now: Now, id: ConnId) -> Result<Option<Command>, InputEnd> {
        let malformed = InputEnd::Failed(CloseReason::BadRequest);
        let Some(entry) = self.table.get_mut(id) else {
            return Ok(None);
        };
        let conn = &mut entry.conn;
        loop {
            if !conn.may_take_message(&self.limits) {
                return Ok(None);
            }
            let Some((open, queue)) = conn.open_and_queue() else {
                return Ok(None);
            };
            let Some(session) = &mut open.session else {
                return Ok(None);
            };
            if let Some(command) = session.take_put_back() {
                return Ok(Some(command));
            }
            match session.next_command() {
                Some(Ok(command)) => {
                    // Who answers pings does only what it is asked for.
                    let is_pong = command.request == Request::Pong;
                    if !is_pong && !open.quota.take(now.instant, &self.limits) {
                        return Err(InputEnd::Failed(CloseReason::TooManyRequests));
                    }
                    return Ok(Some(command));
                }
                Some(Err(_)) => return Err(malformed),
                None => {}
            }
            let Some(payload) = open.inbound.poll(queue)? else {
                mark_dirty(conn, &mut self.dirty);
                return Ok(None);
            };
            let Some(frame) = CommandFrame::new(&payload) else {
                return Err(malformed);
            };
            session.set_frame(frame);
            conn.traffic.received_messages += 1;
            self.counters.received_messages += 1;
        }
    }

    fn send_replies(&mut self, id: ConnId, replies: &mut Replies) {
        if let Some(frames) = replies.take()
            && let Some(entry) = self.table.get_mut(id)
        {
            entry.conn.queue.push_whole(&frames);
            mark_dirty(&mut entry.conn, &mut self.dirty);
        }
    }

    fn carry_out(
        &mut self,
        now: Now,
        id: ConnId,
        command: Command,
        budget: &mut usize,
        replies: &mut Replies,
    ) -> Step {
        let command_id = command.id;
        let Some(session) = self.session_mut(id) else {
            return Step::Done;
        };
        if session.is_strange() {
            return match command.request {
                Request::Connect(request) => self.connect(now, id, (command_id, *request)),
                _ => Step::Close(CloseReason::BadRequest),
            };
        }
        if !session.is_connected() {
            return Step::Close(CloseReason::BadRequest);
        }
        match &command.request {
            Request::Pong if session.note_pong() => {
                // Its timer stands at the end of the time to answer; the next ping may be due before.
                self.arm(id);
                Step::Done
            }
            Request::Pong | Request::Connect(_) => Step::Close(CloseReason::BadRequest),
            Request::Subscribe(request) => self.subscribe(now, id, command_id, request),
            Request::Unsubscribe { channel } => {
                let Ok(room) = RoomName::new(channel) else {
                    put_done(replies.next(), command_id, "unsubscribe");
                    return Step::Done;
                };
                if session
                    .subscription(&room)
                    .is_some_and(|one| !one.is_joined)
                {
                    return Step::WaitForRoom(command, room);
                }
                self.drop_subscription(id, &room);
                put_done(replies.next(), command_id, "unsubscribe");
                Step::Done
            }
            Request::Publish {
                channel,
                data,
                is_map,
            } => {
                let (Ok(room), Some(payload)) = (RoomName::new(channel), data) else {
                    return Step::Error(ErrorCode::BadRequest);
                };
                if *is_map {
                    return Step::Error(ErrorCode::NotAvailable);
                }
                let worker = self.jobs.worker_of(&room);
                if *budget == 0 || !self.jobs.has_credit(worker) {
                    return Step::Wait(command, worker);
                }
                *budget -= 1;
                let payload = payload.clone();
                self.publish_for_client(now, (id, command_id), (room, worker), payload)
            }
            Request::Presence { channel } => {
                self.ask_for_client(now, (id, command_id), channel, |channel| {
                    Ok(ApiCall::Presence { channel })
                })
            }
            Request::PresenceStats { channel } => {
                self.ask_for_client(now, (id, command_id), channel, |channel| {
                    Ok(ApiCall::PresenceStats { channel })
                })
            }
            Request::History {
                channel,
                limit,
                since,
                reverse,
            } => {
                let (limit, reverse) = (limit.unwrap_or(usize::MAX), *reverse);
                self.ask_for_client(now, (id, command_id), channel, |channel| {
                    let since = since.as_ref().map(|(epoch, offset)| HistorySince {
                        epoch: (!epoch.is_empty()).then(|| epoch.clone()),
                        offset: Offset(*offset),
                    });
                    if reverse
                        && since
                            .as_ref()
                            .is_some_and(|since| since.offset == Offset(0))
                    {
                        return Err(ErrorCode::BadRequest);
                    }
                    Ok(ApiCall::History {
                        channel,
                        limit: limit.min(HISTORY_LIMIT_MAX),
                        since,
                        reverse,
                    })
                })
            }
            Request::Refresh { token } => self.refresh(now, (id, command_id), token, replies),
            Request::SubRefresh { channel, token } => {
                self.refresh_subscription(now, (id, command_id), (channel, token), replies)
            }
            Request::Ping | Request::Rpc => Step::Error(ErrorCode::NotAvailable),
            Request::Send => Step::Close(CloseReason::NotAvailable),
        }
    }

    /// Subscribes to a room, or says why not; the order of the checks is Centrifugo's.
    fn subscribe(
        &mut self,
        now: Now,
        id: ConnId,
        command: u32,
        request: &SubscribeRequest,
    ) -> Step {
        let is_known_delta = request
            .delta
            .as_deref()
            .is_none_or(|delta| delta == "fossil");
        if request.channel.is_empty() || !is_known_delta {
            return Step::Close(CloseReason::BadRequest);
        }
        if request.channel.len() > RoomName::BYTES_MAX {
            return Step::Error(ErrorCode::BadRequest);
        }
        let room = RoomName::new(&request.channel);
        let user = self.user_of(id);
        let rooms_max = self.limits.rooms_per_connection_max;
        let Some(session) = self.session_mut(id) else {
            return Step::Done;
        };
        if let Ok(room) = &room
            && session.subscription(room).is_some()
        {
            return Step::Error(ErrorCode::AlreadySubscribed);
        }
        if session.asked_len(user.as_ref()) >= rooms_max {
            return Step::Error(ErrorCode::LimitExceeded);
        }
        let Ok(room) = room else {
            return Step::Error(ErrorCode::BadRequest);
        };
        if request.kind != 0 {
            return Step::Error(ErrorCode::PermissionDenied);
        }
        let is_open = session.grants.may_join(user.as_ref(), &room);
        let mut subscription = Subscription::asked_by(Asker::Client(command));
        match (&request.token, &self.gate.token_secret) {
            (Some(text), Some(secret)) => {
                let claims = match subscription_claims(secret, text, now) {
                    Ok(claims) => claims,
                    Err(TokenRefusal::Expired | TokenRefusal::Early) => {
                        return Step::Error(ErrorCode::TokenExpired);
                    }
                    Err(_) => return Step::Error(ErrorCode::PermissionDenied),
                };
                let client = client_name(self.node(), id);
                if !is_for(&claims, &room, user.as_ref(), &client) {
                    return Step::Close(CloseReason::InvalidToken);
                }
                let expiry = Expiry::of(now, claims.expires_unix_s);
                subscription.expires_at = expiry.at;
                subscription.ttl_s = expiry.ttl_s;
                subscription.data = claims.data;
            }
            _ if !is_open => return Step::Error(ErrorCode::PermissionDenied),
            _ => {}
        }
        if request.has_filter {
            return Step::Error(ErrorCode::BadRequest);
        }
        subscription.watches = request.join_leave;
        subscription.rejects_unrecovered = request.rejects_unrecovered;
        let since = since_of(request.resume.as_ref());
        let awaited = room.clone();
        if let Some(session) = self.session_mut(id) {
            session.subscribe(room, since, subscription);
            if since != Since::Now {
                // What it has missed must fit its queue before the next is asked for.
                session.await_room(awaited);
            }
        }
        self.ask_for_subscriptions(id);
        Step::Done
    }

    fn publish_for_client(
        &mut self,
        now: Now,
        (id, command): (ConnId, u32),
        (room, worker): (RoomName, usize),
        payload: Payload,
    ) -> Step {
        let Some(entry) = self.table.get_mut(id) else {
            return Step::Done;
        };
        let conn = &mut entry.conn;
        let identity = conn.identity().cloned();
        let user = identity.as_ref().map(|one| &one.user);
        let grants = conn.session().map(|session| &session.grants);
        if !grants.is_some_and(|grants| grants.may_publish(user, &room)) {
            return Step::Error(ErrorCode::PermissionDenied);
        }
        conn.note_handed_over(payload.bytes().len());
        if let Some(events) = &mut self.events {
            events.push_back(Event::Message {
                conn: id,
                room: room.clone(),
                payload: payload.clone(),
            });
        }
        let job = Job::Publish {
            origin: id,
            command,
            room,
            identity,
            payload,
            taken_at: now.instant,
        };
        self.jobs.push(worker, job);
        Step::Done
    }

    /// Asks a room what a back end could ask it. The next command waits for the answer.
    fn ask_for_client(
        &mut self,
        now: Now,
        (conn, command): (ConnId, u32),
        channel: &str,
        call: impl FnOnce(RoomName) -> Result<ApiCall, ErrorCode>,
    ) -> Step {
        let Ok(room) = RoomName::new(channel) else {
            return Step::Error(ErrorCode::BadRequest);
        };
        let user = self.user_of(conn);
        let Some(session) = self.session_mut(conn) else {
            return Step::Done;
        };
        let is_open =
            session.subscription(&room).is_some() || session.grants.may_join(user.as_ref(), &room);
        if !is_open {
            return Step::Error(ErrorCode::PermissionDenied);
        }
        let call = match call(room) {
            Ok(call) => call,
            Err(code) => return Step::Error(code),
        };
        session.set_asking(true);
        let caller = Caller::Client { conn, command };
        let setting = Setting {
            reader: Reader::Client,
            ..self.setting()
        };
        let call = Call::decoded(caller, call, setting);
        if self.begin_question(now, Guest::Client, call) {
            return Step::Done;
        }
        if let Some(session) = self.session_mut(conn) {
            session.set_asking(false);
        }
        // There are too many; it may ask again.
        Step::Error(ErrorCode::Internal)
    }

    /// A question of a client is answered.
    pub(super) fn answer_client(
        &mut self,
        now: Now,
        (id, command): (ConnId, u32),
        method: &'static str,
        outcome: Outcome,
    ) {
        let bytes_max = self.limits.outbound_bytes_max;
        let Some(session) = self.session_mut(id) else {
            return;
        };
        session.set_asking(false);
        let mut replies = Replies::default();
        let result = match outcome {
            // A history ends where it would be too long, by a publication.
            Outcome::Single(Ok(result @ ApiResult::History { .. })) => Ok(result),
            Outcome::Single(Ok(result)) if result.page_bytes() <= bytes_max / 2 => Ok(result),
            Outcome::Single(Ok(_)) => Err(ErrorCode::LimitExceeded),
            Outcome::Single(Err(code)) => Err(ErrorCode::of_api(code)),
            Outcome::Batch(_) | Outcome::Undecodable => Err(ErrorCode::of_api(ApiCode::Internal)),
        };
        match result {
            Ok(result) => put_answer(replies.next(), command, method, &result),
            Err(code) => {
                self.counters.count_command_error(code.number());
                put_error(replies.next(), command, code);
            }
        }
        self.send_replies(id, &mut replies);
        self.go_on_reading(now, id);
    }

    /// Tells publishers that their publications have their numbers.
    pub(super) fn acknowledge(&mut self, now: Now, origins: &[Origin]) {
        let mut replies = Replies::default();
        let mut last = ConnId::NONE;
        let unanswered = || origins.iter().filter(|origin| !origin.is_answered);
        for origin in unanswered() {
            if origin.command > 0 {
                if origin.conn != last {
                    self.send_replies(last, &mut replies);
                    last = origin.conn;
                }
                put_done(replies.next(), origin.command, "publish");
            }
        }
        self.send_replies(last, &mut replies);
        for origin in unanswered() {
            self.answered(now, origin.conn, (1, origin.payload_bytes as usize));
        }
    }

    /// Tells a publisher that its publication was refused, or that nobody knows what became of it.
    pub(super) fn refuse_publication(&mut self, now: Now, origin: Origin, reason: CloseReason) {
        // Said before it counts as answered: a close frame behind it may wait for that.
        if origin.command == 0 {
            self.close(now, origin.conn, reason);
        } else {
            let mut replies = Replies::default();
            let code = error_of(reason);
            self.counters.count_command_error(code.number());
            put_error(replies.next(), origin.command, code);
            self.send_replies(origin.conn, &mut replies);
        }
        self.answered(now, origin.conn, (1, origin.payload_bytes as usize));
    }

    pub(super) fn session_mut(&mut self, id: ConnId) -> Option<&mut Session> {
        self.table.get_mut(id)?.conn.session_mut()
    }

    pub(super) fn user_of(&mut self, id: ConnId) -> Option<UserId> {
        let identity = self.table.get_mut(id)?.conn.identity();
        identity.map(|identity: &Arc<Identity>| identity.user.clone())
    }

    /// Whether a connection speaks by commands.
    pub(super) fn is_session(&self, id: ConnId) -> bool {
        let conn = self.table.get(id);
        conn.is_some_and(|conn| conn.session().is_some())
    }

    /// What made commands wait has gone.
    pub(super) fn go_on_reading(&mut self, now: Now, id: ConnId) {
        self.read_messages(now, id, usize::MAX);
        self.resume(id);
    }
}

/// From where a client wants to receive.
pub(super) fn since_of(resume: Option<&Resume>) -> Since {
    let Some(Resume { epoch, offset }) = resume else {
        return Since::Now;
    };
    let offset = Offset(*offset);
    if epoch.is_empty() {
        return Since::Offset(offset);
    }
    let epoch = Epoch::new(epoch).unwrap_or(Epoch::NEVER);
    Since::Position(Position { epoch, offset })
}

/// What a client is told where others are closed.
pub(super) fn error_of(reason: CloseReason) -> ErrorCode {
    match reason {
        CloseReason::ChannelLimit => ErrorCode::LimitExceeded,
        CloseReason::ConnectionLimit | CloseReason::PermissionDenied => ErrorCode::PermissionDenied,
        _ => ErrorCode::Internal,
    }
}

/// Most answers in one message.
const REPLIES_MAX: usize = 64;

/// Most bytes of answers in one message, apart from the last one.
const REPLY_BYTES_MAX: usize = 16 << 10;
