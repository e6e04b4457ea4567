//! The rest of the outside world: command line, environment, log, file limit, service manager,
//! and what the process uses.
//!
//! Floor 3. Owns: the subcommands ([`command::Invocation`]), how an operator's words become a
//! checked [`config::Config`], and how the daemon's words reach the operator.
//! Never: touches a connection, a room or the loop; it hands over values and nothing else.
//!
//! Three steps, three types: [`cli::Cli`] is what was written, [`config::Config`] is what was
//! checked, and the `Limits` in it are fitted to the process by [`file_limit::raise_and_fit`].
//! After start-up nobody sees the first.

pub mod certificate;
pub mod check;
pub mod cli;
pub mod cluster;
pub mod command;
pub mod config;
pub mod file_limit;
pub mod heap;
pub mod log;
pub mod metrics;
pub mod process;
pub mod quantity;
pub mod secret;
pub mod signal;
pub mod systemd;
