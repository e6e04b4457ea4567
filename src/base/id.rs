//! Names of things: connections, rooms, users.
//!
//! Owns: the rules a name must keep. A checked type is the only way in, so no code further up
//! looks at the characters of a name again.
//! Never: looks anything up, or says who may use a name (see `auth`).

use std::fmt;
use std::sync::Arc;

/// Identifies one connection for as long as the daemon runs.
///
/// `slot` is its place in the hub's table and is used again after it ends; `generation` differs
/// each time, so that a late event or answer for a dead connection falls on nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId {
    /// Index into the connection table.
    pub slot: u32,
    /// How many connections have used the slot before.
    pub generation: u32,
}

impl ConnId {
    /// Stands for "no connection" where a publication did not come from one.
    pub const NONE: Self = Self {
        slot: u32::MAX,
        generation: u32::MAX,
    };

    /// Packs the id into one word, for a poll token.
    #[must_use]
    pub fn to_bits(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.slot)
    }

    /// The inverse of [`ConnId::to_bits`].
    #[must_use]
    pub fn from_bits(bits: u64) -> Self {
        Self {
            slot: bits as u32,
            generation: (bits >> 32) as u32,
        }
    }
}

impl fmt::Display for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.slot, self.generation)
    }
}

impl fmt::Debug for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Names one start of a node among all nodes of a cluster. Written as letters and digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u64);

impl NodeId {
    /// Reads what [`NodeId`] writes; `None` for any other text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        // Sixteen digits hold every number, and each number has one spelling.
        let is_its = text.len() == 16
            && text
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        is_its
            .then(|| u64::from_str_radix(text, 16).ok())
            .flatten()
            .map(Self)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Why a string is not a room name or a user id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameError {
    /// The name has no characters.
    Empty,
    /// The name is longer than its bound.
    TooLong,
    /// The name holds a character it may not hold.
    BadCharacter,
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "is empty",
            Self::TooLong => "is too long",
            Self::BadCharacter => "holds a character that is not allowed",
        })
    }
}

impl std::error::Error for NameError {}

/// The name of a room: 1 to 255 bytes of printable ASCII. Cloning shares the text.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RoomName(Arc<str>);

impl RoomName {
    /// Longest name, in bytes.
    pub const BYTES_MAX: usize = 255;

    /// The room in which the nodes of a cluster hear of each other. No other name is like it.
    #[must_use]
    pub fn control() -> Self {
        Self(CONTROL.into())
    }

    /// Whether it is that room.
    #[must_use]
    pub fn is_control(&self) -> bool {
        &*self.0 == CONTROL
    }

    /// Checks `name`.
    ///
    /// ```
    /// use roomcast::base::{NameError, RoomName};
    ///
    /// assert_eq!(RoomName::new("live:7").unwrap().as_str(), "live:7");
    /// assert_eq!(RoomName::new("caf\u{e9}").unwrap_err(), NameError::BadCharacter);
    /// ```
    ///
    /// # Errors
    /// Says which rule the name breaks.
    pub fn new(name: &str) -> Result<Self, NameError> {
        check(name, Self::BYTES_MAX)?;
        Ok(Self(name.into()))
    }

    /// The personal room of `user`, `#user`.
    #[must_use]
    pub fn personal(user: &UserId) -> Self {
        let mut name = String::with_capacity(1 + user.as_str().len());
        name.push('#');
        name.push_str(user.as_str());
        Self(name.into())
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// For a room named `#a,b`: the users it is open to. `None` for every other room.
    pub fn named_users(&self) -> Option<impl Iterator<Item = &str>> {
        self.0.strip_prefix('#').map(|users| users.split(','))
    }

    /// Whether the room is private (`$…`): only an explicit grant opens it.
    #[must_use]
    pub fn is_private(&self) -> bool {
        self.0.starts_with('$')
    }
}

impl fmt::Display for RoomName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RoomName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// A user id: 1 to 254 bytes of printable ASCII without a comma, so that `#user` is a room name
/// and no user can pass for one of the users of a room `#a,b`. Cloning shares the text.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserId(Arc<str>);

impl UserId {
    /// Longest id, in bytes.
    pub const BYTES_MAX: usize = RoomName::BYTES_MAX - 1;

    /// Checks `id`.
    ///
    /// # Errors
    /// Says which rule the id breaks.
    pub fn new(id: &str) -> Result<Self, NameError> {
        check(id, Self::BYTES_MAX)?;
        if id.contains(',') {
            return Err(NameError::BadCharacter);
        }
        Ok(Self(id.into()))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// The name of the room of nodes: a character that no name may hold.
const CONTROL: &str = "\u{1}";

fn check(name: &str, bytes_max: usize) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    if name.len() > bytes_max {
        return Err(NameError::TooLong);
    }
    if !name.bytes().all(|byte| (0x20..=0x7e).contains(&byte)) {
        return Err(NameError::BadCharacter);
    }
    Ok(())
}

/// Who is behind a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The user.
    pub user: UserId,
    /// What others see of the user: the text of a JSON value, in one line.
    pub info: Option<Box<str>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_on_both_sides_of_each_rule() {
        let longest = "r".repeat(255);
        let too_long = "r".repeat(256);
        for (name, expected) in [
            ("a", Ok(())),
            ("live:7 ~", Ok(())),
            (longest.as_str(), Ok(())),
            (too_long.as_str(), Err(NameError::TooLong)),
            ("", Err(NameError::Empty)),
            ("a\u{7f}", Err(NameError::BadCharacter)),
            ("a\n", Err(NameError::BadCharacter)),
            ("é", Err(NameError::BadCharacter)),
        ] {
            assert_eq!(RoomName::new(name).map(|_| ()), expected, "{name:?}");
        }
        assert_eq!(UserId::new(&longest), Err(NameError::TooLong));
        assert_eq!(UserId::new("a,b"), Err(NameError::BadCharacter));
        let user = UserId::new(&longest[1..]).expect("254 bytes are allowed");
        assert_eq!(
            RoomName::personal(&user).as_str().len(),
            RoomName::BYTES_MAX
        );
    }

    #[test]
    fn ids_survive_the_poll_token() {
        for id in [
            ConnId {
                slot: 0,
                generation: 0,
            },
            ConnId {
                slot: 7,
                generation: u32::MAX,
            },
        ] {
            assert_eq!(ConnId::from_bits(id.to_bits()), id);
        }
    }
}
