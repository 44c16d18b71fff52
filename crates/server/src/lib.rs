//! The Rota server as a library: [`serve`] starts it, for the binary and for every test.

pub mod app;
pub mod clock;
pub mod closed;
pub mod config;
pub mod db;
pub mod egress;
pub mod engine;
pub mod error;
mod folder;
pub mod http;
pub mod hub;
pub mod limits;
pub mod model;
pub mod page;
pub mod random;
pub mod request;
pub mod resources;
pub mod scheduler;
pub mod shares;
pub mod telemetry;
pub mod tls;
pub mod webhooks;

use std::{
    fs::{self, File},
    net::SocketAddr,
    path::Path,
    sync::Arc,
};

use ::http::HeaderValue;
use rota_sandbox::Embedded;
use tokio::{net::TcpListener, time::timeout};
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
        organization, workspaces,
    },
    shares::Shares,
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
    let lock = folder::lock(&config.data).await?;
    if config.database.is_none() {
        folder::check_without_database(&config.data)?;
    }
    let offer = Offer::new(&config.models)?;
    let listener = TcpListener::bind(&config.listen)
        .await
        .map_err(|error| Error::invalid(format_args!("cannot listen on {}: {error}", config.listen)))?;
    let address = listener.local_addr().map_err(Error::internal)?;
    let hub = Arc::new(Hub::default());
    let publish = {
        let hub = hub.clone();
        Box::new(move |notice: &db::Notice| hub.publish(notice))
    };
    let (db, writer) = open(&config, clock.clone(), publish).await?;
    if let Some(url) = &config.database {
        folder::set_database(&config.data, url)?;
    }
    let node = folder::node(&config.data)?;
    let (own, alone) = (node.clone(), config.database.is_none());
    db.write(move |tx| {
        engine::release_all_of(tx, &own)?;
        // Claims of other servers run out by themselves.
        if alone { webhooks::release_all(tx) } else { Ok(()) }
    })
    .await?;
    let sandboxes = Sandboxes::new(Embedded::new(sandbox_config(&config)).map_err(Error::internal)?);
    // Last: the key is shown only by this start, so the start must not fail any more.
    let (organization, first_key) = db
        .write(|tx| {
            tx.lock_table("organization")?;
            Ok((organization::id(tx)?, api_keys::first_key(tx)?))
        })
        .await?;
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
        streams: Shares::default(),
        answers: Shares::default(),
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

/// Opens the store of a configuration beside the servers that may be using it: for the command line.
///
/// # Errors
/// When there is no such store yet, or it cannot be opened.
pub async fn open_store(config: &Config) -> Result<Db> {
    if config.database.is_none() && !config.data.join(db::FILE).is_file() {
        folder::check_without_database(&config.data)?;
        return Err(Error::invalid(format_args!(
            "{} has no store; `rota serve --data` makes it",
            config.data.display()
        )));
    }
    let db = open_or_begin_store(config).await?;
    if !db.read(workspaces::exist).await? {
        return Err(Error::invalid("the store is empty; `rota serve` begins it"));
    }
    Ok(db)
}

/// The same, and makes the store when there is none.
///
/// # Errors
/// When it would be in a data folder that does not exist, or cannot be opened.
pub async fn open_or_begin_store(config: &Config) -> Result<Db> {
    if config.database.is_none() {
        folder::check_without_database(&config.data)?;
        if !config.data.is_dir() {
            let data = config.data.display();
            return Err(Error::invalid(format_args!("{data} is not a folder; `rota serve --data` makes it")));
        }
    }
    let (db, _) = open(config, Clock::System, Box::new(|_| {})).await?;
    Ok(db)
}

/// Copies the store of a data folder into an empty PostgreSQL database, which is the store from then on: for the command
/// line.
///
/// # Errors
/// When there is no such store, a server is using it, or the database is not empty; then nothing is copied.
pub async fn copy_to_postgres(data: &Path, url: &DatabaseUrl) -> Result<Vec<db::Copied>> {
    if !data.join(db::FILE).is_file() {
        return Err(Error::invalid(format_args!("{} has no store", data.display())));
    }
    let _lock = folder::lock(data).await?;
    let (folder, to) = (data.to_owned(), url.clone());
    let copying = tokio::task::spawn_blocking(move || db::sqlite_to_postgres(&folder, &to));
    let copied = copying.await.map_err(Error::internal)??;
    folder::set_database(data, url)?;
    Ok(copied)
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
