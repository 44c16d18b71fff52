//! A server for one test.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rota_api::Time;
use rota_server::{
    Server,
    clock::Clock,
    config::{Config, Role},
    model::Offer,
};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use crate::{client::Api, database::Database};

/// When the fixed clock of a test starts: a Monday morning.
pub const START: &str = "2026-03-02T08:00:00Z";

/// The file of the data folder that has the key of the vaults.
pub const VAULT_KEY: &str = "vault.key";

/// How long a test waits for something before it fails.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A running server over a folder of its own.
pub struct Rota {
    /// A client with the first key.
    pub api: Api,
    /// The time as the server sees it.
    pub clock: Clock,
    /// The server.
    pub server: Server,
    config: Config,
    folder: TempDir,
    // After the server, which uses it.
    database: Option<Arc<Database>>,
}

/// The settings of sandboxes in containers, where the tests are to use some: `tests/with-containers`.
pub fn containers() -> Option<String> {
    let text = std::env::var("ROTA_TEST_CONTAINERS").ok()?;
    let parts: Vec<&str> = text.splitn(3, '=').collect();
    let [backend, socket, image] = parts[..] else { panic!("ROTA_TEST_CONTAINERS: {text}") };
    Some(format!("[sandbox]\nbackend = \"{backend}\"\nsocket = \"{socket}\"\nimage = \"{image}\"\n"))
}

impl Rota {
    /// A server that runs sessions, at a time that only the test moves. Its scheduler looks when [`Rota::tick`] says so.
    pub async fn start() -> Self {
        Self::with(|_| {}).await
    }

    /// The same, but it runs no sessions: they stay as they were created.
    pub async fn without_engine() -> Self {
        Self::with(|config| config.engine.concurrency = 0).await
    }

    /// The same, and a workspace creates at most one session a minute.
    pub async fn one_session_a_minute() -> Self {
        Self::with(|config| {
            config.engine.concurrency = 0;
            config.rate.sessions_per_minute = 1;
        })
        .await
    }

    /// A server that sends webhooks also to the machine that it runs on, configured by `configure`.
    pub async fn receiving(configure: impl FnOnce(&mut Config)) -> Self {
        Self::with(|config| {
            config.webhooks.allow_private = true;
            configure(config);
        })
        .await
    }

    /// The same as [`Rota::start`], configured by `configure`.
    pub async fn with(configure: impl FnOnce(&mut Config)) -> Self {
        Self::offering(|offer| offer, configure).await
    }

    /// The same, with the models that `add` makes of those that are configured.
    pub async fn offering(add: impl FnOnce(Offer) -> Offer, configure: impl FnOnce(&mut Config)) -> Self {
        Self::begin(Clock::fixed(START.parse::<Time>().unwrap()), add, configure).await
    }

    /// The same as [`Rota::with`], at the time of `clock`.
    pub async fn at(clock: Clock, configure: impl FnOnce(&mut Config)) -> Self {
        Self::begin(clock, |offer| offer, configure).await
    }

    async fn begin(clock: Clock, add: impl FnOnce(Offer) -> Offer, configure: impl FnOnce(&mut Config)) -> Self {
        let folder = TempDir::new().unwrap();
        let mut config =
            Config { data: folder.path().to_owned(), listen: "127.0.0.1:0".to_owned(), ..Config::default() };
        config.roles = [Role::Api, Role::Runner, Role::Webhooks].into_iter().collect();
        let database = Database::create().map(Arc::new);
        config.database = database.as_ref().map(|database| database.url());
        if let Some(containers) = containers() {
            config.sandbox = Config::from_text(&containers).unwrap().sandbox;
        }
        configure(&mut config);
        let offer = add(Offer::new(&config.models).unwrap());
        let server = rota_server::serve_offer(offer, config.clone(), clock.clone()).await.unwrap();
        let key = server.first_key.as_ref().unwrap().key.clone();
        let api = Api::new(server.address, key, clock.clone());
        Self { api, clock, server, config, folder, database }
    }

    /// Another server on the same database and at the same time, with a folder of its own. `None` on SQLite, which has one
    /// server.
    pub async fn beside(&self, configure: impl FnOnce(&mut Config)) -> Option<Self> {
        let database = self.database.clone()?;
        let folder = TempDir::new().unwrap();
        let mut config = Config { data: folder.path().to_owned(), ..self.config.clone() };
        config.vault.key_file.get_or_insert_with(|| self.config.data.join(VAULT_KEY));
        configure(&mut config);
        let clock = self.clock.clone();
        let server = rota_server::serve(config.clone(), clock.clone()).await.unwrap();
        let api = self.api.clone().at(server.address);
        Some(Self { api, clock, server, config, folder, database: Some(database) })
    }

    /// The database of the server. `None` on SQLite.
    pub fn database(&self) -> Option<&Database> {
        self.database.as_deref()
    }

    /// Stops the server and starts another one over the same folder, configured anew by `configure`.
    pub async fn restart_with(self, configure: impl FnOnce(&mut Config)) -> Self {
        self.restart_after(async {}, configure).await
    }

    /// The same, with something to do while no server runs.
    pub async fn restart_after(self, meanwhile: impl Future<Output = ()>, configure: impl FnOnce(&mut Config)) -> Self {
        let Self { api, clock, server, mut config, folder, database } = self;
        server.stop().await;
        meanwhile.await;
        configure(&mut config);
        let server = rota_server::serve(config.clone(), clock.clone()).await.unwrap();
        let api = api.at(server.address);
        Self { api, clock, server, config, folder, database }
    }

    /// Stops the server and starts another one over the same folder.
    pub async fn restart(self) -> Self {
        self.restart_with(|_| {}).await
    }

    /// Sets the clock, forward or back.
    pub fn set_time(&self, time: &str) {
        let time: Time = time.parse().unwrap();
        self.clock.advance_micros(time.micros() - self.clock.now().micros());
    }

    /// Lets the scheduler look at what is due, once.
    pub async fn tick(&self) {
        rota_server::tick::fire_due(self.server.app()).await.unwrap();
    }

    /// Meets the deadlines of sessions that are due, once.
    pub async fn meet_deadlines(&self) {
        rota_server::deadlines::meet_all(self.server.app()).await.unwrap();
    }

    /// Looks once for deployments that have gone silent.
    pub async fn look_for_silence(&self) {
        rota_server::silence::look(self.server.app()).await.unwrap();
    }

    /// Moves the clock.
    pub fn advance_seconds(&self, seconds: i64) {
        self.clock.advance_micros(seconds * 1_000_000);
    }

    /// The file `name` in the workspace of a session, seen from outside its sandbox.
    pub fn workspace_file(&self, session: &str, name: &str) -> PathBuf {
        let backend = self.server.app().sandboxes.backend();
        backend.session_dir(session).unwrap().join("workspace").join(name)
    }

    /// Renews the tokens that are due, once.
    pub async fn renew(&self) {
        rota_server::renewals::renew_due(self.server.app()).await.unwrap();
    }

    /// A client with an administrator's key.
    pub async fn administrator(&self) -> Api {
        let create = |tx: &mut rota_server::db::Tx<'_>| {
            rota_server::resources::api_keys::create_admin_key(tx, "an administrator's key", None)
        };
        self.api.with_key(self.server.app().db.write(create).await.unwrap().key)
    }

    /// A client of another workspace.
    pub async fn other_workspace(&self) -> Api {
        let create = |tx: &mut rota_server::db::Tx<'_>| {
            rota_server::resources::api_keys::create_key(tx, Some("Other"), "a key of another workspace", None)
        };
        self.api.with_key(self.server.app().db.write(create).await.unwrap().key)
    }
}

/// Returns when the file `path` is there: what a script inside a sandbox makes to say how far it is.
pub async fn appears(path: PathBuf) {
    becomes(path, true).await;
}

/// Returns when the file `path` is gone.
pub async fn disappears(path: PathBuf) {
    becomes(path, false).await;
}

async fn becomes(path: PathBuf, there: bool) {
    let looking = async {
        while path.exists() != there {
            sleep(Duration::from_millis(10)).await;
        }
    };
    let patience = timeout(PATIENCE, looking).await;
    patience.unwrap_or_else(|_| panic!("that {} exists does not become {there}", path.display()));
}

/// The record of a session's sandbox, which is there while that runs. `workspace` is the folder of its files.
pub fn record(workspace: &Path, session: &str) -> PathBuf {
    workspace.ancestors().find(|folder| folder.ends_with("sessions")).unwrap().with_file_name("sandboxes").join(session)
}
