//! What the program is asked to do: serve, check its options, mint a token, or test a deployment.
//!
//! Owns: the choice among subcommands, and the options that only `roomcast token` has.
//! Never: does any of it; `main` does.
//!
//! The first argument decides. Each subcommand is then parsed by itself, so that a variable that
//! is wrong for serving does not keep anybody from minting a token.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Command, CommandFactory as _, Parser};

use crate::base::{Glob, Secret, UserId};

use super::cli::{self, Cli};
use super::config::{ConfigError, parse_globs};
use super::{quantity, secret};

/// What is to be done.
#[derive(Clone, Debug)]
pub enum Invocation {
    /// Run the daemon.
    Serve(Cli),
    /// Say what the daemon would run with.
    Check(Cli),
    /// Print a connection token.
    Token(TokenOptions),
    /// Test a deployment, with these arguments, of which the first is the program's name.
    Verify(Vec<OsString>),
}

impl Invocation {
    /// Whether this process is asked to serve, as far as its first argument says.
    #[must_use]
    pub fn is_to_serve() -> bool {
        let first = env::args_os().nth(1);
        let first = first.as_ref().and_then(|first| first.to_str());
        !matches!(first, Some("check" | "token" | "verify"))
    }

    /// Reads the arguments and the environment of this process. Ends the process with usage or
    /// version on standard output and status 0, or with the error on standard error and status 2.
    #[must_use]
    pub fn parse_args() -> Self {
        match Self::try_from_args(env::args_os()) {
            Ok(invocation) => invocation,
            Err(error) => error.exit(),
        }
    }

    /// Reads `args`, of which the first is the program's name, and the environment.
    ///
    /// # Errors
    /// Says what is wrong, or carries the text of `--help` and `--version`.
    pub fn try_from_args(args: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let mut args = args.into_iter().collect::<Vec<_>>();
        match args.get(1).and_then(|first| first.to_str()) {
            Some("check") => {
                args.remove(1);
                let command = Cli::command().bin_name("roomcast check").about(CHECK_ABOUT);
                Cli::try_from_command(command, args).map(Self::Check)
            }
            Some("token") => {
                args.remove(1);
                TokenOptions::try_from_args(args).map(Self::Token)
            }
            Some("verify") => {
                args.remove(1);
                Ok(Self::Verify(args))
            }
            _ => Cli::try_from_command(Self::command(), args).map(Self::Serve),
        }
    }

    /// The options of the daemon and the names of the subcommands. They are told to clap for the
    /// help text and the manual, and so that one that stands after an option is refused.
    #[must_use]
    pub fn command() -> Command {
        Cli::command()
            .args_conflicts_with_subcommands(true)
            .disable_help_subcommand(true)
            .subcommand(Command::new("check").about(CHECK_ABOUT))
            .subcommand(Command::new("token").about(TOKEN_ABOUT))
            .subcommand(Command::new("verify").about(VERIFY_ABOUT))
    }
}

const CHECK_ABOUT: &str = "Checks the options, prints the effective values and the arithmetic of \
                           the memory bounds, and ends: 0 when they hold, else 2";
const TOKEN_ABOUT: &str = "Prints a connection token (HS256 JWT)";
const VERIFY_ABOUT: &str = "Tests a deployment by a ledger: members are cut and resume, and every \
                            message must have come once and in order, or its loss been told";

/// The options of `roomcast token`, as typed.
#[derive(Clone, Debug, Parser)]
#[command(name = "roomcast token", bin_name = "roomcast token", version, about = TOKEN_ABOUT)]
#[command(long_about = None)]
#[command(
    after_help = "DURATION takes a unit: ms, s, m or h.\nA flag beats its environment variable."
)]
pub struct TokenOptions {
    /// User id the token is for: 1 to 254 bytes of printable ASCII without a comma.
    #[arg(long, env = "ROOMCAST_USER", value_name = "USER")]
    pub user: String,

    /// Rooms the user may join, as a pattern in which * stands for any text; rooms that start with
    /// $ only by a pattern that does. Repeatable; commas in the environment [default: all rooms
    /// that are not private]
    #[arg(long, env = "ROOMCAST_ROOMS", value_name = "GLOB")]
    pub rooms: Vec<String>,

    /// Rooms the user may publish to, likewise [default: those of --rooms].
    #[arg(long, env = "ROOMCAST_PUBLISH", value_name = "GLOB")]
    pub publish: Vec<String>,

    /// Time the token is valid from now on, at least 1s; a connection made with it ends then, too.
    #[arg(
        long,
        env = "ROOMCAST_TTL",
        value_name = "DURATION",
        default_value = "1h",
        value_parser = quantity::parse_duration
    )]
    pub ttl: Duration,

    /// File with the secret that the server has.
    #[arg(long, env = "ROOMCAST_TOKEN_SECRET_FILE", value_name = "FILE")]
    pub token_secret_file: PathBuf,
}

impl TokenOptions {
    /// The names of the variables that are read.
    #[must_use]
    pub fn variables() -> Vec<OsString> {
        cli::variables(&Self::command())
    }

    /// Checks what was typed and reads the secret. The strings are warnings.
    ///
    /// # Errors
    /// The first rule that does not hold.
    pub fn check(&self) -> Result<(TokenRequest, Vec<String>), ConfigError> {
        let user = UserId::new(&self.user).map_err(|error| {
            let rule =
                format!("must be 1 to 254 bytes of printable ASCII without a comma, but {error}");
            ConfigError::quoting("--user", &self.user, rule)
        })?;
        if self.ttl < Duration::from_secs(1) {
            let value = format!("{:?}", self.ttl);
            return Err(ConfigError::new("--ttl", value, "must be at least 1s"));
        }
        let given = |globs: Vec<Glob>| (!globs.is_empty()).then_some(globs);
        let rooms = given(parse_globs("--rooms", &self.rooms)?);
        let publish = given(parse_globs("--publish", &self.publish)?);
        let mut warnings = Vec::new();
        let secret = secret::read_token_secret(&self.token_secret_file, &mut warnings)?;
        let request = TokenRequest {
            secret,
            user,
            rooms,
            publish,
            ttl: self.ttl,
        };
        Ok((request, warnings))
    }

    fn try_from_args(args: Vec<OsString>) -> Result<Self, clap::Error> {
        let (mut options, from_environment) =
            cli::parse::<Self, 2, _, _>(Self::command(), args, ["rooms", "publish"])?;
        cli::split_lists([&mut options.rooms, &mut options.publish], from_environment);
        Ok(options)
    }
}

/// What `roomcast token` is asked for, checked.
#[derive(Clone, Debug)]
pub struct TokenRequest {
    /// What to sign with.
    pub secret: Secret,
    /// Whom the token is for.
    pub user: UserId,
    /// Rooms to join; `None` for all that are not private.
    pub rooms: Option<Vec<Glob>>,
    /// Rooms to publish to; `None` for those of `rooms`.
    pub publish: Option<Vec<Glob>>,
    /// How long it is valid, at least a second.
    pub ttl: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Invocation, String> {
        let args = ["roomcast"].iter().chain(args).map(OsString::from);
        Invocation::try_from_args(args).map_err(|error| error.to_string())
    }

    fn check(args: &[&str]) -> Result<TokenRequest, String> {
        let args = [&["token", "--token-secret-file=/nowhere"], args].concat();
        match parse(&args)? {
            Invocation::Token(options) => match options.check() {
                Ok((request, _)) => Ok(request),
                Err(error) => Err(error.to_string()),
            },
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_first_argument_decides() {
        assert!(matches!(parse(&[]), Ok(Invocation::Serve(_))));
        let serve = parse(&["--workers=3"]);
        assert!(matches!(serve, Ok(Invocation::Serve(cli)) if cli.workers == 3));
        let check = parse(&["check", "--workers=3"]);
        assert!(matches!(check, Ok(Invocation::Check(cli)) if cli.workers == 3));
        let token = parse(&["token", "--user=al", "--token-secret-file=s"]);
        assert!(matches!(token, Ok(Invocation::Token(options)) if options.user == "al"));
        for args in [
            &["--workers=3", "check"][..],
            &["check", "token"],
            &["check", "stray"],
            &["stray"],
            &["token"],
            &["token", "--user=al"],
            &["token", "--workers=3"],
        ] {
            assert!(parse(args).is_err(), "{args:?}");
        }
    }

    #[test]
    fn help_and_version_name_the_subcommand() {
        for (args, part) in [
            (&["--help"][..], "Prints a connection token"),
            (&["--help"], "Checks the options"),
            (&["check", "--help"], "Usage: roomcast check [OPTIONS]"),
            (&["token", "--help"], "Usage: roomcast token [OPTIONS]"),
            (&["--version"], env!("CARGO_PKG_VERSION")),
        ] {
            let text = parse(args).expect_err("help is not an invocation");
            assert!(text.contains(part), "{part:?} is not in {text:?}");
        }
    }

    #[test]
    fn every_option_of_a_token_has_its_variable_and_help() {
        for arg in TokenOptions::command().get_arguments() {
            let name = arg.get_long().expect("every argument is an option");
            let expected = format!("ROOMCAST_{}", name.replace('-', "_").to_uppercase());
            let variable = arg.get_env().expect("every option has a variable");
            assert_eq!(variable, expected.as_str());
            assert!(arg.get_help().is_some(), "--{name}");
        }
    }

    #[test]
    fn token_options_are_checked() {
        for (args, expected) in [
            (&["--user="][..], "--user is \"\": must be 1 to 254"),
            (&["--user=a,b"], "--user is \"a,b\": must be 1 to 254"),
            (&["--user=a", "--ttl=999ms"], "--ttl is 999ms: must be at"),
            (&["--user=a", "--rooms="], "--rooms is \"\": must be 1 to"),
            (&["--user=a", "--publish=é"], "--publish is \"é\": must be"),
            (
                &["--user=a"],
                "--token-secret-file is \"/nowhere\": must be",
            ),
        ] {
            let error = check(args).expect_err("must be refused");
            assert!(error.starts_with(expected), "{error:?} for {args:?}");
        }
    }
}
