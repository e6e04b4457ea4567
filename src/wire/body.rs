//! Request bodies of HTTP/1.1, read as they come and bounded (RFC 9112, sections 6 and 7).
//!
//! Owns: which framing a head announces, the bytes of the body so far, and what of the framing has
//! come but is not yet understood.
//! Never: trusts a length. Memory follows what was received, not what was claimed; neither the
//! bytes of a body nor those of its framing can pass their bounds.
//!
//! Invariants
//! - A head that could be read in two ways is refused and never guessed at, so that nothing between
//!   the peer and us can see another request than we do.
//! - The result does not depend on how the bytes were cut.
//! - After an error nothing is known about where the next request begins: the answer with that
//!   status has to be the last one of the connection.

use http::header::{CONTENT_LENGTH, EXPECT, TRANSFER_ENCODING};
use http::{Request, StatusCode, Version};

/// How the body of a request is framed, or why it cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyPlan {
    framing: Framing,
    needs_continue: bool,
    bytes_max: usize,
}

impl BodyPlan {
    /// Reads the framing that the head announces for a body of at most `bytes_max` bytes.
    ///
    /// ```
    /// use http::{Request, StatusCode};
    /// use roomcast::wire::body::BodyPlan;
    ///
    /// let head = |length| Request::builder().header("Content-Length", length).body(()).unwrap();
    /// let mut reader = BodyPlan::of(&head("5"), 10)?.reader();
    /// assert_eq!(reader.feed(b"helloGET /"), Ok((5, true)));
    /// assert_eq!(reader.into_bytes(), b"hello");
    /// assert_eq!(BodyPlan::of(&head("11"), 10), Err(StatusCode::PAYLOAD_TOO_LARGE));
    /// # Ok::<(), StatusCode>(())
    /// ```
    ///
    /// # Errors
    /// The status to answer with before the connection is closed: 400 for framing that contradicts
    /// itself or is malformed, 501 for a transfer coding other than `chunked`, 413 for a length
    /// over the bound, 417 for an expectation other than `100-continue`.
    pub fn of(request: &Request<()>, bytes_max: usize) -> Result<Self, StatusCode> {
        let framing = if request.headers().contains_key(TRANSFER_ENCODING) {
            // Whoever sends both, or chunks by a version that knows none, is at best broken and at
            // worst hides a second request (RFC 9112, section 6.1).
            if request.headers().contains_key(CONTENT_LENGTH)
                || request.version() < Version::HTTP_11
            {
                return Err(StatusCode::BAD_REQUEST);
            }
            transfer_coding(request)?
        } else {
            match content_length(request)? {
                None | Some(0) => Framing::None,
                Some(length) => match usize::try_from(length) {
                    Ok(length) if length <= bytes_max => Framing::Length(length),
                    _ => return Err(StatusCode::PAYLOAD_TOO_LARGE),
                },
            }
        };
        let expects_continue = expects_continue(request)?;
        Ok(Self {
            framing,
            // From a client of HTTP/1.0 the expectation is ignored, and where no body follows
            // there is nothing to wait for (RFC 9110, section 10.1.1).
            needs_continue: expects_continue
                && request.version() >= Version::HTTP_11
                && framing != Framing::None,
            bytes_max,
        })
    }

    /// Whether the peer waits for a `100 Continue` before it sends the body. The interim response
    /// may be left out when some of the body has come already.
    #[must_use]
    pub fn needs_continue(&self) -> bool {
        self.needs_continue
    }

    /// Whether no byte of a body follows the head.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.framing == Framing::None
    }

    /// A reader for the body.
    #[must_use]
    pub fn reader(self) -> BodyReader {
        let (state, bytes_max) = match self.framing {
            Framing::None => (State::Done, 0),
            Framing::Length(length) => (State::Data { left: length }, length),
            Framing::Chunked => (State::Size, self.bytes_max),
        };
        BodyReader {
            state,
            is_chunked: self.framing == Framing::Chunked,
            bytes: Vec::new(),
            bytes_max,
            line: Vec::new(),
            extension_bytes: 0,
            trailer_bytes: 0,
        }
    }
}

/// The interim response that a plan asks for with [`BodyPlan::needs_continue`].
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Takes the bytes behind a head and keeps those of the body.
#[derive(Debug)]
pub struct BodyReader {
    state: State,
    is_chunked: bool,
    bytes: Vec<u8>,
    /// The announced length, or the bound on a chunked body.
    bytes_max: usize,
    /// The beginning of a line of framing whose end has not come.
    line: Vec<u8>,
    extension_bytes: usize,
    trailer_bytes: usize,
}

impl BodyReader {
    /// Reads on; returns how many of `bytes` belong to this request, and whether the body is whole.
    /// When it is, what is left over is the beginning of the next request; when it is not, all of
    /// `bytes` were used.
    ///
    /// # Errors
    /// 400 for malformed chunks, 413 for a body over its bound (said as soon as a chunk announces
    /// it), 431 for trailers over theirs. Once given, an error is given again by every later call.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(usize, bool), StatusCode> {
        let mut used = 0;
        loop {
            let rest = &bytes[used..];
            let step = match self.state {
                State::Failed(status) => Err(status),
                State::Done => return Ok((used, true)),
                _ if rest.is_empty() => return Ok((used, false)),
                State::Data { left } => Ok(self.take_data(rest, left)),
                State::DataEnd { expected } => self.take_data_end(rest, expected),
                State::Size => self.take_size(rest),
                State::Trailers => self.take_trailer(rest),
            };
            match step {
                Ok(step) => used += step,
                Err(status) => {
                    self.state = State::Failed(status);
                    // Nothing of it will be looked at any more.
                    self.bytes = Vec::new();
                    self.line = Vec::new();
                    return Err(status);
                }
            }
        }
    }

    /// Whether the body is whole.
    #[must_use]
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Bytes of memory held for the body and for framing in hand.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.bytes.capacity() + self.line.capacity()
    }

    /// The body as far as it has come.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    fn take_data(&mut self, rest: &[u8], left: usize) -> usize {
        let piece = &rest[..rest.len().min(left)];
        if self.bytes.capacity() - self.bytes.len() < piece.len() {
            // Doubling, but never past what may still come. The subtraction holds because no more
            // than `bytes_max` is ever let in.
            let room = self.bytes_max - self.bytes.len();
            let wanted = piece.len().max(self.bytes.len()).min(room);
            self.bytes.reserve_exact(wanted);
        }
        self.bytes.extend_from_slice(piece);
        let left = left - piece.len();
        self.state = match (left, self.is_chunked) {
            (0, true) => State::DataEnd { expected: b"\r\n" },
            (0, false) => State::Done,
            _ => State::Data { left },
        };
        piece.len()
    }

    /// The line break behind the data of a chunk.
    fn take_data_end(&mut self, rest: &[u8], expected: &'static [u8]) -> Result<usize, StatusCode> {
        let len = rest.len().min(expected.len());
        if rest[..len] != expected[..len] {
            return Err(StatusCode::BAD_REQUEST);
        }
        self.state = match &expected[len..] {
            [] => State::Size,
            expected => State::DataEnd { expected },
        };
        Ok(len)
    }

    /// The line before the data of a chunk: its size, and extensions that are ignored.
    fn take_size(&mut self, rest: &[u8]) -> Result<usize, StatusCode> {
        let (used, is_whole) = self.take_line(rest, SIZE_LINE_BYTES_MAX);
        // What `parse_chunk_size` lets pass: no digit at all, read as the last chunk.
        let has_digit = self.line.first().is_some_and(u8::is_ascii_hexdigit);
        // An LF that does not end a line makes two lines for others and one for us; it shows as a
        // line that is whole to `take_line` and not to the parser.
        let size = match httparse::parse_chunk_size(&self.line) {
            Ok(httparse::Status::Complete((_, size))) if has_digit && is_whole => size,
            Ok(httparse::Status::Partial)
                if has_digit && !is_whole && self.line.len() < SIZE_LINE_BYTES_MAX =>
            {
                return Ok(used);
            }
            _ => return Err(StatusCode::BAD_REQUEST),
        };
        let digits = self
            .line
            .iter()
            .take_while(|byte| byte.is_ascii_hexdigit())
            .count();
        self.extension_bytes += self.line.len() - digits - 2;
        if self.extension_bytes > EXTENSION_BYTES_MAX {
            return Err(StatusCode::BAD_REQUEST);
        }
        self.line.clear();
        let room = self.bytes_max - self.bytes.len();
        self.state = match usize::try_from(size) {
            Ok(0) => State::Trailers,
            Ok(left) if left <= room => State::Data { left },
            _ => return Err(StatusCode::PAYLOAD_TOO_LARGE),
        };
        Ok(used)
    }

    /// One line behind the last chunk; the empty one ends the body. Trailers are ignored, as
    /// RFC 9110, section 6.5.1, allows: no field of ours is defined to stand there.
    fn take_trailer(&mut self, rest: &[u8]) -> Result<usize, StatusCode> {
        let (used, is_whole) = self.take_line(rest, TRAILER_BYTES_MAX - self.trailer_bytes);
        if !is_whole {
            if self.trailer_bytes + self.line.len() >= TRAILER_BYTES_MAX {
                return Err(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
            }
            return Ok(used);
        }
        let Some(field) = self.line.strip_suffix(b"\r\n") else {
            return Err(StatusCode::BAD_REQUEST);
        };
        if field.is_empty() {
            self.line = Vec::new();
            self.state = State::Done;
            return Ok(used);
        }
        if field.contains(&b'\r') || !field.contains(&b':') {
            return Err(StatusCode::BAD_REQUEST);
        }
        self.trailer_bytes += self.line.len();
        self.line.clear();
        Ok(used)
    }

    /// Moves bytes into `line` until it ends with LF or is `line_bytes_max` long; returns how many
    /// were moved and whether the line has ended.
    fn take_line(&mut self, rest: &[u8], line_bytes_max: usize) -> (usize, bool) {
        let considered = &rest[..rest.len().min(line_bytes_max - self.line.len())];
        let end = considered.iter().position(|byte| *byte == b'\n');
        let used = end.map_or(considered.len(), |end| end + 1);
        self.line.extend_from_slice(&considered[..used]);
        (used, end.is_some())
    }
}

/// Longest line with the size of a chunk, extensions included, in bytes.
const SIZE_LINE_BYTES_MAX: usize = 256;

/// Most bytes of chunk extensions in one body. Without it, 1 MiB in chunks of one byte could bring
/// 250 MiB of them.
const EXTENSION_BYTES_MAX: usize = 16 * 1024;

/// Most bytes of trailers, the empty line included.
const TRAILER_BYTES_MAX: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    None,
    Length(usize),
    Chunked,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Bytes of the body, `left` more of them, never 0.
    Data {
        left: usize,
    },
    /// The line break behind a chunk, of which `expected` has not come.
    DataEnd {
        expected: &'static [u8],
    },
    Size,
    Trailers,
    Done,
    Failed(StatusCode),
}

/// Digits only, on one line and once: a list of equal lengths is a malformed one (RFC 9112,
/// section 6.3, lets us refuse it).
fn content_length(request: &Request<()>) -> Result<Option<u64>, StatusCode> {
    let mut values = request.headers().get_all(CONTENT_LENGTH).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let digits = value.to_str().unwrap_or_default();
    if values.next().is_some() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(StatusCode::BAD_REQUEST);
    }
    // What is left to fail is no digit at all and a number over 64 bits.
    digits.parse().map(Some).or(Err(StatusCode::BAD_REQUEST))
}

fn transfer_coding(request: &Request<()>) -> Result<Framing, StatusCode> {
    let mut chunked = 0;
    for value in request.headers().get_all(TRANSFER_ENCODING) {
        let value = value.to_str().or(Err(StatusCode::BAD_REQUEST))?;
        for coding in value.split(',').map(str::trim) {
            match coding {
                // An empty element of a list is to be ignored (RFC 9110, section 5.6.1).
                "" => {}
                coding if coding.eq_ignore_ascii_case("chunked") => chunked += 1,
                _ => return Err(StatusCode::NOT_IMPLEMENTED),
            }
        }
    }
    // Chunked may not be applied twice, and a list without a coding says nothing.
    if chunked == 1 {
        Ok(Framing::Chunked)
    } else {
        Err(StatusCode::BAD_REQUEST)
    }
}

fn expects_continue(request: &Request<()>) -> Result<bool, StatusCode> {
    let mut expects = false;
    for value in request.headers().get_all(EXPECT) {
        let value = value.to_str().or(Err(StatusCode::EXPECTATION_FAILED))?;
        for expectation in value.split(',').map(str::trim) {
            match expectation {
                "" => {}
                text if text.eq_ignore_ascii_case("100-continue") => expects = true,
                _ => return Err(StatusCode::EXPECTATION_FAILED),
            }
        }
    }
    Ok(expects)
}

#[cfg(test)]
mod tests {
    use super::super::http::{Head, parse_head};
    use super::*;

    const MAX: usize = 1 << 20;

    fn plan_of(version: &str, headers: &str) -> Result<BodyPlan, u16> {
        let head = format!(
            "POST /api/info HTTP/{version}\r\nHost: a\r\n{}\r\n",
            headers.replace('|', "\r\n")
        );
        let Head::Complete { request, .. } = parse_head(head.as_bytes(), 8192) else {
            panic!("not a head: {head}");
        };
        BodyPlan::of(&request, MAX).map_err(|status| status.as_u16())
    }

    #[test]
    fn heads_announce_a_framing() {
        for (headers, framing) in [
            ("", Framing::None),
            ("Content-Length: 0|", Framing::None),
            ("Content-Length: 00|", Framing::None),
            ("Content-Length: 5|", Framing::Length(5)),
            ("Content-Length: 0005|", Framing::Length(5)),
            ("Content-Length: 1048576|", Framing::Length(MAX)),
            ("Transfer-Encoding: chunked|", Framing::Chunked),
            ("transfer-encoding:  CHUNKED |", Framing::Chunked),
            ("Transfer-Encoding: ,chunked,|", Framing::Chunked),
            (
                "Transfer-Encoding: chunked|Transfer-Encoding: |",
                Framing::Chunked,
            ),
        ] {
            let found = plan_of("1.1", headers).map(|plan| plan.framing);
            assert_eq!(found, Ok(framing), "{headers}");
        }
        let old = plan_of("1.0", "Content-Length: 5|").map(|plan| plan.framing);
        assert_eq!(old, Ok(Framing::Length(5)));
    }

    #[test]
    fn framing_that_cannot_be_trusted_is_refused() {
        for (headers, status) in [
            ("Content-Length: 1048577|", 413),
            ("Content-Length: 18446744073709551615|", 413),
            ("Content-Length: 18446744073709551616|", 400),
            ("Content-Length: 99999999999999999999999|", 400),
            ("Content-Length: +5|", 400),
            ("Content-Length: -5|", 400),
            ("Content-Length: 5 5|", 400),
            ("Content-Length: 0x5|", 400),
            ("Content-Length: 5.0|", 400),
            ("Content-Length: 5, 5|", 400),
            ("Content-Length: 5,|", 400),
            ("Content-Length: \u{665}|", 400),
            ("Content-Length: |", 400),
            ("Content-Length: 5|Content-Length: 5|", 400),
            ("Content-Length: 5|Content-Length: 6|", 400),
            ("Content-Length: 0|Content-Length: 0|", 400),
            ("Content-Length: 5|Transfer-Encoding: chunked|", 400),
            ("Transfer-Encoding: gzip|Content-Length: 5|", 400),
            ("Transfer-Encoding: |Content-Length: 5|", 400),
            ("Transfer-Encoding: |", 400),
            ("Transfer-Encoding: chunked, chunked|", 400),
            (
                "Transfer-Encoding: chunked|Transfer-Encoding: chunked|",
                400,
            ),
            ("Transfer-Encoding: gzip|", 501),
            ("Transfer-Encoding: gzip, chunked|", 501),
            ("Transfer-Encoding: chunked, identity|", 501),
            ("Transfer-Encoding: xchunked|", 501),
            ("Transfer-Encoding: chunked;q=1|", 501),
            ("Transfer-Encoding: \"chunked\"|", 501),
        ] {
            assert_eq!(plan_of("1.1", headers), Err(status), "{headers}");
        }
        assert_eq!(plan_of("1.0", "Transfer-Encoding: chunked|"), Err(400));
    }

    #[test]
    fn only_one_expectation_is_known() {
        for (version, headers, expected) in [
            ("1.1", "Content-Length: 5|", Ok(false)),
            ("1.1", "Content-Length: 5|Expect: 100-continue|", Ok(true)),
            ("1.1", "Content-Length: 5|Expect: 100-Continue,|", Ok(true)),
            (
                "1.1",
                "Transfer-Encoding: chunked|Expect: 100-continue|",
                Ok(true),
            ),
            ("1.1", "Content-Length: 0|Expect: 100-continue|", Ok(false)),
            ("1.1", "Expect: 100-continue|", Ok(false)),
            ("1.0", "Content-Length: 5|Expect: 100-continue|", Ok(false)),
            ("1.1", "Content-Length: 5|Expect: tea|", Err(417)),
            (
                "1.1",
                "Content-Length: 5|Expect: 100-continue, tea|",
                Err(417),
            ),
            (
                "1.1",
                "Content-Length: 5|Expect: 100-continue|Expect: tea|",
                Err(417),
            ),
            ("1.1", "Expect: tea|", Err(417)),
            (
                "1.1",
                "Content-Length: 1048577|Expect: 100-continue|",
                Err(413),
            ),
        ] {
            let found = plan_of(version, headers).map(|plan| plan.needs_continue());
            assert_eq!(found, expected, "{headers}");
        }
    }

    /// Feeds `input` in pieces of `step` bytes; gives the body and how many bytes were its own.
    fn read(
        framing: Framing,
        bytes_max: usize,
        input: &[u8],
        step: usize,
    ) -> Result<Option<(Vec<u8>, usize)>, u16> {
        let plan = BodyPlan {
            framing,
            needs_continue: false,
            bytes_max,
        };
        let mut reader = plan.reader();
        let mut all_used = 0;
        for piece in input.chunks(step) {
            let (used, is_done) = reader.feed(piece).map_err(|status| {
                assert_eq!(reader.feed(b"0\r\n\r\n"), Err(status), "an error stays");
                assert_eq!(reader.memory_bytes(), 0);
                status.as_u16()
            })?;
            all_used += used;
            assert_eq!(is_done, reader.is_done());
            if is_done {
                assert_eq!(reader.feed(b"more"), Ok((0, true)));
                return Ok(Some((reader.into_bytes(), all_used)));
            }
            assert_eq!(used, piece.len());
        }
        Ok(None)
    }

    #[test]
    fn bodies_come_out_whole_however_they_are_cut() {
        let next = b"GET /";
        for (framing, input, body) in [
            (Framing::None, &b""[..], &b""[..]),
            (Framing::Length(5), b"hello", b"hello"),
            (Framing::Chunked, b"0\r\n\r\n", b""),
            (Framing::Chunked, b"0000000000000000\r\n\r\n", b""),
            (
                Framing::Chunked,
                b"5\r\nhello\r\n0006\r\n world\r\n0\r\n\r\n",
                b"hello world",
            ),
            (
                Framing::Chunked,
                b"A \t;ext=\"a;b\";x\r\n0\r\n\r\n56789\r\n0;last\r\nA: b\r\nc:\r\n\r\n",
                b"0\r\n\r\n56789",
            ),
            (
                Framing::Chunked,
                b"a\r\n0123456789\r\n0 \r\n\r\n",
                b"0123456789",
            ),
        ] {
            for step in 1..=input.len() + next.len() {
                let found = read(framing, 100, &[input, next].concat(), step);
                assert_eq!(found, Ok(Some((body.to_vec(), input.len()))), "step {step}");
            }
            for len in 0..input.len() {
                let found = read(framing, 100, &input[..len], 3);
                assert_eq!(found, Ok(None), "cut at {len}");
            }
        }
    }

    #[test]
    fn malformed_chunks_get_their_status() {
        let extension = |len| format!("1;{}\r\nx\r\n0\r\n\r\n", "e".repeat(len));
        // A line of 256 bytes: the size, the semicolon and the line break make four of them.
        let longest = extension(252);
        assert!(matches!(
            read(Framing::Chunked, 100, longest.as_bytes(), 7),
            Ok(Some(_))
        ));
        let trailers = |len| format!("0\r\nA:{}\r\n\r\n", "t".repeat(len));
        assert!(matches!(
            read(Framing::Chunked, 100, trailers(4096 - 6).as_bytes(), 7),
            Ok(Some(_))
        ));
        let many_extensions = format!("1;{}\r\nx\r\n", "e".repeat(250)).repeat(66);
        for (input, status) in [
            ("\r\n\r\n", 400),
            (";x\r\n\r\n", 400),
            (" 1\r\nx\r\n0\r\n\r\n", 400),
            ("-1\r\n", 400),
            ("+1\r\n", 400),
            ("0x1\r\n", 400),
            ("g", 400),
            ("1 1\r\n", 400),
            ("1\n", 400),
            ("1\rx", 400),
            ("1;a\nb\r\n", 400),
            ("1;a\rb", 400),
            ("1\r\nxy", 400),
            ("1\r\nx\n", 400),
            ("1\r\nx\r\r", 400),
            ("0\r\n\n", 400),
            ("0\r\nA: b\n\r\n", 400),
            ("0\r\nno field\r\n\r\n", 400),
            ("0\r\n\rA: b\r\n\r\n", 400),
            ("65\r\n", 413),
            ("64;x\r\n", 0),
            ("FFFFFFFFFFFFFFFF\r\n", 413),
            ("FFFFFFFFFFFFFFFFF", 400),
            ("10000000000000000\r\n", 400),
            ("00000000000000001\r\n", 400),
            ("3c\r\n", 0),
            (extension(253).as_str(), 400),
            (many_extensions.as_str(), 400),
            (trailers(4096 - 5).as_str(), 431),
            (trailers(9000).as_str(), 431),
        ] {
            for step in [1, 2, 7, 10_000] {
                let found = read(Framing::Chunked, 100, input.as_bytes(), step);
                let expected = if status == 0 { Ok(None) } else { Err(status) };
                assert_eq!(found, expected, "{:?}", &input[..input.len().min(40)]);
            }
        }
        let sum = format!("3c\r\n{}\r\n29\r\n", "x".repeat(60));
        assert_eq!(read(Framing::Chunked, 100, sum.as_bytes(), 5), Err(413));
        let sum = format!("3c\r\n{}\r\n28\r\n", "x".repeat(60));
        assert_eq!(read(Framing::Chunked, 100, sum.as_bytes(), 5), Ok(None));
    }

    #[test]
    fn memory_follows_what_was_received() {
        for (framing, claim) in [
            (Framing::Length(MAX), &b""[..]),
            (Framing::Chunked, b"100000\r\n"),
        ] {
            let plan = BodyPlan {
                framing,
                needs_continue: false,
                bytes_max: MAX,
            };
            let mut reader = plan.reader();
            assert_eq!(reader.feed(claim), Ok((claim.len(), false)));
            assert!(reader.memory_bytes() < 64);
            let piece = [b'x'; 1000];
            for received in (1000..MAX).step_by(1000) {
                assert_eq!(reader.feed(&piece), Ok((1000, false)));
                assert!(reader.memory_bytes() <= (2 * received).min(MAX) + 64);
            }
        }
    }
}
