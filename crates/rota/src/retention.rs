//! `rota retention`.

use std::process::ExitCode;

use anyhow::Result;
use rota_server::ops::retention_preview;

use crate::{cli::RetentionArgs, store};

pub async fn run(args: RetentionArgs) -> Result<ExitCode> {
    let config = store::of(&args.store)?;
    let opened = if config.database.is_some() { Some(store::open(&args.store).await?) } else { None };
    let database = opened.as_ref().map(|store| (**store).clone());
    let preview = retention_preview(config, database, args.workspace).await;
    if let Some(opened) = opened {
        opened.close().await;
    }
    let preview = preview?;
    if args.store.json {
        println!("{}", serde_json::to_string(&preview)?);
        return Ok(ExitCode::SUCCESS);
    }
    println!("The next sweep would remove:");
    for line in &preview.data {
        println!("{:>12}  {}", line.count, line.kind.as_str());
    }
    println!("Nothing was removed.");
    Ok(ExitCode::SUCCESS)
}
