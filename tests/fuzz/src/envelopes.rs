//! What nodes say to each other: envelopes and words, against readers with all bytes in hand.

use bytes::Bytes;
use roomcast::base::NodeId;
use roomcast::cluster::word::{PUSH_BYTES_MAX, Word};
use roomcast::wire::frame::PayloadKind;
use roomcast::wire::node::{Envelope, EnvelopeError, TOKEN, VERSION, token_bytes};

use super::input::Input;

/// An envelope or a word, any bytes. For an envelope whose first byte says so, the length of the
/// payload is made to fit, or nothing would ever get past it.
pub fn check(data: &[u8]) {
    let mut input = Input(data);
    let is_fitted = input.byte() & 1 == 1;
    let mut bytes = input.rest().to_vec();
    if is_fitted && let Some(at) = payload_length_at(&bytes) {
        let length = (bytes.len() - at - 4) as u32;
        bytes[at..at + 4].copy_from_slice(&length.to_be_bytes());
    }
    let bytes = Bytes::from(bytes);
    envelope(&bytes);
    word(&bytes);
}

fn envelope(bytes: &Bytes) {
    let found = Envelope::decode(bytes);
    let expected = naive(bytes);
    assert_eq!(found.is_ok(), expected.is_some(), "{found:?}");
    let Some(naive) = expected else {
        let is_other = bytes.first().is_some_and(|version| *version != VERSION);
        let says_so = matches!(found, Err(EnvelopeError::Version(_)));
        return assert_eq!(says_so, is_other, "{found:?}");
    };
    let envelope = found.expect("looked at before");
    assert_eq!((envelope.node, envelope.number), (naive.node, naive.number));
    assert_eq!(bytes[TOKEN], token_bytes(naive.node, naive.number));
    assert_eq!(envelope.conn.to_bits(), naive.conn);
    assert_eq!(envelope.is_kept, naive.is_kept);
    assert_eq!(envelope.payload.kind(), naive.kind);
    assert_eq!(envelope.payload.bytes(), naive.payload);
    let identity = envelope.identity.as_deref();
    assert_eq!(identity.map(|one| one.user.as_str()), naive.user);
    assert_eq!(identity.and_then(|one| one.info.as_deref()), naive.info);
    let mut again = Vec::new();
    envelope.encode(&mut again);
    assert_eq!(again, bytes[..], "it is written as it was read");
}

struct Naive<'a> {
    node: u64,
    number: u64,
    conn: u64,
    is_kept: bool,
    kind: PayloadKind,
    user: Option<&'a str>,
    info: Option<&'a str>,
    payload: &'a [u8],
}

fn length(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    Some((u32::from_be_bytes(*length) as usize, rest))
}

/// User and info, and where the length of the payload begins.
type Parts<'a> = (Option<&'a [u8]>, Option<&'a [u8]>, usize);

fn identity(bytes: &[u8]) -> Option<Parts<'_>> {
    let flags = *bytes.get(25)?;
    let mut at = 26;
    let mut user = None;
    let mut info = None;
    if flags & 8 != 0 {
        let length = usize::from(*bytes.get(at)?);
        user = Some(bytes.get(at + 1..at + 1 + length)?);
        at += 1 + length;
    }
    if flags & 16 != 0 {
        let (length, rest) = length(bytes.get(at..)?)?;
        info = Some(rest.get(..length)?);
        at += 4 + length;
    }
    Some((user, info, at))
}

fn payload_length_at(bytes: &[u8]) -> Option<usize> {
    let (.., at) = identity(bytes)?;
    (bytes.len() >= at + 4).then_some(at)
}

fn naive(bytes: &[u8]) -> Option<Naive<'_>> {
    let number = |at: usize| Some(u64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    let flags = *bytes.get(25)?;
    let (user, info, at) = identity(bytes)?;
    let (payload_len, payload) = length(&bytes[at..])?;
    let user = match user {
        None => None,
        Some(user) => {
            let is_user = (1..=254).contains(&user.len())
                && user
                    .iter()
                    .all(|byte| matches!(byte, b' '..=b'~') && *byte != b',');
            Some(is_user.then(|| std::str::from_utf8(user).ok()).flatten()?)
        }
    };
    let info = match info {
        None => None,
        Some(info) => Some(std::str::from_utf8(info).ok()?),
    };
    let kind = match flags & 3 {
        0 => PayloadKind::Text,
        1 => PayloadKind::Binary,
        2 => PayloadKind::Json,
        _ => return None,
    };
    let is_sound = bytes[0] == VERSION
        && flags < 32
        && (info.is_none() || user.is_some())
        && payload.len() == payload_len
        && (kind == PayloadKind::Binary || std::str::from_utf8(payload).is_ok());
    is_sound.then_some(Naive {
        node: number(1)?,
        number: number(9)?,
        conn: number(17)?,
        is_kept: flags & 4 != 0,
        kind,
        user,
        info,
        payload,
    })
}

fn word(bytes: &Bytes) {
    let found = Word::decode(bytes);
    let expected = if let Some(node) = bytes.strip_prefix(b"watched ") {
        let is_node =
            node.len() == 16 && node.iter().all(|byte| b"0123456789abcdef".contains(byte));
        let node = String::from_utf8_lossy(node);
        let number = is_node
            .then(|| u64::from_str_radix(&node, 16).ok())
            .flatten();
        number.map(|number| Word::Watched(NodeId(number)))
    } else if let Some(push) = bytes.strip_prefix(b"changed ") {
        let text = std::str::from_utf8(push).ok();
        let is_push = |text: &&str| {
            text.len() <= PUSH_BYTES_MAX
                && text.starts_with('{')
                && text.ends_with('}')
                && text.lines().count() == 1
                && !text.contains('\n')
        };
        let push = Bytes::copy_from_slice(push);
        text.filter(is_push).map(|_| Word::Changed(push))
    } else {
        None
    };
    assert_eq!(found, expected);
    if let Some(word) = found {
        assert_eq!(word.encode(), bytes);
    }
}
