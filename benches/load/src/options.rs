//! The command line: what a run is to do, and the small conversions every mode needs.

use crate::fanout::RING;
use crate::frame::PROBE_MIN;
use crate::net::{Target, parse_url};

pub const USAGE: &str = "\
wsload echo   --url URL -c CONNS [--inflight K] [--size B] [--secs S]
wsload fanout --url URL -c SUBS [--rooms R] [--rate MSGS_PER_SEC | 0] [--inflight K] [--size B]
              [--secs S] [--publishers N] [--pub-url URL] [--pub-http URL]
wsload slow   like fanout, and --stalled M [--stalled-rcvbuf BYTES]
wsload idle   --url URL -c CONNS [--secs S]
wsload hold   --url URL -c CONNS
              holds connections for another run: tells when all are open, ends with its input
              or after --secs
wsload resume --url URL -c CLIENTS [--live N] [--missed N] [--rate MSGS_PER_SEC] [--size B]
              [--secs S] [--pub-url URL]
              all clients resume at once; URL is of roomcast, with format=json. Ends with
              status 1 when anything was lost or repeated
wsload calib  how fast this core is just now: ns for one 132-byte send + recv over loopback TCP,
              and ns for one round of a fixed integer loop

URL may contain {room} and {i}. Common options:
  --query TEXT       appended to the subscribers' URL; given several times, to one after the other
  --server-pid PID   account for this process and its children
  --server-cpu N     account for this core too (/proc/stat, ksoftirqd)
  --messages N       fixed work (echo, fanout, idle): N messages on every connection or in every
                     room, --inflight of them in one write and the next when all are back; idle
                     waits for N pings a connection. --secs is then the most it may take
  --warmup S         not measured (default 1)
  --settle S         pause between the last handshake and the first message (default 0.3)
  --subscribe ROOM   subscribers speak the Centrifugo client protocol: they connect and subscribe
                     to ROOM ({room} is filled in), and the run begins when all have been
                     answered (fanout and slow)
  --hello TEXT       first text frame of every subscriber ({room} and {i} are filled in)
  --pub-hello TEXT   the same for publishers
  --wrap PREFIX SUFFIX   put around every published payload ({room} is filled in)
  --header 'K: V'    extra request header
  --mask HEX8        mask key (default 00000000)
  --window N         handshakes under way at once (default 128)
  --per-source N     connections per source address (default 8000: beyond half of the port
                     range the kernel's search for a free port becomes the limit)
  --connect-timeout S    (default 60)
  --spin             never sleep in epoll_wait
  --label TEXT       copied into the result
";

#[derive(Clone)]
pub struct Opt {
    pub mode: String,
    pub url: String,
    pub queries: Vec<String>,
    pub conns: usize,
    pub inflight: usize,
    pub size: usize,
    /// 0: as many as fit into `secs`.
    pub messages: u64,
    pub secs: f64,
    pub warmup: f64,
    pub settle: f64,
    pub rooms: usize,
    pub rate: f64,
    pub publishers: usize,
    pub pub_url: String,
    pub pub_http: String,
    pub live: usize,
    pub missed: u64,
    pub stalled: usize,
    pub stalled_rcvbuf: i32,
    pub subscribe: String,
    pub hello: String,
    pub pub_hello: String,
    pub wrap: (String, String),
    pub headers: String,
    pub key: [u8; 4],
    pub window: usize,
    pub per_source: usize,
    pub connect_timeout: f64,
    pub spin: bool,
    pub label: String,
    pub pid: Option<u32>,
    pub cpu: Option<usize>,
}

pub fn die(m: &str) -> ! {
    eprintln!("wsload: {m}");
    println!("{{\"error\":\"{}\"}}", esc(m));
    std::process::exit(2)
}
pub fn esc(s: &str) -> String {
    s.chars()
        .filter(|c| !c.is_control())
        .map(|c| if c == '"' || c == '\\' { '\'' } else { c })
        .collect()
}

pub fn options() -> Opt {
    let mut a = std::env::args().skip(1);
    let mode = a.next().unwrap_or_default();
    if !["echo", "fanout", "slow", "idle", "hold", "resume"].contains(&mode.as_str()) {
        eprint!("{USAGE}");
        std::process::exit(2);
    }
    let mut o = Opt {
        mode,
        url: String::new(),
        queries: Vec::new(),
        conns: 100,
        inflight: 1,
        size: 64,
        messages: 0,
        secs: 5.0,
        warmup: 1.0,
        settle: 0.3,
        rooms: 1,
        rate: 0.0,
        publishers: 0,
        pub_url: String::new(),
        pub_http: String::new(),
        live: 100,
        missed: 500,
        stalled: 0,
        stalled_rcvbuf: 0,
        subscribe: String::new(),
        hello: String::new(),
        pub_hello: String::new(),
        wrap: (String::new(), String::new()),
        headers: String::new(),
        key: [0; 4],
        window: 128,
        per_source: 8000,
        connect_timeout: 60.0,
        spin: false,
        label: String::new(),
        pid: None,
        cpu: None,
    };
    while let Some(k) = a.next() {
        let mut v = || {
            a.next()
                .unwrap_or_else(|| die(&format!("{k}: a value is missing")))
        };
        fn num<T: std::str::FromStr>(k: &str, s: String) -> T {
            s.parse()
                .unwrap_or_else(|_| die(&format!("{k}: not a number: {s}")))
        }
        match k.as_str() {
            "--url" => o.url = v(),
            "--query" => o.queries.push(v()),
            "-c" => o.conns = num(&k, v()),
            "--inflight" => o.inflight = num(&k, v()),
            "--size" => o.size = num(&k, v()),
            "--messages" => o.messages = num(&k, v()),
            "--secs" => o.secs = num(&k, v()),
            "--warmup" => o.warmup = num(&k, v()),
            "--settle" => o.settle = num(&k, v()),
            "--rooms" => o.rooms = num(&k, v()),
            "--rate" => o.rate = num(&k, v()),
            "--publishers" => o.publishers = num(&k, v()),
            "--pub-url" => o.pub_url = v(),
            "--pub-http" => o.pub_http = v(),
            "--live" => o.live = num(&k, v()),
            "--missed" => o.missed = num(&k, v()),
            "--stalled" => o.stalled = num(&k, v()),
            "--stalled-rcvbuf" => o.stalled_rcvbuf = num(&k, v()),
            "--subscribe" => o.subscribe = v(),
            "--hello" => o.hello = v(),
            "--pub-hello" => o.pub_hello = v(),
            "--wrap" => o.wrap = (v(), v()),
            "--header" => o.headers.push_str(&format!("{}\r\n", v())),
            "--mask" => {
                o.key = u32::from_str_radix(&v(), 16)
                    .unwrap_or_else(|_| die("--mask: eight hex digits"))
                    .to_be_bytes()
            }
            "--window" => o.window = num(&k, v()),
            "--per-source" => o.per_source = num(&k, v()),
            "--connect-timeout" => o.connect_timeout = num(&k, v()),
            "--spin" => o.spin = true,
            "--label" => o.label = v(),
            "--server-pid" => o.pid = Some(num(&k, v())),
            "--server-cpu" => o.cpu = Some(num(&k, v())),
            _ => die(&format!("{k}: unknown option")),
        }
    }
    if o.url.is_empty() {
        die("--url is needed");
    }
    if o.size < PROBE_MIN {
        o.size = PROBE_MIN;
    }
    if o.publishers < o.rooms {
        o.publishers = o.rooms;
    }
    if o.mode == "resume" && o.rate <= 0.0 {
        o.rate = 200.0;
    }
    if o.messages > 0 && (o.rate > 0.0 || !["echo", "fanout", "idle"].contains(&o.mode.as_str())) {
        die("--messages is for echo, fanout without --rate, and idle");
    }
    o.inflight = o.inflight.max(1);
    o.rooms = o.rooms.max(1);
    if !o.subscribe.is_empty() && !["fanout", "slow"].contains(&o.mode.as_str()) {
        die("--subscribe is for fanout and slow");
    }
    if !o.subscribe.is_empty() && !o.hello.is_empty() {
        die("--subscribe is what subscribers say first; --hello would be, too");
    }
    if o.inflight > RING / 2 {
        die("--inflight is too large");
    }
    o
}

pub fn fill(t: &str, room: usize, i: usize) -> String {
    t.replace("{room}", &room.to_string())
        .replace("{i}", &i.to_string())
}
pub fn target(t: &str, room: usize, i: usize) -> Target {
    parse_url(&fill(t, room, i)).unwrap_or_else(|e| die(&e))
}
/// Where subscriber `i` connects.
pub fn subscriber(o: &Opt, i: usize) -> Target {
    let query = match o.queries.len() {
        0 => "",
        n => &o.queries[i % n],
    };
    target(&format!("{}{query}", o.url), i % o.rooms, i)
}
pub fn ns(s: f64) -> u64 {
    (s * 1e9) as u64
}
