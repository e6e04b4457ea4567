//! Deadlines of many connections, kept without a clock.
//!
//! Owns: the timer [`Wheel`], which says which key is due once it is told what time it is.
//! Never: reads a clock, sleeps, touches a socket, or knows what a key stands for. What happens
//! when a key is due is decided by the caller, which takes due keys one at a time and may stop at
//! any of them.
//!
//! What is promised on lateness, on the work of each call and on jumps of time stands at the
//! methods of [`Wheel`].

pub(crate) mod wheel;

pub use wheel::Wheel;
