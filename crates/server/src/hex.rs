//! Digests as texts.

use std::fmt::Write;

/// The digits of `digest`, as stores and the API have them.
pub fn digits(digest: &[u8]) -> String {
    digest.iter().fold(String::with_capacity(2 * digest.len()), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string does not fail");
        text
    })
}
