//! A daemon whose libc fails when the test says so: no hook of the product is needed for it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use super::Start;

/// A library that is loaded before libc, made of a source in `tests/faults`, and the file that has it fail
/// for as long as the file is there.
pub(crate) struct Trap {
    folder: PathBuf,
}

impl Trap {
    /// Compiles `source`.
    pub(crate) fn new(source: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("roomcast-trap-{}-{count}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir(&folder).expect("a folder can be made");
        let trap = Self { folder };
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults");
        let mut gcc = Command::new("gcc");
        gcc.args(["-shared", "-fPIC", "-O1", "-o"]);
        let status = gcc.arg(trap.library()).arg(sources.join(source)).status();
        assert!(status.is_ok_and(|status| status.success()), "gcc {source}");
        trap
    }

    /// Has the daemon load it.
    pub(crate) fn load(&self, start: Start) -> Start {
        let start = start.env("LD_PRELOAD", self.library().to_str().expect("UTF-8"));
        start.env("FAILING_WHEN", self.trigger().to_str().expect("UTF-8"))
    }

    /// A path in a folder that goes with the trap.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// From now on it fails.
    pub(crate) fn spring(&self) {
        std::fs::write(self.trigger(), "").expect("a folder of ours");
    }

    /// It fails no more.
    pub(crate) fn release(&self) {
        std::fs::remove_file(self.trigger()).expect("it was sprung");
    }

    fn library(&self) -> PathBuf {
        self.path("library.so")
    }

    fn trigger(&self) -> PathBuf {
        self.path("now")
    }
}

impl Drop for Trap {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
