//! One call of a back end in progress: what has still to be asked of whom, what was answered.
//!
//! Owns: the commands of the call (a batch has several), each with what it has found out so far.
//! Never: asks anybody itself; the hub carries out the steps it is given.
//!
//! Invariants
//! - Every step that was given out is answered exactly once, and then the call is over.
//! - Unless a batch is `parallel`, no step of a command is given out before all of the command
//!   before it are answered.

mod command;

use self::command::{Command, Found, Todo};
use crate::base::{ConnId, Glob, Instant, NodeId, RoomName};
use crate::exchange::{CallKey, CallPart, Reader, RoomAsk};
use crate::wire::api::answer::{ApiReply, ApiResult, answer, batch_answer};
use crate::wire::api::relay::{self, Part, Question};
use crate::wire::api::{ApiCall, ApiCode, ApiError, ApiMethod, PAGE_BYTES_MAX, Target};
use crate::wire::frame::Payload;

/// Who is to get the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Caller {
    /// The peer of a connection.
    Conn(ConnId),
    /// A client that speaks by commands: this one of them asks.
    Client { conn: ConnId, command: u32 },
    /// The program around the daemon, which knows the call by this number.
    Program {
        number: u64,
        /// Whether it wants the answer as JSON.
        in_json: bool,
    },
    /// A node of the cluster, that knows the question by this number.
    Node { node: NodeId, number: u64 },
}

/// Those whose questions have places of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Guest {
    /// Other nodes.
    Node,
    /// Clients that speak by commands.
    Client,
}

impl Caller {
    /// Whether it is another node, with a question.
    pub(super) fn is_node(&self) -> bool {
        self.guest() == Some(Guest::Node)
    }

    /// What kind of guest it is; `None` for a back end and the program.
    pub(super) fn guest(&self) -> Option<Guest> {
        match self {
            Self::Node { .. } => Some(Guest::Node),
            Self::Client { .. } => Some(Guest::Client),
            Self::Conn(_) | Self::Program { .. } => None,
        }
    }
}

/// A call in progress.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) caller: Caller,
    /// What it brings, in bytes.
    pub(super) bytes: usize,
    /// When it was taken from its caller; the origin before the hub has seen it.
    pub(super) taken_at: Instant,
    /// Whether it may gather long answers.
    pub(super) has_reserved: bool,
    /// Bytes of the long answers that it has gathered.
    answer_bytes: usize,
    /// Method and body, before they were given out to be decoded.
    undecoded: Option<(Box<str>, Vec<u8>)>,
    /// Why it is no call.
    error: Option<ApiError>,
    is_batch: bool,
    is_parallel: bool,
    commands: Vec<Command>,
    /// The first command that may have steps left.
    next: usize,
    /// Steps given out and not answered.
    pending: usize,
    /// A step that could not be carried out yet: the call stands in line for a worker.
    put_back: Option<Step>,
}

/// What the hub is to do next.
#[derive(Debug)]
pub(super) enum Step {
    /// Have the body decoded.
    Decode { method: Box<str>, body: Vec<u8> },
    /// Ask a room.
    Room {
        part: CallPart,
        room: RoomName,
        ask: Box<RoomAsk>,
    },
    /// Ask one worker for its rooms.
    ListRooms {
        part: CallPart,
        worker: usize,
        pattern: Glob,
    },
    /// Have a message encoded.
    Encode { part: CallPart, payload: Payload },
    /// Answer out of what the hub knows itself.
    Here { part: CallPart, call: ApiCall },
    /// Have every node of the cluster do it.
    Announce {
        part: CallPart,
        notice: Payload,
        /// Whether a node that is cut off is to hear of it when it is back.
        is_kept: bool,
    },
    /// Ask the other nodes of the cluster for their part of the answer.
    AskNodes { part: CallPart, question: Question },
}

/// Where a call is carried out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setting {
    /// Number of workers.
    pub(super) workers: usize,
    /// Whether other nodes have a part in it.
    pub(super) in_cluster: bool,
    /// For whom.
    pub(super) reader: Reader,
}

/// Who gets a message that is no publication of a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Recipients {
    All,
    One(ConnId),
}

/// What a call came to.
#[derive(Debug, PartialEq)]
pub(super) enum Outcome {
    /// Its body is not JSON.
    Undecodable,
    /// The answer to a lone command, or why there is none.
    Single(ApiReply),
    /// The answers to a batch.
    Batch(Vec<(ApiMethod, ApiReply)>),
}

impl Step {
    /// Whether its answer can be long, so that room for it has to be reserved.
    pub(super) fn is_long(&self) -> bool {
        match self {
            Self::Room { ask, .. } => ask.is_long(),
            Self::ListRooms { .. } => true,
            Self::Here { call, .. } => matches!(call, ApiCall::Connections { .. }),
            Self::Decode { .. }
            | Self::Encode { .. }
            | Self::Announce { .. }
            | Self::AskNodes { .. } => false,
        }
    }
}

impl Outcome {
    /// The body of the answer; `None` if the call was not JSON.
    pub(super) fn to_json(&self) -> Option<Vec<u8>> {
        match self {
            Self::Undecodable => None,
            Self::Single(reply) => Some(answer(reply)),
            Self::Batch(replies) => Some(batch_answer(replies)),
        }
    }
}

impl Call {
    /// A call whose body was received.
    pub(super) fn new(caller: Caller, method: Box<str>, body: Vec<u8>) -> Self {
        let bytes = body.len();
        Self {
            undecoded: Some((method, body)),
            ..Self::empty(caller, bytes)
        }
    }

    /// A call that needs no decoding.
    pub(super) fn decoded(caller: Caller, call: ApiCall, setting: Setting) -> Self {
        let bytes = match &call {
            ApiCall::Publish { publish, .. } => publish.payload.bytes().len(),
            _ => 0,
        };
        let mut this = Self::empty(caller, bytes);
        this.begin(call, setting);
        this
    }

    /// A message for one connection.
    pub(super) fn send(caller: Caller, to: ConnId, payload: Payload) -> Self {
        let bytes = payload.bytes().len();
        Self {
            commands: vec![Command {
                todo: Todo::Encode(payload),
                found: Found::Sending(Recipients::One(to)),
                ..Command::refused(ApiCode::Internal)
            }],
            ..Self::empty(caller, bytes)
        }
    }

    /// The end of one client of this node, of which no other node has to be told.
    pub(super) fn close(
        caller: Caller,
        client: String,
        (code, reason): (u16, Box<str>),
        setting: Setting,
    ) -> Self {
        let call = ApiCall::Disconnect {
            target: Target::Client(client.into()),
            whitelist: Vec::new(),
            code,
            reason,
        };
        let here = Setting {
            in_cluster: false,
            ..setting
        };
        Self::decoded(caller, call, here)
    }

    fn empty(caller: Caller, bytes: usize) -> Self {
        Self {
            caller,
            bytes,
            taken_at: Instant::ORIGIN,
            has_reserved: false,
            answer_bytes: 0,
            undecoded: None,
            error: None,
            is_batch: false,
            is_parallel: false,
            commands: Vec::new(),
            next: 0,
            pending: 0,
            put_back: None,
        }
    }

    /// The body was decoded.
    pub(super) fn handle_decoded(
        &mut self,
        outcome: Result<Box<ApiCall>, ApiError>,
        setting: Setting,
    ) {
        self.pending -= 1;
        match outcome {
            Ok(call) => self.begin(*call, setting),
            Err(error) => self.error = Some(error),
        }
    }

    fn begin(&mut self, call: ApiCall, setting: Setting) {
        match call {
            ApiCall::Batch { commands, parallel } => {
                self.is_batch = true;
                self.is_parallel = parallel;
                self.commands = commands
                    .into_iter()
                    .map(|command| match command {
                        Ok(call) => Command::new(call, setting),
                        Err(code) => Command::refused(code),
                    })
                    .collect();
            }
            call => self.commands = vec![Command::new(call, setting)],
        }
    }

    /// The next step, if there is one now. `key` is the call's own.
    pub(super) fn next_step(&mut self, key: CallKey) -> Option<Step> {
        if let Some(step) = self.put_back.take() {
            self.pending += 1;
            return Some(step);
        }
        if let Some((method, body)) = self.undecoded.take() {
            self.pending += 1;
            return Some(Step::Decode { method, body });
        }
        while let Some(command) = self.commands.get_mut(self.next) {
            // Long answers come one at a time, or their sum would be known too late.
            if self.pending > 0 && command.todo.is_long() {
                return None;
            }
            if let Some(step) = command.next_step(key, self.next as u16) {
                self.pending += 1;
                return Some(step);
            }
            if !self.is_parallel && self.pending > 0 {
                return None;
            }
            self.next += 1;
        }
        None
    }

    /// Whether it stands in line with a step that it was given back.
    pub(super) fn is_in_line(&self) -> bool {
        self.put_back.is_some()
    }

    /// Takes back a step that cannot be carried out now; it is the next one.
    pub(super) fn put_back(&mut self, step: Step) {
        self.pending -= 1;
        self.put_back = Some(step);
    }

    /// A step was answered.
    pub(super) fn handle_answer(&mut self, part: CallPart, reply: ApiReply) {
        self.pending -= 1;
        let Some(command) = self.commands.get_mut(usize::from(part.command)) else {
            debug_assert!(false, "an answer to a command that there is not");
            return;
        };
        let mut reply = reply;
        if !self.has_reserved
            && self.answer_bytes + reply.as_ref().map_or(0, ApiResult::page_bytes) > PLACE_BYTES_MIN
        {
            forget_names(&mut reply);
        }
        self.answer_bytes += reply.as_ref().map_or(0, ApiResult::page_bytes);
        let reply = if self.answer_bytes > ANSWER_BYTES_MAX {
            Err(ApiCode::LimitExceeded)
        } else {
            reply
        };
        match (&mut command.found, reply) {
            // A part of them is missing.
            (Found::Reply(Err(ApiCode::LimitExceeded)), Ok(ApiResult::Channels(_))) => {}
            (Found::Responses(responses), reply) => {
                if let Some(response) = responses.get_mut(usize::from(part.index)) {
                    *response = match reply {
                        Ok(ApiResult::Published(position)) => Ok(position),
                        Ok(_) => Err(ApiCode::Internal),
                        Err(code) => Err(code),
                    };
                }
            }
            (Found::Channels(page), Ok(ApiResult::Channels(more))) => page.append(&more),
            (found, reply) => *found = Found::Reply(reply),
        }
    }

    /// Gives up what the answer can do without, as it has to wait.
    pub(super) fn shorten(&mut self) {
        for command in &mut self.commands {
            if let Found::Reply(reply) = &mut command.found {
                forget_names(reply);
            }
        }
    }

    /// Another node has answered its part of a command.
    pub(super) fn handle_part(&mut self, part: CallPart, answer: Part) {
        // What has not reserved has its place, whatever it is told.
        let bytes_max = match self.has_reserved {
            true => ANSWER_BYTES_MAX,
            false => PLACE_BYTES_MIN,
        };
        let bytes = answer.bytes_len();
        let answer = if self.answer_bytes + bytes > bytes_max {
            answer.shortened()
        } else {
            self.answer_bytes += bytes;
            answer
        };
        let command = self.commands.get_mut(usize::from(part.command));
        if let Some(parts) = command.and_then(|command| command.parts.as_mut()) {
            parts.push(answer);
        }
    }

    /// The other nodes have answered, or are not waited for any longer.
    pub(super) fn end_parts(&mut self) {
        self.pending -= 1;
    }

    /// Who gets the message that this part had encoded.
    pub(super) fn recipients(&self, part: CallPart) -> Option<Recipients> {
        match self.commands.get(usize::from(part.command))?.found {
            Found::Sending(recipients) => Some(recipients),
            _ => None,
        }
    }

    /// Whether everything was given out and answered.
    pub(super) fn is_over(&self) -> bool {
        self.pending == 0
            && self.put_back.is_none()
            && self.undecoded.is_none()
            && self.next >= self.commands.len()
    }

    /// What it came to, once it is over.
    pub(super) fn into_outcome(self) -> Outcome {
        match self.error {
            Some(ApiError::Undecodable) => return Outcome::Undecodable,
            Some(ApiError::Refused(code)) => return Outcome::Single(Err(code)),
            None => {}
        }
        let is_question = self.caller.is_node();
        let mut replies = self.commands.into_iter().map(|command| {
            let mut reply = match command.found {
                Found::Nothing => Err(ApiCode::Internal),
                Found::Reply(reply) => reply,
                Found::Responses(responses) => Ok(ApiResult::Broadcast(responses)),
                Found::Channels(page) => Ok(ApiResult::Channels(page)),
                Found::Sending(_) => Err(ApiCode::Internal),
            };
            // Who asks for all nodes merges what it is told.
            if !is_question {
                let parts = command.parts.unwrap_or_default();
                relay::merge(&mut reply, parts, command.rows_max);
            }
            // For an error it does not matter which.
            (command.method.unwrap_or(ApiMethod::Batch), reply)
        });
        if self.is_batch {
            return Outcome::Batch(replies.collect());
        }
        let reply = replies.next().map(|(_, reply)| reply);
        Outcome::Single(reply.unwrap_or(Err(ApiCode::Internal)))
    }

    /// Its methods, each once a command, with what it came to.
    pub(super) fn outcomes(&self) -> impl Iterator<Item = (Option<ApiMethod>, Option<ApiCode>)> {
        let of_commands = self.commands.iter().map(|command| {
            let code = match &command.found {
                Found::Reply(reply) => reply.as_ref().err().copied(),
                _ => None,
            };
            (command.method, code)
        });
        let of_call = self.error.map(|error| match error {
            ApiError::Undecodable => (None, None),
            ApiError::Refused(code) => (None, Some(code)),
        });
        of_commands.chain(of_call)
    }
}

/// Counts the users whom a reply names.
fn forget_names(reply: &mut ApiReply) {
    if let Ok(ApiResult::PresenceUsers { clients, users }) = reply {
        let (clients, users) = (*clients, users.len());
        *reply = Ok(ApiResult::PresenceStats { clients, users });
    }
}

/// Longest answer of one call, in bytes: what comes after it gets code 106.
pub(super) const ANSWER_BYTES_MAX: usize = 2 * PAGE_BYTES_MAX;

/// The least place that a call takes, in bytes.
pub(super) const PLACE_BYTES_MIN: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Position;
    use crate::base::{Epoch, Offset};
    use crate::wire::api::answer::Page;

    const ALONE: Setting = Setting {
        reader: Reader::BackEnd,
        workers: 2,
        in_cluster: false,
    };

    fn call(method: &str, body: &str) -> Call {
        let caller = Caller::Program {
            number: 1,
            in_json: true,
        };
        let mut call = Call::new(caller, method.into(), body.into());
        let Some(Step::Decode { method, body }) = call.next_step(3) else {
            panic!("decoding comes first");
        };
        assert!(call.next_step(3).is_none() && !call.is_over());
        let outcome = ApiCall::parse(&method, &body, 100).map(Box::new);
        call.handle_decoded(outcome, ALONE);
        call
    }

    fn published(offset: u64) -> ApiReply {
        Ok(ApiResult::Published(at(offset)))
    }

    fn at(offset: u64) -> Position {
        Position {
            epoch: Epoch::from_number(1),
            offset: Offset(offset),
        }
    }

    /// Takes the next step, which asks a room, and says which.
    fn room(call: &mut Call) -> Option<(CallPart, String)> {
        match call.next_step(3) {
            Some(Step::Room { part, room, .. }) => Some((part, room.as_str().to_owned())),
            Some(step) => panic!("{step:?}"),
            None => None,
        }
    }

    #[test]
    fn a_broadcast_is_answered_in_request_order_whatever_the_order_of_answers() {
        let mut call = call(
            "broadcast",
            r#"{"channels":["a","\u0001","b","a"],"data":1}"#,
        );
        let asked: Vec<_> = std::iter::from_fn(|| room(&mut call)).collect();
        let names: Vec<_> = asked.iter().map(|(_, name)| name.as_str()).collect();
        assert_eq!(names, ["a", "b", "a"]);
        for (number, (part, _)) in asked.into_iter().enumerate().rev() {
            assert!(!call.is_over());
            let reply = if number == 1 {
                Err(ApiCode::LimitExceeded)
            } else {
                published(number as u64)
            };
            call.handle_answer(part, reply);
        }
        assert!(call.next_step(3).is_none() && call.is_over());
        let Outcome::Single(Ok(ApiResult::Broadcast(responses))) = call.into_outcome() else {
            panic!("not the answer to a broadcast");
        };
        assert_eq!(
            (&responses[0], &responses[2], &responses[3]),
            (&Ok(at(0)), &Err(ApiCode::LimitExceeded), &Ok(at(2)))
        );
        assert!(responses[1].is_err());
    }

    #[test]
    fn a_batch_waits_for_each_command_unless_it_is_parallel() {
        let commands = r#"[{"publish":{"channel":"a","data":1}},{"nothing":{}},
            {"publish":{"channel":"b","data":1}}]"#;
        let mut one = call("batch", &format!(r#"{{"commands":{commands}}}"#));
        let (first, name) = room(&mut one).expect("a step");
        assert_eq!(name, "a");
        assert_eq!(room(&mut one), None, "its answer comes first");
        one.handle_answer(first, published(1));
        let step = one.next_step(3).expect("a step");
        one.put_back(step);
        assert!(!one.is_over());
        let (second, name) = room(&mut one).expect("the same step again");
        assert_eq!(name, "b");
        one.handle_answer(second, published(2));
        assert!(one.next_step(3).is_none() && one.is_over());
        let expected = Outcome::Batch(vec![
            (ApiMethod::Publish, published(1)),
            (ApiMethod::Batch, Err(ApiCode::MethodNotFound)),
            (ApiMethod::Publish, published(2)),
        ]);
        assert_eq!(one.into_outcome(), expected);

        let body = format!(r#"{{"commands":{commands},"parallel":true}}"#);
        let mut all = call("batch", &body);
        let asked: Vec<_> = std::iter::from_fn(|| room(&mut all)).collect();
        assert_eq!(asked.len(), 2, "both at once");
        for (part, _) in asked {
            assert!(!all.is_over());
            all.handle_answer(part, published(1));
        }
        assert!(all.is_over());
    }

    #[test]
    fn channels_are_gathered_from_every_worker() {
        let mut call = call("channels", "");
        let mut expected = Page::default();
        for (name, expected_worker) in [("a", 0), ("b", 1)] {
            let Some(Step::ListRooms { part, worker, .. }) = call.next_step(3) else {
                panic!("a worker is left out");
            };
            assert_eq!(worker, expected_worker);
            let mut page = Page::default();
            page.push_channel(&RoomName::new(name).expect("a good name"), 1);
            expected.append(&page);
            call.handle_answer(part, Ok(ApiResult::Channels(page)));
        }
        assert!(call.next_step(3).is_none() && call.is_over());
        let expected = Outcome::Single(Ok(ApiResult::Channels(expected)));
        assert_eq!(call.into_outcome(), expected);
    }

    #[test]
    fn a_call_without_memory_for_long_answers_takes_no_more_than_its_place() {
        let in_cluster = Setting {
            in_cluster: true,
            ..ALONE
        };
        let stats = ApiCall::PresenceStats {
            channel: RoomName::new("a").expect("a good name"),
        };
        let caller = Caller::Program {
            number: 1,
            in_json: true,
        };
        let mut call = Call::decoded(caller, stats, in_cluster);
        let (first, _) = room(&mut call).expect("a step");
        let users = |name: char| {
            let len = PLACE_BYTES_MIN / 3;
            let text = format!("\"{}\"", name.to_string().repeat(len));
            Page::of_items(text.into(), 1)
        };
        let clients = 1;
        let users_here = users('a');
        let reply = Ok(ApiResult::PresenceUsers {
            clients,
            users: users_here,
        });
        call.handle_answer(first, reply);
        assert!(call.answer_bytes > 0);
        let Some(Step::AskNodes { part, .. }) = call.next_step(3) else {
            panic!("the others are not asked");
        };
        for name in ['a', 'b', 'b', 'b'] {
            let users = users(name);
            call.handle_part(part, Part::Users { clients, users });
            assert!(call.answer_bytes <= PLACE_BYTES_MIN);
        }
        call.end_parts();
        assert!(call.next_step(3).is_none() && call.is_over());
        // The same user again, and three for whom there was no room to be named.
        let (clients, users) = (5, 4);
        let expected = Outcome::Single(Ok(ApiResult::PresenceStats { clients, users }));
        assert_eq!(call.into_outcome(), expected);
    }

    #[test]
    fn what_all_nodes_carry_out_is_one_step_that_is_answered() {
        let in_cluster = Setting {
            in_cluster: true,
            ..ALONE
        };
        for (method, body) in [
            ("publish_all", r#"{"data":1}"#),
            ("disconnect", r#"{"user":"u"}"#),
            ("unsubscribe", r#"{"channel":"a","user":"u"}"#),
        ] {
            let call = ApiCall::parse(method, body.as_bytes(), 100).expect(body);
            let caller = Caller::Program {
                number: 1,
                in_json: true,
            };
            let mut call = Call::decoded(caller, call, in_cluster);
            let Some(Step::Announce { part, .. }) = call.next_step(3) else {
                panic!("{method} is not told");
            };
            assert!(call.next_step(3).is_none() && !call.is_over());
            call.handle_answer(part, Ok(ApiResult::Done));
            assert!(call.next_step(3).is_none() && call.is_over());
            let expected = Outcome::Single(Ok(ApiResult::Done));
            assert_eq!(call.into_outcome(), expected, "{method}");
        }
    }

    #[test]
    fn what_is_no_call_is_over_at_once() {
        for (method, body, expected) in [
            ("publish", "{", Outcome::Undecodable),
            (
                "nothing",
                "{}",
                Outcome::Single(Err(ApiCode::MethodNotFound)),
            ),
            ("publish", "{}", Outcome::Single(Err(ApiCode::BadRequest))),
            ("batch", r#"{"commands":[]}"#, Outcome::Batch(Vec::new())),
        ] {
            let mut call = call(method, body);
            assert!(call.next_step(3).is_none() && call.is_over(), "{method}");
            assert_eq!(call.into_outcome(), expected, "{method}");
        }
    }
}
