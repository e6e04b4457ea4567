//! The options that make a node one of a cluster.
//!
//! Never: shows a password.

use std::fmt;
use std::time::Duration;

use super::config::ConfigError;
use crate::base::redacted_url;

/// Where the Redis of a cluster is.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl(String);

/// How a node is part of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterConfig {
    /// `--redis`; `None` for a node that is alone.
    pub url: Option<RedisUrl>,
    /// `--redis-prefix`.
    pub prefix: String,
    /// `--redis-wait`.
    pub wait: Duration,
}

impl RedisUrl {
    /// The URL with its password, for nobody but Redis.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    fn parse(text: &str) -> Result<Self, ConfigError> {
        let url = Self(text.to_owned());
        let rule = "must be redis://HOST:PORT, rediss://HOST:PORT, redis+unix:///PATH or \
                    redis+sentinel://HOST:PORT/MASTER";
        let is_good = SCHEMES.iter().any(|scheme| {
            text.strip_prefix(scheme).is_some_and(|rest| {
                rest.bytes().all(|byte| byte.is_ascii_graphic()) && !rest.is_empty()
            })
        });
        if !is_good {
            return Err(ConfigError::quoting("--redis", &url.to_string(), rule));
        }
        Ok(url)
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&redacted_url(&self.0))
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl ClusterConfig {
    /// Checks the options.
    ///
    /// # Errors
    /// The first that breaks a rule.
    pub(super) fn check(
        url: Option<&str>,
        prefix: String,
        wait: Duration,
    ) -> Result<Self, ConfigError> {
        let is_in_prefix =
            |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        if prefix.is_empty() || prefix.len() > NAME_BYTES_MAX || !prefix.bytes().all(is_in_prefix) {
            let rule = "must be 1 to 64 letters, digits, dots, dashes and underscores";
            return Err(ConfigError::quoting("--redis-prefix", &prefix, rule));
        }
        if !(WAIT_MIN..=WAIT_MAX).contains(&wait) {
            let value = format!("{}ms", wait.as_millis());
            let rule = "must be 100ms to 1m";
            return Err(ConfigError::new("--redis-wait", value, rule));
        }
        let url = url.map(RedisUrl::parse).transpose()?;
        Ok(Self { url, prefix, wait })
    }
}

/// Checks the name of a node.
///
/// # Errors
/// When it breaks a rule.
pub(super) fn check_node_name(name: Option<String>) -> Result<Option<String>, ConfigError> {
    let is_bad = |name: &String| {
        name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control)
    };
    match name {
        Some(name) if is_bad(&name) => {
            let rule = "must be 1 to 64 bytes without control characters";
            Err(ConfigError::quoting("--node-name", &name, rule))
        }
        name => Ok(name),
    }
}

const SCHEMES: [&str; 4] = [
    "redis://",
    "rediss://",
    "redis+unix://",
    "redis+sentinel://",
];

/// Longest prefix, and longest name of a node, in bytes.
const NAME_BYTES_MAX: usize = 64;

const WAIT_MIN: Duration = Duration::from_millis(100);

const WAIT_MAX: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_shown_without_its_password() {
        for (url, shown) in [
            ("redis://h:1", "redis://h:1"),
            ("rediss://al:p@ss@h", "rediss://al:***@h"),
            ("redis+unix:///s?user=u&pass=pw", "redis+unix:///s?***"),
        ] {
            let url = RedisUrl::parse(url).expect("a good URL");
            assert_eq!(
                (url.to_string(), format!("{url:?}")),
                (shown.to_owned(), shown.to_owned())
            );
        }
        for url in [
            "",
            "h:1",
            "redis://",
            "http://:pw@h",
            "redis://a b",
            "redis:h",
        ] {
            let error = RedisUrl::parse(url).expect_err(url).to_string();
            assert!(
                error.contains("--redis") && !error.contains("pw"),
                "{error}"
            );
        }
    }

    #[test]
    fn bounds_are_kept_on_both_sides() {
        let check = |prefix: &str, ms| {
            ClusterConfig::check(
                Some("redis://h"),
                prefix.to_owned(),
                Duration::from_millis(ms),
            )
        };
        for (prefix, ms, is_good) in [
            ("roomcast", 2000, true),
            ("a.B-9_", 100, true),
            ("a", 60_000, true),
            ("a", 99, false),
            ("a", 60_001, false),
            ("", 2000, false),
            ("a:b", 2000, false),
            ("a{b", 2000, false),
        ] {
            assert_eq!(check(prefix, ms).is_ok(), is_good, "{prefix} {ms}");
        }
        assert!(check(&"a".repeat(64), 2000).is_ok() && check(&"a".repeat(65), 2000).is_err());
        let named = |name: &str| check_node_name(Some(name.to_owned()));
        assert!(named("Köln 1").is_ok() && named("").is_err() && named("a\nb").is_err());
    }
}
