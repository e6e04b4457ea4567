//! Inbound WebSocket bytes, cut anywhere, against a decoder that reads RFC 6455 with all of them in
//! hand: the same messages, pongs and end, in the same order.
//!
//! Where a frame breaks two rules the RFC leaves open which of them is told. The order here: opcode and
//! length are judged as soon as the header is whole, everything else when the frame is.

use roomcast::base::CloseReason;
use roomcast::wire::frame::{Payload, PayloadKind};
use roomcast::wire::websocket::{Inbound, InputEnd, Replies};

use super::input::{Input, pieces};

/// A byte says how the input is cut, two say how long a message may be, the rest is the input.
pub fn check(data: &[u8]) {
    let mut input = Input(data);
    let how = input.byte();
    let message_bytes_max = 1 + usize::from(input.short()) % 2048;
    let bytes = input.rest();
    let expected = decode(bytes, message_bytes_max);
    for how in [0, 1, how] {
        let found = feed(bytes, how, message_bytes_max);
        assert_eq!(
            found, expected,
            "cut in way {how}, at most {message_bytes_max}"
        );
    }
}

#[derive(Debug, PartialEq)]
enum Seen {
    Message(PayloadKind, Vec<u8>),
    Pong(Vec<u8>),
    End(InputEnd),
}

#[derive(Default)]
struct Pongs(Vec<Seen>);

impl Replies for Pongs {
    fn pong(&mut self, frame: &[u8]) {
        let (head, payload) = frame.split_at(2);
        assert_eq!(head, [0x8a, payload.len() as u8], "a whole pong, unmasked");
        self.0.push(Seen::Pong(payload.to_vec()));
    }
}

fn feed(bytes: &[u8], how: u8, message_bytes_max: usize) -> Vec<Seen> {
    let mut inbound = Inbound::default();
    let mut seen = Pongs::default();
    for piece in pieces(how, bytes.len()) {
        inbound.feed(&bytes[piece], message_bytes_max);
        loop {
            match inbound.poll(&mut seen) {
                Ok(Some(message)) => seen.0.push(message_seen(&message)),
                Ok(None) => break,
                Err(end) => {
                    seen.0.push(Seen::End(end));
                    return seen.0;
                }
            }
        }
        assert!(
            inbound.is_drained(),
            "nothing more to say, and something is left"
        );
    }
    seen.0
}

fn message_seen(message: &Payload) -> Seen {
    Seen::Message(message.kind(), message.bytes().to_vec())
}

/// Everything that `bytes` are, up to the first mistake or close frame.
fn decode(bytes: &[u8], message_bytes_max: usize) -> Vec<Seen> {
    let mut seen = Vec::new();
    let mut at = 0;
    // The kind of the fragmented message that is open, and what has come of it.
    let mut open: Option<(PayloadKind, Vec<u8>)> = None;
    let end = loop {
        let open_bytes = open.as_ref().map_or(0, |(_, payload)| payload.len());
        let frame = match frame(&bytes[at..], open_bytes, message_bytes_max) {
            Ok(Some(frame)) => frame,
            Ok(None) => return seen,
            Err(reason) => break InputEnd::Failed(reason),
        };
        at += frame.len;
        match message(&frame, &mut open) {
            Ok(Some(Seen::End(end))) => break end,
            Ok(Some(one)) => seen.push(one),
            Ok(None) => {}
            Err(reason) => break InputEnd::Failed(reason),
        }
    };
    seen.push(Seen::End(end));
    seen
}

struct Frame {
    /// Bytes of it, header included.
    len: usize,
    is_final: bool,
    has_reserved_bits: bool,
    is_masked: bool,
    opcode: u8,
    payload: Vec<u8>,
}

/// The frame at the front of `bytes`, if it is whole and no claim of its header is out of bounds
/// (RFC 6455, section 5.2).
fn frame(
    bytes: &[u8],
    open_bytes: usize,
    message_bytes_max: usize,
) -> Result<Option<Frame>, CloseReason> {
    let &[first, second, ..] = bytes else {
        return Ok(None);
    };
    let extended: usize = match second & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let mask_len = if second & 0x80 == 0 { 0 } else { 4 };
    let payload_at = 2 + extended + mask_len;
    if bytes.len() < payload_at {
        return Ok(None);
    }
    let length = match extended {
        0 => u64::from(second & 0x7f),
        _ => bytes[2..2 + extended]
            .iter()
            .fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
    };
    let opcode = first & 0x0f;
    let is_reserved = matches!(opcode, 3..8 | 11..);
    if is_reserved || opcode >= 8 && length > 125 {
        return Err(CloseReason::Protocol);
    }
    let before = if opcode == 0 { open_bytes as u64 } else { 0 };
    // A control frame is no message.
    if opcode < 8 && u128::from(before) + u128::from(length) > message_bytes_max as u128 {
        return Err(CloseReason::TooBig);
    }
    let len = payload_at + length as usize;
    let Some(payload) = bytes.get(payload_at..len) else {
        return Ok(None);
    };
    let mask = &bytes[payload_at - mask_len..payload_at];
    let unmasked = |(place, byte): (usize, &u8)| byte ^ mask.get(place % 4).unwrap_or(&0);
    Ok(Some(Frame {
        len,
        is_final: first & 0x80 != 0,
        has_reserved_bits: first & 0x70 != 0,
        is_masked: mask_len > 0,
        opcode,
        payload: payload.iter().enumerate().map(unmasked).collect(),
    }))
}

/// What a whole frame means.
fn message(
    frame: &Frame,
    open: &mut Option<(PayloadKind, Vec<u8>)>,
) -> Result<Option<Seen>, CloseReason> {
    if !frame.is_masked || frame.has_reserved_bits {
        return Err(CloseReason::Protocol);
    }
    match frame.opcode {
        8..=10 if !frame.is_final => Err(CloseReason::Protocol),
        8 => close(&frame.payload).map(Some),
        9 => Ok(Some(Seen::Pong(frame.payload.clone()))),
        10 => Ok(None),
        0..=2 => {
            let is_continuation = frame.opcode == 0;
            if is_continuation != open.is_some() {
                return Err(CloseReason::Protocol);
            }
            let kind = match frame.opcode {
                1 => PayloadKind::Text,
                _ => PayloadKind::Binary,
            };
            let (kind, mut payload) = open.take().unwrap_or((kind, Vec::new()));
            payload.extend_from_slice(&frame.payload);
            if kind == PayloadKind::Text && !is_text(&payload, frame.is_final) {
                return Err(CloseReason::InvalidPayload);
            }
            if frame.is_final {
                return Ok(Some(Seen::Message(kind, payload)));
            }
            *open = Some((kind, payload));
            Ok(None)
        }
        _ => Err(CloseReason::Protocol),
    }
}

/// Whether it is UTF-8, of which the last character may be unfinished unless the message `is_whole`.
fn is_text(bytes: &[u8], is_whole: bool) -> bool {
    match std::str::from_utf8(bytes) {
        Ok(_) => true,
        Err(error) => !is_whole && error.error_len().is_none(),
    }
}

/// A close frame (RFC 6455, sections 5.5.1 and 7.4).
fn close(payload: &[u8]) -> Result<Seen, CloseReason> {
    if let Some((code, reason)) = payload.split_first_chunk::<2>() {
        if std::str::from_utf8(reason).is_err() {
            return Err(CloseReason::InvalidPayload);
        }
        // 1004 to 1006 and 1015 stand for what no frame says; others are not defined.
        let is_defined = matches!(
            u16::from_be_bytes(*code),
            1000..=1003 | 1007..=1013 | 3000..=4999
        );
        if !is_defined {
            return Err(CloseReason::Protocol);
        }
    } else if !payload.is_empty() {
        return Err(CloseReason::Protocol);
    }
    let echo = [&[0x88, payload.len() as u8], payload].concat();
    Ok(Seen::End(InputEnd::Closed(echo.into())))
}
