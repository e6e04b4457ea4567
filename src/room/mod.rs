//! What a room is: its members (hub side); who is in it, what was published in it and what is
//! gathered for it (shard side).
//!
//! Floor 1. Knows nothing of sockets or of a connection's state.

pub mod batch;
pub mod history;
pub mod members;
pub mod presence;
pub mod recovery;
