//! What back ends ask of a room: who is in it, what was published in it.

use super::RoomShard;
use crate::base::{Glob, Instant, Now, Offset, Position, RoomName};
use crate::exchange::{CallPart, Effect, Reader, RoomAsk};
use crate::room::history::History;
use crate::room::presence::Presence;
use crate::wire::api::answer::{ApiReply, ApiResult, Page};
use crate::wire::api::relay::USERS_BYTES_MAX;
use crate::wire::api::{ApiCall, ApiCode, HistorySince, PAGE_BYTES_MAX, client_name};
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
            RoomAsk::Presence(reader) => self.presence(&name, reader),
            RoomAsk::PresenceStats => self.presence_stats(&name),
            RoomAsk::History {
                limit,
                since,
                reverse,
                reader,
            } => {
                let range = Range {
                    limit,
                    since: since.as_ref(),
                    reverse,
                    reader,
                };
                self.history(&name, &range)
            }
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

    fn presence(&self, name: &RoomName, reader: Reader) -> ApiReply {
        let node = self.following.as_ref().map(|following| following.node);
        let mut page = Page::default();
        if let Some(room) = self.rooms.get(name) {
            let bytes_min = room.presence.clients_len() * CLIENT_BYTES_MIN;
            if reader == Reader::Client && bytes_min > self.limits.outbound_bytes_max / 2 {
                return Err(ApiCode::LimitExceeded);
            }
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

    fn history(&self, name: &RoomName, range: &Range<'_>) -> ApiReply {
        if self.limits.history_publications_max == 0 {
            return Err(ApiCode::NotAvailable);
        }
        let departed = self.departed.get(name);
        let departed = departed.map(|left| (left.history(), left.position));
        let kept = match (self.rooms.get(name), &departed) {
            (Some(room), _) => Some((&room.history, room.position())),
            (None, Some((history, position))) => Some((history, *position)),
            (None, None) => None,
        };
        self.page_of(kept, range)
    }

    /// A page of what is kept of a room, and of where the room is; `None` for one that there is not.
    pub(super) fn page_of(
        &self,
        kept: Option<(&History, Position)>,
        range: &Range<'_>,
    ) -> ApiReply {
        let Range {
            limit,
            since,
            reverse,
            reader,
        } = *range;
        let is_strict = reader == Reader::BackEnd;
        let Some((history, top)) = kept else {
            return match since {
                Some(since) if is_strict && since.epoch.is_some() || since.offset > Offset(0) => {
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
            if is_other || (is_strict && (is_future || is_forgotten)) {
                return Err(ApiCode::UnrecoverablePosition);
            }
        }
        let bytes_max = match reader {
            Reader::BackEnd => PAGE_BYTES_MAX,
            // What a client asks for must fit its queue.
            Reader::Client => self.limits.outbound_bytes_max / 2,
        };
        let mut publications = Page::default();
        let after = since.map_or(Offset(0), |since| since.offset);
        let before = since.map_or_else(|| top.offset.next(), |since| since.offset);
        let mut push = |publication: Publication<'_>| {
            match reader {
                Reader::BackEnd => publications.push_publication(&publication),
                Reader::Client => publications.push_answered(&publication),
            }
            publications.bytes_len() < bytes_max
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

/// Which part of a history is wanted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Range<'a> {
    pub(super) limit: usize,
    pub(super) since: Option<&'a HistorySince>,
    pub(super) reverse: bool,
    pub(super) reader: Reader,
}

/// The least that a client takes in a list of those in a room.
const CLIENT_BYTES_MIN: usize = 40;

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
