//! A browser and somebody who is none, for the tests of the pages.
//!
//! Owns: a headless Chromium with its tabs; a raw connection that publishes.
//! Never: waits without a deadline.

#![allow(
    dead_code,
    reason = "each test binary uses its own part of the browser"
)]

use std::net::SocketAddr;
use std::time::Instant;

use serde_json::{Value, json};

use crate::driven::{Driven, brief};
use crate::harness::{Client, DEADLINE, Daemon, breathe};

/// Longer than the page ever waits before it tries to connect again.
pub(crate) const HOUR_MS: u64 = 3_600_000;

/// A headless Chromium with as many pages as names are used.
pub(crate) struct Browser(Driven);

impl Browser {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// One with these flags beside the usual ones.
    pub(crate) fn start_with(flags: &[&str]) -> Self {
        let browser = Driven::browser(flags);
        browser.expect("ok");
        Self(browser)
    }

    /// Carries out one order on `page`, and returns what it yields.
    pub(crate) fn order(&mut self, page: &str, what: &str, mut order: Value) -> Value {
        order["page"] = page.into();
        order["do"] = what.into();
        self.0.order(&order);
        let mut event = self.0.event();
        assert_eq!(event["event"], "ok", "{order}: {}", brief(&event));
        event["value"].take()
    }

    pub(crate) fn click(&mut self, page: &str, at: &str) {
        self.order(page, "click", json!({"at": at}));
    }

    pub(crate) fn fill(&mut self, page: &str, at: &str, data: &str) {
        self.order(page, "fill", json!({"at": at, "data": data}));
    }

    /// Waits until an element at `at` is visible and contains `data`.
    pub(crate) fn wait(&mut self, page: &str, at: &str, data: &str) {
        self.order(page, "await", json!({"at": at, "data": data}));
    }

    pub(crate) fn read(&mut self, page: &str, script: &str) -> Value {
        self.order(page, "read", json!({"script": script}))
    }

    pub(crate) fn goto(&mut self, page: &str, url: &str) {
        self.order(page, "goto", json!({"url": url}));
    }

    /// Opens the daemon's page for `room` and connects as `user`, without waiting for an outcome.
    pub(crate) fn enter(&mut self, page: &str, daemon: &Daemon, room: &str, user: &str) {
        self.goto(page, &page_url(daemon.addr(), room));
        self.fill(page, "#user", user);
        self.click(page, "#connect");
    }

    /// Waits until the page is in the state `state`, and tells so in words that contain `words`.
    pub(crate) fn wait_state(&mut self, page: &str, state: &str, words: &str) {
        self.wait(page, &format!("#state[data-state={state}]"), words);
    }

    /// Stops the time of pages opened from now on: it passes by [`Self::advance`] alone.
    pub(crate) fn install_clock(&mut self) {
        self.order("clock", "clock", json!({}));
    }

    /// Lets `ms` pass in every page.
    pub(crate) fn advance(&mut self, ms: u64) {
        self.order("clock", "advance", json!({"ms": ms}));
    }

    /// Waits until `script` yields a value that meets `condition`, and returns that.
    pub(crate) fn wait_read(
        &mut self,
        page: &str,
        script: &str,
        mut condition: impl FnMut(&Value) -> bool,
    ) -> Value {
        let mut value = Value::Null;
        let deadline = Instant::now() + DEADLINE;
        loop {
            let before = std::mem::replace(&mut value, self.read(page, script));
            if condition(&value) {
                return value;
            }
            assert!(Instant::now() < deadline, "{script} stays {before}");
            breathe();
        }
    }

    /// Sets the size of the page, in pixels of its style sheet.
    pub(crate) fn size(&mut self, page: &str, width: u32, height: u32) {
        self.order(page, "size", json!({"width": width, "height": height}));
    }

    /// The texts of all publications that the page shows, of the kind `kind`.
    pub(crate) fn texts(&mut self, page: &str, kind: &str) -> Vec<String> {
        let script = format!(
            "[...document.querySelectorAll('#log .{kind}')].map((line) => line.lastChild.data)"
        );
        let texts = self.read(page, &script);
        serde_json::from_value(texts).expect("a list of texts")
    }

    /// Waits until the page shows the number `to`, and asserts that it shows `from..=to` in order,
    /// once each, and nothing else of the kind `kind`.
    pub(crate) fn expect_numbers(&mut self, page: &str, kind: &str, from: u32, to: u32) {
        self.wait(page, &format!("#log .{kind} >> nth=-1"), &to.to_string());
        let expected: Vec<String> = (from..=to).map(|number| number.to_string()).collect();
        assert_eq!(self.texts(page, kind), expected);
    }

    /// Asserts that the newest `count` publications that the page shows are the numbers up to `to`.
    pub(crate) fn expect_last_numbers(&mut self, page: &str, to: u32, count: u32) {
        self.wait(page, "#log .said >> nth=-1", &to.to_string());
        let texts = self.texts(page, "said");
        let expected: Vec<String> = (to - count + 1..=to)
            .map(|number| number.to_string())
            .collect();
        assert_eq!(texts, expected);
    }

    pub(crate) fn say(&mut self, page: &str, text: &str) {
        self.fill(page, "#text", text);
        self.click(page, "#send");
    }

    /// Asserts that no page logged an error since the last time.
    pub(crate) fn assert_no_complaints(&mut self, page: &str) {
        let complaints = self.order(page, "complaints", json!({}));
        assert_eq!(complaints, json!([]));
    }
}

pub(crate) fn page_url(addr: SocketAddr, room: &str) -> String {
    format!("http://{addr}/?room={room}")
}

/// A publisher that is no browser. It does not hear what it says itself.
pub(crate) struct Publisher<'d> {
    daemon: &'d Daemon,
    client: Client,
}

impl<'d> Publisher<'d> {
    pub(crate) fn new(daemon: &'d Daemon, query: &str) -> Self {
        let client = Client::connect(daemon, &format!("/ws?user=bob&echo=0&{query}"));
        Self { daemon, client }
    }

    /// Publishes `from..=to`, and waits until the daemon has them.
    pub(crate) fn say(&mut self, from: u32, to: u32) {
        let received = "roomcast_messages_received_total";
        let before = self.daemon.metric(received);
        for number in from..=to {
            self.client.send_text(&number.to_string());
        }
        let all = before + f64::from(to + 1 - from);
        self.daemon.wait_metric(received, |now| now >= all);
    }
}
