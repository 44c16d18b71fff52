//! Every statement is one that both databases take. `make test` runs this after the other tests, which write down what they
//! ran: `ROTA_STATEMENTS` names the file.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use rota_server::{clock::Clock, db::Db};
use tempfile::TempDir;
use tokio_postgres::NoTls;

#[path = "it/database.rs"]
#[allow(dead_code, reason = "shared with other test binaries")]
mod database;

use database::{Database, NEEDED};

/// Fewer are a sign that the tests wrote nothing down.
const AT_LEAST: usize = 100;

/// How what the server itself sends begins. What makes tables is for one database, and only migrations and tests send it.
const VERBS: [&str; 5] = ["DELETE", "INSERT", "SELECT", "UPDATE", "WITH"];
/// What a test itself sends to one database, to see what it does.
const OF_TESTS: [&str; 2] = ["pg_sleep", "statement_timeout"];

fn statements() -> BTreeSet<String> {
    let path = std::env::var("ROTA_STATEMENTS").expect("ROTA_STATEMENTS names the file that `make check` writes");
    let text = std::fs::read_to_string(path).expect("`make check` has written the file");
    let statements: BTreeSet<String> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let is_of_the_server = |sql: &String| {
        VERBS.iter().any(|verb| sql.trim_start().starts_with(verb)) && !OF_TESTS.iter().any(|word| sql.contains(word))
    };
    statements.into_iter().filter(is_of_the_server).collect()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL, and the statements that other tests have run: `make test`"]
async fn every_statement_is_prepared_by_both_databases() {
    let statements = statements();
    assert!(statements.len() >= AT_LEAST, "{} statements", statements.len());
    let (folder, database) = (TempDir::new().unwrap(), Database::create().expect(NEEDED));
    let (_sqlite, _writer) = Db::open(folder.path(), Clock::System, Box::new(|_| {})).unwrap();
    let (_postgres, _writers) = Db::open_postgres(&database.url(), Clock::System, Box::new(|_| {})).await.unwrap();
    let sqlite = rusqlite::Connection::open(folder.path().join("rota.db")).unwrap();
    let (postgres, connection) = tokio_postgres::connect(&database.url().0, NoTls).await.unwrap();
    let asking = async {
        let mut refused = Vec::new();
        for sql in &statements {
            if let Err(error) = sqlite.prepare(&sql.replace('$', "?")) {
                refused.push(format!("SQLite: {error}: {sql}"));
            }
            if let Err(error) = postgres.prepare(sql).await {
                let why = error.as_db_error().map_or_else(|| error.to_string(), |told| told.message().to_owned());
                refused.push(format!("PostgreSQL: {why}: {sql}"));
            }
        }
        refused
    };
    let refused = tokio::select! {
        refused = asking => refused,
        lost = connection => panic!("the connection was lost: {lost:?}"),
    };
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}
