//! Calls as one node passes them to the others, and what those answer.
//!
//! A notice is JSON, in the words of the API itself: `{"ask":7,"method":"presence","params":{…}}`.
//! Without `ask` it is to be carried out by every node, and nobody waits for an answer. An answer is
//! a number, a kind, and what a [`Page`] holds.

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::answer::{ApiReply, ApiResult, Page};
use super::{ApiCall, ApiCode, ConnectionsOf, Target};
use crate::wire::frame::{Payload, PayloadKind};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

/// What a node tells all others.
#[derive(Clone, Debug, PartialEq)]
pub struct Notice {
    /// The number of the question; `None` if it is none.
    pub ask: Option<u64>,
    /// What is to be done.
    pub call: ApiCall,
}

impl Notice {
    /// Writes a notice; `None` for a call that does not concern others.
    #[must_use]
    pub fn encode(ask: Option<u64>, call: &ApiCall) -> Option<String> {
        let params = params(call)?;
        let ask = ask.map_or_else(String::new, |ask| format!("\"ask\":{ask},"));
        let method = call.method().name();
        Some(format!(
            "{{{ask}\"method\":\"{method}\",\"params\":{params}}}"
        ))
    }

    /// Reads one; `None` for what is none, or is of a newer version.
    #[must_use]
    pub fn decode(text: &[u8]) -> Option<Self> {
        let notice: Written<'_> = serde_json::from_slice(text).ok()?;
        let call =
            ApiCall::parse(notice.method, notice.params.get().as_bytes(), usize::MAX).ok()?;
        params_are_relayed(&call).then_some(Self {
            ask: notice.ask,
            call,
        })
    }
}

/// A notice as it is written. What is published must come through as it is.
#[derive(Deserialize)]
struct Written<'a> {
    #[serde(default)]
    ask: Option<u64>,
    method: &'a str,
    #[serde(borrow)]
    params: &'a RawValue,
}

/// Whether every node has a part in the answer.
#[must_use]
pub fn is_asked(call: &ApiCall) -> bool {
    matches!(
        call,
        ApiCall::Presence { .. }
            | ApiCall::PresenceStats { .. }
            | ApiCall::Channels { .. }
            | ApiCall::Connections { .. }
            | ApiCall::Info
    )
}

/// Whether every node carries it out.
#[must_use]
pub fn is_announced(call: &ApiCall) -> bool {
    matches!(
        call,
        ApiCall::Disconnect { .. } | ApiCall::Unsubscribe { .. } | ApiCall::PublishAll { .. }
    )
}

fn params_are_relayed(call: &ApiCall) -> bool {
    is_asked(call) || is_announced(call)
}

fn params(call: &ApiCall) -> Option<String> {
    let params = match call {
        ApiCall::PublishAll { payload } => return Some(content_of(payload)),
        ApiCall::Presence { channel } | ApiCall::PresenceStats { channel } => {
            json!({ "channel": channel.as_str() })
        }
        ApiCall::Channels { pattern } => json!({ "pattern": pattern.as_str() }),
        ApiCall::Connections { of, limit } => match of {
            ConnectionsOf::Channel(room) => json!({ "channel": room.as_str(), "limit": limit }),
            ConnectionsOf::User(user) => json!({ "user": user.as_str(), "limit": limit }),
        },
        ApiCall::Info => json!({}),
        ApiCall::Disconnect {
            target,
            whitelist,
            code,
            reason,
        } => {
            let mut params = target_of(target);
            params["whitelist"] = json!(whitelist);
            params["disconnect"] = json!({ "code": code, "reason": reason });
            params
        }
        ApiCall::Unsubscribe { channel, target } => {
            let mut params = target_of(target);
            params["channel"] = json!(channel.as_str());
            params
        }
        _ => return None,
    };
    Some(params.to_string())
}

fn target_of(target: &Target) -> Value {
    match target {
        Target::User(user) => json!({ "user": user.as_str() }),
        Target::Client(client) => json!({ "client": client }),
        Target::ClientOf(user, client) => json!({ "user": user.as_str(), "client": client }),
    }
}

fn content_of(payload: &Payload) -> String {
    let bytes = payload.bytes();
    match (payload.kind(), std::str::from_utf8(bytes)) {
        (PayloadKind::Text, Ok(text)) => json!({ "data": text }).to_string(),
        (PayloadKind::Json, Ok(text)) => format!("{{\"data\":{text}}}"),
        _ => json!({ "b64data": BASE64.encode(bytes) }).to_string(),
    }
}

/// Writes the answer to question `number`.
#[must_use]
pub fn encode_answer(number: u64, reply: &ApiReply) -> Vec<u8> {
    let mut out = number.to_be_bytes().to_vec();
    match reply {
        Ok(
            ApiResult::Presence(page)
            | ApiResult::Channels(page)
            | ApiResult::Connections(page)
            | ApiResult::Info(page),
        ) => {
            out.push(PAGE);
            out.extend_from_slice(&(page.len() as u64).to_be_bytes());
            out.extend_from_slice(page.items());
        }
        Ok(ApiResult::PresenceStats { clients, users }) => {
            out.push(COUNTS);
            out.extend_from_slice(&(*clients as u64).to_be_bytes());
            out.extend_from_slice(&(*users as u64).to_be_bytes());
        }
        Ok(_) => out.push(FAILED),
        Err(ApiCode::LimitExceeded) => out.push(TOO_LONG),
        Err(_) => out.push(FAILED),
    }
    out
}

/// Reads an answer: the number of the question, and what is to be added to `to`'s own answer.
#[must_use]
pub fn decode_answer(bytes: &[u8]) -> Option<(u64, Part)> {
    let (number, rest) = take_u64(bytes)?;
    let (kind, rest) = rest.split_first()?;
    let part = match *kind {
        PAGE => {
            let (len, items) = take_u64(rest)?;
            let len = usize::try_from(len).ok()?;
            Part::Page(Page::of_items(items.to_vec(), len)?)
        }
        COUNTS => {
            let (clients, rest) = take_u64(rest)?;
            let (users, _) = take_u64(rest)?;
            Part::Counts {
                clients: usize::try_from(clients).ok()?,
                users: usize::try_from(users).ok()?,
            }
        }
        TOO_LONG => Part::TooLong,
        _ => Part::Failed,
    };
    Some((number, part))
}

/// What another node adds to an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    /// Items.
    Page(Page),
    /// Connections, and users among them.
    Counts {
        /// Connections.
        clients: usize,
        /// Users. One who is on two nodes is counted on each.
        users: usize,
    },
    /// There is more than fits an answer.
    TooLong,
    /// It could not say.
    Failed,
}

impl Part {
    /// Bytes of the items in it.
    #[must_use]
    pub fn bytes_len(&self) -> usize {
        match self {
            Self::Page(page) => page.bytes_len(),
            _ => 0,
        }
    }

    /// Adds it to the answer of this node.
    pub fn add_to(self, reply: &mut ApiReply) {
        match (reply, self) {
            (
                Ok(
                    ApiResult::Presence(page)
                    | ApiResult::Connections(page)
                    | ApiResult::Info(page),
                ),
                Self::Page(more),
            ) => page.append(&more),
            (Ok(ApiResult::Channels(page)), Self::Page(more)) => page.add_channels(&more),
            (
                Ok(ApiResult::PresenceStats { clients, users }),
                Self::Counts {
                    clients: more_clients,
                    users: more_users,
                },
            ) => {
                *clients += more_clients;
                *users += more_users;
            }
            (reply, Self::TooLong) => *reply = Err(ApiCode::LimitExceeded),
            _ => {}
        }
    }
}

fn take_u64(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (number, rest) = bytes.split_first_chunk()?;
    Some((u64::from_be_bytes(*number), rest))
}

const PAGE: u8 = b'p';
const COUNTS: u8 = b'c';
const TOO_LONG: u8 = b'l';
const FAILED: u8 = b'f';

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_that_concerns_others_comes_through() {
        for (method, body) in [
            ("presence", r#"{"channel":"a"}"#),
            ("presence_stats", r#"{"channel":"a"}"#),
            ("channels", r#"{"pattern":"a*"}"#),
            ("connections", r#"{"channel":"a","limit":3}"#),
            ("connections", r#"{"user":"u","limit":3}"#),
            ("info", "{}"),
            (
                "disconnect",
                r#"{"user":"u","whitelist":["1.2"],"disconnect":{"code":4001,"reason":"x"}}"#,
            ),
            ("disconnect", r#"{"user":"u","client":"1.2"}"#),
            ("disconnect", r#"{"client":"1.2"}"#),
            ("unsubscribe", r#"{"channel":"a","user":"u"}"#),
            ("publish_all", r#"{"data":"text"}"#),
            (
                "publish_all",
                r#"{"data":{"b":[12345678901234567890123,null],"a":1}}"#,
            ),
            ("publish_all", r#"{"b64data":"AAE="}"#),
        ] {
            let call = ApiCall::parse(method, body.as_bytes(), 100).expect(body);
            for ask in [None, Some(u64::MAX)] {
                let text = Notice::encode(ask, &call).expect("it concerns others");
                let call = call.clone();
                assert_eq!(
                    Notice::decode(text.as_bytes()),
                    Some(Notice { ask, call }),
                    "{text}"
                );
            }
        }
        let publish =
            ApiCall::parse("publish", br#"{"channel":"a","data":1}"#, 100).expect("a call");
        assert_eq!(Notice::encode(None, &publish), None);
        for text in [
            "",
            "{}",
            r#"{"method":"publish","params":{"channel":"a","data":1}}"#,
        ] {
            assert_eq!(Notice::decode(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn answers_add_up() {
        let mut ours = Page::default();
        let room = |name| crate::base::RoomName::new(name).expect("a name");
        ours.push_channel(&room("a"), 2);
        ours.push_channel(&room("b"), 1);
        let mut theirs = Page::default();
        theirs.push_channel(&room("b"), 3);
        theirs.push_channel(&room("c"), 4);
        let bytes = encode_answer(7, &Ok(ApiResult::Channels(theirs)));
        let (number, part) = decode_answer(&bytes).expect("an answer");
        let mut reply = Ok(ApiResult::Channels(ours));
        part.add_to(&mut reply);
        let text = String::from_utf8(super::super::answer::answer(&reply)).expect("text");
        let expected = r#"{"result":{"channels":{"a":{"num_clients":2},"b":{"num_clients":4},"c":{"num_clients":4}}}}"#;
        assert_eq!((number, text.as_str()), (7, expected));
        for len in 0..bytes.len() {
            // Cut anywhere, it is refused or a part of a page that is no JSON is not taken.
            let _ = decode_answer(&bytes[..len]);
        }
        let counts = encode_answer(
            1,
            &Ok(ApiResult::PresenceStats {
                clients: 2,
                users: 1,
            }),
        );
        let mut reply = Ok(ApiResult::PresenceStats {
            clients: 1,
            users: 1,
        });
        decode_answer(&counts)
            .expect("an answer")
            .1
            .add_to(&mut reply);
        assert_eq!(
            reply,
            Ok(ApiResult::PresenceStats {
                clients: 3,
                users: 2
            })
        );
    }
}
