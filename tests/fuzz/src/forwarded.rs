//! `X-Forwarded-For` and the networks of trusted proxies, against lists read from left to right.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use http::Request;
use http::header::HeaderValue;
use roomcast::base::Network;
use roomcast::wire::forwarded::{Forwarded, client_of};

/// The first line holds trusted networks between blanks, each other line is a header.
pub fn check(data: &[u8]) {
    let mut lines = data.split(|byte| *byte == b'\n').take(20);
    let networks = String::from_utf8_lossy(lines.next().unwrap_or_default()).into_owned();
    let networks: Vec<&str> = networks.split(' ').take(20).collect();
    let mut trusted = Vec::new();
    let mut naive_trusted = Vec::new();
    for text in networks {
        let expected = NaiveNetwork::read(text);
        let found: Result<Network, _> = text.parse();
        assert_eq!(found.is_ok(), expected.is_some(), "{text:?}");
        if let (Ok(found), Some(expected)) = (found, expected) {
            let again: Network = found.to_string().parse().expect("what is shown is read");
            assert_eq!(again, found);
            trusted.push(found);
            naive_trusted.push(expected);
        }
    }
    let mut request = Request::new(());
    let mut values = Vec::new();
    for line in lines {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            values.push(line);
            request.headers_mut().append("x-forwarded-for", value);
        }
    }
    let found = client_of(&request, |ip| {
        let is_trusted = trusted.iter().any(|network| network.contains(ip));
        let expected = naive_trusted.iter().any(|network| network.contains(ip));
        assert_eq!(is_trusted, expected, "{ip}");
        is_trusted
    });
    let expected = naive(&values, |ip| {
        naive_trusted.iter().any(|network| network.contains(ip))
    });
    assert_eq!(found, expected);
}

/// A network as its leading bits, in the IPv6 form.
struct NaiveNetwork(Vec<bool>);

fn bits(address: IpAddr) -> Vec<bool> {
    let octets = match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    };
    let bit = |place: usize| octets[place / 8] >> (7 - place % 8) & 1 == 1;
    (0..128).map(bit).collect()
}

impl NaiveNetwork {
    fn read(text: &str) -> Option<Self> {
        let (address, length) = match text.find('/') {
            Some(slash) => (&text[..slash], Some(&text[slash + 1..])),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let own = if address.is_ipv4() { 32 } else { 128 };
        let length = match length {
            Some(digits) if !digits.chars().all(|digit| digit.is_ascii_digit()) => return None,
            Some(digits) => digits.parse::<u32>().ok()? as usize,
            None => own,
        };
        if length > own {
            return None;
        }
        let mut bits = bits(address);
        bits.truncate(128 - own + length);
        Some(Self(bits))
    }

    fn contains(&self, address: IpAddr) -> bool {
        bits(address).starts_with(&self.0)
    }
}

/// All items first, from left to right; then the last that is not trusted, or the first of all.
fn naive(lines: &[&[u8]], is_trusted: impl Fn(IpAddr) -> bool) -> Forwarded {
    let mut items: Vec<Option<SocketAddr>> = Vec::new();
    for line in lines {
        if !line.iter().all(|byte| matches!(byte, b'\t' | b' '..=b'~')) {
            items.push(None);
            continue;
        }
        let text = String::from_utf8_lossy(line);
        let parts = text
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty());
        items.extend(parts.map(address));
    }
    let stops = |item: &Option<SocketAddr>| item.is_none_or(|client| !is_trusted(client.ip()));
    match items
        .iter()
        .rfind(|item| stops(item))
        .or_else(|| items.first())
    {
        None => Forwarded::Absent,
        Some(None) => Forwarded::Malformed,
        Some(Some(client)) => Forwarded::Client(*client),
    }
}

/// An address with or without a port, IPv6 with a port in brackets.
fn address(text: &str) -> Option<SocketAddr> {
    let port = |digits: &str| {
        let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| digits.parse::<u16>().ok()).flatten()
    };
    let (ip, port) = if let Some(inner) = text.strip_prefix('[') {
        let (ip, after) = inner.split_once(']')?;
        let port = match after {
            "" => 0,
            after => port(after.strip_prefix(':')?)?,
        };
        (IpAddr::V6(ip.parse::<Ipv6Addr>().ok()?), port)
    } else if let Ok(ip) = text.parse::<Ipv6Addr>() {
        (IpAddr::V6(ip), 0)
    } else {
        let (ip, port) = match text.split_once(':') {
            Some((ip, digits)) => (ip, port(digits)?),
            None => (text, 0),
        };
        (IpAddr::V4(ip.parse::<Ipv4Addr>().ok()?), port)
    };
    Some(SocketAddr::new(ip.to_canonical(), port))
}
