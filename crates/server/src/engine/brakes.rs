//! Stops what runs when the operator says so: with the organization disabled at once, and when the server is to end.

use tokio::time::sleep;

use crate::{app::App, error::Result, limits::BRAKE_POLL, resources::organization, telemetry};

/// Looks whether the operator has stopped everything, until the server stops.
pub(super) async fn watch(app: App) {
    loop {
        if let Err(error) = look(&app).await
            && telemetry::may_tell("the brake")
        {
            tracing::error!(%error, "whether the organization is disabled could not be looked for");
        }
        tokio::select! {
            () = sleep(BRAKE_POLL) => {}
            () = app.stopping() => return,
        }
    }
}

async fn look(app: &App) -> Result<()> {
    let halted = organization::is_halted(&app.db).await?;
    if app.brake.set_halted(halted) && halted {
        tracing::warn!("the organization is disabled: sessions and their sandboxes are stopped");
        // Processes in the background too. Those of sessions that are driven end with their runners.
        app.sandboxes.end_idle().await;
    }
    Ok(())
}
