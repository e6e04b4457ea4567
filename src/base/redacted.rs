//! A URL as anybody may see it.

/// A URL with stars for the password and for its query, which may hold one, however badly it is
/// written.
#[must_use]
pub fn redacted_url(url: &str) -> String {
    let start = url.find("://").map_or(0, |at| at + 3);
    let (scheme, rest) = url.split_at(start);
    let (rest, query) = match rest.split_once('?') {
        // An at-sign behind it means that the question mark is part of a password, but not behind a
        // path, where nobody logs in.
        Some((rest, query)) if !query.contains('@') || rest.starts_with('/') => (rest, "?***"),
        _ => (rest, ""),
    };
    match rest.rsplit_once('@') {
        Some((login, rest)) => {
            // What stands alone is taken for a password.
            let user = login.split_once(':').map_or("", |(user, _)| user);
            format!("{scheme}{user}:***@{rest}{query}")
        }
        None => format!("{scheme}{rest}{query}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_password_is_shown() {
        for (url, expected) in [
            ("redis://127.0.0.1:6379/1", "redis://127.0.0.1:6379/1"),
            ("redis://:hunter2@host", "redis://:***@host"),
            ("rediss://al:hunter2@host:1/2", "rediss://al:***@host:1/2"),
            ("redis://al:hun@ter2@host", "redis://al:***@host"),
            ("redis://al:hun?ter2@host", "redis://al:***@host"),
            ("redis://al:hun:ter2@host", "redis://al:***@host"),
            ("redis://hunter2@host", "redis://:***@host"),
            ("al:hunter2@host", "al:***@host"),
            ("unix:///run/r.sock", "unix:///run/r.sock"),
            (
                "unix:///run/r.sock?db=1&pass=hunter2",
                "unix:///run/r.sock?***",
            ),
            (
                "unix:///run/r.sock?p%61ss=hunter2",
                "unix:///run/r.sock?***",
            ),
            ("unix:///run/r.sock?pass=hun@ter2", "unix:///run/r.sock?***"),
            ("redis://al:hunter2@host?a=b", "redis://al:***@host?***"),
            (
                "redis+sentinel://:hunter2@a,b:1/m",
                "redis+sentinel://:***@a,b:1/m",
            ),
            ("", ""),
        ] {
            assert_eq!(redacted_url(url), expected);
        }
    }
}
