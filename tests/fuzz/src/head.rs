//! Request heads against a reader of RFC 9112 with all bytes in hand, and what follows from a head:
//! host, body, keep-alive. A head that two programs read differently is how requests are smuggled.

use http::header::{HeaderName, HeaderValue};
use http::{Request, StatusCode, Version};
use roomcast::wire::body::BodyPlan;
use roomcast::wire::http::{Head, has_body, has_valid_host, keeps_alive, parse_head};

use super::input::{Input, pieces};

/// A byte says where to look at a part of the head, one how long it may be; the rest is the head and
/// what follows it.
pub fn check(data: &[u8]) {
    let mut input = Input(data);
    let how = input.byte();
    let bytes_max = 16 + 64 * usize::from(input.byte());
    let bytes = input.rest();
    let whole = parse_head(bytes, bytes_max);
    // As a connection sees it: more and more of the same bytes.
    for piece in pieces(how.max(1), bytes.len()) {
        let found = parse_head(&bytes[..piece.end], bytes_max);
        match (&found, &whole) {
            (Head::Partial, _) => {}
            (Head::Malformed(early), Head::Malformed(late)) => assert_eq!(early, late),
            (Head::Complete { bytes: early, .. }, Head::Complete { bytes: late, .. }) => {
                assert_eq!(early, late);
            }
            _ => panic!(
                "{found:?} of the first {} bytes became {whole:?}",
                piece.end
            ),
        }
    }
    let expected = naive(&bytes[..bytes.len().min(bytes_max)]);
    match (&whole, expected) {
        (Head::Partial, Naive::Partial | Naive::Malformed) => assert!(bytes.len() < bytes_max),
        (Head::Complete { request, bytes }, Naive::Complete(naive)) => {
            assert_eq!(*bytes, naive.bytes);
            is_the_same(request, &naive);
            follows(request, &naive);
        }
        (Head::Malformed(status), Naive::Complete(naive)) => {
            let too_many = naive.headers.len() > 64;
            let is_strange = !naive.has_plain_path();
            match *status {
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => assert!(too_many),
                _ => assert!(is_strange, "a good head is refused"),
            }
        }
        (Head::Malformed(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE), _) => {
            let is_long = bytes.len() >= bytes_max;
            let lines = bytes.iter().filter(|byte| **byte == b'\n').count();
            assert!(is_long || lines > 64, "neither long nor many");
        }
        (Head::Malformed(_), Naive::Malformed) => {}
        // What has come of a line shows that it cannot become a good one.
        (Head::Malformed(_), Naive::Partial) => {}
        (found, expected) => panic!("{found:?} where {expected:?} was expected"),
    }
}

#[derive(Debug)]
enum Naive {
    Partial,
    Complete(NaiveHead),
    Malformed,
}

#[derive(Debug)]
struct NaiveHead {
    bytes: usize,
    method: Vec<u8>,
    target: Vec<u8>,
    version: Version,
    /// Names in lower case.
    headers: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Characters that every reader of a request target takes.
fn is_plain(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || b"/?=&-._~".contains(byte)
}

/// RFC 9110, section 5.6.2.
fn is_token(bytes: &[u8]) -> bool {
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !bytes.is_empty() && bytes.iter().all(is_token)
}

fn naive(bytes: &[u8]) -> Naive {
    let mut rest = bytes;
    let mut lines = Vec::new();
    let mut is_whole = true;
    loop {
        let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
            return Naive::Partial;
        };
        // Empty lines before the first are passed over (RFC 9112, section 2.2). A line that ends without
        // CR is one to some readers and not to others.
        let line = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]);
        is_whole &= line.len() < end;
        rest = &rest[end + 1..];
        match (line, lines.is_empty()) {
            (b"", true) => {}
            (b"", false) => break,
            _ => lines.push(line),
        }
    }
    if !is_whole {
        return Naive::Malformed;
    }
    let first: Vec<&[u8]> = lines[0].split(|byte| *byte == b' ').collect();
    let &[method, target, version] = &first[..] else {
        return Naive::Malformed;
    };
    let version = match version {
        b"HTTP/1.0" => Version::HTTP_10,
        b"HTTP/1.1" => Version::HTTP_11,
        _ => return Naive::Malformed,
    };
    let is_target = |byte: &u8| *byte > b' ' && *byte != 0x7f;
    if !is_token(method) || target.is_empty() || !target.iter().all(is_target) {
        return Naive::Malformed;
    }
    let mut headers = Vec::new();
    for line in &lines[1..] {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            return Naive::Malformed;
        };
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        let is_value = |byte: &u8| matches!(*byte, b'\t' | b' '..=b'~' | 0x80..);
        // No white space before the colon, and no line that goes on (RFC 9112, section 5).
        if !is_token(name) || !value.iter().all(is_value) {
            return Naive::Malformed;
        }
        let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
        let start = value.iter().position(|byte| !is_blank(byte));
        let end = value.iter().rposition(|byte| !is_blank(byte));
        let value = match (start, end) {
            (Some(start), Some(end)) => &value[start..=end],
            _ => b"",
        };
        headers.push((name.to_ascii_lowercase(), value.to_vec()));
    }
    Naive::Complete(NaiveHead {
        bytes: bytes.len() - rest.len(),
        method: method.to_vec(),
        target: target.to_vec(),
        version,
        headers,
    })
}

fn is_the_same(request: &Request<()>, naive: &NaiveHead) {
    assert_eq!(request.method().as_str().as_bytes(), naive.method);
    assert_eq!(request.version(), naive.version);
    if naive.has_plain_path() {
        assert_eq!(request.uri().to_string().as_bytes(), naive.target);
    }
    let header = |(name, value): (&HeaderName, &HeaderValue)| {
        (name.as_str().as_bytes().to_vec(), value.as_bytes().to_vec())
    };
    let mut found: Vec<_> = request.headers().iter().map(header).collect();
    let mut expected = naive.headers.clone();
    // Only the order of those of one name means something.
    found.sort_by(|a, b| a.0.cmp(&b.0));
    expected.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(found, expected);
}

impl NaiveHead {
    fn has_plain_path(&self) -> bool {
        self.target.starts_with(b"/") && self.target.iter().all(is_plain)
    }

    fn all(&self, name: &str) -> Vec<&[u8]> {
        let named = self.headers.iter().filter(|(is, _)| is == name.as_bytes());
        named.map(|(_, value)| &value[..]).collect()
    }

    /// The items of a list, without the empty ones and in lower case; `None` if a byte of it is not
    /// ASCII.
    fn list(&self, name: &str) -> Option<Vec<String>> {
        let mut items = Vec::new();
        for value in self.all(name) {
            if !value.is_ascii() {
                return None;
            }
            let text = String::from_utf8_lossy(value).to_ascii_lowercase();
            let parts = text.split(',').map(|part| part.trim().to_owned());
            items.extend(parts.filter(|part| !part.is_empty()));
        }
        Some(items)
    }
}

/// What the rest of the server learns from a head.
fn follows(request: &Request<()>, naive: &NaiveHead) {
    let is_new = naive.version == Version::HTTP_11;
    let hosts = naive.all("host").len();
    assert_eq!(has_valid_host(request), hosts == 1 || hosts == 0 && !is_new);

    let says_close = naive
        .all("connection")
        .into_iter()
        .filter(|value| value.is_ascii())
        .any(|value| {
            let text = String::from_utf8_lossy(value).to_ascii_lowercase();
            text.split(',').any(|part| part.trim() == "close")
        });
    assert_eq!(keeps_alive(request), is_new && !says_close);

    let expected = framing(naive);
    let announces_one = !naive.all("transfer-encoding").is_empty()
        || naive
            .all("content-length")
            .iter()
            .any(|length| *length != b"0");
    assert_eq!(has_body(request), announces_one);
    if !announces_one {
        // No length, or 0 as often as it is given: nothing follows, also where the latter is refused.
        let is_none = matches!(expected, Ok(Framing::None) | Err(400));
        assert!(is_none, "a body that nobody looks for");
    }
    let waits = match naive.list("expect") {
        Some(items) if items.iter().all(|item| item == "100-continue") => Ok(!items.is_empty()),
        _ => Err(417),
    };
    let plan = BodyPlan::of(request, BODY_BYTES_MAX);
    match (plan, expected, waits) {
        (Err(status), Err(expected), _) => assert_eq!(status.as_u16(), expected),
        (Err(status), Ok(_), Err(expected)) => assert_eq!(status.as_u16(), expected),
        (Ok(plan), Ok(framing), Ok(waits)) => {
            let has_some = framing != Framing::None;
            assert_eq!(plan.is_empty(), !has_some);
            assert_eq!(plan.needs_continue(), waits && is_new && has_some);
            let mut reader = plan.reader();
            let found = match framing {
                Framing::None => reader.feed(b"GET /"),
                Framing::Chunked => reader.feed(b"0\r\n\r\nGET /"),
                Framing::Length(length) => reader.feed(&vec![b'x'; length + 1]),
            };
            let own_bytes = match framing {
                Framing::None => 0,
                Framing::Chunked => 5,
                Framing::Length(length) => length,
            };
            assert_eq!(found, Ok((own_bytes, true)));
        }
        (plan, expected, waits) => panic!("{plan:?} where {expected:?}, {waits:?}"),
    }
}

const BODY_BYTES_MAX: usize = 5000;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Framing {
    None,
    Length(usize),
    Chunked,
}

/// RFC 9112, section 6.3, at its strictest.
fn framing(naive: &NaiveHead) -> Result<Framing, u16> {
    let lengths = naive.all("content-length");
    if !naive.all("transfer-encoding").is_empty() {
        if !lengths.is_empty() || naive.version < Version::HTTP_11 {
            return Err(400);
        }
        let mut found = Err(400);
        for value in naive.all("transfer-encoding") {
            if !value.is_ascii() {
                return Err(400);
            }
            for coding in String::from_utf8_lossy(value).split(',').map(str::trim) {
                found = match (coding.to_ascii_lowercase().as_str(), found) {
                    ("", found) => found,
                    ("chunked", Err(400)) => Ok(Framing::Chunked),
                    ("chunked", _) => Err(499),
                    _ => return Err(501),
                };
            }
        }
        // Chunked twice.
        return found.map_err(|status| if status == 499 { 400 } else { status });
    }
    match lengths[..] {
        [] => Ok(Framing::None),
        [digits] if !digits.is_empty() && digits.iter().all(u8::is_ascii_digit) => {
            let text = String::from_utf8_lossy(digits);
            match text.parse::<u64>() {
                Ok(0) => Ok(Framing::None),
                Ok(length) if length <= BODY_BYTES_MAX as u64 => {
                    Ok(Framing::Length(length as usize))
                }
                Ok(_) => Err(413),
                Err(_) => Err(400),
            }
        }
        _ => Err(400),
    }
}
