//! The secrets of a credential as its row holds them: one sealed text.

use rota_api::{credential::Secrets, secret::Secret};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{DataKey, Owner};
use crate::error::Result;

#[derive(Serialize)]
struct Written<'a> {
    token: Option<&'a str>,
    refresh_token: Option<&'a str>,
    client_secret: Option<&'a str>,
}

#[derive(Deserialize)]
struct Read {
    token: Option<String>,
    refresh_token: Option<String>,
    client_secret: Option<String>,
}

fn owner(id: &str) -> Owner<'_> {
    Owner { kind: "credential", id }
}

/// Seals the secrets of the credential `id`.
pub fn seal(key: &DataKey, id: &str, secrets: &Secrets) -> Result<String> {
    let written = Written {
        token: secrets.token.as_ref().map(Secret::reveal),
        refresh_token: secrets.refresh_token.as_ref().map(Secret::reveal),
        client_secret: secrets.client_secret.as_ref().map(Secret::reveal),
    };
    // Room for every character to be escaped, so that the text is never moved and left behind.
    let length: usize = secrets.all().map(|secret| secret.reveal().len()).sum();
    let mut text = Zeroizing::new(Vec::with_capacity(length * 6 + 128));
    serde_json::to_writer(&mut *text, &written)?;
    key.seal(owner(id), &text)
}

/// Opens them.
pub fn open(key: &DataKey, id: &str, sealed: &str) -> Result<Secrets> {
    let text = key.open(owner(id), sealed)?;
    let Read { token, refresh_token, client_secret } = serde_json::from_slice(&text)?;
    let [token, refresh_token, client_secret] = [token, refresh_token, client_secret].map(|text| text.map(Secret::new));
    Ok(Secrets { token, refresh_token, client_secret })
}
