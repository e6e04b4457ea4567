//! From an address to a connection that can be used: what is looked at before the first request.
//!
//! Owns: what a Redis must be like, and the scripts as they are known there.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use redis::{Connection, RedisError, Value};

use super::keys::Keys;
use super::reply::{Parts, Trouble, number, shown, trouble};
use super::target::Target;
use crate::base::Instant;
use crate::clock;

/// The layout of keys that is written here.
pub(super) const LAYOUT: &str = "1";

/// Longest time for one step of connecting.
pub(super) const DIAL_TIMEOUT: Duration = Duration::from_secs(2);

/// A connection that is silent for so long is lost.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(4);

/// One start of a Redis: what it knew before may be lost in the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// In letters and digits.
    pub(super) id: Arc<str>,
}

/// The connection for requests.
pub(super) struct Link {
    pub(super) connection: Connection,
    pub(super) run: Run,
    /// From when on rooms may be numbered that were numbered under another run.
    pub(super) settled_at: Instant,
    /// Its number in Redis, if that says it.
    pub(super) client: Option<u64>,
    /// Whether nothing that was sent on an earlier connection can be carried out any more.
    pub(super) has_ended_others: bool,
    pub(super) scripts: Arc<Scripts>,
}

/// A connection for requests that was lost here, and may not have ended in Redis.
#[derive(Clone, Debug)]
pub(super) struct LostLink {
    pub(super) run: Run,
    pub(super) client: Option<u64>,
}

/// The scripts by the names that Redis has given them.
#[derive(Debug)]
pub(super) struct Scripts {
    pub(super) append: Box<str>,
    pub(super) read: Box<str>,
    pub(super) forget: Box<str>,
    pub(super) beat: Box<str>,
    pub(super) claim: Box<str>,
    pub(super) release: Box<str>,
}

/// Why there is no connection.
#[derive(Debug)]
pub(super) enum DialError {
    /// Nobody answers, or not like Redis.
    Unreachable(String),
    /// Redis answers an error.
    Refused(String),
    /// It cannot be used now.
    Unready(&'static str),
    /// It cannot be used at all.
    Unfit(String),
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(why) => write!(f, "must be a Redis that answers: {why}"),
            Self::Refused(why) => write!(f, "must be a Redis that lets roomcast in: {why}"),
            Self::Unready(why) => write!(f, "must be a Redis that can be written to: {why}"),
            Self::Unfit(why) => f.write_str(why),
        }
    }
}

impl From<RedisError> for DialError {
    fn from(error: RedisError) -> Self {
        let text = error.to_string().replace(['\r', '\n'], " ");
        let is_answer = matches!(
            error.kind(),
            redis::ErrorKind::Server(_)
                | redis::ErrorKind::Extension
                | redis::ErrorKind::AuthenticationFailed
        );
        match (is_answer, error.code()) {
            (true, Some("LOADING")) => Self::Unready("it is loading its data"),
            (true, _) => Self::Refused(text),
            (false, _) => Self::Unreachable(text),
        }
    }
}

/// What every connection needs.
#[derive(Clone)]
pub(super) struct Dialer {
    pub(super) target: Target,
    pub(super) keys: Keys,
    pub(super) settle: Duration,
}

impl Dialer {
    /// A connection for requests. Ends those of the connections that were `lost` that may still be
    /// alive in this run: what was sent on them must not be carried out later than what is sent on
    /// the new one.
    pub(super) fn link(
        &self,
        previous: Option<&Run>,
        lost: &[LostLink],
    ) -> Result<Link, DialError> {
        let (mut connection, run) = self.connection()?;
        self.check_layout(&mut connection)?;
        let scripts = Arc::new(Scripts::load(&mut connection)?);
        let mut unsettled_for = self.unsettled_for(&mut connection, &run)?;
        if previous.is_some_and(|previous| *previous != run) {
            // Others may have been back for long, but this node needs its time as well.
            unsettled_for = self.settle;
        }
        let settled_at = clock::read_instant() + unsettled_for;
        let client = ask(&mut connection, redis::cmd("CLIENT").arg("ID"))?;
        let client = match client {
            Ok(Value::Int(id)) => u64::try_from(id).ok(),
            _ => None,
        };
        let mut has_ended_others = true;
        for LostLink { run: of, client } in lost {
            if *of == run {
                let Some(client) = client else {
                    has_ended_others = false;
                    continue;
                };
                let mut kill = redis::cmd("CLIENT");
                kill.arg("KILL").arg("ID").arg(*client);
                has_ended_others &= ask(&mut connection, &kill)?.is_ok();
            }
        }
        connection.set_read_timeout(Some(SILENCE_MAX))?;
        connection.set_write_timeout(Some(SILENCE_MAX))?;
        Ok(Link {
            connection,
            run,
            settled_at,
            client,
            has_ended_others,
            scripts,
        })
    }

    /// A connection for the feed.
    pub(super) fn feed(&self) -> Result<(Connection, Run), DialError> {
        let (connection, run) = self.connection()?;
        connection.set_read_timeout(Some(SILENCE_MAX))?;
        connection.set_write_timeout(Some(SILENCE_MAX))?;
        Ok((connection, run))
    }

    fn connection(&self) -> Result<(Connection, Run), DialError> {
        let mut connection = self.target.connect(DIAL_TIMEOUT)?;
        connection.set_read_timeout(Some(DIAL_TIMEOUT))?;
        connection.set_write_timeout(Some(DIAL_TIMEOUT))?;
        let run = match ask(&mut connection, &redis::cmd("INFO"))? {
            Ok(Value::BulkString(info)) => run_of(&String::from_utf8_lossy(&info))?,
            Ok(_) => return Err(DialError::Unreachable("INFO is no text".into())),
            Err((Trouble::Reconnect, text)) => return Err(DialError::Refused(text)),
            Err(_) => None,
        };
        let id = run.ok_or_else(|| {
            let rule = "must let its user ask INFO, which tells a Redis that was restarted from one that \
                        was not";
            DialError::Unfit(rule.into())
        })?;
        Ok((connection, Run { id: id.into() }))
    }

    fn check_layout(&self, connection: &mut Connection) -> Result<(), DialError> {
        let key = self.keys.version();
        let mut claim = redis::cmd("SET");
        claim.arg(&key).arg(LAYOUT).arg("NX");
        let look = redis::cmd("GET").arg(&key).clone();
        // Both at once would be `SET … NX GET`, which Redis 6 does not have.
        for question in [&claim, &look] {
            match ask(connection, question)? {
                Ok(Value::BulkString(found)) if found != LAYOUT.as_bytes() => {
                    let found = String::from_utf8_lossy(&found).into_owned();
                    return Err(DialError::Unfit(format!(
                        "holds rooms of layout {found:?} at {key:?}, and this roomcast knows layout \
                         {LAYOUT}: use another --redis-prefix, or the version that wrote them"
                    )));
                }
                Ok(_) => {}
                // No memory for a new key: others have been here then, or the rooms say it.
                Err((Trouble::Later, _)) => {}
                Err((_, text)) => return Err(DialError::Refused(text)),
            }
        }
        Ok(())
    }

    /// For how long a room must not be numbered yet that was numbered under another run: others may
    /// know publications of it that this one has lost, and need the time to say so.
    fn unsettled_for(&self, connection: &mut Connection, run: &Run) -> Result<Duration, DialError> {
        let mut question = redis::cmd("EVAL");
        let script = include_str!("run.lua");
        question
            .arg(script)
            .arg(1)
            .arg(self.keys.run())
            .arg(&*run.id);
        let seen_ms = match ask(connection, &question)? {
            Ok(Value::BulkString(digits)) => number(&digits).unwrap_or(0),
            Ok(_) | Err((Trouble::Later, _)) => 0,
            Err((_, text)) => return Err(DialError::Refused(text)),
        };
        Ok(self.settle.saturating_sub(Duration::from_millis(seen_ms)))
    }
}

impl Scripts {
    /// Loads all of them.
    pub(super) fn load(connection: &mut Connection) -> Result<Self, DialError> {
        let mut load = |text: &str| {
            let mut question = redis::cmd("SCRIPT");
            question.arg("LOAD").arg(text);
            match ask(connection, &question)? {
                Ok(Value::BulkString(name)) => Ok(String::from_utf8_lossy(&name).into()),
                Ok(_) => Err(DialError::Unreachable("SCRIPT LOAD names no script".into())),
                Err((_, text)) => Err(DialError::Refused(text)),
            }
        };
        Ok(Self {
            append: load(concat!(
                include_str!("room.lua"),
                include_str!("append.lua")
            ))?,
            read: load(concat!(include_str!("room.lua"), include_str!("read.lua")))?,
            forget: load(concat!(
                include_str!("room.lua"),
                include_str!("forget.lua")
            ))?,
            beat: load(concat!(include_str!("room.lua"), include_str!("beat.lua")))?,
            claim: load(concat!(include_str!("room.lua"), include_str!("claim.lua")))?,
            release: load(concat!(
                include_str!("room.lua"),
                include_str!("release.lua")
            ))?,
        })
    }
}

/// One question; what Redis answers to it, which may be an error.
fn ask(
    connection: &mut Connection,
    question: &redis::Cmd,
) -> Result<Result<Value, (Trouble, String)>, DialError> {
    connection.send_packed_command(&question.get_packed_command())?;
    Ok(match connection.recv_response()? {
        Value::ServerError(error) => Err((trouble(&error), shown(&error))),
        value => Ok(value),
    })
}

/// Which run `INFO` tells of, if it does.
fn run_of(info: &str) -> Result<Option<String>, DialError> {
    let field = |name: &str| {
        let mut lines = info.lines();
        lines.find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim()))
    };
    if field("redis_mode") == Some("cluster") {
        let rule = "must be one Redis, or one with replicas: a Redis Cluster cannot be used";
        return Err(DialError::Unfit(rule.into()));
    }
    if field("redis_mode") == Some("sentinel") {
        let rule = "is a Sentinel, which is asked with redis+sentinel://host:port/master";
        return Err(DialError::Unfit(rule.into()));
    }
    if field("loading") == Some("1") {
        return Err(DialError::Unready("it is loading its data"));
    }
    if field("role").is_some_and(|role| role != "master") {
        return Err(DialError::Unready("it is a replica"));
    }
    let run = field("run_id").filter(|run| {
        (1..=64).contains(&run.len()) && run.bytes().all(|byte| byte.is_ascii_alphanumeric())
    });
    Ok(run.map(str::to_owned))
}

/// A number that nobody guesses.
pub(super) fn random() -> u64 {
    use std::hash::{BuildHasher as _, RandomState};
    RandomState::new().hash_one(0)
}

/// The parts of a message of the feed: its kind, its channel, and what else there is.
pub(super) fn push_parts(value: Value) -> Option<(Vec<u8>, Vec<u8>, Parts)> {
    let mut parts = Parts::of(value)?;
    Some((parts.bytes()?, parts.bytes()?, parts))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_info_says_decides_whether_a_redis_will_do() {
        let info = |mode: &str, role: &str, loading: &str| {
            format!(
                "# Server\r\nredis_mode:{mode}\r\nrun_id:0ab9\r\nloading:{loading}\r\nrole:{role}\r\n"
            )
        };
        let found = |text: &str| run_of(text).map_err(|error| error.to_string());
        assert_eq!(
            found(&info("standalone", "master", "0")),
            Ok(Some("0ab9".into()))
        );
        assert_eq!(found(""), Ok(None));
        assert_eq!(found("run_id:\r\n"), Ok(None));
        assert_eq!(found("run_id:a b\r\n"), Ok(None));
        for (text, part) in [
            (info("cluster", "master", "0"), "Redis Cluster"),
            (info("sentinel", "master", "0"), "redis+sentinel://"),
            (info("standalone", "slave", "0"), "replica"),
            (info("standalone", "master", "1"), "loading"),
        ] {
            let error = found(&text).expect_err(part);
            assert!(error.contains(part), "{error}");
        }
    }
}
