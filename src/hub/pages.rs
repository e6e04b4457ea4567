//! The pages that the daemon brings with it: the wall for everybody, the dashboard for operators.
//!
//! Owns: how a page is put together from its files in `src/pages`, and what it is allowed to do.
//! Never: puts anything of a request, a room or a user into a page; pages ask for figures themselves.
//!
//! Invariants
//! - A page is one document. It brings its style and its script along, and loads nothing from anywhere.
//! - Its policy names the hashes of just these two, so markup that got into the page could neither run
//!   nor load anything; and no other site can frame it.

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

/// The page at `/` of public listeners.
pub(super) static WALL: LazyLock<Page> = LazyLock::new(|| {
    let parts = Parts {
        document: include_str!("../pages/wall.html"),
        style: include_str!("../pages/wall.css"),
        script: concat!(
            include_str!("../pages/flight.js"),
            include_str!("../pages/wall.js")
        ),
    };
    // Not every browser takes a WebSocket to the same host for `'self'`.
    Page::new(&parts, "'self' ws: wss:")
});

/// The page at `/` of the admin listener.
pub(super) static DASHBOARD: LazyLock<Page> = LazyLock::new(|| {
    let parts = Parts {
        document: include_str!("../pages/dashboard.html"),
        style: include_str!("../pages/dashboard.css"),
        script: concat!(
            include_str!("../pages/plot.js"),
            include_str!("../pages/dashboard.js")
        ),
    };
    Page::new(&parts, "'self'")
});

/// A page, ready to be sent.
#[derive(Debug)]
pub(super) struct Page {
    body: String,
    policy: String,
}

/// What a page is made of.
struct Parts {
    /// The document, with an empty style and an empty script as places for the two others.
    document: &'static str,
    style: &'static str,
    script: &'static str,
}

impl Page {
    /// Puts a page together that may connect to `connect`, sources in the words of the policy.
    fn new(parts: &Parts, connect: &str) -> Self {
        let fill = |document: &str, tag: &str, text: &str| {
            let place = format!("<{tag}></{tag}>");
            document.replacen(&place, &format!("<{tag}>{text}</{tag}>"), 1)
        };
        let body = fill(parts.document, "style", parts.style);
        let body = fill(&body, "script", parts.script);
        let policy = format!(
            "default-src 'none'; script-src {script}; style-src {style}; img-src data:; \
             connect-src {connect}; form-action 'none'; frame-ancestors 'none'; base-uri 'none'",
            script = source_of(parts.script),
            style = source_of(parts.style),
        );
        Self { body, policy }
    }

    /// The document.
    pub(super) fn body(&self) -> &[u8] {
        self.body.as_bytes()
    }

    /// Its `Content-Security-Policy`.
    pub(super) fn policy(&self) -> &str {
        &self.policy
    }
}

/// A text as a source of the policy: by its hash.
fn source_of(text: &str) -> String {
    format!("'sha256-{}'", STANDARD.encode(Sha256::digest(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_whole_and_its_policy_fits_it() {
        for page in [&*WALL, &*DASHBOARD] {
            let text = std::str::from_utf8(page.body()).unwrap();
            for (tag, directive) in [("style", "style-src"), ("script", "script-src")] {
                let (open, close) = (format!("<{tag}>"), format!("</{tag}>"));
                assert_eq!(text.matches(&open).count(), 1, "{tag}");
                let (_, rest) = text.split_once(&open).unwrap();
                let (inside, _) = rest.split_once(&close).unwrap();
                assert!(inside.len() > 1000, "{tag}: {} bytes", inside.len());
                let expected = format!("{directive} {};", source_of(inside));
                assert!(page.policy().contains(&expected), "{}", page.policy());
            }
            // What follows would put text from the wire into markup, need another policy, or load.
            for word in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                " style=\"",
                " onclick=\"",
                "src=\"http",
                "url(http",
                "@import",
            ] {
                assert!(!text.contains(word), "{word}");
            }
        }
    }
}
