//! The certificate of the public listeners, from files to what a TLS session needs.
//!
//! Owns: what the two files must be like, and which TLS is spoken: 1.2 and 1.3, HTTP/1.1 only, with
//! tickets, so that clients that come back all at once cost no signature each.
//! Never: puts a byte of the key into an error or a warning.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::crypto::ring::{Ticketer, default_provider};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage};

use super::config::ConfigError;
use super::secret::{self, refusal};

const CERT: &str = "--tls-cert";
const KEY: &str = "--tls-key";

/// Reads the files of `--tls-cert` and `--tls-key`. Adds a warning when others can read the key, and
/// when the certificate is not valid at `unix_ms`.
///
/// # Errors
/// When a file cannot be read or holds no certificate or key, or when they do not fit together.
pub fn read(
    cert: &Path,
    key: &Path,
    unix_ms: u64,
    warnings: &mut Vec<String>,
) -> Result<Arc<ServerConfig>, ConfigError> {
    // Everybody may read a certificate.
    let bytes = secret::read(CERT, cert, &mut Vec::new())?;
    let chain = CertificateDer::pem_slice_iter(bytes.expose())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| refusal(CERT, cert, format!("must be certificates in PEM: {error}")))?;
    let Some(leaf) = chain.first() else {
        let rule = "must hold a certificate in PEM, and those that it was signed with behind it";
        return Err(refusal(CERT, cert, rule));
    };
    let leaf = leaf.clone();
    let bytes = secret::read(KEY, key, warnings)?;
    let key_der = PrivateKeyDer::from_pem_slice(bytes.expose())
        .map_err(|error| refusal(KEY, key, format!("must hold a private key in PEM: {error}")))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| {
            builder
                .with_no_client_auth()
                .with_single_cert(chain, key_der)
        })
        .map_err(|error| {
            let rule = format!("must belong to the certificate of {CERT}: {error}");
            refusal(KEY, key, rule)
        })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    if let Ok(ticketer) = Ticketer::new() {
        config.ticketer = ticketer;
    }
    warnings
        .extend(validity_warning(&leaf, unix_ms).map(|what| format!("{CERT} is {cert:?}: {what}")));
    Ok(Arc::new(config))
}

/// What is wrong with the time that the certificate is for.
fn validity_warning(leaf: &CertificateDer<'_>, unix_ms: u64) -> Option<&'static str> {
    let now = UnixTime::since_unix_epoch(Duration::from_millis(unix_ms));
    let usage = KeyUsage::server_auth();
    // Nobody is trusted, so it always fails; but time is looked at first.
    let verified = EndEntityCert::try_from(leaf).and_then(|certificate| {
        certificate
            .verify_for_usage(
                webpki::ALL_VERIFICATION_ALGS,
                &[],
                &[],
                now,
                usage,
                None,
                None,
            )
            .map(drop)
    });
    match verified {
        Err(webpki::Error::CertExpired { .. }) => Some("the certificate has expired"),
        Err(webpki::Error::CertNotValidYet { .. }) => Some("the certificate is not valid yet"),
        _ => None,
    }
}
