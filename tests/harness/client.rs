//! A WebSocket client that checks what a server must do and allows itself what a client must not.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use super::{DEADLINE, Daemon, Frame, Response, Wire, opcode};

/// The key of the example in RFC 6455, section 1.3, and the answer it gives there.
pub(crate) const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub(crate) const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// How many received messages a failing test tells about.
const SEEN_MAX: usize = 12;

/// What the daemon sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, String),
}

impl Message {
    pub(crate) fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// The message in a line of bounded length.
    fn summary(&self) -> String {
        let mut text = format!("{self:?}");
        if let Some((end, _)) = text.char_indices().nth(120) {
            text.truncate(end);
            text.push('…');
        }
        text
    }
}

/// Clients whose messages never end, of 400 KiB each so far, until one is refused: memory of the daemon
/// that no close of a slow member gives back.
pub(crate) fn hoard(daemon: &Daemon) -> Vec<Client> {
    let part = vec![b'x'; 400 << 10];
    let clients = (0..200).map_while(|_| {
        let dial = Dial::new(daemon.addr(), "/ws?room=hoard");
        let mut client = dial.try_connect().ok()?;
        client.send_frame(false, 0, opcode::BINARY, true, &part);
        Some(client)
    });
    clients.collect()
}

/// An upgrade request for `target`, with `headers` after the usual ones.
pub(crate) fn upgrade_request(addr: SocketAddr, target: &str, headers: &[(&str, &str)]) -> String {
    let mut request = format!(
        "GET {target} HTTP/1.1\r\nHost: {addr}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n"
    );
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str("\r\n");
    request
}

/// How to open a [`Client`].
#[derive(Clone, Debug)]
pub(crate) struct Dial {
    addr: SocketAddr,
    target: String,
    headers: Vec<(String, String)>,
    source: IpAddr,
    receive_bytes: Option<usize>,
    answers_pings: bool,
}

impl Dial {
    pub(crate) fn new(addr: SocketAddr, target: &str) -> Self {
        Self {
            addr,
            target: target.to_owned(),
            headers: Vec::new(),
            source: IpAddr::V4(Ipv4Addr::LOCALHOST),
            receive_bytes: None,
            answers_pings: true,
        }
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Connects from 127.0.0.`host`.
    pub(crate) fn source(mut self, host: u8) -> Self {
        self.source = Ipv4Addr::new(127, 0, 0, host).into();
        self
    }

    /// Asks for a small receive buffer, so that little fits into the kernel while nobody reads.
    pub(crate) fn receive_buffer(mut self, bytes: usize) -> Self {
        self.receive_bytes = Some(bytes);
        self
    }

    /// Pings are returned by `recv` and not answered.
    pub(crate) fn silent(mut self) -> Self {
        self.answers_pings = false;
        self
    }

    /// Connects and upgrades. Panics if the daemon refuses.
    pub(crate) fn connect(&self) -> Client {
        match self.try_connect() {
            Ok(client) => client,
            Err(response) => panic!("{} was refused: {response:?}", self.target),
        }
    }

    /// Connects and upgrades, or returns the refusal.
    pub(crate) fn try_connect(&self) -> Result<Client, Response> {
        let mut wire = Wire::connect_from(self.addr, self.source, self.receive_bytes);
        let headers: Vec<_> = self.headers.iter().map(|(n, v)| (&**n, &**v)).collect();
        wire.send(upgrade_request(self.addr, &self.target, &headers));
        let mut client = Client::upgraded(wire)?;
        client.answers_pings = self.answers_pings;
        Ok(client)
    }
}

/// A WebSocket connection to the daemon.
pub(crate) struct Client {
    pub(crate) wire: Wire,
    answers_pings: bool,
    /// Summaries of the newest messages, for a failing test.
    seen: VecDeque<String>,
    seen_len: usize,
}

impl Client {
    pub(crate) fn connect(daemon: &Daemon, target: &str) -> Self {
        Dial::new(daemon.addr(), target).connect()
    }

    /// Reads the answer to an upgrade request that is already sent on `wire`.
    pub(crate) fn upgraded(mut wire: Wire) -> Result<Self, Response> {
        let response = wire.response();
        if response.status != 101 {
            return Err(response);
        }
        assert_eq!(response.header("sec-websocket-accept"), Some(ACCEPT));
        let is = |name, value: &str| {
            let header = response.header(name);
            header.is_some_and(|header| header.eq_ignore_ascii_case(value))
        };
        assert!(is("upgrade", "websocket"), "{response:?}");
        assert!(is("connection", "upgrade"), "{response:?}");
        for absent in ["sec-websocket-protocol", "sec-websocket-extensions"] {
            assert_eq!(response.header(absent), None, "{response:?}");
        }
        Ok(Self {
            wire,
            answers_pings: true,
            seen: VecDeque::new(),
            seen_len: 0,
        })
    }

    /// Our address, which the daemon logs as `peer`.
    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.wire.local_addr()
    }

    pub(crate) fn send_text(&mut self, text: &str) {
        self.send(&Frame::text(text));
    }

    pub(crate) fn send_binary(&mut self, payload: impl AsRef<[u8]>) {
        self.send(&Frame::binary(payload));
    }

    pub(crate) fn send_ping(&mut self, payload: impl AsRef<[u8]>) {
        self.send(&Frame::ping(payload));
    }

    pub(crate) fn send_close(&mut self, code: u16, reason: &str) {
        self.send(&Frame::close(code, reason));
    }

    pub(crate) fn send(&mut self, frame: &Frame) {
        self.wire.send(frame.bytes());
    }

    /// Sends a frame of any kind, allowed or not.
    pub(crate) fn send_frame(
        &mut self,
        fin: bool,
        rsv: u8,
        opcode: u8,
        masked: bool,
        payload: &[u8],
    ) {
        self.send(&Frame {
            fin,
            rsv,
            opcode,
            masked,
            payload: payload.to_vec(),
        });
    }

    pub(crate) fn send_bytes(&mut self, bytes: impl AsRef<[u8]>) {
        self.wire.send(bytes);
    }

    /// The next message. Pings are answered and skipped unless the client was dialled `silent`.
    pub(crate) fn recv(&mut self) -> Message {
        self.recv_by(Instant::now() + DEADLINE)
            .unwrap_or_else(|| panic!("no message within {DEADLINE:?}{}", self.history()))
    }

    /// The next message, or `None` if none comes within `span`.
    pub(crate) fn recv_within(&mut self, span: Duration) -> Option<Message> {
        self.recv_by(Instant::now() + span)
    }

    /// The next message, which must be text.
    pub(crate) fn recv_text(&mut self) -> String {
        match self.recv() {
            Message::Text(text) => text,
            other => panic!("no text but {}{}", other.summary(), self.history()),
        }
    }

    /// The next message, which must be binary.
    pub(crate) fn recv_binary(&mut self) -> Vec<u8> {
        match self.recv() {
            Message::Binary(payload) => payload,
            other => panic!("not binary but {}{}", other.summary(), self.history()),
        }
    }

    /// The next message, which must be text that holds one JSON object.
    pub(crate) fn recv_json(&mut self) -> serde_json::Value {
        let text = self.recv_text();
        match serde_json::from_str(&text) {
            Ok(value @ serde_json::Value::Object(_)) => value,
            other => panic!("no JSON object: {text:?}: {other:?}"),
        }
    }

    /// The next message, which must be the pong to our last ping.
    pub(crate) fn expect_pong(&mut self, payload: impl AsRef<[u8]>) {
        let message = self.recv();
        let expected = Message::Pong(payload.as_ref().to_vec());
        assert_eq!(message, expected, "{}", self.history());
    }

    /// Asserts that the next message is a close with `code`, and with `reason` if one is given; any
    /// reason must be there. Answers it, and asserts that the connection ends.
    pub(crate) fn expect_close<'r>(&mut self, code: u16, reason: impl Into<Option<&'r str>>) {
        let message = self.recv();
        self.check_close(message, code, reason.into());
    }

    /// The same, where it may take `span` longer than usual.
    pub(crate) fn expect_close_within(&mut self, span: Duration, code: u16, reason: &str) {
        let message = self.recv_within(span + DEADLINE);
        let message = message.unwrap_or_else(|| panic!("no close within {span:?}"));
        self.check_close(message, code, Some(reason));
    }

    /// Reads what was queued before the close that must come, and returns it. The close is checked
    /// as by [`Self::expect_close`].
    pub(crate) fn drain_to_close<'r>(
        &mut self,
        code: u16,
        reason: impl Into<Option<&'r str>>,
    ) -> Vec<Message> {
        let mut before = Vec::new();
        loop {
            match self.recv() {
                close @ Message::Close(..) => {
                    self.check_close(close, code, reason.into());
                    return before;
                }
                message => before.push(message),
            }
        }
    }

    /// Closes with 1000, and asserts that the daemon answers with the same and ends the stream.
    pub(crate) fn close(mut self) {
        self.send_close(1000, "bye");
        loop {
            match self.recv() {
                Message::Close(code, _) => {
                    assert_eq!(code, Some(1000), "{}", self.history());
                    break;
                }
                _ => continue,
            }
        }
        self.wire.expect_eof();
    }

    pub(crate) fn expect_eof(&mut self) {
        self.wire.expect_eof();
    }

    /// Ends the connection by a TCP reset.
    pub(crate) fn reset(self) {
        self.wire.reset();
    }

    fn check_close(&mut self, message: Message, code: u16, reason: Option<&str>) {
        let Message::Close(got_code, got_reason) = &message else {
            panic!(
                "no close {code} but {}{}",
                message.summary(),
                self.history()
            );
        };
        assert_eq!(*got_code, Some(code), "{message:?}{}", self.history());
        match reason {
            Some(reason) => {
                // A daemon that ends says to raw clients when to come back.
                let words = match got_reason.split_once(" retry_ms=") {
                    Some((words, retry_ms)) if code == 3001 => {
                        let retry_ms: u64 = retry_ms.parse().expect("milliseconds");
                        assert!((1000..=60_000).contains(&retry_ms), "{retry_ms}");
                        words
                    }
                    _ => got_reason,
                };
                assert_eq!(words, reason, "{}", self.history());
            }
            None => assert!(!got_reason.is_empty(), "{code} without a reason"),
        }
        // The daemon may have gone already, which is what the answer asks for.
        let _ = self.wire.try_send(Frame::close(code, "").bytes());
        self.wire.expect_end();
    }

    fn recv_by(&mut self, deadline: Instant) -> Option<Message> {
        loop {
            if let Some(message) = self.take_message() {
                if self.seen.len() == SEEN_MAX {
                    self.seen.pop_front();
                }
                self.seen.push_back(message.summary());
                self.seen_len += 1;
                match message {
                    Message::Ping(payload) if self.answers_pings => {
                        // A connection that is closing need not hear the pong.
                        let pong = Frame::new(opcode::PONG, payload);
                        let _ = self.wire.try_send(pong.bytes());
                        continue;
                    }
                    message => return Some(message),
                }
            }
            match self.wire.fill(deadline) {
                Ok(true) => {}
                Ok(false) => panic!("the stream has ended{}", self.history()),
                Err(error) if error.kind() == ErrorKind::TimedOut => return None,
                Err(error) => panic!("{error}{}", self.history()),
            }
        }
    }

    /// Takes one whole message out of the buffer. The daemon's frames are whole messages, so each must
    /// be final, unmasked, without reserved bits and with its length in the shortest form.
    fn take_message(&mut self) -> Option<Message> {
        let buffer = &self.wire.buffer;
        let (&first, &second) = (buffer.first()?, buffer.get(1)?);
        assert_eq!(first & 0xf0, 0x80, "FIN and RSV of {}", self.wire.seen());
        assert_eq!(second & 0x80, 0, "masked: {}", self.wire.seen());
        let (header, length) = match second {
            126 => {
                let length = u16::from_be_bytes(buffer.get(2..4)?.try_into().ok()?);
                assert!(length > 125, "length not in its shortest form");
                (4, u64::from(length))
            }
            127 => {
                let length = u64::from_be_bytes(buffer.get(2..10)?.try_into().ok()?);
                assert!(length > 0xffff, "length not in its shortest form");
                (10, length)
            }
            short => (2, u64::from(short)),
        };
        let end = header + usize::try_from(length).expect("a length that fits in memory");
        let payload = buffer.get(header..end)?.to_vec();
        self.wire.buffer.drain(..end);
        let opcode = first & 0x0f;
        if opcode >= opcode::CLOSE {
            assert!(payload.len() <= 125, "control frame of {length} bytes");
        }
        Some(match opcode {
            opcode::TEXT => Message::Text(String::from_utf8(payload).expect("text is UTF-8")),
            opcode::BINARY => Message::Binary(payload),
            opcode::PING => Message::Ping(payload),
            opcode::PONG => Message::Pong(payload),
            opcode::CLOSE if payload.is_empty() => Message::Close(None, String::new()),
            opcode::CLOSE => {
                let (code, reason) = payload.split_first_chunk().expect("two bytes of code");
                let reason = String::from_utf8(reason.to_vec()).expect("a reason in UTF-8");
                Message::Close(Some(u16::from_be_bytes(*code)), reason)
            }
            other => panic!("opcode {other} from the daemon"),
        })
    }

    fn history(&self) -> String {
        let newest: Vec<_> = self.seen.iter().map(|line| format!("  {line}")).collect();
        format!(
            "\nreceived {} messages, the newest:\n{}\nand then {}",
            self.seen_len,
            newest.join("\n"),
            self.wire.seen()
        )
    }
}
