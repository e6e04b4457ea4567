//! Publishers that speak the Centrifugo client protocol.
//!
//! Owns: the commands of one connection that are not answered, each with the letter it publishes.
//! Never: takes a letter for published before its command is answered, nor for doubtful after.
//!
//! Such a publisher is no member of its room. It keeps a bounded number of commands unanswered; what is
//! unanswered when its connection breaks, or answered by an error, is doubtful.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;

use tungstenite::{Error as WsError, Message};

use super::{Desk, Link, TURN, is_done};
use crate::verify::Shared;
use crate::verify::centrifugo::{self, Answer, PONG, Reply, is_terminal};

/// Most commands unanswered.
const WINDOW: usize = 64;

/// What one connection has said.
#[derive(Debug, Default)]
pub(super) struct Talk {
    /// Of the last command.
    last_id: u32,
    /// Of the last command that was answered.
    last_answered: u32,
    is_connected: bool,
    /// Commands without an answer, and the numbers of their letters.
    unanswered: BTreeMap<u32, u64>,
}

impl Talk {
    /// Whether another command may be sent.
    pub(super) fn has_place(&self) -> bool {
        self.is_connected && self.unanswered.len() < WINDOW
    }

    /// Whether everything was answered.
    pub(super) fn is_over(&self) -> bool {
        self.unanswered.is_empty()
    }

    /// The command that publishes a letter.
    pub(super) fn publish(&mut self, room: &str, number: u64, text: &str) -> String {
        self.last_id += 1;
        self.unanswered.insert(self.last_id, number);
        centrifugo::publish(self.last_id, room, text)
    }

    /// Numbers of letters of which nobody knows what became, leaving none behind.
    pub(super) fn take_unanswered(&mut self) -> impl Iterator<Item = u64> {
        std::mem::take(&mut self.unanswered).into_values()
    }

    /// Commands that were passed over: later ones of the connection were answered.
    pub(super) fn passed_over(&self) -> usize {
        self.unanswered.range(..self.last_answered).count()
    }
}

impl Desk {
    /// Says who it is.
    pub(super) fn greet(&mut self, shared: &Shared) {
        self.talk = Talk {
            last_id: 1,
            ..Talk::default()
        };
        let token = shared.options.token.as_deref();
        let token = token.filter(|token| !token.is_empty());
        // A connection that is gone is noticed by reading.
        let _ = self.say(centrifugo::connect(1, token));
    }

    fn say(&mut self, text: String) -> Result<(), WsError> {
        if let Link::Open(socket) | Link::Closing(socket) = &mut self.link {
            self.is_unsent = !is_done(socket.send(Message::text(text)))?;
        }
        Ok(())
    }

    /// Reads answers and pings. Returns how many messages came.
    pub(super) fn read_replies(&mut self, shared: &Shared) -> Result<usize, WsError> {
        for count in 0..TURN {
            let (Link::Open(socket) | Link::Closing(socket)) = &mut self.link else {
                return Ok(count);
            };
            let message = match socket.read() {
                Ok(message) => message,
                Err(error) => {
                    return is_done(Err(error)).map(|_| count);
                }
            };
            match message {
                Message::Text(text) => {
                    for reply in Reply::lines(&text) {
                        self.handle_reply(reply, shared)?;
                    }
                }
                Message::Close(Some(frame)) if is_terminal(frame.code.into()) => {
                    let code = u16::from(frame.code);
                    self.refusal = Some(format!("{code} {}", frame.reason));
                }
                _ => {}
            }
        }
        Ok(TURN)
    }

    fn handle_reply(&mut self, reply: Option<Reply>, shared: &Shared) -> Result<(), WsError> {
        match reply {
            Some(Reply::Ping) if self.talk.is_connected => self.say(PONG.to_owned())?,
            Some(Reply::Done { id, answer }) => match answer {
                Answer::Connected if id == 1 && !self.talk.is_connected => {
                    self.talk.is_connected = true;
                    if !std::mem::replace(&mut self.is_joined, true) {
                        shared.joined.fetch_add(1, Relaxed);
                    }
                }
                Answer::Published => drop(self.close_command(id)),
                _ => self.contradict("an answer came that was not asked for"),
            },
            Some(Reply::Failed { id: 1, failure }) if !self.talk.is_connected => {
                self.refusal = Some(failure.text);
                return Err(WsError::ConnectionClosed);
            }
            Some(Reply::Failed { id, .. }) => {
                if let Some(number) = self.close_command(id) {
                    self.sent.doubtful.insert(number);
                }
            }
            // Of a personal room, which a token brings along.
            Some(Reply::Publication { room, .. } | Reply::Unsubscribed { room, .. })
                if room.starts_with('#') => {}
            Some(Reply::Other) => {}
            Some(_) => self.contradict("a push came that nobody asked for"),
            None => self.contradict("a line is no reply"),
        }
        Ok(())
    }

    /// A command is answered. Returns the number of its letter.
    fn close_command(&mut self, id: u32) -> Option<u64> {
        self.talk.last_answered = self.talk.last_answered.max(id);
        let number = self.talk.unanswered.remove(&id);
        if number.is_none() {
            self.contradict("a publication was answered that was none, or again");
        }
        number
    }

    pub(super) fn contradict(&mut self, what: &str) {
        self.sent.contradictions.push(what.to_owned());
    }
}
