//! `wsload idle`: opens connections, holds them, and tells what they cost the server in memory.
//! `wsload hold`: holds connections beside another run, and measures nothing.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;

use crate::net::{Engine, Handler};
use crate::options::{Opt, die, fill, ns, subscriber};
use crate::procs::{self, Server};
use crate::{common, finish, foreign, settle, sys};

struct Idle {
    died: u64,
    got: u64,
}
impl Handler for Idle {
    fn message(&mut self, _: usize, _: &[u8], _: u64) {
        self.got += 1;
    }
    fn closed(&mut self, _: usize, _: u16, _: u64) {
        self.died += 1;
    }
}

fn open_all(o: &Opt, eng: &mut Engine, h: &mut Idle) {
    let mut it = (0..o.conns).map(|i| (subscriber(o, i), false, 0));
    let deadline = sys::now_ns() + ns(o.connect_timeout);
    eng.open(&mut it, o.conns, o.window, o.per_source, deadline, h)
        .unwrap_or_else(|e| die(&e));
}

/// Prints how many are open when all are; goes on until standard input ends or `o.secs` are over.
pub fn hold(o: &Opt) -> String {
    let mut eng = Engine::new(o.headers.clone(), o.key);
    let mut h = Idle { died: 0, got: 0 };
    open_all(o, &mut eng, &mut h);
    println!("{{\"held\":{}}}", o.conns);
    static OVER: AtomicBool = AtomicBool::new(false);
    thread::spawn(|| {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        OVER.store(true, SeqCst);
    });
    let end = sys::now_ns() + ns(o.secs);
    while !OVER.load(SeqCst) && sys::now_ns() < end {
        eng.poll(50_000_000, &mut h);
    }
    let pings = eng.n.pings;
    eng.close_all();
    format!("\"died\":{},\"pings\":{pings}", h.died)
}

pub fn idle(o: &Opt, server: &Server) -> String {
    let mut eng = Engine::new(o.headers.clone(), o.key);
    let mut h = Idle { died: 0, got: 0 };
    let slab0 = procs::kernel_slab_kb();
    let before = server.full();
    let t0 = sys::now_ns();
    let (others, g0) = ((server.others_us(), t0), sys::self_cpu_ns());
    open_all(o, &mut eng, &mut h);
    let handshake = (sys::now_ns() - t0) as f64 / 1e9;
    let (up, g1) = (server.cpu(), sys::self_cpu_ns());
    let alien = foreign(server, others);
    if !o.hello.is_empty() {
        for i in 0..o.conns {
            eng.send_text(i, &fill(&o.hello, i % o.rooms, i));
        }
    }
    // Nobody looks at the memory of a run that only opens and closes, or that is fixed work.
    let is_brief = o.secs == 0.0 || o.messages > 0;
    let pause = if is_brief {
        o.settle
    } else {
        o.settle.max(1.0)
    };
    settle(&mut eng, pause, &mut h);
    let open = server.full();
    let slab1 = procs::kernel_slab_kb();
    let (pings0, w0) = (eng.n.pings, sys::now_ns());
    if o.messages > 0 {
        let due = o.messages * o.conns as u64;
        finish(&mut eng, &mut h, w0 + ns(o.secs), |eng, _| {
            eng.n.pings >= due
        });
        // So that the last pong is read before its connection ends.
        settle(&mut eng, 0.2, &mut h);
    } else {
        settle(&mut eng, o.secs, &mut h);
    }
    let held = server.full();
    let wall = (sys::now_ns() - w0) as f64 / 1e9;
    let per = |x: u64, y: u64| (y as f64 - x as f64) * 1024.0 / o.conns.max(1) as f64;
    let idle_us = held.cpu_ns.saturating_sub(open.cpu_ns) as f64 / 1000.0;
    let up_us = up.cpu_ns.saturating_sub(before.cpu_ns) as f64 / 1000.0;
    let pings = eng.n.pings - pings0;
    let c = common(&eng, o, handshake, g1 - g0, o.conns as u64, handshake);
    let r = format!(
        "\"open\":{},\"died\":{},\"connect_secs\":{handshake:.2},\"foreign_cpu_share\":{:.4},\
         \"server_cpu_us_per_handshake\":{:.2},\"rss_before_kb\":{},\"rss_open_kb\":{},\
         \"rss_held_kb\":{},\"pss_before_kb\":{},\"pss_open_kb\":{},\"pss_held_kb\":{},\
         \"rss_bytes_per_conn\":{:.0},\"pss_bytes_per_conn\":{:.0},\
         \"pss_bytes_per_conn_held\":{:.0},\"anon_bytes_per_conn\":{:.0},\
         \"slab_bytes_per_conn_both_ends\":{:.0},\"idle_cpu_us_per_s\":{:.0},\
         \"idle_cpu_share\":{:.5},\"idle_pings\":{pings},\"idle_cpu_us_per_ping\":{:.3},\
         \"messages\":{},{}",
        o.conns as u64 - h.died,
        h.died,
        alien,
        up_us / o.conns.max(1) as f64,
        before.rss_kb,
        open.rss_kb,
        held.rss_kb,
        before.pss_kb,
        open.pss_kb,
        held.pss_kb,
        per(before.rss_kb, open.rss_kb),
        per(before.pss_kb, open.pss_kb),
        per(before.pss_kb, held.pss_kb),
        per(before.anon_kb, open.anon_kb),
        per(slab0, slab1),
        idle_us / wall,
        idle_us / 1e6 / wall,
        idle_us / pings.max(1) as f64,
        h.got,
        c
    );
    let _ = server.known();
    eng.close_all();
    r
}
