//! Where Redis is: `--redis` as an address, and as text that anybody may see.
//!
//! Owns: which URLs there are, and that no password leaves here but to Redis.

use std::time::Duration;

use redis::io::tcp::TcpSettings;
use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, RedisError};
use rustls::crypto::{CryptoProvider, ring};
use socket2::TcpKeepalive;

use crate::base::redacted_url;

/// A Redis, or whoever knows where it is.
#[derive(Clone)]
pub(super) struct Target {
    shown: String,
    /// How to log in, and where for good or for an example.
    info: ConnectionInfo,
    sentinels: Option<Sentinels>,
}

#[derive(Clone)]
struct Sentinels {
    addresses: Vec<ConnectionAddr>,
    master: String,
}

impl Target {
    /// Reads a URL.
    ///
    /// # Errors
    /// Says what it must be.
    pub(super) fn parse(url: &str) -> Result<Self, String> {
        let shown = redacted_url(url);
        let (info, sentinels) = match url.strip_prefix(SENTINEL_SCHEME) {
            Some(rest) => sentinel_target(rest)?,
            None => {
                let info = url.into_connection_info();
                (info.map_err(|error| rule(&error))?, None)
            }
        };
        if let ConnectionAddr::TcpTls { insecure: true, .. } = info.addr() {
            return Err("must not end in #insecure: certificates are always checked".into());
        }
        if let ConnectionAddr::TcpTls { .. } = info.addr()
            && CryptoProvider::get_default().is_none()
        {
            // The library asks for the process's own. If another thread was quicker, it is that.
            let _ = ring::default_provider().install_default();
        }
        // What the broker reads is RESP2, whatever the URL asks for.
        let settings = info.redis_settings().clone();
        let settings = settings.set_protocol(redis::ProtocolVersion::RESP2);
        let info = info
            .set_redis_settings(settings)
            .set_tcp_settings(tcp_settings());
        Ok(Self {
            shown,
            info,
            sentinels,
        })
    }

    /// The URL without its password.
    pub(super) fn shown(&self) -> &str {
        &self.shown
    }

    /// Connects and logs in. Sentinels are asked one after the other where the master is.
    pub(super) fn connect(&self, timeout: Duration) -> Result<redis::Connection, RedisError> {
        let info = match &self.sentinels {
            None => self.info.clone(),
            Some(sentinels) => self.info.clone().set_addr(sentinels.find_master(timeout)?),
        };
        redis::Client::open(info)?.get_connection_with_timeout(timeout)
    }
}

impl Sentinels {
    fn find_master(&self, timeout: Duration) -> Result<ConnectionAddr, RedisError> {
        let mut last = RedisError::from((
            redis::ErrorKind::Client,
            "no sentinel knows the master",
            self.master.clone(),
        ));
        for address in &self.addresses {
            match ask_sentinel(address, &self.master, timeout) {
                Ok(Some((host, port))) => return Ok(ConnectionAddr::Tcp(host, port)),
                Ok(None) => {}
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

fn ask_sentinel(
    address: &ConnectionAddr,
    master: &str,
    timeout: Duration,
) -> Result<Option<(String, u16)>, RedisError> {
    let info = address.clone().into_connection_info()?;
    let mut sentinel = redis::Client::open(info)?.get_connection_with_timeout(timeout)?;
    sentinel.set_read_timeout(Some(timeout))?;
    let mut question = redis::cmd("SENTINEL");
    question.arg("get-master-addr-by-name").arg(master);
    question.query(&mut sentinel)
}

const SENTINEL_SCHEME: &str = "redis+sentinel://";
const SENTINEL_PORT: u16 = 26379;

/// Reads `[user:password@]host[:port][,host[:port]…]/master[/db]`.
fn sentinel_target(rest: &str) -> Result<(ConnectionInfo, Option<Sentinels>), String> {
    let form = "must be redis+sentinel://[user:password@]host[:port][,host[:port]]/master[/db]";
    let (login, rest) = match rest.rsplit_once('@') {
        Some((login, rest)) => (format!("{login}@"), rest),
        None => (String::new(), rest),
    };
    let mut parts = rest.split('/');
    let hosts = parts.next().unwrap_or_default();
    let master = parts.next().unwrap_or_default();
    let db = parts.next().unwrap_or_default();
    if hosts.is_empty() || master.is_empty() || parts.next().is_some() {
        return Err(form.into());
    }
    let mut addresses = Vec::new();
    for host in hosts.split(',') {
        let info = format!("redis://{host}").into_connection_info();
        let info = info.map_err(|_| form.to_owned())?;
        addresses.push(match info.addr() {
            ConnectionAddr::Tcp(name, _) if !host.ends_with(&format!(":{}", port_of(&info))) => {
                ConnectionAddr::Tcp(name.clone(), SENTINEL_PORT)
            }
            address => address.clone(),
        });
    }
    // The master's address is put in its place when it is known.
    let info = format!("redis://{login}master/{db}").into_connection_info();
    let info = info.map_err(|error| rule(&error))?;
    let sentinels = Sentinels {
        addresses,
        master: master.to_owned(),
    };
    Ok((info, Some(sentinels)))
}

fn port_of(info: &ConnectionInfo) -> u16 {
    match info.addr() {
        ConnectionAddr::Tcp(_, port) => *port,
        _ => 0,
    }
}

fn rule(error: &RedisError) -> String {
    // The crate names a part of the URL at most in the detail, so that is left out.
    let what = error.category();
    format!(
        "must be redis://[user:password@]host[:port][/db], rediss://…, unix:///path or \
         {SENTINEL_SCHEME}…: {what}"
    )
}

/// A link that is silent is noticed by the broker's own questions; this is for the kernel's part.
fn tcp_settings() -> TcpSettings {
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(2))
        .with_interval(Duration::from_secs(1))
        .with_retries(3);
    TcpSettings::default()
        .set_nodelay(true)
        .set_keepalive(keepalive)
        .set_user_timeout(Duration::from_secs(5))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_or_refused_without_their_password() {
        let check = |url: &str, expected: Result<&str, &str>| {
            let found = Target::parse(url).map(|target| match target.sentinels {
                Some(sentinels) => format!("{:?} {}", sentinels.addresses, sentinels.master),
                None => target.info.addr().to_string(),
            });
            match (&found, expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{url}"),
                (Err(found), Err(part)) => {
                    assert!(found.contains(part), "{url}: {found}");
                    assert!(!found.contains("hunter2"), "{found}");
                }
                _ => panic!("{url}: {found:?}"),
            }
        };
        check("redis://h", Ok("h:6379"));
        check("rediss://:hunter2@h:1/2", Ok("h:1"));
        check("valkey://h", Ok("h:6379"));
        check("unix:///run/r.sock", Ok("/run/r.sock"));
        check(
            "redis+sentinel://:hunter2@a,b:7,c:26379/main/3",
            Ok(r#"[Tcp("a", 26379), Tcp("b", 7), Tcp("c", 26379)] main"#),
        );
        for bad in [
            "",
            "h:6379",
            "http://:hunter2@h",
            "redis://",
            "redis://:hunter2@h/hunter2",
            "redis://:hunter2@h:99999",
        ] {
            check(bad, Err("must be redis://"));
        }
        check("rediss://h/#insecure", Err("certificates"));
        for bad in [
            "redis+sentinel://h",
            "redis+sentinel:///m",
            "redis+sentinel://h/m/0/x",
        ] {
            check(bad, Err("must be redis+sentinel://"));
        }
    }
}
