//! Digests as texts.

/// The digits of `digest`, as stores and the API have them.
pub fn digits(digest: &[u8]) -> String {
    let digit = |four_bits: u8| char::from(b"0123456789abcdef"[usize::from(four_bits)]);
    digest.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn each_byte_has_two_digits() {
        assert_eq!(super::digits(&[0x00, 0x0f, 0xa5, 0xff]), "000fa5ff");
        assert_eq!(super::digits(&[]), "");
    }
}
