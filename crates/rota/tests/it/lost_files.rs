//! Files of sessions and the store that knows them: one without the other.

use std::{fs, time::Duration};

use rota_server::{
    config::Role,
    db::{Tx, Val},
    limits::TRASH_KEPT_MICROS,
};
use serde_json::Value;
use tokio::time::{sleep, timeout};

use crate::{
    given::{Parts, id, script},
    server::{PATIENCE, Rota, appears},
};

/// A server with a session that has a file `note`.
async fn with_a_file() -> (Rota, String) {
    let rota = Rota::start().await;
    let session = Parts::new(&rota.api).await.session_with(&rota.api, script("echo kept > note")).await;
    rota.api.stream_from(id(&session), 0).await.turn().await;
    let session = id(&session).to_owned();
    assert!(rota.workspace_file(&session, "note").exists());
    (rota, session)
}

/// How many sessions have files that were set aside.
fn set_aside(rota: &Rota) -> usize {
    rota.server.app().sandboxes.backend().all_set_aside().unwrap().1.len()
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let looking = async {
        while !is_so() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, looking).await.unwrap_or_else(|_| panic!("{what}"));
}

#[tokio::test]
async fn a_start_without_the_store_that_knows_a_folders_sessions_is_refused_and_changes_nothing() {
    let (rota, session) = with_a_file().await;
    let note = rota.workspace_file(&session, "note");
    let (config, clock) = (rota.server.app().config.clone(), rota.clock.clone());
    let data = config.data.clone();
    let database = rota.database().map(|database| {
        let url = database.url();
        move |sql: &str| crate::database::run(url.0.clone(), sql.to_owned())
    });
    let refusal = async || rota_server::serve(config.clone(), clock.clone()).await.err().unwrap().to_string();
    rota.server.stop().await;
    let told = format!("{} has the files of 1 sessions, and no store knows them: ", data.display());
    match &database {
        None => {
            for name in ["rota.db", "rota.db-wal", "rota.db-shm"] {
                drop(fs::rename(data.join(name), data.join(format!("away-{name}"))));
            }
            assert!(refusal().await.starts_with(&(told.clone() + "rota.db is missing or empty. Mount")));
            assert!(!data.join("rota.db").exists(), "none was begun");
            fs::write(data.join("rota.db"), "").unwrap();
            assert!(refusal().await.starts_with(&told), "an empty file is no store");
            fs::rename(data.join("away-rota.db"), data.join("rota.db")).unwrap();
        }
        Some(run) => {
            run("ALTER SCHEMA public RENAME TO away; CREATE SCHEMA public");
            let refused = refusal().await;
            assert!(refused.starts_with(&told) && refused.contains(" is empty. Name the right database"), "{refused}");
            // Fails unless nothing was made there.
            run("DROP SCHEMA public RESTRICT; ALTER SCHEMA away RENAME TO public");
        }
    }
    let server = rota_server::serve(config, clock).await.unwrap();
    assert!(note.exists());
    assert!(server.first_key.is_none());
    server.stop().await;
}

#[tokio::test]
async fn files_of_a_session_that_the_store_does_not_know_are_kept_for_a_day() {
    let (rota, session) = with_a_file().await;
    let note = rota.workspace_file(&session, "note");
    let rota = as_if_unknown(rota, &session).await;
    until("the files are set aside", || set_aside(&rota) == 1 && !note.exists()).await;
    rota.clock.advance_micros(TRASH_KEPT_MICROS - 1_000_000);
    let rota = rota.restart().await;
    rota.server.app().db.read(|_| Ok(())).await.unwrap();
    assert_eq!(set_aside(&rota), 1, "it is not a day yet");
    rota.clock.advance_micros(2_000_000);
    let rota = rota.restart().await;
    until("they are deleted", || set_aside(&rota) == 0).await;
    assert!(!note.exists());
}

#[tokio::test]
async fn a_session_that_the_store_knows_again_has_its_files_back() {
    let (rota, session) = with_a_file().await;
    let note = rota.workspace_file(&session, "note");
    let rota = as_if_unknown(rota, &session).await;
    until("the files are set aside", || set_aside(&rota) == 1).await;
    rename(&rota, "sesn_unknown", &session).await;
    let rota = rota.restart().await;
    appears(note).await;
    // The message of the first turn is not of a moment ago.
    rota.advance_seconds(6);
    let mut stream = rota.api.stream(&session).await;
    rota.api.events(&session, serde_json::json!([script("cat note")])).await;
    let report = stream.turn().await;
    assert!(report.iter().any(|event| event["type"] == "agent.tool_result" && says(event, "kept")), "{report:#?}");
}

fn says(event: &Value, word: &str) -> bool {
    event["content"][0]["text"].as_str().unwrap_or_default().contains(word)
}

async fn as_if_unknown(rota: Rota, session: &str) -> Rota {
    rename(&rota, session, "sesn_unknown").await;
    rota.restart().await
}

async fn rename(rota: &Rota, from: &str, to: &str) {
    let (from, to) = (from.to_owned(), to.to_owned());
    let rename = move |tx: &mut Tx<'_>| {
        tx.execute("UPDATE sessions SET id = $2 WHERE id = $1", &[Val::Text(&from), Val::Text(&to)])
    };
    assert_eq!(rota.server.app().db.write(rename).await.unwrap(), 1);
}

#[tokio::test]
async fn a_folder_that_has_lost_the_name_of_its_server_loses_no_files() {
    let (rota, session) = with_a_file().await;
    let note = rota.workspace_file(&session, "note");
    let (config, clock) = (rota.server.app().config.clone(), rota.clock.clone());
    let name = config.data.join("node");
    let named = fs::read_to_string(&name).unwrap();
    rota.server.stop().await;
    fs::remove_file(&name).unwrap();
    if config.database.is_some() {
        let refused = rota_server::serve(config.clone(), clock.clone()).await.err().unwrap().to_string();
        assert!(refused.contains("node is missing, which has the name of the server"), "{refused}");
        assert!(!name.exists());
        fs::write(&name, &named).unwrap();
    }
    let server = rota_server::serve(config, clock).await.unwrap();
    assert_eq!(fs::read_to_string(&name).unwrap(), named);
    server.stop().await;
    assert!(note.exists());
}

#[tokio::test]
async fn files_of_a_deleted_session_go_at_once_also_when_their_server_was_away() {
    let (rota, session) = with_a_file().await;
    let folder = rota.server.app().sandboxes.backend().session_dir(&session).unwrap();
    // One that runs no sessions deletes no files.
    let rota = rota.restart_with(|config| config.roles = [Role::Api].into_iter().collect()).await;
    rota.api.delete(&format!("/v1/sessions/{session}")).await;
    assert!(folder.exists());
    let rota = rota.restart_with(|config| config.roles = [Role::Api, Role::Runner].into_iter().collect()).await;
    until("the files are deleted", || !folder.exists()).await;
    assert_eq!(set_aside(&rota), 0);
    let noted = "SELECT count(*) FROM deleted_sessions";
    let looking = async {
        while rota.server.app().db.lookup(noted, &[], |row| row.int(0)).await.unwrap() != Some(0) {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, looking).await.expect("nothing has to be known of it any more");
}
