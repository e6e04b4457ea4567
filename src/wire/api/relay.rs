//! Calls as one node passes them to the others, and what those answer.
//!
//! A notice is JSON, in the words of the API itself: `{"ask":7,"method":"presence","params":{…}}`.
//! Without `ask` it is to be carried out by every node, and nobody waits for an answer. An answer is
//! a number, a kind, and counts or what a [`Page`] holds. It is read, with all that is wrong in it,
//! before it is merged; [`merge`] keeps the bounds that the answer of one node keeps.

use std::collections::HashSet;
use std::fmt;

use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::answer::{ApiReply, ApiResult, Page};
use super::{
    ApiCall, ApiCode, CONNECTIONS_LIMIT_MAX, ConnectionsOf, PAGE_BYTES_MAX, Refresh, Target,
};
use crate::wire::frame::{Payload, PayloadKind};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

/// What a node tells all others.
#[derive(Clone, Debug, PartialEq)]
pub enum Notice {
    /// Every node is to carry this out, and nobody waits for it.
    Order(ApiCall),
    /// Every other node is to answer.
    Question {
        /// Names the question, to the node that asks.
        number: u64,
        /// What is asked.
        call: ApiCall,
    },
}

impl Notice {
    /// Reads one; `None` for what is none, or is of a newer version.
    #[must_use]
    pub fn decode(text: &[u8]) -> Option<Self> {
        let Written {
            ask,
            method,
            params,
        } = serde_json::from_slice(text).ok()?;
        let call = ApiCall::parse(method, params.get().as_bytes(), usize::MAX).ok()?;
        match ask {
            None if params_of_order(&call).is_some() => Some(Self::Order(call)),
            Some(number) if params_of_question(&call).is_some() => {
                Some(Self::Question { number, call })
            }
            _ => None,
        }
    }
}

/// A notice as it is written. What is published must come through as it is.
#[derive(Deserialize)]
struct Written<'a> {
    #[serde(default)]
    ask: Option<u64>,
    method: &'a str,
    #[serde(borrow)]
    params: &'a RawValue,
}

/// The notice of a call that every node carries out; `None` for any other call.
#[must_use]
pub fn order(call: &ApiCall) -> Option<Payload> {
    let params = params_of_order(call)?;
    let method = call.method().name();
    let text = format!("{{\"method\":\"{method}\",\"params\":{params}}}");
    Some(Payload::from(text))
}

/// What the other nodes are asked for a call in whose answer each has a part.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    method: &'static str,
    params: String,
}

impl Question {
    /// That of this call; `None` if the other nodes have no part in it.
    #[must_use]
    pub fn of(call: &ApiCall) -> Option<Self> {
        let params = params_of_question(call)?;
        let method = call.method().name();
        Some(Self { method, params })
    }

    /// The notice that asks it, as question `number`.
    #[must_use]
    pub fn numbered(&self, number: u64) -> Payload {
        let Self { method, params } = self;
        let text = format!("{{\"ask\":{number},\"method\":\"{method}\",\"params\":{params}}}");
        Payload::from(text)
    }
}

fn params_of_question(call: &ApiCall) -> Option<String> {
    let params = match call {
        ApiCall::Presence { channel } | ApiCall::PresenceStats { channel } => {
            json!({ "channel": channel.as_str() })
        }
        ApiCall::Channels { pattern } => json!({ "pattern": pattern.as_str() }),
        ApiCall::Connections { of, limit } => match of {
            ConnectionsOf::Channel(room) => json!({ "channel": room.as_str(), "limit": limit }),
            ConnectionsOf::User(user) => json!({ "user": user.as_str(), "limit": limit }),
        },
        ApiCall::Info => json!({}),
        _ => return None,
    };
    Some(params.to_string())
}

fn params_of_order(call: &ApiCall) -> Option<String> {
    let params = match call {
        ApiCall::PublishAll { payload } => return Some(content_of(payload)),
        ApiCall::Disconnect {
            target,
            whitelist,
            code,
            reason,
        } => {
            let mut params = target_of(target);
            params["whitelist"] = json!(whitelist);
            params["disconnect"] = json!({ "code": code, "reason": reason });
            params
        }
        ApiCall::Unsubscribe { channel, target } => {
            let mut params = target_of(target);
            params["channel"] = json!(channel.as_str());
            params
        }
        ApiCall::Subscribe {
            channel,
            target,
            subscribe,
        } => {
            let mut params = target_of(target);
            params["channel"] = json!(channel.as_str());
            params["expire_at"] = json!(subscribe.expires_unix_s.unwrap_or(0));
            if let Some(since) = &subscribe.since {
                let epoch = since.epoch.as_deref().unwrap_or_default();
                params["recover_since"] = json!({ "offset": since.offset.0, "epoch": epoch });
            }
            let mut params = params.to_string();
            if let Some(data) = &subscribe.data {
                // As it was written, digits and all.
                params.pop();
                params.push_str(",\"data\":");
                params.push_str(data);
                params.push('}');
            }
            return Some(params);
        }
        ApiCall::Refresh { target, refresh } => {
            let mut params = target_of(target);
            match refresh {
                Refresh::Expired => params["expired"] = json!(true),
                Refresh::Until(unix_s) => params["expire_at"] = json!(unix_s.unwrap_or(0)),
            }
            params
        }
        _ => return None,
    };
    Some(params.to_string())
}

fn target_of(target: &Target) -> Value {
    match target {
        Target::User(user) => json!({ "user": user.as_str() }),
        Target::Client(client) => json!({ "client": client }),
        Target::ClientOf(user, client) => json!({ "user": user.as_str(), "client": client }),
    }
}

fn content_of(payload: &Payload) -> String {
    let bytes = payload.bytes();
    match (payload.kind(), std::str::from_utf8(bytes)) {
        (PayloadKind::Text, Ok(text)) => json!({ "data": text }).to_string(),
        (PayloadKind::Json, Ok(text)) => format!("{{\"data\":{text}}}"),
        _ => json!({ "b64data": BASE64.encode(bytes) }).to_string(),
    }
}

/// Writes the answer to question `number`.
#[must_use]
pub fn encode_answer(number: u64, reply: &ApiReply) -> Vec<u8> {
    let mut out = number.to_be_bytes().to_vec();
    let put_page = |out: &mut Vec<u8>, page: &Page| {
        out.extend_from_slice(&(page.len() as u64).to_be_bytes());
        out.extend_from_slice(page.items());
    };
    match reply {
        Ok(
            ApiResult::Presence(page)
            | ApiResult::Channels(page)
            | ApiResult::Connections(page)
            | ApiResult::Info(page),
        ) => {
            out.push(PAGE);
            put_page(&mut out, page);
        }
        Ok(ApiResult::PresenceUsers { clients, users }) => {
            out.push(USERS);
            out.extend_from_slice(&(*clients as u64).to_be_bytes());
            put_page(&mut out, users);
        }
        Ok(ApiResult::PresenceStats { clients, users }) => {
            out.push(COUNTS);
            out.extend_from_slice(&(*clients as u64).to_be_bytes());
            out.extend_from_slice(&(*users as u64).to_be_bytes());
        }
        Ok(_) => out.push(FAILED),
        Err(ApiCode::LimitExceeded) => out.push(TOO_LONG),
        Err(_) => out.push(FAILED),
    }
    out
}

/// Reads an answer: the number of the question, and what is to be merged with this node's own
/// answer. What no node would write is [`Part::Failed`], and nothing of it is kept.
#[must_use]
pub fn decode_answer(bytes: &[u8]) -> Option<(u64, Part)> {
    let (number, rest) = take_u64(bytes)?;
    let (kind, rest) = rest.split_first()?;
    if rest.len() > PART_BYTES_MAX {
        return Some((number, Part::TooLong));
    }
    let part = match *kind {
        PAGE => part_of_page(rest),
        USERS => part_of_users(rest),
        COUNTS => part_of_counts(rest),
        TOO_LONG => Some(Part::TooLong),
        _ => None,
    };
    Some((number, part.unwrap_or(Part::Failed)))
}

fn part_of_page(bytes: &[u8]) -> Option<Part> {
    let (len, items) = take_len(bytes)?;
    let is_map = items.first() == Some(&b'"');
    let text = std::str::from_utf8(items).ok()?;
    let text = match is_map {
        true => format!("{{{text}}}"),
        false => format!("[{text}]"),
    };
    let Items(found) = serde_json::from_str(&text).ok()?;
    if found != len || (!is_map && len > CONNECTIONS_LIMIT_MAX) {
        return None;
    }
    let page = Page::of_items(items.to_vec(), len);
    Some(match is_map {
        true => Part::Map(page),
        false => Part::List(page),
    })
}

fn part_of_users(bytes: &[u8]) -> Option<Part> {
    let (clients, rest) = take_len(bytes)?;
    let (len, items) = take_len(rest)?;
    let users = Page::of_items(items.to_vec(), len);
    let is_sound = items.len() <= USERS_BYTES_MAX && names(&users)?.len() == len;
    is_sound.then_some(Part::Users { clients, users })
}

fn part_of_counts(bytes: &[u8]) -> Option<Part> {
    let (clients, rest) = take_len(bytes)?;
    let (users, _) = take_len(rest)?;
    Some(Part::Counts { clients, users })
}

/// What another node adds to an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    /// Items of a list; of none, or of a map without any.
    List(Page),
    /// Items of a map.
    Map(Page),
    /// Connections, and the users among them.
    Users {
        /// Connections.
        clients: usize,
        /// The id of each user, once.
        users: Page,
    },
    /// Connections, and users among them, where those are too many to name.
    Counts {
        /// Connections.
        clients: usize,
        /// Users.
        users: usize,
    },
    /// There is more than fits an answer.
    TooLong,
    /// It could not say.
    Failed,
}

impl Part {
    /// Bytes of the items in it.
    #[must_use]
    pub fn bytes_len(&self) -> usize {
        match self {
            Self::List(page) | Self::Map(page) | Self::Users { users: page, .. } => {
                page.bytes_len()
            }
            _ => 0,
        }
    }

    /// The same in a few bytes, for a call that has no room for it.
    #[must_use]
    pub fn shortened(&self) -> Self {
        match self {
            Self::Users { clients, users } => Self::Counts {
                clients: *clients,
                users: users.len(),
            },
            _ => Self::TooLong,
        }
    }
}

/// Merges the answer of this node with the parts of others, in their order. A list has at most
/// `rows_max` rows, and like that of one node ends when the page is full; any other page that is
/// full gets [`ApiCode::LimitExceeded`]. A part that is not of the answer's kind is left out.
pub fn merge(reply: &mut ApiReply, parts: Vec<Part>, rows_max: usize) {
    if parts.contains(&Part::TooLong) {
        *reply = Err(ApiCode::LimitExceeded);
    }
    match reply {
        Ok(ApiResult::Connections(page)) => {
            for part in parts {
                if let Part::List(more) = part {
                    append_rows(page, &more, rows_max);
                }
            }
        }
        Ok(ApiResult::Info(page)) => {
            for part in parts {
                if let Part::List(more) = part {
                    append_rows(page, &more, usize::MAX);
                }
            }
        }
        Ok(ApiResult::Presence(page)) => {
            for part in parts {
                if let Part::Map(more) = part {
                    page.append(&more);
                }
            }
        }
        Ok(ApiResult::Channels(page)) => {
            for part in parts {
                if let Part::Map(more) = part {
                    page.add_channels(&more);
                }
            }
        }
        Ok(ApiResult::PresenceUsers { clients, users }) => {
            let counts = (*clients, users.len());
            *reply = Ok(merge_users(counts, Some(users), &parts));
        }
        Ok(ApiResult::PresenceStats { clients, users }) => {
            let counts = (*clients, *users);
            *reply = Ok(merge_users(counts, None, &parts));
        }
        _ => {}
    }
    if let Ok(ApiResult::Presence(page) | ApiResult::Channels(page)) = reply
        && page.is_full()
    {
        *reply = Err(ApiCode::LimitExceeded);
    }
}

/// Counts connections, and users once each as far as they are named.
fn merge_users((clients, users): (usize, usize), ours: Option<&Page>, parts: &[Part]) -> ApiResult {
    let mut clients = clients;
    let mut unnamed = 0;
    let mut named = HashSet::new();
    match ours.and_then(names) {
        Some(ours) => named.extend(ours),
        None => unnamed = users,
    }
    for part in parts {
        match part {
            Part::Users {
                clients: more,
                users,
            } => {
                clients = clients.saturating_add(*more);
                named.extend(names(users).unwrap_or_default());
            }
            Part::Counts {
                clients: more,
                users,
            } => {
                clients = clients.saturating_add(*more);
                unnamed = unnamed.saturating_add(*users);
            }
            _ => {}
        }
    }
    ApiResult::PresenceStats {
        clients,
        users: unnamed.saturating_add(named.len()),
    }
}

/// The texts of a page of them.
fn names(page: &Page) -> Option<HashSet<String>> {
    let text = [b"[", page.items(), b"]"].concat();
    serde_json::from_slice(&text).ok()
}

fn append_rows(page: &mut Page, more: &Page, rows_max: usize) {
    let text = [b"[", more.items(), b"]"].concat();
    let rows: Vec<&RawValue> = serde_json::from_slice(&text).unwrap_or_default();
    for row in rows {
        if page.len() >= rows_max || page.is_full() {
            return;
        }
        page.append(&Page::of_items(row.get().into(), 1));
    }
}

/// How many items a list or a map has, which may hold anything.
struct Items(usize);

impl<'de> Deserialize<'de> for Items {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(ItemsVisitor)
    }
}

struct ItemsVisitor;

impl<'de> Visitor<'de> for ItemsVisitor {
    type Value = Items;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list or a map")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Items, A::Error> {
        let mut len = 0;
        while list.next_element::<IgnoredAny>()?.is_some() {
            len += 1;
        }
        Ok(Items(len))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Items, A::Error> {
        let mut len = 0;
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
            len += 1;
        }
        Ok(Items(len))
    }
}

fn take_u64(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (number, rest) = bytes.split_first_chunk()?;
    Some((u64::from_be_bytes(*number), rest))
}

fn take_len(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (number, rest) = take_u64(bytes)?;
    Some((usize::try_from(number).ok()?, rest))
}

/// Most bytes of user ids that a node names for `presence_stats`; of more it gives the number.
pub const USERS_BYTES_MAX: usize = 32 << 10;

/// Longest answer of a node that is read. None is longer, as a call ends there, too.
const PART_BYTES_MAX: usize = 2 * PAGE_BYTES_MAX;

const PAGE: u8 = b'p';
const USERS: u8 = b'u';
const COUNTS: u8 = b'c';
const TOO_LONG: u8 = b'l';
const FAILED: u8 = b'f';

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{RoomName, UserId};
    use crate::wire::api::ApiMethod;
    use crate::wire::api::answer::{ConnectionRow, answer};

    const ORDERS: [(&str, &str); 12] = [
        (
            "disconnect",
            r#"{"user":"u","whitelist":["1.2"],"disconnect":{"code":4001,"reason":"x"}}"#,
        ),
        ("disconnect", r#"{"user":"u","client":"1.2"}"#),
        ("disconnect", r#"{"client":"1.2"}"#),
        ("unsubscribe", r#"{"channel":"a","user":"u"}"#),
        ("subscribe", r#"{"channel":"a","user":"u"}"#),
        (
            "subscribe",
            r#"{"channel":"a","client":"1.2","expire_at":9,"data":{"b":12345678901234567890123},"recover_since":{"offset":3,"epoch":"x"}}"#,
        ),
        ("refresh", r#"{"user":"u","expired":true}"#),
        ("refresh", r#"{"client":"1.2","expire_at":12}"#),
        ("refresh", r#"{"user":"u"}"#),
        ("publish_all", r#"{"data":"text"}"#),
        (
            "publish_all",
            r#"{"data":{"b":[12345678901234567890123,null],"a":1}}"#,
        ),
        ("publish_all", r#"{"b64data":"AAE="}"#),
    ];

    const QUESTIONS: [(&str, &str); 6] = [
        ("presence", r#"{"channel":"a"}"#),
        ("presence_stats", r#"{"channel":"a"}"#),
        ("channels", r#"{"pattern":"a*"}"#),
        ("connections", r#"{"channel":"a","limit":3}"#),
        ("connections", r#"{"user":"u","limit":3}"#),
        ("info", "{}"),
    ];

    fn call((method, body): (&str, &str)) -> ApiCall {
        ApiCall::parse(method, body.as_bytes(), 100).expect(body)
    }

    #[test]
    fn every_call_that_concerns_others_comes_through() {
        for (method, body) in ORDERS {
            let call = call((method, body));
            let text = order(&call).expect("every node carries it out");
            assert_eq!(Question::of(&call), None);
            assert_eq!(Notice::decode(text.bytes()), Some(Notice::Order(call)));
            // Nobody is asked for what is to be done.
            let asked = format!(r#"{{"ask":1,"method":"{method}","params":{body}}}"#);
            assert_eq!(Notice::decode(asked.as_bytes()), None, "{asked}");
        }
        for (method, body) in QUESTIONS {
            let call = call((method, body));
            let question = Question::of(&call).expect("every node has a part in it");
            assert_eq!(order(&call), None);
            let number = u64::MAX;
            let text = question.numbered(number);
            let expected = Notice::Question { number, call };
            assert_eq!(Notice::decode(text.bytes()), Some(expected));
            let ordered = format!(r#"{{"method":"{method}","params":{body}}}"#);
            assert_eq!(Notice::decode(ordered.as_bytes()), None, "{ordered}");
        }
        let publish = call(("publish", r#"{"channel":"a","data":1}"#));
        assert_eq!((order(&publish), Question::of(&publish)), (None, None));
        for text in [
            "",
            "{}",
            r#"{"method":"publish","params":{"channel":"a","data":1}}"#,
        ] {
            assert_eq!(Notice::decode(text.as_bytes()), None, "{text}");
        }
    }

    /// What another node's reply adds, over the wire.
    fn part(reply: ApiReply) -> Part {
        let bytes = encode_answer(7, &reply);
        let (number, part) = decode_answer(&bytes).expect("an answer");
        assert_eq!(number, 7);
        for len in 0..bytes.len().min(200) {
            // Cut anywhere, it is no answer, or one that adds nothing.
            if let Some((_, part)) = decode_answer(&bytes[..len]) {
                assert_eq!(part, Part::Failed, "cut at {len}");
            }
        }
        part
    }

    fn merged(mut reply: ApiReply, parts: Vec<Part>, rows_max: usize) -> ApiReply {
        merge(&mut reply, parts, rows_max);
        reply
    }

    fn channels(rooms: &[(&str, usize)]) -> Page {
        let mut page = Page::default();
        for (name, clients) in rooms {
            page.push_channel(&RoomName::new(name).expect("a name"), *clients);
        }
        page
    }

    fn rows(clients: std::ops::Range<u32>) -> Page {
        let mut page = Page::default();
        for client in clients {
            page.push_connection(&ConnectionRow {
                client: client.to_string().into(),
                peer: "[::1]:1".into(),
                user: None,
                rooms: Vec::new(),
                age_ms: 0,
                queued: 0,
                queued_bytes: 0,
                queue_weight: 0,
                sent: 0,
                skipped: 0,
            });
        }
        page
    }

    fn users(names: &[&str]) -> Page {
        let mut page = Page::default();
        for name in names {
            page.push_user(&UserId::new(name).expect("a good id"));
        }
        page
    }

    #[test]
    fn rooms_of_several_nodes_add_up() {
        let theirs = part(Ok(ApiResult::Channels(channels(&[("b", 3), ("c", 4)]))));
        let ours = Ok(ApiResult::Channels(channels(&[("a", 2), ("b", 1)])));
        let text = String::from_utf8(answer(&merged(ours, vec![theirs], 9))).expect("text");
        let expected = r#"{"result":{"channels":{"a":{"num_clients":2},"b":{"num_clients":4},"c":{"num_clients":4}}}}"#;
        assert_eq!(text, expected);

        let impossible = part(Ok(ApiResult::Channels(channels(&[("a", usize::MAX)]))));
        let ours = Ok(ApiResult::Channels(channels(&[("a", 2)])));
        let text = String::from_utf8(answer(&merged(ours, vec![impossible], 9))).expect("text");
        assert!(
            text.contains(r#""num_clients":18446744073709551615"#),
            "{text}"
        );
    }

    #[test]
    fn the_limit_of_connections_holds_for_all_nodes_together() {
        let theirs = |from| part(Ok(ApiResult::Connections(rows(from..from + 3))));
        for (rows_max, expected) in [(3, 3), (4, 4), (5, 5), (8, 8), (9, 9), (100, 9)] {
            let ours = Ok(ApiResult::Connections(rows(0..3)));
            let all = merged(ours, vec![theirs(3), theirs(6)], rows_max);
            assert_eq!(all, Ok(ApiResult::Connections(rows(0..expected))));
        }
    }

    #[test]
    fn a_user_on_several_nodes_counts_once_where_users_are_named() {
        let named = |clients, names| {
            let users = users(names);
            Ok(ApiResult::PresenceUsers { clients, users })
        };
        let counted = |clients, users| Ok(ApiResult::PresenceStats { clients, users });
        let odd = "q\"uote";
        for (ours, theirs, expected) in [
            (named(1, &["al"]), vec![], (1, 1)),
            (named(2, &["al"]), vec![named(3, &["al", "bo"])], (5, 2)),
            (
                named(2, &["al", odd]),
                vec![named(1, &[odd]), named(1, &["cy"])],
                (4, 3),
            ),
            (named(1, &[]), vec![named(0, &[])], (1, 0)),
            // Of those who are not named, nobody can know who they are.
            (named(1, &["al"]), vec![counted(9, 5)], (10, 6)),
            (
                counted(9, 5),
                vec![named(1, &["al"]), named(1, &["al"])],
                (11, 6),
            ),
        ] {
            let parts = theirs.into_iter().map(part).collect();
            let (clients, users) = expected;
            let all = merged(ours, parts, 9);
            assert_eq!(all, Ok(ApiResult::PresenceStats { clients, users }));
        }
    }

    #[test]
    fn a_merged_answer_is_no_longer_than_one() {
        let half = PAGE_BYTES_MAX / 2 + 1000;
        let page = |text: String, len| Page::of_items(text.into_bytes(), len);
        let entry = |name: &str| page(format!("\"{name}{}\":1", "x".repeat(half)), 1);
        let ours = Ok(ApiResult::Presence(entry("a")));
        let theirs = part(Ok(ApiResult::Presence(entry("b"))));
        let too_long = Err(ApiCode::LimitExceeded);
        assert_eq!(merged(ours.clone(), vec![theirs], 9), too_long);
        assert_eq!(merged(ours.clone(), vec![], 9), ours);
        let theirs = part(too_long.clone());
        assert_eq!(merged(ours, vec![theirs], 9), too_long);

        let row = || page(format!("\"{}\"", "x".repeat(half)), 1);
        let mut list = Ok(ApiResult::Connections(row()));
        let parts = vec![Part::List(row()), Part::List(row()), Part::List(row())];
        merge(&mut list, parts, 9);
        let Ok(ApiResult::Connections(rows)) = list else {
            panic!("a list only ends");
        };
        assert_eq!(rows.len(), 2);

        let mut huge = 7_u64.to_be_bytes().to_vec();
        huge.push(PAGE);
        huge.resize(huge.len() + PART_BYTES_MAX + 1, b' ');
        assert_eq!(decode_answer(&huge), Some((7, Part::TooLong)));
    }

    #[test]
    fn what_no_node_would_answer_adds_nothing() {
        let page = |len: u64, items: &str| {
            let head = [&7_u64.to_be_bytes()[..], &[PAGE], &len.to_be_bytes()].concat();
            [&head, items.as_bytes()].concat()
        };
        let users = |len: u64, items: &str| {
            let head = [&7_u64.to_be_bytes()[..], &[USERS], &1_u64.to_be_bytes()].concat();
            [&head, &len.to_be_bytes()[..], items.as_bytes()].concat()
        };
        let many = vec!["1"; CONNECTIONS_LIMIT_MAX + 1].join(",");
        let long = format!("\"{}\"", "x".repeat(USERS_BYTES_MAX));
        for bytes in [
            page(2, "{}"),
            page(0, "{}"),
            page(1, ""),
            page(1, "{}]"),
            page(1, "{}],[{}"),
            page(1, r#""a":{}},"b":{"#),
            page(2, r#""a":{}"#),
            page(1, r#""a""#),
            page(1, r#"{"a":}"#),
            page(u64::MAX, "{}"),
            page(CONNECTIONS_LIMIT_MAX as u64 + 1, &many),
            users(1, "1"),
            users(2, r#""a""#),
            users(2, r#""a","a""#),
            users(1, r#""a"],["#),
            users(1, &long),
            vec![0, 0, 0, 0, 0, 0, 0, 7, b'?'],
        ] {
            let found = decode_answer(&bytes);
            assert_eq!(found, Some((7, Part::Failed)), "{bytes:?}");
        }
        let mut bytes = page(1, "{}");
        bytes.push(0xFF);
        assert_eq!(decode_answer(&bytes), Some((7, Part::Failed)));
        assert_eq!(decode_answer(&bytes[..8]), None);

        // Neither does what is of another kind than the answer.
        let map = part(Ok(ApiResult::Channels(channels(&[("a", 1)]))));
        let list = part(Ok(ApiResult::Info(rows(0..1))));
        let counts = Part::Counts {
            clients: 1,
            users: 1,
        };
        for (ours, parts) in [
            (
                ApiResult::Presence(Page::default()),
                vec![list.clone(), counts.clone()],
            ),
            (
                ApiResult::Channels(channels(&[("a", 1)])),
                vec![list.clone(), counts.clone()],
            ),
            (
                ApiResult::Connections(rows(0..1)),
                vec![map.clone(), counts.clone()],
            ),
            (ApiResult::Info(rows(0..1)), vec![map.clone(), counts]),
            (
                ApiResult::PresenceStats {
                    clients: 1,
                    users: 1,
                },
                vec![map, list, Part::Failed],
            ),
        ] {
            assert_eq!(merged(Ok(ours.clone()), parts, 9), Ok(ours));
        }
    }

    #[test]
    fn no_other_method_concerns_others() {
        let known: HashSet<ApiMethod> = (ORDERS.iter().chain(&QUESTIONS))
            .map(|one| call(*one).method())
            .collect();
        let alone: Vec<&str> = (ApiMethod::ALL.into_iter())
            .filter(|method| !known.contains(method))
            .map(ApiMethod::name)
            .collect();
        let expected = ["publish", "broadcast", "history", "history_remove", "batch"];
        assert_eq!(alone, expected);
    }
}
