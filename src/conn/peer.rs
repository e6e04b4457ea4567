//! The address at the other end, in half the space: a connection keeps it for a line in the log.

use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};

/// An address and port; with that of the proxy, where one speaks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    V4(SocketAddrV4),
    V6(Box<SocketAddrV6>),
    Client {
        /// The client's address, and that of the proxy it is behind.
        behind: Box<(SocketAddr, SocketAddr)>,
    },
}

impl From<SocketAddr> for Peer {
    fn from(address: SocketAddr) -> Self {
        match address {
            SocketAddr::V4(address) => Self::V4(address),
            SocketAddr::V6(address) => Self::V6(Box::new(address)),
        }
    }
}

impl Peer {
    /// The peer of a socket that ends at `socket_address`, which speaks for `client` or itself.
    pub(super) fn speaking_for(socket_address: SocketAddr, client: Option<SocketAddr>) -> Self {
        match client {
            None => socket_address.into(),
            Some(client) => Self::Client {
                behind: Box::new((client, socket_address)),
            },
        }
    }

    /// The address that it comes from.
    pub(super) fn address(&self) -> SocketAddr {
        match self {
            Self::Client { behind } => behind.0,
            _ => self.socket_address(),
        }
    }

    /// The address at the other end of the socket.
    pub(super) fn socket_address(&self) -> SocketAddr {
        match self {
            Self::V4(address) => SocketAddr::V4(*address),
            Self::V6(address) => SocketAddr::V6(**address),
            Self::Client { behind } => behind.1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_its_socket_unless_it_speaks_for_another() {
        let own: SocketAddr = "[2001:db8::1]:5".parse().expect("an address");
        let client = "192.0.2.7:0".parse().expect("an address");
        let mut peer = Peer::from(own);
        assert_eq!((peer.address(), peer.socket_address()), (own, own));
        peer = Peer::speaking_for(peer.socket_address(), Some(client));
        assert_eq!((peer.address(), peer.socket_address()), (client, own));
        peer = Peer::speaking_for(peer.socket_address(), None);
        assert_eq!(peer, own.into());
        assert!(size_of::<Peer>() <= 16);
    }
}
