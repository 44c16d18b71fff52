//! Secrets that the sandbox of a session uses without seeing them: variables of its vaults, and tokens of its repositories.
//!
//! Inside, each has a placeholder: a text of its own for this session, which is a row, so that it is the same as long as the session
//! is there, on whichever server. The gate puts the secret in its place, in requests to the hosts that the secret is for.

use rota_api::{
    credential::{Auth, CredentialNetworking, EnvironmentVariable, InjectionLocation},
    environment::LimitedNetwork,
    id::{SessionId, WorkspaceId},
    repository,
    secret::Secret,
};
use zeroize::Zeroizing;

use crate::{
    db::{Tx, Val, vals},
    error::{Error, Result},
    limits::{PLACEHOLDER_LEAST, PLACEHOLDER_MOST},
    random,
    vault::{DataKey, Owner, sealed},
};

/// What every placeholder begins with.
const BEGINNING: &str = "rota_";
/// The port of HTTPS.
const PORT: u16 = 443;

/// A secret of a session, still sealed.
#[derive(Debug, Clone)]
pub struct SessionSecret {
    /// The id of the credential, or of the repository among the session's resources.
    pub id: String,
    /// What it is.
    pub purpose: Purpose,
    /// Where in a request it may stand.
    pub location: InjectionLocation,
    /// What stands for it inside; `None` before a sandbox of the session was first started with it.
    pub placeholder: Option<String>,
    sealed: String,
}

/// What a secret of a session is used for.
#[derive(Debug, Clone, PartialEq)]
pub enum Purpose {
    /// A variable of this name, for these hosts.
    Variable {
        /// The variable.
        name: String,
        /// The hosts.
        networking: CredentialNetworking,
    },
    /// The token of the repository at this URL.
    Repository {
        /// Without `.git` at the end.
        url: String,
    },
}

impl Purpose {
    /// Whether it is for a host, by its name in lower case, at a port. That the session reaches the host is another question.
    pub fn is_for(&self, host: &str, port: u16) -> bool {
        match self {
            Self::Variable { networking: CredentialNetworking::Unrestricted {}, .. } => port == PORT,
            Self::Variable { networking: CredentialNetworking::Limited { allowed_hosts }, .. } => {
                let hosts = LimitedNetwork { allowed_hosts: allowed_hosts.clone(), ..LimitedNetwork::default() };
                port == PORT && hosts.allows(host)
            }
            Self::Repository { url } => {
                let Some((own, _)) = repository::parts(url) else { return false };
                let (name, own_port) =
                    own.rsplit_once(':').map_or((own, Some(PORT)), |(name, at)| (name, at.parse().ok()));
                name.eq_ignore_ascii_case(host) && own_port == Some(port)
            }
        }
    }
}

/// Whose the token of a session's repository is.
pub fn owner_of_token(resource: &str) -> Owner<'_> {
    Owner { kind: "session_repository", id: resource }
}

impl SessionSecret {
    /// The secret.
    pub fn open(&self, key: &DataKey) -> Result<Secret> {
        match &self.purpose {
            Purpose::Variable { .. } => {
                let token = sealed::open(key, &self.id, &self.sealed)?.token;
                token.ok_or_else(|| Error::internal(format!("credential {} has no value", self.id)))
            }
            Purpose::Repository { .. } => {
                let bytes: Zeroizing<Vec<u8>> = key.open(owner_of_token(&self.id), &self.sealed)?;
                Ok(Secret::new(std::str::from_utf8(&bytes).map_err(Error::internal)?.to_owned()))
            }
        }
    }
}

/// The secrets of a session as they are now. Of several variables of one name, that of the first vault.
pub fn of_session(tx: &mut Tx<'_>, workspace: &WorkspaceId, session: &SessionId) -> Result<Vec<SessionSecret>> {
    let mut all = variables(tx, workspace, session)?;
    let sql = "SELECT resource_id, url, token FROM session_repositories
         WHERE workspace_id = $1 AND session_id = $2 ORDER BY place";
    let repositories = tx.all(sql, vals![workspace, session], |row| {
        let location = InjectionLocation { body: false, header: true };
        let purpose = Purpose::Repository { url: row.text("url")? };
        let (id, sealed) = (row.text("resource_id")?, row.text("token")?);
        Ok(SessionSecret { id, purpose, location, placeholder: None, sealed })
    });
    all.extend(repositories?);
    if all.is_empty() {
        return Ok(all);
    }
    let sql = "SELECT credential_id, placeholder FROM session_placeholders WHERE workspace_id = $1 AND session_id = $2";
    let known: Vec<(String, String)> =
        tx.all(sql, vals![workspace, session], |row| Ok((row.text(0)?, row.text(1)?)))?;
    for secret in &mut all {
        let own = known.iter().find(|(id, _)| *id == secret.id);
        secret.placeholder = own.map(|(_, placeholder)| placeholder.clone());
    }
    Ok(all)
}

fn variables(tx: &mut Tx<'_>, workspace: &WorkspaceId, session: &SessionId) -> Result<Vec<SessionSecret>> {
    let sql = "SELECT vault_ids FROM sessions WHERE workspace_id = $1 AND id = $2";
    let vaults: Vec<String> = tx.one(sql, vals![workspace, session], |row| row.json(0))?.unwrap_or_default();
    if vaults.is_empty() {
        return Ok(Vec::new());
    }
    let places: Vec<String> = (2..vaults.len() + 2).map(|place| format!("${place}")).collect();
    let sql = format!(
        "SELECT id, vault_id, auth, secrets FROM credentials WHERE workspace_id = $1 AND vault_id IN ({})
         AND archived_at IS NULL AND secrets IS NOT NULL AND match_key LIKE 'variable %' ORDER BY id",
        places.join(", ")
    );
    let mut params = vec![Val::from(workspace)];
    params.extend(vaults.iter().map(Val::from));
    let mut found: Vec<(Option<usize>, SessionSecret)> = tx
        .all(&sql, &params, |row| {
            let Auth::EnvironmentVariable(variable) = row.json("auth")? else { return Ok(None) };
            let EnvironmentVariable { secret_name: name, networking, injection_location: location } = variable;
            let vault = row.text("vault_id")?;
            let place = vaults.iter().position(|own| *own == vault);
            let (id, sealed) = (row.text("id")?, row.text("secrets")?);
            let purpose = Purpose::Variable { name, networking };
            Ok(Some((place, SessionSecret { id, purpose, location, placeholder: None, sealed })))
        })?
        .into_iter()
        .flatten()
        .collect();
    found.sort_by_key(|(place, _)| *place);
    let mut first: Vec<SessionSecret> = Vec::new();
    for (_, secret) in found {
        let has_name = |other: &SessionSecret| match (&other.purpose, &secret.purpose) {
            (Purpose::Variable { name: other, .. }, Purpose::Variable { name, .. }) => other == name,
            _ => false,
        };
        if !first.iter().any(has_name) {
            first.push(secret);
        }
    }
    Ok(first)
}

/// Gives these secrets of a session their placeholders, where they have none.
pub fn keep_placeholders(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    session: &SessionId,
    new: &[(String, String)],
) -> Result<()> {
    let sql = "SELECT 1 FROM sessions WHERE workspace_id = $1 AND id = $2";
    if tx.one(sql, vals![workspace, session], |_| Ok(()))?.is_none() {
        return Ok(());
    }
    for (id, placeholder) in new {
        tx.send(
            "INSERT INTO session_placeholders (workspace_id, session_id, credential_id, placeholder) VALUES ($1, $2, $3, $4)
             ON CONFLICT (workspace_id, session_id, credential_id) DO NOTHING",
            vals![workspace, session, id, placeholder],
        )?;
    }
    Ok(())
}

/// Forgets the placeholders of a session.
pub fn forget_of_session(tx: &mut Tx<'_>, workspace: &WorkspaceId, session: &str) -> Result<()> {
    tx.send("DELETE FROM session_placeholders WHERE workspace_id = $1 AND session_id = $2", vals![workspace, session])
}

/// A new placeholder: as long as the secret, within bounds, of letters and digits, which mean themselves in shells, JSON and URLs.
pub fn placeholder(secret: &Secret) -> Result<String> {
    let length = secret.reveal().len().clamp(PLACEHOLDER_LEAST, PLACEHOLDER_MOST);
    Ok(format!("{BEGINNING}{}", random::letters_and_digits(length - BEGINNING.len())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_for_its_hosts_at_their_port() {
        let variable = |networking| Purpose::Variable { name: "KEY".to_owned(), networking };
        let limited = |hosts: &[&str]| {
            let allowed_hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
            variable(CredentialNetworking::Limited { allowed_hosts })
        };
        let repository = |url: &str| Purpose::Repository { url: url.to_owned() };
        for (purpose, host, port, is_for) in [
            (variable(CredentialNetworking::Unrestricted {}), "any.example", 443, true),
            (variable(CredentialNetworking::Unrestricted {}), "any.example", 8443, false),
            (limited(&["api.example"]), "api.example", 443, true),
            (limited(&["API.example"]), "api.example", 443, true),
            (limited(&["api.example"]), "api.example", 80, false),
            (limited(&["api.example"]), "xapi.example", 443, false),
            (limited(&["api.example"]), "a.api.example", 443, false),
            (limited(&["*.example"]), "api.example", 443, true),
            (limited(&["*.example"]), "example", 443, false),
            (limited(&[]), "api.example", 443, false),
            (repository("https://git.example/a/b"), "git.example", 443, true),
            (repository("https://git.example/a/b"), "api.git.example", 443, false),
            (repository("https://git.example:8443/a/b"), "git.example", 8443, true),
            (repository("https://git.example:8443/a/b"), "git.example", 443, false),
        ] {
            assert_eq!(purpose.is_for(host, port), is_for, "{purpose:?} {host} {port}");
        }
    }

    #[test]
    fn a_placeholder_is_as_long_as_its_secret_within_bounds_and_is_never_the_same() {
        let of = |length: usize| placeholder(&Secret::new("x".repeat(length))).unwrap();
        for (length, wanted) in
            [(1, PLACEHOLDER_LEAST), (40, 40), (PLACEHOLDER_MOST, PLACEHOLDER_MOST), (16_384, PLACEHOLDER_MOST)]
        {
            let placeholder = of(length);
            assert_eq!(placeholder.len(), wanted);
            assert!(placeholder.starts_with(BEGINNING));
            assert!(placeholder.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'), "{placeholder}");
        }
        assert_ne!(of(40), of(40));
    }
}
