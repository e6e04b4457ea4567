//! The loop: the only code that knows mio.
//!
//! Floor 3. Moves bytes between sockets and the hub. Knows nothing of what a room is or what a
//! client says.

mod budget;
mod control;
mod crew;
mod error;
mod event_loop;
mod farewell;
mod inquiries;
mod last_ends;
mod listener;
mod memory;
mod meter;
mod notices;
mod readiness;
mod reports;
mod socket;
mod stall;
mod supervision;
mod tls;

pub(crate) use control::{Answer, Control, EventSender, NotTaken, control};
pub(crate) use crew::Crew;
pub(crate) use error::LoopError;
pub(crate) use event_loop::EventLoop;
pub(crate) use listener::Listener;
pub(crate) use memory::MemoryWatch;
pub(crate) use reports::{DebugView, LoopFigures, Reports};
pub(crate) use supervision::Supervision;
