//! A request on its way: how Redis is asked, and what its answer means.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use redis::{Cmd, Value};

use super::HistoryBounds;
use super::dial::{Run, Scripts, random};
use super::keys::{Keys, node_text};
use super::reply::{Parts, offset};
use crate::base::{Epoch, Instant, Position, RoomName};
use crate::cluster::{Event, Failure, Login, NodeId, Numbered, Request, Shared, Snapshot, Token};
use crate::wire::node::{Envelope, EnvelopeError, token_bytes};

/// A request with what is known of it.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) shard: usize,
    pub(super) request: Request,
    /// The room that it is about; for a message to a node there is none.
    pub(super) room: Option<RoomName>,
    pub(super) taken_at: Instant,
    /// Not to be sent after this.
    pub(super) deadline: Option<Instant>,
    /// Not to be sent before this.
    pub(super) not_before: Option<Instant>,
    /// When and under which run it was sent, and never answered.
    pub(super) doubt: Option<(Instant, Run)>,
}

/// What never changes of a question.
#[derive(Clone, Debug)]
pub(super) struct Terms {
    pub(super) keys: Keys,
    pub(super) node: NodeId,
    pub(super) bounds: HistoryBounds,
    pub(super) lease: Duration,
}

/// Under which conditions a question is asked.
#[derive(Debug)]
pub(super) struct Moment<'l> {
    pub(super) now: Instant,
    pub(super) run: &'l Run,
    pub(super) is_settled: bool,
    pub(super) has_ended_others: bool,
    pub(super) scripts: &'l Scripts,
}

/// What an answer means.
#[derive(Debug)]
pub(super) enum Answer {
    /// It was done; the shard may be waiting to hear so.
    Done(Option<Event>),
    /// The room may be numbered when the run is settled.
    Wait,
    /// It was done or not.
    Unknown,
    /// The answer makes no sense.
    Nonsense,
}

impl Pending {
    pub(super) fn new(shard: usize, request: Request, now: Instant, wait: Duration) -> Self {
        let room = match &request {
            Request::Follow(room) | Request::Unfollow(room) => Some(room.clone()),
            Request::Read { room, .. }
            | Request::Look { room, .. }
            | Request::Append { room, .. }
            | Request::Forget { room, .. }
            | Request::Beat { room, .. }
            | Request::Say { room, .. } => Some(room.clone()),
            Request::Claim { user, .. } | Request::Release { user, .. } => {
                Some(RoomName::personal(user))
            }
            Request::Tell { .. } => None,
        };
        let deadline = match &request {
            Request::Append { deadline, .. } | Request::Claim { deadline, .. } => Some(*deadline),
            // A room that is being joined is read as soon as that is possible.
            Request::Read { .. } | Request::Follow(_) | Request::Unfollow(_) => None,
            // Until it is heard, nobody else may have the user.
            Request::Release { .. } => Some(now + wait.max(RELEASE_WAIT)),
            _ => Some(now + wait),
        };
        Self {
            shard,
            request,
            room,
            taken_at: now,
            deadline,
            not_before: None,
            doubt: None,
        }
    }

    /// Whether it counts among the requests that wait; of the others there is one a room at most.
    pub(super) fn is_counted(&self) -> bool {
        !matches!(self.request, Request::Read { .. })
    }

    /// Whether it numbers a publication.
    pub(super) fn is_append(&self) -> bool {
        matches!(self.request, Request::Append { .. })
    }

    /// Whether it may not be sent any more.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| deadline < now)
    }

    /// Whether it may be sent before an earlier request of its room: it numbers nothing.
    pub(super) fn may_overtake(&self) -> bool {
        matches!(
            self.request,
            Request::Read { .. }
                | Request::Look { .. }
                | Request::Beat { .. }
                | Request::Say { .. }
        )
    }

    /// Whether it is worth nothing later: it is sent at once or dropped.
    pub(super) fn is_fleeting(&self) -> bool {
        matches!(self.request, Request::Say { .. })
    }

    /// Whether it may be asked again although it may have been done.
    pub(super) fn may_be_repeated(&self) -> bool {
        match &self.request {
            // It is not kept, so it could not be recognised.
            Request::Append { shared, key, .. } => shared.is_kept || key.is_some(),
            Request::Say { .. } | Request::Tell { .. } => false,
            _ => true,
        }
    }

    /// What the shard is told if it was not done, or nobody knows.
    pub(super) fn failed(&self, failure: Failure) -> Option<Event> {
        Some(match &self.request {
            Request::Read { room, .. } => Event::ReadFailed(room.clone()),
            Request::Look { number, .. } => Event::Looked {
                number: *number,
                outcome: Err(Failure::Unavailable),
            },
            Request::Append { shared, .. } => Event::Appended {
                number: shared.token.number,
                outcome: Err(failure),
            },
            Request::Forget { number, .. } => Event::Forgotten {
                number: *number,
                outcome: Err(failure),
            },
            Request::Claim { number, .. } => Event::Claimed {
                number: *number,
                outcome: Err(failure),
            },
            Request::Follow(_)
            | Request::Unfollow(_)
            | Request::Beat { .. }
            | Request::Release { .. }
            | Request::Say { .. }
            | Request::Tell { .. } => return None,
        })
    }

    /// Writes the command.
    pub(super) fn write(&self, terms: &Terms, moment: &Moment<'_>, out: &mut Vec<u8>) {
        let mut publish = |channel: String, message: Vec<u8>| {
            redis::cmd("PUBLISH")
                .arg(channel)
                .arg(message)
                .write_packed_command(out);
        };
        if let Request::Tell { node, bytes } = &self.request {
            publish(terms.keys.node(*node), [b"a", &**bytes].concat());
        } else if let Request::Say { room, bytes } = &self.request {
            let message = [SAID, &**bytes].concat();
            publish(terms.keys.room(room).feed(), message);
        } else if let Some(command) = self.script(terms, moment) {
            command.write_packed_command(out);
        }
    }

    fn script(&self, terms: &Terms, moment: &Moment<'_>) -> Option<Cmd> {
        let room = self.room.as_ref()?;
        let keys = terms.keys.room(room);
        let scripts = moment.scripts;
        let begin = |script: &str, names: &[String]| {
            let mut command = redis::cmd("EVALSHA");
            command.arg(script).arg(names.len()).arg(names);
            command
        };
        // What every script that may make a room is told.
        let new_room = |command: &mut Cmd| {
            let epoch = Epoch::from_number(random());
            command
                .arg(keys.feed())
                .arg(&*moment.run.id)
                .arg(epoch.as_str());
        };
        let bounds = terms.bounds_of(room);
        let meta_ttl = terms.meta_ttl_ms();
        let lease = match room.is_control() {
            true => terms.lease.min(NODE_LEASE),
            false => terms.lease,
        };
        let lease = millis(lease);
        Some(match &self.request {
            Request::Append { shared, key, .. } => {
                let mut names = vec![keys.meta(), keys.history()];
                names.extend(key.as_deref().map(|key| keys.idempotency(key)));
                let mut command = begin(&scripts.append, &names);
                let (doubt, doubt_ms) = self.doubt_code(moment);
                let mut envelope = Vec::new();
                envelope_of(shared).encode(&mut envelope);
                command
                    .arg(keys.feed())
                    .arg(&*moment.run.id)
                    .arg(u8::from(moment.is_settled))
                    .arg(Epoch::from_number(random()).as_str())
                    .arg(envelope)
                    .arg(u8::from(shared.is_kept))
                    .arg(doubt)
                    .arg(doubt_ms);
                bounds.write(&mut command);
                command.arg(meta_ttl).arg(millis(KEY_TTL));
                command
            }
            Request::Read { known, .. } => {
                let mut command = begin(&scripts.read, &keys.of_read());
                new_room(&mut command);
                command.arg(1 + u8::from(moment.is_settled));
                bounds.write(&mut command);
                command.arg(meta_ttl).arg(node_text(terms.node).as_str());
                if let Some(known) = known {
                    let Position { epoch, offset } = known.position;
                    let token = known.token.map_or_else(Vec::new, |token| {
                        token_bytes(token.node.0, token.number).to_vec()
                    });
                    command.arg(epoch.as_str()).arg(offset.0).arg(token);
                }
                command
            }
            Request::Look { .. } => {
                let mut command = begin(&scripts.read, &keys.of_read());
                new_room(&mut command);
                command.arg(0);
                bounds.write(&mut command);
                command.arg(meta_ttl).arg(node_text(terms.node).as_str());
                command
            }
            Request::Forget { .. } => {
                let mut command = begin(&scripts.forget, &[keys.meta(), keys.history()]);
                command.arg(keys.feed());
                command
            }
            Request::Beat {
                members,
                watches,
                login,
                ..
            } => {
                let mut command = begin(&scripts.beat, &keys.of_read());
                new_room(&mut command);
                command.arg(meta_ttl).arg(node_text(terms.node).as_str());
                command.arg(*members).arg(lease).arg(u8::from(*watches));
                if let Some(Login { generation, number }) = login {
                    command.arg(terms.holder(*number)).arg(*generation);
                }
                command
            }
            Request::Claim {
                number,
                is_exclusive,
                ..
            } => {
                let mut command = begin(&scripts.claim, &[keys.meta(), keys.history()]);
                new_room(&mut command);
                command.arg(meta_ttl).arg(terms.holder(*number));
                command.arg(u8::from(*is_exclusive)).arg(lease);
                command
            }
            Request::Release { login, .. } => {
                let mut command = begin(&scripts.release, &[keys.meta()]);
                command.arg(terms.holder(login.number));
                command
            }
            Request::Follow(_)
            | Request::Unfollow(_)
            | Request::Say { .. }
            | Request::Tell { .. } => return None,
        })
    }

    /// What the script is told of an earlier attempt, and how many milliseconds ago that was.
    fn doubt_code(&self, moment: &Moment<'_>) -> (u8, u64) {
        match &self.doubt {
            None => (0, 0),
            Some((since, run)) => {
                let ago = moment.now.saturating_duration_since(*since);
                let is_same = run == moment.run && moment.has_ended_others;
                (if is_same { 1 } else { 2 }, millis(ago) + 1)
            }
        }
    }

    /// Reads the answer.
    pub(super) fn read(&self, value: Value) -> Answer {
        if let Request::Say { .. } | Request::Tell { .. } = self.request {
            return Answer::Done(None);
        }
        let Some(mut parts) = Parts::of(value) else {
            return Answer::Nonsense;
        };
        match parts.text().as_deref() {
            Some("ok") => self.read_ok(parts).map_or(Answer::Nonsense, Answer::Done),
            Some("none") => Answer::Done(match &self.request {
                Request::Look { number, .. } => Some(Event::Looked {
                    number: *number,
                    outcome: Ok(None),
                }),
                _ => None,
            }),
            Some("held") => match &self.request {
                Request::Claim { number, .. } => Answer::Done(Some(Event::Claimed {
                    number: *number,
                    outcome: Ok(None),
                })),
                _ => Answer::Nonsense,
            },
            Some("repeated") => self
                .read_repeated(parts)
                .map_or(Answer::Nonsense, Answer::Done),
            Some("wait") => Answer::Wait,
            Some("unknown") => Answer::Unknown,
            _ => Answer::Nonsense,
        }
    }

    fn read_repeated(&self, mut parts: Parts) -> Option<Option<Event>> {
        let Request::Append { shared, .. } = &self.request else {
            return None;
        };
        Some(Some(Event::Repeated {
            number: shared.token.number,
            position: position(&mut parts)?,
        }))
    }

    fn read_ok(&self, mut parts: Parts) -> Option<Option<Event>> {
        Some(Some(match &self.request {
            Request::Append { shared, .. } => Event::Appended {
                number: shared.token.number,
                outcome: Ok(position(&mut parts)?),
            },
            Request::Read { room, .. } => Event::Read {
                room: room.clone(),
                snapshot: Box::new(snapshot(&mut parts)?),
            },
            Request::Look { number, .. } => Event::Looked {
                number: *number,
                outcome: Ok(Some(Box::new(snapshot(&mut parts)?))),
            },
            Request::Forget { number, .. } => Event::Forgotten {
                number: *number,
                outcome: Ok(()),
            },
            Request::Beat { room, .. } => Event::Beaten {
                room: room.clone(),
                top: position(&mut parts)?,
                online: parts.number()?,
                generation: parts.number()?,
                is_watched: parts.number()? > 0,
            },
            Request::Claim { number, .. } => Event::Claimed {
                number: *number,
                outcome: Ok(Some(parts.number()?)),
            },
            _ => return Some(None),
        }))
    }
}

impl Terms {
    fn holder(&self, number: u64) -> String {
        format!("{}:{number}", node_text(self.node))
    }

    /// What is kept of a room.
    fn bounds_of(&self, room: &RoomName) -> HistoryBounds {
        if room.is_control() {
            NOTICES
        } else {
            self.bounds
        }
    }

    /// A room outlives what is kept of it, and every lease in it.
    fn meta_ttl_ms(&self) -> u64 {
        millis(self.bounds.ttl.max(NOTICES.ttl)) + 24 * 3_600_000
    }
}

impl HistoryBounds {
    fn write(&self, command: &mut Cmd) {
        command
            .arg(self.publications_max)
            .arg(self.bytes_max)
            .arg(millis(self.ttl));
    }
}

impl super::keys::RoomKeys {
    fn of_read(&self) -> [String; 3] {
        [self.meta(), self.history(), self.nodes()]
    }
}

/// What stands before a word in the feed of a room.
pub(super) const SAID: &[u8] = b"s ";

/// How long a release waits: after so long, the lease has ended by itself.
const RELEASE_WAIT: Duration = Duration::from_secs(30);

/// How long a node counts that is not heard of in the room of nodes, where each is heard of every
/// second: calls that ask all nodes wait for those that count.
const NODE_LEASE: Duration = Duration::from_secs(2);

/// What is kept of the room of nodes, whatever is kept of others. Connections stay while their node is
/// cut off, and whoever was to be sent away meanwhile must be when it is back: for an hour, which is
/// what rooms are kept by default. A notice has some 100 bytes; so many in so short a time come from a
/// back end that sends everybody away, and the oldest have the best chance to have been heard.
const NOTICES: HistoryBounds = HistoryBounds {
    publications_max: 1000,
    bytes_max: 1 << 20,
    ttl: Duration::from_secs(3600),
};

/// How long an idempotency key is known.
const KEY_TTL: Duration = Duration::from_secs(300);

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn position(parts: &mut Parts) -> Option<Position> {
    Some(Position {
        epoch: Epoch::new(&parts.text()?)?,
        offset: parts.offset()?,
    })
}

fn snapshot(parts: &mut Parts) -> Option<Snapshot> {
    let top = position(parts)?;
    let first = parts.offset()?;
    let complete_since_ms = parts.number()?;
    let began = parts.offset()?;
    let unix_ms = parts.number()?;
    let online = parts.number()?;
    let generation = parts.number()?;
    let is_watched = parts.number()? > 0;
    let mut entries = parts.list()?;
    let mut publications = Vec::new();
    while let Some(mut entry) = entries.list() {
        let id = entry.bytes()?;
        let (digits, _) = id.split_at(id.iter().position(|byte| *byte == b'-')?);
        let mut fields = entry.list()?;
        let (_, at) = (fields.bytes()?, fields.number()?);
        let (_, envelope) = (fields.bytes()?, fields.bytes()?);
        publications.push(Numbered {
            offset: offset(digits)?,
            unix_ms: at,
            shared: shared_of(&envelope.into()).ok(),
        });
    }
    Some(Snapshot {
        top,
        first,
        complete_since_ms,
        began,
        unix_ms,
        publications,
        online,
        generation,
        is_watched,
    })
}

fn envelope_of(shared: &Shared) -> Envelope {
    Envelope {
        node: shared.token.node.0,
        number: shared.token.number,
        conn: shared.conn,
        identity: shared.identity.as_ref().map(Arc::clone),
        payload: shared.payload.clone(),
        is_kept: shared.is_kept,
    }
}

/// A publication as another node has written it.
pub(super) fn shared_of(bytes: &Bytes) -> Result<Shared, EnvelopeError> {
    let Envelope {
        node,
        number,
        conn,
        identity,
        payload,
        is_kept,
    } = Envelope::decode(bytes)?;
    Ok(Shared {
        token: Token {
            node: NodeId(node),
            number,
        },
        conn,
        identity,
        payload,
        is_kept,
    })
}
