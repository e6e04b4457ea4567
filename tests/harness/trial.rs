//! One connection that must end for a known reason, and the books that must balance afterwards.

use std::net::SocketAddr;

use super::Daemon;

/// The state of the daemon before a connection that is about to misbehave.
pub(crate) struct Trial<'d> {
    daemon: &'d Daemon,
    reasons: &'static [&'static str],
    closes: f64,
    connections: f64,
}

impl<'d> Trial<'d> {
    /// Takes the state. The connection may end for any one of `reasons`, usually only one.
    ///
    /// Asking for metrics is `answered` too, so of that reason there may be more.
    pub(crate) fn begin(daemon: &'d Daemon, reasons: &'static [&'static str]) -> Self {
        Self {
            daemon,
            reasons,
            closes: Self::closes(daemon, reasons),
            connections: daemon.metric("roomcast_connections"),
        }
    }

    /// Asserts that the connection from `peer` got one log line with the reason, that its counter moved
    /// by one, and that the daemon holds no more connections than before.
    pub(crate) fn assert_ended(&self, peer: SocketAddr) {
        let line = self.daemon.expect_closed(peer);
        let given = |reason: &&str| line.contains(&format!("reason={reason} "));
        assert!(
            self.reasons.iter().any(given),
            "not {:?}: {line}",
            self.reasons
        );
        self.daemon
            .wait_metric("roomcast_connections", |now| now <= self.connections);
        let counted = Self::closes(self.daemon, self.reasons) - self.closes;
        let is_shared = self.reasons.contains(&"answered");
        assert!(
            counted == 1.0 || counted > 1.0 && is_shared,
            "{:?} was counted {counted} times",
            self.reasons
        );
    }

    fn closes(daemon: &Daemon, reasons: &[&str]) -> f64 {
        reasons.iter().map(|reason| daemon.closes(reason)).sum()
    }
}
