//! Names for what the parts have counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::membership::BrokerSource;
use crate::base::{CloseReason, RecoveryOutcome, RoomBudget, ShardTotals};
use crate::broker::Figures;
use crate::hub::HubCounters;
use crate::net::LoopFigures;
use crate::ops::log::dropped_lines;
use crate::ops::metrics::Exposition;
use crate::ops::process::{OpenFiles, ProcessFigures};

/// Those who have counted and are not the loop.
pub(super) struct Sources {
    pub(super) rooms: RoomBudget,
    pub(super) shards: ShardTotals,
    pub(super) files: OpenFiles,
    /// When the certificate expires, in seconds since 1970; `None` without TLS.
    pub(super) certificate_expiry: Option<Arc<AtomicU64>>,
    /// `None` for a node that is alone.
    pub(super) broker: Option<BrokerSource>,
    /// When the daemon started, in milliseconds since 1970.
    pub(super) start_unix_ms: u64,
}

/// The text of `/metrics`.
pub(super) fn render(sources: &Sources, hub: &HubCounters, turning: &LoopFigures<'_>) -> String {
    let mut text = Exposition::default();
    put_sizes(&mut text, sources, hub);
    put_comings_and_goings(&mut text, hub, turning);
    if let Some(expiry) = &sources.certificate_expiry {
        text.gauge(
            "tls_certificate_expires_seconds",
            "When the certificate expires, in seconds since 1970; 0 if it is never valid.",
            expiry.load(Ordering::Relaxed),
        );
    }
    put_commands(&mut text, hub);
    put_traffic(&mut text, sources, hub);
    put_loop(&mut text, hub, turning);
    put_process(&mut text, sources, hub);
    if let Some(broker) = &sources.broker {
        put_cluster(&mut text, hub, &broker.figures);
        put_feed(&mut text, &sources.shards, &broker.figures);
        put_requests(&mut text, &sources.shards, broker);
    }
    text.into_text()
}

fn put_sizes(text: &mut Exposition, sources: &Sources, hub: &HubCounters) {
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
    .gauge(
        "websockets_backlogged",
        "WebSockets with something queued now.",
        hub.backlogged,
    )
    .gauge(
        "memory_limit_bytes",
        "What the process may take, as --memory-limit says; 0 for no bound.",
        hub.memory_limit,
    )
    .gauge(
        "memory_pressure",
        "What is given up for want of memory now: 0 nothing, 1 the largest send queues, 2 those and \
         new connections.",
        hub.memory_pressure as u8,
    )
    .gauge("users", "Users with a connection now.", hub.users)
    .gauge("members", "Memberships now.", hub.members)
    .gauge("rooms", "Rooms with members now.", hub.rooms)
    .gauge(
        "rooms_alive",
        "Rooms that take a place of --max-rooms now: with members or with history.",
        sources.rooms.used(),
    )
    .gauge(
        "history_bytes",
        "What history takes of --history-memory now.",
        sources.shards.history_bytes(),
    )
    .histogram(
        "queue_publications",
        "Publications queued for a WebSocket; each is looked at once by each scrape.",
        1.0,
        &hub.queue_publications,
    )
    .histogram(
        "queue_bytes",
        "Bytes queued for a WebSocket; each is looked at once by each scrape.",
        1.0,
        &hub.queue_bytes,
    );
}

fn put_comings_and_goings(text: &mut Exposition, hub: &HubCounters, turning: &LoopFigures<'_>) {
    text.counter("accepted_total", "Connections let in.", hub.accepted)
        .counter(
            "dropped_total",
            "Connections dropped unheard, over capacity.",
            hub.dropped,
        )
        .counter(
            "accept_pauses_total",
            "Pauses for want of descriptors.",
            turning.counters.accept_pauses,
        )
        .counter(
            "tls_handshakes_total",
            "TLS handshakes that came to their end.",
            turning.counters.tls_handshakes,
        )
        .counter("upgrades_total", "WebSockets opened.", hub.upgrades)
        .counters(
            "refusals_total",
            "Requests for a WebSocket that were refused, and any over capacity.",
            "reason",
            &hub.refusals,
        )
        .counter(
            "malformed_forwards_total",
            "Requests of a trusted proxy whose X-Forwarded-For could not be read.",
            hub.malformed_forwards,
        )
        .counters(
            "http_responses_total",
            "Plain responses.",
            "status",
            &hub.responses,
        )
        .counters(
            "closes_total",
            "Connections ended.",
            "reason",
            CloseReason::ALL
                .iter()
                .map(|reason| (reason.label(), hub.closes[reason.index()])),
        )
        .counters(
            "close_codes_total",
            "WebSockets ended, by the code of the close frame that they were sent.",
            "code",
            hub.close_codes
                .iter()
                .map(|(code, count)| (close_code(*code), count)),
        );
}

fn put_commands(text: &mut Exposition, hub: &HubCounters) {
    text.counters(
        "commands_total",
        "Commands of clients on /connection/websocket, answers to pings included.",
        "method",
        &hub.commands,
    )
    .counters(
        "command_errors_total",
        "Commands of clients that came to an error.",
        "code",
        &hub.command_errors,
    );
}

fn put_traffic(text: &mut Exposition, sources: &Sources, hub: &HubCounters) {
    let compressed = sources.shards.compressed();
    text.counters(
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
    .pairs(
        "api_outcomes_total",
        "API calls by the code of the error that they came to, 0 for none.",
        ["method", "code"],
        hub.api_outcomes
            .iter()
            .map(|((method, code), count)| ([(*method).to_owned(), code.to_string()], count)),
    )
    .counter(
        "idempotency_keys_forgotten_total",
        "Idempotency keys forgotten before five minutes were over, for want of room.",
        sources.shards.keys_forgotten(),
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
        "replayed_total",
        "Publications given to members that had missed them.",
        hub.replayed,
    )
    .counters(
        "recoveries_total",
        "Wishes of members to be given what they had missed.",
        "outcome",
        RecoveryOutcome::ALL.map(|outcome| (outcome.label(), sources.shards.recoveries(outcome))),
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
        "gzip_publications_total",
        "Publications compressed, once for each format in use.",
        compressed.publications,
    )
    .counter(
        "gzip_input_bytes_total",
        "Bytes of publications before they were compressed.",
        compressed.from_bytes,
    )
    .counter(
        "gzip_output_bytes_total",
        "Bytes of publications after they were compressed.",
        compressed.to_bytes,
    );
}

fn put_loop(text: &mut Exposition, hub: &HubCounters, turning: &LoopFigures<'_>) {
    let meter = &turning.counters.meter;
    text.histogram(
        "publish_to_socket_seconds",
        "Time from taking publications to having written them to all members that take bytes.",
        NANOS,
        &hub.publish_to_socket,
    )
    .counter(
        "loop_turns_total",
        "Turns of the loop.",
        turning.counters.turns,
    )
    .histogram(
        "loop_turn_seconds",
        "Time of a turn of the loop, from waking to its end.",
        NANOS,
        meter.turns(),
    )
    .histograms(
        "loop_phase_seconds",
        "Time of a phase of a turn in which it had something to do.",
        "phase",
        NANOS,
        meter.phases().map(|(phase, times)| (phase.label(), times)),
    )
    .counter(
        "loop_wait_seconds_total",
        "Time that the loop slept.",
        meter.waited_ns() as f64 / NANOS,
    )
    .gauges(
        "worker_jobs",
        "Jobs of a worker now, waiting or being done.",
        "worker",
        turning.jobs.iter().enumerate(),
    )
    .gauge(
        "effects_waiting",
        "What workers have said that waits for the loop now.",
        turning.effects,
    );
}

fn put_process(text: &mut Exposition, sources: &Sources, hub: &HubCounters) {
    let process = ProcessFigures::read();
    text.counter(
        "log_lines_dropped_total",
        "Log lines that found no way out.",
        dropped_lines(),
    )
    .gauge(
        "process_resident_memory_bytes",
        "Memory of the process that is in RAM.",
        process.rss_bytes,
    )
    .counter(
        "process_cpu_seconds_total",
        "Time of the process on all cores.",
        process.cpu.as_secs_f64(),
    )
    .gauge(
        "process_open_fds",
        "Open files.",
        sources.files.count(hub.connections as u64),
    )
    .gauge(
        "process_max_fds",
        "Open files that there may be.",
        OpenFiles::limit(),
    )
    .gauge(
        "process_start_time_seconds",
        "When the daemon started, in seconds since 1970.",
        sources.start_unix_ms as f64 / 1e3,
    );
}

fn put_cluster(text: &mut Exposition, hub: &HubCounters, broker: &Figures) {
    let losses = [
        ("feed", broker.feed_losses.get()),
        ("requests", broker.exec_losses.get()),
    ];
    text.gauge(
        "cluster_available",
        "1 while requests can be sent to Redis, else 0.",
        u8::from(broker.is_exec_up()),
    )
    .gauge(
        "cluster_feed_connected",
        "1 while the feed is connected, else 0.",
        u8::from(broker.is_feed_up()),
    )
    .gauge(
        "cluster_nodes",
        "Nodes of the cluster, this one included.",
        u64::from(hub.other_nodes) + 1,
    )
    .counters(
        "cluster_connections_lost_total",
        "Connections to Redis that were lost.",
        "connection",
        losses,
    )
    .counter(
        "cluster_connect_failures_total",
        "Attempts to connect to Redis that failed.",
        broker.failed_dials.get(),
    );
}

fn put_feed(text: &mut Exposition, shards: &ShardTotals, broker: &Figures) {
    let following = shards.following();
    text.gauge(
        "cluster_followed_rooms",
        "Rooms that the feed tells of now, that of the nodes included.",
        broker.followed_rooms.get(),
    )
    .gauge(
        "cluster_joins_waiting",
        "Joins that wait for their room to be read now.",
        following.joins_waiting.get(),
    )
    .counter(
        "cluster_feed_publications_total",
        "Publications that the feed has brought.",
        broker.feed_publications.get(),
    )
    .counter(
        "cluster_feed_unreadable_total",
        "What the feed has brought and could not be read.",
        broker.unreadable.get(),
    )
    .histogram(
        "cluster_feed_delivery_seconds",
        "Time from taking a publication on this node to having it from the feed.",
        NANOS,
        &following.own_deliveries.read(),
    )
    .counter(
        "cluster_holes_total",
        "Times that publications were found missing of a room.",
        following.holes.get(),
    )
    .counter(
        "cluster_reads_total",
        "Times that a room was read from Redis.",
        following.reads.get(),
    )
    .counter(
        "cluster_caught_up_total",
        "Publications delivered because a room was read.",
        following.caught_up.get(),
    )
    .counter(
        "cluster_lost_total",
        "Publications that the members of a room were told to be lost.",
        following.lost.get(),
    )
    .counter(
        "cluster_epochs_begun_total",
        "Rooms that began another epoch under their members.",
        following.restarts.get(),
    );
}

fn put_requests(text: &mut Exposition, shards: &ShardTotals, source: &BrokerSource) {
    let broker = &source.figures;
    text.histogram(
        "cluster_publish_seconds",
        "Time from asking Redis for the number of a publication to its answer.",
        NANOS,
        &broker.publish_times.read(),
    )
    .gauge(
        "cluster_round_trip_seconds",
        "Time that the last requests took that were sent to Redis together.",
        broker.last_round_trip().as_secs_f64(),
    )
    .counter(
        "cluster_publishes_refused_total",
        "Publications that got no number in time, or were refused one.",
        shards.following().unnumbered.get(),
    )
    .gauge(
        "cluster_requests_in_flight",
        "Requests that Redis has not answered now.",
        broker.in_flight.get(),
    )
    .gauge(
        "cluster_requests_waiting",
        "Requests that wait to be sent to Redis now.",
        source.waiting(),
    )
    .counter(
        "cluster_requests_answered_total",
        "Requests that Redis has answered.",
        broker.answered.get(),
    )
    .counter(
        "cluster_requests_retried_total",
        "Requests sent again after their connection was lost.",
        broker.retries.get(),
    )
    .counter(
        "cluster_requests_fenced_total",
        "Times that a publication had to wait because Redis may have lost data.",
        broker.fenced.get(),
    )
    .counter(
        "cluster_requests_expired_total",
        "Requests given up because their time was over.",
        broker.expired.get() + shards.following().unsaid.get(),
    )
    .counter(
        "cluster_requests_refused_total",
        "Requests that Redis refused.",
        broker.refused.get(),
    );
}

/// A close code as the value of a label.
fn close_code(code: u16) -> String {
    match code {
        0 => "none".to_owned(),
        HubCounters::OTHER_CODE => "other".to_owned(),
        code => code.to_string(),
    }
}

/// Of what is counted in nanoseconds, so many are a second.
const NANOS: f64 = 1e9;
