//! Every bound of the program, in one place, with its unit in its name.
//!
//! Owns: the numbers and the rules between them ([`Limits::check`]).
//! Never: reads options; `ops::config` builds a `Limits` and asks it to check itself.

use std::fmt;
use std::time::Duration;

use super::Glob;

/// The bounds a running daemon keeps. Fields that have an option are named after it.
#[derive(Clone, Debug)]
pub struct Limits {
    /// `--max-connections`: connections on the public listeners.
    pub connections_max: usize,
    /// `--max-connections-per-ip`: the same from one address; 0 is no bound.
    pub connections_per_ip_max: usize,
    /// Connections on the admin listener.
    pub admin_connections_max: usize,
    /// API calls in progress, what they bring together, in bytes; further ones wait.
    pub api_calls_bytes_max: usize,
    /// Long answers of API calls, made or being made and not yet written, in bytes; calls that ask
    /// for more wait.
    pub api_answers_bytes_max: usize,
    /// Largest body of an API call, in bytes.
    pub api_body_bytes_max: usize,
    /// Idempotency keys remembered for five minutes, all workers together; over it the oldest is
    /// forgotten.
    pub idempotency_keys_max: usize,
    /// Connections over `connections_max` that are kept just long enough to answer 503.
    pub refusals_max: usize,
    /// Largest HTTP request head, in bytes.
    pub head_bytes_max: usize,
    /// `--handshake-timeout`: from accept to upgraded or answered.
    pub handshake_timeout: Duration,
    /// `--max-message-size`: one inbound message, in bytes.
    pub message_bytes_max: usize,
    /// `--max-rooms-per-connection`: rooms asked for by one connection, its personal room aside.
    pub rooms_per_connection_max: usize,
    /// `--inbound-queue`: messages of one connection waiting for a worker.
    pub inbound_messages_max: usize,
    /// `--outbound-queue`: publications queued for one connection.
    pub outbound_publications_max: usize,
    /// `--outbound-queue-size`: the same in bytes.
    pub outbound_bytes_max: usize,
    /// `--lossy-room`: rooms in which a full queue skips instead of closing.
    pub lossy_rooms: Vec<Glob>,
    /// `--write-timeout`: queued bytes without progress.
    pub write_timeout: Duration,
    /// `--ping-interval`; `None` turns pings and the pong timeout off.
    pub ping_interval: Option<Duration>,
    /// `--pong-timeout`: silence that ends a connection.
    pub pong_timeout: Duration,
    /// `--heartbeat-interval`; `None` turns heartbeats off.
    pub heartbeat_interval: Option<Duration>,
    /// `--heartbeat-text`: what raw connections receive.
    pub heartbeat_text: Box<str>,
    /// `--batch-interval`: how long publications of a room are gathered.
    pub batch_interval: Duration,
    /// `--history-size`: publications kept for a room; 0 turns history off.
    pub history_publications_max: usize,
    /// `--history-bytes`: payload bytes kept for a room.
    pub history_bytes_max: usize,
    /// `--history-ttl`: how long a publication is kept.
    pub history_ttl: Duration,
    /// `--history-memory`: history of all rooms together, bookkeeping included, in bytes.
    pub history_memory_bytes_max: usize,
    /// `--memory-limit`: what the process may take, in bytes; `None` is no bound.
    pub memory_bytes_max: Option<usize>,
    /// `--max-rooms`: rooms alive on this node.
    pub rooms_max: usize,
    /// `--gzip-min-size`: smallest publication that is compressed, in bytes.
    pub gzip_bytes_min: usize,
    /// `--duplicate-login`: what a second live connection of a user does.
    pub duplicate_login: DuplicateLogin,
    /// `--message-rate`: inbound messages of one connection in a second; 0 is no bound.
    pub message_rate: u32,
    /// `--message-burst`: how many of them may come at once.
    pub message_burst: u32,
    /// `--drain-timeout`: how long the closes are spread when the daemon ends.
    pub drain_timeout: Duration,
    /// How long a connection may linger after its close frame.
    pub close_linger: Duration,
    /// Jobs of one worker, waiting or being done.
    pub jobs_max: usize,
    /// Effects waiting for the loop, all workers together.
    pub effects_max: usize,
}

/// What the end takes beyond its deadlines: calls are waited for, and threads end.
const ENDING_SLACK: Duration = Duration::from_secs(3);

/// Most bytes taken from one connection at once. Bytes are what a peer's frames cost: 128 KiB can hold
/// 22 000 empty ones.
pub const READ_BYTES_MAX: usize = 128 << 10;

/// Most bytes taken of a TLS handshake that is not over. The longest that browsers send are of 2 KiB;
/// certificates of clients are not asked for.
pub const TLS_HANDSHAKE_BYTES_MAX: usize = 16 << 10;

/// Content that may wait as TLS ciphertext, in bytes: one record. It is each connection's own, whatever
/// its queue has in common with others, and stays if the queue is given up.
pub const TLS_HELD_BYTES_MAX: usize = 16 << 10;

/// What a node of a cluster may at least hold of publications that it has heard of a room ahead of
/// those that it is reading, in bytes of payload: as much as `--history-bytes` by default.
const AHEAD_ROOM_BYTES_MIN: usize = 1 << 20;

/// The same of all rooms of a worker, bookkeeping included. After a lost feed all its rooms are read,
/// 32 at once; what comes for the others meanwhile has room here, for about a second at the rate that
/// one Redis carries.
const AHEAD_BYTES_MIN: usize = 32 << 20;

/// Rooms without members and history whose place is remembered, on all workers together: the latest
/// so many, and at most twice as many.
pub const GONE_ROOMS_MAX: usize = 32 << 10;

/// Events of the broker of a cluster that wait for a worker.
pub const BROKER_EVENTS_MAX: usize = 1024;

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 100_000,
            connections_per_ip_max: 0,
            admin_connections_max: 256,
            api_calls_bytes_max: 64 << 20,
            api_answers_bytes_max: 64 << 20,
            api_body_bytes_max: 1 << 20,
            idempotency_keys_max: 100_000,
            refusals_max: 64,
            head_bytes_max: 8 << 10,
            handshake_timeout: Duration::from_secs(10),
            message_bytes_max: 64 << 10,
            rooms_per_connection_max: 128,
            inbound_messages_max: 1000,
            outbound_publications_max: 1000,
            outbound_bytes_max: 1 << 20,
            lossy_rooms: Vec::new(),
            write_timeout: Duration::from_secs(10),
            ping_interval: Some(Duration::from_secs(54)),
            pong_timeout: Duration::from_secs(60),
            heartbeat_interval: None,
            heartbeat_text: "heartbeat".into(),
            batch_interval: Duration::ZERO,
            history_publications_max: 1000,
            history_bytes_max: 1 << 20,
            history_ttl: Duration::from_secs(3600),
            history_memory_bytes_max: 256 << 20,
            memory_bytes_max: None,
            rooms_max: 100_000,
            gzip_bytes_min: 256,
            duplicate_login: DuplicateLogin::Allow,
            message_rate: 0,
            message_burst: 0,
            drain_timeout: Duration::from_secs(30),
            close_linger: Duration::from_secs(3),
            jobs_max: 4096,
            effects_max: 4096,
        }
    }
}

/// What a room promises its members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Every publication, or the connection is closed.
    Reliable,
    /// Publications may be skipped, counted.
    Lossy,
}

/// What a second live connection of one user id does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DuplicateLogin {
    /// It lives beside the first.
    Allow,
    /// It takes the first one's place, which is closed 3504.
    Replace,
    /// It is refused, 409 or 3504.
    Refuse,
}

/// A rule between bounds that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitError {
    /// The option to change.
    pub option: &'static str,
    /// Its value.
    pub value: String,
    /// What must hold.
    pub rule: String,
}

impl fmt::Display for LimitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {}: {}", self.option, self.value, self.rule)
    }
}

impl std::error::Error for LimitError {}

impl Limits {
    /// Largest bound in bytes that may be asked for; frames end to end are indexed by `u32`.
    pub const BYTES_CEILING: usize = 1 << 30;

    /// Smallest memory a process may be given, in bytes: a daemon without connections takes half of
    /// it.
    pub const MEMORY_FLOOR: usize = 16 << 20;

    /// Shortest time a deadline may have; the timer wheel's tick is 16 ms.
    pub const DURATION_FLOOR: Duration = Duration::from_millis(20);

    /// From so much memory on the process gives up what it can, if it has a limit: what is left up to
    /// the limit is for what comes until that helps.
    #[must_use]
    pub fn memory_mark(&self) -> Option<usize> {
        self.memory_bytes_max.map(|limit| limit - limit / 8)
    }

    /// Lowers what all histories may take to what a limit of the memory leaves them. Returns what it
    /// was, if it was more.
    pub fn fit_history(&mut self) -> Option<usize> {
        let share = self.history_share()?;
        let before = self.history_memory_bytes_max;
        self.history_memory_bytes_max = before.min(share);
        (before > share).then_some(before)
    }

    /// What all histories may take of the memory: half of what a daemon without connections leaves.
    /// Nothing is taken from history when memory is short, so it alone may not make it so.
    fn history_share(&self) -> Option<usize> {
        let left = self.memory_mark()?.saturating_sub(Self::MEMORY_FLOOR / 2);
        Some(left / 2)
    }

    /// What a room with this name promises its members.
    #[must_use]
    pub fn delivery(&self, room: &str) -> Delivery {
        if self.lossy_rooms.iter().any(|glob| glob.matches(room)) {
            Delivery::Lossy
        } else {
            Delivery::Reliable
        }
    }

    /// Payload bytes of one connection that may wait for a worker; a message is always let in
    /// when none waits.
    #[must_use]
    pub fn inbound_bytes_max(&self) -> usize {
        (4 * self.message_bytes_max).max(256 << 10)
    }

    /// Most publications merged into one write: half a queue, so that a queue below its half
    /// always takes one merge more.
    #[must_use]
    pub fn merge_publications_max(&self) -> usize {
        (self.outbound_publications_max / 2).max(1)
    }

    /// The same in bytes.
    #[must_use]
    pub fn merge_bytes_max(&self) -> usize {
        self.outbound_bytes_max / 2
    }

    /// How long connections are waited for once the last WebSocket has been told that the daemon ends:
    /// what is queued has its time to be written, and the peer to answer.
    #[must_use]
    pub fn ending_time_max(&self) -> Duration {
        self.write_timeout + self.close_linger
    }

    /// How long the end may take in all, from the first signal on.
    #[must_use]
    pub fn shutdown_time_max(&self) -> Duration {
        self.drain_timeout + self.ending_time_max() + ENDING_SLACK
    }

    /// Most that a node of a cluster holds of what it has heard of one room ahead of what it is reading,
    /// in bytes of payload.
    #[must_use]
    pub fn ahead_room_bytes_max(&self) -> usize {
        self.history_bytes_max.max(AHEAD_ROOM_BYTES_MIN)
    }

    /// The same of all rooms of a worker, bookkeeping included.
    #[must_use]
    pub fn ahead_bytes_max(&self) -> usize {
        self.ahead_room_bytes_max().max(AHEAD_BYTES_MIN)
    }

    /// Checks the bounds, each by itself and against each other.
    ///
    /// # Errors
    /// The first rule that does not hold, with the option to change.
    pub fn check(&self) -> Result<(), LimitError> {
        self.check_counts()?;
        self.check_sizes()?;
        self.check_durations()
    }

    fn check_counts(&self) -> Result<(), LimitError> {
        for (option, value) in [
            ("--max-connections", self.connections_max),
            ("--max-rooms-per-connection", self.rooms_per_connection_max),
            ("--inbound-queue", self.inbound_messages_max),
            ("--outbound-queue", self.outbound_publications_max),
            ("--max-rooms", self.rooms_max),
        ] {
            if value == 0 {
                return Err(error(option, value, "must be at least 1".into()));
            }
            // Counts travel as `u32`.
            if value > Self::BYTES_CEILING {
                return Err(error(
                    option,
                    value,
                    format!("must be at most {}", Self::BYTES_CEILING),
                ));
            }
        }
        for (option, value) in [
            ("--history-size", self.history_publications_max),
            ("--message-rate", self.message_rate as usize),
            ("--message-burst", self.message_burst as usize),
        ] {
            if value > Self::BYTES_CEILING {
                return Err(error(
                    option,
                    value,
                    format!("must be at most {}", Self::BYTES_CEILING),
                ));
            }
        }
        if self.message_rate > 0 && self.message_burst == 0 {
            return Err(error(
                "--message-burst",
                self.message_burst,
                "must be at least 1 where --message-rate is set".into(),
            ));
        }
        self.check_history()
    }

    /// Where history is off, its other bounds mean nothing and are not looked at.
    fn check_history(&self) -> Result<(), LimitError> {
        if self.history_publications_max == 0 {
            return Ok(());
        }
        if self.history_bytes_max == 0 || self.history_bytes_max > Self::BYTES_CEILING {
            return Err(error(
                "--history-bytes",
                self.history_bytes_max,
                "must be between 1 byte and 1GiB".into(),
            ));
        }
        if self.history_memory_bytes_max < self.history_bytes_max {
            return Err(error(
                "--history-memory",
                self.history_memory_bytes_max,
                format!(
                    "must be at least --history-bytes, which is {}",
                    self.history_bytes_max
                ),
            ));
        }
        if let (Some(memory), Some(share)) = (self.memory_bytes_max, self.history_share())
            && share < self.history_bytes_max
        {
            return Err(error(
                "--memory-limit",
                memory,
                format!(
                    "must leave --history-bytes, which is {}, for history: it leaves {share}",
                    self.history_bytes_max
                ),
            ));
        }
        if self.history_ttl < Duration::from_secs(1) {
            return Err(error(
                "--history-ttl",
                format!("{:?}", self.history_ttl),
                "must be at least 1s".into(),
            ));
        }
        Ok(())
    }

    fn check_sizes(&self) -> Result<(), LimitError> {
        for (option, value) in [
            ("--max-message-size", self.message_bytes_max),
            ("--outbound-queue-size", self.outbound_bytes_max),
        ] {
            if value == 0 || value > Self::BYTES_CEILING {
                return Err(error(
                    option,
                    value,
                    "must be between 1 byte and 1GiB".into(),
                ));
            }
        }
        if let Some(memory) = self.memory_bytes_max
            && memory < Self::MEMORY_FLOOR
        {
            return Err(error(
                "--memory-limit",
                memory,
                "must be at least 16MiB".into(),
            ));
        }
        if self.outbound_bytes_max / 2 < self.message_bytes_max {
            return Err(error(
                "--outbound-queue-size",
                self.outbound_bytes_max,
                format!(
                    "must be at least twice --max-message-size, which is {}",
                    self.message_bytes_max
                ),
            ));
        }
        if self.heartbeat_text.is_empty() || self.heartbeat_text.len() > 4096 {
            return Err(error(
                "--heartbeat-text",
                &*self.heartbeat_text,
                "must have 1 to 4096 bytes".into(),
            ));
        }
        Ok(())
    }

    fn check_durations(&self) -> Result<(), LimitError> {
        for (option, value) in [
            ("--handshake-timeout", Some(self.handshake_timeout)),
            ("--write-timeout", Some(self.write_timeout)),
            ("--ping-interval", self.ping_interval),
            ("--heartbeat-interval", self.heartbeat_interval),
        ] {
            if value.is_some_and(|value| value < Self::DURATION_FLOOR) {
                return Err(error(
                    option,
                    format!("{:?}", value.unwrap_or_default()),
                    format!("must be at least {:?}", Self::DURATION_FLOOR),
                ));
            }
        }
        if self.batch_interval > Duration::from_secs(10) {
            return Err(error(
                "--batch-interval",
                format!("{:?}", self.batch_interval),
                "must be at most 10s".into(),
            ));
        }
        match self.ping_interval {
            Some(interval) if self.pong_timeout <= interval => Err(error(
                "--pong-timeout",
                format!("{:?}", self.pong_timeout),
                format!("must exceed --ping-interval, which is {interval:?}"),
            )),
            _ => Ok(()),
        }
    }
}

fn error(option: &'static str, value: impl ToString, rule: String) -> LimitError {
    LimitError {
        option,
        value: value.to_string(),
        rule,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut Limits)) -> &'static str {
        let mut limits = Limits::default();
        change(&mut limits);
        limits.check().expect_err("must be refused").option
    }

    #[test]
    fn defaults_hold() {
        assert_eq!(Limits::default().check(), Ok(()));
    }

    #[test]
    fn each_rule_names_its_option() {
        assert_eq!(refused(|l| l.connections_max = 0), "--max-connections");
        assert_eq!(
            refused(|l| l.rooms_per_connection_max = 0),
            "--max-rooms-per-connection"
        );
        assert_eq!(refused(|l| l.inbound_messages_max = 0), "--inbound-queue");
        assert_eq!(
            refused(|l| l.outbound_publications_max = 0),
            "--outbound-queue"
        );
        assert_eq!(refused(|l| l.message_bytes_max = 0), "--max-message-size");
        assert_eq!(
            refused(|l| l.message_bytes_max = 1 << 20),
            "--outbound-queue-size"
        );
        assert_eq!(
            refused(|l| l.memory_bytes_max = Some((16 << 20) - 1)),
            "--memory-limit"
        );
        assert_eq!(
            refused(|l| {
                l.memory_bytes_max = Some(64 << 20);
                l.history_bytes_max = (24 << 20) + 1;
            }),
            "--memory-limit"
        );
        assert_eq!(
            refused(|l| l.outbound_bytes_max = 2 << 30),
            "--outbound-queue-size"
        );
        assert_eq!(
            refused(|l| l.heartbeat_text = "".into()),
            "--heartbeat-text"
        );
        assert_eq!(
            refused(|l| l.write_timeout = Duration::ZERO),
            "--write-timeout"
        );
        assert_eq!(
            refused(|l| l.batch_interval = Duration::from_secs(11)),
            "--batch-interval"
        );
        assert_eq!(
            refused(|l| l.pong_timeout = Duration::from_secs(54)),
            "--pong-timeout"
        );
        assert_eq!(refused(|l| l.rooms_max = 0), "--max-rooms");
        assert_eq!(
            refused(|l| l.history_publications_max = (1 << 30) + 1),
            "--history-size"
        );
        assert_eq!(refused(|l| l.history_bytes_max = 0), "--history-bytes");
        assert_eq!(
            refused(|l| l.history_bytes_max = (1 << 30) + 1),
            "--history-bytes"
        );
        assert_eq!(
            refused(|l| l.history_memory_bytes_max = (1 << 20) - 1),
            "--history-memory"
        );
        assert_eq!(
            refused(|l| l.history_ttl = Duration::from_millis(999)),
            "--history-ttl"
        );
        assert_eq!(refused(|l| l.message_rate = 1), "--message-burst");
        assert_eq!(refused(|l| l.message_rate = u32::MAX), "--message-rate");
    }

    #[test]
    fn histories_get_half_of_the_memory_that_there_is_for_them_at_most() {
        let mut limits = Limits::default();
        assert_eq!(limits.fit_history(), None);
        limits.memory_bytes_max = Some(1 << 30);
        assert_eq!(limits.fit_history(), None);
        for (limit_mib, left_mib) in [(64, 24), (32, 10), (16, 3)] {
            let mut limits = Limits {
                memory_bytes_max: Some(limit_mib << 20),
                ..Limits::default()
            };
            assert_eq!(limits.fit_history(), Some(256 << 20));
            assert_eq!(limits.history_memory_bytes_max, left_mib << 20);
            assert_eq!(limits.check(), Ok(()));
        }
    }

    #[test]
    fn the_other_side_of_each_rule_holds() {
        for limits in [
            Limits {
                ping_interval: None,
                pong_timeout: Duration::from_secs(1),
                ..Limits::default()
            },
            Limits {
                memory_bytes_max: Some(16 << 20),
                ..Limits::default()
            },
            Limits {
                history_bytes_max: 1 << 30,
                history_memory_bytes_max: 1 << 30,
                history_ttl: Duration::from_secs(1),
                rooms_max: 1,
                message_rate: 1,
                message_burst: 1,
                ..Limits::default()
            },
            Limits {
                history_publications_max: 0,
                history_bytes_max: 0,
                history_memory_bytes_max: 0,
                history_ttl: Duration::ZERO,
                ..Limits::default()
            },
        ] {
            assert_eq!(limits.check(), Ok(()));
        }
    }
}
