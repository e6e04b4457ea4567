//! What clients send: from a text message to commands, one a line.
//!
//! Owns: the members of each method, and which of several methods is meant.
//! Never: judges a name, a token or a position; an empty channel is passed on like any other.
//!
//! What bad input gets
//! - A line that is not a JSON object, is nested deeper than [`NESTING_MAX`], or goes on after its
//!   object is [`Malformed`]. So is an empty line, unless it is the end of the message.
//! - So is a member of the wrong type, a number out of its range, a string that holds half of a
//!   surrogate pair, and a member that means something here and is given twice: which of the two
//!   was meant would be a guess. Members that are not known are ignored, twice or not.
//! - `null` in place of an object or a string counts as absent, in place of a number or a boolean
//!   it is of the wrong type. `"data": null` publishes `null`.
//! - Where a line names several methods, the first in the server's order is read and the others
//!   need only be objects.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;

use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::wire::api::{NESTING_MAX, json};
use crate::wire::frame::Payload;

/// Most channels that one connect may want to resume.
pub const SUBS_MAX: usize = 1024;

/// One text message: commands, one a line. They are taken one by one, so that a message of many is
/// never expanded at once. Cloning shares the bytes.
#[derive(Clone, Debug)]
pub struct CommandFrame {
    payload: Payload,
    /// Where the next line begins.
    at: usize,
}

impl CommandFrame {
    /// Begins with a message. `None` if it is not UTF-8 or has no bytes, so no commands either.
    #[must_use]
    pub fn new(payload: &Payload) -> Option<Self> {
        let bytes = payload.bytes();
        let is_text = !bytes.is_empty() && std::str::from_utf8(bytes).is_ok();
        is_text.then(|| Self {
            payload: payload.clone(),
            at: 0,
        })
    }
}

/// Takes the next command. What follows a malformed line can still be taken, though the protocol
/// ends a connection there.
impl Iterator for CommandFrame {
    type Item = Result<Command, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = &self.payload.bytes()[self.at..];
        if rest.is_empty() {
            return None;
        }
        let line_bytes = rest.iter().position(|byte| *byte == b'\n');
        let line = &rest[..line_bytes.unwrap_or(rest.len())];
        self.at += line.len() + usize::from(line_bytes.is_some());
        // The whole is UTF-8, and a line feed is a character of its own, so this cannot fail.
        let text = std::str::from_utf8(line).or(Err(Malformed));
        Some(text.and_then(Command::read))
    }
}

/// A line is no command of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the line is not a command")
    }
}

impl std::error::Error for Malformed {}

impl From<serde_json::Error> for Malformed {
    fn from(_: serde_json::Error) -> Self {
        Self
    }
}

/// What a client asks for, and the number that its answer has to carry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// The number; 0 if there is none, which only a pong and a line with `send` can be without.
    pub id: u32,
    /// What is asked for.
    pub request: Request,
}

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// `{}`, or anything without an id that is not `send`.
    Pong,
    /// The first command of a connection.
    Connect(Box<ConnectRequest>),
    /// Becomes a member of a room.
    Subscribe(Box<SubscribeRequest>),
    /// Leaves a room.
    Unsubscribe {
        /// The room.
        channel: Box<str>,
    },
    /// Publishes into a room.
    Publish {
        /// The room.
        channel: Box<str>,
        /// What: the text of a JSON string, or any other JSON value, compact; `None` if it is
        /// missing.
        data: Option<Payload>,
        /// Whether it is meant for a map and not for a stream.
        is_map: bool,
    },
    /// Who is in a room.
    Presence {
        /// The room.
        channel: Box<str>,
    },
    /// How many are in a room.
    PresenceStats {
        /// The room.
        channel: Box<str>,
    },
    /// What was published in a room.
    History {
        /// The room.
        channel: Box<str>,
        /// Most publications to give, and `None` for no bound; 0 asks for the position only.
        limit: Option<usize>,
        /// Where to begin, itself left out: epoch, possibly empty, and offset.
        since: Option<(Box<str>, u64)>,
        /// Newest first.
        reverse: bool,
    },
    /// A ping that is a command, which no SDK sends.
    Ping,
    /// A message to the server that gets no answer.
    Send,
    /// A call of a method that the application defines.
    Rpc,
    /// A new connection token.
    Refresh {
        /// The token, possibly empty.
        token: Box<str>,
    },
    /// A new subscription token.
    SubRefresh {
        /// The room.
        channel: Box<str>,
        /// The token, possibly empty.
        token: Box<str>,
    },
}

impl Request {
    /// The method, for counting.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Pong => "pong",
            Self::Connect(_) => "connect",
            Self::Subscribe(_) => "subscribe",
            Self::Unsubscribe { .. } => "unsubscribe",
            Self::Publish { .. } => "publish",
            Self::Presence { .. } => "presence",
            Self::PresenceStats { .. } => "presence_stats",
            Self::History { .. } => "history",
            Self::Ping => "ping",
            Self::Send => "send",
            Self::Rpc => "rpc",
            Self::Refresh { .. } => "refresh",
            Self::SubRefresh { .. } => "sub_refresh",
        }
    }
}

/// What comes with the first command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectRequest {
    /// The connection token; never empty.
    pub token: Option<Box<str>>,
    /// Rooms that the server had subscribed the client to and from where it wants to resume each;
    /// at most [`SUBS_MAX`], every room once.
    pub subs: Vec<(Box<str>, Resume)>,
    /// What the client calls itself, possibly nothing.
    pub name: Box<str>,
}

/// How to become a member of a room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubscribeRequest {
    /// The room.
    pub channel: Box<str>,
    /// The subscription token; never empty.
    pub token: Option<Box<str>>,
    /// From where to resume, if that is wanted.
    pub resume: Option<Resume>,
    /// Whether to be told who comes and goes.
    pub join_leave: bool,
    /// Whether only some publications are wanted.
    pub has_filter: bool,
    /// `type`: 0 for a stream, which is the only kind of room there is.
    pub kind: u32,
    /// How the client would have publications abbreviated; never empty.
    pub delta: Option<Box<str>>,
    /// Whether not to be subscribed at all if it cannot be resumed.
    pub rejects_unrecovered: bool,
}

/// The position after which a client has received nothing, as it says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resume {
    /// The epoch, possibly empty; any text, not only that of an epoch.
    pub epoch: Box<str>,
    /// The offset.
    pub offset: u64,
}

impl Command {
    /// Reads a line.
    fn read(line: &str) -> Result<Self, Malformed> {
        // Checked on the text, since parsers descend into what they skip as well. serde would take
        // an array for a struct, its items in the order of the fields.
        if json::nesting(line) > NESTING_MAX || !line.trim_ascii_start().starts_with('{') {
            return Err(Malformed);
        }
        let members: CommandMembers<'_> = serde_json::from_str(line)?;
        Ok(Self {
            id: members.id,
            request: members.request()?,
        })
    }
}

/// Reads the object that a method's name stands before.
type Read = fn(&RawValue) -> Result<Request, Malformed>;

impl CommandMembers<'_> {
    fn request(&self) -> Result<Request, Malformed> {
        // In the server's order.
        let methods: [(Option<&RawValue>, Read); 12] = [
            (self.connect, connect),
            (self.subscribe, subscribe),
            (self.unsubscribe, |raw| {
                channel(raw).map(|channel| Request::Unsubscribe { channel })
            }),
            (self.publish, publish),
            (self.presence, |raw| {
                channel(raw).map(|channel| Request::Presence { channel })
            }),
            (self.presence_stats, |raw| {
                channel(raw).map(|channel| Request::PresenceStats { channel })
            }),
            (self.history, history),
            (self.ping, |_| Ok(Request::Ping)),
            (self.send, |_| Ok(Request::Send)),
            (self.rpc, |_| Ok(Request::Rpc)),
            (self.refresh, |raw| {
                let TokenMembers { token, .. } = object(raw)?;
                let token = token.unwrap_or_default();
                Ok(Request::Refresh { token })
            }),
            (self.sub_refresh, |raw| {
                let TokenMembers { channel, token } = object(raw)?;
                let [channel, token] = [channel, token].map(Option::unwrap_or_default);
                Ok(Request::SubRefresh { channel, token })
            }),
        ];
        let mut given = methods
            .into_iter()
            .filter_map(|(raw, read)| raw.map(|raw| (raw, read)));
        if given.clone().any(|(raw, _)| !raw.get().starts_with('{')) {
            return Err(Malformed);
        }
        if self.id == 0 && self.send.is_none() {
            return Ok(Request::Pong);
        }
        let (raw, read) = given.next().ok_or(Malformed)?;
        read(raw)
    }
}

fn connect(raw: &RawValue) -> Result<Request, Malformed> {
    let members: ConnectMembers = object(raw)?;
    Ok(Request::Connect(Box::new(ConnectRequest {
        token: not_empty(members.token),
        subs: members.subs.map_or_else(Vec::new, |Subs(subs)| subs),
        name: members.name.unwrap_or_default(),
    })))
}

fn subscribe(raw: &RawValue) -> Result<Request, Malformed> {
    let members: SubscribeMembers<'_> = object(raw)?;
    // A member that is an object, of which only that it is there is of interest.
    if members.tf.is_some_and(|raw| !raw.get().starts_with('{')) {
        return Err(Malformed);
    }
    Ok(Request::Subscribe(Box::new(SubscribeRequest {
        channel: members.channel.unwrap_or_default(),
        token: not_empty(members.token),
        resume: resume(members.recover, members.epoch, members.offset),
        join_leave: members.join_leave,
        has_filter: members.tf.is_some(),
        kind: members.kind,
        delta: not_empty(members.delta),
        rejects_unrecovered: members.flag & REJECT_UNRECOVERED != 0,
    })))
}

fn publish(raw: &RawValue) -> Result<Request, Malformed> {
    let members: PublishMembers<'_> = object(raw)?;
    let data = match members.data {
        None => None,
        Some(data) if data.get().starts_with('"') => {
            let text: String = serde_json::from_str(data.get())?;
            Some(Payload::text(text.into()))
        }
        Some(data) => Some(Payload::json(json::compact(data).into())),
    };
    Ok(Request::Publish {
        channel: members.channel.unwrap_or_default(),
        data,
        is_map: members.kind != 0,
    })
}

fn history(raw: &RawValue) -> Result<Request, Malformed> {
    let members: HistoryMembers<'_> = object(raw)?;
    let since = match members.since {
        None => None,
        Some(raw) => {
            let since: SinceMembers = object(raw)?;
            Some((since.epoch.unwrap_or_default(), since.offset))
        }
    };
    Ok(Request::History {
        channel: members.channel.unwrap_or_default(),
        limit: usize::try_from(members.limit).ok(),
        since,
        reverse: members.reverse,
    })
}

fn channel(raw: &RawValue) -> Result<Box<str>, Malformed> {
    let ChannelMembers { channel } = object(raw)?;
    Ok(channel.unwrap_or_default())
}

fn resume(recover: bool, epoch: Option<Box<str>>, offset: u64) -> Option<Resume> {
    recover.then(|| Resume {
        epoch: epoch.unwrap_or_default(),
        offset,
    })
}

/// A string that counts as absent when it is empty.
fn not_empty(text: Option<Box<str>>) -> Option<Box<str>> {
    text.filter(|text| !text.is_empty())
}

fn object<'a, T: Deserialize<'a>>(raw: &'a RawValue) -> Result<T, Malformed> {
    json::object(raw).or(Err(Malformed))
}

/// Of `flag`: no subscription rather than one that is not recovered.
const REJECT_UNRECOVERED: i64 = 2;

#[derive(Deserialize)]
struct CommandMembers<'a> {
    #[serde(default)]
    id: u32,
    #[serde(borrow)]
    connect: Option<&'a RawValue>,
    #[serde(borrow)]
    subscribe: Option<&'a RawValue>,
    #[serde(borrow)]
    unsubscribe: Option<&'a RawValue>,
    #[serde(borrow)]
    publish: Option<&'a RawValue>,
    #[serde(borrow)]
    presence: Option<&'a RawValue>,
    #[serde(borrow)]
    presence_stats: Option<&'a RawValue>,
    #[serde(borrow)]
    history: Option<&'a RawValue>,
    #[serde(borrow)]
    ping: Option<&'a RawValue>,
    #[serde(borrow)]
    send: Option<&'a RawValue>,
    #[serde(borrow)]
    rpc: Option<&'a RawValue>,
    #[serde(borrow)]
    refresh: Option<&'a RawValue>,
    #[serde(borrow)]
    sub_refresh: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct ConnectMembers {
    token: Option<Box<str>>,
    subs: Option<Subs>,
    name: Option<Box<str>>,
}

#[derive(Deserialize)]
struct SubscribeMembers<'a> {
    channel: Option<Box<str>>,
    token: Option<Box<str>>,
    #[serde(default)]
    recover: bool,
    epoch: Option<Box<str>>,
    #[serde(default)]
    offset: u64,
    #[serde(default)]
    join_leave: bool,
    #[serde(borrow)]
    tf: Option<&'a RawValue>,
    #[serde(default, rename = "type")]
    kind: u32,
    delta: Option<Box<str>>,
    #[serde(default)]
    flag: i64,
}

#[derive(Deserialize)]
struct PublishMembers<'a> {
    channel: Option<Box<str>>,
    #[serde(borrow, default, deserialize_with = "json::any")]
    data: Option<&'a RawValue>,
    #[serde(default, rename = "type")]
    kind: u32,
}

#[derive(Deserialize)]
struct ChannelMembers {
    channel: Option<Box<str>>,
}

#[derive(Deserialize)]
struct HistoryMembers<'a> {
    channel: Option<Box<str>>,
    #[serde(default)]
    limit: i64,
    #[serde(borrow)]
    since: Option<&'a RawValue>,
    #[serde(default)]
    reverse: bool,
}

#[derive(Deserialize)]
struct SinceMembers {
    epoch: Option<Box<str>>,
    #[serde(default)]
    offset: u64,
}

#[derive(Deserialize)]
struct TokenMembers {
    channel: Option<Box<str>>,
    token: Option<Box<str>>,
}

#[derive(Deserialize)]
struct SubMembers {
    #[serde(default)]
    recover: bool,
    epoch: Option<Box<str>>,
    #[serde(default)]
    offset: u64,
}

/// The rooms of a connect that are to be resumed, in the order of their names.
struct Subs(Vec<(Box<str>, Resume)>);

impl<'de> Deserialize<'de> for Subs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(SubsVisitor)
    }
}

struct SubsVisitor;

impl<'de> Visitor<'de> for SubsVisitor {
    type Value = Subs;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("at most 1024 channels, each once")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Subs, A::Error> {
        let bad = || A::Error::custom("too many channels, or one that is not as it should be");
        // Those that are not to be resumed are in it, too, so that each name is seen once.
        let mut subs: BTreeMap<Box<str>, Option<Resume>> = BTreeMap::new();
        while let Some((channel, raw)) = map.next_entry::<Box<str>, Option<&RawValue>>()? {
            let is_full = subs.len() == SUBS_MAX;
            let Entry::Vacant(entry) = subs.entry(channel) else {
                return Err(bad());
            };
            if is_full {
                return Err(bad());
            }
            let sub = raw.map(object::<SubMembers>).transpose();
            let sub = sub.map_err(|Malformed| bad())?;
            entry.insert(sub.and_then(|sub| resume(sub.recover, sub.epoch, sub.offset)));
        }
        let wanted = |(channel, resume): (Box<str>, Option<Resume>)| Some((channel, resume?));
        Ok(Subs(subs.into_iter().filter_map(wanted).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(text: &str) -> Option<CommandFrame> {
        CommandFrame::new(&Payload::text(text.into()))
    }

    /// The only command of a message.
    fn read(line: &str) -> Result<Command, Malformed> {
        let mut frame = frame(line).expect("a message");
        let first = frame.next().expect("a line");
        assert_eq!(frame.next(), None, "{line}");
        first
    }

    fn request(line: &str) -> Request {
        let command = read(line).unwrap_or_else(|Malformed| panic!("malformed: {line}"));
        assert_eq!(command.id, 1, "{line}");
        command.request
    }

    fn subscribe(channel: &str, resume: Option<Resume>) -> SubscribeRequest {
        SubscribeRequest {
            channel: channel.into(),
            resume,
            ..SubscribeRequest::default()
        }
    }

    fn resume(epoch: &str, offset: u64) -> Resume {
        Resume {
            epoch: epoch.into(),
            offset,
        }
    }

    #[test]
    fn the_worked_transcript_is_understood() {
        let name = "js".into();
        let connect = ConnectRequest {
            token: Some("eyJ…".into()),
            name,
            ..ConnectRequest::default()
        };
        let publish = Request::Publish {
            channel: "room:7".into(),
            data: Some(Payload::json(r#"{"t":"yo"}"#.into())),
            is_map: false,
        };
        let room = |resume| Request::Subscribe(Box::new(subscribe("room:7", resume)));
        for (message, expected) in [
            (
                "{\"connect\":{\"token\":\"eyJ…\",\"name\":\"js\"},\"id\":1}\n{\"subscribe\":{\"channel\":\"room:7\",\"flag\":1},\"id\":2}",
                vec![
                    (1, Request::Connect(Box::new(connect.clone()))),
                    (2, room(None)),
                ],
            ),
            ("{}", vec![(0, Request::Pong)]),
            (
                "{\"publish\":{\"channel\":\"room:7\",\"data\":{\"t\":\"yo\"}},\"id\":3}",
                vec![(3, publish)],
            ),
            (
                "{\"connect\":{\"token\":\"eyJ…\",\"name\":\"js\"},\"id\":1}\n{\"subscribe\":{\"channel\":\"room:7\",\"flag\":1,\"recover\":true,\"offset\":43,\"epoch\":\"qwErTyUi\"},\"id\":2}\n",
                vec![
                    (1, Request::Connect(Box::new(connect))),
                    (2, room(Some(resume("qwErTyUi", 43)))),
                ],
            ),
        ] {
            let commands: Result<Vec<_>, _> = frame(message).expect("a message").collect();
            let expected: Vec<_> = expected
                .into_iter()
                .map(|(id, request)| Command { id, request })
                .collect();
            assert_eq!(commands, Ok(expected), "{message}");
        }
    }

    #[test]
    fn methods_and_their_members_are_read() {
        let channel = || "a".into();
        let subs = vec![
            ("a".into(), resume("e", 7)),
            ("b".into(), resume("", 0)),
            ("é".into(), resume("_", u64::MAX)),
        ];
        for (line, expected) in [
            (r#"{"id":1,"connect":{}}"#, Request::Connect(Box::default())),
            (
                r#"{"id":1,"connect":{"token":"","subs":null,"name":null,"data":[1],"headers":{"a":"b"},"version":5,"flag":3}}"#,
                Request::Connect(Box::default()),
            ),
            (
                r#"{"id":1,"connect":{"token":"t","subs":{"b":{"recover":true,"epoch":null},"c":{"recover":false,"offset":1},"a":{"epoch":"e","offset":7,"recover":true,"delta":"fossil"},"d":null,"\u00e9":{"recover":true,"epoch":"_","offset":18446744073709551615}},"name":"n"}}"#,
                Request::Connect(Box::new(ConnectRequest {
                    token: Some("t".into()),
                    subs,
                    name: "n".into(),
                })),
            ),
            (
                r#"{"id":1,"subscribe":{}}"#,
                Request::Subscribe(Box::default()),
            ),
            (
                r#"{"id":1,"subscribe":{"channel":"a","token":"","recover":false,"epoch":"e","offset":5,"tf":null,"delta":"","flag":1,"data":{},"positioned":7}}"#,
                Request::Subscribe(Box::new(subscribe("a", None))),
            ),
            (
                r#"{"id":1,"subscribe":{"channel":"a","token":"t","recover":true,"epoch":"42","offset":5,"join_leave":true,"tf":{"op":"eq"},"type":3,"delta":"fossil","flag":3}}"#,
                Request::Subscribe(Box::new(SubscribeRequest {
                    channel: channel(),
                    token: Some("t".into()),
                    resume: Some(resume("42", 5)),
                    join_leave: true,
                    has_filter: true,
                    kind: 3,
                    delta: Some("fossil".into()),
                    rejects_unrecovered: true,
                })),
            ),
            (
                r#"{"id":1,"subscribe":{"channel":"a","recover":true}}"#,
                Request::Subscribe(Box::new(subscribe("a", Some(Resume::default())))),
            ),
            (
                r#" { "unsubscribe" : { "channel" : "a" } , "id" : 1 } "#,
                Request::Unsubscribe { channel: channel() },
            ),
            (
                r#"{"id":1,"unsubscribe":{"channel":null}}"#,
                Request::Unsubscribe { channel: "".into() },
            ),
            (
                r#"{"id":1,"presence":{"channel":"a"}}"#,
                Request::Presence { channel: channel() },
            ),
            (
                r#"{"id":1,"presence_stats":{"channel":"\u0061"}}"#,
                Request::PresenceStats { channel: channel() },
            ),
            (
                r#"{"id":1,"history":{"channel":"a"}}"#,
                Request::History {
                    channel: channel(),
                    limit: Some(0),
                    since: None,
                    reverse: false,
                },
            ),
            (
                r#"{"id":1,"history":{"channel":"a","limit":-1,"since":{},"reverse":true}}"#,
                Request::History {
                    channel: channel(),
                    limit: None,
                    since: Some(("".into(), 0)),
                    reverse: true,
                },
            ),
            (
                r#"{"id":1,"history":{"channel":"a","limit":10,"since":{"epoch":"e","offset":18446744073709551615}}}"#,
                Request::History {
                    channel: channel(),
                    limit: Some(10),
                    since: Some(("e".into(), u64::MAX)),
                    reverse: false,
                },
            ),
            (r#"{"id":1,"ping":{}}"#, Request::Ping),
            (r#"{"id":1,"send":{"data":1}}"#, Request::Send),
            (r#"{"id":1,"rpc":{"method":"m","data":1}}"#, Request::Rpc),
            (
                r#"{"id":1,"refresh":{}}"#,
                Request::Refresh { token: "".into() },
            ),
            (
                r#"{"id":1,"sub_refresh":{"channel":"a","token":"t"}}"#,
                Request::SubRefresh {
                    channel: channel(),
                    token: "t".into(),
                },
            ),
            // What is not known is ignored, and so is what is known and `null`.
            (
                r#"{"x":1,"id":1,"connect":null,"x":2,"ping":{}}"#,
                Request::Ping,
            ),
        ] {
            assert_eq!(request(line), expected, "{line}");
        }
    }

    #[test]
    fn what_is_published_keeps_its_kind() {
        for (members, data, is_map) in [
            ("", None, false),
            (
                r#","data":"h\"i\n\u00e9""#,
                Some(Payload::text("h\"i\né".into())),
                false,
            ),
            (r#","data":"""#, Some(Payload::text("".into())), false),
            (r#","data":null"#, Some(Payload::json("null".into())), false),
            (
                ",\"data\": { \"z\" : [ 1.10 , 1e999,\t\"a b\" ], \"z\":0 }\r",
                Some(Payload::json("{\"z\":[1.10,1e999,\"a b\"],\"z\":0}".into())),
                false,
            ),
            (
                r#","data":7,"type":1,"key":"k""#,
                Some(Payload::json("7".into())),
                true,
            ),
            (
                r#","data":7,"type":0"#,
                Some(Payload::json("7".into())),
                false,
            ),
        ] {
            let line = format!("{{\"id\":1,\"publish\":{{\"channel\":\"a\"{members}}}}}");
            let expected = Request::Publish {
                channel: "a".into(),
                data,
                is_map,
            };
            assert_eq!(request(&line), expected, "{line}");
        }
    }

    #[test]
    fn the_first_method_in_the_servers_order_is_meant() {
        let names = [
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
        for (place, first) in names.into_iter().enumerate() {
            let alone = request(&format!("{{\"id\":1,\"{first}\":{{}}}}"));
            for later in &names[place + 1..] {
                // What is not meant is not read either.
                let line = format!("{{\"id\":1,\"{later}\":{{\"channel\":7}},\"{first}\":{{}}}}");
                assert_eq!(request(&line), alone, "{line}");
            }
        }
    }

    #[test]
    fn without_an_id_everything_but_send_is_a_pong() {
        for (line, request) in [
            ("{}", Request::Pong),
            (" { } \r", Request::Pong),
            (r#"{"id":0}"#, Request::Pong),
            (r#"{"x":[]}"#, Request::Pong),
            (r#"{"subscribe":{"channel":"a"}}"#, Request::Pong),
            (r#"{"id":0,"connect":{"token":7}}"#, Request::Pong),
            (r#"{"send":null}"#, Request::Pong),
            (r#"{"send":{}}"#, Request::Send),
            (r#"{"id":0,"send":{"data":1}}"#, Request::Send),
            (r#"{"send":{},"ping":{}}"#, Request::Ping),
        ] {
            assert_eq!(read(line), Ok(Command { id: 0, request }), "{line}");
        }
        let last = read(r#"{"id":4294967295,"ping":{}}"#);
        assert_eq!(last.map(|command| command.id), Ok(u32::MAX));
    }

    #[test]
    fn what_is_no_command_is_malformed() {
        let nested = |depth| {
            let data = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
            format!("{{\"id\":1,\"publish\":{{\"channel\":\"a\",\"data\":{data}}}}}")
        };
        assert!(read(&nested(62)).is_ok());
        for line in [
            " ",
            "\r",
            "null",
            "7",
            "\"{}\"",
            "[]",
            "[1]",
            "{",
            "{}{}",
            "{} x",
            "{},",
            "{'id':1}",
            "\u{feff}{}",
            r#"{"id":1}"#,
            r#"{"id":1,"x":{}}"#,
            r#"{"id":1,"Connect":{}}"#,
            r#"{"id":1,"connect":null}"#,
            r#"{"id":1,"connect":[]}"#,
            r#"{"id":1,"connect":{},"rpc":7}"#,
            r#"{"subscribe":"a"}"#,
            r#"{"id":-1,"ping":{}}"#,
            r#"{"id":1.0,"ping":{}}"#,
            r#"{"id":"1","ping":{}}"#,
            r#"{"id":null,"ping":{}}"#,
            r#"{"id":4294967296,"ping":{}}"#,
            r#"{"id":1,"id":1,"ping":{}}"#,
            r#"{"id":1,"ping":{},"ping":{}}"#,
            r#"{"id":1,"ping":{},"p\u0069ng":{}}"#,
            r#"{"id":1,"ping":{"a":1,}}"#,
            r#"{"id":1,"connect":{"token":7}}"#,
            r#"{"id":1,"connect":{"token":"a","token":"b"}}"#,
            r#"{"id":1,"connect":{"name":["js"]}}"#,
            r#"{"id":1,"connect":{"subs":[]}}"#,
            r#"{"id":1,"connect":{"subs":{"a":7}}}"#,
            r#"{"id":1,"connect":{"subs":{"a":[true]}}}"#,
            r#"{"id":1,"connect":{"subs":{"a":{"epoch":7}}}}"#,
            r#"{"id":1,"connect":{"subs":{"a":{},"\u0061":{}}}}"#,
            r#"{"id":1,"subscribe":{"channel":7}}"#,
            r#"{"id":1,"subscribe":{"channel":"\ud800"}}"#,
            r#"{"id":1,"subscribe":{"channel":"a","recover":1}}"#,
            r#"{"id":1,"subscribe":{"channel":"a","recover":null}}"#,
            r#"{"id":1,"subscribe":{"channel":"a","epoch":42}}"#,
            r#"{"id":1,"subscribe":{"channel":"a","offset":-1}}"#,
            r#"{"id":1,"subscribe":{"channel":"a","offset":1.5}}"#,
            r#"{"id":1,"subscribe":{"channel":"a","offset":"1"}}"#,
            r#"{"id":1,"subscribe":{"channel":"a","offset":18446744073709551616}}"#,
            r#"{"id":1,"subscribe":{"channel":"a","type":-1}}"#,
            r#"{"id":1,"subscribe":{"channel":"a","tf":[]}}"#,
            r#"{"id":1,"subscribe":{"channel":"a","flag":"1"}}"#,
            r#"{"id":1,"unsubscribe":"a"}"#,
            r#"{"id":1,"publish":{"channel":"a","data":"\ud800"}}"#,
            r#"{"id":1,"publish":{"channel":"a","data":1,"data":2}}"#,
            r#"{"id":1,"publish":{"channel":"a","data":tru}}"#,
            r#"{"id":1,"history":{"channel":"a","limit":"1"}}"#,
            r#"{"id":1,"history":{"channel":"a","since":7}}"#,
            r#"{"id":1,"history":{"channel":"a","since":["e",1]}}"#,
            r#"{"id":1,"refresh":{"token":{}}}"#,
            &nested(63),
            &nested(10_000),
            &"[".repeat(10_000),
        ] {
            assert_eq!(read(line), Err(Malformed), "{:?}", line.get(..80));
        }
    }

    #[test]
    fn subs_end_at_their_bound() {
        let line = |len: usize, recover: bool| {
            let subs: Vec<_> = (0..len)
                .map(|number| format!("\"r{number}\":{{\"recover\":{recover}}}"))
                .collect();
            format!(
                "{{\"id\":1,\"connect\":{{\"subs\":{{{}}}}}}}",
                subs.join(",")
            )
        };
        for recover in [true, false] {
            let Request::Connect(connect) = request(&line(SUBS_MAX, recover)) else {
                panic!("not a connect");
            };
            assert_eq!(connect.subs.len(), if recover { SUBS_MAX } else { 0 });
            assert_eq!(read(&line(SUBS_MAX + 1, recover)), Err(Malformed));
        }
    }

    #[test]
    fn lines_are_taken_one_by_one() {
        const PONG: Result<Command, Malformed> = Ok(Command {
            id: 0,
            request: Request::Pong,
        });
        for (message, expected) in [
            ("{}", vec![PONG]),
            ("{}\n", vec![PONG]),
            ("{}\r\n{}\r\n", vec![PONG, PONG]),
            ("\n", vec![Err(Malformed)]),
            ("\n{}", vec![Err(Malformed), PONG]),
            ("{}\n\n{}", vec![PONG, Err(Malformed), PONG]),
            ("{}\n\n", vec![PONG, Err(Malformed)]),
            ("{\n}", vec![Err(Malformed), Err(Malformed)]),
        ] {
            let found: Vec<_> = frame(message).expect("a message").collect();
            assert_eq!(found, expected, "{message:?}");
        }
        let mut whole = frame("{}\n{}").expect("a message");
        assert_eq!(whole.next(), Some(PONG));
        let rest: Vec<_> = whole.clone().collect();
        assert_eq!(rest, [PONG]);
        assert_eq!(
            (whole.next(), whole.next(), whole.next()),
            (Some(PONG), None, None)
        );
    }

    #[test]
    fn a_message_is_text_and_not_empty() {
        assert!(frame("").is_none());
        for (bytes, is_text) in [(&b""[..], false), (b"{}", true), (b"{}\n\xff", false)] {
            let found = CommandFrame::new(&Payload::binary(bytes.to_vec().into()));
            assert_eq!(found.is_some(), is_text, "{bytes:?}");
        }
    }
}
