//! The text of `/debug/loop`: why it is slow, who is slow, what closed lately.

use serde_json::{Map, Value, json};

use crate::base::{Histogram, Instant, shown_address};
use crate::net::DebugView;

/// The JSON, for a daemon that runs since `start`.
pub(super) fn render(view: &DebugView<'_>, start: Instant) -> String {
    let hub = view.hub;
    let meter = &view.turning.counters.meter;
    let closes = view.last_ends.newest_first().map(|(at, one)| {
        json!({
            "id": one.id.to_string(),
            "peer": shown_address(one.peer).to_string(),
            "user": one.identity.as_ref().map_or("", |identity| identity.user.as_str()),
            "reason": one.reason.label(),
            "code": one.code,
            "time": at.unix_ms,
            "age_ms": at.instant.nanos_since(one.opened_at) / 1_000_000,
            "sent": one.traffic.deliveries,
            "skipped": one.traffic.skipped,
        })
    });
    let phases: Map<String, Value> = meter
        .phases()
        .map(|(phase, times)| (phase.label().to_owned(), of_times(times)))
        .collect();
    let queues = view.figures.queues.iter().map(|row| {
        let rooms: Vec<&str> = row.rooms.iter().map(|room| room.as_str()).collect();
        json!({
            "id": row.client,
            "peer": row.peer,
            "user": row.user.as_ref().map_or("", |user| user.as_str()),
            "rooms": rooms,
            "age_ms": row.age_ms,
            "queued": row.queued,
            "queued_bytes": row.queued_bytes,
            "queue_weight": row.queue_weight,
            "sent": row.sent,
            "skipped": row.skipped,
        })
    });
    let rooms = view.figures.rooms.iter().map(|room| {
        json!({
            "room": room.name.as_str(),
            "members": room.members,
            "offset": room.offset.0,
        })
    });
    let workers = view.turning.jobs.iter().map(|jobs| json!({ "jobs": jobs }));
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "time": view.now.unix_ms,
        "uptime_ms": view.now.instant.nanos_since(start) / 1_000_000,
        "totals": {
            "connections": hub.connections,
            "websockets": hub.websockets,
            "users": hub.users,
            "members": hub.members,
            "rooms": hub.rooms,
            "backlogged": hub.backlogged,
            "accepted": hub.accepted,
            "upgrades": hub.upgrades,
            "refusals": hub.refusals.values().sum::<u64>(),
            "closed": hub.closes.iter().sum::<u64>(),
            "messages_received": hub.received_messages,
            "deliveries": hub.deliveries,
            "skipped": hub.skipped,
            "received_bytes": hub.received_bytes,
            "sent_bytes": hub.sent_bytes,
            "api_calls": hub.api_calls.values().sum::<u64>(),
        },
        "loop": {
            "turns": view.turning.counters.turns,
            "wait_us": meter.waited_ns() / 1000,
            "turn": of_times(meter.turns()),
            "phases": phases,
            "workers": workers.collect::<Vec<_>>(),
            "effects": view.turning.effects,
        },
        "latency": of_times(&hub.publish_to_socket),
        "rooms": rooms.collect::<Vec<_>>(),
        "queues": queues.collect::<Vec<_>>(),
        "closes": closes.collect::<Vec<_>>(),
    })
    .to_string()
}

/// Times, with bounds in microseconds.
fn of_times(times: &Histogram) -> Value {
    let buckets = times
        .buckets()
        .map(|(bound, count)| json!([bound.map(|bound| bound / 1000), count]));
    json!({
        "count": times.count(),
        "sum_us": times.sum() / 1000,
        "max_us": times.max() / 1000,
        "buckets": buckets.collect::<Vec<_>>(),
    })
}
