//! The back end of the simulator: calls without HTTP, each answered exactly once.

use std::collections::BTreeMap;
use std::time::Duration;

use roomcast::base::{Glob, Prng, RoomName, UserId};
use roomcast::exchange::RoomAsk;
use roomcast::hub::{ProgramCall, ProgramReply};
use roomcast::wire::api::answer::ApiResult;
use roomcast::wire::api::{ApiCall, ApiCode, ConnectionsOf, Publish, Target};
use roomcast::wire::frame::Payload;

/// How long the contract remembers an idempotency key.
const KEY_KEPT: Duration = Duration::from_secs(300);

/// What has been called, and what was answered.
#[derive(Default)]
pub(super) struct Backend {
    calls: u64,
    unanswered: BTreeMap<u64, ProgramCall>,
    /// How many publications of a room were numbered before an epoch of it began.
    epochs: BTreeMap<(String, String), u64>,
    /// When each key was first worked on.
    keys: BTreeMap<(String, String), Duration>,
    last_keyed: Option<ApiCall>,
}

impl Backend {
    /// The next call and its number.
    pub(super) fn call(&mut self, prng: &mut Prng) -> (u64, ProgramCall) {
        let number = self.calls;
        self.calls += 1;
        let room = |prng: &mut Prng| {
            let name = match prng.below(6) {
                0 => "lossy:1".to_owned(),
                number @ 1..4 => format!("room:{number}"),
                number => format!("#u{}", number - 4),
            };
            RoomName::new(&name).expect("a good name")
        };
        let publish = Publish {
            payload: Payload::text(format!("api/{number}").into()),
            idempotency_key: None,
            skip_history: prng.below(3) == 0,
        };
        let channel = room(prng);
        if prng.below(8) == 0 {
            let call = self.batch(number, &channel, prng.below(2) == 0);
            self.unanswered.insert(number, call.clone());
            return (number, call);
        }
        let call = match prng.below(14) {
            0 => ApiCall::Disconnect {
                target: Target::User(UserId::new("u1").expect("a good id")),
                whitelist: Vec::new(),
                code: 3503,
                reason: "kicked".into(),
            },
            1 => ApiCall::Channels {
                pattern: Glob::new("*"),
            },
            2 => ApiCall::PresenceStats { channel },
            3 => ApiCall::History {
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
            4 | 5 => ApiCall::Broadcast {
                // The second payload would not be unique in its room.
                channels: vec![Ok(channel), Err(ApiCode::BadRequest)],
                publish,
            },
            6 | 7 if self.last_keyed.is_some() => {
                self.last_keyed.clone().expect("looked at before")
            }
            6..9 => {
                let publish = Publish {
                    idempotency_key: Some(format!("k{number}").into()),
                    ..publish
                };
                let call = ApiCall::Publish { channel, publish };
                self.last_keyed = Some(call.clone());
                call
            }
            _ => ApiCall::Publish { channel, publish },
        };
        let call = ProgramCall::Api(call);
        self.unanswered.insert(number, call.clone());
        (number, call)
    }

    /// Two publications and a question, as a back end would write them.
    fn batch(&self, number: u64, channel: &RoomName, parallel: bool) -> ProgramCall {
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

    /// A worker is about to do what was asked. Returns what it will number, if anything, and whether
    /// it is not to be kept.
    pub(super) fn is_worked_on(
        &mut self,
        room: &RoomName,
        ask: &RoomAsk,
        now: Duration,
    ) -> Option<(Vec<u8>, bool)> {
        let RoomAsk::Publish(publish) = ask else {
            return None;
        };
        if let Some(key) = &publish.idempotency_key {
            let key = (room.as_str().to_owned(), key.to_string());
            if self.keys.get(&key).is_some_and(|at| now < *at + KEY_KEPT) {
                return None;
            }
            self.keys.insert(key, now);
        }
        Some((publish.payload.bytes().to_vec(), publish.skip_history))
    }

    /// An answer has come: it is the only one, and of the right kind. `place` finds a payload in
    /// the log of a room.
    pub(super) fn is_answered(
        &mut self,
        number: u64,
        reply: &ProgramReply,
        keeps_history: bool,
        place: impl Fn(&RoomName, &[u8]) -> Option<u64>,
    ) {
        let call = self.unanswered.remove(&number);
        let call = call.unwrap_or_else(|| panic!("call {number} was answered twice"));
        let (call, reply) = match (call, reply) {
            (ProgramCall::Api(call), ProgramReply::Typed(reply)) => (call, reply),
            (ProgramCall::Json { .. }, ProgramReply::Json(Some(answer))) => {
                let answer: serde_json::Value = serde_json::from_slice(answer).expect("JSON");
                let replies = answer["replies"].as_array().expect("replies");
                assert_eq!(replies.len(), 3);
                let offsets = [0, 2].map(|at| replies[at]["publish"]["offset"].as_u64());
                assert!(offsets[0] > Some(0) && offsets[1] > Some(0), "{answer}");
                assert!(replies[1]["presence_stats"]["num_clients"].is_u64());
                return;
            }
            (call, reply) => panic!("{call:?} was answered with {reply:?}"),
        };
        match (&call, reply) {
            (ApiCall::Publish { channel, publish }, Ok(ApiResult::Published(position))) => {
                // Its place in the epoch is its place in the log, from where the epoch began.
                let at = place(channel, publish.payload.bytes()).expect("numbered before");
                let began = (at + 1).checked_sub(position.offset.0).expect("an offset");
                let epoch = (channel.to_string(), position.epoch.as_str().to_owned());
                assert_eq!(*self.epochs.entry(epoch).or_insert(began), began);
            }
            (ApiCall::Broadcast { .. }, Ok(ApiResult::Broadcast(responses))) => {
                assert!(responses[0].is_ok());
                assert_eq!(responses[1], Err(ApiCode::BadRequest));
            }
            (ApiCall::Disconnect { .. }, Ok(ApiResult::Done))
            | (ApiCall::Channels { .. }, Ok(ApiResult::Channels(_)))
            | (ApiCall::PresenceStats { .. }, Ok(ApiResult::PresenceStats { .. })) => {}
            (ApiCall::Connections { .. }, Ok(ApiResult::Connections(rows))) => {
                assert!(rows.len() <= 3);
            }
            (ApiCall::History { .. }, Ok(ApiResult::History { publications, .. })) => {
                assert!(keeps_history && publications.len() <= 5);
            }
            (ApiCall::HistoryRemove { .. }, Ok(ApiResult::Done)) => assert!(keeps_history),
            (
                ApiCall::History { .. } | ApiCall::HistoryRemove { .. },
                Err(ApiCode::NotAvailable),
            ) => assert!(!keeps_history),
            (call, reply) => panic!("{call:?} was answered with {reply:?}"),
        }
    }

    /// Nothing is left open.
    pub(super) fn balance(&self) {
        assert!(
            self.unanswered.is_empty(),
            "calls without an answer: {:?}",
            self.unanswered
        );
    }
}
