//! What the dashboard on the admin listener shows, in a real browser: that it is what happened.

#[path = "browser/chromium.rs"]
mod chromium;
#[path = "clients/driven.rs"]
mod driven;
mod harness;

use std::time::Duration;

use serde_json::json;

use chromium::{Browser, Publisher};
use harness::{Api, Client, Daemon, Dial, SecretFile, Signal, wait_for, wait_until};

/// Series and tiles that the page has no figure for. All but percentiles have one at rest, too.
const DEAD: &str = "PLOTS.flatMap(([, , series]) => series.map(([name]) => name))
    .concat(TILES.map(([, name]) => name))
    .filter((name) => !Number.isFinite(dashboard.newest(name)))";

/// What does not fit the width of the window; tables scroll in their own frames.
const MISFITS: &str = "[...document.querySelectorAll('header *, figure, figcaption *, .tile, article')]
    .filter((part) => part.getClientRects().length && part.getBoundingClientRect().right > innerWidth + 0.5)
    .map((part) => part.id || part.tagName)
    .concat(document.documentElement.scrollWidth > innerWidth ? ['the page'] : [])";

/// What was asked of anybody but the daemon itself.
const FOREIGN: &str = "performance.getEntriesByType('resource').map(({ name }) => name)
    .filter((name) => !name.startsWith(`${location.origin}/`))";

fn url(daemon: &Daemon) -> String {
    format!("http://{}/", daemon.admin())
}

/// Opens the dashboard on page `d`, and waits until it has figures.
fn watch(daemon: &Daemon) -> Browser {
    let mut browser = Browser::start();
    browser.goto("d", &url(daemon));
    browser.wait_state("d", "live", "live");
    browser
}

fn newest(name: &str) -> String {
    format!("dashboard.newest('{name}') ?? -1")
}

/// The cells of a table, by rows.
fn rows(browser: &mut Browser, table: &str) -> Vec<Vec<String>> {
    let script = format!(
        "[...document.querySelectorAll('#{table} tbody tr')]
            .map((row) => [...row.cells].map((cell) => cell.textContent))"
    );
    serde_json::from_value(browser.read("d", &script)).expect("rows of texts")
}

/// Waits until a table has a row that meets `condition`, and returns that.
fn wait_row(
    browser: &mut Browser,
    table: &str,
    mut condition: impl FnMut(&[String]) -> bool,
) -> Vec<String> {
    wait_for(&format!("that row of {table}"), || {
        let rows = rows(browser, table);
        rows.into_iter().find(|row| condition(row))
    })
}

/// Waits until a table has this row.
fn expect_row(browser: &mut Browser, table: &str, expected: &[&str]) {
    wait_row(browser, table, |row| row == expected);
}

/// What the browser says itself of answers that do not come, or are not 200, is no complaint.
fn assert_no_complaints_of_its_own(browser: &mut Browser) {
    let complaints = browser.order("d", "complaints", json!({}));
    let complaints: Vec<String> = serde_json::from_value(complaints).expect("a list of texts");
    let ours = complaints
        .iter()
        .filter(|text| !text.contains("Failed to load resource"));
    assert_eq!(ours.collect::<Vec<_>>(), [""; 0]);
}

// --- Tables -------------------------------------------------------------------------------------

#[test]
fn the_tables_name_who_is_large_who_is_slow_and_who_was_cut_off() {
    let daemon = Daemon::start(&[
        "--outbound-queue=100000",
        "--outbound-queue-size=64MiB",
        "--write-timeout=1h",
    ]);
    let mut browser = watch(&daemon);
    for table in ["rooms", "slow", "closes", "reasons", "calls"] {
        browser.wait("d", &format!("#{table} .none"), "");
    }
    let mut api = Api::connect(&daemon);

    let _members = [(); 3].map(|()| Client::connect(&daemon, "/ws?room=large"));
    let _other = Client::connect(&daemon, "/ws?room=small");
    daemon.wait_members(4);
    for number in 0..7 {
        api.publish("large", &json!(number));
    }
    wait_row(&mut browser, "rooms", |row| row == ["large", "3", "7"]);
    let largest_first = [["large", "3", "7"], ["small", "1", "0"]];
    assert_eq!(rows(&mut browser, "rooms"), largest_first);

    let kicked = Client::connect(&daemon, "/ws?room=large&user=kim");
    daemon.wait_metric("roomcast_users", |users| users == 1.0);
    api.result("disconnect", &json!({"user": "kim"}));
    let peer = kicked.local_addr().to_string();
    let row = wait_row(&mut browser, "closes", |row| row[3] == peer);
    let [reason, code, user] = [1, 2, 4].map(|column: usize| &*row[column]);
    assert_eq!((reason, code, user), ("force_disconnect", "3503", "kim"));
    expect_row(
        &mut browser,
        "reasons",
        &["force_disconnect", "cut off", "1", "1"],
    );
    let refused = Dial::new(daemon.addr(), "/ws?room=large")
        .header("Origin", "http://elsewhere.example")
        .try_connect();
    assert_eq!(refused.err().map(|response| response.status), Some(403));
    expect_row(&mut browser, "reasons", &["origin", "refused", "1", "1"]);

    // Somebody who does not read, for as long as it takes to fill what the kernel holds.
    let stalled = Dial::new(daemon.addr(), "/ws?room=slow&user=al")
        .receive_buffer(4096)
        .connect();
    daemon.wait_metric("roomcast_users", |users| users == 1.0);
    let peer = stalled.local_addr().to_string();
    let block = json!("x".repeat(60_000));
    let mut published = 7;
    wait_until("a queue", || {
        published += 1;
        api.publish("slow", &block);
        daemon.metric("roomcast_websockets_backlogged") == 1.0
    });
    for _ in 0..3 {
        published += 1;
        api.publish("slow", &block);
    }
    // What the page shows is what the API says of that connection.
    let row = wait_row(&mut browser, "slow", |row| {
        let told = api.result("connections", &json!({"user": "al"}));
        let told = &told["connections"][0];
        let queued = told["queued"].as_u64().expect("a number");
        queued >= 3 && row[0] == peer && row[2] == queued.to_string()
    });
    let told = api.result("connections", &json!({"user": "al"}));
    let bytes = told["connections"][0]["queued_bytes"].to_string();
    let words = browser.read("d", &format!("wordsOf('bytes')({bytes})"));
    assert_eq!(
        (&*row[1], &*row[3], &*row[4]),
        ("al", words.as_str().expect("words"), "0")
    );
    assert!(row[6].split(", ").any(|room| room == "slow"), "{row:?}");
    browser.wait_read("d", &newest("deepest"), |deepest| {
        deepest.as_u64() >= Some(3)
    });
    browser.wait_read("d", &newest("deepestBytes"), |deepest| {
        *deepest.to_string() == *bytes
    });

    let published = published.to_string();
    expect_row(
        &mut browser,
        "calls",
        &["publish", "–", &published, &published],
    );
    expect_row(&mut browser, "calls", &["disconnect", "–", "1", "1"]);
    api.error("publish", &json!({}));
    wait_row(&mut browser, "calls", |row| row[1] == "107: 1");
    // The page sees its own cost, among the rest.
    for phase in ["receive", "effects", "flush", "report"] {
        wait_row(&mut browser, "phases", |row| {
            row[0] == phase && row[3].ends_with('s') && row[4].ends_with('s')
        });
    }

    // With all of that, nothing is empty, and nothing is wider than a phone.
    browser.wait_read("d", DEAD, |dead| {
        api.publish(
            "large",
            &json!("for the percentiles, which are of the last seconds"),
        );
        *dead == json!([])
    });
    for (width, height) in [(390, 844), (320, 568), (844, 390)] {
        browser.size("d", width, height);
        assert_eq!(browser.read("d", MISFITS), json!([]), "{width} by {height}");
    }
    assert_eq!(browser.read("d", FOREIGN), json!([]));
    browser.assert_no_complaints("d");
}

#[test]
fn who_and_why_are_shown_to_who_has_the_key() {
    let file = SecretFile::new("the-key-of-this-daemon");
    let daemon = Daemon::start(&["--api-key-file", file.path()]);
    let _member = Client::connect(&daemon, "/ws?room=secret");
    let mut browser = watch(&daemon);
    browser.wait("d", "#rooms .none", "only with the API key");
    browser.wait("d", ".tile[data-key=websockets] b", "1");
    let text = "document.body.innerText";
    for (typed, told) in [
        ("another-key-than-its", "not the key"),
        ("still-another-key", "not the key"),
    ] {
        browser.fill("d", "#key", typed);
        browser.click("d", "#door button");
        browser.wait("d", "#told", told);
        let shown = browser.read("d", text);
        assert!(!shown.as_str().expect("text").contains("secret"), "{shown}");
    }
    browser.fill("d", "#key", "the-key-of-this-daemon");
    browser.click("d", "#door button");
    expect_row(&mut browser, "rooms", &["secret", "1", "0"]);
    assert_eq!(
        browser.read("d", "document.getElementById('door').hidden"),
        true
    );
    // It opens more than this page shows, so nothing keeps it.
    let kept = "JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie, location.href])";
    browser.order("d", "reload", json!({}));
    browser.wait("d", "#rooms .none", "only with the API key");
    let kept = browser.read("d", kept);
    assert!(!kept.as_str().expect("text").contains("the-key"), "{kept}");
    assert_no_complaints_of_its_own(&mut browser);
}

// --- Plots --------------------------------------------------------------------------------------

#[test]
fn the_dashboard_moves_with_the_load_and_survives_a_restart() {
    let mut daemon = Daemon::start(&[]);
    let mut browser = watch(&daemon);
    let mut bob = Publisher::new(&daemon, "room=r");
    let members: Vec<Client> = (0..20)
        .map(|_| Client::connect(&daemon, "/ws?room=r"))
        .collect();
    browser.wait("d", ".tile[data-key=websockets] b", "21");
    // Whatever second they fall into, they are more than none in it.
    let mut said = 0;
    for (name, least) in [("received", 1.0), ("deliveries", 20.0), ("out", 100.0)] {
        browser.wait_read("d", &newest(name), |rate| {
            said += 1;
            bob.say(said, said);
            rate.as_f64().is_some_and(|rate| rate >= least)
        });
    }
    for (name, most) in [("latency99", 5.0), ("turn99", 5.0), ("queuedBytes99", 0.0)] {
        browser.wait_read("d", &newest(name), |value| {
            said += 1;
            bob.say(said, said);
            value
                .as_f64()
                .is_some_and(|value| (0.0..=most).contains(&value))
        });
    }
    browser.wait_read("d", &newest("deliveries"), |rate| *rate == 0.0);
    let painted = "(() => {
        const canvas = document.querySelector('figure canvas');
        const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
        return new Set(new Uint32Array(data.buffer)).size;
    })()";
    assert!(
        browser.read("d", painted).as_u64() > Some(3),
        "an empty plot"
    );

    let picture = "document.querySelector('figure canvas').toDataURL()";
    let before = browser.read("d", picture);
    drop(members);
    browser.wait("d", ".tile[data-key=websockets] b", "1");
    browser.wait_read("d", picture, |now| *now != before);
    browser.wait("d", "#reasons td", "reset");

    let (addr, admin) = (daemon.addr().to_string(), daemon.admin().to_string());
    daemon.signal(Signal::Kill);
    daemon.wait_exit();
    browser.wait_state("d", "away", "not reachable since");
    browser.wait("d", ".tile[data-key=websockets] b", "–");
    let before = browser.read("d", "dashboard.count()").as_u64();
    let daemon = Daemon::start(&["--listen", &addr, "--admin-listen", &admin]);
    browser.wait_state("d", "live", "live, restarted at");
    browser.wait_read("d", "dashboard.count()", |count| count.as_u64() > before);
    assert_eq!(browser.read("d", "dashboard.breaks()"), 1);
    let _members: Vec<Client> = (0..5)
        .map(|_| Client::connect(&daemon, "/ws?room=r"))
        .collect();
    browser.wait("d", ".tile[data-key=websockets] b", "5");

    // A reload keeps what was seen.
    let before = browser.read("d", "dashboard.count()").as_u64();
    browser.order("d", "reload", json!({}));
    browser.wait_state("d", "live", "live");
    assert!(browser.read("d", "dashboard.count()").as_u64() >= before);
    assert_eq!(browser.read("d", FOREIGN), json!([]));
    assert_no_complaints_of_its_own(&mut browser);
}

#[test]
fn the_dashboard_is_light_or_dark_and_shows_a_range() {
    let daemon = Daemon::start(&[]);
    let mut browser = watch(&daemon);
    let mut look = |dark: bool| {
        browser.order("d", "dark", json!({"dark": dark}));
        let ground = browser.read("d", "getComputedStyle(document.body).backgroundColor");
        // Lines and words of plots follow, too.
        let read_anew = "colors?.grid === getComputedStyle(document.documentElement).getPropertyValue('--grid')";
        browser.wait_read("d", read_anew, |is_so| *is_so == true);
        (ground, browser.read("d", "JSON.stringify(colors)"))
    };
    let (light, dark) = (look(false), look(true));
    assert!(light.0 != dark.0 && light.1 != dark.1, "{light:?} {dark:?}");
    browser.click("d", "#ranges button >> nth=2");
    browser.wait("d", "#ranges [aria-pressed=true]", "30 min");
    assert_eq!(browser.read("d", "range"), 1_800_000);
}

#[test]
fn a_drain_is_a_straight_line_and_is_called_so() {
    const MEMBERS: u32 = 120;
    // What is asked of each point is a part of this: a page that does not get to run is late by a second.
    const DRAIN: Duration = Duration::from_secs(12);
    let mut daemon = Daemon::start(&["--drain-timeout", &format!("{}s", DRAIN.as_secs())]);
    let mut browser = watch(&daemon);
    let members: Vec<_> = (0..MEMBERS)
        .map(|_| Client::connect(&daemon, "/ws?room=r"))
        .map(|mut member| {
            std::thread::spawn(move || member.expect_close_within(DRAIN, 3001, "shutdown"))
        })
        .collect();
    browser.wait("d", ".tile[data-key=websockets] b", &MEMBERS.to_string());
    daemon.signal(Signal::Term);
    browser.wait_state("d", "draining", &format!("of {MEMBERS} WebSockets left"));
    browser.wait_read("d", "document.title", |title| {
        title
            .as_str()
            .is_some_and(|title| title.ends_with("left · roomcast"))
    });
    browser.wait_state("d", "away", "drained and gone since");
    assert!(daemon.wait_exit().success());
    for member in members {
        member.join().expect("it was told to leave");
    }
    // Times and WebSockets from the first figures of a daemon that drained.
    let line =
        "samples.times.map((time, place) => [time - drains[0], samples.of('websockets')[place]])
        .filter(([time, left]) => time >= 0 && Number.isFinite(left))";
    let line: Vec<(f64, f64)> = serde_json::from_value(browser.read("d", line)).expect("points");
    assert!(line.len() >= 4, "{line:?}");
    let (_, at_first) = line[0];
    for (ms, left) in &line {
        let expected = at_first - f64::from(MEMBERS) * ms / 1000.0 / DRAIN.as_secs_f64();
        let is_near = (left - expected).abs() <= 0.15 * f64::from(MEMBERS);
        assert!(is_near, "{left} and not {expected} after {ms} ms: {line:?}");
    }
    assert_no_complaints_of_its_own(&mut browser);
}

#[test]
fn figures_are_read_as_the_daemon_writes_them() {
    let daemon = Daemon::start(&[]);
    let mut browser = watch(&daemon);
    for (script, expected) in [
        // Even within a bucket, and only what was counted since.
        (
            "quantile(0.5, new Map([[1, 0], [2, 10], [Infinity, 10]]))",
            json!(1.5),
        ),
        (
            "quantile(0.9, new Map([[1, 90], [2, 190], [Infinity, 190]]), new Map([[1, 90], [2, 90], [Infinity, 90]]))",
            json!(1.9),
        ),
        (
            "quantile(0.99, new Map([[1, 0], [2, 0], [Infinity, 3]]))",
            json!(2),
        ),
        (
            "quantile(0.5, new Map([[1, 4], [Infinity, 4]]), new Map([[1, 4], [Infinity, 4]])) || 'none'",
            json!("none"),
        ),
        ("niceCeiling(2500, 10)", json!(3000)),
        ("niceCeiling(700, 1024)", json!(1024)),
        ("wordsOf('time')(0.0000125)", json!("12.5 µs")),
        ("wordsOf('flow')(1536)", json!("1.50 KiB/s")),
        ("ageOf(7_200_000)", json!("2 h")),
    ] {
        assert_eq!(browser.read("d", script), expected, "{script}");
    }
    // Of real metrics, nothing is passed over: as many plain samples as there are lines without labels.
    let unread = "fetch('metrics').then((answer) => answer.text()).then((text) => {
        const { values, labelled, buckets } = readMetrics(text);
        const lines = text.split('\\n').filter((line) => line && !line.startsWith('#'));
        const read = values.size + [...labelled.values(), ...buckets.values()].reduce((sum, of) => sum + of.size, 0);
        return lines.length - read;
    })";
    assert_eq!(browser.read("d", unread), json!(0));
}
