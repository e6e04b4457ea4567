//! Behind a real nginx that terminates TLS, with the configuration of the guide: WebSockets and
//! calls pass through it, and whose a connection is stays known and cannot be forged.

#[path = "clients/driven.rs"]
mod driven;
mod harness;

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use serde_json::{Value, json};

use driven::Driven;
use harness::{Certificate, DEADLINE, Daemon, Dial, SecretFile, Signal, breathe, wait_until};

/// The example of the guide.
const EXAMPLE: &str = include_str!("../docs/deploy/nginx.conf");

const KEY: &str = "a-key-of-sixteen-bytes";

/// The proxy alone; everybody else has another address.
const TRUSTED: [&str; 2] = ["--trusted-proxy", "127.0.0.1"];

/// A running nginx; ended and reaped on drop.
struct Nginx {
    child: Child,
    addr: SocketAddr,
    certificate: Certificate,
}

impl Nginx {
    /// Starts one before a daemon, with the example as it stands but for names and places, and for
    /// what `changes` has instead of other parts.
    fn before(daemon: &Daemon, changes: &[(&str, &str)]) -> Self {
        let certificate = Certificate::new("ec");
        // The socket is ours from the beginning and nginx inherits it, as it does from an older
        // nginx that it replaces. So nobody can take the port, and whoever connects early waits.
        let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let addr = socket.local_addr().expect("a bound socket has one");
        let mut site = EXAMPLE.to_owned();
        let folder = certificate.path("nginx");
        for (theirs, ours) in [
            ("listen 443 ssl;", &*format!("listen {addr} ssl;")),
            ("listen [::]:443 ssl;", ""),
            ("/etc/ssl/push.example.com.pem", &certificate.cert()),
            ("/etc/ssl/push.example.com.key", &certificate.key()),
            (
                "http://127.0.0.1:7777",
                &format!("http://{}", daemon.addr()),
            ),
            (
                "http://127.0.0.1:7778",
                &format!("http://{}", daemon.admin()),
            ),
            ("allow 10.0.0.0/8;", "allow 127.0.0.6;"),
            (
                "/var/log/nginx/roomcast.log",
                &format!("{folder}/access.log"),
            ),
        ]
        .into_iter()
        .chain(changes.iter().copied())
        {
            assert_eq!(site.matches(theirs).count(), 1, "{theirs} in {site}");
            site = site.replace(theirs, ours);
        }
        fs::create_dir(&folder).expect("our folder");
        fs::write(format!("{folder}/nginx.conf"), main_file(&folder, &site)).expect("our folder");
        let script = "exec 3<&0 </dev/null && export NGINX='3;' && \
            exec nginx -p \"$0\" -c \"$0/nginx.conf\" -e \"$0/error.log\"";
        let mut command = Command::new("sh");
        command.args(["-c", script, &folder]).env("PATH", path());
        command.stdin(OwnedFd::from(socket)).stderr(Stdio::null());
        let child = command.spawn().expect("a shell");
        Self {
            child,
            addr,
            certificate,
        }
    }

    /// A WebSocket client that trusts the certificate and connects from 127.0.0.`host`.
    fn client(&self, host: u8, target: &str, headers: Value) -> Driven {
        let url = format!("wss://{}{target}", self.addr);
        let arguments = json!({
            "local_addr": [format!("127.0.0.{host}"), 0],
            "additional_headers": headers,
        });
        Driven::python_tls_with(&url, &self.certificate.cert(), &arguments)
    }

    /// What curl gets from 127.0.0.`host`: the status and the body.
    fn curl(&self, host: u8, target: &str, args: &[&str]) -> (String, String) {
        let mut command = Command::new("curl");
        command.args(["-sS", "--max-time", "20", "--noproxy", "*"]);
        command.args(["--cacert", &self.certificate.cert()]);
        command.args(["--interface", &format!("127.0.0.{host}")]);
        command.args(["-w", "\n%{http_code}"]).args(args);
        let done = command
            .arg(format!("https://{}{target}", self.addr))
            .output();
        let done = done.expect("curl: run tests/run");
        let complaint = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{complaint}{}", self.log());
        let text = String::from_utf8(done.stdout).expect("text");
        let (body, status) = text.rsplit_once('\n').expect("a status");
        (status.to_owned(), body.to_owned())
    }

    /// Calls the API, as a back end on 127.0.0.6, and returns the result.
    fn call(&self, method: &str, body: &Value) -> Value {
        let (key, body) = (format!("X-API-Key: {KEY}"), body.to_string());
        let (status, text) = self.curl(6, &format!("/api/{method}"), &["-H", &key, "-d", &body]);
        assert_eq!(status, "200", "{text}");
        let mut answer: Value = serde_json::from_str(&text).expect("JSON");
        assert!(answer["error"].is_null(), "{text}");
        answer["result"].take()
    }

    /// The peers of the members of `room`, as the API tells them.
    fn peers(&self, room: &str) -> Vec<String> {
        let rows = self.call("connections", &json!({"channel": room}));
        let rows = rows["connections"].as_array().expect("a list");
        let peer = |row: &Value| row["peer"].as_str().expect("text").to_owned();
        rows.iter().map(peer).collect()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.certificate.path("nginx/error.log")).unwrap_or_default()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // A signal that it hears: it ends its worker, too.
        let pid = self.child.id().to_string();
        let _ = Command::new("kill").args(["-TERM", &pid]).status();
        let deadline = Instant::now() + DEADLINE;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            breathe();
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- log of nginx:\n{}", self.log());
        }
    }
}

/// The file that a distribution brings, with folders of our own. Who is root has a worker that is
/// not, and any other user a worker of its own.
fn main_file(folder: &str, site: &str) -> String {
    let mut temporary = String::new();
    for (directive, module) in [
        ("client_body_temp_path", "none"),
        ("proxy_temp_path", "none"),
        ("fastcgi_temp_path", "--without-http_fastcgi_module"),
        ("uwsgi_temp_path", "--without-http_uwsgi_module"),
        ("scgi_temp_path", "--without-http_scgi_module"),
    ] {
        if !built_with().contains(module) {
            temporary.push_str(&format!("{directive} {folder}/{directive};\n"));
        }
    }
    format!(
        "daemon off;\nworker_processes 1;\npid {folder}/pid;\nevents {{ worker_connections 256; }}\n\
         http {{\naccess_log off;\n{temporary}{site}}}\n"
    )
}

/// The options that nginx was built with.
fn built_with() -> String {
    let output = Command::new("nginx").arg("-V").env("PATH", path()).output();
    let output = output.expect("nginx: run tests/run");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The programs of a system are not on everybody's path.
fn path() -> String {
    std::env::var("PATH").unwrap_or_default() + ":/usr/sbin"
}

fn key_file() -> SecretFile {
    SecretFile::new(KEY)
}

#[test]
fn the_guide_shows_what_is_tested() {
    let guide = include_str!("../docs/OPERATIONS.md");
    assert!(guide.contains(&format!("```nginx\n{EXAMPLE}```\n")));
}

#[test]
fn websockets_and_calls_pass() {
    let file = key_file();
    let times = ["--ping-interval", "150ms", "--pong-timeout", "2s"];
    let key = ["--api-key-file", file.path()];
    let mut daemon = Daemon::start(&[&TRUSTED[..], &times, &key].concat());
    // The pings alone keep it open, and longer than nginx would wait.
    let nginx = Nginx::before(
        &daemon,
        &[("proxy_read_timeout 2m;", "proxy_read_timeout 1s;")],
    );
    let (status, page) = nginx.curl(7, "/", &[]);
    assert_eq!(status, "200");
    assert!(page.to_lowercase().starts_with("<!doctype html"), "{page}");
    let url = format!("wss://{}/ws?room=a&user=al", nginx.addr);
    let idle = Driven::node_tls(&url, &nginx.certificate.cert());
    idle.expect("open");
    for _ in 0..10 {
        idle.ping();
    }
    let mut other = nginx.client(5, "/ws?room=a", json!({}));
    other.expect("open");
    daemon.wait_members(3);
    let result = nginx.call(
        "publish",
        &json!({"channel": "a", "data": "from a back end"}),
    );
    assert_eq!(result["offset"], 1);
    other.order(&json!({"do": "text", "data": "from a member"}));
    for client in [&idle, &other] {
        for expected in ["from a back end", "from a member"] {
            assert!(client.expect("text")["data"].to_string().contains(expected));
        }
    }

    // Whoever ends it, the code arrives on the other side.
    let why = json!({"code": 4321, "reason": "enough"});
    nginx.call("disconnect", &json!({"user": "al", "disconnect": why}));
    assert_eq!(idle.expect("close")["code"], 4321);
    other.order(&json!({"do": "close", "code": 1000, "reason": "bye"}));
    assert_eq!(other.expect("close")["code"], 1000);
    daemon.wait_closes("normal", 1.0);
    let last = nginx.client(5, "/ws?room=a", json!({}));
    last.expect("open");
    daemon.signal(Signal::Term);
    assert_eq!(last.expect("close")["code"], 3001);
    assert!(daemon.wait_exit().success());
}

#[test]
fn a_token_in_a_query_is_not_in_the_access_log() {
    let daemon = Daemon::start(&[]);
    let nginx = Nginx::before(&daemon, &[]);
    let client = nginx.client(5, "/ws?room=a&token=abc.def.ghi", json!({}));
    client.expect("open");
    let (status, _) = nginx.curl(5, "/ws?room=a&token=abc.def.ghi", &[]);
    assert_eq!(status, "426");
    drop(client);
    let mut log = String::new();
    wait_until("a line for each request", || {
        let path = nginx.certificate.path("nginx/access.log");
        log = fs::read_to_string(path).unwrap_or_default();
        log.lines().count() == 2
    });
    for line in log.lines() {
        assert!(line.starts_with("127.0.0.5 ["), "{log}");
        assert!(line.contains("\"GET /ws\" "), "{log}");
    }
    assert!(!log.contains("abc") && !log.contains("room"), "{log}");
}

#[test]
fn without_pings_in_time_nginx_cuts_an_idle_websocket_off() {
    let daemon = Daemon::start(&["--ping-interval", "off"]);
    let nginx = Nginx::before(
        &daemon,
        &[("proxy_read_timeout 2m;", "proxy_read_timeout 1s;")],
    );
    let idle = nginx.client(5, "/ws?room=a", json!({}));
    idle.expect("open");
    assert_eq!(idle.expect("close")["code"], 1006);
    daemon.wait_closes("gone", 1.0);
}

#[test]
fn calls_need_the_key_and_an_address_that_nginx_lets_in() {
    let file = key_file();
    let daemon = Daemon::start(&["--api-key-file", file.path()]);
    let nginx = Nginx::before(&daemon, &[]);
    let key = format!("X-API-Key: {KEY}");
    for (host, args, expected) in [
        (6, &["-d", "{}"][..], "401"),
        (
            6,
            &["-d", "{}", "-H", "X-API-Key: another-of-sixteen-bytes"],
            "401",
        ),
        (7, &["-d", "{}", "-H", &key], "403"),
        (6, &["-d", "{}", "-H", &key], "200"),
    ] {
        let (status, text) = nginx.curl(host, "/api/info", args);
        assert_eq!(status, expected, "{host} {args:?}: {text}");
    }
}

#[test]
fn the_client_is_known_by_its_address_and_nobody_can_forge_it() {
    let file = key_file();
    let args = [
        "--max-connections-per-ip",
        "1",
        "--api-key-file",
        file.path(),
    ];
    let daemon = Daemon::start(&[&TRUSTED[..], &args].concat());
    let nginx = Nginx::before(&daemon, &[]);
    // What the client says of itself stands left of what nginx says, and is not looked at.
    let forged = [
        json!({}),
        json!({"X-Forwarded-For": "192.0.2.66"}),
        json!({"X-Forwarded-For": "127.0.0.1"}),
        json!({"X-Forwarded-For": "192.0.2.66, 127.0.0.1", "Forwarded": "for=192.0.2.66"}),
    ];
    for (ended, headers) in (1_u32..).zip(&forged) {
        let mut client = nginx.client(5, "/ws?room=a", headers.clone());
        client.expect("open");
        daemon.wait_members(1);
        assert_eq!(nginx.peers("a"), ["127.0.0.5"], "{headers}");
        // One for each address, whatever it claims to be.
        for headers in &forged {
            let second = nginx.client(5, "/ws?room=a", headers.clone());
            assert_eq!(second.expect("refused")["status"], 503, "{headers}");
        }
        let other = nginx.client(8, "/ws?room=b", headers.clone());
        other.expect("open");
        daemon.wait_members(2);
        assert_eq!(nginx.peers("b"), ["127.0.0.8"], "{headers}");
        client.order(&json!({"do": "close", "code": 1000, "reason": "bye"}));
        client.expect("close");
        daemon.wait_closes("normal", f64::from(ended * 2 - 1));
        drop(other);
        daemon.wait_closes("normal", f64::from(ended * 2));
    }
    let lines = daemon.log_lines();
    let ends = |peer: &str| {
        let is_end = |line: &&String| line.contains("reason=normal") && line.contains(peer);
        lines.iter().filter(is_end).count()
    };
    assert_eq!((ends("peer=127.0.0.5 "), ends("peer=127.0.0.8 ")), (4, 4));

    // Who goes round nginx is not believed, and takes nobody's share.
    let dial = Dial::new(daemon.addr(), "/ws?room=a").header("X-Forwarded-For", "127.0.0.5");
    let stranger = dial.source(99).connect();
    daemon.wait_members(1);
    assert_eq!(nginx.peers("a"), [stranger.local_addr().to_string()]);
    let client = nginx.client(5, "/ws?room=b", json!({}));
    client.expect("open");
    wait_until("both", || nginx.peers("b") == ["127.0.0.5"]);
    assert_eq!(daemon.metric("roomcast_malformed_forwards_total"), 0.0);
}
