//! `rota schedules`.

use std::process::ExitCode;

use anyhow::Result;
use rota_server::resources::schedule_holds::{self, Which};

use crate::{
    cli::{SchedulesArgs, SchedulesCommand, StoreArgs},
    store,
};

pub async fn run(args: SchedulesArgs) -> Result<ExitCode> {
    let (store, change): (StoreArgs, Option<(bool, Which)>) = match args.command {
        SchedulesCommand::Show { store } => (store, None),
        SchedulesCommand::Hold { store, workspace } => (store, Some((true, Which::of(workspace)))),
        SchedulesCommand::Release { store, workspace } => (store, Some((false, Which::of(workspace)))),
    };
    let db = store::open(&store).await?;
    let operation = if matches!(change, Some((true, _))) { "schedules.hold" } else { "schedules.release" };
    let changing = db.write(move |tx| match &change {
        None => schedule_holds::list(tx),
        Some((true, which)) => schedule_holds::hold(tx, which),
        Some((false, which)) => schedule_holds::release(tx, which),
    });
    let holds = db.change(operation, "schedules", changing).await;
    db.close().await;
    let holds = holds?;
    if store.json {
        println!("{}", serde_json::to_string(&holds)?);
        return Ok(ExitCode::SUCCESS);
    }
    match holds.held_at {
        Some(at) => println!("All schedules are held since {at}. `rota schedules release` ends that."),
        None if holds.workspaces.is_empty() => println!("No schedules are held."),
        None => {}
    }
    for held in &holds.workspaces {
        let (name, at) = (&held.name, held.held_at);
        println!("The schedules of {name} are held since {at}. `rota schedules release --workspace {name}` ends that.");
    }
    Ok(ExitCode::SUCCESS)
}
