//! The back end of the simulator: calls without HTTP, each answered exactly once.

use std::collections::BTreeMap;
use std::time::Duration;

use roomcast::base::{Glob, Prng, RoomName};
use roomcast::exchange::RoomAsk;
use roomcast::hub::{ProgramCall, ProgramReply};
use roomcast::wire::api::answer::{ApiResult, Page};
use roomcast::wire::api::{ApiCall, ApiCode, ConnectionsOf, Publish};
use roomcast::wire::frame::Payload;
use serde_json::Value;

use super::log::{Entry, Log};

/// How long the contract remembers an idempotency key.
const KEY_KEPT: Duration = Duration::from_secs(300);

/// What has been called, and what was answered.
#[derive(Default)]
pub(crate) struct Backend {
    calls: u64,
    unanswered: BTreeMap<u64, ProgramCall>,
    /// How many publications of a room were numbered before an epoch of it began.
    epochs: BTreeMap<(String, String), u64>,
    keys: BTreeMap<(String, String), Keyed>,
    last_key: Option<(RoomName, Box<str>)>,
    /// What every connection was to be told.
    pub(crate) announced: Vec<String>,
    /// How many were in each room when it was asked last, and the number of that call.
    pub(crate) clients: BTreeMap<String, usize>,
}

/// What was published with one key.
#[derive(Debug)]
struct Keyed {
    /// When it was worked on, the last time that it was.
    at: Duration,
    payloads: Vec<Vec<u8>>,
}

impl Backend {
    /// Notes a call and returns its number.
    pub(crate) fn begin(&mut self, call: ProgramCall) -> u64 {
        let number = self.calls;
        self.calls += 1;
        self.unanswered.insert(number, call);
        number
    }

    /// The next call about rooms.
    pub(crate) fn call(&mut self, prng: &mut Prng) -> ProgramCall {
        let number = self.calls;
        let room = |prng: &mut Prng| {
            let name = match prng.below(6) {
                0 => "lossy:1".to_owned(),
                number @ 1..4 => format!("room:{number}"),
                number => format!("#u{}", number - 4),
            };
            RoomName::new(&name).expect("a good name")
        };
        let publish = Publish {
            payload: payload(number, prng),
            idempotency_key: None,
            skip_history: prng.below(3) == 0,
        };
        let channel = room(prng);
        if prng.below(8) == 0 {
            return Self::batch(number, &channel, prng.below(2) == 0);
        }
        ProgramCall::Api(match prng.below(15) {
            0 => {
                let text = format!("all/{number}");
                self.announced.push(text.clone());
                ApiCall::PublishAll {
                    payload: text.into(),
                }
            }
            1 => ApiCall::Channels {
                pattern: Glob::new("*"),
            },
            2 => ApiCall::PresenceStats { channel },
            3 | 14 => ApiCall::History {
                channel,
                limit: 5,
                since: None,
                reverse: prng.below(2) == 0,
            },
            13 => ApiCall::HistoryRemove { channel },
            12 => ApiCall::Connections {
                of: ConnectionsOf::Channel(channel),
                limit: 3,
            },
            11 => ApiCall::Presence { channel },
            4 | 5 => ApiCall::Broadcast {
                // The second payload would not be unique in its room.
                channels: vec![Ok(channel), Err(ApiCode::BadRequest)],
                publish,
            },
            // What was published with a key is not published again, whatever it is.
            key @ 6..9 => {
                let known = self.last_key.clone().filter(|_| key < 8);
                let new = || (channel, format!("k{number}").into());
                let (channel, key) = known.unwrap_or_else(new);
                self.last_key = Some((channel.clone(), key.clone()));
                let publish = Publish {
                    idempotency_key: Some(key),
                    ..publish
                };
                ApiCall::Publish { channel, publish }
            }
            _ => ApiCall::Publish { channel, publish },
        })
    }

    /// A call that publishes some kilobytes to a room.
    pub(crate) fn large(&self, prng: &mut Prng) -> ProgramCall {
        let name = format!("room:{}", 1 + prng.below(3));
        let filler = "w".repeat(500 + prng.below(4000) as usize);
        ProgramCall::Api(ApiCall::Publish {
            channel: RoomName::new(&name).expect("a good name"),
            publish: Publish {
                payload: format!("api/{}/{filler}", self.calls).into(),
                idempotency_key: None,
                skip_history: prng.below(3) == 0,
            },
        })
    }

    /// Two publications and a question, as a back end would write them.
    fn batch(number: u64, channel: &RoomName, parallel: bool) -> ProgramCall {
        let publish = |part: char| {
            let data = format!("api/{number}{part}");
            serde_json::json!({"publish": {"channel": channel.as_str(), "data": data}})
        };
        let stats = serde_json::json!({"presence_stats": {"channel": channel.as_str()}});
        let body = serde_json::json!({
            "commands": [publish('a'), stats, publish('b')],
            "parallel": parallel,
        });
        ProgramCall::Json {
            method: "batch".into(),
            body: body.to_string().into(),
        }
    }

    /// A worker is about to do what was asked. Returns what it will number, if anything.
    pub(crate) fn is_worked_on(
        &mut self,
        room: &RoomName,
        ask: &RoomAsk,
        now: Duration,
    ) -> Option<Entry> {
        let RoomAsk::Publish(publish) = ask else {
            return None;
        };
        if let Some(key) = &publish.idempotency_key {
            let key = (room.as_str().to_owned(), key.to_string());
            let payload = publish.payload.bytes().to_vec();
            match self.keys.get_mut(&key) {
                Some(keyed) if now < keyed.at + KEY_KEPT => return None,
                Some(keyed) => {
                    keyed.at = now;
                    keyed.payloads.push(payload);
                }
                None => {
                    let payloads = vec![payload];
                    self.keys.insert(key, Keyed { at: now, payloads });
                }
            }
        }
        let origin = roomcast::base::ConnId::NONE;
        Some(Entry::new(&publish.payload, origin, publish.skip_history))
    }

    /// What a worker was about to do was refused.
    pub(crate) fn is_refused(&mut self, room: &RoomName, ask: &RoomAsk) {
        if let RoomAsk::Publish(Publish {
            idempotency_key: Some(key),
            ..
        }) = ask
        {
            // It may have been published before, and forgotten; what is wrong then is not seen.
            self.keys.remove(&(room.to_string(), key.to_string()));
        }
    }

    /// An answer has come: it is the only one, and of the right kind. `is_crowded` where there may
    /// be no place for a room.
    pub(crate) fn is_answered(
        &mut self,
        number: u64,
        reply: &ProgramReply,
        (keeps_history, is_crowded): (bool, bool),
        log: &Log,
    ) {
        let call = self.unanswered.remove(&number);
        let call = call.unwrap_or_else(|| panic!("call {number} was answered twice"));
        let (call, reply) = match (call, reply) {
            (ProgramCall::Api(call), ProgramReply::Typed(reply)) => (call, reply),
            (ProgramCall::Json { .. }, ProgramReply::Json(Some(answer))) => {
                return Self::is_batch_answered(answer, is_crowded);
            }
            (call, reply) => panic!("{call:?} was answered with {reply:?}"),
        };
        match (&call, reply) {
            (ApiCall::Publish { channel, publish }, Ok(ApiResult::Published(position))) => {
                let key = publish.idempotency_key.as_ref();
                let key = key.map(|key| (channel.to_string(), key.to_string()));
                let keyed = key.and_then(|key| self.keys.get(&key));
                let payloads = keyed.map_or_else(
                    || vec![publish.payload.bytes().to_vec()],
                    |keyed| keyed.payloads.clone(),
                );
                let at = (position.epoch.as_str(), position.offset.0);
                self.note_place(channel.as_str(), at, &payloads, log);
            }
            (ApiCall::Publish { .. }, Err(ApiCode::LimitExceeded)) => assert!(is_crowded),
            (ApiCall::Broadcast { .. }, Ok(ApiResult::Broadcast(responses))) => {
                let is_limited = responses[0] == Err(ApiCode::LimitExceeded);
                assert!(responses[0].is_ok() || (is_crowded && is_limited));
                assert_eq!(responses[1], Err(ApiCode::BadRequest));
            }
            (
                ApiCall::Disconnect { .. }
                | ApiCall::Unsubscribe { .. }
                | ApiCall::Subscribe { .. }
                | ApiCall::Refresh { .. }
                | ApiCall::PublishAll { .. },
                Ok(ApiResult::Done),
            )
            | (ApiCall::Channels { .. }, Ok(ApiResult::Channels(_)))
            | (ApiCall::Presence { .. }, Ok(ApiResult::Presence(_))) => {}
            (
                ApiCall::PresenceStats { channel },
                Ok(ApiResult::PresenceStats { clients, users }),
            ) => {
                assert!(users <= clients);
                self.clients.insert(channel.to_string(), *clients);
            }
            (ApiCall::Connections { .. }, Ok(ApiResult::Connections(rows))) => {
                assert!(rows.len() <= 3);
            }
            (
                ApiCall::History {
                    channel, reverse, ..
                },
                Ok(ApiResult::History { publications, top }),
            ) => {
                assert!(keeps_history && publications.len() <= 5);
                let epoch = top.map(|top| top.epoch.to_string()).unwrap_or_default();
                self.note_page(channel.as_str(), &epoch, *reverse, publications, log);
            }
            (ApiCall::HistoryRemove { .. }, Ok(ApiResult::Done)) => assert!(keeps_history),
            (
                ApiCall::History { .. } | ApiCall::HistoryRemove { .. },
                Err(ApiCode::NotAvailable),
            ) => assert!(!keeps_history),
            (call, reply) => panic!("{call:?} was answered with {reply:?}"),
        }
    }

    fn is_batch_answered(answer: &[u8], is_crowded: bool) {
        let answer: Value = serde_json::from_slice(answer).expect("JSON");
        let replies = answer["replies"].as_array().expect("replies");
        assert_eq!(replies.len(), 3);
        for at in [0, 2] {
            let is_limited = replies[at]["error"]["code"] == 106;
            let offset = replies[at]["publish"]["offset"].as_u64();
            assert!(offset > Some(0) || (is_crowded && is_limited), "{answer}");
        }
        assert!(replies[1]["presence_stats"]["num_clients"].is_u64());
    }

    /// One of some payloads is said to be at a place of an epoch: its place in the epoch is its place
    /// in the log, from where the epoch began, and that is the same each time.
    fn note_place(
        &mut self,
        room: &str,
        (epoch, offset): (&str, u64),
        payloads: &[Vec<u8>],
        log: &Log,
    ) {
        let places = payloads
            .iter()
            .filter_map(|payload| log.place(room, payload));
        let mut begins = places.filter_map(|at| (at as u64 + 1).checked_sub(offset));
        let epoch = (room.to_owned(), epoch.to_owned());
        match self.epochs.get(&epoch) {
            Some(began) => assert!(
                begins.any(|begin| begin == *began),
                "{room}: not what {offset} is: {payloads:?}"
            ),
            None => {
                let begin = begins.next().expect("numbered before");
                self.epochs.insert(epoch, begin);
            }
        }
    }

    /// Where in the log an epoch began, if that is known.
    fn began(&self, room: &str, epoch: &str) -> Option<u64> {
        let epoch = (room.to_owned(), epoch.to_owned());
        self.epochs.get(&epoch).copied()
    }

    /// A page of history is a run of the log, without what was not to be kept.
    fn note_page(&mut self, room: &str, epoch: &str, is_reverse: bool, page: &Page, log: &Log) {
        let text = [b"[", page.items(), b"]"].concat();
        let mut items: Vec<Value> = serde_json::from_slice(&text).expect("JSON");
        if is_reverse {
            items.reverse();
        }
        let mut last = None;
        for item in items {
            let offset = item["offset"].as_u64().expect("an offset");
            let payload = match (item["b64data"].as_str(), item["data"].as_str()) {
                (Some(b64), _) => super::commands::from_base64(b64),
                (None, Some(text)) => text.as_bytes().to_vec(),
                (None, None) => item["data"].to_string().into_bytes(),
            };
            self.note_place(room, (epoch, offset), &[payload], log);
            let began = self.began(room, epoch).expect("noted");
            let at = (began + offset - 1) as usize;
            let entries = log.room(room);
            assert!(!entries[at].is_passing, "{room}: it was not to be kept");
            if let Some(last) = last {
                assert!(at > last, "{room}: a page in another order");
                let between = &entries[last + 1..at];
                assert!(
                    between.iter().all(|entry| entry.is_passing),
                    "{room}: a page with a gap"
                );
            }
            last = Some(at);
        }
    }

    /// Nothing is left open.
    pub(crate) fn balance(&self) {
        assert!(
            self.unanswered.is_empty(),
            "calls without an answer: {:?}",
            self.unanswered
        );
    }
}

/// Text, JSON or anything, and unique.
fn payload(number: u64, prng: &mut Prng) -> Payload {
    let filler = "y".repeat(prng.below(2) as usize * 300);
    match prng.below(4) {
        0 => serde_json::json!({ "api": number, "filler": filler }).into(),
        1 => format!("api/{number}/{filler}").into_bytes().into(),
        _ => format!("api/{number}/{filler}").into(),
    }
}
