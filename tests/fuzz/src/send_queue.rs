//! The send queue against a model that keeps every frame by itself: content, order, what a close and
//! a dropped backlog leave, and the level.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::Arc;

use roomcast::conn::send_queue::SendQueue;
use roomcast::wire::frame::{Frames, FramesBuilder, PayloadKind, close};
use roomcast::wire::websocket::Replies as _;

use super::input::Input;

/// Each byte is a step, with what it needs behind it.
pub fn check(data: &[u8]) {
    let mut input = Input(data);
    let mut pair = Pair::default();
    let is_upgraded = input.byte() & 1 == 1;
    if is_upgraded {
        let preamble = b"HTTP/1.1 101 Switching Protocols\r\n\r\n".to_vec();
        pair.model.push_entry(vec![preamble.clone()], 0);
        pair.model.has_preamble = true;
        pair.queue.push_preamble(preamble);
    }
    while !input.is_empty() {
        pair.step(&mut input);
        pair.compare();
    }
    while !pair.queue.is_empty() {
        pair.write(8, usize::MAX);
        pair.compare();
    }
    assert!(pair.model.is_empty(), "something was never offered");
}

/// A frame of a server, RFC 6455, section 5.2: whole, and not masked.
fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x80 | opcode];
    match payload.len() {
        len @ 0..126 => bytes.push(len as u8),
        len => {
            bytes.push(126);
            bytes.extend((len as u16).to_be_bytes());
        }
    }
    bytes.extend(payload);
    bytes
}

const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;

/// Most pongs that wait.
const PONGS_MAX: usize = 16;

#[derive(Default)]
struct Pair {
    queue: SendQueue,
    model: Model,
    /// Gives each message other bytes.
    messages: u32,
}

#[derive(Default)]
struct Model {
    /// Frames that are not begun, each with the entry it is of.
    frames: VecDeque<(u32, Vec<u8>)>,
    /// What is left of the frame in flight.
    in_flight: Option<(Kind, Vec<u8>)>,
    /// Publications of each entry that is not finished.
    publications: Vec<(u32, usize)>,
    entries: u32,
    pongs: VecDeque<Vec<u8>>,
    has_ping: bool,
    has_close: bool,
    has_preamble: bool,
    has_written: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    /// A frame of this entry.
    Data(u32),
    Pong,
    Ping,
}

impl Model {
    fn push_entry(&mut self, frames: Vec<Vec<u8>>, publications: usize) {
        if !self.has_close {
            self.entries += 1;
            self.publications.push((self.entries, publications));
            let entry = self.entries;
            self.frames
                .extend(frames.into_iter().map(|frame| (entry, frame)));
        }
    }

    fn push_first(&mut self, frames: Vec<Vec<u8>>) {
        if self.has_close {
            return;
        }
        self.entries += 1;
        self.publications.push((self.entries, 0));
        // Behind the answer to an upgrade, which is the first entry if it is not in flight.
        let is_behind = self.has_preamble && self.in_flight.is_none();
        for (place, frame) in frames.into_iter().enumerate() {
            let at = place + usize::from(is_behind);
            self.frames.insert(at, (self.entries, frame));
        }
    }

    fn is_empty(&self) -> bool {
        self.frames.is_empty()
            && self.in_flight.is_none()
            && self.pongs.is_empty()
            && !self.has_ping
    }

    /// All that is to be written, in order.
    fn stream(&self) -> Vec<u8> {
        let mut stream = Vec::new();
        let mut model = (
            self.frames.iter(),
            self.in_flight.as_ref().map(|(_, left)| left),
        );
        stream.extend(model.1.take().into_iter().flatten());
        // The answer to an upgrade is in flight from the first, though nothing of it is written.
        if self.has_preamble && self.in_flight.is_none() {
            stream.extend(model.0.next().into_iter().flat_map(|(_, frame)| frame));
        }
        stream.extend(self.pongs.iter().flatten());
        if self.has_ping {
            stream.extend(frame(PING, b""));
        }
        stream.extend(model.0.flat_map(|(_, frame)| frame));
        stream
    }

    /// The next frame to begin.
    fn begin(&mut self) -> Option<(Kind, Vec<u8>)> {
        if self.has_preamble
            && let Some((entry, frame)) = self.frames.pop_front()
        {
            return Some((Kind::Data(entry), frame));
        }
        if let Some(pong) = self.pongs.pop_front() {
            return Some((Kind::Pong, pong));
        }
        if std::mem::take(&mut self.has_ping) {
            return Some((Kind::Ping, frame(PING, b"")));
        }
        let (entry, frame) = self.frames.pop_front()?;
        Some((Kind::Data(entry), frame))
    }

    fn write(&mut self, mut bytes: usize) {
        self.has_written |= bytes > 0;
        while bytes > 0 {
            let (kind, mut left) = match self.in_flight.take() {
                Some(one) => one,
                None => self.begin().expect("something to write"),
            };
            let taken = bytes.min(left.len());
            bytes -= taken;
            left.drain(..taken);
            if !left.is_empty() {
                self.in_flight = Some((kind, left));
            } else if let Kind::Data(entry) = kind {
                self.has_preamble = false;
                if self.frames.iter().all(|(of, _)| *of != entry) {
                    self.publications.retain(|(of, _)| *of != entry);
                }
            }
        }
    }

    fn publications_len(&self) -> usize {
        self.publications.iter().map(|(_, count)| count).sum()
    }

    fn bytes_len(&self) -> usize {
        let in_flight = match &self.in_flight {
            Some((Kind::Data(_), left)) => left.len(),
            _ => 0,
        };
        in_flight
            + self
                .frames
                .iter()
                .map(|(_, frame)| frame.len())
                .sum::<usize>()
    }

    /// Keeps what is in flight; returns how many publications that are not is dropped.
    fn drop_backlog(&mut self) -> usize {
        let before = self.publications_len();
        let kept = match &self.in_flight {
            Some((Kind::Data(entry), _)) => Some(*entry),
            _ if self.has_preamble => self.frames.front().map(|(entry, _)| *entry),
            _ => None,
        };
        self.frames
            .retain(|(entry, _)| self.has_preamble && kept == Some(*entry));
        if self.in_flight.is_some() {
            self.frames.clear();
        }
        self.publications.retain(|(entry, _)| kept == Some(*entry));
        for (_, count) in &mut self.publications {
            *count = (*count).min(1);
        }
        before - self.publications_len()
    }
}

impl Pair {
    fn message(&mut self, len: u8) -> Vec<u8> {
        self.messages += 1;
        let mut payload = self.messages.to_be_bytes().to_vec();
        payload.resize(4 + usize::from(len), len);
        payload
    }

    /// One to four messages in one entry.
    fn entry(&mut self, input: &mut Input<'_>) -> (Arc<Frames>, Vec<Vec<u8>>) {
        let count = 1 + usize::from(input.byte() % 4);
        let mut builder = FramesBuilder::default();
        let mut frames = Vec::new();
        for _ in 0..count {
            let len = input.byte();
            let (kind, opcode) = match len % 2 {
                0 => (PayloadKind::Binary, BINARY),
                _ => (PayloadKind::Text, TEXT),
            };
            let payload = self.message(len);
            builder.push(kind, &payload);
            frames.push(frame(opcode, &payload));
        }
        (builder.take(), frames)
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.byte() % 16 {
            0..4 => {
                let (entry, frames) = self.entry(input);
                let publications = frames.len();
                self.queue.push(&entry, publications as u32);
                self.model.push_entry(frames, publications);
            }
            4 => {
                let (_, frames) = self.entry(input);
                let whole = frames.concat();
                self.queue.push_whole(&Frames::whole(whole.clone()));
                self.model.push_entry(vec![whole], 0);
            }
            5 => {
                // Only where nothing of the others is written.
                let is_fresh = self.model.has_preamble || !self.model.has_written;
                let (entry, frames) = self.entry(input);
                if is_fresh {
                    self.queue.push_first(&entry);
                    self.model.push_first(frames);
                }
            }
            6 => {
                self.queue.push_ping();
                self.model.has_ping |= !self.model.has_close && !self.ping_is_in_flight();
            }
            7 => {
                let payload = self.message(input.byte() % 100);
                let pong = [&[0x8a, payload.len() as u8], &payload[..]].concat();
                self.queue.pong(&pong);
                if !self.model.has_close {
                    if self.model.pongs.len() == PONGS_MAX {
                        self.model.pongs.pop_back();
                    }
                    self.model.pongs.push_back(pong);
                }
            }
            8 if input.byte().is_multiple_of(8) => {
                self.queue.push_close(close(1000, "bye"));
                let payload = [&1000_u16.to_be_bytes(), &b"bye"[..]].concat();
                self.model.push_entry(vec![frame(CLOSE, &payload)], 0);
                self.model.has_close = true;
            }
            9 if input.byte().is_multiple_of(4) => {
                assert_eq!(self.queue.drop_backlog(), self.model.drop_backlog());
            }
            10 if !self.model.has_written => {
                self.queue.clear();
                self.model = Model::default();
            }
            _ => {
                let slices = 1 + usize::from(input.byte() % 8);
                let bytes = match input.byte() {
                    byte @ 0..200 => usize::from(byte),
                    byte => usize::from(byte - 199) * 64,
                };
                self.write(slices, bytes);
            }
        }
    }

    fn ping_is_in_flight(&self) -> bool {
        matches!(self.model.in_flight, Some((Kind::Ping, _)))
    }

    /// Offers so many slices and takes so many bytes of them.
    fn write(&mut self, slices_len: usize, bytes: usize) {
        let mut slices = [IoSlice::new(&[]); 8];
        let filled = self.queue.fill(&mut slices[..slices_len]);
        let offered: Vec<u8> = slices[..filled]
            .iter()
            .flat_map(|slice| slice.iter().copied())
            .collect();
        let stream = self.model.stream();
        assert!(
            stream.starts_with(&offered),
            "{stream:?} is not what is offered: {offered:?}"
        );
        assert_eq!(offered.is_empty(), stream.is_empty());
        assert!(slices[..filled].iter().all(|slice| !slice.is_empty()));
        if let Some(piece) = self.queue.lone_piece() {
            assert_eq!(piece, stream, "a lone piece is all that waits");
        }
        let written = bytes.min(offered.len());
        self.queue.advance(written);
        self.model.write(written);
    }

    fn compare(&self) {
        self.queue.check_invariants();
        assert_eq!(self.queue.is_empty(), self.model.is_empty());
        let level = self.queue.level();
        assert_eq!(level.bytes, self.model.bytes_len());
        assert_eq!(level.publications, self.model.publications_len());
    }
}
