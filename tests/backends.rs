//! Back ends that others wrote call the HTTP API: curl, Python `requests`, and `cent`, Centrifugo's
//! library for back ends, which must understand every answer.

#[path = "clients/driven.rs"]
mod driven;
mod harness;

use std::io::Write as _;
use std::process::{Command, Stdio};

use driven::{Driven, brief, run_python};
use harness::{Api, Client, Daemon, SecretFile};
use serde_json::{Value, json};

/// The least that is accepted.
const KEY: &str = "key-of-the-tests-1";

/// A daemon that asks for a key, and the file that holds it.
fn start() -> (Daemon, SecretFile) {
    let file = SecretFile::new(KEY);
    let daemon = Daemon::start(&["--workers", "3", "--api-key-file", file.path()]);
    (daemon, file)
}

fn url(daemon: &Daemon) -> String {
    format!("http://{}/api", daemon.admin())
}

/// The two ways of `cent` to make a call: over one kept connection by `requests`, over a new one
/// each time by `aiohttp`.
const WAYS: [&str; 2] = ["cent", "cent_async"];

struct Cent {
    driven: Driven,
    way: &'static str,
}

impl Cent {
    fn new(daemon: &Daemon, way: &'static str) -> Self {
        let driven = Driven::backend(&url(daemon), KEY);
        Self { driven, way }
    }

    fn call(&mut self, call: &str, params: Value) -> Value {
        let order = json!({ "do": self.way, "call": call, "params": params });
        self.driven.order(&order);
        self.driven.event()
    }

    /// Calls what must succeed, and returns the result as the library has read it.
    fn result(&mut self, call: &str, params: Value) -> Value {
        let mut event = self.call(call, params);
        assert_eq!(event["event"], "result", "{call}: {}", brief(&event));
        event["result"].take()
    }

    /// Calls what must fail, and returns the code that the library has read.
    fn error(&mut self, call: &str, params: Value) -> u64 {
        let event = self.call(call, params);
        assert_eq!(event["event"], "error", "{call}: {}", brief(&event));
        assert_ne!(event["message"], "");
        event["code"].as_u64().expect("a code")
    }
}

#[test]
fn cent_publishes_and_reads_history() {
    for way in WAYS {
        let (daemon, _file) = start();
        let mut cent = Cent::new(&daemon, way);
        let mut member = Client::connect(&daemon, "/ws?room=a&user=al");
        let first = cent.result(
            "publish",
            json!({ "channel": "a", "data": { "n": 1 }, "tags": { "x": "y" } }),
        );
        assert_eq!(first["offset"], 1);
        let epoch = &first["epoch"];
        assert_eq!(member.recv_text(), r#"{"n":1}"#);
        let second = cent.result(
            "publish",
            json!({ "channel": "a", "data": "text", "idempotency_key": "k" }),
        );
        assert_eq!((&second["offset"], &second["epoch"]), (&json!(2), epoch));
        assert_eq!(member.recv_text(), "text");
        let again = cent.result(
            "publish",
            json!({ "channel": "a", "data": "text", "idempotency_key": "k" }),
        );
        assert_eq!(again, second);
        // The library knows `data` as required, so it stands beside `b64data`.
        for data in [json!(null), json!(""), json!({})] {
            cent.result(
                "publish",
                json!({ "channel": "a", "data": data, "b64data": "AP8=" }),
            );
            assert_eq!(member.recv_binary(), [0, 255], "{data}");
        }
        cent.result(
            "publish",
            json!({ "channel": "a", "data": [], "skip_history": true }),
        );
        assert_eq!(member.recv_text(), "[]");
        member.send_binary([1, 2]);
        assert_eq!(member.recv_binary(), [1, 2]);
        member.send_text("from al");
        assert_eq!(member.recv_text(), "from al");
        let broadcast = cent.result(
            "broadcast",
            json!({ "channels": ["a", "b", ""], "data": 7 }),
        );
        let responses = &broadcast["responses"];
        assert_eq!(responses[0]["result"]["offset"], 9, "{responses}");
        assert_eq!(responses[1]["result"]["offset"], 1);
        assert_eq!(responses[2]["error"]["code"], 107);
        assert_eq!(member.recv_text(), "7");

        let position = cent.result("history", json!({ "channel": "a" }));
        assert_eq!(
            position,
            json!({ "publications": [], "offset": 9, "epoch": epoch })
        );
        let all = cent.result("history", json!({ "channel": "a", "limit": 100 }));
        let publications = all["publications"].as_array().expect("a list");
        let offsets: Vec<_> = publications
            .iter()
            .map(|one| one["offset"].as_u64())
            .collect();
        assert_eq!(offsets, [1, 2, 3, 4, 5, 7, 8, 9].map(Some));
        assert_eq!(publications[0]["data"], json!({ "n": 1 }));
        assert_eq!(publications[1]["data"], "text");
        assert_eq!(publications[2]["b64data"], "AP8=");
        assert_eq!(publications[6]["data"], "from al");
        assert_eq!(publications[6]["info"]["user"], "al");
        let since = json!({ "offset": 7, "epoch": epoch });
        let two = cent.result(
            "history",
            json!({ "channel": "a", "limit": 2, "since": since }),
        );
        assert_eq!(two["publications"][0]["offset"], 8);
        let back = cent.result(
            "history",
            json!({ "channel": "a", "limit": 1, "reverse": true }),
        );
        assert_eq!(back["publications"][0]["offset"], 9);
        let since = json!({ "offset": 7, "epoch": "other" });
        assert_eq!(
            cent.error(
                "history",
                json!({ "channel": "a", "limit": 2, "since": since })
            ),
            112
        );
        assert_eq!(
            cent.result("history_remove", json!({ "channel": "a" })),
            json!({})
        );
        let none = cent.result("history", json!({ "channel": "a", "limit": 2 }));
        assert_eq!(none["publications"], json!([]));
        let unknown = cent.result("history", json!({ "channel": "unknown", "limit": 2 }));
        assert_eq!(
            unknown,
            json!({ "publications": [], "offset": 0, "epoch": "" })
        );
    }
}

#[test]
fn cent_sees_who_is_where() {
    for way in WAYS {
        let (daemon, _file) = start();
        let mut cent = Cent::new(&daemon, way);
        assert_eq!(
            cent.result("presence", json!({ "channel": "a" })),
            json!({ "presence": {} })
        );
        assert_eq!(
            cent.result("channels", json!({})),
            json!({ "channels": {} })
        );
        let _tabs = [0, 1].map(|_| Client::connect(&daemon, "/ws?room=a&user=al"));
        let _nobody = Client::connect(&daemon, "/ws?room=b");
        let presence = cent.result("presence", json!({ "channel": "a" }));
        let clients = presence["presence"].as_object().expect("an object");
        assert_eq!(clients.len(), 2);
        for (id, client) in clients {
            assert_eq!(*client, json!({ "client": id, "user": "al" }));
        }
        let nobody = cent.result("presence", json!({ "channel": "b" }));
        let mut clients = nobody["presence"].as_object().expect("an object").values();
        assert_eq!(
            clients.next().map(|client| &client["user"]),
            Some(&json!(""))
        );
        let stats = cent.result("presence_stats", json!({ "channel": "a" }));
        assert_eq!(stats, json!({ "num_clients": 2, "num_users": 1 }));
        let channels = cent.result("channels", json!({ "pattern": "*a*" }));
        assert_eq!(
            channels,
            json!({ "channels": { "a": { "num_clients": 2 }, "#al": { "num_clients": 2 } } })
        );
        let info = cent.result("info", json!({}));
        let node = &info["nodes"][0];
        assert_eq!(
            (&node["num_clients"], &node["num_users"]),
            (&json!(3), &json!(1))
        );
        assert_eq!(
            (&node["num_channels"], &node["num_subs"]),
            (&json!(3), &json!(5))
        );
        assert!(node["process"]["rss"].as_u64() > Some(1 << 20), "{node}");
    }
}

#[test]
fn cent_disconnects_and_unsubscribes() {
    for way in WAYS {
        let (daemon, _file) = start();
        let mut cent = Cent::new(&daemon, way);
        let mut tabs = [0, 1, 2].map(|_| Client::connect(&daemon, "/ws?room=a&room=b&user=al"));
        let presence = cent.result("presence", json!({ "channel": "a" }));
        let ids: Vec<&String> = presence["presence"]
            .as_object()
            .expect("an object")
            .keys()
            .collect();
        assert_eq!(
            cent.result("unsubscribe", json!({ "user": "al", "channel": "a" })),
            json!({})
        );
        cent.result(
            "broadcast",
            json!({ "channels": ["a", "b"], "data": "to b" }),
        );
        for tab in &mut tabs {
            assert_eq!(tab.recv_text(), "to b");
        }
        // This library cannot name a client without its user.
        let unsubscribe = json!({ "user": "al", "client": ids[0], "channel": "b" });
        assert_eq!(cent.result("unsubscribe", unsubscribe), json!({}));
        let stats = cent.result("presence_stats", json!({ "channel": "b" }));
        assert_eq!(stats["num_clients"], 2);
        // One session is none of the others, and there are no sessions here.
        assert_eq!(
            cent.error("disconnect", json!({ "user": "al", "session": "s" })),
            107
        );
        assert_eq!(
            cent.error(
                "unsubscribe",
                json!({ "user": "al", "channel": "b", "session": "s" })
            ),
            107
        );
        tabs.iter_mut().for_each(|tab| {
            tab.send_ping("open?");
            tab.expect_pong("open?");
        });
        let own = json!({ "code": 4000, "reason": "own words" });
        let disconnect = json!({ "user": "al", "whitelist": [ids[1]], "disconnect": own });
        assert_eq!(cent.result("disconnect", disconnect), json!({}));
        daemon.wait_closes("force_disconnect", 2.0);
        // The code and the reason that the library writes when none are given are 0 and nothing.
        let disconnect = json!({ "user": "al", "client": ids[1], "disconnect": {} });
        assert_eq!(cent.result("disconnect", disconnect), json!({}));
        let mut codes = Vec::new();
        for tab in &mut tabs {
            match tab.recv() {
                harness::Message::Close(code, _) => codes.push(code),
                other => panic!("{other:?}"),
            }
        }
        codes.sort_unstable();
        assert_eq!(codes, [Some(3503), Some(4000), Some(4000)]);
        assert_eq!(
            cent.result("disconnect", json!({ "user": "al" })),
            json!({})
        );
    }
}

#[test]
fn cent_makes_batches_and_hears_of_errors() {
    for way in WAYS {
        let (daemon, _file) = start();
        let mut cent = Cent::new(&daemon, way);
        let mut member = Client::connect(&daemon, "/ws?room=a&user=al");
        for parallel in [json!(null), json!(true)] {
            let commands = json!([
                ["publish", { "channel": "a", "data": 1 }],
                ["broadcast", { "channels": ["a", "b"], "data": 1 }],
                ["presence_stats", { "channel": "a" }],
                ["presence", { "channel": "a" }],
                ["history", { "channel": "b", "limit": 1 }],
                ["channels", {}],
                ["unsubscribe", { "channel": "other", "user": "al" }],
                ["disconnect", { "user": "nobody" }],
                ["history_remove", { "channel": "other" }],
                ["info", {}],
            ]);
            let replies = cent.result(
                "batch",
                json!({ "commands": commands, "parallel": parallel }),
            );
            assert_eq!(replies.as_array().map(Vec::len), Some(10));
            assert!(replies[0]["offset"].is_u64(), "{replies}");
            assert!(
                replies[1]["responses"][1]["result"]["offset"].is_u64(),
                "{replies}"
            );
            assert_eq!(replies[2], json!({ "num_clients": 1, "num_users": 1 }));
            assert_eq!(
                replies[3]["presence"]
                    .as_object()
                    .map(|clients| clients.len()),
                Some(1)
            );
            assert_eq!(replies[5]["channels"]["a"]["num_clients"], 1);
            assert_eq!(replies[8], json!({}));
            assert_eq!(replies[9]["nodes"].as_array().map(Vec::len), Some(1));
            assert_eq!(
                (member.recv_text(), member.recv_text()),
                ("1".into(), "1".into())
            );
        }
        assert_eq!(
            cent.error("publish", json!({ "channel": "", "data": 1 })),
            107
        );
        assert_eq!(
            cent.error(
                "publish",
                json!({ "channel": "a", "data": "x".repeat(65_537) })
            ),
            106
        );
        assert_eq!(
            cent.error("presence", json!({ "channel": "l".repeat(256) })),
            107
        );
        // Nobody of that name is there, which is no error.
        assert_eq!(
            cent.result("refresh", json!({ "user": "al", "expired": true })),
            json!({})
        );
        assert_eq!(
            cent.result("subscribe", json!({ "user": "al", "channel": "a" })),
            json!({})
        );
        let mut stranger = Driven::backend(&url(&daemon), "wrong");
        stranger.order(&json!({ "do": way, "call": "info", "params": {} }));
        assert_eq!(stranger.expect("failed")["type"], "CentUnauthorizedError");
    }
}

#[test]
fn requests_sends_bodies_whole_and_in_chunks() {
    let (daemon, _file) = start();
    let mut backend = Driven::backend(&url(&daemon), KEY);
    let mut member = Client::connect(&daemon, "/ws?room=a");
    let mut post = |order: Value| {
        backend.order(&order);
        backend.expect("answer")
    };
    let long = "é".repeat(30_000);
    let long_body = json!({ "channel": "a", "data": long }).to_string();
    let parts: Vec<String> = long_body
        .chars()
        .collect::<Vec<_>>()
        .chunks(7000)
        .map(|part| part.iter().collect())
        .collect();
    let order = json!({ "do": "requests", "call": "publish", "body": long_body });
    let in_parts = json!({ "do": "requests", "call": "publish", "parts": parts });
    for order in [&order, &in_parts, &order, &in_parts] {
        let answer = post(order.clone());
        assert_eq!(answer["status"], 200, "{answer}");
        assert_eq!(member.recv_text(), long);
    }
    for (call, body, status) in [
        ("publish", "{", 400),
        ("nothing", "{}", 200),
        ("publish", "", 400),
        ("info", "", 200),
        ("publish", r#"{"channel":"a","data":"last"}"#, 200),
    ] {
        let answer = post(json!({ "do": "requests", "call": call, "body": body }));
        assert_eq!(answer["status"], status, "{call} {body}: {answer}");
    }
    assert_eq!(member.recv_text(), "last");
    let accepted = daemon.metric("roomcast_accepted_total");
    let answer = post(json!({ "do": "requests", "call": "info", "body": "{}" }));
    assert_eq!(answer["status"], 200);
    // Only the look at the metric itself needed a connection.
    assert_eq!(daemon.metric("roomcast_accepted_total"), accepted + 1.0);
}

/// Runs curl with the key and these arguments, and `input`; returns its output.
fn curl(args: &[&str], input: &str) -> String {
    let mut command = Command::new("curl");
    // `-q` comes first: no file of whoever runs this. What hangs is ended by curl itself.
    command.args([
        "-q",
        "--silent",
        "--show-error",
        "--max-time",
        "20",
        "--noproxy",
        "*",
    ]);
    command
        .args(["-H", &format!("X-API-Key: {KEY}")])
        .args(args);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = command.spawn();
    let mut child = child.unwrap_or_else(|error| panic!("curl: {error}: run tests/run"));
    let mut stdin = child.stdin.take().expect("stdin is piped");
    let input = input.to_owned();
    let writing = std::thread::spawn(move || {
        // Who is refused need not read it all.
        let _ = stdin.write_all(input.as_bytes());
    });
    let output = child.wait_with_output().expect("a child of ours");
    writing.join().expect("writing does not panic");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "curl {args:?}: {stderr}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn curl_calls_in_every_way_it_knows() {
    let (daemon, _file) = start();
    let mut member = Client::connect(&daemon, "/ws?room=a");
    let to = |call: &str| format!("{}/{call}", url(&daemon));
    let publish = to("publish");
    let body = r#"{"channel":"a","data":"hello"}"#;
    for (place, args) in [
        &["--data", body][..],
        &["--json", body],
        &["--data-binary", "@-"],
        &["--http1.0", "--data", body],
        &["--http1.1", "--data", body],
        // curl offers HTTP/2 and must be answered in HTTP/1.1.
        &["--http2", "--data", body],
        &["-H", "Transfer-Encoding: chunked", "--data-binary", "@-"],
        &["-H", "Expect: 100-continue", "--data", body],
        &[
            "-H",
            "Expect: 100-continue",
            "-H",
            "Transfer-Encoding: chunked",
            "--data-binary",
            "@-",
        ],
        &["-H", "Connection: close", "--data", body],
        &["-X", "POST", "-T", "-"],
        &[
            "--data",
            body,
            "-H",
            "Accept-Encoding: gzip",
            "--compressed",
        ],
    ]
    .into_iter()
    .enumerate()
    {
        let output = curl(&[args, &["-w", " %{http_code}", &publish]].concat(), body);
        let expected = format!(r#"{{"result":{{"offset":{},"epoch":"#, place + 1);
        assert!(
            output.starts_with(&expected) && output.ends_with(" 200"),
            "{args:?}: {output}"
        );
        assert_eq!(member.recv_text(), "hello", "{args:?}");
    }
    // Larger than what curl sends without being asked to.
    let large = format!("{body}{}", " ".repeat((1 << 20) - body.len()));
    let output = curl(
        &["--data-binary", "@-", "-w", "%{http_code}", &publish],
        &large,
    );
    assert!(output.ends_with("200"), "{output}");
    let output = curl(
        &["--data-binary", "@-", "-w", " %{http_code}", &publish],
        &(large.clone() + " "),
    );
    assert!(output.ends_with(" 413"), "{output}");
    let args = [
        "-H",
        "Transfer-Encoding: chunked",
        "--data-binary",
        "@-",
        "-w",
        " %{http_code}",
        &publish,
    ];
    let output = curl(&args, &(large + " "));
    assert!(output.ends_with(" 413"), "{output}");
    // Several calls over one connection.
    let count = "%{http_code} %{num_connects};";
    let one = ["--data", body, "-o", "/dev/null", "-w", count, &publish];
    let key = format!("X-API-Key: {KEY}");
    let next = [&["--next", "--silent", "-H", &key], &one[..]].concat();
    let output = curl(&[&one[..], &next, &next].concat(), "");
    assert_eq!(output, "200 1;200 0;200 0;");
    // What it may not do, and what there is not.
    for (args, status) in [
        (
            vec!["-H", "X-API-Key: wrong", "--data", body, &publish],
            "401",
        ),
        (vec![&*publish], "405"),
        (vec!["--head", &publish], "405"),
        (vec!["--data", "{", &publish], "400"),
    ] {
        let mut all = vec!["-o", "/dev/null", "-w", "%{http_code}"];
        // curl sends a header given twice twice, and the first counts.
        all.extend(args);
        let output = if status == "401" {
            curl_without_key(&all)
        } else {
            curl(&all, "")
        };
        assert_eq!(output, status, "{all:?}");
    }
    let mut api_calls = Vec::new();
    for call in ["info", "channels"] {
        api_calls.push(curl(&["-X", "POST", &to(call)], ""));
    }
    assert!(
        api_calls
            .iter()
            .all(|answer| answer.starts_with(r#"{"result":{"#)),
        "{api_calls:?}"
    );
}

#[test]
fn prometheus_reads_the_metrics() {
    let daemon = Daemon::start(&[]);
    let mut member = Client::connect(&daemon, "/ws?room=a");
    member.send_text("x");
    assert_eq!(member.recv_text(), "x");
    Api::connect(&daemon).publish("a", &json!(1));
    let ours = daemon.exposition().families;
    let theirs = run_python("metrics_parser.py", &daemon.metrics());
    assert_eq!(theirs.len(), ours.len());
    for family in theirs {
        let name = family["name"].as_str().expect("a name");
        let same = &ours[name];
        assert_eq!(family["type"], same.kind, "{name}");
        assert_eq!(family["samples"], same.samples.len(), "{name}");
    }
}

/// Runs curl with these arguments only.
fn curl_without_key(args: &[&str]) -> String {
    let mut command = Command::new("curl");
    command
        .args(["-q", "--silent", "--max-time", "20", "--noproxy", "*"])
        .args(args);
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("curl: {error}: run tests/run"));
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn a_key_is_not_needed_where_there_is_none() {
    let daemon = Daemon::start(&[]);
    let body = r#"{"channel":"a","data":"hello"}"#;
    let output = curl_without_key(&["--data", body, &format!("{}/publish", url(&daemon))]);
    assert!(output.starts_with(r#"{"result":{"offset":1,"#), "{output}");
    // One that is sent all the same does no harm.
    let mut cent = Cent::new(&daemon, "cent");
    assert_eq!(
        cent.result("publish", json!({ "channel": "a", "data": 1 }))["offset"],
        2
    );
    assert_eq!(Api::connect(&daemon).publish("a", &json!(1)), 3);
}
