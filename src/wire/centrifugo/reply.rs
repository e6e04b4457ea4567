//! Answers to commands. Each function appends one JSON object, without a line end.
//!
//! Owns: the names and the order of members, the numbers of errors and their words.
//! Never: writes a member that is zero or empty, except those that SDKs read without asking whether
//! they are there: user and client of a sender, and everything in an answer about presence or
//! history.
//!
//! An answer to a command without an id has none either. SDKs would take it for a ping; but they
//! send no such command that is answered.

use crate::base::{Position, RoomName};
use crate::wire::api::ApiCode;
use crate::wire::api::answer::{ApiResult, Object, put_result};

/// Why a command fails, as its client is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum ErrorCode {
    /// The daemon failed, or is too busy.
    Internal = 100,
    /// It is not known who asks.
    Unauthorized = 101,
    /// There is no such room.
    UnknownChannel = 102,
    /// The client may not do that.
    PermissionDenied = 103,
    /// There is no such method.
    MethodNotFound = 104,
    /// The client is in that room, or about to be.
    AlreadySubscribed = 105,
    /// More than a bound allows.
    LimitExceeded = 106,
    /// The request does not make sense.
    BadRequest = 107,
    /// What is asked for is not offered.
    NotAvailable = 108,
    /// The token's time is over, or has not come: the client fetches another.
    TokenExpired = 109,
    /// The time of a connection or subscription is over.
    Expired = 110,
    /// The client asks too often.
    TooManyRequests = 111,
    /// History does not reach back to the position, or it is another epoch's.
    UnrecoverablePosition = 112,
    /// Another reading of the same pages is under way.
    ConcurrentPagination = 113,
}

impl ErrorCode {
    /// Every code.
    pub const ALL: [Self; 14] = [
        Self::Internal,
        Self::Unauthorized,
        Self::UnknownChannel,
        Self::PermissionDenied,
        Self::MethodNotFound,
        Self::AlreadySubscribed,
        Self::LimitExceeded,
        Self::BadRequest,
        Self::NotAvailable,
        Self::TokenExpired,
        Self::Expired,
        Self::TooManyRequests,
        Self::UnrecoverablePosition,
        Self::ConcurrentPagination,
    ];

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
            Self::Unauthorized => "unauthorized",
            Self::UnknownChannel => "unknown channel",
            Self::PermissionDenied => "permission denied",
            Self::MethodNotFound => "method not found",
            Self::AlreadySubscribed => "already subscribed",
            Self::LimitExceeded => "limit exceeded",
            Self::BadRequest => "bad request",
            Self::NotAvailable => "not available",
            Self::TokenExpired => "token expired",
            Self::Expired => "expired",
            Self::TooManyRequests => "too many requests",
            Self::UnrecoverablePosition => "unrecoverable position",
            Self::ConcurrentPagination => "concurrent pagination",
        }
    }

    /// Whether the same command may succeed later. Without it, SDKs give up.
    #[must_use]
    pub fn is_temporary(self) -> bool {
        matches!(
            self,
            Self::Internal | Self::TooManyRequests | Self::ConcurrentPagination
        )
    }

    /// The code that says what a code of the HTTP API says.
    #[must_use]
    pub fn of_api(code: ApiCode) -> Self {
        match code {
            ApiCode::Internal => Self::Internal,
            ApiCode::UnknownChannel => Self::UnknownChannel,
            ApiCode::MethodNotFound => Self::MethodNotFound,
            ApiCode::LimitExceeded => Self::LimitExceeded,
            ApiCode::BadRequest => Self::BadRequest,
            ApiCode::NotAvailable => Self::NotAvailable,
            ApiCode::UnrecoverablePosition => Self::UnrecoverablePosition,
        }
    }
}

/// What a client learns when it is connected.
#[derive(Clone, Copy, Debug)]
pub struct ConnectResult<'a> {
    /// Its id.
    pub client: &'a str,
    /// In how many seconds it has to bring another token; `None` for never. 0 is told as 1.
    pub ttl_s: Option<u32>,
    /// How many seconds there are between pings, each of which it has to answer; `None` or 0 if
    /// there are none.
    pub ping_s: Option<u32>,
    /// The rooms that it has been made a member of, each once.
    pub subs: &'a [(RoomName, SubscribeResult)],
}

/// What a client learns when it is a member of a room.
#[derive(Clone, Debug, Default)]
pub struct SubscribeResult {
    /// The offset that it goes on from, and its epoch; `None` where there is no history to resume
    /// from.
    pub position: Option<Position>,
    /// Whether it wanted to resume.
    pub was_recovering: bool,
    /// Whether it is given all that it missed.
    pub is_recovered: bool,
    /// What it missed: items as [`super::push::put_publication`] writes them, with commas between.
    pub publications: Vec<u8>,
    /// In how many seconds it has to bring another token; `None` for never. 0 is told as 1.
    pub ttl_s: Option<u32>,
    /// What the token gave for it: the text of a JSON value.
    pub data: Option<Box<str>>,
}

/// Appends the answer to `connect`.
pub fn put_connect(out: &mut Vec<u8>, id: u32, result: &ConnectResult<'_>) {
    put_reply(out, id, "connect", |object| {
        object.member("client", result.client);
        object.member("version", env!("CARGO_PKG_VERSION"));
        put_expiry(object, result.ttl_s);
        if !result.subs.is_empty() {
            let mut subs = Object::open(object.key("subs"));
            for (room, result) in result.subs {
                let mut sub = Object::open(subs.key(room.as_str()));
                put_subscription(&mut sub, result);
                sub.close();
            }
            subs.close();
        }
        if let Some(ping_s) = result.ping_s.filter(|ping_s| *ping_s > 0) {
            object.member("ping", &ping_s);
            object.member("pong", &true);
        }
    });
}

/// Appends the answer to `subscribe`.
pub fn put_subscribe(out: &mut Vec<u8>, id: u32, result: &SubscribeResult) {
    put_reply(out, id, "subscribe", |object| {
        put_subscription(object, result);
    });
}

/// Appends the answer to a command of `method` that has nothing more to say than that it is done.
pub fn put_done(out: &mut Vec<u8>, id: u32, method: &str) {
    put_reply(out, id, method, |_| {});
}

/// Appends the answer to `refresh` or `sub_refresh`: in how many seconds the next token is due, if
/// at all. 0 is told as 1.
pub fn put_refreshed(out: &mut Vec<u8>, id: u32, method: &str, ttl_s: Option<u32>) {
    put_reply(out, id, method, |object| put_expiry(object, ttl_s));
}

/// Appends the answer to a command that failed.
pub fn put_error(out: &mut Vec<u8>, id: u32, code: ErrorCode) {
    put_reply(out, id, "error", |error| {
        error.member("code", &code.number());
        error.member("message", code.message());
        if code.is_temporary() {
            error.member("temporary", &true);
        }
    });
}

/// Appends the answer to `presence`, `presence_stats` or `history`: what the HTTP API would answer.
pub fn put_answer(out: &mut Vec<u8>, id: u32, method: &str, result: &ApiResult) {
    let mut reply = open_reply(out, id);
    put_result(reply.key(method), result);
    reply.close();
}

fn put_reply(out: &mut Vec<u8>, id: u32, name: &str, put_members: impl FnOnce(&mut Object<'_>)) {
    let mut reply = open_reply(out, id);
    let mut object = Object::open(reply.key(name));
    put_members(&mut object);
    object.close();
    reply.close();
}

fn open_reply(out: &mut Vec<u8>, id: u32) -> Object<'_> {
    let mut reply = Object::open(out);
    if id > 0 {
        reply.member("id", &id);
    }
    reply
}

fn put_subscription(object: &mut Object<'_>, result: &SubscribeResult) {
    put_position(object, result.position);
    if result.is_recovered {
        object.member("recovered", &true);
    }
    if result.was_recovering {
        object.member("was_recovering", &true);
    }
    if !result.publications.is_empty() {
        let list = object.key("publications");
        list.push(b'[');
        list.extend_from_slice(&result.publications);
        list.push(b']');
    }
    put_expiry(object, result.ttl_s);
    put_data(object, result.data.as_deref());
}

/// Writes from where a client can resume a room.
pub(super) fn put_position(object: &mut Object<'_>, position: Option<Position>) {
    let Some(position) = position else {
        return;
    };
    object.member("recoverable", &true);
    object.member("epoch", position.epoch.as_str());
    if position.offset.0 > 0 {
        object.member("offset", &position.offset.0);
    }
    object.member("positioned", &true);
}

/// Writes in how many seconds a token is due. SDKs wait for `ttl` wherever `expires` is set, so
/// that it is never left out.
pub(super) fn put_expiry(object: &mut Object<'_>, ttl_s: Option<u32>) {
    if let Some(ttl_s) = ttl_s {
        object.member("expires", &true);
        object.member("ttl", &ttl_s.max(1));
    }
}

pub(super) fn put_data(object: &mut Object<'_>, data: Option<&str>) {
    if let Some(data) = data {
        put_one_line(object.key("data"), data.as_bytes());
    }
}

/// Writes the text of a JSON value that was checked when it came in, without line feeds: between
/// the tokens of JSON they mean nothing, and within a string there are none.
pub(super) fn put_one_line(out: &mut Vec<u8>, json: &[u8]) {
    if !json.contains(&b'\n') {
        out.extend_from_slice(json);
        return;
    }
    out.extend(json.iter().copied().filter(|byte| *byte != b'\n'));
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::base::{Epoch, Offset};
    use crate::wire::api::answer::Page;

    fn check(put: impl FnOnce(&mut Vec<u8>), expected: &str) {
        let mut out = b"before".to_vec();
        put(&mut out);
        let found = String::from_utf8(out).expect("JSON is UTF-8");
        let found = found.strip_prefix("before").expect("it appends");
        serde_json::from_str::<Value>(found).expect("JSON");
        assert_eq!(found, expected);
    }

    fn at(epoch: &str, offset: u64) -> Option<Position> {
        Some(Position {
            epoch: Epoch::new(epoch).expect("a good epoch"),
            offset: Offset(offset),
        })
    }

    fn room(name: &str) -> RoomName {
        RoomName::new(name).expect("a good name")
    }

    const NOBODY: ConnectResult<'_> = ConnectResult {
        client: "7f3c…",
        ttl_s: None,
        ping_s: None,
        subs: &[],
    };

    #[test]
    fn the_answers_of_the_worked_transcript_are_written() {
        let connect = ConnectResult {
            ping_s: Some(25),
            ..NOBODY
        };
        let expected =
            r#"{"id":1,"connect":{"client":"7f3c…","version":"0.1","ping":25,"pong":true}}"#;
        let version = concat!("\"", env!("CARGO_PKG_VERSION"), "\"");
        check(
            |out| put_connect(out, 1, &connect),
            &expected.replace("\"0.1\"", version),
        );
        let subscribed = SubscribeResult {
            position: at("qwErTyUi", 41),
            ..SubscribeResult::default()
        };
        check(
            |out| put_subscribe(out, 2, &subscribed),
            r#"{"id":2,"subscribe":{"recoverable":true,"epoch":"qwErTyUi","offset":41,"positioned":true}}"#,
        );
        check(
            |out| put_done(out, 3, "publish"),
            r#"{"id":3,"publish":{}}"#,
        );
        let recovered = SubscribeResult {
            position: at("qwErTyUi", 43),
            was_recovering: true,
            is_recovered: true,
            publications: br#"{"data":{},"offset":44},{"data":{},"offset":45}"#.to_vec(),
            ..SubscribeResult::default()
        };
        check(
            |out| put_subscribe(out, 2, &recovered),
            r#"{"id":2,"subscribe":{"recoverable":true,"epoch":"qwErTyUi","offset":43,"positioned":true,"recovered":true,"was_recovering":true,"publications":[{"data":{},"offset":44},{"data":{},"offset":45}]}}"#,
        );
    }

    #[test]
    fn what_is_zero_or_empty_is_left_out() {
        let version = env!("CARGO_PKG_VERSION");
        let subs = [
            (room("a\"b"), SubscribeResult::default()),
            (
                room("c"),
                SubscribeResult {
                    position: at("e", 0),
                    was_recovering: true,
                    ttl_s: Some(0),
                    data: Some("{\"a\":\n1}".into()),
                    ..SubscribeResult::default()
                },
            ),
        ];
        let connect = ConnectResult {
            ttl_s: Some(600),
            ping_s: Some(0),
            subs: &subs,
            ..NOBODY
        };
        for (result, members) in [
            (NOBODY, ""),
            (
                connect,
                r#","expires":true,"ttl":600,"subs":{"a\"b":{},"c":{"recoverable":true,"epoch":"e","positioned":true,"was_recovering":true,"expires":true,"ttl":1,"data":{"a":1}}}"#,
            ),
        ] {
            check(
                |out| put_connect(out, 0, &result),
                &format!(r#"{{"connect":{{"client":"7f3c…","version":"{version}"{members}}}}}"#),
            );
        }
        check(
            |out| put_subscribe(out, u32::MAX, &SubscribeResult::default()),
            r#"{"id":4294967295,"subscribe":{}}"#,
        );
        for (ttl_s, expected) in [
            (None, r#"{"id":4,"refresh":{}}"#),
            (Some(0), r#"{"id":4,"refresh":{"expires":true,"ttl":1}}"#),
            (
                Some(600),
                r#"{"id":4,"refresh":{"expires":true,"ttl":600}}"#,
            ),
        ] {
            check(|out| put_refreshed(out, 4, "refresh", ttl_s), expected);
        }
    }

    #[test]
    fn presence_and_history_are_never_empty() {
        for (method, result, expected) in [
            (
                "presence",
                ApiResult::Presence(Page::default()),
                r#"{"id":5,"presence":{"presence":{}}}"#,
            ),
            (
                "presence_stats",
                ApiResult::PresenceStats {
                    clients: 0,
                    users: 0,
                },
                r#"{"id":5,"presence_stats":{"num_clients":0,"num_users":0}}"#,
            ),
            (
                "history",
                ApiResult::History {
                    publications: Page::default(),
                    top: None,
                },
                r#"{"id":5,"history":{"publications":[],"offset":0,"epoch":""}}"#,
            ),
        ] {
            check(|out| put_answer(out, 5, method, &result), expected);
        }
    }

    #[test]
    fn errors_have_their_numbers_and_words() {
        // Numbers and words as clients know them, `T` for those that may be tried again.
        let known = "100 internal server error (T) · 101 unauthorized · 102 unknown channel · \
            103 permission denied · 104 method not found · 105 already subscribed · \
            106 limit exceeded · 107 bad request · 108 not available · 109 token expired · \
            110 expired · 111 too many requests (T) · 112 unrecoverable position · \
            113 concurrent pagination (T)";
        let codes = known.split(" · ");
        assert_eq!(codes.clone().count(), ErrorCode::ALL.len());
        for (known, code) in codes.zip(ErrorCode::ALL) {
            let (number, words) = known.split_once(' ').expect("a number and words");
            let message = words.trim_end_matches(" (T)");
            assert_eq!(code.is_temporary(), message != words, "{known}");
            let temporary = if code.is_temporary() {
                r#","temporary":true"#
            } else {
                ""
            };
            check(
                |out| put_error(out, 3, code),
                &format!(
                    r#"{{"id":3,"error":{{"code":{number},"message":"{message}"{temporary}}}}}"#
                ),
            );
        }
        for code in [
            ApiCode::Internal,
            ApiCode::UnknownChannel,
            ApiCode::MethodNotFound,
            ApiCode::LimitExceeded,
            ApiCode::BadRequest,
            ApiCode::NotAvailable,
            ApiCode::UnrecoverablePosition,
        ] {
            let found = ErrorCode::of_api(code);
            assert_eq!(
                (found.number(), found.message()),
                (code.number(), code.message())
            );
        }
    }
}
