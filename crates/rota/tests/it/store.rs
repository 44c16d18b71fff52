//! The store itself, on whatever database the tests run: what a transaction is, that a lost connection is no matter, and what
//! becomes of rows of earlier versions.

use std::{
    fs,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures_util::future::join_all;
use reqwest::{Method, StatusCode};
use rota_server::{
    config::Config,
    db::{Db, Tx, Val},
    error::{Error, Result},
    limits::READ_CONNECTIONS,
};
use serde_json::json;
use tokio::task::JoinSet;

use crate::{
    client::{conflict, invalid},
    database::{self, NEEDED},
    given::{environment, id},
    server::Rota,
};

/// Makes the store of a server that is not started yet, as the first `version` migrations leave it, with `rows` in it.
fn old_store(config: &Config, version: usize, rows: &str) {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../server/src/db/migrations");
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    let migrations = files[..version].iter().map(|file| fs::read_to_string(file).unwrap());
    let sql = migrations.chain([rows.to_owned()]).collect::<Vec<_>>().join("\n");
    if let Some(url) = &config.database {
        let set = format!(
            "CREATE TABLE schema_version (version BIGINT NOT NULL); INSERT INTO schema_version VALUES ({version});"
        );
        return database::run(url.0.clone(), sql + &set);
    }
    let store = rusqlite::Connection::open(config.data.join("rota.db")).unwrap();
    store.execute_batch(&format!("{sql} PRAGMA user_version = {version};")).unwrap();
}

#[tokio::test]
async fn models_that_an_earlier_version_stored_without_a_level_of_effort_have_the_one_that_holds() {
    // As that version wrote it: a user may have said the same, in a text.
    let model =
        |effort: &str| format!(r#""model":{{"id":"m","effort":{effort},"speed":"standard","inference_geo":null}}"#);
    let agent = |effort| format!(r#"{{"name":"a","system":"say \"effort\":null,\"speed\":",{}}}"#, model(effort));
    let (null, low, high) = ("null", r#"{"type":"low"}"#, r#"{"type":"high"}"#);
    let mut rows = String::new();
    for (number, effort) in [(1, null), (2, low)] {
        let text = agent(effort);
        rows += &format!(
            "INSERT INTO agent_versions (agent_id, version, model, config, snapshot, created_at)
             VALUES ('agent_old', {number}, 'm', '{text}', '{text}', 0);"
        );
    }
    for (number, text) in [(1, format!("'{}'", agent(null))), (2, format!("'{}'", agent(low))), (3, "NULL".to_owned())]
    {
        rows += &format!("INSERT INTO sessions (id, workspace_id, agent_id, agent_version, agent, environment_id, metadata,
                 resources, vault_ids, outcomes, status, active_micros, next_seq, next_input, lease_epoch, created_at, updated_at)
             VALUES ('sesn_{number}', 'wrkspc_old', 'agent_old', 1, {text}, 'env_old', '{{}}', '[]', '[]', '[]', 'idle', 0, 1, 1, 0,
                 0, 0);");
    }
    let rota = Rota::with(|config| {
        config.engine.concurrency = 0;
        old_store(config, 10, &rows);
    })
    .await;
    let read = |tx: &mut Tx<'_>| {
        let versions = "SELECT config, snapshot FROM agent_versions WHERE agent_id = 'agent_old' ORDER BY version";
        let sessions = "SELECT agent FROM sessions WHERE workspace_id = 'wrkspc_old' ORDER BY id";
        let versions = tx.all(versions, &[], |row| Ok((row.text(0)?, row.text(1)?)))?;
        Ok((versions, tx.all(sessions, &[], |row| row.opt_text(0))?))
    };
    let (versions, sessions) = rota.server.app().db.read(read).await.unwrap();
    assert_eq!(versions, [high, low].map(|effort| (agent(effort), agent(effort))));
    assert_eq!(sessions, [Some(agent(high)), Some(agent(low)), None]);
}

/// Something to write that stands alone.
fn insert(tx: &mut Tx<'_>, name: &str) -> Result<usize> {
    tx.execute("INSERT INTO nodes (id, alive_until) VALUES ($1, 0)", &[Val::Text(name)])
}

async fn names(db: &Db) -> Vec<String> {
    let sql = "SELECT id FROM nodes WHERE alive_until = 0 ORDER BY id";
    db.read(move |tx| tx.all(sql, &[], |row| row.text(0))).await.unwrap()
}

#[tokio::test]
async fn a_write_that_fails_or_panics_leaves_nothing_and_takes_no_other_with_it() {
    let rota = Rota::without_engine().await;
    let db = &rota.server.app().db;
    let mut writes = JoinSet::new();
    for number in 0..60 {
        let db = db.clone();
        writes.spawn(async move {
            let name = format!("n{number:02}");
            let written = db.write(move |tx| {
                insert(tx, &name)?;
                match number % 3 {
                    0 => Ok(()),
                    1 => Err(Error::invalid("no")),
                    _ => panic!("asked to"),
                }
            });
            match (number % 3, written.await) {
                (0, Ok(())) | (1, Err(Error::Invalid(_))) | (2, Err(Error::Internal(_))) => {}
                (kind, other) => panic!("{kind}: {other:?}"),
            }
        });
    }
    writes.join_all().await;
    let expected: Vec<String> = (0..60).step_by(3).map(|number| format!("n{number:02}")).collect();
    assert_eq!(names(db).await, expected);
}

#[tokio::test]
async fn a_statement_that_the_database_refuses_undoes_its_own_write_only() {
    let rota = Rota::without_engine().await;
    let db = &rota.server.app().db;
    let twice = |tx: &mut Tx<'_>| {
        tx.send("INSERT INTO nodes (id, alive_until) VALUES ('twice', 0)", &[])?;
        tx.send("INSERT INTO nodes (id, alive_until) VALUES ('twice', 0)", &[])
    };
    let (a, refused, b) = tokio::join!(db.write(|tx| insert(tx, "a")), db.write(twice), db.write(|tx| insert(tx, "b")));
    assert!(a.is_ok() && b.is_ok(), "{a:?} {b:?}");
    assert!(matches!(refused, Err(Error::Database(_))), "{refused:?}");
    assert_eq!(names(db).await, ["a", "b"]);
}

#[tokio::test]
async fn questions_see_what_was_written_before_and_are_answered_in_any_order_or_by_nobody() {
    let rota = Rota::without_engine().await;
    let db = &rota.server.app().db;
    let asked = |tx: &mut Tx<'_>| {
        insert(tx, "a")?;
        insert(tx, "b")?;
        let all = tx.ask("SELECT id FROM nodes WHERE alive_until = 0 ORDER BY id", &[])?;
        drop(tx.ask("SELECT id FROM nodes WHERE id = 'a'", &[])?);
        let one = tx.ask("SELECT id FROM nodes WHERE id = $1", &[Val::Text("b")])?;
        let one = tx.answer(one, |row| row.text(0))?;
        insert(tx, "c")?;
        Ok((tx.answer(all, |row| row.text(0))?, one))
    };
    let (all, one) = db.write(asked).await.unwrap();
    assert!(all.starts_with(&["a".to_owned(), "b".to_owned()]), "{all:?}");
    assert_eq!(one, ["b"]);
    assert_eq!(names(db).await, ["a", "b", "c"]);
}

/// SQLite undoes the statement alone, and the rest may be committed.
#[tokio::test]
#[ignore = "needs PostgreSQL: tests/with-postgres"]
async fn a_write_that_overlooks_a_refused_statement_is_no_success() {
    let rota = Rota::without_engine().await;
    rota.database().expect(NEEDED);
    let db = &rota.server.app().db;
    let overlooks = |tx: &mut Tx<'_>| {
        insert(tx, "once")?;
        drop(insert(tx, "once"));
        Ok(())
    };
    let (a, overlooked, b) =
        tokio::join!(db.write(|tx| insert(tx, "a")), db.write(overlooks), db.write(|tx| insert(tx, "b")));
    assert!(a.is_ok() && b.is_ok());
    assert!(matches!(overlooked, Err(Error::Database(_))), "{overlooked:?}");
    assert_eq!(names(db).await, ["a", "b"]);
}

#[tokio::test]
async fn a_character_that_not_every_database_can_hold_is_refused_by_all() {
    let rota = Rota::without_engine().await;
    let refused = rota.api.post_refused("/v1/environments", json!({"name": "a\u{0}b"})).await;
    assert_eq!(refused, invalid("name: value must not contain the character U+0000"));
    let written = rota.server.app().db.write(|tx| insert(tx, "a\u{0}b")).await;
    assert!(matches!(written, Err(Error::Invalid(_))), "{written:?}");
}

#[tokio::test]
async fn a_read_cannot_write() {
    let rota = Rota::without_engine().await;
    let db = &rota.server.app().db;
    db.read(|tx| insert(tx, "a")).await.unwrap_err();
    assert!(names(db).await.is_empty());
}

#[tokio::test]
async fn a_read_that_panics_keeps_no_connection_from_later_ones() {
    let rota = Rota::without_engine().await;
    let db = &rota.server.app().db;
    // More than there are connections: one that is not given back, or given back in the middle of a snapshot, is met.
    for number in 0..2 * READ_CONNECTIONS {
        let panics = |tx: &mut Tx<'_>| -> Result<()> {
            tx.one("SELECT 1 FROM nodes", &[], |_| Ok(()))?;
            panic!("asked to");
        };
        assert!(matches!(db.read(panics).await, Err(Error::Internal(_))));
        let name = format!("n{number:02}");
        db.write(move |tx| insert(tx, &name)).await.unwrap();
        assert_eq!(names(db).await.len(), number + 1, "a read sees what was written before it");
    }
}

/// SQLite knows no such bound.
#[tokio::test]
#[ignore = "needs PostgreSQL: tests/with-postgres"]
async fn a_statement_that_takes_too_long_is_not_run_again() {
    let rota = Rota::without_engine().await;
    rota.database().expect(NEEDED);
    let ran = Arc::new(AtomicUsize::new(0));
    let count = ran.clone();
    let slow = move |tx: &mut Tx<'_>| {
        count.fetch_add(1, Ordering::Relaxed);
        tx.execute("SET LOCAL statement_timeout = '50ms'", &[])?;
        tx.one("SELECT 1 FROM pg_sleep(30)", &[], |_| Ok(()))
    };
    let refused = rota.server.app().db.write(slow).await;
    assert!(matches!(&refused, Err(Error::Database(cause)) if cause.to_string().contains("statement timeout")));
    assert_eq!(ran.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn of_those_who_take_one_name_at_the_same_moment_one_has_it_and_the_others_are_told() {
    const CLIENTS: usize = 12;
    let rota = Rota::without_engine().await;
    let admin = rota.administrator().await;
    let taken = |what: &str, name: &str| match what {
        "/v1/environments" => conflict(format!("An environment named \"{name}\" already exists in this workspace.")),
        _ => conflict(format!("A workspace named \"{name}\" already exists.")),
    };
    for (api, path) in [(&rota.api, "/v1/environments"), (&admin, "/v1/organizations/workspaces")] {
        for round in 0..6 {
            let made = (0..CLIENTS).map(|client| api.post(path, json!({"name": format!("{round} {client}")})));
            let made = join_all(made).await;
            let (new, renamed) = (format!("new {round}"), format!("renamed {round}"));
            let (to_new, to_renamed) = (json!({"name": new}), json!({"name": renamed}));
            let create = (0..CLIENTS).map(|_| api.send(Method::POST, path, Some(&to_new)));
            let places: Vec<String> = made.iter().map(|made| format!("{path}/{}", id(made))).collect();
            let rename = places.iter().map(|place| api.send(Method::POST, place, Some(&to_renamed)));
            let (created, renames) = tokio::join!(join_all(create), join_all(rename));
            for (answers, name) in [(created, new), (renames, renamed)] {
                let (won, lost): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status.is_success());
                assert_eq!(won.len(), 1, "{path} {name}");
                assert!(lost.iter().all(|answer| answer.refusal() == taken(path, &name)), "{lost:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_server_is_not_ready_while_no_write_can_be_made() {
    let rota = Rota::without_engine().await;
    let is_ready = async |rota: &Rota| {
        let answer = rota.api.http.get(format!("{}/readyz", rota.api.base)).send().await.unwrap();
        answer.status() == StatusCode::OK
    };
    let tried = async |rota: &Rota| {
        let sql = "SELECT writes_tried FROM organization";
        rota.server.app().db.lookup(sql, &[], |row| row.int(0)).await.unwrap()
    };
    for _ in 0..20 {
        assert!(is_ready(&rota).await);
    }
    assert!(tried(&rota).await.unwrap() < 20, "it does not write each time");
    // Those who are connected already go on, so they are ended.
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid()";
    if let Some(database) = rota.database() {
        let set = "SET default_transaction_read_only = on";
        database.run(&format!("ALTER DATABASE {} {set}; {end}", database.name()));
    } else {
        let forbid = |tx: &mut Tx<'_>| tx.one("PRAGMA query_only = ON", &[], |_| Ok(()));
        rota.server.app().db.write(forbid).await.unwrap();
    }
    let refused = rota.api.post_refused("/v1/environments", json!({"name": "a"})).await;
    assert_eq!(refused.status, 500);
    assert!(!is_ready(&rota).await, "a write has failed");
    assert!(!is_ready(&rota).await, "and would again");
    rota.api.get("/v1/environments").await;
    if let Some(database) = rota.database() {
        let reset = "RESET default_transaction_read_only";
        database.run(&format!("SET transaction_read_only = off; ALTER DATABASE {} {reset}; {end}", database.name()));
        assert!(is_ready(&rota).await);
    } else {
        assert!(is_ready(&rota.restart().await).await);
    }
}

#[tokio::test]
async fn what_is_read_under_a_lock_is_true_until_the_commit() {
    let rota = Rota::without_engine().await;
    let db = &rota.server.app().db;
    db.write(|tx| insert(tx, "count")).await.unwrap();
    let ran = Arc::new(AtomicUsize::new(0));
    let mut writes = JoinSet::new();
    for _ in 0..100 {
        let (db, ran) = (db.clone(), ran.clone());
        let add = move |tx: &mut Tx<'_>| {
            ran.fetch_add(1, Ordering::Relaxed);
            tx.lock("nodes WHERE id = $1", &[Val::Text("count")])?;
            let count = tx.one("SELECT alive_until FROM nodes WHERE id = 'count'", &[], |row| row.int(0))?;
            tx.send("UPDATE nodes SET alive_until = $1 WHERE id = 'count'", &[Val::Int(count.unwrap() + 1)])
        };
        writes.spawn(async move { db.write(add).await.unwrap() });
    }
    writes.join_all().await;
    let sql = "SELECT alive_until FROM nodes WHERE id = 'count'";
    let count = db.lookup(sql, &[], |row| row.int(0)).await.unwrap();
    assert_eq!(count, Some(100), "closures ran {} times", ran.load(Ordering::Relaxed));
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/with-postgres"]
async fn connections_that_the_database_ends_are_opened_again() {
    let rota = Rota::start().await;
    let database = rota.database().expect(NEEDED);
    environment(&rota.api, "before").await;
    for round in 0..3 {
        database.run(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE datname = current_database() AND pid <> pg_backend_pid()",
        );
        let made = environment(&rota.api, &format!("after {round}")).await;
        let path = format!("/v1/environments/{}", made["id"].as_str().unwrap());
        assert_eq!(rota.api.get(&path).await["name"], json!(format!("after {round}")));
    }
}
