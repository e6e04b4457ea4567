//! A client of Centrifugo's own SDKs under orders, for the tests of `/connection/websocket`.
//!
//! Owns: one program with one client of an SDK; it ends on drop.
//! Never: knows a command or a push; those are between SDK and daemon.
//!
//! Orders are `connect`, `disconnect`, `subscribe` and `unsubscribe` with a `channel` and, the first
//! time, `options`, `forget`, `all` with `orders`, and `give` with a `value` or a `failure`, which
//! answers the event `asks` (`what`: `token`, `data` or `state`). `publish`, `presence`, `stats`,
//! `history`, `rpc` and `state` come to `answer` with a `value` or to `refused` with a `code`. Node
//! alone knows `offline`, `online`, `send`, and `once` with an event `on` and the order `then`.
//!
//! Events have the SDK's names. Those about rooms have a `channel`, and a name that begins with
//! `server ` where the client has not asked for the room. Errors of the SDK, which tell of every
//! attempt that fails, are kept apart, so that the other events are in one order.

#![allow(dead_code, reason = "each test binary drives the SDKs in its own way")]

use std::collections::VecDeque;
use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::driven::{Driven, brief};
use crate::harness::{Api, Daemon};

/// Where the SDKs connect to.
pub(crate) const PATH: &str = "/connection/websocket";

/// One of the SDKs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Library {
    /// The npm package `centrifuge`.
    Node,
    /// The PyPI package `centrifuge-python`.
    Python,
}

pub(crate) const LIBRARIES: [Library; 2] = [Library::Node, Library::Python];

pub(crate) struct Sdk {
    driven: Driven,
    /// What was told while something else was waited for.
    told: VecDeque<Value>,
    errors: VecDeque<Value>,
}

impl Sdk {
    /// A client that has not connected; `target` begins with [`PATH`].
    pub(crate) fn new(library: Library, addr: SocketAddr, target: &str, options: &Value) -> Self {
        let url = format!("ws://{addr}{target}");
        let driven = match library {
            Library::Node => Driven::sdk_node(&url, options),
            Library::Python => Driven::sdk_python(&url, options),
        };
        Self {
            driven,
            told: VecDeque::new(),
            errors: VecDeque::new(),
        }
    }

    /// One that is connected, and said to be `user` unless that is empty.
    pub(crate) fn connected(library: Library, daemon: &Daemon, user: &str) -> Self {
        let mut sdk = Self::new(library, daemon.addr(), &target(user), &json!({}));
        sdk.connect();
        if !user.is_empty() {
            let personal = sdk.expect("server subscribed");
            assert_eq!(personal["channel"], format!("#{user}"), "{personal}");
        }
        sdk
    }

    /// Connects, and returns what the SDK tells of it.
    pub(crate) fn connect(&mut self) -> Value {
        self.order("connect", json!({}));
        self.expect_cut(0);
        self.expect_connected()
    }

    /// Waits until it is without a connection for the reason `code`, and wants another.
    pub(crate) fn expect_cut(&mut self, code: u64) {
        let [_, connecting] = self.expect_way_to("connecting");
        assert_eq!(connecting["code"], code, "{connecting}");
    }

    /// Waits until it has connected.
    pub(crate) fn expect_connected(&mut self) -> Value {
        let [_, connected] = self.expect_way_to("connected");
        connected
    }

    /// Disconnects, which is told.
    pub(crate) fn disconnect(&mut self) {
        self.order("disconnect", json!({}));
        assert_eq!(self.expect_end()["code"], 0);
    }

    /// Waits until it is disconnected for good, without an attempt to connect; returns why.
    pub(crate) fn expect_end(&mut self) -> Value {
        let [connecting, disconnected] = self.expect_way_to("disconnected");
        assert_eq!(connecting, Value::Null, "it tried again");
        disconnected
    }

    /// Waits for `kind`, which on the way tells of rooms that have to wait for a connection and, at
    /// most once, that there is none; returns that and the event itself.
    fn expect_way_to(&mut self, kind: &str) -> [Value; 2] {
        let mut connecting = Value::Null;
        loop {
            let event = self.event();
            match event["event"].as_str() {
                Some(told) if told == kind => return [connecting, event],
                Some("connecting") if connecting.is_null() => connecting = event,
                Some("subscribing" | "server subscribing") => {}
                _ => panic!("{kind} was awaited: {}", brief(&event)),
            }
        }
    }

    /// Subscribes, and returns what the SDK tells of it.
    pub(crate) fn subscribe(&mut self, channel: &str) -> Value {
        self.subscribe_with(channel, json!({}))
    }

    /// The same with options, which count the first time.
    pub(crate) fn subscribe_with(&mut self, channel: &str, options: Value) -> Value {
        self.start_subscribing(channel, options);
        self.expect_of("subscribed", channel)
    }

    pub(crate) fn start_subscribing(&mut self, channel: &str, options: Value) {
        self.order("subscribe", json!({"channel": channel, "options": options}));
        let subscribing = self.expect_of("subscribing", channel);
        assert_eq!(subscribing["code"], 0, "{subscribing}");
    }

    pub(crate) fn unsubscribe(&mut self, channel: &str) {
        self.order("unsubscribe", json!({ "channel": channel }));
        let unsubscribed = self.expect_of("unsubscribed", channel);
        assert_eq!(unsubscribed["code"], 0, "{unsubscribed}");
    }

    pub(crate) fn publish(&mut self, channel: &str, data: impl Into<Value>) {
        let done = self.call("publish", json!({"channel": channel, "data": data.into()}));
        assert_eq!(done, Ok(Value::Null));
    }

    /// Publishes what must be refused, and returns the code.
    pub(crate) fn refused(&mut self, channel: &str) -> u64 {
        let done = self.call("publish", json!({"channel": channel, "data": 1}));
        done.expect_err("a refusal")
    }

    /// What is asked of a room: `presence`, `stats` or `history`.
    pub(crate) fn ask(&mut self, what: &str, channel: &str) -> Value {
        let answer = self.call(what, json!({ "channel": channel }));
        answer.unwrap_or_else(|code| panic!("{what} of {channel}: error {code}"))
    }

    /// Gives an order that is answered; `Err` is the code.
    pub(crate) fn call(&mut self, what: &str, order: Value) -> Result<Value, u64> {
        self.order(what, order);
        self.answer()
    }

    /// The answer to an order that was given.
    pub(crate) fn answer(&mut self) -> Result<Value, u64> {
        loop {
            let mut event = self.driven.event();
            match event["event"].as_str() {
                Some("answer") => return Ok(event["value"].take()),
                Some("refused") => {
                    let code = event["code"].as_u64();
                    return Err(code.unwrap_or_else(|| panic!("no code: {event}")));
                }
                _ => self.told.push_back(event),
            }
        }
    }

    /// The state of the client or of one of its subscriptions.
    pub(crate) fn state(&mut self, channel: Option<&str>) -> Value {
        self.call("state", json!({ "channel": channel }))
            .expect("a state")
    }

    /// Lets the program stand still, and go on.
    pub(crate) fn set_paused(&self, is_paused: bool) {
        self.driven.set_paused(is_paused);
    }

    pub(crate) fn order(&mut self, what: &str, mut order: Value) {
        order["do"] = what.into();
        self.driven.order(&order);
    }

    /// The next event that is no error.
    pub(crate) fn event(&mut self) -> Value {
        loop {
            let next = self.told.pop_front();
            let event = next.unwrap_or_else(|| self.driven.event());
            if event["event"] != "error" {
                return event;
            }
            self.errors.push_back(event);
        }
    }

    /// The next error; no other event may come before it.
    pub(crate) fn error(&mut self) -> Value {
        if let Some(error) = self.errors.pop_front() {
            return error;
        }
        let next = self.told.pop_front();
        let event = next.unwrap_or_else(|| self.driven.event());
        assert_eq!(event["event"], "error", "{}", brief(&event));
        event
    }

    /// The next event, which must be `kind`.
    pub(crate) fn expect(&mut self, kind: &str) -> Value {
        let event = self.event();
        assert_eq!(event["event"], kind, "{}", brief(&event));
        event
    }

    /// The next event, which must be `kind` and about `channel`.
    pub(crate) fn expect_of(&mut self, kind: &str, channel: &str) -> Value {
        let event = self.expect(kind);
        assert_eq!(event["channel"], channel, "{}", brief(&event));
        event
    }

    /// The next event, which must be `kind` with this code.
    pub(crate) fn expect_code(&mut self, kind: &str, code: u64) -> Value {
        let event = self.expect(kind);
        assert_eq!(event["code"], code, "{}", brief(&event));
        event
    }

    /// The data of the next `len` events, which must be publications of `channel`.
    pub(crate) fn data(&mut self, channel: &str, len: usize) -> Vec<Value> {
        let publications = (0..len).map(|_| self.expect_of("publication", channel)["data"].take());
        publications.collect()
    }

    /// Waits for `kind` behind a cut, and gives on the way what the SDK asks for: for each room, or
    /// for the connection as "", the token that is listed.
    pub(crate) fn expect_with_tokens(&mut self, kind: &str, tokens: &[(&str, &str)]) -> Value {
        loop {
            let event = self.event();
            match event["event"].as_str() {
                Some(told) if told == kind => return event,
                Some("asks") => {
                    let channel = event["channel"].as_str().unwrap_or_default();
                    let (_, token) = (tokens.iter().find(|(name, _)| *name == channel))
                        .unwrap_or_else(|| panic!("{event}"));
                    self.order("give", json!({ "value": token }));
                }
                Some("connected" | "subscribing" | "server subscribing" | "server subscribed") => {}
                _ => panic!("{kind} was awaited: {}", brief(&event)),
            }
        }
    }

    /// Waits until the SDK asks for `what`.
    pub(crate) fn expect_asks(&mut self, what: &str) -> Value {
        let asks = self.expect("asks");
        assert_eq!(asks["what"], what, "{asks}");
        asks
    }

    /// Waits until the SDK asks for `what`, and gives it.
    pub(crate) fn give(&mut self, what: &str, value: impl Into<Value>) {
        self.expect_asks(what);
        self.order("give", json!({ "value": value.into() }));
    }

    /// Waits until the SDK asks for `what`, which the application then fails to give.
    pub(crate) fn fail(&mut self, what: &str, failure: &str) {
        self.expect_asks(what);
        self.order("give", json!({ "failure": failure }));
    }

    /// Asserts that the SDK has told nothing else, up to an answer of the daemon that it gets now.
    pub(crate) fn expect_silence(&mut self) {
        self.ask("stats", "somewhere else");
        self.told.retain(|event| event["event"] != "error");
        assert!(self.told.is_empty(), "{:?}", self.told);
    }

    /// The same for one that is not connected.
    pub(crate) fn expect_rest(&mut self) {
        assert_eq!(self.state(None), "disconnected");
        self.told.retain(|event| event["event"] != "error");
        assert!(self.told.is_empty(), "{:?}", self.told);
    }
}

/// The path for somebody who is called `user`, or has no name.
pub(crate) fn target(user: &str) -> String {
    match user {
        "" => PATH.to_owned(),
        user => format!("{PATH}?user={user}"),
    }
}

/// A back end whose connection lasts: one without a call is not kept for as long as a program may
/// take to start.
pub(crate) fn back_end(daemon: &Daemon) -> Api {
    let mut api = Api::connect(daemon);
    api.result("info", &json!({}));
    api
}

/// Numbers as JSON values.
pub(crate) fn numbers(numbers: impl IntoIterator<Item = u64>) -> Vec<Value> {
    numbers.into_iter().map(Value::from).collect()
}
