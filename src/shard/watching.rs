//! Who is told that somebody joins or leaves: the members that want to know it, of all nodes.
//!
//! In a cluster a change is said in the feed of its room, if somebody there wants to know it, and
//! members here hear of it from the feed as well: so nobody is told twice, and all in one order. It
//! is said at most once: while the broker cannot be asked, it is not said at all.
//!
//! That somebody wants to know it is part of what a node tells with its beats. The first one here is
//! also announced in the feed, so that nobody has to wait for a beat to hear of it.

use std::time::Duration;

use bytes::Bytes;

use super::RoomShard;
use super::following::BEAT_INTERVAL;
use crate::base::{ConnId, Identity, Instant, NodeId, Now, RoomName};
use crate::cluster::Request;
use crate::cluster::word::{PUSH_BYTES_MAX, Word};
use crate::exchange::Effect;
use crate::wire::api::client_name;
use crate::wire::centrifugo::push::{Sender, put_presence_change};
use crate::wire::frame::{Frames, PayloadKind};

/// In a cluster: who wants to know of a room's joins, as far as nodes have told each other.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// Somebody on another node, the broker has said.
    is_elsewhere: bool,
    /// So another node has said, until then: what the broker says may be older.
    heard_until: Option<Instant>,
    /// Somebody here, this node has told.
    is_told: bool,
}

impl Watch {
    /// Whether somebody on another node wants to know.
    fn is_elsewhere(&self, now: Instant) -> bool {
        self.is_elsewhere || self.heard_until.is_some_and(|until| now < until)
    }

    /// It is told whether somebody here wants to know. Returns whether that somebody does is news.
    pub(super) fn tell(&mut self, is_here: bool) -> bool {
        let was_told = std::mem::replace(&mut self.is_told, is_here);
        is_here && !was_told
    }
}

impl RoomShard {
    /// Somebody here wants to know from now on who joins and who leaves.
    pub(super) fn note_watcher(&mut self, name: &RoomName) {
        if (self.followed_mut(name)).is_some_and(|followed| !followed.watch.is_told) {
            self.beat(name);
        }
    }

    /// The feed is there, for the first time or again: others may not have heard that somebody here
    /// wants to know, and what Redis knew of it may be lost.
    pub(super) fn renew_watch(&mut self, name: &RoomName) {
        let Some(room) = self.rooms.get_mut(name) else {
            return;
        };
        if let Some(followed) = &mut room.followed
            && !room.watchers.is_empty()
        {
            followed.watch.is_told = false;
            self.beat(name);
        }
    }

    /// The broker has said whether somebody on another node wants to know.
    pub(super) fn note_watched(&mut self, name: &RoomName, is_elsewhere: bool) {
        if let Some(followed) = self.followed_mut(name) {
            followed.watch.is_elsewhere = is_elsewhere;
        }
    }

    /// Tells those who want to know that somebody has joined or left.
    pub(super) fn tell_watchers(
        &mut self,
        name: &RoomName,
        is_join: bool,
        conn: ConnId,
        identity: Option<&Identity>,
    ) {
        if !self.is_watched(name) {
            return;
        }
        let client = client_name(self.node(), conn);
        let sender = Sender {
            client: &client,
            identity,
        };
        let mut push = Vec::new();
        put_presence_change(&mut push, name, is_join, sender);
        if self.following.is_none() {
            return self.push_change(name, &push);
        }
        debug_assert!(push.len() <= PUSH_BYTES_MAX, "{name}: a push of any length");
        self.say(name, &Word::Changed(push.into()));
    }

    /// A node has said something in the feed of a room.
    pub(super) fn handle_said(&mut self, now: Now, name: &RoomName, bytes: &Bytes) {
        let own = self.node();
        let Some(room) = self.rooms.get_mut(name) else {
            return;
        };
        match Word::decode(bytes) {
            Some(Word::Watched(node)) if Some(node) != own => {
                if let Some(followed) = &mut room.followed {
                    followed.watch.heard_until = Some(now.instant + HEARD_HOLDS);
                }
            }
            Some(Word::Changed(push)) if !room.watchers.is_empty() => {
                self.push_change(name, &push);
            }
            _ => {}
        }
    }

    /// Announces that somebody here wants to know.
    pub(super) fn announce_watch(&mut self, name: &RoomName, node: NodeId) {
        self.say(name, &Word::Watched(node));
    }

    fn is_watched(&self, name: &RoomName) -> bool {
        let Some(room) = self.rooms.get(name) else {
            return false;
        };
        // The time is that of the last look at the clock, which is near enough.
        let elsewhere = (self.following.as_ref().zip(room.followed.as_ref()))
            .is_some_and(|(all, followed)| followed.watch.is_elsewhere(all.last_look));
        elsewhere || !room.watchers.is_empty()
    }

    fn push_change(&mut self, name: &RoomName, push: &[u8]) {
        self.effects.push_back(Effect::PresenceChanged {
            room: name.clone(),
            told: Frames::message(PayloadKind::Text, push),
        });
    }

    fn say(&mut self, name: &RoomName, word: &Word) {
        let Some(following) = &mut self.following else {
            return;
        };
        // What waits for the broker must not wait behind words, nor words behind it.
        if following.is_available && following.requests.len() < SAYS_AHEAD_MAX {
            following.requests.push(Request::Say {
                room: name.clone(),
                bytes: word.encode(),
            });
        } else {
            self.totals.following().unsaid.add(1);
        }
    }
}

/// How long it holds that another node has somebody who wants to know: until a beat that was asked
/// for later is answered, a second late at most.
const HEARD_HOLDS: Duration = BEAT_INTERVAL.saturating_add(Duration::from_secs(1));

/// How many requests may wait before a word is dropped rather than added to them.
const SAYS_AHEAD_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Epoch, Limits, Offset, Position, RoomBudget, Since};
    use crate::cluster::{Event, Snapshot};
    use crate::exchange::{Job, Terms, worker_of};
    use crate::wire::raw::WireForm;

    const OWN: NodeId = NodeId(1);
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

    fn conn(slot: u32) -> ConnId {
        ConnId {
            slot,
            generation: 0,
        }
    }

    fn top() -> Position {
        Position {
            epoch: Epoch::from_number(1),
            offset: Offset(0),
        }
    }

    fn do_job(shard: &mut RoomShard, ms: u64, job: Job) {
        shard.handle_job(at(ms), job);
        shard.handle_timeout(at(ms));
        shard.check_invariants();
    }

    fn hear(shard: &mut RoomShard, ms: u64, event: Event) {
        shard.handle_event(at(ms), event);
        shard.handle_timeout(at(ms));
        shard.check_invariants();
    }

    fn join(shard: &mut RoomShard, ms: u64, slot: u32, watches: bool) {
        let terms = Terms {
            watches,
            ..Terms::default()
        };
        let job = Job::Subscribe {
            conn: conn(slot),
            room: room(),
            form: WireForm::Raw,
            since: Since::Now,
            identity: None,
            terms,
        };
        do_job(shard, ms, job);
    }

    fn leave(shard: &mut RoomShard, ms: u64, slot: u32) {
        let (conn, room, form) = (conn(slot), room(), WireForm::Raw);
        do_job(shard, ms, Job::Unsubscribe { conn, room, form });
    }

    fn beaten(is_watched: bool) -> Event {
        Event::Beaten {
            room: room(),
            top: top(),
            online: 1,
            generation: 0,
            is_watched,
        }
    }

    fn said(word: &Word) -> Event {
        let (room, bytes) = (room(), word.encode());
        Event::Said { room, bytes }
    }

    /// What the shard says and tells of itself, in short.
    fn asked(shard: &mut RoomShard) -> Vec<String> {
        let requests = std::iter::from_fn(|| shard.poll_request());
        requests
            .filter_map(|request| match request {
                Request::Beat { watches, .. } => Some(format!("beat {watches}")),
                Request::Say { bytes, .. } => Some(match Word::decode(&bytes) {
                    Some(Word::Watched(node)) => format!("watched {}", node.0),
                    Some(Word::Changed(push)) => {
                        let is_join = push.windows(7).any(|part| part == b"\"join\":");
                        if is_join { "joined" } else { "left" }.to_owned()
                    }
                    None => panic!("no word: {bytes:?}"),
                }),
                _ => None,
            })
            .collect()
    }

    /// How often members here are told of a change.
    fn told(shard: &mut RoomShard) -> usize {
        std::iter::from_fn(|| shard.poll_effect())
            .filter(|effect| matches!(effect, Effect::PresenceChanged { .. }))
            .count()
    }

    /// A member that does not watch is in the room, and what was said of it is forgotten.
    fn shard(is_watched: bool) -> (RoomShard, Vec<String>) {
        let limits = Limits::default();
        let shard = RoomShard::new(&limits, 1, RoomBudget::new(100), at(0), 1);
        // The room of nodes is another shard's.
        let place = (1 - worker_of(&RoomName::control(), 2), 2);
        let mut shard = shard.join_cluster(at(0), OWN, place, Duration::from_secs(2));
        join(&mut shard, 0, 1, false);
        hear(&mut shard, 0, Event::Followed(room()));
        let snapshot = Box::new(Snapshot {
            top: top(),
            first: Offset(1),
            complete_since_ms: 0,
            began: Offset(0),
            unix_ms: 0,
            publications: Vec::new(),
            online: 0,
            generation: 0,
            is_watched,
        });
        let room = room();
        hear(&mut shard, 0, Event::Read { room, snapshot });
        let asked = asked(&mut shard);
        assert_eq!(told(&mut shard), 0);
        (shard, asked)
    }

    #[test]
    fn the_first_member_of_a_node_is_told_of_where_the_room_is_watched() {
        assert_eq!(shard(true).1, ["joined"]);
        assert_eq!(shard(false).1, [""; 0]);
    }

    #[test]
    fn who_watches_is_announced_first_and_hears_of_changes_from_the_feed_alone() {
        let (mut shard, _) = shard(false);
        join(&mut shard, 0, 2, true);
        assert_eq!(asked(&mut shard), ["beat true", "watched 1", "joined"]);
        join(&mut shard, 0, 3, true);
        assert_eq!(asked(&mut shard), ["joined"], "that one is there is known");
        assert_eq!(told(&mut shard), 0);
        let change = said(&Word::Changed(Bytes::from_static(b"{}")));
        hear(&mut shard, 0, change.clone());
        assert_eq!(told(&mut shard), 1, "however many watch");
        hear(&mut shard, 0, said(&Word::Watched(OWN)));
        leave(&mut shard, 0, 2);
        leave(&mut shard, 0, 3);
        assert_eq!(
            asked(&mut shard),
            ["left"],
            "of the last, nobody is left to hear"
        );
        hear(&mut shard, 0, change);
        assert_eq!(told(&mut shard), 0);
        shard.handle_timeout(at(1000));
        assert_eq!(asked(&mut shard), ["beat false"]);
        join(&mut shard, 1000, 4, true);
        assert_eq!(asked(&mut shard), ["beat true", "watched 1", "joined"]);
    }

    #[test]
    fn what_another_node_says_holds_until_beats_must_know_of_it() {
        let (mut shard, _) = shard(false);
        let holds_ms = HEARD_HOLDS.as_millis() as u64;
        let mut slot = 10;
        let mut is_said = |shard: &mut RoomShard, ms| {
            slot += 1;
            shard.handle_timeout(at(ms));
            asked(shard);
            join(shard, ms, slot, false);
            asked(shard).contains(&"joined".to_owned())
        };
        hear(&mut shard, 0, said(&Word::Watched(OWN)));
        assert!(!is_said(&mut shard, 0), "its own word");
        hear(&mut shard, 0, said(&Word::Watched(OTHER)));
        // Asked for before the other node has beaten.
        hear(&mut shard, 0, beaten(false));
        assert!(is_said(&mut shard, 0));
        assert!(is_said(&mut shard, holds_ms - 1));
        assert!(!is_said(&mut shard, holds_ms));
        hear(&mut shard, holds_ms, beaten(true));
        assert!(is_said(&mut shard, 3 * holds_ms), "beats say so");
        hear(&mut shard, 3 * holds_ms, beaten(false));
        assert!(!is_said(&mut shard, 3 * holds_ms));
    }

    #[test]
    fn nothing_is_said_while_the_broker_is_away_and_who_watches_is_announced_again() {
        let (mut shard, _) = shard(true);
        join(&mut shard, 0, 2, true);
        asked(&mut shard);
        hear(&mut shard, 0, Event::Availability(false));
        join(&mut shard, 0, 3, true);
        leave(&mut shard, 0, 3);
        assert_eq!(asked(&mut shard), [""; 0]);
        assert_eq!(shard.totals.following().unsaid.get(), 2);
        hear(&mut shard, 0, Event::Availability(true));
        hear(&mut shard, 0, Event::FeedLost);
        hear(&mut shard, 0, Event::Followed(room()));
        assert_eq!(asked(&mut shard), ["beat true", "watched 1"]);
    }

    #[test]
    fn words_do_not_gather_while_the_broker_takes_nothing() {
        let (mut shard, _) = shard(true);
        for number in 0..2 * SAYS_AHEAD_MAX {
            join(&mut shard, 0, 10 + number as u32, false);
        }
        assert_eq!(asked(&mut shard).len(), SAYS_AHEAD_MAX);
        let unsaid = shard.totals.following().unsaid.get();
        assert_eq!(unsaid, SAYS_AHEAD_MAX as u64);
    }
}
