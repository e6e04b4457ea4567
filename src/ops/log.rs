//! The log: lines on standard error or in a file, written by a thread of their own.
//!
//! Owns: the form of a line, the bounded queue of lines and the thread that writes them.
//! Never: makes a caller wait for the other end. A pipe that nobody reads or a disk that is full
//! costs lines, not time. Panics come here as well, because they could wait otherwise.
//!
//! Invariants
//! - A record is one line: control characters in it are escaped, and it is cut at
//!   [`LINE_BYTES_MAX`].
//! - A line is written, or counted in [`dropped_lines`] and told before the next line that is
//!   written.
//! - At most [`LINES_MAX`] lines wait.

use std::env;
use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Receiver, Sender, bounded};
use env_logger::{Builder, Target};
use log::{Level, LevelFilter, Metadata};
use rustix::fs::OFlags;

use super::config::ConfigError;

/// Lines that wait to be written.
pub const LINES_MAX: usize = 4096;

/// Longest line, in bytes before its ending; what is longer ends in an ellipsis. With
/// [`LINES_MAX`] it bounds the memory of the log, at 16 MiB.
pub const LINE_BYTES_MAX: usize = 4096;

/// How long the end of the daemon waits for the last lines.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

static DROPS: Drops = Drops::new();

/// How long another file waits for its place behind the lines so far.
const SWITCH_TIMEOUT: Duration = Duration::from_secs(1);

/// What lines are written to.
type Out<'o> = Box<dyn Write + Send + 'o>;

/// Opens the file of `--log-file`, to append to. One that is made can be read by its owner and
/// group.
///
/// # Errors
/// When it cannot be opened; the message names option, file and cause.
pub fn open_file(path: &Path) -> Result<File, ConfigError> {
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        // A pipe must neither hold up the start for want of a reader nor a line for want of room.
        .custom_flags(OFlags::NONBLOCK.bits() as i32)
        .open(path);
    file.map_err(|error| {
        let rule = format!("must be a file that can be written: {error}");
        ConfigError::new("--log-file", format!("{path:?}"), rule)
    })
}

/// Starts the log at `level`, or with the filters in `RUST_LOG` where that is set, in `file` or on
/// standard error.
///
/// Where standard error is the journal, lines begin with their priority as `sd-daemon(3)` has it,
/// and carry no time, because the journal adds its own. Keep the guard until the daemon ends.
///
/// # Errors
/// The thread cannot be started, or the process has a logger already.
pub fn init(level: LevelFilter, file: Option<File>) -> io::Result<LogGuard> {
    let journal = variable("JOURNAL_STREAM");
    let (out, form): (Out<'static>, Form) = match file {
        Some(file) => (Box::new(file), Form::Stamped),
        None if is_stream(journal.as_deref(), stderr_numbers()) => {
            (Box::new(io::stderr()), Form::Journal)
        }
        None => (Box::new(io::stderr()), Form::Stamped),
    };
    let (entries, waiting) = bounded(LINES_MAX);
    let writer = Writer::new(out, &DROPS, form);
    thread::Builder::new()
        .name("log".into())
        .spawn(move || writer.run_whatever_comes(&waiting))?;

    let queue = LineQueue {
        entries: entries.clone(),
        drops: &DROPS,
    };
    filtered(level, variable("RUST_LOG").as_deref())
        .target(Target::Pipe(Box::new(queue)))
        .format(
            move |buffer, record| match shows_contents(record.metadata()) {
                true => Ok(()),
                false => buffer.write_all(&form.line(record.level(), *record.args())),
            },
        )
        .try_init()
        .map_err(io::Error::other)?;
    panic::set_hook(Box::new(|panic| log::error!("{panic}")));
    Ok(LogGuard {
        entries,
        drops: &DROPS,
    })
}

/// Lines that were not written so far, for the metrics.
#[must_use]
pub fn dropped_lines() -> u64 {
    let full = DROPS.full.load(Ordering::Relaxed);
    full.saturating_add(DROPS.failed.load(Ordering::Relaxed))
}

/// Ends the log: when dropped, waits up to a second until the lines so far are written.
#[derive(Debug)]
#[must_use = "dropping the guard waits for the lines so far"]
pub struct LogGuard {
    entries: Sender<Entry>,
    drops: &'static Drops,
}

impl LogGuard {
    /// The way to another file.
    #[must_use]
    pub fn switch(&self) -> LogSwitch {
        LogSwitch {
            entries: self.entries.clone(),
        }
    }

    /// Waits until every line logged before is written or dropped, but not past `deadline`.
    /// Returns whether that was so in time.
    pub fn flush(&self, deadline: Instant) -> bool {
        let (done, is_done) = bounded(1);
        let flush = Entry::Flush {
            done,
            full_before: self.drops.full.load(Ordering::Relaxed),
        };
        self.entries.send_deadline(flush, deadline).is_ok()
            && is_done.recv_deadline(deadline).is_ok()
    }
}

/// Lets the log go on in another file, from any thread.
#[derive(Clone, Debug)]
pub struct LogSwitch {
    entries: Sender<Entry>,
}

impl LogSwitch {
    /// Puts what is logged from now on into `file`. Waits up to a second for a place behind the
    /// lines that were logged before; returns whether there was one.
    pub fn switch(&self, file: File) -> bool {
        let is_empty = file.metadata().is_ok_and(|file| file.len() == 0);
        let out = Box::new(file);
        let switch = Entry::Switch { out, is_empty };
        self.entries.send_timeout(switch, SWITCH_TIMEOUT).is_ok()
    }
}

impl Drop for LogGuard {
    fn drop(&mut self) {
        let _ = self.flush(Instant::now() + DRAIN_TIMEOUT);
    }
}

/// Lines that were not written, by cause.
#[derive(Debug)]
struct Drops {
    /// Too many were waiting.
    full: AtomicU64,
    /// Standard error or the file did not take them.
    failed: AtomicU64,
}

impl Drops {
    const fn new() -> Self {
        Self {
            full: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        }
    }
}

/// What waits for the thread.
enum Entry {
    Line {
        text: Box<[u8]>,
        /// The count of lines for which there was no room when this one came, so that they are
        /// told in their place.
        full_before: u64,
    },
    Flush {
        done: Sender<()>,
        full_before: u64,
    },
    /// What follows is written elsewhere.
    Switch {
        out: Out<'static>,
        /// Whether nothing is written there yet. It may be the same file, opened again.
        is_empty: bool,
    },
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Entry")
    }
}

/// The caller's end: env_logger hands over one line with each write.
struct LineQueue {
    entries: Sender<Entry>,
    drops: &'static Drops,
}

impl Write for LineQueue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let entry = Entry::Line {
            text: line.into(),
            full_before: self.drops.full.load(Ordering::Relaxed),
        };
        if self.entries.try_send(entry).is_err() {
            self.drops.full.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The thread's end.
struct Writer<'o> {
    out: Out<'o>,
    drops: &'static Drops,
    form: Form,
    /// How many of the drops of each cause were told.
    full_told: u64,
    failed_told: u64,
    /// Whether the last line was written in part.
    is_torn: bool,
}

impl<'o> Writer<'o> {
    fn new(out: Out<'o>, drops: &'static Drops, form: Form) -> Self {
        Self {
            out,
            drops,
            form,
            full_told: 0,
            failed_told: 0,
            is_torn: false,
        }
    }

    /// Writes until no sender is left. An entry at which it panics is lost, and the log goes on: nobody
    /// could be told why the daemon ends.
    fn run_whatever_comes(mut self, waiting: &Receiver<Entry>) {
        while panic::catch_unwind(AssertUnwindSafe(|| self.run(waiting))).is_err() {
            self.drops.failed.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn run(&mut self, waiting: &Receiver<Entry>) {
        for entry in waiting {
            match entry {
                Entry::Line { text, full_before } => {
                    self.tell_drops(full_before);
                    if self.write_line(&text).is_err() {
                        self.drops.failed.fetch_add(1, Ordering::Relaxed);
                    } else if waiting.is_empty() {
                        // Nothing may follow for long.
                        self.tell_drops(self.drops.full.load(Ordering::Relaxed));
                    }
                }
                Entry::Flush { done, full_before } => {
                    self.tell_drops(full_before);
                    let _ = self.out.flush();
                    // Whoever waited may have given up.
                    let _ = done.try_send(());
                }
                Entry::Switch { out, is_empty } => {
                    self.out = out;
                    self.is_torn &= !is_empty;
                }
            }
        }
    }

    /// Writes how many lines are missing at this place, if any. When that fails, the next call
    /// tells them.
    fn tell_drops(&mut self, full: u64) {
        let failed = self.drops.failed.load(Ordering::Relaxed);
        let untold = full.saturating_sub(self.full_told) + (failed - self.failed_told);
        if untold == 0 {
            return;
        }
        let line = self
            .form
            .line(Level::Warn, format_args!("{untold} log lines dropped"));
        if self.write_line(&line).is_ok() {
            self.full_told = self.full_told.max(full);
            self.failed_told = failed;
        }
    }

    fn write_line(&mut self, line: &[u8]) -> io::Result<()> {
        if self.is_torn {
            self.out.write_all(b"\n")?;
            self.is_torn = false;
        }
        let mut rest = line;
        while !rest.is_empty() {
            let written = match self.out.write(rest) {
                Ok(0) => Err(io::ErrorKind::WriteZero.into()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other,
            };
            match written {
                Ok(written) => rest = &rest[written..],
                Err(error) => {
                    self.is_torn = rest.len() < line.len();
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}

/// The filters: those given, or everything at `level` except what libraries say all day.
fn filtered(level: LevelFilter, filters: Option<&str>) -> Builder {
    let mut builder = Builder::new();
    match filters {
        Some(filters) => builder.parse_filters(filters),
        None => builder
            .filter_level(level)
            .filter_module("mio", level.min(LevelFilter::Warn))
            .filter_module("tungstenite", level.min(LevelFilter::Warn)),
    };
    builder
}

/// Whether it may show what clients send: the WebSocket library says so below level info. No filter
/// lets that through, since whoever looks for a fault is not to read along.
fn shows_contents(metadata: &Metadata<'_>) -> bool {
    metadata.target().starts_with("tungstenite") && metadata.level() > Level::Info
}

/// Empty counts as unset.
fn variable(name: &str) -> Option<String> {
    env::var_os(name)
        .filter(|value| !value.is_empty())
        .map(|value| value.to_string_lossy().into_owned())
}

fn unix_ms() -> u64 {
    // A clock before 1970 shows as 1970.
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Device and inode of standard error.
fn stderr_numbers() -> Option<(u64, u64)> {
    let copy = io::stderr().as_fd().try_clone_to_owned().ok()?;
    let metadata = File::from(copy).metadata().ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// Whether `JOURNAL_STREAM` names the stream with these numbers: `DEVICE:INODE`. A variable alone
/// says nothing, since children inherit it, wherever their standard error goes.
fn is_stream(journal: Option<&str>, numbers: Option<(u64, u64)>) -> bool {
    let named = journal.and_then(|journal| {
        let (device, inode) = journal.split_once(':')?;
        Some((device.parse().ok()?, inode.parse().ok()?))
    });
    named.is_some() && named == numbers
}

/// What stands before the text of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// The time.
    Stamped,
    /// The priority, for the journal.
    Journal,
}

impl Form {
    /// A line as of now.
    fn line(self, level: Level, text: fmt::Arguments<'_>) -> Vec<u8> {
        format_line((self == Self::Stamped).then(unix_ms), level, text)
    }
}

/// One line with its ending: time or priority, level padded to five characters, text.
fn format_line(now_ms: Option<u64>, level: Level, text: fmt::Arguments<'_>) -> Vec<u8> {
    let mut line = Line(String::with_capacity(128));
    // Writing to a line cannot fail; a `Display` that fails by itself leaves what it wrote.
    let _ = match now_ms {
        Some(now_ms) => write!(line, "{} ", Utc(now_ms)),
        None => write!(line, "<{}>", priority(level)),
    };
    let _ = write!(line, "{level:<5} {text}");
    line.finish()
}

/// What `syslog(3)` calls it: 3 is an error, 4 a warning, 6 informational, 7 for debugging.
fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

/// Text without control characters, up to [`LINE_BYTES_MAX`] and one character more.
struct Line(String);

impl Line {
    fn finish(mut self) -> Vec<u8> {
        const ELLIPSIS: char = '…';
        if self.0.len() > LINE_BYTES_MAX {
            let mut end = LINE_BYTES_MAX - ELLIPSIS.len_utf8();
            while !self.0.is_char_boundary(end) {
                end -= 1;
            }
            self.0.truncate(end);
            self.0.push(ELLIPSIS);
        }
        self.0.push('\n');
        self.0.into_bytes()
    }
}

impl fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            if self.0.len() > LINE_BYTES_MAX {
                break;
            }
            // A peer's bytes must neither begin a line of their own nor command a terminal, nor
            // turn what follows them round. The two separators are line ends to some readers.
            let is_mark = matches!(character, '\u{61c}' | '\u{200e}' | '\u{200f}');
            let is_turning = matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
            let is_separator = matches!(character, '\u{2028}' | '\u{2029}');
            if character.is_control() || is_separator || is_mark || is_turning {
                self.0.extend(character.escape_default());
            } else {
                self.0.push(character);
            }
        }
        Ok(())
    }
}

/// Milliseconds since 1970, shown as `2026-11-21T01:17:10.123Z`.
pub(super) struct Utc(pub(super) u64);

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DAY_MS: u64 = 24 * 3600 * 1000;
        let (days, ms) = (self.0 / DAY_MS, self.0 % DAY_MS);
        // Years counted from March have their leap day at the end; 400 of them are an era of
        // 146 097 days. 719 468 days lie between the first of March of year 0 and 1970.
        let days = days + 719_468;
        let (era, day) = (days / 146_097, days % 146_097);
        let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day + 2) / 153;
        let day = day - (153 * month + 2) / 5 + 1;
        let month = if month < 10 { month + 3 } else { month - 9 };
        let year = era * 400 + year + u64::from(month <= 2);
        let (hour, minute) = (ms / 3_600_000, ms / 60_000 % 60);
        let (second, ms) = (ms / 1000 % 60, ms % 1000);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails while told to, takes a few bytes at a time, and passes on what it took.
    struct Pipe {
        failures: Receiver<bool>,
        out: Sender<Vec<u8>>,
    }

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // Waits for the test to decide, like a pipe that nobody reads.
            match self.failures.recv() {
                Ok(true) => Err(io::ErrorKind::BrokenPipe.into()),
                Ok(false) | Err(_) => {
                    let _ = self.out.send(bytes.into());
                    Ok(bytes.len())
                }
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Fixture {
        queue: LineQueue,
        guard: LogGuard,
        fail: Sender<bool>,
        written: Receiver<Vec<u8>>,
    }

    impl Fixture {
        fn new(lines_max: usize) -> Self {
            let drops: &'static Drops = Box::leak(Box::new(Drops::new()));
            let (entries, waiting) = bounded(lines_max);
            let (fail, failures) = bounded(1000);
            let (out, written) = bounded(1000);
            let pipe = Box::new(Pipe { failures, out });
            let writer = Writer::new(pipe, drops, Form::Journal);
            thread::spawn(move || writer.run_whatever_comes(&waiting));
            let guard = LogGuard {
                entries: entries.clone(),
                drops,
            };
            let queue = LineQueue { entries, drops };
            Self {
                queue,
                guard,
                fail,
                written,
            }
        }

        fn log(&mut self, line: &str) {
            self.queue
                .write_all(line.as_bytes())
                .expect("the queue takes or drops");
        }

        fn expect(&self, line: &str) {
            let written = self.written.recv_timeout(Duration::from_secs(10));
            assert_eq!(written.as_deref(), Ok(line.as_bytes()), "{line:?}");
        }

        fn flush(&self) -> bool {
            self.guard.flush(Instant::now() + Duration::from_secs(10))
        }

        fn drops(&self) -> (u64, u64) {
            let drops = self.guard.drops;
            (
                drops.full.load(Ordering::Relaxed),
                drops.failed.load(Ordering::Relaxed),
            )
        }
    }

    #[test]
    fn a_blocked_pipe_costs_lines_and_tells_them_in_their_place() {
        let mut fixture = Fixture::new(2);
        fixture.log("1\n");
        // The thread holds the first line once the queue is empty; it waits in the pipe.
        while !fixture.queue.entries.is_empty() {
            thread::yield_now();
        }
        for line in ["2\n", "3\n", "4\n", "5\n", "6\n"] {
            fixture.log(line);
        }
        assert_eq!(fixture.drops(), (3, 0));
        assert!(
            !fixture
                .guard
                .flush(Instant::now() + Duration::from_millis(1))
        );
        for line in ["1\n", "2\n", "3\n"] {
            fixture.fail.send(false).expect("the pipe is there");
            fixture.expect(line);
        }
        fixture.log("7\n");
        for line in ["<4>WARN  3 log lines dropped\n", "7\n"] {
            fixture.fail.send(false).expect("the pipe is there");
            fixture.expect(line);
        }
        assert!(fixture.flush(), "nothing is left to write");
        assert!(fixture.written.is_empty());
    }

    #[test]
    fn a_line_that_cannot_be_written_without_a_panic_does_not_end_the_log() {
        let mut fixture = Fixture::new(10);
        let entries = fixture.guard.entries.clone();
        let (out, written) = bounded(10);
        let panicking = move |line: &[u8]| {
            assert_ne!(line, b"1\n", "planted");
            out.send(line.to_vec()).expect("the test reads");
        };
        let switch = Entry::Switch {
            out: Box::new(Teller(panicking)),
            is_empty: true,
        };
        entries.send(switch).expect("the thread is there");
        fixture.log("1\n");
        fixture.log("2\n");
        let next = || written.recv_timeout(Duration::from_secs(10));
        assert_eq!(
            next().as_deref(),
            Ok(&b"<4>WARN  1 log lines dropped\n"[..])
        );
        assert_eq!(next().as_deref(), Ok(&b"2\n"[..]));
        assert!(fixture.flush(), "the log goes on");
        assert_eq!(fixture.drops(), (0, 1));
    }

    /// Gives each line to a function.
    struct Teller<F>(F);

    impl<F: Fn(&[u8])> Write for Teller<F> {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            (self.0)(line);
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_flush_tells_the_last_drops() {
        let mut fixture = Fixture::new(1);
        fixture.log("1\n");
        while !fixture.queue.entries.is_empty() {
            thread::yield_now();
        }
        fixture.log("2\n");
        fixture.log("3\n");
        for _ in 0..3 {
            fixture.fail.send(false).expect("the pipe is there");
        }
        assert!(fixture.flush());
        for line in ["1\n", "2\n", "<4>WARN  1 log lines dropped\n"] {
            fixture.expect(line);
        }
    }

    #[test]
    fn failed_writes_are_counted_and_told() {
        let mut fixture = Fixture::new(10);
        // The first line fails; so does word of it before the second, and the second; then the
        // pipe is well again.
        for fail in [true, true, true, false, false, false] {
            fixture.fail.send(fail).expect("the pipe is there");
        }
        for line in ["1\n", "2\n", "3\n", "4\n"] {
            fixture.log(line);
        }
        for line in ["<4>WARN  2 log lines dropped\n", "3\n", "4\n"] {
            fixture.expect(line);
        }
        assert!(fixture.flush());
        assert_eq!(fixture.drops(), (0, 2));
    }

    #[test]
    fn a_torn_line_is_ended_before_the_next() {
        struct Torn<'t>(&'t mut Vec<u8>, usize);
        impl Write for Torn<'_> {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.1 += 1;
                match self.1 {
                    1 => Err(io::ErrorKind::Interrupted.into()),
                    3 => Err(io::ErrorKind::WouldBlock.into()),
                    _ => self.0.write(&bytes[..bytes.len().min(2)]),
                }
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        static NONE: Drops = Drops::new();
        let mut out = Vec::new();
        let mut writer = Writer::new(Box::new(Torn(&mut out, 0)), &NONE, Form::Stamped);
        assert!(writer.write_line(b"first\n").is_err());
        assert!(writer.write_line(b"second\n").is_ok());
        drop(writer);
        assert_eq!(out, b"fi\nsecond\n");
    }

    #[test]
    fn a_torn_line_is_ended_in_the_same_file_opened_again_and_not_in_an_empty_one() {
        /// A disk that is full after two bytes.
        struct Full(File, usize);
        impl Write for Full {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                if self.1 == 0 {
                    return Err(io::ErrorKind::StorageFull.into());
                }
                let written = self.0.write(&bytes[..bytes.len().min(self.1)])?;
                self.1 -= written;
                Ok(written)
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let name = format!("roomcast-log-{}", std::process::id());
        let folder = env::temp_dir().join(name);
        std::fs::create_dir(&folder).expect("a folder can be made");
        let path = |name: &str| folder.join(name);
        let read = |name: &str| std::fs::read_to_string(path(name)).expect("it is there");
        for (name, other, end) in [("same", "same", "fi\n"), ("old", "new", "")] {
            let drops: &'static Drops = Box::leak(Box::new(Drops::new()));
            let (entries, waiting) = bounded(10);
            let full = Full(open_file(&path(name)).expect("a file"), 2);
            let writer = Writer::new(Box::new(full), drops, Form::Journal);
            thread::spawn(move || writer.run_whatever_comes(&waiting));
            let guard = LogGuard {
                entries: entries.clone(),
                drops,
            };
            let mut queue = LineQueue { entries, drops };
            queue.write_all(b"first\n").expect("there is room");
            let deadline = Instant::now() + Duration::from_secs(10);
            while drops.failed.load(Ordering::Relaxed) == 0 {
                assert!(Instant::now() < deadline, "the line does not fit");
                thread::yield_now();
            }
            assert_eq!(read(name), "fi");
            let file = open_file(&path(other)).expect("a file");
            assert!(guard.switch().switch(file));
            queue.write_all(b"second\n").expect("there is room");
            assert!(guard.flush(deadline));
            let expected = format!("{end}<4>WARN  1 log lines dropped\nsecond\n");
            assert_eq!(read(other), expected);
        }
        std::fs::remove_dir_all(&folder).expect("it is ours");
    }

    #[test]
    fn lines_have_one_form() {
        for (now_ms, level, text, expected) in [
            (
                Some(0),
                Level::Info,
                "up",
                "1970-01-01T00:00:00.000Z INFO  up\n",
            ),
            (None, Level::Error, "down", "<3>ERROR down\n"),
            (None, Level::Warn, "a\nb\r\tc", "<4>WARN  a\\nb\\r\\tc\n"),
            (
                None,
                Level::Debug,
                "\u{1b}[2J\0\u{7f}",
                "<7>DEBUG \\u{1b}[2J\\u{0}\\u{7f}\n",
            ),
            (
                None,
                Level::Trace,
                "\u{85}\u{9b}\u{2028}\u{202e}\u{2066}\u{200f}",
                "<7>TRACE \\u{85}\\u{9b}\\u{2028}\\u{202e}\\u{2066}\\u{200f}\n",
            ),
            (None, Level::Info, "häuser 房间", "<6>INFO  häuser 房间\n"),
            (None, Level::Info, "a\n<3>b", "<6>INFO  a\\n<3>b\n"),
        ] {
            let line = format_line(now_ms, level, format_args!("{text}"));
            assert_eq!(String::from_utf8(line).as_deref(), Ok(expected));
        }
    }

    #[test]
    fn the_journal_is_known_by_the_numbers_of_its_stream() {
        for (journal, expected) in [
            (Some("8:1234"), true),
            (Some("8:1235"), false),
            (Some("9:1234"), false),
            (Some("8:1234:"), false),
            (Some("8"), false),
            (Some(":"), false),
            (Some("-8:1234"), false),
            (None, false),
        ] {
            assert_eq!(is_stream(journal, Some((8, 1234))), expected, "{journal:?}");
            assert!(!is_stream(journal, None), "{journal:?}");
        }
        assert!(stderr_numbers().is_some());
    }

    #[test]
    fn lines_go_where_they_are_told_to_from_then_on() {
        let mut fixture = Fixture::new(10);
        let (fail, failures) = bounded(10);
        let (out, written) = bounded(10);
        fixture.log("1\n");
        let switch = Entry::Switch {
            out: Box::new(Pipe { failures, out }),
            is_empty: true,
        };
        assert!(fixture.queue.entries.send(switch).is_ok());
        fixture.log("2\n");
        for pipe in [&fixture.fail, &fail] {
            pipe.send(false).expect("the pipe is there");
        }
        assert!(fixture.flush());
        fixture.expect("1\n");
        assert!(fixture.written.is_empty());
        assert_eq!(written.try_recv().as_deref(), Ok(&b"2\n"[..]));
    }

    #[test]
    fn files_that_cannot_be_written_are_named() {
        for path in ["/", "/nowhere/at/all"] {
            let error = open_file(Path::new(path))
                .expect_err("no log there")
                .to_string();
            let expected = format!("--log-file is {path:?}: must be a file that can be written: ");
            assert!(error.starts_with(&expected), "{error}");
        }
        assert!(open_file(Path::new("/dev/full")).is_ok());
    }

    #[test]
    fn long_lines_are_cut() {
        let head = "<6>INFO  ".len();
        for (text, expected_len, is_cut) in [
            ("a".repeat(LINE_BYTES_MAX - head), LINE_BYTES_MAX, false),
            ("a".repeat(LINE_BYTES_MAX - head + 1), LINE_BYTES_MAX, true),
            ("房".repeat(LINE_BYTES_MAX), LINE_BYTES_MAX - 1, true),
            ("\n".repeat(LINE_BYTES_MAX), LINE_BYTES_MAX, true),
        ] {
            let line = format_line(None, Level::Info, format_args!("{text}"));
            assert_eq!(line.len(), expected_len + 1);
            assert_eq!(line.ends_with("…\n".as_bytes()), is_cut);
        }
    }

    #[test]
    fn times_are_shown_in_utc() {
        for (ms, expected) in [
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (951_868_800_000, "2000-03-01T00:00:00.000Z"),
            (1_767_225_599_001, "2025-12-31T23:59:59.001Z"),
            (1_767_225_600_000, "2026-01-01T00:00:00.000Z"),
            (1_795_223_830_123, "2026-11-21T01:17:10.123Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(Utc(ms).to_string(), expected);
        }
    }

    #[test]
    fn filters() {
        let passes = |level, filters, target: &str, record_level| {
            let logger = filtered(level, filters).build();
            let metadata = Metadata::builder()
                .target(target)
                .level(record_level)
                .build();
            log::Log::enabled(&logger, &metadata)
        };
        for (level, filters, target, record_level, expected) in [
            (LevelFilter::Info, None, "roomcast::net", Level::Info, true),
            (
                LevelFilter::Info,
                None,
                "roomcast::net",
                Level::Debug,
                false,
            ),
            (LevelFilter::Trace, None, "mio::poll", Level::Info, false),
            (LevelFilter::Trace, None, "mio::poll", Level::Warn, true),
            (
                LevelFilter::Trace,
                None,
                "tungstenite::handshake",
                Level::Info,
                false,
            ),
            (LevelFilter::Error, None, "mio::poll", Level::Warn, false),
            (LevelFilter::Off, None, "mio::poll", Level::Error, false),
            (
                LevelFilter::Error,
                Some("mio=trace"),
                "mio::poll",
                Level::Trace,
                true,
            ),
            (
                LevelFilter::Error,
                Some("debug"),
                "roomcast",
                Level::Debug,
                true,
            ),
            (
                LevelFilter::Trace,
                Some("warn"),
                "roomcast",
                Level::Info,
                false,
            ),
        ] {
            let found = passes(level, filters, target, record_level);
            assert_eq!(
                found, expected,
                "{level} {filters:?}: {target} at {record_level}"
            );
        }
    }
}
