//! A connection's socket, with what the kernel has said about it.

use std::io::{self, IoSlice, Read, Write};
use std::net::Shutdown;

use mio::net::TcpStream;

use super::budget;
use super::tls::Session;
use crate::conn::send_queue::SendQueue;
use crate::hub::Written;

/// A socket as the loop attaches it to a connection.
#[derive(Debug)]
pub(crate) struct Socket {
    pub(super) stream: TcpStream,
    /// The kernel has said that the peer's direction is over, so reading must go on to its end:
    /// no further event will come.
    pub(super) is_read_closed: bool,
    /// There may be something to read: an event has said so, and no read since has come to the end
    /// of it.
    pub(super) has_input: bool,
    /// It is in the loop's list of sockets to read.
    pub(super) is_listed: bool,
    /// The hub wants nothing from it now.
    pub(super) is_paused: bool,
}

/// What came of reading.
#[derive(Debug)]
pub(super) enum ReadOutcome {
    /// So many bytes, and whether more may be waiting.
    Bytes(usize, bool),
    /// Nothing yet, and more may be waiting.
    Again,
    /// Nothing now.
    Empty,
    /// The peer has ended its stream.
    Eof,
    /// The transport failed.
    Failed,
    /// TLS failed; the session knows why.
    Refused,
}

impl Socket {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            is_read_closed: false,
            has_input: false,
            is_listed: false,
            is_paused: false,
        }
    }

    /// Reads once, through TLS where there is a session.
    pub(super) fn read(
        &mut self,
        session: Option<&mut Session>,
        scratch: &mut [u8],
    ) -> ReadOutcome {
        if let Some(session) = session {
            return session.read(&mut self.stream, scratch);
        }
        match uninterrupted(|| self.stream.read(scratch)) {
            Ok(0) => ReadOutcome::Eof,
            // A short read means that the kernel has no more, and new bytes bring a new event.
            Ok(len) => ReadOutcome::Bytes(len, len == scratch.len() || self.is_read_closed),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => ReadOutcome::Empty,
            Err(_) => ReadOutcome::Failed,
        }
    }

    /// Writes once what the queue offers, through TLS where there is a session.
    pub(super) fn write(
        &mut self,
        session: Option<&mut Session>,
        queue: &mut SendQueue,
    ) -> Written {
        if let Some(session) = session {
            return session.write(&mut self.stream, queue);
        }
        // `send` is cheaper than `writev`, and a list of pieces costs its making.
        let (offered, result) = match queue.lone_piece() {
            Some(piece) => (piece.len(), uninterrupted(|| self.stream.write(piece))),
            None => self.write_pieces(queue),
        };
        match result {
            Ok(bytes) => {
                queue.advance(bytes);
                // A short write means that the socket is full; the kernel says when it is not.
                Written::Bytes {
                    bytes,
                    is_blocked: bytes < offered,
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Written::Bytes {
                bytes: 0,
                is_blocked: true,
            },
            Err(_) => Written::Failed,
        }
    }

    fn write_pieces(&mut self, queue: &SendQueue) -> (usize, io::Result<usize>) {
        let mut slices = [IoSlice::new(&[]); budget::SLICES];
        let filled = queue.fill(&mut slices);
        let pieces = &slices[..filled];
        let offered = pieces.iter().map(|piece| piece.len()).sum();
        (
            offered,
            uninterrupted(|| self.stream.write_vectored(pieces)),
        )
    }

    /// Ends the outgoing direction. A failure shows when the socket is next used.
    pub(super) fn shut_down_write(&mut self, session: Option<&mut Session>) {
        if let Some(session) = session {
            session.close(&mut self.stream);
        }
        let _ = self.stream.shutdown(Shutdown::Write);
    }
}

/// Makes a system call again until no signal has come in between.
pub(super) fn uninterrupted(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
