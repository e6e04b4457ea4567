//! The envelope in which nodes hand publications to each other and keep them.
//!
//! Owns: its layout. The first 17 bytes are the same in every version, so that whoever keeps
//! envelopes can tell two publications apart without reading them.
//! Never: says what a publication is numbered; that stands beside it.
//!
//! ```text
//! 0   version                      1
//! 1   node, number                 the token: who took the publication in, its number there; u64 each
//! 17  connection                   u64
//! 25  flags                        kind (2 bits), kept, user, info
//! 26  [length u8, user]            if the flag says so
//!     [length u32, info]           if the flag says so; only behind a user
//!     length u32, payload          the last
//! ```
//!
//! Numbers are big-endian.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use tungstenite::Utf8Bytes;

use super::frame::{Payload, PayloadKind};
use crate::base::{ConnId, Identity, UserId};

/// The version that is written here.
pub const VERSION: u8 = 1;

/// Where the token stands, in every version.
pub const TOKEN: Range<usize> = 1..17;

/// A publication on its way between nodes.
#[derive(Clone, Debug, PartialEq)]
pub struct Envelope {
    /// The node that took it in.
    pub node: u64,
    /// Its number there.
    pub number: u64,
    /// The connection it came from, on that node.
    pub conn: ConnId,
    /// Who published it, if known.
    pub identity: Option<Arc<Identity>>,
    /// What.
    pub payload: Payload,
    /// Whether it is kept for those who come later.
    pub is_kept: bool,
}

/// Why bytes are no envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EnvelopeError {
    /// Of a version that this program does not know.
    Version(u8),
    /// It ends too early.
    Truncated,
    /// Something follows it.
    Trailing,
    /// A part of it cannot be.
    Malformed(&'static str),
}

impl fmt::Display for EnvelopeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version(version) => write!(f, "version {version} of the envelope is not known"),
            Self::Truncated => f.write_str("the envelope ends too early"),
            Self::Trailing => f.write_str("something follows the envelope"),
            Self::Malformed(part) => write!(f, "the {part} of the envelope cannot be"),
        }
    }
}

impl std::error::Error for EnvelopeError {}

/// The token of an envelope as bytes, to look for.
#[must_use]
pub fn token_bytes(node: u64, number: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&node.to_be_bytes());
    bytes[8..].copy_from_slice(&number.to_be_bytes());
    bytes
}

impl Envelope {
    /// Appends the envelope to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let info = self.info();
        let bytes = self.payload.bytes();
        out.reserve(FIXED_BYTES + self.variable_bytes());
        out.push(VERSION);
        out.extend_from_slice(&token_bytes(self.node, self.number));
        out.extend_from_slice(&self.conn.to_bits().to_be_bytes());
        out.push(self.flags());
        if let Some(identity) = &self.identity {
            let user = identity.user.as_str().as_bytes();
            debug_assert!(user.len() <= UserId::BYTES_MAX, "a user id is short");
            out.push(user.len() as u8);
            out.extend_from_slice(user);
        }
        if let Some(info) = info {
            out.extend_from_slice(&(info.len() as u32).to_be_bytes());
            out.extend_from_slice(info.as_bytes());
        }
        out.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
        out.extend_from_slice(bytes);
    }

    /// Reads an envelope. The payload shares `bytes`.
    ///
    /// # Errors
    /// When `bytes` are not exactly one envelope of a version that is known.
    pub fn decode(bytes: &Bytes) -> Result<Self, EnvelopeError> {
        let mut rest = Reader { bytes, at: 0 };
        let version = rest.byte()?;
        if version != VERSION {
            return Err(EnvelopeError::Version(version));
        }
        let node = rest.u64()?;
        let number = rest.u64()?;
        let conn = ConnId::from_bits(rest.u64()?);
        let flags = rest.byte()?;
        if flags & !FLAGS != 0 || flags & HAS_INFO != 0 && flags & HAS_USER == 0 {
            return Err(EnvelopeError::Malformed("flags"));
        }
        let kind = match flags & KIND {
            TEXT => PayloadKind::Text,
            BINARY => PayloadKind::Binary,
            JSON => PayloadKind::Json,
            _ => return Err(EnvelopeError::Malformed("kind")),
        };
        let identity = if flags & HAS_USER == 0 {
            None
        } else {
            let length = usize::from(rest.byte()?);
            let user = std::str::from_utf8(rest.take(length)?).ok();
            let user = user.and_then(|user| UserId::new(user).ok());
            let user = user.ok_or(EnvelopeError::Malformed("user"))?;
            let info = if flags & HAS_INFO == 0 {
                None
            } else {
                let length = rest.length()?;
                let info = std::str::from_utf8(rest.take(length)?);
                Some(info.map_err(|_| EnvelopeError::Malformed("info"))?.into())
            };
            Some(Arc::new(Identity { user, info }))
        };
        let length = rest.length()?;
        rest.take(length)?;
        if rest.at != bytes.len() {
            return Err(EnvelopeError::Trailing);
        }
        let content = bytes.slice(bytes.len() - length..);
        let text = |content: Bytes| {
            Utf8Bytes::try_from(content).map_err(|_| EnvelopeError::Malformed("text"))
        };
        let payload = match kind {
            PayloadKind::Text => Payload::text(text(content)?),
            PayloadKind::Json => Payload::json(text(content)?),
            PayloadKind::Binary => Payload::binary(content),
        };
        Ok(Self {
            node,
            number,
            conn,
            identity,
            payload,
            is_kept: flags & KEPT != 0,
        })
    }

    fn info(&self) -> Option<&str> {
        self.identity.as_ref()?.info.as_deref()
    }

    fn flags(&self) -> u8 {
        let kind = match self.payload.kind() {
            PayloadKind::Text => TEXT,
            PayloadKind::Binary => BINARY,
            PayloadKind::Json => JSON,
        };
        let flag = |is_set, flag| if is_set { flag } else { 0 };
        kind | flag(self.is_kept, KEPT)
            | flag(self.identity.is_some(), HAS_USER)
            | flag(self.info().is_some(), HAS_INFO)
    }

    fn variable_bytes(&self) -> usize {
        let user = self
            .identity
            .as_ref()
            .map_or(0, |identity| 1 + identity.user.as_str().len());
        let info = self.info().map_or(0, |info| 4 + info.len());
        user + info + self.payload.bytes().len()
    }
}

/// Bytes of an envelope beside user, info and payload.
const FIXED_BYTES: usize = 30;

const KIND: u8 = 0b11;
const TEXT: u8 = 0;
const BINARY: u8 = 1;
const JSON: u8 = 2;
const KEPT: u8 = 1 << 2;
const HAS_USER: u8 = 1 << 3;
const HAS_INFO: u8 = 1 << 4;
const FLAGS: u8 = KIND | KEPT | HAS_USER | HAS_INFO;

/// Takes bytes from the front.
struct Reader<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl<'b> Reader<'b> {
    fn take(&mut self, length: usize) -> Result<&'b [u8], EnvelopeError> {
        let end = self
            .at
            .checked_add(length)
            .ok_or(EnvelopeError::Truncated)?;
        let taken = self
            .bytes
            .get(self.at..end)
            .ok_or(EnvelopeError::Truncated)?;
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], EnvelopeError> {
        let taken = self.take(N)?;
        taken.try_into().map_err(|_| EnvelopeError::Truncated)
    }

    fn byte(&mut self) -> Result<u8, EnvelopeError> {
        Ok(self.array::<1>()?[0])
    }

    fn u64(&mut self) -> Result<u64, EnvelopeError> {
        self.array().map(u64::from_be_bytes)
    }

    fn length(&mut self) -> Result<usize, EnvelopeError> {
        Ok(u32::from_be_bytes(self.array()?) as usize)
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;

    use super::*;

    fn payloads() -> impl Strategy<Value = Payload> {
        prop_oneof![
            ".{0,40}".prop_map(|text| Payload::text(text.into())),
            vec(any::<u8>(), 0..300).prop_map(Payload::from),
            any::<i64>().prop_map(|number| Payload::json(number.to_string().into())),
        ]
    }

    fn envelopes() -> impl Strategy<Value = Envelope> {
        let identities = option::of(("[!-+.-~]{1,254}", option::of(".{0,300}"))).prop_map(|some| {
            some.map(|(user, info)| {
                let user = UserId::new(&user).expect("a good id");
                let info = info.map(String::into_boxed_str);
                Arc::new(Identity { user, info })
            })
        });
        let numbers = (any::<u64>(), any::<u64>(), any::<u64>());
        (numbers, identities, payloads(), any::<bool>()).prop_map(
            |((node, number, conn), identity, payload, is_kept)| Envelope {
                node,
                number,
                conn: ConnId::from_bits(conn),
                identity,
                payload,
                is_kept,
            },
        )
    }

    fn encoded(envelope: &Envelope) -> Vec<u8> {
        let mut bytes = Vec::new();
        envelope.encode(&mut bytes);
        bytes
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_and_nothing_shorter_or_longer(envelope in envelopes()) {
            let bytes = encoded(&envelope);
            prop_assert_eq!(bytes.len(), FIXED_BYTES + envelope.variable_bytes());
            prop_assert_eq!(&bytes[TOKEN], &token_bytes(envelope.node, envelope.number));
            let mut longer = bytes.clone();
            longer.push(0);
            let whole = Bytes::from(bytes);
            for end in 0..whole.len() {
                let found = Envelope::decode(&whole.slice(..end));
                prop_assert_eq!(found, Err(EnvelopeError::Truncated));
            }
            prop_assert_eq!(Envelope::decode(&longer.into()), Err(EnvelopeError::Trailing));
            prop_assert_eq!(Envelope::decode(&whole), Ok(envelope));
        }

        #[test]
        fn what_is_read_from_anything_is_written_the_same(
            mut bytes in vec(any::<u8>(), 0..120), is_near in any::<bool>(), flags in 0..32u8,
        ) {
            if is_near && bytes.len() > 25 {
                bytes[0] = VERSION;
                bytes[25] = flags;
                // A payload that reaches to the end, where nothing stands before it.
                if flags & HAS_USER == 0 && bytes.len() >= FIXED_BYTES {
                    let length = (bytes.len() - FIXED_BYTES) as u32;
                    bytes[26..FIXED_BYTES].copy_from_slice(&length.to_be_bytes());
                }
            }
            if let Ok(envelope) = Envelope::decode(&bytes.clone().into()) {
                prop_assert_eq!(encoded(&envelope), bytes);
            }
        }
    }

    #[test]
    fn what_cannot_be_is_named() {
        let envelope = Envelope {
            node: 1,
            number: 2,
            conn: ConnId::NONE,
            identity: Some(Arc::new(Identity {
                user: UserId::new("al").expect("a good id"),
                info: Some("{}".into()),
            })),
            payload: Payload::from("hello"),
            is_kept: true,
        };
        let check = |at: usize, byte: u8, expected: EnvelopeError| {
            let mut bytes = encoded(&envelope);
            bytes[at] = byte;
            assert_eq!(
                Envelope::decode(&bytes.into()),
                Err(expected),
                "{at} {byte}"
            );
        };
        check(0, 2, EnvelopeError::Version(2));
        check(0, 0, EnvelopeError::Version(0));
        check(
            25,
            KIND | KEPT | HAS_USER | HAS_INFO,
            EnvelopeError::Malformed("kind"),
        );
        check(25, 1 << 5, EnvelopeError::Malformed("flags"));
        check(25, HAS_INFO, EnvelopeError::Malformed("flags"));
        check(26, 0, EnvelopeError::Malformed("user"));
        check(27, b',', EnvelopeError::Malformed("user"));
        check(27, 0xff, EnvelopeError::Malformed("user"));
        check(29, 0xff, EnvelopeError::Truncated);
        check(33, 0xff, EnvelopeError::Malformed("info"));
        check(43, 0xff, EnvelopeError::Malformed("text"));
    }
}
