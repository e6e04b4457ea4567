//! Connection tokens: JSON Web Tokens (RFC 7519) signed with HS256 and nothing else.
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
//!   another type or given twice makes the token invalid.
//!
//! The format is small enough that the crates for it would bring more than they save: the newest
//! `jsonwebtoken` links RSA and elliptic curves, or a C library, for one HMAC.

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::de::{DeserializeOwned, IgnoredAny};
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

/// What a valid token says.
#[derive(Clone, Debug)]
pub struct Claims {
    /// `sub`: who it is.
    pub user: UserId,
    /// `exp`: the second since 1970 at which the token and its connections end; `None` for never.
    pub expires_unix_s: Option<u64>,
    /// `info`: what others see of the user; JSON text in one line, otherwise as it was written.
    pub info: Option<Box<str>>,
    /// `rooms` and `publish`: what the user may do.
    pub grants: Grants,
}

/// Why a token is refused. Both look the same from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenRefusal {
    /// It is not a token of ours, or says what a token may not say.
    Invalid,
    /// It was valid until its time was over.
    Expired,
}

impl fmt::Display for TokenRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("invalid token")
    }
}

impl std::error::Error for TokenRefusal {}

/// Checks `token` at a time in seconds since 1970. Allows no difference between clocks: a token is
/// valid from `nbf` on and no more at `exp`.
///
/// # Errors
/// When it is not valid. [`TokenRefusal::Expired`] only if that is the only fault.
pub fn verify(secret: &Secret, token: &str, unix_s: u64) -> Result<Claims, TokenRefusal> {
    let claims = claims(secret, token).ok_or(TokenRefusal::Invalid)?;
    let (not_before, claims) = claims;
    if not_before.is_some_and(|time| unix_s < time) {
        return Err(TokenRefusal::Invalid);
    }
    if claims.expires_unix_s.is_some_and(|time| time <= unix_s) {
        return Err(TokenRefusal::Expired);
    }
    Ok(claims)
}

/// The first time at which a token is valid, if it says so, and what else it says.
fn claims(secret: &Secret, token: &str) -> Option<(Option<u64>, Claims)> {
    if token.len() > TOKEN_BYTES_MAX {
        return None;
    }
    let (signed, signature) = token.rsplit_once('.')?;
    let (header, payload) = signed.split_once('.')?;
    // Decoding is strict: the alphabet has no dot, and each signature has one spelling.
    let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
    mac(secret, signed).verify_slice(&signature).ok()?;

    let header: Header = object(header)?;
    // What `crit` lists must be understood (RFC 7515, section 4.1.11), and nothing is.
    if header.alg != "HS256" || header.crit.is_some() {
        return None;
    }
    let payload: Payload = object(payload)?;
    let not_before = payload
        .nbf
        .map_or(Some(None), |time| second(&time).map(Some))?;
    let expires = payload
        .exp
        .map_or(Some(None), |time| second(&time).map(Some))?;
    let globs_len =
        [&payload.rooms, &payload.publish].map(|list| list.as_ref().map_or(0, Vec::len));
    if globs_len.iter().sum::<usize>() > GLOBS_MAX {
        return None;
    }
    let claims = Claims {
        user: UserId::new(&payload.sub).ok()?,
        expires_unix_s: expires,
        info: payload
            .info
            .map_or(Some(None), |raw| one_line(&raw).map(Some))?,
        grants: Grants::new(globs(payload.rooms)?, globs(payload.publish)?),
    };
    Some((not_before, claims))
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
    let payload = Payload {
        sub: user.as_str().to_owned(),
        exp: Some(unix_s.saturating_add(ttl_s).into()),
        nbf: None,
        info: None,
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

/// The claims that mean something here; others are passed over.
#[derive(Serialize, Deserialize)]
struct Payload {
    sub: String,
    #[serde(
        default,
        deserialize_with = "given",
        skip_serializing_if = "Option::is_none"
    )]
    exp: Option<Number>,
    #[serde(
        default,
        deserialize_with = "given",
        skip_serializing_if = "Option::is_none"
    )]
    nbf: Option<Number>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    info: Option<Box<RawValue>>,
    #[serde(
        default,
        deserialize_with = "given",
        skip_serializing_if = "Option::is_none"
    )]
    rooms: Option<Vec<String>>,
    #[serde(
        default,
        deserialize_with = "given",
        skip_serializing_if = "Option::is_none"
    )]
    publish: Option<Vec<String>>,
}

/// Reads a claim that may be absent but not `null`: "no expiry" or "every room" has to be meant.
fn given<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    T::deserialize(deserializer).map(Some)
}

/// Decodes a part of a token that is a JSON object.
fn object<T: DeserializeOwned>(part: &str) -> Option<T> {
    let bytes = URL_SAFE_NO_PAD.decode(part).ok()?;
    // serde_json would not look at the encoding of what it skips.
    let text = std::str::from_utf8(&bytes).ok()?;
    // It would also take an array for a struct, its items in the order of the fields.
    if !text.trim_ascii_start().starts_with('{') {
        return None;
    }
    serde_json::from_str(text).ok()
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
            r#"{"sub":""}"#,
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
            r#"{"sub":"al","nbf":1763683201}"#,
            r#"{"sub":"al","nbf":1763683201,"exp":5}"#,
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
            (r#""nbf":1763683201"#, Err(TokenRefusal::Invalid)),
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
        let texts =
            [TokenRefusal::Invalid, TokenRefusal::Expired].map(|refusal| refusal.to_string());
        assert_eq!(texts, ["invalid token", "invalid token"]);
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
}
