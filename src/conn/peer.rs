//! The address at the other end, in half the space: a connection keeps it for a line in the log.

use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};

/// An address and port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    V4(SocketAddrV4),
    V6(Box<SocketAddrV6>),
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
    pub(super) fn address(&self) -> SocketAddr {
        match self {
            Self::V4(address) => SocketAddr::V4(*address),
            Self::V6(address) => SocketAddr::V6(**address),
        }
    }
}
