//! Tokens for connections and for subscriptions: JSON Web Tokens (RFC 7519) signed with HS256 and
//! nothing else.
//!
//! Owns: what makes a token valid, and the form of those that `roomcast token` mints.
//! Never: reads a clock; the time comes in. Says nothing about which part of a token is wrong, and
//! logs nothing.
//!
//! Invariants
//! - The signature is checked before anything of the token is parsed, and in constant time. So no
//!   parser sees what a stranger wrote, and there is no algorithm to choose: a header that names
//!   another one than HS256 is refused after its HS256 signature was found right.
//! - Nothing that is missing or malformed widens what a token grants: a claim that is `null`, of
//!   another type or given twice makes the token invalid. Only `info` and `data` may be any JSON.
//! - A token for one purpose is none for the other: `channel` has to be in those for subscriptions
//!   and must not be in those for connections.
//!
//! The format is small enough that the crates for it would bring more than they save: the newest
//! `jsonwebtoken` links RSA and elliptic curves, or a C library, for one HMAC.

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::de::{DeserializeOwned, Error as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use serde_json::{Number, Value};
use sha2::Sha256;

use super::Grants;
use crate::base::{Glob, RoomName, Secret, UserId};

/// Longest token, in bytes.
pub const TOKEN_BYTES_MAX: usize = 4 << 10;

/// Most patterns in a token, those of both lists together.
pub const GLOBS_MAX: usize = 100;

/// Most rooms that a token can subscribe its connection to, those of both lists together.
pub const SUBS_MAX: usize = 128;

/// What a valid connection token says.
#[derive(Clone, Debug)]
pub struct Claims {
    /// `sub`: who it is.
    pub user: UserId,
    /// The second since 1970 at which its connections end; `None` for never. `expire_at` says so,
    /// and without it `exp`, at which the token itself ends. Only the former can be over already.
    pub expires_unix_s: Option<u64>,
    /// `info` or `b64info`: what others see of the user; JSON text in one line, otherwise as it was
    /// written.
    pub info: Option<Box<str>>,
    /// `rooms` and `publish`: what the user may do.
    pub grants: Grants,
    /// `subs`, or `channels` if there are none in it: rooms that the server is to make its
    /// connections members of, each once and at most [`SUBS_MAX`].
    pub subs: Vec<ServerSub>,
}

/// A room that connections are members of without asking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSub {
    /// The room.
    pub room: RoomName,
    /// `data`: what the client is told with it; JSON text in one line.
    pub data: Option<Box<str>>,
    /// `info`: what others in the room see of the user besides; JSON text in one line.
    pub info: Option<Box<str>>,
}

/// What a valid subscription token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscriptionClaims {
    /// `sub`: whom it is for; empty for those who are nobody. The caller compares it.
    pub user: Box<str>,
    /// `channel`: the room that it opens. The caller compares it.
    pub room: RoomName,
    /// The second since 1970 at which the subscription ends; `None` for never. As in [`Claims`].
    pub expires_unix_s: Option<u64>,
    /// `info` or `b64info`: what others in the room see of the user besides; JSON text in one line.
    pub info: Option<Box<str>>,
    /// `data` or `b64data`: what the client is told with it; JSON text in one line.
    pub data: Option<Box<str>>,
    /// `client`: the only connection that it is for, if it says so. The caller compares it.
    pub client: Option<Box<str>>,
}

/// Why a token is refused. All have the same words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenRefusal {
    /// It is not a token of ours, or says what a token may not say.
    Invalid,
    /// It was valid until its time was over.
    Expired,
    /// It will be valid when its time has come.
    Early,
    /// It is valid but for nobody: `sub` is empty. Of connection tokens only.
    Anonymous,
}

impl fmt::Display for TokenRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("invalid token")
    }
}

impl std::error::Error for TokenRefusal {}

/// Checks a connection token at a time in seconds since 1970. Allows no difference between clocks: a
/// token is valid from `nbf` on and no more at `exp`.
///
/// # Errors
/// When it is not valid. Anything but [`TokenRefusal::Invalid`] only if that is the only fault.
pub fn verify(secret: &Secret, token: &str, unix_s: u64) -> Result<Claims, TokenRefusal> {
    let read = payload(secret, token).and_then(connection_claims);
    let (times, claims) = read.ok_or(TokenRefusal::Invalid)?;
    times.check(unix_s)?;
    claims.ok_or(TokenRefusal::Anonymous)
}

/// Checks a subscription token, which opens one room to one user, like [`verify`].
///
/// # Errors
/// Those of [`verify`], without [`TokenRefusal::Anonymous`].
pub fn verify_subscription(
    secret: &Secret,
    token: &str,
    unix_s: u64,
) -> Result<SubscriptionClaims, TokenRefusal> {
    let read = payload(secret, token).and_then(subscription_claims);
    let (times, claims) = read.ok_or(TokenRefusal::Invalid)?;
    times.check(unix_s)?;
    Ok(claims)
}

/// What is in a token that was signed with `secret`.
fn payload<T: DeserializeOwned>(secret: &Secret, token: &str) -> Option<T> {
    if token.len() > TOKEN_BYTES_MAX {
        return None;
    }
    let (signed, signature) = token.rsplit_once('.')?;
    let (header, payload) = signed.split_once('.')?;
    // Decoding is strict: the alphabet has no dot, and each signature has one spelling.
    let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
    mac(secret, signed).verify_slice(&signature).ok()?;

    let header: Header = part(header)?;
    // What `crit` lists must be understood (RFC 7515, section 4.1.11), and nothing is.
    if header.alg != "HS256" || header.crit.is_some() {
        return None;
    }
    part(payload)
}

/// When a connection token is valid, and what it says; `None` in place of that if it is for nobody.
fn connection_claims(payload: ConnectionPayload) -> Option<(Times, Option<Claims>)> {
    if payload.channel.is_some() {
        return None;
    }
    let globs_len =
        [&payload.rooms, &payload.publish].map(|list| list.as_ref().map_or(0, Vec::len));
    if globs_len.iter().sum::<usize>() > GLOBS_MAX {
        return None;
    }
    let times = Times::read(payload.exp, payload.nbf, payload.expire_at)?;
    let info = json(payload.info, payload.b64info)?;
    let grants = Grants::new(globs(payload.rooms)?, globs(payload.publish)?);
    let subs = server_subs(payload.channels, payload.subs)?;
    if payload.sub.is_empty() {
        return Some((times, None));
    }
    let claims = Claims {
        user: UserId::new(&payload.sub).ok()?,
        expires_unix_s: times.expires,
        info,
        grants,
        subs,
    };
    Some((times, Some(claims)))
}

fn subscription_claims(payload: SubscriptionPayload) -> Option<(Times, SubscriptionClaims)> {
    let times = Times::read(payload.exp, payload.nbf, payload.expire_at)?;
    let claims = SubscriptionClaims {
        user: payload.sub,
        room: RoomName::new(&payload.channel).ok()?,
        expires_unix_s: times.expires,
        info: json(payload.info, payload.b64info)?,
        data: json(payload.data, payload.b64data)?,
        client: payload.client.filter(|client| !client.is_empty()),
    };
    Some((times, claims))
}

/// When a token is valid, and when what it was used for ends.
struct Times {
    /// The first second.
    from: Option<u64>,
    /// The second after the last one.
    until: Option<u64>,
    expires: Option<u64>,
}

impl Times {
    fn read(exp: Option<Number>, nbf: Option<Number>, expire_at: Option<Number>) -> Option<Self> {
        let read = |time: Option<Number>| time.map_or(Some(None), |time| second(&time).map(Some));
        let until = read(exp)?;
        let expires = match expire_at {
            None => until,
            // Only 0 itself means never, not a part of the first second.
            Some(time) if time.as_f64() == Some(0.0) => None,
            time => read(time)?,
        };
        Some(Self {
            from: read(nbf)?,
            until,
            expires,
        })
    }

    fn check(&self, unix_s: u64) -> Result<(), TokenRefusal> {
        if self.from.is_some_and(|time| unix_s < time) {
            return Err(TokenRefusal::Early);
        }
        if self.until.is_some_and(|time| time <= unix_s) {
            return Err(TokenRefusal::Expired);
        }
        Ok(())
    }
}

/// The rooms of `subs`, and if it has none those of `channels`; `None` if either is bad or they are
/// too many.
fn server_subs(channels: Option<Vec<String>>, subs: Option<Subs>) -> Option<Vec<ServerSub>> {
    let channels = channels.unwrap_or_default();
    let Subs(subs) = subs.unwrap_or_default();
    if channels.len() + subs.len() > SUBS_MAX {
        return None;
    }
    let mut named: Vec<ServerSub> = Vec::with_capacity(channels.len());
    for name in channels {
        let room = RoomName::new(&name).ok()?;
        // A room that stands in a list twice is meant once.
        if named.iter().all(|sub| sub.room != room) {
            let (data, info) = (None, None);
            named.push(ServerSub { room, data, info });
        }
    }
    Some(if subs.is_empty() { named } else { subs })
}

/// Why a token cannot be minted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MintError {
    /// There are more than [`GLOBS_MAX`] patterns.
    TooManyGlobs,
    /// It would have more than [`TOKEN_BYTES_MAX`] bytes.
    TooLong,
}

impl fmt::Display for MintError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooManyGlobs => write!(f, "a token may hold at most {GLOBS_MAX} patterns"),
            Self::TooLong => write!(
                f,
                "the token would be longer than {TOKEN_BYTES_MAX} bytes; fewer patterns are needed"
            ),
        }
    }
}

impl std::error::Error for MintError {}

/// Makes a token for `user` that is valid for `ttl` from `unix_s` on, a part of a second counting
/// as a whole one. The lists are those of [`Grants::new`].
///
/// # Errors
/// When the lists are too long.
pub fn mint(
    secret: &Secret,
    user: &UserId,
    rooms: Option<&[Glob]>,
    publish: Option<&[Glob]>,
    ttl: Duration,
    unix_s: u64,
) -> Result<String, MintError> {
    let globs_len = rooms.map_or(0, <[Glob]>::len) + publish.map_or(0, <[Glob]>::len);
    if globs_len > GLOBS_MAX {
        return Err(MintError::TooManyGlobs);
    }
    let texts = |globs: &[Glob]| globs.iter().map(|glob| glob.as_str().to_owned()).collect();
    let ttl_s = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
    let payload = MintedPayload {
        sub: user.as_str(),
        exp: unix_s.saturating_add(ttl_s),
        rooms: rooms.map(texts),
        publish: publish.map(texts),
    };
    let payload = serde_json::to_vec(&payload).expect("text, numbers and lists are JSON");
    let mut token = URL_SAFE_NO_PAD.encode(HEADER);
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(payload, &mut token);
    let signature = mac(secret, &token).finalize().into_bytes();
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(signature, &mut token);
    if token.len() > TOKEN_BYTES_MAX {
        return Err(MintError::TooLong);
    }
    Ok(token)
}

const HEADER: &str = r#"{"alg":"HS256","typ":"JWT"}"#;

#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default, deserialize_with = "given")]
    crit: Option<IgnoredAny>,
}

/// What a token holds that is made here.
#[derive(Serialize)]
struct MintedPayload<'a> {
    sub: &'a str,
    exp: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    rooms: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    publish: Option<Vec<String>>,
}

/// The claims of a connection token that mean something here; others are passed over.
#[derive(Deserialize)]
struct ConnectionPayload {
    sub: String,
    #[serde(default, deserialize_with = "given")]
    exp: Option<Number>,
    #[serde(default, deserialize_with = "given")]
    nbf: Option<Number>,
    #[serde(default, deserialize_with = "given")]
    expire_at: Option<Number>,
    info: Option<Box<RawValue>>,
    #[serde(default, deserialize_with = "given")]
    b64info: Option<String>,
    #[serde(default, deserialize_with = "given")]
    rooms: Option<Vec<String>>,
    #[serde(default, deserialize_with = "given")]
    publish: Option<Vec<String>>,
    #[serde(default, deserialize_with = "given")]
    channels: Option<Vec<String>>,
    #[serde(default, deserialize_with = "given")]
    subs: Option<Subs>,
    #[serde(default, deserialize_with = "given")]
    channel: Option<IgnoredAny>,
}

/// The claims of a subscription token that mean something here.
#[derive(Deserialize)]
struct SubscriptionPayload {
    sub: Box<str>,
    channel: String,
    #[serde(default, deserialize_with = "given")]
    exp: Option<Number>,
    #[serde(default, deserialize_with = "given")]
    nbf: Option<Number>,
    #[serde(default, deserialize_with = "given")]
    expire_at: Option<Number>,
    info: Option<Box<RawValue>>,
    #[serde(default, deserialize_with = "given")]
    b64info: Option<String>,
    data: Option<Box<RawValue>>,
    #[serde(default, deserialize_with = "given")]
    b64data: Option<String>,
    #[serde(default, deserialize_with = "given")]
    client: Option<Box<str>>,
}

/// The claim `subs`: from room to what is said about it.
#[derive(Default)]
struct Subs(Vec<ServerSub>);

/// What `subs` says about a room, as far as it means something here.
#[derive(Deserialize)]
struct SubPayload {
    info: Option<Box<RawValue>>,
    data: Option<Box<RawValue>>,
}

impl<'de> Deserialize<'de> for Subs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SubsVisitor;

        impl<'de> Visitor<'de> for SubsVisitor {
            type Value = Subs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("rooms, each once")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Subs, A::Error> {
                let mut subs: Vec<ServerSub> = Vec::new();
                while let Some((name, raw)) = map.next_entry::<String, Box<RawValue>>()? {
                    let sub = server_sub(&name, &raw)
                        .filter(|new| subs.iter().all(|sub| sub.room != new.room))
                        .ok_or_else(|| A::Error::custom("a bad room, or one given twice"))?;
                    subs.push(sub);
                }
                Ok(Subs(subs))
            }
        }

        deserializer.deserialize_map(SubsVisitor)
    }
}

fn server_sub(name: &str, raw: &RawValue) -> Option<ServerSub> {
    let SubPayload { info, data } = object(raw.get())?;
    Some(ServerSub {
        room: RoomName::new(name).ok()?,
        data: json(data, None)?,
        info: json(info, None)?,
    })
}

/// Reads a claim that may be absent but not `null`: "no expiry" or "every room" has to be meant.
fn given<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    T::deserialize(deserializer).map(Some)
}

/// Decodes a part of a token, which is a JSON object.
fn part<T: DeserializeOwned>(part: &str) -> Option<T> {
    let bytes = URL_SAFE_NO_PAD.decode(part).ok()?;
    // serde_json would not look at the encoding of what it skips.
    object(std::str::from_utf8(&bytes).ok()?)
}

/// Reads a JSON object.
fn object<T: DeserializeOwned>(text: &str) -> Option<T> {
    // serde_json would also take an array for a struct, its items in the order of the fields.
    if !text.trim_ascii_start().starts_with('{') {
        return None;
    }
    serde_json::from_str(text).ok()
}

/// A claim of any JSON, `null` being none, or the one beside it that has it in base64 and counts
/// unless it is empty: that is how Centrifugo reads them. The outer `None` is for what cannot be
/// read.
fn json(raw: Option<Box<RawValue>>, base64: Option<String>) -> Option<Option<Box<str>>> {
    let raw = match base64.filter(|base64| !base64.is_empty()) {
        None => raw,
        Some(base64) => {
            let bytes = STANDARD.decode(base64).ok()?;
            serde_json::from_str(std::str::from_utf8(&bytes).ok()?).ok()?
        }
    };
    raw.map_or(Some(None), |raw| one_line(&raw).map(Some))
}

/// A time as RFC 7519 writes it: seconds since 1970, perhaps with a fraction, which is cut off.
fn second(time: &Number) -> Option<u64> {
    time.as_u64().or_else(|| {
        let seconds = time.as_f64()?;
        // The conversion saturates.
        (seconds >= 0.0).then_some(seconds as u64)
    })
}

fn globs(texts: Option<Vec<String>>) -> Option<Option<Vec<Glob>>> {
    let Some(texts) = texts else {
        return Some(None);
    };
    // A pattern keeps the rules of a name, or no room could ever fit it.
    let glob = |text: String| RoomName::new(&text).ok().map(|_| Glob::new(&text));
    texts.into_iter().map(glob).collect::<Option<_>>().map(Some)
}

/// Takes the blanks between the parts of JSON out, because protocols end messages with line feeds.
/// Everything else, such as the digits of a number, stays as it was. `None` where it is nested too
/// deeply for those who have to read it.
fn one_line(raw: &RawValue) -> Option<Box<str>> {
    // The parser keeps to a depth of 128.
    serde_json::from_str::<Value>(raw.get()).ok()?;
    let (mut is_string, mut is_escaped) = (false, false);
    let text: String = raw
        .get()
        .chars()
        .filter(|&c| {
            if is_string {
                let ends = c == '"' && !is_escaped;
                is_escaped = c == '\\' && !is_escaped;
                is_string = !ends;
                return true;
            }
            is_string = c == '"';
            !c.is_ascii_whitespace()
        })
        .collect();
    Some(text.into())
}

fn mac(secret: &Secret, signed: &str) -> Hmac<Sha256> {
    Hmac::<Sha256>::new_from_slice(secret.expose())
        .expect("HMAC takes keys of every length")
        .chain_update(signed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_763_683_200;

    fn secret() -> Secret {
        Secret::new(b"0123456789abcdef0123456789abcdef")
    }

    fn signed(secret: &Secret, header: &[u8], payload: &[u8]) -> String {
        let [header, payload] = [header, payload].map(|part| URL_SAFE_NO_PAD.encode(part));
        let signed = format!("{header}.{payload}");
        let signature = mac(secret, &signed).finalize().into_bytes();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    fn with_payload(payload: &str) -> Result<Claims, TokenRefusal> {
        let token = signed(&secret(), HEADER.as_bytes(), payload.as_bytes());
        verify(&secret(), &token, NOW)
    }

    fn subscription(payload: &str) -> Result<SubscriptionClaims, TokenRefusal> {
        let token = signed(&secret(), HEADER.as_bytes(), payload.as_bytes());
        verify_subscription(&secret(), &token, NOW)
    }

    fn with_header(header: &str) -> Result<Claims, TokenRefusal> {
        let token = signed(&secret(), header.as_bytes(), br#"{"sub":"al"}"#);
        verify(&secret(), &token, NOW)
    }

    #[test]
    fn the_example_of_the_rfc_is_verified() {
        // RFC 7515, appendix A.1. It has no `sub`, so only its signature is looked at.
        let key = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
        let key = Secret::new(&URL_SAFE_NO_PAD.decode(key).expect("base64"));
        let signed = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
        let signature = mac(&key, signed).finalize().into_bytes();
        assert_eq!(
            URL_SAFE_NO_PAD.encode(signature),
            "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
        );
    }

    #[test]
    fn a_token_of_another_program_is_verified() {
        // Signed by the standard library of Python (`hmac`, `hashlib`).
        let token = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJhbGljZSIsImV4cCI6NDEwMjQ0NDgwMCwicm9vbXMiOlsibGl2ZToqIl19.oOWrvnZvT0iWXRVBZSpOaUs0DhHjojfAa2dJz-LiiTY";
        let claims = verify(&secret(), token, NOW).expect("a good token");
        assert_eq!(claims.user.as_str(), "alice");
        assert_eq!(claims.expires_unix_s, Some(4_102_444_800));
    }

    #[test]
    fn bad_payloads_are_refused() {
        let deep = |of: &str| {
            format!(
                "{{\"sub\":\"al\",\"{of}\":{}1{}}}",
                "[".repeat(1000),
                "]".repeat(1000)
            )
        };
        let many = |rooms: usize, publish: usize| {
            let list = |len: usize| vec!["\"a\""; len].join(",");
            format!(
                r#"{{"sub":"al","rooms":[{}],"publish":[{}]}}"#,
                list(rooms),
                list(publish)
            )
        };
        for payload in [
            "",
            "garbage",
            "null",
            "[]",
            r#"["al"]"#,
            "{}",
            r#"{"sub":"al""#,
            r#"{"sub":"al"} x"#,
            r#"{"sub":"al"}{}"#,
            r#"{"sub":null}"#,
            r#"{"sub":7}"#,
            r#"{"sub":"a,b"}"#,
            r#"{"sub":"é"}"#,
            r#"{"sub":"a\u0000"}"#,
            r#"{"Sub":"al"}"#,
            r#"{"exp":4102444800}"#,
            r#"{"sub":"al","sub":"bo"}"#,
            r#"{"sub":"al","s\u0075b":"bo"}"#,
            r#"{"sub":"al","exp":4102444800,"exp":4102444801}"#,
            r#"{"sub":"al","exp":null}"#,
            r#"{"sub":"al","exp":"4102444800"}"#,
            r#"{"sub":"al","exp":-1}"#,
            r#"{"sub":"al","exp":1e999}"#,
            r#"{"sub":"al","nbf":null}"#,
            r#"{"sub":"al","nbf":-1}"#,
            r#"{"sub":"al","rooms":null}"#,
            r#"{"sub":"al","rooms":"a"}"#,
            r#"{"sub":"al","rooms":[7]}"#,
            r#"{"sub":"al","rooms":[""]}"#,
            r#"{"sub":"al","rooms":["é"]}"#,
            r#"{"sub":"al","rooms":[],"rooms":["*"]}"#,
            r#"{"sub":"al","publish":null}"#,
            r#"{"sub":"al","publish":{}}"#,
            r#"{"sub":"al","info":1e999}"#,
            r#"{"sub":"al","info":tru}"#,
            r#"{"sub":"al","other":tru}"#,
            &deep("info"),
            &deep("rooms"),
            &deep("sub"),
            &many(101, 0),
            &many(51, 50),
        ] {
            assert_eq!(
                with_payload(payload).err(),
                Some(TokenRefusal::Invalid),
                "{payload}"
            );
        }
        assert!(with_payload(&many(50, 50)).is_ok());
        assert!(
            with_payload(&deep("other")).is_ok(),
            "what is passed over costs no depth"
        );
        let token = signed(
            &secret(),
            HEADER.as_bytes(),
            b"{\"sub\":\"al\",\"x\":\"\xff\"}",
        );
        assert_eq!(
            verify(&secret(), &token, NOW).err(),
            Some(TokenRefusal::Invalid)
        );
    }

    #[test]
    fn bad_headers_are_refused_though_the_signature_is_right() {
        for header in [
            "",
            "{}",
            "[]",
            r#"["HS256"]"#,
            r#"{"alg":"none"}"#,
            r#"{"alg":"None"}"#,
            r#"{"alg":""}"#,
            r#"{"alg":null}"#,
            r#"{"alg":"hs256"}"#,
            r#"{"alg":"HS384"}"#,
            r#"{"alg":"RS256"}"#,
            r#"{"alg":["HS256"]}"#,
            r#"{"alg":"none","alg":"HS256"}"#,
            r#"{"alg":"HS256","alg":"HS256"}"#,
            r#"{"alg":"HS256","crit":["exp"]}"#,
            r#"{"alg":"HS256","crit":null}"#,
        ] {
            assert_eq!(
                with_header(header).err(),
                Some(TokenRefusal::Invalid),
                "{header}"
            );
        }
        for header in [
            r#"{"alg":"HS256"}"#,
            r#" {"typ":"at+jwt","kid":"1","alg":"HS256"}"#,
        ] {
            assert!(with_header(header).is_ok(), "{header}");
        }
    }

    #[test]
    fn bad_signatures_and_shapes_are_refused() {
        let good = signed(&secret(), HEADER.as_bytes(), br#"{"sub":"al"}"#);
        assert!(verify(&secret(), &good, NOW).is_ok());
        let other = Secret::new(b"0123456789abcdef0123456789abcdeF");
        assert!(verify(&other, &good, NOW).is_err());
        let (body, signature) = good.rsplit_once('.').expect("three parts");
        let (header, payload) = body.split_once('.').expect("three parts");
        let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
        let foreign = URL_SAFE_NO_PAD.encode(r#"{"sub":"bo"}"#);
        for token in [
            String::new(),
            ".".into(),
            "..".into(),
            "...".into(),
            "garbage".into(),
            "é.é.é".into(),
            body.to_owned(),
            format!("{body}."),
            format!("{none}.{payload}."),
            format!("{none}.{payload}.{signature}"),
            format!("{header}.{foreign}.{signature}"),
            format!("{good}."),
            format!("{good}.{signature}"),
            format!(".{good}"),
            format!("{good}="),
            format!("{good} "),
            format!(" {good}"),
            format!("Bearer {good}"),
            good[..good.len() - 1].to_owned(),
            format!("{body}.{}", &signature[..22]),
            format!("{body}.{signature}{signature}"),
            "a".repeat(TOKEN_BYTES_MAX + 1),
        ] {
            assert_eq!(
                verify(&secret(), &token, NOW).err(),
                Some(TokenRefusal::Invalid),
                "{token}"
            );
        }
        // Every single character counts.
        for index in 0..good.len() {
            let mut bytes = good.clone().into_bytes();
            bytes[index] = if bytes[index] == b'A' { b'B' } else { b'A' };
            let token = String::from_utf8(bytes).expect("ASCII");
            assert!(verify(&secret(), &token, NOW).is_err(), "{index}");
        }
    }

    #[test]
    fn the_longest_token_is_taken_and_no_longer_one() {
        let padded = |len: usize| {
            let payload = format!(r#"{{"sub":"al","x":"{}"}}"#, "x".repeat(len));
            signed(&secret(), HEADER.as_bytes(), payload.as_bytes())
        };
        let mut lens = (2900..3100).map(padded);
        let longest = lens
            .by_ref()
            .take_while(|token| token.len() <= TOKEN_BYTES_MAX)
            .last();
        let longest = longest.expect("some fit");
        assert!(longest.len() >= TOKEN_BYTES_MAX - 1);
        assert!(verify(&secret(), &longest, NOW).is_ok());
        let longer = lens.next().expect("some do not");
        assert!(verify(&secret(), &longer, NOW).is_err());
    }

    #[test]
    fn times_are_kept_to_the_second() {
        for (claims, expected) in [
            (r#""exp":1763683201"#, Ok(Some(NOW + 1))),
            (r#""exp":1763683201.9"#, Ok(Some(NOW + 1))),
            (r#""exp":1.763683201e9"#, Ok(Some(NOW + 1))),
            (r#""exp":1e300"#, Ok(Some(u64::MAX))),
            (r#""exp":1763683200"#, Err(TokenRefusal::Expired)),
            (r#""exp":1763683200.9"#, Err(TokenRefusal::Expired)),
            (r#""exp":0"#, Err(TokenRefusal::Expired)),
            (r#""nbf":1763683200"#, Ok(None)),
            (r#""nbf":1763683201"#, Err(TokenRefusal::Early)),
            (r#""nbf":1763683201,"exp":5"#, Err(TokenRefusal::Early)),
            (r#""iat":9999999999"#, Ok(None)),
        ] {
            let found = with_payload(&format!(r#"{{"sub":"al",{claims}}}"#));
            assert_eq!(
                found.map(|claims| claims.expires_unix_s),
                expected,
                "{claims}"
            );
        }
    }

    #[test]
    fn refusals_look_alike() {
        for refusal in [
            TokenRefusal::Invalid,
            TokenRefusal::Expired,
            TokenRefusal::Early,
            TokenRefusal::Anonymous,
        ] {
            assert_eq!(refusal.to_string(), "invalid token");
        }
    }

    #[test]
    fn info_is_kept_as_written_in_one_line() {
        for (written, expected) in [
            ("null", None),
            ("7", Some("7")),
            ("12345678901234567890.10", Some("12345678901234567890.10")),
            (
                "{ \"a b\" :\n [ 1,\t2 ],\r\n\"q\\\" \\\\\" : \" x \" }",
                Some("{\"a b\":[1,2],\"q\\\" \\\\\":\" x \"}"),
            ),
            ("\"é \\n\"", Some("\"é \\n\"")),
        ] {
            let claims = with_payload(&format!("{{\"sub\":\"al\",\"info\":{written}}}"));
            assert_eq!(
                claims.expect("a good token").info.as_deref(),
                expected,
                "{written}"
            );
        }
    }

    #[test]
    fn minted_tokens_are_verified() {
        let user = UserId::new("al \"q\" \\").expect("a good id");
        let room = |name: &str| RoomName::new(name).expect("a good name");
        let globs = ["live:*", "$x"].map(Glob::new);
        let ttl = Duration::from_millis(1500);
        let token = mint(&secret(), &user, Some(&globs), Some(&[]), ttl, NOW).expect("it is short");
        let claims = verify(&secret(), &token, NOW + 1).expect("a good token");
        assert_eq!(
            (&claims.user, claims.expires_unix_s),
            (&user, Some(NOW + 2))
        );
        assert_eq!(claims.info, None);
        let user = Some(&user);
        for (name, expected) in [("live:7", true), ("$x", true), ("chat", false)] {
            assert_eq!(
                claims.grants.may_join(user, &room(name)),
                expected,
                "{name}"
            );
            assert!(!claims.grants.may_publish(user, &room(name)), "{name}");
        }
        assert_eq!(
            verify(&secret(), &token, NOW + 2).err(),
            Some(TokenRefusal::Expired)
        );

        let token = mint(&secret(), &claims.user, None, None, ttl, NOW).expect("it is short");
        let claims = verify(&secret(), &token, NOW).expect("a good token");
        assert!(claims.grants.may_publish(user, &room("chat")));
        assert!(!claims.grants.may_join(user, &room("$x")));
    }

    #[test]
    fn tokens_that_would_be_refused_are_not_minted() {
        let user = UserId::new("al").expect("a good id");
        let ttl = Duration::from_secs(1);
        let many = vec![Glob::new("a"); GLOBS_MAX];
        let long = vec![Glob::new(&"a".repeat(255)); 12];
        let minted = |rooms: &[Glob], publish: &[Glob]| {
            mint(&secret(), &user, Some(rooms), Some(publish), ttl, NOW).map(|_| ())
        };
        assert_eq!(minted(&many, &[]), Ok(()));
        assert_eq!(minted(&many, &many[..1]), Err(MintError::TooManyGlobs));
        assert_eq!(minted(&long, &[]), Err(MintError::TooLong));
    }

    #[test]
    fn a_token_for_nobody_is_told_from_a_bad_one() {
        for (payload, refusal) in [
            (r#"{"sub":""}"#, TokenRefusal::Anonymous),
            (
                r#"{"sub":"","exp":1763683201,"expire_at":1}"#,
                TokenRefusal::Anonymous,
            ),
            (r#"{"sub":"","exp":1763683200}"#, TokenRefusal::Expired),
            (r#"{"sub":"","nbf":1763683201}"#, TokenRefusal::Early),
            (r#"{"sub":"","rooms":[""]}"#, TokenRefusal::Invalid),
            (r#"{"sub":"","channel":"a"}"#, TokenRefusal::Invalid),
            (r#"{"sub":"","channels":[""]}"#, TokenRefusal::Invalid),
            (r#"{"sub":" \n"}"#, TokenRefusal::Invalid),
            (r#"{}"#, TokenRefusal::Invalid),
        ] {
            assert_eq!(with_payload(payload).err(), Some(refusal), "{payload}");
        }
    }

    #[test]
    fn connections_may_end_apart_from_their_token() {
        for (claims, expected) in [
            (r#""expire_at":0"#, Ok(None)),
            (r#""expire_at":0.0"#, Ok(None)),
            (r#""expire_at":0.5"#, Ok(Some(0))),
            (r#""expire_at":7"#, Ok(Some(7))),
            (r#""exp":1763683201"#, Ok(Some(NOW + 1))),
            (r#""exp":1763683201,"expire_at":0"#, Ok(None)),
            (
                r#""exp":1763683201,"expire_at":1763683300.5"#,
                Ok(Some(NOW + 100)),
            ),
            (
                r#""exp":1763683200,"expire_at":0"#,
                Err(TokenRefusal::Expired),
            ),
            (r#""expire_at":null"#, Err(TokenRefusal::Invalid)),
            (r#""expire_at":"0""#, Err(TokenRefusal::Invalid)),
            (r#""expire_at":-1"#, Err(TokenRefusal::Invalid)),
            (r#""expire_at":1,"expire_at":1"#, Err(TokenRefusal::Invalid)),
        ] {
            let found = with_payload(&format!(r#"{{"sub":"al",{claims}}}"#));
            let found = found.map(|claims| claims.expires_unix_s);
            assert_eq!(found, expected, "{claims}");
            let found = subscription(&format!(r#"{{"sub":"al","channel":"a",{claims}}}"#));
            let found = found.map(|claims| claims.expires_unix_s);
            assert_eq!(found, expected, "{claims}");
        }
    }

    #[test]
    fn info_may_be_in_base64() {
        for (claims, expected) in [
            (r#""b64info":"eyJhIjogMX0=""#, Ok(Some(r#"{"a":1}"#))),
            (
                r#""b64info":"eyJhIjogMX0=","info":7"#,
                Ok(Some(r#"{"a":1}"#)),
            ),
            (r#""info":7,"b64info":"""#, Ok(Some("7"))),
            (r#""b64info":"""#, Ok(None)),
            (r#""b64info":"bnVsbA==""#, Ok(None)),
            // Padding is missing; another alphabet; no JSON; not UTF-8.
            (r#""b64info":"eyJhIjogMX0""#, Err(TokenRefusal::Invalid)),
            (r#""b64info":"Ij8_Ig==""#, Err(TokenRefusal::Invalid)),
            (r#""b64info":"e30geA==""#, Err(TokenRefusal::Invalid)),
            (r#""b64info":"Iv8i""#, Err(TokenRefusal::Invalid)),
            (r#""b64info":null"#, Err(TokenRefusal::Invalid)),
            (r#""b64info":7"#, Err(TokenRefusal::Invalid)),
        ] {
            let expected = expected.map(|text: Option<&str>| text.map(Into::into));
            let found = with_payload(&format!(r#"{{"sub":"al",{claims}}}"#));
            assert_eq!(found.map(|claims| claims.info), expected, "{claims}");
            let claims = claims.replace("info", "data");
            let found = subscription(&format!(r#"{{"sub":"al","channel":"a",{claims}}}"#));
            assert_eq!(found.map(|claims| claims.data), expected, "{claims}");
        }
    }

    #[test]
    fn a_token_subscribes_to_rooms() {
        let sub = |name: &str, data: Option<&str>, info: Option<&str>| ServerSub {
            room: RoomName::new(name).expect("a good name"),
            data: data.map(Into::into),
            info: info.map(Into::into),
        };
        let bare = |name| sub(name, None, None);
        for (claims, expected) in [
            (r#""channels":[]"#, vec![]),
            (r#""subs":{}"#, vec![]),
            (r#""channels":["b","$a","b"]"#, vec![bare("b"), bare("$a")]),
            (r#""subs":{},"channels":["b"]"#, vec![bare("b")]),
            (
                r#""channels":["c"],"subs":{"b":{"info":{"a": 1},"data":[ "x y" ]},"a":{"data":null,"override":{"presence":7},"b64data":7}}"#,
                vec![sub("b", Some(r#"["x y"]"#), Some(r#"{"a":1}"#)), bare("a")],
            ),
        ] {
            let found = with_payload(&format!(r#"{{"sub":"al",{claims}}}"#));
            assert_eq!(found.map(|claims| claims.subs), Ok(expected), "{claims}");
        }
        let claims = with_payload(r#"{"sub":"al"}"#).expect("a good token");
        assert_eq!(claims.subs, []);
        for claims in [
            r#""channels":null"#,
            r#""channels":"a""#,
            r#""channels":{}"#,
            r#""channels":[7]"#,
            r#""channels":[""]"#,
            r#""channels":["\u00e9"]"#,
            r#""channels":[],"channels":[]"#,
            r#""channels":[""],"subs":{"a":{}}"#,
            r#""subs":null"#,
            r#""subs":[]"#,
            r#""subs":["a"]"#,
            r#""subs":{"a":null}"#,
            r#""subs":{"a":[]}"#,
            r#""subs":{"a":true}"#,
            r#""subs":{"":{}}"#,
            r#""subs":{"\u00e9":{}}"#,
            r#""subs":{"a":{},"\u0061":{}}"#,
            r#""subs":{"a":{"info":1,"info":2}}"#,
            r#""subs":{"a":{"data":1e999}}"#,
            r#""subs":{},"subs":{}"#,
            r#""channel":"a""#,
            r#""channel":"""#,
            r#""channel":null"#,
        ] {
            assert_eq!(
                with_payload(&format!(r#"{{"sub":"al",{claims}}}"#)).err(),
                Some(TokenRefusal::Invalid),
                "{claims}"
            );
        }
    }

    #[test]
    fn the_rooms_of_a_token_are_bounded() {
        let found = |channels: usize, subs: usize| {
            let names: Vec<_> = (0..channels).map(|place| format!("\"{place}\"")).collect();
            let rooms: Vec<_> = (0..subs).map(|place| format!("\"{place}\":{{}}")).collect();
            let payload = format!(
                r#"{{"sub":"al","channels":[{}],"subs":{{{}}}}}"#,
                names.join(","),
                rooms.join(",")
            );
            with_payload(&payload).map(|claims| claims.subs.len())
        };
        let too_many = Err(TokenRefusal::Invalid);
        for (channels, subs, expected) in [
            (SUBS_MAX, 0, Ok(SUBS_MAX)),
            (SUBS_MAX + 1, 0, too_many),
            (0, SUBS_MAX, Ok(SUBS_MAX)),
            (0, SUBS_MAX + 1, too_many),
            (64, 64, Ok(64)),
            (64, 65, too_many),
        ] {
            assert_eq!(found(channels, subs), expected, "{channels} {subs}");
        }
    }

    #[test]
    fn subscription_tokens_are_read() {
        let claims = |user: &str| SubscriptionClaims {
            user: user.into(),
            room: RoomName::new("$a").expect("a good name"),
            expires_unix_s: None,
            info: None,
            data: None,
            client: None,
        };
        for (payload, expected) in [
            (r#"{"sub":"al","channel":"$a"}"#, claims("al")),
            (
                r#"{"sub":"","channel":"$a","client":"","info":null,"data":null,"rooms":7,"override":7}"#,
                claims(""),
            ),
            (
                r#"{"sub":"al","channel":"$a","exp":1763683201,"nbf":1763683200,"info":[ 1 ],"b64data":"eyJhIjogMX0=","client":"5.1"}"#,
                SubscriptionClaims {
                    expires_unix_s: Some(NOW + 1),
                    info: Some("[1]".into()),
                    data: Some(r#"{"a":1}"#.into()),
                    client: Some("5.1".into()),
                    ..claims("al")
                },
            ),
        ] {
            assert_eq!(subscription(payload), Ok(expected), "{payload}");
        }
        for (payload, refusal) in [
            (
                r#"{"sub":"al","channel":"a","exp":1763683200}"#,
                TokenRefusal::Expired,
            ),
            (
                r#"{"sub":"al","channel":"a","nbf":1763683201}"#,
                TokenRefusal::Early,
            ),
            (r#"["al","a"]"#, TokenRefusal::Invalid),
            (r#"{"sub":"al"}"#, TokenRefusal::Invalid),
            (r#"{"channel":"a"}"#, TokenRefusal::Invalid),
            (r#"{"sub":null,"channel":"a"}"#, TokenRefusal::Invalid),
            (r#"{"sub":7,"channel":"a"}"#, TokenRefusal::Invalid),
            (r#"{"sub":"al","channel":null}"#, TokenRefusal::Invalid),
            (r#"{"sub":"al","channel":""}"#, TokenRefusal::Invalid),
            (r#"{"sub":"al","channel":["a"]}"#, TokenRefusal::Invalid),
            (
                r#"{"sub":"al","channel":"a","channel":"b"}"#,
                TokenRefusal::Invalid,
            ),
            (
                r#"{"sub":"al","channel":"a","client":null}"#,
                TokenRefusal::Invalid,
            ),
            (
                r#"{"sub":"al","channel":"a","exp":null}"#,
                TokenRefusal::Invalid,
            ),
            (
                r#"{"sub":"al","channel":"a","data":1,"data":1}"#,
                TokenRefusal::Invalid,
            ),
            (
                r#"{"sub":"al","channel":"","exp":1}"#,
                TokenRefusal::Invalid,
            ),
        ] {
            assert_eq!(subscription(payload).err(), Some(refusal), "{payload}");
        }
        let other = Secret::new(b"0123456789abcdef0123456789abcdeF");
        let payload = br#"{"sub":"al","channel":"a"}"#;
        for token in [
            signed(&other, HEADER.as_bytes(), payload),
            signed(&secret(), br#"{"alg":"none"}"#, payload),
        ] {
            assert_eq!(
                verify_subscription(&secret(), &token, NOW),
                Err(TokenRefusal::Invalid)
            );
        }
    }
}
