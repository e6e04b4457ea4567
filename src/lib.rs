//! roomcast: a self-hosted WebSocket push server.
//!
//! The daemon is a program of its own and needs none around it. A program that wants to be the
//! server itself starts a [`Server`] and talks to it through a [`Handle`].
//!
//! The modules stand on floors; a module names only modules below it. `docs/ARCHITECTURE.md` draws
//! the map and `tests/floors.rs` keeps it true.
//!
//! | floor | modules | what they are |
//! |---|---|---|
//! | 0 | [`base`] | words everybody uses |
//! | 1 | [`wire`], [`timer`], [`conn`], [`room`], [`auth`], [`cluster`], [`exchange`] | pure parts |
//! | 2 | [`hub`], [`shard`] | the two brains, without sockets, threads or clocks |
//! | 3 | `net`, `worker`, [`broker`], [`ops`], `clock` | thin shells around the outside world |
//! | 3 | [`verify`] | a client that tests a deployment; knows nothing of the server |
//! | 4 | [`daemon`] | puts them together |

#![deny(unsafe_code)]

pub mod auth;
pub mod base;
#[doc(hidden)]
pub mod broker;
mod clock;
pub mod cluster;
pub mod conn;
pub mod daemon;
pub mod exchange;
pub mod hub;
mod net;
pub mod ops;
pub mod room;
pub mod shard;
pub mod timer;
pub mod verify;
pub mod wire;
mod worker;

pub use daemon::{CallError, Counters, Events, Handle, Receipt, Server, ServerError};
pub use hub::Event;
pub use ops::config::Config;
pub use wire::frame::Payload;
