//! Thousands of members of one room, each with a ledger that is checked as it is written.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::ops::{Range, RangeInclusive};
use std::time::{Duration, Instant};

use serde_json::Value;
use socket2::{Domain, SockRef, Socket, Type};

use super::{Api, DEADLINE, Frame, breathe, opcode, upgrade_request};

/// Addresses that the connections of a crowd come from, from 127.0.0.10 on: the ports of one would
/// run short.
const SOURCES: usize = 16;

/// Threads that serve a crowd.
const THREADS: usize = 2;

/// Connections made before those that are there are read again: they may be pinged meanwhile.
const DIALS: usize = 200;

/// Members of one room that receive JSON envelopes. A publication begins with its offset, which may be
/// followed by a space and anything.
///
/// Nothing is read but by the calls below, and nothing that they read is let pass: an offset that is
/// not the next, data that is not the offset's and an envelope of another kind fail the test at once.
pub(crate) struct Crowd {
    addr: SocketAddr,
    room: String,
    receive_bytes: Option<usize>,
    seats: Vec<Seat>,
}

/// One member.
struct Seat {
    number: usize,
    link: Option<TcpStream>,
    buffer: Vec<u8>,
    is_upgraded: bool,
    /// What was told on this connection.
    joined: Option<Joined>,
    /// The epoch, and the last offset received or, before any, joined at.
    position: Option<(String, u64)>,
    /// The offset of the first publication on this connection.
    first: Option<u64>,
    pings: u64,
    close: Option<(u16, String)>,
}

/// What a member was told when it joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Joined {
    pub(crate) epoch: String,
    pub(crate) offset: u64,
    pub(crate) recovered: bool,
    pub(crate) lost: i64,
}

impl Crowd {
    /// Connects `count` members at once and waits until each has joined.
    pub(crate) fn join(addr: SocketAddr, room: &str, count: usize) -> Self {
        Self::join_narrow(addr, room, count, None)
    }

    /// The same with receive buffers of about so many bytes.
    pub(crate) fn join_narrow(
        addr: SocketAddr,
        room: &str,
        count: usize,
        receive_bytes: Option<usize>,
    ) -> Self {
        let seats = (0..count).map(|number| Seat {
            number,
            link: None,
            buffer: Vec::new(),
            is_upgraded: false,
            joined: None,
            position: None,
            first: None,
            pings: 0,
            close: None,
        });
        let mut crowd = Self {
            addr,
            room: room.to_owned(),
            receive_bytes,
            seats: seats.collect(),
        };
        crowd.come_back(
            addr,
            2 * DEADLINE + Duration::from_millis(4) * u32::try_from(count).unwrap_or(0),
        );
        crowd
    }

    /// Connects all members at once, each with its position, and waits until each has joined.
    pub(crate) fn come_back(&mut self, addr: SocketAddr, patience: Duration) {
        self.addr = addr;
        let (room, receive_bytes) = (self.room.clone(), self.receive_bytes);
        self.share(patience, move |seats, deadline| {
            for place in 0..seats.len() {
                seats[place].dial(addr, &room, receive_bytes);
                if place % DIALS == DIALS - 1 {
                    seats[..place].iter_mut().for_each(Seat::read);
                }
            }
            read_until(seats, deadline, "joined", |seat| seat.joined.is_some());
        });
    }

    /// Reads until each has everything up to `offset`.
    pub(crate) fn read_to(&mut self, offset: u64, patience: Duration) {
        self.share(patience, move |seats, deadline| {
            read_until(seats, deadline, &format!("at {offset}"), |seat| {
                seat.offset() >= offset
            });
        });
    }

    /// Reads until each has answered `count` pings more than `before`, which [`Self::pings`] has said.
    pub(crate) fn read_pings(&mut self, before: &[u64], count: u64, patience: Duration) {
        let what = format!("pinged {count} times more");
        self.share(patience, |seats, deadline| {
            read_until(seats, deadline, &what, |seat| {
                seat.pings >= before[seat.number] + count
            });
        });
    }

    /// Reads what comes within `span`: for watching what must *not* come, and for how long it lasts.
    pub(crate) fn read_for(&mut self, span: Duration) {
        self.share(span, |seats, deadline| {
            while Instant::now() < deadline {
                seats.iter_mut().for_each(Seat::read);
                breathe();
            }
        });
    }

    /// The same for some of them.
    pub(crate) fn read_some_to(&mut self, numbers: Range<usize>, offset: u64, patience: Duration) {
        let deadline = Instant::now() + patience;
        let seats = &mut self.seats[numbers];
        read_until(seats, deadline, &format!("at {offset}"), |seat| {
            seat.offset() >= offset
        });
    }

    /// Cuts the connections of these members by resets, without a close.
    pub(crate) fn cut(&mut self, numbers: Range<usize>) {
        for seat in &mut self.seats[numbers] {
            let link = seat.link.take().expect("a member that is there");
            let outcome = SockRef::from(&link).set_linger(Some(Duration::ZERO));
            outcome.expect("it is ours");
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.seats.len()
    }

    /// What each was told when it joined last.
    pub(crate) fn told(&self) -> impl Iterator<Item = &Joined> {
        let joined = self.seats.iter().map(|seat| seat.joined.as_ref());
        joined.map(|joined| joined.expect("a member that has joined"))
    }

    /// The offset of the first publication that each was given on its present connection.
    pub(crate) fn firsts(&self) -> impl Iterator<Item = Option<u64>> {
        self.seats.iter().map(|seat| seat.first)
    }

    /// The last offset that each has.
    pub(crate) fn offsets(&self) -> impl Iterator<Item = u64> {
        self.seats.iter().map(Seat::offset)
    }

    /// Pings that each has answered.
    pub(crate) fn pings(&self) -> impl Iterator<Item = u64> {
        self.seats.iter().map(|seat| seat.pings)
    }

    /// The closes that came, with the numbers of the members.
    pub(crate) fn closes(&self) -> Vec<(usize, &(u16, String))> {
        let seats = self.seats.iter();
        let closed = seats.filter_map(|seat| Some((seat.number, seat.close.as_ref()?)));
        closed.collect()
    }

    /// Deals the members to threads, which get the deadline.
    fn share(&mut self, patience: Duration, serve: impl Fn(&mut [Seat], Instant) + Sync) {
        let deadline = Instant::now() + patience;
        let hand = self.seats.len().div_ceil(THREADS).max(1);
        std::thread::scope(|scope| {
            for seats in self.seats.chunks_mut(hand) {
                let serve = &serve;
                scope.spawn(move || serve(seats, deadline));
            }
        });
    }
}

/// Publishes what a crowd expects: these offsets, which must be the next of the room.
pub(crate) fn publish_numbered(api: &mut Api, room: &str, offsets: RangeInclusive<u64>) {
    for offset in offsets {
        assert_eq!(api.publish(room, &offset.to_string().into()), offset);
    }
}

/// Goes round the members until each `is_done`.
fn read_until(seats: &mut [Seat], deadline: Instant, what: &str, is_done: impl Fn(&Seat) -> bool) {
    loop {
        let mut waiting = 0;
        let mut example = None;
        for seat in seats.iter_mut() {
            // Those who are done, too: pings must be answered.
            seat.read();
            if !is_done(seat) {
                waiting += 1;
                example.get_or_insert_with(|| seat.summary());
            }
        }
        let Some(example) = example else { return };
        assert!(
            Instant::now() < deadline,
            "{waiting} of {} are not {what} in time: {example}",
            seats.len()
        );
        breathe();
    }
}

impl Seat {
    fn dial(&mut self, addr: SocketAddr, room: &str, receive_bytes: Option<usize>) {
        let mut target = format!("/ws?room={room}&format=json");
        if let Some((epoch, offset)) = &self.position {
            target.push_str(&format!("&since={epoch}.{offset}"));
        }
        let host = u8::try_from(10 + self.number % SOURCES).expect("a small number");
        let source = SocketAddr::from((Ipv4Addr::new(127, 0, 0, host), 0));
        let open = || -> std::io::Result<TcpStream> {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            if let Some(receive_bytes) = receive_bytes {
                socket.set_recv_buffer_size(receive_bytes)?;
            }
            socket.bind(&source.into())?;
            socket.connect_timeout(&addr.into(), DEADLINE)?;
            let mut stream = TcpStream::from(socket);
            stream.set_nodelay(true)?;
            stream.write_all(upgrade_request(addr, &target, &[]).as_bytes())?;
            stream.set_nonblocking(true)?;
            Ok(stream)
        };
        let link = open().unwrap_or_else(|error| panic!("member {}: {error}", self.number));
        self.link = Some(link);
        self.buffer.clear();
        self.is_upgraded = false;
        self.joined = None;
        self.first = None;
        self.close = None;
    }

    fn offset(&self) -> u64 {
        self.position.as_ref().map_or(0, |(_, offset)| *offset)
    }

    fn summary(&self) -> String {
        format!(
            "member {} with {:?}, joined {:?}, close {:?}, {} bytes unread",
            self.number,
            self.position,
            self.joined,
            self.close,
            self.buffer.len()
        )
    }

    /// Reads what is there.
    fn read(&mut self) {
        let mut chunk = [0; 16 * 1024];
        loop {
            let Some(link) = &mut self.link else { return };
            match link.read(&mut chunk) {
                Ok(0) => {
                    assert!(self.close.is_some(), "no close: {}", self.summary());
                    self.link = None;
                    return;
                }
                Ok(count) => {
                    self.buffer.extend_from_slice(&chunk[..count]);
                    self.take();
                    if count < chunk.len() {
                        return;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => panic!("{error}: {}", self.summary()),
            }
        }
    }

    /// Takes what is whole.
    fn take(&mut self) {
        let mut at = 0;
        if !self.is_upgraded {
            let end = self.buffer.windows(4).position(|four| four == b"\r\n\r\n");
            let Some(end) = end else { return };
            let head = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
            assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
            self.is_upgraded = true;
            at = end + 4;
        }
        while let Some((opcode, payload)) = frame(&self.buffer[at..]) {
            at += payload.end;
            let payload = self.buffer[at - payload.len()..at].to_vec();
            self.handle(opcode, &payload);
        }
        self.buffer.drain(..at);
    }

    fn handle(&mut self, opcode: u8, payload: &[u8]) {
        match opcode {
            opcode::TEXT => self.handle_text(payload),
            opcode::PING => {
                self.pings += 1;
                let pong = Frame::new(opcode::PONG, payload).bytes();
                // A socket that takes not even this is one of a daemon that does not read.
                let link = self.link.as_mut().expect("just read from");
                link.write_all(&pong).expect("room for a pong");
            }
            opcode::CLOSE => {
                let (code, reason) = payload.split_first_chunk().expect("a code");
                let reason = String::from_utf8_lossy(reason).into_owned();
                self.close = Some((u16::from_be_bytes(*code), reason));
            }
            other => panic!("opcode {other}: {}", self.summary()),
        }
    }

    fn handle_text(&mut self, payload: &[u8]) {
        let envelope: Value = serde_json::from_slice(payload).expect("JSON");
        let number = |value: &Value| value.as_u64().expect("a number");
        let publication = &envelope["publication"];
        if publication.is_object() {
            let summary = self.summary();
            let next = number(&publication["offset"]);
            let joined = self.joined.as_ref().expect("joined before it");
            let (_, offset) = self.position.as_mut().expect("with a position");
            if self.first.replace(self.first.unwrap_or(next)).is_none() && joined.lost < 0 {
                // How much is gone cannot be known; the oldest that is left comes first.
                assert!(next <= joined.offset + 1, "{summary}");
            } else {
                assert_eq!(next, *offset + 1, "repeated or lost: {summary}");
            }
            let data = publication["data"].as_str().expect("text");
            let named = data.split(' ').next().and_then(|word| word.parse().ok());
            assert_eq!(named, Some(next), "{summary}");
            *offset = next;
            return;
        }
        let joined = &envelope["joined"];
        if joined.is_object() {
            let joined = Joined {
                epoch: joined["epoch"].as_str().expect("an epoch").to_owned(),
                offset: number(&joined["offset"]),
                recovered: joined["recovered"].as_bool().expect("yes or no"),
                lost: joined["lost"].as_i64().expect("a number"),
            };
            assert_eq!(self.joined, None, "joined twice: {}", self.summary());
            match (&mut self.position, u64::try_from(joined.lost)) {
                (Some((epoch, offset)), Ok(lost)) => {
                    assert_eq!(*epoch, joined.epoch, "{joined:?}");
                    assert_eq!(joined.recovered, lost == 0, "{joined:?}");
                    *offset += lost;
                }
                (position, _) => *position = Some((joined.epoch.clone(), joined.offset)),
            }
            self.joined = Some(joined);
            return;
        }
        let is_known = envelope["closing"].is_object() || envelope["heartbeat"].is_object();
        assert!(is_known, "{envelope}: {}", self.summary());
    }
}

/// The first whole frame: its opcode and where its payload is.
fn frame(bytes: &[u8]) -> Option<(u8, Range<usize>)> {
    let (&first, &second) = (bytes.first()?, bytes.get(1)?);
    let (start, len) = match second {
        126 => (
            4,
            usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?)),
        ),
        127 => panic!("a frame of more than 64 KiB"),
        short => (2, usize::from(short)),
    };
    let end = start + len;
    (bytes.len() >= end).then_some((first & 0x0f, start..end))
}
