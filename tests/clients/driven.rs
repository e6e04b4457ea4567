//! A program under orders: a client that nobody here wrote, driven line by line.
//!
//! Owns: the child process, its input for orders and its output of events; all end on drop.
//! Never: waits without a deadline, or goes on without a tool; a missing one fails the test.
//!
//! Orders and events are JSON objects, one a line. The two WebSocket clients know the orders
//! `{"do":"text","data":…}`, `{"do":"binary","b64":…}`, `{"do":"fragments","parts":[…]}`,
//! `{"do":"ping","b64":…}` and `{"do":"close","code":…,"reason":…}`, and tell the events `open`,
//! `refused` (with `status`), `text`, `binary`, `ping` (the npm client only), `pong` and `close`
//! (with `code` and `reason` as that client saw them). The browser's orders are in `browser.mjs`.
//!
//! The back end knows `{"do":"cent","call":…,"params":{…}}` and the same with `cent_async`, which
//! come to `result`, `error` (with `code`, as the server gave it) or `failed` (the library could
//! not read the answer); and `{"do":"requests","call":…}` with a `body` or with `parts` of one,
//! which comes to `answer` with `status` and `text`.

#![allow(dead_code, reason = "each test binary drives its own programs")]

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// How long a program may take for one event. A browser's start on a busy machine takes seconds.
const EVENT_DEADLINE: Duration = Duration::from_secs(40);

/// How long a program may take to end once it gets no more orders.
const END_DEADLINE: Duration = Duration::from_secs(10);

pub(crate) struct Driven {
    name: String,
    child: Child,
    orders: Option<ChildStdin>,
    events: Receiver<Value>,
    complaints: Receiver<String>,
}

impl Driven {
    /// The PyPI package `websockets`.
    pub(crate) fn python(url: &str) -> Self {
        let mut command = Command::new(tool("python/bin/python"));
        command.arg(script("websockets_client.py")).arg(url);
        Self::spawn("Python websockets", command)
    }

    /// The same over TLS, for a server whose certificate this file vouches for.
    pub(crate) fn python_tls(url: &str, authority: &str) -> Self {
        Self::python_tls_with(url, authority, &json!({}))
    }

    /// The same with more arguments of `connect`, such as `additional_headers`.
    pub(crate) fn python_tls_with(url: &str, authority: &str, arguments: &Value) -> Self {
        let mut command = Command::new(tool("python/bin/python"));
        command.arg(script("websockets_client.py")).arg(url);
        command.arg(arguments.to_string());
        command.env("SSL_CERT_FILE", authority);
        Self::spawn("Python websockets", command)
    }

    /// The PyPI packages `cent`, which is Centrifugo's for back ends, and `requests`.
    pub(crate) fn backend(url: &str, key: &str) -> Self {
        let mut command = Command::new(tool("python/bin/python"));
        command.arg(script("backend_client.py")).args([url, key]);
        Self::spawn("Python cent", command)
    }

    /// The npm package `ws`.
    pub(crate) fn node(url: &str) -> Self {
        let mut command = node_script("ws_client.mjs", "ws");
        command.arg(url);
        Self::spawn("npm ws", command)
    }

    /// The same over TLS, for a server whose certificate this file vouches for.
    pub(crate) fn node_tls(url: &str, authority: &str) -> Self {
        let mut command = node_script("ws_client.mjs", "ws");
        command.arg(url).env("NODE_EXTRA_CA_CERTS", authority);
        Self::spawn("npm ws", command)
    }

    /// The npm package `centrifuge`, which is Centrifugo's for browsers and Node; told in `sdk.rs`.
    pub(crate) fn sdk_node(url: &str, options: &Value) -> Self {
        let mut command = node_script("sdk.mjs", "centrifuge");
        command.arg(url).arg(options.to_string());
        Self::spawn("npm centrifuge", command)
    }

    /// The PyPI package `centrifuge-python`; told in `sdk.rs`.
    pub(crate) fn sdk_python(url: &str, options: &Value) -> Self {
        let mut command = Command::new(tool("python/bin/python"));
        command
            .arg(script("sdk.py"))
            .arg(url)
            .arg(options.to_string());
        Self::spawn("Python centrifuge", command)
    }

    /// A headless Chromium, with these flags beside the usual ones.
    pub(crate) fn browser(flags: &[&str]) -> Self {
        let chromium = std::env::var("CHROMIUM").unwrap_or_else(|_| "/usr/bin/chromium".into());
        require(Path::new(&chromium));
        let mut command = node_script("browser.mjs", "playwright-core");
        command.arg(chromium).args(flags);
        Self::spawn("Chromium", command)
    }

    fn spawn(name: &str, mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command.stderr(Stdio::piped());
        let child = command.spawn();
        let mut child = child.unwrap_or_else(|error| panic!("{name}: {error}: run tests/run"));
        let stdout = child.stdout.take().expect("stdout is piped");
        let mut stderr = child.stderr.take().expect("stderr is piped");
        let (event_sender, events) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let event = serde_json::from_str(&line).unwrap_or(Value::String(line));
                if event_sender.send(event).is_err() {
                    break;
                }
            }
        });
        let (complaint_sender, complaints) = channel();
        std::thread::spawn(move || {
            let mut text = Vec::new();
            let _ = stderr.read_to_end(&mut text);
            let _ = complaint_sender.send(String::from_utf8_lossy(&text).into_owned());
        });
        Self {
            name: name.to_owned(),
            orders: child.stdin.take(),
            child,
            events,
            complaints,
        }
    }

    /// Lets the program stand still, and go on.
    pub(crate) fn set_paused(&self, is_paused: bool) {
        let signal = if is_paused { "-STOP" } else { "-CONT" };
        let mut kill = Command::new("kill");
        let status = kill.arg(signal).arg(self.child.id().to_string()).status();
        assert!(status.is_ok_and(|status| status.success()), "kill {signal}");
    }

    pub(crate) fn order(&mut self, order: &Value) {
        let orders = self.orders.as_mut().expect("taken only on drop");
        let written = writeln!(orders, "{order}").and_then(|()| orders.flush());
        written.unwrap_or_else(|error| panic!("{} takes no orders: {error}", self.name));
    }

    /// The next event but for pings, which a server may send at any time. Panics when none comes in
    /// time or the program has ended.
    pub(crate) fn event(&self) -> Value {
        loop {
            let event = self.any_event();
            if event["event"] != "ping" {
                return event;
            }
        }
    }

    /// Waits for a ping of the server, which only the npm client tells, and returns its event.
    pub(crate) fn ping(&self) -> Value {
        let event = self.any_event();
        assert_eq!(
            event["event"],
            "ping",
            "{} told {}",
            self.name,
            brief(&event)
        );
        event
    }

    fn any_event(&self) -> Value {
        let event = self.events.recv_timeout(EVENT_DEADLINE);
        event.unwrap_or_else(|error| panic!("{} tells no further event: {error}", self.name))
    }

    /// The next event, which must be `kind`.
    pub(crate) fn expect(&self, kind: &str) -> Value {
        let event = self.event();
        assert_eq!(event["event"], kind, "{} told {}", self.name, brief(&event));
        event
    }
}

impl Drop for Driven {
    fn drop(&mut self) {
        // Without further orders the program ends by itself, and a browser takes its profile away.
        self.orders = None;
        let deadline = Instant::now() + END_DEADLINE;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            crate::harness::breathe();
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let complaints = self.complaints.recv_timeout(END_DEADLINE);
            eprintln!("--- {}:\n{}", self.name, complaints.unwrap_or_default());
        }
    }
}

/// An event in a line of bounded length.
pub(crate) fn brief(event: &Value) -> String {
    let text = event.to_string();
    text.chars().take(300).collect()
}

/// Runs a Python script with `input`, which must end in success, and returns its output, one JSON
/// value a line.
pub(crate) fn run_python(name: &str, input: &str) -> Vec<Value> {
    let mut command = Command::new(tool("python/bin/python"));
    command.arg(script(name)).stdin(Stdio::piped());
    let mut child = command.stdout(Stdio::piped()).spawn().expect("Python");
    let mut stdin = child.stdin.take().expect("stdin is piped");
    stdin.write_all(input.as_bytes()).expect("it reads");
    drop(stdin);
    let output = child.wait_with_output().expect("a child of ours");
    assert!(output.status.success(), "{name}: {}", output.status);
    let lines = String::from_utf8(output.stdout).expect("UTF-8");
    let read = |line| serde_json::from_str(line).expect("JSON");
    lines.lines().map(read).collect()
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/clients")
        .join(name)
}

fn node_script(name: &str, package: &str) -> Command {
    let modules = tool("node/node_modules");
    require(&modules.join(package));
    let mut command = Command::new("node");
    command.env("NODE_PATH", modules).arg(script(name));
    command
}

/// The path of something that `tests/run` installs below the target directory.
pub(crate) fn tool(path: &str) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent();
    let path = target
        .expect("tmp is below target")
        .join("tools")
        .join(path);
    require(&path);
    path
}

fn require(path: &Path) {
    assert!(
        path.exists(),
        "{} is missing: run tests/run",
        path.display()
    );
}
