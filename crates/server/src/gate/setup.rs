//! What a new sandbox finds inside, where its session has credentials: placeholders, and whom to trust.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};
use rota_api::id::{SessionId, WorkspaceId};
use rota_sandbox::{Authorities, Setup};

use super::{Gate, Policy, authority::Authority, keystore};
use crate::{
    error::Result,
    resources::session_secrets::{self, Purpose, SessionSecret},
    tls,
};

impl Gate {
    /// What a sandbox of a session is started with. Nothing where the session has no credentials.
    pub async fn setup(&self, workspace: &WorkspaceId, session: &SessionId, policy: &Policy) -> Result<Setup> {
        let secrets = self.with_placeholders(workspace, session).await?;
        if secrets.is_empty() {
            return Ok(Setup::default());
        }
        let mut setup = Setup { environment: environment(&secrets), ..Setup::default() };
        if *policy != Policy::Off {
            let authority = Authority::new()?;
            let (machine, pem) = self.0.machine.get_or_init(|| {
                let machine = tls::machine();
                if machine.is_empty() {
                    tracing::warn!(
                        "this machine has no authorities (ca-certificates): programs in sandboxes of sessions with credentials trust no \
                         host that is not opened"
                    );
                }
                let pem = machine.iter().map(|certificate| tls::pem(certificate)).collect();
                (machine, pem)
            });
            let all: Vec<&[u8]> = machine.iter().chain([authority.certificate()]).map(|one| &one[..]).collect();
            let pem = [pem, &*tls::pem(authority.certificate())].concat();
            setup.authorities = Some(Authorities { pem, keystore: keystore::of(&all) });
            setup.companion = Some(Arc::new(authority));
        }
        Ok(setup)
    }

    /// The secrets of a session. Their placeholders are in the store before a sandbox has them.
    async fn with_placeholders(&self, workspace: &WorkspaceId, session: &SessionId) -> Result<Vec<SessionSecret>> {
        let db = &self.0.db;
        let all = async || {
            let (workspace, session) = (workspace.clone(), session.clone());
            db.read(move |tx| session_secrets::of_session(tx, &workspace, &session)).await
        };
        let secrets = all().await?;
        if secrets.iter().all(|secret| secret.placeholder.is_some()) {
            return Ok(secrets);
        }
        let key = self.0.vault.key(db, workspace).await?;
        let missing = secrets.iter().filter(|secret| secret.placeholder.is_none());
        let new: Vec<(String, String)> = missing
            .map(|secret| Ok((secret.id.clone(), session_secrets::placeholder(&secret.open(&key)?)?)))
            .collect::<Result<_>>()?;
        let (of, id) = (workspace.clone(), session.clone());
        db.write(move |tx| session_secrets::keep_placeholders(tx, &of, &id, &new)).await?;
        // Another server may have been first.
        all().await
    }
}

/// The variables of a sandbox: those of vaults, and for git what it says to the hosts of the session's repositories.
fn environment(secrets: &[SessionSecret]) -> Vec<(String, String)> {
    let (mut environment, mut settings) = (Vec::new(), Vec::new());
    for secret in secrets {
        let Some(placeholder) = &secret.placeholder else { continue };
        match &secret.purpose {
            Purpose::Variable { name, .. } => environment.push((name.clone(), placeholder.clone())),
            Purpose::Repository { url } => {
                let header =
                    format!("Authorization: Basic {}", STANDARD.encode(format!("x-access-token:{placeholder}")));
                for url in [url.clone(), format!("{url}.git")] {
                    settings.push((format!("http.{url}.extraHeader"), header.clone()));
                }
            }
        }
    }
    if !settings.is_empty() {
        environment.push(("GIT_CONFIG_COUNT".to_owned(), settings.len().to_string()));
    }
    for (i, (key, value)) in settings.into_iter().enumerate() {
        environment.push((format!("GIT_CONFIG_KEY_{i}"), key));
        environment.push((format!("GIT_CONFIG_VALUE_{i}"), value));
    }
    environment
}
