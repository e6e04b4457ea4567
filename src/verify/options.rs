//! The options of `roomcast verify`, and the rules between them.

use clap::{Parser, ValueEnum};
use http::Uri;

use super::letter::SIZE_MIN;
use super::{Error, centrifugo};

/// Most messages one run may publish: every reader keeps eight bytes for each.
const MESSAGES_MAX: u64 = 10_000_000;

/// Tests a deployment by a ledger: members are cut at random and resume, and every message must
/// reach every member once and in order, or its loss must have been told.
///
/// Exit status: 0 if all was kept; 1 if anything was lost silently, repeated or reordered, or the
/// server contradicted itself; 2 for wrong options, or if the test could not be carried out.
#[derive(Clone, Debug, Parser)]
#[command(name = "roomcast verify", bin_name = "roomcast verify", version)]
pub struct Options {
    /// Where to connect: ws://HOST:PORT/ws. The path /ws, or none, stands for the path of the
    /// protocol; any other path is kept, and so is the query. Given once for each node of a cluster;
    /// members and publishers are dealt over all, and each resumes on the next one.
    #[arg(long = "url", value_name = "URL", required = true)]
    pub urls: Vec<String>,

    /// What members and publishers speak.
    #[arg(long, value_name = "NAME", value_enum, default_value_t = Protocol::Raw)]
    pub protocol: Protocol,

    /// Members, spread evenly over the rooms. Each is one connection and one open file, here and
    /// there.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub members: u32,

    /// Publishers, spread evenly over the rooms. Each is one connection more.
    #[arg(long, value_name = "M", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub publishers: u32,

    /// Rooms; their names are new in each run: verify:RANDOM:N.
    #[arg(long, value_name = "R", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub rooms: u32,

    /// Connections of members dropped without a close per second, over all members; each resumes
    /// within half a second. 0 cuts none.
    #[arg(long, value_name = "RATE", default_value_t = 5.0, allow_negative_numbers = true, value_parser = parse_cuts)]
    pub cuts: f64,

    /// Seconds of publishing. Connecting before and draining after come on top.
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub secs: u64,

    /// Messages per second of each publisher.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub rate: u32,

    /// Size of a message in bytes, 64 to 1048576.
    #[arg(long, value_name = "BYTES", default_value_t = 64, value_parser = clap::value_parser!(u32).range(SIZE_MIN as i64..=1 << 20))]
    pub size: u32,

    /// Connection token, sent by every connection: as a query parameter, or in the command connect. It
    /// must open the rooms
    /// verify:* for joining and publishing, and its user must be allowed several logins.
    #[arg(long, value_name = "T", env = "ROOMCAST_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
}

/// What members and publishers speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Protocol {
    /// roomcast's own, at /ws: members read JSON envelopes, a publication is a message
    Raw,
    /// That of the Centrifugo SDKs, at /connection/websocket: members subscribe, publishers wait for
    /// the answers to their commands
    Centrifugo,
}

impl Protocol {
    /// Where a server has it.
    pub(super) fn path(self) -> &'static str {
        match self {
            Self::Raw => "/ws",
            Self::Centrifugo => centrifugo::PATH,
        }
    }
}

fn parse_cuts(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|rate| (0.0..=10_000.0).contains(rate))
        .ok_or_else(|| "a number from 0 to 10000".to_owned())
}

impl Options {
    /// Checks what one option means for another, and returns the URLs in their parts, at least one.
    pub(super) fn check(&self) -> Result<Vec<Uri>, Error> {
        let usage = |text: String| Err(Error::Usage(text));
        let uris: Result<Vec<Uri>, Error> = self.urls.iter().map(|url| parse_url(url)).collect();
        let uris = uris?;
        if uris.is_empty() {
            return usage("--url: needed at least once".to_owned());
        }
        let fewest = self.members.min(self.publishers);
        if self.rooms > fewest {
            return usage(format!(
                "--rooms {}: each room needs at least one member and one publisher",
                self.rooms
            ));
        }
        let messages = u64::from(self.publishers) * u64::from(self.rate) * self.secs;
        if messages > MESSAGES_MAX {
            return usage(format!(
                "--publishers, --rate and --secs make {messages} messages; at most {MESSAGES_MAX}"
            ));
        }
        Ok(uris)
    }
}

fn parse_url(url: &str) -> Result<Uri, Error> {
    let usage = |text: String| Err(Error::Usage(text));
    let uri: Uri = match url.parse() {
        Ok(uri) => uri,
        Err(error) => return usage(format!("--url {url}: {error}")),
    };
    match uri.scheme_str() {
        Some("ws") => {}
        Some("wss") => return usage("--url: wss is not supported yet".to_owned()),
        _ => return usage(format!("--url {url}: must begin with ws://")),
    }
    if uri
        .authority()
        .is_none_or(|part| part.as_str().contains('@'))
    {
        return usage("--url: must name a host and no user".to_owned());
    }
    Ok(uri)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str) -> Result<(), String> {
        let words = std::iter::once("verify").chain(line.split_whitespace());
        let options = Options::try_parse_from(words).map_err(|error| error.to_string())?;
        options.check().map(drop).map_err(|error| error.to_string())
    }

    #[test]
    fn both_sides_of_every_rule() {
        for good in [
            "--url ws://localhost:1/ws",
            "--url ws://[::1]:1/ws --rooms 2 --members 2 --publishers 2",
            "--url ws://h/ws --publishers 100 --rate 1000 --secs 100",
            "--url ws://h/ws --size 64 --cuts 0",
            "--url ws://h --protocol centrifugo",
            "--url ws://h/ws --url ws://[::1]:1/ws",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for (bad, word) in [
            ("", "--url"),
            ("--url wss://h/ws", "not supported yet"),
            ("--url http://h/ws", "ws://"),
            ("--url localhost", "ws://"),
            ("--url ws://h/ws --url h", "ws://"),
            ("--url ws://u:p@h/ws", "no user"),
            ("--url ws://h/ws --protocol mqtt", "centrifugo"),
            ("--url ws://h/ws --rooms 3", "--rooms"),
            ("--url ws://h/ws --members 0", "--members"),
            ("--url ws://h/ws --size 63", "--size"),
            ("--url ws://h/ws --cuts -1", "--cuts"),
            ("--url ws://h/ws --cuts NaN", "--cuts"),
            (
                "--url ws://h/ws --publishers 100 --rate 1000 --secs 101",
                "at most",
            ),
        ] {
            let error = check(bad).expect_err(bad);
            assert!(error.contains(word), "{bad}: {error}");
        }
    }
}
