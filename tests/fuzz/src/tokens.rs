//! Tokens against a verifier written from RFC 7515, RFC 7519 and the documented claims, over a tree
//! of JSON. What it refuses must be refused, and what it accepts must say the same.

use roomcast::auth::Grants;
use roomcast::auth::token::{
    Claims, GLOBS_MAX, SUBS_MAX, ServerSub, SubscriptionClaims, TOKEN_BYTES_MAX, TokenRefusal,
    verify, verify_subscription,
};
use roomcast::base::{RoomName, Secret, UserId};
use sha2::{Digest as _, Sha256};

use super::input::Input;
use super::json::{Json, Members, is_too_deep};

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
const NOW: u64 = 1_763_683_200;

/// A byte says what the rest is: a token as it stands, or header and payload, on two lines, of one
/// that is signed here, perhaps with another secret or cut short.
pub fn check(data: &[u8]) {
    let mut input = Input(data);
    let how = input.byte();
    let text = String::from_utf8_lossy(input.rest()).into_owned();
    let token = if how & 7 == 0 {
        text
    } else {
        let (header, payload) = match text.split_once('\n') {
            Some(parts) if how & 8 != 0 => parts,
            _ => (r#"{"alg":"HS256","typ":"JWT"}"#, &*text),
        };
        if is_too_deep(payload) || is_too_deep(header) {
            return;
        }
        let secret: &[u8] = if how & 7 == 7 { b"another" } else { SECRET };
        let signed = format!(
            "{}.{}",
            encode(header.as_bytes()),
            encode(payload.as_bytes())
        );
        let mut token = format!("{signed}.{}", encode(&hmac(secret, signed.as_bytes())));
        if how & 7 == 6 {
            token.pop();
        }
        token
    };
    let secret = Secret::new(SECRET);
    if how & 0x80 == 0 {
        let found = verify(&secret, &token, NOW);
        connection_is(found, naive_connection(&token));
    } else {
        let found = verify_subscription(&secret, &token, NOW);
        subscription_is(found, naive_subscription(&token));
    }
}

fn connection_is(found: Result<Claims, TokenRefusal>, expected: Result<Connection, TokenRefusal>) {
    let (found, expected) = match (found, expected) {
        (Ok(found), Ok(expected)) => (found, expected),
        (found, expected) => {
            return assert_eq!(found.map(drop), expected.map(drop));
        }
    };
    assert_eq!(found.user.as_str(), expected.user);
    is_the_same_time(found.expires_unix_s, expected.expires);
    assert_eq!(found.info.as_deref(), expected.info.as_deref());
    assert_eq!(found.subs, expected.subs);
    is_granted(&found.grants, &expected);
}

fn subscription_is(
    found: Result<SubscriptionClaims, TokenRefusal>,
    expected: Result<SubscriptionClaims, TokenRefusal>,
) {
    if let (Ok(found), Ok(expected)) = (&found, &expected) {
        is_the_same_time(found.expires_unix_s, expected.expires_unix_s);
    }
    let timeless = |mut claims: SubscriptionClaims| {
        claims.expires_unix_s = None;
        claims
    };
    assert_eq!(found.map(timeless), expected.map(timeless));
}

/// Numbers with a fraction or an exponent are rounded differently by different readers.
fn is_the_same_time(found: Option<u64>, expected: Option<u64>) {
    let (Some(one), Some(other)) = (found, expected) else {
        return assert_eq!(found, expected);
    };
    assert!(
        one.abs_diff(other) <= 1 + other / (1 << 50),
        "{one} and {other}"
    );
}

/// Asks about rooms of every kind.
fn is_granted(grants: &Grants, expected: &Connection) {
    let user = UserId::new(&expected.user).expect("looked at before");
    let of_lists = [&expected.rooms, &expected.publish];
    let mut rooms: Vec<String> = [
        "a", "live:7", "$a", "$live:7", "#al", "#al,bo", "#bo", "#", "$",
    ]
    .map(str::to_owned)
    .into();
    for list in of_lists.into_iter().flatten() {
        rooms.extend(list.iter().take(3).cloned());
        rooms.extend(list.iter().take(3).map(|glob| glob.replace('*', "x")));
    }
    rooms.push(format!("#{}", expected.user));
    for name in rooms {
        let Ok(room) = RoomName::new(&name) else {
            continue;
        };
        let is_named = name
            .strip_prefix('#')
            .map(|names| names.split(',').any(|name| name == expected.user));
        let is_open = |list: &Option<Vec<String>>| match list {
            None => !name.starts_with('$'),
            Some(globs) => globs.iter().any(|glob| {
                let is_explicit = !name.starts_with('$') || glob.starts_with('$');
                is_explicit && matches(glob.as_bytes(), name.as_bytes())
            }),
        };
        let may_join = is_named.unwrap_or_else(|| is_open(&expected.rooms));
        assert_eq!(grants.may_join(Some(&user), &room), may_join, "{name:?}");
        let may_publish = match &expected.publish {
            None => is_open(&expected.rooms) || is_named == Some(true),
            list => is_open(list),
        };
        assert_eq!(
            grants.may_publish(Some(&user), &room),
            may_publish,
            "{name:?}"
        );
    }
}

/// Whether a pattern fits, by way of all prefixes of it and of the text.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let mut fits = vec![false; text.len() + 1];
    fits[0] = true;
    for byte in pattern {
        let mut next = vec![false; text.len() + 1];
        for end in 0..=text.len() {
            next[end] = match byte {
                b'*' => fits[end] || end > 0 && next[end - 1],
                _ => end > 0 && fits[end - 1] && text[end - 1] == *byte,
            };
        }
        fits = next;
    }
    fits[text.len()]
}

struct Connection {
    user: String,
    expires: Option<u64>,
    info: Option<String>,
    rooms: Option<Vec<String>>,
    publish: Option<Vec<String>>,
    subs: Vec<ServerSub>,
}

/// The payload of a token whose signature and header are right.
fn payload(token: &str) -> Option<String> {
    let parts: Vec<&str> = token.split('.').collect();
    let &[header, payload, signature] = &parts[..] else {
        return None;
    };
    let signed = format!("{header}.{payload}");
    if token.len() > TOKEN_BYTES_MAX || decode(signature)? != hmac(SECRET, signed.as_bytes()) {
        return None;
    }
    let header = String::from_utf8(decode(header)?).ok()?;
    let header = Json::read(&header)?;
    let header = header.members(&["alg", "crit"])?;
    if header.any("alg")?.as_text()? != "HS256" || header.any("crit").is_some() {
        return None;
    }
    String::from_utf8(decode(payload)?).ok()
}

fn naive_connection(token: &str) -> Result<Connection, TokenRefusal> {
    let payload = payload(token).ok_or(TokenRefusal::Invalid)?;
    let json = Json::read(&payload).ok_or(TokenRefusal::Invalid)?;
    let (times, claims) = connection(&json).ok_or(TokenRefusal::Invalid)?;
    times.check()?;
    if claims.user.is_empty() {
        return Err(TokenRefusal::Anonymous);
    }
    Ok(Connection {
        expires: times.expires,
        ..claims
    })
}

fn connection(json: &Json<'_>) -> Option<(Times, Connection)> {
    let members = json.members(&[
        "sub",
        "exp",
        "nbf",
        "expire_at",
        "info",
        "b64info",
        "rooms",
        "publish",
        "channels",
        "subs",
        "channel",
    ])?;
    let user = members.any("sub")?.as_text()?.to_owned();
    let is_user = user.is_empty() || UserId::new(&user).is_ok();
    if !is_user || members.any("channel").is_some() {
        return None;
    }
    let [rooms, publish, channels] =
        ["rooms", "publish", "channels"].map(|name| names(members, name));
    let (rooms, publish, channels) = (rooms?, publish?, channels?.unwrap_or_default());
    let globs_len = [&rooms, &publish].map(|list| list.as_ref().map_or(0, Vec::len));
    if globs_len.iter().sum::<usize>() > GLOBS_MAX {
        return None;
    }
    let mut subs = Vec::new();
    if let Some(given) = members.any("subs") {
        for (name, sub) in given.members(&[])?.0 {
            let sub = sub.members(&["info", "data"])?;
            subs.push(ServerSub {
                room: RoomName::new(name.as_deref()?).ok()?,
                data: claim(sub, "data", None)?.map(String::into_boxed_str),
                info: claim(sub, "info", None)?.map(String::into_boxed_str),
            });
        }
    }
    let is_twice = |sub: &ServerSub| subs.iter().filter(|other| other.room == sub.room).count() > 1;
    if channels.len() + subs.len() > SUBS_MAX || subs.iter().any(is_twice) {
        return None;
    }
    if subs.is_empty() {
        for name in channels {
            let room = RoomName::new(&name).ok()?;
            if subs.iter().all(|sub: &ServerSub| sub.room != room) {
                let (data, info) = (None, None);
                subs.push(ServerSub { room, data, info });
            }
        }
    }
    let claims = Connection {
        user,
        expires: None,
        info: claim(members, "info", Some("b64info"))?,
        rooms,
        publish,
        subs,
    };
    Some((Times::read(members)?, claims))
}

/// A list of names of rooms or patterns for them; the outer `None` is for what is no such list.
fn names(members: Members<'_, '_>, name: &str) -> Option<Option<Vec<String>>> {
    let Some(list) = members.any(name) else {
        return Some(None);
    };
    let items = list.as_list()?.iter();
    let name = |item: &Json<'_>| {
        let text = item.as_text()?;
        RoomName::new(text).is_ok().then(|| text.to_owned())
    };
    items.map(name).collect::<Option<_>>().map(Some)
}

fn naive_subscription(token: &str) -> Result<SubscriptionClaims, TokenRefusal> {
    let payload = payload(token).ok_or(TokenRefusal::Invalid)?;
    let json = Json::read(&payload).ok_or(TokenRefusal::Invalid)?;
    let (times, claims) = subscription(&json).ok_or(TokenRefusal::Invalid)?;
    times.check()?;
    Ok(SubscriptionClaims {
        expires_unix_s: times.expires,
        ..claims
    })
}

fn subscription(json: &Json<'_>) -> Option<(Times, SubscriptionClaims)> {
    let members = json.members(&[
        "sub",
        "channel",
        "exp",
        "nbf",
        "expire_at",
        "info",
        "b64info",
        "data",
        "b64data",
        "client",
    ])?;
    let client = match members.any("client") {
        None => None,
        Some(client) => Some(client.as_text()?).filter(|client| !client.is_empty()),
    };
    let claims = SubscriptionClaims {
        user: members.any("sub")?.as_text()?.into(),
        room: RoomName::new(members.any("channel")?.as_text()?).ok()?,
        expires_unix_s: None,
        info: claim(members, "info", Some("b64info"))?.map(String::into_boxed_str),
        data: claim(members, "data", Some("b64data"))?.map(String::into_boxed_str),
        client: client.map(Into::into),
    };
    Some((Times::read(members)?, claims))
}

/// A claim of any JSON in one line, or what stands beside it in base64.
fn claim(members: Members<'_, '_>, name: &str, base64: Option<&str>) -> Option<Option<String>> {
    let beside = match base64.and_then(|name| members.any(name)) {
        None => "",
        Some(text) => text.as_text()?,
    };
    if beside.is_empty() {
        let Some(value) = members.given(name) else {
            return Some(None);
        };
        return value.is_sound().then(|| Some(value.compact()));
    }
    use base64::Engine as _;
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(beside)
        .ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let value = Json::read(&text)?;
    if value.is_null() {
        return Some(None);
    }
    value.is_sound().then(|| Some(value.compact()))
}

struct Times {
    from: Option<u64>,
    until: Option<u64>,
    expires: Option<u64>,
}

impl Times {
    fn read(members: Members<'_, '_>) -> Option<Self> {
        let number = |name: &str| match members.any(name) {
            None => Some(None),
            Some(value) => second(value).map(Some),
        };
        let until = number("exp")?;
        let from = number("nbf")?;
        let expire_at = number("expire_at")?;
        let is_never = members
            .any("expire_at")
            .is_some_and(|value| value.text.parse() == Ok(0.0));
        let expires = match expire_at {
            None => until,
            Some(_) if is_never => None,
            expire_at => expire_at,
        };
        Some(Self {
            from,
            until,
            expires,
        })
    }

    fn check(&self) -> Result<(), TokenRefusal> {
        if self.from.is_some_and(|from| NOW < from) {
            return Err(TokenRefusal::Early);
        }
        if self.until.is_some_and(|until| until <= NOW) {
            return Err(TokenRefusal::Expired);
        }
        Ok(())
    }
}

/// Seconds since 1970, a fraction cut off.
fn second(value: &Json<'_>) -> Option<u64> {
    let super::json::Value::Number(digits) = value.value else {
        return None;
    };
    let number: f64 = digits.parse().ok()?;
    if !number.is_finite() || number < 0.0 {
        return None;
    }
    Some(digits.parse().unwrap_or(number as u64))
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// RFC 4648, section 5, without padding.
fn encode(bytes: &[u8]) -> String {
    let bits: Vec<bool> = bytes
        .iter()
        .flat_map(|byte| (0..8).map(move |place| byte >> (7 - place) & 1 == 1))
        .collect();
    let value = |six: &[bool]| {
        (0..6).fold(0, |sum, at| {
            2 * sum + usize::from(six.get(at) == Some(&true))
        })
    };
    bits.chunks(6)
        .map(|six| char::from(ALPHABET[value(six)]))
        .collect()
}

/// The bytes that are spelled so, if they are spelled in the one way there is.
fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bits = Vec::new();
    for byte in text.bytes() {
        let value = ALPHABET.iter().position(|is| *is == byte)?;
        bits.extend((0..6).map(|place| value >> (5 - place) & 1 == 1));
    }
    let byte = |eight: &[bool]| {
        eight
            .iter()
            .fold(0_u8, |sum, bit| sum << 1 | u8::from(*bit))
    };
    let bytes: Vec<u8> = bits.chunks_exact(8).map(byte).collect();
    (encode(&bytes) == text).then_some(bytes)
}

/// RFC 2104.
fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    assert!(key.len() <= 64, "a longer key would be hashed first");
    let pad = |with: u8| -> Vec<u8> {
        let byte = |place: usize| key.get(place).unwrap_or(&0) ^ with;
        (0..64).map(byte).collect()
    };
    let inner = Sha256::digest([&pad(0x36)[..], message].concat());
    Sha256::digest([&pad(0x5c)[..], &inner[..]].concat()).to_vec()
}
