//! What Redis says, read as the threads read it that hear it: for tests that let it say anything.

use std::time::Duration;

use bytes::Bytes;

use super::feed;
use super::question::{Answer, Pending};
use crate::base::{Instant, RoomName};
use crate::cluster::{Event, Request};

/// What a shard is told when Redis gives this reply to its request; `None` for nothing, and for what
/// cannot be read.
#[must_use]
pub fn reply(request: Request, bytes: &[u8]) -> Option<Event> {
    let value = redis::parse_redis_value(bytes).ok()?;
    match Pending::new(0, request, Instant::ORIGIN, Duration::ZERO).read(value) {
        Answer::Done(event) => event,
        Answer::Wait | Answer::Unknown | Answer::Nonsense => None,
    }
}

/// What a shard is told when this is published on the channel of a room.
#[must_use]
pub fn message(room: RoomName, payload: &Bytes) -> Option<Event> {
    match payload.first() {
        Some(b'p') => feed::fed(room, payload).map(|(event, _)| event),
        _ => feed::told(room, payload),
    }
}
