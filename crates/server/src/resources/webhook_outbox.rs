//! The outbox of webhooks: an event is written in the transaction of what it tells of, once for each endpoint of the
//! workspace that wants it. Where nobody does, that is one look-up of an index and nothing more.

use std::collections::HashMap;

use rota_api::{
    id::{Id, VaultId, WebhookEndpointId, WebhookEventId, WorkspaceId},
    rota_event::Details,
    webhook::{EventType, WebhookEvent},
};

use super::organization;
use crate::{
    db::{Notice, Tx, Val, vals},
    error::Result,
};

/// Tells the endpoints of a workspace that each of `types` has happened, in this order, to the resource `id`.
pub fn emit<const N: usize>(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    types: [EventType; N],
    id: impl AsRef<str>,
) -> Result<()> {
    Outbox::default().emit(tx, workspace, types, id)
}

/// Tells the endpoints that an event of Rota's own has happened to the resource `id`. What it says is asked for only where
/// somebody wants it; where there is nothing to say after all, nothing is told.
pub fn emit_own(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    r#type: EventType,
    id: impl AsRef<str>,
    details: impl FnOnce(&mut Tx<'_>) -> Result<Option<Details>>,
) -> Result<()> {
    let mut outbox = Outbox::default();
    if !outbox.wants(tx, workspace, [r#type])? {
        return Ok(());
    }
    match details(tx)? {
        Some(details) => outbox.add(tx, workspace, r#type, id.as_ref(), (None, Some(&details))),
        None => Ok(()),
    }
}

/// The outbox for many events of one transaction: who wants them is read once.
#[derive(Default)]
pub struct Outbox {
    wanted: HashMap<WorkspaceId, HashMap<EventType, Vec<WebhookEndpointId>>>,
    organization: Option<String>,
}

impl Outbox {
    /// See [`emit`].
    pub fn emit<const N: usize>(
        &mut self,
        tx: &mut Tx<'_>,
        workspace: &WorkspaceId,
        types: [EventType; N],
        id: impl AsRef<str>,
    ) -> Result<()> {
        self.emit_of(tx, workspace, types, id.as_ref(), None)
    }

    /// The same of something in a vault, which the event names too.
    pub fn emit_in_vault(
        &mut self,
        tx: &mut Tx<'_>,
        workspace: &WorkspaceId,
        r#type: EventType,
        id: impl AsRef<str>,
        vault: &VaultId,
    ) -> Result<()> {
        self.emit_of(tx, workspace, [r#type], id.as_ref(), Some(vault.as_ref()))
    }

    fn emit_of<const N: usize>(
        &mut self,
        tx: &mut Tx<'_>,
        workspace: &WorkspaceId,
        types: [EventType; N],
        id: &str,
        vault: Option<&str>,
    ) -> Result<()> {
        if self.wants(tx, workspace, types)? {
            for r#type in types {
                self.add(tx, workspace, r#type, id, (vault, None))?;
            }
        }
        Ok(())
    }

    /// Whether any endpoint of the workspace wants one of `types`.
    fn wants<const N: usize>(
        &mut self,
        tx: &mut Tx<'_>,
        workspace: &WorkspaceId,
        types: [EventType; N],
    ) -> Result<bool> {
        let wanted = self.wanted.entry(workspace.clone()).or_default();
        if types.iter().any(|r#type| !wanted.contains_key(r#type)) {
            wanted.extend(subscribed(tx, workspace, types)?);
        }
        Ok(types.iter().any(|r#type| wanted.get(r#type).is_some_and(|endpoints| !endpoints.is_empty())))
    }

    /// Writes an event for those that want it, of whom it is known by now.
    fn add(
        &mut self,
        tx: &mut Tx<'_>,
        workspace: &WorkspaceId,
        r#type: EventType,
        id: &str,
        (vault, details): (Option<&str>, Option<&Details>),
    ) -> Result<()> {
        let wanted = self.wanted.get(workspace).and_then(|wanted| wanted.get(&r#type));
        let Some(endpoints) = wanted.filter(|endpoints| !endpoints.is_empty()) else { return Ok(()) };
        let organization = match &mut self.organization {
            Some(organization) => organization,
            unread => unread.insert(organization::id(tx)?),
        };
        let event = WebhookEventId::new(tx.now());
        let payload = WebhookEvent::new(&event, tx.now(), r#type, id, organization, workspace);
        let payload = payload.in_vault(vault).saying(details);
        insert(tx, workspace, &event, &serde_json::to_string(&payload)?, endpoints)?;
        tx.after_commit(Notice::WebhookDue);
        Ok(())
    }
}

/// The endpoints that want each of `types`.
fn subscribed<const N: usize>(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    types: [EventType; N],
) -> Result<HashMap<EventType, Vec<WebhookEndpointId>>> {
    let places: Vec<String> = (2..N + 2).map(|place| format!("${place}")).collect();
    let sql = format!(
        "SELECT type, endpoint_id FROM webhook_subscriptions WHERE workspace_id = $1 AND type IN ({})",
        places.join(", ")
    );
    let mut params = vec![Val::from(workspace)];
    params.extend(types.iter().map(|r#type| Val::from(r#type.as_str())));
    let mut wanted: HashMap<_, Vec<_>> = types.map(|r#type| (r#type, Vec::new())).into();
    for (name, endpoint) in tx.all(&sql, &params, |row| Ok((row.text(0)?, row.id(1)?)))? {
        if let Some(r#type) = types.into_iter().find(|r#type| r#type.as_str() == name) {
            wanted.entry(r#type).or_default().push(endpoint);
        }
    }
    Ok(wanted)
}

fn insert(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    event: &WebhookEventId,
    payload: &str,
    endpoints: &[WebhookEndpointId],
) -> Result<()> {
    for endpoint in endpoints {
        tx.add(
            "INSERT INTO webhook_deliveries
                 (event_id, endpoint_id, workspace_id, payload, state, attempts, replayed_after, due_at, created_at)
             VALUES ($1, $2, $3, $4, 'pending', 0, 0, $5, $5)",
            vals![event, endpoint, workspace, payload, tx.now()],
        )?;
    }
    Ok(())
}
