//! How long something is as JSON, without writing it.

use std::io;

use serde::Serialize;

/// The bytes of `value` as JSON.
///
/// # Errors
/// When it cannot be JSON.
pub fn json_size(value: &impl Serialize) -> serde_json::Result<usize> {
    let mut counted = Counted(0);
    serde_json::to_writer(&mut counted, value)?;
    Ok(counted.0)
}

struct Counted(usize);

impl io::Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_size_is_that_of_the_text() {
        let value = json!({"a": ["\"", 1.5, null], "\u{e9}": "x"});
        assert_eq!(json_size(&value).unwrap(), value.to_string().len());
    }
}
