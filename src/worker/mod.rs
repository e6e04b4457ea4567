//! Worker threads: each runs one room shard over one bounded queue of jobs.
//!
//! Floor 3. The only code that spawns worker threads. Knows nothing of sockets or protocols.

mod mailbox;
mod pool;

pub(crate) use mailbox::{Mailbox, mailbox};
pub(crate) use pool::Pool;
