//! A roomcast endpoint that makes the mistakes it is told to make.
//!
//! Owns: a listener on a port of the system's choosing, two threads per connection, and rooms with
//! their whole history. Numbers, replays and announces under one lock, so that whatever a test finds
//! was planted.
//! Never: shares code with the daemon; frames are taken apart here, byte by byte.
//!
//! At `/ws` it is roomcast's own; at `/connection/websocket` it carries out commands, see [`sdk`].

mod sdk;

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tungstenite::handshake::derive_accept_key;

/// What goes wrong, once, at the offset [`AT`] of the first member that would receive it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plant {
    /// Nothing.
    Nothing,
    /// A live publication is not delivered.
    Loss,
    /// Nobody receives it.
    LossForAll,
    /// It is not even numbered.
    Swallowed,
    /// It is delivered twice.
    Duplicate,
    /// It is delivered behind its successor.
    Swap,
    /// It is numbered behind its successor.
    SwapNumbers,
    /// The lossy room: three are skipped, and so many told.
    Skip { told: u64 },
    /// One member is dropped, and its replay begins one too late.
    ReplayLoss,
    /// One member is dropped, and its replay begins one too early.
    ReplayDuplicate,
    /// One member is dropped, gets no replay, and so much less than it misses is told.
    ReplayTold { short_by: u64 },
    /// There is no history at all: a resume says that all is well, and goes on live.
    NoHistory,
    /// The epoch ends, as if the daemon had been restarted.
    NewEpoch,
    /// It is not numbered, and the connection that it came on is dropped.
    BrokenPublisher,
    /// One byte of it is another.
    Garbled,
    /// Everybody is sent away for so long.
    GoAway { retry_ms: u64 },
    /// The second connection of a member is refused, and every one after it.
    Shut,
    /// Everybody is refused.
    Closed,
    /// A member gets a message to everybody, which is no fault.
    ToAll,
    // Where members and publishers speak by commands.
    /// One member is dropped, and is told that it resumes from elsewhere than it asked for.
    ReplayElsewhere,
    /// A member is unsubscribed, with this code.
    Unsubscribed { code: u64 },
    /// A member is closed for good.
    Terminal,
    /// A publication fails, and may be tried again.
    Refused,
    /// A publication is carried out and not answered.
    Unanswered,
    /// A publication is answered twice.
    AnsweredTwice,
    /// Everybody is pinged, which is no fault.
    Ping,
    /// A message has an empty line.
    EmptyLine,
}

impl Plant {
    /// Whether it is planted while a publication is delivered to a member.
    fn is_live(self) -> bool {
        matches!(
            self,
            Self::Loss
                | Self::LossForAll
                | Self::Duplicate
                | Self::Swap
                | Self::Skip { .. }
                | Self::Garbled
                | Self::ToAll
        )
    }

    /// Whether it is planted in the replay of the one member that is dropped.
    fn is_of_replay(self) -> bool {
        matches!(
            self,
            Self::ReplayLoss
                | Self::ReplayDuplicate
                | Self::ReplayTold { .. }
                | Self::ReplayElsewhere
        )
    }
}

/// Where faults of live publications are.
pub(crate) const AT: u64 = 20;

/// The endpoint. Its threads end with the test process.
pub(crate) struct Fake {
    addr: SocketAddr,
    state: Arc<Mutex<State>>,
}

struct State {
    plant: Plant,
    is_planted: bool,
    rooms: HashMap<String, Room>,
    queries: Vec<HashMap<String, String>>,
    connections: u64,
    /// Connections that speak by commands and are no members.
    outs: HashMap<u64, Sender<Vec<u8>>>,
    commands: Vec<Value>,
    pings: u64,
    pongs: u64,
    /// When everybody was sent away, and after how long each came back.
    sent_away_at: Option<Instant>,
    absences: Vec<Duration>,
}

#[derive(Default)]
struct Room {
    epoch: u64,
    /// Texts of the epoch; the first has offset 1.
    history: Vec<String>,
    members: Vec<Member>,
    /// A text that waits for its successor.
    held: Option<String>,
}

/// How publications are told.
#[derive(Clone, Copy)]
enum Form {
    Envelope,
    Push,
}

struct Member {
    id: u64,
    form: Form,
    is_publisher: bool,
    out: Sender<Vec<u8>>,
    held: Option<Vec<u8>>,
    /// How many of the next publications it does not get.
    skipping: u64,
}

impl Fake {
    /// Starts an endpoint with this fault.
    pub(crate) fn start(plant: Plant) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let addr = listener.local_addr().expect("a bound listener");
        let state = Arc::new(Mutex::new(State {
            plant,
            is_planted: false,
            rooms: HashMap::new(),
            queries: Vec::new(),
            connections: 0,
            outs: HashMap::new(),
            commands: Vec::new(),
            pings: 0,
            pongs: 0,
            sent_away_at: None,
            absences: Vec::new(),
        }));
        let shared = state.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = shared.clone();
                // A connection that is cut ends with an error, which is what it is for.
                thread::spawn(move || drop(serve(&stream, &state)));
            }
        });
        Self { addr, state }
    }

    pub(crate) fn url(&self) -> String {
        format!("ws://{}/ws", self.addr)
    }

    /// Whether the fault has happened.
    pub(crate) fn is_planted(&self) -> bool {
        lock(&self.state).is_planted
    }

    /// After how long those came back who were sent away.
    pub(crate) fn absences(&self) -> Vec<Duration> {
        lock(&self.state).absences.clone()
    }

    /// The commands of all connections so far.
    pub(crate) fn commands(&self) -> Vec<Value> {
        lock(&self.state).commands.clone()
    }

    /// How many pings were sent, and how many answers came.
    pub(crate) fn pings(&self) -> (u64, u64) {
        let state = lock(&self.state);
        (state.pings, state.pongs)
    }

    /// The queries of all connections so far.
    pub(crate) fn queries(&self) -> Vec<HashMap<String, String>> {
        lock(&self.state).queries.clone()
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().expect("no thread panics with the lock")
}

fn serve(stream: &TcpStream, state: &Mutex<State>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    let mut key = String::new();
    let mut query = HashMap::new();
    let mut is_by_commands = false;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        if let Some(target) = line.strip_prefix("GET /") {
            let target = target.split(' ').next().unwrap_or_default();
            is_by_commands = target.starts_with("connection/websocket");
            let target = target.split_once('?').map_or("", |parts| parts.1);
            query = form_urlencoded::parse(target.as_bytes())
                .into_owned()
                .collect();
        }
        if let Some(value) = line.to_lowercase().strip_prefix("sec-websocket-key: ") {
            key = line[line.len() - value.len()..].to_owned();
        }
    }
    let (id, queue, is_open) = if is_by_commands {
        let (out, queue) = channel();
        let state = &mut *lock(state);
        state.queries.push(query.clone());
        state.connections += 1;
        state.outs.insert(state.connections, out);
        (state.connections, queue, true)
    } else {
        admit(state, &query)
    };
    if !is_open {
        return (&*stream).write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n");
    }
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {}\r\n\r\n",
        derive_accept_key(key.as_bytes())
    );
    (&*stream).write_all(head.as_bytes())?;
    let writing = stream.try_clone()?;
    thread::spawn(move || write_all(&writing, &queue));
    let room = query.get("room").cloned().unwrap_or_default();
    let outcome = if is_by_commands {
        sdk::serve_commands(&mut reader, state, id)
    } else {
        read_frames(&mut reader, state, &room, id)
    };
    let mut state = lock(state);
    state.outs.remove(&id);
    if is_by_commands {
        for room in state.rooms.values_mut() {
            room.members.retain(|member| member.id != id);
        }
        return outcome;
    }
    let members = &mut state.rooms.entry(room).or_default().members;
    members.retain(|member| member.id != id);
    outcome
}

fn write_all(mut stream: &TcpStream, queue: &Receiver<Vec<u8>>) {
    for frame in queue {
        if stream.write_all(&frame).is_err() {
            break;
        }
    }
    // The reading thread has the socket too.
    let _ = stream.shutdown(Shutdown::Both);
}

/// Joins, replays and announces under one lock. Returns the member's id and what is to be written.
fn admit(state: &Mutex<State>, query: &HashMap<String, String>) -> (u64, Receiver<Vec<u8>>, bool) {
    let state = &mut *lock(state);
    state.queries.push(query.clone());
    state.connections += 1;
    if let Some(at) = state.sent_away_at {
        state.absences.push(at.elapsed());
    }
    let id = state.connections;
    let (out, queue) = channel();
    let since = query.get("since").and_then(|since| since.split_once('.'));
    if state.plant == Plant::Closed || (state.plant == Plant::Shut && since.is_some()) {
        state.is_planted = true;
        return (id, queue, false);
    }
    let name = query.get("room").cloned().unwrap_or_default();
    let room = state.rooms.entry(name.clone()).or_default();
    let head = room.history.len() as u64;
    let (mut recovered, mut lost, mut from) = (true, 0, head);
    if let Some((epoch, offset)) = since {
        let position: u64 = offset.parse().expect("an offset");
        if epoch == format!("e{}", room.epoch) {
            from = position;
            let missed = head - from;
            match state.plant {
                Plant::NoHistory => {
                    state.is_planted |= missed > 0;
                    from = head;
                }
                // It may come again when it misses enough.
                plant if plant.is_of_replay() && missed <= 2 => return (id, queue, false),
                Plant::ReplayLoss => from += 1,
                Plant::ReplayDuplicate => from -= 1,
                Plant::ReplayTold { short_by } => {
                    (recovered, lost) = (false, (missed - short_by) as i64);
                    from = head;
                }
                _ => {}
            }
        } else {
            (recovered, lost, from) = (false, -1, 0);
        }
    }
    let joined = format!(
        r#"{{"joined":{{"room":"{name}","epoch":"e{}","offset":{head},"recovered":{recovered},"lost":{lost},"online":1}}}}"#,
        room.epoch
    );
    let _ = out.send(frame(&joined));
    for (index, text) in room.history.iter().enumerate().skip(from as usize) {
        let _ = out.send(frame(&publication(
            Form::Envelope,
            &name,
            index as u64 + 1,
            text,
        )));
    }
    room.members.push(Member {
        id,
        form: Form::Envelope,
        is_publisher: query.get("echo").is_some_and(|echo| echo == "0"),
        out,
        held: None,
        skipping: 0,
    });
    (id, queue, true)
}

/// The first byte of a frame, and what it carries.
fn read_frame(reader: &mut impl Read) -> io::Result<(u8, Vec<u8>)> {
    let mut head = [0; 2];
    reader.read_exact(&mut head)?;
    let len = match head[1] & 0x7f {
        126 => {
            let mut long = [0; 2];
            reader.read_exact(&mut long)?;
            usize::from(u16::from_be_bytes(long))
        }
        127 => return Err(io::ErrorKind::InvalidData.into()),
        short => usize::from(short),
    };
    let mut mask = [0; 4];
    reader.read_exact(&mut mask)?;
    let mut payload = vec![0; len];
    reader.read_exact(&mut payload)?;
    for (index, byte) in payload.iter_mut().enumerate() {
        *byte ^= mask[index % 4];
    }
    Ok((head[0], payload))
}

fn read_frames(
    reader: &mut impl Read,
    state: &Mutex<State>,
    room: &str,
    id: u64,
) -> io::Result<()> {
    loop {
        let (head, payload) = read_frame(reader)?;
        let state = &mut *lock(state);
        match head {
            0x81 => {
                let text = String::from_utf8(payload).expect("letters are text");
                publish(state, room, id, &text);
            }
            0x88 => {
                let members = &mut state.rooms.entry(room.to_owned()).or_default().members;
                if let Some(at) = members.iter().position(|member| member.id == id) {
                    // With the sender the writing thread ends, and with both threads the socket.
                    let member = members.remove(at);
                    let _ = member.out.send(vec![0x88, 0]);
                }
            }
            _ => {}
        }
    }
}

fn publish(state: &mut State, name: &str, publisher: u64, text: &str) {
    let State {
        plant,
        is_planted,
        rooms,
        outs,
        sent_away_at,
        ..
    } = state;
    let room = rooms.entry(name.to_owned()).or_default();
    let at = room.history.len() as u64 + 1;
    let is_here = at == AT && !*is_planted;
    match *plant {
        Plant::Swallowed if is_here => {
            *is_planted = true;
            return;
        }
        Plant::BrokenPublisher if is_here => {
            *is_planted = true;
            room.members.retain(|member| member.id != publisher);
            outs.remove(&publisher);
            return;
        }
        Plant::GoAway { retry_ms } if is_here => {
            *is_planted = true;
            *sent_away_at = Some(Instant::now());
            let closing = format!(
                r#"{{"closing":{{"code":3001,"reason":"shutdown","retry_ms":{retry_ms}}}}}"#
            );
            for member in room.members.drain(..) {
                let _ = member.out.send(frame(&closing));
            }
        }
        Plant::SwapNumbers if is_here && room.held.is_none() => {
            room.held = Some(text.to_owned());
            return;
        }
        plant if plant.is_of_replay() && is_here => {
            *is_planted = true;
            let victim = room.members.iter().position(|member| !member.is_publisher);
            room.members.remove(victim.expect("a room has members"));
        }
        Plant::NewEpoch if is_here => {
            *is_planted = true;
            room.epoch += 1;
            room.history.clear();
            room.members.retain(|member| member.is_publisher);
        }
        _ => {}
    }
    deliver(*plant, is_planted, room, name, text);
    if let Some(held) = room.held.take() {
        *is_planted = true;
        deliver(Plant::Nothing, is_planted, room, name, &held);
    }
}

/// Numbers one text and sends it to every member but the publishers.
fn deliver(plant: Plant, is_planted: &mut bool, room: &mut Room, name: &str, text: &str) {
    room.history.push(text.to_owned());
    let offset = room.history.len() as u64;
    for member in room
        .members
        .iter_mut()
        .filter(|member| !member.is_publisher)
    {
        let is_here = offset == AT && !*is_planted;
        let frame_of = |text: &str| frame(&publication(member.form, name, offset, text));
        let frame_now = frame_of(text);
        *is_planted |= is_here && plant.is_live();
        let send = |frame: Vec<u8>| {
            // The connection may be ending.
            let _ = member.out.send(frame);
        };
        if member.skipping > 0 {
            member.skipping -= 1;
            continue;
        }
        match plant {
            Plant::Loss if is_here => continue,
            Plant::LossForAll if offset == AT => continue,
            Plant::Duplicate if is_here => send(frame_now.clone()),
            Plant::Swap if is_here => {
                member.held = Some(frame_now.clone());
                continue;
            }
            Plant::Skip { told } if is_here => {
                member.skipping = 2;
                let skipped = match member.form {
                    Form::Envelope => {
                        format!(r#"{{"skipped":{{"room":"{name}","count":{told}}}}}"#)
                    }
                    Form::Push => sdk::skipped(name, told),
                };
                send(frame(&skipped));
                continue;
            }
            Plant::ToAll if is_here => send(frame(match member.form {
                Form::Envelope => r#"{"publication":{"time":1,"data":"to everybody"}}"#,
                Form::Push => r#"{"push":{"message":{"data":"to everybody"}}}"#,
            })),
            Plant::Garbled if is_here => {
                let mut garbled = text.to_owned();
                let last = garbled.pop();
                garbled.push(if last == Some('x') { 'y' } else { 'x' });
                send(frame_of(&garbled));
                continue;
            }
            _ => {}
        }
        send(frame_now.clone());
        if let Some(held) = member.held.take() {
            send(held);
        }
    }
}

fn publication(form: Form, room: &str, offset: u64, text: &str) -> String {
    if matches!(form, Form::Push) {
        return sdk::publication(room, offset, text);
    }
    format!(r#"{{"publication":{{"room":"{room}","offset":{offset},"time":1,"data":"{text}"}}}}"#)
}

/// An unmasked text frame.
fn frame(text: &str) -> Vec<u8> {
    let mut frame = vec![0x81];
    match u8::try_from(text.len()) {
        Ok(len) if len < 126 => frame.push(len),
        _ => {
            frame.push(126);
            let len = u16::try_from(text.len()).expect("letters are short");
            frame.extend(len.to_be_bytes());
        }
    }
    frame.extend(text.as_bytes());
    frame
}
