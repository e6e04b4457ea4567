//! A back end: calls of the HTTP API over one connection that is kept alive.

use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};

use super::{Daemon, Response, Wire};

/// The request `POST /api/<method>` with its length, and `headers` after the usual ones.
pub(crate) fn post_request(
    addr: SocketAddr,
    method: &str,
    headers: &[(&str, &str)],
    body: impl AsRef<[u8]>,
) -> Vec<u8> {
    let body = body.as_ref();
    let mut request = format!(
        "POST /api/{method} HTTP/1.1\r\nHost: {addr}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n",
        body.len()
    );
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str("\r\n");
    let mut bytes = request.into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// A connection to the admin listener for calls.
pub(crate) struct Api {
    pub(crate) wire: Wire,
    addr: SocketAddr,
}

impl Api {
    pub(crate) fn connect(daemon: &Daemon) -> Self {
        Self::at(daemon.admin())
    }

    pub(crate) fn at(addr: SocketAddr) -> Self {
        // From an address of its own, for the same reason as `Daemon::admin_get`.
        let wire = Wire::connect_from(addr, IpAddr::from([127, 0, 0, 201]), None);
        Self { wire, addr }
    }

    /// Sends a call and does not wait for its answer.
    pub(crate) fn send(&mut self, method: &str, body: impl AsRef<[u8]>) {
        self.wire.send(post_request(self.addr, method, &[], body));
    }

    /// The next answer, which must be one to a call that was decoded: with status 200 and JSON.
    pub(crate) fn answer(&mut self) -> Value {
        let response = self.wire.response();
        assert_eq!(response.status, 200, "{}", response.text());
        assert_eq!(response.header("content-type"), Some("application/json"));
        let parsed = serde_json::from_slice(&response.body);
        parsed.unwrap_or_else(|error| panic!("{error} in {}", response.text()))
    }

    pub(crate) fn post(&mut self, method: &str, body: impl AsRef<[u8]>) -> Response {
        self.send(method, body);
        self.wire.response()
    }

    /// Calls, and returns the whole answer.
    pub(crate) fn call(&mut self, method: &str, body: &Value) -> Value {
        self.send(method, body.to_string());
        self.answer()
    }

    /// Calls, and returns the `result`, which must be the whole answer.
    pub(crate) fn result(&mut self, method: &str, body: &Value) -> Value {
        let mut answer = self.call(method, body);
        let result = answer["result"].take();
        assert_eq!(answer, json!({ "result": null }), "{method} {body}");
        result
    }

    /// Calls what must fail, and returns the code.
    pub(crate) fn error(&mut self, method: &str, body: &Value) -> u64 {
        error_of(&self.call(method, body))
    }

    /// Publishes, and returns the offset.
    pub(crate) fn publish(&mut self, channel: &str, data: &Value) -> u64 {
        let result = self.result("publish", &json!({ "channel": channel, "data": data }));
        result["offset"].as_u64().expect("an offset")
    }
}

/// The code of `{"error":{…}}`, which must be the whole of it and have a message.
pub(crate) fn error_of(answer: &Value) -> u64 {
    let error = &answer["error"];
    let (code, message) = (error["code"].as_u64(), error["message"].as_str());
    let (Some(code), Some(message)) = (code, message) else {
        panic!("no error: {answer}");
    };
    assert!(!message.is_empty(), "{answer}");
    let whole = json!({ "error": { "code": code, "message": message } });
    assert_eq!(*answer, whole);
    code
}

/// What `history` answers: the offsets of the publications, and that of the room's newest.
pub(crate) fn history(api: &mut Api, request: &Value) -> (Vec<u64>, u64) {
    let result = api.result("history", request);
    let publications = result["publications"].as_array().expect("a list");
    let offset_of = |one: &Value| one["offset"].as_u64().expect("an offset");
    let offsets = publications.iter().map(offset_of).collect();
    (offsets, offset_of(&result))
}
