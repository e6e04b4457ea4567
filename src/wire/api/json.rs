//! JSON as the API needs it: checked as a whole, its parts taken out as they stand, and written
//! without white space.
//!
//! Owns: the nesting bound, the compact form and lists that end at a bound.
//! Never: evaluates a value that it only carries: the digits of numbers, the order of keys, keys
//! given twice and escapes inside `data` reach members as the publisher wrote them.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{ApiCode, ApiError};
use crate::base::RoomName;

/// How deep arrays and objects of a body may be nested, envelope included. Stricter than
/// serde_json, whose own bound of 128 does not apply to values that it only skips; a bound there
/// has to be, for it is what keeps the parsers of the members from running out of stack.
pub const NESTING_MAX: usize = 64;

/// Checks that `body` is one JSON value, and gives it.
pub(super) fn decode(body: &[u8]) -> Result<&RawValue, ApiError> {
    let text = std::str::from_utf8(body).or(Err(ApiError::Undecodable))?;
    if nesting(text) > NESTING_MAX {
        return Err(ApiError::Undecodable);
    }
    serde_json::from_str(text).or(Err(ApiError::Undecodable))
}

/// Reads a value that has to be an object. Deserialisers made by serde would take an array as well,
/// its items for the members in their order.
pub(in crate::wire) fn object<'a, T: Deserialize<'a>>(raw: &'a RawValue) -> Result<T, ApiCode> {
    if !raw.get().starts_with('{') {
        return Err(ApiCode::BadRequest);
    }
    serde_json::from_str(raw.get()).or(Err(ApiCode::BadRequest))
}

/// The value without the white space between its tokens.
pub(in crate::wire) fn compact(raw: &RawValue) -> String {
    let text = raw.get();
    let mut out = String::with_capacity(text.len());
    let mut in_string = InString::default();
    // Where the run of bytes begins that is to be kept. A run ends at ASCII white space, so both of
    // its ends are between characters.
    let mut start = 0;
    for (place, byte) in text.bytes().enumerate() {
        if !in_string.passes(byte) && matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
            out.push_str(&text[start..place]);
            start = place + 1;
        }
    }
    out.push_str(&text[start..]);
    out
}

/// Reads a member that may hold any value: `null` is a value and not the absence of one.
pub(in crate::wire) fn any<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// A list of at most `MAX` items. What comes after them is skipped and costs no memory.
#[derive(Debug)]
pub(super) enum AtMost<T, const MAX: usize> {
    /// All items.
    Items(Vec<T>),
    /// There were more.
    TooMany,
}

impl<T, const MAX: usize> AtMost<T, MAX> {
    pub(super) fn items(self) -> Result<Vec<T>, ApiCode> {
        match self {
            Self::Items(items) => Ok(items),
            Self::TooMany => Err(ApiCode::LimitExceeded),
        }
    }
}

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for AtMost<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(AtMostVisitor(PhantomData))
    }
}

struct AtMostVisitor<T, const MAX: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for AtMostVisitor<T, MAX> {
    type Value = AtMost<T, MAX>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut items = Vec::new();
        while items.len() < MAX {
            match seq.next_element()? {
                Some(item) => items.push(item),
                None => return Ok(AtMost::Items(items)),
            }
        }
        if seq.next_element::<IgnoredAny>()?.is_none() {
            return Ok(AtMost::Items(items));
        }
        drop(items);
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(AtMost::TooMany)
    }
}

/// A string that should be a room name, or not.
#[derive(Debug)]
pub(super) struct Name(pub(super) Result<RoomName, ApiCode>);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameVisitor;

        impl Visitor<'_> for NameVisitor {
            type Value = Name;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_str<E>(self, text: &str) -> Result<Name, E> {
                Ok(Name(RoomName::new(text).or(Err(ApiCode::BadRequest))))
            }
        }

        deserializer.deserialize_str(NameVisitor)
    }
}

/// An object whose keys are for others to understand, if it has at most one.
#[derive(Debug)]
pub(super) enum OneMember<'a> {
    /// It has none.
    None,
    /// This one.
    One(String, &'a RawValue),
    /// It has more.
    More,
}

impl<'de> Deserialize<'de> for OneMember<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneMemberVisitor;

        impl<'de> Visitor<'de> for OneMemberVisitor {
            type Value = OneMember<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let Some((key, value)) = map.next_entry()? else {
                    return Ok(OneMember::None);
                };
                let mut found = OneMember::One(key, value);
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
                    found = OneMember::More;
                }
                Ok(found)
            }
        }

        deserializer.deserialize_map(OneMemberVisitor)
    }
}

/// How deep brackets are nested, for text that may not be JSON.
pub(in crate::wire) fn nesting(text: &str) -> usize {
    let mut in_string = InString::default();
    let (mut depth, mut deepest) = (0_usize, 0);
    for byte in text.bytes() {
        if in_string.passes(byte) {
            continue;
        }
        match byte {
            b'[' | b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// Tells the bytes of strings from the bytes between them.
#[derive(Default)]
enum InString {
    #[default]
    Outside,
    Inside,
    Escape,
}

impl InString {
    /// Whether `byte`, the next one, belongs to a string, quotes included.
    fn passes(&mut self, byte: u8) -> bool {
        let (next, is_inside) = match (&self, byte) {
            (Self::Outside, b'"') => (Self::Inside, true),
            (Self::Outside, _) => (Self::Outside, false),
            (Self::Inside, b'"') => (Self::Outside, true),
            (Self::Inside, b'\\') => (Self::Escape, true),
            (Self::Inside | Self::Escape, _) => (Self::Inside, true),
        };
        *self = next;
        is_inside
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> &RawValue {
        decode(text.as_bytes()).expect("JSON")
    }

    #[test]
    fn what_is_not_json_is_told_from_what_is() {
        let nested = |depth| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
        let in_string = format!("\"{}\"", "[{".repeat(500));
        for (text, is_json) in [
            ("{}", true),
            (" [1e999, 123456789012345678901234567890] \n", true),
            ("\"\\ud800\"", true),
            (in_string.as_str(), true),
            (nested(64).as_str(), true),
            (nested(65).as_str(), false),
            (nested(10_000).as_str(), false),
            (&"[".repeat(10_000), false),
            (&"{\"a\":".repeat(10_000), false),
            ("", false),
            (" ", false),
            ("{", false),
            ("{}{}", false),
            ("{}]", false),
            ("{\"a\":1,}", false),
            ("{'a':1}", false),
            ("[01]", false),
            ("[1.]", false),
            ("NaN", false),
            ("\"\n\"", false),
            ("\"\\x\"", false),
            ("\u{feff}{}", false),
        ] {
            let found = decode(text.as_bytes());
            assert_eq!(found.is_ok(), is_json, "{:?}", text.get(..40));
        }
        for bytes in [&b"{\"a\":\"\xff\"}"[..], b"\"\xed\xa0\x80\"", b"\"\xc3"] {
            assert!(decode(bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn compact_changes_nothing_but_the_space_between() {
        for (text, expected) in [
            ("1", "1"),
            ("\" a \\\" b \\\\\"", "\" a \\\" b \\\\\""),
            (
                " { \"z\" : [ 1.10 , 1e999,\t-0 ] ,\r\n \"a b\": \"c  d\", \"z\":null } ",
                "{\"z\":[1.10,1e999,-0],\"a b\":\"c  d\",\"z\":null}",
            ),
            (
                "[ \"é \u{a0}\" , 12345678901234567890123 ]",
                "[\"é \u{a0}\",12345678901234567890123]",
            ),
            ("[ \"\\u00e9\\/\" ]", "[\"\\u00e9\\/\"]"),
        ] {
            assert_eq!(compact(raw(text)), expected);
        }
    }

    #[test]
    fn lists_end_at_their_bound() {
        let list = |text: &'static str| serde_json::from_str::<AtMost<u8, 2>>(text);
        assert!(matches!(list("[]"), Ok(AtMost::Items(items)) if items.is_empty()));
        assert!(matches!(list("[1,2]"), Ok(AtMost::Items(items)) if items == [1, 2]));
        assert!(matches!(list("[1,2,3]"), Ok(AtMost::TooMany)));
        assert!(matches!(list("[1,2,3,4,{}]"), Ok(AtMost::TooMany)));
        assert!(list("[1,{}]").is_err() && list("{}").is_err());
    }

    #[test]
    fn objects_are_not_arrays() {
        assert!(object::<OneMember<'_>>(raw("[]")).is_err());
        assert!(matches!(object(raw("{}")), Ok(OneMember::None)));
        assert!(matches!(
            object(raw(r#"{"\u0061": {} }"#)),
            Ok(OneMember::One(key, value)) if key == "a" && value.get() == "{}"
        ));
        assert!(matches!(
            object(raw(r#"{"a":1,"a":2}"#)),
            Ok(OneMember::More)
        ));
    }
}
