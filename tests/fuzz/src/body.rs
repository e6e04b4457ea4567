//! Request bodies, cut anywhere, against a reader that has all bytes in hand (RFC 9112, sections 6
//! and 7).

use http::{Request, StatusCode, Version};
use roomcast::wire::body::{BodyPlan, BodyReader};

use super::input::{Input, pieces};

/// A byte says how the input is cut, two how long the body may be, one how it is framed; the rest is
/// the input.
pub fn check(data: &[u8]) {
    let mut input = Input(data);
    let how = input.byte();
    let bytes_max = usize::from(input.short());
    let framing = input.byte();
    let bytes = input.rest();
    let (expected, name, value) = if framing < 200 {
        let outcome = chunked(bytes, bytes_max);
        (outcome, "Transfer-Encoding", "chunked".to_owned())
    } else {
        let length = usize::from(framing - 200) * 16;
        let outcome = match bytes.get(..length) {
            _ if length > bytes_max => Outcome::Failed(StatusCode::PAYLOAD_TOO_LARGE),
            Some(body) => Outcome::Whole(body.to_vec(), length),
            None => Outcome::Partial,
        };
        (outcome, "Content-Length", length.to_string())
    };
    let request = Request::builder()
        .version(Version::HTTP_11)
        .header(name, value)
        .body(())
        .expect("a good request");
    for how in [0, 1, how] {
        let found = match BodyPlan::of(&request, bytes_max) {
            Ok(plan) => feed(plan.reader(), bytes, how, bytes_max),
            Err(status) => Outcome::Failed(status),
        };
        match (&expected, found) {
            // A line that cannot become a good one is refused before its end has come.
            (Outcome::Partial, Outcome::Failed(status)) if status == StatusCode::BAD_REQUEST => {}
            (expected, found) => assert_eq!(found, *expected, "cut in way {how}"),
        }
    }
}

#[derive(Debug, PartialEq)]
enum Outcome {
    /// More bytes are needed.
    Partial,
    /// The body, and how many bytes were the request's own.
    Whole(Vec<u8>, usize),
    Failed(StatusCode),
}

fn feed(mut reader: BodyReader, bytes: &[u8], how: u8, bytes_max: usize) -> Outcome {
    let mut is_done = reader.is_done();
    let mut total = 0;
    for piece in pieces(how, bytes.len()) {
        if is_done {
            break;
        }
        let end = piece.end;
        match reader.feed(&bytes[piece.clone()]) {
            Err(status) => {
                assert_eq!(reader.feed(b"0\r\n\r\n"), Err(status), "an error stays");
                return Outcome::Failed(status);
            }
            Ok((used, done)) => {
                assert_eq!(done, reader.is_done());
                assert!(done || used == piece.len(), "all is used until the end");
                is_done = done;
                total += used;
            }
        }
        assert!(
            reader.memory_bytes() <= 2 * end + 64,
            "memory follows input"
        );
        // One line of framing and its growth aside.
        assert!(
            reader.memory_bytes() <= bytes_max + 2 * 4096 + 64,
            "memory is bounded"
        );
    }
    if is_done {
        Outcome::Whole(reader.into_bytes(), total)
    } else {
        Outcome::Partial
    }
}

const SIZE_LINE_BYTES_MAX: usize = 256;
const EXTENSION_BYTES_MAX: usize = 16 << 10;
const TRAILER_BYTES_MAX: usize = 4096;

/// Takes a line off the front, with what ends it.
fn line<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let end = rest.iter().position(|byte| *byte == b'\n')?;
    let (line, after) = rest.split_at(end + 1);
    *rest = after;
    Some(line)
}

fn chunked(bytes: &[u8], bytes_max: usize) -> Outcome {
    let bad = Outcome::Failed(StatusCode::BAD_REQUEST);
    let mut rest = bytes;
    let mut body = Vec::new();
    let mut extension_bytes = 0;
    loop {
        let before = rest;
        let Some(size_line) = line(&mut rest) else {
            let is_too_long = before.len() >= SIZE_LINE_BYTES_MAX;
            return if is_too_long { bad } else { Outcome::Partial };
        };
        let Some((size, rest_of_line)) = chunk_size(size_line) else {
            return bad;
        };
        extension_bytes += rest_of_line;
        if size_line.len() > SIZE_LINE_BYTES_MAX || extension_bytes > EXTENSION_BYTES_MAX {
            return bad;
        }
        if size > (bytes_max - body.len()) as u64 {
            return Outcome::Failed(StatusCode::PAYLOAD_TOO_LARGE);
        }
        let size = size as usize;
        if size == 0 {
            break;
        }
        let end = &rest[rest.len().min(size)..rest.len().min(size + 2)];
        if !b"\r\n".starts_with(end) {
            return bad;
        }
        if end.len() < 2 {
            return Outcome::Partial;
        }
        body.extend_from_slice(&rest[..size]);
        rest = &rest[size + 2..];
    }
    trailers(bytes, rest, body)
}

fn trailers(bytes: &[u8], mut rest: &[u8], body: Vec<u8>) -> Outcome {
    let bad = Outcome::Failed(StatusCode::BAD_REQUEST);
    let mut room = TRAILER_BYTES_MAX;
    loop {
        let before = rest;
        let field = match line(&mut rest) {
            Some(field) if field.len() <= room => field,
            None if before.is_empty() || before.len() < room => return Outcome::Partial,
            _ => return Outcome::Failed(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
        };
        room -= field.len();
        match field.strip_suffix(b"\r\n") {
            Some([]) => return Outcome::Whole(body, bytes.len() - rest.len()),
            Some(field) if !field.contains(&b'\r') && field.contains(&b':') => {}
            _ => return bad,
        }
    }
}

/// The size that a line gives, and how many bytes of it are neither digits nor its end.
fn chunk_size(line: &[u8]) -> Option<(u64, usize)> {
    let line = line.strip_suffix(b"\r\n")?;
    let digits_len = line
        .iter()
        .take_while(|byte| byte.is_ascii_hexdigit())
        .count();
    let (digits, rest) = line.split_at(digits_len);
    if !(1..=16).contains(&digits_len) {
        return None;
    }
    let extension = rest.trim_ascii_start();
    let blanks = &rest[..rest.len() - extension.len()];
    let has_only_blanks = blanks.iter().all(|byte| matches!(byte, b' ' | b'\t'));
    let is_extension = extension.is_empty() || extension.starts_with(b";");
    if !has_only_blanks || !is_extension || extension.contains(&b'\r') {
        return None;
    }
    let digits = std::str::from_utf8(digits).ok()?;
    Some((u64::from_str_radix(digits, 16).ok()?, rest.len()))
}
