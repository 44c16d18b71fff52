//! The authority of one sandbox: certificates for the hosts whose connections the gate opens. Its key is in memory only.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, date_time_ymd,
};
use rustls::{
    ServerConfig,
    crypto::ring::{default_provider, sign::any_ecdsa_type},
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
    server::ResolvesServerCert,
    sign::CertifiedKey,
};

use crate::{
    error::{Error, Result},
    limits::EGRESS_LEAVES,
};

/// What certificates are issued by in one sandbox, and nowhere else.
pub(super) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    leaves: Mutex<HashMap<String, Arc<CertifiedKey>>>,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authority(..)")
    }
}

/// The name of whoever issues. The validity means nothing: what ends an authority is that its key is gone.
fn params(name: &str, hosts: Vec<String>) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(hosts).map_err(Error::internal)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    (params.not_before, params.not_after) = (date_time_ymd(2024, 1, 1), date_time_ymd(2049, 12, 31));
    Ok(params)
}

fn key() -> Result<KeyPair> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(Error::internal)
}

impl Authority {
    /// A new one.
    pub(super) fn new() -> Result<Self> {
        let mut params = params("Rota: this session only", Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, key()?).map_err(Error::internal)?;
        Ok(Self { issuer, leaves: Mutex::default() })
    }

    /// Its certificate.
    pub(super) fn certificate(&self) -> &CertificateDer<'static> {
        self.issuer.der()
    }

    /// What a server of `host` is configured with that speaks one of `protocols`.
    pub(super) fn server(&self, host: &str, protocols: Vec<Vec<u8>>) -> Result<Arc<ServerConfig>> {
        let leaf = Arc::new(Leaf(self.leaf(host)?));
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(Error::internal)?;
        let mut config = config.with_no_client_auth().with_cert_resolver(leaf);
        config.alpn_protocols = protocols;
        Ok(Arc::new(config))
    }

    fn leaf(&self, host: &str) -> Result<Arc<CertifiedKey>> {
        if let Some(known) = self.leaves().get(host) {
            return Ok(known.clone());
        }
        // A common name has 64 characters at most; the name that counts is the other one.
        let mut params = params("a host of this session", vec![host.to_owned()])?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let key = key()?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(Error::internal)?;
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let signing = any_ecdsa_type(&der).map_err(Error::internal)?;
        let leaf = Arc::new(CertifiedKey::new(vec![certificate.der().clone()], signing));
        let mut leaves = self.leaves();
        if leaves.len() >= EGRESS_LEAVES {
            leaves.clear();
        }
        leaves.insert(host.to_owned(), leaf.clone());
        Ok(leaf)
    }

    fn leaves(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<CertifiedKey>>> {
        self.leaves.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The one certificate of a server.
#[derive(Debug)]
struct Leaf(Arc<CertifiedKey>);

impl ResolvesServerCert for Leaf {
    fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_kept_within_bounds_and_two_authorities_share_none() {
        let (one, other) = (Authority::new().unwrap(), Authority::new().unwrap());
        assert_ne!(one.certificate(), other.certificate());
        let leaf = one.leaf("a.example").unwrap();
        assert!(Arc::ptr_eq(&leaf, &one.leaf("a.example").unwrap()));
        assert_ne!(leaf.cert, other.leaf("a.example").unwrap().cert);
        for i in 0..2 * EGRESS_LEAVES {
            one.leaf(&format!("h{i}.example")).unwrap();
            assert!(one.leaves().len() <= EGRESS_LEAVES);
        }
    }
}
