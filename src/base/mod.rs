//! Words everybody uses: identifiers, positions, close reasons, bounds, time as a value.
//!
//! Floor 0. Uses the standard library only and never touches a socket, a thread or a clock.

mod close;
mod glob;
mod health;
mod histogram;
mod id;
mod limits;
mod network;
mod origin;
mod parted_map;
mod position;
mod prng;
mod redacted;
mod room_budget;
mod secret;
mod time;
mod totals;

pub use close::{CloseReason, Severity};
pub use glob::Glob;
pub use health::{BrokerPart, Health};
pub use histogram::{Histogram, SharedHistogram};
pub use id::{ConnId, Identity, NameError, NodeId, RoomName, UserId};
pub use limits::{
    BROKER_EVENTS_MAX, Delivery, DuplicateLogin, GONE_ROOMS_MAX, LimitError, Limits,
    READ_BYTES_MAX, TLS_HANDSHAKE_BYTES_MAX, TLS_HELD_BYTES_MAX,
};
pub use network::{Network, NetworkError, shown_address};
pub use origin::{AllowedOrigins, OriginError, OriginPattern};
pub use parted_map::PartedMap;
pub use position::{Epoch, Offset, Position, Since};
pub use prng::Prng;
pub use redacted::redacted_url;
pub use room_budget::RoomBudget;
pub use secret::Secret;
pub use time::{Instant, Now};
pub use totals::{Compressed, FollowingTotals, RecoveryOutcome, ShardTotals, Tally};
