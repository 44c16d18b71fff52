//! Random texts that nobody can guess: secrets and UUIDs.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::error::{Error, Result};

/// 256 bits, as 43 characters that are safe in a URL.
pub fn secret() -> Result<String> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(Error::internal)?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// A random UUID (version 4).
pub fn uuid() -> Result<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(Error::internal)?;
    let number = u128::from_be_bytes(bytes) & !(0xf << 76) & !(0x3 << 62) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{number:032x}");
    Ok([&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-"))
}

/// So many random letters and digits, each with almost six bits.
pub fn letters_and_digits(count: usize) -> Result<String> {
    const ALL: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut text = String::with_capacity(count);
    let mut bytes = [0; 64];
    while text.len() < count {
        getrandom::fill(&mut bytes).map_err(Error::internal)?;
        // Bytes beyond the last whole multiple would make some of them likelier.
        let fair = bytes.iter().filter(|byte| **byte < 248).map(|byte| char::from(ALL[usize::from(*byte) % ALL.len()]));
        text.extend(fair.take(count - text.len()));
    }
    Ok(text)
}
