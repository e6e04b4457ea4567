//! What holds between any two calls of the hub.

use std::collections::HashSet;

use super::Hub;
use crate::base::DuplicateLogin;
use crate::conn::session::Session;
use crate::conn::{Connection, Purpose};

impl<S> Hub<S> {
    /// Asserts the invariants; for the simulator. Takes time in the number of connections.
    pub fn check_invariants(&self) {
        self.members.check_invariants();
        self.wheel.check_invariants();
        let mut members_len = 0;
        for conn in self.table.iter() {
            conn.check_invariants();
            if let Some(deadline) = conn.next_deadline(&self.limits) {
                assert!(
                    self.wheel.contains(conn.id.slot),
                    "{}: no timer until {deadline:?}",
                    conn.id
                );
            }
            let rooms = self.members.rooms_of(conn.id.slot).count();
            assert!(
                rooms == 0 || !conn.is_ending(),
                "{}: a member that is ending",
                conn.id
            );
            members_len += rooms;
            assert_eq!(
                conn.is_dirty(),
                self.dirty.contains(&conn.id),
                "{}: the dirty mark and the list differ",
                conn.id
            );
            assert_eq!(
                conn.is_backlogged(),
                self.backlog.contains(&conn.id),
                "{}: the backlog mark and the list differ",
                conn.id
            );
            assert!(
                conn.open().is_none()
                    || conn.queue.is_empty()
                    || conn.is_waiting()
                    || conn.is_dirty()
                    || conn.is_backlogged(),
                "{}: something is queued, and nobody looks at it",
                conn.id
            );
            assert!(
                conn.closed_reason().is_none() || self.closed.contains(&conn.id),
                "{}: over, and nobody will reap it",
                conn.id
            );
            assert!(conn.in_flight() <= self.limits.inbound_messages_max);
            assert!(
                !(conn.is_paused_for_nothing(&self.limits) && conn.is_reading(&self.limits)),
                "{}: paused, and nothing holds it back",
                conn.id
            );
        }
        assert_eq!(
            members_len,
            self.members.members_len(),
            "a member without a connection"
        );
        assert_eq!(self.table.len(), self.admission.len());
        assert!(
            self.users.len() <= self.table.len(),
            "a user without a connection"
        );
        if self.limits.duplicate_login != DuplicateLogin::Allow {
            let mut logged_in = HashSet::new();
            // Who says by a command who it is takes the place of another when that is answered.
            let is_in = |conn: &&Connection| {
                let session = conn.session();
                conn.open().is_some() && session.is_none_or(Session::is_connected)
            };
            for conn in self.table.iter().filter(is_in) {
                let identity = conn.purpose().and_then(Purpose::identity);
                assert!(
                    identity.is_none_or(|one| logged_in.insert(&one.user)),
                    "{}: a second login of one user",
                    conn.id
                );
            }
        }
        let open_len = self.table.iter().filter(|conn| conn.open().is_some());
        assert_eq!(open_len.count(), self.open_len);
        let answers_bytes = self.table.iter().map(|conn| conn.counted_bytes());
        self.calls.check_invariants(answers_bytes.sum());
        let timers = self
            .table
            .iter()
            .filter(|conn| self.wheel.contains(conn.id.slot))
            .count();
        assert_eq!(timers, self.wheel.len(), "a timer without a connection");
    }
}
