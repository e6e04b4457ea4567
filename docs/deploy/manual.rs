//! Writes the manual pages and the shell completions into a folder, from the same command lines
//! that the program parses: `cargo run --example manual -- FOLDER`.
//!
//! Never: part of the daemon; what it needs is needed when a package is built.

#![forbid(unsafe_code)]

use std::error::Error;
use std::path::Path;
use std::{env, fs, io};

use clap::{Command, CommandFactory as _};
use clap_complete::Shell;
use clap_mangen::Man;
use roomcast::ops::cli::Cli;
use roomcast::ops::command::{Invocation, TokenOptions};
use roomcast::verify;

#[allow(dead_code, reason = "tests use this file as a module")]
fn main() -> Result<(), Box<dyn Error>> {
    let folder = env::args_os().nth(1).ok_or("usage: manual FOLDER")?;
    let folder = Path::new(&folder);
    fs::create_dir_all(folder)?;
    for (name, bytes) in files()? {
        fs::write(folder.join(name), bytes)?;
    }
    Ok(())
}

/// The files by their names: one page for the daemon and each subcommand, and one file for each
/// shell.
pub(crate) fn files() -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut files = Vec::new();
    for command in commands() {
        let name = format!("{}.1", command.get_name());
        let mut page = Vec::new();
        Man::new(command)
            .source(SOURCE)
            .manual(MANUAL)
            .render(&mut page)?;
        files.push((name, page));
    }
    for (name, shell) in [
        ("roomcast.bash", Shell::Bash),
        ("_roomcast", Shell::Zsh),
        ("roomcast.fish", Shell::Fish),
    ] {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut whole(), "roomcast", &mut script);
        files.push((name.to_owned(), script));
    }
    Ok(files)
}

/// The command lines, each by itself as it is parsed, for a page each.
fn commands() -> Vec<Command> {
    let about = |name: &str| {
        let whole = Invocation::command();
        let subcommand = whole.find_subcommand(name).and_then(Command::get_about);
        subcommand.cloned().unwrap_or_default()
    };
    let check = Cli::command().about(about("check"));
    [
        ("roomcast", Invocation::command()),
        ("roomcast-check", check.bin_name("roomcast check")),
        ("roomcast-token", TokenOptions::command()),
        ("roomcast-verify", verify::Options::command()),
    ]
    .map(|(name, command)| portable(command).name(name))
    .into()
}

/// All of them in one, for completions.
fn whole() -> Command {
    let [serve, check, token, verify] = [
        Invocation::command(),
        Cli::command().name("check"),
        TokenOptions::command().name("token"),
        verify::Options::command().name("verify"),
    ]
    .map(portable);
    serve
        .mut_subcommand("check", |old| {
            check.about(old.get_about().cloned().unwrap_or_default())
        })
        .mut_subcommand("token", |_| token)
        .mut_subcommand("verify", |_| verify)
}

/// Without what depends on the machine that this runs on.
fn portable(command: Command) -> Command {
    command.mut_args(|arg| {
        let is_counted = arg.get_id() == "workers";
        arg.hide_default_value(is_counted).hide_env_values(true)
    })
}

const SOURCE: &str = concat!("roomcast ", env!("CARGO_PKG_VERSION"));
const MANUAL: &str = "roomcast manual";
