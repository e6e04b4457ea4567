//! `wsload echo`: every connection keeps so many messages under way and times their return.

use crate::frame::{Probe, push_client_frame};
use crate::hist::Hist;
use crate::net::{Engine, Handler, Quiet};
use crate::options::{Opt, die, fill, ns, target};
use crate::procs::{Server, cost_json};
use crate::{common, finish, foreign, run_id, settle, sys, wait_ns};

struct Echo {
    probe: Probe,
    frame: Vec<u8>,
    body: usize,
    key: [u8; 4],
    out: Vec<u8>,
    hist: Hist,
    measuring_from: u64,
    measuring: bool,
    /// What comes back is sent again.
    going_on: bool,
    n: u64,
    ignored: u64,
    bad_len: u64,
    died: u64,
    wrap: usize,
}

impl Echo {
    fn fill(&mut self, eng: &mut Engine, idx: usize, n: usize) {
        let t = sys::now_ns();
        self.probe.set(t, 0, idx as u64);
        let at = self.body + self.wrap;
        for i in 0..32 {
            // time, seq and room
            self.frame[at + 8 + i] = self.probe.text[8 + i] ^ self.key[(self.wrap + 8 + i) & 3];
        }
        self.out.clear();
        for _ in 0..n {
            self.out.extend_from_slice(&self.frame);
        }
        let out = std::mem::take(&mut self.out);
        eng.send(idx, &out);
        self.out = out;
    }
}
impl Handler for Echo {
    #[inline]
    fn message(&mut self, idx: usize, p: &[u8], now: u64) {
        let s = match self
            .probe
            .read_at(p, self.wrap)
            .or_else(|| self.probe.find(p, 0).map(|x| x.1))
        {
            Some(s) => s,
            None => {
                self.ignored += 1;
                return;
            }
        };
        if s.room != idx as u64 || p.len() + self.body != self.frame.len() {
            self.bad_len += 1;
        }
        if self.measuring {
            self.n += 1;
            if s.time >= self.measuring_from {
                self.hist.add(now.saturating_sub(s.time));
            }
        }
    }
    fn after(&mut self, eng: &mut Engine, idx: usize, n: usize) {
        if self.going_on {
            self.fill(eng, idx, n);
        }
    }
    fn closed(&mut self, _: usize, _: u16, _: u64) {
        self.died += 1;
    }
}

/// Sends `o.messages` on every connection: what the server has to do is the same in each such run.
fn fixed(o: &Opt, eng: &mut Engine, h: &mut Echo, end: u64) {
    let mut left = o.messages;
    let mut due = 0;
    while left > 0 {
        let count = left.min(o.inflight as u64);
        left -= count;
        due += count * o.conns as u64;
        for i in 0..o.conns {
            h.fill(eng, i, count as usize);
        }
        finish(eng, h, end, |_, h| h.n >= due);
    }
}

pub fn echo(o: &Opt, server: &Server) -> String {
    let mut eng = Engine::new(o.headers.clone(), o.key);
    let t0 = sys::now_ns();
    let mut it = (0..o.conns).map(|i| (target(&o.url, i % o.rooms, i), false, 0));
    eng.open(
        &mut it,
        o.conns,
        o.window,
        o.per_source,
        t0 + ns(o.connect_timeout),
        &mut Quiet,
    )
    .unwrap_or_else(|e| die(&e));
    let handshake = (sys::now_ns() - t0) as f64 / 1e9;
    if !o.hello.is_empty() {
        for i in 0..o.conns {
            eng.send_text(i, &fill(&o.hello, i % o.rooms, i));
        }
    }
    settle(&mut eng, o.settle, &mut Quiet);
    let probe = Probe::new(o.size, run_id());
    let mut frame = Vec::new();
    push_client_frame(
        &mut frame,
        1,
        o.key,
        &[o.wrap.0.as_bytes(), &probe.text, o.wrap.1.as_bytes()],
    );
    let body = frame.len() - probe.text.len() - o.wrap.0.len() - o.wrap.1.len();
    let mut h = Echo {
        probe,
        frame,
        body,
        key: o.key,
        out: Vec::new(),
        hist: Hist::new(),
        measuring_from: 0,
        measuring: false,
        going_on: o.messages == 0,
        n: 0,
        ignored: 0,
        bad_len: 0,
        died: 0,
        wrap: o.wrap.0.len(),
    };
    if h.going_on {
        for i in 0..o.conns {
            h.fill(&mut eng, i, o.inflight);
        }
    }
    let spin = |eng: &mut Engine, h: &mut Echo, until: u64| loop {
        let now = sys::now_ns();
        if now >= until {
            return;
        }
        eng.poll(wait_ns(o, (until - now).min(50_000_000)), h);
    };
    let others = (server.others_us(), sys::now_ns());
    let start = sys::now_ns();
    if h.going_on {
        spin(&mut eng, &mut h, start + ns(o.warmup));
    }
    let (a, g0) = (server.cpu(), sys::self_cpu_ns());
    let m0 = sys::now_ns();
    h.measuring = true;
    h.measuring_from = m0;
    if h.going_on {
        spin(&mut eng, &mut h, m0 + ns(o.secs));
    } else {
        fixed(o, &mut eng, &mut h, m0 + ns(o.secs));
    }
    let (b, g1) = (server.cpu(), sys::self_cpu_ns());
    let wall = (sys::now_ns() - m0) as f64 / 1e9;
    h.measuring = false;
    h.going_on = false;
    let alien = foreign(server, others);
    let rss = server.full();
    settle(&mut eng, 0.2, &mut h);
    let c = common(&eng, o, handshake, g1 - g0, h.n, wall);
    eng.close_all();
    format!(
        "\"inflight\":{},\"msgs\":{},\"msgs_per_s\":{:.0},{},{},\"rss_kb\":{},\"pss_kb\":{},\
         \"ignored\":{},\"wrong\":{},\"died\":{},{}",
        o.inflight,
        h.n,
        h.n as f64 / wall,
        h.hist.json("lat"),
        cost_json(&a, &b, h.n, wall, alien),
        rss.rss_kb,
        rss.pss_kb,
        h.ignored,
        h.bad_len,
        h.died,
        c
    )
}
