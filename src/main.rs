//! The `roomcast` command.

#![forbid(unsafe_code)]

use std::error::Error;
use std::ffi::OsString;
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Parser as _;
use roomcast::auth::token::{self, MintError};
use roomcast::daemon;
use roomcast::ops::cli::Cli;
use roomcast::ops::command::{Invocation, TokenOptions};
use roomcast::ops::config::{Config, ConfigError};
use roomcast::ops::log::LogGuard;
use roomcast::ops::signal::CaughtSignals;
use roomcast::ops::systemd::PassedSockets;
use roomcast::ops::{check, file_limit, log};
use roomcast::verify;

fn main() -> ExitCode {
    // Before the arguments are read, since that takes longer than whoever starts a daemon may wait
    // to send it a signal. Everything else than a daemon ends by one.
    let signals = Invocation::is_to_serve().then(CaughtSignals::new);
    match Invocation::parse_args() {
        Invocation::Serve(cli) => serve(cli, signals),
        Invocation::Check(cli) => status(show(cli)),
        Invocation::Token(options) => status(mint(&options)),
        Invocation::Verify(args) => test(&args),
    }
}

/// Runs the daemon until it is told to stop.
fn serve(cli: Cli, signals: Option<io::Result<CaughtSignals>>) -> ExitCode {
    let signals = match signals.unwrap_or_else(CaughtSignals::new) {
        Ok(signals) => signals,
        Err(error) => return status(Err(error.into())),
    };
    // Sockets come next: taking them changes the environment, and there is one thread yet.
    let checked = PassedSockets::take().and_then(|passed| {
        let (config, warnings) = Config::from_cli(cli)?;
        passed.check(&config)?;
        Ok((passed, config, warnings))
    });
    let (passed, config, warnings) = match checked {
        Ok(checked) => checked,
        Err(error) => return status(Err(error.into())),
    };
    let guard = match start_log(&config) {
        Ok(guard) => guard,
        Err(error) => return status(Err(error)),
    };
    for warning in warnings {
        ::log::warn!("{warning}");
    }
    ::log::info!("roomcast {} starts", env!("CARGO_PKG_VERSION"));
    let has_file = config.files.log.is_some();
    let result = daemon::run(config, passed, guard.switch(), signals);
    if let (Err(error), true) = (&result, has_file) {
        ::log::error!("{}", chain(&**error));
    }
    drop(guard);
    status(result)
}

fn start_log(config: &Config) -> Result<LogGuard, Box<dyn Error>> {
    let file = config
        .files
        .log
        .as_deref()
        .map(log::open_file)
        .transpose()?;
    Ok(log::init(config.log_level, file)?)
}

/// Prints what the daemon would run with.
fn show(cli: Cli) -> Result<(), Box<dyn Error>> {
    let (mut config, mut warnings) = Config::from_cli(cli)?;
    warnings.extend(file_limit::raise_and_fit(&mut config.limits));
    let mut text = Vec::new();
    check::write(&config, &warnings, &mut text)?;
    print(&text)
}

/// Prints a connection token.
fn mint(options: &TokenOptions) -> Result<(), Box<dyn Error>> {
    let (request, warnings) = options.check()?;
    for warning in warnings {
        // Standard output is for the token alone.
        let _ = writeln!(io::stderr(), "roomcast: {warning}");
    }
    let unix_s = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let token = token::mint(
        &request.secret,
        &request.user,
        request.rooms.as_deref(),
        request.publish.as_deref(),
        request.ttl,
        unix_s,
    )?;
    print(format!("{token}\n").as_bytes())
}

/// Tests a deployment: 0 if it keeps its promises, 1 if not, 2 if that could not be found out.
fn test(args: &[OsString]) -> ExitCode {
    match verify::run(&verify::Options::parse_from(args)) {
        Ok(verdict) => verdict.exit_code(),
        Err(error) => {
            complain(&error);
            ExitCode::from(2)
        }
    }
}

/// Writes to standard output. A reader that has seen enough, such as `head`, is no error.
fn print(text: &[u8]) -> Result<(), Box<dyn Error>> {
    let mut out = io::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// The exit status: 0, 2 where the options are wrong, else 1. Says what went wrong.
fn status(result: Result<(), Box<dyn Error>>) -> ExitCode {
    let Err(error) = result else {
        return ExitCode::SUCCESS;
    };
    complain(&*error);
    if error.is::<ConfigError>() || error.is::<MintError>() {
        ExitCode::from(2)
    } else {
        ExitCode::FAILURE
    }
}

/// Prints an error with all its causes.
fn complain(error: &dyn Error) {
    let line = format!("roomcast: {}\n", chain(error));
    let (done, is_done) = mpsc::sync_channel(1);
    // A pipe that nobody reads must not keep the process from its end. Without standard error, or
    // a thread, there is nobody to tell.
    let _ = thread::Builder::new().spawn(move || {
        let _ = io::stderr().write_all(line.as_bytes());
        let _ = done.send(());
    });
    let _ = is_done.recv_timeout(COMPLAINT_TIMEOUT);
}

/// An error with all its causes.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

/// How long the end waits for standard error to take a complaint.
const COMPLAINT_TIMEOUT: Duration = Duration::from_secs(1);
