//! The fake endpoint for those who speak the Centrifugo client protocol.
//!
//! Owns: the carrying out of commands, and the texts of replies and pushes. Rooms, numbering and most
//! faults are those of the module above.

use std::io::{self, Read};
use std::sync::Mutex;

use serde_json::{Value, json};

use super::{AT, Form, Member, Plant, State, frame, lock, publish, read_frame};

/// Carries out the commands of one connection until it is over.
pub(super) fn serve_commands(
    reader: &mut impl Read,
    state: &Mutex<State>,
    id: u64,
) -> io::Result<()> {
    loop {
        let (head, payload) = read_frame(reader)?;
        let state = &mut *lock(state);
        match head {
            0x81 => {
                let text = String::from_utf8(payload).expect("commands are text");
                for line in text.split('\n') {
                    carry_out(state, id, &serde_json::from_str(line).expect("a command"));
                }
            }
            // Answered, and with the sender the socket ends.
            0x88 => say_bytes(state, id, vec![0x88, 0]),
            _ => {}
        }
        if head == 0x88 {
            state.outs.remove(&id);
            for room in state.rooms.values_mut() {
                room.members.retain(|member| member.id != id);
            }
        }
    }
}

fn carry_out(state: &mut State, id: u64, command: &Value) {
    state.commands.push(command.clone());
    if command.as_object().is_some_and(serde_json::Map::is_empty) {
        state.pongs += 1;
        return;
    }
    let number = command["id"].as_u64().expect("a command has an id");
    if command.get("connect").is_some() {
        if state.plant == Plant::Closed {
            state.is_planted = true;
            return fail(state, id, number, 103, false);
        }
        let result = json!({ "client": id.to_string(), "version": "0", "ping": 25, "pong": true });
        return say(state, id, &json!({ "id": number, "connect": result }));
    }
    if let Some(request) = command.get("subscribe") {
        return subscribe(state, id, number, request);
    }
    let request = command.get("publish").expect("one of three commands");
    let name = request["channel"].as_str().expect("a room").to_owned();
    let text = request["data"].as_str().expect("letters are text");
    let at = state.rooms.get(&name).map_or(0, |room| room.history.len()) as u64 + 1;
    let is_here = at == AT && !state.is_planted;
    match state.plant {
        Plant::Refused if is_here => {
            state.is_planted = true;
            return fail(state, id, number, 100, true);
        }
        Plant::Unsubscribed { .. } | Plant::Terminal | Plant::Ping | Plant::EmptyLine
            if is_here =>
        {
            state.is_planted = true;
            disturb(state, &name);
        }
        _ => {}
    }
    publish(state, &name, id, text);
    let answers = match state.plant {
        Plant::Unanswered if is_here => 0,
        Plant::AnsweredTwice if is_here => 2,
        _ => 1,
    };
    state.is_planted |= answers != 1;
    for _ in 0..answers {
        say(state, id, &json!({ "id": number, "publish": {} }));
    }
}

/// Does to the first member, or to all, what the fault is.
fn disturb(state: &mut State, name: &str) {
    let plant = state.plant;
    let room = state.rooms.get_mut(name).expect("a room with members");
    match plant {
        Plant::Unsubscribed { code } => {
            let member = room.members.remove(0);
            let push =
                json!({ "unsubscribe": { "code": code, "reason": "said so" }, "channel": name });
            let _ = member.out.send(frame(&json!({ "push": push }).to_string()));
            state.outs.insert(member.id, member.out);
        }
        Plant::Terminal => {
            let member = room.members.remove(0);
            let mut close = vec![0x88, 18];
            close.extend(3503_u16.to_be_bytes());
            close.extend(b"force disconnect");
            let _ = member.out.send(close);
        }
        Plant::Ping => {
            for member in &room.members {
                state.pings += 1;
                let _ = member.out.send(frame("{}"));
            }
            for out in state.outs.values() {
                state.pings += 1;
                let _ = out.send(frame("{}"));
            }
        }
        _ => {
            let _ = room.members[0].out.send(frame("{}\n\n{}"));
        }
    }
}

/// Joins, replays and answers in one step.
fn subscribe(state: &mut State, id: u64, number: u64, request: &Value) {
    let plant = state.plant;
    let is_resume = request["recover"] == true;
    if plant == Plant::Shut && is_resume {
        state.is_planted = true;
        return fail(state, id, number, 103, false);
    }
    let name = request["channel"].as_str().expect("a room").to_owned();
    let room = state.rooms.entry(name.clone()).or_default();
    let head = room.history.len() as u64;
    let asked = request["offset"].as_u64().unwrap_or(0);
    let epoch = format!("e{}", room.epoch);
    let mut result = json!({ "epoch": epoch, "offset": head, "recoverable": true });
    if is_resume {
        result["was_recovering"] = true.into();
        let missed = head.saturating_sub(asked);
        let mut from = (request["epoch"] == *epoch).then_some(asked);
        let is_known = from.is_some();
        match plant {
            Plant::NoHistory => {
                state.is_planted |= missed > 0;
                from = is_known.then_some(head);
            }
            // It may come again when it misses enough.
            plant if is_known && plant.is_of_replay() && missed <= 2 => {
                state.outs.remove(&id);
                return;
            }
            Plant::ReplayLoss => from = from.map(|from| from + 1),
            Plant::ReplayDuplicate => from = from.map(|from| from - 1),
            Plant::ReplayTold { short_by } => {
                from = None;
                result["offset"] = (head - short_by).into();
            }
            _ => {}
        }
        if let Some(from) = from {
            let kept = room.history.iter().zip(1_u64..).skip(from as usize);
            let all: Vec<Value> = kept
                .map(|(text, offset)| json!({ "data": text, "offset": offset }))
                .collect();
            result["recovered"] = true.into();
            let is_elsewhere = plant == Plant::ReplayElsewhere;
            result["offset"] = if is_elsewhere { head } else { asked }.into();
            result["publications"] = all.into();
        }
    }
    say(state, id, &json!({ "id": number, "subscribe": result }));
    let Some(out) = state.outs.remove(&id) else {
        return;
    };
    let room = state.rooms.entry(name).or_default();
    room.members.push(Member {
        id,
        form: Form::Push,
        is_publisher: false,
        out,
        held: None,
        skipping: 0,
    });
}

fn fail(state: &State, id: u64, number: u64, code: u64, is_temporary: bool) {
    let mut error = json!({ "code": code, "message": "said so" });
    if is_temporary {
        error["temporary"] = true.into();
    }
    say(state, id, &json!({ "id": number, "error": error }));
}

fn say(state: &State, id: u64, reply: &Value) {
    say_bytes(state, id, frame(&reply.to_string()));
}

fn say_bytes(state: &State, id: u64, bytes: Vec<u8>) {
    let members = state.rooms.values().flat_map(|room| &room.members);
    let member = members.filter(|member| member.id == id).map(|it| &it.out);
    if let Some(out) = member.chain(state.outs.get(&id)).next() {
        // The connection may be ending.
        let _ = out.send(bytes);
    }
}

/// A live publication.
pub(super) fn publication(room: &str, offset: u64, text: &str) -> String {
    let one = json!({ "data": text, "offset": offset });
    json!({ "push": { "channel": room, "pub": one } }).to_string()
}

/// What a lossy room tells.
pub(super) fn skipped(room: &str, count: u64) -> String {
    let skipped = json!({ "skipped": { "room": room, "count": count } });
    json!({ "push": { "message": { "data": skipped } } }).to_string()
}
