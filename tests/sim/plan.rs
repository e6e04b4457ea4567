//! What a client is there for, and the request that it begins with.

use std::fmt::Write as _;

/// Where a client connects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// `/ws`
    #[default]
    Rooms,
    /// `/echo`
    Echo,
    /// `/connection/websocket`
    Commands,
    /// Pages, one request after the other on one connection.
    Pages,
    /// The API, on the admin listener.
    Api,
}

/// The epoch of a position that is older than the daemon.
pub(crate) const BEFORE: &str = "before";

/// What a client is there for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plan {
    pub(crate) endpoint: Endpoint,
    pub(crate) rooms: Vec<String>,
    pub(crate) user: Option<String>,
    pub(crate) to: Option<String>,
    pub(crate) json: bool,
    pub(crate) gzip: bool,
    /// It does not want what it has published itself.
    pub(crate) mutes_own: bool,
    /// Where it was in each of its rooms before: room, epoch, offset.
    pub(crate) since: Vec<(String, String, u64)>,
    /// After which time it wants to receive, in milliseconds since 1970.
    pub(crate) since_ms: Option<u64>,
    /// How many of the newest publications it wants first.
    pub(crate) last: Option<usize>,
    pub(crate) token: Option<Token>,
    /// It is a page's: refusals are told by close codes.
    pub(crate) is_browser: bool,
    /// It answers no pings.
    pub(crate) is_mute: bool,
}

/// What a client proves who it is with.
#[derive(Clone, Debug)]
pub(crate) struct Token {
    pub(crate) text: String,
    /// Whether it was made with the right secret and is not over.
    pub(crate) is_good: bool,
    pub(crate) expires_unix_s: u64,
    /// What the names of the rooms begin with that it opens; all rooms, if none are named.
    pub(crate) opens: &'static [&'static str],
}

impl Token {
    /// Whether it opens a room that names no users.
    pub(crate) fn opens(&self, room: &str) -> bool {
        self.opens.is_empty() || self.opens.iter().any(|begin| room.starts_with(begin))
    }
}

impl Plan {
    /// Whether it is a WebSocket, if it is let in.
    pub(crate) fn is_websocket(&self) -> bool {
        !matches!(self.endpoint, Endpoint::Pages | Endpoint::Api)
    }

    /// Whether it may become a member of a room of its plan.
    pub(crate) fn may_join(&self, room: &str) -> bool {
        let personal = self.user.as_ref().map(|user| format!("#{user}"));
        let token = self.token.as_ref();
        personal.as_deref() == Some(room) || token.is_none_or(|token| token.opens(room))
    }

    /// Whether it may publish where it publishes to.
    pub(crate) fn may_publish(&self) -> bool {
        match &self.to {
            Some(user) => self.may_join(&format!("#{user}")),
            None => self.rooms.first().is_some_and(|room| self.may_join(room)),
        }
    }

    /// Every room that it is to be a member of.
    pub(crate) fn all_rooms(&self) -> impl Iterator<Item = String> {
        let personal = self.user.as_ref().map(|user| format!("#{user}"));
        self.rooms.iter().cloned().chain(personal)
    }

    /// The request that asks for a WebSocket; nothing for others.
    pub(crate) fn request(&self) -> String {
        let target = match self.endpoint {
            Endpoint::Pages | Endpoint::Api => return String::new(),
            Endpoint::Echo => self.with_token("/echo?", Vec::new()),
            Endpoint::Commands => match (&self.user, &self.token) {
                (Some(user), None) => format!("/connection/websocket?user={user}"),
                _ => "/connection/websocket".to_owned(),
            },
            Endpoint::Rooms => self.with_token("/ws?", self.query()),
        };
        let mut request = format!(
            "GET {target} HTTP/1.1\r\nHost: sim\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        );
        if self.is_browser {
            request.push_str("Origin: http://sim\r\n");
        }
        request.push_str("\r\n");
        request
    }

    fn with_token(&self, path: &str, mut query: Vec<String>) -> String {
        query.extend((self.token.as_ref()).map(|token| format!("token={}", token.text)));
        format!("{path}{}", query.join("&"))
    }

    fn query(&self) -> Vec<String> {
        let escaped = |room: &str| room.replace('#', "%23");
        let rooms = self.rooms.iter();
        let mut query: Vec<String> = rooms
            .map(|room| format!("room={}", escaped(room)))
            .collect();
        if self.token.is_none() {
            query.extend(self.user.iter().map(|user| format!("user={user}")));
        }
        query.extend(self.to.iter().map(|user| format!("to={user}")));
        if self.json {
            query.push("format=json".into());
        }
        if self.gzip {
            query.push("gzip=1".into());
        }
        for (room, epoch, offset) in &self.since {
            query.push(format!("since={}@{epoch}.{offset}", escaped(room)));
        }
        query.extend(self.since_ms.map(|time| format!("since={time}")));
        query.extend(self.last.map(|count| format!("last={count}")));
        if self.mutes_own {
            query.push("echo=0".into());
        }
        query
    }

    /// In words.
    pub(crate) fn to_words(&self) -> String {
        let mut words = match self.endpoint {
            Endpoint::Rooms => format!("to {}", self.rooms.join(", ")),
            Endpoint::Echo => "to /echo".to_owned(),
            Endpoint::Commands => "to /connection/websocket".to_owned(),
            Endpoint::Pages => "for pages".to_owned(),
            Endpoint::Api => "for the API".to_owned(),
        };
        for (is_so, word) in [
            (self.json, ", json"),
            (self.gzip, ", gzip"),
            (self.mutes_own, ", without its own"),
            (self.is_browser, ", from a page"),
            (self.is_mute, ", never a pong"),
        ] {
            words.push_str(if is_so { word } else { "" });
        }
        for (room, epoch, offset) in &self.since {
            let _ = write!(words, ", {room} after {epoch}.{offset}");
        }
        if let Some(time) = self.since_ms {
            let _ = write!(words, ", since {time}");
        }
        if let Some(count) = self.last {
            let _ = write!(words, ", the last {count}");
        }
        if let Some(user) = &self.user {
            let _ = write!(words, ", as {user}");
        }
        if let Some(user) = &self.to {
            let _ = write!(words, ", writes to {user}");
        }
        if let Some(token) = &self.token {
            let good = if token.is_good { "good" } else { "bad" };
            let _ = write!(words, ", with a {good} token");
        }
        words
    }
}
