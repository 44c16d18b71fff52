//! `rota org`.

use std::process::ExitCode;

use anyhow::Result;
use rota_server::{db::Tx, resources::organization};
use serde_json::json;

use crate::{
    cli::{OrgArgs, OrgCommand, StoreArgs},
    store,
};

pub async fn run(args: OrgArgs) -> Result<ExitCode> {
    type Change = fn(&mut Tx<'_>) -> rota_server::error::Result<()>;
    let (store, operation, change): (StoreArgs, _, Change) = match args.command {
        OrgCommand::Show { store } => (store, "organization.show", |_| Ok(())),
        OrgCommand::Disable { store, now: false } => (store, "organization.disable", organization::disable),
        OrgCommand::Disable { store, now: true } => (store, "organization.disable", organization::disable_now),
        OrgCommand::Enable { store } => (store, "organization.enable", organization::enable),
    };
    let db = store::open(&store).await?;
    let changing = db.write(move |tx| {
        let id = organization::id(tx)?;
        change(tx)?;
        tx.audit_made(&id);
        Ok((id, organization::disabled_at(tx)?))
    });
    let (id, disabled_at) = db.change(operation, "organization", changing).await?;
    db.close().await;
    if store.json {
        println!("{}", json!({"id": id, "disabled_at": disabled_at}));
    } else {
        match disabled_at {
            Some(at) => println!("The organization {id} is disabled since {at}. `rota org enable` undoes it."),
            None => println!("The organization {id} is enabled."),
        }
    }
    Ok(ExitCode::SUCCESS)
}
