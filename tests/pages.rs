//! What the pages show of what happens, in a real browser: comments that fly over the wall at
//! `GET /`. What the dashboard shows is in `dashboard.rs`.

#[path = "browser/chromium.rs"]
mod chromium;
#[path = "clients/driven.rs"]
mod driven;
mod harness;
#[path = "browser/relay.rs"]
mod relay;

use serde_json::{Value, json};

use chromium::{Browser, Publisher, page_url};
use harness::{Api, Client, Daemon};
use relay::Relay;

/// Pairs of comments that touch, and comments outside of every lane, as `[touching, flying, lanes]`.
const SKY: &str = "(() => {
    const sprites = wall.sprites(), { lanes } = wall.stats();
    let touching = sprites.filter(({ lane }) => !(lane >= 0 && lane < lanes)).length;
    for (const [place, one] of sprites.entries()) {
        touching += sprites.slice(place + 1).filter((other) => one.lane === other.lane
            && one.left < other.right && other.left < one.right).length;
    }
    return [touching, sprites.length, new Set(sprites.map(({ lane }) => lane)).size];
})()";

/// What of the page does not fit the width of its window, and what a finger would miss.
const MISFITS: &str = "[
    ...[...document.querySelectorAll('body *')].filter((part) => part.getClientRects().length
        && part.getBoundingClientRect().right > innerWidth + 0.5),
    ...[...document.querySelectorAll('button, input:not([type=radio]), #colors label')].filter((part) =>
        part.getClientRects().length && part.getBoundingClientRect().height < 40),
].map((part) => part.id || part.tagName)
    .concat(document.documentElement.scrollWidth > innerWidth ? ['the page'] : [])";

fn stat(browser: &mut Browser, page: &str, name: &str) -> u64 {
    let value = browser.read(page, &format!("wall.stats().{name}"));
    value.as_u64().unwrap_or_else(|| panic!("{name}: {value}"))
}

/// Waits until the wall has been given `count` comments.
fn wait_heard(browser: &mut Browser, page: &str, count: u64) {
    browser.wait_read(page, "wall.stats().heard", |heard| *heard == count);
}

/// Looks at the sky as it is now: nothing may touch. Returns how many comments fly, in how many lanes.
fn look(browser: &mut Browser, page: &str) -> (u64, u64) {
    let sky = browser.read(page, SKY);
    assert_eq!(
        sky[0],
        0,
        "comments touch: {}",
        browser.read(page, "JSON.stringify(wall.sprites())")
    );
    let count = |place: usize| sky[place].as_u64().expect("a count");
    (count(1), count(2))
}

// --- The wall -----------------------------------------------------------------------------------

#[test]
fn comments_of_several_members_fly_and_never_touch() {
    let daemon = Daemon::start(&[]);
    let mut browser = Browser::start();
    browser.install_clock();
    browser.enter("a", &daemon, "r", "alice");
    browser.wait_state("a", "open", "connected to r");
    // The greeting behind the door is over with entering.
    browser.wait_read("a", "wall.stats().inTheAir", |flying| *flying == 0);
    let before = stat(&mut browser, "a", "heard");
    let mut members: Vec<Client> = ["bob", "carol", "dan"]
        .map(|user| Client::connect(&daemon, &format!("/ws?user={user}&room=r&echo=0")))
        .into();
    let (mut most_flying, mut most_lanes, mut said) = (0, 0, 0);
    for turn in 0..80_u64 {
        if turn < 40 {
            for (number, member) in (0..).zip(&mut members) {
                // Lengths from a letter to more than a line, so that speeds differ much.
                let length = match (turn * 3 + number) % 24 {
                    0 => 90,
                    other => usize::try_from(other % 12 + 1).expect("small"),
                };
                member.send_text(&"wow ".repeat(length)[..length]);
                said += 1;
            }
            wait_heard(&mut browser, "a", before + said);
        }
        browser.advance(150);
        let (flying, lanes) = look(&mut browser, "a");
        most_flying = most_flying.max(flying);
        most_lanes = most_lanes.max(lanes);
        if turn == 25 || turn == 35 {
            // A window that changes its size, in the middle of it.
            let (width, height) = if turn == 25 { (1000, 500) } else { (1280, 720) };
            browser.size("a", width, height);
        }
    }
    assert!(
        most_flying >= 40 && most_flying > most_lanes && most_lanes >= 8,
        "{most_flying} in {most_lanes} lanes"
    );
    browser.advance(60_000);
    assert_eq!(look(&mut browser, "a"), (0, 0));
    let names = "new Set([...document.querySelectorAll('#log .said b')].map((who) => who.textContent)).size";
    assert_eq!(browser.read("a", names), 3);
    browser.assert_no_complaints("a");
}

#[test]
fn who_may_follow_never_touches_and_who_may_not_would() {
    let daemon = Daemon::start(&[]);
    let mut browser = Browser::start();
    browser.goto("a", &page_url(daemon.addr(), "r"));
    // The distance between the two, looked at often, until the first is gone.
    let script = "(() => {
        const wrong = [], seen = { true: 0, false: 0 };
        for (let trial = 0; trial < 20_000; trial += 1) {
            const [width, first, second] = [100, 20, 20].map((least) => least + Math.random() * 400);
            const tail = Math.random() * 1.5 * width, away = tail / first;
            let least = Infinity;
            for (let part = 0; part <= 40; part += 1) {
                const time = away * part / 40;
                least = Math.min(least, (width - second * time) - (tail - first * time));
            }
            const may = mayFollow(tail, first, second, width);
            seen[may] += 1;
            if (Math.abs(least) > 1e-6 && may !== least > 0) wrong.push([tail, first, second, width, least]);
        }
        return [wrong.slice(0, 3), seen.true > 1000 && seen.false > 1000];
    })()";
    assert_eq!(browser.read("a", script), json!([[], true]));
}

#[test]
fn two_thousand_comments_in_a_minute_are_drawn_in_every_frame_or_counted() {
    let daemon = Daemon::start(&[]);
    let mut browser = Browser::start();
    browser.install_clock();
    let mut bob = Publisher::new(&daemon, "room=r");
    browser.enter("a", &daemon, "r", "alice");
    daemon.wait_members(4);
    browser.wait_read("a", "wall.stats().inTheAir", |flying| *flying == 0);
    let before: Vec<u64> = [
        "heard", "flown", "passed", "frames", "painted", "measured", "pictures",
    ]
    .map(|name| stat(&mut browser, "a", name))
    .into();
    let mut most_flying = 0;
    for second in 0..60_u32 {
        // Of 2000, the rest in the last second.
        let (from, to) = (
            second * 33 + 1,
            if second == 59 { 2000 } else { second * 33 + 33 },
        );
        bob.say(from, to);
        wait_heard(&mut browser, "a", before[0] + u64::from(to));
        browser.advance(500);
        let (flying, _) = look(&mut browser, "a");
        browser.advance(500);
        most_flying = most_flying.max(flying);
    }
    browser.advance(30_000);
    assert_eq!(look(&mut browser, "a"), (0, 0));
    let mut gain = |place: usize, name| stat(&mut browser, "a", name) - before[place];
    let (flown, passed) = (gain(1, "flown"), gain(2, "passed"));
    assert_eq!(
        flown + passed,
        2000,
        "{flown} flew, {passed} were passed over"
    );
    assert!(flown >= 1000, "{flown} flew");
    // A frame each 16 ms, and in each the same little work: what flies is painted once and then only
    // copied, in pictures that are used again.
    let frames = gain(3, "frames");
    assert!(frames >= 60 * 55, "{frames} frames");
    assert_eq!(gain(4, "painted"), flown);
    assert!(gain(5, "measured") <= 2000);
    let pictures = gain(6, "pictures");
    assert!(
        most_flying > 50 && pictures < 600,
        "{pictures} pictures for {most_flying}"
    );
    let told = browser.read("a", "document.getElementById('spare').textContent");
    if passed > 0 {
        browser.wait("a", "#spare", &format!("{passed} in the list only"));
    } else {
        assert_eq!(told, "");
    }
    // The list keeps what it always keeps.
    browser.expect_last_numbers("a", 2000, 500);
    browser.assert_no_complaints("a");
}

#[test]
fn one_who_comes_back_is_told_what_was_caught_up_and_what_is_lost() {
    for (history, told) in [
        ("1000", "Reconnected: 12 comments caught up."),
        ("5", "Reconnected: 5 comments caught up, 7 comments lost."),
    ] {
        let daemon = Daemon::start(&["--history-size", history]);
        let relay = Relay::to(daemon.addr());
        let mut browser = Browser::start();
        browser.install_clock();
        let mut bob = Publisher::new(&daemon, "room=r");
        browser.goto("a", &page_url(relay.addr(), "r"));
        browser.click("a", "#connect");
        daemon.wait_members(3);
        bob.say(1, 2);
        browser.expect_numbers("a", "said", 1, 2);
        assert_eq!(
            browser.read("a", "document.getElementById('toast').textContent"),
            ""
        );

        relay.cut();
        browser.wait(
            "a",
            "#toast[data-kind=wait]",
            "Connection lost, trying again in",
        );
        daemon.wait_members(2);
        bob.say(3, 14);
        relay.mend();
        browser.click("a", "#again");
        browser.wait("a", "#toast", told);
        let is_whole = history == "1000";
        let missed = browser.texts("a", "missed");
        assert_eq!(missed.is_empty(), is_whole, "{missed:?}");
        let caught = if is_whole { 12 } else { 5 };
        assert_eq!(browser.texts("a", "caught").len(), caught);

        // Nothing was said this time.
        relay.cut();
        browser.wait_state("a", "waiting", "connection lost");
        relay.mend();
        browser.click("a", "#again");
        browser.wait("a", "#toast", "Reconnected: nothing was missed.");
        browser.assert_no_complaints("a");
    }
}

#[test]
fn name_and_colour_are_remembered_and_travel() {
    let daemon = Daemon::start(&[]);
    let mut browser = Browser::start();
    let mut raw = Client::connect(&daemon, "/ws?room=r");
    browser.goto("a", &page_url(daemon.addr(), "r"));
    browser.click("a", "#colors label[title=rose]");
    browser.fill("a", "#user", "alice");
    browser.click("a", "#connect");
    browser.wait_state("a", "open", "connected to r");
    browser.say("a", "in rose");
    assert_eq!(raw.recv_json(), json!({"text": "in rose", "color": "rose"}));
    browser.wait("a", "#log .said b[data-color=rose]", "alice");
    assert_eq!(browser.texts("a", "said"), ["in rose"]);

    // Plain text is what it was before there were colours, whatever it looks like.
    while browser.read("a", "document.getElementById('ink').dataset.color") != "plain" {
        browser.click("a", "#ink");
    }
    browser.say("a", "plain");
    assert_eq!(raw.recv_text(), "plain");
    let tricky = r#"{"text":"no"}"#;
    browser.say("a", tricky);
    assert_eq!(raw.recv_json(), json!({"text": tricky}));
    browser.wait("a", "#log .said >> nth=-1", tricky);
    browser.click("a", "#ink");
    browser.order("a", "close", json!({}));

    // Another tab, another room, and later.
    browser.goto("b", &page_url(daemon.addr(), "s"));
    assert_eq!(
        browser.read("b", "document.getElementById('user').value"),
        "alice"
    );
    assert_eq!(
        browser.read("b", "document.getElementById('room').value"),
        "s"
    );
    assert_eq!(
        browser.read("b", "document.querySelector('#colors :checked').value"),
        "rose"
    );
    browser.assert_no_complaints("b");
}

#[test]
fn what_is_no_comment_of_a_member_is_shown_too() {
    let daemon = Daemon::start(&[]);
    let mut browser = Browser::start();
    let mut api = Api::connect(&daemon);
    browser.enter("a", &daemon, "r", "alice");
    browser.wait_state("a", "open", "connected to r");
    api.publish("r", &json!({"text": "from a back end", "color": "mint"}));
    api.publish("r", &json!({"goals": 3, "color": 7}));
    api.publish("r", &json!({"text": "odd", "color": "url(x)"}));
    api.publish("r", &Value::Null);
    api.result("publish", &json!({"channel": "r", "b64data": "AP8="}));
    api.result("publish_all", &json!({"data": "to everybody"}));
    browser.wait("a", "#log .said >> nth=-1", "to everybody");
    let expected = [
        "from a back end",
        r#"{"color":7,"goals":3}"#,
        "odd",
        "null",
        "[binary, 2 bytes]",
        "to everybody",
    ];
    assert_eq!(browser.texts("a", "said"), expected);
    let colors =
        "[...document.querySelectorAll('#log .said b')].map((who) => who.dataset.color).join()";
    assert_eq!(
        browser.read("a", colors),
        "mint,plain,plain,plain,plain,plain"
    );
    browser.assert_no_complaints("a");
}

#[test]
fn who_wants_no_motion_gets_comments_that_stand_still() {
    let daemon = Daemon::start(&[]);
    let mut browser = Browser::start();
    browser.install_clock();
    browser.order("a", "still", json!({"still": true}));
    let mut bob = Publisher::new(&daemon, "room=r");
    browser.enter("a", &daemon, "r", "alice");
    daemon.wait_members(4);
    bob.say(1, 3);
    wait_heard(&mut browser, "a", 3);
    let places = "JSON.stringify(wall.sprites().map(({ left, lane }) => [left, lane]))";
    browser.advance(100);
    assert_eq!(look(&mut browser, "a"), (3, 3));
    let before = browser.read("a", places);
    browser.advance(1000);
    assert_eq!(browser.read("a", places), before);
    browser.advance(10_000);
    assert_eq!(look(&mut browser, "a"), (0, 0));

    // And who wants none at all keeps the list.
    browser.click("a", "#fly");
    bob.say(4, 4);
    browser.expect_numbers("a", "said", 1, 4);
    assert_eq!(stat(&mut browser, "a", "heard"), 3);
    browser.assert_no_complaints("a");
}

#[test]
fn the_wall_fits_a_phone() {
    let daemon = Daemon::start(&[]);
    let mut browser = Browser::start();
    let none = json!([]);
    for (width, height) in [(390, 844), (320, 568), (844, 390)] {
        let page = format!("{width} by {height}");
        browser.size(&page, width, height);
        browser.goto(&page, &page_url(daemon.addr(), "r"));
        browser.wait_state(&page, "idle", "not connected");
        assert_eq!(browser.read(&page, MISFITS), none, "{page}, before");
        browser.fill(&page, "#user", "alice");
        browser.click(&page, "#connect");
        browser.wait_state(&page, "open", "connected to r");
        browser.say(&page, &"unbroken".repeat(60));
        browser.wait(&page, "#log .said >> nth=-1", "unbroken");
        assert_eq!(browser.read(&page, MISFITS), none, "{page}, inside");
        let seen = "document.getElementById('send').getBoundingClientRect().bottom <= innerHeight";
        assert_eq!(browser.read(&page, seen), true, "{page}");
        browser.click(&page, "#disconnect");
        browser.wait_state(&page, "closed", "closed 1000");
        assert_eq!(browser.read(&page, MISFITS), none, "{page}, after");
    }
}

#[test]
fn each_listener_has_its_own_page() {
    let daemon = Daemon::start(&[]);
    let (wall, dashboard) = (daemon.get("/"), daemon.admin_get("/"));
    for (page, sign) in [(&wall, "id=\"sky\""), (&dashboard, "id=\"plots\"")] {
        assert_eq!(page.status, 200);
        assert!(page.text().contains(sign), "{sign}");
        let policy = page.header("content-security-policy").expect("a policy");
        assert!(policy.starts_with("default-src 'none';"), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
    }
    assert_ne!(wall.text(), dashboard.text());
}
