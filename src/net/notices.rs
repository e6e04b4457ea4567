//! Trusted proxies that do not say whom they speak for, as the log tells of them.
//!
//! Bound: one line for each of [`PROXIES_MAX`] proxies within [`WINDOW`]. One that goes on hides no
//! other, and does not fill a disk; `malformed_forwards_total` counts every request.

use std::net::IpAddr;
use std::time::Duration;

use crate::base::Instant;

/// The proxies told of lately.
#[derive(Debug, Default)]
pub(super) struct ProxyNotices {
    /// When the window ends.
    until: Option<Instant>,
    /// Those told of in it.
    told: Vec<IpAddr>,
}

impl ProxyNotices {
    /// Tells of a proxy, unless that was done lately.
    pub(super) fn say(&mut self, now: Instant, proxy: IpAddr) {
        if self.admit(now, proxy) {
            log::warn!(
                "the trusted proxy {proxy} sends an X-Forwarded-For that is no list of addresses: \
                 such clients have its own"
            );
        }
    }

    fn admit(&mut self, now: Instant, proxy: IpAddr) -> bool {
        if self.until.is_none_or(|until| until <= now) {
            self.until = Some(now + WINDOW);
            self.told.clear();
        }
        let is_due = self.told.len() < PROXIES_MAX && !self.told.contains(&proxy);
        if is_due {
            self.told.push(proxy);
        }
        is_due
    }
}

/// Proxies told of within [`WINDOW`].
const PROXIES_MAX: usize = 16;

/// How long one line stands for all of a proxy's.
const WINDOW: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_proxy_is_told_of_once_in_a_window() {
        let at = |secs| Instant::ORIGIN + Duration::from_secs(secs);
        let proxy = |last| IpAddr::from([192, 0, 2, last]);
        let mut notices = ProxyNotices::default();
        for (secs, last, expected) in [
            (0, 1, true),
            (0, 1, false),
            (59, 1, false),
            (59, 2, true),
            (59, 2, false),
            (60, 2, true),
            (61, 1, true),
        ] {
            assert_eq!(
                notices.admit(at(secs), proxy(last)),
                expected,
                "{last} at {secs}"
            );
        }
        let told = (0..=255).filter(|last| notices.admit(at(200), proxy(*last)));
        assert_eq!(told.count(), PROXIES_MAX);
    }
}
