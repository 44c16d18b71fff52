//! Skills: put below `/workspace/skills` before the first call of a session on this server.

use rota_api::id::BlobId;
use rota_sandbox::{Area, NewTree};

use super::{Failure, Target};
use crate::{
    error::{Error, Result},
    limits::MAX_KEPT_SKILL_BYTES,
    resources::skills::{self, SessionSkill},
};

/// What a runner knows of its session's skills.
#[derive(Default)]
pub(super) struct Skills {
    are_there: bool,
}

impl Skills {
    /// Puts those that this server has not put there yet. What the agent makes of them afterwards is its own affair.
    pub(super) async fn bring(&mut self, target: &Target) -> Result<(), Failure> {
        if self.are_there {
            return Ok(());
        }
        let Target { app, session, .. } = target;
        let of = session.clone();
        let skills = app.db.read(move |tx| skills::of_session(tx, &of)).await.map_err(|error| passing(&error))?;
        for skill in skills.into_iter().filter(|skill| skill.placed_on.as_ref() != Some(&app.node)) {
            if let Some(blob) = &skill.blob {
                place(target, &skill, blob).await?;
            }
        }
        self.are_there = true;
        Ok(())
    }
}

async fn place(target: &Target, skill: &SessionSkill, blob: &BlobId) -> Result<(), Failure> {
    let Target { app, session, .. } = target;
    let archive = app.blobs.read_whole(blob, MAX_KEPT_SKILL_BYTES).await.map_err(|error| passing(&error))?;
    let tree = app.sandboxes.backend().new_tree().await.map_err(|error| refused(&error))?;
    let filling = tokio::task::spawn_blocking(move || fill(tree, archive));
    let tree = filling.await.map_err(Error::internal).and_then(|filled| filled).map_err(|error| passing(&error))?;
    // Where something has the place, an earlier try was cut off after this.
    let folder = skill.path.rsplit_once('/').map_or(&*skill.path, |(_, folder)| folder);
    let placing = app.sandboxes.backend().place_tree(session.as_ref(), Area::Skills, folder, tree);
    placing.await.map_err(|error| refused(&error))?;
    let (of, node, place) = (session.clone(), app.node.clone(), skill.place);
    app.db.write(move |tx| skills::is_placed(tx, &of, place, &node)).await.map_err(|error| passing(&error))
}

fn fill(tree: NewTree, archive: Vec<u8>) -> Result<NewTree> {
    skills::unpack(archive, |file| tree.write(&file.path, &file.content, file.is_executable).map_err(Error::internal))?;
    Ok(tree)
}

fn passing(error: &Error) -> Failure {
    tracing::warn!(%error, "a skill could not be read");
    Failure { message: "the skills of the session could not be put in place".to_owned(), is_passing: true }
}

fn refused(error: &rota_sandbox::Error) -> Failure {
    tracing::warn!(%error, "a skill could not be put in place");
    let message = format!("the skills of the session could not be put in place: {}", error.for_client());
    Failure { message, is_passing: error.is_passing() }
}
