//! The raw room protocol of `/ws`: what the query asks for, and the JSON envelopes.
//!
//! Owns: the names of query parameters and of envelope members.
//! Never: decides who may do what (`auth`) or keeps anything.

use std::io::Write as _;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use super::api::client_name;
use super::centrifugo;
use super::centrifugo::push::{Sender, put_message, put_publication_push};
use super::frame::{Frames, FramesBuilder, Payload, PayloadKind};
use crate::base::{
    Compressed, ConnId, Epoch, Identity, NodeId, Offset, Position, RoomName, Since, UserId,
};

/// How a member receives publications. Each form in use is encoded once per publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireForm {
    /// A frame is exactly the published payload.
    Raw,
    /// A frame is one JSON envelope.
    Json,
    /// Like `Raw`, and large publications as gzip in a binary frame.
    RawGzip,
    /// Like `Json`, and the envelopes of large publications as gzip in a binary frame.
    JsonGzip,
    /// A frame is one push of the Centrifugo client protocol.
    Centrifugo,
}

impl WireForm {
    /// Every form.
    pub const ALL: [Self; 5] = [
        Self::Raw,
        Self::Json,
        Self::RawGzip,
        Self::JsonGzip,
        Self::Centrifugo,
    ];

    /// Number of forms.
    pub const COUNT: usize = Self::ALL.len();

    /// Whether what is not a publication is told in JSON envelopes.
    #[must_use]
    pub fn is_json(self) -> bool {
        matches!(self, Self::Json | Self::JsonGzip)
    }

    /// Whether a member can be told of skips.
    #[must_use]
    pub fn tells_skips(self) -> bool {
        !matches!(self, Self::Raw | Self::RawGzip)
    }

    /// The same form with compression.
    #[must_use]
    pub fn compressed(self) -> Self {
        match self {
            Self::Raw | Self::RawGzip => Self::RawGzip,
            Self::Json | Self::JsonGzip => Self::JsonGzip,
            Self::Centrifugo => Self::Centrifugo,
        }
    }

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
    /// From where it wants to receive, for each of `rooms`.
    pub since: Vec<Since>,
}

/// Why a query cannot be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueryError {
    /// A parameter is malformed or one is missing.
    Bad(&'static str),
    /// More rooms than one connection may have.
    TooManyRooms,
}

/// The connection token that a query carries.
#[must_use]
pub fn token_of(query: &str) -> Option<String> {
    form_urlencoded::parse(query.as_bytes())
        .find(|(name, _)| name == "token")
        .map(|(_, token)| token.into_owned())
}

/// Who a query says it is from, where no token is needed.
///
/// # Errors
/// When that is no user id.
pub fn user_of(query: &str) -> Result<Option<UserId>, QueryError> {
    form_urlencoded::parse(query.as_bytes())
        .find(|(name, _)| name == "user")
        .map(|(_, user)| user_id(&user))
        .transpose()
}

/// Reads the query of a request for `/ws`. Parameters that are not known are ignored, and so is
/// `user` if it is `known` already who asks.
///
/// # Errors
/// The first parameter that cannot be used.
pub fn parse_query(
    query: &str,
    rooms_max: usize,
    known: Option<UserId>,
) -> Result<RoomRequest, QueryError> {
    let mut rooms = Vec::new();
    let mut user = known.clone();
    let mut to = None;
    let mut form = WireForm::Raw;
    let mut echo = true;
    let mut is_compressed = false;
    let mut since_all = None;
    let mut since_of: Vec<(RoomName, Since)> = Vec::new();
    let mut last = None;
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
            "user" if known.is_some() => {}
            "user" => user = Some(user_id(&value)?),
            "to" => to = Some(RoomName::personal(&user_id(&value)?)),
            "format" => {
                form = match &*value {
                    "raw" => WireForm::Raw,
                    "json" => WireForm::Json,
                    _ => return Err(QueryError::Bad("format must be raw or json\n")),
                }
            }
            // The position holds no `@`, so the last one ends the room's name.
            "since" => match value.rsplit_once('@') {
                None => since_all = Some(since(&value)?),
                Some((room, position)) => {
                    let room = RoomName::new(room).map_err(|_| QueryError::Bad(BAD_SINCE))?;
                    if since_of.len() > rooms_max {
                        return Err(QueryError::TooManyRooms);
                    }
                    since_of.push((room, since(position)?));
                }
            },
            "last" => {
                let count = number(&value)
                    .ok_or(QueryError::Bad("last must be a number of publications\n"))?;
                last = Some(Since::Last(count));
            }
            "gzip" | "support_gzip" => {
                is_compressed = match &*value {
                    "0" => false,
                    "1" => true,
                    _ => return Err(QueryError::Bad("gzip must be 0 or 1\n")),
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
    if is_compressed {
        form = form.compressed();
    }
    let since = since_by_room(&rooms, since_all, since_of, last)?;
    Ok(RoomRequest {
        rooms,
        user,
        target,
        form,
        echo,
        since,
    })
}

/// Sorts what was asked for by room. A bare position can only mean one room; a time or a count
/// means each.
fn since_by_room(
    rooms: &[RoomName],
    all: Option<Since>,
    each: Vec<(RoomName, Since)>,
    last: Option<Since>,
) -> Result<Vec<Since>, QueryError> {
    let mut since = vec![last.unwrap_or(Since::Now); rooms.len()];
    match all {
        None => {}
        Some(Since::Position(_))
            if rooms.iter().filter(|room| !is_implied(room, rooms)).count() > 1 =>
        {
            return Err(QueryError::Bad(
                "since must name its room, as in since=R@E.O\n",
            ));
        }
        // The first is the room asked for; a personal room that merely comes along is last.
        Some(position @ Since::Position(_)) => since[0] = position,
        Some(time) => since.fill(time),
    }
    for (room, position) in each {
        let place = rooms.iter().position(|joined| *joined == room);
        let place = place.ok_or(QueryError::Bad("since names a room that is not joined\n"))?;
        since[place] = position;
    }
    Ok(since)
}

/// Whether a room merely comes along with the user's identity: the last of several.
fn is_implied(room: &RoomName, rooms: &[RoomName]) -> bool {
    rooms.len() > 1 && rooms.last() == Some(room) && room.as_str().starts_with('#')
}

/// `E.O` or a time.
fn since(value: &str) -> Result<Since, QueryError> {
    let parsed = match value.split_once('.') {
        None => number(value).map(Since::Time),
        Some((epoch, offset)) => match (Epoch::new(epoch), number(offset)) {
            (Some(epoch), Some(offset)) => {
                let offset = Offset(offset);
                Some(Since::Position(Position { epoch, offset }))
            }
            _ => None,
        },
    };
    parsed.ok_or(QueryError::Bad(BAD_SINCE))
}

/// A number in decimal digits and nothing else.
fn number(text: &str) -> Option<u64> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

const BAD_SINCE: &str = "since must be epoch.offset or milliseconds since 1970\n";

/// One publication as members see it.
#[derive(Clone, Copy, Debug)]
pub struct Publication<'a> {
    /// Its number in the room.
    pub offset: Offset,
    /// When it was numbered, in milliseconds since 1970.
    pub unix_ms: u64,
    /// The connection it came from.
    pub origin: ConnId,
    /// The node of that connection, in a cluster.
    pub node: Option<NodeId>,
    /// Who published it, if known.
    pub identity: Option<&'a Arc<Identity>>,
    /// The type of what was published.
    pub kind: PayloadKind,
    /// What was published.
    pub payload: &'a [u8],
}

impl Publication<'_> {
    /// Whether it came from a connection of `node`.
    #[must_use]
    pub fn is_from(&self, node: Option<NodeId>, conn: ConnId) -> bool {
        self.origin == conn && self.node == node
    }

    /// The client that it came from, as others are told; `None` if no client has published it.
    fn with_sender<T>(&self, then: impl FnOnce(Option<Sender<'_>>) -> T) -> T {
        if self.origin == ConnId::NONE {
            return then(None);
        }
        then(Some(Sender {
            client: &client_name(self.node, self.origin),
            identity: self.identity.map(|identity| &**identity),
        }))
    }
}

/// Appends a publication to `frames` in the form that members of `room` receive. Publications of at
/// least `gzip_bytes_min` bytes are compressed in the forms that say so. Returns what was.
pub fn put_publication(
    frames: &mut FramesBuilder,
    form: WireForm,
    room: &RoomName,
    publication: &Publication<'_>,
    gzip_bytes_min: usize,
) -> Compressed {
    put(frames, form, Some(room), publication, gzip_bytes_min)
}

/// The message to every connection, in one form: like a publication of no room, without a number.
/// Says, too, what was compressed.
#[must_use]
pub fn announcement(
    form: WireForm,
    unix_ms: u64,
    payload: &Payload,
    gzip_bytes_min: usize,
) -> (Arc<Frames>, Compressed) {
    let publication = Publication {
        offset: Offset(0),
        unix_ms,
        origin: ConnId::NONE,
        node: None,
        identity: None,
        kind: payload.kind(),
        payload: payload.bytes(),
    };
    let mut frames = FramesBuilder::default();
    let compressed = put(&mut frames, form, None, &publication, gzip_bytes_min);
    (frames.take(), compressed)
}

fn put(
    frames: &mut FramesBuilder,
    form: WireForm,
    room: Option<&RoomName>,
    publication: &Publication<'_>,
    gzip_bytes_min: usize,
) -> Compressed {
    let envelope;
    let (kind, plain) = match form {
        WireForm::Raw | WireForm::RawGzip => (publication.kind, publication.payload),
        WireForm::Json | WireForm::JsonGzip => {
            envelope = publication_envelope(room, publication);
            (PayloadKind::Text, &envelope[..])
        }
        WireForm::Centrifugo => {
            envelope = push(room, publication);
            (PayloadKind::Text, &envelope[..])
        }
    };
    let is_compressed = matches!(form, WireForm::RawGzip | WireForm::JsonGzip);
    if is_compressed && publication.payload.len() >= gzip_bytes_min {
        let small = gzip(plain);
        frames.push(PayloadKind::Binary, &small);
        return Compressed {
            publications: 1,
            from_bytes: plain.len() as u64,
            to_bytes: small.len() as u64,
        };
    }
    frames.push(kind, plain);
    Compressed::default()
}

/// A publication as a push of the Centrifugo client protocol; without a room it is a message.
fn push(room: Option<&RoomName>, publication: &Publication<'_>) -> Vec<u8> {
    let Publication { kind, payload, .. } = *publication;
    let mut out = Vec::new();
    match room {
        Some(room) => publication.with_sender(|sender| {
            put_publication_push(
                &mut out,
                room,
                kind,
                payload,
                Some(publication.offset),
                sender,
            );
        }),
        None => put_message(&mut out, kind, payload),
    }
    out
}

/// Appends a publication to what is answered to a command of the Centrifugo client protocol.
pub fn put_answered(out: &mut Vec<u8>, publication: &Publication<'_>) {
    let Publication { kind, payload, .. } = *publication;
    publication.with_sender(|sender| {
        centrifugo::push::put_publication(out, kind, payload, Some(publication.offset), sender);
    });
}

/// One gzip member (RFC 1952).
fn gzip(plain: &[u8]) -> Vec<u8> {
    let out = Vec::with_capacity(plain.len() / 2 + 64);
    let mut encoder = GzEncoder::new(out, Compression::fast());
    encoder
        .write_all(plain)
        .and_then(|()| encoder.finish())
        .expect("compressing into a vector cannot fail")
}

/// The JSON envelope of a publication; without a room it has no number either.
fn publication_envelope(room: Option<&RoomName>, publication: &Publication<'_>) -> Vec<u8> {
    let payload = publication.payload;
    let mut out = Vec::with_capacity(payload.len() + 128);
    out.extend_from_slice(br#"{"publication":{"#);
    if let Some(room) = room {
        out.extend_from_slice(br#""room":"#);
        put_string(&mut out, room.as_str());
        out.extend_from_slice(br#","offset":"#);
        put_number(&mut out, publication.offset.0);
        out.push(b',');
    }
    out.extend_from_slice(br#""time":"#);
    put_number(&mut out, publication.unix_ms);
    if let Some(identity) = publication.identity {
        out.extend_from_slice(br#","user":"#);
        put_string(&mut out, identity.user.as_str());
    }
    let text = std::str::from_utf8(payload).ok();
    match (publication.kind, text) {
        (PayloadKind::Text, Some(text)) => {
            out.extend_from_slice(br#","data":"#);
            put_string(&mut out, text);
        }
        (PayloadKind::Json, Some(text)) => {
            out.extend_from_slice(br#","data":"#);
            out.extend_from_slice(text.as_bytes());
        }
        _ => {
            out.extend_from_slice(br#","b64":""#);
            out.extend_from_slice(BASE64.encode(payload).as_bytes());
            out.push(b'"');
        }
    }
    out.extend_from_slice(b"}}");
    out
}

/// Tells a member that it has joined: the first envelope of its room. `lost` is how many
/// publications are missing between where it wanted to begin and what follows; `None` when that
/// cannot be known.
#[must_use]
pub fn joined(
    room: &RoomName,
    position: Position,
    lost: Option<u64>,
    online: usize,
) -> Arc<Frames> {
    envelope(&json!({ "joined": {
        "room": room.as_str(),
        "epoch": position.epoch.as_str(),
        "offset": position.offset.0,
        "recovered": lost == Some(0),
        "lost": lost.map_or_else(|| json!(-1), |lost| json!(lost)),
        "online": online,
    }}))
}

/// Tells the json members of a room that so many publications are lost.
#[must_use]
pub fn lost(room: &RoomName, count: u64) -> Arc<Frames> {
    envelope(&json!({ "skipped": { "room": room.as_str(), "count": count } }))
}

/// Tells a member of a lossy room how many publications it missed, if that can be told in its form.
#[must_use]
pub fn skipped(form: WireForm, room: &RoomName, count: u64) -> Option<Arc<Frames>> {
    match form {
        WireForm::Raw | WireForm::RawGzip => None,
        WireForm::Json | WireForm::JsonGzip => Some(lost(room, count)),
        WireForm::Centrifugo => {
            let mut told = Vec::new();
            centrifugo::push::put_skipped(&mut told, room, count);
            Some(Frames::message(PayloadKind::Text, &told))
        }
    }
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

/// The last envelope of a json connection, before its close frame; `retry_ms` is how long the client
/// is asked to stay away, if it is.
#[must_use]
pub fn closing(code: u16, reason: &str, retry_ms: Option<u64>) -> Arc<Frames> {
    let mut closing = json!({ "code": code, "reason": reason });
    if let Some(retry_ms) = retry_ms {
        closing["retry_ms"] = retry_ms.into();
    }
    envelope(&json!({ "closing": closing }))
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
            None,
        )
        .expect("a good query");
        assert_eq!(names(&all), ["live:7", "b c", "#al"]);
        assert_eq!(all.target.as_ref().map(RoomName::as_str), Some("live:7"));
        assert_eq!((all.form, all.echo), (WireForm::Json, false));
        let direct = parse_query("user=al&to=bo&unknown=1", 2, None).expect("a good query");
        assert_eq!(names(&direct), ["#al"]);
        assert_eq!(direct.target.as_ref().map(RoomName::as_str), Some("#bo"));
        let receiver = parse_query("user=al", 2, None).expect("a good query");
        assert_eq!(receiver.target, None);
        let own = parse_query("room=%23al&user=al", 2, None).expect("a good query");
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
                matches!(parse_query(query, 2, None), Err(QueryError::Bad(_))),
                "{query}"
            );
        }
        let long = format!("room={}", "r".repeat(256));
        assert!(matches!(
            parse_query(&long, 2, None),
            Err(QueryError::Bad(_))
        ));
        assert_eq!(
            parse_query("room=a&room=b&room=c", 2, None),
            Err(QueryError::TooManyRooms)
        );
    }

    #[test]
    fn positions_find_their_rooms() {
        let position = |epoch: &str, offset| {
            let epoch = Epoch::new(epoch).expect("a good epoch");
            Since::Position(Position {
                epoch,
                offset: Offset(offset),
            })
        };
        for (query, since) in [
            ("room=a", vec![Since::Now]),
            ("room=a&since=k3.7", vec![position("k3", 7)]),
            (
                "room=a&user=u&since=k3.7",
                vec![position("k3", 7), Since::Now],
            ),
            ("user=u&since=k3.7", vec![position("k3", 7)]),
            (
                "room=a&room=b&since=5",
                vec![Since::Time(5), Since::Time(5)],
            ),
            ("room=a&room=b&last=3", vec![Since::Last(3), Since::Last(3)]),
            (
                "room=a%40x&room=b&since=b@e.18446744073709551615&last=1",
                vec![Since::Last(1), position("e", u64::MAX)],
            ),
            (
                "room=a%40x&room=b&since=a%40x@e.4294967297",
                vec![position("e", 4_294_967_297), Since::Now],
            ),
            (
                "user=u&room=b&since=%23u@9",
                vec![Since::Now, Since::Time(9)],
            ),
        ] {
            let request = parse_query(query, 5, None).expect(query);
            assert_eq!(request.since, since, "{query}");
        }
        for query in [
            "room=a&since=",
            "room=a&since=-1",
            "room=a&since=+1",
            "room=a&since=k3.",
            "room=a&since=.7",
            "room=a&since=k3.-7",
            "room=a&since=k3.7.8",
            "room=a&since=k_3.7",
            "room=a&since=abcdefghijklmnopq.7",
            "room=a&since=k3.18446744073709551616",
            "room=a&since=b@k3.7",
            "room=a&since=@k3.7",
            "room=a&room=b&since=k3.7",
            "room=a&last=x",
            "room=a&last=-1",
        ] {
            assert!(
                matches!(parse_query(query, 5, None), Err(QueryError::Bad(_))),
                "{query}"
            );
        }
    }

    #[test]
    fn large_publications_are_compressed_for_those_who_asked() {
        use std::io::Read as _;

        let room = RoomName::new("r").expect("a good name");
        let text = "danmaku ".repeat(100);
        for (form, len, is_gzip) in [
            (WireForm::Raw, 800, false),
            (WireForm::RawGzip, 255, false),
            (WireForm::RawGzip, 256, true),
            (WireForm::JsonGzip, 255, false),
            (WireForm::JsonGzip, 800, true),
        ] {
            let publication = Publication {
                offset: Offset(1),
                unix_ms: 2,
                origin: ConnId::NONE,
                node: None,
                identity: None,
                kind: PayloadKind::Text,
                payload: &text.as_bytes()[..len],
            };
            let mut frames = FramesBuilder::default();
            let compressed = put_publication(&mut frames, form, &room, &publication, 256);
            assert_eq!(compressed.publications, u64::from(is_gzip));
            assert_eq!(compressed.from_bytes >= 256, is_gzip);
            assert_eq!(compressed.to_bytes > 0, is_gzip);
            assert!(compressed.to_bytes <= compressed.from_bytes);
            let frames = frames.take();
            assert_eq!(
                frames.bytes()[0],
                if is_gzip { 0x82 } else { 0x81 },
                "{form:?} {len}"
            );
            if is_gzip {
                let start = frames
                    .bytes()
                    .windows(2)
                    .position(|two| two == [0x1f, 0x8b]);
                let mut plain = String::new();
                flate2::read::GzDecoder::new(&frames.bytes()[start.expect("gzip")..])
                    .read_to_string(&mut plain)
                    .expect("a whole member");
                assert!(plain.contains(&text[..len]));
                assert_eq!(plain.starts_with('{'), form.is_json());
            }
        }
        let request = parse_query("room=a&gzip=1", 1, None).expect("a good query");
        assert_eq!(request.form, WireForm::RawGzip);
        let request =
            parse_query("room=a&support_gzip=1&format=json", 1, None).expect("a good query");
        assert_eq!(request.form, WireForm::JsonGzip);
    }

    #[test]
    fn envelopes_have_the_documented_form() {
        let room = RoomName::new("li\"ve").expect("a good name");
        let identity = Arc::new(Identity {
            user: UserId::new("al").expect("a good id"),
            info: None,
        });
        let mut publication = Publication {
            offset: Offset(u64::MAX),
            unix_ms: 1_763_683_200_123,
            origin: ConnId::NONE,
            node: None,
            identity: Some(&identity),
            kind: PayloadKind::Text,
            payload: "h\u{1}\"é".as_bytes(),
        };
        let text = |publication: &Publication<'_>| {
            String::from_utf8(publication_envelope(Some(&room), publication))
                .expect("JSON is UTF-8")
        };
        assert_eq!(
            text(&publication),
            "{\"publication\":{\"room\":\"li\\\"ve\",\"offset\":18446744073709551615,\
             \"time\":1763683200123,\"user\":\"al\",\"data\":\"h\\u0001\\\"é\"}}"
        );
        publication.identity = None;
        publication.payload = b"{\"a\":1}";
        publication.kind = PayloadKind::Json;
        assert!(text(&publication).ends_with(",\"data\":{\"a\":1}}}"));
        publication.payload = &[0, 255];
        publication.kind = PayloadKind::Binary;
        assert!(text(&publication).ends_with("\"time\":1763683200123,\"b64\":\"AP8=\"}}"));
        let payload = Payload::text("hi".into());
        let (frames, _) = announcement(WireForm::Json, 5, &payload, 0);
        assert_eq!(
            &frames.bytes()[2..],
            br#"{"publication":{"time":5,"data":"hi"}}"#
        );
        let (frames, _) = announcement(WireForm::RawGzip, 5, &payload, 3);
        assert_eq!(frames.bytes(), b"\x81\x02hi");
        let position = Position {
            epoch: Epoch::from_number(7),
            offset: Offset(3),
        };
        let joined = joined(&room, position, None, 2);
        let value: Value = serde_json::from_slice(&joined.bytes()[2..]).expect("JSON");
        assert_eq!(value["joined"]["epoch"], "7");
        assert_eq!(value["joined"]["online"], 2);
        assert_eq!(value["joined"]["recovered"], false);
        assert_eq!(value["joined"]["lost"], -1);
    }
}
