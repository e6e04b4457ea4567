//! How many connections there may be: in total, from one address, on the admin port.
//!
//! Invariant: the counts are those of the connections admitted and not released.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::base::Limits;
use crate::conn::Entrance;

/// Counts of connections.
#[derive(Debug, Default)]
pub(super) struct Admission {
    public: usize,
    overload: usize,
    admin: usize,
    /// Kept only while there is a bound on it.
    by_ip: HashMap<IpAddr, usize>,
}

impl Admission {
    /// Says how a new connection is let in; `None` if it must be dropped unheard. One without an
    /// address is a proxy's and counts among no address's until [`Admission::count`].
    pub(super) fn admit(
        &mut self,
        is_admin: bool,
        ip: Option<IpAddr>,
        limits: &Limits,
    ) -> Option<Entrance> {
        if is_admin {
            let admitted = self.admin < limits.admin_connections_max;
            self.admin += usize::from(admitted);
            return admitted.then_some(Entrance::Admin);
        }
        let is_over =
            self.public >= limits.connections_max || ip.is_some_and(|ip| !self.count(ip, limits));
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
        let count = self.by_ip.entry(ip).or_default();
        let has_room = *count < limits.connections_per_ip_max;
        *count += usize::from(has_room);
        has_room
    }

    /// A connection that was counted among those of an address is so no longer.
    pub(super) fn uncount(&mut self, ip: IpAddr) {
        if let Some(count) = self.by_ip.get_mut(&ip) {
            *count -= 1;
            if *count == 0 {
                self.by_ip.remove(&ip);
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

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(admission.admit(false, a, &limits), Some(Entrance::Public));
        assert_eq!(admission.admit(false, a, &limits), Some(Entrance::Public));
        assert_eq!(admission.admit(false, a, &limits), Some(Entrance::Overload));
        assert_eq!(admission.admit(false, a, &limits), None);
        assert_eq!(admission.admit(false, b, &limits), Some(Entrance::Public));
        admission.release(Entrance::Overload, a);
        assert_eq!(admission.admit(false, c, &limits), Some(Entrance::Overload));
        assert_eq!(admission.admit(true, a, &limits), Some(Entrance::Admin));
        assert_eq!(admission.admit(true, a, &limits), None);
        admission.release(Entrance::Public, a);
        assert_eq!(admission.admit(false, a, &limits), Some(Entrance::Public));
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
            let entrance = admission.admit(false, None, &limits);
            assert_eq!(entrance, Some(Entrance::Public));
        }
        assert_eq!(admission.admit(false, None, &limits), None, "all are taken");
        assert!(admission.count(a, &limits) && admission.count(b, &limits));
        assert!(!admission.count(a, &limits), "one for each client");
        admission.uncount(a);
        assert!(admission.count(a, &limits));
        admission.release(Entrance::Public, None);
        assert_eq!(admission.admit(false, Some(a), &limits), None);
        admission.release(Entrance::Public, Some(a));
        admission.release(Entrance::Public, Some(b));
        assert_eq!((admission.len(), admission.by_ip.len()), (0, 0));
    }
}
