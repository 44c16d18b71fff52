//! What every handler and worker shares.

use std::{future::Future, ops::Deref, sync::Arc};

use http::HeaderValue;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    blobs::Blobs,
    brake::Brake,
    clock::Clock,
    config::{Config, GitConfig},
    db::Db,
    gate::Gate,
    git::Git,
    hub::Hub,
    images::Images,
    live::{Live, Settings},
    model::Offer,
    packages::Packages,
    request::{Intake, sign_in::SignIns},
    sandboxes::Sandboxes,
    scheduler::settle::Timing,
    scrape::Scrape,
    shares::Shares,
    traces::Traces,
    vault::Vault,
    web::Web,
};

/// The server's state. Cheap to clone.
#[derive(Clone)]
pub struct App(Arc<Inner>);

/// What an [`App`] holds.
pub struct Inner {
    /// The configuration.
    pub config: Config,
    /// The time.
    pub clock: Clock,
    /// The store.
    pub db: Db,
    /// The keys under which secrets are sealed.
    pub vault: Arc<Vault>,
    /// Who waits for what.
    pub hub: Arc<Hub>,
    /// Open streams of each workspace.
    pub streams: Shares,
    /// Bytes of large answers of each workspace that have not gone out.
    pub answers: Shares,
    /// What of the configuration may change while the server runs.
    pub live: Live,
    /// The content of files.
    pub blobs: Blobs,
    /// Where tools run.
    pub sandboxes: Sandboxes,
    /// What sandboxes can be made from.
    pub images: Images,
    /// What is installed in them.
    pub packages: Packages,
    /// What clones repositories.
    pub git: Git,
    /// What their network goes through.
    pub gate: Gate,
    /// What answers the web tools.
    pub web: Web,
    /// What is counted.
    pub metrics: PrometheusHandle,
    /// What notes traces.
    pub traces: Traces,
    /// What is measured when that is read.
    pub scrape: Scrape,
    /// The hash of the key with which that is read, where it needs one.
    pub metrics_key: Option<String>,
    /// How bodies come in.
    pub intake: Intake,
    /// How those come in whose senders have no key.
    pub strangers: Intake,
    /// Who has signed in with a browser.
    pub sign_ins: SignIns,
    /// The organization's id, as it stands in every response.
    pub organization_header: HeaderValue,
    /// The name of this server among those on the same store; it stays with the data folder.
    pub node: String,
    /// What runs beside requests.
    pub tasks: TaskTracker,
    /// The sessions that are driven, among them.
    pub driving: TaskTracker,
    /// What keeps them from going on.
    pub brake: Brake,
    /// Set when the server is told to stop.
    pub stop: CancellationToken,
}

/// What the server's configuration says about fires.
#[derive(Clone)]
pub struct FirePolicy {
    /// The models that sessions can run.
    pub offer: Offer,
    /// Sessions that a workspace may create in any minute; 0 is no limit.
    pub sessions_per_minute: u32,
    /// How deployments keep their times.
    pub timing: Timing,
    /// The repositories that sessions can mount.
    pub git: Arc<GitConfig>,
    /// The keys under which their tokens are sealed.
    pub vault: Arc<Vault>,
    /// What their sandboxes can be made from.
    pub images: Images,
}

impl App {
    /// Wraps the state.
    pub fn new(inner: Inner) -> Self {
        Self(Arc::new(inner))
    }

    /// Runs `task` beside the requests. A server that stops waits for it.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    /// Returns when the server is told to stop.
    pub async fn stopping(&self) {
        self.stop.cancelled().await;
    }

    /// Whether the server was told to stop.
    pub fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// The settings of this moment, of those that may change.
    pub fn settings(&self) -> Arc<Settings> {
        self.live.get()
    }

    /// The models on offer at this moment.
    pub fn offer(&self) -> Offer {
        self.settings().offer.clone()
    }

    /// What the configuration says about starting sessions.
    pub fn fire_policy(&self) -> FirePolicy {
        let settings = self.settings();
        FirePolicy {
            offer: settings.offer.clone(),
            sessions_per_minute: settings.sessions_per_minute,
            timing: self.config.scheduler.timing(),
            git: self.git.rules().clone(),
            vault: self.vault.clone(),
            images: self.images.clone(),
        }
    }
}

impl Deref for App {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}
