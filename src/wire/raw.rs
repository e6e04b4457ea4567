//! The raw room protocol of `/ws`: what the query asks for, and the JSON envelopes.
//!
//! Owns: the names of query parameters and of envelope members.
//! Never: decides who may do what (`auth`) or keeps anything.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use super::frame::{Frames, Payload, PayloadKind};
use crate::base::{CloseReason, Offset, Position, RoomName, UserId};

/// How a member receives publications. Each form in use is encoded once per publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireForm {
    /// A frame is exactly the published payload.
    Raw,
    /// A frame is one JSON envelope.
    Json,
}

impl WireForm {
    /// Every form.
    pub const ALL: [Self; 2] = [Self::Raw, Self::Json];

    /// Number of forms.
    pub const COUNT: usize = Self::ALL.len();

    /// Its place in [`WireForm::ALL`].
    #[must_use]
    pub fn index(self) -> usize {
        self as usize
    }
}

/// What a connection to `/ws` asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomRequest {
    /// The rooms to become a member of, in the order asked for, each once; with the personal room
    /// of an identified user last.
    pub rooms: Vec<RoomName>,
    /// Who it says it is.
    pub user: Option<UserId>,
    /// Where what it sends goes; `None` for a connection that may only receive.
    pub target: Option<RoomName>,
    /// How it wants to receive.
    pub form: WireForm,
    /// Whether its own publications come back to it.
    pub echo: bool,
}

/// Why a query cannot be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueryError {
    /// A parameter is malformed or one is missing.
    Bad(&'static str),
    /// More rooms than one connection may have.
    TooManyRooms,
}

/// Reads the query of a request for `/ws`. Parameters that are not known are ignored.
///
/// # Errors
/// The first parameter that cannot be used.
pub fn parse_query(query: &str, rooms_max: usize) -> Result<RoomRequest, QueryError> {
    let mut rooms = Vec::new();
    let mut user = None;
    let mut to = None;
    let mut form = WireForm::Raw;
    let mut echo = true;
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        match &*name {
            "room" => {
                let room = RoomName::new(&value).map_err(|_| {
                    QueryError::Bad("room must be 1 to 255 printable ASCII bytes\n")
                })?;
                if rooms.contains(&room) {
                    continue;
                }
                if rooms.len() == rooms_max {
                    return Err(QueryError::TooManyRooms);
                }
                rooms.push(room);
            }
            "user" => user = Some(user_id(&value)?),
            "to" => to = Some(RoomName::personal(&user_id(&value)?)),
            "format" => {
                form = match &*value {
                    "raw" => WireForm::Raw,
                    "json" => WireForm::Json,
                    _ => return Err(QueryError::Bad("format must be raw or json\n")),
                }
            }
            "echo" => {
                echo = match &*value {
                    "0" => false,
                    "1" => true,
                    _ => return Err(QueryError::Bad("echo must be 0 or 1\n")),
                }
            }
            _ => {}
        }
    }
    if rooms.is_empty() && user.is_none() {
        return Err(QueryError::Bad("room or user is needed\n"));
    }
    let target = to.or_else(|| rooms.first().cloned());
    if let Some(user) = &user {
        let personal = RoomName::personal(user);
        if !rooms.contains(&personal) {
            rooms.push(personal);
        }
    }
    Ok(RoomRequest {
        rooms,
        user,
        target,
        form,
        echo,
    })
}

/// One publication as members see it.
#[derive(Clone, Debug)]
pub struct Publication {
    /// Its number in the room.
    pub offset: Offset,
    /// When it was numbered, in milliseconds since 1970.
    pub unix_ms: u64,
    /// Who published it, if known.
    pub user: Option<UserId>,
    /// What was published.
    pub payload: Payload,
}

/// The JSON envelope of a publication.
#[must_use]
pub fn publication_envelope(room: &RoomName, publication: &Publication) -> Vec<u8> {
    let payload = &publication.payload;
    let mut out = Vec::with_capacity(payload.bytes().len() + 128);
    out.extend_from_slice(br#"{"publication":{"room":"#);
    put_string(&mut out, room.as_str());
    out.extend_from_slice(br#","offset":"#);
    put_number(&mut out, publication.offset.0);
    out.extend_from_slice(br#","time":"#);
    put_number(&mut out, publication.unix_ms);
    if let Some(user) = &publication.user {
        out.extend_from_slice(br#","user":"#);
        put_string(&mut out, user.as_str());
    }
    match payload.as_text() {
        Some(text) => {
            out.extend_from_slice(br#","data":"#);
            put_string(&mut out, text);
        }
        None => {
            out.extend_from_slice(br#","b64":""#);
            out.extend_from_slice(BASE64.encode(payload.bytes()).as_bytes());
            out.push(b'"');
        }
    }
    out.extend_from_slice(b"}}");
    out
}

/// Tells a member that it has joined: the first envelope of its room. A member that named no
/// position has nothing to recover, and so nothing is missing.
#[must_use]
pub fn joined(room: &RoomName, position: Position, online: usize) -> Arc<Frames> {
    envelope(&json!({ "joined": {
        "room": room.as_str(),
        "epoch": position.epoch.as_str(),
        "offset": position.offset.0,
        "recovered": true,
        "lost": 0,
        "online": online,
    }}))
}

/// Tells a member of a lossy room how many publications it missed.
#[must_use]
pub fn skipped(room: &RoomName, count: u64) -> Arc<Frames> {
    envelope(&json!({ "skipped": { "room": room.as_str(), "count": count } }))
}

/// The heartbeat of a json connection: each room's last offset and number of members.
#[must_use]
pub fn heartbeat<'a>(
    unix_ms: u64,
    rooms: impl Iterator<Item = (&'a RoomName, Offset, usize)>,
) -> Arc<Frames> {
    let rooms: serde_json::Map<String, Value> = rooms
        .map(|(room, offset, online)| {
            (
                room.as_str().to_owned(),
                json!({ "offset": offset.0, "online": online }),
            )
        })
        .collect();
    envelope(&json!({ "heartbeat": { "time": unix_ms, "rooms": rooms } }))
}

/// The last envelope of a json connection, before its close frame.
#[must_use]
pub fn closing(code: u16, reason: CloseReason) -> Arc<Frames> {
    envelope(&json!({ "closing": { "code": code, "reason": reason.text() } }))
}

fn user_id(value: &str) -> Result<UserId, QueryError> {
    UserId::new(value).map_err(|_| {
        QueryError::Bad("user and to must be 1 to 254 printable ASCII bytes without a comma\n")
    })
}

fn envelope(value: &Value) -> Arc<Frames> {
    Frames::message(PayloadKind::Text, value.to_string().as_bytes())
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("writing a string into a vector cannot fail");
}

fn put_number(out: &mut Vec<u8>, number: u64) {
    serde_json::to_writer(out, &number).expect("writing a number into a vector cannot fail");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Epoch;

    fn names(request: &RoomRequest) -> Vec<&str> {
        request.rooms.iter().map(RoomName::as_str).collect()
    }

    #[test]
    fn queries_are_understood() {
        let all = parse_query(
            "room=live%3A7&room=b+c&room=live:7&user=al&format=json&echo=0",
            2,
        )
        .expect("a good query");
        assert_eq!(names(&all), ["live:7", "b c", "#al"]);
        assert_eq!(all.target.as_ref().map(RoomName::as_str), Some("live:7"));
        assert_eq!((all.form, all.echo), (WireForm::Json, false));
        let direct = parse_query("user=al&to=bo&unknown=1", 2).expect("a good query");
        assert_eq!(names(&direct), ["#al"]);
        assert_eq!(direct.target.as_ref().map(RoomName::as_str), Some("#bo"));
        let receiver = parse_query("user=al", 2).expect("a good query");
        assert_eq!(receiver.target, None);
        let own = parse_query("room=%23al&user=al", 2).expect("a good query");
        assert_eq!(names(&own), ["#al"]);
    }

    #[test]
    fn bad_queries_are_refused() {
        for query in [
            "",
            "format=json",
            "to=bo",
            "room=",
            "room=%0a",
            "room=%ff",
            "room=é",
            "user=",
            "user=a,b",
            "room=a&to=",
            "room=a&format=xml",
            "room=a&format=",
            "room=a&echo=no",
        ] {
            assert!(
                matches!(parse_query(query, 2), Err(QueryError::Bad(_))),
                "{query}"
            );
        }
        let long = format!("room={}", "r".repeat(256));
        assert!(matches!(parse_query(&long, 2), Err(QueryError::Bad(_))));
        assert_eq!(
            parse_query("room=a&room=b&room=c", 2),
            Err(QueryError::TooManyRooms)
        );
    }

    #[test]
    fn envelopes_have_the_documented_form() {
        let room = RoomName::new("li\"ve").expect("a good name");
        let mut publication = Publication {
            offset: Offset(u64::MAX),
            unix_ms: 1_763_683_200_123,
            user: Some(UserId::new("al").expect("a good id")),
            payload: Payload::text("h\u{1}\"é".into()),
        };
        let text = |publication: &Publication| {
            String::from_utf8(publication_envelope(&room, publication)).expect("JSON is UTF-8")
        };
        assert_eq!(
            text(&publication),
            "{\"publication\":{\"room\":\"li\\\"ve\",\"offset\":18446744073709551615,\
             \"time\":1763683200123,\"user\":\"al\",\"data\":\"h\\u0001\\\"é\"}}"
        );
        publication.user = None;
        publication.payload = Payload::binary(vec![0, 255].into());
        assert!(text(&publication).ends_with("\"time\":1763683200123,\"b64\":\"AP8=\"}}"));
        let position = Position {
            epoch: Epoch::from_number(7),
            offset: Offset(3),
        };
        let joined = joined(&room, position, 2);
        let value: Value = serde_json::from_slice(&joined.bytes()[2..]).expect("JSON");
        assert_eq!(value["joined"]["epoch"], "7");
        assert_eq!(value["joined"]["online"], 2);
    }
}
