//! Bytes to meaning and back: HTTP heads, the upgrade, WebSocket frames, the raw room protocol and
//! Centrifugo's.
//!
//! Floor 1. Owns no connection, room, socket or clock; every function here can be tested with a
//! byte slice.

pub mod api;
pub mod body;
pub mod centrifugo;
pub mod forwarded;
pub mod frame;
pub mod http;
pub mod node;
pub mod raw;
pub mod upgrade;
pub mod websocket;
