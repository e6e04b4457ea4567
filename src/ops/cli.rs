//! The command line and the environment, as typed.
//!
//! Owns: the names, units, defaults and help texts of all options; `--help` is their only
//! documentation in the code.
//! Never: checks one option against another or resolves a name; that is [`super::config`].
//!
//! Invariants
//! - Every option `--some-name` is also read from `ROOMCAST_SOME_NAME`; the flag wins, and an
//!   empty variable counts as unset.
//! - A list is given by repeating its flag, or with commas in its variable.
//! - No number wraps: what does not fit is an error that names option, value and rule.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use clap::builder::{ArgAction, PossibleValuesParser, Resettable, TypedValueParser};
use clap::parser::ValueSource;
use clap::{Arg, Command, CommandFactory, FromArgMatches, Parser};
use log::LevelFilter;

use super::quantity::{
    parse_batch_interval, parse_count, parse_count_or_off, parse_duration, parse_duration_or_off,
    parse_rate, parse_rate_or_off, parse_size, parse_size_or_off,
};
use crate::base::DuplicateLogin;

/// A value whose option can be turned off. (The derive macro would read a plain `Option` as "may
/// be absent".)
pub type Switchable<T> = Option<T>;

/// The options as typed.
#[derive(Clone, Debug, Parser)]
#[command(name = "roomcast", version, about = env!("CARGO_PKG_DESCRIPTION"), long_about = None)]
#[command(
    after_help = "DURATION takes a unit: ms, s, m or h. SIZE takes B, KiB, MiB or GiB (or KB, MB, GB), \
                        or plain bytes.\nA flag beats its environment variable."
)]
pub struct Cli {
    /// Addresses of the public listeners.
    #[arg(
        long,
        env = "ROOMCAST_LISTEN",
        value_name = "ADDR",
        default_value = "0.0.0.0:7777",
        // Brackets and addresses in a doc comment would be links.
        help = "Public listener for WebSocket and HTTP: IPV4:PORT, [IPV6]:PORT or localhost:PORT. \
                Port 0 picks a free one and logs it. Repeatable; commas in the environment"
    )]
    pub listen: Vec<String>,

    /// Listener for the HTTP API, health checks and metrics, written as for --listen, or "off". A
    /// loopback address unless --api-key-file is set.
    #[arg(
        long,
        env = "ROOMCAST_ADMIN_LISTEN",
        value_name = "ADDR",
        default_value = "127.0.0.1:7778"
    )]
    pub admin_listen: String,

    /// Patterns for the origins of web pages that may connect.
    #[arg(
        long,
        env = "ROOMCAST_ALLOWED_ORIGIN",
        value_name = "ORIGIN",
        help = "Web origin whose pages may connect: https://example.com[:PORT], \
                https://*.example.com or \"*\" for any. Requests without an Origin header are \
                always allowed. Repeatable; commas in the environment [default: the same origin]"
    )]
    pub allowed_origin: Vec<String>,

    /// Worker threads; the default is the number of cores less one, at least 1. 0 does their work
    /// on the loop thread. Each adds a stack and a bounded queue of jobs.
    #[arg(
        long,
        env = "ROOMCAST_WORKERS",
        value_name = "N",
        default_value_t = default_workers(),
        value_parser = parse_count
    )]
    pub workers: usize,

    /// Connections on the public listeners; one more is answered 503. Lowered, with a warning, to
    /// what the file limit allows. An idle connection costs up to 2 KiB, a busy one its queues.
    #[arg(
        long,
        env = "ROOMCAST_MAX_CONNECTIONS",
        value_name = "N",
        default_value = "100000",
        value_parser = parse_count
    )]
    pub max_connections: usize,

    /// Connections from one address, or of IPv6 from one network of 64 bits; 0 or "off" sets no bound.
    #[arg(
        long,
        env = "ROOMCAST_MAX_CONNECTIONS_PER_IP",
        value_name = "N",
        default_value = "0",
        value_parser = parse_count_or_off
    )]
    pub max_connections_per_ip: usize,

    /// Reverse proxies, by address or network (10.0.0.0/8), whose X-Forwarded-For says where a
    /// client comes from; from anybody else the header is ignored. Repeatable; commas in the
    /// environment [default: none]
    #[arg(long, env = "ROOMCAST_TRUSTED_PROXY", value_name = "CIDR")]
    pub trusted_proxy: Vec<String>,

    /// Largest inbound message, in bytes or with a unit; a larger one closes 1009. While it
    /// arrives in pieces, a connection holds up to this much memory.
    #[arg(
        long,
        env = "ROOMCAST_MAX_MESSAGE_SIZE",
        value_name = "SIZE",
        default_value = "64KiB",
        value_parser = parse_size
    )]
    pub max_message_size: usize,

    /// Rooms one connection may be in, its personal room aside. Memory per connection grows with
    /// the rooms it is in.
    #[arg(
        long,
        env = "ROOMCAST_MAX_ROOMS_PER_CONNECTION",
        value_name = "N",
        default_value = "128",
        value_parser = parse_count
    )]
    pub max_rooms_per_connection: usize,

    /// Time from accept until a connection is upgraded or answered.
    #[arg(
        long,
        env = "ROOMCAST_HANDSHAKE_TIMEOUT",
        value_name = "DURATION",
        default_value = "10s",
        value_parser = parse_duration
    )]
    pub handshake_timeout: Duration,

    /// Messages of one connection waiting for a worker; at the bound its socket is not read.
    /// Memory per connection: also bounded to four times --max-message-size, at least 256KiB.
    #[arg(
        long,
        env = "ROOMCAST_INBOUND_QUEUE",
        value_name = "N",
        default_value = "1000",
        value_parser = parse_count
    )]
    pub inbound_queue: usize,

    /// Publications queued for one connection; at the bound it is closed 3008, or skips in lossy
    /// rooms. Entries share their bytes among all members.
    #[arg(
        long,
        env = "ROOMCAST_OUTBOUND_QUEUE",
        value_name = "N",
        default_value = "1000",
        value_parser = parse_count
    )]
    pub outbound_queue: usize,

    /// The same bound in bytes or with a unit, at least twice --max-message-size. Memory per
    /// connection: up to this, less what it shares with other members.
    #[arg(
        long,
        env = "ROOMCAST_OUTBOUND_QUEUE_SIZE",
        value_name = "SIZE",
        default_value = "1MiB",
        value_parser = parse_size
    )]
    pub outbound_queue_size: usize,

    /// Rooms, as a pattern in which * stands for any text, where a full queue skips publications,
    /// counted and told, instead of closing. Repeatable; commas in the environment [default: none]
    #[arg(long, env = "ROOMCAST_LOSSY_ROOM", value_name = "GLOB")]
    pub lossy_room: Vec<String>,

    /// Queued bytes without progress for this long close a connection 3009 and free its queue.
    #[arg(
        long,
        env = "ROOMCAST_WRITE_TIMEOUT",
        value_name = "DURATION",
        default_value = "10s",
        value_parser = parse_duration
    )]
    pub write_timeout: Duration,

    /// Time between pings, the first one jittered; "off" or 0 disables pings and --pong-timeout.
    #[arg(
        long,
        env = "ROOMCAST_PING_INTERVAL",
        value_name = "DURATION",
        default_value = "54s",
        value_parser = parse_duration_or_off
    )]
    pub ping_interval: Switchable<Duration>,

    /// Silence (no byte received) for this long closes a connection 3012; must exceed
    /// --ping-interval.
    #[arg(
        long,
        env = "ROOMCAST_PONG_TIMEOUT",
        value_name = "DURATION",
        default_value = "60s",
        value_parser = parse_duration
    )]
    pub pong_timeout: Duration,

    /// Time between heartbeats, messages the application itself sees; "off" or 0 disables them.
    #[arg(
        long,
        env = "ROOMCAST_HEARTBEAT_INTERVAL",
        value_name = "DURATION",
        default_value = "off",
        value_parser = parse_duration_or_off
    )]
    pub heartbeat_interval: Switchable<Duration>,

    /// What raw connections receive as heartbeat, 1 to 4096 bytes of text.
    #[arg(
        long,
        env = "ROOMCAST_HEARTBEAT_TEXT",
        value_name = "TEXT",
        default_value = "heartbeat"
    )]
    pub heartbeat_text: String,

    /// Publications of one room within this time leave in one write; 0 or "off" merges only what
    /// one turn of the loop holds. Up to 10s; what is gathered is held once per room.
    #[arg(
        long,
        env = "ROOMCAST_BATCH_INTERVAL",
        value_name = "DURATION",
        default_value = "0",
        value_parser = parse_batch_interval
    )]
    pub batch_interval: Duration,

    /// Publications kept for each room, for members who come back; 0 or "off" turns history off.
    /// Memory: one kept publication costs its payload and at most 96 bytes.
    #[arg(
        long,
        env = "ROOMCAST_HISTORY_SIZE",
        value_name = "N",
        default_value = "1000",
        value_parser = parse_count_or_off
    )]
    pub history_size: usize,

    /// Payload kept for each room, in bytes or with a unit, up to 1GiB; what is over it goes,
    /// oldest first. Memory: up to this for one room, within --history-memory for all.
    #[arg(
        long,
        env = "ROOMCAST_HISTORY_BYTES",
        value_name = "SIZE",
        default_value = "1MiB",
        value_parser = parse_size
    )]
    pub history_bytes: usize,

    /// Time a publication is kept, at least 1s. Memory of idle rooms is held for this long.
    #[arg(
        long,
        env = "ROOMCAST_HISTORY_TTL",
        value_name = "DURATION",
        default_value = "1h",
        value_parser = parse_duration
    )]
    pub history_ttl: Duration,

    /// Memory for the history of all rooms together, bookkeeping included, in bytes or with a
    /// unit, at least --history-bytes. Over it the rooms idle longest are trimmed first.
    #[arg(
        long,
        env = "ROOMCAST_HISTORY_MEMORY",
        value_name = "SIZE",
        default_value = "256MiB",
        value_parser = parse_size
    )]
    pub history_memory: usize,

    /// Memory that the process may take, in bytes or with a unit, at least 16MiB. From 7/8 of it on
    /// the largest send queues are closed 3008, then new connections are answered 503.
    /// --history-memory is lowered to half of what lies between 8MiB and that, which must be at
    /// least --history-bytes. "off" or 0 sets no bound.
    #[arg(
        long,
        env = "ROOMCAST_MEMORY_LIMIT",
        value_name = "SIZE",
        default_value = "off",
        value_parser = parse_size_or_off
    )]
    pub memory_limit: Switchable<usize>,

    /// Rooms alive at once; a join or publication that would make one more is refused. Bounds the
    /// memory that made-up room names can take.
    #[arg(
        long,
        env = "ROOMCAST_MAX_ROOMS",
        value_name = "N",
        default_value = "100000",
        value_parser = parse_count
    )]
    pub max_rooms: usize,

    /// Smallest publication, in bytes or with a unit, that is compressed for connections with
    /// gzip=1. Memory: a compressed copy is made once per publication and shared.
    #[arg(
        long,
        env = "ROOMCAST_GZIP_MIN_SIZE",
        value_name = "SIZE",
        default_value = "256",
        value_parser = parse_size
    )]
    pub gzip_min_size: usize,

    /// What a second live connection of one user id does: live beside the first, replace it
    /// (closed 3504), or be refused (409). With "allow", each costs a connection's memory.
    #[arg(
        long,
        env = "ROOMCAST_DUPLICATE_LOGIN",
        value_name = "RULE",
        default_value = "allow",
        value_parser = duplicate_login_parser()
    )]
    pub duplicate_login: DuplicateLogin,

    /// Inbound messages of one connection in a second; over it, it is closed 3013. 0 or "off" sets
    /// no bound. Costs no memory.
    #[arg(
        long,
        env = "ROOMCAST_MESSAGE_RATE",
        value_name = "N",
        default_value = "0",
        value_parser = parse_rate_or_off
    )]
    pub message_rate: u32,

    /// Inbound messages of one connection that may come at once where --message-rate is set
    /// [default: twice the rate]. What waits for a worker is bounded by --inbound-queue.
    #[arg(
        long,
        env = "ROOMCAST_MESSAGE_BURST",
        value_name = "N",
        value_parser = parse_rate
    )]
    pub message_burst: Option<u32>,

    /// File with the secret, 32 bytes or more, that signs connection tokens (HS256); one line end
    /// at its end is ignored. When set, every connection needs a valid token.
    #[arg(long, env = "ROOMCAST_TOKEN_SECRET_FILE", value_name = "FILE")]
    pub token_secret_file: Option<PathBuf>,

    /// File with the key, one line of 16 to 4096 bytes of visible ASCII, that every call of the
    /// HTTP API must carry. Needed where --admin-listen is not a loopback address.
    #[arg(long, env = "ROOMCAST_API_KEY_FILE", value_name = "FILE")]
    pub api_key_file: Option<PathBuf>,

    /// File with the certificate of the public listeners in PEM, and those that it was signed with
    /// behind it. With --tls-key the listeners speak TLS (wss, https) and nothing else.
    #[arg(
        long,
        env = "ROOMCAST_TLS_CERT",
        value_name = "FILE",
        requires = "tls_key"
    )]
    pub tls_cert: Option<PathBuf>,

    /// File with the private key of --tls-cert, in PEM.
    #[arg(
        long,
        env = "ROOMCAST_TLS_KEY",
        value_name = "FILE",
        requires = "tls_cert"
    )]
    pub tls_key: Option<PathBuf>,

    /// URL of the Redis that joins this node with others into a cluster: redis://HOST:PORT, rediss://
    /// for TLS, redis+unix:///PATH, or redis+sentinel://HOST:PORT,HOST:PORT/MASTER; user and password as
    /// in a URL [default: no cluster].
    #[arg(long, env = "ROOMCAST_REDIS", value_name = "URL")]
    pub redis: Option<String>,

    /// What begins every key and channel in Redis, 1 to 64 letters, digits, dots, dashes and
    /// underscores; nodes with the same one are one cluster. Costs no memory.
    #[arg(
        long,
        env = "ROOMCAST_REDIS_PREFIX",
        value_name = "PREFIX",
        default_value = "roomcast"
    )]
    pub redis_prefix: String,

    /// Time that a join or a publication waits for Redis, 100ms to 1m, before it is refused (error 100,
    /// close 3004). What waits stays within --inbound-queue.
    #[arg(
        long,
        env = "ROOMCAST_REDIS_WAIT",
        value_name = "DURATION",
        default_value = "2s",
        value_parser = parse_duration
    )]
    pub redis_wait: Duration,

    /// What operators call this node, 1 to 64 bytes; shown by `info` of the API [default: the name of
    /// the host].
    #[arg(long, env = "ROOMCAST_NODE_NAME", value_name = "NAME")]
    pub node_name: Option<String>,

    /// Time over which SIGTERM spreads the closes of all connections; 0 closes them at once. What
    /// stops the daemon must wait 6s longer than this and --write-timeout. Costs no memory.
    #[arg(
        long,
        env = "ROOMCAST_DRAIN_TIMEOUT",
        value_name = "DURATION",
        default_value = "30s",
        value_parser = parse_duration
    )]
    pub drain_timeout: Duration,

    /// File for the log, appended to and opened anew on SIGHUP [default: standard error]. Lines
    /// that wait for it take up to 16MiB, as they would for standard error.
    #[arg(long, env = "ROOMCAST_LOG_FILE", value_name = "FILE")]
    pub log_file: Option<PathBuf>,

    /// Least important lines that are logged; RUST_LOG wins when it is set.
    #[arg(
        long,
        env = "ROOMCAST_LOG_LEVEL",
        value_name = "LEVEL",
        default_value = "info",
        ignore_case = true,
        value_parser = level_parser()
    )]
    pub log_level: LevelFilter,
}

impl Cli {
    /// Reads `args`, of which the first is the program's name, and the environment.
    ///
    /// # Errors
    /// Says what is wrong, or carries the text of `--help` and `--version`.
    pub fn try_from_args<I, T>(args: I) -> Result<Self, clap::Error>
    where
        I: IntoIterator<Item = T>,
        T: Into<OsString> + Clone,
    {
        Self::try_from_command(Self::command(), args)
    }

    /// The same for a command that differs in its name or has more to say.
    pub(super) fn try_from_command<I, T>(command: Command, args: I) -> Result<Self, clap::Error>
    where
        I: IntoIterator<Item = T>,
        T: Into<OsString> + Clone,
    {
        let (mut cli, from_environment) = parse::<Self, 4, _, _>(
            command,
            args,
            ["listen", "allowed_origin", "lossy_room", "trusted_proxy"],
        )?;
        let lists = [
            &mut cli.listen,
            &mut cli.allowed_origin,
            &mut cli.lossy_room,
            &mut cli.trusted_proxy,
        ];
        split_lists(lists, from_environment);
        Ok(cli)
    }

    /// The names of the variables that are read.
    #[must_use]
    pub fn variables() -> Vec<OsString> {
        variables(&Self::command())
    }
}

/// Reads `args` and the environment with `command`, and says which of `lists` came from the
/// environment.
pub(super) fn parse<P, const N: usize, I, T>(
    command: Command,
    args: I,
    lists: [&str; N],
) -> Result<(P, [bool; N]), clap::Error>
where
    P: FromArgMatches,
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    let mut command = command.mut_args(adapt);
    let mut matches = command.try_get_matches_from_mut(args)?;
    let from_environment =
        lists.map(|id| matches.value_source(id) == Some(ValueSource::EnvVariable));
    let parsed =
        P::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut command))?;
    Ok((parsed, from_environment))
}

/// Splits the lists that came from the environment at their commas. clap's own delimiter would
/// also split flags, where a comma may belong to a room name.
pub(super) fn split_lists<const N: usize>(
    lists: [&mut Vec<String>; N],
    from_environment: [bool; N],
) {
    for (list, from_environment) in lists.into_iter().zip(from_environment) {
        if from_environment {
            *list = list.iter().flat_map(|text| split_list(text)).collect();
        }
    }
}

/// The names of the variables that `command` reads.
pub(super) fn variables(command: &Command) -> Vec<OsString> {
    let names = command.get_arguments().filter_map(Arg::get_env);
    names.map(ToOwned::to_owned).collect()
}

/// What the derive macro has no words for.
fn adapt(arg: Arg) -> Arg {
    let Some(variable) = arg.get_env() else {
        return arg;
    };
    let is_empty = env::var_os(variable).is_some_and(|value| value.is_empty());
    let is_text = arg.get_action().takes_values()
        && (matches!(arg.get_action(), ArgAction::Append)
            || TEXT_OPTIONS.contains(&arg.get_id().as_str()));
    // A negative number must reach its parser, which names the rule, not pass for a flag.
    let arg = arg.hide_env_values(true).allow_hyphen_values(!is_text);
    if is_empty {
        arg.env(Resettable::Reset)
    } else {
        arg
    }
}

/// Options with one value that is no number; a flag after them is a flag, not their value.
const TEXT_OPTIONS: [&str; 12] = [
    "admin_listen",
    "heartbeat_text",
    "duplicate_login",
    "token_secret_file",
    "api_key_file",
    "tls_cert",
    "tls_key",
    "log_file",
    "redis",
    "redis_prefix",
    "node_name",
    "user",
];

fn split_list(text: &str) -> impl Iterator<Item = String> {
    text.split(',').map(|item| item.trim().to_owned())
}

fn default_workers() -> usize {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    // More than the bound could not be given by hand either.
    (cores - 1).clamp(1, super::config::WORKERS_MAX)
}

fn level_parser() -> impl TypedValueParser<Value = LevelFilter> {
    PossibleValuesParser::new(["off", "error", "warn", "info", "debug", "trace"])
        .try_map(|level| level.parse::<LevelFilter>())
}

fn duplicate_login_parser() -> impl TypedValueParser<Value = DuplicateLogin> {
    PossibleValuesParser::new(["allow", "replace", "refuse"]).map(|rule| match &*rule {
        "replace" => DuplicateLogin::Replace,
        "refuse" => DuplicateLogin::Refuse,
        _ => DuplicateLogin::Allow,
    })
}

#[cfg(test)]
mod tests {
    use super::super::quantity::{COUNT_RULE, DURATION_MAX_RULE, DURATION_RULE, SIZE_RULE};
    use super::*;

    fn parse(args: &[&str]) -> Result<Cli, String> {
        Cli::try_from_args(["roomcast"].iter().chain(args)).map_err(|error| error.to_string())
    }

    #[test]
    fn the_command_is_well_formed() {
        Cli::command().mut_args(adapt).debug_assert();
    }

    #[test]
    fn every_option_has_its_variable_and_help() {
        let command = Cli::command();
        let mut options_len = 0;
        for arg in command.get_arguments() {
            let name = arg.get_long().expect("every argument is an option");
            let expected = format!("ROOMCAST_{}", name.replace('-', "_").to_uppercase());
            let variable = arg.get_env().expect("every option has a variable");
            assert_eq!(variable, expected.as_str());
            assert!(arg.get_help().is_some(), "--{name}");
            options_len += 1;
        }
        assert_eq!(options_len, 41);
        assert_eq!(Cli::variables().len(), 41);
    }

    #[test]
    fn errors_name_option_value_and_rule() {
        for (args, parts) in [
            (&["--workers", "-1"][..], ["--workers", "'-1'", COUNT_RULE]),
            (&["--workers=x"], ["--workers", "'x'", COUNT_RULE]),
            (
                &["--max-connections", ""],
                ["--max-connections", "value", COUNT_RULE],
            ),
            (
                &["--write-timeout", "10"],
                ["--write-timeout", "'10'", "ms, s, m or h"],
            ),
            (
                &["--write-timeout", "-5s"],
                ["--write-timeout", "'-5s'", DURATION_RULE],
            ),
            (
                &["--pong-timeout", "off"],
                ["--pong-timeout", "'off'", DURATION_RULE],
            ),
            (
                &["--ping-interval", "9999h"],
                ["--ping-interval", "'9999h'", DURATION_MAX_RULE],
            ),
            (
                &["--max-message-size", "9T"],
                ["--max-message-size", "'9T'", SIZE_RULE],
            ),
            (
                &["--log-level", "loud"],
                ["--log-level", "'loud'", "error, warn, info"],
            ),
        ] {
            let error = parse(args).expect_err("must be refused");
            for part in parts {
                assert!(error.contains(part), "{part:?} is not in {error:?}");
            }
        }
        assert!(parse(&["--workers", "1", "--workers", "2"]).is_err());
        assert!(parse(&["--no-such-option"]).is_err());
        assert!(parse(&["stray"]).is_err());
    }

    #[test]
    fn lists_repeat_and_flags_keep_their_commas() {
        let args = ["--lossy-room", "#a,*", "--lossy-room", "live:*"];
        let cli = parse(&args).expect("both are patterns");
        assert_eq!(cli.lossy_room, ["#a,*", "live:*"]);
        assert_eq!(cli.listen, ["0.0.0.0:7777"]);
        assert_eq!(
            split_list("a, b,,c").collect::<Vec<_>>(),
            ["a", "b", "", "c"]
        );
    }

    #[test]
    fn levels_in_any_case() {
        let level = |text| parse(&["--log-level", text]).map(|cli| cli.log_level);
        assert_eq!(level("off"), Ok(LevelFilter::Off));
        assert_eq!(level("DEBUG"), Ok(LevelFilter::Debug));
    }
}
