//! Standard Webhooks signatures (<https://www.standardwebhooks.com>), version 1: HMAC-SHA256.

use base64::{Engine, engine::general_purpose::STANDARD};
use ring::hmac;

/// The value of `webhook-signature` for the event `id` sent at `timestamp`, in seconds since the epoch.
pub(super) fn signature(key: &[u8], id: &str, timestamp: i64, payload: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    let tag = hmac::sign(&key, format!("{id}.{timestamp}.{payload}").as_bytes());
    format!("v1,{}", STANDARD.encode(tag))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_those_of_another_implementation() {
        let key: Vec<u8> = (0..32).collect();
        // Computed with Python's hmac and base64 modules.
        for (id, timestamp, payload, signed) in [
            ("whe_1", 1_772_438_400, r#"{"type":"event"}"#, "v1,XgAswG/YjhPbF9b/p3TYlCI07gf8ZX35Ib+ZsgFk2MA="),
            ("whe_2", 0, "", "v1,O7Gzto8H7I6ovs6gXUnNzaaNkPnMW9xbnOXOU1K4YmM="),
        ] {
            assert_eq!(signature(&key, id, timestamp, payload), signed);
        }
    }
}
