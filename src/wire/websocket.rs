//! Inbound WebSocket: bytes from a socket become messages, by way of tungstenite.
//!
//! Owns: what a connection has to remember between two reads, which is nothing while it is at a
//! frame boundary with no fragmented message open: the tungstenite context (whose buffers never
//! shrink) exists only while it is needed, and so gives back what a large message took.
//! Never: touches a socket or decides what a message means. Its pongs go to a [`Replies`], whose
//! writes cannot block; the echo of a close is returned, since it belongs behind the answers that
//! are still being made.
//!
//! Tungstenite is handed whole frames only. It would reserve whatever a frame header claims;
//! here the bytes of an unfinished frame are kept as they come, so memory follows what was
//! received, and a claim over the limit fails at its header.
//!
//! Invariants
//! - `feed` is called only when [`Inbound::poll`] has nothing left to say.
//! - After an end was returned the value must not be used again.

use std::io::{self, Cursor, Read, Write};

use bytes::Bytes;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};
use tungstenite::protocol::{Role, WebSocketConfig, WebSocketContext};
use tungstenite::{Error, Message};

use super::frame::{self, Payload};
use crate::base::CloseReason;

/// Takes the pongs that the protocol wants sent.
pub trait Replies {
    /// Queues one encoded pong.
    fn pong(&mut self, frame: &[u8]);
}

/// The input of one connection. Nothing is allocated for it between messages.
#[derive(Debug, Default)]
pub struct Inbound(Option<Box<InHand>>);

/// What is remembered of an input that is not at rest.
#[derive(Debug, Default)]
struct InHand {
    /// The beginning of a frame whose end has not come.
    partial: Vec<u8>,
    /// Whole frames handed to the context, of which it has not read all.
    ready: Vec<u8>,
    ready_read: usize,
    /// Messages must not share the memory of the frames in hand, which are mostly something else: a
    /// byte that waits for a worker would keep a whole read of pings.
    must_copy: bool,
    /// Exists while it holds frames to read or an open message.
    context: Option<Box<WebSocketContext>>,
    /// How many messages and control frames the context still has in hand.
    yields: usize,
    /// Fragments without an end follow the last of them.
    fragments_follow: bool,
    /// A fragmented message has begun and not ended.
    is_open: bool,
    /// Payload bytes of the open message so far.
    open_bytes: u64,
    /// The code of the first close frame, as the peer has sent it.
    close_code: Option<u16>,
    /// How the input ends behind the frames in hand.
    end: Option<InputEnd>,
}

/// How the input of a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InputEnd {
    /// The peer sent a close frame; this is the encoded echo.
    Closed(Box<[u8]>),
    /// The peer broke a rule and must be told with the reason's code.
    Failed(CloseReason),
}

impl Inbound {
    /// Adds what was read. Messages of up to `message_bytes_max` bytes are accepted.
    pub fn feed(&mut self, bytes: &[u8], message_bytes_max: usize) {
        let bytes = match self.0 {
            Some(_) => bytes,
            None => skip_pongs(bytes),
        };
        if !bytes.is_empty() {
            let in_hand = self.0.get_or_insert_default();
            in_hand.feed(bytes, message_bytes_max);
        }
    }

    /// The next message, or `None` when more input is needed. Pongs go to `replies`.
    ///
    /// # Errors
    /// The end of the input, after every message that came before it.
    pub fn poll(&mut self, replies: &mut impl Replies) -> Result<Option<Payload>, InputEnd> {
        let Some(in_hand) = &mut self.0 else {
            return Ok(None);
        };
        let polled = in_hand.poll(replies);
        if matches!(polled, Ok(None)) && in_hand.is_at_rest() {
            self.0 = None;
        }
        polled
    }

    /// The input has ended like this, and is to be polled once more when something else is over.
    pub fn put_back_end(&mut self, end: InputEnd) {
        let in_hand = self.0.get_or_insert_default();
        in_hand.yields = 0;
        in_hand.fragments_follow = false;
        in_hand.end = Some(end);
    }

    /// Whether all that was fed has been polled.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.0.as_ref().is_none_or(|in_hand| in_hand.is_drained())
    }
}

impl InHand {
    fn feed(&mut self, bytes: &[u8], message_bytes_max: usize) {
        debug_assert!(
            self.is_drained(),
            "fed before all of the last input was polled"
        );
        if self.partial.is_empty() {
            let scan = self.scan(bytes, message_bytes_max);
            let (whole, partial) = bytes.split_at(scan.whole);
            self.partial = partial.to_vec();
            let mut frames = Vec::with_capacity(scan.room_bytes());
            frames.extend_from_slice(whole);
            self.hand_over(frames, message_bytes_max);
        } else {
            let mut joined = std::mem::take(&mut self.partial);
            joined.extend_from_slice(bytes);
            let scan = self.scan(&joined, message_bytes_max);
            if scan.whole == 0 {
                self.partial = joined;
            } else {
                self.partial = joined[scan.whole..].to_vec();
                joined.truncate(scan.whole);
                joined.reserve_exact(scan.room_bytes() - scan.whole);
                self.hand_over(joined, message_bytes_max);
            }
        }
    }

    fn poll(&mut self, replies: &mut impl Replies) -> Result<Option<Payload>, InputEnd> {
        while self.yields > 0 {
            self.yields -= 1;
            if let Some(payload) = self.read_one(replies)? {
                return Ok(Some(payload));
            }
        }
        if self.fragments_follow {
            self.fragments_follow = false;
            self.read_one(replies)?;
        }
        if !self.is_open {
            self.context = None;
        }
        match &self.end {
            Some(end) => Err(end.clone()),
            None => Ok(None),
        }
    }

    /// Whether nothing has to be remembered.
    fn is_at_rest(&self) -> bool {
        self.is_drained() && self.partial.is_empty() && self.context.is_none() && !self.is_open
    }

    fn is_drained(&self) -> bool {
        self.yields == 0 && !self.fragments_follow && self.end.is_none()
    }

    /// Reads once from the context, which has a message, a control frame or fragments in hand.
    fn read_one(&mut self, replies: &mut impl Replies) -> Result<Option<Payload>, InputEnd> {
        let Some(context) = self.context.as_mut() else {
            return Err(InputEnd::Failed(CloseReason::Internal));
        };
        let mut io = FrameIo {
            input: &self.ready,
            read: &mut self.ready_read,
            replies,
        };
        let message = context.read(&mut io);
        if self.ready_read == self.ready.len() && !self.ready.is_empty() {
            self.ready = Vec::new();
            self.ready_read = 0;
        }
        match message {
            Ok(Message::Text(text)) if self.must_copy => {
                Ok(Some(Payload::text(text.as_str().into())))
            }
            Ok(Message::Text(text)) => Ok(Some(Payload::text(text))),
            Ok(Message::Binary(bytes)) if self.must_copy => {
                Ok(Some(Payload::binary(Bytes::copy_from_slice(&bytes))))
            }
            Ok(Message::Binary(bytes)) => Ok(Some(Payload::binary(bytes))),
            Ok(Message::Ping(_)) => {
                // The pong is queued inside until the next call; it belongs before what follows.
                let mut io = FrameIo {
                    input: &[],
                    read: &mut 0,
                    replies,
                };
                match context.flush(&mut io) {
                    Ok(()) => Ok(None),
                    Err(_) => Err(InputEnd::Failed(CloseReason::Internal)),
                }
            }
            Ok(Message::Pong(_) | Message::Frame(_)) => Ok(None),
            Ok(Message::Close(None)) => Err(InputEnd::Closed(CLOSE_WITHOUT_CODE.into())),
            // Tungstenite puts another one in the place of a code that may not be sent (RFC 6455,
            // section 7.4).
            Ok(Message::Close(Some(close))) if Some(u16::from(close.code)) != self.close_code => {
                Err(InputEnd::Failed(CloseReason::Protocol))
            }
            Ok(Message::Close(Some(close))) => Err(InputEnd::Closed(
                frame::close(close.code.into(), &close.reason).into(),
            )),
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(Error::Capacity(_)) => Err(InputEnd::Failed(CloseReason::TooBig)),
            Err(Error::Utf8(_)) => Err(InputEnd::Failed(CloseReason::InvalidPayload)),
            Err(_) => Err(InputEnd::Failed(CloseReason::Protocol)),
        }
    }

    /// Finds how many bytes are whole frames, and what the context will make of them.
    fn scan(&mut self, bytes: &[u8], message_bytes_max: usize) -> Scan {
        let mut whole = 0;
        let mut longest_payload = 0;
        let mut message_bytes = 0;
        loop {
            let mut cursor = Cursor::new(&bytes[whole..]);
            let (header, payload_len) = match FrameHeader::parse(&mut cursor) {
                Ok(Some(parsed)) => parsed,
                Ok(None) => break,
                Err(_) => {
                    self.end = Some(InputEnd::Failed(CloseReason::Protocol));
                    break;
                }
            };
            let is_control = matches!(header.opcode, OpCode::Control(_));
            if is_control && payload_len > CONTROL_PAYLOAD_BYTES_MAX {
                self.end = Some(InputEnd::Failed(CloseReason::Protocol));
                break;
            }
            let is_continuation = header.opcode == OpCode::Data(Data::Continue);
            let before = if is_continuation { self.open_bytes } else { 0 };
            // A control frame is no message, however short those have to be. The sum cannot overflow:
            // both are below the limit or it is not formed.
            if !is_control
                && (payload_len > message_bytes_max as u64
                    || before + payload_len > message_bytes_max as u64)
            {
                self.end = Some(InputEnd::Failed(CloseReason::TooBig));
                break;
            }
            let start = whole + cursor.position() as usize;
            let end = start + payload_len as usize;
            if end > bytes.len() {
                break;
            }
            if header.opcode == OpCode::Control(Control::Close) && self.close_code.is_none() {
                self.close_code = close_code(header.mask, &bytes[start..end]);
            }
            whole = end;
            longest_payload = longest_payload.max(payload_len as usize);
            if is_control || header.is_final {
                self.yields += 1;
                self.fragments_follow = false;
                self.is_open &= is_control;
            } else {
                self.fragments_follow = true;
                self.is_open = true;
            }
            if !is_control {
                message_bytes += payload_len as usize;
                self.open_bytes = if header.is_final {
                    0
                } else {
                    before + payload_len
                };
            }
        }
        let rest = whole - message_bytes;
        self.must_copy = rest > SHARED_REST_BYTES_MAX && rest > message_bytes;
        Scan {
            whole,
            longest_payload,
        }
    }

    fn hand_over(&mut self, frames: Vec<u8>, message_bytes_max: usize) {
        if frames.is_empty() {
            return;
        }
        if self.context.is_some() {
            debug_assert!(self.ready.is_empty(), "handed over before all was read");
            self.ready = frames;
            self.ready_read = 0;
            return;
        }
        // A context that outlives this input reads the rest in pieces of this size; one that does
        // not has all its input already, and a read buffer would only be one more allocation.
        let read_buffer_size = if self.is_open { 4096 } else { 0 };
        let config = WebSocketConfig::default()
            .read_buffer_size(read_buffer_size)
            .write_buffer_size(0)
            .max_message_size(Some(message_bytes_max))
            .max_frame_size(Some(
                message_bytes_max.max(CONTROL_PAYLOAD_BYTES_MAX as usize),
            ));
        let context = WebSocketContext::from_partially_read(frames, Role::Server, Some(config));
        self.context = Some(Box::new(context));
    }
}

/// What follows the whole pongs at the front of an input at rest. They mean nothing beyond having
/// come, and an idle connection sends little else: they are worth no context.
fn skip_pongs(mut bytes: &[u8]) -> &[u8] {
    loop {
        let mut cursor = Cursor::new(bytes);
        let Ok(Some((header, payload_len))) = FrameHeader::parse(&mut cursor) else {
            return bytes;
        };
        let is_pong = header.opcode == OpCode::Control(Control::Pong)
            && header.is_final
            && header.mask.is_some()
            && !(header.rsv1 || header.rsv2 || header.rsv3)
            && payload_len <= CONTROL_PAYLOAD_BYTES_MAX;
        if !is_pong {
            return bytes;
        }
        let end = cursor.position() as usize + payload_len as usize;
        let Some(rest) = bytes.get(end..) else {
            return bytes;
        };
        bytes = rest;
    }
}

/// The code in the payload of a close frame, if it has one.
fn close_code(mask: Option<[u8; 4]>, payload: &[u8]) -> Option<u16> {
    let code = u16::from_be_bytes(*payload.first_chunk()?);
    let [first, second, ..] = mask.unwrap_or_default();
    Some(code ^ u16::from_be_bytes([first, second]))
}

/// A close frame without code and reason.
const CLOSE_WITHOUT_CODE: [u8; 2] = [0x88, 0];

/// Longest payload of a control frame, in bytes (RFC 6455, section 5.5).
const CONTROL_PAYLOAD_BYTES_MAX: u64 = 125;

/// Bytes beside payloads of messages that these may always keep in memory.
const SHARED_REST_BYTES_MAX: usize = 4096;

struct Scan {
    /// Bytes of whole frames at the front.
    whole: usize,
    /// Payload bytes of the longest of them.
    longest_payload: usize,
}

impl Scan {
    /// Bytes of a buffer that the whole frames are read from without being moved. At each header
    /// tungstenite wants room for the payload behind all that it holds already, as if the payload
    /// were still to come.
    fn room_bytes(&self) -> usize {
        self.whole + self.longest_payload
    }
}

/// What tungstenite takes for a socket: reads from memory, writes into the replies.
struct FrameIo<'a, R> {
    input: &'a [u8],
    read: &'a mut usize,
    replies: &'a mut R,
}

impl<R> Read for FrameIo<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let rest = &self.input[*self.read..];
        if rest.is_empty() {
            // `Ok(0)` would mean the end of the stream.
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let len = rest.len().min(buffer.len());
        buffer[..len].copy_from_slice(&rest[..len]);
        *self.read += len;
        Ok(len)
    }
}

impl<R: Replies> Write for FrameIo<'_, R> {
    fn write(&mut self, frame: &[u8]) -> io::Result<usize> {
        self.replies.pong(frame);
        Ok(frame.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Sent(Vec<Vec<u8>>);

    impl Replies for Sent {
        fn pong(&mut self, frame: &[u8]) {
            self.0.push(frame.to_vec());
        }
    }

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![first];
        match payload.len() {
            len @ 0..126 => frame.push(0x80 | len as u8),
            len @ 126..65_536 => {
                frame.push(0x80 | 126);
                frame.extend((len as u16).to_be_bytes());
            }
            len => {
                frame.push(0x80 | 127);
                frame.extend((len as u64).to_be_bytes());
            }
        }
        let key = [1, 2, 3, 4];
        frame.extend(key);
        frame.extend(
            payload
                .iter()
                .zip(key.iter().cycle())
                .map(|(byte, key)| byte ^ key),
        );
        frame
    }

    /// What came of an input: messages, replies, its end, and what is left of it.
    type Outcome = (Vec<Payload>, Vec<Vec<u8>>, Option<InputEnd>, Inbound);

    fn run(input: &[u8], step: usize) -> Outcome {
        run_within(1000, input, step)
    }

    /// Feeds `input` in pieces of `step` bytes, with messages of up to `message_bytes_max` bytes.
    fn run_within(message_bytes_max: usize, input: &[u8], step: usize) -> Outcome {
        let mut inbound = Inbound::default();
        let mut sent = Sent::default();
        let mut messages = Vec::new();
        for piece in input.chunks(step) {
            inbound.feed(piece, message_bytes_max);
            loop {
                match inbound.poll(&mut sent) {
                    Ok(Some(message)) => messages.push(message),
                    Ok(None) => break,
                    Err(end) => return (messages, sent.0, Some(end), inbound),
                }
            }
        }
        (messages, sent.0, None, inbound)
    }

    #[test]
    fn messages_come_out_whole_however_the_bytes_are_cut() {
        let input = [
            frame(0x81, b"hello"),
            frame(0x82, b""),
            frame(0x01, b"frag"),
            frame(0x89, b"ping"),
            frame(0x00, b"men"),
            frame(0x80, b"ted"),
            frame(0x82, &[7; 300]),
        ]
        .concat();
        for step in 1..=input.len() {
            let (messages, replies, end, inbound) = run(&input, step);
            assert_eq!(end, None, "step {step}");
            let texts: Vec<_> = messages[..3].iter().map(Payload::bytes).collect();
            assert_eq!(texts, [&b"hello"[..], b"", b"fragmented"], "step {step}");
            assert_eq!(messages[3].bytes(), [7; 300]);
            assert_eq!(replies, [b"\x8a\x04ping"]);
            assert!(inbound.0.is_none(), "step {step}: something is kept");
        }
    }

    #[test]
    fn pongs_are_skipped_and_broken_ones_are_not() {
        let pongs = [frame(0x8a, b""), frame(0x8a, &[1; 125])].concat();
        let (messages, _, end, inbound) = run(&pongs, pongs.len());
        assert!(messages.is_empty() && end.is_none() && inbound.0.is_none());
        let before_text = [pongs.clone(), frame(0x81, b"text")].concat();
        for step in 1..=before_text.len() {
            let (messages, ..) = run(&before_text, step);
            assert_eq!(messages[0].bytes(), b"text", "step {step}");
        }
        let unmasked = vec![0x8a, 1, 1];
        let too_long = frame(0x8a, &[1; 126]);
        let (fragmented, reserved) = (frame(0x0a, b""), frame(0xca, b""));
        for broken in [unmasked, too_long, fragmented, reserved] {
            let input = [pongs.clone(), broken].concat();
            let (.., end, _) = run(&input, input.len());
            let violation = Some(InputEnd::Failed(CloseReason::Protocol));
            assert_eq!(end, violation, "{:?}", &input[pongs.len()..]);
        }
    }

    #[test]
    fn control_frames_may_be_longer_than_messages() {
        let input = [
            frame(0x89, b"ping"),
            frame(0x8a, b"pong"),
            frame(0x82, b"a"),
        ]
        .concat();
        for step in 1..=input.len() {
            let (messages, replies, end, _) = run_within(1, &input, step);
            assert_eq!((messages.len(), end), (1, None), "step {step}");
            assert_eq!(replies, [b"\x8a\x04ping"], "step {step}");
        }
        let (.., end, _) = run_within(1, &frame(0x88, b"\x03\xe8bye"), 100);
        let echo = b"\x88\x05\x03\xe8bye"[..].into();
        assert_eq!(end, Some(InputEnd::Closed(echo)));
        let (.., end, _) = run_within(1, &frame(0x82, b"ab"), 100);
        assert_eq!(end, Some(InputEnd::Failed(CloseReason::TooBig)));
    }

    #[test]
    fn a_message_among_pings_does_not_keep_their_memory() {
        let distance = |first: &Payload, last: &Payload| {
            (last.bytes().as_ptr() as usize).wrapping_sub(first.bytes().as_ptr() as usize)
        };
        let text = frame(0x81, b"some text");
        let among_texts = [text.clone(), text.repeat(998), text.clone()].concat();
        let (messages, ..) = run(&among_texts, among_texts.len());
        let in_place = among_texts.len() - text.len();
        assert_eq!(distance(&messages[0], &messages[999]), in_place);

        let pings = frame(0x89, b"").repeat(in_place / 6 - 2);
        let among_pings = [text.clone(), pings, text.clone()].concat();
        let (messages, ..) = run(&among_pings, among_pings.len());
        assert_eq!(messages[0], messages[1]);
        assert_ne!(
            distance(&messages[0], &messages[1]),
            among_pings.len() - text.len()
        );
    }

    #[test]
    fn what_came_before_a_violation_is_still_delivered() {
        let good = frame(0x81, b"ok");
        let mut unmasked = vec![0x81, 2];
        unmasked.extend(b"hi");
        for (bad, reason) in [
            (unmasked, CloseReason::Protocol),
            (frame(0xc1, b"rsv"), CloseReason::Protocol),
            (frame(0x83, b"reserved opcode"), CloseReason::Protocol),
            (frame(0x8b, b"reserved control"), CloseReason::Protocol),
            (frame(0x80, b"continuation"), CloseReason::Protocol),
            (frame(0x09, b"fragmented ping"), CloseReason::Protocol),
            (frame(0x89, &[0; 126]), CloseReason::Protocol),
            (frame(0x88, &[3]), CloseReason::Protocol),
            (frame(0x88, &[3, 232, 0xff]), CloseReason::InvalidPayload),
            (frame(0x81, &[0xc3, 0x28]), CloseReason::InvalidPayload),
            (
                [frame(0x01, &[0xc3]), frame(0x80, &[0x28])].concat(),
                CloseReason::InvalidPayload,
            ),
            (frame(0x82, &[0; 1001]), CloseReason::TooBig),
            (
                [frame(0x02, &[0; 600]), frame(0x80, &[0; 600])].concat(),
                CloseReason::TooBig,
            ),
            (
                [frame(0x02, b"a"), frame(0x82, b"b")].concat(),
                CloseReason::Protocol,
            ),
        ] {
            for step in [1, 7, 5000] {
                let input = [good.clone(), bad.clone()].concat();
                let (messages, _, end, _) = run(&input, step);
                assert_eq!(messages.len(), 1, "{bad:?}");
                assert_eq!(
                    end,
                    Some(InputEnd::Failed(reason)),
                    "{:?}",
                    &bad[..bad.len().min(20)]
                );
            }
        }
    }

    #[test]
    fn a_claim_over_the_limit_fails_at_its_header() {
        for (first, len, reason) in [
            (0x82, u64::MAX, CloseReason::TooBig),
            (0x82, i64::MAX as u64, CloseReason::TooBig),
            (0x82, 1001, CloseReason::TooBig),
            (0x8a, u64::MAX, CloseReason::Protocol),
            (0x89, u64::MAX, CloseReason::Protocol),
        ] {
            let mut claim = vec![first, 0x80 | 127];
            claim.extend(len.to_be_bytes());
            claim.extend([0; 4]);
            let (_, _, end, inbound) = run(&claim, 5000);
            assert_eq!(end, Some(InputEnd::Failed(reason)), "{first:x} {len}");
            let in_hand = inbound.0.expect("a broken input is not at rest");
            assert!(in_hand.partial.capacity() <= claim.len() && in_hand.context.is_none());
        }
        // So does one that brings a fragmented message over it.
        let first = frame(0x02, &[0; 600]);
        let claim = [&first[..], &[0x80, 0x80 | 126, 1, 145, 0, 0, 0, 0]].concat();
        let (_, _, end, _) = run(&claim, 5000);
        assert_eq!(end, Some(InputEnd::Failed(CloseReason::TooBig)));
        // A claim within the limit takes what was received and no more.
        let mut inbound = Inbound::default();
        inbound.feed(&[0x82, 0x80 | 126, 3, 232, 0, 0, 0, 0], 1000);
        assert_eq!(inbound.poll(&mut Sent::default()), Ok(None));
        let in_hand = inbound.0.expect("a broken input is not at rest");
        assert!(in_hand.partial.capacity() < 64 && in_hand.context.is_none());
    }

    #[test]
    fn a_close_is_echoed_and_ends_the_input() {
        let input = [frame(0x88, b"\x03\xe8bye"), frame(0x81, b"late")].concat();
        for step in [1, 5000] {
            let (messages, _, end, _) = run(&input, step);
            let echo = b"\x88\x05\x03\xe8bye"[..].into();
            assert_eq!((messages.len(), end), (0, Some(InputEnd::Closed(echo))));
        }
        let (_, _, end, _) = run(&frame(0x88, b"\x03\xeax"), 100);
        assert_eq!(
            end,
            Some(InputEnd::Closed(b"\x88\x03\x03\xeax"[..].into())),
            "a peer may say 1002"
        );
        // In the words that tungstenite has for codes that may not be sent.
        let (_, _, end, _) = run(&frame(0x88, b"\x03\xeaProtocol violation"), 100);
        let echo = b"\x88\x14\x03\xeaProtocol violation"[..].into();
        assert_eq!(end, Some(InputEnd::Closed(echo)));
        let (_, _, end, _) = run(&frame(0x88, b""), 100);
        assert_eq!(end, Some(InputEnd::Closed([0x88, 0].into())));
        for code in [0u16, 999, 1004, 1005, 1006, 1016, 2999, 65535] {
            let (_, _, end, _) = run(&frame(0x88, &code.to_be_bytes()), 100);
            assert_eq!(end, Some(InputEnd::Failed(CloseReason::Protocol)), "{code}");
        }
    }
}
