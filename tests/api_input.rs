//! Bad input to the HTTP API: each gets its answer, nothing of it is carried out, and the daemon
//! serves a member and other callers as before.

mod harness;

use harness::{Api, Client, Daemon, Response, error_of};
use serde_json::{Value, json};

const METHODS: [&str; 13] = [
    "publish",
    "broadcast",
    "publish_all",
    "disconnect",
    "unsubscribe",
    "presence",
    "presence_stats",
    "history",
    "history_remove",
    "channels",
    "connections",
    "info",
    "batch",
];

/// Methods that can be called without a member.
const UNDEMANDING: [&str; 2] = ["channels", "info"];

/// A daemon, and a member that must get each of the back end's publications next.
struct Bench {
    daemon: Daemon,
    api: Api,
    member: Client,
    published: u64,
}

impl Bench {
    fn new(args: &[&str]) -> Self {
        let daemon = Daemon::start(args);
        let api = Api::connect(&daemon);
        let member = Client::connect(&daemon, "/ws?room=a&user=al");
        Self {
            daemon,
            api,
            member,
            published: 0,
        }
    }

    /// Asserts that the member gets the next publication next, and that none was numbered between.
    fn assert_served(&mut self) {
        self.published += 1;
        let offset = self.api.publish("a", &json!(self.published));
        assert_eq!(offset, self.published, "something was published");
        assert_eq!(self.member.recv_text(), self.published.to_string());
    }

    /// Calls with these bytes, which must come to 400 or to a code.
    fn refuse(&mut self, method: &str, body: impl AsRef<[u8]>) -> u64 {
        let body = body.as_ref();
        let response = self.api.post(method, body);
        let shown = String::from_utf8_lossy(&body[..body.len().min(80)]).into_owned();
        assert_eq!(response.header("connection"), Some("keep-alive"), "{shown}");
        let code = code(&response);
        self.assert_served();
        assert!(code >= 100, "{method} {shown}: {}", response.text());
        code
    }

    fn check(&mut self, method: &str, body: impl AsRef<[u8]>, code: u64) {
        let shown = String::from_utf8_lossy(body.as_ref())
            .chars()
            .take(80)
            .collect::<String>();
        assert_eq!(self.refuse(method, body), code, "{method} {shown}");
    }
}

/// 400 for what was not decoded, the code of an error, 0 for a result.
fn code(response: &Response) -> u64 {
    if response.status == 400 {
        assert!(!response.body.is_empty());
        return 400;
    }
    assert_eq!(response.status, 200, "{response:?}");
    let answer: Value = serde_json::from_slice(&response.body).expect("JSON");
    if answer.get("error").is_some() {
        error_of(&answer)
    } else {
        0
    }
}

#[test]
fn json_that_is_cut_is_no_json() {
    for workers in ["0", "3"] {
        let mut bench = Bench::new(&["--workers", workers]);
        let body = r#"{"channels":["a","b\u00e9"],"data":{"x":[1.5e3,true,null,"\"y\""]}}"#;
        for cut in 0..body.len() {
            bench.check("broadcast", &body[..cut], 400);
        }
        for method in METHODS {
            bench.check(method, "{", 400);
            bench.check(method, "{}{}", 400);
            bench.check(method, "{}x", 400);
            if !UNDEMANDING.contains(&method) {
                bench.check(method, "", 400);
                bench.check(method, " \r\n", 400);
            }
        }
    }
}

#[test]
fn what_is_no_json_is_told_from_what_is_no_call() {
    let mut bench = Bench::new(&[]);
    for body in [
        "channel=a&data=x",
        "{'channel':'a'}",
        "{channel:\"a\"}",
        "{\"channel\":\"a\",}",
        "{\"channel\":\"a\",\"data\":01}",
        "{\"channel\":\"a\",\"data\":NaN}",
        "{\"channel\":\"a\",\"data\":+1}",
        "{\"channel\":\"a\",\"data\":\"\n\"}",
        "{\"channel\":\"a\",\"data\":\"\\x\"}",
        "{\"channel\":\"a\",\"data\":\"\\ud8\"}",
        "\u{feff}{\"channel\":\"a\",\"data\":1}",
        "{\"channel\":\"a\",\"data\":1}\0",
        "// {}\n{}",
        "<xml/>",
    ] {
        bench.check("publish", body, 400);
    }
    for body in ["null", "true", "1", "\"{}\"", "[]", "[\"a\",1]", "[[]]"] {
        for method in METHODS {
            bench.check(method, body, 107);
        }
    }
    for method in METHODS {
        if !UNDEMANDING.contains(&method) {
            bench.check(method, "{}", 107);
        }
    }
}

#[test]
fn invalid_utf8_is_no_json() {
    let mut bench = Bench::new(&[]);
    for bad in [
        &b"\xff"[..],
        b"\xc3",
        b"\xed\xa0\x80",
        b"\xf5\x80\x80\x80",
        b"\xc0\xaf",
        b"\x80",
    ] {
        for (before, after) in [
            (&br#"{"channel":"a","data":""#[..], &br#""}"#[..]),
            (br#"{"channel":""#, br#"","data":1}"#),
            (br#"{"channel":"a","data":1,""#, br#"":1}"#),
            (br#"{"channel":"a","data":1}"#, b""),
        ] {
            bench.check("publish", [before, bad, after].concat(), 400);
        }
    }
    // Half of a pair of surrogates is JSON, and no text.
    bench.check("publish", r#"{"channel":"a","data":"\ud800"}"#, 107);
    bench.check("publish", r#"{"channel":"\ud800","data":1}"#, 107);
}

#[test]
fn nesting_has_a_bound() {
    let mut bench = Bench::new(&["--workers", "1"]);
    let nested = |open: &str, depth: usize, close: &str| {
        format!("{}1{}", open.repeat(depth), close.repeat(depth))
    };
    for depth in [10_000, 100_000] {
        for (open, close) in [("[", "]"), ("{\"a\":", "}"), ("[{\"a\":", "}]")] {
            let data = nested(open, depth, close);
            if data.len() < 1 << 20 {
                bench.check(
                    "publish",
                    format!(r#"{{"channel":"a","data":{data}}}"#),
                    400,
                );
                bench.check(
                    "publish",
                    format!(r#"{{"channel":"a","data":1,"more":{data}}}"#),
                    400,
                );
                bench.check(
                    "batch",
                    format!(r#"{{"commands":[{{"publish":{{"channel":"a","data":{data}}}}}]}}"#),
                    400,
                );
                bench.check("info", data, 400);
            }
        }
        bench.check("publish", "[".repeat(depth), 400);
        bench.check("publish", "{\"a\":".repeat(depth / 10), 400);
        bench.check("publish", "]".repeat(depth), 400);
    }
    // As deep as it may be, the envelope included.
    let data = nested("[", 63, "]");
    bench
        .api
        .send("publish", format!(r#"{{"channel":"a","data":{data}}}"#));
    bench.published += 1;
    assert_eq!(bench.api.answer()["result"]["offset"], bench.published);
    assert_eq!(bench.member.recv_text(), data);
    // Brackets in a string are no nesting.
    let text = "[{".repeat(10_000);
    bench.published += 1;
    assert_eq!(bench.api.publish("a", &json!(text)), bench.published);
    assert_eq!(bench.member.recv_text(), text);
    bench.assert_served();
}

#[test]
fn a_member_given_twice_is_refused() {
    let mut bench = Bench::new(&[]);
    for body in [
        r#"{"channel":"a","channel":"a","data":1}"#,
        r#"{"channel":"a","data":1,"data":1}"#,
        r#"{"channel":"a","data":1,"\u0064ata":2}"#,
        r#"{"channel":"a","data":1,"data":null}"#,
        r#"{"channel":"a","data":1,"skip_history":false,"skip_history":true}"#,
    ] {
        bench.check("publish", body, 107);
    }
    bench.check("disconnect", r#"{"user":"bo","user":"al"}"#, 107);
    bench.check(
        "disconnect",
        r#"{"user":"al","disconnect":{"code":4000,"code":4001}}"#,
        107,
    );
    bench.check(
        "history",
        r#"{"channel":"a","since":{"offset":1,"offset":2}}"#,
        107,
    );
    bench.check("batch", r#"{"commands":[],"commands":[]}"#, 107);
    let body =
        r#"{"commands":[{"publish":{"channel":"a","data":1},"publish":{"channel":"a","data":1}}]}"#;
    bench.api.send("batch", body);
    assert_eq!(error_of(&bench.api.answer()["replies"][0]), 107);
    bench.assert_served();
    // What is not known may come as often as it likes.
    bench.api.send(
        "presence_stats",
        r#"{"channel":"a","x":1,"x":[{}],"":null}"#,
    );
    assert_eq!(bench.api.answer()["result"]["num_clients"], 1);
}

#[test]
fn numbers_out_of_range_are_refused_or_bounded() {
    let mut bench = Bench::new(&[]);
    for number in [
        "18446744073709551616",
        "-1",
        "1.0",
        "1e3",
        "1e999",
        "0.5",
        "\"1\"",
        "true",
        "[]",
        "{}",
    ] {
        bench.check(
            "history",
            format!(r#"{{"channel":"a","since":{{"offset":{number}}}}}"#),
            107,
        );
    }
    for number in ["18446744073709551615", "9223372036854775808"] {
        bench.check(
            "history",
            format!(r#"{{"channel":"a","limit":5,"since":{{"offset":{number}}}}}"#),
            112,
        );
        bench.check(
            "history",
            format!(r#"{{"channel":"a","limit":5,"since":{{"offset":{number}}},"reverse":true}}"#),
            112,
        );
        bench.check(
            "history",
            format!(r#"{{"channel":"unknown","limit":5,"since":{{"offset":{number}}}}}"#),
            112,
        );
    }
    for number in [
        "9223372036854775808",
        "-9223372036854775809",
        "1.5",
        "\"1\"",
    ] {
        bench.check(
            "history",
            format!(r#"{{"channel":"a","limit":{number}}}"#),
            107,
        );
        bench.check(
            "connections",
            format!(r#"{{"channel":"a","limit":{number}}}"#),
            107,
        );
    }
    for number in ["9223372036854775807", "-9223372036854775808"] {
        bench
            .api
            .send("history", format!(r#"{{"channel":"a","limit":{number}}}"#));
        let all = bench.published as usize;
        let answer = bench.api.answer();
        let publications = answer["result"]["publications"].as_array();
        assert_eq!(publications.map(Vec::len), Some(all), "{number}");
    }
    for code in ["65535", "65536", "-3000", "3000.0", "99999999999999999999"] {
        bench.check(
            "disconnect",
            format!(r#"{{"user":"al","disconnect":{{"code":{code}}}}}"#),
            107,
        );
    }
}

#[test]
fn wrong_types_are_refused() {
    let mut bench = Bench::new(&[]);
    let wrong = ["1", "true", "[]", "{}", "[\"a\"]"];
    for (method, good, member) in [
        ("publish", r#""data":1"#, "channel"),
        ("publish", r#""channel":"a""#, "b64data"),
        ("publish", r#""channel":"a","data":1"#, "idempotency_key"),
        (
            "broadcast",
            r#""channels":["a"],"data":1"#,
            "idempotency_key",
        ),
        ("disconnect", r#""client":"9.9""#, "user"),
        ("disconnect", r#""user":"bo""#, "client"),
        ("unsubscribe", r#""user":"bo""#, "channel"),
        ("presence", "", "channel"),
        ("presence_stats", "", "channel"),
        ("history", "", "channel"),
        ("history_remove", "", "channel"),
        ("channels", "", "pattern"),
        ("connections", "", "channel"),
        ("connections", "", "user"),
    ] {
        for value in wrong {
            let comma = if good.is_empty() { "" } else { "," };
            bench.check(
                method,
                format!(r#"{{{good}{comma}"{member}":{value}}}"#),
                107,
            );
        }
    }
    for value in ["\"a\"", "1", "{}", "[1]", "[null]", "[[\"a\"]]"] {
        bench.check(
            "broadcast",
            format!(r#"{{"channels":{value},"data":1}}"#),
            107,
        );
    }
    for value in ["\"true\"", "1", "[]"] {
        bench.check(
            "publish",
            format!(r#"{{"channel":"a","data":1,"skip_history":{value}}}"#),
            107,
        );
        bench.check(
            "history",
            format!(r#"{{"channel":"a","reverse":{value}}}"#),
            107,
        );
        bench.check(
            "batch",
            format!(r#"{{"commands":[],"parallel":{value}}}"#),
            107,
        );
    }
    for value in ["\"al\"", "{}", "[1]"] {
        bench.check(
            "disconnect",
            format!(r#"{{"user":"bo","whitelist":{value}}}"#),
            107,
        );
    }
    for bad in ["AP8", "A P8=", "_-8=", "AP8==", "====", "\u{e9}"] {
        bench.check(
            "publish",
            format!(r#"{{"channel":"a","b64data":"{bad}"}}"#),
            107,
        );
        bench.check("publish_all", format!(r#"{{"b64data":"{bad}"}}"#), 107);
    }
    for name in [
        "",
        " \\n",
        "caf\u{e9}",
        "tab\\t",
        "nul\\u0000",
        &"l".repeat(256),
    ] {
        bench.check(
            "publish",
            format!(r#"{{"channel":"{name}","data":1}}"#),
            107,
        );
        bench.check(
            "unsubscribe",
            format!(r#"{{"channel":"{name}","user":"al"}}"#),
            107,
        );
    }
}

#[test]
fn endless_lists_cost_no_memory() {
    let mut bench = Bench::new(&["--workers", "1"]);
    bench.assert_served();
    let body_max = 1 << 20;
    // As many as fit of the million.
    let list = |item: &str| {
        let count = (body_max - 100) / (item.len() + 1);
        let mut items = vec![item; count].join(",");
        items.insert(0, '[');
        items.push(']');
        items
    };
    let before = bench.daemon.rss_bytes();
    for item in ["\"a\"", "\"\"", "\"\\u0061\""] {
        bench.check(
            "broadcast",
            format!(r#"{{"channels":{},"data":1}}"#, list(item)),
            106,
        );
    }
    bench.check("batch", format!(r#"{{"commands":{}}}"#, list("0")), 106);
    bench.check("batch", format!(r#"{{"commands":{}}}"#, list("{}")), 106);
    bench.check(
        "disconnect",
        format!(r#"{{"user":"al","whitelist":{}}}"#, list("\"\"")),
        106,
    );
    // Of another type, and behind the bound, where nothing is kept.
    bench.check(
        "broadcast",
        format!(r#"{{"channels":{},"data":1}}"#, list("0")),
        107,
    );
    bench.check(
        "publish",
        format!(r#"{{"channel":{},"data":1}}"#, list("0")),
        107,
    );
    bench.check(
        "publish",
        format!(r#"{{"channel":"a","data":{}}}"#, list("0")),
        106,
    );
    bench.check(
        "publish_all",
        format!(r#"{{"data":"{}"}}"#, "x".repeat(body_max - 100)),
        106,
    );
    bench.check(
        "publish",
        format!(r#"{{{}"channel":"a"}}"#, "\"x\":0,".repeat(140_000)),
        107,
    );
    bench.check(
        "channels",
        format!(r#"{{"pattern":"{}"}}"#, "*".repeat(body_max - 100)),
        107,
    );
    let more = bench.daemon.rss_bytes().saturating_sub(before);
    assert!(more < 24 << 20, "{more} bytes more");
}

#[test]
fn a_small_call_is_not_answered_with_much_more_than_history_holds() {
    // 100 times the history of a room of 1 MiB would be 100 MiB for one call of 7 KB.
    let mut bench = Bench::new(&["--workers", "1"]);
    let data = "z".repeat(60_000);
    for _ in 0..17 {
        bench.api.publish("big", &json!(data));
    }
    bench.assert_served();
    let before = bench.daemon.rss_bytes();
    let commands = vec![json!({ "history": { "channel": "big", "limit": -1 } }); 100];
    bench
        .api
        .send("batch", json!({ "commands": commands }).to_string());
    let response = bench.api.wire.response();
    let more = bench.daemon.rss_bytes().saturating_sub(before);
    bench.assert_served();
    assert!(
        response.body.len() < 17 << 20,
        "{} bytes of answer",
        response.body.len()
    );
    assert!(more < 64 << 20, "{more} bytes more");
}
