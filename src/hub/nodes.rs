//! In a cluster: what the nodes carry out together.
//!
//! Calls that concern connections of any node are told to all of them in a room of their own, and
//! each does its part when it hears of it. Where the answer has parts of all, the others are asked,
//! and waited for as long as they may still answer; one that does not is left out.
//!
//! How many others are waited for is how many were lately heard of, as the broker tells with each
//! beat. A smaller number is believed when it has stood for [`DOUBT`]: after a pause of the broker
//! the first node that is back would find itself alone, and a node that was only slow is there again
//! with its next beat. Then whoever waits for nobody but the missing waits no longer. An answer that
//! comes before that is merged, whoever it is from.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use super::Hub;
use super::call::{Call, Caller, Guest, Setting};
use crate::base::{Instant, NodeId, Now, RoomName};
use crate::exchange::{CallPart, Job, Reader};
use crate::wire::api::ApiCode;
use crate::wire::api::answer::ApiReply;
use crate::wire::api::relay::{self, Notice, Part, Question};

/// The other nodes.
#[derive(Debug)]
pub(super) struct Nodes {
    here: NodeId,
    wait: Duration,
    others: Others,
    asked: HashMap<u64, Asked>,
    last_number: u64,
    /// Questions in the order of their deadlines; in front is one that is not answered by all.
    deadlines: VecDeque<(Instant, u64)>,
}

/// How many other nodes there are.
#[derive(Debug, Default)]
struct Others {
    believed: u32,
    /// A smaller number, and when it will be believed.
    doubted: Option<(Instant, u32)>,
}

/// A question that is not answered by all.
#[derive(Debug)]
struct Asked {
    part: CallPart,
    /// How many others there were.
    others: u32,
    answers: u32,
}

impl Others {
    /// Notes what was told at `now`.
    fn note(&mut self, now: Instant, told: u32) {
        if told >= self.believed {
            self.believed = told;
            self.doubted = None;
            return;
        }
        let at = match self.doubted {
            Some((at, before)) if before <= told => at,
            _ => now + DOUBT,
        };
        self.doubted = Some((at, told));
    }

    /// Believes what has stood for long enough; returns whether that is news.
    fn settle(&mut self, now: Instant) -> bool {
        let news = self.doubted.take_if(|(at, _)| *at <= now);
        if let Some((_, fewer)) = news {
            self.believed = fewer;
        }
        news.is_some()
    }
}

impl Nodes {
    pub(super) fn others(&self) -> u32 {
        self.others.believed
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let question = self.deadlines.front().map(|(at, _)| *at);
        let others = self.others.doubted.map(|(at, _)| at);
        question.into_iter().chain(others).min()
    }

    /// Whether nobody is waited for that could still answer.
    fn is_answered(&self, asked: &Asked) -> bool {
        asked.answers >= asked.others.min(self.others.believed)
    }

    /// Those among the questions.
    fn answered(&self) -> Vec<u64> {
        let answered = (self.asked.iter()).filter(|(_, asked)| self.is_answered(asked));
        answered.map(|(number, _)| *number).collect()
    }

    /// Takes a question out.
    fn remove(&mut self, number: u64) -> Option<Asked> {
        let asked = self.asked.remove(&number);
        while let Some((_, first)) = self.deadlines.front()
            && !self.asked.contains_key(first)
        {
            self.deadlines.pop_front();
        }
        asked
    }
}

impl<S> Hub<S> {
    /// Makes it the hub of a node in a cluster. What is asked of others waits for `wait`.
    pub fn join_cluster(&mut self, here: NodeId, wait: Duration) {
        self.nodes = Some(Nodes {
            here,
            wait,
            others: Others::default(),
            asked: HashMap::new(),
            last_number: 0,
            deadlines: VecDeque::new(),
        });
    }

    /// So many other nodes are there.
    pub(super) fn note_others(&mut self, now: Now, others: u32) {
        if let Some(nodes) = &mut self.nodes {
            nodes.others.note(now.instant, others);
        }
    }

    /// The name of this node, if it is one of a cluster.
    pub(super) fn node(&self) -> Option<NodeId> {
        self.nodes.as_ref().map(|nodes| nodes.here)
    }

    /// Where calls of back ends are carried out.
    pub(super) fn setting(&self) -> Setting {
        Setting {
            workers: self.jobs.workers_len(),
            in_cluster: self.nodes.is_some(),
            reader: Reader::BackEnd,
        }
    }

    /// Which worker has the room of nodes.
    pub(super) fn worker_of_nodes(&self) -> usize {
        self.jobs.worker_of(&RoomName::control())
    }

    /// The job that asks the others for their part of an answer; `None` if there are none.
    pub(super) fn ask_nodes(
        &mut self,
        now: Now,
        part: CallPart,
        question: &Question,
    ) -> Option<Job> {
        let nodes = self.nodes.as_mut().filter(|nodes| nodes.others() > 0)?;
        nodes.last_number += 1;
        let number = nodes.last_number;
        let asked = Asked {
            part,
            others: nodes.others(),
            answers: 0,
        };
        nodes.asked.insert(number, asked);
        let deadline = now.instant + nodes.wait;
        nodes.deadlines.push_back((deadline, number));
        Some(Job::Announce {
            part: None,
            notice: question.numbered(number),
            is_kept: false,
        })
    }

    /// A node, or this one, has told all.
    pub(super) fn hear(&mut self, now: Now, from: NodeId, notice: Notice) {
        match notice {
            Notice::Order(call) => self.obey(now, call),
            // Its own part has an answer of its own.
            Notice::Question { .. } if self.node() == Some(from) => {}
            Notice::Question { number, call } => {
                let caller = Caller::Node { node: from, number };
                let alone = Setting {
                    in_cluster: false,
                    ..self.setting()
                };
                let question = Call::decoded(caller, call, alone);
                if !self.begin_question(now, Guest::Node, question)
                    && self.jobs.has_credit(self.worker_of_nodes())
                {
                    // Without room for that either, the other waits as for a node that is gone.
                    self.tell_node(from, number, &Err(ApiCode::Internal));
                }
            }
        }
    }

    /// What this node has to say is said to the one that asked, against a credit.
    pub(super) fn tell_node(&mut self, node: NodeId, number: u64, reply: &ApiReply) {
        let bytes = relay::encode_answer(number, reply);
        let worker = self.worker_of_nodes();
        self.jobs.push(worker, Job::Tell { node, bytes });
    }

    /// Another node has answered.
    pub(super) fn handle_told(&mut self, now: Now, number: u64, answer: Part) {
        let Some(nodes) = &mut self.nodes else {
            return;
        };
        let Some(asked) = nodes.asked.get_mut(&number) else {
            return;
        };
        asked.answers += 1;
        if let Some(call) = self.calls.get_mut(asked.part.call) {
            call.handle_part(asked.part, answer);
        }
        if nodes
            .asked
            .get(&number)
            .is_some_and(|asked| nodes.is_answered(asked))
        {
            self.end_question(now, number);
        }
    }

    /// Gives up those who have not answered in time, or are not there any more.
    pub(super) fn give_up_nodes(&mut self, now: Now) {
        let Some(nodes) = &mut self.nodes else {
            return;
        };
        let mut over = match nodes.others.settle(now.instant) {
            true => nodes.answered(),
            false => Vec::new(),
        };
        let late = nodes
            .deadlines
            .iter()
            .take_while(|(at, _)| *at <= now.instant);
        over.extend(late.map(|(_, number)| *number));
        for number in over {
            self.end_question(now, number);
        }
    }

    /// No more parts of other nodes are waited for.
    fn end_question(&mut self, now: Now, number: u64) {
        let asked = self.nodes.as_mut().and_then(|nodes| nodes.remove(number));
        let Some(Asked { part, .. }) = asked else {
            return;
        };
        if let Some(call) = self.calls.get_mut(part.call) {
            call.end_parts();
        }
        self.advance_call(now, part.call);
    }
}

/// How long a smaller number of nodes is doubted: two beats.
const DOUBT: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::base::{Limits, UserId};
    use crate::exchange::{Effect, RoomAsk};
    use crate::hub::calls::QUESTIONS_MAX;
    use crate::hub::{Gate, ProgramCall, ProgramReply, Reading};
    use crate::wire::api::answer::{ApiResult, Page};
    use crate::wire::api::{ApiCall, Target};

    const OTHER: NodeId = NodeId(2);

    fn at(ms: u64) -> Now {
        Now {
            instant: Instant::ORIGIN + Duration::from_millis(ms),
            unix_ms: ms,
        }
    }

    fn room() -> RoomName {
        RoomName::new("r").expect("a good name")
    }

    fn presence() -> ApiCall {
        ApiCall::Presence { channel: room() }
    }

    fn stats() -> ApiCall {
        ApiCall::PresenceStats { channel: room() }
    }

    fn counted(users: usize) -> ApiReply {
        let clients = users;
        Ok(ApiResult::PresenceStats { clients, users })
    }

    /// A hub with places for one call and one long answer, which knows of `others`.
    fn hub(others: u32) -> Hub<()> {
        let limits = Limits {
            api_calls_bytes_max: 1,
            api_answers_bytes_max: 1,
            ..Limits::default()
        };
        let mut hub = Hub::new(limits, Gate::default(), 1, Instant::ORIGIN, 1);
        hub.join_cluster(NodeId(1), Duration::from_secs(30));
        hub.handle_room(at(0), 0, 100);
        tell_others(&mut hub, 0, others);
        hub
    }

    fn tell_others(hub: &mut Hub<()>, ms: u64, others: u32) {
        let room = RoomName::control();
        hub.handle_effect(at(ms), Effect::Online { room, others });
    }

    fn hear(hub: &mut Hub<()>, notice: Notice) {
        let notice = Box::new(notice);
        hub.handle_effect(
            at(0),
            Effect::Heard {
                from: OTHER,
                notice,
            },
        );
        hub.check_invariants();
    }

    fn ask(hub: &mut Hub<()>, number: u64, call: ApiCall) {
        hear(hub, Notice::Question { number, call });
    }

    fn call(hub: &mut Hub<()>, number: u64, call: ApiCall) {
        hub.handle_call(at(0), number, ProgramCall::Api(call));
        hub.check_invariants();
    }

    /// The next job, which asks the room, is done.
    fn answer_room(hub: &mut Hub<()>, ms: u64, reply: ApiReply) {
        let job = hub.poll_job();
        let Some((0, Job::Ask { part, ask, .. })) = job else {
            panic!("the room is not asked, but {job:?}");
        };
        assert!(matches!(
            *ask,
            RoomAsk::Presence(_) | RoomAsk::PresenceStats
        ));
        hub.handle_effect(at(ms), Effect::Answered { part, reply });
        hub.check_invariants();
    }

    /// The next job asks the other nodes; returns the number of the question.
    fn asked(hub: &mut Hub<()>) -> u64 {
        let job = hub.poll_job();
        let Some((0, Job::Announce { notice, .. })) = &job else {
            panic!("the others are not asked, but {job:?}");
        };
        match Notice::decode(notice.bytes()) {
            Some(Notice::Question { number, .. }) => number,
            other => panic!("{other:?}"),
        }
    }

    fn told(hub: &mut Hub<()>, ms: u64, number: u64, reply: &ApiReply) {
        let bytes = relay::encode_answer(number, reply);
        let (number, part) = relay::decode_answer(&bytes).expect("an answer");
        hub.handle_effect(at(ms), Effect::Told { number, part });
    }

    fn answer(hub: &mut Hub<()>) -> Option<ApiReply> {
        match hub.poll_answer()?.1 {
            ProgramReply::Typed(reply) => Some(reply),
            ProgramReply::Json(_) => None,
        }
    }

    /// A hub whose only place, and whose memory for long answers, belong to a call that waits for
    /// the other node, with another call behind it.
    fn hub_that_waits() -> Hub<()> {
        let mut hub = hub(1);
        call(&mut hub, 1, presence());
        answer_room(&mut hub, 0, Ok(ApiResult::Presence(Page::default())));
        asked(&mut hub);
        call(&mut hub, 2, presence());
        assert!(hub.poll_job().is_none() && hub.calls_len() == 2);
        hub
    }

    #[test]
    fn nodes_that_wait_for_each_other_answer_each_other() {
        let mut hub = hub_that_waits();
        for (number, call) in [(7, presence()), (8, stats())] {
            ask(&mut hub, number, call);
            answer_room(&mut hub, 0, Ok(ApiResult::Presence(Page::default())));
            let job = hub.poll_job();
            let Some((0, Job::Tell { node, bytes })) = job else {
                panic!("the other node is not answered, but {job:?}");
            };
            let part = relay::decode_answer(&bytes).expect("an answer");
            assert_eq!((node, part.0), (OTHER, number));
        }
        assert_eq!(hub.calls_len(), 2);
    }

    #[test]
    fn orders_are_carried_out_at_once_whatever_waits() {
        let mut hub = hub(1);
        let peer = SocketAddr::from(([127, 0, 0, 1], 9));
        let id = hub.handle_accept(at(0), false, peer, ()).expect("a place");
        let head = b"GET /ws?room=r&user=al HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\n\
            Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
            Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        // It is not read before it has joined.
        assert_eq!(hub.handle_bytes(at(0), id, head), Reading::Paused);
        while hub.poll_job().is_some() {}
        call(&mut hub, 1, presence());
        answer_room(&mut hub, 0, Ok(ApiResult::Presence(Page::default())));
        call(&mut hub, 2, presence());
        // Without any credit, too.
        hub.handle_room(at(0), 0, 0);
        assert!(hub.poll_flush().is_none());
        let order = ApiCall::Disconnect {
            target: Target::User(UserId::new("al").expect("a good id")),
            whitelist: Vec::new(),
            code: 3503,
            reason: "go".into(),
        };
        hear(&mut hub, Notice::Order(order));
        let (flushed, (), queue) = hub.poll_flush().expect("a refusal");
        let piece = queue.lone_piece().expect("one piece");
        assert!(flushed == id && piece.starts_with(b"HTTP/1.1 403"));
        assert_eq!(hub.calls_len(), 2);
    }

    #[test]
    fn questions_have_a_bound_and_those_over_it_are_refused_at_once() {
        let mut hub = hub(1);
        hub.handle_room(at(0), 0, 0);
        let questions = QUESTIONS_MAX as u64;
        for number in 0..questions {
            let call = if number % 2 == 0 { presence() } else { stats() };
            let notice = Box::new(Notice::Question { number, call });
            let from = OTHER;
            hub.handle_effect(at(0), Effect::Heard { from, notice });
        }
        // Without a credit nothing can be said to it, and nothing is kept of it.
        ask(&mut hub, questions, stats());
        assert!(hub.poll_job().is_none());
        assert_eq!(hub.calls_len(), QUESTIONS_MAX);
        hub.handle_room(at(0), 0, QUESTIONS_MAX + 1);
        let mut parts = Vec::new();
        while let Some((_, job)) = hub.poll_job() {
            match job {
                Job::Ask { part, .. } => parts.push(part),
                other => panic!("{other:?}"),
            }
        }
        // Two long ones at a time, and all the others.
        assert_eq!(parts.len(), QUESTIONS_MAX / 2 + 2);
        ask(&mut hub, questions + 1, stats());
        let Some((0, Job::Tell { bytes, .. })) = hub.poll_job() else {
            panic!("it is not refused");
        };
        let refusal = relay::decode_answer(&bytes);
        assert_eq!(refusal, Some((questions + 1, Part::Failed)));
        // All are answered in the end, one after the other, and leave nothing behind.
        let mut answers = 0;
        while hub.calls_len() > 0 {
            for part in std::mem::take(&mut parts) {
                let reply = counted(1);
                hub.handle_effect(at(0), Effect::Answered { part, reply });
            }
            hub.handle_room(at(0), 0, QUESTIONS_MAX);
            while let Some((_, job)) = hub.poll_job() {
                match job {
                    Job::Ask { part, .. } => parts.push(part),
                    Job::Tell { .. } => answers += 1,
                    other => panic!("{other:?}"),
                }
            }
        }
        assert_eq!(answers, QUESTIONS_MAX);
        hub.check_invariants();
    }

    #[test]
    fn an_answer_keeps_its_place_until_there_is_a_credit_for_it() {
        let mut users = Page::default();
        users.push_user(&UserId::new("al").expect("a good id"));
        let clients = 1;
        let named = Part::Users {
            clients,
            users: users.clone(),
        };
        for (credits, expected) in [(1, named), (0, Part::Counts { clients, users: 1 })] {
            let mut hub = hub(1);
            ask(&mut hub, 7, stats());
            // The job that asks the room has its place.
            hub.handle_room(at(0), 0, 1 + credits);
            let users = users.clone();
            answer_room(&mut hub, 0, Ok(ApiResult::PresenceUsers { clients, users }));
            assert_eq!(hub.calls_len(), 1 - credits);
            hub.handle_room(at(0), 0, 1);
            let Some((0, Job::Tell { bytes, .. })) = hub.poll_job() else {
                panic!("the other node is not answered");
            };
            // What has to wait names nobody.
            assert_eq!(relay::decode_answer(&bytes), Some((7, expected)));
            assert_eq!(hub.calls_len(), 0);
            hub.check_invariants();
        }
    }

    #[test]
    fn a_node_that_is_gone_is_waited_for_no_longer_than_it_is_doubted() {
        let mut hub = hub(2);
        call(&mut hub, 1, stats());
        answer_room(&mut hub, 0, counted(1));
        let number = asked(&mut hub);
        told(&mut hub, 10, number, &counted(1));
        tell_others(&mut hub, 1000, 1);
        assert_eq!(hub.poll_timeout(), Some(at(3000).instant));
        hub.handle_timeout(at(2999), 9);
        assert_eq!(answer(&mut hub), None);
        hub.handle_timeout(at(3000), 9);
        assert_eq!(answer(&mut hub), Some(counted(2)));
        // Whoever asks now waits for one.
        hub.handle_call(at(3000), 2, ProgramCall::Api(stats()));
        answer_room(&mut hub, 3000, counted(1));
        let number = asked(&mut hub);
        told(&mut hub, 3001, number, &counted(1));
        assert_eq!(answer(&mut hub), Some(counted(2)));
        assert_eq!(hub.poll_timeout(), None, "a deadline of what is answered");
    }

    #[test]
    fn a_node_that_is_slow_is_still_waited_for() {
        let mut hub = hub(1);
        call(&mut hub, 1, stats());
        answer_room(&mut hub, 0, counted(1));
        let number = asked(&mut hub);
        // As after a pause of the broker: whoever is back first is alone.
        tell_others(&mut hub, 1000, 0);
        hub.handle_timeout(at(2500), 9);
        tell_others(&mut hub, 2600, 1);
        hub.handle_timeout(at(9000), 9);
        assert_eq!(answer(&mut hub), None);
        assert_eq!(hub.counters().other_nodes, 1);
        tell_others(&mut hub, 9000, 0);
        told(&mut hub, 9500, number, &counted(3));
        assert_eq!(answer(&mut hub), Some(counted(4)));
        hub.handle_timeout(at(11_000), 9);
        assert_eq!(hub.counters().other_nodes, 0);
    }

    #[test]
    fn who_never_answers_is_given_up_in_time() {
        let mut hub = hub(2);
        call(&mut hub, 1, stats());
        answer_room(&mut hub, 0, counted(1));
        let number = asked(&mut hub);
        told(&mut hub, 10, number, &counted(1));
        hub.handle_timeout(at(29_999), 9);
        assert_eq!(answer(&mut hub), None);
        hub.handle_timeout(at(30_000), 9);
        assert_eq!(answer(&mut hub), Some(counted(2)));
        told(&mut hub, 30_001, number, &counted(1));
        assert_eq!((answer(&mut hub), hub.calls_len()), (None, 0));
    }
}
