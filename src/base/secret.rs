//! Secrets: bytes that must reach nobody's eyes.
//!
//! Owns: the bytes, shared by clones.
//! Never: shows them. There is no `Display`, `Debug` says only that there is a secret, and there is
//! no `==`, whose time would tell how much of a guess is right; `auth` compares in constant time.

use std::fmt;
use std::sync::Arc;

/// The bytes of a secret. Cloning shares them.
#[derive(Clone)]
pub struct Secret(Arc<[u8]>);

impl Secret {
    /// Takes any bytes; what makes a good secret is checked where it is read.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }

    /// The bytes, for signing and comparing; never for a log, a metric or a response.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_does_not_show_itself() {
        let secret = Some(Secret::new(b"hunter2"));
        assert_eq!(format!("{secret:?}"), "Some(Secret)");
        assert_eq!(secret.map(|secret| secret.expose().len()), Some(7));
    }
}
