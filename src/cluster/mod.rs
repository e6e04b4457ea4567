//! What joins several nodes into one: the port between shards and whatever carries their words, and
//! what a node concludes from what it hears.
//!
//! Owns: the questions a shard asks of the broker ([`Request`]), what the broker answers and tells
//! unasked ([`Event`]), the rules by which a room follows its numbering ([`link`]), and what nodes
//! say to each other beside it ([`word`]).
//! Never: names a broker, a thread or a clock.
//!
//! What a broker has to promise:
//! - An append gives a publication the next offset of its room, keeps it and tells all who follow
//!   the room, or does none of it. One that is tried again is recognised by its [`Token`].
//! - What it tells of a room between [`Event::Followed`] and [`Event::FeedLost`] is complete and in
//!   order; whatever it cannot tell so, it must not tell at all, but say that the feed is lost.
//! - A read that is asked for after [`Event::Followed`] holds everything that was numbered before
//!   the room was followed.
//! - Every request that says so is answered by exactly one event; requests of one room are carried
//!   out in their order.
//! - An epoch names one numbering for ever: a broker that may have forgotten publications that it
//!   told of begins another.
//! - What is to be said ([`Request::Say`]) is told at most once to each node that follows the room,
//!   in the order in which one node says it, and to nobody who does not follow. It is no part of what
//!   is complete: it may be lost at any time, and is dropped rather than kept waiting.
//! - Whether another node watches a room is known to a beat or a read that is asked for after the
//!   beat of that node was carried out.

pub mod link;
pub mod word;

use std::sync::Arc;

use bytes::Bytes;

pub use crate::base::{BrokerPart, NodeId};
use crate::base::{ConnId, Identity, Instant, Offset, Position, RoomName, UserId};
use crate::wire::frame::Payload;

/// Names a publication for as long as anybody may see it again: the node that took it in, and its
/// number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token {
    /// The node.
    pub node: NodeId,
    /// Its number; no node uses one twice.
    pub number: u64,
}

/// A publication as nodes exchange it.
#[derive(Clone, Debug, PartialEq)]
pub struct Shared {
    /// Its name.
    pub token: Token,
    /// The connection it came from, on the node of the token; or [`ConnId::NONE`].
    pub conn: ConnId,
    /// Who published it, if known.
    pub identity: Option<Arc<Identity>>,
    /// What.
    pub payload: Payload,
    /// Whether it is kept for those who come later.
    pub is_kept: bool,
}

/// A publication with its number.
#[derive(Clone, Debug, PartialEq)]
pub struct Numbered {
    /// Its number in the room.
    pub offset: Offset,
    /// When it was numbered, in milliseconds since 1970, by the broker's clock.
    pub unix_ms: u64,
    /// The publication; `None` if it was written by a newer version and cannot be read.
    pub shared: Option<Shared>,
}

/// Up to where a node has followed a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// The newest publication that it has seen, or the place after which it began.
    pub position: Position,
    /// The name of that publication, if it has seen it.
    pub token: Option<Token>,
}

/// What a room is at one moment, as far as it was asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// The newest publication.
    pub top: Position,
    /// Every publication from this offset on is kept, unless it was not to be.
    pub first: Offset,
    /// Nothing published after this time, in milliseconds since 1970, has been forgotten.
    pub complete_since_ms: u64,
    /// The newest publication when the epoch began: what is kept up to it was numbered in others.
    pub began: Offset,
    /// The broker's time, in milliseconds since 1970.
    pub unix_ms: u64,
    /// What is kept of what was asked for, in order.
    pub publications: Vec<Numbered>,
    /// The connections of all nodes in it.
    pub online: u64,
    /// The number of the last login, in the room of a user.
    pub generation: u64,
    /// Whether another node has members who want to be told who joins and who leaves.
    pub is_watched: bool,
}

/// A shard to the broker.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// Begin to tell of a room: answered by [`Event::Followed`], and again by one whenever the feed
    /// was lost and is back.
    Follow(RoomName),
    /// Tell no more of it. Not answered.
    Unfollow(RoomName),
    /// Look at a room: answered by [`Event::Read`] or [`Event::ReadFailed`]. If the room is not what
    /// it must be after `known`, a new epoch has begun before the answer.
    Read {
        /// The room.
        room: RoomName,
        /// Up to where it is known; `None` to read all that is kept.
        known: Option<Known>,
    },
    /// Look at a room for a back end: answered by [`Event::Looked`]. All that is kept.
    Look {
        /// Numbers the question.
        number: u64,
        /// The room.
        room: RoomName,
    },
    /// Number a publication: answered by [`Event::Appended`] or [`Event::Repeated`].
    Append {
        /// The room.
        room: RoomName,
        /// The publication. The number of its token numbers the question.
        shared: Shared,
        /// A publication with the same key, not long ago, is to be taken for the same.
        key: Option<Box<str>>,
        /// Not to be sent after this.
        deadline: Instant,
    },
    /// Forget what is kept of a room: answered by [`Event::Forgotten`].
    Forget {
        /// Numbers the question.
        number: u64,
        /// The room.
        room: RoomName,
    },
    /// Keep a room from being forgotten and say how many are in it here: answered by
    /// [`Event::Beaten`], or not at all if it fails.
    Beat {
        /// The room.
        room: RoomName,
        /// Connections of this node in it; with none, this node's share is taken out.
        members: u32,
        /// Whether some of them want to be told who joins and who leaves.
        watches: bool,
        /// The login that this node holds in the room of a user, to be held on to.
        login: Option<Login>,
    },
    /// A connection of a user comes: answered by [`Event::Claimed`].
    Claim {
        /// Numbers the question; with the node, names the login.
        number: u64,
        /// The user.
        user: UserId,
        /// Whether a login that is held refuses this one, or is replaced by it.
        is_exclusive: bool,
        /// Not to be sent after this.
        deadline: Instant,
    },
    /// It has gone. Not answered.
    Release {
        /// The user.
        user: UserId,
        /// The login.
        login: Login,
    },
    /// Say something to all who follow a room, this node too: their [`Event::Said`]. It may be lost,
    /// and is dropped if it cannot be sent at once. Not answered.
    Say {
        /// The room.
        room: RoomName,
        /// What, as [`word::Word`] writes it.
        bytes: Bytes,
    },
    /// An answer for another node: its [`Event::Told`]. It may be lost.
    Tell {
        /// The node.
        node: NodeId,
        /// What.
        bytes: Bytes,
    },
}

/// The hold that a connection has on its user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Login {
    /// Rises with every login of the user.
    pub generation: u64,
    /// What the claim was numbered.
    pub number: u64,
}

/// Why the broker has not done something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It could not be asked in time, or refused.
    Unavailable,
    /// It may have been done, and nobody will know.
    Unknown,
}

/// The broker to a shard.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Every publication of the room from now on is told.
    Followed(RoomName),
    /// Nothing is told any more, until [`Event::Followed`] has come again for each room.
    FeedLost,
    /// A publication was numbered.
    Fed {
        /// The room.
        room: RoomName,
        /// Its position there.
        position: Position,
        /// When, in milliseconds since 1970.
        unix_ms: u64,
        /// The publication; `None` if it was written by a newer version and cannot be read.
        shared: Option<Shared>,
    },
    /// A login of the user of a room was the latest.
    LoggedIn {
        /// The room of the user.
        room: RoomName,
        /// Its generation.
        generation: u64,
    },
    /// A room has been forgotten, or begun anew: it must be read again.
    Broken(RoomName),
    /// A node has said something in a room: this one or another.
    Said {
        /// The room.
        room: RoomName,
        /// What, as [`word::Word`] writes it.
        bytes: Bytes,
    },
    /// What was to be read.
    Read {
        /// The room.
        room: RoomName,
        /// What it is.
        snapshot: Box<Snapshot>,
    },
    /// It could not be read.
    ReadFailed(RoomName),
    /// What a back end is to see.
    Looked {
        /// Which question.
        number: u64,
        /// The room, `None` for one that there is not.
        outcome: Result<Option<Box<Snapshot>>, Failure>,
    },
    /// What became of a publication.
    Appended {
        /// The number of its token.
        number: u64,
        /// Its position.
        outcome: Result<Position, Failure>,
    },
    /// A publication has the key of one that was numbered before, in an epoch that is over.
    Repeated {
        /// The number of its token.
        number: u64,
        /// The position of the other.
        position: Position,
    },
    /// What became of [`Request::Forget`].
    Forgotten {
        /// Which question.
        number: u64,
        /// Whether it was done.
        outcome: Result<(), Failure>,
    },
    /// A beat was heard.
    Beaten {
        /// The room.
        room: RoomName,
        /// Its newest publication.
        top: Position,
        /// Connections of all nodes in it.
        online: u64,
        /// The last login of the user, in the room of one.
        generation: u64,
        /// Whether another node has members who want to be told who joins and who leaves.
        is_watched: bool,
    },
    /// What became of a claim.
    Claimed {
        /// Which question.
        number: u64,
        /// The generation; `None` if another holds the user.
        outcome: Result<Option<u64>, Failure>,
    },
    /// Another node has answered. One shard hears it.
    Told {
        /// What.
        bytes: Bytes,
    },
    /// Whether the broker can be asked.
    Availability(bool),
    /// How a part of the broker is, whenever that has changed. One shard hears it.
    Health {
        /// Which.
        part: BrokerPart,
        /// What is wrong with it, in words; `None` if it is well.
        ailment: Option<Box<str>>,
    },
}
