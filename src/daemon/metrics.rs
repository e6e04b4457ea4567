//! Names for what the parts have counted.

use crate::base::{CloseReason, RoomBudget, ShardTotals};
use crate::hub::HubCounters;
use crate::net::LoopCounters;
use crate::ops::log::dropped_lines;
use crate::ops::metrics::Exposition;

/// The text of `/metrics`.
pub(super) fn render(
    hub: &HubCounters,
    turns: LoopCounters,
    rooms: &RoomBudget,
    shards: &ShardTotals,
) -> String {
    let mut text = Exposition::default();
    text.gauge(
        "connections",
        "Connections now, on every listener.",
        hub.connections,
    )
    .gauge("websockets", "WebSockets open now.", hub.websockets)
    .gauge(
        "draining",
        "1 while the daemon is ending, else 0.",
        u8::from(hub.is_draining),
    )
    .gauge("users", "Users with a connection now.", hub.users)
    .gauge("members", "Memberships now.", hub.members)
    .gauge("rooms", "Rooms with members now.", hub.rooms)
    .gauge(
        "rooms_alive",
        "Rooms that take a place of --max-rooms now: with members or with history.",
        rooms.used(),
    )
    .gauge(
        "history_bytes",
        "What history takes of --history-memory now.",
        shards.history_bytes(),
    )
    .counter(
        "idempotency_keys_forgotten_total",
        "Idempotency keys forgotten before five minutes were over, for want of room.",
        shards.keys_forgotten(),
    )
    .counter("accepted_total", "Connections let in.", hub.accepted)
    .counter(
        "dropped_total",
        "Connections dropped unheard, over capacity.",
        hub.dropped,
    )
    .counter(
        "accept_pauses_total",
        "Pauses for want of descriptors.",
        turns.accept_pauses,
    )
    .counter(
        "tls_handshakes_total",
        "TLS handshakes that came to their end.",
        turns.tls_handshakes,
    )
    .counter("upgrades_total", "WebSockets opened.", hub.upgrades)
    .counters(
        "http_responses_total",
        "Plain responses.",
        "status",
        &hub.responses,
    )
    .counters(
        "api_calls_total",
        "API calls carried out, those of a batch one by one.",
        "method",
        &hub.api_calls,
    )
    .counters(
        "api_errors_total",
        "API calls that came to an error.",
        "code",
        &hub.api_errors,
    )
    .counters(
        "closes_total",
        "Connections ended.",
        "reason",
        CloseReason::ALL
            .iter()
            .map(|reason| (reason.label(), hub.closes[reason.index()])),
    )
    .counter(
        "messages_received_total",
        "Messages received.",
        hub.received_messages,
    )
    .counter(
        "received_bytes_total",
        "Bytes received.",
        hub.received_bytes,
    )
    .counter("sent_bytes_total", "Bytes sent.", hub.sent_bytes)
    .counter(
        "deliveries_total",
        "Publications and echoes queued.",
        hub.deliveries,
    )
    .counter(
        "skipped_total",
        "Publications skipped in lossy rooms.",
        hub.skipped,
    )
    .counter(
        "dropped_from_queues_total",
        "Publications dropped with the queue of a connection closed for being slow.",
        hub.dropped_from_queues,
    )
    .counter(
        "reads_paused_total",
        "Times that a connection was not read.",
        hub.reads_paused,
    )
    .counter(
        "replayed_total",
        "Publications given to members that had missed them.",
        hub.replayed,
    )
    .counter("loop_turns_total", "Turns of the loop.", turns.turns)
    .counter(
        "log_lines_dropped_total",
        "Log lines that found no way out.",
        dropped_lines(),
    );
    text.into_text()
}
