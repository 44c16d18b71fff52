//! `rota migrate`.

use std::process::ExitCode;

use anyhow::Result;
use rota_server::copy_to_postgres;

use crate::cli::{MigrateArgs, MigrateCommand};

pub async fn run(args: MigrateArgs) -> Result<ExitCode> {
    let MigrateCommand::SqliteToPostgres { data, database } = args.command;
    let copied = copy_to_postgres(&data, &database).await?;
    for table in &copied {
        println!("{:28} {:>10} rows", table.table, table.rows);
    }
    println!(
        "\nThe store is copied. Start the server with the same --data, which has the sessions' files and the key of the vaults, \
         and with --database: it does not start on this folder without.\n\
         The secrets in the database are sealed with that key (vault.key, or where [vault] says): other servers on the \
         database need it too.\n\
         {} is left as it is; nothing reads it any more.",
        data.join("rota.db").display()
    );
    Ok(ExitCode::SUCCESS)
}
