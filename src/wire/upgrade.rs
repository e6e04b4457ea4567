//! From an HTTP request to a WebSocket: the server's half of the opening handshake.
//!
//! Checks more than tungstenite's `create_response` does (doubled headers, several lines and tokens),
//! but for the method, which its caller has seen to, and takes only the accept key from it. No sub-protocol is chosen and no extension accepted: an
//! offer without an answer is declined (RFC 6455, section 4.2.2).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::header::{CONNECTION, HeaderName, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE};
use http::{HeaderValue, Request, StatusCode, Version};
use tungstenite::handshake::derive_accept_key;

use super::http::has_token;

/// Why a request does not become a WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpgradeError {
    /// It does not ask to: 426.
    NotAnUpgrade,
    /// It asks for a version other than 13: 426 with the version that is spoken.
    Version,
    /// A header of the handshake is missing, doubled or malformed: 400.
    Malformed(&'static str),
}

impl UpgradeError {
    /// The status to answer with.
    #[must_use]
    pub fn status(self) -> StatusCode {
        match self {
            Self::NotAnUpgrade | Self::Version => StatusCode::UPGRADE_REQUIRED,
            Self::Malformed(_) => StatusCode::BAD_REQUEST,
        }
    }

    /// What to say in the body.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::NotAnUpgrade => "this is a WebSocket endpoint\n",
            Self::Version => "only WebSocket version 13 is spoken here\n",
            Self::Malformed(text) => text,
        }
    }
}

/// Checks the handshake and encodes the 101 response (RFC 6455, section 4.2).
///
/// # Errors
/// Says what is wrong with the request.
pub fn accept(request: &Request<()>) -> Result<Vec<u8>, UpgradeError> {
    if !has_token(request, &UPGRADE, "websocket") {
        return Err(UpgradeError::NotAnUpgrade);
    }
    if !has_token(request, &CONNECTION, "upgrade") {
        return Err(UpgradeError::Malformed("Connection must name Upgrade\n"));
    }
    if request.version() < Version::HTTP_11 {
        return Err(UpgradeError::Malformed("an upgrade needs HTTP/1.1\n"));
    }
    let version = only(request, &SEC_WEBSOCKET_VERSION).ok_or(UpgradeError::Malformed(
        "Sec-WebSocket-Version must be given once\n",
    ))?;
    if version != "13" {
        return Err(UpgradeError::Version);
    }
    let key = only(request, &SEC_WEBSOCKET_KEY).ok_or(UpgradeError::Malformed(
        "Sec-WebSocket-Key must be given once\n",
    ))?;
    // As long as 24 characters can be.
    let mut nonce = [0; 18];
    if key.len() != 24 || BASE64.decode_slice(key, &mut nonce) != Ok(16) {
        let text = "Sec-WebSocket-Key must be 16 bytes in base64\n";
        return Err(UpgradeError::Malformed(text));
    }
    let accept_key = derive_accept_key(key.as_bytes());
    Ok([ANSWER, accept_key.as_bytes(), b"\r\n\r\n"].concat())
}

/// Everything before the accept key.
const ANSWER: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Accept: ";

fn only<'a>(request: &'a Request<()>, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = request.headers().get_all(name).iter();
    let value = values.next()?;
    values.next().is_none().then_some(value)
}

#[cfg(test)]
mod tests {
    use super::super::http::{Head, parse_head};
    use super::*;

    fn check(headers: &str) -> Result<String, u16> {
        let head = format!(
            "GET /ws HTTP/1.1\r\nHost: a\r\n{}\r\n",
            headers.replace('|', "\r\n")
        );
        let Head::Complete { request, .. } = parse_head(head.as_bytes(), 8192) else {
            panic!("not a head: {head}");
        };
        accept(&request)
            .map(|bytes| String::from_utf8(bytes).expect("a response is ASCII"))
            .map_err(|error| error.status().as_u16())
    }

    #[test]
    fn the_handshake_of_the_rfc_is_answered() {
        // The example of RFC 6455, section 1.3.
        let response = check(
            "Upgrade: WebSocket|Connection: keep-alive, Upgrade|Sec-WebSocket-Version: 13|\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==|Sec-WebSocket-Protocol: chat|\
             Sec-WebSocket-Extensions: permessage-deflate|",
        )
        .expect("a good handshake");
        assert!(
            response.starts_with("HTTP/1.1 101 Switching Protocols\r\n"),
            "{response}"
        );
        let lower = response.to_ascii_lowercase();
        assert!(
            response.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
            "{response}"
        );
        assert!(
            !lower.contains("protocol:") && !lower.contains("extensions"),
            "{response}"
        );
    }

    #[test]
    fn each_broken_header_gets_its_status() {
        let up = "Upgrade: websocket|Connection: Upgrade|";
        let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==|";
        let version = "Sec-WebSocket-Version: 13|";
        for (headers, status) in [
            (String::new(), 426),
            (format!("Connection: Upgrade|{key}{version}"), 426),
            (format!("Upgrade: websocket|{key}{version}"), 400),
            (format!("{up}{key}"), 400),
            (format!("{up}{key}Sec-WebSocket-Version: 8|"), 426),
            (format!("{up}{key}{version}{version}"), 400),
            (format!("{up}{version}"), 400),
            (format!("{up}{key}{key}{version}"), 400),
            (format!("{up}{version}Sec-WebSocket-Key: c2hvcnQ=|"), 400),
            (
                format!("{up}{version}Sec-WebSocket-Key: ????????????????????????|"),
                400,
            ),
            // 17 and 18 bytes.
            (
                format!("{up}{version}Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZWU=|"),
                400,
            ),
            (
                format!("{up}{version}Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZWVl|"),
                400,
            ),
        ] {
            assert_eq!(check(&headers), Err(status), "{headers}");
        }
    }
}
