//! Jobs and effects: the only types that cross between the loop and a worker. Data only.
//!
//! What a worker says about a room travels in one FIFO, so "joined at offset P" and "here is
//! P + 1" cannot overtake each other.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use crate::base::{
    BrokerPart, CloseReason, ConnId, Glob, Identity, Instant, NodeId, Offset, RoomName, Since,
};
use crate::wire::api::answer::ApiReply;
use crate::wire::api::relay::{Notice, Part};
use crate::wire::api::{ApiCall, ApiError, HistorySince, Publish};
use crate::wire::centrifugo::reply::SubscribeResult;
use crate::wire::frame::{Frames, Payload};
use crate::wire::raw::WireForm;

/// Loop to worker.
#[derive(Debug)]
pub enum Job {
    /// Make the connection a member; answered by [`Effect::Joined`].
    Subscribe {
        /// Who joins.
        conn: ConnId,
        /// What it joins.
        room: RoomName,
        /// How it will receive.
        form: WireForm,
        /// From where.
        since: Since,
        /// Who is behind it.
        identity: Option<Arc<Identity>>,
        /// What goes with a command, where one asks for it.
        terms: Terms,
    },
    /// Give a member the next part of what it missed; answered by [`Effect::Replayed`].
    CatchUp {
        /// The member.
        conn: ConnId,
        /// Its room.
        room: RoomName,
        /// How it receives.
        form: WireForm,
        /// Whether it receives what it published itself.
        echo: bool,
        /// The last publication that it was given.
        after: Offset,
        /// What it misses of the publications up to this one is not told.
        owed_after: Offset,
        /// The last publication before it joined.
        joined_at: Offset,
    },
    /// The connection is a member no longer. Not answered.
    Unsubscribe {
        /// Who left.
        conn: ConnId,
        /// What it left.
        room: RoomName,
        /// How it received.
        form: WireForm,
    },
    /// Number and distribute a publication; answered within one [`Effect::Broadcast`].
    Publish {
        /// Who published.
        origin: ConnId,
        /// Its number for the command, or 0.
        command: u32,
        /// Where.
        room: RoomName,
        /// On whose behalf.
        identity: Option<Arc<Identity>>,
        /// What.
        payload: Payload,
        /// When it was taken from its publisher.
        taken_at: Instant,
    },
    /// Read the body of an API call; answered by [`Effect::Decoded`].
    Decode {
        /// The call.
        call: CallKey,
        /// The last part of the path.
        method: Box<str>,
        /// The body.
        body: Vec<u8>,
    },
    /// Do something with a room; answered by [`Effect::Answered`], for a publication behind the
    /// [`Effect::Broadcast`] that it is in.
    Ask {
        /// Who asks.
        part: CallPart,
        /// Of which room.
        room: RoomName,
        /// What.
        ask: Box<RoomAsk>,
        /// When its call was taken.
        taken_at: Instant,
    },
    /// List the rooms of this worker that have members; answered by [`Effect::Answered`].
    ListRooms {
        /// Who asks.
        part: CallPart,
        /// Which names are meant.
        pattern: Glob,
    },
    /// Tell all nodes of the cluster, this one too; answered by [`Effect::Answered`] when it was
    /// heard here, or cannot be.
    Announce {
        /// Who asks; `None` if nobody waits.
        part: Option<CallPart>,
        /// What.
        notice: Payload,
        /// Whether nodes that do not hear it now are to hear it later.
        is_kept: bool,
    },
    /// Answer a node of the cluster. Not answered.
    Tell {
        /// The node.
        node: NodeId,
        /// What.
        bytes: Vec<u8>,
    },
    /// Encode a message that is no publication of a room; answered by [`Effect::Encoded`].
    Encode {
        /// Who asks.
        part: CallPart,
        /// What.
        payload: Payload,
    },
}

/// How a client joins that speaks by commands; others join by the default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// Whether it wants to be told who joins and who leaves.
    pub watches: bool,
    /// Whether it is given nothing before it asks to catch up, though it may have missed nothing.
    pub is_held: bool,
    /// Most bytes of what it has missed in the answer to its command.
    pub answer_bytes_max: usize,
    /// Most publications of it.
    pub answer_publications_max: usize,
}

/// A call in progress, as the hub numbers them.
pub type CallKey = u32;

/// A part of a call that a worker answers by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallPart {
    /// The call.
    pub call: CallKey,
    /// Which command of it.
    pub command: u16,
    /// Which part of that.
    pub index: u16,
}

/// What can be asked of one room.
#[derive(Clone, Debug, PartialEq)]
pub enum RoomAsk {
    /// Publish into it.
    Publish(Publish),
    /// Who is in it.
    Presence(Reader),
    /// How many are in it.
    PresenceStats,
    /// What was published in it.
    History {
        /// Most publications to give.
        limit: usize,
        /// Where to begin, itself left out.
        since: Option<HistorySince>,
        /// Newest first.
        reverse: bool,
        /// For whom.
        reader: Reader,
    },
    /// Forget what was published in it.
    HistoryRemove,
}

/// Who reads an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// A back end: it is told when what it asks for is forgotten.
    BackEnd,
    /// A client: it gets what there is of that, as far as its queue has room.
    Client,
}

impl RoomAsk {
    /// Whether the answer can be long.
    #[must_use]
    pub fn is_long(&self) -> bool {
        matches!(self, Self::Presence(_) | Self::History { .. })
    }
}

/// Worker to loop.
#[derive(Debug)]
pub enum Effect {
    /// The connection is a member from here on.
    Joined {
        /// Who joined.
        conn: ConnId,
        /// What.
        room: RoomName,
        /// How it will receive.
        form: WireForm,
        /// Last publication before it joined.
        offset: Offset,
        /// The last publication that it needs not be given; behind `offset` if it has missed some.
        after: Offset,
        /// What it misses of the publications up to this one is not told: whoever asks for the
        /// newest gets those that are kept when its turn comes.
        owed_after: Offset,
        /// Whether some that it has missed cannot be given.
        is_incomplete: bool,
        /// What to send first, if anything.
        frames: Option<Arc<Frames>>,
        /// What the command that asked for it comes to, where one did.
        result: Option<Box<Subscribed>>,
    },
    /// Tells those of a room who want to know that somebody has joined or left.
    PresenceChanged {
        /// The room.
        room: RoomName,
        /// What they are told.
        told: Arc<Frames>,
    },
    /// The room cannot be joined.
    JoinRefused {
        /// Who wanted to join.
        conn: ConnId,
        /// What.
        room: RoomName,
        /// Why not.
        reason: CloseReason,
    },
    /// A part of what a member missed.
    Replayed {
        /// The member.
        conn: ConnId,
        /// Its room.
        room: RoomName,
        /// How it receives.
        form: WireForm,
        /// Publications that were forgotten before it could be given them.
        skipped: u64,
        /// The publications, if any.
        frames: Option<Arc<Frames>>,
        /// How it goes on.
        outcome: Replay,
    },
    /// A publication was refused, or nobody knows what became of it.
    PublishRefused {
        /// Who published.
        origin: Origin,
        /// Why.
        reason: CloseReason,
    },
    /// A publication was numbered that is not broadcast here.
    Published {
        /// Who published.
        origin: Origin,
    },
    /// Publications of a room are lost to its members, or its numbering has begun anew. Json members
    /// are told, raw ones cannot be.
    Interrupted {
        /// The room.
        room: RoomName,
        /// Where it stands.
        last: Offset,
        /// What json members are told.
        told: Arc<Frames>,
    },
    /// So many connections of other nodes are in a room.
    Online {
        /// The room.
        room: RoomName,
        /// How many.
        others: u32,
    },
    /// A connection is to end, or to leave the room where that tells its client enough.
    Close {
        /// Which.
        conn: ConnId,
        /// The room that is the cause.
        room: RoomName,
        /// Why.
        reason: CloseReason,
    },
    /// A node of the cluster, or this one, has told all. A message for every connection comes as
    /// [`Effect::HeardMessage`].
    Heard {
        /// Which.
        from: NodeId,
        /// What.
        notice: Box<Notice>,
    },
    /// A node of the cluster, or this one, has a message for every connection of all nodes.
    HeardMessage {
        /// The frames, by [`WireForm::index`].
        forms: Box<[Arc<Frames>; WireForm::COUNT]>,
    },
    /// A node of the cluster has answered this one.
    Told {
        /// Which question.
        number: u64,
        /// What it adds.
        part: Part,
    },
    /// How a part of what numbers publications is.
    Health {
        /// Which.
        part: BrokerPart,
        /// What is wrong with it; `None` if it is well.
        ailment: Option<Box<str>>,
    },
    /// Publications for every member of a room.
    Broadcast(Broadcast),
    /// The body of a call was read.
    Decoded {
        /// The call.
        call: CallKey,
        /// What it asks for.
        outcome: Result<Box<ApiCall>, ApiError>,
    },
    /// What a part of a call came to.
    Answered {
        /// Which.
        part: CallPart,
        /// The answer.
        reply: ApiReply,
    },
    /// A message was encoded.
    Encoded {
        /// For which part of a call.
        part: CallPart,
        /// The frames, by [`WireForm::index`].
        forms: Box<[Arc<Frames>; WireForm::COUNT]>,
    },
}

/// What a command to subscribe comes to.
#[derive(Clone, Debug)]
pub struct Subscribed {
    /// What is answered.
    pub result: SubscribeResult,
    /// Number of publications in it.
    pub publications: usize,
}

impl Subscribed {
    /// Whether the answer takes so much of a queue of `queued_max` publications that what comes next
    /// has to wait until some of it is written. Its bytes never do.
    #[must_use]
    pub fn is_heavy(&self, queued_max: usize) -> bool {
        self.publications * 2 >= queued_max
    }
}

/// How a member's catching up goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replay {
    /// It has all up to here, and what follows is broadcast to it.
    Live(Offset),
    /// There is more after this publication.
    More(Offset),
    /// History was trimmed faster than the member caught up, and it cannot be told in band.
    Overtaken,
}

/// Consecutive publications of one room, encoded once for each wire form in use.
#[derive(Debug)]
pub struct Broadcast {
    /// The room.
    pub room: RoomName,
    /// Offset of the last of them.
    pub last: Offset,
    /// The frames, by [`WireForm::index`]; `None` where no member uses the form.
    pub forms: [Option<Arc<Frames>>; WireForm::COUNT],
    /// Where each came from, in order.
    pub origins: Box<[Origin]>,
    /// Whether the publisher of one of them was answered before.
    pub has_answered: bool,
    /// When the first of them was taken from its publisher, where that is known.
    pub taken_at: Option<Instant>,
}

/// Where a publication came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The connection, or [`ConnId::NONE`].
    pub conn: ConnId,
    /// Payload bytes.
    pub payload_bytes: u32,
    /// The connection's number for the command that published it, or 0.
    pub command: u32,
    /// The connection was answered before: in a cluster, what has its number may come late.
    pub is_answered: bool,
}

/// Which worker a room belongs to, of `workers`.
///
/// # Panics
/// If there are no workers.
#[must_use]
pub fn worker_of(room: &RoomName, workers: usize) -> usize {
    let mut hasher = DefaultHasher::new();
    room.hash(&mut hasher);
    (hasher.finish() % workers as u64) as usize
}
