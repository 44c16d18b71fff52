//! `rota vault`.

use std::process::ExitCode;

use anyhow::Result;
use rota_server::vault::{Rotation, new_key, prepare, rotate};
use serde_json::json;

use crate::{
    cli::{VaultArgs, VaultCommand},
    store,
};

pub async fn run(args: VaultArgs) -> Result<ExitCode> {
    match args.command {
        VaultCommand::NewKey => println!("{}", *new_key()?),
        VaultCommand::RotateKey { store: args, prepare: only_prepare } => {
            let (config, store) = (store::of(&args)?, store::open(&args).await?);
            let rotation = if only_prepare {
                prepare(&config, &store).await
            } else {
                store.change("vault.rotate_key", "organization", rotate(&config, &store)).await
            };
            store.close().await;
            let rotation = rotation?;
            if args.json { show_json(&rotation) } else { show(&rotation) }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn show(rotation: &Rotation) {
    match rotation {
        Rotation::Prepared { next } => println!(
            "The key {next} is in the key file, before the store's own. Copy the file to every server that has one of its \
             own, then run `rota vault rotate-key`."
        ),
        Rotation::Done { current, wrapped, are_old_gone } => {
            println!("The store's key is {current}; {wrapped} data keys are wrapped by it.");
            if *are_old_gone {
                println!(
                    "The old key is out of the file. Backups of the store from before now need it: keep it with them."
                );
            } else {
                println!("Take the old key out of the variable, and start each server again with that.");
            }
        }
        Rotation::Completed { current } => println!(
            "An earlier change of the key had been cut off, and is complete now: the store's key is {current}. Run this again \
             for another one."
        ),
    }
}

fn show_json(rotation: &Rotation) {
    let value = match rotation {
        Rotation::Prepared { next } => json!({"state": "prepared", "next": next}),
        Rotation::Done { current, wrapped, are_old_gone } => {
            json!({"state": "done", "current": current, "data_keys": wrapped, "old_key_removed": are_old_gone})
        }
        Rotation::Completed { current } => json!({"state": "completed", "current": current}),
    };
    println!("{value}");
}
