//! `rota check`.

use std::process::ExitCode;

use anyhow::Result;
use rota_server::ops::{Checked, Findings, check};

use crate::{
    cli::{CheckArgs, SOMETHING_IS_WRONG},
    store,
};

pub async fn run(args: CheckArgs) -> Result<ExitCode> {
    let config = store::of(&args.store)?;
    let opened = if config.database.is_some() { Some(store::open(&args.store).await?) } else { None };
    let database = opened.as_ref().map(|store| (**store).clone());
    let found = check(config, database).await;
    if let Some(opened) = opened {
        opened.close().await;
    }
    let found = found?;
    if args.store.json {
        println!("{}", serde_json::to_string(&found)?);
    } else {
        show(&found);
    }
    Ok(if found.problem_count > 0 { ExitCode::from(SOMETHING_IS_WRONG) } else { ExitCode::SUCCESS })
}

fn show(found: &Findings) {
    let Findings { problems, problem_count, checked } = found;
    for problem in problems {
        println!("{:13} {}  {}", problem.kind, problem.id, problem.problem);
    }
    let more = *problem_count - problems.len() as u64;
    if more > 0 {
        println!("and {more} more");
    }
    let Checked { sessions, events, blobs, blob_bytes, secrets, unnamed_blobs } = checked;
    println!(
        "Looked at {sessions} sessions with {events} events, {blobs} blobs with {blob_bytes} bytes and {secrets} secrets. \
         {unnamed_blobs} blobs are named by no row; a server removes them."
    );
    match problem_count {
        0 => println!("Nothing is wrong."),
        count => println!("{count} things are wrong."),
    }
}
