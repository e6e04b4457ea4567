//! Pages that mean harm, in a Chromium on the host of the daemon: what they cannot reach, change,
//! read, frame or bring into a page of ours.
//!
//! `evil.test` is a name that this browser resolves to the host itself, as anybody can have it do.

#[path = "browser/chromium.rs"]
mod chromium;
#[path = "clients/driven.rs"]
mod driven;
mod harness;
#[path = "browser/relay.rs"]
mod relay;

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};

use chromium::{Browser, page_url};
use harness::{Api, Client, Daemon, Dial, SecretFile, signed_token, wait_until};
use relay::Relay;

const KEY: &str = "a-key-of-sixteen-bytes";
const SECRET: &str = "s3cret-of-the-tests-is-32-bytes!";

fn start_browser() -> Browser {
    Browser::start_with(&["--host-resolver-rules=MAP evil.test 127.0.0.1"])
}

/// A web server of somebody else, with an empty page. Its thread ends with the process.
fn strangers_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener.local_addr().expect("a bound socket has one");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A browser that hangs up has its page already.
            let _ = serve(stream);
        }
    });
    addr
}

fn serve(mut stream: TcpStream) -> std::io::Result<()> {
    // Browsers open connections in reserve, which must not hold up the others.
    stream.set_read_timeout(Some(Duration::from_millis(500)))?;
    let mut lines = BufReader::new(&stream).lines();
    while lines
        .next()
        .is_some_and(|line| line.is_ok_and(|line| !line.is_empty()))
    {}
    let page = "<!doctype html><link rel=icon href=data:,><body>a page</body>";
    let length = page.len();
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close";
    write!(stream, "{head}\r\nContent-Length: {length}\r\n\r\n{page}")
}

/// What a page can try against the listeners of a daemon. Yields the outcome of each attempt that
/// has one: what was read, `loaded`, or `failed`.
const ATTACK: &str = r#"(async ([admin, open]) => {
  const outcomes = {};
  const attempt = async (name, act) => {
    outcomes[name] = await act().catch(() => "failed");
  };
  const read = (path, options) => async () => (await fetch(`http://${admin}${path}`, options)).status;
  const element = (tag, fields) => () => new Promise((done) => {
    const made = document.createElement(tag);
    made.onload = () => done("loaded");
    made.onerror = () => done("failed");
    for (const [name, value] of Object.entries(fields)) made.setAttribute(name, value);
    document.body.append(made);
  });
  const socket = (url) => () => new Promise((done) => {
    const made = new WebSocket(url);
    made.onopen = () => done("loaded");
    made.onclose = () => done("failed");
  });
  const body = '{"channel":"a","data":"forged"}';
  const post = { method: "POST", body };
  await attempt("blind call", read("/api/publish", { ...post, mode: "no-cors" }));
  await attempt("call", read("/api/publish", post));
  await attempt("call with a key", read("/api/publish", { ...post, headers: { "X-API-Key": "k" } }));
  navigator.sendBeacon(`http://${admin}/api/publish`, body);
  for (const path of ["/metrics", "/debug/loop", "/", "/readyz"]) {
    await attempt(`read ${path}`, read(path));
    await attempt(`blind ${path}`, read(path, { mode: "no-cors" }));
  }
  await attempt("image", element("img", { src: `http://${admin}/metrics` }));
  await attempt("script", element("script", { src: `http://${admin}/metrics` }));
  await attempt("style", element("link", { rel: "stylesheet", href: `http://${admin}/metrics` }));
  await attempt("object", element("object", { data: `http://${admin}/`, type: "text/html" }));
  await attempt("module", () => import(`http://${admin}/metrics`).then(() => "loaded"));
  await attempt("events", () => new Promise((done) => {
    const made = new EventSource(`http://${admin}/metrics`);
    made.onopen = () => done("loaded");
    made.onerror = () => { made.close(); done("failed"); };
  }));
  await attempt("socket of the admin listener", socket(`ws://${admin}/ws?room=a`));
  await attempt("socket", socket(`ws://${open}/ws?room=a`));
  await attempt("socket of an SDK", socket(`ws://${open}/connection/websocket`));
  // Forms end in a frame that nobody can look into, and tell nothing.
  for (const type of ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"]) {
    const form = document.createElement("form");
    const name = `frame of ${type}`;
    Object.assign(form, { method: "post", action: `http://${admin}/api/publish`, enctype: type, target: name });
    const field = document.createElement("input");
    [field.name, field.value] = ['{"channel":"a","data":"forged","x":"', '"}'];
    form.append(field);
    const frame = document.createElement("iframe");
    frame.name = name;
    document.body.append(frame, form);
    await new Promise((done) => { frame.onload = done; form.submit(); });
  }
  return outcomes;
})"#;

/// Carries out every attempt from `page`, each of which must fail; returns how many requests of them
/// are answered 403.
fn attack(browser: &mut Browser, page: &str, daemon: &Daemon) -> f64 {
    let targets = json!([daemon.admin().to_string(), daemon.addr().to_string()]);
    let mut outcomes = browser.read(page, &format!("{ATTACK}({targets})"));
    let outcomes = outcomes.as_object_mut().expect("outcomes by name");
    assert!(outcomes.len() > 15, "{outcomes:?}");
    let attempts = outcomes.len();
    outcomes.retain(|_, outcome| outcome != "failed");
    assert_eq!(json!(outcomes), json!({}), "{page}");
    (attempts + UNSEEN - OTHERWISE_REFUSED) as f64
}

fn calls(daemon: &Daemon) -> f64 {
    daemon.metric("roomcast_api_calls_total{method=\"publish\"}")
}

fn refused(daemon: &Daemon) -> f64 {
    daemon.metric("roomcast_http_responses_total{status=\"403\"}")
}

/// Attempts of [`ATTACK`] without an outcome: the beacon and the forms.
const UNSEEN: usize = 4;

/// Those that are not answered 403: the preflight of the call with a key, which is answered 405, and
/// the WebSocket of the admin listener, which is not found.
const OTHERWISE_REFUSED: usize = 2;

#[test]
fn a_page_of_another_origin_reaches_nothing_through_the_browser() {
    let daemon = Daemon::start(&[]);
    let stranger = strangers_server();
    let mut browser = start_browser();
    let mut member = Client::connect(&daemon, "/ws?room=a");
    // The same site on another port, another site, and none: the origin of a sandbox is `null`.
    let same_site = format!("http://{stranger}/");
    let other_site = format!("http://evil.test:{}/", stranger.port());
    for url in [&same_site, &other_site] {
        browser.goto(url, url);
        let before = refused(&daemon);
        let attempts = attack(&mut browser, url, &daemon);
        // A browser may ask for more than it was told to.
        wait_until("all attempts were refused", || {
            refused(&daemon) >= before + attempts
        });
        assert_eq!(calls(&daemon), 0.0, "{url}");
    }
    // The dashboard may do what they may not.
    browser.goto("own", &format!("http://{}/", daemon.admin()));
    let own = "(async () => [(await fetch('/metrics')).status, (await fetch('/api/publish', \
               {method: 'POST', body: '{\"channel\":\"a\",\"data\":\"own\"}'})).status])()";
    assert_eq!(browser.read("own", own), json!([200, 200]));
    assert_eq!(calls(&daemon), 1.0);
    assert_eq!(member.recv_text(), "own", "and nothing forged before it");
}

#[test]
fn a_page_without_an_origin_of_its_own_reaches_nothing_either() {
    let daemon = Daemon::start(&[]);
    let stranger = strangers_server();
    let mut browser = start_browser();
    browser.goto("a", &format!("http://evil.test:{}/", stranger.port()));
    let script = format!(
        "new Promise((done) => {{
          addEventListener('message', (event) => done(event.data));
          const frame = document.createElement('iframe');
          frame.sandbox = 'allow-scripts';
          frame.srcdoc = `<script>(async () => {{
            const tried = [];
            for (const mode of ['cors', 'no-cors']) {{
              const options = {{method: 'POST', mode, body: '{{\"channel\":\"a\",\"data\":\"forged\"}}'}};
              tried.push(await fetch('http://{admin}/api/publish', options).catch(() => 'failed'));
            }}
            parent.postMessage([origin, ...tried], '*');
          }})()</` + `script>`;
          document.body.append(frame);
        }})",
        admin = daemon.admin()
    );
    let told = browser.read("a", &script);
    assert_eq!(told, json!(["null", "failed", "failed"]));
    assert_eq!((refused(&daemon), calls(&daemon)), (2.0, 0.0));
}

/// From now on the name that `page` came from stands for a listener of the daemon: to the browser
/// nothing has changed.
fn rebind(browser: &mut Browser, page: &str, relay: &Relay, listener: SocketAddr) {
    relay.turn_to(listener);
    // Browsers keep connections in reserve, which still lead to where the page is from.
    relay.cut();
    relay.mend();
    let script = "fetch('/healthz').then((answer) => answer.text()).catch(() => '')";
    browser.wait_read(page, script, |text| text == "ok");
}

/// What a page reads that the browser takes for one of ours.
const LOOK: &str = "(async () => {
  const status = async (path, options) => (await fetch(path, options)).status;
  const post = {method: 'POST', body: '{\"channel\":\"a\",\"data\":\"forged\"}'};
  return [await status('/healthz'), await status('/metrics'), await status('/debug/loop'),
    await status('/'), await status('/api/publish', post)];
})()";

#[test]
fn a_name_that_was_made_to_resolve_here_is_not_ours() {
    let file = SecretFile::new(KEY);
    let stranger = strangers_server();
    let mut browser = start_browser();
    for (args, by_name, by_address) in [
        (vec![], [200, 403, 403, 403, 403], [200, 200, 200, 200, 200]),
        // With a key only what needs it is kept from those who can reach the listener.
        (
            vec!["--api-key-file", file.path()],
            [200, 200, 401, 200, 401],
            [200, 200, 401, 200, 401],
        ),
    ] {
        let daemon = Daemon::start(&args);
        for (host, expected) in [("evil.test", by_name), ("127.0.0.1", by_address)] {
            let relay = Relay::to(stranger);
            let page = format!("{host} {args:?}");
            browser.goto(&page, &format!("http://{host}:{}/", relay.addr().port()));
            rebind(&mut browser, &page, &relay, daemon.admin());
            assert_eq!(browser.read(&page, LOOK), json!(expected), "{page}");
        }
    }
}

#[test]
fn a_name_that_was_made_to_resolve_here_opens_no_websocket_where_origins_are_listed() {
    let stranger = strangers_server();
    let mut browser = start_browser();
    let listed = ["--allowed-origin", "https://chat.example.com"];
    for (args, expected) in [(&listed[..], "close"), (&[][..], "open")] {
        let daemon = Daemon::start(args);
        let relay = Relay::to(stranger);
        browser.goto(
            expected,
            &format!("http://evil.test:{}/", relay.addr().port()),
        );
        rebind(&mut browser, expected, &relay, daemon.addr());
        let script = "new Promise((done) => {
          const socket = new WebSocket(`ws://${location.host}/ws?room=a`);
          socket.onopen = socket.onclose = (event) => done(event.type);
        })";
        assert_eq!(browser.read(expected, script), expected);
    }
}

#[test]
fn no_page_of_ours_can_be_framed() {
    let daemon = Daemon::start(&[]);
    let stranger = strangers_server();
    let mut browser = start_browser();
    for (page, addr) in [("wall", daemon.addr()), ("dashboard", daemon.admin())] {
        browser.goto(page, &format!("http://{stranger}/"));
        let script = format!(
            "new Promise((done) => {{
              const frame = document.createElement('iframe');
              frame.src = 'http://{addr}/';
              frame.onload = () => done('over');
              document.body.append(frame);
            }})"
        );
        assert_eq!(browser.read(page, &script), "over");
        let is_refusal = |complaint: &Value| {
            let text = complaint.as_str().unwrap_or_default();
            text.contains(&format!("http://{addr}")) && text.contains("frame-ancestors")
        };
        wait_until("the browser refuses", || {
            let complaints = browser.order(page, "complaints", json!({}));
            complaints
                .as_array()
                .is_some_and(|all| all.iter().any(is_refusal))
        });
    }
}

#[test]
fn markup_in_names_is_text_on_the_dashboard_and_on_the_wall() {
    let daemon = Daemon::start(&[]);
    let mut browser = start_browser();
    let markup =
        "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>";
    let encoded: String = form_urlencoded::byte_serialize(markup.as_bytes()).collect();
    let target = format!("/ws?room={encoded}&user={encoded}&format=json");
    let mut hostile = Dial::new(daemon.addr(), &target).connect();
    browser.goto("dashboard", &format!("http://{}/", daemon.admin()));
    browser.wait("dashboard", "td", markup);
    browser.goto("wall", &page_url(daemon.addr(), &encoded));
    browser.fill("wall", "#user", "ada");
    browser.click("wall", "#connect");
    browser.wait_state("wall", "open", markup);
    hostile.send_text(markup);
    browser.wait("wall", "#log .said", markup);
    for page in ["dashboard", "wall"] {
        let script = "[document.querySelectorAll('img').length, document.title.includes('owned')]";
        assert_eq!(browser.read(page, script), json!([0, false]), "{page}");
    }
    let rows = Api::connect(&daemon).result("channels", &json!({}));
    assert!(rows["channels"].get(markup).is_some(), "{rows}");
}

#[test]
fn the_wall_keeps_a_token_to_its_tab() {
    let file = SecretFile::new(SECRET);
    let daemon = Daemon::start(&["--token-secret-file", file.path()]);
    let mut browser = start_browser();
    let token = signed_token(SECRET, &json!({ "sub": "ada" }));
    let url = format!("{}&token={token}", page_url(daemon.addr(), "r"));
    browser.goto("wall", &url);
    browser.fill("wall", "#user", "ada");
    browser.click("wall", "#connect");
    browser.wait_state("wall", "open", "connected to r");
    let places = "[location.href, JSON.stringify(localStorage), document.cookie, \
                  document.documentElement.outerHTML, JSON.stringify(sessionStorage)]";
    let places = browser.read("wall", places);
    let holds: Vec<bool> = (places.as_array().expect("five places").iter())
        .map(|place| place.as_str().expect("text").contains(&token))
        .collect();
    // A tab that is loaded again has to have it from somewhere.
    assert_eq!(holds, [false, false, false, false, true], "{places}");
}
