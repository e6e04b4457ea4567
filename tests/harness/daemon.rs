//! The daemon as a child process, and everything an operator can see of it.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, Once};
use std::time::{Duration, Instant};

use super::{DEADLINE, Exposition, Response, Wire, breathe, http, pace, wait_for};

/// What a daemon gets unless the test says otherwise.
const DEFAULTS: [(&str, &str, &str); 4] = [
    ("--listen", "ROOMCAST_LISTEN", "127.0.0.1:0"),
    ("--admin-listen", "ROOMCAST_ADMIN_LISTEN", "127.0.0.1:0"),
    ("--log-level", "ROOMCAST_LOG_LEVEL", "debug"),
    ("--drain-timeout", "ROOMCAST_DRAIN_TIMEOUT", "0"),
];

/// A signal to send to the daemon.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Signal {
    Term,
    Int,
    Kill,
    Stop,
    Continue,
    Hup,
    Usr1,
}

/// How to start a daemon.
#[derive(Clone, Debug, Default)]
pub(crate) struct Start {
    args: Vec<String>,
    envs: Vec<(String, String)>,
    open_files_max: Option<(u64, u64)>,
    passed: Vec<Arc<OwnedFd>>,
    is_journal: bool,
    leaves_log: bool,
    has_no_stderr: bool,
}

impl Start {
    pub(crate) fn args(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(|&arg| arg.to_owned()));
        self
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.envs.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Lowers the soft and the hard limit of open files.
    pub(crate) fn open_files_max(mut self, soft: u64, hard: u64) -> Self {
        self.open_files_max = Some((soft, hard));
        self
    }

    /// Passes a socket as a service manager does, up to two of them. `LISTEN_FDS` is their number
    /// unless it is given.
    pub(crate) fn pass(mut self, socket: impl Into<OwnedFd>) -> Self {
        self.passed.push(Arc::new(socket.into()));
        assert!(self.passed.len() <= 2, "one way in and one way out");
        self
    }

    /// Runs the daemon, which must end by itself, and returns its status and stderr.
    pub(crate) fn run_to_exit(self) -> (ExitStatus, String) {
        let mut child = self.spawn(false);
        let log = Log::of(&mut child, None);
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = child.try_wait().expect("a child of ours") {
                log.wait_end();
                return (status, log.lines().join("\n"));
            }
            if Instant::now() > deadline {
                let _ = child.kill();
                let _ = child.wait();
                panic!("{self:?} still runs, log:\n{}", log.tail());
            }
            breathe();
        }
    }

    /// Makes the daemon believe that its standard error is the journal.
    pub(crate) fn journal(mut self) -> Self {
        self.is_journal = true;
        self
    }

    /// Stops to read the log when the daemon listens, so that the pipe fills.
    pub(crate) fn leave_log(mut self) -> Self {
        self.leaves_log = true;
        self
    }

    /// Closes the daemon's standard error. `--admin-listen` needs an address of its own then.
    pub(crate) fn no_stderr(mut self) -> Self {
        self.has_no_stderr = true;
        self
    }

    /// Starts the daemon and waits until it listens.
    pub(crate) fn start(self) -> Daemon {
        Daemon::spawn(&self)
    }

    fn gives(&self, option: &str, variable: &str) -> bool {
        let assigned = format!("{option}=");
        let by_arg = |arg: &String| arg == option || arg.starts_with(&assigned);
        self.args.iter().any(by_arg) || self.envs.iter().any(|(name, _)| name == variable)
    }

    fn value_of(&self, option: &str, variable: &str) -> Option<&str> {
        let place = self.args.iter().position(|arg| arg == option);
        let by_arg = place.and_then(|place| self.args.get(place + 1));
        let by_env = self.envs.iter().find(|(name, _)| name == variable);
        by_arg
            .or_else(|| by_env.map(|(_, value)| value))
            .map(|v| &**v)
    }

    fn command(&self, with_defaults: bool) -> Command {
        let binary = env!("CARGO_BIN_EXE_roomcast");
        let mut script = String::new();
        if let Some((soft, hard)) = self.open_files_max {
            script.push_str(&format!("ulimit -S -n {soft} && ulimit -H -n {hard} && "));
        }
        if !self.passed.is_empty() {
            // They come as standard input and output, and go where they are looked for.
            script.push_str("exec 3<&0 </dev/null && ");
            if self.passed.len() > 1 {
                script.push_str("exec 4<&1 >/dev/null && ");
            }
            let count = self.passed.len();
            script.push_str("export LISTEN_PID=$$ && ");
            script.push_str(&format!("export LISTEN_FDS=${{LISTEN_FDS-{count}}} && "));
        }
        if self.is_journal {
            script.push_str("export JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2) && ");
        }
        if self.has_no_stderr {
            script.push_str("exec 2>&- && ");
        }
        let mut command = if script.is_empty() {
            Command::new(binary)
        } else {
            // The shell replaces itself, so the child's process id stays that of the daemon.
            let mut shell = Command::new("sh");
            shell.args(["-c", &format!("{script} exec \"$0\" \"$@\""), binary]);
            shell
        };
        let ours = |name: &OsString| name.to_string_lossy().starts_with("ROOMCAST_");
        for (name, _) in std::env::vars_os().filter(|(name, _)| ours(name)) {
            command.env_remove(name);
        }
        for name in ["RUST_LOG", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"] {
            command.env_remove(name);
        }
        command.envs(self.envs.iter().map(|(name, value)| (name, value)));
        command.args(&self.args);
        if with_defaults {
            for (option, variable, value) in DEFAULTS {
                if !self.gives(option, variable) {
                    command.args([option, value]);
                }
            }
        }
        command.stdin(self.passed_as_stdio(0));
        command
    }

    fn spawn(&self, with_defaults: bool) -> Child {
        let mut command = self.command(with_defaults);
        command.stdout(self.passed_as_stdio(1));
        command.stderr(Stdio::piped());
        command.spawn().expect("the daemon's binary")
    }

    fn passed_as_stdio(&self, place: usize) -> Stdio {
        let socket = self.passed.get(place);
        socket.map_or_else(Stdio::null, |socket| {
            socket.try_clone().expect("a free descriptor").into()
        })
    }
}

/// Runs the daemon with `args` alone, which must make it end in success, and returns its stdout.
pub(crate) fn stdout_of(args: &[&str]) -> String {
    let mut command = Start::default().args(args).command(false);
    let output = command.output().expect("the daemon's binary");
    let stdout = String::from_utf8(output.stdout).expect("UTF-8 on stdout");
    assert!(
        output.status.success(),
        "{args:?}: {output:?}",
        output = output.status
    );
    stdout
}

/// Runs the daemon with `args` and `envs` alone, which must make it end, and returns its status and
/// stderr.
pub(crate) fn run_to_exit(args: &[&str], envs: &[(&str, &str)]) -> (ExitStatus, String) {
    let mut start = Start::default().args(args);
    for (name, value) in envs {
        start = start.env(name, value);
    }
    start.run_to_exit()
}

/// A running daemon; killed and reaped on drop.
pub(crate) struct Daemon {
    child: Child,
    log: Log,
    addr: SocketAddr,
    admin: Option<SocketAddr>,
}

impl Daemon {
    /// Starts a daemon on ports of its own choosing, at log level debug, with `args` added.
    pub(crate) fn start(args: &[&str]) -> Self {
        Start::default().args(args).start()
    }

    /// The same, with environment variables.
    pub(crate) fn start_env(args: &[&str], envs: &[(&str, &str)]) -> Self {
        let start = Start::default().args(args);
        let with_env = |start: Start, (name, value): &(&str, &str)| start.env(name, value);
        envs.iter().fold(start, with_env).start()
    }

    fn spawn(start: &Start) -> Self {
        raise_open_files();
        let mut child = start.spawn(true);
        let last = start.leaves_log.then_some("(admin)");
        let log = Log::of(&mut child, last);
        let mut daemon = Self {
            child,
            log,
            addr: SocketAddr::new(IpAddr::from([0; 4]), 0),
            admin: None,
        };
        if start.gives("--log-file", "ROOMCAST_LOG_FILE") || start.has_no_stderr {
            // Its standard error says nothing. The admin listener has an address of its own.
            daemon.find_listeners(start.value_of("--admin-listen", "ROOMCAST_ADMIN_LISTEN"));
            return daemon;
        }
        daemon.addr = daemon.listening("(public)");
        if start.value_of("--admin-listen", "ROOMCAST_ADMIN_LISTEN") != Some("off") {
            daemon.admin = Some(daemon.listening("(admin)"));
        }
        daemon
    }

    /// The address of the (first) public listener.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The address of the admin listener. Panics if it is off.
    pub(crate) fn admin(&self) -> SocketAddr {
        self.admin.expect("an admin listener")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a log line that holds `part`, and returns the first such line.
    pub(crate) fn wait_log(&self, part: &str) -> String {
        self.wait_log_line(&format!("a log line with {part:?}"), |line| {
            line.contains(part)
        })
    }

    /// Waits for a log line that meets `condition`, and returns the first such line.
    pub(crate) fn wait_log_line(&self, what: &str, condition: impl Fn(&str) -> bool) -> String {
        let found = self.log.wait_line(condition);
        found.unwrap_or_else(|| panic!("no {what}; log:\n{}", self.log.tail()))
    }

    pub(crate) fn log_lines(&self) -> Vec<String> {
        self.log.lines()
    }

    /// Waits for the line about the end of the connection from `peer`, asserts that it is the only one
    /// and returns it.
    pub(crate) fn expect_closed(&self, peer: SocketAddr) -> String {
        let field = format!("peer={peer} ");
        let about = |line: &str| line.contains("closed ") && line.contains(&field);
        let line = self.wait_log_line(&format!("end of {peer}"), about);
        let count = self.log_lines().iter().filter(|line| about(line)).count();
        assert_eq!(count, 1, "lines about the end of {peer}; the first: {line}");
        line
    }

    /// The value of a metric, `name` with its labels as in the exposition. A labelled one that has
    /// not been counted yet is 0; an unlabelled one must be there.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = self.metrics();
        let values = text.lines().filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            (series == name).then(|| value.parse().expect("a number"))
        });
        let values: Vec<f64> = values.collect();
        match values[..] {
            [value] => value,
            [] if name.contains('{') => 0.0,
            _ => panic!("{} lines of {name} in:\n{text}", values.len()),
        }
    }

    /// All metrics.
    pub(crate) fn exposition(&self) -> Exposition {
        Exposition::parse(&self.metrics())
    }

    /// Waits until the metric meets `condition`, and returns its value.
    pub(crate) fn wait_metric(&self, name: &str, condition: impl Fn(f64) -> bool) -> f64 {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let value = self.metric(name);
            if condition(value) {
                return value;
            }
            assert!(
                Instant::now() < deadline,
                "{name} stays {value}; log:\n{}",
                self.log.tail()
            );
            breathe();
        }
    }

    /// Waits until the daemon has that many memberships: a raw member is not told when it has joined.
    pub(crate) fn wait_members(&self, memberships: u32) {
        self.wait_metric("roomcast_members", |now| now == f64::from(memberships));
    }

    /// How many connections ended for `reason`.
    pub(crate) fn closes(&self, reason: &str) -> f64 {
        self.metric(&closes(reason))
    }

    /// Waits until exactly `count` connections have ended for `reason`.
    pub(crate) fn wait_closes(&self, reason: &str, count: f64) {
        self.wait_metric(&closes(reason), |now| now == count);
    }

    /// The text of the metrics page.
    pub(crate) fn metrics(&self) -> String {
        let response = self.admin_get("/metrics");
        assert_eq!(response.status, 200, "{response:?}");
        response.text()
    }

    pub(crate) fn admin_get(&self, path: &str) -> Response {
        // From an address of its own: the kernel may give a port to one connection to either
        // listener, and the log would then seem to say two things of one peer.
        let mut wire = Wire::connect_from(self.admin(), IpAddr::from([127, 0, 0, 200]), None);
        wire.send(get_request(self.admin(), path));
        wire.response()
    }

    pub(crate) fn get(&self, path: &str) -> Response {
        http(self.addr, get_request(self.addr, path))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let name = match signal {
            Signal::Term => "-TERM",
            Signal::Int => "-INT",
            Signal::Kill => "-KILL",
            Signal::Stop => "-STOP",
            Signal::Continue => "-CONT",
            Signal::Hup => "-HUP",
            Signal::Usr1 => "-USR1",
        };
        let pid = self.pid().to_string();
        let status = Command::new("kill").args([name, &pid]).status();
        assert!(status.is_ok_and(|status| status.success()), "kill {name}");
    }

    /// Tells the daemon to end until it has, or for [`DEADLINE`]. From the second time on it waits for
    /// nobody. Never panics.
    fn end_in_order(&mut self) {
        let pid = self.pid().to_string();
        let deadline = Instant::now() + DEADLINE;
        while Instant::now() < deadline && matches!(self.child.try_wait(), Ok(None)) {
            for name in ["-CONT", "-TERM"] {
                let _ = Command::new("kill").args([name, &pid]).status();
            }
            pace(Duration::from_millis(30));
        }
    }

    /// Waits until the daemon has ended.
    pub(crate) fn wait_exit(&mut self) -> ExitStatus {
        let status = wait_for("the daemon's end", || {
            self.child.try_wait().expect("a child of ours")
        });
        if !self.log.is_unread() {
            self.log.wait_end();
        }
        status
    }

    /// Sets whether the daemon's standard error is a pipe that nobody reads, after the next line.
    pub(crate) fn set_log_unread(&self, is_unread: bool) {
        self.log.set_unread(is_unread);
    }

    /// Closes our end of the daemon's standard error after the next line.
    pub(crate) fn hang_up_log(&self) {
        self.log.hang_up();
    }

    /// True unless the daemon has ended.
    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().expect("a child of ours").is_none()
    }

    /// Resident memory.
    pub(crate) fn rss_bytes(&self) -> u64 {
        self.memory_bytes("VmRSS:")
    }

    /// The most that resident memory has ever been.
    pub(crate) fn peak_rss_bytes(&self) -> u64 {
        self.memory_bytes("VmHWM:")
    }

    fn memory_bytes(&self, name: &str) -> u64 {
        let status = self.proc("status");
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        kib.expect("a size in kB") * 1024
    }

    /// Waits until resident memory is at most `bytes`.
    pub(crate) fn wait_rss_at_most(&self, bytes: u64) {
        let what = format!("resident memory of at most {bytes} bytes");
        let mut least = u64::MAX;
        let deadline = Instant::now() + DEADLINE;
        while self.rss_bytes() > bytes {
            least = least.min(self.rss_bytes());
            assert!(Instant::now() < deadline, "{what}: stays at {least}");
            breathe();
        }
    }

    /// The number of open file descriptors.
    pub(crate) fn open_files(&self) -> usize {
        let entries = std::fs::read_dir(format!("/proc/{}/fd", self.pid()));
        entries.expect("a running daemon").count()
    }

    /// CPU time used so far, in steps of the kernel's clock tick of 10 ms.
    pub(crate) fn cpu_time(&self) -> Duration {
        let stat = self.proc("stat");
        let (_, fields) = stat.rsplit_once(')').expect("a command in brackets");
        // Counted after the command: state is field 0, utime 11, stime 12.
        let fields = fields.split_whitespace().skip(11).take(2);
        let ticks: u64 = fields
            .map(|field| field.parse::<u64>().expect("ticks"))
            .sum();
        Duration::from_millis(ticks * 10)
    }

    /// The soft and hard limit of open files of the running daemon.
    pub(crate) fn open_files_limits(&self) -> (u64, u64) {
        let (mut soft, mut hard) = (0, 0);
        let resource = rlimit::Resource::NOFILE;
        let limits = rlimit::prlimit(self.pid_t(), resource, None, Some((&mut soft, &mut hard)));
        limits.expect("a running daemon");
        (soft, hard)
    }

    /// Sets the soft limit of open files of the running daemon so that it can open `more` of them.
    pub(crate) fn leave_open_files(&self, more: usize) {
        let entries = std::fs::read_dir(format!("/proc/{}/fd", self.pid()));
        let names = entries.expect("a running daemon").map(|entry| {
            let name = entry.expect("a readable entry").file_name();
            name.to_string_lossy().parse().expect("a descriptor")
        });
        let open: Vec<u64> = names.collect();
        // The limit is one on numbers: a new descriptor gets the lowest that is not in use.
        let mut free = (0..).filter(|descriptor| !open.contains(descriptor));
        let limit = free.nth(more).expect("endless");
        let (_, hard) = self.open_files_limits();
        let resource = rlimit::Resource::NOFILE;
        let outcome = rlimit::prlimit(self.pid_t(), resource, Some((limit, hard)), None);
        outcome.expect("a limit below the hard one");
    }

    fn pid_t(&self) -> i32 {
        i32::try_from(self.pid()).expect("a process id")
    }

    fn proc(&self, file: &str) -> String {
        let path = format!("/proc/{}/{file}", self.pid());
        std::fs::read_to_string(path).expect("a running daemon")
    }

    /// Waits for both listeners and finds out where they are, from the kernel.
    fn find_listeners(&mut self, admin: Option<&str>) {
        let admin_ip = admin.expect("--admin-listen on another address than --listen");
        let admin_ip: SocketAddr = admin_ip.parse().expect("an address");
        wait_for("two listeners", || {
            let addrs = self.listeners();
            for addr in &addrs {
                match addr.ip() == admin_ip.ip() {
                    true => self.admin = Some(*addr),
                    false => self.addr = *addr,
                }
            }
            (addrs.len() == 2).then_some(())
        });
    }

    /// The addresses (IPv4) on which the daemon listens.
    fn listeners(&self) -> Vec<SocketAddr> {
        let folder = format!("/proc/{}/fd", self.pid());
        let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let targets = files.filter_map(|file| std::fs::read_link(file.path()).ok());
        let sockets: Vec<String> = targets
            .filter_map(|target| {
                let target = target.to_string_lossy().into_owned();
                Some(
                    target
                        .strip_prefix("socket:[")?
                        .trim_end_matches(']')
                        .to_owned(),
                )
            })
            .collect();
        let table = self.proc("net/tcp");
        let rows = table.lines().skip(1).filter_map(|row| {
            let fields: Vec<&str> = row.split_whitespace().collect();
            // 0A is a listener; its inode is field 9.
            (fields[3] == "0A" && sockets.iter().any(|socket| socket == fields[9]))
                .then(|| fields[1].to_owned())
        });
        let addr = |local: String| {
            let (ip, port) = local.split_once(':').expect("an address and a port");
            let ip = u32::from_str_radix(ip, 16).expect("an address in hex");
            let port = u16::from_str_radix(port, 16).expect("a port in hex");
            SocketAddr::new(IpAddr::from(ip.to_ne_bytes()), port)
        };
        rows.map(addr).collect()
    }

    fn listening(&self, which: &str) -> SocketAddr {
        let about = |line: &str| line.contains("listening on ") && line.ends_with(which);
        let line = self.wait_log_line(&format!("listening line of {which}"), about);
        let (_, rest) = line.split_once("listening on ").expect("just matched");
        let addr = rest.split(' ').next().and_then(|addr| addr.parse().ok());
        let mut addr: SocketAddr = addr.unwrap_or_else(|| panic!("no address in {line:?}"));
        if addr.ip().is_unspecified() {
            addr.set_ip(IpAddr::from([127, 0, 0, 1]));
        }
        addr
    }
}

/// Set by `tests/sanitize`: a daemon is told to end before it is killed, since what it has lost of
/// its memory is looked for at its end.
const ENDS_IN_ORDER: &str = "ROOMCAST_TEST_ENDS_IN_ORDER";

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::env::var_os(ENDS_IN_ORDER).is_some() {
            self.end_in_order();
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- newest log lines of the daemon:\n{}", self.log.tail());
        }
    }
}

fn closes(reason: &str) -> String {
    format!("roomcast_closes_total{{reason=\"{reason}\"}}")
}

fn get_request(addr: SocketAddr, path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n")
}

/// Lets this process open as many files as it may: some tests hold hundreds of sockets.
fn raise_open_files() {
    static RAISED: Once = Once::new();
    RAISED.call_once(|| {
        rlimit::increase_nofile_limit(u64::MAX).expect("limits can be read");
    });
}

/// Lines of the daemon's stderr, collected by a thread of their own.
struct Log {
    shared: Arc<(Mutex<Lines>, Condvar)>,
}

#[derive(Default)]
struct Lines {
    lines: Vec<String>,
    ended: bool,
    is_unread: bool,
    is_hung_up: bool,
}

impl Log {
    /// Reads it to its end, or until a line ends in `last`.
    fn of(child: &mut Child, last: Option<&'static str>) -> Self {
        let stderr = child.stderr.take().expect("stderr is piped");
        let shared = Arc::new((Mutex::new(Lines::default()), Condvar::new()));
        let collected = Arc::clone(&shared);
        std::thread::spawn(move || {
            let (lines, changed) = &*collected;
            for line in BufReader::new(stderr).split(b'\n') {
                let Ok(line) = line else { break };
                let line = String::from_utf8_lossy(&line).into_owned();
                let is_last = last.is_some_and(|last| line.ends_with(last));
                let mut guard = lines.lock().expect("no panic inside");
                guard.lines.push(line);
                guard.is_unread |= is_last;
                changed.notify_all();
                while guard.is_unread {
                    guard = changed.wait(guard).expect("no panic inside");
                }
                if guard.is_hung_up {
                    break;
                }
            }
            lines.lock().expect("no panic inside").ended = true;
            changed.notify_all();
        });
        Self { shared }
    }

    fn lines(&self) -> Vec<String> {
        let (lines, _) = &*self.shared;
        lines.lock().expect("no panic inside").lines.clone()
    }

    /// The first line that meets `condition`, or `None` once the deadline has passed or the daemon
    /// has closed its stderr.
    fn wait_line(&self, condition: impl Fn(&str) -> bool) -> Option<String> {
        let deadline = Instant::now() + DEADLINE;
        let (lines, changed) = &*self.shared;
        let mut guard = lines.lock().expect("no panic inside");
        let mut looked_at = 0;
        loop {
            let found = guard.lines[looked_at..].iter().find(|line| condition(line));
            if let Some(line) = found {
                return Some(line.clone());
            }
            looked_at = guard.lines.len();
            let left = deadline.checked_duration_since(Instant::now())?;
            if guard.ended {
                return None;
            }
            let woken = changed.wait_timeout(guard, left);
            (guard, _) = woken.expect("no panic inside");
        }
    }

    fn set_unread(&self, is_unread: bool) {
        let (lines, changed) = &*self.shared;
        lines.lock().expect("no panic inside").is_unread = is_unread;
        changed.notify_all();
    }

    fn hang_up(&self) {
        let (lines, changed) = &*self.shared;
        lines.lock().expect("no panic inside").is_hung_up = true;
        changed.notify_all();
    }

    fn is_unread(&self) -> bool {
        let (lines, _) = &*self.shared;
        lines.lock().expect("no panic inside").is_unread
    }

    /// Waits until stderr has ended, so that `lines` is complete.
    fn wait_end(&self) {
        let (lines, changed) = &*self.shared;
        let guard = lines.lock().expect("no panic inside");
        let waited = changed.wait_timeout_while(guard, DEADLINE, |lines| !lines.ended);
        drop(waited.expect("no panic inside"));
    }

    fn tail(&self) -> String {
        let lines = self.lines();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}
