//! The certificate of the public listeners, from files to what a TLS session needs.
//!
//! Owns: what the two files must be like, when the certificate is valid, and which TLS is spoken:
//! 1.2 and 1.3, HTTP/1.1 only, with tickets, so that clients that come back all at once cost no
//! signature each.
//! Never: puts a byte of the key into an error or a warning.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustls::crypto::ring::{Ticketer, default_provider};
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::ProducesTickets;
use rustls::sign::{CertifiedKey, SigningKey, SingleCertAndKey};
use rustls::{Error, InconsistentKeys, ServerConfig};
use webpki::{EndEntityCert, KeyUsage};

use super::config::ConfigError;
use super::log::Utc;
use super::secret::{self, refusal};

const CERT: &str = "--tls-cert";
const KEY: &str = "--tls-key";

/// Time before the end of a certificate from which on a warning says so.
const EXPIRES_SOON: Duration = Duration::from_secs(14 * 24 * 3600);

/// What the public listeners speak TLS with.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// What each session is made of.
    pub config: Arc<ServerConfig>,
    /// The last second in which the certificate is valid, since 1970; 0 if it is never valid,
    /// because it ends before it begins.
    pub expires_unix_s: u64,
}

impl fmt::Display for Certificate {
    /// Until when it is good.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.expires_unix_s {
            0 => f.write_str("is never valid"),
            end => write!(f, "expires on {}", day(end)),
        }
    }
}

/// Reads the files of `--tls-cert` and `--tls-key`. Adds a warning when others can read the key, and
/// when the certificate is not valid at `unix_ms`, or not for much longer.
///
/// # Errors
/// When a file cannot be read or holds no certificate or key, or when they do not fit together.
pub fn read(
    cert: &Path,
    key: &Path,
    unix_ms: u64,
    warnings: &mut Vec<String>,
) -> Result<Certificate, ConfigError> {
    let chain = read_chain(cert)?;
    let leaf = chain.first().cloned().ok_or_else(|| {
        let rule = "must hold a certificate in PEM, and those that it was signed with behind it";
        refusal(CERT, cert, rule)
    })?;
    let leaf = EndEntityCert::try_from(&leaf).map_err(|error| {
        let rule = match error {
            webpki::Error::UnsupportedCertVersion => {
                "must begin with a certificate of X.509 version 3: this one is older".to_owned()
            }
            error => format!("must begin with a certificate that can be read: {error}"),
        };
        refusal(CERT, cert, rule)
    })?;
    let pair = CertifiedKey::new(chain, read_key(key, warnings)?);
    match pair.keys_match() {
        Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
        Err(error @ Error::InconsistentKeys(_)) => {
            let rule = format!("must belong to the certificate of {CERT}: {error}");
            return Err(refusal(KEY, key, rule));
        }
        Err(error) => {
            let rule = format!("must begin with a certificate that TLS can use: {error}");
            return Err(refusal(CERT, cert, rule));
        }
    }
    let config = server_config(pair).map_err(|error| {
        let rule = format!("must be a certificate that TLS can use: {error}");
        refusal(CERT, cert, rule)
    })?;
    let expires_unix_s = expiry(&leaf);
    let warning = validity_warning(&leaf, expires_unix_s, unix_ms / 1000);
    warnings.extend(warning.map(|what| format!("{CERT} is {cert:?}: {what}")));
    Ok(Certificate {
        config: Arc::new(config),
        expires_unix_s,
    })
}

/// The certificates of a file. Everybody may read it.
fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let bytes = secret::read(CERT, path, &mut Vec::new())?;
    let chain = CertificateDer::pem_slice_iter(bytes.expose()).collect::<Result<_, _>>();
    chain.map_err(|error| {
        let rule = format!("must be certificates in PEM: {}", complaint(&error));
        refusal(CERT, path, rule)
    })
}

fn read_key(path: &Path, warnings: &mut Vec<String>) -> Result<Arc<dyn SigningKey>, ConfigError> {
    let bytes = secret::read(KEY, path, warnings)?;
    let key = PrivateKeyDer::from_pem_slice(bytes.expose()).map_err(|error| {
        let rule = format!("must hold a private key in PEM: {}", complaint(&error));
        refusal(KEY, path, rule)
    })?;
    let key = default_provider().key_provider.load_private_key(key);
    key.map_err(|error| {
        let rule = format!("must be an RSA, ECDSA or Ed25519 key that TLS can use: {error}");
        refusal(KEY, path, rule)
    })
}

/// What makes and reads the tickets of this process: the same after a certificate was read anew, so
/// that clients that come back then still need no signature. Its keys change by themselves.
fn tickets() -> Option<Arc<dyn ProducesTickets>> {
    static TICKETS: OnceLock<Option<Arc<dyn ProducesTickets>>> = OnceLock::new();
    TICKETS.get_or_init(|| Ticketer::new().ok()).clone()
}

fn server_config(pair: CertifiedKey) -> Result<ServerConfig, Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(pair)));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    if let Some(tickets) = tickets() {
        config.ticketer = tickets;
    }
    Ok(config)
}

/// What is wrong with the time that the certificate is for.
fn validity_warning(leaf: &EndEntityCert<'_>, expires_unix_s: u64, unix_s: u64) -> Option<String> {
    let end = day(expires_unix_s);
    match verify_at(leaf, unix_s) {
        Err(webpki::Error::CertExpired { .. }) => Some(format!("the certificate expired on {end}")),
        Err(webpki::Error::CertNotValidYet { not_before, .. }) => {
            let start = day(not_before.as_secs());
            Some(format!("the certificate is not valid before {start}"))
        }
        Err(webpki::Error::InvalidCertValidity) => {
            Some("the certificate is never valid: it expires before it begins".to_owned())
        }
        _ if expires_unix_s.saturating_sub(unix_s) < EXPIRES_SOON.as_secs() => {
            Some(format!("the certificate expires on {end}"))
        }
        _ => None,
    }
}

/// The last second in which it is valid; 0 if it never is.
fn expiry(leaf: &EndEntityCert<'_>) -> u64 {
    // At the end of time every certificate has expired, and the error says since when.
    match verify_at(leaf, u64::MAX) {
        Err(webpki::Error::CertExpired { not_after, .. }) => not_after.as_secs(),
        _ => 0,
    }
}

/// Nobody is trusted, so it always fails; but time is looked at first.
fn verify_at(leaf: &EndEntityCert<'_>, unix_s: u64) -> Result<(), webpki::Error> {
    let now = UnixTime::since_unix_epoch(Duration::from_secs(unix_s));
    let usage = KeyUsage::server_auth();
    leaf.verify_for_usage(
        webpki::ALL_VERIFICATION_ALGS,
        &[],
        &[],
        now,
        usage,
        None,
        None,
    )
    .map(drop)
}

/// What is wrong with a PEM file, without a byte of it: the error itself quotes lines, and a key
/// that has lost its line ends is one of them.
fn complaint(error: &pem::Error) -> &'static str {
    match error {
        pem::Error::MissingSectionEnd { .. } => "a BEGIN line without its END line",
        pem::Error::IllegalSectionStart { .. } => "a BEGIN line that does not end in -----",
        pem::Error::Base64Decode(_) => "what stands between BEGIN and END is not base64",
        pem::Error::NoItemsFound => "there is none",
        _ => "it cannot be read",
    }
}

/// The day, in UTC.
fn day(unix_s: u64) -> String {
    let text = Utc(unix_s.saturating_mul(1000)).to_string();
    text.split('T').next().unwrap_or_default().to_owned()
}
