//! The page at `GET /` in a real browser: two Chromium pages that talk through the daemon.

#[path = "clients/driven.rs"]
mod driven;
mod harness;

use serde_json::{Value, json};

use driven::{Driven, brief};
use harness::{Daemon, Signal};

/// A headless Chromium with as many pages as names are used.
struct Browser(Driven);

impl Browser {
    fn start() -> Self {
        let browser = Driven::browser();
        browser.expect("ok");
        Self(browser)
    }

    /// Carries out one order on `page`, and returns what it yields.
    fn order(&mut self, page: &str, what: &str, mut order: Value) -> Value {
        order["page"] = page.into();
        order["do"] = what.into();
        self.0.order(&order);
        let mut event = self.0.event();
        assert_eq!(event["event"], "ok", "{order}: {}", brief(&event));
        event["value"].take()
    }

    fn click(&mut self, page: &str, at: &str) {
        self.order(page, "click", json!({"at": at}));
    }

    fn fill(&mut self, page: &str, at: &str, data: &str) {
        self.order(page, "fill", json!({"at": at, "data": data}));
    }

    /// Waits until an element at `at` is visible and contains `data`.
    fn wait(&mut self, page: &str, at: &str, data: &str) {
        self.order(page, "await", json!({"at": at, "data": data}));
    }

    fn read(&mut self, page: &str, script: &str) -> Value {
        self.order(page, "read", json!({"script": script}))
    }

    /// Opens the daemon's page for `room` and connects as `user`, without waiting for an outcome.
    fn enter(&mut self, page: &str, daemon: &Daemon, room: &str, user: &str) {
        let url = format!("http://{}/?room={room}", daemon.addr());
        self.order(page, "goto", json!({"url": url}));
        self.fill(page, "#user", user);
        self.click(page, "#connect");
    }

    fn say(&mut self, page: &str, text: &str) {
        self.fill(page, "#text", text);
        self.click(page, "#send");
    }

    /// Asserts that no page logged an error since the last time.
    fn assert_no_complaints(&mut self, page: &str) {
        let complaints = self.order(page, "complaints", json!({}));
        assert_eq!(complaints, json!([]));
    }
}

#[test]
fn two_pages_chat() {
    let daemon = Daemon::start(&[]);
    let mut browser = Browser::start();
    browser.enter("a", &daemon, "tea%20room", "alice");
    browser.wait("a", "#state[data-state=open]", "connected to tea room");
    browser.wait("a", "#log li:nth-child(1)", "members now: 1");
    browser.enter("b", &daemon, "tea%20room", "bob");
    browser.wait("b", "#log li:nth-child(1)", "members now: 2");

    browser.say("a", "hello, 弹幕 🎉");
    browser.say("b", "hello yourself");
    for page in ["a", "b"] {
        browser.wait(page, "#log li:nth-child(2)", "hello, 弹幕 🎉");
        browser.wait(page, "#log li:nth-child(2) b", "alice");
        browser.wait(page, "#log li:nth-child(3)", "hello yourself");
        browser.wait(page, "#log li:nth-child(3) b", "bob");
    }

    // Markup is shown as the text it is.
    let markup = "<img src=x onerror='document.title=\"owned\"'><b>bold</b>";
    browser.say("a", markup);
    browser.wait("b", "#log li:nth-child(4)", markup);
    assert_eq!(
        browser.read("b", "document.querySelectorAll('#log img').length"),
        0
    );
    assert_eq!(browser.read("b", "document.title"), "roomcast");

    browser.click("a", "#disconnect");
    browser.wait("a", "#state[data-state=closed]", "closed 1000");
    daemon.wait_closes("normal", 1.0);
    browser.say("b", "anybody left?");
    browser.wait("b", "#log li:nth-child(5)", "anybody left?");
    assert_eq!(
        browser.read("a", "document.querySelectorAll('#log li').length"),
        4
    );
    browser.assert_no_complaints("a");
}

#[test]
fn a_refused_name_shows_its_close_code() {
    let daemon = Daemon::start(&[]);
    let mut browser = Browser::start();
    for (number, name) in ["comma,name", "弹幕"].into_iter().enumerate() {
        let page = format!("page {number}");
        browser.enter(&page, &daemon, "r", name);
        browser.wait(&page, "#state[data-state=closed]", "closed 3501");
        browser.wait(&page, "#log li", "a name has no comma");
        // With a better name the same page gets in.
        browser.fill(&page, "#user", "tab name&100%");
        browser.click(&page, "#connect");
        browser.wait(&page, "#state[data-state=open]", "connected to r");
        browser.say(&page, "in");
        browser.wait(&page, "#log li:last-child b", "tab name&100%");
    }
    let other = "#someone";
    browser.enter("other", &daemon, "r", "alice");
    browser.wait("other", "#state[data-state=open]", "connected");
    browser.click("other", "#disconnect");
    browser.wait("other", "#state[data-state=closed]", "closed 1000");
    browser.fill("other", "#room", other);
    browser.click("other", "#connect");
    browser.wait("other", "#state[data-state=closed]", "closed 3507");
    browser.assert_no_complaints("other");
}

#[test]
fn a_restarted_daemon_is_seen_and_joined_again() {
    let mut daemon = Daemon::start(&[]);
    let mut browser = Browser::start();
    browser.enter("a", &daemon, "r", "alice");
    browser.wait("a", "#state[data-state=open]", "connected to r");
    browser.say("a", "before");
    browser.wait("a", "#log li:nth-child(2)", "before");

    daemon.signal(Signal::Term);
    browser.wait("a", "#state[data-state=closed]", "closed 3001: shutdown");
    assert!(daemon.wait_exit().success());
    let addr = daemon.addr().to_string();
    let _daemon = Daemon::start(&["--listen", &addr]);
    browser.click("a", "#connect");
    browser.wait("a", "#state[data-state=open]", "connected to r");
    browser.say("a", "after");
    browser.wait("a", "#log li:nth-child(4)", "after");
    browser.assert_no_complaints("a");
}

#[test]
fn the_page_fits_a_phone_in_light_and_dark() {
    let daemon = Daemon::start(&[]);
    let mut browser = Browser::start();
    browser.order("phone", "size", json!({"width": 360, "height": 640}));
    browser.enter("phone", &daemon, "r", "alice");
    browser.wait("phone", "#state[data-state=open]", "connected to r");
    browser.say("phone", &"unbroken".repeat(60));
    browser.wait("phone", "#log li", "unbrokenunbroken");
    let fits = "document.documentElement.scrollWidth <= innerWidth \
        && document.getElementById('send').getBoundingClientRect().bottom <= innerHeight";
    assert_eq!(browser.read("phone", fits), true);
    let mut back = |dark: bool| {
        browser.order("phone", "dark", json!({"dark": dark}));
        browser.read("phone", "getComputedStyle(document.body).backgroundColor")
    };
    assert_ne!(back(false), back(true));
    browser.assert_no_complaints("phone");
}
