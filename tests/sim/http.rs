//! A client that speaks HTTP: its requests, one after the other on one connection, and their answers.

use std::collections::VecDeque;

use serde_json::Value;

/// A request and what may be answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Exchange {
    pub(crate) request: &'static str,
    pub(crate) statuses: &'static [u16],
}

/// What the pages and their neighbours answer. 503 is what a daemon says that ends or is full.
pub(crate) const PAGES: [Exchange; 8] = [
    Exchange {
        request: "GET /healthz HTTP/1.1\r\nHost: sim\r\n\r\n",
        statuses: &[200],
    },
    Exchange {
        request: "GET /nothing HTTP/1.1\r\nHost: sim\r\n\r\n",
        statuses: &[404],
    },
    Exchange {
        request: "DELETE /healthz HTTP/1.1\r\nHost: sim\r\n\r\n",
        statuses: &[405],
    },
    Exchange {
        request: "GET /ws?room=a HTTP/1.1\r\nHost: sim\r\n\r\n",
        statuses: &[426],
    },
    Exchange {
        request: "GET /healthz HTTP/1.1\r\n\r\n",
        statuses: &[400],
    },
    Exchange {
        request: "\r\nGET /healthz HTTP/1.1\r\nHost: sim\r\nConnection: close\r\n\r\n",
        statuses: &[200],
    },
    Exchange {
        request: "this is no HTTP\r\n\r\n",
        statuses: &[400],
    },
    Exchange {
        request: "GET /ws?last=1 HTTP/1.1\r\nHost: sim\r\nUpgrade: websocket\r\n\
                  Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                  Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        statuses: &[400, 401],
    },
];

#[derive(Debug, Default)]
pub(crate) struct Exchanges {
    asked: VecDeque<&'static [u16]>,
    /// What its requests were answered with, in order.
    pub(crate) statuses: Vec<u16>,
    /// It was told that a request of it took too long of which the server had not read all.
    pub(crate) was_too_long: bool,
    /// Bodies of the answers of the API, in order; `null` for those without success.
    pub(crate) answers: Vec<Value>,
    /// How often it was told that memory is short.
    pub(crate) short: usize,
    /// What it has asked to be published: room and payload, in order.
    pub(crate) published: Vec<(String, String)>,
}

impl Exchanges {
    pub(crate) fn ask(&mut self, exchange: &Exchange) -> Vec<u8> {
        self.asked.push_back(exchange.statuses);
        exchange.request.as_bytes().to_vec()
    }

    /// A call of the API.
    pub(crate) fn publish(&mut self, channel: &str, text: String, is_chunked: bool) -> Vec<u8> {
        self.asked.push_back(&[200]);
        let body = serde_json::json!({ "channel": channel, "data": text }).to_string();
        self.published.push((channel.to_owned(), text));
        let head = "POST /api/publish HTTP/1.1\r\nHost: localhost\r\n";
        let request = if is_chunked {
            let (first, second) = body.split_at(body.len() / 2);
            let chunk = |part: &str| format!("{:x}\r\n{part}\r\n", part.len());
            let (first, second) = (chunk(first), chunk(second));
            format!("{head}Transfer-Encoding: chunked\r\n\r\n{first}{second}0\r\n\r\n")
        } else {
            format!("{head}Content-Length: {}\r\n\r\n{body}", body.len())
        };
        request.into_bytes()
    }

    /// How many requests are not answered.
    pub(crate) fn unanswered(&self) -> usize {
        self.asked.len()
    }

    /// Takes whole responses from the front of `input`.
    pub(crate) fn understand(&mut self, input: &mut Vec<u8>) {
        while let Some(end) = input.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = std::str::from_utf8(&input[..end]).expect("a head of text");
            let status: u16 = head
                .strip_prefix("HTTP/1.1 ")
                .and_then(|rest| rest.get(..3)?.parse().ok())
                .expect("a status");
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("Content-Length: "))
                .map_or(0, |length| length.parse().expect("a length"));
            let whole = end + 4 + length;
            if input.len() < whole {
                return;
            }
            let body = input[end + 4..whole].to_vec();
            input.drain(..whole);
            self.is_answered(status, &body);
        }
    }

    fn is_answered(&mut self, status: u16, body: &[u8]) {
        // A request that does not come to its end is answered, too.
        let expected = match (self.asked.pop_front(), status) {
            (Some(expected), _) => expected,
            (None, 408) => {
                self.was_too_long = true;
                return;
            }
            (None, status) => panic!("{status} was not asked for"),
        };
        assert!(
            expected.contains(&status) || matches!(status, 408 | 503),
            "{status}, not one of {expected:?}"
        );
        self.short += usize::from(status == 503 && body == b"short of memory\n");
        self.statuses.push(status);
        let is_json = status == 200 && body.starts_with(b"{");
        let answer = is_json.then(|| serde_json::from_slice(body).expect("JSON"));
        self.answers.push(answer.unwrap_or(Value::Null));
    }
}
