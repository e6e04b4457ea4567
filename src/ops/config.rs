//! The checked configuration.
//!
//! Owns: the rules that options must keep, each by itself and against each other, apart from those
//! between bounds, which are [`Limits::check`].
//! Never: reads a flag itself (see [`super::cli`]) or opens anything but the files of the secrets
//! (see [`super::secret`]). That and resolving `localhost` can block, so a configuration is made
//! before the loop runs.
//!
//! Invariants
//! - Whoever holds a [`Config`] needs to check nothing in it again.
//! - An error names the option, its value and the rule.

use std::collections::BTreeSet;
use std::env;
use std::error::Error;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::iter;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use log::LevelFilter;

use crate::base::{
    AllowedOrigins, Glob, LimitError, Limits, Network, NetworkError, OriginPattern, RoomName,
    Secret,
};

use super::certificate::{self, Certificate};
use super::cli::Cli;
use super::cluster::{self, ClusterConfig};
use super::command::TokenOptions;
use super::heap;
use super::secret;

/// Most worker threads that can be asked for.
pub const WORKERS_MAX: usize = 256;

/// Most public listeners.
pub const LISTENERS_MAX: usize = 16;

const VARIABLE_PREFIX: &str = "ROOMCAST_";

/// What the daemon runs with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Addresses of the public listeners, 1 to [`LISTENERS_MAX`].
    pub listen: Vec<SocketAddr>,
    /// Address of the admin listener, a loopback one unless there is an API key; `None` for none.
    pub admin_listen: Option<SocketAddr>,
    /// Which web pages may connect.
    pub allowed_origins: AllowedOrigins,
    /// Worker threads, up to [`WORKERS_MAX`]; 0 keeps their work on the loop thread.
    pub workers: usize,
    /// What connection tokens are signed with; `None` where no token is needed.
    pub token_secret: Option<Secret>,
    /// What calls of the HTTP API must carry; `None` where they need no key.
    pub api_key: Option<Secret>,
    /// What the public listeners speak TLS with; `None` where they speak plain HTTP.
    pub tls: Option<Certificate>,
    /// Files that SIGHUP reads or opens again.
    pub files: ConfigFiles,
    /// How the node is part of a cluster, if it is.
    pub cluster: ClusterConfig,
    /// What operators call the node; `None` for the name of the host.
    pub node_name: Option<String>,
    /// Whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<Network>,
    /// Least important lines that are logged.
    pub log_level: LevelFilter,
    /// Every other bound.
    pub limits: Limits,
}

/// The files that options name; `None` where the option is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigFiles {
    /// `--token-secret-file`.
    pub token_secret: Option<PathBuf>,
    /// `--api-key-file`.
    pub api_key: Option<PathBuf>,
    /// `--tls-cert` and `--tls-key`.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// `--log-file`; the daemon's own, a library leaves it alone.
    pub log: Option<PathBuf>,
}

impl Config {
    /// Reads and checks options as they would be typed behind `roomcast`; those not given have
    /// their value from the environment (`ROOMCAST_…`) or their default. Warnings go to the log.
    ///
    /// # Errors
    /// The first option that is unknown, cannot be read or breaks a rule.
    pub fn from_args<I, T>(args: I) -> Result<Self, Box<dyn Error + Send + Sync>>
    where
        I: IntoIterator<Item = T>,
        T: Into<OsString>,
    {
        let args = args.into_iter().map(Into::into);
        let cli = Cli::try_from_args(iter::once("roomcast".into()).chain(args))?;
        let (config, warnings) = Self::from_cli(cli)?;
        for warning in warnings {
            log::warn!("{warning}");
        }
        Ok(config)
    }

    /// Checks what was typed. The strings are warnings, for the log once it runs.
    ///
    /// # Errors
    /// The first rule that does not hold.
    pub fn from_cli(cli: Cli) -> Result<(Self, Vec<String>), ConfigError> {
        let known = [Cli::variables(), TokenOptions::variables()].concat();
        let mut warnings: Vec<String> = unknown_variables_warning(env::vars_os(), &known)
            .into_iter()
            .collect();
        let config = Self::check(cli, &mut warnings)?;
        Ok((config, warnings))
    }

    fn check(cli: Cli, warnings: &mut Vec<String>) -> Result<Self, ConfigError> {
        let listen = parse_listeners(&cli.listen)?;
        let files = ConfigFiles {
            token_secret: cli.token_secret_file,
            api_key: cli.api_key_file,
            tls: cli.tls_cert.zip(cli.tls_key),
            log: cli.log_file,
        };
        let token_secret = (files.token_secret.as_ref())
            .map(|path| secret::read_token_secret(path, warnings))
            .transpose()?;
        let api_key = (files.api_key.as_ref())
            .map(|path| secret::read_api_key(path, warnings))
            .transpose()?;
        let tls = (files.tls.as_ref())
            .map(|(cert, key)| certificate::read(cert, key, unix_ms(), warnings))
            .transpose()?;
        let admin_listen = parse_admin_listener(&cli.admin_listen, &listen, api_key.as_ref())?;
        if cli.workers > WORKERS_MAX {
            return Err(ConfigError::new(
                "--workers",
                cli.workers,
                format!("must be at most {WORKERS_MAX}"),
            ));
        }
        let mut config = Self {
            listen,
            admin_listen,
            allowed_origins: parse_origins(&cli.allowed_origin)?,
            workers: cli.workers,
            token_secret,
            api_key,
            tls,
            files,
            cluster: ClusterConfig::check(cli.redis.as_deref(), cli.redis_prefix, cli.redis_wait)?,
            node_name: cluster::check_node_name(cli.node_name)?,
            trusted_proxies: parse_networks(&cli.trusted_proxy, warnings)?,
            log_level: cli.log_level,
            limits: Limits {
                connections_max: cli.max_connections,
                connections_per_ip_max: cli.max_connections_per_ip,
                message_bytes_max: cli.max_message_size,
                rooms_per_connection_max: cli.max_rooms_per_connection,
                handshake_timeout: cli.handshake_timeout,
                inbound_messages_max: cli.inbound_queue,
                outbound_publications_max: cli.outbound_queue,
                outbound_bytes_max: cli.outbound_queue_size,
                lossy_rooms: parse_globs("--lossy-room", &cli.lossy_room)?,
                write_timeout: cli.write_timeout,
                ping_interval: cli.ping_interval,
                pong_timeout: cli.pong_timeout,
                heartbeat_interval: cli.heartbeat_interval,
                heartbeat_text: cli.heartbeat_text.into(),
                batch_interval: cli.batch_interval,
                history_publications_max: cli.history_size,
                history_bytes_max: cli.history_bytes,
                history_ttl: cli.history_ttl,
                history_memory_bytes_max: cli.history_memory,
                memory_bytes_max: cli.memory_limit,
                rooms_max: cli.max_rooms,
                gzip_bytes_min: cli.gzip_min_size,
                duplicate_login: cli.duplicate_login,
                message_rate: cli.message_rate,
                message_burst: cli
                    .message_burst
                    .unwrap_or_else(|| cli.message_rate.saturating_mul(2)),
                drain_timeout: cli.drain_timeout,
                ..Limits::default()
            },
        };
        config.limits.check()?;
        if config.limits.memory_bytes_max.is_some() && !heap::GIVES_BACK {
            warnings.push(
                "--memory-limit closes queues, and this C library may keep what they held"
                    .to_owned(),
            );
        }
        if let Some(asked) = config.limits.fit_history() {
            let left = config.limits.history_memory_bytes_max;
            warnings.push(format!(
                "--history-memory is lowered from {asked} to {left} bytes: --memory-limit leaves no more"
            ));
        }
        let share = config.limits.history_memory_bytes_max / config.workers.max(1);
        if config.cluster.url.is_none() && share < config.limits.history_bytes_max {
            warnings.push(format!(
                "--history-memory leaves {share} bytes to each worker: no room can keep --history-bytes"
            ));
        }
        Ok(config)
    }
}

/// A rule that an option breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The option to change.
    pub option: &'static str,
    /// Its value.
    pub value: String,
    /// What must hold.
    pub rule: String,
}

impl ConfigError {
    pub(super) fn new(option: &'static str, value: impl ToString, rule: impl Into<String>) -> Self {
        Self {
            option,
            value: value.to_string(),
            rule: rule.into(),
        }
    }

    /// For a value that is text: quoted, so that spaces and control characters can be seen.
    pub(super) fn quoting(option: &'static str, value: &str, rule: impl Into<String>) -> Self {
        Self::new(option, format!("{value:?}"), rule)
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {}: {}", self.option, self.value, self.rule)
    }
}

impl Error for ConfigError {}

impl From<LimitError> for ConfigError {
    fn from(error: LimitError) -> Self {
        let LimitError {
            option,
            value,
            rule,
        } = error;
        Self {
            option,
            value,
            rule,
        }
    }
}

/// The time on the wall.
fn unix_ms() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    since_epoch.map_or(0, |time| time.as_millis() as u64)
}

fn parse_listeners(texts: &[String]) -> Result<Vec<SocketAddr>, ConfigError> {
    const OPTION: &str = "--listen";
    if texts.len() > LISTENERS_MAX {
        let rule = format!("must be given at most {LISTENERS_MAX} times");
        return Err(ConfigError::new(
            OPTION,
            format!("given {} times", texts.len()),
            rule,
        ));
    }
    let mut addresses = Vec::with_capacity(texts.len());
    for text in texts {
        let address = parse_address(OPTION, text)?;
        if is_taken(address, &addresses) {
            let rule = "must not name the same address and port twice";
            return Err(ConfigError::quoting(OPTION, text, rule));
        }
        addresses.push(address);
    }
    Ok(addresses)
}

/// Whoever reaches the admin listener may do everything, so strangers must not, or need a key.
fn parse_admin_listener(
    text: &str,
    listen: &[SocketAddr],
    api_key: Option<&Secret>,
) -> Result<Option<SocketAddr>, ConfigError> {
    const OPTION: &str = "--admin-listen";
    if text == "off" {
        return Ok(None);
    }
    let address = parse_address(OPTION, text)?;
    // An IPv4 address may come in its IPv6 form.
    if api_key.is_none() && !address.ip().to_canonical().is_loopback() {
        let rule = "must be a loopback address unless --api-key-file is set";
        return Err(ConfigError::quoting(OPTION, text, rule));
    }
    if is_taken(address, listen) {
        let rule = "must not name the same address and port as --listen";
        return Err(ConfigError::quoting(OPTION, text, rule));
    }
    Ok(Some(address))
}

/// Port 0 picks a free port each time, so it may be asked for again. An unspecified address is
/// every address of its family.
fn is_taken(address: SocketAddr, others: &[SocketAddr]) -> bool {
    let is_same = |other: &SocketAddr| {
        let is_every = address.ip().is_unspecified() || other.ip().is_unspecified();
        let is_every = is_every && address.is_ipv4() == other.is_ipv4();
        address.port() == other.port() && (is_every || address.ip() == other.ip())
    };
    address.port() != 0 && others.iter().any(is_same)
}

/// Reads an address and port. No other host name than `localhost` is looked up: a listener's
/// address should not depend on what a name server says, and a mistyped address is not a name.
fn parse_address(option: &'static str, text: &str) -> Result<SocketAddr, ConfigError> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let port = match text.split_once(':') {
        Some((host, port)) if host.eq_ignore_ascii_case("localhost") => parse_port(port),
        _ => None,
    };
    let Some(port) = port else {
        let rule = "must be IPV4:PORT, [IPV6]:PORT or localhost:PORT, with a port up to 65535";
        return Err(ConfigError::quoting(option, text, rule));
    };
    let found = match ("localhost", port).to_socket_addrs() {
        Ok(found) => found,
        Err(error) => {
            let rule = format!("must be known to this host: {error}");
            return Err(ConfigError::quoting(option, text, rule));
        }
    };
    // One listener has one address: the IPv4 one where there is a choice.
    found
        .min_by_key(SocketAddr::is_ipv6)
        .ok_or_else(|| ConfigError::quoting(option, text, "must be known to this host"))
}

fn parse_port(text: &str) -> Option<u16> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten()
}

fn parse_origins(texts: &[String]) -> Result<AllowedOrigins, ConfigError> {
    let mut patterns = Vec::with_capacity(texts.len());
    for text in texts {
        let pattern = OriginPattern::parse(text)
            .map_err(|error| ConfigError::quoting("--allowed-origin", text, error.to_string()))?;
        patterns.push(pattern);
    }
    Ok(AllowedOrigins::new(patterns))
}

fn parse_networks(
    texts: &[String],
    warnings: &mut Vec<String>,
) -> Result<Vec<Network>, ConfigError> {
    const OPTION: &str = "--trusted-proxy";
    let mut networks = Vec::with_capacity(texts.len());
    for text in texts {
        let network: Network = text
            .parse()
            .map_err(|error: NetworkError| ConfigError::quoting(OPTION, text, error.to_string()))?;
        if network.is_everybody() {
            let what = "everybody may say by X-Forwarded-For who he is";
            warnings.push(format!("{OPTION} is {text:?}: {what}"));
        }
        networks.push(network);
    }
    Ok(networks)
}

/// Reads patterns for room names.
pub(super) fn parse_globs(
    option: &'static str,
    texts: &[String],
) -> Result<Vec<Glob>, ConfigError> {
    let mut patterns = Vec::with_capacity(texts.len());
    for text in texts {
        // A pattern keeps the rules of a name, or no room could ever fit it.
        RoomName::new(text).map_err(|error| {
            let rule = format!("must be 1 to 255 bytes of printable ASCII, but {error}");
            ConfigError::quoting(option, text, rule)
        })?;
        patterns.push(Glob::new(text));
    }
    Ok(patterns)
}

/// Names the variables that look like options and are none: a mistyped one would otherwise be
/// ignored in silence. Not an error, because others put variables into an environment, too.
fn unknown_variables_warning(
    variables: impl Iterator<Item = (OsString, OsString)>,
    known: &[OsString],
) -> Option<String> {
    let unknown: BTreeSet<String> = variables
        .filter(|(name, value)| is_ours(name) && !known.contains(name) && !value.is_empty())
        .map(|(name, _)| name.to_string_lossy().into_owned())
        .collect();
    if unknown.is_empty() {
        return None;
    }
    let names = Vec::from_iter(unknown).join(", ");
    Some(format!(
        "environment variables that name no option are ignored: {names}"
    ))
}

fn is_ours(name: &OsStr) -> bool {
    name.as_encoded_bytes()
        .starts_with(VARIABLE_PREFIX.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::base::{Delivery, DuplicateLogin};

    use super::*;

    fn check(args: &[&str]) -> Result<Config, ConfigError> {
        let args = ["roomcast"].iter().chain(args);
        let cli = Cli::try_from_args(args).expect("each option by itself is well formed");
        Config::check(cli, &mut Vec::new())
    }

    fn refused(args: &[&str]) -> ConfigError {
        check(args).expect_err("must be refused")
    }

    #[test]
    fn the_defaults_of_the_options_are_those_of_the_limits() {
        let config = check(&[]).expect("the defaults hold");
        assert_eq!(
            format!("{:?}", config.limits),
            format!("{:?}", Limits::default())
        );
        assert_eq!(config.listen, ["0.0.0.0:7777".parse().expect("an address")]);
        assert_eq!(
            config.admin_listen,
            Some("127.0.0.1:7778".parse().expect("an address"))
        );
        assert_eq!(config.allowed_origins, AllowedOrigins::default());
        assert_eq!(config.log_level, LevelFilter::Info);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        assert_eq!(config.workers, (cores - 1).clamp(1, WORKERS_MAX));
    }

    #[test]
    fn every_limit_comes_from_its_option() {
        let config = check(&[
            "--max-connections=1",
            "--max-connections-per-ip=2",
            "--max-message-size=3",
            "--max-rooms-per-connection=4",
            "--handshake-timeout=5s",
            "--inbound-queue=6",
            "--outbound-queue=7",
            "--outbound-queue-size=8",
            "--lossy-room=live:*",
            "--write-timeout=9s",
            "--ping-interval=10s",
            "--pong-timeout=11s",
            "--heartbeat-interval=12s",
            "--heartbeat-text=tick",
            "--batch-interval=13ms",
            "--history-size=14",
            "--history-bytes=15",
            "--history-ttl=16s",
            "--history-memory=17",
            "--max-rooms=18",
            "--gzip-min-size=19",
            "--duplicate-login=refuse",
            "--message-rate=20",
            "--message-burst=21",
            "--drain-timeout=22s",
            "--log-file=/var/log/roomcast.log",
            "--workers=0",
            "--log-level=trace",
            "--admin-listen=off",
            "--listen=127.0.0.1:0",
            "--listen=127.0.0.1:0",
            "--listen=[::1]:80",
            "--allowed-origin=https://a.test",
            "--trusted-proxy=10.1.2.3/8",
            "--trusted-proxy=::1",
        ])
        .expect("all of it holds");
        let limits = &config.limits;
        assert_eq!(limits.connections_max, 1);
        assert_eq!(limits.connections_per_ip_max, 2);
        assert_eq!(limits.message_bytes_max, 3);
        assert_eq!(limits.rooms_per_connection_max, 4);
        assert_eq!(limits.handshake_timeout, Duration::from_secs(5));
        assert_eq!(limits.inbound_messages_max, 6);
        assert_eq!(limits.outbound_publications_max, 7);
        assert_eq!(limits.outbound_bytes_max, 8);
        assert_eq!(limits.delivery("live:1"), Delivery::Lossy);
        assert_eq!(limits.delivery("chat"), Delivery::Reliable);
        assert_eq!(limits.write_timeout, Duration::from_secs(9));
        assert_eq!(limits.ping_interval, Some(Duration::from_secs(10)));
        assert_eq!(limits.pong_timeout, Duration::from_secs(11));
        assert_eq!(limits.heartbeat_interval, Some(Duration::from_secs(12)));
        assert_eq!(&*limits.heartbeat_text, "tick");
        assert_eq!(limits.batch_interval, Duration::from_millis(13));
        assert_eq!(limits.history_publications_max, 14);
        assert_eq!(limits.history_bytes_max, 15);
        assert_eq!(limits.history_ttl, Duration::from_secs(16));
        assert_eq!(limits.history_memory_bytes_max, 17);
        assert_eq!(limits.rooms_max, 18);
        assert_eq!(limits.gzip_bytes_min, 19);
        assert_eq!(limits.duplicate_login, DuplicateLogin::Refuse);
        assert_eq!((limits.message_rate, limits.message_burst), (20, 21));
        assert_eq!(limits.drain_timeout, Duration::from_secs(22));
        assert_eq!(
            config.files,
            ConfigFiles {
                log: Some("/var/log/roomcast.log".into()),
                ..ConfigFiles::default()
            }
        );
        assert_eq!((config.workers, config.log_level), (0, LevelFilter::Trace));
        assert_eq!((config.listen.len(), config.admin_listen), (3, None));
        assert!(config.allowed_origins.allows("https://a.test", "b.test"));
        let proxies = format!("{:?}", config.trusted_proxies);
        assert_eq!(proxies, "[10.0.0.0/8, ::1/128]");
    }

    #[test]
    fn addresses() {
        for (text, expected) in [
            ("127.0.0.1:80", Some("127.0.0.1:80")),
            ("0.0.0.0:0", Some("0.0.0.0:0")),
            ("[::1]:65535", Some("[::1]:65535")),
            ("[::]:1", Some("[::]:1")),
            ("127.0.0.1", None),
            ("127.0.0.1:", None),
            ("127.0.0.1:65536", None),
            ("127.0.0.1:-1", None),
            ("127.1:80", None),
            ("::1:80", None),
            ("[::1]", None),
            (":80", None),
            ("80", None),
            ("*:80", None),
            ("example.com:80", None),
            ("localhost", None),
            ("localhost:", None),
            ("localhost:+80", None),
            ("localhost:65536", None),
            (" 127.0.0.1:80", None),
            ("off", None),
            ("", None),
        ] {
            let found = parse_address("--listen", text)
                .ok()
                .map(|found| found.to_string());
            assert_eq!(found.as_deref(), expected, "{text:?}");
        }
        let local = parse_address("--listen", "LocalHost:80").expect("localhost is known");
        assert!(local.ip().is_loopback());
        assert_eq!(local.port(), 80);
    }

    #[test]
    fn errors_name_option_value_and_rule() {
        let port_taken = ["--listen=127.0.0.1:80", "--listen=127.0.0.1:80"];
        let many = vec!["--listen=127.0.0.1:0"; LISTENERS_MAX + 1];
        for (args, expected) in [
            (
                &port_taken[..],
                "--listen is \"127.0.0.1:80\": must not name the same address",
            ),
            (
                &many,
                "--listen is given 17 times: must be given at most 16 times",
            ),
            (&["--listen=:80"], "--listen is \":80\": must be IPV4:PORT"),
            (&["--listen=off"], "--listen is \"off\": must be IPV4:PORT"),
            (
                &["--admin-listen=on"],
                "--admin-listen is \"on\": must be IPV4:PORT",
            ),
            (
                &["--admin-listen=0.0.0.0:1"],
                "--admin-listen is \"0.0.0.0:1\": must be a loopback address unless \
                 --api-key-file is set",
            ),
            (
                &["--listen=[::1]:7", "--admin-listen=[::1]:7"],
                "--admin-listen is \"[::1]:7\": must not name the same address and port as",
            ),
            (
                &["--listen=127.0.0.1:7", "--listen=0.0.0.0:7"],
                "--listen is \"0.0.0.0:7\": must not name the same address and port twice",
            ),
            (
                &["--listen=0.0.0.0:7", "--admin-listen=127.0.0.1:7"],
                "--admin-listen is \"127.0.0.1:7\": must not name the same address and port as",
            ),
            (
                &["--listen=[::]:7", "--admin-listen=[::1]:7"],
                "--admin-listen is \"[::1]:7\": must not name the same address and port as",
            ),
            (&["--workers=257"], "--workers is 257: must be at most 256"),
            (
                &["--trusted-proxy=10.0.0.0/33"],
                "--trusted-proxy is \"10.0.0.0/33\": must be an IP address, or one with",
            ),
            (
                &["--allowed-origin=https://a.test/x"],
                "--allowed-origin is \"https://a.test/x\": must end after the host",
            ),
            (
                &["--lossy-room="],
                "--lossy-room is \"\": must be 1 to 255 bytes",
            ),
            (
                &["--lossy-room=é"],
                "--lossy-room is \"é\": must be 1 to 255 bytes",
            ),
            (
                &["--max-connections=0"],
                "--max-connections is 0: must be at least 1",
            ),
            (
                &["--pong-timeout=54s"],
                "--pong-timeout is 54s: must exceed --ping-interval",
            ),
            (
                &["--write-timeout=0"],
                "--write-timeout is 0ns: must be at least 20ms",
            ),
            (
                &["--heartbeat-text="],
                "--heartbeat-text is : must have 1 to 4096 bytes",
            ),
            (
                &["--max-message-size=1MiB"],
                "--outbound-queue-size is 1048576: must be at least twice --max-message-size",
            ),
            (
                &["--history-ttl=0"],
                "--history-ttl is 0ns: must be at least 1s",
            ),
            (
                &["--history-memory=1MB"],
                "--history-memory is 1000000: must be at least --history-bytes, which is 1048576",
            ),
            (
                &["--message-rate=1", "--message-burst=0"],
                "--message-burst is 0: must be at least 1",
            ),
            (
                &["--token-secret-file=/nowhere/at/all"],
                "--token-secret-file is \"/nowhere/at/all\": must be a file that can be read: ",
            ),
            (
                &["--api-key-file=/nowhere/at/all", "--admin-listen=0.0.0.0:1"],
                "--api-key-file is \"/nowhere/at/all\": must be a file that can be read: ",
            ),
        ] {
            let error = refused(args).to_string();
            assert!(error.starts_with(expected), "{error:?} for {args:?}");
        }
    }

    #[test]
    fn the_other_side_of_each_rule_holds() {
        let listeners = vec!["--listen=127.0.0.1:0"; LISTENERS_MAX];
        for args in [
            &listeners[..],
            &["--listen=127.0.0.1:80", "--listen=127.0.0.1:81"],
            &["--listen=127.0.0.1:80", "--listen=127.0.0.2:80"],
            &["--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0"],
            &["--listen=0.0.0.0:0", "--admin-listen=127.0.0.1:0"],
            &["--listen=0.0.0.0:80", "--admin-listen=[::1]:80"],
            &["--listen=0.0.0.0:80", "--admin-listen=127.0.0.1:81"],
            &["--admin-listen=127.8.0.1:7778"],
            &["--admin-listen=[::1]:7778"],
            &["--admin-listen=[::ffff:127.0.0.1]:7778"],
            &["--workers=256"],
            &["--pong-timeout=54001ms"],
            &["--ping-interval=off", "--pong-timeout=1s"],
            &["--write-timeout=20ms"],
            &["--max-message-size=512KiB"],
            &["--history-size=off", "--history-memory=0"],
        ] {
            assert!(check(args).is_ok(), "{args:?}");
        }
    }

    #[test]
    fn the_admin_listener_leaves_the_host_only_with_a_key() {
        let key = Secret::new(b"sixteen-bytes-ok");
        let listen = ["0.0.0.0:80".parse().expect("an address")];
        for (text, without_key, with_key) in [
            ("off", true, true),
            ("127.0.0.1:1", true, true),
            ("[::1]:1", true, true),
            ("0.0.0.0:1", false, true),
            ("192.0.2.7:1", false, true),
            ("[::]:1", false, true),
            ("[::ffff:192.0.2.7]:1", false, true),
            ("0.0.0.0:80", false, false),
            ("example.com:1", false, false),
        ] {
            let is_ok = |key| parse_admin_listener(text, &listen, key).is_ok();
            let found = (is_ok(None), is_ok(Some(&key)));
            assert_eq!(found, (without_key, with_key), "{text}");
        }
    }

    #[test]
    fn a_burst_is_twice_the_rate_unless_given() {
        for (args, expected) in [
            (&[][..], (0, 0)),
            (&["--message-rate=off"], (0, 0)),
            (&["--message-rate=7"], (7, 14)),
            (&["--message-rate=7", "--message-burst=1"], (7, 1)),
        ] {
            let limits = check(args).expect("all of it holds").limits;
            let found = (limits.message_rate, limits.message_burst);
            assert_eq!(found, expected, "{args:?}");
        }
    }

    #[test]
    fn mistyped_variables_are_named() {
        let warning = |names: &[(&str, &str)]| {
            let pairs = names
                .iter()
                .map(|(name, value)| (name.into(), value.into()));
            unknown_variables_warning(pairs, &Cli::variables())
        };
        assert_eq!(
            warning(&[("ROOMCAST_LISTEN", "x"), ("PATH", "x"), ("XROOMCAST_", "x")]),
            None
        );
        assert_eq!(warning(&[("ROOMCAST_LISTENER", "")]), None);
        assert_eq!(
            warning(&[
                ("ROOMCAST_WORKER", "secret"),
                ("ROOMCAST_LISTENER", "secret")
            ])
            .as_deref(),
            Some(
                "environment variables that name no option are ignored: \
                 ROOMCAST_LISTENER, ROOMCAST_WORKER"
            ),
        );
    }
}
