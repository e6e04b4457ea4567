//! The life of connections that speak by commands: from `connect` to the rooms they are in, and out
//! of those again.
//!
//! What is queued before the answer to `connect` waits for it: rooms that a token gives are joined
//! first, and each is caught up with behind the answer, so that nothing of a room comes before it.

use std::sync::Arc;

use super::commands::{Step, error_of, since_of};
use super::renewing::Expiry;
use super::replay::Joined;
use super::{Hub, mark_dirty};
use crate::auth::token::{self, TokenRefusal};
use crate::base::{CloseReason, ConnId, Identity, Now, RoomName, Since};
use crate::conn::pressure::Level;
use crate::conn::session::{Asker, Connecting, Session, SessionDue, Subscription};
use crate::conn::{Missed, Purpose};
use crate::exchange::{Job, Subscribed, Terms};
use crate::wire::api::client_name;
use crate::wire::centrifugo::command::ConnectRequest;
use crate::wire::centrifugo::push;
use crate::wire::centrifugo::reply::{
    ConnectResult, ErrorCode, put_connect, put_error, put_subscribe,
};
use crate::wire::frame::{Frames, PayloadKind};
use crate::wire::raw::{QueryError, WireForm, user_of};

/// What messages are for that hold commands; their sender is not known yet.
pub(super) const COMMANDS: Purpose = Purpose::Rooms {
    target: None,
    identity: None,
    form: WireForm::Centrifugo,
    echo: true,
};

impl<S> Hub<S> {
    /// What a connection begins with that speaks by commands.
    pub(super) fn begin_session(&self, now: Now, query: &str) -> Result<Box<Session>, QueryError> {
        let user = match self.gate.token_secret {
            None => user_of(query)?,
            Some(_) => None,
        };
        let deadline = now.instant + self.limits.handshake_timeout;
        Ok(Box::new(Session::new(deadline, user)))
    }

    /// Lets a client in, or says why not.
    pub(super) fn connect(
        &mut self,
        now: Now,
        id: ConnId,
        (command, request): (u32, ConnectRequest),
    ) -> Step {
        let mut rooms = Vec::new();
        let mut expiry = Expiry::default();
        let identity = match &self.gate.token_secret {
            // Everybody is who they say they are.
            None => {
                let session = self.session_mut(id);
                let user = session.and_then(|session| session.said_user.take());
                user.map(|user| Identity { user, info: None })
            }
            Some(secret) => {
                let Some(text) = &request.token else {
                    return Step::Close(CloseReason::BadRequest);
                };
                let unix_s = now.unix_ms / 1000;
                let claims = match token::verify(secret, text, unix_s) {
                    Ok(claims) if claims.expires_unix_s.is_some_and(|at| at <= unix_s) => {
                        return self.refuse_client(id, ErrorCode::Expired);
                    }
                    Ok(claims) => claims,
                    Err(TokenRefusal::Expired | TokenRefusal::Early) => {
                        return self.refuse_client(id, ErrorCode::TokenExpired);
                    }
                    Err(TokenRefusal::Anonymous) => {
                        return Step::Close(CloseReason::PermissionDenied);
                    }
                    Err(TokenRefusal::Invalid) => return Step::Close(CloseReason::InvalidToken),
                };
                expiry = Expiry::of(now, claims.expires_unix_s);
                if let Some(session) = self.session_mut(id) {
                    session.grants = claims.grants;
                }
                rooms = claims.subs;
                Some(Identity {
                    user: claims.user,
                    info: claims.info,
                })
            }
        };
        if rooms.len() > self.limits.rooms_per_connection_max {
            return Step::Close(CloseReason::ChannelLimit);
        }
        let mut subscriptions: Vec<(RoomName, Subscription)> = (rooms.into_iter())
            .map(|sub| {
                let mut subscription = Subscription::asked_by(Asker::Token);
                subscription.data = sub.data;
                (sub.room, subscription)
            })
            .collect();
        if let Some(identity) = &identity {
            if !self.users.ask(&identity.user, id) {
                return Step::Close(CloseReason::ConnectionLimit);
            }
            let personal = RoomName::personal(&identity.user);
            if !subscriptions.iter().any(|(room, _)| *room == personal) {
                subscriptions.push((personal, Subscription::asked_by(Asker::Token)));
            }
        }
        let pending = subscriptions.len();
        let answer_bytes_max = self.limits.outbound_bytes_max / 2 / pending.max(1);
        let Some(entry) = self.table.get_mut(id) else {
            return Step::Done;
        };
        entry.conn.set_identity(identity.map(Arc::new));
        entry.conn.set_waiting(true);
        let Some(open) = entry.conn.open_mut() else {
            return Step::Done;
        };
        open.expires_at = expiry.at;
        let Some(session) = &mut open.session else {
            return Step::Done;
        };
        session.start_connecting(Connecting {
            id: command,
            ttl_s: expiry.ttl_s,
            pending,
            answer_bytes_max,
            results: Vec::new(),
        });
        for (room, subscription) in subscriptions {
            let mut subs = request.subs.iter();
            let resume = subs.find(|(name, _)| **name == *room.as_str());
            let since = since_of(resume.map(|(_, resume)| resume));
            session.subscribe(room, since, subscription);
        }
        if pending == 0 {
            self.finish_connecting(now, id);
        } else {
            self.ask_for_subscriptions(id);
        }
        Step::Done
    }

    /// A client cannot be let in now; what else it has sent is not looked at.
    fn refuse_client(&mut self, id: ConnId, code: ErrorCode) -> Step {
        if let Some(session) = self.session_mut(id) {
            session.refuse();
        }
        Step::Error(code)
    }

    /// Every room that the answer to `connect` waits for is joined.
    fn finish_connecting(&mut self, now: Now, id: ConnId) {
        let client = client_name(self.node(), id);
        let Some(entry) = self.table.get_mut(id) else {
            return;
        };
        let conn = &mut entry.conn;
        let limits = &self.limits;
        let connecting = conn
            .session_mut()
            .and_then(|session| session.connect(now.instant, limits, &mut self.prng));
        let Some(connecting) = connecting else {
            return;
        };
        let ping_s = limits.ping_interval.map(|interval| {
            // Rounded up, for the client waits so long and some seconds more.
            u32::try_from(interval.as_secs_f64().ceil() as u64).unwrap_or(u32::MAX)
        });
        let result = ConnectResult {
            client: &client,
            ttl_s: connecting.ttl_s,
            ping_s,
            subs: &connecting.results,
        };
        let mut out = Vec::new();
        put_connect(&mut out, connecting.id, &result);
        let frames = Frames::message(PayloadKind::Text, &out);
        conn.queue.push_first(&frames);
        conn.set_waiting(false);
        mark_dirty(conn, &mut self.dirty);
        let identity = conn.purpose().and_then(Purpose::identity);
        let replaced = identity.map_or_else(Vec::new, |one| self.users.open(&one.user, id));
        self.announce_open(id);
        self.arm(id);
        for before in replaced {
            self.close_replaced(now, before);
        }
        self.catch_up(id);
    }

    /// Asks the workers for the rooms that a client is to be in, for as long as their queues have room.
    pub(super) fn ask_for_subscriptions(&mut self, id: ConnId) {
        let Some(entry) = self.table.get_mut(id) else {
            return;
        };
        let conn = &mut entry.conn;
        let Some(Purpose::Rooms { form, identity, .. }) = conn.purpose() else {
            return;
        };
        let (form, identity) = (*form, identity.clone());
        let level = conn.queue.level();
        while let Some(session) = conn.session_mut()
            && let Some(room) = session.next_unasked()
        {
            let worker = self.jobs.worker_of(room);
            if !self.jobs.has_credit(worker) {
                if !conn.set_awaits_worker(true) {
                    self.jobs.wait(worker, id);
                }
                return;
            }
            let answer_bytes_max = session
                .connecting_mut()
                .map(|connecting| connecting.answer_bytes_max);
            let Some((room, since, subscription)) = session.take_unasked() else {
                return;
            };
            let half = self.limits.outbound_bytes_max / 2;
            let job = Job::Subscribe {
                conn: id,
                room,
                form,
                since,
                identity: identity.clone(),
                terms: Terms {
                    answer_publications_max: (self.limits.outbound_publications_max)
                        .saturating_sub(level.publications),
                    watches: subscription.watches,
                    is_held: answer_bytes_max.is_some() && subscription.asker == Asker::Token,
                    answer_bytes_max: match subscription.asker {
                        // What it is told of that has no place for publications: they follow.
                        Asker::BackEnd => 0,
                        _ => answer_bytes_max.unwrap_or_else(|| half.saturating_sub(level.bytes)),
                    },
                },
            };
            self.jobs.push(worker, job);
        }
    }

    /// A room was joined: the client is told so, and then given what comes.
    pub(super) fn subscribed(&mut self, now: Now, id: ConnId, joined: Joined) {
        let Joined {
            room,
            form,
            offset,
            after,
            owed_after,
            result,
            ..
        } = joined;
        let Some(entry) = self.table.get_mut(id) else {
            return;
        };
        let conn = &mut entry.conn;
        let subscription = conn
            .session_mut()
            .and_then(|session| session.note_joined(&room));
        let (Some(subscription), Some(result)) = (subscription, result) else {
            // It died meanwhile; the shard must not count it for ever.
            self.leave(id, room, form);
            return;
        };
        let is_heavy = result.is_heavy(self.limits.outbound_publications_max);
        let Subscribed {
            mut result,
            publications,
        } = *result;
        result.ttl_s = subscription.ttl_s;
        result.data = subscription.data.clone();
        let asker = subscription.asker;
        let is_unwanted = subscription.is_unwanted;
        let is_rejected =
            subscription.rejects_unrecovered && result.was_recovering && !result.is_recovered;
        let mut out = Vec::new();
        let mut is_held = false;
        match asker {
            Asker::Client(command) if is_rejected => {
                let code = ErrorCode::UnrecoverablePosition;
                self.counters.count_command_error(code.number());
                put_error(&mut out, command, code);
            }
            Asker::Client(command) => put_subscribe(&mut out, command, &result),
            Asker::BackEnd => push::put_subscribed(&mut out, &room, &result),
            Asker::Token => {
                if let Some(connecting) = conn.session_mut().and_then(|it| it.connecting_mut()) {
                    connecting.pending -= 1;
                    connecting.results.push((room.clone(), result));
                    is_held = true;
                }
            }
        }
        if !out.is_empty() {
            let frames = Frames::message(PayloadKind::Text, &out);
            conn.queue.push(&frames, publications as u32);
        }
        conn.traffic.deliveries += publications as u64;
        self.counters.deliveries += publications as u64;
        self.counters.replayed += publications as u64;
        mark_dirty(conn, &mut self.dirty);
        if !conn.is_blocked() && conn.queue.level().is_half_of(Level::bound(&self.limits)) {
            self.raise_flush_barrier();
        }
        if is_rejected {
            self.leave(id, room.clone(), form);
            if let Some(session) = self.session_mut(id) {
                session.unsubscribe(&room);
            }
        } else if is_held || is_heavy || after < offset {
            let missed = Missed {
                room: room.clone(),
                after,
                owed_after,
                joined_at: offset,
                is_asked: false,
            };
            if let Some(entry) = self.table.get_mut(id) {
                entry.conn.add_missed(missed, false);
            }
        } else {
            self.add_member(id, &room, offset);
        }
        if is_unwanted && !is_rejected {
            self.unsubscribe_client(id, &room, push::UNSUBSCRIBED);
        }
        let connecting = self.session_mut(id).and_then(|it| it.connecting_mut());
        if connecting.is_some_and(|connecting| connecting.pending == 0) {
            self.finish_connecting(now, id);
        }
        self.arm(id);
        self.catch_up(id);
        self.go_on_reading(now, id);
    }

    /// A room cannot be joined.
    pub(super) fn refuse_subscription(
        &mut self,
        now: Now,
        id: ConnId,
        room: &RoomName,
        reason: CloseReason,
    ) {
        let Some(subscription) = self.session_mut(id).and_then(|it| it.unsubscribe(room)) else {
            return;
        };
        match subscription.asker {
            Asker::Client(command) => {
                let code = error_of(reason);
                self.counters.count_command_error(code.number());
                let mut out = Vec::new();
                put_error(&mut out, command, code);
                self.tell_client(id, &out);
            }
            Asker::Token => self.close(now, id, reason),
            // Nobody waits for it.
            Asker::BackEnd => {}
        }
        self.go_on_reading(now, id);
    }

    /// Takes a client out of a room that it has joined, and tells it why.
    pub(super) fn unsubscribe_client(
        &mut self,
        id: ConnId,
        room: &RoomName,
        (code, reason): (u16, &str),
    ) {
        if self.drop_subscription(id, room) {
            let mut out = Vec::new();
            push::put_unsubscribe(&mut out, room, code, reason);
            self.tell_client(id, &out);
        }
    }

    /// Publications of a room are lost to a connection: a client may come back to a room that it has
    /// asked for itself; in all other cases the whole connection begins anew.
    pub(super) fn lose_room(&mut self, now: Now, id: ConnId, room: &RoomName) {
        let subscription = self.session_mut(id).and_then(|it| it.subscription(room));
        if subscription.is_none_or(Subscription::is_server_side) {
            return self.close(now, id, CloseReason::InsufficientState);
        }
        self.unsubscribe_client(id, room, push::INSUFFICIENT_STATE);
    }

    /// Takes a client out of a room without a word; returns whether it was in it.
    pub(super) fn drop_subscription(&mut self, id: ConnId, room: &RoomName) -> bool {
        let subscription = self.session_mut(id).and_then(|it| it.unsubscribe(room));
        if subscription.is_none() {
            return false;
        }
        self.take_out(id, room);
        true
    }

    /// A back end makes a client a member of a room.
    pub(super) fn subscribe_client(
        &mut self,
        id: ConnId,
        room: RoomName,
        since: Since,
        subscription: Subscription,
    ) {
        let rooms_max = self.limits.rooms_per_connection_max;
        let user = self.user_of(id);
        let Some(session) = self.session_mut(id) else {
            return;
        };
        let has_place = session.asked_len(user.as_ref()) < rooms_max;
        let is_in = session.is_connected() || session.connecting_mut().is_some();
        if !is_in || !has_place || session.subscription(&room).is_some() {
            return;
        }
        session.subscribe(room, since, subscription);
        self.ask_for_subscriptions(id);
    }

    /// A back end says until when a connection may stay; `None` for as long as it wants to.
    pub(super) fn renew_connection(&mut self, now: Now, id: ConnId, unix_s: Option<u64>) {
        let Some(open) = self
            .table
            .get_mut(id)
            .and_then(|entry| entry.conn.open_mut())
        else {
            return;
        };
        let expiry = Expiry::of(now, unix_s);
        open.expires_at = expiry.at;
        let is_client = open.session.as_ref().is_some_and(|it| it.is_connected());
        self.arm(id);
        if is_client {
            let mut out = Vec::new();
            push::put_refresh(&mut out, expiry.ttl_s);
            self.tell_client(id, &out);
        }
    }

    /// Sends a client one answer or push.
    pub(super) fn tell_client(&mut self, id: ConnId, text: &[u8]) {
        if let Some(entry) = self.table.get_mut(id) {
            let frames = Frames::message(PayloadKind::Text, text);
            entry.conn.queue.push_whole(&frames);
            mark_dirty(&mut entry.conn, &mut self.dirty);
        }
    }

    /// Tells those who want to know that somebody has joined a room or left it.
    pub(super) fn tell_watchers(&mut self, room: &RoomName, told: &Arc<Frames>) -> usize {
        let mut told_len = 0;
        let Some(room) = self.members.room(room) else {
            return 0;
        };
        let bound = Level::bound(&self.limits);
        for slot in room.watchers() {
            told_len += 1;
            if let Some(conn) = self.table.at_mut(slot)
                // Who is behind is told what matters more.
                && !conn.queue.level().is_half_of(bound)
            {
                conn.queue.push_whole(told);
                mark_dirty(conn, &mut self.dirty);
            }
        }
        told_len
    }

    /// The timer of a client has fired.
    pub(super) fn look_at_session(&mut self, now: Now, id: ConnId) {
        loop {
            let Some(entry) = self.table.get_mut(id) else {
                return;
            };
            let conn = &mut entry.conn;
            let is_reading = conn.is_reading(&self.limits);
            let Some((open, queue)) = conn.open_and_queue() else {
                return;
            };
            let Some(session) = &mut open.session else {
                return;
            };
            if !is_reading {
                // It may have answered; we are not listening.
                session.excuse(now.instant, &self.limits);
            }
            match session.poll(now.instant, &self.limits) {
                SessionDue::Nothing => return,
                SessionDue::Ping => {
                    queue.push_whole(&self.ping);
                    mark_dirty(conn, &mut self.dirty);
                }
                SessionDue::Suspicion => self.resumed.push_back(id),
                SessionDue::NoPong => return self.close(now, id, CloseReason::NoPong),
                SessionDue::Stale => return self.close(now, id, CloseReason::Stale),
                SessionDue::Expired => {
                    let Some((room, subscription)) = session.expired(now.instant) else {
                        return;
                    };
                    let room = room.clone();
                    if subscription.is_server_side() {
                        return self.close(now, id, CloseReason::SubscriptionExpired);
                    }
                    self.unsubscribe_client(id, &room, push::SUBSCRIPTION_EXPIRED);
                }
            }
        }
    }
}
