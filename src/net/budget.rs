//! How much of each kind of work one turn of the loop may do, so that none starves another. What
//! is left over stays in its backlog, and the next turn does not sleep.

use std::time::Duration;

use crate::base::READ_BYTES_MAX;

/// Connections accepted from one listener.
pub(super) const ACCEPTS: usize = 64;

/// Connections read, once each.
pub(super) const READS: usize = 4096;

/// Bytes taken from one connection.
pub(super) const READ_BYTES: usize = READ_BYTES_MAX;

/// Time for steps of TLS handshakes; the last may go over it. It is time that is counted, because a
/// step costs a few µs or, where the key is RSA of 4096 bits, as much as tens of thousands of
/// deliveries.
pub(super) const HANDSHAKE_TIME: Duration = Duration::from_millis(2);

/// Bytes taken from all connections; the last may go over it.
pub(super) const PHASE_READ_BYTES: usize = 128 << 10;

/// Connections that effects may be pushed to; an effect begun is finished.
pub(super) const PUSHES: usize = 4096;

/// Timers looked at.
pub(super) const TIMERS: usize = 1024;

/// Connections written to, once each.
pub(super) const WRITES: usize = 1024;

/// Questions answered: a text of each kind is made once, and copied for each who asks.
pub(super) const INQUIRIES: usize = 4;

/// Pieces offered to one write.
pub(super) const SLICES: usize = 32;

/// Events taken from the kernel at once.
pub(super) const EVENTS: usize = 1024;

/// Events that are not worth the time of timing them.
pub(super) const EVENTS_UNTIMED: usize = 64;
