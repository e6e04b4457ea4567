//! Answers of the API: what hub and shards found out, written as JSON.
//!
//! Owns: the names and the order of members. Every number is written in full; readers that turn
//! numbers into doubles, as JavaScript does, see offsets exactly up to 2^53.
//! Never: leaves out or sorts anything; rows come in the order they are given.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};

use super::{ApiCode, ApiMethod, PAGE_BYTES_MAX};
use crate::base::{Identity, Position, RoomName, UserId};
use crate::wire::frame::PayloadKind;
use crate::wire::raw::{self, Publication};

/// What a call came to.
pub type ApiReply = Result<ApiResult, ApiCode>;

/// What a call that succeeded found out.
#[derive(Clone, Debug, PartialEq)]
pub enum ApiResult {
    /// Nothing: it is done. For `publish_all`, `disconnect`, `unsubscribe` and `history_remove`.
    Done,
    /// Where a publication is in its room.
    Published(Position),
    /// One response for each channel of a broadcast, in request order.
    Broadcast(Vec<Result<Position, ApiCode>>),
    /// Who is in a room, each client once.
    Presence(Page),
    /// How many are in a room.
    PresenceStats {
        /// Connections.
        clients: usize,
        /// Different users among them.
        users: usize,
    },
    /// The same, between nodes: who is counted on two of them must count once.
    PresenceUsers {
        /// Connections.
        clients: usize,
        /// The id of each user, once.
        users: Page,
    },
    /// What was published in a room.
    History {
        /// The publications, in the direction asked for.
        publications: Page,
        /// The position of the newest publication of the room, not of the page; `None` for a room
        /// that does not exist.
        top: Option<Position>,
    },
    /// Rooms and how many connections are in each, every room once.
    Channels(Page),
    /// Connections.
    Connections(Page),
    /// Nodes.
    Info(Page),
}

/// Items of a list or a map in an answer, written as they are pushed: whoever owns what they are
/// made of lends it and copies nothing. All items of a page are of one kind.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// The items, without the brackets.
    json: Vec<u8>,
    len: usize,
}

impl Page {
    /// Appends a publication of a room's history.
    pub fn push_publication(&mut self, publication: &Publication<'_>) {
        let mut object = Object::open(self.next());
        let payload = publication.payload;
        match (publication.kind, std::str::from_utf8(payload)) {
            (PayloadKind::Json, Ok(text)) => put_json(object.key("data"), text),
            (PayloadKind::Text, Ok(text)) => object.member("data", text),
            _ => {
                // Readers of Centrifugo's answers expect `data` in every publication.
                put_json(object.key("data"), "null");
                object.member("b64data", &BASE64.encode(payload));
            }
        }
        object.member("offset", &publication.offset.0);
        object.member("time", &publication.unix_ms);
        if let Some(identity) = publication.identity {
            // Which client it was is nobody's business any more: it may long be gone.
            put_client(object.key("info"), Some(identity), "");
        }
        object.close();
    }

    /// Appends a publication of a room's history as clients are given it.
    pub fn push_answered(&mut self, publication: &Publication<'_>) {
        raw::put_answered(self.next(), publication);
    }

    /// Appends a client that is in a room.
    pub fn push_client(&mut self, client: &str, identity: Option<&Identity>) {
        let out = self.next();
        put(out, client);
        out.push(b':');
        put_client(out, identity, client);
    }

    /// Appends the id of a user.
    pub fn push_user(&mut self, user: &UserId) {
        put(self.next(), user.as_str());
    }

    /// Appends a room with its number of clients.
    pub fn push_channel(&mut self, name: &RoomName, clients: usize) {
        let out = self.next();
        put(out, name.as_str());
        out.push(b':');
        let mut row = Object::open(out);
        row.member("num_clients", &clients);
        row.close();
    }

    /// Appends a connection.
    pub fn push_connection(&mut self, row: &ConnectionRow) {
        put_connection(self.next(), row);
    }

    /// Appends a node.
    pub fn push_node(&mut self, row: &NodeRow) {
        put_node(self.next(), row);
    }

    /// Adds up rooms of this page with those of another; both are pages of rooms.
    pub fn add_channels(&mut self, other: &Self) {
        let rooms = |page: &Self| {
            let text = [b"{", &page.json[..], b"}"].concat();
            serde_json::from_slice::<BTreeMap<String, ChannelRow>>(&text).unwrap_or_default()
        };
        let mut sum = rooms(self);
        for (name, row) in rooms(other) {
            let clients = &mut sum.entry(name).or_default().num_clients;
            // Other nodes may say anything.
            *clients = clients.saturating_add(row.num_clients);
        }
        let mut page = Self::default();
        for (name, row) in sum {
            let out = page.next();
            put(out, &name);
            out.push(b':');
            put(out, &row);
        }
        *self = page;
    }

    /// The items as JSON, without the brackets.
    #[must_use]
    pub fn items(&self) -> &[u8] {
        &self.json
    }

    /// A page of `len` items, written as JSON without the brackets.
    #[must_use]
    pub fn of_items(json: Vec<u8>, len: usize) -> Self {
        Self { json, len }
    }

    /// Appends the items of another page.
    pub fn append(&mut self, other: &Self) {
        if other.len > 0 {
            let len = self.len + other.len;
            self.next().extend_from_slice(&other.json);
            self.len = len;
        }
    }

    /// Bytes that the items take in the answer.
    #[must_use]
    pub fn bytes_len(&self) -> usize {
        self.json.len()
    }

    /// Whether it has grown over [`PAGE_BYTES_MAX`]: then no more must be pushed.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.json.len() >= PAGE_BYTES_MAX
    }

    /// Number of items.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing was pushed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where the next item is to be written.
    fn next(&mut self) -> &mut Vec<u8> {
        if self.len > 0 {
            self.json.push(b',');
        }
        self.len += 1;
        &mut self.json
    }
}

/// A room in a list.
#[derive(Debug, Default, Serialize, Deserialize)]
struct ChannelRow {
    num_clients: u64,
}

/// A connection.
#[derive(Clone, Debug, PartialEq)]
pub struct ConnectionRow {
    /// Its client id.
    pub client: Box<str>,
    /// The address it comes from.
    pub peer: Box<str>,
    /// Who it is, if known.
    pub user: Option<UserId>,
    /// The rooms it is in.
    pub rooms: Vec<RoomName>,
    /// How long it has been there, in milliseconds.
    pub age_ms: u64,
    /// Publications queued for it.
    pub queued: usize,
    /// Bytes queued for it.
    pub queued_bytes: usize,
    /// What its queue weighs when memory is short, in bytes; for operators, not in answers.
    pub queue_weight: usize,
    /// Publications delivered to it.
    pub sent: u64,
    /// Publications it was too slow for.
    pub skipped: u64,
}

/// A node and its figures.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeRow {
    /// Different for every start of a daemon.
    pub uid: Box<str>,
    /// What the operator calls it.
    pub name: Box<str>,
    /// The version of the daemon.
    pub version: Box<str>,
    /// Connections.
    pub clients: usize,
    /// Different users among them.
    pub users: usize,
    /// Rooms.
    pub channels: usize,
    /// Memberships.
    pub subscriptions: usize,
    /// Seconds since the daemon started.
    pub uptime_secs: u64,
    /// Share of one core used lately, in per cent.
    pub cpu_percent: f64,
    /// Memory of the process, in bytes.
    pub rss_bytes: u64,
}

impl ApiResult {
    /// Bytes of the page in it, if it has one.
    #[must_use]
    pub fn page_bytes(&self) -> usize {
        match self {
            Self::Presence(page)
            | Self::Channels(page)
            | Self::Connections(page)
            | Self::Info(page)
            | Self::PresenceUsers { users: page, .. }
            | Self::History {
                publications: page, ..
            } => page.bytes_len(),
            _ => 0,
        }
    }
}

/// Writes the answer to a call that is not a batch, or the error of one that is:
/// `{"result":{…}}` or `{"error":{…}}`.
#[must_use]
pub fn answer(reply: &ApiReply) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    put_reply(&mut out, "result", reply);
    out
}

/// Writes the answer to a batch: `{"replies":[…]}`, without `result` around it. Each reply goes
/// with the method it is of; for an error it does not matter which, so a command that could not be
/// read may give any.
#[must_use]
pub fn batch_answer(replies: &[(ApiMethod, ApiReply)]) -> Vec<u8> {
    let mut out = Vec::with_capacity(64 * replies.len());
    let mut answer = Object::open(&mut out);
    put_list(answer.key("replies"), replies, |out, (method, reply)| {
        put_reply(out, method.name(), reply);
    });
    answer.close();
    out
}

fn put_reply(out: &mut Vec<u8>, name: &str, reply: &ApiReply) {
    let mut object = Object::open(out);
    match reply {
        Ok(result) => put_result(object.key(name), result),
        Err(code) => put_error(object.key("error"), *code),
    }
    object.close();
}

fn put_error(out: &mut Vec<u8>, code: ApiCode) {
    let mut object = Object::open(out);
    object.member("code", &code.number());
    object.member("message", code.message());
    object.close();
}

pub(in crate::wire) fn put_result(out: &mut Vec<u8>, result: &ApiResult) {
    let mut object = Object::open(out);
    match result {
        ApiResult::Done => {}
        ApiResult::Published(position) => put_position(&mut object, *position),
        ApiResult::Broadcast(responses) => {
            put_list(object.key("responses"), responses, put_response);
        }
        ApiResult::Presence(clients) => put_page(object.key("presence"), b"{}", clients),
        ApiResult::PresenceStats { clients, users } => {
            object.member("num_clients", clients);
            object.member("num_users", users);
        }
        ApiResult::PresenceUsers { clients, users } => {
            object.member("num_clients", clients);
            object.member("num_users", &users.len());
        }
        ApiResult::History { publications, top } => {
            put_page(object.key("publications"), b"[]", publications);
            match top {
                Some(top) => put_position(&mut object, *top),
                None => {
                    object.member("offset", &0);
                    object.member("epoch", "");
                }
            }
        }
        ApiResult::Channels(rooms) => put_page(object.key("channels"), b"{}", rooms),
        ApiResult::Connections(rows) => put_page(object.key("connections"), b"[]", rows),
        ApiResult::Info(rows) => put_page(object.key("nodes"), b"[]", rows),
    }
    object.close();
}

fn put_response(out: &mut Vec<u8>, response: &Result<Position, ApiCode>) {
    let mut object = Object::open(out);
    match response {
        Ok(position) => {
            let mut result = Object::open(object.key("result"));
            put_position(&mut result, *position);
            result.close();
        }
        Err(code) => put_error(object.key("error"), *code),
    }
    object.close();
}

fn put_position(object: &mut Object<'_>, position: Position) {
    object.member("offset", &position.offset.0);
    object.member("epoch", position.epoch.as_str());
}

fn put_page(out: &mut Vec<u8>, [open, close]: &[u8; 2], page: &Page) {
    out.push(*open);
    out.extend_from_slice(&page.json);
    out.push(*close);
}

/// Centrifugo's `ClientInfo`, whose user and client are always there.
fn put_client(out: &mut Vec<u8>, identity: Option<&Identity>, client: &str) {
    let mut object = Object::open(out);
    object.member("user", identity.map_or("", |one| one.user.as_str()));
    object.member("client", client);
    if let Some(info) = identity.and_then(|one| one.info.as_deref()) {
        put_json(object.key("conn_info"), info);
    }
    object.close();
}

fn put_connection(out: &mut Vec<u8>, row: &ConnectionRow) {
    let mut object = Object::open(out);
    object.member("id", &row.client);
    object.member("peer", &row.peer);
    object.member("user", row.user.as_ref().map_or("", UserId::as_str));
    put_list(object.key("rooms"), &row.rooms, |out, room| {
        put(out, room.as_str());
    });
    object.member("age_ms", &row.age_ms);
    object.member("queued", &row.queued);
    object.member("queued_bytes", &row.queued_bytes);
    object.member("sent", &row.sent);
    object.member("skipped", &row.skipped);
    object.close();
}

fn put_node(out: &mut Vec<u8>, row: &NodeRow) {
    let mut object = Object::open(out);
    object.member("uid", &row.uid);
    object.member("name", &row.name);
    object.member("version", &row.version);
    object.member("num_clients", &row.clients);
    object.member("num_users", &row.users);
    object.member("num_channels", &row.channels);
    object.member("num_subs", &row.subscriptions);
    object.member("uptime", &row.uptime_secs);
    let mut process = Object::open(object.key("process"));
    process.member("cpu", &row.cpu_percent);
    process.member("rss", &row.rss_bytes);
    process.close();
    object.close();
}

/// An object on its way out.
pub(in crate::wire) struct Object<'a> {
    out: &'a mut Vec<u8>,
    is_empty: bool,
}

impl<'a> Object<'a> {
    pub(in crate::wire) fn open(out: &'a mut Vec<u8>) -> Self {
        out.push(b'{');
        Self {
            out,
            is_empty: true,
        }
    }

    pub(in crate::wire) fn member<T: Serialize + ?Sized>(&mut self, name: &str, value: &T) {
        put(self.key(name), value);
    }

    /// Writes the name of a member; its value is to be written next.
    pub(in crate::wire) fn key(&mut self, name: &str) -> &mut Vec<u8> {
        if !self.is_empty {
            self.out.push(b',');
        }
        self.is_empty = false;
        put(self.out, name);
        self.out.push(b':');
        self.out
    }

    pub(in crate::wire) fn close(self) {
        self.out.push(b'}');
    }
}

fn put_list<T>(out: &mut Vec<u8>, items: &[T], put_item: impl Fn(&mut Vec<u8>, &T)) {
    out.push(b'[');
    for (place, item) in items.iter().enumerate() {
        if place > 0 {
            out.push(b',');
        }
        put_item(out, item);
    }
    out.push(b']');
}

/// Writes the text of a JSON value that was checked when it came in.
fn put_json(out: &mut Vec<u8>, text: &str) {
    debug_assert!(
        serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok(),
        "only JSON may be put into JSON as it stands"
    );
    out.extend_from_slice(text.as_bytes());
}

pub(in crate::wire) fn put<T: Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(out, value)
        .expect("writing a string or a number into a vector cannot fail");
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::base::ConnId;
    use crate::base::{Epoch, Offset};

    fn check(reply: &ApiReply, expected: &str) {
        let found = String::from_utf8(answer(reply)).expect("JSON is UTF-8");
        serde_json::from_str::<serde::de::IgnoredAny>(&found).expect("JSON");
        assert_eq!(found, expected);
    }

    fn at(offset: u64) -> Position {
        Position {
            epoch: Epoch::from_number(7),
            offset: Offset(offset),
        }
    }

    fn room(name: &str) -> RoomName {
        RoomName::new(name).expect("a good name")
    }

    #[test]
    fn results_and_errors_have_centrifugos_form() {
        check(&Ok(ApiResult::Done), r#"{"result":{}}"#);
        check(
            &Err(ApiCode::BadRequest),
            r#"{"error":{"code":107,"message":"bad request"}}"#,
        );
        check(
            &Ok(ApiResult::Published(at(u64::MAX))),
            r#"{"result":{"offset":18446744073709551615,"epoch":"7"}}"#,
        );
        check(
            &Ok(ApiResult::Broadcast(vec![
                Ok(at(1)),
                Err(ApiCode::Internal),
                Ok(at(2)),
            ])),
            r#"{"result":{"responses":[{"result":{"offset":1,"epoch":"7"}},{"error":{"code":100,"message":"internal server error"}},{"result":{"offset":2,"epoch":"7"}}]}}"#,
        );
        check(
            &Ok(ApiResult::PresenceStats {
                clients: 3,
                users: 2,
            }),
            r#"{"result":{"num_clients":3,"num_users":2}}"#,
        );
    }

    #[test]
    fn empty_lists_and_maps_are_there() {
        check(
            &Ok(ApiResult::Presence(Page::default())),
            r#"{"result":{"presence":{}}}"#,
        );
        check(
            &Ok(ApiResult::History {
                publications: Page::default(),
                top: None,
            }),
            r#"{"result":{"publications":[],"offset":0,"epoch":""}}"#,
        );
        check(
            &Ok(ApiResult::Channels(Page::default())),
            r#"{"result":{"channels":{}}}"#,
        );
        check(
            &Ok(ApiResult::Connections(Page::default())),
            r#"{"result":{"connections":[]}}"#,
        );
        check(
            &Ok(ApiResult::Info(Page::default())),
            r#"{"result":{"nodes":[]}}"#,
        );
    }

    #[test]
    fn rows_have_the_documented_members() {
        let identity = |user, info: Option<&str>| {
            Some(Arc::new(Identity {
                user: UserId::new(user).expect("a good id"),
                info: info.map(Into::into),
            }))
        };
        let al = identity("a\"l", Some(r#"{"z":1.10}"#));
        let mut clients = Page::default();
        let client = |slot| ConnId {
            slot,
            generation: 1,
        };
        clients.push_client(&client(5).to_string(), al.as_deref());
        clients.push_client(&client(6).to_string(), None);
        check(
            &Ok(ApiResult::Presence(clients)),
            r#"{"result":{"presence":{"5.1":{"user":"a\"l","client":"5.1","conn_info":{"z":1.10}},"6.1":{"user":"","client":"6.1"}}}}"#,
        );
        let mut publications = Page::default();
        assert!(publications.is_empty());
        for (offset, identity, kind, payload) in [
            (1, identity("al", None), PayloadKind::Text, &b"h\"i"[..]),
            (2, None, PayloadKind::Json, b"{\"b\":1e999}"),
            (3, None, PayloadKind::Binary, &[0, 255]),
        ] {
            publications.push_publication(&Publication {
                offset: Offset(offset),
                unix_ms: 1_763_683_200_123,
                origin: ConnId::NONE,
                node: None,
                identity: identity.as_ref(),
                kind,
                payload,
            });
        }
        assert_eq!(publications.len(), 3);
        check(
            &Ok(ApiResult::History {
                publications,
                top: Some(at(3)),
            }),
            r#"{"result":{"publications":[{"data":"h\"i","offset":1,"time":1763683200123,"info":{"user":"al","client":""}},{"data":{"b":1e999},"offset":2,"time":1763683200123},{"data":null,"b64data":"AP8=","offset":3,"time":1763683200123}],"offset":3,"epoch":"7"}}"#,
        );
        let mut channels = Page::default();
        channels.push_channel(&room("z\\"), 3);
        let mut more = Page::default();
        more.append(&Page::default());
        more.push_channel(&room("a"), 0);
        channels.append(&more);
        assert_eq!(channels.len(), 2);
        check(
            &Ok(ApiResult::Channels(channels)),
            r#"{"result":{"channels":{"z\\":{"num_clients":3},"a":{"num_clients":0}}}}"#,
        );
        let mut connections = Page::default();
        connections.push_connection(&ConnectionRow {
            client: "5.1".into(),
            peer: "127.0.0.1:5555".into(),
            user: None,
            rooms: vec![room("a"), room("#b")],
            age_ms: 12,
            queued: 1,
            queued_bytes: 20,
            queue_weight: 0,
            sent: 3,
            skipped: 4,
        });
        check(
            &Ok(ApiResult::Connections(connections)),
            r##"{"result":{"connections":[{"id":"5.1","peer":"127.0.0.1:5555","user":"","rooms":["a","#b"],"age_ms":12,"queued":1,"queued_bytes":20,"sent":3,"skipped":4}]}}"##,
        );
        let mut nodes = Page::default();
        nodes.push_node(&NodeRow {
            uid: "u".into(),
            name: "n".into(),
            version: "0.1.0".into(),
            clients: 1,
            users: 2,
            channels: 3,
            subscriptions: 4,
            uptime_secs: 5,
            cpu_percent: 1.5,
            rss_bytes: 6,
        });
        check(
            &Ok(ApiResult::Info(nodes)),
            r#"{"result":{"nodes":[{"uid":"u","name":"n","version":"0.1.0","num_clients":1,"num_users":2,"num_channels":3,"num_subs":4,"uptime":5,"process":{"cpu":1.5,"rss":6}}]}}"#,
        );
    }

    #[test]
    fn a_batch_is_answered_without_a_result_around_it() {
        let replies = [
            (ApiMethod::Publish, Ok(ApiResult::Published(at(1)))),
            (ApiMethod::Batch, Err(ApiCode::MethodNotFound)),
            (ApiMethod::PublishAll, Ok(ApiResult::Done)),
        ];
        assert_eq!(
            String::from_utf8(batch_answer(&replies)).expect("JSON is UTF-8"),
            r#"{"replies":[{"publish":{"offset":1,"epoch":"7"}},{"error":{"code":104,"message":"method not found"}},{"publish_all":{}}]}"#
        );
        assert_eq!(batch_answer(&[]), br#"{"replies":[]}"#);
    }
}
