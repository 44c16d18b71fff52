//! Looks for deployments that have gone silent, until the server stops.

use tokio::time::sleep;

use crate::{
    app::App,
    error::Result,
    limits::{SILENCE_BATCH, SILENCE_POLL},
    resources::deployments::silence,
    telemetry,
};

/// Looks at what is due, again and again, until the server stops.
pub async fn run(app: App) {
    while !app.is_stopping() {
        if let Err(error) = look(&app).await
            && telemetry::may_tell("deployments that may be silent")
        {
            tracing::error!(%error, "it could not be looked for deployments that are silent; it is tried again");
        }
        tokio::select! {
            () = sleep(SILENCE_POLL) => {}
            () = app.stopping() => return,
        }
    }
}

/// Looks once at every deployment that is due, and tells of those that have gone silent.
///
/// # Errors
/// When the store cannot be read or written; what was not looked at stays due.
pub async fn look(app: &App) -> Result<()> {
    loop {
        let due = app.db.read(|tx| silence::due(tx, SILENCE_BATCH)).await?;
        let is_last = (due.len() as i64) < SILENCE_BATCH;
        if !due.is_empty() {
            for id in app.db.write(move |tx| silence::settle(tx, &due)).await? {
                tracing::warn!(deployment_id = %id, "a deployment is silent: no run of it has come to a good end of late");
            }
        }
        if is_last || app.is_stopping() {
            return Ok(());
        }
    }
}
