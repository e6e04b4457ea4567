//! What the fuzzer runs: one function a target, which takes any bytes and panics if a promise is
//! broken.
//!
//! Each target has an oracle of its own: a naive reader with all bytes in hand, a model, or
//! invariants. `targets` holds the programs, `corpus` the inputs that every run begins with; the same
//! inputs go through the same functions in `tests/fuzz_corpora.rs`, which needs no fuzzer.

pub mod api;
pub mod body;
pub mod commands;
pub mod envelopes;
pub mod forwarded;
pub mod head;
pub mod history;
pub mod hub;
pub mod input;
pub mod json;
pub mod link;
pub mod query;
pub mod relay;
pub mod replies;
pub mod send_queue;
pub mod tokens;
pub mod upgrade;
pub mod websocket;
pub mod wheel;

use roomcast::wire::frame::Payload;
use roomcast::wire::node::Envelope;

use json::{Json, Value};

/// A function that takes any bytes and panics if a promise is broken.
pub type Check = fn(&[u8]);

/// Every target by its name, which is also that of its corpus.
pub const TARGETS: [(&str, Check); 17] = [
    ("api", api::check),
    ("body", body::check),
    ("commands", commands::check),
    ("envelopes", envelopes::check),
    ("forwarded", forwarded::check),
    ("head", head::check),
    ("history", history::check),
    ("hub", hub::check),
    ("link", link::check),
    ("query", query::check),
    ("relay", relay::check),
    ("replies", replies::check),
    ("send_queue", send_queue::check),
    ("tokens", tokens::check),
    ("upgrade", upgrade::check),
    ("websocket", websocket::check),
    ("wheel", wheel::check),
];

/// What is published for a `data` of JSON: a string is its text, anything else the value, compact.
fn payload_of(data: &Json<'_>) -> Option<Payload> {
    match &data.value {
        Value::Text(text) => Some(Payload::from(text.clone()?)),
        _ => Some(json_payload(&data.compact())),
    }
}

/// A payload of JSON with exactly this text. Only the server itself makes such, so it is read from an
/// envelope as nodes exchange it.
fn json_payload(text: &str) -> Payload {
    let mut bytes = vec![0; 30];
    bytes[0] = 1;
    bytes[25] = 2;
    bytes[26..].copy_from_slice(&(text.len() as u32).to_be_bytes());
    bytes.extend_from_slice(text.as_bytes());
    let envelope = Envelope::decode(&bytes.into());
    envelope.expect("an envelope").payload
}
