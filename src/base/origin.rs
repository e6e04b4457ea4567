//! Which web pages may connect: the `Origin` of a request against what the operator allows.
//!
//! Owns: the syntax of an origin and of a pattern for origins, and the comparison of the two.
//! Never: looks at other headers, or decides about a request that has no `Origin`.
//!
//! Invariants
//! - What is not plainly an origin is foreign; only `*` allows it.
//! - Hosts are compared whole or label by label, never as bare text endings.
//!
//! An origin is scheme, host and port (RFC 6454, section 4). Hosts are compared as spelled, in any
//! case: browsers send names in punycode, addresses in their shortest form, and treat a name with
//! a trailing dot as another host.

use std::fmt;

/// The origins that may connect. Without a pattern, only pages served under the same host may.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowedOrigins(Vec<OriginPattern>);

impl AllowedOrigins {
    /// Allows what any of `patterns` fits; an empty list allows the same origin only.
    #[must_use]
    pub fn new(patterns: Vec<OriginPattern>) -> Self {
        Self(patterns)
    }

    /// Whether a request with these `Origin` and `Host` headers may connect.
    ///
    /// Same origin means that the origin's host and port are those of `host`, where either may
    /// leave out the default port of the origin's scheme. The scheme itself cannot be compared:
    /// behind a proxy the server does not know its own.
    #[must_use]
    pub fn allows(&self, origin: &str, host: &str) -> bool {
        if self.0.contains(&OriginPattern::Any) {
            return true;
        }
        let Ok(origin) = Origin::parse(origin) else {
            return false;
        };
        if self.0.is_empty() {
            return origin.is_served_by(host);
        }
        self.0.iter().any(|pattern| pattern.matches(&origin))
    }
}

impl fmt::Display for AllowedOrigins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((first, others)) = self.0.split_first() else {
            return f.write_str("same origin");
        };
        fmt::Display::fmt(first, f)?;
        others
            .iter()
            .try_for_each(|pattern| write!(f, ", {pattern}"))
    }
}

/// One pattern for origins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OriginPattern {
    /// `*`: every origin, also `null` and malformed ones.
    Any,
    /// `https://example.com`: this origin.
    Exact {
        /// Its scheme.
        scheme: Scheme,
        /// Its host, an IPv6 address with its brackets.
        host: Box<str>,
        /// Its port.
        port: u16,
    },
    /// `https://*.example.com`: hosts with one or more labels before `.example.com`.
    Below {
        /// The scheme of the origin.
        scheme: Scheme,
        /// The domain, here `example.com`.
        domain: Box<str>,
        /// The port of the origin.
        port: u16,
    },
}

impl fmt::Display for OriginPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, star, host, port) = match self {
            Self::Any => return f.write_str("*"),
            Self::Exact { scheme, host, port } => (scheme, "", host, port),
            Self::Below {
                scheme,
                domain,
                port,
            } => (scheme, "*.", domain, port),
        };
        let scheme = match scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        write!(f, "{scheme}://{star}{host}:{port}")
    }
}

impl OriginPattern {
    /// Checks `text` as given by the operator.
    ///
    /// # Errors
    /// Says which rule the pattern breaks.
    pub fn parse(text: &str) -> Result<Self, OriginError> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let (scheme, authority) = split_scheme(text)?;
        let Some(domain) = authority.strip_prefix("*.") else {
            let Origin { scheme, host, port } = Origin::parse(text)?;
            return Ok(Self::Exact {
                scheme,
                host: host.into(),
                port,
            });
        };
        let (domain, port) = split_port(domain)?;
        if domain.starts_with('[') {
            return Err(OriginError::Wildcard);
        }
        Ok(Self::Below {
            scheme,
            domain: domain.into(),
            port: port.unwrap_or_else(|| scheme.default_port()),
        })
    }

    fn matches(&self, origin: &Origin<'_>) -> bool {
        match self {
            Self::Any => true,
            Self::Exact { scheme, host, port } => {
                origin.scheme == *scheme
                    && origin.port == *port
                    && origin.host.eq_ignore_ascii_case(host)
            }
            Self::Below {
                scheme,
                domain,
                port,
            } => origin.scheme == *scheme && origin.port == *port && is_below(origin.host, domain),
        }
    }
}

/// The schemes a page that opens a WebSocket can have been served with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// `http`
    Http,
    /// `https`
    Https,
}

impl Scheme {
    fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// Why a text is not a pattern for origins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OriginError {
    /// The text does not begin with a scheme that is allowed.
    Scheme,
    /// There is a star that is not the whole of the first label of a name.
    Wildcard,
    /// Something follows the host and port, or a user name comes before them.
    NotBare,
    /// The host is missing or is no name or address.
    Host,
    /// The port is no port number.
    Port,
}

impl fmt::Display for OriginError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Scheme => "must begin with http:// or https://, or be *",
            Self::Wildcard => "may hold a star only as *. before a domain name",
            Self::NotBare => "must end after the host and port, without user, path or query",
            Self::Host => "must have a host: an ASCII name, an IPv4 or a bracketed IPv6 address",
            Self::Port => "must have a port between 1 and 65535 or none",
        })
    }
}

impl std::error::Error for OriginError {}

/// An origin as a browser sends it.
struct Origin<'t> {
    scheme: Scheme,
    host: &'t str,
    port: u16,
}

impl<'t> Origin<'t> {
    fn parse(text: &'t str) -> Result<Self, OriginError> {
        let (scheme, authority) = split_scheme(text)?;
        let (host, port) = split_port(authority)?;
        Ok(Self {
            scheme,
            host,
            port: port.unwrap_or_else(|| scheme.default_port()),
        })
    }

    fn is_served_by(&self, host: &str) -> bool {
        split_port(host).is_ok_and(|(host, port)| {
            self.host.eq_ignore_ascii_case(host)
                && self.port == port.unwrap_or_else(|| self.scheme.default_port())
        })
    }
}

fn split_scheme(text: &str) -> Result<(Scheme, &str), OriginError> {
    let (scheme, authority) = text.split_once("://").ok_or(OriginError::Scheme)?;
    if scheme.eq_ignore_ascii_case("http") {
        Ok((Scheme::Http, authority))
    } else if scheme.eq_ignore_ascii_case("https") {
        Ok((Scheme::Https, authority))
    } else {
        Err(OriginError::Scheme)
    }
}

/// Splits `host[:port]` and checks both. A bracketed address keeps its brackets.
fn split_port(authority: &str) -> Result<(&str, Option<u16>), OriginError> {
    if authority.contains(['/', '?', '#', '@', '\\']) {
        return Err(OriginError::NotBare);
    }
    if authority.contains('*') {
        return Err(OriginError::Wildcard);
    }
    let host_end = if authority.starts_with('[') {
        authority.find(']').ok_or(OriginError::Host)? + 1
    } else {
        authority.find(':').unwrap_or(authority.len())
    };
    let (host, rest) = authority.split_at(host_end);
    if !is_host(host) {
        return Err(OriginError::Host);
    }
    if rest.is_empty() {
        return Ok((host, None));
    }
    let digits = rest.strip_prefix(':').ok_or(OriginError::Host)?;
    // `parse` alone would take a sign.
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(OriginError::Port);
    }
    match digits.parse() {
        Ok(0) | Err(_) => Err(OriginError::Port),
        Ok(port) => Ok((host, Some(port))),
    }
}

fn is_host(host: &str) -> bool {
    if let Some(address) = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
    {
        return address.contains(':')
            && address
                .bytes()
                .all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.'));
    }
    // A trailing dot makes the name absolute; it is no empty label.
    let labels = host.strip_suffix('.').unwrap_or(host);
    host.len() <= 254
        && labels.split('.').all(|label| {
            !label.is_empty()
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        })
}

/// Whether `host` is `domain` with at least one label before it. Both are checked hosts, so what
/// comes before the dot has no empty label.
fn is_below(host: &str, domain: &str) -> bool {
    let Some(labels_len) = host.len().checked_sub(domain.len() + 1) else {
        return false;
    };
    let (labels, rest) = host.split_at(labels_len);
    !labels.is_empty()
        && rest
            .strip_prefix('.')
            .is_some_and(|rest| rest.eq_ignore_ascii_case(domain))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(patterns: &[&str]) -> AllowedOrigins {
        let parse = |text: &&str| OriginPattern::parse(text).expect("the pattern is well formed");
        AllowedOrigins::new(patterns.iter().map(parse).collect())
    }

    #[test]
    fn without_patterns_only_the_same_origin_may_connect() {
        let same = AllowedOrigins::default();
        for (origin, host, expected) in [
            ("https://example.com", "example.com", true),
            ("https://EXAMPLE.com", "example.COM", true),
            ("HTTPS://example.com", "example.com", true),
            ("https://example.com", "example.com:443", true),
            ("https://example.com:443", "example.com", true),
            ("http://example.com", "example.com:80", true),
            ("http://example.com:80", "example.com", true),
            ("http://example.com:8080", "example.com:8080", true),
            ("https://example.com", "example.com:80", false),
            ("http://example.com", "example.com:443", false),
            ("http://example.com:8080", "example.com", false),
            ("http://example.com", "example.com:8080", false),
            ("http://127.0.0.1:7777", "127.0.0.1:7777", true),
            ("http://localhost:7777", "127.0.0.1:7777", false),
            ("http://[::1]:7777", "[::1]:7777", true),
            ("http://[2001:DB8::1]", "[2001:db8::1]:80", true),
            ("http://[::1]", "[::2]", false),
            ("http://[::1]:7777", "::1:7777", false),
            ("https://example.com.", "example.com.", true),
            ("https://example.com.", "example.com", false),
            ("https://example.com", "example.com.", false),
            ("https://evil-example.com", "example.com", false),
            ("https://example.com.evil.com", "example.com", false),
            ("https://a.example.com", "example.com", false),
            ("https://example.com@evil.com", "evil.com", false),
            ("https://evil.com", "example.com@evil.com", false),
            ("https://example.com/", "example.com", false),
            ("https://example.com?x", "example.com", false),
            ("https://example.com\\.evil.com", "example.com", false),
            ("https://example.com https://evil.com", "example.com", false),
            ("ws://example.com", "example.com", false),
            ("file://", "", false),
            ("https://", "", false),
            ("null", "null", false),
            ("", "", false),
            ("example.com", "example.com", false),
        ] {
            assert_eq!(
                same.allows(origin, host),
                expected,
                "{origin:?} to {host:?}"
            );
        }
    }

    #[test]
    fn patterns_replace_the_same_origin_rule() {
        for (patterns, origin, expected) in [
            (&["https://example.com"][..], "https://example.com", true),
            (&["https://Example.COM"], "https://eXample.com:443", true),
            (&["https://example.com:443"], "https://example.com", true),
            (&["https://example.com"], "http://example.com", false),
            (&["https://example.com"], "http://example.com:443", false),
            (&["https://example.com"], "https://example.com:8443", false),
            (
                &["https://example.com:8443"],
                "https://example.com:8443",
                true,
            ),
            (&["https://example.com"], "https://evil-example.com", false),
            (
                &["https://example.com"],
                "https://example.com.evil.com",
                false,
            ),
            (&["https://example.com"], "https://example.com.", false),
            (&["https://example.com"], "https://a@example.com", false),
            (&["https://example.com"], "https://here.test", false),
            (&["https://example.com"], "null", false),
            (
                &["https://a.test", "https://b.test"],
                "https://b.test",
                true,
            ),
            (&["http://[::1]:7777"], "http://[::1]:7777", true),
            (&["http://[::1]:7777"], "http://[::1]", false),
            (&["https://*.example.com"], "https://a.example.com", true),
            (&["https://*.example.com"], "https://a.b.example.com", true),
            (&["https://*.Example.com"], "https://A.eXample.COM", true),
            (&["https://*.example.com"], "https://example.com", false),
            (&["https://*.example.com"], "https://.example.com", false),
            (&["https://*.example.com"], "https://a..example.com", false),
            (
                &["https://*.example.com"],
                "https://evil-example.com",
                false,
            ),
            (
                &["https://*.example.com"],
                "https://evil.com/.example.com",
                false,
            ),
            (
                &["https://*.example.com"],
                "https://evil.com#.example.com",
                false,
            ),
            (
                &["https://*.example.com"],
                "https://evil.com:1.example.com",
                false,
            ),
            (&["https://*.example.com"], "https://a@b.example.com", false),
            (
                &["https://*.example.com"],
                "https://a.example.com.evil.com",
                false,
            ),
            (&["https://*.example.com"], "https://a.example.com.", false),
            (&["https://*.example.com"], "http://a.example.com", false),
            (
                &["https://*.example.com"],
                "https://a.example.com:444",
                false,
            ),
            (
                &["https://*.example.com:444"],
                "https://a.example.com:444",
                true,
            ),
            (&["https://*.example.com"], "https://é.example.com", false),
            (&["https://*.example.com"], "https://é", false),
            (&["https://*.example.com"], "null", false),
            (&["*"], "null", true),
            (&["*"], "anything at all", true),
            (&["https://a.test", "*"], "null", true),
        ] {
            // The request's own host never helps where patterns are given.
            let found = allowed(patterns).allows(origin, "here.test");
            assert_eq!(found, expected, "{patterns:?} on {origin:?}");
        }
    }

    #[test]
    fn malformed_patterns_name_the_rule() {
        for (text, expected) in [
            ("", OriginError::Scheme),
            ("null", OriginError::Scheme),
            ("example.com", OriginError::Scheme),
            ("wss://example.com", OriginError::Scheme),
            ("**", OriginError::Scheme),
            ("*://example.com", OriginError::Scheme),
            ("https://*", OriginError::Wildcard),
            ("https://*example.com", OriginError::Wildcard),
            ("https://a.*.com", OriginError::Wildcard),
            ("https://*.*.com", OriginError::Wildcard),
            ("https://*.[::1]", OriginError::Wildcard),
            ("https://example.com:*", OriginError::Wildcard),
            ("https://example.com/", OriginError::NotBare),
            ("https://example.com/app", OriginError::NotBare),
            ("https://*.example.com/", OriginError::NotBare),
            ("https://user@example.com", OriginError::NotBare),
            ("https://", OriginError::Host),
            ("https://*.", OriginError::Host),
            ("https://.", OriginError::Host),
            ("https://a..b", OriginError::Host),
            ("https://exämple.com", OriginError::Host),
            ("https://exam ple.com", OriginError::Host),
            ("https://[::1", OriginError::Host),
            ("https://[]", OriginError::Host),
            ("https://[::1]x", OriginError::Host),
            ("https://a:", OriginError::Port),
            ("https://a:0", OriginError::Port),
            ("https://a:+1", OriginError::Port),
            ("https://a:65536", OriginError::Port),
            ("https://::1", OriginError::Host),
        ] {
            assert_eq!(OriginPattern::parse(text), Err(expected), "{text:?}");
        }
        let port = |text| match OriginPattern::parse(text) {
            Ok(OriginPattern::Exact { port, .. }) => Some(port),
            _ => None,
        };
        assert_eq!(port("https://a:65535"), Some(65535));
        assert_eq!(port("https://a:1"), Some(1));
    }
}
