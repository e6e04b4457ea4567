//! Calls that need no worker: connections that are closed, taken out of a room or listed, and the
//! figures of the node.

use std::collections::HashSet;

use super::Hub;
use super::calls::{Inquiry, NodeFigures};
use super::renewing::Expiry;
use crate::base::{CloseReason, ConnId, Epoch, Now, Position, RoomName, Since, shown_address};
use crate::conn::session::{Asker, Subscription};
use crate::conn::{Connection, Purpose};
use crate::exchange::CallPart;
use crate::wire::api::answer::{ApiReply, ApiResult, ConnectionRow, NodeRow, Page};
use crate::wire::api::{
    ApiCall, ApiCode, ConnectionsOf, Refresh, Subscribe, Target, client_here, client_name,
};
use crate::wire::centrifugo::push;

impl<S> Hub<S> {
    /// Answers what needs no worker; `None` if the shell is to answer.
    pub(super) fn answer_here(
        &mut self,
        now: Now,
        part: CallPart,
        call: ApiCall,
    ) -> Option<ApiReply> {
        Some(Ok(match call {
            ApiCall::Info => {
                self.inquiries.push_back(Inquiry::Node(part));
                return None;
            }
            ApiCall::Disconnect {
                target,
                whitelist,
                code,
                reason,
            } => {
                self.disconnect(now, &target, &whitelist, (code, &reason));
                ApiResult::Done
            }
            ApiCall::Unsubscribe { channel, target } => {
                self.unsubscribe_all(&target, &channel);
                ApiResult::Done
            }
            ApiCall::Subscribe {
                channel,
                target,
                subscribe,
            } => {
                self.subscribe_all(now, &target, &channel, &subscribe);
                ApiResult::Done
            }
            ApiCall::Refresh { target, refresh } => {
                self.refresh_all(now, &target, refresh);
                ApiResult::Done
            }
            ApiCall::Connections { of, limit } => {
                ApiResult::Connections(self.connection_rows(now, &of, limit))
            }
            _ => return Some(Err(ApiCode::Internal)),
        }))
    }

    /// Carries out what all nodes were told to. It needs no worker, so it is done at once, whatever
    /// else waits: none of it can be lost here, or be done in another order than it was told.
    pub(super) fn obey(&mut self, now: Now, call: ApiCall) {
        match call {
            ApiCall::Disconnect {
                target,
                whitelist,
                code,
                reason,
            } => self.disconnect(now, &target, &whitelist, (code, &reason)),
            ApiCall::Unsubscribe { channel, target } => self.unsubscribe_all(&target, &channel),
            ApiCall::Subscribe {
                channel,
                target,
                subscribe,
            } => self.subscribe_all(now, &target, &channel, &subscribe),
            ApiCall::Refresh { target, refresh } => self.refresh_all(now, &target, refresh),
            _ => debug_assert!(false, "an order that no node gives the hub"),
        }
    }

    /// Closes the connections that are meant, but for some that stay.
    fn disconnect(
        &mut self,
        now: Now,
        target: &Target,
        whitelist: &[Box<str>],
        farewell: (u16, &str),
    ) {
        let node = self.node();
        let stay: HashSet<ConnId> = whitelist
            .iter()
            .filter_map(|one| client_here(node, one))
            .collect();
        for id in self.targets(target) {
            if !stay.contains(&id) {
                self.close_as(now, id, CloseReason::ForceDisconnect, farewell);
            }
        }
    }

    fn unsubscribe_all(&mut self, target: &Target, room: &RoomName) {
        for id in self.targets(target) {
            self.unsubscribe(id, room);
        }
    }

    /// Makes clients that speak by commands members of a room. Others chose theirs when they came.
    fn subscribe_all(&mut self, now: Now, target: &Target, room: &RoomName, how: &Subscribe) {
        let since = match &how.since {
            None => Since::Now,
            Some(since) => {
                let offset = since.offset;
                let epoch = since.epoch.as_deref();
                epoch.map_or(Since::Offset(offset), |epoch| {
                    let epoch = Epoch::new(epoch).unwrap_or(Epoch::NEVER);
                    Since::Position(Position { epoch, offset })
                })
            }
        };
        for id in self.targets(target) {
            let mut subscription = Subscription::asked_by(Asker::BackEnd);
            subscription.data = how.data.clone();
            subscription.expires_at = Expiry::of(now, how.expires_unix_s).at;
            self.subscribe_client(id, room.clone(), since, subscription);
        }
    }

    /// Sets when connections end.
    fn refresh_all(&mut self, now: Now, target: &Target, refresh: Refresh) {
        for id in self.targets(target) {
            match refresh {
                Refresh::Expired => self.close(now, id, CloseReason::ConnectionExpired),
                Refresh::Until(unix_s) => self.renew_connection(now, id, unix_s),
            }
        }
    }

    /// The connections that are meant, those that are WebSockets or about to be.
    fn targets(&self, target: &Target) -> Vec<ConnId> {
        let (user, client) = match target {
            Target::User(user) => return self.users.of(user).collect(),
            Target::Client(client) => (None, client),
            Target::ClientOf(user, client) => (Some(user), client),
        };
        let is_meant = |id: &ConnId| {
            let purpose = self.table.get(*id).and_then(|conn| conn.purpose());
            let identity = purpose.and_then(Purpose::identity);
            purpose.is_some() && (user.is_none() || identity.map(|one| &one.user) == user)
        };
        client_here(self.node(), client)
            .filter(is_meant)
            .into_iter()
            .collect()
    }

    /// Takes a connection out of a room, and tells one that can be told.
    fn unsubscribe(&mut self, id: ConnId, room: &RoomName) {
        let Some(session) = self.session_mut(id) else {
            return self.take_out(id, room);
        };
        if !session.renounce(room) {
            self.unsubscribe_client(id, room, push::UNSUBSCRIBED);
        }
    }

    /// Takes a connection out of a room.
    pub(super) fn take_out(&mut self, id: ConnId, room: &RoomName) {
        if self.table.get(id).is_none() {
            return;
        }
        // Its place knows what it has skipped and not been told of.
        self.tell_skips(id);
        if let Some(form) = self.members.leave(room, id.slot) {
            self.leave(id, room.clone(), form);
            return;
        }
        let Some(conn) = self.table.at_mut(id.slot) else {
            return;
        };
        if let Some(Purpose::Rooms { form, .. }) = conn.purpose() {
            let form = *form;
            if conn.remove_missed(room) {
                self.leave(id, room.clone(), form);
                self.catch_up(id);
            }
        }
    }

    fn connection_rows(&self, now: Now, of: &ConnectionsOf, limit: usize) -> Page {
        let ids: Vec<ConnId> = match of {
            ConnectionsOf::User(user) => self.users.of(user).take(limit).collect(),
            ConnectionsOf::Channel(room) => {
                let members = self
                    .members
                    .room(room)
                    .map_or(&[][..], |room| room.members());
                members
                    .iter()
                    .take(limit)
                    .filter_map(|member| self.table.id_at(member.slot))
                    .collect()
            }
        };
        let mut page = Page::default();
        for conn in ids.into_iter().filter_map(|id| self.table.get(id)) {
            if page.is_full() {
                break;
            }
            page.push_connection(&self.connection_row(now, conn, usize::MAX));
        }
        page
    }

    /// What there is to say of a connection, with up to `rooms_max` of its rooms.
    pub(super) fn connection_row(
        &self,
        now: Now,
        conn: &Connection,
        rooms_max: usize,
    ) -> ConnectionRow {
        let level = conn.queue.level();
        let rooms = self.members.rooms_of(conn.id.slot).take(rooms_max);
        ConnectionRow {
            client: client_name(self.node(), conn.id).into(),
            peer: shown_address(conn.peer()).to_string().into(),
            user: conn.identity().map(|one| one.user.clone()),
            rooms: rooms.map(|(room, _)| room.name().clone()).collect(),
            age_ms: now.instant.nanos_since(conn.opened_at) / 1_000_000,
            queued: level.publications,
            queued_bytes: level.bytes,
            queue_weight: conn.queue.weight(),
            sent: conn.traffic.deliveries,
            skipped: conn.traffic.skipped,
        }
    }

    /// The figures of the node, for a part that [`Hub::poll_inquiry`] named.
    pub fn handle_node(&mut self, now: Now, part: CallPart, figures: &NodeFigures) {
        let row = NodeRow {
            uid: figures.uid.clone(),
            name: figures.name.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            clients: self.open_len,
            users: self.users.len(),
            channels: self.members.rooms_len(),
            subscriptions: self.members.members_len(),
            uptime_secs: now.instant.saturating_duration_since(self.start).as_secs(),
            cpu_percent: figures.cpu_percent,
            rss_bytes: figures.rss_bytes,
        };
        let mut page = Page::default();
        page.push_node(&row);
        self.answer_part(now, part, Ok(ApiResult::Info(page)));
    }
}
