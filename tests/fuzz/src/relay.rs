//! What other nodes answer, whatever they write: parts are read and merged, and the answer that comes
//! of it is JSON, within its bounds, and counts nothing down.

use roomcast::base::{Identity, RoomName, UserId};
use roomcast::wire::api::answer::{ApiResult, Page, answer};
use roomcast::wire::api::relay::{Notice, Part, decode_answer, encode_answer, merge, order};
use roomcast::wire::api::{ApiCode, CONNECTIONS_LIMIT_MAX};
use serde_json::Value;

use super::input::Input;

const ROWS_MAX: usize = 4;

/// A byte says what this node has found out; then come parts of other nodes, each behind its length.
pub fn check(data: &[u8]) {
    notice(data);
    let mut input = Input(data);
    let kind = input.byte();
    let mut parts = Vec::new();
    while !input.is_empty() && parts.len() < 4 {
        let len = usize::from(input.short());
        let bytes = input.take(len);
        let decoded = decode_answer(bytes);
        assert_eq!(decoded.is_some(), bytes.len() >= 9, "a number and a kind");
        let Some((number, part)) = decoded else {
            continue;
        };
        assert_eq!(number.to_be_bytes(), bytes[..8]);
        is_sound(&part);
        parts.push(part);
    }
    let ours = found_here(kind);
    let read = decode_answer(&encode_answer(7, &ours)).map(|(number, part)| {
        is_sound(&part);
        number
    });
    assert_eq!(read, Some(7), "what a node writes is read");

    let clients = |reply: &Result<ApiResult, ApiCode>| match reply {
        Ok(ApiResult::PresenceStats { clients, users }) => Some((*clients, *users)),
        Ok(ApiResult::PresenceUsers { clients, users }) => Some((*clients, users.len())),
        _ => None,
    };
    let before = clients(&ours);
    let is_any_here = kind & 0x80 != 0;
    let ours_len = rows(&ours);
    let is_too_long = parts.contains(&Part::TooLong);
    let mut merged = ours;
    merge(&mut merged, parts, ROWS_MAX);
    if is_too_long {
        assert_eq!(merged, Err(ApiCode::LimitExceeded));
    }
    if let (Some(before), Some(after)) = (before, clients(&merged)) {
        assert!(before.0 <= after.0 && before.1 <= after.1, "counted down");
    }
    if let Ok(ApiResult::Connections(page)) = &merged {
        assert!(page.len() <= ROWS_MAX);
    }
    let bytes = answer(&merged);
    let value: Value = match serde_json::from_slice(&bytes) {
        Ok(value) => value,
        // A part may hold what is JSON and that serde_json does not evaluate.
        Err(_) => return is_json(&bytes),
    };
    if let (Some(ours_len), Some(len)) = (ours_len, rows(&merged)) {
        assert!(ours_len <= len, "rows of this node are lost");
        if is_any_here && let Ok(ApiResult::Channels(_)) = merged {
            let clients = value["result"]["channels"]["live:7"]["num_clients"].as_u64();
            assert!(clients.is_some_and(|clients| clients >= 3), "counted down");
        }
        if let Ok(ApiResult::Connections(_)) = merged {
            let listed = value["result"]["connections"].as_array().map(Vec::len);
            assert_eq!(listed, Some(len));
        }
    }
}

/// A notice that is read is an order or a question; an order can be told on.
fn notice(data: &[u8]) {
    if let Some(Notice::Order(call)) = Notice::decode(data) {
        let told = order(&call).expect("an order");
        assert_eq!(Notice::decode(told.bytes()), Some(Notice::Order(call)));
    }
}

fn is_json(bytes: &[u8]) {
    let text = std::str::from_utf8(bytes).expect("an answer is text");
    serde_json::from_str::<&serde_json::value::RawValue>(text).expect("an answer is JSON");
}

/// What a part holds is JSON with as many items as it says.
fn is_sound(part: &Part) {
    let items = |page: &Page, open: &str, close: &str| {
        let text = std::str::from_utf8(page.items()).expect("a page is text");
        is_json(format!("{open}{text}{close}").as_bytes());
    };
    match part {
        Part::List(page) => {
            items(page, "[", "]");
            assert!(page.len() <= CONNECTIONS_LIMIT_MAX);
        }
        Part::Map(page) => items(page, "{", "}"),
        Part::Users { users, .. } => items(users, "[", "]"),
        Part::Counts { .. } | Part::TooLong | Part::Failed => {}
    }
    let short = part.shortened();
    assert_eq!(short.bytes_len(), 0, "shortened to a few bytes");
}

fn rows(reply: &Result<ApiResult, ApiCode>) -> Option<usize> {
    match reply {
        Ok(ApiResult::Connections(page) | ApiResult::Info(page)) => Some(page.len()),
        Ok(ApiResult::Presence(page) | ApiResult::Channels(page)) => Some(page.len()),
        _ => None,
    }
}

/// An answer of this node, with nothing in it or something.
fn found_here(kind: u8) -> Result<ApiResult, ApiCode> {
    let user = UserId::new("al").expect("a good id");
    let is_any = kind & 0x80 != 0;
    let mut page = Page::default();
    Ok(match kind % 7 {
        0 => {
            if is_any {
                let identity = Identity { user, info: None };
                page.push_client("1.1", Some(&identity));
            }
            ApiResult::Presence(page)
        }
        1 => ApiResult::PresenceStats {
            clients: usize::from(is_any),
            users: 0,
        },
        2 => {
            if is_any {
                page.push_user(&user);
            }
            ApiResult::PresenceUsers {
                clients: usize::from(is_any),
                users: page,
            }
        }
        3 => {
            if is_any {
                let room = RoomName::new("live:7").expect("a good name");
                page.push_channel(&room, 3);
            }
            ApiResult::Channels(page)
        }
        4 => ApiResult::Connections(match is_any {
            true => Page::of_items(br#"{"client":"1.1"}"#.to_vec(), 1),
            false => page,
        }),
        5 => ApiResult::Info(match is_any {
            true => Page::of_items(br#"{"uid":"1"}"#.to_vec(), 1),
            false => page,
        }),
        _ if is_any => return Err(ApiCode::Internal),
        _ => ApiResult::Done,
    })
}
