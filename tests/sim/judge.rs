//! Whether there was a reason for what became of a client: for letting it in, and for closing it.
//!
//! Why a client was closed is judged by what the world has seen of it, and not by what the server says.

use std::collections::{BTreeMap, BTreeSet};

use roomcast::base::{CloseReason, DuplicateLogin};
use roomcast::hub::ProgramCall;
use roomcast::wire::api::ApiCall;

use super::World;
use crate::client::{Client, Join, Stage};
use crate::node::Admission;
use crate::plan::{BEFORE, Endpoint};

impl World {
    /// It was closed for a reason that there was.
    pub(super) fn judge_end(&self, client: &Client) {
        let id = client.id;
        // Who has no close frame is judged by the one that it was to have.
        let reason = client.farewell;
        let code = client
            .close_code()
            .or_else(|| reason.and_then(CloseReason::code));
        if let Some(codes) = client.abuse {
            let is_read = client.upstream.is_empty() && client.stage == Stage::Open;
            let is_over = client.has_ended || client.is_reset || client.server_has_ended;
            assert!(
                !is_read || is_over || code.is_some() || client.farewell.is_some(),
                "{id}: a broken rule is not noticed"
            );
            if code.is_some_and(|code| codes.contains(&code)) {
                return;
            }
        }
        if !client.plan.is_websocket() || client.stage != Stage::Open {
            return self.judge_end_without_websocket(client);
        }
        self.judge_silent_end(client);
        let is_told = |of: &BTreeSet<String>| {
            of.contains(&id.to_string())
                || (client.plan.user.as_ref()).is_some_and(|user| of.contains(user))
        };
        let limits = &self.limits;
        let token = client.plan.token.as_ref();
        let now_s = self.now().unix_ms / 1000;
        let is_commands = client.plan.endpoint == Endpoint::Commands;
        let now = self.now();
        let is_due = match code {
            None => {
                let expiry = token.map(|token| token.expires_unix_s);
                // Who speaks by commands has time to fetch another token.
                let grace_s = if is_commands { 26 } else { 1 };
                let is_over = expiry.is_some_and(|expiry| expiry + grace_s < now_s);
                let may_be = self.is_clock_set || is_told(&self.renewed);
                let is_connected = !is_commands || client.commands.is_connected;
                !(is_over && client.is_alive() && is_connected) || may_be
            }
            Some(1000) => client.has_sent_close,
            Some(3001) => self.is_shut_down,
            Some(3005) => {
                let expiry = token.map(|token| token.expires_unix_s);
                self.is_clock_set
                    || is_told(&self.renewed)
                    || expiry.is_some_and(|expiry| expiry <= now_s + 1)
            }
            // What is queued while its rooms are joined waits for the last of them.
            Some(3008) => {
                let is_echo = client.plan.endpoint == Endpoint::Echo;
                let is_slow = client.was_refused || client.was_closed_at_once();
                client.is_closed_for_memory || (!is_echo && is_slow)
            }
            Some(3009) => client.was_refused,
            Some(3010) => client.was_overtaken,
            Some(3012) => limits
                .ping_interval
                .is_some_and(|interval| match is_commands {
                    true => client.pongless(now) >= limits.pong_timeout.saturating_sub(interval),
                    false => client.silence(now) >= limits.pong_timeout,
                }),
            Some(3013) => {
                let of_rule_breaker = usize::from(client.abuse.is_some());
                let said = client.sent.len() + client.commands.sent_len() + of_rule_breaker;
                limits.message_rate > 0 && said > limits.message_burst as usize
            }
            Some(3500) => match is_commands {
                true => token.is_some() && !self.is_proven(client),
                false => client.plan.is_browser && !self.is_proven(client),
            },
            // It has no token, or was turned away and goes on talking.
            Some(3501) => is_commands && !client.commands.is_connected && !self.is_proven(client),
            Some(3502) => {
                let is_connecting = is_commands && !client.commands.is_connected;
                is_connecting && self.is_late(client)
            }
            Some(3503) => is_told(&self.kicked),
            Some(3504) => limits.duplicate_login != DuplicateLogin::Allow && self.has_rival(client),
            Some(3505) => client.had_no_place,
            Some(3507) => {
                let has_spoken = !client.sent.is_empty() && !client.plan.may_publish();
                !is_commands && (has_spoken || self.is_closed_to(client))
            }
            Some(_) => false,
        };
        assert!(
            is_due,
            "{id}: closed with {code:?} at {:?} for nothing",
            self.elapsed
        );
        let is_said = client.close_code().zip(reason.and_then(CloseReason::code));
        assert!(
            is_said.is_none_or(|(seen, meant)| seen == meant),
            "{id}: closed with {code:?} for {reason:?}"
        );
    }

    /// Who finds its WebSocket ended without a close frame has ended it, or could not be told.
    fn judge_silent_end(&self, client: &Client) {
        let Some(reason) = client.farewell else {
            let is_cut = client.server_has_ended && client.close_code().is_none();
            assert!(!is_cut, "{}: ended without a word", client.id);
            return;
        };
        if client.close_code().is_some() {
            return;
        }
        let is_deaf = self.is_deaf(client);
        let is_due = match reason {
            CloseReason::Gone => client.has_ended,
            CloseReason::Reset => client.is_reset,
            CloseReason::Shutdown => self.is_drain_over || is_deaf,
            CloseReason::Normal => client.has_sent_close && is_deaf,
            _ if reason.code().is_some() => is_deaf,
            _ => false,
        };
        assert!(is_due, "{}: dropped for {reason:?}", client.id);
    }

    /// Whether it could not be told anything, for its own doing or its shell's.
    fn is_deaf(&self, client: &Client) -> bool {
        client.is_deaf(self.limits.close_linger)
    }

    /// Whether its request, or its first command, may have taken too long.
    fn is_late(&self, client: &Client) -> bool {
        client.age(self.now()) >= self.limits.handshake_timeout
    }

    /// Whether more was published to its rooms since it has asked for them than it may have queued.
    fn may_be_full(&self, client: &Client) -> bool {
        let since = client
            .joins
            .iter()
            .flat_map(|join| &self.log.room(&join.room)[join.at..]);
        let (count, bytes) = since.fold((0, 0), |(count, bytes), entry| {
            (count + 1, bytes + 2 * entry.payload.len() + OVERHEAD_BYTES)
        });
        let limits = &self.limits;
        count > limits.outbound_publications_max || bytes > limits.outbound_bytes_max
    }

    /// Who is no WebSocket, or not yet, has left or has its answer.
    fn judge_end_without_websocket(&self, client: &Client) {
        let Some(reason) = client.farewell else {
            let is_asking = client.stage == Stage::Asking && client.is_sending();
            assert!(!is_asking, "{}: a request is not answered", client.id);
            return;
        };
        let statuses = &client.exchanges.statuses;
        let is_answered = client.status.is_some() || !statuses.is_empty();
        let is_deaf = self.is_deaf(client);
        let is_late = self.is_late(client) || client.admission == Admission::Overload;
        let is_due = match reason {
            CloseReason::Gone => client.has_ended,
            CloseReason::Reset => client.is_reset,
            CloseReason::Shutdown => self.is_shut_down,
            CloseReason::HandshakeTimeout => is_late,
            CloseReason::WriteTimeout => client.was_refused,
            CloseReason::Capacity => {
                let is_full = matches!(client.admission, Admission::Overload | Admission::Dropped);
                let is_short = client.asked_while_short == Some(true) || client.exchanges.short > 0;
                let may_be_short = client.is_reset && self.memory.seen.refused > 0;
                is_full || is_short || may_be_short
            }
            _ => is_answered || is_deaf,
        };
        assert!(is_due, "{}: dropped for {reason:?}", client.id);
    }

    /// What a request for a WebSocket was answered with, where that was not yes, had a reason.
    fn judge_refusal(&self, client: &Client) {
        let is_late = self.is_late(client);
        let is_told = |of: &BTreeSet<String>| {
            let user = client.plan.user.as_ref();
            of.contains(&client.id.to_string()) || user.is_some_and(|user| of.contains(user))
        };
        let is_due = match client.status {
            None => client.admission == Admission::Dropped,
            Some(401) => !self.is_proven(client),
            Some(403) => self.is_closed_to(client) || is_told(&self.kicked),
            Some(408) => is_late || client.admission == Admission::Overload,
            Some(409) => {
                let rule = self.limits.duplicate_login;
                rule == DuplicateLogin::Refuse && self.has_rival(client)
            }
            Some(503) => {
                let is_full = client.admission == Admission::Overload || client.had_no_place;
                let is_slow = self.may_be_full(client);
                // Whether memory was short then is judged by itself.
                let is_short = client.asked_while_short == Some(true);
                is_full
                    || is_slow
                    || is_short
                    || self.is_shut_down
                    || is_late
                    || is_told(&self.renewed)
            }
            Some(_) => false,
        };
        assert!(
            is_due,
            "{}: answered with {:?} for nothing",
            client.id, client.status
        );
    }

    /// What was answered to requests for pages and calls, where that is not the request's own doing.
    pub(super) fn judge_statuses(&self, client: &Client) {
        let exchanges = &client.exchanges;
        let is_late = self.is_late(client);
        assert!(is_late || !exchanges.was_too_long, "{}: 408", client.id);
        for status in &exchanges.statuses {
            let is_due = match status {
                401 => self.secret.is_some(),
                408 => is_late,
                503 => {
                    let is_full = client.admission == Admission::Overload;
                    is_full || exchanges.short > 0 || self.is_shut_down
                }
                _ => true,
            };
            assert!(is_due, "{}: answered with {status}", client.id);
        }
    }

    /// Whether it could prove who it is, where that is needed, whenever the server heard of it.
    fn is_proven(&self, client: &Client) -> bool {
        let latest_unix_s = client.times.latest_unix_ms / 1000;
        let is_good = client.plan.token.as_ref().is_some_and(|token| {
            token.is_good && token.expires_unix_s > latest_unix_s && !self.is_clock_set
        });
        self.secret.is_none() || is_good
    }

    /// Whether a room that it wants is not open to it.
    fn is_closed_to(&self, client: &Client) -> bool {
        let mut rooms = client.plan.rooms.iter();
        client.plan.endpoint == Endpoint::Rooms && rooms.any(|room| !client.plan.may_join(room))
    }

    /// Whether another was there at the same time who was, or may have been, the same user.
    fn has_rival(&self, client: &Client) -> bool {
        let Some(user) = &client.plan.user else {
            return false;
        };
        let is_rival = |other: &Client| {
            let has_user = matches!(other.plan.endpoint, Endpoint::Rooms | Endpoint::Commands);
            let was_let_in = !matches!(other.status, Some(401 | 409));
            let is_before_end = client
                .times
                .ended
                .is_none_or(|ended| other.times.came <= ended);
            let is_after_begin = other
                .times
                .ended
                .is_none_or(|ended| ended >= client.times.came);
            other.id != client.id
                && other.stage != Stage::Waiting
                && other.admission == Admission::Public
                && other.plan.user.as_ref() == Some(user)
                && has_user
                && was_let_in
                && is_before_end
                && is_after_begin
        };
        self.node.clients.iter().any(is_rival)
    }

    /// Who is in a room is who has asked for it, until it asks to leave, or a back end does.
    pub(super) fn judge_rooms(&self, client: &Client) {
        let id = client.id;
        let is_served = client.stage == Stage::Open && client.must_have_all();
        let plan = &client.plan;
        let commands = &client.commands;
        let named = |of: &[(String, String)], room: &str| {
            let is_it = |name: &str| name == id.to_string() || plan.user.as_deref() == Some(name);
            of.iter()
                .filter(|(name, of)| of == room && is_it(name))
                .count()
        };
        let (mut entered, mut left) = (BTreeMap::new(), BTreeMap::new());
        for join in &client.joins {
            *entered.entry(&*join.room).or_insert(0) += 1;
            *left.entry(&*join.room).or_insert(0) +=
                usize::from(join.left_at.is_some() && !join.was_drained);
            let is_ready = plan.endpoint != Endpoint::Rooms || join.live_after.is_some();
            assert!(
                !client.is_alive() || join.left_at.is_some() || is_ready,
                "{id}: never live in {}",
                join.room
            );
            assert!(
                !client.is_alive() || join.offset.is_some(),
                "{id}: nobody knows whether it is in {}",
                join.room
            );
        }
        let is_wanted = |room: &str| plan.all_rooms().any(|wanted| wanted == room);
        for (room, entered) in &entered {
            let asked = match plan.endpoint {
                Endpoint::Rooms => usize::from(is_wanted(room)),
                _ => {
                    let is_personal = plan
                        .user
                        .as_ref()
                        .is_some_and(|user| *room == format!("#{user}"));
                    let asked = commands.asked_in.get(*room).copied().unwrap_or(0);
                    asked + usize::from(is_personal) + named(&self.put_in, room)
                }
            };
            assert!(*entered <= asked, "{id}: made a member of {room} unasked");
        }
        if is_served {
            for (room, left) in &left {
                let told = commands.put_out.get(&((*room).to_owned(), INSUFFICIENT));
                let asked = commands.asked_out.get(*room).copied().unwrap_or(0);
                let asked = asked + named(&self.put_out, room) + told.copied().unwrap_or(0);
                assert!(*left <= asked, "{id}: taken out of {room} unasked");
            }
        }
        if is_served && plan.endpoint == Endpoint::Rooms {
            let absent = plan.all_rooms().find(|room| !entered.contains_key(&**room));
            assert!(absent.is_none(), "{id}: never in {absent:?}");
        }
        if client.is_alive() && commands.is_connected {
            let personal = plan.user.as_ref().map(|user| format!("#{user}"));
            let is_in = personal.is_none_or(|room| commands.stays.contains_key(&room));
            assert!(is_in, "{id}: never in its personal room");
        }
        for ((room, code), count) in &commands.put_out {
            let is_due = match *code {
                UNSUBSCRIBED => *count <= named(&self.put_out, room),
                INSUFFICIENT => self.may_have_forgotten(room, 0),
                _ => false,
            };
            assert!(is_due, "{id}: put out of {room} with {code}");
        }
        for (room, code) in &commands.errors {
            let is_due = match *code {
                ALREADY => {
                    let asked = commands.asked_in.get(room).copied().unwrap_or(0);
                    asked + named(&self.put_in, room) > 1
                }
                DENIED => !plan.may_join(room),
                LIMITED => client.had_no_place,
                _ => false,
            };
            assert!(is_due, "{id}: refused in {room} with {code}");
        }
    }

    /// What never happens here never happens.
    pub(super) fn judge_counters(&self) {
        let closes = &self.node.hub.counters().closes;
        for reason in [
            CloseReason::Internal,
            CloseReason::Tls,
            CloseReason::BrokerGone,
            CloseReason::NotAvailable,
            CloseReason::SubscriptionExpired,
        ] {
            assert_eq!(
                closes[reason.index()],
                0,
                "somebody was closed for {reason:?}"
            );
        }
    }

    /// Notes who has found its end, and what was gone of what it had missed.
    pub(super) fn note_ends(&mut self) {
        let now = self.now();
        if self.is_shut_down {
            let end = *self
                .drained_by
                .get_or_insert(self.elapsed + self.limits.drain_timeout);
            self.is_drain_over = self.elapsed >= end;
        }
        for index in self.node.note_ends(now) {
            let client = &self.node.clients[index];
            let reason = client.farewell.and_then(CloseReason::code);
            let code = client.close_code().or(reason);
            let was_overtaken = code == Some(3010) && self.is_overtaken(client);
            self.node.clients[index].was_overtaken = was_overtaken;
        }
    }

    /// Notes from where on nothing that was missed may be given up: what was certainly kept when the
    /// last of it was given.
    pub(super) fn note_kept(&mut self) {
        let Self {
            node, log, limits, ..
        } = self;
        let joins = node.clients.iter_mut().flat_map(|client| &mut client.joins);
        for join in joins.filter(|join| join.live_after.is_some() && !join.is_kept_noted) {
            join.is_kept_noted = true;
            join.kept_when_live = log.kept_from(&join.room, limits, self.elapsed);
        }
    }

    /// Counts what the clients were closed with, or answered.
    pub(super) fn count_ends(&mut self) {
        for client in &self.node.clients {
            let status = client.status.filter(|status| *status != 101);
            if let Some(code) = client.close_code() {
                self.tally.note(format!("code {code}"));
            } else if let Some(status) = status {
                self.tally.note(format!("status {status}"));
            }
        }
    }

    /// Whether something that it had missed is gone, or may be.
    fn is_overtaken(&self, client: &Client) -> bool {
        let plan = &client.plan;
        if plan.json {
            return false;
        }
        client.joins.iter().any(|join| {
            let Some(offset) = join.offset else {
                return false;
            };
            let epoch_at = join.at - offset as usize;
            let since = plan.since.iter().find(|(room, _, _)| *room == join.room);
            match (plan.endpoint, since, plan.since_ms) {
                (Endpoint::Rooms, Some((_, epoch, since)), _) => {
                    let is_elsewhere = epoch == BEFORE || *since > offset;
                    is_elsewhere || self.may_have_forgotten(&join.room, epoch_at + *since as usize)
                }
                (Endpoint::Rooms, None, Some(_)) => {
                    let newer_from = join.newer_from.unwrap_or(join.at);
                    let is_whole = self.reaches_back(join) && !self.is_clock_set;
                    !is_whole || self.may_have_forgotten(&join.room, newer_from)
                }
                // From the first that it is given on, all are owed to it.
                (Endpoint::Rooms, None, None) if plan.last.is_some() => {
                    let count = plan.last.unwrap_or(0);
                    let earliest = self.log.place_of_last(&join.room, join.at, count);
                    self.may_have_forgotten(&join.room, earliest)
                }
                // Nothing is owed to it of what was there before, and without history all is held.
                _ if self.limits.history_publications_max == 0 => {
                    !(self.log).is_held_from(&join.room, join.at, &self.limits, self.elapsed)
                }
                _ => self.may_have_forgotten(&join.room, join.at),
            }
        })
    }

    /// Whether some of a room's log from `place` on is not there for certain.
    fn may_have_forgotten(&self, room: &str, place: usize) -> bool {
        let kept_from = self.log.kept_from(room, &self.limits, self.elapsed);
        let held = self
            .log
            .is_held_from(room, place, &self.limits, self.elapsed);
        kept_from.is_none_or(|kept_from| kept_from > place) || !held
    }

    /// Whether a member that came with a time is certain to have had all since: something older was
    /// there.
    pub(super) fn reaches_back(&self, join: &Join) -> bool {
        let newer_from = join.newer_from.unwrap_or(join.at);
        let room = self.log.room(&join.room);
        let older = join
            .kept_from
            .and_then(|kept_from| room.get(kept_from..newer_from));
        older.is_some_and(|older| older.iter().any(|entry| !entry.is_passing))
    }

    /// Notes who is there when all are to be told something.
    pub(super) fn note_listeners(&mut self, call: &ProgramCall) {
        let ProgramCall::Api(ApiCall::PublishAll { payload }) = call else {
            return;
        };
        let text = String::from_utf8_lossy(payload.bytes()).into_owned();
        let clients = self.node.clients.iter().filter(|client| client.is_alive());
        let listeners = clients.filter(|client| match client.plan.endpoint {
            Endpoint::Rooms => true,
            Endpoint::Commands => client.commands.is_connected,
            _ => false,
        });
        let listeners = listeners.map(|client| client.id).collect();
        self.announced.push((text, listeners, self.is_shut_down));
    }

    /// Something goes wrong, or not; what does is counted.
    pub(super) fn trouble_and_note(&mut self) {
        let idle = |of: &Self| of.asleep.iter().filter(|is_asleep| **is_asleep).count();
        let before = (idle(self), self.set_ms, self.elapsed);
        let had_none = self.node.has_no_descriptors;
        self.trouble();
        for (has_happened, what) in [
            (self.node.has_no_descriptors && !had_none, "no descriptors"),
            (idle(self) > before.0, "a worker sleeps"),
            (self.set_ms != before.1, "the wall clock is set"),
            (self.elapsed != before.2, "the machine was asleep"),
        ] {
            if has_happened {
                self.tally.note(format!("trouble: {what}"));
            }
        }
    }

    /// It was let in if there was room for it, and it could say who it is.
    pub(super) fn judge_admission(&self, client: &Client) {
        if client.stage == Stage::Refused {
            self.judge_refusal(client);
        }
        let is_in = client.stage == Stage::Open
            && (client.is_alive() || !client.joins.is_empty() || !client.seen.is_empty());
        let is_in = is_in && !client.was_closed_at_once();
        assert!(
            !is_in || client.admission == Admission::Public,
            "{}: {:?} and served",
            client.id,
            client.admission
        );
        assert!(
            !is_in || !self.is_closed_to(client),
            "{}: in a room that is not open to it",
            client.id
        );
        assert!(
            !is_in || !client.is_late,
            "{}: let in by a node that ends",
            client.id
        );
        let is_good = client
            .plan
            .token
            .as_ref()
            .is_some_and(|token| token.is_good);
        if self.secret.is_some() && !is_good {
            let is_in = match client.plan.endpoint {
                Endpoint::Commands => client.commands.is_connected,
                _ => is_in,
            };
            assert!(!is_in, "{}: let in without a token", client.id);
        }
    }
}

/// What Centrifugo's clients are told: why they are taken out of a room, and why they are not let in.
const UNSUBSCRIBED: u64 = 2000;
const INSUFFICIENT: u64 = 2500;
const DENIED: u64 = 103;
const ALREADY: u64 = 105;
const LIMITED: u64 = 106;

/// What a publication takes at most in a queue beyond its payload twice, in bytes.
const OVERHEAD_BYTES: usize = 300;
