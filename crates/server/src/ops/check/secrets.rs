//! Secrets: whether the master key opens each of them.

use std::collections::HashMap;

use rota_api::id::WorkspaceId;

use super::Findings;
use crate::{
    config::Config,
    db::{Tx, vals},
    error::Result,
    limits::CHECKED_SECRETS_AT_ONCE,
    ops::source::Source,
    vault::{self, DataKey, MasterKeys, Owner},
};

/// What kinds of rows have a secret, and the next of them after `$1`: the workspace, what the secret is sealed for, and itself.
const SEALED: [(&str, &str); 7] = [
    ("hook", "SELECT workspace_id, id, secret FROM hooks WHERE id > $1 ORDER BY id LIMIT $2"),
    (
        "hook",
        "SELECT workspace_id, id, former_secret FROM hooks WHERE former_secret IS NOT NULL AND id > $1 ORDER BY id LIMIT $2",
    ),
    (
        "credential",
        "SELECT workspace_id, id, secrets FROM credentials WHERE secrets IS NOT NULL AND id > $1 ORDER BY id LIMIT $2",
    ),
    (
        "webhook_endpoint",
        "SELECT workspace_id, id, secret FROM webhook_endpoints WHERE secret LIKE 'x1.%' AND id > $1 ORDER BY id LIMIT $2",
    ),
    (
        "tunnel_token",
        "SELECT workspace_id, token_id, token FROM tunnels WHERE token IS NOT NULL AND token_id > $1
         ORDER BY token_id LIMIT $2",
    ),
    (
        "deployment_repository",
        "SELECT workspace_id, deployment_id || '/' || CAST(place AS TEXT) AS owner, token FROM deployment_repositories
         WHERE deployment_id || '/' || CAST(place AS TEXT) > $1 ORDER BY owner LIMIT $2",
    ),
    (
        "session_repository",
        "SELECT workspace_id, resource_id, token FROM session_repositories WHERE resource_id > $1
         ORDER BY resource_id LIMIT $2",
    ),
];

pub(super) fn check(config: &Config, source: &Source, found: &mut Findings) -> Result<()> {
    // Before a first start a store has no secret.
    let Some(fingerprint) = source.read(vault::fingerprint)? else { return Ok(()) };
    let masters = match MasterKeys::read(config) {
        Ok(masters) => masters,
        Err(error) => {
            found.add("secret", None, &fingerprint, &format_args!("no secret can be opened: {error}"));
            return Ok(());
        }
    };
    if !masters.have(&fingerprint) {
        let place = masters.place();
        found.add(
            "secret",
            None,
            &fingerprint,
            &format_args!("no secret can be opened: {place} does not have this vault key"),
        );
        return Ok(());
    }
    let keys = data_keys(source, &masters, found)?;
    for (kind, sql) in SEALED {
        check_kind(source, &keys, (kind, sql), found)?;
    }
    Ok(())
}

/// The data key of each workspace that has one; `None` where it cannot be opened.
fn data_keys(
    source: &Source,
    masters: &MasterKeys,
    found: &mut Findings,
) -> Result<HashMap<WorkspaceId, Option<DataKey>>> {
    let rows = source.read(|tx| {
        tx.all("SELECT workspace_id, wrapped, master FROM data_keys", &[], |row| {
            Ok((row.id::<WorkspaceId>(0)?, row.text(1)?, row.text(2)?))
        })
    })?;
    let mut keys = HashMap::new();
    for (workspace, wrapped, master) in rows {
        let key = masters.data_key(&workspace, &wrapped, &master);
        if let Err(error) = &key {
            found.add("secret", Some(&workspace), &workspace, error);
        }
        keys.insert(workspace, key.ok());
    }
    Ok(keys)
}

fn check_kind(
    source: &Source,
    keys: &HashMap<WorkspaceId, Option<DataKey>>,
    (kind, sql): (&'static str, &'static str),
    found: &mut Findings,
) -> Result<()> {
    let mut after = String::new();
    loop {
        let from = after.clone();
        let page = source.read(move |tx: &mut Tx<'_>| {
            tx.all(sql, vals![&from, CHECKED_SECRETS_AT_ONCE], |row| {
                Ok((row.id::<WorkspaceId>(0)?, row.text(1)?, row.text(2)?))
            })
        })?;
        let Some((_, last, _)) = page.last() else { return Ok(()) };
        after.clone_from(last);
        for (workspace, id, sealed) in &page {
            found.checked.secrets += 1;
            match keys.get(workspace) {
                Some(Some(key)) => {
                    if let Err(error) = key.open(Owner { kind, id }, sealed) {
                        found.add("secret", Some(workspace), id, &error);
                    }
                }
                // It was said of the key.
                Some(None) => {}
                // Where a server has made it just now, the rows are read anew by the next check.
                None => {
                    found.add("secret", Some(workspace), id, &format_args!("{workspace} has no data key"));
                }
            }
        }
    }
}
