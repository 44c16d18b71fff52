//! Pure: why a repository could not be cloned, by what git says of it.

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD};
use rota_api::{event::SessionErrorType, secret::Secret};

/// Why a repository could not be cloned. The texts complete "the repository could not be cloned: " and name nothing of this
/// machine's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The host did not take the token.
    Authentication,
    /// The host refused access.
    Forbidden,
    /// The host has no such repository.
    NotFound,
    /// What is to be checked out is not there.
    Checkout(String),
    /// The host gives no commit by its id.
    NotAdvertised,
    /// Something else.
    Clone {
        /// What.
        reason: String,
        /// It may be gone a moment later.
        is_passing: bool,
    },
}

impl Failure {
    /// A failure that stays until somebody changes something.
    pub(super) fn clone(reason: impl fmt::Display) -> Self {
        Self::Clone { reason: reason.to_string(), is_passing: false }
    }

    /// One that may be gone a moment later.
    pub(super) fn passing(reason: impl fmt::Display) -> Self {
        Self::Clone { reason: reason.to_string(), is_passing: true }
    }

    /// It took longer than `time`.
    pub(crate) fn too_slow(time: std::time::Duration) -> Self {
        Self::clone(format_args!("it was not there within {} seconds", time.as_secs()))
    }

    /// A fault of this server, which only its log names.
    pub(super) fn of_this_server(error: impl fmt::Display) -> Self {
        tracing::error!(%error, "a repository could not be cloned");
        Self::clone("a fault of the server, whose log says more")
    }

    /// Whether it may be gone a moment later.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Clone { is_passing: true, .. })
    }

    /// What clients tell it by.
    pub fn kind(&self) -> SessionErrorType {
        match self {
            Self::Authentication => SessionErrorType::RepositoryAuthenticationError,
            Self::Forbidden => SessionErrorType::RepositoryForbiddenError,
            Self::NotFound => SessionErrorType::RepositoryNotFoundError,
            Self::Checkout(_) => SessionErrorType::RepositoryCheckoutError,
            Self::NotAdvertised | Self::Clone { .. } => SessionErrorType::RepositoryCloneError,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Authentication => f.write_str("its host did not take the `authorization_token`; replace it"),
            Self::Forbidden => {
                f.write_str("its host refused access; the `authorization_token` needs the right to read it")
            }
            Self::NotFound => f.write_str(
                "its host has none there, or none that the `authorization_token` may know of; check its `url`",
            ),
            Self::Checkout(reason) | Self::Clone { reason, .. } => f.write_str(reason),
            Self::NotAdvertised => f.write_str("its host gives no commit by its id"),
        }
    }
}

/// Reads what git complained about: the lines that it says itself, and none that it passes on from the host.
pub(super) fn read(complained: &str) -> Failure {
    let own: Vec<&str> = complained.lines().filter(|line| is_gits_own(line)).collect();
    let says = |words: &str| own.iter().any(|line| line.contains(words));
    if let Some(status) = own.iter().find_map(|line| status(line)) {
        return of_status(status);
    }
    if says("Authentication failed for") || says("could not read Username for") || says("could not read Password for") {
        return Failure::Authentication;
    }
    if own.iter().any(|line| line.starts_with("fatal: repository '") && line.ends_with("' not found")) {
        return Failure::NotFound;
    }
    if says("does not allow request for unadvertised object") {
        return Failure::NotAdvertised;
    }
    if says("couldn't find remote ref") || says("upload-pack: not our ref") {
        return Failure::Checkout("what is to be checked out is not there".to_owned());
    }
    if says("certificate") || says("SSL") || says("TLS handshake") {
        return Failure::clone("the certificate of its host is not trusted by this server");
    }
    if says("invalid path '") {
        return Failure::clone("it has a file at a path that git does not check out");
    }
    if says("No space left on device") {
        return Failure::passing("the server has no room for it");
    }
    if says("Failed to connect") || says("Couldn't connect") || says("Connection refused") {
        return Failure::passing("its host cannot be reached");
    }
    let cut = [
        "RPC failed",
        "early EOF",
        "unexpected disconnect",
        "hung up",
        "Operation too slow",
        "Recv failure",
        "recv error",
        "Empty reply",
        "timed out",
        "unable to access '",
    ];
    if cut.iter().any(|words| says(words)) {
        return Failure::passing("the connection to its host was cut off");
    }
    Failure::clone("git did not take what its host sent")
}

fn is_gits_own(line: &str) -> bool {
    line.starts_with("fatal: ") || line.starts_with("error: ") || line.starts_with("fetch-pack: ")
}

/// `… The requested URL returned error: 403`, and `RPC failed; HTTP 502 curl 22 …` where the pack was asked for.
fn status(line: &str) -> Option<u16> {
    let after = |words: &str| line.split_once(words).map(|(_, rest)| rest);
    let rest = after("The requested URL returned error: ").or_else(|| after("RPC failed; HTTP "))?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn of_status(status: u16) -> Failure {
    match status {
        401 => Failure::Authentication,
        403 => Failure::Forbidden,
        404 | 410 => Failure::NotFound,
        300..=399 => {
            Failure::clone("its host leads elsewhere, and redirects are not followed; give the URL to which it leads")
        }
        408 | 425 | 429 | 500..=599 => Failure::passing(format_args!("its host answered with status {status}")),
        _ => Failure::clone(format_args!("its host answered with status {status}")),
    }
}

/// What git complained about for the log, without the token in any form in which a host could send it back.
pub(super) fn without(complained: &str, token: &Secret) -> String {
    let token = token.reveal();
    let coded = STANDARD.encode(format!("x-access-token:{token}"));
    let own: Vec<&str> = complained.lines().filter(|line| is_gits_own(line)).collect();
    own.join("; ").replace(token, "…").replace(&coded, "…").chars().take(1000).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_git_says_has_a_kind() {
        let access = |what: &str| format!("fatal: unable to access 'https://git.example/o/r.git/': {what}\n");
        let kind = |complained: &str| {
            let failure = read(complained);
            (failure.kind(), failure.is_passing())
        };
        let clone = SessionErrorType::RepositoryCloneError;
        for (complained, expected) in [
            (access("The requested URL returned error: 403"), (SessionErrorType::RepositoryForbiddenError, false)),
            (access("The requested URL returned error: 302"), (clone, false)),
            (access("The requested URL returned error: 418"), (clone, false)),
            (access("The requested URL returned error: 503"), (clone, true)),
            (access("The requested URL returned error: 429"), (clone, true)),
            (access("Failed to connect to git.example port 443 after 0 ms: Couldn't connect to server"), (clone, true)),
            (access("server certificate verification failed. CAfile: x CRLfile: none"), (clone, false)),
            (access("GnuTLS recv error (-110): The TLS connection was non-properly terminated."), (clone, true)),
            (
                "fatal: Authentication failed for 'https://git.example/o/r.git/'".to_owned(),
                (SessionErrorType::RepositoryAuthenticationError, false),
            ),
            (
                "fatal: could not read Username for 'https://git.example': terminal prompts disabled".to_owned(),
                (SessionErrorType::RepositoryAuthenticationError, false),
            ),
            (
                "remote: not here\nfatal: repository 'https://git.example/o/r.git/' not found".to_owned(),
                (SessionErrorType::RepositoryNotFoundError, false),
            ),
            (
                "fatal: couldn't find remote ref refs/heads/x".to_owned(),
                (SessionErrorType::RepositoryCheckoutError, false),
            ),
            (
                "fatal: remote error: upload-pack: not our ref 1111".to_owned(),
                (SessionErrorType::RepositoryCheckoutError, false),
            ),
            (
                "error: RPC failed; curl 18 transfer closed\nfetch-pack: unexpected disconnect while reading sideband packet\n\
                 fatal: early EOF\nfatal: fetch-pack: invalid index-pack output"
                    .to_owned(),
                (clone, true),
            ),
            ("error: RPC failed; HTTP 502 curl 22 The requested URL returned error: 502".to_owned(), (clone, true)),
            ("error: invalid path '.git/hooks/post-checkout'".to_owned(), (clone, false)),
            ("error: inflate: data stream error (incorrect header check)".to_owned(), (clone, false)),
            (String::new(), (clone, false)),
            // What a host says is not what git says.
            ("remote: fatal: Authentication failed for 'x'\nremote: The requested URL returned error: 403".to_owned(), (clone, false)),
        ] {
            assert_eq!(kind(&complained), expected, "{complained}");
        }
        let unadvertised = "error: Server does not allow request for unadvertised object 1111";
        assert_eq!(read(unadvertised), Failure::NotAdvertised);
    }

    #[test]
    fn what_the_log_gets_has_no_token() {
        let token = Secret::new("hush-hush".to_owned());
        let coded = STANDARD.encode("x-access-token:hush-hush");
        let said = without(&format!("remote: hush-hush\nfatal: bad hush-hush and {coded}\n"), &token);
        assert_eq!(said, "fatal: bad … and …");
    }
}
