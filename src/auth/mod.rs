//! Who may do what. Pure rules: no network, no clock.
//!
//! [`token`] says who somebody is, [`Grants`] what they may do, and [`is_key`] whether a caller
//! knows a secret. Comparisons with secrets take the same time whatever was guessed.

pub mod access;
pub mod token;

pub use access::{Grants, is_key};
pub use token::{Claims, ServerSub, SubscriptionClaims, TokenRefusal};
