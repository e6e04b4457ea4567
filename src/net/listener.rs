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
    /// Accepting pauses, as far as the log says.
    exhaustion: Option<Exhaustion>,
    /// Not before this, since there was no descriptor for another connection.
    pub(super) paused_until: Option<Instant>,
}

/// A want of descriptors or memory.
#[derive(Debug)]
struct Exhaustion {
    /// When the last error is long enough ago.
    quiet_at: Instant,
    /// A connection was accepted since.
    has_accepted: bool,
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
            exhaustion: None,
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

    /// Stops accepting for a while; connections wait in the kernel meanwhile. Says so, unless it did
    /// and has not said since that accepting goes on.
    pub(super) fn pause(&mut self, now: Instant, error: &io::Error) {
        if self.exhaustion.is_none() {
            log::warn!("accepting pauses: {error}");
        }
        self.exhaustion = Some(Exhaustion {
            quiet_at: now + QUIET,
            has_accepted: false,
        });
        self.paused_until = Some(now + PAUSE);
    }

    /// A connection was accepted.
    pub(super) fn note_accepted(&mut self) {
        if let Some(exhaustion) = &mut self.exhaustion {
            exhaustion.has_accepted = true;
        }
    }

    /// Says that accepting goes on, once it has for long enough: near the limit it stops and goes on
    /// with each connection that ends.
    pub(super) fn tell_if_recovered(&mut self, now: Instant) {
        let is_over = |one: &mut Exhaustion| one.has_accepted && one.quiet_at <= now;
        if self.exhaustion.take_if(is_over).is_some() {
            log::info!("accepting goes on");
        }
    }

    /// When to look at it although the kernel says nothing.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let quiet_at = self.exhaustion.as_ref().filter(|one| one.has_accepted);
        let quiet_at = quiet_at.map(|one| one.quiet_at);
        [self.paused_until, quiet_at].into_iter().flatten().min()
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

/// How long there must have been no error before accepting is said to go on.
const QUIET: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepting_goes_on_when_it_has_for_long_enough() {
        let at = |ms| Instant::ORIGIN + Duration::from_millis(ms);
        let error = || io::Error::from_raw_os_error(24);
        let mut listener = Listener::bind(([127, 0, 0, 1], 0).into(), false).expect("a free port");
        let is_told = |listener: &mut Listener, ms| {
            let was_exhausted = listener.exhaustion.is_some();
            listener.tell_if_recovered(at(ms));
            was_exhausted && listener.exhaustion.is_none()
        };
        assert!(!is_told(&mut listener, 0));
        // One ends and another comes, again and again.
        for turn in 0..100 {
            listener.pause(at(20 * turn), &error());
            listener.note_accepted();
            assert!(!is_told(&mut listener, 20 * turn + 10), "{turn}");
        }
        listener.paused_until = None;
        assert_eq!(listener.poll_timeout(), Some(at(1980 + 3000)));
        assert!(!is_told(&mut listener, 4979));
        assert!(is_told(&mut listener, 4980));
        assert_eq!(listener.poll_timeout(), None);
        // Nobody was accepted, so nothing is known to go on, and there is nothing to wake up for.
        listener.pause(at(6000), &error());
        listener.paused_until = None;
        assert!(!is_told(&mut listener, 60_000));
        assert_eq!(listener.poll_timeout(), None);
    }
}
