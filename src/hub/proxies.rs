//! Connections that a trusted proxy makes for others.
//!
//! Such a connection is nobody's until it has a request: the head says whose it is, and as long as
//! the request or the WebSocket lasts, it counts among that client's connections. A proxy may use
//! one connection for the requests of several clients, one after the other.

use std::net::IpAddr;

use http::Request;

use super::Hub;
use crate::base::ConnId;
use crate::conn::Entrance;
use crate::wire::forwarded::{Forwarded, client_of};

impl<S> Hub<S> {
    /// Whether what connects from there speaks for others.
    pub(super) fn is_proxy(&self, address: IpAddr) -> bool {
        let mut proxies = self.gate.trusted_proxies.iter();
        proxies.any(|network| network.contains(address))
    }

    /// A request has come: says whose it is, if a trusted proxy makes it. Returns whether that
    /// client may have one more connection.
    pub(super) fn locate(&mut self, id: ConnId, request: &Request<()>) -> bool {
        let Some(proxy) = self.table.get(id).map(|conn| conn.socket_peer().ip()) else {
            return true;
        };
        if !self.is_proxy(proxy) {
            return true;
        }
        self.uncount(id);
        let client = match client_of(request, |address| self.is_proxy(address)) {
            Forwarded::Client(address) => Some(address),
            Forwarded::Absent => None,
            Forwarded::Malformed => {
                self.counters.malformed_forwards += 1;
                let is_new = !self.malformed_proxies.contains(&proxy);
                if is_new && self.malformed_proxies.len() < MALFORMED_PROXIES_MAX {
                    self.malformed_proxies.push(proxy);
                }
                None
            }
        };
        let Some(entry) = self.table.get_mut(id) else {
            return true;
        };
        let conn = &mut entry.conn;
        conn.set_client(client);
        if conn.entrance != Entrance::Public || self.limits.connections_per_ip_max == 0 {
            return true;
        }
        let is_admitted = self.admission.count(conn.peer().ip(), &self.limits);
        conn.set_counted(is_admitted);
        is_admitted
    }

    /// A request was answered: what its proxy does next may be for another, and until it has said for
    /// whom, it is the proxy's.
    pub(super) fn unlocate(&mut self, id: ConnId) {
        let peer = self.table.get(id).map(|conn| conn.socket_peer().ip());
        if peer.is_some_and(|peer| self.is_proxy(peer)) {
            self.uncount(id);
            if let Some(entry) = self.table.get_mut(id) {
                entry.conn.set_client(None);
            }
        }
    }

    /// The address of a trusted proxy that has not said, in a way that can be read, whom it speaks
    /// for. Each comes once, however often it has done so since the last one was asked for.
    pub fn poll_malformed_proxy(&mut self) -> Option<IpAddr> {
        self.malformed_proxies.pop()
    }

    fn uncount(&mut self, id: ConnId) {
        if let Some(entry) = self.table.get_mut(id)
            && let Some(address) = entry.conn.counted_as()
        {
            entry.conn.set_counted(false);
            self.admission.uncount(address);
        }
    }
}

/// Proxies told of that have not said whom they speak for; the counter knows of all of them.
const MALFORMED_PROXIES_MAX: usize = 16;
