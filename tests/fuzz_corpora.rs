//! The committed inputs of the fuzz targets, each through its target: what the fuzzer has found once
//! stays found, with any toolchain and without the fuzzer.

#[allow(
    unreachable_pub,
    reason = "it is the library of a package of its own, whose programs need it"
)]
#[path = "fuzz/src/lib.rs"]
mod fuzz;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use fuzz::TARGETS;

/// Most inputs of a committed corpus.
const FILES_MAX: usize = 200;

/// Most bytes of all of them together.
const BYTES_MAX: usize = 200 << 10;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fuzz")
        .join(name)
}

fn entry_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).expect("a readable folder");
    entries
        .map(|entry| entry.expect("a readable entry").path())
        .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
        .collect()
}

#[test]
fn every_committed_input_keeps_the_promises_of_its_target() {
    let mut broken = Vec::new();
    for (name, check) in TARGETS {
        let corpus = folder("corpus").join(name);
        let (mut files, mut bytes) = (0, 0);
        for entry in fs::read_dir(&corpus).expect("a corpus") {
            let path = entry.expect("a readable entry").path();
            let input = fs::read(&path).expect("a readable input");
            files += 1;
            bytes += input.len();
            if std::panic::catch_unwind(|| check(&input)).is_err() {
                broken.push(format!("{name}/{}", entry_name(&path)));
            }
        }
        assert!(files > 0, "{name} has no corpus");
        assert!(files <= FILES_MAX, "{name} has {files} inputs");
        assert!(
            bytes <= BYTES_MAX,
            "the inputs of {name} have {bytes} bytes"
        );
    }
    assert_eq!(broken, Vec::<String>::new(), "inputs that break a promise");
}

#[test]
fn every_target_has_a_program_and_a_corpus() {
    let known: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names(&folder("targets")), known);
    assert_eq!(names(&folder("corpus")), known);
    let dictionaries = names(&folder("dictionaries"));
    assert!(dictionaries.is_subset(&known), "{dictionaries:?}");
    let manifest = fs::read_to_string(folder("Cargo.toml")).expect("a manifest");
    for name in known {
        assert!(
            manifest.contains(&format!("path = \"targets/{name}.rs\"")),
            "{name}"
        );
    }
}
