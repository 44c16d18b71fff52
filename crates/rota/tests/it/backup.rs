//! Copies of a store, taken while it is used and put in place elsewhere; and what a check finds wrong with one.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Output,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use rota_server::{clock::Clock, config::Config};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    process::Command,
    task::JoinSet,
    time::{Duration, sleep, timeout},
};

use crate::{
    client::Api,
    database::{Database, NEEDED},
    files::upload,
    given::{Parts, id, script},
    process,
    server::{PATIENCE, Rota, VAULT_KEY},
    vaults::{bearer, credentials, vault},
};

/// The id of a file with its content, or of a session.
type Answered = (String, Option<String>);
/// Something that is done to a backup.
type Change<'a> = &'a dyn Fn();

/// The exit code of a backup or a check that found something wrong.
const WRONG: i32 = 3;

async fn rota(arguments: &[&str], folders: &[(&str, &Path)]) -> Output {
    let mut command = Command::from(process::rota());
    command.args(arguments);
    for (option, folder) in folders {
        command.arg(option).arg(folder);
    }
    command.output().await.unwrap()
}

fn told(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|told| String::from_utf8_lossy(told)).concat()
}

async fn done(arguments: &[&str], folders: &[(&str, &Path)]) -> String {
    let output = rota(arguments, folders).await;
    assert!(output.status.success(), "{arguments:?}: {}", told(&output));
    told(&output)
}

async fn refused(arguments: &[&str], folders: &[(&str, &Path)], because: &str) {
    let output = rota(arguments, folders).await;
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", told(&output));
    assert!(told(&output).contains(because), "{arguments:?}: {}", told(&output));
}

/// What a command says that does its work and finds something wrong.
async fn wrong(arguments: &[&str], folders: &[(&str, &Path)]) -> String {
    let output = rota(arguments, folders).await;
    assert_eq!(output.status.code(), Some(WRONG), "{arguments:?}: {}", told(&output));
    told(&output)
}

/// What a check of a store finds, as pairs of the kind and the id.
async fn problems(data: &Path) -> Vec<(String, String)> {
    let output = rota(&["check", "--json"], &[("--data", data)]).await;
    let found: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", told(&output)));
    let problems = found["problems"].as_array().unwrap();
    assert_eq!(found["problem_count"], problems.len());
    assert_eq!(output.status.code(), Some(if problems.is_empty() { 0 } else { WRONG }), "{found}");
    let text = |problem: &Value, field: &str| problem[field].as_str().unwrap().to_owned();
    problems.iter().map(|problem| (text(problem, "kind"), text(problem, "id"))).collect()
}

/// A server on SQLite, whatever the tests run on.
async fn on_sqlite() -> Rota {
    Rota::with(|config| config.database = None).await
}

fn data(rota: &Rota) -> PathBuf {
    rota.server.app().config.data.clone()
}

/// The only blob of a store.
fn blob(data: &Path) -> PathBuf {
    let folders = fs::read_dir(data.join("blobs")).unwrap().map(|entry| entry.unwrap().path());
    folders.flat_map(|folder| fs::read_dir(folder).unwrap()).next().unwrap().unwrap().path()
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

/// A credential in a vault.
async fn credential(api: &Api) -> Value {
    let vault = vault(api, "keys").await;
    api.post(&credentials(&vault), bearer("https://mcp.example.com")).await
}

/// A server on a data folder that was restored, and the client of another one with the same keys.
async fn served(data: &Path, api: &Api) -> (rota_server::Server, Api) {
    let config = Config { data: data.to_owned(), listen: "127.0.0.1:0".to_owned(), ..Config::default() };
    let server = rota_server::serve(config, Clock::System).await.unwrap();
    let api = api.clone().at(server.address);
    (server, api)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_under_load_has_what_was_answered_before_it_and_serves_elsewhere() {
    const WRITERS: usize = 4;
    const AT_LEAST: usize = 40;
    let rota = on_sqlite().await;
    let parts = Arc::new(Parts::new(&rota.api).await);
    // Each file with its content, and sessions, in the order of their answers.
    let answered: Arc<Mutex<Vec<Answered>>> = Arc::default();
    let ending = Arc::new(AtomicBool::new(false));
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let (api, parts, answered, ending) = (rota.api.clone(), parts.clone(), answered.clone(), ending.clone());
        writers.spawn(async move {
            for turn in 0.. {
                if ending.load(Ordering::Relaxed) {
                    return;
                }
                let content = format!("file {turn} of {writer}");
                let file = upload(&api, "note.txt", content.as_bytes()).await;
                answered.lock().unwrap().push((id(&file).to_owned(), Some(content)));
                let session = parts.session(&api, json!({})).await;
                answered.lock().unwrap().push((id(&session).to_owned(), None));
            }
        });
    }
    let many = async {
        while answered.lock().unwrap().len() < AT_LEAST {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, many).await.unwrap();
    let before = answered.lock().unwrap().clone();
    let folders = TempDir::new().unwrap();
    let (to, other) = (folders.path().join("backup"), folders.path().join("other"));
    let said = done(&["backup"], &[("--data", &data(&rota)), ("--to", &to)]).await;
    assert!(said.contains("NOT in it: the vault key "), "{said}");
    assert!(!to.join(VAULT_KEY).exists());
    ending.store(true, Ordering::Relaxed);
    timeout(PATIENCE, writers.join_all()).await.unwrap();

    let said = done(&["restore"], &[("--from", &to), ("--data", &other)]).await;
    assert!(said.contains("each has the checksum that it had") && said.contains("put the vault key "), "{said}");
    fs::copy(data(&rota).join(VAULT_KEY), other.join(VAULT_KEY)).unwrap();
    assert_eq!(problems(&other).await, []);
    let (server, api) = served(&other, &rota.api).await;
    for (id, content) in before {
        match content {
            // Its bytes are those of its row, as the check has found.
            Some(content) => assert_eq!(api.get(&format!("/v1/files/{id}")).await["size_bytes"], content.len()),
            None => assert_eq!(api.get(&format!("/v1/sessions/{id}")).await["id"], id),
        }
    }
    server.stop().await;
    assert_eq!(problems(&other).await, []);
}

#[tokio::test]
async fn a_backup_that_was_cut_off_is_refused_and_so_is_one_that_was_changed() {
    let rota = on_sqlite().await;
    upload(&rota.api, "note.txt", b"content").await;
    let (from, folders) = (data(&rota), TempDir::new().unwrap());
    let path = |name: &str| folders.path().join(name);
    // A backup waits for what nobody writes: it is killed there, after it has begun.
    let blob = blob(&from);
    fs::rename(&blob, path("blob")).unwrap();
    let fifo = std::process::Command::new("mkfifo").arg(&blob).status().unwrap();
    assert!(fifo.success());
    let mut backup = Command::from(process::rota());
    backup.arg("backup").arg("--data").arg(&from).arg("--to").arg(path("cut"));
    let mut backup = backup.kill_on_drop(true).spawn().unwrap();
    let begun = async {
        while !path("cut").join("manifest.new").exists() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, begun).await.unwrap();
    backup.kill().await.unwrap();
    let restore = ["restore"];
    refused(&restore, &[("--from", &path("cut")), ("--data", &path("new"))], "a backup that was cut off").await;
    refused(&["backup"], &[("--data", &from), ("--to", &path("cut"))], "is not empty").await;
    fs::remove_file(&blob).unwrap();
    fs::rename(path("blob"), &blob).unwrap();

    let whole = path("whole");
    done(&["backup", "--with-keys"], &[("--data", &from), ("--to", &whole)]).await;
    let manifest = whole.join("manifest.jsonl");
    let list = fs::read(&manifest).unwrap();
    assert_eq!(fs::metadata(whole.join(VAULT_KEY)).unwrap().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(&whole).unwrap().mode() & 0o777, 0o700);
    let copied = whole.join("blobs").join(blob.strip_prefix(from.join("blobs")).unwrap());
    // What is in the way, and the words for it. Each is undone.
    let changes: [(Change<'_>, Change<'_>, &str); 6] = [
        (&|| fs::remove_file(&manifest).unwrap(), &|| fs::write(&manifest, &list).unwrap(), "has no backup"),
        (
            &|| fs::write(&manifest, &list[..list.len() / 2]).unwrap(),
            &|| fs::write(&manifest, &list).unwrap(),
            "is damaged",
        ),
        (
            &|| fs::write(&copied, "CONTENT").unwrap(),
            &|| fs::write(&copied, "content").unwrap(),
            "has another checksum than it had",
        ),
        (
            &|| fs::write(&copied, "conten").unwrap(),
            &|| fs::write(&copied, "content").unwrap(),
            "has another length than it had",
        ),
        (&|| fs::rename(&copied, path("away")).unwrap(), &|| fs::rename(path("away"), &copied).unwrap(), "is missing"),
        (
            &|| fs::create_dir(path("new")).and_then(|()| fs::write(path("new").join("a"), "a")).unwrap(),
            &|| fs::remove_dir_all(path("new")).unwrap(),
            "is not empty",
        ),
    ];
    for (change, undo, because) in changes {
        change();
        refused(&restore, &[("--from", &whole), ("--data", &path("new"))], because).await;
        let there = fs::read_dir(path("new")).map_or(0, Iterator::count);
        assert!(there <= 1, "nothing was put there: {because}");
        undo();
    }
    // With the key, that is all that a server needs.
    done(&restore, &[("--from", &whole), ("--data", &path("new"))]).await;
    assert_eq!(problems(&path("new")).await, []);
    served(&path("new"), &rota.api).await.0.stop().await;
}

#[tokio::test]
async fn a_backup_of_a_newer_program_is_refused() {
    let rota = on_sqlite().await;
    let folders = TempDir::new().unwrap();
    let to = folders.path().join("backup");
    done(&["backup"], &[("--data", &data(&rota)), ("--to", &to)]).await;
    let manifest = to.join("manifest.jsonl");
    let list = fs::read_to_string(&manifest).unwrap();
    let (before, number) = list.split_once("\"schema\":").unwrap();
    let (_, after) = number.split_once(',').unwrap();
    fs::write(&manifest, format!("{before}\"schema\":9999,{after}")).unwrap();
    let restored = folders.path().join("new");
    refused(&["restore"], &[("--from", &to), ("--data", &restored)], "use the newer program").await;
    assert!(!restored.exists());
}

#[tokio::test]
async fn a_folder_into_which_a_restore_was_cut_off_begins_no_store() {
    let folder = TempDir::new().unwrap();
    let config = Config { data: folder.path().to_owned(), listen: "127.0.0.1:0".to_owned(), ..Config::default() };
    let refusal = async || rota_server::serve(config.clone(), Clock::System).await.err().unwrap().to_string();
    fs::write(folder.path().join("restoring"), "").unwrap();
    let said = refusal().await;
    assert!(said.contains("that was cut off: empty ") && said.contains("run `rota restore` again"), "{said}");
    fs::remove_file(folder.path().join("restoring")).unwrap();
    fs::create_dir_all(folder.path().join("blobs/ab")).unwrap();
    fs::write(folder.path().join("blobs/ab/blob_x"), "").unwrap();
    let said = refusal().await;
    assert!(said.contains("has the content of files, and no store knows them: rota.db is missing or empty"), "{said}");
    assert!(!folder.path().join("rota.db").exists());
}

#[tokio::test]
async fn a_check_names_each_thing_that_is_wrong_and_nothing_else() {
    let rota = on_sqlite().await;
    let parts = Parts::new(&rota.api).await;
    let session = parts.session_with(&rota.api, script("echo hello")).await;
    rota.api.stream_from(id(&session), 0).await.turn().await;
    let (session, other) = (id(&session).to_owned(), parts.session(&rota.api, json!({})).await);
    upload(&rota.api, "note.txt", b"content").await;
    let credential = id(&credential(&rota.api).await).to_owned();
    let from = data(&rota);
    assert_eq!(problems(&from).await, [], "while the server runs");
    rota.server.stop().await;
    assert_eq!(problems(&from).await, []);
    let (database, key, blob) = (from.join("rota.db"), from.join(VAULT_KEY), blob(&from));
    let run = |sql: &str| rusqlite::Connection::open(&database).unwrap().execute_batch(sql).unwrap();
    let kept = TempDir::new().unwrap();
    fs::copy(&database, kept.path().join("rota.db")).unwrap();
    // What is done to the store, and the kind and the id of what is wrong then.
    let id_of = |kind: &str, id: &str| vec![(kind.to_owned(), id.to_owned())];
    let cases = [
        (format!("DELETE FROM session_events WHERE session_id = '{session}' AND seq = 2"), id_of("log", &session)),
        (
            format!("UPDATE session_events SET body = 'no' WHERE session_id = '{session}' AND seq = 2"),
            id_of("log", &session),
        ),
        (format!("UPDATE sessions SET next_seq = next_seq + 1 WHERE id = '{session}'"), id_of("log", &session)),
        (format!("UPDATE sessions SET status = 'running' WHERE id = '{session}'"), id_of("state", &session)),
        (format!("UPDATE sessions SET status = 'lost' WHERE id = '{session}'"), id_of("state", &session)),
        (format!("UPDATE sessions SET runnable_at = 1 WHERE id = '{session}'"), id_of("state", &session)),
        (format!("UPDATE sessions SET agent_version = 99 WHERE id = '{}'", id(&other)), id_of("state", id(&other))),
        (format!("DELETE FROM sessions WHERE id = '{session}'"), id_of("log", &session)),
        ("UPDATE credentials SET secrets = secrets || 'A'".to_owned(), id_of("secret", &credential)),
        ("UPDATE files SET sha256 = 'other'".to_owned(), id_of("damaged_bytes", &name(&blob))),
        ("UPDATE files SET size_bytes = 1".to_owned(), id_of("damaged_bytes", &name(&blob))),
    ];
    for (sql, expected) in cases {
        run(&sql);
        assert_eq!(problems(&from).await, expected, "{sql}");
        fs::copy(kept.path().join("rota.db"), &database).unwrap();
    }
    fs::write(&blob, "CONTENT").unwrap();
    assert_eq!(problems(&from).await, id_of("damaged_bytes", &name(&blob)));
    fs::remove_file(&blob).unwrap();
    assert_eq!(problems(&from).await, id_of("missing_bytes", &name(&blob)));
    let to = kept.path().join("backup");
    let said = wrong(&["backup"], &[("--data", &from), ("--to", &to)]).await;
    assert!(said.contains(&name(&blob)), "{said}");
    fs::write(&blob, "content").unwrap();
    fs::rename(&key, kept.path().join(VAULT_KEY)).unwrap();
    let found = problems(&from).await;
    assert!(matches!(&found[..], [(kind, _)] if kind == "secret"), "{found:?}");
    assert!(!key.exists(), "a check makes no key");
    fs::rename(kept.path().join(VAULT_KEY), &key).unwrap();
    assert_eq!(problems(&from).await, []);
    // A page in the middle of the store, with what it has not.
    let mut bytes = fs::read(&database).unwrap();
    let middle = bytes.len() / 4096 / 2 * 4096;
    bytes[middle..middle + 4096].fill(0xff);
    fs::write(&database, bytes).unwrap();
    let found = problems(&from).await;
    assert!(found.iter().any(|(kind, id)| kind == "store" && id == "rota.db"), "{found:?}");
}

#[tokio::test]
async fn what_is_no_store_is_neither_copied_nor_checked() {
    let folder = TempDir::new().unwrap();
    let to = folder.path().join("to");
    refused(&["check"], &[("--data", folder.path())], "has no store").await;
    refused(&["backup"], &[("--data", folder.path()), ("--to", &to)], "has no store").await;
    fs::write(folder.path().join("database"), "postgres://db.internal/rota\n").unwrap();
    refused(&["check"], &[("--data", folder.path())], "is the database postgres://db.internal/rota").await;
    refused(&["backup"], &[("--data", folder.path()), ("--to", &to)], "is the database postgres://db.internal").await;
    assert!(!to.exists());
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/with-postgres"]
async fn a_backup_of_a_server_on_a_database_has_its_files_and_says_what_dumps_the_rest() {
    let rota = Rota::start().await;
    let url = rota.database().map(Database::url).expect(NEEDED).0;
    let parts = Parts::new(&rota.api).await;
    let session = parts.session_with(&rota.api, script("echo hello")).await;
    rota.api.stream_from(id(&session), 0).await.turn().await;
    upload(&rota.api, "note.txt", b"content").await;
    credential(&rota.api).await;
    let (from, folders) = (data(&rota), TempDir::new().unwrap());
    let to = folders.path().join("backup");
    let said = done(&["backup", "--database", &url], &[("--data", &from), ("--to", &to)]).await;
    assert!(said.contains("NOT in it: the store, which is a database"), "{said}");
    assert!(said.contains("pg_dump --format=custom --file=") && !said.contains('@'), "{said}");
    assert!(!to.join("rota.db").exists());
    assert_eq!(fs::read(blob(&to)).unwrap(), b"content");
    let restored = folders.path().join("restored");
    let said = done(&["restore"], &[("--from", &to), ("--data", &restored)]).await;
    assert!(said.contains("with pg_restore"), "{said}");
    assert_eq!(fs::read(blob(&restored)).unwrap(), b"content");

    let check = ["check", "--database", &url];
    let said = done(&check, &[("--data", &from)]).await;
    assert!(said.contains("Nothing is wrong."), "{said}");
    let session = id(&session);
    rota.database().unwrap().run(&format!("UPDATE sessions SET next_seq = next_seq + 1 WHERE id = '{session}'"));
    fs::remove_file(blob(&from)).unwrap();
    let output = wrong(&check, &[("--data", &from)]).await;
    assert!(output.contains(session) && output.contains("missing_bytes"), "{output}");
}
