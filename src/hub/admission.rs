//! How many connections there may be: in total, from one address, on the admin port.
//!
//! Invariant: the counts are those of the connections admitted and not released.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};

use crate::base::Limits;
use crate::conn::Entrance;

/// Counts of connections.
#[derive(Debug, Default)]
pub(super) struct Admission {
    public: usize,
    overload: usize,
    admin: usize,
    /// By the first address of the block that counts as one; kept only while there is a bound on it.
    by_ip: HashMap<IpAddr, usize>,
}

impl Admission {
    /// Says how a new connection is let in; `None` if it must be dropped unheard. Without `has_room`
    /// it is over capacity in any case. One without an address is a proxy's and counts among no
    /// address's until [`Admission::count`].
    pub(super) fn admit(
        &mut self,
        is_admin: bool,
        has_room: bool,
        ip: Option<IpAddr>,
        limits: &Limits,
    ) -> Option<Entrance> {
        if is_admin {
            let admitted = self.admin < limits.admin_connections_max;
            self.admin += usize::from(admitted);
            return admitted.then_some(Entrance::Admin);
        }
        let is_over = !has_room
            || self.public >= limits.connections_max
            || ip.is_some_and(|ip| !self.count(ip, limits));
        if is_over {
            let admitted = self.overload < limits.refusals_max;
            self.overload += usize::from(admitted);
            return admitted.then_some(Entrance::Overload);
        }
        self.public += 1;
        Some(Entrance::Public)
    }

    /// Counts a connection among those of an address; returns whether that may have one more.
    pub(super) fn count(&mut self, ip: IpAddr, limits: &Limits) -> bool {
        if limits.connections_per_ip_max == 0 {
            return true;
        }
        let count = self.by_ip.entry(block_of(ip)).or_default();
        let has_room = *count < limits.connections_per_ip_max;
        *count += usize::from(has_room);
        has_room
    }

    /// A connection that was counted among those of an address is so no longer.
    pub(super) fn uncount(&mut self, ip: IpAddr) {
        let block = block_of(ip);
        if let Some(count) = self.by_ip.get_mut(&block) {
            *count -= 1;
            if *count == 0 {
                self.by_ip.remove(&block);
            }
        }
    }

    /// A connection is gone, and was counted among those of an address.
    pub(super) fn release(&mut self, entrance: Entrance, ip: Option<IpAddr>) {
        match entrance {
            Entrance::Admin => self.admin -= 1,
            Entrance::Overload => self.overload -= 1,
            Entrance::Public => {
                self.public -= 1;
                if let Some(ip) = ip {
                    self.uncount(ip);
                }
            }
        }
    }

    /// Connections of every kind.
    pub(super) fn len(&self) -> usize {
        self.public + self.overload + self.admin
    }
}

/// The first of the addresses that count as one: an IPv6 network of 64 bits is what one subscriber
/// is given at least, so whoever has one address of it has them all.
fn block_of(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_of_64_bits_counts_as_one_address() {
        let limits = Limits {
            connections_per_ip_max: 2,
            ..Limits::default()
        };
        let mut admission = Admission::default();
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        let [a, b, other] = ["2001:db8::1", "2001:db8::ffff:2", "2001:db8:0:1::1"].map(ip);
        assert!(admission.count(a, &limits) && admission.count(b, &limits));
        assert!(!admission.count(a, &limits) && !admission.count(b, &limits));
        assert!(admission.count(other, &limits), "the next network");
        admission.uncount(b);
        assert!(admission.count(a, &limits));
        for ip in [a, a, other] {
            admission.uncount(ip);
        }
        assert!(admission.by_ip.is_empty());
        // The last bits of an IPv4 address are another's.
        let [c, d] = ["192.0.2.1", "192.0.2.2"].map(ip);
        assert!(admission.count(c, &limits) && admission.count(c, &limits));
        assert!(admission.count(d, &limits) && !admission.count(c, &limits));
    }

    #[test]
    fn each_bound_is_kept_and_given_back() {
        let limits = Limits {
            connections_max: 3,
            connections_per_ip_max: 2,
            refusals_max: 1,
            admin_connections_max: 1,
            ..Limits::default()
        };
        let [a, b, c] = [1, 2, 3].map(|last| Some(IpAddr::from([127, 0, 0, last])));
        let mut admission = Admission::default();
        assert_eq!(
            admission.admit(false, true, a, &limits),
            Some(Entrance::Public)
        );
        assert_eq!(
            admission.admit(false, true, a, &limits),
            Some(Entrance::Public)
        );
        assert_eq!(
            admission.admit(false, true, a, &limits),
            Some(Entrance::Overload)
        );
        assert_eq!(admission.admit(false, true, a, &limits), None);
        assert_eq!(
            admission.admit(false, true, b, &limits),
            Some(Entrance::Public)
        );
        admission.release(Entrance::Overload, a);
        assert_eq!(
            admission.admit(false, true, c, &limits),
            Some(Entrance::Overload)
        );
        assert_eq!(
            admission.admit(true, true, a, &limits),
            Some(Entrance::Admin)
        );
        assert_eq!(admission.admit(true, true, a, &limits), None);
        admission.release(Entrance::Public, a);
        admission.release(Entrance::Overload, a);
        let short = admission.admit(false, false, a, &limits);
        assert_eq!(short, Some(Entrance::Overload));
        assert_eq!(
            admission.admit(false, true, a, &limits),
            Some(Entrance::Public)
        );
        assert_eq!(admission.len(), 5);
        for (entrance, ip) in [
            (Entrance::Public, a),
            (Entrance::Public, a),
            (Entrance::Public, b),
            (Entrance::Overload, c),
            (Entrance::Admin, a),
        ] {
            admission.release(entrance, ip);
        }
        assert_eq!((admission.len(), admission.by_ip.len()), (0, 0));
    }

    #[test]
    fn what_a_proxy_brings_counts_when_it_is_known_whose_it_is() {
        let limits = Limits {
            connections_max: 3,
            connections_per_ip_max: 1,
            refusals_max: 0,
            ..Limits::default()
        };
        let [a, b] = [1, 2].map(|last| IpAddr::from([192, 0, 2, last]));
        let mut admission = Admission::default();
        for _ in 0..3 {
            let entrance = admission.admit(false, true, None, &limits);
            assert_eq!(entrance, Some(Entrance::Public));
        }
        assert_eq!(
            admission.admit(false, true, None, &limits),
            None,
            "all are taken"
        );
        assert!(admission.count(a, &limits) && admission.count(b, &limits));
        assert!(!admission.count(a, &limits), "one for each client");
        admission.uncount(a);
        assert!(admission.count(a, &limits));
        admission.release(Entrance::Public, None);
        assert_eq!(admission.admit(false, true, Some(a), &limits), None);
        admission.release(Entrance::Public, Some(a));
        admission.release(Entrance::Public, Some(b));
        assert_eq!((admission.len(), admission.by_ip.len()), (0, 0));
    }
}
