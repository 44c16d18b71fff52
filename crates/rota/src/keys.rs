//! `rota keys`.

use std::process::ExitCode;

use anyhow::{Context, Result};
use rota_api::api_key::{ApiKey, KeyScope};
use rota_server::{db::Tx, resources::api_keys};
use serde::Serialize;

use crate::{
    cli::{KeysArgs, KeysCommand},
    store,
};

const DAY_MICROS: i64 = 24 * 3600 * 1_000_000;

pub async fn run(args: KeysArgs) -> Result<ExitCode> {
    match args.command {
        KeysCommand::Create { store, workspace, admin, name, days } => {
            let db = store::open_or_begin(&store).await?;
            let expires_at = days.map(|days| db.now().plus_micros(i64::from(days) * DAY_MICROS));
            if admin {
                let creating = db.write(move |tx| api_keys::create_admin_key(tx, &name, expires_at));
                let created = db.change("api_keys.create", "api_key", creating).await?;
                let text = format!("{}; it administers the organization", created.id);
                show(store.json, &created, &created.key, &text)?;
            } else {
                let create = move |tx: &mut Tx<'_>| api_keys::create_key(tx, workspace.as_deref(), &name, expires_at);
                let created = db.change("api_keys.create", "api_key", db.write(create)).await?;
                let text = format!("{}; it reaches {}", created.id, created.workspace_id);
                show(store.json, &created, &created.key, &text)?;
            }
            db.close().await;
        }
        KeysCommand::List { store } => {
            let db = store::open(&store).await?;
            let keys = db.read(api_keys::all).await?;
            db.close().await;
            if store.json {
                println!("{}", serde_json::to_string(&keys)?);
            } else {
                keys.iter().for_each(line);
            }
        }
        KeysCommand::Revoke { store, id } => {
            let db = store::open(&store).await?;
            let of = id.clone();
            let revoking = db.write(move |tx| api_keys::revoke(tx, &of));
            let revoked = db.change("api_keys.revoke", "api_key", revoking).await;
            db.close().await;
            let revoked =
                revoked.with_context(|| format!("`rota keys list` shows the ids; \"{id}\" is none of them"))?;
            if store.json {
                println!("{}", serde_json::to_string(&revoked)?);
            } else {
                println!("{} is revoked: requests with it are answered with 401 from now on.", revoked.id);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn show(json: bool, created: &impl Serialize, key: &str, id: &str) -> Result<()> {
    if json {
        println!("{}", serde_json::to_string(created)?);
    } else {
        println!("{key}\n\nThis key is shown only now. Its id is {id}.");
    }
    Ok(())
}

fn line(key: &ApiKey) {
    let ApiKey { id, status, partial_key_hint, name, .. } = key;
    let scope = match &key.scope {
        KeyScope::Workspace { workspace_id } => workspace_id.as_ref(),
        KeyScope::Organization => "organization",
    };
    println!("{id}  {:8}  {partial_key_hint}  {scope}  {name}", status.as_str());
}
