//! Pure: what a PEM text says of the authority that it holds.

use rota_api::Time;
use rustls::pki_types::pem::{PemObject, SectionKind};
use sha2::{Digest, Sha256};
use x509_cert::{Certificate, der::Decode, ext::pkix::BasicConstraints};

use crate::hex;

/// 9999-12-31T23:59:59Z: the time of certificates that do not expire (RFC 5280, 4.1.2.5).
const NEVER: u64 = 253_402_300_799;

/// A certificate of an authority.
#[derive(Debug, PartialEq, Eq)]
pub struct Authority {
    /// The SHA-256 of its DER encoding, in hexadecimal.
    pub fingerprint: String,
    /// When it expires, if it does.
    pub expires_at: Option<Time>,
}

/// Reads the one certificate of a PEM text.
///
/// # Errors
/// When there is another number of certificates, a key, or one that is no authority's; the message says which.
pub fn read(text: &str) -> Result<Authority, &'static str> {
    if text.contains("PRIVATE KEY") {
        return Err("value must hold no private key: send the certificate alone, and replace the key that was sent");
    }
    let sections = <(SectionKind, Vec<u8>)>::pem_slice_iter(text.as_bytes());
    let sections: Vec<_> = sections.collect::<Result<_, _>>().map_err(|_| "value must be PEM text")?;
    let [(SectionKind::Certificate, der)] = &sections[..] else {
        return Err("value must hold exactly one certificate, between BEGIN CERTIFICATE and END CERTIFICATE");
    };
    let certificate = Certificate::from_der(der).map_err(|_| "value must hold an X.509 certificate")?;
    let constraints = certificate.tbs_certificate.get::<BasicConstraints>();
    let is_authority = matches!(constraints, Ok(Some((_, BasicConstraints { ca: true, .. }))));
    if !is_authority {
        return Err("value must hold the certificate of an authority (basicConstraints with CA:TRUE), not of a server");
    }
    let seconds = certificate.tbs_certificate.validity.not_after.to_unix_duration().as_secs();
    let expires_at = (seconds != NEVER).then(|| Time::from_micros(seconds as i64 * 1_000_000));
    let fingerprint = hex::digits(&Sha256::digest(der));
    Ok(Authority { fingerprint, expires_at })
}
