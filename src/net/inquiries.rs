//! What the hub asks of the shell: texts for operators, figures of the node.
//!
//! Never: lets those who ask hold up the turn. Of each kind a text is made once a turn, which all who
//! ask for it then are given, and no more than [`budget::INQUIRIES`] are answered.

use super::budget;
use super::last_ends::LastEnds;
use super::reports::{DebugView, LoopFigures, Reports};
use super::socket::Socket;
use crate::base::Now;
use crate::hub::{Hub, Inquiry};

/// Answers what was asked first; the rest waits for the next turn.
pub(super) fn answer(
    now: Now,
    hub: &mut Hub<Socket>,
    reports: &mut Reports,
    turning: &LoopFigures<'_>,
    last_ends: &LastEnds,
) {
    let (mut metrics, mut debug) = (None, None);
    for _ in 0..budget::INQUIRIES {
        let Some(inquiry) = hub.poll_inquiry() else {
            return;
        };
        match inquiry {
            Inquiry::Metrics(id) => {
                let text: &String = metrics.get_or_insert_with(|| {
                    hub.sample_queues();
                    (reports.metrics)(&hub.counters(), turning)
                });
                hub.handle_report(now, id, METRICS_TYPE, text);
            }
            Inquiry::Loop(id) => {
                let text: &String = debug.get_or_insert_with(|| {
                    let figures = hub.figures(now);
                    (reports.debug)(&DebugView {
                        now,
                        hub: &hub.counters(),
                        figures: &figures,
                        turning,
                        last_ends,
                    })
                });
                hub.handle_report(now, id, "application/json", text);
            }
            Inquiry::Node(part) => {
                let figures = (reports.node)();
                hub.handle_node(now, part, &figures);
            }
        }
    }
}

/// The type of the text of the metrics.
const METRICS_TYPE: &str = "text/plain; version=0.0.4";
