//! What the service manager is told (`sd_notify`), where there is one: `Type=notify-reload` in a unit of systemd.

use rota_server::app::App;
use sd_notify::NotifyState;
use tokio::time::sleep;

/// The server accepts requests.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// The configuration file is being read again. [`ready`] ends that.
pub fn reloading() {
    let Ok(now) = NotifyState::monotonic_usec_now() else { return };
    tell(&[NotifyState::Reloading, now]);
}

/// The server is ending.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Says that the server is alive, where the service manager ends it otherwise, until it stops. That the store answers is not part
/// of it: a restart would not bring back a database that is away.
pub async fn watchdog(app: App) {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    loop {
        tell(&[NotifyState::Watchdog]);
        tokio::select! {
            () = sleep(limit / 2) => {}
            () = app.stopping() => return,
        }
    }
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager could not be told");
    }
}
