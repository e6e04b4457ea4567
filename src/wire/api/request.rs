//! Requests of the API: from a method's name and a body to an [`ApiCall`].
//!
//! Owns: the members of each method and their bounds.
//! Never: builds more than the bounds allow; lists are cut off while they are read.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::json::{self, AtMost, Name, OneMember};
use super::{
    ApiCall, ApiCode, ApiError, ApiMethod, ConnectionsOf, HistorySince, Publish, Refresh,
    Subscribe, Target,
};
use crate::base::{Glob, Offset, RoomName, UserId};
use crate::wire::frame::{CLOSE_REASON_BYTES_MAX, Payload};

/// Most channels in one broadcast.
pub const CHANNELS_MAX: usize = 1000;

/// Most commands in one batch.
pub const COMMANDS_MAX: usize = 100;

/// Most clients in the whitelist of a disconnect.
pub const WHITELIST_MAX: usize = 1000;

/// Longest idempotency key, client id and pattern, in bytes.
pub const KEY_BYTES_MAX: usize = 255;

/// Most publications in one answer to `history`. A larger limit, or a negative one (which is
/// Centrifugo's way to ask for all), is taken for this one; the offsets in the answer say where to
/// go on.
pub const HISTORY_LIMIT_MAX: usize = 1000;

/// Rows in an answer to `connections` when no limit, or 0, is given.
pub const CONNECTIONS_LIMIT_DEFAULT: usize = 100;

/// Most rows in one answer to `connections`. A larger or negative limit is taken for this one.
pub const CONNECTIONS_LIMIT_MAX: usize = 1000;

pub(super) fn parse(
    method: &str,
    body: &[u8],
    payload_bytes_max: usize,
) -> Result<ApiCall, ApiError> {
    let method = ApiMethod::named(method).ok_or(ApiCode::MethodNotFound)?;
    let body = match method {
        ApiMethod::Info | ApiMethod::Channels if body.trim_ascii().is_empty() => b"{}",
        _ => body,
    };
    let raw = json::decode(body)?;
    let call = match method {
        ApiMethod::Batch => batch(raw, payload_bytes_max)?,
        _ => single(method, raw, payload_bytes_max)?,
    };
    Ok(call)
}

/// Reads a call of any method but `batch`.
fn single(method: ApiMethod, raw: &RawValue, payload_bytes_max: usize) -> Result<ApiCall, ApiCode> {
    match method {
        ApiMethod::Publish => publish(json::object(raw)?, payload_bytes_max),
        ApiMethod::Broadcast => broadcast(json::object(raw)?, payload_bytes_max),
        ApiMethod::PublishAll => {
            let members: PublishAllMembers<'_> = json::object(raw)?;
            let payload = payload(members.data, members.b64data, payload_bytes_max)?;
            Ok(ApiCall::PublishAll { payload })
        }
        ApiMethod::Disconnect => disconnect(json::object(raw)?),
        ApiMethod::Subscribe => subscribe(json::object(raw)?),
        ApiMethod::Refresh => {
            let members: RefreshMembers = json::object(raw)?;
            Ok(ApiCall::Refresh {
                target: target(members.user, members.client, members.session)?,
                refresh: match members.expired {
                    Some(true) => Refresh::Expired,
                    _ => Refresh::Until(second(members.expire_at)?),
                },
            })
        }
        ApiMethod::Unsubscribe => {
            let members: UnsubscribeMembers = json::object(raw)?;
            Ok(ApiCall::Unsubscribe {
                channel: required(members.channel)?,
                target: target(members.user, members.client, members.session)?,
            })
        }
        ApiMethod::Presence => channel_of(raw).map(|channel| ApiCall::Presence { channel }),
        ApiMethod::PresenceStats => {
            channel_of(raw).map(|channel| ApiCall::PresenceStats { channel })
        }
        ApiMethod::History => history(json::object(raw)?),
        ApiMethod::HistoryRemove => {
            channel_of(raw).map(|channel| ApiCall::HistoryRemove { channel })
        }
        ApiMethod::Channels => {
            let members: ChannelsMembers = json::object(raw)?;
            let pattern = key(members.pattern)?;
            Ok(ApiCall::Channels {
                pattern: Glob::new(pattern.as_deref().unwrap_or("*")),
            })
        }
        ApiMethod::Connections => connections(json::object(raw)?),
        ApiMethod::Info => json::object::<InfoMembers>(raw).map(|_| ApiCall::Info),
        ApiMethod::Batch => Err(ApiCode::MethodNotFound),
    }
}

fn publish(members: PublishMembers<'_>, payload_bytes_max: usize) -> Result<ApiCall, ApiCode> {
    Ok(ApiCall::Publish {
        channel: required(members.channel)?,
        publish: Publish {
            payload: payload(members.data, members.b64data, payload_bytes_max)?,
            idempotency_key: key(members.idempotency_key)?,
            skip_history: members.skip_history.unwrap_or(false),
        },
    })
}

fn broadcast(members: BroadcastMembers<'_>, payload_bytes_max: usize) -> Result<ApiCall, ApiCode> {
    let names = members.channels.ok_or(ApiCode::BadRequest)?.items()?;
    if names.is_empty() {
        return Err(ApiCode::BadRequest);
    }
    Ok(ApiCall::Broadcast {
        channels: names.into_iter().map(|Name(name)| name).collect(),
        publish: Publish {
            payload: payload(members.data, members.b64data, payload_bytes_max)?,
            idempotency_key: key(members.idempotency_key)?,
            skip_history: members.skip_history.unwrap_or(false),
        },
    })
}

fn disconnect(members: DisconnectMembers<'_>) -> Result<ApiCall, ApiCode> {
    let whitelist = match members.whitelist {
        Some(clients) => clients.items()?,
        None => Vec::new(),
    };
    let CloseMembers { code, reason } = match members.disconnect {
        Some(raw) => json::object(raw)?,
        None => CloseMembers::default(),
    };
    // Codes that are the protocol's own are not for back ends to send.
    let code = match code {
        None | Some(0) => FORCE_DISCONNECT.0,
        Some(code @ 3000..=4999) => code,
        Some(_) => return Err(ApiCode::BadRequest),
    };
    // Client libraries ignore the code of a close without a reason, so there always is one.
    let reason = match reason {
        Some(reason) if reason.len() > CLOSE_REASON_BYTES_MAX => return Err(ApiCode::BadRequest),
        Some(reason) if !reason.is_empty() => reason,
        _ => FORCE_DISCONNECT.1.into(),
    };
    Ok(ApiCall::Disconnect {
        target: target(members.user, members.client, members.session)?,
        whitelist,
        code,
        reason,
    })
}

fn subscribe(members: SubscribeMembers<'_>) -> Result<ApiCall, ApiCode> {
    let data = match (members.data, members.b64data.as_deref()) {
        (Some(data), None | Some("")) if data.get() == "null" => None,
        (Some(data), None | Some("")) => Some(json::compact(data)),
        (None, None | Some("")) => None,
        (_, Some(b64data)) => {
            let bytes = BASE64.decode(b64data).or(Err(ApiCode::BadRequest))?;
            let data = json::decode(&bytes).or(Err(ApiCode::BadRequest))?;
            Some(json::compact(data))
        }
    };
    Ok(ApiCall::Subscribe {
        channel: required(members.channel)?,
        target: target(members.user, members.client, members.session)?,
        subscribe: Box::new(Subscribe {
            since: since(members.recover_since)?,
            data: data.map(String::into_boxed_str),
            expires_unix_s: second(members.expire_at)?,
        }),
    })
}

/// A second since 1970; 0 counts as absent.
fn second(time: Option<i64>) -> Result<Option<u64>, ApiCode> {
    let time = u64::try_from(time.unwrap_or(0)).or(Err(ApiCode::BadRequest))?;
    Ok((time > 0).then_some(time))
}

fn since(raw: Option<&RawValue>) -> Result<Option<HistorySince>, ApiCode> {
    let Some(raw) = raw else {
        return Ok(None);
    };
    let since: SinceMembers = json::object(raw)?;
    Ok(Some(HistorySince {
        offset: Offset(since.offset.unwrap_or(0)),
        epoch: since.epoch.filter(|epoch| !epoch.is_empty()),
    }))
}

fn history(members: HistoryMembers<'_>) -> Result<ApiCall, ApiCode> {
    let reverse = members.reverse.unwrap_or(false);
    let since = since(members.since)?;
    // Nothing can be before the first publication.
    if reverse && matches!(&since, Some(since) if since.offset == Offset(0)) {
        return Err(ApiCode::BadRequest);
    }
    Ok(ApiCall::History {
        channel: required(members.channel)?,
        limit: usize::try_from(members.limit.unwrap_or(0))
            .map_or(HISTORY_LIMIT_MAX, |limit| limit.min(HISTORY_LIMIT_MAX)),
        since,
        reverse,
    })
}

fn connections(members: ConnectionsMembers) -> Result<ApiCall, ApiCode> {
    let channel = members.channel.filter(|channel| !channel.is_empty());
    let user = members.user.filter(|user| !user.is_empty());
    let of = match (channel, user) {
        (Some(channel), None) => {
            ConnectionsOf::Channel(RoomName::new(&channel).or(Err(ApiCode::BadRequest))?)
        }
        (None, Some(user)) => ConnectionsOf::User(UserId::new(&user).or(Err(ApiCode::BadRequest))?),
        _ => return Err(ApiCode::BadRequest),
    };
    let limit = match usize::try_from(members.limit.unwrap_or(0)) {
        Ok(0) => CONNECTIONS_LIMIT_DEFAULT,
        Ok(limit) => limit.min(CONNECTIONS_LIMIT_MAX),
        Err(_) => CONNECTIONS_LIMIT_MAX,
    };
    Ok(ApiCall::Connections { of, limit })
}

fn batch(raw: &RawValue, payload_bytes_max: usize) -> Result<ApiCall, ApiCode> {
    let members: BatchMembers<'_> = json::object(raw)?;
    let commands = members.commands.ok_or(ApiCode::BadRequest)?.items()?;
    Ok(ApiCall::Batch {
        commands: commands
            .into_iter()
            .map(|raw| command(raw, payload_bytes_max))
            .collect(),
        parallel: members.parallel.unwrap_or(false),
    })
}

/// Reads `{"<method>":{…}}`, one item of a batch.
fn command(raw: &RawValue, payload_bytes_max: usize) -> Result<ApiCall, ApiCode> {
    match json::object(raw)? {
        OneMember::None => Err(ApiCode::MethodNotFound),
        // Which of them to carry out would be a guess.
        OneMember::More => Err(ApiCode::BadRequest),
        OneMember::One(name, raw) => {
            let method = ApiMethod::named(&name).ok_or(ApiCode::MethodNotFound)?;
            single(method, raw, payload_bytes_max)
        }
    }
}

/// Takes what is to be published from one of the two members that can hold it. Where both are, as
/// libraries write them that know `data` as required, `b64data` counts unless it is empty: that is
/// how Centrifugo reads them.
fn payload(
    data: Option<&RawValue>,
    b64data: Option<Box<str>>,
    payload_bytes_max: usize,
) -> Result<Payload, ApiCode> {
    let payload = match (data, b64data.as_deref()) {
        (Some(data), Some("")) if data.get() == "null" => from_base64("")?,
        (Some(data), None | Some("")) => from_json(data)?,
        (_, Some(b64data)) => from_base64(b64data)?,
        (None, None) => return Err(ApiCode::BadRequest),
    };
    if payload.bytes().len() > payload_bytes_max {
        return Err(ApiCode::LimitExceeded);
    }
    Ok(payload)
}

fn from_json(data: &RawValue) -> Result<Payload, ApiCode> {
    if !data.get().starts_with('"') {
        return Ok(Payload::json(json::compact(data).into()));
    }
    // Fails for half of a surrogate pair, which no text can hold.
    let text: String = serde_json::from_str(data.get()).or(Err(ApiCode::BadRequest))?;
    Ok(Payload::text(text.into()))
}

fn from_base64(b64data: &str) -> Result<Payload, ApiCode> {
    let bytes = BASE64.decode(b64data).or(Err(ApiCode::BadRequest))?;
    Ok(Payload::binary(bytes.into()))
}

fn target(
    user: Option<Box<str>>,
    client: Option<Box<str>>,
    session: Option<Box<str>>,
) -> Result<Target, ApiCode> {
    // There are no sessions here. Who names one means that connection and none of the user's others.
    if session.is_some_and(|session| !session.is_empty()) {
        return Err(ApiCode::BadRequest);
    }
    let user = match user.filter(|user| !user.is_empty()) {
        Some(user) => Some(UserId::new(&user).or(Err(ApiCode::BadRequest))?),
        None => None,
    };
    match (user, key(client)?) {
        (Some(user), None) => Ok(Target::User(user)),
        (None, Some(client)) => Ok(Target::Client(client)),
        (Some(user), Some(client)) => Ok(Target::ClientOf(user, client)),
        (None, None) => Err(ApiCode::BadRequest),
    }
}

/// A bounded string that counts as absent when it is empty.
fn key(text: Option<Box<str>>) -> Result<Option<Box<str>>, ApiCode> {
    match text {
        Some(text) if text.len() > KEY_BYTES_MAX => Err(ApiCode::BadRequest),
        Some(text) if text.is_empty() => Ok(None),
        text => Ok(text),
    }
}

fn channel_of(raw: &RawValue) -> Result<RoomName, ApiCode> {
    let members: ChannelMembers = json::object(raw)?;
    required(members.channel)
}

fn required(name: Option<Name>) -> Result<RoomName, ApiCode> {
    name.ok_or(ApiCode::BadRequest)?.0
}

/// What a disconnect says when the caller does not: code and reason.
const FORCE_DISCONNECT: (u16, &str) = (3503, "force disconnect");

#[derive(Deserialize)]
struct PublishMembers<'a> {
    channel: Option<Name>,
    #[serde(borrow, default, deserialize_with = "json::any")]
    data: Option<&'a RawValue>,
    b64data: Option<Box<str>>,
    idempotency_key: Option<Box<str>>,
    skip_history: Option<bool>,
}

#[derive(Deserialize)]
struct BroadcastMembers<'a> {
    channels: Option<AtMost<Name, CHANNELS_MAX>>,
    #[serde(borrow, default, deserialize_with = "json::any")]
    data: Option<&'a RawValue>,
    b64data: Option<Box<str>>,
    idempotency_key: Option<Box<str>>,
    skip_history: Option<bool>,
}

#[derive(Deserialize)]
struct PublishAllMembers<'a> {
    #[serde(borrow, default, deserialize_with = "json::any")]
    data: Option<&'a RawValue>,
    b64data: Option<Box<str>>,
}

#[derive(Deserialize)]
struct SubscribeMembers<'a> {
    channel: Option<Name>,
    user: Option<Box<str>>,
    client: Option<Box<str>>,
    session: Option<Box<str>>,
    #[serde(borrow, default, deserialize_with = "json::any")]
    data: Option<&'a RawValue>,
    b64data: Option<Box<str>>,
    expire_at: Option<i64>,
    #[serde(borrow)]
    recover_since: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct RefreshMembers {
    user: Option<Box<str>>,
    client: Option<Box<str>>,
    session: Option<Box<str>>,
    expired: Option<bool>,
    expire_at: Option<i64>,
}

#[derive(Deserialize)]
struct DisconnectMembers<'a> {
    user: Option<Box<str>>,
    client: Option<Box<str>>,
    session: Option<Box<str>>,
    whitelist: Option<AtMost<Box<str>, WHITELIST_MAX>>,
    #[serde(borrow)]
    disconnect: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
struct CloseMembers {
    code: Option<u16>,
    reason: Option<Box<str>>,
}

#[derive(Deserialize)]
struct UnsubscribeMembers {
    channel: Option<Name>,
    user: Option<Box<str>>,
    client: Option<Box<str>>,
    session: Option<Box<str>>,
}

#[derive(Deserialize)]
struct ChannelMembers {
    channel: Option<Name>,
}

#[derive(Deserialize)]
struct HistoryMembers<'a> {
    channel: Option<Name>,
    limit: Option<i64>,
    #[serde(borrow)]
    since: Option<&'a RawValue>,
    reverse: Option<bool>,
}

#[derive(Deserialize)]
struct SinceMembers {
    offset: Option<u64>,
    epoch: Option<Box<str>>,
}

#[derive(Deserialize)]
struct ChannelsMembers {
    pattern: Option<Box<str>>,
}

#[derive(Deserialize)]
struct ConnectionsMembers {
    channel: Option<Box<str>>,
    user: Option<Box<str>>,
    limit: Option<i64>,
}

#[derive(Deserialize)]
struct InfoMembers {}

#[derive(Deserialize)]
struct BatchMembers<'a> {
    #[serde(borrow)]
    commands: Option<AtMost<&'a RawValue, COMMANDS_MAX>>,
    parallel: Option<bool>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const BAD: Result<ApiCall, ApiError> = Err(ApiError::Refused(ApiCode::BadRequest));
    const LIMIT: Result<ApiCall, ApiError> = Err(ApiError::Refused(ApiCode::LimitExceeded));
    const UNDECODABLE: Result<ApiCall, ApiError> = Err(ApiError::Undecodable);

    fn call(method: &str, body: &str) -> Result<ApiCall, ApiError> {
        ApiCall::parse(method, body.as_bytes(), 1000)
    }

    fn room(name: &str) -> RoomName {
        RoomName::new(name).expect("a good name")
    }

    fn user(id: &str) -> UserId {
        UserId::new(id).expect("a good id")
    }

    /// The payload of a publish with these members.
    fn published(members: &str) -> Result<Payload, ApiError> {
        let body = format!("{{\"channel\":\"a\",{members}}}");
        match call("publish", &body)? {
            ApiCall::Publish { publish, .. } => Ok(publish.payload),
            other => panic!("not a publish: {other:?}"),
        }
    }

    #[test]
    fn data_is_delivered_as_documented() {
        for (members, text) in [
            (r#""data":"hi \"there\" \u00e9\n""#, "hi \"there\" é\n"),
            (r#""data":"""#, ""),
            (r#""data":"{\"a\":1}""#, "{\"a\":1}"),
            (r#""data":"null""#, "null"),
        ] {
            let expected = Payload::text(text.into());
            assert_eq!(published(members), Ok(expected), "{members}");
        }
        for (members, json) in [
            (r#""data": { "b" : 1, "a": [ ] } "#, r#"{"b":1,"a":[]}"#),
            (r#""data":1.10"#, "1.10"),
            (
                r#""data":12345678901234567890123"#,
                "12345678901234567890123",
            ),
            (r#""data":1e999"#, "1e999"),
            (r#""data":true"#, "true"),
            (r#""data":null"#, "null"),
            (r#""data":null,"b64data":null"#, "null"),
            (r#""data":{"a":1,"a":2}"#, r#"{"a":1,"a":2}"#),
            (r#""data":1,"b64data":"""#, "1"),
        ] {
            let expected = Payload::json(json.into());
            assert_eq!(published(members), Ok(expected), "{members}");
        }
        for (members, bytes) in [
            (r#""b64data":"AP8=""#, &[0, 255][..]),
            (r#""b64data":"""#, &[]),
            (r#""b64data":"AP8=","data":null"#, &[0, 255]),
            (r#""data":1,"b64data":"AP8=""#, &[0, 255]),
        ] {
            let expected = Payload::binary(bytes.to_vec().into());
            assert_eq!(published(members), Ok(expected), "{members}");
        }
        for members in [
            r#""skip_history":true"#,
            r#""b64data":null"#,
            r#""data":1,"b64data":"AP8""#,
            r#""b64data":"AP8""#,
            r#""b64data":"A P8=""#,
            r#""b64data":"_-8=""#,
            r#""b64data":5"#,
            r#""data":"\ud800""#,
            r#""data":1,"data":1"#,
            r#""data":1,"\u0064ata":1"#,
            r#""b64data":"AA==","b64data":"AA==""#,
        ] {
            let expected = Err(ApiError::Refused(ApiCode::BadRequest));
            assert_eq!(published(members), expected, "{members}");
        }
    }

    #[test]
    fn payloads_are_measured_as_they_are_delivered() {
        let spaced = format!("{}1", " ".repeat(5000));
        let escaped = format!("\"{}\"", "\\u0061".repeat(1000));
        let full = format!("\"{}\"", "a".repeat(1000));
        for (data, is_allowed) in [
            (spaced.as_str(), true),
            (escaped.as_str(), true),
            (full.as_str(), true),
            (&"1".repeat(1000), true),
            (&"1".repeat(1001), false),
            (&full.replacen('a', "é", 1), false),
        ] {
            let found = published(&format!("\"data\":{data}"));
            assert_eq!(found.is_ok(), is_allowed, "{}", data.len());
            if let Err(error) = found {
                assert_eq!(error, ApiError::Refused(ApiCode::LimitExceeded));
            }
        }
        for (len, is_allowed) in [(1000, true), (1001, false)] {
            let found = published(&format!("\"b64data\":\"{}\"", BASE64.encode(vec![7; len])));
            assert_eq!(found.is_ok(), is_allowed, "{len}");
        }
    }

    #[test]
    fn every_method_is_understood() {
        let payload = || Payload::text("hi".into());
        let publish = |key: Option<&str>, skip_history| Publish {
            payload: payload(),
            idempotency_key: key.map(Into::into),
            skip_history,
        };
        for (method, body, expected) in [
            (
                "publish",
                r##" {"channel":"#al","data":"hi","tags":{"a":"b"},"idempotency_key":""} "##,
                ApiCall::Publish {
                    channel: room("#al"),
                    publish: publish(None, false),
                },
            ),
            (
                "publish",
                r#"{"channel":"a","data":"hi","idempotency_key":"k","skip_history":true}"#,
                ApiCall::Publish {
                    channel: room("a"),
                    publish: publish(Some("k"), true),
                },
            ),
            (
                "broadcast",
                r#"{"channels":["a","","b","é"],"data":"hi"}"#,
                ApiCall::Broadcast {
                    channels: vec![
                        Ok(room("a")),
                        Err(ApiCode::BadRequest),
                        Ok(room("b")),
                        Err(ApiCode::BadRequest),
                    ],
                    publish: publish(None, false),
                },
            ),
            (
                "publish_all",
                r#"{"data":"hi"}"#,
                ApiCall::PublishAll { payload: payload() },
            ),
            (
                "disconnect",
                r#"{"user":"al","client":"","whitelist":["5.1"]}"#,
                ApiCall::Disconnect {
                    target: Target::User(user("al")),
                    whitelist: vec!["5.1".into()],
                    code: 3503,
                    reason: "force disconnect".into(),
                },
            ),
            (
                "disconnect",
                r#"{"client":"5.1","disconnect":{"code":4000,"reason":"bye"}}"#,
                ApiCall::Disconnect {
                    target: Target::Client("5.1".into()),
                    whitelist: Vec::new(),
                    code: 4000,
                    reason: "bye".into(),
                },
            ),
            (
                "unsubscribe",
                r#"{"channel":"a","user":"al","client":"5.1"}"#,
                ApiCall::Unsubscribe {
                    channel: room("a"),
                    target: Target::ClientOf(user("al"), "5.1".into()),
                },
            ),
            (
                "presence",
                r#"{"channel":"a"}"#,
                ApiCall::Presence { channel: room("a") },
            ),
            (
                "presence_stats",
                r#"{"channel":"a"}"#,
                ApiCall::PresenceStats { channel: room("a") },
            ),
            (
                "history",
                r#"{"channel":"a","limit":0,"since":null,"reverse":false}"#,
                ApiCall::History {
                    channel: room("a"),
                    limit: 0,
                    since: None,
                    reverse: false,
                },
            ),
            (
                "history",
                r#"{"channel":"a","limit":-1,"since":{"offset":18446744073709551615,
                    "epoch":"x"},"reverse":true}"#,
                ApiCall::History {
                    channel: room("a"),
                    limit: HISTORY_LIMIT_MAX,
                    since: Some(HistorySince {
                        offset: Offset(u64::MAX),
                        epoch: Some("x".into()),
                    }),
                    reverse: true,
                },
            ),
            (
                "history_remove",
                r#"{"channel":"a"}"#,
                ApiCall::HistoryRemove { channel: room("a") },
            ),
            (
                "channels",
                r#"{"pattern":"live:*"}"#,
                ApiCall::Channels {
                    pattern: Glob::new("live:*"),
                },
            ),
            (
                "channels",
                "",
                ApiCall::Channels {
                    pattern: Glob::new("*"),
                },
            ),
            (
                "connections",
                r#"{"channel":"a"}"#,
                ApiCall::Connections {
                    of: ConnectionsOf::Channel(room("a")),
                    limit: CONNECTIONS_LIMIT_DEFAULT,
                },
            ),
            (
                "connections",
                r#"{"user":"al","limit":9000}"#,
                ApiCall::Connections {
                    of: ConnectionsOf::User(user("al")),
                    limit: CONNECTIONS_LIMIT_MAX,
                },
            ),
            ("info", "{}", ApiCall::Info),
            ("info", " \n", ApiCall::Info),
            (
                "batch",
                r#"{"commands":[{"info":{}},null,{"rpc":{}},{},{"batch":{"commands":[]}},
                    {"presence":{"channel":""}},{"info":{},"info":{}},{"info":null},[],
                    {"presence":{"channel":"a"}}],"parallel":true}"#,
                ApiCall::Batch {
                    commands: vec![
                        Ok(ApiCall::Info),
                        Err(ApiCode::BadRequest),
                        Err(ApiCode::MethodNotFound),
                        Err(ApiCode::MethodNotFound),
                        Err(ApiCode::MethodNotFound),
                        Err(ApiCode::BadRequest),
                        Err(ApiCode::BadRequest),
                        Err(ApiCode::BadRequest),
                        Err(ApiCode::BadRequest),
                        Ok(ApiCall::Presence { channel: room("a") }),
                    ],
                    parallel: true,
                },
            ),
        ] {
            assert_eq!(call(method, body).as_ref(), Ok(&expected), "{body}");
            assert_eq!(expected.method().name(), method);
        }
    }

    #[test]
    fn calls_that_make_no_sense_are_refused() {
        let long = "x".repeat(256);
        for (method, body) in [
            ("publish", r#"{"data":1}"#.to_owned()),
            ("publish", r#"{"channel":null,"data":1}"#.to_owned()),
            ("publish", r#"{"channel":"","data":1}"#.to_owned()),
            ("publish", r#"{"channel":"é","data":1}"#.to_owned()),
            ("publish", r#"{"channel":5,"data":1}"#.to_owned()),
            ("publish", r#"{"channel":"\ud800","data":1}"#.to_owned()),
            ("publish", format!(r#"{{"channel":"{long}","data":1}}"#)),
            (
                "publish",
                r#"{"channel":"a","channel":"a","data":1}"#.to_owned(),
            ),
            (
                "publish",
                r#"{"channel":"a","data":1,"skip_history":"yes"}"#.to_owned(),
            ),
            (
                "publish",
                format!(r#"{{"channel":"a","data":1,"idempotency_key":"{long}"}}"#),
            ),
            ("publish", r#"["a",1]"#.to_owned()),
            ("publish", "null".to_owned()),
            ("info", "[]".to_owned()),
            ("broadcast", r#"{"channels":[],"data":1}"#.to_owned()),
            ("broadcast", r#"{"channels":"a","data":1}"#.to_owned()),
            ("broadcast", r#"{"channels":["a",5],"data":1}"#.to_owned()),
            ("broadcast", r#"{"channels":["a"]}"#.to_owned()),
            ("disconnect", "{}".to_owned()),
            ("disconnect", r#"{"user":"","client":""}"#.to_owned()),
            ("disconnect", r#"{"user":"a,b"}"#.to_owned()),
            ("disconnect", format!(r#"{{"client":"{long}"}}"#)),
            (
                "disconnect",
                r#"{"user":"al","disconnect":{"code":2999}}"#.to_owned(),
            ),
            (
                "disconnect",
                r#"{"user":"al","disconnect":{"code":5000}}"#.to_owned(),
            ),
            (
                "disconnect",
                r#"{"user":"al","disconnect":{"code":-1}}"#.to_owned(),
            ),
            (
                "disconnect",
                r#"{"user":"al","disconnect":[4000,"bye"]}"#.to_owned(),
            ),
            (
                "disconnect",
                format!(
                    r#"{{"user":"al","disconnect":{{"reason":"{}"}}}}"#,
                    &long[..124]
                ),
            ),
            ("unsubscribe", r#"{"user":"al"}"#.to_owned()),
            ("unsubscribe", r#"{"channel":"a"}"#.to_owned()),
            ("presence", "{}".to_owned()),
            ("history", r#"{"channel":"a","limit":1.5}"#.to_owned()),
            ("history", r#"{"channel":"a","limit":1e999}"#.to_owned()),
            ("history", r#"{"channel":"a","limit":"5"}"#.to_owned()),
            (
                "history",
                r#"{"channel":"a","limit":9223372036854775808}"#.to_owned(),
            ),
            ("history", r#"{"channel":"a","since":5}"#.to_owned()),
            ("history", r#"{"channel":"a","since":[5,"x"]}"#.to_owned()),
            (
                "history",
                r#"{"channel":"a","since":{"offset":-1}}"#.to_owned(),
            ),
            (
                "history",
                r#"{"channel":"a","since":{"offset":18446744073709551616}}"#.to_owned(),
            ),
            (
                "history",
                r#"{"channel":"a","since":{"epoch":"x"},"reverse":true}"#.to_owned(),
            ),
            ("channels", format!(r#"{{"pattern":"{long}"}}"#)),
            ("connections", "{}".to_owned()),
            ("connections", r#"{"channel":"a","user":"al"}"#.to_owned()),
            ("connections", r#"{"channel":"é"}"#.to_owned()),
            ("batch", "{}".to_owned()),
            ("batch", r#"{"commands":{}}"#.to_owned()),
            ("batch", r#"{"commands":[],"commands":[]}"#.to_owned()),
        ] {
            assert_eq!(call(method, &body), BAD, "{method} {body}");
        }
        for method in ["", "rpc", "Publish", "publish/", "survey"] {
            let expected = Err(ApiError::Refused(ApiCode::MethodNotFound));
            assert_eq!(call(method, "not JSON"), expected, "{method}");
        }
    }

    #[test]
    fn bounds_hold_on_both_sides() {
        let channels = |len| format!("{{\"channels\":[{}],\"data\":1}}", list("\"a\"", len));
        assert!(matches!(
            call("broadcast", &channels(CHANNELS_MAX)),
            Ok(ApiCall::Broadcast { channels, .. }) if channels.len() == CHANNELS_MAX
        ));
        assert_eq!(call("broadcast", &channels(CHANNELS_MAX + 1)), LIMIT);
        assert_eq!(call("broadcast", &channels(1_000_000)), LIMIT);
        let commands = |len| format!("{{\"commands\":[{}]}}", list("{\"info\":{}}", len));
        assert!(matches!(
            call("batch", &commands(COMMANDS_MAX)),
            Ok(ApiCall::Batch { commands, .. }) if commands.len() == COMMANDS_MAX
        ));
        assert_eq!(call("batch", &commands(COMMANDS_MAX + 1)), LIMIT);
        let clients = |len| {
            let clients = list("\"5.1\"", len);
            format!("{{\"user\":\"al\",\"whitelist\":[{clients}]}}")
        };
        assert!(call("disconnect", &clients(WHITELIST_MAX)).is_ok());
        assert_eq!(call("disconnect", &clients(WHITELIST_MAX + 1)), LIMIT);
        let key = |len| {
            let key = "k".repeat(len);
            format!("{{\"channel\":\"a\",\"data\":1,\"idempotency_key\":\"{key}\"}}")
        };
        assert!(call("publish", &key(KEY_BYTES_MAX)).is_ok());
        assert_eq!(call("publish", &key(KEY_BYTES_MAX + 1)), BAD);
        let history = |limit| {
            call(
                "history",
                &format!("{{\"channel\":\"a\",\"limit\":{limit}}}"),
            )
        };
        for (limit, expected) in [
            (i64::MIN, HISTORY_LIMIT_MAX),
            (1, 1),
            (1000, 1000),
            (1001, HISTORY_LIMIT_MAX),
            (i64::MAX, HISTORY_LIMIT_MAX),
        ] {
            assert!(
                matches!(history(limit), Ok(ApiCall::History { limit, .. }) if limit == expected)
            );
        }
    }

    #[test]
    fn what_is_not_json_is_undecodable() {
        let whole = r#"{"channel":"a","data":{"b":[1,"c"]}}"#;
        assert!(call("publish", whole).is_ok());
        for len in 0..whole.len() {
            assert_eq!(call("publish", &whole[..len]), UNDECODABLE, "{len}");
        }
        // The object of the call is the first of the levels.
        let nested = |depth| {
            let (open, close) = ("[".repeat(depth), "]".repeat(depth));
            format!("{{\"channel\":\"a\",\"data\":{open}{close}}}")
        };
        assert!(call("publish", &nested(63)).is_ok());
        assert_eq!(call("publish", &nested(64)), UNDECODABLE);
        assert_eq!(call("publish", &nested(10_000)), UNDECODABLE);
        assert_eq!(call("history", &nested(10_000)), UNDECODABLE);
        for body in [
            &b"{\"channel\":\"\xff\",\"data\":1}"[..],
            b"{\"channel\":\"a\",\"data\":\"\xc3\"}",
            b"{\"channel\":\"a\",\"data\":1,\"unknown\":\"\xff\"}",
            b"{\"channel\":\"a\",\"data\":1} {}",
            b"{\"channel\":\"a\",\"data\":01}",
            b"channel=a&data=1",
        ] {
            assert_eq!(ApiCall::parse("publish", body, 1000), UNDECODABLE);
        }
    }

    fn list(item: &str, len: usize) -> String {
        vec![item; len].join(",")
    }
}
