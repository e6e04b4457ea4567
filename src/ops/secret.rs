//! Secrets from files.
//!
//! Owns: what a file with a secret must be like, and the warning when others can read it.
//! Never: puts a byte of a secret into an error or a warning; they name the option and the file.
//!
//! A secret comes from a file and not from an option or a variable, because other processes can
//! see those. The file is a regular one: it is read again on SIGHUP, and a pipe such as that of a
//! shell's `<(…)` would be empty by then. One line end at the end of the file (`\n` or `\r\n`) is not part of the secret, since
//! editors and `echo` add it.

use std::fs::{Metadata, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use rustix::fs::OFlags;

use crate::base::Secret;

use super::config::ConfigError;

/// Shortest token secret, in bytes: the length of an HS256 signature (RFC 7518, section 3.2).
pub const TOKEN_SECRET_BYTES_MIN: usize = 32;

/// Shortest API key, in bytes: too long to be guessed over a network.
pub const API_KEY_BYTES_MIN: usize = 16;

/// Longest API key, in bytes: half a request head, or no call could carry it.
pub const API_KEY_BYTES_MAX: usize = 4096;

/// Largest file that is read, in bytes.
pub const FILE_BYTES_MAX: usize = 64 << 10;

/// Reads the file of `--token-secret-file`. Adds a warning when others can read it.
///
/// # Errors
/// When it cannot be read, is empty or too large, or the secret is too short.
pub fn read_token_secret(path: &Path, warnings: &mut Vec<String>) -> Result<Secret, ConfigError> {
    const OPTION: &str = "--token-secret-file";
    let secret = read(OPTION, path, warnings)?;
    if secret.expose().len() < TOKEN_SECRET_BYTES_MIN {
        let rule = format!("must hold a secret of at least {TOKEN_SECRET_BYTES_MIN} bytes");
        return Err(refusal(OPTION, path, rule));
    }
    Ok(secret)
}

/// Reads the file of `--api-key-file`. Adds a warning when others can read it.
///
/// # Errors
/// When it cannot be read, is empty or too large, or holds anything but one line of visible ASCII
/// of a fit length: the key travels in a header, where more is ambiguous or cut off.
pub fn read_api_key(path: &Path, warnings: &mut Vec<String>) -> Result<Secret, ConfigError> {
    const OPTION: &str = "--api-key-file";
    let key = read(OPTION, path, warnings)?;
    if !key.expose().iter().all(u8::is_ascii_graphic) {
        let rule = "must hold one line of visible ASCII, without spaces";
        return Err(refusal(OPTION, path, rule));
    }
    if !(API_KEY_BYTES_MIN..=API_KEY_BYTES_MAX).contains(&key.expose().len()) {
        let rule = format!(
            "must hold a key of at least {API_KEY_BYTES_MIN} and at most {API_KEY_BYTES_MAX} bytes"
        );
        return Err(refusal(OPTION, path, rule));
    }
    Ok(key)
}

pub(super) fn read(
    option: &'static str,
    path: &Path,
    warnings: &mut Vec<String>,
) -> Result<Secret, ConfigError> {
    let unreadable = |error| {
        let rule = format!("must be a file that can be read: {error}");
        refusal(option, path, rule)
    };
    let file = OpenOptions::new()
        .read(true)
        // A pipe must not hold up the start, or all that operators ask for, until somebody writes.
        .custom_flags(OFlags::NONBLOCK.bits() as i32)
        .open(path)
        .map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        let rule = "must be a regular file: it is read again on SIGHUP";
        return Err(refusal(option, path, rule));
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if bytes.len() > FILE_BYTES_MAX {
        let rule = format!("must hold at most {FILE_BYTES_MAX} bytes");
        return Err(refusal(option, path, rule));
    }
    let secret = without_line_end(&bytes);
    if secret.is_empty() {
        return Err(refusal(option, path, "must not be empty"));
    }
    warnings.extend(exposure_warning(option, path, &metadata));
    Ok(Secret::new(secret))
}

fn without_line_end(bytes: &[u8]) -> &[u8] {
    match bytes.strip_suffix(b"\n") {
        Some(line) => line.strip_suffix(b"\r").unwrap_or(line),
        None => bytes,
    }
}

fn exposure_warning(option: &str, path: &Path, metadata: &Metadata) -> Option<String> {
    let mode = metadata.permissions().mode() & 0o777;
    (mode & 0o077 != 0).then(|| {
        format!(
            "{option} is {path:?}: others may read or change it (mode {mode:03o}); \
             chmod 600 keeps it secret"
        )
    })
}

pub(super) fn refusal(option: &'static str, path: &Path, rule: impl Into<String>) -> ConfigError {
    // The debug form quotes, so that spaces and control characters can be seen.
    ConfigError::new(option, format!("{path:?}"), rule)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;

    /// A file that is gone when the test is over.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str, content: &[u8], mode: u32) -> Self {
            let name = format!("roomcast-secret-{}-{name}", std::process::id());
            let path = std::env::temp_dir().join(name);
            fs::write(&path, content).expect("a file can be written");
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("it is ours");
            Self(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_file(&self.0);
        }
    }

    #[test]
    fn contents_are_checked_on_both_sides_of_each_rule() {
        const SHORT: &str = "must hold a secret of at least 32 bytes";
        const EMPTY: &str = "must not be empty";
        const LARGE: &str = "must hold at most 65536 bytes";
        let full = |len: usize, end: &str| ["k".repeat(len).as_bytes(), end.as_bytes()].concat();
        for (index, (content, expected)) in [
            (full(32, ""), Ok(32)),
            (full(32, "\n"), Ok(32)),
            (full(32, "\r\n"), Ok(32)),
            (full(32, "\n\n"), Ok(33)),
            (full(32, " "), Ok(33)),
            (full(32, "\r"), Ok(33)),
            (full(32, "é"), Ok(34)),
            (vec![0xff; 32], Ok(32)),
            (full(31, ""), Err(SHORT)),
            (full(31, "\n"), Err(SHORT)),
            (full(0, ""), Err(EMPTY)),
            (full(0, "\n"), Err(EMPTY)),
            (full(65_536, ""), Ok(65_536)),
            (full(65_537, ""), Err(LARGE)),
        ]
        .into_iter()
        .enumerate()
        {
            let file = Scratch::new(&format!("content-{index}"), &content, 0o600);
            let mut warnings = Vec::new();
            let outcome = |read: Result<Secret, ConfigError>| {
                read.map(|secret| secret.expose().len())
                    .map_err(|error| error.rule)
            };
            let found = outcome(read_token_secret(&file.0, &mut warnings));
            assert_eq!(found, expected.map_err(ToOwned::to_owned), "{index}");
            assert_eq!(warnings, Vec::<String>::new(), "{index}");
        }
    }

    #[test]
    fn api_keys_are_checked_on_both_sides_of_each_rule() {
        const LENGTH: &str = "must hold a key of at least 16 and at most 4096 bytes";
        const VISIBLE: &str = "must hold one line of visible ASCII, without spaces";
        const EMPTY: &str = "must not be empty";
        let key = |len: usize, end: &[u8]| [&*b"k".repeat(len), end].concat();
        for (index, (content, expected)) in [
            (key(16, b""), Ok(16)),
            (key(16, b"\n"), Ok(16)),
            (key(16, b"\r\n"), Ok(16)),
            (key(15, b"!"), Ok(16)),
            (key(15, b"~"), Ok(16)),
            (key(4096, b"\n"), Ok(4096)),
            (key(15, b""), Err(LENGTH)),
            (key(15, b"\n"), Err(LENGTH)),
            (key(4097, b""), Err(LENGTH)),
            (key(16, b" "), Err(VISIBLE)),
            (key(16, b"\x7f"), Err(VISIBLE)),
            (key(16, b"\t"), Err(VISIBLE)),
            (key(16, b"\0"), Err(VISIBLE)),
            (key(16, b"\r"), Err(VISIBLE)),
            (key(16, b"\n\n"), Err(VISIBLE)),
            (key(16, b"\nk"), Err(VISIBLE)),
            (key(16, "é".as_bytes()), Err(VISIBLE)),
            (key(16, b"\xff"), Err(VISIBLE)),
            (key(0, b"\xef\xbb\xbfkkkkkkkkkkkkkkkk"), Err(VISIBLE)),
            (key(0, b""), Err(EMPTY)),
            (key(0, b"\r\n"), Err(EMPTY)),
        ]
        .into_iter()
        .enumerate()
        {
            let file = Scratch::new(&format!("key-{index}"), &content, 0o600);
            let mut warnings = Vec::new();
            let found = read_api_key(&file.0, &mut warnings);
            if let Err(error) = &found {
                let text = error.to_string();
                assert!(text.starts_with("--api-key-file is \""), "{text}");
                assert!(text.contains("roomcast-secret-"), "{text}");
                assert!(!text.contains("kkk"), "{text}");
            }
            let found = found
                .map(|key| key.expose().len())
                .map_err(|error| error.rule);
            assert_eq!(found, expected.map_err(ToOwned::to_owned), "{index}");
            assert_eq!(warnings, Vec::<String>::new(), "{index}");
        }
    }

    #[test]
    fn unreadable_files_are_refused() {
        type Read = fn(&Path, &mut Vec<String>) -> Result<Secret, ConfigError>;
        let readers: [(&str, Read); 2] = [
            ("--token-secret-file", read_token_secret),
            ("--api-key-file", read_api_key),
        ];
        for (option, read) in readers {
            for path in ["/nowhere/at/all", "/", "/dev/zero"] {
                let error = read(Path::new(path), &mut Vec::new()).expect_err("no secret there");
                let expected = format!("{option} is {path:?}: must ");
                assert!(error.to_string().starts_with(&expected), "{error}");
            }
        }
    }

    #[test]
    fn files_that_others_can_read_give_a_warning() {
        for (mode, is_exposed) in [
            (0o600, false),
            (0o400, false),
            (0o640, true),
            (0o604, true),
            (0o620, true),
        ] {
            let file = Scratch::new(&format!("mode-{mode:o}"), &[b'k'; 32], mode);
            let mut warnings = Vec::new();
            read_token_secret(&file.0, &mut warnings).expect("a good secret");
            assert_eq!(warnings.len(), usize::from(is_exposed), "{mode:o}");
            read_api_key(&file.0, &mut warnings).expect("a good key");
            assert_eq!(warnings.len(), 2 * usize::from(is_exposed), "{mode:o}");
            let last = warnings.last().map_or("--api-key-file", |last| &**last);
            assert!(last.starts_with("--api-key-file"), "{last}");
            assert!(!warnings.concat().contains("kkk"));
        }
    }
}
