//! Opening connections: a few threads that block, so that no reader has to.
//!
//! Owns: the addresses of the deployment and the threads that connect to them.
//! Never: reads a publication. A connection is handed on as soon as its handshake has succeeded, set
//! to non-blocking.
//!
//! Every channel here has room for everything that can be on its way, so no send ever waits: each
//! member and each publisher has at most one order open.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use http::{StatusCode, Uri};
use tungstenite::client::IntoClientRequest;
use tungstenite::handshake::HandshakeError;
use tungstenite::protocol::{WebSocket, WebSocketConfig};

use super::{Error, Protocol};

/// A connection, non-blocking.
pub(super) type Socket = WebSocket<TcpStream>;

/// How long connecting may take, and each wait for a piece of the handshake.
const PATIENCE: Duration = Duration::from_secs(5);

/// Threads that connect. They wait most of the time, so their number has nothing to do with cores.
const DIALERS: usize = 16;

/// Read buffer of a connection. It is allocated at once, and there may be thousands.
const READ_BUFFER: usize = 4 * 1024;

/// Why there is no connection.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The answer was not 101.
    Status(StatusCode),
    /// The way there failed.
    Io(io::Error),
    /// No answer in time.
    Timeout,
    /// The answer was no WebSocket handshake.
    Protocol(tungstenite::Error),
}

impl Refusal {
    /// Whether trying again is of use before the test has begun.
    pub(super) fn is_passing(&self) -> bool {
        matches!(self, Self::Io(_) | Self::Timeout)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "the server answers {status}"),
            Self::Io(error) => write!(f, "{error}"),
            Self::Timeout => write!(f, "no answer within {PATIENCE:?}"),
            Self::Protocol(error) => write!(f, "{error}"),
        }
    }
}

/// Where to connect to one node.
#[derive(Debug)]
pub(super) struct Target {
    addresses: Vec<SocketAddr>,
    /// Scheme, host, path and query.
    base: String,
    /// Sent in the query, unless a command carries it.
    token: Option<String>,
}

impl Target {
    /// Looks the host up, once for the whole run.
    pub(super) fn new(uri: &Uri, protocol: Protocol, token: Option<&str>) -> Result<Self, Error> {
        let host = uri.host().unwrap_or_default();
        let port = uri.port_u16().unwrap_or(80);
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let addresses: Vec<SocketAddr> = (bare, port)
            .to_socket_addrs()
            .map_err(|error| Error::Connect(format!("{host}: {error}")))?
            .collect();
        let path = match uri.path() {
            "" | "/" | "/ws" => protocol.path(),
            path => path,
        };
        let authority = uri.authority().map_or("", |part| part.as_str());
        let base = match uri.query() {
            Some(query) => format!("ws://{authority}{path}?{query}"),
            None => format!("ws://{authority}{path}"),
        };
        let token = token.filter(|token| !token.is_empty() && protocol == Protocol::Raw);
        let token = token.map(str::to_owned);
        Ok(Self {
            addresses,
            base,
            token,
        })
    }

    /// The URL with these parameters and the token.
    fn url(&self, parameters: &[(&'static str, String)]) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(parameters);
        if let Some(token) = &self.token {
            query.append_pair("token", token);
        }
        let query = query.finish();
        match (query.is_empty(), self.base.contains('?')) {
            (true, _) => self.base.clone(),
            (false, true) => format!("{}&{query}", self.base),
            (false, false) => format!("{}?{query}", self.base),
        }
    }

    fn open(&self, parameters: &[(&'static str, String)]) -> Result<Socket, Refusal> {
        let request = self.url(parameters).into_client_request();
        let request = request.map_err(Refusal::Protocol)?;
        let stream = self.connect().map_err(Refusal::Io)?;
        stream
            .set_read_timeout(Some(PATIENCE))
            .map_err(Refusal::Io)?;
        stream
            .set_write_timeout(Some(PATIENCE))
            .map_err(Refusal::Io)?;
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .write_buffer_size(0);
        match tungstenite::client::client_with_config(request, stream, Some(config)) {
            Ok((socket, _)) => {
                socket
                    .get_ref()
                    .set_nonblocking(true)
                    .map_err(Refusal::Io)?;
                Ok(socket)
            }
            Err(HandshakeError::Interrupted(_)) => Err(Refusal::Timeout),
            Err(HandshakeError::Failure(error)) => Err(match error {
                tungstenite::Error::Http(answer) => Refusal::Status(answer.status()),
                tungstenite::Error::Io(error) => Refusal::Io(error),
                error => Refusal::Protocol(error),
            }),
        }
    }

    /// Tries the addresses one after the other.
    fn connect(&self) -> io::Result<TcpStream> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
        for address in &self.addresses {
            match TcpStream::connect_timeout(address, PATIENCE) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    return Ok(stream);
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

/// A connection that somebody wants.
pub(super) struct Order {
    /// Whose.
    pub(super) who: usize,
    /// To which node.
    pub(super) node: usize,
    /// The query.
    pub(super) parameters: Vec<(&'static str, String)>,
    /// Where to.
    pub(super) answers: Sender<Answer>,
}

/// What became of an order.
pub(super) struct Answer {
    /// Whose.
    pub(super) who: usize,
    /// The connection.
    pub(super) outcome: Result<Socket, Refusal>,
}

/// Starts the dialers to these nodes. They end when the last sender of orders is gone.
pub(super) fn start(targets: Vec<Target>, orders_max: usize) -> Result<Sender<Order>, Error> {
    let targets: Arc<[Target]> = targets.into();
    let (sender, receiver) = bounded::<Order>(orders_max);
    for index in 0..DIALERS.min(orders_max) {
        let targets = Arc::clone(&targets);
        let receiver: Receiver<Order> = receiver.clone();
        thread::Builder::new()
            .name(format!("dialer-{index}"))
            .spawn(move || {
                for order in receiver {
                    let outcome = targets[order.node].open(&order.parameters);
                    // Whoever ordered may have ended meanwhile.
                    let _ = order.answers.try_send(Answer {
                        who: order.who,
                        outcome,
                    });
                }
            })
            .map_err(Error::Thread)?;
    }
    Ok(sender)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_keeps_what_was_given_and_encodes_what_is_added() {
        let check = |url: &str, token, expected: &str| {
            let uri: Uri = url.parse().expect("a URL");
            let target = Target::new(&uri, Protocol::Raw, token).expect("a loopback address");
            let parameters = [("room", "verify:a&b:0".to_owned())];
            assert_eq!(target.url(&parameters), expected);
        };
        check(
            "ws://127.0.0.1:1/ws",
            None,
            "ws://127.0.0.1:1/ws?room=verify%3Aa%26b%3A0",
        );
        check(
            "ws://[::1]:1",
            Some(""),
            "ws://[::1]:1/ws?room=verify%3Aa%26b%3A0",
        );
        check(
            "ws://127.0.0.1/push?a=1",
            Some("t.u"),
            "ws://127.0.0.1/push?a=1&room=verify%3Aa%26b%3A0&token=t.u",
        );
    }

    #[test]
    fn no_path_and_that_of_ws_stand_for_that_of_the_protocol() {
        for (url, expected) in [
            ("ws://127.0.0.1:1", "ws://127.0.0.1:1/connection/websocket"),
            ("ws://[::1]:1/ws", "ws://[::1]:1/connection/websocket"),
            (
                "ws://[::1]:1/?user=a",
                "ws://[::1]:1/connection/websocket?user=a",
            ),
            ("ws://[::1]:1/push/ws", "ws://[::1]:1/push/ws"),
        ] {
            let uri: Uri = url.parse().expect("a URL");
            let target = Target::new(&uri, Protocol::Centrifugo, Some("t"));
            let target = target.expect("a loopback address");
            assert_eq!(target.url(&[]), expected);
        }
    }
}
