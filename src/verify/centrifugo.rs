//! The Centrifugo client protocol, as far as a test needs it: commands written, replies read.
//!
//! Owns: the text of commands and the reading of replies and pushes. Written from the protocol's
//! description, not from the server's code.
//! Never: believes a server. What an SDK would stumble over is nothing that can be read here: an empty
//! line, an object without a known part, a publication without an offset.

use serde_json::{Map, Value, json};

/// The endpoint.
pub(super) const PATH: &str = "/connection/websocket";

/// Answers a ping, and is one.
pub(super) const PONG: &str = "{}";

/// The first command of a connection.
pub(super) fn connect(id: u32, token: Option<&str>) -> String {
    match token {
        Some(token) => json!({ "id": id, "connect": { "token": token } }).to_string(),
        None => json!({ "id": id, "connect": {} }).to_string(),
    }
}

/// Subscribes to a room, resuming after `since` if that is given.
pub(super) fn subscribe(id: u32, room: &str, since: Option<&(String, u64)>) -> String {
    let mut request = json!({ "channel": room });
    if let Some((epoch, offset)) = since {
        request["recover"] = true.into();
        request["epoch"] = epoch.as_str().into();
        request["offset"] = (*offset).into();
    }
    json!({ "id": id, "subscribe": request }).to_string()
}

/// Publishes a text.
pub(super) fn publish(id: u32, room: &str, text: &str) -> String {
    json!({ "id": id, "publish": { "channel": room, "data": text } }).to_string()
}

/// Whether an SDK stays away that is closed with this code.
pub(super) fn is_terminal(code: u16) -> bool {
    matches!(code, 1009 | 3500..=3999 | 4500..=4999)
}

/// One line of a message from the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// To be answered with [`PONG`].
    Ping,
    /// A command was carried out.
    Done { id: u32, answer: Answer },
    /// A command was not, or nobody knows.
    Failed { id: u32, failure: Failure },
    /// A live publication.
    Publication { room: String, one: Numbered },
    /// A membership has ended.
    Unsubscribed {
        room: String,
        code: u64,
        reason: String,
    },
    /// Publications of a lossy room that will not come.
    Skipped { room: String, count: u64 },
    /// A push of no concern.
    Other,
}

/// What a command came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Connected,
    Subscribed(Subscribed),
    Published,
    /// A command that the test does not send.
    Other,
}

/// Why a command failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) code: u64,
    pub(super) text: String,
    /// Whether an SDK tries again.
    pub(super) is_passing: bool,
}

/// What a subscription came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Subscribed {
    /// None in a room without history.
    pub(super) epoch: Option<String>,
    pub(super) offset: u64,
    pub(super) was_recovering: bool,
    pub(super) is_recovered: bool,
    pub(super) publications: Vec<Numbered>,
}

/// A publication, with no data if it is no text, which letters are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Numbered {
    pub(super) offset: u64,
    pub(super) data: Option<String>,
}

impl Reply {
    /// Reads the lines of one message; nothing stands for what cannot be read.
    pub(super) fn lines(text: &str) -> impl Iterator<Item = Option<Self>> {
        text.trim().split('\n').map(Self::parse)
    }

    fn parse(line: &str) -> Option<Self> {
        let Ok(Value::Object(mut outer)) = serde_json::from_str(line) else {
            return None;
        };
        if outer.is_empty() {
            return Some(Self::Ping);
        }
        if let Some(id) = outer.get("id") {
            let id = u32::try_from(id.as_u64()?).ok().filter(|id| *id > 0)?;
            return Self::of_command(id, &mut outer);
        }
        match outer.remove("push") {
            Some(Value::Object(push)) => Self::of_push(push),
            _ => None,
        }
    }

    fn of_command(id: u32, outer: &mut Map<String, Value>) -> Option<Self> {
        if let Some(error) = outer.remove("error") {
            let code = error.get("code")?.as_u64()?;
            let is_temporary = error.get("temporary").and_then(Value::as_bool);
            let text = error.get("message").and_then(Value::as_str);
            let failure = Failure {
                code,
                text: format!("error {code} {}", text.unwrap_or_default()),
                is_passing: code < 100 || code == 109 || is_temporary == Some(true),
            };
            return Some(Self::Failed { id, failure });
        }
        let answer = if let Some(body) = outer.remove("subscribe") {
            Answer::Subscribed(Subscribed::read(body)?)
        } else if outer.contains_key("connect") {
            Answer::Connected
        } else if outer.contains_key("publish") {
            Answer::Published
        } else {
            Answer::Other
        };
        Some(Self::Done { id, answer })
    }

    fn of_push(mut push: Map<String, Value>) -> Option<Self> {
        if let Some(mut message) = push.remove("message") {
            return match message.pointer_mut("/data/skipped").map(Value::take) {
                None => Some(Self::Other),
                Some(skipped) => Some(Self::Skipped {
                    room: skipped.get("room")?.as_str()?.to_owned(),
                    count: skipped.get("count")?.as_u64()?,
                }),
            };
        }
        let room = match push.remove("channel") {
            Some(Value::String(room)) => room,
            _ => String::new(),
        };
        if let Some(body) = push.remove("pub") {
            let one = Numbered::read(body)?;
            return Some(Self::Publication { room, one });
        }
        if let Some(body) = push.remove("unsubscribe") {
            let reason = body.get("reason").and_then(Value::as_str);
            return Some(Self::Unsubscribed {
                room,
                code: body.get("code")?.as_u64()?,
                reason: reason.unwrap_or_default().to_owned(),
            });
        }
        Some(Self::Other)
    }
}

impl Subscribed {
    /// What is 0, false or empty may be left out.
    fn read(body: Value) -> Option<Self> {
        let Value::Object(mut body) = body else {
            return None;
        };
        let is_set = |name: &str| body.get(name) == Some(&Value::Bool(true));
        let (was_recovering, is_recovered) = (is_set("was_recovering"), is_set("recovered"));
        let publications = match body.remove("publications") {
            Some(Value::Array(all)) => all.into_iter().map(Numbered::read).collect(),
            Some(_) => None,
            None => Some(Vec::new()),
        };
        let epoch = match body.remove("epoch") {
            Some(Value::String(epoch)) => Some(epoch),
            _ => None,
        };
        Some(Self {
            epoch: epoch.filter(|epoch| !epoch.is_empty()),
            offset: body.get("offset").map_or(Some(0), Value::as_u64)?,
            was_recovering,
            is_recovered,
            publications: publications?,
        })
    }
}

impl Numbered {
    fn read(mut body: Value) -> Option<Self> {
        let data = match body.get_mut("data")?.take() {
            Value::String(text) => Some(text),
            _ => None,
        };
        let offset = body.get("offset")?.as_u64().filter(|offset| *offset > 0)?;
        Some(Self { offset, data })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_written_as_the_protocol_has_them() {
        let since = ("e".to_owned(), 7);
        for (found, expected) in [
            (connect(1, None), r#"{"connect":{},"id":1}"#),
            (connect(1, Some("t")), r#"{"connect":{"token":"t"},"id":1}"#),
            (
                subscribe(2, "a\"b", None),
                r#"{"id":2,"subscribe":{"channel":"a\"b"}}"#,
            ),
            (
                subscribe(3, "r", Some(&since)),
                r#"{"id":3,"subscribe":{"channel":"r","epoch":"e","offset":7,"recover":true}}"#,
            ),
            (
                publish(4, "r", "x"),
                r#"{"id":4,"publish":{"channel":"r","data":"x"}}"#,
            ),
        ] {
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn replies_of_the_protocol_are_read() {
        let check = |text: &str, expected: Option<Reply>| {
            let found: Vec<_> = Reply::lines(text).collect();
            assert_eq!(found, [expected], "{text}");
        };
        let numbered = |offset, data: &str| Numbered {
            offset,
            data: Some(data.to_owned()),
        };
        let done = |id, answer| Some(Reply::Done { id, answer });
        let failed = |id, code, text: &str, is_passing| {
            let text = text.to_owned();
            let failure = Failure {
                code,
                text,
                is_passing,
            };
            Some(Reply::Failed { id, failure })
        };
        check("{}", Some(Reply::Ping));
        check(
            r#"{"id":1,"connect":{"client":"a","version":"1","ping":25,"pong":true}}"#,
            done(1, Answer::Connected),
        );
        check(r#"{"id":9,"publish":{}}"#, done(9, Answer::Published));
        check(r#"{"id":9,"presence":{}}"#, done(9, Answer::Other));
        check(
            r#"{"id":2,"subscribe":{}}"#,
            done(2, Answer::Subscribed(Subscribed::default())),
        );
        check(
            r#"{"id":2,"subscribe":{"recoverable":true,"epoch":"e","offset":43,"positioned":true,"recovered":true,"was_recovering":true,"publications":[{"data":"x","offset":44},{"data":"y","offset":45,"info":{"user":"","client":"a"}}]}}"#,
            done(
                2,
                Answer::Subscribed(Subscribed {
                    epoch: Some("e".to_owned()),
                    offset: 43,
                    was_recovering: true,
                    is_recovered: true,
                    publications: vec![numbered(44, "x"), numbered(45, "y")],
                }),
            ),
        );
        check(
            r#"{"id":3,"error":{"code":103,"message":"permission denied"}}"#,
            failed(3, 103, "error 103 permission denied", false),
        );
        check(
            r#"{"id":3,"error":{"code":100,"message":"m","temporary":true}}"#,
            failed(3, 100, "error 100 m", true),
        );
        check(
            r#"{"id":3,"error":{"code":109,"message":"token expired"}}"#,
            failed(3, 109, "error 109 token expired", true),
        );
        check(
            r#"{"push":{"channel":"r","pub":{"data":"x","offset":4294967297}}}"#,
            Some(Reply::Publication {
                room: "r".to_owned(),
                one: numbered(4_294_967_297, "x"),
            }),
        );
        check(
            r#"{"push":{"channel":"r","pub":{"data":{"a":1},"offset":1}}}"#,
            Some(Reply::Publication {
                room: "r".to_owned(),
                one: Numbered {
                    offset: 1,
                    data: None,
                },
            }),
        );
        check(
            r#"{"push":{"channel":"r","unsubscribe":{"code":2500,"reason":"insufficient state"}}}"#,
            Some(Reply::Unsubscribed {
                room: "r".to_owned(),
                code: 2500,
                reason: "insufficient state".to_owned(),
            }),
        );
        check(
            r#"{"push":{"message":{"data":{"skipped":{"room":"r","count":12}}}}}"#,
            Some(Reply::Skipped {
                room: "r".to_owned(),
                count: 12,
            }),
        );
        for other in [
            r#"{"push":{"message":{"data":1}}}"#,
            r#"{"push":{"message":{"data":[{"skipped":1}]}}}"#,
            r#"{"push":{"message":null}}"#,
            r#"{"push":{}}"#,
        ] {
            check(other, Some(Reply::Other));
        }
        check(r#"{"push":{"channel":"r","join":{}}}"#, Some(Reply::Other));
        for broken in [
            "",
            "hello",
            "[]",
            r#"{"id":0,"publish":{}}"#,
            r#"{"id":"1","publish":{}}"#,
            r#"{"time":1}"#,
            r#"{"push":{"channel":"r","pub":{"data":"x"}}}"#,
            r#"{"push":{"channel":"r","pub":1}}"#,
            r#"{"push":{"channel":"r","unsubscribe":1}}"#,
            r#"{"push":1}"#,
            r#"{"id":2,"subscribe":1}"#,
            r#"{"id":2,"subscribe":{"publications":1}}"#,
            r#"{"id":2,"error":1}"#,
            r#"{"push":{"channel":"r","pub":{"offset":1}}}"#,
            r#"{"push":{"channel":"r","pub":{"data":"x","offset":-1}}}"#,
            r#"{"push":{"message":{"data":{"skipped":{"room":"r"}}}}}"#,
            r#"{"id":2,"subscribe":{"publications":[{"data":"x"}]}}"#,
            r#"{"id":2,"subscribe":{"offset":"1"}}"#,
        ] {
            check(broken, None);
        }
    }

    #[test]
    fn a_message_has_a_reply_a_line_and_no_empty_one() {
        let count = |text: &str| {
            let lines = Reply::lines(text);
            lines.map(|line| line.is_some()).collect::<Vec<_>>()
        };
        assert_eq!(count("{}\n{\"id\":1,\"publish\":{}}\n"), [true, true]);
        assert_eq!(count("{}\n\n{}"), [true, false, true]);
    }

    #[test]
    fn codes_that_end_it_for_good() {
        for (code, is_final) in [
            (1000, false),
            (1009, true),
            (3001, false),
            (3499, false),
            (3500, true),
            (3999, true),
            (4000, false),
            (4500, true),
            (5000, false),
        ] {
            assert_eq!(is_terminal(code), is_final, "{code}");
        }
    }
}
