//! The query of `/ws`, against a reading of the documented parameters from a list of them.

use roomcast::base::{Epoch, Offset, Position, RoomName, Since, UserId};
use roomcast::wire::raw::{QueryError, RoomRequest, WireForm, parse_query, token_of, user_of};

use super::input::Input;

/// A byte says how many rooms there may be and who asks already; the rest is the query.
pub fn check(data: &[u8]) {
    let mut input = Input(data);
    let options = input.byte();
    let rooms_max = 1 + usize::from(options % 4);
    let known = (options & 0x80 != 0).then(|| UserId::new("known").expect("a good id"));
    let query = String::from_utf8_lossy(input.rest()).into_owned();
    let pairs = pairs(&query);

    let first = |name: &str| {
        pairs
            .iter()
            .find(|(is, _)| is == name)
            .map(|(_, value)| value)
    };
    assert_eq!(token_of(&query).as_ref(), first("token"));
    match (user_of(&query), first("user")) {
        (Ok(None), None) => {}
        (Ok(Some(user)), Some(text)) => assert_eq!(user.as_str(), text),
        (Err(QueryError::Bad(_)), Some(text)) => assert!(!is_user(text), "{text:?}"),
        (found, expected) => panic!("{found:?} of {expected:?}"),
    }

    let found = parse_query(&query, rooms_max, known.clone());
    let expected = naive(&pairs, rooms_max, known);
    match (found, expected) {
        (Err(QueryError::Bad(text)), Err(Refusal::Bad)) => {
            assert!(
                text.ends_with('\n') && text.len() > 1,
                "a reason is one line"
            );
        }
        (Err(QueryError::TooManyRooms), Err(Refusal::TooMany)) => {}
        (Ok(found), Ok(expected)) => assert_eq!(found, expected),
        (found, expected) => panic!("{found:?} where {expected:?} was expected: {query:?}"),
    }
}

/// The parameters in their order, decoded.
fn pairs(query: &str) -> Vec<(String, String)> {
    let parts = query.split('&').filter(|part| !part.is_empty());
    let pair = |part: &str| match part.find('=') {
        Some(at) => (decoded(&part[..at]), decoded(&part[at + 1..])),
        None => (decoded(part), String::new()),
    };
    parts.map(pair).collect()
}

fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let digit = |place: usize| {
            bytes
                .get(place)
                .and_then(|byte| char::from(*byte).to_digit(16))
        };
        match (bytes[at], digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((16 * high + low) as u8);
                at += 2;
            }
            (b'+', ..) => out.push(b' '),
            (byte, ..) => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn is_name(text: &str, len_max: usize) -> bool {
    (1..=len_max).contains(&text.len()) && text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

fn is_user(text: &str) -> bool {
    is_name(text, 254) && !text.contains(',')
}

#[derive(Debug)]
enum Refusal {
    Bad,
    TooMany,
}

fn number(text: &str) -> Result<u64, Refusal> {
    let is_number = !text.is_empty() && text.chars().all(|digit| digit.is_ascii_digit());
    let number = is_number.then(|| text.parse().ok()).flatten();
    number.ok_or(Refusal::Bad)
}

/// A time or a position.
fn since(text: &str) -> Result<Since, Refusal> {
    let Some((epoch, offset)) = text.split_once('.') else {
        return number(text).map(Since::Time);
    };
    let is_epoch = (1..=16).contains(&epoch.len())
        && epoch.chars().all(|letter| letter.is_ascii_alphanumeric());
    if !is_epoch {
        return Err(Refusal::Bad);
    }
    Ok(Since::Position(Position {
        epoch: Epoch::new(epoch).expect("letters and digits"),
        offset: Offset(number(offset)?),
    }))
}

fn flag(text: &str) -> Result<bool, Refusal> {
    match text {
        "0" => Ok(false),
        "1" => Ok(true),
        _ => Err(Refusal::Bad),
    }
}

fn naive(
    pairs: &[(String, String)],
    rooms_max: usize,
    known: Option<UserId>,
) -> Result<RoomRequest, Refusal> {
    let is_known = known.is_some();
    let mut rooms: Vec<&str> = Vec::new();
    let mut user = known;
    let mut to = None;
    let (mut is_json, mut is_gzip, mut echo) = (false, false, true);
    let mut since_all = None;
    let mut since_each: Vec<(&str, Since)> = Vec::new();
    let mut last = None;
    for (name, value) in pairs {
        match name.as_str() {
            "room" if !is_name(value, 255) => return Err(Refusal::Bad),
            "room" if rooms.contains(&value.as_str()) => {}
            "room" if rooms.len() == rooms_max => return Err(Refusal::TooMany),
            "room" => rooms.push(value),
            "user" if is_known => {}
            "user" | "to" if !is_user(value) => return Err(Refusal::Bad),
            "user" => user = UserId::new(value).ok(),
            "to" => to = Some(format!("#{value}")),
            "format" if value == "raw" => is_json = false,
            "format" if value == "json" => is_json = true,
            "format" => return Err(Refusal::Bad),
            "gzip" | "support_gzip" => is_gzip = flag(value)?,
            "echo" => echo = flag(value)?,
            "last" => last = Some(Since::Last(number(value)?)),
            "since" => match value.rfind('@') {
                None => since_all = Some(since(value)?),
                Some(at) => {
                    let room = &value[..at];
                    if !is_name(room, 255) {
                        return Err(Refusal::Bad);
                    }
                    // One more than there can be rooms, for the personal one.
                    if since_each.len() > rooms_max {
                        return Err(Refusal::TooMany);
                    }
                    since_each.push((room, since(&value[at + 1..])?));
                }
            },
            _ => {}
        }
    }
    if rooms.is_empty() && user.is_none() {
        return Err(Refusal::Bad);
    }
    let asked_len = rooms.len();
    let target = to.or_else(|| rooms.first().map(|room| (*room).to_owned()));
    let personal = user.as_ref().map(|user| format!("#{}", user.as_str()));
    if let Some(personal) = &personal
        && !rooms.contains(&personal.as_str())
    {
        rooms.push(personal);
    }
    let mut from = vec![last.unwrap_or(Since::Now); rooms.len()];
    match since_all {
        Some(position @ Since::Position(_)) => {
            // It can mean only one room: that asked for, or the personal one if there is no other. A
            // personal room that was asked for last counts as one that came along.
            let last_is_personal = rooms.len() > 1 && rooms[rooms.len() - 1].starts_with('#');
            let meant = rooms.len() - usize::from(last_is_personal);
            debug_assert!(asked_len > 0 || meant == 1);
            if meant > 1 {
                return Err(Refusal::Bad);
            }
            from[0] = position;
        }
        Some(time) => from.fill(time),
        None => {}
    }
    for (room, position) in since_each {
        let place = rooms.iter().position(|joined| *joined == room);
        from[place.ok_or(Refusal::Bad)?] = position;
    }
    let named = |name: &str| RoomName::new(name).expect("looked at before");
    Ok(RoomRequest {
        rooms: rooms.iter().map(|room| named(room)).collect(),
        user,
        target: target.as_deref().map(named),
        form: match (is_json, is_gzip) {
            (false, false) => WireForm::Raw,
            (false, true) => WireForm::RawGzip,
            (true, false) => WireForm::Json,
            (true, true) => WireForm::JsonGzip,
        },
        echo,
        since: from,
    })
}
