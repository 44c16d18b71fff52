//! Tries an OAuth credential at its MCP server, and renews its token when the server does not take it.

use axum::extract::State;
use reqwest::Client;
use rota_api::{
    credential::{Auth, McpProbe, RefreshAttempt, RefreshStatus, Secrets, Validation, ValidationStatus},
    id::CredentialId,
};

use super::{refresh, store};
use crate::{
    app::App,
    error::{Error, Result},
    request::{Caller, Json, Path},
    vault::{
        DataKey, oauth,
        probe::{Failure, Probed, probe},
    },
};

/// `POST /v1/vaults/{vault_id}/credentials/{credential_id}/mcp_oauth_validate`.
pub async fn validate(
    State(app): State<App>,
    caller: Caller,
    Path((vault, id)): Path<(String, String)>,
) -> Result<Json<Validation>> {
    let key = app.vault.key(&app.db, &caller.workspace).await?;
    let workspace = caller.workspace.clone();
    let credential = app
        .db
        .read(move |tx| {
            let credential = store::get(tx, &workspace, &vault, &id)?;
            store::check_open(tx, &workspace, &credential)?;
            Ok(credential)
        })
        .await?;
    let Auth::McpOauth(oauth) = &credential.auth else {
        return Err(Error::invalid(format_args!(
            "auth.type: only credentials of the type \"mcp_oauth\" can be validated, and this one is \"{}\"",
            credential.auth.kind()
        )));
    };
    let trial = Trial {
        app: &app,
        client: oauth::client(app.config.vault.allow_private)?,
        key,
        id: credential.id.clone(),
        url: &oauth.mcp_server_url,
    };
    let (probed, refresh, has_refresh_token) = trial.run().await?;
    let (status, failure) = match probed {
        Probed::Accepted => (ValidationStatus::Valid, None),
        Probed::Unauthorized(failure) | Probed::Forbidden(failure) => (ValidationStatus::Invalid, Some(failure)),
        Probed::Unclear(failure) => (ValidationStatus::Unknown, Some(failure)),
    };
    let probe = |Failure { method, response }| McpProbe { method: method.to_owned(), http_response: response };
    Ok(Json(Validation {
        r#type: "vault_credential_validation",
        credential_id: credential.id,
        vault_id: credential.vault_id,
        status,
        has_refresh_token,
        mcp_probe: failure.map(probe),
        refresh,
        validated_at: app.clock.now(),
    }))
}

struct Trial<'a> {
    app: &'a App,
    client: Client,
    key: DataKey,
    id: CredentialId,
    url: &'a str,
}

impl Trial<'_> {
    /// How the last probe ended, what was done for another token, and whether there is a refresh token.
    async fn run(&self) -> Result<(Probed, Option<RefreshAttempt>, bool)> {
        let secrets = self.secrets().await?;
        let has_refresh_token = secrets.refresh_token.is_some();
        let probed = self.probe(&secrets).await?;
        if !matches!(probed, Probed::Unauthorized(_)) {
            return Ok((probed, None, has_refresh_token));
        }
        let attempt = refresh::another(self.app, &self.client, &self.key, &self.id, &secrets).await?;
        let attempt = attempt.ok_or_else(store::missing)?;
        if attempt.status != RefreshStatus::Succeeded {
            // Whether another token would do is not known where none could be asked for.
            let probed = match (probed, attempt.status) {
                (Probed::Unauthorized(failure), RefreshStatus::ConnectError) => Probed::Unclear(failure),
                (probed, _) => probed,
            };
            return Ok((probed, Some(attempt), has_refresh_token));
        }
        let probed = self.probe(&self.secrets().await?).await?;
        Ok((probed, Some(attempt), has_refresh_token))
    }

    async fn secrets(&self) -> Result<Secrets> {
        let (id, key) = (self.id.clone(), self.key.clone());
        self.app.db.read(move |tx| store::secrets(tx, &id, &key)).await
    }

    async fn probe(&self, secrets: &Secrets) -> Result<Probed> {
        let token = secrets.token.as_ref().ok_or_else(|| Error::internal(format!("{} has no token", self.id)))?;
        Ok(probe(&self.client, self.app.config.vault.allow_private, self.url, token, secrets).await)
    }
}
