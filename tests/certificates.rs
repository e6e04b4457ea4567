//! The certificate of the public listeners over its life: what is refused, what is used with a
//! warning, when it expires, and what a reload makes of each.

#[path = "clients/driven.rs"]
mod driven;
mod harness;

use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

use serde_json::json;

use driven::Driven;
use harness::{
    Certificate, DAY_S, Daemon, Signal, date, run_to_exit, stdout_of, wait_for, wait_until,
};

const EXPIRY: &str = "roomcast_tls_certificate_expires_seconds";

/// What the daemon makes of a pair of files.
enum Verdict {
    /// It says so, in a warning or in an informational line, and uses it.
    Used { says: String, level: &'static str },
    /// It says so and does not.
    Refused { says: String },
}

/// Two files, and what the daemon makes of them.
struct Case {
    name: &'static str,
    /// Keeps the folder.
    made: Certificate,
    cert: String,
    key: String,
    verdict: Verdict,
}

/// Certificates that can be used, by their time.
fn used() -> Vec<Case> {
    let day = |days: i64| date(days * DAY_S, "+%Y-%m-%d");
    let case = |name, days: [i64; 2], level, says: String| {
        let made = Certificate::valid(days[0] * DAY_S, days[1] * DAY_S);
        let (cert, key) = (made.cert(), made.key());
        let verdict = Verdict::Used { says, level };
        Case {
            name,
            made,
            cert,
            key,
            verdict,
        }
    };
    vec![
        case(
            "expired",
            [-9, -2],
            "WARN",
            format!("the certificate expired on {}", day(-2)),
        ),
        case(
            "to come",
            [2, 40],
            "WARN",
            format!("the certificate is not valid before {}", day(2)),
        ),
        case(
            "backwards",
            [5, 2],
            "WARN",
            "the certificate is never valid: it expires".to_owned(),
        ),
        case(
            "soon",
            [-9, 13],
            "WARN",
            format!("the certificate expires on {}", day(13)),
        ),
        case(
            "good",
            [-9, 15],
            "INFO",
            format!("--tls-cert expires on {}", day(15)),
        ),
    ]
}

/// Files that cannot be used.
fn refused() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |name, break_it: fn(&Certificate) -> [String; 2], option, rule: &str| {
        let made = match name {
            "version 1" => Certificate::version_1(),
            _ => Certificate::new("ec"),
        };
        let [cert, key] = break_it(&made);
        let path = if option == "--tls-cert" { &cert } else { &key };
        let says = format!("{option} is {path:?}: {rule}");
        let verdict = Verdict::Refused { says };
        cases.push(Case {
            name,
            made,
            cert,
            key,
            verdict,
        });
    };
    add(
        "version 1",
        |c| [c.cert(), c.key()],
        "--tls-cert",
        "must begin with a certificate of X.509 version 3",
    );
    add(
        "another's key",
        |c| [c.cert(), other_key(c)],
        "--tls-key",
        "must belong to the certificate of --tls-cert",
    );
    add(
        "a curve that is not spoken",
        |c| [c.cert(), odd_key(c)],
        "--tls-key",
        "must be an RSA, ECDSA or Ed25519 key",
    );
    let readable = "must be a file that can be read: ";
    add(
        "no certificate there",
        |c| [c.path("nowhere"), c.key()],
        "--tls-cert",
        readable,
    );
    add(
        "no key there",
        |c| [c.cert(), c.path("nowhere")],
        "--tls-key",
        readable,
    );
    add(
        "a folder for a certificate",
        |c| [c.path("."), c.key()],
        "--tls-cert",
        "must be a regular file",
    );
    add(
        "a folder for a key",
        |c| [c.cert(), c.path(".")],
        "--tls-key",
        "must be a regular file",
    );
    // Whoever runs the tests as root may open everything but this.
    add(
        "a certificate that cannot be opened",
        |c| [endless(c), c.key()],
        "--tls-cert",
        readable,
    );
    add(
        "a key that cannot be opened",
        |c| [c.cert(), endless(c)],
        "--tls-key",
        readable,
    );
    add(
        "a key that cannot be read",
        |c| [c.cert(), "/proc/self/mem".into()],
        "--tls-key",
        readable,
    );
    add(
        "an empty certificate",
        |c| [file(c, b""), c.key()],
        "--tls-cert",
        "must not be empty",
    );
    add(
        "an empty key",
        |c| [c.cert(), file(c, b"")],
        "--tls-key",
        "must not be empty",
    );
    add(
        "zeros for a certificate",
        |c| [file(c, &[0; 4096]), c.key()],
        "--tls-cert",
        "must hold a certificate in PEM",
    );
    add(
        "noise for a key",
        |c| [c.cert(), file(c, &[0xfe; 4096])],
        "--tls-key",
        "must hold a private key in PEM: there is none",
    );
    add(
        "a key for a certificate",
        |c| [c.key(), c.key()],
        "--tls-cert",
        "must hold a certificate in PEM",
    );
    add(
        "a certificate for a key",
        |c| [c.cert(), c.cert()],
        "--tls-key",
        "must hold a private key in PEM: there is none",
    );
    add(
        "a certificate of nothing",
        |c| {
            [
                file(
                    c,
                    b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n",
                ),
                c.key(),
            ]
        },
        "--tls-cert",
        "must begin with a certificate that can be read: ",
    );
    add(
        "a certificate cut short",
        |c| [half(c), c.key()],
        "--tls-cert",
        "must be certificates in PEM: a BEGIN line without its END line",
    );
    add(
        "a key without line ends",
        |c| [c.cert(), in_one_line(c, "")],
        "--tls-key",
        "must hold a private key in PEM: a BEGIN line without its END line",
    );
    add(
        "a key behind its first line",
        |c| [c.cert(), in_one_line(c, "x")],
        "--tls-key",
        "must hold a private key in PEM: a BEGIN line that does not end in -----",
    );
    cases
}

fn file(certificate: &Certificate, content: &[u8]) -> String {
    let path = certificate.path("file");
    fs::write(&path, content).expect("our folder");
    path
}

fn other_key(certificate: &Certificate) -> String {
    let key = fs::read(Certificate::new("ec").key()).expect("just made");
    file(certificate, &key)
}

/// A key that OpenSSL likes and TLS servers do not.
fn odd_key(certificate: &Certificate) -> String {
    let path = certificate.path("file");
    let mut command = Command::new("openssl");
    command.args(["genpkey", "-algorithm", "EC", "-out", &path]);
    command.args(["-pkeyopt", "ec_paramgen_curve:secp256k1"]);
    assert!(command.status().is_ok_and(|status| status.success()));
    path
}

/// A link to itself.
fn endless(certificate: &Certificate) -> String {
    let path = certificate.path("endless");
    symlink(&path, &path).expect("our folder");
    path
}

fn half(certificate: &Certificate) -> String {
    let text = fs::read(certificate.cert()).expect("just made");
    file(certificate, &text[..text.len() / 2])
}

/// The key as it comes out of a variable that has lost its line ends, with `end` behind it.
fn in_one_line(certificate: &Certificate, end: &str) -> String {
    let text = fs::read_to_string(certificate.key()).expect("just made");
    file(
        certificate,
        (text.trim_end().replace('\n', " ") + end).as_bytes(),
    )
}

/// Asserts that a text shows no part of what the key is made of, not as numbers either.
fn assert_secret_is_kept(case: &Case, text: &str) {
    let key = fs::read_to_string(case.made.key()).expect("just made");
    let body = key.lines().nth(1).expect("a line of base64");
    for part in body.as_bytes().chunks_exact(8) {
        let as_text = std::str::from_utf8(part).expect("base64");
        assert!(!text.contains(as_text), "{}: {text}", case.name);
        let as_numbers = format!("{part:?}");
        let as_numbers = as_numbers.trim_matches(['[', ']']);
        assert!(!text.contains(as_numbers), "{}: {text}", case.name);
    }
}

#[test]
fn at_the_start_bad_files_are_refused_and_bad_times_are_told() {
    for case in refused() {
        let args = ["--tls-cert", &case.cert, "--tls-key", &case.key];
        let Verdict::Refused { says } = &case.verdict else {
            panic!("{} is refused", case.name);
        };
        for args in [&args[..], &[&["check"][..], &args].concat()] {
            let (status, stderr) = run_to_exit(args, &[]);
            assert_eq!(status.code(), Some(2), "{}: {stderr}", case.name);
            assert!(
                stderr.contains(says.as_str()),
                "{}: no {says:?} in {stderr}",
                case.name
            );
            assert_eq!(stderr.lines().count(), 1, "{}: {stderr}", case.name);
            assert_secret_is_kept(&case, &stderr);
        }
    }
    for case in used() {
        let args = ["--tls-cert", &case.cert, "--tls-key", &case.key];
        let Verdict::Used { says, level } = &case.verdict else {
            panic!("{} is used", case.name);
        };
        let daemon = Daemon::start(&args);
        let line = daemon.wait_log(says);
        assert!(line.contains(level), "{}: {line}", case.name);
        let about = |line: &&String| line.contains("WARN") && line.contains("--tls-cert");
        let warnings = daemon.log_lines().iter().filter(about).count();
        assert_eq!(warnings, usize::from(*level == "WARN"), "{}", case.name);
        assert_eq!(served(&daemon), first_of(&case.cert), "{}", case.name);
        assert_eq!(daemon.metric(EXPIRY), expiry(&case), "{}", case.name);
        let shown = stdout_of(&[&["check"][..], &args].concat());
        let end = match case.name {
            "backwards" => "is never valid".to_owned(),
            _ => format!("expires on {}", day_of(expiry(&case))),
        };
        let line = format!("--tls-cert                  set, {end}\n");
        assert!(
            shown.contains(&line),
            "{}: no {line:?} in {shown}",
            case.name
        );
        let is_warned =
            shown.contains(&format!("Warning: --tls-cert is {:?}: the cert", case.cert));
        assert_eq!(is_warned, *level == "WARN", "{}: {shown}", case.name);
    }
}

#[test]
fn at_a_reload_bad_files_change_nothing_and_bad_times_are_told() {
    let first = Certificate::new("ec");
    // What the daemon reads are links, so that each case can have files of its own.
    let [cert, key] = ["cert", "key"].map(|name| first.path(name));
    let point_to = |to: [&str; 2]| {
        for (link, to) in [&cert, &key].into_iter().zip(to) {
            let _ = fs::remove_file(link);
            symlink(to, link).expect("our folder");
        }
    };
    point_to([&first.cert(), &first.key()]);
    let daemon = Daemon::start(&["--tls-cert", &cert, "--tls-key", &key]);
    let url = format!("wss://localhost:{}/echo", daemon.addr().port());
    let mut before = Driven::python_tls(&url, &first.cert());
    before.expect("open");
    let mut current = (first_of(&first.cert()), daemon.metric(EXPIRY));
    assert!(current.1 > 0.0);

    for (reloads, case) in (1..).zip(used().into_iter().chain(refused())) {
        point_to([&case.cert, &case.key]);
        let seen = daemon.log_lines().len();
        daemon.signal(Signal::Hup);
        let lines = wait_for("the reload", || {
            let lines = daemon.log_lines();
            let done = lines
                .iter()
                .filter(|line| line.ends_with("reloaded"))
                .count();
            (done == reloads).then(|| lines[seen..].to_vec())
        });
        // The files have other names now.
        let own = |text: &str| {
            text.split_once(": ")
                .map_or_else(|| text.to_owned(), |(_, rest)| rest.to_owned())
        };
        match &case.verdict {
            Verdict::Used { says, level } => {
                let is_told = |line: &String| line.contains(says.as_str()) && line.contains(level);
                assert!(
                    lines.iter().any(is_told),
                    "{}: no {says:?} in {lines:?}",
                    case.name
                );
                current = (first_of(&case.cert), expiry(&case));
                wait_until(case.name, || served(&daemon) == current.0);
            }
            Verdict::Refused { says } => {
                let says = own(says);
                let is_told = |line: &String| {
                    line.contains("ERROR")
                        && line.contains(&says)
                        && line.ends_with("the old one stays")
                };
                assert!(
                    lines.iter().any(is_told),
                    "{}: no {says:?} in {lines:?}",
                    case.name
                );
                assert_secret_is_kept(&case, &lines.join("\n"));
                assert_eq!(served(&daemon), current.0, "{}", case.name);
            }
        }
        assert_eq!(daemon.metric(EXPIRY), current.1, "{}", case.name);
        before.order(&json!({"do": "text", "data": case.name}));
        assert_eq!(before.expect("text")["data"], case.name);
    }
    // And out of it again.
    point_to([&first.cert(), &first.key()]);
    daemon.signal(Signal::Hup);
    let mut after = wait_for("the first certificate", || {
        (served(&daemon) == first_of(&first.cert()))
            .then(|| Driven::python_tls(&url, &first.cert()))
    });
    after.expect("open");
    after.order(&json!({"do": "close", "code": 1000, "reason": "bye"}));
    assert_eq!(after.expect("close")["code"], 1000);
}

#[test]
fn without_tls_there_is_no_expiry() {
    let daemon = Daemon::start(&[]);
    let metrics = daemon.metrics();
    assert!(!metrics.contains(EXPIRY), "{metrics}");
}

#[test]
fn who_trusts_the_root_alone_needs_the_intermediate() {
    let chained = Certificate::chained();
    let cert = chained.path("cert");
    fs::copy(chained.leaf(), &cert).expect("our folder");
    let daemon = Daemon::start(&["--tls-cert", &cert, "--tls-key", &chained.key()]);
    let verified = || {
        s_client(
            &daemon,
            &["-CAfile", &chained.root(), "-verify_return_error"],
        )
    };
    let (is_trusted, text) = verified();
    assert!(
        !is_trusted && text.contains("unable to get local issuer certificate"),
        "{text}"
    );
    fs::copy(chained.cert(), &cert).expect("our folder");
    daemon.signal(Signal::Hup);
    wait_until("the intermediate", || verified().0);
    // The leaf comes first, and its end counts.
    assert_eq!(served(&daemon), first_of(&chained.leaf()));
    let url = format!("wss://localhost:{}/echo", daemon.addr().port());
    let authority = chained.root();
    for mut client in [
        Driven::python_tls(&url, &authority),
        Driven::node_tls(&url, &authority),
    ] {
        client.expect("open");
        client.order(&json!({"do": "text", "data": "hello"}));
        assert_eq!(client.expect("text")["data"], "hello");
    }
}

// --- What is served -------------------------------------------------------------------------------

/// Whether a handshake succeeds, and what `openssl s_client` says of it.
fn s_client(daemon: &Daemon, args: &[&str]) -> (bool, String) {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &daemon.addr().to_string()]);
    command.args(["-servername", "localhost"]).args(args);
    let done = command.stdin(Stdio::null()).output();
    let done = done.expect("openssl: run tests/run");
    let text = [done.stdout, done.stderr].concat();
    (
        done.status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

/// The certificate that a new connection is shown.
fn served(daemon: &Daemon) -> String {
    let (_, text) = s_client(daemon, &[]);
    first_in(&text).unwrap_or_else(|| panic!("no certificate: {text}"))
}

/// The first certificate of a file.
fn first_of(path: &str) -> String {
    let text = fs::read_to_string(path).expect("a file of ours");
    first_in(&text).expect("a certificate")
}

fn first_in(text: &str) -> Option<String> {
    let (_, text) = text.split_once("-----BEGIN CERTIFICATE-----")?;
    let (text, _) = text.split_once("-----END CERTIFICATE-----")?;
    Some(text.to_owned())
}

/// When it expires by what `openssl` says, in seconds since 1970; 0 if it ends before it begins.
fn expiry(case: &Case) -> f64 {
    if case.name == "backwards" {
        return 0.0;
    }
    let mut command = Command::new("openssl");
    command.args(["x509", "-noout", "-enddate", "-in", &case.cert]);
    let text = command.output().expect("openssl: run tests/run").stdout;
    let text = String::from_utf8(text).expect("text");
    let end = text.trim_end().strip_prefix("notAfter=").expect("a time");
    gnu_date(end, "+%s").parse().expect("a number")
}

fn day_of(unix_s: f64) -> String {
    gnu_date(&format!("@{unix_s}"), "+%Y-%m-%d")
}

fn gnu_date(time: &str, format: &str) -> String {
    let output = Command::new("date")
        .args(["-u", "-d", time, format])
        .output();
    let text = String::from_utf8(output.expect("date").stdout).expect("text");
    text.trim_end().to_owned()
}
