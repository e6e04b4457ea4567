//! TLS under a connection: the kernel carries records, the hub sees what is in them.
//!
//! Owns: the session of each TLS connection, with the ciphertext that the kernel has not taken.
//! Never: reads a file (`ops::certificate` does) or knows what the content means.
//!
//! Invariants
//! - A read goes on until the kernel has nothing more, or says that it has not: no event comes for
//!   what was left.
//! - Ciphertext is made of a queue's content only when all that was made before is written.
//! - What was decrypted before reading ended is told before the end.
//! - A handshake that is not over holds [`TLS_HANDSHAKE_BYTES_MAX`] bytes of the peer's and one read.
//!
//! A stream that ends without `close_notify` ends as one with it does: frames and bodies have
//! lengths, so nothing can be cut off unnoticed (RFC 8446, section 6.1).

use std::io::{self, IoSlice, Read as _, Write as _};
use std::sync::Arc;

use mio::net::TcpStream;
use rustls::{Error, InvalidMessage, ServerConfig, ServerConnection};

use super::budget;
use super::socket::{ReadOutcome, Socket, uninterrupted};
use crate::base::{CloseReason, ConnId, TLS_HANDSHAKE_BYTES_MAX, TLS_HELD_BYTES_MAX};
use crate::conn::send_queue::SendQueue;
use crate::hub::{Hub, Written};

/// The sessions of the TLS connections, by slot.
#[derive(Debug, Default)]
pub(super) struct Sessions(Vec<Option<Box<Session>>>);

/// One TLS connection.
#[derive(Debug)]
pub(super) struct Session {
    inner: ServerConnection,
    /// Bytes read while the handshake was not over.
    handshake_bytes: usize,
    /// Why there is no TLS with the peer.
    failure: Option<Box<str>>,
    /// How reading has ended, told when all that came before it is told. The kernel tells a failure
    /// only once.
    end: Option<End>,
}

/// How reading ends.
#[derive(Clone, Copy, Debug)]
enum End {
    /// The peer has ended its stream.
    Eof,
    /// The transport failed.
    Failed,
    /// TLS failed.
    Refused,
}

/// Puts TLS under a connection that was just accepted.
pub(super) fn begin(
    config: &Arc<ServerConfig>,
    sessions: &mut Sessions,
    hub: &mut Hub<Socket>,
    id: ConnId,
) {
    match Session::new(config) {
        Ok(session) => sessions.insert(id.slot, session),
        Err(error) => {
            log::warn!("no TLS for a connection: {error}");
            hub.handle_eof(id, CloseReason::Internal);
        }
    }
}

impl Sessions {
    /// Adds the session of a connection.
    pub(super) fn insert(&mut self, slot: u32, session: Session) {
        let slot = slot as usize;
        if self.0.len() <= slot {
            self.0.resize_with(slot + 1, || None);
        }
        self.0[slot] = Some(Box::new(session));
    }

    /// The session of a connection; `None` for one without TLS.
    pub(super) fn get_mut(&mut self, slot: u32) -> Option<&mut Session> {
        self.0.get_mut(slot as usize)?.as_deref_mut()
    }

    /// Takes the session of a connection out.
    pub(super) fn remove(&mut self, slot: u32) -> Option<Box<Session>> {
        self.0.get_mut(slot as usize)?.take()
    }
}

impl Session {
    /// The session of a connection that was just accepted.
    ///
    /// # Errors
    /// When the configuration does not allow one.
    pub(super) fn new(config: &Arc<ServerConfig>) -> Result<Self, Error> {
        let mut session = ServerConnection::new(Arc::clone(config))?;
        session.set_buffer_limit(Some(TLS_HELD_BYTES_MAX));
        Ok(Self {
            inner: session,
            handshake_bytes: 0,
            failure: None,
            end: None,
        })
    }

    /// Whether the handshake is not over.
    pub(super) fn is_handshaking(&self) -> bool {
        self.inner.is_handshaking()
    }

    /// Why there is no TLS with the peer, if reading has found that out.
    pub(super) fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// Reads what has come, one step of the handshake at most.
    pub(super) fn read(&mut self, stream: &mut TcpStream, scratch: &mut [u8]) -> ReadOutcome {
        let mut len = 0;
        for _ in 0..RECORD_READS_MAX {
            match self.inner.reader().read(&mut scratch[len..]) {
                Ok(read) if read > 0 => {
                    len += read;
                    if len == scratch.len() {
                        return ReadOutcome::Bytes(len, true);
                    }
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // With a `close_notify` or without.
                Ok(_) | Err(_) => self.end = self.end.or(Some(End::Eof)),
            }
            match self.end {
                Some(_) if len > 0 => return ReadOutcome::Bytes(len, true),
                Some(End::Eof) => return ReadOutcome::Eof,
                Some(End::Failed) => return ReadOutcome::Failed,
                Some(End::Refused) => return ReadOutcome::Refused,
                None => {}
            }
            let was_handshaking = self.is_handshaking();
            match uninterrupted(|| self.inner.read_tls(stream)) {
                // Who has said nothing has only looked whether somebody listens.
                Ok(0) if was_handshaking && self.handshake_bytes == 0 => return ReadOutcome::Eof,
                Ok(0) if was_handshaking => self.fail("the peer hung up".into()),
                Ok(bytes) if was_handshaking => self.handshake_bytes += bytes,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return match len {
                        0 => ReadOutcome::Empty,
                        len => ReadOutcome::Bytes(len, false),
                    };
                }
                Err(error) => self.fail_transport(was_handshaking, &error),
            }
            if self.end.is_some() {
                continue;
            }
            if let Err(error) = self.inner.process_new_packets() {
                self.refuse(stream, &error);
                self.fail(error.to_string());
                continue;
            }
            if let Err(error) = self.flush(stream) {
                self.fail_transport(was_handshaking, &error);
                continue;
            }
            if was_handshaking {
                if self.is_handshaking() && self.handshake_bytes > TLS_HANDSHAKE_BYTES_MAX {
                    let what = "the handshake is not over after";
                    self.fail(format!("{what} {} bytes", self.handshake_bytes));
                    continue;
                }
                break;
            }
        }
        match len {
            0 => ReadOutcome::Again,
            len => ReadOutcome::Bytes(len, true),
        }
    }

    /// Writes once what the queue offers. The bytes told are those that the kernel took.
    pub(super) fn write(&mut self, stream: &mut TcpStream, queue: &mut SendQueue) -> Written {
        let mut bytes = 0;
        loop {
            match self.flush(stream) {
                Ok(written) => bytes += written,
                Err(_) => return Written::Failed,
            }
            let is_blocked = self.inner.wants_write();
            if is_blocked || queue.is_empty() || bytes >= WRITE_BYTES {
                return Written::Bytes { bytes, is_blocked };
            }
            let mut slices = [IoSlice::new(&[]); budget::SLICES];
            let filled = queue.fill(&mut slices);
            match self.inner.writer().write_vectored(&slices[..filled]) {
                Ok(taken) if taken > 0 => queue.advance(taken),
                _ => return Written::Failed,
            }
        }
    }

    /// Writes what reading has had to say and the kernel did not take. A failure shows when the
    /// socket is next read.
    pub(super) fn handle_writable(&mut self, stream: &mut TcpStream) {
        let _ = self.flush(stream);
    }

    /// Says that nothing follows, as far as the kernel takes it.
    pub(super) fn close(&mut self, stream: &mut TcpStream) {
        self.inner.send_close_notify();
        let _ = self.flush(stream);
    }

    /// Writes ciphertext for as long as the kernel takes some; returns how much that was.
    fn flush(&mut self, stream: &mut TcpStream) -> io::Result<usize> {
        let mut bytes = 0;
        while self.inner.wants_write() {
            match uninterrupted(|| self.inner.write_tls(stream)) {
                Ok(0) => break,
                Ok(written) => bytes += written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(bytes)
    }

    fn fail(&mut self, failure: String) {
        self.failure = Some(failure.into());
        self.end = Some(End::Refused);
    }

    /// The transport has failed: in the middle of a handshake there is no TLS with the peer.
    fn fail_transport(&mut self, was_handshaking: bool, error: &io::Error) {
        if was_handshaking && self.handshake_bytes > 0 {
            self.fail(error.to_string());
        } else {
            self.end = Some(End::Failed);
        }
    }

    /// Tells the peer why there is no session: by an alert, or in plain HTTP if what it speaks is
    /// no TLS.
    fn refuse(&mut self, stream: &mut TcpStream, error: &Error) {
        let is_plain = matches!(
            error,
            Error::InvalidMessage(InvalidMessage::InvalidContentType)
        );
        if self.is_handshaking() && is_plain {
            let _ = uninterrupted(|| stream.write(PLAIN_ANSWER));
        } else {
            let _ = self.flush(stream);
        }
    }
}

/// Ciphertext after which a write gives way to others.
const WRITE_BYTES: usize = 256 << 10;

/// Pieces taken from the kernel in one read. Each is a record or more, and 16 KiB at most.
const RECORD_READS_MAX: usize = 32;

/// What plain HTTP is answered.
const PLAIN_ANSWER: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\n\
    Content-Length: 35\r\nConnection: close\r\n\r\nthis port speaks TLS: use https://\n";
