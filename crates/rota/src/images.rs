//! `rota images`.

use std::{env, process::ExitCode};

use anyhow::{Result, bail};
use rota_sandbox::{Layers, NotRemoved, open_images};
use rota_server::{
    config::Config,
    images::{Credentials, Made, Reference, check_owner, import, pull},
    resources::images::{all, users},
};

use crate::{
    cli::{ImagesArgs, ImagesCommand, StoreArgs},
    store,
};

pub async fn run(args: ImagesArgs) -> Result<ExitCode> {
    match args.command {
        ImagesCommand::Pull { store, reference, name, plain_http } => {
            let images = open(&store)?;
            let reference: Reference = reference.parse()?;
            let name = name.unwrap_or_else(|| reference.default_name());
            let made = pull(&images, &reference, &name, plain_http, credentials()).await?;
            tell(&store, &images, &made)?;
        }
        ImagesCommand::Import { store, archive, name } => {
            let images = open(&store)?;
            let of = images.clone();
            let made = tokio::task::spawn_blocking(move || import(&of, &archive, &name)).await??;
            tell(&store, &images, &made)?;
        }
        ImagesCommand::List { store } => {
            let images = all(&open(&store)?)?;
            if store.json {
                println!("{}", serde_json::to_string(&images)?);
            } else {
                for image in images {
                    let mib = image.size_bytes / (1024 * 1024);
                    println!("{}  {}  {} MiB  {}", image.name, image.digest, mib, image.reference);
                }
            }
        }
        ImagesCommand::Remove { store, name, force } => remove(&store, &name, force).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The images of the server that a command is about.
fn open(args: &StoreArgs) -> Result<Layers> {
    let Config { data, .. } = store::of(args)?;
    check_owner(&data)?;
    let images = open_images(&data)?;
    images.sweep()?;
    Ok(images)
}

fn credentials() -> Option<Credentials> {
    let (user, password) = (env::var("ROTA_REGISTRY_USER").ok()?, env::var("ROTA_REGISTRY_PASSWORD").ok()?);
    Some(Credentials { user, password })
}

fn tell(args: &StoreArgs, images: &Layers, made: &Made) -> Result<()> {
    if args.json {
        let found = all(images)?.into_iter().find(|image| image.name == made.name);
        println!("{}", serde_json::to_string(&found)?);
        return Ok(());
    }
    let there = if made.was_there { "was there already" } else { "is there" };
    println!("The image {} {there}: sha256:{}", made.name, made.layer.key());
    if made.left_out > 0 {
        println!("{} devices, FIFOs and the like were left out: a sandbox has its own /dev.", made.left_out);
    }
    Ok(())
}

async fn remove(args: &StoreArgs, name: &str, force: bool) -> Result<()> {
    let images = open(args)?;
    let Some(key) = images.named(name) else { bail!("there is no image \"{name}\": `rota images list` lists them") };
    let config = store::of(args)?;
    if config.sandbox.own_image().is_some_and(|own| own == name) && !force {
        bail!(
            "the image {name} is sandbox.image of the configuration: take it out there first, or remove it with --force"
        );
    }
    // Other names may stand for the same image.
    let is_last = images.names()?.iter().filter(|(_, of)| *of == key).count() == 1;
    if !force {
        // Where there is no store yet nothing can have it.
        if rota_server::has_store(&config) {
            let db = store::open(args).await?;
            let (of, kept) = (name.to_owned(), is_last.then(|| key.clone()));
            let (environments, sessions) = db.read(move |tx| users(tx, &of, kept.as_deref())).await?;
            db.close().await;
            if environments + sessions > 0 {
                bail!(
                    "the image {name} is that of {environments} environments and {sessions} sessions: delete or archive them, give \
                     the environments another one, or remove it with --force"
                );
            }
        }
    }
    if is_last && let Err(NotRemoved::InUse) = images.remove(&key)? {
        bail!(
            "a sandbox runs on the image {name}, or it is being looked at: try again when its session has been idle for long"
        );
    }
    images.forget_name(name)?;
    println!("The image {name} is removed.");
    Ok(())
}
