//! `wsload fanout` and `wsload slow`: publishers send into rooms, every member must get everything.
//!
//! Each room keeps a ring of the publications under way with the number of members that still wait
//! for each, so that loss, repetition, disorder and the time until the last member are exact.

use crate::frame::{PROBE_MIN, Probe, push_client_frame};
use crate::hist::Hist;
use crate::net::{Engine, Handler, St, Target};
use crate::options::{Opt, die, fill, ns, subscriber, target};
use crate::procs::{Sample, Server, cost_json};
use crate::{common, finish, foreign, run_id, settle, sys, wait_ns};

/// Publications of one room that can be under way at once.
pub const RING: usize = 512;
/// How the answer to a command begins.
const ANSWER: &[u8] = br#"{"id":"#;
/// How a gzip member begins.
const GZIP: &[u8] = &[0x1f, 0x8b];

#[derive(Clone, Copy)]
struct Slot {
    seq: u64,
    left: u32,
    time: u64,
}
struct Room {
    ring: Vec<Slot>,
    live: u32,
    next_seq: u64,
    open: u32,
}
#[derive(Clone, Copy, PartialEq)]
enum Role {
    Sub,
    Stalled,
    Pub,
}
#[derive(Clone, Copy)]
struct Member {
    role: Role,
    room: u32,
    last: u64,
}

struct Fan {
    probe: Probe,
    rooms: Vec<Room>,
    who: Vec<Member>,
    hint: usize,
    size: usize,
    hist: Hist,
    last_hist: Hist,
    from: u64,
    to: u64,
    ready: Vec<u32>,
    received: u64,
    in_window: u64,
    other_in_window: u64,
    windowed: bool,
    ignored: u64,
    answers: u64,
    misrouted: u64,
    disorder: u64,
    gaps: u64,
    to_pubs: u64,
    died: u64,
    stalled_dead: u64,
    stalled_got: u64,
    first_stalled_dead_ns: u64,
    completed: u64,
    close_codes: Vec<u16>,
}

impl Fan {
    /// Knows every subscriber, though none is connected yet.
    fn new(o: &Opt) -> Fan {
        let slot = Slot {
            seq: 0,
            left: 0,
            time: 0,
        };
        let room = |_| Room {
            ring: vec![slot; RING],
            live: 0,
            next_seq: 0,
            open: 0,
        };
        let mut f = Fan {
            probe: Probe::new(o.size, run_id()),
            rooms: (0..o.rooms).map(room).collect(),
            who: Vec::new(),
            hint: o.wrap.0.len(),
            size: o.size,
            hist: Hist::new(),
            last_hist: Hist::new(),
            from: u64::MAX,
            to: u64::MAX,
            ready: Vec::new(),
            received: 0,
            in_window: 0,
            other_in_window: 0,
            windowed: false,
            ignored: 0,
            answers: 0,
            misrouted: 0,
            disorder: 0,
            gaps: 0,
            to_pubs: 0,
            died: 0,
            stalled_dead: 0,
            stalled_got: 0,
            first_stalled_dead_ns: 0,
            completed: 0,
            close_codes: Vec::new(),
        };
        for i in 0..o.conns {
            let room = i % o.rooms;
            if is_stalled(o, i) {
                f.add(Role::Stalled, room);
            } else {
                f.add(Role::Sub, room);
                f.rooms[room].live += 1;
            }
        }
        f
    }
    fn add(&mut self, role: Role, room: usize) {
        let room = room as u32;
        self.who.push(Member {
            role,
            room,
            last: 0,
        });
    }
    /// Gives up messages that some members never got, which must not stop a closed loop for ever.
    /// Returns how many.
    fn abandon_old(&mut self, now: u64) -> u64 {
        let mut n = 0;
        for (room, r) in self.rooms.iter_mut().enumerate() {
            for s in r.ring.iter_mut() {
                if s.left > 0 && now.saturating_sub(s.time) > 2_000_000_000 {
                    s.left = 0;
                    r.open -= 1;
                    n += 1;
                    self.ready.push(room as u32);
                }
            }
        }
        n
    }
    /// What is compressed is not looked into: it counts as the publication after the one before, so
    /// that a lost one is missing at the end of the run.
    fn packed(&mut self, idx: usize, now: u64) {
        let Member { room, last, .. } = self.who[idx];
        let seq = last + 1;
        let slot = self.rooms[room as usize].ring[seq as usize % RING];
        let time = if slot.seq == seq { slot.time } else { now };
        self.one(idx, time, seq, room as u64, now);
    }
    #[inline]
    fn one(&mut self, idx: usize, time: u64, seq: u64, room: u64, now: u64) {
        let m = &mut self.who[idx];
        match m.role {
            Role::Sub => {}
            Role::Pub => {
                self.to_pubs += 1;
                self.other_in_window += self.windowed as u64;
                return;
            }
            Role::Stalled => {
                self.stalled_got += 1;
                return;
            }
        }
        if room != m.room as u64 {
            self.misrouted += 1;
            return;
        }
        if seq <= m.last {
            self.disorder += 1;
        } else {
            self.gaps += seq - m.last - 1;
            m.last = seq;
        }
        self.received += 1;
        if self.windowed {
            self.in_window += 1;
        }
        let lat = now.saturating_sub(time);
        let timed = time >= self.from && time < self.to;
        if timed {
            self.hist.add(lat);
        }
        let r = &mut self.rooms[room as usize];
        let s = &mut r.ring[seq as usize % RING];
        if s.seq == seq && s.left > 0 {
            s.left -= 1;
            if s.left == 0 {
                self.completed += 1;
                r.open -= 1;
                self.ready.push(room as u32);
                if timed {
                    self.last_hist.add(lat);
                }
            }
        }
    }
}
impl Handler for Fan {
    #[inline]
    fn message(&mut self, idx: usize, p: &[u8], now: u64) {
        if p.starts_with(GZIP) {
            return self.packed(idx, now);
        }
        let (mut at, s) = match self.probe.read_at(p, self.hint) {
            Some(s) => (self.hint, s),
            None => match self.probe.find(p, 0) {
                Some(x) => {
                    self.hint = x.0;
                    x
                }
                None => {
                    self.ignored += 1;
                    let lines = p.split(|&b| b == b'\n');
                    self.answers += lines.filter(|l| l.starts_with(ANSWER)).count() as u64;
                    return;
                }
            },
        };
        self.one(idx, s.time, s.seq, s.room, now);
        // A server may put several messages into one frame.
        while p.len() >= at + self.size + PROBE_MIN {
            match self.probe.find(p, at + self.size) {
                Some((next, s)) => {
                    at = next;
                    self.one(idx, s.time, s.seq, s.room, now);
                }
                None => break,
            }
        }
    }
    fn closed(&mut self, idx: usize, code: u16, now: u64) {
        let m = self.who[idx];
        if self.close_codes.len() < 8 {
            self.close_codes.push(code);
        }
        match m.role {
            Role::Pub => self.died += 1,
            Role::Stalled => {
                self.stalled_dead += 1;
                if self.first_stalled_dead_ns == 0 {
                    self.first_stalled_dead_ns = now;
                }
            }
            Role::Sub => {
                self.died += 1;
                let r = &mut self.rooms[m.room as usize];
                r.live -= 1;
                for s in r.ring.iter_mut() {
                    if s.left > 0 && s.seq > m.last {
                        s.left -= 1;
                        if s.left == 0 {
                            r.open -= 1;
                            self.ready.push(m.room);
                        }
                    }
                }
            }
        }
    }
}

struct Pubs {
    at: Vec<Vec<usize>>,
    turn: Vec<usize>,
    http: Vec<Target>,
    wraps: Vec<(Vec<u8>, Vec<u8>)>,
    scratch: Vec<u8>,
    sent: u64,
    expected: u64,
    refused: u64,
    abandoned: u64,
}
impl Pubs {
    fn new(o: &Opt, first: usize) -> Pubs {
        let wrap = |t: &str, room| fill(t, room, 0).into_bytes();
        let mut p = Pubs {
            at: vec![Vec::new(); o.rooms],
            turn: vec![0; o.rooms],
            http: (0..o.rooms).map(|r| target(pub_url(o), r, 0)).collect(),
            wraps: (0..o.rooms)
                .map(|r| (wrap(&o.wrap.0, r), wrap(&o.wrap.1, r)))
                .collect(),
            scratch: Vec::new(),
            sent: 0,
            expected: 0,
            refused: 0,
            abandoned: 0,
        };
        for i in 0..o.publishers {
            p.at[i % o.rooms].push(first + i);
        }
        p
    }
    fn publish(&mut self, eng: &mut Engine, f: &mut Fan, room: usize, time: u64) {
        self.publish_together(eng, f, room, time, 1);
    }
    /// Publishes `count` messages by one publisher in one write.
    fn publish_together(
        &mut self,
        eng: &mut Engine,
        f: &mut Fan,
        room: usize,
        time: u64,
        count: u64,
    ) {
        let conns = &self.at[room];
        let idx = conns[self.turn[room] % conns.len()];
        self.turn[room] += 1;
        if eng.conns[idx].st != St::Open || eng.pending(idx) > 16 << 20 {
            self.refused += count;
            return;
        }
        self.scratch.clear();
        for _ in 0..count {
            self.add(eng, f, room, time, idx);
        }
        let s = std::mem::take(&mut self.scratch);
        eng.send(idx, &s);
        self.scratch = s;
    }
    /// Puts one message behind what is to be written to connection `idx`.
    fn add(&mut self, eng: &Engine, f: &mut Fan, room: usize, time: u64, idx: usize) {
        let r = &mut f.rooms[room];
        r.next_seq += 1;
        let seq = r.next_seq;
        let slot = &mut r.ring[seq as usize % RING];
        if slot.left > 0 {
            self.abandoned += 1;
            r.open -= 1;
        }
        *slot = Slot {
            seq,
            left: r.live,
            time,
        };
        r.open += 1;
        self.sent += 1;
        self.expected += r.live as u64;
        f.probe.set(time, seq, room as u64);
        let w = &self.wraps[room];
        if eng.conns[idx].http {
            let t = &self.http[room];
            let n = w.0.len() + w.1.len() + f.probe.text.len();
            let head = format!(
                "POST {} HTTP/1.1\r\nHost: {}\r\nContent-Length: {n}\r\n\
                 Content-Type: text/plain\r\n\r\n",
                t.path, t.host
            );
            self.scratch.extend_from_slice(head.as_bytes());
            self.scratch.extend_from_slice(&w.0);
            self.scratch.extend_from_slice(&f.probe.text);
            self.scratch.extend_from_slice(&w.1);
        } else {
            push_client_frame(&mut self.scratch, 1, eng.key, &[&w.0, &f.probe.text, &w.1]);
        }
    }
}

/// Stalled members are spread evenly over the subscribers.
fn is_stalled(o: &Opt, i: usize) -> bool {
    o.mode == "slow" && o.stalled > 0 && (i * o.stalled) % o.conns < o.stalled
}

pub fn pub_url(o: &Opt) -> &str {
    let given = [&o.pub_http, &o.pub_url]
        .into_iter()
        .find(|u| !u.is_empty());
    given.unwrap_or(&o.url)
}

/// Has every subscriber connect and subscribe, one after the other and each command when the one
/// before is answered, so that the server does the same in each run.
fn subscribe(o: &Opt, eng: &mut Engine, f: &mut Fan, deadline: u64) {
    for i in 0..o.conns {
        let room = fill(&o.subscribe, i % o.rooms, i);
        let subscribe = format!("{{\"id\":2,\"subscribe\":{{\"channel\":\"{room}\"}}}}");
        for command in ["{\"id\":1,\"connect\":{}}", &subscribe] {
            let answers = f.answers + 1;
            eng.send_text(i, command);
            while f.answers < answers {
                if sys::now_ns() > deadline || f.died > 0 {
                    die(&format!("subscriber {i} is not answered"));
                }
                eng.poll(10_000_000, f);
            }
        }
    }
}

/// Opens subscribers, then publishers, and greets all. Returns the seconds that the subscribers'
/// handshakes took, and the index of the first publisher.
fn connect(o: &Opt, eng: &mut Engine, f: &mut Fan) -> (f64, usize) {
    let deadline = sys::now_ns() + ns(o.connect_timeout);
    let t0 = sys::now_ns();
    let mut it = (0..o.conns).map(|i| {
        let rcvbuf = if is_stalled(o, i) {
            o.stalled_rcvbuf
        } else {
            0
        };
        (subscriber(o, i), false, rcvbuf)
    });
    eng.open(&mut it, o.conns, o.window, o.per_source, deadline, f)
        .unwrap_or_else(|e| die(&e));
    let handshake = (sys::now_ns() - t0) as f64 / 1e9;
    for i in 0..o.publishers {
        f.add(Role::Pub, i % o.rooms);
    }
    let http = !o.pub_http.is_empty();
    let mut it = (0..o.publishers).map(|i| (target(pub_url(o), i % o.rooms, o.conns + i), http, 0));
    let first_pub = eng
        .open(&mut it, o.publishers, o.window, o.per_source, deadline, f)
        .unwrap_or_else(|e| die(&format!("publishers: {e}")));
    for i in 0..o.conns {
        if !o.hello.is_empty() {
            eng.send_text(i, &fill(&o.hello, i % o.rooms, i));
        }
    }
    for i in 0..o.publishers {
        if !o.pub_hello.is_empty() {
            eng.send_text(first_pub + i, &fill(&o.pub_hello, i % o.rooms, i));
        }
    }
    if !o.subscribe.is_empty() {
        subscribe(o, eng, f, deadline);
    }
    settle(eng, o.settle, f);
    (handshake, first_pub)
}

/// What the loop of one run saw beside the deliveries themselves.
struct Run {
    start: u64,
    /// The measured window: the server's account and our own CPU at both ends, and its length.
    server: (Sample, Sample),
    gen_cpu: u64,
    bytes: u64,
    wall: f64,
    lag: Hist,
    peak_rss_kb: u64,
    fd_drops: Vec<(f64, u64)>,
}

/// Publishes for warm-up and window, either on a schedule or as fast as deliveries complete.
fn drive(o: &Opt, server: &Server, eng: &mut Engine, f: &mut Fan, p: &mut Pubs) -> Run {
    let slow = o.mode == "slow";
    let mut fds_low = server.fds();
    let start = sys::now_ns();
    let m0 = start + ns(o.warmup);
    let m1 = m0 + ns(o.secs);
    f.from = m0;
    f.to = m1;
    let mut run = Run {
        start,
        server: (Sample::default(), Sample::default()),
        gen_cpu: 0,
        bytes: 0,
        wall: 0.0,
        lag: Hist::new(),
        peak_rss_kb: 0,
        fd_drops: Vec::new(),
    };
    let period = if o.rate > 0.0 { 1e9 / o.rate } else { 0.0 };
    let mut scheduled = 0u64;
    if o.rate == 0.0 {
        for room in 0..o.rooms {
            for _ in 0..o.inflight {
                p.publish(eng, f, room, sys::now_ns());
            }
        }
    }
    let (mut g0, mut b0, mut wa) = (0, 0, 0);
    let mut next_look = start;
    let mut spare: Vec<u32> = Vec::new();
    loop {
        let now = sys::now_ns();
        if !f.windowed && now >= m0 {
            run.server.0 = server.cpu();
            g0 = sys::self_cpu_ns();
            b0 = eng.n.bytes;
            wa = sys::now_ns();
            f.windowed = true;
        }
        if now >= m1 {
            break;
        }
        if now >= next_look {
            next_look = now + 100_000_000;
            if slow {
                run.peak_rss_kb = run.peak_rss_kb.max(server.rss_kb());
                let n = server.fds();
                if n < fds_low {
                    fds_low = n;
                    if run.fd_drops.len() < 64 {
                        run.fd_drops.push(((now - start) as f64 / 1e9, n));
                    }
                }
            }
            if o.rate == 0.0 {
                p.abandoned += f.abandon_old(now);
            }
        }
        let wait = if o.rate > 0.0 {
            let due = start + (scheduled as f64 * period) as u64;
            if due <= now {
                let room = (scheduled % o.rooms as u64) as usize;
                run.lag.add(now - due);
                p.publish(eng, f, room, due);
                scheduled += 1;
                let next = start + (scheduled as f64 * period) as u64;
                next.saturating_sub(now).min(50_000_000)
            } else {
                (due - now).min(50_000_000)
            }
        } else {
            std::mem::swap(&mut spare, &mut f.ready);
            for room in spare.drain(..) {
                p.publish(eng, f, room as usize, sys::now_ns());
            }
            50_000_000
        };
        eng.poll(wait_ns(o, wait.min((m1 - now).max(1))), f);
        if o.rate > 0.0 {
            f.ready.clear();
        }
    }
    run.server.1 = server.cpu();
    run.gen_cpu = sys::self_cpu_ns() - g0;
    run.bytes = eng.n.bytes - b0;
    run.wall = (sys::now_ns() - wa) as f64 / 1e9;
    run
}

/// Publishes `o.messages` in every room: what the server has to do is the same in each such run.
fn drive_fixed(o: &Opt, server: &Server, eng: &mut Engine, f: &mut Fan, p: &mut Pubs) -> Run {
    let start = sys::now_ns();
    let end = start + ns(o.secs);
    f.from = start;
    f.windowed = true;
    let (cost0, g0, b0) = (server.cpu(), sys::self_cpu_ns(), eng.n.bytes);
    let mut left = o.messages;
    while left > 0 {
        let count = left.min(o.inflight as u64);
        left -= count;
        for room in 0..o.rooms {
            p.publish_together(eng, f, room, sys::now_ns(), count);
        }
        finish(eng, f, end, |_, f| f.rooms.iter().all(|r| r.open == 0));
        f.ready.clear();
    }
    Run {
        start,
        server: (cost0, server.cpu()),
        gen_cpu: sys::self_cpu_ns() - g0,
        bytes: eng.n.bytes - b0,
        wall: (sys::now_ns() - start) as f64 / 1e9,
        lag: Hist::new(),
        peak_rss_kb: 0,
        fd_drops: Vec::new(),
    }
}

/// Lets the stalled members read on, and tells as JSON members how their stall ended.
fn stalled_json(
    o: &Opt,
    server: &Server,
    eng: &mut Engine,
    f: &mut Fan,
    run: &Run,
    fds0: u64,
) -> String {
    let fds1 = server.fds();
    let seen_closed = f.stalled_dead;
    for i in 0..o.conns {
        if is_stalled(o, i) && eng.conns[i].st == St::Open {
            eng.unstall(i);
        }
    }
    let first_closed_s = if seen_closed > 0 {
        (f.first_stalled_dead_ns - run.start) as f64 / 1e9
    } else {
        -1.0
    };
    settle(eng, 1.5, f);
    let drops = run.fd_drops.iter().map(|(t, n)| format!("[{t:.1},{n}]"));
    format!(
        ",\"stalled\":{},\"stalled_seen_closed_during_run\":{seen_closed},\
         \"stalled_first_closed_s\":{first_closed_s:.2},\
         \"stalled_closed_after_reading_on\":{},\"stalled_msgs_read_at_end\":{},\
         \"server_fds_before\":{fds0},\"server_fds_after\":{fds1},\"server_fd_drops\":[{}]",
        f.who.iter().filter(|m| m.role == Role::Stalled).count(),
        f.stalled_dead,
        f.stalled_got,
        drops.collect::<Vec<_>>().join(",")
    )
}

pub fn fanout(o: &Opt, server: &Server) -> String {
    let slow = o.mode == "slow";
    if o.stalled >= o.conns && slow {
        die("--stalled must be below -c");
    }
    let mut eng = Engine::new(o.headers.clone(), o.key);
    let mut f = Fan::new(o);
    let before = server.full();
    let (handshake, first_pub) = connect(o, &mut eng, &mut f);
    let mut p = Pubs::new(o, first_pub);
    for i in (0..o.conns).filter(|&i| is_stalled(o, i)) {
        eng.stall(i);
    }
    let connected = server.full();
    let fds0 = server.fds();
    f.ready.clear();
    let others = (server.others_us(), sys::now_ns());
    let (run, published_s) = if o.messages > 0 {
        let run = drive_fixed(o, server, &mut eng, &mut f, &mut p);
        let took = run.wall;
        (run, took)
    } else {
        let run = drive(o, server, &mut eng, &mut f, &mut p);
        (run, o.warmup + o.secs)
    };
    let alien = foreign(server, others);
    let (in_window, other) = (f.in_window, f.other_in_window);
    f.windowed = false;
    // Let what is under way arrive, so that loss is loss and not haste.
    let drain_end = sys::now_ns() + 3_000_000_000;
    while f.received < p.expected && sys::now_ns() < drain_end {
        eng.poll(10_000_000, &mut f);
    }
    settle(&mut eng, 0.1, &mut f);
    let after = server.full();
    let peak_rss = [connected.rss_kb, run.peak_rss_kb, after.rss_kb];
    let peak_rss = peak_rss.into_iter().max().unwrap_or(0);
    let extra = if slow {
        stalled_json(o, server, &mut eng, &mut f, &run, fds0)
    } else {
        String::new()
    };
    let total = in_window + other;
    let lost = p.expected.saturating_sub(f.received);
    let c = common(&eng, o, handshake, run.gen_cpu, total, run.wall);
    eng.close_all();
    format!(
        "\"rooms\":{},\"rate\":{},\"inflight\":{},\"publishers\":{},\"published\":{},\
         \"publishes_per_s\":{:.1},\"deliveries_per_s\":{:.0},\"expected\":{},\"received\":{},\
         \"lost\":{lost},\"loss_pct\":{:.4},\"completed\":{},\"abandoned\":{},\"refused\":{},\
         {},{},{},{},\"deliveries_measured\":{total},\"bytes_per_delivery\":{:.2},\
         \"rss_before_kb\":{},\
         \"rss_connected_kb\":{},\"rss_after_kb\":{},\"rss_peak_kb\":{peak_rss},\"ignored\":{},\
         \"misrouted\":{},\"disorder\":{},\"gaps\":{},\"to_publishers\":{},\"died\":{},\
         \"close_codes\":{:?},\"http_ok\":{},\"http_bad\":{},{}{extra}",
        o.rooms,
        o.rate,
        o.inflight,
        o.publishers,
        p.sent,
        p.sent as f64 / published_s,
        in_window as f64 / run.wall,
        p.expected,
        f.received,
        100.0 * lost as f64 / p.expected.max(1) as f64,
        f.completed,
        p.abandoned,
        p.refused,
        f.hist.json("lat"),
        f.last_hist.json("last"),
        run.lag.json("send_lag"),
        cost_json(&run.server.0, &run.server.1, total, run.wall, alien),
        run.bytes as f64 / total.max(1) as f64,
        before.rss_kb,
        connected.rss_kb,
        after.rss_kb,
        f.ignored,
        f.misrouted,
        f.disorder,
        f.gaps,
        f.to_pubs,
        f.died,
        f.close_codes,
        eng.n.http_ok,
        eng.n.http_bad,
        c
    )
}
