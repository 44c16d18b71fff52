//! `rota restore`.

use std::process::ExitCode;

use anyhow::Result;
use rota_server::ops::{Restored, StoreKind, restore};
use serde_json::json;

use crate::cli::RestoreArgs;

pub async fn run(args: RestoreArgs) -> Result<ExitCode> {
    let restored = restore(args.from.clone(), args.data.clone()).await?;
    let Restored { about, files, bytes } = &restored;
    if args.json {
        println!("{}", json!({"about": about, "files": files, "bytes": bytes}));
        return Ok(ExitCode::SUCCESS);
    }
    let data = args.data.display();
    println!("{files} files with {bytes} bytes are in {data}; each has the checksum that it had.");
    match about.store {
        StoreKind::Sqlite => println!("The store is as it was after {}.", about.begun_at),
        StoreKind::Postgres => println!(
            "The store is a database, which is not in a backup: restore its dump into an empty database with pg_restore, and \
             give the server that as --database."
        ),
    }
    if let (Some(key), false) = (&about.vault_key, about.has_keys) {
        println!("Before the server starts: put the vault key {key} into {data}/vault.key, or where [vault] says.");
    }
    if !about.has_blobs {
        println!("The content of files is in the bucket of the server that the backup is of: name it in [blobs].");
    }
    for image in &about.images {
        println!(
            "Bring the image {} again: `rota images pull` or `import` ({}, {}).",
            image.name, image.reference, image.digest
        );
    }
    println!("Where the other server still runs, stop it before this one starts: both would fire the same schedules.");
    Ok(ExitCode::SUCCESS)
}
