//! A TCP connection whose reads and writes have a deadline, and HTTP answers read from it.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use socket2::{Domain, SockRef, Socket, Type};

use super::DEADLINE;

/// One HTTP answer.
#[derive(Clone, Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    /// Names in lower case, in the order in which they came.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Response {
    /// The value of the header `name` (lower case). Panics if it came more than once.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(n, _)| n == name);
        let value = values.next().map(|(_, value)| value.as_str());
        assert!(values.next().is_none(), "{name} came twice: {self:?}");
        value
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A listener on a port of the kernel's choosing, whose connections have a send buffer of about so
/// many bytes.
pub(crate) fn narrow_listener(send_bytes: usize) -> TcpListener {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_send_buffer_size(send_bytes).expect("it is ours");
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    socket.bind(&any.into()).expect("a free port");
    socket.listen(1024).expect("it is bound");
    socket.into()
}

/// Sends `request` on a connection of its own and returns the answer.
pub(crate) fn http(addr: SocketAddr, request: impl AsRef<[u8]>) -> Response {
    let mut wire = Wire::connect(addr);
    wire.send(request);
    wire.response()
}

/// A TCP connection to the daemon.
pub(crate) struct Wire {
    stream: TcpStream,
    local: SocketAddr,
    /// Read from the socket and not yet taken.
    pub(super) buffer: Vec<u8>,
}

impl Wire {
    pub(crate) fn connect(addr: SocketAddr) -> Self {
        Self::connect_from(addr, IpAddr::V4(Ipv4Addr::LOCALHOST), None)
    }

    /// Connects from the address `source`, if asked with a receive buffer of about `receive_bytes`.
    pub(crate) fn connect_from(
        addr: SocketAddr,
        source: IpAddr,
        receive_bytes: Option<usize>,
    ) -> Self {
        let open = || -> io::Result<TcpStream> {
            let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
            if let Some(receive_bytes) = receive_bytes {
                socket.set_recv_buffer_size(receive_bytes)?;
            }
            if source != IpAddr::V4(Ipv4Addr::LOCALHOST) {
                socket.bind(&SocketAddr::new(source, 0).into())?;
            }
            socket.connect_timeout(&addr.into(), DEADLINE)?;
            let stream = TcpStream::from(socket);
            stream.set_nodelay(true)?;
            stream.set_write_timeout(Some(DEADLINE))?;
            Ok(stream)
        };
        let stream = open().unwrap_or_else(|error| panic!("connect to {addr}: {error}"));
        let local = stream.local_addr().expect("a connected socket has one");
        Self {
            stream,
            local,
            buffer: Vec::new(),
        }
    }

    /// Our address, which the daemon logs as `peer`.
    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.local
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        if let Err(error) = self.try_send(bytes) {
            panic!("sending {} bytes: {error}", bytes.len());
        }
    }

    /// Sends what the daemon may no longer want to hear.
    pub(crate) fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    /// Sends as much of `bytes` as goes out before the socket accepts nothing for `patience`; returns
    /// how much that was.
    pub(crate) fn send_until_blocked(
        &mut self,
        bytes: &[u8],
        patience: Duration,
    ) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(patience))?;
        let mut sent = 0;
        let outcome = loop {
            if sent == bytes.len() {
                break Ok(sent);
            }
            match self.stream.write(&bytes[sent..]) {
                Ok(count) => sent += count,
                Err(error) if is_timeout(&error) => break Ok(sent),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
        };
        self.stream.set_write_timeout(Some(DEADLINE))?;
        outcome
    }

    /// Reads more into the buffer. `Ok(false)` is the end of the stream.
    pub(super) fn fill(&mut self, deadline: Instant) -> io::Result<bool> {
        let mut chunk = [0; 16 * 1024];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            self.stream.set_read_timeout(Some(left))?;
            match self.stream.read(&mut chunk) {
                Ok(0) => return Ok(false),
                Ok(count) => {
                    self.buffer.extend_from_slice(&chunk[..count]);
                    return Ok(true);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if is_timeout(&error) => return Err(ErrorKind::TimedOut.into()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads what comes next, a little of it; returns how many bytes that was.
    pub(crate) fn recv_some(&mut self) -> usize {
        let before = self.buffer.len();
        let is_more = self.fill(Instant::now() + DEADLINE);
        assert!(
            matches!(is_more, Ok(true)),
            "{is_more:?} after {}",
            self.seen()
        );
        self.buffer.len() - before
    }

    /// Takes the next `len` bytes; fewer if the stream ends before.
    pub(crate) fn take_some(&mut self, len: usize) -> Vec<u8> {
        let deadline = Instant::now() + DEADLINE;
        while self.buffer.len() < len && matches!(self.fill(deadline), Ok(true)) {}
        let len = len.min(self.buffer.len());
        self.buffer.drain(..len).collect()
    }

    /// Reads one HTTP answer; what follows it stays in the buffer.
    pub(crate) fn response(&mut self) -> Response {
        self.response_to(false)
    }

    /// The same of an answer to a HEAD request, which has no body whatever its length says.
    pub(crate) fn response_to_head(&mut self) -> Response {
        self.response_to(true)
    }

    /// The answer, or `None` if the stream ends or has ended without a byte of it.
    pub(crate) fn try_response(&mut self) -> Option<Response> {
        if self.buffer.is_empty() && !self.fill(Instant::now() + DEADLINE).ok()? {
            return None;
        }
        Some(self.response())
    }

    fn response_to(&mut self, is_head_request: bool) -> Response {
        let deadline = Instant::now() + DEADLINE;
        let head_end = loop {
            let end = self.buffer.windows(4).position(|four| four == b"\r\n\r\n");
            if let Some(end) = end {
                break end;
            }
            match self.fill(deadline) {
                Ok(true) => {}
                other => panic!("no HTTP answer: {other:?} after {}", self.seen()),
            }
        };
        let head = String::from_utf8(self.buffer[..head_end].to_vec()).expect("an ASCII head");
        self.buffer.drain(..head_end + 4);
        let mut response = parse_head(&head);
        let length = response.header("content-length").map(|length| {
            let length = length.parse::<usize>();
            length.unwrap_or_else(|error| panic!("content-length: {error} in {head}"))
        });
        let bodyless = is_head_request
            || response.status < 200
            || response.status == 204
            || response.status == 304;
        let length = if bodyless { Some(0) } else { length };
        while length.is_none_or(|length| self.buffer.len() < length) {
            match self.fill(deadline) {
                Ok(true) => {}
                Ok(false) if length.is_none() => break,
                other => panic!("body cut short: {other:?} after {head}\n{}", self.seen()),
            }
        }
        let length = length.unwrap_or(self.buffer.len());
        response.body = self.buffer.drain(..length).collect();
        response
    }

    /// Asserts that the stream ends in order and that nothing comes before its end; then ends our
    /// side too, as a peer does that has seen the end.
    pub(crate) fn expect_eof(&mut self) {
        self.expect_fin();
        self.hang_up();
    }

    /// The same without ending our side.
    pub(crate) fn expect_fin(&mut self) {
        match self.fill_empty() {
            Ok(false) if self.buffer.is_empty() => {}
            other => panic!("no end of stream: {other:?}, got {}", self.seen()),
        }
    }

    /// Asserts that the connection ends, by a reset or in order, and that nothing comes before its
    /// end; then ends our side too.
    pub(crate) fn expect_end(&mut self) {
        match self.fill_empty() {
            Ok(false) if self.buffer.is_empty() => {}
            Err(error) if error.kind() != ErrorKind::TimedOut => {}
            other => panic!("no end: {other:?}, got {}", self.seen()),
        }
        self.hang_up();
    }

    /// Reads and drops whatever comes until the connection has ended, by a reset or in order; then
    /// ends our side too.
    pub(crate) fn expect_gone(&mut self) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            self.buffer.clear();
            match self.fill(deadline) {
                Ok(true) => {}
                Err(error) if error.kind() == ErrorKind::TimedOut => {
                    panic!("the connection did not end")
                }
                Ok(false) | Err(_) => break,
            }
        }
        self.hang_up();
    }

    /// Ends our side of a connection whose other side has ended; it may be gone altogether.
    fn hang_up(&self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// True as soon as something can be read, the end of the stream included; false after `span`.
    pub(crate) fn readable_within(&mut self, span: Duration) -> bool {
        if !self.buffer.is_empty() {
            return true;
        }
        match self.fill(Instant::now() + span) {
            Err(error) => error.kind() != ErrorKind::TimedOut,
            Ok(_) => true,
        }
    }

    /// Asserts that nothing comes for `span`.
    pub(crate) fn expect_silence(&mut self, span: Duration) {
        if self.buffer.is_empty() {
            match self.fill(Instant::now() + span) {
                Err(error) if error.kind() == ErrorKind::TimedOut => return,
                other => panic!("no silence: {other:?}, got {}", self.seen()),
            }
        }
        panic!("no silence: got {}", self.seen());
    }

    /// Says that nothing more will be sent, and goes on reading.
    pub(crate) fn half_close(&self) {
        let outcome = self.stream.shutdown(Shutdown::Write);
        outcome.unwrap_or_else(|error| panic!("half close: {error}"));
    }

    /// Ends the connection by a TCP reset.
    pub(crate) fn reset(self) {
        let outcome = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
        outcome.unwrap_or_else(|error| panic!("set linger: {error}"));
    }

    /// What has come and was not taken, for messages.
    pub(super) fn seen(&self) -> String {
        let start = &self.buffer[..self.buffer.len().min(200)];
        let bytes = self.buffer.len();
        format!("{bytes} bytes: {:?}", start.escape_ascii().to_string())
    }

    fn fill_empty(&mut self) -> io::Result<bool> {
        if self.buffer.is_empty() {
            self.fill(Instant::now() + DEADLINE)
        } else {
            Ok(true)
        }
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

fn parse_head(head: &str) -> Response {
    let mut lines = head.split("\r\n");
    let status_line = lines.next().unwrap_or_default();
    let status = status_line
        .strip_prefix("HTTP/1.1 ")
        .and_then(|rest| rest.get(..3)?.parse().ok())
        .unwrap_or_else(|| panic!("not a status line: {status_line:?}"));
    let headers = lines
        .map(|line| {
            let (name, value) = line
                .split_once(':')
                .unwrap_or_else(|| panic!("not a header: {line:?} in {head}"));
            (name.to_ascii_lowercase(), value.trim().to_owned())
        })
        .collect();
    Response {
        status,
        headers,
        body: Vec::new(),
    }
}
