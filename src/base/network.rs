//! Networks of addresses, as operators write them.
//!
//! Invariants
//! - An IPv4 address is the same whether it is written as such or as an IPv6 address
//!   (`::ffff:192.0.2.7`), and so is a network.
//! - The bits of a network behind its prefix are zero.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// A network, such as `10.0.0.0/8`, or a single address.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Network {
    /// In the IPv6 form, so that there is one way to compare.
    first: u128,
    /// Bits of that form that count.
    prefix_bits: u32,
}

/// Why a text is not a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetworkError;

impl Network {
    /// Whether an address is in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        number(address) & mask(self.prefix_bits) == self.first
    }

    /// Whether every IPv4 or every IPv6 address is in it.
    #[must_use]
    pub fn is_everybody(&self) -> bool {
        self.prefix_bits == 0 || (self.prefix_bits == 96 && self.contains([192, 0, 2, 1].into()))
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    /// Reads `ADDRESS/BITS` or `ADDRESS`. What the address says behind the prefix is ignored.
    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| NetworkError)?;
        let own_bits = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            None => own_bits,
            // The parser of numbers would also take `+8`.
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                digits.parse().map_err(|_| NetworkError)?
            }
            Some(_) => return Err(NetworkError),
        };
        if bits > own_bits {
            return Err(NetworkError);
        }
        let prefix_bits = 128 - own_bits + bits;
        Ok(Self {
            first: number(address) & mask(prefix_bits),
            prefix_bits,
        })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = Ipv6Addr::from_bits(self.first);
        match first.to_ipv4_mapped() {
            Some(first) if self.prefix_bits >= 96 => {
                write!(f, "{first}/{}", self.prefix_bits - 96)
            }
            _ => write!(f, "{first}/{}", self.prefix_bits),
        }
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for NetworkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("must be an IP address, or one with the bits of its prefix: 10.0.0.0/8, ::1")
    }
}

impl std::error::Error for NetworkError {}

/// An address as operators see it: without a port where that is 0, which stands for one that is not
/// known.
#[must_use]
pub fn shown_address(address: SocketAddr) -> impl fmt::Display {
    Shown(address)
}

struct Shown(SocketAddr);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.port() {
            0 => self.0.ip().fmt(f),
            _ => self.0.fmt(f),
        }
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn mask(prefix_bits: u32) -> u128 {
    u128::MAX.checked_shl(128 - prefix_bits).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_in_or_out() {
        for (network, address, expected) in [
            ("10.0.0.0/8", "10.255.255.255", true),
            ("10.0.0.0/8", "11.0.0.0", false),
            ("10.1.2.3/8", "10.9.9.9", true),
            ("10.0.0.0/8", "::ffff:10.1.2.3", true),
            ("10.0.0.0/8", "::10.1.2.3", false),
            ("::ffff:10.0.0.0/104", "10.1.2.3", true),
            ("::ffff:10.0.0.0/104", "11.1.2.3", false),
            ("192.0.2.7", "192.0.2.7", true),
            ("192.0.2.7", "192.0.2.8", false),
            ("192.0.2.6/31", "192.0.2.7", true),
            ("192.0.2.6/31", "192.0.2.8", false),
            ("0.0.0.0/0", "255.255.255.255", true),
            ("0.0.0.0/0", "::1", false),
            ("::/0", "::1", true),
            ("::/0", "1.2.3.4", true),
            ("2001:db8::/32", "2001:db8:ffff::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
            ("::1", "::1", true),
            ("::1/128", "::2", false),
        ] {
            let network: Network = network.parse().expect("a network");
            let address = address.parse().expect("an address");
            assert_eq!(network.contains(address), expected, "{network} {address}");
        }
    }

    #[test]
    fn everybody_is_seen() {
        for (network, expected) in [
            ("0.0.0.0/0", true),
            ("::/0", true),
            ("0.0.0.0/1", false),
            ("::/1", false),
            ("::/96", false),
            ("10.0.0.0/8", false),
        ] {
            let parsed: Network = network.parse().expect("a network");
            assert_eq!(parsed.is_everybody(), expected, "{network}");
        }
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in [
            "",
            "/",
            "/8",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/+8",
            "10.0.0.0/-1",
            "10.0.0.0/8/8",
            "10.0.0.0/ 8",
            " 10.0.0.0/8",
            "10.0.0/8",
            "10.0.0.0:80",
            "[::1]/128",
            "::1/129",
            "::1/99999999999",
            "localhost",
            "fe80::1%eth0",
        ] {
            assert_eq!(text.parse::<Network>(), Err(NetworkError), "{text:?}");
        }
    }

    #[test]
    fn a_port_is_shown_where_it_is_known() {
        for text in [
            "192.0.2.7:80",
            "192.0.2.7",
            "[2001:db8::1]:80",
            "2001:db8::1",
        ] {
            let with_port = |ip| SocketAddr::new(ip, 0);
            let address = text.parse().or_else(|_| text.parse().map(with_port));
            assert_eq!(
                shown_address(address.expect("an address")).to_string(),
                text
            );
        }
    }

    #[test]
    fn a_network_shows_what_it_keeps() {
        for (text, expected) in [
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("192.0.2.7", "192.0.2.7/32"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("2001:db8::1/32", "2001:db8::/32"),
            ("::1", "::1/128"),
            ("::/0", "::/0"),
        ] {
            let network: Network = text.parse().expect("a network");
            assert_eq!(network.to_string(), expected);
        }
    }
}
