//! A client of `/connection/websocket`: the commands that it sends, and what it makes of the answers
//! and of what it is told unasked.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// One thing that a member was told of a room, in order.
#[derive(Clone, Debug)]
pub(crate) enum Word {
    Publication {
        offset: u64,
        payload: Vec<u8>,
        /// Whether it came as text, where that can be seen.
        is_text: Option<bool>,
        was_compressed: bool,
        unix_ms: Option<u64>,
    },
    Skipped(u64),
}

/// One time that it was in a room.
#[derive(Debug, Default)]
pub(crate) struct Stay {
    /// From where it could resume: epoch and offset, as told first.
    pub(crate) position: Option<(String, u64)>,
    /// Where it wanted to begin: epoch and offset.
    pub(crate) since: Option<(String, u64)>,
    pub(crate) is_recovered: bool,
    pub(crate) words: Vec<Word>,
    pub(crate) is_over: bool,
}

impl Stay {
    /// The last that it has seen.
    pub(crate) fn last(&self) -> Option<(String, u64)> {
        let (epoch, first) = self.position.clone()?;
        let offsets = self.words.iter().rev();
        let mut offsets = offsets.filter_map(|word| match word {
            Word::Publication { offset, .. } => Some(*offset),
            Word::Skipped(_) => None,
        });
        Some((epoch, offsets.next().unwrap_or(first)))
    }
}

/// What it waits for.
#[derive(Debug)]
enum Asked {
    Connect,
    Subscribe {
        room: String,
        since: Option<(String, u64)>,
    },
    Unsubscribe(String),
    Publish {
        room: String,
        text: String,
    },
    Question(&'static str),
}

#[derive(Debug, Default)]
pub(crate) struct Commands {
    last_id: u32,
    asked: BTreeMap<u32, Asked>,
    pub(crate) is_connected: bool,
    /// Every time that it was in a room, by room.
    pub(crate) stays: BTreeMap<String, Vec<Stay>>,
    /// What it has published, by room.
    pub(crate) sent: BTreeMap<String, Vec<String>>,
    /// How often it has asked to leave each room, and to enter it.
    pub(crate) asked_out: BTreeMap<String, usize>,
    pub(crate) asked_in: BTreeMap<String, usize>,
    /// How often it was told that it was taken out of a room, by room and code.
    pub(crate) put_out: BTreeMap<(String, u64), usize>,
    /// What it could not do in a room, and why.
    pub(crate) errors: Vec<(String, u64)>,
    /// It was told that it cannot be let in.
    pub(crate) is_turned_away: bool,
    /// What was not taken.
    pub(crate) refused: Vec<String>,
    /// What all were told.
    pub(crate) announced: Vec<String>,
}

impl Commands {
    pub(crate) fn connect(&mut self, token: Option<&str>) -> String {
        let connect = match token {
            Some(token) => json!({ "token": token }),
            None => json!({}),
        };
        self.command(Asked::Connect, "connect", &connect)
    }

    /// Subscribes; where it has been in the room before, it may resume.
    pub(crate) fn subscribe(&mut self, room: &str, resumes: bool) -> String {
        let stay = self.stays.get(room).and_then(|stays| stays.last());
        let since = stay.filter(|_| resumes).and_then(Stay::last);
        self.subscribe_after(room, since)
    }

    /// Subscribes, after what it knows of the room.
    pub(crate) fn subscribe_after(&mut self, room: &str, since: Option<(String, u64)>) -> String {
        let subscribe = match &since {
            Some((epoch, offset)) => {
                json!({ "channel": room, "recover": true, "epoch": epoch, "offset": offset })
            }
            None => json!({ "channel": room }),
        };
        let room = room.to_owned();
        *self.asked_in.entry(room.clone()).or_default() += 1;
        self.command(Asked::Subscribe { room, since }, "subscribe", &subscribe)
    }

    pub(crate) fn unsubscribe(&mut self, room: &str) -> String {
        *self.asked_out.entry(room.to_owned()).or_default() += 1;
        let asked = Asked::Unsubscribe(room.to_owned());
        self.command(asked, "unsubscribe", &json!({ "channel": room }))
    }

    pub(crate) fn publish(&mut self, room: &str, text: String) -> String {
        let publish = json!({ "channel": room, "data": text });
        let sent = self.sent.entry(room.to_owned()).or_default();
        sent.push(text.clone());
        let room = room.to_owned();
        self.command(Asked::Publish { room, text }, "publish", &publish)
    }

    /// Asks for `presence`, `presence_stats` or `history` of a room.
    pub(crate) fn ask(&mut self, question: &'static str, room: &str) -> String {
        let asked = Asked::Question(question);
        self.command(asked, question, &json!({ "channel": room, "limit": 3 }))
    }

    fn command(&mut self, asked: Asked, method: &str, request: &Value) -> String {
        self.last_id += 1;
        self.asked.insert(self.last_id, asked);
        json!({ "id": self.last_id, method: request }).to_string()
    }

    /// How many commands it has sent.
    pub(crate) fn sent_len(&self) -> usize {
        self.last_id as usize
    }

    /// How many commands are not answered.
    pub(crate) fn unanswered(&self) -> usize {
        self.asked.len()
    }

    /// The rooms that it is in, as far as it knows.
    pub(crate) fn rooms(&self) -> impl Iterator<Item = &str> {
        let is_in = |stays: &[Stay]| stays.last().is_some_and(|stay| !stay.is_over);
        let rooms = self.stays.iter().filter(move |(_, stays)| is_in(stays));
        rooms.map(|(room, _)| &**room)
    }

    /// Takes a message, a line each; returns whether it was pinged.
    pub(crate) fn understand(&mut self, payload: &[u8]) -> bool {
        let mut has_pinged = false;
        for line in payload.split(|byte| *byte == b'\n') {
            let line: Value = serde_json::from_slice(line).expect("a line of JSON");
            let members = line.as_object().expect("an object");
            if members.is_empty() {
                has_pinged = true;
            } else if let Some(push) = members.get("push") {
                self.hear(push);
            } else {
                let id = line["id"].as_u64().expect("an id") as u32;
                let asked = self.asked.remove(&id);
                let asked = asked.unwrap_or_else(|| panic!("answered twice, or unasked: {line}"));
                self.is_answered(asked, &line);
            }
        }
        has_pinged
    }

    fn is_answered(&mut self, asked: Asked, reply: &Value) {
        let error = reply["error"]["code"].as_u64();
        match asked {
            Asked::Connect if error.is_none() => {
                assert!(!self.is_connected, "connected twice");
                assert!(
                    self.stays.is_empty(),
                    "something of a room before the answer"
                );
                self.is_connected = true;
                let subs = reply["connect"]["subs"].as_object();
                for (room, result) in subs.into_iter().flatten() {
                    self.enter(room, None, result);
                }
            }
            Asked::Connect => self.is_turned_away = true,
            Asked::Subscribe { room, since } => match error {
                None => self.enter(&room, since, &reply["subscribe"]),
                Some(code) => self.errors.push((room, code)),
            },
            Asked::Unsubscribe(room) => {
                assert!(reply["unsubscribe"].is_object(), "{reply}");
                self.leave(&room);
            }
            Asked::Publish { text, room } => {
                if let Some(code) = error {
                    self.errors.push((room.clone(), code));
                    let sent = self.sent.get_mut(&room).expect("sent before");
                    sent.retain(|one| *one != text);
                    self.refused.push(text);
                }
            }
            Asked::Question(question) => {
                assert!(error.is_some() || reply[question].is_object(), "{reply}");
            }
        }
    }

    fn hear(&mut self, push: &Value) {
        if let Some(message) = push.get("message") {
            let data = &message["data"];
            if let Some(skipped) = data.get("skipped") {
                let room = skipped["room"].as_str().expect("a room");
                let count = skipped["count"].as_u64().expect("a count");
                self.stay(room).words.push(Word::Skipped(count));
            } else {
                self.announced.push(data.as_str().expect("text").to_owned());
            }
            return;
        }
        if push.get("refresh").is_some() {
            return;
        }
        let room = push["channel"].as_str().expect("a channel").to_owned();
        if let Some(publication) = push.get("pub") {
            let word = word_of(publication);
            self.stay(&room).words.push(word);
        } else if let Some(subscribe) = push.get("subscribe") {
            self.enter(&room, None, subscribe);
        } else if let Some(unsubscribe) = push.get("unsubscribe") {
            let code = unsubscribe["code"].as_u64().expect("a code");
            *self.put_out.entry((room.clone(), code)).or_default() += 1;
            self.leave(&room);
        } else {
            panic!("an unknown push: {push}");
        }
    }

    fn enter(&mut self, room: &str, since: Option<(String, u64)>, result: &Value) {
        let is_recoverable = result["recoverable"] == true;
        let position = is_recoverable.then(|| {
            let epoch = result["epoch"].as_str().expect("an epoch").to_owned();
            (epoch, result["offset"].as_u64().unwrap_or(0))
        });
        let missed = result["publications"].as_array();
        let stays = self.stays.entry(room.to_owned()).or_default();
        assert!(
            stays.last().is_none_or(|stay| stay.is_over),
            "{room}: entered twice"
        );
        stays.push(Stay {
            position,
            since,
            is_recovered: result["recovered"] == true,
            words: missed.into_iter().flatten().map(word_of).collect(),
            is_over: false,
        });
    }

    fn leave(&mut self, room: &str) {
        if let Some(stay) = self.stays.get_mut(room).and_then(|stays| stays.last_mut()) {
            stay.is_over = true;
        }
    }

    fn stay(&mut self, room: &str) -> &mut Stay {
        let stay = self.stays.get_mut(room).and_then(|stays| stays.last_mut());
        stay.filter(|stay| !stay.is_over)
            .unwrap_or_else(|| panic!("{room}: told of a room that it is not in"))
    }
}

fn word_of(publication: &Value) -> Word {
    let data = &publication["data"];
    let (payload, is_text) = match data.get("b64").and_then(Value::as_str) {
        Some(b64) => (from_base64(b64), Some(false)),
        None => match data.as_str() {
            Some(text) => (text.as_bytes().to_vec(), Some(true)),
            None => (data.to_string().into_bytes(), Some(true)),
        },
    };
    Word::Publication {
        offset: publication["offset"].as_u64().expect("an offset"),
        payload,
        is_text,
        was_compressed: false,
        unix_ms: None,
    }
}

pub(crate) fn from_base64(text: &str) -> Vec<u8> {
    use base64::Engine as _;
    let engine = base64::engine::general_purpose::STANDARD;
    engine.decode(text).expect("binary is in base64")
}
