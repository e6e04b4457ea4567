//! Certificates for this host, made by the `openssl` program.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// A certificate signed with its own key, in a folder of its own; removed on drop.
pub(crate) struct Certificate(PathBuf);

impl Certificate {
    /// One for `localhost` and 127.0.0.1, with a key of kind `algorithm` as `openssl req -newkey`
    /// names it.
    pub(crate) fn new(algorithm: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("roomcast-certificate-{}-{count}", std::process::id());
        let this = Self(std::env::temp_dir().join(name));
        fs::create_dir(&this.0).expect("a folder can be made");
        let mut command = Command::new("openssl");
        command.args(["req", "-x509", "-nodes", "-days", "2", "-newkey", algorithm]);
        if algorithm == "ec" {
            command.args(["-pkeyopt", "ec_paramgen_curve:P-256"]);
        }
        command.args(["-subj", "/CN=localhost", "-addext"]);
        command.arg("subjectAltName=DNS:localhost,IP:127.0.0.1");
        command.args(["-keyout", &this.key(), "-out", &this.cert()]);
        let done = command.output().expect("openssl: run tests/run");
        let complaint = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "openssl: {complaint}");
        this
    }

    /// The file of the certificate, which is also what signed it.
    pub(crate) fn cert(&self) -> String {
        self.path("cert.pem")
    }

    /// The file of its key.
    pub(crate) fn key(&self) -> String {
        self.path("key.pem")
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("UTF-8").to_owned()
    }
}

impl Drop for Certificate {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
