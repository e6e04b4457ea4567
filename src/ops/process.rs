//! What this process uses of its host, and the name of the host.
//!
//! Owns: how `/proc` is read.
//! Never: fails. What cannot be read, as where there is no `/proc`, is zero, and a host without a
//! name is `localhost`: figures are worth showing, not worth an error.
//!
//! The files are the kernel's own and no disk is touched, so a reading takes microseconds; it is
//! still meant for once per request of an operator, not for once per turn of the loop.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use rlimit::Resource;

use crate::base::Instant;

/// What this process uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessFigures {
    /// Resident memory. The kernel may be behind by some pages for each thread.
    pub rss_bytes: u64,
    /// Time on all cores since the process began, in steps of the kernel's clock tick (10 ms).
    pub cpu: Duration,
}

impl ProcessFigures {
    /// Reads them now.
    #[must_use]
    pub fn read() -> Self {
        let pages = text_of("/proc/self/statm").and_then(|text| resident_pages(&text));
        let ticks = text_of("/proc/self/stat").and_then(|text| cpu_ticks(&text));
        Self {
            rss_bytes: pages
                .unwrap_or(0)
                .saturating_mul(rustix::param::page_size() as u64),
            cpu: duration(ticks.unwrap_or(0), rustix::param::clock_ticks_per_second()),
        }
    }
}

/// Reads the resident memory of this process again and again, in two microseconds.
#[derive(Debug)]
pub struct ResidentMemory {
    statm: fs::File,
    text: [u8; STATM_BYTES],
}

impl ResidentMemory {
    /// Begins.
    ///
    /// # Errors
    /// When the system does not say how much it is.
    pub fn open() -> io::Result<Self> {
        Ok(Self {
            statm: fs::File::open("/proc/self/statm")?,
            text: [0; STATM_BYTES],
        })
    }

    /// Resident bytes now, if the system says it.
    #[must_use]
    pub fn read(&mut self) -> Option<u64> {
        let bytes = self.statm.read_at(&mut self.text, 0).ok()?;
        let pages = resident_pages(str::from_utf8(&self.text[..bytes]).ok()?)?;
        Some(pages.saturating_mul(rustix::param::page_size() as u64))
    }
}

/// Room for the seven numbers of `statm`.
const STATM_BYTES: usize = 256;

/// Turns readings of CPU time into a load.
///
/// A load is the mean over at least [`WINDOW`](Self::WINDOW), or the clock tick would show: over
/// 15 ms a process that never rests has used 10 ms or 20.
#[derive(Clone, Copy, Debug)]
pub struct CpuMeter {
    since: Instant,
    cpu: Duration,
    percent: f64,
}

impl CpuMeter {
    /// Shortest time that a load is the mean of.
    pub const WINDOW: Duration = Duration::from_secs(1);

    /// Begins with the first reading.
    #[must_use]
    pub fn new(now: Instant, cpu: Duration) -> Self {
        Self {
            since: now,
            cpu,
            percent: 0.0,
        }
    }

    /// Takes a reading and returns the load in per cent of one core; several busy threads go over
    /// 100. It is the mean since the reading before, or, where that was less than
    /// [`WINDOW`](Self::WINDOW) ago, what was returned then: at first 0.
    pub fn percent(&mut self, now: Instant, cpu: Duration) -> f64 {
        let span = now.saturating_duration_since(self.since);
        if span >= Self::WINDOW {
            let used = cpu.saturating_sub(self.cpu);
            *self = Self {
                since: now,
                cpu,
                percent: 100.0 * used.as_secs_f64() / span.as_secs_f64(),
            };
        }
        self.percent
    }
}

/// Counts the open files of this process.
///
/// The kernel says how many there are since Linux 6.2. Before that, the only way is to list them,
/// which takes milliseconds where there are thousands; so those that are no connections are listed
/// once, at the start, and the connections are added to them.
#[derive(Clone, Copy, Debug)]
pub struct OpenFiles {
    /// Open files that are no connections.
    others: u64,
}

impl OpenFiles {
    /// Begins; there are no connections yet.
    #[must_use]
    pub fn new() -> Self {
        let others = match told_open_files() {
            Some(_) => 0,
            None => fs::read_dir(OPEN_FILES).map_or(0, |files| files.count() as u64),
        };
        Self { others }
    }

    /// How many there are now, with so many connections.
    #[must_use]
    pub fn count(&self, connections: u64) -> u64 {
        told_open_files().unwrap_or(self.others + connections)
    }

    /// How many there may be; 0 if that is not known.
    #[must_use]
    pub fn limit() -> u64 {
        Resource::NOFILE.get_soft().unwrap_or(0)
    }
}

impl Default for OpenFiles {
    fn default() -> Self {
        Self::new()
    }
}

/// What the kernel says of the number of open files, if it does.
fn told_open_files() -> Option<u64> {
    let count = fs::metadata(OPEN_FILES).ok()?.len();
    (count > 0).then_some(count)
}

const OPEN_FILES: &str = "/proc/self/fd";

/// The name of this host, or `localhost`.
#[must_use]
pub fn host_name() -> String {
    // A sandbox that leaves of `/proc` the processes alone does not hide this.
    let name = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    host_name_in(Some(name))
}

fn host_name_in(text: Option<String>) -> String {
    let text = text.unwrap_or_default();
    let name = text.trim();
    if name.is_empty() { "localhost" } else { name }.to_owned()
}

/// The name of a program, which `stat` holds, need not be UTF-8.
fn text_of(path: &str) -> Option<String> {
    let bytes = fs::read(path).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// The second field of `statm`.
fn resident_pages(statm: &str) -> Option<u64> {
    statm.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// Fields 14 and 15 of `stat` together, `utime` and `stime`: of all threads, those that ended
/// included.
fn cpu_ticks(stat: &str) -> Option<u64> {
    // Field 2 is the name of the program in parentheses and may hold spaces and parentheses of its
    // own; no later field has one. Field 3 comes next.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(14 - 3);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    user.checked_add(system)
}

fn duration(ticks: u64, ticks_per_second: u64) -> Duration {
    let hz = ticks_per_second.max(1);
    let nanoseconds = u128::from(ticks % hz) * 1_000_000_000 / u128::from(hz);
    // A remainder is less than a second.
    Duration::from_secs(ticks / hz) + Duration::from_nanos(nanoseconds as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NUMBERS: &str = "S 1 4242 4242 0 -1 4194560 1234 0 5 0 731 269 11 7 20 0 4 0 9876543 \
                           104857600 2560 18446744073709551615 1 1 0 0 0 0 0 4096 17984 0 0 0 17 1 \
                           0 0 0 0 0 0 0 0 0 0 0 0 0\n";

    #[test]
    fn the_name_of_the_program_does_not_shift_the_fields() {
        for name in [
            "roomcast",
            "",
            "room cast",
            "a) S 1 2 3 (b",
            ") (",
            "))))",
            "1 2 3 4 5 6 7 8 9 10 11 12 13",
            "\u{fffd}",
        ] {
            let stat = format!("4242 ({name}) {NUMBERS}");
            assert_eq!(cpu_ticks(&stat), Some(731 + 269), "{stat}");
        }
    }

    #[test]
    fn texts_of_another_form_give_nothing() {
        let whole = format!("1 (x) {NUMBERS}");
        let after_stime = whole.find(" 11 7 20").expect("what follows stime");
        assert_eq!(cpu_ticks(&whole[..after_stime]), Some(1000));
        for stat in [
            "",
            "1",
            "1 (x)",
            "1 (x",
            &whole[..whole.find(" 269").expect("stime")],
            "1 (x) S 1 1 1 0 -1 0 0 0 0 0 -5 3 0 0",
            "1 (x) S 1 1 1 0 -1 0 0 0 0 0 u 3 0 0",
            "1 (x) S 1 1 1 0 -1 0 0 0 0 0 18446744073709551615 1 0 0",
        ] {
            assert_eq!(cpu_ticks(stat), None, "{stat}");
        }
        for (statm, expected) in [
            ("25600 2560 900 300 0 8000 0\n", Some(2560)),
            ("25600 0 0", Some(0)),
            ("25600", None),
            ("25600 x", None),
            ("25600 -1", None),
            ("", None),
        ] {
            assert_eq!(resident_pages(statm), expected, "{statm:?}");
        }
    }

    #[test]
    fn ticks_are_converted_exactly() {
        for (ticks, hz, expected) in [
            (0, 100, Duration::ZERO),
            (1, 100, Duration::from_millis(10)),
            (250, 100, Duration::from_millis(2500)),
            (1, 1024, Duration::from_nanos(976_562)),
            (7, 0, Duration::from_secs(7)),
            (u64::MAX, 1, Duration::from_secs(u64::MAX)),
        ] {
            assert_eq!(duration(ticks, hz), expected, "{ticks} at {hz}");
        }
    }

    #[test]
    fn a_load_is_a_mean_over_a_second_or_more() {
        let start = Instant::ORIGIN;
        let ms = Duration::from_millis;
        let mut meter = CpuMeter::new(start, ms(500));
        for (at, cpu, expected) in [
            (0, 500, 0.0),
            (999, 900, 0.0),
            (1000, 750, 25.0),
            (1001, 900, 25.0),
            (1999, 1750, 25.0),
            (3000, 4750, 200.0),
            (13_000, 4750, 0.0),
            // Neither clock runs backwards, but if one did it would be no reason to fall over.
            (12_000, 4750, 0.0),
            (15_000, 4000, 0.0),
            (16_000, 5000, 100.0),
        ] {
            let found = meter.percent(start + ms(at), ms(cpu));
            assert!((found - expected).abs() < 1e-9, "{found} at {at} ms");
        }
    }

    #[test]
    fn a_host_without_a_name_is_localhost() {
        for (text, expected) in [
            (Some("push-1\n"), "push-1"),
            (Some("push-1.example.com"), "push-1.example.com"),
            (Some("\n"), "localhost"),
            (Some(""), "localhost"),
            (None, "localhost"),
        ] {
            assert_eq!(host_name_in(text.map(str::to_owned)), expected, "{text:?}");
        }
        assert_eq!(text_of("/nowhere/at/all"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_has_figures() {
        let before = ProcessFigures::read();
        let memory = vec![1_u8; 32 << 20];
        let mut sum = 0_u64;
        let deadline = Instant::ORIGIN + Duration::from_secs(60);
        let after = loop {
            sum += memory.iter().map(|byte| u64::from(*byte)).sum::<u64>();
            let figures = ProcessFigures::read();
            if figures.cpu >= before.cpu + Duration::from_millis(20) {
                break figures;
            }
            assert!(Instant::ORIGIN < deadline, "no CPU time: {figures:?}");
        };
        assert!(sum >= 32 << 20);
        assert!(before.rss_bytes > 0, "{before:?}");
        // Other tests run beside this one, so how much it grew is not known; but what is held is in.
        assert!(after.rss_bytes >= 32 << 20, "{after:?}");
        assert!(after.rss_bytes < 1 << 40, "{after:?}");
        assert!(!host_name().is_empty());
        drop(memory);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn open_files_are_counted() {
        let files = OpenFiles::new();
        let held: Vec<_> = (0..500)
            .map(|_| fs::File::open("/dev/null").expect("a file"))
            .collect();
        // Other tests run beside this one, and open and close a few.
        let with_them = files.count(500);
        assert!((500..100_000).contains(&with_them), "{with_them}");
        drop(held);
        let without = files.count(0);
        assert!((1..with_them).contains(&without), "{without}");
        assert!(OpenFiles::limit() >= with_them);
        assert_eq!(
            OpenFiles { others: 7 }.count(3) == 10,
            told_open_files().is_none()
        );
    }
}
