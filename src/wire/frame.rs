//! Outbound: WebSocket frames ready for the wire, encoded once and shared by every receiver.
//!
//! Owns: the layout of a server frame (RFC 6455, section 5.2; unmasked, never fragmented).
//! Never: knows who receives a frame or how much of it was written.
//!
//! Invariant: the ends of a [`Frames`] rise strictly and the last one is its length, so that a
//! frame begun can always be finished before another byte is inserted.

use std::sync::Arc;

use bytes::Bytes;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

/// Type of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadKind {
    /// UTF-8 text.
    Text,
    /// Anything.
    Binary,
    /// A JSON value, compact: text on the wire, and the value itself in an envelope.
    Json,
}

/// Content of one message. Cloning shares the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    kind: PayloadKind,
    bytes: Bytes,
}

impl Payload {
    /// A text message.
    #[must_use]
    pub fn text(text: tungstenite::Utf8Bytes) -> Self {
        Self {
            kind: PayloadKind::Text,
            bytes: text.into(),
        }
    }

    /// A binary message.
    #[must_use]
    pub fn binary(bytes: Bytes) -> Self {
        Self {
            kind: PayloadKind::Binary,
            bytes,
        }
    }

    /// A text message that is a JSON value, written compactly; the caller has seen to that. From
    /// outside, [`serde_json::Value`] converts.
    #[must_use]
    pub(crate) fn json(text: tungstenite::Utf8Bytes) -> Self {
        Self {
            kind: PayloadKind::Json,
            bytes: text.into(),
        }
    }

    /// Its type.
    #[must_use]
    pub fn kind(&self) -> PayloadKind {
        self.kind
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl From<&str> for Payload {
    fn from(text: &str) -> Self {
        Self::text(text.into())
    }
}

impl From<String> for Payload {
    fn from(text: String) -> Self {
        Self::text(text.into())
    }
}

impl From<serde_json::Value> for Payload {
    /// A string becomes its text, as in the HTTP API, and anything else JSON.
    fn from(value: serde_json::Value) -> Self {
        match value {
            serde_json::Value::String(text) => Self::text(text.into()),
            value => Self::json(value.to_string().into()),
        }
    }
}

impl From<Vec<u8>> for Payload {
    fn from(bytes: Vec<u8>) -> Self {
        Self::binary(bytes.into())
    }
}

/// One or more whole frames end to end, shared by reference among all who receive them.
#[derive(Debug)]
pub struct Frames {
    bytes: Box<[u8]>,
    /// Where each frame ends; empty when there is only one.
    ends: Box<[u32]>,
}

impl Frames {
    /// Encodes one message.
    #[must_use]
    pub fn message(kind: PayloadKind, payload: &[u8]) -> Arc<Self> {
        let mut bytes = Vec::with_capacity(frame_bytes(payload.len()));
        put_message(&mut bytes, kind, payload);
        Self::whole(bytes)
    }

    /// Takes bytes that must not be interrupted, whatever they mean.
    #[must_use]
    pub fn whole(bytes: Vec<u8>) -> Arc<Self> {
        Arc::new(Self {
            bytes: bytes.into(),
            ends: Box::default(),
        })
    }

    /// All bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Number of frames.
    #[must_use]
    pub fn count(&self) -> usize {
        self.ends.len().max(1)
    }

    /// A copy of those frames whose index `is_wanted` says to keep.
    #[must_use]
    pub fn select(&self, is_wanted: impl Fn(usize) -> bool) -> Arc<Self> {
        let mut selected = FramesBuilder::default();
        for index in (0..self.count()).filter(|index| is_wanted(*index)) {
            let (start, end) = self.range(index);
            selected
                .bytes
                .extend_from_slice(&self.bytes[start as usize..end as usize]);
            selected.ends.push(selected.bytes.len() as u32);
        }
        selected.take()
    }

    /// Where frame `index` begins and ends.
    fn range(&self, index: usize) -> (u32, u32) {
        if self.ends.is_empty() {
            debug_assert_eq!(index, 0, "a lone frame has index 0");
            return (0, self.bytes.len() as u32);
        }
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        (start, self.ends[index])
    }

    /// The end of the frame that holds the byte before `cursor`: `cursor` itself at a boundary.
    #[must_use]
    pub fn boundary_from(&self, cursor: u32) -> u32 {
        if cursor == 0 {
            return 0;
        }
        if self.ends.is_empty() {
            return self.bytes.len() as u32;
        }
        self.ends[self.ends.partition_point(|end| *end < cursor)]
    }
}

/// Lays frames end to end.
#[derive(Debug, Default)]
pub struct FramesBuilder {
    bytes: Vec<u8>,
    ends: Vec<u32>,
}

impl FramesBuilder {
    /// An empty builder with room for so many frames of so many bytes in all, so that nothing is
    /// moved.
    #[must_use]
    pub fn with_room(frames: usize, bytes: usize) -> Self {
        Self {
            bytes: Vec::with_capacity(bytes),
            ends: Vec::with_capacity(frames),
        }
    }

    /// Appends one message.
    pub fn push(&mut self, kind: PayloadKind, payload: &[u8]) {
        put_message(&mut self.bytes, kind, payload);
        self.ends.push(self.bytes.len() as u32);
    }

    /// Bytes so far.
    #[must_use]
    pub fn bytes_len(&self) -> usize {
        self.bytes.len()
    }

    /// Number of frames so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether nothing was pushed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The frames, leaving the builder empty.
    #[must_use]
    pub fn take(&mut self) -> Arc<Frames> {
        let mut ends = std::mem::take(&mut self.ends);
        if ends.len() == 1 {
            ends = Vec::new();
        }
        Arc::new(Frames {
            bytes: std::mem::take(&mut self.bytes).into(),
            ends: ends.into(),
        })
    }
}

/// A ping without payload.
pub const PING: [u8; 2] = [0x89, 0];

/// Longest reason a close frame can carry, in bytes (RFC 6455, section 5.5).
pub const CLOSE_REASON_BYTES_MAX: usize = 123;

/// Bytes of a server frame with so long a payload (RFC 6455, section 5.2).
#[must_use]
pub fn frame_bytes(payload_bytes: usize) -> usize {
    let header_bytes = match payload_bytes {
        0..126 => 2,
        126..=0xffff => 4,
        _ => 10,
    };
    header_bytes + payload_bytes
}

/// Encodes a close frame.
///
/// # Panics
/// In debug builds, if `reason` is longer than a control frame can carry.
#[must_use]
pub fn close(code: u16, reason: &str) -> Vec<u8> {
    debug_assert!(
        reason.len() <= CLOSE_REASON_BYTES_MAX,
        "a close reason must fit its frame"
    );
    let mut frame = Vec::with_capacity(4 + reason.len());
    put_header(
        &mut frame,
        OpCode::Control(Control::Close),
        2 + reason.len(),
    );
    frame.extend_from_slice(&code.to_be_bytes());
    frame.extend_from_slice(reason.as_bytes());
    frame
}

fn put_message(out: &mut Vec<u8>, kind: PayloadKind, payload: &[u8]) {
    let data = match kind {
        PayloadKind::Text | PayloadKind::Json => Data::Text,
        PayloadKind::Binary => Data::Binary,
    };
    put_header(out, OpCode::Data(data), payload.len());
    out.extend_from_slice(payload);
}

fn put_header(out: &mut Vec<u8>, opcode: OpCode, payload_len: usize) {
    FrameHeader {
        is_final: true,
        opcode,
        ..FrameHeader::default()
    }
    .format(payload_len as u64, out)
    .expect("writing into a vector cannot fail");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_made_for_exactly_what_comes() {
        let lengths = [0, 125, 126, 0xffff, 0x1_0000];
        let room = lengths.into_iter().map(frame_bytes).sum();
        let mut frames = FramesBuilder::with_room(lengths.len(), room);
        for length in lengths {
            frames.push(PayloadKind::Binary, &vec![0; length]);
        }
        assert_eq!(frames.bytes.len(), room);
        assert_eq!(frames.len(), lengths.len());
    }

    #[test]
    fn lengths_use_the_shortest_form() {
        for (len, header) in [
            (0, vec![0x81, 0]),
            (125, vec![0x81, 125]),
            (126, vec![0x81, 126, 0, 126]),
            (65_535, vec![0x81, 126, 255, 255]),
            (65_536, vec![0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ] {
            let frames = Frames::message(PayloadKind::Text, &vec![b'x'; len]);
            assert_eq!(frames.bytes()[..header.len()], header, "{len}");
            assert_eq!(frames.bytes().len(), header.len() + len);
        }
    }

    #[test]
    fn boundaries_are_found_from_any_cursor() {
        let mut builder = FramesBuilder::default();
        builder.push(PayloadKind::Text, b"a");
        builder.push(PayloadKind::Binary, b"");
        builder.push(PayloadKind::Text, b"ccc");
        let frames = builder.take();
        assert!(builder.is_empty());
        assert_eq!(frames.count(), 3);
        assert_eq!(
            [frames.range(0), frames.range(1), frames.range(2)],
            [(0, 3), (3, 5), (5, 10)]
        );
        let some = frames.select(|index| index != 1);
        assert_eq!(some.bytes(), b"\x81\x01a\x81\x03ccc");
        assert_eq!(some.range(1), (3, 8));
        let boundaries: Vec<u32> = (0..=10)
            .map(|cursor| frames.boundary_from(cursor))
            .collect();
        assert_eq!(boundaries, [0, 3, 3, 3, 5, 5, 10, 10, 10, 10, 10]);
        let lone = Frames::whole(vec![1, 2, 3]);
        assert_eq!(
            [0, 1, 3].map(|cursor| lone.boundary_from(cursor)),
            [0, 3, 3]
        );
    }

    #[test]
    fn a_close_frame_carries_code_and_reason() {
        assert_eq!(
            close(3008, "slow"),
            [0x88, 6, 0x0b, 0xc0, b's', b'l', b'o', b'w']
        );
    }
}
