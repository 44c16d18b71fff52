//! Several servers on one database. On SQLite, which has one server, there is nothing to test here.

use std::path::{Path, PathBuf};

use rota_server::{Server, clock::Clock, config::Role, error::Error, resources::api_keys};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    client::Api,
    database::NEEDED,
    given::{Parts, id, message, script},
    process,
    server::{Rota, VAULT_KEY, appears, disappears, record},
    stream::{first, kinds, stop_reason, text},
};

/// How far a server's clock is moved so that another server counts as gone.
const GONE_MICROS: i64 = 120_000_000;

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/with-postgres"]
async fn a_stream_shows_what_was_sent_and_done_through_another_server() {
    let one = Rota::start().await;
    let two = one.beside(|config| config.roles = [Role::Api].into_iter().collect()).await.expect(NEEDED);
    let parts = Parts::new(&two.api).await;
    let session = parts.session(&two.api, json!({})).await;
    let mut stream = two.api.stream(id(&session)).await;
    one.api.events(id(&session), json!([message("hello")])).await;
    let events = stream.turn().await;
    assert_eq!(stop_reason(&events)["type"], "end_turn");
    two.api.delete(&format!("/v1/sessions/{}", id(&session))).await;
    stream.until("session.deleted").await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/with-postgres"]
async fn an_interrupt_reaches_the_server_that_runs_the_session() {
    let one = Rota::start().await;
    let two = one.beside(|config| config.roles = [Role::Api].into_iter().collect()).await.expect(NEEDED);
    let parts = Parts::new(&one.api).await;
    let session = parts.session_with(&one.api, script("touch started; sleep 600")).await;
    appears(one.workspace_file(id(&session), "started")).await;
    two.api.events(id(&session), json!([{"type": "user.interrupt"}])).await;
    let events = two.api.stream_from(id(&session), 0).await.turn().await;
    assert_eq!(stop_reason(&events)["type"], "end_turn");
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/with-postgres"]
async fn a_key_that_is_revoked_on_one_server_is_refused_by_the_other_at_once() {
    let one = Rota::without_engine().await;
    let two = one.beside(|_| {}).await.expect(NEEDED);
    let other = one.other_workspace().await;
    let (at_two, key) = (other.clone().at(two.server.address), other.key.clone());
    at_two.get("/v1/agents").await;
    let hash = rota_server::request::caller::hash(&key);
    let revoke = move |tx: &mut rota_server::db::Tx<'_>| {
        let sql = "SELECT id FROM api_keys WHERE key_hash = $1";
        let id = tx.one(sql, &[rota_server::db::Val::Text(&hash)], |row| row.text(0))?.unwrap();
        api_keys::revoke(tx, &id)
    };
    one.server.app().db.write(revoke).await.unwrap();
    assert_eq!(at_two.get_refused("/v1/agents").await.status, 401);
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/with-postgres"]
async fn servers_that_start_at_the_same_time_make_one_store() {
    let one = Rota::without_engine().await;
    let database = one.database().expect(NEEDED);
    database.run("DROP SCHEMA public CASCADE; CREATE SCHEMA public");
    let folders = [(); 3].map(|()| TempDir::new().unwrap());
    let key = one.server.app().config.data.join(VAULT_KEY);
    let servers = start_together(&one, &folders, Some(&key)).await;
    let servers: Vec<_> = servers.into_iter().map(Result::unwrap).collect();
    assert_eq!(servers.iter().filter(|server| server.first_key.is_some()).count(), 1);
    let organizations: Vec<_> = servers.iter().map(|server| server.app().organization_header.clone()).collect();
    assert!(organizations.iter().all(|organization| *organization == organizations[0]));
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/with-postgres"]
async fn of_servers_that_start_at_the_same_time_without_a_key_one_makes_it_and_the_others_ask_for_it() {
    let one = Rota::without_engine().await;
    let database = one.database().expect(NEEDED);
    database.run("DROP SCHEMA public CASCADE; CREATE SCHEMA public");
    let folders = [(); 3].map(|()| TempDir::new().unwrap());
    let servers = start_together(&one, &folders, None).await;
    assert_eq!(servers.iter().filter(|server| server.is_ok()).count(), 1);
    for (server, folder) in servers.iter().zip(&folders) {
        assert_eq!(folder.path().join(VAULT_KEY).exists(), server.is_ok(), "a key that nothing needs is not left");
        if let Err(error) = server {
            assert!(error.to_string().contains("are sealed with the vault key"), "{error}");
        }
    }
}

/// Servers on the database of `one`, with a data folder each, that start at the same time.
async fn start_together(one: &Rota, folders: &[TempDir], key: Option<&Path>) -> Vec<Result<Server, Error>> {
    let starts = folders.iter().map(|folder| {
        let mut config = one.server.app().config.clone();
        folder.path().clone_into(&mut config.data);
        config.vault.key_file = key.map(Path::to_owned);
        rota_server::serve(config, one.clock.clone())
    });
    futures_util::future::join_all(starts).await
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/with-postgres"]
async fn a_store_of_a_newer_program_is_refused() {
    let one = Rota::without_engine().await;
    let database = one.database().expect(NEEDED);
    database.run("UPDATE schema_version SET version = 99");
    let folder = TempDir::new().unwrap();
    let mut config = one.server.app().config.clone();
    config.data = folder.path().to_owned();
    let refused = rota_server::serve(config, one.clock.clone()).await.err().unwrap().to_string();
    assert!(refused.contains("the store has version 99"), "{refused}");
}

/// A server of its own process that runs sessions, and one in this process that can take over from it.
struct Pair {
    here: Rota,
    there: process::Server,
    /// A client of the other process.
    api: Api,
    folder: TempDir,
    parts: Parts,
}

impl Pair {
    /// `None` on SQLite.
    async fn start() -> Option<Self> {
        let here = Rota::with(|config| config.roles = [Role::Api].into_iter().collect()).await;
        here.database()?;
        // The other process has the machine's time.
        here.clock.advance_micros(Clock::System.now().micros() - here.clock.now().micros());
        let folder = TempDir::new().unwrap();
        process::share_vault_key(&here.server.app().config.data, folder.path());
        let url = here.server.app().config.database.clone().unwrap().0;
        let options = ["--database", &url, "--roles", "api,runner", "--concurrency", "1"];
        let mut there = process::Server::new(folder.path(), &options);
        there.start().await;
        let api = here.api.clone().at(there.address);
        let parts = Parts::new(&here.api).await;
        Some(Self { here, there, api, folder, parts })
    }

    /// The server in this process finds that the other one is gone, and takes over.
    async fn take_over(self) -> Self {
        self.here.clock.advance_micros(GONE_MICROS);
        let here =
            self.here.restart_with(|config| config.roles = [Role::Api, Role::Runner].into_iter().collect()).await;
        Self { here, ..self }
    }

    /// A file of a session at the other process.
    fn file_there(&self, session: &str, name: &str) -> PathBuf {
        workspace_file(self.folder.path(), session, name)
    }
}

fn workspace_file(data: &Path, session: &str, name: &str) -> PathBuf {
    let backend = rota_sandbox::Embedded::new(rota_sandbox::Config::new(data)).unwrap();
    backend.session_dir(session).unwrap().join("workspace").join(name)
}

/// The events of a session from its beginning until it rests.
async fn whole_turn(api: &Api, session: &str) -> Vec<Value> {
    api.stream_from(session, 0).await.turn().await
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/with-postgres"]
async fn a_session_moves_when_its_server_is_killed_and_is_told_that_its_files_are_gone() {
    let pair = Pair::start().await.expect(NEEDED);
    let waits = "echo once >> count; touch started; sleep 600";
    let session = pair.parts.session_with(&pair.here.api, script(waits)).await;
    let session = id(&session).to_owned();
    appears(pair.file_there(&session, "started")).await;
    let mut pair = pair;
    pair.there.kill();
    let pair = pair.take_over().await;

    let events = whole_turn(&pair.here.api, &session).await;
    let result = first(&events, "agent.tool_result");
    assert_eq!(result["is_error"], true);
    assert!(text(result).starts_with("The server that ran this call is gone."), "{result}");
    assert_eq!(kinds(&events).iter().filter(|kind| **kind == "agent.tool_use").count(), 1);

    let mut stream = pair.here.api.stream(&session).await;
    pair.here.api.events(&session, json!([script("ls -A; echo here")])).await;
    let events = stream.turn().await;
    assert_eq!(first(&events, "agent.tool_result")["is_error"], false);
    assert!(!pair.here.workspace_file(&session, "count").exists(), "the sandbox is a new one");
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/with-postgres"]
async fn between_two_turns_a_session_waits_for_the_server_with_its_files_and_then_goes_on_without() {
    let pair = Pair::start().await.expect(NEEDED);
    let session = pair.parts.session_with(&pair.here.api, script("echo kept > note")).await;
    let session = id(&session).to_owned();
    whole_turn(&pair.here.api, &session).await;
    let mut pair = pair;
    pair.there.kill();
    let pair = pair.take_over().await;
    let mut stream = pair.here.api.stream(&session).await;
    pair.here.api.events(&session, json!([script("cat note")])).await;
    let events = stream.turn().await;
    let result = first(&events, "agent.tool_result");
    assert_eq!(result["is_error"], true);
    assert!(text(result).starts_with("This call was not run."), "{result}");
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/with-postgres"]
async fn a_server_that_was_frozen_writes_nothing_to_a_session_that_has_moved() {
    let pair = Pair::start().await.expect(NEEDED);
    let waits = "touch started; while [ ! -e go ]; do sleep 0.05; done";
    let session = pair.parts.session_with(&pair.here.api, script(waits)).await;
    let session = id(&session).to_owned();
    appears(pair.file_there(&session, "started")).await;
    let frozen = rustix::process::Pid::from_raw(pair.there.pid().unwrap() as i32).unwrap();
    rustix::process::kill_process(frozen, rustix::process::Signal::STOP).unwrap();
    let pair = pair.take_over().await;
    whole_turn(&pair.here.api, &session).await;
    let list = format!("/v1/sessions/{session}/events");
    let before = pair.here.api.all(&list, 1000).await;

    // From here on only the other process runs sessions. It ends the sandbox when it has let go of the session.
    let here = pair.here.restart_with(|config| config.roles = [Role::Api].into_iter().collect()).await;
    here.clock.advance_micros(-GONE_MICROS);
    std::fs::write(workspace_file(pair.folder.path(), &session, "go"), "").unwrap();
    rustix::process::kill_process(frozen, rustix::process::Signal::CONT).unwrap();
    disappears(record(&workspace_file(pair.folder.path(), &session, ""), &session)).await;
    assert_eq!(here.api.all(&list, 1000).await, before);
    assert_eq!(pair.api.get(&format!("/v1/sessions/{session}")).await["status"], "idle");
}
