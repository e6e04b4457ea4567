//! Members that speak the Centrifugo client protocol.
//!
//! Owns: what such a member has asked for and not been answered, and what each reply means to its book.
//! Never: decides whether anything was lost; the ledger does.
//!
//! A member does what an SDK does. Its first message is `connect` and `subscribe` together; it
//! answers each ping once; it resumes with the epoch and the offset it has; it subscribes again when
//! it was unsubscribed by a code from 2500 on, and stays away when it was closed for good.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use tungstenite::Message;

use super::{AWAY_MAX, Link, Reader};
use crate::verify::centrifugo::{self, Answer, Failure, Numbered, PONG, Reply, Subscribed};
use crate::verify::publisher::is_done;
use crate::verify::{Error, Phase};

/// From here on an SDK that was unsubscribed subscribes again.
const RESUBSCRIBED_FROM: u64 = 2500;

/// Longest time until a member asks again that was told to try later.
const AGAIN_MAX: Duration = Duration::from_millis(200);

/// What one connection has said.
#[derive(Debug, Default)]
pub(super) struct Talk {
    /// Of the last command.
    last_id: u32,
    /// The command `connect`, until it is answered.
    connect: Option<u32>,
    /// The command `subscribe`, until it is answered, with where it is to resume.
    subscribe: Option<(u32, Option<(String, u64)>)>,
    /// When to subscribe again.
    again: Option<Instant>,
    /// Something is written and not yet in the socket.
    is_unsent: bool,
}

impl Talk {
    /// What a connection lacks that is in no room.
    pub(super) fn waits_for(&self) -> &'static str {
        match (self.connect, &self.subscribe, self.again) {
            (Some(_), _, _) => "the answer to connect",
            (None, Some(_), _) => "the answer to subscribe",
            (None, None, Some(_)) => "the time to subscribe again",
            (None, None, None) => "joined",
        }
    }

    fn next_id(&mut self) -> u32 {
        self.last_id += 1;
        self.last_id
    }
}

impl Reader {
    /// Says who it is and where it wants to be, in one message.
    pub(super) fn greet(&mut self, place: usize) {
        let token = self.shared.options.token.as_deref();
        let token = token.filter(|token| !token.is_empty()).map(str::to_owned);
        let Some(talk) = self.talk(place) else {
            return;
        };
        let id = talk.next_id();
        talk.connect = Some(id);
        let connect = centrifugo::connect(id, token.as_deref());
        let subscribe = self.subscribe(place);
        self.say(place, format!("{connect}\n{subscribe}"));
    }

    /// Notes that the member asks for its room. Returns the command.
    fn subscribe(&mut self, place: usize) -> String {
        let book = &self.seats[place].book;
        let room = self.shared.room_name(book.room());
        let since = book.position();
        let since = since.map(|(epoch, offset)| (epoch.to_owned(), offset));
        let Some(talk) = self.talk(place) else {
            return String::new();
        };
        let id = talk.next_id();
        let command = centrifugo::subscribe(id, &room, since.as_ref());
        talk.subscribe = Some((id, since));
        command
    }

    /// Sends what waits, and subscribes again if it is time. Returns whether anything was to do.
    pub(super) fn go_on_talking(&mut self, place: usize) -> bool {
        let Link::Open { socket, talk, .. } = &mut self.seats[place].link else {
            return false;
        };
        if talk.is_unsent {
            // A connection that is gone is noticed by reading.
            talk.is_unsent = matches!(is_done(socket.flush()), Ok(false));
        }
        if talk.again.is_none_or(|again| again > Instant::now()) {
            return false;
        }
        talk.again = None;
        let command = self.subscribe(place);
        self.say(place, command);
        true
    }

    fn say(&mut self, place: usize, text: String) {
        if let Link::Open { socket, talk, .. } = &mut self.seats[place].link {
            talk.is_unsent = matches!(is_done(socket.send(Message::text(text))), Ok(false));
        }
    }

    fn talk(&mut self, place: usize) -> Option<&mut Talk> {
        match &mut self.seats[place].link {
            Link::Open { talk, .. } => Some(talk),
            _ => None,
        }
    }

    /// Takes one message of the server apart.
    pub(super) fn handle_replies(&mut self, place: usize, text: &str) {
        let now_ns = self.shared.now_ns();
        for reply in Reply::lines(text) {
            match reply {
                None => self.contradict(place, "a line is no reply"),
                Some(reply) => self.handle_reply(place, reply, now_ns),
            }
        }
    }

    fn handle_reply(&mut self, place: usize, reply: Reply, now_ns: u64) {
        let named = match &reply {
            Reply::Publication { room, .. }
            | Reply::Skipped { room, .. }
            | Reply::Unsubscribed { room, .. } => Some(room),
            _ => None,
        };
        let room = self.shared.room_name(self.seats[place].book.room());
        // A personal room that the token's identity brings is no concern of the ledger.
        if let Some(named) = named.filter(|named| **named != room) {
            if !named.starts_with('#') {
                self.contradict(place, "a push names another room");
            }
            return;
        }
        let is_push = named.is_some();
        let seat = &mut self.seats[place];
        let Link::Open {
            joined_at_ns, talk, ..
        } = &mut seat.link
        else {
            return;
        };
        if is_push && joined_at_ns.is_none() {
            return self.contradict(place, "a push came before the answer to subscribe");
        }
        if talk.connect.is_some() && reply == Reply::Ping {
            return self.contradict(place, "a ping came before the answer to connect");
        }
        match reply {
            Reply::Ping => self.say(place, PONG.to_owned()),
            Reply::Done { id, answer } => match answer {
                Answer::Connected if talk.connect == Some(id) => talk.connect = None,
                Answer::Subscribed(result) if talk.connect.is_none() => {
                    match talk.subscribe.take_if(|asked| asked.0 == id) {
                        Some((_, since)) => self.handle_subscribed(place, since, result, now_ns),
                        None => self.contradict(place, "subscribed without having asked"),
                    }
                }
                _ => self.contradict(place, "an answer came that was not asked for"),
            },
            Reply::Failed { id, failure } if talk.connect == Some(id) => {
                self.handle_refused(place, &failure);
            }
            Reply::Failed { id, failure } => {
                if talk.subscribe.take_if(|asked| asked.0 == id).is_none() {
                    self.contradict(place, "an error came for what was not asked");
                } else if failure.is_passing {
                    self.out.last_refusal = Some(failure.text);
                    let pause = self.prng.between(Duration::ZERO, AGAIN_MAX);
                    talk.again = Some(Instant::now() + pause);
                } else {
                    self.bar(place, failure.text);
                }
            }
            Reply::Publication { one, .. } => {
                let joined_at_ns = *joined_at_ns;
                self.handle_numbered(place, &one, joined_at_ns, now_ns);
            }
            Reply::Skipped { count, .. } => seat.book.tell(count, &mut self.out.tally),
            Reply::Unsubscribed { code, reason, .. } => {
                *joined_at_ns = None;
                let reason = format!("{code} {reason}");
                *self.out.unsubscribes.entry(reason.clone()).or_default() += 1;
                if code < RESUBSCRIBED_FROM {
                    return self.bar(place, reason);
                }
                let command = self.subscribe(place);
                self.say(place, command);
            }
            Reply::Other => {}
        }
    }

    fn handle_numbered(&mut self, place: usize, one: &Numbered, joined: Option<u64>, now_ns: u64) {
        self.handle_publication(place, one.offset, one.data.as_deref(), joined, now_ns);
    }

    fn handle_subscribed(
        &mut self,
        place: usize,
        since: Option<(String, u64)>,
        result: Subscribed,
        now_ns: u64,
    ) {
        let Some(epoch) = &result.epoch else {
            return self.bar(place, "the room has no history to resume from".to_owned());
        };
        let seat = &mut self.seats[place];
        if let Link::Open { joined_at_ns, .. } = &mut seat.link {
            *joined_at_ns = Some(now_ns);
        }
        let tally = &mut self.out.tally;
        let progress = &self.shared.progress;
        match &since {
            None => {
                self.shared.joined.fetch_add(1, Relaxed);
                seat.book.handle_restart(epoch, result.offset, tally);
            }
            Some((_, after)) if result.is_recovered => {
                progress.resumes.fetch_add(1, Relaxed);
                seat.book.handle_joined(epoch, *after, true, 0, tally);
            }
            Some(_) => {
                progress.resumes.fetch_add(1, Relaxed);
                seat.book.handle_restart(epoch, result.offset, tally);
            }
        }
        // A client that stores the offset of the answer resumes from there when it is cut at once.
        let offset = since.as_ref().map_or(result.offset, |since| since.1);
        if since.is_some() != result.was_recovering {
            self.contradict(place, "was_recovering is not what was asked");
        } else if result.is_recovered && result.offset != offset {
            self.contradict(place, "recovered from another offset than was asked");
        } else if !result.is_recovered && !result.publications.is_empty() {
            self.contradict(place, "publications came with what is not recovered");
        }
        for one in &result.publications {
            self.handle_numbered(place, one, Some(now_ns), now_ns);
        }
    }

    /// The server does not let the member in.
    fn handle_refused(&mut self, place: usize, failure: &Failure) {
        let is_joining = self.shared.phase() == Phase::Joining;
        if failure.is_passing && !is_joining {
            self.out.last_refusal = Some(failure.text.clone());
            self.send_away(place, AWAY_MAX);
        } else {
            self.bar(place, failure.text.clone());
        }
    }

    /// The member does not come back. Before the test has begun this ends it.
    pub(super) fn bar(&mut self, place: usize, reason: String) {
        let seat = &mut self.seats[place];
        seat.link = Link::Barred;
        if self.shared.phase() == Phase::Joining {
            let text = format!("member {}: {reason}", seat.member);
            // One reason is enough, so a full channel is no loss.
            let _ = self.failures.try_send(Error::Connect(text));
        }
        self.out.last_refusal = Some(reason);
    }
}
