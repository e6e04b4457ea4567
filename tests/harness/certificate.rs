//! Certificates for this host, made by the `openssl` program.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest as _, Sha256};

/// A certificate for `localhost` and 127.0.0.1 with its key, in a folder of its own; removed on
/// drop.
pub(crate) struct Certificate(PathBuf);

impl Certificate {
    /// One signed with its own key, of kind `algorithm` as `openssl req -newkey` names it.
    pub(crate) fn new(algorithm: &str) -> Self {
        let this = Self::folder();
        let mut command = Command::new("openssl");
        command.args([
            "req", "-x509", "-nodes", "-days", "30", "-newkey", algorithm,
        ]);
        if algorithm == "ec" {
            command.args(P256);
        }
        command.args(["-subj", "/CN=localhost", "-addext"]);
        command.arg("subjectAltName=DNS:localhost,IP:127.0.0.1");
        command.args(["-keyout", &this.key(), "-out", &this.cert()]);
        run(command);
        this
    }

    /// One signed with its own key, valid from `start` seconds from now to `end` seconds from now.
    pub(crate) fn valid(start: i64, end: i64) -> Self {
        let this = Self::folder();
        this.request("key.pem");
        this.sign("cert.pem", None, "leaf", [start, end]);
        this
    }

    /// One of X.509 version 1, which has no place for a name.
    pub(crate) fn version_1() -> Self {
        let this = Self::folder();
        this.request("key.pem");
        let mut command = Command::new("openssl");
        command.args([
            "x509",
            "-req",
            "-days",
            "30",
            "-in",
            &this.path("request.pem"),
        ]);
        command.args(["-signkey", &this.key(), "-out", &this.cert()]);
        run(command);
        let mut command = Command::new("openssl");
        command.args(["x509", "-noout", "-text", "-in", &this.cert()]);
        let text = run(command);
        assert!(text.contains("Version: 1 (0x0)"), "{text}");
        this
    }

    /// One that an intermediate has signed, which stands behind it in the file, and that one
    /// [`Self::root`]. The file [`Self::leaf`] holds it alone.
    pub(crate) fn chained() -> Self {
        let this = Self::folder();
        let days = [-DAY_S, 30 * DAY_S];
        this.request("root.key");
        this.sign("root.pem", None, "authority", days);
        this.request("middle.key");
        this.sign("middle.pem", Some("root"), "authority", days);
        this.request("key.pem");
        this.sign("leaf.pem", Some("middle"), "leaf", days);
        let parts = ["leaf.pem", "middle.pem"].map(|name| this.path(name));
        let parts = parts.map(|path| fs::read_to_string(path).expect("just made"));
        fs::write(this.cert(), parts.concat()).expect("our folder");
        this
    }

    /// The file of the certificate; of one that signed itself, also what vouches for it.
    pub(crate) fn cert(&self) -> String {
        self.path("cert.pem")
    }

    /// The file of its key.
    pub(crate) fn key(&self) -> String {
        self.path("key.pem")
    }

    /// The file of what vouches for a chained one.
    pub(crate) fn root(&self) -> String {
        self.path("root.pem")
    }

    /// The file of a chained one without the intermediate.
    pub(crate) fn leaf(&self) -> String {
        self.path("leaf.pem")
    }

    /// What Chromium calls the key by: the hash of its public half, in base64.
    pub(crate) fn key_hash(&self) -> String {
        let mut command = Command::new("openssl");
        command.args(["pkey", "-in", &self.key(), "-pubout", "-outform", "DER"]);
        let done = command.output().expect("openssl: run tests/run");
        BASE64_STANDARD.encode(Sha256::digest(done.stdout))
    }

    /// A file that may be made in the folder.
    pub(crate) fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("UTF-8").to_owned()
    }

    fn folder() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("roomcast-certificate-{}-{count}", std::process::id());
        let this = Self(std::env::temp_dir().join(name));
        fs::create_dir(&this.0).expect("a folder can be made");
        this
    }

    /// Makes a key in the file `key`, and a request for its certificate.
    fn request(&self, key: &str) {
        let mut command = Command::new("openssl");
        command.args(["req", "-new", "-nodes", "-newkey", "ec"]);
        command.args(P256);
        let name = key.trim_end_matches(".pem").trim_end_matches(".key");
        command.args(["-subj", &format!("/CN={name}")]);
        let (key, out) = (self.path(key), self.path("request.pem"));
        command.args(["-keyout", &key, "-out", &out]);
        run(command);
    }

    /// Signs the newest request into the file `out`, by `issuer` or with its own key. Unlike
    /// others, `openssl ca` can be told when a certificate begins.
    fn sign(&self, out: &str, issuer: Option<&str>, kind: &str, [start, end]: [i64; 2]) {
        let text = CONFIG.replace("FOLDER", &self.path("."));
        fs::write(self.path("ca.cnf"), text).expect("our folder");
        fs::write(self.path("index.txt"), "").expect("our folder");
        let mut command = Command::new("openssl");
        command.args(["ca", "-batch", "-notext", "-config", &self.path("ca.cnf")]);
        command.args(["-in", &self.path("request.pem"), "-out", &self.path(out)]);
        command.args(["-extensions", kind]);
        command.args(["-startdate", &date(start, FORMAT)]);
        command.args(["-enddate", &date(end, FORMAT)]);
        match issuer {
            Some(name) => {
                command.args(["-keyfile", &self.path(&format!("{name}.key"))]);
                command.args(["-cert", &self.path(&format!("{name}.pem"))]);
            }
            None => {
                let key = match out {
                    "cert.pem" => self.key(),
                    other => self.path(&other.replace(".pem", ".key")),
                };
                command.args(["-selfsign", "-keyfile", &key]);
            }
        }
        run(command);
    }
}

impl Drop for Certificate {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Seconds of a day.
pub(crate) const DAY_S: i64 = 24 * 3600;

/// The time `seconds` from now, in UTC, as the program `date` shows it by `format`.
pub(crate) fn date(seconds: i64, format: &str) -> String {
    // The first call of a process says when now is, so that all of them speak of the same day.
    static NOW: OnceLock<i64> = OnceLock::new();
    let now = NOW.get_or_init(|| {
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or(Duration::ZERO);
        i64::try_from(now.as_secs()).expect("a few billion")
    });
    let mut command = Command::new("date");
    command.args(["-u", "-d", &format!("@{}", now + seconds), format]);
    run(command).trim_end().to_owned()
}

/// What a program says on standard output; it must end in success.
fn run(mut command: Command) -> String {
    let done = command.output().expect("openssl and date: run tests/run");
    let complaint = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{command:?}: {complaint}");
    String::from_utf8_lossy(&done.stdout).into_owned()
}

const P256: [&str; 2] = ["-pkeyopt", "ec_paramgen_curve:P-256"];

/// A time as `openssl ca` reads it.
const FORMAT: &str = "+%Y%m%d%H%M%SZ";

const CONFIG: &str = "
[ca]
default_ca = here
[here]
database = FOLDER/index.txt
new_certs_dir = FOLDER
rand_serial = yes
unique_subject = no
default_md = sha256
policy = any
[any]
commonName = supplied
[leaf]
basicConstraints = CA:FALSE
subjectAltName = DNS:localhost,IP:127.0.0.1
[authority]
basicConstraints = critical,CA:TRUE
keyUsage = critical,keyCertSign
";
