//! One epoll, many client connections, one shared receive buffer.
use crate::frame::{self, push_client_frame};
use crate::sys::{self, EpollEvent, Io};

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum St {
    Connecting,
    Upgrading,
    Open,
    Dead,
}

pub struct Conn {
    pub fd: i32,
    pub st: St,
    pub http: bool,
    writing: bool,
    out_at: usize,
    carry: Vec<u8>,
    out: Vec<u8>,
}

#[derive(Clone)]
pub struct Target {
    pub dst: [u8; 4],
    pub port: u16,
    pub host: String,
    pub path: String,
}

/// `ws://HOST:PORT/PATH` or `http://…`; HOST must be a loopback address.
pub fn parse_url(u: &str) -> Result<Target, String> {
    let rest = u
        .strip_prefix("ws://")
        .or_else(|| u.strip_prefix("http://"))
        .ok_or_else(|| format!("{u}: the url must begin with ws:// or http://"))?;
    let (host, path) = match rest.find(['/', '?']) {
        Some(i) => (
            &rest[..i],
            if rest[i..].starts_with('?') {
                format!("/{}", &rest[i..])
            } else {
                rest[i..].to_string()
            },
        ),
        None => (rest, "/".to_string()),
    };
    let (name, port) = host.rsplit_once(':').unwrap_or((host, "80"));
    let ip: std::net::Ipv4Addr = if name == "localhost" {
        std::net::Ipv4Addr::LOCALHOST
    } else {
        name.parse()
            .map_err(|_| format!("{name}: not an IPv4 address"))?
    };
    if !ip.is_loopback() {
        return Err(format!("{ip}: this tool only talks to loopback addresses"));
    }
    Ok(Target {
        dst: ip.octets(),
        port: port.parse().map_err(|_| format!("{port}: not a port"))?,
        host: host.to_string(),
        path,
    })
}

pub trait Handler {
    /// One data message (or the payload of one fragment of it).
    fn message(&mut self, idx: usize, payload: &[u8], now: u64);
    /// After everything that one read brought; `n` data frames of it.
    fn after(&mut self, _eng: &mut Engine, _idx: usize, _n: usize) {}
    fn closed(&mut self, _idx: usize, _code: u16, _now: u64) {}
}

pub struct Quiet;
impl Handler for Quiet {
    fn message(&mut self, _: usize, _: &[u8], _: u64) {}
}

#[derive(Default, Clone, Debug)]
pub struct Counts {
    pub frames: u64,
    pub bytes: u64,
    pub reads: u64,
    pub pings: u64,
    pub closes: u64,
    pub resets: u64,
    pub protocol_errors: u64,
    pub fragments: u64,
    pub http_ok: u64,
    pub http_bad: u64,
}

pub struct Engine {
    ep: i32,
    pub conns: Vec<Conn>,
    buf: Vec<u8>,
    evs: Vec<EpollEvent>,
    pub key: [u8; 4],
    pub n: Counts,
    headers: String,
    opened: usize,
    failed: usize,
    pub last_error: String,
}

const ACCEPT: &[u8] = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

impl Engine {
    pub fn new(headers: String, key: [u8; 4]) -> Engine {
        Engine {
            ep: sys::epoll_create().expect("epoll_create1"),
            conns: Vec::new(),
            buf: vec![0; 1 << 20],
            evs: vec![EpollEvent { events: 0, data: 0 }; 256],
            key,
            n: Counts::default(),
            headers,
            opened: 0,
            failed: 0,
            last_error: String::new(),
        }
    }

    fn interest(&self, idx: usize, op: i32, ev: u32) {
        let _ = sys::epoll_ctl(self.ep, op, self.conns[idx].fd, ev, idx as u64);
    }

    /// Open one connection per target; `http` ones skip the upgrade. Returns their first index.
    /// At most `window` handshakes are under way at once. Fails if any of them fails.
    pub fn open<H: Handler>(
        &mut self,
        targets: &mut dyn Iterator<Item = (Target, bool, i32)>,
        count: usize,
        window: usize,
        per_source: usize,
        deadline: u64,
        h: &mut H,
    ) -> Result<usize, String> {
        let first = self.conns.len();
        self.conns.reserve(count);
        self.opened = 0;
        self.failed = 0;
        let mut started = 0;
        while self.opened + self.failed < count {
            while started < count && started - self.opened - self.failed < window {
                let (t, http, rcvbuf) = targets.next().ok_or("too few targets")?;
                let idx = self.conns.len();
                let src = [127, 0, 0, (1 + idx / per_source) as u8];
                let fd = sys::connect_from(src, t.dst, t.port, rcvbuf)
                    .map_err(|e| format!("connect {}:{}: {e} (after {started})", t.host, t.port))?;
                let mut out = Vec::new();
                if !http {
                    out.extend_from_slice(
                        format!(
                            "GET {} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\n\
                             Connection: Upgrade\r\n\
                             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                             Sec-WebSocket-Version: 13\r\n{}\r\n",
                            t.path, t.host, self.headers
                        )
                        .as_bytes(),
                    );
                }
                self.conns.push(Conn {
                    fd,
                    st: St::Connecting,
                    http,
                    writing: true,
                    out_at: 0,
                    carry: Vec::new(),
                    out,
                });
                self.interest(
                    idx,
                    sys::ADD,
                    sys::EPOLLOUT | sys::EPOLLIN | sys::EPOLLRDHUP,
                );
                started += 1;
            }
            self.poll(20_000_000, h);
            if sys::now_ns() > deadline {
                return Err(format!(
                    "handshakes: {} of {count} open at the time limit; last error: {}",
                    self.opened, self.last_error
                ));
            }
            if self.failed > 0 {
                return Err(format!(
                    "handshake failed ({} open): {}",
                    self.opened, self.last_error
                ));
            }
        }
        Ok(first)
    }

    /// Stop reading from a connection; the kernel still tells of resets.
    pub fn stall(&mut self, idx: usize) {
        self.interest(idx, sys::MOD, sys::EPOLLRDHUP);
    }
    pub fn unstall(&mut self, idx: usize) {
        self.interest(idx, sys::MOD, sys::EPOLLIN | sys::EPOLLRDHUP);
    }

    #[inline]
    pub fn pending(&self, idx: usize) -> usize {
        let c = &self.conns[idx];
        c.out.len() - c.out_at
    }

    /// Send bytes now, and keep what the socket does not take.
    pub fn send(&mut self, idx: usize, bytes: &[u8]) {
        let c = &mut self.conns[idx];
        if c.st != St::Open {
            return;
        }
        let mut at = 0;
        if c.out.is_empty() {
            match sys::send(c.fd, bytes) {
                Io::N(n) => at = n,
                Io::Again => {}
                Io::Gone => return, // the read side will report it
            }
            if at == bytes.len() {
                return;
            }
        }
        c.out.extend_from_slice(&bytes[at..]);
        if !c.writing {
            c.writing = true;
            self.interest(
                idx,
                sys::MOD,
                sys::EPOLLOUT | sys::EPOLLIN | sys::EPOLLRDHUP,
            );
        }
    }
    pub fn send_text(&mut self, idx: usize, text: &str) {
        let mut f = Vec::new();
        push_client_frame(&mut f, 1, self.key, &[text.as_bytes()]);
        self.send(idx, &f);
    }

    fn flush(&mut self, idx: usize) {
        let c = &mut self.conns[idx];
        while c.out_at < c.out.len() {
            match sys::send(c.fd, &c.out[c.out_at..]) {
                Io::N(n) => c.out_at += n,
                Io::Again => return,
                Io::Gone => return,
            }
        }
        c.out.clear();
        c.out_at = 0;
        if c.writing {
            c.writing = false;
            self.interest(idx, sys::MOD, sys::EPOLLIN | sys::EPOLLRDHUP);
        }
    }

    fn kill<H: Handler>(&mut self, idx: usize, code: u16, h: &mut H) {
        let c = &mut self.conns[idx];
        if c.st == St::Dead {
            return;
        }
        if c.st != St::Open {
            self.failed += 1;
            if self.last_error.is_empty() {
                self.last_error = format!(
                    "connection {idx} ended while {:?}, socket error {}",
                    c.st,
                    sys::so_error(c.fd)
                );
            }
        }
        let was_open = c.st == St::Open;
        c.st = St::Dead;
        sys::close_reset(c.fd);
        c.fd = -1;
        if was_open {
            h.closed(idx, code, sys::now_ns());
        }
    }

    /// One round of events; returns how many there were.
    pub fn poll<H: Handler>(&mut self, timeout_ns: u64, h: &mut H) -> usize {
        let mut evs = std::mem::take(&mut self.evs);
        let n = sys::epoll_wait(self.ep, &mut evs, timeout_ns);
        for e in &evs[..n] {
            let (ev, idx) = (e.events, e.data as usize);
            if self.conns[idx].st == St::Dead {
                continue;
            }
            if self.conns[idx].st == St::Connecting {
                if ev & (sys::EPOLLERR | sys::EPOLLHUP) != 0 {
                    self.kill(idx, 0, h);
                    continue;
                }
                if ev & sys::EPOLLOUT != 0 {
                    let c = &mut self.conns[idx];
                    c.st = if c.http { St::Open } else { St::Upgrading };
                    if c.http {
                        self.opened += 1;
                    }
                    self.flush(idx);
                }
                continue;
            }
            if ev & sys::EPOLLOUT != 0 {
                self.flush(idx);
            }
            if ev & (sys::EPOLLIN | sys::EPOLLRDHUP | sys::EPOLLHUP | sys::EPOLLERR) != 0 {
                self.read(idx, h);
            }
        }
        self.evs = evs;
        n
    }

    /// Read once (again only if the buffer was filled) and hand over every whole frame.
    pub fn read<H: Handler>(&mut self, idx: usize, h: &mut H) {
        loop {
            let mut buf = std::mem::take(&mut self.buf);
            let c = &mut self.conns[idx];
            let had = c.carry.len();
            if had + (256 << 10) > buf.len() {
                buf.resize(had + (1 << 20), 0);
            }
            buf[..had].copy_from_slice(&c.carry);
            let r = sys::recv(c.fd, &mut buf[had..]);
            let cap = buf.len();
            let got = match r {
                Io::N(n) => n,
                Io::Again => {
                    self.buf = buf;
                    return;
                }
                Io::Gone => {
                    self.buf = buf;
                    self.n.resets += 1;
                    self.kill(idx, 0, h);
                    return;
                }
            };
            let now = sys::now_ns();
            self.n.reads += 1;
            self.n.bytes += got as u64;
            let end = had + got;
            let mut at = 0;
            let mut data = 0usize;
            let mut closed: Option<u16> = None;
            if c.http {
                at = end;
                for w in buf[had..end].windows(10) {
                    if &w[..9] == b"HTTP/1.1 " {
                        if w[9] == b'2' {
                            self.n.http_ok += 1;
                        } else {
                            self.n.http_bad += 1;
                        }
                    }
                }
            } else if c.st == St::Upgrading {
                match buf[..end].windows(4).position(|w| w == b"\r\n\r\n") {
                    Some(p) => {
                        let head = &buf[..p];
                        let ok = head.starts_with(b"HTTP/1.1 101")
                            && head.windows(ACCEPT.len()).any(|w| w == ACCEPT);
                        if !ok {
                            self.last_error = format!(
                                "upgrade refused: {}",
                                String::from_utf8_lossy(&head[..head.len().min(120)])
                                    .replace(['\r', '\n', '"'], " ")
                            );
                            self.buf = buf;
                            self.kill(idx, 0, h);
                            return;
                        }
                        at = p + 4;
                        self.conns[idx].st = St::Open;
                        self.opened += 1;
                    }
                    None => at = 0,
                }
            }
            if self.conns[idx].st == St::Open {
                while at < end {
                    match frame::parse(&buf[at..end]) {
                        Ok(Some(f)) => {
                            if end - at < f.head + f.len {
                                break;
                            }
                            let p = &buf[at + f.head..at + f.head + f.len];
                            at += f.head + f.len;
                            match f.opcode {
                                0..=2 => {
                                    if !f.fin || f.opcode == 0 {
                                        self.n.fragments += 1;
                                    }
                                    data += 1;
                                    h.message(idx, p, now);
                                }
                                8 => {
                                    self.n.closes += 1;
                                    closed = Some(if p.len() >= 2 {
                                        u16::from_be_bytes([p[0], p[1]])
                                    } else {
                                        1005
                                    });
                                    break;
                                }
                                9 => {
                                    self.n.pings += 1;
                                    let mut o = Vec::with_capacity(140);
                                    push_client_frame(&mut o, 10, self.key, &[p]);
                                    self.send(idx, &o);
                                }
                                _ => {}
                            }
                        }
                        Ok(None) => break,
                        Err(e) => {
                            self.n.protocol_errors += 1;
                            self.last_error = format!("bad frame from the server: {e:?}");
                            closed = Some(1002);
                            break;
                        }
                    }
                }
            }
            self.n.frames += data as u64;
            let c = &mut self.conns[idx];
            c.carry.clear();
            c.carry.extend_from_slice(&buf[at..end]);
            self.buf = buf;
            if let Some(code) = closed {
                self.kill(idx, code, h);
                return;
            }
            if data > 0 {
                h.after(self, idx, data);
            }
            if end < cap {
                return;
            }
        }
    }

    pub fn close_all(&mut self) {
        for c in &mut self.conns {
            if c.st != St::Dead {
                sys::close_reset(c.fd);
                c.st = St::Dead;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn urls() {
        let t = parse_url("ws://127.0.0.1:9001/room/7?x=1").unwrap();
        assert_eq!(
            (t.dst, t.port, t.path.as_str()),
            ([127, 0, 0, 1], 9001, "/room/7?x=1")
        );
        assert_eq!(parse_url("ws://localhost:1?a").unwrap().path, "/?a");
        assert!(parse_url("ws://10.0.0.1:80/").is_err());
        assert!(parse_url("wss://127.0.0.1:80/").is_err());
    }
}
