//! The list of mistakes that `tests/mutations/run` plants is one that can be planted: every text is
//! still in its file, once, every test is there, and every simulated one has its seed.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// One mistake, as the list has it.
struct Mutation<'a> {
    name: &'a str,
    file: &'a str,
    /// The test's file, or `lib`, and the test.
    test: (&'a str, &'a str),
    /// The first seed with which a simulator finds it.
    seed: Option<&'a str>,
    old: &'a str,
    new: &'a str,
}

fn mutations(list: &str) -> Vec<Mutation<'_>> {
    let entries = list.split("\n== ").skip(1);
    entries
        .map(|entry| {
            let (head, texts) = entry.split_once("\n<<<<\n").expect("texts");
            let (old, rest) = texts.split_once("\n====\n").expect("two texts");
            let (new, _) = rest.split_once(">>>>").expect("an end");
            let field = |name: &str| {
                let mut lines = head.lines();
                lines.find_map(|line| line.strip_prefix(name)).expect(name)
            };
            let mut test = field("test ").split(' ');
            let binary = test.next().expect("a file");
            let name_of_test = test.next().expect("a test");
            Mutation {
                name: head.lines().next().expect("a name"),
                file: field("file "),
                test: (binary, name_of_test),
                seed: test.next(),
                old,
                new: new.trim_end_matches('\n'),
            }
        })
        .collect()
}

#[test]
fn every_mistake_can_be_planted() {
    let list = read("tests/mutations/list");
    let mutations = mutations(&list);
    assert!(mutations.len() >= 90, "{} mistakes", mutations.len());
    let mut names = BTreeSet::new();
    for Mutation {
        name,
        file,
        test: (binary, test),
        seed,
        old,
        new,
    } in mutations
    {
        assert!(names.insert(name), "{name} is there twice");
        let is_simulated = ["sim", "sim_cluster"].contains(&binary);
        let is_seed = |seed: &str| seed.parse::<u64>().is_ok();
        assert_eq!(seed.is_some_and(is_seed), is_simulated, "{name}: its seed");
        let times = read(file).matches(old).count();
        assert_eq!(times, 1, "{name}: how often its text is in {file}");
        assert_ne!(old, new, "{name} changes nothing");
        let function = test.rsplit("::").next().unwrap_or(test);
        let text = match binary {
            "lib" => read(file),
            binary => read(&format!("tests/{binary}.rs")),
        };
        assert!(
            text.contains(&format!("fn {function}()")),
            "{name}: there is no test {test}"
        );
    }
}
