//! The Rota server as a library: [`serve`] starts it, for the binary and for every test.

pub mod app;
pub mod backoff;
pub mod blobs;
pub mod brake;
pub mod clock;
pub mod closed;
pub mod config;
pub mod console;
pub mod db;
pub mod deadlines;
pub mod descriptors;
pub mod dreams;
pub mod engine;
pub mod error;
mod folder;
pub mod gate;
pub mod git;
mod hex;
pub mod http;
pub mod hub;
pub mod images;
pub mod json_size;
pub mod limits;
pub mod live;
pub mod mcp;
pub mod model;
pub mod mounts;
pub mod ops;
pub mod outgoing;
pub mod packages;
pub mod page;
mod places;
pub mod random;
pub mod renewals;
pub mod request;
pub mod resources;
pub mod retention;
mod retry_after;
pub mod room;
pub mod sandboxes;
pub mod scheduler;
pub mod scrape;
pub mod shares;
pub mod silence;
pub mod sweep;
pub mod telemetry;
pub mod tick;
pub mod tls;
pub mod traces;
pub mod vault;
pub mod web;
pub mod webhooks;

use std::{fs::File, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use ::http::HeaderValue;
use rota_sandbox::Embedded;
use tokio::time::timeout;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    app::{App, Inner},
    blobs::Blobs,
    brake::Brake,
    clock::Clock,
    config::{Config, DatabaseUrl, Role},
    db::{Db, Writer},
    error::{Error, Result},
    gate::{Gate, WEB_PORTS},
    hub::Hub,
    images::Images,
    live::{Live, Settings},
    model::Offer,
    packages::{Packages, Parts},
    request::{Intake, sign_in::SignIns},
    resources::{
        api_keys::{self, CreatedKey},
        credentials, organization, webhook_endpoints, workspaces,
    },
    sandboxes::Sandboxes,
    scrape::Scrape,
    shares::Shares,
    traces::Traces,
    vault::Vault,
};

/// A running server.
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    /// Where the metrics are, when they have an address of their own.
    pub metrics_address: Option<SocketAddr>,
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
    let offer = Offer::new(&config.models)?;
    serve_offer(offer, config, clock).await
}

/// The same with the models of `offer`: for a program that brings models of its own.
///
/// # Errors
/// The same.
pub async fn serve_offer(offer: Offer, config: Config, clock: Clock) -> Result<Server> {
    config.check()?;
    config.check_machine()?;
    let lock = folder::lock(&config.data).await?;
    folder::check_store(&config).await?;
    let metrics_key = config.metrics.key_env.as_deref().map(metrics_key).transpose()?;
    let (listener, address) = http::bind(&config.listen).await?;
    let metrics_listener = match &config.metrics.listen {
        Some(own) => Some(http::bind(own).await?),
        None => None,
    };
    let hub = Arc::new(Hub::default());
    let publish = {
        let hub = hub.clone();
        Box::new(move |notice: &db::Notice| hub.publish(notice))
    };
    let (db, writer) = open(&config, clock.clone(), publish).await?;
    if let Some(url) = &config.database {
        folder::set_database(&config.data, url)?;
    }
    let vault = Arc::new(Vault::open(&config, &db).await?);
    seal_webhook_secrets(&vault, &db).await?;
    let node = folder::node(&config, &db).await?;
    let (traces, exporter) = Traces::new(&config.telemetry, &clock, &node)?;
    let (own, alone) = (node.clone(), config.database.is_none());
    db.write(move |tx| {
        engine::release_all_of(tx, &own)?;
        dreams::release_all_of(tx, &own)?;
        // Claims of other servers run out by themselves.
        if alone {
            webhooks::release_all(tx)?;
            credentials::refresh::release_all(tx)?;
        }
        Ok(())
    })
    .await?;
    let backend = Embedded::new(sandbox_config(&config, &node)).map_err(Error::internal)?;
    let blobs = Blobs::open(&config, clock.clone())?;
    let images = Images::new(backend.images().clone(), config.sandbox.own_image().cloned());
    if let Some(default) = config.sandbox.own_image().filter(|name| config.runs_sessions() && !images.has(name)) {
        return Err(Error::invalid(format_args!(
            "sandbox.image: there is no image \"{default}\" in the data folder: bring it with `rota images pull` or `rota images \
             import`, or leave the key out to use the programs of this machine"
        )));
    }
    let sandboxes = Sandboxes::new(backend.clone(), config.sandbox.places);
    let stop = CancellationToken::new();
    let own_ports = [Some(address.port()), metrics_listener.as_ref().map(|(_, own)| own.port())];
    let own_ports = own_ports.into_iter().flatten().collect();
    let connections = descriptors::for_egress();
    let (gate, egress_log) =
        Gate::new(&config.network, own_ports, connections, (db.clone(), vault.clone()), clock.clone(), stop.clone())?;
    // Last: the key is shown only by this start, so the start must not fail any more.
    let (organization, first_key) = db
        .write(|tx| {
            tx.lock_table("organization")?;
            Ok((organization::id(tx)?, api_keys::first_key(tx)?))
        })
        .await?;
    let secrets = vault.derived("console sign-ins");
    let sign_ins = SignIns::new(&organization, secrets.iter().map(<[u8; 32]>::as_slice));
    let tasks = TaskTracker::new();
    let packages = Packages::new(Parts {
        backend,
        images: images.clone(),
        config: config.packages.clone(),
        root_fs: config.sandbox.root_fs.clone(),
        container_image: config.sandbox.image.clone().filter(|_| config.sandbox.own_image().is_none()),
        has_network: config.network.enabled,
        gate: gate.clone(),
        db: db.clone(),
        clock: clock.clone(),
        node: node.clone(),
        tasks: tasks.clone(),
        stop: stop.clone(),
    });
    let app = App::new(Inner {
        organization_header: HeaderValue::from_str(&organization).map_err(Error::internal)?,
        node,
        traces,
        metrics: telemetry::metrics(),
        scrape: Scrape::new(db.clone(), sandboxes.backend().clone(), tasks.clone(), config.data.clone()),
        metrics_key,
        intake: Intake::default(),
        strangers: Intake::of_strangers(),
        sign_ins,
        git: git::Git::new(&config, tasks.clone()),
        web: web::Web::new(&config)?,
        tasks,
        driving: TaskTracker::new(),
        brake: Brake::default(),
        stop,
        live: Live::new(Settings::new(&config, offer)),
        config,
        clock,
        db,
        vault,
        hub,
        streams: Shares::default(),
        answers: Shares::default(),
        blobs,
        sandboxes,
        images,
        packages,
        gate,
    });
    if app.config.roles.has(Role::Scheduler) {
        app.spawn(tick::run(app.clone()));
        app.spawn(silence::run(app.clone()));
        app.spawn(renewals::run(app.clone()));
        app.spawn(deadlines::run(app.clone()));
        app.spawn(retention::run(app.clone()));
    }
    if app.config.roles.has(Role::Runner) {
        app.spawn(sweep::run(app.clone()));
    }
    app.spawn(app.gate.write_log(egress_log));
    if app.config.runs_sessions() {
        app.spawn(dreams::run(app.clone()));
        app.spawn(tell_of_wrong_upstreams(app.clone()));
        if !app.config.git.hosts.is_empty() {
            app.spawn(tell_of_missing_git());
        }
    }
    if app.config.roles.has(Role::Webhooks) {
        app.spawn(webhooks::run(app.clone()));
    }
    if let Some(exporter) = exporter {
        app.spawn(exporter.run(app.stop.clone()));
    }
    app.spawn(telemetry::upkeep(app.metrics.clone(), app.stop.clone()));
    let metrics_address = metrics_listener.as_ref().map(|(_, address)| *address);
    if let Some((listener, address)) = metrics_listener {
        let router = http::metrics_router(app.clone(), address);
        app.spawn(http::listen(app.clone(), listener, router, limits::MAX_METRICS_CONNECTIONS));
    }
    let connections = descriptors::for_connections(app.config.http.connections);
    app.spawn(http::listen(app.clone(), listener, http::router(app.clone(), address), connections));
    Ok(Server { address, metrics_address, first_key, app, writer, _lock: lock })
}

fn metrics_key(variable: &str) -> Result<String> {
    match std::env::var(variable) {
        Ok(key) if !key.is_empty() => Ok(request::caller::hash(&key)),
        _ => Err(Error::invalid(format_args!("metrics.key_env: the environment variable {variable} is not set"))),
    }
}

/// Seals what an earlier version has left in clear.
async fn seal_webhook_secrets(vault: &Vault, db: &Db) -> Result<()> {
    loop {
        let unsealed = db.read(|tx| webhook_endpoints::unsealed(tx, limits::SEALED_AT_ONCE)).await?;
        if unsealed.is_empty() {
            return Ok(());
        }
        for endpoint in unsealed {
            let key = vault.key(db, &endpoint.workspace).await?;
            db.write(move |tx| webhook_endpoints::seal(tx, &endpoint, &key)).await?;
        }
    }
}

async fn open(config: &Config, clock: Clock, publish: db::Publish) -> Result<(Db, Writer)> {
    match &config.database {
        Some(url) => Db::open_postgres(url, clock, publish).await,
        None => Db::open(&config.data, clock, publish),
    }
}

/// Whether there is a store already, so far as that can be told without opening it.
pub fn has_store(config: &Config) -> bool {
    config.database.is_some() || config.data.join(db::FILE).is_file()
}

/// Opens the store of a configuration beside the servers that may be using it: for the command line.
///
/// # Errors
/// When there is no such store yet, or it cannot be opened.
pub async fn open_store(config: &Config) -> Result<(Db, Writer)> {
    if config.database.is_none() && !config.data.join(db::FILE).is_file() {
        folder::check_without_database(&config.data)?;
        return Err(Error::invalid(format_args!(
            "{} has no store; `rota serve --data` makes it",
            config.data.display()
        )));
    }
    let (db, writer) = open_or_begin_store(config).await?;
    if !db.read(workspaces::exist).await? {
        return Err(Error::invalid("the store is empty; `rota serve` begins it"));
    }
    Ok((db, writer))
}

/// The same, and makes the store when there is none.
///
/// # Errors
/// When it would be in a data folder that does not exist, or cannot be opened.
pub async fn open_or_begin_store(config: &Config) -> Result<(Db, Writer)> {
    if config.database.is_none() && !config.data.is_dir() {
        let data = config.data.display();
        return Err(Error::invalid(format_args!("{data} is not a folder; `rota serve --data` makes it")));
    }
    folder::check_store(config).await?;
    open(config, Clock::System, Box::new(|_| {})).await
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
    /// Takes what of a configuration may change while the server runs; the rest needs a restart.
    ///
    /// # Errors
    /// When a model of it cannot be offered; then nothing is changed.
    pub fn reload(&self, config: &Config) -> Result<()> {
        self.app.live.reload(config)?;
        if config.runs_sessions() {
            self.app.spawn(tell_of_wrong_upstreams(self.app.clone()));
        }
        Ok(())
    }

    /// Begins nothing more for sessions and waits until what is under way for them has ended, for as long as `[engine]
    /// drain_seconds` says. Requests are answered meanwhile. A session that is left then goes on elsewhere, or after a start, as
    /// if nothing had happened; of a call that takes longer the outcome is unknown.
    pub async fn drain(&self) {
        self.app.brake.drain();
        self.app.driving.close();
        let patience = Duration::from_secs(self.app.settings().drain_seconds);
        if timeout(patience, self.app.driving.wait()).await.is_err() {
            tracing::warn!(
                sessions = self.app.driving.len(),
                "calls or requests to models were still under way: they are cut off"
            );
        }
    }

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
        close(writer).await;
    }

    /// An address of the console that signs a browser on this machine in, once and for a while; the one before it does no longer.
    /// `None` where other machines reach the server too, and where it has no console.
    ///
    /// # Errors
    /// When the machine gives no random bytes.
    pub fn console_address(&self) -> Result<Option<String>> {
        if !self.address.ip().is_loopback() || !self.app.config.roles.has(Role::Api) {
            return Ok(None);
        }
        let word = self.app.sign_ins.new_word(self.app.clock.now())?;
        Ok(Some(format!("http://{}{}#sign-in={word}", self.address, console::PATH)))
    }

    /// The server's state, for tests that look inside.
    pub fn app(&self) -> &App {
        &self.app
    }
}

/// Waits until what was written is all in its place. The store must not be in use by then.
pub async fn close(writer: Writer) {
    // A task that does not end has the store open; what was answered is on the disk all the same.
    let closing = tokio::task::spawn_blocking(move || writer.join());
    if timeout(limits::STOP_GRACE, closing).await.is_err() {
        tracing::warn!("something still used the store when the server stopped");
    }
}

fn sandbox_config(config: &Config, node: &str) -> rota_sandbox::Config {
    const MIB: u64 = 1024 * 1024;
    let settings = &config.sandbox;
    let mut sandbox = rota_sandbox::Config::new(&config.data);
    sandbox.root_fs.clone_from(&settings.root_fs);
    sandbox.init_program.clone_from(&settings.init_program);
    sandbox.gate_ports = gate_ports(config);
    sandbox.containers = settings.containers(node);
    sandbox.limits.memory_bytes = settings.memory_mib * MIB;
    sandbox.limits.pids = u64::from(settings.processes);
    sandbox.limits.cpus = settings.cpus;
    sandbox.limits.disk_bytes = settings.disk_mib * MIB;
    sandbox
}

/// Says once that repositories cannot be cloned on this machine. The start does not wait for it.
async fn tell_of_missing_git() {
    if let git::Probe::Missing(missing) = git::probe().await {
        tracing::warn!("sessions that mount a repository go on without it: {missing}");
    }
}

/// Looks once at the upstreams of models, and says what is wrong with their settings. The start does not wait for it.
async fn tell_of_wrong_upstreams(app: App) {
    let offer = app.offer();
    tokio::select! {
        looked = offer.look() => {
            for upstream in looked {
                if let Some(wrong) = upstream.wrong {
                    tracing::warn!(models = upstream.models.join(", "), base_url = upstream.base_url, "[[models]] {wrong}");
                }
            }
        }
        () = app.stopping() => {}
    }
}

/// The TCP ports of the gate, where sandboxes have a network.
pub fn gate_ports(config: &Config) -> Option<Vec<u16>> {
    config.network.enabled.then(|| WEB_PORTS.into_iter().chain(config.network.ports.iter().copied()).collect())
}
