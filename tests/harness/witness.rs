//! A healthy publisher and member, to prove that a daemon under attack still serves others.

use super::{Client, Daemon};

/// Two connections that share a room no other client uses.
pub(crate) struct Witness {
    publisher: Client,
    member: Client,
    published: u64,
}

impl Witness {
    /// Joins both, and publishes once to know that they are members.
    pub(crate) fn new(daemon: &Daemon) -> Self {
        Self::in_room(daemon, "witness")
    }

    /// The same in a room that others may share, as long as they do not publish.
    pub(crate) fn in_room(daemon: &Daemon, room: &str) -> Self {
        let members = daemon.metric("roomcast_members");
        let target = format!("/ws?room={room}");
        let member = Client::connect(daemon, &target);
        let publisher = Client::connect(daemon, &format!("{target}&echo=0"));
        daemon.wait_metric("roomcast_members", |now| now == members + 2.0);
        let mut witness = Self {
            publisher,
            member,
            published: 0,
        };
        witness.assert_served();
        witness
    }

    /// Publishes, and asserts that exactly this reaches the member next.
    pub(crate) fn assert_served(&mut self) {
        self.published += 1;
        let text = format!("witness {}", self.published);
        self.publisher.send_text(&text);
        assert_eq!(self.member.recv_text(), text);
    }
}
