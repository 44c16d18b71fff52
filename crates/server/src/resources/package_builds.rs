//! How the packages of environments were installed last: one row each, beside the layers themselves.

use rota_api::{
    Time,
    id::{EnvironmentId, WorkspaceId},
    image::{BuildState, EnvironmentBuild},
};

use crate::{
    db::{Row, Tx, vals},
    error::Result,
};

/// What an installation has come to.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The state.
    pub state: BuildState,
    /// The end of what was printed.
    pub log: Option<String>,
    /// Why it failed.
    pub error: Option<String>,
}

/// Writes what an installation on the server `node` has come to. That of an environment that is gone is left out.
pub fn record(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    environment: &EnvironmentId,
    node: &str,
    now: Time,
    outcome: &Outcome,
) -> Result<()> {
    let sql = "SELECT 1 FROM environments WHERE workspace_id = $1 AND id = $2";
    if tx.one(sql, vals![workspace, environment], |_| Ok(()))?.is_none() {
        return Ok(());
    }
    if outcome.state == BuildState::Building {
        forget(tx, workspace, environment.as_ref())?;
        tx.execute(
            "INSERT INTO package_builds (workspace_id, environment_id, node, state, started_at) VALUES ($1, $2, $3, $4, $5)",
            vals![workspace, environment, node, outcome.state.as_str(), now],
        )?;
    } else {
        tx.execute(
            "UPDATE package_builds SET state = $3, log = $4, error = $5, ended_at = $6
             WHERE workspace_id = $1 AND environment_id = $2",
            vals![
                workspace,
                environment,
                outcome.state.as_str(),
                outcome.log.as_deref(),
                outcome.error.as_deref(),
                now
            ],
        )?;
    }
    Ok(())
}

/// Forgets how the packages of an environment were installed.
pub fn forget(tx: &mut Tx<'_>, workspace: &WorkspaceId, environment: &str) -> Result<()> {
    let sql = "DELETE FROM package_builds WHERE workspace_id = $1 AND environment_id = $2";
    tx.execute(sql, vals![workspace, environment])?;
    Ok(())
}

/// Ends what was under way on a server that has begun anew.
pub fn end_all_of(tx: &mut Tx<'_>, node: &str, now: Time) -> Result<()> {
    tx.execute(
        "UPDATE package_builds SET state = 'failed', error = 'the server ended meanwhile; the next session tries again',
             ended_at = $2
         WHERE node = $1 AND state = 'building'",
        vals![node, now],
    )?;
    Ok(())
}

/// How the packages of an environment were installed last. `None`: nothing was.
pub fn last(tx: &mut Tx<'_>, workspace: &WorkspaceId, environment: &EnvironmentId) -> Result<EnvironmentBuild> {
    let found = tx.one(
        "SELECT environment_id, state, log, error, started_at, ended_at FROM package_builds
         WHERE workspace_id = $1 AND environment_id = $2",
        vals![workspace, environment],
        from_row,
    )?;
    Ok(found.unwrap_or_else(|| EnvironmentBuild {
        r#type: "environment_build",
        environment_id: environment.clone(),
        state: BuildState::NotBuilt,
        log: None,
        error: None,
        started_at: None,
        ended_at: None,
    }))
}

fn from_row(row: &Row<'_>) -> Result<EnvironmentBuild> {
    Ok(EnvironmentBuild {
        r#type: "environment_build",
        environment_id: row.id("environment_id")?,
        state: row.name("state", BuildState::from_name)?,
        log: row.opt_text("log")?,
        error: row.opt_text("error")?,
        started_at: row.opt_time("started_at")?,
        ended_at: row.opt_time("ended_at")?,
    })
}
