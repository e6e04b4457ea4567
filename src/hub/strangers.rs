//! Web pages that are not of the admin listener, in the browser of somebody who reaches it.
//!
//! A browser on the operator's host reaches a loopback address, and asks it for what any page wants.
//! Owns: what tells such a request from one of an operator, a back end or the listener's own page.
//! Never: takes the place of a key; whoever is no browser may say anything here.
//!
//! The rules
//! - `Origin` must be where the request goes to. Browsers name it for every POST, and `null` is nobody's.
//! - `Sec-Fetch-Site` may not name another site or origin, unless somebody follows a link.
//! - Without a key, `Host` must be an address or `localhost`: anybody's name can be made to resolve to
//!   this address, and to the browser a page of that name is then one of ours ("DNS rebinding").

use std::net::IpAddr;

use http::header::{HOST, ORIGIN};
use http::{HeaderName, Method, Request, StatusCode};

use super::Hub;
use super::requests::header_text;
use crate::wire::http::Response;

impl<S> Hub<S> {
    /// The answer to a request that a stranger's page makes, or could be making; `None` if it is
    /// none. Whether anybody's name is looked at says `is_secret`: a probe may use any.
    pub(super) fn refusal_of_strangers(
        &self,
        request: &Request<()>,
        is_secret: bool,
    ) -> Option<Response<'static>> {
        let text = if is_of_another_origin(request) || is_of_another_site(request) {
            "this origin is not allowed\n"
        } else if is_secret && self.gate.api_key.is_none() && !names_an_address(request) {
            "only by IP address or localhost, or with an API key\n"
        } else {
            return None;
        };
        Some(Response::plain(StatusCode::FORBIDDEN, text))
    }
}

fn is_of_another_origin(request: &Request<()>) -> bool {
    let host = header_text(request, &HOST).unwrap_or_default();
    request.headers().get_all(ORIGIN).iter().any(|origin| {
        let authority = origin.to_str().ok().and_then(|text| text.split_once("://"));
        !authority.is_some_and(|(_, authority)| authority.eq_ignore_ascii_case(&host))
    })
}

/// Whether a browser says so. It does where it trusts the way to us, as it does to loopback
/// addresses and over TLS.
fn is_of_another_site(request: &Request<()>) -> bool {
    let is = |name, value: &str| header_text(request, &name).is_some_and(|found| found == value);
    let Some(site) = header_text(request, &SEC_FETCH_SITE) else {
        return false;
    };
    // A link may be followed from anywhere, into a window of its own: the page behind it sees nothing.
    let is_link = is(SEC_FETCH_MODE, "navigate")
        && is(SEC_FETCH_DEST, "document")
        && matches!(*request.method(), Method::GET | Method::HEAD);
    !is_link && site != "same-origin" && site != "none"
}

/// Whether the request is for an address or `localhost`. One of HTTP/1.0 may not say, and no browser
/// sends such.
fn names_an_address(request: &Request<()>) -> bool {
    header_text(request, &HOST).is_none_or(|host| is_address(&host))
}

/// Whether the authority of a URL is an IP address or `localhost`, with or without a port.
fn is_address(authority: &str) -> bool {
    let name = match authority.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => authority,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const SEC_FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_anybody_can_own_are_told_from_addresses() {
        for (authority, expected) in [
            ("127.0.0.1:7778", true),
            ("127.0.0.1", true),
            ("[::1]:7778", true),
            ("[::1]", true),
            ("localhost:7778", true),
            ("LOCALHOST", true),
            ("evil.example:7778", false),
            ("127.0.0.1.evil.example", false),
            ("localhost.evil.example:80", false),
            ("", false),
        ] {
            assert_eq!(is_address(authority), expected, "{authority}");
        }
    }

    #[test]
    fn a_browser_that_says_where_a_request_is_from_is_believed() {
        let check = |method: Method, site: &str, mode: &str, dest: &str| {
            let mut builder = Request::builder().method(method);
            for (name, value) in [(SEC_FETCH_SITE, site), (SEC_FETCH_MODE, mode)] {
                if !value.is_empty() {
                    builder = builder.header(name, value);
                }
            }
            let builder = builder.header(SEC_FETCH_DEST, dest);
            is_of_another_site(&builder.body(()).expect("good headers"))
        };
        for (method, site, mode, dest, expected) in [
            (Method::GET, "", "no-cors", "image", false),
            (Method::GET, "none", "navigate", "document", false),
            (Method::GET, "same-origin", "cors", "empty", false),
            (Method::POST, "same-origin", "cors", "empty", false),
            (Method::GET, "cross-site", "navigate", "document", false),
            (Method::HEAD, "same-site", "navigate", "document", false),
            (Method::POST, "cross-site", "navigate", "document", true),
            (Method::GET, "cross-site", "navigate", "iframe", true),
            (Method::GET, "cross-site", "navigate", "object", true),
            (Method::GET, "cross-site", "no-cors", "image", true),
            (Method::GET, "same-site", "cors", "empty", true),
            (Method::GET, "cross-site", "", "document", true),
            (Method::GET, "whatever", "cors", "empty", true),
        ] {
            let found = check(method.clone(), site, mode, dest);
            assert_eq!(found, expected, "{method} {site} {mode} {dest}");
        }
    }
}
