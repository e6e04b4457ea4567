//! Calls of the HTTP API, every method, against the documented members read from a tree of JSON; and
//! what a node tells the others of a call, which must be read as the same call.

use roomcast::base::{Glob, Offset, RoomName, UserId};
use roomcast::wire::api::relay::{Notice, Question, order};
use roomcast::wire::api::{
    ApiCall, ApiCode, ApiError, ApiMethod, ConnectionsOf, HistorySince, Publish, Refresh,
    Subscribe, Target,
};
use roomcast::wire::frame::Payload;

use super::input::Input;
use super::json::{Json, Members};
use super::payload_of;

const PAYLOAD_BYTES_MAX: usize = 100;

// The documented bounds.
const CHANNELS_MAX: usize = 1000;
const COMMANDS_MAX: usize = 100;
const WHITELIST_MAX: usize = 1000;
const KEY_BYTES_MAX: usize = 255;
const HISTORY_LIMIT_MAX: i64 = 1000;
const CONNECTIONS_LIMIT_DEFAULT: i64 = 100;
const CONNECTIONS_LIMIT_MAX: i64 = 1000;
const NESTING_MAX: usize = 64;

/// The documented methods.
const METHODS: [(&str, ApiMethod); 15] = [
    ("publish", ApiMethod::Publish),
    ("broadcast", ApiMethod::Broadcast),
    ("publish_all", ApiMethod::PublishAll),
    ("disconnect", ApiMethod::Disconnect),
    ("subscribe", ApiMethod::Subscribe),
    ("refresh", ApiMethod::Refresh),
    ("unsubscribe", ApiMethod::Unsubscribe),
    ("presence", ApiMethod::Presence),
    ("presence_stats", ApiMethod::PresenceStats),
    ("history", ApiMethod::History),
    ("history_remove", ApiMethod::HistoryRemove),
    ("channels", ApiMethod::Channels),
    ("connections", ApiMethod::Connections),
    ("info", ApiMethod::Info),
    ("batch", ApiMethod::Batch),
];

/// A byte names the method, the rest is the body.
pub fn check(data: &[u8]) {
    let mut input = Input(data);
    let place = usize::from(input.byte());
    let method = METHODS.get(place % 16).map_or("rpc", |(name, _)| name);
    let body = input.rest();
    let found = ApiCall::parse(method, body, PAYLOAD_BYTES_MAX);
    match (&found, naive(method, body)) {
        (Err(found), Err(expected)) => assert_eq!(*found, expected),
        (Ok(found), Ok(expected)) => assert_eq!(*found, expected),
        (found, expected) => panic!("{found:?} where {expected:?} was expected"),
    }
    if let Ok(call) = found {
        assert_eq!(call.method().name(), method);
        is_told(&call);
    }
}

/// What other nodes are told of a call is the call.
fn is_told(call: &ApiCall) {
    if let Some(notice) = order(call) {
        let told = Notice::decode(notice.bytes());
        assert_eq!(told, Some(Notice::Order(call.clone())));
    }
    if let Some(question) = Question::of(call) {
        let (number, call) = (u64::MAX, call.clone());
        let asked = Notice::decode(question.numbered(number).bytes());
        assert_eq!(asked, Some(Notice::Question { number, call }));
    }
    if let ApiCall::Batch { commands, .. } = call {
        for command in commands.iter().flatten() {
            assert_ne!(command.method(), ApiMethod::Batch);
            is_told(command);
        }
    }
}

const BAD: ApiCode = ApiCode::BadRequest;

fn named(method: &str) -> Result<ApiMethod, ApiCode> {
    let known = METHODS.iter().find(|(name, _)| *name == method);
    known
        .map(|(_, method)| *method)
        .ok_or(ApiCode::MethodNotFound)
}

fn naive(method: &str, body: &[u8]) -> Result<ApiCall, ApiError> {
    let method = named(method)?;
    let text = std::str::from_utf8(body).map_err(|_| ApiError::Undecodable)?;
    let needs_none = matches!(method, ApiMethod::Info | ApiMethod::Channels);
    let text = match text.trim_ascii() {
        "" if needs_none => "{}",
        _ => text,
    };
    let json = Json::read(text).ok_or(ApiError::Undecodable)?;
    if json.depth() > NESTING_MAX {
        return Err(ApiError::Undecodable);
    }
    Ok(match method {
        ApiMethod::Batch => batch(&json)?,
        _ => single(method, &json)?,
    })
}

fn batch(json: &Json<'_>) -> Result<ApiCall, ApiCode> {
    let members = json.members(&["commands", "parallel"]).ok_or(BAD)?;
    let parallel = members.bool("parallel").ok_or(BAD)?.unwrap_or(false);
    let commands = members
        .given("commands")
        .and_then(Json::as_list)
        .ok_or(BAD)?;
    if commands.len() > COMMANDS_MAX {
        return Err(ApiCode::LimitExceeded);
    }
    let command = |json: &Json<'_>| {
        let super::json::Value::Object(members) = &json.value else {
            return Err(BAD);
        };
        match &members[..] {
            [] => Err(ApiCode::MethodNotFound),
            [(name, value)] => {
                let name = name.as_deref().ok_or(BAD)?;
                match named(name)? {
                    ApiMethod::Batch => Err(ApiCode::MethodNotFound),
                    method => single(method, value),
                }
            }
            _ => Err(BAD),
        }
    };
    Ok(ApiCall::Batch {
        commands: commands.iter().map(command).collect(),
        parallel,
    })
}

fn single(method: ApiMethod, json: &Json<'_>) -> Result<ApiCall, ApiCode> {
    let target = ["user", "client", "session"];
    let content = ["data", "b64data"];
    let known = match method {
        ApiMethod::Publish => [
            &content[..],
            &["channel", "idempotency_key", "skip_history"],
        ]
        .concat(),
        ApiMethod::Broadcast => [
            &content[..],
            &["channels", "idempotency_key", "skip_history"],
        ]
        .concat(),
        ApiMethod::PublishAll => content.to_vec(),
        ApiMethod::Disconnect => [&target[..], &["whitelist", "disconnect"]].concat(),
        ApiMethod::Subscribe => [
            &target[..],
            &content,
            &["channel", "expire_at", "recover_since"],
        ]
        .concat(),
        ApiMethod::Refresh => [&target[..], &["expired", "expire_at"]].concat(),
        ApiMethod::Unsubscribe => [&target[..], &["channel"]].concat(),
        ApiMethod::Presence | ApiMethod::PresenceStats | ApiMethod::HistoryRemove => {
            vec!["channel"]
        }
        ApiMethod::History => vec!["channel", "limit", "since", "reverse"],
        ApiMethod::Channels => vec!["pattern"],
        ApiMethod::Connections => vec!["channel", "user", "limit"],
        ApiMethod::Info | ApiMethod::Batch => Vec::new(),
    };
    let members = json.members(&known).ok_or(BAD)?;
    have_their_types(members, &known)?;
    let channel = || room(members.given("channel").ok_or(BAD)?);
    match method {
        ApiMethod::Publish => Ok(ApiCall::Publish {
            channel: channel()?,
            publish: publish(members)?,
        }),
        ApiMethod::Broadcast => {
            let channels = members
                .given("channels")
                .and_then(Json::as_list)
                .ok_or(BAD)?;
            if channels.is_empty() {
                return Err(BAD);
            }
            if channels.len() > CHANNELS_MAX {
                return Err(ApiCode::LimitExceeded);
            }
            let channels = channels.iter().map(room).collect();
            let publish = publish(members)?;
            Ok(ApiCall::Broadcast { channels, publish })
        }
        ApiMethod::PublishAll => {
            let payload = payload(members)?;
            Ok(ApiCall::PublishAll { payload })
        }
        ApiMethod::Disconnect => disconnect(members),
        ApiMethod::Subscribe => Ok(ApiCall::Subscribe {
            channel: channel()?,
            target: whose(members)?,
            subscribe: Box::new(Subscribe {
                since: since(members.given("recover_since"))?,
                data: data(members)?,
                expires_unix_s: expiry(members)?,
            }),
        }),
        ApiMethod::Refresh => Ok(ApiCall::Refresh {
            target: whose(members)?,
            refresh: match members.bool("expired").flatten() {
                Some(true) => Refresh::Expired,
                _ => Refresh::Until(expiry(members)?),
            },
        }),
        ApiMethod::Unsubscribe => Ok(ApiCall::Unsubscribe {
            channel: channel()?,
            target: whose(members)?,
        }),
        ApiMethod::Presence => channel().map(|channel| ApiCall::Presence { channel }),
        ApiMethod::PresenceStats => channel().map(|channel| ApiCall::PresenceStats { channel }),
        ApiMethod::HistoryRemove => channel().map(|channel| ApiCall::HistoryRemove { channel }),
        ApiMethod::History => {
            let reverse = members.bool("reverse").flatten().unwrap_or(false);
            let since = since(members.given("since"))?;
            if reverse && since.as_ref().is_some_and(|since| since.offset.0 == 0) {
                return Err(BAD);
            }
            let limit = members.whole::<i64>("limit").flatten().unwrap_or(0);
            let max = HISTORY_LIMIT_MAX;
            let limit = if (0..max).contains(&limit) {
                limit
            } else {
                max
            };
            Ok(ApiCall::History {
                channel: channel()?,
                limit: limit as usize,
                since,
                reverse,
            })
        }
        ApiMethod::Channels => {
            let pattern = key(members, "pattern")?;
            let pattern = Glob::new(pattern.as_deref().unwrap_or("*"));
            Ok(ApiCall::Channels { pattern })
        }
        ApiMethod::Connections => connections(members),
        ApiMethod::Info => Ok(ApiCall::Info),
        ApiMethod::Batch => Err(ApiCode::MethodNotFound),
    }
}

/// Each member of `known` must be absent, `null` or of its type.
fn have_their_types(members: Members<'_, '_>, known: &[&str]) -> Result<(), ApiCode> {
    let is_good = |name: &str, value: &Json<'_>| match name {
        "data" | "disconnect" | "since" | "recover_since" => true,
        "skip_history" | "expired" | "reverse" => value.as_bool().is_some(),
        "limit" | "expire_at" => value.as_whole::<i64>().is_some(),
        "channels" | "whitelist" => value
            .as_list()
            .is_some_and(|list| list.iter().all(|item| item.as_text().is_some())),
        _ => value.as_text().is_some(),
    };
    let all_good = known
        .iter()
        .filter_map(|name| Some((*name, members.given(name)?)))
        .all(|(name, value)| is_good(name, value));
    all_good.then_some(()).ok_or(BAD)
}

fn text(members: Members<'_, '_>, name: &str) -> Option<Box<str>> {
    members.text(name).flatten().filter(|text| !text.is_empty())
}

fn room(json: &Json<'_>) -> Result<RoomName, ApiCode> {
    RoomName::new(json.as_text().ok_or(BAD)?).map_err(|_| BAD)
}

fn user(members: Members<'_, '_>) -> Result<Option<UserId>, ApiCode> {
    let user = text(members, "user").map(|user| UserId::new(&user));
    user.transpose().map_err(|_| BAD)
}

fn key(members: Members<'_, '_>, name: &str) -> Result<Option<Box<str>>, ApiCode> {
    match text(members, name) {
        Some(key) if key.len() > KEY_BYTES_MAX => Err(BAD),
        key => Ok(key),
    }
}

fn whose(members: Members<'_, '_>) -> Result<Target, ApiCode> {
    if text(members, "session").is_some() {
        return Err(BAD);
    }
    match (user(members)?, key(members, "client")?) {
        (None, None) => Err(BAD),
        (Some(user), None) => Ok(Target::User(user)),
        (None, Some(client)) => Ok(Target::Client(client)),
        (Some(user), Some(client)) => Ok(Target::ClientOf(user, client)),
    }
}

fn publish(members: Members<'_, '_>) -> Result<Publish, ApiCode> {
    Ok(Publish {
        payload: payload(members)?,
        idempotency_key: key(members, "idempotency_key")?,
        skip_history: members.bool("skip_history").flatten().unwrap_or(false),
    })
}

/// RFC 4648, section 4, padded and in its one spelling.
fn from_base64(text: &str) -> Result<Vec<u8>, ApiCode> {
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bare = text.trim_end_matches('=');
    let padding = text.len() - bare.len();
    let mut bytes = Vec::new();
    let (mut bits, mut bits_len) = (0_u32, 0);
    for byte in bare.bytes() {
        let value = alphabet.iter().position(|is| *is == byte).ok_or(BAD)? as u32;
        bits = bits << 6 | value;
        bits_len += 6;
        if bits_len >= 8 {
            bits_len -= 8;
            bytes.push((bits >> bits_len) as u8);
            bits &= (1 << bits_len) - 1;
        }
    }
    let is_spelled_well = text.len().is_multiple_of(4) && padding < 3 && bits_len < 6 && bits == 0;
    is_spelled_well.then_some(bytes).ok_or(BAD)
}

fn payload(members: Members<'_, '_>) -> Result<Payload, ApiCode> {
    let base64 = members.text("b64data").flatten();
    let payload = match (members.any("data"), base64.as_deref()) {
        (None, None) => return Err(BAD),
        (Some(data), Some("")) if data.is_null() => Payload::from(Vec::new()),
        (Some(data), None | Some("")) => payload_of(data).ok_or(BAD)?,
        (_, Some(base64)) => Payload::from(from_base64(base64)?),
    };
    if payload.bytes().len() > PAYLOAD_BYTES_MAX {
        return Err(ApiCode::LimitExceeded);
    }
    Ok(payload)
}

/// The data of a subscription, as JSON.
fn data(members: Members<'_, '_>) -> Result<Option<Box<str>>, ApiCode> {
    let Some(base64) = text(members, "b64data") else {
        return Ok(members.given("data").map(|data| data.compact().into()));
    };
    let bytes = from_base64(&base64)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| BAD)?;
    let json = Json::read(text).filter(|json| json.depth() <= NESTING_MAX);
    json.map(|json| Some(json.compact().into())).ok_or(BAD)
}

fn expiry(members: Members<'_, '_>) -> Result<Option<u64>, ApiCode> {
    match members.whole::<i64>("expire_at").flatten() {
        None | Some(0) => Ok(None),
        Some(second @ 1..) => Ok(Some(second as u64)),
        Some(_) => Err(BAD),
    }
}

fn since(json: Option<&Json<'_>>) -> Result<Option<HistorySince>, ApiCode> {
    let Some(json) = json else {
        return Ok(None);
    };
    let members = json.members(&["offset", "epoch"]).ok_or(BAD)?;
    Ok(Some(HistorySince {
        offset: Offset(members.whole("offset").ok_or(BAD)?.unwrap_or(0)),
        epoch: members
            .text("epoch")
            .ok_or(BAD)?
            .filter(|epoch| !epoch.is_empty()),
    }))
}

fn disconnect(members: Members<'_, '_>) -> Result<ApiCall, ApiCode> {
    let whitelist = members
        .given("whitelist")
        .and_then(Json::as_list)
        .unwrap_or(&[]);
    if whitelist.len() > WHITELIST_MAX {
        return Err(ApiCode::LimitExceeded);
    }
    let whitelist = whitelist
        .iter()
        .filter_map(Json::as_text)
        .map(Into::into)
        .collect();
    let (code, reason) = match members.given("disconnect") {
        None => (None, None),
        Some(close) => {
            let close = close.members(&["code", "reason"]).ok_or(BAD)?;
            (
                close.whole::<u16>("code").ok_or(BAD)?,
                close.text("reason").ok_or(BAD)?,
            )
        }
    };
    let code = match code.unwrap_or(0) {
        0 => 3503,
        code @ 3000..5000 => code,
        _ => return Err(BAD),
    };
    let reason = reason.filter(|reason| !reason.is_empty());
    if reason.as_ref().is_some_and(|reason| reason.len() > 123) {
        return Err(BAD);
    }
    Ok(ApiCall::Disconnect {
        target: whose(members)?,
        whitelist,
        code,
        reason: reason.unwrap_or_else(|| "force disconnect".into()),
    })
}

fn connections(members: Members<'_, '_>) -> Result<ApiCall, ApiCode> {
    let channel = text(members, "channel").map(|name| RoomName::new(&name).map_err(|_| BAD));
    let of = match (channel, user(members)?) {
        (Some(channel), None) => ConnectionsOf::Channel(channel?),
        (None, Some(user)) => ConnectionsOf::User(user),
        _ => return Err(BAD),
    };
    let max = CONNECTIONS_LIMIT_MAX;
    let limit = match members.whole::<i64>("limit").flatten().unwrap_or(0) {
        0 => CONNECTIONS_LIMIT_DEFAULT,
        limit if (0..max).contains(&limit) => limit,
        _ => max,
    };
    Ok(ApiCall::Connections {
        of,
        limit: limit as usize,
    })
}
