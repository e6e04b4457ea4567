//! Some of the members, served by one thread.
//!
//! Owns: a *seat* per member (its connection, its book), the cuts of these members, their latencies.
//! Never: blocks on a socket. The thread goes round its connections, and rests a millisecond on the
//! channel of the dialers when there was nothing to read; so a latency includes up to that much of
//! the reader's own.

mod replies;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use tungstenite::Message;

use self::replies::Talk;
use super::centrifugo::is_terminal;
use super::dial::{Answer, Order, Refusal, Socket};
use super::ledger::{Book, Entry, FINDINGS_MAX, Numbering, Tally};
use super::letter::{Envelope, Letter, absence};
use super::report::Histogram;
use super::{Error, Phase, Protocol, Shared};
use crate::base::Prng;

/// Rest after a round in which nothing came.
const REST: Duration = Duration::from_millis(1);

/// Messages read from one connection before the next one has its turn.
const TURN: usize = 64;

/// Longest time a cut member stays away.
const AWAY_MAX: Duration = Duration::from_millis(500);

/// Longest time between two attempts to come back.
const RETRY_MAX: Duration = Duration::from_secs(2);

/// Attempts to join before the test has begun.
const ATTEMPTS_MAX: u32 = 5;

/// One member.
struct Seat {
    /// Index over all members.
    member: usize,
    book: Book,
    /// To which it is, or will be, connected.
    node: usize,
    link: Link,
    /// Failed attempts to connect since the last success.
    attempts: u32,
    /// How long the server has asked it to stay away.
    absence: Option<Duration>,
    is_settled: bool,
}

/// How a member is connected.
enum Link {
    /// Ordered from the dialers.
    Dialing,
    /// Connected; `joined_at_ns` while it is known to be in its room.
    Open {
        socket: Box<Socket>,
        joined_at_ns: Option<u64>,
        /// What it has said, if it speaks by commands.
        talk: Talk,
    },
    /// Cut or closed, until then.
    Away(Instant),
    /// Closed or refused for good.
    Barred,
}

/// Why reading a connection stopped.
enum Stop {
    /// Nothing there now.
    Empty,
    /// Its turn is over.
    Turn,
    /// The connection is gone, for this reason, and with this code if there was a close frame.
    Gone(String, Option<u16>),
}

/// What a reader hands back.
pub(super) struct Reading {
    /// Members with their books.
    pub(super) books: Vec<(usize, Book)>,
    /// By room.
    pub(super) numbering: HashMap<usize, Numbering>,
    pub(super) tally: Tally,
    pub(super) latency: Histogram,
    /// Connections that the server ended, by reason.
    pub(super) closes: BTreeMap<String, u64>,
    /// Memberships that the server ended on connections that go on, by reason.
    pub(super) unsubscribes: BTreeMap<String, u64>,
    pub(super) findings: Vec<String>,
    /// Members that were not connected at the end.
    pub(super) away: Vec<usize>,
    pub(super) last_refusal: Option<String>,
}

/// The thread's state.
pub(super) struct Reader {
    seats: Vec<Seat>,
    /// Where each member sits.
    index: HashMap<usize, usize>,
    shared: Arc<Shared>,
    orders: Sender<Order>,
    answers: (Sender<Answer>, Receiver<Answer>),
    failures: Sender<Error>,
    prng: Prng,
    /// Cuts per second of these members.
    cuts: f64,
    next_cut: Option<Instant>,
    /// What the shared counters have been told already.
    shown: Tally,
    out: Reading,
}

impl Reader {
    /// A reader for these members. `failures` takes what ends the test before it has begun.
    pub(super) fn new(
        members: Vec<usize>,
        shared: Arc<Shared>,
        orders: Sender<Order>,
        failures: Sender<Error>,
        seed: u64,
    ) -> Self {
        let share = members.len() as f64 / f64::from(shared.options.members);
        let index = members.iter().copied().zip(0..).collect();
        let seats: Vec<Seat> = members
            .into_iter()
            .map(|member| Seat {
                member,
                book: Book::new(member % shared.options.rooms as usize),
                node: shared.first_node(member),
                link: Link::Away(shared.started),
                attempts: 0,
                absence: None,
                is_settled: false,
            })
            .collect();
        Self {
            answers: bounded(seats.len()),
            index,
            cuts: shared.options.cuts * share,
            seats,
            shared,
            orders,
            failures,
            prng: Prng::new(seed),
            next_cut: None,
            shown: Tally::default(),
            out: Reading {
                books: Vec::new(),
                numbering: HashMap::new(),
                tally: Tally::default(),
                latency: Histogram::new(),
                closes: BTreeMap::new(),
                unsubscribes: BTreeMap::new(),
                findings: Vec::new(),
                away: Vec::new(),
                last_refusal: None,
            },
        }
    }

    /// Serves the members until the test is over.
    pub(super) fn run(mut self) -> Reading {
        loop {
            let phase = self.shared.phase();
            if phase == Phase::Finished {
                break;
            }
            self.dial_who_is_due();
            let mut is_idle = true;
            for place in 0..self.seats.len() {
                is_idle &= !self.read(place);
            }
            match phase {
                Phase::Running => self.cut_if_due(),
                Phase::Draining => self.settle(),
                Phase::Joining | Phase::Stopping | Phase::Finished => {}
            }
            self.show();
            let mut rest = if is_idle { REST } else { Duration::ZERO };
            while let Ok(answer) = self.answers.1.recv_timeout(rest) {
                self.handle_answer(answer);
                rest = Duration::ZERO;
            }
        }
        for seat in self.seats {
            let waits_for = match &seat.link {
                Link::Open {
                    joined_at_ns: Some(_),
                    ..
                } => None,
                Link::Open { talk, .. } => Some(talk.waits_for()),
                Link::Dialing => Some("the handshake"),
                Link::Away(_) | Link::Barred => Some("another attempt"),
            };
            if let Some(what) = waits_for {
                self.out.away.push(seat.member);
                let finding = format!("member {} is away, waiting for {what}", seat.member);
                self.out.findings.push(finding);
            }
            self.out.books.push((seat.member, seat.book));
        }
        self.out
    }

    fn dial_who_is_due(&mut self) {
        let now = Instant::now();
        for seat in &mut self.seats {
            if !matches!(seat.link, Link::Away(until) if until <= now) {
                continue;
            }
            let mut parameters = Vec::new();
            if self.shared.options.protocol == Protocol::Raw {
                parameters = vec![
                    ("room", self.shared.room_name(seat.book.room())),
                    ("format", "json".to_owned()),
                ];
                if let Some((epoch, offset)) = seat.book.position() {
                    // The one room that was asked for, whatever personal room a token brings along.
                    parameters.push(("since", format!("{epoch}.{offset}")));
                }
            }
            let order = Order {
                who: seat.member,
                node: seat.node,
                parameters,
                answers: self.answers.0.clone(),
            };
            if self.orders.try_send(order).is_ok() {
                seat.link = Link::Dialing;
            }
        }
    }

    fn handle_answer(&mut self, answer: Answer) {
        let Some(&place) = self.index.get(&answer.who) else {
            return;
        };
        let seat = &mut self.seats[place];
        match answer.outcome {
            Ok(socket) => {
                seat.attempts = 0;
                seat.link = Link::Open {
                    socket: Box::new(socket),
                    joined_at_ns: None,
                    talk: Talk::default(),
                };
                if self.shared.options.protocol == Protocol::Centrifugo {
                    self.greet(place);
                }
            }
            Err(refusal) => {
                seat.attempts += 1;
                let pause = Duration::from_millis(50) * 2_u32.pow(seat.attempts.min(6));
                let jitter = self.prng.between(Duration::ZERO, pause.min(RETRY_MAX));
                seat.link = Link::Away(Instant::now() + jitter);
                // A node that is not there when the test begins is an error of its own.
                if seat.book.position().is_some() {
                    seat.node = self.shared.next_node(seat.node);
                }
                let (attempts, member) = (seat.attempts, seat.member);
                self.handle_refusal(refusal, member, attempts);
            }
        }
    }

    /// Before everybody has joined, a refusal ends the test; afterwards it is one more failed attempt.
    fn handle_refusal(&mut self, refusal: Refusal, member: usize, attempts: u32) {
        let is_final = !refusal.is_passing() || attempts >= ATTEMPTS_MAX;
        if self.shared.phase() == Phase::Joining && is_final {
            // One reason is enough, so a full channel is no loss.
            let _ = self
                .failures
                .try_send(Error::Connect(format!("member {member}: {refusal}")));
        }
        self.out.last_refusal = Some(refusal.to_string());
    }

    /// Reads one member's turn. Returns whether anything came.
    fn read(&mut self, place: usize) -> bool {
        let is_by_commands = self.shared.options.protocol == Protocol::Centrifugo;
        let mut count = usize::from(is_by_commands && self.go_on_talking(place));
        let stop = loop {
            let Link::Open { socket, .. } = &mut self.seats[place].link else {
                return false;
            };
            if count == TURN {
                break Stop::Turn;
            }
            match socket.read() {
                Ok(Message::Text(text)) => {
                    count += 1;
                    if is_by_commands {
                        self.handle_replies(place, &text);
                    } else {
                        self.handle_text(place, &text);
                    }
                }
                Ok(Message::Close(Some(frame))) => {
                    let code = u16::from(frame.code);
                    break Stop::Gone(format!("{code} {}", frame.reason), Some(code));
                }
                Ok(Message::Close(None)) => break Stop::Gone("no code".to_owned(), None),
                Ok(Message::Binary(_)) => {
                    count += 1;
                    self.contradict(place, "a binary message came to a member that reads JSON");
                }
                Ok(_) => count += 1,
                Err(tungstenite::Error::Io(error))
                    if matches!(
                        error.kind(),
                        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::Interrupted
                    ) =>
                {
                    break Stop::Empty;
                }
                Err(error) => break Stop::Gone(error.to_string(), None),
            }
        };
        if let Stop::Gone(reason, code) = stop {
            *self.out.closes.entry(reason.clone()).or_default() += 1;
            if is_by_commands && code.is_some_and(is_terminal) {
                self.bar(place, reason);
                return true;
            }
            match self.seats[place].absence.take() {
                Some(absence) => self.leave(place, Instant::now() + absence),
                None => self.send_away(place, AWAY_MAX),
            }
        }
        count > 0
    }

    fn handle_text(&mut self, place: usize, text: &str) {
        let now_ns = self.shared.now_ns();
        let Some(envelope) = Envelope::parse(text) else {
            self.contradict(place, "a frame is no envelope");
            return;
        };
        let seat = &mut self.seats[place];
        let Link::Open { joined_at_ns, .. } = &mut seat.link else {
            return;
        };
        let named = match &envelope {
            Envelope::Joined { room, .. }
            | Envelope::Publication { room, .. }
            | Envelope::Skipped { room, .. } => room,
            Envelope::Closing { retry_ms } => {
                seat.absence = absence(*retry_ms);
                return;
            }
            Envelope::Other => return,
        };
        // A personal room that the token's identity brings is no concern of the ledger.
        if *named != self.shared.room_name(seat.book.room()) {
            if !named.starts_with('#') {
                self.contradict(place, "an envelope names another room");
            }
            return;
        }
        let tally = &mut self.out.tally;
        match envelope {
            Envelope::Joined {
                epoch,
                offset,
                recovered,
                lost,
                ..
            } => {
                let known = seat.book.position();
                let is_new_epoch = known.is_some_and(|(known, _)| *known != *epoch);
                let is_second = joined_at_ns.replace(now_ns).is_some();
                if known.is_none() {
                    self.shared.joined.fetch_add(1, Relaxed);
                } else if !is_second {
                    self.shared.progress.resumes.fetch_add(1, Relaxed);
                }
                seat.book
                    .handle_joined(&epoch, offset, recovered, lost, tally);
                // On a connection that goes on, it tells of an epoch that begins.
                if is_second && !is_new_epoch {
                    self.contradict(place, "joined came twice");
                }
            }
            _ if joined_at_ns.is_none() => {
                self.contradict(place, "something came before joined");
            }
            Envelope::Skipped { count, .. } => seat.book.tell(count, tally),
            Envelope::Publication { offset, data, .. } => {
                let joined_at_ns = *joined_at_ns;
                self.handle_publication(place, offset, data.as_deref(), joined_at_ns, now_ns);
            }
            Envelope::Closing { .. } | Envelope::Other => {}
        }
    }

    fn handle_publication(
        &mut self,
        place: usize,
        offset: u64,
        data: Option<&str>,
        joined_at_ns: Option<u64>,
        now_ns: u64,
    ) {
        let options = &self.shared.options;
        let letter =
            data.and_then(|text| Letter::from_text(text, self.shared.run, options.size as usize));
        let seat = &mut self.seats[place];
        let numbering = self.out.numbering.entry(seat.book.room()).or_default();
        let known = letter.map(|(letter, _)| letter);
        let entry = seat
            .book
            .handle_publication(offset, known, numbering, &mut self.out.tally);
        if let Some((_, sent_at_ns)) = letter
            && entry == Entry::Delivered
            && joined_at_ns.is_some_and(|joined_at_ns| joined_at_ns <= sent_at_ns)
        {
            self.out.latency.note(now_ns.saturating_sub(sent_at_ns));
        }
        let what = match (entry, letter.is_some()) {
            (Entry::Delivered, _) => return,
            (Entry::Repeated, _) => "was repeated",
            (Entry::Reordered, _) => "came too late",
            (Entry::Contradicted, true) => "contradicts what came before",
            (Entry::Contradicted, false) => "is none that was sent",
        };
        self.find(place, &format!("publication {offset} {what}"));
    }

    fn contradict(&mut self, place: usize, what: &str) {
        self.out.tally.contradicted += 1;
        self.find(place, what);
    }

    fn find(&mut self, place: usize, what: &str) {
        if self.out.findings.len() < FINDINGS_MAX {
            let member = self.seats[place].member;
            self.out.findings.push(format!("member {member}: {what}"));
        }
    }

    /// Drops the connection without a word.
    fn send_away(&mut self, place: usize, longest: Duration) {
        let pause = self.prng.between(Duration::ZERO, longest);
        self.leave(place, Instant::now() + pause);
    }

    /// The connection is over; the next one is to the next node.
    fn leave(&mut self, place: usize, until: Instant) {
        let seat = &mut self.seats[place];
        seat.link = Link::Away(until);
        seat.node = self.shared.next_node(seat.node);
    }

    /// Cuts come at random: the time between two is exponentially distributed.
    fn cut_if_due(&mut self) {
        if self.cuts <= 0.0 {
            return;
        }
        let now = Instant::now();
        while self.next_cut.is_none_or(|due| due <= now) {
            let is_first = self.next_cut.is_none();
            let unit: f64 = (self.prng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
            let pause = Duration::from_secs_f64((-(1.0 - unit).ln() / self.cuts).min(1e6));
            self.next_cut = Some(self.next_cut.unwrap_or(now) + pause);
            if !is_first {
                self.cut_one();
            }
        }
    }

    /// Cuts one member that is connected, whether it has caught up or not. If none is, nothing happens.
    fn cut_one(&mut self) {
        let open: Vec<usize> = (0..self.seats.len())
            .filter(|&place| matches!(self.seats[place].link, Link::Open { .. }))
            .collect();
        if open.is_empty() {
            return;
        }
        let place = open[self.prng.below(open.len() as u64) as usize];
        self.send_away(place, AWAY_MAX);
        self.shared.progress.cuts.fetch_add(1, Relaxed);
    }

    /// Counts those who have everything, each once.
    fn settle(&mut self) {
        let rooms = self.shared.options.rooms;
        for seat in self.seats.iter_mut().filter(|seat| !seat.is_settled) {
            let sent = (0_u32..)
                .zip(&self.shared.sent)
                .filter(|(publisher, _)| (publisher % rooms) as usize == seat.book.room())
                .map(|(publisher, count)| (publisher, count.load(Relaxed)));
            let is_joined = matches!(
                seat.link,
                Link::Open {
                    joined_at_ns: Some(_),
                    ..
                }
            );
            if is_joined && seat.book.is_settled(sent) {
                seat.is_settled = true;
                self.shared.settled.fetch_add(1, Relaxed);
            }
        }
    }

    /// Brings the shared counters up to date.
    fn show(&mut self) {
        let (now, shown) = (self.out.tally, self.shown);
        if now == shown {
            return;
        }
        let progress = &self.shared.progress;
        progress
            .delivered
            .fetch_add(now.delivered - shown.delivered, Relaxed);
        progress
            .repeated
            .fetch_add(now.repeated - shown.repeated, Relaxed);
        progress
            .reordered
            .fetch_add(now.reordered - shown.reordered, Relaxed);
        progress.told.fetch_add(now.told - shown.told, Relaxed);
        self.shown = now;
    }
}
