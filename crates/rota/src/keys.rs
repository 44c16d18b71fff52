//! `rota keys`.

use std::process::ExitCode;

use anyhow::{Context, Result};
use rota_server::{open_store, resources::workspaces};

use crate::cli::{KeysArgs, KeysCommand};

pub async fn run(args: KeysArgs) -> Result<ExitCode> {
    match args.command {
        KeysCommand::Create { store, workspace, name } => {
            let (db, _) = open_store(&store.data)?;
            let created = db.write(move |tx| workspaces::create_key(tx, &workspace, &name)).await?;
            if store.json {
                println!("{}", serde_json::to_string(&created)?);
            } else {
                println!("{}\n", created.key);
                println!("This key is shown only now. Its id is {}; it reaches {}.", created.id, created.workspace_id);
            }
        }
        KeysCommand::List { store } => {
            let (db, _) = open_store(&store.data)?;
            let keys = db.read(workspaces::keys).await?;
            if store.json {
                println!("{}", serde_json::to_string(&keys)?);
            } else {
                for key in keys {
                    let (id, status, hint, name) = (key.id, key.status, key.partial_key_hint, key.name);
                    println!("{id}  {status:8}  {hint}  {}  {name}", key.workspace_id);
                }
            }
        }
        KeysCommand::Revoke { store, id } => {
            let (db, _) = open_store(&store.data)?;
            let of = id.clone();
            let revoked = db.write(move |tx| workspaces::revoke_key(tx, &of)).await;
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
