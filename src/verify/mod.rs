//! `roomcast verify`: a ledger test that a user runs against a deployment.
//!
//! Members are cut at random and resume after the last publication they saw; publishers send numbered
//! letters; a ledger says for every member and every letter whether it came once, in order, or whether
//! its loss was told.
//!
//! Owns: its own client. It is written from the protocol's description and shares no code with the
//! server, so that one mistake cannot be on both sides.
//! Never: runs for longer than its options say, or uses a room that anybody else is in.
//!
//! - `letter`: what is published and the envelopes it comes back in; `centrifugo`: the commands and
//!   replies of that protocol, which members and publishers may speak instead
//! - `ranges`, `ledger`: the books and their audit, pure
//! - `dial`: threads that open connections; `reader`: threads that serve members;
//!   `publisher`: threads that serve publishers
//! - `report`: progress and the account
//!
//! A run goes through phases: everybody joins; publishers send while members are cut; publishers
//! close, each behind its last letter; members drain, uncut, until each has everything or the deadline
//! has passed, and then a moment longer, because a repetition comes after what it repeats.
//!
//! Given the URLs of several nodes, everybody who comes back does so to the next of them: what one node
//! has told must mean the same on every other.

mod centrifugo;
mod dial;
mod ledger;
mod letter;
mod options;
mod publisher;
mod ranges;
mod reader;
mod report;

use std::collections::{BTreeMap, HashMap};
use std::error::Error as StdError;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

pub use options::{Options, Protocol};

use self::ledger::{Audit, Book, Numbering, Sent, Tally};
use self::publisher::Publishers;
use self::reader::{Reader, Reading};
use self::report::{Account, Histogram, Progress};

/// How long members may drain.
const DRAIN_MAX: Duration = Duration::from_secs(10);

/// How long members listen on when they have everything.
const LISTEN_ON: Duration = Duration::from_millis(300);

/// How long everybody may take to join: this, and a second for every hundred.
const JOIN_MAX: Duration = Duration::from_secs(20);

/// Most threads that serve members; the same for publishers.
const THREADS_MAX: usize = 8;

/// Time between two looks at how far the test is.
const TICK: Duration = Duration::from_millis(20);

/// Whether the deployment keeps what it promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing was lost silently, repeated or reordered, and nothing was contradicted.
    Kept,
    /// Something was; the account says what.
    Broken,
}

impl Verdict {
    /// Returns 0 or 1.
    #[must_use]
    pub fn exit_code(self) -> ExitCode {
        match self {
            Self::Kept => ExitCode::SUCCESS,
            Self::Broken => ExitCode::from(1),
        }
    }
}

/// Why there is no verdict.
#[derive(Debug)]
pub enum Error {
    /// The options cannot be used.
    Usage(String),
    /// Not everybody could connect or join.
    Connect(String),
    /// The test ran and says nothing.
    Unfinished(String),
    /// A thread could not be started.
    Thread(io::Error),
    /// The report could not be written.
    Output(io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(text) => f.write_str(text),
            Self::Connect(text) => write!(f, "cannot connect: {text}"),
            Self::Unfinished(text) => write!(f, "no verdict: {text}"),
            Self::Thread(_) => f.write_str("a thread could not be started"),
            Self::Output(_) => f.write_str("the report could not be written"),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Thread(error) | Self::Output(error) => Some(error),
            Self::Usage(_) | Self::Connect(_) | Self::Unfinished(_) => None,
        }
    }
}

/// How far a run is. Only the thread that called [`run`] moves it on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Everybody connects.
    Joining,
    /// Publishers send, members are cut.
    Running,
    /// Publishers close.
    Stopping,
    /// Members receive what is left.
    Draining,
    /// Over.
    Finished,
}

/// What all threads of a run see.
struct Shared {
    options: Options,
    /// Names this run.
    run: u32,
    /// How many there are to connect to.
    nodes: usize,
    started: Instant,
    phase: AtomicU8,
    /// Members and publishers that have joined for the first time.
    joined: AtomicU64,
    /// Members that have everything.
    settled: AtomicU64,
    /// By publisher: how many letters it has sent.
    sent: Vec<AtomicU64>,
    progress: Progress,
}

impl Shared {
    fn phase(&self) -> Phase {
        match self.phase.load(Relaxed) {
            0 => Phase::Joining,
            1 => Phase::Running,
            2 => Phase::Stopping,
            3 => Phase::Draining,
            _ => Phase::Finished,
        }
    }

    fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Relaxed);
    }

    fn room_name(&self, room: usize) -> String {
        format!("verify:{:08x}:{room}", self.run)
    }

    /// To which node a member, or a publisher, connects first: those of each room are dealt over all.
    fn first_node(&self, who: usize) -> usize {
        let rooms = self.options.rooms as usize;
        (who / rooms + who % rooms) % self.nodes
    }

    /// Where one that was connected to `node` goes next.
    fn next_node(&self, node: usize) -> usize {
        (node + 1) % self.nodes
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Carries out the test and writes progress and account to standard output.
///
/// Returns an error for options that cannot be used, when not everybody could join, and when the test
/// ended without a verdict. Takes as long as the options say, up to the time for joining before and
/// about 15 s for draining after.
pub fn run(options: &Options) -> Result<Verdict, Error> {
    run_to(options, &mut io::stdout().lock())
}

/// As [`run`], writing to `out`.
pub fn run_to(options: &Options, out: &mut dyn Write) -> Result<Verdict, Error> {
    let uris = options.check()?;
    let targets = uris
        .iter()
        .map(|uri| dial::Target::new(uri, options.protocol, options.token.as_deref()));
    let targets: Vec<dial::Target> = targets.collect::<Result<_, _>>()?;
    let connections = options.members as usize + options.publishers as usize;
    // Each connection is an open file. If the limit stays too low, connecting says so.
    let _ = rlimit::increase_nofile_limit(connections as u64 + 256);
    let seed = RandomState::new().hash_one(std::process::id());
    let shared = Arc::new(Shared {
        run: (seed >> 32) as u32,
        nodes: targets.len(),
        started: Instant::now(),
        phase: AtomicU8::new(Phase::Joining as u8),
        joined: AtomicU64::new(0),
        settled: AtomicU64::new(0),
        sent: (0..options.publishers).map(|_| AtomicU64::new(0)).collect(),
        progress: Progress::default(),
        options: options.clone(),
    });
    let orders = dial::start(targets, connections)?;
    let (failure_sender, failures) = bounded(1);
    let mut crew = Crew::default();
    let outcome = crew
        .start(&shared, &orders, &failure_sender, seed)
        .and_then(|()| conduct(&shared, &mut crew, &failures, out));
    drop(orders);
    shared.enter(Phase::Finished);
    let readings = crew.readings()?;
    let sent = outcome?;
    let account = settle_account(&shared, readings, &sent);
    account.write(out).map_err(Error::Output)?;
    judge(&account)
}

/// The threads of a run, the dialers aside.
#[derive(Default)]
struct Crew {
    readers: Vec<JoinHandle<Reading>>,
    publishers: Vec<JoinHandle<Vec<(usize, Sent)>>>,
}

impl Crew {
    fn start(
        &mut self,
        shared: &Arc<Shared>,
        orders: &Sender<dial::Order>,
        failures: &Sender<Error>,
        seed: u64,
    ) -> Result<(), Error> {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let threads = cores.min(THREADS_MAX);
        for (index, members) in deal(shared.options.members, threads)
            .into_iter()
            .enumerate()
        {
            let (shared, orders, failures) = (shared.clone(), orders.clone(), failures.clone());
            let seed = seed.wrapping_add(index as u64);
            let reader = Reader::new(members, shared, orders, failures, seed);
            let builder = thread::Builder::new().name(format!("reader-{index}"));
            let handle = builder.spawn(move || reader.run()).map_err(Error::Thread)?;
            self.readers.push(handle);
        }
        for (index, publishers) in deal(shared.options.publishers, threads)
            .into_iter()
            .enumerate()
        {
            let (shared, orders, failures) = (shared.clone(), orders.clone(), failures.clone());
            let publishers = Publishers::new(publishers, shared, orders, failures);
            let builder = thread::Builder::new().name(format!("publisher-{index}"));
            let handle = builder
                .spawn(move || publishers.run())
                .map_err(Error::Thread)?;
            self.publishers.push(handle);
        }
        Ok(())
    }

    /// Waits for the publishers to have closed; they take no longer than their own deadline.
    fn sent(&mut self) -> Result<Vec<Sent>, Error> {
        let mut sent = Vec::new();
        for handle in self.publishers.drain(..) {
            sent.extend(handle.join().map_err(|_| stopped("publisher"))?);
        }
        sent.sort_by_key(|(publisher, _)| *publisher);
        Ok(sent.into_iter().map(|(_, sent)| sent).collect())
    }

    fn readings(&mut self) -> Result<Vec<Reading>, Error> {
        self.readers
            .drain(..)
            .map(|handle| handle.join().map_err(|_| stopped("reader")))
            .collect()
    }
}

fn stopped(who: &str) -> Error {
    Error::Unfinished(format!("a {who} thread stopped"))
}

/// Deals the numbers below `count` to at most `hands` hands, none of them empty.
fn deal(count: u32, hands: usize) -> Vec<Vec<usize>> {
    let count = count as usize;
    let hands = hands.min(count);
    (0..hands)
        .map(|hand| (hand..count).step_by(hands).collect())
        .collect()
}

/// Leads the run through its phases, writing a line each second. Returns what was sent.
fn conduct(
    shared: &Shared,
    crew: &mut Crew,
    failures: &Receiver<Error>,
    out: &mut dyn Write,
) -> Result<Vec<Sent>, Error> {
    let options = &shared.options;
    let all = u64::from(options.members) + u64::from(options.publishers);
    writeln!(
        out,
        "rooms verify:{:08x}:0 to {4}: {} members, {} publishers, {} s",
        shared.run,
        options.members,
        options.publishers,
        options.secs,
        options.rooms - 1
    )
    .map_err(Error::Output)?;
    let mut pace = Pace {
        shared,
        out,
        next_line: shared.started + Duration::from_secs(1),
    };
    let join_max = JOIN_MAX + Duration::from_millis(10) * u32::try_from(all).unwrap_or(u32::MAX);
    let is_full = || shared.joined.load(Relaxed) >= all;
    if !pace.wait(join_max, " (joining)", Some(failures), is_full)? {
        let joined = shared.joined.load(Relaxed);
        return Err(Error::Connect(format!(
            "{joined} of {all} joined within {join_max:?}"
        )));
    }
    shared.enter(Phase::Running);
    pace.wait(Duration::from_secs(options.secs), "", None, || false)?;
    shared.enter(Phase::Stopping);
    let sent = crew.sent()?;
    shared.enter(Phase::Draining);
    let members = u64::from(options.members);
    let is_settled = || shared.settled.load(Relaxed) >= members;
    pace.wait(DRAIN_MAX, " (draining)", None, is_settled)?;
    pace.wait(LISTEN_ON, " (draining)", None, || false)?;
    Ok(sent)
}

/// Waits, and writes progress meanwhile.
struct Pace<'a> {
    shared: &'a Shared,
    out: &'a mut dyn Write,
    next_line: Instant,
}

impl Pace<'_> {
    /// Waits until `is_over` or for `longest`; returns whether it was over. Ends with what `failures`
    /// brings.
    fn wait(
        &mut self,
        longest: Duration,
        note: &str,
        failures: Option<&Receiver<Error>>,
        is_over: impl Fn() -> bool,
    ) -> Result<bool, Error> {
        let end = Instant::now() + longest;
        loop {
            if is_over() {
                return Ok(true);
            }
            let now = Instant::now();
            if now >= end {
                return Ok(false);
            }
            if now >= self.next_line {
                let elapsed = self.shared.started.elapsed().as_secs();
                let progress = &self.shared.progress;
                progress
                    .write_line(self.out, elapsed, note)
                    .map_err(Error::Output)?;
                self.next_line += Duration::from_secs(1);
            }
            let rest = TICK.min(end - now);
            match failures.map(|failures| failures.recv_timeout(rest)) {
                Some(Ok(error)) => return Err(error),
                // A channel without senders does not wait; then, and without one, parking does.
                Some(Err(crossbeam_channel::RecvTimeoutError::Timeout)) => {}
                Some(Err(_)) | None => thread::park_timeout(rest),
            }
        }
    }
}

/// Adds up what the threads bring and has each room audited.
fn settle_account(shared: &Shared, readings: Vec<Reading>, sent: &[Sent]) -> Account {
    let read = |counter: &AtomicU64| counter.load(Relaxed);
    let mut account = Account {
        published: sent.iter().map(|sent| sent.count).sum(),
        unacknowledged: 0,
        tally: Tally::default(),
        told: 0,
        silent: 0,
        cuts: read(&shared.progress.cuts),
        resumes: read(&shared.progress.resumes),
        closes: BTreeMap::new(),
        unsubscribes: BTreeMap::new(),
        latency: Histogram::new(),
        findings: Vec::new(),
        away: 0,
        last_refusal: None,
    };
    let mut numberings: HashMap<usize, Numbering> = HashMap::new();
    let mut books: Vec<(usize, Book)> = Vec::new();
    for reading in readings {
        account.tally.add(&reading.tally);
        account.latency.add(&reading.latency);
        for (reason, count) in reading.closes {
            *account.closes.entry(reason).or_default() += count;
        }
        for (reason, count) in reading.unsubscribes {
            *account.unsubscribes.entry(reason).or_default() += count;
        }
        account.findings.extend(reading.findings);
        account.away += reading.away.len() as u64;
        if !reading.away.is_empty() {
            account.last_refusal = reading.last_refusal.or(account.last_refusal);
        }
        for (room, numbering) in &reading.numbering {
            let merged = numberings.entry(*room).or_default();
            account.tally.contradicted += merged.merge(numbering);
        }
        // Whoever could not come back misses things, and knows.
        let is_here = |(member, _): &(usize, Book)| !reading.away.contains(member);
        books.extend(reading.books.into_iter().filter(is_here));
    }
    for (publisher, sent) in sent.iter().enumerate() {
        account.tally.contradicted += sent.contradictions.len() as u64;
        let told = sent.contradictions.iter();
        let named = told.map(|what| format!("publisher {publisher}: {what}"));
        account.findings.extend(named);
    }
    for room in 0..shared.options.rooms as usize {
        let members: Vec<(usize, &Book)> = books
            .iter()
            .filter(|(_, book)| book.room() == room)
            .map(|(member, book)| (*member, book))
            .collect();
        let numbering = numberings.entry(room).or_default();
        let Audit {
            unacknowledged,
            told,
            silent,
            foreign,
            reordered,
            findings,
        } = ledger::audit(room, numbering, &members, sent);
        account.unacknowledged += unacknowledged;
        account.told += told;
        account.silent += silent;
        account.tally.contradicted += foreign;
        account.tally.reordered += reordered;
        account.findings.extend(findings);
    }
    account.findings.truncate(2 * ledger::FINDINGS_MAX);
    account
}

fn judge(account: &Account) -> Result<Verdict, Error> {
    if !account.is_kept() {
        return Ok(Verdict::Broken);
    }
    if account.away > 0 {
        let text = format!("{} members could not come back", account.away);
        return Err(Error::Unfinished(text));
    }
    if account.tally.delivered == 0 {
        return Err(Error::Unfinished("nothing was delivered".to_owned()));
    }
    Ok(Verdict::Kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hands_are_dealt_evenly_and_none_is_empty() {
        assert_eq!(deal(5, 2), [vec![0, 2, 4], vec![1, 3]]);
        assert_eq!(deal(1, 8), [vec![0]]);
    }
}
