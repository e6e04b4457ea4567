//! What stands in `docs/deploy`: units that systemd takes and finds tight, defaults and a manual that
//! name what there is.

#[path = "../docs/deploy/manual.rs"]
mod manual;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use roomcast::ops::cli::Cli;
use roomcast::ops::command::TokenOptions;

const UNITS: [&str; 3] = [
    "roomcast.service",
    "roomcast.socket",
    "roomcast-admin.socket",
];

/// Where the package puts the program.
const INSTALLED: &str = "/usr/bin/roomcast";

#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    let units = Units::copy("verify");
    let mut command = Command::new("systemd-analyze");
    command.args(["verify", "--man=no"]).args(units.paths());
    let Some(text) = run(&mut command) else {
        return;
    };
    assert_eq!(text, Ok(String::new()));
}

#[test]
fn the_sandbox_is_tight() {
    let units = Units::copy("security");
    let mut command = Command::new("systemd-analyze");
    // The exposure, from 0 to 10, times ten.
    command.args(["security", "--offline=true", "--no-pager", "--threshold=15"]);
    command.arg(&units.paths()[0]);
    let Some(text) = run(&mut command) else {
        return;
    };
    let text = text.expect("an exposure of at most 1.5");
    assert!(text.contains("Overall exposure level"), "{text}");
}

#[test]
fn the_units_fit_each_other() {
    let service = unit(UNITS[0]);
    for (name, purpose, default) in [
        (UNITS[1], "public", "0.0.0.0:7777"),
        (UNITS[2], "admin", "127.0.0.1:7778"),
    ] {
        let socket = unit(name);
        for line in [
            format!("FileDescriptorName={purpose}"),
            format!("ListenStream={default}"),
            format!("Service={}", UNITS[0]),
        ] {
            assert!(
                socket.lines().any(|found| found == line),
                "{line}: {socket}"
            );
        }
        for key in ["Wants=", "After=", "Sockets=", "Also="] {
            let lists = |line: &str| line.starts_with(key) && line.contains(name);
            assert!(service.lines().any(lists), "{key} does not name {name}");
        }
        // The same as without systemd.
        let option = if purpose == "public" {
            "listen"
        } else {
            "admin_listen"
        };
        let command = <Cli as clap::CommandFactory>::command();
        let mut arguments = command.get_arguments();
        let argument = arguments.find(|argument| argument.get_id() == option);
        assert_eq!(argument.expect("an option").get_default_values(), [default]);
    }
}

#[test]
fn the_defaults_file_names_variables_that_there_are() {
    let known = [Cli::variables(), TokenOptions::variables()].concat();
    let text = fs::read_to_string(folder().join("roomcast.default")).expect("the file");
    let mut seen = 0;
    for line in text.lines().filter(|line| !line.is_empty()) {
        // Only what the units need is set.
        let line = match line.strip_prefix('#') {
            Some(comment) => comment,
            None => {
                assert_eq!(line, "ROOMCAST_DRAIN_TIMEOUT=0");
                line
            }
        };
        let Some((name, _)) = line
            .split_once('=')
            .filter(|_| line.starts_with("ROOMCAST_"))
        else {
            assert!(line.is_empty() || line.starts_with(' '), "{line}");
            continue;
        };
        assert!(known.contains(&name.into()), "{name}");
        seen += 1;
    }
    assert!(seen > 5, "{seen}");
}

#[test]
fn the_manual_has_a_page_for_each_command_with_all_its_options() {
    let files = manual::files().expect("memory takes everything");
    let names: BTreeSet<&str> = files.iter().map(|(name, _)| &**name).collect();
    let expected = [
        "_roomcast",
        "roomcast-check.1",
        "roomcast-token.1",
        "roomcast-verify.1",
        "roomcast.1",
        "roomcast.bash",
        "roomcast.fish",
    ];
    assert_eq!(names, BTreeSet::from(expected));
    for (name, bytes) in &files {
        let text = String::from_utf8(bytes.clone()).expect("text");
        // A dash is written so in a page, and so in completions for fish.
        let plain = text.replace("\\-", "-").replace(" -l ", " --");
        let options: &[&str] = match &**name {
            "roomcast-token.1" => &["user", "ttl", "publish"],
            "roomcast-verify.1" => &["url", "members", "cuts"],
            "roomcast.1" | "roomcast-check.1" => &["listen", "admin-listen", "workers"],
            _ => &["listen", "workers", "ttl", "members", "token-secret-file"],
        };
        for option in options {
            assert!(plain.contains(&format!("--{option}")), "--{option}: {name}");
        }
        let is_page = name.ends_with(".1");
        for subcommand in ["check", "token", "verify"] {
            let is_told = !is_page || name == "roomcast.1";
            assert!(
                !is_told || text.contains(subcommand),
                "{subcommand}: {name}"
            );
        }
        if is_page && !name.contains("verify") {
            assert!(text.contains("ROOMCAST_"), "{name}");
        }
    }
}

#[test]
fn the_manual_is_the_same_on_every_machine() {
    let files = manual::files().expect("memory takes everything");
    let (_, page) = files
        .iter()
        .find(|(name, _)| name == "roomcast.1")
        .expect("a page");
    let page = String::from_utf8_lossy(page);
    let about_workers = page
        .split("\n\\fB\\-\\-workers")
        .nth(1)
        .expect("the option");
    let about_workers = about_workers.split("\n.TP").next().expect("never empty");
    assert!(about_workers.contains("number of cores"), "{about_workers}");
    assert!(!about_workers.contains("[default:"), "{about_workers}");
}

#[test]
fn scripts_are_scripts() {
    let files = manual::files().expect("memory takes everything");
    let (_, completions) = files
        .iter()
        .find(|(name, _)| name == "roomcast.bash")
        .expect("bash");
    check_syntax("bash", completions);
    check_syntax(
        "bash",
        &fs::read(folder().join("build-deb")).expect("the file"),
    );
    for name in ["postinst", "prerm", "postrm"] {
        let script = fs::read(folder().join("debian").join(name)).expect("the file");
        assert!(script.starts_with(b"#!/bin/sh\n"), "{name}");
        check_syntax("sh", &script);
    }
}

/// Copies of the units, in which the program is the one under test; removed on drop.
struct Units(PathBuf);

impl Units {
    fn copy(name: &str) -> Self {
        let folder = format!("roomcast-units-{name}-{}", std::process::id());
        let folder = std::env::temp_dir().join(folder);
        fs::create_dir_all(&folder).expect("a free folder");
        for name in UNITS {
            let text = unit(name).replace(INSTALLED, env!("CARGO_BIN_EXE_roomcast"));
            fs::write(folder.join(name), text).expect("a free file");
        }
        Self(folder)
    }

    fn paths(&self) -> [PathBuf; 3] {
        UNITS.map(|name| self.0.join(name))
    }
}

impl Drop for Units {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/deploy")
}

fn unit(name: &str) -> String {
    fs::read_to_string(folder().join(name)).expect("the unit")
}

/// What the command says, as an error if it says no; `None` where there is no such command.
fn run(command: &mut Command) -> Option<Result<String, String>> {
    let output = match command.stdin(Stdio::null()).output() {
        Ok(output) => output,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("skipped: {command:?} is not here; tests/run installs it");
            return None;
        }
        Err(error) => panic!("{command:?}: {error}"),
    };
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    Some(if output.status.success() {
        Ok(text)
    } else {
        Err(text)
    })
}

fn check_syntax(shell: &str, script: &[u8]) {
    let path = format!("roomcast-script-{}", std::process::id());
    let path = std::env::temp_dir().join(path);
    fs::write(&path, script).expect("a free file");
    let said = run(Command::new(shell).arg("-n").arg(&path));
    fs::remove_file(&path).expect("our own file");
    assert_eq!(said, Some(Ok(String::new())));
}
