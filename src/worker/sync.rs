//! What the bell and the mailbox are made of.
//!
//! They name nothing of std, mio or crossbeam themselves, so that a model can take the same files and
//! put parts of its own in the place of these: see `tests/bell_loom.rs`.

pub(super) use std::sync::Arc;
pub(super) use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

pub(super) use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
pub(super) use mio::Waker;
