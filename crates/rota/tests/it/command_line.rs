//! The commands about the store of a server: they find the one that the server has, or refuse.

use std::{fs, net::TcpListener, path::Path, process::Output};

use rota_server::{clock::Clock, config::Config};
use tempfile::TempDir;

use crate::{database::Database, server::Rota};

async fn rota(arguments: &[&str], data: &Path) -> Output {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_rota"));
    command.args(arguments).arg("--data").arg(data).env_remove("ROTA_DATABASE").env_remove("ROTA_CONFIG");
    command.output().await.unwrap()
}

async fn refused(arguments: &[&str], data: &Path, because: &str) {
    let output = rota(arguments, data).await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains(because), "{arguments:?}: {said}");
}

const COMMANDS: [&[&str]; 5] =
    [&["keys", "list"], &["keys", "revoke", "apikey_x"], &["org", "show"], &["org", "disable"], &["org", "enable"]];
const CREATE: &[&str] = &["keys", "create"];

#[tokio::test]
async fn only_the_creation_of_a_key_begins_a_store() {
    let folder = TempDir::new().unwrap();
    for command in COMMANDS {
        refused(command, folder.path(), "has no store; `rota serve --data` makes it").await;
        refused(command, &folder.path().join("missing"), "has no store").await;
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    refused(CREATE, &folder.path().join("missing"), "is not a folder").await;
    assert!(rota(CREATE, folder.path()).await.status.success());
    assert!(rota(&["keys", "list"], folder.path()).await.status.success());
    let Some(database) = Database::create() else { return };
    refused(&["org", "disable", "--database", &database.url().0], folder.path(), "the store is empty").await;
}

#[tokio::test]
async fn a_folder_whose_store_is_a_database_is_not_used_without_it() {
    let rota = Rota::without_engine().await;
    let data = rota.server.app().config.data.clone();
    let note = data.join("database");
    let Some(database) = rota.database() else {
        assert!(!note.exists(), "the store is in the folder");
        fs::write(&note, "postgres://db.internal/rota\n").unwrap();
        for command in COMMANDS.into_iter().chain([CREATE]) {
            refused(command, &data, "is the database postgres://db.internal/rota: give its URL as --database").await;
        }
        return;
    };
    let named = fs::read_to_string(&note).unwrap();
    assert!(database.url().0.ends_with(named.trim().rsplit_once('/').unwrap().1), "{named}");
    assert!(!named.contains('@'), "no user, no password: {named}");
    for command in COMMANDS.into_iter().chain([CREATE]) {
        refused(command, &data, named.trim()).await;
    }
    assert!(!data.join("rota.db").exists());
}

#[tokio::test]
async fn a_server_does_not_start_on_sqlite_where_its_store_is_a_database() {
    let folder = TempDir::new().unwrap();
    let config = Config { data: folder.path().to_owned(), listen: "127.0.0.1:0".to_owned(), ..Config::default() };
    fs::write(folder.path().join("database"), "postgres://db.internal/rota\n").unwrap();
    let refused = rota_server::serve(config.clone(), Clock::System).await.err().unwrap().to_string();
    assert!(refused.contains("the database postgres://db.internal/rota"), "{refused}");
    fs::remove_file(folder.path().join("database")).unwrap();
    rota_server::serve(config, Clock::System).await.unwrap().stop().await;
}

#[tokio::test]
async fn an_empty_database_is_refused_and_not_taken_for_none() {
    let folder = TempDir::new().unwrap();
    for command in COMMANDS {
        refused(&[command, &["--database", ""]].concat(), folder.path(), "error: database: names no host").await;
    }
}

#[tokio::test]
async fn a_start_that_fails_takes_no_key_with_it() {
    let folder = TempDir::new().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    let config = Config { data: folder.path().to_owned(), listen, ..Config::default() };
    let refused = rota_server::serve(config.clone(), Clock::System).await.err().unwrap().to_string();
    assert!(refused.starts_with("cannot listen on 127.0.0.1"), "{refused}");
    drop(taken);
    let server = rota_server::serve(config, Clock::System).await.unwrap();
    assert!(server.first_key.is_some());
    server.stop().await;
}

#[tokio::test]
async fn a_command_reads_the_configuration_file_of_the_server() {
    let server = Rota::without_engine().await;
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("rota.toml");
    let mut settings = format!("data = {:?}\n", server.server.app().config.data);
    if let Some(database) = server.database() {
        settings += &format!("database = {:?}\n", database.url().0);
    }
    fs::write(&file, settings).unwrap();
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_rota"));
    let output = command.args(["org", "disable", "--config"]).arg(&file).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(server.api.get_refused("/v1/agents").await.status, 403);
}
