//! Credentials of vaults: what they are for is shown, their secrets go in and never out.

pub mod refresh;
pub mod servers;
mod store;
mod validate;

use axum::extract::State;
use rota_api::{
    Deleted,
    credential::{Auth, CreateCredential, Credential, UpdateCredential},
};

use crate::{
    app::App,
    db::Select,
    error::{Error, Result},
    outgoing,
    page::{Order, Page},
    request::{Body, Caller, Json, List, Path, PathAndQuery},
    vault,
};

pub use store::{archive_all_of, no_vault, remove_all_of, vault_archived};
pub use validate::validate;

/// `POST /v1/vaults/{vault_id}/credentials`.
pub async fn create(
    State(app): State<App>,
    caller: Caller,
    Path(vault): Path<String>,
    body: Body,
) -> Result<Json<Credential>> {
    let new = body.read_secret(CreateCredential::read)?;
    let match_key = match_key(&app, &new.auth)?;
    let key = app.vault.key(&app.db, &caller.workspace).await?;
    app.db.write(move |tx| store::insert(tx, &caller.workspace, &vault, &new, &match_key, &key)).await.map(Json)
}

/// What a credential is found by, once its URLs are checked: names are resolved when a connection is made.
fn match_key(app: &App, auth: &Auth) -> Result<String> {
    let read = |field: &str, url: &str| {
        let checked = outgoing::url(url, app.config.vault.allow_private);
        checked.map_err(|error| Error::invalid(format_args!("auth.{field}: {error}")))
    };
    match auth {
        Auth::EnvironmentVariable(variable) => Ok(format!("variable {}", variable.secret_name)),
        Auth::StaticBearer(bearer) => {
            Ok(format!("server {}", vault::matching_url(&read("mcp_server_url", &bearer.mcp_server_url)?)))
        }
        Auth::McpOauth(oauth) => {
            let server = read("mcp_server_url", &oauth.mcp_server_url)?;
            if let Some(refresh) = &oauth.refresh {
                read("refresh.token_endpoint", &refresh.token_endpoint)?;
            }
            Ok(format!("server {}", vault::matching_url(&server)))
        }
    }
}

/// `GET /v1/vaults/{vault_id}/credentials/{credential_id}`.
pub async fn retrieve(
    State(app): State<App>,
    caller: Caller,
    Path((vault, id)): Path<(String, String)>,
) -> Result<Json<Credential>> {
    app.db.read(move |tx| store::get(tx, &caller.workspace, &vault, &id)).await.map(Json)
}

/// `POST /v1/vaults/{vault_id}/credentials/{credential_id}`.
pub async fn update(
    State(app): State<App>,
    caller: Caller,
    Path((vault, id)): Path<(String, String)>,
    body: Body,
) -> Result<Json<Credential>> {
    let update = body.read_secret(UpdateCredential::read)?;
    let key = app.vault.key(&app.db, &caller.workspace).await?;
    app.db.write(move |tx| store::set(tx, &caller.workspace, &vault, &id, &update, &key)).await.map(Json)
}

/// `GET /v1/vaults/{vault_id}/credentials`.
pub async fn list(
    State(app): State<App>,
    caller: Caller,
    PathAndQuery(vault, query): PathAndQuery<String>,
) -> Result<Json<Page<Credential>>> {
    let mut select = Select::new(store::SELECT, &caller.workspace);
    select.text("vault_id =", Some(&vault));
    select.when(!query.boolean("include_archived")?.unwrap_or(false), "archived_at IS NULL");
    let list = List { select, key: "id", paging: query.paging(20, 100, Order::Desc)? };
    app.db.read(move |tx| store::vault(tx, &caller.workspace, &vault).map(drop)).await?;
    list.page(&app.db, store::from_row, |credential| credential.id.to_string()).await
}

/// `POST /v1/vaults/{vault_id}/credentials/{credential_id}/archive`. Its secrets are purged.
pub async fn archive(
    State(app): State<App>,
    caller: Caller,
    Path((vault, id)): Path<(String, String)>,
) -> Result<Json<Credential>> {
    app.db.write(move |tx| store::archive(tx, &caller.workspace, &vault, &id)).await.map(Json)
}

/// `DELETE /v1/vaults/{vault_id}/credentials/{credential_id}`.
pub async fn delete(
    State(app): State<App>,
    caller: Caller,
    Path((vault, id)): Path<(String, String)>,
) -> Result<Json<Deleted>> {
    app.db.write(move |tx| store::remove(tx, &caller.workspace, &vault, &id)).await.map(Json)
}
