//! Commands of the Centrifugo client protocol, against the rules that the head of
//! `wire::centrifugo::command` states, applied to a tree of JSON.

use std::collections::BTreeMap;

use roomcast::wire::centrifugo::command::{
    Command, CommandFrame, ConnectRequest, Request, Resume, SUBS_MAX, SubscribeRequest,
};
use roomcast::wire::frame::Payload;

use super::json::{Json, Members};
use super::payload_of;

/// One message, any bytes.
pub fn check(data: &[u8]) {
    let frame = CommandFrame::new(&Payload::from(data.to_vec()));
    let text = match std::str::from_utf8(data) {
        Ok(text) if !text.is_empty() => text,
        _ => return assert!(frame.is_none(), "what is no text has no commands"),
    };
    let found: Vec<_> = frame.expect("text has lines").collect();
    let mut lines: Vec<&str> = text.split('\n').collect();
    // The end of the last line, not an empty one.
    if lines.last() == Some(&"") {
        lines.pop();
    }
    assert_eq!(found.len(), lines.len(), "one result a line");
    for (line, found) in lines.into_iter().zip(found) {
        assert_eq!(found.ok(), command(line), "{line:?}");
    }
}

const METHODS: [&str; 12] = [
    "connect",
    "subscribe",
    "unsubscribe",
    "publish",
    "presence",
    "presence_stats",
    "history",
    "ping",
    "send",
    "rpc",
    "refresh",
    "sub_refresh",
];

fn command(line: &str) -> Option<Command> {
    let json = Json::read(line)?;
    if json.depth() > 64 {
        return None;
    }
    let known = [&["id"][..], &METHODS].concat();
    let members = json.members(&known)?;
    let id: u32 = members.whole_or_zero("id")?;
    let given: Vec<(&str, &Json<'_>)> = METHODS
        .into_iter()
        .filter_map(|method| Some((method, members.given(method)?)))
        .collect();
    if !given.iter().all(|(_, value)| value.is_object()) {
        return None;
    }
    let request = match given.first() {
        _ if id == 0 && members.given("send").is_none() => Request::Pong,
        Some((method, value)) => request(method, value)?,
        None => return None,
    };
    Some(Command { id, request })
}

fn request(method: &str, value: &Json<'_>) -> Option<Request> {
    let members = |known: &[&str]| value.members(known);
    let channel = |members: Members<'_, '_>| members.text("channel").map(Option::unwrap_or_default);
    Some(match method {
        "connect" => connect(members(&["token", "subs", "name"])?)?,
        "subscribe" => subscribe(members(&[
            "channel",
            "token",
            "recover",
            "epoch",
            "offset",
            "join_leave",
            "tf",
            "type",
            "delta",
            "flag",
        ])?)?,
        "unsubscribe" => Request::Unsubscribe {
            channel: channel(members(&["channel"])?)?,
        },
        "publish" => {
            let members = members(&["channel", "data", "type"])?;
            let data = match members.any("data") {
                None => None,
                Some(data) => Some(payload_of(data)?),
            };
            Request::Publish {
                channel: channel(members)?,
                data,
                is_map: members.whole_or_zero::<u32>("type")? != 0,
            }
        }
        "presence" => Request::Presence {
            channel: channel(members(&["channel"])?)?,
        },
        "presence_stats" => Request::PresenceStats {
            channel: channel(members(&["channel"])?)?,
        },
        "history" => {
            let members = members(&["channel", "limit", "since", "reverse"])?;
            let since = match members.given("since") {
                None => None,
                Some(since) => {
                    let since = since.members(&["epoch", "offset"])?;
                    let epoch = since.text("epoch")?.unwrap_or_default();
                    Some((epoch, since.whole_or_zero("offset")?))
                }
            };
            let limit: i64 = members.whole_or_zero("limit")?;
            Request::History {
                channel: channel(members)?,
                limit: (limit >= 0).then_some(limit as usize),
                since,
                reverse: members.bool_or_false("reverse")?,
            }
        }
        "ping" => Request::Ping,
        "send" => Request::Send,
        "rpc" => Request::Rpc,
        "refresh" => {
            let members = members(&["channel", "token"])?;
            channel(members)?;
            Request::Refresh {
                token: members.text("token")?.unwrap_or_default(),
            }
        }
        _ => {
            let members = members(&["channel", "token"])?;
            Request::SubRefresh {
                channel: channel(members)?,
                token: members.text("token")?.unwrap_or_default(),
            }
        }
    })
}

fn connect(members: Members<'_, '_>) -> Option<Request> {
    let mut subs = BTreeMap::new();
    if let Some(given) = members.given("subs") {
        for (channel, sub) in given.members(&[])?.0 {
            let channel: Box<str> = channel.as_deref()?.into();
            let resume = if sub.is_null() {
                None
            } else {
                resume(sub.members(&["recover", "epoch", "offset"])?)?
            };
            if subs.insert(channel, resume).is_some() {
                return None;
            }
        }
    }
    if subs.len() > SUBS_MAX {
        return None;
    }
    let wanted = subs.into_iter();
    Some(Request::Connect(Box::new(ConnectRequest {
        token: members.text("token")?.filter(|token| !token.is_empty()),
        subs: wanted
            .filter_map(|(channel, resume)| Some((channel, resume?)))
            .collect(),
        name: members.text("name")?.unwrap_or_default(),
    })))
}

fn subscribe(members: Members<'_, '_>) -> Option<Request> {
    let filter = members.given("tf");
    if filter.is_some_and(|filter| !filter.is_object()) {
        return None;
    }
    Some(Request::Subscribe(Box::new(SubscribeRequest {
        channel: members.text("channel")?.unwrap_or_default(),
        token: members.text("token")?.filter(|token| !token.is_empty()),
        resume: resume(members)?,
        join_leave: members.bool_or_false("join_leave")?,
        has_filter: filter.is_some(),
        kind: members.whole_or_zero("type")?,
        delta: members.text("delta")?.filter(|delta| !delta.is_empty()),
        rejects_unrecovered: members.whole_or_zero::<i64>("flag")? & 2 != 0,
    })))
}

/// The outer `None` is for what cannot be read.
fn resume(members: Members<'_, '_>) -> Option<Option<Resume>> {
    let wants_it = members.bool_or_false("recover")?;
    let epoch = members.text("epoch")?.unwrap_or_default();
    let offset = members.whole_or_zero("offset")?;
    Some(wants_it.then_some(Resume { epoch, offset }))
}
