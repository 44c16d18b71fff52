//! The organization: the owner of every workspace of a server. The command line switches it off and on.

use axum::extract::State;
use rota_api::{Time, organization::Organization};

use crate::{
    app::App,
    db::{Db, Tx, vals},
    error::{Error, Result},
    random,
    request::{Administrator, Json, Query},
};

/// The name of the organization of a new server.
const NAME: &str = "Rota";

/// `GET /v1/organizations/me`.
pub async fn retrieve(
    State(app): State<App>,
    _administrator: Administrator,
    query: Query,
) -> Result<Json<Organization>> {
    query.finish()?;
    app.db.read(get).await.map(Json)
}

/// The organization's id; made with the store.
pub fn id(tx: &mut Tx<'_>) -> Result<String> {
    if tx.one("SELECT 1 FROM organization", &[], |_| Ok(()))?.is_none() {
        tx.execute(
            "INSERT INTO organization (id, name, created_at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
            vals![&random::uuid()?, NAME, tx.now()],
        )?;
    }
    Ok(get(tx)?.id)
}

/// The organization.
pub fn get(tx: &mut Tx<'_>) -> Result<Organization> {
    let found = tx.one("SELECT id, name FROM organization", &[], |row| {
        Ok(Organization { id: row.text(0)?, r#type: "organization", name: row.text(1)? })
    })?;
    found.ok_or_else(|| Error::internal("the store has no organization"))
}

/// Since when every workspace is switched off; `None` while the organization is enabled.
pub fn disabled_at(tx: &mut Tx<'_>) -> Result<Option<Time>> {
    Ok(tx.one("SELECT disabled_at FROM organization", &[], |row| row.opt_time(0))?.flatten())
}

/// Switches every workspace off until [`enable`]: keys of workspaces are refused, nothing starts, and sessions stop
/// before their next request to a model.
pub fn disable(tx: &mut Tx<'_>) -> Result<()> {
    tx.execute("UPDATE organization SET disabled_at = $1 WHERE disabled_at IS NULL", vals![tx.now()])?;
    Ok(())
}

/// The same, and stops what runs: calls and requests that are under way end, and sandboxes with them. Sessions stay as they are,
/// and go on after [`enable`].
pub fn disable_now(tx: &mut Tx<'_>) -> Result<()> {
    disable(tx)?;
    tx.execute("UPDATE organization SET halted = 1", &[])?;
    Ok(())
}

/// Whether what runs is to be stopped at once.
pub async fn is_halted(db: &Db) -> Result<bool> {
    Ok(db.lookup("SELECT halted FROM organization", &[], |row| row.int(0)).await?.is_some_and(|halted| halted != 0))
}

/// Undoes [`disable`] and [`disable_now`]. Whoever was not stopped by these is left as it is.
pub fn enable(tx: &mut Tx<'_>) -> Result<()> {
    tx.execute("UPDATE organization SET disabled_at = NULL, halted = 0", &[])?;
    Ok(())
}
