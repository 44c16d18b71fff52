//! The credentials of a session for MCP servers.

use reqwest::{Client, Url};
use rota_api::{
    credential::{RefreshStatus, Secrets},
    id::{CredentialId, SessionId, VaultId, WorkspaceId},
};

use super::refresh;
use crate::{
    app::App,
    db::{Val, vals},
    error::Result,
    vault::{self, sealed},
};

/// A credential for an MCP server, as it was when it was looked for.
#[derive(Debug)]
pub struct ForServer {
    /// The credential.
    pub id: CredentialId,
    /// Its vault.
    pub vault: VaultId,
    /// Its secrets, with the token.
    pub secrets: Secrets,
}

/// The credential of a session for the MCP server at `url`: that of the first of its vaults which has one.
pub async fn for_server(
    app: &App,
    workspace: &WorkspaceId,
    session: &SessionId,
    url: &Url,
) -> Result<Option<ForServer>> {
    let (of, session) = (workspace.clone(), session.clone());
    let match_key = format!("server {}", vault::matching_url(url));
    let found = app.db.read(move |tx| {
        let sql = "SELECT vault_ids FROM sessions WHERE workspace_id = $1 AND id = $2";
        let vaults: Vec<String> = tx.one(sql, vals![&of, &session], |row| row.json(0))?.unwrap_or_default();
        if vaults.is_empty() {
            return Ok(None);
        }
        let places: Vec<String> = (3..vaults.len() + 3).map(|place| format!("${place}")).collect();
        let sql = format!(
            "SELECT id, vault_id, secrets FROM credentials WHERE workspace_id = $1 AND match_key = $2 AND vault_id IN ({})
             AND archived_at IS NULL AND secrets IS NOT NULL",
            places.join(", ")
        );
        let mut params = vec![Val::from(&of), Val::from(&match_key)];
        params.extend(vaults.iter().map(Val::from));
        let found: Vec<(CredentialId, String, String)> =
            tx.all(&sql, &params, |row| Ok((row.id(0)?, row.text(1)?, row.text(2)?)))?;
        let place = |(_, vault, _): &(CredentialId, String, String)| vaults.iter().position(|own| own == vault);
        Ok(found.into_iter().min_by_key(place))
    });
    let Some((id, vault, sealed)) = found.await? else { return Ok(None) };
    let key = app.vault.key(&app.db, workspace).await?;
    let secrets = sealed::open(&key, id.as_ref(), &sealed)?;
    Ok(Some(ForServer { id, vault: rota_api::id::Id::trusted(vault), secrets }))
}

/// Has the token of a credential renewed which its server did not take. Whether there is another one now.
pub async fn renewed(app: &App, client: &Client, workspace: &WorkspaceId, refused: &ForServer) -> Result<bool> {
    let key = app.vault.key(&app.db, workspace).await?;
    let attempt = refresh::another(app, client, &key, &refused.id, &refused.secrets).await?;
    Ok(attempt.is_some_and(|attempt| attempt.status == RefreshStatus::Succeeded))
}
