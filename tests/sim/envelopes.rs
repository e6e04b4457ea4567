//! What a json client was told, room by room.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::client::{Client, Seen};
use crate::commands::{Word, from_base64};

/// What a json member was told of one room.
#[derive(Debug)]
pub(super) struct JsonLedger {
    pub(super) epoch: String,
    pub(super) offset: u64,
    /// -1 where it cannot be known.
    pub(super) lost: i64,
    pub(super) words: Vec<Word>,
}

/// What a json client was told of each room, and what all were told.
pub(super) fn ledgers(client: &Client) -> (BTreeMap<String, JsonLedger>, Vec<String>) {
    let mut rooms: BTreeMap<String, JsonLedger> = BTreeMap::new();
    let mut announced = Vec::new();
    for seen in &client.seen {
        let Seen::Message {
            payload,
            was_compressed,
            ..
        } = seen
        else {
            continue;
        };
        let value: Value = serde_json::from_slice(payload).expect("an envelope is JSON");
        let object = value.as_object().and_then(|map| map.iter().next());
        let (kind, body) = object.expect("a kind");
        let room = || body["room"].as_str().expect("a room").to_owned();
        let joined = "joined comes first";
        match kind.as_str() {
            "joined" => {
                let ledger = JsonLedger::of(body);
                let before = rooms.insert(room(), ledger);
                assert!(before.is_none(), "{}: joined twice", client.id);
            }
            "publication" if body["room"].is_null() => {
                announced.push(body["data"].as_str().expect("text").to_owned());
            }
            "publication" => {
                let word = word_of(body, *was_compressed);
                rooms.get_mut(&room()).expect(joined).words.push(word);
            }
            "skipped" => {
                let count = body["count"].as_u64().expect("a count");
                let words = &mut rooms.get_mut(&room()).expect(joined).words;
                words.push(Word::Skipped(count));
            }
            "heartbeat" | "closing" => {}
            other => panic!("an unknown envelope: {other}"),
        }
    }
    (rooms, announced)
}

impl JsonLedger {
    fn of(joined: &Value) -> Self {
        let lost = joined["lost"].as_i64().expect("a number");
        assert_eq!(joined["recovered"] == true, lost == 0, "{joined}");
        Self {
            epoch: joined["epoch"].as_str().expect("an epoch").to_owned(),
            offset: joined["offset"].as_u64().expect("an offset"),
            lost,
            words: Vec::new(),
        }
    }
}

fn word_of(publication: &Value, was_compressed: bool) -> Word {
    let data = &publication["data"];
    let (payload, is_text) = match (data, publication["b64"].as_str()) {
        (Value::Null, Some(b64)) => (from_base64(b64), false),
        (Value::String(text), None) => (text.as_bytes().to_vec(), true),
        (value, None) => (value.to_string().into_bytes(), true),
        _ => panic!("data or b64: {publication}"),
    };
    Word::Publication {
        offset: publication["offset"].as_u64().expect("an offset"),
        payload,
        is_text: Some(is_text),
        was_compressed,
        unix_ms: publication["time"].as_u64(),
    }
}
