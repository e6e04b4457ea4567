//! Bounded queue of frames waiting for one connection's socket.
//!
//! Owns: references to encoded frames, the place reached in the one being written, a ping, and a
//! short lane of pongs.
//! Never: touches a socket, reads a clock, allocates per byte, or splits a frame to insert another.
//!
//! Invariants
//! - `level` is the sum of what the unfinished entries hold.
//! - A control frame waits for at most the frame in flight, never for the backlog.
//! - `push` either keeps the whole of what it is given or none of it.
//! - At most `PONGS_MAX` unsent pongs and one ping wait. Of more pongs the newest replaces the one
//!   before it, as RFC 6455 allows (section 5.5.3): a peer that pings without reading gains nothing,
//!   and one that sends a handful at once gets an answer to each.
//! - Nothing follows a close frame, or the end.
//!
//! Policy on overflow lives in [`super::pressure`]; this module only reports the level.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::Arc;

use super::pressure::Level;
use crate::wire::frame::{Frames, PING};
use crate::wire::websocket::Replies;

/// Frames waiting for one socket.
#[derive(Debug, Default)]
pub struct SendQueue {
    /// The first entry stands in the queue itself: nearly every queue holds one or none, and a
    /// queue behind a pointer would cost each delivery one more cache line.
    front: Option<Entry>,
    /// Those behind it; `None` while there never were any or they are long gone.
    rest: Option<Box<Rest>>,
    /// End of the frame in flight in the first entry; where the entry starts, between frames.
    frame_end: u32,
    level: Level,
    /// Pongs; `None` nearly always.
    lane: Option<Box<Lane>>,
    /// A ping; it needs no memory, since every connection gets one again and again.
    ping: Ping,
    /// A close frame was queued, or the connection is over.
    has_close: bool,
    /// The first entry is the answer to an upgrade.
    has_preamble: bool,
}

/// The entries behind the first.
#[derive(Debug, Default)]
struct Rest(VecDeque<Entry>);

#[derive(Debug)]
struct Entry {
    frames: Arc<Frames>,
    /// What is left of the entry starts here in `frames`, and moves as it is written.
    start: u32,
    /// The entry ends here.
    end: u32,
    /// Publications in it.
    publications: u32,
}

#[derive(Debug, Default)]
struct Lane {
    pongs: VecDeque<Box<[u8]>>,
    /// Bytes of the first pong that are written.
    written: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Ping {
    #[default]
    None,
    Waiting,
    /// Its first byte is written.
    Begun,
}

impl SendQueue {
    /// Appends frames that hold `publications` publications. Does nothing after a close frame.
    pub fn push(&mut self, frames: &Arc<Frames>, publications: u32) {
        let end = frames.bytes().len() as u32;
        if self.has_close || end == 0 {
            return;
        }
        self.level.bytes += end as usize;
        self.level.publications += publications as usize;
        let entry = Entry {
            frames: Arc::clone(frames),
            start: 0,
            end,
            publications,
        };
        if self.front.is_none() {
            self.frame_end = 0;
            self.front = Some(entry);
        } else {
            self.rest.get_or_insert_default().push_back(entry);
        }
    }

    /// Appends frames that hold no publication.
    pub fn push_whole(&mut self, frames: &Arc<Frames>) {
        self.push(frames, 0);
    }

    /// Puts the answer to an upgrade into the empty queue. It is not part of any backlog: without
    /// it the peer could not understand what follows.
    pub fn push_preamble(&mut self, bytes: Vec<u8>) {
        debug_assert!(self.is_empty(), "an upgrade is answered first");
        self.push_whole(&Frames::whole(bytes));
        // No control frame goes before it.
        self.frame_end = self.front.as_ref().map_or(0, |front| front.end);
        self.has_preamble = true;
    }

    /// Puts frames that hold no publication ahead of all others, but for the answer to an upgrade. Of
    /// the others nothing may have been written.
    pub fn push_first(&mut self, frames: &Arc<Frames>) {
        let end = frames.bytes().len() as u32;
        if self.has_close || end == 0 {
            return;
        }
        self.level.bytes += end as usize;
        let first = Entry {
            frames: Arc::clone(frames),
            start: 0,
            end,
            publications: 0,
        };
        let behind = if self.has_preamble {
            Some(first)
        } else {
            debug_assert!(self.front.as_ref().is_none_or(|front| front.start == 0));
            self.frame_end = 0;
            self.front.replace(first)
        };
        if let Some(behind) = behind {
            self.rest.get_or_insert_default().0.push_front(behind);
        }
    }

    /// Queues a ping, unless one is waiting already.
    pub fn push_ping(&mut self) {
        if !self.has_close && self.ping == Ping::None {
            self.ping = Ping::Waiting;
        }
    }

    /// Queues a close frame behind everything that is waiting.
    pub fn push_close(&mut self, frame: Vec<u8>) {
        self.push_whole(&Frames::whole(frame));
        self.has_close = true;
    }

    /// Drops everything that is waiting except the frame in flight, and the answer to an upgrade,
    /// which counts as one. Returns the number of publications dropped.
    pub fn drop_backlog(&mut self) -> usize {
        let before = self.level.publications;
        if let (Some(front), true) = (&self.front, self.has_preamble) {
            self.frame_end = front.end;
        }
        self.front.take_if(|front| self.frame_end == front.start);
        self.rest = None;
        self.level = Level::default();
        if let Some(front) = &mut self.front {
            front.end = self.frame_end;
            front.publications = front.publications.min(1);
            front.let_go();
            self.frame_end = front.end;
            self.level.bytes = (front.end - front.start) as usize;
            self.level.publications = front.publications as usize;
        }
        before - self.level.publications
    }

    /// Drops everything, as if nothing had been pushed. Only for a queue of which nothing was
    /// written.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Drops everything, and takes nothing any more: the connection is over.
    pub fn end(&mut self) {
        *self = Self {
            has_close: true,
            ..Self::default()
        };
    }

    /// What to write next if that is one piece, as it is nearly always.
    #[must_use]
    pub fn lone_piece(&self) -> Option<&[u8]> {
        match (&self.front, &self.lane, self.ping) {
            (Some(front), None, Ping::None) => {
                let is_lone = self.rest().next().is_none();
                is_lone.then(|| &front.frames.bytes()[front.start as usize..front.end as usize])
            }
            (None, None, Ping::Waiting) => Some(&PING),
            _ => None,
        }
    }

    /// Fills `slices` with what to write next and returns how many were filled.
    #[must_use]
    pub fn fill<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut filled = 0;
        let mut put = |bytes: &'a [u8]| {
            if !bytes.is_empty() && filled < slices.len() {
                slices[filled] = IoSlice::new(bytes);
                filled += 1;
            }
            filled < slices.len()
        };
        if self.has_control() {
            if let Some(front) = &self.front {
                put(&front.frames.bytes()[front.start as usize..self.frame_end as usize]);
            }
            if self.ping == Ping::Begun {
                put(&PING[1..]);
            }
            let mut written = self.lane.as_ref().map_or(0, |lane| lane.written);
            for pong in self.lane.iter().flat_map(|lane| &lane.pongs) {
                if !put(&pong[written..]) {
                    return filled;
                }
                written = 0;
            }
            if self.ping == Ping::Waiting {
                put(&PING);
            }
            if let Some(front) = &self.front {
                put(&front.frames.bytes()[self.frame_end as usize..front.end as usize]);
            }
        } else if let Some(front) = &self.front {
            put(&front.frames.bytes()[front.start as usize..front.end as usize]);
        }
        for entry in self.rest() {
            if !put(&entry.frames.bytes()[entry.start as usize..entry.end as usize]) {
                break;
            }
        }
        filled
    }

    /// Takes note that the first `written` bytes of what [`SendQueue::fill`] gave were written.
    pub fn advance(&mut self, mut written: usize) {
        if self.has_control() {
            written = self.advance_front(written, true);
            if self.ping == Ping::Begun && written > 0 {
                self.ping = Ping::None;
                written -= 1;
            }
            written = self.advance_lane(written);
            if self.ping == Ping::Waiting && written > 0 {
                self.ping = if written == 1 {
                    Ping::Begun
                } else {
                    Ping::None
                };
                written -= written.min(PING.len());
            }
        }
        while written > 0 && self.front.is_some() {
            written = self.advance_front(written, false);
        }
        debug_assert_eq!(written, 0, "more was written than was queued");
        if self.front.is_none()
            && let Some(rest) = &self.rest
            && rest.0.capacity() > ENTRIES_KEPT
        {
            self.rest = None;
        }
    }

    /// Whether nothing is waiting.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.front.is_none() && !self.has_control()
    }

    /// What is waiting, control frames aside.
    #[must_use]
    pub fn level(&self) -> Level {
        self.level
    }

    /// Memory that the queue takes, in bytes: its own, and its share of what it has in common with
    /// other queues. Looks at every entry.
    #[must_use]
    pub fn footprint(&self) -> usize {
        let share = |entry: &Entry| entry.frames.bytes().len() / Arc::strong_count(&entry.frames);
        let shares: usize = self.front.iter().chain(self.rest()).map(share).sum();
        shares + self.places_bytes()
    }

    /// What it would take if it had nothing in common with others, in bytes: what is queued, and the
    /// places of the entries, which are most of it where publications are small.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.level.bytes + self.places_bytes()
    }

    fn places_bytes(&self) -> usize {
        let places = self.rest.as_ref().map_or(0, |rest| rest.0.capacity());
        places * size_of::<Entry>()
    }

    /// Asserts the invariants; for tests and debug builds.
    pub fn check_invariants(&self) {
        let mut level = Level::default();
        for entry in self.front.iter().chain(self.rest()) {
            assert!(entry.start < entry.end, "a finished entry must be gone");
            level.bytes += (entry.end - entry.start) as usize;
            level.publications += entry.publications as usize;
        }
        assert_eq!(
            level, self.level,
            "the level must be the sum of the entries"
        );
        assert!(self.front.is_some() || self.rest().next().is_none());
        if let Some(front) = &self.front {
            let boundary = front.frames.boundary_from(front.start);
            let expected = if self.has_preamble {
                front.end
            } else {
                boundary
            };
            assert_eq!(self.frame_end, expected);
        }
        if let Some(lane) = &self.lane {
            assert!(!lane.pongs.is_empty(), "an empty lane must be gone");
            // One more may be in flight.
            assert!(lane.pongs.len() <= PONGS_MAX + 1);
            assert!(
                lane.written == 0 || self.ping != Ping::Begun,
                "two control frames are in flight"
            );
        }
    }

    /// The entries behind the first.
    fn rest(&self) -> impl Iterator<Item = &Entry> {
        self.rest.iter().flat_map(|rest| &rest.0)
    }

    fn has_control(&self) -> bool {
        self.lane.is_some() || self.ping != Ping::None
    }

    /// Advances within the first entry, to its frame's end at most if `frame_only`.
    fn advance_front(&mut self, written: usize, frame_only: bool) -> usize {
        let Some(front) = &mut self.front else {
            return written;
        };
        let limit = if frame_only {
            self.frame_end
        } else {
            front.end
        };
        let step = written.min((limit - front.start) as usize);
        front.start += step as u32;
        self.level.bytes -= step;
        if front.start == front.end {
            self.level.publications -= front.publications as usize;
            self.front = self.rest.as_mut().and_then(|rest| rest.0.pop_front());
            self.has_preamble = false;
            self.frame_end = self.front.as_ref().map_or(0, |next| next.start);
        } else if step > 0 {
            self.frame_end = front.frames.boundary_from(front.start);
        }
        written - step
    }

    fn advance_lane(&mut self, mut written: usize) -> usize {
        let Some(lane) = &mut self.lane else {
            return written;
        };
        while let Some(pong) = lane.pongs.front() {
            let step = written.min(pong.len() - lane.written);
            lane.written += step;
            written -= step;
            if lane.written < pong.len() {
                return written;
            }
            lane.written = 0;
            lane.pongs.pop_front();
        }
        self.lane = None;
        written
    }
}

impl Rest {
    /// Appends an entry. A long queue grows by an eighth and not by its double: those of stalled
    /// members of a room are of one length, and would all be doubled by one publication.
    fn push_back(&mut self, entry: Entry) {
        let Self(entries) = self;
        if entries.len() == entries.capacity() && entries.len() >= ENTRIES_KEPT {
            entries.reserve_exact(entries.len() / 8);
        }
        entries.push_back(entry);
    }
}

impl Entry {
    /// Keeps no more than is left of it, where that is less than its share of what it has in common
    /// with others: a room of members that do not read may all be amid the same frame.
    fn let_go(&mut self) {
        // With the byte before, so that what is left of a frame does not look like a whole one.
        let from = self.start.saturating_sub(1);
        let left = &self.frames.bytes()[from as usize..self.end as usize];
        let owners = Arc::strong_count(&self.frames).max(2);
        if left.len() < self.frames.bytes().len() / owners {
            self.frames = Frames::whole(left.to_vec());
            self.start -= from;
            self.end -= from;
        }
    }
}

impl Replies for SendQueue {
    fn pong(&mut self, frame: &[u8]) {
        if self.has_close {
            return;
        }
        let lane = self.lane.get_or_insert_default();
        let unsent = lane.pongs.len() - usize::from(lane.written > 0);
        if unsent < PONGS_MAX {
            lane.pongs.push_back(frame.into());
        } else if let Some(newest) = lane.pongs.back_mut() {
            *newest = frame.into();
        }
    }
}

/// Most pongs that wait to be sent; 2 KiB at most.
const PONGS_MAX: usize = 16;

/// Room for this many entries stays allocated in an empty queue.
const ENTRIES_KEPT: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::frame::{FramesBuilder, PayloadKind, close};

    fn merged(texts: &[&str]) -> Arc<Frames> {
        let mut builder = FramesBuilder::default();
        for text in texts {
            builder.push(PayloadKind::Text, text.as_bytes());
        }
        builder.take()
    }

    fn push(queue: &mut SendQueue, frames: &Arc<Frames>) {
        queue.push(frames, frames.count() as u32);
    }

    /// Writes up to `len` bytes, as a socket with that much room would take them.
    fn write(queue: &mut SendQueue, len: usize) -> Vec<u8> {
        let mut slices = [IoSlice::new(&[]); 8];
        let filled = queue.fill(&mut slices);
        let mut bytes: Vec<u8> = slices[..filled]
            .iter()
            .flat_map(|slice| slice.iter().copied())
            .collect();
        bytes.truncate(len);
        queue.advance(bytes.len());
        queue.check_invariants();
        bytes
    }

    fn drain(queue: &mut SendQueue, step: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while !queue.is_empty() {
            bytes.extend(write(queue, step));
        }
        bytes
    }

    #[test]
    fn nothing_is_taken_once_the_connection_is_over() {
        let mut queue = SendQueue::default();
        push(&mut queue, &merged(&["a", "b"]));
        queue.push_ping();
        queue.end();
        assert!(queue.is_empty());
        push(&mut queue, &merged(&["an answer that comes late"]));
        queue.push_ping();
        queue.pong(&[0x8a, 0]);
        queue.push_close(close(1000, "bye"));
        assert!(queue.is_empty());
        queue.check_invariants();
    }

    #[test]
    fn bytes_come_out_in_order_however_little_is_taken() {
        for step in 1..40 {
            let mut queue = SendQueue::default();
            let first = merged(&["a", "", "ccc"]);
            let second = merged(&["dd"]);
            push(&mut queue, &first);
            push(&mut queue, &second);
            let third = first.select(|index| index == 2);
            queue.push(&third, 1);
            assert_eq!(
                queue.level(),
                Level {
                    bytes: 10 + 4 + 5,
                    publications: 5
                }
            );
            let expected = [first.bytes(), second.bytes(), &first.bytes()[5..]].concat();
            assert_eq!(drain(&mut queue, step), expected, "step {step}");
            assert_eq!(queue.level(), Level::default());
        }
    }

    #[test]
    fn a_control_frame_waits_for_the_frame_in_flight_only() {
        let frames = merged(&["aaaa", "bbbb"]);
        for written in 0..frames.bytes().len() {
            let mut queue = SendQueue::default();
            push(&mut queue, &frames);
            let mut bytes = write(&mut queue, written);
            queue.push_ping();
            queue.push_ping();
            bytes.extend(drain(&mut queue, 3));
            let boundary = frames.boundary_from(written as u32) as usize;
            let expected = [
                &frames.bytes()[..boundary],
                &PING,
                &frames.bytes()[boundary..],
            ];
            assert_eq!(bytes, expected.concat(), "written {written}");
        }
    }

    #[test]
    fn control_frames_are_never_mixed() {
        let pong = |number| [0x8a, 1, number];
        let publication = [0x81, 1, b'x'];
        for cut in 0..=publication.len() + PING.len() + pong(0).len() {
            // Whole frames, whatever was in flight when the next control frame came.
            let mut queue = SendQueue::default();
            push(&mut queue, &merged(&["x"]));
            queue.push_ping();
            let mut bytes = write(&mut queue, cut);
            queue.pong(&pong(0));
            bytes.extend(write(&mut queue, 1));
            queue.push_ping();
            queue.pong(&pong(1));
            bytes.extend(drain(&mut queue, 1));
            let (mut rest, mut pings, mut pongs) = (&bytes[..], 0, Vec::new());
            while let Some((frame, behind)) = rest.split_at_checked(2 + usize::from(rest[1])) {
                match frame {
                    [0x89, 0] => pings += 1,
                    [0x8a, 1, number] => pongs.push(*number),
                    _ => assert_eq!(frame, publication, "cut {cut}: {bytes:?}"),
                }
                rest = behind;
                if rest.is_empty() {
                    break;
                }
            }
            assert!(
                rest.is_empty() && (1..=2).contains(&pings),
                "cut {cut}: {bytes:?}"
            );
            assert_eq!(pongs, [0, 1], "cut {cut}");
        }
    }

    #[test]
    fn a_ping_alone_is_one_piece() {
        let mut queue = SendQueue::default();
        queue.push_ping();
        assert_eq!(queue.lone_piece(), Some(&PING[..]));
        queue.advance(1);
        assert_eq!(queue.lone_piece(), None);
        assert_eq!(write(&mut queue, 9), PING[1..]);
        assert!(queue.is_empty());
    }

    #[test]
    fn a_flood_of_pings_leaves_the_oldest_pongs_and_the_newest() {
        let mut queue = SendQueue::default();
        for number in 0..100 {
            queue.pong(&[0x8a, 1, number]);
            queue.check_invariants();
        }
        assert_eq!(write(&mut queue, 1), [0x8a]);
        for number in 100..110 {
            queue.pong(&[0x8a, 1, number]);
            queue.check_invariants();
        }
        let pongs = drain(&mut queue, 9);
        let numbers: Vec<u8> = pongs.iter().copied().skip(1).step_by(3).collect();
        assert_eq!(
            numbers[..15],
            [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]
        );
        assert_eq!(numbers[15..], [99, 109]);
    }

    #[test]
    fn nothing_follows_a_close() {
        let frames = merged(&["aaaa", "bbbb"]);
        let bye = close(3001, "shutdown");
        let mut queue = SendQueue::default();
        push(&mut queue, &frames);
        queue.push_close(bye.clone());
        push(&mut queue, &frames);
        queue.push_ping();
        queue.pong(&[0x8a, 0]);
        queue.push_close(bye.clone());
        assert_eq!(drain(&mut queue, 100), [frames.bytes(), &bye].concat());
        push(&mut queue, &frames);
        assert!(queue.is_empty());
    }

    #[test]
    fn nothing_follows_the_end() {
        let frames = merged(&["aaaa", "bbbb"]);
        let bye = close(3001, "shutdown");
        let mut queue = SendQueue::default();
        push(&mut queue, &frames);
        queue.push_close(bye.clone());
        queue.end();
        push(&mut queue, &frames);
        queue.push_first(&frames);
        queue.push_ping();
        queue.pong(&[0x8a, 0]);
        queue.push_close(bye);
        assert!(queue.is_empty());
        queue.check_invariants();
    }

    #[test]
    fn the_answer_to_an_upgrade_is_first_and_never_dropped() {
        let frames = merged(&["aaaa"]);
        let bye = close(3008, "slow");
        for written in 0..=3 {
            let mut queue = SendQueue::default();
            queue.push_preamble(b"101".to_vec());
            queue.push_ping();
            queue.pong(b"\x8a\0");
            push(&mut queue, &frames);
            let mut bytes = write(&mut queue, written);
            assert_eq!(queue.drop_backlog(), 1, "written {written}");
            queue.push_close(bye.clone());
            queue.check_invariants();
            bytes.extend(drain(&mut queue, 100));
            let controls = b"\x8a\0\x89\0";
            assert_eq!(
                bytes,
                [b"101", &controls[..], &bye].concat(),
                "written {written}"
            );
        }
    }

    #[test]
    fn closing_now_keeps_only_the_frame_in_flight() {
        let frames = merged(&["aaaa", "bbbb", "cccc"]);
        let bye = close(3008, "slow");
        for (written, kept, dropped) in [(0, 0, 6), (1, 6, 5), (6, 6, 6), (7, 12, 5)] {
            let mut queue = SendQueue::default();
            push(&mut queue, &frames);
            push(&mut queue, &frames);
            let mut bytes = write(&mut queue, written);
            assert_eq!(queue.drop_backlog(), dropped, "written {written}");
            queue.push_close(bye.clone());
            queue.check_invariants();
            bytes.extend(drain(&mut queue, 100));
            assert_eq!(
                bytes,
                [&frames.bytes()[..kept], &bye].concat(),
                "written {written}"
            );
        }
    }

    #[test]
    fn a_queue_takes_its_places_and_its_share_of_the_bytes() {
        let frames = Frames::whole(vec![0; 1000]);
        let mut queues = [SendQueue::default(), SendQueue::default()];
        for queue in &mut queues {
            queue.push(&frames, 1);
        }
        // Two queues and the test.
        assert_eq!(queues[0].footprint(), 333);
        drop(frames);
        assert_eq!(queues[0].footprint(), 500);
        queues[1].push(&Frames::whole(vec![0; 100]), 1);
        let places = 4 * size_of::<Entry>();
        assert_eq!(queues[1].footprint(), 600 + places);
        let [alone, other] = queues;
        drop(other);
        assert_eq!(alone.footprint(), 1000);
    }

    #[test]
    fn queues_amid_one_frame_do_not_take_a_copy_each_when_they_are_closed() {
        const QUEUES: usize = 100;
        for written in [1, 5_000, 9_950, 9_999] {
            let frames = Frames::whole(vec![7; 10_000]);
            let mut queues = Vec::new();
            for _ in 0..QUEUES {
                let mut queue = SendQueue::default();
                queue.push(&frames, 1);
                queue.push(&frames, 1);
                write(&mut queue, written);
                queues.push(queue);
            }
            drop(frames);
            for queue in &mut queues {
                assert_eq!(queue.drop_backlog(), 1);
            }
            // The frame, if some stay with it, and no more in copies than it has.
            let bytes: usize = queues.iter().map(SendQueue::footprint).sum();
            assert!(bytes <= 20_000, "{bytes} bytes, {written} written");
            for queue in &mut queues {
                assert_eq!(drain(queue, 1000).len(), 10_000 - written);
            }
        }
    }

    #[test]
    fn the_weight_of_small_publications_is_that_of_their_places() {
        let frames = Frames::whole(vec![0; 10]);
        let mut queue = SendQueue::default();
        for _ in 0..1000 {
            queue.push(&frames, 1);
        }
        let places = size_of::<Entry>() * 999..size_of::<Entry>() * 1200;
        assert!(
            places.contains(&(queue.weight() - 10_000)),
            "{}",
            queue.weight()
        );
        queue.drop_backlog();
        assert_eq!(queue.weight(), 0);
    }

    #[test]
    fn long_queues_of_one_length_do_not_double_together() {
        let frames = Frames::whole(vec![0; 10]);
        let mut queue = SendQueue::default();
        for pushed in 1..10_000 {
            queue.push(&frames, 1);
            let places = queue.rest.as_ref().map_or(0, |rest| rest.0.capacity());
            assert!(
                places <= (pushed + pushed / 8).max(2 * ENTRIES_KEPT),
                "{places} for {pushed}"
            );
        }
        drain(&mut queue, 1 << 20);
    }

    #[test]
    fn what_is_left_of_a_frame_keeps_no_merge_in_memory() {
        for (written, expected) in [(1, "1/3"), (4, "1/3"), (5, ""), (6, "2/3"), (14, "3/3")] {
            let frames = merged(&["1/3", "2/3", "3/3"]);
            let mut queue = SendQueue::default();
            push(&mut queue, &frames);
            let mut bytes = write(&mut queue, written);
            queue.drop_backlog();
            queue.check_invariants();
            assert_eq!(Arc::strong_count(&frames), 1, "{written}");
            // A ping waits for the end of the frame, as before.
            queue.push_ping();
            bytes.extend(drain(&mut queue, 1));
            assert!(bytes.ends_with(&PING), "{written}");
            bytes.truncate(bytes.len() - PING.len());
            assert!(bytes.ends_with(expected.as_bytes()), "{written}: {bytes:?}");
            assert_eq!(bytes.len() % 5, 0, "{written}: whole frames");
        }
    }
}
