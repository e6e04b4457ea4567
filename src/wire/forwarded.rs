//! Whom a reverse proxy speaks for: `X-Forwarded-For`.
//!
//! Each proxy on the way appends the address that it was called from, so only what trusted ones have
//! appended can be believed: read from the right, the first address that is no trusted proxy's is
//! the client's. What stands left of it anybody may have made up, and it is not looked at.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderName, Request};

/// What a proxy says of whom it speaks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forwarded {
    /// Nothing: it speaks for itself.
    Absent,
    /// This client, with port 0 if it does not say which.
    Client(SocketAddr),
    /// Something that is no list of addresses.
    Malformed,
}

/// Reads whom a request was made for that came from a trusted proxy. Where there are only trusted
/// addresses, the one that is farthest away is the client's.
#[must_use]
pub fn client_of(request: &Request<()>, is_trusted: impl Fn(IpAddr) -> bool) -> Forwarded {
    let mut found = Forwarded::Absent;
    for line in request.headers().get_all(&X_FORWARDED_FOR).iter().rev() {
        let Ok(line) = line.to_str() else {
            return Forwarded::Malformed;
        };
        // Empty items of a list mean nothing (RFC 9110, section 5.6.1).
        let entries = line.rsplit(',').map(str::trim);
        for entry in entries.filter(|entry| !entry.is_empty()) {
            let Some(address) = address(entry) else {
                return Forwarded::Malformed;
            };
            found = Forwarded::Client(address);
            if !is_trusted(address.ip()) {
                return found;
            }
        }
    }
    found
}

/// Reads `1.2.3.4`, `1.2.3.4:5`, `::1`, `[::1]` or `[::1]:5`.
fn address(entry: &str) -> Option<SocketAddr> {
    let bare = entry
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let address: SocketAddr = match bare {
        Some(inner) => SocketAddr::new(IpAddr::V6(inner.parse().ok()?), 0),
        None => match entry.parse() {
            Ok(ip) => SocketAddr::new(ip, 0),
            // A zone, which means something to one host only and which only this parser takes.
            Err(_) if entry.contains('%') => return None,
            Err(_) => entry.parse().ok()?,
        },
    };
    Some(SocketAddr::new(address.ip().to_canonical(), address.port()))
}

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn check(lines: &[&str], expected: &str) {
        let mut request = Request::new(());
        for line in lines {
            let value = HeaderValue::from_bytes(line.as_bytes()).expect("a header value");
            request.headers_mut().append(X_FORWARDED_FOR, value);
        }
        let is_trusted = |ip: IpAddr| ip.to_string().starts_with("10.");
        let found = match client_of(&request, is_trusted) {
            Forwarded::Absent => "absent".to_owned(),
            Forwarded::Malformed => "malformed".to_owned(),
            Forwarded::Client(address) => address.to_string(),
        };
        assert_eq!(found, expected, "{lines:?}");
    }

    #[test]
    fn the_right_most_untrusted_address_is_the_clients() {
        check(&[], "absent");
        check(&[""], "absent");
        check(&[" , ,"], "absent");
        check(&["192.0.2.7"], "192.0.2.7:0");
        check(&["192.0.2.7:5555"], "192.0.2.7:5555");
        check(&["1.1.1.1, 192.0.2.7"], "192.0.2.7:0");
        check(&["1.1.1.1,192.0.2.7,10.0.0.1 , 10.0.0.2"], "192.0.2.7:0");
        check(&["1.1.1.1", "192.0.2.7", "10.0.0.1"], "192.0.2.7:0");
        check(&["10.0.0.3, 10.0.0.2", "10.0.0.1"], "10.0.0.3:0");
        check(&["2001:db8::1"], "[2001:db8::1]:0");
        check(&["[2001:db8::1]"], "[2001:db8::1]:0");
        check(&["[2001:db8::1]:443"], "[2001:db8::1]:443");
        check(&["::ffff:192.0.2.7, ::ffff:10.0.0.1"], "192.0.2.7:0");
        check(&["192.0.2.7,,"], "192.0.2.7:0");
    }

    #[test]
    fn what_cannot_be_read_is_malformed_only_where_it_is_looked_at() {
        check(&["unknown"], "malformed");
        check(&["192.0.2.7, unknown"], "malformed");
        check(&["192.0.2.7, _hidden, 10.0.0.1"], "malformed");
        check(&["unknown, 192.0.2.7"], "192.0.2.7:0");
        check(&["caf\u{e9}"], "malformed");
        for entry in [
            "192.0.2.7:",
            "192.0.2.7:99999",
            "192.0.2",
            "192.0.2.7/24",
            "[192.0.2.7]",
            "[::1",
            "::1]",
            "[[::1]]",
            "[::1]:",
            "\"192.0.2.7\"",
            "for=192.0.2.7",
            "localhost",
            "fe80::1%eth0",
            "[fe80::1%1]",
            "[fe80::1%1]:443",
            "192.0.2.7 10.0.0.1",
        ] {
            check(&[entry], "malformed");
        }
    }
}
