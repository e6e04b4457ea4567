//! Worker threads: each runs one room shard over one bounded queue of jobs.
//!
//! Floor 3. The only code that spawns worker threads. Knows nothing of sockets or protocols.

mod bell;
mod broker_ends;
mod mailbox;
mod pool;

pub(crate) use bell::Bell;
pub(crate) use broker_ends::BrokerEnds;
pub(crate) use mailbox::{Mailbox, mailbox};
pub(crate) use pool::Pool;
