//! Runs the real daemon and talks to it byte by byte.
//!
//! Owns: one child process per [`Daemon`] and one socket per [`Wire`] or [`Client`]; both end on drop.
//! Never: uses a fixed port, shares state between tests, waits without a deadline, or hides a byte. The
//! client is deliberately not a WebSocket library, so that a test can send what no library would.
//!
//! - [`Daemon`] starts the binary on ports of its own choosing, collects its log and reads its metrics,
//!   memory and open files.
//! - [`Wire`] is a TCP connection whose reads have a deadline: for HTTP and for garbage.
//! - [`Client`] is a WebSocket on top of a `Wire`; [`Dial`] says how to open one.
//! - [`Api`] is a back end that makes calls; [`post_request`] is one call as bytes.
//! - [`Sdk`] is a client of the Centrifugo protocol that writes its commands itself.
//! - [`Trial`] is the book-keeping around one connection that must end for a known reason.
//! - [`Redis`] is a `redis-server`, and [`RedisRelay`] a network to it that can fail.
//! - [`node`] is a daemon in a cluster, [`Load`] a load on it whose books must balance, and [`Probe`] measures
//!   how long it is out of service.
//! - [`Crowd`] is thousands of members of one room, each with a ledger.
//! - [`Trap`] has the libc of a daemon fail when the test says so.
//! - [`Witness`] is a healthy publisher and member: `assert_served` proves that a daemon still works.
//!
//! Everything that waits gives up after [`DEADLINE`] and says what it had seen until then.

#![allow(
    dead_code,
    unused_imports,
    reason = "every test binary uses its own part of the harness"
)]

mod api;
mod certificate;
mod client;
mod cluster;
mod crowd;
mod daemon;
mod envelope;
mod exposition;
mod frame;
mod redis;
mod sdk;
mod secret;
mod trap;
mod trial;
mod wait;
mod wire;
mod witness;

pub(crate) use self::redis::{Passing, Redis, RedisRelay};
pub(crate) use api::{Api, error_of, history, post_request};
pub(crate) use certificate::{Certificate, DAY_S, date};
pub(crate) use client::{ACCEPT, Client, Dial, KEY, Message, hoard, upgrade_request};
pub(crate) use cluster::{Account, Load, Probe, node, two_nodes, wait_for_each_other};
pub(crate) use crowd::{Crowd, Joined, publish_numbered};
pub(crate) use daemon::{Daemon, Signal, Start, run_to_exit, stdout_of};
pub(crate) use envelope::{json_member, next, publication};
pub(crate) use exposition::Exposition;
pub(crate) use frame::{Frame, opcode};
pub(crate) use sdk::{SDK_PATH, Sdk, lines_of, resume};
pub(crate) use secret::{SecretFile, signed_token};
pub(crate) use trap::Trap;
pub(crate) use trial::Trial;
pub(crate) use wait::{DEADLINE, breathe, linger, pace, wait_for, wait_until, wait_within};
pub(crate) use wire::{Response, Wire, http, narrow_listener};
pub(crate) use witness::Witness;
