//! Renews access tokens in the background, before they expire.

use reqwest::Client;
use tokio::{task::JoinSet, time::sleep};

use crate::{
    app::App,
    error::Result,
    limits::{REFRESH_POLL, REFRESHES},
    resources::credentials::refresh::{claim_due, is_due, renew},
    telemetry,
    vault::oauth,
};

/// Renews what is due until the server stops.
pub async fn run(app: App) {
    let client = match oauth::client(app.config.vault.allow_private) {
        Ok(client) => client,
        Err(error) => {
            tracing::error!(%error, "tokens cannot be renewed");
            return;
        }
    };
    let mut running = JoinSet::new();
    while !app.is_stopping() {
        if let Err(error) = start(&app, &client, &mut running).await
            && telemetry::may_tell("tokens that are due")
        {
            tracing::error!(%error, "the tokens that are due could not be read");
        }
        tokio::select! {
            Some(_) = running.join_next() => {}
            () = sleep(REFRESH_POLL) => {}
            () = app.stopping() => {}
        }
    }
    // Each has a bound. One that was cut off could lose the tokens that it was just given.
    while running.join_next().await.is_some() {}
}

/// Renews each token that is due by now, once, and returns when that is done.
///
/// # Errors
/// When the store or TLS fails.
pub async fn renew_due(app: &App) -> Result<()> {
    let client = oauth::client(app.config.vault.allow_private)?;
    let mut running = JoinSet::new();
    start(app, &client, &mut running).await?;
    while running.join_next().await.is_some() {}
    Ok(())
}

async fn start(app: &App, client: &Client, running: &mut JoinSet<()>) -> Result<()> {
    let free = REFRESHES - running.len();
    if free == 0 || !app.db.read(is_due).await? {
        return Ok(());
    }
    for claim in app.db.write(move |tx| claim_due(tx, free)).await? {
        let (app, client) = (app.clone(), client.clone());
        running.spawn(async move {
            if let Err(error) = renew(&app, &client, claim).await {
                tracing::error!(%error, "a token was not renewed");
            }
        });
    }
    Ok(())
}
