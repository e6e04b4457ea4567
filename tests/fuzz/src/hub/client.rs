//! A client of the node: what it has sent and not been read, what it has been sent, and whether that
//! is HTTP and WebSocket.

use std::collections::VecDeque;

use super::ConnId;

pub(super) struct Client {
    pub(super) id: ConnId,
    /// Bytes sent and not yet read by the server.
    pub(super) upstream: VecDeque<u8>,
    /// Bytes written by the server and not yet read.
    pub(super) downstream: VecDeque<u8>,
    /// How many of them the socket holds.
    pub(super) room: usize,
    /// The server was refused bytes and waits to hear that there is room.
    pub(super) is_refused: bool,
    /// The server does not read.
    pub(super) is_paused: bool,
    pub(super) has_ended: bool,
    pub(super) is_reset: bool,
    /// The server has ended its direction.
    pub(super) is_shut: bool,
    pub(super) is_gone: bool,
    /// Whether a request without a body in its answer may be among what it has sent.
    may_ask_for_heads: bool,
    sent_tail: Vec<u8>,
    /// Received and not understood yet.
    input: Vec<u8>,
    stage: Stage,
    has_close: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    Http,
    WebSocket,
    /// Where an answer ends cannot be told.
    Unknown,
}

impl Client {
    pub(super) fn new(id: ConnId) -> Self {
        Self {
            id,
            upstream: VecDeque::new(),
            downstream: VecDeque::new(),
            room: 3000,
            is_refused: false,
            is_paused: false,
            has_ended: false,
            is_reset: false,
            is_shut: false,
            is_gone: false,
            may_ask_for_heads: false,
            sent_tail: Vec::new(),
            input: Vec::new(),
            stage: Stage::Http,
            has_close: false,
        }
    }

    pub(super) fn send(&mut self, bytes: &[u8]) {
        if self.has_ended {
            return;
        }
        self.upstream.extend(bytes);
        self.sent_tail.extend_from_slice(bytes);
        self.may_ask_for_heads |= self.sent_tail.windows(4).any(|four| four == b"HEAD");
        let keep = self.sent_tail.len().saturating_sub(3);
        self.sent_tail.drain(..keep);
    }

    /// Sends a masked frame.
    pub(super) fn send_frame(&mut self, head: u8, payload: &[u8]) {
        let mut frame = vec![head];
        match payload.len() {
            len @ 0..126 => frame.push(0x80 | len as u8),
            len => {
                frame.push(0x80 | 126);
                frame.extend((len as u16).to_be_bytes());
            }
        }
        let key = [0x37, 0xfa, 0x21, 0x3d];
        frame.extend(key);
        frame.extend(
            payload
                .iter()
                .zip(key.iter().cycle())
                .map(|(byte, key)| byte ^ key),
        );
        self.send(&frame);
    }

    /// Whether it is a WebSocket that neither side has ended.
    pub(super) fn is_open(&self) -> bool {
        let is_over = self.has_close || self.is_gone || self.is_reset || self.is_shut;
        self.stage == Stage::WebSocket && !is_over
    }

    /// Takes what has come; returns whether there was any.
    pub(super) fn read(&mut self) -> bool {
        let has_some = !self.downstream.is_empty();
        self.input.extend(self.downstream.drain(..));
        while self.understand() {}
        has_some
    }

    /// Asserts that nothing was left unfinished by a server that has ended its stream in order.
    pub(super) fn finish(&self) {
        if self.is_shut && self.stage != Stage::Unknown {
            assert!(
                self.input.is_empty(),
                "{}: half of something: {:?}",
                self.id,
                self.input
            );
        }
    }

    /// Takes one answer or frame off the front; returns whether there was a whole one.
    fn understand(&mut self) -> bool {
        let used = match self.stage {
            Stage::Http => self.answer(),
            Stage::WebSocket => self.frame(),
            Stage::Unknown => Some(self.input.len()).filter(|len| *len > 0),
        };
        self.input.drain(..used.unwrap_or(0));
        used.is_some()
    }

    fn answer(&mut self) -> Option<usize> {
        let end = 4 + self.input.windows(4).position(|four| four == b"\r\n\r\n")?;
        let head = std::str::from_utf8(&self.input[..end]).expect("a head is text");
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 "));
        let status = status.and_then(|rest| rest.get(..3)?.parse::<u16>().ok());
        let status = status.expect("a status line");
        let mut length = None;
        for line in lines.take_while(|line| !line.is_empty()) {
            let (name, value) = line.split_once(": ").expect("a header");
            assert!(!name.contains([' ', '\n', '\r']) && !value.contains(['\n', '\r']));
            if name == "Content-Length" {
                assert_eq!(length, None, "one length");
                length = value.parse::<usize>().ok();
            }
        }
        match status {
            100 => return Some(end),
            101 => {
                self.stage = Stage::WebSocket;
                return Some(end);
            }
            200..600 => {}
            _ => panic!("{}: status {status}", self.id),
        }
        let length = length.expect("every answer has a length");
        if self.may_ask_for_heads {
            self.stage = Stage::Unknown;
            return Some(end);
        }
        (self.input.len() >= end + length).then_some(end + length)
    }

    /// RFC 6455, section 5.2, for frames of a server that negotiates nothing.
    fn frame(&mut self) -> Option<usize> {
        let (&first, &second) = (self.input.first()?, self.input.get(1)?);
        assert!(
            !self.has_close,
            "{}: something follows a close frame",
            self.id
        );
        let (len, start) = match second {
            126 => {
                let len = u16::from_be_bytes(self.input.get(2..4)?.try_into().ok()?);
                assert!(len > 125, "{}: a length in too many bytes", self.id);
                (usize::from(len), 4)
            }
            127 => {
                let len = u64::from_be_bytes(self.input.get(2..10)?.try_into().ok()?);
                assert!(len > 0xffff, "{}: a length in too many bytes", self.id);
                (len as usize, 10)
            }
            len => (usize::from(len), 2),
        };
        assert!(second < 128, "{}: a server masks nothing", self.id);
        let payload = self.input.get(start..start + len)?;
        match first {
            0x81 => assert!(std::str::from_utf8(payload).is_ok(), "{}: no text", self.id),
            0x82 => {}
            0x88..=0x8a => assert!(len <= 125, "{}: a long control frame", self.id),
            _ => panic!("{}: a server frame begins with {first:#x}", self.id),
        }
        if first == 0x88 {
            assert_ne!(len, 1, "{}: half a close code", self.id);
            assert!(std::str::from_utf8(payload.get(2..).unwrap_or_default()).is_ok());
            self.has_close = true;
        }
        Some(start + len)
    }
}
