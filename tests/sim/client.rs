//! A simulated client: what it asked for, what it sent, what it received, and the pipe between it
//! and the hub. Its WebSocket code is its own, so that it cannot share a mistake with the server.

use std::collections::{BTreeMap, VecDeque};
use std::io::Read as _;
use std::net::SocketAddr;
use std::time::Duration;

use roomcast::base::{CloseReason, ConnId, Instant, Now, Prng};

use super::commands::Commands;
use super::http::Exchanges;
use super::node::Admission;
use super::plan::{Endpoint, Plan};

/// One message as the client saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Message {
        is_text: bool,
        /// What it unpacked it to, if it was compressed.
        payload: Vec<u8>,
        was_compressed: bool,
    },
    Ping,
    Pong,
    Close {
        code: u16,
    },
}

/// How far the client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Nobody has accepted it yet.
    Waiting,
    /// Its request is sent; the answer has not come whole.
    Asking,
    /// It has seen 101.
    Open,
    /// It was answered otherwise, or dropped unheard.
    Refused,
    /// It speaks HTTP and nothing else.
    Plain,
}

/// A room that the client was made a member of.
#[derive(Clone, Debug)]
pub(crate) struct Join {
    pub(crate) room: String,
    /// Where the room's log stood.
    pub(crate) at: usize,
    /// The offset that the worker said; `None` until it has.
    pub(crate) offset: Option<u64>,
    /// From where on all was kept, if that can be known.
    pub(crate) kept_from: Option<usize>,
    /// From where on publications are newer than the time that it asked for.
    pub(crate) newer_from: Option<usize>,
    /// Where the log stood at the latest when it was taken out again.
    pub(crate) left_at: Option<usize>,
    /// It was taken out by the end of the daemon, and by nothing else.
    pub(crate) was_drained: bool,
    /// The offset up to which it was to be given what it had missed, as the worker said; `None` until
    /// it has.
    pub(crate) live_after: Option<u64>,
    /// From where on all was kept then, if that is certain; and whether that was looked at.
    pub(crate) kept_when_live: Option<usize>,
    pub(crate) is_kept_noted: bool,
}

impl Join {
    pub(crate) fn at(room: String, at: usize) -> Self {
        Self {
            room,
            at,
            offset: None,
            kept_from: None,
            newer_from: None,
            left_at: None,
            was_drained: false,
            live_after: None,
            kept_when_live: None,
            is_kept_noted: false,
        }
    }
}

pub(crate) struct Client {
    /// [`ConnId::NONE`] until it is accepted.
    pub(crate) id: ConnId,
    pub(crate) peer: SocketAddr,
    pub(crate) plan: Plan,
    pub(crate) admission: Admission,
    pub(crate) stage: Stage,
    /// Bytes sent and not yet read by the server.
    pub(crate) upstream: VecDeque<u8>,
    /// It has ended its direction.
    pub(crate) has_ended: bool,
    /// The transport is broken.
    pub(crate) is_reset: bool,
    /// Bytes written by the server and not yet read.
    pub(crate) downstream: VecDeque<u8>,
    /// How many of them the kernel holds.
    pub(crate) downstream_max: usize,
    /// The server was refused bytes and waits to hear that there is room.
    pub(crate) awaits_room: bool,
    /// The server was refused bytes at some time.
    pub(crate) was_refused: bool,
    /// It reads nothing.
    pub(crate) is_stalled: bool,
    /// The server has told its shell not to read.
    pub(crate) is_paused: bool,
    /// The server has seen the end of its direction.
    pub(crate) is_heard_out: bool,
    /// The server has closed the socket, and why.
    pub(crate) farewell: Option<CloseReason>,
    /// The server has ended its direction.
    pub(crate) server_has_ended: bool,
    /// It had to go since memory was short.
    pub(crate) is_closed_for_memory: bool,
    /// How much of its request for a WebSocket the server has not read.
    pub(crate) unasked: usize,
    /// Whether memory was short when the whole of it was read.
    pub(crate) asked_while_short: Option<bool>,
    /// What it was answered in the place of a WebSocket.
    pub(crate) refusal: Vec<u8>,
    /// What it may be closed with for having broken a rule; nothing more is expected of it.
    pub(crate) abuse: Option<&'static [u16]>,
    pub(crate) has_sent_close: bool,
    /// What its request for a WebSocket was answered with.
    pub(crate) status: Option<u16>,
    pub(crate) times: Times,
    /// There was no place for a room that it wanted.
    pub(crate) had_no_place: bool,
    /// It was closed while some of what it had missed was gone, or may have been.
    pub(crate) was_overtaken: bool,
    /// Behind how many bytes in all its answers to pings end that are on their way.
    pongs: VecDeque<u64>,
    /// How many bytes of it the server has read.
    heard_bytes: u64,
    /// Received and not yet understood.
    input: Vec<u8>,
    /// Messages sent, as unique texts.
    pub(crate) sent: Vec<String>,
    pub(crate) seen: Vec<Seen>,
    pub(crate) joins: Vec<Join>,
    /// Where the rooms' logs stood when the daemon, ending, closed it: all before that it is owed.
    pub(crate) drained_at: Option<BTreeMap<String, usize>>,
    /// The daemon was ending when it came.
    pub(crate) is_late: bool,
    pub(crate) commands: Commands,
    pub(crate) exchanges: Exchanges,
}

impl Client {
    pub(crate) fn new(peer: SocketAddr, plan: Plan, prng: &mut Prng) -> Self {
        let request = plan.request();
        let mut client = Self {
            id: ConnId::NONE,
            peer,
            admission: Admission::Dropped,
            stage: Stage::Waiting,
            upstream: VecDeque::new(),
            has_ended: false,
            is_reset: false,
            downstream: VecDeque::new(),
            downstream_max: 100 + prng.below(4000) as usize,
            awaits_room: false,
            was_refused: false,
            is_stalled: false,
            is_paused: false,
            is_heard_out: false,
            farewell: None,
            server_has_ended: false,
            is_closed_for_memory: false,
            unasked: request.len(),
            asked_while_short: None,
            refusal: Vec::new(),
            abuse: None,
            has_sent_close: false,
            status: None,
            times: Times {
                came: Instant::ORIGIN,
                heard: Instant::ORIGIN,
                ponged: None,
                gap: Duration::ZERO,
                pong_gap: Duration::ZERO,
                latest_unix_ms: 0,
                ended: None,
                unwritten: Duration::ZERO,
            },
            had_no_place: false,
            was_overtaken: false,
            pongs: VecDeque::new(),
            heard_bytes: 0,
            input: Vec::new(),
            sent: Vec::new(),
            seen: Vec::new(),
            joins: Vec::new(),
            drained_at: None,
            is_late: false,
            commands: Commands::default(),
            exchanges: Exchanges::default(),
            plan,
        };
        client.upstream.extend(request.as_bytes());
        if client.plan.endpoint == Endpoint::Commands {
            let token = client.plan.token.as_ref();
            let connect = client.commands.connect(token.map(|token| &*token.text));
            client.send_frame(0x81, connect.as_bytes(), [1, 2, 3, 4]);
        }
        client
    }

    /// Whether its socket is the server's.
    pub(crate) fn is_accepted(&self) -> bool {
        self.stage != Stage::Waiting && self.farewell.is_none()
    }

    /// Whether it had to go since memory was short, and is not gone.
    pub(crate) fn is_leaving_for_memory(&self) -> bool {
        self.is_closed_for_memory && self.farewell.is_none()
    }

    /// Whether it still sends and what it sends is read.
    pub(crate) fn is_sending(&self) -> bool {
        !(self.has_ended
            || self.is_reset
            || self.farewell.is_some()
            || self.has_sent_close
            || self.abuse.is_some())
    }

    /// Whether it is a WebSocket that neither side has begun to end.
    pub(crate) fn is_alive(&self) -> bool {
        self.stage == Stage::Open
            && self.is_sending()
            && !self.server_has_ended
            && self.close_code().is_none()
    }

    /// Whether nothing that it is owed may be missing.
    pub(crate) fn must_have_all(&self) -> bool {
        self.is_alive() || self.drained_at.is_some()
    }

    /// Whether nothing that it is owed of a room may be missing.
    pub(crate) fn is_owed_all(&self, join: &Join) -> bool {
        let is_in = join.left_at.is_none();
        self.must_have_all() && (is_in || (self.drained_at.is_some() && join.was_drained))
    }

    /// Whether the server has heard all of it, and then that there is no more.
    pub(crate) fn was_heard_out(&self) -> bool {
        self.is_heard_out && !self.is_reset && self.abuse.is_none()
    }

    /// Sends one masked frame.
    pub(crate) fn send_frame(&mut self, first: u8, payload: &[u8], key: [u8; 4]) {
        self.upstream.push_back(first);
        match payload.len() {
            len @ 0..126 => self.upstream.push_back(0x80 | len as u8),
            len @ 126..65_536 => {
                self.upstream.push_back(0x80 | 126);
                self.upstream.extend((len as u16).to_be_bytes());
            }
            len => {
                self.upstream.push_back(0x80 | 127);
                self.upstream.extend((len as u64).to_be_bytes());
            }
        }
        self.upstream.extend(key);
        let masked = payload
            .iter()
            .zip(key.iter().cycle())
            .map(|(byte, key)| byte ^ key);
        self.upstream.extend(masked);
    }

    /// Takes up to `len` bytes from the pipe; returns how many there were.
    pub(crate) fn read(&mut self, len: usize) -> usize {
        let len = len.min(self.downstream.len());
        self.input.extend(self.downstream.drain(..len));
        if len > 0 {
            self.understand();
        }
        len
    }

    fn understand(&mut self) {
        if self.stage == Stage::Asking {
            let Some(end) = self.input.windows(4).position(|four| four == b"\r\n\r\n") else {
                return;
            };
            let head: Vec<u8> = self.input.drain(..end + 4).collect();
            let status = status_of(&head).expect("a status");
            self.status = Some(status);
            self.stage = if status == 101 {
                Stage::Open
            } else {
                self.refusal = head;
                Stage::Refused
            };
        }
        match self.stage {
            Stage::Refused => self.refusal.append(&mut self.input),
            Stage::Plain => self.exchanges.understand(&mut self.input),
            _ => self.understand_frames(),
        }
    }

    fn understand_frames(&mut self) {
        let mut used = 0;
        while let Some((mut seen, len)) = decode(&self.input[used..]) {
            used += len;
            assert!(
                !matches!(self.seen.last(), Some(Seen::Close { .. })),
                "{}: {seen:?} after a close frame",
                self.id
            );
            if self.plan.gzip {
                unpack(&mut seen);
            }
            self.answer(&seen);
            self.seen.push(seen);
        }
        self.input.drain(..used);
    }

    /// Does at once what the protocol asks of it.
    fn answer(&mut self, seen: &Seen) {
        let mut has_pinged = matches!(seen, Seen::Ping);
        if self.plan.endpoint == Endpoint::Commands
            && let Seen::Message {
                payload, is_text, ..
            } = seen
        {
            assert!(is_text, "{}: JSON in a binary message", self.id);
            has_pinged = self.commands.understand(payload);
            if has_pinged && self.is_sending() && !self.plan.is_mute {
                self.send_frame(0x81, b"{}", [4, 3, 2, 1]);
                let end = self.heard_bytes + self.upstream.len() as u64;
                self.pongs.push_back(end);
            }
        } else if has_pinged && self.is_sending() && !self.plan.is_mute {
            self.send_frame(0x8a, b"", [4, 3, 2, 1]);
        }
    }

    /// The server takes up to `len` bytes of what it has sent.
    pub(crate) fn hear(&mut self, now: Now, len: usize) -> Vec<u8> {
        let bytes: Vec<u8> = self.upstream.drain(..len).collect();
        self.heard_bytes += len as u64;
        if self.times.ended.is_some() {
            return bytes;
        }
        let gap = now.instant.saturating_duration_since(self.times.heard);
        self.times.gap = self.times.gap.max(gap);
        self.times.heard = now.instant;
        self.times.latest_unix_ms = self.times.latest_unix_ms.max(now.unix_ms);
        while self
            .pongs
            .front()
            .is_some_and(|end| *end <= self.heard_bytes)
        {
            self.pongs.pop_front();
            self.times.pong_gap = self.times.pong_gap.max(self.pongless(now));
            self.times.ponged = Some(now.instant);
        }
        bytes
    }

    /// Whether it is over, or told to go.
    pub(crate) fn has_found_its_end(&self) -> bool {
        self.farewell.is_some() || self.close_code().is_some()
    }

    /// For how long the server had not heard of it when it told it to go, at most; it may have been
    /// heard since.
    pub(crate) fn silence(&self, now: Now) -> Duration {
        let end = self.times.ended.unwrap_or(now.instant);
        let silence = end.saturating_duration_since(self.times.heard);
        silence.max(self.times.gap)
    }

    /// The same of its answers to pings of Centrifugo's.
    pub(crate) fn pongless(&self, now: Now) -> Duration {
        let end = self.times.ended.unwrap_or(now.instant);
        let since = self.times.ponged.unwrap_or(self.times.came);
        end.saturating_duration_since(since)
            .max(self.times.pong_gap)
    }

    /// All is written that there was for it: if it has read that and was not told to go, nothing of
    /// before is a reason to.
    pub(crate) fn note_written(&mut self) {
        if self.downstream.is_empty() && !self.has_found_its_end() {
            self.times.gap = Duration::ZERO;
            self.times.pong_gap = Duration::ZERO;
        }
    }

    /// Whether it could not be told anything, for its own doing or its shell's.
    pub(crate) fn is_deaf(&self, linger: Duration) -> bool {
        let is_its_own = self.is_reset || self.was_refused || self.has_ended;
        is_its_own || self.times.unwritten >= linger
    }

    /// How old it was then.
    pub(crate) fn age(&self, now: Now) -> Duration {
        let end = self.times.ended.unwrap_or(now.instant);
        end.saturating_duration_since(self.times.came)
    }

    /// The first join of a room that the worker has not answered.
    pub(crate) fn join_in_progress(&mut self, room: &str) -> Option<&mut Join> {
        let mut joins = self.joins.iter_mut();
        joins.find(|join| join.room == room && join.offset.is_none())
    }

    /// A room was not joined.
    pub(crate) fn forget_join(&mut self, room: &str) {
        let mut joins = self.joins.iter();
        let place = joins.position(|join| join.room == room && join.offset.is_none());
        if let Some(place) = place {
            self.joins.remove(place);
        }
    }

    /// It was taken out of a room, which stood at `at` then.
    pub(crate) fn note_left(&mut self, room: &str, at: usize, was_drained: bool) {
        let mut joins = self.joins.iter_mut();
        let join = joins.find(|join| join.room == room && join.left_at.is_none());
        if let Some(join) = join {
            join.left_at = Some(at);
            join.was_drained = was_drained;
        }
    }

    /// It is live in a room, of which it was given or told all up to an offset.
    pub(crate) fn note_live(&mut self, room: &str, offset: u64) {
        let mut joins = self.joins.iter_mut().rev();
        let join = joins.find(|join| join.room == room && join.live_after.is_none());
        if let Some(join) = join {
            join.live_after = Some(offset);
        }
    }

    /// Whether a frame was begun and not finished.
    pub(crate) fn has_partial_input(&self) -> bool {
        !self.input.is_empty()
    }

    /// Whether it was told nothing but to go.
    pub(crate) fn was_closed_at_once(&self) -> bool {
        matches!(self.seen[..], [Seen::Close { .. }])
    }

    /// The code it was closed with.
    pub(crate) fn close_code(&self) -> Option<u16> {
        match self.seen.last() {
            Some(Seen::Close { code }) => Some(*code),
            _ => None,
        }
    }
}

/// When what happened to a client, as the world has seen it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    /// It was accepted.
    pub(crate) came: Instant,
    /// The server has last read something of it, and an answer to a ping of Centrifugo's.
    pub(crate) heard: Instant,
    pub(crate) ponged: Option<Instant>,
    /// The longest time between two of either, as far as it may yet be a reason.
    gap: Duration,
    pong_gap: Duration,
    /// The latest that the wall clock has said when something of it was read.
    pub(crate) latest_unix_ms: u64,
    /// It has found that it is over, or that it is to go.
    pub(crate) ended: Option<Instant>,
    /// For how long the shell had not come to write all that there was, then.
    pub(crate) unwritten: Duration,
}

/// The status of an answer.
pub(crate) fn status_of(head: &[u8]) -> Option<u16> {
    let rest = head.strip_prefix(b"HTTP/1.1 ")?.get(..3)?;
    std::str::from_utf8(rest).ok()?.parse().ok()
}

/// One whole server frame from the front of `bytes`.
fn decode(bytes: &[u8]) -> Option<(Seen, usize)> {
    let (&first, &second) = (bytes.first()?, bytes.get(1)?);
    assert_eq!(second & 0x80, 0, "a server frame must not be masked");
    let (len, start) = match second {
        126 => (
            u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?) as usize,
            4,
        ),
        127 => (
            u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?) as usize,
            10,
        ),
        len => (len as usize, 2),
    };
    let payload = bytes.get(start..start + len)?.to_vec();
    let seen = match first {
        0x81 | 0x82 => Seen::Message {
            is_text: first == 0x81,
            payload,
            was_compressed: false,
        },
        0x88 => Seen::Close {
            code: payload
                .get(..2)
                .map_or(1005, |code| u16::from_be_bytes([code[0], code[1]])),
        },
        0x89 => Seen::Ping,
        0x8a => Seen::Pong,
        _ => panic!("a server frame must not begin with {first:#x}"),
    };
    Some((seen, start + len))
}

/// Unpacks what is compressed; no content of the simulator begins like gzip.
fn unpack(seen: &mut Seen) {
    if let Seen::Message {
        is_text: false,
        payload,
        was_compressed,
    } = seen
        && payload.starts_with(&[0x1f, 0x8b])
    {
        let mut plain = Vec::new();
        let mut decoder = flate2::read::GzDecoder::new(&payload[..]);
        decoder.read_to_end(&mut plain).expect("one gzip member");
        *payload = plain;
        *was_compressed = true;
    }
}
