//! How a node follows the numbering of one room.
//!
//! Owns: up to where the room has been delivered here, and what has been heard ahead of that.
//! Never: asks or delivers; each input says what follows from it.
//!
//! ```text
//!            followed                 read
//! Waiting ──────────────► Reading ──────────────► Live
//!    ▲                    ▲   │                    │ │
//!    │                    └───┼── a hole, another ─┘ │
//!    └──────── feed lost ─────┴──────────────────────┘
//! ```
//!
//! Invariants
//! - What is delivered of an epoch rises by one, or the count of what is missing is told.
//! - What is heard ahead is kept only while a read is on its way, within bounds, one of them for all
//!   rooms; over them, it is dropped and read again.

use std::collections::VecDeque;

use super::{Known, Numbered, Request, Shared, Snapshot};
use crate::base::{Offset, Position, RoomName};

/// One room, as followed by this node.
#[derive(Debug)]
pub struct Link {
    stage: Stage,
    known: Option<Known>,
    /// When the newest publication known was numbered.
    known_ms: u64,
    /// Reads that are asked for and not answered. Only the last of them can make it live.
    reads: u32,
    ahead: VecDeque<Ahead>,
    ahead_bytes: usize,
    has_dropped: bool,
    /// Everything that is kept is to be read.
    wants_all: bool,
    /// The last read that was asked for brings it.
    asks_all: bool,
    /// What is known was compared with the broker since the room is followed.
    is_compared: bool,
    /// What the last beat said.
    beaten: Option<Position>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The feed does not tell of it yet, or no more.
    Waiting,
    /// It does, and what is missing is on its way.
    Reading,
    /// All that was numbered is delivered as it is heard.
    Live,
}

/// A publication that was heard.
#[derive(Debug)]
struct Ahead {
    position: Position,
    unix_ms: u64,
    shared: Option<Shared>,
}

/// What follows from a publication that was heard.
#[derive(Debug, PartialEq)]
pub enum Verdict {
    /// It is the next.
    Deliver(Numbered),
    /// It is delivered already, or comes later with the others.
    Nothing,
    /// The room must be read.
    Read,
}

/// What follows from a room that was read.
#[derive(Debug, PartialEq)]
pub struct Catch {
    /// The room, where it was read for the first time or wholly, without what is delivered below.
    pub base: Option<Base>,
    /// A new epoch has begun, and nothing that was seen before means anything in it.
    pub is_restart: bool,
    /// Every publication from this offset on is kept, unless it was not to be.
    pub first: Offset,
    /// Nothing published after this time has been forgotten.
    pub complete_since_ms: u64,
    /// What is to be delivered, in order. What is missing between them, and after them up to `top`,
    /// can be delivered to nobody any more.
    pub publications: Vec<Numbered>,
    /// The newest publication that is known now.
    pub top: Offset,
    /// Whether the room must be read again.
    pub reads_again: bool,
}

/// A room as it is kept.
#[derive(Debug, PartialEq)]
pub struct Base {
    /// The newest publication.
    pub top: Position,
    /// Every publication from this offset on is kept, unless it was not to be.
    pub first: Offset,
    /// Nothing published after this time has been forgotten.
    pub complete_since_ms: u64,
    /// The newest publication when the epoch began.
    pub began: Offset,
    /// The broker's time.
    pub unix_ms: u64,
    /// What is kept.
    pub publications: Vec<Numbered>,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            stage: Stage::Waiting,
            known: None,
            known_ms: 0,
            reads: 0,
            ahead: VecDeque::new(),
            ahead_bytes: 0,
            has_dropped: false,
            wants_all: false,
            asks_all: false,
            is_compared: false,
            beaten: None,
        }
    }
}

impl Link {
    /// A room that was followed before, so that answers to `reads` are still to come.
    #[must_use]
    pub fn with_reads(reads: u32) -> Self {
        Self {
            reads,
            ..Self::default()
        }
    }

    /// Reads that are asked for and not answered.
    #[must_use]
    pub fn reads(&self) -> u32 {
        self.reads
    }

    /// What is heard ahead takes in memory, in bytes.
    #[must_use]
    pub fn ahead_cost_bytes(&self) -> usize {
        self.ahead_bytes + self.ahead.len() * AHEAD_ENTRY_BYTES
    }

    /// Whether all that was numbered is delivered as it is heard.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.stage == Stage::Live
    }

    /// Whether the room was read at least once.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.known.is_some()
    }

    /// The feed tells of the room from now on: it must be read.
    pub fn handle_followed(&mut self) {
        self.stage = Stage::Reading;
        self.is_compared = false;
        self.drop_ahead();
    }

    /// The feed tells no more.
    pub fn handle_feed_lost(&mut self) {
        self.stage = Stage::Waiting;
        self.is_compared = false;
        self.drop_ahead();
    }

    /// The room is not what it was. Returns whether it must be read.
    pub fn handle_broken(&mut self) -> bool {
        match self.stage {
            Stage::Waiting => false,
            // What is on its way may have been read before.
            Stage::Reading => {
                self.has_dropped = true;
                false
            }
            Stage::Live => {
                self.stage = Stage::Reading;
                true
            }
        }
    }

    /// Somebody has seen more of the room than is known here. Returns whether the room must be read
    /// for it now.
    pub fn want_newer(&mut self) -> bool {
        let is_live = self.stage == Stage::Live;
        if is_live {
            self.stage = Stage::Reading;
        }
        is_live
    }

    /// Everything that is kept is wanted, since some of it is forgotten here. Returns whether the
    /// room must be read for it now.
    pub fn want_all(&mut self) -> bool {
        self.wants_all = true;
        let is_live = self.stage == Stage::Live;
        if is_live {
            self.stage = Stage::Reading;
        }
        is_live
    }

    /// The read that the room needs now.
    pub fn read(&mut self, room: &RoomName) -> Request {
        self.reads += 1;
        // What is known is compared first: read without it, it could not be seen that the room has
        // gone on otherwise.
        self.asks_all = self.wants_all && (self.is_compared || self.known.is_none());
        let known = self.known.filter(|_| !self.asks_all);
        Request::Read {
            room: room.clone(),
            known,
        }
    }

    /// A read has failed. Returns whether another is needed.
    pub fn handle_read_failed(&mut self) -> bool {
        self.reads = self.reads.saturating_sub(1);
        self.reads == 0 && self.stage == Stage::Reading
    }

    /// The broker's newest publication, as of some time ago. Returns whether the room must be read:
    /// what was there at the beat before this one has not been heard yet.
    pub fn handle_beaten(&mut self, top: Position) -> bool {
        let before = self.beaten.replace(top);
        if self.stage != Stage::Live {
            return false;
        }
        let is_behind =
            before.is_some_and(|before| self.is_missing(before)) && self.is_missing(top);
        if is_behind {
            self.stage = Stage::Reading;
        }
        is_behind
    }

    fn is_missing(&self, top: Position) -> bool {
        self.known.is_none_or(|known| {
            known.position.epoch != top.epoch || known.position.offset < top.offset
        })
    }

    /// A publication was heard.
    pub fn handle_fed(
        &mut self,
        position: Position,
        unix_ms: u64,
        shared: Option<Shared>,
        ahead_max: Level,
    ) -> Verdict {
        match self.stage {
            Stage::Waiting => Verdict::Nothing,
            Stage::Reading => {
                self.keep_ahead(position, unix_ms, shared, ahead_max);
                Verdict::Nothing
            }
            Stage::Live => match self.place(position, unix_ms, shared.as_ref()) {
                Place::Next => {
                    self.advance(position, unix_ms, shared.as_ref());
                    Verdict::Deliver(Numbered {
                        offset: position.offset,
                        unix_ms,
                        shared,
                    })
                }
                Place::Before => Verdict::Nothing,
                Place::Beyond => {
                    self.stage = Stage::Reading;
                    self.keep_ahead(position, unix_ms, shared, ahead_max);
                    Verdict::Read
                }
            },
        }
    }

    /// The room was read. `None` if another answer is to be waited for.
    pub fn handle_read(&mut self, snapshot: Snapshot) -> Option<Catch> {
        self.reads = self.reads.saturating_sub(1);
        if self.reads > 0 || self.stage != Stage::Reading {
            return None;
        }
        let top = snapshot.top;
        let asked_all = std::mem::take(&mut self.asks_all);
        if let Some(known) = self.known
            && asked_all
            && known.position.epoch == top.epoch
            && known.position.offset > top.offset
        {
            // The numbering has moved back, and the feed has not said yet that it was lost.
            self.is_compared = false;
            return Some(Catch {
                base: None,
                is_restart: false,
                first: Offset(0),
                complete_since_ms: 0,
                publications: Vec::new(),
                top: known.position.offset,
                reads_again: true,
            });
        }
        let last = snapshot.publications.last();
        let newest = last.filter(|last| last.offset == top.offset);
        let token = newest.and_then(|newest| newest.shared.as_ref().map(|shared| shared.token));
        let known_ms = newest.map_or(snapshot.unix_ms, |newest| newest.unix_ms);
        let known = Known {
            position: top,
            token,
        };
        let before = self.known.replace(known);
        let mut catch = Catch {
            base: None,
            is_restart: false,
            first: snapshot.first,
            complete_since_ms: snapshot.complete_since_ms,
            publications: Vec::new(),
            top: top.offset,
            reads_again: false,
        };
        let base = |publications| Base {
            top,
            first: snapshot.first,
            complete_since_ms: snapshot.complete_since_ms,
            began: snapshot.began,
            unix_ms: snapshot.unix_ms,
            publications,
        };
        match before {
            None => catch.base = Some(base(snapshot.publications)),
            Some(before) if before.position.epoch != top.epoch => {
                catch.is_restart = true;
                catch.base = Some(base(snapshot.publications));
            }
            Some(before) => {
                let after = before.position.offset;
                let mut kept = snapshot.publications;
                let start = kept.partition_point(|one| one.offset <= after);
                catch.publications = kept.split_off(start);
                if asked_all {
                    catch.base = Some(Base {
                        top: before.position,
                        ..base(kept)
                    });
                }
                if top.offset == after && token.is_none() {
                    // It was not read again.
                    self.known = Some(before);
                }
            }
        }
        self.known_ms = self.known_ms.max(known_ms);
        if catch.is_restart {
            self.known_ms = known_ms;
        }
        self.stage = Stage::Live;
        self.is_compared = true;
        self.wants_all &= catch.base.is_none();
        catch.reads_again = std::mem::take(&mut self.has_dropped);
        for heard in std::mem::take(&mut self.ahead) {
            match self.place(heard.position, heard.unix_ms, heard.shared.as_ref()) {
                Place::Next if !catch.reads_again => {
                    self.advance(heard.position, heard.unix_ms, heard.shared.as_ref());
                    catch.publications.push(Numbered {
                        offset: heard.position.offset,
                        unix_ms: heard.unix_ms,
                        shared: heard.shared,
                    });
                }
                // Of an epoch that was over before the room was read. In the same millisecond, the
                // next may have begun.
                Place::Beyond
                    if heard.position.epoch != top.epoch && heard.unix_ms < snapshot.unix_ms => {}
                Place::Before => {}
                Place::Next | Place::Beyond => catch.reads_again = true,
            }
        }
        self.ahead_bytes = 0;
        if let Some(known) = self.known {
            catch.top = known.position.offset;
        }
        catch.reads_again |= self.wants_all;
        if catch.reads_again {
            self.stage = Stage::Reading;
        }
        Some(catch)
    }

    fn place(&self, position: Position, unix_ms: u64, shared: Option<&Shared>) -> Place {
        let Some(known) = self.known else {
            return Place::Beyond;
        };
        if position.epoch != known.position.epoch {
            return Place::Beyond;
        }
        let newest = known.position.offset;
        let token = shared.map(|shared| shared.token);
        if position.offset == newest.next() {
            Place::Next
        } else if position.offset > newest
            // Numbered later and lower, or again: the numbering has moved back.
            || unix_ms > self.known_ms
            || (position.offset == newest && known.token.is_some() && known.token != token)
        {
            Place::Beyond
        } else {
            Place::Before
        }
    }

    fn advance(&mut self, position: Position, unix_ms: u64, shared: Option<&Shared>) {
        let token = shared.map(|shared| shared.token);
        self.known = Some(Known { position, token });
        self.known_ms = self.known_ms.max(unix_ms);
    }

    fn keep_ahead(&mut self, position: Position, unix_ms: u64, shared: Option<Shared>, max: Level) {
        let bytes = shared
            .as_ref()
            .map_or(0, |shared| shared.payload.bytes().len());
        if self.has_dropped {
            return;
        }
        let is_over = self.ahead.len() == max.publications
            || self.ahead_bytes + bytes > max.bytes
            || bytes + AHEAD_ENTRY_BYTES > max.left_bytes;
        if is_over {
            self.drop_ahead();
            self.has_dropped = true;
            return;
        }
        self.ahead_bytes += bytes;
        self.ahead.push_back(Ahead {
            position,
            unix_ms,
            shared,
        });
    }

    fn drop_ahead(&mut self) {
        self.ahead = VecDeque::new();
        self.ahead_bytes = 0;
        self.has_dropped = false;
    }
}

/// Where a publication that was heard is, seen from what is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Before,
    Next,
    /// Not to be understood without reading the room.
    Beyond,
}

/// How much may be kept of what is heard ahead.
#[derive(Clone, Copy, Debug)]
pub struct Level {
    /// Publications.
    pub publications: usize,
    /// Bytes of their payloads.
    pub bytes: usize,
    /// What all rooms together may take beyond what they take now, in bytes.
    pub left_bytes: usize,
}

/// What is heard ahead takes beside its payload: its place in a queue that grows by doubling.
const AHEAD_ENTRY_BYTES: usize = 2 * size_of::<Ahead>();

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{ConnId, Epoch};
    use crate::cluster::{NodeId, Token};
    use crate::wire::frame::Payload;

    /// What happens to a room. Publications of epoch `e` are numbered at ten times their offset, and
    /// their token is their offset, if nothing else is said.
    #[derive(Clone, Copy, Debug)]
    enum Do {
        Followed,
        FeedLost,
        Broken,
        WantAll,
        /// The read that is needed is asked for.
        Ask,
        Fed(char, u64),
        /// At another time, with another token.
        FedAt(char, u64, u64, u64),
        /// A read is answered: epoch, newest offset, what is kept of what was asked for.
        Answer(char, u64, &'static [u64]),
        /// At another time.
        AnswerAt(char, u64, &'static [u64], u64),
        Fail,
        Beat(char, u64),
    }
    use Do::{Answer, AnswerAt, Ask, Beat, Broken, Fail, Fed, FedAt, FeedLost, Followed, WantAll};

    const MAX: Level = Level {
        publications: 3,
        bytes: 100,
        left_bytes: usize::MAX,
    };

    fn position(epoch: char, offset: u64) -> Position {
        Position {
            epoch: Epoch::new(&epoch.to_string()).expect("a good epoch"),
            offset: Offset(offset),
        }
    }

    fn shared(number: u64) -> Shared {
        Shared {
            token: Token {
                node: NodeId(1),
                number,
            },
            conn: ConnId::NONE,
            identity: None,
            payload: Payload::text("0123456789".into()),
            is_kept: true,
        }
    }

    fn numbered(offset: u64) -> Numbered {
        Numbered {
            offset: Offset(offset),
            unix_ms: offset * 10,
            shared: Some(shared(offset)),
        }
    }

    fn offsets(publications: &[Numbered]) -> String {
        let offsets = publications.iter().map(|one| one.offset.to_string());
        offsets.collect::<Vec<_>>().join(",")
    }

    /// Does one thing, and says what follows from it.
    fn does(link: &mut Link, what: Do) -> String {
        let room = RoomName::new("r").expect("a good name");
        let reads = |must_read| if must_read { "read" } else { "-" }.to_owned();
        match what {
            Followed => {
                link.handle_followed();
                "read".into()
            }
            FeedLost => {
                link.handle_feed_lost();
                "-".into()
            }
            Broken => reads(link.handle_broken()),
            WantAll => reads(link.want_all()),
            Fail => reads(link.handle_read_failed()),
            Beat(epoch, top) => reads(link.handle_beaten(position(epoch, top))),
            Ask => match link.read(&room) {
                Request::Read { known: None, .. } => "ask all".into(),
                Request::Read {
                    known: Some(known), ..
                } => {
                    let token = known
                        .token
                        .map_or_else(|| "-".into(), |token: Token| token.number.to_string());
                    let Position { epoch, offset } = known.position;
                    format!("ask after {epoch}{offset} ({token})")
                }
                other => panic!("{other:?}"),
            },
            Fed(epoch, offset) => does(link, FedAt(epoch, offset, offset * 10, offset)),
            FedAt(epoch, offset, unix_ms, token) => {
                let shared = Some(shared(token));
                match link.handle_fed(position(epoch, offset), unix_ms, shared, MAX) {
                    Verdict::Deliver(one) => format!("deliver {}", one.offset),
                    Verdict::Nothing => "-".into(),
                    Verdict::Read => "read".into(),
                }
            }
            Answer(epoch, top, kept) => does(link, AnswerAt(epoch, top, kept, 1000)),
            AnswerAt(epoch, top, kept, unix_ms) => {
                let snapshot = Snapshot {
                    top: position(epoch, top),
                    first: Offset(1),
                    complete_since_ms: 0,
                    unix_ms,
                    publications: kept.iter().map(|offset| numbered(*offset)).collect(),
                    online: 0,
                    began: Offset(0),
                    generation: 0,
                    is_watched: false,
                };
                let Some(catch) = link.handle_read(snapshot) else {
                    return "-".into();
                };
                assert_eq!(catch.reads_again, !link.is_live());
                let base = catch.base.map_or(String::new(), |base| {
                    format!(
                        "base {} to {}, ",
                        offsets(&base.publications),
                        base.top.offset
                    )
                });
                format!(
                    "{}{base}deliver {} to {}{}",
                    if catch.is_restart { "restart, " } else { "" },
                    offsets(&catch.publications),
                    catch.top,
                    if catch.reads_again { ", read" } else { "" },
                )
            }
        }
    }

    /// Live in epoch `a`, with five publications delivered.
    const LIVE: [(Do, &str); 3] = [
        (Followed, "read"),
        (Ask, "ask all"),
        (Answer('a', 5, &[4, 5]), "base 4,5 to 5, deliver  to 5"),
    ];

    fn check(case: &str, steps: &[(Do, &str)]) {
        let mut link = Link::default();
        for (step, (what, expected)) in LIVE.iter().chain(steps).enumerate() {
            assert_eq!(
                does(&mut link, *what),
                *expected,
                "{case}, step {step}: {what:?}"
            );
            assert!(link.ahead.len() <= MAX.publications, "{case}, step {step}");
            let bytes = link.ahead.len() * 10;
            assert_eq!(link.ahead_bytes, bytes, "{case}, step {step}");
        }
    }

    #[test]
    fn what_is_heard_in_order_is_delivered_once() {
        check(
            "in order, and again",
            &[
                (Fed('a', 6), "deliver 6"),
                (Fed('a', 7), "deliver 7"),
                (Fed('a', 7), "-"),
                (Fed('a', 5), "-"),
                (Fed('a', 8), "deliver 8"),
            ],
        );
    }

    #[test]
    fn a_hole_is_read_while_later_ones_wait() {
        check(
            "a hole",
            &[
                (Fed('a', 8), "read"),
                (Ask, "ask after a5 (5)"),
                (Fed('a', 9), "-"),
                (Answer('a', 8, &[6, 7, 8]), "deliver 6,7,8,9 to 9"),
                (Fed('a', 10), "deliver 10"),
            ],
        );
        check(
            "a hole that nobody can fill",
            &[
                (Fed('a', 8), "read"),
                (Ask, "ask after a5 (5)"),
                (Answer('a', 8, &[7, 8]), "deliver 7,8 to 8"),
            ],
        );
        check(
            "the newest is not kept",
            &[
                (Fed('a', 8), "read"),
                (Ask, "ask after a5 (5)"),
                (Answer('a', 8, &[6]), "deliver 6 to 8"),
                (Fed('a', 9), "deliver 9"),
            ],
        );
        check(
            "a hole behind what was read",
            &[
                (Fed('a', 8), "read"),
                (Ask, "ask after a5 (5)"),
                (Fed('a', 11), "-"),
                (Answer('a', 8, &[6, 7, 8]), "deliver 6,7,8 to 8, read"),
                (Ask, "ask after a8 (8)"),
                (Answer('a', 11, &[9, 10, 11]), "deliver 9,10,11 to 11"),
            ],
        );
    }

    #[test]
    fn what_is_heard_ahead_is_bounded_and_then_read_again() {
        check(
            "too many, and nothing behind them",
            &[
                (Fed('a', 7), "read"),
                (Ask, "ask after a5 (5)"),
                (Fed('a', 8), "-"),
                (Fed('a', 9), "-"),
                (Fed('a', 10), "-"),
                (Answer('a', 7, &[6, 7]), "deliver 6,7 to 7, read"),
            ],
        );
        check(
            "too many",
            &[
                (Fed('a', 7), "read"),
                (Ask, "ask after a5 (5)"),
                (Fed('a', 8), "-"),
                (Fed('a', 9), "-"),
                (Fed('a', 10), "-"),
                (Fed('a', 11), "-"),
                (Answer('a', 8, &[6, 7, 8]), "deliver 6,7,8 to 8, read"),
                (Ask, "ask after a8 (8)"),
                (Fed('a', 12), "-"),
                (Answer('a', 11, &[9, 10, 11]), "deliver 9,10,11,12 to 12"),
            ],
        );
    }

    #[test]
    fn a_lost_feed_makes_answers_to_earlier_reads_void() {
        check(
            "lost while reading",
            &[
                (Fed('a', 7), "read"),
                (Ask, "ask after a5 (5)"),
                (FeedLost, "-"),
                (Fed('a', 8), "-"),
                (Answer('a', 7, &[6, 7]), "-"),
                (Followed, "read"),
                (Ask, "ask after a5 (5)"),
                (Answer('a', 9, &[6, 7, 8, 9]), "deliver 6,7,8,9 to 9"),
            ],
        );
        check(
            "two reads on their way: the earlier one is void",
            &[
                (Fed('a', 7), "read"),
                (Ask, "ask after a5 (5)"),
                (FeedLost, "-"),
                (Followed, "read"),
                (Ask, "ask after a5 (5)"),
                (Answer('a', 7, &[6, 7]), "-"),
                (Fed('a', 10), "-"),
                (Answer('a', 9, &[6, 7, 8, 9]), "deliver 6,7,8,9,10 to 10"),
            ],
        );
        check(
            "followed again while reading: what was heard before is not complete",
            &[
                (Fed('a', 7), "read"),
                (Ask, "ask after a5 (5)"),
                (FeedLost, "-"),
                (Followed, "read"),
                (Ask, "ask after a5 (5)"),
                (Fail, "-"),
                (Fail, "read"),
                (Ask, "ask after a5 (5)"),
                (Answer('a', 7, &[6, 7]), "deliver 6,7 to 7"),
            ],
        );
    }

    #[test]
    fn another_epoch_begins_anew() {
        check(
            "heard of",
            &[
                (Fed('b', 1), "read"),
                (Ask, "ask after a5 (5)"),
                (Fed('b', 2), "-"),
                (Answer('b', 1, &[1]), "restart, base 1 to 1, deliver 2 to 2"),
                (Fed('b', 3), "deliver 3"),
            ],
        );
        check(
            "told of",
            &[
                (Broken, "read"),
                (Ask, "ask after a5 (5)"),
                (Broken, "-"),
                (
                    Answer('b', 0, &[]),
                    "restart, base  to 0, deliver  to 0, read",
                ),
                (Ask, "ask after b0 (-)"),
                (Answer('b', 0, &[]), "deliver  to 0"),
                (Fed('b', 1), "deliver 1"),
            ],
        );
        check(
            "the room was forgotten, not begun anew",
            &[
                (Broken, "read"),
                (Ask, "ask after a5 (5)"),
                (Answer('a', 5, &[]), "deliver  to 5"),
                (Fed('a', 6), "deliver 6"),
            ],
        );
    }

    #[test]
    fn a_late_word_of_an_epoch_that_is_over_is_not_taken_for_a_new_one() {
        check(
            "heard while the new one is read",
            &[
                (Fed('b', 1), "read"),
                (Ask, "ask after a5 (5)"),
                (FedAt('a', 6, 999, 6), "-"),
                (
                    AnswerAt('b', 1, &[1], 1000),
                    "restart, base 1 to 1, deliver  to 1",
                ),
            ],
        );
        check(
            "in the millisecond of the read it cannot be told from a third one",
            &[
                (Fed('b', 1), "read"),
                (Ask, "ask after a5 (5)"),
                (FedAt('c', 1, 1000, 1), "-"),
                (
                    AnswerAt('b', 1, &[1], 1000),
                    "restart, base 1 to 1, deliver  to 1, read",
                ),
                (Ask, "ask after b1 (1)"),
                (Answer('c', 1, &[1]), "restart, base 1 to 1, deliver  to 1"),
            ],
        );
        check(
            "heard behind it, it costs a read",
            &[
                (Fed('b', 1), "read"),
                (Ask, "ask after a5 (5)"),
                (Answer('b', 1, &[1]), "restart, base 1 to 1, deliver  to 1"),
                (Fed('a', 6), "read"),
                (Ask, "ask after b1 (1)"),
                (Answer('b', 1, &[]), "deliver  to 1"),
                (Fed('b', 2), "deliver 2"),
            ],
        );
    }

    #[test]
    fn a_numbering_that_moved_back_is_read() {
        check(
            "seen by the token",
            &[
                (FedAt('a', 5, 50, 105), "read"),
                (Ask, "ask after a5 (5)"),
                (Answer('b', 0, &[]), "restart, base  to 0, deliver  to 0"),
            ],
        );
        check("seen by the time", &[(FedAt('a', 4, 51, 104), "read")]);
        check("neither", &[(FedAt('a', 4, 40, 104), "-")]);
    }

    #[test]
    fn all_that_is_kept_is_read_once_what_is_known_was_compared() {
        check(
            "of a live room, at once",
            &[
                (WantAll, "read"),
                (Ask, "ask all"),
                (Fed('a', 7), "-"),
                (
                    Answer('a', 6, &[4, 5, 6]),
                    "base 4,5 to 5, deliver 6,7 to 7",
                ),
                (Fed('a', 8), "deliver 8"),
            ],
        );
        check(
            "wanted while something else is read: the answer to that is not all",
            &[
                (Fed('a', 7), "read"),
                (Ask, "ask after a5 (5)"),
                (WantAll, "-"),
                (Answer('a', 7, &[6, 7]), "deliver 6,7 to 7, read"),
                (Ask, "ask all"),
                (
                    Answer('a', 7, &[4, 5, 6, 7]),
                    "base 4,5,6,7 to 7, deliver  to 7",
                ),
            ],
        );
        check(
            "a lost feed makes it wait until the room is compared again",
            &[
                (WantAll, "read"),
                (Ask, "ask all"),
                (FeedLost, "-"),
                (Followed, "read"),
                (Ask, "ask after a5 (5)"),
                (Answer('a', 5, &[4, 5]), "-"),
                (Answer('a', 5, &[]), "deliver  to 5, read"),
                (Ask, "ask all"),
                (Answer('a', 5, &[4, 5]), "base 4,5 to 5, deliver  to 5"),
            ],
        );
        check(
            "it is found moved back before the feed is known to be lost",
            &[
                (WantAll, "read"),
                (Ask, "ask all"),
                (Answer('a', 4, &[4]), "deliver  to 5, read"),
                (Ask, "ask after a5 (5)"),
                (Answer('b', 0, &[]), "restart, base  to 0, deliver  to 0"),
            ],
        );
    }

    #[test]
    fn beats_find_what_was_never_heard() {
        check(
            "twice behind",
            &[
                (Beat('a', 6), "-"),
                (Beat('a', 6), "read"),
                (Ask, "ask after a5 (5)"),
                (Beat('a', 6), "-"),
                (Answer('a', 6, &[6]), "deliver 6 to 6"),
                (Beat('a', 6), "-"),
            ],
        );
        check(
            "only just behind",
            &[
                (Beat('a', 6), "-"),
                (Fed('a', 6), "deliver 6"),
                (Beat('a', 7), "-"),
                (Fed('a', 7), "deliver 7"),
                (Beat('a', 9), "-"),
            ],
        );
        check(
            "beats that are late themselves",
            &[
                (Fed('a', 6), "deliver 6"),
                (Beat('a', 4), "-"),
                (Beat('a', 5), "-"),
            ],
        );
        check(
            "another epoch",
            &[(Beat('b', 1), "-"), (Beat('b', 1), "read")],
        );
        check(
            "not while it is away",
            &[(FeedLost, "-"), (Beat('a', 6), "-"), (Beat('a', 6), "-")],
        );
    }

    #[test]
    fn answers_to_reads_from_before_the_room_was_left_are_void() {
        let mut link = Link::with_reads(1);
        for (what, expected) in [
            (Followed, "read"),
            (Ask, "ask all"),
            (Answer('a', 3, &[3]), "-"),
            (Answer('a', 5, &[4, 5]), "base 4,5 to 5, deliver  to 5"),
        ] {
            assert_eq!(does(&mut link, what), expected, "{what:?}");
        }
        assert_eq!(link.reads(), 0);
    }
}
