//! Listening sockets: bind or adopt, accept within a budget, pause when descriptors run out.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use mio::net::{TcpListener, TcpStream};
use socket2::{Domain, Protocol, Socket, Type};

use crate::base::Instant;

/// A listening socket.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(super) socket: TcpListener,
    pub(super) is_admin: bool,
    /// The kernel has said that connections wait, and they have not all been taken.
    pub(super) is_ready: bool,
    /// The last one could not be taken for want of a descriptor.
    pub(super) is_exhausted: bool,
    /// Not before this, since there was no descriptor for another connection.
    pub(super) paused_until: Option<Instant>,
}

/// Why an address cannot be listened on.
#[derive(Debug)]
pub(crate) struct ListenError {
    address: SocketAddr,
    is_admin: bool,
    source: io::Error,
}

impl std::fmt::Display for ListenError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let option = if self.is_admin {
            "--admin-listen"
        } else {
            "--listen"
        };
        write!(f, "{option} {}: cannot listen", self.address)
    }
}

impl std::error::Error for ListenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// What came of accepting.
#[derive(Debug)]
pub(super) enum Accepted {
    /// A connection.
    Connection(TcpStream, SocketAddr),
    /// Nobody waits.
    Empty,
    /// The one that waited has gone.
    Vanished,
    /// There is no descriptor or memory for it.
    Exhausted(io::Error),
}

impl Listener {
    /// Binds and listens. The port of one that has just ended can be taken again at once.
    pub(crate) fn bind(address: SocketAddr, is_admin: bool) -> Result<Self, ListenError> {
        let listen = || -> io::Result<TcpListener> {
            let domain = Domain::for_address(address);
            let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
            socket.set_reuse_address(true)?;
            socket.set_nonblocking(true)?;
            socket.bind(&address.into())?;
            socket.listen(BACKLOG)?;
            Ok(TcpListener::from_std(socket.into()))
        };
        let socket = listen().map_err(|source| ListenError {
            address,
            is_admin,
            source,
        })?;
        Ok(Self::new(socket, is_admin))
    }

    /// Takes over a socket that listens already. Connections that wait there are accepted.
    pub(crate) fn adopt(socket: std::net::TcpListener, is_admin: bool) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self::new(TcpListener::from_std(socket), is_admin))
    }

    fn new(socket: TcpListener, is_admin: bool) -> Self {
        Self {
            socket,
            is_admin,
            is_ready: false,
            is_exhausted: false,
            paused_until: None,
        }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    pub(super) fn accept(&self) -> Accepted {
        match self.socket.accept() {
            Ok((stream, peer)) => {
                // Frames are written whole, so waiting to fill a segment only adds latency. A
                // socket that is gone already says so when it is read.
                let _ = stream.set_nodelay(true);
                Accepted::Connection(stream, peer)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Accepted::Empty,
            Err(error) if is_exhaustion(&error) => Accepted::Exhausted(error),
            // What accept(2) says about the connection rather than about us.
            Err(_) => Accepted::Vanished,
        }
    }

    /// Stops accepting for a while; connections wait in the kernel meanwhile.
    pub(super) fn pause(&mut self, now: Instant) {
        self.paused_until = Some(now + PAUSE);
    }
}

/// Whether the process or the system has run out of descriptors or memory: EMFILE, ENFILE,
/// ENOBUFS, ENOMEM.
fn is_exhaustion(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(23 | 24 | 105 | 12))
}

/// Connections the kernel keeps for us; it lowers this to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// How long accepting pauses when descriptors have run out, unless one is given back before.
const PAUSE: Duration = Duration::from_millis(100);
