//! What agents leave in `/mnt/session/outputs`: files of the session, which clients can download.
//!
//! That a session came to rest is noted in the transaction in which it did; the server that has its files takes them in
//! after that, and tries again until it could. What the agent deletes later stays with the session.

use std::collections::{HashMap, HashSet};

use futures_util::{StreamExt, stream::FuturesUnordered};
use rota_api::{
    file,
    id::{SessionId, WorkspaceId},
};
use rota_sandbox::{Area, Bounds, FileState, Found};
use tokio::{io::AsyncReadExt, time::sleep};

use crate::{
    app::App,
    backoff::Backoff,
    blobs::Written,
    db::{Notice, Tx, vals},
    error::{Error, Result},
    limits::{
        MAX_FILE_BYTES, MAX_FILENAME, MAX_OUTPUT_DEPTH, MAX_OUTPUTS, OUTPUT_TOLD_CHARS, OUTPUTS_AT_ONCE, OUTPUTS_POLL,
        OUTPUTS_RETRY_FIRST, OUTPUTS_RETRY_MAX, OUTPUTS_TOLD,
    },
    resources::{
        files::{self, NewFile, Output},
        sessions,
    },
    telemetry,
};

const BOUNDS: Bounds = Bounds { entries: MAX_OUTPUTS, depth: MAX_OUTPUT_DEPTH, file_bytes: MAX_FILE_BYTES };
/// Bytes that are read at a time.
const PIECE: usize = 256 * 1024;

/// A session whose outputs are to be taken in.
#[derive(Debug, Clone)]
struct Due {
    session: SessionId,
    workspace: WorkspaceId,
    rests: i64,
    failures: i64,
}

/// Notes that a session came to rest which has files on the server that is its home.
pub(super) fn comes_to_rest(tx: &mut Tx<'_>, workspace: &WorkspaceId, session: &SessionId) -> Result<()> {
    tx.send(
        "INSERT INTO session_outputs_due (session_id, workspace_id, node, rests, failures, due_at)
         SELECT id, workspace_id, home, 1, 0, $3 FROM sessions
         WHERE workspace_id = $1 AND id = $2 AND home IS NOT NULL
         ON CONFLICT (session_id) DO UPDATE SET node = excluded.node, rests = session_outputs_due.rests + 1,
             failures = 0, due_at = excluded.due_at",
        vals![workspace, session, tx.now()],
    )?;
    tx.after_commit(Notice::OutputsDue);
    Ok(())
}

/// Takes in the outputs of sessions whose files are here, until the server stops.
pub async fn run(app: App) {
    let mut under_way = FuturesUnordered::new();
    let mut busy = HashSet::new();
    loop {
        if under_way.len() < OUTPUTS_AT_ONCE {
            match due(&app, OUTPUTS_AT_ONCE + busy.len()).await {
                Ok(due) => {
                    for due in due {
                        if under_way.len() < OUTPUTS_AT_ONCE && busy.insert(due.session.clone()) {
                            under_way.push(take_in(&app, due));
                        }
                    }
                }
                Err(error) if telemetry::may_tell("outputs") => {
                    tracing::error!(%error, "outputs of sessions could not be looked for");
                }
                Err(_) => {}
            }
        }
        tokio::select! {
            Some(session) = under_way.next(), if !under_way.is_empty() => {
                busy.remove(&session);
            }
            () = app.hub.outputs_due() => {}
            () = sleep(OUTPUTS_POLL) => {}
            () = app.stopping() => return,
        }
    }
}

async fn due(app: &App, most: usize) -> Result<Vec<Due>> {
    let node = app.node.clone();
    app.db
        .read(move |tx| {
            let sql = "SELECT session_id, workspace_id, rests, failures FROM session_outputs_due
                WHERE node = $1 AND due_at <= $2 ORDER BY due_at LIMIT $3";
            tx.all(sql, vals![&node, tx.now(), most as i64], |row| {
                Ok(Due {
                    session: row.id("session_id")?,
                    workspace: row.id("workspace_id")?,
                    rests: row.int("rests")?,
                    failures: row.int("failures")?,
                })
            })
        })
        .await
}

async fn take_in(app: &App, due: Due) -> SessionId {
    let taken = take_all(app, &due).await;
    if let Err(error) = &taken {
        tracing::warn!(session_id = %due.session, %error, "the outputs of a session are not taken in yet");
    }
    let (noted, left_out) = (due.clone(), taken.ok());
    let backoff = Backoff::doubling(OUTPUTS_RETRY_FIRST, OUTPUTS_RETRY_MAX);
    let pause = backoff.pause(u32::try_from(due.failures).unwrap_or(u32::MAX).saturating_add(1)).as_micros() as i64;
    let written = app
        .db
        .write(move |tx| {
            let Due { session, workspace, rests, .. } = &noted;
            if let Some(left_out) = &left_out {
                sessions::outputs_are_left_out(tx, workspace, session, left_out)?;
                let sql = "DELETE FROM session_outputs_due WHERE session_id = $1 AND rests = $2";
                return tx.send(sql, vals![session, *rests]);
            }
            tx.send(
                "UPDATE session_outputs_due SET failures = failures + 1, due_at = $3 WHERE session_id = $1 AND rests = $2",
                vals![session, *rests, tx.now().plus_micros(pause)],
            )
        })
        .await;
    if let Err(error) = written {
        // They are taken in once more, and found to be the same.
        tracing::debug!(session_id = %due.session, %error, "that outputs were taken in was not noted");
    }
    due.session
}

/// Takes in what there is. What of it is left out, and why.
async fn take_all(app: &App, due: &Due) -> Result<Vec<String>> {
    let backend = app.sandboxes.backend();
    let listing = backend.list(due.session.as_ref(), Area::Outputs, BOUNDS).await.map_err(Error::internal)?;
    let mut left_out = LeftOut::default();
    listing.skipped.into_iter().for_each(|skipped| left_out.add(&skipped));
    if listing.is_cut {
        left_out.add(&format!("there are more than {MAX_OUTPUTS} files and folders: not all were looked at"));
    }
    if listing.files.is_empty() {
        return Ok(left_out.told(due));
    }
    let (workspace, session) = (due.workspace.clone(), due.session.clone());
    let stored = app.db.read(move |tx| files::outputs(tx, &workspace, &session)).await?;
    let mut count = stored.len();
    let stored: HashMap<String, Output> = stored.into_iter().map(|output| (output.path.clone(), output)).collect();
    for found in listing.files {
        let known = stored.get(&found.path);
        if known.is_some_and(|output| output.state == text_of(&found.state)) {
            continue;
        }
        if known.is_none() {
            if count == MAX_OUTPUTS {
                let most = format!("{}: the session has {MAX_OUTPUTS} files of outputs, which is the most", found.path);
                left_out.add(&most);
                continue;
            }
            count += 1;
        }
        match take_one(app, due, &found, known).await {
            // Another try would not go better.
            Err(error @ Error::Rejected { .. }) => left_out.add(&format!("{}: {error}", found.path)),
            taken => taken?,
        }
    }
    Ok(left_out.told(due))
}

/// What is left out of the outputs of a session, for whoever asks for the session: the first few, and how many there are.
#[derive(Default)]
struct LeftOut {
    told: Vec<String>,
    count: usize,
}

impl LeftOut {
    fn add(&mut self, reason: &str) {
        self.count += 1;
        if self.told.len() < OUTPUTS_TOLD {
            self.told.push(reason.chars().take(OUTPUT_TOLD_CHARS).collect());
        }
    }

    fn told(mut self, due: &Due) -> Vec<String> {
        let more = self.count - self.told.len();
        if more > 0 {
            self.told.push(format!("{more} more"));
        }
        if self.count > 0 {
            tracing::info!(session_id = %due.session, left_out = ?self.told, "not all outputs of a session were taken in");
        }
        self.told
    }
}

/// What the server saw of a file when it began to read it: when that is the same, so is its content.
fn text_of(state: &FileState) -> String {
    format!("{} {} {}", state.inode, state.size, state.changed_ns)
}

async fn take_one(app: &App, due: &Due, found: &Found, known: Option<&Output>) -> Result<()> {
    let backend = app.sandboxes.backend();
    let opened = backend.open_file(due.session.as_ref(), Area::Outputs, &found.path).await.map_err(Error::internal)?;
    // It is gone by now, or something else.
    let Some((file, state)) = opened else { return Ok(()) };
    let Some(written) = read(app, &due.workspace, file).await? else { return Ok(()) };
    let state = text_of(&state);
    let quota = app.config.blobs.workspace_bytes();
    let (due, path, known) = (due.clone(), found.path.clone(), known.cloned());
    let full_name = file::filename(&path).unwrap_or("unnamed");
    let filename: String = full_name.chars().take(MAX_FILENAME).collect();
    app.db
        .write(move |tx| {
            let Due { session, workspace, .. } = &due;
            sessions::lock(tx, workspace, session.as_ref())?;
            let sql = "SELECT 1 FROM sessions WHERE workspace_id = $1 AND id = $2";
            if tx.one(sql, vals![workspace, session], |_| Ok(()))?.is_none() {
                return Ok(());
            }
            match &known {
                Some(known) if known.sha256 == written.sha256 => files::same_output(tx, workspace, &known.id, &state),
                Some(known) => files::replace_output(tx, workspace, &known.id, &written, &state, quota),
                None => {
                    let new = NewFile {
                        workspace,
                        session: Some(session),
                        filename: &filename,
                        mime_type: file::type_of(&filename),
                        written: &written,
                        output: Some((&path, &state)),
                        expires_at: None,
                    };
                    files::insert(tx, &new, quota).map(drop)
                }
            }
        })
        .await
}

/// Takes in the content of a file. `None` when it has grown too large meanwhile.
async fn read(app: &App, workspace: &WorkspaceId, file: std::fs::File) -> Result<Option<Written>> {
    let mut file = tokio::fs::File::from_std(file);
    let mut writing = app.blobs.begin(workspace).await?;
    let mut piece = vec![0; PIECE];
    loop {
        let length = file.read(&mut piece).await.map_err(Error::internal)?;
        if length == 0 {
            return writing.finish().await.map(Some);
        }
        if writing.size() + length as u64 > MAX_FILE_BYTES {
            return Ok(None);
        }
        writing.write(&piece[..length]).await?;
    }
}
