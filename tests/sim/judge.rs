//! Whether there was a reason for what became of a client: for letting it in, and for closing it.

use std::collections::BTreeSet;

use roomcast::base::DuplicateLogin;

use super::World;
use crate::client::{Client, Stage};
use crate::node::Admission;
use crate::plan::Endpoint;

impl World {
    /// It was closed for a reason that there was.
    pub(super) fn judge_end(&self, client: &Client) {
        let id = client.id;
        if let Some(codes) = client.abuse {
            let is_read = client.upstream.is_empty() && client.stage == Stage::Open;
            let is_over = client.has_ended || client.is_reset || client.server_has_ended;
            let code = client.close_code();
            assert!(
                !is_read || is_over || code.is_some() || client.farewell.is_some(),
                "{id}: a broken rule is not noticed"
            );
            let is_expected = |code| code == 1000 || code >= 3000 || codes.contains(&code);
            assert!(code.is_none_or(is_expected), "{id}: closed with {code:?}");
            return;
        }
        let is_told = |of: &BTreeSet<String>| {
            of.contains(&id.to_string())
                || (client.plan.user.as_ref()).is_some_and(|user| of.contains(user))
        };
        let limits = &self.limits;
        let token = client.plan.token.as_ref();
        let now_s = self.now().unix_ms / 1000;
        let is_commands = client.plan.endpoint == Endpoint::Commands;
        let is_due = match client.close_code() {
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
            Some(3010) => !client.plan.json,
            Some(3012) => limits.ping_interval.is_some(),
            Some(3013) => {
                let commands = 1 + client.commands.unanswered();
                let said = client.sent.len() + commands;
                limits.message_rate > 0 && (is_commands || said > limits.message_burst as usize)
            }
            Some(3500) => {
                let is_good = token.is_some_and(|token| {
                    token.is_good && token.expires_unix_s > now_s && !self.is_clock_set
                });
                self.secret.is_some() && !is_good
            }
            Some(3501) => is_commands || client.plan.is_browser,
            Some(3502) => is_commands && !client.commands.is_connected,
            Some(3503) => is_told(&self.kicked),
            Some(3504) => {
                client.plan.user.is_some() && limits.duplicate_login != DuplicateLogin::Allow
            }
            Some(3505) => self.is_crowded,
            Some(3507) => self.secret.is_some() || client.plan.to.is_some(),
            Some(_) => false,
        };
        assert!(
            is_due,
            "{id}: closed with {:?} at {:?} for nothing",
            client.close_code(),
            self.elapsed
        );
    }

    /// It was let in if there was room for it, and it could say who it is.
    pub(super) fn judge_admission(&self, client: &Client) {
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
