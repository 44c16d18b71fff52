//! The store itself, on whatever database the tests run: what a transaction is, and that a lost connection is no matter.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use rota_server::{
    db::{Db, Tx, Val},
    error::{Error, Result},
};
use serde_json::json;
use tokio::task::JoinSet;

use crate::{client::invalid, given::environment, server::Rota};

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
async fn a_write_that_overlooks_a_refused_statement_is_no_success() {
    let rota = Rota::without_engine().await;
    if rota.database().is_none() {
        // SQLite undoes the statement alone, and the rest may be committed.
        return;
    }
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
async fn connections_that_the_database_ends_are_opened_again() {
    let rota = Rota::start().await;
    let Some(database) = rota.database() else { return };
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
