//! What the user sees: a line a second while it runs, and the account at the end.
//!
//! Owns: the counters that the threads share, the histogram of latencies, the words of the report.
//! Never: decides whether the contract was kept but by the counts it is handed.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::ledger::Tally;

/// Counters of a running test. Each is only ever added to, and read for the progress lines.
#[derive(Debug, Default)]
pub(super) struct Progress {
    pub(super) published: AtomicU64,
    pub(super) delivered: AtomicU64,
    pub(super) cuts: AtomicU64,
    pub(super) resumes: AtomicU64,
    pub(super) told: AtomicU64,
    pub(super) repeated: AtomicU64,
    pub(super) reordered: AtomicU64,
}

impl Progress {
    /// Writes one line.
    pub(super) fn write_line(
        &self,
        out: &mut dyn Write,
        seconds: u64,
        note: &str,
    ) -> io::Result<()> {
        let read = |counter: &AtomicU64| counter.load(Relaxed);
        write!(
            out,
            "{seconds:>5} s  published {}  delivered {}  cuts {}  resumes {}  lost and told {}",
            read(&self.published),
            read(&self.delivered),
            read(&self.cuts),
            read(&self.resumes),
            read(&self.told),
        )?;
        let (repeated, reordered) = (read(&self.repeated), read(&self.reordered));
        if repeated + reordered > 0 {
            write!(out, "  REPEATED {repeated}  REORDERED {reordered}")?;
        }
        writeln!(out, "{note}")?;
        out.flush()
    }
}

/// Latencies in buckets, each at most 7 % wide.
#[derive(Clone, Debug)]
pub(super) struct Histogram {
    counts: Vec<u64>,
    total: u64,
    highest_ns: u64,
}

/// Buckets for each doubling.
const STEPS: u64 = 32;

impl Histogram {
    /// An empty one.
    pub(super) fn new() -> Self {
        Self {
            counts: vec![0; 64 * STEPS as usize],
            total: 0,
            highest_ns: 0,
        }
    }

    /// Notes one latency.
    pub(super) fn note(&mut self, ns: u64) {
        self.counts[bucket(ns)] += 1;
        self.total += 1;
        self.highest_ns = self.highest_ns.max(ns);
    }

    /// Adds another one's counts.
    pub(super) fn add(&mut self, other: &Self) {
        for (mine, other) in self.counts.iter_mut().zip(&other.counts) {
            *mine += other;
        }
        self.total += other.total;
        self.highest_ns = self.highest_ns.max(other.highest_ns);
    }

    /// The latency that `per_mille` of all do not exceed, rounded up to the end of its bucket.
    fn percentile(&self, per_mille: u64) -> Duration {
        let rank = (u128::from(self.total) * u128::from(per_mille)).div_ceil(1_000);
        let mut seen = 0;
        for (index, &count) in (0_u64..).zip(&self.counts) {
            seen += u128::from(count);
            if count > 0 && seen >= rank {
                return Duration::from_nanos(upper_end(index).min(self.highest_ns));
            }
        }
        Duration::from_nanos(self.highest_ns)
    }
}

fn bucket(ns: u64) -> usize {
    let shift = u64::from((ns / STEPS).checked_ilog2().map_or(0, |log| log + 1));
    // Below `STEPS` the buckets are one wide; from there on each doubling has `STEPS / 2` of its own.
    let within = ns >> shift;
    (shift * (STEPS / 2) + within) as usize
}

fn upper_end(index: u64) -> u64 {
    if index < STEPS {
        return index;
    }
    let shift = index / (STEPS / 2) - 1;
    let within = index - shift * (STEPS / 2);
    ((within + 1) << shift) - 1
}

/// The account of a run.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) published: u64,
    pub(super) unacknowledged: u64,
    pub(super) tally: Tally,
    /// Deliveries that did not happen and were told.
    pub(super) told: u64,
    /// Deliveries that did not happen and were not told.
    pub(super) silent: u64,
    pub(super) cuts: u64,
    pub(super) resumes: u64,
    /// Connections that the server ended, by reason.
    pub(super) closes: BTreeMap<String, u64>,
    /// Memberships that the server ended on connections that go on, by reason.
    pub(super) unsubscribes: BTreeMap<String, u64>,
    pub(super) latency: Histogram,
    pub(super) findings: Vec<String>,
    /// Members that could not come back, and why the last of them could not.
    pub(super) away: u64,
    pub(super) last_refusal: Option<String>,
}

impl Account {
    /// Whether the contract was kept.
    pub(super) fn is_kept(&self) -> bool {
        let Tally {
            repeated,
            reordered,
            contradicted,
            ..
        } = self.tally;
        [self.silent, repeated, reordered, contradicted] == [0; 4]
    }

    /// Writes the whole account.
    pub(super) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let rows = [
            ("published", self.published),
            ("unacknowledged", self.unacknowledged),
            ("delivered", self.tally.delivered),
            ("cuts", self.cuts),
            ("resumes", self.resumes),
            ("closed by server", self.closes.values().sum()),
            ("members away", self.away),
            ("repeated", self.tally.repeated),
            ("reordered", self.tally.reordered),
            ("contradicted", self.tally.contradicted),
            ("lost and told", self.told),
            ("lost silently", self.silent),
        ];
        writeln!(out)?;
        for (name, count) in rows {
            writeln!(out, "{name:<18}{count}")?;
        }
        let ms = |per_mille| self.latency.percentile(per_mille).as_secs_f64() * 1e3;
        writeln!(
            out,
            "{:<18}p50 {:.2}  p90 {:.2}  p99 {:.2}  p99.9 {:.2}  max {:.2}  (of {} not replayed)",
            "latency ms",
            ms(500),
            ms(900),
            ms(990),
            ms(999),
            ms(1_000),
            self.latency.total,
        )?;
        for (reason, count) in &self.closes {
            writeln!(out, "  closed by server: {reason} ({count})")?;
        }
        for (reason, count) in &self.unsubscribes {
            writeln!(out, "  unsubscribed by server: {reason} ({count})")?;
        }
        for finding in &self.findings {
            writeln!(out, "  {finding}")?;
        }
        if let Some(refusal) = &self.last_refusal {
            writeln!(out, "  last refusal: {refusal}")?;
        }
        let verdict = match (self.is_kept(), self.away) {
            (false, _) => "BROKEN",
            (true, 0) => "kept",
            (true, _) => "unknown: not every member came back",
        };
        writeln!(out, "{:<18}{verdict}", "contract")?;
        out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_in_order_narrow_and_without_holes() {
        let mut last = 0;
        for ns in (0..4_096).chain((12..63).flat_map(|bit| [(1 << bit) - 1, 1 << bit])) {
            let index = bucket(ns);
            assert!(index == last || index == last + 1 || ns > 4_096, "{ns}");
            last = index;
            let end = upper_end(index as u64);
            assert!(end >= ns, "{ns} in a bucket that ends at {end}");
            assert!(
                end - ns <= ns / 16 + 1,
                "{ns} in a bucket that ends at {end}"
            );
        }
        assert!(bucket(u64::MAX) < Histogram::new().counts.len());
    }

    #[test]
    fn percentiles_are_of_the_right_rank() {
        let mut histogram = Histogram::new();
        assert_eq!(histogram.percentile(999), Duration::ZERO);
        for ms in 1..=1_000_u64 {
            histogram.note(ms * 1_000_000);
        }
        for (per_mille, ms) in [(500, 500.0), (990, 990.0), (999, 999.0), (1_000, 1_000.0)] {
            let found = histogram.percentile(per_mille).as_secs_f64() * 1e3;
            assert!((ms..=ms * 1.07).contains(&found), "{per_mille}: {found}");
        }
    }
}
