//! Where a member is in a room: offset, epoch, and the pair of them.

use std::fmt;

/// Number of a publication within its room and epoch. The first one is 1; 0 is "before all".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Offset(pub u64);

impl Offset {
    /// The offset of the publication after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Names one unbroken numbering of a room: 1 to 16 letters and digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Epoch {
    text: [u8; Self::BYTES_MAX],
    len: u8,
}

impl Epoch {
    /// Longest epoch, in bytes.
    pub const BYTES_MAX: usize = 16;

    /// Checks an epoch that somebody else wrote.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let is_good = (1..=Self::BYTES_MAX).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
        is_good.then(|| {
            let mut bytes = [0; Self::BYTES_MAX];
            bytes[..text.len()].copy_from_slice(text.as_bytes());
            Self {
                text: bytes,
                len: text.len() as u8,
            }
        })
    }

    /// Spells a number in letters and digits; different numbers give different epochs.
    #[must_use]
    pub fn from_number(mut number: u64) -> Self {
        const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
        // 62^11 > 2^64, so eleven digits always suffice.
        let mut text = [0; Self::BYTES_MAX];
        let mut len = 0;
        loop {
            text[len] = DIGITS[(number % 62) as usize];
            len += 1;
            number /= 62;
            if number == 0 {
                break;
            }
        }
        Self {
            text,
            len: len as u8,
        }
    }

    /// The epoch as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.text[..usize::from(self.len)])
            .expect("an epoch holds letters and digits only")
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Epoch {
    /// An epoch that no room is ever in.
    pub const NEVER: Self = Self {
        text: *b"0000000000000000",
        len: 16,
    };
}

/// A place in a room's numbering.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Which numbering.
    pub epoch: Epoch,
    /// The last publication seen.
    pub offset: Offset,
}

/// From where a member wants to receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// From now on.
    Now,
    /// After a position.
    Position(Position),
    /// After a publication of the epoch that there is.
    Offset(Offset),
    /// After a time, in milliseconds since 1970.
    Time(u64),
    /// The newest so many first.
    Last(u64),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_are_short_and_distinct() {
        for (number, text) in [(0, "0"), (61, "z"), (62, "01"), (u64::MAX, "")] {
            let epoch = Epoch::from_number(number);
            assert!((1..=16).contains(&epoch.as_str().len()));
            assert!(
                epoch
                    .as_str()
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric())
            );
            assert!(text.is_empty() || epoch.as_str() == text);
        }
        assert_ne!(Epoch::from_number(1), Epoch::from_number(1 << 40));
    }
}
