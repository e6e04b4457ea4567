//! What `roomcast check` prints: the effective values, and what they allow memory to grow to.
//!
//! Owns: the wording and the arithmetic.
//! Never: shows a secret, only whether there is one. It prints nothing itself; the caller has the
//! stream and deals with its errors.
//!
//! Every bound here is a worst case that all connections would have to reach at once: their queues
//! hold references, and members of one room share the bytes. The sums saturate instead of wrapping.

use std::fmt::Display;
use std::io::{self, Write};
use std::time::Duration;

use crate::base::{
    BROKER_EVENTS_MAX, DuplicateLogin, GONE_ROOMS_MAX, Limits, READ_BYTES_MAX,
    TLS_HANDSHAKE_BYTES_MAX, TLS_HELD_BYTES_MAX,
};

use super::config::Config;

/// What an idle connection with an identity may cost, in bytes.
const IDLE_CONNECTION_BYTES: u128 = 3 << 10;

/// What a TLS session takes beside a connection, in bytes.
const IDLE_SESSION_BYTES: u128 = 8 << 10;

/// What is there of a record or a handshake that is not whole, in bytes: what is taken of it and one
/// read more.
const SESSION_ARRIVING_BYTES: u128 = TLS_HANDSHAKE_BYTES_MAX as u128 + (4 << 10);

/// A place in a send queue, in bytes: a reference, two ends and a count, twice for the spare room
/// of a queue that grows by doubling.
const QUEUE_ENTRY_BYTES: u128 = 48;

/// What a publication takes beside its payload where a room of a cluster was read, in bytes.
const READ_ENTRY_BYTES: u128 = 256;

/// What the place of a room that has gone takes at most, in bytes: its name, and bookkeeping. Twice as
/// many may be remembered as are promised.
const GONE_ROOM_BYTES: [u128; 2] = [255, 200];

/// What one remembered idempotency key takes at most, in bytes: the key, the name of its room, and
/// bookkeeping.
const IDEMPOTENCY_KEY_BYTES: [u128; 3] = [255, 255, 100];

/// Writes everything about a configuration.
///
/// # Errors
/// When `out` takes no more.
pub fn write(config: &Config, warnings: &[String], out: &mut dyn Write) -> io::Result<()> {
    for warning in warnings {
        writeln!(out, "Warning: {warning}")?;
    }
    writeln!(out, "Effective values:")?;
    for (option, value) in values(config) {
        writeln!(out, "  {option:<27} {value}")?;
    }
    writeln!(
        out,
        "\nMost memory, if all connections reached every bound at once:"
    )?;
    let bounds = bounds(config);
    for bound in &bounds {
        writeln!(
            out,
            "  {:<15} {:>12}  {}",
            bound.of,
            Bytes(bound.bytes).rounded(),
            bound.terms
        )?;
    }
    let sum = bounds
        .iter()
        .fold(0, |sum: u128, bound| sum.saturating_add(bound.bytes));
    writeln!(out, "  {:<15} {:>12}", "together", Bytes(sum).rounded())?;
    writeln!(
        out,
        "Send queues hold references: what several members wait for is there once, not once each."
    )?;
    if let Some(mark) = config.limits.memory_mark() {
        writeln!(
            out,
            "From {} on, 7/8 of --memory-limit, the largest send queues are closed; the other parts \
             are not bounded by it.",
            Bytes(mark as u128).rounded()
        )?;
    }
    Ok(())
}

/// One part of the memory, and how it comes about.
struct Bound {
    of: &'static str,
    bytes: u128,
    terms: String,
}

fn bounds(config: &Config) -> Vec<Bound> {
    let limits = &config.limits;
    let wide = |number: usize| number as u128;
    let connections = wide(limits.connections_max);
    let mut bounds = Vec::new();
    let mut add = |of, bytes, terms| bounds.push(Bound { of, bytes, terms });

    if limits.history_publications_max == 0 {
        add("history", 0, "off".to_owned());
    } else {
        let bytes = wide(limits.history_memory_bytes_max);
        add(
            "history",
            bytes,
            "--history-memory, all rooms and bookkeeping".to_owned(),
        );
    }
    add(
        "connections",
        connections * IDLE_CONNECTION_BYTES,
        format!(
            "{connections} connections x {} when idle",
            Bytes(IDLE_CONNECTION_BYTES)
        ),
    );
    // A queue may go over its bound by one merge while its socket takes bytes.
    let (queue, merge) = (
        wide(limits.outbound_bytes_max),
        wide(limits.merge_bytes_max()),
    );
    let places = wide(limits.outbound_publications_max);
    let entries = places.saturating_mul(QUEUE_ENTRY_BYTES);
    add(
        "send queues",
        connections.saturating_mul(queue + merge + entries),
        format!(
            "{connections} connections x ({} --outbound-queue-size + {} one merge over it + \
             {places} places x {QUEUE_ENTRY_BYTES} B)",
            Bytes(queue),
            Bytes(merge)
        ),
    );
    // The bound in bytes is looked at before a message is taken, so the last one may pass it. What
    // arrives is joined to what is there of a frame, with room to take it apart.
    let (message, inbound) = (
        wide(limits.message_bytes_max),
        wide(limits.inbound_bytes_max()),
    );
    let arriving = 3 * message + wide(READ_BYTES_MAX);
    add(
        "inbound",
        connections.saturating_mul(inbound + message + arriving),
        format!(
            "{connections} connections x ({} waiting for workers + {} the last of them + {} \
             arriving)",
            Bytes(inbound),
            Bytes(message),
            Bytes(arriving)
        ),
    );
    if config.tls.is_some() {
        let held = wide(TLS_HELD_BYTES_MAX);
        add(
            "TLS",
            connections.saturating_mul(IDLE_SESSION_BYTES + SESSION_ARRIVING_BYTES + held),
            format!(
                "{connections} connections x ({} when idle + {} of a handshake or a record + {} \
                 ciphertext held)",
                Bytes(IDLE_SESSION_BYTES),
                Bytes(SESSION_ARRIVING_BYTES),
                Bytes(held)
            ),
        );
    } else {
        add("TLS", 0, "off".to_owned());
    }
    let effects = wide(limits.effects_max);
    add(
        "effects",
        effects.saturating_mul(merge),
        format!("{effects} effects x {} one merge", Bytes(merge)),
    );
    let queues = wide(config.workers.max(1));
    let jobs = wide(limits.jobs_max);
    add(
        "jobs",
        0,
        format!("{queues} queues x {jobs} jobs; their bytes are counted under inbound"),
    );
    let rooms = 2 * wide(GONE_ROOMS_MAX);
    let [name, place] = GONE_ROOM_BYTES;
    add(
        "rooms gone",
        if config.cluster.url.is_some() {
            0
        } else {
            rooms * (name + place)
        },
        match config.cluster.url {
            Some(_) => "0 rooms, as they are in Redis".to_owned(),
            None => format!("{rooms} rooms x ({name} B name + {place} B place)"),
        },
    );
    bounds.extend(api_bounds(config));
    bounds.extend(cluster_bounds(config));
    bounds
}

fn cluster_bounds(config: &Config) -> [Bound; 3] {
    const EVENTS: &str = "cluster events";
    const AHEAD: &str = "heard ahead";
    const WAITING: &str = "publishes";
    if config.cluster.url.is_none() {
        return [EVENTS, AHEAD, WAITING].map(|of| Bound {
            of,
            bytes: 0,
            terms: "off, as --redis is".to_owned(),
        });
    }
    let limits = &config.limits;
    let wide = |number: usize| number as u128;
    let queues = wide(config.workers.max(1));
    let events = wide(BROKER_EVENTS_MAX);
    // An event is a publication, or all that is kept of a room.
    let message = wide(limits.message_bytes_max);
    let kept = wide(limits.history_publications_max);
    let history = wide(limits.history_bytes_max).saturating_add(kept * READ_ENTRY_BYTES);
    let (event, event_terms) = if kept > 0 && history > message {
        let bytes = Bytes(wide(limits.history_bytes_max));
        let terms = format!("({bytes} --history-bytes + {kept} x {READ_ENTRY_BYTES} B)");
        (history, terms)
    } else {
        (message, format!("{} --max-message-size", Bytes(message)))
    };
    let ahead = wide(limits.ahead_bytes_max());
    [
        Bound {
            of: EVENTS,
            bytes: (queues * events).saturating_mul(event),
            terms: format!("{queues} queues x {events} events x {event_terms}"),
        },
        Bound {
            of: AHEAD,
            bytes: queues.saturating_mul(ahead),
            terms: format!(
                "{queues} workers x {} of rooms that are being read",
                Bytes(ahead)
            ),
        },
        Bound {
            of: WAITING,
            bytes: 0,
            terms: "that wait for Redis; their bytes are counted under inbound and API calls"
                .to_owned(),
        },
    ]
}

fn api_bounds(config: &Config) -> [Bound; 4] {
    const BODIES: &str = "API bodies";
    const CALLS: &str = "API calls";
    const ANSWERS: &str = "API answers";
    const KEYS: &str = "idempotency";
    if config.admin_listen.is_none() {
        return [BODIES, CALLS, ANSWERS, KEYS].map(|of| Bound {
            of,
            bytes: 0,
            terms: "off, as --admin-listen is".to_owned(),
        });
    }
    let limits = &config.limits;
    let wide = |number: usize| number as u128;
    let connections = wide(limits.admin_connections_max);
    let body = wide(limits.api_body_bytes_max);
    let keys = wide(limits.idempotency_keys_max);
    let [key, room, bookkeeping] = IDEMPOTENCY_KEY_BYTES;
    [
        Bound {
            of: BODIES,
            bytes: connections.saturating_mul(body),
            terms: format!("{connections} connections x {}", Bytes(body)),
        },
        Bound {
            of: CALLS,
            bytes: wide(limits.api_calls_bytes_max),
            // What a call is decoded into is not in the sum: it takes a caller who means harm, and
            // callers are trusted.
            terms: "in progress; a body made to be large is up to 16 times that once decoded"
                .to_owned(),
        },
        Bound {
            of: ANSWERS,
            bytes: wide(limits.api_answers_bytes_max),
            terms: "long ones that are not written yet".to_owned(),
        },
        Bound {
            of: KEYS,
            bytes: keys.saturating_mul(key + room + bookkeeping),
            terms: format!(
                "{keys} idempotency keys x ({key} B key + {room} B room + {bookkeeping} B \
                 bookkeeping)"
            ),
        },
    ]
}

fn values(config: &Config) -> Vec<(&'static str, String)> {
    let mut values = listener_values(config);
    values.extend(connection_values(config));
    values.extend(room_values(&config.limits));
    values.extend([
        ("--token-secret-file", is_set(config.token_secret.as_ref())),
        ("--api-key-file", is_set(config.api_key.as_ref())),
        (
            "--tls-cert",
            match &config.tls {
                Some(certificate) => format!("set, {certificate}"),
                None => is_set::<()>(None),
            },
        ),
        ("--tls-key", is_set(config.tls.as_ref())),
        (
            "--redis",
            or_off(config.cluster.url.as_ref().map(ToString::to_string)),
        ),
        ("--redis-prefix", config.cluster.prefix.clone()),
        ("--redis-wait", duration(config.cluster.wait)),
        (
            "--node-name",
            (config.node_name.clone()).unwrap_or_else(|| "the name of the host".to_owned()),
        ),
        ("--drain-timeout", duration(config.limits.drain_timeout)),
        (
            "--log-file",
            (config.files.log.as_ref())
                .map_or_else(|| "standard error".to_owned(), |path| format!("{path:?}")),
        ),
        ("--log-level", config.log_level.to_string().to_lowercase()),
    ]);
    values
}

fn listener_values(config: &Config) -> Vec<(&'static str, String)> {
    let admin = config.admin_listen.map(|address| address.to_string());
    let proxies = match &config.trusted_proxies[..] {
        [] => "none".to_owned(),
        networks => list(networks),
    };
    vec![
        ("--listen", list(&config.listen)),
        ("--admin-listen", or_off(admin)),
        ("--allowed-origin", config.allowed_origins.to_string()),
        ("--trusted-proxy", proxies),
        ("--workers", config.workers.to_string()),
    ]
}

fn connection_values(config: &Config) -> Vec<(&'static str, String)> {
    let limits = &config.limits;
    let per_ip = count_or_off(limits.connections_per_ip_max);
    let heartbeat = limits.heartbeat_interval.map(duration);
    vec![
        ("--max-connections", limits.connections_max.to_string()),
        ("--max-connections-per-ip", per_ip),
        ("--max-message-size", size(limits.message_bytes_max)),
        (
            "--max-rooms-per-connection",
            limits.rooms_per_connection_max.to_string(),
        ),
        ("--handshake-timeout", duration(limits.handshake_timeout)),
        ("--inbound-queue", limits.inbound_messages_max.to_string()),
        (
            "--outbound-queue",
            limits.outbound_publications_max.to_string(),
        ),
        ("--outbound-queue-size", size(limits.outbound_bytes_max)),
        ("--write-timeout", duration(limits.write_timeout)),
        ("--message-rate", count_or_off(limits.message_rate as usize)),
        ("--message-burst", limits.message_burst.to_string()),
        (
            "--ping-interval",
            or_off(limits.ping_interval.map(duration)),
        ),
        ("--pong-timeout", duration(limits.pong_timeout)),
        ("--heartbeat-interval", or_off(heartbeat)),
        ("--heartbeat-text", format!("{:?}", limits.heartbeat_text)),
        ("--duplicate-login", duplicate_login(limits).to_owned()),
        ("--gzip-min-size", size(limits.gzip_bytes_min)),
    ]
}

fn room_values(limits: &Limits) -> Vec<(&'static str, String)> {
    let lossy = limits.lossy_rooms.iter().map(|glob| glob.as_str());
    let lossy = lossy.collect::<Vec<_>>();
    let history = count_or_off(limits.history_publications_max);
    vec![
        (
            "--lossy-room",
            if lossy.is_empty() {
                "none".to_owned()
            } else {
                list(&lossy)
            },
        ),
        ("--batch-interval", duration(limits.batch_interval)),
        ("--memory-limit", or_off(limits.memory_bytes_max.map(size))),
        ("--max-rooms", limits.rooms_max.to_string()),
        ("--history-size", history),
        ("--history-bytes", size(limits.history_bytes_max)),
        ("--history-ttl", duration(limits.history_ttl)),
        ("--history-memory", size(limits.history_memory_bytes_max)),
    ]
}

fn is_set<T>(option: Option<&T>) -> String {
    if option.is_some() { "set" } else { "not set" }.to_owned()
}

fn duplicate_login(limits: &Limits) -> &'static str {
    match limits.duplicate_login {
        DuplicateLogin::Allow => "allow",
        DuplicateLogin::Replace => "replace",
        DuplicateLogin::Refuse => "refuse",
    }
}

fn list(items: &[impl Display]) -> String {
    items
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

fn or_off(value: Option<String>) -> String {
    value.unwrap_or_else(|| "off".to_owned())
}

fn count_or_off(count: usize) -> String {
    or_off((count > 0).then(|| count.to_string()))
}

fn size(bytes: usize) -> String {
    Bytes(bytes as u128).to_string()
}

/// As the option is written: whole seconds, or milliseconds.
fn duration(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    match milliseconds {
        0 => "0".to_owned(),
        _ if milliseconds.is_multiple_of(3_600_000) => format!("{}h", milliseconds / 3_600_000),
        _ if milliseconds.is_multiple_of(1000) => format!("{}s", milliseconds / 1000),
        _ => format!("{milliseconds}ms"),
    }
}

/// A number of bytes, shown exactly in the largest unit that allows it.
#[derive(Clone, Copy)]
struct Bytes(u128);

impl Bytes {
    const UNITS: [(&'static str, u128); 4] = [
        ("TiB", 1 << 40),
        ("GiB", 1 << 30),
        ("MiB", 1 << 20),
        ("KiB", 1 << 10),
    ];

    /// To a tenth of a unit, upwards: a bound must not look smaller than it is.
    fn rounded(self) -> String {
        for (unit, scale) in Self::UNITS {
            if self.0 >= scale {
                let tenths = self.0.saturating_mul(10).div_ceil(scale);
                return format!("{}.{} {unit}", tenths / 10, tenths % 10);
            }
        }
        format!("{} B", self.0)
    }
}

impl Display for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (unit, scale) in &Self::UNITS[1..] {
            if self.0 > 0 && self.0.is_multiple_of(*scale) {
                return write!(f, "{}{unit}", self.0 / scale);
            }
        }
        write!(f, "{}B", self.0)
    }
}

#[cfg(test)]
mod tests {
    use crate::ops::cli::Cli;

    use super::*;
    use crate::base::Secret;

    fn text(args: &[&str], change: impl FnOnce(&mut Config)) -> String {
        let args = ["roomcast"].iter().chain(args);
        let cli = Cli::try_from_args(args).expect("the options are well formed");
        let (mut config, _) = Config::from_cli(cli).expect("the options hold");
        change(&mut config);
        let mut out = Vec::new();
        write(&config, &["look out".to_owned()], &mut out).expect("a vector takes everything");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn every_option_is_shown() {
        let text = text(&[], |_| ());
        for variable in Cli::variables() {
            let variable = variable.into_string().expect("a name is text");
            let option = variable.replace("ROOMCAST_", "--").replace('_', "-");
            let option = format!("  {} ", option.to_lowercase());
            assert!(text.contains(&option), "{option} is not in {text}");
        }
        assert!(text.starts_with("Warning: look out\n"), "{text}");
    }

    #[test]
    fn secrets_are_not_shown() {
        let is_set = |text: &str, option: &str| {
            let line = text.lines().find(|line| line.contains(option));
            line.expect("a line for the option").ends_with("  set")
        };
        let options = ["--token-secret-file", "--api-key-file"];
        let none = text(&[], |_| ());
        let secret = || Some(Secret::new(b"hunter2"));
        let token = text(&[], |config| config.token_secret = secret());
        let key = text(&[], |config| config.api_key = secret());
        for (text, expected) in [
            (none, [false, false]),
            (token, [true, false]),
            (key, [false, true]),
        ] {
            assert_eq!(options.map(|option| is_set(&text, option)), expected);
            assert!(!text.contains("hunter2"), "{text}");
        }
    }

    #[test]
    fn the_arithmetic_adds_up() {
        let args = [
            "--max-connections=10",
            "--max-message-size=64KiB",
            "--inbound-queue=1000",
            "--outbound-queue-size=1MiB",
            "--outbound-queue=1000",
            "--history-memory=256MiB",
        ];
        let of = |args: &[&str]| {
            let cli = Cli::try_from_args(["roomcast"].iter().chain(args)).expect("well formed");
            let (config, _) = Config::from_cli(cli).expect("the options hold");
            bounds(&config)
                .iter()
                .map(|bound| bound.bytes)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            of(&args),
            [
                256 << 20,
                10 * (3 << 10),
                10 * ((3 << 19) + 48_000),
                10 * ((256 << 10) + (256 << 10) + (128 << 10)),
                0,
                4096 << 19,
                0,
                (64 << 10) * (255 + 200),
                256 << 20,
                64 << 20,
                64 << 20,
                100_000 * (255 + 255 + 100),
                0,
                0,
                0
            ]
        );
        assert_eq!(of(&["--history-size=0"])[0], 0);
        assert_eq!(of(&["--admin-listen=off"])[8..12], [0; 4]);
        let of_cluster = |args: &[&str]| {
            let args = [&["--redis=redis://h"], args].concat();
            of(&args)[12..].to_vec()
        };
        let room = (1 << 20) + 1000 * 256;
        let ahead = 3 * (32 << 20);
        assert_eq!(of_cluster(&["--workers=3"]), [3 * 1024 * room, ahead, 0]);
        assert_eq!(
            of_cluster(&[
                "--workers=3",
                "--history-size=0",
                "--max-message-size=32KiB"
            ]),
            [3 * 1024 * (32 << 10), ahead, 0]
        );
        assert_eq!(
            of_cluster(&["--history-bytes=64MiB", "--history-size=1", "--workers=0"])[1],
            64 << 20
        );
    }

    #[test]
    fn numbers_are_shown_as_they_are_typed() {
        for (bytes, exact, rounded) in [
            (0, "0B", "0 B"),
            (1023, "1023B", "1023 B"),
            (1024, "1KiB", "1.0 KiB"),
            (1025, "1025B", "1.1 KiB"),
            (3 << 19, "1536KiB", "1.5 MiB"),
            (1 << 40, "1024GiB", "1.0 TiB"),
        ] {
            assert_eq!(Bytes(bytes).to_string(), exact);
            assert_eq!(Bytes(bytes).rounded(), rounded);
        }
        for (ms, expected) in [(0, "0"), (20, "20ms"), (54_000, "54s"), (3_600_000, "1h")] {
            assert_eq!(duration(Duration::from_millis(ms)), expected);
        }
    }
}
