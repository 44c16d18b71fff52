//! Checkpoints: a session goes on at another server with the files that it had when it last was at rest.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use rota_server::{
    config::{Config, Role},
    db::{Db, Row, Tx, Val},
    error::Result,
    limits::CHECKPOINT_KEPT_MICROS,
};
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use crate::{
    bucket,
    client::Api,
    database::NEEDED,
    files::{files_of, upload},
    git_server::{GitServer, Manner},
    given::{Parts, id, script},
    process,
    repositories::{allow, repository},
    server::{PATIENCE, Rota, appears},
    stream::{Stream, first, stop_reason, text},
    wire::State,
};

/// What the agent reads first where all is lost, and where something is.
const ALL_LOST: &str =
    "This call was not run. The session has moved to another server because the one that ran it is gone, and";
const SOME_LOST: &str =
    "This call was not run. The session has moved to another server because the one that ran it is gone. Its";

/// What there is in a sandbox: names, kinds, permissions, sizes, times, owners, and what is in each file.
const LOOK: &str = "cd /workspace && find . ~ /mnt/session/outputs ! -type p -printf '%p %y %m %s %l %T@ %U\\n' | sort | sha256sum && \
    find . ~ /mnt/session/outputs -type f ! -name sparse -print0 | sort -z | xargs -0 sha256sum | sha256sum && \
    test d/e/file -ef hard && test $(du -k sparse | cut -f1) -lt 4000 && tail -c 3 sparse && find . ! -type p | wc -l";

/// Makes files of many kinds.
const MAKE: &str = "mkdir -p d/e empty && echo one > d/e/file && ln d/e/file hard && ln -s d/e/file link && ln -s /nowhere dead && \
    printf x > $'new\\nline' && printf y > $'\\xff\\xfe' && printf z > '100%' && : > nothing && chmod 750 d && chmod 4755 hard && \
    truncate -s 1G sparse && printf end >> sparse && head -c 3000000 /dev/urandom > big && cp big same && mkfifo fifo && \
    touch -d 2020-01-01 big && echo home > ~/note && echo out > /mnt/session/outputs/o && \
    for i in $(seq 300); do echo $i > d/$i; done && chmod u-s hard";

pub fn on(config: &mut Config) {
    config.sandbox.checkpoints = true;
    config.blobs.folder = Some(config.data.join("blobs"));
}

/// A row of what is stored of a session's checkpoint, when there is one.
async fn stored<T: Send + 'static>(
    db: &Db,
    session: &str,
    columns: &str,
    read: fn(&Row<'_>) -> Result<T>,
) -> Option<T> {
    let sql = format!("SELECT {columns} FROM session_checkpoints WHERE session_id = $1");
    let session = session.to_owned();
    db.read(move |tx| tx.one(&sql, &[Val::Text(&session)], read)).await.unwrap()
}

/// Returns when the files of a session are kept as they were after the event `seq` or later. The last event that they have.
async fn kept_since(rota: &Rota, session: &str, seq: i64) -> i64 {
    let db = &rota.server.app().db;
    let looking = async {
        loop {
            let columns = "CASE WHEN manifest_blob IS NULL OR due_at IS NOT NULL THEN 0 ELSE taken_seq END";
            if let Some(taken) = stored(db, session, columns, |row| row.int(0)).await.filter(|taken| *taken > seq) {
                return taken;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(2 * PATIENCE, looking).await.expect("the files of the session are kept")
}

pub async fn kept(rota: &Rota, session: &str) -> i64 {
    kept_since(rota, session, 0).await
}

/// The blobs that a checkpoint needs, with what they count for.
async fn blobs(rota: &Rota, session: &str) -> BTreeMap<String, i64> {
    let session = session.to_owned();
    let sql = "SELECT blob_id, bytes FROM session_checkpoint_blobs WHERE session_id = $1";
    let read = move |tx: &mut Tx<'_>| tx.all(sql, &[Val::Text(&session)], |row| Ok((row.text(0)?, row.int(1)?)));
    rota.server.app().db.read(read).await.unwrap().into_iter().collect()
}

async fn execute(rota: &Rota, sql: &'static str, session: &str) {
    let session = session.to_owned();
    let changed = rota.server.app().db.write(move |tx| tx.execute(sql, &[Val::Text(&session)])).await.unwrap();
    assert_eq!(changed, 1, "{sql}");
}

/// As if the files were at a server that is gone, and with them what it had put among them.
pub async fn moves(rota: &Rota, session: &str) {
    execute(rota, "UPDATE sessions SET home = 'gone' WHERE id = $1", session).await;
    let session = session.to_owned();
    let placed = "UPDATE session_repositories SET placed_on = 'gone', placing_on = 'gone' WHERE session_id = $1";
    rota.server.app().db.write(move |tx| tx.execute(placed, &[Val::Text(&session)])).await.unwrap();
}

/// A server that takes checkpoints, and a session that has run `command`.
async fn after(command: &str, configure: impl FnOnce(&mut Config)) -> (Rota, String, Stream) {
    let rota = Rota::with(|config| {
        on(config);
        configure(config);
    })
    .await;
    let session = Parts::new(&rota.api).await.session_with(&rota.api, script(command)).await;
    let mut stream = rota.api.stream_from(id(&session), 0).await;
    let events = stream.turn().await;
    assert_eq!(first(&events, "agent.tool_result")["is_error"], false, "{events:?}");
    (rota, id(&session).to_owned(), stream)
}

/// Has a session run a command. Its result.
async fn run(api: &Api, session: &str, stream: &mut Stream, command: &str) -> (String, bool) {
    api.events(session, json!([script(command)])).await;
    let events = stream.turn().await;
    assert_eq!(stop_reason(&events)["type"], "end_turn", "{events:?}");
    let result = first(&events, "agent.tool_result");
    (text(result).to_owned(), result["is_error"] == json!(true))
}

async fn ran(api: &Api, session: &str, stream: &mut Stream, command: &str) -> String {
    let (said, is_error) = run(api, session, stream, command).await;
    assert!(!is_error, "{said}");
    said
}

#[tokio::test]
async fn a_session_goes_on_at_another_server_with_all_its_files_and_is_told_of_nothing() {
    let (rota, session, mut stream) = after(MAKE, |_| {}).await;
    let api = &rota.api;
    let mut seq = kept(&rota, &session).await;
    let before = ran(api, &session, &mut stream, LOOK).await;
    for _ in 0..2 {
        seq = kept_since(&rota, &session, seq).await;
        // What is no longer in the checkpoint is not in the way.
        fs::write(rota.workspace_file(&session, "stray"), "stray").unwrap();
        moves(&rota, &session).await;
        let (told, _) = run(api, &session, &mut stream, LOOK).await;
        assert!(told.contains(before.trim()), "before: {before}\nafter: {told}");
    }
    assert!(!rota.workspace_file(&session, "fifo").exists());
}

#[tokio::test]
async fn a_second_checkpoint_costs_what_has_changed_and_one_without_changes_nothing() {
    let make = "head -c 5000000 /dev/urandom > large; head -c 900000 /dev/urandom > small; for i in $(seq 50); do echo $i > $i; done";
    let (rota, session, mut stream) = after(make, |_| {}).await;
    let api = &rota.api;
    let seq = kept(&rota, &session).await;
    let whole = blobs(&rota, &session).await;
    assert!(whole.values().sum::<i64>() > 5_900_000 && whole.len() == 3, "{whole:?}");
    ran(api, &session, &mut stream, "true").await;
    let seq = kept_since(&rota, &session, seq).await;
    assert_eq!(blobs(&rota, &session).await, whole);
    // A copy is no new content, and neither is what is as before under another name.
    ran(api, &session, &mut stream, "echo new > 7; cp large copy; mv small moved; touch 8; rm 9").await;
    let seq = kept_since(&rota, &session, seq).await;
    let second = blobs(&rota, &session).await;
    let new: Vec<_> = second.iter().filter(|(blob, _)| !whole.contains_key(*blob)).collect();
    assert!(new.len() == 2 && new.iter().map(|(_, bytes)| **bytes).sum::<i64>() < 20_000, "{new:?}");
    ran(api, &session, &mut stream, "rm large copy moved; head -c 100000 /dev/urandom > other").await;
    let seq = kept_since(&rota, &session, seq).await;
    // What is needed no more goes with the next one.
    ran(api, &session, &mut stream, "echo x > 10").await;
    kept_since(&rota, &session, seq).await;
    let last = blobs(&rota, &session).await;
    assert!(last.values().sum::<i64>() < 200_000, "what is needed no more is given up: {last:?}");
    moves(&rota, &session).await;
    let said = ran(api, &session, &mut stream, "cat 7 50; ls | wc -l; wc -c < other").await;
    assert_eq!(said.lines().rev().take(4).collect::<Vec<_>>(), ["100000", "50", "50", "new"], "{said}");
}

#[tokio::test]
async fn outputs_and_uploads_are_not_kept_twice() {
    let rota = Rota::with(on).await;
    let api = &rota.api;
    let content: Vec<u8> = (0..2_000_000_u32).map(|i| (i * 7 + i / 251) as u8).collect();
    let file = upload(api, "a.bin", &content).await;
    let command = "cp /mnt/session/uploads/a copied; head -c 2500000 /dev/urandom > /mnt/session/outputs/made";
    let changes = json!({
        "resources": [{"type": "file", "file_id": id(&file), "mount_path": "a"}],
        "initial_events": [script(command)],
    });
    let session = id(&Parts::new(api).await.session(api, changes).await).to_owned();
    let mut stream = api.stream_from(&session, 0).await;
    stream.turn().await;
    let files = files_of(api, &session, 2).await;
    let seq = kept(&rota, &session).await;
    let counted = blobs(&rota, &session).await;
    assert!(counted.len() == 3 && counted.values().sum::<i64>() < 10_000, "{counted:?}");
    // What the user deletes stays with the session.
    for output in files.iter().filter(|file| file["filename"] == "made") {
        api.delete(&format!("/v1/files/{}", id(output))).await;
    }
    rota.advance_seconds(3700);
    rota_server::sweep::blobs_once(rota.server.app()).await.unwrap();
    moves(&rota, &session).await;
    let said =
        ran(api, &session, &mut stream, "wc -c < /mnt/session/outputs/made; cmp copied /mnt/session/uploads/a").await;
    assert!(said.trim().ends_with("2500000"), "{said}");
    assert!(kept_since(&rota, &session, seq).await > seq);
}

#[tokio::test]
async fn an_agent_is_told_once_what_is_lost_when_the_checkpoint_is_older_than_the_last_change() {
    let (rota, session, mut stream) = after("echo one > kept", |_| {}).await;
    let api = &rota.api;
    let seq = kept(&rota, &session).await;
    // As if the server had died before it could take this one.
    ran(api, &session, &mut stream, "echo two > lost").await;
    kept_since(&rota, &session, seq).await;
    execute(&rota, "UPDATE session_checkpoints SET taken_seq = 1 WHERE session_id = $1", &session).await;
    moves(&rota, &session).await;
    let (said, is_error) = run(api, &session, &mut stream, "cat kept").await;
    assert!(is_error && said.starts_with(SOME_LOST), "{said}");
    assert!(ran(api, &session, &mut stream, "cat kept").await.contains("one"));
}

#[tokio::test]
async fn without_a_checkpoint_all_is_lost_and_the_agent_is_told() {
    let (rota, session, mut stream) = after("echo one > file", |_| {}).await;
    let api = &rota.api;
    kept(&rota, &session).await;
    execute(&rota, "DELETE FROM session_checkpoints WHERE session_id = $1", &session).await;
    moves(&rota, &session).await;
    let (said, is_error) = run(api, &session, &mut stream, "cat file").await;
    assert!(is_error && said.starts_with(ALL_LOST), "{said}");
    ran(api, &session, &mut stream, "test ! -e file").await;
}

#[tokio::test]
async fn a_checkpoint_that_is_damaged_is_not_put_back() {
    for what in ["gone", "changed", "cut"] {
        let (rota, session, mut stream) =
            after("head -c 3000000 /dev/urandom > large; echo small > small", |_| {}).await;
        let api = &rota.api;
        kept(&rota, &session).await;
        let largest = files_below(&rota.server.app().config.data.join("blobs"))
            .into_iter()
            .max_by_key(|file| fs::metadata(file).unwrap().len())
            .unwrap();
        let mut content = fs::read(&largest).unwrap();
        match what {
            "gone" => fs::remove_file(&largest).unwrap(),
            "changed" => {
                content[1000] ^= 1;
                fs::write(&largest, content).unwrap();
            }
            _ => fs::write(&largest, &content[..1000]).unwrap(),
        }
        moves(&rota, &session).await;
        let (said, is_error) = run(api, &session, &mut stream, "cat small").await;
        assert!(is_error && said.starts_with(ALL_LOST), "{what}: {said}");
        ran(api, &session, &mut stream, "test ! -e small && echo again > small").await;
        let seq = kept(&rota, &session).await;
        moves(&rota, &session).await;
        assert!(ran(api, &session, &mut stream, "cat small").await.contains("again"), "{what}: a whole one is taken");
        kept_since(&rota, &session, seq).await;
    }
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

#[tokio::test]
async fn what_is_beyond_a_bound_is_said_and_the_former_checkpoint_stays() {
    type Row = (&'static str, fn(&mut Config));
    let rows: [Row; 2] = [
        ("sandbox.checkpoint_mib", |config| config.sandbox.checkpoint_mib = 1),
        ("is its limit", |config| config.blobs.workspace_mib = 1),
    ];
    for (words, configure) in rows {
        let (rota, session, mut stream) = after("echo one > file", configure).await;
        let api = &rota.api;
        kept(&rota, &session).await;
        ran(api, &session, &mut stream, "head -c 3000000 /dev/urandom > large").await;
        let path = format!("/rota/v1/sessions/{session}");
        let of = |shown: &Value| {
            let warnings = shown["warnings"].as_array().unwrap();
            warnings.iter().find(|warning| warning["code"] == "files_not_kept").cloned()
        };
        let shown = api.once(&path, |shown| of(shown).is_some()).await;
        let message = of(&shown).unwrap()["message"].as_str().unwrap().to_owned();
        assert!(message.contains(words) && message.contains("as they were at 20"), "{message}");
        moves(&rota, &session).await;
        let (said, is_error) = run(api, &session, &mut stream, "true").await;
        assert!(is_error && said.starts_with(SOME_LOST), "{said}");
        ran(api, &session, &mut stream, "cat file && test ! -e large").await;
        api.once(&path, |shown| of(shown).is_none()).await;
    }
}

#[tokio::test]
async fn a_checkpoint_goes_with_its_session_and_thirty_days_after_it_began() {
    let (rota, session, mut stream) = after("head -c 2000000 /dev/urandom > file", |_| {}).await;
    let api = &rota.api;
    kept(&rota, &session).await;
    let usage = async || {
        let sql = "SELECT CAST(coalesce(sum(bytes), 0) AS BIGINT) FROM file_usage";
        rota.server.app().db.lookup(sql, &[], |row| row.int(0)).await.unwrap().unwrap()
    };
    assert!(usage().await > 2_000_000);
    // Activity does not prolong it.
    rota.advance_seconds(CHECKPOINT_KEPT_MICROS / 1_000_000 + 1);
    rota_server::sweep::blobs_once(rota.server.app()).await.unwrap();
    assert_eq!((usage().await, blobs(&rota, &session).await.len()), (0, 0));
    assert_eq!(files_below(&rota.server.app().config.data.join("blobs")), [] as [PathBuf; 0]);
    ran(api, &session, &mut stream, "echo more > more").await;
    assert!(stored(&rota.server.app().db, &session, "taken_seq", |row| row.int(0)).await.is_none());

    let other = Parts {
        agent: crate::given::agent(api, json!({})).await,
        environment: crate::given::environment(api, "other").await,
    };
    let other = id(&other.session_with(api, script("echo file > file")).await).to_owned();
    api.stream_from(&other, 0).await.turn().await;
    kept(&rota, &other).await;
    api.delete(&format!("/v1/sessions/{other}")).await;
    assert_eq!((usage().await, blobs(&rota, &other).await.len()), (0, 0));
    rota.advance_seconds(3700);
    rota_server::sweep::blobs_once(rota.server.app()).await.unwrap();
    assert_eq!(files_below(&rota.server.app().config.data.join("blobs")), [] as [PathBuf; 0]);
}

#[tokio::test]
async fn what_a_background_process_keeps_writing_is_kept_as_it_is_and_said_when_it_comes_back() {
    let command = "echo one > still; (while :; do date >> busy; sleep 0.01; done) > /dev/null 2>&1 & sleep 0.2";
    let (rota, session, mut stream) = after(command, |_| {}).await;
    kept(&rota, &session).await;
    moves(&rota, &session).await;
    let said = ran(&rota.api, &session, &mut stream, "cat still; test -s busy").await;
    assert!(said.contains("one"), "{said}");
}

#[tokio::test]
#[cfg_attr(not(git), ignore = "needs git: apt install git")]
async fn a_repository_comes_along_with_what_the_agent_made_of_it_and_is_cloned_again_where_nothing_is_kept() {
    for checkpoints in [true, false] {
        let host = GitServer::start(Manner::Private).await;
        host.repository("o/app", |folder| fs::write(folder.join("README.md"), "read me\n").unwrap());
        let rota = Rota::with(|config| {
            allow(&host, config);
            on(config);
            config.sandbox.checkpoints = checkpoints;
        })
        .await;
        let api = &rota.api;
        let command = "cd app && echo mine >> README.md && git commit -qam mine && git log --format=%s | head -1";
        let changes = json!({
            "resources": [repository(&host.url("o/app"), &json!({}))],
            "initial_events": [script(command)],
        });
        let session = id(&Parts::new(api).await.session(api, changes).await).to_owned();
        let mut stream = api.stream_from(&session, 0).await;
        stream.turn().await;
        if checkpoints {
            kept(&rota, &session).await;
        }
        let asked = host.asked().len();
        assert!(asked > 0);
        moves(&rota, &session).await;
        let look = "cd /workspace/app && git status --short && git log --format=%s | head -1 && tail -1 README.md";
        let (said, is_error) = run(api, &session, &mut stream, look).await;
        if checkpoints {
            assert!(!is_error && said.trim().ends_with("mine\nmine"), "{said}");
            assert_eq!(host.asked().len(), asked, "it is not cloned again");
        } else {
            assert!(is_error && said.starts_with(ALL_LOST), "{said}");
            let said = ran(api, &session, &mut stream, look).await;
            assert!(said.trim().ends_with("first\nread me"), "{said}");
            assert!(host.asked().len() > asked);
        }
    }
}

#[tokio::test]
#[ignore = "needs a service that speaks S3: tests/with-s3 cargo test -p rota --test it checkpoints -- --include-ignored"]
async fn a_bucket_that_goes_away_in_the_middle_leaves_the_former_checkpoint_and_holds_nobody_up() {
    for state in [State::Closed, State::Silent] {
        let (wire, rota) = bucket::behind_a_line_with(&format!("checkpoints-{state:?}/"), |config| {
            config.sandbox.checkpoints = true;
        })
        .await;
        let api = &rota.api;
        let session = Parts::new(api).await.session_with(api, script("echo one > file")).await;
        let session = id(&session).to_owned();
        let mut stream = api.stream_from(&session, 0).await;
        stream.turn().await;
        let seq = kept(&rota, &session).await;
        let former = blobs(&rota, &session).await;
        wire.becomes_after(7 << 20, state);
        ran(api, &session, &mut stream, "head -c 20000000 /dev/urandom > large; sha256sum large > sum").await;
        wire.has_become(state).await;
        // A message is not held up, nor is the end of its turn.
        ran(api, &session, &mut stream, "echo two > second").await;
        assert_eq!(blobs(&rota, &session).await, former, "{state:?}");
        wire.is(State::Open);
        let looking = async {
            loop {
                // The pause before the next try is over.
                rota.advance_seconds(60);
                let taken = stored(&rota.server.app().db, &session, "taken_seq", |row| row.int(0)).await;
                if taken.is_some_and(|taken| taken > seq) {
                    return;
                }
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(3 * PATIENCE, looking).await.expect("it is taken when the bucket is back");
        // In the middle of what comes back.
        wire.becomes_after(7 << 20, state);
        moves(&rota, &session).await;
        api.events(&session, json!([script("cat file second && sha256sum -c sum")])).await;
        timeout(3 * PATIENCE, stream.until("session.status_rescheduled")).await.expect("it is tried again later");
        wire.is(State::Open);
        rota.advance_seconds(60);
        let events = stream.turn().await;
        let said = text(first(&events, "agent.tool_result")).to_owned();
        assert!(said.contains("one\ntwo\nlarge: OK"), "{state:?}: {said}");
    }
}

/// Servers that are killed, on one database, with one place of files.
struct Fleet {
    here: Rota,
    shared: TempDir,
    config: PathBuf,
    user: Option<(u32, PathBuf)>,
}

const NOBODY: u32 = 65_534;

impl Fleet {
    async fn new(user: Option<u32>) -> Self {
        let shared = TempDir::new().unwrap();
        let blobs = shared.path().join("blobs");
        let here = Rota::with(|config| {
            config.roles = [Role::Api].into_iter().collect();
            config.blobs.folder = Some(blobs.clone());
        })
        .await;
        here.database().expect(NEEDED);
        let now = rota_server::clock::Clock::System.now().micros();
        here.clock.advance_micros(now - here.clock.now().micros());
        let config = shared.path().join("rota.toml");
        fs::write(&config, format!("[blobs]\nfolder = \"{}\"\n[sandbox]\ncheckpoints = true\n", blobs.display()))
            .unwrap();
        let user = user.map(|user| {
            fs::set_permissions(shared.path(), fs::Permissions::from_mode(0o755)).unwrap();
            let program = shared.path().join("rota");
            assert!(Command::new("cp").arg(env!("CARGO_BIN_EXE_rota")).arg(&program).status().unwrap().success());
            chown(&blobs, Some(user), Some(user)).unwrap();
            (user, program)
        });
        Self { here, shared, config, user }
    }

    async fn server(&self, name: &str) -> process::Server {
        let data = self.shared.path().join(name);
        if !data.exists() {
            fs::create_dir(&data).unwrap();
            process::share_vault_key(&self.here.server.app().config.data, &data);
            for (path, user) in [&data, &data.join("vault.key")].into_iter().zip([self.user.as_ref(); 2]) {
                if let Some((user, _)) = user {
                    chown(path, Some(*user), Some(*user)).unwrap();
                }
            }
        }
        let url = self.here.server.app().config.database.clone().unwrap().0;
        let config = self.config.to_str().unwrap();
        let options = ["--config", config, "--database", &url, "--roles", "api,runner", "--concurrency", "2"];
        let mut server = process::Server::new(&data, &options);
        server.user.clone_from(&self.user);
        server.start().await;
        server
    }

    /// Kills a server. The others take it for gone at once.
    fn loses(&self, server: &mut process::Server) {
        server.kill();
        let node = fs::read_to_string(server.data.join("node")).unwrap();
        self.here.database().unwrap().run(&format!("DELETE FROM nodes WHERE id = '{}'", node.trim()));
    }
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/with-postgres"]
async fn a_session_survives_the_end_of_one_server_after_the_other() {
    let users = if rustix::process::geteuid().is_root() { vec![None, Some(NOBODY)] } else { vec![None] };
    for user in users {
        let fleet = Fleet::new(user).await;
        let (here, api) = (&fleet.here, &fleet.here.api);
        let mut a = fleet.server("a").await;
        let session = id(&Parts::new(api).await.session_with(api, script(MAKE)).await).to_owned();
        let mut stream = api.stream_from(&session, 0).await;
        stream.turn().await;
        let seq = kept(here, &session).await;
        let looked = ran(api, &session, &mut stream, LOOK).await;
        let seq = kept_since(here, &session, seq).await;
        fleet.loses(&mut a);

        let mut b = fleet.server("b").await;
        let said = ran(api, &session, &mut stream, LOOK).await;
        assert!(said.contains(looked.trim()), "{user:?}: before: {looked}\nafter: {said}");
        ran(api, &session, &mut stream, "rm -r d big && echo b > b").await;
        kept_since(here, &session, seq).await;
        fleet.loses(&mut b);

        // Back at the first one, which still has its files of before.
        let mut a = fleet.server("a").await;
        let said = ran(api, &session, &mut stream, "test ! -e d && cat b hard").await;
        assert!(said.contains("b\none"), "{user:?}: {said}");
        let seq = stored(&here.server.app().db, &session, "taken_seq", |row| row.int(0)).await.unwrap();
        kept_since(here, &session, seq).await;
        api.events(&session, json!([script("echo lost > lost; touch started; sleep 600")])).await;
        appears(a.data.join("sessions").join(&session).join("workspace/started")).await;
        fleet.loses(&mut a);

        let _b = fleet.server("b").await;
        let events = stream.turn().await;
        let result = first(&events, "agent.tool_result");
        assert!(
            text(result).starts_with("The server that ran this call is gone.")
                && text(result).contains("earlier moment")
        );
        let said = ran(api, &session, &mut stream, "test ! -e lost && cat b").await;
        assert!(said.trim().ends_with('b'), "{user:?}: {said}");
    }
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/with-postgres"]
async fn whenever_a_server_is_killed_its_session_has_its_changes_or_is_told_that_they_are_lost() {
    let fleet = Fleet::new(None).await;
    let (here, api) = (&fleet.here, &fleet.here.api);
    let mut server = fleet.server("0").await;
    let session = id(&Parts::new(api).await.session_with(api, script("echo 0 > file")).await).to_owned();
    let mut stream = api.stream_from(&session, 0).await;
    stream.turn().await;
    kept(here, &session).await;
    let mut there = vec!["file".to_owned()];
    for round in 1..=6 {
        let made = format!("made{round}");
        let command = format!(
            "head -c 30000000 /dev/urandom > large && for i in $(seq 500); do echo {round} > $i; done && touch {made}"
        );
        ran(api, &session, &mut stream, &command).await;
        sleep(Duration::from_millis(300 * round)).await;
        fleet.loses(&mut server);
        server = fleet.server(&round.to_string()).await;
        let (mut said, is_error) = run(api, &session, &mut stream, "ls").await;
        if is_error {
            assert!(said.starts_with(SOME_LOST), "{said}");
            said = ran(api, &session, &mut stream, "ls").await;
        } else {
            there.push(made.clone());
        }
        assert_eq!(said.lines().any(|line| line == made), !is_error, "round {round}: {said}");
        assert!(there.iter().all(|name| said.lines().any(|line| line == name)), "{there:?}: {said}");
    }
}

/// A blob of a checkpoint becomes a pipe that nobody writes to: whoever reads it waits there.
#[tokio::test]
async fn a_server_that_is_killed_while_files_are_put_back_puts_them_back_when_it_is_there_again() {
    let folder = TempDir::new().unwrap();
    let (data, blobs, config) =
        (folder.path().join("data"), folder.path().join("blobs"), folder.path().join("rota.toml"));
    fs::create_dir(&data).unwrap();
    fs::write(&config, format!("[blobs]\nfolder = \"{}\"\n[sandbox]\ncheckpoints = true\n", blobs.display())).unwrap();
    let mut server = process::Server::new(&data, &["--config", config.to_str().unwrap()]);
    let key = process::create_key(&data, &[]);
    server.start().await;
    let client = process::Client::new(server.address, key);
    let agent =
        client.post("/v1/agents", &json!({"name": "a", "model": "playbook", "tools": [crate::given::toolset()]})).await;
    let environment = client.post("/v1/environments", &json!({"name": "e"})).await;
    let make =
        "head -c 3000000 /dev/urandom > large; for i in $(seq 100); do echo $i > $i; done; sha256sum large > sum";
    let body = json!({"agent": id(&agent), "environment_id": id(&environment), "initial_events": [script(make)]});
    let session = id(&client.post("/v1/sessions", &body).await).to_owned();
    let store = || rusqlite::Connection::open(data.join("rota.db")).unwrap();
    let is_kept = || {
        let sql = "SELECT count(*) FROM session_checkpoints WHERE manifest_blob IS NOT NULL AND due_at IS NULL AND taken_seq > 0";
        store().query_row(sql, [], |row| row.get::<_, i64>(0)).is_ok_and(|count| count == 1)
    };
    until("the files of the session are kept", is_kept).await;
    server.kill();
    store().execute("UPDATE sessions SET home = 'gone'", []).unwrap();
    let largest = files_below(&blobs).into_iter().max_by_key(|file| fs::metadata(file).unwrap().len()).unwrap();
    let aside = folder.path().join("aside");
    fs::rename(&largest, &aside).unwrap();
    mknodat(CWD, &largest, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();

    server.start().await;
    let ask = json!({"events": [script("sha256sum -c sum; ls | wc -l")]});
    client.post(&format!("/v1/sessions/{session}/events"), &ask).await;
    let incoming = data.join("sessions/.incoming");
    // A pipe is opened for writing in this way only when somebody reads it; then that one waits for what is written.
    let reading = async {
        loop {
            let opened = rustix::fs::open(&largest, OFlags::WRONLY | OFlags::NONBLOCK, Mode::empty());
            if let Ok(writer) = opened {
                return writer;
            }
            sleep(Duration::from_millis(10)).await;
        }
    };
    let writer = timeout(PATIENCE, reading).await.expect("the large file is waited for");
    assert!(fs::read_dir(&incoming).unwrap().next().is_some(), "what is there so far is aside");
    server.kill();
    drop(writer);
    fs::remove_file(&largest).unwrap();
    fs::rename(&aside, &largest).unwrap();
    server.start().await;
    let path = format!("/v1/sessions/{session}/events");
    for place in 1.. {
        let said = result(&client, &path, place).await;
        if said.contains("large: OK") {
            assert!(said.contains("\n102"), "{said}");
            break;
        }
        // Of the call that waited nobody knows whether it ran.
        assert!(place < 3 && said.starts_with("The server that ran this call is gone."), "{said}");
        client.post(&path, &ask).await;
    }
    until("what was cut off is deleted", || fs::read_dir(&incoming).is_ok_and(|mut trees| trees.next().is_none()))
        .await;
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let looking = async {
        while !is_so() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(2 * PATIENCE, looking).await.unwrap_or_else(|_| panic!("{what}"));
}

/// The result at `place` among those of a session.
async fn result(client: &process::Client, events: &str, place: usize) -> String {
    let looking = async {
        loop {
            let events = client.list(&format!("{events}?limit=100")).await;
            let mut results = events.iter().filter(|event| event["type"] == "agent.tool_result");
            if let Some(result) = results.nth(place) {
                return text(result).to_owned();
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(2 * PATIENCE, looking).await.expect("a result")
}
