//! In a cluster: publications on their way to their numbers, and what back ends ask of a history
//! that is kept elsewhere.
//!
//! Nothing is delivered here before it is numbered there. A publication is acknowledged when it has
//! its number and was given to the members here; one that has none in time is refused, and its
//! publisher is told that nobody knows what becomes of it.

use std::sync::Arc;

use super::RoomShard;
use super::asks::Range;
use super::delivering::publication_of;
use super::following::Join;
use super::publish::published;
use super::requests::Subject;
use crate::base::{CloseReason, ConnId, Identity, Instant, Now, Position, RoomName};
use crate::cluster::{Failure, Login, Request, Shared, Snapshot, Token};
use crate::exchange::{CallPart, Effect, Origin, RoomAsk};
use crate::room::history::History;
use crate::wire::api::{ApiCode, answer::ApiResult};
use crate::wire::frame::Payload;

/// Who waits for a publication to be numbered.
#[derive(Debug)]
pub(super) enum Publisher {
    /// A connection.
    Conn(Origin),
    /// A back end.
    Call {
        /// The part of its call.
        part: CallPart,
        /// Whether it is to be kept.
        is_kept: bool,
        /// Names the call.
        key: Option<Box<str>>,
    },
    /// This node, that has something to tell all others.
    Node {
        /// The part of a call that waits for it.
        part: Option<CallPart>,
        /// Whether it is to be kept.
        is_kept: bool,
    },
}

/// What waits for the broker.
#[derive(Debug)]
pub(super) enum Pending {
    /// A number for a publication.
    Publish(Box<Numbering>),
    /// A look at a room.
    Look(Box<(CallPart, RoomName, RoomAsk)>),
    /// To forget what is kept of a room.
    Forget(Box<(CallPart, RoomName)>),
    /// The place of a user, for a connection that joins the user's room.
    Claim(Box<(RoomName, Join)>),
    /// A join, in a room that is not known enough.
    Join(RoomName),
}

/// A publication without a number, or with one and not delivered.
#[derive(Debug)]
pub(super) struct Numbering {
    room: RoomName,
    from: From,
    taken_at: Instant,
    position: Option<Position>,
}

/// A publication of this node that is delivered here.
#[derive(Debug)]
pub(super) struct Delivered {
    /// When it was taken.
    pub(super) taken_at: Instant,
    /// Its publisher's number for the command, or 0.
    pub(super) command: u32,
    /// The part of a call that waits for it, to be answered behind it.
    pub(super) waiting: Option<CallPart>,
}

/// Who is to be told.
#[derive(Debug)]
enum From {
    Conn(Origin),
    Call(CallPart),
    Node(Option<CallPart>),
}

impl RoomShard {
    /// Asks for a number for a publication, taken from its publisher at the second of `times`.
    pub(super) fn append(
        &mut self,
        (now, taken_at): (Now, Instant),
        publisher: Publisher,
        room: RoomName,
        identity: Option<Arc<Identity>>,
        payload: Payload,
    ) {
        let (conn, from, is_kept, key) = match publisher {
            Publisher::Conn(origin) => (origin.conn, From::Conn(origin), true, None),
            Publisher::Call { part, is_kept, key } => {
                (ConnId::NONE, From::Call(part), is_kept, key)
            }
            Publisher::Node { part, is_kept } => (ConnId::NONE, From::Node(part), is_kept, None),
        };
        let numbering = Numbering {
            room: room.clone(),
            from,
            taken_at,
            position: None,
        };
        // What nodes tell each other is kept whatever becomes of histories.
        let keeps_any = self.limits.history_publications_max > 0 || room.is_control();
        let Some(following) = &mut self.following else {
            return;
        };
        let pending = Pending::Publish(Box::new(numbering));
        let (number, deadline) = following.open.add(now, pending);
        let shared = Shared {
            token: Token {
                node: following.node,
                number,
            },
            conn,
            identity,
            payload,
            is_kept: is_kept && keeps_any,
        };
        following.requests.push(Request::Append {
            room,
            shared,
            key,
            deadline,
        });
    }

    /// A publication has a number, or will have none.
    pub(super) fn handle_appended(&mut self, number: u64, outcome: Result<Position, Failure>) {
        let Some(following) = &mut self.following else {
            return;
        };
        let Some(Pending::Publish(numbering)) = following.open.get_mut(number) else {
            return;
        };
        let Ok(position) = outcome else {
            return self.give_up(number);
        };
        numbering.position = Some(position);
        let name = numbering.room.clone();
        let is_awaited = self.rooms.get_mut(&name).is_some_and(|room| {
            let (epoch, last) = (room.epoch, room.last);
            room.followed.as_mut().is_some_and(|followed| {
                // What is not known here is delivered to nobody here.
                let is_awaited = followed.awaits(position, epoch, last);
                if is_awaited {
                    followed.numbered.push(number);
                }
                is_awaited
            })
        });
        if !is_awaited {
            self.acknowledge(number);
        }
    }

    /// The key of a publication is that of one in an epoch that is over: nobody here will be given it.
    pub(super) fn handle_repeated(&mut self, number: u64, position: Position) {
        if let Some(following) = &mut self.following
            && let Some(Pending::Publish(numbering)) = following.open.get_mut(number)
        {
            numbering.position = Some(position);
            self.acknowledge(number);
        }
    }

    /// A publication of this node is delivered: takes it out of those that wait, if it is among them
    /// still. To a connection, its broadcast is the acknowledgement.
    pub(super) fn note_delivered(&mut self, number: u64) -> Option<Delivered> {
        let open = &mut self.following.as_mut()?.open;
        if !matches!(open.get(number), Some(Pending::Publish(_))) {
            return None;
        }
        let Some(Pending::Publish(numbering)) = open.take(number) else {
            return None;
        };
        let (command, waiting) = match numbering.from {
            From::Conn(origin) => (origin.command, None),
            From::Call(part) => (0, Some(part)),
            From::Node(part) => (0, part),
        };
        Some(Delivered {
            taken_at: numbering.taken_at,
            command,
            waiting,
        })
    }

    /// Tells a publisher that its publication has its number.
    pub(super) fn acknowledge(&mut self, number: u64) {
        let Some(following) = &mut self.following else {
            return;
        };
        let Some(Pending::Publish(numbering)) = following.open.take(number) else {
            return;
        };
        let Some(position) = numbering.position else {
            return;
        };
        match numbering.from {
            From::Conn(origin) => self.effects.push_back(Effect::Published { origin }),
            From::Call(part) => match self.rooms.get_mut(&numbering.room) {
                Some(room) if !room.batch.is_empty() => room.unanswered.push((part, position)),
                _ => self.effects.push_back(published(part, position)),
            },
            From::Node(part) => {
                let reply = Ok(ApiResult::Done);
                let answers = part.map(|part| Effect::Answered { part, reply });
                self.effects.extend(answers);
            }
        }
    }

    /// What was asked for is not answered in time, or refused.
    pub(super) fn give_up(&mut self, number: u64) {
        let Some(following) = &mut self.following else {
            return;
        };
        if let Some(Pending::Publish(numbering)) = following.open.get(number)
            && numbering.position.is_some()
        {
            // It is kept and will be delivered; to call that a failure would be a lie.
            return self.acknowledge(number);
        }
        // What the broker has not taken is not to be done any more.
        let is_withdrawn = following.requests.withdraw(&Subject::Number(number));
        let reply = Err(ApiCode::Internal);
        match following.open.take(number) {
            None => {}
            Some(Pending::Publish(numbering)) => {
                self.totals.following().unnumbered.add(1);
                match numbering.from {
                    From::Conn(origin) => {
                        let reason = CloseReason::BrokerGone;
                        self.effects
                            .push_back(Effect::PublishRefused { origin, reason });
                    }
                    From::Call(part) => self.effects.push_back(Effect::Answered { part, reply }),
                    From::Node(part) => {
                        let answers = part.map(|part| Effect::Answered { part, reply });
                        self.effects.extend(answers);
                    }
                }
            }
            Some(Pending::Look(look)) => {
                let part = look.0;
                self.effects.push_back(Effect::Answered { part, reply });
            }
            Some(Pending::Forget(forget)) => {
                let part = forget.0;
                self.effects.push_back(Effect::Answered { part, reply });
            }
            Some(Pending::Claim(claim)) => {
                let (name, join) = *claim;
                if !is_withdrawn {
                    // It may be granted all the same, to nobody.
                    let generation = 0;
                    self.release_login(&name, Login { generation, number });
                }
                self.refuse_join(&name, join, CloseReason::BrokerGone);
            }
            Some(Pending::Join(name)) => self.give_up_join(&name, number),
        }
    }

    /// Asks for what is kept of a room, to answer a back end from it.
    pub(super) fn look(&mut self, now: Now, part: CallPart, room: RoomName, ask: RoomAsk) {
        let Some(following) = &mut self.following else {
            return;
        };
        let look = Box::new((part, room.clone(), ask));
        let (number, _) = following.open.add(now, Pending::Look(look));
        following.requests.push(Request::Look { number, room });
    }

    /// What is kept of a room has come.
    pub(super) fn handle_looked(
        &mut self,
        number: u64,
        outcome: Result<Option<Box<Snapshot>>, Failure>,
    ) {
        let Ok(snapshot) = outcome else {
            return self.give_up(number);
        };
        let Some(Pending::Look(look)) = self.take_pending(number) else {
            return;
        };
        let (
            part,
            _,
            RoomAsk::History {
                limit,
                since,
                reverse,
                reader,
            },
        ) = *look
        else {
            return;
        };
        let kept = snapshot.map(|snapshot| {
            let bounds = self.bounds;
            let mut history = History::new(snapshot.first, snapshot.complete_since_ms);
            for one in &snapshot.publications {
                if let Some(shared) = &one.shared {
                    history.push(&publication_of(one, shared), 0, &bounds);
                }
            }
            (history, snapshot.top)
        });
        let kept = kept.as_ref().map(|(history, top)| (history, *top));
        let range = Range {
            limit,
            since: since.as_ref(),
            reverse,
            reader,
        };
        let reply = self.page_of(kept, &range);
        self.effects.push_back(Effect::Answered { part, reply });
    }

    /// Asks to forget what is kept of a room.
    pub(super) fn ask_to_forget(&mut self, now: Now, part: CallPart, room: RoomName) {
        let Some(following) = &mut self.following else {
            return;
        };
        let forget = Box::new((part, room.clone()));
        let (number, _) = following.open.add(now, Pending::Forget(forget));
        following.requests.push(Request::Forget { number, room });
    }

    /// It is forgotten.
    pub(super) fn handle_forgotten(&mut self, number: u64, outcome: Result<(), Failure>) {
        if outcome.is_err() {
            return self.give_up(number);
        }
        let Some(Pending::Forget(forget)) = self.take_pending(number) else {
            return;
        };
        let (part, room) = *forget;
        self.forget(&room);
        let reply = Ok(ApiResult::Done);
        self.effects.push_back(Effect::Answered { part, reply });
    }

    /// The position of a publication that waits to be delivered.
    pub(super) fn position_of(&self, number: u64) -> Option<Position> {
        match self.following.as_ref()?.open.get(number)? {
            Pending::Publish(numbering) => numbering.position,
            _ => None,
        }
    }

    pub(super) fn take_pending(&mut self, number: u64) -> Option<Pending> {
        self.following.as_mut()?.open.take(number)
    }
}
