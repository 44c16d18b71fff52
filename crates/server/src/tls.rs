//! The TLS configuration of outgoing connections: rustls with ring, trusting what the machine trusts.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};
use rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::CertificateDer};

/// A client configuration for HTTP/2 and HTTP/1.1.
///
/// # Errors
/// When the built-in cryptography has none of the protocol versions; that does not happen.
///
/// The cryptography is named here and not installed for the whole process, so a program that embeds the server keeps
/// its own choice.
pub fn client_config() -> Result<ClientConfig, rustls::Error> {
    client_config_with(roots())
}

/// The same for who trusts `roots`.
///
/// # Errors
/// When the built-in cryptography has none of the protocol versions; that does not happen.
pub fn client_config_with(roots: impl Into<Arc<RootCertStore>>) -> Result<ClientConfig, rustls::Error> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// The roots that the machine trusts, because that is where an operator adds a private authority; Mozilla's, built in,
/// on a machine that has none, as a slim container image without `ca-certificates`.
pub fn roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let machine = rustls_native_certs::load_native_certs();
    for error in &machine.errors {
        tracing::warn!(%error, "a certificate store of this machine cannot be read");
    }
    roots.add_parsable_certificates(machine.certs);
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    roots
}

/// The roots that the machine trusts as a text in PEM, for programs that have another idea of where they are. Empty on a machine
/// that has none.
pub fn authorities() -> String {
    machine().iter().map(|certificate| pem(certificate)).collect()
}

/// The roots that the machine trusts. None on a machine that has none.
pub fn machine() -> Vec<CertificateDer<'static>> {
    rustls_native_certs::load_native_certs().certs
}

/// A certificate as a text in PEM.
pub fn pem(certificate: &[u8]) -> String {
    let coded = STANDARD.encode(certificate);
    let mut text = "-----BEGIN CERTIFICATE-----\n".to_owned();
    let mut rest = coded.as_str();
    while !rest.is_empty() {
        let (line, further) = rest.split_at(rest.len().min(64));
        text.push_str(line);
        text.push('\n');
        rest = further;
    }
    text + "-----END CERTIFICATE-----\n"
}
