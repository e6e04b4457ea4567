//! The `roomcast` command.

#![forbid(unsafe_code)]

use std::error::Error;
use std::io::Write as _;
use std::process::ExitCode;

use roomcast::daemon;
use roomcast::ops::cli::Cli;
use roomcast::ops::config::Config;
use roomcast::ops::log;

fn main() -> ExitCode {
    let (config, warnings) = match Config::from_cli(Cli::parse_args()) {
        Ok(checked) => checked,
        Err(error) => {
            complain(&error);
            return ExitCode::from(2);
        }
    };
    let guard = match log::init(config.log_level) {
        Ok(guard) => guard,
        Err(error) => {
            complain(&error);
            return ExitCode::FAILURE;
        }
    };
    for warning in warnings {
        ::log::warn!("{warning}");
    }
    ::log::info!("roomcast {} starts", env!("CARGO_PKG_VERSION"));
    let result = daemon::run(config);
    drop(guard);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&*error);
            ExitCode::FAILURE
        }
    }
}

/// Prints an error with all its causes.
fn complain(error: &dyn Error) {
    let mut line = format!("roomcast: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        line.push_str(&format!(": {error}"));
        cause = error.source();
    }
    // Without standard error there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "{line}");
}
