//! The Rota server as a library: [`serve`] starts it, for the binary and for every test.

pub mod app;
pub mod clock;
pub mod config;
pub mod db;
pub mod egress;
pub mod engine;
pub mod error;
pub mod http;
pub mod hub;
pub mod limits;
pub mod model;
pub mod page;
pub mod random;
pub mod request;
pub mod resources;
pub mod scheduler;
pub mod telemetry;
pub mod tls;
pub mod webhooks;

use std::{
    fs::{self, File, TryLockError},
    net::SocketAddr,
    path::Path,
    sync::Arc,
};

use ::http::HeaderValue;
use rota_sandbox::Embedded;
use tokio::{
    net::TcpListener,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    app::{App, Inner},
    clock::Clock,
    config::{Config, Role},
    db::{Db, Writer},
    engine::Sandboxes,
    error::{Error, Result},
    hub::Hub,
    model::Offer,
    resources::{
        api_keys::{self, CreatedKey},
        organization,
    },
};

/// A running server.
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    /// The first key, when this start made the store.
    pub first_key: Option<CreatedKey>,
    app: App,
    writer: Writer,
    // Held for as long as the server runs.
    _lock: File,
}

/// Starts a server and returns once it accepts requests.
///
/// # Errors
/// When the configuration is wrong, the data folder cannot be used or is used by another server, or the address cannot
/// be listened on. The message says what to do.
pub async fn serve(config: Config, clock: Clock) -> Result<Server> {
    let lock = lock(&config.data).await?;
    let offer = Offer::new(&config.models)?;
    let hub = Arc::new(Hub::default());
    let publish = {
        let hub = hub.clone();
        Box::new(move |notice: &db::Notice| hub.publish(notice))
    };
    let (db, writer) = Db::open(&config.data, clock.clone(), publish)?;
    let (organization, first_key) = db.write(|tx| Ok((organization::id(tx)?, api_keys::first_key(tx)?))).await?;
    db.write(|tx| {
        engine::release_all(tx)?;
        webhooks::release_all(tx)
    })
    .await?;
    let sandboxes = Sandboxes::new(Embedded::new(sandbox_config(&config)).map_err(Error::internal)?);
    let listener = TcpListener::bind(&config.listen)
        .await
        .map_err(|error| Error::invalid(format_args!("cannot listen on {}: {error}", config.listen)))?;
    let address = listener.local_addr().map_err(Error::internal)?;
    let app = App::new(Inner {
        organization_header: HeaderValue::from_str(&organization).map_err(Error::internal)?,
        node: format!("{}-{}", std::process::id(), clock.now().micros()),
        metrics: telemetry::metrics(),
        tasks: TaskTracker::new(),
        stop: CancellationToken::new(),
        config,
        clock,
        db,
        hub,
        offer,
        sandboxes,
    });
    if app.config.roles.has(Role::Runner) {
        app.spawn(tidy_up(app.clone()));
        if app.config.roles.has(Role::Scheduler) {
            app.spawn(scheduler::tick::run(app.clone()));
        }
        app.spawn(engine::run(app.clone()));
    }
    if app.config.roles.has(Role::Webhooks) {
        app.spawn(webhooks::run(app.clone()));
    }
    app.spawn(http::listen(app.clone(), listener, http::router(app.clone())));
    Ok(Server { address, first_key, app, writer, _lock: lock })
}

/// Opens the store of a data folder beside a server that may be using it: for the command line.
///
/// # Errors
/// When there is no such folder, or the store cannot be opened.
pub fn open_store(data: &Path) -> Result<(Db, Writer)> {
    if !data.is_dir() {
        return Err(Error::invalid(format_args!("{} is not a folder; `rota serve --data` makes it", data.display())));
    }
    Db::open(data, Clock::System, Box::new(|_| {}))
}

impl Server {
    /// Stops: no new requests, a while for those under way, then everything ends. What was answered is in the store.
    pub async fn stop(self) {
        self.app.stop.cancel();
        self.app.tasks.close();
        if timeout(limits::STOP_GRACE * 2, self.app.tasks.wait()).await.is_err() {
            tracing::warn!("tasks were still under way when the server stopped");
        }
        self.app.sandboxes.backend().shutdown().await;
        let Self { app, writer, .. } = self;
        drop(app);
        drop(tokio::task::spawn_blocking(move || writer.join()).await);
    }

    /// The server's state, for tests that look inside.
    pub fn app(&self) -> &App {
        &self.app
    }
}

/// One server a data folder: two would run the same sessions.
///
/// A server that was killed while it started a sandbox leaves a process that holds its files for a moment longer, until
/// it has become the sandbox's program: so a start tries more than once.
async fn lock(data: &Path) -> Result<File> {
    let cannot = |error| Error::invalid(format_args!("cannot use the data folder {}: {error}", data.display()));
    fs::create_dir_all(data).map_err(cannot)?;
    private(data).map_err(cannot)?;
    let file = File::options().create(true).truncate(false).write(true).open(data.join("lock")).map_err(cannot)?;
    for _ in 0..limits::LOCK_TRIES {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => sleep(limits::LOCK_RETRY).await,
            Err(TryLockError::Error(error)) => return Err(cannot(error)),
        }
    }
    Err(Error::invalid(format_args!("another server is using the data folder {}", data.display())))
}

/// Nobody but the owner reads the store.
fn private(folder: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;

    fs::set_permissions(folder, fs::Permissions::from_mode(0o700))
}

fn sandbox_config(config: &Config) -> rota_sandbox::Config {
    const MIB: u64 = 1024 * 1024;
    let settings = &config.sandbox;
    let mut sandbox = rota_sandbox::Config::new(&config.data);
    sandbox.root_fs.clone_from(&settings.root_fs);
    sandbox.init_program.clone_from(&settings.init_program);
    sandbox.limits.memory_bytes = settings.memory_mib * MIB;
    sandbox.limits.pids = u64::from(settings.processes);
    sandbox.limits.cpus = settings.cpus;
    sandbox.limits.disk_bytes = settings.disk_mib * MIB;
    sandbox
}

/// Ends what an earlier process left running, and deletes the files of sessions that are gone: once at the start, then
/// whenever a session is deleted.
async fn tidy_up(app: App) {
    if let Err(error) = app.sandboxes.backend().sweep().await {
        tracing::error!(%error, "sandboxes of an earlier run could not be ended");
    }
    if let Err(error) = remove_orphans(&app).await {
        tracing::error!(%error, "files of deleted sessions could not be looked for");
    }
    loop {
        let deleted = tokio::select! {
            deleted = app.hub.deleted() => deleted,
            () = app.stopping() => return,
        };
        for session in deleted {
            app.sandboxes.remove(session.as_ref()).await;
        }
    }
}

async fn remove_orphans(app: &App) -> Result<()> {
    let Ok(folders) = fs::read_dir(app.sandboxes.backend().sessions_dir()) else { return Ok(()) };
    let names: Vec<String> = folders.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    for name in names {
        let id = name.clone();
        let known = app.db.read(move |tx| resources::sessions::exists(tx, &id)).await?;
        if !known {
            app.sandboxes.remove(&name).await;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_start_waits_for_a_server_that_is_ending_but_not_for_one_that_runs() {
        let folder = std::env::temp_dir().join(format!("rota-lock-{}", std::process::id()));
        let ending = lock(&folder).await.unwrap();
        let (next, ()) = tokio::join!(lock(&folder), async { drop(ending) });
        assert!(next.is_ok());
        assert!(matches!(lock(&folder).await, Err(Error::Invalid(_))));
        fs::remove_dir_all(&folder).unwrap();
    }
}
