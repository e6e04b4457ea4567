//! The loop: the only code that knows mio.
//!
//! Floor 3. Moves bytes between sockets and the hub. Knows nothing of what a room is or what a
//! client says.

mod budget;
mod control;
mod crew;
mod event_loop;
mod farewell;
mod listener;
mod socket;
mod supervision;
mod tls;

pub(crate) use control::{Answer, Control, EventSender, NotTaken, control};
pub(crate) use crew::Crew;
pub(crate) use event_loop::{EventLoop, LoopCounters, LoopError, Reports};
pub(crate) use listener::Listener;
pub(crate) use supervision::Supervision;
