//! Pure: certificates as a keystore of Java, which reads no PEM.
//!
//! The format is that of `java.security.KeyStore` by the name of JKS, version 2. Certificates that are trusted are not encrypted in it.

use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY};

/// What a keystore begins with.
const MAGIC: u32 = 0xfeed_feed;
const VERSION: u32 = 2;
/// An entry that is a certificate.
const CERTIFICATE: u32 = 2;
/// The usual password. It protects nothing: who is given none does not check the digest at the end.
const PASSWORD: &str = "changeit";
/// What stands between password and content in that digest.
const SALT: &[u8] = b"Mighty Aphrodite";

/// A keystore in which these certificates are trusted.
pub(super) fn of(certificates: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for number in [MAGIC, VERSION, certificates.len() as u32] {
        bytes.extend(number.to_be_bytes());
    }
    for (i, certificate) in certificates.iter().enumerate() {
        bytes.extend(CERTIFICATE.to_be_bytes());
        text(&mut bytes, &format!("authority{i}"));
        bytes.extend(0_u64.to_be_bytes()); // When it was added.
        text(&mut bytes, "X.509");
        bytes.extend((certificate.len() as u32).to_be_bytes());
        bytes.extend_from_slice(certificate);
    }
    let mut digest = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    digest.update(&PASSWORD.encode_utf16().flat_map(u16::to_be_bytes).collect::<Vec<u8>>());
    digest.update(SALT);
    digest.update(&bytes);
    bytes.extend_from_slice(digest.finish().as_ref());
    bytes
}

fn text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u16).to_be_bytes());
    bytes.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_keystore_is_entries_between_a_head_and_a_digest() {
        let bytes = of(&[b"one", b"other"]);
        assert_eq!(bytes[..12], [0xfe, 0xed, 0xfe, 0xed, 0, 0, 0, 2, 0, 0, 0, 2]);
        assert_eq!(bytes.len(), 12 + 2 * (4 + 2 + 10 + 8 + 2 + 5 + 4) + 3 + 5 + 20);
        assert_ne!(of(&[b"one"])[12..], of(&[b"two"])[12..]);
    }
}
