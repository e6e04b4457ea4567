//! What a room is: who is in it (hub side) and what is gathered for it (shard side).
//!
//! Floor 1. Knows nothing of sockets or of a connection's state.

pub mod batch;
pub mod history;
pub mod members;
pub mod recovery;
