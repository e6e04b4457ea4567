//! What a member sees whose envelopes are JSON.

use serde_json::Value;

use super::{Client, Daemon};

/// A member whose envelopes are JSON, after its `joined`.
pub(crate) fn json_member(daemon: &Daemon, query: &str) -> Client {
    let mut member = Client::connect(daemon, &format!("/ws?format=json&{query}"));
    assert!(member.recv_json()["joined"].is_object());
    member
}

/// The next envelope, which must be that of a publication: its members.
pub(crate) fn publication(member: &mut Client) -> Value {
    let mut envelope = member.recv_json();
    let publication = envelope["publication"].take();
    assert!(publication.is_object(), "{envelope}");
    publication
}

/// The next publication: offset and data.
pub(crate) fn next(member: &mut Client) -> (u64, Value) {
    let publication = publication(member);
    let offset = publication["offset"].as_u64().expect("an offset");
    (offset, publication["data"].clone())
}
