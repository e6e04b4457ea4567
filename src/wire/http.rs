//! HTTP/1.1: request heads in, whole responses out (RFC 9112).
//!
//! Owns: the head limit, what counts as a malformed head, and the form of a response.
//! Never: keeps bytes between calls; the connection does.

use std::fmt::Write as _;
use std::time::{Duration, UNIX_EPOCH};

use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{HeaderName, HeaderValue, Method, Request, StatusCode, Uri, Version};

/// What the bytes received so far are.
#[derive(Debug)]
pub enum Head {
    /// The beginning of a head.
    Partial,
    /// A whole head, `bytes` long; what follows it is not HTTP's to read.
    Complete {
        /// The request.
        request: Box<Request<()>>,
        /// Length of the head, in bytes.
        bytes: usize,
    },
    /// Not a request: the status to answer with.
    Malformed(StatusCode),
}

/// Reads a request head of at most `head_bytes_max` bytes from the front of `bytes`.
#[must_use]
pub fn parse_head(bytes: &[u8], head_bytes_max: usize) -> Head {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut headers);
    let considered = &bytes[..bytes.len().min(head_bytes_max)];
    match parsed.parse(considered) {
        Ok(httparse::Status::Complete(head_bytes)) => match to_request(&parsed) {
            Some(request) if lines_end_in_crlf(&considered[..head_bytes]) => Head::Complete {
                request: Box::new(request),
                bytes: head_bytes,
            },
            _ => Head::Malformed(StatusCode::BAD_REQUEST),
        },
        Ok(httparse::Status::Partial) if bytes.len() >= head_bytes_max => {
            Head::Malformed(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE)
        }
        Ok(httparse::Status::Partial) => Head::Partial,
        Err(httparse::Error::TooManyHeaders) => {
            Head::Malformed(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE)
        }
        Err(_) => Head::Malformed(StatusCode::BAD_REQUEST),
    }
}

/// Whether all of it is empty lines, which are to be ignored before a request (RFC 9112, section 2.2).
#[must_use]
pub fn is_blank(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| matches!(byte, b'\r' | b'\n'))
}

/// Whether the request names the host it is for, exactly once (RFC 9112, section 3.2).
#[must_use]
pub fn has_valid_host(request: &Request<()>) -> bool {
    match request.headers().get_all(HOST).iter().count() {
        0 => request.version() < Version::HTTP_11,
        1 => true,
        _ => false,
    }
}

/// Whether a body follows the head.
#[must_use]
pub fn has_body(request: &Request<()>) -> bool {
    request.headers().contains_key(TRANSFER_ENCODING)
        || request
            .headers()
            .get_all(CONTENT_LENGTH)
            .iter()
            .any(|length| length != "0")
}

/// Whether the peer lets the connection be used again (RFC 9112, section 9.3).
#[must_use]
pub fn keeps_alive(request: &Request<()>) -> bool {
    request.version() >= Version::HTTP_11 && !has_token(request, &CONNECTION, "close")
}

/// Whether a comma-separated header holds `token`, in any case and on any of its lines.
#[must_use]
pub fn has_token(request: &Request<()>, name: &HeaderName, token: &str) -> bool {
    request
        .headers()
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|part| part.trim().eq_ignore_ascii_case(token))
}

/// A response to be written whole.
#[derive(Debug)]
pub struct Response<'a> {
    status: StatusCode,
    headers: Vec<(&'a str, &'a str)>,
    content_type: &'a str,
    body: &'a [u8],
}

impl<'a> Response<'a> {
    /// A response whose body is `body`.
    #[must_use]
    pub fn new(status: StatusCode, content_type: &'a str, body: &'a [u8]) -> Self {
        Self {
            status,
            headers: Vec::new(),
            content_type,
            body,
        }
    }

    /// A response whose body is one line that says what the status means.
    #[must_use]
    pub fn plain(status: StatusCode, line: &'a str) -> Self {
        Self::new(status, "text/plain; charset=utf-8", line.as_bytes())
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &'a str, value: &'a str) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Its status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Encodes head and body; `unix_ms` is shown in `Date`. To a HEAD request the body is left
    /// out and its length is not (RFC 9110, section 9.3.2). What no page of another origin is to do
    /// with it is said as well, and is the least where the response does not say it itself.
    #[must_use]
    pub fn encode(&self, unix_ms: u64, keep_alive: bool, is_head_request: bool) -> Vec<u8> {
        let mut head = format!("HTTP/1.1 {}\r\n", self.status);
        let date = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_millis(unix_ms));
        let connection = match (
            keep_alive,
            self.headers.iter().any(|(name, _)| *name == "Upgrade"),
        ) {
            (true, _) => "keep-alive",
            // Whoever sends `Upgrade` must say so here (RFC 9110, section 7.8).
            (false, true) => "upgrade, close",
            (false, false) => "close",
        };
        let length = self.body.len().to_string();
        let fixed = [
            ("Date", date.as_str()),
            ("Content-Type", self.content_type),
            ("Content-Length", length.as_str()),
            ("X-Content-Type-Options", "nosniff"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
            ("X-Frame-Options", "DENY"),
        ];
        let is_given = |name| self.headers.iter().any(|(given, _)| *given == name);
        let unless_given = UNLESS_GIVEN.iter().filter(|(name, _)| !is_given(*name));
        let connection = [("Connection", connection)];
        let fixed = fixed.iter().chain(unless_given).chain(&connection);
        for (name, value) in fixed.chain(&self.headers) {
            // Writing into a string cannot fail.
            let _ = write!(head, "{name}: {value}\r\n");
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        if !is_head_request {
            bytes.extend_from_slice(self.body);
        }
        bytes
    }
}

/// What a response says that does not say otherwise: it is no document, and of this moment.
const UNLESS_GIVEN: [(&str, &str); 2] = [
    (
        "Content-Security-Policy",
        "default-src 'none'; frame-ancestors 'none'",
    ),
    ("Cache-Control", "no-store"),
];

/// Whether no line ends in LF alone. That may be taken for the end of a line (RFC 9112, section 2.2),
/// but to a proxy that does not do so the next line is a part of this one, and nobody has checked it.
fn lines_end_in_crlf(head: &[u8]) -> bool {
    let pairs = head.iter().zip(head.iter().skip(1));
    // Without a way out amid the head, many bytes are looked at together.
    let is_bare = |(&before, &byte): (&u8, &u8)| (byte == b'\n') & (before != b'\r');
    let has_bare = pairs.fold(false, |has, pair| has | is_bare(pair));
    !has_bare && head.first() != Some(&b'\n')
}

/// Most header fields in one head.
const HEADERS_MAX: usize = 64;

fn to_request(parsed: &httparse::Request<'_, '_>) -> Option<Request<()>> {
    let mut request = Request::new(());
    *request.method_mut() = Method::from_bytes(parsed.method?.as_bytes()).ok()?;
    *request.uri_mut() = Uri::try_from(parsed.path?).ok()?;
    *request.version_mut() = if parsed.version? == 0 {
        Version::HTTP_10
    } else {
        Version::HTTP_11
    };
    let headers = request.headers_mut();
    headers.reserve(parsed.headers.len());
    for header in parsed.headers.iter() {
        let name = HeaderName::from_bytes(header.name.as_bytes()).ok()?;
        headers.append(name, HeaderValue::from_bytes(header.value).ok()?);
    }
    Some(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_partial_until_its_last_byte() {
        let head = b"GET /ws?room=a HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n";
        for len in 0..head.len() {
            assert!(
                matches!(parse_head(&head[..len], 8192), Head::Partial),
                "{len}"
            );
        }
        let mut bytes = head.to_vec();
        bytes.extend(b"\x81\x80");
        let Head::Complete {
            request,
            bytes: used,
        } = parse_head(&bytes, 8192)
        else {
            panic!("the head is whole");
        };
        assert_eq!(used, head.len());
        assert_eq!(request.uri().query(), Some("room=a"));
    }

    #[test]
    fn malformed_heads_get_their_status() {
        let long = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "y".repeat(9000));
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(65));
        for (bytes, status) in [
            (&b"\x16\x03\x01\x02\x00"[..], 400),
            (b"hello world\r\n\r\n", 400),
            (b"GET  HTTP/1.1\r\n\r\n", 400),
            (b"GET / HTTP/2.0\r\n\r\n", 400),
            (b"GET / HTTP/1.1\r\nBad Name: x\r\n\r\n", 400),
            (b"GET / HTTP/1.1\r\nX: \x00\r\n\r\n", 400),
            (b"GET / HTTP/1.1\r\nX: y\n\r\n", 400),
            (b"GET / HTTP/1.1\nX: y\r\n\r\n", 400),
            (b"GET / HTTP/1.1\r\nX: y\r\n\n", 400),
            (b"GET / HTTP/1.1\n\n", 400),
            (b"GET / HTTP/1.1\r\nX: y\r\n z\r\n\r\n", 400),
            (long.as_bytes(), 431),
            (&long.as_bytes()[..8192], 431),
            (many.as_bytes(), 431),
        ] {
            let head = parse_head(bytes, 8192);
            assert!(
                matches!(head, Head::Malformed(is) if is == status),
                "{:?}: {head:?}",
                String::from_utf8_lossy(&bytes[..bytes.len().min(40)])
            );
        }
    }

    #[test]
    fn responses_are_whole() {
        let response = Response::plain(StatusCode::OK, "ok\n").header("X", "y");
        let text = String::from_utf8(response.encode(784_111_777_000, true, false)).unwrap();
        assert!(text.starts_with("HTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n"));
        assert!(text.contains("\r\nContent-Length: 3\r\n") && text.contains("\r\nX: y\r\n"));
        assert!(text.contains("\r\nConnection: keep-alive\r\n") && text.ends_with("\r\n\r\nok\n"));
        assert!(text.contains("\r\nCache-Control: no-store\r\n"), "{text}");
        let text = String::from_utf8(response.encode(0, false, true)).unwrap();
        assert!(text.contains("Content-Length: 3") && text.ends_with("\r\n\r\n"));
        let response = response.header("Cache-Control", "no-cache");
        let text = String::from_utf8(response.encode(0, false, false)).unwrap();
        assert_eq!(text.matches("\r\nCache-Control: ").count(), 1, "{text}");
        assert!(text.contains("\r\nCache-Control: no-cache\r\n"), "{text}");
    }
}
