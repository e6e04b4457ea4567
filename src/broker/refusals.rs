//! Whether Redis refuses to write, and for how long: one that is full answers everything and does
//! nothing.
//!
//! Invariants
//! - A publication that is done ends it. A beat or a claim that is done, which writes as well, ends it
//!   where no publication was refused lately: who is sent no more publications because of this would
//!   never see one done.
//! - What concerns one room only does not come here.

use std::time::Duration;

use crate::base::Instant;
use crate::cluster::Request;

/// The refusals since something was written.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    /// The first of them.
    since: Option<Instant>,
    /// The last of a publication.
    last_append: Option<Instant>,
    /// What Redis said when they had lasted for long.
    lasting: Option<Box<str>>,
}

/// For how long refusals may be something that passes.
const PASSING_MAX: Duration = Duration::from_secs(1);

/// For how long the refusal of a publication says more than a beat that is done.
const APPEND_COUNTS: Duration = Duration::from_secs(5);

impl Refusals {
    /// Redis has refused a request.
    pub(super) fn note_refused(&mut self, now: Instant, request: &Request, what: &str) {
        if !writes(request) {
            return;
        }
        if let Request::Append { .. } = request {
            self.last_append = Some(now);
        }
        let since = *self.since.get_or_insert(now);
        if self.lasting.is_none() && now.saturating_duration_since(since) >= PASSING_MAX {
            self.lasting = Some(what.into());
        }
    }

    /// Redis has done a request.
    pub(super) fn note_done(&mut self, now: Instant, request: &Request) {
        if self.since.is_none() || !writes(request) {
            return;
        }
        let is_recent = |last: Instant| now.saturating_duration_since(last) < APPEND_COUNTS;
        let is_append = matches!(request, Request::Append { .. });
        if is_append || !self.last_append.is_some_and(is_recent) {
            *self = Self::default();
        }
    }

    /// What Redis says, if it has refused for long.
    pub(super) fn lasting(&self) -> Option<&str> {
        self.lasting.as_deref()
    }
}

/// Whether a request is one that cannot be done without writing more than there was.
fn writes(request: &Request) -> bool {
    match request {
        Request::Append { .. } | Request::Claim { .. } => true,
        Request::Beat { members, .. } => *members > 0,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{RoomName, UserId};

    fn at(ms: u64) -> Instant {
        Instant::ORIGIN + Duration::from_millis(ms)
    }

    fn beat(members: u32) -> Request {
        Request::Beat {
            room: RoomName::control(),
            members,
            watches: false,
            login: None,
        }
    }

    fn append() -> Request {
        use crate::base::{ConnId, NodeId};
        use crate::cluster::{Shared, Token};
        use crate::wire::frame::Payload;
        Request::Append {
            room: RoomName::control(),
            shared: Shared {
                token: Token {
                    node: NodeId(1),
                    number: 1,
                },
                conn: ConnId::NONE,
                identity: None,
                payload: Payload::text("x".into()),
                is_kept: true,
            },
            key: None,
            deadline: at(0),
        }
    }

    #[test]
    fn only_what_lasts_is_told_and_a_publication_that_is_done_ends_it() {
        let mut refusals = Refusals::default();
        for ms in [0, 400, 999] {
            refusals.note_refused(at(ms), &append(), "OOM");
            assert_eq!(refusals.lasting(), None, "{ms}");
        }
        refusals.note_done(at(999), &append());
        refusals.note_refused(at(1000), &append(), "OOM");
        assert_eq!(refusals.lasting(), None, "one was done");
        refusals.note_refused(at(2000), &beat(1), "OOM again");
        assert_eq!(refusals.lasting(), Some("OOM again"));
        refusals.note_refused(at(2001), &append(), "MISCONF");
        assert_eq!(refusals.lasting(), Some("OOM again"));
        refusals.note_done(at(2002), &append());
        assert_eq!(refusals.lasting(), None);
    }

    #[test]
    fn what_else_writes_counts_where_nobody_publishes() {
        let user = UserId::new("al").expect("a good id");
        let claim = Request::Claim {
            number: 1,
            user,
            is_exclusive: false,
            deadline: at(0),
        };
        let mut refusals = Refusals::default();
        for ms in [0, 1000] {
            refusals.note_refused(at(ms), &beat(0), "takes away only");
        }
        assert_eq!(refusals.lasting(), None);
        refusals.note_refused(at(1000), &append(), "NOPERM");
        refusals.note_refused(at(2000), &claim, "NOPERM");
        assert_eq!(refusals.lasting(), Some("NOPERM"));
        refusals.note_done(at(5999), &beat(1));
        assert_eq!(refusals.lasting(), Some("NOPERM"), "for publications");
        refusals.note_done(at(6000), &beat(0));
        assert_eq!(refusals.lasting(), Some("NOPERM"), "nothing was written");
        refusals.note_done(at(6000), &beat(1));
        assert_eq!(refusals.lasting(), None);
    }
}
