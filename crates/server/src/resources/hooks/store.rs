//! The rows of hooks, and of what was sent to them.

use rota_api::{
    Deleted, Time,
    hook::{Hook, HookAnswer, HookFields, HookScheme, NewHook},
    id::{DeploymentId, HookId, Id, WorkspaceId},
};
use zeroize::Zeroizing;

use crate::{
    db::{Db, Row, Table, Tx, vals},
    error::{Error, Result},
    limits::{HOOK_DELIVERIES_PURGE, HOOK_DELIVERY_MICROS, MAX_HOOKS},
    resources::deployments,
    vault::{DataKey, Owner},
};

pub(super) const HOOKS: Table<Hook> = Table {
    name: "hooks",
    columns: "id, deployment_id, name, scheme, max_per_minute, last_delivery_at, former_until, created_at",
    read: from_row,
    missing,
};

fn missing(id: &str) -> Error {
    Error::not_found("Hook", id)
}

pub(super) fn from_row(row: &Row<'_>) -> Result<Hook> {
    let id: HookId = row.id("id")?;
    Ok(Hook {
        path: format!("/rota/v1/hooks/{id}"),
        id,
        r#type: "hook",
        deployment_id: row.id("deployment_id")?,
        name: row.text("name")?,
        scheme: row.name("scheme", HookScheme::from_name)?,
        max_per_minute: row.int("max_per_minute")? as u32,
        last_delivery_at: row.opt_time("last_delivery_at")?,
        former_secret_until: row.opt_time("former_until")?,
        created_at: row.time("created_at")?,
    })
}

fn owner(id: &str) -> Owner<'_> {
    Owner { kind: "hook", id }
}

pub(super) fn insert(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    deployment: &str,
    new: &HookFields,
    secret: &str,
    seal: &DataKey,
) -> Result<NewHook> {
    tx.lock("deployments WHERE workspace_id = $1 AND id = $2", vals![workspace, deployment])?;
    let deployment = deployments::get(tx, workspace, deployment)?;
    if deployment.archived_at.is_some() {
        return Err(Error::invalid("Cannot modify archived deployment"));
    }
    let sql = "SELECT count(*) FROM hooks WHERE deployment_id = $1";
    if tx.one(sql, vals![&deployment.id], |row| row.int(0))?.unwrap_or(0) >= MAX_HOOKS {
        let id = &deployment.id;
        return Err(Error::invalid(format_args!(
            "deployment {id} has {MAX_HOOKS} hooks, which is the most; delete one first"
        )));
    }
    let id = HookId::new(tx.now());
    tx.audit_made(&id);
    tx.execute(
        "INSERT INTO hooks (id, workspace_id, deployment_id, name, scheme, secret, max_per_minute, minute, deliveries,
             created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, 0, 0, $8)",
        vals![
            &id,
            workspace,
            &deployment.id,
            &new.name,
            new.scheme.as_str(),
            &seal.seal(owner(id.as_ref()), secret.as_bytes())?,
            i64::from(new.max_per_minute),
            tx.now()
        ],
    )?;
    Ok(NewHook { hook: HOOKS.get(tx, workspace, id.as_ref())?, secret: secret.to_owned() })
}

/// Gives a hook a new secret. The one that it has is taken for so many seconds more; the one before that no longer.
pub(super) fn rotate(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    id: &str,
    secret: &str,
    overlap_seconds: u32,
    seal: &DataKey,
) -> Result<NewHook> {
    HOOKS.lock(tx, workspace, id)?;
    let until = (overlap_seconds > 0).then(|| tx.now().plus_micros(i64::from(overlap_seconds) * 1_000_000));
    tx.execute(
        "UPDATE hooks SET former_secret = CASE WHEN CAST($4 AS BIGINT) IS NULL THEN NULL ELSE secret END, former_until = $4,
             secret = $3
         WHERE workspace_id = $1 AND id = $2",
        vals![workspace, id, &seal.seal(owner(id), secret.as_bytes())?, until],
    )?;
    Ok(NewHook { hook: HOOKS.get(tx, workspace, id)?, secret: secret.to_owned() })
}

/// Removes a hook, and what it remembers.
pub(super) fn remove(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str) -> Result<Deleted> {
    HOOKS.delete(tx, workspace, id)?;
    tx.execute("DELETE FROM hook_deliveries WHERE hook_id = $1", vals![id])?;
    Ok(Deleted::new("hook_deleted", id))
}

/// A hook as what is sent to it finds it.
pub(super) struct Called {
    pub(super) id: HookId,
    pub(super) workspace: WorkspaceId,
    pub(super) deployment: DeploymentId,
    pub(super) name: String,
    pub(super) scheme: HookScheme,
    secret: String,
    former: Option<(String, Time)>,
}

impl Called {
    /// The hook `id`, whoever asks.
    ///
    /// # Errors
    /// 404 when there is none.
    pub(super) async fn find(db: &Db, id: &str) -> Result<Self> {
        let sql = "SELECT id, workspace_id, deployment_id, name, scheme, secret, former_secret, former_until FROM hooks WHERE id = $1";
        let read = |row: &Row<'_>| {
            Ok(Self {
                id: row.id("id")?,
                workspace: row.id("workspace_id")?,
                deployment: row.id("deployment_id")?,
                name: row.text("name")?,
                scheme: row.name("scheme", HookScheme::from_name)?,
                secret: row.text("secret")?,
                former: row.opt_text("former_secret")?.zip(row.opt_time("former_until")?),
            })
        };
        db.lookup(sql, vals![id], read).await?.ok_or_else(|| missing(id))
    }

    pub(super) fn secret(&self, seal: &DataKey) -> Result<Zeroizing<Vec<u8>>> {
        seal.open(owner(self.id.as_ref()), &self.secret)
    }

    /// The secret before, while it is taken.
    pub(super) fn former_secret(&self, seal: &DataKey, now: Time) -> Result<Option<Zeroizing<Vec<u8>>>> {
        let former = self.former.as_ref().filter(|(_, until)| now < *until);
        former.map(|(secret, _)| seal.open(owner(self.id.as_ref()), secret)).transpose()
    }
}

/// What was answered to a delivery that is remembered.
pub(super) fn earlier(tx: &mut Tx<'_>, hook: &HookId, delivery: &str) -> Result<Option<HookAnswer>> {
    let sql = "SELECT answer FROM hook_deliveries WHERE hook_id = $1 AND delivery_id = $2 AND received_at > $3";
    let forgotten = tx.now().plus_micros(-HOOK_DELIVERY_MICROS);
    tx.one(sql, vals![hook, delivery, forgotten], |row| row.json("answer"))
}

/// Takes a delivery, unless it was taken before; whoever comes with the same one at the same moment waits here. Those of long ago
/// are forgotten on the way.
pub(super) fn claim(tx: &mut Tx<'_>, hook: &HookId, delivery: &str) -> Result<bool> {
    let now = tx.now();
    let forgotten = now.plus_micros(-HOOK_DELIVERY_MICROS);
    let claimed = tx.changes(
        "INSERT INTO hook_deliveries (hook_id, delivery_id, answer, received_at) VALUES ($1, $2, 'null', $3)
         ON CONFLICT (hook_id, delivery_id) DO UPDATE SET answer = 'null', received_at = $3
             WHERE hook_deliveries.received_at <= $4",
        vals![hook, delivery, now, forgotten],
    )?;
    if claimed {
        tx.send(
            "DELETE FROM hook_deliveries WHERE (hook_id, delivery_id) IN (
                 SELECT hook_id, delivery_id FROM hook_deliveries WHERE received_at <= $1 ORDER BY received_at LIMIT $2)",
            vals![forgotten, HOOK_DELIVERIES_PURGE],
        )?;
    }
    Ok(claimed)
}

/// Writes what a delivery that was taken is answered.
pub(super) fn answered(tx: &mut Tx<'_>, hook: &HookId, delivery: &str, answer: &HookAnswer) -> Result<()> {
    tx.execute(
        "UPDATE hook_deliveries SET answer = $3 WHERE hook_id = $1 AND delivery_id = $2",
        vals![hook, delivery, &serde_json::to_string(answer)?],
    )?;
    Ok(())
}

/// Counts one more delivery in this minute. A former secret that is taken no longer is forgotten on the way.
///
/// # Errors
/// 404 when the hook is gone, 429 when it has taken as many as it may; then nothing is counted.
pub(super) fn count(tx: &mut Tx<'_>, hook: &HookId) -> Result<()> {
    let now = tx.now();
    let counted = tx.changes(
        "UPDATE hooks SET deliveries = CASE WHEN minute = $2 THEN deliveries + 1 ELSE 1 END, minute = $2,
             last_delivery_at = $3, former_secret = CASE WHEN former_until > $3 THEN former_secret END,
             former_until = CASE WHEN former_until > $3 THEN former_until END
         WHERE id = $1 AND (minute <> $2 OR deliveries < max_per_minute)",
        vals![hook, now.micros().div_euclid(60_000_000), now],
    )?;
    if counted {
        return Ok(());
    }
    let most = tx.one("SELECT max_per_minute FROM hooks WHERE id = $1", vals![hook], |row| row.int(0))?;
    Err(most.map_or_else(|| missing(hook.as_ref()), Error::TooManyDeliveries))
}
