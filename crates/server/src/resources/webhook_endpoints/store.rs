//! The rows of webhook endpoints, and what enables and disables them.

use base64::{Engine, engine::general_purpose::STANDARD};
use rota_api::{
    Deleted, Time,
    id::{Id, WebhookEndpointId, WorkspaceId},
    rota_event::{Details, EndpointDisabled},
    webhook::{
        EndpointFields, EndpointSettings, EndpointState, EventType, NewWebhookEndpoint, SigningSecret, UpdateEndpoint,
        WebhookEndpoint,
    },
};
use zeroize::Zeroizing;

use super::deliveries;
use crate::{
    db::{Row, Table, Tx, vals},
    error::{Error, Result},
    limits::{MAX_WEBHOOK_ENDPOINTS, WEBHOOK_DISABLE_FAILURES, WEBHOOK_DISABLE_MICROS},
    resources::webhook_outbox,
    vault::{DataKey, Owner},
};

/// What a signing secret begins with (Standard Webhooks).
const SECRET_PREFIX: &str = "whsec_";

pub(super) const ENDPOINTS: Table<WebhookEndpoint> = Table {
    name: "webhook_endpoints",
    columns: "id, created_at, description, disabled_reason, enabled_events, name, state, updated_at, url",
    read: from_row,
    missing,
};

pub(super) fn insert(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    new: &EndpointFields,
    seal: &DataKey,
) -> Result<NewWebhookEndpoint> {
    tx.lock("workspaces WHERE id = $1", vals![workspace])?;
    let sql = "SELECT count(*) FROM webhook_endpoints WHERE workspace_id = $1";
    if tx.one(sql, vals![workspace], |row| row.int(0))?.unwrap_or(0) >= MAX_WEBHOOK_ENDPOINTS {
        return Err(Error::invalid(format_args!(
            "the workspace has {MAX_WEBHOOK_ENDPOINTS} webhook endpoints, which is the most; delete one first"
        )));
    }
    let id = WebhookEndpointId::new(tx.now());
    tx.audit_made(&id);
    let key = new_key()?;
    tx.execute(
        "INSERT INTO webhook_endpoints (id, workspace_id, name, description, url, secret, enabled_events, state,
             disabled_reason, failures, created_at, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, 'enabled', '', 0, $8, $8)",
        vals![
            &id,
            workspace,
            &new.name,
            &new.description,
            &new.url,
            &seal.seal(owner(id.as_ref()), key.as_bytes())?,
            &serde_json::to_string(&new.enabled_events)?,
            tx.now()
        ],
    )?;
    subscribe(tx, workspace, id.as_ref(), &new.enabled_events)?;
    Ok(NewWebhookEndpoint { endpoint: ENDPOINTS.get(tx, workspace, id.as_ref())?, secret: shown(&key) })
}

/// A new key in base64.
fn new_key() -> Result<Zeroizing<String>> {
    let mut bytes = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *bytes).map_err(Error::internal)?;
    Ok(Zeroizing::new(STANDARD.encode(*bytes)))
}

fn owner(id: &str) -> Owner<'_> {
    Owner { kind: "webhook_endpoint", id }
}

fn shown(key: &str) -> SigningSecret {
    SigningSecret { signing_secret: format!("{SECRET_PREFIX}{key}") }
}

/// The key that the stored secret of the endpoint `id` stands for.
pub fn secret_key(seal: &DataKey, id: &WebhookEndpointId, stored: &str) -> Result<Zeroizing<Vec<u8>>> {
    let encoded = seal.open(owner(id.as_ref()), stored)?;
    STANDARD.decode(&*encoded).map(Zeroizing::new).map_err(Error::internal)
}

/// An endpoint whose secret is in the store in clear, as an earlier version left it.
pub struct Unsealed {
    /// The workspace.
    pub workspace: WorkspaceId,
    id: WebhookEndpointId,
    secret: Zeroizing<String>,
}

/// Endpoints whose secrets are not sealed yet, at most `limit`.
pub fn unsealed(tx: &mut Tx<'_>, limit: i64) -> Result<Vec<Unsealed>> {
    let sql = "SELECT workspace_id, id, secret FROM webhook_endpoints WHERE secret NOT LIKE 'x1.%' LIMIT $1";
    tx.all(sql, vals![limit], |row| {
        Ok(Unsealed { workspace: row.id(0)?, id: row.id(1)?, secret: Zeroizing::new(row.text(2)?) })
    })
}

/// Seals the secret of an endpoint, unless somebody has.
pub fn seal(tx: &mut Tx<'_>, endpoint: &Unsealed, key: &DataKey) -> Result<()> {
    let Unsealed { id, secret, .. } = endpoint;
    tx.execute(
        "UPDATE webhook_endpoints SET secret = $2 WHERE id = $1 AND secret = $3",
        vals![id, &key.seal(owner(id.as_ref()), secret.as_bytes())?, secret.as_str()],
    )?;
    Ok(())
}

/// Sets which events an endpoint is told of.
fn subscribe(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str, types: &[EventType]) -> Result<()> {
    for r#type in types {
        tx.execute(
            "INSERT INTO webhook_subscriptions (workspace_id, type, endpoint_id) VALUES ($1, $2, $3)",
            vals![workspace, r#type.as_str(), id],
        )?;
    }
    Ok(())
}

fn unsubscribe(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str) -> Result<()> {
    tx.execute("DELETE FROM webhook_subscriptions WHERE workspace_id = $1 AND endpoint_id = $2", vals![workspace, id])?;
    Ok(())
}

fn missing(id: &str) -> Error {
    Error::not_found("Webhook endpoint", id)
}

pub(super) fn update(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    id: &str,
    update: &UpdateEndpoint,
) -> Result<WebhookEndpoint> {
    ENDPOINTS.lock(tx, workspace, id)?;
    let stored = ENDPOINTS.get(tx, workspace, id)?;
    let told = serde_json::to_value(&stored)?;
    let WebhookEndpoint { name, description, url, enabled_events, state, .. } = stored;
    let before = state;
    let stored = EndpointSettings { name, description, url, enabled_events, state };
    let EndpointSettings { name, description, url, enabled_events, state } = update.over(&stored)?;
    tx.execute(
        "UPDATE webhook_endpoints SET name = $3, description = $4, url = $5, enabled_events = $6, updated_at = $7
         WHERE workspace_id = $1 AND id = $2",
        vals![workspace, id, &name, &description, &url, &serde_json::to_string(&enabled_events)?, tx.now()],
    )?;
    match (before, state) {
        (EndpointState::Disabled, EndpointState::Disabled) => {}
        (EndpointState::Enabled, EndpointState::Disabled) => disable(tx, workspace, id, "")?,
        (_, EndpointState::Enabled) => {
            unsubscribe(tx, workspace, id)?;
            subscribe(tx, workspace, id, &enabled_events)?;
            if before == EndpointState::Disabled {
                enable(tx, workspace, id)?;
            }
        }
    }
    let endpoint = ENDPOINTS.get(tx, workspace, id)?;
    tx.audit_changed(&told, &endpoint)?;
    Ok(endpoint)
}

fn enable(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str) -> Result<()> {
    tx.execute(
        "UPDATE webhook_endpoints SET state = 'enabled', disabled_reason = '', failures = 0, failing_since = NULL,
             disabled_at = NULL
         WHERE workspace_id = $1 AND id = $2",
        vals![workspace, id],
    )?;
    deliveries::resume(tx, id)
}

/// Stops deliveries to an endpoint: what is not delivered yet waits until it is enabled again. `reason` is empty when a
/// caller wants it. An endpoint that is disabled already keeps its reason.
pub fn disable(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str, reason: &str) -> Result<()> {
    unsubscribe(tx, workspace, id)?;
    let disables = tx.changes(
        "UPDATE webhook_endpoints SET state = 'disabled', disabled_reason = $3, updated_at = $4, disabled_at = $4
         WHERE workspace_id = $1 AND id = $2 AND state = 'enabled'",
        vals![workspace, id, reason, tx.now()],
    )?;
    if disables && !reason.is_empty() {
        webhook_outbox::emit_own(tx, workspace, EventType::RotaWebhookEndpointDisabled, id, |_| {
            Ok(Some(Details::EndpointDisabled(EndpointDisabled { reason: reason.to_owned() })))
        })?;
    }
    deliveries::park(tx, id)
}

/// A delivery was accepted: whatever failed before is forgotten.
pub fn record_success(tx: &mut Tx<'_>, id: &WebhookEndpointId) -> Result<()> {
    tx.execute(
        "UPDATE webhook_endpoints SET failures = 0, failing_since = NULL WHERE id = $1 AND failures > 0",
        vals![id],
    )?;
    Ok(())
}

/// A delivery failed for good. Whether so many did for so long that the endpoint is to be disabled.
pub fn record_failure(tx: &mut Tx<'_>, id: &WebhookEndpointId) -> Result<bool> {
    let now = tx.now();
    let sustained = tx.one(
        "UPDATE webhook_endpoints SET failures = failures + 1, failing_since = coalesce(failing_since, $2)
         WHERE id = $1 RETURNING failures, failing_since",
        vals![id, now],
        |row| Ok(has_failed_for_too_long(row.int("failures")?, row.time("failing_since")?, now)),
    )?;
    Ok(sustained.unwrap_or(false))
}

/// Whether an endpoint is to be disabled at `now` after `failures` deliveries in a row that failed for good, the first of
/// them at `since`.
pub fn has_failed_for_too_long(failures: i64, since: Time, now: Time) -> bool {
    failures >= WEBHOOK_DISABLE_FAILURES && since.plus_micros(WEBHOOK_DISABLE_MICROS) <= now
}

/// Removes an endpoint. What was not delivered is not sent any more; the record of what was goes with its age.
pub(super) fn remove(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str) -> Result<Deleted> {
    unsubscribe(tx, workspace, id)?;
    ENDPOINTS.delete(tx, workspace, id)?;
    deliveries::park(tx, id)?;
    Ok(Deleted::new("webhook_endpoint_deleted", id))
}

/// Gives an endpoint a new secret; the old one signs nothing any more.
pub(super) fn replace_secret(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    id: &str,
    seal: &DataKey,
) -> Result<SigningSecret> {
    let key = new_key()?;
    let changes = tx.changes(
        "UPDATE webhook_endpoints SET secret = $3, updated_at = $4 WHERE workspace_id = $1 AND id = $2",
        vals![workspace, id, &seal.seal(owner(id), key.as_bytes())?, tx.now()],
    )?;
    if changes { Ok(shown(&key)) } else { Err(missing(id)) }
}

fn from_row(row: &Row<'_>) -> Result<WebhookEndpoint> {
    let events: Vec<String> = row.json("enabled_events")?;
    Ok(WebhookEndpoint {
        id: row.id("id")?,
        created_at: row.time("created_at")?,
        description: row.text("description")?,
        disabled_reason: row.text("disabled_reason")?,
        enabled_events: events.iter().filter_map(|name| EventType::from_name(name)).collect(),
        name: row.text("name")?,
        state: row.name("state", EndpointState::from_name)?,
        updated_at: row.time("updated_at")?,
        url: row.text("url")?,
    })
}
