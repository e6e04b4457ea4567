//! How a node follows a room of which it is told anything, in any order: what is delivered of an
//! epoch rises by one, or a room that was read says what is missing; what is held stays within its
//! bounds.

use roomcast::base::{ConnId, Epoch, Offset, Position, RoomName};
use roomcast::cluster::link::{Catch, Level, Link, Verdict};
use roomcast::cluster::{NodeId, Numbered, Shared, Snapshot, Token};
use roomcast::wire::frame::Payload;

use super::input::Input;

/// Each byte is a step, with what it needs behind it.
pub fn check(data: &[u8]) {
    let mut input = Input(data);
    let room = RoomName::new("live:7").expect("a good name");
    let mut link = Link::default();
    let mut top: Option<Position> = None;
    while !input.is_empty() {
        match input.byte() % 16 {
            0..7 => {
                let position = position(&mut input);
                let unix_ms = number(&mut input);
                let shared = shared(&mut input);
                let was_live = link.is_live();
                let verdict = link.handle_fed(position, unix_ms, shared.clone(), AHEAD_MAX);
                match verdict {
                    Verdict::Deliver(numbered) => {
                        let offset = position.offset;
                        let expected = Numbered {
                            offset,
                            unix_ms,
                            shared,
                        };
                        assert_eq!(numbered, expected, "it is what was heard");
                        let before = top.replace(position).expect("a room that was read");
                        assert!(was_live && before.epoch == position.epoch);
                        assert_eq!(before.offset.0.checked_add(1), Some(offset.0));
                    }
                    Verdict::Read => assert!(was_live && !link.is_live()),
                    Verdict::Nothing => {}
                }
            }
            7 => link.handle_followed(),
            8 => match input.byte() % 4 {
                0 => link.handle_feed_lost(),
                1 => drop(link.handle_broken()),
                2 => drop(link.want_all()),
                _ => drop(link.want_newer()),
            },
            9 | 10 => drop(link.read(&room)),
            11 => drop(link.handle_read_failed()),
            12 => drop(link.handle_beaten(position(&mut input))),
            _ => {
                let snapshot = snapshot(&mut input);
                let read = snapshot.top;
                if let Some(catch) = link.handle_read(snapshot) {
                    top = Some(caught(&link, top, read, &catch));
                }
            }
        }
        let held_max = AHEAD_MAX.left_bytes + AHEAD_MAX.publications * 512;
        assert!(
            link.ahead_cost_bytes() <= held_max,
            "more is held than may be"
        );
        assert_eq!(link.is_known(), top.is_some());
    }
}

const AHEAD_MAX: Level = Level {
    publications: 6,
    bytes: 100,
    left_bytes: 2000,
};

/// Returns where the room stands after a read that was taken.
fn caught(link: &Link, before: Option<Position>, read: Position, catch: &Catch) -> Position {
    let is_new = before.is_none_or(|before| before.epoch != read.epoch);
    if let Some(before) = before.filter(|_| !catch.is_restart) {
        // What was delivered before is not delivered again.
        let again = |one: &&Numbered| one.offset <= before.offset;
        let is_moved_back = read.offset < before.offset;
        assert!(is_moved_back || catch.publications.iter().find(again).is_none());
    }
    assert_eq!(catch.is_restart, before.is_some() && is_new);
    assert!(!is_new || catch.base.is_some() || catch.reads_again);
    let offsets: Vec<Offset> = catch.publications.iter().map(|one| one.offset).collect();
    assert!(offsets.is_sorted_by(|one, next| one < next), "{offsets:?}");
    assert_eq!(link.is_live(), !catch.reads_again);
    Position {
        epoch: read.epoch,
        offset: catch.top,
    }
}

fn number(input: &mut Input<'_>) -> u64 {
    match input.byte() {
        255 => u64::MAX,
        254 => u64::MAX - 1,
        253 => input.long(),
        small => u64::from(small) % 24,
    }
}

/// No larger than what is read from Redis.
fn offset(input: &mut Input<'_>) -> Offset {
    Offset(number(input).min(1 << 53))
}

fn position(input: &mut Input<'_>) -> Position {
    Position {
        epoch: Epoch::from_number(u64::from(input.byte() % 3)),
        offset: offset(input),
    }
}

fn shared(input: &mut Input<'_>) -> Option<Shared> {
    let how = input.byte();
    (how % 8 != 7).then(|| Shared {
        token: Token {
            node: NodeId(1),
            number: u64::from(how % 5),
        },
        conn: ConnId::NONE,
        identity: None,
        payload: Payload::from(vec![0; usize::from(how / 4)]),
        is_kept: true,
    })
}

/// A room as a script reads it: publications in their order, none above the newest.
fn snapshot(input: &mut Input<'_>) -> Snapshot {
    let top = position(input);
    let unix_ms = number(input);
    let len = u64::from(input.byte() % 6).min(top.offset.0);
    let mut publications = Vec::new();
    for back in (0..len).rev() {
        let how = input.byte();
        if how & 3 != 3 {
            publications.push(Numbered {
                offset: Offset(top.offset.0 - back),
                unix_ms: unix_ms.saturating_sub(back),
                shared: shared(input),
            });
        }
    }
    Snapshot {
        top,
        first: Offset(top.offset.0 - len + 1),
        complete_since_ms: number(input),
        began: offset(input),
        unix_ms,
        publications,
        online: 1,
        generation: 0,
        is_watched: false,
    }
}
