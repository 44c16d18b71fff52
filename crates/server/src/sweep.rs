//! What an earlier process left on this machine, and files of sessions that are not needed here any more.
//!
//! What a user deleted goes at once. Files of a session that the store does not know are kept for a day, in case it is the
//! store that is wrong; the start that finds the right one again gives them back.

use futures_util::TryStreamExt;
use rota_api::id::{BlobId, Id, SessionId};
use rota_sandbox::SetAside;
use tokio::time::{interval, sleep};

use crate::{
    app::App,
    blobs::sweep::Found,
    engine,
    error::{Error, Result},
    limits::{BLOB_SWEEP_EVERY, MAX_TRASH, ORPHANS_EVERY, SWEEP_RETRY, TRASH_KEPT_MICROS},
    mounts,
    resources::{
        checkpoints, files, memory_stores,
        sessions::{self, FilesOf},
        skills,
    },
    telemetry,
};

/// Runs sessions, and keeps their sandboxes and files in order beside it, until the server stops.
///
/// Before the first session is taken up, what an earlier process left running is ended: it would work on the files of a
/// session beside its new sandbox, and a look for it later would end what was just started.
pub async fn run(app: App) {
    while let Err(error) = begin(&app).await {
        if telemetry::may_tell("the sweep") {
            tracing::error!(%error, "no session is run: what an earlier process left could not be ended");
        }
        tokio::select! {
            () = sleep(SWEEP_RETRY) => {}
            () = app.stopping() => return,
        }
    }
    app.spawn(engine::run(app.clone()));
    app.spawn(mounts::outputs::run(app.clone()));
    app.spawn(mounts::checkpoints::run(app.clone()));
    app.spawn(blobs(app.clone()));
    tidy(&app).await;
}

async fn begin(app: &App) -> Result<()> {
    let backend = app.sandboxes.backend();
    backend.sweep().await.map_err(Error::internal)?;
    app.packages.sweep().await?;
    let (_, set_aside) = backend.all_set_aside().map_err(Error::internal)?;
    for files in set_aside.into_iter().rev() {
        if files_of(app, &files.session_id).await? == FilesOf::Needed
            && backend.give_back(&files).map_err(Error::internal)?
        {
            tracing::warn!(session_id = files.session_id, "the store knows a session again: it has its files back");
        }
    }
    Ok(())
}

async fn tidy(app: &App) {
    if let Err(error) = app.sandboxes.backend().finish_deletions().await {
        tracing::error!(%error, "files of deleted sessions remain; the next start tries again");
    }
    let mut looks = interval(ORPHANS_EVERY);
    loop {
        tokio::select! {
            deleted = app.hub.deleted() => {
                for session in deleted {
                    remove(app, session.as_ref()).await;
                }
            }
            _ = looks.tick() => {
                if let Err(error) = look(app).await {
                    tracing::error!(%error, "files of sessions that are gone could not be looked for");
                }
            }
            () = app.stopping() => return,
        }
    }
}

/// Lets the bytes of files go that have expired, and deletes bytes that no row names, until the server stops.
async fn blobs(app: App) {
    let mut looks = interval(BLOB_SWEEP_EVERY);
    loop {
        tokio::select! {
            _ = looks.tick() => {}
            () = app.stopping() => return,
        }
        if let Err(error) = blobs_once(&app).await {
            tracing::error!(%error, "bytes that no file names could not be looked for; they are looked for again");
        }
    }
}

/// Lets the bytes of files go that have expired, and deletes bytes that no row names, once.
///
/// # Errors
/// When the store or the place of blobs does not answer.
pub async fn blobs_once(app: &App) -> Result<()> {
    while app.db.write(files::expire).await? {}
    while app.db.write(checkpoints::expire).await? {}
    app.blobs.delete_unfinished().await?;
    let mut old = std::pin::pin!(app.blobs.old());
    while let Some(found) = old.try_next().await? {
        delete_unnamed(app, found).await?;
    }
    Ok(())
}

async fn delete_unnamed(app: &App, found: Vec<Found>) -> Result<()> {
    let ids: Vec<BlobId> = found.iter().map(|found| found.id.clone()).collect();
    let named = app.db.read(move |tx| {
        Ok([files::are_named(tx, &ids)?, skills::are_named(tx, &ids)?, checkpoints::are_named(tx, &ids)?].concat())
    });
    let named = named.await?;
    for found in found.iter().filter(|found| !named.contains(&found.id)) {
        app.blobs.delete(found).await?;
    }
    Ok(())
}

/// Looks at every session's files, and at those that were set aside.
async fn look(app: &App) -> Result<()> {
    let folders = std::fs::read_dir(app.sandboxes.backend().sessions_dir()).map_err(Error::internal)?;
    let names = folders.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut lost = 0;
    for session in names.filter(|name| name.starts_with(SessionId::PREFIX)).collect::<Vec<_>>() {
        match files_of(app, &session).await? {
            FilesOf::Needed => {}
            FilesOf::Moved => remove_moved(app, &session).await,
            FilesOf::Deleted => remove(app, &session).await,
            FilesOf::Unknown => lost += usize::from(set_aside(app, &session).await),
        }
    }
    if lost > 0 {
        let folder = app.sandboxes.backend().all_set_aside().map_err(Error::internal)?.0.display();
        tracing::error!(
            sessions = lost, %folder,
            "the store does not know these sessions: their files were moved, and are deleted after a day. Where the store is \
             not the right one, put that back and start the server: they come back by themselves"
        );
    }
    empty_trash(app).await;
    while app.db.write(memory_stores::purge).await? && !app.is_stopping() {}
    sessions_deleted_long_ago(app).await
}

async fn files_of(app: &App, session: &str) -> Result<FilesOf> {
    let (id, node) = (session.to_owned(), app.node.clone());
    app.db.read(move |tx| sessions::files_of(tx, &id, &node)).await
}

async fn remove(app: &App, session: &str) {
    if !app.sandboxes.remove(session).await {
        return;
    }
    let id = session.to_owned();
    if let Err(error) = app.db.write(move |tx| sessions::files_are_gone(tx, &id)).await {
        tracing::debug!(session, %error, "the end of a session's files was not noted; it is forgotten in time");
    }
}

/// Removes files of a session that has others on another server. By the time that its sandbox can be ended here, it may have
/// come back: who opens the sandbox has said before that the files are here.
async fn remove_moved(app: &App, session: &str) {
    let (looking, id) = (app.clone(), session.to_owned());
    let is_still_elsewhere = async move { matches!(files_of(&looking, &id).await, Ok(FilesOf::Moved)) };
    app.sandboxes.remove_if(session, is_still_elsewhere).await;
}

async fn set_aside(app: &App, session: &str) -> bool {
    let set_aside = app.sandboxes.set_aside(session, app.clock.now().micros()).await;
    set_aside
        .inspect_err(|error| tracing::error!(session, %error, "files of an unknown session stay where they are"))
        .is_ok()
}

/// Deletes what was set aside long ago, and what is too much.
async fn empty_trash(app: &App) {
    let backend = app.sandboxes.backend();
    let Ok((_, all)) = backend.all_set_aside() else { return };
    for files in old(&all, app.clock.now().micros()) {
        if let Err(error) = backend.remove_set_aside(files).await {
            tracing::error!(session = files.session_id, %error, "files that were set aside remain; they are tried again");
        }
    }
}

/// Of all that was set aside, oldest first, what is not kept.
fn old(all: &[SetAside], now: i64) -> impl Iterator<Item = &SetAside> {
    let too_many = all.len().saturating_sub(MAX_TRASH);
    all.iter()
        .enumerate()
        .filter(move |(i, files)| *i < too_many || now - files.at >= TRASH_KEPT_MICROS)
        .map(|(_, files)| files)
}

async fn sessions_deleted_long_ago(app: &App) -> Result<()> {
    app.db.write(sessions::forget_deleted).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_set_aside_is_kept_for_a_day_and_not_without_end() {
        let all: Vec<SetAside> =
            (0..MAX_TRASH as i64 + 2).map(|at| SetAside { session_id: format!("sesn_{at}"), at }).collect();
        let gone = |all, now| old(all, now).map(|files| files.at).collect::<Vec<_>>();
        assert_eq!(gone(&all, 0), [0, 1]);
        assert_eq!(gone(&all[..3], TRASH_KEPT_MICROS - 1), [] as [i64; 0]);
        assert_eq!(gone(&all[..3], TRASH_KEPT_MICROS + 1), [0, 1]);
    }
}
