//! wsload: load generator for WebSocket echo and broadcast servers. Loopback only, one thread
//! (`resume` has two), no dependencies, every run bounded in time. One JSON line on stdout ends
//! each run.
//!
//! The modes are `echo`, `fanout` (with `slow`), `idle` (with `hold`) and `resume`; all of them drive
//! `net`, the client side of many connections, and read the server's cost through `procs`.

mod echo;
mod fanout;
mod frame;
mod hist;
mod idle;
mod net;
mod options;
mod procs;
mod resume;
mod sys;

use net::{Engine, Handler};
use options::{Opt, die, esc, ns, options};
use procs::Server;

/// The machine's own speed varies (neighbours on the same host); run this beside each measurement.
fn calib() {
    let (a, b) = sys::tcp_pair().unwrap_or_else(|e| die(&format!("calib: {e}")));
    let mut buf = [0u8; 132];
    let mut tcp = Vec::new();
    let mut int = Vec::new();
    let mut x = 1u64;
    for _ in 0..40 {
        let t = sys::self_cpu_ns();
        for _ in 0..500 {
            sys::send(a, &buf);
            sys::recv(b, &mut buf);
        }
        let u = sys::self_cpu_ns();
        for _ in 0..500_000 {
            x = x.wrapping_mul(6364136223846793005).wrapping_add(1) ^ (x >> 7);
        }
        tcp.push((u - t) as f64 / 500.0);
        int.push((sys::self_cpu_ns() - u) as f64 / 500.0);
    }
    sys::close(a);
    sys::close(b);
    tcp.sort_by(f64::total_cmp);
    int.sort_by(f64::total_cmp);
    println!(
        "{{\"tcp_ns\":{:.1},\"tcp_p90_ns\":{:.1},\"int_ns_per_1000\":{:.1},\"x\":{}}}",
        tcp[20],
        tcp[36],
        int[20],
        x & 1
    );
}

fn main() {
    if std::env::args().nth(1).as_deref() == Some("calib") {
        sys::hard_stop_after(30);
        return calib();
    }
    let o = options();
    let need = (o.conns + o.live + o.publishers + 100) as u64;
    let got = sys::raise_nofile(need.max(20_000));
    if got < need {
        die(&format!("{need} open files are needed, the limit is {got}"));
    }
    let bound = o.connect_timeout + o.settle + o.warmup + o.secs + 30.0;
    sys::hard_stop_after(bound as u32);
    let server = Server::new(o.pid, o.cpu);
    if o.pid.is_some() && !server.alive() {
        die("--server-pid: no such process");
    }
    let (line, sound) = match o.mode.as_str() {
        "echo" => (echo::echo(&o, &server), true),
        "idle" => (idle::idle(&o, &server), true),
        "hold" => (idle::hold(&o), true),
        "resume" => resume::resume(&o, &server),
        _ => (fanout::fanout(&o, &server), true),
    };
    println!(
        "{{\"mode\":\"{}\",\"label\":\"{}\",\"conns\":{},\"size\":{},\"secs\":{},{line}}}",
        o.mode,
        esc(&o.label),
        o.conns,
        o.size,
        o.secs
    );
    if !sound {
        std::process::exit(1);
    }
}

/// Cores used by others since `since` (their account and the time then).
fn foreign(server: &Server, since: (u64, u64)) -> f64 {
    server.others_us().saturating_sub(since.0) as f64 * 1000.0
        / (sys::now_ns() - since.1).max(1) as f64
}
fn wait_ns(o: &Opt, want: u64) -> u64 {
    if o.spin { 0 } else { want }
}
fn run_id() -> u64 {
    (sys::now_ns() / 1_000_000) % 10_000
}
/// Handles events until `done`, for fixed work that must be done before `end`.
fn finish<H: Handler>(eng: &mut Engine, h: &mut H, end: u64, done: impl Fn(&Engine, &H) -> bool) {
    while !done(eng, h) {
        let now = sys::now_ns();
        if now >= end {
            die("--messages: not done within --secs");
        }
        eng.poll((end - now).min(50_000_000), h);
    }
}
/// A pause in which events are still handled.
fn settle<H: Handler>(eng: &mut Engine, secs: f64, h: &mut H) {
    let end = sys::now_ns() + ns(secs);
    while sys::now_ns() < end {
        eng.poll(10_000_000, h);
    }
}
fn common(eng: &Engine, o: &Opt, handshake: f64, gen_cpu: u64, n: u64, wall: f64) -> String {
    format!(
        "\"handshakes_per_s\":{:.0},\"gen_cpu_us_per_msg\":{:.4},\"gen_cpu_share\":{:.3},\
         \"reads\":{},\"pings\":{},\"closes\":{},\"resets\":{},\"protocol_errors\":{},\
         \"fragments\":{},\"last_error\":\"{}\"",
        eng.conns.len() as f64 / handshake.max(1e-9),
        gen_cpu as f64 / 1000.0 / n.max(1) as f64,
        gen_cpu as f64 / 1e9 / wall.max(1e-9),
        eng.n.reads,
        eng.n.pings,
        eng.n.closes,
        eng.n.resets,
        eng.n.protocol_errors,
        eng.n.fragments,
        esc(&eng.last_error)
    ) + if o.spin { ",\"spin\":true" } else { "" }
}
