//! `wsload idle`: opens connections, holds them, and tells what they cost the server in memory.

use crate::net::{Engine, Handler};
use crate::options::{Opt, die, fill, ns, target};
use crate::procs::{self, Server};
use crate::{common, foreign, settle, sys};

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

pub fn idle(o: &Opt, server: &Server) -> String {
    let mut eng = Engine::new(o.headers.clone(), o.key);
    let mut h = Idle { died: 0, got: 0 };
    let slab0 = procs::kernel_slab_kb();
    let before = server.full();
    let t0 = sys::now_ns();
    let (others, g0) = ((server.others_us(), t0), sys::self_cpu_ns());
    let mut it = (0..o.conns).map(|i| (target(&o.url, i % o.rooms, i), false, 0));
    eng.open(
        &mut it,
        o.conns,
        o.window,
        o.per_source,
        t0 + ns(o.connect_timeout),
        &mut h,
    )
    .unwrap_or_else(|e| die(&e));
    let handshake = (sys::now_ns() - t0) as f64 / 1e9;
    let (up, g1) = (server.cpu(), sys::self_cpu_ns());
    let alien = foreign(server, others);
    if !o.hello.is_empty() {
        for i in 0..o.conns {
            eng.send_text(i, &fill(&o.hello, i % o.rooms, i));
        }
    }
    settle(&mut eng, o.settle.max(1.0), &mut h);
    let open = server.full();
    let slab1 = procs::kernel_slab_kb();
    let (pings0, w0) = (eng.n.pings, sys::now_ns());
    settle(&mut eng, o.secs, &mut h);
    let held = server.full();
    let wall = (sys::now_ns() - w0) as f64 / 1e9;
    let per = |x: u64, y: u64| (y as f64 - x as f64) * 1024.0 / o.conns.max(1) as f64;
    let idle_us = (held.user_us + held.sys_us).saturating_sub(open.user_us + open.sys_us);
    let up_us = (up.user_us + up.sys_us).saturating_sub(before.user_us + before.sys_us);
    let c = common(&eng, o, handshake, g1 - g0, o.conns as u64, handshake);
    let r = format!(
        "\"open\":{},\"died\":{},\"connect_secs\":{handshake:.2},\"foreign_cpu_share\":{:.4},\
         \"server_cpu_us_per_handshake\":{:.2},\"rss_before_kb\":{},\"rss_open_kb\":{},\
         \"rss_held_kb\":{},\"pss_before_kb\":{},\"pss_open_kb\":{},\"pss_held_kb\":{},\
         \"rss_bytes_per_conn\":{:.0},\"pss_bytes_per_conn\":{:.0},\
         \"pss_bytes_per_conn_held\":{:.0},\"anon_bytes_per_conn\":{:.0},\
         \"slab_bytes_per_conn_both_ends\":{:.0},\"idle_cpu_us_per_s\":{:.0},\
         \"idle_cpu_share\":{:.5},\"idle_pings\":{},\"messages\":{},{}",
        o.conns as u64 - h.died,
        h.died,
        alien,
        up_us as f64 / o.conns.max(1) as f64,
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
        idle_us as f64 / wall,
        idle_us as f64 / 1e6 / wall,
        eng.n.pings - pings0,
        h.got,
        c
    );
    let _ = server.known();
    eng.close_all();
    r
}
