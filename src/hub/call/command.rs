//! One command of a call: what of it was not given out yet, and what it has found out so far.

use super::{Recipients, Setting, Step};
use crate::base::{Glob, Position, RoomName};
use crate::exchange::{CallKey, CallPart, RoomAsk};
use crate::wire::api::answer::{ApiReply, Page};
use crate::wire::api::relay::{self, Part, Question};
use crate::wire::api::{ApiCall, ApiCode, ApiMethod, Publish};
use crate::wire::frame::Payload;

/// One command.
#[derive(Debug)]
pub(super) struct Command {
    /// `None` for what is no call of the API.
    pub(super) method: Option<ApiMethod>,
    pub(super) todo: Todo,
    pub(super) found: Found,
    /// In a cluster, what the other nodes are to be asked.
    pub(super) question: Option<Question>,
    /// What is to be merged with the answer of this node; `None` if nothing is.
    pub(super) parts: Option<Vec<Part>>,
    /// Most rows of the answer, if it is a list.
    pub(super) rows_max: usize,
}

/// What of a command was not given out yet.
#[derive(Debug)]
pub(super) enum Todo {
    Nothing,
    Here(ApiCall),
    Room(RoomName, Box<RoomAsk>),
    /// The channels with their places, the next one last.
    Rooms(Vec<(u16, RoomName)>, Publish),
    Workers {
        next: usize,
        of: usize,
        pattern: Glob,
    },
    Encode(Payload),
    Announce {
        notice: Payload,
        is_kept: bool,
    },
}

/// What a command has found out so far.
#[derive(Debug)]
pub(super) enum Found {
    /// Nothing yet.
    Nothing,
    Reply(ApiReply),
    Responses(Vec<Result<Position, ApiCode>>),
    Channels(Page),
    Sending(Recipients),
}

impl Todo {
    /// Whether its steps are.
    pub(super) fn is_long(&self) -> bool {
        match self {
            Self::Room(_, ask) => ask.is_long(),
            Self::Workers { .. } => true,
            Self::Here(call) => matches!(call, ApiCall::Connections { .. }),
            Self::Nothing | Self::Rooms(..) | Self::Encode(_) | Self::Announce { .. } => false,
        }
    }
}

impl Command {
    pub(super) fn new(call: ApiCall, setting: Setting) -> Self {
        let method = call.method();
        let unanswered = Found::Nothing;
        let rows_max = match &call {
            ApiCall::Connections { limit, .. } => *limit,
            _ => usize::MAX,
        };
        // A message is for now, and one would push many orders out of what is kept.
        let is_kept = !matches!(call, ApiCall::PublishAll { .. });
        let (order, question) = match setting.in_cluster {
            true => (relay::order(&call), Question::of(&call)),
            false => (None, None),
        };
        let parts = question.is_some().then(Vec::new);
        if let Some(notice) = order {
            return Self {
                method: Some(method),
                todo: Todo::Announce { notice, is_kept },
                ..Self::empty()
            };
        }
        let (todo, found) = match call {
            ApiCall::Publish { channel, publish } => {
                let ask = Box::new(RoomAsk::Publish(publish));
                (Todo::Room(channel, ask), unanswered)
            }
            ApiCall::Broadcast { channels, publish } => {
                let mut rooms = Vec::with_capacity(channels.len());
                let mut responses = Vec::with_capacity(channels.len());
                for (place, channel) in channels.into_iter().enumerate() {
                    responses.push(Err(*channel.as_ref().err().unwrap_or(&ApiCode::Internal)));
                    rooms.extend(channel.ok().map(|room| (place as u16, room)));
                }
                rooms.reverse();
                (Todo::Rooms(rooms, publish), Found::Responses(responses))
            }
            ApiCall::PublishAll { payload } => {
                (Todo::Encode(payload), Found::Sending(Recipients::All))
            }
            ApiCall::Presence { channel } => {
                let ask = RoomAsk::Presence(setting.reader);
                (Todo::Room(channel, ask.into()), unanswered)
            }
            ApiCall::PresenceStats { channel } => (
                Todo::Room(channel, RoomAsk::PresenceStats.into()),
                unanswered,
            ),
            ApiCall::History {
                channel,
                limit,
                since,
                reverse,
            } => {
                let ask = RoomAsk::History {
                    limit,
                    since,
                    reverse,
                    reader: setting.reader,
                };
                (Todo::Room(channel, ask.into()), unanswered)
            }
            ApiCall::HistoryRemove { channel } => (
                Todo::Room(channel, RoomAsk::HistoryRemove.into()),
                unanswered,
            ),
            ApiCall::Channels { pattern } => {
                let todo = Todo::Workers {
                    next: 0,
                    of: setting.workers,
                    pattern,
                };
                (todo, Found::Channels(Page::default()))
            }
            ApiCall::Disconnect { .. }
            | ApiCall::Unsubscribe { .. }
            | ApiCall::Subscribe { .. }
            | ApiCall::Refresh { .. }
            | ApiCall::Connections { .. }
            | ApiCall::Info => (Todo::Here(call), unanswered),
            // The parser lets no batch into a batch.
            ApiCall::Batch { .. } => return Self::refused(ApiCode::MethodNotFound),
        };
        Self {
            method: Some(method),
            todo,
            found,
            question,
            parts,
            rows_max,
        }
    }

    pub(super) fn refused(code: ApiCode) -> Self {
        Self {
            found: Found::Reply(Err(code)),
            ..Self::empty()
        }
    }

    pub(super) fn empty() -> Self {
        Self {
            method: None,
            todo: Todo::Nothing,
            found: Found::Nothing,
            question: None,
            parts: None,
            rows_max: usize::MAX,
        }
    }

    pub(super) fn next_step(&mut self, key: CallKey, command: u16) -> Option<Step> {
        let mut part = CallPart {
            call: key,
            command,
            index: 0,
        };
        match &mut self.todo {
            Todo::Rooms(rooms, publish) => {
                let (index, room) = rooms.pop()?;
                part.index = index;
                let ask = Box::new(RoomAsk::Publish(publish.clone()));
                return Some(Step::Room { part, room, ask });
            }
            Todo::Workers { next, of, pattern } => {
                let worker = *next;
                *next += 1;
                let pattern = pattern.clone();
                if worker < *of {
                    return Some(Step::ListRooms {
                        part,
                        worker,
                        pattern,
                    });
                }
            }
            _ => {}
        }
        match std::mem::replace(&mut self.todo, Todo::Nothing) {
            Todo::Here(call) => Some(Step::Here { part, call }),
            Todo::Room(room, ask) => Some(Step::Room { part, room, ask }),
            Todo::Encode(payload) => Some(Step::Encode { part, payload }),
            Todo::Announce { notice, is_kept } => Some(Step::Announce {
                part,
                notice,
                is_kept,
            }),
            Todo::Nothing | Todo::Rooms(..) | Todo::Workers { .. } => {
                let question = self.question.take()?;
                Some(Step::AskNodes { part, question })
            }
        }
    }
}
