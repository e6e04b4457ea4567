//! What back ends ask of a room: who is in it, what was published in it.

use super::RoomShard;
use crate::base::{Glob, Instant, Now, Offset, Position, RoomName};
use crate::exchange::{CallPart, Effect, RoomAsk};
use crate::room::history::History;
use crate::room::presence::Presence;
use crate::wire::api::answer::{ApiReply, ApiResult, Page};
use crate::wire::api::relay::USERS_BYTES_MAX;
use crate::wire::api::{ApiCall, ApiCode, HistorySince, client_name};
use crate::wire::raw::Publication;

impl RoomShard {
    /// Does what a back end asks for, whose call was taken at the second of `times`.
    pub(super) fn ask(
        &mut self,
        times: (Now, Instant),
        part: CallPart,
        name: RoomName,
        ask: RoomAsk,
    ) {
        let reply = match ask {
            RoomAsk::Publish(publish) => {
                self.publish_for(times, part, name, publish);
                return;
            }
            RoomAsk::History { .. } if self.is_kept_elsewhere(&name) => {
                self.look(times.0, part, name, ask);
                return;
            }
            RoomAsk::HistoryRemove if self.following.is_some() => {
                self.ask_to_forget(times.0, part, name);
                return;
            }
            RoomAsk::Presence => self.presence(&name),
            RoomAsk::PresenceStats => self.presence_stats(&name),
            RoomAsk::History {
                limit,
                since,
                reverse,
            } => self.history(&name, limit, since.as_ref(), reverse),
            RoomAsk::HistoryRemove => self.remove_history(&name),
        };
        self.effects.push_back(Effect::Answered { part, reply });
    }

    /// Reads the body of a call. It needs no room; it is only too much work for the loop.
    pub(super) fn decode(&mut self, call: u32, method: &str, body: &[u8]) {
        let outcome = ApiCall::parse(method, body, self.limits.message_bytes_max).map(Box::new);
        self.effects.push_back(Effect::Decoded { call, outcome });
    }

    /// The rooms with members whose names fit.
    pub(super) fn list_rooms(&mut self, part: CallPart, pattern: &Glob) {
        let mut page = Page::default();
        for (name, room) in self.rooms.iter() {
            if page.is_full() {
                break;
            }
            if room.presence.clients_len() > 0 && pattern.matches(name.as_str()) {
                page.push_channel(name, room.presence.clients_len());
            }
        }
        let reply = whole(page).map(ApiResult::Channels);
        self.effects.push_back(Effect::Answered { part, reply });
    }

    fn presence(&self, name: &RoomName) -> ApiReply {
        let node = self.following.as_ref().map(|following| following.node);
        let mut page = Page::default();
        if let Some(room) = self.rooms.get(name) {
            for (client, identity) in room.presence.clients() {
                if page.is_full() {
                    break;
                }
                page.push_client(&client_name(node, client), identity);
            }
        }
        whole(page).map(ApiResult::Presence)
    }

    fn presence_stats(&self, name: &RoomName) -> ApiReply {
        let presence = self.rooms.get(name).map(|room| &room.presence);
        if self.following.is_some()
            && let Some(users) = named_users(presence)
        {
            let clients = presence.map_or(0, |presence| presence.clients_len());
            return Ok(ApiResult::PresenceUsers { clients, users });
        }
        Ok(ApiResult::PresenceStats {
            clients: presence.map_or(0, |presence| presence.clients_len()),
            users: presence.map_or(0, |presence| presence.users_len()),
        })
    }

    fn history(
        &self,
        name: &RoomName,
        limit: usize,
        since: Option<&HistorySince>,
        reverse: bool,
    ) -> ApiReply {
        if self.limits.history_publications_max == 0 {
            return Err(ApiCode::NotAvailable);
        }
        let kept = self.rooms.get(name);
        let kept = kept.map(|room| (&room.history, room.position()));
        self.page_of(kept, limit, since, reverse)
    }

    /// A page of what is kept of a room, and of where the room is; `None` for one that there is not.
    pub(super) fn page_of(
        &self,
        kept: Option<(&History, Position)>,
        limit: usize,
        since: Option<&HistorySince>,
        reverse: bool,
    ) -> ApiReply {
        let Some((history, top)) = kept else {
            return match since {
                Some(since) if since.epoch.is_some() || since.offset > Offset(0) => {
                    Err(ApiCode::UnrecoverablePosition)
                }
                _ => Ok(ApiResult::History {
                    publications: Page::default(),
                    top: None,
                }),
            };
        };
        if let Some(since) = since {
            let is_other = since
                .epoch
                .as_deref()
                .is_some_and(|epoch| epoch != top.epoch.as_str());
            let is_future = since.offset > top.offset;
            // Backwards, what has been forgotten is only the end. The largest offset has no next
            // one, but it is always in the future.
            let is_forgotten = !reverse && !is_future && since.offset.next() < history.first();
            if is_other || is_future || is_forgotten {
                return Err(ApiCode::UnrecoverablePosition);
            }
        }
        let mut publications = Page::default();
        let after = since.map_or(Offset(0), |since| since.offset);
        let before = since.map_or_else(|| top.offset.next(), |since| since.offset);
        let mut push = |publication: Publication<'_>| {
            publications.push_publication(&publication);
            !publications.is_full()
        };
        if reverse {
            let _ = history.before(before).rev().take(limit).all(&mut push);
        } else {
            let _ = history.after(after).take(limit).all(&mut push);
        }
        Ok(ApiResult::History {
            publications,
            top: Some(top),
        })
    }

    fn remove_history(&mut self, name: &RoomName) -> ApiReply {
        if self.limits.history_publications_max == 0 {
            return Err(ApiCode::NotAvailable);
        }
        self.forget(name);
        Ok(ApiResult::Done)
    }
}

/// The users of a room, if they are few enough to be named.
fn named_users(presence: Option<&Presence>) -> Option<Page> {
    let mut page = Page::default();
    for user in presence.into_iter().flat_map(Presence::users) {
        page.push_user(user);
        if page.bytes_len() > USERS_BYTES_MAX {
            return None;
        }
    }
    Some(page)
}

/// A page that is of use only if nothing is missing.
fn whole(page: Page) -> Result<Page, ApiCode> {
    if page.is_full() {
        return Err(ApiCode::LimitExceeded);
    }
    Ok(page)
}
