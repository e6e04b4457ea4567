//! The HTTP API of the admin listener: requests in, answers out, in Centrifugo's form.
//!
//! Owns: the names of methods and members, what each member may hold, the error codes, and the
//! form of every answer. A room is called `channel` here, as in Centrifugo.
//! Never: decides whether something may be done or does it; a call that was parsed is a call that
//! makes sense, no more.
//!
//! What bad input gets
//! - A body that is not JSON (cut, not UTF-8, nested deeper than [`NESTING_MAX`]) is
//!   [`ApiError::Undecodable`]: 400, and nothing of it was looked at.
//! - JSON of another shape gets code 107: a member that is missing, given twice, of the wrong type,
//!   a number out of its range, a name that breaks its rule. Members that are not known are
//!   ignored, for client libraries send what newer servers understand.
//! - A member that is `null`, or an empty string where a name could stand, counts as absent: that
//!   is how libraries write what was not given. `"data": null` publishes `null`.
//! - More channels, commands or bytes than the bounds below gets code 106, and memory is not spent
//!   on what is over them.
//!
//! Requests are read in `request`, their JSON by way of `json`; answers are written in [`answer`].

pub mod answer;
pub(in crate::wire) mod json;
pub mod relay;
mod request;

use std::fmt;

pub use json::NESTING_MAX;
pub use request::{
    CHANNELS_MAX, COMMANDS_MAX, CONNECTIONS_LIMIT_DEFAULT, CONNECTIONS_LIMIT_MAX,
    HISTORY_LIMIT_MAX, KEY_BYTES_MAX, WHITELIST_MAX,
};

use super::frame::Payload;
use crate::base::{ConnId, Glob, NodeId, Offset, RoomName, UserId};

/// Most bytes of items in one answer, apart from the last item. A list of publications or
/// connections ends there; other lists would be wrong if they did, and get code 106.
pub const PAGE_BYTES_MAX: usize = 8 << 20;

/// What a back end asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum ApiCall {
    /// Publishes into one room.
    Publish {
        /// The room.
        channel: RoomName,
        /// What and how.
        publish: Publish,
    },
    /// Publishes the same into many rooms.
    Broadcast {
        /// The rooms in request order, at least one and possibly some of them twice. In place of
        /// what is no room name stands the code that its response gets; the others are served, as
        /// Centrifugo does it.
        channels: Vec<Result<RoomName, ApiCode>>,
        /// What and how.
        publish: Publish,
    },
    /// Sends to every connection, once.
    PublishAll {
        /// What, in the same three kinds as in [`Publish`].
        payload: Payload,
    },
    /// Closes connections.
    Disconnect {
        /// Whose.
        target: Target,
        /// Clients that stay.
        whitelist: Vec<Box<str>>,
        /// The close code, 3000 to 4999.
        code: u16,
        /// The reason, 1 to 123 bytes.
        reason: Box<str>,
    },
    /// Makes connections that speak by commands members of a room.
    Subscribe {
        /// The room.
        channel: RoomName,
        /// Whose.
        target: Target,
        /// How.
        subscribe: Box<Subscribe>,
    },
    /// Says when connections end.
    Refresh {
        /// Whose.
        target: Target,
        /// When.
        refresh: Refresh,
    },
    /// Makes connections leave a room.
    Unsubscribe {
        /// The room.
        channel: RoomName,
        /// Whose.
        target: Target,
    },
    /// Who is in a room.
    Presence {
        /// The room.
        channel: RoomName,
    },
    /// How many are in a room.
    PresenceStats {
        /// The room.
        channel: RoomName,
    },
    /// What was published in a room.
    History {
        /// The room.
        channel: RoomName,
        /// Most publications to give, at most [`HISTORY_LIMIT_MAX`]; 0 asks for the position only.
        limit: usize,
        /// Where to begin, itself left out; `None` is the end of the history that is first in the
        /// direction asked for.
        since: Option<HistorySince>,
        /// Newest first. Then `since`, if given, is not before the first publication.
        reverse: bool,
    },
    /// Forgets what was published in a room.
    HistoryRemove {
        /// The room.
        channel: RoomName,
    },
    /// Which rooms there are.
    Channels {
        /// Which of them are meant; `*` when none was given.
        pattern: Glob,
    },
    /// One row a connection.
    Connections {
        /// Which connections.
        of: ConnectionsOf,
        /// Most rows to give, from 1 to [`CONNECTIONS_LIMIT_MAX`].
        limit: usize,
    },
    /// The nodes and their figures.
    Info,
    /// Several calls, none of them a batch.
    Batch {
        /// The calls in request order; in place of a bad one stands the code of its reply.
        commands: Vec<Result<Self, ApiCode>>,
        /// Whether their order does not matter.
        parallel: bool,
    },
}

impl ApiCall {
    /// Reads the body of `POST /api/<method>`. A published payload may have `payload_bytes_max`
    /// bytes as it is delivered: after escapes and base64 are undone, before any envelope.
    ///
    /// The size of the body is the caller's to bound; what is built here is at most about 16 times
    /// as large, which a batch of broadcasts to one-letter rooms comes to. An empty body
    /// is understood as `{}` by the methods that need no member, `info` and `channels`.
    ///
    /// # Errors
    /// See the head of this module. An unknown method is told before the body is looked at.
    pub fn parse(method: &str, body: &[u8], payload_bytes_max: usize) -> Result<Self, ApiError> {
        request::parse(method, body, payload_bytes_max)
    }

    /// Which method this is a call of.
    #[must_use]
    pub fn method(&self) -> ApiMethod {
        match self {
            Self::Publish { .. } => ApiMethod::Publish,
            Self::Broadcast { .. } => ApiMethod::Broadcast,
            Self::PublishAll { .. } => ApiMethod::PublishAll,
            Self::Disconnect { .. } => ApiMethod::Disconnect,
            Self::Subscribe { .. } => ApiMethod::Subscribe,
            Self::Refresh { .. } => ApiMethod::Refresh,
            Self::Unsubscribe { .. } => ApiMethod::Unsubscribe,
            Self::Presence { .. } => ApiMethod::Presence,
            Self::PresenceStats { .. } => ApiMethod::PresenceStats,
            Self::History { .. } => ApiMethod::History,
            Self::HistoryRemove { .. } => ApiMethod::HistoryRemove,
            Self::Channels { .. } => ApiMethod::Channels,
            Self::Connections { .. } => ApiMethod::Connections,
            Self::Info => ApiMethod::Info,
            Self::Batch { .. } => ApiMethod::Batch,
        }
    }
}

/// What to publish and how.
#[derive(Clone, Debug, PartialEq)]
pub struct Publish {
    /// What: text for `data` that is a string, JSON for `data` of any other type, written
    /// compactly, and binary for `b64data`.
    pub payload: Payload,
    /// Names the call, so that a second one with the same key is answered like the first and not
    /// carried out; 1 to [`KEY_BYTES_MAX`] bytes.
    pub idempotency_key: Option<Box<str>>,
    /// Deliver and number it but do not keep it.
    pub skip_history: bool,
}

/// Whose connections are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// All connections of a user.
    User(UserId),
    /// One connection.
    Client(Box<str>),
    /// One connection, if it is this user's.
    ClientOf(UserId, Box<str>),
}

/// The position that a read of history begins at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistorySince {
    /// The offset.
    pub offset: Offset,
    /// The epoch as it was given; `None` asks for no check. What is not the current epoch's text,
    /// whatever it is, makes the position unrecoverable.
    pub epoch: Option<Box<str>>,
}

/// Which connections to list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConnectionsOf {
    /// The members of a room.
    Channel(RoomName),
    /// The connections of a user.
    User(UserId),
}

/// How a back end makes a connection a member.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Subscribe {
    /// From where it is to receive; `None` from now on.
    pub since: Option<HistorySince>,
    /// What it is told with it: a JSON value, compact.
    pub data: Option<Box<str>>,
    /// Until which second since 1970; `None` for as long as the connection is there.
    pub expires_unix_s: Option<u64>,
}

/// When a back end wants a connection to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refresh {
    /// Now: its time is over.
    Expired,
    /// At this second since 1970; `None` for never.
    Until(Option<u64>),
}

/// A method of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each is described by the call of its name")]
pub enum ApiMethod {
    Publish,
    Broadcast,
    PublishAll,
    Disconnect,
    Subscribe,
    Refresh,
    Unsubscribe,
    Presence,
    PresenceStats,
    History,
    HistoryRemove,
    Channels,
    Connections,
    Info,
    Batch,
}

impl ApiMethod {
    /// Every method.
    pub const ALL: [Self; 15] = [
        Self::Publish,
        Self::Broadcast,
        Self::PublishAll,
        Self::Disconnect,
        Self::Subscribe,
        Self::Refresh,
        Self::Unsubscribe,
        Self::Presence,
        Self::PresenceStats,
        Self::History,
        Self::HistoryRemove,
        Self::Channels,
        Self::Connections,
        Self::Info,
        Self::Batch,
    ];

    /// Its name in the path, in a batch and in its reply.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Broadcast => "broadcast",
            Self::PublishAll => "publish_all",
            Self::Disconnect => "disconnect",
            Self::Subscribe => "subscribe",
            Self::Refresh => "refresh",
            Self::Unsubscribe => "unsubscribe",
            Self::Presence => "presence",
            Self::PresenceStats => "presence_stats",
            Self::History => "history",
            Self::HistoryRemove => "history_remove",
            Self::Channels => "channels",
            Self::Connections => "connections",
            Self::Info => "info",
            Self::Batch => "batch",
        }
    }

    /// The method of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|method| method.name() == name)
    }
}

/// Why a call fails, as the caller is told in a body with status 200.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum ApiCode {
    /// The daemon failed.
    Internal = 100,
    /// There is no such room.
    UnknownChannel = 102,
    /// There is no such method.
    MethodNotFound = 104,
    /// More than a bound allows.
    LimitExceeded = 106,
    /// The request does not make sense.
    BadRequest = 107,
    /// What is asked for is turned off.
    NotAvailable = 108,
    /// History does not reach back to the position, or it is another epoch's.
    UnrecoverablePosition = 112,
}

impl ApiCode {
    /// The number.
    #[must_use]
    pub fn number(self) -> u16 {
        self as u16
    }

    /// Centrifugo's words for it.
    #[must_use]
    pub fn message(self) -> &'static str {
        match self {
            Self::Internal => "internal server error",
            Self::UnknownChannel => "unknown channel",
            Self::MethodNotFound => "method not found",
            Self::LimitExceeded => "limit exceeded",
            Self::BadRequest => "bad request",
            Self::NotAvailable => "not available",
            Self::UnrecoverablePosition => "unrecoverable position",
        }
    }
}

/// Why a body is not a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApiError {
    /// It is not JSON: status 400.
    Undecodable,
    /// It is no call of this method: status 200 with this code.
    Refused(ApiCode),
}

impl From<ApiCode> for ApiError {
    fn from(code: ApiCode) -> Self {
        Self::Refused(code)
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Undecodable => "the body is not JSON",
            Self::Refused(code) => code.message(),
        })
    }
}

impl std::error::Error for ApiError {}

/// The connection that a client is, given the id as logs and answers show it (`5.1`); `None` for
/// any other text, which no connection answers to.
#[must_use]
pub fn conn_id(client: &str) -> Option<ConnId> {
    let (slot, generation) = client.split_once('.')?;
    let id = ConnId {
        slot: slot.parse().ok()?,
        generation: generation.parse().ok()?,
    };
    // Spelled otherwise (`+5.01`) it is another text, and a text names one client at most.
    (id != ConnId::NONE && id.to_string() == client).then_some(id)
}

/// What a connection of this node is called; in a cluster, the name of the node comes first.
#[must_use]
pub fn client_name(node: Option<NodeId>, conn: ConnId) -> String {
    match node {
        None => conn.to_string(),
        Some(node) => format!("{node}.{conn}"),
    }
}

/// The connection of this node that has this name; `None` for any other text.
#[must_use]
pub fn client_here(node: Option<NodeId>, name: &str) -> Option<ConnId> {
    let Some(node) = node else {
        return conn_id(name);
    };
    let (first, rest) = name.split_once('.')?;
    (NodeId::parse(first) == Some(node))
        .then(|| conn_id(rest))
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_of_another_node_is_nobody_here() {
        let conn = ConnId {
            slot: 5,
            generation: 1,
        };
        let [here, there] = [1, 2].map(NodeId);
        let name = client_name(Some(here), conn);
        assert_eq!(name, "0000000000000001.5.1");
        assert_eq!(client_here(Some(here), &name), Some(conn));
        for (node, name) in [(Some(there), &*name), (None, &name), (Some(here), "5.1")] {
            assert_eq!(client_here(node, name), None, "{name}");
        }
        assert_eq!(client_here(None, &client_name(None, conn)), Some(conn));
    }

    #[test]
    fn methods_and_codes_are_distinct() {
        for method in ApiMethod::ALL {
            assert_eq!(ApiMethod::named(method.name()), Some(method));
        }
        for name in ["", "Publish", "publish ", "rpc", "api"] {
            assert_eq!(ApiMethod::named(name), None, "{name:?}");
        }
        assert_eq!(ApiCode::Internal.number(), 100);
        assert_eq!(ApiCode::UnrecoverablePosition.number(), 112);
    }

    #[test]
    fn clients_are_connections_spelled_one_way() {
        for id in [(0, 0), (5, 1), (u32::MAX, 7)] {
            let id = ConnId {
                slot: id.0,
                generation: id.1,
            };
            assert_eq!(conn_id(&id.to_string()), Some(id));
        }
        for text in [
            "",
            "5",
            "5.",
            ".1",
            "+5.1",
            "05.1",
            "5.1.0",
            " 5.1",
            "-1.0",
            "4294967296.0",
            "4294967295.4294967295",
            "7f3c2a9e-5b1d-4c56-9d6e-3f1f6f0a1b2c",
        ] {
            assert_eq!(conn_id(text), None, "{text:?}");
        }
    }
}
