//! What nodes say to each other in the feed of a room, beside what is numbered there.
//!
//! Owns: how a word is written, and what is taken for one.
//! Never: is kept, or said again. A word that is lost is lost, so nothing may rest on one.

use bytes::Bytes;

use crate::base::NodeId;

/// A word in the feed of a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// The node has members in the room who want to be told who joins and who leaves.
    Watched(NodeId),
    /// Somebody has joined or left: the push for those who want to be told, one line of JSON.
    Changed(Bytes),
}

/// Longest push in a word, in bytes. The longest that a node makes, of a room, a user and a token's
/// `info`, is shorter.
pub const PUSH_BYTES_MAX: usize = 16 << 10;

const WATCHED: &[u8] = b"watched ";
const CHANGED: &[u8] = b"changed ";

impl Word {
    /// Writes it.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        match self {
            Self::Watched(node) => [WATCHED, node.to_string().as_bytes()].concat(),
            Self::Changed(push) => [CHANGED, push].concat(),
        }
        .into()
    }

    /// Reads what [`Word::encode`] writes; `None` for anything else.
    #[must_use]
    pub fn decode(bytes: &Bytes) -> Option<Self> {
        if let Some(node) = bytes.strip_prefix(WATCHED) {
            let node = std::str::from_utf8(node).ok()?;
            return NodeId::parse(node).map(Self::Watched);
        }
        let push = bytes.strip_prefix(CHANGED)?;
        // It goes to clients as it is, who take each line for a push of its own.
        let is_push = push.len() <= PUSH_BYTES_MAX
            && push.starts_with(b"{")
            && push.ends_with(b"}")
            && !push.contains(&b'\n')
            && std::str::from_utf8(push).is_ok();
        is_push.then(|| Self::Changed(bytes.slice_ref(push)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let push = |text: &'static str| Word::Changed(Bytes::from_static(text.as_bytes()));
        let longest = format!("{{{}}}", "x".repeat(PUSH_BYTES_MAX - 2));
        for word in [
            Word::Watched(NodeId(0)),
            Word::Watched(NodeId(u64::MAX)),
            push("{}"),
            push(r#"{"push":{"channel":"r","join":{"info":{"user":"ä"}}}}"#),
            Word::Changed(longest.into()),
        ] {
            assert_eq!(Word::decode(&word.encode()), Some(word));
        }
    }

    #[test]
    fn anything_else_is_no_word() {
        let too_long = format!("changed {{{}}}", "x".repeat(PUSH_BYTES_MAX - 1));
        for bytes in [
            b"".as_slice(),
            b"watched",
            b"watched ",
            b"watched 12",
            b"watched 00000000000000GG",
            b"watched 0000000000000001 ",
            b"watched \xff000000000000000",
            b"changed",
            b"changed ",
            b"changed []",
            b"changed {",
            b"changed {}\n",
            b"changed {\n}",
            b"changed {}{}\n{}",
            b"changed {\"\xff\"}",
            b"unknown {}",
            too_long.as_bytes(),
        ] {
            let bytes = Bytes::copy_from_slice(bytes);
            assert_eq!(Word::decode(&bytes), None, "{bytes:?}");
        }
    }
}
