//! Texts that are shown to nobody.

use std::fmt;

use zeroize::Zeroizing;

use crate::decode::{Decoded, Node};

/// Most characters of a secret: a token, a client's secret, the value of a variable.
pub const MAX_SECRET: usize = 16_384;

/// A text that does not print and is wiped when it is dropped. It is read from requests and never written to an answer.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Keeps `text` from now on.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The text, for whoever it is meant for.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Reads a secret of 1 to [`MAX_SECRET`] characters.
    ///
    /// # Errors
    /// When it is none. The message does not show it.
    pub fn decode(node: &Node<'_>) -> Decoded<Self> {
        node.text(1, MAX_SECRET).map(Self::new)
    }

    /// The same of a token that is sent in a header, which can hold no control characters.
    ///
    /// # Errors
    /// When it is none. The message does not show it.
    pub fn decode_token(node: &Node<'_>) -> Decoded<Self> {
        let token = Self::decode(node)?;
        if token.reveal().chars().any(char::is_control) {
            return Err(node.invalid("must not contain line breaks or other control characters"));
        }
        Ok(token)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_does_not_print() {
        assert_eq!(format!("{:?}", Secret::new("hush".to_owned())), "Secret(..)");
    }
}
