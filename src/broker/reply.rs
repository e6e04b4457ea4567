//! What Redis answers, taken apart: errors by what follows from them, and replies of scripts.
//!
//! Nothing here panics, whatever an answer is.

use redis::{ServerError, Value};

use crate::base::Offset;

/// What follows from an error that Redis has answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The scripts are not there any more: load them, ask again.
    NoScript,
    /// It may be better soon.
    Later,
    /// This is not the Redis to talk to, now at least: connect again.
    Reconnect,
    /// Something of ours is not what it must be; other rooms are not concerned.
    Room,
    /// It will not be better.
    Refused,
}

/// What follows from `error`.
pub(super) fn trouble(error: &ServerError) -> Trouble {
    let details = error.details().unwrap_or_default();
    let found = trouble_of_code(error.code());
    if found == Trouble::Refused {
        // Redis 6 puts the error of a command in a script behind words of its own.
        let words = details.split([' ', ':']);
        let inner = words
            .filter(|word| word.len() > 2)
            .map(|word| trouble_of_code(word.trim_start_matches('-')))
            .find(|inner| *inner != Trouble::Refused);
        // A script that could not go on has met something under the room's keys that is not ours.
        let is_of_room = details.contains("user_script") && !details.contains("NOPERM");
        return inner.unwrap_or(if is_of_room { Trouble::Room } else { found });
    }
    found
}

fn trouble_of_code(code: &str) -> Trouble {
    match code {
        "NOSCRIPT" => Trouble::NoScript,
        "OOM" | "BUSY" | "MISCONF" | "NOREPLICAS" | "TRYAGAIN" | "CLUSTERDOWN" => Trouble::Later,
        "LOADING" | "READONLY" | "MASTERDOWN" | "NOAUTH" | "WRONGPASS" | "UNBLOCKED"
        | "UNKILLABLE" => Trouble::Reconnect,
        "WRONGTYPE" | "LAYOUT" => Trouble::Room,
        _ => Trouble::Refused,
    }
}

/// An error as text: one line.
pub(super) fn shown(error: &ServerError) -> String {
    match error.details() {
        Some(details) => format!("{} {details}", error.code()),
        None => error.code().to_owned(),
    }
}

/// The parts of a reply that is a list, in order.
#[derive(Debug)]
pub(super) struct Parts(std::vec::IntoIter<Value>);

impl Parts {
    pub(super) fn of(value: Value) -> Option<Self> {
        match value {
            Value::Array(parts) => Some(Self(parts.into_iter())),
            _ => None,
        }
    }

    pub(super) fn list(&mut self) -> Option<Self> {
        Self::of(self.0.next()?)
    }

    pub(super) fn bytes(&mut self) -> Option<Vec<u8>> {
        match self.0.next()? {
            Value::BulkString(bytes) => Some(bytes),
            Value::SimpleString(text) => Some(text.into_bytes()),
            Value::Okay => Some(b"OK".to_vec()),
            Value::Int(number) => Some(number.to_string().into_bytes()),
            _ => None,
        }
    }

    pub(super) fn text(&mut self) -> Option<String> {
        String::from_utf8(self.bytes()?).ok()
    }

    pub(super) fn number(&mut self) -> Option<u64> {
        number(&self.bytes()?)
    }

    pub(super) fn offset(&mut self) -> Option<Offset> {
        offset(&self.bytes()?)
    }
}

/// Reads a whole number.
pub(super) fn number(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Reads the number of a publication. One that the scripts could not count up to is none, so that
/// there always is a next.
pub(super) fn offset(digits: &[u8]) -> Option<Offset> {
    let number = number(digits)?;
    (number <= OFFSET_MAX).then_some(Offset(number))
}

/// Up to here every whole number is one of Lua's.
const OFFSET_MAX: u64 = 1 << 53;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_known_by_their_code_wherever_it_stands() {
        let check = |line: &str, expected: Trouble| {
            let reply = redis::parse_redis_value(format!("-{line}\r\n").as_bytes());
            let Ok(Value::ServerError(error)) = reply else {
                panic!("{line} is no error: {reply:?}");
            };
            assert_eq!(trouble(&error), expected, "{line}");
            assert!(shown(&error).contains(line.split(' ').next().expect("a code")));
        };
        check(
            "NOSCRIPT No matching script. Please use EVAL.",
            Trouble::NoScript,
        );
        check(
            "OOM command not allowed when used memory > 'maxmemory'.",
            Trouble::Later,
        );
        check("BUSY Redis is busy running a script.", Trouble::Later);
        check(
            "MISCONF Redis is configured to save RDB snapshots",
            Trouble::Later,
        );
        check(
            "READONLY You can't write against a read only replica.",
            Trouble::Reconnect,
        );
        check(
            "LOADING Redis is loading the dataset in memory",
            Trouble::Reconnect,
        );
        check("MASTERDOWN Link with MASTER is down", Trouble::Reconnect);
        check("NOAUTH Authentication required.", Trouble::Reconnect);
        check("NOPERM this user has no permissions", Trouble::Refused);
        check("MOVED 1234 127.0.0.1:7000", Trouble::Refused);
        check("WRONGTYPE Operation against a key", Trouble::Room);
        check("ERR", Trouble::Refused);
        check("ERR syntax error", Trouble::Refused);
        // Redis 6.
        let inner = "ERR Error running script (call to f_0a): @user_script:20: WRONGTYPE Operation";
        check(inner, Trouble::Room);
        let inner = "ERR Error running script (call to f_0a): @user_script:9: @user_script: 9: \
                     -READONLY You can't write";
        check(inner, Trouble::Reconnect);
        let inner = "ERR Error running script (call to f_0a): @user_script:9: user_script:9: LAYOUT \
                     of the room is 2";
        check(inner, Trouble::Room);
        check(
            "ERR user_script:178: attempt to compare nil with number script: 0a, on @user_script:178.",
            Trouble::Room,
        );
    }

    #[test]
    fn every_offset_has_a_next() {
        assert_eq!(offset(b"0"), Some(Offset(0)));
        assert_eq!(offset(b"9007199254740992"), Some(Offset(1 << 53)));
        for digits in ["", "-1", "9007199254740993", "18446744073709551615", "x"] {
            assert_eq!(offset(digits.as_bytes()), None, "{digits}");
        }
    }

    #[test]
    fn parts_that_are_something_else_are_none() {
        let mut parts = Parts::of(Value::Array(vec![
            Value::Nil,
            Value::Int(-1),
            Value::BulkString(b"7".to_vec()),
            Value::BulkString(vec![0xff]),
            Value::Array(vec![]),
        ]))
        .expect("a list");
        assert_eq!(parts.number(), None);
        assert_eq!(parts.number(), None);
        assert_eq!(parts.number(), Some(7));
        assert_eq!(parts.text(), None);
        assert!(
            parts
                .list()
                .is_some_and(|mut inner| inner.bytes().is_none())
        );
        assert_eq!(parts.bytes(), None);
        assert!(Parts::of(Value::Okay).is_none());
    }
}
