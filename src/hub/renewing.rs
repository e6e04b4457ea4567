//! Tokens of clients that speak by commands: what those for subscriptions say, and others that take the
//! place of those whose time is nearly over.

use std::time::Duration;

use super::Hub;
use super::commands::{Replies, Step};
use crate::auth::token::{self, SubscriptionClaims, TokenRefusal};
use crate::base::{CloseReason, ConnId, Instant, Now, RoomName, Secret, UserId};
use crate::conn::session::Asker;
use crate::wire::api::client_name;
use crate::wire::centrifugo::reply::{ErrorCode, put_refreshed};

impl<S> Hub<S> {
    /// Takes another token for the connection.
    pub(super) fn refresh(
        &mut self,
        now: Now,
        (id, command): (ConnId, u32),
        text: &str,
        replies: &mut Replies,
    ) -> Step {
        let (Some(secret), false) = (&self.gate.token_secret, text.is_empty()) else {
            return Step::Close(CloseReason::BadRequest);
        };
        let claims = match token::verify(secret, text, now.unix_ms / 1000) {
            Ok(claims) => claims,
            Err(TokenRefusal::Expired | TokenRefusal::Early) => {
                return Step::Close(CloseReason::ConnectionExpired);
            }
            Err(_) => return Step::Close(CloseReason::InvalidToken),
        };
        if Some(&claims.user) != self.user_of(id).as_ref() {
            return Step::Close(CloseReason::InvalidToken);
        }
        let expiry = Expiry::of(now, claims.expires_unix_s);
        let personal = RoomName::personal(&claims.user);
        let Some(open) = self
            .table
            .get_mut(id)
            .and_then(|entry| entry.conn.open_mut())
        else {
            return Step::Done;
        };
        let Some(session) = &mut open.session else {
            return Step::Done;
        };
        let given = session
            .subscriptions()
            .filter(|(room, one)| one.asker == Asker::Token && **room != personal)
            .count();
        let mut subs = claims.subs.iter().filter(|sub| sub.room != personal);
        let is_given = |room| {
            let subscription = session.subscription(room);
            subscription.is_some_and(|one| one.asker == Asker::Token)
        };
        if subs.clone().count() != given || !subs.all(|sub| is_given(&sub.room)) {
            return Step::Close(CloseReason::InsufficientState);
        }
        session.grants = claims.grants;
        open.expires_at = expiry.at;
        self.arm(id);
        put_refreshed(replies.next(), command, "refresh", expiry.ttl_s);
        Step::Done
    }

    /// Takes another token for a subscription.
    pub(super) fn refresh_subscription(
        &mut self,
        now: Now,
        (id, command): (ConnId, u32),
        (channel, text): (&str, &str),
        replies: &mut Replies,
    ) -> Step {
        let user = self.user_of(id);
        let client = client_name(self.node(), id);
        let room = RoomName::new(channel).ok();
        let session = self
            .table
            .get_mut(id)
            .and_then(|entry| entry.conn.session_mut());
        let subscribed = room.and_then(|room| {
            let subscription = session.as_ref()?.subscription(&room)?;
            let is_server_side = subscription.is_server_side();
            Some((room, is_server_side))
        });
        let (Some((room, is_server_side)), Some(session)) = (subscribed, session) else {
            return Step::Error(ErrorCode::PermissionDenied);
        };
        if text.is_empty() {
            return Step::Error(ErrorCode::BadRequest);
        }
        let (Some(secret), false) = (&self.gate.token_secret, is_server_side) else {
            return Step::Close(CloseReason::BadRequest);
        };
        let claims = match subscription_claims(secret, text, now) {
            Ok(claims) => claims,
            Err(TokenRefusal::Expired | TokenRefusal::Early) => {
                return Step::Error(ErrorCode::TokenExpired);
            }
            Err(_) => return Step::Close(CloseReason::InvalidToken),
        };
        if !is_for(&claims, &room, user.as_ref(), &client) {
            return Step::Close(CloseReason::InvalidToken);
        }
        let expiry = Expiry::of(now, claims.expires_unix_s);
        session.renew(&room, expiry.at);
        self.arm(id);
        put_refreshed(replies.next(), command, "sub_refresh", expiry.ttl_s);
        Step::Done
    }
}

/// Whether a subscription token is for this room, user and client.
pub(super) fn is_for(
    claims: &SubscriptionClaims,
    room: &RoomName,
    user: Option<&UserId>,
    client: &str,
) -> bool {
    claims.room == *room
        && *claims.user == *user.map_or("", UserId::as_str)
        && claims.client.as_deref().is_none_or(|one| one == client)
}

/// What a subscription token says, if it is good now and gives any time.
pub(super) fn subscription_claims(
    secret: &Secret,
    text: &str,
    now: Now,
) -> Result<SubscriptionClaims, TokenRefusal> {
    let unix_s = now.unix_ms / 1000;
    let claims = token::verify_subscription(secret, text, unix_s)?;
    if claims.expires_unix_s.is_some_and(|at| at <= unix_s) {
        return Err(TokenRefusal::Expired);
    }
    Ok(claims)
}

/// When something ends that has a token.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Expiry {
    /// When it ends here: the client has some time to bring another token.
    pub(super) at: Option<Instant>,
    /// In how many seconds the client is to bring another one.
    pub(super) ttl_s: Option<u32>,
}

impl Expiry {
    /// Of a token that is good until `unix_s`.
    pub(super) fn of(now: Now, unix_s: Option<u64>) -> Self {
        let ms_left = |end_ms: u64| Duration::from_millis(end_ms.saturating_sub(now.unix_ms));
        let end_ms = unix_s.map(|unix_s| unix_s.saturating_mul(1000));
        Self {
            at: end_ms.map(|end_ms| now.instant + ms_left(end_ms.saturating_add(GRACE_MS))),
            ttl_s: end_ms.map(|end_ms| {
                let left = ms_left(end_ms).as_secs();
                u32::try_from(left).unwrap_or(u32::MAX)
            }),
        }
    }
}

/// How long a client has for another token after the time of the first is over, in
/// milliseconds.
const GRACE_MS: u64 = 25_000;
