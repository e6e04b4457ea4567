//! Keeps the map true: who may name whom, words that are banned, how long a file may grow, and
//! that the tests that are named against threats exist.
//!
//! The floor table is read from `docs/ARCHITECTURE.md`, so that document and code cannot differ.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Longest source file, in lines, tests aside.
const LINES_MAX: usize = 620;

/// Words that must not stand in the code of `src`, with the reason. Tests are exempt.
const BANNED: [(&str, &str); 8] = [
    ("unbounded(", "every queue has a bound"),
    ("Arc<Mutex", "state has one owner; it moves by message"),
    ("Rc<RefCell", "state has one owner; it moves by message"),
    ("println!", "the log is the way to the operator"),
    (".unwrap()", "say why it cannot fail, or handle it"),
    ("thread::sleep", "wait for an event or a deadline"),
    ("todo!", "not finished"),
    ("unimplemented!", "not finished"),
];

/// Words that must not stand below floor 3, where everything is pure.
const IMPURE: [&str; 7] = [
    "Instant::now",
    "SystemTime",
    "std::net::Tcp",
    "std::thread",
    "mio::",
    "redis::",
    "std::fs",
];

/// Modules below floor 3.
const PURE: [&str; 10] = [
    "base", "wire", "timer", "conn", "room", "auth", "cluster", "exchange", "hub", "shard",
];

/// What lets time go by. In tests `harness/wait.rs` alone may, by functions that are named for the reason.
const SLEEPS: [&str; 3] = ["sleep(", "park_timeout(", "sleep_until("];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every source file with the top-level module it belongs to and its text without tests.
fn sources() -> Vec<(PathBuf, String, String)> {
    let mut files = Vec::new();
    let mut folders = vec![root().join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a readable folder") {
            let path = entry.expect("a readable entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("a readable file");
                let code = without_tests(&text);
                files.push((path.clone(), module_of(&path), code));
            }
        }
    }
    assert!(files.len() > 30, "the source files were not found");
    files
}

fn module_of(path: &Path) -> String {
    let relative = path
        .strip_prefix(root().join("src"))
        .expect("a file below src");
    let first = relative
        .iter()
        .next()
        .expect("a component")
        .to_string_lossy();
    first.trim_end_matches(".rs").to_owned()
}

/// The test module stands at the end of a file.
fn without_tests(text: &str) -> String {
    match text.find("#[cfg(test)]\nmod tests") {
        Some(end) => text[..end].to_owned(),
        None => text.to_owned(),
    }
}

/// The code of a file: its lines without comments.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .map(|(number, line)| (number + 1, line))
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
}

/// The table under "## Floors": module to the modules it may name.
fn floors() -> BTreeMap<String, Vec<String>> {
    let text = fs::read_to_string(root().join("docs/ARCHITECTURE.md")).expect("the map");
    let chapter = text
        .split("\n## Floors")
        .nth(1)
        .expect("a chapter called Floors");
    let chapter = chapter.split("\n## ").next().unwrap_or(chapter);
    let mut floors = BTreeMap::new();
    for row in chapter.lines().filter(|line| line.starts_with("| F")) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let clean = |name: &str| name.trim().trim_matches('`').to_owned();
        let names = cells[2]
            .split(',')
            .map(clean)
            .filter(|name| name.chars().all(char::is_alphabetic));
        floors.insert(clean(cells[1]), names.collect());
    }
    floors
}

#[test]
fn modules_name_only_what_their_floor_allows() {
    let floors = floors();
    let mut wrong = Vec::new();
    let mut seen = std::collections::BTreeSet::new();
    for (path, module, code) in sources() {
        if module == "lib" || module == "main" {
            continue;
        }
        let allowed = floors
            .get(&module)
            .unwrap_or_else(|| panic!("{module} is missing in the floor table"));
        seen.insert(module.clone());
        for (number, line) in code_lines(&code) {
            for part in line.split("crate::").skip(1) {
                let named: String = part
                    .chars()
                    .take_while(|c| c.is_alphanumeric() || *c == '_')
                    .collect();
                let is_allowed =
                    named == module || allowed.contains(&named) || allowed == &["all".to_owned()];
                if !is_allowed {
                    wrong.push(format!(
                        "{}:{number}: {module} names {named}",
                        path.display()
                    ));
                }
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
    assert_eq!(
        seen.len(),
        floors.len(),
        "the floor table lists a module that does not exist"
    );
}

#[test]
fn banned_words_do_not_occur() {
    let mut wrong = Vec::new();
    for (path, module, code) in sources() {
        for (number, line) in code_lines(&code) {
            for (word, why) in BANNED {
                if line.contains(word) {
                    wrong.push(format!("{}:{number}: {word} ({why})", path.display()));
                }
            }
            for word in IMPURE {
                if PURE.contains(&&*module) && line.contains(word) {
                    wrong.push(format!("{}:{number}: {word} below floor 3", path.display()));
                }
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn tests_do_not_sleep() {
    let waits = root().join("tests/harness/wait.rs");
    let text = fs::read_to_string(&waits).expect("the ways to let time go by");
    assert!(text.contains(SLEEPS[1]), "{SLEEPS:?}");
    let mut folders = vec![root().join("tests")];
    let mut wrong = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a readable folder") {
            let path = entry.expect("a readable entry").path();
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if path.is_dir() {
                if name != "node_modules" {
                    folders.push(path);
                }
            } else if name.ends_with(".rs") && name != "floors.rs" {
                let text = fs::read_to_string(&path).expect("a readable file");
                // A loop that may go to sleep is another thing.
                let text = text.replace("try_sleep(", "");
                let is_sleep = |word: &&str| text.contains(*word);
                if path != waits && SLEEPS.iter().any(is_sleep) {
                    wrong.push(path);
                }
            }
        }
    }
    assert_eq!(
        wrong,
        Vec::<PathBuf>::new(),
        "wait for a condition with a deadline, or say by a name of `harness/wait.rs` why time goes by"
    );
}

/// The tests that a text names, as `file::test` of `tests` or `src/file.rs::test`.
fn named_tests(text: &str) -> Vec<(PathBuf, String)> {
    let quoted = text.split('`').skip(1).step_by(2);
    let named = quoted.filter_map(|name| name.split_once("::"));
    named
        .filter(|(_, test)| test.bytes().all(|b| b == b'_' || b.is_ascii_alphanumeric()))
        .map(|(file, test)| match file.starts_with("src/") {
            true => (root().join(file), test.to_owned()),
            false => (root().join(format!("tests/{file}.rs")), test.to_owned()),
        })
        .collect()
}

#[test]
fn every_threat_names_tests_that_there_are() {
    let text = fs::read_to_string(root().join("docs/SECURITY.md")).expect("the table of threats");
    let (_, threats) = text.split_once("\n## Threats").expect("a chapter");
    let (threats, _) = threats
        .split_once("\n## What is not protected")
        .expect("another");
    let is_row = |line: &&str| line.starts_with('|') && !line.starts_with("|---");
    // The first row of a table is its head.
    let mut rows = 0;
    for table in threats
        .split("\n\n")
        .filter(|part| part.trim_start().starts_with('|'))
    {
        for row in table.lines().filter(is_row).skip(1) {
            let last = row.trim_end_matches('|').rsplit('|').next();
            assert!(
                !named_tests(last.unwrap_or_default()).is_empty(),
                "no test: {row}"
            );
            rows += 1;
        }
    }
    assert!(rows > 50, "{rows} rows were found");
    for (file, test) in named_tests(&text) {
        let code = fs::read_to_string(&file).unwrap_or_default();
        assert!(
            code.contains(&format!("    fn {test}(")) || code.contains(&format!("\nfn {test}(")),
            "{test} is not in {}",
            file.display()
        );
    }
}

/// The files of tests, with what is in them.
fn test_files() -> impl Iterator<Item = (String, String)> {
    let folder = fs::read_dir(root().join("tests")).expect("a folder");
    let paths = folder.map(|entry| entry.expect("an entry").path());
    let files = paths.filter(|path| path.extension().is_some_and(|name| name == "rs"));
    files.map(|path| {
        let name = path
            .file_name()
            .expect("a file")
            .to_string_lossy()
            .into_owned();
        (name, fs::read_to_string(&path).expect("text"))
    })
}

#[test]
fn every_file_of_tests_is_in_the_document_and_every_named_test_is_there() {
    let text = fs::read_to_string(root().join("docs/TESTING.md")).expect("the document");
    let files: BTreeMap<String, String> = test_files().collect();
    assert!(files.len() > 80, "{} files were found", files.len());
    for name in files.keys() {
        assert!(
            text.contains(&format!("\n| `{name}` | ")),
            "{name} has no row"
        );
    }
    // A line names a file, and then tests in it, some of them by their beginning.
    let mut tests = 0;
    for line in text.lines().filter(|line| line.starts_with("| ")) {
        let mut code = None;
        for word in line.split('`').skip(1).step_by(2) {
            let is_name = |text: &str| {
                text.bytes()
                    .all(|byte| byte == b'_' || byte.is_ascii_lowercase())
            };
            let beginning = word.strip_suffix('…').unwrap_or(word);
            match code {
                _ if word.ends_with(".rs") => code = files.get(word),
                Some(code) if is_name(beginning) && beginning.matches('_').count() > 2 => {
                    let is_there = code.contains(&format!("\nfn {beginning}"));
                    assert!(is_there, "{word} is not where {line:?} says");
                    tests += 1;
                }
                _ => {}
            }
        }
    }
    assert!(tests > 10, "{tests} tests are named");
}

/// A sanitizer multiplies memory, so tests that measure it are left out there, and so are those that call
/// a function of their file that does.
#[test]
fn every_test_of_resident_memory_is_left_out_under_the_sanitizer() {
    let script = fs::read_to_string(root().join("tests/sanitize")).expect("the script");
    let (_, list) = script.split_once("\nLEFT_OUT=(\n").expect("a list");
    let (list, _) = list.split_once("\n)").expect("its end");
    let left_out: Vec<&str> = list.lines().map(str::trim).collect();
    let heap = fs::read_to_string(root().join("src/ops/heap.rs")).expect("unit tests");
    let others = test_files().filter(|(name, _)| name != "floors.rs");
    let all: Vec<(String, String)> = others.chain([("heap.rs".into(), heap)]).collect();
    for name in &left_out {
        let is_test = all
            .iter()
            .any(|(_, code)| code.contains(&format!("{name}()")));
        assert!(is_test, "{name} is no test any more");
    }
    let mut measuring = 0;
    for (file, code) in &all {
        let functions: Vec<(&str, &str)> = code
            .split("\nfn ")
            .skip(1)
            .filter_map(|part| part.split("\n}\n").next()?.split_once('('))
            .collect();
        let mut words = vec!["rss_".to_owned(), "--memory-limit".to_owned()];
        let has_one = |body: &str, words: &[String]| words.iter().any(|word| body.contains(word));
        for (name, body) in &functions {
            let is_helper = !code.contains(&format!("#[test]\nfn {name}("));
            if is_helper && has_one(body, &words) {
                words.push(format!("{name}("));
            }
        }
        for (name, body) in functions {
            if code.contains(&format!("#[test]\nfn {name}(")) && has_one(body, &words) {
                measuring += 1;
                let is_left_out = left_out.iter().any(|left| name.contains(left));
                assert!(
                    is_left_out || NOT_OF_MEMORY.contains(&name),
                    "{file}: {name}"
                );
            }
        }
    }
    assert!(measuring > 20, "{measuring} tests were found");
}

/// Tests that name the option alone.
const NOT_OF_MEMORY: [&str; 1] =
    ["check_shows_values_but_no_secret_and_its_status_says_whether_they_hold"];

#[test]
fn files_keep_to_one_subject() {
    for (path, _, code) in sources() {
        let lines = code.lines().count();
        assert!(lines <= LINES_MAX, "{} has {lines} lines", path.display());
    }
}
