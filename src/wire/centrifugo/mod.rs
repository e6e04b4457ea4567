//! The Centrifugo client protocol of `/connection/websocket`, version 2 in JSON: commands in,
//! replies and pushes out.
//!
//! Owns: the names of methods and members, and the numbers of errors and unsubscribes. A room is
//! called `channel` here, as in Centrifugo.
//! Never: decides whether something may be done, or remembers what was said before.
//!
//! Invariants
//! - Whatever clients send is a [`command::Command`] or [`command::Malformed`], and costs memory in
//!   proportion to its own line.
//! - What is written is one JSON object in one line, so that several can share a message with line
//!   feeds between them.
//!
//! What clients send is read in [`command`]; answers are written in [`reply`], and what comes
//! unasked in [`push`].

pub mod command;
pub mod push;
pub mod reply;
