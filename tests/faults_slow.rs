//! Peers that are slow on purpose, by the thousand: heads and bodies that come byte by byte, readers that
//! take a byte or a little more at a time and have something queued in the daemon. Live members get what
//! is published as fast as those of another daemon at the same time, which has no slow peers. So other
//! work of the machine is other work to both.

mod harness;

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use harness::{
    Api, Client, DEADLINE, Daemon, Start, narrow_listener, pace, post_request, upgrade_request,
    wait_until,
};
use serde_json::json;
use socket2::{Domain, SockRef, Socket, Type};

/// Slow peers of each kind.
const PEERS: usize = 2000;

/// Places of the admin listener, where alone bodies are heard: so many of [`PEERS`] at a time.
const PLACES: usize = 256;

/// Live members.
const MEMBERS: usize = 10;

/// By how much the 99th percentile of live members may grow.
const GROWTH_MAX: f64 = 2.0;

/// Publications that one window measures.
const SAMPLES: usize = 500;

/// Windows, each of both daemons.
const WINDOWS_MIN: usize = 5;

/// How likely it may be that chance alone, by which every other window would pass, makes as many pass.
const CHANCE_MAX: f64 = 0.2;

/// How likely that may be when as many have failed that no more are needed: ten of ten.
const DOUBT_MAX: f64 = 0.001;

/// How long windows are added for want of a verdict. What is queued for a reader lasts longer.
const PATIENCE: Duration = Duration::from_secs(240);

/// Time in which each slow peer does something once.
const DRIP_INTERVAL: Duration = Duration::from_secs(1);

/// A window measures for so long, and no fewer than [`SAMPLES`] publications of each daemon.
const WINDOW: Duration = Duration::from_secs(3);

/// Turns for which a peer stays away at most that was sent away for want of a place. One whose time was
/// over stays away for one.
const AWAY_MAX: usize = 8;

/// What every other reader takes at a time.
const SIP_BYTES: usize = 256;

// --- Slow peers -----------------------------------------------------------------------------------

#[derive(Clone, Copy)]
enum Kind {
    Head,
    Body,
    Reader,
}

/// A peer that does a byte at a time, and comes back when it was sent away, as most bodies are at once.
struct Peer {
    kind: Kind,
    number: usize,
    stream: TcpStream,
    /// For how many turns it stays away.
    away: usize,
    /// What it has still to send.
    bytes: Vec<u8>,
    at: usize,
    comebacks: usize,
    /// It was heard, as far as it knows.
    has_place: bool,
}

impl Peer {
    fn new(daemon: &Daemon, kind: Kind, number: usize) -> Self {
        let filler = "x".repeat(1000);
        let (addr, bytes, begun) = match kind {
            Kind::Head => {
                let cookie = [("Cookie", &*filler)];
                (
                    daemon.addr(),
                    upgrade_request(daemon.addr(), "/ws?room=a", &cookie),
                    1,
                )
            }
            Kind::Body => {
                let body = json!({ "channel": "slow", "data": filler }).to_string();
                let request = post_request(daemon.admin(), "publish", &[], &body);
                let begun = request.len() - body.len() + 1;
                let request = String::from_utf8(request).expect("ASCII");
                (daemon.admin(), request, begun)
            }
            Kind::Reader => {
                let request = upgrade_request(daemon.addr(), "/ws?room=slow", &[]);
                let begun = request.len();
                (daemon.addr(), request, begun)
            }
        };
        let stream = connect(addr, number).unwrap_or_else(|error| panic!("{number}: {error}"));
        let mut peer = Self {
            kind,
            number,
            stream,
            bytes: bytes.into_bytes(),
            away: 0,
            at: begun,
            comebacks: 0,
            has_place: false,
        };
        // Who is sent away at once learns it later.
        let _ = peer.stream.write_all(&peer.bytes[..begun]);
        peer.stream.set_nonblocking(true).expect("it is ours");
        peer
    }

    /// Sends or takes a byte; returns false if it was sent away.
    fn drip(&mut self) -> bool {
        let mut bytes = [0; SIP_BYTES];
        let sip = match self.number % 2 {
            0 => &mut bytes[..1],
            _ => &mut bytes[..],
        };
        let outcome = match self.kind {
            Kind::Reader => self.stream.read(sip).map(|count| count > 0),
            // An answer before the last byte sends it away.
            Kind::Head | Kind::Body => match self.stream.read(sip) {
                Ok(_) => Ok(false),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.has_place = true;
                    self.at += 1;
                    assert!(self.at < self.bytes.len(), "it was let finish");
                    let sent = self.stream.write(&self.bytes[self.at - 1..self.at]);
                    sent.map(|count| count > 0)
                }
                Err(error) => Err(error),
            },
        };
        match outcome {
            Ok(goes_on) => goes_on,
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        }
    }
}

/// How many bodies have a place: they have got no answer.
fn bodies_heard(peers: &[Peer]) -> usize {
    let bodies = peers.iter().filter(|peer| matches!(peer.kind, Kind::Body));
    let heard = bodies.filter(|peer| {
        let answer = peer.stream.peek(&mut [0; 1]);
        peer.away == 0 && answer.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    });
    heard.count()
}

impl Drop for Peer {
    fn drop(&mut self) {
        // No port stays in use for a minute.
        let _ = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
    }
}

fn connect(addr: SocketAddr, number: usize) -> std::io::Result<TcpStream> {
    let host = u8::try_from(10 + number % 16).expect("a small number");
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_recv_buffer_size(4 << 10)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::new(127, 0, 0, host), 0)).into())?;
    socket.connect_timeout(&addr.into(), DEADLINE)?;
    Ok(socket.into())
}

/// All of them, driven by a thread of its own. Returns how many bodies had a place, twice a turn.
fn drip_until(is_over: &AtomicBool, daemon: &Daemon, peers: &mut [Peer]) -> Vec<usize> {
    let begun = Instant::now();
    let mut done = 0;
    let mut heard = Vec::new();
    while !is_over.load(Ordering::Relaxed) {
        // As many as are due, evenly over time.
        let share = begun.elapsed().div_duration_f64(DRIP_INTERVAL);
        let due = (share * peers.len() as f64) as usize;
        for number in done..due {
            let place = number % peers.len();
            let peer = &mut peers[place];
            if peer.away > 0 {
                peer.away -= 1;
                if peer.away == 0 {
                    let comebacks = peer.comebacks + 1;
                    *peer = Peer::new(daemon, peer.kind, peer.number);
                    peer.comebacks = comebacks;
                }
            } else if !peer.drip() {
                // Not all of them at once.
                let away = 1 + peer.number % AWAY_MAX;
                peer.away = if peer.has_place { 1 } else { away };
            }
        }
        done = due.max(done);
        if share * 2.0 >= heard.len() as f64 {
            heard.push(bodies_heard(peers));
        }
        pace(Duration::from_millis(1));
    }
    heard
}

// --- Live members ---------------------------------------------------------------------------------

struct Live {
    publisher: Client,
    members: Vec<Client>,
    published: usize,
}

impl Live {
    fn join(daemon: &Daemon) -> Self {
        let target = "/ws?room=live";
        let members = (0..MEMBERS)
            .map(|_| Client::connect(daemon, target))
            .collect();
        let publisher = Client::connect(daemon, &format!("{target}&echo=0"));
        daemon.wait_metric("roomcast_members", |now| now >= (MEMBERS + 1) as f64);
        Self {
            publisher,
            members,
            published: 0,
        }
    }

    /// How long one publication takes until the last member has it.
    fn sample(&mut self) -> Duration {
        self.published += 1;
        let text = self.published.to_string();
        let begun = Instant::now();
        self.publisher.send_text(&text);
        for member in &mut self.members {
            assert_eq!(member.recv_text(), text, "lost or repeated");
        }
        begun.elapsed()
    }
}

/// A window: samples of both in turns.
fn window(without: &mut Live, with: &mut Live) -> [Vec<Duration>; 2] {
    let mut times = [Vec::new(), Vec::new()];
    let end = Instant::now() + WINDOW;
    while times[0].len() < SAMPLES || Instant::now() < end {
        for (live, times) in [&mut *without, &mut *with].into_iter().zip(&mut times) {
            times.push(live.sample());
            pace(Duration::from_millis(1));
        }
    }
    times
}

fn p99(times: &[Duration]) -> Duration {
    let mut times = times.to_vec();
    times.sort_unstable();
    times[times.len() * 99 / 100]
}

// --- The verdict ----------------------------------------------------------------------------------

/// What windows have measured, without slow peers and with them.
#[derive(Default)]
struct Windows {
    samples: [Vec<Duration>; 2],
    /// By how much the percentile has grown, in each window.
    growths: Vec<f64>,
}

impl Windows {
    fn add(&mut self, window: [Vec<Duration>; 2]) {
        let growth = p99(&window[1]).div_duration_f64(p99(&window[0]));
        self.growths.push(growth);
        self.growths.sort_unstable_by(f64::total_cmp);
        for (samples, times) in self.samples.iter_mut().zip(window) {
            samples.extend(times);
        }
    }

    /// By how much the percentile of all samples has grown.
    fn growth(&self) -> f64 {
        p99(&self.samples[1]).div_duration_f64(p99(&self.samples[0]))
    }

    /// Whether the bound holds for all samples together, and for more of the windows than chance would
    /// explain.
    fn keep_the_bound(&self) -> bool {
        let kept = self.growths.iter().filter(|growth| **growth <= GROWTH_MAX);
        let chance = chance_of(kept.count(), self.growths.len());
        self.growths.len() >= WINDOWS_MIN && chance <= CHANCE_MAX && self.growth() <= GROWTH_MAX
    }

    /// Whether there can be no doubt that it does not hold.
    fn break_the_bound(&self) -> bool {
        let broken = self.growths.iter().filter(|growth| **growth > GROWTH_MAX);
        chance_of(broken.count(), self.growths.len()) <= DOUBT_MAX
    }

    fn account(&self) -> String {
        format!(
            "p99 {:?} without slow peers, {:?} with, {:.2} times; of {} windows {:.2?}",
            p99(&self.samples[0]),
            p99(&self.samples[1]),
            self.growth(),
            self.growths.len(),
            self.growths,
        )
    }
}

/// How likely it is that at least `kept` of `count` coins show heads.
fn chance_of(kept: usize, count: usize) -> f64 {
    let mut ways = 1.0;
    let mut sum = 0.0;
    for heads in 0..=count {
        if heads >= kept {
            sum += ways;
        }
        ways *= (count - heads) as f64 / (heads + 1) as f64;
    }
    sum / 2.0_f64.powf(count as f64)
}

#[test]
fn a_verdict_needs_more_windows_than_chance_would_explain() {
    for (kept, count, is_enough) in [
        (3, 4, false),
        (4, 5, true),
        (5, 8, false),
        (6, 8, true),
        (12, 20, false),
        (13, 20, true),
    ] {
        let chance = chance_of(kept, count);
        assert_eq!(
            chance <= CHANCE_MAX,
            is_enough,
            "{kept} of {count}: {chance}"
        );
    }
    let ms = |ms: u64| vec![Duration::from_millis(ms); SAMPLES];
    let verdict = |with: &[u64]| {
        let mut windows = Windows::default();
        with.iter()
            .for_each(|with| windows.add([ms(10), ms(*with)]));
        windows.keep_the_bound()
    };
    let is_broken = |count: usize| {
        let mut windows = Windows::default();
        (0..count).for_each(|_| windows.add([ms(10), ms(21)]));
        windows.break_the_bound()
    };
    assert!(!is_broken(9));
    assert!(is_broken(10));
    assert!(!verdict(&[20; 4]));
    assert!(verdict(&[20; 5]));
    assert!(!verdict(&[21; 50]));
    // A window in eight is one sample in eight, which is far more than one in a hundred.
    assert!(!verdict(&[20, 20, 20, 20, 20, 20, 20, 21]));
}

// --- All together ---------------------------------------------------------------------------------

/// A daemon for whose readers not all that is queued fits into their sockets.
fn start() -> Daemon {
    Start::default()
        .args(&["--log-level", "info", "--handshake-timeout", "3s"])
        .args(&["--write-timeout", "10m", "--ping-interval", "off"])
        .pass(narrow_listener(4 << 10))
        .start()
}

/// All slow peers. Something is queued for each reader.
fn open_peers(daemon: &Daemon) -> Vec<Peer> {
    let peers_of = |kind| (0..PEERS).map(move |number| (kind, number));
    let open = |(kind, number)| Peer::new(daemon, kind, number);
    let mut peers: Vec<Peer> = peers_of(Kind::Reader).map(open).collect();
    daemon.wait_members(u32::try_from(PEERS + MEMBERS + 1).expect("few"));
    for _ in 0..4 {
        Api::connect(daemon).publish("slow", &json!("x".repeat(30_000)));
    }
    daemon.wait_metric(BACKLOGGED, |now| now >= PEERS as f64);
    peers.extend(peers_of(Kind::Head).map(open));
    peers.extend(peers_of(Kind::Body).map(open));
    peers
}

const BACKLOGGED: &str = "roomcast_websockets_backlogged";

/// Tells that it is over when it is dropped, as where a test fails.
struct Over<'f>(&'f AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn median(mut numbers: Vec<usize>) -> usize {
    numbers.sort_unstable();
    numbers[numbers.len() / 2]
}

#[test]
fn live_members_do_not_wait_for_thousands_that_are_slow() {
    let (daemon, other) = (start(), start());
    let (mut with, mut without) = (Live::join(&daemon), Live::join(&other));
    let idle_files = daemon.open_files();
    window(&mut without, &mut with);
    let mut peers = open_peers(&daemon);
    let (mut windows, mut files) = (Windows::default(), Vec::new());
    let is_over = AtomicBool::new(false);
    let heard = thread::scope(|scope| {
        let dripping = scope.spawn(|| drip_until(&is_over, &daemon, &mut peers));
        let over = Over(&is_over);
        let end = Instant::now() + PATIENCE;
        while !windows.keep_the_bound() {
            assert!(!windows.break_the_bound(), "{}", windows.account());
            assert!(Instant::now() < end, "no verdict: {}", windows.account());
            windows.add(window(&mut without, &mut with));
            files.push(daemon.open_files() - idle_files);
        }
        drop(over);
        dripping.join().expect("no panic")
    });
    let comebacks: usize = peers.iter().map(|peer| peer.comebacks).sum();
    eprintln!("{}; {comebacks} came back", windows.account());
    // Heads whose time is over are away for a while.
    let (files, heard) = (median(files), median(heard));
    assert!(files > PEERS * 3 / 2, "{files}");
    let taken = PLACES * 3 / 4..=PLACES + 8;
    assert!(taken.contains(&heard), "{heard}");
    let readers: Vec<Peer> = peers.drain(..PEERS).collect();
    drop(peers);
    // Only when the bodies have gone there is certainly a place for whoever asks for metrics.
    let files = idle_files + PEERS;
    wait_until("a place", || daemon.open_files() <= files + 1);
    daemon.wait_metric(BACKLOGGED, |now| now >= PEERS as f64);
    assert!(readers.iter().all(|reader| reader.comebacks == 0));
    let timeouts = daemon.closes("handshake_timeout");
    assert!(timeouts > PEERS as f64, "{timeouts}");
    drop(readers);
    wait_until("closed files", || daemon.open_files() <= idle_files + 1);
    daemon.wait_members(u32::try_from(MEMBERS + 1).expect("few"));
}
