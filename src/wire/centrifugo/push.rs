//! What clients are told unasked. Each function appends one JSON object, without a line end.
//!
//! Owns: the names and the order of members, and what publications of each kind look like.
//! Never: decides who is told.
//!
//! [`put_publication_push`] is on the hot path, once a publication and form: it makes room once, and
//! builds nothing in between.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::reply::{SubscribeResult, put_data, put_expiry, put_one_line, put_position};
use crate::base::{Identity, Offset, RoomName};
use crate::wire::api::answer::{Object, put};
use crate::wire::frame::PayloadKind;

/// The server's ping, which the client answers with the same bytes.
pub const PING: &[u8] = b"{}";

/// Why a subscription ends: the operator or a back end wants it so. The client does not come back.
pub const UNSUBSCRIBED: (u16, &str) = (2000, "server unsubscribe");

/// Why a subscription ends: something was lost. The client subscribes again and resumes.
pub const INSUFFICIENT_STATE: (u16, &str) = (2500, "insufficient state");

/// Why a subscription ends: its token's time is over. The client fetches another.
pub const SUBSCRIPTION_EXPIRED: (u16, &str) = (2501, "subscription expired");

/// Why a subscription ends: what the client knows is worth nothing. It begins anew.
pub const STATE_INVALIDATED: (u16, &str) = (2502, "state invalidated");

/// Who published something, or came, or went.
#[derive(Clone, Copy, Debug)]
pub struct Sender<'a> {
    /// The connection's id.
    pub client: &'a str,
    /// Who is behind it, if known.
    pub identity: Option<&'a Identity>,
}

/// Appends a publication: `{"data":…,"offset":…,"info":{…}}`. `data` is a string for text, the value
/// itself for JSON, and `{"b64":"…"}` for anything else; there is no offset in a room without
/// history and no `info` where no client was the publisher.
pub fn put_publication(
    out: &mut Vec<u8>,
    kind: PayloadKind,
    payload: &[u8],
    offset: Option<Offset>,
    sender: Option<Sender<'_>>,
) {
    out.reserve(publication_bytes(kind, payload, sender));
    put_members(out, kind, payload, offset, sender);
}

/// Appends a publication of `room` as its members are told of it.
pub fn put_publication_push(
    out: &mut Vec<u8>,
    room: &RoomName,
    kind: PayloadKind,
    payload: &[u8],
    offset: Option<Offset>,
    sender: Option<Sender<'_>>,
) {
    out.reserve(push_bytes(room, kind, payload, sender));
    out.extend_from_slice(br#"{"push":{"channel":"#);
    put(out, room.as_str());
    out.extend_from_slice(br#","pub":"#);
    put_members(out, kind, payload, offset, sender);
    out.extend_from_slice(b"}}");
}

/// Appends a message to one connection, which belongs to no room.
pub fn put_message(out: &mut Vec<u8>, kind: PayloadKind, payload: &[u8]) {
    out.reserve(publication_bytes(kind, payload, None));
    out.extend_from_slice(br#"{"push":{"message":{"data":"#);
    put_payload(out, kind, payload);
    out.extend_from_slice(b"}}}");
}

/// Appends how many publications of a lossy room a member missed: a message with the envelope that
/// members on `/ws` get, [`crate::wire::raw::skipped`].
pub fn put_skipped(out: &mut Vec<u8>, room: &RoomName, count: u64) {
    out.extend_from_slice(br#"{"push":{"message":{"data":{"skipped":"#);
    let mut skipped = Object::open(out);
    skipped.member("room", room.as_str());
    skipped.member("count", &count);
    skipped.close();
    out.extend_from_slice(b"}}}}");
}

/// Appends that a membership has ended, and why.
pub fn put_unsubscribe(out: &mut Vec<u8>, room: &RoomName, code: u16, reason: &str) {
    put_of_room(out, room, "unsubscribe", |object| {
        object.member("code", &code);
        object.member("reason", reason);
    });
}

/// Appends that the server has made the client a member: the position and the data of `result`. For
/// the rest of it, which is about resuming, this push has no place.
pub fn put_subscribed(out: &mut Vec<u8>, room: &RoomName, result: &SubscribeResult) {
    put_of_room(out, room, "subscribe", |object| {
        put_position(object, result.position);
        put_data(object, result.data.as_deref());
    });
}

/// Appends that somebody came or went.
pub fn put_presence_change(out: &mut Vec<u8>, room: &RoomName, is_join: bool, sender: Sender<'_>) {
    let name = if is_join { "join" } else { "leave" };
    put_of_room(out, room, name, |object| {
        put_sender(object.key("info"), sender);
    });
}

/// Appends in how many seconds the connection ends unless there is another token; `None` for never.
pub fn put_refresh(out: &mut Vec<u8>, ttl_s: Option<u32>) {
    out.extend_from_slice(br#"{"push":{"refresh":"#);
    let mut refresh = Object::open(out);
    put_expiry(&mut refresh, ttl_s);
    refresh.close();
    out.extend_from_slice(b"}}");
}

fn put_of_room(
    out: &mut Vec<u8>,
    room: &RoomName,
    name: &str,
    put_members: impl FnOnce(&mut Object<'_>),
) {
    out.extend_from_slice(br#"{"push":"#);
    let mut push = Object::open(out);
    push.member("channel", room.as_str());
    let mut object = Object::open(push.key(name));
    put_members(&mut object);
    object.close();
    push.close();
    out.push(b'}');
}

fn put_members(
    out: &mut Vec<u8>,
    kind: PayloadKind,
    payload: &[u8],
    offset: Option<Offset>,
    sender: Option<Sender<'_>>,
) {
    out.extend_from_slice(br#"{"data":"#);
    put_payload(out, kind, payload);
    if let Some(Offset(offset @ 1..)) = offset {
        out.extend_from_slice(br#","offset":"#);
        put(out, &offset);
    }
    if let Some(sender) = sender {
        out.extend_from_slice(br#","info":"#);
        put_sender(out, sender);
    }
    out.push(b'}');
}

fn put_payload(out: &mut Vec<u8>, kind: PayloadKind, payload: &[u8]) {
    match (kind, std::str::from_utf8(payload)) {
        (PayloadKind::Text, Ok(text)) => put(out, text),
        (PayloadKind::Json, Ok(_)) => put_one_line(out, payload),
        _ => {
            out.extend_from_slice(br#"{"b64":""#);
            let start = out.len();
            out.resize(start + base64_bytes(payload.len()), 0);
            BASE64
                .encode_slice(payload, &mut out[start..])
                .expect("room was made for as many characters as there are");
            out.extend_from_slice(br#""}"#);
        }
    }
}

/// Centrifugo's `ClientInfo`, whose user and client are always there.
fn put_sender(out: &mut Vec<u8>, sender: Sender<'_>) {
    let Sender { client, identity } = sender;
    let mut info = Object::open(out);
    info.member("user", identity.map_or("", |one| one.user.as_str()));
    info.member("client", client);
    if let Some(conn_info) = identity.and_then(|one| one.info.as_deref()) {
        put_one_line(info.key("conn_info"), conn_info.as_bytes());
    }
    info.close();
}

/// Most bytes that a publication takes in a push.
fn push_bytes(
    room: &RoomName,
    kind: PayloadKind,
    payload: &[u8],
    sender: Option<Sender<'_>>,
) -> usize {
    string_bytes(room.as_str().as_bytes()) + publication_bytes(kind, payload, sender) + 32
}

/// Most bytes that a publication takes, with a push around it that names no room.
fn publication_bytes(kind: PayloadKind, payload: &[u8], sender: Option<Sender<'_>>) -> usize {
    let data = match kind {
        PayloadKind::Json => payload.len(),
        PayloadKind::Text => string_bytes(payload),
        PayloadKind::Binary => base64_bytes(payload.len()),
    };
    let info = sender.map_or(0, |Sender { client, identity }| {
        let user = identity.map_or(0, |one| string_bytes(one.user.as_str().as_bytes()));
        let info = identity.and_then(|one| one.info.as_deref());
        string_bytes(client.as_bytes()) + user + info.map_or(0, str::len) + 48
    });
    // The offset has at most 20 digits.
    data + info + 64
}

/// Bytes of a JSON string (RFC 8259, section 7), as serde_json writes it.
fn string_bytes(text: &[u8]) -> usize {
    // `\n` takes one byte more than the character, `\u0000` five.
    let short = |byte: &&u8| matches!(byte, b'"' | b'\\' | 8 | b'\t' | b'\n' | 12 | b'\r');
    let long = |byte: &&u8| matches!(byte, 0..=7 | 11 | 14..0x20);
    2 + text.len() + text.iter().filter(short).count() + 5 * text.iter().filter(long).count()
}

/// Characters of base64 with padding (RFC 4648, section 4).
fn base64_bytes(bytes_len: usize) -> usize {
    bytes_len.div_ceil(3) * 4
}

#[cfg(test)]
mod tests {
    use serde::de::IgnoredAny;
    use serde_json::Value;

    use super::*;
    use crate::base::{Epoch, Position, UserId};
    use crate::wire::raw;

    fn check(put: impl FnOnce(&mut Vec<u8>), expected: &str) {
        let mut out = b"before".to_vec();
        put(&mut out);
        let found = String::from_utf8(out).expect("JSON is UTF-8");
        let found = found.strip_prefix("before").expect("it appends");
        serde_json::from_str::<IgnoredAny>(found).expect("JSON");
        assert_eq!(found, expected);
    }

    fn room(name: &str) -> RoomName {
        RoomName::new(name).expect("a good name")
    }

    fn identity(user: &str, info: Option<&str>) -> Identity {
        Identity {
            user: UserId::new(user).expect("a good id"),
            info: info.map(Into::into),
        }
    }

    #[test]
    fn the_pushes_of_the_worked_transcript_are_written() {
        let bullet = identity("42", None);
        let sender = Sender {
            client: "7f3c…",
            identity: Some(&bullet),
        };
        for (payload, offset, sender, expected) in [
            (
                r#"{"t":"hi"}"#,
                42,
                None,
                r#"{"push":{"channel":"room:7","pub":{"data":{"t":"hi"},"offset":42}}}"#,
            ),
            (
                r#"{"t":"yo"}"#,
                43,
                Some(sender),
                r#"{"push":{"channel":"room:7","pub":{"data":{"t":"yo"},"info":{"user":"42","client":"7f3c…"},"offset":43}}}"#,
            ),
        ] {
            let mut out = Vec::new();
            put_publication_push(
                &mut out,
                &room("room:7"),
                PayloadKind::Json,
                payload.as_bytes(),
                Some(Offset(offset)),
                sender,
            );
            // The transcript has its members in another order, which means nothing.
            let found: Value = serde_json::from_slice(&out).expect("JSON");
            let expected: Value = serde_json::from_str(expected).expect("JSON");
            assert_eq!(found, expected);
        }
        assert_eq!(PING, b"{}");
    }

    #[test]
    fn publications_are_written_by_kind() {
        let known = identity("a\"l", Some("{\"n\":\n[1, 2]}"));
        let [nobody, somebody] = [None, Some(&known)].map(|identity| {
            Some(Sender {
                client: "5.1",
                identity,
            })
        });
        for (kind, payload, offset, sender, expected) in [
            (
                PayloadKind::Text,
                "h\"i\n\u{1}é".as_bytes(),
                Some(Offset(u64::MAX)),
                None,
                r#"{"data":"h\"i\n\u0001é","offset":18446744073709551615}"#,
            ),
            (PayloadKind::Text, b"", None, None, r#"{"data":""}"#),
            (
                PayloadKind::Json,
                b"[1e999]",
                Some(Offset(0)),
                None,
                r#"{"data":[1e999]}"#,
            ),
            (
                PayloadKind::Json,
                b"\n[1,\n\n2]\n",
                None,
                None,
                r#"{"data":[1,2]}"#,
            ),
            (
                PayloadKind::Binary,
                &[0, 255],
                None,
                None,
                r#"{"data":{"b64":"AP8="}}"#,
            ),
            (
                PayloadKind::Binary,
                b"",
                None,
                None,
                r#"{"data":{"b64":""}}"#,
            ),
            // No text after all.
            (
                PayloadKind::Text,
                &[0, 255],
                None,
                None,
                r#"{"data":{"b64":"AP8="}}"#,
            ),
            (
                PayloadKind::Text,
                b"x",
                Some(Offset(1)),
                nobody,
                r#"{"data":"x","offset":1,"info":{"user":"","client":"5.1"}}"#,
            ),
            (
                PayloadKind::Text,
                b"x",
                None,
                somebody,
                r#"{"data":"x","info":{"user":"a\"l","client":"5.1","conn_info":{"n":[1, 2]}}}"#,
            ),
        ] {
            check(
                |out| put_publication(out, kind, payload, offset, sender),
                expected,
            );
            check(
                |out| put_publication_push(out, &room("r\\"), kind, payload, offset, sender),
                &format!(r#"{{"push":{{"channel":"r\\","pub":{expected}}}}}"#),
            );
        }
    }

    #[test]
    fn room_is_made_once_for_the_largest_publication() {
        let all: String = ('\0'..='\u{ff}').collect();
        let longest = "\"".repeat(254);
        let identity = identity(&longest, Some(&longest));
        let name = room(&"\\".repeat(255));
        let sender = Some(Sender {
            client: &all,
            identity: Some(&identity),
        });
        for (kind, payload) in [
            (PayloadKind::Text, all.as_bytes()),
            (PayloadKind::Text, &[0; 1000]),
            (PayloadKind::Text, b""),
            (PayloadKind::Binary, &[255; 1000]),
            (PayloadKind::Binary, &[255; 1001]),
            (PayloadKind::Binary, &[255; 1002]),
            (PayloadKind::Json, longest.as_bytes()),
        ] {
            let mut out = Vec::new();
            let offset = Some(Offset(u64::MAX));
            put_publication_push(&mut out, &name, kind, payload, offset, sender);
            let bound = push_bytes(&name, kind, payload, sender);
            assert!(out.len() <= bound && bound <= out.len() + 64, "{kind:?}");
            let mut out = Vec::new();
            put_message(&mut out, kind, payload);
            assert!(out.len() <= publication_bytes(kind, payload, None));
        }
        for text in [&*all, "", "a\u{7f}é\u{2028}"] {
            let mut out = Vec::new();
            put(&mut out, text);
            assert_eq!(string_bytes(text.as_bytes()), out.len(), "{text:?}");
        }
    }

    #[test]
    fn other_pushes_have_the_documented_form() {
        let name = room("r\"");
        check(
            |out| put_message(out, PayloadKind::Text, b"a\nb"),
            r#"{"push":{"message":{"data":"a\nb"}}}"#,
        );
        check(
            |out| put_message(out, PayloadKind::Json, b"7"),
            r#"{"push":{"message":{"data":7}}}"#,
        );
        check(
            |out| put_message(out, PayloadKind::Binary, b"\xff"),
            r#"{"push":{"message":{"data":{"b64":"/w=="}}}}"#,
        );
        check(
            |out| put_skipped(out, &name, 12),
            r#"{"push":{"message":{"data":{"skipped":{"room":"r\"","count":12}}}}}"#,
        );
        for (code, reason) in [
            UNSUBSCRIBED,
            INSUFFICIENT_STATE,
            SUBSCRIPTION_EXPIRED,
            STATE_INVALIDATED,
        ] {
            check(
                |out| put_unsubscribe(out, &name, code, reason),
                &format!(
                    r#"{{"push":{{"channel":"r\"","unsubscribe":{{"code":{code},"reason":"{reason}"}}}}}}"#
                ),
            );
        }
        let position = Position {
            epoch: Epoch::from_number(7),
            offset: Offset(3),
        };
        let subscribed = SubscribeResult {
            position: Some(position),
            was_recovering: true,
            is_recovered: true,
            publications: b"{}".to_vec(),
            ttl_s: Some(1),
            data: Some("[1]".into()),
        };
        check(
            |out| put_subscribed(out, &name, &subscribed),
            r#"{"push":{"channel":"r\"","subscribe":{"recoverable":true,"epoch":"7","offset":3,"positioned":true,"data":[1]}}}"#,
        );
        check(
            |out| put_subscribed(out, &name, &SubscribeResult::default()),
            r#"{"push":{"channel":"r\"","subscribe":{}}}"#,
        );
        let sender = Sender {
            client: "5.1",
            identity: None,
        };
        for (is_join, method) in [(true, "join"), (false, "leave")] {
            check(
                |out| put_presence_change(out, &name, is_join, sender),
                &format!(
                    r#"{{"push":{{"channel":"r\"","{method}":{{"info":{{"user":"","client":"5.1"}}}}}}}}"#
                ),
            );
        }
        check(
            |out| put_refresh(out, Some(600)),
            r#"{"push":{"refresh":{"expires":true,"ttl":600}}}"#,
        );
        check(|out| put_refresh(out, None), r#"{"push":{"refresh":{}}}"#);
    }

    #[test]
    fn skips_are_told_as_on_the_other_endpoint() {
        let mut out = Vec::new();
        put_skipped(&mut out, &room("a\\"), 0);
        let found: Value = serde_json::from_slice(&out).expect("JSON");
        let frames = raw::lost(&room("a\\"), 0);
        let body: Value = serde_json::from_slice(&frames.bytes()[2..]).expect("JSON");
        assert_eq!(found["push"]["message"]["data"], body);
    }
}
