//! In a cluster: rooms whose publications are numbered elsewhere.
//!
//! A room that has members here is followed: the feed tells each publication, and what it cannot
//! tell is read. Everything is delivered by its number, that of this node too. What is kept is kept
//! here as well for as long as the room is followed, so that members catch up as they do on a node
//! of its own. A room that becomes known is read once; those who want to join it meanwhile wait, for
//! a bounded time.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::RoomShard;
use super::logins::Logins;
use super::numbering::Pending;
use crate::base::{ConnId, Epoch, Identity, Instant, Now, Offset, Position, RoomName, Since};
use crate::cluster::link::{Level, Link};
use crate::cluster::{Event, Login, NodeId, Request};
use crate::exchange::{Effect, worker_of};
use crate::wire::raw::WireForm;

/// What a shard knows of its cluster.
#[derive(Debug)]
pub(super) struct Following {
    pub(super) node: NodeId,
    /// How long a question, or a join, waits for its answer.
    pub(super) wait: Duration,
    pub(super) requests: VecDeque<Request>,
    pub(super) pending: HashMap<u64, Pending>,
    pub(super) last_number: u64,
    /// In order, as all wait equally long.
    pub(super) deadlines: VecDeque<(Instant, Deadline)>,
    /// Rooms to tell of, each once, in order.
    pub(super) beats: VecDeque<(Instant, RoomName)>,
    /// Those whose number of members has changed, each once, in order.
    pub(super) changed: VecDeque<(Instant, RoomName)>,
    pub(super) joins_len: usize,
    /// Whether the broker can be asked. Until it can, rooms are not told of.
    pub(super) is_available: bool,
    /// Reads of rooms that are not followed any more.
    pub(super) stale_reads: HashMap<RoomName, u32>,
    pub(super) ahead_max: Level,
    /// When the clock was last looked at.
    pub(super) last_look: Instant,
}

/// What waits until when.
#[derive(Debug)]
pub(super) enum Deadline {
    /// The answer to a question.
    Question(u64),
    /// A join, in a room.
    Join(RoomName),
}

/// How one room is followed.
#[derive(Debug, Default)]
pub(super) struct Followed {
    pub(super) link: Link,
    /// Those who wait for the room to be known.
    pub(super) joins: VecDeque<Join>,
    /// Own publications that have their number and are not delivered.
    pub(super) numbered: Vec<u64>,
    /// Connections of other nodes in it.
    pub(super) others: u32,
    /// What was told of its own.
    pub(super) told: u32,
    /// When it is told of next; any other entry of that name is void.
    pub(super) beat_at: Option<Instant>,
    pub(super) is_changed: bool,
    /// It must be read again, with the next beat: the last read was refused.
    pub(super) must_read: bool,
    /// Something of its history was forgotten here that may be kept elsewhere.
    pub(super) is_trimmed: bool,
    /// The room of nodes is followed without members.
    pub(super) is_pinned: bool,
    pub(super) logins: Logins,
}

/// Somebody who wants to be a member.
#[derive(Debug)]
pub(super) struct Join {
    pub(super) conn: ConnId,
    pub(super) identity: Option<Arc<Identity>>,
    pub(super) form: WireForm,
    pub(super) since: Since,
    /// The hold on its user, in the user's room.
    pub(super) login: Option<Login>,
    pub(super) deadline: Instant,
    /// The room is being read since it waits.
    pub(super) is_read_for: bool,
}

impl Followed {
    /// Whether nobody waits for it.
    pub(super) fn is_idle(&self) -> bool {
        self.joins.is_empty() && !self.is_pinned
    }

    pub(super) fn others(&self) -> u32 {
        self.others
    }

    /// Whether a publication that has its number is going to be delivered here.
    pub(super) fn awaits(&self, position: Position, epoch: Epoch, last: Offset) -> bool {
        !self.link.is_known() || position.epoch != epoch || position.offset > last
    }

    /// Something of its history was forgotten.
    pub(super) fn note_trimmed(&mut self) {
        self.is_trimmed = true;
    }
}

impl Following {
    /// When the shard must be looked at.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        [
            self.deadlines.front().map(|(at, _)| *at),
            self.beats.front().map(|(at, _)| *at),
            self.changed.front().map(|(at, _)| *at),
        ]
        .into_iter()
        .flatten()
        .min()
    }
}

impl RoomShard {
    /// The same shard as part of a cluster, as shard `index` of `shards` of the node. Questions and
    /// joins wait for `wait`.
    #[must_use]
    pub fn join_cluster(
        self,
        now: Now,
        node: NodeId,
        (index, shards): (usize, usize),
        wait: Duration,
    ) -> Self {
        let is_control_here = worker_of(&RoomName::control(), shards) == index;
        let following = Following {
            node,
            wait,
            requests: VecDeque::new(),
            pending: HashMap::new(),
            // No two shards of a node use the same number.
            last_number: (index as u64) << 48,
            deadlines: VecDeque::new(),
            beats: VecDeque::new(),
            changed: VecDeque::new(),
            joins_len: 0,
            is_available: true,
            stale_reads: HashMap::new(),
            last_look: now.instant,
            ahead_max: Level {
                publications: self.limits.history_publications_max.max(AHEAD_MIN),
                bytes: self.limits.history_bytes_max.max(AHEAD_BYTES_MIN),
            },
        };
        let mut this = Self {
            following: Some(Box::new(following)),
            ..self
        };
        if is_control_here {
            this.pin_control(now);
        }
        this
    }

    /// The broker has something to say.
    pub fn handle_event(&mut self, now: Now, event: Event) {
        match event {
            Event::Followed(name) => {
                if let Some(followed) = self.followed_mut(&name) {
                    followed.link.handle_followed();
                    self.read_room(&name);
                }
            }
            Event::FeedLost => {
                for room in self.rooms.values_mut() {
                    if let Some(followed) = &mut room.followed {
                        followed.link.handle_feed_lost();
                    }
                }
            }
            Event::Fed {
                room,
                position,
                unix_ms,
                shared,
            } => self.handle_fed(now, room, position, unix_ms, shared),
            Event::LoggedIn { room, generation } => self.note_login(&room, generation),
            Event::Claimed { number, outcome } => self.handle_claimed(now, number, outcome),
            // It is told to every shard; one is enough.
            Event::Told { bytes } if self.rooms.contains_key(&RoomName::control()) => {
                self.handle_told(&bytes);
            }
            Event::Told { .. } => {}
            Event::Broken(name) => {
                if let Some(followed) = self.followed_mut(&name)
                    && followed.link.handle_broken()
                {
                    self.read_room(&name);
                }
            }
            Event::Read { room, snapshot } => {
                if !self.take_stale_read(&room) {
                    self.handle_read(now, &room, *snapshot);
                }
            }
            Event::ReadFailed(name) => {
                if !self.take_stale_read(&name)
                    && let Some(followed) = self.followed_mut(&name)
                    && followed.link.handle_read_failed()
                {
                    // At once it would only be refused again.
                    followed.must_read = true;
                    self.note_changed_at(now, &name);
                }
            }
            Event::Looked { number, outcome } => self.handle_looked(number, outcome),
            Event::Appended { number, outcome } => self.handle_appended(number, outcome),
            Event::Forgotten { number, outcome } => self.handle_forgotten(number, outcome),
            Event::Beaten {
                room,
                top,
                online,
                generation,
            } => {
                self.handle_beaten(&room, top, online);
                self.note_login(&room, generation);
            }
            Event::Availability(is_available) => {
                if let Some(following) = &mut self.following {
                    following.is_available = is_available;
                }
                self.effects.push_back(Effect::Availability(is_available));
            }
        }
    }

    /// Whether the history of a room must be looked up to be known.
    pub(super) fn is_kept_elsewhere(&self, name: &RoomName) -> bool {
        self.following.is_some()
            && self.limits.history_publications_max > 0
            && !(self.rooms.get(name))
                .and_then(|room| room.followed.as_ref())
                .is_some_and(|followed| followed.link.is_live() && !followed.is_trimmed)
    }

    /// The node ends: takes what it has told of its rooms back.
    pub fn leave_cluster(&mut self) {
        let Some(following) = &mut self.following else {
            return;
        };
        for (name, room) in self.rooms.iter() {
            if room.followed.as_ref().is_some_and(|one| one.told > 0) {
                following.requests.push_back(Request::Beat {
                    room: name.clone(),
                    members: 0,
                    login: None,
                });
            }
        }
    }

    /// The next question to the broker.
    pub fn poll_request(&mut self) -> Option<Request> {
        self.following.as_mut()?.requests.pop_front()
    }

    /// Jobs that were taken and not done, since they wait for the broker.
    #[must_use]
    pub fn open_jobs(&self) -> usize {
        self.following
            .as_ref()
            .map_or(0, |following| following.pending.len() + following.joins_len)
    }

    /// Follows a room; returns whether there is a place for it.
    pub(super) fn follow(&mut self, now: Now, name: &RoomName) -> bool {
        let is_new = !self.rooms.contains_key(name);
        if self.room_or_new(name).is_none() {
            return false;
        }
        if !is_new {
            return true;
        }
        let beat_at = now.instant + BEAT_INTERVAL;
        let Some(following) = &mut self.following else {
            return false;
        };
        let reads = following.stale_reads.remove(name).unwrap_or_default();
        following.requests.push_back(Request::Follow(name.clone()));
        following.beats.push_back((beat_at, name.clone()));
        if let Some(followed) = self.followed_mut(name) {
            followed.link = Link::with_reads(reads);
            followed.beat_at = Some(beat_at);
        }
        true
    }

    /// A room that has nobody left is not followed any more.
    pub(super) fn unfollow(&mut self, name: &RoomName) {
        let Some(room) = self.rooms.get_mut(name) else {
            return;
        };
        let Some(followed) = room.followed.as_mut() else {
            return;
        };
        let numbered = std::mem::take(&mut followed.numbered);
        let has_told = followed.told > 0;
        let reads = followed.link.reads();
        room.history.clear();
        self.count(name);
        for number in numbered {
            self.acknowledge(number);
        }
        if let Some(following) = &mut self.following {
            if reads > 0 {
                following.stale_reads.insert(name.clone(), reads);
            }
            if has_told {
                following.requests.push_back(Request::Beat {
                    room: name.clone(),
                    members: 0,
                    login: None,
                });
            }
            following
                .requests
                .push_back(Request::Unfollow(name.clone()));
        }
    }

    /// Looks at what is due.
    pub(super) fn tend(&mut self, now: Now) {
        let Some(following) = &mut self.following else {
            return;
        };
        following.last_look = now.instant;
        while let Some(following) = &mut self.following
            && let Some((_, deadline)) = take_due(&mut following.deadlines, now)
        {
            match deadline {
                Deadline::Question(number) => self.give_up(number),
                Deadline::Join(name) => self.give_up_joins(now, &name),
            }
        }
        while let Some(following) = &mut self.following
            && let Some((at, name)) = take_due(&mut following.beats, now)
        {
            let next = now.instant + BEAT_INTERVAL;
            let is_its = self.followed_mut(&name).is_some_and(|followed| {
                let is_its = followed.beat_at == Some(at);
                if is_its {
                    followed.beat_at = Some(next);
                }
                is_its
            });
            if is_its {
                self.beat(&name);
                if let Some(following) = &mut self.following {
                    following.beats.push_back((next, name));
                }
            }
        }
        while let Some(following) = &mut self.following
            && let Some((_, name)) = take_due(&mut following.changed, now)
        {
            let was_changed = self
                .followed_mut(&name)
                .is_some_and(|followed| std::mem::take(&mut followed.is_changed));
            if was_changed {
                self.beat(&name);
                let must_read = self
                    .followed_mut(&name)
                    .is_some_and(|followed| std::mem::take(&mut followed.must_read));
                if must_read {
                    self.read_room(&name);
                }
                // Who the nodes are must be known soon, as calls wait for the answers of all.
                if self.followed_mut(&name).is_some_and(|one| one.is_pinned) {
                    self.note_changed(&name);
                }
            }
        }
    }

    /// Asks for what is missing of a room.
    pub(super) fn read_room(&mut self, name: &RoomName) {
        let Some(followed) = self.followed_mut(name) else {
            return;
        };
        let request = followed.link.read(name);
        self.totals.following().reads.add(1);
        if let Some(following) = &mut self.following {
            following.requests.push_back(request);
        }
    }

    pub(super) fn followed_mut(&mut self, name: &RoomName) -> Option<&mut Followed> {
        self.rooms.get_mut(name)?.followed.as_deref_mut()
    }
}

/// The first of a queue that is in order of time, if it is due.
fn take_due<T>(queue: &mut VecDeque<(Instant, T)>, now: Now) -> Option<(Instant, T)> {
    if queue.front()?.0 > now.instant {
        return None;
    }
    queue.pop_front()
}

/// How often a room is told of.
pub(super) const BEAT_INTERVAL: Duration = Duration::from_secs(10);

/// What may at least be heard ahead of what is being read.
const AHEAD_MIN: usize = 1000;

/// The same in bytes.
const AHEAD_BYTES_MIN: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Limits, RoomBudget};
    use crate::cluster::Token;
    use crate::cluster::{Numbered, Shared, Snapshot};
    use crate::exchange::{Job, Replay};
    use crate::wire::frame::Payload;

    const A: ConnId = ConnId {
        slot: 1,
        generation: 0,
    };
    const B: ConnId = ConnId {
        slot: 2,
        generation: 0,
    };
    const NOW: Now = Now {
        instant: Instant::ORIGIN,
        unix_ms: 1000,
    };

    fn room() -> RoomName {
        RoomName::new("r").expect("a good name")
    }

    fn position(offset: u64) -> Position {
        Position {
            epoch: Epoch::from_number(1),
            offset: Offset(offset),
        }
    }

    fn shard() -> RoomShard {
        let shard = RoomShard::new(&Limits::default(), 1, RoomBudget::new(10), NOW, 1);
        // The room of nodes is another shard's.
        let place = (1 - worker_of(&RoomName::control(), 2), 2);
        shard.join_cluster(NOW, NodeId(1), place, Duration::from_secs(2))
    }

    fn numbered(offset: u64, is_readable: bool) -> Numbered {
        let shared = Shared {
            token: Token {
                node: NodeId(2),
                number: offset,
            },
            conn: ConnId::NONE,
            identity: None,
            payload: Payload::text("x".into()),
            is_kept: true,
        };
        Numbered {
            offset: Offset(offset),
            unix_ms: offset,
            shared: is_readable.then_some(shared),
        }
    }

    fn read(top: u64, online: u64, publications: Vec<Numbered>) -> Event {
        let snapshot = Snapshot {
            top: position(top),
            first: Offset(1),
            complete_since_ms: 0,
            began: Offset(0),
            unix_ms: 1000,
            publications,
            online,
            generation: 0,
        };
        Event::Read {
            room: room(),
            snapshot: Box::new(snapshot),
        }
    }

    fn fed(offset: u64) -> Event {
        Event::Fed {
            room: room(),
            position: position(offset),
            unix_ms: offset,
            shared: numbered(offset, true).shared,
        }
    }

    fn subscribe(conn: ConnId, since: Since) -> Job {
        Job::Subscribe {
            conn,
            room: room(),
            form: WireForm::Json,
            since,
            identity: None,
        }
    }

    fn hear(shard: &mut RoomShard, events: Vec<Event>) {
        for event in events {
            shard.handle_event(NOW, event);
            shard.handle_timeout(NOW);
            shard.check_invariants();
        }
    }

    /// What the shard says, in short.
    fn said(shard: &mut RoomShard) -> Vec<String> {
        std::iter::from_fn(|| shard.poll_effect())
            .map(|effect| match effect {
                Effect::Joined {
                    offset,
                    after,
                    is_incomplete,
                    ..
                } => format!(
                    "joined {offset} after {after}{}",
                    if is_incomplete { "?" } else { "" }
                ),
                Effect::Broadcast(sent) => format!("{} to {}", sent.origins.len(), sent.last),
                Effect::Interrupted { last, .. } => format!("lost to {last}"),
                Effect::Online { others, .. } => format!("{others} elsewhere"),
                Effect::Replayed {
                    skipped, outcome, ..
                } => {
                    assert!(matches!(outcome, Replay::Live(_)));
                    format!("replayed, {skipped} skipped")
                }
                other => panic!("{other:?}"),
            })
            .collect()
    }

    fn reads(shard: &mut RoomShard) -> usize {
        let requests = std::iter::from_fn(|| shard.poll_request());
        requests
            .filter(|request| matches!(request, Request::Read { .. }))
            .count()
    }

    /// A is a member, and five publications are known.
    fn joined(online: u64) -> RoomShard {
        let mut shard = shard();
        shard.handle_job(NOW, subscribe(A, Since::Now));
        let kept = vec![numbered(4, true), numbered(5, true)];
        hear(
            &mut shard,
            vec![Event::Followed(room()), read(5, online, kept)],
        );
        assert_eq!(reads(&mut shard), 1);
        shard
    }

    #[test]
    fn what_is_lost_is_told_where_it_is_missing_and_who_comes_then_begins_behind_it() {
        let mut shard = joined(0);
        assert_eq!(said(&mut shard), ["joined 5 after 5"]);
        hear(
            &mut shard,
            vec![fed(9), read(9, 0, vec![numbered(7, true)])],
        );
        shard.handle_job(NOW, subscribe(B, Since::Now));
        hear(&mut shard, vec![fed(10)]);
        assert_eq!(
            said(&mut shard),
            [
                "lost to 6",
                "1 to 7",
                "lost to 9",
                "joined 9 after 9",
                "1 to 10"
            ]
        );
    }

    #[test]
    fn a_member_is_told_behind_its_join_how_many_are_elsewhere() {
        let mut shard = joined(7);
        assert_eq!(
            said(&mut shard),
            ["7 elsewhere", "joined 5 after 5", "7 elsewhere"]
        );
    }

    #[test]
    fn who_has_seen_more_than_this_node_knows_waits_until_it_has_read() {
        let mut shard = joined(0);
        said(&mut shard);
        shard.handle_job(NOW, subscribe(B, Since::Position(position(6))));
        assert_eq!(reads(&mut shard), 1);
        assert_eq!(said(&mut shard), [""; 0]);
        hear(
            &mut shard,
            vec![read(7, 0, vec![numbered(6, true), numbered(7, true)])],
        );
        assert_eq!(said(&mut shard), ["2 to 7", "joined 7 after 6"]);
    }

    #[test]
    fn who_comes_while_the_room_is_read_is_not_answered_from_before_it_came() {
        let mut shard = joined(0);
        said(&mut shard);
        hear(&mut shard, vec![fed(7)]);
        assert_eq!(reads(&mut shard), 1);
        shard.handle_job(NOW, subscribe(B, Since::Position(position(8))));
        hear(
            &mut shard,
            vec![read(7, 0, vec![numbered(6, true), numbered(7, true)])],
        );
        assert_eq!(reads(&mut shard), 1);
        assert_eq!(said(&mut shard), ["2 to 7"]);
        hear(&mut shard, vec![read(8, 0, vec![numbered(8, true)])]);
        assert_eq!(said(&mut shard), ["1 to 8", "joined 8 after 8"]);
        // What nobody has published is waited for as long as somebody may say that it is lost.
        let other = ConnId { slot: 3, ..B };
        shard.handle_job(NOW, subscribe(other, Since::Position(position(99))));
        hear(&mut shard, vec![read(8, 0, Vec::new())]);
        assert_eq!(said(&mut shard), [""; 0]);
        shard.handle_timeout(Now {
            instant: NOW.instant + Duration::from_secs(2),
            ..NOW
        });
        assert_eq!(said(&mut shard), ["joined 8 after 0?"]);
    }

    #[test]
    fn an_answer_to_those_who_have_left_is_not_taken_for_the_next() {
        let mut shard = shard();
        shard.handle_job(NOW, subscribe(A, Since::Now));
        hear(&mut shard, vec![Event::Followed(room())]);
        let late = Now {
            instant: NOW.instant + Duration::from_secs(3),
            ..NOW
        };
        shard.handle_timeout(late);
        assert_eq!(shard.rooms_len(), 0);
        while shard.poll_effect().is_some() {}
        shard.handle_job(late, subscribe(B, Since::Now));
        shard.handle_event(late, Event::Followed(room()));
        shard.handle_event(late, read(5, 0, Vec::new()));
        assert_eq!(said(&mut shard), [""; 0]);
        shard.handle_event(late, read(6, 0, Vec::new()));
        assert_eq!(said(&mut shard), ["joined 6 after 6"]);
    }

    #[test]
    fn who_comes_back_is_told_of_what_nobody_here_can_read() {
        let mut shard = joined(0);
        said(&mut shard);
        let kept = vec![numbered(6, false), numbered(7, true)];
        hear(&mut shard, vec![fed(8), read(8, 0, kept)]);
        assert_eq!(said(&mut shard), ["lost to 6", "1 to 7", "lost to 8"]);
        shard.handle_job(NOW, subscribe(B, Since::Position(position(5))));
        assert_eq!(said(&mut shard), ["joined 8 after 6?"]);
    }

    #[test]
    fn a_publication_with_its_number_is_acknowledged_when_it_is_delivered() {
        let mut shard = joined(0);
        said(&mut shard);
        let publish = Job::Publish {
            origin: A,
            room: room(),
            identity: None,
            payload: Payload::text("x".into()),
            taken_at: NOW.instant,
        };
        shard.handle_job(NOW, publish);
        let mut requests = std::iter::from_fn(|| shard.poll_request());
        let shared = requests.find_map(|request| match request {
            Request::Append { shared, .. } => Some(shared),
            _ => None,
        });
        let shared = shared.expect("it is to be numbered");
        let appended = Event::Appended {
            number: shared.token.number,
            outcome: Ok(position(6)),
        };
        hear(&mut shard, vec![appended]);
        assert_eq!((said(&mut shard), shard.open_jobs()), (Vec::new(), 1));
        let fed = Event::Fed {
            room: room(),
            position: position(6),
            unix_ms: 6,
            shared: Some(shared),
        };
        hear(&mut shard, vec![fed]);
        assert_eq!(
            (said(&mut shard), shard.open_jobs()),
            (vec!["1 to 6".into()], 0)
        );
    }

    #[test]
    fn while_the_broker_is_away_nothing_is_told_to_it() {
        let mut shard = joined(0);
        let later = Now {
            instant: NOW.instant + 2 * BEAT_INTERVAL,
            ..NOW
        };
        shard.handle_event(NOW, Event::Availability(false));
        shard.handle_timeout(later);
        assert!(shard.poll_request().is_none());
        shard.handle_event(later, Event::Availability(true));
        shard.handle_timeout(Now {
            instant: later.instant + BEAT_INTERVAL,
            ..NOW
        });
        assert!(matches!(
            shard.poll_request(),
            Some(Request::Beat { members: 1, .. })
        ));
    }
}
