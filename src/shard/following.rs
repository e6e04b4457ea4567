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
use super::open::Open;
use super::requests::{Requests, Subject};
use super::subscribe::Wants;
use super::watching::Watch;
use crate::base::{ConnId, Epoch, Identity, Instant, Now, Offset, Position, RoomName};
use crate::cluster::link::{Level, Link};
use crate::cluster::{Event, Login, NodeId, Request};
use crate::exchange::{Effect, worker_of};

/// What a shard knows of its cluster.
#[derive(Debug)]
pub(super) struct Following {
    pub(super) node: NodeId,
    pub(super) requests: Requests,
    pub(super) open: Open,
    /// Rooms to tell of, each once, in order.
    pub(super) beats: VecDeque<(Instant, RoomName)>,
    /// Those whose number of members has changed, each once, in order.
    pub(super) changed: VecDeque<(Instant, RoomName)>,
    /// Whether the broker can be asked. Until it can, rooms are not told of.
    pub(super) is_available: bool,
    /// Reads of rooms that are not followed any more.
    pub(super) stale_reads: HashMap<RoomName, u32>,
    /// Most that may be heard ahead of what is being read.
    ahead_max: Level,
    /// What is, in all rooms.
    ahead_bytes: usize,
    /// When the clock was last looked at.
    pub(super) last_look: Instant,
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
    pub(super) watch: Watch,
}

/// Somebody who wants to be a member.
#[derive(Debug)]
pub(super) struct Join {
    pub(super) conn: ConnId,
    pub(super) identity: Option<Arc<Identity>>,
    pub(super) wants: Wants,
    /// The hold on its user, in the user's room.
    pub(super) login: Option<Login>,
    /// What it waits under, from its arrival on.
    pub(super) number: u64,
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
            self.open.next_deadline(),
            self.beats.front().map(|(at, _)| *at),
            self.changed.front().map(|(at, _)| *at),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Most that may be heard ahead in one room now.
    pub(super) fn ahead_max(&self) -> Level {
        let left_bytes = self.ahead_max.left_bytes.saturating_sub(self.ahead_bytes);
        Level {
            left_bytes,
            ..self.ahead_max
        }
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
            requests: Requests::default(),
            // No two shards of a node use the same number.
            open: Open::new((index as u64) << 48, wait),
            beats: VecDeque::new(),
            changed: VecDeque::new(),
            is_available: true,
            stale_reads: HashMap::new(),
            last_look: now.instant,
            ahead_max: Level {
                publications: self.limits.history_publications_max.max(AHEAD_MIN),
                bytes: self.limits.ahead_room_bytes_max(),
                left_bytes: self.limits.ahead_bytes_max(),
            },
            ahead_bytes: 0,
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
                if self.with_link(&name, Link::handle_followed).is_some() {
                    self.renew_watch(&name);
                    self.read_room(&name);
                }
            }
            Event::FeedLost => {
                for room in self.rooms.values_mut() {
                    if let Some(followed) = &mut room.followed {
                        followed.link.handle_feed_lost();
                    }
                }
                if let Some(following) = &mut self.following {
                    following.ahead_bytes = 0;
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
            Event::Told { bytes } => self.handle_told(&bytes),
            Event::Said { room, bytes } => self.handle_said(now, &room, &bytes),
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
            Event::Repeated { number, position } => self.handle_repeated(number, position),
            Event::Forgotten { number, outcome } => self.handle_forgotten(number, outcome),
            Event::Beaten {
                room,
                top,
                online,
                generation,
                is_watched,
            } => {
                self.note_watched(&room, is_watched);
                self.handle_beaten(&room, top, online);
                self.note_login(&room, generation);
            }
            Event::Availability(is_available) => {
                if let Some(following) = &mut self.following {
                    following.is_available = is_available;
                }
            }
            Event::Health { part, ailment } => {
                self.effects.push_back(Effect::Health { part, ailment });
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

    /// The node ends: gives back the places of users that it holds or has asked for, and then takes
    /// back what it has told of its rooms. Nothing else may be asked of the shard after that.
    pub fn leave_cluster(&mut self) {
        self.release_all_logins();
        let Some(following) = &mut self.following else {
            return;
        };
        for (name, room) in self.rooms.iter() {
            if room.followed.as_ref().is_some_and(|one| one.told > 0) {
                following.requests.push(Request::Beat {
                    room: name.clone(),
                    members: 0,
                    watches: false,
                    login: None,
                });
            }
        }
    }

    /// The next question to the broker.
    pub fn poll_request(&mut self) -> Option<Request> {
        self.following.as_mut()?.requests.pop()
    }

    /// Jobs that were taken and not done, since they wait for the broker.
    #[must_use]
    pub fn open_jobs(&self) -> usize {
        self.following
            .as_ref()
            .map_or(0, |following| following.open.len())
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
        following.requests.push(Request::Follow(name.clone()));
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
        let link = std::mem::take(&mut followed.link);
        room.history.clear();
        self.count(name);
        for number in numbered {
            self.acknowledge(number);
        }
        if let Some(following) = &mut self.following {
            following.ahead_bytes -= link.ahead_cost_bytes();
            let read = Subject::Read(name.clone());
            let is_withdrawn = following.requests.withdraw(&read);
            let reads = link.reads().saturating_sub(u32::from(is_withdrawn));
            if reads > 0 {
                following.stale_reads.insert(name.clone(), reads);
            }
            if has_told {
                following.requests.push(Request::Beat {
                    room: name.clone(),
                    members: 0,
                    watches: false,
                    login: None,
                });
            }
            // The broker is not told of a room that it has not heard of.
            if !following.requests.withdraw(&Subject::Follow(name.clone())) {
                following.requests.push(Request::Unfollow(name.clone()));
            }
        }
    }

    /// Looks at what is due.
    pub(super) fn tend(&mut self, now: Now) {
        let Some(following) = &mut self.following else {
            return;
        };
        following.last_look = now.instant;
        while let Some(following) = &mut self.following
            && let Some(number) = following.open.take_due(now)
        {
            self.give_up(number);
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
        let has_replaced =
            (self.following.as_mut()).is_some_and(|following| following.requests.push(request));
        if has_replaced && let Some(followed) = self.followed_mut(name) {
            // The earlier one is not going to be answered; this one is needed all the same.
            followed.link.handle_read_failed();
        }
    }

    /// Does something with a room's link, and counts what it holds then.
    pub(super) fn with_link<T>(
        &mut self,
        name: &RoomName,
        deal: impl FnOnce(&mut Link) -> T,
    ) -> Option<T> {
        let following = self.following.as_mut()?;
        let link = &mut self.rooms.get_mut(name)?.followed.as_mut()?.link;
        let before = link.ahead_cost_bytes();
        let outcome = deal(link);
        following.ahead_bytes = following.ahead_bytes - before + link.ahead_cost_bytes();
        Some(outcome)
    }

    /// Asserts what must hold of rooms that are followed.
    pub(super) fn check_following(&self) {
        let Some(following) = &self.following else {
            return;
        };
        following.open.check_invariants();
        let is_followed = |name: &RoomName| {
            let room = self.rooms.get(name);
            room.is_some_and(|room| room.followed.is_some())
        };
        (following.requests).check_invariants(&following.open, is_followed);
        let followed = || (self.rooms.iter()).filter_map(|(_, room)| room.followed.as_ref());
        let ahead = followed().map(|followed| followed.link.ahead_cost_bytes());
        assert_eq!(ahead.sum::<usize>(), following.ahead_bytes);
        assert!(
            following.ahead_bytes <= following.ahead_max.left_bytes,
            "more is heard ahead than may be"
        );
        let joins = followed().flat_map(|followed| &followed.joins);
        for join in joins {
            let waits = matches!(following.open.get(join.number), Some(Pending::Join(_)));
            assert!(waits, "{}: a join that waits for ever", join.conn);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{CloseReason, DuplicateLogin, Limits, RoomBudget, Since, UserId};
    use crate::cluster::Token;
    use crate::cluster::{Numbered, Shared, Snapshot};
    use crate::exchange::Terms;
    use crate::exchange::{Job, Replay};
    use crate::wire::frame::Payload;
    use crate::wire::raw::WireForm;

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

    const WAIT: Duration = Duration::from_secs(2);

    fn shard() -> RoomShard {
        shard_with(&Limits::default())
    }

    fn shard_with(limits: &Limits) -> RoomShard {
        let shard = RoomShard::new(limits, 1, RoomBudget::new(100), NOW, 1);
        // The room of nodes is another shard's.
        let place = (1 - worker_of(&RoomName::control(), 2), 2);
        shard.join_cluster(NOW, NodeId(1), place, WAIT)
    }

    fn after(span: Duration) -> Now {
        Now {
            instant: NOW.instant + span,
            ..NOW
        }
    }

    fn publish(origin: ConnId) -> Job {
        Job::Publish {
            origin,
            room: room(),
            identity: None,
            payload: Payload::text("x".into()),
            taken_at: NOW.instant,
            command: 0,
        }
    }

    /// The publication that the shard wants a number for.
    fn appending(shard: &mut RoomShard) -> Shared {
        let mut requests = std::iter::from_fn(|| shard.poll_request());
        let shared = requests.find_map(|request| match request {
            Request::Append { shared, .. } => Some(shared),
            _ => None,
        });
        shared.expect("it is to be numbered")
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
            is_watched: false,
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
            terms: Terms::default(),
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
    fn what_is_older_than_this_node_is_forgotten_at_its_age() {
        let seconds = |count| after(Duration::from_secs(count));
        let mut shard = shard_with(&Limits {
            history_ttl: Duration::from_secs(3600),
            ..Limits::default()
        });
        shard.handle_job(seconds(10), subscribe(A, Since::Last(10)));
        shard.handle_event(seconds(10), Event::Followed(room()));
        let kept = vec![numbered(4, true), numbered(5, true)];
        let Event::Read { room, mut snapshot } = read(5, 0, kept) else {
            unreachable!("that is what it makes");
        };
        // They are 59 minutes old.
        snapshot.publications[0].unix_ms = 0;
        snapshot.publications[1].unix_ms = 3000;
        snapshot.unix_ms = 59 * 60 * 1000;
        shard.handle_event(seconds(10), Event::Read { room, snapshot });
        assert_eq!(said(&mut shard), ["joined 5 after 3"]);
        // Both times are rounded down, so each is kept a second more.
        let expiry = seconds(10 + 60 + 1);
        assert_eq!(shard.retention.next_expiry(), Some(expiry.instant));
        for (conn, count, expected) in [
            (B, 70, "joined 5 after 3"),
            (ConnId { slot: 8, ..B }, 71, "joined 5 after 4"),
            (ConnId { slot: 9, ..B }, 73, "joined 5 after 4"),
            (ConnId { slot: 10, ..B }, 74, "joined 5 after 5"),
        ] {
            shard.handle_timeout(seconds(count));
            shard.check_invariants();
            said(&mut shard);
            shard.handle_job(seconds(count), subscribe(conn, Since::Last(10)));
            assert_eq!(said(&mut shard), [expected], "{count} s");
        }
        assert_eq!(shard.retention.next_expiry(), None);
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
        assert_eq!(reads(&mut shard), 1);
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
        shard.handle_job(NOW, publish(A));
        let shared = appending(&mut shard);
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
    fn who_published_is_known_though_it_is_delivered_long_after_its_acknowledgement() {
        for is_read in [false, true] {
            let mut shard = joined(0);
            said(&mut shard);
            shard.handle_job(NOW, publish(A));
            let shared = appending(&mut shard);
            let (number, outcome) = (shared.token.number, Ok(position(6)));
            shard.handle_event(NOW, Event::Appended { number, outcome });
            shard.handle_timeout(after(WAIT));
            let effects: Vec<Effect> = std::iter::from_fn(|| shard.poll_effect()).collect();
            assert!(
                matches!(&effects[..], [Effect::Published { origin }] if origin.conn == A),
                "{effects:?}"
            );
            let (unix_ms, shared) = (6, Some(shared));
            let event = if is_read {
                hear(&mut shard, vec![fed(7)]);
                let own = Numbered {
                    offset: Offset(6),
                    unix_ms,
                    shared,
                };
                read(7, 0, vec![own])
            } else {
                Event::Fed {
                    room: room(),
                    position: position(6),
                    unix_ms,
                    shared,
                }
            };
            hear(&mut shard, vec![event]);
            let Some(Effect::Broadcast(sent)) = shard.poll_effect() else {
                panic!("it is delivered");
            };
            assert_eq!(sent.origins[0].conn, A);
            assert!(sent.origins[0].is_answered && sent.has_answered);
        }
    }

    #[test]
    fn a_key_of_an_epoch_that_is_over_is_answered_at_once() {
        let mut shard = joined(0);
        said(&mut shard);
        shard.handle_job(NOW, publish(A));
        let number = appending(&mut shard).token.number;
        let position = Position {
            epoch: Epoch::from_number(7),
            offset: Offset(99),
        };
        shard.handle_event(NOW, Event::Repeated { number, position });
        let effect = shard.poll_effect();
        assert!(matches!(effect, Some(Effect::Published { origin }) if origin.conn == A));
        assert_eq!(shard.open_jobs(), 0);
    }

    /// With `--history-size 0`, too.
    #[test]
    fn what_nodes_tell_each_other_is_kept_whatever_rooms_keep() {
        let limits = Limits {
            history_publications_max: 0,
            ..Limits::default()
        };
        let mut shard = shard_with(&limits);
        for is_kept in [true, false] {
            let notice = Payload::text("go".into());
            let part = None;
            shard.handle_job(
                NOW,
                Job::Announce {
                    part,
                    notice,
                    is_kept,
                },
            );
            assert_eq!(appending(&mut shard).is_kept, is_kept);
        }
    }

    #[test]
    fn a_join_waits_once_for_its_place_and_its_room() {
        let limits = Limits {
            duplicate_login: DuplicateLogin::Refuse,
            ..Limits::default()
        };
        let mut shard = shard_with(&limits);
        let user = UserId::new("al").expect("a good id");
        let room = RoomName::personal(&user);
        let join = |conn| Job::Subscribe {
            conn,
            room: room.clone(),
            form: WireForm::Json,
            since: Since::Now,
            identity: Some(Arc::new(Identity {
                user: user.clone(),
                info: None,
            })),
            terms: Terms::default(),
        };
        let claim = |shard: &mut RoomShard, now, conn| {
            shard.handle_job(now, join(conn));
            let request = std::iter::from_fn(|| shard.poll_request()).last();
            let Some(Request::Claim {
                number, deadline, ..
            }) = request
            else {
                panic!("the place is asked for: {request:?}");
            };
            assert_eq!(deadline, now.instant + WAIT);
            number
        };
        let claimed = |number| Event::Claimed {
            number,
            outcome: Ok(Some(number)),
        };
        // The later one has its place first.
        let first = claim(&mut shard, NOW, A);
        let second = claim(&mut shard, after(WAIT / 4), B);
        shard.handle_event(after(WAIT / 2), claimed(second));
        shard.handle_event(after(WAIT * 3 / 4), claimed(first));
        shard.check_invariants();
        assert_eq!(shard.open_jobs(), 2);
        for (at, who) in [(WAIT, A), (WAIT * 5 / 4, B)] {
            shard.handle_timeout(after(at - Duration::from_millis(1)));
            assert!(shard.poll_effect().is_none());
            assert_eq!(shard.poll_timeout(), Some(NOW.instant + at));
            shard.handle_timeout(after(at));
            shard.check_invariants();
            let effect = shard.poll_effect();
            let reason = CloseReason::BrokerGone;
            assert!(
                matches!(effect, Some(Effect::JoinRefused { conn, reason: of, .. })
                    if conn == who && of == reason),
                "{effect:?}"
            );
            let released = std::iter::from_fn(|| shard.poll_request())
                .filter(|request| matches!(request, Request::Release { .. }));
            assert_eq!(released.count(), 1);
        }
        assert_eq!((shard.open_jobs(), shard.rooms_len()), (0, 0));
    }

    #[test]
    fn a_node_that_ends_gives_back_places_that_are_held_and_that_are_asked_for() {
        let limits = Limits {
            duplicate_login: DuplicateLogin::Replace,
            ..Limits::default()
        };
        let mut shard = shard_with(&limits);
        let mut numbers = Vec::new();
        for slot in 0..3 {
            let user = UserId::new(&format!("u{slot}")).expect("a good id");
            let (name, info) = (RoomName::personal(&user), None);
            let join = Job::Subscribe {
                conn: ConnId { slot, ..A },
                room: name.clone(),
                form: WireForm::Raw,
                since: Since::Now,
                terms: Terms::default(),
                identity: Some(Arc::new(Identity { user, info })),
            };
            shard.handle_job(NOW, join);
            let request = std::iter::from_fn(|| shard.poll_request()).last();
            let Some(Request::Claim { number, .. }) = request else {
                panic!("the place is asked for: {request:?}");
            };
            numbers.push(number);
            let outcome = Ok(Some(number));
            // The last is not answered; the one before waits for its room.
            let mut answers = vec![
                Event::Claimed { number, outcome },
                Event::Followed(name.clone()),
            ];
            if slot == 0 {
                let Event::Read { snapshot, .. } = read(0, 0, Vec::new()) else {
                    unreachable!("made so");
                };
                let room = name;
                answers.push(Event::Read { room, snapshot });
            }
            answers.truncate([3, 2, 0][slot as usize]);
            hear(&mut shard, answers);
        }
        assert!(matches!(shard.poll_effect(), Some(Effect::Joined { .. })));
        assert_eq!(shard.open_jobs(), 2);
        shard.handle_timeout(after(WAIT / 2));
        while shard.poll_request().is_some() {}
        shard.leave_cluster();
        let mut released: Vec<u64> = std::iter::from_fn(|| shard.poll_request())
            .filter_map(|request| match request {
                Request::Release { login, .. } => Some(login.number),
                _ => None,
            })
            .collect();
        released.sort_unstable();
        assert_eq!(released, numbers);
    }

    /// As many wait as ever, and one of them for long.
    #[test]
    fn what_was_answered_leaves_no_deadline_behind() {
        let mut shard = joined(0);
        shard.handle_job(NOW, publish(A));
        appending(&mut shard);
        for offset in 6..5000 {
            shard.handle_job(NOW, publish(B));
            let number = appending(&mut shard).token.number;
            let position = position(offset);
            shard.handle_event(NOW, Event::Repeated { number, position });
            shard.check_invariants();
        }
        assert_eq!(shard.open_jobs(), 1);
        shard.handle_timeout(after(WAIT));
        assert_eq!(shard.open_jobs(), 0);
    }

    fn untaken(shard: &RoomShard) -> usize {
        let following = shard.following.as_ref();
        following.map_or(0, |following| following.requests.len())
    }

    fn login(slot: u32) -> Job {
        let user = UserId::new(&format!("u{slot}")).expect("a good id");
        Job::Subscribe {
            conn: ConnId { slot, ..A },
            room: RoomName::personal(&user),
            form: WireForm::Raw,
            since: Since::Now,
            identity: Some(Arc::new(Identity { user, info: None })),
            terms: Terms::default(),
        }
    }

    #[test]
    fn while_nothing_is_taken_no_more_waits_than_somebody_waits_for() {
        const EACH: u32 = 2000;
        const ROOMS: u32 = 50;
        let limits = Limits {
            duplicate_login: DuplicateLogin::Refuse,
            ..Limits::default()
        };
        let mut shard = shard_with(&limits);
        for round in 0..5 {
            let begin = WAIT * 2 * round;
            for slot in 0..EACH {
                shard.handle_job(after(begin), login(slot));
                shard.handle_job(after(begin), publish(A));
            }
            for slot in 0..ROOMS {
                let Job::Subscribe { form, since, .. } = subscribe(A, Since::Now) else {
                    unreachable!("made so");
                };
                let join = Job::Subscribe {
                    conn: ConnId { slot, ..A },
                    room: RoomName::new(&format!("r{round}.{slot}")).expect("a good name"),
                    form,
                    since,
                    identity: None,
                    terms: Terms::default(),
                };
                shard.handle_job(after(begin), join);
            }
            shard.check_invariants();
            assert_eq!(untaken(&shard), (2 * EACH + ROOMS) as usize);
            shard.handle_timeout(after(begin + WAIT));
            shard.check_invariants();
            assert_eq!((untaken(&shard), shard.open_jobs()), (0, 0), "{round}");
            let refused = std::iter::from_fn(|| shard.poll_effect())
                .filter(|effect| {
                    matches!(
                        effect,
                        Effect::JoinRefused { .. } | Effect::PublishRefused { .. }
                    )
                })
                .count();
            assert_eq!(refused, (2 * EACH + ROOMS) as usize);
        }
    }

    #[test]
    fn only_a_place_that_may_have_been_asked_for_is_given_back() {
        let limits = Limits {
            duplicate_login: DuplicateLogin::Replace,
            ..Limits::default()
        };
        let mut shard = shard_with(&limits);
        let ask = |shard: &mut RoomShard| {
            shard.handle_job(NOW, login(1));
            shard.handle_job(NOW, login(2));
            let Some(Request::Claim { number, .. }) = shard.poll_request() else {
                panic!("the place is asked for");
            };
            number
        };
        let release = |shard: &mut RoomShard, number| {
            let requests: Vec<_> = std::iter::from_fn(|| shard.poll_request()).collect();
            assert!(
                matches!(&requests[..], [Request::Release { login, .. }]
                    if login.number == number && login.generation == 0),
                "{requests:?}"
            );
        };
        let number = ask(&mut shard);
        shard.handle_timeout(after(WAIT));
        shard.check_invariants();
        release(&mut shard, number);
        // The same at the end.
        let number = ask(&mut shard);
        shard.leave_cluster();
        shard.check_invariants();
        release(&mut shard, number);
    }

    #[test]
    fn of_a_room_whose_reads_are_not_taken_one_waits() {
        let mut shard = shard();
        shard.handle_job(NOW, subscribe(A, Since::Now));
        assert!(matches!(shard.poll_request(), Some(Request::Follow(_))));
        for _ in 0..100 {
            let lost = Event::FeedLost;
            hear(&mut shard, vec![lost, Event::Followed(room())]);
            shard.check_invariants();
        }
        assert_eq!((untaken(&shard), reads(&mut shard)), (1, 1));
        // Its answer is the one that counts.
        hear(&mut shard, vec![read(3, 0, Vec::new())]);
        assert!(matches!(shard.poll_effect(), Some(Effect::Joined { .. })));
        // One that was not taken goes with the room, and nothing waits for its answer.
        hear(&mut shard, vec![Event::FeedLost, Event::Followed(room())]);
        let leave = Job::Unsubscribe {
            conn: A,
            room: room(),
            form: WireForm::Json,
        };
        shard.handle_job(NOW, leave);
        shard.check_invariants();
        assert_eq!(reads(&mut shard), 0);
        let following = shard.following.as_ref().expect("a cluster");
        assert!(following.stale_reads.is_empty());
    }

    #[test]
    fn what_is_heard_ahead_in_all_rooms_is_bounded_and_nothing_of_it_is_lost() {
        const ROOMS: usize = 40;
        let limits = Limits::default();
        let mut shard = shard_with(&limits);
        let payload = Payload::text("x".repeat(1_000_000).as_str().into());
        let name = |number: usize| RoomName::new(&format!("r{number}")).expect("a good name");
        let one = |offset: u64| Numbered {
            shared: numbered(offset, true).shared.map(|shared| Shared {
                payload: payload.clone(),
                ..shared
            }),
            ..numbered(offset, true)
        };
        let read = |number: usize, publications: Vec<Numbered>| {
            let Event::Read { mut snapshot, .. } = read(1, 0, publications) else {
                unreachable!("made so");
            };
            snapshot.top = position(if snapshot.publications.is_empty() {
                1
            } else {
                2
            });
            let room = name(number);
            Event::Read { room, snapshot }
        };
        for number in 0..ROOMS {
            let room = name(number);
            let join = Job::Subscribe {
                conn: ConnId {
                    slot: number as u32,
                    generation: 0,
                },
                room: room.clone(),
                form: WireForm::Raw,
                since: Since::Now,
                identity: None,
                terms: Terms::default(),
            };
            shard.handle_job(NOW, join);
            let told = Event::Fed {
                room: room.clone(),
                position: position(2),
                unix_ms: 2,
                shared: one(2).shared,
            };
            hear(&mut shard, vec![Event::Followed(room), told]);
        }
        let used = |shard: &RoomShard| {
            shard.following.as_ref().map_or(0, |following| {
                following.ahead_max.left_bytes - following.ahead_max().left_bytes
            })
        };
        assert_eq!(limits.ahead_bytes_max(), 32 << 20);
        assert!(
            (32_000_000..=32 << 20).contains(&used(&shard)),
            "{}",
            used(&shard)
        );
        reads(&mut shard);
        let mut delivered = 0;
        let mut again = 0;
        for number in 0..ROOMS {
            hear(&mut shard, vec![read(number, Vec::new())]);
            if reads(&mut shard) > 0 {
                again += 1;
                hear(&mut shard, vec![read(number, vec![one(2)])]);
            }
            let sent = std::iter::from_fn(|| shard.poll_effect());
            delivered += sent
                .filter(|effect| matches!(effect, Effect::Broadcast(sent) if sent.last.0 == 2))
                .count();
        }
        assert_eq!((delivered, again, used(&shard)), (ROOMS, ROOMS - 33, 0));
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
