//! `wsload resume`: many clients resume at once in a busy room, and none may miss anything.
//!
//! Speaks roomcast's `format=json`: positions come from `joined`, offsets from `publication`. One
//! publisher sends at a fixed rate into a room of its own, until there is enough to be missed, then
//! for a quiet window, then through the storm and a little longer. The live members and the
//! publisher have a thread of their own: their delays must not be those of this program's other
//! half, which is busy reading.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::mpsc::{Sender, channel};
use std::thread;

use crate::fanout::pub_url;
use crate::frame::{Probe, push_client_frame};
use crate::hist::Hist;
use crate::net::{Engine, Handler};
use crate::options::{Opt, die, ns, target};
use crate::procs::{Server, cost_json};
use crate::{common, foreign, run_id, settle, sys, wait_ns};

/// How long a storm may take.
const STORM_NS: u64 = 20_000_000_000;
/// How long the publisher goes on when all have caught up, so that they are seen to be live.
const TAIL_NS: u64 = 1_000_000_000;
/// How long what is under way at the end may take to arrive.
const DRAIN_NS: u64 = 5_000_000_000;
const NOT_YET: u64 = u64::MAX;

/// What the threads tell each other once the storm has begun.
struct Stage {
    /// When the last client had caught up.
    calm: AtomicU64,
    /// Offset of the room's last publication, when no more will come.
    last: AtomicU64,
}

struct Begin {
    time: u64,
    epoch: String,
    newest: u64,
}

/// What one member received: each offset must be the one after the one before.
#[derive(Clone, Default)]
struct Ledger {
    next: u64,
    lost: u64,
    repeated: u64,
}
impl Ledger {
    fn starts_after(offset: u64) -> Ledger {
        Ledger {
            next: offset + 1,
            ..Ledger::default()
        }
    }
    fn take(&mut self, offset: u64) {
        if offset < self.next {
            self.repeated += 1;
        } else {
            self.lost += offset - self.next;
            self.next = offset + 1;
        }
    }
    fn has_all(&self, last: u64) -> bool {
        self.next > last
    }
    /// Nothing comes any more: what is missing up to `last` is lost.
    fn finish(&mut self, last: u64) {
        self.lost += (last + 1).saturating_sub(self.next);
    }
}

#[derive(Debug, PartialEq)]
enum Envelope<'a> {
    Joined {
        epoch: &'a str,
        offset: u64,
        recovered: bool,
    },
    Publication {
        offset: u64,
    },
    Other,
}

/// The payloads are letters and digits, so what is looked for is never found in them.
fn envelope(p: &[u8]) -> Envelope<'_> {
    fn after<'a>(p: &'a [u8], mark: &[u8]) -> Option<&'a [u8]> {
        let at = p.windows(mark.len()).position(|w| w == mark)?;
        Some(&p[at + mark.len()..])
    }
    fn until(p: &[u8], is_end: impl Fn(u8) -> bool) -> &str {
        let end = p.iter().position(|b| is_end(*b)).unwrap_or(p.len());
        std::str::from_utf8(&p[..end]).unwrap_or("")
    }
    let offset = after(p, b"\"offset\":")
        .and_then(|p| until(p, |b| !b.is_ascii_digit()).parse::<u64>().ok());
    match offset {
        Some(offset) if p.starts_with(b"{\"publication\":") => Envelope::Publication { offset },
        Some(offset) if p.starts_with(b"{\"joined\":") => Envelope::Joined {
            epoch: after(p, b"\"epoch\":\"").map_or("", |p| until(p, |b| b == b'"')),
            offset,
            recovered: after(p, b"\"recovered\":true").is_some(),
        },
        _ => Envelope::Other,
    }
}

/// The live members, and behind them the publisher.
struct Live<'a> {
    stage: &'a Stage,
    probe: Probe,
    hint: usize,
    members: Vec<Ledger>,
    epoch: String,
    newest: u64,
    quiet_from: u64,
    storm_from: u64,
    before: Hist,
    during: Hist,
    lag: Hist,
    codes: Vec<u16>,
}
impl Handler for Live<'_> {
    fn message(&mut self, idx: usize, p: &[u8], now: u64) {
        let Some(member) = self.members.get_mut(idx) else {
            return;
        };
        match envelope(p) {
            Envelope::Joined { epoch, offset, .. } => {
                *member = Ledger::starts_after(offset);
                self.epoch = epoch.to_string();
                self.newest = offset;
            }
            Envelope::Publication { offset } => {
                member.take(offset);
                self.newest = self.newest.max(offset);
                let seen = self.probe.read_at(p, self.hint);
                let seen = seen.or_else(|| {
                    let (at, seen) = self.probe.find(p, 0)?;
                    self.hint = at;
                    Some(seen)
                });
                // When it was due, not when it was sent.
                let due = seen.map_or(0, |seen| seen.time);
                if due >= self.storm_from {
                    if due < self.stage.calm.load(SeqCst) {
                        self.during.add(now.saturating_sub(due));
                    }
                } else if due >= self.quiet_from {
                    self.before.add(now.saturating_sub(due));
                }
            }
            Envelope::Other => {}
        }
    }
    fn closed(&mut self, _: usize, code: u16, _: u64) {
        self.codes.push(code);
    }
}

/// The live members' thread: publishes by the clock, says when the storm begins, and ends after it.
fn live<'a>(o: &Opt, stage: &'a Stage, storm: Sender<Begin>) -> Live<'a> {
    let mut eng = Engine::new(o.headers.clone(), o.key);
    let mut h = Live {
        stage,
        probe: Probe::new(o.size, run_id()),
        hint: 0,
        members: vec![Ledger::default(); o.live],
        epoch: String::new(),
        newest: 0,
        quiet_from: NOT_YET,
        storm_from: NOT_YET,
        before: Hist::new(),
        during: Hist::new(),
        lag: Hist::new(),
        codes: Vec::new(),
    };
    let deadline = sys::now_ns() + ns(o.connect_timeout);
    let mut it = (0..o.live)
        .map(|i| (target(&o.url, 0, i), false, 0))
        .chain([(target(pub_url(o), 0, o.live), false, 0)]);
    let count = o.live + 1;
    eng.open(&mut it, count, o.window, o.per_source, deadline, &mut h)
        .unwrap_or_else(|e| die(&e));
    settle(&mut eng, o.settle, &mut h);
    if h.epoch.is_empty() {
        die("resume: nobody was told `joined`; --url needs format=json");
    }
    let base = h.newest;
    let start = sys::now_ns();
    h.quiet_from = start + ns(o.missed as f64 / o.rate + o.warmup);
    let storm_from = h.quiet_from + ns(o.secs);
    let mut frame = Vec::new();
    let mut sent = 0u64;
    loop {
        let now = sys::now_ns();
        if now >= stage.calm.load(SeqCst).saturating_add(TAIL_NS) {
            break;
        }
        if h.storm_from == NOT_YET && now >= storm_from {
            h.storm_from = now;
            let begin = Begin {
                time: now,
                epoch: h.epoch.clone(),
                newest: h.newest,
            };
            storm.send(begin).expect("the other thread waits for it");
        }
        let due = start + ns(sent as f64 / o.rate);
        if due <= now {
            h.lag.add(now - due);
            sent += 1;
            h.probe.set(due, sent, 0);
            frame.clear();
            push_client_frame(&mut frame, 1, eng.key, &[&h.probe.text]);
            eng.send(o.live, &frame);
        }
        eng.poll(wait_ns(o, due.saturating_sub(now).min(10_000_000)), &mut h);
    }
    let last = base + sent;
    stage.last.store(last, SeqCst);
    let end = sys::now_ns() + DRAIN_NS;
    while h.members.iter().any(|m| !m.has_all(last)) && sys::now_ns() < end {
        eng.poll(10_000_000, &mut h);
    }
    h.members.iter_mut().for_each(|m| m.finish(last));
    eng.close_all();
    h
}

#[derive(Clone)]
struct Client {
    ledger: Ledger,
    /// The offset with which it has caught up; 0 when it has.
    goal: u64,
}

struct Storm {
    clients: Vec<Client>,
    behind: usize,
    begin: u64,
    resumed: u64,
    unrecovered: u64,
    catch_up: Hist,
    codes: Vec<u16>,
}
impl Handler for Storm {
    fn message(&mut self, idx: usize, p: &[u8], now: u64) {
        let client = &mut self.clients[idx];
        match envelope(p) {
            Envelope::Joined {
                offset, recovered, ..
            } => {
                client.goal = offset;
                self.unrecovered += !recovered as u64;
            }
            Envelope::Publication { offset } => {
                client.ledger.take(offset);
                self.resumed += (offset <= client.goal) as u64;
                if client.goal > 0 && offset >= client.goal {
                    client.goal = 0;
                    self.behind -= 1;
                    self.catch_up.add(now - self.begin);
                }
            }
            Envelope::Other => {}
        }
    }
    fn closed(&mut self, idx: usize, code: u16, _: u64) {
        self.codes.push(code);
        let goal = std::mem::take(&mut self.clients[idx].goal);
        self.behind -= (goal > 0) as usize;
    }
}

/// Lets all clients resume from `o.missed` publications back, and reads on until no more come.
/// Returns what they received, and what it cost the server as JSON members.
fn storm(
    o: &Opt,
    server: &Server,
    stage: &Stage,
    begin: &Begin,
    others: (u64, u64),
) -> (Storm, String) {
    let since = begin.newest.saturating_sub(o.missed);
    let client = Client {
        ledger: Ledger::starts_after(since),
        goal: NOT_YET,
    };
    let mut h = Storm {
        clients: vec![client; o.conns],
        behind: o.conns,
        begin: begin.time,
        resumed: 0,
        unrecovered: 0,
        catch_up: Hist::new(),
        codes: Vec::new(),
    };
    let url = format!("{}&since={}.{since}", o.url, begin.epoch);
    let mut it = (0..o.conns).map(|i| (target(&url, 0, o.live + 1 + i), false, 0));
    let mut eng = Engine::new(o.headers.clone(), o.key);
    let (cost0, g0) = (server.cpu(), sys::self_cpu_ns());
    let end = begin.time + STORM_NS;
    eng.open(&mut it, o.conns, o.conns, o.per_source, end, &mut h)
        .unwrap_or_else(|e| die(&e));
    let handshake = (sys::now_ns() - begin.time) as f64 / 1e9;
    while h.behind > 0 && sys::now_ns() < end {
        eng.poll(wait_ns(o, 10_000_000), &mut h);
    }
    let calm = sys::now_ns();
    stage.calm.store(calm, SeqCst);
    let (cost1, g1) = (server.cpu(), sys::self_cpu_ns());
    let wall = (calm - begin.time) as f64 / 1e9;
    let mut end = NOT_YET;
    loop {
        let last = stage.last.load(SeqCst);
        let now = sys::now_ns();
        if last != NOT_YET {
            end = end.min(now + DRAIN_NS);
            if now >= end || h.clients.iter().all(|c| c.ledger.has_all(last)) {
                h.clients.iter_mut().for_each(|c| c.ledger.finish(last));
                break;
            }
        }
        eng.poll(wait_ns(o, 10_000_000), &mut h);
    }
    let line = format!(
        "\"caught_up_s\":{wall:.3},{},{}",
        cost_json(&cost0, &cost1, h.resumed, wall, foreign(server, others)),
        common(&eng, o, handshake, g1 - g0, h.resumed, wall)
    );
    eng.close_all();
    (h, line)
}

/// The run as JSON members, and whether every member received everything once.
pub fn resume(o: &Opt, server: &Server) -> (String, bool) {
    let stage = Stage {
        calm: AtomicU64::new(NOT_YET),
        last: AtomicU64::new(NOT_YET),
    };
    let others = (server.others_us(), sys::now_ns());
    let (tx, rx) = channel();
    let (live, (storm, line)) = thread::scope(|scope| {
        let live = scope.spawn(|| live(o, &stage, tx));
        let begin = rx.recv().unwrap_or_else(|e| die(&e.to_string()));
        let storm = storm(o, server, &stage, &begin, others);
        let live = live.join();
        (
            live.unwrap_or_else(|_| die("the live members' thread")),
            storm,
        )
    });
    let ledgers = || {
        let clients = storm.clients.iter().map(|c| &c.ledger);
        clients.chain(&live.members)
    };
    let lost: u64 = ledgers().map(|l| l.lost).sum();
    let repeated: u64 = ledgers().map(|l| l.repeated).sum();
    let codes: Vec<u16> = storm.codes.iter().chain(&live.codes).copied().collect();
    let rise_ns = live.during.quantile(0.99) as f64 - live.before.quantile(0.99) as f64;
    let sound = lost + repeated + storm.unrecovered == 0 && storm.behind == 0 && codes.is_empty();
    let line = format!(
        "\"clients\":{},\"missed\":{},\"live\":{},\"rate\":{},\"resumed\":{},\"lost\":{lost},\
         \"repeated\":{repeated},\"unrecovered\":{},\"behind\":{},\"died\":{},\
         \"close_codes\":{:?},{},{},{},\"during_count\":{},\"p99_rise_ms\":{:.2},{},{line}",
        o.conns,
        o.missed,
        o.live,
        o.rate,
        storm.resumed,
        storm.unrecovered,
        storm.behind,
        codes.len(),
        &codes[..codes.len().min(8)],
        storm.catch_up.json("catch_up"),
        live.before.json("before"),
        live.during.json("during"),
        live.during.n,
        rise_ns / 1e6,
        live.lag.json("send_lag"),
    );
    (line, sound)
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn envelopes() {
        let joined =
            br#"{"joined":{"room":"r0","epoch":"k3X","offset":7,"recovered":true,"lost":0}}"#;
        let expected = Envelope::Joined {
            epoch: "k3X",
            offset: 7,
            recovered: true,
        };
        assert_eq!(envelope(joined), expected);
        let publication = br#"{"publication":{"room":"r0","offset":1051,"time":17,"data":"WSLD"}}"#;
        assert_eq!(
            envelope(publication),
            Envelope::Publication { offset: 1051 }
        );
        assert_eq!(envelope(br#"{"heartbeat":{"time":1}}"#), Envelope::Other);
        assert_eq!(envelope(b"raw"), Envelope::Other);
    }
    #[test]
    fn a_ledger_counts_each_fault_once() {
        let mut ledger = Ledger::starts_after(2);
        for offset in [3, 4, 4, 7, 8] {
            ledger.take(offset);
        }
        assert_eq!((ledger.lost, ledger.repeated), (2, 1));
        assert!(ledger.has_all(8) && !ledger.has_all(9));
        ledger.finish(10);
        assert_eq!(ledger.lost, 4);
        ledger.finish(8);
        assert_eq!(ledger.lost, 4);
    }
}
