//! Some of the publishers, served by one thread.
//!
//! Owns: a connection per publisher, the numbers it has sent, and which of them are doubtful.
//! Never: sends while something is still unsent, so a server that pushes back slows its publisher
//! and nothing grows.
//!
//! A publisher is a member of its room too (there is no other way to publish into one), with `echo=0`,
//! and reads what comes only to throw it away, and to stay away for as long as it is asked to. When its
//! connection breaks, whatever that connection sent is doubtful: it may have been on its way. A
//! connection that ends with the answer to its close frame leaves no doubt, because what came before a
//! close frame is published. Publishers that wait for answers know more: see [`replies`].

mod replies;

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use tungstenite::{Error as WsError, Message};

use self::replies::Talk;
use super::dial::{Answer, Order, Socket};
use super::ledger::Sent;
use super::letter::{Envelope, Letter, absence};
use super::{Error, Phase, Protocol, Shared};

/// Rest after a round in which nothing was to do.
const REST: Duration = Duration::from_millis(1);

/// Messages read, and messages sent, in one turn of a publisher.
const TURN: usize = 64;

/// How long a closing may take.
const CLOSING_MAX: Duration = Duration::from_secs(5);

/// Longest time between two attempts to come back.
const RETRY_MAX: Duration = Duration::from_secs(2);

/// One publisher.
struct Desk {
    publisher: usize,
    /// To which it is, or will be, connected.
    node: usize,
    link: Link,
    sent: Sent,
    /// The first letter of the present connection.
    connection_first: u64,
    next_due: Instant,
    attempts: u32,
    /// How long the server has asked it to stay away.
    absence: Option<Duration>,
    /// Something is written and not yet in the socket.
    is_unsent: bool,
    /// What the present connection has said, if it speaks by commands.
    talk: Talk,
    /// Whether it was ever let in.
    is_joined: bool,
    /// Why the server does not want it.
    refusal: Option<String>,
}

enum Link {
    Away(Instant),
    Dialing,
    Open(Box<Socket>),
    /// Our close frame is on its way, or its answer.
    Closing(Box<Socket>),
    /// Ended.
    Done,
}

/// The thread's state.
pub(super) struct Publishers {
    desks: Vec<Desk>,
    shared: Arc<Shared>,
    orders: Sender<Order>,
    answers: (Sender<Answer>, Receiver<Answer>),
    failures: Sender<Error>,
    interval: Duration,
    is_begun: bool,
}

impl Publishers {
    /// A thread's state for these publishers.
    pub(super) fn new(
        publishers: Vec<usize>,
        shared: Arc<Shared>,
        orders: Sender<Order>,
        failures: Sender<Error>,
    ) -> Self {
        let desks: Vec<Desk> = publishers
            .into_iter()
            .map(|publisher| Desk {
                publisher,
                node: shared.first_node(publisher),
                link: Link::Away(shared.started),
                sent: Sent {
                    room: publisher % shared.options.rooms as usize,
                    ..Sent::default()
                },
                connection_first: 1,
                next_due: shared.started,
                attempts: 0,
                absence: None,
                is_unsent: false,
                talk: Talk::default(),
                is_joined: false,
                refusal: None,
            })
            .collect();
        Self {
            answers: bounded(desks.len()),
            interval: Duration::from_secs(1) / shared.options.rate,
            desks,
            shared,
            orders,
            failures,
            is_begun: false,
        }
    }

    /// Publishes until the phase ends, then closes. Returns what each publisher sent.
    pub(super) fn run(mut self) -> Vec<(usize, Sent)> {
        let mut closing_until = None;
        loop {
            let phase = self.shared.phase();
            if phase == Phase::Running && !self.is_begun {
                self.spread_out();
            }
            if matches!(phase, Phase::Stopping | Phase::Draining | Phase::Finished) {
                let until = *closing_until.get_or_insert_with(|| Instant::now() + CLOSING_MAX);
                let is_done = |desk: &Desk| matches!(desk.link, Link::Done);
                if self.desks.iter().all(is_done) || Instant::now() >= until {
                    break;
                }
            }
            self.dial_who_is_due(phase);
            let mut is_idle = true;
            for desk in &mut self.desks {
                is_idle &= !desk.turn(phase, &self.shared, self.interval);
                if let Some(refusal) = desk.refusal.take()
                    && phase == Phase::Joining
                {
                    let text = format!("publisher {}: {refusal}", desk.publisher);
                    // One reason is enough, so a full channel is no loss.
                    let _ = self.failures.try_send(Error::Connect(text));
                }
            }
            let mut rest = if is_idle { REST } else { Duration::ZERO };
            while let Ok(answer) = self.answers.1.recv_timeout(rest) {
                self.handle_answer(answer);
                rest = Duration::ZERO;
            }
        }
        for desk in &mut self.desks {
            if matches!(desk.link, Link::Open(_)) {
                for _ in 0..desk.talk.passed_over() {
                    desk.contradict("a publication was never answered, and later ones were");
                }
            }
            if !matches!(desk.link, Link::Done) {
                desk.doubt(self.shared.options.protocol);
            }
        }
        let sent = |desk: Desk| (desk.publisher, desk.sent);
        self.desks.into_iter().map(sent).collect()
    }

    /// Sets when each begins, so that they do not all send at the same moment.
    fn spread_out(&mut self) {
        self.is_begun = true;
        let now = Instant::now();
        let all = self.shared.options.publishers;
        for desk in &mut self.desks {
            let share = desk.publisher as f64 / f64::from(all);
            desk.next_due = now + self.interval.mul_f64(share);
        }
    }

    fn dial_who_is_due(&mut self, phase: Phase) {
        let now = Instant::now();
        for desk in &mut self.desks {
            if !matches!(desk.link, Link::Away(until) if until <= now) {
                continue;
            }
            if !matches!(phase, Phase::Joining | Phase::Running) {
                desk.link = Link::Done;
                continue;
            }
            let parameters = match self.shared.options.protocol {
                Protocol::Raw => vec![
                    ("room", self.shared.room_name(desk.sent.room)),
                    ("format", "json".to_owned()),
                    ("echo", "0".to_owned()),
                ],
                Protocol::Centrifugo => Vec::new(),
            };
            let order = Order {
                who: desk.publisher,
                node: desk.node,
                parameters,
                answers: self.answers.0.clone(),
            };
            if self.orders.try_send(order).is_ok() {
                desk.link = Link::Dialing;
            }
        }
    }

    fn handle_answer(&mut self, answer: Answer) {
        let is_joining = self.shared.phase() == Phase::Joining;
        let mut desks = self.desks.iter_mut();
        let Some(desk) = desks.find(|desk| desk.publisher == answer.who) else {
            return;
        };
        match answer.outcome {
            Ok(socket) => {
                desk.attempts = 0;
                desk.connection_first = desk.sent.count + 1;
                desk.is_unsent = false;
                desk.link = Link::Open(Box::new(socket));
                if self.shared.options.protocol == Protocol::Centrifugo {
                    desk.greet(&self.shared);
                } else if !std::mem::replace(&mut desk.is_joined, true) {
                    self.shared.joined.fetch_add(1, Relaxed);
                }
            }
            Err(refusal) => {
                if is_joining {
                    let text = format!("publisher {}: {refusal}", desk.publisher);
                    // One reason is enough, so a full channel is no loss.
                    let _ = self.failures.try_send(Error::Connect(text));
                }
                desk.attempts += 1;
                if !is_joining {
                    desk.node = self.shared.next_node(desk.node);
                }
                let pause = Duration::from_millis(50) * 2_u32.pow(desk.attempts.min(6));
                desk.link = Link::Away(Instant::now() + pause.min(RETRY_MAX));
            }
        }
    }
}

impl Desk {
    /// Reads, flushes, sends what is due. Returns whether anything was to do.
    fn turn(&mut self, phase: Phase, shared: &Shared, interval: Duration) -> bool {
        let is_by_commands = shared.options.protocol == Protocol::Centrifugo;
        let outcome = match &mut self.link {
            Link::Open(_) | Link::Closing(_) if is_by_commands => self.read_replies(shared),
            Link::Open(socket) | Link::Closing(socket) => read_away(socket, &mut self.absence),
            Link::Away(_) | Link::Dialing | Link::Done => return false,
        };
        let was_busy = match outcome {
            Ok(count) => count > 0,
            Err(error) => {
                self.end(&error, shared);
                return true;
            }
        };
        let outcome = match phase {
            Phase::Running => self.send_what_is_due(shared, interval),
            // Whoever waits for answers closes behind the last of them.
            Phase::Stopping | Phase::Draining if self.talk.is_over() => self.close(),
            Phase::Joining | Phase::Stopping | Phase::Draining => self.flush().map(|()| false),
            Phase::Finished => Ok(false),
        };
        match outcome {
            Ok(did_send) => was_busy | did_send,
            Err(error) => {
                self.end(&error, shared);
                true
            }
        }
    }

    /// Returns whether anything was sent.
    fn send_what_is_due(&mut self, shared: &Shared, interval: Duration) -> Result<bool, WsError> {
        self.flush()?;
        let Link::Open(socket) = &mut self.link else {
            return Ok(false);
        };
        let is_by_commands = shared.options.protocol == Protocol::Centrifugo;
        let room = shared.room_name(self.sent.room);
        let mut count = 0;
        while !self.is_unsent && count < TURN && self.next_due <= Instant::now() {
            if is_by_commands && !self.talk.has_place() {
                break;
            }
            let letter = Letter {
                publisher: u32::try_from(self.publisher).unwrap_or(u32::MAX),
                number: self.sent.count + 1,
            };
            let text = letter.to_text(shared.run, shared.now_ns(), shared.options.size as usize);
            // Counted first: of a letter that was begun nobody can say that it was not sent.
            self.sent.count += 1;
            shared.sent[self.publisher].store(self.sent.count, Relaxed);
            shared.progress.published.fetch_add(1, Relaxed);
            let text = if is_by_commands {
                self.talk.publish(&room, letter.number, &text)
            } else {
                text
            };
            self.is_unsent = !is_done(socket.send(Message::text(text)))?;
            self.next_due += interval;
            count += 1;
        }
        // Whoever was held up for long does not make up for it in one burst.
        let oldest = Instant::now().checked_sub(Duration::from_secs(1));
        if let Some(oldest) = oldest {
            self.next_due = self.next_due.max(oldest);
        }
        Ok(count > 0)
    }

    fn flush(&mut self) -> Result<(), WsError> {
        if let (Link::Open(socket), true) = (&mut self.link, self.is_unsent) {
            self.is_unsent = !is_done(socket.flush())?;
        }
        Ok(())
    }

    /// Sends the close frame behind everything else. Returns whether it went out now.
    fn close(&mut self) -> Result<bool, WsError> {
        match std::mem::replace(&mut self.link, Link::Done) {
            Link::Open(mut socket) => {
                let outcome = is_done(socket.close(None));
                self.link = Link::Closing(socket);
                outcome
            }
            Link::Closing(mut socket) => {
                let outcome = is_done(socket.flush());
                self.link = Link::Closing(socket);
                outcome.map(|_| false)
            }
            link => {
                self.link = link;
                Ok(false)
            }
        }
    }

    /// The connection is over. Only the end of our own closing leaves no doubt.
    fn end(&mut self, error: &WsError, shared: &Shared) {
        let is_ours = matches!(self.link, Link::Closing(_));
        if is_ours && matches!(error, WsError::ConnectionClosed) {
            self.link = Link::Done;
            return;
        }
        self.doubt(shared.options.protocol);
        self.node = shared.next_node(self.node);
        self.link = if is_ours {
            Link::Done
        } else {
            let pause = Duration::from_millis(50);
            Link::Away(Instant::now() + self.absence.take().unwrap_or(pause))
        };
    }

    fn doubt(&mut self, protocol: Protocol) {
        let doubtful = &mut self.sent.doubtful;
        match protocol {
            Protocol::Raw => doubtful.insert_all(self.connection_first, self.sent.count),
            Protocol::Centrifugo => {
                for number in self.talk.take_unanswered() {
                    doubtful.insert(number);
                }
            }
        }
        self.connection_first = self.sent.count + 1;
    }
}

/// Reads and forgets, apart from how long to stay away. Returns how many messages came.
fn read_away(socket: &mut Socket, told: &mut Option<Duration>) -> Result<usize, WsError> {
    for count in 0..TURN {
        let read = socket.read().map(|message| {
            if let Message::Text(text) = message
                && text.starts_with("{\"closing\"")
                && let Some(Envelope::Closing { retry_ms }) = Envelope::parse(&text)
            {
                *told = absence(retry_ms);
            }
        });
        if !is_done(read)? {
            return Ok(count);
        }
    }
    Ok(TURN)
}

/// Whether a call was carried out (true) or has to wait for the socket (false).
pub(super) fn is_done(outcome: Result<(), WsError>) -> Result<bool, WsError> {
    match outcome {
        Ok(()) => Ok(true),
        Err(WsError::Io(error))
            if matches!(
                error.kind(),
                std::io::ErrorKind::WouldBlock | std::io::ErrorKind::Interrupted
            ) =>
        {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}
