//! A client of `/connection/websocket` that writes its commands itself, one JSON object a line.
//!
//! Whatever comes is checked for what every SDK relies on: text, one object a line, no empty line.
//! Pings are handed on like everything else.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Client, DEADLINE, Daemon, Dial, Message};

/// Where they connect.
pub(crate) const SDK_PATH: &str = "/connection/websocket";

/// A connection, and what of the messages received was not looked at yet.
pub(crate) struct Sdk {
    pub(crate) wire: Client,
    /// Of the message in hand.
    lines: VecDeque<String>,
    /// Read while something else was waited for.
    kept: VecDeque<Value>,
    last_id: u32,
    /// What the answer to `connect` has called it.
    pub(crate) client: String,
}

impl Sdk {
    /// Opens a WebSocket and says nothing.
    pub(crate) fn open(daemon: &Daemon) -> Self {
        Self::of(Client::connect(daemon, SDK_PATH))
    }

    pub(crate) fn of(wire: Client) -> Self {
        Self {
            wire,
            lines: VecDeque::new(),
            kept: VecDeque::new(),
            last_id: 0,
            client: String::new(),
        }
    }

    /// Opens one that takes little while it is not read.
    pub(crate) fn narrow(daemon: &Daemon) -> Self {
        let dial = Dial::new(daemon.addr(), SDK_PATH).receive_buffer(4096);
        Self::of(dial.connect())
    }

    /// Connects without a token.
    pub(crate) fn connected(daemon: &Daemon) -> Self {
        let mut sdk = Self::open(daemon);
        sdk.connect(&json!({}));
        sdk
    }

    /// Connects as this user, where no token is needed.
    pub(crate) fn user(daemon: &Daemon, user: &str) -> Self {
        let target = format!("{SDK_PATH}?user={user}");
        let mut sdk = Self::of(Client::connect(daemon, &target));
        sdk.connect(&json!({}));
        sdk
    }

    /// Connects with a token.
    pub(crate) fn with_token(daemon: &Daemon, token: &str) -> Self {
        let mut sdk = Self::open(daemon);
        sdk.connect(&json!({ "token": token }));
        sdk
    }

    /// Connects, and subscribes to `room`.
    pub(crate) fn member(daemon: &Daemon, room: &str) -> Self {
        let mut sdk = Self::connected(daemon);
        sdk.subscribe(room);
        sdk
    }

    /// Sends `connect`, which must succeed, and returns the result.
    pub(crate) fn connect(&mut self, request: &Value) -> Value {
        let result = self.ask("connect", request);
        let client = result["client"].as_str().expect("a client id");
        assert!(!client.is_empty(), "{result}");
        assert_eq!(result["version"], env!("CARGO_PKG_VERSION"), "{result}");
        client.clone_into(&mut self.client);
        result
    }

    /// Subscribes without resuming, and returns the result.
    pub(crate) fn subscribe(&mut self, room: &str) -> Value {
        self.ask("subscribe", &json!({ "channel": room, "flag": 1 }))
    }

    /// Subscribes with a position to resume from, and returns the result.
    pub(crate) fn resume(&mut self, room: &str, epoch: &str, offset: u64) -> Value {
        self.ask("subscribe", &resume(room, epoch, offset))
    }

    /// Sends lines as they are, in one message.
    pub(crate) fn send_text(&mut self, text: &str) {
        self.wire.send_text(text);
    }

    /// Sends a command and does not wait; returns its id.
    pub(crate) fn send(&mut self, method: &str, request: &Value) -> u32 {
        let line = self.line(method, request);
        self.wire.send_text(&line);
        self.last_id
    }

    /// The next command as a line, to be sent.
    pub(crate) fn line(&mut self, method: &str, request: &Value) -> String {
        self.last_id += 1;
        json!({ "id": self.last_id, method: request }).to_string()
    }

    /// Sends a command, and returns its result, which must be the whole of the reply.
    pub(crate) fn ask(&mut self, method: &str, request: &Value) -> Value {
        let id = self.send(method, request);
        self.result(method, id)
    }

    /// The result of a command that was sent.
    pub(crate) fn result(&mut self, method: &str, id: u32) -> Value {
        let mut reply = self.reply(id);
        let result = reply[method].take();
        assert!(result.is_object(), "{method}: {reply}");
        assert_eq!(reply, json!({ "id": id, method: null }));
        result
    }

    /// Sends a command that must fail, and returns its code.
    pub(crate) fn error(&mut self, method: &str, request: &Value) -> u64 {
        let id = self.send(method, request);
        self.error_of(id)
    }

    /// The code of the error that a command came to. Its words, and whether it is temporary, must be
    /// those of the protocol.
    pub(crate) fn error_of(&mut self, id: u32) -> u64 {
        let reply = self.reply(id);
        let code = reply["error"]["code"].as_u64();
        let code = code.unwrap_or_else(|| panic!("no error: {reply}"));
        let (_, message) = *ERRORS.iter().find(|(one, _)| *one == code).expect("known");
        let mut error = json!({ "code": code, "message": message });
        if code == 100 {
            error["temporary"] = json!(true);
        }
        assert_eq!(reply, json!({ "id": id, "error": error }));
        code
    }

    /// The reply to a command; what comes before it is kept.
    pub(crate) fn reply(&mut self, id: u32) -> Value {
        if let Some(place) = self.kept.iter().position(|line| line["id"] == id) {
            return self.kept.remove(place).expect("just found");
        }
        loop {
            let line = self.fresh();
            if line["id"] == id {
                return line;
            }
            self.kept.push_back(line);
        }
    }

    /// The next line that was not looked at.
    pub(crate) fn next(&mut self) -> Value {
        match self.kept.pop_front() {
            Some(line) => line,
            None => self.fresh(),
        }
    }

    /// The next line, which must be a push: what is in it.
    pub(crate) fn push(&mut self) -> Value {
        let mut line = self.next();
        let push = line["push"].take();
        assert!(push.is_object(), "no push: {line}");
        assert_eq!(line, json!({ "push": null }));
        push
    }

    /// The next line, which must be a publication of `room`: what is in it.
    pub(crate) fn publication(&mut self, room: &str) -> Value {
        let mut push = self.push();
        let publication = push["pub"].take();
        assert!(publication.is_object(), "no publication: {push}");
        assert_eq!(push, json!({ "channel": room, "pub": null }));
        publication
    }

    /// Asserts that the next line is a publication of `room` with these and no other members.
    pub(crate) fn expect_publication(&mut self, room: &str, publication: &Value) {
        assert_eq!(self.publication(room), *publication);
    }

    /// Asserts that nothing waits to be read: what comes next is the answer to a question. A
    /// publication distributed before the question would come before the answer.
    pub(crate) fn expect_nothing_before_answer(&mut self) {
        let id = self.send("unsubscribe", &json!({ "channel": "never subscribed to" }));
        assert_eq!(self.next(), json!({ "id": id, "unsubscribe": {} }));
    }

    /// Asserts that what comes next is a close.
    pub(crate) fn expect_close(&mut self, code: u16, reason: &str) {
        assert_eq!(self.kept, Vec::<Value>::new());
        assert_eq!(self.lines, Vec::<String>::new());
        self.wire.expect_close(code, reason);
    }

    /// The next line as it stands, apart from those that were kept.
    pub(crate) fn fresh_text(&mut self) -> String {
        self.text_by(Instant::now() + DEADLINE)
            .unwrap_or_else(|| panic!("nothing within {DEADLINE:?}, kept: {:?}", self.kept))
    }

    /// The next line, or `None` if there is none within `span`.
    pub(crate) fn next_within(&mut self, span: Duration) -> Option<Value> {
        if let Some(line) = self.kept.pop_front() {
            return Some(line);
        }
        self.text_by(Instant::now() + span)
            .map(|line| object(&line))
    }

    fn fresh(&mut self) -> Value {
        object(&self.fresh_text())
    }

    fn text_by(&mut self, deadline: Instant) -> Option<String> {
        if let Some(line) = self.lines.pop_front() {
            return Some(line);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        match self.wire.recv_within(left)? {
            Message::Text(text) => self.lines.extend(lines_of(&text)),
            other => panic!("no text but {other:?}"),
        }
        self.lines.pop_front()
    }
}

/// The lines of a message, none of which may be empty.
pub(crate) fn lines_of(text: &str) -> Vec<String> {
    let lines: Vec<String> = text.split('\n').map(str::to_owned).collect();
    assert!(lines.iter().all(|line| !line.is_empty()), "{text:?}");
    lines
}

/// What `subscribe` asks for that resumes.
pub(crate) fn resume(room: &str, epoch: &str, offset: u64) -> Value {
    json!({ "channel": room, "flag": 1, "recover": true, "epoch": epoch, "offset": offset })
}

fn object(line: &str) -> Value {
    match serde_json::from_str(line) {
        Ok(value @ Value::Object(_)) => value,
        other => panic!("no JSON object: {line:?}: {other:?}"),
    }
}

/// The errors of the protocol that are in use here.
const ERRORS: [(u64, &str); 9] = [
    (100, "internal server error"),
    (103, "permission denied"),
    (105, "already subscribed"),
    (106, "limit exceeded"),
    (107, "bad request"),
    (108, "not available"),
    (109, "token expired"),
    (110, "expired"),
    (112, "unrecoverable position"),
];
