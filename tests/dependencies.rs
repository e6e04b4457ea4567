//! What the program is made of: licences, sources, doubles, and no async runtime.
//!
//! Licences and doubles are looked at in what Cargo resolves for this host, sources and names in the
//! lock files, which hold the packages of every platform. `cargo deny` does much of this and more,
//! but to build it takes a clean machine minutes. Advisories are not looked at: they need a network.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use spdx::{Expression, Licensee, ParseMode};

/// Licences under which a dependency may be used. None of them asks anything of the program but to be
/// named.
const LICENCES: [&str; 8] = [
    "0BSD",
    "Apache-2.0",
    "BSD-3-Clause",
    "BSL-1.0",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Zlib",
];

/// Crates that the program links in more than one version, with the reason.
const DOUBLES: [(&str, &str); 1] = [(
    "getrandom",
    "ring still takes 0.2, and rand, which tungstenite takes, 0.4",
)];

/// Async runtimes and what comes with them only.
const RUNTIMES: [&str; 11] = [
    "actix-rt",
    "async-executor",
    "async-global-executor",
    "async-io",
    "async-std",
    "embassy-executor",
    "futures-executor",
    "glommio",
    "monoio",
    "smol",
    "tokio",
];

const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn cargo(arguments: &[&str]) -> String {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(program)
        .args(arguments)
        .current_dir(root())
        .output()
        .expect("cargo runs these tests");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {complaint}");
    String::from_utf8(output.stdout).expect("cargo writes UTF-8")
}

/// What Cargo resolves for this host. Packages of other hosts may never have been fetched.
fn metadata() -> Value {
    let version = cargo(&["--version", "--verbose"]);
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    let host = host.expect("cargo names its host");
    let text = cargo(&[
        "metadata",
        "--format-version=1",
        "--locked",
        "--offline",
        "--filter-platform",
        host,
    ]);
    serde_json::from_str(&text).expect("metadata is JSON")
}

fn list<'v>(value: &'v Value, name: &str) -> impl Iterator<Item = &'v Value> {
    let list = value[name].as_array();
    list.unwrap_or_else(|| panic!("no list {name}")).iter()
}

fn text<'v>(value: &'v Value, name: &str) -> &'v str {
    value[name].as_str().unwrap_or_default()
}

/// Packages whose licence is missing, cannot be read, or is not satisfied by `allowed`.
fn wrong_licences(metadata: &Value, allowed: &[&str]) -> Vec<String> {
    let allowed: Vec<Licensee> = allowed
        .iter()
        .map(|name| Licensee::parse(name).expect("a licence that SPDX knows"))
        .collect();
    let mut wrong = Vec::new();
    for package in list(metadata, "packages") {
        let (name, licence) = (text(package, "name"), text(package, "license"));
        // Older crates write a slash for "or".
        match Expression::parse_mode(licence, ParseMode::LAX) {
            Ok(expression)
                if expression.evaluate(|asked| allowed.iter().any(|has| has.satisfies(asked))) => {}
            Ok(_) => wrong.push(format!("{name}: {licence}")),
            Err(error) => wrong.push(format!("{name}: {licence:?}: {}", error.reason)),
        }
    }
    wrong
}

/// The crates that are linked in more than one version, with these.
fn doubles(metadata: &Value) -> BTreeMap<String, BTreeSet<String>> {
    let packages: BTreeMap<&str, &Value> = list(metadata, "packages")
        .map(|package| (text(package, "id"), package))
        .collect();
    let nodes: BTreeMap<&str, &Value> = list(&metadata["resolve"], "nodes")
        .map(|node| (text(node, "id"), node))
        .collect();
    let mut seen = BTreeSet::new();
    let mut next = vec![text(&metadata["resolve"], "root")];
    while let Some(id) = next.pop() {
        if seen.insert(id) {
            let is_linked = |dependency: &&Value| {
                list(dependency, "dep_kinds").any(|kind| kind["kind"].is_null())
            };
            let linked = list(nodes[id], "deps").filter(is_linked);
            next.extend(linked.map(|dependency| text(dependency, "pkg")));
        }
    }
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in seen.iter().map(|id| packages[id]) {
        let version = text(package, "version").to_owned();
        let name = text(package, "name").to_owned();
        versions.entry(name).or_default().insert(version);
    }
    assert!(versions.len() > 1, "no dependency was found");
    versions.retain(|_, versions| versions.len() > 1);
    versions
}

/// Doubles that are not listed, and listed ones that are none any more.
fn wrong_doubles(metadata: &Value, listed: &[(&str, &str)]) -> Vec<String> {
    let found = doubles(metadata);
    let is_listed = |name: &str| listed.iter().any(|(listed, _)| *listed == name);
    let new = found
        .iter()
        .filter(|(name, _)| !is_listed(name))
        .map(|(name, versions)| format!("{name} in versions {versions:?}"));
    let gone = listed
        .iter()
        .filter(|(name, _)| !found.contains_key(*name))
        .map(|(name, _)| format!("{name} is listed and not double"));
    new.chain(gone).collect()
}

/// A package as a lock file has it.
#[derive(Debug, Default)]
struct Locked {
    name: String,
    source: Option<String>,
    has_checksum: bool,
}

fn locked(lock: &str) -> Vec<Locked> {
    let value = |line: &str, name: &str| {
        let value = line.strip_prefix(name)?.strip_prefix(" = \"")?;
        Some(value.strip_suffix('"')?.to_owned())
    };
    let mut packages = Vec::new();
    for section in lock.split("[[package]]\n").skip(1) {
        let mut package = Locked::default();
        for line in section.lines() {
            if let Some(name) = value(line, "name") {
                package.name = name;
            }
            package.source = package.source.or_else(|| value(line, "source"));
            package.has_checksum |= value(line, "checksum").is_some();
        }
        packages.push(package);
    }
    packages
}

/// Packages that are neither `ours` nor from crates.io with a checksum. What has no source comes
/// from a path.
fn wrong_sources(lock: &str, ours: &[&str]) -> Vec<String> {
    let is_good = |package: &Locked| match &package.source {
        None => ours.contains(&&*package.name),
        Some(source) => source == CRATES_IO && package.has_checksum,
    };
    let packages = locked(lock).into_iter();
    packages
        .filter(|package| !is_good(package))
        .map(|package| format!("{package:?}"))
        .collect()
}

fn runtimes(lock: &str) -> Vec<String> {
    let packages = locked(lock).into_iter();
    let names = packages.map(|package| package.name);
    names.filter(|name| RUNTIMES.contains(&&**name)).collect()
}

/// The lock files of this package and of those that stand in its folders.
fn lock_files() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a readable folder") {
            let path = entry.expect("a readable entry").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let is_ours = !name.starts_with('.') && name != "target" && name != "node_modules";
            if is_ours && path.is_dir() && !path.is_symlink() {
                folders.push(path);
            } else if name == "Cargo.lock" {
                let text = fs::read_to_string(&path).expect("a lock file can be read");
                found.push((path, text));
            }
        }
    }
    assert!(
        found
            .iter()
            .any(|(path, _)| path == &root().join("Cargo.lock"))
    );
    found
}

/// The name of the package whose lock file this is: there are no workspaces.
fn package_beside(lock: &Path) -> String {
    let manifest = fs::read_to_string(lock.with_file_name("Cargo.toml")).expect("a manifest");
    let name = manifest
        .lines()
        .find_map(|line| line.strip_prefix("name = \""));
    let name = name.and_then(|name| name.strip_suffix('"'));
    name.expect("a package has a name").to_owned()
}

#[test]
fn every_licence_is_one_of_those_we_can_use() {
    let wrong = wrong_licences(&metadata(), &LICENCES);
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn no_crate_is_linked_in_two_versions_without_a_reason() {
    let wrong = wrong_doubles(&metadata(), &DOUBLES);
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn everything_comes_from_crates_io() {
    for (path, lock) in lock_files() {
        // A package in a folder may stand on the one above.
        let ours = [package_beside(&path), "roomcast".to_owned()];
        let wrong = wrong_sources(&lock, &[&ours[0], &ours[1]]);
        assert_eq!(wrong, Vec::<String>::new(), "{path:?}");
        let is_named = |package: &Locked| package.name == ours[0];
        assert!(
            locked(&lock).iter().any(is_named),
            "{path:?} was not understood"
        );
    }
}

#[test]
fn no_async_runtime_is_in_the_dependency_tree() {
    for (path, lock) in lock_files() {
        assert_eq!(runtimes(&lock), Vec::<String>::new(), "{path:?}");
    }
}

// --- The checks themselves ------------------------------------------------------------------------

#[test]
fn a_licence_that_is_not_listed_is_found() {
    for (licence, is_good) in [
        (json!("MIT"), true),
        (json!("MIT/GPL-3.0"), true),
        (json!("GPL-3.0-only OR (Apache-2.0 AND MIT)"), true),
        (json!("Apache-2.0 WITH LLVM-exception OR MIT"), true),
        (json!("GPL-3.0-only"), false),
        (json!("MIT AND GPL-3.0-only"), false),
        (json!("Apache-2.0 WITH LLVM-exception"), false),
        (json!("LicenseRef-ours"), false),
        (json!("mine, all mine"), false),
        (json!(""), false),
        (json!(null), false),
    ] {
        let metadata = json!({ "packages": [{ "name": "a", "license": licence }] });
        let wrong = wrong_licences(&metadata, &["MIT", "Apache-2.0"]);
        assert_eq!(wrong.is_empty(), is_good, "{licence}: {wrong:?}");
    }
}

#[test]
fn a_double_is_found_where_it_is_linked() {
    let package =
        |id: &str, name: &str, version: &str| json!({ "id": id, "name": name, "version": version });
    let to = |id: &str, kind: Value| json!({ "pkg": id, "dep_kinds": [{ "kind": kind }] });
    let tree = |kind: Value| {
        json!({
            "packages": [package("r", "r", "1"), package("a", "a", "1"), package("b1", "b", "1"),
                package("b2", "b", "2")],
            "resolve": { "root": "r", "nodes": [
                { "id": "r", "deps": [to("a", json!(null)), to("b1", json!(null))] },
                { "id": "a", "deps": [to("b2", kind)] },
                { "id": "b1", "deps": [] }, { "id": "b2", "deps": [] },
            ] },
        })
    };
    let linked = tree(json!(null));
    assert_eq!(wrong_doubles(&linked, &[]), [r#"b in versions {"1", "2"}"#]);
    assert_eq!(
        wrong_doubles(&linked, &[("b", "why")]),
        Vec::<String>::new()
    );
    // Of tests and of build scripts nothing is linked.
    for kind in ["dev", "build"] {
        let tree = tree(json!(kind));
        assert_eq!(wrong_doubles(&tree, &[]), Vec::<String>::new(), "{kind}");
        let gone = wrong_doubles(&tree, &[("b", "why")]);
        assert_eq!(gone, ["b is listed and not double"], "{kind}");
    }
}

#[test]
fn another_source_and_a_runtime_are_found() {
    let lock = |name: &str, lines: &str| {
        format!("version = 4\n\n[[package]]\nname = \"{name}\"\nversion = \"1.0.0\"\n{lines}")
    };
    let from = |source: &str| format!("source = \"{source}\"\nchecksum = \"00\"\n");
    for (lines, is_good) in [
        (from(CRATES_IO), true),
        (format!("source = \"{CRATES_IO}\"\n"), false),
        (from("git+https://example.com/a?rev=1#1"), false),
        (from("registry+https://example.com/index"), false),
        (String::new(), false),
    ] {
        let wrong = wrong_sources(&lock("a", &lines), &["ours"]);
        assert_eq!(wrong.is_empty(), is_good, "{lines}: {wrong:?}");
    }
    assert_eq!(
        wrong_sources(&lock("ours", ""), &["ours"]),
        Vec::<String>::new()
    );
    assert_eq!(runtimes(&lock("tokio", &from(CRATES_IO))), ["tokio"]);
    assert_eq!(runtimes(&lock("tokio-stream", "")), Vec::<String>::new());
}
