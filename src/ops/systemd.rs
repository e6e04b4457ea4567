//! The service manager: the listening sockets that it passes, and what it is told.
//!
//! Owns: systemd's variables (`LISTEN_*`, `NOTIFY_SOCKET`, `WATCHDOG_*`) and the texts sent to it.
//! Never: decides when something is told; the daemon does, and for the watchdog the loop. Without
//! those variables all of it does nothing.
//!
//! Invariants
//! - What is passed is served as what it was passed for, or the daemon does not start: it never
//!   listens somewhere else in silence, and never shows the API where it may not be.
//! - [`Notifier::tell`] does not wait. A change of state waits a second at most.
//!
//! The notification protocol is sd_notify(3): a datagram of lines. It is written here with the
//! standard library, because the loop must not wait and the crate `sd-notify` does; nor does that
//! know abstract addresses. Sockets are passed as in sd_listen_fds(3); taking possession of a bare
//! descriptor is what the crate `listenfd` is for.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use listenfd::ListenFd;
use rustix::time::{ClockId, clock_gettime};

use super::config::{Config, ConfigError, LISTENERS_MAX};

/// Listening sockets that were passed to this process.
#[derive(Debug, Default)]
pub struct PassedSockets {
    /// In the place of the public listeners of the configuration, unless there is none.
    pub public: Vec<TcpListener>,
    /// In the place of the admin listener of the configuration.
    pub admin: Option<TcpListener>,
}

/// What a socket was passed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Public,
    Admin,
}

impl PassedSockets {
    /// Takes the sockets that were passed to this process, if any, so that no other program that it
    /// starts can. Also takes `LISTEN_PID` and `LISTEN_FDS` out of the environment: call it once,
    /// and before there is a second thread.
    ///
    /// # Errors
    /// When a descriptor is no listening TCP socket, or it is not clear what it is for.
    pub fn take() -> Result<Self, ConfigError> {
        let text = |name| env::var_os(name).map(|value| value.to_string_lossy().into_owned());
        let is_ours = text("LISTEN_PID").is_some_and(|pid| pid.parse() == Ok(process::id()));
        let mut passed = Self::default();
        if !is_ours {
            // Whoever started us was passed them, and left its environment to us.
            return Ok(passed);
        }
        let names = text("LISTEN_FDNAMES");
        let roles = roles(text("LISTEN_FDS").as_deref(), names.as_deref())?;
        // Not before the number is known to be a small one: it is believed there.
        let mut descriptors = ListenFd::from_env();
        for (index, role) in roles.into_iter().enumerate() {
            let socket = listening(&mut descriptors, index)?;
            match role {
                Role::Public => passed.public.push(socket),
                Role::Admin => passed.admin = Some(socket),
            }
        }
        Ok(passed)
    }

    /// Checks them against the configuration that they are used with.
    ///
    /// # Errors
    /// When one was passed for an admin listener that there may not be.
    pub fn check(&self, config: &Config) -> Result<(), ConfigError> {
        let Some(admin) = &self.admin else {
            return Ok(());
        };
        if config.admin_listen.is_none() {
            let rule = "must not be off where a socket is passed for the admin listener";
            return Err(ConfigError::new("--admin-listen", "off", rule));
        }
        let address = admin.local_addr().map_err(|error| {
            ConfigError::new(PASSED, "of an unknown address", error.to_string())
        })?;
        if config.api_key.is_none() && !address.ip().to_canonical().is_loopback() {
            let rule = "must have a loopback address unless --api-key-file is set";
            return Err(ConfigError::new("the admin socket passed", address, rule));
        }
        Ok(())
    }

    /// Whether none was passed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.public.is_empty() && self.admin.is_none()
    }
}

/// What each descriptor is for, by the values of `LISTEN_FDS` and `LISTEN_FDNAMES`.
fn roles(count: Option<&str>, names: Option<&str>) -> Result<Vec<Role>, ConfigError> {
    let Some(text) = count else {
        return Ok(Vec::new());
    };
    let count = text.parse().ok().filter(|count| *count <= PASSED_MAX);
    let Some(count) = count else {
        let rule = format!("must be a number of sockets up to {PASSED_MAX}");
        return Err(ConfigError::quoting("LISTEN_FDS", text, rule));
    };
    let refuse = |rule: String| {
        let value = names.unwrap_or_default();
        Err(ConfigError::quoting("LISTEN_FDNAMES", value, rule))
    };
    let names = names.map_or_else(Vec::new, |names| names.split(':').collect());
    if names.iter().all(|name| matches!(*name, "" | "unknown")) {
        return match count {
            0 => Ok(Vec::new()),
            1 => Ok(vec![Role::Public]),
            2 => Ok(vec![Role::Public, Role::Admin]),
            _ => refuse(format!("must name each of {count} sockets public or admin")),
        };
    }
    if names.len() != count {
        return refuse(format!("must be as many names as LISTEN_FDS says: {count}"));
    }
    let mut roles = Vec::with_capacity(count);
    for name in &names {
        roles.push(match *name {
            "admin" => Role::Admin,
            "public" => Role::Public,
            // A socket unit that gives no name passes its own. One alone is for the public.
            _ if count == 1 => Role::Public,
            _ => return refuse("must name each socket public or admin".to_owned()),
        });
    }
    if roles.iter().filter(|role| **role == Role::Admin).count() > 1 {
        return refuse("must name one socket admin at most".to_owned());
    }
    Ok(roles)
}

/// Takes a descriptor, which is closed on exec from then on.
fn listening(descriptors: &mut ListenFd, index: usize) -> Result<TcpListener, ConfigError> {
    let refuse = |cause: &str| {
        let rule = format!("must be a listening TCP socket, but {cause}");
        ConfigError::new(PASSED, format!("number {}", index + 1), rule)
    };
    let socket = descriptors
        .take_tcp_listener(index)
        .map_err(|error| refuse(&error.to_string()))?
        .ok_or_else(|| refuse("there is none"))?;
    match rustix::net::sockopt::socket_acceptconn(&socket) {
        Ok(true) => Ok(socket),
        Ok(false) => Err(refuse("it does not listen")),
        Err(error) => Err(refuse(&error.to_string())),
    }
}

/// Tells the service manager how this process is doing. Clones tell the same one.
#[derive(Clone, Debug)]
pub struct Notifier {
    address: SocketAddr,
    socket: Arc<UnixDatagram>,
    /// A failure was logged; one line is enough.
    has_failed: Arc<AtomicBool>,
    /// The daemon has begun to end, which is the last that is told of its state.
    is_stopping: Arc<AtomicBool>,
}

impl Notifier {
    /// The one that `NOTIFY_SOCKET` names. `None` where nobody wants to know, or, with a warning in
    /// the log, where its address cannot be used.
    #[must_use]
    pub fn from_env() -> Option<Self> {
        let name = env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty())?;
        match Self::to(&name) {
            Ok(notifier) => Some(notifier),
            Err(error) => {
                warn_unreachable(&error);
                None
            }
        }
    }

    /// One that sends to `name`: an absolute path, or `@` and a name in the abstract namespace.
    ///
    /// # Errors
    /// When the name is neither, or there is no descriptor for a socket.
    pub fn to(name: &OsStr) -> io::Result<Self> {
        let address = match name.as_bytes() {
            [b'/', ..] => SocketAddr::from_pathname(name)?,
            [b'@', name @ ..] => abstract_address(name)?,
            _ => {
                return Err(io::Error::other(
                    "NOTIFY_SOCKET is neither a path nor @NAME",
                ));
            }
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Self {
            address,
            socket: Arc::new(socket),
            has_failed: Arc::default(),
            is_stopping: Arc::default(),
        })
    }

    /// The daemon serves.
    pub fn ready(&self) {
        self.change("READY=1");
    }

    /// The daemon has begun to end, and may take `time_max` for it: longer than the manager would
    /// wait by itself, perhaps.
    pub fn stopping(&self, time_max: Duration) {
        self.is_stopping.store(true, Ordering::SeqCst);
        let us = time_max.as_micros();
        self.change(&format!("STOPPING=1\nEXTEND_TIMEOUT_USEC={us}"));
    }

    /// Carries out `reload`, and tells when it begins and when it is over. A daemon that has begun to
    /// end tells neither.
    pub fn reload(&self, reload: impl FnOnce()) {
        if self.is_stopping.load(Ordering::SeqCst) {
            return reload();
        }
        self.change(&format!("RELOADING=1\nMONOTONIC_USEC={}", monotonic_us()));
        reload();
        if self.is_stopping.load(Ordering::SeqCst) {
            return;
        }
        self.change("READY=1");
        if self.is_stopping.load(Ordering::SeqCst) {
            // It may have been told in between, and what is told last counts.
            self.change("STOPPING=1");
        }
    }

    /// Sends `text` without waiting. Returns false where it was dropped because the manager's queue is
    /// full: it is to be told again. A manager that cannot be reached at all is no reason to.
    pub fn tell(&self, text: &str) -> bool {
        match self.socket.send_to_addr(text.as_bytes(), &self.address) {
            Ok(_) => true,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            Err(error) => {
                self.note_failure(&error);
                true
            }
        }
    }

    /// Sends what is told only once.
    fn change(&self, text: &str) {
        let send = || {
            let socket = UnixDatagram::unbound()?;
            socket.set_write_timeout(Some(PATIENCE))?;
            socket.send_to_addr(text.as_bytes(), &self.address)
        };
        if let Err(error) = send() {
            self.note_failure(&error);
        }
    }

    fn note_failure(&self, error: &io::Error) {
        if !self.has_failed.swap(true, Ordering::Relaxed) {
            warn_unreachable(error);
        }
    }
}

/// How often the service manager wants a sign of life at least, if it does: half of what it waits
/// for one.
#[must_use]
pub fn watchdog_interval() -> Option<Duration> {
    let number = |name| env::var(name).ok().map(|text| text.parse::<u64>());
    ping_interval(
        number("WATCHDOG_USEC")?.ok()?,
        number("WATCHDOG_PID"),
        process::id(),
    )
}

/// `pid` says whom the service manager watches; `None` is whoever was started.
fn ping_interval<E>(
    watchdog_us: u64,
    pid: Option<Result<u64, E>>,
    own_pid: u32,
) -> Option<Duration> {
    let is_ours = pid.is_none_or(|pid| pid.is_ok_and(|pid| pid == u64::from(own_pid)));
    (is_ours && watchdog_us > 0).then(|| Duration::from_micros(watchdog_us) / 2)
}

fn warn_unreachable(error: &io::Error) {
    log::warn!("the service manager cannot be told anything: {error}");
}

/// Time on the clock that the service manager orders reloads by.
fn monotonic_us() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    let part = |value: i64| u64::try_from(value).unwrap_or(0);
    part(time.tv_sec) * 1_000_000 + part(time.tv_nsec) / 1000
}

#[cfg(target_os = "linux")]
fn abstract_address(name: &[u8]) -> io::Result<SocketAddr> {
    use std::os::linux::net::SocketAddrExt as _;
    SocketAddr::from_abstract_name(name)
}

#[cfg(not(target_os = "linux"))]
fn abstract_address(_: &[u8]) -> io::Result<SocketAddr> {
    Err(io::ErrorKind::Unsupported.into())
}

/// What an error calls a descriptor that was passed.
const PASSED: &str = "a socket passed by LISTEN_FDS";

/// Every public listener that there may be, and the admin listener.
const PASSED_MAX: usize = LISTENERS_MAX + 1;

/// How long a change of state waits for the service manager to take it.
const PATIENCE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use crate::ops::cli::Cli;

    use super::*;

    #[test]
    fn names_say_what_sockets_are_for() {
        use Role::{Admin, Public};
        for (count, names, expected) in [
            (None, None, &[][..]),
            (None, Some("public"), &[]),
            (Some("0"), None, &[]),
            (Some("1"), None, &[Public]),
            (Some("1"), Some(""), &[Public]),
            (Some("1"), Some("unknown"), &[Public]),
            (Some("1"), Some("roomcast.socket"), &[Public]),
            (Some("1"), Some("public"), &[Public]),
            (Some("1"), Some("admin"), &[Admin]),
            (Some("2"), None, &[Public, Admin]),
            (Some("2"), Some("unknown:unknown"), &[Public, Admin]),
            (Some("2"), Some("public:admin"), &[Public, Admin]),
            (Some("2"), Some("admin:public"), &[Admin, Public]),
            (Some("2"), Some("public:public"), &[Public, Public]),
            (
                Some("3"),
                Some("public:admin:public"),
                &[Public, Admin, Public],
            ),
            (Some("17"), Some(&["public"; 17].join(":")), &[Public; 17]),
        ] {
            let found = roles(count, names);
            assert_eq!(found.as_deref(), Ok(expected), "{count:?} {names:?}");
        }
    }

    #[test]
    fn what_is_not_clear_is_refused() {
        let number = "LISTEN_FDS is \"";
        let names = "LISTEN_FDNAMES is \"";
        for (count, given, expected, rule) in [
            ("", None, number, "up to 17"),
            ("-1", None, number, "up to 17"),
            ("x", None, number, "up to 17"),
            ("18", None, number, "up to 17"),
            ("4294967296", None, number, "up to 17"),
            ("3", None, names, "each of 3 sockets"),
            ("2", Some("public"), names, "as LISTEN_FDS says: 2"),
            ("1", Some("public:admin"), names, "as LISTEN_FDS says: 1"),
            ("2", Some("public:http"), names, "public or admin"),
            ("2", Some("public:"), names, "public or admin"),
            (
                "2",
                Some("roomcast.socket:roomcast.socket"),
                names,
                "public or admin",
            ),
            ("2", Some("Public:Admin"), names, "public or admin"),
            ("2", Some("admin:admin"), names, "one socket admin"),
        ] {
            let error = roles(Some(count), given).expect_err("must be refused");
            let text = error.to_string();
            assert!(text.starts_with(expected), "{text} for {count} {given:?}");
            assert!(text.contains(rule), "{text} for {count} {given:?}");
        }
    }

    #[test]
    fn an_admin_socket_keeps_the_rule_of_its_option() {
        let config = |args: &[&str]| {
            let args = ["roomcast"].iter().chain(args);
            let cli = Cli::try_from_args(args).expect("well formed");
            Config::from_cli(cli).expect("the options hold").0
        };
        let bound = |address: &str| PassedSockets {
            public: Vec::new(),
            admin: Some(TcpListener::bind(address).expect("a free port")),
        };
        let mut with_key = config(&[]);
        with_key.api_key = Some(crate::base::Secret::new(b"hunter2"));
        let off = config(&["--admin-listen=off"]);
        for (sockets, config, expected) in [
            (PassedSockets::default(), &off, ""),
            (bound("127.0.0.1:0"), &config(&[]), ""),
            (bound("0.0.0.0:0"), &with_key, ""),
            (
                bound("127.0.0.1:0"),
                &off,
                "--admin-listen is off: must not",
            ),
            (
                bound("0.0.0.0:0"),
                &config(&[]),
                "the admin socket passed is 0.0.0.0:",
            ),
        ] {
            let found = sockets.check(config).map_err(|error| error.to_string());
            match found {
                Ok(()) => assert_eq!(expected, ""),
                Err(error) => {
                    assert!(!expected.is_empty(), "{error}");
                    assert!(error.starts_with(expected), "{error}");
                }
            }
        }
    }

    #[test]
    fn pings_come_twice_as_often_as_they_must() {
        let ms = Duration::from_millis;
        for (watchdog_us, pid, expected) in [
            (3_000_000, None, Some(ms(1500))),
            (3_000_000, Some(Ok(7)), Some(ms(1500))),
            (3_000_000, Some(Ok(8)), None),
            (3_000_000, Some(Err(())), None),
            (0, None, None),
            (u64::MAX, None, Some(Duration::from_micros(u64::MAX) / 2)),
        ] {
            assert_eq!(ping_interval(watchdog_us, pid, 7), expected);
        }
    }

    #[test]
    fn names_of_the_other_end_are_paths_or_abstract() {
        for (name, is_good) in [
            ("/run/systemd/notify", true),
            (
                "@/org/freedesktop/systemd1/notify",
                cfg!(target_os = "linux"),
            ),
            ("run/notify", false),
            ("vsock:2:1234", false),
        ] {
            assert_eq!(Notifier::to(OsStr::new(name)).is_ok(), is_good, "{name}");
        }
    }

    #[test]
    fn nobody_at_the_other_end_is_no_error() {
        let notifier = Notifier::to(OsStr::new("/nowhere/at/all")).expect("a path");
        notifier.ready();
        notifier.tell("STATUS=alone");
        assert!(notifier.has_failed.load(Ordering::Relaxed));
    }

    #[test]
    fn a_reload_is_told_before_and_after() {
        let (sender, path) = receiver("reload");
        let notifier = Notifier::to(path.as_os_str()).expect("a path");
        let before = monotonic_us();
        notifier.reload(|| {
            let first = received(&sender);
            let (state, time) = first.split_once('\n').expect("two lines");
            assert_eq!(state, "RELOADING=1");
            let time = time.strip_prefix("MONOTONIC_USEC=").expect("a time");
            let time = time.parse::<u64>().expect("a number");
            assert!((before..=monotonic_us()).contains(&time), "{time}");
        });
        assert_eq!(received(&sender), "READY=1");
        std::fs::remove_file(path).expect("our own file");
    }

    #[test]
    fn a_manager_that_reads_nothing_is_not_waited_for() {
        let (socket, path) = receiver("full");
        let notifier = Notifier::to(path.as_os_str()).expect("a path");
        // Far more than the kernel keeps; were this to wait, the test would not end.
        for _ in 0..10_000 {
            notifier.tell("WATCHDOG=1");
        }
        assert!(!notifier.has_failed.load(Ordering::Relaxed));
        assert_eq!(received(&socket), "WATCHDOG=1");
        std::fs::remove_file(path).expect("our own file");
    }

    fn receiver(name: &str) -> (UnixDatagram, std::path::PathBuf) {
        let file = format!("roomcast-{name}-{}", process::id());
        let path = env::temp_dir().join(file);
        let _ = std::fs::remove_file(&path);
        let socket = UnixDatagram::bind(&path).expect("a free path");
        let patience = Some(Duration::from_secs(10));
        socket.set_read_timeout(patience).expect("a timeout");
        (socket, path)
    }

    fn received(socket: &UnixDatagram) -> String {
        let mut bytes = [0; 1000];
        let len = socket.recv(&mut bytes).expect("a datagram in time");
        String::from_utf8_lossy(&bytes[..len]).into_owned()
    }
}
