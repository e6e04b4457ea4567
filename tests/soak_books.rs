//! `tests/soak` finds what is planted in its books, for its judge of what is late, and in its
//! judgement of memory, and nothing where nothing is.

use std::process::{Command, Stdio};

#[test]
fn the_soak_finds_every_planted_fault() {
    let run = Command::new("python3")
        .args([
            concat!(env!("CARGO_MANIFEST_DIR"), "/tests/soak"),
            "--self-test",
        ])
        .stdin(Stdio::null())
        .output()
        .expect("python3: run tests/run");
    let said = String::from_utf8_lossy(&run.stdout);
    let complained = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{said}{complained}");
    let plants = said.split(' ').next().and_then(|word| word.parse().ok());
    assert!(plants.is_some_and(|count: u32| count >= 70), "{said}");
    assert!(said.contains(", 0 not judged"), "{said}");
}
