//! Tunnels: names and keys under which a gateway of the user's own would be reached. This server has no relay for them.

use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    Time,
    decode::{Decoded, Object},
    fields::names,
    id::{TunnelCertificateId, TunnelId, TunnelTokenId},
};

/// Most characters of a name.
pub const MAX_NAME: usize = 255;
/// Most bytes of a certificate, as PEM.
pub const MAX_CERTIFICATE_BYTES: usize = 8 * 1024;
/// Most certificates of a tunnel that are not archived.
pub const MAX_CERTIFICATES: usize = 2;
/// Most characters of the reason for a rotation.
pub const MAX_REASON: usize = 1024;

/// A tunnel.
#[derive(Debug, Serialize)]
pub struct Tunnel {
    /// Its id.
    pub id: TunnelId,
    /// Always `tunnel`.
    pub r#type: &'static str,
    /// A name for people.
    pub display_name: Option<String>,
    /// The host name under which its servers would be reached. It ends in `.invalid`, which no resolver answers for, and
    /// is never given again.
    pub domain: String,
    /// When it was created.
    pub created_at: Time,
    /// When it was archived.
    pub archived_at: Option<Time>,
}

/// The token of a tunnel.
#[derive(Serialize)]
pub struct TunnelToken {
    /// The id of this token: another one has another.
    pub id: TunnelTokenId,
    /// The token.
    pub tunnel_token: String,
    /// Always `tunnel_token`.
    pub r#type: &'static str,
}

/// A certificate of a tunnel.
#[derive(Debug, Serialize)]
pub struct TunnelCertificate {
    /// Its id.
    pub id: TunnelCertificateId,
    /// Always `tunnel_certificate`.
    pub r#type: &'static str,
    /// The tunnel.
    pub tunnel_id: TunnelId,
    /// The SHA-256 of its DER encoding, in hexadecimal.
    pub fingerprint: String,
    /// When it expires, if it does.
    pub expires_at: Option<Time>,
    /// When it was registered.
    pub created_at: Time,
    /// When it was archived.
    pub archived_at: Option<Time>,
}

names! {
    /// Whether anything comes through a tunnel.
    #[derive(JsonSchema)]
    TunnelState {
        /// Nothing does: this server has no relay.
        "no_relay" => NoRelay,
        /// Nothing will.
        "archived" => Archived,
    }
}

/// A tunnel, and what has become of it.
#[derive(Debug, Serialize, JsonSchema)]
pub struct TunnelWithStatus {
    /// The tunnel.
    #[serde(flatten)]
    #[schemars(skip)]
    pub tunnel: Tunnel,
    /// Whether anything comes through it.
    pub status: TunnelStatus,
    /// The token that counts; null once the tunnel is archived.
    pub token: Option<TokenRecord>,
}

/// Whether anything comes through a tunnel, and why not.
#[derive(Debug, Serialize, JsonSchema)]
pub struct TunnelStatus {
    /// The name of the state.
    pub r#type: TunnelState,
    /// The same for people.
    pub message: &'static str,
}

/// What is known of a token beside the token itself.
#[derive(Debug, Serialize, JsonSchema)]
pub struct TokenRecord {
    /// Its id.
    pub id: TunnelTokenId,
    /// When it was made.
    pub created_at: Time,
    /// Why it took the place of another one, as its caller said.
    pub reason: Option<String>,
}

impl TunnelWithStatus {
    /// What has become of `tunnel`.
    pub fn new(tunnel: Tunnel, token: Option<TokenRecord>) -> Self {
        let (r#type, message) = if tunnel.archived_at.is_some() {
            (TunnelState::Archived, "the tunnel is archived: its host name is retired and its token is invalid")
        } else {
            (
                TunnelState::NoRelay,
                "this server has no relay: no gateway can connect with the token, and MCP servers below the host name are \
                 not reached",
            )
        };
        Self { tunnel, status: TunnelStatus { r#type, message }, token }
    }
}

/// Reads a request that creates a tunnel: its name.
pub fn read_create(o: &mut Object<'_>) -> Decoded<Option<String>> {
    o.kept("display_name", |n| n.text(1, MAX_NAME))
}

/// Reads a request that rotates a token: the reason.
pub fn read_rotation(o: &mut Object<'_>) -> Decoded<Option<String>> {
    o.kept("reason", |n| n.text(0, MAX_REASON))
}

/// Reads a request that registers a certificate: its PEM text, unread.
pub fn read_certificate(o: &mut Object<'_>) -> Decoded<String> {
    let node = o.required("ca_certificate_pem")?;
    let text = node.text(1, MAX_CERTIFICATE_BYTES)?;
    if text.len() > MAX_CERTIFICATE_BYTES {
        return Err(node.invalid(format_args!("value must be no more than {MAX_CERTIFICATE_BYTES} bytes")));
    }
    Ok(text)
}
