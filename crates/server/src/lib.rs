//! The Rota server as a library: [`serve`] starts it, for the binary and for every test.

pub mod app;
pub mod clock;
pub mod closed;
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
    config::{Config, DatabaseUrl, Role},
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
    let (db, writer) = open(&config, clock.clone(), publish).await?;
    let (organization, first_key) = db
        .write(|tx| {
            tx.lock_table("organization")?;
            Ok((organization::id(tx)?, api_keys::first_key(tx)?))
        })
        .await?;
    let node = node(&config.data)?;
    let (own, alone) = (node.clone(), config.database.is_none());
    db.write(move |tx| {
        engine::release_all_of(tx, &own)?;
        // Claims of other servers run out by themselves.
        if alone { webhooks::release_all(tx) } else { Ok(()) }
    })
    .await?;
    let sandboxes = Sandboxes::new(Embedded::new(sandbox_config(&config)).map_err(Error::internal)?);
    let listener = TcpListener::bind(&config.listen)
        .await
        .map_err(|error| Error::invalid(format_args!("cannot listen on {}: {error}", config.listen)))?;
    let address = listener.local_addr().map_err(Error::internal)?;
    let app = App::new(Inner {
        organization_header: HeaderValue::from_str(&organization).map_err(Error::internal)?,
        node,
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
    if app.config.roles.has(Role::Scheduler) {
        app.spawn(scheduler::tick::run(app.clone()));
    }
    if app.config.roles.has(Role::Runner) {
        app.spawn(tidy_up(app.clone()));
        app.spawn(engine::run(app.clone()));
    }
    if app.config.roles.has(Role::Webhooks) {
        app.spawn(webhooks::run(app.clone()));
    }
    app.spawn(http::listen(app.clone(), listener, http::router(app.clone())));
    Ok(Server { address, first_key, app, writer, _lock: lock })
}

async fn open(config: &Config, clock: Clock, publish: db::Publish) -> Result<(Db, Writer)> {
    match &config.database {
        Some(url) => Db::open_postgres(url, clock, publish).await,
        None => Db::open(&config.data, clock, publish),
    }
}

/// Opens a store beside the servers that may be using it: for the command line.
///
/// # Errors
/// When the store is in a data folder that does not exist, or cannot be opened.
pub async fn open_store(data: &Path, database: Option<&DatabaseUrl>) -> Result<(Db, Writer)> {
    if database.is_none() && !data.is_dir() {
        return Err(Error::invalid(format_args!("{} is not a folder; `rota serve --data` makes it", data.display())));
    }
    let config = Config { data: data.to_owned(), database: database.cloned(), ..Config::default() };
    open(&config, Clock::System, Box::new(|_| {})).await
}

/// Copies the store of a data folder into an empty PostgreSQL database: for the command line.
///
/// # Errors
/// When there is no such store, a server is using it, or the database is not empty; then nothing is copied.
pub async fn copy_to_postgres(data: &Path, url: &DatabaseUrl) -> Result<Vec<db::Copied>> {
    if !data.join("rota.db").is_file() {
        return Err(Error::invalid(format_args!("{} has no store", data.display())));
    }
    let _lock = lock(data).await?;
    let (data, url) = (data.to_owned(), url.clone());
    let copying = tokio::task::spawn_blocking(move || db::sqlite_to_postgres(&data, &url));
    copying.await.map_err(Error::internal)?
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

/// The name of the server with this data folder, made with the folder: sessions whose files are in it are this server's.
fn node(data: &Path) -> Result<String> {
    let path = data.join("node");
    let cannot = |error| Error::internal(format!("cannot use {}: {error}", path.display()));
    match fs::read_to_string(&path) {
        Ok(name) if !name.is_empty() => Ok(name.trim().to_owned()),
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(cannot(error)),
        _ => {
            let name = random::uuid()?;
            fs::write(&path, format!("{name}\n")).map_err(cannot)?;
            Ok(name)
        }
    }
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

/// Ends what an earlier process left running, and deletes the files of sessions that are gone or have moved to another
/// server: all of them at the start and then from time to time, one when its session is deleted.
async fn tidy_up(app: App) {
    if let Err(error) = app.sandboxes.backend().sweep().await {
        tracing::error!(%error, "sandboxes of an earlier run could not be ended");
    }
    let mut orphans = tokio::time::interval(limits::ORPHANS_EVERY);
    loop {
        tokio::select! {
            deleted = app.hub.deleted() => {
                for session in deleted {
                    app.sandboxes.remove(session.as_ref()).await;
                }
            }
            _ = orphans.tick() => {
                if let Err(error) = remove_orphans(&app).await {
                    tracing::error!(%error, "files of sessions that are gone could not be looked for");
                }
            }
            () = app.stopping() => return,
        }
    }
}

async fn remove_orphans(app: &App) -> Result<()> {
    let Ok(folders) = fs::read_dir(app.sandboxes.backend().sessions_dir()) else { return Ok(()) };
    let names: Vec<String> = folders.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    for name in names {
        let (id, node) = (name.clone(), app.node.clone());
        let lives_here = app.db.read(move |tx| resources::sessions::lives_on(tx, &id, &node)).await?;
        if !lives_here {
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
