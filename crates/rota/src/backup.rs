//! `rota backup`.

use std::process::ExitCode;

use anyhow::Result;
use rota_server::ops::{Backup, StoreKind, backup};
use serde_json::json;

use crate::{
    cli::{BackupArgs, SOMETHING_IS_WRONG},
    store,
};

pub async fn run(args: BackupArgs) -> Result<ExitCode> {
    let config = store::of(&args.store)?;
    let opened = if config.database.is_some() { Some(store::open(&args.store).await?) } else { None };
    let database = opened.as_ref().map(|store| (**store).clone());
    let taken = backup(config, database, args.to.clone(), args.with_keys).await;
    if let Some(opened) = opened {
        opened.close().await;
    }
    let taken = taken?;
    let is_wrong = taken.about.missing > 0 || !taken.damaged.is_empty();
    if args.store.json {
        let Backup { about, files, bytes, missing, damaged, .. } = &taken;
        println!(
            "{}",
            json!({"about": about, "files": files, "bytes": bytes, "missing": missing, "damaged": damaged,
                "dump": dump(&taken, &args)})
        );
    } else {
        show(&taken, &args);
    }
    Ok(if is_wrong { ExitCode::from(SOMETHING_IS_WRONG) } else { ExitCode::SUCCESS })
}

/// The command that dumps the database, of a store that is one. It names no password.
fn dump(taken: &Backup, args: &BackupArgs) -> Option<String> {
    let place = taken.database.as_ref()?;
    Some(format!("pg_dump --format=custom --file={}.dump --dbname={place}", args.to.display()))
}

fn show(taken: &Backup, args: &BackupArgs) {
    let Backup { about, files, bytes, missing, damaged, .. } = taken;
    println!("{files} files with {bytes} bytes are in {}.", args.to.display());
    if let Some(dump) = dump(taken, args) {
        println!(
            "NOT in it: the store, which is a database. Its own tool dumps it:\n\n  {dump}\n\nRun that first and then this \
             backup: so each file that the dump names is in the backup, unless it was deleted in between."
        );
    }
    if about.store == StoreKind::Sqlite {
        println!("It has the store as it was after {}.", about.begun_at);
    }
    if !about.has_blobs {
        println!("NOT in it: the content of files, which is in a bucket. Have the bucket keep versions.");
    }
    match (&about.vault_key, about.has_keys) {
        (Some(key), false) => println!(
            "NOT in it: the vault key {key}, without which no secret of the store can be read. Keep a copy of it elsewhere; \
             --with-keys puts it into the backup."
        ),
        (Some(key), true) => println!("The vault key {key} is in it: whoever has the backup can read every secret."),
        (None, _) => {}
    }
    if about.sessions_without_files > 0 {
        println!(
            "NOT in it: the files of {} sessions, for no checkpoint has them ([sandbox] checkpoints = true keeps those of \
             sessions at rest). A restored session is told that its files are lost.",
            about.sessions_without_files
        );
    }
    for image in &about.images {
        println!(
            "NOT in it: the image {} ({} from {}): pull or import it again.",
            image.name, image.digest, image.reference
        );
    }
    if about.missing > 0 {
        eprintln!(
            "error: the bytes of {} files are named by the store and are not there: {}",
            about.missing,
            missing.join(", ")
        );
    }
    if !damaged.is_empty() {
        eprintln!("error: these files have not the bytes that the store says: {}", damaged.join(", "));
    }
}
