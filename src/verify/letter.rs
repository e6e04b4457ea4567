//! What is published, and the envelopes it comes back in.
//!
//! Owns: the form of a *letter* (run, publisher, number and time, filled up to the wanted size) and the
//! reading of the JSON envelopes. Written from the protocol's description, not from the server's code.
//! Never: believes a server. A letter that differs in one byte from what was published is foreign.

use std::time::Duration;

use serde_json::{Map, Value};

/// Smallest letter, in bytes: the longest head there can be, and some filling.
pub(super) const SIZE_MIN: usize = 64;

/// Names one published message: its publisher, and how many that publisher had sent with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Letter {
    /// Index of the publisher.
    pub(super) publisher: u32,
    /// Counts from 1.
    pub(super) number: u64,
}

impl Letter {
    /// Returns the text to publish, exactly `size` bytes.
    pub(super) fn to_text(self, run: u32, sent_at_ns: u64, size: usize) -> String {
        let mut text = format!(
            "{run:x}.{:x}.{:x}.{sent_at_ns:x}.",
            self.publisher, self.number
        );
        while text.len() < size {
            text.push(char::from(self.filling(text.len())));
        }
        text
    }

    /// Reads a letter of this run and its time. Returns nothing unless every byte is as it was sent.
    pub(super) fn from_text(text: &str, run: u32, size: usize) -> Option<(Self, u64)> {
        let mut parts = text.splitn(5, '.');
        let mut next = || parts.next();
        if u32::from_str_radix(next()?, 16).ok()? != run || text.len() != size {
            return None;
        }
        let letter = Self {
            publisher: u32::from_str_radix(next()?, 16).ok()?,
            number: u64::from_str_radix(next()?, 16).ok()?,
        };
        let sent_at_ns = u64::from_str_radix(next()?, 16).ok()?;
        let filling = next()?.as_bytes();
        let start = size - filling.len();
        let is_whole = filling
            .iter()
            .enumerate()
            .all(|(index, &byte)| byte == letter.filling(start + index));
        is_whole.then_some((letter, sent_at_ns))
    }

    /// The byte that fills the place `index`; it differs from letter to letter.
    fn filling(self, index: usize) -> u8 {
        let turn = self.number.wrapping_mul(7).wrapping_add(index as u64) % 26;
        b'a' + u8::try_from(turn).unwrap_or(0)
    }
}

/// One frame of `format=json`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Envelope {
    /// Membership begins.
    Joined {
        room: String,
        epoch: String,
        offset: u64,
        recovered: bool,
        /// -1 when the server does not know.
        lost: i64,
    },
    /// One publication; no data if it is binary, which letters are not.
    Publication {
        room: String,
        offset: u64,
        data: Option<String>,
    },
    /// Publications that will not come.
    Skipped { room: String, count: u64 },
    /// The server is about to close.
    Closing {
        /// How long the client is asked to stay away, in milliseconds.
        retry_ms: Option<u64>,
    },
    /// A heartbeat, a message to everybody, or a kind that later servers know.
    Other,
}

impl Envelope {
    /// Reads one frame. Returns nothing if it is no envelope or lacks a part of its kind.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let Ok(Value::Object(mut outer)) = serde_json::from_str(text) else {
            return None;
        };
        if let Some(Value::Object(mut body)) = outer.remove("publication") {
            // A message to everybody (`publish_all`) belongs to no room and has no number.
            if !body.contains_key("room") && !body.contains_key("offset") {
                return Some(Self::Other);
            }
            let data = match body.remove("data") {
                Some(Value::String(text)) => Some(text),
                _ => None,
            };
            return Some(Self::Publication {
                room: take_text(&mut body, "room")?,
                offset: body.get("offset")?.as_u64()?,
                data,
            });
        }
        if let Some(Value::Object(mut body)) = outer.remove("joined") {
            return Some(Self::Joined {
                room: take_text(&mut body, "room")?,
                epoch: take_text(&mut body, "epoch")?,
                offset: body.get("offset")?.as_u64()?,
                recovered: body.get("recovered")?.as_bool()?,
                lost: body.get("lost")?.as_i64()?,
            });
        }
        if let Some(Value::Object(mut body)) = outer.remove("skipped") {
            return Some(Self::Skipped {
                room: take_text(&mut body, "room")?,
                count: body.get("count")?.as_u64()?,
            });
        }
        if let Some(body) = outer.remove("closing") {
            let retry_ms = body.get("retry_ms").and_then(Value::as_u64);
            return Some(Self::Closing { retry_ms });
        }
        Some(Self::Other)
    }
}

/// How long a client stays away that was asked to for so many milliseconds: a minute at most, as a
/// server need not be believed.
pub(super) fn absence(retry_ms: Option<u64>) -> Option<Duration> {
    retry_ms.map(|ms| Duration::from_millis(ms).min(Duration::from_secs(60)))
}

fn take_text(body: &mut Map<String, Value>, name: &str) -> Option<String> {
    match body.remove(name) {
        Some(Value::String(text)) => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_comes_back_and_no_other_byte_does() {
        let letter = Letter {
            publisher: 999,
            number: 10_000_000,
        };
        for size in [SIZE_MIN, 1_000] {
            let text = letter.to_text(u32::MAX, u64::MAX, size);
            assert_eq!(text.len(), size);
            assert_eq!(
                Letter::from_text(&text, u32::MAX, size),
                Some((letter, u64::MAX))
            );
            assert_eq!(Letter::from_text(&text, 1, size), None, "another run");
            let mut cut = text.clone();
            cut.pop();
            assert_eq!(Letter::from_text(&cut, u32::MAX, size), None);
            let swapped = text.replace('b', "c");
            assert_eq!(Letter::from_text(&swapped, u32::MAX, size), None);
        }
        assert_eq!(Letter::from_text("", 1, 64), None);
        assert_eq!(Letter::from_text("1.2.3.4", 1, 7), None);
    }

    #[test]
    fn envelopes_of_the_protocol_are_read() {
        let check = |text: &str, expected: Option<Envelope>| {
            assert_eq!(Envelope::parse(text), expected, "{text}");
        };
        check(
            r#"{"joined":{"room":"r","epoch":"k3Xa9","offset":5,"recovered":false,"lost":-1,"online":3}}"#,
            Some(Envelope::Joined {
                room: "r".into(),
                epoch: "k3Xa9".into(),
                offset: 5,
                recovered: false,
                lost: -1,
            }),
        );
        check(
            r#"{"publication":{"offset":4294967297,"room":"r","time":1,"user":"a","data":"x"}}"#,
            Some(Envelope::Publication {
                room: "r".into(),
                offset: 4_294_967_297,
                data: Some("x".into()),
            }),
        );
        check(
            r#"{"publication":{"offset":1,"room":"r","b64":"AA=="}}"#,
            Some(Envelope::Publication {
                room: "r".into(),
                offset: 1,
                data: None,
            }),
        );
        check(
            r#"{"skipped":{"room":"r","count":12}}"#,
            Some(Envelope::Skipped {
                room: "r".into(),
                count: 12,
            }),
        );
        check(
            r#"{"closing":{"code":3001,"reason":"shutdown","retry_ms":4300}}"#,
            Some(Envelope::Closing {
                retry_ms: Some(4300),
            }),
        );
        check(
            r#"{"closing":{"code":3008,"reason":"slow"}}"#,
            Some(Envelope::Closing { retry_ms: None }),
        );
        check(r#"{"heartbeat":{"time":1}}"#, Some(Envelope::Other));
        check(
            r#"{"publication":{"time":1,"data":"to everybody"}}"#,
            Some(Envelope::Other),
        );
        for broken in [
            "",
            "hello",
            "[]",
            r#"{"publication":{"room":"r"}}"#,
            r#"{"publication":{"offset":1}}"#,
            r#"{"publication":{"room":"r","offset":-1}}"#,
            r#"{"skipped":{"room":"r","count":"2"}}"#,
        ] {
            check(broken, None);
        }
    }
}
