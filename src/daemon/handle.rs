//! What a program can ask of the server that runs in it.
//!
//! Owns: nothing but the loop's [`Control`]. Nothing here touches a socket. A call goes to the loop
//! through a bounded queue and waits for nothing; a [`Receipt`] waits for the answer if the caller
//! wants it. Only [`Handle::counters`] waits itself.
//!
//! Whatever is asked of a server that has ended says so.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, TryRecvError};
use rustls::ServerConfig;

use crate::base::{ConnId, Limits, NameError, Position, RoomName, Secret, UserId};
use crate::hub::{Event, HubCounters, ProgramCall, ProgramReply};
use crate::net::{Answer, Control, NotTaken};
use crate::wire::api::answer::ApiResult;
use crate::wire::api::{ApiCall, ApiCode, Publish, Target};
use crate::wire::frame::{CLOSE_REASON_BYTES_MAX, Payload};

/// A running server, for any thread. Cloning is cheap; the clones are equals.
#[derive(Clone, Debug)]
pub struct Handle {
    control: Control,
    payload_bytes_max: usize,
    body_bytes_max: usize,
}

/// What a server has counted since it started, and its sizes now.
pub type Counters = HubCounters;

/// Why a call came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallError {
    /// The name of a room or a user breaks its rule.
    BadName(NameError),
    /// The payload is larger than `--max-message-size`.
    TooLarge,
    /// The close code is not one of 3000 to 4999, or the reason has no byte or more than 123.
    BadClose,
    /// Too many calls wait already: try again later.
    Busy,
    /// There are `--max-rooms` rooms already.
    TooManyRooms,
    /// The connection is not open, or not any more.
    NotConnected,
    /// The server refuses the call for another reason.
    Refused(ApiCode),
    /// The server has ended.
    Stopped,
}

/// The answer to a call, on its way. Dropping it changes nothing about the call.
#[derive(Debug)]
pub struct Receipt<T> {
    answer: Answer<ProgramReply>,
    read: fn(ProgramReply) -> Result<T, CallError>,
    _result: PhantomData<T>,
}

/// What happens to the connections of a server, in order.
///
/// ```
/// use std::num::NonZeroUsize;
///
/// use roomcast::{Config, Event, Server};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// let config = Config::from_args(["--listen=127.0.0.1:0", "--admin-listen=off"])?;
/// let capacity = NonZeroUsize::new(1000).expect("not zero");
/// let (server, events) = Server::start_with_events(config, capacity)?;
///
/// let url = format!("ws://{}/ws?room=news&user=al", server.addresses()[0]);
/// let stream = std::net::TcpStream::connect(server.addresses()[0])?;
/// let (client, _) = tungstenite::client(url, stream)?;
/// let Some(Event::Opened { conn, user, .. }) = events.recv() else {
///     panic!("opening comes first");
/// };
/// assert_eq!(user.expect("a user").as_str(), "al");
///
/// let handle = server.handle();
/// handle.send_to(conn, "for you alone")?.wait()?;
/// handle.close(conn, 4001, "bye")?.wait()?;
/// drop(client);
/// assert!(matches!(events.recv(), Some(Event::Closed { .. })));
/// handle.close(conn, 4001, "bye")?.wait()?; // Once more is no error.
/// handle.shutdown();
/// server.wait()?;
/// assert!(events.recv().is_none());
/// assert!(handle.publish("news", "too late").is_err());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Events {
    events: Receiver<Event>,
    /// Events for which there was no room when the server ended, and nobody was told.
    missed_last: Arc<AtomicU64>,
}

impl Handle {
    pub(super) fn new(control: Control, limits: &Limits) -> Self {
        Self {
            control,
            payload_bytes_max: limits.message_bytes_max,
            body_bytes_max: limits.api_body_bytes_max,
        }
    }

    /// Publishes to a room. The receipt gives the position once the publication is numbered, kept
    /// and queued to every member.
    ///
    /// # Errors
    /// `BadName`, `TooLarge`, `Busy`, `Stopped`; the receipt: `TooManyRooms`, `Stopped`.
    pub fn publish(
        &self,
        room: &str,
        payload: impl Into<Payload>,
    ) -> Result<Receipt<Position>, CallError> {
        let channel = RoomName::new(room).map_err(CallError::BadName)?;
        self.publish_to(channel, payload.into())
    }

    /// Publishes to a user's personal room: every connection of the user gets it, and those to
    /// come can resume to it.
    ///
    /// # Errors
    /// As [`Handle::publish`].
    pub fn send_to_user(
        &self,
        user: &str,
        payload: impl Into<Payload>,
    ) -> Result<Receipt<Position>, CallError> {
        let user = UserId::new(user).map_err(CallError::BadName)?;
        self.publish_to(RoomName::personal(&user), payload.into())
    }

    /// Sends to one connection, beside its rooms: the message has no number and is kept nowhere.
    ///
    /// # Errors
    /// `TooLarge`, `Busy`, `Stopped`; the receipt: `NotConnected`, `Stopped`.
    pub fn send_to(
        &self,
        conn: ConnId,
        payload: impl Into<Payload>,
    ) -> Result<Receipt<()>, CallError> {
        let payload = self.checked(payload.into())?;
        self.ask(ProgramCall::Send { conn, payload }, done)
    }

    /// Closes a connection with a code and a reason. Closing one that is not there is no error.
    ///
    /// # Errors
    /// `BadClose`, `Busy`, `Stopped`; the receipt: `Stopped`.
    pub fn close(&self, conn: ConnId, code: u16, reason: &str) -> Result<Receipt<()>, CallError> {
        let reason = checked_reason(code, reason)?;
        self.ask(ProgramCall::Close { conn, code, reason }, done)
    }

    /// Closes every connection of a user with a code and a reason; there may be none.
    ///
    /// # Errors
    /// `BadName`, `BadClose`, `Busy`, `Stopped`; the receipt: `Stopped`.
    pub fn close_user(
        &self,
        user: &str,
        code: u16,
        reason: &str,
    ) -> Result<Receipt<()>, CallError> {
        let user = UserId::new(user).map_err(CallError::BadName)?;
        let call = ApiCall::Disconnect {
            target: Target::User(user),
            whitelist: Vec::new(),
            code,
            reason: checked_reason(code, reason)?,
        };
        self.ask(ProgramCall::Api(call), done)
    }

    /// Calls a method of the HTTP API, as the body of a request would; the receipt gives the body
    /// of the answer. Errors of the API itself stand there.
    ///
    /// # Errors
    /// `TooLarge`, `Busy`, `Stopped`; the receipt: `Refused` if the body is not JSON, `Stopped`.
    pub fn call(
        &self,
        method: &str,
        body: impl Into<Vec<u8>>,
    ) -> Result<Receipt<Vec<u8>>, CallError> {
        let body = body.into();
        if body.len() > self.body_bytes_max {
            return Err(CallError::TooLarge);
        }
        let method = method.into();
        self.ask(ProgramCall::Json { method, body }, |reply| match reply {
            ProgramReply::Json(Some(answer)) => Ok(answer),
            _ => Err(CallError::Refused(ApiCode::BadRequest)),
        })
    }

    /// What the server has counted. Waits for the loop to come to it, which is less than a turn.
    ///
    /// # Errors
    /// `Stopped`.
    pub fn counters(&self) -> Result<Counters, CallError> {
        let (hub, _) = self.control.counters().ok_or(CallError::Stopped)?;
        Ok(hub)
    }

    /// Tells the server to end in good order: every connection is closed 3001, spread over
    /// `--drain-timeout` of its configuration, and told when to come back. Does not wait; see
    /// [`Server::wait`](super::Server::wait). Telling it again changes nothing.
    pub fn shutdown(&self) {
        self.control.stop();
    }

    /// Tells the server to end at once.
    pub(super) fn abort(&self) {
        self.control.abort();
    }

    /// Tells the server that it cannot go on.
    pub(super) fn fail(&self) {
        self.control.fail();
    }

    /// Lets in with these secrets from now on; `None` leaves the old one.
    pub(super) fn set_secrets(&self, token_secret: Option<Secret>, api_key: Option<Secret>) {
        self.control.set_secrets(token_secret, api_key);
    }

    /// Speaks TLS with this to new connections.
    pub(super) fn set_tls(&self, config: Arc<ServerConfig>) {
        self.control.set_tls(config);
    }

    fn publish_to(
        &self,
        channel: RoomName,
        payload: Payload,
    ) -> Result<Receipt<Position>, CallError> {
        let publish = Publish {
            payload: self.checked(payload)?,
            idempotency_key: None,
            skip_history: false,
        };
        let call = ApiCall::Publish { channel, publish };
        self.ask(ProgramCall::Api(call), |reply| match reply {
            ProgramReply::Typed(Ok(ApiResult::Published(position))) => Ok(position),
            ProgramReply::Typed(Err(ApiCode::LimitExceeded)) => Err(CallError::TooManyRooms),
            ProgramReply::Typed(Err(code)) => Err(CallError::Refused(code)),
            _ => Err(CallError::Refused(ApiCode::Internal)),
        })
    }

    fn ask<T>(
        &self,
        call: ProgramCall,
        read: fn(ProgramReply) -> Result<T, CallError>,
    ) -> Result<Receipt<T>, CallError> {
        let answer = self.control.call(call).map_err(|error| match error {
            NotTaken::Busy => CallError::Busy,
            NotTaken::Stopped => CallError::Stopped,
        })?;
        Ok(Receipt {
            answer,
            read,
            _result: PhantomData,
        })
    }

    fn checked(&self, payload: Payload) -> Result<Payload, CallError> {
        if payload.bytes().len() > self.payload_bytes_max {
            return Err(CallError::TooLarge);
        }
        Ok(payload)
    }
}

impl<T> Receipt<T> {
    /// Waits for the answer.
    ///
    /// # Errors
    /// What the call says, and `Stopped` if the server has ended before it had an answer: then it
    /// may or may not have been carried out.
    pub fn wait(self) -> Result<T, CallError> {
        let reply = self.answer.wait().ok_or(CallError::Stopped)?;
        (self.read)(reply)
    }
}

impl Events {
    pub(super) fn new(events: Receiver<Event>, missed_last: Arc<AtomicU64>) -> Self {
        Self {
            events,
            missed_last,
        }
    }

    /// Waits for the next event; `None` once the server has ended and all events were taken.
    #[must_use]
    pub fn recv(&self) -> Option<Event> {
        self.events.recv().ok().or_else(|| self.missed_last())
    }

    /// The next event, if there is one now.
    #[must_use]
    pub fn try_recv(&self) -> Option<Event> {
        match self.events.try_recv() {
            Ok(event) => Some(event),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => self.missed_last(),
        }
    }

    /// Waits for the next event, at most for `timeout`.
    ///
    /// # Errors
    /// When there was none. `true` if there will never be one again.
    pub fn recv_timeout(&self, timeout: Duration) -> Result<Event, bool> {
        self.events.recv_timeout(timeout).or_else(|error| {
            let is_over = error == RecvTimeoutError::Disconnected;
            let last = if is_over { self.missed_last() } else { None };
            last.ok_or(is_over)
        })
    }

    /// What could not be told before the end.
    fn missed_last(&self) -> Option<Event> {
        let count = self.missed_last.swap(0, Ordering::AcqRel);
        (count > 0).then_some(Event::Missed { count })
    }
}

/// The reason of a close, if it and the code may stand in a close frame.
fn checked_reason(code: u16, reason: &str) -> Result<Box<str>, CallError> {
    let is_reason = (1..=CLOSE_REASON_BYTES_MAX).contains(&reason.len());
    if !is_reason || !(3000..=4999).contains(&code) {
        return Err(CallError::BadClose);
    }
    Ok(reason.into())
}

fn done(reply: ProgramReply) -> Result<(), CallError> {
    match reply {
        ProgramReply::Typed(Err(ApiCode::UnknownChannel)) => Err(CallError::NotConnected),
        ProgramReply::Typed(Err(code)) => Err(CallError::Refused(code)),
        _ => Ok(()),
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadName(error) => write!(f, "the name {error}"),
            Self::TooLarge => f.write_str("the payload is too large"),
            Self::BadClose => {
                f.write_str("a close needs a code from 3000 to 4999 and a reason of 1 to 123 bytes")
            }
            Self::Busy => f.write_str("too many calls wait already"),
            Self::TooManyRooms => f.write_str("there are too many rooms"),
            Self::NotConnected => f.write_str("the connection is not open"),
            Self::Refused(code) => f.write_str(code.message()),
            Self::Stopped => f.write_str("the server has ended"),
        }
    }
}

impl std::error::Error for CallError {}

/// Asserts what the module promises.
const _: fn() = || {
    fn is_shared<T: Clone + Send + Sync>() {}
    is_shared::<Handle>();
    is_shared::<Events>();
};
