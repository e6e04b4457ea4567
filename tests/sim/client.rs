//! A simulated client: what it asked for, what it sent, what it received, and the pipe between it
//! and the hub. Its WebSocket code is its own, so that it cannot share a mistake with the server.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use roomcast::base::{ConnId, Prng};

/// What a client is there for.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) rooms: Vec<String>,
    pub(super) user: Option<String>,
    pub(super) to: Option<String>,
    pub(super) json: bool,
    pub(super) echo: bool,
    /// Where it was in each of its rooms before: room, epoch, offset.
    pub(super) since: Vec<(String, String, u64)>,
    /// How many of the newest publications it wants first.
    pub(super) last: Option<usize>,
    /// Connects to `/echo` instead.
    pub(super) is_echo_endpoint: bool,
}

/// One message as the client saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    Message { is_text: bool, payload: Vec<u8> },
    Ping,
    Pong,
    Close { code: u16 },
}

/// How far the client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Its request is sent; the answer has not come whole.
    Asking,
    /// It has seen 101.
    Open,
    /// It was answered otherwise.
    Refused,
}

pub(super) struct Client {
    pub(super) id: ConnId,
    pub(super) peer: SocketAddr,
    pub(super) plan: Plan,
    pub(super) stage: Stage,
    /// Bytes sent and not yet read by the server.
    pub(super) upstream: VecDeque<u8>,
    /// It has ended its direction.
    pub(super) has_ended: bool,
    /// The transport is broken.
    pub(super) is_reset: bool,
    /// Bytes written by the server and not yet read.
    pub(super) downstream: VecDeque<u8>,
    /// How many of them the kernel holds.
    pub(super) downstream_max: usize,
    /// The server was refused bytes and waits to hear that there is room.
    pub(super) awaits_room: bool,
    /// The server was refused bytes at some time.
    pub(super) was_refused: bool,
    /// It reads nothing.
    pub(super) is_stalled: bool,
    /// The server has told its shell not to read.
    pub(super) is_paused: bool,
    /// The server has closed the socket.
    pub(super) is_gone: bool,
    /// The server has ended its direction.
    pub(super) server_has_ended: bool,
    /// Whether it has broken a rule, so that nothing more is expected of it.
    pub(super) is_abusive: bool,
    pub(super) has_sent_close: bool,
    /// Received and not yet understood.
    input: Vec<u8>,
    /// Messages sent, as unique texts.
    pub(super) sent: Vec<String>,
    pub(super) seen: Vec<Seen>,
    /// Where each room's log stood when it joined; by room.
    pub(super) joined_at: Vec<(String, usize)>,
    /// Where the rooms' logs stood when the daemon, ending, closed it: all before that it is owed.
    pub(super) drained_at: Option<BTreeMap<String, usize>>,
    /// The daemon was ending when it came.
    pub(super) is_late: bool,
}

impl Client {
    pub(super) fn new(id: ConnId, peer: SocketAddr, plan: Plan, prng: &mut Prng) -> Self {
        let mut client = Self {
            id,
            peer,
            plan,
            stage: Stage::Asking,
            upstream: VecDeque::new(),
            has_ended: false,
            is_reset: false,
            downstream: VecDeque::new(),
            downstream_max: 100 + prng.below(4000) as usize,
            awaits_room: false,
            was_refused: false,
            is_stalled: false,
            is_paused: false,
            is_gone: false,
            server_has_ended: false,
            is_abusive: false,
            has_sent_close: false,
            input: Vec::new(),
            sent: Vec::new(),
            seen: Vec::new(),
            joined_at: Vec::new(),
            drained_at: None,
            is_late: false,
        };
        let request = client.request();
        client.upstream.extend(request.as_bytes());
        client
    }

    fn request(&self) -> String {
        let plan = &self.plan;
        let target = if plan.is_echo_endpoint {
            "/echo".to_owned()
        } else {
            let mut query: Vec<String> = plan
                .rooms
                .iter()
                .map(|room| format!("room={}", room.replace('#', "%23")))
                .collect();
            query.extend(plan.user.iter().map(|user| format!("user={user}")));
            query.extend(plan.to.iter().map(|user| format!("to={user}")));
            if plan.json {
                query.push("format=json".into());
            }
            for (room, epoch, offset) in &plan.since {
                let room = room.replace('#', "%23");
                query.push(format!("since={room}@{epoch}.{offset}"));
            }
            query.extend(plan.last.map(|count| format!("last={count}")));
            if !plan.echo {
                query.push("echo=0".into());
            }
            format!("/ws?{}", query.join("&"))
        };
        format!(
            "GET {target} HTTP/1.1\r\nHost: sim\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
    }

    /// Whether it still sends and what it sends is read.
    pub(super) fn is_sending(&self) -> bool {
        !(self.has_ended || self.is_reset || self.is_gone || self.has_sent_close || self.is_abusive)
    }

    /// Whether it is a WebSocket that neither side has begun to end.
    pub(super) fn is_alive(&self) -> bool {
        self.stage == Stage::Open
            && self.is_sending()
            && !self.server_has_ended
            && self.close_code().is_none()
    }

    /// Whether nothing that it is owed may be missing.
    pub(super) fn must_have_all(&self) -> bool {
        self.is_alive() || self.drained_at.is_some()
    }

    /// Sends one masked frame.
    pub(super) fn send_frame(&mut self, first: u8, payload: &[u8], key: [u8; 4]) {
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

    /// Takes up to `len` bytes from the pipe; returns whether there were any.
    pub(super) fn read(&mut self, len: usize) -> bool {
        let len = len.min(self.downstream.len());
        self.input.extend(self.downstream.drain(..len));
        self.understand();
        len > 0
    }

    fn understand(&mut self) {
        if self.stage == Stage::Asking {
            let Some(end) = self.input.windows(4).position(|four| four == b"\r\n\r\n") else {
                return;
            };
            let head: Vec<u8> = self.input.drain(..end + 4).collect();
            self.stage = if head.starts_with(b"HTTP/1.1 101 ") {
                Stage::Open
            } else {
                Stage::Refused
            };
        }
        if self.stage == Stage::Refused {
            self.input.clear();
            return;
        }
        while let Some((seen, used)) = decode(&self.input) {
            self.input.drain(..used);
            assert!(
                !matches!(self.seen.last(), Some(Seen::Close { .. })),
                "{}: {seen:?} after a close frame",
                self.id
            );
            self.seen.push(seen);
        }
    }

    /// Whether a frame was begun and not finished.
    pub(super) fn has_partial_input(&self) -> bool {
        !self.input.is_empty()
    }

    /// The code it was closed with.
    pub(super) fn close_code(&self) -> Option<u16> {
        match self.seen.last() {
            Some(Seen::Close { code }) => Some(*code),
            _ => None,
        }
    }
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
