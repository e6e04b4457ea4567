//! The page at `GET /` in a real browser: Chromium tabs that talk through the daemon, come back after
//! what they missed, and do not fight over one login.

#[path = "browser/chromium.rs"]
mod chromium;
#[path = "clients/driven.rs"]
mod driven;
mod harness;
#[path = "browser/relay.rs"]
mod relay;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;

use chromium::{Browser, HOUR_MS, Publisher, page_url};
use harness::{Daemon, Signal, pace};
use relay::Relay;

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
fn a_restarted_daemon_is_joined_again_and_the_loss_is_told() {
    let mut daemon = Daemon::start(&[]);
    let mut browser = Browser::start();
    browser.install_clock();
    browser.enter("a", &daemon, "r", "alice");
    browser.wait_state("a", "open", "connected to r");
    browser.say("a", "before");
    browser.wait("a", "#log li:nth-child(2)", "before");

    daemon.signal(Signal::Term);
    browser.wait_state("a", "waiting", "trying again in");
    assert!(daemon.wait_exit().success());
    let addr = daemon.addr().to_string();
    let _daemon = Daemon::start(&["--listen", &addr]);
    browser.advance(HOUR_MS);
    browser.wait_state("a", "open", "connected to r");
    // History ended with the first daemon.
    browser.wait("a", "#log .missed", "Some messages may have been missed");
    browser.say("a", "after");
    browser.wait("a", "#log li:last-child", "after");
    assert_eq!(browser.texts("a", "said"), ["before", "after"]);
    browser.assert_no_complaints("a");
}

#[test]
fn a_reload_resumes_where_the_page_was() {
    let daemon = Daemon::start(&[]);
    let mut browser = Browser::start();
    let mut bob = Publisher::new(&daemon, "room=r");
    daemon.wait_members(2);
    browser.enter("a", &daemon, "r", "alice");
    // Each of the two is also in its personal room.
    daemon.wait_members(4);
    bob.say(1, 3);
    browser.expect_numbers("a", "said", 1, 3);

    // Away, for sure, while four to six are published.
    browser.goto("a", "about:blank");
    daemon.wait_members(2);
    bob.say(4, 6);
    browser.goto("a", &page_url(daemon.addr(), "r"));
    browser.wait_state("a", "open", "connected to r");
    bob.say(7, 7);
    browser.expect_numbers("a", "said", 1, 7);
    assert_eq!(browser.texts("a", "missed"), [""; 0]);

    // A page for another room begins anew, and by hand.
    browser.goto("a", &page_url(daemon.addr(), "other"));
    browser.wait_state("a", "idle", "not connected");
    assert_eq!(browser.texts("a", "said"), [""; 0]);
    browser.assert_no_complaints("a");
}

#[test]
fn reloads_under_traffic_neither_lose_nor_repeat() {
    let daemon = Daemon::start(&[]);
    let mut browser = Browser::start();
    browser.enter("a", &daemon, "r", "alice");
    daemon.wait_members(2);
    let is_over = AtomicBool::new(false);
    let last = std::thread::scope(|scope| {
        let publishing = scope.spawn(|| {
            let mut bob = Publisher::new(&daemon, "room=r");
            let mut last = 0;
            // The page keeps 500 lines, notes included.
            while last < 400 && (last == 0 || !is_over.load(Ordering::Relaxed)) {
                last += 1;
                bob.say(last, last);
                // So that the reloads come in the middle of it.
                pace(Duration::from_millis(2));
            }
            last
        });
        for _ in 0..3 {
            browser.order("a", "reload", json!({}));
            browser.wait_state("a", "open", "connected to r");
        }
        is_over.store(true, Ordering::Relaxed);
        publishing.join().expect("the publisher's end")
    });
    browser.expect_numbers("a", "said", 1, last);
    assert_eq!(browser.texts("a", "missed"), [""; 0]);
    browser.assert_no_complaints("a");
}

#[test]
fn a_reload_after_too_long_tells_how_much_is_gone() {
    let daemon = Daemon::start(&["--history-size", "2"]);
    let mut browser = Browser::start();
    let mut bob = Publisher::new(&daemon, "room=r");
    browser.enter("a", &daemon, "r", "");
    daemon.wait_members(3);
    bob.say(1, 1);
    browser.expect_numbers("a", "said", 1, 1);
    let losses = [
        (2, 6, "3 messages were missed."),
        (7, 9, "1 message was missed."),
    ];
    for (from, to, told) in losses {
        browser.goto("a", "about:blank");
        daemon.wait_members(2);
        bob.say(from, to);
        browser.goto("a", &page_url(daemon.addr(), "r"));
        browser.wait("a", "#log .missed:nth-last-child(3)", told);
        browser.wait("a", "#log .said:last-child", &to.to_string());
    }
    assert_eq!(browser.texts("a", "said"), ["1", "5", "6", "8", "9"]);
    browser.assert_no_complaints("a");
}

#[test]
fn a_lost_connection_is_resumed_as_soon_as_there_is_a_way() {
    let daemon = Daemon::start(&[]);
    let relay = Relay::to(daemon.addr());
    let mut browser = Browser::start();
    browser.install_clock();
    let mut bob = Publisher::new(&daemon, "room=r");
    browser.goto("a", &page_url(relay.addr(), "r"));
    browser.click("a", "#connect");
    daemon.wait_members(3);
    bob.say(1, 2);
    browser.expect_numbers("a", "said", 1, 2);

    relay.cut();
    daemon.wait_members(2);
    bob.say(3, 4);
    for attempt in 1..=3 {
        browser.wait_state("a", "waiting", "connection lost; trying again in");
        // In small steps: what has failed before a long one is over would be tried again within it.
        while browser.read("a", "failures") == attempt {
            browser.advance(100);
            browser.wait_read(
                "a",
                "document.querySelector('#state').dataset.state",
                |state| state != "connecting",
            );
        }
        relay.wait_refused(attempt);
    }
    bob.say(5, 5);
    relay.mend();
    browser.wait_state("a", "waiting", "connection lost; trying again in");
    browser.advance(HOUR_MS);
    browser.wait_state("a", "open", "connected to r");
    bob.say(6, 6);
    browser.expect_numbers("a", "said", 1, 6);
    assert_eq!(browser.texts("a", "missed"), [""; 0]);

    // Who gives up while the page waits is left alone.
    relay.cut();
    browser.wait_state("a", "waiting", "connection lost");
    browser.click("a", "#disconnect");
    browser.wait_state("a", "closed", "not connected");
    relay.mend();
    let upgrades = daemon.metric("roomcast_upgrades_total");
    browser.advance(HOUR_MS);
    browser.wait_state("a", "closed", "not connected");
    assert_eq!(daemon.metric("roomcast_upgrades_total"), upgrades);
    browser.assert_no_complaints("a");
}

#[test]
fn a_close_that_asks_to_come_back_is_obeyed() {
    let args = ["--message-rate", "1", "--message-burst", "3"];
    let daemon = Daemon::start(&args);
    let mut browser = Browser::start();
    browser.install_clock();
    let mut bob = Publisher::new(&daemon, "room=r");
    browser.enter("a", &daemon, "r", "alice");
    browser.wait_state("a", "open", "connected to r");
    // At once, since the rate would let through what a person types.
    browser.read(
        "a",
        "for (let n = 0; n < 100; n += 1) socket.send(`flood ${n}`)",
    );
    browser.wait_state(
        "a",
        "waiting",
        "closed 3013: too many requests; trying again",
    );
    bob.say(1, 2);
    browser.advance(HOUR_MS);
    browser.wait_state("a", "open", "connected to r");
    bob.say(3, 3);
    browser.wait("a", "#log .said >> nth=-1", "3");
    // Of the flood, what passed before the close, whether the page saw it before or after it.
    let texts = browser.texts("a", "said");
    let passed = texts.len() - 3;
    let expected = (0..passed).map(|number| format!("flood {number}"));
    let expected = expected.chain((1..=3).map(|number| number.to_string()));
    assert_eq!(texts, expected.collect::<Vec<_>>());
    assert!((3..100).contains(&passed));
    browser.assert_no_complaints("a");
}

#[test]
fn the_delay_grows_within_bounds_and_the_server_goes_first() {
    let daemon = Daemon::start(&[]);
    let mut browser = Browser::start();
    browser.goto("a", &page_url(daemon.addr(), "r"));
    for (failures, shortest, longest) in [(0, 500, 1000), (3, 4000, 8000), (60, 15_000, 30_000)] {
        let script = format!("Array.from({{ length: 100 }}, () => retryDelayMs({failures}))");
        let delays = browser.read("a", &script);
        let delays: Vec<f64> = serde_json::from_value(delays).expect("a list of numbers");
        let bounds = f64::from(shortest)..=f64::from(longest);
        assert!(delays.iter().all(|delay| bounds.contains(delay)));
        assert!(delays.iter().any(|delay| *delay != delays[0]));
    }
    assert_eq!(browser.read("a", "retryDelayMs(3, 4321)"), 4321);
    assert_eq!(browser.read("a", "retryDelayMs(3, 0)"), 0);
}

#[test]
fn a_tab_that_was_closed_gets_its_direct_messages() {
    let daemon = Daemon::start(&[]);
    let mut browser = Browser::start();
    let mut bob = Publisher::new(&daemon, "to=uma");
    let url = format!("{}&user=uma", page_url(daemon.addr(), "r"));
    let open = |browser: &mut Browser, tab: &str| {
        browser.goto(tab, &url);
        browser.click(tab, "#connect");
        browser.wait_state(tab, "open", "connected to r");
    };
    let close = |browser: &mut Browser, tab: &str| {
        browser.order(tab, "close", json!({}));
        // Only the publisher is left, in its own personal room.
        daemon.wait_members(1);
    };
    open(&mut browser, "first");
    close(&mut browser, "first");
    bob.say(1, 2);
    open(&mut browser, "second");
    bob.say(3, 3);
    browser.expect_numbers("second", "direct", 1, 3);
    browser.wait("second", "#log .direct b", "bob to you");

    // What one tab has shown is not shown by the next.
    close(&mut browser, "second");
    bob.say(4, 6);
    open(&mut browser, "third");
    bob.say(7, 7);
    browser.expect_numbers("third", "direct", 4, 7);
    close(&mut browser, "third");
    open(&mut browser, "fourth");
    bob.say(8, 8);
    browser.expect_numbers("fourth", "direct", 8, 8);
    assert_eq!(browser.texts("fourth", "missed"), [""; 0]);
    browser.assert_no_complaints("fourth");
}

#[test]
fn a_tab_that_is_replaced_stays_so_until_it_takes_over() {
    let daemon = Daemon::start(&["--duplicate-login", "replace"]);
    let mut browser = Browser::start();
    browser.install_clock();
    let mut bob = Publisher::new(&daemon, "room=r");
    browser.enter("a", &daemon, "r", "alice");
    browser.wait_state("a", "open", "connected to r");
    bob.say(1, 1);
    browser.expect_numbers("a", "said", 1, 1);

    browser.enter("b", &daemon, "r", "alice");
    expect_replaced(&mut browser, &daemon, "a", "b");
    bob.say(2, 2);
    browser.expect_numbers("b", "said", 2, 2);
    browser.expect_numbers("a", "said", 1, 1);

    // Not even a reload makes it fight.
    browser.order("a", "reload", json!({}));
    browser.wait_state("a", "idle", "not connected");
    browser.click("a", "#connect");
    expect_replaced(&mut browser, &daemon, "b", "a");
    browser.click("b", "#takeover");
    expect_replaced(&mut browser, &daemon, "a", "b");
    bob.say(3, 3);
    browser.expect_numbers("b", "said", 2, 3);
    browser.assert_no_complaints("b");
}

/// Waits until `loser` says that it was replaced and `winner` is connected, and asserts that neither
/// ever connects again by itself.
fn expect_replaced(browser: &mut Browser, daemon: &Daemon, loser: &str, winner: &str) {
    browser.wait_state(loser, "closed", "closed 3504: connection limit");
    browser.wait(loser, "#notice", "alice is now connected elsewhere");
    browser.wait(loser, "#takeover", "Take over");
    browser.wait_state(winner, "open", "connected to r");
    let upgrades = daemon.metric("roomcast_upgrades_total");
    browser.advance(HOUR_MS);
    browser.wait_state(loser, "closed", "closed 3504: connection limit");
    browser.wait_state(winner, "open", "connected to r");
    assert_eq!(daemon.metric("roomcast_upgrades_total"), upgrades);
}

#[test]
fn a_second_tab_is_refused_while_the_first_is_there() {
    let daemon = Daemon::start(&["--duplicate-login", "refuse"]);
    let mut browser = Browser::start();
    browser.install_clock();
    let mut bob = Publisher::new(&daemon, "room=r");
    browser.enter("a", &daemon, "r", "alice");
    browser.wait_state("a", "open", "connected to r");
    browser.enter("b", &daemon, "r", "alice");
    browser.wait_state("b", "closed", "closed 3504: connection limit");
    browser.wait("b", "#notice", "alice is already connected elsewhere");
    let hidden = "document.getElementById('takeover').hidden";
    assert_eq!(browser.read("b", hidden), true);

    let upgrades = daemon.metric("roomcast_upgrades_total");
    browser.advance(HOUR_MS);
    bob.say(1, 1);
    browser.expect_numbers("a", "said", 1, 1);
    browser.wait_state("b", "closed", "closed 3504: connection limit");
    assert_eq!(browser.texts("b", "said"), [""; 0]);
    assert_eq!(daemon.metric("roomcast_upgrades_total"), upgrades);

    // The place is free once the first has left it.
    browser.click("a", "#disconnect");
    browser.wait_state("a", "closed", "closed 1000");
    daemon.wait_closes("normal", 1.0);
    browser.click("b", "#connect");
    browser.wait_state("b", "open", "connected to r");
    bob.say(2, 2);
    browser.expect_numbers("b", "said", 2, 2);
    browser.assert_no_complaints("b");
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
