//! Files that a session has mounted, below `/mnt/session/uploads`.

use std::{collections::BTreeMap, sync::Arc};

use futures_util::TryStreamExt;
use rota_api::id::Id;
use rota_sandbox::{Area, Bounds, Embedded};
use tokio::{io::AsyncWriteExt, time::timeout};

use super::{Failure, Target};
use crate::{
    error::Error,
    limits::{MAX_FILE_BYTES, MOUNT_TIMEOUT},
    resources::files::{self, Mounted},
};

/// What the server looks at in a folder that it alone writes to: more than the files of a session can be.
const BOUNDS: Bounds = Bounds { entries: 100_000, depth: 4096, file_bytes: MAX_FILE_BYTES };

/// The mounted files that are in their places, as far as this runner knows.
#[derive(Default)]
pub(super) struct Uploads {
    /// By path: a version.
    placed: Option<BTreeMap<String, Version>>,
}

/// What tells one content of a file from another: its size, and when its bytes were written. The file in the sandbox has that
/// as its time, which nobody there can set.
type Version = (u64, i128);

fn version(file: &Mounted) -> Version {
    (file.size, i128::from(file.blob.made_at().micros()) * 1000)
}

impl Uploads {
    /// Makes the folder of uploads what the session has mounted now.
    pub(super) async fn bring(&mut self, target: &Target) -> Result<(), Failure> {
        let Target { app, workspace, session } = target;
        let (of, id) = (workspace.clone(), session.clone());
        let wanted = app.db.read(move |tx| files::mounted(tx, &of, &id)).await?;
        let backend = app.sandboxes.backend();
        let placed = match &mut self.placed {
            Some(placed) => placed,
            none => none.insert(found(backend, session.as_ref()).await?),
        };
        let gone: Vec<String> =
            placed.keys().filter(|path| !wanted.iter().any(|file| file.path == **path)).cloned().collect();
        for path in gone {
            backend.remove_file(session.as_ref(), Area::Uploads, &path).await?;
            placed.remove(&path);
        }
        let (bytes, most) =
            (wanted.iter().map(|file| file.size).sum::<u64>(), app.config.sandbox.disk_mib * 1024 * 1024);
        if bytes > most {
            let message = format!(
                "the mounted files have {} MB together, and a sandbox has room for {}; delete some of the session's resources",
                bytes / 1024 / 1024,
                app.config.sandbox.disk_mib
            );
            return Err(Failure { message, is_passing: false });
        }
        for file in &wanted {
            if placed.get(&file.path) == Some(&version(file)) {
                continue;
            }
            let placing = place(target, file);
            timeout(MOUNT_TIMEOUT, placing).await.map_err(|_| Failure {
                message: format!("the mounted file {} could not be fetched in time", file.path),
                is_passing: true,
            })??;
            placed.insert(file.path.clone(), version(file));
        }
        Ok(())
    }
}

async fn found(backend: &Arc<Embedded>, session: &str) -> Result<BTreeMap<String, Version>, Failure> {
    let listing = backend.list(session, Area::Uploads, BOUNDS).await?;
    Ok(listing.files.into_iter().map(|file| (file.path, (file.state.size, file.state.modified_ns))).collect())
}

async fn place(Target { app, session, .. }: &Target, file: &Mounted) -> Result<(), Failure> {
    let backend = app.sandboxes.backend();
    let new = backend.new_file().await?;
    let cannot_write = |error: std::io::Error| {
        tracing::warn!(session_id = %session, %error, "a mounted file could not be written");
        let message = format!("the mounted file {} could not be written: {error}", file.path);
        Failure { message, is_passing: true }
    };
    let mut writer = tokio::fs::File::from_std(new.handle().map_err(cannot_write)?);
    let mut pieces = app.blobs.read(&file.blob).await?;
    let mut size = 0;
    while let Some(piece) = pieces.try_next().await? {
        size += piece.len() as u64;
        writer.write_all(&piece).await.map_err(cannot_write)?;
    }
    writer.flush().await.map_err(cannot_write)?;
    if size != file.size {
        return Err(Error::internal(format!("blob {} has {size} bytes and not {}", file.blob, file.size)).into());
    }
    new.set_modified(file.blob.made_at().micros()).map_err(cannot_write)?;
    Ok(backend.place(session.as_ref(), Area::Uploads, &file.path, new).await?)
}
