//! Names of keys and channels in Redis.
//!
//! All keys of a room have the room as their hash tag, so that a Redis Cluster has them in one place.

use std::fmt::Write as _;

use crate::base::{Epoch, RoomName};
use crate::cluster::NodeId;

/// The names below one prefix.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    prefix: Box<str>,
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        Self {
            prefix: prefix.into(),
        }
    }

    /// Holds the version of this layout.
    pub(super) fn version(&self) -> String {
        format!("{}:version", self.prefix)
    }

    /// Holds the run of Redis that was seen last, and when it was first.
    pub(super) fn run(&self) -> String {
        format!("{}:run", self.prefix)
    }

    /// The channel of a node.
    pub(super) fn node(&self, node: NodeId) -> String {
        format!("{}:node:{}", self.prefix, node_text(node))
    }

    /// What all names of a room begin with.
    pub(super) fn room(&self, room: &RoomName) -> RoomKeys {
        let mut stem = String::with_capacity(self.prefix.len() + room.as_str().len() + 5);
        stem.push_str(&self.prefix);
        stem.push_str(":{");
        for character in room.as_str().chars() {
            match character {
                '{' | '}' | '%' => {
                    // Writing to a string does not fail.
                    let _ = write!(stem, "%{:02X}", u32::from(character));
                }
                _ => stem.push(character),
            }
        }
        stem.push_str("}:");
        RoomKeys { stem }
    }
}

/// The names of one room.
#[derive(Debug)]
pub(super) struct RoomKeys {
    stem: String,
}

impl RoomKeys {
    /// The hash of what the room is.
    pub(super) fn meta(&self) -> String {
        format!("{}m", self.stem)
    }

    /// The stream of its history.
    pub(super) fn history(&self) -> String {
        format!("{}h", self.stem)
    }

    /// The hash of how many connections each node has in it.
    pub(super) fn nodes(&self) -> String {
        format!("{}n", self.stem)
    }

    /// What became of the publication with an idempotency key.
    pub(super) fn idempotency(&self, key: &str) -> String {
        format!("{}i:{key}", self.stem)
    }

    /// Its channel.
    pub(super) fn feed(&self) -> String {
        format!("{}f", self.stem)
    }
}

/// A node in letters and digits.
pub(super) fn node_text(node: NodeId) -> Epoch {
    Epoch::from_number(node.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_room_is_one_hash_tag_and_no_two_rooms_share_it() {
        let keys = Keys::new("roomcast");
        let tag = |name: &str| {
            let meta = keys.room(&RoomName::new(name).expect("a good name")).meta();
            // As Redis Cluster finds it: from the first brace to the next closing one.
            let (_, rest) = meta.split_once('{').expect("a tag");
            let (tag, rest) = rest.split_once('}').expect("a tag");
            assert_eq!(rest, ":m", "{name}");
            assert!(!tag.is_empty());
            tag.to_owned()
        };
        let names = [
            "a", "{a}", "}", "{", "{}", "%7B", "a}:m", "%", "#al", "live:7 ~",
        ];
        let tags: std::collections::BTreeSet<String> = names.into_iter().map(tag).collect();
        assert_eq!(tags.len(), names.len());
        assert_eq!(keys.node(NodeId(62)), "roomcast:node:01");
    }
}
