//! What Redis answers and what its feed brings, whatever that is: the same event as a reader of the
//! parts of the reply makes of it, or none.

use std::sync::Arc;

use bytes::Bytes;
use roomcast::base::{ConnId, Epoch, Instant, Offset, Position, RoomName, UserId};
use roomcast::broker::heard;
use roomcast::cluster::{Event, NodeId, Numbered, Request, Shared, Snapshot, Token};
use roomcast::wire::frame::Payload;
use roomcast::wire::node::Envelope;

use super::input::Input;

/// A byte says what was asked, or that the rest is a message of the feed; then comes the reply.
pub fn check(data: &[u8]) {
    let mut input = Input(data);
    let how = input.byte();
    let room = RoomName::new("live:7").expect("a good name");
    if how % 8 == 7 {
        return message(room, input.rest());
    }
    let request = request(how % 8, room);
    let reply = if how & 0x80 == 0 {
        Tree::read(&mut input, 0)
    } else {
        plausible(&mut input)
    };
    let mut bytes = Vec::new();
    reply.write(&mut bytes);
    let found = heard::reply(request.clone(), &bytes);
    assert_eq!(found, naive(&request, &reply), "{reply:?}");
}

fn request(kind: u8, room: RoomName) -> Request {
    let number = 7;
    match kind {
        0 => Request::Read { room, known: None },
        1 => Request::Look { number, room },
        2 => Request::Append {
            room,
            shared: Shared {
                token: Token {
                    node: NodeId(1),
                    number,
                },
                conn: ConnId::NONE,
                identity: None,
                payload: Payload::from("hello"),
                is_kept: true,
            },
            key: None,
            deadline: Instant::ORIGIN,
        },
        3 => Request::Forget { number, room },
        4 => Request::Beat {
            room,
            members: 1,
            watches: false,
            login: None,
        },
        5 => Request::Claim {
            number,
            user: UserId::new("al").expect("a good id"),
            is_exclusive: true,
            deadline: Instant::ORIGIN,
        },
        _ => Request::Follow(room),
    }
}

/// A reply of Redis.
#[derive(Clone, Debug)]
enum Tree {
    List(Vec<Self>),
    Bulk(Vec<u8>),
    Number(i64),
    Nil,
}

const WORDS: [&str; 16] = [
    "ok",
    "ok",
    "none",
    "held",
    "repeated",
    "wait",
    "unknown",
    "k3Xa9",
    "k3Xa9",
    "1",
    "2",
    "5-0",
    "6-0",
    "18446744073709551615",
    "",
    "-1",
];

impl Tree {
    fn text(text: impl ToString) -> Self {
        Self::Bulk(text.to_string().into_bytes())
    }

    fn read(input: &mut Input<'_>, depth: usize) -> Self {
        match input.byte() % 8 {
            0..3 if depth < 5 => {
                let len = input.byte() % 12;
                Self::List((0..len).map(|_| Self::read(input, depth + 1)).collect())
            }
            3 => {
                let len = usize::from(input.byte());
                Self::Bulk(input.take(len).to_vec())
            }
            4 => Self::Number(input.long() as i64),
            5 => Self::Nil,
            6 => Self::Bulk(envelope(input)),
            _ => Self::text(input.one_of(&WORDS)),
        }
    }

    /// RESP, as Redis has it on the wire.
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::List(items) => {
                out.extend(format!("*{}\r\n", items.len()).bytes());
                for item in items {
                    item.write(out);
                }
            }
            Self::Bulk(bytes) => {
                out.extend(format!("${}\r\n", bytes.len()).bytes());
                out.extend(bytes);
                out.extend(b"\r\n");
            }
            Self::Number(number) => out.extend(format!(":{number}\r\n").bytes()),
            Self::Nil => out.extend(b"$-1\r\n"),
        }
    }

    fn bytes(&self) -> Option<Vec<u8>> {
        match self {
            Self::Bulk(bytes) => Some(bytes.clone()),
            Self::Number(number) => Some(number.to_string().into_bytes()),
            Self::List(_) | Self::Nil => None,
        }
    }

    fn number(&self) -> Option<u64> {
        String::from_utf8(self.bytes()?).ok()?.parse().ok()
    }

    /// A number that the scripts could have counted up to.
    fn offset(&self) -> Option<Offset> {
        let number = self.number()?;
        (number <= 1 << 53).then_some(Offset(number))
    }

    fn list(&self) -> Option<&[Self]> {
        match self {
            Self::List(items) => Some(items),
            _ => None,
        }
    }
}

/// An envelope, or nearly one.
fn envelope(input: &mut Input<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let envelope = Envelope {
        node: input.byte().into(),
        number: input.byte().into(),
        conn: ConnId::NONE,
        identity: None,
        payload: Payload::from("hello"),
        is_kept: input.byte() & 1 == 1,
    };
    envelope.encode(&mut bytes);
    let at = usize::from(input.byte());
    if let Some(byte) = bytes.get_mut(at) {
        *byte ^= input.byte();
    }
    bytes
}

/// A reply of the form that the scripts give, with numbers of any size.
fn plausible(input: &mut Input<'_>) -> Tree {
    let number = |input: &mut Input<'_>| match input.byte() {
        255 => Tree::text(u64::MAX),
        254 => Tree::Number(input.long() as i64),
        small => Tree::text(small),
    };
    let mut parts = vec![Tree::text("ok"), Tree::text("k3Xa9")];
    parts.extend((0..8).map(|_| number(input)));
    let len = input.byte() % 6;
    let entry = |input: &mut Input<'_>| {
        let id = format!("{}-0", input.byte());
        let fields = [
            Tree::text("t"),
            number(input),
            Tree::text("e"),
            Tree::Bulk(envelope(input)),
        ];
        Tree::List(vec![Tree::text(id), Tree::List(fields.into())])
    };
    let mut entries: Vec<Tree> = (0..len).map(|_| entry(input)).collect();
    if input.byte() % 8 == 1 {
        entries.push(Tree::read(input, 0));
    }
    parts.push(Tree::List(entries));
    Tree::List(parts)
}

fn position(parts: &[Tree]) -> Option<Position> {
    let epoch = String::from_utf8(parts.first()?.bytes()?).ok()?;
    Some(Position {
        epoch: Epoch::new(&epoch)?,
        offset: parts.get(1)?.offset()?,
    })
}

fn naive(request: &Request, reply: &Tree) -> Option<Event> {
    let parts = reply.list()?;
    let (first, rest) = parts.split_first()?;
    match (&*first.bytes()?, request) {
        (b"ok", Request::Read { room, .. }) => Some(Event::Read {
            room: room.clone(),
            snapshot: Box::new(snapshot(rest)?),
        }),
        (b"ok", Request::Look { number, .. }) => Some(Event::Looked {
            number: *number,
            outcome: Ok(Some(Box::new(snapshot(rest)?))),
        }),
        (b"none", Request::Look { number, .. }) => Some(Event::Looked {
            number: *number,
            outcome: Ok(None),
        }),
        (b"ok", Request::Append { shared, .. }) => Some(Event::Appended {
            number: shared.token.number,
            outcome: Ok(position(rest)?),
        }),
        (b"repeated", Request::Append { shared, .. }) => Some(Event::Repeated {
            number: shared.token.number,
            position: position(rest)?,
        }),
        (b"ok", Request::Forget { number, .. }) => Some(Event::Forgotten {
            number: *number,
            outcome: Ok(()),
        }),
        (b"ok", Request::Beat { room, .. }) => Some(Event::Beaten {
            room: room.clone(),
            top: position(rest)?,
            online: rest.get(2)?.number()?,
            generation: rest.get(3)?.number()?,
            is_watched: rest.get(4)?.number()? > 0,
        }),
        (b"ok", Request::Claim { number, .. }) => Some(Event::Claimed {
            number: *number,
            outcome: Ok(Some(rest.first()?.number()?)),
        }),
        (b"held", Request::Claim { number, .. }) => Some(Event::Claimed {
            number: *number,
            outcome: Ok(None),
        }),
        _ => None,
    }
}

fn snapshot(parts: &[Tree]) -> Option<Snapshot> {
    let top = position(parts)?;
    let number = |place: usize| parts.get(place)?.number();
    let mut publications = Vec::new();
    // What is no entry ends them: what is behind it counts as missing.
    for entry in parts.get(9)?.list()?.iter().map_while(Tree::list) {
        let id = entry.first()?.bytes()?;
        let digits = &id[..id.iter().position(|byte| *byte == b'-')?];
        let fields = entry.get(1)?.list()?;
        let (name, other_name) = (fields.first()?.bytes(), fields.get(2)?.bytes());
        name.and(other_name)?;
        publications.push(Numbered {
            offset: Tree::Bulk(digits.to_vec()).offset()?,
            unix_ms: fields.get(1)?.number()?,
            shared: shared(fields.get(3)?.bytes()?),
        });
    }
    Some(Snapshot {
        top,
        first: parts.get(2)?.offset()?,
        complete_since_ms: number(3)?,
        began: parts.get(4)?.offset()?,
        unix_ms: number(5)?,
        publications,
        online: number(6)?,
        generation: number(7)?,
        is_watched: number(8)? > 0,
    })
}

fn shared(bytes: Vec<u8>) -> Option<Shared> {
    let envelope = Envelope::decode(&bytes.into()).ok()?;
    Some(Shared {
        token: Token {
            node: NodeId(envelope.node),
            number: envelope.number,
        },
        conn: envelope.conn,
        identity: envelope.identity.as_ref().map(Arc::clone),
        payload: envelope.payload,
        is_kept: envelope.is_kept,
    })
}

/// `p <epoch> <offset> <ms>`, a line feed and an envelope; `g <generation>`; `b`; `s <word>`.
fn message(room: RoomName, payload: &[u8]) {
    let found = heard::message(room.clone(), &Bytes::copy_from_slice(payload));
    match payload.first() {
        Some(b'p') => {
            let expected = fed(room, payload);
            assert_eq!(found, expected);
        }
        Some(b'g') => {
            let text = std::str::from_utf8(payload).ok();
            let digits = text.and_then(|text| text.strip_prefix("g "));
            let generation = digits.and_then(|digits| digits.parse().ok());
            let expected = generation.map(|generation| Event::LoggedIn { room, generation });
            assert_eq!(found, expected);
        }
        Some(b'b') => assert_eq!(found, Some(Event::Broken(room))),
        Some(b's') => match found {
            // What a word is has a target of its own.
            Some(Event::Said { bytes, .. }) => assert_eq!(Some(&*bytes), payload.get(2..)),
            found => assert_eq!(found, None),
        },
        _ => assert_eq!(found, None),
    }
}

fn fed(room: RoomName, payload: &[u8]) -> Option<Event> {
    let mut halves = payload.splitn(2, |byte| *byte == b'\n');
    let head = String::from_utf8(halves.next()?.to_vec()).ok()?;
    let envelope = halves.next()?.to_vec();
    let words: Vec<&str> = head.split(' ').collect();
    Some(Event::Fed {
        room,
        position: Position {
            epoch: Epoch::new(words.get(1)?)?,
            offset: Tree::text(words.get(2)?).offset()?,
        },
        unix_ms: words.get(3)?.parse().ok()?,
        shared: shared(envelope),
    })
}
