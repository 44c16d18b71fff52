//! The egress log of a session: what its sandbox connected to. It is Rota's own.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Time,
    fields::names,
    id::{EgressId, SessionId},
};

/// A credential that was put into requests of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EgressCredential {
    /// Its id; of a repository's token that of the repository among the session's resources.
    pub credential_id: String,
    /// How often it was put in.
    pub times: i64,
}

/// A connection that a sandbox made to the outside, or tried to make.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct EgressConnection {
    /// Its id.
    pub id: EgressId,
    /// Always `egress_connection`.
    pub r#type: &'static str,
    /// The session whose sandbox it was.
    pub session_id: SessionId,
    /// The host by the name that was asked for, or the address where none was.
    pub host: String,
    /// The port.
    pub port: i64,
    /// What became of it.
    pub outcome: EgressOutcome,
    /// Why it was refused or failed; null where it was allowed.
    pub reason: Option<EgressReason>,
    /// Bytes that the sandbox received.
    pub bytes_in: i64,
    /// Bytes that the sandbox sent.
    pub bytes_out: i64,
    /// The credentials that were put into requests on it. Their values are in no log.
    pub credentials: Vec<EgressCredential>,
    /// When it began.
    pub started_at: Time,
    /// How long it lasted, in milliseconds. Null while it is open, and for ever where the server was ended before it was.
    pub duration_ms: Option<i64>,
}

names! {
    /// What became of a connection.
    #[derive(JsonSchema)]
    EgressOutcome {
        /// It was made.
        "allowed" => Allowed,
        /// Nothing was sent to the host, or no more than what was refused later.
        "refused" => Refused,
        /// It was allowed and could not be made.
        "failed" => Failed,
    }
}

names! {
    /// Why a connection was refused or failed.
    #[derive(JsonSchema, Hash)]
    EgressReason {
        /// The environment's network is limited and does not allow the host.
        "host_not_allowed" => HostNotAllowed,
        /// The host is, or resolves to, an address that is private, local, the machine's own or special in another way.
        "private_address" => PrivateAddress,
        /// An address of the gate's own that stands for no name any more: the name is to be asked for again.
        "name_forgotten" => NameForgotten,
        /// The name in the request (Host, or SNI of TLS) is not the one that was asked for, or there is none.
        "names_disagree" => NamesDisagree,
        /// The name that TLS is opened for is encrypted, so nobody can tell whether it is allowed.
        "name_encrypted" => NameEncrypted,
        /// What was sent is not the protocol of the port.
        "wrong_protocol" => WrongProtocol,
        /// A request to a proxy: there is none.
        "proxy_request" => ProxyRequest,
        /// The session has moved as many bytes as it may.
        "bytes_used_up" => BytesUsedUp,
        /// A credential for the host could not be read, or its value cannot stand in a header.
        "credential_unusable" => CredentialUnusable,
        /// The certificate of the host is not one that this server trusts. Only connections that are opened for a credential are
        /// checked for that; of the others it is the program's affair.
        "not_trusted" => NotTrusted,
        /// The program did not take the certificate that the gate shows where it opens a connection for a credential.
        "certificate_refused" => CertificateRefused,
        /// The host's answer is compressed in a way that was not asked for and that nobody can look into.
        "unreadable_answer" => UnreadableAnswer,
        /// The name cannot be resolved.
        "not_resolved" => NotResolved,
        /// The host does not take the connection, or broke it.
        "not_connected" => NotConnected,
        /// Nothing came, or went, for too long.
        "timed_out" => TimedOut,
    }
}

impl EgressReason {
    /// What becomes of a connection for this reason.
    pub fn outcome(self) -> EgressOutcome {
        match self {
            Self::CredentialUnusable
            | Self::NotTrusted
            | Self::CertificateRefused
            | Self::UnreadableAnswer
            | Self::NotResolved
            | Self::NotConnected
            | Self::TimedOut => EgressOutcome::Failed,
            _ => EgressOutcome::Refused,
        }
    }
}
