//! Centrifugo's SDK in a browser: pages of another origin in one room with everybody else, reloads
//! that miss nothing, ends that are for good.

#[path = "browser/chromium.rs"]
mod chromium;
#[path = "clients/driven.rs"]
mod driven;
mod harness;

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};

use chromium::Browser;
use driven::tool;
use harness::{Api, Client, Daemon, SecretFile, pace, signed_token};

/// A web server with the page, on a port of its own. Its thread ends with the process.
fn page_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener.local_addr().expect("a bound socket has one");
    let library = tool("node/node_modules/centrifuge/dist/centrifuge.js");
    let library = std::fs::read_to_string(library).expect("the SDK's build for browsers");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A browser that hangs up has its page already.
            let _ = serve(stream, &library);
        }
    });
    addr
}

/// Answers one request.
fn serve(mut stream: TcpStream, library: &str) -> std::io::Result<()> {
    // Browsers open connections in reserve, which must not hold up the others.
    stream.set_read_timeout(Some(Duration::from_millis(500)))?;
    let mut lines = BufReader::new(&stream).lines();
    let request = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    while lines
        .next()
        .is_some_and(|line| line.is_ok_and(|line| !line.is_empty()))
    {}
    let path = request.split([' ', '?']).nth(1).unwrap_or_default();
    let (status, kind, body) = match path {
        "/" => ("200 OK", "text/html", PAGE),
        "/centrifuge.js" => ("200 OK", "text/javascript", library),
        "/page.mjs" => ("200 OK", "text/javascript", SCRIPT),
        _ => ("404 Not Found", "text/plain", ""),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())
}

const PAGE: &str = r#"<!doctype html><link rel="icon" href="data:,"><script src="/centrifuge.js"></script>
<script type="module" src="/page.mjs"></script>"#;
const SCRIPT: &str = include_str!("clients/sdk_page.mjs");

/// A daemon that lets this server's pages in.
fn start(pages: SocketAddr, args: &[&str]) -> Daemon {
    let origin = format!("http://{pages}");
    Daemon::start(&[&["--allowed-origin", &origin], args].concat())
}

/// A back end whose connection lasts: one without a call is not kept for as long as a browser may
/// take to start.
fn back_end(daemon: &Daemon) -> Api {
    let mut api = Api::connect(daemon);
    api.result("info", &json!({}));
    api
}

fn url(pages: SocketAddr, daemon: &Daemon, query: &str) -> String {
    format!("http://{pages}/?daemon={}&{query}", daemon.addr())
}

/// Waits until the page was told so many things, and returns them; it may not have been told more.
fn told(browser: &mut Browser, page: &str, len: usize) -> Vec<Value> {
    let has_come = |told: &Value| told.as_array().is_some_and(|told| told.len() >= len);
    let told = browser.wait_read(page, "window.told ?? []", has_come);
    let told: Vec<Value> = serde_json::from_value(told).expect("a list");
    assert_eq!(told.len(), len, "{told:?}");
    told
}

fn publications(data: impl IntoIterator<Item = Value>) -> Vec<Value> {
    let data = data.into_iter();
    data.map(|data| json!(["publication", data])).collect()
}

/// What a page is told first.
fn begun(is_resumed: bool) -> Vec<Value> {
    let subscribed = json!(["subscribed", is_resumed, is_resumed]);
    vec![
        json!(["connecting", 0]),
        json!(["connected", null]),
        subscribed,
    ]
}

#[test]
fn pages_and_other_clients_share_a_room() {
    let pages = page_server();
    let daemon = start(pages, &[]);
    let mut browser = Browser::start();
    let mut raw = Client::connect(&daemon, "/ws?room=r");
    for page in ["a", "b"] {
        browser.goto(page, &url(pages, &daemon, "room=r"));
        assert_eq!(told(&mut browser, page, 3), begun(false));
    }
    daemon.wait_members(3);
    browser.read("a", r#"window.say({ text: 'hello, 弹幕 🎉' })"#);
    raw.send_text("from a raw client");
    assert_eq!(raw.recv_json(), json!({"text": "hello, 弹幕 🎉"}));
    assert_eq!(raw.recv_text(), "from a raw client");
    let mut api = back_end(&daemon);
    api.publish("r", &json!(["from", "a back end"]));
    api.result("publish_all", &json!({"data": "to everybody"}));
    let expected = [
        json!({"text": "hello, 弹幕 🎉"}),
        json!("from a raw client"),
        json!(["from", "a back end"]),
    ];
    for page in ["a", "b"] {
        let all = vec![json!(["message", "to everybody"])];
        let expected = [begun(false), publications(expected.clone()), all].concat();
        assert_eq!(told(&mut browser, page, expected.len()), expected);
    }
    browser.assert_no_complaints("a");
}

#[test]
fn a_page_that_is_loaded_again_goes_on_where_it_was() {
    let pages = page_server();
    let daemon = start(pages, &[]);
    let mut browser = Browser::start();
    let mut api = back_end(&daemon);
    let at = url(pages, &daemon, "room=r");
    browser.goto("a", &at);
    assert_eq!(told(&mut browser, "a", 3), begun(false));
    let mut next = 1;
    for round in 0..3 {
        let here = next..next + 3;
        for number in here.clone() {
            api.publish("r", &json!(number));
        }
        // What it was given at its beginning, and what has come now.
        let first = if round > 0 { next - 10 } else { next };
        let numbers = (first..next + 3).map(Value::from);
        let expected = [begun(round > 0), publications(numbers)].concat();
        assert_eq!(told(&mut browser, "a", expected.len()), expected);
        // Away, for sure, while ten are published.
        browser.goto("a", "about:blank");
        daemon.wait_members(0);
        next += 13;
        for number in next - 10..next {
            api.publish("r", &json!(number));
        }
        browser.goto("a", &at);
    }
    browser.assert_no_complaints("a");
}

#[test]
fn a_reload_under_traffic_neither_loses_nor_repeats() {
    const ALL: u32 = 600;
    let pages = page_server();
    let daemon = start(pages, &[]);
    let mut browser = Browser::start();
    let mut api = back_end(&daemon);
    // What nobody is in and nothing was published to is forgotten.
    api.publish("r", &json!(0));
    browser.goto("a", &url(pages, &daemon, "room=r"));
    assert_eq!(told(&mut browser, "a", 3), begun(false));
    let mut shown: Vec<u32> = Vec::new();
    let mut show = |browser: &mut Browser, is_all: &dyn Fn(&[u32]) -> bool| {
        let script =
            "window.told.filter(([kind]) => kind === 'publication').map(([, data]) => data)";
        let numbers = |data: &Value| serde_json::from_value::<Vec<u32>>(data.clone());
        let data = browser.wait_read("a", script, |data| {
            numbers(data).is_ok_and(|numbers| is_all(&numbers))
        });
        shown.extend(numbers(&data).expect("numbers"));
    };
    let mut reloads = 0;
    std::thread::scope(|scope| {
        let publisher = scope.spawn(|| {
            for number in 1..ALL {
                api.publish("r", &json!(number));
                // About as long as a page takes to come back a few times.
                pace(Duration::from_millis(3));
            }
        });
        while !publisher.is_finished() {
            // Nothing may come between the last look and the end of the page.
            browser.read("a", "window.client.disconnect()");
            show(&mut browser, &|_| true);
            browser.order("a", "reload", json!({}));
            reloads += 1;
        }
    });
    api.publish("r", &json!(ALL));
    show(&mut browser, &|numbers| numbers.last() == Some(&ALL));
    assert_eq!(shown, (1..=ALL).collect::<Vec<u32>>());
    assert!(reloads > 1, "{reloads} reloads");
}

#[test]
fn a_page_that_is_sent_away_stays_away() {
    let file = SecretFile::new(SECRET);
    let pages = page_server();
    let daemon = start(pages, &["--token-secret-file", file.path()]);
    let mut browser = Browser::start();
    let mut api = back_end(&daemon);
    let token = signed_token(SECRET, &json!({"sub": "al"}));
    browser.goto("a", &url(pages, &daemon, &format!("room=r&token={token}")));
    assert_eq!(told(&mut browser, "a", 3), begun(false));
    api.result("unsubscribe", &json!({"channel": "r", "user": "al"}));
    let mut expected = begun(false);
    expected.push(json!(["unsubscribed", 2000]));
    assert_eq!(told(&mut browser, "a", 4), expected);
    api.result("disconnect", &json!({"user": "al"}));
    expected.push(json!(["disconnected", 3503]));
    assert_eq!(told(&mut browser, "a", 5), expected);

    let rubbish = url(pages, &daemon, "room=r&token=rubbish");
    browser.goto("b", &rubbish);
    let refused = [json!(["connecting", 0]), json!(["disconnected", 3500])];
    assert_eq!(told(&mut browser, "b", 2), refused);
    // Nobody has tried again by then.
    assert_eq!(daemon.metric("roomcast_upgrades_total"), 2.0);
    browser.assert_no_complaints("a");
}

#[test]
fn a_page_of_a_foreign_origin_does_not_get_in() {
    let pages = page_server();
    let daemon = Daemon::start(&["--allowed-origin", "https://chat.example.com"]);
    let mut browser = Browser::start();
    browser.goto("a", &url(pages, &daemon, "room=r"));
    let refused = r#"roomcast_http_responses_total{status="403"}"#;
    // The SDK cannot see why, and goes on trying.
    daemon.wait_metric(refused, |count| count >= 3.0);
    assert_eq!(told(&mut browser, "a", 1), [json!(["connecting", 0])]);
    assert_eq!(daemon.metric("roomcast_upgrades_total"), 0.0);
}

const SECRET: &str = "s3cret-of-the-tests-is-32-bytes!";
